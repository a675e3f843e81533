//! Metrics: what the engine did since it was opened, and what it holds now, as one plain struct.
//!
//! The definitions of write, read and space amplification are those of `docs/amplification.md`: see
//! [`Metrics::write_amplification`], [`Metrics::read_amplification`] and [`Metrics::space_amplification`].

use std::fmt;
use std::sync::atomic::Ordering;

use crate::db::counters::StallCause;
use crate::db::state::{Inner, KeyspaceCore};
use crate::manifest::Manifest;
use crate::trace::recorder::Recorder;
use crate::version::Version;

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
    /// Bytes of tables written by flush.
    pub flush_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Bytes of tables read by compaction.
    pub compaction_bytes_read: u64,
    /// Bytes of tables written by compaction.
    pub compaction_bytes_written: u64,
    /// Compactions that merged.
    pub compactions: u64,
    /// Compactions that only moved tables to another level.
    pub trivial_moves: u64,
    /// Entries that flush and compaction dropped: shadowed versions, and tombstones with nothing below.
    pub entries_dropped: u64,
    /// Bytes appended to manifests.
    pub manifest_bytes: u64,
    /// Edits appended to manifests.
    pub manifest_edits: u64,
    /// Point reads.
    pub gets: u64,
    /// Point reads that found a value.
    pub get_hits: u64,
    /// Point reads answered by a memtable.
    pub memtable_hits: u64,
    /// Seeks of iterators and cursors that have ended.
    pub seeks: u64,
    /// Steps of iterators and cursors that have ended.
    pub steps: u64,
    /// Tables whose filter a point read asked.
    pub filter_checks: u64,
    /// Of those, filters that said no and saved a block.
    pub filter_useful: u64,
    /// Of those, filters that said yes where the key was not.
    pub filter_false_positives: u64,
    /// Data blocks that reads looked into.
    pub blocks_read: u64,
    /// Stored bytes of those blocks.
    pub block_bytes_read: u64,
    /// Blocks found in the block cache.
    pub cache_hits: u64,
    /// Blocks not found in the block cache.
    pub cache_misses: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Waits of writers, by cause.
    pub stalls: Vec<StallMetrics>,
    /// Bytes of live tables.
    pub table_bytes: u64,
    /// Bytes of all log segments on disk, spare ones included.
    pub wal_file_bytes: u64,
    /// Bytes of the log that recovery would read.
    pub wal_live_bytes: u64,
    /// Bytes of the live manifest.
    pub manifest_file_bytes: u64,
    /// Bytes of everything in the directory: live, obsolete and in flight.
    pub disk_bytes: u64,
    /// An estimate of the bytes of keys and values that a full scan would return: what the last level holds, and what
    /// the levels above hold beyond it.
    pub live_bytes_estimate: u64,
    /// Bytes of all memtables.
    pub memtable_bytes: u64,
    /// Distinct live snapshots.
    pub snapshots: u64,
    /// The sequence number of the oldest live snapshot.
    pub oldest_snapshot: Option<u64>,
    /// The newest visible sequence number.
    pub sequence: u64,
    /// Tables that are open.
    pub open_tables: u64,
    /// Background jobs that failed; the recording of the workload is one.
    pub background_errors: u64,
    /// The first error of a background job since open.
    pub first_background_error: Option<String>,
    /// Passes of the scrubber.
    pub scrub_passes: u64,
    /// Each keyspace.
    pub keyspaces: Vec<KeyspaceMetrics>,
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

/// One keyspace's tree.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KeyspaceMetrics {
    /// Its name.
    pub name: String,
    /// Its options, as text.
    pub options: Vec<(String, String)>,
    /// Bytes of its memtables.
    pub memtable_bytes: u64,
    /// Full memtables that wait for flush.
    pub immutable_memtables: u64,
    /// Bytes that compaction must still move, as the strategy estimates.
    pub debt_bytes: u64,
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

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Metrics {
    /// Bytes written to storage (log, flush, compaction, manifest) per byte of keys and values that users wrote.
    pub fn write_amplification(&self) -> f64 {
        let written =
            self.wal_bytes + self.flush_bytes + self.compaction_bytes_written + self.manifest_bytes;
        ratio(written, self.user_bytes_written)
    }

    /// Structural read amplification: the sorted runs that a point read may have to ask, memtables aside, in the
    /// keyspace that has most.
    pub fn read_amplification(&self) -> u64 {
        self.keyspaces
            .iter()
            .map(|keyspace| keyspace.levels.iter().map(|level| level.runs).sum())
            .max()
            .unwrap_or(0)
    }

    /// Measured read amplification: data blocks looked into per point read and scanned entry.
    pub fn blocks_per_read(&self) -> f64 {
        ratio(self.blocks_read, self.gets + self.seeks + self.steps)
    }

    /// Bytes on disk (tables, log, obsolete files, files in flight) per byte of live keys and values (an estimate).
    pub fn space_amplification(&self) -> f64 {
        ratio(self.disk_bytes, self.live_bytes_estimate)
    }
}

