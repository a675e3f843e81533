//! Tests of the log as a whole: what the writer writes, the reader reads, and what damage does.

mod damage;
mod life;
mod modes;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tempfile::TempDir;

use crate::checksum::checksum;
use crate::error::{Error, Result};
use crate::file_name::FileKind;
use crate::fs::{AppendFile, DirEntry, FileLock, FileSystem, LockKind, LogFile, ReadFile, StdFs};
use crate::key::{FileNumber, SequenceNumber};
use crate::options::RecoveryMode;
use crate::wal::replay::{Replay, ReplayOptions, replay};
use crate::wal::segment::RecordKind;
use crate::wal::writer::{WalWriter, WalWriterOptions};
use crate::wal::{WalPosition, WalStart};

/// A record as the tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: RecordKind,
    first: u64,
    count: u32,
    payload: Vec<u8>,
}

/// A directory with a log and what was appended to it.
struct Log {
    dir: TempDir,
    writer: WalWriter,
    appended: Vec<Seen>,
    ends: Vec<WalPosition>,
}

impl Log {
    fn new(segment_bytes: u64, mapped: bool) -> Self {
        Self::with_fs(Arc::new(StdFs), segment_bytes, mapped)
    }

    fn with_fs(fs: Arc<dyn FileSystem>, segment_bytes: u64, mapped: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = WalWriterOptions { segment_bytes, mapped };
        let writer = WalWriter::new(fs, dir.path(), options, WalStart::default());
        Log { dir, writer, appended: Vec::new(), ends: Vec::new() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Appends a batch right after the records before it.
    fn append(&mut self, count: u32, payload: &[u8]) -> WalPosition {
        self.append_at(self.writer.next_sequence().0, count, payload)
    }

    fn append_at(&mut self, first: u64, count: u32, payload: &[u8]) -> WalPosition {
        let expected = self.writer.next_sequence().0;
        let end = append(&mut self.writer, first, count, payload).unwrap();
        if first > expected {
            self.appended.push(Seen { kind: RecordKind::Skip, first, count: 0, payload: vec![] });
            self.ends.push(WalPosition::default());
        }
        let payload = payload.to_vec();
        self.appended.push(Seen { kind: RecordKind::Batch, first, count, payload });
        self.ends.push(end);
        end
    }

    fn sync(&mut self) {
        let target = self.writer.sync_target();
        target.sync().unwrap();
        self.writer.mark_synced(&target);
    }

    fn prepare(&mut self) -> bool {
        let Some(preparation) = self.writer.start_preparation() else { return false };
        self.writer.install_prepared(preparation.run().unwrap());
        true
    }

    /// A writer that goes on after what a replay of this log finds.
    fn reopen(&mut self) -> Replay {
        let (found, seen) = self.replay(RecoveryMode::PointInTime).unwrap();
        self.appended = seen;
        let options = WalWriterOptions { segment_bytes: 256, mapped: false };
        self.writer = WalWriter::new(Arc::new(StdFs), self.dir.path(), options, found.start());
        found
    }

    fn replay(&self, mode: RecoveryMode) -> Result<(Replay, Vec<Seen>)> {
        replay_dir(self.path(), mode, WalPosition::default())
    }
}

fn append(writer: &mut WalWriter, first: u64, count: u32, payload: &[u8]) -> Result<WalPosition> {
    writer.append(SequenceNumber(first), count, payload, checksum(payload))
}

fn replay_dir(
    dir: &Path,
    mode: RecoveryMode,
    promised: WalPosition,
) -> Result<(Replay, Vec<Seen>)> {
    let options = ReplayOptions { first_segment: FileNumber(1), mode, promised };
    let mut seen = Vec::new();
    let found = replay(&StdFs, dir, options, &mut |record| {
        seen.push(Seen {
            kind: record.kind,
            first: record.first_sequence.0,
            count: record.entry_count,
            payload: record.payload.to_vec(),
        });
        Ok(())
    })?;
    Ok((found, seen))
}

fn segment_path(dir: &Path, number: u64) -> std::path::PathBuf {
    FileKind::WalSegment(FileNumber(number)).path(dir)
}

fn read_segment(dir: &Path, number: u64) -> Vec<u8> {
    let file = StdFs.open(&segment_path(dir, number)).unwrap().unwrap();
    let mut bytes = vec![0; file.bytes() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn write_segment(dir: &Path, number: u64, bytes: &[u8]) {
    StdFs.create(&segment_path(dir, number)).unwrap().append(bytes).unwrap();
}

/// Payload number `index`: `len` bytes unlike those of its neighbours.
fn payload(index: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (index * 37 + at * 11 + 1) as u8).collect()
}

/// The operating system's file system, writing down what is done to the log and failing on demand.
#[derive(Clone, Debug, Default)]
struct Recorder {
    operations: Arc<Mutex<Vec<String>>>,
    failing: Arc<Mutex<Option<String>>>,
}

impl Recorder {
    fn note(&self, operation: &str, path: &Path) -> Result<()> {
        let operation = format!("{operation} {}", path.file_name().unwrap().display());
        self.operations.lock().push(operation.clone());
        match &*self.failing.lock() {
            Some(failing) if operation.starts_with(failing.as_str()) => {
                Err(Error::io(&operation, path, std::io::Error::from_raw_os_error(5)))
            }
            _ => Ok(()),
        }
    }

    fn fail(&self, operation: &str) {
        *self.failing.lock() = Some(operation.to_owned());
    }

    fn stop_failing(&self) {
        *self.failing.lock() = None;
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.operations.lock())
    }

    fn recorded(&self, path: &Path, file: Box<dyn LogFile>) -> Box<dyn LogFile> {
        Box::new(RecordedLog { recorder: self.clone(), path: path.to_path_buf(), file })
    }
}

#[derive(Debug)]
struct RecordedLog {
    recorder: Recorder,
    path: std::path::PathBuf,
    file: Box<dyn LogFile>,
}

impl LogFile for RecordedLog {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.recorder.note("write", &self.path)?;
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> Result<()> {
        self.recorder.note("sync", &self.path)?;
        self.file.sync_data()
    }
}

impl FileSystem for Recorder {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        StdFs.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> Result<Option<Vec<DirEntry>>> {
        StdFs.list(dir)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn AppendFile>> {
        StdFs.create(path)
    }

    fn open(&self, path: &Path) -> Result<Option<Arc<dyn ReadFile>>> {
        StdFs.open(path)
    }

    fn create_log(&self, path: &Path, bytes: u64, mapped: bool) -> Result<Box<dyn LogFile>> {
        self.note("create", path)?;
        Ok(self.recorded(path, StdFs.create_log(path, bytes, mapped)?))
    }

    fn recycle_log(
        &self,
        from: &Path,
        to: &Path,
        bytes: u64,
        mapped: bool,
    ) -> Result<Box<dyn LogFile>> {
        self.note("recycle", to)?;
        Ok(self.recorded(to, StdFs.recycle_log(from, to, bytes, mapped)?))
    }

    fn sync_file(&self, path: &Path, range: Range<u64>) -> Result<()> {
        StdFs.sync_file(path, range)
    }

    fn truncate(&self, path: &Path, bytes: u64) -> Result<()> {
        StdFs.truncate(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        StdFs.rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        StdFs.hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        StdFs.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.note("sync_dir", Path::new("dir"))?;
        StdFs.sync_dir(dir)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn FileLock>>> {
        StdFs.lock(path, kind)
    }
}
