//! The manifest: the durable log of version edits, and `CURRENT`, which names the live one.
//!
//! A manifest begins with a snapshot of the state and goes on with the edits since. What is not in
//! it has not happened: a table joins a tree, and a file may be removed, only once the edit that
//! says so is durable. Bytes first, then the edit, then the publication in memory.
//!
//! # Format
//! ```text
//! manifest := header record*
//! header   := "ESKERMAN" format_version:u32 number:u64 crc:u32      -- crc of the bytes before it
//! record   := length:u32 crc:u32 payload[length]                    -- payload: an edit, not empty
//! CURRENT  := "MANIFEST-" number "\n" crc "\n"     -- crc of the first line, 8 hexadecimal digits
//! ```
//! Integers are little-endian. A record's checksum covers its length and payload and is salted with
//! the manifest's number and the record's offset. The first record is the snapshot. The header
//! keeps its layout in all format versions, so that each can name a newer one.
//!
//! # Invariants
//! * A manifest is written by one [`Manifest`], from its creation on. What recovery has read is
//!   never appended to: every open begins a new manifest, so that whatever was read is durable
//!   before anything acts on it, and no record ever follows a torn one.
//! * After a failed append or sync nobody knows what the file holds. Then nothing is appended any
//!   more, and no file may be removed: the edit may or may not be there after the next open.
//! * `CURRENT` is replaced by a rename, and names a manifest only after that one is durable. A clean
//!   close replaces it once more, with the length of the manifest, which is final then.
//!
//! # Not here
//! What edits mean (`state`), how a manifest is read (`recovery`), and who removes old manifests
//! (the database, with all obsolete files).

pub(crate) mod recovery;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::checksum::{checksum, checksum_at};
use crate::coding::{put_u32, put_u64};
use crate::error::{Error, Result};
use crate::file_name::FileKind;
use crate::fs::{AppendFile, FileSystem};
use crate::key::FileNumber;
use crate::manifest::state::ManifestState;
use crate::version::edit::VersionEdit;

/// What a manifest begins with.
const MAGIC: &[u8; 8] = b"ESKERMAN";
/// The newest format version that this code reads, and the one it writes.
const FORMAT_VERSION: u32 = 1;
/// Bytes of the header.
pub(crate) const HEADER_LEN: usize = 24;
/// What stands before the length of a finished manifest in `CURRENT`.
const SEALED: &str = "sealed ";
/// Bytes of a record before its payload.
const RECORD_HEADER_LEN: usize = 8;

/// The live manifest, open for appending.
pub(crate) struct Manifest {
    file: Box<dyn AppendFile>,
    path: PathBuf,
    number: FileNumber,
    bytes: u64,
    /// The first failure; the answer to everything after it.
    failure: Option<Error>,
}

impl Manifest {
    /// Writes a manifest that begins with `state` and makes it the live one of the database in
    /// `dir`. `number` was never a file's.
    ///
    /// After an error the former manifest may be the live one or the new one; both tell the same
    /// state, but neither may be appended to.
    pub(crate) fn create(
        fs: &dyn FileSystem,
        dir: &Path,
        number: FileNumber,
        state: &ManifestState,
    ) -> Result<Manifest> {
        let path = FileKind::Manifest(number).path(dir);
        let mut bytes = encode_header(number);
        bytes.extend(encode_record(number, HEADER_LEN as u64, &state.to_edit().encode(), &path)?);
        let mut file = fs.create(&path)?;
        file.append(&bytes)?;
        file.sync_data()?;
        // The name must be durable before CURRENT can say it.
        fs.sync_dir(dir)?;

        write_current(fs, dir, number, None)?;
        Ok(Manifest { file, path, number, bytes: bytes.len() as u64, failure: None })
    }

    /// Notes in `CURRENT` how long the manifest is, now that nothing is appended to it any more. From then on its end
    /// is known, and damage to its last record is not taken for a torn tail.
    pub(crate) fn seal(self, fs: &dyn FileSystem, dir: &Path) -> Result<()> {
        match self.failure {
            Some(failure) => Err(failure),
            None => write_current(fs, dir, self.number, Some(self.bytes)),
        }
    }

    /// Appends `edit` and makes it durable. An edit that says nothing is not written.
    ///
    /// After an error in writing, this and every later call answer with that error.
    pub(crate) fn append(&mut self, edit: &VersionEdit) -> Result<()> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let payload = edit.encode();
        if payload.is_empty() {
            return Ok(());
        }
        let record = encode_record(self.number, self.bytes, &payload, &self.path)?;
        if let Err(error) = self.file.append(&record).and_then(|()| self.file.sync_data()) {
            self.failure = Some(error.clone());
            return Err(error);
        }
        self.bytes += record.len() as u64;
        Ok(())
    }

    /// Its length. The caller begins a new manifest when it is much longer than its snapshot.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number in its name.
    pub(crate) fn number(&self) -> FileNumber {
        self.number
    }
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifest")
            .field("path", &self.path)
            .field("bytes", &self.bytes)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

fn encode_header(number: FileNumber) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend_from_slice(MAGIC);
    put_u32(&mut header, FORMAT_VERSION);
    put_u64(&mut header, number.0);
    let crc = checksum(&header);
    put_u32(&mut header, crc);
    header
}

/// The record with `payload` for the manifest `number` at `offset`.
fn encode_record(number: FileNumber, offset: u64, payload: &[u8], path: &Path) -> Result<Vec<u8>> {
    let len = u32::try_from(payload.len()).map_err(|_| {
        Error::invalid(format!("a version edit of {} bytes", payload.len()))
            .at(path)
            .advise("raise table_bytes and compact, so that there are fewer tables")
    })?;
    let mut record = Vec::with_capacity(RECORD_HEADER_LEN + payload.len());
    put_u32(&mut record, len);
    put_u32(&mut record, checksum_at(number.0, offset, &[&len.to_le_bytes(), payload]));
    record.extend_from_slice(payload);
    Ok(record)
}

/// Makes the manifest `number` the live one.
fn write_current(
    fs: &dyn FileSystem,
    dir: &Path,
    number: FileNumber,
    sealed_bytes: Option<u64>,
) -> Result<()> {
    let temporary = FileKind::CurrentTemporary.path(dir);
    let mut current = fs.create(&temporary)?;
    current.append(&encode_current(number, sealed_bytes))?;
    // Before the rename: else a crash could leave an empty file under the name CURRENT.
    current.sync_data()?;
    fs.rename(&temporary, &FileKind::Current.path(dir))?;
    fs.sync_dir(dir)
}

/// The bytes of `CURRENT` when the manifest `number` is the live one; with its length if that is final.
fn encode_current(number: FileNumber, sealed_bytes: Option<u64>) -> Vec<u8> {
    let mut text = FileKind::Manifest(number).file_name();
    if let Some(bytes) = sealed_bytes {
        text = format!("{text}\n{SEALED}{bytes}");
    }
    format!("{text}\n{:08x}\n", checksum(text.as_bytes())).into_bytes()
}