/// Gathers the metrics.
pub(crate) fn metrics(inner: &Inner) -> Metrics {
    let counters = inner.counters();
    let recording_error = inner.read.recorder.as_ref().and_then(Recorder::error);
    let first_error = inner.work.lock().first_error.clone().or_else(|| recording_error.clone());
    let mut metrics = Metrics {
        wal_syncs: inner.commit().sync_count.load(Ordering::Relaxed),
        flush_bytes: counters.flush_bytes.get(),
        flushes: counters.flushes.get(),
        compaction_bytes_read: counters.compaction_bytes_read.get(),
        compaction_bytes_written: counters.compaction_bytes_written.get(),
        compactions: counters.compactions.get(),
        trivial_moves: counters.trivial_moves.get(),
        entries_dropped: counters.entries_dropped.get(),
        manifest_bytes: counters.manifest_bytes.get(),
        manifest_edits: counters.manifest_edits.get(),
        sequence: inner.visible().0,
        background_errors: counters.background_errors.get() + u64::from(recording_error.is_some()),
        scrub_passes: counters.scrub_passes.get(),
        first_background_error: first_error.map(|error| error.to_string()),
        ..Metrics::default()
    };
    add_writes(inner, &mut metrics);
    add_reads(inner, &mut metrics);
    for (cause, (count, duration_ns)) in StallCause::ALL.iter().zip(&counters.stalls) {
        let (count, duration_ns) = (count.get(), duration_ns.get());
        metrics.stalls.push(StallMetrics { cause: cause.as_str(), count, duration_ns });
    }
    let (snapshots, oldest) = inner.read.snapshots.summary();
    metrics.snapshots = snapshots as u64;
    metrics.oldest_snapshot = oldest.map(|sequence| sequence.0);
    for core in inner.keyspaces.load().in_order() {
        metrics.live_bytes_estimate += live_bytes_estimate(&core);
        let keyspace = keyspace_metrics(&core);
        metrics.table_bytes += keyspace.levels.iter().map(|level| level.bytes).sum::<u64>();
        metrics.memtable_bytes += keyspace.memtable_bytes;
        metrics.keyspaces.push(keyspace);
    }
    metrics.disk_bytes = match inner.fs.list(&inner.dir) {
        Ok(Some(entries)) => entries.iter().map(|entry| entry.bytes).sum(),
        // Somebody took the directory away: what we know of is all there is to say.
        _ => metrics.table_bytes + metrics.wal_file_bytes + metrics.manifest_file_bytes,
    };
    metrics
}

fn add_writes(inner: &Inner, metrics: &mut Metrics) {
    metrics.manifest_file_bytes = inner.tree.lock().manifest.as_ref().map_or(0, Manifest::bytes);
    let commit = inner.commit().lock();
    metrics.user_bytes_written = commit.totals.user_bytes;
    metrics.user_operations = commit.totals.operations;
    metrics.batches = commit.totals.batches;
    metrics.wal_bytes = commit.totals.wal_bytes;
    metrics.wal_records = commit.totals.wal_records;
    if let Some(wal) = &commit.wal {
        metrics.wal_file_bytes = wal.file_bytes();
        metrics.wal_live_bytes = wal.live_bytes();
    }
}

fn add_reads(inner: &Inner, metrics: &mut Metrics) {
    let reads = inner.counters().reads();
    metrics.gets = reads.gets;
    metrics.get_hits = reads.get_hits;
    metrics.memtable_hits = reads.memtable_hits;
    metrics.seeks = reads.seeks;
    metrics.steps = reads.steps;
    metrics.filter_checks = reads.stats.filter_checks;
    metrics.filter_useful = reads.stats.filter_useful;
    metrics.filter_false_positives = reads.stats.filter_false_positives;
    metrics.blocks_read = reads.stats.blocks_read;
    metrics.block_bytes_read = reads.stats.block_bytes_read;
    metrics.cache_hits = reads.stats.cache_hits;
    metrics.cache_misses = reads.stats.cache_misses;
    metrics.cache_bytes = inner.read.tables.cache_bytes();
    metrics.open_tables = inner.read.tables.open_count();
}

