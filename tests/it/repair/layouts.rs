//! Repair of databases that were killed, not closed: with obsolete files beside the live ones, and holes in the log.
//!
//! The oracle: what repair says is lossless holds what the database held when it was killed.

use esker::fs::sim_fs::SimFs;
use esker::{Db, Durability, SizeTiered, WriteOptions};

use super::*;

fn names_of(fs: &SimFs, part: &str) -> Vec<String> {
    let mut names = fs.list_dir(DIR);
    names.retain(|name| name.contains(part));
    names.sort();
    names
}

fn lose_manifest(fs: &SimFs) {
    for name in names_of(fs, "MANIFEST") {
        damage(fs, &name, Damage::Missing);
    }
    damage(fs, "CURRENT", Damage::Missing);
}

/// In the snapshot that the newest manifest begins with; the edits behind that stay.
fn damage_snapshot(fs: &SimFs) {
    let manifest = names_of(fs, "MANIFEST").pop().unwrap();
    fs.flip(at(&manifest), 40, 1).unwrap();
}

fn repaired(fs: &SimFs) -> (RepairReport, Map) {
    let report = repair(fs, &RepairOptions::default()).unwrap();
    assert!(report.is_needed());
    let db = open(fs).unwrap();
    assert!(db.verify().unwrap().is_ok());
    let map = read_map(db.default_keyspace()).unwrap();
    db.compact_range::<&[u8]>(..).unwrap();
    assert!(read_map(db.default_keyspace()).unwrap() == map, "a merge changes nothing");
    (report, map)
}

/// Segments that are kept to be recycled have whole headers and, without a manifest, nothing says that they are not the
/// log. Repair began with the first of them, and lost all that was not flushed.
#[test]
fn a_lost_manifest_costs_no_entry_of_a_log_with_spare_segments() {
    let mut holes = 0;
    for durability in [Durability::Buffered, Durability::Sync] {
        for unflushed in 0..14u64 {
            for is_lost in [true, false] {
                let fs = SimFs::new();
                let db = open(&fs).unwrap();
                let write = |count: u64, round: u64| {
                    for number in 0..count {
                        let value = format!("{round} {number} {}", "=".repeat(4000));
                        let options = WriteOptions::with_durability(durability);
                        db.put_with(format!("key {:03}", number % 40), value, &options).unwrap();
                    }
                };
                let pause = db.pause_compactions();
                for round in 0..3 {
                    write(35, round);
                    db.flush().unwrap();
                }
                write(1 + unflushed * 3, 9);
                let killed = fs.kill_clone();
                let segments = names_of(&killed, ".wal");
                let number = |name: &String| name[..name.len() - 4].parse::<u64>().unwrap();
                holes += u64::from(segments.windows(2).any(|p| number(&p[0]) + 1 < number(&p[1])));
                if is_lost {
                    lose_manifest(&killed);
                } else {
                    damage_snapshot(&killed);
                }
                let (report, map) = repaired(&killed);
                let case = format!("{durability:?}, {unflushed}, lost {is_lost}, {segments:?}");
                assert!(map == read_map(db.default_keyspace()).unwrap(), "{case}: {report:?}");
                assert!(report.is_lossless(), "{case}: {report:?}");
                drop(pause);
            }
        }
    }
    assert!(holes > 10, "segments were recycled: {holes}");
}

/// A segment in the middle is gone, and no manifest says whether it was needed: what can be read is kept, and the
/// report does not call it all.
#[test]
fn a_hole_in_the_log_is_noticed_without_a_manifest() {
    let fs = SimFs::new();
    let db = open(&fs).unwrap();
    for number in 0..60 {
        db.put(format!("key {number:03}"), "=".repeat(4000)).unwrap();
    }
    let killed = fs.kill_clone();
    let segments = names_of(&killed, ".wal");
    assert!(segments.len() >= 4, "{segments:?}");
    damage_snapshot(&killed);
    damage(&killed, &segments[1], Damage::Missing);
    let (report, map) = repaired(&killed);
    assert!(!report.is_lossless());
    assert!(map.len() < 60 && map.contains_key(&b"key 059"[..]), "{}", map.len());
}

