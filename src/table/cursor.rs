//! A cursor over a table: a position in the index above a cursor in a data block.
//!
//! # Readahead
//! * [`Access::Random`]: none at first. Once two blocks have been crossed in one direction the operating system is
//!   asked for a window ahead, 256 KiB at first, doubling to 2 MiB. Reads by `pread` stay single blocks, which the
//!   cache keeps.
//! * [`Access::Sequential`]: a window from the first block on, in the direction of travel; populated in one call when
//!   mapped, read in one call into the cursor's own memory when not. Nothing enters the cache.
//!
//! After an error the cursor stands nowhere; the error is returned once, and the next seek starts afresh.

use std::ops::Range;
use std::sync::Arc;

use crate::block::cursor::BlockCursor;
use crate::block::{BlockBytes, PinnedValue};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::fs::Access;
use crate::key::Trailer;
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

    /// The next window: the block and what lies beyond it in the direction of travel, within the data blocks. The
    /// window after it will be larger.
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
    pub(super) fn new(reader: Arc<TableReader>, access: Access) -> Self {
        TableCursor {
            reader,
            access,
            block: BlockCursor::new(),
            ordinal: 0,
            handle: BlockHandle::default(),
            readahead: Readahead {
                crossings: 0,
                direction: Direction::Forward,
                window_bytes: WINDOW_BYTES_MIN,
                covered: 0..0,
                chunk: Arc::default(),
                unpacked: Arc::default(),
            },
            stats: ReadStats::default(),
        }
    }

    /// The value, kept alive by its block. Must be valid.
    pub(crate) fn pin_value(&self) -> PinnedValue {
        self.block.pin_value()
    }

    /// What reading cost since the last call.
    pub(crate) fn take_stats(&mut self) -> ReadStats {
        std::mem::take(&mut self.stats)
    }

    /// The table.
    pub(crate) fn reader(&self) -> &Arc<TableReader> {
        &self.reader
    }

    /// Takes block `ordinal`, which must exist, and stands nowhere in it.
    fn load(&mut self, ordinal: usize) -> Result<()> {
        // Letting the old block go first lets its memory be used again.
        self.block.clear();
        let handle = self.reader.handle(ordinal)?;
        self.stats.blocks_read += u64::from(self.access == Access::Sequential);
        let bytes = match self.access {
            Access::Random => {
                self.ask_ahead(handle);
                self.reader.fetch(ordinal, handle, &mut self.stats)?.into_block_bytes()
            }
            Access::Sequential => self.read_ahead(handle)?,
        };
        self.block.set_block(bytes).map_err(|e| self.reader.at_block(e, handle))?;
        self.ordinal = ordinal;
        self.handle = handle;
        Ok(())
    }

    /// Asks the operating system for what a scan will need soon.
    fn ask_ahead(&mut self, handle: BlockHandle) {
        let readahead = &mut self.readahead;
        let Some(map) = self.reader.map() else { return };
        if readahead.crossings < CROSSINGS_BEFORE_READAHEAD || readahead.covers(handle) {
            return;
        }
        readahead.covered = readahead.next_window(handle, self.reader.data_end());
        map.will_need(readahead.covered.start as usize..readahead.covered.end as usize);
    }

    /// Reads a block as part of a long scan: verified anew, past the cache.
    fn read_ahead(&mut self, handle: BlockHandle) -> Result<BlockBytes> {
        let TableCursor { reader, readahead, stats, .. } = self;
        let data_end = reader.data_end();
        let needs_window = !readahead.covers(handle);
        let map = reader.sequential_map()?;
        if needs_window {
            let window = readahead.next_window(handle, data_end);
            readahead.covered = 0..0;
            match map {
                Some(map) => map.populate(window.start as usize..window.end as usize)?,
                None => {
                    let len = (window.end - window.start) as usize;
                    let chunk = &mut private_bytes(&mut readahead.chunk, len)[..len];
                    reader.file.read_at(chunk, window.start)?;
                }
            }
            readahead.covered = window;
        }
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

    /// Takes the block before this one and stands on its last entry; nowhere before the first block.
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
            Error::new(crate::error::ErrorKind::Corruption, "data blocks are not back to back"),
            self.handle,
        )
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
        self.readahead.restart();
        self.load(0)?;
        self.on_block(BlockCursor::seek_to_first)
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.readahead.restart();
        self.load(self.reader.block_count() - 1)?;
        self.on_block(BlockCursor::seek_to_last)
    }

    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.readahead.restart();
        let index = self.reader.index.block(&self.reader.index_bytes);
        let bound = index.lower_bound(key, Trailer::NEWEST).map_err(|e| {
            self.block.clear();
            self.reader.at_index(e)
        })?;
        // More than one block only where the versions of the key, or keys before its separator, end with a block.
        for ordinal in bound.index..self.reader.block_count() {
            if !self.block.has_block() || self.ordinal != ordinal {
                self.load(ordinal)?;
            }
            self.on_block(|block| block.seek(key, trailer))?;
            if self.valid() {
                return Ok(());
            }
        }
        self.block.clear();
        Ok(())
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
        if self.block.valid() { Ok(()) } else { self.enter_previous_block() }
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.block.key()
    }

    #[inline]
    fn trailer(&self) -> Trailer {
        self.block.trailer()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.block.value()
    }
}
