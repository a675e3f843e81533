//! A workload as a trace recorded it.
//!
//! A trace knows nothing of what was there before it began: a put counts as an update only if the
//! trace saw its key before. Who knows better sets `key_count` and `update_share` over it.

use crate::compaction::simulator::workload::{KeyPattern, Workload};
use crate::trace::TraceSummary;

/// From this share of puts in key order on, keys are sequential.
const SEQUENTIAL_SHARE_MIN: f64 = 0.9;

/// Below this share of updates, keys are new by their pattern.
const UPDATE_SHARE_MIN: f64 = 0.01;

/// From this share of puts that expire on, all do.
const TTL_SHARE_MIN: f64 = 0.5;

impl From<&TraceSummary> for Workload {
    fn from(summary: &TraceSummary) -> Self {
        let writes = summary.put_share + summary.delete_share;
        let delete_share = if writes > 0.0 { summary.delete_share / writes } else { 0.0 };
        let keys = if summary.sequential_share >= SEQUENTIAL_SHARE_MIN {
            KeyPattern::Sequential
        } else if let Some(theta) = summary.write_skew.zipf_theta {
            KeyPattern::Zipf { theta: theta.clamp(0.0, 4.0) }
        } else if summary.update_share < UPDATE_SHARE_MIN {
            KeyPattern::TimeSeries
        } else {
            KeyPattern::Uniform
        };
        let expires = summary.ttl_share >= TTL_SHARE_MIN;
        Workload {
            keys,
            key_count: summary.distinct_keys_estimate.max(1),
            key_bytes: summary.key_bytes_mean.round().max(1.0) as u64,
            value_bytes: summary.value_bytes_mean.round() as u64,
            update_share: summary.update_share.clamp(0.0, 1.0),
            delete_share: delete_share.clamp(0.0, 1.0),
            ingest_bytes_per_s: summary.ingest_bytes_per_s_mean.round().max(1.0) as u64,
            ttl_s: if expires { summary.ttl_p50_s.round() as u64 } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_gives_the_workload_that_it_describes() {
        let mut summary = TraceSummary {
            put_share: 0.4,
            delete_share: 0.1,
            distinct_keys_estimate: 5000,
            key_bytes_mean: 15.6,
            value_bytes_mean: 99.5,
            update_share: 0.5,
            ttl_share: 0.9,
            ttl_p50_s: 60.0,
            ingest_bytes_per_s_mean: 1234.4,
            ..TraceSummary::default()
        };
        let workload = Workload::from(&summary);
        let expected = Workload {
            keys: KeyPattern::Uniform,
            key_count: 5000,
            key_bytes: 16,
            value_bytes: 100,
            update_share: 0.5,
            delete_share: 0.2,
            ingest_bytes_per_s: 1234,
            ttl_s: 60,
        };
        assert_eq!(Workload { delete_share: 0.2, ..workload.clone() }, expected);
        assert!((workload.delete_share - 0.2).abs() < 1e-9);
        summary.write_skew.zipf_theta = Some(0.8);
        assert_eq!(Workload::from(&summary).keys, KeyPattern::Zipf { theta: 0.8 });
        summary.sequential_share = 0.99;
        assert_eq!(Workload::from(&summary).keys, KeyPattern::Sequential);
    }
}
