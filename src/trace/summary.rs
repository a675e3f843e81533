//! What a trace says of a workload, in numbers that a strategy can be chosen by.
//!
//! Counts, shares, bytes and the order of keys are exact. What needs single keys (distinct keys, updates, skew, ages)
//! comes from the sampled ones: exact while the trace holds all keys (its first 8 MiB or so of records), an estimate
//! from then on. A trace of few, very busy keys may have lost nearly all of them from its sample when it ends: then its
//! beginning is looked at instead, as far as it has enough keys. Quantiles are those of the sample too.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use crate::error::Result;
use crate::fs::FileSystem;
use crate::trace::skew::KeySkew;
use crate::trace::{TraceBlock, TraceCounts, TraceOperation, TraceReader, TraceRecord, is_sampled};

/// A sample with fewer keys than this is passed over for an earlier, denser one.
const SAMPLED_KEYS_MIN: usize = 1000;
/// The window of the peak rate.
const WINDOW_US: u64 = 60_000_000;

/// A workload in numbers. Shares are in 0..=1; a share or mean of nothing is 0.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TraceSummary {
    /// The keyspace that it is about; `None`: all of them together.
    pub keyspace: Option<u32>,
    /// When the trace began: milliseconds since the Unix epoch.
    pub start_unix_ms: u64,
    /// Seconds from the first operation to the last.
    pub span_s: f64,
    /// Operations.
    pub operations: u64,
    /// The share of puts, those that expire included, among operations.
    pub put_share: f64,
    /// The share of deletes among operations.
    pub delete_share: f64,
    /// The share of point reads among operations.
    pub get_share: f64,
    /// The share of scans among operations.
    pub scan_share: f64,
    /// The share of point reads that found nothing.
    pub get_miss_share: f64,
    /// Entries that a scan stood on, on average.
    pub scan_entries_mean: f64,
    /// Distinct keys that were put.
    pub distinct_keys_estimate: u64,
    /// Bytes of a key that was put, on average.
    pub key_bytes_mean: f64,
    /// Bytes of a key that was put: 99 % are no longer.
    pub key_bytes_p99: u64,
    /// Bytes of a value that was put, on average.
    pub value_bytes_mean: f64,
    /// Bytes of a value that was put: 99 % are no longer.
    pub value_bytes_p99: u64,
    /// How unevenly puts and deletes fall on the keys that were put or deleted.
    pub write_skew: KeySkew,
    /// How unevenly point reads fall on the keys that were read.
    pub read_skew: KeySkew,
    /// The share of puts with a key greater than all put before: 1 for a load in key order, next to 0 for random
    /// order.
    pub sequential_share: f64,
    /// The share of puts with a key greater than that of the put before: 1 in key order, 0.5 in random order.
    pub ascending_share: f64,
    /// The share of puts on keys that were put before, in the trace. What was there before the trace began is not
    /// known.
    pub update_share: f64,
    /// Seconds since the last put of a key that is put again: the median.
    pub update_age_p50_s: f64,
    /// Seconds since the last put of a key that is put again: 99 % are no older. Low where only young keys are updated.
    pub update_age_p99_s: f64,
    /// The share of puts that expire.
    pub ttl_share: f64,
    /// Seconds for which the value of an expiring put is good: the median.
    pub ttl_p50_s: f64,
    /// Bytes of keys and values that were put, and of keys that were deleted.
    pub ingest_bytes: u64,
    /// Those bytes per second of the span.
    pub ingest_bytes_per_s_mean: f64,
    /// Those bytes per second of the busiest minute; minutes are counted from the trace's beginning. Not below the
    /// mean.
    pub ingest_bytes_per_s_peak: f64,
    /// Keys whose hash ends in this many zero bits were looked at one by one; 0: all keys.
    pub sample_shift: u32,
    /// Operations on those keys, by which all but the counts is estimated.
    pub sampled_operations: u64,
    /// Bytes at the end of the file that a crash or a full disk left without meaning.
    pub torn_bytes: u64,
}

