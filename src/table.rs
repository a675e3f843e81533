//! Tables: immutable sorted files of entries, `NNNNNN.table`.
//!
//! [`TableMeta`] is what the manifest knows of a table, so that open reads no table. [`Table`] is a
//! table of a tree: its metadata, and its open reader once somebody needed it. The byte format, the
//! reader and the writer stand in the submodules.
//!
//! # Parts of tables
//! A long merge is installed in slices, and a slice may end within an input. The tree then goes on
//! with the rest of that input: the same file, but only its keys from [`TableMeta::smallest`] on.
//! The entries before it are *hidden*: they stand in the file and belong to no tree. So metadata
//! describes the part, a reader the file; whoever reads a table through its reader stops at the
//! bound. The [`Table`] objects of one file share what removes it.
//!
//! # Stamped tables
//! A table of a bulk ingest is written before its place in the order of writes is known. Its entries
//! say 0 as their sequence number, and so do its properties; the manifest gives all of them one, the
//! *stamp*: [`TableMeta::sequence_min`] and [`TableMeta::sequence_max`] are equal and not 0. A reader
//! shows entries as stamped, and is searched by what readers see. Such a table holds each key once,
//! and no tombstones.

pub(crate) mod cursor;
pub(crate) mod format;
mod open;
pub(crate) mod reader;
pub(crate) mod salvage;
mod verify;
pub(crate) mod writer;

use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use crate::key::{FileNumber, SequenceNumber};
use crate::table::reader::TableReader;

/// What the manifest says of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMeta {
    /// The number in its file name.
    pub number: FileNumber,
    /// Length of the file.
    pub file_bytes: u64,
    /// Entries of every kind.
    pub entry_count: u64,
    /// Entries that are tombstones.
    pub tombstone_count: u64,
    /// Entries that stand behind a newer version of their user key in this table.
    pub shadowed_count: u64,
    /// Bytes of user keys, over all entries.
    pub key_bytes: u64,
    /// Bytes of values as the user gave them, over all entries.
    pub value_bytes: u64,
    /// The smallest user key.
    pub smallest: Box<[u8]>,
    /// The largest user key.
    pub largest: Box<[u8]>,
    /// The smallest sequence number.
    pub sequence_min: SequenceNumber,
    /// The largest sequence number.
    pub sequence_max: SequenceNumber,
    /// When the oldest of its entries was written, in Unix milliseconds; kept through compactions.
    pub write_time_min_ms: u64,
    /// When the newest of its entries was written, in Unix milliseconds; kept through compactions.
    pub write_time_max_ms: u64,
    /// When the first of its values expires, in Unix milliseconds; `u64::MAX` if none ever does.
    pub expiry_min_ms: u64,
    /// When the last of its values expires, in Unix milliseconds; `u64::MAX` if any never does, or there is none.
    pub expiry_max_ms: u64,
    /// CRC-32 of the whole file.
    pub checksum: u32,
    /// Entries of the file that stand before `smallest` and belong to no tree any more. Everything
    /// above is said of the rest, but `file_bytes` and `checksum`, and the ranges of sequence
    /// numbers and times, which may be those of the whole file.
    pub hidden_entry_count: u64,
}

/// A table without entries, whose entries never expire: the start of a description in a test, with
/// `..TableMeta::default()`.
impl Default for TableMeta {
    fn default() -> Self {
        TableMeta {
            number: FileNumber::default(),
            file_bytes: 0,
            entry_count: 0,
            tombstone_count: 0,
            shadowed_count: 0,
            key_bytes: 0,
            value_bytes: 0,
            smallest: Box::default(),
            largest: Box::default(),
            sequence_min: SequenceNumber::ZERO,
            sequence_max: SequenceNumber::ZERO,
            write_time_min_ms: 0,
            write_time_max_ms: 0,
            expiry_min_ms: u64::MAX,
            expiry_max_ms: u64::MAX,
            checksum: 0,
            hidden_entry_count: 0,
        }
    }
}

impl TableMeta {
    /// Whether `key` lies in the table's key range.
    pub fn covers(&self, key: &[u8]) -> bool {
        *self.smallest <= *key && key <= &*self.largest
    }

    /// Whether the table's key range meets the closed range from `smallest` to `largest`.
    pub fn overlaps(&self, smallest: &[u8], largest: &[u8]) -> bool {
        *self.smallest <= *largest && *smallest <= *self.largest
    }

    /// Whether the file holds more than belongs to the tree.
    pub fn is_partial(&self) -> bool {
        self.hidden_entry_count > 0
    }

    /// The sequence number that this, of the manifest, gives to all entries of a file that says `whole` of itself; 0 if
    /// it gives none.
    pub(crate) fn stamp_on(&self, whole: &TableMeta) -> SequenceNumber {
        let is_stamped = whole.sequence_max == SequenceNumber::ZERO
            && self.sequence_min == self.sequence_max
            && whole.tombstone_count == 0
            && whole.shadowed_count == 0;
        if is_stamped { self.sequence_max } else { SequenceNumber::ZERO }
    }

