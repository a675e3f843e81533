//! A cursor over a table: a position in the index above a cursor in a data block.
//!
//! # Readahead
//! * [`Access::Random`]: none at first. Once two blocks have been crossed in one direction the
//!   operating system is asked for a window ahead, 256 KiB at first, doubling to 2 MiB. Reads by
//!   `pread` stay single blocks, which the cache keeps.
//! * [`Access::Sequential`]: a window from the first block on, in the direction of travel;
//!   populated in one call when mapped, read in one call into the cursor's own memory when not.
//!   Nothing enters the cache.
//!
//! # Parts
//! A cursor over a part of a table stands nowhere where the part has no entry: what lies before its
//! lower bound does not exist for it.
//!
//! After an error the cursor stands nowhere; the error is returned once, and the next seek starts
//! afresh.

use std::ops::Range;
use std::sync::Arc;

use crate::block::bytes::{BlockBytes, PinnedValue};
use crate::block::cursor::BlockCursor;
use crate::cursor::Cursor;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Access;
use crate::key::{SequenceNumber, Trailer};
use crate::options::Compression;
use crate::table::format::{BLOCK_TRAILER_LEN, BlockHandle, HEADER_LEN};
use crate::table::reader::{ReadStats, TableReader, private_bytes};

const WINDOW_BYTES_MIN: u64 = 256 << 10;
const WINDOW_BYTES_MAX: u64 = 2 << 20;
/// Blocks crossed in one direction after which a random reader is taken for a scan.
const CROSSINGS_BEFORE_READAHEAD: u32 = 2;

/// A position in a table, or nowhere.
#[derive(Debug)]
pub(crate) struct TableCursor {
    reader: Arc<TableReader>,
    access: Access,
    /// What the manifest gave the entries as sequence number.
    stamp: SequenceNumber,
    /// The first key of the part that is seen; none if it is the whole table.
    lower_bound: Option<Arc<[u8]>>,
    block: BlockCursor,
    /// Which block `block` holds, and where it lies.
    ordinal: usize,
    handle: BlockHandle,
    readahead: Readahead,
    stats: ReadStats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

#[derive(Debug)]
struct Readahead {
    crossings: u32,
    direction: Direction,
    window_bytes: u64,
    /// What was asked for, populated or read.
    covered: Range<u64>,
    /// Whether the pages of `covered` have been populated, when asked for.
    is_populated: bool,
    /// The bytes of `covered`, when they were read and not mapped.
    chunk: Arc<[u8]>,
    /// Memory for a decompressed block, used again once nobody else holds it.
    unpacked: Arc<[u8]>,
}

impl Readahead {
    fn restart(&mut self) {
        self.crossings = 0;
        self.window_bytes = WINDOW_BYTES_MIN;
    }

    /// Notes that the cursor goes from one block to its neighbour.
    fn cross(&mut self, direction: Direction) {
        if self.direction != direction {
            self.restart();
            self.direction = direction;
        }
        self.crossings = self.crossings.saturating_add(1);
    }

    fn covers(&self, handle: BlockHandle) -> bool {
        self.covered.start <= handle.offset && handle.end() <= self.covered.end
    }

    /// The next window: the block and what lies beyond it in the direction of travel, within the
    /// data blocks. The window after it will be larger.
    fn next_window(&mut self, handle: BlockHandle, data_end: u64) -> Range<u64> {
        let window = self.window_bytes.max(handle.len);
        self.window_bytes = (self.window_bytes * 2).min(WINDOW_BYTES_MAX);
        match self.direction {
            Direction::Forward => handle.offset..(handle.offset + window).min(data_end),
            Direction::Backward => {
                handle.end().saturating_sub(window).max(HEADER_LEN as u64)..handle.end()
            }
        }
    }
}

impl TableCursor {
    /// A cursor over the whole table. [`Access::Random`] serves seeks and short scans from the
    /// cache or the map; [`Access::Sequential`] reads far ahead, verifies every block anew and
    /// leaves the cache alone.
    pub(crate) fn new(reader: Arc<TableReader>, access: Access) -> Self {
        TableCursor {
            stamp: reader.stamp,
            reader,
            access,
            lower_bound: None,
            block: BlockCursor::new(),
            ordinal: 0,
            handle: BlockHandle::default(),
            readahead: Readahead {
                crossings: 0,
                direction: Direction::Forward,
                window_bytes: WINDOW_BYTES_MIN,
                covered: 0..0,
                is_populated: false,
                chunk: Arc::default(),
                unpacked: Arc::default(),
            },
            stats: ReadStats::default(),
        }
    }

