//! Workbenches: single structures of the engine, set up and driven by a few calls, for `benches/micro.rs`; and, in
//! [`decoding`], what fuzzing holds the private decoders to.
//!
//! The structures are private and stay so. This file stands in the crate only with the feature `internals`, which
//! nobody but the benchmarks and the fuzz targets should turn on: **nothing here is stable**, and nothing here is
//! needed to use esker. A workbench holds its input ready, so that a call does what is measured and little else, and
//! answers with something that depends on all of the work, so that none of it can be optimised away.
//!
//! Keys are 16 digits, as in most benchmarks of such engines; entries stand under one sequence number.

pub mod decoding;

use std::path::Path;
use std::sync::Arc;

use crate::block::builder::{BlockBuilder, shared_len};
use crate::block::bytes::BlockBytes;
use crate::block::cursor::BlockCursor;
use crate::checksum::checksum;
use crate::cursor::Cursor;
use crate::cursor::merging::MergingCursor;
use crate::error::Result;
use crate::filter::{FilterBuilder, FilterLayout, KeyProbe};
use crate::fs::FileSystem;
use crate::key::{SequenceNumber, Trailer, ValueKind, key_hash};
use crate::memtable::MemTable;
use crate::options::FilterKind;
use crate::wal::WalStart;
use crate::wal::writer::{WalWriter, WalWriterOptions};

/// Length of every key.
const KEY_LEN: usize = 16;

type Key = [u8; KEY_LEN];

fn key(n: u64) -> Key {
    let mut key = [b'0'; KEY_LEN];
    let mut rest = n;
    for digit in key.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    key
}

fn trailer() -> Trailer {
    Trailer::new(SequenceNumber(1), ValueKind::Put)
}

/// One block of a table.
#[derive(Debug)]
pub struct BlockBench {
    keys: Vec<Key>,
    value: Vec<u8>,
    builder: BlockBuilder,
    buffer: Vec<u8>,
    cursor: BlockCursor,
}

impl BlockBench {
    /// A block of `entry_count` entries with values of `value_bytes`. The keys have gaps, as in a tree.
    pub fn new(entry_count: usize, value_bytes: usize) -> Result<Self> {
        let mut bench = BlockBench {
            keys: (0..entry_count as u64).map(|n| key(n * 7919)).collect(),
            value: vec![b'v'; value_bytes],
            builder: BlockBuilder::new(),
            buffer: Vec::new(),
            cursor: BlockCursor::new(),
        };
        bench.build();
        let bytes: Arc<[u8]> = Arc::from(&*bench.buffer);
        let range = 0..bytes.len();
        bench.cursor.set_block(BlockBytes::heap(bytes, range))?;
        Ok(bench)
    }

    /// Builds the block. Returns its length.
    pub fn build(&mut self) -> usize {
        self.buffer.clear();
        for key in &self.keys {
            let shared = shared_len(self.builder.last_key(), key);
            // Without a limit everything fits.
            self.builder.add(shared, (key, trailer(), &self.value), usize::MAX);
        }
        self.builder.finish(&mut self.buffer);
        self.buffer.len()
    }

    /// Seeks an entry, chosen by `n`. Returns the length of its value.
    pub fn seek(&mut self, n: usize) -> Result<usize> {
        let key = &self.keys[n % self.keys.len()];
        self.cursor.seek(key, Trailer::NEWEST)?;
        Ok(self.cursor.value().len())
    }

    /// Walks the block. Returns the bytes of all keys and values.
    pub fn walk(&mut self) -> Result<usize> {
        self.cursor.seek_to_first()?;
        let mut bytes = 0;
        while self.cursor.valid() {
            bytes += self.cursor.key().len() + self.cursor.value().len();
            self.cursor.next()?;
        }
        Ok(bytes)
    }
}

/// The filter of one table.
#[derive(Debug)]
pub struct FilterBench {
    kind: FilterKind,
    bits_per_key: f32,
    hashes: Vec<u64>,
    stored: Vec<u8>,
    layout: FilterLayout,
}

impl FilterBench {
    /// A filter of `kind` over the keys from 0 to `key_count`.
    pub fn new(kind: FilterKind, bits_per_key: f32, key_count: u64) -> Result<Self> {
        let hashes: Vec<_> = (0..key_count).map(|n| key_hash(&key(n))).collect();
        let stored = build_filter(kind, bits_per_key, &hashes);
        let layout = FilterLayout::parse(&stored)?;
        Ok(FilterBench { kind, bits_per_key, hashes, stored, layout })
    }

