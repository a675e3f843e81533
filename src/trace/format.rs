//! The trace file, byte by byte: a header and then blocks, each in a checked frame.
//!
//! `docs/format/trace.md` says the same in tables.
//!
//! ```text
//! file    := header frame*
//! header  := "eskertrc"  version:u32  0:u32  start_unix_ms:u64  0:u32  crc:u32          32 bytes
//! frame   := payload_len:u32  len_crc:u32  payload_crc:u32  payload
//! payload := keyspace:varint  sample_shift:varint  first_us:varint  last_us-first_us:varint
//!            counts:varint[12]  record*
//! record  := tag:u8  delta_us:varint  key_hash:u64  key_len:varint  rest
//! rest    := (value_len:varint)  (ttl_ms:varint)  (entries:varint)                      as the kind has them
//! ```
//! Checksums of a frame are salted with the start of the trace and the frame's offset. The file is never synced: after
//! a crash its end may be torn. A damaged frame that may be the last one is such an end; one with more behind it is
//! corruption.

use std::path::Path;

use crate::checksum::checksum_at;
use crate::coding::{Decoder, Truncated, put_u32, put_u64, put_varint};
use crate::error::{Error, ErrorKind, Result};
use crate::key::KEY_LEN_MAX;
use crate::trace::{COUNT_FIELDS, TraceBlock, TraceCounts, TraceOperation, TraceRecord};

/// The first bytes of a trace.
pub(crate) const MAGIC: [u8; 8] = *b"eskertrc";
/// The version that is written.
const VERSION: u32 = 1;
/// Bytes of the file header.
pub(crate) const FILE_HEADER_BYTES: usize = 32;
/// Bytes of a frame before its payload.
pub(crate) const FRAME_HEADER_BYTES: usize = 12;
/// No payload is longer.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// No record is longer: tag, time, hash, key length, value length, life time.
pub(crate) const RECORD_BYTES_MAX: usize = 1 + 10 + 8 + 3 + 5 + 10;
/// No payload has more before its records.
pub(crate) const BLOCK_HEADER_BYTES_MAX: usize = (4 + COUNT_FIELDS) * 10;
/// The highest sampling shift.
pub(crate) const SAMPLE_SHIFT_MAX: u32 = 63;

const KIND_MASK: u8 = 0x07;
const DELETE: u8 = 0;
const PUT: u8 = 1;
const PUT_EXPIRING: u8 = 2;
const GET_HIT: u8 = 3;
const GET_MISS: u8 = 4;
const SCAN: u8 = 5;
const ASCENDING: u8 = 0x08;
const APPENDED: u8 = 0x10;

/// The header of a trace that begins at `start_unix_ms`.
pub(crate) fn encode_file_header(start_unix_ms: u64) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_u32(&mut out, VERSION);
    put_u32(&mut out, 0);
    put_u64(&mut out, start_unix_ms);
    put_u32(&mut out, 0);
    let crc = checksum_at(0, 0, &[&out]);
    put_u32(&mut out, crc);
    out
}

/// When the trace began, from its header.
pub(crate) fn decode_file_header(path: &Path, header: &[u8; FILE_HEADER_BYTES]) -> Result<u64> {
    let (body, crc) = header.split_at(FILE_HEADER_BYTES - 4);
    if !body.starts_with(&MAGIC) {
        return Err(Error::corruption(path, 0, "not a workload trace: the magic is missing"));
    }
    if Decoder::new(crc).u32() != Ok(checksum_at(0, 0, &[body])) {
        return Err(Error::corruption(path, 0, "checksum mismatch in the header of a trace"));
    }
    let mut rest = Decoder::new(&body[MAGIC.len()..]);
    let cut_short = |_: Truncated| Error::corruption(path, 0, "the header of a trace is cut short");
    let version = rest.u32().map_err(cut_short)?;
    if version != VERSION {
        let what = format!("a trace of format version {version}; this esker reads {VERSION}");
        return Err(Error::new(ErrorKind::Unsupported, what)
            .at(path)
            .advise("read it with the esker version that wrote it, or a newer one"));
    }
    rest.u32().map_err(cut_short)?;
    rest.u64().map_err(cut_short)
}

/// Appends `payload` in a frame that stands at `offset`.
pub(crate) fn encode_frame(out: &mut Vec<u8>, start_unix_ms: u64, offset: u64, payload: &[u8]) {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "the recorder seals blocks before they grow so");
    let len = (payload.len() as u32).to_le_bytes();
    out.extend_from_slice(&len);
    put_u32(out, checksum_at(start_unix_ms, offset, &[&len]));
    put_u32(out, checksum_at(start_unix_ms, offset, &[payload]));
    out.extend_from_slice(payload);
}

/// The head of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameHeader {
    pub(crate) payload_bytes: usize,
    payload_crc: u32,
}

impl FrameHeader {
    /// The head of the frame at `offset`; `None` if it is damaged.
    pub(crate) fn decode(
        start_unix_ms: u64,
        offset: u64,
        bytes: &[u8; FRAME_HEADER_BYTES],
    ) -> Option<Self> {
        let mut rest = Decoder::new(bytes);
        let (len, len_crc, payload_crc) = (rest.u32().ok()?, rest.u32().ok()?, rest.u32().ok()?);
        let is_whole = len_crc == checksum_at(start_unix_ms, offset, &[&len.to_le_bytes()])
            && len as usize <= PAYLOAD_BYTES_MAX;
        is_whole.then_some(FrameHeader { payload_bytes: len as usize, payload_crc })
    }

