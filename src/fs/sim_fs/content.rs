//! The bytes of one simulated file: what the process sees, and what the disk holds.
//!
//! A file has two images, `current` and `durable`, and the set of blocks in which they may differ
//! because no sync has covered them. A sync copies those blocks and the length to `durable`. A
//! crash builds a third image out of the two.
//!
//! Beside the images stands the journal: every write and change of length that no sync has covered,
//! in order, with its stamp. The images say which blocks a crash may mix; the journal says in which
//! order they came, so that a crash can leave the first of them, or cut the last one.
//!
//! # Invariants
//! * An image has exactly as many block slots as its length needs. An empty slot is a block of
//!   zeros.
//! * In the last block, the bytes past the length are zero.
//! * A block that is not in `unsynced` is the same in both images, as far as both lengths reach.
//! * `durable` with the journal applied to it is `current`, unless a sync has failed.
//!
//! Blocks are shared between images and between file systems, and copied when written: a clone of a
//! file copies pointers only.
//!
//! This file knows no names, no faults and no locks.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;

use super::persist::TornRest;
use super::rng::Rng;

/// What the device and the page cache keep or lose as a whole.
pub(super) const BLOCK_BYTES: usize = 4096;

/// When only some of the unsynced blocks survive, one in this many of them is torn inside.
const TORN_ONE_IN: u64 = 8;

/// When only some of the unsynced state survives, one in this many grown files gets a length
/// between old and new.
const PARTLY_GROWN_ONE_IN: u64 = 4;

type Block = [u8; BLOCK_BYTES];

/// The number of blocks that `bytes` bytes occupy.
pub(super) fn block_count(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64)
}

/// A sequence of bytes in copy-on-write blocks.
#[derive(Clone, Default)]
struct Image {
    bytes: u64,
    blocks: Vec<Option<Arc<Block>>>,
}

impl Image {
    fn resize(&mut self, bytes: u64) {
        let shrunk = bytes < self.bytes;
        self.bytes = bytes;
        self.blocks.resize(block_count(bytes) as usize, None);
        if shrunk {
            self.clear_tail();
        }
    }

    /// Restores the invariant that nothing but zeros follows the last byte.
    fn clear_tail(&mut self) {
        let used = self.bytes as usize % BLOCK_BYTES;
        if let (1.., Some(Some(last))) = (used, self.blocks.last_mut())
            && last[used..].iter().any(|&byte| byte != 0)
        {
            Arc::make_mut(last)[used..].fill(0);
        }
    }

    fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        self.resize(self.bytes.max(offset + bytes.len() as u64));
        let mut index = offset as usize / BLOCK_BYTES;
        let mut start = offset as usize % BLOCK_BYTES;
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - start));
            let block = self.blocks[index].get_or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
            Arc::make_mut(block)[start..start + now.len()].copy_from_slice(now);
            (bytes, index, start) = (rest, index + 1, 0);
        }
    }

    /// Fills `buf` from `offset`; the range must lie within the length.
    fn read(&self, mut buf: &mut [u8], offset: u64) {
        let mut index = offset as usize / BLOCK_BYTES;
        let mut start = offset as usize % BLOCK_BYTES;
        while !buf.is_empty() {
            let now_bytes = buf.len().min(BLOCK_BYTES - start);
            let (now, rest) = buf.split_at_mut(now_bytes);
            match &self.blocks[index] {
                Some(block) => now.copy_from_slice(&block[start..start + now_bytes]),
                None => now.fill(0),
            }
            (buf, index, start) = (rest, index + 1, 0);
        }
    }

    /// Equal bytes have equal hashes, whether a block of zeros has a slot or not.
    fn hash(&self, hasher: &mut impl Hasher) {
        hasher.write_u64(self.bytes);
        for (index, block) in self.blocks.iter().enumerate() {
            if let Some(block) = block.as_ref().filter(|block| ***block != [0; BLOCK_BYTES]) {
                hasher.write_usize(index);
                hasher.write(&block[..]);
            }
        }
    }

    fn block(&self, index: usize) -> Option<Arc<Block>> {
        self.blocks.get(index).cloned().flatten()
    }

    /// Replaces a block as far as the length reaches.
    fn set_block(&mut self, index: usize, block: Option<Arc<Block>>) {
        if let Some(slot) = self.blocks.get_mut(index) {
            *slot = block;
            self.clear_tail();
        }
    }
}

/// Why a block is not durable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unsynced {
    /// Written since the last sync: the next sync makes it durable.
    Dirty,
    /// A sync of it failed. The operating system marks such a page clean, so no later sync writes
    /// it either, until it is written again.
    SyncFailed,
}

