//! Scheduling: compaction is paused, cancelled, limited and watched.
//!
//! The clock stands still unless the test moves it, so that a compaction over its rate waits for as long as the test
//! wants: it cannot end, however the threads are scheduled. Nothing sleeps and nothing is asserted on time.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use esker::clock::ManualClock;
use esker::fs::{FileSystem, SimFs};
use esker::{
    CompactOptions, CompactionProgress, CompactionRate, Db, DbOptions, ErrorKind, KeyspaceOptions,
    Leveled, Metrics, Stall, WriteBatch, WriteOptions,
};

use crate::concurrency::guarded;

/// A database on a simulated file system, with a clock that stands still.
struct Bed {
    fs: SimFs,
    clock: Arc<ManualClock>,
    db: Db,
}

fn small() -> KeyspaceOptions {
    KeyspaceOptions {
        memtable_bytes: 8 << 20,
        table_bytes: 1 << 20,
        compaction: Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 4 }.into(),
        ..KeyspaceOptions::default()
    }
}

fn bed(background_threads: usize, compaction_rate: CompactionRate) -> Bed {
    let (fs, clock) = (SimFs::new(), Arc::new(ManualClock::default()));
    let options = DbOptions { background_threads, compaction_rate, ..DbOptions::default() };
    let builder = Db::builder().options(options).default_keyspace(small());
    let builder = builder.clock(Arc::<ManualClock>::clone(&clock));
    let db = builder.file_system(Arc::new(fs.clone())).open("/db").unwrap();
    Bed { fs, clock, db }
}

/// Flushes a run of `count` keys with values of 1 KiB.
fn flush_run(db: &Db, count: u64) {
    let mut batch = WriteBatch::new();
    for key in 0..count {
        batch.put(key.to_be_bytes(), [key as u8; 1024]);
    }
    db.write(batch).unwrap();
    db.flush().unwrap();
}

fn merges(db: &Db) -> u64 {
    db.metrics().compactions
}

fn level0_runs(metrics: &Metrics) -> u64 {
    metrics.keyspaces[0].levels[0].runs
}

fn table_count(db: &Db) -> u64 {
    db.metrics().keyspaces[0].levels.iter().map(|level| level.tables).sum()
}

fn key_count(db: &Db) -> usize {
    db.iter().inspect(|item| assert!(item.is_ok())).count()
}

/// Every table file is one that the tree names, and every byte of it is right.
fn assert_clean(bed: &Bed) {
    let file_count = || {
        let listed = bed.fs.list(Path::new("/db")).unwrap().unwrap();
        let is_table = |name: &str| Path::new(name).extension().is_some_and(|kind| kind == "table");
        listed.iter().filter(|entry| is_table(&entry.name)).count() as u64
    };
    // Replaced tables are removed in the background, by a thread that is awake.
    while file_count() != table_count(&bed.db) {
        bed.db.wait_idle().unwrap();
        thread::yield_now();
    }
    let report = bed.db.verify().unwrap();
    assert!(report.is_ok(), "{report:?}");
}

const FAIL: WriteOptions = WriteOptions { durability: None, stall: Stall::Fail };

#[test]
fn while_paused_flushes_go_on_and_writers_are_refused_in_the_end() {
    for threads in [0, 1, 2, 4] {
        guarded(move || {
            let Bed { db, .. } = bed(threads, CompactionRate::Unlimited);
            let pause = db.pause_compactions();
            let mut runs = 0;
            let error = loop {
                match db.put_with("key", "value", &FAIL) {
                    Ok(()) => db.flush().unwrap(),
                    Err(error) => break error,
                }
                runs += 1;
                assert!(runs < 100, "writers were never slowed");
            };
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
            db.wait_idle().unwrap();
            let metrics = db.metrics();
            assert_eq!((metrics.compactions, metrics.trivial_moves), (0, 0), "{metrics}");
            assert_eq!(level0_runs(&metrics), runs);
            drop(pause);
            db.wait_idle().unwrap();
            assert!(level0_runs(&db.metrics()) < 2, "it did not go on");
            db.put_with("key", "value", &FAIL).unwrap();
        });
    }
}

