//! Repair: every file of a database is damaged in every way that one change can be, and repaired.
//!
//! The oracle: the repaired database opens, and verification finds nothing. Every key outside the reported ranges has
//! its value; one inside has a value that it once had, or none. `lost-1` holds the originals, byte for byte. A second
//! repair has nothing to do. A crash or a failing operation anywhere leaves a state that can be repaired to the same
//! content. What takes a database in a certain state stands in [`layouts`].

mod layouts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker::clock::ManualClock;
use esker::fs::sim_fs::{Persist, Repeat, SimFs};
use esker::repair::{LostRange, RepairOptions, RepairReport};
use esker::{Compression, Db, DbOptions, ErrorKind, KeyspaceOptions, Leveled, WriteBatch};

use crate::support::{Map, Rng, read_map};
use crate::trust;

const DIR: &str = "/db";
const NAMES: [&str; 2] = ["default", "other"];

/// A database before it was damaged, what it holds, and every value that a key ever had.
struct Original {
    fs: SimFs,
    now: BTreeMap<&'static str, Map>,
    ever: BTreeMap<&'static str, BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>>,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip(u64, u8),
    Truncate(u64),
    Empty,
    Missing,
}

fn options() -> DbOptions {
    DbOptions {
        background_threads: 0,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 256 << 10,
        cache_bytes: 1 << 20,
        ..DbOptions::default()
    }
}

fn keyspace() -> KeyspaceOptions {
    KeyspaceOptions {
        memtable_bytes: 12 << 10,
        block_bytes: 1024,
        table_bytes: 12 << 10,
        compression: vec![Compression::None, Compression::Snap, Compression::Zstd],
        compaction: Leveled { l0_runs: 3, base_bytes: 64 << 10, fanout: 2 }.into(),
        ..KeyspaceOptions::default()
    }
}

fn open(fs: &SimFs) -> esker::Result<Db> {
    Db::builder().options(options()).file_system(Arc::new(fs.clone())).open(DIR)
}

