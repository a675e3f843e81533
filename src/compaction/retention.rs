//! Retention: which versions of a key survive a merge.
//!
//! [`Retention`] is a pure state machine. It is fed the entries of a merge in order (key ascending,
//! newest first) and says of each: keep, keep as oldest, keep as a tombstone, or drop. It knows
//! neither tables nor files, and has no clock: one time holds for the whole merge.
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
//! # Filter
//! What a compaction filter drops is a tombstone from then on, and goes where one goes. It is asked
//! about the first version of a key only, and only if that lies above every live snapshot: so nobody
//! but those who read the newest state see its work, and what it drops hides what a snapshot still
//! needs. `compaction/filter` says more.
//!
//! # Expiry
//! An entry that has expired is a tombstone from then on, to every reader, snapshots included. So
//! it goes where a tombstone goes, and else stays as one, without its value: were it dropped above
//! an older version, that would be read again. The wall clock may be set back; an entry that a
//! merge took for expired stays gone all the same.
//!
//! The snapshots are taken once, before the merge begins: one released meanwhile only keeps a
//! little more, and one taken meanwhile sees the last element or newer.

use std::cmp::Ordering;

use crate::compaction::filter::{Decision, MergeFilter};
use crate::error::{Error, ErrorKind, Result};
use crate::expiry::{EXPIRY_LEN, is_expired, split_expiring};
use crate::key::{SequenceNumber, Trailer, ValueKind, escape};

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Kept as it is.
    Keep,
    /// Kept with sequence number 0: visible to everybody, and nothing is older.
    KeepAsOldest,
    /// Kept as a tombstone, without its value: it has expired, or was filtered out.
    KeepAsTombstone,
    /// Dropped: a newer version stands in the same stripe.
    DropShadowed,
    /// Dropped: a tombstone that hides nothing.
    DropTombstone,
    /// Dropped: it has expired, and hides nothing.
    DropExpired,
    /// Dropped: it was filtered out, and hides nothing.
    DropFiltered,
}

