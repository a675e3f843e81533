//! Writing a table, from the first entry to the sync of its file.
//!
//! Entries come in order. Blocks are cut before they outgrow their size and handed to the file in
//! pieces of about 1 MiB; the operating system is asked every 2 MiB to begin writing, so that the
//! final sync is short. The filter, the index and the properties wait in memory until the end.
//!
//! # Rules
//! * Entries are strictly ordered; a violation is a bug of the caller and panics.
//! * After an error the file is incomplete: the caller abandons the writer.
//! * [`TableWriter::finish`] makes the bytes durable, not the name: the caller syncs the directory.
//!
//! This file does not know what value kinds mean, beyond counting tombstones and noting expiry.

use std::path::Path;

use crc32fast::Hasher;

use crate::block::builder::{BlockBuilder, shared_len};
use crate::checksum::checksum_at;
use crate::compression::{compress, method_byte};
use crate::error::Result;
use crate::expiry::{ExpiryRange, user_value_len};
use crate::file_name::FileKind;
use crate::filter::FilterBuilder;
use crate::fs::{AppendFile, FileSystem};
use crate::key::{
    FileNumber, KEY_LEN_MAX, KeyspaceId, SequenceNumber, Trailer, VALUE_LEN_MAX, key_hash,
};
use crate::options::{Compression, FilterKind};
use crate::table::TableMeta;
use crate::table::format::{
    BLOCK_TRAILER_LEN, BlockHandle, Footer, Properties, Region, encode_header,
};

/// Bytes collected before they are given to the operating system.
const BUFFER_BYTES: usize = 1 << 20;
/// Bytes after which the operating system is asked to begin writing.
const WRITEBACK_BYTES: u64 = 2 << 20;

/// How a table is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableWriterOptions {
    pub(crate) number: FileNumber,
    /// Whose entries they are. The manifest knows; the table says it too, for the day when there is no manifest.
    pub(crate) keyspace: KeyspaceId,
    /// A block, as it lies in the file before compression, is no longer than this unless it holds a
    /// single entry.
    pub(crate) block_bytes: usize,
    pub(crate) compression: Compression,
    pub(crate) filter: FilterKind,
    /// Filter bits for each user key; 0: no filter.
    pub(crate) filter_bits: f32,
}

/// A table being written.
#[derive(Debug)]
pub(crate) struct TableWriter {
    options: TableWriterOptions,
    output: Output,
    block: BlockBuilder,
    index: BlockBuilder,
    filter: FilterBuilder,
    /// Everything but the length and the checksum, kept as entries come.
    meta: TableMeta,
    expiry: ExpiryRange,
    block_count: u64,
    /// Reused between blocks: an uncompressed payload, a separator, an encoded handle.
    payload: Vec<u8>,
    separator: Vec<u8>,
    handle: Vec<u8>,
}

impl TableWriter {
    /// Creates the file of table `options.number` in `dir`.
    pub(crate) fn create(
        fs: &dyn FileSystem,
        dir: &Path,
        options: TableWriterOptions,
    ) -> Result<Self> {
        let path = FileKind::Table(options.number).path(dir);
        let file = fs.create(&path)?;
        let mut output = Output {
            file,
            buffer: Vec::with_capacity(BUFFER_BYTES + options.block_bytes),
            written_bytes: 0,
            writeback_bytes: 0,
            hasher: Hasher::new(),
            has_failed: false,
        };
        output.buffer.extend_from_slice(&encode_header(options.number));
        Ok(TableWriter {
            options,
            output,
            block: BlockBuilder::new(),
            index: BlockBuilder::new(),
            filter: FilterBuilder::new(options.filter, options.filter_bits),
            meta: empty_meta(options.number),
            expiry: ExpiryRange::default(),
            block_count: 0,
            payload: Vec::new(),
            separator: Vec::new(),
            handle: Vec::new(),
        })
    }