/// The metrics of one keyspace.
pub(crate) fn keyspace_metrics(core: &KeyspaceCore) -> KeyspaceMetrics {
    let view = core.view.load();
    let levels = view.version.levels.iter().enumerate().map(|(index, level)| {
        let tables = || level.runs.iter().flat_map(|run| &run.tables);
        LevelMetrics {
            level: index as u64,
            runs: level.runs.len() as u64,
            tables: tables().count() as u64,
            bytes: tables().map(|table| table.meta().file_bytes).sum(),
            entries: tables().map(|table| table.meta().entry_count).sum(),
            tombstones: tables().map(|table| table.meta().tombstone_count).sum(),
            bytes_written: core.levels.bytes_written[index].load(Ordering::Relaxed),
            bytes_read: core.levels.bytes_read[index].load(Ordering::Relaxed),
        }
    });
    let immutable_bytes: u64 = view.immutables.iter().map(|memory| memory.table.bytes()).sum();
    KeyspaceMetrics {
        name: core.name.clone(),
        options: core
            .options
            .load()
            .to_pairs()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        memtable_bytes: view.active.table.bytes() + immutable_bytes,
        immutable_memtables: view.immutables.len() as u64,
        debt_bytes: core.debt_bytes.load(Ordering::Relaxed),
        compacts: core.strategy.read().is_some(),
        levels: levels.collect(),
    }
}

/// What a scan would return, estimated without one: the logical bytes of the last level that holds tables, and for what
/// lies above it the share of its entries that the last level does not seem to know. Deletes count against.
fn live_bytes_estimate(core: &KeyspaceCore) -> u64 {
    let view = core.view.load();
    let memories = std::iter::once(&view.active).chain(&view.immutables);
    let in_memory: u64 = memories.map(|memory| memory.table.user_bytes()).sum();
    let logical = |level: usize| -> (u64, u64) {
        let tables = || {
            view.version.levels[level]
                .runs
                .iter()
                .flat_map(|run| &run.tables)
                .map(|table| table.meta())
        };
        let live = tables().map(|meta| {
            let live_share = 1.0 - ratio(2 * meta.tombstone_count, meta.entry_count).min(1.0);
            ((meta.key_bytes + meta.value_bytes) as f64 * live_share) as u64
        });
        (live.sum(), view.version.levels[level].runs.len() as u64)
    };
    let Some(last) = last_level(&view.version) else { return in_memory };
    let (bottom, bottom_runs) = logical(last);
    if last == 0 {
        return bottom / bottom_runs.max(1) + in_memory;
    }
    let above: u64 = (0..last).map(|level| logical(level).0).sum::<u64>() + in_memory;
    // An entry above the last level is new or replaces one below; the larger the last level, the likelier the latter.
    bottom + (above as f64 * ratio(above, above + bottom)) as u64
}

fn last_level(version: &Version) -> Option<usize> {
    version.levels.iter().rposition(|level| !level.runs.is_empty())
}

/// `bytes` for people.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "written by users {} in {} operations; to storage: log {}, flush {}, compaction {}, manifest {}",
            human(self.user_bytes_written),
            self.user_operations,
            human(self.wal_bytes),
            human(self.flush_bytes),
            human(self.compaction_bytes_written),
            human(self.manifest_bytes),
        )?;
        writeln!(
            f,
            "amplification: write {:.2}, read {} runs and {:.2} blocks per read, space {:.2}",
            self.write_amplification(),
            self.read_amplification(),
            self.blocks_per_read(),
            self.space_amplification(),
        )?;
        writeln!(
            f,
            "on disk {}: tables {}, log {}; in memory: memtables {}, cache {}",
            human(self.disk_bytes),
            human(self.table_bytes),
            human(self.wal_file_bytes),
            human(self.memtable_bytes),
            human(self.cache_bytes),
        )?;
        for stall in &self.stalls {
            writeln!(
                f,
                "stalls by {}: {} for {} ms",
                stall.cause,
                stall.count,
                stall.duration_ns / 1_000_000
            )?;
        }
        for keyspace in &self.keyspaces {
            writeln!(f, "keyspace {}: debt {}", keyspace.name, human(keyspace.debt_bytes))?;
            writeln!(f, "  level  runs  tables       bytes     entries  tombstones      written")?;
            for level in
                keyspace.levels.iter().filter(|level| level.tables > 0 || level.bytes_written > 0)
            {
                writeln!(
                    f,
                    "  {:>5} {:>5} {:>7} {:>11} {:>11} {:>11} {:>12}",
                    level.level,
                    level.runs,
                    level.tables,
                    human(level.bytes),
                    level.entries,
                    level.tombstones,
                    human(level.bytes_written),
                )?;
            }
        }
        Ok(())
    }
}
