//! A crash at every file operation: what is left is a prefix of the writes that holds every acked one.
//!
//! A workload is run once. Before each of its file operations the simulated file system is cloned; each clone stands
//! for the power going at that moment. Of each, several crash states are made: nothing unsynced survives, everything,
//! names without bytes, bytes without names, and random mixtures. Each state is opened and checked:
//! * it opens, and the contents are those of some prefix of the writes, between the last one acked as durable and the
//!   last one issued, with batches whole over all keyspaces;
//! * `verify` finds nothing wrong;
//! * a new write wins over every old version, and survives the next crash;
//! * after a flush and a close the directory holds nothing but what the database needs.
//!
//! Some states are crashed once more at every operation of their recovery, and must come up with the same contents.
//! The death of the process alone is checked the same way; then every write handed to the operating system survives.
//!
//! One seed of each workload makes thousands of states. `ESKER_TEST_SCALE=10 cargo test --release --test it crash::`
//! runs ten seeds of each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use esker::Durability::{Async, Buffered, Disabled, Sync};
use esker::fs::sim_fs::{Persist, SimFs};
use esker::{Db, Durability, SizeTiered, WriteOptions};

use crate::support::{
    Contents, DIR, Generator, History, Moment, Op, Rng, Setup, World, difference, read_contents,
    scale,
};

/// A moment before a file operation.
struct CutPoint {
    number: u64,
    /// The file system with everything that was not synced still not synced.
    fs: SimFs,
    moment: Moment,
}

/// A workload that was run, and the moments before each of its operations.
pub(crate) struct Recording {
    setup: Setup,
    history: History,
    cuts: Vec<CutPoint>,
}

fn record(setup: &Setup, ops: &[Op]) -> Recording {
    let fs = SimFs::new();
    Recording::of(World::on_sim(setup, &fs), &fs, ops, |_| {})
}

impl Recording {
    /// Opens the database of `world`, which stands on `fs`, and runs `ops`; `before` is told the index of each.
    pub(crate) fn of(mut world: World, fs: &SimFs, ops: &[Op], before: impl Fn(usize)) -> Self {
        fs.count_reads(false);
        let cuts: Arc<Mutex<Vec<CutPoint>>> = Arc::default();
        let (sink, history) = (Arc::clone(&cuts), Arc::clone(&world.history));
        fs.on_operation(move |fs, number| {
            let moment = history.lock().unwrap().moment.clone();
            sink.lock().unwrap().push(CutPoint { number, fs: fs.kill_clone(), moment });
        });
        world.open().unwrap();
        for (index, op) in ops.iter().enumerate() {
            before(index);
            world.run(op).unwrap_or_else(|error| panic!("{op:?}: {error}"));
        }
        // Not closed: the end of the workload is the last cut. Closing is a workload of its own.
        let last = CutPoint { number: fs.op_count(), fs: fs.kill_clone(), moment: world.moment() };
        let history = world.history.lock().unwrap().clone();
        fs.on_operation(|_, _| {});
        let mut cuts = std::mem::take(&mut *cuts.lock().unwrap());
        cuts.push(last);
        Recording { setup: world.setup.clone(), history, cuts }
    }

    /// The first crash state that is wrong.
    pub(crate) fn first_violation(&self, random_count: u64) -> Option<String> {
        for cut in &self.cuts {
            for persist in persists(cut.number, random_count) {
                let fs = cut.fs.crash_clone(persist);
                if let Err(what) = check_state(self, &fs, cut.moment.synced, &cut.moment) {
                    return Some(format!("at operation {} with {persist:?}: {what}", cut.number));
                }
            }
        }
        None
    }
}

/// Opens a crash state and checks all that the module text says. Returns the contents found at first.
fn check_state(
    recording: &Recording,
    fs: &SimFs,
    least: usize,
    moment: &Moment,
) -> Result<Contents, String> {
    let setup = &recording.setup;
    let db = setup.open_sim(fs).map_err(|error| format!("open: {error}"))?;
    let found = read_contents(&db).map_err(|error| format!("read: {error}"))?;
    recording.history.find_prefix(&found, least, moment)?;
    check_verified(&db)?;
    check_next_write(setup, fs, &db, &found)?;
    db.flush().map_err(|error| format!("flush: {error}"))?;
    let table_count: u64 = {
        let metrics = db.metrics();
        metrics
            .keyspaces
            .iter()
            .flat_map(|keyspace| &keyspace.levels)
            .map(|level| level.tables)
            .sum()
    };
    db.close().map_err(|error| format!("close: {error}"))?;
    check_no_waste(fs, table_count)?;
    Ok(found)
}

