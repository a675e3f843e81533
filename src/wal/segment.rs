//! The bytes of a log segment: its header, and the header and checksum of a record. Pure functions,
//! no files.
//!
//! The grammar stands in [`wal`](crate::wal). Decoding is total: any bytes give a value. What to
//! make of bytes that are no record (the end, a torn tail, corruption) is decided by the reader,
//! which sees more of the log.

use crate::checksum::{checksum, checksum_at};
use crate::coding::{Decoder, Truncated, put_u32, put_u64, put_varint, varint_len};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{FileNumber, SequenceNumber};
use crate::wal::WalPosition;

/// Length of a segment's header; the first record stands right after it.
pub(crate) const SEGMENT_HEADER_LEN: usize = 64;
/// The longest header of a record: fixed part and four varints.
pub(crate) const RECORD_HEADER_LEN_MAX: usize = RECORD_FIXED_LEN + 10 + 5 + 10 + 10;
/// The tag that says that no record follows.
pub(crate) const TAG_END: u8 = 0;

const MAGIC: [u8; 8] = *b"eskerwal";
const FORMAT_VERSION: u32 = 1;
const HEADER_CRC_OFFSET: usize = 60;
const TAG_BASE: u8 = 0xe0;
const TAG_BASE_MASK: u8 = 0xf0;
/// Tag, check and guard.
const RECORD_FIXED_LEN: usize = 7;

/// What a record is. The discriminants are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    /// A batch of writes with consecutive sequence numbers.
    Batch = 1,
    /// The sequence numbers before this record's were deliberately not logged.
    Skip = 2,
    /// The log was closed cleanly; nothing follows in this segment.
    Close = 3,
}

impl RecordKind {
    /// The kind stored as `bits`, if this version can read it.
    fn from_bits(bits: u8) -> Result<Self> {
        let reserved = match bits {
            1 => return Ok(RecordKind::Batch),
            2 => return Ok(RecordKind::Skip),
            3 => return Ok(RecordKind::Close),
            8 => " (prepare)",
            9 => " (commit)",
            10 => " (rollback)",
            _ => "",
        };
        Err(newer(format!("log record kind {bits}{reserved} is unknown to this version")))
    }
}

fn newer(what: String) -> Error {
    Error::new(ErrorKind::Unsupported, what)
        .advise("open the database with the esker version that wrote it, or a newer one")
}

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The segment's id, the same as in its name.
    pub(crate) segment: FileNumber,
    /// The previous segment of the chain and where its data ended.
    pub(crate) previous: WalPosition,
    /// How much of the previous segment was known to be synced when this one was begun.
    pub(crate) previous_synced_bytes: u64,
    /// The sequence number expected next when the segment was begun.
    pub(crate) first_sequence: SequenceNumber,
}

/// What stands in the place of a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderState {
    /// The header of this segment.
    Valid(SegmentHeader),
    /// Zeros: the segment was allocated and not begun.
    Blank,
    /// The header of another segment: this one was recycled and not begun.
    Stale(FileNumber),
    /// Anything else.
    Damaged,
}

/// The first `synced_bytes` of `segment` are synced, and all segments before it; 0 promises
/// nothing.
fn promise(segment: FileNumber, synced_bytes: u64) -> WalPosition {
    if synced_bytes == 0 {
        return WalPosition::default();
    }
    WalPosition { segment, offset: synced_bytes }
}

