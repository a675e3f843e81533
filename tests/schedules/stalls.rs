//! Stalls: writers that were stopped are woken, by the work they wait for or by its failure.

use std::sync::Arc;

use esker::fs::{Repeat, SimFs};
use esker::{Db, Durability, ErrorKind, KeyspaceOptions, Stall, WriteBatch, WriteOptions};

use super::explore::{below, explore};
use super::support::{check_left, go, join, open_with, options, pick, small, value};

const EIO: i32 = 5;
/// Runs in level 0 at which writers stop, at the least.
const LEVEL0_RUNS_MAX: u64 = 20;

fn write(db: &Db, thread: u64, version: u64, stall: Stall) -> esker::Result<()> {
    let mut batch = WriteBatch::new();
    for index in 0..4 {
        batch.put(format!("{thread} {index}"), value(version, 900));
    }
    db.write_with(batch, &WriteOptions { durability: Some(Durability::Buffered), stall })
}

/// Every batch fills a memtable, and writers outrun one thread that flushes and compacts.
#[test]
fn stopped_writers_go_on_when_there_is_room() {
    explore("stalls_room", (20, 500, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let db = open_with(
            &fs,
            options(pick(&[1, 2])),
            KeyspaceOptions { memtable_bytes: 4 << 10, ..small() },
        );
        let writers = (0..3).map(|thread| {
            let db = db.clone();
            go(move || {
                for version in 1..=4 {
                    let stall = if below(4) == 0 { Stall::Fail } else { Stall::Wait };
                    match write(&db, thread, version, stall) {
                        Err(error) if stall == Stall::Fail => {
                            assert_eq!(error.kind(), ErrorKind::Busy);
                        }
                        result => result.unwrap(),
                    }
                }
            })
        });
        join(writers.collect::<Vec<_>>());
        db.wait_idle().unwrap();
        db.close().unwrap();
        check_left(&fs);
    });
}

/// The flush or the compaction that writers wait for fails, once or for ever: they get an error, or go on.
#[test]
fn stopped_writers_learn_that_the_work_failed() {
    explore("stalls_failure", (20, 500, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let db = open_with(
            &fs,
            options(pick(&[1, 2])),
            KeyspaceOptions { memtable_bytes: 4 << 10, ..small() },
        );
        let repeat = pick(&[Repeat::Once, Repeat::Forever]);
        fs.fail_at(fs.op_count() + 1 + below(60), EIO, repeat);
        let writers = (0..3).map(|thread| {
            let db = db.clone();
            go(move || {
                for version in 1..=4 {
                    if let Err(error) = write(&db, thread, version, Stall::Wait) {
                        let kind = error.kind();
                        assert!(matches!(kind, ErrorKind::Io | ErrorKind::Poisoned), "{error}");
                    }
                }
                if below(2) == 0 {
                    let _ = db.wait_idle();
                }
            })
        });
        join(writers.collect::<Vec<_>>());
        fs.clear_faults();
        drop(db);
        let db = open_with(&fs, options(0), small());
        assert!(db.verify().unwrap().is_ok());
    });
}

/// Level 0 is full and compaction paused, so that writers stop; then it goes on, or the database is closed.
#[test]
fn writers_that_compaction_stopped_are_woken() {
    explore("stalls_pressure", (20, 500, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let keyspace = KeyspaceOptions { memtable_bytes: 64 << 10, ..small() };
        let db = open_with(&fs, options(2), keyspace);
        let pause = db.pause_compactions();
        for version in 0..LEVEL0_RUNS_MAX {
            db.put("a", value(version, 100)).unwrap();
            db.flush().unwrap();
        }
        let writers = (0..2).map(|thread| {
            let db = db.clone();
            go(move || {
                // At any time until the merge is done.
                (0..below(600)).for_each(|_| shuttle::thread::yield_now());
                if let Err(error) = write(&db, thread, 1, Stall::Wait) {
                    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        if below(2) == 0 {
            drop(pause);
            join(writers);
            drop(db);
        } else {
            db.close().unwrap();
            join(writers);
            drop(pause);
        }
        check_left(&fs);
    });
}