    /// Builds the filter from the hashes of its keys. Returns its length.
    pub fn build(&self) -> usize {
        build_filter(self.kind, self.bits_per_key, &self.hashes).len()
    }

    /// Whether the filter lets the key of this number pass: always if it is below the count.
    pub fn probe(&self, n: u64) -> bool {
        self.layout.may_contain(&self.stored, &KeyProbe::new(key_hash(&key(n))))
    }
}

fn build_filter(kind: FilterKind, bits_per_key: f32, hashes: &[u64]) -> Vec<u8> {
    let mut builder = FilterBuilder::new(kind, bits_per_key);
    for hash in hashes {
        builder.add(*hash);
    }
    let mut stored = Vec::new();
    builder.finish(0, &mut stored);
    stored
}

/// A memtable.
#[derive(Debug)]
pub struct MemtableBench {
    table: Arc<MemTable>,
    value: Vec<u8>,
    sequence: u64,
}

impl MemtableBench {
    /// An empty memtable made for `capacity_bytes`, to be filled with values of `value_bytes`.
    pub fn new(capacity_bytes: u64, value_bytes: usize) -> Self {
        let table = MemTable::new(capacity_bytes, None);
        MemtableBench { table, value: vec![b'v'; value_bytes], sequence: 0 }
    }

    /// Inserts a version of the key of this number. Returns the bytes that the memtable takes.
    pub fn insert(&mut self, n: u64) -> u64 {
        self.sequence += 1;
        let (key, trailer) = (key(n), Trailer::new(SequenceNumber(self.sequence), ValueKind::Put));
        self.table.insert(&key, trailer, &self.value, key_hash(&key));
        self.table.bytes()
    }

    /// Whether there is the key of this number.
    pub fn get(&self, n: u64) -> bool {
        let key = key(n);
        self.table.get(&key, key_hash(&key), Trailer::NEWEST).is_some()
    }

    /// Walks the memtable. Returns the bytes of all keys and values.
    pub fn walk(&self) -> Result<usize> {
        let mut cursor = self.table.cursor();
        cursor.seek_to_first()?;
        let mut bytes = 0;
        while cursor.valid() {
            bytes += cursor.key().len() + cursor.value().len();
            cursor.next()?;
        }
        Ok(bytes)
    }
}

/// A cursor over keys in memory, as cheap as can be, so that merging it shows the cost of the merge.
#[derive(Debug)]
struct ColumnCursor {
    keys: Arc<[Key]>,
    /// Beyond the last: nowhere.
    at: usize,
}

impl ColumnCursor {
    fn place(&mut self, at: Option<usize>) {
        self.at = at.unwrap_or(self.keys.len());
    }
}

impl Cursor for ColumnCursor {
    fn valid(&self) -> bool {
        self.at < self.keys.len()
    }

    fn seek_to_first(&mut self) -> Result<()> {
        self.place(Some(0));
        Ok(())
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.place(self.keys.len().checked_sub(1));
        Ok(())
    }

    fn seek(&mut self, key: &[u8], bound: Trailer) -> Result<()> {
        let at = self.keys.partition_point(|own| (&own[..], bound) < (key, trailer()));
        self.place(Some(at));
        Ok(())
    }

    fn seek_for_prev(&mut self, key: &[u8], bound: Trailer) -> Result<()> {
        let beyond = self.keys.partition_point(|own| (&own[..], bound) <= (key, trailer()));
        self.place(beyond.checked_sub(1));
        Ok(())
    }

    fn next(&mut self) -> Result<()> {
        self.place(Some(self.at + 1));
        Ok(())
    }

    fn prev(&mut self) -> Result<()> {
        self.place(self.at.checked_sub(1));
        Ok(())
    }

    fn key(&self) -> &[u8] {
        &self.keys[self.at]
    }

    fn trailer(&self) -> Trailer {
        trailer()
    }

    fn value(&self) -> &[u8] {
        &[]
    }
}

/// A merge of several sources, whose keys are mixed.
#[derive(Debug)]
pub struct MergeBench {
    cursor: MergingCursor<ColumnCursor>,
}

