//! Counters of what the engine did: relaxed atomics, sharded where every operation touches them.
//!
//! Nothing is decided by a counter; they are read only for [`Metrics`](crate::db::metrics::Metrics). No clock is
//! read on the way to any of them, except that stalls, which are slow by nature, are timed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::table::reader::ReadStats;

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

/// Counters that every read touches.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    gets: Counter,
    get_hits: Counter,
    memtable_hits: Counter,
    seeks: Counter,
    steps: Counter,
    filter_checks: Counter,
    filter_useful: Counter,
    filter_false_positives: Counter,
    blocks_read: Counter,
    block_bytes_read: Counter,
    cache_hits: Counter,
    cache_misses: Counter,
}

/// The sums over all shards of the read counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadTotals {
    pub(crate) gets: u64,
    pub(crate) get_hits: u64,
    pub(crate) memtable_hits: u64,
    pub(crate) seeks: u64,
    pub(crate) steps: u64,
    pub(crate) stats: ReadStats,
}

/// All counters of an open database.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    shards: [Shard; SHARD_COUNT],
    pub(crate) flushes: Counter,
    pub(crate) flush_bytes: Counter,
    pub(crate) compactions: Counter,
    pub(crate) trivial_moves: Counter,
    pub(crate) compaction_bytes_read: Counter,
    pub(crate) compaction_bytes_written: Counter,
    pub(crate) entries_dropped: Counter,
    pub(crate) entries_filtered: Counter,
    pub(crate) manifest_bytes: Counter,
    pub(crate) manifest_edits: Counter,
    pub(crate) obsolete_files_removed: Counter,
    pub(crate) background_errors: Counter,
    pub(crate) scrub_passes: Counter,
    pub(crate) stalls: [(Counter, Counter); StallCause::ALL.len()],
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
            shard.add(stats);
        }
    }

    /// Counts what a cursor did since it last reported.
    pub(crate) fn count_scan(&self, seeks: u64, steps: u64, stats: &ReadStats) {
        let shard = self.shard();
        shard.seeks.add(seeks);
        shard.steps.add(steps);
        shard.add(stats);
    }

    /// The sums of the read counters.
    pub(crate) fn reads(&self) -> ReadTotals {
        let mut sum = ReadTotals::default();
        for shard in &self.shards {
            sum.gets += shard.gets.get();
            sum.get_hits += shard.get_hits.get();
            sum.memtable_hits += shard.memtable_hits.get();
            sum.seeks += shard.seeks.get();
            sum.steps += shard.steps.get();
            sum.stats.filter_checks += shard.filter_checks.get();
            sum.stats.filter_useful += shard.filter_useful.get();
            sum.stats.filter_false_positives += shard.filter_false_positives.get();
            sum.stats.blocks_read += shard.blocks_read.get();
            sum.stats.block_bytes_read += shard.block_bytes_read.get();
            sum.stats.cache_hits += shard.cache_hits.get();
            sum.stats.cache_misses += shard.cache_misses.get();
        }
        sum
    }

    /// Counts one stall of a writer.
    pub(crate) fn count_stall(&self, cause: StallCause, duration_ns: u64) {
        let (count, total_ns) = &self.stalls[cause as usize];
        count.add(1);
        total_ns.add(duration_ns);
    }
}

impl Shard {
    fn add(&self, stats: &ReadStats) {
        let pairs = [
            (&self.filter_checks, stats.filter_checks),
            (&self.filter_useful, stats.filter_useful),
            (&self.filter_false_positives, stats.filter_false_positives),
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
        let reads = counters.reads();
        assert_eq!(
            (reads.gets, reads.get_hits, reads.memtable_hits, reads.stats.blocks_read),
            (401, 400, 1, 800)
        );
    }
}
