//! Every number of the metrics, once: its name, whether it counts or gauges, and a sentence about it.
//!
//! Differences ([`Metrics::since`]) and the Prometheus text are made of these lists, so neither can forget a number
//! that stands here; and a test holds the lists against the structs.

use crate::db::metrics::{KeyspaceMetrics, LevelMetrics, LifetimeMetrics, Metrics, StallMetrics};
use crate::version::totals::CompactionTotals;

/// How a number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A number in a `T`.
#[derive(Debug)]
pub(super) struct Field<T> {
    /// The name of the struct's field.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    pub(super) get: fn(&T) -> u64,
    slot: fn(&mut T) -> &mut u64,
}

macro_rules! field {
    ($of:ty, $kind:ident, $name:ident, $help:literal) => {
        Field::<$of> {
            name: stringify!($name),
            kind: Kind::$kind,
            help: $help,
            get: |of| of.$name,
            slot: |of| &mut of.$name,
        }
    };
}

/// Subtracts the counters of `earlier`. One that went back, because it began anew, becomes 0.
pub(super) fn subtract<T>(fields: &[Field<T>], from: &mut T, earlier: &T) {
    for field in fields.iter().filter(|field| field.kind == Kind::Counter) {
        let slot = (field.slot)(from);
        *slot = slot.saturating_sub((field.get)(earlier));
    }
}

/// The numbers of the database.
pub(super) const METRICS: &[Field<Metrics>] = &[
    field!(Metrics, Counter, user_bytes_written, "Bytes of keys and values that users wrote."),
    field!(Metrics, Counter, user_operations, "Puts and deletes."),
    field!(Metrics, Counter, batches, "Writes: single operations and batches."),
    field!(Metrics, Counter, wal_bytes, "Bytes appended to the log."),
    field!(Metrics, Counter, wal_records, "Records appended to the log."),
    field!(Metrics, Counter, wal_syncs, "Syncs of the log."),
    field!(Metrics, Counter, flushes, "Flushes."),
    field!(Metrics, Counter, flush_bytes, "Bytes of tables written by flush."),
    field!(Metrics, Counter, flush_entries, "Entries of flushed memtables."),
    field!(Metrics, Counter, flush_duration_ns, "Time that flushes took."),
    field!(Metrics, Counter, compactions, "Compactions that merged."),
    field!(Metrics, Counter, trivial_moves, "Compactions that only moved tables."),
    field!(Metrics, Counter, table_drops, "Compactions that dropped whole tables."),
    field!(Metrics, Counter, compaction_bytes_read, "Bytes of tables read by compaction."),
    field!(Metrics, Counter, compaction_bytes_written, "Bytes of tables written by compaction."),
    field!(Metrics, Counter, compaction_entries_read, "Entries read by compaction."),
    field!(
        Metrics,
        Counter,
        compaction_duration_ns,
        "Time that compactions took, over all threads."
    ),
    field!(Metrics, Counter, entries_dropped, "Entries dropped by flush and compaction."),
    field!(
        Metrics,
        Counter,
        entries_shadowed,
        "Entries dropped because a newer version stands in for them."
    ),
    field!(Metrics, Counter, tombstones_dropped, "Tombstones dropped with nothing left to hide."),
    field!(Metrics, Counter, entries_expired, "Entries dropped because they have expired."),
    field!(Metrics, Counter, entries_filtered_out, "Entries dropped because a filter said so."),
    field!(Metrics, Counter, entries_discarded, "Entries of tables that were dropped whole."),
    field!(Metrics, Counter, entries_filtered, "Entries that filters dropped or replaced."),
    field!(
        Metrics,
        Counter,
        compaction_limited_bytes,
        "Bytes that compactions wrote while there was a limit."
    ),
    field!(
        Metrics,
        Counter,
        compaction_limited_ns,
        "Time that compactions waited for their share of the limit."
    ),
    field!(
        Metrics,
        Counter,
        table_bytes_appended,
        "Bytes appended to tables, whatever became of them."
    ),
    field!(Metrics, Counter, manifest_bytes, "Bytes appended to manifests."),
    field!(Metrics, Counter, manifest_edits, "Edits appended to manifests."),
    field!(Metrics, Counter, obsolete_files_removed, "Files removed that nobody needed."),
    field!(Metrics, Counter, gets, "Point reads."),
    field!(Metrics, Counter, get_hits, "Point reads that found a value."),
    field!(Metrics, Counter, memtable_hits, "Point reads answered by a memtable."),
    field!(Metrics, Counter, tables_probed, "Tables that point reads asked."),
    field!(Metrics, Counter, get_blocks_read, "Data blocks that point reads looked into."),
    field!(
        Metrics,
        Counter,
        get_block_bytes_read,
        "Bytes of data blocks that point reads took from files."
    ),
    field!(Metrics, Counter, seeks, "Seeks of iterators and cursors that have ended."),
    field!(Metrics, Counter, steps, "Steps of iterators and cursors that have ended."),
    field!(Metrics, Counter, scan_blocks_read, "Data blocks that scans looked into."),
    field!(
        Metrics,
        Counter,
        scan_block_bytes_read,
        "Bytes of data blocks that scans took from files."
    ),
    field!(Metrics, Counter, filter_checks, "Filters asked."),
    field!(Metrics, Counter, filter_useful, "Filters that saved a block."),
    field!(
        Metrics,
        Counter,
        filter_false_positives,
        "Filters that said yes where the key was not."
    ),
    field!(Metrics, Counter, cache_hits, "Blocks found in the block cache."),
    field!(Metrics, Counter, cache_misses, "Blocks not found in the block cache."),
    field!(Metrics, Counter, tables_opened, "Tables opened."),
    field!(Metrics, Counter, background_errors, "Background jobs that failed."),
    field!(Metrics, Counter, scrub_passes, "Passes of the scrubber."),
    field!(Metrics, Gauge, cache_bytes, "Bytes in the block cache."),
    field!(Metrics, Gauge, table_bytes, "Bytes of live tables."),
    field!(
        Metrics,
        Gauge,
        obsolete_table_bytes,
        "Bytes of tables that left the tree but are still on disk."
    ),
    field!(Metrics, Gauge, in_flight_bytes, "Bytes of tables that running jobs have written."),
    field!(Metrics, Gauge, wal_file_bytes, "Bytes of all log segments on disk."),
    field!(Metrics, Gauge, wal_live_bytes, "Bytes of the log that recovery would read."),
    field!(Metrics, Gauge, manifest_file_bytes, "Bytes of manifests and CURRENT."),
    field!(Metrics, Gauge, disk_bytes, "Bytes of all files of the database."),
    field!(Metrics, Gauge, disk_bytes_peak, "The most bytes on disk at any moment since open."),
    field!(Metrics, Gauge, live_bytes_estimate, "Estimated bytes of live keys and values."),
    field!(Metrics, Gauge, memtable_bytes, "Bytes of all memtables."),
    field!(Metrics, Gauge, debt_bytes, "Bytes that compaction must still move."),
    field!(Metrics, Gauge, flushes_running, "Flushes that run now."),
    field!(Metrics, Gauge, compactions_running, "Compactions that run now."),
    field!(Metrics, Gauge, snapshots, "Distinct live snapshots."),
    field!(Metrics, Gauge, oldest_snapshot_age_ms, "Age of the oldest live snapshot."),
    field!(Metrics, Gauge, sequence, "The newest visible sequence number."),
];

