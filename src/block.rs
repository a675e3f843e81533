//! Blocks: sorted entries in columns, searched where they lie.
//!
//! A block holds entries (user key, trailer, value) ordered by
//! [`compare_entries`](crate::key::compare_entries). Nothing is stored twice: what all keys begin
//! with stands once, the next bytes of each key stand in a column that the binary search reads, and
//! the heap holds only what is left of each key, and its value.
//!
//! # Format
//! Little-endian, except the heads, whose bytes are key bytes in key order.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | `count`: entries, at least 1 |
//! | 2 | `flags`, below |
//! | 2 | `common_len` |
//! | 2 | `suffix_len`: what each key has after the common bytes, when uniform; else 0 |
//! | 8 | `base`: the smallest trailer |
//! | `common_len` | the bytes that all keys begin with |
//! | `count * H` | heads: the first `H` bytes of each suffix, zero-padded |
//! | `count * T` | trailers: `(trailer - base) >> S` |
//! | `count * O` | ends: where each entry's part of the heap ends |
//! | the rest | heap: per entry `[varint suffix_len] [suffix past its head] [value]` |
//!
//! | `flags` bits | meaning |
//! |---|---|
//! | 0..=1 | `H` = 1, 2, 4, 8 |
//! | 2..=4 | `T` = 0, 1, 2, 4, 8; 0 when all trailers are equal |
//! | 5 | `S` = 8 instead of 0: all kinds are equal and stand in `base` |
//! | 6..=7 | `O` = 0, 2, 4, 8; 0 when all entries take the same part of the heap |
//! | 8 | all suffixes are `suffix_len` long; the heap does not say it |
//! | 9..=15 | 0; anything else is a newer format |
//!
//! # Order of heads
//! A padded head orders as its suffix does or ties. On a tie, compare what follows the head, then
//! the suffix lengths. Proof: let heads of `a` and `b` be equal. If both are at least `H` long,
//! their first `H` bytes agree and the rest decides. If `a` is shorter than `H`, the bytes of `b`
//! up to `H` are `a` and then zeros, so the shorter of the two is a prefix of the other, or (`b`
//! longer than `H`) `a` is a prefix of `b`: nothing follows the head of `a`, which is a prefix of
//! whatever follows that of `b`; if that is nothing too, the lengths decide.
//!
//! # Trust
//! [`BlockLayout::parse`] checks once that the columns fit; it costs a few nanoseconds and runs at
//! each lookup. What an entry says of itself (its end, its suffix length) is checked at each
//! access. Any bytes give answers or errors, never a panic. Whether the entries are in order is not
//! checked here; see `TableReader::verify_all`.
//!
//! This file knows nothing of files, checksums and compression.

pub(crate) mod builder;
pub(crate) mod bytes;
pub(crate) mod cursor;

use std::cmp::Ordering;
use std::hint::select_unpredictable;
use std::ops::Range;

use crate::coding::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KEY_LEN_MAX, Trailer, key_prefix};

const HEADER_LEN: usize = 18;
const HEAD_WIDTHS: [usize; 4] = [1, 2, 4, 8];
const TRAILER_WIDTHS: [usize; 5] = [0, 1, 2, 4, 8];
const END_WIDTHS: [usize; 4] = [0, 2, 4, 8];
const FLAG_TRAILERS_SHIFTED: u16 = 1 << 5;
const FLAG_SUFFIX_UNIFORM: u16 = 1 << 8;
const FLAGS_KNOWN: u16 = (1 << 9) - 1;

/// Where the parts of a block lie. Kept beside the bytes by whoever owns them, so that nothing
/// borrows itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockLayout {
    count: usize,
    common_len: usize,
    /// Starts of the columns and of the heap, from the start of the block.
    heads: usize,
    trailers: usize,
    ends: usize,
    heap: usize,
    /// The suffix length of all keys; `None`: each entry says its own.
    suffix_len: Option<usize>,
    /// What each entry takes of the heap, if there is no column of ends.
    stride: usize,
    base: u64,
    head_width: usize,
    trailer_width: usize,
    trailer_shift: u32,
    end_width: usize,
}

