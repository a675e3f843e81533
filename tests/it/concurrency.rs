//! Many threads at once: writers, readers, snapshots, flush, compaction, sync, close.
//!
//! Memtables, tables and log segments are tiny, so that rotation, flush, compaction and the recycling of segments
//! go on all the time. What is asserted holds under every schedule: versions of a key never go back, a batch is
//! seen whole, an acknowledged write is there. Nothing asserts on time; [`guarded`] turns a deadlock into a failure
//! with a name.

#![allow(clippy::disallowed_methods, reason = "threads of the test are not the engine's")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use esker::fs::{FileSystem, SimFs, StdFs};
use esker::{
    Db, DbOptions, Durability, ErrorKind, KeyspaceOptions, Leveled, Stall, WriteBatch, WriteOptions,
};

use crate::trust;

/// A version, and what was held since it was written: a snapshot, an iterator, and what the latter showed first.
type Held = (u64, esker::Snapshot, esker::Iter, (Vec<u8>, esker::Value));

/// Keys that each writer changes in one batch.
const GROUP: usize = 8;
const DURABILITIES: [Durability; 4] =
    [Durability::Buffered, Durability::Sync, Durability::Async, Durability::Disabled];

/// Runs `body` in a thread of its own and fails, instead of hanging, if it never ends.
pub fn guarded(body: impl FnOnce() + Send + 'static) {
    let (done, waits) = mpsc::channel();
    let thread = thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    // A run that was asked to take longer may.
    let limit = Duration::from_secs(trust::cases(120, 1800, 24 * 3600));
    match waits.recv_timeout(limit) {
        Err(mpsc::RecvTimeoutError::Timeout) => {
            panic!("deadlock: the test did not end in {limit:?}")
        }
        // A panic of the body dropped the sender.
        _ => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// Where a test's database lives.
struct Place {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn simulated() -> Place {
        Place { fs: Arc::new(SimFs::new()), dir: PathBuf::from("/db"), _temporary: None }
    }

    fn real() -> Place {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("db");
        Place { fs: Arc::new(StdFs), dir, _temporary: Some(temporary) }
    }

    fn open(&self, options: DbOptions, keyspace: KeyspaceOptions) -> Db {
        let builder = Db::builder().options(options).default_keyspace(keyspace);
        builder.file_system(Arc::clone(&self.fs)).open(&self.dir).unwrap()
    }
}

fn options(background_threads: usize) -> DbOptions {
    DbOptions {
        background_threads,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 256 << 10,
        cache_bytes: 1 << 20,
        ..DbOptions::default()
    }
}

fn small() -> KeyspaceOptions {
    KeyspaceOptions {
        memtable_bytes: 16 << 10,
        memtables_max: 3,
        block_bytes: 512,
        table_bytes: 16 << 10,
        compaction: Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 4 }.into(),
        ..KeyspaceOptions::default()
    }
}

fn key(group: usize, index: usize) -> String {
    format!("group {group:02} key {index:02}")
}

/// A value that says its version and fills memtables.
fn value(version: u64) -> Vec<u8> {
    let mut value = version.to_le_bytes().to_vec();
    value.resize(150, version as u8);
    value
}

fn version(value: &[u8]) -> u64 {
    assert_eq!(value.len(), 150, "a value of another length");
    assert!(value[8..].iter().all(|byte| *byte == value[0]), "a torn value");
    u64::from_le_bytes(value[..8].try_into().unwrap())
}

/// Writes `version` under all keys of `group`, as one batch.
fn write_group(db: &Db, group: usize, version: u64, options: WriteOptions) -> esker::Result<()> {
    let mut batch = WriteBatch::new();
    for index in 0..GROUP {
        batch.put(key(group, index), value(version));
    }
    db.write_with(batch, &options)
}

/// The one version that all keys of `group` have in what `db` reads; 0: none yet.
fn group_version(items: impl Iterator<Item = esker::Result<(Vec<u8>, esker::Value)>>) -> u64 {
    let versions: Vec<_> = items.map(|item| version(&item.unwrap().1)).collect();
    let Some(&first) = versions.first() else { return 0 };
    assert_eq!(versions, vec![first; GROUP], "a batch was seen in part");
    first
}

fn read_until(db: &Db, group: usize, done: &AtomicBool) {
    let (mut seen, mut seen_alone) = (0, 0);
    while !done.load(Ordering::Acquire) {
        let prefix = format!("group {group:02}");
        let forward = group_version(db.prefix(&prefix));
        let backward = group_version(db.prefix(&prefix).rev());
        let snapshot = db.snapshot();
        let keys: Vec<_> = (0..GROUP).map(|index| key(group, index)).collect();
        let many = snapshot.multi_get(&keys).unwrap();
        let pinned = group_version(many.into_iter().flatten().map(|value| Ok((Vec::new(), value))));
        assert!(seen <= forward && forward <= backward && backward <= pinned, "time went back");
        assert_eq!(group_version(snapshot.prefix(&prefix)), pinned, "a snapshot moved");
        seen = pinned;
        if let Some(value) = db.get(key(group, 3)).unwrap() {
            assert!(seen_alone <= version(&value) && seen <= version(&value), "a key went back");
            seen_alone = version(&value);
        }
    }
}

/// Writers with every durability, each on its own group; two readers; syncs, flushes and manual compactions between.
fn storm(place: &Place, background_threads: usize, versions: u64) {
    const WRITERS: usize = 4;
    let db = place.open(options(background_threads), small());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|group| {
                let db = &db;
                scope.spawn(move || {
                    for version in 1..=versions {
                        let durability = DURABILITIES[(version as usize + group) % 4];
                        let options = WriteOptions::with_durability(durability);
                        write_group(db, group, version, options).unwrap();
                        let seen = group_version(db.prefix(format!("group {group:02}")));
                        assert_eq!(seen, version, "an acknowledged batch is not visible");
                    }
                })
            })
            .collect();
        for group in [0, WRITERS - 1] {
            let (db, done) = (&db, &done);
            scope.spawn(move || read_until(db, group, done));
        }
        let (db, done) = (&db, &done);
        scope.spawn(move || {
            let mut round = 0u32;
            while !done.load(Ordering::Acquire) {
                round += 1;
                match round % 4 {
                    0 => db.flush().unwrap(),
                    1 => db.compact_range(key(1, 0)..key(2, 4)).unwrap(),
                    _ => db.sync().unwrap(),
                }
                drop(db.metrics());
            }
        });
        for writer in writers {
            writer.join().unwrap_or_else(|panic| {
                done.store(true, Ordering::Release);
                std::panic::resume_unwind(panic)
            });
        }
        done.store(true, Ordering::Release);
    });
    let metrics = db.metrics();
    assert!(metrics.flushes > 3 && metrics.compactions > 0, "nothing happened\n{metrics}");
    assert_eq!(metrics.background_errors, 0, "{metrics}");
    let report = db.verify().unwrap();
    assert!(report.is_ok(), "{report:?}");
    db.close().unwrap();
    let db = place.open(options(background_threads), small());
    for group in 0..WRITERS {
        assert_eq!(group_version(db.prefix(format!("group {group:02}"))), versions);
    }
}