fn at(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn build(seed: u64) -> Original {
    let fs = SimFs::new();
    let builder = Db::builder().options(options()).default_keyspace(keyspace());
    let db = builder.file_system(Arc::new(fs.clone())).open(DIR).unwrap();
    let other = db.keyspace("other", keyspace()).unwrap();
    let mut rng = Rng::new(seed);
    let mut now: BTreeMap<&'static str, Map> = BTreeMap::new();
    let mut ever: BTreeMap<&'static str, BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>> = BTreeMap::new();
    for round in 0..1500u64 {
        let name = if round % 5 == 0 { "other" } else { "default" };
        let space = if name == "other" { &other } else { db.default_keyspace() };
        let key = format!("key {:04}", rng.below(700)).into_bytes();
        if round % 13 == 0 {
            space.delete(&key).unwrap();
            now.entry(name).or_default().remove(&key);
            continue;
        }
        let mut value = format!("{round} of ").into_bytes();
        value.extend((0..60).map(|_| if round % 2 == 0 { rng.next() as u8 } else { b'=' }));
        space.put(&key, &value).unwrap();
        ever.entry(name).or_default().entry(key.clone()).or_default().insert(value.clone());
        now.entry(name).or_default().insert(key, value);
    }
    // A batch over both, which stays in the log.
    let mut batch = WriteBatch::new();
    batch.put("both", "1").put_in(&other, "both", "1");
    db.write(batch).unwrap();
    for name in NAMES {
        now.entry(name).or_default().insert(b"both".to_vec(), b"1".to_vec());
        ever.entry(name).or_default().entry(b"both".to_vec()).or_default().insert(b"1".to_vec());
    }
    drop(other);
    db.close().unwrap();
    Original { fs, now, ever }
}

fn damage(fs: &SimFs, name: &str, damage: Damage) {
    match damage {
        Damage::Flip(offset, mask) => fs.flip(at(name), offset, mask).unwrap(),
        Damage::Truncate(bytes) => fs.truncate_file(at(name), bytes).unwrap(),
        Damage::Empty => fs.truncate_file(at(name), 0).unwrap(),
        Damage::Missing => fs.remove_file(at(name)).unwrap(),
    }
}

fn repair(fs: &SimFs, options: &RepairOptions) -> esker::Result<RepairReport> {
    let clock = Arc::new(ManualClock::at_unix_ms(1));
    Db::builder().file_system(Arc::new(fs.clone())).clock(clock).repair(DIR, options)
}

fn files(fs: &SimFs, dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = fs.list_dir(dir).into_iter();
    names.filter_map(|name| Some((name.clone(), fs.read_file(dir.join(name))?))).collect()
}

/// Every key outside the ranges has its value, and nothing is invented. Returns how many keys lost something.
fn check_content(original: &Original, db: &Db, report: &RepairReport, case: &str) -> u64 {
    let mut lost = 0;
    for name in NAMES {
        let keyspace = db.open_keyspace(name).unwrap();
        let keyspace = match keyspace {
            Some(keyspace) => keyspace,
            // Its name was in the manifest only.
            None => db
                .open_keyspace("recovered-1")
                .unwrap()
                .unwrap_or_else(|| panic!("{case}: no {name}")),
        };
        let found = read_map(&keyspace).unwrap();
        let is_ours = |range: &&LostRange| range.keyspace == keyspace.name();
        let ranges: Vec<_> = report.lost_ranges.iter().filter(is_ours).collect();
        let (now, ever) = (&original.now[name], &original.ever[name]);
        let keys: BTreeSet<_> = now.keys().chain(found.keys()).collect();
        for key in keys {
            let (expected, found) = (now.get(key), found.get(key));
            if expected == found {
                continue;
            }
            lost += 1;
            let text = String::from_utf8_lossy(key);
            assert!(
                ranges.iter().any(|range| range.contains(key)),
                "{case}: {name}: {text} is in no range: {report:?}"
            );
            if let Some(found) = found {
                assert!(
                    ever[key].contains(found),
                    "{case}: {name}: {text} has a value that it never had"
                );
            }
        }
        // Point reads and the scan agree.
        for key in now.keys().step_by(37) {
            assert_eq!(
                keyspace.get(key).unwrap().map(|value| value.to_vec()),
                found.get(key).cloned(),
                "{case}"
            );
        }
    }
    lost
}

/// Repairs a damaged database and holds the result against what is promised.
fn check(original: &Original, fs: &SimFs, case: &str) -> (RepairReport, u64) {
    let before = files(fs, Path::new(DIR));
    let dry = repair(fs, &RepairOptions { dry_run: true, ..RepairOptions::default() })
        .unwrap_or_else(|error| panic!("{case}: dry run: {error}"));
    assert!(files(fs, Path::new(DIR)) == before, "{case}: a dry run changed something");
    let report =
        repair(fs, &RepairOptions::default()).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert_eq!(dry.lost_ranges, report.lost_ranges, "{case}");
    assert_eq!(dry.files, report.files, "{case}");
    if report.is_needed() {
        let lost = report.originals.as_ref().expect("the originals are kept");
        let kept = files(fs, lost);
        for (name, bytes) in before.iter().filter(|(name, _)| *name != "LOCK") {
            assert!(kept.get(name) == Some(bytes), "{case}: {name} is not kept as it was");
        }
    } else {
        assert!(files(fs, Path::new(DIR)) == before, "{case}: there was nothing to do");
    }
    let verify = || Db::builder().file_system(Arc::new(fs.clone())).verify(DIR).unwrap();
    assert!(verify().is_ok(), "{case}: {:?}", verify().problems);
    let again = repair(fs, &RepairOptions::default()).unwrap();
    assert!(!again.is_needed(), "{case}: {:?}", again.problems);
    let db = open(fs).unwrap_or_else(|error| panic!("{case}: it does not open: {error}"));
    let lost = check_content(original, &db, &report, case);
    assert!(db.verify().unwrap().is_ok(), "{case}");
    db.compact_range::<&[u8]>(..).unwrap_or_else(|error| panic!("{case}: {error}"));
    db.put("after", "repair").unwrap();
    check_content_but_after(original, &db, &report, case);
    db.close().unwrap();
    assert!(verify().is_ok(), "{case}: {:?}", verify().problems);
    (report, lost)
}

fn check_content_but_after(original: &Original, db: &Db, report: &RepairReport, case: &str) {
    assert_eq!(db.get("after").unwrap().as_deref(), Some(&b"repair"[..]), "{case}");
    db.delete("after").unwrap();
    check_content(original, db, report, case);
}

fn all_files(fs: &SimFs) -> Vec<(String, u64)> {
    let mut files: Vec<_> = fs.list_dir(DIR).into_iter().collect();
    files.sort();
    files
        .into_iter()
        .map(|name| (name.clone(), fs.read_file(at(&name)).map_or(0, |b| b.len() as u64)))
        .collect()
}

#[test]
fn every_file_may_be_damaged() {
    let seed = trust::seed();
    let original = build(seed);
    let mut rng = Rng::new(seed + 1);
    let (mut cases, mut lost_keys, mut needed) = (0, 0, 0);
    let flips = trust::cases(2, 40, 400);
    let every = trust::cases(4, 1, 1);
    for (index, (name, bytes)) in all_files(&original.fs).into_iter().enumerate() {
        let mut damages = vec![Damage::Empty, Damage::Missing];
        if bytes > 0 {
            damages.push(Damage::Truncate(rng.below(bytes)));
            damages.extend((0..flips).map(|_| Damage::Flip(rng.below(bytes), 1 << rng.below(8))));
        }
        let is_table = name.contains("table");
        for (number, how) in damages.into_iter().enumerate() {
            if is_table && !(index + number).is_multiple_of(every as usize) {
                continue;
            }
            let fs = original.fs.kill_clone();
            damage(&fs, &name, how);
            let case = format!("seed {seed}, {name}, {how:?}");
            let (report, lost) = check(&original, &fs, &case);
            if is_table {
                assert!(report.is_needed(), "{case}: damage to a table is found");
            }
            cases += 1;
            lost_keys += lost;
            needed += u64::from(report.is_needed());
        }
    }
    trust::report("repair", cases, 0, &[("repaired", needed), ("lost_keys", lost_keys)]);
    assert!(cases > 10 && needed > cases / 2);
}

/// A database with damage whose repair has to do everything: salvage, keep, read the log.
fn damaged(original: &Original, is_manifest_lost: bool) -> (SimFs, String) {
    let fs = original.fs.kill_clone();
    let names = all_files(&fs);
    let (table, bytes) =
        names.iter().filter(|(name, _)| name.ends_with("table")).max_by_key(|(_, b)| *b).unwrap();
    let name = if is_manifest_lost {
        let manifest = names.iter().find(|(name, _)| name.starts_with("MANIFEST")).unwrap();
        damage(&fs, &manifest.0, Damage::Flip(40, 1));
        manifest.0.clone()
    } else {
        damage(&fs, table, Damage::Flip(bytes / 3, 4));
        table.clone()
    };
    (fs, name)
}

fn contents(fs: &SimFs) -> Vec<(String, Map)> {
    let db = open(fs).unwrap();
    let names = db.list_keyspaces();
    let read = |name: &String| {
        (name.clone(), read_map(&db.open_keyspace(name).unwrap().unwrap()).unwrap())
    };
    let contents = names.iter().map(read).collect();
    db.close().unwrap();
    contents
}

#[test]
fn a_crash_at_every_operation_of_repair_can_be_repaired() {
    let original = build(trust::seed());
    let step = trust::cases(7, 1, 1);
    let mut cases = 0;
    for is_manifest_lost in [false, true] {
        let (fs, _) = damaged(&original, is_manifest_lost);
        fs.count_reads(false);
        let originals = files(&fs, Path::new(DIR));
        let base = fs.kill_clone();
        repair(&fs, &RepairOptions::default()).unwrap();
        let expected = contents(&fs);
        let mut number = 0;
        loop {
            let fs = base.kill_clone();
            fs.halt_at(number);
            let halted = repair(&fs, &RepairOptions::default()).is_err();
            for persist in [
                Persist::Nothing,
                Persist::Everything,
                Persist::Random { percent: 50, seed: number },
            ] {
                let crashed = fs.crash_clone(persist);
                let again = repair(&crashed, &RepairOptions::default())
                    .unwrap_or_else(|error| panic!("crash at {number}, {persist:?}: {error}"));
                // Only a repair that was finished has nothing left to do.
                assert!(halted || !again.is_needed(), "{:?}", again.problems);
                assert_eq!(contents(&crashed), expected, "crash at {number}, {persist:?}");
                check_originals(&crashed, &originals, &format!("crash at {number}, {persist:?}"));
                cases += 1;
            }
            if !halted {
                break;
            }
            number += step;
        }
        assert!(number > 5, "repair does something");
    }
    trust::report("repair_crash", cases, 0, &[]);
}

/// Every original is in some `lost-N`, after an open that removed what nothing names.
fn check_originals(fs: &SimFs, originals: &BTreeMap<String, Vec<u8>>, case: &str) {
    let dirs = fs.list_dir(DIR).into_iter().filter(|name| name.starts_with("lost-"));
    let kept: Vec<_> = dirs.map(|name| files(fs, &at(&name))).collect();
    for (name, bytes) in originals.iter().filter(|(name, _)| *name != "LOCK") {
        let is_kept = kept.iter().any(|files| files.get(name) == Some(bytes));
        assert!(is_kept, "{case}: {name} is gone");
    }
}

#[test]
fn a_failing_operation_is_an_error_and_changes_nothing_that_counts() {
    let original = build(trust::seed());
    let step = trust::cases(11, 1, 1);
    let mut cases = 0;
    for is_manifest_lost in [false, true] {
        let (fs, _) = damaged(&original, is_manifest_lost);
        let base = fs.kill_clone();
        repair(&fs, &RepairOptions::default()).unwrap();
        let expected = contents(&fs);
        let mut number = 0;
        loop {
            let fs = base.kill_clone();
            fs.fail_at(number, libc_eio(), Repeat::Once);
            let result = repair(&fs, &RepairOptions::default());
            fs.clear_faults();
            let reached = number < fs.op_count();
            if let Err(error) = &result {
                assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            }
            if result.is_err() {
                repair(&fs, &RepairOptions::default())
                    .unwrap_or_else(|error| panic!("fault at {number}: {error}"));
            }
            assert_eq!(contents(&fs), expected, "fault at {number}");
            cases += 1;
            if !reached {
                break;
            }
            number += step;
        }
    }
    trust::report("repair_faults", cases, 0, &[]);
}

fn libc_eio() -> i32 {
    5
}

#[test]
fn into_another_directory_leaves_the_first_as_it_is() {
    let original = build(trust::seed());
    for is_manifest_lost in [false, true] {
        let (fs, _) = damaged(&original, is_manifest_lost);
        let before = files(&fs, Path::new(DIR));
        let options = RepairOptions { into: Some("/new".into()), ..RepairOptions::default() };
        let report = repair(&fs, &options).unwrap();
        assert_eq!(files(&fs, Path::new(DIR)), before);
        assert_eq!(report.database.as_deref(), Some(Path::new("/new")));
        assert!(report.originals.is_none());
        let db = Db::builder()
            .options(options_of())
            .file_system(Arc::new(fs.clone()))
            .open("/new")
            .unwrap();
        check_content(&original, &db, &report, "into");
        db.close().unwrap();
        let again = repair(&fs, &options).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::InvalidArgument);
    }
}

