//! Verification of a database at rest names the file of every damaged byte, whatever the byte belongs to.
//!
//! Which bytes belong to nothing stands in `docs/operations.md`: those behind the last record of a log segment. The
//! test learns from `inspect` where that is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker::fs::FileSystem;
use esker::fs::sim_fs::SimFs;
use esker::inspect::{self, Field, InspectOptions};
use esker::{Db, DbOptions, ErrorKind, KeyspaceOptions, VerifyReport};

use crate::support::Rng;
use crate::trust;

const DIR: &str = "/db";

fn build() -> SimFs {
    let fs = SimFs::new();
    let options =
        DbOptions { background_threads: 0, wal_segment_bytes: 64 << 10, ..DbOptions::default() };
    let keyspace = KeyspaceOptions {
        memtable_bytes: 16 << 10,
        block_bytes: 1024,
        ..KeyspaceOptions::default()
    };
    let builder = Db::builder().options(options).default_keyspace(keyspace);
    let db = builder.file_system(Arc::new(fs.clone())).open(DIR).unwrap();
    let other = db.keyspace("other", KeyspaceOptions::default()).unwrap();
    let mut rng = Rng::new(trust::seed());
    for round in 0..2000u64 {
        db.put(format!("key {:05}", rng.below(900)), vec![round as u8; 60]).unwrap();
        if round % 20 == 0 {
            other.put(format!("key {round}"), vec![1; 100]).unwrap();
        }
    }
    drop(other);
    db.close().unwrap();
    fs
}

fn at(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn verify(fs: &SimFs) -> esker::Result<VerifyReport> {
    Db::builder().file_system(Arc::new(fs.clone())).verify(DIR)
}

/// Where the bytes of a file end that belong to something.
fn meaningful_bytes(fs: &SimFs, name: &str) -> u64 {
    let mut end = fs.read_file(at(name)).unwrap().len() as u64;
    if name.ends_with("wal") {
        inspect::wal(fs, &at(name), &mut |item| {
            if item.what == "end" {
                end = item.offset;
            }
            Ok(())
        })
        .unwrap();
    }
    end
}

#[test]
fn every_damaged_byte_is_named() {
    let original = build();
    assert!(verify(&original).unwrap().is_ok());
    let flips = trust::cases(6, 60, 4000);
    let mut rng = Rng::new(trust::seed() + 7);
    let (mut cases, mut noted) = (0, 0);
    for name in original.list_dir(DIR) {
        let bytes = meaningful_bytes(&original, &name);
        for _ in 0..flips.min(bytes) {
            let (offset, mask) = (rng.below(bytes), 1 << rng.below(8));
            let fs = original.kill_clone();
            fs.flip(at(&name), offset, mask).unwrap();
            let before: Vec<_> =
                fs.list_dir(DIR).iter().map(|name| fs.read_file(at(name))).collect();
            let case = format!("{name} at {offset}, mask {mask:#x}");
            cases += 1;
            let report = match verify(&fs) {
                Ok(report) => report,
                Err(error) => {
                    // A version that no esker has written yet.
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{case}: {error}");
                    assert!(error.to_string().contains(&name), "{case}: {error}");
                    continue;
                }
            };
            let is_named = report.problems.iter().any(|problem| problem.path() == Some(&at(&name)));
            let is_noted = report.notes.iter().any(|note| note.starts_with(&name));
            // The last record of a manifest whose length is damaged looks like one that was not finished.
            noted += u64::from(!is_named);
            assert!(is_named || is_noted && name.starts_with("MANIFEST"), "{case}: {report:?}");
            let after: Vec<_> =
                fs.list_dir(DIR).iter().map(|name| fs.read_file(at(name))).collect();
            assert!(before == after, "{case}: verification changed something");
        }
    }
    trust::report("verify", cases, 0, &[("noted", noted)]);
    assert!(noted * 10 < cases, "{noted} of {cases}");
}

#[test]
fn each_of_several_damaged_files_is_named() {
    let fs = build();
    let names = fs.list_dir(DIR);
    let damaged: Vec<_> = names.iter().filter(|name| *name != "LOCK").collect();
    for name in &damaged {
        fs.flip(at(name), meaningful_bytes(&fs, name) / 2, 1).unwrap();
    }
    let report = verify(&fs).unwrap();
    for name in damaged.iter().filter(|name| !name.starts_with("MANIFEST")) {
        let is_named = report.problems.iter().any(|problem| problem.path() == Some(&at(name)));
        assert!(is_named, "{name}: {:?}", report.problems);
    }
    fs.write_file(at("notes.txt"), b"of somebody").unwrap();
    assert!(verify(&fs).unwrap().notes.iter().any(|note| note.starts_with("notes.txt")));
}

#[test]
fn inspect_shows_every_entry_and_ends_at_damage() {
    let fs = build();
    let (mut operations, mut entries, mut edits) = (0, 0u64, 0);
    for name in fs.list_dir(DIR) {
        let path = at(&name);
        let options = InspectOptions { entries: true };
        let mut visit = |item: inspect::Item| {
            operations += u64::from(item.what == "operation");
            entries += u64::from(item.what == "entry");
            edits += u64::from(item.what == "edit");
            assert!(!item.to_string().is_empty());
            if item.what == "properties" {
                let count = item.fields.iter().find(|(name, _)| *name == "entries").unwrap();
                assert_eq!(count.1, Field::Number(entries), "{name}");
                entries = 0;
            }
            Ok(())
        };
        if name.ends_with("wal") {
            inspect::wal(&fs, &path, &mut visit).unwrap();
        } else if name.ends_with("table") {
            inspect::table(&fs, &path, &options, &mut visit).unwrap();
        } else if name.starts_with("MANIFEST") {
            inspect::manifest(&fs, &path, &mut visit).unwrap();
        } else {
            continue;
        }
        // Elsewhere, under another name, it says the same; and cut anywhere it does not panic.
        let bytes = fs.read_file(&path).unwrap();
        for cut in (0..bytes.len()).step_by(bytes.len() / 40 + 1) {
            let copy = Path::new("/elsewhere/copy");
            fs.write_file(copy, &bytes[..cut]).unwrap();
            let reader: &dyn FileSystem = &fs;
            let mut count = |_| Ok(());
            let _ = inspect::wal(reader, copy, &mut count);
            let _ = inspect::manifest(reader, copy, &mut count);
            assert!(inspect::table(reader, copy, &options, &mut count).is_err());
        }
    }
    assert!(operations > 10 && edits > 1, "{operations} operations, {edits} edits");
}