#[test]
fn writers_readers_and_background_work_on_the_real_file_system() {
    guarded(|| storm(&Place::real(), 2, 150));
}

#[test]
fn writers_readers_and_background_work_with_any_number_of_threads() {
    for threads in [0, 1, 2, 4] {
        guarded(move || storm(&Place::simulated(), threads, 250));
    }
}

#[test]
fn snapshots_and_iterators_stay_over_flush_and_compaction() {
    guarded(|| {
        for threads in [0, 2] {
            let place = Place::simulated();
            let db = place.open(options(threads), small());
            let mut held = Vec::new();
            for version in 1..=60 {
                for group in 0..3 {
                    write_group(&db, group, version, WriteOptions::default()).unwrap();
                }
                if version % 6 == 0 {
                    let mut iter = db.iter();
                    let first = iter.next().unwrap().unwrap();
                    held.push((version, db.snapshot(), iter, first));
                    db.compact_range::<&[u8]>(..).unwrap();
                }
            }
            db.wait_idle().unwrap();
            let check = |held: Vec<Held>| {
                for (at, snapshot, iter, first) in held {
                    let rest = iter.map(|item| version(&item.unwrap().1));
                    assert_eq!(rest.collect::<Vec<_>>(), vec![at; 3 * GROUP - 1], "iterator");
                    assert_eq!(version(&first.1), at, "a pinned value");
                    let all: Vec<_> =
                        snapshot.iter().rev().map(|item| version(&item.unwrap().1)).collect();
                    assert_eq!(all, vec![at; 3 * GROUP], "snapshot");
                }
            };
            // Half of them are read on another thread, in the reverse order, while writing goes on.
            let other = held.split_off(5);
            thread::scope(|scope| {
                scope.spawn(|| check(other.into_iter().rev().collect()));
                for version in 61..=100 {
                    write_group(&db, 0, version, WriteOptions::default()).unwrap();
                }
                check(held);
            });
            db.compact_range::<&[u8]>(..).unwrap();
            db.wait_idle().unwrap();
            let metrics = db.metrics();
            assert_eq!(metrics.snapshots, 0);
        }
    });
}

