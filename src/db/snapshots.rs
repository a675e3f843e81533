//! The list of live snapshots.
//!
//! A snapshot is a sequence number that compaction must keep readable. The list is locked when one is made or dropped
//! and once per flush or compaction, never by a read.
//!
//! # Invariant
//! A snapshot is registered under the same lock under which compaction copies the list together with the visible
//! sequence number, so that every snapshot made later is at least as new as that number.

use std::collections::BTreeMap;

use crate::key::SequenceNumber;
use crate::sync::Mutex;

/// A live snapshot.
#[derive(Clone, Copy, Debug)]
struct Live {
    handle_count: usize,
    /// When its first handle was made.
    since_ns: u64,
}

/// The live snapshots.
#[derive(Debug, Default)]
pub(crate) struct SnapshotList {
    live: Mutex<BTreeMap<SequenceNumber, Live>>,
}

impl SnapshotList {
    /// Registers a snapshot of what `visible` says now, at `now_ns`, and returns its sequence number.
    pub(crate) fn acquire(
        &self,
        now_ns: u64,
        visible: impl FnOnce() -> SequenceNumber,
    ) -> SequenceNumber {
        let mut live = self.live.lock();
        let sequence = visible();
        let snapshot = live.entry(sequence).or_insert(Live { handle_count: 0, since_ns: now_ns });
        snapshot.handle_count += 1;
        sequence
    }

    /// Ends one handle of the snapshot at `sequence`. Returns whether it was the last one, and the
    /// snapshot the oldest: compaction may drop more from now on.
    pub(crate) fn release(&self, sequence: SequenceNumber) -> bool {
        let mut live = self.live.lock();
        let snapshot = live.get_mut(&sequence).expect("a released snapshot was acquired");
        snapshot.handle_count -= 1;
        if snapshot.handle_count > 0 {
            return false;
        }
        live.remove(&sequence);
        live.keys().next().is_none_or(|oldest| sequence < *oldest)
    }

    /// All live snapshots and the visible sequence number last, ascending, without duplicates: the list that
    /// retention takes once per job.
    pub(crate) fn with_visible(
        &self,
        visible: impl FnOnce() -> SequenceNumber,
    ) -> Vec<SequenceNumber> {
        let live = self.live.lock();
        let visible = visible();
        let mut list: Vec<_> = live.keys().copied().collect();
        if list.last() != Some(&visible) {
            list.push(visible);
        }
        list
    }

    /// The newest live snapshot.
    pub(crate) fn newest(&self) -> Option<SequenceNumber> {
        self.live.lock().keys().next_back().copied()
    }

    /// The number of distinct snapshots, and the oldest.
    pub(crate) fn summary(&self) -> (usize, Option<SequenceNumber>) {
        let live = self.live.lock();
        (live.len(), live.keys().next().copied())
    }

    /// When the oldest snapshot was made.
    pub(crate) fn oldest_since_ns(&self) -> Option<u64> {
        self.live.lock().values().next().map(|snapshot| snapshot.since_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ascending_and_end_with_the_visible_sequence() {
        let list = SnapshotList::default();
        for sequence in [7, 3, 7] {
            list.acquire(10 * sequence, || SequenceNumber(sequence));
        }
        let with = |visible| {
            list.with_visible(|| SequenceNumber(visible)).iter().map(|s| s.0).collect::<Vec<_>>()
        };
        assert_eq!(with(9), [3, 7, 9]);
        assert_eq!(list.newest(), Some(SequenceNumber(7)));
        assert_eq!(with(7), [3, 7]);
        assert!(!list.release(SequenceNumber(7)));
        assert!(!list.release(SequenceNumber(7)), "not the oldest");
        assert_eq!(list.summary(), (1, Some(SequenceNumber(3))));
        assert_eq!(list.oldest_since_ns(), Some(30));
        assert!(list.release(SequenceNumber(3)));
    }
}
