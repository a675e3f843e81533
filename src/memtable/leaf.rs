//! A leaf: up to [`LEAF_LEN`] entries of a memtable, side by side.
//!
//! A search of a list that holds one entry a node pays a cache miss for each node it passes. With
//! the entries gathered in leaves the list is an index of leaves, a twentieth as long; the search
//! ends with a scan of one leaf, whose lines lie together.
//!
//! A leaf owns the entries from its low key on, up to the low key of its right neighbour. It has
//! slots; a slot is a prefix, a record, and a tag: 8 bits of the key's hash. New entries go to any
//! free slot, so an insert moves nothing. A lookup of one key follows only the records with its tag
//! ([`Leaf::newest`]); whoever needs the order sorts a copy ([`Leaf::run`]).
//!
//! # Splits
//! To make room, a full leaf gives its upper part to a new leaf on its right. The leaf itself stays
//! in its place with the lower part, so its low key never changes. The split goes through the
//! middle, except that a new entry at one end splits there: keys that come in ascending (or
//! descending) order leave full leaves behind.
//!
//! # Invariants
//! * Entries are never removed from the list. A leaf that has a low key holds that entry: at first
//!   because it was made so, later because a split keeps what is below the middle.
//! * Leaves to the right have greater low keys. Coverage moves to the right only: an entry that a
//!   leaf has ever owned is in it or in a leaf reached by going right.
//! * A slot holds a record of the arena that outlives the leaf, or was never used. So a record from
//!   a slot can be followed, even if the slot has been given to another entry meanwhile.
//!
//! # Concurrency
//! Writers take turns ([`list`](super::list)). Readers take no lock and wait for nobody.
//! `state` holds a bit for each slot in use and a version, which each split raises.
//!
//! *Insert.* A writer fills a free slot and then sets its bit with Release. A reader loads the
//! state with Acquire and looks only at slots whose bits are set, so it sees them filled.
//!
//! *Split.* A writer (1) builds the new leaf, (2) links it at `right` and says so in
//! `right_prefix`, (3) with one store raises the version and clears the bits of the slots whose
//! entries moved, all with Release. Only then may such a slot be filled again, its words with
//! Release too. A reader (a) loads the state, (b) loads `right_prefix` and then `right`, (c) reads
//! slots, (d) after an Acquire fence loads the state again. Same version in (a) and (d): then no
//! word read in (c) comes from a slot filled again, since the filler's Release store would have
//! brought the raised version along, and (d) had seen it. So (c) saw every entry that the leaf
//! owned at (a). Another version: the reader starts over. That happens once a split, never because
//! a writer stands still.
//!
//! *Going right.* If (a) saw bits cleared by 3, then (b) sees the new leaf. If (b) sees the new
//! leaf before 3, then the entries are in both leaves and either answer is right. A `right_prefix`
//! is never newer than the `right` that is loaded after it; an older one is greater and the entries
//! that it keeps here still are here, or (d) fails. A low key never changes, so to go right when
//! the sought key is not below the neighbour's low key is right at any time.

#![expect(unsafe_code, reason = "leaves and records are followed by pointer; see the proofs")]

use std::array;
use std::ptr::{self, NonNull};

use super::record::{MemKey, Record};
use crate::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

/// The slots of a leaf. More make the index shorter and the scan longer.
pub(super) const LEAF_LEN: usize = 32;
/// What a leaf takes of its arena.
pub(super) const LEAF_BYTES: usize = size_of::<Leaf>();

/// In a state: the bits of the slots in use. The rest is the version. It does not come round within
/// a reader's scan: that takes as many splits of one leaf, with an insert each, as there are
/// versions.
const USED: u64 = u32::MAX as u64;
const NEXT_VERSION: u64 = USED + 1;

/// The bits of a slot's number.
const SLOT: u64 = LEAF_LEN as u64 - 1;
const TAGS_PER_WORD: usize = size_of::<u64>();
/// A one in each byte.
const EACH_TAG: u64 = 0x0101_0101_0101_0101;

const _: () = assert!(LEAF_LEN.is_power_of_two());
const _: () = assert!(LEAF_LEN <= u32::BITS as usize && LEAF_LEN.is_multiple_of(TAGS_PER_WORD));

