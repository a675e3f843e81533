//! Metrics: what the engine did since it was opened, what it holds now, and what it did in its whole life.
//!
//! The definitions of write, read and space amplification are those of `docs/amplification.md`, and every ratio is
//! computed here and nowhere else: see [`Metrics::write_amplification`], [`Metrics::read_amplification`] and
//! [`Metrics::space_amplification`].
//!
//! # Counters and gauges
//! A counter only grows while the database is open; a gauge says how things are. [`Metrics::since`] makes a report of
//! an interval out of two of the whole: it subtracts the counters and keeps the gauges of the later one.
//!
//! # Files
//! `fields` lists every number once, with its kind and a sentence about it. `gather` fills the structs from the
//! engine's counters. `space` estimates and measures what is alive. `text` and `prometheus` print.

mod fields;
pub(crate) mod gather;
mod prometheus;
pub(crate) mod space;
mod text;

use crate::db::metrics::fields::{COMPACTIONS, KEYSPACE, LEVEL, METRICS, STALL, subtract};
use crate::version::totals::CompactionTotals;

/// What a database did since it was opened, and what it holds. Bytes are bytes, counts are counts.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Metrics {
    /// Bytes of keys and values that users wrote.
    pub user_bytes_written: u64,
    /// Puts and deletes.
    pub user_operations: u64,
    /// Writes: single operations and batches.
    pub batches: u64,
    /// Bytes appended to the log.
    pub wal_bytes: u64,
    /// Records appended to the log.
    pub wal_records: u64,
    /// Syncs of the log.
    pub wal_syncs: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes of tables written by flush.
    pub flush_bytes: u64,
    /// Entries of the memtables that were flushed.
    pub flush_entries: u64,
    /// Nanoseconds that flushes took.
    pub flush_duration_ns: u64,
    /// Compactions that merged.
    pub compactions: u64,
    /// Compactions that only moved tables to another level.
    pub trivial_moves: u64,
    /// Compactions that dropped whole tables.
    pub table_drops: u64,
    /// Bytes of tables read by compaction.
    pub compaction_bytes_read: u64,
    /// Bytes of tables written by compaction.
    pub compaction_bytes_written: u64,
    /// Entries read by compaction.
    pub compaction_entries_read: u64,
    /// Nanoseconds that compactions took, over all threads, waits for flush included.
    pub compaction_duration_ns: u64,
    /// Entries that flush and compaction dropped, for whatever reason.
    pub entries_dropped: u64,
    /// Of those, versions in whose place a newer one stands.
    pub entries_shadowed: u64,
    /// Of those, tombstones with nothing below to hide.
    pub tombstones_dropped: u64,
    /// Of those, values that have expired, with nothing below to hide. One that still hides something becomes a
    /// tombstone.
    pub entries_expired: u64,
    /// Of those, values that a compaction filter dropped, with nothing below to hide.
    pub entries_filtered_out: u64,
    /// Of those, entries of tables that were dropped whole.
    pub entries_discarded: u64,
    /// Entries that compaction filters dropped or replaced, those that stayed as tombstones included.
    pub entries_filtered: u64,
    /// Bytes that compactions wrote while there was a limit: see `compaction_rate`.
    pub compaction_limited_bytes: u64,
    /// Nanoseconds that compactions waited for their share of the limit.
    pub compaction_limited_ns: u64,
    /// Bytes appended to tables, whatever became of them. What it has beyond `flush_bytes` and
    /// `compaction_bytes_written` was written by jobs that still run, or failed.
    pub table_bytes_appended: u64,
    /// Bytes appended to manifests.
    pub manifest_bytes: u64,
    /// Edits appended to manifests.
    pub manifest_edits: u64,
    /// Files removed that nobody needed any more: obsolete tables, and what an open found.
    pub obsolete_files_removed: u64,
    /// Point reads.
    pub gets: u64,
    /// Point reads that found a value.
    pub get_hits: u64,
    /// Point reads answered by a memtable.
    pub memtable_hits: u64,
    /// Tables that point reads asked: those of a run whose key range covers the key.
    pub tables_probed: u64,
    /// Data blocks that point reads looked into, wherever the blocks came from.
    pub get_blocks_read: u64,
    /// Stored bytes of those blocks that came from the file or its map, not from the cache.
    pub get_block_bytes_read: u64,
    /// Seeks of iterators and cursors that have ended.
    pub seeks: u64,
    /// Steps of iterators and cursors that have ended.
    pub steps: u64,
    /// Data blocks that iterators and cursors looked into; counted when they end.
    pub scan_blocks_read: u64,
    /// Stored bytes of those blocks that came from the file or its map, not from the cache.
    pub scan_block_bytes_read: u64,
    /// Filters of tables that point reads asked.
    pub filter_checks: u64,
    /// Of those, filters that said no and saved a block.
    pub filter_useful: u64,
    /// Of those, filters that said yes where the key was not.
    pub filter_false_positives: u64,
    /// Blocks found in the block cache.
    pub cache_hits: u64,
    /// Blocks not found in the block cache.
    pub cache_misses: u64,
    /// Tables opened; one that was closed for want of room and opened again counts again.
    pub tables_opened: u64,
    /// Background jobs that failed; the recording of the workload is one.
    pub background_errors: u64,
    /// Passes of the scrubber.
    pub scrub_passes: u64,
    /// Waits of writers, by cause.
    pub stalls: Vec<StallMetrics>,
    /// What compactions did, by the level that they wrote to and by reason.
    pub compactions_by_reason: Vec<CompactionMetrics>,

    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Bytes of live tables.
    pub table_bytes: u64,
    /// Bytes of tables that left the tree but are still on disk, mostly because a reader holds them.
    pub obsolete_table_bytes: u64,
    /// Bytes of tables that running jobs have written so far.
    pub in_flight_bytes: u64,
    /// Bytes of all log segments on disk, spare ones included.
    pub wal_file_bytes: u64,
    /// Bytes of the log that recovery would read.
    pub wal_live_bytes: u64,
    /// Bytes of manifests and `CURRENT`.
    pub manifest_file_bytes: u64,
    /// Bytes of all files of the database: the sum of the parts above, but for `wal_live_bytes`.
    pub disk_bytes: u64,
    /// The most that `disk_bytes` was at any moment since open.
    pub disk_bytes_peak: u64,
    /// An estimate of the bytes of keys and values that a full scan would return.
    pub live_bytes_estimate: u64,
    /// Bytes of all memtables.
    pub memtable_bytes: u64,
    /// Bytes that compaction must still move, as the strategies estimate.
    pub debt_bytes: u64,
    /// The present limit of compaction, in bytes per second: see the option `compaction_rate`. None: there is no limit.
    pub compaction_rate: Option<u64>,
    /// Flushes that run now.
    pub flushes_running: u64,
    /// Compactions that run now.
    pub compactions_running: u64,
    /// Whether a strategy may have more to do than is running.
    pub compaction_pending: bool,
    /// Distinct live snapshots.
    pub snapshots: u64,
    /// The sequence number of the oldest live snapshot.
    pub oldest_snapshot: Option<u64>,
    /// Milliseconds since the oldest live snapshot was made; 0 if there is none.
    pub oldest_snapshot_age_ms: u64,
    /// The newest visible sequence number.
    pub sequence: u64,
    /// The first error of a background job since open.
    pub first_background_error: Option<String>,
    /// Each keyspace.
    pub keyspaces: Vec<KeyspaceMetrics>,
    /// What was written in the whole life of the database.
    pub lifetime: LifetimeMetrics,
}

