//! The file-system seam: every file, directory, map and lock of the engine goes through [`FileSystem`].
//!
//! [`StdFs`] is the operating system. [`SimFs`] keeps everything in memory, models what a crash may lose,
//! injects errors and counts operations. Nothing above this layer touches `std::fs`.
//!
//! # Contract
//! * Bytes are durable only after `sync_data` of their file; a new, linked, renamed or removed name only after
//!   [`FileSystem::sync_dir`] of its directory. Nothing above may rely on more.
//! * After a failed sync the state of the unsynced bytes is unknown; callers must not sync again and believe it.
//! * Files are named by absolute or caller-relative paths; the seam follows no policy of its own.
//! * Errors name the operation and the path.
//!
//! # Kinds of files
//! * [`AppendFile`]: tables, manifests, `CURRENT`: written once from start to end.
//! * [`LogFile`]: WAL segments: allocated in full first, then written at offsets, through a map or by `pwrite`.
//! * [`ReadFile`]: read at offsets, or mapped ([`Mapping`]).

pub mod mapping;
pub mod sim_fs;
pub mod std_fs;

pub use mapping::Mapping;
pub use sim_fs::{Persist, Repeat, SimCounters, SimFs, SyncKind, TornRest};
pub use std_fs::StdFs;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// How a mapping or a file will be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Single blocks here and there: no readahead.
    Random,
    /// From start to end: much readahead.
    Sequential,
}

/// Whether a lock excludes everybody or only exclusive holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// The one opener that writes.
    Exclusive,
    /// One of many that only read.
    Shared,
}

/// An entry of a directory listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name without its directory. Names that are not UTF-8 are not listed: they are foreign.
    pub name: String,
    /// The length of a file in bytes; 0 for anything else.
    pub bytes: u64,
    /// Whether it is a regular file.
    pub is_file: bool,
}

/// The operations that the engine needs of a file system.
pub trait FileSystem: Send + Sync + fmt::Debug {
    /// Creates `dir` and its parents; fine if it is there. Makes each new directory's name durable.
    fn create_dir_all(&self, dir: &Path) -> Result<()>;

    /// What stands in `dir`, in no particular order; `None` if `dir` does not exist. A file in place of the
    /// directory is an error.
    fn list(&self, dir: &Path) -> Result<Option<Vec<DirEntry>>>;

    /// Creates or truncates the file at `path` for appending.
    fn create(&self, path: &Path) -> Result<Box<dyn AppendFile>>;

    /// Opens the file at `path` for reading; `None` if there is none.
    fn open(&self, path: &Path) -> Result<Option<Arc<dyn ReadFile>>>;

    /// Creates the log file at `path`, all `bytes` of it allocated and zero, and syncs its size. With `mapped`,
    /// writes go through a shared map where the file system allocates natively, else by `pwrite`.
    fn create_log(&self, path: &Path, bytes: u64, mapped: bool) -> Result<Box<dyn LogFile>>;

    /// Renames the obsolete log file `from` to `to` and opens it for writing from its start. Its old bytes stay
    /// until overwritten. It must be `bytes` long; if it is not, that is an error.
    fn recycle_log(
        &self,
        from: &Path,
        to: &Path,
        bytes: u64,
        mapped: bool,
    ) -> Result<Box<dyn LogFile>>;

    /// Makes the bytes in `range` of an existing file durable, whoever wrote them and whatever came of the writer's own
    /// syncs: after a failed one the operating system takes its bytes for written and no later sync passes over them
    /// again, so they are written again first, as they are read now.
    fn sync_file(&self, path: &Path, range: Range<u64>) -> Result<()>;

    /// Cuts a file that nobody writes any more to its first `bytes`, and makes that durable.
    fn truncate(&self, path: &Path, bytes: u64) -> Result<()>;

    /// Renames a file, replacing `to`.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Gives the file `from` a second name `to`, which may lie in another directory. Both are equal then: each can be
    /// removed without the other, and a change through one shows under both. The new name is durable after
    /// `sync_dir` of its directory, like any other. `false` if it cannot be done between these two paths (another
    /// device, a file system without links, too many links, not permitted): then the caller copies. An error if `to`
    /// exists.
    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Makes the names in `dir` durable: creations, renames, removals.
    fn sync_dir(&self, dir: &Path) -> Result<()>;

    /// Locks the file at `path`, creating it if `kind` is exclusive. A lock held elsewhere, in this process or
    /// another, is an error of kind [`Locked`](crate::error::ErrorKind::Locked). A missing file under a shared lock
    /// is `None`: there is nothing to exclude. The lock ends when the box is dropped or the process dies.
    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn FileLock>>>;
}

/// A file being written from start to end.
pub trait AppendFile: Send + fmt::Debug {
    /// Appends all of `bytes`.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Asks the operating system to begin writing what was appended so far. Not durability: a hint that keeps the
    /// final sync short.
    fn start_writeback(&mut self) -> Result<()>;

    /// Makes everything appended durable (`fdatasync`).
    fn sync_data(&mut self) -> Result<()>;
}

/// A log segment being written.
pub trait LogFile: Send + Sync + fmt::Debug {
    /// Writes `bytes` at `offset`; the range must lie within the allocated length. The bytes are handed to the
    /// operating system when this returns: they survive the death of the process. Callers never write one range
    /// from two threads at once.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Makes everything written before the call durable (`fdatasync`).
    fn sync_data(&self) -> Result<()>;
}

/// A file open for reading.
pub trait ReadFile: Send + Sync + fmt::Debug {
    /// The file's length in bytes when it was opened.
    fn bytes(&self) -> u64;

    /// Fills `buf` from `offset`. Reading past the end is an error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Maps the whole file. The file must be complete and never change again.
    fn map(&self, access: Access) -> Result<Mapping>;
}

/// A held lock; dropping it releases.
pub trait FileLock: Send + Sync + fmt::Debug {}

fn not_a_directory(dir: &Path) -> Error {
    Error::new(ErrorKind::InvalidArgument, "not a directory")
        .at(dir)
        .advise("name the directory of a database, not a file")
}

/// Whether a link that failed with this error of the operating system would fail for any two files there, so that
/// copying is the answer.
fn is_unlinkable(errno: Option<i32>) -> bool {
    matches!(
        errno,
        Some(libc::EXDEV | libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EMLINK)
    )
}

fn locked_elsewhere(path: &Path) -> Error {
    Error::new(ErrorKind::Locked, "the database is open elsewhere")
        .at(path)
        .advise("close the other handle or process first")
}
