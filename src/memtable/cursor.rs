//! The memtable's cursor: a place in the list of leaves that keeps the memtable alive.
//!
//! The cursor copies the records of a leaf, in order, and walks the copy: a step is the next
//! element of an array, in both directions. At the end of the copy it goes on by key, see "Walks"
//! in [`list`](super::list). So it meets, in order and once, every entry inserted before its last
//! seek; of those inserted later it meets some, and readers tell them by their sequence numbers.
//!
//! Since the records to come are known, they are fetched into the cache ahead of the walk.

#![expect(unsafe_code, reason = "keeps pointers into memory that its Arc owns; see the proofs")]

use std::fmt;
use std::sync::Arc;

use super::leaf::LEAF_LEN;
use super::list::{LeafHandle, Place};
use super::record::{MemKey, Record};
use super::{MemTable, MemValue};
use crate::cursor::Cursor;
use crate::error::Result;
use crate::key::Trailer;

/// How many records ahead of the walk are fetched: about a cache miss's worth of other work.
const PREFETCH_COUNT: usize = 4;

/// A cursor over a memtable.
pub(crate) struct MemCursor {
    /// The entry the cursor stands on; `None` when it stands nowhere.
    record: Option<Record>,
    /// Its place in `run`.
    at: usize,
    /// The records of `leaf` as they were; the first `len` are there.
    run: [Option<Record>; LEAF_LEN],
    len: usize,
    /// Set while `record` is.
    leaf: Option<LeafHandle>,
    memtable: Arc<MemTable>,
}

// SAFETY: what is not Send and Sync by itself is the records. They point into the arena of the
// memtable, which the cursor keeps; they are immutable once published, and shared between threads
// anyway.
unsafe impl Send for MemCursor {}
// SAFETY: as above; `&MemCursor` only reads.
unsafe impl Sync for MemCursor {}

/// Takes the records of `place` into the cursor. A macro, since `place` borrows `$self.memtable`.
macro_rules! stand {
    ($self:ident, $place:expr) => {
        match $place {
            Some(Place { leaf, run, at }) => {
                let keys = run.keys();
                for (record, key) in $self.run.iter_mut().zip(keys) {
                    *record = key.map(|key| key.record());
                }
                ($self.leaf, $self.len, $self.at) = (Some(leaf), keys.len(), at);
                $self.record = $self.run[at];
            }
            None => ($self.leaf, $self.len, $self.record) = (None, 0, None),
        }
    };
}

impl MemCursor {
    pub(super) fn new(memtable: Arc<MemTable>) -> Self {
        MemCursor { record: None, at: 0, run: [None; LEAF_LEN], len: 0, leaf: None, memtable }
    }

    /// The value the cursor stands on, to be kept. Must be valid.
    pub(crate) fn pin_value(&self) -> MemValue {
        // SAFETY: the record is one of `memtable`'s, which the value will hold.
        unsafe { MemValue::new(Arc::clone(&self.memtable), self.standing()) }
    }

    fn standing(&self) -> Record {
        self.record.expect("the cursor stands on an entry")
    }

    /// The entry the cursor stands on, to compare others with.
    fn here(&self) -> MemKey {
        // SAFETY: the record is one of `memtable`'s, which we hold; the key is used within a call.
        unsafe { MemKey::new(self.memtable.hint.prefix(self.key()), self.standing()) }
    }

    fn prefetch(&self, at: usize) {
        if let Some(Some(record)) = self.run[..self.len].get(at) {
            record.prefetch();
        }
    }
}

impl Cursor for MemCursor {
    #[inline]
    fn valid(&self) -> bool {
        self.record.is_some()
    }

    fn seek_to_first(&mut self) -> Result<()> {
        stand!(self, self.memtable.list.front());
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        stand!(self, self.memtable.list.back());
        Ok(())
    }

    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        let memtable = &self.memtable;
        stand!(self, memtable.with_probe(key, trailer, |sought| memtable.list.lower_bound(sought)));
        Ok(())
    }

    fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        let memtable = &self.memtable;
        stand!(self, memtable.with_probe(key, trailer, |sought| memtable.list.upper_bound(sought)));
        Ok(())
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        if self.at + 1 < self.len {
            self.at += 1;
            self.record = self.run[self.at];
            self.prefetch(self.at + PREFETCH_COUNT);
        } else {
            let (here, leaf) = (self.here(), self.leaf.expect("set while the cursor stands"));
            // SAFETY: the leaf is from the list of the memtable, which we hold.
            stand!(self, unsafe { leaf.after(&here) });
            (1..=PREFETCH_COUNT).for_each(|ahead| self.prefetch(self.at + ahead));
        }
        Ok(())
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        if self.len > 0 && self.at > 0 {
            self.at -= 1;
            self.record = self.run[self.at];
            self.prefetch(self.at.wrapping_sub(PREFETCH_COUNT));
        } else {
            let here = self.here();
            stand!(self, self.memtable.list.before(&here));
            (1..=PREFETCH_COUNT).for_each(|ahead| self.prefetch(self.at.wrapping_sub(ahead)));
        }
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
        // SAFETY: as in `key`; the list gives records only, no probes.
        unsafe { self.standing().value() }
    }
}

impl fmt::Debug for MemCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemCursor").field("valid", &self.valid()).finish_non_exhaustive()
    }
}