/// The numbers of a keyspace.
pub(super) const KEYSPACE: &[Field<KeyspaceMetrics>] = &[
    field!(
        KeyspaceMetrics,
        Counter,
        user_bytes_written,
        "Bytes of keys and values that users wrote to the keyspace."
    ),
    field!(KeyspaceMetrics, Counter, flushes, "Flushes."),
    field!(KeyspaceMetrics, Counter, flush_bytes, "Bytes of tables written by flush."),
    field!(KeyspaceMetrics, Counter, flush_duration_ns, "Time that flushes took."),
    field!(KeyspaceMetrics, Gauge, memtable_bytes, "Bytes of its memtables."),
    field!(KeyspaceMetrics, Gauge, immutable_memtables, "Full memtables that wait for flush."),
    field!(KeyspaceMetrics, Gauge, debt_bytes, "Bytes that compaction must still move."),
    field!(KeyspaceMetrics, Gauge, compactions_running, "Compactions that run now."),
    field!(KeyspaceMetrics, Gauge, live_bytes_estimate, "Estimated bytes of live keys and values."),
];

/// The numbers of a level.
pub(super) const LEVEL: &[Field<LevelMetrics>] = &[
    field!(LevelMetrics, Gauge, runs, "Sorted runs."),
    field!(LevelMetrics, Gauge, tables, "Tables."),
    field!(LevelMetrics, Gauge, bytes, "Bytes of tables."),
    field!(LevelMetrics, Gauge, entries, "Entries, tombstones included."),
    field!(LevelMetrics, Gauge, tombstones, "Tombstones."),
    field!(
        LevelMetrics,
        Counter,
        bytes_written,
        "Bytes that flush or compaction wrote into the level."
    ),
    field!(LevelMetrics, Counter, bytes_read, "Bytes that compaction into the level read."),
];

