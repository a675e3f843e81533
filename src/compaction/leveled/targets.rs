//! Level targets: how many levels a leveled tree of some size has, and how much each should hold.

use crate::options::{KeyspaceOptions, Leveled};
use crate::version::LEVEL_COUNT;

/// The last level.
pub(super) const LAST: usize = LEVEL_COUNT - 1;

/// The base level holds at most this many times what a full level 0 holds.
const BASE_PER_LEVEL0: u64 = 2;

/// No level above the last one is planned to hold more than this share of the tree: it bounds the
/// space that shadowed versions take.
const UPPER_SHARE: u64 = 3;

/// How many bytes each level should hold.
///
/// Let *level-0 bytes* be a full level 0: `l0_runs` memtables. Merging it straight into the last
/// level writes the whole tree for each level-0 bytes written, so from [`UPPER_SHARE`] times that
/// (or of `base_bytes`) on there is a base level in between. Its target is the share of the tree,
/// at most [`BASE_PER_LEVEL0`] times the level-0 bytes, and at most `base_bytes`. Between it and
/// the last level stand as many as the fanout asks for, at equal ratios. Level 0 itself does not
/// count as part of the tree: a backlog there must not raise the targets and so hide itself
/// (`RocksDB` issue 9423).
pub(super) struct Targets {
    /// The level that level 0 is merged into.
    pub(super) base: usize,
    /// Per level; `u64::MAX` where there is no bound: level 0 and the last.
    pub(super) bytes: [u64; LEVEL_COUNT],
}

impl Targets {
    #[expect(clippy::cast_sign_loss, reason = "products of positive numbers")]
    pub(super) fn new(
        leveled: &Leveled,
        options: &KeyspaceOptions,
        bytes: &[u64; LEVEL_COUNT],
    ) -> Self {
        let tree_bytes: u64 = bytes[1..].iter().sum();
        let level0_bytes = options.memtable_bytes.saturating_mul(leveled.l0_runs as u64);
        let base_max = leveled.base_bytes.min(level0_bytes.saturating_mul(BASE_PER_LEVEL0));
        let base_min = leveled.base_bytes.min(level0_bytes);
        let fanout = leveled.fanout as f64;

        let mut upper_levels = 0;
        if tree_bytes / UPPER_SHARE >= base_min {
            upper_levels = 1;
            while upper_levels < LAST - 1
                && tree_bytes as f64 > base_max as f64 * fanout.powf(upper_levels as f64)
            {
                upper_levels += 1;
            }
        }
        // A level that is there is used, be it planned or not: level 0 must not pass it. It empties
        // by being merged.
        let first_filled = (1..LAST).find(|level| bytes[*level] > 0).unwrap_or(LAST);
        let base = first_filled.min(LAST - upper_levels);

        let mut targets = [u64::MAX; LEVEL_COUNT];
        let base_target = base_max.min(tree_bytes / UPPER_SHARE).max(1);
        let ratio =
            (tree_bytes as f64 / base_target as f64).powf(1.0 / (LAST - base).max(1) as f64);
        for (above, target) in targets[base..LAST].iter_mut().enumerate() {
            *target = (base_target as f64 * ratio.powf(above as f64)) as u64;
        }
        Targets { base, bytes: targets }
    }
}
