//! The operating system's file system.
//!
//! Log segments are allocated with `fallocate`; where that is not native (`EOPNOTSUPP`) they are filled with zeros
//! and written by `pwrite` only, because a store to a page without a block behind it raises `SIGBUS` on a full disk.
//! Locks are `flock`, so that a second handle in the same process is refused too.
//!
//! # What may stand in a directory
//! A database may come from a stranger. So nothing but a regular file is opened: a symbolic link is not followed, a
//! FIFO or device is not waited for, both are errors. A file is created as a new one, never by cutting the one that has
//! its name: that could have a second name elsewhere. For the same reason a log segment with a second name is not
//! recycled. Only the last component of a path is judged: the directory itself may be a link.

#![expect(
    unsafe_code,
    reason = "fallocate, sync_file_range and writable maps have no safe form; each block has its proof"
)]
#![expect(clippy::disallowed_methods, reason = "this is the file-system seam")]

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{
    Access, AppendFile, DirEntry, FileLock, FileSystem, LockKind, LogFile, Mapping, ReadFile,
};
use crate::fs::{is_unlinkable, locked_elsewhere, not_a_directory};

/// Zero-filling of a log file, where `fallocate` is missing, goes in steps of this size: larger writes would leave
/// large page-cache folios, and one small store would later write a whole folio.
const ZERO_FILL_BYTES: usize = 4096;

/// How much of a file is written again at once.
const REWRITE_BYTES: u64 = 1 << 20;

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdFs;

impl FileSystem for StdFs {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        if dir.exists() {
            return Err(not_a_directory(dir));
        }
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        self.create_dir_all(parent)?;
        match std::fs::create_dir(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::io("create directory", dir, e))
            }
            _ => self.sync_dir(parent),
        }
    }

    fn list(&self, dir: &Path) -> Result<Option<Vec<DirEntry>>> {
        let context = |e| Error::io("list directory", dir, e);
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Err(not_a_directory(dir)),
            Err(e) => return Err(context(e)),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(context)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed by somebody since it was listed: then it is not there.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(context(e)),
            };
            let is_file = metadata.is_file();
            listed.push(DirEntry {
                name,
                bytes: if is_file { metadata.len() } else { 0 },
                is_file,
            });
        }
        Ok(Some(listed))
    }

    fn create(&self, path: &Path) -> Result<Box<dyn AppendFile>> {
        let file = create_new(OpenOptions::new().write(true), path)?;
        Ok(Box::new(StdAppendFile {
            file,
            path: path.to_path_buf(),
            bytes: 0,
            writeback_started_bytes: 0,
        }))
    }

    fn open(&self, path: &Path) -> Result<Option<Arc<dyn ReadFile>>> {
        let Some(file) = open_regular(OpenOptions::new().read(true), path)? else {
            return Ok(None);
        };
        let metadata = file.metadata().map_err(|e| Error::io("stat", path, e))?;
        Ok(Some(Arc::new(StdReadFile { file, path: path.to_path_buf(), bytes: metadata.len() })))
    }

    fn create_log(&self, path: &Path, bytes: u64, mapped: bool) -> Result<Box<dyn LogFile>> {
        let file = create_new(OpenOptions::new().read(true).write(true), path)?;
        let native = match allocate(&file, bytes) {
            Ok(()) => true,
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                zero_fill(&file, bytes).map_err(|e| Error::io("allocate", path, e))?;
                false
            }
            Err(e) => {
                // Leave no half-allocated segment behind: on a full disk it would hold the space that is missing.
                let _ = std::fs::remove_file(path);
                return Err(Error::io("allocate", path, e));
            }
        };
        file.sync_data().map_err(|e| Error::io("sync", path, e))?;
        StdLogFile::open(file, path, bytes, mapped && native)
    }

    fn recycle_log(
        &self,
        from: &Path,
        to: &Path,
        bytes: u64,
        mapped: bool,
    ) -> Result<Box<dyn LogFile>> {
        self.rename(from, to)?;
        let file = open_existing(OpenOptions::new().read(true).write(true), to)?;
        let metadata = file.metadata().map_err(|e| Error::io("stat", to, e))?;
        if metadata.len() != bytes {
            return Err(Error::corruption(
                to,
                metadata.len(),
                format!("recycled segment is not {bytes} bytes long"),
            ));
        }
        if metadata.nlink() > 1 {
            // Written over, it would change under its other name too.
            return self.create_log(to, bytes, mapped);
        }
        // Where allocation is not native, an overwritten block may move and need space: then no map, as in create_log.
        let native = allocate(&file, bytes).is_ok();
        StdLogFile::open(file, to, bytes, mapped && native)
    }

    fn sync_file(&self, path: &Path, range: Range<u64>) -> Result<()> {
        let file = open_existing(OpenOptions::new().read(true).write(true), path)?;
        rewrite(&file, path, range)?;
        file.sync_data().map_err(|e| Error::io("sync", path, e))
    }

    fn truncate(&self, path: &Path, bytes: u64) -> Result<()> {
        let file = open_existing(OpenOptions::new().write(true), path)?;
        file.set_len(bytes).map_err(|e| Error::io("truncate", path, e))?;
        file.sync_data().map_err(|e| Error::io("sync", path, e))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::rename(from, to).map_err(|e| Error::io("rename", from, e))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        match std::fs::hard_link(from, to) {
            Ok(()) => Ok(true),
            Err(e) if is_unlinkable(e.raw_os_error()) => Ok(false),
            Err(e) => Err(Error::io("link", to, e)),
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        std::fs::remove_file(path).map_err(|e| Error::io("remove", path, e))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let file = File::open(dir).map_err(|e| Error::io("open directory", dir, e))?;
        file.sync_all().map_err(|e| Error::io("sync directory", dir, e))
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn FileLock>>> {
        let mut options = OpenOptions::new();
        options.read(true);
        if kind == LockKind::Exclusive {
            options.write(true).create(true).truncate(false);
        }
        loop {
            let Some(file) = open_regular(&mut options, path)? else { return Ok(None) };
            let locked = match kind {
                LockKind::Exclusive => file.try_lock(),
                LockKind::Shared => file.try_lock_shared(),
            };
            match locked {
                // What was removed since it was opened keeps nobody out.
                Ok(()) if !is_at(&file, path)? => {}
                Ok(()) => return Ok(Some(Box::new(StdFileLock { _file: file }))),
                Err(TryLockError::WouldBlock) => return Err(locked_elsewhere(path)),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, e)),
            }
        }
    }
}