    /// Hides the entries of keys below `key`. The cursor must stand nowhere.
    pub(crate) fn set_lower_bound(&mut self, key: &[u8]) {
        debug_assert!(!self.valid(), "what it stands on may be hidden");
        self.lower_bound = Some(key.into());
    }

    /// The value, kept alive by its block. Must be valid.
    pub(crate) fn pin_value(&self) -> PinnedValue {
        self.block.pin_value()
    }

    /// Names in `error`, which is about the entry, where that stands. Must be valid.
    #[cold]
    pub(crate) fn locate(&self, error: Error) -> Error {
        self.reader.at_block(error, self.handle)
    }

    /// What reading cost since the last call.
    pub(crate) fn take_stats(&mut self) -> ReadStats {
        std::mem::take(&mut self.stats)
    }

    /// Takes block `ordinal`, which must exist, and stands nowhere in it.
    fn load(&mut self, ordinal: usize) -> Result<()> {
        // Letting the old block go first lets its memory be used again.
        self.block.clear();
        let handle = self.reader.handle(ordinal)?;
        self.stats.blocks_read += u64::from(self.access == Access::Sequential);
        let bytes = match self.access {
            Access::Random => {
                let is_populated = self.ask_ahead(ordinal, handle);
                self.reader
                    .fetch(ordinal, handle, is_populated, &mut self.stats)?
                    .into_block_bytes()
            }
            Access::Sequential => self.read_ahead(handle)?,
        };
        self.block.set_block(bytes).map_err(|e| self.reader.at_block(e, handle))?;
        self.ordinal = ordinal;
        self.handle = handle;
        Ok(())
    }

    /// Asks the operating system for what a scan will need soon. Returns whether the block's pages
    /// are populated.
    fn ask_ahead(&mut self, ordinal: usize, handle: BlockHandle) -> bool {
        let TableCursor { reader, readahead, .. } = self;
        let Some(map) = reader.map() else { return false };
        if readahead.crossings < CROSSINGS_BEFORE_READAHEAD {
            return false;
        }
        if !readahead.covers(handle) {
            let window = readahead.next_window(handle, reader.data_end());
            let range = window.start as usize..window.end as usize;
            map.will_need(range.clone());
            // One call for the window instead of one for each block that will be touched for the
            // first time. A page ahead that cannot be read is no error before somebody needs it.
            readahead.is_populated = !reader.is_verified(ordinal) && map.populate(range).is_ok();
            readahead.covered = window;
        }
        readahead.is_populated
    }

    /// Makes the readahead cover a block that it does not cover yet.
    fn move_window(&mut self, handle: BlockHandle) -> Result<()> {
        let TableCursor { reader, readahead, .. } = self;
        let map = reader.sequential_map()?;
        let window = readahead.next_window(handle, reader.data_end());
        readahead.covered = 0..0;
        let mut bring = |window: Range<u64>| {
            if let Some(map) = map {
                return map.populate(window.start as usize..window.end as usize);
            }
            let len = (window.end - window.start) as usize;
            let chunk = &mut private_bytes(&mut readahead.chunk, len)[..len];
            reader.file.read_at(chunk, window.start)
        };
        // A page ahead that cannot be read is no error before somebody needs it.
        readahead.covered = if bring(window.clone()).is_ok() {
            window
        } else {
            let block = handle.offset..handle.end();
            bring(block.clone())?;
            block
        };
        Ok(())
    }

    /// Reads a block as part of a long scan: verified anew, past the cache.
    fn read_ahead(&mut self, handle: BlockHandle) -> Result<BlockBytes> {
        if !self.readahead.covers(handle) {
            self.move_window(handle)?;
        }
        let TableCursor { reader, readahead, stats, .. } = self;
        let map = reader.sequential_map()?;
        let start = if map.is_some() { 0 } else { readahead.covered.start };
        let range = (handle.offset - start) as usize..(handle.end() - start) as usize;
        let stored = match map {
            Some(map) => &map[range.clone()],
            None => &readahead.chunk[range.clone()],
        };
        stats.block_bytes_read += handle.len;
        reader.check_block(stored, handle.offset)?;
        let payload = range.start..range.end - BLOCK_TRAILER_LEN;
        match (reader.stored_compression(stored, handle.offset)?, map) {
            (Compression::None, Some(map)) => Ok(BlockBytes::mapped(Arc::clone(map), payload)),
            (Compression::None, None) => {
                Ok(BlockBytes::heap(Arc::clone(&readahead.chunk), payload))
            }
            (compression, _) => {
                let len = reader.unpack_into(
                    compression,
                    stored,
                    handle.offset,
                    &mut readahead.unpacked,
                )?;
                Ok(BlockBytes::heap(Arc::clone(&readahead.unpacked), 0..len))
            }
        }
    }

