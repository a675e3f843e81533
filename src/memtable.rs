//! The memtable: the newest entries of a keyspace, in memory and in order.
//!
//! A memtable only grows. Entries are packed into an arena ([`arena`], [`record`]). A [`list`]
//! keeps a 16-byte handle of each in order: a 64-bit prefix of the key ([`prefix`]) that settles
//! most comparisons without a cache miss, and a pointer to the record. Handles lie in leaves of a
//! few dozen ([`leaf`]), with a skiplist above. A bloom filter ([`filter`]) answers most lookups of
//! absent keys.
//!
//! # Invariants
//! * A key and trailer are inserted once: a sequence number is given to one write only.
//! * Nothing is removed or changed. A record, a leaf and a filter bit last as long as the memtable.
//! * `bytes` is the exact sum of what was charged: filter, bytes used up of the arenas of records
//!   and of leaves, and [`NODE_BYTES`](list::NODE_BYTES) a node of the skiplist.
//!
//! # Concurrency
//! Any thread may insert and read at any time. Readers take no lock. Writers take turns to put a
//! handle into its leaf; all else they do side by side (the arena locks to add a chunk).
//!
//! # Publication
//! Why a reader misses no entry it must see. A writer (1) writes the record, (2) sets the filter
//! bits, (3) puts the handle into a leaf; then the database (4) raises the visible sequence number
//! with Release. A reader loads that number with Acquire and looks for entries up to it, so all of
//! 1 to 3 happens before its lookup. Relaxed loads of the filter words then see the bits (a load
//! does not see a value older than one that happens before it, and bits are never cleared), and the
//! search meets the leaf and the handle ([`leaf`] says why splits hide nothing). A reader that is
//! not ordered after 4 may miss the entry, or find it: a handle is stored with Release and loaded
//! with Acquire, so whoever meets it sees its record whole.

#![expect(unsafe_code, reason = "records are read by raw pointer; each block has its proof")]

pub(crate) mod arena;
pub(crate) mod cursor;
mod filter;
mod leaf;
mod list;
pub(crate) mod prefix;
mod record;

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use self::arena::Arena;
use self::cursor::MemCursor;
use self::filter::MemFilter;
use self::leaf::LEAF_LEN;
use self::list::{LeafList, Place};
use self::prefix::PrefixHint;
use self::record::{MemKey, Probe, Record, record_len};
use crate::expiry::{EXPIRY_LEN, user_value_len};
use crate::key::Trailer;
use crate::sync::atomic::{AtomicU64, Ordering};

/// With fewer entries than this the extremes say too little about the keys to come.
const HINT_ENTRY_COUNT_MIN: u64 = 16;

/// The newest entries of a keyspace.
pub(crate) struct MemTable {
    // The list stands before the arena, so that it is dropped first: its keys point into the arena.
    list: LeafList,
    arena: Arena,
    filter: MemFilter,
    hint: PrefixHint,
    counts: Counts,
}

/// Sums over the entries, each exact once the inserts that it counts have returned. Relaxed
/// throughout: they order nothing. On cache lines of their own, away from what readers look at.
#[repr(align(64))]
struct Counts {
    entry_count: AtomicU64,
    bytes: AtomicU64,
    key_bytes: AtomicU64,
    value_bytes: AtomicU64,
    write_time_min_ms: AtomicU64,
    write_time_max_ms: AtomicU64,
}

impl MemTable {
    /// An empty memtable that is meant to take `capacity_bytes`. The `hint` is that of the memtable
    /// before.
    pub(crate) fn new(capacity_bytes: u64, hint: Option<&PrefixHint>) -> Arc<Self> {
        Self::with_leaf_fill(capacity_bytes, hint, LEAF_LEN)
    }

    /// As `new`, with at most `leaf_fill` entries in a leaf.
    fn with_leaf_fill(
        capacity_bytes: u64,
        hint: Option<&PrefixHint>,
        leaf_fill: usize,
    ) -> Arc<Self> {
        let filter = MemFilter::new(capacity_bytes);
        Arc::new(MemTable {
            list: LeafList::new(leaf_fill),
            arena: Arena::new(),
            counts: Counts::new(filter.bytes()),
            filter,
            hint: hint.cloned().unwrap_or_default(),
        })
    }

