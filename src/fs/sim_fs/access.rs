//! The back door for tests: to look at files and to damage them.
//!
//! What comes in here is no operation: it gets no number, meets no fault, needs no free space, and
//! is durable at once.

use std::io;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use super::SimFs;
use crate::error::{Error, Result};
use crate::fs::not_a_directory;

/// Access for tests. It is no operation: it meets no fault and gets no number.
impl SimFs {
    /// The bytes of the file; `None` if there is none.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let inode = state.disk.find(path.as_ref()).ok().flatten()?;
        Some(state.disk.content(inode).to_vec())
    }

    /// Replaces the bytes of the file, durably. A missing file is created, with its directories,
    /// durably too.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        let path = path.as_ref();
        let disk = &mut self.state.lock().disk;
        if !disk.create_dir_all(path.parent().unwrap_or(Path::new(""))) {
            return Err(not_a_directory(path));
        }
        disk.put_durable(path, bytes).map_err(|e| Error::io("write", path, e))
    }

    /// Cuts the file to `bytes` or fills it up to `bytes` with zeros, durably.
    pub fn truncate_file(&self, path: impl AsRef<Path>, bytes: u64) -> Result<()> {
        self.damage(path.as_ref(), |content| {
            content.resize(bytes as usize, 0);
            Some(())
        })
    }

    /// Flips the bits of `mask` in the byte at `offset`, durably. An offset past the end is an
    /// error.
    pub fn flip(&self, path: impl AsRef<Path>, offset: u64, mask: u8) -> Result<()> {
        self.damage(path.as_ref(), |content| {
            *content.get_mut(offset as usize)? ^= mask;
            Some(())
        })
    }

    fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Result<()> {
        let mut content = self.read_file(path).ok_or_else(|| missing("damage", path))?;
        change(&mut content).ok_or_else(|| Error::invalid("offset past the end").at(path))?;
        self.write_file(path, &content)
    }

    /// Removes the file so that no crash brings it back.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.state.lock().disk.remove_durable(path).map_err(|e| Error::io("remove", path, e))
    }

    /// How many changes of bytes, lengths and names no sync has covered: see
    /// [`Persist::Prefix`](super::Persist::Prefix).
    pub fn unsynced_count(&self) -> u64 {
        self.state.lock().disk.unsynced_stamps().len() as u64
    }

    /// A hash of all names and bytes, those seen and those durable. Equal contents have equal hashes,
    /// also in different file systems and processes.
    pub fn content_hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        self.state.lock().disk.hash(&mut hasher);
        hasher.digest()
    }

    /// The names in the directory, sorted; empty if there is no such directory.
    pub fn list_dir(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let entries = self.state.lock().disk.list(dir.as_ref()).unwrap_or_default();
        entries.into_iter().map(|entry| entry.name).collect()
    }
}

fn missing(what: &str, path: &Path) -> Error {
    Error::io(what, path, io::Error::from_raw_os_error(libc::ENOENT))
}
