//! Verifying a whole table, every byte of it.
//!
//! The file is read from start to end, whatever the read mode, past the block cache. Each byte
//! enters the checksum of the file that the manifest knows; beyond that, what the checksums cannot
//! say is checked: that the writer kept the format's promises. Blocks lie back to back, entries are
//! strictly ordered within and across blocks, separators separate, searches can find what walks see,
//! the filter holds every key,
//! counts and ranges are those of the manifest: of the whole file, and of the part of it that belongs
//! to the tree.

use std::sync::Arc;

use crc32fast::Hasher;

use crate::block::bytes::BlockBytes;
use crate::block::cursor::BlockCursor;
use crate::error::{Error, Result};
use crate::expiry::{ExpiryRange, user_value_len};
use crate::filter::KeyProbe;
use crate::key::{SequenceNumber, Trailer, compare_entries, escape, key_hash};
use crate::options::Compression;
use crate::table::TableMeta;
use crate::table::format::{BLOCK_TRAILER_LEN, BlockHandle, HEADER_LEN};
use crate::table::reader::{TableReader, locate};

/// What is read at once where there are no blocks to go by.
const PIECE_BYTES: u64 = 1 << 20;

impl TableReader {
    /// Reads and checks every byte of the table, that it keeps all promises of its format, and that
    /// `part` describes it, or the last of its entries.
    pub(crate) fn verify_all(&self, part: &TableMeta) -> Result<()> {
        let mut pass = Pass {
            reader: self,
            part,
            hasher: Hasher::new(),
            stored: Vec::new(),
            unpacked: Arc::default(),
            block: BlockCursor::new(),
            last: None,
            hidden: Found::default(),
            found: Found::default(),
        };
        pass.hash_range(0, HEADER_LEN as u64)?;
        let mut end = HEADER_LEN as u64;
        for ordinal in 0..self.block_count() {
            let handle = self.handle(ordinal)?;
            if handle.offset != end {
                return Err(self.wrong(end, "data blocks are not back to back"));
            }
            self.check_separator(ordinal)?;
            pass.check_block(ordinal, handle)?;
            end = handle.end();
        }
        if end != self.data_end() {
            return Err(self.wrong(end, "bytes between the data blocks and the filter"));
        }
        pass.hash_range(end, self.meta.file_bytes)?;
        if pass.hasher.clone().finalize() != self.meta.checksum {
            return Err(self.wrong(0, "checksum of the whole table mismatches"));
        }
        pass.check_counts()
    }

    /// The separator of a block is one that a search in the index can find.
    fn check_separator(&self, ordinal: usize) -> Result<()> {
        let index = self.index.block(&self.index_bytes);
        if index.is_head_padded(ordinal).map_err(|e| self.at_index(e))? {
            return Ok(());
        }
        Err(self.wrong(self.footer.index.offset, "a separator is not padded with zeros"))
    }

    #[cold]
    fn wrong(&self, offset: u64, what: impl Into<String>) -> Error {
        Error::corruption(&self.path, offset, what)
    }
}

/// One pass over a table.
struct Pass<'a> {
    reader: &'a TableReader,
    /// What the tree says of it.
    part: &'a TableMeta,
    hasher: Hasher,
    /// Reused between blocks.
    stored: Vec<u8>,
    unpacked: Arc<[u8]>,
    block: BlockCursor,
    /// The entry before, across blocks.
    last: Option<(Vec<u8>, Trailer)>,
    /// Entries before the part.
    hidden: Found,
    /// Entries of the part.
    found: Found,
}

/// What the entries add up to.
struct Found {
    entry_count: u64,
    tombstone_count: u64,
    shadowed_count: u64,
    key_bytes: u64,
    value_bytes: u64,
    smallest: Vec<u8>,
    sequence_min: SequenceNumber,
    sequence_max: SequenceNumber,
    expiry: ExpiryRange,
}

impl Default for Found {
    fn default() -> Self {
        Found {
            entry_count: 0,
            tombstone_count: 0,
            shadowed_count: 0,
            key_bytes: 0,
            value_bytes: 0,
            smallest: Vec::new(),
            sequence_min: SequenceNumber::MAX,
            sequence_max: SequenceNumber::ZERO,
            expiry: ExpiryRange::default(),
        }
    }
}

impl Found {
    fn add(&mut self, key: &[u8], trailer: Trailer, value: &[u8]) -> Result<()> {
        if self.entry_count == 0 {
            self.smallest = key.to_vec();
        }
        self.entry_count += 1;
        self.tombstone_count += u64::from(trailer.is_tombstone());
        self.key_bytes += key.len() as u64;
        self.value_bytes += user_value_len(trailer, value.len()) as u64;
        self.sequence_min = self.sequence_min.min(trailer.sequence());
        self.sequence_max = self.sequence_max.max(trailer.sequence());
        self.expiry.add(trailer, value)
    }

    /// What it says of itself, beside that which `like` says.
    fn meta(&self, like: &TableMeta) -> TableMeta {
        TableMeta {
            entry_count: self.entry_count,
            tombstone_count: self.tombstone_count,
            shadowed_count: self.shadowed_count,
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes,
            smallest: self.smallest.as_slice().into(),
            ..like.clone()
        }
    }

    /// These entries and those of `next`, which stand behind them.
    fn with(self, next: &Found) -> Found {
        if self.entry_count == 0 {
            return Found { smallest: next.smallest.clone(), ..*next };
        }
        Found {
            entry_count: self.entry_count + next.entry_count,
            tombstone_count: self.tombstone_count + next.tombstone_count,
            shadowed_count: self.shadowed_count + next.shadowed_count,
            key_bytes: self.key_bytes + next.key_bytes,
            value_bytes: self.value_bytes + next.value_bytes,
            smallest: self.smallest,
            sequence_min: self.sequence_min.min(next.sequence_min),
            sequence_max: self.sequence_max.max(next.sequence_max),
            expiry: self.expiry.with(&next.expiry),
        }
    }
}