    /// Adds an entry that is not there yet. `hash` is the [`key_hash`](crate::key::key_hash) of
    /// `key`.
    pub(crate) fn insert(&self, key: &[u8], trailer: Trailer, value: &[u8], hash: u64) {
        let len = record_len(key, value).expect("the batch has checked the lengths");
        let piece = self.arena.allocate(len);
        // SAFETY: the arena handed out `len` bytes to us alone.
        let record = unsafe { Record::write(piece.start, key, trailer, value) };
        // Before the entry can be reached: see "Publication" in the module text.
        self.filter.insert(hash);
        let value_len = user_value_len(trailer, value.len());
        // SAFETY: the arena keeps the record until it is dropped, after the list (field order).
        let mem_key = unsafe { MemKey::new(self.hint.prefix(key), record) };
        self.list.insert(mem_key, tag(hash), |list_bytes| {
            self.counts.add(key, value_len, piece.charged_bytes as u64 + list_bytes);
        });
    }

    /// The newest entry of `key` with a trailer of at most `bound`. `hash` is the
    /// [`key_hash`](crate::key::key_hash) of `key`.
    #[inline]
    pub(crate) fn get(
        self: &Arc<Self>,
        key: &[u8],
        hash: u64,
        bound: Trailer,
    ) -> Option<(Trailer, MemValue)> {
        if !self.filter.may_contain(hash) {
            return None;
        }
        let record = self.with_probe(key, bound, |sought| self.list.newest(sought, tag(hash)))?;
        // SAFETY: the record lives in our arena, longer than this borrow of `self`, and the value
        // will hold this memtable.
        Some(unsafe { (record.trailer(), MemValue::new(Arc::clone(self), record)) })
    }

    /// A cursor over all entries, standing nowhere.
    pub(crate) fn cursor(self: &Arc<Self>) -> MemCursor {
        MemCursor::new(Arc::clone(self))
    }

    /// Lends `search` a key that compares as (`key`, `trailer`) does.
    #[inline]
    fn with_probe<T>(&self, key: &[u8], trailer: Trailer, search: impl FnOnce(&MemKey) -> T) -> T {
        let probe = Probe::new(key, trailer);
        // SAFETY: the probe outlives the search. The search could keep a copy of the `MemKey`, but
        // those of this module and its cursor pass it to the list's lookups only, which do not.
        search(&unsafe { MemKey::of_probe(self.hint.prefix(key), &probe) })
    }

    /// The memory the memtable takes; see the module's invariants.
    pub(crate) fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// The number of entries, tombstones included.
    pub(crate) fn entry_count(&self) -> u64 {
        self.counts.entry_count.load(Ordering::Relaxed)
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.entry_count() == 0
    }

