//! Keys inside the engine: sequence numbers, value kinds, and the order of versions.
//!
//! A stored entry is a user key, a `Trailer` and a value. The trailer packs the sequence number (56 bits) above the
//! value kind (8 bits). Entries are ordered by user key ascending (bytewise, and only so), then by trailer
//! **descending**, so that the newest version of a key comes first.
//!
//! # Invariants
//! * A sequence number is given to one write only, ever; so is a file number.
//! * Kinds are on disk: their numbers never change. Kinds 3..=5 are reserved; meeting one is an
//!   [`ErrorKind::Unsupported`] error.

use std::cmp::Ordering;
use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// The longest user key, in bytes.
pub const KEY_LEN_MAX: usize = (1 << 16) - 1;
/// The longest value, in bytes.
pub const VALUE_LEN_MAX: usize = u32::MAX as usize;

/// The place of a write in the one order of all writes of a database; its LSN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceNumber(pub u64);

impl SequenceNumber {
    /// The largest sequence number that fits a trailer.
    pub const MAX: SequenceNumber = SequenceNumber((1 << 56) - 1);
    /// Before the first write.
    pub const ZERO: SequenceNumber = SequenceNumber(0);
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number in a file's name. Never reused within a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(pub u64);

impl FileNumber {
    /// No file has a larger number.
    pub(crate) const MAX: FileNumber = FileNumber(1 << 62);
    /// A database in which this number was given out is not opened: so nobody ever counts up to [`FileNumber::MAX`].
    pub(crate) const USED_UP: FileNumber = FileNumber(1 << 61);
}

impl fmt::Display for FileNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06}", self.0)
    }
}

/// The number of a keyspace. Never reused within a database; 0 is the keyspace `default`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(pub u32);

/// What an entry says of its key. The discriminants are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ValueKind {
    /// The key has no value: a tombstone.
    Delete = 0,
    /// The key has this value.
    Put = 1,
    /// The key has this value until a time: 8 bytes little-endian Unix milliseconds stand before it.
    PutExpiring = 2,
    /// A delta for a merge operator. Reserved.
    Merge = 3,
    /// The end of a deleted range. Reserved.
    RangeDelete = 4,
    /// The place of a value stored apart. Reserved.
    ValueHandle = 5,
}

impl ValueKind {
    /// The kind with the discriminant `byte`, if this version can read it.
    pub(crate) fn from_byte(byte: u8) -> Result<Self> {
        let reserved = |name: &str| {
            Err(Error::new(
                ErrorKind::Unsupported,
                format!("value kind {byte} ({name}) is reserved"),
            )
            .advise("open the database with the esker version that wrote it, or a newer one"))
        };
        match byte {
            0 => Ok(ValueKind::Delete),
            1 => Ok(ValueKind::Put),
            2 => Ok(ValueKind::PutExpiring),
            3 => reserved("merge operand"),
            4 => reserved("range delete"),
            5 => reserved("value handle"),
            _ => Err(Error::new(ErrorKind::Unsupported, format!("unknown value kind {byte}"))
                .advise("open the database with the esker version that wrote it, or a newer one")),
        }
    }
}

/// Sequence number and value kind of an entry, packed so that the newest sorts highest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Trailer(pub(crate) u64);

impl Trailer {
    /// Sorts before every version of its key.
    pub(crate) const NEWEST: Trailer = Trailer(u64::MAX);
    /// Sorts after every version of its key.
    pub(crate) const OLDEST: Trailer = Trailer(0);

    pub(crate) fn new(sequence: SequenceNumber, kind: ValueKind) -> Self {
        debug_assert!(sequence <= SequenceNumber::MAX);
        Trailer(sequence.0 << 8 | kind as u64)
    }

    /// The bound for reading at `sequence`: at or after it stand the versions visible there, newest first.
    pub(crate) fn visible_at(sequence: SequenceNumber) -> Self {
        Trailer(sequence.0 << 8 | 0xff)
    }

    pub(crate) fn sequence(self) -> SequenceNumber {
        SequenceNumber(self.0 >> 8)
    }

    /// The trailer as readers of a stamped table see it (see [`crate::table`]); the file says 0 as its sequence number.
    #[inline]
    pub(crate) fn stamped(self, stamp: SequenceNumber) -> Self {
        Trailer(self.0 | stamp.0 << 8)
    }

