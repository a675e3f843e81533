//! Claims between files, each made false under correct checksums: verification names the file.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::db::Db;
use crate::fs::SimFs;
use crate::key::{SequenceNumber, Trailer, ValueKind};
use crate::manifest::Manifest;
use crate::options::{DbOptions, FilterKind, KeyspaceOptions};
use crate::table::Table;
use crate::table::writer::{TableWriter, TableWriterOptions};
use crate::version::{RunId, Version};

const DIR: &str = "/db";

/// A database with a table and a log, closed.
fn database() -> SimFs {
    let fs = SimFs::new();
    let options = DbOptions { background_threads: 0, ..DbOptions::default() };
    let db = Db::builder().options(options).file_system(Arc::new(fs.clone())).open(DIR).unwrap();
    for key in 0..50u32 {
        db.put(key.to_be_bytes(), b"value").unwrap();
    }
    db.delete(7u32.to_be_bytes()).unwrap();
    db.flush().unwrap();
    db.put("in the log", "value").unwrap();
    db.close().unwrap();
    fs
}

/// The state that the manifest tells, its only table, and a manifest number that is free.
fn state(fs: &SimFs) -> (ManifestState, TableMeta, FileNumber) {
    let recovered = crate::manifest::recovery::recover(fs, Path::new(DIR)).unwrap().unwrap();
    let version = &recovered.state.keyspaces[&KeyspaceId(0)].version;
    let meta = version.tables().next().unwrap().2.meta().clone();
    (recovered.state, meta, FileNumber(recovered.manifest_number.0 + 10))
}

/// Writes a manifest that says `change` of the database, with correct checksums.
fn claim(fs: &SimFs, change: impl FnOnce(&mut ManifestState)) {
    let (mut state, _, number) = state(fs);
    change(&mut state);
    Manifest::create(fs, Path::new(DIR), number, &state).unwrap();
}

fn claim_table(fs: &SimFs, change: impl FnOnce(&mut TableMeta)) {
    let (_, mut meta, _) = state(fs);
    change(&mut meta);
    claim(fs, |state| place(state, &[(1, 1, meta)]));
}

fn place(state: &mut ManifestState, tables: &[(usize, u64, TableMeta)]) {
    let added: Vec<_> = tables
        .iter()
        .map(|(level, run, meta)| (*level, RunId(*run), Arc::new(Table::new(meta.clone()))))
        .collect();
    let keyspace = state.keyspaces.get_mut(&KeyspaceId(0)).unwrap();
    keyspace.version = Version::empty().apply(&[], &added).unwrap();
}

fn problems(fs: &SimFs) -> Vec<String> {
    let fs: Arc<dyn FileSystem> = Arc::new(fs.clone());
    let report = verify_at_rest(&fs, Path::new(DIR)).unwrap();
    assert!(report.problems.iter().all(|problem| problem.advice().is_some()));
    report.problems.iter().map(ToString::to_string).collect()
}

fn assert_named(fs: &SimFs, file: &str, claim: &str) {
    let found = problems(fs);
    assert!(found.iter().any(|problem| problem.contains(file)), "{claim}: {found:?}");
}

#[test]
fn what_is_whole_has_no_problems() {
    let fs = database();
    assert!(problems(&fs).is_empty(), "{:?}", problems(&fs));
    claim_table(&fs, |_| ());
    assert!(problems(&fs).is_empty(), "{:?}", problems(&fs));
}