/// See the module text.
#[repr(C)]
pub(super) struct Leaf {
    state: AtomicU64,
    /// The prefix of the right neighbour's low key, so that most readers need not look there; the
    /// greatest prefix if there is no neighbour.
    right_prefix: AtomicU64,
    right: AtomicPtr<Leaf>,
    /// The least key, or `None` for the first leaf, which takes all that is below the others.
    low: Option<MemKey>,
    /// A byte for each slot, the first in the lowest of the first word.
    tags: [AtomicU64; LEAF_LEN / TAGS_PER_WORD],
    prefixes: [AtomicU64; LEAF_LEN],
    records: [AtomicPtr<u8>; LEAF_LEN],
}

/// A leaf's entries in order, as they were at one moment.
pub(super) struct Run<'list> {
    /// The first `len` are there.
    keys: [Option<MemKey>; LEAF_LEN],
    len: usize,
    /// The right neighbour: whatever is missing between this run and its low key was inserted
    /// later.
    pub(super) right: Option<&'list Leaf>,
}

impl Leaf {
    /// Makes an empty leaf at `start`, to be the first of its list.
    ///
    /// # Safety
    /// `start` is aligned for a leaf and good for writing [`LEAF_BYTES`], which nobody else uses,
    /// as long as the leaf and its neighbours live; these die together.
    pub(super) unsafe fn create_first<'list>(start: NonNull<u8>) -> &'list Leaf {
        // SAFETY: passed on to the caller. No neighbour yet.
        unsafe { Leaf::create(start, None, ptr::null_mut(), u64::MAX) }
    }

