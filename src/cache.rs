//! The block cache: decompressed or privately read blocks, bounded by bytes.
//!
//! A block is named by its file and its offset. File numbers are never reused, so an entry never
//! goes stale; blocks of removed tables leave as others push them out. Only verified bytes are
//! inserted. The replacement policy (S3-FIFO, `quick_cache`) has no background work; a hit takes a
//! shared lock of one shard.
//!
//! This file knows nothing of what the bytes mean.

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::key::FileNumber;

/// What an entry costs beside its bytes: the cache's own node and the allocation's header.
const ENTRY_OVERHEAD_BYTES: u64 = 96;
/// For the size of the hash table only: the usual block.
const ESTIMATED_BLOCK_BYTES: u64 = 4096;

/// A block's name: file and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockKey(u64, u64);

/// Blocks by file and offset, the most useful kept.
pub(crate) struct BlockCache {
    blocks: Cache<BlockKey, Arc<[u8]>, ByBytes, MixIntegers>,
}

impl BlockCache {
    /// A cache that holds about `bytes`.
    pub(crate) fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / ESTIMATED_BLOCK_BYTES).unwrap_or(usize::MAX);
        BlockCache {
            blocks: Cache::with(items, bytes, ByBytes, MixIntegers, DefaultLifecycle::default()),
        }
    }

    /// The block at `offset` of `file`, if it is here.
    #[inline]
    pub(crate) fn get(&self, file: FileNumber, offset: u64) -> Option<Arc<[u8]>> {
        self.blocks.get(&BlockKey(file.0, offset))
    }

    /// Keeps a verified block, if it is small enough to be worth it.
    pub(crate) fn insert(&self, file: FileNumber, offset: u64, block: Arc<[u8]>) {
        self.blocks.insert(BlockKey(file.0, offset), block);
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.weight()
    }
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache")
            .field("bytes", &self.bytes())
            .field("blocks", &self.blocks.len())
            .finish()
    }
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<BlockKey, Arc<[u8]>> for ByBytes {
    fn weight(&self, _: &BlockKey, block: &Arc<[u8]>) -> u64 {
        block.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// A hash for two integers that no adversary chooses: far cheaper than the default keyed one.
#[derive(Clone, Copy, Debug, Default)]
struct MixIntegers;

impl BuildHasher for MixIntegers {
    type Hasher = IntegerMixer;

    fn build_hasher(&self) -> IntegerMixer {
        IntegerMixer(0)
    }
}

struct IntegerMixer(u64);

impl Hasher for IntegerMixer {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        // Folding the 128-bit product with a random odd constant spreads every input bit over the
        // result.
        let product = u128::from(self.0.rotate_left(23) ^ value ^ 0x9e37_79b9_7f4a_7c15)
            * 0xd6e8_feb8_6659_fd93;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn holds_no_more_than_its_bytes_and_serves_what_it_holds() {
        let cache = BlockCache::new(64 << 10);
        for offset in 0..1000u64 {
            cache.insert(FileNumber(offset % 3), offset, Arc::from(vec![offset as u8; 1000]));
        }
        assert!(cache.bytes() <= 64 << 10, "{}", cache.bytes());
        let held: Vec<u64> = (0..1000)
            .filter(|&offset| cache.get(FileNumber(offset % 3), offset).is_some())
            .collect();
        assert!(held.len() > 20, "{}", held.len());
        for offset in held {
            assert_eq!(cache.get(FileNumber(offset % 3), offset).unwrap()[0], offset as u8);
            assert!(cache.get(FileNumber(offset % 3 + 7), offset).is_none());
        }
    }

    #[test]
    fn a_cache_of_no_bytes_holds_nothing() {
        let cache = BlockCache::new(0);
        cache.insert(FileNumber(1), 0, Arc::from(vec![0; 10]));
        assert!(cache.get(FileNumber(1), 0).is_none());
    }

    #[test]
    fn hashes_of_neighbours_differ_in_high_and_low_bits() {
        let hashes: Vec<u64> =
            (0..4096u64).map(|i| MixIntegers.hash_one(BlockKey(i / 64, (i % 64) * 4096))).collect();
        let low: HashSet<u64> = hashes.iter().map(|hash| hash % 4096).collect();
        let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 52).collect();
        assert!(low.len() > 2300 && high.len() > 2300, "{} {}", low.len(), high.len());
    }
}