    /// Whether `payload` is what was written in the frame at `offset`.
    pub(crate) fn matches(self, start_unix_ms: u64, offset: u64, payload: &[u8]) -> bool {
        self.payload_crc == checksum_at(start_unix_ms, offset, &[payload])
    }
}

/// Appends the part of a payload that stands before its records; those of `block` are not looked at.
pub(crate) fn encode_block_header(out: &mut Vec<u8>, block: &TraceBlock) {
    put_varint(out, u64::from(block.keyspace));
    put_varint(out, u64::from(block.sample_shift));
    put_varint(out, block.first_us);
    put_varint(out, block.last_us.saturating_sub(block.first_us));
    for count in block.counts.to_array() {
        put_varint(out, count);
    }
}

/// Appends `record`; `previous_us` is the time of the record before it, or when the block began.
#[inline]
pub(crate) fn encode_record(out: &mut Vec<u8>, record: &TraceRecord, previous_us: u64) {
    let tag = match record.operation {
        TraceOperation::Put { ttl_ms, ascending, appended, .. } => {
            let kind = if ttl_ms.is_some() { PUT_EXPIRING } else { PUT };
            kind | if ascending { ASCENDING } else { 0 } | if appended { APPENDED } else { 0 }
        }
        TraceOperation::Delete => DELETE,
        TraceOperation::GetHit { .. } => GET_HIT,
        TraceOperation::GetMiss => GET_MISS,
        TraceOperation::Scan { .. } => SCAN,
    };
    out.push(tag);
    put_varint(out, record.time_us.saturating_sub(previous_us));
    put_u64(out, record.key_hash);
    put_varint(out, u64::from(record.key_bytes));
    match record.operation {
        TraceOperation::Put { value_bytes, ttl_ms, .. } => {
            put_varint(out, u64::from(value_bytes));
            if let Some(ttl_ms) = ttl_ms {
                put_varint(out, ttl_ms);
            }
        }
        TraceOperation::GetHit { value_bytes } => put_varint(out, u64::from(value_bytes)),
        TraceOperation::Scan { entries } => put_varint(out, entries),
        TraceOperation::Delete | TraceOperation::GetMiss => {}
    }
}

/// Why a payload with a good checksum cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Malformed {
    /// It is not what any version writes.
    Wrong(&'static str),
    /// A newer version wrote it.
    UnknownKind(u8),
}

impl From<Truncated> for Malformed {
    fn from(_: Truncated) -> Self {
        Malformed::Wrong("a block of a trace is cut short")
    }
}

/// The block in `payload`, which stands in the frame at `offset` of `path`.
pub(crate) fn decode_block(path: &Path, offset: u64, payload: &[u8]) -> Result<TraceBlock> {
    decode_payload(payload).map_err(|malformed| match malformed {
        Malformed::Wrong(what) => Error::corruption(path, offset, what),
        Malformed::UnknownKind(tag) => {
            Error::new(ErrorKind::Unsupported, format!("a trace has an operation of kind {tag:#x}"))
                .at(path)
                .at_offset(offset)
                .advise("read it with the esker version that wrote it, or a newer one")
        }
    })
}

fn decode_payload(payload: &[u8]) -> Result<TraceBlock, Malformed> {
    let mut rest = Decoder::new(payload);
    let keyspace = rest.varint32()?;
    let sample_shift = rest.varint32()?;
    if sample_shift > SAMPLE_SHIFT_MAX {
        return Err(Malformed::Wrong("a block of a trace samples no keys"));
    }
    let first_us = rest.varint()?;
    let last_us = first_us.saturating_add(rest.varint()?);
    let mut counts = [0; COUNT_FIELDS];
    for count in &mut counts {
        *count = rest.varint()?;
    }
    let counts = TraceCounts::from_array(counts);
    let mut records = Vec::new();
    let mut time_us = first_us;
    while !rest.is_empty() {
        let record = decode_record(&mut rest, time_us)?;
        time_us = record.time_us;
        records.push(record);
    }
    Ok(TraceBlock { keyspace, sample_shift, first_us, last_us, counts, records })
}

fn decode_record(rest: &mut Decoder<'_>, previous_us: u64) -> Result<TraceRecord, Malformed> {
    let tag = rest.u8()?;
    let kind = tag & KIND_MASK;
    if kind > SCAN || tag & !(KIND_MASK | ASCENDING | APPENDED) != 0 {
        return Err(Malformed::UnknownKind(tag));
    }
    if tag != kind && kind != PUT && kind != PUT_EXPIRING {
        return Err(Malformed::Wrong("an operation of a trace has the marks of a put"));
    }
    let time_us = previous_us.saturating_add(rest.varint()?);
    let key_hash = rest.u64()?;
    let key_bytes = rest.varint32()?;
    if key_bytes as usize > KEY_LEN_MAX {
        return Err(Malformed::Wrong("an operation of a trace has a key that is too long"));
    }
    let operation = match kind {
        DELETE => TraceOperation::Delete,
        PUT | PUT_EXPIRING => TraceOperation::Put {
            value_bytes: rest.varint32()?,
            ttl_ms: if kind == PUT_EXPIRING { Some(rest.varint()?) } else { None },
            ascending: tag & ASCENDING != 0,
            appended: tag & APPENDED != 0,
        },
        GET_HIT => TraceOperation::GetHit { value_bytes: rest.varint32()? },
        GET_MISS => TraceOperation::GetMiss,
        _ => TraceOperation::Scan { entries: rest.varint()? },
    };
    Ok(TraceRecord { time_us, key_hash, key_bytes, operation })
}

#[cfg(test)]
pub(in crate::trace) mod tests;
