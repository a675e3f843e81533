//! Damage: every file of a closed database is changed in every way that one change can be, and everything is read.
//!
//! The oracle is strict. An open or a read gives the right value or an error of kind `Corruption`, `Unsupported` or
//! `Io` that names a file; a scan is right up to its error, and complete if it has none. Nothing is missing in silence,
//! because a clean close leaves no unpromised tail. A damaged table is always found by `verify`, and a compaction that
//! reads it fails and replaces nothing. A flipped bit that nobody notices is a failure too, unless nothing was stored
//! in it ([`original::Original::is_waste`]).
//!
//! The cases run in processes of their own ([`process`]), so that a signal, a hang and an allocation beyond 256 MiB are
//! failures of one case. At size `full` each bit of each byte is flipped; `ci` flips all bits where structure is dense,
//! and some bits of the rest.
//!
//! * [`original`]: the database before it is damaged, and the oracle.
//! * [`cases`]: what is done to its files.
//! * [`process`]: who does it, within which limits.
//! * [`live`]: damage to files that an open database reads.
//! * [`crafted`]: bytes that are wrong under checksums that are right.
//! * [`hostile`]: links, FIFOs, holes and odd names in place of files.

#![allow(clippy::disallowed_methods, reason = "damage comes from behind the seam")]
#![allow(clippy::case_sensitive_file_extension_comparisons, reason = "names are of our making")]

mod cases;
mod crafted;
mod hostile;
mod live;
mod original;
mod process;

use std::panic::{AssertUnwindSafe, catch_unwind};

use esker::{DbOptions, ErrorKind, KeyspaceOptions, WriteOptions};

use crate::concurrency::guarded;

use cases::{Case, KINDS};
use original::{DIR, Dice, Original, READS, at, blame};
use process::Share;

/// The text of a panic.
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Runs one case. Whether anything was noticed, or what went wrong.
fn run(original: &Original, number: u64, case: &Case) -> Result<bool, String> {
    let fs = original.fs.kill_clone();
    case.apply(original, &fs);
    let read = READS[number as usize % READS.len()];
    let name = original.files[case.file].0.as_str();
    let is_table = name.ends_with(".table") && case.changes_bytes(original);
    let checked =
        catch_unwind(AssertUnwindSafe(|| original.check(&fs, read, is_table.then_some(name))));
    let noticed = checked.map_err(|panic| format!("{read:?}: {}", text_of(&*panic)))?;
    if !noticed && case.must_be_noticed(original) {
        return Err(format!("{read:?}: nobody noticed"));
    }
    Ok(noticed)
}

/// The part of the sweep that one process does.
fn sweep(share: &Share) {
    let original = Original::build();
    let (mut counts, mut unnoticed) = ([0u64; KINDS.len()], 0u64);
    for (number, case) in (0..).zip(cases::all(&original)) {
        if !share.has(number) {
            continue;
        }
        let describe = || case.describe(&original);
        share.begin(number, describe);
        counts[case.kind()] += 1;
        match run(&original, number, &case) {
            Ok(noticed) => unnoticed += u64::from(!noticed),
            Err(what) => share.failure(number, &describe(), &what),
        }
    }
    for (kind, count) in KINDS.iter().zip(counts) {
        Share::count(kind, count);
    }
    Share::count("unnoticed", unnoticed);
}

/// Not a test by itself: a process of one of the tests below.
#[test]
fn child() {
    if let Some(share) = Share::of_this_process() {
        match share.sweep() {
            "damage" => sweep(&share),
            "crafted" => crafted::sweep(&share),
            "live" => live::sweep(&share),
            "holes" => hostile::sweep(&share),
            other => panic!("no sweep {other}"),
        }
        share.end();
    }
}

#[test]
fn a_whole_database_is_read_right_in_every_way() {
    let original = Original::build();
    for read in READS {
        assert!(!original.check(&original.fs.kill_clone(), read, None), "{read:?}");
    }
}

#[test]
fn damage_to_a_closed_database() {
    let outcome = process::run("damage");
    let details: Vec<_> = KINDS.iter().chain(&["unnoticed", "peak_rss_bytes"]).copied().collect();
    outcome.report("damage", &details);
}

#[test]
fn wrong_bytes_under_right_checksums() {
    process::run("crafted").report("damage, crafted", &["peak_rss_bytes"]);
}

#[test]
fn files_that_are_holes() {
    process::run("holes").report("damage, holes", &["peak_rss_bytes"]);
}

#[test]
fn damage_to_an_open_database() {
    process::run("live").report("damage while open", &["flips", "truncations", "peak_rss_bytes"]);
}

#[test]
fn a_writer_behind_a_compaction_that_fails_is_told() {
    guarded(|| {
        for threads in [0, 1, 2] {
            let original = Original::build();
            let fs = original.fs.kill_clone();
            for (name, bytes) in &original.files {
                if name.ends_with(".table") {
                    fs.flip(at(name), bytes.len() as u64 / 3, 4).unwrap();
                }
            }
            let options = DbOptions { background_threads: threads, ..original::options(READS[0]) };
            // Writers stop at 4 MiB of debt.
            let keyspace = KeyspaceOptions {
                memtable_bytes: 64 << 10,
                debt_bytes_soft: 1 << 20,
                ..original::default_keyspace()
            };
            let builder = original::builder(&fs, READS[0]).options(options);
            let db = builder.default_keyspace(keyspace).open(DIR).unwrap();
            // The background is slow, so that the writer waits already when the compaction fails. Not too slow for a
            // machine on which a yield takes milliseconds.
            fs.on_operation(|_, _| {
                let thread = std::thread::current();
                if thread.name().is_some_and(|name| name.starts_with("esker-")) {
                    (0..10).for_each(|_| std::thread::yield_now());
                }
            });
            let mut dice = Dice(4);
            let tables = fs.list_dir(DIR);
            let mut written = 0u64;
            let error = loop {
                let key = format!("key {:05}", written * 7 % 1500);
                let value: Vec<_> = (0..400).map(|_| dice.roll() as u8).collect();
                match db.put_with(key, value, &WriteOptions::default()) {
                    Ok(()) => written += 1,
                    Err(error) => break error,
                }
                assert!(written < 30_000, "nobody noticed");
            };
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            blame(&error);
            let metrics = db.metrics();
            assert!(metrics.background_errors > 0 && metrics.first_background_error.is_some());
            let left = fs.list_dir(DIR);
            for name in tables.iter().filter(|name| name.ends_with(".table")) {
                assert!(left.contains(name), "the damaged table {name} is gone");
            }
        }
    });
}
