//! Counters of what the engine did.
//!
//! What every operation touches is relaxed atomics, sharded; what a job or a stall adds is plain sums under a mutex,
//! because those are rare and belong together. Nothing is decided by a counter; they are read only for
//! [`Metrics`](crate::db::metrics::Metrics) and for the totals that the manifest keeps. No clock is read on the way to
//! any of them, except that jobs and stalls, which are slow by nature, are timed.
//!
//! A job counts twice, for the database and for its keyspace: a keyspace that is dropped takes its own counters along,
//! and those of the database never go back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::compaction::job::JobOutput;
use crate::compaction::{CompactionAction, CompactionPlan};
use crate::sync::Mutex;
use crate::table::TableMeta;
use crate::table::reader::ReadStats;
use crate::version::totals::CompactionTotals;

/// What ingests are called among the reasons of compactions.
const INGEST: &str = "ingest";
/// Shards of the per-operation counters. A power of two.
const SHARD_COUNT: usize = 8;

/// A counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a writer waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StallCause {
    /// All memtables were full and waited for flush.
    Memtables,
    /// Compaction was behind: the writer was slowed in proportion.
    Debt,
}

impl StallCause {
    pub(crate) const ALL: [StallCause; 2] = [StallCause::Memtables, StallCause::Debt];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            StallCause::Memtables => "memtables",
            StallCause::Debt => "debt",
        }
    }
}

/// What reading blocks and asking filters cost.
#[derive(Debug, Default)]
struct StatCounters {
    filter_checks: Counter,
    filter_useful: Counter,
    filter_false_positives: Counter,
    unfiltered_lookups: Counter,
    blocks_read: Counter,
    block_bytes_read: Counter,
    cache_hits: Counter,
    cache_misses: Counter,
}

/// Counters that every read touches. What a point read costs and what a scan costs are different questions.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    gets: Counter,
    get_hits: Counter,
    memtable_hits: Counter,
    get_stats: StatCounters,
    seeks: Counter,
    steps: Counter,
    scan_stats: StatCounters,
}

/// The sums over all shards of the read counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadTotals {
    pub(crate) gets: u64,
    pub(crate) get_hits: u64,
    pub(crate) memtable_hits: u64,
    pub(crate) get_stats: ReadStats,
    pub(crate) seeks: u64,
    pub(crate) steps: u64,
    pub(crate) scan_stats: ReadStats,
}

/// What flushes did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlushTotals {
    pub(crate) count: u64,
    /// Of the tables that they wrote.
    pub(crate) bytes: u64,
    /// In the memtables that they wrote out.
    pub(crate) entries: u64,
    /// Entries left out because a newer version stands in for them.
    pub(crate) entries_shadowed: u64,
    pub(crate) duration_ns: u64,
}

/// What flushes and compactions did. Compactions by the level that they wrote to, and by reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobTotals {
    pub(crate) flushes: FlushTotals,
    pub(crate) compactions: BTreeMap<(usize, &'static str), CompactionTotals>,
}

impl JobTotals {
    /// The entries that ingests wrote, which no compaction read.
    pub(crate) fn ingested_entries(&self) -> u64 {
        let ingests = self.compactions.iter().filter(|((_, reason), _)| *reason == INGEST);
        ingests.map(|(_, totals)| totals.entries_written).sum()
    }

    /// The sums over levels and reasons.
    pub(crate) fn compacted(&self) -> CompactionTotals {
        let mut sum = CompactionTotals::default();
        self.compactions.values().for_each(|totals| sum.add(*totals));
        sum
    }
}

/// How often and how long writers waited.
#[derive(Debug, Default)]
pub(crate) struct StallCounters([(Counter, Counter); StallCause::ALL.len()]);

impl StallCounters {
    fn count(&self, cause: StallCause, duration_ns: u64) {
        let (count, total_ns) = &self.0[cause as usize];
        count.add(1);
        total_ns.add(duration_ns);
    }

    /// Each cause with the number of its stalls and the nanoseconds that they took.
    pub(crate) fn each(&self) -> impl Iterator<Item = (StallCause, u64, u64)> + '_ {
        let counters = StallCause::ALL.into_iter().zip(&self.0);
        counters.map(|(cause, (count, total_ns))| (cause, count.get(), total_ns.get()))
    }
}