impl BlockLayout {
    /// Checks the header of a block and that its columns fit into `bytes`.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(damaged("block is shorter than its header"));
        };
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let count = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let flags = u16_at(4);
        let common_len = usize::from(u16_at(6));
        let suffix_len = usize::from(u16_at(8));
        let base = u64::from_le_bytes(std::array::from_fn(|i| header[10 + i]));
        if flags & !FLAGS_KNOWN != 0 {
            return Err(unsupported(flags));
        }
        let head_width = HEAD_WIDTHS[usize::from(flags & 3)];
        let Some(&trailer_width) = TRAILER_WIDTHS.get(usize::from(flags >> 2 & 7)) else {
            return Err(unsupported(flags));
        };
        let end_width = END_WIDTHS[usize::from(flags >> 6 & 3)];
        // No overflow: `count` is below 2^32 and the widths sum to at most 24.
        let heads = HEADER_LEN + common_len;
        let trailers = heads + count * head_width;
        let ends = trailers + count * trailer_width;
        let heap = ends + count * end_width;
        if count == 0 || heap > bytes.len() || common_len + suffix_len > KEY_LEN_MAX {
            return Err(damaged("block header does not fit its block"));
        }
        let uniform = flags & FLAG_SUFFIX_UNIFORM != 0;
        let layout = BlockLayout {
            count,
            common_len,
            heads,
            trailers,
            ends,
            heap,
            suffix_len: uniform.then_some(suffix_len),
            stride: if end_width == 0 { (bytes.len() - heap) / count } else { 0 },
            base,
            head_width,
            trailer_width,
            trailer_shift: if flags & FLAG_TRAILERS_SHIFTED == 0 { 0 } else { 8 },
            end_width,
        };
        if layout.block(bytes).heap_end(count - 1) != (bytes.len() - heap) as u64 {
            return Err(damaged("heap of a block does not end with the block"));
        }
        Ok(layout)
    }

    /// The block that these bytes are; they must be those that were parsed.
    #[inline]
    pub(crate) fn block<'a>(&'a self, bytes: &'a [u8]) -> Block<'a> {
        Block { bytes, layout: self }
    }

    /// Entries in the block.
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}

/// A block to look into.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    bytes: &'a [u8],
    layout: &'a BlockLayout,
}

/// The place of a search in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockPosition {
    /// The first entry at or after the target; the count of entries if there is none.
    pub(crate) index: usize,
    /// Whether that entry's user key is the target's.
    pub(crate) is_same_key: bool,
}

/// An entry's part of the heap, taken apart.
#[derive(Clone, Copy)]
struct HeapEntry<'a> {
    suffix_len: usize,
    /// The suffix after its head.
    tail: &'a [u8],
    /// Where the value lies in the block.
    value_start: usize,
    value_end: usize,
}

