//! What is written: the description, and the expected content of a memtable full of it.
//!
//! Positions of a workload's key space are strewn over [`SPACE`]: the keys that are there at the
//! start are spread evenly over it, and so are the new ones between them, as hashed keys and the
//! keys of many series are. Only sequential keys are positions one by one, ascending.
//!
//! Zipfian keys fall into classes of keys about equally often written, each twice as many as the
//! one before. They too are spread over the whole range.

use crate::compaction::simulator::content::{Classes, Segment, Share, union};
use crate::compaction::simulator::cost::Costs;
use crate::error::{Error, Result};
use crate::key::KEY_LEN_MAX;

/// Positions over which keys are spread.
const SPACE: u64 = 1 << 60;

/// Ranks whose frequencies are summed up one by one; beyond them an integral is exact enough.
const EXACT_RANKS: u64 = 1024;

/// In which order, and how often, keys are written.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum KeyPattern {
    /// Every key equally often, in no order.
    Uniform,
    /// The n-th most frequent key in proportion to `1 / n^theta`; frequent ones lie everywhere.
    Zipf {
        /// How skewed: 0 is uniform, 0.99 is usual.
        theta: f64,
    },
    /// New keys in ascending order.
    Sequential,
    /// Many series, each with keys ascending in time: new keys everywhere in the key range, none
    /// written twice.
    TimeSeries,
}

/// A workload, described.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Workload {
    /// How keys are chosen.
    pub keys: KeyPattern,
    /// Keys that there are: those in the tree at the start, or, if it starts empty, those that
    /// updates choose from.
    pub key_count: u64,
    /// Bytes of a key.
    pub key_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// The share of puts that go to one of the `key_count` keys, by `keys`; the others write keys
    /// that were never there. From 0 to 1.
    pub update_share: f64,
    /// The share of all writes that delete one of the `key_count` keys. From 0 to 1.
    pub delete_share: f64,
    /// Bytes of keys and values that arrive in a second, unless they are held up.
    pub ingest_bytes_per_s: u64,
    /// Seconds after which an entry expires; 0: never.
    pub ttl_s: u64,
}

impl Default for Workload {
    /// Random overwrites of 100 million keys of 16 + 100 bytes, 32 MiB a second.
    fn default() -> Self {
        Workload {
            keys: KeyPattern::Uniform,
            key_count: 100_000_000,
            key_bytes: 16,
            value_bytes: 100,
            update_share: 1.0,
            delete_share: 0.0,
            ingest_bytes_per_s: 32 << 20,
            ttl_s: 0,
        }
    }
}

impl Workload {
    /// Random puts over `key_count` keys.
    pub fn uniform(key_count: u64) -> Self {
        Workload { key_count, ..Workload::default() }
    }

    /// Puts over `key_count` keys, some much more often than others.
    pub fn zipf(key_count: u64, theta: f64) -> Self {
        Workload { keys: KeyPattern::Zipf { theta }, key_count, ..Workload::default() }
    }

    /// New keys in ascending order, after `key_count` that are there.
    pub fn sequential(key_count: u64) -> Self {
        let (keys, update_share) = (KeyPattern::Sequential, 0.0);
        Workload { keys, key_count, update_share, ..Workload::default() }
    }

    /// New keys of many series, beside `key_count` that are there, each for `ttl_s` seconds.
    pub fn time_series(key_count: u64, ttl_s: u64) -> Self {
        let (keys, update_share) = (KeyPattern::TimeSeries, 0.0);
        Workload { keys, key_count, update_share, ttl_s, ..Workload::default() }
    }

    /// Bytes of a key and its value.
    pub fn entry_bytes(&self) -> u64 {
        self.key_bytes + self.value_bytes
    }