#[test]
fn every_false_claim_of_the_manifest_about_a_table_is_found() {
    type Claim = (&'static str, fn(&mut TableMeta));
    let claims: [Claim; 15] = [
        ("length", |meta| meta.file_bytes += 1),
        ("entries", |meta| meta.entry_count += 1),
        ("tombstones", |meta| meta.tombstone_count += 1),
        ("shadowed", |meta| meta.shadowed_count += 1),
        ("bytes of keys", |meta| meta.key_bytes -= 1),
        ("bytes of values", |meta| meta.value_bytes -= 1),
        ("smallest key", |meta| meta.smallest = Box::default()),
        ("largest key", |meta| meta.largest = vec![255; 9].into()),
        ("smallest sequence number", |meta| meta.sequence_min.0 -= 1),
        ("largest sequence number", |meta| meta.sequence_max.0 += 1),
        ("oldest write time", |meta| meta.write_time_min_ms -= 1),
        ("newest write time", |meta| meta.write_time_max_ms += 1),
        ("first expiry", |meta| meta.expiry_min_ms = 5),
        ("checksum", |meta| meta.checksum ^= 1),
        ("hidden entries", |meta| {
            meta.hidden_entry_count = 1;
            meta.entry_count -= 1;
            meta.smallest = vec![0, 0, 0, 2].into();
        }),
    ];
    for (what, change) in claims {
        let fs = database();
        let (_, meta, _) = state(&fs);
        claim_table(&fs, change);
        assert_named(&fs, &FileKind::Table(meta.number).file_name(), what);
    }
}

#[test]
fn a_table_that_is_not_there_and_a_log_that_ends_too_early_are_found() {
    let fs = database();
    let (_, mut meta, _) = state(&fs);
    meta.number = FileNumber(900);
    claim(&fs, |state| place(state, &[(1, 1, meta)]));
    assert_named(&fs, "000900.table", "a missing table");

    let fs = database();
    claim(&fs, |state| state.wal_synced.offset += 1_000);
    assert_named(&fs, ".wal", "a promise beyond the end of the log");

    let fs = database();
    claim(&fs, |state| {
        let keyspace = state.keyspaces.get_mut(&KeyspaceId(0)).unwrap();
        keyspace.options.push(("memtable_bytes".to_owned(), "1".to_owned()));
    });
    let fs: Arc<dyn FileSystem> = Arc::new(fs);
    let report = verify_at_rest(&fs, Path::new(DIR)).unwrap();
    assert!(report.problems.iter().any(|problem| problem.to_string().contains("MANIFEST")));
}

/// A table of one version of the keys `b` and `m`.
fn table(fs: &SimFs, number: u64, sequence: u64, last: &[u8]) -> TableMeta {
    let options = TableWriterOptions {
        number: FileNumber(number),
        keyspace: KeyspaceId(0),
        block_bytes: 4096,
        compression: crate::options::Compression::None,
        filter: FilterKind::Blocked,
        filter_bits: 10.0,
    };
    let mut writer = TableWriter::create(fs, Path::new(DIR), options).unwrap();
    for key in [&b"a"[..], b"m", last] {
        let mut key = key.to_vec();
        if key == b"a" {
            // No two tables share a bound, so that metadata shows nothing.
            key.extend_from_slice(&number.to_be_bytes());
        }
        writer.add(&key, Trailer::new(SequenceNumber(sequence), ValueKind::Put), b"v").unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn an_older_version_above_a_newer_one_is_found() {
    for (upper, lower, is_right) in [(9, 5, true), (5, 9, false), (5, 5, false)] {
        let fs = database();
        let (upper, lower) = (table(&fs, 500, upper, b"x"), table(&fs, 501, lower, b"y"));
        let (other, _, _) = state(&fs);
        assert!(other.keyspaces.len() == 1);
        claim(&fs, |state| place(state, &[(1, 1, upper), (2, 2, lower)]));
        let found = problems(&fs);
        assert_eq!(found.is_empty(), is_right, "{found:?}");
        assert!(is_right || found[0].contains("out of order"), "{found:?}");
    }
}

#[test]
fn options_of_the_default_keyspace_are_those_that_were_given() {
    // `parsed_options` is what an open uses, too.
    let (state, _, _) = state(&database());
    assert_eq!(
        state.keyspaces[&KeyspaceId(0)].parsed_options().unwrap(),
        KeyspaceOptions::default()
    );
}
