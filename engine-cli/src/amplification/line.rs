//! The JSON lines of `bench amplification`. Bytes are bytes, times are since the run began.

use serde::{Deserialize, Serialize};

/// A line.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// Where the others come from; whoever keeps a measurement writes it first.
    About(About),
    /// The state of a run at a moment.
    Sample(Sample),
    /// What a run came to.
    Total(Total),
}

/// Where a measurement comes from.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct About {
    pub commit: String,
    pub machine: String,
    pub command: String,
}

/// Which run a line belongs to.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Pair {
    pub load: String,
    pub strategy: String,
}

/// The state of a run at a moment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sample {
    #[serde(flatten)]
    pub pair: Pair,
    pub seconds: f64,
    /// Keys and values that were put or deleted.
    pub user_bytes: u64,
    /// Log, flush, compaction and manifest.
    pub written_bytes: u64,
    /// Everything in the directory.
    pub disk_bytes: u64,
    pub table_bytes: u64,
    /// Sorted runs that a point read may have to ask.
    pub runs: u64,
    pub stall_ms: f64,
}

/// What a run came to, once it was settled.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Total {
    #[serde(flatten)]
    pub pair: Pair,
    pub esker: String,
    pub operations: u64,
    /// Of the operations alone.
    pub seconds: f64,
    pub kops: f64,
    pub p50us: f64,
    pub p99us: f64,
    pub p999us: f64,
    pub p9999us: f64,
    pub maxus: u64,
    /// Until compaction was at rest.
    pub settle_seconds: f64,
    pub stall_ms: f64,
    pub user_bytes: u64,
    pub wal_bytes: u64,
    pub flush_bytes: u64,
    pub compaction_bytes: u64,
    pub manifest_bytes: u64,
    pub write_amplification: f64,
    /// Live tables, at rest.
    pub table_bytes: u64,
    /// Everything in the directory, at most.
    pub disk_bytes_max: u64,
    /// Keys and values that a scan returns, at rest.
    pub live_bytes: u64,
    /// Table bytes at rest for each live byte.
    pub space_amplification: f64,
    pub runs: u64,
    pub runs_max: u64,
    pub runs_mean: f64,
    /// Data blocks for each random get of a key that was written, at rest.
    pub blocks_per_get: f64,
    /// The median of those gets.
    pub get_p50us: f64,
}
