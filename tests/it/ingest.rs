//! Bulk ingest: all of it is there or nothing, it stands in the order of writes where it ended, and takes each byte to
//! disk once.
//!
//! * A model: ingests between puts, deletes, flushes, compactions and reopens, under each strategy; old snapshots are
//!   read again at the end.
//! * Crashes at every file operation: a prefix of the writes, in which an ingest is one write that is durable when it
//!   returned.
//! * Faults at every file operation: an error, and nothing of it there; or success, and all of it.
//! * Writers of the same keys beside it: whoever was acknowledged before is older, whoever begins after is newer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use esker::fs::sim_fs::{Persist, Repeat, SimFs};
use esker::{
    Compaction, Db, Durability, ErrorKind, Fifo, LazyLeveled, Leveled, SizeTiered, TimeWindow,
    WriteOptions,
};

use crate::concurrency::guarded;
use crate::support::{DIR, Map, Rng, Setup};
use crate::trust;

fn key(n: u64) -> Vec<u8> {
    format!("key {n:04}").into_bytes()
}

/// Puts the entries into the default keyspace.
fn ingest(db: &Db, entries: &Map) -> esker::Result<esker::IngestReport> {
    let mut ingest = db.default_keyspace().ingest()?;
    for (key, value) in entries {
        ingest.put(key, value)?;
    }
    ingest.finish()
}

/// Some neighbouring keys with values that say which ingest it was.
fn some_entries(rng: &mut Rng, name: &str) -> Map {
    let (start, count, step) = (rng.below(300), 1 + rng.below(60), 1 + rng.below(3));
    let value = |n: u64| format!("{name} {n} {}", "=".repeat(rng_len(n))).into_bytes();
    (0..count).map(|n| (key(start + n * step), value(n))).collect()
}

fn rng_len(n: u64) -> usize {
    (n * 7919 % 150) as usize
}

fn all(db: &Db) -> Map {
    db.iter().map(|item| item.map(|(key, value)| (key, value.to_vec())).unwrap()).collect()
}

fn strategies() -> Vec<Compaction> {
    vec![
        Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 4 }.into(),
        SizeTiered { merge_width: 3, ..SizeTiered::default() }.into(),
        LazyLeveled::default().into(),
        TimeWindow::default().into(),
        Fifo::default().into(),
    ]
}

fn setup(compaction: Compaction) -> Setup {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 4 << 10;
    setup.keyspace.table_bytes = 4 << 10;
    setup.keyspace.compaction = compaction;
    setup
}

/// Random operations and ingests; everything is compared with a map after each.
fn run_model(setup: &Setup, seed: u64) {
    let mut rng = Rng::new(seed);
    let fs = SimFs::new();
    let mut db = setup.open_sim(&fs).unwrap();
    let mut model = Map::new();
    let mut snapshots = Vec::new();
    for step in 0..60 {
        match rng.below(20) {
            0..=5 => {
                let entries = some_entries(&mut rng, &format!("ingest {step}"));
                let report = ingest(&db, &entries).unwrap();
                assert_eq!(report.entries, entries.len() as u64);
                model.extend(entries);
            }
            6..=11 => {
                for _ in 0..rng.below(30) {
                    let (key, value) = (key(rng.below(400)), format!("put {step}").into_bytes());
                    db.put(&key, &value).unwrap();
                    model.insert(key, value);
                }
            }
            12..=14 => {
                for _ in 0..rng.below(20) {
                    let key = key(rng.below(400));
                    db.delete(&key).unwrap();
                    model.remove(&key);
                }
            }
            15 => db.flush().unwrap(),
            16 => db.compact_range::<&[u8]>(..).unwrap(),
            17 => snapshots.push((db.snapshot(), model.clone())),
            _ => {
                snapshots.clear();
                db.close().unwrap();
                db = setup.open_sim(&fs).unwrap();
            }
        }
        let found = all(&db);
        assert_eq!(found, model, "seed {seed}, step {step}");
        let backwards: Map =
            db.iter().rev().map(|item| item.unwrap()).map(|(k, v)| (k, v.to_vec())).collect();
        assert_eq!(backwards, model, "seed {seed}, step {step}, backwards");
        for _ in 0..20 {
            let key = key(rng.below(400));
            let found = db.get(&key).unwrap();
            assert_eq!(found.as_deref(), model.get(&key).map(Vec::as_slice), "seed {seed}");
        }
        for (snapshot, was) in &snapshots {
            let read = snapshot.iter().map(|item| item.unwrap());
            let read: Map = read.map(|(key, value)| (key, value.to_vec())).collect();
            assert_eq!(read, *was, "seed {seed}, step {step}: a snapshot changed");
            for (key, value) in was.iter().take(10) {
                assert_eq!(snapshot.get(key).unwrap().as_deref(), Some(&value[..]));
            }
        }
    }
    let report = db.verify().unwrap();
    assert!(report.is_ok(), "seed {seed}: {:?}", report.problems);
}

