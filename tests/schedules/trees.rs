//! Versions and their tables: who holds a table keeps its file, and who lets go of it last gets it removed.

use std::sync::Arc;

use esker::fs::SimFs;
use esker::{Db, Durability, KeyspaceOptions, WriteBatch};

use super::explore::{below, explore};
use super::support::{
    check_left, go, join, open_with, options, pick, small, value, version_of, with,
};

const KEYS: u64 = 6;

fn key(index: u64) -> String {
    format!("key {index}")
}

fn write_all(db: &Db, version: u64) {
    let mut batch = WriteBatch::new();
    for index in 0..KEYS {
        batch.put(key(index), value(version, 1500));
    }
    db.write_with(batch, &with(Durability::Buffered)).unwrap();
}

/// A tree of several tables, and the places of tables that are kept open all taken by another: so whoever goes on to
/// the next table of a run opens its file.
fn prepared(fs: &Arc<SimFs>, background_threads: usize) -> Db {
    let db = open_with(fs, options(background_threads), keyspace());
    let other = db.keyspace("other", keyspace()).unwrap();
    for index in 0..8 {
        other.put(key(index), value(1, 5000)).unwrap();
    }
    other.flush().unwrap();
    other.compact_range::<&str>(..).unwrap();
    assert_eq!(other.iter().count(), 8);
    write_all(&db, 1);
    db.flush().unwrap();
    db.compact_range::<&str>(..).unwrap();
    db
}

/// Memtables are flushed when somebody asks.
fn keyspace() -> KeyspaceOptions {
    KeyspaceOptions { memtable_bytes: 64 << 10, ..small() }
}

/// Holds a moment and reads it, in pieces, while the tables it stands in are merged away.
fn hold(db: &Db) {
    let snapshot = db.snapshot();
    let mut iter = snapshot.iter();
    let first = iter.next().unwrap().unwrap();
    let version = version_of(Some(&first.1));
    if below(2) == 0 {
        let read = snapshot.get(key(below(KEYS))).unwrap();
        assert_eq!(version_of(read.as_deref()), version, "a snapshot moved");
    }
    let rest: Vec<_> = iter.map(|item| item.unwrap()).collect();
    assert_eq!(rest.len() as u64, KEYS - 1, "keys are missing");
    assert!(rest.iter().all(|(_, value)| version_of(Some(value)) == version), "a snapshot moved");
    drop(snapshot);
    // A value outlives everything that it was read through.
    assert_eq!(version_of(Some(&first.1)), version);
}

fn hold_while_merging(background_threads: usize) {
    let fs = Arc::new(SimFs::new());
    let db = prepared(&fs, background_threads);
    let holders = (0..2).map(|_| {
        let db = db.clone();
        go(move || hold(&db))
    });
    let mut threads: Vec<_> = holders.collect();
    let writer = db.clone();
    threads.push(go(move || {
        for version in 2..=3 {
            write_all(&writer, version);
            writer.flush().unwrap();
        }
        match pick(&[0, 1, 2]) {
            0 | 1 => writer.compact_range::<&str>(..).unwrap(),
            _ => writer.wait_idle().unwrap(),
        }
    }));
    join(threads);
    db.wait_idle().unwrap();
    db.close().unwrap();
    check_left(&fs);
}

#[test]
fn who_holds_a_table_keeps_its_file_and_none_is_left() {
    explore("trees_inline", (20, 800, 100_000), || hold_while_merging(0));
}

#[test]
fn who_holds_a_table_keeps_its_file_from_other_threads() {
    explore("trees_threads", (20, 800, 100_000), || hold_while_merging(2));
}

/// An iterator may outlive its database; what it holds is waste that the next open removes.
#[test]
fn an_iterator_outlives_the_database() {
    explore("trees_outlive", (10, 400, 50_000), || {
        let fs = Arc::new(SimFs::new());
        let db = prepared(&fs, 2);
        let iter = db.iter();
        let reader = go(move || {
            assert_eq!(iter.map(|item| version_of(Some(&item.unwrap().1))).sum::<u64>(), KEYS);
        });
        write_all(&db, 2);
        db.flush().unwrap();
        db.compact_range::<&str>(..).unwrap();
        db.close().unwrap();
        reader.join().unwrap();
        let db = open_with(&fs, options(0), keyspace());
        assert!(db.verify().unwrap().is_ok());
    });
}
