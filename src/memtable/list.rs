//! The list of leaves: all entries of a memtable, in order.
//!
//! A skiplist finds the leaf that owns a key: it holds the low key of every leaf but the first. The
//! leaves are linked from left to right ([`leaf`](super::leaf)), so the skiplist may lag behind: a
//! search that ends too far left goes on to the right. Leaves have an arena of their own, so that
//! they lie close together.
//!
//! # Concurrency
//! Any thread may insert and read. Writers take turns by a lock, which they hold only to fill a
//! slot or to split a leaf; the search, which waits for memory, comes before. Readers never take
//! it.
//!
//! # Walks
//! [`LeafHandle::after`] and [`LeafList::before`] move by key, never by place. Why a walk misses no
//! entry inserted before it began, and meets none twice, whatever splits come between: forward, a
//! run holds every such entry from its leaf's low key up to the low key of the neighbour loaded
//! with it, or of any neighbour of that leaf loaded later, since such a one is nearer. The walk
//! goes on in that neighbour, and takes up only what is after the last key it gave. Backward, the
//! walk asks the skiplist anew for the leaf that owns what is just before its key, and takes the
//! last entry of its run below that; a leaf's low key is in its run, so only the first leaf can
//! have none. Entries inserted meanwhile are met or not.
//!
//! # The epoch guard
//! The skiplist asks for an epoch guard, to know when a removed node may be freed. We remove
//! nothing, see [`unprotected`].

#![expect(unsafe_code, reason = "leaves are followed by pointer; each block has its proof")]

use std::ops::Bound;
use std::ptr::{self, NonNull};

use crossbeam_epoch::Guard;
use crossbeam_skiplist::SkipList;

use super::arena::Arena;
use super::leaf::{LEAF_BYTES, LEAF_LEN, Leaf, Run};
use super::record::{MemKey, Record};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicPtr, Ordering};

/// What a node of the skiplist takes of the heap: 32 bytes and 8 for each level, of which there are
/// 2 on average, in malloc's 16-byte steps; the expectation is 58.7.
pub(super) const NODE_BYTES: usize = 59;

/// A leaf, by pointer.
///
/// # Invariant
/// It was made for the list that it is kept in or was given by.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeafHandle(NonNull<Leaf>);

// SAFETY: a leaf may be used by any thread: it is atomics and an immutable key.
unsafe impl Send for LeafHandle {}
// SAFETY: as above.
unsafe impl Sync for LeafHandle {}

/// See the module text.
pub(super) struct LeafList {
    /// The leaves but the first, by low key.
    index: SkipList<MemKey, LeafHandle>,
    arena: Arena,
    /// Null before the first insert.
    first: AtomicPtr<Leaf>,
    /// A leaf with so many entries is full.
    fill: usize,
    turn: Turn,
    #[cfg(esker_loom)]
    index_order: AtomicPtr<()>,
}

/// What writers write, away from what readers look at.
#[repr(align(64))]
struct Turn {
    lock: Mutex<()>,
    /// The leaf of the last insert: the next one may be near. Null before the first.
    finger: AtomicPtr<Leaf>,
}

/// Where a walk stands: on the entry `at` of a run.
pub(super) struct Place<'list> {
    pub(super) leaf: LeafHandle,
    pub(super) run: Run<'list>,
    pub(super) at: usize,
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

impl LeafHandle {
    fn of(leaf: &Leaf) -> Self {
        LeafHandle(NonNull::from(leaf))
    }

    /// # Safety
    /// The leaf's list lives for all of `'list`.
    #[inline]
    unsafe fn leaf<'list>(self) -> &'list Leaf {
        // SAFETY: the list, kept by the caller, owns the arena that the leaf lies in.
        unsafe { self.0.as_ref() }
    }

    /// The first entry after `last`, the last of a run of this leaf.
    ///
    /// # Safety
    /// The leaf's list lives for all of `'list`.
    pub(super) unsafe fn after<'list>(self, last: &MemKey) -> Option<Place<'list>> {
        // SAFETY: passed on to the caller.
        first_from(unsafe { self.leaf() }.right()?, |key| key <= last)
    }
}

