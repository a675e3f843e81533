//! Lazy-leveled compaction: tiered above, one run in the last level.
//!
//! Most of the bytes, and so most of the dead versions, of a tree are in its last level; most of
//! the writing of leveled compaction is not. So the levels above the last hold up to
//! `runs_per_level` runs each, as in a tiered tree, and only the last level is kept as one run
//! (Dostoevsky, SIGMOD 2018). This file only decides; it reads nothing but table metadata and keeps
//! no state.
//!
//! # What is picked, in order
//! 1. *Stacked runs*: a last level with several runs (another strategy left them) becomes one run.
//! 2. *A full level*, the uppermost: all its runs become one run of the next level. A level that
//!    this would fill is taken along, so that bytes are written once instead of twice. When all
//!    that lies above the last level is as large as the last level divided by `last_level_fanout`,
//!    everything is merged into the last level instead. A level above the last that fills up
//!    before that becomes one run where it is.
//! 3. *Within level 0*: while a compaction out of level 0 runs, newer runs wait for it, since
//!    nothing may pass. When they alone would fill level 0 they become one run of it.
//! 4. *Garbage*: shadowed entries, and tombstones in tables with nothing below them, once no
//!    snapshot needs any of a table's.
//!
//! # Why it falls silent
//! Kinds 1 to 3 lower the number of runs. Kind 4 is chosen only if *every* shadowed entry,
//! or tombstone, of the table must go.
//!
//! # Debt
//! The newest runs of each level, as many as it has too many: what arrived since work became due.

use std::ops::Range;

use crate::compaction::stack::Stack;
use crate::compaction::{CompactionPlan, CompactionReason, CompactionStrategy, TreeView};
use crate::options::LazyLeveled;
use crate::version::LEVEL_COUNT;

/// The last level.
const LAST: usize = LEVEL_COUNT - 1;

/// Writers stop at this many times `runs_per_level` runs in level 0, but not below the other number.
const LEVEL0_BACKLOG: usize = 5;
const LEVEL0_RUNS_MAX_MIN: usize = 20;

impl CompactionStrategy for LazyLeveled {
    fn name(&self) -> &'static str {
        "lazy_leveled"
    }

    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan> {
        let stack = Stack::new(tree);
        pick_stacked(&stack)
            .or_else(|| (0..LAST).find_map(|level| self.pick_full(&stack, level)))
            .or_else(|| self.pick_within_level0(&stack))
            .or_else(|| stack.pick_garbage(1))
    }

    fn debt_bytes(&self, tree: &TreeView<'_>) -> u64 {
        let levels = tree.version.levels.iter().enumerate();
        let surplus = levels.map(|(number, level)| {
            let room = if number == LAST { 1 } else { self.runs_per_level - 1 };
            let surplus = level.runs.len().saturating_sub(room);
            level.runs[..surplus].iter().map(|run| run.bytes()).sum::<u64>()
        });
        surplus.sum()
    }

    fn level0_runs_max(&self) -> Option<usize> {
        Some((self.runs_per_level * LEVEL0_BACKLOG).max(LEVEL0_RUNS_MAX_MIN))
    }
}

/// Makes one run of a last level that has several.
fn pick_stacked(stack: &Stack<'_>) -> Option<CompactionPlan> {
    let range = stack.of_level(LAST);
    (range.len() > 1).then(|| stack.merge(range, CompactionReason::LevelBytes))?
}

impl LazyLeveled {
    /// Merges the runs of `level` down, if it is full of idle ones.
    fn pick_full(&self, stack: &Stack<'_>, level: usize) -> Option<CompactionPlan> {
        let of_level = stack.of_level(level);
        let idle = stack.runs[of_level.clone()].iter().rev().take_while(|run| run.is_idle).count();
        if idle < self.runs_per_level {
            return None;
        }
        let start = of_level.end - idle;
        let reason =
            if level == 0 { CompactionReason::Level0Runs } else { CompactionReason::LevelBytes };
        let last = stack.of_level(LAST);
        let bytes_of = |range: Range<usize>| range.map(|at| stack.bytes(at)).sum::<u64>();
        let above = bytes_of(start..last.start);
        if above.saturating_mul(self.last_level_fanout) >= bytes_of(last.clone()) {
            return stack.merge(start..last.end, reason);
        }
        let (mut end, mut to) = (of_level.end, level);
        while to < LAST - 1 {
            to += 1;
            let next = stack.of_level(to);
            let is_idle = stack.runs[next.clone()].iter().all(|run| run.is_idle);
            // One run more does not fill it, or it is being emptied already.
            if next.len() + 1 < self.runs_per_level || !is_idle {
                break;
            }
            end = next.end;
        }
        stack.merge_into(start..end, to, stack.newest_run(to, start), reason)
    }

    /// Merges the newest runs of level 0 while the oldest is busy.
    fn pick_within_level0(&self, stack: &Stack<'_>) -> Option<CompactionPlan> {
        let of_level = stack.of_level(0);
        let idle = stack.runs[of_level.clone()].iter().take_while(|run| run.is_idle).count();
        (idle >= self.runs_per_level && idle < of_level.len())
            .then(|| stack.merge(0..idle, CompactionReason::IntraLevel0))?
    }
}

#[cfg(test)]
mod tests;