impl SegmentHeader {
    /// Everything before this had been synced when the segment was begun.
    pub(crate) fn promised(&self) -> WalPosition {
        promise(self.previous.segment, self.previous_synced_bytes)
    }

    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_LEN] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        put_u32(&mut out, FORMAT_VERSION);
        put_u32(&mut out, 0);
        put_u64(&mut out, self.segment.0);
        put_u64(&mut out, self.previous.segment.0);
        put_u64(&mut out, self.previous.offset);
        put_u64(&mut out, self.previous_synced_bytes);
        put_u64(&mut out, self.first_sequence.0);
        out.resize(HEADER_CRC_OFFSET, 0);
        let crc = checksum_at(self.segment.0, 0, &[&out]);
        put_u32(&mut out, crc);
        out.try_into().expect("the fields above are 64 bytes long")
    }

    /// Judges the first bytes of the segment whose name says `segment`. An intact header of a newer
    /// format is an error without path: every version keeps magic, version, id and crc where they
    /// are.
    pub(crate) fn decode(bytes: &[u8], segment: FileNumber) -> Result<HeaderState> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER_LEN>() else {
            let blank = bytes.iter().all(|&byte| byte == 0);
            return Ok(if blank { HeaderState::Blank } else { HeaderState::Damaged });
        };
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(HeaderState::Blank);
        }
        let Ok((version, header)) = Self::decode_fields(bytes) else {
            return Ok(HeaderState::Damaged);
        };
        if header.segment != segment {
            return Ok(HeaderState::Stale(header.segment));
        }
        if version != FORMAT_VERSION {
            return Err(newer(format!("log format version {version} is unknown to this version")));
        }
        Ok(HeaderState::Valid(header))
    }

    fn decode_fields(bytes: &[u8; SEGMENT_HEADER_LEN]) -> Result<(u32, Self), Truncated> {
        let mut decoder = Decoder::new(bytes);
        let magic = decoder.bytes(MAGIC.len())?;
        let version = decoder.u32()?;
        decoder.u32()?;
        let segment = FileNumber(decoder.u64()?);
        let previous = WalPosition { segment: FileNumber(decoder.u64()?), offset: decoder.u64()? };
        let previous_synced_bytes = decoder.u64()?;
        let first_sequence = SequenceNumber(decoder.u64()?);
        let crc = Decoder::new(&bytes[HEADER_CRC_OFFSET..]).u32()?;
        if magic != MAGIC || crc != checksum_at(segment.0, 0, &[&bytes[..HEADER_CRC_OFFSET]]) {
            return Err(Truncated);
        }
        Ok((version, SegmentHeader { segment, previous, previous_synced_bytes, first_sequence }))
    }
}

/// The header of a record, without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    kind_bits: u8,
    /// Bytes of payload after the header.
    pub(crate) payload_len: u64,
    /// Sequence numbers that the record takes.
    pub(crate) entry_count: u32,
    /// The first of them; for a record without entries, the number expected next after it.
    pub(crate) first_sequence: SequenceNumber,
    /// Bytes of this segment known to be synced when the record was written.
    pub(crate) synced_offset: u64,
}

impl RecordHeader {
    /// The header of a batch.
    pub(crate) fn batch(first: SequenceNumber, entry_count: u32, payload_len: u64) -> Self {
        RecordHeader { payload_len, entry_count, ..Self::mark(RecordKind::Batch, first) }
    }

    /// The header of a record without payload: a skip to `next`, or a close when `next` is
    /// expected.
    pub(crate) fn mark(kind: RecordKind, next: SequenceNumber) -> Self {
        RecordHeader {
            kind_bits: kind as u8,
            payload_len: 0,
            entry_count: 0,
            first_sequence: next,
            synced_offset: 0,
        }
    }

    /// The kind, or an error without path if this version cannot read it.
    pub(crate) fn kind(&self) -> Result<RecordKind> {
        RecordKind::from_bits(self.kind_bits)
    }

    /// The same with any kind.
    #[cfg(test)]
    pub(crate) fn with_kind_bits(self, kind_bits: u8) -> Self {
        RecordHeader { kind_bits, ..self }
    }

    /// Everything before this had been synced when the record was written in `segment`.
    pub(crate) fn promised(&self, segment: FileNumber) -> WalPosition {
        promise(segment, self.synced_offset)
    }

    /// The sequence number expected after the record.
    pub(crate) fn next_sequence(&self) -> SequenceNumber {
        SequenceNumber(self.first_sequence.0 + u64::from(self.entry_count))
    }

    /// Length of the header in bytes.
    pub(crate) fn header_len(&self) -> usize {
        RECORD_FIXED_LEN
            + varint_len(self.payload_len)
            + varint_len(u64::from(self.entry_count))
            + varint_len(self.first_sequence.0)
            + varint_len(self.synced_offset)
    }

