//! How unevenly operations fall on keys: the share of the hottest keys, and the Zipf distribution that fits it.
//!
//! The counts of the sampled keys are exact, but which keys are sampled is chance, and one hot key more or less changes
//! much. Cold keys are many, so their share is known well from a sample; the share of the hot ones is what is left of
//! the operations, whose number is exact. This file knows nothing of traces.

use std::fmt;

/// Terms of a harmonic sum that are added one by one; the rest is an integral.
const EXACT_TERMS: u64 = 10_000;
/// The highest theta that is fitted.
const THETA_MAX: f64 = 3.0;
/// Operations that meet on a key, against what uniform choice would give, at which a distribution counts as skewed.
/// Zipf with theta 0.3 is about there.
const UNIFORM_COLLISIONS_MAX: f64 = 1.2;

/// How unevenly operations fall on keys.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct KeySkew {
    /// The share of operations on the hottest 1 % of the keys that were touched, in 0..=1. At least one key.
    pub hottest_1_percent_share: f64,
    /// The share of operations on the hottest 10 % of the keys that were touched, in 0..=1. At least one key.
    pub hottest_10_percent_share: f64,
    /// The theta of the Zipf distribution (the key of rank r is chosen in proportion to `1 / r^theta`) that gives the
    /// hottest 10 % their share. `None` where uniform choice fits as well.
    pub zipf_theta: Option<f64>,
}

impl KeySkew {
    /// The skew of `operations` operations, of which those on one key in `2^sample_shift` are known: `counts` says how
    /// many there were on each, in any order and without zeros.
    pub(crate) fn measure(mut counts: Vec<u64>, operations: u64, sample_shift: u32) -> KeySkew {
        if counts.is_empty() {
            return KeySkew::default();
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let scale = (1u64 << sample_shift) as f64;
        let share = |percent: usize| {
            let hot = (counts.len() * percent / 100).max(1);
            let cold: u64 = counts[hot..].iter().sum();
            (1.0 - cold as f64 * scale / operations.max(1) as f64).clamp(0.0, 1.0)
        };
        let hottest_10_percent_share = share(10);
        let zipf_theta = (!fits_uniform(&counts)).then(|| {
            let keys = (counts.len() as f64 * scale) as u64;
            let hot = (counts.len() * 10 / 100).max(1) as f64 * scale;
            fit_theta(keys, hot as u64, hottest_10_percent_share)
        });
        KeySkew { hottest_1_percent_share: share(1), hottest_10_percent_share, zipf_theta }
    }
}

impl fmt::Display for KeySkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1} % on the hottest 1 %, {:.1} % on the hottest 10 %; ",
            self.hottest_1_percent_share * 100.0,
            self.hottest_10_percent_share * 100.0
        )?;
        match self.zipf_theta {
            Some(theta) => write!(f, "zipf {theta:.2}"),
            None => f.write_str("uniform"),
        }
    }
}

/// Whether operations meet on keys no more often than uniform choice would make them. Unlike the share of the hottest
/// keys, this is not taken in by the luck of some keys when there are few operations on each.
fn fits_uniform(counts: &[u64]) -> bool {
    let operations = counts.iter().map(|&count| count as f64).sum::<f64>();
    let pairs: f64 = counts.iter().map(|&count| count as f64 * (count as f64 - 1.0)).sum();
    if pairs == 0.0 {
        return true;
    }
    let keys = uniform_keys(counts.len() as f64, operations);
    pairs / (operations * (operations - 1.0)) * keys <= UNIFORM_COLLISIONS_MAX
}

/// The number of keys of which `operations` uniform choices touch `touched`. Infinite for as many keys as operations.
fn uniform_keys(touched: f64, operations: f64) -> f64 {
    let touches = |keys: f64| -keys * (-operations / keys).exp_m1();
    let (mut low, mut high) = (touched, touched * operations.max(2.0));
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        if touches(middle) < touched { low = middle } else { high = middle }
    }
    low
}

/// The theta with which the hottest `hot` of `keys` keys get `share` of the operations.
fn fit_theta(keys: u64, hot: u64, share: f64) -> f64 {
    let share_of = |theta: f64| harmonic(hot, theta) / harmonic(keys, theta);
    let (mut low, mut high) = (0.0, THETA_MAX);
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if share_of(middle) < share { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// The sum of `1 / r^theta` for r in 1..=n.
fn harmonic(n: u64, theta: f64) -> f64 {
    let exact = n.min(EXACT_TERMS);
    let head: f64 = (1..=exact).map(|rank| (rank as f64).powf(-theta)).sum();
    // The integral from one half below the first missing term to one half above the last.
    let (from, to) = (exact as f64 + 0.5, n as f64 + 0.5);
    let exponent = 1.0 - theta;
    let tail = if exponent.abs() < 1e-9 {
        (to / from).ln()
    } else {
        (to.powf(exponent) - from.powf(exponent)) / exponent
    };
    head + tail
}

#[cfg(test)]
mod tests;
