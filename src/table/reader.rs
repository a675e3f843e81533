//! Reading an open table: look a key up, hand out verified blocks.
//!
//! # Two ways to the bytes, one set of answers
//! * [`ReadMode::Mmap`]: the file is mapped. Index, filter and uncompressed blocks are used where
//!   they lie. A block is verified at its first touch and remembered in a bitmap; the scrubber
//!   clears the bitmap ([`TableReader::clear_verified`]) so that later damage is found too.
//! * [`ReadMode::Pread`]: index and filter are read to the heap at open, each block when it is
//!   needed, verified, and kept in the block cache. There is no bitmap: bytes in memory are private
//!   copies of verified ones.
//!
//! Compressed blocks are decompressed into the block cache in both modes. With [`Verify::Always`]
//! every read of a block from the file is verified, not the use of a private copy.
//!
//! # Rules
//! * The pages of a block are populated before their first use, so that a failing device is an
//!   error and not `SIGBUS`.
//! * Wrong bytes are an error that names file and offset. An error is never "not found".
//! * A user key's versions may span blocks, never tables. A lookup that runs off a block's end goes
//!   on in the next block if and only if the separator is the key.
//! * Value kinds are not interpreted here.
//!
//! No locks. The bitmap is relaxed: a lost bit costs a second verification.

use std::cell::RefCell;
use std::ops::{AddAssign, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::block::bytes::{BlockBytes, PinnedValue};
use crate::block::{BlockLayout, BlockPosition};
use crate::cache::BlockCache;
use crate::checksum::checksum_at;
use crate::compression::{decompress, method_from_byte, split_compressed};
use crate::error::{Error, ErrorKind, Result};
use crate::filter::{FilterLayout, KeyProbe};
use crate::fs::{Access, Mapping, ReadFile};
use crate::key::{SequenceNumber, Trailer};
use crate::options::{Compression, ReadMode, Verify};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::thread_local;
use crate::table::TableMeta;
use crate::table::format::{BLOCK_TRAILER_LEN, BlockHandle, Footer, HEADER_LEN};

/// How tables are read; one for all tables of a database.
#[derive(Clone, Debug)]
pub(crate) struct ReadContext {
    pub(crate) read_mode: ReadMode,
    pub(crate) verify: Verify,
    pub(crate) cache: Option<Arc<BlockCache>>,
}

/// What reading cost. Plain numbers: each reader counts in its own and adds them up later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadStats {
    /// Filters asked.
    pub(crate) filter_checks: u64,
    /// Filters that said no.
    pub(crate) filter_useful: u64,
    /// Filters that said maybe where there was nothing.
    pub(crate) filter_false_positives: u64,
    /// Lookups in tables that have no filter.
    pub(crate) unfiltered_lookups: u64,
    /// Data blocks looked into, wherever they came from.
    pub(crate) blocks_read: u64,
    /// Bytes of blocks taken from the file (mapped or read), not from the cache.
    pub(crate) block_bytes_read: u64,
    pub(crate) cache_hits: u64,
    pub(crate) cache_misses: u64,
}

impl AddAssign for ReadStats {
    fn add_assign(&mut self, other: Self) {
        self.filter_checks += other.filter_checks;
        self.filter_useful += other.filter_useful;
        self.filter_false_positives += other.filter_false_positives;
        self.unfiltered_lookups += other.unfiltered_lookups;
        self.blocks_read += other.blocks_read;
        self.block_bytes_read += other.block_bytes_read;
        self.cache_hits += other.cache_hits;
        self.cache_misses += other.cache_misses;
    }
}

/// An open table.
#[derive(Debug)]
pub(crate) struct TableReader {
    pub(super) path: PathBuf,
    /// Of the whole file, whatever part of it belongs to a tree.
    pub(super) meta: TableMeta,
    /// What the manifest gave its entries as sequence number; 0 if they have their own.
    pub(super) stamp: SequenceNumber,
    pub(super) file: Arc<dyn ReadFile>,
    /// For single blocks; present in [`ReadMode::Mmap`].
    pub(super) map: Option<Arc<Mapping>>,
    /// For long scans; made when the first one comes.
    pub(super) sequential_map: OnceLock<Arc<Mapping>>,
    pub(super) index_bytes: BlockBytes,
    pub(super) index: BlockLayout,
    pub(super) filter_bytes: BlockBytes,
    pub(super) filter: FilterLayout,
    pub(super) footer: Footer,
    pub(super) compression: Compression,
    pub(super) verify: Verify,
    pub(super) cache: Option<Arc<BlockCache>>,
    /// One bit for each data block: verified since open, or since the bits were cleared. Used when
    /// mapped.
    pub(super) verified: Box<[AtomicU64]>,
    /// Set at each use; the table cache clears it to see which tables are idle.
    pub(super) is_recently_used: AtomicBool,
}

