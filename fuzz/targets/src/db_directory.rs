//! Any files as a database directory: opening, reading, walking, verifying and writing on end in answers or errors.
//!
//! Whatever can be read is the same in both read modes; in a database that verifies, walks in both directions and
//! lookups agree too. And whatever recovery makes of the files, a database that was written to and closed opens again.

use std::sync::Arc;

use esker::clock::ManualClock;
use esker::fs::SimFs;
use esker::{Db, DbOptions, ReadMode, Result};

use crate::files::{self, File};

const DIR: &str = "/db";
/// Few bytes can stand for many entries; what a walk holds must be bounded all the same.
const ENTRIES_MAX: usize = 20_000;

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn check(input: &[u8]) -> bool {
    let fs = SimFs::new();
    for File { kind, number, content } in files::read(input) {
        fs.write_file(format!("{DIR}/{}", name_of(kind, number)), &content)
            .expect("the directory is writable");
    }
    // Reading only changes nothing, so that both modes see the same files. Errors are answers.
    let read = |read_mode| {
        let db = open(&fs, DbOptions { read_only: true, ..options(read_mode) }).ok()?;
        read_everything(&db).ok()
    };
    let (mapped, heap) = (read(ReadMode::Mmap), read(ReadMode::Pread));
    assert!(mapped == heap, "the read modes give different answers");
    // Recovery may remove and create files; whatever it makes must open again.
    let Ok(db) = open(&fs, options(ReadMode::Mmap)) else { return false };
    let is_whole = read_everything(&db).is_ok() && is_verified(&db);
    let written = db.put("fuzzed", "yes").is_ok();
    let _ = db.compact_range::<&[u8]>(..);
    if db.close().is_ok() && written {
        let db = open(&fs, options(ReadMode::Mmap)).expect("a database that was closed opens");
        let value = db.get("fuzzed").expect("a new key is readable");
        assert_eq!(value.as_deref(), Some(&b"yes"[..]), "an acknowledged write is gone");
    }
    is_whole
}

fn options(read_mode: ReadMode) -> DbOptions {
    DbOptions {
        read_mode,
        background_threads: 0,
        create_if_missing: false,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 128 << 10,
        cache_bytes: 1 << 20,
        ..DbOptions::default()
    }
}

fn open(fs: &SimFs, options: DbOptions) -> Result<Db> {
    let clock = Arc::new(ManualClock::at_unix_ms(1_800_000_000_000));
    Db::builder().options(options).clock(clock).file_system(Arc::new(fs.clone())).open(DIR)
}

/// The name of a file of this kind and number.
fn name_of(kind: u8, number: u32) -> String {
    match kind % 5 {
        0 => "CURRENT".to_owned(),
        1 => format!("MANIFEST-{number:06}"),
        2 => format!("{number:06}.table"),
        3 => format!("{number:06}.wal"),
        _ => format!("foreign-{number}"),
    }
}

fn is_verified(db: &Db) -> bool {
    db.verify().is_ok_and(|report| report.is_ok())
}

/// What all keyspaces hold, read in every way there is.
fn read_everything(db: &Db) -> Result<Vec<Entries>> {
    let mut contents = Vec::new();
    let is_verified = is_verified(db);
    for name in db.list_keyspaces() {
        let Some(keyspace) = db.open_keyspace(&name)? else { continue };
        let owned =
            |entry: Result<(_, esker::Value)>| entry.map(|(key, value)| (key, value.to_vec()));
        let forwards: Result<Entries> = keyspace.iter().take(ENTRIES_MAX).map(owned).collect();
        let backwards: Result<Entries> =
            keyspace.iter().rev().take(ENTRIES_MAX).map(owned).collect();
        let (forwards, mut backwards) = (forwards?, backwards?);
        if is_verified && forwards.len() < ENTRIES_MAX {
            backwards.reverse();
            assert!(forwards == backwards, "both directions see the same entries");
        }
        for (key, value) in &forwards {
            let found = keyspace.get(key)?;
            assert!(!is_verified || found.as_deref() == Some(value), "get agrees with the scan");
        }
        contents.push(forwards);
    }
    Ok(contents)
}