/// How often and how long writers waited for one cause.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct StallMetrics {
    /// `memtables`: all were full; `debt`: compaction was behind.
    pub cause: &'static str,
    /// Waits.
    pub count: u64,
    /// Nanoseconds waited, over all writers.
    pub duration_ns: u64,
}

/// What compactions did that wrote to one level for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CompactionMetrics {
    /// The level that they wrote to.
    pub level: u64,
    /// The name of the reason: see [`CompactionReason::as_str`](crate::compaction::CompactionReason::as_str).
    pub reason: String,
    /// What they did.
    #[cfg_attr(feature = "serde", serde(flatten))]
    pub totals: CompactionTotals,
}

/// One keyspace: what was done for it since open, and its tree.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KeyspaceMetrics {
    /// Its name.
    pub name: String,
    /// Its options, as text.
    pub options: Vec<(String, String)>,
    /// Bytes of keys and values that users wrote to it.
    pub user_bytes_written: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes of tables written by flush.
    pub flush_bytes: u64,
    /// Nanoseconds that flushes took.
    pub flush_duration_ns: u64,
    /// What compactions did, by the level that they wrote to and by reason.
    pub compactions_by_reason: Vec<CompactionMetrics>,
    /// Waits of writers, by cause.
    pub stalls: Vec<StallMetrics>,
    /// Bytes of its memtables.
    pub memtable_bytes: u64,
    /// Full memtables that wait for flush.
    pub immutable_memtables: u64,
    /// Bytes that compaction must still move, as the strategy estimates.
    pub debt_bytes: u64,
    /// Compactions that run now.
    pub compactions_running: u64,
    /// An estimate of the bytes of keys and values that a full scan would return.
    pub live_bytes_estimate: u64,
    /// Whether its strategy is registered; if not, nothing is compacted.
    pub compacts: bool,
    /// The levels, 0 first.
    pub levels: Vec<LevelMetrics>,
}

