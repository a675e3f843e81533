//! Retention: which versions of a key survive a merge.
//!
//! [`Retention`] is a pure state machine. It is fed the entries of a merge in order (key ascending,
//! newest first) and says of each: keep, keep as oldest, or drop. It knows neither tables nor
//! files.
//!
//! # Stripes
//! The snapshots in use cut the sequence numbers into stripes. `snapshots` is ascending and its
//! last element is the sequence number visible when the merge began, so everybody who reads later
//! reads at that number or above. An entry's stripe is the first snapshot that sees it. Of the
//! versions of a key in one stripe only the newest can ever be read, so it alone stays. An old
//! snapshot thus pins one version of a key and not everything newer. Entries above the last
//! snapshot (a flush holds some whose write is not yet visible) all stay: readers yet to come may
//! stand between any two of them.
//!
//! # The bottom
//! Where no older version of a key can exist outside the merge (`at_bottom`), and in the oldest
//! stripe, which every reader sees:
//! * a tombstone has nothing left to hide: it goes, and the versions below it go as shadowed;
//! * a value needs no sequence number to be ordered: it is kept with sequence number 0, and the
//!   writer stores no trailers for a block of such entries. It is the last version of its key in
//!   the output, because the rest of its stripe is shadowed and no stripe is older. So no two
//!   versions of a key ever carry the sequence number 0.
//!
//! A tombstone newer than the oldest snapshot stays, even if no older version follows: entries are
//! judged without looking ahead. It goes when that snapshot does.
//!
//! The snapshots are taken once, before the merge begins: one released meanwhile only keeps a
//! little more, and one taken meanwhile sees the last element or newer.

use std::cmp::Ordering;

use crate::error::{Error, ErrorKind, Result};
use crate::key::{SequenceNumber, Trailer, ValueKind, escape};

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Kept as it is.
    Keep,
    /// Kept with sequence number 0: visible to everybody, and nothing is older.
    KeepAsOldest,
    /// Dropped: a newer version stands in the same stripe.
    DropShadowed,
    /// Dropped: a tombstone that hides nothing.
    DropTombstone,
}