impl TraceSummary {
    /// Reads the trace at `path` and sums up what was done to `keyspace` (its id; 0 is `default`), or to all. Holds
    /// some dozen bytes for each sampled key in memory.
    ///
    /// # Errors
    /// As [`TraceReader::open`] and [`TraceReader::next_block`].
    pub fn read(fs: &dyn FileSystem, path: &Path, keyspace: Option<u32>) -> Result<TraceSummary> {
        let totals = Totals::read(fs, path, keyspace)?;
        let mut sample_shift = totals.sample_shift;
        let mut distinct_keys = 0;
        let sample = loop {
            let sample = Sample::read(fs, path, keyspace, sample_shift)?;
            distinct_keys = distinct_keys.max(sample.distinct_put_keys());
            if sample_shift == 0 || sample.keys.len() >= SAMPLED_KEYS_MIN {
                break sample;
            }
            sample_shift -= 1;
        };
        let mut summary = totals.summary(keyspace);
        summary.distinct_keys_estimate = distinct_keys.min(totals.counts.puts);
        sample.describe(&mut summary);
        Ok(summary)
    }

    /// The ids of the keyspaces in the trace at `path`, in order.
    ///
    /// # Errors
    /// As [`TraceReader::open`] and [`TraceReader::next_block`].
    pub fn keyspaces(fs: &dyn FileSystem, path: &Path) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for_each_block(fs, path, None, |block| {
            if let Err(at) = ids.binary_search(&block.keyspace) {
                ids.insert(at, block.keyspace);
            }
        })?;
        Ok(ids)
    }
}

