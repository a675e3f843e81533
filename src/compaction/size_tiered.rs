//! Size-tiered compaction: adjacent runs of similar size become one.
//!
//! The tree is a stack of runs, newest first ([`Stack`]). Flushes add small ones at the top; when
//! `merge_width` similar ones lie on each other they become one larger run, so that an entry is
//! rewritten about once each time the tree grows by that factor. Only runs adjacent in age are
//! merged: a read may stop at the first run that knows the key. This file only decides; it reads
//! nothing but table metadata and keeps no state.
//!
//! # What is picked, in order
//! 1. *Space*: when the newer runs together reach `space_percent_max` percent of the oldest one,
//!    everything becomes one run. If some newer runs are busy, those that are not must reach it
//!    without them.
//! 2. *Similar size*: from the newest on, the first `merge_width` runs or more of which each is at
//!    most `size_slack_percent` percent larger than the newer ones of them on average. Where their
//!    merge would be the last that a group of older runs waits for, these are taken along: bytes
//!    are written once instead of twice.
//! 3. *Run count*: when there are more than `runs_max`, the stretch that costs the fewest bytes for
//!    each run it removes. It is at least `merge_width` wide, else each flush would rewrite the
//!    same runs again.
//! 4. *Garbage*: shadowed entries, and tombstones in tables with nothing below them, once no
//!    snapshot needs any of a table's.
//!
//! Runs that meet nothing of each other are put into one run by an edit of the manifest.
//!
//! # Why it falls silent
//! Kinds 1 to 3 lower the number of runs, and one run is never picked. Kind 4 is chosen only if
//! *every* shadowed entry, or tombstone, of the table must go.
//!
//! # Debt
//! What arrived since work became due, not the size of that work: a merge of everything is large by
//! design, and no reason to slow writers.

use std::ops::Range;

use crate::compaction::stack::Stack;
use crate::compaction::{CompactionPlan, CompactionReason, CompactionStrategy, TreeView};
use crate::options::SizeTiered;

/// Writers stop at this many times `runs_max` runs in level 0.
const LEVEL0_BACKLOG: usize = 3;

impl CompactionStrategy for SizeTiered {
    fn name(&self) -> &'static str {
        "size_tiered"
    }

    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan> {
        let stack = Stack::new(tree);
        self.pick_space(&stack)
            .or_else(|| self.pick_similar(&stack))
            .or_else(|| self.pick_run_count(&stack))
            .or_else(|| stack.pick_garbage(0))
    }

    fn debt_bytes(&self, tree: &TreeView<'_>) -> u64 {
        let stack = Stack::new(tree);
        let sizes: Vec<u64> = stack.runs.iter().map(|stacked| stacked.run.bytes()).collect();
        let Some((oldest, newer)) = sizes.split_last() else { return 0 };
        let over_space = newer.iter().sum::<u64>().saturating_sub(self.newer_bytes_max(*oldest));
        let surplus_runs = sizes.len().saturating_sub(self.runs_max);
        over_space.max(sizes[..surplus_runs].iter().sum())
    }

    fn level0_runs_max(&self) -> Option<usize> {
        Some(self.runs_max * LEVEL0_BACKLOG)
    }
}

impl SizeTiered {
    /// How many bytes the runs above an oldest one of `oldest_bytes` may have.
    fn newer_bytes_max(&self, oldest_bytes: u64) -> u64 {
        let bytes = u128::from(oldest_bytes) * u128::from(self.space_percent_max) / 100;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn pick_space(&self, stack: &Stack<'_>) -> Option<CompactionPlan> {
        let oldest = stack.runs.len().checked_sub(1)?;
        let start = stack.idle_suffix();
        let newer: u64 = (start..oldest).map(|at| stack.bytes(at)).sum();
        (start < oldest && newer >= self.newer_bytes_max(stack.bytes(oldest)))
            .then(|| stack.merge(start..oldest + 1, CompactionReason::SpaceAmplification))?
    }

    fn pick_similar(&self, stack: &Stack<'_>) -> Option<CompactionPlan> {
        let mut stretches = (0..stack.runs.len()).map(|start| self.similar_from(stack, start));
        stretches.find_map(|stretch| {
            (stretch.len() >= self.merge_width)
                .then(|| stack.merge(stretch, CompactionReason::SimilarRuns))?
        })
    }

    /// From `start` on: similar runs, and with them those that their merge would complete the next
    /// such group of; as long as they are idle. Too few to be merged if it is less than a group.
    fn similar_from(&self, stack: &Stack<'_>, start: usize) -> Range<usize> {
        let mut end = self.similar_end(stack, start, 0);
        if end - start < self.merge_width {
            return start..end;
        }
        loop {
            let bytes = (start..end).map(|at| stack.bytes(at)).sum::<u64>().max(1);
            let next_end = self.similar_end(stack, end, bytes);
            if next_end - end + 1 < self.merge_width {
                return start..end;
            }
            end = next_end;
        }
    }

    /// The end of the idle runs from `start` on that are each similar to the newer ones among them
    /// and to one of `bytes_above`, if that is not 0.
    fn similar_end(&self, stack: &Stack<'_>, start: usize, bytes_above: u64) -> usize {
        let mut bytes = u128::from(bytes_above);
        let mut count = u128::from(bytes_above > 0);
        let mut end = start;
        while let Some(next) = stack.runs.get(end).filter(|next| next.is_idle) {
            let next = u128::from(next.run.bytes());
            let slack = u128::from(100 + self.size_slack_percent);
            if count > 0 && next * 100 * count > bytes * slack {
                break;
            }
            bytes += next;
            count += 1;
            end += 1;
        }
        end
    }

    fn pick_run_count(&self, stack: &Stack<'_>) -> Option<CompactionPlan> {
        let surplus = stack.runs.len().checked_sub(self.runs_max).filter(|surplus| *surplus > 0)?;
        let width_min = self.merge_width.max(surplus + 1);
        let mut best: Option<(u64, Range<usize>)> = None;
        for start in 0..stack.runs.len() {
            let idle = stack.runs[start..].iter().take_while(|run| run.is_idle).count();
            let mut bytes = 0;
            for end in start + 1..=start + idle {
                bytes += stack.bytes(end - 1);
                if end - start < width_min {
                    continue;
                }
                let per_removed = bytes / (end - start - 1) as u64;
                if best.as_ref().is_none_or(|(least, _)| per_removed < *least) {
                    best = Some((per_removed, start..end));
                }
            }
        }
        stack.merge(best?.1, CompactionReason::RunCount)
    }
}

#[cfg(test)]
mod tests;