#[test]
fn ingests_among_other_writes_agree_with_a_map() {
    guarded(|| {
        let seeds = trust::cases(4, 200, 5_000);
        for (index, compaction) in strategies().into_iter().enumerate() {
            for seed in 0..seeds {
                run_model(&setup(compaction.clone()), trust::seed() + seed * 10 + index as u64);
            }
        }
        trust::report("model: ingest", seeds * strategies().len() as u64, 0, &[]);
    });
}

/// What a workload wrote: the state after each write, and how far it was durable and issued.
#[derive(Default)]
struct Progress {
    states: Vec<Map>,
    durable: usize,
}

#[test]
fn a_crash_leaves_all_of_an_ingest_or_nothing() {
    guarded(|| {
        let mut checked = 0;
        for seed in 0..trust::cases(2, 40, 1_000) {
            for compaction in strategies().into_iter().take(3) {
                checked += crash_everywhere(&setup(compaction), trust::seed() + seed);
            }
        }
        assert!(checked > 100, "only {checked} crash states");
        trust::report("crash states: ingest", checked, 0, &[]);
    });
}

fn crash_everywhere(setup: &Setup, seed: u64) -> u64 {
    let fs = SimFs::new();
    fs.count_reads(false);
    let progress = Arc::new(Mutex::new(Progress { states: vec![Map::new()], durable: 0 }));
    let cuts: Arc<Mutex<Vec<(SimFs, usize, usize)>>> = Arc::default();
    let (sink, seen) = (Arc::clone(&cuts), Arc::clone(&progress));
    fs.on_operation(move |fs, _| {
        let seen = seen.lock().unwrap();
        sink.lock().unwrap().push((fs.kill_clone(), seen.durable, seen.states.len()));
    });
    let db = setup.open_sim(&fs).unwrap();
    let mut rng = Rng::new(seed);
    for step in 0..8 {
        for n in 0..rng.below(12) {
            let sync = rng.percent(20);
            let durability = if sync { Durability::Sync } else { Durability::Buffered };
            let (key, value) = (key(rng.below(400)), format!("put {step} {n}").into_bytes());
            let mut next = progress.lock().unwrap().states.last().unwrap().clone();
            next.insert(key.clone(), value.clone());
            progress.lock().unwrap().states.push(next);
            let options = WriteOptions { durability: Some(durability), ..WriteOptions::default() };
            db.put_with(&key, &value, &options).unwrap();
            if sync {
                let mut progress = progress.lock().unwrap();
                progress.durable = progress.states.len() - 1;
            }
        }
        let entries = some_entries(&mut rng, &format!("ingest {step}"));
        let mut next = progress.lock().unwrap().states.last().unwrap().clone();
        next.extend(entries.clone());
        progress.lock().unwrap().states.push(next);
        ingest(&db, &entries).unwrap();
        let mut progress = progress.lock().unwrap();
        progress.durable = progress.states.len() - 1;
    }
    fs.on_operation(|_, _| {});
    let (cuts, progress) = (std::mem::take(&mut *cuts.lock().unwrap()), progress.lock().unwrap());
    let mut checked = 0;
    for (number, (cut, durable, issued)) in cuts.iter().enumerate() {
        let random = Persist::Random { percent: 50, seed: seed ^ number as u64 };
        for persist in [Persist::Nothing, Persist::Everything, random] {
            let crashed = cut.crash_clone(persist);
            let db = setup.open_sim(&crashed).unwrap();
            let found = all(&db);
            let possible = &progress.states[*durable..*issued];
            assert!(
                possible.contains(&found),
                "seed {seed}, operation {number}, {persist:?}: {} entries are none of the {} states",
                found.len(),
                possible.len()
            );
            let report = db.verify().unwrap();
            assert!(report.is_ok(), "seed {seed}, operation {number}: {:?}", report.problems);
            // What comes next wins over everything, the ingest too.
            if let Some(key) = found.keys().next() {
                db.put(key, "next").unwrap();
                assert_eq!(db.get(key).unwrap().as_deref(), Some(&b"next"[..]));
            }
            checked += 1;
        }
    }
    checked
}