/// Whether `file` is what stands at `path`.
fn is_at(file: &File, path: &Path) -> Result<bool> {
    let ours = file.metadata().map_err(|e| Error::io("stat", path, e))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("stat", path, e)),
    }
}

/// Writes what stands in `range` again, so that its pages are dirty and the next sync writes them.
fn rewrite(file: &File, path: &Path, range: Range<u64>) -> Result<()> {
    let mut bytes = vec![0; (range.end.saturating_sub(range.start)).min(REWRITE_BYTES) as usize];
    let mut offset = range.start;
    while offset < range.end {
        let part = &mut bytes[..(range.end - offset).min(REWRITE_BYTES) as usize];
        file.read_exact_at(part, offset)
            .map_err(|e| Error::io("read", path, e).at_offset(offset))?;
        file.write_all_at(part, offset)
            .map_err(|e| Error::io("write", path, e).at_offset(offset))?;
        offset += part.len() as u64;
    }
    Ok(())
}

/// Opens the regular file at `path`; `None` if there is nothing. See the module text.
fn open_regular(options: &mut OpenOptions, path: &Path) -> Result<Option<File>> {
    match options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(Some(file)),
            Ok(_) => Err(not_regular(path)),
            Err(e) => Err(Error::io("stat", path, e)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        // In this order: what a link, a FIFO without a reader or a socket, and a directory answer.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO | libc::EISDIR)) => {
            Err(not_regular(path))
        }
        Err(e) => Err(Error::io("open", path, e)),
    }
}

/// As [`open_regular`], for a file that must be there.
fn open_existing(options: &mut OpenOptions, path: &Path) -> Result<File> {
    let missing = || Error::io("open", path, io::Error::from_raw_os_error(libc::ENOENT));
    open_regular(options, path)?.ok_or_else(missing)
}