/// The place of a change in the order of all changes of a disk.
pub(super) type Stamp = u64;

/// A change that no sync has covered.
#[derive(Clone)]
struct Change {
    stamp: Stamp,
    what: Changed,
}

#[derive(Clone)]
enum Changed {
    Bytes { offset: u64, bytes: Arc<[u8]> },
    Length(u64),
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match &self.what {
            Changed::Bytes { offset, bytes } => image.write(*offset, bytes),
            Changed::Length(bytes) => image.resize(*bytes),
        }
    }
}

/// Which of the two images a crash leaves.
pub(super) enum SurvivingBytes<'a> {
    Durable,
    Current,
    /// The current length; zeros where the durable image is shorter.
    Length,
    /// The changes before this one.
    Before(Stamp),
    /// All but a part of the last write, of which so many bytes survive, modulo its length.
    Torn(u64, TornRest),
    /// Every unsynced block and the length decide for themselves, in favour of `current` with so
    /// many percent.
    Random(u8, &'a mut Rng),
}

/// The bytes of a file.
#[derive(Clone, Default)]
pub(super) struct Content {
    current: Image,
    durable: Image,
    unsynced: BTreeMap<usize, Unsynced>,
    journal: Vec<Change>,
}

impl Content {
    /// A file of `bytes`, all of them durable.
    pub(super) fn of_durable(bytes: &[u8]) -> Self {
        let mut image = Image::default();
        image.write(0, bytes);
        Content::of_image(image)
    }

    fn of_image(image: Image) -> Self {
        Content { current: image.clone(), durable: image, ..Content::default() }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.current.bytes
    }

    /// Fills `buf` from `offset`; false if the file ends before.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> bool {
        let within = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= self.bytes());
        if within {
            self.current.read(buf, offset);
        }
        within
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.bytes() as usize];
        self.current.read(&mut bytes, 0);
        bytes
    }

    /// Writes `bytes` at `offset`; the file grows as needed, with zeros up to `offset`.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], stamp: Stamp) {
        if offset > self.bytes() {
            self.resize(offset, stamp);
        }
        if !bytes.is_empty() {
            let what = Changed::Bytes { offset, bytes: bytes.into() };
            self.journal.push(Change { stamp, what });
        }
        self.current.write(offset, bytes);
        let first = offset as usize / BLOCK_BYTES;
        let end = block_count(offset + bytes.len() as u64) as usize;
        self.unsynced.extend((first..end).map(|index| (index, Unsynced::Dirty)));
    }

    /// Sets the length; new bytes are zero.
    pub(super) fn resize(&mut self, bytes: u64, stamp: Stamp) {
        if bytes == self.bytes() {
            return;
        }
        self.journal.push(Change { stamp, what: Changed::Length(bytes) });
        let first_changed = self.bytes().min(bytes) as usize / BLOCK_BYTES;
        self.current.resize(bytes);
        self.unsynced.split_off(&self.current.blocks.len());
        // Where the disk still holds bytes of before a truncation, a sync has to write the zeros.
        let changed = first_changed..self.current.blocks.len();
        let stale = changed.filter(|&index| self.durable.block(index).is_some());
        self.unsynced.extend(stale.map(|index| (index, Unsynced::Dirty)));
    }

    /// Makes the current length and every block that a sync still can write durable.
    pub(super) fn sync(&mut self) {
        self.durable.resize(self.current.bytes);
        for &index in self.unsynced.keys().filter(|index| self.unsynced[index] == Unsynced::Dirty) {
            self.durable.set_block(index, self.current.block(index));
        }
        self.unsynced.retain(|_, state| *state == Unsynced::SyncFailed);
        self.journal.clear();
    }

    /// Records that a sync failed: what it should have written is lost to all later syncs.
    pub(super) fn fail_sync(&mut self) {
        self.unsynced.values_mut().for_each(|state| *state = Unsynced::SyncFailed);
    }

    /// Whether a crash cannot change this file.
    pub(super) fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
            && self.journal.is_empty()
            && self.current.bytes == self.durable.bytes
    }

    /// The stamps of the changes that no sync has covered, in order.
    pub(super) fn unsynced_stamps(&self) -> impl Iterator<Item = Stamp> {
        self.journal.iter().map(|change| change.stamp)
    }

    /// Feeds what the process sees and what the disk holds to `hasher`.
    pub(super) fn hash(&self, hasher: &mut impl Hasher) {
        self.current.hash(hasher);
        if !self.is_synced() {
            self.durable.hash(hasher);
        }
    }

    /// The file as a crash leaves it.
    pub(super) fn after_crash(&self, surviving: SurvivingBytes<'_>) -> Content {
        Content::of_image(match surviving {
            SurvivingBytes::Durable => self.durable.clone(),
            SurvivingBytes::Current => self.current.clone(),
            SurvivingBytes::Length => {
                let mut image = self.durable.clone();
                image.resize(self.current.bytes);
                image
            }
            SurvivingBytes::Before(end) => {
                let mut image = self.durable.clone();
                let before = self.journal.iter().take_while(|change| change.stamp < end);
                before.for_each(|change| change.apply(&mut image));
                image
            }
            SurvivingBytes::Torn(kept_bytes, rest) => self.torn_image(kept_bytes, rest),
            SurvivingBytes::Random(percent, rng) => self.random_image(percent, rng),
        })
    }

    fn torn_image(&self, kept_bytes: u64, rest: TornRest) -> Image {
        let is_write = |change: &Change| matches!(change.what, Changed::Bytes { .. });
        let last = self.journal.iter().rposition(is_write);
        let Some(last) = last else { return self.current.clone() };
        let mut image = self.durable.clone();
        for (at, change) in self.journal.iter().enumerate() {
            match &change.what {
                Changed::Bytes { offset, bytes } if at == last => {
                    let kept_bytes = kept_bytes as usize % bytes.len().max(1);
                    image.write(*offset, &bytes[..kept_bytes]);
                    let end = *offset + bytes.len() as u64;
                    let lost_from = (*offset + kept_bytes as u64).max(self.durable.bytes);
                    if rest == TornRest::Zeros && lost_from < end {
                        image.write(lost_from, &vec![0; (end - lost_from) as usize]);
                    }
                }
                _ => change.apply(&mut image),
            }
        }
        image
    }

    fn random_image(&self, percent: u8, rng: &mut Rng) -> Image {
        let partly = (1..100).contains(&percent);
        let mut image = self.durable.clone();
        image.resize(self.random_length(percent, partly, rng));
        for &index in self.unsynced.keys() {
            let kept = rng.percent(percent);
            let (old, new) = (image.block(index), self.current.block(index));
            if partly && rng.below(TORN_ONE_IN) == 0 {
                image.set_block(index, Some(torn_block(old, new, rng)));
            } else if kept {
                image.set_block(index, new);
            }
        }
        image
    }

    fn random_length(&self, percent: u8, partly: bool, rng: &mut Rng) -> u64 {
        let (old, new) = (self.durable.bytes, self.current.bytes);
        if old == new {
            return new;
        }
        if partly && new > old && rng.below(PARTLY_GROWN_ONE_IN) == 0 {
            return old + rng.below(new - old);
        }
        if rng.percent(percent) { new } else { old }
    }
}

