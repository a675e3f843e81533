//! Ingests beside writers of the same keys: a number says which came last, and every way of reading agrees with it.

use std::sync::Arc;

use esker::Db;
use esker::fs::SimFs;

use super::explore::{below, explore};
use super::support::{check_left, go, join, open, pick, value, version, version_of};

const KEYS: u64 = 3;

fn key(index: u64) -> String {
    format!("key {index}")
}

fn ingest(db: &Db, count: u64) {
    for at in 1..=count {
        let mut ingest = db.default_keyspace().ingest().unwrap();
        for index in 0..KEYS {
            ingest.put(key(index), value(100 + at, 100)).unwrap();
        }
        ingest.finish().unwrap();
        assert!(version(db, key(below(KEYS))) > 0);
    }
}

fn put(db: &Db, count: u64) {
    for at in 1..=count {
        let index = below(KEYS);
        // Some fill a memtable.
        db.put(key(index), value(at, pick(&[10, 13 << 10]))).unwrap();
        assert!(version(db, key(index)) > 0);
    }
}

/// All versions, key by key, forwards and backwards.
fn all(db: &Db) -> Vec<u64> {
    let by_key: Vec<u64> = (0..KEYS).map(|index| version(db, key(index))).collect();
    let item = |item: esker::Result<(Vec<u8>, esker::Value)>| version_of(Some(&item.unwrap().1));
    let forwards: Vec<u64> = db.iter().map(item).collect();
    let mut backwards: Vec<u64> = db.iter().rev().map(item).collect();
    backwards.reverse();
    assert_eq!(by_key, forwards, "a get finds another version than a scan");
    assert_eq!(by_key, backwards, "a get finds another version than a scan backwards");
    by_key
}

/// A version that lies above a newer one is found by a get, until a merge puts them in order.
#[test]
fn an_ingest_lies_above_every_older_version() {
    explore("ingest", (60, 1_500, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let db = open(&fs, pick(&[0, 1, 2]));
        let (ingester, writer) = (db.clone(), db.clone());
        join(vec![go(move || ingest(&ingester, 2)), go(move || put(&writer, 4))]);
        let found = all(&db);
        assert!(found.iter().all(|version| *version > 0), "{found:?}");
        db.flush().unwrap();
        assert_eq!(all(&db), found, "a flush changed what is read");
        db.compact_range::<&str>(..).unwrap();
        assert_eq!(all(&db), found, "a merge changed what is read");
        db.close().unwrap();
        check_left(&fs);
    });
}