fn options_of() -> DbOptions {
    options()
}

#[test]
fn one_damaged_block_costs_its_keys_only() {
    let original = build(trust::seed());
    let (fs, name) = damaged(&original, false);
    let (report, lost) = check(&original, &fs, &name);
    assert!(lost > 0 && lost < 60, "{lost} keys");
    assert_eq!(report.lost_ranges.len(), 1);
    assert!(report.files[0].entries_kept > 0 && !report.files[0].is_complete, "{:?}", report.files);
}

#[test]
fn a_lost_manifest_costs_no_entry() {
    let original = build(trust::seed());
    let fs = original.fs.kill_clone();
    for (name, _) in all_files(&fs) {
        if name.starts_with("MANIFEST") || name == "CURRENT" {
            damage(&fs, &name, Damage::Missing);
        }
    }
    let (report, lost) = check(&original, &fs, "no manifest");
    assert_eq!(lost, 0);
    assert!(report.is_lossless() && report.notes.len() >= 2, "{report:?}");
}

#[test]
fn what_a_lost_table_held_comes_back_from_the_log() {
    let fs = SimFs::new();
    let db = open(&fs).unwrap();
    for key in 0..100 {
        db.put(format!("key {key:03}"), "old").unwrap();
    }
    db.flush().unwrap();
    db.compact_range::<&[u8]>(..).unwrap();
    // Another keyspace keeps the log alive.
    let other = db.keyspace("other", keyspace()).unwrap();
    other.put("k", "v").unwrap();
    for key in 20..60 {
        db.put(format!("key {key:03}"), "new").unwrap();
    }
    db.delete("key 030").unwrap();
    let pause = db.pause_compactions();
    db.default_keyspace().flush().unwrap();
    let killed = fs.kill_clone();
    let newest =
        killed.list_dir(DIR).into_iter().filter(|name| name.ends_with("table")).max().unwrap();
    damage(&killed, &newest, Damage::Missing);
    let report = repair(&killed, &RepairOptions::default()).unwrap();
    assert!(report.is_needed() && report.is_lossless(), "{report:?}");
    let repaired = open(&killed).unwrap();
    assert_eq!(
        read_map(repaired.default_keyspace()).unwrap(),
        read_map(db.default_keyspace()).unwrap()
    );
    assert!(repaired.verify().unwrap().is_ok());
    repaired.compact_range::<&[u8]>(..).unwrap();
    drop(pause);
}