    /// Length of the record in bytes. Cannot overflow for a record to be written; a decoded one was
    /// checked.
    pub(crate) fn record_len(&self) -> u64 {
        self.header_len() as u64 + self.payload_len
    }

    /// Appends the header of a record that will stand at `at` and whose payload has `payload_crc`.
    #[inline]
    pub(crate) fn encode(&self, out: &mut Vec<u8>, at: WalPosition, payload_crc: u32) {
        let start = out.len();
        out.extend_from_slice(&[TAG_BASE | self.kind_bits, 0, 0, 0, 0, 0, 0]);
        put_varint(out, self.payload_len);
        put_varint(out, u64::from(self.entry_count));
        put_varint(out, self.first_sequence.0);
        put_varint(out, self.synced_offset);
        let header = &mut out[start..];
        let crc = header_crc(at, header);
        header[1..5].copy_from_slice(&check(crc, payload_crc).to_le_bytes());
        header[5..7].copy_from_slice(&guard(crc).to_le_bytes());
    }

    /// The header at the start of `bytes`, which stand at `at` in a segment file of `file_bytes`;
    /// `None` if the guard does not hold, or the fields cannot be those of a record there. No more
    /// than [`RECORD_HEADER_LEN_MAX`] bytes are looked at.
    pub(crate) fn decode(bytes: &[u8], at: WalPosition, file_bytes: u64) -> Option<DecodedHeader> {
        let mut decoder = Decoder::new(bytes);
        let tag = decoder.u8().ok()?;
        if !is_tag(tag) {
            return None;
        }
        let check = decoder.u32().ok()?;
        let stored_guard = decoder.u16().ok()?;
        let header = RecordHeader {
            kind_bits: tag & !TAG_BASE_MASK,
            payload_len: decoder.varint().ok()?,
            entry_count: decoder.varint32().ok()?,
            first_sequence: SequenceNumber(decoder.varint().ok()?),
            synced_offset: decoder.varint().ok()?,
        };
        // The length as read, not as written: another writer's varints may be longer than needed.
        let header_len = bytes.len() - decoder.rest().len();
        let end = at.offset.checked_add(header_len as u64)?.checked_add(header.payload_len)?;
        let last = header.first_sequence.0.checked_add(u64::from(header.entry_count))?;
        if end > file_bytes
            || header.synced_offset > at.offset
            || last > SequenceNumber::MAX.0 + 1
            || header_len != header.header_len()
        {
            return None;
        }
        let crc = header_crc(at, &bytes[..header_len]);
        (stored_guard == guard(crc)).then_some(DecodedHeader { header, crc, check })
    }
}

/// A header whose guard holds, with what is needed to check the payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DecodedHeader {
    pub(crate) header: RecordHeader,
    crc: u32,
    check: u32,
}

impl DecodedHeader {
    /// Whether this is the header of a payload with that checksum.
    pub(crate) fn fits(&self, payload_crc: u32) -> bool {
        self.check == check(self.crc, payload_crc)
    }

    /// The payload in `bytes`, which begin with the record; `None` if it is not all there or not
    /// the one that was written.
    pub(crate) fn payload<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let record_len = usize::try_from(self.header.record_len()).ok()?;
        let payload = bytes.get(self.header.header_len()..record_len)?;
        self.fits(checksum(payload)).then_some(payload)
    }
}

/// Whether a record may begin with `byte`.
#[inline]
pub(crate) fn is_tag(byte: u8) -> bool {
    byte & TAG_BASE_MASK == TAG_BASE
}

/// CRC of the tag and the varints of `header`, which ends with them.
#[inline]
fn header_crc(at: WalPosition, header: &[u8]) -> u32 {
    checksum_at(at.segment.0, at.offset, &[&header[..1], &header[RECORD_FIXED_LEN..]])
}

#[inline]
fn check(header_crc: u32, payload_crc: u32) -> u32 {
    header_crc ^ payload_crc.rotate_left(1)
}

#[inline]
fn guard(header_crc: u32) -> u16 {
    (header_crc >> 16) as u16
}
