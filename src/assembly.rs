//! A database directory in the making: a checkpoint, or a backup being restored.
//!
//! Tables are brought in one by one; a manifest and `CURRENT` come last. Until all of it is durable the directory says
//! so by a file `INCOMPLETE`, and no open takes it for a database, whatever a crash left in it.
//!
//! # Order
//! 1. The directory; `LOCK`, held to the end; `INCOMPLETE`, durable before anything else has a name.
//! 2. The tables, their bytes durable.
//! 3. The manifest; all names durable; then `CURRENT`.
//! 4. `INCOMPLETE` goes.
//!
//! A crash before 1 is done leaves an empty directory, or one with an empty `LOCK`; before 4, a directory that is not
//! opened. Either can be assembled again: what an unfinished assembly left is removed first. An error clears what was
//! made and keeps the directory, empty. On a device that takes nothing any more, `INCOMPLETE` stays; if only the sync
//! after 4 failed, and that for good, the database is there, whole.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::file_name::FileKind;
use crate::fs::{DirEntry, FileLock, FileSystem, LockKind};
use crate::key::FileNumber;
use crate::manifest::Manifest;
use crate::manifest::state::ManifestState;

/// For people who find the file.
const NOTE: &[u8] =
    b"This directory is an unfinished checkpoint or restore, and no database yet.\n\
    Unless one is being made just now, remove the directory and make it again.\n";

/// Refuses a directory that is being assembled, or whose assembly was cut short.
pub(crate) fn refuse_incomplete(dir: &Path, entries: &[DirEntry]) -> Result<()> {
    if has_note(entries) {
        return Err(Error::invalid("an unfinished checkpoint or restore, and no database yet")
            .at(&FileKind::Incomplete.path(dir))
            .advise("make the checkpoint or the restore again; it replaces what is there"));
    }
    Ok(())
}

fn has_note(entries: &[DirEntry]) -> bool {
    let name = FileKind::Incomplete.file_name();
    entries.iter().any(|entry| entry.is_file && entry.name == name)
}

/// Refuses `target` if it lies within the directory `dir` of a database or of backups, or is it. Links are not
/// followed: the seam knows none. (The command line looks at them.)
pub(crate) fn refuse_within(dir: &Path, target: &Path) -> Result<()> {
    let plain = |path: &Path| {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let mut plain = PathBuf::new();
        for component in path.components() {
            if component == std::path::Component::ParentDir {
                plain.pop();
            } else {
                plain.push(component);
            }
        }
        plain
    };
    if plain(target).starts_with(plain(dir)) {
        return Err(Error::invalid(format!(
            "the target lies within the directory {}",
            dir.display()
        ))
        .at(target)
        .advise("name a directory beside it"));
    }
    Ok(())
}

/// See the module text.
#[derive(Debug)]
pub(crate) struct Assembly<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    _lock: Option<Box<dyn FileLock>>,
    is_done: bool,
}

impl<'a> Assembly<'a> {
    /// Step 1. `dir` must not exist, or be empty, or hold what an unfinished assembly left.
    pub(crate) fn begin(fs: &'a dyn FileSystem, dir: &'a Path) -> Result<Self> {
        match fs.list(dir)? {
            Some(entries) => check_free(dir, &entries)?,
            None => fs.create_dir_all(dir)?,
        }
        let lock = fs.lock(&FileKind::Lock.path(dir), LockKind::Exclusive)?;
        // Again under the lock: another assembly may have been at work until now.
        let entries = fs.list(dir)?.unwrap_or_default();
        check_free(dir, &entries)?;
        let assembly = Assembly { fs, dir, _lock: lock, is_done: false };
        assembly.put_note()?;
        assembly.remove_all()?;
        Ok(assembly)
    }

    /// Where the table with this number goes.
    pub(crate) fn table_path(&self, number: FileNumber) -> PathBuf {
        FileKind::Table(number).path(self.dir)
    }

    /// Steps 3 and 4: the tables of `state` are there, their bytes durable. Makes the directory a database.
    pub(crate) fn finish(mut self, mut state: ManifestState) -> Result<()> {
        let number = state.next_file_number;
        state.next_file_number = FileNumber(number.0 + 1);
        // It syncs the directory before CURRENT has its name: the tables' names are durable then too.
        Manifest::create(self.fs, self.dir, number, &state)?;
        self.fs.remove(&FileKind::Incomplete.path(self.dir))?;
        self.fs.sync_dir(self.dir)?;
        self.is_done = true;
        Ok(())
    }