#[test]
fn a_whole_database_is_left_alone() {
    let original = build(trust::seed());
    let fs = original.fs.kill_clone();
    let before = files(&fs, Path::new(DIR));
    let report = repair(&fs, &RepairOptions::default()).unwrap();
    assert!(!report.is_needed() && report.database.is_none());
    assert_eq!(files(&fs, Path::new(DIR)), before);
}

/// The entries of an ingested table have their sequence number from the manifest. Repair wrote them anew without it:
/// the next merge then took what they had replaced for newer. Both for a damaged table and for a damaged manifest of
/// which the piece that tells the number is readable.
#[test]
fn a_repaired_ingest_is_still_newer_than_what_it_replaced() {
    for (is_manifest_damaged, is_merged) in [(false, false), (true, false), (true, true)] {
        let fs = SimFs::new();
        let builder = Db::builder().options(options()).default_keyspace(keyspace());
        let db = builder.file_system(Arc::new(fs.clone())).open(DIR).unwrap();
        let keys: Vec<String> = (0..200).map(|n| format!("key {n:04}")).collect();
        for key in &keys {
            db.put(key, "old").unwrap();
        }
        db.compact_range::<&[u8]>(..).unwrap();
        let tables = |fs: &SimFs| {
            let names = fs.list_dir(DIR).into_iter();
            names.filter(|name| name.contains(".table")).collect::<BTreeSet<_>>()
        };
        let before = tables(&fs);
        let pause = (!is_merged).then(|| db.pause_compactions());
        let mut ingest = db.default_keyspace().ingest().unwrap();
        for key in &keys {
            ingest.put(key, "new").unwrap();
        }
        ingest.finish().unwrap();
        let fs = fs.kill_clone();
        drop((pause, db));
        let ingested = tables(&fs).difference(&before).next().cloned().expect("it made a table");
        if is_manifest_damaged {
            let names = fs.list_dir(DIR).into_iter();
            let manifest = names.filter(|name| name.starts_with("MANIFEST")).max().unwrap();
            // In the snapshot that it begins with; the edits behind that stay.
            fs.flip(at(&manifest), 40, 1).unwrap();
        } else {
            fs.flip(at(&ingested), 60, 1).unwrap();
        }
        let report = repair(&fs, &RepairOptions::default()).unwrap();
        assert!(report.is_needed());
        let db = open(&fs).unwrap();
        let mut kept = 0;
        for merged in [false, true] {
            if merged {
                db.compact_range::<&[u8]>(..).unwrap();
            }
            for key in &keys {
                if report.lost_ranges.iter().any(|range| range.contains(key.as_bytes())) {
                    continue;
                }
                let found = db.get(key).unwrap();
                assert_eq!(
                    found.as_deref(),
                    Some(&b"new"[..]),
                    "{key}, merged: {is_merged} {merged}, manifest damaged: {is_manifest_damaged}"
                );
                kept += 1;
            }
        }
        assert!(kept > 100, "{kept}: {:?}", report.lost_ranges);
    }
}