/// A data block for one lookup: borrowed where it lies, or held.
pub(super) enum Fetched<'a> {
    Mapped(&'a Arc<Mapping>, Range<usize>),
    Heap(Arc<[u8]>),
}

impl Fetched<'_> {
    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Fetched::Mapped(map, range) => &map[range.clone()],
            Fetched::Heap(bytes) => bytes,
        }
    }

    #[inline]
    pub(super) fn into_block_bytes(self) -> BlockBytes {
        match self {
            Fetched::Mapped(map, range) => BlockBytes::mapped(Arc::clone(map), range),
            Fetched::Heap(bytes) => {
                let len = bytes.len();
                BlockBytes::heap(bytes, 0..len)
            }
        }
    }
}

impl TableReader {
    /// The newest version of `key` whose trailer is at most `bound`. The table need not cover the
    /// key.
    pub(crate) fn get(
        &self,
        key: &[u8],
        probe: &KeyProbe,
        bound: Trailer,
        stats: &mut ReadStats,
    ) -> Result<Option<(Trailer, PinnedValue)>> {
        if self.filter.is_present() {
            stats.filter_checks += 1;
            if !self.filter.may_contain(&self.filter_bytes, probe) {
                stats.filter_useful += 1;
                return Ok(None);
            }
        } else {
            stats.unfiltered_lookups += 1;
        }
        let found = self.search(key, bound, stats)?;
        if found.is_none() && self.filter.is_present() {
            stats.filter_false_positives += 1;
        }
        Ok(found)
    }

    fn search(
        &self,
        key: &[u8],
        bound: Trailer,
        stats: &mut ReadStats,
    ) -> Result<Option<(Trailer, PinnedValue)>> {
        let bound = bound.unstamped(self.stamp);
        let separator = self.find_separator(key)?;
        let mut ordinal = separator.index;
        let mut is_last = !separator.is_same_key;
        while ordinal < self.index.count() {
            let handle = self.handle(ordinal)?;
            let fetched = self.fetch(ordinal, handle, false, stats)?;
            let located = |e| locate(e, &self.path, handle.offset);
            let layout = BlockLayout::parse(fetched.bytes()).map_err(located)?;
            let block = layout.block(fetched.bytes());
            let position = block.lower_bound(key, bound).map_err(located)?;
            if position.is_same_key {
                let trailer = block.trailer(position.index).stamped(self.stamp);
                let range = block.value_range(position.index).map_err(located)?;
                let value = fetched.into_block_bytes().slice(range);
                return Ok(Some((trailer, PinnedValue(value))));
            }
            if is_last || position.index < layout.count() {
                break;
            }
            ordinal = self.skip_versions(ordinal + 1, key, bound, stats)?;
            is_last = true;
        }
        Ok(None)
    }

    /// The place in the index of the first separator at or after `key`, and so of the first block
    /// that may hold it.
    #[inline]
    pub(super) fn find_separator(&self, key: &[u8]) -> Result<BlockPosition> {
        let index = self.index.block(&self.index_bytes);
        index.lower_bound(key, Trailer::NEWEST).map_err(|e| self.at_index(e))
    }

