//! Records: an entry as it lies in the arena, and the 16-byte handle by which entries are ordered.
//!
//! ```text
//! record    := trailer key_len key value_len value
//! trailer   := 8 bytes in the machine's order
//! key_len   := 1 byte up to 253 | 254, then 2 bytes in the machine's order
//! value_len := varint
//! ```
//! Packed, without alignment: the density of the memtable is the number of entries it holds. The
//! value's length stands after the key so that a comparison reads trailer, length and key in one
//! go. Records never leave memory.
//!
//! A lookup must hand the list something that compares like an entry. To copy the sought key
//! into a record would cost an allocation for long keys; instead a [`Probe`] has the beginning of a
//! record, and 255 in the place of its key length says that the key is elsewhere.

#![expect(unsafe_code, reason = "reads records by raw pointer; each block has its proof")]

use std::cmp::Ordering;
use std::ptr::{self, NonNull};
use std::slice;

use crate::coding::varint_len;
use crate::key::{KEY_LEN_MAX, Trailer, VALUE_LEN_MAX, compare_entries};

const TRAILER_LEN: usize = size_of::<u64>();
/// The longest key whose length takes one byte.
const SHORT_KEY_LEN_MAX: usize = 253;
/// In the place of a key length: the length follows in 2 bytes.
const LONG_KEY: u8 = 254;
/// In the place of a key length: this is a probe.
const PROBE: u8 = 255;

// The two bytes after `LONG_KEY` hold any key length.
const _: () = assert!(KEY_LEN_MAX <= u16::MAX as usize);

/// Where a record or a probe begins.
///
/// # Invariant
/// It points to a whole record, or to a [`Probe`], that nobody changes any more. How long it lives
/// is up to whoever holds the handle; so following it is unsafe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record(NonNull<u8>);

/// A key and trailer to look for, lent for the time of one search.
#[repr(C)]
pub(super) struct Probe<'a> {
    trailer: u64,
    mark: u8,
    key: &'a [u8],
}