    /// # Safety
    /// As for `create_first`; and `right` is null or the leaf that will be the neighbour.
    unsafe fn create<'list>(
        start: NonNull<u8>,
        low: Option<MemKey>,
        right: *mut Leaf,
        right_prefix: u64,
    ) -> &'list Leaf {
        let leaf = Leaf {
            state: AtomicU64::new(0),
            right_prefix: AtomicU64::new(right_prefix),
            right: AtomicPtr::new(right),
            low,
            tags: array::from_fn(|_| AtomicU64::new(0)),
            prefixes: array::from_fn(|_| AtomicU64::new(0)),
            records: array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
        };
        let start = start.cast::<Leaf>();
        // SAFETY: the caller vouches for the place and keeps it.
        unsafe {
            start.write(leaf);
            start.as_ref()
        }
    }

    /// The least key, unless this is the first leaf.
    #[inline]
    pub(super) fn low(&self) -> Option<&MemKey> {
        self.low.as_ref()
    }

    /// The right neighbour.
    #[inline]
    pub(super) fn right(&self) -> Option<&Leaf> {
        // SAFETY: null, or a whole leaf: it was stored with Release after it was made. Neighbours
        // live as long as this leaf (`create_first`).
        unsafe { self.right.load(Ordering::Acquire).as_ref() }
    }

    /// The right neighbour, if `key` is not below its low key.
    #[inline]
    pub(super) fn right_holding(&self, key: &MemKey) -> Option<&Leaf> {
        if key.prefix() < self.right_prefix.load(Ordering::Acquire) {
            return None;
        }
        self.right().filter(|right| right.low.is_some_and(|low| low <= *key))
    }

    /// The first entry at or after `sought`, a key with a trailer, if it has that key, whose tag is
    /// `tag`. The error is the leaf to ask instead; `sought` must not be below the low key.
    #[inline]
    pub(super) fn newest(&self, sought: &MemKey, tag: u8) -> Result<Option<Record>, &Leaf> {
        let state = self.state.load(Ordering::Acquire);
        between_steps(Step::Read);
        let mut next = None;
        if sought.prefix() >= self.right_prefix.load(Ordering::Acquire)
            && let Some(right) = self.right()
            && let Some(low) = right.low
        {
            if low <= *sought {
                return Err(right);
            }
            next = Some(low);
        }
        between_steps(Step::Read);
        let mut newest: Option<MemKey> = None;
        let mut tagged = self.slots_with_tag(tag) & used(state);
        while tagged != 0 {
            let key = self.key_at(tagged.trailing_zeros() as usize);
            if key.is_version_of(sought) && newest.is_none_or(|newest| key < newest) {
                newest = Some(key);
            }
            tagged &= tagged - 1;
        }
        if !self.has_version_of(state) {
            return Err(self);
        }
        // The versions in this leaf may all be too new.
        let newest = newest.or_else(|| next.filter(|next| next.is_version_of(sought)));
        Ok(newest.map(|key| key.record()))
    }

    /// The slots with the tag `tag`, in use or not; and few others.
    #[inline]
    fn slots_with_tag(&self, tag: u8) -> u32 {
        let sought = EACH_TAG * u64::from(tag);
        self.tags.iter().enumerate().fold(0, |slots, (at, tags)| {
            let differing = tags.load(Ordering::Relaxed) ^ sought;
            // The top bit of each byte that is zero, and of some bytes above such a one.
            let equal = differing.wrapping_sub(EACH_TAG) & !differing & (EACH_TAG << 7);
            // Gathers these bits in the highest byte, in order.
            let bits = ((equal >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
            slots | bits << (at * TAGS_PER_WORD)
        })
    }

    #[inline]
    fn tag_at(&self, slot: usize) -> u8 {
        let tags = self.tags[slot / TAGS_PER_WORD].load(Ordering::Relaxed);
        tags.to_le_bytes()[slot % TAGS_PER_WORD]
    }

    /// The entry in a slot that was in use when the caller loaded the state.
    #[inline]
    fn key_at(&self, slot: usize) -> MemKey {
        let prefix = self.prefixes[slot].load(Ordering::Relaxed);
        let record = self.records[slot].load(Ordering::Acquire);
        // SAFETY: the slot was filled with a record's pointer before its bit was set, and if it was
        // filled again, with another's: whole records both, by Release and Acquire on the word
        // itself. The arena keeps records as long as there are leaves. The prefix may belong to
        // another record, but then the version has changed and the caller throws this away.
        unsafe { MemKey::new(prefix, Record::from_ptr(record)) }
    }

    /// Whether no split has come between the load of `state` and the loads before this call.
    #[inline]
    fn has_version_of(&self, state: u64) -> bool {
        between_steps(Step::Read);
        fence(Ordering::Acquire);
        self.state.load(Ordering::Relaxed) & !USED == state & !USED
    }

    /// The entries in order.
    pub(super) fn run(&self) -> Run<'_> {
        loop {
            let state = self.state.load(Ordering::Acquire);
            between_steps(Step::Read);
            let right = self.right();
            between_steps(Step::Read);
            // The prefix of each entry, with its slot instead of the low bits: one word is quicker
            // to sort than two.
            let mut order = [0u64; LEAF_LEN];
            let mut len = 0;
            let mut slots = used(state);
            while slots != 0 {
                let slot = slots.trailing_zeros() as usize;
                order[len] = self.prefixes[slot].load(Ordering::Relaxed) & !SLOT | slot as u64;
                len += 1;
                slots &= slots - 1;
            }
            let order = &mut order[..len];
            order.sort_unstable();
            between_steps(Step::Read);
            let mut keys = [None; LEAF_LEN];
            for (key, prefix_slot) in keys.iter_mut().zip(&*order) {
                *key = Some(self.key_at((prefix_slot & SLOT) as usize));
            }
            if !self.has_version_of(state) {
                continue;
            }
            let mut run = Run { keys, len, right };
            if !order.is_sorted_by(|a, b| a | SLOT < *b) {
                run.sort_ties();
            }
            return run;
        }
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        used(self.state.load(Ordering::Acquire)).count_ones() as usize
    }

    /// Adds an entry that the leaf owns and has a free slot for. In the writer's turn.
    #[inline]
    pub(super) fn add(&self, key: MemKey, tag: u8) {
        let state = self.state.load(Ordering::Relaxed);
        let slot = used(state).trailing_ones() as usize;
        let tags = &self.tags[slot / TAGS_PER_WORD];
        let mut tag_bytes = tags.load(Ordering::Relaxed).to_le_bytes();
        tag_bytes[slot % TAGS_PER_WORD] = tag;
        // Release: see "Split" in the module text.
        tags.store(u64::from_le_bytes(tag_bytes), Ordering::Release);
        self.prefixes[slot].store(key.prefix(), Ordering::Release);
        self.records[slot].store(key.record().as_ptr(), Ordering::Release);
        self.state.store(state | 1 << slot, Ordering::Release);
    }

    /// Splits the leaf to make room for `key`, which it owns, and adds that. Gives the new leaf,
    /// made at `start`. In the writer's turn.
    ///
    /// # Safety
    /// As for `create_first`, about `start`.
    pub(super) unsafe fn split(&self, key: MemKey, tag: u8, start: NonNull<u8>) -> &Leaf {
        let run = self.run();
        let at = run.position(|other| *other < key);
        // The low key, at 0, must stay; so an entry after that is the least there can be, but in
        // the first leaf.
        let kept = if at <= 1 || at == run.len { at } else { run.len / 2 };
        let goes_right = at > kept || kept == run.len;
        let low = run.keys[kept..run.len].first().copied().flatten().unwrap_or(key);
        let (right, right_prefix) = (&self.right, &self.right_prefix);
        let relaxed = Ordering::Relaxed;
        // SAFETY: the caller vouches for `start`; our neighbour becomes that of the new leaf.
        let new = unsafe {
            Leaf::create(start, Some(low), right.load(relaxed), right_prefix.load(relaxed))
        };
        let state = self.state.load(relaxed);
        let mut kept_state = (state & !USED).wrapping_add(NEXT_VERSION);
        for slot in (0..LEAF_LEN).filter(|slot| used(state) >> slot & 1 == 1) {
            let other = self.key_at(slot);
            if other < low {
                kept_state |= 1 << slot;
            } else {
                new.add(other, self.tag_at(slot));
            }
        }
        if goes_right {
            new.add(key, tag);
        }
        right.store(ptr::from_ref(new).cast_mut(), Ordering::Release);
        between_steps(Step::Write);
        right_prefix.store(low.prefix(), Ordering::Release);
        between_steps(Step::Write);
        self.state.store(kept_state, Ordering::Release);
        between_steps(Step::Write);
        if !goes_right {
            self.add(key, tag);
        }
        new
    }
}

