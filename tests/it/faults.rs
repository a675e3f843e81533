//! Failing operations: nothing that was acked is lost, and nothing is made up.
//!
//! A workload is run again and again; each time another file operation fails, once or for ever, with `EIO` or `ENOSPC`,
//! until a run meets no failure. Every call either succeeds truly or returns an error that names a path. A failed write
//! or sync of the log or the manifest poisons writing, for good, and reads go on. Afterwards the device is well again,
//! and the reopened database must hold a prefix of the writes that has every acked one. The same with failing reads and
//! full disks.

mod sweep;
use std::path::Path;
use std::sync::Arc;

use esker::Durability::{Buffered, Sync};
use esker::fs::sim_fs::{Persist, Repeat, SimFs};
use esker::{Db, Error, ErrorKind, Verify};

use crate::support::{Contents, Generator, Op, Setup, World, difference, read_contents};
use crate::trust;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn setup() -> Setup {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 4 << 10;
    setup.keyspace.table_bytes = 4 << 10;
    setup
}

/// Writes, flushes, compactions, keyspaces and a reopen: every kind of file operation.
fn workload(seed: u64) -> Vec<Op> {
    let mut generator = Generator::new(seed, 2, &[Sync, Buffered, Buffered]);
    let mut ops = vec![Op::Create(1)];
    ops.extend(generator.writes(50));
    ops.extend([Op::Flush, Op::Compact(0), Op::Reopen]);
    ops.extend(generator.writes(30));
    ops.extend([Op::Drop(1), Op::Sync, Op::Flush]);
    ops
}

/// An error must say where it happened, and not be one that blames the caller or the data.
fn check_error(error: &Error) {
    assert!(error.path().is_some(), "an error without a path: {error:?}");
    assert!(
        matches!(error.kind(), ErrorKind::Io | ErrorKind::Poisoned),
        "an injected fault must not look like {error:?}"
    );
}

/// Runs `ops` on a device that fails, and checks all along what the module text says. Returns the world.
fn run_with_faults(world: &mut World, ops: &[Op]) {
    let mut poisoned = false;
    if let Err(error) = world.open() {
        check_error(&error);
        return;
    }
    for op in ops {
        let result = match op {
            Op::Reopen => {
                reopen(world, &mut poisoned);
                Ok(())
            }
            op => world.run(op),
        };
        if world.db.is_none() {
            return;
        }
        let Err(error) = result else {
            let is_change = !matches!(op, Op::Reopen | Op::Sync | Op::Compact(_) | Op::Flush);
            assert!(
                !(poisoned && is_change && is_effective(world, op)),
                "{op:?} on a poisoned database"
            );
            continue;
        };
        check_error(&error);
        if error.kind() == ErrorKind::Poisoned {
            poisoned = true;
        }
        assert!(!poisoned || error.kind() == ErrorKind::Poisoned, "after poison: {error:?}");
    }
}

/// Whether `op` changes anything: writes to keyspaces that do not exist, and their removal, do not.
fn is_effective(world: &World, op: &Op) -> bool {
    let alive = world.moment().alive;
    match op {
        Op::Write(_, parts) => parts.iter().any(|part| alive.contains_key(&part.0)),
        _ => false,
    }
}

/// Closes and opens. A failed close promises nothing new; what is found then is what goes on.
fn reopen(world: &mut World, poisoned: &mut bool) {
    let closed = world.close();
    if let Err(error) = &closed {
        check_error(error);
    }
    let moment = world.moment();
    if let Err(error) = world.open() {
        check_error(&error);
        return;
    }
    *poisoned = false;
    let Ok(found) = read_contents(world.db()) else {
        // The device fails for ever.
        world.db = None;
        return;
    };
    settle(world, &found, moment.logged);
}

/// The history goes on from what was found, which must be right.
fn settle(world: &World, found: &Contents, least: usize) {
    let prefix = {
        let history = world.history.lock().unwrap();
        history.find_prefix(found, least, &history.moment)
    };
    let count = prefix.unwrap_or_else(|what| panic!("after reopening: {what}"));
    world.truncate(count, found);
}

