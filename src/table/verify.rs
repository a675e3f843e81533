//! Verifying a whole table, every byte of it.
//!
//! The file is read from start to end, whatever the read mode, past the block cache. Each byte
//! enters the checksum of the file that the manifest knows; beyond that, what the checksums cannot
//! say is checked: that the writer kept the format's promises. Blocks lie back to back, entries are
//! strictly ordered within and across blocks, separators separate, the filter holds every key,
//! counts and ranges are those of the manifest.

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
    /// Reads and checks every byte of the table, and that it keeps all promises of its format.
    pub(crate) fn verify_all(&self) -> Result<()> {
        let mut pass = Pass {
            reader: self,
            hasher: Hasher::new(),
            stored: Vec::new(),
            unpacked: Arc::default(),
            block: BlockCursor::new(),
            last: None,
            found: Found::default(),
        };
        pass.hash_range(0, HEADER_LEN as u64)?;
        let mut end = HEADER_LEN as u64;
        for ordinal in 0..self.block_count() {
            let handle = self.handle(ordinal)?;
            if handle.offset != end {
                return Err(self.wrong(end, "data blocks are not back to back"));
            }
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

    #[cold]
    fn wrong(&self, offset: u64, what: impl Into<String>) -> Error {
        Error::corruption(&self.path, offset, what)
    }
}

/// One pass over a table.
struct Pass<'a> {
    reader: &'a TableReader,
    hasher: Hasher,
    /// Reused between blocks.
    stored: Vec<u8>,
    unpacked: Arc<[u8]>,
    block: BlockCursor,
    /// The entry before, across blocks.
    last: Option<(Vec<u8>, Trailer)>,
    found: Found,
}

/// What the entries add up to.
struct Found {
    entry_count: u64,
    tombstone_count: u64,
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
            key_bytes: 0,
            value_bytes: 0,
            smallest: Vec::new(),
            sequence_min: SequenceNumber::MAX,
            sequence_max: SequenceNumber::ZERO,
            expiry: ExpiryRange::default(),
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

    /// The separator before a block is below its first key, unless the key goes on from the block
    /// before.
    fn check_first(&self, ordinal: usize, handle: BlockHandle) -> Result<()> {
        let (Some(before), Some((last_key, _))) = (ordinal.checked_sub(1), &self.last) else {
            return Ok(());
        };
        let separator = self.separator(before)?;
        let first = self.block.key();
        if *separator >= *first && first != last_key {
            return Err(self
                .reader
                .wrong(handle.offset, "a separator is above the block after it"));
        }
        Ok(())
    }

    /// The separator of a block is at or above its last key.
    fn check_last(&self, ordinal: usize) -> Result<()> {
        let separator = self.separator(ordinal)?;
        if self.last.as_ref().is_none_or(|(last_key, _)| separator < *last_key) {
            let at = self.reader.footer.index.offset;
            return Err(self.reader.wrong(at, "a separator is below the block before it"));
        }
        Ok(())
    }

    fn separator(&self, ordinal: usize) -> Result<Vec<u8>> {
        let reader = self.reader;
        let mut separator = Vec::new();
        let index = reader.index.block(&reader.index_bytes);
        index.key_into(ordinal, &mut separator).map_err(|e| reader.at_index(e))?;
        Ok(separator)
    }

    fn check_entry(&mut self, handle: BlockHandle) -> Result<()> {
        let reader = self.reader;
        let (key, trailer) = (self.block.key(), self.block.trailer());
        if let Some((last_key, last_trailer)) = &self.last
            && compare_entries((last_key, *last_trailer), (key, trailer)).is_ge()
        {
            let what = format!("key {} is out of order", escape(key));
            return Err(reader.wrong(handle.offset, what));
        }
        if !reader.filter.may_contain(&reader.filter_bytes, &KeyProbe::new(key_hash(key))) {
            let what = format!("filter does not hold the key {}", escape(key));
            return Err(reader.wrong(reader.footer.filter.offset, what));
        }
        let found = &mut self.found;
        if found.entry_count == 0 {
            found.smallest = key.to_vec();
        }
        found.entry_count += 1;
        found.tombstone_count += u64::from(trailer.is_tombstone());
        found.key_bytes += key.len() as u64;
        let value = self.block.value();
        let noted = found.expiry.add(trailer, value);
        noted.map_err(|error| locate(error, &reader.path, handle.offset))?;
        found.value_bytes += user_value_len(trailer, value.len()) as u64;
        found.sequence_min = found.sequence_min.min(trailer.sequence());
        found.sequence_max = found.sequence_max.max(trailer.sequence());
        let (last_key, last_trailer) = self.last.get_or_insert_with(|| (Vec::new(), trailer));
        last_key.clear();
        last_key.extend_from_slice(key);
        *last_trailer = trailer;
        Ok(())
    }

    /// Compares what was found with the manifest, which the properties were compared with at open.
    fn check_counts(self) -> Result<()> {
        let (largest, _) = self.last.unwrap_or_else(|| (Vec::new(), Trailer::OLDEST));
        let Found { entry_count, tombstone_count, key_bytes, value_bytes, .. } = self.found;
        let found = TableMeta {
            entry_count,
            tombstone_count,
            key_bytes,
            value_bytes,
            smallest: self.found.smallest.into(),
            largest: largest.into(),
            sequence_min: self.found.sequence_min,
            sequence_max: self.found.sequence_max,
            expiry_min_ms: self.found.expiry.min_ms(),
            expiry_max_ms: self.found.expiry.max_ms(),
            ..self.reader.meta.clone()
        };
        if found != self.reader.meta {
            let what = "entries of the table disagree with its properties";
            return Err(self.reader.wrong(self.reader.footer.properties.offset, what));
        }
        Ok(())
    }
}