/// The counters of one keyspace.
#[derive(Debug, Default)]
pub(crate) struct KeyspaceCounters {
    jobs: Mutex<JobTotals>,
    pub(crate) stalls: StallCounters,
    /// Bytes of keys and values in memtables that were flushed.
    pub(crate) flushed_user_bytes: Counter,
    /// Bytes of keys and values that the open found in the log: they were written before it.
    pub(crate) replayed_user_bytes: Counter,
}

impl KeyspaceCounters {
    /// What flushes and compactions of the keyspace did.
    pub(crate) fn jobs(&self) -> JobTotals {
        self.jobs.lock().clone()
    }
}

/// All counters of an open database.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    shards: [Shard; SHARD_COUNT],
    jobs: Mutex<JobTotals>,
    pub(crate) manifest_bytes: Counter,
    pub(crate) manifest_edits: Counter,
    pub(crate) obsolete_files_removed: Counter,
    pub(crate) background_errors: Counter,
    pub(crate) scrub_passes: Counter,
    pub(crate) stalls: StallCounters,
}

thread_local! {
    /// Its address tells threads apart.
    static SHARD_MARK: u8 = const { 0 };
}

impl Counters {
    fn shard(&self) -> &Shard {
        let address = SHARD_MARK.with(|mark| std::ptr::from_ref(mark).addr());
        // Thread stacks and thread-local blocks lie megabytes or at least pages apart: fold both.
        &self.shards[((address >> 12) ^ (address >> 21)) % SHARD_COUNT]
    }

    /// Counts a point read and what it cost.
    #[inline]
    pub(crate) fn count_get(&self, hit: bool, in_memory: bool, stats: &ReadStats) {
        let shard = self.shard();
        shard.gets.add(1);
        if hit {
            shard.get_hits.add(1);
        }
        if in_memory {
            shard.memtable_hits.add(1);
        } else {
            shard.get_stats.add(stats);
        }
    }

    /// Counts what a cursor did since it last reported.
    pub(crate) fn count_scan(&self, seeks: u64, steps: u64, stats: &ReadStats) {
        let shard = self.shard();
        shard.seeks.add(seeks);
        shard.steps.add(steps);
        shard.scan_stats.add(stats);
    }

    /// The sums of the read counters.
    pub(crate) fn reads(&self) -> ReadTotals {
        let mut sum = ReadTotals::default();
        for shard in &self.shards {
            sum.gets += shard.gets.get();
            sum.get_hits += shard.get_hits.get();
            sum.memtable_hits += shard.memtable_hits.get();
            sum.get_stats += shard.get_stats.get();
            sum.seeks += shard.seeks.get();
            sum.steps += shard.steps.get();
            sum.scan_stats += shard.scan_stats.get();
        }
        sum
    }

    /// Counts one stall of a writer of a keyspace.
    pub(crate) fn count_stall(
        &self,
        keyspace: &KeyspaceCounters,
        cause: StallCause,
        duration_ns: u64,
    ) {
        self.stalls.count(cause, duration_ns);
        keyspace.stalls.count(cause, duration_ns);
    }

    /// Counts a flush: `table` is what it wrote of `entries`.
    pub(crate) fn count_flush(
        &self,
        keyspace: &KeyspaceCounters,
        entries: u64,
        table: Option<&TableMeta>,
        duration_ns: u64,
    ) {
        for jobs in [&self.jobs, &keyspace.jobs] {
            let flushes = &mut jobs.lock().flushes;
            flushes.count += 1;
            flushes.bytes += table.map_or(0, |meta| meta.file_bytes);
            flushes.entries += entries;
            flushes.entries_shadowed += entries - table.map_or(0, |meta| meta.entry_count);
            flushes.duration_ns += duration_ns;
        }
    }

    /// Counts a compaction by `plan`.
    pub(crate) fn count_compaction(
        &self,
        keyspace: &KeyspaceCounters,
        plan: &CompactionPlan,
        totals: CompactionTotals,
    ) {
        for jobs in [&self.jobs, &keyspace.jobs] {
            let kind = (plan.output_level, plan.reason.as_str());
            jobs.lock().compactions.entry(kind).or_default().add(totals);
        }
    }

