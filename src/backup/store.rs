//! What changes a backup directory: adding tables and descriptions, removing both.
//!
//! # Order
//! * A file is written under another name, synced, and renamed: what has its final name is whole.
//! * Tables, and then the names of tables, are durable before the description that needs them has its name.
//! * A description goes, durably, before the tables that only it needed.
//!
//! So a crash at any point leaves every finished backup as it was, and at most files that none needs. Whole tables
//! among them are found by the next backup, which goes on where the last one stopped; then they go. While any
//! description cannot be read, no table is removed: it may need it.
//!
//! One change at a time: [`Store`] holds the lock.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::backup::format::{BackupFile, Description};
use crate::content::{Content, ContentHash, copy, read, to_memory};
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::{DirEntry, FileLock, FileSystem, LockKind};
use crate::key::FileNumber;

/// A backup directory, locked to be changed.
#[derive(Debug)]
pub(crate) struct Store<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    _lock: Option<Box<dyn FileLock>>,
    /// The files of tables, by name and length.
    tables: BTreeSet<(FileNumber, Content)>,
    next_id: u64,
}

impl<'a> Store<'a> {
    /// Locks the backup directory `dir`, creating it if it is missing or empty, and clears away what is unfinished.
    pub(crate) fn open(fs: &'a dyn FileSystem, dir: &'a Path) -> Result<Self> {
        let entries = fs.list(dir)?;
        match &entries {
            Some(entries) => check_is_backup_dir(dir, entries)?,
            None => fs.create_dir_all(dir)?,
        }
        let lock = lock(fs, dir, LockKind::Exclusive)?;
        if entries.is_none_or(|entries| entries.is_empty()) {
            // So that whatever a crash leaves is recognised as ours.
            fs.sync_dir(dir)?;
        }
        let mut store = Store { fs, dir, _lock: lock, tables: BTreeSet::new(), next_id: 1 };
        for entry in fs.list(dir)?.unwrap_or_default() {
            match BackupFile::parse(&entry.name) {
                Some(BackupFile::Description(id)) => {
                    let next_id = id.checked_add(1).ok_or_else(|| numbers_used_up(dir, &entry))?;
                    store.next_id = store.next_id.max(next_id);
                }
                _ if !entry.is_file => {}
                Some(BackupFile::Unfinished) => fs.remove(&dir.join(&entry.name))?,
                Some(BackupFile::Table(number, hash)) => {
                    store.tables.insert((number, Content { bytes: entry.bytes, hash }));
                }
                Some(BackupFile::Lock) | None => {}
            }
        }
        Ok(store)
    }

    /// The path of a file.
    pub(crate) fn path(&self, file: BackupFile) -> PathBuf {
        self.dir.join(file.file_name())
    }

    /// The number of the next backup.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Whether it holds this table already.
    pub(crate) fn holds(&self, number: FileNumber, content: Content) -> bool {
        self.tables.contains(&(number, content))
    }

    /// Whether it holds any table with this number, so that reading one before copying it may be worth it.
    pub(crate) fn holds_any(&self, number: FileNumber) -> bool {
        let lowest = Content { bytes: 0, hash: ContentHash(0) };
        let mut from = self.tables.range((number, lowest)..);
        from.next().is_some_and(|(held, _)| *held == number)
    }

    /// Copies the table `number` that stands at `from`. Its name is durable after [`Store::publish`].
    pub(crate) fn add_copy(&mut self, number: FileNumber, from: &Path) -> Result<Content> {
        // The name says the content, which is known when it was copied.
        let unfinished = FileKind::Table(number).path(self.dir);
        let content = copy(self.fs, from, &unfinished)?;
        self.name_table(number, content, &unfinished)?;
        Ok(content)
    }

    /// Takes over a table that was written into the directory under its name in a database, and synced.
    pub(crate) fn adopt(&mut self, number: FileNumber) -> Result<Content> {
        let unfinished = FileKind::Table(number).path(self.dir);
        let content = read(self.fs, &unfinished)?;
        self.name_table(number, content, &unfinished)?;
        Ok(content)
    }

    fn name_table(&mut self, number: FileNumber, content: Content, from: &Path) -> Result<()> {
        let name = self.path(BackupFile::Table(number, content.hash));
        if let Err(error) = self.fs.rename(from, &name) {
            let _ = self.fs.remove(from);
            return Err(error);
        }
        self.tables.insert((number, content));
        Ok(())
    }

