//! Open files of the simulation: for appending, for the log, for reading, and locks.
//!
//! A handle keeps its inode alive, whatever happens to the name. A mapping holds a handle too.
//! Every method is one operation of the file system and goes through [`SimFs::operate`].

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::InodeId;
use super::faults::Operation;
use super::{SimFs, State, SyncKind};
use crate::error::{Error, Result};
use crate::fs::{Access, AppendFile, FileLock, LockKind, LogFile, Mapping, ReadFile};

/// An open inode. Dropping it closes it.
pub(super) struct Handle {
    fs: SimFs,
    pub(super) inode: InodeId,
    path: PathBuf,
}

impl Handle {
    /// Opens `inode` under the name `path`. The caller holds the lock that `state` comes from, so
    /// it must not drop the handle before it lets go of it.
    pub(super) fn open(fs: &SimFs, state: &mut State, inode: InodeId, path: &Path) -> Self {
        state.disk.add_handle(inode);
        Handle { fs: fs.clone(), inode, path: path.to_path_buf() }
    }

    /// Writes at `offset`, as much as fits on the disk.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let operation = Operation::change("write", &self.path).range(offset, bytes.len());
        let written = self.fs.operate(&operation, |state| {
            let end = offset + bytes.len() as u64;
            let fitting = state.fitting_bytes(self.inode, end).saturating_sub(offset);
            let fitting = &bytes[..fitting as usize];
            state.disk.write(self.inode, offset, fitting);
            state.gate.counters.bytes_written += fitting.len() as u64;
            if fitting.len() == bytes.len() { Ok(()) } else { Err(state.full_disk()) }
        });
        written.map_err(|e| Error::io("write", &self.path, e).at_offset(offset))
    }

    /// Writes what stands in `range` again.
    pub(super) fn rewrite(&self, range: Range<u64>) -> Result<()> {
        let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
        if bytes.is_empty() {
            return Ok(());
        }
        if !self.fs.state.lock().disk.content(self.inode).read(&mut bytes, range.start) {
            let e = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(Error::io("read", &self.path, e).at_offset(range.start));
        }
        self.write(range.start, &bytes)
    }

    pub(super) fn sync_data(&self) -> Result<()> {
        let operation = Operation::change("sync_data", &self.path);
        self.fs.observe(&operation);
        let mut state = self.fs.state.lock();
        if let Err(e) = state.gate.admit(&operation) {
            if !state.gate.is_halted() {
                state.disk.content_mut(self.inode).fail_sync();
            }
            return Err(Error::io("sync", &self.path, e));
        }
        state.gate.counters.syncs += 1;
        if !state.is_ignored(SyncKind::of_file(&self.path)) {
            state.disk.content_mut(self.inode).sync();
        }
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.fs.state.lock().disk.drop_handle(self.inode);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())
    }
}

#[derive(Debug)]
pub(super) struct SimAppendFile {
    pub(super) handle: Handle,
    pub(super) bytes: u64,
}

impl AppendFile for SimAppendFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.handle.write(self.bytes, bytes);
        self.bytes = match written {
            Ok(()) => self.bytes + bytes.len() as u64,
            // A full disk took a part; the position of the file is behind it.
            Err(_) => self.handle.fs.state.lock().disk.content(self.handle.inode).bytes(),
        };
        written
    }

    fn start_writeback(&mut self) -> Result<()> {
        let Handle { fs, path, .. } = &self.handle;
        let started = fs.operate(&Operation::change("start_writeback", path), |_| Ok(()));
        started.map_err(|e| Error::io("write", path, e))
    }

    fn sync_data(&mut self) -> Result<()> {
        self.handle.sync_data()
    }
}

#[derive(Debug)]
pub(super) struct SimLogFile {
    pub(super) handle: Handle,
    pub(super) bytes: u64,
}

impl LogFile for SimLogFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= self.bytes, "write past the end of a log segment");
        self.handle.write(offset, bytes)
    }

    fn sync_data(&self) -> Result<()> {
        self.handle.sync_data()
    }
}

#[derive(Debug)]
pub(super) struct SimReadFile {
    pub(super) handle: Arc<Handle>,
    pub(super) bytes: u64,
}

impl ReadFile for SimReadFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let Handle { fs, inode, path } = &*self.handle;
        let operation = Operation::read("read", path).range(offset, buf.len());
        let read = fs.operate(&operation, |state| {
            if !state.disk.content(*inode).read(buf, offset) {
                let what = "failed to fill whole buffer";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            state.gate.counters.bytes_read += buf.len() as u64;
            Ok(())
        });
        read.map_err(|e| Error::io("read", path, e).at_offset(offset))
    }

    fn map(&self, _access: Access) -> Result<Mapping> {
        let Handle { fs, inode, path } = &*self.handle;
        let mapped = fs.operate(&Operation::read("map", path), |state| {
            Ok(Arc::from(state.disk.content(*inode).to_vec()))
        });
        let bytes = mapped.map_err(|e| Error::io("map", path, e))?;
        let handle = self.handle.clone();
        let populate = move |range: Range<usize>| {
            let operation = Operation::read("populate", &handle.path);
            handle.fs.operate(&operation.range(range.start as u64, range.len()), |_| Ok(()))
        };
        Ok(Mapping::simulated(bytes, path, Arc::new(populate)))
    }
}

#[derive(Debug)]
pub(super) struct SimFileLock {
    pub(super) handle: Handle,
    pub(super) kind: LockKind,
}

impl FileLock for SimFileLock {}

impl Drop for SimFileLock {
    fn drop(&mut self) {
        self.handle.fs.state.lock().disk.unlock(self.handle.inode, self.kind);
    }
}
