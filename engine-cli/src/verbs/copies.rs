//! `checkpoint`, `backup`, `backups`, `restore`: copies of a database, and databases from copies.
//!
//! `checkpoint` opens the database for reading: nothing in it changes. `backup` opens it for writing, because it
//! flushes what is in the log to tables that the next backup shares. `backups` and `restore` need no database.

use std::fs;
use std::path::{Path, PathBuf};

use esker::backup::{BackupInfo, BackupReport};
use esker::{BackupDir, CheckpointReport};
use serde::Serialize;

use crate::args::{BackupsArgs, CopyArgs, Global, RestoreArgs};
use crate::database::{self, Access, Opened};
use crate::error::Failure;
use crate::output::{self, Out};
use crate::verbs::salvage::{found_text, problem};

#[derive(Serialize)]
struct Checkpointed {
    dir: String,
    sequence: u64,
    tables_linked: u64,
    bytes_linked: u64,
    tables_copied: u64,
    bytes_copied: u64,
    tables_written: u64,
    bytes_written: u64,
}

/// `checkpoint DIR`.
pub fn checkpoint(global: &Global, args: &CopyArgs, out: &mut Out) -> Result<(), Failure> {
    refuse_within(&database::directory(global)?, &args.dir)?;
    let opened = Opened::open(global, Access::Read)?;
    let report: CheckpointReport = into_new(&args.dir, || {
        busy("checkpoint", || opened.db.checkpoint(&args.dir))
            .map_err(|error| database::at(error, &args.dir))
    })?;
    opened.close()?;
    if out.json {
        return out.json_line(&Checkpointed {
            dir: args.dir.display().to_string(),
            sequence: report.sequence,
            tables_linked: report.tables_linked,
            bytes_linked: report.bytes_linked,
            tables_copied: report.tables_copied,
            bytes_copied: report.bytes_copied,
            tables_written: report.tables_written,
            bytes_written: report.bytes_written,
        });
    }
    out.line(format!(
        "checkpoint at sequence {}: linked {}, copied {}, wrote {}",
        report.sequence,
        tables(report.tables_linked, report.bytes_linked),
        tables(report.tables_copied, report.bytes_copied),
        tables(report.tables_written, report.bytes_written),
    ))
}

#[derive(Serialize)]
struct BackedUp {
    id: u64,
    sequence: u64,
    tables_copied: u64,
    bytes_copied: u64,
    tables_shared: u64,
    bytes_shared: u64,
}

/// `backup DIR`.
pub fn backup(global: &Global, args: &CopyArgs, out: &mut Out) -> Result<(), Failure> {
    refuse_within(&database::directory(global)?, &args.dir)?;
    let opened = Opened::open(global, Access::Change)?;
    let report = busy("backup", || opened.db.backup(&args.dir));
    let report: BackupReport =
        report.map_err(|error| of_copy(database::at(error, &args.dir), &args.dir))?;
    opened.close()?;
    if out.json {
        return out.json_line(&BackedUp {
            id: report.id,
            sequence: report.sequence,
            tables_copied: report.tables_copied,
            bytes_copied: report.bytes_copied,
            tables_shared: report.tables_shared,
            bytes_shared: report.bytes_shared,
        });
    }
    out.line(format!(
        "backup {} at sequence {}: copied {}, shared {}",
        report.id,
        report.sequence,
        tables(report.tables_copied, report.bytes_copied),
        tables(report.tables_shared, report.bytes_shared),
    ))
}

/// `backups DIR [--verify | --remove ID]`.
pub fn backups(args: &BackupsArgs, out: &mut Out) -> Result<(), Failure> {
    let dir = BackupDir::new(&args.dir);
    match args.remove {
        Some(id) => remove(&dir, id, args, out),
        None if args.verify => verify(&dir, args, out),
        None => list(&dir, args, out),
    }
}

#[expect(clippy::struct_field_names, reason = "the names are the fields of the JSON answer")]
#[derive(Serialize)]
struct Removed {
    id: u64,
    tables_removed: u64,
    bytes_removed: u64,
}

fn remove(dir: &BackupDir, id: u64, args: &BackupsArgs, out: &mut Out) -> Result<(), Failure> {
    let report = dir.remove(id).map_err(|error| database::at(error, &args.dir))?;
    let (tables_removed, bytes_removed) = (report.tables_removed, report.bytes_removed);
    if out.json {
        return out.json_line(&Removed { id, tables_removed, bytes_removed });
    }
    out.line(format!("removed backup {id}: freed {}", tables(tables_removed, bytes_removed)))
}

#[derive(Serialize)]
struct Verified {
    backups: u64,
    tables: u64,
    table_bytes: u64,
    problems: Vec<String>,
}

fn verify(dir: &BackupDir, args: &BackupsArgs, out: &mut Out) -> Result<(), Failure> {
    let report = busy("verifying", || dir.verify());
    let report = report.map_err(|error| database::at(error, &args.dir))?;
    let problems: Vec<String> = report.problems.iter().map(problem).collect();
    if out.json {
        let (backups, tables) = (report.backups, report.tables);
        let table_bytes = report.table_bytes;
        out.json_line(&Verified { backups, tables, table_bytes, problems: problems.clone() })?;
    } else {
        problems.iter().try_for_each(|problem| out.line(problem))?;
        if problems.is_empty() {
            let read = tables(report.tables, report.table_bytes);
            out.line(format!("verified: {} backups, {read}: no problem found", report.backups))?;
        }
    }
    damaged(problems.len(), &args.dir)
}

