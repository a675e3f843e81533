//! A cursor over one block that lends contiguous keys.
//!
//! The key is kept in a buffer whose first bytes, common to the block, are written once per block;
//! a step rewrites only the head (one store of 8 bytes) and what follows it. The cursor owns its
//! block's bytes and never allocates per step.
//!
//! # Invariant
//! While valid, `key`, `trailer` and `value` describe entry `index` of the block.

use std::ops::Range;

use crate::block::bytes::{BlockBytes, PinnedValue};
use crate::block::{Block, BlockLayout, BlockPosition, HEADER_LEN};
use crate::error::Result;
use crate::key::Trailer;

const HEAD_LEN: usize = 8;

/// A position in a block, or nowhere.
#[derive(Debug)]
pub(crate) struct BlockCursor {
    bytes: BlockBytes,
    layout: Option<BlockLayout>,
    /// Meaningless unless `is_valid`.
    index: usize,
    is_valid: bool,
    /// The key, and at least 8 bytes of unused space after it, so that a head is always stored
    /// whole.
    key: Vec<u8>,
    key_len: usize,
    trailer: Trailer,
    value: Range<usize>,
}

impl BlockCursor {
    /// A cursor without a block.
    pub(crate) fn new() -> Self {
        BlockCursor {
            bytes: BlockBytes::default(),
            layout: None,
            index: 0,
            is_valid: false,
            key: Vec::new(),
            key_len: 0,
            trailer: Trailer::OLDEST,
            value: 0..0,
        }
    }

    /// Takes another block and stands nowhere in it.
    pub(crate) fn set_block(&mut self, bytes: BlockBytes) -> Result<()> {
        self.clear();
        let layout = BlockLayout::parse(&bytes)?;
        let common_end = HEADER_LEN + layout.common_len;
        if self.key.len() < layout.common_len {
            self.key.resize(layout.common_len, 0);
        }
        self.key[..layout.common_len].copy_from_slice(&bytes[HEADER_LEN..common_end]);
        self.bytes = bytes;
        self.layout = Some(layout);
        Ok(())
    }

    /// Lets the block go.
    pub(crate) fn clear(&mut self) {
        self.is_valid = false;
        self.layout = None;
        self.bytes = BlockBytes::default();
    }

    /// Whether there is a block.
    pub(crate) fn has_block(&self) -> bool {
        self.layout.is_some()
    }

    /// Entries in the block; 0 without one.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.layout.as_ref().map_or(0, BlockLayout::count)
    }

    /// Stands on entry `index`, or nowhere if there is none.
    #[inline]
    pub(crate) fn move_to(&mut self, index: usize) -> Result<()> {
        self.is_valid = false;
        let Some(layout) = self.layout.as_ref().filter(|layout| index < layout.count) else {
            return Ok(());
        };
        let block = layout.block(&self.bytes);
        let entry = block.heap_entry(index)?;
        let common_len = layout.common_len;
        let key_len = common_len + entry.suffix_len;
        if self.key.len() < key_len + HEAD_LEN {
            self.key.resize((key_len + HEAD_LEN).next_power_of_two(), 0);
        }
        let suffix = &mut self.key[common_len..];
        suffix[..HEAD_LEN].copy_from_slice(&block.head(index).to_be_bytes());
        if !entry.tail.is_empty() {
            let head_width = layout.head_width;
            suffix[head_width..head_width + entry.tail.len()].copy_from_slice(entry.tail);
        }
        self.key_len = key_len;
        self.trailer = block.trailer(index);
        self.value = entry.value_start..entry.value_end;
        self.index = index;
        self.is_valid = true;
        Ok(())
    }

    /// Stands on the first entry.
    pub(crate) fn seek_to_first(&mut self) -> Result<()> {
        self.move_to(0)
    }

    /// Stands on the last entry.
    pub(crate) fn seek_to_last(&mut self) -> Result<()> {
        self.move_to(self.count().wrapping_sub(1))
    }

    /// Stands on the first entry at or after (`key`, `trailer`), or nowhere.
    pub(crate) fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        self.is_valid = false;
        let Some(layout) = &self.layout else { return Ok(()) };
        let block: Block<'_> = layout.block(&self.bytes);
        let BlockPosition { index, .. } = block.lower_bound(key, trailer)?;
        self.move_to(index)
    }

    /// Stands on the next entry, or nowhere. Must be valid.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<()> {
        debug_assert!(self.is_valid);
        self.move_to(self.index + 1)
    }

    /// Stands on the previous entry, or nowhere. Must be valid.
    #[inline]
    pub(crate) fn prev(&mut self) -> Result<()> {
        debug_assert!(self.is_valid);
        // From the first entry this leads past the last one there can be: nowhere.
        self.move_to(self.index.wrapping_sub(1))
    }

    /// Whether the entry that it stands on is one that a search can find. Must be valid.
    pub(crate) fn is_head_padded(&self) -> Result<bool> {
        debug_assert!(self.is_valid);
        let Some(layout) = &self.layout else { return Ok(false) };
        layout.block(&self.bytes).is_head_padded(self.index)
    }

    #[inline]
    pub(crate) fn valid(&self) -> bool {
        self.is_valid
    }

    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        debug_assert!(self.is_valid);
        &self.key[..self.key_len]
    }

    #[inline]
    pub(crate) fn trailer(&self) -> Trailer {
        debug_assert!(self.is_valid);
        self.trailer
    }

    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        debug_assert!(self.is_valid);
        &self.bytes[self.value.clone()]
    }

    /// The value, kept alive by its block.
    pub(crate) fn pin_value(&self) -> PinnedValue {
        debug_assert!(self.is_valid);
        PinnedValue(self.bytes.slice(self.value.clone()))
    }
}
