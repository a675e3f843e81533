//! Building blocks: entries in, columns out.
//!
//! Entries are kept apart until the block is finished, because the widths of the columns depend on
//! all of them. What the widths will be is known at every moment ([`Shape`]), so that a block is
//! cut before it grows past its size and not after.
//!
//! This file knows nothing of files, checksums and compression.

use crate::block::{
    END_WIDTHS, FLAG_SUFFIX_UNIFORM, FLAG_TRAILERS_SHIFTED, HEAD_WIDTHS, HEADER_LEN, TRAILER_WIDTHS,
};
use crate::coding::{put_u32, put_u64, put_varint, varint_len};
use crate::key::{Trailer, key_prefix};

/// Collects the entries of one block after the other.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    shape: Shape,
    /// All keys, one after the other.
    keys: Vec<u8>,
    values: Vec<u8>,
    entries: Vec<PendingEntry>,
}

#[derive(Clone, Copy, Debug)]
struct PendingEntry {
    key_end: usize,
    value_end: usize,
    trailer: Trailer,
}

/// What decides the widths of the columns, and so the length of the block.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    count: usize,
    common_len: usize,
    key_len_min: usize,
    key_len_max: usize,
    key_bytes: usize,
    value_len_min: usize,
    value_len_max: usize,
    value_bytes: usize,
    trailer_min: u64,
    trailer_max: u64,
    /// Ors of what the kinds differ in.
    kind_difference: u8,
    /// The furthest place in a key where a zero-padded neighbour first differs.
    separator_end: usize,
}

impl Shape {
    fn first(key: &[u8], trailer: Trailer, value: &[u8]) -> Self {
        Shape {
            count: 1,
            common_len: key.len(),
            key_len_min: key.len(),
            key_len_max: key.len(),
            key_bytes: key.len(),
            value_len_min: value.len(),
            value_len_max: value.len(),
            value_bytes: value.len(),
            trailer_min: trailer.0,
            trailer_max: trailer.0,
            kind_difference: 0,
            separator_end: 0,
        }
    }

    /// The shape with an entry more, whose key shares `shared` bytes with the last.
    fn with(
        &self,
        last: &[u8],
        shared: usize,
        (key, trailer, value): (&[u8], Trailer, &[u8]),
    ) -> Self {
        Shape {
            count: self.count + 1,
            common_len: self.common_len.min(shared),
            key_len_min: self.key_len_min.min(key.len()),
            key_len_max: self.key_len_max.max(key.len()),
            key_bytes: self.key_bytes + key.len(),
            value_len_min: self.value_len_min.min(value.len()),
            value_len_max: self.value_len_max.max(value.len()),
            value_bytes: self.value_bytes + value.len(),
            trailer_min: self.trailer_min.min(trailer.0),
            trailer_max: self.trailer_max.max(trailer.0),
            kind_difference: self.kind_difference | (self.trailer_min as u8 ^ trailer.kind_byte()),
            separator_end: self.separator_end.max(separator_end(last, key, shared)),
        }
    }

    fn is_suffix_uniform(&self) -> bool {
        self.key_len_min == self.key_len_max
    }

    /// The narrowest width whose heads differ where neighbouring keys do, else the widest.
    fn head_code(&self) -> usize {
        let needed = self.separator_end.saturating_sub(self.common_len);
        HEAD_WIDTHS.iter().position(|&width| needed <= width).unwrap_or(HEAD_WIDTHS.len() - 1)
    }

    fn trailer_shift(&self) -> u32 {
        if self.kind_difference == 0 { 8 } else { 0 }
    }

    fn trailer_code(&self) -> usize {
        let difference = (self.trailer_max - self.trailer_min) >> self.trailer_shift();
        width_code(&TRAILER_WIDTHS, difference)
    }

    /// The length of the heap: exact if no key is shorter than common bytes and head, else at most
    /// too large.
    fn heap_len(&self) -> usize {
        let head_width = HEAD_WIDTHS[self.head_code()];
        let suffix_len_max = self.key_len_max - self.common_len;
        let lengths = if self.is_suffix_uniform() {
            0
        } else {
            self.count * varint_len(suffix_len_max as u64)
        };
        let in_columns = self.common_len + head_width;
        let tails = if self.key_len_min >= in_columns {
            self.key_bytes - self.count * in_columns
        } else {
            self.count * (self.key_len_max.saturating_sub(in_columns))
        };
        lengths + tails + self.value_bytes
    }