/// Ends the life of the database, heals the device and looks at what is there.
fn check_after_healing(mut world: World, fs: &SimFs) {
    world.db = None;
    fs.clear_faults();
    fs.set_capacity_bytes(None);
    // What the process handed to the operating system is still there, and a power cut takes no more than it may.
    let history = world.history.lock().unwrap().clone();
    let moment = &history.moment;
    for (fs, least) in [
        (fs.kill_clone(), moment.logged),
        (fs.crash_clone(Persist::Nothing), moment.synced),
        (fs.crash_clone(Persist::Random { percent: 50, seed: fs.op_count() }), moment.synced),
    ] {
        let db = world.setup.open_sim(&fs).unwrap_or_else(|error| panic!("healed: {error}"));
        let found = read_contents(&db).unwrap();
        history.find_prefix(&found, least, moment).unwrap_or_else(|what| panic!("healed: {what}"));
        let report = db.verify().unwrap();
        assert!(report.is_ok(), "healed: {report:?}");
        db.put("after", "all is well").unwrap();
        db.close().unwrap();
    }
}

/// Runs the workload with the fault at each operation in turn.
fn fail_everywhere(errno: i32, repeat: Repeat, step: u64) {
    for seed in 0..trust::cases(1, 1, 10) {
        let ops = workload(seed);
        let mut number = 0;
        loop {
            let fs = SimFs::new();
            fs.count_reads(false);
            fs.trace_operations(true);
            fs.fail_at(number, errno, repeat);
            let mut world = World::on_sim(&setup(), &fs);
            let mut place = Place { seed, number, errno, fs: fs.clone(), is_passed: false };
            run_with_faults(&mut world, &ops);
            let was_hit = fs.counters().failures > 0;
            check_after_healing(world, &fs);
            place.is_passed = true;
            if !was_hit {
                assert!(number > 100, "the workload has only {number} operations");
                break;
            }
            number += step;
        }
    }
}

/// Says where the fault was, if the test fails.
struct Place {
    seed: u64,
    number: u64,
    errno: i32,
    fs: SimFs,
    is_passed: bool,
}

impl Drop for Place {
    #[expect(clippy::print_stderr, reason = "a failed test says where")]
    fn drop(&mut self) {
        if self.is_passed {
            return;
        }
        let trace = self.fs.operations();
        let failed = trace.iter().position(|line| line.contains("failed")).unwrap_or(0);
        let around = &trace[failed.saturating_sub(3)..trace.len().min(failed + 6)];
        eprintln!(
            "seed {}, operation {}, errno {}:\n{}",
            self.seed,
            self.number,
            self.errno,
            around.join("\n")
        );
    }
}

#[test]
fn every_operation_fails_once() {
    fail_everywhere(EIO, Repeat::Once, 1);
    fail_everywhere(ENOSPC, Repeat::Once, 3);
}

#[test]
fn every_operation_fails_and_all_after_it() {
    fail_everywhere(EIO, Repeat::Forever, 1);
    fail_everywhere(ENOSPC, Repeat::Forever, 3);
}

/// No read error may look like an absent key or the end of the data.
#[test]
fn every_read_error_surfaces() {
    let mut setup = setup();
    setup.db.verify = Verify::Always;
    setup.db.cache_bytes = 0;
    for read_mode in [esker::ReadMode::Mmap, esker::ReadMode::Pread] {
        setup.db.read_mode = read_mode;
        let fs = SimFs::new();
        let mut world = World::on_sim(&setup, &fs);
        world.open().unwrap();
        let mut ops = Generator::new(1, 1, &[Sync]).writes(80);
        ops.extend([Op::Flush, Op::Reopen]);
        for op in &ops {
            world.run(op).unwrap();
        }
        world.close().unwrap();
        let expected = world.expected();
        let mut number = 0;
        loop {
            let fs = fs.kill_clone();
            fs.fail_at(number, EIO, Repeat::Once);
            let read = setup.open_sim(&fs).and_then(|db| {
                for (key, value) in &expected[&0] {
                    assert_eq!(db.get(key)?.as_deref(), Some(value.as_slice()), "a wrong answer");
                }
                let backwards: esker::Result<Vec<_>> = db.iter().rev().collect();
                assert_eq!(backwards?.len(), expected[&0].len(), "an end that is none");
                read_contents(&db)
            });
            let was_hit = fs.counters().failures > 0;
            match read {
                Ok(found) => {
                    assert!(found == expected, "{}", difference(&expected, &found));
                    // Failures to remove waste are nobody's business; a read that failed is.
                    if !was_hit {
                        break;
                    }
                }
                Err(error) => check_error(&error),
            }
            number += 1;
        }
        assert!(number > 50);
    }
}