    /// Refuses values out of range.
    pub fn validate(&self) -> Result<()> {
        let share = |name: &str, value: f64| {
            if (0.0..=1.0).contains(&value) {
                return Ok(());
            }
            Err(Error::invalid(format!("{name}={value} is not in 0..=1"))
                .advise("give it as a share, like 0.25"))
        };
        let range = |name: &str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::invalid(format!("{name}={value} is not in {min}..={max}"))
                .advise("describe a workload that can be"))
        };
        share("update_share", self.update_share)?;
        share("delete_share", self.delete_share)?;
        range("key_count", self.key_count, 1, 1 << 56)?;
        range("key_bytes", self.key_bytes, 1, KEY_LEN_MAX as u64)?;
        range("value_bytes", self.value_bytes, 0, 1 << 30)?;
        range("ingest_bytes_per_s", self.ingest_bytes_per_s, 1, 1 << 50)?;
        range("ttl_s", self.ttl_s, 0, u64::MAX / 4000)?;
        match self.keys {
            KeyPattern::Zipf { theta } if !(0.0..=4.0).contains(&theta) => {
                Err(Error::invalid(format!("theta={theta} is not in 0..=4"))
                    .advise("0.99 is usual, 0 is uniform"))
            }
            _ => Ok(()),
        }
    }
}

/// Keys that are written equally often.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Class {
    key_count: f64,
    /// The share of the pattern's writes that goes to one key of it.
    probability: f64,
}

/// Makes what memtables hold.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    workload: Workload,
    /// Of the keys that are there; then come those that are new.
    pattern: Vec<Class>,
    pub(crate) classes: Classes,
    /// Sequential keys: the first that may be alive, and the next to be written.
    first_position: u64,
    next_position: u64,
}

impl Source {
    /// The tree is empty, or about to be filled with [`Source::everything`].
    pub(crate) fn new(workload: &Workload) -> Self {
        let key_count = workload.key_count;
        let pattern = if let KeyPattern::Zipf { theta } = workload.keys {
            zipf_classes(key_count, theta)
        } else {
            let key_count = key_count as f64;
            vec![Class { key_count, probability: 1.0 / key_count }]
        };
        let classes = if workload.keys == KeyPattern::Sequential {
            vec![1.0]
        } else {
            let mut shares: Vec<f64> =
                pattern.iter().map(|class| class.key_count / SPACE as f64).collect();
            shares.push(1.0 - shares.iter().sum::<f64>());
            shares
        };
        Source {
            workload: workload.clone(),
            pattern,
            classes: classes.into(),
            first_position: 0,
            next_position: 0,
        }
    }

    pub(crate) fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The price of a write, whatever it is, by the prices of a put and a delete.
    pub(crate) fn mean(&self, put: f64, delete: f64) -> f64 {
        let deletes = self.workload.delete_share;
        put * (1.0 - deletes) + delete * deletes
    }

    pub(crate) fn user_bytes_per_write(&self, costs: &Costs) -> f64 {
        self.mean(costs.user.put, costs.user.delete)
    }

    /// All keys that are there at the start.
    pub(crate) fn everything(&mut self) -> Vec<Segment> {
        if self.workload.keys == KeyPattern::Sequential {
            self.next_position = self.workload.key_count;
            let shares = Box::new([Share { live: 1.0, dead: 0.0 }]);
            return vec![Segment { low: 0, high: self.next_position, shares }];
        }
        let mut shares = vec![Share { live: 1.0, dead: 0.0 }; self.pattern.len()];
        shares.push(Share::default());
        vec![Segment { low: 0, high: SPACE, shares: shares.into() }]
    }

    /// What is left of `writes` writes when, of each key, only the newest is kept.
    pub(crate) fn take(&mut self, writes: f64) -> Vec<Segment> {
        let deletes = writes * self.workload.delete_share;
        let new = (writes - deletes) * (1.0 - self.workload.update_share);
        let old = writes - new;
        let dead = if old > 0.0 { deletes / old } else { 0.0 };
        let share = |expected: f64| {
            let touched = -(-expected).exp_m1();
            Share { live: touched * (1.0 - dead), dead: touched * dead }
        };
        if self.workload.keys == KeyPattern::Sequential {
            return self.take_sequential(new, |width| share(old / width));
        }
        let mut shares: Vec<Share> =
            self.pattern.iter().map(|class| share(old * class.probability)).collect();
        let unborn = SPACE as f64 * self.classes[self.classes.len() - 1];
        shares.push(Share { live: new / unborn, dead: 0.0 });
        vec![Segment { low: 0, high: SPACE, shares: shares.into() }]
    }