    /// Counts an ingest into `level`, among the compactions.
    pub(crate) fn count_ingest(
        &self,
        keyspace: &KeyspaceCounters,
        level: usize,
        tables: &[TableMeta],
        duration_ns: u64,
    ) {
        let totals = CompactionTotals {
            bytes_written: tables.iter().map(|meta| meta.file_bytes).sum(),
            entries_written: tables.iter().map(|meta| meta.entry_count).sum(),
            duration_ns,
            ..CompactionTotals::default()
        };
        for jobs in [&self.jobs, &keyspace.jobs] {
            jobs.lock().compactions.entry((level, INGEST)).or_default().add(totals);
        }
    }

    /// What flushes and compactions of all keyspaces did.
    pub(crate) fn jobs(&self) -> JobTotals {
        self.jobs.lock().clone()
    }
}

/// What a merge did, for [`Counters::count_compaction`].
pub(crate) fn merge_totals(output: &JobOutput, duration_ns: u64) -> CompactionTotals {
    CompactionTotals {
        merges: 1,
        bytes_read: output.bytes_read,
        bytes_written: output.bytes_written,
        entries_read: output.entries_in,
        entries_written: output.entries_out,
        entries_shadowed: output.dropped_shadowed,
        tombstones_dropped: output.dropped_tombstones,
        entries_expired: output.dropped_expired,
        entries_filtered_out: output.dropped_filtered,
        entries_filtered: output.filtered,
        duration_ns,
        ..CompactionTotals::default()
    }
}

/// What moving or dropping `tables` did, for [`Counters::count_compaction`].
pub(crate) fn whole_table_totals(
    action: CompactionAction,
    tables: &[TableMeta],
) -> CompactionTotals {
    let bytes = tables.iter().map(|meta| meta.file_bytes).sum();
    match action {
        CompactionAction::Move => {
            CompactionTotals { moves: 1, bytes_moved: bytes, ..CompactionTotals::default() }
        }
        CompactionAction::Drop => CompactionTotals {
            drops: 1,
            bytes_dropped: bytes,
            entries_discarded: tables.iter().map(|meta| meta.entry_count).sum(),
            ..CompactionTotals::default()
        },
        CompactionAction::Merge => unreachable!("a merge reads its tables"),
    }
}

impl StatCounters {
    fn add(&self, stats: &ReadStats) {
        let pairs = [
            (&self.filter_checks, stats.filter_checks),
            (&self.filter_useful, stats.filter_useful),
            (&self.filter_false_positives, stats.filter_false_positives),
            (&self.unfiltered_lookups, stats.unfiltered_lookups),
            (&self.blocks_read, stats.blocks_read),
            (&self.block_bytes_read, stats.block_bytes_read),
            (&self.cache_hits, stats.cache_hits),
            (&self.cache_misses, stats.cache_misses),
        ];
        for (counter, n) in pairs {
            if n != 0 {
                counter.add(n);
            }
        }
    }

    fn get(&self) -> ReadStats {
        ReadStats {
            filter_checks: self.filter_checks.get(),
            filter_useful: self.filter_useful.get(),
            filter_false_positives: self.filter_false_positives.get(),
            unfiltered_lookups: self.unfiltered_lookups.get(),
            blocks_read: self.blocks_read.get(),
            block_bytes_read: self.block_bytes_read.get(),
            cache_hits: self.cache_hits.get(),
            cache_misses: self.cache_misses.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_sum_up() {
        let counters = Counters::default();
        let stats = ReadStats { blocks_read: 2, ..ReadStats::default() };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        counters.count_get(true, false, &stats);
                    }
                });
            }
        });
        counters.count_get(false, true, &stats);
        counters.count_scan(2, 5, &ReadStats { blocks_read: 3, ..ReadStats::default() });
        let reads = counters.reads();
        assert_eq!((reads.gets, reads.get_hits, reads.memtable_hits), (401, 400, 1));
        assert_eq!((reads.seeks, reads.steps), (2, 5));
        assert_eq!((reads.get_stats.blocks_read, reads.scan_stats.blocks_read), (800, 3));
    }
}
