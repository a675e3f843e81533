//! The JSON line of a workload: the fields of the peers' harness, then those that only this program has.

use esker::Metrics;
use serde::Serialize;

use super::driver::Outcome;
use super::measure::{Memory, Process};
use super::workload::Workload;
use crate::args::BenchArgs;

/// Sizes are in units of 10^6 bytes, latencies in microseconds.
#[derive(Debug, Serialize)]
pub struct Line {
    engine: &'static str,
    wl: &'static str,
    n: u64,
    threads: u64,
    ops: u64,
    found: u64,
    secs: f64,
    kops: f64,
    p50us: f64,
    p99us: f64,
    p999us: f64,
    p9999us: f64,
    maxus: u64,
    #[serde(serialize_with = "two_digits")]
    pub cpu: f64,
    #[serde(rename = "wMB")]
    written_mb: u64,
    #[serde(rename = "wMBclose")]
    written_mb_close: u64,
    #[serde(rename = "wcharMB")]
    write_calls_mb: u64,
    #[serde(rename = "spaceMB", serialize_with = "one_digit")]
    pub space_mb: f64,
    #[serde(rename = "rssMB")]
    resident_mb: u64,
    pub open_ms: f64,
    pub settle_s: f64,
    tag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    writes: Option<u64>,
    #[serde(rename = "rssAnonMB")]
    anonymous_mb: u64,
    write_amp: Option<f64>,
    space_amp: Option<f64>,
    stall_ms: f64,
}

impl Line {
    pub fn new(args: &BenchArgs, workload: Workload, outcome: &Outcome) -> Self {
        let latencies = &outcome.latencies;
        Line {
            engine: "esker",
            wl: workload.name(),
            n: args.n,
            threads: args.threads,
            ops: outcome.ops,
            found: outcome.found,
            secs: round(outcome.seconds, 3),
            kops: round(outcome.ops as f64 / outcome.seconds.max(1e-9) / 1e3, 1),
            p50us: round(latencies.percentile_us(50.0), 2),
            p99us: round(latencies.percentile_us(99.0), 2),
            p999us: round(latencies.percentile_us(99.9), 1),
            p9999us: round(latencies.percentile_us(99.99), 1),
            maxus: latencies.max_us(),
            cpu: 0.0,
            written_mb: 0,
            written_mb_close: 0,
            write_calls_mb: 0,
            space_mb: 0.0,
            resident_mb: 0,
            open_ms: 0.0,
            settle_s: 0.0,
            tag: args.tag.clone(),
            writes: outcome.background_writes,
            anonymous_mb: 0,
            write_amp: None,
            space_amp: None,
            stall_ms: 0.0,
        }
    }

    /// Bytes written between opening and the end of the work, and until the database was closed.
    pub fn set_writes(&mut self, before: &Process, worked: &Process, closed: &Process) {
        self.written_mb = megabytes(worked.write_bytes - before.write_bytes);
        self.written_mb_close = megabytes(closed.write_bytes - before.write_bytes);
        self.write_calls_mb = megabytes(closed.write_chars - before.write_chars);
    }

    pub fn set_memory(&mut self, memory: Memory) {
        self.resident_mb = megabytes(memory.resident);
        self.anonymous_mb = megabytes(memory.anonymous);
    }

    /// What the engine itself counted.
    pub fn set_engine(&mut self, metrics: &Metrics) {
        let finite = |value: f64| value.is_finite().then(|| round(value, 2));
        self.write_amp = finite(metrics.write_amplification());
        self.space_amp = finite(metrics.space_amplification());
        let stalled: u64 = metrics.stalls.iter().map(|stall| stall.duration_ns).sum();
        self.stall_ms = round(stalled as f64 / 1e6, 1);
    }
}

/// Whole units of 10^6 bytes, rounded.
fn megabytes(bytes: u64) -> u64 {
    (bytes + 500_000) / 1_000_000
}

/// `value` with so many decimals.
pub fn round(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn one_digit<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(round(*value, 1))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn two_digits<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(round(*value, 2))
}