/// A block of which only the first or only the last bytes were written.
fn torn_block(old: Option<Arc<Block>>, new: Option<Arc<Block>>, rng: &mut Rng) -> Arc<Block> {
    let zeros = || Arc::new([0; BLOCK_BYTES]);
    let (mut head, mut tail) = (new.unwrap_or_else(zeros), old.unwrap_or_else(zeros));
    if rng.below(4) == 0 {
        std::mem::swap(&mut head, &mut tail);
    }
    let cut = rng.below(BLOCK_BYTES as u64) as usize;
    Arc::make_mut(&mut head)[cut..].copy_from_slice(&tail[cut..]);
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_an_image_does_not_come_back_when_it_grows() {
        let mut image = Image::default();
        image.write(0, &[1; 2 * BLOCK_BYTES]);
        image.resize(5);
        image.set_block(0, Some(Arc::new([2; BLOCK_BYTES])));
        image.set_block(1, Some(Arc::new([2; BLOCK_BYTES])));
        image.resize(2 * BLOCK_BYTES as u64);
        let mut bytes = vec![9; 2 * BLOCK_BYTES];
        image.read(&mut bytes, 0);
        assert_eq!(bytes[..5], [2; 5]);
        assert!(bytes[5..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn writes_past_the_end_fill_the_gap_with_zeros() {
        let mut content = Content::of_durable(&[1; 10]);
        content.write(BLOCK_BYTES as u64 + 3, b"x", 0);
        let bytes = content.to_vec();
        assert_eq!((bytes.len(), bytes[9], bytes[BLOCK_BYTES + 3]), (BLOCK_BYTES + 4, 1, b'x'));
        assert!(bytes[10..BLOCK_BYTES + 3].iter().all(|&byte| byte == 0));
    }
}
