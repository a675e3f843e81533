//! Summaries of traces made by hand, where every number is known, and of sampled ones, where it is known about.

use super::*;
use crate::fs::SimFs;
use crate::trace::format::tests::{block_of, file_of};

const PATH: &str = "/traces/app.trace";
const SECOND: u64 = 1_000_000;

/// The hash of the key with this number: no two alike, all bits stirred.
fn hash(key: u64) -> u64 {
    let mut z = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn at(time_us: u64, key: u64, operation: TraceOperation) -> TraceRecord {
    TraceRecord { time_us, key_hash: hash(key), key_bytes: 10, operation }
}

fn put(value_bytes: u32, ttl_ms: Option<u64>, order: (bool, bool)) -> TraceOperation {
    TraceOperation::Put { value_bytes, ttl_ms, ascending: order.0, appended: order.1 }
}

fn summary_of(blocks: &[TraceBlock], keyspace: Option<u32>) -> TraceSummary {
    let fs = SimFs::new();
    fs.write_file(PATH, &file_of(42, blocks)).unwrap();
    TraceSummary::read(&fs, Path::new(PATH), keyspace).unwrap()
}

#[test]
fn every_number_of_a_small_trace_is_exact() {
    let plain = put(90, None, (true, true));
    let expiring = |seconds: u64| put(40, Some(seconds * 1000), (true, false));
    let found = TraceOperation::GetHit { value_bytes: 90 };
    let block = block_of(
        0,
        vec![
            at(2 * SECOND, 1, plain),
            at(3 * SECOND, 2, plain),
            at(4 * SECOND, 3, put(90, None, (false, false))),
            at(5 * SECOND, 1, expiring(60)),
            at(70 * SECOND, 1, expiring(90)),
            at(71 * SECOND, 2, TraceOperation::Delete),
            at(72 * SECOND, 1, found),
            at(72 * SECOND, 1, found),
            at(72 * SECOND, 9, TraceOperation::GetMiss),
            at(102 * SECOND, 5, TraceOperation::Scan { entries: 7 }),
        ],
    );
    let summary = summary_of(std::slice::from_ref(&block), Some(0));
    let expected = TraceSummary {
        keyspace: Some(0),
        start_unix_ms: 42,
        span_s: 100.0,
        operations: 10,
        put_share: 0.5,
        delete_share: 0.1,
        get_share: 0.3,
        scan_share: 0.1,
        get_miss_share: 1.0 / 3.0,
        scan_entries_mean: 7.0,
        distinct_keys_estimate: 3,
        key_bytes_mean: 10.0,
        key_bytes_p99: 10,
        value_bytes_mean: 70.0,
        value_bytes_p99: 90,
        // Key 1 has three of six writes and two of three reads: one key is the least that is called hottest.
        write_skew: summary.write_skew,
        read_skew: summary.read_skew,
        sequential_share: 0.4,
        ascending_share: 0.8,
        update_share: 0.4,
        update_age_p50_s: 3.0,
        update_age_p99_s: 65.0,
        ttl_share: 0.4,
        ttl_p50_s: 60.0,
        // Five puts with keys of 10 bytes, one delete.
        ingest_bytes: 3 * 100 + 2 * 50 + 10,
        ingest_bytes_per_s_mean: 4.1,
        // The first minute: three puts of 100 bytes and one of 50.
        ingest_bytes_per_s_peak: 350.0 / 60.0,
        sample_shift: 0,
        sampled_operations: 10,
        torn_bytes: 0,
    };
    assert_eq!(summary, expected);
    assert_eq!(summary.write_skew.hottest_1_percent_share, 0.5);
    assert_eq!(summary.write_skew.hottest_10_percent_share, 0.5);
    assert!((summary.read_skew.hottest_1_percent_share - 2.0 / 3.0).abs() < 1e-12);
    let text = summary.to_string();
    for row in ["puts 50.0 %", "mean 70.0, p99 90", "410 bytes, 4 bytes/s", "p50 60.0 s"] {
        assert!(text.contains(row), "{row} is not in\n{text}");
    }
}

#[test]
fn keyspaces_are_told_apart_or_taken_together() {
    let plain = put(90, None, (true, true));
    let blocks = [
        block_of(0, vec![at(0, 1, plain), at(1, 1, plain)]),
        block_of(7, vec![at(0, 1, TraceOperation::GetMiss), at(1, 1, plain)]),
    ];
    assert_eq!(summary_of(&blocks, Some(0)).operations, 2);
    assert_eq!(summary_of(&blocks, Some(7)).put_share, 0.5);
    assert_eq!(
        summary_of(&blocks, Some(1)),
        TraceSummary { keyspace: Some(1), start_unix_ms: 42, ..TraceSummary::default() }
    );
    let all = summary_of(&blocks, None);
    assert_eq!((all.operations, all.put_share), (4, 0.75));
    assert_eq!(all.distinct_keys_estimate, 2, "one key in two keyspaces is two keys");
    let fs = SimFs::new();
    fs.write_file(PATH, &file_of(42, &blocks)).unwrap();
    assert_eq!(TraceSummary::keyspaces(&fs, Path::new(PATH)).unwrap(), [0, 7]);
}

#[test]
fn a_torn_trace_is_summed_up_to_its_end_and_says_so() {
    let plain = put(90, None, (true, true));
    let mut bytes =
        file_of(42, &[block_of(0, vec![at(0, 1, plain)]), block_of(0, vec![at(9, 2, plain)])]);
    bytes.pop();
    let fs = SimFs::new();
    fs.write_file(PATH, &bytes).unwrap();
    let summary = TraceSummary::read(&fs, Path::new(PATH), None).unwrap();
    assert_eq!(summary.operations, 1);
    assert!(summary.torn_bytes > 0);
}

/// Blocks of `operations` puts, one a millisecond: the n-th on the key `key_of(n)`, sampled as `shift_of(n)` says.
fn sampled_puts(
    operations: u64,
    key_of: impl Fn(u64) -> u64,
    shift_of: impl Fn(u64) -> u32,
) -> Vec<TraceBlock> {
    let mut blocks = Vec::new();
    for first in (0..operations).step_by(1000) {
        let records =
            (first..first + 1000).map(|n| at(n * 1000, key_of(n), put(90, None, (false, false))));
        let mut block = block_of(0, records.collect());
        block.sample_shift = shift_of(first);
        block.records.retain(|record| is_sampled(record.key_hash, block.sample_shift));
        blocks.push(block);
    }
    blocks
}

#[test]
fn a_sampled_trace_gives_exact_counts_and_good_estimates() {
    // 50,000 keys, each put four times, in four rounds of 50 s.
    let operations = 200_000;
    let blocks = sampled_puts(operations, |n| n % 50_000, |n| (n / 50_000) as u32);
    let summary = summary_of(&blocks, None);
    assert_eq!((summary.operations, summary.ingest_bytes), (operations, operations * 100));
    assert_eq!((summary.put_share, summary.value_bytes_mean), (1.0, 90.0));
    assert_eq!(summary.sample_shift, 3);
    assert!((summary.sampled_operations as f64 * 8.0 / operations as f64 - 1.0).abs() < 0.05);
    assert!((summary.distinct_keys_estimate as f64 / 50_000.0 - 1.0).abs() < 0.05);
    assert!((summary.update_share - 0.75).abs() < 0.02, "{}", summary.update_share);
    assert_eq!((summary.update_age_p50_s, summary.update_age_p99_s), (50.0, 50.0));
    assert!((summary.ingest_bytes_per_s_peak / 100_000.0 - 1.0).abs() < 0.01);
    assert_eq!(summary.write_skew.zipf_theta, None);
    assert!((summary.write_skew.hottest_10_percent_share - 0.1).abs() < 0.03);
}

#[test]
fn a_trace_of_few_keys_is_judged_by_its_beginning() {
    // 3,000 keys: at the last rate some 90 are left, at shift 1 some 1,500.
    let blocks = sampled_puts(60_000, |n| n % 3000, |n| (n / 10_000) as u32);
    let summary = summary_of(&blocks, None);
    assert_eq!((summary.operations, summary.sample_shift), (60_000, 1));
    assert!((summary.distinct_keys_estimate as f64 / 3000.0 - 1.0).abs() < 0.3);
    assert!((summary.update_share - 0.85).abs() < 0.02, "17,000 of the first 20,000");
    // Ten keys are never enough: all of them, while all were recorded.
    let blocks = sampled_puts(60_000, |n| n % 10, |n| (n / 10_000) as u32);
    let summary = summary_of(&blocks, None);
    assert_eq!((summary.sample_shift, summary.sampled_operations), (0, 10_000));
    assert_eq!((summary.operations, summary.update_share), (60_000, 0.999));
}

#[test]
fn counts_of_a_made_up_trace_cannot_overflow() {
    let mut block = block_of(0, Vec::new());
    block.counts = TraceCounts::from_array([u64::MAX; crate::trace::COUNT_FIELDS]);
    (block.first_us, block.last_us, block.sample_shift) = (3, u64::MAX, 63);
    let summary = summary_of(&[block.clone(), block], None);
    assert_eq!(summary.operations, u64::MAX);
}

#[test]
fn quantiles_are_the_lowest_value_that_enough_do_not_exceed() {
    let mut distribution = Distribution::default();
    assert_eq!(distribution.quantile(99), 0);
    (1..=200).for_each(|value| distribution.add(value));
    assert_eq!([50, 99, 100].map(|percent| distribution.quantile(percent)), [100, 198, 200]);
}