    /// The bytes of all user keys.
    pub(crate) fn key_bytes(&self) -> u64 {
        self.counts.key_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of keys and values.
    pub(crate) fn user_bytes(&self) -> u64 {
        self.key_bytes() + self.value_bytes()
    }

    /// The bytes of all values, as the user gave them.
    pub(crate) fn value_bytes(&self) -> u64 {
        self.counts.value_bytes.load(Ordering::Relaxed)
    }

    /// Takes note that an entry was written at `ms`.
    pub(crate) fn note_write_time(&self, ms: u64) {
        widen(&self.counts.write_time_min_ms, &self.counts.write_time_max_ms, ms);
    }

    /// The earliest and the latest time noted, in milliseconds.
    pub(crate) fn write_time_range_ms(&self) -> Option<(u64, u64)> {
        range(&self.counts.write_time_min_ms, &self.counts.write_time_max_ms)
    }

    /// The least and the greatest user key.
    pub(crate) fn key_range(&self) -> Option<(&[u8], &[u8])> {
        let record_at = |place: Place<'_>| place.run.keys()[place.at].map(|key| key.record());
        let first = self.list.front().and_then(record_at)?;
        let last = self.list.back().and_then(record_at)?;
        // SAFETY: the records live in our arena, longer than this borrow of `self`.
        Some(unsafe { (first.key(), last.key()) })
    }

    /// The hint for the memtable that follows this one.
    pub(crate) fn prefix_hint(&self) -> PrefixHint {
        match self.key_range() {
            Some((min, max)) if min != max && self.entry_count() >= HINT_ENTRY_COUNT_MIN => {
                PrefixHint::between(min, max)
            }
            _ => self.hint.clone(),
        }
    }
}

impl fmt::Debug for MemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemTable")
            .field("entry_count", &self.entry_count())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Counts {
    fn new(bytes: u64) -> Self {
        Counts {
            entry_count: AtomicU64::new(0),
            bytes: AtomicU64::new(bytes),
            key_bytes: AtomicU64::new(0),
            value_bytes: AtomicU64::new(0),
            write_time_min_ms: AtomicU64::new(u64::MAX),
            write_time_max_ms: AtomicU64::new(0),
        }
    }

    /// Counts an entry. In the writer's turn.
    #[inline]
    fn add(&self, key: &[u8], value_len: usize, charged_bytes: u64) {
        raise(&self.entry_count, 1);
        raise(&self.bytes, charged_bytes);
        raise(&self.key_bytes, key.len() as u64);
        raise(&self.value_bytes, value_len as u64);
    }
}

/// The part of a key's hash that a leaf keeps. The filter takes the same bits for something else.
#[inline]
fn tag(hash: u64) -> u8 {
    hash as u8
}

/// Adds to a sum that only the writer whose turn it is changes: cheaper than an atomic addition.
#[inline]
fn raise(sum: &AtomicU64, by: u64) {
    sum.store(sum.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// Widens the range from `min` to `max` to hold `value`. Looks first: mostly at most one of the two
/// has to move.
#[inline]
fn widen(min: &AtomicU64, max: &AtomicU64, value: u64) {
    if value < min.load(Ordering::Relaxed) {
        min.fetch_min(value, Ordering::Relaxed);
    }
    if value > max.load(Ordering::Relaxed) {
        max.fetch_max(value, Ordering::Relaxed);
    }
}

/// The range from `min` to `max`, unless nothing has widened it yet.
fn range(min: &AtomicU64, max: &AtomicU64) -> Option<(u64, u64)> {
    let (min, max) = (min.load(Ordering::Relaxed), max.load(Ordering::Relaxed));
    (min <= max).then_some((min, max))
}

/// A value in a memtable, which it keeps alive.
#[derive(Clone)]
pub(crate) struct MemValue {
    bytes: NonNull<[u8]>,
    /// Held for its memory.
    _memtable: Arc<MemTable>,
}

// SAFETY: `bytes` is immutable memory owned by `memtable`, which is itself Send and Sync.
unsafe impl Send for MemValue {}
// SAFETY: as above.
unsafe impl Sync for MemValue {}

impl MemValue {
    /// The value of `record`.
    ///
    /// # Safety
    /// `record` is a record, not a probe, in the arena of `memtable`.
    #[inline]
    unsafe fn new(memtable: Arc<MemTable>, record: Record) -> Self {
        // SAFETY: the record lives as long as its memtable, which we hold here.
        let bytes = NonNull::from(unsafe { record.value() });
        MemValue { bytes, _memtable: memtable }
    }

    /// The part of the value that follows its time of expiry; nothing, if it is shorter.
    pub(crate) fn without_expiry(mut self) -> Self {
        self.bytes = NonNull::from(self.get(EXPIRY_LEN..).unwrap_or_default());
        self
    }
}

impl Deref for MemValue {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes lie in the arena of `memtable`, which never moves or changes them and
        // lives while it is held, that is at least as long as this borrow.
        unsafe { self.bytes.as_ref() }
    }
}

impl fmt::Debug for MemValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemValue").field(&&**self).finish()
    }
}

#[cfg(test)]
mod tests;
