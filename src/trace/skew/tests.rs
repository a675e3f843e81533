//! Shares counted by hand, and distributions that are known.

use super::*;

/// A small deterministic generator (splitmix64), in 0..1.
fn random(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Counts of `operations` Zipf choices among `keys`; theta 0 is uniform.
fn zipf(keys: usize, operations: usize, theta: f64) -> Vec<u64> {
    let mut sums = Vec::with_capacity(keys);
    let mut sum = 0.0;
    for rank in 1..=keys {
        sum += (rank as f64).powf(-theta);
        sums.push(sum);
    }
    let mut counts = vec![0u64; keys];
    let mut state = 7;
    for _ in 0..operations {
        let at = random(&mut state) * sum;
        counts[sums.partition_point(|&below| below <= at).min(keys - 1)] += 1;
    }
    counts
}

fn touched(counts: &[u64]) -> Vec<u64> {
    counts.iter().copied().filter(|&count| count > 0).collect()
}

fn theta_of(keys: usize, operations: usize, theta: f64) -> Option<f64> {
    let counts = touched(&zipf(keys, operations, theta));
    KeySkew::measure(counts, operations as u64, 0).zipf_theta
}

#[test]
fn shares_of_the_hottest_keys_are_exact() {
    // 200 keys; the hottest two have 30 and 20 of 266 operations, the next 18 one more than the others.
    let mut counts = vec![1u64; 180];
    counts.extend([2; 18]);
    counts.extend([20, 30]);
    let skew = KeySkew::measure(counts, 266, 0);
    assert_eq!(skew.hottest_1_percent_share, 1.0 - 216.0 / 266.0);
    assert_eq!(skew.hottest_10_percent_share, 1.0 - 180.0 / 266.0);
    assert!(skew.zipf_theta.is_some());
    assert_eq!(KeySkew::measure(Vec::new(), 0, 0), KeySkew::default());
    let single = KeySkew::measure(vec![5], 5, 0);
    assert_eq!((single.hottest_1_percent_share, single.zipf_theta), (1.0, None));
}

#[test]
fn uniform_is_not_taken_for_skew_however_few_operations_there_are() {
    for operations in [2_000, 10_000, 1_000_000] {
        assert_eq!(theta_of(10_000, operations, 0.0), None, "{operations} operations");
    }
    assert_eq!(theta_of(10_000, 500_000, 0.1), None, "near enough");
}

#[test]
fn theta_is_found_again() {
    for theta in [0.5, 0.8, 0.99, 1.2] {
        let found = theta_of(10_000, 2_000_000, theta).unwrap();
        assert!((found - theta).abs() < 0.03, "{found} for {theta}");
        let found = theta_of(10_000, 20_000, theta).unwrap();
        assert!((found - theta).abs() < 0.15, "{found} for {theta} from few operations");
    }
}

#[test]
fn a_sample_of_keys_gives_about_the_shares_of_all() {
    let (keys, operations) = (100_000, 2_000_000);
    for theta in [0.0, 0.8, 0.99] {
        let counts = zipf(keys, operations, theta);
        let all = KeySkew::measure(touched(&counts), operations as u64, 0);
        let sample: Vec<u64> = counts.iter().skip(13).step_by(16).copied().collect();
        let sampled = KeySkew::measure(touched(&sample), operations as u64, 4);
        let differ = (all.hottest_10_percent_share - sampled.hottest_10_percent_share).abs();
        assert!(differ < 0.02, "{all} against {sampled}");
        let differ = (all.hottest_1_percent_share - sampled.hottest_1_percent_share).abs();
        assert!(differ < 0.02, "{all} against {sampled}");
        match (all.zipf_theta, sampled.zipf_theta) {
            (None, None) => assert_eq!(theta, 0.0),
            (Some(all), Some(sampled)) => assert!((all - sampled).abs() < 0.05),
            _ => panic!("{all} against {sampled}"),
        }
    }
}

#[test]
fn long_harmonic_sums_are_close() {
    for theta in [0.0, 0.5, 0.99, 1.0, 1.5] {
        let direct: f64 = (1..=100_000u64).map(|rank| (rank as f64).powf(-theta)).sum();
        assert!((harmonic(100_000, theta) / direct - 1.0).abs() < 1e-9, "theta {theta}");
    }
}
