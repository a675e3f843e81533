//! What an entry costs, measured on the engine's own code.
//!
//! A small memtable and small tables are really built, in memory, with entries like those of the
//! workload: two sizes of each, so that the difference is the price of an entry without the fixed
//! parts. No constant here can fall behind a format. Values repeat their first half, as those of
//! the benchmarks do, so compression halves them at best.

use std::path::Path;

use crate::batch::WriteBatch;
use crate::coding::varint_len;
use crate::error::Result;
use crate::expiry::EXPIRY_LEN;
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::fs::sim_fs::SimFs;
use crate::key::{FileNumber, KeyspaceId, SequenceNumber, Trailer, ValueKind, key_hash};
use crate::memtable::MemTable;
use crate::options::KeyspaceOptions;
use crate::table::writer::{TableWriter, TableWriterOptions};
use crate::version::LEVEL_COUNT;

/// Entries of the larger sample, if they are small.
const SAMPLE_ENTRIES_MAX: u64 = 16_384;
/// Bytes of keys and values in it, if that leaves enough entries.
const SAMPLE_BYTES_MAX: u64 = 4 << 20;
const SAMPLE_ENTRIES_MIN: u64 = 64;

/// Of the keys of the last level, an upper level has one in so many.
const STRIDE: u64 = 13;

/// Tag, check and guard of a log record; lengths and counts; a sequence number and an offset of
/// middle size.
const WAL_RECORD_BYTES: u64 = 7 + 1 + 4 + 1;

/// The price of a value and of a tombstone in one place, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EntryBytes {
    pub(crate) put: f64,
    pub(crate) delete: f64,
}

/// See the module text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Costs {
    /// Bytes that the user hands in.
    pub(crate) user: EntryBytes,
    pub(crate) wal: EntryBytes,
    pub(crate) memtable: EntryBytes,
    /// Of an empty memtable.
    pub(crate) memtable_fixed: u64,
    /// By level, since filters and compression differ.
    pub(crate) tables: [EntryBytes; LEVEL_COUNT],
}

impl Costs {
    /// For trees without a format: bytes of a put and a delete, as the user hands them in and as
    /// they are stored.
    #[cfg(test)]
    pub(crate) fn flat(user: (u64, u64), stored: (u64, u64)) -> Self {
        let bytes = |(put, delete)| EntryBytes { put: put as f64, delete: delete as f64 };
        Costs {
            user: bytes(user),
            wal: bytes(stored),
            memtable: bytes(stored),
            memtable_fixed: 0,
            tables: [bytes(stored); LEVEL_COUNT],
        }
    }

    /// Measures entries with keys and values of these lengths.
    pub(crate) fn measure(
        options: &KeyspaceOptions,
        key_bytes: u64,
        value_bytes: u64,
        expires: bool,
    ) -> Result<Self> {
        let stored = value_bytes + if expires { EXPIRY_LEN as u64 } else { 0 };
        let (put, delete) = (Sample::new(key_bytes, Some(stored)), Sample::new(key_bytes, None));
        let memtable_fixed = MemTable::new(options.memtable_bytes, None).bytes();
        let mut tables = [EntryBytes::default(); LEVEL_COUNT];
        for level in 0..LEVEL_COUNT {
            let same = (0..level).find(|above| {
                level < LEVEL_COUNT - 1
                    && options.compression_at(*above) == options.compression_at(level)
                    && options.filter_bits_at(*above) == options.filter_bits_at(level)
            });
            tables[level] = match same {
                Some(above) => tables[above],
                None => EntryBytes {
                    put: put.table_entry_bytes(options, level)?,
                    delete: delete.table_entry_bytes(options, level)?,
                },
            };
        }
        Ok(Costs {
            user: EntryBytes { put: (key_bytes + value_bytes) as f64, delete: key_bytes as f64 },
            wal: EntryBytes { put: put.wal_entry_bytes(), delete: delete.wal_entry_bytes() },
            memtable: EntryBytes {
                put: put.memtable_entry_bytes(),
                delete: delete.memtable_entry_bytes(),
            },
            memtable_fixed,
            tables,
        })
    }
}

/// Entries to measure with.
struct Sample {
    key_bytes: usize,
    /// `None`: tombstones.
    value: Option<Vec<u8>>,
    entry_count: u64,
}

