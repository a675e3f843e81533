//! Backups: many states of a database in one directory, which share their tables.
//!
//! [`Db::backup`](crate::Db::backup) adds a backup to a directory, which may be on any file system;
//! [`BackupDir`] lists, verifies, restores and removes what is there, without a database.
//!
//! ```
//! # let place = tempfile::tempdir()?;
//! # let (data, backups) = (place.path().join("data"), place.path().join("backups"));
//! use esker::{BackupDir, Db};
//!
//! let db = Db::open(&data)?;
//! db.put("apple", "red")?;
//! let first = db.backup(&backups)?;
//! db.put("apple", "green")?;
//! let second = db.backup(&backups)?; // copies what is new only
//! assert!(second.tables_shared > 0);
//!
//! let dir = BackupDir::new(&backups);
//! assert!(dir.verify()?.is_ok()); // reads every byte
//! dir.restore(Some(first.id), place.path().join("old"))?; // `None`: the latest
//! let old = Db::open(place.path().join("old"))?;
//! assert_eq!(old.get("apple")?.as_deref(), Some(&b"red"[..]));
//! dir.remove(first.id)?; // frees the tables that no other backup needs
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The directory
//! ```text
//! BACKUP.lock             locked while somebody changes the directory, shared by those who read it
//! BACKUP-NNNNNN           the description of a backup
//! NNNNNN-HASH.table       a table, by its number in the database and the hash of its bytes
//! ```
//! A table is stored once, however many backups and databases it belongs to: its name is its content. Nothing in it is
//! ever changed. The bytes of a description: `docs/format/backup.md`.
//!
//! Keep one directory for each database: a description does not say of which it is, and the latest backup is the latest
//! of all.
//!
//! # Promises
//! * A backup is one moment of the whole database, with everything acked before the call.
//! * It is there when the call returns, durably, or not at all. A crash or an error at any point leaves all earlier
//!   backups as they were; what it leaves of its own does no harm, and the next backup uses or removes it.
//! * A restore compares the hash of every table while it copies. It gives the state that was backed up, or an error;
//!   what a crash leaves of a restore is not opened as a database.

pub(crate) mod format;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::assembly::{Assembly, refuse_within};
use crate::backup::format::{BackupFile, Description};
use crate::backup::store::{Store, check_is_backup_dir, describe, ids, lock};
use crate::content::{copy, read};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{DirEntry, FileSystem, LockKind, StdFs};

/// What [`Db::backup`](crate::Db::backup) did.
///
/// What is in memory is flushed first; then only tables that the directory does not hold are copied, on whatever file
/// system it is. To know what it holds, a table is read once as long as the database is open; what is copied is
/// verified before. Writers go on. All of it is durable when the call returns.
///
/// Errors of the call: `InvalidArgument` if the directory holds something else than backups or lies within the
/// database; `Locked` while another backup, removal or restore is at work in it; `Corruption` if a table of the
/// database is damaged; `Poisoned`; `Io`. There is no new backup then, and the earlier ones are as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// The number of the backup, from 1 on: one more than the highest in the directory.
    pub id: u64,
    /// The sequence number of its moment: the last write in it.
    pub sequence: u64,
    /// Tables that were copied.
    pub tables_copied: u64,
    /// Bytes of those.
    pub bytes_copied: u64,
    /// Tables that were there already.
    pub tables_shared: u64,
    /// Bytes of those.
    pub bytes_shared: u64,
}

/// A backup in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupInfo {
    /// Its number.
    pub id: u64,
    /// When it was made, in Unix milliseconds.
    pub created_ms: u64,
    /// The sequence number of its moment.
    pub sequence: u64,
    /// Its tables, shared ones included.
    pub tables: u64,
    /// Bytes of those: what a restore takes.
    pub table_bytes: u64,
}

/// What a directory holds.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BackupList {
    /// The backups, oldest first.
    pub backups: Vec<BackupInfo>,
    /// Bytes of all tables in the directory, each counted once.
    pub stored_bytes: u64,
    /// Descriptions that cannot be read. Nothing is removed from the directory but on demand as long as there are any.
    pub problems: Vec<Error>,
}

/// What a verification of a directory read, and what was wrong.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BackupVerifyReport {
    /// Backups whose description is whole.
    pub backups: u64,
    /// Tables read, each once.
    pub tables: u64,
    /// Bytes of those.
    pub table_bytes: u64,
    /// Everything that is wrong, one error each. Empty: every backup can be restored.
    pub problems: Vec<Error>,
}

impl BackupVerifyReport {
    /// Whether nothing was wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What a restore did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The backup that was restored.
    pub backup: BackupInfo,
}

/// What the removal of a backup freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoveReport {
    /// Tables that no other backup needs.
    pub tables_removed: u64,
    /// Bytes of those.
    pub bytes_removed: u64,
}

/// A directory with backups: see the [module](self).
#[derive(Clone)]
pub struct BackupDir {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
}