// A probe is read as the beginning of a record.
const _: () = assert!(std::mem::offset_of!(Probe<'_>, mark) == TRAILER_LEN);

/// The length of a record, or `None` if the key or the value is too long for one.
#[inline]
pub(super) fn record_len(key: &[u8], value: &[u8]) -> Option<usize> {
    if key.len() > KEY_LEN_MAX || value.len() > VALUE_LEN_MAX {
        return None;
    }
    let lens_len = key_len_len(key.len()) + varint_len(value.len() as u64);
    Some(TRAILER_LEN + lens_len + key.len() + value.len())
}

fn key_len_len(key_len: usize) -> usize {
    if key_len <= SHORT_KEY_LEN_MAX { 1 } else { 3 }
}

impl Record {
    /// Writes a record at `start`.
    ///
    /// # Safety
    /// `start` is good for writing [`record_len`] bytes, which is not `None`, and nobody else uses
    /// them.
    #[inline]
    pub(super) unsafe fn write(
        start: NonNull<u8>,
        key: &[u8],
        trailer: Trailer,
        value: &[u8],
    ) -> Self {
        // SAFETY: the writes go from `start` on without a gap and add up to `record_len`, which the
        // caller provides; fresh memory does not overlap `key` or `value`.
        unsafe {
            let mut at = start;
            at = put(at, &trailer.0.to_ne_bytes());
            if key.len() <= SHORT_KEY_LEN_MAX {
                at = put(at, &[key.len() as u8]);
            } else {
                at = put(at, &[LONG_KEY]);
                at = put(at, &(key.len() as u16).to_ne_bytes());
            }
            at = put(at, key);
            let mut rest_of_len = value.len() as u64;
            while rest_of_len >= 0x80 {
                at = put(at, &[rest_of_len as u8 | 0x80]);
                rest_of_len >>= 7;
            }
            at = put(at, &[rest_of_len as u8]);
            put(at, value);
        }
        Record(start)
    }

    /// The record as a pointer, for [`Record::from_ptr`].
    #[inline]
    pub(super) fn as_ptr(self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// # Safety
    /// The pointer is from [`Record::as_ptr`].
    #[inline]
    pub(super) unsafe fn from_ptr(pointer: *mut u8) -> Self {
        // SAFETY: it was not null then.
        Record(unsafe { NonNull::new_unchecked(pointer) })
    }

    /// Asks for the record's first lines of cache ahead of their use.
    #[inline]
    pub(super) fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let start = self.0.as_ptr().cast::<i8>();
            // SAFETY: a prefetch takes any address, and every x86-64 processor has it.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(start);
                _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(64));
            }
        }
    }

    /// # Safety
    /// The record or probe is alive.
    #[inline]
    pub(super) unsafe fn trailer(self) -> Trailer {
        // SAFETY: both records and probes begin with these 8 bytes, and the caller keeps them
        // alive.
        Trailer(unsafe { self.0.cast::<u64>().read_unaligned() })
    }

    /// # Safety
    /// The record, or the probe and its key, live for all of `'a`.
    #[inline]
    pub(super) unsafe fn key<'a>(self) -> &'a [u8] {
        // SAFETY: the caller keeps alive whichever it is. A probe's handle was made from a
        // reference to it, so a reference is good again.
        unsafe {
            if self.0.add(TRAILER_LEN).read() == PROBE {
                return self.0.cast::<Probe<'a>>().as_ref().key;
            }
            let (start, len) = self.key_place();
            slice::from_raw_parts(start.as_ptr(), len)
        }
    }

    /// # Safety
    /// It is a record, not a probe, and lives for all of `'a`.
    #[inline]
    pub(super) unsafe fn value<'a>(self) -> &'a [u8] {
        // SAFETY: `write` put a varint after the key, which ends within the record, and that many
        // bytes after it. The pointer comes from the record's, not from the key's slice, which it
        // would overrun.
        unsafe {
            let (key, key_len) = self.key_place();
            let mut at = key.add(key_len);
            let mut len = 0u64;
            let mut shift = 0;
            loop {
                let byte = at.read();
                at = at.add(1);
                len |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    return slice::from_raw_parts(at.as_ptr(), len as usize);
                }
                shift += 7;
            }
        }
    }

    /// Where the key begins, and its length.
    ///
    /// # Safety
    /// It is a record, not a probe, and alive.
    #[inline]
    unsafe fn key_place(self) -> (NonNull<u8>, usize) {
        // SAFETY: the byte after the trailer says what follows, by the grammar above.
        unsafe {
            let len_at = self.0.add(TRAILER_LEN);
            match len_at.read() {
                LONG_KEY => {
                    let len = len_at.add(1).cast::<u16>().read_unaligned();
                    (len_at.add(3), usize::from(len))
                }
                len => (len_at.add(1), usize::from(len)),
            }
        }
    }
}

/// Copies `bytes` to `at` and returns the place after them.
///
/// # Safety
/// `at` is good for writing `bytes.len()` bytes and does not overlap `bytes`.
#[inline]
unsafe fn put(at: NonNull<u8>, bytes: &[u8]) -> NonNull<u8> {
    // SAFETY: the caller vouches for both.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), at.as_ptr(), bytes.len());
        at.add(bytes.len())
    }
}

impl<'a> Probe<'a> {
    #[inline]
    pub(super) fn new(key: &'a [u8], trailer: Trailer) -> Self {
        Probe { trailer: trailer.0, mark: PROBE, key }
    }
}

/// What the list orders: a prefix, and the entry itself to settle ties.
///
/// # Invariant
/// Whoever makes a `MemKey` keeps its record (or probe) alive for as long as the `MemKey` can be
/// compared: the arena outlives the list, a probe outlives its search. And all keys of one list
/// take their prefixes from one [`PrefixHint`](super::prefix::PrefixHint).
#[derive(Clone, Copy, Debug)]
pub(super) struct MemKey {
    prefix: u64,
    record: Record,
}

// SAFETY: a record is not changed once there is a `MemKey` of it, and reading it needs no
// particular thread.
unsafe impl Send for MemKey {}
// SAFETY: as above.
unsafe impl Sync for MemKey {}

impl MemKey {
    /// # Safety
    /// The record lives for as long as the `MemKey` or a copy of it can be compared.
    #[inline]
    pub(super) unsafe fn new(prefix: u64, record: Record) -> Self {
        MemKey { prefix, record }
    }

