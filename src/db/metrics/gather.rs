//! Fills the metrics from the counters, the trees and the disk usage.
//!
//! The tree lock is held meanwhile, so that a flush that ends just now is seen either in the memtables or in the sums
//! of what was flushed, and the manifest's totals fit those since open. Counters that every operation touches are
//! read one after the other: two of them may be some operations apart.

use crate::db::counters::{JobTotals, StallCounters};
use crate::db::disk_usage::Part;
use crate::db::metrics::space::live_bytes_estimate;
use crate::db::metrics::{
    CompactionMetrics, KeyspaceMetrics, LevelMetrics, LifetimeMetrics, Metrics, StallMetrics,
};
use crate::db::state::{Inner, KeyspaceCore, Tree};
use crate::sync::atomic::Ordering;
use crate::trace::recorder::Recorder;
use crate::version::totals::{CompactionTotals, LifetimeTotals};
use crate::wal::writer::WalWriter;

/// The metrics of the database.
pub(crate) fn metrics(inner: &Inner) -> Metrics {
    let mut metrics = Metrics::default();
    let tree = inner.tree.lock();
    add_writes(inner, &mut metrics);
    add_jobs(inner, &mut metrics);
    add_reads(inner, &mut metrics);
    add_disk(inner, &mut metrics);
    add_state(inner, &mut metrics);
    for core in inner.keyspaces.load().in_order() {
        let keyspace = keyspace_of(inner, &core);
        metrics.live_bytes_estimate += keyspace.live_bytes_estimate;
        metrics.memtable_bytes += keyspace.memtable_bytes;
        metrics.debt_bytes += keyspace.debt_bytes;
        metrics.compactions_running += keyspace.compactions_running;
        metrics.keyspaces.push(keyspace);
    }
    metrics.lifetime = lifetime_of(inner, &tree);
    metrics
}

/// The metrics of one keyspace.
pub(crate) fn keyspace_metrics(inner: &Inner, core: &KeyspaceCore) -> KeyspaceMetrics {
    let _tree = inner.tree.lock();
    keyspace_of(inner, core)
}

fn add_writes(inner: &Inner, metrics: &mut Metrics) {
    metrics.wal_syncs = inner.commit().sync_count.load(Ordering::Relaxed);
    metrics.sequence = inner.visible().0;
    let commit = inner.commit().lock();
    metrics.user_bytes_written = commit.totals.user_bytes;
    metrics.user_operations = commit.totals.operations;
    metrics.batches = commit.totals.batches;
    metrics.wal_bytes = commit.totals.wal_bytes;
    metrics.wal_records = commit.totals.wal_records;
    metrics.wal_live_bytes = commit.wal.as_ref().map_or(0, WalWriter::live_bytes);
}

fn add_jobs(inner: &Inner, metrics: &mut Metrics) {
    let counters = inner.counters();
    let jobs = counters.jobs();
    metrics.flushes = jobs.flushes.count;
    metrics.flush_bytes = jobs.flushes.bytes;
    metrics.flush_entries = jobs.flushes.entries;
    metrics.flush_duration_ns = jobs.flushes.duration_ns;
    let compacted = jobs.compacted();
    metrics.compactions = compacted.merges;
    metrics.trivial_moves = compacted.moves;
    metrics.table_drops = compacted.drops;
    metrics.compaction_bytes_read = compacted.bytes_read;
    metrics.compaction_bytes_written = compacted.bytes_written;
    metrics.compaction_entries_read = compacted.entries_read;
    metrics.compaction_duration_ns = compacted.duration_ns;
    metrics.entries_shadowed = jobs.flushes.entries_shadowed + compacted.entries_shadowed;
    metrics.tombstones_dropped = compacted.tombstones_dropped;
    metrics.entries_expired = compacted.entries_expired;
    metrics.entries_filtered_out = compacted.entries_filtered_out;
    metrics.entries_discarded = compacted.entries_discarded;
    metrics.entries_filtered = compacted.entries_filtered;
    let merged_away = compacted.entries_read + jobs.ingested_entries() - compacted.entries_written;
    metrics.entries_dropped =
        jobs.flushes.entries_shadowed + merged_away + compacted.entries_discarded;
    metrics.compactions_by_reason = by_reason(&jobs);
    metrics.compaction_limited_bytes = inner.work.rate.limited_bytes.get();
    metrics.compaction_limited_ns = inner.work.rate.waited_ns.get();
    metrics.manifest_bytes = counters.manifest_bytes.get();
    metrics.manifest_edits = counters.manifest_edits.get();
    metrics.obsolete_files_removed = counters.obsolete_files_removed.get();
    metrics.background_errors = counters.background_errors.get();
    metrics.scrub_passes = counters.scrub_passes.get();
    metrics.stalls = stall_metrics(&counters.stalls);
}

