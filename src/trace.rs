//! The workload trace: what an application does to a database, without its data.
//!
//! With `record_workload` set, an open database writes down each operation: its kind, its time, the hash of its key,
//! lengths. `engine-cli advise --trace` reads the file and recommends a compaction strategy for it. The file's owner is
//! the user: the engine writes it and never needs it.
//!
//! # What is in a trace, and what is not
//! No key and no value. A key is there as its 64-bit hash, which does not give the key back; but who guesses a key can
//! check the guess. The order of keys is there as two bits of each put: whether its key is greater than that of the put
//! before it, and than those of all puts before it ([`TraceOperation::Put`]).
//!
//! # Sampling
//! The counts of a trace are exact ([`TraceCounts`]). Records are kept for a sample of the keys: those whose hash ends
//! in `sample_shift` zero bits. A sampled key has all of its operations, so that updates, skew and ages can be told. A
//! trace begins with all keys, and each time that it has taken another 8 MiB of records, half of the keys are let go:
//! it grows with the logarithm of the operations. A reader brings earlier blocks to a later rate by dropping the same
//! keys.
//!
//! # What it does not know
//! Strategies, trees and keyspaces' names. Nothing of the engine depends on what is in a trace.

pub(crate) mod format;
pub(crate) mod reader;
pub(crate) mod skew;
pub(crate) mod summary;
pub(crate) mod recorder;

pub use reader::TraceReader;
pub use skew::KeySkew;
pub use summary::TraceSummary;

/// The number of fields of [`TraceCounts`].
const COUNT_FIELDS: usize = 12;

/// What was done, with what only this kind of operation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceOperation {
    /// A put.
    Put {
        /// Bytes of the value.
        value_bytes: u32,
        /// For how long the value is good, in milliseconds, if it expires.
        ttl_ms: Option<u64>,
        /// The key is greater than that of the last put, or there was none. As seen by one of a few groups of threads
        /// in one keyspace, since the database was opened. Of puts in random order half are.
        ascending: bool,
        /// The key is greater than the keys of all puts before. As seen by one group of threads, as above. Of puts in
        /// random order hardly any are.
        appended: bool,
    },
    /// A delete.
    Delete,
    /// A point read that found a value.
    GetHit {
        /// Bytes of the value.
        value_bytes: u32,
    },
    /// A point read that found none.
    GetMiss,
    /// A seek and the steps after it. The time is that of its end, the key that which was sought; the empty key for a
    /// scan from either end.
    Scan {
        /// Entries that it stood on.
        entries: u64,
    },
}

/// One recorded operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceRecord {
    /// Microseconds since the trace began.
    pub time_us: u64,
    /// The hash of the key (64-bit xxh3).
    pub key_hash: u64,
    /// Bytes of the key.
    pub key_bytes: u32,
    /// What was done.
    pub operation: TraceOperation,
}

/// Exact counts of operations, sampled or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceCounts {
    /// Puts, those that expire included.
    pub puts: u64,
    /// Puts that expire.
    pub expiring_puts: u64,
    /// Puts with a key greater than the last: see [`TraceOperation::Put`].
    pub ascending_puts: u64,
    /// Puts with a key greater than all before: see [`TraceOperation::Put`].
    pub appended_puts: u64,
    /// Bytes of the keys of puts.
    pub put_key_bytes: u64,
    /// Bytes of the values of puts.
    pub put_value_bytes: u64,
    /// Deletes.
    pub deletes: u64,
    /// Bytes of the keys of deletes.
    pub delete_key_bytes: u64,
    /// Point reads that found a value.
    pub get_hits: u64,
    /// Point reads that found none.
    pub get_misses: u64,
    /// Scans.
    pub scans: u64,
    /// Entries that scans stood on.
    pub scan_entries: u64,
}

