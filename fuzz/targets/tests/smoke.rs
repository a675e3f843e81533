//! A bounded run of what the fuzz targets do without end: every seed, and seeded mutations of them.
//!
//! It needs neither libFuzzer nor a nightly toolchain, and is blind: no coverage guides it. How many mutations it makes
//! is chosen as for the other suites (`tests/it/trust.rs`). A failure names target, seed file and the number that the
//! mutation came from.

#![allow(clippy::disallowed_methods, reason = "seeds are files of the repository's")]
#![allow(clippy::unwrap_used, reason = "a test that cannot read its input has failed")]

#[path = "../../../tests/it/trust.rs"]
mod trust;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use esker_fuzz_targets::layout::{join, split};
use esker_fuzz_targets::mutation::{Random, change_bytes, mutate};
use esker_fuzz_targets::{TARGETS, Target, seeds};

/// Every committed seed of a target, by name.
fn committed(target: &Target) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(target.name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut seeds: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    seeds
}

#[test]
fn the_committed_seeds_are_those_that_the_engine_writes() {
    for target in &TARGETS {
        let committed = committed(target);
        for seed in seeds::of(target.name) {
            assert!(
                committed.contains(&seed),
                "fuzz/seeds/{}/{} is old: run `cargo run -p esker-fuzz-targets --bin seeds`",
                target.name,
                seed.0
            );
        }
    }
}

#[test]
fn taking_apart_and_putting_together_changes_no_seed() {
    for target in &TARGETS {
        for (name, bytes) in seeds::of(target.name) {
            if let Some(layout) = split(target.format, &bytes) {
                assert!(join(target.format, &layout) == bytes, "{}: {name}", target.name);
            }
        }
    }
}

#[test]
fn every_seed_passes_its_target() {
    for target in &TARGETS {
        let seeds = committed(target);
        let whole = seeds.iter().filter(|(_, bytes)| (target.run)(bytes)).count();
        assert!(whole > 0, "none of the {} seeds of {} is whole", seeds.len(), target.name);
    }
}

/// Tables whose checksums are right and whose lookups would not find what a walk shows: a head that is not padded with
/// zeros, and a separator that is not the key that goes on behind it.
#[test]
fn verifying_finds_tables_in_which_lookups_would_fail() {
    let target = esker_fuzz_targets::by_name("table").unwrap();
    for name in ["unpadded-head", "separator-not-the-key"] {
        let seeds = committed(target);
        let (_, input) = seeds.iter().find(|(other, _)| other == name).unwrap();
        assert!(!(target.run)(input), "{name}");
    }
}

/// Mutations of all seeds of a target, `count` in all. Returns how many inputs were whole.
fn try_mutations(target: &Target, count: u64) -> u64 {
    let seeds = committed(target);
    let mut whole = 0;
    for number in 0..count {
        let mut random = Random::new(trust::seed() + number);
        let (name, bytes) = &seeds[random.below(seeds.len())];
        let mut input = bytes.clone();
        for _ in 0..=random.below(3) {
            let mut inner = random.clone();
            let mut change = |bytes: &mut Vec<u8>, max| change_bytes(bytes, max, &mut inner);
            mutate(target.format, &mut input, target.input_bytes_max, &mut random, &mut change);
        }
        if let Ok(is_whole) = catch_unwind(|| (target.run)(&input)) {
            whole += u64::from(is_whole);
        } else {
            trust::report(&format!("fuzz smoke: {}", target.name), number + 1, 1, &[]);
            let path = keep(target, number, &input);
            panic!("{}: mutation {number} of seed {name} fails: {path}", target.name);
        }
    }
    whole
}

/// Keeps an input that failed where libFuzzer would. Returns its path.
fn keep(target: &Target, number: u64, input: &[u8]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = root.join("../artifacts").join(target.name);
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join(format!("smoke-{number}"));
    fs::write(&path, input).unwrap();
    path.display().to_string()
}

/// Runs so many mutations of a target and leaves the figures. Inputs that are whole and others must both occur.
fn smoke(name: &str, quick: u64) {
    let target = esker_fuzz_targets::by_name(name).unwrap();
    let count = trust::cases(quick, quick * 20, quick * 1000);
    let whole = try_mutations(target, count);
    trust::report(&format!("fuzz smoke: {name}"), count, 0, &[("whole", whole)]);
    assert!(0 < whole && whole < count, "{name}: {whole} of {count} inputs are whole");
}

#[test]
fn mutated_batches() {
    smoke("batch", 8000);
}

#[test]
fn mutated_blocks() {
    smoke("block", 4000);
}

#[test]
fn mutated_filters() {
    smoke("filter", 4000);
}

#[test]
fn mutated_logs() {
    smoke("wal", 2000);
}

#[test]
fn mutated_manifests() {
    smoke("manifest", 2000);
}

#[test]
fn mutated_tables() {
    smoke("table", 1500);
}

#[test]
fn mutated_directories() {
    smoke("db_directory", 400);
}

#[test]
fn mutated_scripts() {
    smoke("shell", 400);
}

#[test]
fn mutated_operations() {
    smoke("operations", 250);
}

#[test]
fn mutated_traces() {
    smoke("trace", 1200);
}