/// A flush that fails is tried again, and the writes are readable all the time.
#[test]
fn a_failed_flush_is_tried_again() {
    let fs = SimFs::new();
    let mut world = World::on_sim(&setup(), &fs);
    world.open().unwrap();
    for op in Generator::new(5, 1, &[Buffered]).writes(10) {
        world.run(&op).unwrap();
    }
    for words in ["create .table", "write .table", "sync_data .table", "sync_dir"] {
        fs.fail_when(words, ENOSPC, Repeat::Once);
        let error = world.run(&Op::Flush).unwrap_err();
        check_error(&error);
        assert_eq!(read_contents(world.db()).unwrap(), world.expected());
        world.db().put("another", words).unwrap();
        world.db().delete("another").unwrap();
        world.run(&Op::Flush).unwrap();
        assert_eq!(read_contents(world.db()).unwrap(), world.expected());
        world.db().put("one more, so that there is something to flush", words).unwrap();
        world.db().delete("one more, so that there is something to flush").unwrap();
    }
    world.close().unwrap();
    assert_eq!(fs.list_dir("/db").iter().filter(|name| name.contains(".tmp")).count(), 0);
}

/// After a failure of the log or the manifest every write says so, and reads go on.
#[test]
fn a_failed_log_or_manifest_poisons_writing_and_reads_go_on() {
    for words in ["write .wal", "sync_data .wal", "write MANIFEST", "sync_data MANIFEST"] {
        let fs = SimFs::new();
        let mut world = World::on_sim(&setup(), &fs);
        world.open().unwrap();
        for op in Generator::new(5, 1, &[Sync]).writes(10) {
            world.run(&op).unwrap();
        }
        let expected = world.expected();
        fs.fail_when(words, EIO, Repeat::Once);
        let put = |key: &str| world.db().put_with(key, "v", &esker::WriteOptions::SYNC);
        let first = if words.contains("MANIFEST") { world.db().flush() } else { put("first") };
        let error = first.unwrap_err();
        check_error(&error);
        for _ in 0..2 {
            let error = put("later").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{words}: {error}");
            check_error(&error);
        }
        assert_eq!(world.db().sync().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(world.db().flush().unwrap_err().kind(), ErrorKind::Poisoned);
        let found = read_contents(world.db()).unwrap();
        assert!(found == expected, "{words}: {}", difference(&expected, &found));
        let error = world.db.take().unwrap().close().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poisoned);
        let db = setup().open_sim(&fs).unwrap();
        let mut found = read_contents(&db).unwrap();
        // Unacked: there or not.
        found.get_mut(&0).unwrap().remove(&b"first"[..]);
        assert!(found == expected, "{words}, reopened: {}", difference(&expected, &found));
        db.put("later", "v").unwrap();
    }
}

/// A sync of the log failed, the database was opened again, and what that sync should have written was read from
/// memory and built upon: but a later sync passes over it. The next power cut took acked writes, and the log was
/// taken for damaged.
#[test]
fn what_a_failed_sync_left_in_memory_is_durable_before_it_is_built_upon() {
    for words in ["sync_data .wal", "sync_dir"] {
        let fs = SimFs::new();
        let db = setup().open_sim(&fs).unwrap();
        db.put("buffered", "acked").unwrap();
        fs.fail_when(words, EIO, Repeat::Once);
        check_error(&db.put_with("unknown", "v", &esker::WriteOptions::SYNC).unwrap_err());
        drop(db);
        let db = setup().open_sim(&fs).unwrap();
        let seen = read_contents(&db).unwrap();
        assert!(seen[&0].contains_key(&b"buffered"[..]));
        db.put_with("sync", "acked", &esker::WriteOptions::SYNC).unwrap();
        let after = setup().open_sim(&fs.crash_clone(Persist::Nothing)).unwrap();
        let mut expected = seen;
        expected.get_mut(&0).unwrap().insert(b"sync".to_vec(), b"acked".to_vec());
        let found = read_contents(&after).unwrap();
        assert!(found == expected, "{words}: {}", difference(&expected, &found));
    }
}