#[test]
fn sixteen_sync_writers_share_syncs_and_every_ack_is_visible() {
    guarded(|| {
        const ROUNDS: u64 = 20;
        let place = Place::real();
        let db = place.open(options(2), KeyspaceOptions::default());
        let start = Barrier::new(16);
        thread::scope(|scope| {
            for writer in 0..16 {
                let (db, start) = (&db, &start);
                scope.spawn(move || {
                    start.wait();
                    for round in 1..=ROUNDS {
                        db.put_with(key(writer, 0), value(round), &WriteOptions::SYNC).unwrap();
                        let seen = db.get(key(writer, 0)).unwrap().unwrap();
                        assert_eq!(version(&seen), round, "an acknowledged write is not visible");
                    }
                });
            }
        });
        let metrics = db.metrics();
        assert!(metrics.wal_syncs < 16 * ROUNDS, "no group was formed: {}", metrics.wal_syncs);
        assert_eq!(metrics.batches, 16 * ROUNDS);
    });
}

#[test]
fn concurrent_syncs_make_durable_what_was_written_before_them() {
    guarded(|| {
        let fs = SimFs::new();
        let open = |fs: &SimFs| {
            let builder = Db::builder().options(options(2)).default_keyspace(small());
            builder.file_system(Arc::new(fs.clone())).open("/db").unwrap()
        };
        let db = open(&fs);
        thread::scope(|scope| {
            for group in 0..4 {
                let (db, fs) = (&db, &fs);
                scope.spawn(move || {
                    for version in 1..=40 {
                        write_group(db, group, version, WriteOptions::default()).unwrap();
                        db.sync().unwrap();
                        if version % 10 == group as u64 {
                            let after = open(&fs.crash_clone(esker::fs::Persist::Nothing));
                            let found = group_version(after.prefix(format!("group {group:02}")));
                            assert!(found >= version, "synced {version}, found {found}");
                        }
                    }
                });
            }
        });
    });
}