fn check_verified(db: &Db) -> Result<(), String> {
    let report = db.verify().map_err(|error| format!("verify: {error}"))?;
    if report.is_ok() { Ok(()) } else { Err(format!("verify: {:?}", report.problems)) }
}

/// Overwrites some keys, crashes, and looks whether the new values are there.
fn check_next_write(setup: &Setup, fs: &SimFs, db: &Db, found: &Contents) -> Result<(), String> {
    let mut expected = found.clone();
    let keys: Vec<_> = found[&0].keys().take(2).cloned().collect();
    for key in keys.iter().chain([&b"a new key".to_vec()]) {
        db.put_with(key, b"new", &WriteOptions::SYNC)
            .map_err(|error| format!("next write: {error}"))?;
        let got = db.get(key).map_err(|error| format!("get: {error}"))?;
        if got.as_deref() != Some(b"new") {
            return Err(format!("the next write of {} is not seen", key.escape_ascii()));
        }
        expected.get_mut(&0).unwrap().insert(key.clone(), b"new".to_vec());
    }
    let after = setup.open_sim(&fs.crash_clone(Persist::Nothing));
    let after = after.map_err(|error| format!("open after the next write: {error}"))?;
    let found =
        read_contents(&after).map_err(|error| format!("read after the next write: {error}"))?;
    if found != expected {
        return Err(format!("after the next write and a crash: {}", difference(&expected, &found)));
    }
    Ok(())
}

/// After a flush and a close only these are left: the lock, `CURRENT`, its manifest, and the tables.
fn check_no_waste(fs: &SimFs, table_count: u64) -> Result<(), String> {
    let names = fs.list_dir(DIR);
    let count = |part: &str| names.iter().filter(|name| name.contains(part)).count() as u64;
    let is_clean = count("MANIFEST-") == 1
        && count(".wal") == 0
        && count(".table") == table_count
        && names.len() as u64 == 3 + table_count;
    if is_clean {
        Ok(())
    } else {
        Err(format!("{table_count} tables, but the directory holds {names:?}"))
    }
}

/// The crash states made at each cut.
fn persists(seed: u64, random_count: u64) -> Vec<Persist> {
    let mut list =
        vec![Persist::Nothing, Persist::Everything, Persist::NamesOnly, Persist::BytesOnly];
    let percents = [50, 10, 90, 30, 70];
    list.extend((0..random_count).map(|index| Persist::Random {
        percent: percents[index as usize % percents.len()],
        seed: seed.wrapping_mul(1000) + index,
    }));
    list
}

/// Crashes the workload everywhere.
fn crash_everywhere(name: &str, setup: &Setup, ops: &[Op], seed: u64) {
    let states = check_cuts(name, &record(setup, ops), seed);
    assert!(states > 50, "{name} makes only {states} crash states");
}

/// Checks several crash states at each cut; gives their number.
fn check_cuts(name: &str, recording: &Recording, seed: u64) -> u64 {
    let (mut states, mut failures) = (0u64, Vec::new());
    for cut in &recording.cuts {
        for persist in persists(seed ^ cut.number, 2) {
            let fs = cut.fs.crash_clone(persist);
            states += 1;
            if let Err(what) = check_state(recording, &fs, cut.moment.synced, &cut.moment) {
                failures.push(format!("at operation {} with {persist:?}: {what}", cut.number));
            }
        }
        states += 1;
        if let Err(what) = check_state(recording, &cut.fs, cut.moment.logged, &cut.moment) {
            failures.push(format!("killed at operation {}: {what}", cut.number));
        }
    }
    assert!(
        failures.is_empty(),
        "{name}, seed {seed}: {} of {states} crash states are wrong; the first:\n{}",
        failures.len(),
        failures[..failures.len().min(5)].join("\n")
    );
    states
}

/// Runs `workload` with one seed, or more at a larger scale.
fn for_seeds(name: &str, setup: &Setup, workload: impl Fn(u64) -> Vec<Op>) {
    for seed in 0..scale() {
        crash_everywhere(name, setup, &workload(seed), seed);
    }
}

fn tiny_memtables() -> Setup {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 4 << 10;
    setup.keyspace.table_bytes = 4 << 10;
    setup
}

fn with_keyspaces(mut ops: Vec<Op>) -> Vec<Op> {
    ops.splice(0..0, [Op::Create(1), Op::Create(2)]);
    ops
}