    /// Adds an entry, which must stand after the last one.
    pub(crate) fn add(&mut self, key: &[u8], trailer: Trailer, value: &[u8]) -> Result<()> {
        assert!(key.len() <= KEY_LEN_MAX && value.len() <= VALUE_LEN_MAX, "entry is too long");
        self.expiry.add(trailer, value)?;
        let (shared, is_same_key) = self.check_order(key, trailer);
        let limit = self.options.block_bytes.saturating_sub(BLOCK_TRAILER_LEN);
        if !self.block.add(shared, (key, trailer, value), limit) {
            separator_into(self.block.last_key(), key, shared, &mut self.separator);
            self.finish_block()?;
            let added = self.block.add(0, (key, trailer, value), limit);
            debug_assert!(added, "an empty block takes any entry");
        }
        if !is_same_key {
            self.filter.add(key_hash(key));
        }
        self.meta.shadowed_count += u64::from(is_same_key);
        self.count(key, trailer, value);
        Ok(())
    }

    /// Panics unless the entry stands after the last. Returns the bytes its key shares with the
    /// last key, and whether it is the same key.
    #[inline]
    fn check_order(&self, key: &[u8], trailer: Trailer) -> (usize, bool) {
        // A block is never left empty between calls, so the last entry of the table is the last of
        // the block.
        let Some(last_trailer) = self.block.last_trailer() else {
            return (0, false);
        };
        let last = self.block.last_key();
        let shared = shared_len(last, key);
        let is_same_key = shared == last.len() && shared == key.len();
        let is_after = match (last.get(shared), key.get(shared)) {
            (None, None) => trailer < last_trailer,
            (Some(last_byte), Some(byte)) => last_byte < byte,
            (last_byte, _) => last_byte.is_none(),
        };
        assert!(is_after, "entries of a table must be strictly ordered");
        (shared, is_same_key)
    }

    #[inline]
    fn count(&mut self, key: &[u8], trailer: Trailer, value: &[u8]) {
        let meta = &mut self.meta;
        if meta.entry_count == 0 {
            meta.smallest = key.into();
        }
        meta.entry_count += 1;
        meta.tombstone_count += u64::from(trailer.is_tombstone());
        meta.key_bytes += key.len() as u64;
        meta.value_bytes += user_value_len(trailer, value.len()) as u64;
        meta.sequence_min = meta.sequence_min.min(trailer.sequence());
        meta.sequence_max = meta.sequence_max.max(trailer.sequence());
    }

    /// Sets when the oldest and the newest entry were written, in Unix milliseconds.
    pub(crate) fn set_write_times(&mut self, min_ms: u64, max_ms: u64) {
        assert!(min_ms <= max_ms, "write times are reversed");
        self.meta.write_time_min_ms = min_ms;
        self.meta.write_time_max_ms = max_ms;
    }

    /// About how long the file would be if it were finished now.
    pub(crate) fn estimated_bytes(&self) -> u64 {
        let pending =
            self.block.estimated_len() + self.index.estimated_len() + self.filter.estimated_bytes();
        self.output.position() + pending as u64
    }

    /// Writes the block and its index entry under `self.separator`.
    fn finish_block(&mut self) -> Result<()> {
        let offset = self.output.position();
        let start = self.output.buffer.len();
        let buffer = &mut self.output.buffer;
        let mut stored_as = Compression::None;
        if self.options.compression == Compression::None {
            self.block.finish(buffer);
        } else {
            self.payload.clear();
            self.block.finish(&mut self.payload);
            if compress(self.options.compression, &self.payload, buffer) {
                stored_as = self.options.compression;
            } else {
                buffer.extend_from_slice(&self.payload);
            }
            self.payload.shrink_to(BUFFER_BYTES);
        }
        buffer.push(method_byte(stored_as));
        let crc = checksum_at(self.options.number.0, offset, &[&buffer[start..]]);
        buffer.extend_from_slice(&crc.to_le_bytes());
        let len = (buffer.len() - start) as u64;

        self.handle.clear();
        BlockHandle { offset, len }.encode(&mut self.handle);
        let shared = shared_len(self.index.last_key(), &self.separator);
        self.index.add(shared, (&self.separator, Trailer::OLDEST, &self.handle), usize::MAX);
        self.block_count += 1;
        self.output.flush_if_full()
    }