/// Marks a point between two steps of the protocol, where tests let others act.
#[inline]
fn between_steps(of: Step) {
    #[cfg(test)]
    interleave::act(of);
    #[cfg(not(test))]
    let _ = of;
}

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read,
    Write,
}

#[inline]
fn used(state: u64) -> u32 {
    (state & USED) as u32
}

impl Run<'_> {
    /// Sorts stretches whose prefixes differ in the low bits only, or not at all.
    #[cold]
    fn sort_ties(&mut self) {
        let rank = |key: &Option<MemKey>| key.as_ref().map(|key| key.prefix() | SLOT);
        for stretch in self.keys[..self.len].chunk_by_mut(|a, b| rank(a) == rank(b)) {
            // To wait for all records at once instead of one after the other.
            stretch.iter().flatten().for_each(|key| key.record().prefetch());
            stretch.sort_unstable();
        }
    }

    /// The entries.
    #[inline]
    pub(super) fn keys(&self) -> &[Option<MemKey>] {
        &self.keys[..self.len]
    }

    /// The number of entries for which `is_before` holds; it holds for the first ones only.
    #[inline]
    pub(super) fn position(&self, is_before: impl Fn(&MemKey) -> bool) -> usize {
        // Mostly a walk asks, and goes on with the first entry.
        if !self.keys().first().copied().flatten().is_some_and(|first| is_before(&first)) {
            return 0;
        }
        self.keys().partition_point(|key| key.is_some_and(|key| is_before(&key)))
    }
}

/// Lets a test act between the steps of a reader or a writer, on the same thread: interleavings
/// that threads would meet once in a million runs, each time.
#[cfg(test)]
pub(super) mod interleave {
    use std::cell::RefCell;

    use super::Step;

    type Action = Box<dyn FnMut(Step)>;

    thread_local! {
        static ACTION: RefCell<Option<Action>> = const { RefCell::new(None) };
    }

    /// Sets what happens between steps, or nothing.
    pub(in super::super) fn set(action: Option<Action>) {
        ACTION.set(action);
    }

    /// Acts; what happens between the steps of the action itself is nothing.
    pub(super) fn act(of: Step) {
        if let Some(mut action) = ACTION.take() {
            action(of);
            ACTION.set(Some(action));
        }
    }
}