impl<'a> Block<'a> {
    /// The bytes that all keys begin with.
    #[inline]
    fn common(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..HEADER_LEN + self.layout.common_len]
    }

    #[inline]
    fn heads(&self) -> &'a [u8] {
        &self.bytes[self.layout.heads..self.layout.trailers]
    }

    /// The head of entry `index` as the first bytes of a zero-padded 8-byte big-endian integer.
    #[inline]
    fn head(&self, index: usize) -> u64 {
        let heads = self.heads();
        match self.layout.head_width {
            1 => u64::from(heads[index]) << 56,
            2 => u64::from(u16::from_be_bytes(element(heads, index))) << 48,
            4 => u64::from(u32::from_be_bytes(element(heads, index))) << 32,
            _ => u64::from_be_bytes(element(heads, index)),
        }
    }

    /// The trailer of entry `index`.
    #[inline]
    pub(crate) fn trailer(&self, index: usize) -> Trailer {
        let layout = self.layout;
        let delta = integer(&self.bytes[layout.trailers..layout.ends], layout.trailer_width, index);
        // Damaged bytes may overflow; they must not panic.
        Trailer(layout.base.wrapping_add(delta << layout.trailer_shift))
    }

    /// Where the part of entry `index` ends in the heap, as it says itself.
    #[inline]
    fn heap_end(&self, index: usize) -> u64 {
        let layout = self.layout;
        if layout.end_width == 0 {
            return (layout.stride * (index + 1)) as u64;
        }
        integer(&self.bytes[layout.ends..layout.heap], layout.end_width, index)
    }

    #[inline]
    fn heap_entry(&self, index: usize) -> Result<HeapEntry<'a>> {
        let layout = self.layout;
        let heap = &self.bytes[layout.heap..];
        let start = if index == 0 { 0 } else { self.heap_end(index - 1) };
        let end = self.heap_end(index);
        if start > end || end > heap.len() as u64 {
            return Err(damaged("entry lies outside its block"));
        }
        let (start, end) = (start as usize, end as usize);
        let mut entry = &heap[start..end];
        let suffix_len = if let Some(len) = layout.suffix_len {
            len
        } else {
            let mut decoder = Decoder::new(entry);
            let len = decoder.varint().map_err(|_| damaged("entry without a key length"))?;
            entry = decoder.rest();
            if len > (KEY_LEN_MAX - layout.common_len) as u64 {
                return Err(damaged("key is longer than any key may be"));
            }
            len as usize
        };
        let tail_len = suffix_len.saturating_sub(layout.head_width);
        let Some((tail, value)) = entry.split_at_checked(tail_len) else {
            return Err(damaged("key is longer than its entry"));
        };
        let value_end = layout.heap + end;
        Ok(HeapEntry { suffix_len, tail, value_start: value_end - value.len(), value_end })
    }

    /// Where the value of entry `index` lies in the block.
    #[inline]
    pub(crate) fn value_range(&self, index: usize) -> Result<Range<usize>> {
        self.heap_entry(index).map(|entry| entry.value_start..entry.value_end)
    }

    /// The value of entry `index`.
    #[inline]
    pub(crate) fn value(&self, index: usize) -> Result<&'a [u8]> {
        self.value_range(index).map(|range| &self.bytes[range])
    }

    /// The first entry at or after (`key`, `trailer`).
    #[inline]
    pub(crate) fn lower_bound(&self, key: &[u8], trailer: Trailer) -> Result<BlockPosition> {
        let common = self.common();
        let Some(suffix) = key.strip_prefix(common) else {
            let index = if *key < *common { 0 } else { self.layout.count };
            return Ok(BlockPosition { index, is_same_key: false });
        };
        let width = self.layout.head_width;
        let head = key_prefix(&suffix[..suffix.len().min(width)]);
        let first = self.head_bound(head);
        if first == self.layout.count || self.head(first) != head {
            return Ok(BlockPosition { index: first, is_same_key: false });
        }
        let target = (&suffix[suffix.len().min(width)..], suffix.len(), trailer);
        let (index, order) = self.bound_among_equal_heads(first, head, target)?;
        Ok(BlockPosition { index, is_same_key: order == KeyOrder::Same })
    }

    /// The first entry whose head is not below `head`.
    #[inline]
    fn head_bound(&self, head: u64) -> usize {
        let heads = self.heads();
        match self.layout.head_width {
            1 => bound(heads, |&[a]: &[u8; 1]| a < (head >> 56) as u8),
            2 => bound(heads, |bytes: &[u8; 2]| u16::from_be_bytes(*bytes) < (head >> 48) as u16),
            4 => bound(heads, |bytes: &[u8; 4]| u32::from_be_bytes(*bytes) < (head >> 32) as u32),
            _ => bound(heads, |bytes: &[u8; 8]| u64::from_be_bytes(*bytes) < head),
        }
    }

    /// Among the entries from `first` on whose heads are `head`, the first at or after the target
    /// (what follows the head, the suffix length, the trailer), or the entry after them all.
    fn bound_among_equal_heads(
        &self,
        first: usize,
        head: u64,
        target: (&[u8], usize, Trailer),
    ) -> Result<(usize, KeyOrder)> {
        // Nearly always there is one such entry, or the target is the newest of a few versions.
        let (is_before, order) = self.compare(first, target)?;
        if !is_before {
            return Ok((first, order));
        }
        let mut low = first + 1;
        // Gallop to an entry that is not before the target, then halve the last step.
        let mut step = 1;
        let mut high = loop {
            let probe = low + step - 1;
            if probe >= self.layout.count
                || self.head(probe) != head
                || !self.compare(probe, target)?.0
            {
                break probe.min(self.layout.count);
            }
            low = probe + 1;
            step *= 2;
        };
        while low < high {
            let middle = low + (high - low) / 2;
            if self.head(middle) == head && self.compare(middle, target)?.0 {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if low == self.layout.count || self.head(low) != head {
            return Ok((low, KeyOrder::Other));
        }
        Ok((low, self.compare(low, target)?.1))
    }

    /// Whether entry `index`, whose head is the target's, stands before the target, and whether it
    /// has its key.
    #[inline]
    fn compare(&self, index: usize, target: (&[u8], usize, Trailer)) -> Result<(bool, KeyOrder)> {
        let (tail, suffix_len, trailer) = target;
        let entry = self.heap_entry(index)?;
        let order = entry.tail.cmp(tail).then(entry.suffix_len.cmp(&suffix_len));
        Ok(match order {
            Ordering::Less => (true, KeyOrder::Other),
            Ordering::Greater => (false, KeyOrder::Other),
            Ordering::Equal => (self.trailer(index) > trailer, KeyOrder::Same),
        })
    }

    /// Whether the head of entry `index` is padded with zeros where its suffix is shorter. Searching takes that for
    /// granted; walking does not see it.
    pub(crate) fn is_head_padded(&self, index: usize) -> Result<bool> {
        let suffix_len = self.heap_entry(index)?.suffix_len;
        Ok(suffix_len >= self.layout.head_width || self.head(index) << (8 * suffix_len) == 0)
    }

    /// Writes the key of entry `index` into `out`.
    pub(crate) fn key_into(&self, index: usize, out: &mut Vec<u8>) -> Result<()> {
        let entry = self.heap_entry(index)?;
        let head = self.head(index).to_be_bytes();
        out.clear();
        out.extend_from_slice(self.common());
        out.extend_from_slice(&head[..entry.suffix_len.min(self.layout.head_width)]);
        out.extend_from_slice(entry.tail);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyOrder {
    Same,
    Other,
}

/// The first of the `W`-byte elements of `column` that is not `before`; the count of elements if
/// all are.
///
/// The number of steps depends only on the count, and the choice in each compiles to a conditional
/// move: on random targets a branch here would be mispredicted half of the time.
#[inline]
fn bound<const W: usize>(column: &[u8], before: impl Fn(&[u8; W]) -> bool) -> usize {
    let (elements, _) = column.as_chunks::<W>();
    let mut base = 0;
    let mut len = elements.len();
    while len > 1 {
        let half = len / 2;
        // Written with an index, not by halving a slice: the choice between two slices becomes a
        // branch.
        let skip = before(&elements[base + half - 1]);
        base += select_unpredictable(skip, half, 0);
        len -= half;
    }
    base + usize::from(elements.get(base).is_some_and(before))
}

/// Element `index` of a column of `W`-byte elements. The column is long enough: parsing made sure.
#[inline]
fn element<const W: usize>(column: &[u8], index: usize) -> [u8; W] {
    column.as_chunks().0[index]
}

/// Element `index` of a column of little-endian integers `width` bytes long.
#[inline]
fn integer(column: &[u8], width: usize, index: usize) -> u64 {
    match width {
        0 => 0,
        1 => u64::from(column[index]),
        2 => u64::from(u16::from_le_bytes(element(column, index))),
        4 => u64::from(u32::from_le_bytes(element(column, index))),
        _ => u64::from_le_bytes(element(column, index)),
    }
}

#[cold]
fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Corruption, what)
}

#[cold]
fn unsupported(flags: u16) -> Error {
    Error::new(ErrorKind::Unsupported, format!("unknown block flags {flags:#06x}"))
        .advise("open the database with the esker version that wrote it, or a newer one")
}

#[cfg(test)]
mod tests;