impl BackupDir {
    /// The directory at `dir`, on the operating system's file system. Nothing is opened yet.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        BackupDir::with_file_system(Arc::new(StdFs), dir)
    }

    /// The directory at `dir` on `fs`.
    pub fn with_file_system(fs: Arc<dyn FileSystem>, dir: impl AsRef<Path>) -> Self {
        BackupDir { fs, dir: dir.as_ref().to_path_buf() }
    }

    /// What backups there are. Reads descriptions only.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory, `InvalidArgument` if it holds something else, `Io`.
    pub fn list(&self) -> Result<BackupList> {
        let entries = self.entries()?;
        let mut list = BackupList::default();
        for id in ids(&entries) {
            match describe(&*self.fs, &self.dir, id) {
                Ok(description) => list.backups.push(info(&description)),
                Err(error) => list.problems.push(of_backup(error)),
            }
        }
        let is_table = |entry: &&DirEntry| {
            entry.is_file && matches!(BackupFile::parse(&entry.name), Some(BackupFile::Table(..)))
        };
        list.stored_bytes = entries.iter().filter(is_table).map(|entry| entry.bytes).sum();
        Ok(list)
    }

    /// Reads every byte of every backup and compares it with its checksum. Damage goes into the report.
    ///
    /// # Errors
    /// As [`BackupDir::list`]; `Locked` while a backup or a removal is at work.
    pub fn verify(&self) -> Result<BackupVerifyReport> {
        let _lock = lock(&*self.fs, &self.dir, LockKind::Shared)?;
        let mut report = BackupVerifyReport::default();
        let mut seen = BTreeSet::new();
        for id in ids(&self.entries()?) {
            let description = match describe(&*self.fs, &self.dir, id) {
                Ok(description) => description,
                Err(error) => {
                    report.problems.push(of_backup(error));
                    continue;
                }
            };
            report.backups += 1;
            for (number, content) in description.tables {
                if !seen.insert((number, content)) {
                    continue;
                }
                let path = self.dir.join(BackupFile::Table(number, content.hash).file_name());
                match read(&*self.fs, &path) {
                    Ok(found) => {
                        report.tables += 1;
                        report.table_bytes += found.bytes;
                        if found != content {
                            report.problems.push(changed(&path));
                        }
                    }
                    Err(error) => report.problems.push(of_backup(error)),
                }
            }
        }
        Ok(report)
    }

    /// Makes a database of the backup `id`, or of the latest, in `into`, which must not exist or be empty. Every table
    /// is compared with its checksum as it is copied. When it returns, all of it is durable.
    ///
    /// A damaged latest backup is an error, not a reason to take an older one: choose that by its number.
    ///
    /// # Errors
    /// `NotFound` if there is no backup; `InvalidArgument` if there is none with this number, `into` is not empty, or
    /// it lies within the backup directory; `Corruption` if a file of the backup is missing or damaged; `Unsupported`
    /// if a newer esker made it; `Locked` while a backup or removal is at work; `Io`. What was made in `into` is
    /// removed then; the directory stays, empty.
    pub fn restore(&self, id: Option<u64>, into: impl AsRef<Path>) -> Result<RestoreReport> {
        let (fs, into) = (&*self.fs, into.as_ref());
        refuse_within(&self.dir, into)?;
        let _lock = lock(fs, &self.dir, LockKind::Shared)?;
        let description = self.choose(id)?;
        let backup = info(&description);
        let assembly = Assembly::begin(fs, into)?;
        for (number, content) in &description.tables {
            let path = self.dir.join(BackupFile::Table(*number, content.hash).file_name());
            if copy(fs, &path, &assembly.table_path(*number)).map_err(of_backup)? != *content {
                return Err(changed(&path));
            }
        }
        assembly.finish(description.state)?;
        Ok(RestoreReport { backup })
    }

    /// Removes the backup `id`, and the tables that no other backup needs. A damaged one can be removed too; as long as
    /// other descriptions cannot be read, no table is.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no such backup; `Locked` while another change or a restore is at work; `Io`.
    pub fn remove(&self, id: u64) -> Result<RemoveReport> {
        self.require(id)?;
        let mut store = Store::open(&*self.fs, &self.dir)?;
        // Another removal may have come first.
        self.require(id)?;
        let (tables_removed, bytes_removed) = store.remove(id)?;
        Ok(RemoveReport { tables_removed, bytes_removed })
    }

    fn entries(&self) -> Result<Vec<DirEntry>> {
        let entries = self.fs.list(&self.dir)?.ok_or_else(|| self.nothing())?;
        check_is_backup_dir(&self.dir, &entries)?;
        Ok(entries)
    }

    fn nothing(&self) -> Error {
        Error::new(ErrorKind::NotFound, "there are no backups")
            .at(&self.dir)
            .advise("check the path of the backup directory")
    }

    fn require(&self, id: u64) -> Result<()> {
        if ids(&self.entries()?).contains(&id) {
            return Ok(());
        }
        Err(Error::invalid(format!("there is no backup {id}"))
            .at(&self.dir)
            .advise("list the backups that there are"))
    }

    fn choose(&self, id: Option<u64>) -> Result<Description> {
        let id = if let Some(id) = id {
            self.require(id)?;
            id
        } else {
            *ids(&self.entries()?).last().ok_or_else(|| self.nothing())?
        };
        describe(&*self.fs, &self.dir, id).map_err(of_backup)
    }
}

impl fmt::Debug for BackupDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupDir").field("dir", &self.dir).finish_non_exhaustive()
    }
}

fn info(description: &Description) -> BackupInfo {
    BackupInfo {
        id: description.id,
        created_ms: description.created_ms,
        sequence: description.sequence.0,
        tables: description.tables.len() as u64,
        table_bytes: description
            .tables
            .values()
            .fold(0, |bytes, content| content.bytes.saturating_add(bytes)),
    }
}

fn changed(path: &Path) -> Error {
    of_backup(Error::corruption(
        path,
        0,
        "the table is not what was backed up: its checksum differs",
    ))
}

/// Damage of a backup is mended by another copy: there is no repair of backups.
fn of_backup(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Corruption => error
            .advise("restore the file from a copy of the backup directory, or use another backup"),
        _ => error,
    }
}
