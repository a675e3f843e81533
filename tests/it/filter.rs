//! Compaction filters: what they drop stays dropped, what they replace stays replaced, what snapshots see stays, and a
//! filter that panics loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use esker::clock::ManualClock;
use esker::compaction::filter::{CompactionFilter, Decision};
use esker::fs::sim_fs::SimFs;
use esker::{Db, DbBuilder, ErrorKind, Fifo, Keyspace};

use crate::support::{DIR, Setup};

/// Drops the value `drop`, puts `replaced` for `replace`, and panics at everything when told to.
#[derive(Debug, Default)]
struct ByValue {
    panics: AtomicBool,
    asked: AtomicU64,
}

impl CompactionFilter for ByValue {
    fn filter(&self, _level: usize, _key: &[u8], value: &[u8]) -> Decision {
        self.asked.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics.load(Ordering::Relaxed), "the filter was told to panic");
        match value {
            b"drop" => Decision::Drop,
            b"replace" => Decision::Replace(b"replaced".to_vec()),
            _ => Decision::Keep,
        }
    }
}

fn builder(setup: &Setup, fs: &SimFs, filter: &Arc<ByValue>) -> DbBuilder {
    Db::builder()
        .options(setup.db.clone())
        .default_keyspace(setup.keyspace.clone())
        .file_system(Arc::new(fs.clone()))
        .compaction_filter("default", Arc::clone(filter) as Arc<dyn CompactionFilter>)
}

fn compact(keyspace: &Keyspace) {
    keyspace.compact_range::<&str>(..).unwrap();
}

fn text(value: Option<esker::Value>) -> String {
    value.map_or("-".to_owned(), |value| value.escape_ascii().to_string())
}

fn get(db: &Db, key: &str) -> String {
    text(db.get(key).unwrap())
}

#[test]
fn it_drops_and_replaces_in_its_own_keyspace() {
    let (fs, filter) = (SimFs::new(), Arc::default());
    let setup = Setup::small();
    let db = builder(&setup, &fs, &filter).open(DIR).unwrap();
    let other = db.keyspace("other", setup.keyspace.clone()).unwrap();
    for keyspace in [db.default_keyspace(), &other] {
        for (key, value) in [("a", "drop"), ("b", "replace"), ("c", "keep")] {
            keyspace.put(key, value).unwrap();
        }
        keyspace.flush().unwrap();
    }
    assert_eq!(get(&db, "a"), "drop", "a flush asks nobody");
    compact(db.default_keyspace());
    compact(&other);
    assert_eq!(["a", "b", "c"].map(|key| get(&db, key)), ["-", "replaced", "keep"]);
    assert_eq!(text(other.get("a").unwrap()), "drop");
    assert_eq!(filter.asked.load(Ordering::Relaxed), 3);
    let metrics = db.metrics();
    assert_eq!((metrics.entries_filtered, metrics.entries_filtered_out), (2, 1));
    // What is in shape is shown to the filter all the same when somebody asks for it.
    compact(db.default_keyspace());
    assert_eq!(filter.asked.load(Ordering::Relaxed), 5);
    assert!(db.verify().unwrap().is_ok());
}

#[test]
fn what_a_snapshot_sees_is_left_alone() {
    let (fs, filter) = (SimFs::new(), Arc::default());
    let db = builder(&Setup::small(), &fs, &filter).open(DIR).unwrap();
    db.put("a", "drop").unwrap();
    db.put("b", "old").unwrap();
    let snapshot = db.snapshot();
    db.put("b", "drop").unwrap();
    db.put("c", "replace").unwrap();
    compact(db.default_keyspace());
    let seen = |key| text(snapshot.get(key).unwrap());
    assert_eq!(["a", "b", "c"].map(seen), ["drop", "old", "-"]);
    assert_eq!(["a", "b", "c"].map(|key| get(&db, key)), ["drop", "-", "replaced"]);
    // One of everything.
    db.put("c", "replace").unwrap();
    let newest = db.snapshot();
    compact(db.default_keyspace());
    assert_eq!(text(newest.get("c").unwrap()), "replace");
    drop((snapshot, newest));
    compact(db.default_keyspace());
    assert_eq!(["a", "b", "c"].map(|key| get(&db, key)), ["-", "-", "replaced"]);
}