    /// Writes the rest, makes the file durable and says what the manifest must know. There must be
    /// entries.
    pub(crate) fn finish(mut self) -> Result<TableMeta> {
        assert!(self.meta.entry_count > 0, "a table is never empty");
        self.meta.largest = self.block.last_key().into();
        self.meta.expiry_min_ms = self.expiry.min_ms();
        self.meta.expiry_max_ms = self.expiry.max_ms();
        self.separator.clear();
        self.separator.extend_from_slice(self.block.last_key());
        self.finish_block()?;

        let number = self.options.number;
        let output = &mut self.output;
        let filter_offset = output.position();
        let filter = output.put_region(number, |out| self.filter.finish(filter_offset, out));
        let index = output.put_region(number, |out| self.index.finish(out));
        let (compression, block_count) = (self.options.compression, self.block_count);
        let keyspace = Some(self.options.keyspace);
        let properties = Properties { meta: self.meta, block_count, compression, keyspace };
        let region = output.put_region(number, |out| properties.encode(out));
        let footer = Footer { filter, index, properties: region };
        output.buffer.extend_from_slice(&footer.encode(number));
        output.flush()?;
        output.file.sync_data()?;
        let mut meta = properties.meta;
        meta.file_bytes = output.written_bytes;
        meta.checksum = self.output.hasher.finalize();
        Ok(meta)
    }
}

fn empty_meta(number: FileNumber) -> TableMeta {
    TableMeta {
        number,
        file_bytes: 0,
        entry_count: 0,
        tombstone_count: 0,
        shadowed_count: 0,
        key_bytes: 0,
        value_bytes: 0,
        smallest: Box::default(),
        largest: Box::default(),
        sequence_min: SequenceNumber::MAX,
        sequence_max: SequenceNumber::ZERO,
        write_time_min_ms: 0,
        write_time_max_ms: 0,
        expiry_min_ms: u64::MAX,
        expiry_max_ms: u64::MAX,
        checksum: 0,
        hidden_entry_count: 0,
    }
}

/// A short key at or after `last` and, if the keys differ, before `next`; they share exactly
/// `shared` bytes.
fn separator_into(last: &[u8], next: &[u8], shared: usize, out: &mut Vec<u8>) {
    out.clear();
    let is_prefix = shared == last.len();
    if !is_prefix && next.len() > shared + 1 {
        // One byte into the difference, `next` is already above `last`; it has more bytes, so it is
        // above its prefix.
        out.extend_from_slice(&next[..=shared]);
    } else if !is_prefix && last[shared] + 1 < next[shared] {
        out.extend_from_slice(&last[..shared]);
        out.push(last[shared] + 1);
    } else {
        out.extend_from_slice(last);
    }
}

/// The file with what is not yet given to it.
#[derive(Debug)]
struct Output {
    file: Box<dyn AppendFile>,
    buffer: Vec<u8>,
    /// Given to the file so far.
    written_bytes: u64,
    /// Of these, what the operating system was asked to write.
    writeback_bytes: u64,
    hasher: Hasher,
    has_failed: bool,
}

impl Output {
    /// The offset in the file of what is appended next.
    fn position(&self) -> u64 {
        self.written_bytes + self.buffer.len() as u64
    }

    fn put_region(&mut self, number: FileNumber, encode: impl FnOnce(&mut Vec<u8>)) -> Region {
        let offset = self.position();
        let start = self.buffer.len();
        encode(&mut self.buffer);
        Region::of(number, offset, &self.buffer[start..])
    }

    fn flush_if_full(&mut self) -> Result<()> {
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        assert!(!self.has_failed, "a table whose file failed must be abandoned");
        self.has_failed = true;
        self.hasher.update(&self.buffer);
        self.file.append(&self.buffer)?;
        self.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        // A huge value must not hold its memory until the table is finished.
        self.buffer.shrink_to(2 * BUFFER_BYTES);
        if self.written_bytes - self.writeback_bytes >= WRITEBACK_BYTES {
            self.file.start_writeback()?;
            self.writeback_bytes = self.written_bytes;
        }
        self.has_failed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0u8..4, 0..6)
    }

    proptest! {
        #[test]
        fn separators_separate(a in keys(), b in keys()) {
            let (last, next) = if a <= b { (a, b) } else { (b, a) };
            let mut separator = Vec::new();
            separator_into(&last, &next, shared_len(&last, &next), &mut separator);
            prop_assert!(last <= separator && separator.len() <= last.len().max(1));
            prop_assert!(last == next && separator == last || separator < next);
        }
    }

    #[test]
    fn separators_are_short() {
        let mut separator = Vec::new();
        separator_into(b"user00000123", b"user00000987", 9, &mut separator);
        assert_eq!(separator, b"user000009");
        separator_into(b"ab", b"abc", 2, &mut separator);
        assert_eq!(separator, b"ab");
    }
}