/// The numbers of compactions of one kind.
pub(super) const COMPACTIONS: &[Field<CompactionTotals>] = &[
    field!(CompactionTotals, Counter, merges, "Compactions that merged tables."),
    field!(CompactionTotals, Counter, moves, "Compactions that moved tables."),
    field!(CompactionTotals, Counter, drops, "Compactions that dropped whole tables."),
    field!(CompactionTotals, Counter, bytes_read, "Bytes of tables that merges read."),
    field!(CompactionTotals, Counter, bytes_written, "Bytes of tables that merges wrote."),
    field!(CompactionTotals, Counter, bytes_moved, "Bytes of tables that were moved."),
    field!(CompactionTotals, Counter, bytes_dropped, "Bytes of tables that were dropped whole."),
    field!(CompactionTotals, Counter, entries_read, "Entries that merges read."),
    field!(CompactionTotals, Counter, entries_written, "Entries that merges wrote."),
    field!(
        CompactionTotals,
        Counter,
        entries_shadowed,
        "Entries left out because a newer version stands in for them."
    ),
    field!(
        CompactionTotals,
        Counter,
        tombstones_dropped,
        "Tombstones left out with nothing left to hide."
    ),
    field!(
        CompactionTotals,
        Counter,
        entries_expired,
        "Entries left out because they have expired."
    ),
    field!(
        CompactionTotals,
        Counter,
        entries_filtered_out,
        "Entries left out because a filter said so."
    ),
    field!(
        CompactionTotals,
        Counter,
        entries_discarded,
        "Entries in tables that were dropped whole."
    ),
    field!(
        CompactionTotals,
        Counter,
        entries_filtered,
        "Entries that filters dropped or replaced."
    ),
    field!(CompactionTotals, Counter, duration_ns, "Time that the jobs took."),
];

/// The numbers of a cause of stalls.
pub(super) const STALL: &[Field<StallMetrics>] = &[
    field!(StallMetrics, Counter, count, "Waits of writers."),
    field!(StallMetrics, Counter, duration_ns, "Time that writers waited."),
];

/// The numbers of the life of the database.
pub(super) const LIFETIME: &[Field<LifetimeMetrics>] = &[
    field!(
        LifetimeMetrics,
        Counter,
        user_bytes_written,
        "Bytes of keys and values that users wrote in the life of the database."
    ),
    field!(
        LifetimeMetrics,
        Counter,
        user_operations,
        "Puts and deletes in the life of the database."
    ),
    field!(
        LifetimeMetrics,
        Counter,
        wal_bytes,
        "Bytes appended to the log in the life of the database."
    ),
    field!(LifetimeMetrics, Counter, flushes, "Flushes in the life of the database."),
    field!(
        LifetimeMetrics,
        Counter,
        flush_bytes,
        "Bytes of tables written by flush in the life of the database."
    ),
    field!(
        LifetimeMetrics,
        Counter,
        compaction_bytes_read,
        "Bytes of tables read by compaction in the life of the database."
    ),
    field!(
        LifetimeMetrics,
        Counter,
        compaction_bytes_written,
        "Bytes of tables written by compaction in the life of the database."
    ),
    field!(
        LifetimeMetrics,
        Counter,
        manifest_bytes,
        "Bytes appended to manifests in the life of the database."
    ),
];

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    /// The fields of a default `T` that print as a plain number.
    fn numbers_of<T: Debug + Default>() -> Vec<String> {
        let text = format!("{:#?}", T::default());
        let lines = text.lines().filter_map(|line| line.strip_prefix("    "));
        let numbers = lines.filter_map(|line| line.strip_suffix(": 0,"));
        numbers.filter(|name| !name.starts_with(' ')).map(str::to_owned).collect()
    }

    #[track_caller]
    fn check<T: Debug + Default>(fields: &[Field<T>], left_out: &[&str]) {
        let mut expected = numbers_of::<T>();
        expected.retain(|name| !left_out.contains(&name.as_str()));
        let mut listed: Vec<_> = fields.iter().map(|field| field.name.to_owned()).collect();
        expected.sort();
        listed.sort();
        assert_eq!(listed, expected);
        for (at, field) in fields.iter().enumerate() {
            let mut value = T::default();
            *(field.slot)(&mut value) = at as u64 + 1;
            assert_eq!((field.get)(&value), at as u64 + 1, "{}", field.name);
        }
    }

    #[test]
    fn the_lists_name_every_number() {
        check(METRICS, &[]);
        check(KEYSPACE, &[]);
        check(LEVEL, &["level"]);
        check(COMPACTIONS, &[]);
        check(STALL, &[]);
        check(LIFETIME, &[]);
    }

    #[test]
    fn counters_are_subtracted_and_gauges_stay() {
        let mut later = Metrics { gets: 7, snapshots: 3, flushes: 1, ..Metrics::default() };
        let earlier = Metrics { gets: 5, snapshots: 2, flushes: 4, ..Metrics::default() };
        subtract(METRICS, &mut later, &earlier);
        assert_eq!((later.gets, later.snapshots, later.flushes), (2, 3, 0));
    }
}