/// The segment in the middle is gone, and what stands before it is flushed of one keyspace and not of the other: it was
/// taken for one that is kept to be recycled.
#[test]
fn a_segment_that_one_keyspace_needs_is_no_spare() {
    let fs = SimFs::new();
    let db = open(&fs).unwrap();
    let other = db.keyspace("other", keyspace()).unwrap();
    other.put("only here", "not flushed").unwrap();
    for number in 0..60 {
        db.put(format!("key {number:03}"), "=".repeat(4000)).unwrap();
    }
    db.default_keyspace().flush().unwrap();
    let killed = fs.kill_clone();
    let segments = names_of(&killed, ".wal");
    assert!(segments.len() >= 4, "{segments:?}");
    lose_manifest(&killed);
    damage(&killed, &segments[1], Damage::Missing);
    let (report, map) = repaired(&killed);
    assert!(!report.is_lossless());
    assert_eq!(map.len(), 60);
    let other = open(&killed).unwrap().keyspace("recovered-1", keyspace()).unwrap();
    assert_eq!(other.get("only here").unwrap().as_deref(), Some(&b"not flushed"[..]), "{report:?}");
}

#[test]
fn two_keyspaces_of_one_name_get_two_names() {
    let fs = SimFs::new();
    let db = open(&fs).unwrap();
    let logs = db.keyspace("logs", keyspace()).unwrap();
    logs.put("k", "old").unwrap();
    logs.flush().unwrap();
    drop(logs);
    let manifest = names_of(&fs, "MANIFEST").pop().unwrap();
    let drop_at = fs.read_file(at(&manifest)).unwrap().len() as u64;
    db.drop_keyspace("logs").unwrap();
    let logs = db.keyspace("logs", keyspace()).unwrap();
    logs.put("k", "new").unwrap();
    logs.flush().unwrap();
    let killed = fs.kill_clone();
    killed.flip(at(&manifest), drop_at + 9, 1).unwrap();
    let report = repair(&killed, &RepairOptions::default()).unwrap();
    assert!(report.is_needed());
    let db = open(&killed).unwrap();
    assert_eq!(db.list_keyspaces().len(), 3, "{:?}", db.list_keyspaces());
    let logs = db.open_keyspace("logs").unwrap().unwrap();
    assert_eq!(logs.get("k").unwrap().as_deref(), Some(&b"new"[..]));
}

/// While a merge goes on in slices, of its inputs only the rest is part of the tree. What has left it, and was deleted,
/// came back when the pieces of a damaged manifest said which part it is.
#[test]
fn hidden_parts_of_tables_stay_hidden_without_a_manifest() {
    let fs = SimFs::new();
    let options_of_space = KeyspaceOptions {
        memtable_bytes: 1 << 20,
        block_bytes: 1024,
        table_bytes: 4 << 10,
        compression: vec![Compression::None],
        compaction: SizeTiered {
            merge_width: 4,
            space_percent_max: 10_000,
            ..SizeTiered::default()
        }
        .into(),
        ..KeyspaceOptions::default()
    };
    let builder = Db::builder().options(options()).default_keyspace(options_of_space);
    let db = builder.file_system(Arc::new(fs.clone())).open(DIR).unwrap();
    let key = |number: u64| format!("key {number:04}");
    for number in 0..800 {
        db.put(key(number), "=".repeat(200)).unwrap();
    }
    db.flush().unwrap();
    for number in 0..40 {
        db.delete(key(number)).unwrap();
    }
    db.flush().unwrap();
    let expected = read_map(db.default_keyspace()).unwrap();
    let inputs = names_of(&fs, ".table");
    assert_eq!(inputs.len(), 2);
    let states = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&states);
    fs.on_operation(move |fs, number| {
        if number % 8 == 0 {
            kept.lock().unwrap().push(fs.kill_clone());
        }
    });
    db.compact_range::<&[u8]>(..).unwrap();
    fs.on_operation(|_, _| {});
    let mut partial = 0;
    for killed in states.lock().unwrap().iter().step_by(trust::cases(3, 1, 1) as usize) {
        let tables = names_of(killed, ".table");
        partial += u64::from(tables.contains(&inputs[0]) && !tables.contains(&inputs[1]));
        damage_snapshot(killed);
        let (report, map) = repaired(killed);
        assert!(map == expected, "{tables:?}: {report:?}");
    }
    assert!(partial > 3, "there are parts of tables: {partial}");
}

