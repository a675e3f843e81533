//! What the database occupies on disk, by part, at every moment, and the most it ever was.
//!
//! [`MeteredFs`] stands in front of the file system and tells [`DiskUsage`] of every file that is created, grows,
//! moves or goes. So nothing lists the directory to know its size, files that a job is still writing count as they
//! grow, and the peak is exact: it is looked at after every growth.
//!
//! # Parts
//! A table is *in flight* from its creation until the edit that adds it is durable, *live* until an edit removes it,
//! and *obsolete* until its last reader lets go and its file is removed. Who installs edits says so
//! ([`DiskUsage::place`]). What an open finds and no manifest names is obsolete until it is removed.
//!
//! # What is counted
//! Lengths of our own files. Foreign files are not ours; a log segment counts in full from its allocation. Of an
//! append that failed nothing is counted, though part of it may stand in the file: it is about to be removed, or the
//! database is poisoned.
//!
//! # Locks
//! One mutex, a leaf. It is taken once for each create, remove and append (appends are a mebibyte), never for a write
//! to the log or a read.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Result;
use crate::file_name::FileKind;
use crate::fs::{AppendFile, DirEntry, FileLock, FileSystem, LockKind, LogFile, ReadFile};
use crate::key::FileNumber;
use crate::sync::Mutex;

/// What a file counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    LiveTables,
    ObsoleteTables,
    InFlight,
    Wal,
    Manifest,
}

/// Bytes on disk at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskParts {
    by_part: [u64; 5],
}

impl DiskParts {
    pub(crate) fn get(&self, part: Part) -> u64 {
        self.by_part[part as usize]
    }

    /// All of it.
    pub(crate) fn total(&self) -> u64 {
        self.by_part.iter().sum()
    }
}

#[derive(Clone, Copy, Debug)]
struct FileUse {
    part: Part,
    bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<FileKind, FileUse>,
    parts: DiskParts,
    peak_bytes: u64,
    table_bytes_appended: u64,
}

impl State {
    /// Replaces what is known of a file; `None`: it is gone.
    fn set(&mut self, kind: FileKind, file: Option<FileUse>) {
        let before = match file {
            Some(file) => self.files.insert(kind, file),
            None => self.files.remove(&kind),
        };
        if let Some(before) = before {
            self.parts.by_part[before.part as usize] -= before.bytes;
        }
        if let Some(file) = file {
            self.parts.by_part[file.part as usize] += file.bytes;
        }
        self.peak_bytes = self.peak_bytes.max(self.parts.total());
    }
}

/// See the module text.
#[derive(Debug, Default)]
pub(crate) struct DiskUsage {
    state: Mutex<State>,
}

impl DiskUsage {
    /// Takes over what an open found. Tables are obsolete until they are placed.
    pub(crate) fn adopt(&self, entries: &[DirEntry]) {
        let mut state = self.state.lock();
        for entry in entries.iter().filter(|entry| entry.is_file) {
            let Some(kind) = FileKind::parse(&entry.name) else { continue };
            let part = match kind {
                FileKind::Table(_) => Part::ObsoleteTables,
                kind => part_of_new(kind),
            };
            state.set(kind, Some(FileUse { part, bytes: entry.bytes }));
        }
    }

    /// Counts a table as `part` from now on, if its file is there.
    pub(crate) fn place(&self, table: FileNumber, part: Part) {
        let mut state = self.state.lock();
        let kind = FileKind::Table(table);
        if let Some(&file) = state.files.get(&kind) {
            state.set(kind, Some(FileUse { part, ..file }));
        }
    }

    /// The bytes on disk now.
    pub(crate) fn now(&self) -> DiskParts {
        self.state.lock().parts
    }