#[test]
fn sync_puts() {
    for_seeds("sync puts", &Setup::small(), |seed| Generator::new(seed, 1, &[Sync]).writes(40));
}

#[test]
fn buffered_puts_with_a_sync_now_and_then() {
    for_seeds("buffered puts", &Setup::small(), |seed| {
        let mut generator = Generator::new(seed, 1, &[Buffered]);
        let mut ops = Vec::new();
        for _ in 0..5 {
            ops.extend(generator.writes(12));
            ops.push(Op::Sync);
        }
        ops
    });
}

#[test]
fn mixed_durabilities_in_batches_over_keyspaces() {
    for_seeds("mixed durabilities", &Setup::small(), |seed| {
        with_keyspaces(Generator::new(seed, 3, &[Sync, Buffered, Buffered, Async]).writes(60))
    });
}

#[test]
fn flush_and_compaction() {
    for_seeds("flush and compaction", &tiny_memtables(), |seed| {
        let mut ops = Generator::new(seed, 1, &[Sync, Buffered, Buffered, Buffered]).writes(160);
        ops.push(Op::Compact(0));
        ops.extend(Generator::new(seed + 1000, 1, &[Buffered]).writes(20));
        ops
    });
}

/// A merge of everything in a tiered tree, which is installed in slices: only its own operations are crashed at.
#[test]
fn a_merge_in_slices() {
    let mut setup = tiny_memtables();
    setup.keyspace.compaction = SizeTiered { merge_width: 4, ..SizeTiered::default() }.into();
    for seed in 0..scale() {
        let mut generator = Generator::new(seed, 1, &[Buffered]);
        (generator.keys, generator.value_bytes) = (400, 300);
        let mut ops = generator.writes(300);
        ops.push(Op::Flush);
        ops.push(Op::Compact(0));
        let fs = SimFs::new();
        let (first, last_op) = (AtomicU64::new(0), ops.len() - 1);
        let mut recording = Recording::of(World::on_sim(&setup, &fs), &fs, &ops, |index| {
            if index == last_op {
                first.store(fs.op_count(), Ordering::Relaxed);
            }
        });
        recording.cuts.retain(|cut| cut.number >= first.load(Ordering::Relaxed));
        // That it was sliced shows in its inputs, which go at several moments and not all at the end.
        let tables = |cut: &CutPoint| -> Vec<String> {
            cut.fs.list_dir(DIR).into_iter().filter(|name| name.contains(".table")).collect()
        };
        let inputs = tables(&recording.cuts[0]);
        let mut left: Vec<usize> = recording
            .cuts
            .iter()
            .map(|cut| tables(cut).iter().filter(|name| inputs.contains(name)).count())
            .collect();
        left.dedup();
        assert!(left.len() > 4, "{} inputs, then {left:?}", inputs.len());
        check_cuts("a merge in slices", &recording, seed);
    }
}

#[test]
fn keyspaces_flushed_apart() {
    for_seeds("keyspaces flushed apart", &tiny_memtables(), |seed| {
        let mut generator = Generator::new(seed, 3, &[Sync, Buffered, Buffered, Buffered]);
        let mut ops = generator.writes(60);
        ops.push(Op::Compact(1));
        ops.extend(generator.writes(30));
        ops.push(Op::Compact(0));
        with_keyspaces(ops)
    });
}

#[test]
fn keyspaces_created_and_dropped() {
    for_seeds("create and drop", &tiny_memtables(), |seed| {
        let mut generator = Generator::new(seed, 3, &[Sync, Buffered, Buffered]);
        let mut ops = Vec::new();
        for round in 0..4 {
            ops.extend([Op::Create(1), Op::Create(2)]);
            ops.extend(generator.writes(12));
            if round % 2 == 1 {
                ops.push(Op::Flush);
            }
            ops.push(Op::Drop(1 + round % 2));
            ops.extend(generator.writes(4));
        }
        ops
    });
}

#[test]
fn close_and_reopen() {
    for_seeds("close and reopen", &tiny_memtables(), |seed| {
        let mut generator = Generator::new(seed, 2, &[Sync, Buffered, Buffered]);
        let mut ops = vec![Op::Create(1)];
        for count in [3, 20, 40, 0, 1] {
            ops.extend(generator.writes(count));
            ops.push(Op::Reopen);
        }
        ops
    });
}