/// One level of a tree.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LevelMetrics {
    /// The level.
    pub level: u64,
    /// Sorted runs.
    pub runs: u64,
    /// Tables.
    pub tables: u64,
    /// Bytes of tables.
    pub bytes: u64,
    /// Entries, tombstones included.
    pub entries: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Bytes that flush (level 0) or compaction wrote into the level since open.
    pub bytes_written: u64,
    /// Bytes that compaction into this level read since open.
    pub bytes_read: u64,
}

/// What was written to a database since it was created, over all opens, as its manifest keeps it. What the last
/// process did after its last manifest edit is missing if it was killed, except for writes that are in the log.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LifetimeMetrics {
    /// Bytes of keys and values that users wrote.
    pub user_bytes_written: u64,
    /// Puts and deletes.
    pub user_operations: u64,
    /// Bytes appended to the log.
    pub wal_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes of tables written by flush.
    pub flush_bytes: u64,
    /// Bytes of tables read by compaction.
    pub compaction_bytes_read: u64,
    /// Bytes of tables written by compaction.
    pub compaction_bytes_written: u64,
    /// Bytes appended to manifests.
    pub manifest_bytes: u64,
    /// What compactions did, by the level that they wrote to and by reason.
    pub compactions_by_reason: Vec<CompactionMetrics>,
}

/// The ratio, or 0 where there is nothing to divide by.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Metrics {
    /// Bytes written to storage: log, flush, compaction and manifest.
    pub fn storage_bytes_written(&self) -> u64 {
        self.wal_bytes + self.flush_bytes + self.compaction_bytes_written + self.manifest_bytes
    }

    /// Bytes written to storage (log, flush, compaction, manifest) per byte of keys and values that users wrote.
    pub fn write_amplification(&self) -> f64 {
        ratio(self.storage_bytes_written(), self.user_bytes_written)
    }

    /// Structural read amplification: the sorted runs that a point read may have to ask, memtables aside, in the
    /// keyspace that has most.
    pub fn read_amplification(&self) -> u64 {
        self.keyspaces.iter().map(KeyspaceMetrics::read_amplification).max().unwrap_or(0)
    }

    /// Tables that a point read asked, on average over all point reads, those answered by a memtable included.
    pub fn tables_probed_per_get(&self) -> f64 {
        ratio(self.tables_probed, self.gets)
    }

    /// Data blocks that a point read looked into, on average.
    pub fn blocks_per_get(&self) -> f64 {
        ratio(self.get_blocks_read, self.gets)
    }

    /// Bytes of data blocks that a point read took from files, on average.
    pub fn block_bytes_per_get(&self) -> f64 {
        ratio(self.get_block_bytes_read, self.gets)
    }

    /// Entries that iterators and cursors were placed on: seeks and steps.
    pub fn entries_scanned(&self) -> u64 {
        self.seeks + self.steps
    }

    /// Data blocks looked into for each scanned entry, on average.
    pub fn blocks_per_scanned_entry(&self) -> f64 {
        ratio(self.scan_blocks_read, self.entries_scanned())
    }

    /// Bytes of data blocks taken from files for each scanned entry, on average.
    pub fn block_bytes_per_scanned_entry(&self) -> f64 {
        ratio(self.scan_block_bytes_read, self.entries_scanned())
    }

    /// Of the filters asked for a key that their table did not have, the share that said yes.
    pub fn filter_false_positive_rate(&self) -> f64 {
        ratio(self.filter_false_positives, self.filter_false_positives + self.filter_useful)
    }

    /// Bytes on disk (tables, log, obsolete files, files in flight) per byte of live keys and values (an estimate; for
    /// the exact number see [`Db::measure_space`](crate::Db::measure_space)).
    pub fn space_amplification(&self) -> f64 {
        ratio(self.disk_bytes, self.live_bytes_estimate)
    }

    /// What happened between `earlier`, taken of the same open database, and this: counters are differences, gauges
    /// and `lifetime` are those of now. Any two reports make an interval, so several observers do not disturb each
    /// other.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("before", "1")?;
    /// let earlier = db.metrics();
    /// db.put("key", "value")?;
    /// let interval = db.metrics().since(&earlier);
    /// assert_eq!((interval.user_operations, interval.user_bytes_written), (1, 8));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn since(&self, earlier: &Metrics) -> Metrics {
        let mut interval = self.clone();
        subtract(METRICS, &mut interval, earlier);
        subtract_stalls(&mut interval.stalls, &earlier.stalls);
        subtract_compactions(&mut interval.compactions_by_reason, &earlier.compactions_by_reason);
        for keyspace in &mut interval.keyspaces {
            if let Some(earlier) = earlier.keyspaces.iter().find(|e| e.name == keyspace.name) {
                *keyspace = keyspace.since(earlier);
            }
        }
        interval
    }
}

