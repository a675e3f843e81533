//! The memtable: the newest entries of a keyspace, in memory and in order.
//!
//! A memtable only grows. Entries are packed into an arena ([`arena`], [`record`]); a lock-free
//! skiplist holds a 16-byte handle of each: a 64-bit prefix of the key ([`prefix`]) that settles
//! most comparisons without a cache miss, and a pointer to the record. A bloom filter ([`filter`])
//! answers most lookups of absent keys.
//!
//! # Invariants
//! * A key and trailer are inserted once: a sequence number is given to one write only.
//! * Nothing is removed or changed. A record, a node and a filter bit last as long as the memtable.
//! * `bytes` is the exact sum of what was charged: filter, arena bytes used up, and [`NODE_BYTES`]
//!   an entry.
//!
//! # Concurrency
//! Any thread may insert and read at any time; there is no lock on either path (the arena locks to
//! add a chunk).
//!
//! # Publication
//! Why a reader misses no entry it must see. A writer (1) writes the record, (2) sets the filter
//! bits, (3) links the node; then the database (4) raises the visible sequence number with Release.
//! A reader loads that number with Acquire and looks for entries up to it, so all of 1 to 3 happens
//! before its lookup. Relaxed loads of the filter words then see the bits (a load does not see a
//! value older than one that happens before it, and bits are never cleared), and the search of the
//! list meets the node. A reader that is not ordered after 4 may miss the entry, or find it: the
//! list links a node with a sequentially consistent exchange and readers load with consume, so
//! whoever reaches a node sees its record whole.
//!
//! # The epoch guard
//! The skiplist asks for an epoch guard, to know when a removed node may be freed. We remove
//! nothing, see [`unprotected`].

#![expect(unsafe_code, reason = "records are read by raw pointer; each block has its proof")]

pub(crate) mod arena;
pub(crate) mod cursor;
mod filter;
pub(crate) mod prefix;
mod record;

use std::fmt;
use std::ops::{Bound, Deref};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_epoch::Guard;
use crossbeam_skiplist::SkipList;
use crossbeam_skiplist::base::Entry;

use self::arena::Arena;
use self::cursor::MemCursor;
use self::filter::MemFilter;
use self::prefix::PrefixHint;
use self::record::{MemKey, Probe, Record, record_len};
use crate::key::Trailer;

/// What a node of the skiplist takes of the heap: 24 bytes and 8 for each level, of which there are
/// 2 on average, in malloc's 16-byte steps; the expectation is 53.3.
const NODE_BYTES: u64 = 54;

/// With fewer entries than this the extremes say too little about the keys to come.
const HINT_ENTRY_COUNT_MIN: u64 = 16;

/// The entries in order. Values live in the records.
type EntryList = SkipList<MemKey, ()>;
type ListEntry<'list> = Entry<'list, 'list, MemKey, ()>;

/// The newest entries of a keyspace.
pub(crate) struct MemTable {
    // The list stands before the arena, so that it is dropped first: its keys point into the arena.
    list: EntryList,
    arena: Arena,
    filter: MemFilter,
    hint: PrefixHint,
    counts: Counts,
}

/// Sums over the entries, each exact once the inserts that it counts have returned. Relaxed
/// throughout: they order nothing. On a cache line of their own, away from what readers look at.
#[repr(align(64))]
struct Counts {
    bytes: AtomicU64,
    key_bytes: AtomicU64,
    value_bytes: AtomicU64,
    write_time_min_ms: AtomicU64,
    write_time_max_ms: AtomicU64,
}

/// The guard for all work on the skiplist.
fn unprotected() -> &'static Guard {
    // SAFETY: `unprotected` asks that nothing it gives access to be freed meanwhile. The skiplist
    // frees a node, or defers that to the guard, only after the node was marked as removed. Nodes
    // are marked by `remove`, `pop_*`, `clear` and the replacing `insert`, none of which this
    // module calls; `get_or_insert` replaces nothing. A node that loses a race for its place in
    // `get_or_insert` is freed before anyone else has seen it. So nodes are freed by the list's
    // `drop` alone, which has the list to itself.
    unsafe { crossbeam_epoch::unprotected() }
}

impl MemTable {
    /// An empty memtable that is meant to take `capacity_bytes`. The `hint` is that of the memtable
    /// before.
    pub(crate) fn new(capacity_bytes: u64, hint: Option<&PrefixHint>) -> Arc<Self> {
        let filter = MemFilter::new(capacity_bytes);
        Arc::new(MemTable {
            list: SkipList::new(crossbeam_epoch::default_collector().clone()),
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
        self.counts.add(key, value, piece.charged_bytes as u64 + NODE_BYTES);
        // Before the entry can be reached: see "Publication" in the module text.
        self.filter.insert(hash);
        // SAFETY: the arena keeps the record until it is dropped, after the list (field order).
        let mem_key = unsafe { MemKey::new(self.hint.prefix(key), record) };
        let entry = self.list.get_or_insert(mem_key, (), unprotected());
        // The entry is a reference count that only removal looks at; there is none, so it need not
        // be given back.
        debug_assert_eq!(entry.key().record(), record, "the entry {trailer:?} is there already");
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
        let entry = self.with_probe(key, bound, |sought| {
            self.list.lower_bound(Bound::Included(sought), unprotected())
        })?;
        let record = entry.key().record();
        // SAFETY: the record lives in our arena, longer than this borrow of `self`.
        if unsafe { record.key() } != key {
            return None;
        }
        // SAFETY: as above, and the value will hold this memtable.
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
        // this module's searches pass it to the list's bounds only, which do not.
        search(&unsafe { MemKey::of_probe(self.hint.prefix(key), &probe) })
    }

    /// The memory the memtable takes; see the module's invariants.
    pub(crate) fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// The number of entries, tombstones included.
    pub(crate) fn entry_count(&self) -> u64 {
        self.list.len() as u64
    }

    /// Whether there is no entry.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The bytes of all user keys.
    pub(crate) fn key_bytes(&self) -> u64 {
        self.counts.key_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of keys and values.
    pub(crate) fn user_bytes(&self) -> u64 {
        self.key_bytes() + self.value_bytes()
    }

    /// The bytes of all values.
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
        let first = self.list.front(unprotected())?.key().record();
        let last = self.list.back(unprotected())?.key().record();
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
            bytes: AtomicU64::new(bytes),
            key_bytes: AtomicU64::new(0),
            value_bytes: AtomicU64::new(0),
            write_time_min_ms: AtomicU64::new(u64::MAX),
            write_time_max_ms: AtomicU64::new(0),
        }
    }

    #[inline]
    fn add(&self, key: &[u8], value: &[u8], charged_bytes: u64) {
        self.bytes.fetch_add(charged_bytes, Ordering::Relaxed);
        self.key_bytes.fetch_add(key.len() as u64, Ordering::Relaxed);
        self.value_bytes.fetch_add(value.len() as u64, Ordering::Relaxed);
    }
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
    /// Never read: it keeps the bytes alive.
    _memtable: Arc<MemTable>,
}

// SAFETY: `bytes` is immutable memory owned by `_memtable`, which is itself Send and Sync.
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
}

impl Deref for MemValue {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes lie in the arena of `_memtable`, which never moves or changes them and
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