    /// Makes everything added durable, and then the backup that `description` describes.
    pub(crate) fn publish(&self, description: &Description) -> Result<()> {
        self.fs.sync_dir(self.dir)?;
        let file = BackupFile::Description(description.id);
        let path = self.path(file);
        let bytes = description.encode(&path)?;
        let temporary = self.dir.join(file.temporary_name());
        let written =
            self.write(&temporary, &bytes).and_then(|()| self.fs.rename(&temporary, &path));
        if written.is_err() {
            let _ = self.fs.remove(&temporary);
        }
        written?;
        self.fs.sync_dir(self.dir).inspect_err(|_| {
            // The caller hears that there is no such backup.
            let _ = self.fs.remove(&path);
        })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = self.fs.create(path)?;
        file.append(bytes)?;
        file.sync_data()
    }

    /// Removes the backup `id`; returns how many tables went with it, and their bytes.
    pub(crate) fn remove(&mut self, id: u64) -> Result<(u64, u64)> {
        self.fs.remove(&self.path(BackupFile::Description(id)))?;
        self.fs.sync_dir(self.dir)?;
        self.sweep()
    }

    /// Removes the tables that no backup needs. Returns how many, and their bytes.
    pub(crate) fn sweep(&mut self) -> Result<(u64, u64)> {
        let entries = self.fs.list(self.dir)?.unwrap_or_default();
        let mut needed = BTreeSet::new();
        for id in ids(&entries) {
            let Ok(description) = describe(self.fs, self.dir, id) else { return Ok((0, 0)) };
            needed.extend(description.tables.iter().map(|(number, table)| (*number, table.hash)));
        }
        let (mut gone_count, mut gone_bytes) = (0, 0);
        for entry in entries.iter().filter(|entry| entry.is_file) {
            let Some(BackupFile::Table(number, hash)) = BackupFile::parse(&entry.name) else {
                continue;
            };
            if !needed.contains(&(number, hash)) {
                self.fs.remove(&self.dir.join(&entry.name))?;
                self.tables.remove(&(number, Content { bytes: entry.bytes, hash }));
                gone_count += 1;
                gone_bytes += entry.bytes;
            }
        }
        Ok((gone_count, gone_bytes))
    }
}

/// Locks a backup directory; `None` if it was never written to.
pub(crate) fn lock(
    fs: &dyn FileSystem,
    dir: &Path,
    kind: LockKind,
) -> Result<Option<Box<dyn FileLock>>> {
    fs.lock(&dir.join(BackupFile::Lock.file_name()), kind).map_err(|error| {
        if error.kind() == ErrorKind::Locked {
            return Error::new(error.kind(), "another backup, removal or restore is at work")
                .at(dir)
                .advise("wait until it has ended");
        }
        error
    })
}

#[cold]
fn numbers_used_up(dir: &Path, entry: &DirEntry) -> Error {
    Error::invalid("there is no number left for another backup")
        .at(&dir.join(&entry.name))
        .advise("remove this backup, or name another directory")
}

/// The numbers of the backups, ascending. Also of what has a description's name and is no file: its tables are needed
/// by somebody who moved it away, and reading it says what is wrong.
pub(crate) fn ids(entries: &[DirEntry]) -> Vec<u64> {
    let mut ids: Vec<u64> = entries
        .iter()
        .filter_map(|entry| match BackupFile::parse(&entry.name) {
            Some(BackupFile::Description(id)) => Some(id),
            _ => None,
        })
        .collect();
    ids.sort_unstable();
    ids
}

/// Reads the description of the backup `id`.
pub(crate) fn describe(fs: &dyn FileSystem, dir: &Path, id: u64) -> Result<Description> {
    let path = dir.join(BackupFile::Description(id).file_name());
    let Some(file) = fs.open(&path)? else {
        return Err(Error::corruption(&path, 0, "the description is missing"));
    };
    Description::decode(&to_memory(&*file, file.bytes(), &path)?, id, &path)
}

/// Refuses a directory that was made for something else.
pub(crate) fn check_is_backup_dir(dir: &Path, entries: &[DirEntry]) -> Result<()> {
    let is_ours = entries.iter().any(|entry| {
        !matches!(BackupFile::parse(&entry.name), None | Some(BackupFile::Unfinished))
    });
    if entries.is_empty() || is_ours {
        return Ok(());
    }
    Err(Error::invalid("the directory is not empty and holds no backups")
        .at(dir)
        .advise("name a new or empty directory, or one that holds backups"))
}
