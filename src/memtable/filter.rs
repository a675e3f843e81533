//! The memtable's filter: says "not here" to most lookups of absent keys for the price of one cache
//! line.
//!
//! A blocked bloom filter. The upper half of a key's hash chooses a block of 512 bits, one cache
//! line; the lower half chooses [`PROBES`] bits in it. It is never written to a file, so its layout
//! is free to change.
//!
//! # Concurrency
//! Bits are only ever set, by relaxed `fetch_or`, and never cleared. Why relaxed suffices: see
//! "Publication" in [`memtable`](crate::memtable).

#![expect(unsafe_code, reason = "asks the allocator for zeroed memory; the block has its proof")]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits per key. With 12 bits of filter per key about 1 % of absent keys pass; more probes would
/// hardly lower that but cost the writer an atomic operation each.
const PROBES: u32 = 4;
/// A 64th of the memtable's bytes: 12 bits per key if an entry takes 96 bytes with all overhead,
/// and a small price.
const CAPACITY_BYTES_PER_FILTER_BYTE: u64 = 64;
const BLOCK_BITS_LOG2: u32 = 9;

/// One cache line of bits.
#[repr(align(64))]
struct Block([AtomicU64; 8]);

/// A set of key hashes that may claim to hold more than it does, but never less.
pub(super) struct MemFilter {
    blocks: Box<[Block]>,
}

impl MemFilter {
    /// An empty filter for a memtable of `capacity_bytes`.
    pub(super) fn new(capacity_bytes: u64) -> Self {
        let bytes = capacity_bytes / CAPACITY_BYTES_PER_FILTER_BYTE;
        // The bound keeps `block_of` within 64-bit arithmetic; 64 GiB of filter is beyond use
        // anyway.
        let block_count = (bytes / size_of::<Block>() as u64).clamp(1, 1 << 30) as usize;
        MemFilter { blocks: zeroed_blocks(block_count) }
    }

    /// The size of the filter.
    pub(super) fn bytes(&self) -> u64 {
        size_of_val(&*self.blocks) as u64
    }

    /// Adds a key by its hash.
    #[inline]
    pub(super) fn insert(&self, hash: u64) {
        let block = self.block_of(hash);
        for (word, bit) in probes(hash) {
            let word = &block.0[word];
            // Most bits of a full filter are set already; looking first spares the locked
            // operation. A bit that another thread set is as good as set here: who is ordered after
            // this load cannot see an older value than it saw.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether a key with this hash may have been added.
    #[inline]
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let block = self.block_of(hash);
        probes(hash).all(|(word, bit)| block.0[word].load(Ordering::Relaxed) & bit != 0)
    }

    #[inline]
    fn block_of(&self, hash: u64) -> &Block {
        // Multiply and shift maps 32 bits evenly onto 0..block_count.
        let index = ((hash >> 32) * self.blocks.len() as u64) >> 32;
        &self.blocks[index as usize]
    }
}

/// The words and bits of a block that stand for `hash`.
#[inline]
fn probes(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    let mut state = hash as u32;
    (0..PROBES).map(move |_| {
        // The golden ratio spreads the low bits to the top, where the next probe is taken from.
        state = state.wrapping_mul(0x9e37_79b9);
        let bit = state >> (u32::BITS - BLOCK_BITS_LOG2);
        ((bit / u64::BITS) as usize, 1 << (bit % u64::BITS))
    })
}

/// `count` blocks without a set bit, whose pages the system provides only when they are touched.
fn zeroed_blocks(count: usize) -> Box<[Block]> {
    let layout = Layout::array::<Block>(count).expect("the filter fits the address space");
    assert!(layout.size() > 0);
    // SAFETY: the layout's size is not zero.
    let start = unsafe { alloc_zeroed(layout) };
    #[expect(clippy::cast_ptr_alignment, reason = "allocated with the alignment of Block")]
    let start = start.cast::<Block>();
    if start.is_null() {
        handle_alloc_error(layout);
    }
    // SAFETY: `start` is a fresh allocation of the global allocator with exactly the layout of
    // `[Block; count]`, and zero bytes are a valid `Block`: an array of integers in atomics.
    unsafe { Box::from_raw(ptr::slice_from_raw_parts_mut(start, count)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::key_hash;

    fn hash(index: u64) -> u64 {
        key_hash(format!("user{index:012}").as_bytes())
    }

    #[test]
    fn holds_what_was_added_and_refuses_most_else() {
        // 12 bits a key: 96 bytes of memtable for each of 20000 entries.
        let filter = MemFilter::new(20_000 * 96);
        (0..20_000).for_each(|i| filter.insert(hash(i)));
        assert!((0..20_000).all(|i| filter.may_contain(hash(i))));
        let false_positives = (20_000..120_000).filter(|&i| filter.may_contain(hash(i))).count();
        assert!(false_positives < 1500, "{false_positives} of 100000");
    }

    #[test]
    fn an_empty_filter_refuses_everything() {
        let filter = MemFilter::new(1 << 20);
        assert!((0..1000).all(|i| !filter.may_contain(hash(i))));
    }

    #[test]
    fn its_size_is_bounded_by_the_capacity() {
        assert_eq!(MemFilter::new(0).bytes(), 64);
        assert_eq!(MemFilter::new(64 << 20).bytes(), 1 << 20);
        let extreme = MemFilter::new(1 << 16);
        for hash in [0, u64::MAX, u64::MAX << 32, u64::from(u32::MAX)] {
            extreme.insert(hash);
            assert!(extreme.may_contain(hash));
        }
    }
}