    /// # Safety
    /// The probe lives, and stays in its place, for as long as the `MemKey` or a copy of it can be
    /// compared.
    #[inline]
    pub(super) unsafe fn of_probe(prefix: u64, probe: &Probe<'_>) -> Self {
        MemKey { prefix, record: Record(NonNull::from(probe).cast()) }
    }

    #[inline]
    pub(super) fn prefix(&self) -> u64 {
        self.prefix
    }

    #[inline]
    pub(super) fn record(&self) -> Record {
        self.record
    }

    /// Whether this is an entry of the same user key as `sought`, at or after that.
    #[inline]
    pub(super) fn is_version_of(&self, sought: &Self) -> bool {
        // SAFETY: records and probes live while their `MemKey` can be compared (invariant).
        let (key, trailer) = unsafe { (self.record.key(), self.record.trailer()) };
        // SAFETY: as above.
        let sought_entry = unsafe { (sought.record.key(), sought.record.trailer()) };
        self.prefix == sought.prefix && key == sought_entry.0 && trailer <= sought_entry.1
    }

    fn compare_tied(&self, other: &Self) -> Ordering {
        // SAFETY: records and probes live while their `MemKey` can be compared (invariant).
        let (key, trailer) = unsafe { (self.record.key(), self.record.trailer()) };
        // SAFETY: as above.
        let other = unsafe { (other.record.key(), other.record.trailer()) };
        compare_entries((key, trailer), other)
    }
}

impl Ord for MemKey {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        // A prefix is a monotone map of the key, so different prefixes decide.
        self.prefix.cmp(&other.prefix).then_with(|| self.compare_tied(other))
    }
}

impl PartialOrd for MemKey {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for MemKey {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for MemKey {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_give_back_what_was_written_to_the_byte() {
        let bytes = vec![7u8; 70_000];
        for key_len in [0, 1, 16, 253, 254, 255, 256, KEY_LEN_MAX] {
            for value_len in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
                let (key, value) = (&bytes[..key_len], &bytes[..value_len]);
                let len = record_len(key, value).unwrap();
                // One byte more on each side shows a write out of bounds; the odd start shows
                // unaligned access.
                let mut memory = vec![0xeeu8; len + 2];
                let start = NonNull::from(&mut memory[1..]).cast::<u8>();
                // SAFETY: `memory` holds `len` bytes from 1 on.
                let record = unsafe { Record::write(start, key, Trailer(0x0102_0304), value) };
                // SAFETY: `memory` is alive and not written meanwhile.
                unsafe {
                    assert_eq!(record.trailer(), Trailer(0x0102_0304));
                    assert!(record.key() == key && record.value() == value);
                }
                assert_eq!((memory[0], memory[len + 1]), (0xee, 0xee));
                assert_eq!(
                    len,
                    8 + key_len_len(key_len) + varint_len(value_len as u64) + key_len + value_len
                );
            }
        }
        assert_eq!(record_len(&bytes[..=KEY_LEN_MAX], b""), None);
    }

    #[test]
    fn a_probe_compares_as_the_record_would() {
        for key in [b"".as_slice(), b"k", &[0xff; 300]] {
            let mut memory = vec![0u8; record_len(key, b"v").unwrap()];
            let start = NonNull::from(&mut memory[..]).cast::<u8>();
            // SAFETY: `memory` is as long as the record and outlives it.
            let entry = unsafe { MemKey::new(5, Record::write(start, key, Trailer(10), b"v")) };
            for (trailer, order) in
                [(9, Ordering::Less), (10, Ordering::Equal), (11, Ordering::Greater)]
            {
                let probe = Probe::new(key, Trailer(trailer));
                // SAFETY: the probe outlives the comparison.
                let sought = unsafe { MemKey::of_probe(5, &probe) };
                assert_eq!(entry.cmp(&sought), order);
                assert_eq!(sought.cmp(&entry), order.reverse());
            }
            let probe = Probe::new(b"", Trailer(10));
            // SAFETY: the probe outlives the comparison.
            let sought = unsafe { MemKey::of_probe(6, &probe) };
            assert!(entry < sought, "the prefix decides alone");
        }
    }
}