/// Creates the file at `path` in place of a regular file that may be there.
fn create_new(options: &mut OpenOptions, path: &Path) -> Result<File> {
    let context = |e| Error::io("create", path, e);
    let created = options.create_new(true).open(path);
    match created {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if !std::fs::symlink_metadata(path).map_err(context)?.is_file() {
                return Err(not_regular(path));
            }
            std::fs::remove_file(path).map_err(context)?;
            options.open(path).map_err(context)
        }
        created => created.map_err(context),
    }
}

fn not_regular(path: &Path) -> Error {
    Error::new(ErrorKind::Corruption, "not a regular file").at(path).at_offset(0).advise(
        "a link, FIFO, device or directory stands in place of a file: put the file itself there",
    )
}

/// Allocates blocks for the first `bytes` of `file` and sets its length.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length =
        libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: the descriptor is open for the whole call; fallocate touches no memory of ours.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

fn zero_fill(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = [0u8; ZERO_FILL_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let step = (bytes - offset).min(ZERO_FILL_BYTES as u64);
        file.write_all_at(&zeros[..step as usize], offset)?;
        offset += step;
    }
    Ok(())
}

#[derive(Debug)]
struct StdAppendFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    writeback_started_bytes: u64,
}

impl AppendFile for StdAppendFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| Error::io("write", &self.path, e).at_offset(self.bytes))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn start_writeback(&mut self) -> Result<()> {
        let from = self.writeback_started_bytes;
        if self.bytes > from {
            // SAFETY: the descriptor is open for the whole call; sync_file_range touches no memory of ours. The
            // lengths fit: files are far below 2^63 bytes. Failure is ignored: this is only a hint, and a real
            // write error comes back from sync_data.
            let _ = unsafe {
                libc::sync_file_range(
                    self.file.as_raw_fd(),
                    from.cast_signed(),
                    (self.bytes - from).cast_signed(),
                    libc::SYNC_FILE_RANGE_WRITE,
                )
            };
            self.writeback_started_bytes = self.bytes;
        }
        Ok(())
    }

    fn sync_data(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))
    }
}

struct StdLogFile {
    file: File,
    path: PathBuf,
    bytes: u64,
    /// Present when writes go through a shared map.
    map: Option<memmap2::MmapRaw>,
}

impl StdLogFile {
    fn open(file: File, path: &Path, bytes: u64, mapped: bool) -> Result<Box<dyn LogFile>> {
        let map = if mapped {
            let map = memmap2::MmapRaw::map_raw(&file).map_err(|e| Error::io("map", path, e))?;
            // Without this, readahead would fill the cache with large folios after an eviction, and each small
            // store would write a whole folio. A hint: a kernel that refuses it only writes more.
            let _ = map.advise(memmap2::Advice::Random);
            Some(map)
        } else {
            None
        };
        Ok(Box::new(StdLogFile { file, path: path.to_path_buf(), bytes, map }))
    }
}

impl LogFile for StdLogFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        assert!(offset + bytes.len() as u64 <= self.bytes, "write past the end of a log segment");
        match &self.map {
            Some(map) => {
                // SAFETY: the range lies in the map (asserted above, and the map covers the whole file, which is
                // fully allocated and never truncated while this object lives); the caller never writes one range
                // from two threads at once, and nobody reads the map through a reference.
                unsafe {
                    std::ptr::copy_nonoverlapping(
                        bytes.as_ptr(),
                        map.as_mut_ptr().add(offset as usize),
                        bytes.len(),
                    );
                }
                Ok(())
            }
            None => self
                .file
                .write_all_at(bytes, offset)
                .map_err(|e| Error::io("write", &self.path, e).at_offset(offset)),
        }
    }

    fn sync_data(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))
    }
}

impl std::fmt::Debug for StdLogFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StdLogFile")
            .field("path", &self.path)
            .field("mapped", &self.map.is_some())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct StdReadFile {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl ReadFile for StdReadFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(|e| Error::io("read", &self.path, e).at_offset(offset))
    }

    fn map(&self, access: Access) -> Result<Mapping> {
        Mapping::of_file(&self.file, &self.path, access)
    }
}