    /// The first block from `low` on that ends at or after (`key`, `trailer`). The separator before
    /// `low` is `key`: its versions may fill many blocks, which this halves instead of walking.
    #[cold]
    pub(super) fn skip_versions(
        &self,
        mut low: usize,
        key: &[u8],
        trailer: Trailer,
        stats: &mut ReadStats,
    ) -> Result<usize> {
        let after_key = [key, &[0]].concat();
        let mut high = self.find_separator(&after_key)?.index;
        while low < high {
            let middle = low + (high - low) / 2;
            let handle = self.handle(middle)?;
            let fetched = self.fetch(middle, handle, false, stats)?;
            let located = |e| locate(e, &self.path, handle.offset);
            let layout = BlockLayout::parse(fetched.bytes()).map_err(located)?;
            let position = layout.block(fetched.bytes()).lower_bound(key, trailer);
            if position.map_err(located)?.index < layout.count() {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// The separator of data block `ordinal`: at or above its keys, and not above those of the next.
    pub(super) fn separator(&self, ordinal: usize) -> Result<Vec<u8>> {
        let mut separator = Vec::new();
        let index = self.index.block(&self.index_bytes);
        index.key_into(ordinal, &mut separator).map_err(|e| self.at_index(e))?;
        Ok(separator)
    }

    /// About `count` keys that cut the table into stretches of blocks, ascending, each with the
    /// bytes of the stretch that ends there. Reads no data block.
    pub(crate) fn anchors(&self, count: usize) -> Result<Vec<(Vec<u8>, u64)>> {
        let step = self.block_count().div_ceil(count.max(1));
        let mut anchors = Vec::with_capacity(count);
        let mut start = HEADER_LEN as u64;
        for first in (0..self.block_count()).step_by(step) {
            let last = (first + step).min(self.block_count()) - 1;
            let end = self.handle(last)?.end();
            anchors.push((self.separator(last)?, end.saturating_sub(start)));
            start = end;
        }
        Ok(anchors)
    }

    /// What the file says of itself.
    #[cfg(test)]
    pub(crate) fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Data blocks in the table.
    pub(crate) fn block_count(&self) -> usize {
        self.index.count()
    }

    /// Where the data blocks end.
    pub(super) fn data_end(&self) -> u64 {
        self.footer.filter.offset
    }

    /// The place of data block `ordinal`.
    #[inline]
    pub(super) fn handle(&self, ordinal: usize) -> Result<BlockHandle> {
        let value = self.index.block(&self.index_bytes).value(ordinal);
        value
            .and_then(|value| BlockHandle::decode(value, self.data_end()))
            .map_err(|e| self.at_index(e))
    }

    /// Data block `ordinal`, verified as the options say, decompressed. `is_populated`: its pages
    /// have been.
    pub(super) fn fetch(
        &self,
        ordinal: usize,
        handle: BlockHandle,
        is_populated: bool,
        stats: &mut ReadStats,
    ) -> Result<Fetched<'_>> {
        stats.blocks_read += 1;
        let uses_cache = self.map.is_none() || self.compression != Compression::None;
        if let (true, Some(cache)) = (uses_cache, &self.cache) {
            if let Some(block) = cache.get(self.meta.number, handle.offset) {
                stats.cache_hits += 1;
                return Ok(Fetched::Heap(block));
            }
            stats.cache_misses += 1;
        }
        stats.block_bytes_read += handle.len;
        let block = match &self.map {
            Some(map) => {
                let range = handle.offset as usize..handle.end() as usize;
                if self.verify == Verify::Always || !self.is_verified(ordinal) {
                    if !is_populated {
                        // Without the hint each page of a cold block would be a read of its own.
                        map.will_need(range.clone());
                        map.populate(range.clone())?;
                    }
                    self.check_block(&map[range.clone()], handle.offset)?;
                    self.set_verified(ordinal);
                }
                let stored = &map[range.clone()];
                match self.stored_compression(stored, handle.offset)? {
                    Compression::None => {
                        return Ok(Fetched::Mapped(
                            map,
                            range.start..range.end - BLOCK_TRAILER_LEN,
                        ));
                    }
                    compression => self.unpack(compression, stored, handle.offset)?,
                }
            }
            None => self.read_private(handle)?,
        };
        if let Some(cache) = &self.cache {
            cache.insert(self.meta.number, handle.offset, Arc::clone(&block));
        }
        Ok(Fetched::Heap(block))
    }

    /// Reads, verifies and decompresses a block into an allocation of its own.
    fn read_private(&self, handle: BlockHandle) -> Result<Arc<[u8]>> {
        /// A huge block must not hold its memory until the thread ends.
        const SCRATCH_BYTES_MAX: usize = 1 << 20;
        thread_local! {
            static SCRATCH: RefCell<Vec<u8>> = RefCell::default();
        }
        let len = handle.len as usize;
        SCRATCH.with(|scratch| {
            let scratch = &mut *scratch.borrow_mut();
            if scratch.len() < len {
                scratch.resize(len, 0);
            }
            let read = self.file.read_at(&mut scratch[..len], handle.offset).and_then(|()| {
                let stored = &scratch[..len];
                self.check_block(stored, handle.offset)?;
                match self.stored_compression(stored, handle.offset)? {
                    Compression::None => Ok(Arc::from(&stored[..len - BLOCK_TRAILER_LEN])),
                    compression => self.unpack(compression, stored, handle.offset),
                }
            });
            if scratch.len() > SCRATCH_BYTES_MAX {
                *scratch = Vec::new();
            }
            read
        })
    }

    /// Checks the crc of a stored block, which is longer than its trailer.
    pub(super) fn check_block(&self, stored: &[u8], offset: u64) -> Result<()> {
        let (covered, crc) =
            stored.split_last_chunk::<4>().expect("a handle is longer than a block trailer");
        if checksum_at(self.meta.number.0, offset, &[covered]) != u32::from_le_bytes(*crc) {
            return Err(Error::corruption(&self.path, offset, "block checksum mismatch"));
        }
        Ok(())
    }

    #[inline]
    pub(super) fn stored_compression(&self, stored: &[u8], offset: u64) -> Result<Compression> {
        method_from_byte(stored[stored.len() - BLOCK_TRAILER_LEN])
            .map_err(|e| locate(e, &self.path, offset))
    }

    /// Decompresses a stored block.
    fn unpack(&self, compression: Compression, stored: &[u8], offset: u64) -> Result<Arc<[u8]>> {
        let mut block: Arc<[u8]> = Arc::default();
        self.unpack_into(compression, stored, offset, &mut block).map(|_| block)
    }

    /// Decompresses a stored block into `block`, reusing its memory if nobody else holds it.
    /// Returns the length.
    pub(super) fn unpack_into(
        &self,
        compression: Compression,
        stored: &[u8],
        offset: u64,
        block: &mut Arc<[u8]>,
    ) -> Result<usize> {
        let located = |e| locate(e, &self.path, offset);
        let payload = &stored[..stored.len() - BLOCK_TRAILER_LEN];
        let (len, body) = split_compressed(compression, payload).map_err(located)?;
        let out = private_bytes(block, len);
        decompress(compression, body, &mut out[..len]).map_err(located)?;
        Ok(len)
    }

    #[inline]
    pub(super) fn is_verified(&self, ordinal: usize) -> bool {
        self.verified[ordinal / 64].load(Ordering::Relaxed) & (1 << (ordinal % 64)) != 0
    }

    fn set_verified(&self, ordinal: usize) {
        self.verified[ordinal / 64].fetch_or(1 << (ordinal % 64), Ordering::Relaxed);
    }

    /// Makes every data block be verified again at its next touch.
    pub(crate) fn clear_verified(&self) {
        for word in &self.verified {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The mapping for single blocks, if tables are mapped.
    pub(super) fn map(&self) -> Option<&Arc<Mapping>> {
        self.map.as_ref()
    }

    /// The mapping for long scans, if tables are mapped.
    pub(super) fn sequential_map(&self) -> Result<Option<&Arc<Mapping>>> {
        if self.map.is_none() {
            return Ok(None);
        }
        if let Some(map) = self.sequential_map.get() {
            return Ok(Some(map));
        }
        let map = map_whole(&*self.file, Access::Sequential, &self.path)?;
        Ok(Some(self.sequential_map.get_or_init(|| map)))
    }

    /// Notes a use of the table.
    #[inline]
    pub(crate) fn touch(&self) {
        // Reading first keeps the line shared between cores while nothing changes.
        if !self.is_recently_used.load(Ordering::Relaxed) {
            self.is_recently_used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the table was used since the last call.
    pub(crate) fn take_recently_used(&self) -> bool {
        self.is_recently_used.swap(false, Ordering::Relaxed)
    }

    #[cold]
    pub(super) fn at_index(&self, error: Error) -> Error {
        locate(error, &self.path, self.footer.index.offset)
    }

    /// Names in `error`, which is about an entry of `key` in this table, where that stands.
    #[cold]
    pub(crate) fn locate(&self, error: Error, key: &[u8]) -> Error {
        match self.find_separator(key).and_then(|separator| self.handle(separator.index)) {
            Ok(handle) => self.at_block(error, handle),
            Err(_) => locate(error, &self.path, 0),
        }
    }

    #[cold]
    pub(super) fn at_block(&self, error: Error, handle: BlockHandle) -> Error {
        locate(error, &self.path, handle.offset)
    }
}

/// Maps the whole table, which must still be as long as it was when it was opened.
pub(super) fn map_whole(file: &dyn ReadFile, access: Access, path: &Path) -> Result<Arc<Mapping>> {
    let map = file.map(access)?;
    if map.len() as u64 != file.bytes() {
        let what = format!("table is {} bytes long instead of {}", map.len(), file.bytes());
        return Err(Error::corruption(path, file.bytes().min(map.len() as u64), what));
    }
    Ok(Arc::new(map))
}

/// Says where the bytes stand that a decoder refused.
#[cold]
pub(super) fn locate(error: Error, path: &Path, offset: u64) -> Error {
    match error.kind() {
        ErrorKind::Corruption => Error::corruption(path, offset, error.what()),
        _ => error.at(path).at_offset(offset),
    }
}

/// At least `len` bytes of memory that nobody else holds, in `bytes`.
pub(super) fn private_bytes(bytes: &mut Arc<[u8]>, len: usize) -> &mut [u8] {
    if bytes.len() < len || Arc::get_mut(bytes).is_none() {
        *bytes = std::iter::repeat_n(0, len).collect();
    }
    Arc::get_mut(bytes).expect("just made, or found to be unshared")
}