    fn end_code(&self, heap_len: usize) -> usize {
        if self.is_suffix_uniform() && self.value_len_min == self.value_len_max {
            return 0;
        }
        1 + END_WIDTHS[1..]
            .iter()
            .position(|&width| width == 8 || heap_len >> (8 * width) == 0)
            .unwrap_or(0)
    }

    fn encoded_len(&self) -> usize {
        let heap_len = self.heap_len();
        let columns = HEAD_WIDTHS[self.head_code()]
            + TRAILER_WIDTHS[self.trailer_code()]
            + END_WIDTHS[self.end_code(heap_len)];
        HEADER_LEN + self.common_len + self.count * columns + heap_len
    }
}

/// The narrowest of `widths`, which ascend to 8, that holds `value`.
fn width_code(widths: &[usize], value: u64) -> usize {
    let needed = (u64::BITS - value.leading_zeros()).div_ceil(8) as usize;
    widths.iter().position(|&width| needed <= width).unwrap_or(widths.len() - 1)
}

/// The number of bytes that both begin with.
#[inline]
pub(crate) fn shared_len(a: &[u8], b: &[u8]) -> usize {
    let (a_words, _) = a.as_chunks::<8>();
    let (b_words, _) = b.as_chunks::<8>();
    let mut shared = 0;
    for (a_word, b_word) in a_words.iter().zip(b_words) {
        let difference = u64::from_le_bytes(*a_word) ^ u64::from_le_bytes(*b_word);
        if difference != 0 {
            return shared + difference.trailing_zeros() as usize / 8;
        }
        shared += 8;
    }
    shared + a[shared..].iter().zip(&b[shared..]).take_while(|(x, y)| x == y).count()
}

/// Where `last` and `key` are first told apart when both are zero-padded, as the length of the part
/// that tells; 0 for equal keys, which no head tells apart.
fn separator_end(last: &[u8], key: &[u8], shared: usize) -> usize {
    if shared < last.len() {
        return shared + 1;
    }
    // `last` is a prefix of `key`: zeros after it look like its padding.
    match key[shared..].iter().position(|&byte| byte != 0) {
        Some(zeros) => shared + zeros + 1,
        None if key.len() == last.len() => 0,
        None => usize::MAX,
    }
}

impl BlockBuilder {
    /// An empty builder.
    pub(crate) fn new() -> Self {
        BlockBuilder::default()
    }

    /// Whether there are no entries.
    pub(crate) fn is_empty(&self) -> bool {
        self.shape.count == 0
    }

    /// The key added last; empty if there is none.
    #[inline]
    pub(crate) fn last_key(&self) -> &[u8] {
        let start = match self.entries.len() {
            0 | 1 => 0,
            count => self.entries[count - 2].key_end,
        };
        &self.keys[start..]
    }

    /// The trailer added last.
    pub(crate) fn last_trailer(&self) -> Option<Trailer> {
        self.entries.last().map(|entry| entry.trailer)
    }

    /// Adds an entry if the block stays within `limit_bytes`, or is its first. `false`: it was not
    /// added. The key must share exactly `shared` bytes with the last one, and the entry must not
    /// stand before the last.
    #[inline]
    pub(crate) fn add(
        &mut self,
        shared: usize,
        entry: (&[u8], Trailer, &[u8]),
        limit_bytes: usize,
    ) -> bool {
        let (key, trailer, value) = entry;
        let shape = if self.is_empty() {
            Shape::first(key, trailer, value)
        } else {
            debug_assert_eq!(shared, shared_len(self.last_key(), key));
            let shape = self.shape.with(self.last_key(), shared, entry);
            if shape.encoded_len() > limit_bytes {
                return false;
            }
            shape
        };
        self.shape = shape;
        self.keys.extend_from_slice(key);
        self.values.extend_from_slice(value);
        self.entries.push(PendingEntry {
            key_end: self.keys.len(),
            value_end: self.values.len(),
            trailer,
        });
        true
    }