impl KeyspaceMetrics {
    /// The sorted runs on disk that a point read may have to ask.
    pub fn read_amplification(&self) -> u64 {
        self.levels.iter().map(|level| level.runs).sum()
    }

    /// Bytes of tables that flush and compaction wrote per byte of keys and values that users wrote to the keyspace.
    /// The log and the manifest are shared by all keyspaces and are not in it.
    pub fn table_write_amplification(&self) -> f64 {
        let written = self.levels.iter().map(|level| level.bytes_written).sum();
        ratio(written, self.user_bytes_written)
    }

    /// Bytes written into `level` per byte of keys and values that users wrote to the keyspace.
    pub fn level_write_amplification(&self, level: &LevelMetrics) -> f64 {
        ratio(level.bytes_written, self.user_bytes_written)
    }

    /// Bytes of its tables.
    pub fn table_bytes(&self) -> u64 {
        self.levels.iter().map(|level| level.bytes).sum()
    }

    /// As [`Metrics::since`].
    #[must_use]
    pub fn since(&self, earlier: &KeyspaceMetrics) -> KeyspaceMetrics {
        let mut interval = self.clone();
        subtract(KEYSPACE, &mut interval, earlier);
        subtract_stalls(&mut interval.stalls, &earlier.stalls);
        subtract_compactions(&mut interval.compactions_by_reason, &earlier.compactions_by_reason);
        for (level, earlier) in interval.levels.iter_mut().zip(&earlier.levels) {
            subtract(LEVEL, level, earlier);
        }
        interval
    }
}

impl LifetimeMetrics {
    /// As [`Metrics::write_amplification`], over the whole life of the database.
    pub fn write_amplification(&self) -> f64 {
        ratio(self.storage_bytes_written(), self.user_bytes_written)
    }

    /// As [`Metrics::storage_bytes_written`], over the whole life of the database.
    pub fn storage_bytes_written(&self) -> u64 {
        self.wal_bytes + self.flush_bytes + self.compaction_bytes_written + self.manifest_bytes
    }
}

fn subtract_stalls(stalls: &mut [StallMetrics], earlier: &[StallMetrics]) {
    for stall in stalls {
        if let Some(earlier) = earlier.iter().find(|earlier| earlier.cause == stall.cause) {
            subtract(STALL, stall, earlier);
        }
    }
}

/// Also leaves out what was not done meanwhile.
fn subtract_compactions(parts: &mut Vec<CompactionMetrics>, earlier: &[CompactionMetrics]) {
    for part in parts.iter_mut() {
        let same = |earlier: &&CompactionMetrics| {
            (earlier.level, &earlier.reason) == (part.level, &part.reason)
        };
        if let Some(earlier) = earlier.iter().find(same) {
            subtract(COMPACTIONS, &mut part.totals, &earlier.totals);
        }
    }
    parts.retain(|part| part.totals != CompactionTotals::default());
}