/// Both hold the keys as of the last level, without sequence numbers: which is the newer only their numbers tell, and
/// what was salvaged of the older one has a new number.
#[test]
fn an_obsolete_damaged_table_is_still_the_older_one() {
    let fs = SimFs::new();
    let db = open(&fs).unwrap();
    let write = |value: &str| {
        for number in 0..300 {
            db.put(format!("key {number:03}"), value.repeat(20)).unwrap();
        }
        db.compact_range::<&[u8]>(..).unwrap();
    };
    write("old");
    let old = names_of(&fs, ".table");
    let reader = db.iter();
    write("new");
    let killed = fs.kill_clone();
    assert!(names_of(&killed, ".table").len() > old.len(), "the iterator holds the old table");
    lose_manifest(&killed);
    for name in &old {
        killed.flip(at(name), 60, 1).unwrap();
    }
    let (report, map) = repaired(&killed);
    assert!(map == read_map(db.default_keyspace()).unwrap(), "{report:?}");
    drop(reader);
}

/// Removal of the manifest before is best effort. If it is still there, and `CURRENT` and the newest are damaged, its
/// state is not the database's: the tables that it names are gone.
#[test]
fn a_stale_manifest_is_not_believed() {
    let fs = SimFs::new();
    let write = |db: &Db, value: &str| {
        for number in 0..300 {
            db.put(format!("key {number:03}"), value).unwrap();
        }
        db.compact_range::<&[u8]>(..).unwrap();
    };
    let db = open(&fs).unwrap();
    write(&db, "old");
    db.close().unwrap();
    let stale = names_of(&fs, "MANIFEST").pop().unwrap();
    let bytes = fs.read_file(at(&stale)).unwrap();
    let db = open(&fs).unwrap();
    write(&db, "new");
    db.flush().unwrap();
    db.put("key 000", "newest").unwrap();
    let killed = fs.kill_clone();
    assert_ne!(names_of(&killed, "MANIFEST"), std::slice::from_ref(&stale));
    damage_snapshot(&killed);
    damage(&killed, "CURRENT", Damage::Flip(3, 1));
    killed.write_file(at(&stale), &bytes).unwrap();
    let (report, map) = repaired(&killed);
    assert!(map == read_map(db.default_keyspace()).unwrap(), "{report:?}");
}

/// An ingest leaves a hole in the log. Old writes of the same keys, which the log still holds, were taken for the
/// newest when a table was lost whose range covers them, and the report called that lossless.
#[test]
fn the_log_does_not_bring_back_what_an_ingest_replaced() {
    let fs = SimFs::new();
    let db = open(&fs).unwrap();
    // Another keyspace keeps the log alive.
    let other = db.keyspace("other", keyspace()).unwrap();
    other.put("k", "v").unwrap();
    let keys: Vec<String> = (0..50).map(|number| format!("key {number:03}")).collect();
    for key in &keys {
        db.put(key, "logged").unwrap();
    }
    db.default_keyspace().flush().unwrap();
    let mut ingest = db.default_keyspace().ingest().unwrap();
    for key in &keys {
        ingest.put(key, "ingested").unwrap();
    }
    ingest.finish().unwrap();
    db.compact_range::<&[u8]>(..).unwrap();
    let pause = db.pause_compactions();
    db.put("key 000", "last").unwrap();
    db.put("key 049", "last").unwrap();
    let before = names_of(&fs, ".table");
    db.default_keyspace().flush().unwrap();
    let killed = fs.kill_clone();
    let mut flushed = names_of(&killed, ".table");
    flushed.retain(|name| !before.contains(name));
    assert_eq!(flushed.len(), 1);
    damage(&killed, &flushed[0], Damage::Missing);
    let (report, map) = repaired(&killed);
    assert!(map == read_map(db.default_keyspace()).unwrap(), "{report:?}");
    assert!(report.is_lossless(), "{report:?}");
    drop(pause);
}

#[test]
fn a_lost_last_batch_of_a_closed_log_is_named() {
    let fs = SimFs::new();
    let db = open(&fs).unwrap();
    for value in ["first value", "second value", "third value"] {
        db.put("key", value).unwrap();
    }
    db.close().unwrap();
    let segment = names_of(&fs, ".wal")[0].clone();
    let bytes = fs.read_file(at(&segment)).unwrap();
    let third = bytes.windows(11).position(|window| window == b"third value").unwrap();
    damage(&fs, &segment, Damage::Flip(third as u64, 1));
    let (report, map) = repaired(&fs);
    assert_eq!(map.get(&b"key"[..]).map(Vec::as_slice), Some(&b"second value"[..]));
    assert_eq!(report.lost_writes.len(), 1, "{report:?}");
    assert_eq!(report.lost_writes[0].last, Some(report.lost_writes[0].first), "{report:?}");
}
