//! What was written to a database over its whole life: sums that the manifest carries from open to open.
//!
//! Counters in memory begin anew at every open, and so would every write amplification made of them. Each edit
//! therefore carries what was written since the edit before it; their fold is the life of the database. It is as exact
//! as the edits are: what a crash cuts off after the last edit is lost, except for writes, which recovery finds in the
//! log and counts again (`LifetimeTotals::through` says from where on).
//!
//! # Format
//! ```text
//! totals     := through:varint numbers compaction*
//! compaction := level:varint reason:slice numbers
//! numbers    := count:varint varint[count]
//! ```
//! Numbers stand in the order of the fields. Readers take those they know and pass over the rest; those that are
//! missing are 0. So a later version can count more. Reasons are text for the same cause.
//!
//! Nothing depends on these sums; they saturate.

use std::collections::BTreeMap;

use crate::coding::{Decoder, Truncated, put_slice, put_varint};
use crate::key::SequenceNumber;

/// What compactions of one kind did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionTotals {
    /// Compactions that merged tables.
    pub merges: u64,
    /// Compactions that moved tables to another level without reading them.
    pub moves: u64,
    /// Compactions that dropped whole tables without reading them.
    pub drops: u64,
    /// Bytes of tables that merges read.
    pub bytes_read: u64,
    /// Bytes of tables that merges wrote.
    pub bytes_written: u64,
    /// Bytes of tables that were moved.
    pub bytes_moved: u64,
    /// Bytes of tables that were dropped whole.
    pub bytes_dropped: u64,
    /// Entries that merges read.
    pub entries_read: u64,
    /// Entries that merges wrote.
    pub entries_written: u64,
    /// Entries left out because a newer version stands in for them.
    pub entries_shadowed: u64,
    /// Tombstones left out because nothing is left for them to hide.
    pub tombstones_dropped: u64,
    /// Entries left out because they have expired and nothing is left for them to hide.
    pub entries_expired: u64,
    /// Entries left out because a compaction filter dropped them and nothing is left for them to hide.
    pub entries_filtered_out: u64,
    /// Entries in tables that were dropped whole.
    pub entries_discarded: u64,
    /// Entries that compaction filters dropped or replaced, those that stayed as tombstones included.
    pub entries_filtered: u64,
    /// Nanoseconds that the jobs took, waits for flushes and for their share of the device included.
    pub duration_ns: u64,
}

/// How many numbers a [`CompactionTotals`] has.
const COMPACTION_NUMBERS: usize = 16;

impl CompactionTotals {
    /// The numbers, in the order in which they are stored.
    fn slots(&mut self) -> [&mut u64; COMPACTION_NUMBERS] {
        [
            &mut self.merges,
            &mut self.moves,
            &mut self.drops,
            &mut self.bytes_read,
            &mut self.bytes_written,
            &mut self.bytes_moved,
            &mut self.bytes_dropped,
            &mut self.entries_read,
            &mut self.entries_written,
            &mut self.entries_shadowed,
            &mut self.tombstones_dropped,
            &mut self.entries_expired,
            &mut self.entries_filtered_out,
            &mut self.entries_discarded,
            &mut self.entries_filtered,
            &mut self.duration_ns,
        ]
    }

    /// Adds what `other` counted.
    pub(crate) fn add(&mut self, mut other: CompactionTotals) {
        add_all(self.slots(), other.slots());
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(mut self, mut earlier: CompactionTotals) -> CompactionTotals {
        subtract_all(self.slots(), earlier.slots());
        self
    }
}

fn add_all<const N: usize>(to: [&mut u64; N], from: [&mut u64; N]) {
    to.into_iter().zip(from).for_each(|(to, from)| *to = to.saturating_add(*from));
}

fn subtract_all<const N: usize>(from: [&mut u64; N], what: [&mut u64; N]) {
    from.into_iter().zip(what).for_each(|(from, what)| *from = from.saturating_sub(*what));
}

/// A level that compactions wrote to, and the name of their reason.
pub(crate) type CompactionKind = (usize, String);

/// See the module text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LifetimeTotals {
    /// Writes up to here are in the numbers below; later ones, if the log has any, are not.
    pub(crate) through: SequenceNumber,
    pub(crate) user_bytes: u64,
    pub(crate) user_operations: u64,
    pub(crate) wal_bytes: u64,
    pub(crate) flushes: u64,
    pub(crate) flush_bytes: u64,
    pub(crate) manifest_bytes: u64,
    pub(crate) compactions: BTreeMap<CompactionKind, CompactionTotals>,
}

/// How many numbers a [`LifetimeTotals`] has beside those of compactions.
const LIFETIME_NUMBERS: usize = 6;

impl LifetimeTotals {
    fn slots(&mut self) -> [&mut u64; LIFETIME_NUMBERS] {
        [
            &mut self.user_bytes,
            &mut self.user_operations,
            &mut self.wal_bytes,
            &mut self.flushes,
            &mut self.flush_bytes,
            &mut self.manifest_bytes,
        ]
    }

    /// Adds what `other` counted.
    pub(crate) fn add(&mut self, other: &LifetimeTotals) {
        let mut other = other.clone();
        add_all(self.slots(), other.slots());
        self.through = self.through.max(other.through);
        for (kind, totals) in other.compactions {
            self.compactions.entry(kind).or_default().add(totals);
        }
    }

