//! Slices: how far a merge is in its inputs, and what of them can be let go.
//!
//! A merge reads its inputs in key order. Once every version of a key and of all keys before it is
//! in finished outputs, the tree can have these outputs in place of that much of the inputs, long
//! before the merge ends: its outputs and its inputs then never lie on disk in full at the same
//! time. A [`Replacement`] says what changes: outputs join, inputs read to their end leave, and of
//! an input read in part the rest remains (see [`table`](crate::table) for parts of tables).
//!
//! # Why reads stay right
//! Let *m* be the last key of a slice. Up to *m* the outputs hold what a read needs, and the inputs
//! show nothing any more, so that nothing the merge dropped comes back. Above *m* the inputs are as
//! they were, and the outputs hold nothing. All versions of a key are on one side.
//!
//! # Counting
//! An input may leave the tree only if as many entries of it were read as the manifest says it has,
//! whatever its cursor says of its end.

use std::collections::VecDeque;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::key::FileNumber;
use crate::table::TableMeta;

/// Slices are no smaller than this many tables: each costs some syncs.
const SLICE_TABLES_MIN: u64 = 2;
/// A merge makes about this many slices at most.
const SLICE_COUNT_MAX: u64 = 16;
/// A merge that would make fewer slices than this is installed at once.
const SLICE_COUNT_MIN: u64 = 4;

/// Tables that take the place of others in a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replacement {
    /// The tables that leave.
    pub(crate) removed: Vec<FileNumber>,
    /// The tables that join the output run: new ones, or some of `removed`, which move.
    pub(crate) added: Vec<TableMeta>,
    /// The tables that stay where they are, in part: what is left of them.
    pub(crate) remaining: Vec<TableMeta>,
}

/// The bytes of outputs after which a merge of `plan_bytes` installs a slice; `None` if it has none.
pub(crate) fn slice_bytes(plan_bytes: u64, table_bytes: u64) -> Option<u64> {
    let bytes = table_bytes.saturating_mul(SLICE_TABLES_MIN).max(plan_bytes / SLICE_COUNT_MAX);
    (plan_bytes / SLICE_COUNT_MIN >= bytes).then_some(bytes)
}

/// What was read of a table.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    entries: u64,
    tombstones: u64,
    shadowed: u64,
    key_bytes: u64,
    value_bytes: u64,
}

impl Counts {
    /// What is left of `meta` when the next entry has `key`; `None` if less than nothing.
    fn rest_of(self, meta: &TableMeta, key: &[u8]) -> Option<TableMeta> {
        let rest = TableMeta {
            entry_count: meta.entry_count.checked_sub(self.entries)?,
            tombstone_count: meta.tombstone_count.checked_sub(self.tombstones)?,
            shadowed_count: meta.shadowed_count.checked_sub(self.shadowed)?,
            key_bytes: meta.key_bytes.checked_sub(self.key_bytes)?,
            value_bytes: meta.value_bytes.checked_sub(self.value_bytes)?,
            smallest: key.into(),
            hidden_entry_count: meta.hidden_entry_count.checked_add(self.entries)?,
            ..meta.clone()
        };
        rest.is_part_of(meta).then_some(rest)
    }
}

/// An entry that a merge reads, as far as it is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadEntry {
    /// The number of its user key among those of the merge, from 1 on.
    pub(super) key_number: u64,
    pub(super) key_len: usize,
    pub(super) value_len: usize,
    pub(super) is_tombstone: bool,
}

/// How far a merge is in one input.
#[derive(Debug)]
pub(super) struct InputProgress {
    /// Those of its tables that are in the tree, as the tree has them, in key order.
    tables: VecDeque<TableMeta>,
    /// How many of them were read to their end.
    read_count: usize,
    /// What was read of the next one.
    counts: Counts,
    /// The number of the key read last; 0: none.
    key_number: u64,
}

impl InputProgress {
    pub(super) fn new(tables: impl Iterator<Item = TableMeta>) -> Self {
        let counts = Counts::default();
        InputProgress { tables: tables.collect(), read_count: 0, counts, key_number: 0 }
    }

    /// Notes that an entry of the table at `at` was read.
    #[inline]
    pub(super) fn note(&mut self, at: usize, entry: ReadEntry, dir: &Path) -> Result<()> {
        if at != self.read_count {
            self.pass_to(at, dir)?;
        }
        self.counts.entries += 1;
        self.counts.tombstones += u64::from(entry.is_tombstone);
        // All versions of a key that an input has stand in one of its tables.
        self.counts.shadowed += u64::from(entry.key_number == self.key_number);
        self.key_number = entry.key_number;
        self.counts.key_bytes += entry.key_len as u64;
        self.counts.value_bytes += entry.value_len as u64;
        Ok(())
    }

    /// Notes that all tables before `at` were read to their end, if that is so.
    fn pass_to(&mut self, at: usize, dir: &Path) -> Result<()> {
        while self.read_count < at {
            let meta = &self.tables[self.read_count];
            if self.counts.entries != meta.entry_count {
                return Err(self.miscounted(dir));
            }
            self.read_count += 1;
            self.counts = Counts::default();
        }
        Ok(())
    }

