//! What `simulate` and `advise` are asked: a workload, a machine, and what matters.

use std::path::PathBuf;

use clap::Args;
use esker::Compaction;

use crate::units::{parse_rate, parse_ratio, parse_seconds, parse_size, parse_some_size};

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum KeysArg {
    /// Every key equally often, in no order
    Uniform,
    /// Some keys much more often than others, spread over the whole range
    Zipf,
    /// New keys in ascending order
    Sequential,
    /// New keys of many series, none written twice
    TimeSeries,
}

/// A workload and a machine, described.
#[derive(Args, Debug)]
pub struct WorkloadArgs {
    /// Keys and values that there are: loaded at the start, unless --empty
    #[arg(long, value_name = "SIZE", value_parser = parse_some_size)]
    pub data: Option<u64>,
    /// How keys are chosen [default: uniform]
    #[arg(long, value_enum)]
    pub keys: Option<KeysArg>,
    /// Skew of zipfian keys [default: 0.99]
    #[arg(long, value_name = "THETA")]
    pub theta: Option<f64>,
    /// Bytes of a key [default: 16]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub key_bytes: Option<u64>,
    /// Bytes of a value [default: 100]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub value_bytes: Option<u64>,
    /// Share of puts on keys that there are; the others are new [default: 1, or 0 if keys are new by their pattern]
    #[arg(long, value_name = "0..1")]
    pub update_share: Option<f64>,
    /// Share of writes that delete [default: 0]
    #[arg(long, value_name = "0..1")]
    pub delete_share: Option<f64>,
    /// Bytes of keys and values that arrive in a second [default: 32MiB/s]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub ingest: Option<u64>,
    /// Time after which an entry expires [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub ttl: Option<u64>,
    /// Simulated hours
    #[arg(long, default_value_t = 24.0, value_name = "N")]
    pub hours: f64,
    /// Threads for flush and compaction
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub threads: u64,
    /// Bytes that flush and compaction move in a second
    #[arg(long, default_value = "500MB/s", value_name = "RATE", value_parser = parse_rate)]
    pub bandwidth: u64,
}

#[derive(Args, Debug)]
pub struct SimulateArgs {
    #[command(flatten)]
    pub workload: WorkloadArgs,
    /// Strategies, separated by commas
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_values = ["leveled", "size_tiered", "lazy_leveled"],
        value_parser = parse_strategy
    )]
    pub strategy: Vec<String>,
    /// Start with an empty tree
    #[arg(long)]
    pub empty: bool,
    /// Go on for so many writes instead of --hours
    #[arg(long, value_name = "N", conflicts_with = "hours", value_parser = clap::value_parser!(u64).range(1..=1 << 50))]
    pub writes: Option<u64>,
    /// In the end, flush and compact until nothing is left to be done
    #[arg(long)]
    pub settle: bool,
}

/// What matters most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Prefer {
    /// Few bytes written
    Write,
    /// Few runs to look at
    Read,
    /// Few bytes kept
    Space,
    /// A bit of each
    Balanced,
}

#[derive(Args, Debug)]
pub struct AdviseArgs {
    #[command(flatten)]
    pub workload: WorkloadArgs,
    /// A workload that was recorded (`record_workload`); the flags go over it
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// What matters most
    #[arg(long, value_enum, default_value_t = Prefer::Balanced)]
    pub prefer: Prefer,
    /// Only strategies that keep their space amplification within this, at their peak
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    pub space_amp_max: Option<f64>,
    /// Only strategies that keep their write amplification within this
    #[arg(long, value_name = "RATIO", value_parser = parse_ratio)]
    pub write_amp_max: Option<f64>,
    /// The data is a cache: the oldest may be dropped, so that tables take no more than this
    #[arg(long, value_name = "SIZE", value_parser = parse_some_size)]
    pub drop_above: Option<u64>,
}

fn parse_strategy(text: &str) -> Result<String, String> {
    if Compaction::BUILT_IN.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(format!("the strategies are: {}", Compaction::BUILT_IN.join(", ")))
}
