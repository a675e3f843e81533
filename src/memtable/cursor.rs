//! The memtable's cursor: a place in the skiplist that keeps the memtable alive.
//!
//! The place is the skiplist's own entry handle, so a step forward follows one pointer. A step
//! backward is a search from the top: the list is linked one way only. Entries inserted while the
//! cursor stands are met if they come after it; readers tell them by their sequence numbers.

#![expect(unsafe_code, reason = "keeps references into memory that its Arc owns; see the proofs")]

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Bound;
use std::ptr;
use std::sync::Arc;

use super::record::{MemKey, Record};
use super::{EntryList, ListEntry, MemTable, MemValue, unprotected};
use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::Trailer;

/// A cursor over a memtable.
pub(crate) struct MemCursor {
    /// The entry the cursor stands on; initialised while `record` is set. The references in it are
    /// `'static` only by decree: they are good while `memtable` is held. `MaybeUninit` keeps the
    /// compiler from assuming that they are good also at the moment when this struct is taken apart
    /// and the memtable goes first.
    place: MaybeUninit<ListEntry<'static>>,
    /// The record of that entry; `None` when the cursor stands nowhere.
    record: Option<Record>,
    memtable: Arc<MemTable>,
}

// SAFETY: the parts that are not Send and Sync by themselves: `record` points into the arena of the
// memtable, which is immutable once published and shared between threads anyway; `place` holds
// references to the list and a node of it, both Sync, and to the unprotected guard, a static that
// `crossbeam_epoch` shares between all threads.
unsafe impl Send for MemCursor {}
// SAFETY: as above; `&MemCursor` only reads.
unsafe impl Sync for MemCursor {}

impl MemCursor {
    pub(super) fn new(memtable: Arc<MemTable>) -> Self {
        MemCursor { place: MaybeUninit::uninit(), record: None, memtable }
    }

    /// The value the cursor stands on, to be kept. Must be valid.
    pub(crate) fn pin_value(&self) -> MemValue {
        // SAFETY: the record is one of `memtable`'s, which the value will hold.
        unsafe { MemValue::new(Arc::clone(&self.memtable), self.standing()) }
    }

    /// The memtable's list, for as long as the cursor lives.
    fn list(&self) -> &'static EntryList {
        // SAFETY: the list stays in its place, behind the `Arc`, while `memtable` is held; the
        // cursor holds it as long as it lives and lets what it gets from the list out only for the
        // time of a borrow of itself.
        unsafe { &*ptr::from_ref(&self.memtable.list) }
    }

    fn stand(&mut self, entry: Option<ListEntry<'static>>) {
        self.record = entry.as_ref().map(|entry| entry.key().record());
        if let Some(entry) = entry {
            self.place.write(entry);
        }
    }

    fn standing(&self) -> Record {
        self.record.expect("the cursor stands on an entry")
    }

    fn place(&self) -> &ListEntry<'static> {
        assert!(self.record.is_some(), "the cursor stands on an entry");
        // SAFETY: `stand` wrote the place when it set `record`, and the memtable is still held.
        unsafe { self.place.assume_init_ref() }
    }
}

impl Cursor for MemCursor {
    #[inline]
    fn valid(&self) -> bool {
        self.record.is_some()
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.stand(self.list().front(unprotected()));
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.stand(self.list().back(unprotected()));
        Ok(())
    }

    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        let list = self.list();
        let entry = self.memtable.with_probe(key, trailer, |sought: &MemKey| {
            list.lower_bound(Bound::Included(sought), unprotected())
        });
        self.stand(entry);
        Ok(())
    }

    fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        let list = self.list();
        let entry = self.memtable.with_probe(key, trailer, |sought: &MemKey| {
            list.upper_bound(Bound::Included(sought), unprotected())
        });
        self.stand(entry);
        Ok(())
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        self.stand(self.place().next());
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.stand(self.place().prev());
        Ok(())
    }

    #[inline]
    fn key(&self) -> &[u8] {
        // SAFETY: the record lives in the arena of the memtable that we hold while `self` is
        // borrowed.
        unsafe { self.standing().key() }
    }

    #[inline]
    fn trailer(&self) -> Trailer {
        // SAFETY: as in `key`.
        unsafe { self.standing().trailer() }
    }

    #[inline]
    fn value(&self) -> &[u8] {
        // SAFETY: as in `key`; the list holds records only, no probes.
        unsafe { self.standing().value() }
    }
}

impl fmt::Debug for MemCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemCursor").field("valid", &self.valid()).finish_non_exhaustive()
    }
}