    /// About how long the block would be if it were finished now; at most too large.
    pub(crate) fn estimated_len(&self) -> usize {
        if self.is_empty() { 0 } else { self.shape.encoded_len() }
    }

    /// Appends the block to `out` and starts an empty one. There must be entries.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        assert!(!self.is_empty(), "a block is never empty");
        let shape = self.shape;
        let head_code = shape.head_code();
        let trailer_code = shape.trailer_code();
        let end_code = shape.end_code(shape.heap_len());
        out.reserve(shape.encoded_len());
        let uniform = shape.is_suffix_uniform();
        let flags = head_code as u16
            | (trailer_code as u16) << 2
            | if shape.trailer_shift() == 8 { FLAG_TRAILERS_SHIFTED } else { 0 }
            | (end_code as u16) << 6
            | if uniform { FLAG_SUFFIX_UNIFORM } else { 0 };
        put_u32(out, u32::try_from(shape.count).expect("a block has fewer than 2^32 entries"));
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&(shape.common_len as u16).to_le_bytes());
        let suffix_len = if uniform { shape.key_len_max - shape.common_len } else { 0 };
        out.extend_from_slice(&(suffix_len as u16).to_le_bytes());
        put_u64(out, shape.trailer_min);
        out.extend_from_slice(&self.keys[..shape.common_len]);
        self.put_columns(
            out,
            HEAD_WIDTHS[head_code],
            TRAILER_WIDTHS[trailer_code],
            END_WIDTHS[end_code],
        );
        self.put_heap(out, HEAD_WIDTHS[head_code]);
        self.clear();
    }

    /// Forgets all entries.
    fn clear(&mut self) {
        /// One huge value must not hold its memory until the table is finished.
        const KEPT_BYTES_MAX: usize = 1 << 20;
        self.shape = Shape::default();
        self.keys.clear();
        self.values.clear();
        self.values.shrink_to(KEPT_BYTES_MAX);
        self.entries.clear();
    }

    /// Each entry's suffix, value and trailer.
    fn parts(&self) -> impl Iterator<Item = (&[u8], &[u8], Trailer)> {
        let starts = std::iter::once((0, 0))
            .chain(self.entries.iter().map(|entry| (entry.key_end, entry.value_end)));
        self.entries.iter().zip(starts).map(|(entry, (key_start, value_start))| {
            let suffix = &self.keys[key_start + self.shape.common_len..entry.key_end];
            (suffix, &self.values[value_start..entry.value_end], entry.trailer)
        })
    }

    fn put_columns(
        &self,
        out: &mut Vec<u8>,
        head_width: usize,
        trailer_width: usize,
        end_width: usize,
    ) {
        for (suffix, ..) in self.parts() {
            let head = key_prefix(&suffix[..suffix.len().min(head_width)]).to_be_bytes();
            out.extend_from_slice(&head[..head_width]);
        }
        if trailer_width > 0 {
            for entry in &self.entries {
                let delta =
                    (entry.trailer.0 - self.shape.trailer_min) >> self.shape.trailer_shift();
                out.extend_from_slice(&delta.to_le_bytes()[..trailer_width]);
            }
        }
        if end_width > 0 {
            let mut end = 0u64;
            for (suffix, value, _) in self.parts() {
                let length = if self.shape.is_suffix_uniform() {
                    0
                } else {
                    varint_len(suffix.len() as u64)
                };
                end += (length + suffix.len().saturating_sub(head_width) + value.len()) as u64;
                out.extend_from_slice(&end.to_le_bytes()[..end_width]);
            }
        }
    }

    fn put_heap(&self, out: &mut Vec<u8>, head_width: usize) {
        let uniform = self.shape.is_suffix_uniform();
        for (suffix, value, _) in self.parts() {
            if !uniform {
                put_varint(out, suffix.len() as u64);
            }
            out.extend_from_slice(&suffix[suffix.len().min(head_width)..]);
            out.extend_from_slice(value);
        }
    }
}