    /// Ends a slice: the next entry stands in the table at `position.0` and has the key
    /// `position.1`; there is none if that is `None`.
    pub(super) fn end_slice(
        &mut self,
        position: Option<(usize, &[u8])>,
        slice: &mut Replacement,
        dir: &Path,
    ) -> Result<()> {
        self.pass_to(position.map_or(self.tables.len(), |(at, _)| at), dir)?;
        slice.removed.extend(self.tables.drain(..self.read_count).map(|meta| meta.number));
        self.read_count = 0;
        if let (Some((_, key)), 1..) = (position, self.counts.entries) {
            let rest = self.counts.rest_of(&self.tables[0], key);
            let rest = rest.ok_or_else(|| self.miscounted(dir))?;
            slice.remaining.push(rest.clone());
            self.tables[0] = rest;
            self.counts = Counts::default();
        }
        Ok(())
    }

    #[cold]
    fn miscounted(&self, dir: &Path) -> Error {
        let meta = &self.tables[self.read_count];
        let what = format!(
            "read {} entries of the {} that table {} has by the manifest",
            self.counts.entries, meta.entry_count, meta.number
        );
        Error::new(ErrorKind::Corruption, what)
            .at(&FileKind::Table(meta.number).path(dir))
            .advise("verify the table, and restore it from a copy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::text;

    fn progress(tables: &[&str]) -> InputProgress {
        InputProgress::new(tables.iter().map(|table| text::meta(table)))
    }

    fn read(progress: &mut InputProgress, at: usize, entries: u64) -> Result<()> {
        (0..entries).try_for_each(|_| {
            let key_number = progress.key_number + 1;
            let entry = ReadEntry { key_number, key_len: 1, value_len: 2, is_tombstone: false };
            progress.note(at, entry, Path::new("/db"))
        })
    }

    fn end(progress: &mut InputProgress, at: Option<(usize, &[u8])>) -> Result<Replacement> {
        let mut slice = Replacement::default();
        progress.end_slice(at, &mut slice, Path::new("/db")).map(|()| slice)
    }

    #[test]
    fn tables_leave_when_they_were_read_and_the_rest_of_one_remains() {
        let mut input = progress(&["1[a..c]=4", "2[d..f]=5", "3[g..k]=3"]);
        read(&mut input, 0, 4).unwrap();
        read(&mut input, 1, 2).unwrap();
        let slice = end(&mut input, Some((1, b"e"))).unwrap();
        let rest = TableMeta { key_bytes: 48, value_bytes: 46, ..text::meta("2[e..f]=3^2") };
        assert_eq!((slice.removed, slice.remaining), (vec![FileNumber(1)], vec![rest]));

        // The tables that left are not counted any more: the rest of table 2 is the first.
        read(&mut input, 0, 1).unwrap();
        let slice = end(&mut input, Some((0, b"f"))).unwrap();
        let rest = TableMeta { key_bytes: 47, value_bytes: 44, ..text::meta("2[f..f]=2^3") };
        assert_eq!((slice.removed, slice.remaining), (vec![], vec![rest]));

        read(&mut input, 0, 2).unwrap();
        let slice = end(&mut input, Some((1, b"g"))).unwrap();
        assert_eq!((slice.removed, slice.remaining), (vec![FileNumber(2)], vec![]));
        assert_eq!(end(&mut input, Some((0, b"g"))).unwrap(), Replacement::default());

        read(&mut input, 0, 3).unwrap();
        assert_eq!(end(&mut input, None).unwrap().removed, [FileNumber(3)]);
        assert_eq!(end(&mut input, None).unwrap(), Replacement::default());
    }

    #[test]
    fn what_is_left_has_the_shadowed_entries_that_were_not_read() {
        let mut input = progress(&["1[a..f]=9%5"]);
        for key_number in [4, 4, 6, 7, 7, 7] {
            let entry = ReadEntry { key_number, key_len: 1, value_len: 2, is_tombstone: false };
            input.note(0, entry, Path::new("/db")).unwrap();
        }
        let slice = end(&mut input, Some((0, b"d"))).unwrap();
        assert_eq!(slice.remaining[0].shadowed_count, 2);
        assert_eq!((slice.remaining[0].entry_count, slice.remaining[0].hidden_entry_count), (3, 6));
    }

    #[test]
    fn a_table_that_was_not_read_in_full_does_not_leave() {
        let mut input = progress(&["1[a..c]=4", "2[d..f]=5"]);
        read(&mut input, 0, 3).unwrap();
        let error = read(&mut input, 1, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert!(error.to_string().contains("read 3 entries of the 4 that table 000001"), "{error}");

        let mut input = progress(&["1[a..c]=4", "2[d..f]=5"]);
        read(&mut input, 0, 4).unwrap();
        assert!(end(&mut input, None).unwrap_err().to_string().contains("read 0 entries of the 5"));

        let mut input = progress(&["1[a..c]=4"]);
        read(&mut input, 0, 4).unwrap();
        let error = end(&mut input, Some((0, b"c"))).unwrap_err();
        assert!(error.to_string().contains("read 4 entries of the 4"), "nothing can be left");
        let mut input = progress(&["1[a..c]=4"]);
        read(&mut input, 0, 5).unwrap();
        assert!(end(&mut input, Some((0, b"c"))).is_err(), "more than there is");
    }

    #[test]
    fn long_merges_are_sliced_and_short_ones_are_not() {
        assert_eq!(slice_bytes(700, 100), None);
        assert_eq!(slice_bytes(800, 100), Some(200));
        assert_eq!(slice_bytes(6400, 100), Some(400));
        assert_eq!(slice_bytes(u64::MAX, u64::MAX), None);
    }
}