impl Sample {
    fn new(key_bytes: u64, value_bytes: Option<u64>) -> Self {
        let entry_bytes = key_bytes + value_bytes.unwrap_or(0);
        let wanted =
            (SAMPLE_BYTES_MAX / entry_bytes.max(1)).clamp(SAMPLE_ENTRIES_MIN, SAMPLE_ENTRIES_MAX);
        // Short keys give few different entries.
        let distinct = (1u64 << (key_bytes.min(7) * 8)) / STRIDE;
        let value = value_bytes.map(|len| {
            let half: Vec<u8> = (0..len.div_ceil(2)).map(|at| (mix(at) >> 32) as u8).collect();
            half.iter().chain(&half).copied().take(len as usize).collect()
        });
        Sample { key_bytes: key_bytes as usize, value, entry_count: wanted.min(distinct.max(2)) }
    }

    fn kind(&self) -> ValueKind {
        if self.value.is_some() { ValueKind::Put } else { ValueKind::Delete }
    }

    fn value(&self) -> &[u8] {
        self.value.as_deref().unwrap_or_default()
    }

    /// The key of a number: decimal digits where they fit, as most keys are text, else bytes.
    fn key(&self, number: u64, into: &mut Vec<u8>) {
        into.clear();
        if self.key_bytes >= 12 {
            into.extend_from_slice(format!("{number:0width$}", width = self.key_bytes).as_bytes());
        } else {
            let bytes = number.to_be_bytes();
            into.resize(self.key_bytes.saturating_sub(bytes.len()), 0);
            into.extend_from_slice(&bytes[bytes.len() - self.key_bytes.min(bytes.len())..]);
        }
    }

    /// Bytes for an entry more, by the difference of two sizes.
    fn slope(&self, measure: impl Fn(u64) -> Result<u64>) -> Result<f64> {
        let (few, many) = (self.entry_count / 2, self.entry_count);
        let bytes = measure(many)?.saturating_sub(measure(few)?);
        Ok(bytes as f64 / (many - few).max(1) as f64)
    }

    fn wal_entry_bytes(&self) -> f64 {
        let mut batch = WriteBatch::new();
        let mut key = Vec::new();
        self.key(0, &mut key);
        match &self.value {
            Some(value) => batch.put(&key, value),
            None => batch.delete(&key),
        };
        let payload = batch.payload().len() as u64;
        (WAL_RECORD_BYTES + varint_len(payload) as u64 + payload) as f64
    }

    fn memtable_entry_bytes(&self) -> f64 {
        let bytes = self.slope(|entry_count| {
            let memtable = MemTable::new(0, None);
            let mut key = Vec::new();
            for at in 0..entry_count {
                self.key(mix(at) % self.entry_count.saturating_mul(64).max(1), &mut key);
                let trailer = Trailer::new(SequenceNumber(at + 1), self.kind());
                memtable.insert(&key, trailer, self.value(), key_hash(&key));
            }
            Ok(memtable.bytes())
        });
        bytes.unwrap_or_else(|_| unreachable!("a memtable cannot fail"))
    }

    fn table_entry_bytes(&self, options: &KeyspaceOptions, level: usize) -> Result<f64> {
        let fs = SimFs::new();
        let dir = Path::new("/sample");
        fs.create_dir_all(dir)?;
        let writer_options = TableWriterOptions {
            number: FileNumber(1),
            keyspace: KeyspaceId::default(),
            block_bytes: options.block_bytes,
            compression: options.compression_at(level),
            filter: options.filter,
            filter_bits: options.filter_bits_at(level),
        };
        self.slope(|entry_count| {
            let mut writer = TableWriter::create(&fs, dir, writer_options)?;
            let mut key = Vec::new();
            for at in 0..entry_count {
                // The last level holds all keys, and their sequence numbers are zeroed.
                let is_last = level == LEVEL_COUNT - 1;
                let sequence = if is_last { 0 } else { (1 << 22) + mix(at) % (1 << 20) };
                self.key(if is_last { at } else { at * STRIDE }, &mut key);
                let trailer = Trailer::new(SequenceNumber(sequence), self.kind());
                writer.add(&key, trailer, self.value())?;
            }
            let meta = writer.finish()?;
            fs.remove(&FileKind::Table(FileNumber(1)).path(dir))?;
            Ok(meta.file_bytes)
        })
    }
}

/// Spreads numbers (splitmix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