impl Fate {
    /// The trailer that the entry with `trailer` is written with; `None` if it is dropped.
    pub(crate) fn trailer(self, trailer: Trailer) -> Option<Trailer> {
        match self {
            Fate::Keep => Some(trailer),
            Fate::KeepAsOldest => Some(Trailer(u64::from(trailer.kind_byte()))),
            Fate::DropShadowed | Fate::DropTombstone => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Last {
    trailer: Trailer,
    /// As an index into `snapshots`.
    stripe: usize,
}

/// Decides which entries of a merge survive. See the module text.
#[derive(Debug)]
pub(crate) struct Retention<'a> {
    /// Ascending, never empty.
    snapshots: &'a [SequenceNumber],
    /// The current user key; meaningless before the first entry.
    key: Vec<u8>,
    /// The last entry of the current key; `None` before the first entry.
    last: Option<Last>,
    /// Whether that is the first of its key.
    begins_key: bool,
}

impl<'a> Retention<'a> {
    /// `snapshots`: the sequence numbers in use, ascending, the last being the visible one.
    pub(crate) fn new(snapshots: &'a [SequenceNumber]) -> Self {
        assert!(!snapshots.is_empty(), "the visible sequence number is always in use");
        assert!(snapshots.is_sorted(), "snapshots are ascending");
        Retention { snapshots, key: Vec::new(), last: None, begins_key: false }
    }

    /// The fate of the next entry. `at_bottom` is asked only where the answer matters, at most once
    /// per key, and with keys ascending: whether no version of the key can exist below the merge.
    pub(crate) fn next(
        &mut self,
        key: &[u8],
        trailer: Trailer,
        at_bottom: impl FnOnce(&[u8]) -> bool,
    ) -> Result<Fate> {
        let kind = trailer.kind()?;
        let stripe = self.stripe_of(trailer.sequence());
        let order = self.last.map_or(Ordering::Less, |_| self.key.as_slice().cmp(key));
        let last = self.last.replace(Last { trailer, stripe });
        self.begins_key = order == Ordering::Less;
        match (order, last) {
            (Ordering::Equal, Some(last)) if last.trailer <= trailer => return Err(disorder(key)),
            (Ordering::Equal, Some(last))
                if last.stripe == stripe && stripe < self.snapshots.len() =>
            {
                return Ok(Fate::DropShadowed);
            }
            (Ordering::Equal, _) => {}
            (Ordering::Less, _) => {
                self.key.clear();
                self.key.extend_from_slice(key);
            }
            (Ordering::Greater, _) => return Err(disorder(key)),
        }
        if stripe > 0 || !at_bottom(key) {
            return Ok(Fate::Keep);
        }
        Ok(match kind {
            ValueKind::Delete => Fate::DropTombstone,
            _ => Fate::KeepAsOldest,
        })
    }

    /// Whether the last entry was the first of its user key.
    #[inline]
    pub(crate) fn begins_key(&self) -> bool {
        self.begins_key
    }

    /// The index of the first snapshot that sees `sequence`; past the end if none does.
    #[inline]
    fn stripe_of(&self, sequence: SequenceNumber) -> usize {
        match self.snapshots {
            // Nearly always there is no snapshot but the visible sequence number.
            [visible] => usize::from(sequence > *visible),
            snapshots => snapshots.partition_point(|snapshot| *snapshot < sequence),
        }
    }
}

#[cold]
fn disorder(key: &[u8]) -> Error {
    let what = format!("entry {} does not stand after the one before it", escape(key));
    Error::new(ErrorKind::Corruption, what)
        .advise("restore the table from a copy, or salvage the readable part into a new database")
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn put(sequence: u64) -> Trailer {
        Trailer::new(SequenceNumber(sequence), ValueKind::Put)
    }

    fn delete(sequence: u64) -> Trailer {
        Trailer::new(SequenceNumber(sequence), ValueKind::Delete)
    }

    fn fates(snapshots: &[u64], bottom: bool, entries: &[(&str, Trailer)]) -> Vec<Fate> {
        let snapshots: Vec<_> = snapshots.iter().map(|s| SequenceNumber(*s)).collect();
        let mut retention = Retention::new(&snapshots);
        let next = |(key, trailer): &(&str, Trailer)| {
            retention.next(key.as_bytes(), *trailer, |_| bottom).unwrap()
        };
        entries.iter().map(next).collect()
    }

    #[test]
    fn the_newest_version_stays_and_the_rest_is_shadowed() {
        let entries = [("a", put(9)), ("a", put(5)), ("a", delete(2)), ("b", put(3))];
        assert_eq!(
            fates(&[9], false, &entries),
            [Fate::Keep, Fate::DropShadowed, Fate::DropShadowed, Fate::Keep]
        );
        assert_eq!(fates(&[9], true, &entries)[0], Fate::KeepAsOldest);
    }

    #[test]
    fn a_tombstone_leaves_only_from_the_oldest_stripe_at_the_bottom() {
        let entries = [("a", delete(7)), ("a", put(3))];
        assert_eq!(fates(&[9], true, &entries), [Fate::DropTombstone, Fate::DropShadowed]);
        assert_eq!(fates(&[9], false, &entries), [Fate::Keep, Fate::DropShadowed]);
        // The snapshot at 5 reads the value, so the tombstone must hide it from everybody else.
        assert_eq!(fates(&[5, 9], true, &entries), [Fate::Keep, Fate::KeepAsOldest]);
        // The snapshot at 8 sees the tombstone too: one answer for all.
        assert_eq!(fates(&[8, 9], true, &entries), [Fate::DropTombstone, Fate::DropShadowed]);
    }

    #[test]
    fn an_old_snapshot_pins_one_version_and_not_everything_newer() {
        let entries = [("a", put(9)), ("a", put(8)), ("a", put(7)), ("a", put(3)), ("a", put(2))];
        assert_eq!(
            fates(&[4, 9], false, &entries),
            [Fate::Keep, Fate::DropShadowed, Fate::DropShadowed, Fate::Keep, Fate::DropShadowed]
        );
    }

    #[test]
    fn entries_not_yet_visible_all_stay() {
        let entries = [("a", put(9)), ("a", put(8)), ("a", put(7)), ("a", put(6))];
        assert_eq!(
            fates(&[7], true, &entries),
            [Fate::Keep, Fate::Keep, Fate::KeepAsOldest, Fate::DropShadowed]
        );
    }

    #[test]
    fn a_snapshot_before_the_first_write_pins_nothing_but_keeps_sequence_numbers() {
        let entries = [("a", put(9)), ("a", put(8))];
        assert_eq!(fates(&[0, 9], true, &entries), [Fate::Keep, Fate::DropShadowed]);
    }

    #[test]
    fn the_empty_key_is_a_key() {
        assert_eq!(
            fates(&[9], false, &[("", put(2)), ("", put(1))]),
            [Fate::Keep, Fate::DropShadowed]
        );
    }

    #[test]
    fn reserved_kinds_are_refused_and_never_dropped() {
        let snapshots = [SequenceNumber(9)];
        let mut retention = Retention::new(&snapshots);
        retention.next(b"a", put(9), |_| true).unwrap();
        let error = retention.next(b"a", Trailer(5 << 8 | 3), |_| true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn disorder_is_corruption() {
        let cases: [[(&str, Trailer); 2]; 3] = [
            [("b", put(1)), ("a", put(9))],
            [("a", put(1)), ("a", put(2))],
            [("a", put(1)), ("a", put(1))],
        ];
        for [first, second] in cases {
            let snapshots = [SequenceNumber(9)];
            let mut retention = Retention::new(&snapshots);
            retention.next(first.0.as_bytes(), first.1, |_| true).unwrap();
            let error = retention.next(second.0.as_bytes(), second.1, |_| true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption);
        }
    }

    /// A history: per key, versions with distinct sequence numbers, true for a put.
    type History = BTreeMap<u8, BTreeMap<u64, bool>>;

    fn read(history: &History, key: u8, at: u64) -> Option<u64> {
        let (sequence, is_put) = history.get(&key)?.range(..=at).next_back()?;
        is_put.then_some(*sequence)
    }

    /// An entry of an output.
    #[derive(Clone, Copy, Debug)]
    struct Merged {
        key: u8,
        written: Trailer,
        /// The sequence number it had.
        sequence: u64,
    }

    /// Merges `inputs`, which lie above `below`.
    fn merge(inputs: &History, below: &History, snapshots: &[SequenceNumber]) -> Vec<Merged> {
        let mut retention = Retention::new(snapshots);
        let mut out = Vec::new();
        for (key, versions) in inputs {
            for (sequence, is_put) in versions.iter().rev() {
                let trailer = if *is_put { put(*sequence) } else { delete(*sequence) };
                let fate =
                    retention.next(&[*key], trailer, |k| !below.contains_key(&k[0])).unwrap();
                let merged = |written| Merged { key: *key, written, sequence: *sequence };
                out.extend(fate.trailer(trailer).map(merged));
            }
        }
        out
    }

    fn histories() -> impl Strategy<Value = (History, Vec<SequenceNumber>, Vec<u64>)> {
        let ops = prop::collection::vec((0..6u8, prop::bool::weighted(0.6)), 1..60);
        let snapshots = prop::collection::btree_set(0..60u64, 0..5);
        let cuts = prop::collection::vec(0..=60u64, 6);
        (ops, snapshots, cuts).prop_map(|(ops, snapshots, cuts)| {
            let mut history = History::new();
            let visible = ops.len() as u64;
            for (at, (key, is_put)) in ops.into_iter().enumerate() {
                history.entry(key).or_default().insert(at as u64 + 1, is_put);
            }
            let mut snapshots: Vec<_> =
                snapshots.into_iter().filter(|s| *s < visible).map(SequenceNumber).collect();
            snapshots.push(SequenceNumber(visible));
            (history, snapshots, cuts)
        })
    }

    /// Parts the history of each key: what is older than its cut, and the rest.
    fn part(history: &History, cut: impl Fn(u8) -> u64) -> (History, History) {
        let (mut older, mut newer) = (History::new(), History::new());
        for (key, versions) in history {
            for (sequence, is_put) in versions {
                let side = if *sequence < cut(*key) { &mut older } else { &mut newer };
                side.entry(*key).or_default().insert(*sequence, *is_put);
            }
        }
        (older, newer)
    }

    /// What a reader finds in the output of a merge above `below`.
    fn read_merged(out: &[Merged], below: &History, key: u8, at: u64) -> Option<u64> {
        let mut visible = out.iter().filter(|e| e.key == key && e.written.sequence().0 <= at);
        match visible.next() {
            Some(entry) => (!entry.written.is_tombstone()).then_some(entry.sequence),
            None => read(below, key, at),
        }
    }

    fn check_merge(history: &History, snapshots: &[SequenceNumber], cuts: &[u64]) {
        let (below, inputs) = part(history, |key| cuts[usize::from(key)]);
        let out = merge(&inputs, &below, snapshots);
        assert!(out.is_sorted_by(|a, b| (a.key, Reverse(a.written)) < (b.key, Reverse(b.written))));
        let reads_same = |out: &[Merged], key: u8| {
            let mut ats = snapshots.iter().map(|snapshot| snapshot.0);
            ats.all(|at| read_merged(out, &below, key, at) == read(history, key, at))
        };
        assert!((0..6).all(|key| reads_same(&out, key)));
        for left_out in 0..out.len() {
            let mut fewer = out.clone();
            let entry = fewer.remove(left_out);
            // A tombstone above other tables may hide nothing there; the merge cannot know. Nor
            // does it look ahead: one newer than the oldest snapshot may turn out to be the last.
            let may_hide = entry.written.is_tombstone()
                && (below.contains_key(&entry.key) || entry.written.sequence() > snapshots[0]);
            assert!(may_hide || !reads_same(&fewer, entry.key), "kept for nobody: {entry:?}");
        }
        // Sequence number 0 wherever it is allowed, and nowhere else.
        for entry in &out {
            let is_oldest = !below.contains_key(&entry.key) && entry.sequence <= snapshots[0].0;
            assert_eq!(entry.written.sequence().0 == 0, is_oldest, "{entry:?}");
        }
    }

    fn check_two_merges(history: &History, snapshots: &[SequenceNumber], cut: u64) {
        let (mut older, newer) = part(history, |_| cut);
        for entry in merge(&newer, &older, snapshots) {
            let versions = older.entry(entry.key).or_default();
            versions.insert(entry.written.sequence().0, !entry.written.is_tombstone());
        }
        let written = |out: Vec<Merged>| -> Vec<(u8, Trailer)> {
            out.into_iter().map(|entry| (entry.key, entry.written)).collect()
        };
        let twice = written(merge(&older, &History::new(), snapshots));
        assert_eq!(twice, written(merge(history, &History::new(), snapshots)));
    }

    proptest! {
        /// Per key a random prefix of the history lies below the merge; the rest is merged. Every
        /// snapshot reads the same before and after, and no entry could be left out.
        #[test]
        fn every_snapshot_reads_the_same_and_nothing_unneeded_is_kept(
            (history, snapshots, cuts) in histories()
        ) {
            check_merge(&history, &snapshots, &cuts);
        }

        /// Merging twice, as two levels do, is merging once.
        #[test]
        fn merges_compose((history, snapshots, cuts) in histories()) {
            check_two_merges(&history, &snapshots, cuts[0]);
        }
    }
}