impl LeafList {
    /// An empty list, whose leaves are full with `fill` entries, 3 at the least.
    pub(super) fn new(fill: usize) -> Self {
        assert!((3..=LEAF_LEN).contains(&fill), "a split leaves room on both sides");
        LeafList {
            index: SkipList::new(crossbeam_epoch::default_collector().clone()),
            arena: Arena::new(),
            first: AtomicPtr::new(ptr::null_mut()),
            fill,
            turn: Turn { lock: Mutex::new(()), finger: AtomicPtr::new(ptr::null_mut()) },
            #[cfg(esker_loom)]
            index_order: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Adds an entry that is not there yet, `tag` being that of its user key. While it is this
    /// writer's turn, tells `count` the bytes that the list has grown by.
    #[inline]
    pub(super) fn insert(&self, key: MemKey, tag: u8, count: impl FnOnce(u64)) {
        let near = self.finger_holding(&key).or_else(|| self.leaf_holding(&key));
        let turn = self.turn.lock.lock();
        let mut grown_bytes = 0;
        let mut leaf = near.unwrap_or_else(|| self.first_or_create(&mut grown_bytes));
        // What others have split since we looked.
        while let Some(right) = leaf.right_holding(&key) {
            leaf = right;
        }
        debug_assert!(
            !leaf.run().keys().contains(&Some(key)),
            "the entry {key:?} is there already"
        );
        if leaf.len() < self.fill {
            leaf.add(key, tag);
            self.turn.finger.store(ptr::from_ref(leaf).cast_mut(), Ordering::Release);
            count(grown_bytes);
            return;
        }
        let start = self.allocate_leaf(&mut grown_bytes);
        // SAFETY: the place is fresh and aligned, and goes when the list goes, as all leaves do.
        let new = unsafe { leaf.split(key, tag, start) };
        let low = *new.low().expect("a leaf made by a split has a low key");
        let finger = if low <= key { new } else { leaf };
        self.turn.finger.store(ptr::from_ref(finger).cast_mut(), Ordering::Release);
        count(grown_bytes + NODE_BYTES as u64);
        drop(turn);
        self.order_index();
        // The reference count in the entry that we get is looked at only by removal; there is none,
        // so it need not be given back.
        self.index.get_or_insert(low, LeafHandle::of(new), unprotected());
    }

    /// The leaf of the last insert, if it owns `key`.
    #[inline]
    fn finger_holding(&self, key: &MemKey) -> Option<&Leaf> {
        // SAFETY: null or one of our leaves, which live as long as we do; Acquire, since the leaf
        // may be new.
        let finger = unsafe { self.turn.finger.load(Ordering::Acquire).as_ref() };
        finger.filter(|leaf| {
            leaf.low().is_none_or(|low| low <= key) && leaf.right_holding(key).is_none()
        })
    }

    fn first(&self) -> Option<&Leaf> {
        // SAFETY: as in `finger_holding`.
        unsafe { self.first.load(Ordering::Acquire).as_ref() }
    }

    #[cold]
    fn first_or_create(&self, grown_bytes: &mut u64) -> &Leaf {
        self.first().unwrap_or_else(|| {
            let start = self.allocate_leaf(grown_bytes);
            // SAFETY: the place is fresh and aligned, and goes when the list goes.
            let leaf = unsafe { Leaf::create_first(start) };
            self.first.store(ptr::from_ref(leaf).cast_mut(), Ordering::Release);
            leaf
        })
    }

    fn allocate_leaf(&self, grown_bytes: &mut u64) -> NonNull<u8> {
        let piece = self.arena.allocate(LEAF_BYTES);
        *grown_bytes += piece.charged_bytes as u64;
        // This arena is asked for leaves only, so all its pieces are aligned as the first.
        debug_assert!(piece.start.cast::<Leaf>().is_aligned());
        piece.start
    }

    /// Says to `loom`, which does not see into the skiplist, what its Release and Acquire order: who finds a leaf there
    /// sees it whole. Called before an insert and after a search.
    #[inline]
    #[cfg_attr(not(esker_loom), expect(clippy::unused_self, reason = "only loom has to be told"))]
    fn order_index(&self) {
        #[cfg(esker_loom)]
        self.index_order.swap(ptr::null_mut(), Ordering::AcqRel);
    }

    /// A leaf that owns the last key within `bound`, or did before a split.
    #[inline]
    fn leaf_below(&self, bound: Bound<&MemKey>) -> Option<&Leaf> {
        let entry = self.index.upper_bound(bound, unprotected());
        self.order_index();
        match entry {
            // SAFETY: our handle.
            Some(entry) => Some(unsafe { entry.value().leaf() }),
            None => self.first(),
        }
    }

    /// A leaf that owns `key`, or did a moment ago.
    #[inline]
    fn leaf_holding(&self, key: &MemKey) -> Option<&Leaf> {
        let mut leaf = self.leaf_below(Bound::Included(key))?;
        while let Some(right) = leaf.right_holding(key) {
            leaf = right;
        }
        Some(leaf)
    }

    /// The first entry at or after `sought`, a key with a trailer, if it has that key, whose tag is
    /// `tag`.
    #[inline]
    pub(super) fn newest(&self, sought: &MemKey, tag: u8) -> Option<Record> {
        let mut leaf = self.leaf_below(Bound::Included(sought))?;
        loop {
            match leaf.newest(sought, tag) {
                Ok(found) => return found,
                Err(other) => leaf = other,
            }
        }
    }

    /// The first entry.
    pub(super) fn front(&self) -> Option<Place<'_>> {
        first_from(self.first()?, |_| false)
    }

    /// The last entry.
    pub(super) fn back(&self) -> Option<Place<'_>> {
        let last = self.index.back(unprotected());
        self.order_index();
        // SAFETY: our handle.
        let leaf = last.map(|entry| unsafe { entry.value().leaf() });
        last_from(leaf.or_else(|| self.first())?, |_| true)
    }