#[test]
fn a_stopped_writer_goes_on_when_the_pause_ends() {
    guarded(|| {
        let Bed { db, .. } = bed(2, CompactionRate::Unlimited);
        let pause = db.pause_compactions();
        let written = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..40 {
                    db.put("key", "value").unwrap();
                    db.flush().unwrap();
                    written.fetch_add(1, Ordering::Release);
                }
            });
            // Level 0 takes no more than twenty runs.
            while written.load(Ordering::Acquire) < 20 {
                thread::yield_now();
            }
            assert_eq!(level0_runs(&db.metrics()), 20);
            drop(pause);
        });
        assert_eq!(written.load(Ordering::Acquire), 40);
    });
}

#[test]
fn what_somebody_asks_for_runs_under_a_pause() {
    for threads in [0, 2] {
        guarded(move || {
            let bed = bed(threads, CompactionRate::Unlimited);
            let _pause = bed.db.pause_compactions();
            flush_run(&bed.db, 100);
            flush_run(&bed.db, 100);
            bed.db.compact_range::<&[u8]>(..).unwrap();
            bed.db.wait_idle().unwrap();
            assert_eq!((merges(&bed.db), level0_runs(&bed.db.metrics())), (1, 0));
        });
    }
}

#[test]
fn a_manual_compaction_tells_how_far_it_is() {
    for threads in [0, 2] {
        guarded(move || {
            let bed = bed(threads, CompactionRate::Unlimited);
            let _pause = bed.db.pause_compactions();
            for _ in 0..3 {
                flush_run(&bed.db, 2000);
            }
            let mut seen: Vec<CompactionProgress> = Vec::new();
            let keyspace = bed.db.default_keyspace();
            let compact = |seen: &mut Vec<CompactionProgress>| {
                keyspace.compact_range_with::<&[u8]>(.., CompactOptions::default(), &mut |now| {
                    seen.push(now);
                    ControlFlow::Continue(())
                })
            };
            let done = compact(&mut seen).unwrap();
            // Three runs of keys of 8 and values of 1024 bytes.
            assert_eq!((done.bytes_read, done.bytes_total), (3 * 2000 * 1032, 3 * 2000 * 1032));
            assert_eq!(done.tables_written, table_count(&bed.db));
            assert!(done.bytes_written > 2000 * 1032 && done.tables_written > 1, "{done:?}");
            assert!(seen.len() > 5, "{seen:?}");
            assert!(seen.is_sorted_by_key(|now| now.bytes_read), "{seen:?}");
            assert_eq!(seen.last(), Some(&done));
            assert_eq!(compact(&mut seen).unwrap(), CompactionProgress::default(), "in shape");
        });
    }
}

#[test]
fn a_manual_compaction_is_stopped_and_leaves_nothing() {
    for threads in [0, 1, 2] {
        guarded(move || {
            let bed = bed(threads, CompactionRate::Unlimited);
            let pause = bed.db.pause_compactions();
            for _ in 0..2 {
                flush_run(&bed.db, 3000);
            }
            let keyspace = bed.db.default_keyspace();
            let stop = |by_break: bool| {
                let error = keyspace
                    .compact_range_with::<&[u8]>(.., CompactOptions::default(), &mut |now| {
                        let is_half = now.bytes_read > now.bytes_total / 2;
                        if is_half && !by_break {
                            bed.db.cancel_compactions();
                        }
                        if is_half && by_break {
                            ControlFlow::Break(())
                        } else {
                            ControlFlow::Continue(())
                        }
                    })
                    .unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
                assert!(error.advice().is_some());
                assert_clean(&bed);
            };
            stop(true);
            stop(false);
            assert_eq!(bed.db.metrics().background_errors, 0);
            assert_eq!(key_count(&bed.db), 3000);
            drop(pause);
            bed.db.wait_idle().unwrap();
            assert!(level0_runs(&bed.db.metrics()) < 2);
            assert_clean(&bed);
        });
    }
}

/// One MiB per second: a MiB written by compaction is paid for when the clock has gone on by a second.
const RATE: CompactionRate = CompactionRate::BytesPerSecond(1 << 20);