    /// `new` keys after the last, and old ones, of which `share` says how many are touched in a
    /// range of some width.
    fn take_sequential(&mut self, new: f64, share: impl Fn(f64) -> Share) -> Vec<Segment> {
        let low = self.next_position;
        self.next_position += new.round() as u64;
        let mut runs = Vec::new();
        if self.next_position > low {
            let shares = Box::new([Share { live: 1.0, dead: 0.0 }]);
            runs.push(vec![Segment { low, high: self.next_position, shares }]);
        }
        let (first, end) = (self.first_position, self.next_position.max(1));
        let old = share((end - first) as f64);
        if old.live + old.dead > 0.0 {
            runs.push(vec![Segment { low: first, high: end, shares: Box::new([old]) }]);
        }
        union(&runs)
    }

    /// Sequential keys: the oldest are gone, only `alive` writes are left.
    pub(crate) fn forget_before(&mut self, alive: f64) {
        let oldest = self.next_position.saturating_sub(alive as u64);
        self.first_position = self.first_position.max(oldest);
    }
}

/// Ranks 1, 2..3, 4..7 and so on.
fn zipf_classes(key_count: u64, theta: f64) -> Vec<Class> {
    let mut classes = Vec::new();
    let mut first = 1u64;
    while first <= key_count {
        let last = (first * 2 - 1).min(key_count);
        let weight: f64 = if last <= EXACT_RANKS {
            (first..=last).map(|rank| (rank as f64).powf(-theta)).sum()
        } else {
            integral(first as f64 - 0.5, last as f64 + 0.5, theta)
        };
        let count = (last - first + 1) as f64;
        classes.push(Class { key_count: count, probability: weight / count });
        first = last + 1;
    }
    let total: f64 = classes.iter().map(|class| class.key_count * class.probability).sum();
    for class in &mut classes {
        class.probability /= total;
    }
    classes
}

/// Of `x^-theta`.
fn integral(from: f64, to: f64, theta: f64) -> f64 {
    let exponent = 1.0 - theta;
    if exponent.abs() < 1e-9 {
        return (to / from).ln();
    }
    (to.powf(exponent) - from.powf(exponent)) / exponent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::simulator::content::entries;

    fn taken(workload: &Workload, writes: f64) -> (f64, f64) {
        let mut source = Source::new(workload);
        let segments = source.take(writes);
        let sum = entries(&segments, &source.classes);
        (sum.live, sum.dead)
    }

    #[test]
    fn duplicates_within_a_memtable_are_written_once() {
        let (live, dead) = taken(&Workload::uniform(1_000_000), 500_000.0);
        let expected = 1e6 * (1.0 - (-0.5f64).exp());
        assert!((live - expected).abs() < 1.0 && dead == 0.0, "{live} of {expected}");
    }

    #[test]
    fn new_keys_are_never_duplicates() {
        let workload = Workload { update_share: 0.0, ..Workload::uniform(1000) };
        let (live, _) = taken(&workload, 500_000.0);
        assert!((live - 500_000.0).abs() < 1.0, "{live}");
        assert_eq!(taken(&Workload::sequential(1000), 500_000.0), (500_000.0, 0.0));
    }

    #[test]
    fn deletes_and_new_keys_have_their_shares() {
        let workload = Workload {
            update_share: 0.5,
            delete_share: 0.2,
            ..Workload::uniform(1_000_000_000_000)
        };
        let (live, dead) = taken(&workload, 1000.0);
        assert!((live - 800.0).abs() < 0.1 && (dead - 200.0).abs() < 0.1, "{live} {dead}");
    }

    /// Against the sum over all keys.
    #[test]
    fn zipfian_classes_give_the_distinct_keys_of_the_distribution() {
        let (keys, theta, writes) = (100_000u64, 0.99, 50_000.0);
        let weights: Vec<f64> = (1..=keys).map(|rank| (rank as f64).powf(-theta)).collect();
        let total: f64 = weights.iter().sum();
        let expected: f64 =
            weights.iter().map(|weight| 1.0 - (-writes * weight / total).exp()).sum();
        let (live, _) = taken(&Workload::zipf(keys, theta), writes);
        assert!((live / expected - 1.0).abs() < 0.01, "{live} of {expected}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let bad = Workload { update_share: 1.5, ..Workload::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("update_share=1.5"));
        let bad = Workload { key_count: 0, ..Workload::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("key_count=0"));
        let bad = Workload::zipf(10, -1.0);
        assert!(bad.validate().unwrap_err().to_string().contains("theta=-1"));
    }
}
