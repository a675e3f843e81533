//! Memtable publish and rotation, against readers and iterators; the leaves that split under them.

use std::sync::Arc;

use esker::fs::SimFs;
use esker::{Db, Durability, KeyspaceOptions, WriteBatch};

use super::explore::{below, explore};
use super::support::{
    check_left, go, join, open_with, options, pick, small, value, version, version_of, with,
};

const KEYS: u64 = 4;

/// Writes `version` under all keys of `group`, in one batch that takes a good part of a memtable.
fn write(db: &Db, group: u64, version: u64) {
    let mut batch = WriteBatch::new();
    for index in 0..KEYS {
        batch.put(format!("{group} {index}"), value(version, 600));
    }
    let durability = pick(&[Durability::Buffered, Durability::Disabled]);
    db.write_with(batch, &with(durability)).unwrap();
}

/// The one version that all keys of `group` have in `items`.
fn scanned(items: impl Iterator<Item = esker::Result<(Vec<u8>, esker::Value)>>) -> u64 {
    let versions: Vec<u64> = items.map(|item| version_of(Some(&item.unwrap().1))).collect();
    assert!(
        versions.len() as u64 == KEYS && versions.iter().all(|v| *v == versions[0]),
        "a batch in parts: {versions:?}"
    );
    versions[0]
}

/// As `scanned`, from the end.
fn scanned_back(db: &Db, group: u64) -> u64 {
    let mut cursor = db.cursor();
    let end = format!("{group} {}", KEYS - 1);
    cursor.seek_for_prev(&end).unwrap();
    let newest = version_of(Some(cursor.value()));
    for index in (0..KEYS).rev() {
        assert_eq!(cursor.key(), format!("{group} {index}").as_bytes());
        assert_eq!(version_of(Some(cursor.value())), newest, "a batch in parts");
        cursor.prev().unwrap();
    }
    newest
}

fn read(db: &Db, group: u64) {
    let mut newest = 1;
    for _ in 0..6 {
        let now = match below(4) {
            0 => version(db, format!("{group} {}", below(KEYS))),
            1 => scanned(db.prefix(format!("{group} "))),
            2 => scanned_back(db, group),
            _ => {
                // Held while memtables rotate and are flushed under it.
                let (snapshot, iter) = (db.snapshot(), db.prefix(format!("{group} ")));
                let at = version_of(snapshot.get(format!("{group} 0")).unwrap().as_deref());
                let later = scanned(iter);
                assert!(later >= at, "an iterator is older than the snapshot before it");
                assert_eq!(scanned(snapshot.prefix(format!("{group} "))), at, "a snapshot moved");
                at
            }
        };
        assert!(now >= newest, "a version went back from {newest} to {now}");
        newest = now;
    }
}

fn readers_and_writers(background_threads: usize) {
    let fs = Arc::new(SimFs::new());
    // Every batch fills a memtable, or two do.
    let keyspace = KeyspaceOptions { memtable_bytes: 4 << 10, memtables_max: 3, ..small() };
    let db = open_with(&fs, options(background_threads), keyspace);
    (0..2).for_each(|group| write(&db, group, 1));
    let mut threads = Vec::new();
    for group in 0..2 {
        let writer = db.clone();
        threads.push(go(move || (2..=4).for_each(|version| write(&writer, group, version))));
        let reader = db.clone();
        threads.push(go(move || read(&reader, group)));
    }
    join(threads);
    (0..2).for_each(|group| assert_eq!(scanned(db.prefix(format!("{group} "))), 4));
    db.close().unwrap();
    check_left(&fs);
}

#[test]
fn readers_keep_their_view_while_writers_rotate_and_flush() {
    explore("views_inline", (20, 800, 100_000), || readers_and_writers(0));
}

#[test]
fn readers_keep_their_view_while_threads_flush_and_compact() {
    explore("views_threads", (20, 800, 100_000), || readers_and_writers(2));
}

/// A read that took its number before its view would find that a merge has dropped the version for that number.
#[test]
fn what_a_merge_drops_is_needed_by_no_read_that_began_before() {
    explore("views_merged", (60, 800, 100_000), || {
        let fs = Arc::new(SimFs::new());
        let db = open_with(&fs, options(0), small());
        db.put("a", value(1, 10)).unwrap();
        let writer = db.clone();
        let writing = go(move || {
            for newer in 2..=3 {
                writer.put("a", value(newer, 10)).unwrap();
                writer.flush().unwrap();
                writer.compact_range::<&str>(..).unwrap();
            }
        });
        let reader = db.clone();
        let reading = go(move || {
            let mut newest = 1;
            for _ in 0..30 {
                let now = version(&reader, "a");
                assert!(now >= newest, "a version went back from {newest} to {now}");
                newest = now;
            }
        });
        join(vec![writing, reading]);
        assert_eq!(version(&db, "a"), 3);
        db.close().unwrap();
        check_left(&fs);
    });
}