    /// A trailer to search a stamped table's file with: it stands to the file's trailers as this one stands to what
    /// readers see of them. A stamp of 0 is none.
    #[inline]
    pub(crate) fn unstamped(self, stamp: SequenceNumber) -> Self {
        if stamp == SequenceNumber::ZERO {
            return self;
        }
        match self.sequence().cmp(&stamp) {
            Ordering::Greater => Trailer::NEWEST,
            Ordering::Equal => Trailer(self.0 & 0xff),
            Ordering::Less => Trailer::OLDEST,
        }
    }

    pub(crate) fn kind_byte(self) -> u8 {
        self.0 as u8
    }

    /// The kind, or an error if this version cannot read it.
    #[inline]
    pub(crate) fn kind(self) -> Result<ValueKind> {
        ValueKind::from_byte(self.kind_byte())
    }

    pub(crate) fn is_tombstone(self) -> bool {
        self.kind_byte() == ValueKind::Delete as u8
    }
}

impl fmt::Debug for Trailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}:{}", self.sequence(), self.kind_byte())
    }
}

/// The order of entries: user key ascending, then newest first.
#[inline]
pub(crate) fn compare_entries(a: (&[u8], Trailer), b: (&[u8], Trailer)) -> Ordering {
    a.0.cmp(b.0).then_with(|| b.1.cmp(&a.1))
}

/// The first 8 bytes of `key`, zero-padded, as an integer that orders as the bytes do.
#[inline]
pub(crate) fn key_prefix(key: &[u8]) -> u64 {
    if let Some(head) = key.first_chunk::<8>() {
        return u64::from_be_bytes(*head);
    }
    let mut head = [0u8; 8];
    head[..key.len()].copy_from_slice(key);
    u64::from_be_bytes(head)
}

/// The one hash of a key that every filter on the read and write paths shares.
#[inline]
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// `key` as text: printable ASCII as it is, `\\` for a backslash, `\xNN` for the rest.
pub(crate) fn escape(key: &[u8]) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(key.len());
    for &byte in key {
        match byte {
            b'\\' => out.push_str("\\\\"),
            0x20..=0x7e => out.push(byte as char),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unstamped_trailers_find_what_stamped_ones_name() {
        let stamp = SequenceNumber(7);
        for kind in [ValueKind::Put, ValueKind::PutExpiring] {
            let in_file = Trailer::new(SequenceNumber::ZERO, kind);
            let seen = in_file.stamped(stamp);
            assert_eq!(seen, Trailer::new(stamp, kind));
            for sought in [
                Trailer::NEWEST,
                Trailer::visible_at(SequenceNumber(8)),
                Trailer::new(SequenceNumber(8), ValueKind::Delete),
                Trailer::visible_at(stamp),
                Trailer::new(stamp, ValueKind::Put),
                Trailer::new(stamp, ValueKind::PutExpiring),
                Trailer::visible_at(SequenceNumber(6)),
                Trailer::OLDEST,
            ] {
                assert_eq!(sought.unstamped(stamp).cmp(&in_file), sought.cmp(&seen), "{sought:?}");
                assert_eq!(sought.unstamped(SequenceNumber::ZERO), sought);
            }
        }
    }

    #[test]
    fn newer_versions_come_first() {
        let old = Trailer::new(SequenceNumber(5), ValueKind::Put);
        let new = Trailer::new(SequenceNumber(6), ValueKind::Delete);
        assert_eq!(compare_entries((b"a", new), (b"a", old)), Ordering::Less);
        assert_eq!(compare_entries((b"a", old), (b"b", new)), Ordering::Less);
        assert!(Trailer::visible_at(SequenceNumber(5)) > old);
        assert!(Trailer::visible_at(SequenceNumber(5)) < new);
        assert_eq!(new.sequence(), SequenceNumber(6));
        assert_eq!(new.kind().unwrap(), ValueKind::Delete);
    }

    #[test]
    fn reserved_and_unknown_kinds_are_unsupported() {
        for byte in 3..=255u8 {
            assert_eq!(ValueKind::from_byte(byte).unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }

    proptest! {
        #[test]
        fn prefix_is_monotone(a: Vec<u8>, b: Vec<u8>) {
            if a <= b {
                prop_assert!(key_prefix(&a) <= key_prefix(&b));
            }
        }
    }
}