    /// The first entry at or after `sought`.
    pub(super) fn lower_bound(&self, sought: &MemKey) -> Option<Place<'_>> {
        first_from(self.leaf_holding(sought)?, |key| key < sought)
    }

    /// The last entry at or before `sought`.
    pub(super) fn upper_bound(&self, sought: &MemKey) -> Option<Place<'_>> {
        last_from(self.leaf_below(Bound::Included(sought))?, |key| key <= sought)
    }

    /// The last entry before `first`.
    pub(super) fn before(&self, first: &MemKey) -> Option<Place<'_>> {
        last_from(self.leaf_below(Bound::Excluded(first))?, |key| key < first)
    }

    /// The number of leaves.
    #[cfg(test)]
    pub(super) fn leaf_count(&self) -> usize {
        std::iter::successors(self.first(), |leaf| leaf.right()).count()
    }

    /// The bytes that the leaves and the skiplist take.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.arena.handed_out_bytes() + self.index.len() * NODE_BYTES
    }
}

/// The first entry from `leaf` on for which `is_before` does not hold.
#[inline]
fn first_from(mut leaf: &Leaf, is_before: impl Fn(&MemKey) -> bool) -> Option<Place<'_>> {
    loop {
        let run = leaf.run();
        let at = run.position(&is_before);
        if at < run.keys().len() {
            return Some(Place { leaf: LeafHandle::of(leaf), run, at });
        }
        leaf = run.right?;
    }
}

/// The last entry from `leaf` on for which `is_before` holds; it holds for the low key of `leaf`.
#[inline]
fn last_from(mut leaf: &Leaf, is_before: impl Fn(&MemKey) -> bool) -> Option<Place<'_>> {
    let starts_before = |leaf: &&Leaf| leaf.low().is_some_and(&is_before);
    loop {
        while let Some(right) = leaf.right().filter(starts_before) {
            leaf = right;
        }
        let run = leaf.run();
        // The run is whole only up to the neighbour loaded with it.
        if let Some(right) = run.right.filter(starts_before) {
            leaf = right;
            continue;
        }
        let at = run.position(&is_before).checked_sub(1)?;
        return Some(Place { leaf: LeafHandle::of(leaf), run, at });
    }
}
