//! Long merges, sliced and split: space is freed while a merge runs, and whatever comes in between is right.
//!
//! A merge of everything in a tiered tree is watched at its file operations: the tables on disk never take much more
//! than the tree did. What a crash leaves at each operation is checked in [`crash`](crate::crash), and failing
//! operations are checked here: the contents are right, `verify` is content, and the next merge ends what was begun.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use esker::fs::sim_fs::{Repeat, SimFs};
use esker::{Compression, Db, SizeTiered};

use crate::support::{DIR, Map, Rng, Setup};

fn tiered() -> Setup {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 8 << 10;
    setup.keyspace.table_bytes = 4 << 10;
    setup.keyspace.compression = vec![Compression::None];
    setup.keyspace.compaction =
        SizeTiered { merge_width: 4, space_percent_max: 10_000, ..SizeTiered::default() }.into();
    setup
}

/// Bytes of all tables in the directory.
fn table_bytes(fs: &SimFs) -> u64 {
    let names = fs.list_dir(DIR).into_iter().filter(|name| name.contains(".table"));
    names
        .filter_map(|name| fs.read_file(Path::new(DIR).join(name)))
        .map(|bytes| bytes.len() as u64)
        .sum()
}

/// Writes `count` keys in random order, flushes, and gives what is there.
fn fill(db: &Db, count: u64) -> Map {
    let mut rng = Rng::new(7);
    let mut map = Map::new();
    for _ in 0..count {
        let key = format!("key{:06}", rng.below(100_000)).into_bytes();
        let value: Vec<u8> = (0..200).map(|_| rng.below(256) as u8).collect();
        db.put(&key, &value).unwrap();
        map.insert(key, value);
    }
    db.flush().unwrap();
    map
}

fn entries<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    items: impl Iterator<Item = esker::Result<(K, V)>>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let items = items.map(Result::unwrap);
    items.map(|(key, value)| (key.as_ref().to_vec(), value.as_ref().to_vec())).collect()
}

fn check_reads(db: &Db, map: &Map) {
    assert_eq!(entries(db.iter()), map.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(entries(db.iter().rev()), map.clone().into_iter().rev().collect::<Vec<_>>());
    for (key, value) in map {
        assert_eq!(db.get(key).unwrap().as_deref(), Some(&value[..]));
    }
}

fn check(db: &Db, map: &Map) {
    check_reads(db, map);
    let report = db.verify().unwrap();
    assert!(report.is_ok(), "{:?}", report.problems);
}

#[test]
fn merging_everything_takes_little_more_space_than_the_tree() {
    let fs = SimFs::new();
    let db = tiered().open_sim(&fs).unwrap();
    let map = fill(&db, 3000);
    let before = table_bytes(&fs);
    let peak = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&peak);
    fs.on_operation(move |fs, number| {
        if number % 4 == 0 {
            let bytes = table_bytes(fs);
            let mut peak = seen.lock().unwrap();
            *peak = bytes.max(*peak);
        }
    });
    let runs = db.metrics().keyspaces[0].levels.iter().map(|level| level.runs).sum::<u64>();
    db.compact_range::<&[u8]>(..).unwrap();
    fs.on_operation(|_, _| {});
    let peak = *peak.lock().unwrap();
    assert!(runs > 2 && before > 500_000, "{runs} runs of {before} bytes");
    assert!(peak * 4 <= before * 5, "{peak} bytes at the peak, {before} before");
    check(&db, &map);
}

/// A manual merge runs in the caller's thread, and its subcompactions in the idle ones too: the caller is held at its
/// first output until another thread has begun one.
#[test]
fn subcompactions_run_in_idle_threads() {
    let fs = SimFs::new();
    fs.count_reads(false);
    let mut setup = tiered();
    setup.db.background_threads = 4;
    let db = setup.open_sim(&fs).unwrap();
    let map = fill(&db, 600);
    let caller = std::thread::current().id();
    let helped = Arc::new((Mutex::new(false), Condvar::new()));
    let seen = Arc::clone(&helped);
    fs.on_operation(move |_, _| {
        let (has_helped, wake) = &*seen;
        if std::thread::current().id() != caller {
            *has_helped.lock().unwrap() = true;
            wake.notify_all();
            return;
        }
        let waited = wake.wait_timeout_while(
            has_helped.lock().unwrap(),
            Duration::from_secs(60),
            |has_helped| !*has_helped,
        );
        assert!(*waited.unwrap().0, "no other thread helped");
    });
    db.compact_range::<&[u8]>(..).unwrap();
    fs.on_operation(|_, _| {});
    check(&db, &map);
    let runs = db.metrics().keyspaces[0].levels.iter().map(|level| level.runs).sum::<u64>();
    assert_eq!(runs, 1);
    db.close().unwrap();
    check(&tiered().open_sim(&fs).unwrap(), &map);
}

#[test]
fn every_operation_of_a_sliced_merge_fails_once() {
    let fs = SimFs::new();
    fs.count_reads(false);
    let db = tiered().open_sim(&fs).unwrap();
    let map = fill(&db, 300);
    let prepared = fs.kill_clone();
    drop(db);
    let mut at = 0;
    loop {
        let fs = prepared.kill_clone();
        fs.count_reads(false);
        let db = tiered().open_sim(&fs).unwrap();
        let first = fs.op_count();
        fs.fail_at(first + at, 5, Repeat::Once);
        let result = db.compact_range::<&[u8]>(..);
        let was_hit = fs.counters().failures > 0;
        fs.clear_faults();
        // Verified below: a poisoned database does not know what its manifest holds.
        check_reads(&db, &map);
        drop(db);
        let db = tiered().open_sim(&fs).unwrap();
        check(&db, &map);
        db.compact_range::<&[u8]>(..).unwrap();
        check(&db, &map);
        if !was_hit {
            result.unwrap();
            break;
        }
        at += 1;
    }
    assert!(at > 60, "{at} operations");
}