fn by_reason(jobs: &JobTotals) -> Vec<CompactionMetrics> {
    let parts = jobs.compactions.iter();
    parts.map(|(&(level, reason), totals)| compaction_metrics(level, reason, *totals)).collect()
}

fn compaction_metrics(level: usize, reason: &str, totals: CompactionTotals) -> CompactionMetrics {
    CompactionMetrics { level: level as u64, reason: reason.to_owned(), totals }
}

fn stall_metrics(stalls: &StallCounters) -> Vec<StallMetrics> {
    let metrics = stalls.each().map(|(cause, count, duration_ns)| StallMetrics {
        cause: cause.as_str(),
        count,
        duration_ns,
    });
    metrics.collect()
}

fn add_reads(inner: &Inner, metrics: &mut Metrics) {
    let reads = inner.counters().reads();
    metrics.gets = reads.gets;
    metrics.get_hits = reads.get_hits;
    metrics.memtable_hits = reads.memtable_hits;
    metrics.seeks = reads.seeks;
    metrics.steps = reads.steps;
    let (get, scan) = (reads.get_stats, reads.scan_stats);
    metrics.tables_probed = get.filter_checks + get.unfiltered_lookups;
    metrics.filter_checks = get.filter_checks;
    metrics.filter_useful = get.filter_useful;
    metrics.filter_false_positives = get.filter_false_positives;
    metrics.get_blocks_read = get.blocks_read;
    metrics.get_block_bytes_read = get.block_bytes_read;
    metrics.scan_blocks_read = scan.blocks_read;
    metrics.scan_block_bytes_read = scan.block_bytes_read;
    metrics.cache_hits = get.cache_hits + scan.cache_hits;
    metrics.cache_misses = get.cache_misses + scan.cache_misses;
    metrics.cache_bytes = inner.read.tables.cache_bytes();
    metrics.tables_opened = inner.read.tables.open_count();
}

fn add_disk(inner: &Inner, metrics: &mut Metrics) {
    let parts = inner.disk.now();
    metrics.table_bytes = parts.get(Part::LiveTables);
    metrics.obsolete_table_bytes = parts.get(Part::ObsoleteTables);
    metrics.in_flight_bytes = parts.get(Part::InFlight);
    metrics.wal_file_bytes = parts.get(Part::Wal);
    metrics.manifest_file_bytes = parts.get(Part::Manifest);
    metrics.disk_bytes = parts.total();
    metrics.disk_bytes_peak = inner.disk.peak_bytes();
    metrics.table_bytes_appended = inner.disk.table_bytes_appended();
}