#[test]
fn disabled_writes_and_flush() {
    for_seeds("disabled writes", &tiny_memtables(), |seed| {
        let mut generator = Generator::new(seed, 1, &[Disabled]);
        let mut ops = Vec::new();
        for _ in 0..4 {
            ops.extend(generator.writes(15));
            ops.push(Op::Flush);
        }
        ops.push(Op::Reopen);
        ops.extend(generator.writes(10));
        ops
    });
}

#[test]
fn long_logs_over_many_segments() {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 96 << 10;
    for_seeds("long logs", &setup, |seed| {
        let mut generator = Generator::new(seed, 2, &[Buffered, Buffered, Buffered, Sync]);
        generator.value_bytes = 4000;
        let mut ops = vec![Op::Create(1)];
        ops.extend(generator.writes(80));
        ops
    });
}

/// A crash in the recovery of a crash, at every operation of it: the contents must be the same.
#[test]
fn crash_within_recovery() {
    let setup = tiny_memtables();
    for seed in 0..scale() {
        let mut generator = Generator::new(seed, 2, &[Sync, Buffered, Buffered] as &[Durability]);
        let mut ops = vec![Op::Create(1)];
        ops.extend(generator.writes(50));
        ops.push(Op::Reopen);
        ops.extend(generator.writes(10));
        let recording = record(&setup, &ops);
        let mut rng = Rng::new(seed);
        for cut in recording.cuts.iter().filter(|_| rng.percent(12)) {
            for persist in [Persist::Nothing, Persist::Random { percent: 50, seed: cut.number }] {
                let outer = cut.fs.crash_clone(persist);
                crash_recovery_of(&recording, cut, &outer);
            }
        }
    }
}

fn crash_recovery_of(recording: &Recording, cut: &CutPoint, outer: &SimFs) {
    let inner_cuts: Arc<Mutex<Vec<SimFs>>> = Arc::default();
    let sink = Arc::clone(&inner_cuts);
    let fs = outer.kill_clone();
    fs.on_operation(move |fs, _| sink.lock().unwrap().push(fs.kill_clone()));
    let db = recording.setup.open_sim(&fs).unwrap();
    fs.on_operation(|_, _| {});
    let expected = read_contents(&db).unwrap();
    drop(db);
    let inner_cuts = std::mem::take(&mut *inner_cuts.lock().unwrap());
    for (number, inner) in inner_cuts.iter().enumerate() {
        for persist in [
            Persist::Nothing,
            Persist::NamesOnly,
            Persist::Random { percent: 50, seed: number as u64 },
        ] {
            let fs = inner.crash_clone(persist);
            let found = check_state(recording, &fs, cut.moment.synced, &cut.moment);
            let place =
                || format!("operation {}, then {number} of recovery, {persist:?}", cut.number);
            let found = found.unwrap_or_else(|what| panic!("{}: {what}", place()));
            assert!(found == expected, "{}: {}", place(), difference(&expected, &found));
        }
    }
}

/// Recovery removed a replayed segment that nothing needed, and gave it to the log for recycling all the same; the
/// first write then failed to rename it.
#[test]
fn a_replayed_segment_that_was_removed_is_not_recycled() {
    let (setup, fs) = (Setup::small(), SimFs::new());
    let db = setup.open_sim(&fs).unwrap();
    db.put("k", "v").unwrap();
    db.flush().unwrap();
    let db = setup.open_sim(&fs.kill_clone()).unwrap();
    db.put("k", "w").unwrap();
    assert_eq!(db.get("k").unwrap().as_deref(), Some(&b"w"[..]));
}

/// `verify` called the torn tail, which stays in a replayed segment until that is flushed, damage.
#[test]
fn a_tail_torn_by_a_crash_is_no_damage_to_verify() {
    let (setup, fs) = (Setup::small(), SimFs::new());
    let db = setup.open_sim(&fs).unwrap();
    db.put_with("k", "v", &WriteOptions::SYNC).unwrap();
    db.put("torn", "w").unwrap();
    let fs = fs.kill_clone();
    let bytes = fs.read_file("/db/000001.wal").unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    fs.flip("/db/000001.wal", last as u64, 0xff).unwrap();
    let db = setup.open_sim(&fs).unwrap();
    assert!(db.get("k").unwrap().is_some() && db.get("torn").unwrap().is_none());
    check_verified(&db).unwrap();
    // What the writer itself appended is never a torn tail.
    db.put("next", "x").unwrap();
    let bytes = fs.read_file("/db/000002.wal").unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    fs.flip("/db/000002.wal", last as u64, 0xff).unwrap();
    assert!(!db.verify().unwrap().is_ok());
}
