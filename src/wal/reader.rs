//! Reads one segment of the log, record by record.
//!
//! [`SegmentReader`] lends the records of a segment and finds records among damage. What it means
//! that a place holds no record is not decided here: that takes the whole log
//! ([`replay`](crate::wal::replay)).
//!
//! # Invariants
//! * Nothing is written: tools may read the segments of a database at rest.
//! * No length read from a file is believed before it is compared with the file's length. What is held
//!   in memory is a window of it: a step, or the record asked for. A long record gets its memory only
//!   once its checksum was found to hold.
//! * A read error of the operating system is an error, never the end of the log.
//! * The work is linear in the length of the file: looking for records among damage may sum each
//!   byte a few times and gives up (with an error) on bytes made to need more.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32fast::Hasher;

use crate::error::{Error, Result};
use crate::file_name::FileKind;
use crate::fs::{FileSystem, ReadFile};
use crate::key::{FileNumber, SequenceNumber};
use crate::wal::WalPosition;
use crate::wal::segment::{
    DecodedHeader, HeaderState, RECORD_HEADER_LEN_MAX, RecordHeader, SEGMENT_HEADER_LEN,
    SegmentHeader, TAG_END, is_tag,
};

/// A segment is read in steps of this size, so that a short log in a long file costs little.
const READ_STEP_BYTES: u64 = 1 << 20;
/// Longer payloads are summed piece by piece before they are read to memory: what claims to be one may be a hole.
const LONG_PAYLOAD_BYTES: u64 = 16 << 20;
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
    /// A part of the file, from `window_start` on.
    bytes: Vec<u8>,
    window_start: u64,
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
        let path = FileKind::WalSegment(number).path(dir);
        let Some(file) = fs.open(&path)? else { return Ok(None) };
        let file_bytes = file.bytes();
        let scan_budget_bytes = file_bytes.saturating_mul(SCAN_BUDGET_FACTOR);
        Ok(Some(SegmentReader {
            number,
            path,
            file,
            file_bytes,
            bytes: Vec::new(),
            window_start: 0,
            scan_budget_bytes,
        }))
    }

    /// Brings the bytes from `from` to `end` into memory, as far as the file has them.
    fn load(&mut self, from: u64, end: u64) -> Result<()> {
        let end = end.min(self.file_bytes);
        let window = self.window_start..self.window_start + self.bytes.len() as u64;
        if end <= from || (window.start <= from && end <= window.end) {
            return Ok(());
        }
        if window.contains(&from) {
            // Reading goes forward: what is behind is not asked for again.
            self.bytes.drain(..(from - window.start) as usize);
        } else {
            self.bytes.clear();
        }
        self.window_start = from;
        let have = self.bytes.len();
        let end = end.checked_next_multiple_of(READ_STEP_BYTES).unwrap_or(end).min(self.file_bytes);
        let more = usize::try_from(end - from).unwrap_or(usize::MAX) - have;
        if self.bytes.try_reserve(more).is_err() {
            return Err(self.corruption(from, format!("no memory for a record of {more} bytes")));
        }
        self.bytes.resize(have + more, 0);
        let read = self.file.read_at(&mut self.bytes[have..], from + have as u64);
        if read.is_err() {
            self.bytes.truncate(have);
        }
        read
    }

    /// The bytes in memory from `offset`.
    fn loaded_from(&self, offset: u64) -> &[u8] {
        let index = offset.checked_sub(self.window_start);
        let index = index.and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.bytes.get(index..)).unwrap_or(&[])
    }

    /// Whether the record at `offset` has the payload that was written. If so, it is in memory.
    fn load_record(&mut self, decoded: &DecodedHeader, offset: u64) -> Result<bool> {
        if decoded.header.payload_len > LONG_PAYLOAD_BYTES && !self.sums_up(decoded, offset)? {
            return Ok(false);
        }
        self.load(offset, offset + decoded.header.record_len())?;
        Ok(decoded.payload(self.loaded_from(offset)).is_some())
    }

    /// Whether the payload of the record at `offset` has the checksum that its header says.
    fn sums_up(&self, decoded: &DecodedHeader, offset: u64) -> Result<bool> {
        let mut hasher = Hasher::new();
        let mut piece = vec![0; READ_STEP_BYTES as usize];
        let mut at = offset + decoded.header.header_len() as u64;
        let end = offset + decoded.header.record_len();
        while at < end {
            let len = (end - at).min(READ_STEP_BYTES) as usize;
            self.file.read_at(&mut piece[..len], at)?;
            hasher.update(&piece[..len]);
            at += len as u64;
        }
        Ok(decoded.fits(hasher.finalize()))
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
        self.load(offset, offset.saturating_add(RECORD_HEADER_LEN_MAX as u64))?;
        let at = self.position(offset);
        if matches!(self.loaded_from(offset).first(), None | Some(&TAG_END)) {
            return Ok(Step::End);
        }
        let bytes = self.loaded_from(offset);
        let Some(decoded) = RecordHeader::decode(bytes, at, self.file_bytes) else {
            return Ok(Step::Damaged(1));
        };
        if !self.load_record(&decoded, offset)? {
            return Ok(Step::Damaged(decoded.header.record_len()));
        }
        let header_len = decoded.header.header_len();
        let payload = &self.loaded_from(offset)[header_len..];
        Ok(Step::Record(decoded.header, &payload[..decoded.header.payload_len as usize]))
    }

    /// The offset of the first whole record at or after `offset` whose sequence numbers are not
    /// below `floor`.
    pub(crate) fn find(&mut self, mut offset: u64, floor: SequenceNumber) -> Result<Option<u64>> {
        while offset < self.file_bytes {
            self.load(offset, offset + RECORD_HEADER_LEN_MAX as u64)?;
            let window = self.loaded_from(offset);
            let Some(tag) = find_tag(window) else {
                offset += window.len() as u64;
                continue;
            };
            offset += tag as u64;
            self.load(offset, offset + RECORD_HEADER_LEN_MAX as u64)?;
            let (at, bytes) = (self.position(offset), self.loaded_from(offset));
            if let Some(decoded) = RecordHeader::decode(bytes, at, self.file_bytes)
                && decoded.header.first_sequence >= floor
            {
                let Some(rest) = self.scan_budget_bytes.checked_sub(decoded.header.payload_len)
                else {
                    let what = "the log is damaged beyond telling which of its records are whole";
                    return Err(self.corruption(offset, what));
                };
                self.scan_budget_bytes = rest;
                if self.load_record(&decoded, offset)? {
                    return Ok(Some(offset));
                }
            }
            offset += 1;
        }
        Ok(None)
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
