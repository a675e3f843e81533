//! Repair: everything that is still readable of a damaged database, as a database again.
//!
//! # What is done
//! 1. Every file is read (`check`). Nothing damaged: nothing is done.
//! 2. The plan (`plan`) says what stays, what is salvaged, and which keys may be lost. It writes nothing.
//! 3. New tables take what was salvaged of damaged ones, and what the log holds (`build`). Every original gets a
//!    second name in `lost-N/`. Last, a new manifest describes the kept and the new tables, and `CURRENT` names it.
//!
//! # Invariants
//! * No original is changed, overwritten or removed. Until `CURRENT` is switched, which is one rename, the damaged
//!   state is as it was but for files that nothing names; from then on the repaired state is there. After a crash
//!   anywhere, repair may be run again.
//! * All originals have a name in `lost-N/`, durably, before `CURRENT` is switched: the next open removes from the
//!   database's directory what nothing names. Segments of the log may be shared by a link, because none of them is
//!   part of the repaired database, whose log begins anew: so none is overwritten.
//! * File and sequence numbers of the repaired database are above all that were seen.
//! * Nothing is invented: an entry of the repaired database stood under a good checksum.
//! * Where anything may be missing, the report names the keys.
//!
//! # With a manifest, and without
//! With a readable manifest only the tables that it names count, each in its level: a table that left the tree could
//! bring deleted data back. A damaged table is replaced, in its place, by what is left of it.
//!
//! Without one every table counts. Which of two tables is the newer cannot be told, but which of two versions can: by
//! their sequence numbers. So tables whose keys meet are merged, and all of a keyspace becomes one run. Two things
//! remain that cannot be known, and the report says so: a table that had left the tree, but not yet the disk, may
//! hold versions whose tombstones are gone; and names and options of keyspaces, unless a readable piece of some
//! manifest tells them; of two that had one name the older gets another. Tables of a bulk ingest have their sequence
//! number in the manifest alone: if no piece of one tells it, they count as the oldest, and so do their entries.
//!
//! Where the log begins is then told by such pieces too, or by the links between its segments (`check::log`); a log
//! with a hole is read like a damaged one.
//!
//! A manifest that `CURRENT` does not name counts as none if a newer one is unreadable, or one of its tables is gone.
//!
//! Errors of the device are errors, not damage: repair would lose what a second attempt, or a copy made by a tool for
//! failing devices, may still read.

mod build;
mod log;
mod pieces;
mod plan;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::assembly::refuse_within;
use crate::check::{Survey, survey};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::{FileSystem, LockKind};
use crate::key::escape;
use crate::repair::plan::Plan;

/// How to repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Write the repaired database into this directory, which is new or empty, and leave the damaged one as it is.
    /// `None`: repair it in place, and keep the originals in `lost-N` in its directory.
    pub into: Option<PathBuf>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// A damaged or missing file, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairedFile {
    /// Its name.
    pub name: String,
    /// Entries that were read from it and kept; 0 for files that hold none.
    pub entries_kept: u64,
    /// Whether everything that it said is kept.
    pub is_complete: bool,
}

/// Keys that may have lost something: they may be absent, have an older value, or be back though they were deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostRange {
    /// The keyspace.
    pub keyspace: String,
    /// The first such key; `None`: from the start of the keyspace.
    pub from: Option<Vec<u8>>,
    /// The last such key, included; `None`: to the end of the keyspace.
    pub to: Option<Vec<u8>>,
    /// The file whose damage it is.
    pub file: String,
}

impl LostRange {
    /// Whether `key` of its keyspace is in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.from.as_deref().is_none_or(|from| from <= key)
            && self.to.as_deref().is_none_or(|to| key <= to)
    }
}

impl fmt::Display for LostRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound =
            |key: &Option<Vec<u8>>, open: &str| key.as_deref().map_or(open.to_owned(), escape);
        let (from, to) = (bound(&self.from, "the first key"), bound(&self.to, "the last key"));
        write!(f, "{}: from {from} to {to} ({})", self.keyspace, self.file)
    }
}

/// Writes that stood in the log and cannot be read any more, by sequence number. Which keys they were about is not
/// known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostWrites {
    /// The first.
    pub first: u64,
    /// The last; `None`: nobody knows how many there were.
    pub last: Option<u64>,
}

/// What was damaged, what was kept and what may be lost.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was found wrong, as [`VerifyReport::problems`](crate::VerifyReport::problems). Empty: nothing was done.
    pub problems: Vec<Error>,
    /// The damaged and missing files.
    pub files: Vec<RepairedFile>,
    /// Keys that may have lost something. Every key outside has its value.
    pub lost_ranges: Vec<LostRange>,
    /// Writes that were in the log only.
    pub lost_writes: Vec<LostWrites>,
    /// What else may have changed.
    pub notes: Vec<String>,
    /// Entries in kept tables.
    pub entries_kept: u64,
    /// Entries that were written anew: from damaged tables, the log, or tables that had to be merged.
    pub entries_rewritten: u64,
    /// Where the repaired database is; `None` if nothing was damaged, or this was a dry run.
    pub database: Option<PathBuf>,
    /// Where the originals are, if they were given a second name.
    pub originals: Option<PathBuf>,
}

impl RepairReport {
    /// Whether there was anything to repair.
    pub fn is_needed(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Whether every entry was saved, as far as can be known.
    pub fn is_lossless(&self) -> bool {
        self.lost_ranges.is_empty() && self.lost_writes.is_empty()
    }
}

/// A damaged database: where it is, and what was found of it.
#[derive(Clone, Copy)]
struct Site<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    survey: &'a Survey,
    /// The time, taken once.
    now_ms: u64,
}

/// Repairs the database in `dir`. See the module text.
pub(crate) fn repair(
    fs: &Arc<dyn FileSystem>,
    clock: &dyn Clock,
    dir: &Path,
    options: &RepairOptions,
) -> Result<RepairReport> {
    let changes_dir = options.into.is_none() && !options.dry_run;
    let lock_path = FileKind::Lock.path(dir);
    let Some(entries) = fs.list(dir)? else {
        return Err(Error::new(ErrorKind::NotFound, "there is no such directory")
            .at(dir)
            .advise("check the path"));
    };
    if let Some(into) = &options.into {
        refuse_within(dir, into)?;
    }
    // An exclusive lock makes the file that it locks; that waits until it is known that there is something to do.
    let has_lock_file = entries.iter().any(|entry| entry.name == FileKind::Lock.file_name());
    let kind = if changes_dir && has_lock_file { LockKind::Exclusive } else { LockKind::Shared };
    let mut lock = fs.lock(&lock_path, kind)?;
    let survey = survey(&**fs, dir)?;
    let problems = survey.report.problems.clone();
    let mut report = RepairReport { problems, ..RepairReport::default() };
    if survey.report.is_ok() {
        return Ok(report);
    }
    if changes_dir && !has_lock_file {
        lock = fs.lock(&lock_path, LockKind::Exclusive)?;
    }
    let site = Site { fs: &**fs, dir, survey: &survey, now_ms: clock.unix_ms() };
    let plan = Plan::new(&site, &mut report)?;
    if !options.dry_run {
        build::build(&site, options.into.as_deref(), &plan, &mut report)?;
    }
    drop(lock);
    Ok(report)
}