/// A keyspace whose drop failed could not be read any more.
#[test]
fn a_keyspace_whose_drop_failed_is_still_read() {
    let fs = SimFs::new();
    let db = setup().open_sim(&fs).unwrap();
    let logs = db.keyspace("logs", setup().keyspace).unwrap();
    logs.put("k", "v").unwrap();
    fs.fail_when("write MANIFEST", EIO, Repeat::Once);
    check_error(&db.drop_keyspace("logs").unwrap_err());
    assert_eq!(logs.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(logs.put("k", "w").unwrap_err().kind(), ErrorKind::Poisoned);
}

/// A disk of every size fills up during the workload; with more room everything acked is there.
#[test]
fn a_full_disk_loses_nothing_that_was_acked() {
    let mut generator = Generator::new(11, 2, &[Sync, Buffered, Buffered]);
    generator.value_bytes = 1200;
    let mut ops = vec![Op::Create(1)];
    ops.extend(generator.writes(120));
    ops.extend([Op::Flush, Op::Compact(0), Op::Reopen]);
    ops.extend(generator.writes(60));
    let (mut sizes_that_fit, sizes) = (0, (16..1040).step_by(16));
    for kib in sizes.clone() {
        let fs = SimFs::new();
        fs.set_capacity_bytes(Some(kib << 10));
        let mut world = World::on_sim(&setup(), &fs);
        run_with_faults(&mut world, &ops);
        let was_full = fs.counters().failures > 0;
        if let Some(db) = &world.db {
            read_contents(db).unwrap();
        }
        check_after_healing(world, &fs);
        sizes_that_fit += u64::from(!was_full);
    }
    let sizes = sizes.count() as u64;
    assert!((5..sizes - 10).contains(&sizes_that_fit), "{sizes_that_fit} of {sizes} are enough");
}

/// Fills a database whose compactions fail until a write is refused.
fn fill_until_stopped(db: &Db) -> Error {
    (0..1000).find_map(|n| put_large(db, n).err()).expect("the debt never stops the writer")
}

fn put_large(db: &Db, n: u32) -> esker::Result<()> {
    db.put((n * 7919 % 400).to_be_bytes(), vec![7; 16 << 10])
}

fn setup_with_little_debt(background_threads: usize) -> Setup {
    let mut setup = setup();
    setup.db.background_threads = background_threads;
    setup.keyspace.memtable_bytes = 64 << 10;
    setup.keyspace.debt_bytes_soft = 1 << 20;
    setup
}

/// A writer that the debt stopped, without background threads, waited for somebody else to compact.
#[test]
fn a_writer_stopped_by_debt_does_not_wait_for_itself() {
    let fs = SimFs::new();
    let db = setup_with_little_debt(0).open_sim(&fs).unwrap();
    let snapshot = db.snapshot();
    fs.fail_when("open .table", EIO, Repeat::Forever);
    check_error(&fill_until_stopped(&db));
    // This forgets the remembered error of the compaction, as every change of a tree does.
    drop(snapshot);
    check_error(&put_large(&db, 1000).unwrap_err());
    fs.clear_faults();
    put_large(&db, 1001).unwrap();
}

/// With background threads, a writer waited for ever for a compaction that had failed, or was refused for ever after
/// one that failed but once.
#[test]
fn a_writer_stopped_by_a_failed_compaction_learns_it_and_tries_again() {
    for threads in [1, 2] {
        let fs = SimFs::new();
        let db = setup_with_little_debt(threads).open_sim(&fs).unwrap();
        fs.fail_when("open .table", EIO, Repeat::Forever);
        check_error(&fill_until_stopped(&db));
        fs.clear_faults();
        put_large(&db, 1001).unwrap();
        db.wait_idle().unwrap();
        put_large(&db, 1002).unwrap();
    }
}

/// After a failed sync the operating system takes the bytes for written that are not, and later syncs write nothing of
/// them. A process that is started anew sees them all the same, and must not promise them because of such a sync.
#[test]
fn a_failed_sync_is_not_believed_after_a_restart() {
    let setup = setup();
    let open = |fs: &SimFs| setup.open(Arc::new(fs.clone()), Path::new("/db"));
    let fs = SimFs::new();
    let db = open(&fs).unwrap();
    db.put("early", "1").unwrap();
    fs.fail_when("sync_data .wal", EIO, Repeat::Once);
    db.put_with("failed", "2", &esker::WriteOptions::SYNC).unwrap_err();
    // The process dies, the operating system goes on.
    let fs = fs.kill_clone();
    drop(db);
    let db = open(&fs).unwrap();
    assert_eq!(db.get("early").unwrap().as_deref(), Some(&b"1"[..]));
    db.put_with("late", "3", &esker::WriteOptions::SYNC).unwrap();
    let fs = fs.crash_clone(Persist::Nothing);
    let db = open(&fs).expect("what was promised is there");
    assert_eq!(db.get("late").unwrap().as_deref(), Some(&b"3"[..]));
    assert_eq!(
        db.get("early").unwrap().as_deref(),
        Some(&b"1"[..]),
        "it was read after the restart"
    );
}
