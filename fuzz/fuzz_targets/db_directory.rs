//! Any bytes as the files of a database directory: opening, reading, walking and verifying end in answers or errors.
//!
//! The input is a list of files: a byte for the kind, a number and a length (4 bytes each, little-endian), the content.
//! A length that is too long takes what is left, so that every input is a directory.

#![no_main]

use std::sync::Arc;

use esker::fs::SimFs;
use esker::{Db, DbOptions, ReadMode, Result};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/db";

fuzz_target!(|data: &[u8]| {
    let fs = SimFs::new();
    fill(&fs, data).expect("the directory is writable");
    for read_mode in [ReadMode::Mmap, ReadMode::Pread] {
        // Reading only changes nothing, so that both modes see the same files. Errors are answers.
        let options = DbOptions { read_only: true, ..options(read_mode) };
        let _ = open(&fs, options).and_then(|db| read_everything(&db));
    }
    // Recovery may remove and create files; whatever it makes must open again.
    if let Ok(db) = open(&fs, options(ReadMode::Mmap)) {
        let _ = read_everything(&db);
        let written = db.put("fuzzed", "yes").is_ok();
        if db.close().is_ok() && written {
            let db = open(&fs, options(ReadMode::Mmap)).expect("a database that was closed opens");
            assert_eq!(
                db.get("fuzzed").expect("a new key is readable").as_deref(),
                Some(&b"yes"[..])
            );
        }
    }
});

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
    Db::builder().options(options).file_system(Arc::new(fs.clone())).open(DIR)
}

/// Writes the files that `data` lists.
fn fill(fs: &SimFs, mut data: &[u8]) -> Result<()> {
    while let Some((head, rest)) = data.split_at_checked(9) {
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let len = (word(5) as usize).min(rest.len());
        fs.write_file(format!("{DIR}/{}", kind_of(head[0], word(1))), &rest[..len])?;
        data = &rest[len..];
    }
    Ok(())
}

/// The file name for a kind byte and a number.
fn kind_of(kind: u8, number: u32) -> String {
    match kind % 5 {
        0 => "CURRENT".to_owned(),
        1 => format!("MANIFEST-{number:06}"),
        2 => format!("{number:06}.table"),
        3 => format!("{number:06}.wal"),
        _ => format!("foreign-{number}"),
    }
}

/// Reads whatever there is, in every way there is.
fn read_everything(db: &Db) -> Result<()> {
    for name in db.list_keyspaces() {
        let Some(keyspace) = db.open_keyspace(&name)? else { continue };
        let forwards: Result<Vec<_>> = keyspace.iter().collect();
        let backwards: Result<Vec<_>> = keyspace.iter().rev().collect();
        if let (Ok(forwards), Ok(mut backwards)) = (forwards, backwards) {
            backwards.reverse();
            assert_eq!(forwards.len(), backwards.len(), "both directions see the same entries");
            for ((key, value), (other_key, other_value)) in forwards.iter().zip(&backwards) {
                assert!(key == other_key && **value == **other_value);
                assert_eq!(
                    keyspace.get(key)?.as_deref(),
                    Some(&**value),
                    "get agrees with the scan"
                );
            }
        }
    }
    db.verify().map(drop)
}
