//! Each public operation does what its documentation says, on the real file system.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::clock::ManualClock;
use esker::fs::sim_fs::SimFs;
use esker::{Db, Durability, ErrorKind, Fifo, Iter, KeyspaceOptions, WriteBatch, WriteOptions};

use crate::support::Setup;

fn open(dir: &Path) -> Db {
    Db::open(dir).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn pairs(
    iter: impl Iterator<Item = esker::Result<(Vec<u8>, esker::Value)>>,
) -> Vec<(String, String)> {
    iter.map(|item| item.map(|(key, value)| (text(&key), text(&value))).unwrap()).collect()
}

fn keys(iter: impl Iterator<Item = esker::Result<(Vec<u8>, esker::Value)>>) -> String {
    pairs(iter).into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(" ")
}

fn own(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn put_get_delete_reopen_with_every_durability() {
    for durability in
        [Durability::Sync, Durability::Buffered, Durability::Async, Durability::Disabled]
    {
        let dir = tempfile::tempdir().unwrap();
        let db = open(dir.path());
        let options = WriteOptions::with_durability(durability);
        for (key, value) in [("a", "1"), ("b", "2"), ("", "empty"), ("c", "")] {
            db.put_with(key, value, &options).unwrap();
        }
        db.delete_with("b", &options).unwrap();
        let expected = own(&[("", "empty"), ("a", "1"), ("c", "")]);
        assert!(db.get("b").unwrap().is_none());
        assert_eq!(pairs(db.iter()), expected);
        db.close().unwrap();
        let db = open(dir.path());
        assert_eq!(pairs(db.iter()), expected, "{durability:?}");
        db.compact_range::<&[u8]>(..).unwrap();
        let mut backward = pairs(db.iter().rev());
        backward.reverse();
        assert_eq!(backward, expected);
        let report = db.verify().unwrap();
        assert!(report.is_ok(), "{report:?}");
    }
}

#[test]
fn ranges_prefixes_and_both_ends() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    for key in ["a", "ab", "abc", "b", "ba", "c"] {
        db.put(key, key).unwrap();
        if key == "abc" {
            db.flush().unwrap();
        }
    }
    assert_eq!(keys(db.range("ab".."ba")), "ab abc b");
    assert_eq!(keys(db.range("ab"..="ba")), "ab abc b ba");
    assert_eq!(keys(db.range::<&str>(..)), "a ab abc b ba c");
    assert_eq!(keys(db.range("z"..)), "");
    assert_eq!(keys(db.range("c".."a")), "");
    assert_eq!(keys(db.prefix("ab")), "ab abc");
    assert_eq!(keys(db.prefix("a").rev()), "abc ab a");
    let mut iter: Iter = db.iter();
    let mut ends = String::new();
    while let Some(front) = iter.next() {
        ends += &text(&front.unwrap().0);
        ends += "<";
        if let Some(back) = iter.next_back() {
            ends += &text(&back.unwrap().0);
            ends += ">";
        }
    }
    assert_eq!(ends, "a<c>ab<ba>abc<b>");
    assert!(iter.next_back().is_none() && iter.next().is_none());
}

#[test]
fn snapshots_see_one_moment_of_all_keyspaces() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let other = db.keyspace("other", KeyspaceOptions::default()).unwrap();
    let mut batch = WriteBatch::new();
    batch.put("k", "1").put_in(&other, "k", "one");
    db.write(batch).unwrap();
    let snapshot = db.snapshot();
    db.put("k", "2").unwrap();
    other.delete("k").unwrap();
    db.flush().unwrap();
    db.compact_range::<&[u8]>(..).unwrap();
    other.compact_range::<&[u8]>(..).unwrap();
    assert_eq!(snapshot.get("k").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(pairs(snapshot.keyspace(&other).unwrap().iter()), own(&[("k", "one")]));
    assert_eq!(db.get("k").unwrap().as_deref(), Some(&b"2"[..]));
    assert!(other.get("k").unwrap().is_none());
    drop(snapshot);
    db.compact_range::<&[u8]>(..).unwrap();
    other.compact_range::<&[u8]>(..).unwrap();
    let metrics = db.metrics();
    let entries: u64 =
        metrics.keyspaces.iter().flat_map(|k| &k.levels).map(|level| level.entries).sum();
    assert_eq!(entries, 1, "the old versions and the tombstone are gone\n{metrics}");
}

#[test]
fn keyspaces_are_created_listed_reopened_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let options = KeyspaceOptions { block_bytes: 1024, ..KeyspaceOptions::default() };
    let logs = db.keyspace("logs", options.clone()).unwrap();
    logs.put("k", "v").unwrap();
    assert_eq!(db.list_keyspaces(), ["default", "logs"]);
    drop(logs);
    db.close().unwrap();
    let db = open(dir.path());
    let logs = db.open_keyspace("logs").unwrap().unwrap();
    assert_eq!(logs.options(), options);
    assert_eq!(logs.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    assert!(db.get("k").unwrap().is_none());
    assert!(db.drop_keyspace("logs").unwrap());
    assert!(!db.drop_keyspace("logs").unwrap());
    assert_eq!(logs.put("k", "v").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(logs.get("k").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(db.drop_keyspace("default").unwrap_err().kind(), ErrorKind::InvalidArgument);
    let again = db.keyspace("logs", options).unwrap();
    assert!(again.get("k").unwrap().is_none(), "a new keyspace of an old name is empty");
    drop((logs, again));
    db.close().unwrap();
    let db = open(dir.path());
    assert!(db.open_keyspace("logs").unwrap().unwrap().iter().next().is_none());
}

#[test]
fn a_closed_database_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path());
    let clone = db.clone();
    let snapshot = db.snapshot();
    db.put("k", "v").unwrap();
    let mut iter = clone.iter();
    db.close().unwrap();
    assert!(iter.next().unwrap().is_ok(), "an iterator made before goes on");
    for error in [
        clone.put("k", "w").unwrap_err(),
        clone.get("k").unwrap_err(),
        snapshot.get("k").unwrap_err(),
        clone.iter().next().unwrap().unwrap_err(),
        clone.flush().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
    open(dir.path());
}

/// Puts `count` values of a kilobyte under ascending keys, and waits for compaction.
fn put_kilobytes(db: &Db, from: u32, count: u32) {
    for at in from..from + count {
        db.put(at.to_be_bytes(), vec![at as u8; 1024]).unwrap();
    }
    db.flush().unwrap();
}

#[test]
fn fifo_drops_the_oldest_by_bytes_and_by_age() {
    let fs = SimFs::new();
    let clock = Arc::new(ManualClock::at_unix_ms(1_700_000_000_000));
    let open = |fifo: Fifo| {
        let setup = Setup::small();
        let builder = Db::builder()
            .options(setup.db)
            .default_keyspace(setup.keyspace.compaction(fifo))
            .file_system(Arc::new(fs.clone()))
            .clock(clock.clone());
        builder.open(Path::new("/db")).unwrap()
    };
    let kept = |db: &Db| -> Vec<u32> {
        let key = |key: Vec<u8>| u32::from_be_bytes(key.try_into().unwrap());
        db.iter().map(|item| key(item.unwrap().0)).collect()
    };
    let db = open(Fifo { total_bytes_max: 64 << 10, ..Fifo::default() });
    put_kilobytes(&db, 0, 300);
    let keys = kept(&db);
    assert!((40..=64).contains(&keys.len()), "{} kilobytes are kept of 64", keys.len());
    assert!(keys.iter().copied().eq(keys[0]..300), "the newest, without a gap: {keys:?}");
    db.close().unwrap();

    let db = open(Fifo { age_max_s: 10, ..Fifo::default() });
    clock.advance(Duration::from_secs(9));
    put_kilobytes(&db, 1000, 1);
    assert_eq!(kept(&db).len(), keys.len() + 1);
    clock.advance(Duration::from_secs(2));
    put_kilobytes(&db, 2000, 1);
    assert_eq!(kept(&db), [1000, 2000]);
    assert!(db.verify().unwrap().is_ok());
    db.close().unwrap();
}