    /// What was counted since `earlier`, of which this is a continuation.
    pub(crate) fn since(&self, earlier: &LifetimeTotals) -> LifetimeTotals {
        let (mut difference, mut earlier) = (self.clone(), earlier.clone());
        subtract_all(difference.slots(), earlier.slots());
        for (kind, totals) in &mut difference.compactions {
            *totals = totals.since(earlier.compactions.get(kind).copied().unwrap_or_default());
        }
        difference.compactions.retain(|_, totals| *totals != CompactionTotals::default());
        difference
    }

    /// Appends the stored form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut totals = self.clone();
        put_varint(out, totals.through.0);
        put_numbers(out, totals.slots());
        for ((level, reason), mut totals) in std::mem::take(&mut totals.compactions) {
            put_varint(out, level as u64);
            put_slice(out, reason.as_bytes());
            put_numbers(out, totals.slots());
        }
    }

    /// Reads the stored form, to the end of `from`. `None` where it is none.
    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<Option<LifetimeTotals>, Truncated> {
        let mut totals =
            LifetimeTotals { through: SequenceNumber(from.varint()?), ..Default::default() };
        if totals.through > SequenceNumber::MAX {
            return Ok(None);
        }
        read_numbers(from, totals.slots())?;
        while !from.is_empty() {
            let level = from.varint32()? as usize;
            let Ok(reason) = std::str::from_utf8(from.slice()?) else { return Ok(None) };
            let mut compaction = CompactionTotals::default();
            read_numbers(from, compaction.slots())?;
            totals.compactions.entry((level, reason.to_owned())).or_default().add(compaction);
        }
        Ok(Some(totals))
    }
}

fn put_numbers<const N: usize>(out: &mut Vec<u8>, numbers: [&mut u64; N]) {
    put_varint(out, N as u64);
    for number in numbers {
        put_varint(out, *number);
    }
}

fn read_numbers<const N: usize>(
    from: &mut Decoder<'_>,
    into: [&mut u64; N],
) -> Result<(), Truncated> {
    let mut slots = into.into_iter();
    // Each takes a byte at least, so a count that lies runs into the end soon.
    for _ in 0..from.varint()? {
        let number = from.varint()?;
        if let Some(slot) = slots.next() {
            *slot = number;
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any totals that can be stored.
    pub(crate) fn totals() -> impl Strategy<Value = LifetimeTotals> {
        let numbers = prop::array::uniform16(any::<u64>());
        let compaction = numbers.prop_map(|numbers| {
            let mut totals = CompactionTotals::default();
            totals.slots().into_iter().zip(numbers).for_each(|(slot, number)| *slot = number);
            totals
        });
        let compactions = prop::collection::btree_map((0..7usize, "[a-z_]{0,9}"), compaction, 0..4);
        let numbers = prop::array::uniform6(any::<u64>());
        (0..=SequenceNumber::MAX.0, numbers, compactions).prop_map(
            |(through, numbers, compactions)| {
                let through = SequenceNumber(through);
                let mut totals = LifetimeTotals { through, compactions, ..Default::default() };
                totals.slots().into_iter().zip(numbers).for_each(|(slot, number)| *slot = number);
                totals
            },
        )
    }

    fn counted(user_bytes: u64, merges: u64) -> LifetimeTotals {
        let totals = CompactionTotals { merges, ..Default::default() };
        let compactions = BTreeMap::from([((1, "level0_runs".to_owned()), totals)]);
        LifetimeTotals { user_bytes, compactions, ..Default::default() }
    }

    #[test]
    fn a_difference_adds_up_to_what_it_was_taken_of() {
        let (earlier, later) = (counted(10, 2), counted(25, 2));
        let difference = later.since(&earlier);
        assert_eq!((difference.user_bytes, difference.compactions.len()), (15, 0));
        let mut sum = earlier;
        sum.add(&difference);
        assert_eq!(sum, later);
        assert_eq!(later.since(&counted(5, 1)).compactions.values().next().unwrap().merges, 1);
    }

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        LifetimeTotals { through: SequenceNumber(9), ..counted(300, 1) }.encode(&mut out);
        let head = [9, 6, 0xac, 2, 0, 0, 0, 0, 0, 1, 11];
        let tail = [16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(out, [&head[..], b"level0_runs", &tail].concat());
    }

    #[test]
    fn more_numbers_than_known_are_passed_over_and_missing_ones_are_zero() {
        let bytes = [9, 7, 1, 2, 3, 4, 5, 6, 77, 2, 1, b'x', 1, 8];
        let totals = LifetimeTotals::decode(&mut Decoder::new(&bytes)).unwrap().unwrap();
        assert_eq!((totals.user_bytes, totals.manifest_bytes), (1, 6));
        let compaction = totals.compactions[&(2, "x".to_owned())];
        assert_eq!(compaction, CompactionTotals { merges: 8, ..Default::default() });
        assert!(LifetimeTotals::decode(&mut Decoder::new(&[9, 0xff, 0xff, 0xff, 0x7f])).is_err());
    }

    proptest! {
        #[test]
        fn totals_round_trip(totals in totals()) {
            let mut out = Vec::new();
            totals.encode(&mut out);
            let mut decoder = Decoder::new(&out);
            prop_assert_eq!(LifetimeTotals::decode(&mut decoder), Ok(Some(totals)));
            prop_assert!(decoder.is_empty());
        }
    }
}