impl Pass<'_> {
    /// Takes the bytes from `start` to `end` into the checksum of the file.
    fn hash_range(&mut self, start: u64, end: u64) -> Result<()> {
        let mut at = start;
        while at < end {
            let len = (end - at).min(PIECE_BYTES);
            self.stored.resize(len as usize, 0);
            self.reader.file.read_at(&mut self.stored, at)?;
            self.hasher.update(&self.stored);
            at += len;
        }
        Ok(())
    }

    fn check_block(&mut self, ordinal: usize, handle: BlockHandle) -> Result<()> {
        let reader = self.reader;
        self.block.clear();
        self.stored.resize(handle.len as usize, 0);
        reader.file.read_at(&mut self.stored, handle.offset)?;
        self.hasher.update(&self.stored);
        reader.check_block(&self.stored, handle.offset)?;
        let bytes = match reader.stored_compression(&self.stored, handle.offset)? {
            Compression::None => {
                let payload = &self.stored[..self.stored.len() - BLOCK_TRAILER_LEN];
                BlockBytes::heap(Arc::from(payload), 0..payload.len())
            }
            compression => {
                let unpacked = &mut self.unpacked;
                let len = reader.unpack_into(compression, &self.stored, handle.offset, unpacked)?;
                BlockBytes::heap(Arc::clone(unpacked), 0..len)
            }
        };
        let located = |e| locate(e, &reader.path, handle.offset);
        self.block.set_block(bytes).map_err(located)?;
        self.block.seek_to_first().map_err(located)?;
        self.check_first(ordinal, handle)?;
        while self.block.valid() {
            self.check_entry(handle)?;
            self.block.next().map_err(located)?;
        }
        self.check_last(ordinal)
    }

    /// The separator before a block is below its first key, or is that key if it goes on from the
    /// block before: a lookup goes on if and only if it is.
    fn check_first(&self, ordinal: usize, handle: BlockHandle) -> Result<()> {
        let (Some(before), Some((last_key, _))) = (ordinal.checked_sub(1), &self.last) else {
            return Ok(());
        };
        let separator = self.reader.separator(before)?;
        let first = self.block.key();
        let (is_right, what) = if first == last_key {
            (*separator == *first, "a separator is not the key that goes on behind it")
        } else {
            (*separator < *first, "a separator is above the block after it")
        };
        if is_right { Ok(()) } else { Err(self.reader.wrong(handle.offset, what)) }
    }

    /// The separator of a block is at or above its last key.
    fn check_last(&self, ordinal: usize) -> Result<()> {
        let separator = self.reader.separator(ordinal)?;
        if self.last.as_ref().is_none_or(|(last_key, _)| separator < *last_key) {
            let at = self.reader.footer.index.offset;
            return Err(self.reader.wrong(at, "a separator is below the block before it"));
        }
        Ok(())
    }

    fn check_entry(&mut self, handle: BlockHandle) -> Result<()> {
        let reader = self.reader;
        let (key, trailer) = (self.block.key(), self.block.trailer().stamped(reader.stamp));
        if let Some((last_key, last_trailer)) = &self.last
            && compare_entries((last_key, *last_trailer), (key, trailer)).is_ge()
        {
            let what = format!("key {} is out of order", escape(key));
            return Err(reader.wrong(handle.offset, what));
        }
        if !self.block.is_head_padded().map_err(|e| locate(e, &reader.path, handle.offset))? {
            let what = format!("key {} is not padded with zeros", escape(key));
            return Err(reader.wrong(handle.offset, what));
        }
        if !reader.filter.may_contain(&reader.filter_bytes, &KeyProbe::new(key_hash(key))) {
            let what = format!("filter does not hold the key {}", escape(key));
            return Err(reader.wrong(reader.footer.filter.offset, what));
        }
        let is_hidden = self.part.is_partial() && *key < *self.part.smallest;
        let found = if is_hidden { &mut self.hidden } else { &mut self.found };
        let is_shadowed = self.last.as_ref().is_some_and(|(last_key, _)| last_key == key);
        found.shadowed_count += u64::from(is_shadowed);
        let added = found.add(key, trailer, self.block.value());
        added.map_err(|error| locate(error, &reader.path, handle.offset))?;
        let (last_key, last_trailer) = self.last.get_or_insert_with(|| (Vec::new(), trailer));
        last_key.clear();
        last_key.extend_from_slice(key);
        *last_trailer = trailer;
        Ok(())
    }

    /// Compares what was found with the properties, and the part of it with the manifest.
    fn check_counts(self) -> Result<()> {
        let Pass { reader, part, hidden, found, last, .. } = self;
        let is_part_right =
            found.meta(part) == *part && hidden.entry_count == part.hidden_entry_count;
        let (largest, _) = last.unwrap_or_else(|| (Vec::new(), Trailer::OLDEST));
        let found = hidden.with(&found);
        let whole = TableMeta {
            largest: largest.into(),
            sequence_min: found.sequence_min,
            sequence_max: found.sequence_max,
            expiry_min_ms: found.expiry.min_ms(),
            expiry_max_ms: found.expiry.max_ms(),
            ..found.meta(&reader.meta)
        };
        let what = if whole != reader.meta {
            "entries of the table disagree with its properties"
        } else if !is_part_right {
            "the part of the table that the manifest describes is not there"
        } else {
            return Ok(());
        };
        Err(reader.wrong(reader.footer.properties.offset, what))
    }
}