#[test]
fn what_is_dropped_uncovers_nothing() {
    let (fs, filter) = (SimFs::new(), Arc::default());
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 256 << 10;
    let fifo = Fifo { total_bytes_max: 1 << 40, age_max_s: 0, merge_runs: 2 };
    setup.keyspace.compaction = fifo.into();
    let db = builder(&setup, &fs, &filter).open(DIR).unwrap();
    db.put("a", "old").unwrap();
    db.put("z", vec![0; 20_000]).unwrap();
    db.flush().unwrap();
    db.close().unwrap();
    // The run that holds the old value is too large now to be merged with the small ones above it.
    setup.keyspace.memtable_bytes = 8 << 10;
    let db = builder(&setup, &fs, &filter).open(DIR).unwrap();
    db.put("a", "drop").unwrap();
    db.put("c", "so that the two runs meet and cannot just be moved").unwrap();
    db.flush().unwrap();
    assert_eq!(get(&db, "a"), "drop");
    db.put("b", "keep").unwrap();
    db.flush().unwrap();
    assert_eq!(db.metrics().entries_filtered, 1, "the two small runs were merged");
    assert_eq!((get(&db, "a"), get(&db, "b")), ("-".to_owned(), "keep".to_owned()));
    compact(db.default_keyspace());
    assert_eq!(get(&db, "a"), "-");
}

#[test]
fn what_is_replaced_expires_when_it_would_have() {
    let (fs, filter) = (SimFs::new(), Arc::default());
    let clock = Arc::new(ManualClock::at_unix_ms(1_700_000_000_000));
    let db = builder(&Setup::small(), &fs, &filter).clock(clock.clone()).open(DIR).unwrap();
    db.put_with_ttl("a", "replace", Duration::from_secs(10)).unwrap();
    for _ in 0..2 {
        compact(db.default_keyspace());
        assert_eq!(get(&db, "a"), "replaced");
    }
    clock.advance(Duration::from_secs(9));
    assert_eq!(get(&db, "a"), "replaced");
    clock.advance(Duration::from_secs(1));
    assert_eq!(get(&db, "a"), "-");
    let asked = filter.asked.load(Ordering::Relaxed);
    compact(db.default_keyspace());
    assert_eq!(filter.asked.load(Ordering::Relaxed), asked, "what has expired is not shown");
}

#[test]
fn a_filter_that_panics_loses_nothing() {
    for threads in [0, 2] {
        let (fs, filter) = (SimFs::new(), Arc::<ByValue>::default());
        let mut setup = Setup::small();
        setup.db.background_threads = threads;
        let db = builder(&setup, &fs, &filter).open(DIR).unwrap();
        filter.panics.store(true, Ordering::Relaxed);
        for round in 0..4 {
            db.put("a", format!("{round}")).unwrap();
            db.put("b", "replace").unwrap();
            // With too many runs to be left alone: the compaction that is due fails.
            let _ = db.flush();
        }
        let failed = db.wait_idle().unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::InvalidArgument, "{failed}");
        assert!(failed.to_string().contains("panicked at key a"), "{failed}");
        assert!(db.compact_range::<&str>(..).is_err());
        assert!(db.metrics().background_errors > 0);
        assert_eq!((get(&db, "a"), get(&db, "b")), ("3".to_owned(), "replace".to_owned()));
        filter.panics.store(false, Ordering::Relaxed);
        compact(db.default_keyspace());
        db.wait_idle().unwrap();
        assert_eq!((get(&db, "a"), get(&db, "b")), ("3".to_owned(), "replaced".to_owned()));
        assert!(db.verify().unwrap().is_ok());
        db.close().unwrap();
    }
}
