//! A tree of some size in the shape that its strategy leaves, without writing all of it.
//!
//! Where age does not matter, everything is put into the last level as one run. Then writes are
//! poured in, in portions that shrink from an eighth of the tree to a memtable, and after each
//! portion the strategy does all it wants: levels fill to their targets, stacks get their runs. A
//! portion is put into the level where a run of its size stands in most trees: a strategy that
//! finds it in the right place leaves it, others move it.
//!
//! Where age matters (keys come in the order of time, or expire), the writes of as long a time as
//! the tree remembers are poured in, in equal portions that take the time they would have taken,
//! and the last of them shrinking as above.

use crate::compaction::simulator::content::Segment;
use crate::compaction::simulator::run::Clockwork;
use crate::compaction::simulator::tree::Origin;
use crate::compaction::simulator::workload::KeyPattern;
use crate::error::Result;
use crate::version::LEVEL_COUNT;

/// When simulations begin, in Unix milliseconds: late enough for a long past.
pub(super) const EPOCH_MS: u64 = 1 << 50;

/// Equal portions of a past.
const PORTIONS: u32 = 48;

/// The first of the shrinking portions is such a part of the tree: half of what most strategies let
/// stand above the last level.
const FIRST_PART: f64 = 8.0;

/// Each portion is so many times smaller than the one before.
const SHRINKING: f64 = 4.0;

/// A level holds runs so many times larger than the level above.
const LEVEL_RATIO: f64 = 8.0;

/// The last portions are so many memtables each.
const MEMTABLES_MIN: f64 = 2.0;

/// How much longer than entries live the past is, so that some have expired.
const TTLS: f64 = 1.25;

/// Writes of keys chosen at random, for each key, after which nearly all keys are there.
const WRITES_PER_KEY: f64 = 3.0;

/// Fills the tree. See the module text.
pub(super) fn load(clockwork: &mut Clockwork) -> Result<()> {
    let workload = clockwork.source.workload().clone();
    let keys = workload.key_count as f64;
    let is_new = matches!(workload.keys, KeyPattern::Sequential | KeyPattern::TimeSeries);
    if !is_new && workload.ttl_s == 0 {
        let all = clockwork.source.everything();
        let origin = clockwork.origin(clockwork.tree.now_ms, clockwork.tree.now_ms);
        clockwork.tree.add_run(LEVEL_COUNT - 1, all, origin);
        return pour_shrinking(clockwork, keys / FIRST_PART);
    }
    let per_s = writes_per_s(clockwork);
    let remembered = match workload.ttl_s {
        0 => f64::INFINITY,
        ttl_s => ttl_s as f64 * per_s * TTLS,
    };
    let wanted = if is_new { keys } else { keys * WRITES_PER_KEY };
    let writes = wanted.min(remembered);
    let portion = writes / f64::from(PORTIONS);
    for _ in 0..PORTIONS {
        pour(clockwork, portion, 0)?;
    }
    pour_shrinking(clockwork, portion / SHRINKING)
}

fn writes_per_s(clockwork: &Clockwork) -> f64 {
    let user_bytes = clockwork.source.user_bytes_per_write(&clockwork.tree.costs);
    clockwork.source.workload().ingest_bytes_per_s as f64 / user_bytes.max(1.0)
}

/// Pours `writes` writes in, and then fewer and fewer.
fn pour_shrinking(clockwork: &mut Clockwork, mut writes: f64) -> Result<()> {
    let least = clockwork.memtable_writes_max() * MEMTABLES_MIN;
    while writes > least {
        let level = (writes / clockwork.memtable_writes_max()).log(LEVEL_RATIO) as usize;
        pour(clockwork, writes, level.min(LEVEL_COUNT - 2))?;
        writes /= SHRINKING;
    }
    Ok(())
}

/// Adds `writes` writes as one run of `level`, or of a higher one if that would pass anything, and
/// lets the strategy settle the tree.
fn pour(clockwork: &mut Clockwork, writes: f64, level: usize) -> Result<()> {
    let levels = &clockwork.tree.version.levels;
    let first_filled = levels.iter().position(|of_level| !of_level.runs.is_empty());
    let level = level.min(first_filled.unwrap_or(LEVEL_COUNT - 1));
    let since_ms = clockwork.tree.now_ms;
    clockwork.tree.now_ms += (writes / writes_per_s(clockwork) * 1e3) as u64;
    let segments: Vec<Segment> = clockwork.take(writes);
    let origin: Origin = clockwork.origin(since_ms, clockwork.tree.now_ms);
    clockwork.tree.add_run(level, segments, origin);
    clockwork.settle_at_once()
}
