//! Bytes kept alive by what they lie in, without a copy.
//!
//! A block, or a value in it, is a range of a mapped table or of an allocation. Cloning or slicing
//! it counts one reference; the mapping or the allocation goes with the last of them.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::expiry::EXPIRY_LEN;
use crate::fs::Mapping;

/// Bytes of a block or of a part of it, kept alive by what they lie in: a mapped table or an
/// allocation.
#[derive(Clone)]
pub(crate) struct BlockBytes {
    owner: Owner,
    start: usize,
    len: usize,
}

#[derive(Clone)]
enum Owner {
    Mapping(Arc<Mapping>),
    Heap(Arc<[u8]>),
}

impl BlockBytes {
    /// `range` of a mapping. The range must lie in it.
    #[inline]
    pub(crate) fn mapped(map: Arc<Mapping>, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= map.len(), "block outside its mapping");
        BlockBytes { owner: Owner::Mapping(map), start: range.start, len: range.len() }
    }

    /// `range` of an allocation. The range must lie in it.
    #[inline]
    pub(crate) fn heap(bytes: Arc<[u8]>, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= bytes.len(),
            "block outside its allocation"
        );
        BlockBytes { owner: Owner::Heap(bytes), start: range.start, len: range.len() }
    }

    /// `range` of these bytes. The range must lie in them.
    #[inline]
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "slice outside its block");
        BlockBytes { owner: self.owner.clone(), start: self.start + range.start, len: range.len() }
    }
}

impl Default for BlockBytes {
    fn default() -> Self {
        BlockBytes { owner: Owner::Heap(Arc::default()), start: 0, len: 0 }
    }
}

impl Deref for BlockBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.owner {
            Owner::Mapping(map) => map,
            Owner::Heap(bytes) => bytes,
        };
        &all[self.start..self.start + self.len]
    }
}

impl fmt::Debug for BlockBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = match self.owner {
            Owner::Mapping(_) => "mapped",
            Owner::Heap(_) => "heap",
        };
        write!(f, "BlockBytes({owner}, {} bytes)", self.len)
    }
}

/// A value that keeps its block.
#[derive(Clone, Debug)]
pub(crate) struct PinnedValue(pub(crate) BlockBytes);

impl PinnedValue {
    /// The part of the value that follows its time of expiry; nothing, if it is shorter.
    pub(crate) fn without_expiry(mut self) -> Self {
        let skipped = EXPIRY_LEN.min(self.0.len);
        self.0.start += skipped;
        self.0.len -= skipped;
        self
    }
}

impl Deref for PinnedValue {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