#[test]
fn a_repair_into_another_directory_that_is_cut_short_is_no_database_and_is_made_again() {
    let original = build(trust::seed());
    let (fs, _) = damaged(&original, false);
    let options = RepairOptions { into: Some("/new".into()), ..RepairOptions::default() };
    fs.count_reads(false);
    let base = fs.kill_clone();
    let open_new = |fs: &SimFs| {
        Db::builder()
            .options(options_without_creation())
            .file_system(Arc::new(fs.clone()))
            .open("/new")
    };
    let mut number = 0;
    loop {
        let fs = base.kill_clone();
        fs.halt_at(number);
        let halted = repair(&fs, &options).is_err();
        for persist in [Persist::Nothing, Persist::Everything] {
            let crashed = fs.crash_clone(persist);
            match open_new(&crashed) {
                // Whole, or not there.
                Ok(db) => assert!(db.verify().unwrap().is_ok(), "{number}, {persist:?}"),
                Err(error) => {
                    let kinds = [ErrorKind::NotFound, ErrorKind::InvalidArgument];
                    assert!(kinds.contains(&error.kind()), "{number}, {persist:?}: {error}");
                    repair(&crashed, &options).unwrap();
                    assert!(open_new(&crashed).unwrap().verify().unwrap().is_ok());
                }
            }
        }
        if !halted {
            break;
        }
        number += trust::cases(7, 1, 1);
    }
    assert!(number > 5, "it does something");
}

fn options_without_creation() -> DbOptions {
    DbOptions { create_if_missing: false, ..options() }
}