impl Fate {
    /// The trailer and the value that an entry is written with; `None` if it is dropped.
    #[inline]
    pub(crate) fn written(self, trailer: Trailer, value: &[u8]) -> Option<(Trailer, &[u8])> {
        match self {
            Fate::Keep => Some((trailer, value)),
            Fate::KeepAsOldest => Some((Trailer(u64::from(trailer.kind_byte())), value)),
            Fate::KeepAsTombstone => {
                Some((Trailer::new(trailer.sequence(), ValueKind::Delete), b""))
            }
            Fate::DropShadowed | Fate::DropTombstone | Fate::DropExpired | Fate::DropFiltered => {
                None
            }
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
    /// By which expiry is judged.
    now_ms: u64,
    filter: Option<MergeFilter>,
    /// What the filter dropped or replaced.
    filtered_count: u64,
    /// The stored value that the filter wants for the last entry.
    replaced: Option<Vec<u8>>,
    /// The current user key; meaningless before the first entry.
    key: Vec<u8>,
    /// The last entry of the current key; `None` before the first entry.
    last: Option<Last>,
    /// Whether that is the first of its key.
    begins_key: bool,
}

impl<'a> Retention<'a> {
    /// `snapshots`: the sequence numbers in use, ascending, the last being the visible one.
    /// `now_ms`: the time.
    pub(crate) fn new(snapshots: &'a [SequenceNumber], now_ms: u64) -> Self {
        assert!(!snapshots.is_empty(), "the visible sequence number is always in use");
        assert!(snapshots.is_sorted(), "snapshots are ascending");
        Retention {
            snapshots,
            now_ms,
            filter: None,
            filtered_count: 0,
            replaced: None,
            key: Vec::new(),
            last: None,
            begins_key: false,
        }
    }

    /// With the filter of the merge, if there is one.
    pub(crate) fn with_filter(self, filter: Option<MergeFilter>) -> Self {
        Retention { filter, ..self }
    }

    /// The entries that the filter dropped or replaced.
    pub(crate) fn filtered_count(&self) -> u64 {
        self.filtered_count
    }

    /// The trailer and the value that the last entry, of this fate, is written with; `None` if it is
    /// dropped.
    #[inline]
    pub(crate) fn written<'v>(
        &'v self,
        fate: Fate,
        trailer: Trailer,
        value: &'v [u8],
    ) -> Option<(Trailer, &'v [u8])> {
        fate.written(trailer, self.replaced.as_deref().unwrap_or(value))
    }

    /// The fate of the next entry. `at_bottom` is asked only where the answer matters, at most once
    /// per key, and with keys ascending: whether no version of the key can exist below the merge.
    pub(crate) fn next(
        &mut self,
        key: &[u8],
        trailer: Trailer,
        value: &[u8],
        at_bottom: impl FnOnce(&[u8]) -> bool,
    ) -> Result<Fate> {
        let kind = trailer.kind()?;
        let stripe = self.stripe_of(trailer.sequence());
        let order = self.last.map_or(Ordering::Less, |_| self.key.as_slice().cmp(key));
        self.replaced = None;
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
        let is_filtered_out = self.filter.is_some()
            && order == Ordering::Less
            && stripe < self.snapshots.len()
            && self.apply_filter(key, trailer, value)?;
        let is_gone = is_filtered_out
            || kind == ValueKind::PutExpiring && is_expired(split_expiring(value)?.0, self.now_ms);
        let hides_nothing = stripe == 0 && at_bottom(key);
        Ok(match (hides_nothing, is_gone) {
            (true, true) if is_filtered_out => Fate::DropFiltered,
            (true, true) => Fate::DropExpired,
            (true, false) if kind == ValueKind::Delete => Fate::DropTombstone,
            (true, false) => Fate::KeepAsOldest,
            (false, true) => Fate::KeepAsTombstone,
            (false, false) => Fate::Keep,
        })
    }

    /// Asks the filter, if it may be asked, about a value that has not expired; whether it drops it.
    fn apply_filter(&mut self, key: &[u8], trailer: Trailer, stored: &[u8]) -> Result<bool> {
        let sequence = trailer.sequence();
        let Some(filter) = self.filter.as_ref().filter(|filter| filter.may_ask(sequence)) else {
            return Ok(false);
        };
        let (expiry, value) = match trailer.kind()? {
            ValueKind::Put => stored.split_at(0),
            ValueKind::PutExpiring => {
                let (expires_at_ms, value) = split_expiring(stored)?;
                if is_expired(expires_at_ms, self.now_ms) {
                    return Ok(false);
                }
                (&stored[..EXPIRY_LEN], value)
            }
            _ => return Ok(false),
        };
        match filter.ask(key, value)? {
            Decision::Keep => return Ok(false),
            Decision::Drop => {}
            Decision::Replace(value) => self.replaced = Some([expiry, &value].concat()),
        }
        self.filtered_count += 1;
        Ok(self.replaced.is_none())
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
    Error::new(ErrorKind::Corruption, what).advise(
        "restore the table from a copy, or repair the database, which keeps what is readable",
    )
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::compaction::filter::CompactionFilter;
    use proptest::prelude::*;

    fn put(sequence: u64) -> Trailer {
        Trailer::new(SequenceNumber(sequence), ValueKind::Put)
    }

    fn delete(sequence: u64) -> Trailer {
        Trailer::new(SequenceNumber(sequence), ValueKind::Delete)
    }

    const NOW_MS: u64 = 1000;

    fn expiring(sequence: u64) -> Trailer {
        Trailer::new(SequenceNumber(sequence), ValueKind::PutExpiring)
    }

    /// A stored value that expires at `at_ms`, or a plain one.
    fn value_of(trailer: Trailer, at_ms: u64) -> Vec<u8> {
        match trailer.kind().unwrap() {
            ValueKind::PutExpiring => [&at_ms.to_le_bytes(), &b"value"[..]].concat(),
            ValueKind::Delete => Vec::new(),
            _ => b"value".to_vec(),
        }
    }

    /// Entries of kind put-expiring have expired.
    fn fates(snapshots: &[u64], bottom: bool, entries: &[(&str, Trailer)]) -> Vec<Fate> {
        let snapshots: Vec<_> = snapshots.iter().map(|s| SequenceNumber(*s)).collect();
        let mut retention = Retention::new(&snapshots, NOW_MS);
        let next = |(key, trailer): &(&str, Trailer)| {
            let value = value_of(*trailer, NOW_MS);
            retention.next(key.as_bytes(), *trailer, &value, |_| bottom).unwrap()
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
    fn an_expired_entry_is_a_tombstone() {
        let entries = [("a", expiring(7)), ("a", put(3))];
        assert_eq!(fates(&[9], true, &entries), [Fate::DropExpired, Fate::DropShadowed]);
        // Dropped here, it would uncover what lies below.
        assert_eq!(fates(&[9], false, &entries), [Fate::KeepAsTombstone, Fate::DropShadowed]);
        // The snapshot at 5 reads the put, which the tombstone must hide from everybody else.
        assert_eq!(fates(&[5, 9], true, &entries), [Fate::KeepAsTombstone, Fate::KeepAsOldest]);
        let written = Fate::KeepAsTombstone.written(expiring(7), b"12345678value");
        assert_eq!(written, Some((delete(7), &b""[..])));
    }

    #[test]
    fn an_entry_that_will_expire_stays_as_it_is() {
        let snapshots = [SequenceNumber(9)];
        let mut retention = Retention::new(&snapshots, NOW_MS);
        let later = value_of(expiring(7), NOW_MS + 1);
        assert_eq!(retention.next(b"a", expiring(7), &later, |_| false).unwrap(), Fate::Keep);
        let fate = retention.next(b"b", expiring(7), &later, |_| true).unwrap();
        assert_eq!(fate.written(expiring(7), &later), Some((expiring(0), &later[..])));
        let never = value_of(expiring(7), u64::MAX);
        let mut at_the_end = Retention::new(&snapshots, u64::MAX);
        assert_eq!(at_the_end.next(b"a", expiring(7), &never, |_| false).unwrap(), Fate::Keep);
        let short = retention.next(b"c", expiring(7), b"short", |_| false).unwrap_err();
        assert_eq!(short.kind(), ErrorKind::Corruption);
    }

    /// Drops keys with a `d`, replaces values of keys with an `r`, panics at `p`.
    #[derive(Debug)]
    struct ByKey;

    impl CompactionFilter for ByKey {
        fn filter(&self, level: usize, key: &[u8], value: &[u8]) -> Decision {
            assert_eq!((level, value), (3, &b"value"[..]), "never shown a time or a tombstone");
            match key {
                b"p" => panic!("a filter of the test's"),
                _ if key.starts_with(b"d") => Decision::Drop,
                _ if key.starts_with(b"r") => Decision::Replace(b"other".to_vec()),
                _ => Decision::Keep,
            }
        }
    }

    /// What is written with [`ByKey`]; puts that expire do so later.
    fn filtered(
        snapshots: &[u64],
        newest_snapshot: Option<u64>,
        bottom: bool,
        entries: &[(&str, Trailer)],
    ) -> Vec<(String, Trailer, Vec<u8>)> {
        let snapshots: Vec<_> = snapshots.iter().map(|s| SequenceNumber(*s)).collect();
        let newest_snapshot = newest_snapshot.map(SequenceNumber);
        let filter = MergeFilter { filter: Arc::new(ByKey), level: 3, newest_snapshot };
        let mut retention = Retention::new(&snapshots, NOW_MS).with_filter(Some(filter));
        let mut out = Vec::new();
        for (key, trailer) in entries {
            let value = value_of(*trailer, NOW_MS + 1);
            let fate = retention.next(key.as_bytes(), *trailer, &value, |_| bottom).unwrap();
            let written = retention.written(fate, *trailer, &value);
            out.extend(written.map(|(trailer, value)| ((*key).to_owned(), trailer, value.into())));
        }
        out
    }

    fn one(key: &str, trailer: Trailer, value: &[u8]) -> (String, Trailer, Vec<u8>) {
        (key.to_owned(), trailer, value.to_vec())
    }

    #[test]
    fn what_is_filtered_out_is_a_tombstone() {
        let entries = [("d", put(7)), ("d", put(3)), ("k", put(5))];
        let above = filtered(&[9], None, false, &entries);
        assert_eq!(above, [one("d", delete(7), b""), one("k", put(5), b"value")]);
        assert_eq!(filtered(&[9], None, true, &entries), [one("k", put(0), b"value")]);
        let deleted = [("d", delete(7)), ("d", put(3))];
        assert_eq!(filtered(&[9], None, false, &deleted), [one("d", delete(7), b"")]);
    }

    #[test]
    fn what_is_replaced_keeps_sequence_number_and_expiry() {
        let later = [&(NOW_MS + 1).to_le_bytes(), &b"other"[..]].concat();
        let entries = [("r1", put(7)), ("r2", expiring(8)), ("r2", put(1))];
        let above = filtered(&[9], None, false, &entries);
        assert_eq!(above, [one("r1", put(7), b"other"), one("r2", expiring(8), &later)]);
        let bottom = filtered(&[9], None, true, &entries);
        assert_eq!(bottom, [one("r1", put(0), b"other"), one("r2", expiring(0), &later)]);
    }

    #[test]
    fn what_a_snapshot_sees_is_not_filtered() {
        let entries = [("d", put(7)), ("d", put(3)), ("r", put(4))];
        // The snapshot at 5 keeps its version of `d`; the newer one is nobody's.
        let out = filtered(&[5, 9], Some(5), true, &entries);
        let (value, kept) = (b"value".as_slice(), put(0));
        assert_eq!(out, [one("d", delete(7), b""), one("d", kept, value), one("r", kept, value)]);
        // One that sees everything keeps everything.
        let out = filtered(&[9], Some(9), false, &entries);
        assert_eq!(out, [one("d", put(7), value), one("r", put(4), value)]);
        // What readers yet to come may not see yet stays too.
        let out = filtered(&[6], None, false, &entries);
        assert_eq!(out[..2], [one("d", put(7), value), one("d", put(3), value)]);
    }

    #[test]
    fn expired_entries_are_not_shown_to_the_filter() {
        let snapshots = [SequenceNumber(9)];
        let filter = MergeFilter { filter: Arc::new(ByKey), level: 3, newest_snapshot: None };
        let mut retention = Retention::new(&snapshots, NOW_MS).with_filter(Some(filter));
        let value = value_of(expiring(7), NOW_MS);
        let fate = retention.next(b"p", expiring(7), &value, |_| false).unwrap();
        assert_eq!((fate, retention.filtered_count()), (Fate::KeepAsTombstone, 0));
        let error = retention.next(b"p2", put(7), b"not a value of the test's", |_| true);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidArgument, "its panic is an error");
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
        let mut retention = Retention::new(&snapshots, NOW_MS);
        retention.next(b"a", put(9), b"", |_| true).unwrap();
        let error = retention.next(b"a", Trailer(5 << 8 | 3), b"", |_| true).unwrap_err();
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
            let mut retention = Retention::new(&snapshots, NOW_MS);
            retention.next(first.0.as_bytes(), first.1, b"", |_| true).unwrap();
            let error = retention.next(second.0.as_bytes(), second.1, b"", |_| true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption);
        }
    }

    /// What a write did, as of [`NOW_MS`].
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Wrote {
        Put,
        Delete,
        /// A put that has expired.
        Expired,
        /// A put that will expire.
        Living,
    }

    impl Wrote {
        fn entry(self, sequence: u64) -> (Trailer, Vec<u8>) {
            let (trailer, at_ms) = match self {
                Wrote::Put => (put(sequence), 0),
                Wrote::Delete => (delete(sequence), 0),
                Wrote::Expired => (expiring(sequence), NOW_MS),
                Wrote::Living => (expiring(sequence), NOW_MS + 1),
            };
            (trailer, value_of(trailer, at_ms))
        }

        fn is_read(self) -> bool {
            matches!(self, Wrote::Put | Wrote::Living)
        }

        /// What an entry of an output says: expired ones do not get there.
        fn of(written: Trailer) -> Self {
            match written.kind().unwrap() {
                ValueKind::Delete => Wrote::Delete,
                ValueKind::PutExpiring => Wrote::Living,
                _ => Wrote::Put,
            }
        }
    }

    /// A history: per key, versions with distinct sequence numbers.
    type History = BTreeMap<u8, BTreeMap<u64, Wrote>>;

    fn read(history: &History, key: u8, at: u64) -> Option<u64> {
        let (sequence, wrote) = history.get(&key)?.range(..=at).next_back()?;
        wrote.is_read().then_some(*sequence)
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
        let mut retention = Retention::new(snapshots, NOW_MS);
        let mut out = Vec::new();
        for (key, versions) in inputs {
            for (sequence, wrote) in versions.iter().rev() {
                let (trailer, value) = wrote.entry(*sequence);
                let is_bottom = |k: &[u8]| !below.contains_key(&k[0]);
                let fate = retention.next(&[*key], trailer, &value, is_bottom).unwrap();
                let Some((written, value_written)) = fate.written(trailer, &value) else {
                    continue;
                };
                assert!(*wrote != Wrote::Expired || value_written.is_empty());
                out.push(Merged { key: *key, written, sequence: *sequence });
            }
        }
        out
    }

    fn histories() -> impl Strategy<Value = (History, Vec<SequenceNumber>, Vec<u64>)> {
        let wrote = prop_oneof![
            4 => Just(Wrote::Put),
            3 => Just(Wrote::Delete),
            2 => Just(Wrote::Expired),
            1 => Just(Wrote::Living),
        ];
        let ops = prop::collection::vec((0..6u8, wrote), 1..60);
        let snapshots = prop::collection::btree_set(0..60u64, 0..5);
        let cuts = prop::collection::vec(0..=60u64, 6);
        (ops, snapshots, cuts).prop_map(|(ops, snapshots, cuts)| {
            let mut history = History::new();
            let visible = ops.len() as u64;
            for (at, (key, wrote)) in ops.into_iter().enumerate() {
                history.entry(key).or_default().insert(at as u64 + 1, wrote);
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
            for (sequence, wrote) in versions {
                let side = if *sequence < cut(*key) { &mut older } else { &mut newer };
                side.entry(*key).or_default().insert(*sequence, *wrote);
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
            versions.insert(entry.written.sequence().0, Wrote::of(entry.written));
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