#[test]
fn a_fault_leaves_all_of_an_ingest_or_nothing() {
    guarded(|| {
        let setup = setup(strategies()[0].clone());
        let prepare = |fs: &SimFs| {
            let db = setup.open_sim(fs).unwrap();
            for n in 0..40 {
                db.put(key(n * 5), "before").unwrap();
            }
            db
        };
        let entries = some_entries(&mut Rng::new(1), "ingest");
        let mut struck = 0;
        for nth in 0.. {
            let fs = SimFs::new();
            let db = prepare(&fs);
            let before = all(&db);
            let names = fs.list_dir(DIR);
            let mut after = before.clone();
            after.extend(entries.clone());
            fs.fail_at(fs.op_count() + nth, libc_eio(), Repeat::Once);
            let result = ingest(&db, &entries);
            let was_hit = fs.counters().failures > 0;
            fs.clear_faults();
            let found = all(&db);
            match result {
                Ok(_) => assert_eq!(found, after, "operation {nth}"),
                Err(error) => {
                    assert_eq!(found, before, "operation {nth}: {error}");
                    assert!(error.path().is_some(), "{error:?}");
                }
            }
            let is_poisoned = db.put("x", "y").is_err();
            if !is_poisoned && found == before && nth > 0 {
                let left = fs.list_dir(DIR);
                let waste =
                    left.iter().filter(|name| name.contains(".table") && !names.contains(name));
                // A flush that was due before may have made tables.
                assert!(waste.count() <= 1, "{left:?}");
            }
            drop(db);
            let found = all(&setup.open_sim(&fs).unwrap());
            let found: Map = found.into_iter().filter(|(key, _)| key != b"x").collect();
            assert!(found == before || found == after, "operation {nth}: half of it");
            struck += u64::from(was_hit);
            if !was_hit {
                break;
            }
        }
        assert!(struck > 5, "{struck}");
        trust::report("I/O errors: ingest", struck, 0, &[]);
    });
}

fn libc_eio() -> i32 {
    5
}