    fn put_note(&self) -> Result<()> {
        let mut note = self.fs.create(&FileKind::Incomplete.path(self.dir))?;
        note.append(NOTE)?;
        note.sync_data()?;
        self.fs.sync_dir(self.dir)
    }

    /// Removes everything but the lock and the note.
    fn remove_all(&self) -> Result<()> {
        for entry in self.fs.list(self.dir)?.unwrap_or_default() {
            match FileKind::parse(&entry.name) {
                None | Some(FileKind::Lock | FileKind::Incomplete) => {}
                Some(kind) => self.fs.remove(&kind.path(self.dir))?,
            }
        }
        Ok(())
    }

    /// Empties the directory. The note goes last: what a failure leaves is not opened.
    fn clear(&self) -> Result<()> {
        if !has_note(&self.fs.list(self.dir)?.unwrap_or_default()) {
            self.put_note()?;
        }
        self.remove_all()?;
        self.fs.sync_dir(self.dir)?;
        self.fs.remove(&FileKind::Incomplete.path(self.dir))?;
        self.fs.remove(&FileKind::Lock.path(self.dir))
    }
}

/// After an error. Not being able to clear is no second error: the note stays and says what to do.
impl Drop for Assembly<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = self.clear();
        }
    }
}

/// Whether a database can be assembled in a directory that holds `entries`.
fn check_free(dir: &Path, entries: &[DirEntry]) -> Result<()> {
    let is_unfinished = has_note(entries);
    let is_ours = |entry: &DirEntry| {
        entry.is_file
            && match FileKind::parse(&entry.name) {
                Some(FileKind::Lock) => true,
                Some(_) => is_unfinished,
                None => false,
            }
    };
    match entries.iter().find(|entry| !is_ours(entry)) {
        None => Ok(()),
        Some(entry) => Err(Error::invalid(format!("the directory is not empty: {}", entry.name))
            .at(dir)
            .advise("name a new or empty directory")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::fs::SimFs;

    fn begin_error(fs: &SimFs) -> Error {
        Assembly::begin(fs, Path::new("/new")).unwrap_err()
    }

    #[test]
    fn only_new_empty_and_unfinished_directories_are_free() {
        let fs = SimFs::new();
        let dir = Path::new("/new");
        drop(Assembly::begin(&fs, dir).unwrap());
        assert!(fs.list_dir(dir).is_empty());
        fs.write_file("/new/LOCK", b"").unwrap();
        drop(Assembly::begin(&fs, dir).unwrap());
        for name in ["000001.table", "notes", "CURRENT"] {
            fs.write_file(dir.join(name), b"x").unwrap();
            let error = begin_error(&fs);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(name), "{error}");
            fs.remove_file(dir.join(name)).unwrap();
        }
        for name in ["INCOMPLETE", "000001.table", "MANIFEST-000002", "CURRENT"] {
            fs.write_file(dir.join(name), b"x").unwrap();
        }
        let assembly = Assembly::begin(&fs, dir).unwrap();
        assert_eq!(fs.list_dir(dir), ["INCOMPLETE", "LOCK"]);
        assert_eq!(begin_error(&fs).kind(), ErrorKind::Locked);
        drop(assembly);
        // Not even an unfinished one, if there is something else in it.
        fs.write_file("/new/INCOMPLETE", b"").unwrap();
        fs.write_file("/new/notes", b"").unwrap();
        assert_eq!(begin_error(&fs).kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn targets_within_a_database_are_refused_however_they_are_spelled() {
        let dir = Path::new("/data/db");
        for target in ["/data/db", "/data/db/", "/data/db/x", "/data/./db/x/y", "/data/z/../db/x"] {
            assert!(refuse_within(dir, Path::new(target)).is_err(), "{target}");
        }
        for target in ["/data", "/data/db2", "/data/db/../x", "/x/data/db"] {
            assert!(refuse_within(dir, Path::new(target)).is_ok(), "{target}");
        }
        assert!(refuse_within(Path::new("db"), Path::new("./db/x")).is_err());
    }
}