    /// The most bytes that were on disk at one moment since open.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.state.lock().peak_bytes
    }

    /// Bytes appended to tables since open, whatever became of the tables.
    pub(crate) fn table_bytes_appended(&self) -> u64 {
        self.state.lock().table_bytes_appended
    }

    fn set_bytes(&self, kind: Option<FileKind>, bytes: u64) {
        if let Some(kind) = kind {
            let file = FileUse { part: part_of_new(kind), bytes };
            self.state.lock().set(kind, Some(file));
        }
    }

    fn note_append(&self, kind: FileKind, bytes: u64) {
        let mut state = self.state.lock();
        if matches!(kind, FileKind::Table(_)) {
            state.table_bytes_appended += bytes;
        }
        if let Some(&file) = state.files.get(&kind) {
            state.set(kind, Some(FileUse { bytes: file.bytes + bytes, ..file }));
        }
    }

    fn note_removed(&self, kind: Option<FileKind>) {
        if let Some(kind) = kind {
            self.state.lock().set(kind, None);
        }
    }

    fn note_renamed(&self, from: Option<FileKind>, to: Option<FileKind>) {
        let mut state = self.state.lock();
        let Some(file) = from.and_then(|kind| state.files.get(&kind).copied()) else {
            return;
        };
        // Gone first: else the peak would count the file twice.
        if let Some(kind) = from {
            state.set(kind, None);
        }
        if let Some(kind) = to {
            state.set(kind, Some(file));
        }
    }
}

fn kind_of(path: &Path) -> Option<FileKind> {
    FileKind::parse(path.file_name()?.to_str()?)
}

/// What a file counts as when it begins.
fn part_of_new(kind: FileKind) -> Part {
    match kind {
        FileKind::Table(_) => Part::InFlight,
        FileKind::WalSegment(_) => Part::Wal,
        FileKind::Manifest(_)
        | FileKind::Current
        | FileKind::CurrentTemporary
        | FileKind::Incomplete
        | FileKind::Lock => Part::Manifest,
    }
}

/// A file system that tells a [`DiskUsage`] what happens in the database's directory.
#[derive(Debug)]
pub(crate) struct MeteredFs {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    usage: Arc<DiskUsage>,
}

impl MeteredFs {
    /// Meters the files that stand in `dir`. Those of other directories (checkpoints, backups) are not counted.
    pub(crate) fn new(fs: Arc<dyn FileSystem>, dir: &Path, usage: Arc<DiskUsage>) -> Self {
        MeteredFs { fs, dir: dir.to_path_buf(), usage }
    }

    /// The kind of a file of the database; `None` for any other.
    fn kind_of(&self, path: &Path) -> Option<FileKind> {
        kind_of(path).filter(|_| path.parent() == Some(&*self.dir))
    }
}

impl FileSystem for MeteredFs {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.fs.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> Result<Option<Vec<DirEntry>>> {
        self.fs.list(dir)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn AppendFile>> {
        let file = self.fs.create(path)?;
        self.usage.set_bytes(self.kind_of(path), 0);
        Ok(match self.kind_of(path) {
            Some(kind) => Box::new(MeteredFile { file, kind, usage: Arc::clone(&self.usage) }),
            None => file,
        })
    }

    fn open(&self, path: &Path) -> Result<Option<Arc<dyn ReadFile>>> {
        self.fs.open(path)
    }

    fn create_log(&self, path: &Path, bytes: u64, mapped: bool) -> Result<Box<dyn LogFile>> {
        let file = self.fs.create_log(path, bytes, mapped)?;
        self.usage.set_bytes(self.kind_of(path), bytes);
        Ok(file)
    }

    fn recycle_log(
        &self,
        from: &Path,
        to: &Path,
        bytes: u64,
        mapped: bool,
    ) -> Result<Box<dyn LogFile>> {
        let file = self.fs.recycle_log(from, to, bytes, mapped)?;
        self.usage.note_renamed(self.kind_of(from), self.kind_of(to));
        Ok(file)
    }

    fn sync_file(&self, path: &Path, range: Range<u64>) -> Result<()> {
        self.fs.sync_file(path, range)
    }