    /// Takes the block after this one and stands on its first entry; nowhere after the last block.
    fn enter_next_block(&mut self) -> Result<()> {
        let ordinal = self.ordinal + 1;
        if ordinal >= self.reader.block_count() {
            return Ok(());
        }
        self.readahead.cross(Direction::Forward);
        let end = self.handle.end();
        self.load(ordinal)?;
        if self.handle.offset != end {
            return Err(self.misplaced());
        }
        self.on_block(BlockCursor::seek_to_first)
    }

    /// Takes the block before this one and stands on its last entry; nowhere before the first
    /// block.
    fn enter_previous_block(&mut self) -> Result<()> {
        let Some(ordinal) = self.ordinal.checked_sub(1) else {
            return Ok(());
        };
        self.readahead.cross(Direction::Backward);
        let start = self.handle.offset;
        self.load(ordinal)?;
        if self.handle.end() != start {
            return Err(self.misplaced());
        }
        self.on_block(BlockCursor::seek_to_last)
    }

    #[cold]
    fn misplaced(&mut self) -> Error {
        self.block.clear();
        self.reader.at_block(
            Error::new(ErrorKind::Corruption, "data blocks are not back to back"),
            self.handle,
        )
    }

    /// Moves to the first entry of block `ordinal` at or after (`key`, `trailer`); nowhere if there
    /// is none.
    fn seek_in(&mut self, ordinal: usize, key: &[u8], trailer: Trailer) -> Result<()> {
        if ordinal >= self.reader.block_count() {
            self.block.clear();
            return Ok(());
        }
        if !self.block.has_block() || self.ordinal != ordinal {
            self.load(ordinal)?;
        }
        self.on_block(|block| block.seek(key, trailer))
    }

    /// Moves to the first entry of the file at or after (`key`, `trailer`).
    fn seek_in_file(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.readahead.restart();
        let separator = self.reader.find_separator(key).inspect_err(|_| self.block.clear())?;
        let mut ordinal = separator.index;
        self.seek_in(ordinal, key, trailer)?;
        if separator.is_same_key && !self.valid() {
            self.block.clear();
            ordinal = self.reader.skip_versions(ordinal + 1, key, trailer, &mut self.stats)?;
            self.seek_in(ordinal, key, trailer)?;
        }
        if self.valid() {
            return Ok(());
        }
        // The target lies between the last entry of this block and its separator.
        self.seek_in(ordinal + 1, key, trailer)
    }

    /// Stands nowhere if what it came to, going backward, is hidden.
    #[inline]
    fn stop_at_bound(&mut self) {
        if let Some(bound) = &self.lower_bound
            && self.block.valid()
            && *self.block.key() < **bound
        {
            self.block.clear();
        }
    }

    /// Moves within the block, and says where it lies if it is damaged.
    #[inline]
    fn on_block(&mut self, step: impl FnOnce(&mut BlockCursor) -> Result<()>) -> Result<()> {
        step(&mut self.block).map_err(|e| self.reader.at_block(e, self.handle))
    }
}

impl Cursor for TableCursor {
    #[inline]
    fn valid(&self) -> bool {
        self.block.valid()
    }

    fn seek_to_first(&mut self) -> Result<()> {
        if let Some(bound) = self.lower_bound.clone() {
            return self.seek_in_file(&bound, Trailer::NEWEST);
        }
        self.readahead.restart();
        self.load(0)?;
        self.on_block(BlockCursor::seek_to_first)
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.readahead.restart();
        self.load(self.reader.block_count() - 1)?;
        self.on_block(BlockCursor::seek_to_last)?;
        self.stop_at_bound();
        Ok(())
    }

    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        if self.lower_bound.as_ref().is_some_and(|bound| *key < **bound) {
            return self.seek_to_first();
        }
        self.seek_in_file(key, trailer.unstamped(self.stamp))
    }

    fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.seek(key, trailer)?;
        if !self.valid() {
            return self.seek_to_last();
        }
        if self.trailer() == trailer && self.key() == key {
            return Ok(());
        }
        self.prev()
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        self.on_block(BlockCursor::next)?;
        if self.block.valid() { Ok(()) } else { self.enter_next_block() }
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        self.on_block(BlockCursor::prev)?;
        if !self.block.valid() {
            self.enter_previous_block()?;
        }
        self.stop_at_bound();
        Ok(())
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.block.key()
    }

    #[inline]
    fn trailer(&self) -> Trailer {
        self.block.trailer().stamped(self.stamp)
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.block.value()
    }
}
