//! Tables: immutable sorted files of entries, `NNNNNN.table`.
//!
//! [`TableMeta`] is what the manifest knows of a table, so that open reads no table. [`Table`] is a
//! table of a tree: its metadata, and its open reader once somebody needed it. The byte format, the
//! reader and the writer stand in the submodules.

pub(crate) mod cursor;
pub(crate) mod format;
mod open;
pub(crate) mod reader;
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
}

/// A table of a tree. Versions share it by `Arc`; its file is needed as long as any version holds
/// it.
pub struct Table {
    meta: TableMeta,
    /// The open reader of a table that stays open as long as it lives; set by the table cache.
    pinned: OnceLock<Pinned>,
    /// The open reader of any other table; filled and emptied by the table cache.
    slot: ArcSwapOption<TableReader>,
    /// Called with the file number when an obsolete table is let go by its last holder.
    on_last_drop: OnceLock<Arc<dyn Fn(FileNumber) + Send + Sync>>,
}

/// A reader that stays open, and the place it takes among those; the cache counts the places.
struct Pinned {
    reader: Arc<TableReader>,
    _place: Arc<()>,
}

impl Table {
    /// A table that nobody has opened yet.
    pub fn new(meta: TableMeta) -> Self {
        Table {
            meta,
            pinned: OnceLock::new(),
            slot: ArcSwapOption::empty(),
            on_last_drop: OnceLock::new(),
        }
    }

    /// The reader, if the table stays open as long as it lives.
    #[inline]
    pub(crate) fn pinned(&self) -> Option<&Arc<TableReader>> {
        self.pinned.get().map(|pinned| &pinned.reader)
    }

    /// Makes the table stay open as long as it lives, taking `place` for that time. Only the first
    /// call counts.
    pub(crate) fn pin(&self, reader: Arc<TableReader>, place: Arc<()>) {
        let _ = self.pinned.set(Pinned { reader, _place: place });
    }

    /// What the manifest says of it.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Where the table cache keeps the open reader.
    pub(crate) fn slot(&self) -> &ArcSwapOption<TableReader> {
        &self.slot
    }

    /// Marks the table as no longer part of the tree: `on_last_drop` is called when the last
    /// version that holds it is gone. Only the first call counts.
    pub(crate) fn set_obsolete(&self, on_last_drop: Arc<dyn Fn(FileNumber) + Send + Sync>) {
        let _ = self.on_last_drop.set(on_last_drop);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Some(on_last_drop) = self.on_last_drop.get() {
            on_last_drop(self.meta.number);
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
