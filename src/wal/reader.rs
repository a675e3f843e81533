//! Reads one segment of the log, record by record.
//!
//! [`SegmentReader`] lends the records of a segment and finds records among damage. What it means
//! that a place holds no record is not decided here: that takes the whole log
//! ([`replay`](crate::wal::replay)).
//!
//! # Invariants
//! * Nothing is written: tools may read the segments of a database at rest.
//! * No length read from a file is believed before it is compared with the file's length; memory is
//!   bounded by that too.
//! * A read error of the operating system is an error, never the end of the log.
//! * The work is linear in the length of the file: looking for records among damage may sum each
//!   byte a few times and gives up (with an error) on bytes made to need more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::file_name::FileKind;
use crate::fs::{FileSystem, ReadFile};
use crate::key::{FileNumber, SequenceNumber};
use crate::wal::WalPosition;
use crate::wal::segment::{
    HeaderState, RECORD_HEADER_LEN_MAX, RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader, TAG_END,
    is_tag,
};

/// A segment is read in steps of this size, so that a short log in a long file costs little.
const READ_STEP_BYTES: u64 = 1 << 20;
/// How often, on average, looking for records may sum each byte of a segment. Records do not
/// overlap, so those that were written account for one; false guards among random bytes are one in
/// 65536.
const SCAN_BUDGET_FACTOR: u64 = 4;
/// Where the first record of a segment stands.
pub(crate) const FIRST_RECORD_OFFSET: u64 = SEGMENT_HEADER_LEN as u64;

/// What stands at an offset of a segment.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    /// A whole record.
    Record(RecordHeader, &'a [u8]),
    /// The zero tag or the end of the file.
    End,
    /// Something else. The length is that of the torn record as far as its header can be believed,
    /// else 1.
    Damaged(u64),
}

/// Reads one segment from its start, as far as needed.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    number: FileNumber,
    path: PathBuf,
    file: Arc<dyn ReadFile>,
    file_bytes: u64,
    /// The first part of the file.
    bytes: Vec<u8>,
    /// How many more payload bytes may be summed in search of records.
    scan_budget_bytes: u64,
}

impl SegmentReader {
    /// Opens the segment `number`; `None` if there is no such file.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        dir: &Path,
        number: FileNumber,
    ) -> Result<Option<Self>> {
        Self::open_path(fs, &FileKind::WalSegment(number).path(dir), number)
    }

    /// Opens the file at `path`, whatever its name, as the segment `number`.
    pub(crate) fn open_path(
        fs: &dyn FileSystem,
        path: &Path,
        number: FileNumber,
    ) -> Result<Option<Self>> {
        let path = path.to_path_buf();
        let Some(file) = fs.open(&path)? else { return Ok(None) };
        let file_bytes = file.bytes();
        let scan_budget_bytes = file_bytes.saturating_mul(SCAN_BUDGET_FACTOR);
        Ok(Some(SegmentReader {
            number,
            path,
            file,
            file_bytes,
            bytes: Vec::new(),
            scan_budget_bytes,
        }))
    }

    /// Reads on until the first `end` bytes of the file are in memory, or all of it.
    fn load(&mut self, end: u64) -> Result<()> {
        let have = self.bytes.len() as u64;
        let end = end.min(self.file_bytes);
        if end > have {
            let end = end.next_multiple_of(READ_STEP_BYTES).min(self.file_bytes);
            self.bytes.resize(end as usize, 0);
            let read = self.file.read_at(&mut self.bytes[have as usize..], have);
            if read.is_err() {
                self.bytes.truncate(have as usize);
            }
            return read;
        }
        Ok(())
    }

    /// The bytes in memory from `offset`.
    fn loaded_from(&self, offset: u64) -> &[u8] {
        usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or(&[])
    }

    fn position(&self, offset: u64) -> WalPosition {
        WalPosition { segment: self.number, offset }
    }

    /// Judges the segment's header.
    pub(crate) fn header(&mut self) -> Result<HeaderState> {
        // Only the header: this is asked of segments that are not read further.
        let mut head = [0; SEGMENT_HEADER_LEN];
        let len = self.file_bytes.min(SEGMENT_HEADER_LEN as u64) as usize;
        self.file.read_at(&mut head[..len], 0)?;
        SegmentHeader::decode(&head[..len], self.number).map_err(|e| e.at(&self.path).at_offset(0))
    }

    /// What stands at `offset`.
    pub(crate) fn step(&mut self, offset: u64) -> Result<Step<'_>> {
        self.load(offset.saturating_add(RECORD_HEADER_LEN_MAX as u64))?;
        let at = self.position(offset);
        if matches!(self.loaded_from(offset).first(), None | Some(&TAG_END)) {
            return Ok(Step::End);
        }
        let bytes = self.loaded_from(offset);
        let Some(decoded) = RecordHeader::decode(bytes, at, self.file_bytes) else {
            return Ok(Step::Damaged(1));
        };
        let record_len = decoded.header.record_len();
        self.load(offset + record_len)?;
        Ok(match decoded.payload(self.loaded_from(offset)) {
            Some(payload) => Step::Record(decoded.header, payload),
            None => Step::Damaged(record_len),
        })
    }

    /// The offset of the first whole record at or after `offset` whose sequence numbers are not
    /// below `floor`.
    pub(crate) fn find(&mut self, mut offset: u64, floor: SequenceNumber) -> Result<Option<u64>> {
        self.load(self.file_bytes)?;
        loop {
            let Some(tag) = find_tag(self.loaded_from(offset)) else { return Ok(None) };
            offset += tag as u64;
            let (at, bytes) = (self.position(offset), self.loaded_from(offset));
            if let Some(decoded) = RecordHeader::decode(bytes, at, self.file_bytes)
                && decoded.header.first_sequence >= floor
            {
                let Some(rest) = self.scan_budget_bytes.checked_sub(decoded.header.payload_len)
                else {
                    let what = "the log is damaged beyond telling which of its records are whole";
                    return Err(self.corruption(offset, what));
                };
                let is_whole = decoded.payload(bytes).is_some();
                self.scan_budget_bytes = rest;
                if is_whole {
                    return Ok(Some(offset));
                }
            }
            offset += 1;
        }
    }

    /// An error that says what is wrong at `offset`.
    pub(crate) fn corruption(&self, offset: u64, what: impl Into<String>) -> Error {
        Error::corruption(&self.path, offset, what)
    }
}

/// The index of the first byte that may begin a record.
fn find_tag(bytes: &[u8]) -> Option<usize> {
    // Whole lanes first, in a form that the compiler turns into vector code: most of what is
    // searched is zeros.
    const LANE: usize = 64;
    let lanes = bytes.chunks_exact(LANE);
    let skipped =
        lanes.take_while(|lane| !lane.iter().fold(false, |any, &byte| any | is_tag(byte))).count();
    let start = skipped * LANE;
    bytes[start..].iter().position(|&byte| is_tag(byte)).map(|index| start + index)
}