    /// Whether this describes the same file as `whole` and the same entries, or the last of them.
    pub(crate) fn is_part_of(&self, whole: &TableMeta) -> bool {
        let Some(hidden) = self.hidden_entry_count.checked_sub(whole.hidden_entry_count) else {
            return false;
        };
        if hidden == 0 {
            return self == whole;
        }
        let is_fewer = |part: u64, whole: u64| part <= whole;
        let alike = TableMeta {
            entry_count: whole.entry_count,
            tombstone_count: whole.tombstone_count,
            shadowed_count: whole.shadowed_count,
            key_bytes: whole.key_bytes,
            value_bytes: whole.value_bytes,
            smallest: whole.smallest.clone(),
            hidden_entry_count: whole.hidden_entry_count,
            ..self.clone()
        };
        alike == *whole
            && self.entry_count > 0
            && self.entry_count.checked_add(hidden) == Some(whole.entry_count)
            && is_fewer(self.tombstone_count, whole.tombstone_count)
            && is_fewer(self.shadowed_count, whole.shadowed_count)
            && is_fewer(self.key_bytes, whole.key_bytes)
            && is_fewer(self.value_bytes, whole.value_bytes)
            && self.smallest > whole.smallest
    }
}

/// A table of a tree. Versions share it by `Arc`; its file is needed as long as any version holds
/// it.
pub struct Table {
    meta: TableMeta,
    /// The open reader of a table that stays open as long as it lives; set by the table cache.
    pinned: OnceLock<Pinned>,
    /// The open reader of any other table; filled and emptied by the table cache.
    slot: ArcSwapOption<TableReader>,
    /// Last, so that the reader is closed before the file is removed.
    file: Arc<FileUse>,
}

/// The file of one or more [`Table`] objects: a part of a table shares it with the whole.
struct FileUse {
    number: FileNumber,
    /// Called with the file number when an obsolete file is let go by its last holder.
    on_last_drop: OnceLock<Arc<dyn Fn(FileNumber) + Send + Sync>>,
}

/// A reader that stays open, and the place it takes among those; the cache counts the places.
struct Pinned {
    reader: Arc<TableReader>,
    place: Arc<()>,
}

impl Table {
    /// A table that nobody has opened yet.
    pub fn new(meta: TableMeta) -> Self {
        let file = Arc::new(FileUse { number: meta.number, on_last_drop: OnceLock::new() });
        Table::over(file, meta)
    }

    /// The part of this table that `meta` describes. The file is needed until both are gone.
    ///
    /// # Panics
    /// If it is no part of it.
    pub(crate) fn part(&self, meta: TableMeta) -> Self {
        assert!(meta.is_part_of(&self.meta), "a part is made of the table's last entries");
        Table::over(Arc::clone(&self.file), meta)
    }

    fn over(file: Arc<FileUse>, meta: TableMeta) -> Self {
        Table { meta, pinned: OnceLock::new(), slot: ArcSwapOption::empty(), file }
    }

    /// Takes the open reader, pinned or not, and its place, over from another table of the file.
    /// Whether there was one. Before others see this table.
    pub(crate) fn take_reader_of(&self, other: &Table) -> bool {
        if let Some(pinned) = other.pinned.get() {
            self.pin(Arc::clone(&pinned.reader), Arc::clone(&pinned.place));
            return true;
        }
        let reader = other.slot.load_full();
        let is_open = reader.is_some();
        self.slot.store(reader);
        is_open
    }

    /// The reader, if the table stays open as long as it lives.
    #[inline]
    pub(crate) fn pinned(&self) -> Option<&Arc<TableReader>> {
        self.pinned.get().map(|pinned| &pinned.reader)
    }

    /// Makes the table stay open as long as it lives, taking `place` for that time. Only the first
    /// call counts.
    pub(crate) fn pin(&self, reader: Arc<TableReader>, place: Arc<()>) {
        let _ = self.pinned.set(Pinned { reader, place });
    }

    /// What the manifest says of it.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Where the table cache keeps the open reader.
    pub(crate) fn slot(&self) -> &ArcSwapOption<TableReader> {
        &self.slot
    }

    /// Marks the table, whole and part, as no longer in the tree: `on_last_drop` is called when the
    /// last version that holds any of it is gone. Only the first call counts.
    pub(crate) fn set_obsolete(&self, on_last_drop: Arc<dyn Fn(FileNumber) + Send + Sync>) {
        let _ = self.file.on_last_drop.set(on_last_drop);
    }
}

impl Drop for FileUse {
    fn drop(&mut self) {
        if let Some(on_last_drop) = self.on_last_drop.get() {
            on_last_drop(self.number);
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("meta", &self.meta)
            .field("open", &(self.pinned().is_some() || self.slot.load().is_some()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