#[derive(Debug)]
struct StdFileLock {
    _file: File,
}

impl FileLock for StdFileLock {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn syncing_a_file_leaves_its_bytes_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("000001.wal");
        let bytes: Vec<u8> = (0..3u32 << 20).map(|n| (n * 7 / 8) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        for range in [0..0, 5..5, 0..3 << 20, 4097..(2 << 20) + 3] {
            StdFs.sync_file(&path, range).unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes);
        }
        let error = StdFs.sync_file(&path, 0..(3 << 20) + 1).unwrap_err();
        assert_eq!(error.path(), Some(path.as_path()));
    }

    #[test]
    fn append_read_map_and_recycle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/000001.table");
        StdFs.create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = StdFs.create(&path).unwrap();
        file.append(b"hello ").unwrap();
        file.start_writeback().unwrap();
        file.append(b"world").unwrap();
        file.sync_data().unwrap();
        let read = StdFs.open(&path).unwrap().unwrap();
        assert_eq!(read.bytes(), 11);
        let mut buf = [0; 5];
        read.read_at(&mut buf, 6).unwrap();
        assert_eq!(&buf, b"world");
        assert!(read.read_at(&mut buf, 8).is_err());
        let map = read.map(Access::Random).unwrap();
        map.populate(0..11).unwrap();
        assert_eq!(&map[..5], b"hello");

        for mapped in [true, false] {
            let first = dir.path().join("000001.wal");
            let second = dir.path().join("000002.wal");
            StdFs.create_log(&first, 8192, mapped).unwrap().write_at(4090, b"straddle").unwrap();
            let log = StdFs.recycle_log(&first, &second, 8192, mapped).unwrap();
            log.write_at(0, b"new").unwrap();
            log.sync_data().unwrap();
            let bytes = std::fs::read(&second).unwrap();
            assert_eq!((&bytes[..3], &bytes[4090..4098]), (&b"new"[..], &b"straddle"[..]));
            assert!(StdFs.open(&first).unwrap().is_none());
        }
    }

    #[test]
    fn a_link_is_a_second_name_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("below/to"));
        StdFs.create(&from).unwrap().append(b"bytes").unwrap();
        StdFs.create_dir_all(to.parent().unwrap()).unwrap();
        assert!(StdFs.hard_link(&from, &to).unwrap());
        let again = StdFs.hard_link(&from, &to).unwrap_err();
        assert_eq!((again.kind(), again.path()), (ErrorKind::Io, Some(&*to)));
        StdFs.remove(&from).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"bytes");
        assert_eq!(
            StdFs.hard_link(&from, &dir.path().join("x")).unwrap_err().kind(),
            ErrorKind::Io
        );
    }

    #[test]
    fn second_exclusive_lock_is_refused_even_in_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        assert!(StdFs.lock(&path, LockKind::Shared).unwrap().is_none());
        let held = StdFs.lock(&path, LockKind::Exclusive).unwrap().unwrap();
        assert_eq!(StdFs.lock(&path, LockKind::Exclusive).unwrap_err().kind(), ErrorKind::Locked);
        assert_eq!(StdFs.lock(&path, LockKind::Shared).unwrap_err().kind(), ErrorKind::Locked);
        drop(held);
        let _shared = StdFs.lock(&path, LockKind::Shared).unwrap().unwrap();
        let _too = StdFs.lock(&path, LockKind::Shared).unwrap().unwrap();
    }

    #[test]
    fn a_lock_that_was_removed_or_replaced_locks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let file = File::create(&path).unwrap();
        assert!(is_at(&file, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&file, &path).unwrap());
        File::create(&path).unwrap();
        assert!(!is_at(&file, &path).unwrap());
    }

    #[test]
    fn a_file_in_place_of_a_directory_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(StdFs.list(file.path()).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(
            StdFs.create_dir_all(file.path()).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        assert!(StdFs.list(Path::new("/nonexistent/esker")).unwrap().is_none());
    }
}
