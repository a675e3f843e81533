//! The loads: what an application does to the database, as a sequence of operations that depends on a seed alone.

use std::time::Duration;

use clap::ValueEnum;

use crate::bench::data::{Random, Zipf};

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Load {
    /// Puts every key once, in random order
    #[value(name = "load")]
    Fill,
    /// Puts keys drawn uniformly, a quarter as many as there are operations
    OverwriteUniform,
    /// The same, drawn from a zipfian distribution (0.99)
    OverwriteZipf,
    /// Appends to 64 series at an even pace, with a time to live
    TimeSeries,
    /// Puts and deletes in equal parts, keys drawn uniformly
    DeleteHeavy,
}

/// Entries of a time series live so long.
pub const TTL: Duration = Duration::from_secs(6);
/// A time series is written at such a pace that it takes so long.
pub const TIME_SERIES_SECONDS: u64 = 24;
/// The window of `time_window` for it, in seconds.
pub const WINDOW_S: u64 = 2;

const SERIES: u64 = 64;
/// The key of a series begins with its number.
const SERIES_STEP: u64 = 1_000_000_000_000;

/// An operation on the key of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Put(u64),
    PutExpiring(u64),
    Delete(u64),
}

impl Load {
    pub fn name(self) -> &'static str {
        match self {
            Load::Fill => "load",
            Load::OverwriteUniform => "overwrite_uniform",
            Load::OverwriteZipf => "overwrite_zipf",
            Load::TimeSeries => "time_series",
            Load::DeleteHeavy => "delete_heavy",
        }
    }

    /// Operations for each second; `None`: as many as the engine takes.
    pub fn pace(self, operations: u64) -> Option<u64> {
        (self == Load::TimeSeries).then(|| (operations / TIME_SERIES_SECONDS).max(1))
    }
}

/// The operations of a load, in order.
#[derive(Debug)]
pub struct Operations {
    load: Load,
    keys: u64,
    zipf: Option<Zipf>,
    random: Random,
    next: u64,
    /// Odd and coprime to `keys`: steps of this size meet every key once.
    stride: u64,
}

impl Operations {
    /// Of `count` operations on `keys` keys, or as many keys as the load has by itself.
    pub fn new(load: Load, count: u64, keys: Option<u64>, seed: u64) -> Self {
        let keys = match load {
            Load::Fill | Load::TimeSeries => count,
            Load::OverwriteUniform | Load::OverwriteZipf | Load::DeleteHeavy => {
                keys.unwrap_or(count / 4).max(1)
            }
        };
        let zipf = (load == Load::OverwriteZipf).then(|| Zipf::new(keys));
        Operations { load, keys, zipf, random: Random::new(seed), next: 0, stride: stride(keys) }
    }

    /// The next operation.
    pub fn next(&mut self) -> Operation {
        let at = self.next;
        self.next += 1;
        match self.load {
            Load::Fill => Operation::Put(
                (u128::from(at) * u128::from(self.stride) % u128::from(self.keys)) as u64,
            ),
            Load::OverwriteUniform => Operation::Put(self.random.below(self.keys)),
            Load::OverwriteZipf => {
                let zipf = self.zipf.as_ref().expect("this load has its distribution");
                Operation::Put(zipf.scrambled(&mut self.random))
            }
            Load::TimeSeries => Operation::PutExpiring(series_key(at)),
            Load::DeleteHeavy => {
                let number = self.random.below(self.keys);
                if at.is_multiple_of(2) {
                    Operation::Put(number)
                } else {
                    Operation::Delete(number)
                }
            }
        }
    }

    /// A key that the first `count` operations may have put.
    pub fn any_key(&self, random: &mut Random, count: u64) -> u64 {
        match self.load {
            // The last ones still live.
            Load::TimeSeries => series_key(count - 1 - random.below((count / 10).max(1))),
            _ => random.below(self.keys),
        }
    }
}

fn series_key(at: u64) -> u64 {
    at % SERIES * SERIES_STEP + at / SERIES
}

/// A step about 0.618 of `keys` that has no factor in common with it.
fn stride(keys: u64) -> u64 {
    let mut stride = (keys as f64 * 0.618) as u64 | 1;
    while gcd(stride, keys) != 1 {
        stride += 2;
    }
    stride
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_load_puts_every_key_once() {
        for count in [1, 2, 7, 1000, 4096] {
            let mut operations = Operations::new(Load::Fill, count, None, 1);
            let keys: HashSet<u64> = (0..count).map(|_| key(operations.next())).collect();
            assert_eq!(keys.len() as u64, count);
            assert!(keys.iter().all(|key| *key < count));
        }
    }

    fn key(operation: Operation) -> u64 {
        match operation {
            Operation::Put(key) | Operation::PutExpiring(key) | Operation::Delete(key) => key,
        }
    }

    #[test]
    fn series_grow_at_their_ends() {
        let mut operations = Operations::new(Load::TimeSeries, 1000, None, 1);
        let keys: Vec<u64> = (0..1000).map(|_| key(operations.next())).collect();
        for series in 0..SERIES {
            let of_series: Vec<u64> =
                keys.iter().copied().filter(|key| key / SERIES_STEP == series).collect();
            assert!(of_series.is_sorted_by(|a, b| a < b) && of_series.len() >= 15);
        }
    }

    #[test]
    fn half_of_a_delete_heavy_load_are_deletes() {
        let mut operations = Operations::new(Load::DeleteHeavy, 1000, None, 1);
        let deletes = (0..1000).filter(|_| matches!(operations.next(), Operation::Delete(_)));
        assert_eq!(deletes.count(), 500);
    }
}
