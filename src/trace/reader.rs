//! Reads a trace back, block by block.
//!
//! The reader is total: whatever the bytes are, it gives blocks or an error that names the offset, and it never holds
//! more than one block. A torn end, as a crash leaves it, is no error: the blocks before it are read, and
//! [`TraceReader::torn_bytes`] says how much is missing a meaning.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileSystem, ReadFile};
use crate::trace::TraceBlock;
use crate::trace::format::{
    FILE_HEADER_BYTES, FRAME_HEADER_BYTES, FrameHeader, PAYLOAD_BYTES_MAX, decode_block,
    decode_file_header,
};

/// Reads a trace from start to end.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let file = dir.path().join("app.trace");
/// use esker::trace::TraceReader;
/// use esker::{Db, DbOptions, fs::StdFs};
///
/// let options = DbOptions { record_workload: Some(file.clone()), ..DbOptions::default() };
/// let db = Db::builder().options(options).open(dir.path().join("db"))?;
/// db.put("apple", "red")?;
/// db.close()?;
///
/// let mut reader = TraceReader::open(&StdFs, &file)?;
/// let block = reader.next_block()?.expect("something was done");
/// assert_eq!((block.counts.puts, block.records[0].key_bytes), (1, 5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TraceReader {
    path: PathBuf,
    file: Arc<dyn ReadFile>,
    start_unix_ms: u64,
    offset: u64,
    torn_bytes: u64,
    payload: Vec<u8>,
}

impl TraceReader {
    /// Opens the trace at `path`.
    ///
    /// # Errors
    /// `NotFound`; `Corruption` if the file is no trace or its header is damaged; `Unsupported` if a newer esker wrote
    /// it; `Io`.
    pub fn open(fs: &dyn FileSystem, path: &Path) -> Result<TraceReader> {
        let file = fs.open(path)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no trace")
                .at(path)
                .advise("record one with the option record_workload")
        })?;
        if file.bytes() < FILE_HEADER_BYTES as u64 {
            return Err(Error::corruption(path, 0, "too short for a workload trace"));
        }
        let mut header = [0; FILE_HEADER_BYTES];
        file.read_at(&mut header, 0)?;
        let start_unix_ms = decode_file_header(path, &header)?;
        Ok(TraceReader {
            path: path.to_path_buf(),
            file,
            start_unix_ms,
            offset: FILE_HEADER_BYTES as u64,
            torn_bytes: 0,
            payload: Vec::new(),
        })
    }

    /// When the trace began: milliseconds since the Unix epoch.
    pub fn start_unix_ms(&self) -> u64 {
        self.start_unix_ms
    }

    /// Bytes at the end of the file that a crash or a full disk left without meaning; known when
    /// [`TraceReader::next_block`] has returned `None`.
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// The next block, or `None` at the end. Blocks come about in the order of their last operations.
    ///
    /// # Errors
    /// `Corruption` with the offset if the file is damaged elsewhere than at its end; `Unsupported` if it has an
    /// operation that this version does not know; `Io`. An error comes again at the next call.
    pub fn next_block(&mut self) -> Result<Option<TraceBlock>> {
        let left = self.file.bytes().saturating_sub(self.offset);
        if left == 0 {
            return Ok(None);
        }
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(self.torn(left));
        }
        let mut header = [0; FRAME_HEADER_BYTES];
        self.file.read_at(&mut header, self.offset)?;
        let Some(header) = FrameHeader::decode(self.start_unix_ms, self.offset, &header) else {
            if left > (FRAME_HEADER_BYTES + PAYLOAD_BYTES_MAX) as u64 {
                return Err(self.damaged("a block of a trace has a damaged head"));
            }
            return Ok(self.torn(left));
        };
        let frame_bytes = (FRAME_HEADER_BYTES + header.payload_bytes) as u64;
        if frame_bytes > left {
            return Ok(self.torn(left));
        }
        self.payload.resize(header.payload_bytes, 0);
        self.file.read_at(&mut self.payload, self.offset + FRAME_HEADER_BYTES as u64)?;
        if !header.matches(self.start_unix_ms, self.offset, &self.payload) {
            if frame_bytes < left {
                return Err(self.damaged("checksum mismatch in a block of a trace"));
            }
            return Ok(self.torn(left));
        }
        let block = decode_block(&self.path, self.offset, &self.payload)?;
        self.offset += frame_bytes;
        Ok(Some(block))
    }

    fn damaged(&self, what: &str) -> Error {
        Error::corruption(&self.path, self.offset, what)
    }

    fn torn(&mut self, left: u64) -> Option<TraceBlock> {
        self.torn_bytes = left;
        None
    }
}

#[cfg(test)]
mod tests;