    fn truncate(&self, path: &Path, bytes: u64) -> Result<()> {
        self.fs.truncate(path, bytes)?;
        self.usage.set_bytes(self.kind_of(path), bytes);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.fs.rename(from, to)?;
        self.usage.note_renamed(self.kind_of(from), self.kind_of(to));
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        // Not counted: it takes no space. The engine makes links only to other directories.
        self.fs.hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.fs.remove(path)?;
        self.usage.note_removed(self.kind_of(path));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.fs.sync_dir(dir)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn FileLock>>> {
        self.fs.lock(path, kind)
    }
}

/// A file that counts as it grows.
#[derive(Debug)]
struct MeteredFile {
    file: Box<dyn AppendFile>,
    kind: FileKind,
    usage: Arc<DiskUsage>,
}

impl AppendFile for MeteredFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.append(bytes)?;
        self.usage.note_append(self.kind, bytes.len() as u64);
        Ok(())
    }

    fn start_writeback(&mut self) -> Result<()> {
        self.file.start_writeback()
    }

    fn sync_data(&mut self) -> Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimFs;

    fn parts(usage: &DiskUsage) -> [u64; 5] {
        usage.now().by_part
    }

    #[test]
    fn a_table_goes_from_in_flight_to_live_to_obsolete_to_nothing() {
        let usage = Arc::new(DiskUsage::default());
        let dir = Path::new("/db");
        let fs = MeteredFs::new(Arc::new(SimFs::new()), dir, Arc::clone(&usage));
        fs.create_dir_all(dir).unwrap();
        let path = FileKind::Table(FileNumber(7)).path(dir);
        let mut file = fs.create(&path).unwrap();
        file.append(&[1; 100]).unwrap();
        assert_eq!(parts(&usage), [0, 0, 100, 0, 0]);
        file.append(&[1; 20]).unwrap();
        usage.place(FileNumber(7), Part::LiveTables);
        assert_eq!(parts(&usage), [120, 0, 0, 0, 0]);
        usage.place(FileNumber(7), Part::ObsoleteTables);
        usage.place(FileNumber(8), Part::LiveTables);
        assert_eq!(parts(&usage), [0, 120, 0, 0, 0]);
        fs.remove(&path).unwrap();
        assert_eq!((usage.now().total(), usage.peak_bytes()), (0, 120));
        // Whoever still holds the file open writes where nobody looks.
        file.append(&[1; 5]).unwrap();
        assert_eq!((usage.now().total(), usage.table_bytes_appended()), (0, 125));
    }

    #[test]
    fn renames_count_once_and_what_is_replaced_is_gone() {
        let usage = Arc::new(DiskUsage::default());
        let dir = Path::new("/db");
        let fs = MeteredFs::new(Arc::new(SimFs::new()), dir, Arc::clone(&usage));
        fs.create_dir_all(dir).unwrap();
        let segment = |number| FileKind::WalSegment(FileNumber(number)).path(dir);
        fs.create_log(&segment(1), 4096, false).unwrap();
        drop(fs.recycle_log(&segment(1), &segment(2), 4096, false).unwrap());
        assert_eq!((parts(&usage), usage.peak_bytes()), ([0, 0, 0, 4096, 0], 4096));
        fs.truncate(&segment(2), 1000).unwrap();
        for length in [30, 20] {
            let temporary = FileKind::CurrentTemporary.path(dir);
            fs.create(&temporary).unwrap().append(&vec![0; length]).unwrap();
            fs.rename(&temporary, &FileKind::Current.path(dir)).unwrap();
        }
        assert_eq!(parts(&usage), [0, 0, 0, 1000, 20]);
        fs.create(&dir.join("notes.txt")).unwrap().append(b"foreign").unwrap();
        let elsewhere = Path::new("/copy");
        fs.create_dir_all(elsewhere).unwrap();
        fs.create(&FileKind::Table(FileNumber(9)).path(elsewhere)).unwrap().append(b"x").unwrap();
        assert_eq!(usage.now().total(), 1020);
        let adopted = DiskUsage::default();
        adopted.adopt(&fs.list(dir).unwrap().unwrap());
        assert_eq!(adopted.now(), usage.now());
    }
}
