//! `bench`: `db_bench` and YCSB workloads with the flags and JSON fields of the peers' harness.
//!
//! Each workload opens the database, runs, optionally settles, closes, and prints one JSON line; so `open_ms`,
//! `wMBclose` and `spaceMB` mean the same when several workloads run in turn as when each has its own process. Peak
//! memory is reset before each workload where the kernel allows it.
//!
//! What is measured and how matches the peers' harness, so that lines can be set side by side: two clock reads
//! around each operation, a histogram a thread, values that are half compressible and the same for every key
//! (`--vary 1` makes them differ), uniform or scrambled zipfian (0.99) keys below `--keys`, operations split evenly
//! over the threads.
//!
//! `workload` names the workloads, `driver` runs them, `data` makes keys and values, `measure` reads clocks and
//! `/proc`.

pub mod data;
mod driver;
pub mod measure;
pub mod report;
mod workload;

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use esker::{DbOptions, KeyspaceOptions};

pub use workload::Workload;

use crate::amplification;
use crate::args::{BenchArgs, Global};
use crate::database::{self, Access, Opened};
use crate::error::Failure;
use crate::output::{self, Out};
use driver::Driver;
use measure::{Process, Sampler};
use report::Line;

const MIB: u64 = 1 << 20;

/// `bench WORKLOAD...`.
pub fn run(global: &Global, args: &BenchArgs, out: &mut Out) -> Result<(), Failure> {
    let dir = database::directory(global)?;
    if args.workloads.contains(&Workload::Amplification) {
        if args.workloads.len() > 1 {
            return Err(Failure::usage("amplification makes databases of its own")
                .advise("run it without other workloads"));
        }
        return amplification::run(global, args, &dir, out);
    }
    if args.fresh == 1 {
        remove_database(&dir)?;
    }
    for (index, workload) in args.workloads.iter().enumerate() {
        let last = index + 1 == args.workloads.len();
        let line = run_one(global, args, *workload, last && args.crash == 1)?;
        out.json_line(&line)?;
        out.flush()?;
        if last && args.crash == 1 {
            // The database was left open on purpose.
            measure::kill_self();
        }
    }
    Ok(())
}

fn run_one(
    global: &Global,
    args: &BenchArgs,
    workload: Workload,
    crash: bool,
) -> Result<Line, Failure> {
    let mut driver = Driver::new(args, workload);
    let spinner = output::spinner(workload.name());
    measure::reset_peak_memory();
    let before = Process::now();
    let sampler = Sampler::start();
    let opening = Instant::now();
    let opened = open(global, args)?;
    let open_s = opening.elapsed().as_secs_f64();

    let working = Process::now();
    let outcome = if workload == Workload::Open {
        driver::Outcome::single(open_s, 0)
    } else {
        driver.run(&opened)?
    };
    let worked = Process::now();

    let settling = Instant::now();
    if args.settle == 1 {
        opened.db.wait_idle()?;
    }
    let settle_s = settling.elapsed().as_secs_f64();
    let metrics = opened.db.metrics();
    let dir = opened.db.path().to_path_buf();
    close(opened, crash)?;
    let closed = Process::now();
    spinner.finish_and_clear();

    let mut line = Line::new(args, workload, &outcome);
    line.cpu = worked.cpu_s - working.cpu_s;
    line.set_writes(&before, &worked, &closed);
    line.set_memory(sampler.finish());
    line.set_engine(&metrics);
    line.space_mb = measure::disk_bytes(&dir) as f64 / 1e6;
    line.open_ms = report::round(open_s * 1e3, 1);
    line.settle_s = report::round(settle_s, 1);
    Ok(line)
}

/// Closes the database, or leaves it open for the crash to come.
fn close(opened: Opened, crash: bool) -> Result<(), Failure> {
    if crash {
        std::mem::forget(opened);
        return Ok(());
    }
    opened.close()
}

/// Opens the database with the flags as options. Options of the command line go over them.
fn open(global: &Global, args: &BenchArgs) -> Result<Opened, Failure> {
    let mut flags = Vec::new();
    flags.extend(args.mem.map(|mem| format!("memtable_bytes={}", mem.saturating_mul(MIB))));
    flags.extend(args.comp.as_ref().map(|comp| format!("compression={comp}")));
    let mut global = global.clone();
    global.options.splice(0..0, flags);
    let cache_bytes = args.cache.saturating_mul(MIB);
    let options = DbOptions { cache_bytes, ..DbOptions::default() };
    Opened::open_with(&global, Access::Create, options, KeyspaceOptions::default())
}

/// Removes a database from `dir`, and only a database: any file that is not one of its own stops it.
pub fn remove_database(dir: &Path) -> Result<(), Failure> {
    if !dir.exists() {
        return Ok(());
    }
    let entries = std::fs::read_dir(dir).map_err(|error| Failure::io("read", dir, error))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::io("read", dir, error))?;
        let name = entry.file_name();
        if !name.to_str().is_some_and(is_database_file) {
            return Err(Failure::refused(format!("--fresh 1 would delete {}", name.display()))
                .at(dir.display().to_string())
                .advise("give a directory that holds only a database"));
        }
        files.push(entry.path());
    }
    let _lock = lock(dir)?;
    for file in files {
        std::fs::remove_file(&file).map_err(|error| Failure::io("remove", &file, error))?;
    }
    Ok(())
}

/// The database's lock, so that what is removed is nobody's open database; none if there is no lock file.
fn lock(dir: &Path) -> Result<Option<File>, Failure> {
    let Ok(file) = File::open(dir.join("LOCK")) else {
        return Ok(None);
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(_) => Err(Failure::locked(dir)),
    }
}

/// Whether the engine gives a file this name.
fn is_database_file(name: &str) -> bool {
    let numbered = |rest: Option<&str>| {
        rest.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    matches!(name, "LOCK" | "CURRENT" | "CURRENT.tmp")
        || numbered(name.strip_prefix("MANIFEST-"))
        || numbered(name.strip_suffix(".table"))
        || numbered(name.strip_suffix(".wal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_engines_own_files_are_removed() {
        for name in ["LOCK", "CURRENT", "MANIFEST-000001", "000007.table", "000008.wal"] {
            assert!(is_database_file(name), "{name}");
        }
        for name in ["notes.txt", "x.table", ".table", "MANIFEST-", "photos"] {
            assert!(!is_database_file(name), "{name}");
        }
    }
}