impl TraceCounts {
    /// Counts one operation on a key of `key_bytes`.
    #[inline]
    pub(crate) fn add_operation(&mut self, operation: TraceOperation, key_bytes: u32) {
        match operation {
            TraceOperation::Put { value_bytes, ttl_ms, ascending, appended } => {
                self.puts += 1;
                self.expiring_puts += u64::from(ttl_ms.is_some());
                self.ascending_puts += u64::from(ascending);
                self.appended_puts += u64::from(appended);
                self.put_key_bytes += u64::from(key_bytes);
                self.put_value_bytes += u64::from(value_bytes);
            }
            TraceOperation::Delete => {
                self.deletes += 1;
                self.delete_key_bytes += u64::from(key_bytes);
            }
            TraceOperation::GetHit { .. } => self.get_hits += 1,
            TraceOperation::GetMiss => self.get_misses += 1,
            TraceOperation::Scan { entries } => {
                self.scans += 1;
                self.scan_entries += entries;
            }
        }
    }

    /// All operations.
    pub fn operations(&self) -> u64 {
        self.writes().saturating_add(self.gets()).saturating_add(self.scans)
    }

    /// Puts and deletes.
    pub fn writes(&self) -> u64 {
        self.puts.saturating_add(self.deletes)
    }

    /// Point reads.
    pub fn gets(&self) -> u64 {
        self.get_hits.saturating_add(self.get_misses)
    }

    /// Bytes of keys and values that were written, deletes included.
    pub fn ingest_bytes(&self) -> u64 {
        self.put_key_bytes
            .saturating_add(self.put_value_bytes)
            .saturating_add(self.delete_key_bytes)
    }

    /// Adds `other`. A damaged or made-up trace cannot overflow it.
    pub(crate) fn add(&mut self, other: &TraceCounts) {
        let (mut sums, others) = (self.to_array(), other.to_array());
        for (sum, other) in sums.iter_mut().zip(others) {
            *sum = sum.saturating_add(other);
        }
        *self = TraceCounts::from_array(sums);
    }

    /// The fields in their order on disk.
    pub(crate) fn to_array(self) -> [u64; COUNT_FIELDS] {
        [
            self.puts,
            self.expiring_puts,
            self.ascending_puts,
            self.appended_puts,
            self.put_key_bytes,
            self.put_value_bytes,
            self.deletes,
            self.delete_key_bytes,
            self.get_hits,
            self.get_misses,
            self.scans,
            self.scan_entries,
        ]
    }

    /// The reverse of [`TraceCounts::to_array`].
    pub(crate) fn from_array(fields: [u64; COUNT_FIELDS]) -> Self {
        let [
            puts,
            expiring_puts,
            ascending_puts,
            appended_puts,
            put_key_bytes,
            put_value_bytes,
            deletes,
            delete_key_bytes,
            get_hits,
            get_misses,
            scans,
            scan_entries,
        ] = fields;
        TraceCounts {
            puts,
            expiring_puts,
            ascending_puts,
            appended_puts,
            put_key_bytes,
            put_value_bytes,
            deletes,
            delete_key_bytes,
            get_hits,
            get_misses,
            scans,
            scan_entries,
        }
    }
}

/// What one group of threads did to one keyspace for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceBlock {
    /// The id of the keyspace; 0 is `default`.
    pub keyspace: u32,
    /// Keys whose hash ends in this many zero bits have records; the others are only counted.
    pub sample_shift: u32,
    /// When its first operation was, in microseconds since the trace began.
    pub first_us: u64,
    /// When its last operation was, in microseconds since the trace began.
    pub last_us: u64,
    /// Exact counts of its operations, sampled or not.
    pub counts: TraceCounts,
    /// The operations on sampled keys, by time.
    pub records: Vec<TraceRecord>,
}

/// Whether a key with this hash belongs to the sample.
#[inline]
pub(crate) fn is_sampled(key_hash: u64, sample_shift: u32) -> bool {
    key_hash.trailing_zeros() >= sample_shift
}