#[test]
fn keys_out_of_order_are_refused_and_the_ingest_goes_on() {
    let db = Setup::small().open_sim(&SimFs::new()).unwrap();
    let mut ingest = db.default_keyspace().ingest().unwrap();
    ingest.put("b", "1").unwrap();
    for bad in ["a", "b", ""] {
        let error = ingest.put(bad, "2").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("does not stand after b"), "{error}");
        assert!(error.advice().is_some());
    }
    let too_long = vec![0xff; esker::key::KEY_LEN_MAX + 1];
    assert_eq!(ingest.put(too_long, "").unwrap_err().kind(), ErrorKind::InvalidArgument);
    ingest.put("c", "3").unwrap();
    assert_eq!(db.get("b").unwrap(), None.map(|value: esker::Value| value), "not before the end");
    assert_eq!(ingest.finish().unwrap().entries, 2);
    assert_eq!(db.get("b").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn an_ingest_that_is_dropped_or_empty_leaves_nothing() {
    let fs = SimFs::new();
    let db = setup(strategies()[0].clone()).open_sim(&fs).unwrap();
    db.put("a", "1").unwrap();
    let names = fs.list_dir(DIR);
    let mut dropped = db.default_keyspace().ingest().unwrap();
    for n in 0..400 {
        dropped.put(key(n), "never seen").unwrap();
    }
    assert!(fs.list_dir(DIR).len() > names.len(), "tables are written as entries come");
    drop(dropped);
    assert_eq!(fs.list_dir(DIR), names);
    let empty = db.default_keyspace().ingest().unwrap().finish().unwrap();
    assert_eq!((empty.entries, empty.tables), (0, 0));
    assert_eq!(all(&db).len(), 1);
    let sequence_goes_on = db.put("b", "2");
    sequence_goes_on.unwrap();
}

#[test]
fn an_ingest_into_a_free_range_goes_to_the_bottom_and_is_written_once() {
    let db = setup(strategies()[0].clone()).open_sim(&SimFs::new()).unwrap();
    let entries: Map = (0..2000).map(|n| (key(n), vec![n as u8; 100])).collect();
    let report = ingest(&db, &entries).unwrap();
    assert_eq!(report.level, esker::version::LEVEL_COUNT - 1);
    assert!(report.tables > 10, "{report:?}");
    db.wait_idle().unwrap();
    let metrics = db.metrics();
    let levels = &metrics.keyspaces[0].levels;
    assert_eq!(levels[report.level].tables, report.tables);
    assert_eq!(levels[report.level].bytes, report.table_bytes);
    assert!(metrics.to_string().contains("ingest"), "{metrics}");
    // Into the middle of what is there: not below anything that it meets.
    let report = ingest(&db, &BTreeMap::from([(key(1000), b"newer".to_vec())])).unwrap();
    assert!(report.level < esker::version::LEVEL_COUNT - 1);
    assert_eq!(db.get(key(1000)).unwrap().as_deref(), Some(&b"newer"[..]));
    // Beside it: in the same run.
    let report = ingest(&db, &BTreeMap::from([(b"zzz".to_vec(), b"1".to_vec())])).unwrap();
    assert_eq!(report.level, esker::version::LEVEL_COUNT - 1);
    assert_eq!(all(&db).len(), 2001);
}

/// Writers of keys in the range, with threads in the background: an ingest is one write among theirs.
#[test]
fn writers_beside_an_ingest_stand_before_or_after_it() {
    guarded(|| {
        let mut setup = setup(strategies()[0].clone());
        setup.db.background_threads = 2;
        let db = setup.open_sim(&SimFs::new()).unwrap();
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for writer in 0..2u64 {
                let (db, stop, written) = (&db, &stop, &written);
                scope.spawn(move || {
                    // Each key once before: what an ingest hides must stay hidden.
                    for n in 0.. {
                        let options =
                            if n % 64 == 0 { WriteOptions::SYNC } else { WriteOptions::default() };
                        db.put_with(key(n % 200 * 2 + writer), format!("put {n}"), &options)
                            .unwrap();
                        written.fetch_add(1, Ordering::Relaxed);
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                });
            }
            for round in 0..trust::cases(15, 100, 1000) {
                let entries: Map =
                    (0..400).map(|n| (key(n), format!("ingest {round:06}").into_bytes())).collect();
                ingest(&db, &entries).unwrap();
                // Each key shows this ingest or a write after it: an older ingest never comes back, nothing is missing.
                let found = all(&db);
                assert_eq!(found.len(), 400, "round {round}");
                for (key, value) in found {
                    let text = String::from_utf8(value).unwrap();
                    let is_old = text
                        .strip_prefix("ingest ")
                        .is_some_and(|n| n.parse::<u64>().unwrap() != round);
                    assert!(!is_old, "round {round}: {} holds {text}", key.escape_ascii());
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(written.load(Ordering::Relaxed) > 0);
        assert!(db.verify().unwrap().is_ok());
    });
}

/// Between its tables and their sequence number an ingest was seen in half: a checkpoint held entries that were newer
/// than its moment.
#[test]
fn checkpoints_beside_ingests_hold_all_of_one_or_nothing() {
    guarded(|| {
        let mut setup = setup(strategies()[0].clone());
        setup.db.background_threads = 2;
        let fs = SimFs::new();
        let db = setup.open_sim(&fs).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..trust::cases(60, 400, 4_000) {
                    let value = format!("{round:06}").into_bytes();
                    let entries = (0..20).map(|n| (key(n), value.clone())).collect();
                    ingest(&db, &entries).unwrap();
                }
                stop.store(true, Ordering::Relaxed);
            });
            for number in 0.. {
                let dir = format!("/copy {number}");
                let report = db.checkpoint(&dir).unwrap();
                let copy = setup.open(Arc::new(fs.clone()), std::path::Path::new(&dir)).unwrap();
                let found = all(&copy);
                let values: std::collections::BTreeSet<_> = found.values().collect();
                assert!(values.len() <= 1, "half of an ingest: {values:?}");
                assert_eq!(found.is_empty(), report.sequence == 0, "checkpoint {number}");
                copy.close().unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
    });
}
