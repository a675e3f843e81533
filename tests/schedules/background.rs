//! Scheduling: flush, compaction, waiting, pausing, cancelling, closing and dropping, from several threads at once.
//! Nobody may wait for ever.

use std::sync::Arc;

use esker::event::Event;
use esker::fs::SimFs;
use esker::{Db, Durability, ErrorKind, Result, WriteBatch};
use shuttle::sync::{Condvar, Mutex};

use super::explore::{below, explore};
use super::support::{
    DIR, builder, check_left, go, join, open, open_with, options, pick, small, value, with,
};

/// One call of a user's, of any kind.
fn call(db: &Db, thread: u64) -> Result<()> {
    match below(10) {
        0 => db.flush(),
        1 => db.compact_range::<&str>(..),
        2 => db.wait_idle(),
        3 => {
            let pause = db.pause_compactions();
            let result = db.flush();
            drop(pause);
            result
        }
        4 => {
            db.cancel_compactions();
            Ok(())
        }
        5 => db.sync(),
        6 => {
            let snapshot = db.snapshot();
            snapshot.iter().try_for_each(|item| item.map(drop))
        }
        _ => {
            let mut batch = WriteBatch::new();
            for index in 0..4 {
                batch.put(format!("{thread} {index}"), value(1, 700));
            }
            let durability = pick(&[
                Durability::Sync,
                Durability::Buffered,
                Durability::Async,
                Durability::Disabled,
            ]);
            db.write_with(batch, &with(durability))
        }
    }
}

/// Calls until done or closed; no other answer is right.
fn use_it(db: &Db, thread: u64, count: u64) {
    for _ in 0..count {
        match call(db, thread) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Cancelled => {}
            Err(error) if error.kind() == ErrorKind::Closed => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn everything_at_once(background_threads: usize, closes: bool) {
    let fs = Arc::new(SimFs::new());
    let db = open(&fs, background_threads);
    let users = (0..3).map(|thread| {
        let db = db.clone();
        go(move || use_it(&db, thread, 4))
    });
    let users: Vec<_> = users.collect();
    if closes {
        db.close().unwrap();
        join(users);
    } else {
        join(users);
        db.wait_idle().unwrap();
        drop(db);
    }
    check_left(&fs);
}

#[test]
fn every_call_returns_with_one_thread() {
    explore("background_one", (20, 500, 100_000), || everything_at_once(1, false));
}

#[test]
fn every_call_returns_with_three_threads() {
    explore("background_three", (20, 500, 100_000), || everything_at_once(3, false));
}

#[test]
fn a_close_ends_what_runs_and_every_call_returns() {
    explore("background_close", (20, 500, 100_000), || {
        everything_at_once(pick(&[0, 1, 2]), true);
    });
}

/// What flushes a keyspace, and what listens, beside the one that drops it.
#[test]
fn a_keyspace_is_dropped_while_it_is_flushed() {
    explore("background_dropped", (20, 500, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let listener = |_: &Event| {};
        let db = builder(&fs, options(pick(&[0, 1, 2])), small()).listener(Arc::new(listener));
        let db = db.open(DIR).unwrap();
        let keyspace = db.keyspace("dropped", small()).unwrap();
        keyspace.put("a", "1").unwrap();
        let flushers = (0..2).map(|_| {
            let db = db.clone();
            go(move || db.flush().unwrap())
        });
        let mut all: Vec<_> = flushers.collect();
        let writer = keyspace.clone();
        all.push(go(move || match writer.put("b", value(1, 13 << 10)) {
            Ok(()) => drop(writer.put("c", "2")),
            Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}"),
        }));
        assert!(db.drop_keyspace("dropped").unwrap());
        join(all);
        drop(keyspace);
        db.close().unwrap();
        check_left(&fs);
    });
}

/// Two handles close, a third is dropped, an async write waits for its timer: all at once.
#[test]
fn handles_close_and_drop_at_once() {
    explore("background_drop", (20, 500, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let db = open_with(&fs, options(pick(&[1, 2])), small());
        db.put_with("a", "1", &with(Durability::Async)).unwrap();
        let closers = (0..2).map(|_| {
            let db = db.clone();
            go(move || db.close().unwrap())
        });
        let closers: Vec<_> = closers.collect();
        drop(db);
        join(closers);
        let db = open(&fs, 0);
        assert_eq!(db.get("a").unwrap().as_deref(), Some(&b"1"[..]));
        drop(db);
        check_left(&fs);
    });
}

/// A write that fills a memtable makes a flush due, and two flushes a compaction: nobody has to ask or to wait.
#[test]
fn what_is_due_is_done_without_anybody_asking() {
    explore("background_due", (20, 500, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let told = Arc::new((Mutex::new((0, 0)), Condvar::new()));
        let heard = Arc::clone(&told);
        let listener = move |event: &Event| {
            let mut counts = heard.0.lock().unwrap();
            match event {
                Event::FlushEnd(_) => counts.0 += 1,
                Event::CompactionEnd(_) => counts.1 += 1,
                _ => return,
            }
            heard.1.notify_all();
        };
        let db = builder(&fs, options(pick(&[1, 2])), small()).listener(Arc::new(listener));
        let db = db.open(DIR).unwrap();
        for (flushes, compactions) in [(1, 0), (2, 1)] {
            let mut counts = told.0.lock().unwrap();
            let before = counts.0;
            drop(counts);
            // The memtable is full after the first, and is rotated by the second.
            db.put("a", value(flushes, 12 << 10)).unwrap();
            db.put("b", value(flushes, 8)).unwrap();
            counts = told.0.lock().unwrap();
            while counts.0 == before || counts.1 < compactions {
                counts = told.1.wait(counts).unwrap();
            }
        }
        db.close().unwrap();
        check_left(&fs);
    });
}