#[test]
fn a_limited_compaction_takes_its_share_and_flush_passes_it() {
    for threads in [1, 2] {
        guarded(move || {
            let bed = bed(threads, RATE);
            let _pause = bed.db.pause_compactions();
            let keyspace = bed.db.default_keyspace();
            let limited = CompactOptions { is_rate_limited: true };
            flush_run(&bed.db, 100);
            flush_run(&bed.db, 100);
            let first = AtomicU64::new(0);
            let has_written = AtomicBool::new(false);
            thread::scope(|scope| {
                let compaction = scope.spawn(|| {
                    keyspace.compact_range_with::<&[u8]>(.., limited, &mut |now| {
                        let written = now.bytes_written;
                        let _ =
                            first.compare_exchange(0, written, Ordering::AcqRel, Ordering::Acquire);
                        let is_done = now.bytes_read == now.bytes_total;
                        has_written.store(is_done, Ordering::Release);
                        ControlFlow::Continue(())
                    })
                });
                while !has_written.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                // Nothing was owed when it first passed. Now it owes what it had written then, and as much again for
                // the flushes before; it waits, or will in a moment. Flush does not.
                flush_run(&bed.db, 50);
                assert_eq!(bed.db.metrics().flushes, 3);
                let owed = 2 * first.load(Ordering::Acquire);
                let owed_ns = (owed * 1_000_000_000).div_ceil(1 << 20);
                bed.clock.advance(Duration::from_nanos(owed_ns - 1));
                flush_run(&bed.db, 50);
                assert!(!compaction.is_finished(), "a nanosecond is not paid for");
                assert_eq!(merges(&bed.db), 0);
                bed.clock.advance(Duration::from_nanos(1));
                let done = compaction.join().unwrap().unwrap();
                assert_eq!(bed.db.metrics().compaction_limited_bytes, done.bytes_written);
            });
            assert_eq!((merges(&bed.db), bed.db.metrics().compaction_rate), (1, Some(1 << 20)));
        });
    }
}

/// A database one of whose automatic compactions waits for its share, for ever.
fn stuck(threads: usize) -> Bed {
    let bed = bed(threads, RATE);
    // One run is moved down; two are merged with it.
    for _ in 0..3 {
        flush_run(&bed.db, 2000);
    }
    // It has written and was granted something, and cannot end.
    while bed.db.metrics().compaction_limited_bytes == 0 {
        thread::yield_now();
    }
    assert_eq!(merges(&bed.db), 0);
    bed
}

#[test]
fn a_waiting_compaction_is_cancelled_and_flush_still_works() {
    for threads in [1, 2, 4] {
        guarded(move || {
            let bed = stuck(threads);
            flush_run(&bed.db, 10);
            let pause = bed.db.pause_compactions();
            bed.db.cancel_compactions();
            bed.db.wait_idle().unwrap();
            assert_eq!((merges(&bed.db), bed.db.metrics().background_errors), (0, 0));
            assert_clean(&bed);
            // Somebody who asks for it is not limited.
            bed.db.compact_range::<&[u8]>(..).unwrap();
            assert_eq!((merges(&bed.db), level0_runs(&bed.db.metrics())), (1, 0));
            drop(pause);
        });
    }
}

#[test]
fn a_cancelled_compaction_begins_again_without_a_pause() {
    guarded(|| {
        let bed = stuck(2);
        bed.db.cancel_compactions();
        // Nobody but the clock keeps it from ending now.
        while merges(&bed.db) == 0 {
            bed.clock.advance(Duration::from_secs(1));
            thread::yield_now();
        }
        let _pause = bed.db.pause_compactions();
        bed.db.cancel_compactions();
        bed.db.wait_idle().unwrap();
        assert_clean(&bed);
    });
}

#[test]
fn closing_does_not_wait_for_the_rate() {
    for threads in [1, 2, 4] {
        guarded(move || {
            let Bed { fs, db, .. } = stuck(threads);
            db.close().unwrap();
            let builder = Db::builder().default_keyspace(small());
            let db = builder.file_system(Arc::new(fs)).open("/db").unwrap();
            assert_eq!(key_count(&db), 2000);
            assert!(db.verify().unwrap().is_ok());
        });
    }
}

#[test]
fn auto_lets_go_while_somebody_waits() {
    guarded(|| {
        // The clock stands: a limit would never let it end.
        let bed = bed(2, CompactionRate::Auto);
        assert_eq!(bed.db.metrics().compaction_rate, Some(16 << 20));
        for _ in 0..6 {
            flush_run(&bed.db, 4000);
        }
        bed.db.wait_idle().unwrap();
        assert!(merges(&bed.db) > 0);
        assert_clean(&bed);
    });
}

#[test]
fn without_threads_there_is_no_limit() {
    let bed = bed(0, RATE);
    for _ in 0..4 {
        flush_run(&bed.db, 3000);
    }
    assert!(merges(&bed.db) > 0);
    assert_eq!(bed.db.metrics().compaction_rate, None);
}