impl MergeBench {
    /// A merge of `source_count` sources with `entry_count` entries in all.
    pub fn new(source_count: usize, entry_count: u64) -> Self {
        let mut keys = vec![Vec::new(); source_count];
        for n in 0..entry_count {
            // The upper bits of a multiple of an odd number are well mixed.
            let source = (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % source_count;
            keys[source].push(key(n));
        }
        let cursor = |keys: Vec<Key>| ColumnCursor { at: keys.len(), keys: keys.into() };
        MergeBench { cursor: MergingCursor::new(keys.into_iter().map(cursor).collect()) }
    }

    /// Merges everything. Returns the number of entries.
    pub fn walk(&mut self) -> Result<usize> {
        self.cursor.seek_to_first()?;
        let mut count = 0;
        while self.cursor.valid() {
            count += usize::from(self.cursor.key().len() == KEY_LEN);
            self.cursor.next()?;
        }
        Ok(count)
    }
}

/// The log.
#[derive(Debug)]
pub struct WalBench {
    wal: WalWriter,
    next_sequence: u64,
    payload: Vec<u8>,
    payload_checksum: u32,
}

impl WalBench {
    /// A log in `dir` that takes records with payloads of `payload_bytes`, through a map or by writing.
    pub fn new(fs: Arc<dyn FileSystem>, dir: &Path, mapped: bool, payload_bytes: usize) -> Self {
        let options = WalWriterOptions { segment_bytes: 16 << 20, mapped };
        let payload = vec![b'p'; payload_bytes];
        WalBench {
            wal: WalWriter::new(fs, dir, options, WalStart::default()),
            next_sequence: 1,
            payload_checksum: checksum(&payload),
            payload,
        }
    }

    /// Appends a record. Returns the offset behind it. Whole segments are used again.
    pub fn append(&mut self) -> Result<u64> {
        let first = SequenceNumber(self.next_sequence);
        self.next_sequence += 1;
        let end = self.wal.append(first, 1, &self.payload, self.payload_checksum)?;
        let to_remove = self.wal.retire(end.segment);
        debug_assert!(to_remove.is_empty(), "one segment at a time is let go, and kept as a spare");
        Ok(end.offset)
    }

    /// Makes what was appended durable, as the leader of a group does.
    pub fn sync(&mut self) -> Result<()> {
        let target = self.wal.sync_target();
        target.sync()?;
        self.wal.mark_synced(&target);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::sim_fs::SimFs;

    #[test]
    fn a_block_holds_what_was_put_into_it() {
        let mut bench = BlockBench::new(40, 100).unwrap();
        assert_eq!(bench.build(), bench.buffer.len());
        assert!(bench.build() > 40 * 100, "longer than its values");
        assert_eq!(bench.seek(41).unwrap(), 100);
        assert_eq!(bench.cursor.key(), key(7919));
        assert_eq!(bench.walk().unwrap(), 40 * (KEY_LEN + 100));
    }

    #[test]
    fn a_filter_lets_its_keys_pass_and_few_others() {
        for kind in [FilterKind::Blocked, FilterKind::Bloom] {
            let bench = FilterBench::new(kind, 10.0, 1000).unwrap();
            assert_eq!(bench.build(), bench.stored.len());
            assert!((0..1000).all(|n| bench.probe(n)));
            assert!((1000..2000).filter(|n| bench.probe(*n)).count() < 50);
        }
    }

    #[test]
    fn a_memtable_holds_what_was_inserted() {
        let mut bench = MemtableBench::new(1 << 20, 10);
        assert!(bench.insert(1) < bench.insert(0));
        assert!(bench.get(0) && bench.get(1) && !bench.get(2));
        assert_eq!(bench.walk().unwrap(), 2 * (KEY_LEN + 10));
    }

    #[test]
    fn a_merge_yields_every_entry_in_order() {
        for source_count in [1, 2, 32] {
            let mut bench = MergeBench::new(source_count, 100);
            assert_eq!(bench.walk().unwrap(), 100);
            assert_eq!(bench.walk().unwrap(), 100, "again");
            bench.cursor.seek(&key(50), Trailer::NEWEST).unwrap();
            assert_eq!(bench.cursor.key(), key(50));
            bench.cursor.prev().unwrap();
            assert_eq!(bench.cursor.key(), key(49));
            bench.cursor.seek_for_prev(&key(200), Trailer::OLDEST).unwrap();
            assert_eq!(bench.cursor.key(), key(99));
        }
    }

    #[test]
    fn a_log_goes_on_for_ever_in_few_segments() {
        for mapped in [true, false] {
            let fs = SimFs::new();
            fs.create_dir_all(Path::new("/wal")).unwrap();
            let mut bench = WalBench::new(Arc::new(fs.clone()), Path::new("/wal"), mapped, 1 << 20);
            for _ in 0..64 {
                assert!(bench.append().unwrap() > 1 << 20);
            }
            bench.sync().unwrap();
            assert_eq!(bench.wal.synced_position(), bench.wal.end_position());
            assert!(fs.list_dir("/wal").len() <= 3);
        }
    }
}