/// Writers run into a close; what they were told is what the next open finds.
fn close_under_load(place: &Place, background_threads: usize, durability: Durability, round: u64) {
    let db = place.open(options(background_threads), small());
    let acked: Vec<_> = (0..4).map(|_| AtomicU64::new(0)).collect();
    let begun = AtomicU64::new(0);
    let base = round * 1_000_000;
    thread::scope(|scope| {
        for (group, acked) in acked.iter().enumerate() {
            let (db, begun) = (db.clone(), &begun);
            scope.spawn(move || {
                for version in base + 1.. {
                    let options = WriteOptions::with_durability(durability);
                    match write_group(&db, group, version, options) {
                        Ok(()) => acked.store(version, Ordering::Release),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                            return;
                        }
                    }
                    begun.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        while begun.load(Ordering::Acquire) < 40 + 7 * round {
            thread::yield_now();
        }
        db.clone().close().unwrap();
    });
    drop(db);
    let db = place.open(options(background_threads), small());
    for (group, acked) in acked.iter().enumerate() {
        let found = group_version(db.prefix(format!("group {group:02}")));
        let acked = acked.load(Ordering::Acquire);
        assert!(found >= acked, "{durability:?}: acknowledged {acked}, found {found}");
    }
}

#[test]
fn close_while_others_write_keeps_what_was_acknowledged() {
    for threads in [0, 1, 2] {
        for durability in DURABILITIES {
            guarded(move || {
                let place = Place::simulated();
                for round in 0..12 {
                    close_under_load(&place, threads, durability, round);
                }
            });
        }
    }
}

#[test]
fn close_while_others_flush_compact_and_sync() {
    guarded(|| {
        for threads in [0, 1, 2] {
            let place = Place::simulated();
            for round in 0..10u64 {
                let db = place.open(options(threads), small());
                let (begun, acked) = (AtomicU64::new(0), AtomicU64::new(0));
                thread::scope(|scope| {
                    for job in 0..4usize {
                        let (db, begun, acked) = (db.clone(), &begun, &acked);
                        scope.spawn(move || {
                            loop {
                                let result = match job {
                                    0 => db.flush(),
                                    1 => db.compact_range::<&[u8]>(..),
                                    2 => db.sync(),
                                    _ => write_group(&db, job, round, WriteOptions::default()),
                                };
                                begun.fetch_add(1, Ordering::AcqRel);
                                if job == 3 && result.is_ok() {
                                    acked.store(round, Ordering::Release);
                                }
                                if let Err(error) = result {
                                    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                                    return;
                                }
                            }
                        });
                    }
                    while begun.load(Ordering::Acquire) < 20 + 11 * round {
                        thread::yield_now();
                    }
                    db.clone().close().unwrap();
                });
                drop(db);
                let db = place.open(options(threads), small());
                let found = group_version(db.prefix("group 03"));
                assert!(found >= acked.load(Ordering::Acquire), "round {round}, found {found}");
                let report = db.verify().unwrap();
                assert!(report.is_ok(), "{report:?}");
            }
        }
    });
}

#[test]
fn a_keyspace_is_dropped_while_others_write_to_it() {
    guarded(|| {
        for threads in [0, 2] {
            let place = Place::simulated();
            let db = place.open(options(threads), small());
            for round in 0..8 {
                let doomed = db.keyspace("doomed", small()).unwrap();
                let writes = AtomicU64::new(0);
                thread::scope(|scope| {
                    for writer in 0..3 {
                        let (db, doomed, writes) = (&db, doomed.clone(), &writes);
                        scope.spawn(move || {
                            for version in round * 1_000_000 + 1.. {
                                let mut batch = WriteBatch::new();
                                batch.put(key(writer, 0), value(version));
                                batch.put_in(&doomed, key(writer, 0), value(version));
                                if let Err(error) = db.write(batch) {
                                    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
                                    return;
                                }
                                writes.fetch_add(1, Ordering::AcqRel);
                            }
                        });
                    }
                    while writes.load(Ordering::Acquire) < 200 {
                        thread::yield_now();
                    }
                    let iter = doomed.iter();
                    assert!(db.drop_keyspace("doomed").unwrap());
                    let count = iter.inspect(|item| assert!(item.is_ok())).count();
                    assert!((1..=3).contains(&count), "an iterator made before saw {count} keys");
                });
            }
            db.wait_idle().unwrap();
            assert_eq!(db.list_keyspaces(), ["default"]);
            let report = db.verify().unwrap();
            assert!(report.is_ok(), "{report:?}");
            db.close().unwrap();
            let db = place.open(options(threads), small());
            assert!(db.iter().inspect(|item| assert!(item.is_ok())).count() > 0);
            assert!(db.open_keyspace("doomed").unwrap().is_none());
        }
    });
}

/// `wal_bytes_max` holds although one keyspace is written once and never again.
fn idle_keyspace_does_not_pin_the_log(background_threads: usize) {
    let place = Place::simulated();
    // The memtables alone would never be full.
    let large = KeyspaceOptions { memtable_bytes: 64 << 20, ..KeyspaceOptions::default() };
    let options = options(background_threads);
    let bound = options.wal_bytes_max + 8 * options.wal_segment_bytes;
    let db = place.open(options.clone(), large.clone());
    let idle = db.keyspace("idle", large.clone()).unwrap();
    idle.put("k", "v").unwrap();
    for version in 1..=2000 {
        write_group(&db, 0, version, WriteOptions::default()).unwrap();
        if version % 100 == 0 && background_threads > 0 {
            // The log is cut in the background; it is the bound that is tested, not the speed.
            db.wait_idle().unwrap();
        }
        let live = db.metrics().wal_live_bytes;
        assert!(live <= bound, "{live} bytes of live log after {version} writes");
    }
    assert_eq!(idle.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    drop(idle);
    db.close().unwrap();
    let db = place.open(options, large);
    let idle = db.open_keyspace("idle").unwrap().unwrap();
    assert_eq!(idle.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(group_version(db.prefix("group 00")), 2000);
}

#[test]
fn an_idle_keyspace_does_not_pin_the_log() {
    for threads in [0, 1, 2] {
        guarded(move || idle_keyspace_does_not_pin_the_log(threads));
    }
}

#[test]
fn wait_idle_leaves_nothing_due() {
    guarded(|| {
        for threads in [0, 1, 4] {
            let place = Place::simulated();
            let db = place.open(options(threads), small());
            thread::scope(|scope| {
                for group in 0..3 {
                    let db = &db;
                    scope.spawn(move || {
                        for version in 1..=100 {
                            write_group(db, group, version, WriteOptions::default()).unwrap();
                            if version % 25 == 0 {
                                db.wait_idle().unwrap();
                            }
                        }
                    });
                }
            });
            db.wait_idle().unwrap();
            let before = db.metrics();
            db.wait_idle().unwrap();
            let after = db.metrics();
            let work = |m: &esker::Metrics| (m.flushes, m.compactions, m.trivial_moves);
            assert_eq!(work(&before), work(&after), "it was not idle");
            assert_eq!(after.keyspaces[0].immutable_memtables, 0);
            assert!(after.keyspaces[0].levels[0].runs < 3, "{after}");
        }
    });
}

#[test]
fn a_write_that_may_not_wait_is_refused_and_leaves_nothing() {
    guarded(|| {
        let fs = SimFs::new();
        let builder = Db::builder().options(options(2)).default_keyspace(small());
        let db = builder.file_system(Arc::new(fs.clone())).open("/db").unwrap();
        // No table can be made, so memtables fill up.
        fs.fail_when("create .table", libc::ENOSPC, esker::fs::Repeat::Forever);
        let fail = WriteOptions { stall: Stall::Fail, ..WriteOptions::default() };
        let mut version = 0;
        let error = loop {
            match write_group(&db, 0, version + 1, fail) {
                Ok(()) => version += 1,
                Err(error) => break error,
            }
            assert!(version < 10_000, "memtables never filled up");
        };
        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        assert!(error.advice().is_some());
        let before = db.metrics();
        let one = db.put_with("single", "value", &fail).unwrap_err();
        assert_eq!(one.kind(), ErrorKind::Busy, "{one}");
        let after = db.metrics();
        assert_eq!((before.wal_bytes, before.sequence), (after.wal_bytes, after.sequence));
        assert_eq!(group_version(db.prefix("group 00")), version);
        assert!(db.get("single").unwrap().is_none());
        // One that waits is told what keeps it from going on.
        let waited = write_group(&db, 0, version + 1, WriteOptions::default()).unwrap_err();
        assert_eq!(waited.kind(), ErrorKind::Io, "{waited}");
        fs.clear_faults();
        write_group(&db, 0, version + 1, WriteOptions::default()).unwrap();
        assert_eq!(group_version(db.prefix("group 00")), version + 1);
        db.close().unwrap();
    });
}

#[test]
fn readers_of_a_failed_log_go_on_and_every_writer_is_told() {
    guarded(|| {
        for fault in ["sync_data .wal", "write .wal", "sync_data MANIFEST"] {
            for after in [1, 5, 50] {
                let fs = SimFs::new();
                let builder = Db::builder().options(options(2)).default_keyspace(small());
                let db = builder.file_system(Arc::new(fs.clone())).open("/db").unwrap();
                thread::scope(|scope| {
                    for group in 0..6 {
                        let (db, fs) = (&db, &fs);
                        scope.spawn(move || {
                            let mut acked = 0;
                            for version in 1.. {
                                if group == 0 && version == after {
                                    fs.fail_when(fault, libc::EIO, esker::fs::Repeat::Forever);
                                }
                                let durability = DURABILITIES[group % 2];
                                let options = WriteOptions::with_durability(durability);
                                match write_group(db, group, version, options) {
                                    Ok(()) => acked = version,
                                    Err(error) => {
                                        let kinds = [ErrorKind::Io, ErrorKind::Poisoned];
                                        assert!(kinds.contains(&error.kind()), "{error}");
                                        break;
                                    }
                                }
                            }
                            let seen = group_version(db.prefix(format!("group {group:02}")));
                            assert!(seen >= acked, "acknowledged {acked}, seen {seen}");
                        });
                    }
                });
                let error = db.put("k", "v").unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
            }
        }
    });
}

#[test]
fn the_last_handle_dropped_closes_and_another_opens_at_once() {
    guarded(|| {
        let place = Place::real();
        for round in 1..=10 {
            let db = place.open(options(2), small());
            thread::scope(|scope| {
                for group in 0..4 {
                    let db = db.clone();
                    scope.spawn(move || {
                        write_group(&db, group, round, WriteOptions::default()).unwrap();
                    });
                }
            });
            let snapshot = db.snapshot();
            drop(db);
            let error = Db::open(&place.dir).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Locked, "a snapshot keeps it open: {error}");
            drop(snapshot);
            let db = place.open(options(2), small());
            for group in 0..4 {
                assert_eq!(group_version(db.prefix(format!("group {group:02}"))), round);
            }
        }
        assert!(Path::new(&place.dir).join("LOCK").exists());
    });
}