/// Calls `visit` with the blocks of `keyspace`, or all. Returns the reader, at the end.
fn for_each_block(
    fs: &dyn FileSystem,
    path: &Path,
    keyspace: Option<u32>,
    mut visit: impl FnMut(&TraceBlock),
) -> Result<TraceReader> {
    let mut reader = TraceReader::open(fs, path)?;
    while let Some(block) = reader.next_block()? {
        if keyspace.is_none_or(|keyspace| keyspace == block.keyspace) {
            visit(&block);
        }
    }
    Ok(reader)
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// What is exact.
#[derive(Debug, Default)]
struct Totals {
    start_unix_ms: u64,
    torn_bytes: u64,
    counts: TraceCounts,
    /// The times of the first operation and the last.
    span_us: Option<(u64, u64)>,
    /// The highest of all blocks.
    sample_shift: u32,
    /// Ingested bytes by minute.
    windows: BTreeMap<u64, f64>,
}

impl Totals {
    fn read(fs: &dyn FileSystem, path: &Path, keyspace: Option<u32>) -> Result<Totals> {
        let mut totals = Totals::default();
        let reader = for_each_block(fs, path, keyspace, |block| totals.add(block))?;
        totals.start_unix_ms = reader.start_unix_ms();
        totals.torn_bytes = reader.torn_bytes();
        Ok(totals)
    }

    fn add(&mut self, block: &TraceBlock) {
        self.counts.add(&block.counts);
        self.sample_shift = self.sample_shift.max(block.sample_shift);
        let (first, last) = self.span_us.unwrap_or((block.first_us, block.last_us));
        self.span_us = Some((first.min(block.first_us), last.max(block.last_us)));
        self.add_to_windows(block);
    }

    /// Spreads the bytes that the block counted over the times of its records.
    fn add_to_windows(&mut self, block: &TraceBlock) {
        let ingest_bytes = block.counts.ingest_bytes();
        if ingest_bytes == 0 {
            return;
        }
        let recorded: u64 = block.records.iter().map(written_bytes).sum();
        if recorded == 0 {
            *self.windows.entry(block.last_us / WINDOW_US).or_default() += ingest_bytes as f64;
            return;
        }
        let scale = ratio(ingest_bytes, recorded);
        for record in &block.records {
            let bytes = written_bytes(record);
            if bytes > 0 {
                *self.windows.entry(record.time_us / WINDOW_US).or_default() +=
                    bytes as f64 * scale;
            }
        }
    }

    fn summary(&self, keyspace: Option<u32>) -> TraceSummary {
        let counts = &self.counts;
        let operations = counts.operations();
        let (first_us, last_us) = self.span_us.unwrap_or_default();
        let span_s = seconds(last_us.saturating_sub(first_us));
        let ingest_bytes = counts.ingest_bytes();
        let mean = if span_s > 0.0 { ingest_bytes as f64 / span_s } else { 0.0 };
        let busiest = self.windows.values().copied().fold(0.0, f64::max) / seconds(WINDOW_US);
        TraceSummary {
            keyspace,
            start_unix_ms: self.start_unix_ms,
            span_s,
            operations,
            put_share: ratio(counts.puts, operations),
            delete_share: ratio(counts.deletes, operations),
            get_share: ratio(counts.gets(), operations),
            scan_share: ratio(counts.scans, operations),
            get_miss_share: ratio(counts.get_misses, counts.gets()),
            scan_entries_mean: ratio(counts.scan_entries, counts.scans),
            key_bytes_mean: ratio(counts.put_key_bytes, counts.puts),
            value_bytes_mean: ratio(counts.put_value_bytes, counts.puts),
            sequential_share: ratio(counts.appended_puts, counts.puts),
            ascending_share: ratio(counts.ascending_puts, counts.puts),
            ttl_share: ratio(counts.expiring_puts, counts.puts),
            ingest_bytes,
            ingest_bytes_per_s_mean: mean,
            ingest_bytes_per_s_peak: busiest.max(mean),
            torn_bytes: self.torn_bytes,
            ..TraceSummary::default()
        }
    }
}

fn written_bytes(record: &TraceRecord) -> u64 {
    match record.operation {
        TraceOperation::Put { value_bytes, .. } => {
            u64::from(record.key_bytes) + u64::from(value_bytes)
        }
        TraceOperation::Delete => u64::from(record.key_bytes),
        _ => 0,
    }
}

/// What happened to one sampled key.
#[derive(Debug, Default)]
struct KeyHistory {
    puts: u64,
    deletes: u64,
    gets: u64,
    last_put_us: u64,
}

/// How many of each value; quantiles are exact.
#[derive(Debug, Default)]
struct Distribution {
    counts: BTreeMap<u64, u64>,
    total: u64,
}

impl Distribution {
    fn add(&mut self, value: u64) {
        *self.counts.entry(value).or_default() += 1;
        self.total += 1;
    }

    /// The lowest value that `percent` of all do not exceed; 0 if there is none.
    fn quantile(&self, percent: u64) -> u64 {
        let rank = (self.total.saturating_mul(percent)).div_ceil(100).max(1);
        let mut below = 0;
        let reaches = |(value, count): (&u64, &u64)| {
            below += count;
            (below >= rank).then_some(*value)
        };
        self.counts.iter().find_map(reaches).unwrap_or(0)
    }
}

/// What the operations on sampled keys tell, over the blocks that know at least these.
#[derive(Debug, Default)]
struct Sample {
    shift: u32,
    /// Exact counts of those blocks.
    counts: TraceCounts,
    keys: HashMap<u64, KeyHistory>,
    operations: u64,
    key_bytes: Distribution,
    value_bytes: Distribution,
    ttl_ms: Distribution,
    update_age_us: Distribution,
}

impl Sample {
    fn read(fs: &dyn FileSystem, path: &Path, keyspace: Option<u32>, shift: u32) -> Result<Sample> {
        let mut sample = Sample { shift, ..Sample::default() };
        for_each_block(fs, path, keyspace, |block| {
            if block.sample_shift <= shift {
                sample.counts.add(&block.counts);
                block.records.iter().for_each(|record| sample.add(block.keyspace, record));
            }
        })?;
        Ok(sample)
    }

    fn add(&mut self, keyspace: u32, record: &TraceRecord) {
        if !is_sampled(record.key_hash, self.shift) {
            return;
        }
        self.operations += 1;
        if matches!(record.operation, TraceOperation::Scan { .. }) {
            return;
        }
        // One key in two keyspaces is two keys.
        let identity = record.key_hash ^ u64::from(keyspace).rotate_right(32);
        let key = self.keys.entry(identity).or_default();
        match record.operation {
            TraceOperation::Put { value_bytes, ttl_ms, .. } => {
                if key.puts > 0 {
                    self.update_age_us.add(record.time_us.saturating_sub(key.last_put_us));
                }
                key.puts += 1;
                key.last_put_us = key.last_put_us.max(record.time_us);
                self.key_bytes.add(u64::from(record.key_bytes));
                self.value_bytes.add(u64::from(value_bytes));
                if let Some(ttl_ms) = ttl_ms {
                    self.ttl_ms.add(ttl_ms);
                }
            }
            TraceOperation::Delete => key.deletes += 1,
            _ => key.gets += 1,
        }
    }

    /// An estimate of the distinct keys that were put.
    fn distinct_put_keys(&self) -> u64 {
        let sampled = self.keys.values().filter(|key| key.puts > 0).count() as u64;
        sampled.saturating_mul(1 << self.shift)
    }

    fn describe(&self, summary: &mut TraceSummary) {
        let count_of = |count: fn(&KeyHistory) -> u64| {
            self.keys.values().map(count).filter(|&count| count > 0).collect::<Vec<_>>()
        };
        let writes = count_of(|key| key.puts + key.deletes);
        summary.write_skew = KeySkew::measure(writes, self.counts.writes(), self.shift);
        let gets = count_of(|key| key.gets);
        summary.read_skew = KeySkew::measure(gets, self.counts.gets(), self.shift);
        if self.counts.puts > 0 {
            let first_puts = self.distinct_put_keys();
            summary.update_share = 1.0 - ratio(first_puts, self.counts.puts).min(1.0);
        }
        summary.update_age_p50_s = seconds(self.update_age_us.quantile(50));
        summary.update_age_p99_s = seconds(self.update_age_us.quantile(99));
        summary.key_bytes_p99 = self.key_bytes.quantile(99);
        summary.value_bytes_p99 = self.value_bytes.quantile(99);
        summary.ttl_p50_s = self.ttl_ms.quantile(50) as f64 / 1e3;
        summary.sample_shift = self.shift;
        summary.sampled_operations = self.operations;
    }
}

impl fmt::Display for TraceSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let rows = [
            ("keyspace", self.keyspace.map_or_else(|| "all".to_owned(), |id| id.to_string())),
            ("time span", format!("{:.1} s", self.span_s)),
            ("operations", self.operations.to_string()),
            (
                "of which",
                format!(
                    "puts {}, deletes {}, gets {} ({} find nothing), scans {} (of {:.1} entries)",
                    percent(self.put_share),
                    percent(self.delete_share),
                    percent(self.get_share),
                    percent(self.get_miss_share),
                    percent(self.scan_share),
                    self.scan_entries_mean,
                ),
            ),
            ("distinct keys put", self.distinct_keys_estimate.to_string()),
            ("key bytes", format!("mean {:.1}, p99 {}", self.key_bytes_mean, self.key_bytes_p99)),
            (
                "value bytes",
                format!("mean {:.1}, p99 {}", self.value_bytes_mean, self.value_bytes_p99),
            ),
            ("write skew", self.write_skew.to_string()),
            ("read skew", self.read_skew.to_string()),
            (
                "key order of puts",
                format!(
                    "{} above all before, {} above the last",
                    percent(self.sequential_share),
                    percent(self.ascending_share)
                ),
            ),
            (
                "updates",
                format!(
                    "{} of puts, of keys put p50 {:.1} s, p99 {:.1} s before",
                    percent(self.update_share),
                    self.update_age_p50_s,
                    self.update_age_p99_s
                ),
            ),
            (
                "puts that expire",
                format!("{}, p50 {:.1} s", percent(self.ttl_share), self.ttl_p50_s),
            ),
            (
                "ingest",
                format!(
                    "{} bytes, {:.0} bytes/s, busiest minute {:.0} bytes/s",
                    self.ingest_bytes, self.ingest_bytes_per_s_mean, self.ingest_bytes_per_s_peak
                ),
            ),
            (
                "sample",
                format!(
                    "{} operations on 1 key in {}",
                    self.sampled_operations,
                    1u128 << self.sample_shift
                ),
            ),
            ("torn end", format!("{} bytes", self.torn_bytes)),
        ];
        for (name, value) in rows {
            writeln!(f, "{name:<20}{value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
