//! The write-ahead log: every batch of writes, in commit order, before it is anywhere else.
//!
//! A log is a chain of segment files `NNNNNN.wal`. A segment is allocated in full before it is
//! used, begins with a header, and then holds records back to back. The log does not look into the
//! payload of a record.
//!
//! # Grammar
//! All integers are little-endian; `varint` as in [`coding`](crate::coding). The bytes are
//! explained one by one in `docs/format/wal.md`.
//!
//! ```text
//! segment := header(64) record* end
//! header  := magic(8) version:u32 zero(4) segment:u64 previous_segment:u64 previous_bytes:u64
//!            previous_synced_bytes:u64 first_sequence:u64 zero(4) crc:u32
//! record  := tag:u8 check:u32 guard:u16 payload_len:varint entry_count:varint
//!            first_sequence:varint synced_offset:varint payload
//! tag     := 0xE0 | kind
//! kind    := 1 batch, 2 skip, 3 close; reserved: 8 prepare, 9 commit, 10 rollback
//! end     := 0x00, or stale bytes, or the end of the file
//! ```
//!
//! # The checksum of a record
//! `header_crc` is the CRC-32 of the tag and the four varints, salted with the segment id and the
//! record's offset. `guard` is its upper half; `check` is `header_crc ^ rotate_left(payload_crc,
//! 1)`. The CRC of the payload does not depend on the place, so the caller computes it outside any
//! lock; under the lock only some 30 bytes are summed. The XOR loses nothing: an error in the
//! header alone changes `header_crc`, one in the payload alone changes `payload_crc`, and either
//! changes `check` with all the guarantees of CRC-32 (the rotation is a bijection). Errors in both
//! pass only if the two changes cancel *and* the guard's half of the header's change is zero. The
//! rotation keeps one error pattern repeated in both parts from cancelling. The guard lets a reader
//! trust `payload_len` before it has seen the payload, so looking for a record among stale bytes
//! does not sum payloads for nothing.
//!
//! # Where the log ends
//! A crash may tear the last unsynced records: that is the torn tail, and it is dropped. Damage to
//! synced records is corruption, and dropping those would be silent loss. Three things tell them
//! apart:
//! * a record carries `synced_offset`: the bytes of its own segment known to be synced when it was
//!   written, and a header carries the same of the segment before it (0: nothing known). Segments
//!   are synced in order, so anything but 0 vouches for all earlier segments as well;
//! * the manifest remembers a position known to be synced;
//! * a header names the previous segment and where its data ended, so that a segment cut short on a
//!   record boundary, or missing, is noticed.
//!
//! The segments of one writer have growing ids, mostly consecutive; what makes them a chain is the
//! header's link. A link names the end that an earlier recovery had found, too: what was dropped
//! then stays dropped.
//!
//! # Rules for the user of the log
//! * A segment id and a sequence number are never used twice. Start a writer with
//!   [`Replay::start`].
//! * A segment takes no records after a recovery. Before the first write after one, everything
//!   replayed must be durable in tables and the manifest must begin the log at the new writer's
//!   first segment, unless the log was closed cleanly: after the death of a process the old
//!   segments may be in memory only.
//! * A segment is removed or recycled only after the manifest edit that makes it obsolete is
//!   durable.
//! * A recycled segment is overwritten in place: a copy of the database must copy segments, not
//!   hard-link them.
//!
//! [`Replay::start`]: replay::Replay::start

pub(crate) mod segment;
pub(crate) mod sync;
pub(crate) mod writer;

pub(crate) mod reader;
pub(crate) mod replay;

use crate::key::{FileNumber, SequenceNumber};

/// A position in the log: all bytes before it come before all bytes after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WalPosition {
    /// The segment.
    pub(crate) segment: FileNumber,
    /// The offset in the segment.
    pub(crate) offset: u64,
}

/// What a new writer needs to know of the log before it. The default begins the first log of a
/// database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalStart {
    /// Where the log before ended; the first segment's header links to it.
    pub(crate) previous: WalPosition,
    /// The id of the first segment; greater than any id used before.
    pub(crate) next_segment: FileNumber,
    /// The sequence number that the first record is expected to begin with.
    pub(crate) next_sequence: SequenceNumber,
}

impl Default for WalStart {
    fn default() -> Self {
        WalStart {
            previous: WalPosition::default(),
            next_segment: FileNumber(1),
            next_sequence: SequenceNumber(1),
        }
    }
}

#[cfg(test)]
mod tests;