fn add_state(inner: &Inner, metrics: &mut Metrics) {
    let snapshots = &inner.read.snapshots;
    let (count, oldest) = snapshots.summary();
    metrics.snapshots = count as u64;
    metrics.oldest_snapshot = oldest.map(|sequence| sequence.0);
    metrics.oldest_snapshot_age_ms = snapshots
        .oldest_since_ns()
        .map_or(0, |since_ns| inner.clock.monotonic_ns().saturating_sub(since_ns) / 1_000_000);
    metrics.compaction_rate = inner.work.rate.rate();
    let recording_error = inner.read.recorder.as_ref().and_then(Recorder::error);
    metrics.background_errors += u64::from(recording_error.is_some());
    let work = inner.work.lock();
    metrics.flushes_running = work.flushing.len() as u64;
    metrics.compaction_pending = work.compaction_wanted;
    let first_error = work.first_error.as_ref().or(recording_error.as_ref());
    metrics.first_background_error = first_error.map(ToString::to_string);
}

/// The caller holds the tree lock.
fn keyspace_of(inner: &Inner, core: &KeyspaceCore) -> KeyspaceMetrics {
    let view = core.view.load();
    let jobs = core.counters.jobs();
    let levels = view.version.levels.iter().enumerate().map(|(index, level)| {
        let tables = || level.runs.iter().flat_map(|run| &run.tables);
        let into = || jobs.compactions.iter().filter(move |((to, _), _)| *to == index);
        let compacted: u64 = into().map(|(_, totals)| totals.bytes_written).sum();
        let flushed = if index == 0 { jobs.flushes.bytes } else { 0 };
        LevelMetrics {
            level: index as u64,
            runs: level.runs.len() as u64,
            tables: tables().count() as u64,
            bytes: tables().map(|table| table.meta().file_bytes).sum(),
            entries: tables().map(|table| table.meta().entry_count).sum(),
            tombstones: tables().map(|table| table.meta().tombstone_count).sum(),
            bytes_written: flushed + compacted,
            bytes_read: into().map(|(_, totals)| totals.bytes_read).sum(),
        }
    });
    let memories = || std::iter::once(&view.active).chain(&view.immutables);
    let in_memory: u64 = memories().map(|memory| memory.table.user_bytes()).sum();
    let user_bytes = core.counters.flushed_user_bytes.get() + in_memory;
    let running = inner.work.lock().busy.get(&core.id).map_or(0, |busy| busy.running_count);
    let options = core.options.load().to_pairs().into_iter();
    KeyspaceMetrics {
        name: core.name.to_string(),
        options: options.map(|(name, value)| (name.to_owned(), value)).collect(),
        user_bytes_written: user_bytes.saturating_sub(core.counters.replayed_user_bytes.get()),
        flushes: jobs.flushes.count,
        flush_bytes: jobs.flushes.bytes,
        flush_duration_ns: jobs.flushes.duration_ns,
        compactions_by_reason: by_reason(&jobs),
        stalls: stall_metrics(&core.counters.stalls),
        memtable_bytes: memories().map(|memory| memory.table.bytes()).sum(),
        immutable_memtables: view.immutables.len() as u64,
        debt_bytes: core.debt_bytes.load(Ordering::Relaxed),
        compactions_running: running as u64,
        live_bytes_estimate: live_bytes_estimate(core),
        compacts: core.strategy.read().is_some(),
        levels: levels.collect(),
    }
}

/// What the manifest knows, and what was written since its last edit.
fn lifetime_of(inner: &Inner, tree: &Tree) -> LifetimeMetrics {
    let mut totals: LifetimeTotals = tree.state.totals.clone();
    totals.add(&inner.totals_since_open().since(&tree.totals_in_state));
    let mut compacted = CompactionTotals::default();
    totals.compactions.values().for_each(|part| compacted.add(*part));
    let parts = totals.compactions.iter();
    LifetimeMetrics {
        user_bytes_written: totals.user_bytes,
        user_operations: totals.user_operations,
        wal_bytes: totals.wal_bytes,
        flushes: totals.flushes,
        flush_bytes: totals.flush_bytes,
        compaction_bytes_read: compacted.bytes_read,
        compaction_bytes_written: compacted.bytes_written,
        manifest_bytes: totals.manifest_bytes,
        compactions_by_reason: parts
            .map(|((level, reason), part)| compaction_metrics(*level, reason, *part))
            .collect(),
    }
}
