//! What a file holds, by its length and hash, and copies that are checked.
//!
//! Whether two files are the same is asked when a backup shares what it has, and whether a copy is what it should be
//! when it is verified and restored. The hash is XXH3 of 128 bits over the whole file. The CRC-32 that the manifest
//! keeps of a table does not do: each block ends with its own CRC-32, which makes that of the whole file the same for
//! all contents of the block.
//!
//! What is read to memory is read whole, and gets no more of it than the file has bytes.
//!
//! A hash is for rot and chance, not for attackers: XXH3 is no cryptographic hash.

use std::fmt;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};
use crate::fs::{FileSystem, ReadFile};

/// Bytes read, hashed and written at a time.
const STEP_BYTES: u64 = 1 << 20;

/// Length and hash of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Content {
    pub(crate) bytes: u64,
    pub(crate) hash: ContentHash,
}

/// XXH3 of 128 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ContentHash(pub(crate) u128);

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The first `bytes` of `file`, which stands at `path`, in memory.
pub(crate) fn to_memory(file: &dyn ReadFile, bytes: u64, path: &Path) -> Result<Vec<u8>> {
    let no_memory = || Error::corruption(path, 0, format!("no memory for {bytes} bytes of it"));
    let len = usize::try_from(bytes).map_err(|_| no_memory())?;
    let mut read = Vec::new();
    read.try_reserve_exact(len).map_err(|_| no_memory())?;
    read.resize(len, 0);
    file.read_at(&mut read, 0)?;
    Ok(read)
}

/// Hashes the whole file at `path`. A missing file is damage: the caller was told that it is there.
pub(crate) fn read(fs: &dyn FileSystem, path: &Path) -> Result<Content> {
    read_through(fs, path, |_| Ok(()))
}

/// Copies the file at `from` to `to`, which is created or replaced, and syncs its bytes; its name is the caller's. Says
/// what was copied. After an error nothing stays at `to`, as far as it can be removed.
pub(crate) fn copy(fs: &dyn FileSystem, from: &Path, to: &Path) -> Result<Content> {
    let mut file = fs.create(to)?;
    let copied = read_through(fs, from, |bytes| {
        file.append(bytes)?;
        file.start_writeback()
    });
    let copied = copied.and_then(|content| file.sync_data().map(|()| content));
    drop(file);
    if copied.is_err() {
        let _ = fs.remove(to);
    }
    copied
}

/// Reads the whole file at `path` and passes it on, piece by piece.
fn read_through(
    fs: &dyn FileSystem,
    path: &Path,
    mut pass: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Content> {
    let Some(file) = fs.open(path)? else {
        return Err(Error::corruption(path, 0, "the file is missing"));
    };
    let (bytes, mut offset) = (file.bytes(), 0);
    let mut hasher = Xxh3::new();
    let mut buf = vec![0; bytes.min(STEP_BYTES) as usize];
    while offset < bytes {
        let step = (bytes - offset).min(STEP_BYTES) as usize;
        let piece = &mut buf[..step];
        file.read_at(piece, offset)?;
        hasher.update(piece);
        pass(piece)?;
        offset += step as u64;
    }
    Ok(Content { bytes, hash: ContentHash(hasher.digest128()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::fs::{Persist, Repeat, SimFs};

    #[test]
    fn a_copy_is_synced_and_says_what_it_holds() {
        let fs = SimFs::new();
        for len in [0, 1, STEP_BYTES as usize, 2 * STEP_BYTES as usize + 7] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            fs.write_file("/from", &bytes).unwrap();
            let copied = copy(&fs, Path::new("/from"), Path::new("/to")).unwrap();
            assert_eq!((copied.bytes, copied), (len as u64, read(&fs, Path::new("/to")).unwrap()));
            assert_eq!(copied.hash.0, xxhash_rust::xxh3::xxh3_128(&bytes));
            fs.sync_dir(Path::new("/")).unwrap();
            assert_eq!(fs.crash_clone(Persist::Nothing).read_file("/to").unwrap(), bytes);
        }
    }

    #[test]
    fn a_failed_copy_leaves_nothing() {
        let fs = SimFs::new();
        fs.write_file("/from", &[1; 10_000]).unwrap();
        for what in ["write to", "sync_data to", "read from", "open from"] {
            fs.fail_when(what, libc::EIO, Repeat::Once);
            assert!(copy(&fs, Path::new("/from"), Path::new("/to")).is_err(), "{what}");
            assert!(fs.read_file("/to").is_none(), "{what}");
        }
        let missing = copy(&fs, Path::new("/none"), Path::new("/to")).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Corruption);
    }
}
