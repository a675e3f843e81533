//! Reading a table: open, look a key up, hand out blocks.
//!
//! # Two ways to the bytes, one set of answers
//! * [`ReadMode::Mmap`]: the file is mapped. Index, filter and uncompressed blocks are used where they lie. A block
//!   is verified at its first touch and remembered in a bitmap; the scrubber clears the bitmap
//!   ([`TableReader::clear_verified`]) so that later damage is found too.
//! * [`ReadMode::Pread`]: index and filter are read to the heap at open, each block when it is needed, verified, and
//!   kept in the block cache. There is no bitmap: bytes in memory are private copies of verified ones.
//!
//! Compressed blocks are decompressed into the block cache in both modes. With [`Verify::Always`] every read of a
//! block from the file is verified, not the use of a private copy.
//!
//! # Rules
//! * The pages of a block are populated before their first use, so that a failing device is an error and not `SIGBUS`.
//! * Wrong bytes are an error that names file and offset. An error is never "not found".
//! * A user key's versions may span blocks, never tables. A lookup that runs off a block's end goes on in the next
//!   block if and only if the separator is the key.
//! * Value kinds are not interpreted here.
//!
//! No locks. The bitmap is relaxed: a lost bit costs a second verification.

use std::cell::RefCell;
use std::ops::{AddAssign, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::block::{BlockBytes, BlockLayout, PinnedValue};
use crate::cache::BlockCache;
use crate::checksum::checksum_at;
use crate::compression::{decompress, method_from_byte, split_compressed};
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::filter::{FilterLayout, KeyProbe};
use crate::fs::{Access, FileSystem, Mapping, ReadFile};
use crate::key::{FileNumber, Trailer};
use crate::options::{Compression, ReadMode, Verify};
use crate::table::TableMeta;
use crate::table::cursor::TableCursor;
use crate::table::format::{
    BLOCK_TRAILER_LEN, BlockHandle, FOOTER_LEN, Footer, HEADER_LEN, Properties, Region,
    check_header,
};

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
    pub(super) meta: TableMeta,
    pub(super) file: Arc<dyn ReadFile>,
    /// For single blocks; present in [`ReadMode::Mmap`].
    map: Option<Arc<Mapping>>,
    /// For long scans; made when the first one comes.
    sequential_map: OnceLock<Arc<Mapping>>,
    pub(super) index_bytes: BlockBytes,
    pub(super) index: BlockLayout,
    pub(super) filter_bytes: BlockBytes,
    pub(super) filter: FilterLayout,
    pub(super) footer: Footer,
    compression: Compression,
    verify: Verify,
    cache: Option<Arc<BlockCache>>,
    /// One bit for each data block: verified since open, or since the bits were cleared. Used when mapped.
    verified: Box<[AtomicU64]>,
    /// Set at each use; the table cache clears it to see which tables are idle.
    is_recently_used: AtomicBool,
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
    /// Opens the table that the manifest describes as `meta`, and verifies everything in it but the data blocks.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        dir: &Path,
        meta: &TableMeta,
        ctx: &ReadContext,
    ) -> Result<Self> {
        let path = FileKind::Table(meta.number).path(dir);
        let Some(file) = fs.open(&path)? else {
            return Err(Error::corruption(&path, 0, "table is missing"));
        };
        if file.bytes() != meta.file_bytes {
            let what =
                format!("table is {} bytes long instead of {}", file.bytes(), meta.file_bytes);
            return Err(Error::corruption(&path, file.bytes().min(meta.file_bytes), what));
        }
        if file.bytes() < (HEADER_LEN + FOOTER_LEN) as u64 {
            return Err(Error::corruption(&path, 0, "table is too short to be one"));
        }
        let map = match ctx.read_mode {
            ReadMode::Mmap => Some(Arc::new(file.map(Access::Random)?)),
            ReadMode::Pread => None,
        };
        let source = OpenSource { file: &*file, map: map.as_ref() };
        check_header(&source.read(0, HEADER_LEN as u64)?, meta.number, &path)?;
        let footer_at = file.bytes() - FOOTER_LEN as u64;
        let footer = Footer::decode(
            &source.read(footer_at, FOOTER_LEN as u64)?,
            meta.number,
            footer_at,
            &path,
        )?;
        let tail = source.read(footer.filter.offset, footer_at - footer.filter.offset)?;
        let region = |region: Region, name: &str| {
            verified_region(&tail, &footer, region, name, meta.number, &path)
        };
        let filter_bytes = region(footer.filter, "filter")?;
        let index_bytes = region(footer.index, "index")?;
        let properties_bytes = region(footer.properties, "properties")?;
        let filter = FilterLayout::parse(&filter_bytes)
            .map_err(|e| locate(e, &path, footer.filter.offset))?;
        let index =
            BlockLayout::parse(&index_bytes).map_err(|e| locate(e, &path, footer.index.offset))?;
        let properties =
            Properties::decode(&properties_bytes, meta.number, meta.file_bytes, meta.checksum)
                .map_err(|e| locate(e, &path, footer.properties.offset))?;
        if properties.meta != *meta || properties.block_count != index.count() as u64 {
            let what = "properties of the table disagree with the manifest or the index";
            return Err(Error::corruption(&path, footer.properties.offset, what));
        }
        let words = if map.is_some() { index.count().div_ceil(64) } else { 0 };
        Ok(TableReader {
            path,
            meta: meta.clone(),
            file,
            map,
            sequential_map: OnceLock::new(),
            index_bytes,
            index,
            filter_bytes,
            filter,
            footer,
            compression: properties.compression,
            verify: ctx.verify,
            cache: ctx.cache.clone(),
            verified: (0..words).map(|_| AtomicU64::new(0)).collect(),
            is_recently_used: AtomicBool::new(true),
        })
    }

    /// The newest version of `key` whose trailer is at most `bound`. The table need not cover the key.
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
        let index = self.index.block(&self.index_bytes);
        let start = index.lower_bound(key, Trailer::NEWEST).map_err(|e| self.at_index(e))?;
        let mut is_separator = start.is_same_key;
        for ordinal in start.index..self.index.count() {
            let handle = self.handle(ordinal)?;
            let fetched = self.fetch(ordinal, handle, stats)?;
            let located = |e| locate(e, &self.path, handle.offset);
            let layout = BlockLayout::parse(fetched.bytes()).map_err(located)?;
            let block = layout.block(fetched.bytes());
            let position = block.lower_bound(key, bound).map_err(located)?;
            if position.is_same_key {
                let trailer = block.trailer(position.index);
                let range = block.value_range(position.index).map_err(located)?;
                return Ok(Some((trailer, PinnedValue(fetched.into_block_bytes().slice(range)))));
            }
            // Only a separator that is the key itself leaves room for more versions in the next block.
            if position.index < layout.count() || !is_separator {
                break;
            }
            is_separator = ordinal + 1 < self.index.count()
                && index.has_key(ordinal + 1, key).map_err(|e| self.at_index(e))?;
        }
        Ok(None)
    }

    /// A cursor over the whole table. [`Access::Random`] serves seeks and short scans from the cache or the map;
    /// [`Access::Sequential`] reads far ahead, verifies every block anew and leaves the cache alone.
    pub(crate) fn cursor(self: &Arc<Self>, access: Access) -> TableCursor {
        TableCursor::new(Arc::clone(self), access)
    }

    /// What the manifest says of the table.
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

    /// Data block `ordinal`, verified as the options say, decompressed.
    pub(super) fn fetch(
        &self,
        ordinal: usize,
        handle: BlockHandle,
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
                    map.populate(range.clone())?;
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
            static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let len = handle.len as usize;
        SCRATCH.with_borrow_mut(|scratch| {
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

    /// Decompresses a stored block into `block`, reusing its memory if nobody else holds it. Returns the length.
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
    fn is_verified(&self, ordinal: usize) -> bool {
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
        let map = Arc::new(self.file.map(Access::Sequential)?);
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

    #[cold]
    pub(super) fn at_block(&self, error: Error, handle: BlockHandle) -> Error {
        locate(error, &self.path, handle.offset)
    }
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

/// Where a table being opened is read from.
struct OpenSource<'a> {
    file: &'a dyn ReadFile,
    map: Option<&'a Arc<Mapping>>,
}

impl OpenSource<'_> {
    fn read(&self, offset: u64, len: u64) -> Result<BlockBytes> {
        if let Some(map) = self.map {
            let range = offset as usize..(offset + len) as usize;
            map.populate(range.clone())?;
            return Ok(BlockBytes::mapped(Arc::clone(map), range));
        }
        let mut bytes: Arc<[u8]> = Arc::default();
        self.file.read_at(&mut private_bytes(&mut bytes, len as usize)[..len as usize], offset)?;
        Ok(BlockBytes::heap(bytes, 0..len as usize))
    }
}

/// The bytes of a region in what was read from the filter to the footer.
fn verified_region(
    tail: &BlockBytes,
    footer: &Footer,
    region: Region,
    name: &str,
    number: FileNumber,
    path: &Path,
) -> Result<BlockBytes> {
    // The footer was found to describe parts that lie back to back, so the range is in the tail.
    let start = (region.offset - footer.filter.offset) as usize;
    let bytes = tail.slice(start..start + region.len as usize);
    if Region::of(number, region.offset, &bytes) != region {
        return Err(Error::corruption(path, region.offset, format!("{name} checksum mismatch")));
    }
    Ok(bytes)
}