#[derive(Serialize)]
struct Listed {
    backups: Vec<ListedBackup>,
    stored_bytes: u64,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct ListedBackup {
    id: u64,
    created_ms: u64,
    sequence: u64,
    tables: u64,
    table_bytes: u64,
}

impl From<&BackupInfo> for ListedBackup {
    fn from(backup: &BackupInfo) -> Self {
        ListedBackup {
            id: backup.id,
            created_ms: backup.created_ms,
            sequence: backup.sequence,
            tables: backup.tables,
            table_bytes: backup.table_bytes,
        }
    }
}

fn list(dir: &BackupDir, args: &BackupsArgs, out: &mut Out) -> Result<(), Failure> {
    let list = dir.list().map_err(|error| database::at(error, &args.dir))?;
    let problems: Vec<String> = list.problems.iter().map(problem).collect();
    let found = problems.len();
    let backups: Vec<ListedBackup> = list.backups.iter().map(ListedBackup::from).collect();
    if out.json {
        out.json_line(&Listed { backups, stored_bytes: list.stored_bytes, problems })?;
    } else {
        let rows = backups.iter().map(|backup| {
            vec![
                backup.id.to_string(),
                utc(backup.created_ms),
                backup.sequence.to_string(),
                output::count(backup.tables),
                output::bytes(backup.table_bytes),
            ]
        });
        out.table(
            &["id", "created", "sequence", "tables", "bytes"],
            rows.collect(),
            &[0, 2, 3, 4],
        )?;
        out.line(format!("stored: {}", output::bytes(list.stored_bytes)))?;
        problems.iter().try_for_each(|problem| out.line(problem))?;
    }
    damaged(found, &args.dir)
}

/// The end of a report that found so many problems in `dir`.
fn damaged(found: usize, dir: &Path) -> Result<(), Failure> {
    if found == 0 {
        return Ok(());
    }
    Err(Failure::corruption(found_text(found)).at(dir.display().to_string()).advise(
        "restore the named files from a copy of the backup directory, or make a new backup",
    ))
}

#[derive(Serialize)]
struct Restored {
    id: u64,
    sequence: u64,
    tables: u64,
    table_bytes: u64,
}

/// `restore DIR [--id N]`: into the directory that `--db` names.
pub fn restore(global: &Global, args: &RestoreArgs, out: &mut Out) -> Result<(), Failure> {
    let into = database::directory(global)?;
    refuse_within(&args.dir, &into)?;
    let report = into_new(&into, || {
        busy("restoring", || BackupDir::new(&args.dir).restore(args.id, &into))
            .map_err(|error| database::at(error, &args.dir))
    })?;
    let backup = report.backup;
    let BackupInfo { id, sequence, tables: count, table_bytes, .. } = backup;
    if out.json {
        return out.json_line(&Restored { id, sequence, tables: count, table_bytes });
    }
    let copied = tables(count, table_bytes);
    out.line(format!("restored backup {id} at sequence {sequence}: {copied}, all checksums match"))
}

/// Does `work`, which makes the directory `dir`. If it fails, the directory goes too if it was not there before: the
/// engine leaves it, empty.
pub fn into_new<T>(dir: &Path, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let is_new = fs::symlink_metadata(dir).is_err();
    work().map_err(|failure| {
        if is_new {
            // It fails where it should: if anything is in there.
            let _ = fs::remove_dir(dir);
        }
        of_copy(failure, dir)
    })
}

/// A full disk under a copy into `dir` is no reason to reopen a database.
fn of_copy(failure: Failure, dir: &Path) -> Failure {
    if failure.is_no_space() {
        let advice = format!("free some space for {} and run it again", dir.display());
        return failure.advise(advice);
    }
    failure
}

/// Refuses a `target` within `dir`, as the engine does, but where a link leads there too.
pub fn refuse_within(dir: &Path, target: &Path) -> Result<(), Failure> {
    let (dir, within) = (resolved(dir), resolved(target));
    if !within.starts_with(&dir) {
        return Ok(());
    }
    Err(Failure::refused(format!("the target lies within the directory {}", dir.display()))
        .at(target.display().to_string())
        .advise("name a directory beside it"))
}

/// `path` without links, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    for there in path.ancestors() {
        if let (Ok(found), Ok(rest)) = (fs::canonicalize(there), path.strip_prefix(there)) {
            return found.join(rest);
        }
    }
    path
}

/// Does `work`; on a terminal, shows that something is going on.
fn busy<T>(what: &'static str, work: impl FnOnce() -> T) -> T {
    let progress = output::spinner(what);
    let done = work();
    progress.finish_and_clear();
    done
}

fn tables(count: u64, bytes: u64) -> String {
    let noun = if count == 1 { "table" } else { "tables" };
    format!("{} {noun} ({})", output::count(count), output::bytes(bytes))
}

/// Unix milliseconds as a date and time, UTC. Days are turned into a date of the Gregorian calendar by eras of 400
/// years that begin in March.
fn utc(ms: u64) -> String {
    let (days, second) = (ms / 86_400_000, ms / 1000 % 86_400);
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let (month, day) =
        (if march < 10 { march + 3 } else { march - 9 }, day - (153 * march + 2) / 5 + 1);
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_709_251_199, "2024-02-29 23:59:59Z"),
            (1_709_251_200, "2024-03-01 00:00:00Z"),
            (1_735_689_599, "2024-12-31 23:59:59Z"),
            (1_735_689_600, "2025-01-01 00:00:00Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(utc(seconds * 1000 + 999), expected);
        }
    }
}
