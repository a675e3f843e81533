//! Time-window compaction: what was written in one window of time becomes one run, and is merged
//! with nothing else.
//!
//! For time series: entries expire in about the order in which they were written, so a table that
//! holds one window expires as a whole and is dropped without being read
//! (`CompactionReason::Expired`; any strategy's tables are). This file only decides; it reads
//! nothing but table metadata and keeps no state.
//!
//! # Windows
//! A window is `window_s` seconds long and begins at a multiple of it since 1970. A run belongs to
//! the window in which its newest entry was written, but never to an older one than the runs below
//! it, so that the windows of the stack ([`Stack`]) follow each other whatever the clock did. A
//! memtable in which a window ends, and what another strategy merged before, thus counts as a whole
//! for its newest entry. The *current* window is that of the present moment, together with all
//! later ones (a clock that was set back); all others are *past*.
//!
//! # Where runs live
//! The current window lives in the upper levels, as another strategy or the flushes left it: tiers
//! of runs in level 0. Each past window is *sealed*: it is a run of the last level, newer windows
//! before older ones. So the number of windows slows no writer, and compression and filters of the
//! last level serve the data that rests.
//!
//! # What is picked, in order
//! 1. *Similar size*: from the newest run of the current window on, the first `merge_width` or more
//!    of which each is at most twice as large as the largest newer one of them. Where their merge
//!    would be the last that a group of older runs waits for, these are taken along: bytes are
//!    written once instead of twice. In the second half of a window it takes twice as many: what is
//!    merged then is written again soon, when the window is sealed, and pays for less time.
//! 2. *A past window*, the oldest that is not sealed: all its runs become one in the last level,
//!    whatever their sizes. This is done once for a window. One run is moved by an edit of the
//!    manifest, and so are runs that meet nothing of each other.
//! 3. *Windows of several sealed runs*: they come from late data, or from shorter windows. A run is
//!    merged into the next older one of its window when it has at least a quarter of its bytes.
//! 4. *Garbage*: shadowed entries, and tombstones in tables with nothing below them, once no
//!    snapshot needs any of a table's.
//!
//! # Late data
//! Write times follow the order of writing, so hardly anything is late: a memtable that was flushed
//! after its window was sealed, or one under a clock that was set back within a window. Such a run
//! is sealed like any other, and rule 3 is held against it at once, within the same plan: if it is
//! small it stays beside the large run of its window. So a late byte makes at most four others be
//! written again when it is merged into an older run, and that makes its run more than five times
//! as large: it happens log5 times of what the window has, and the large run is spared until it is
//! worth it. The runs of a window grow fourfold with age, so there are no more than log4 of them.
//!
//! # Why it falls silent
//! Kinds 1 to 3 lower the number of runs, or move a run down to the last level, where only kind 3
//! takes it up again. Kind 4 is chosen only if *every* shadowed entry, or
//! tombstone, of the table must go. Time alone makes work only by ending the current window, and
//! [`TimeWindow::due_at_ms`] tells when.
//!
//! # Debt
//! While two past windows wait to be sealed: what arrived since the later one was over. Sealing one
//! window is large by design, and no reason to slow writers; writers that outrun it are slowed
//! before windows pile up.

use std::ops::Range;

use crate::compaction::stack::Stack;
use crate::compaction::{CompactionPlan, CompactionReason, CompactionStrategy, TreeView};
use crate::options::TimeWindow;
use crate::version::{LEVEL_COUNT, Run};

/// The level of sealed windows.
const LAST: usize = LEVEL_COUNT - 1;

/// A sealed run is written again only together with at least one in so many of its bytes. Less
/// would let a trickle of late data rewrite large windows; more would leave windows as several runs
/// that reads must look at until they expire.
const LATE_SHARE: u64 = 4;

/// Writers stop at this many times `merge_width` runs in level 0. Far above what a current window
/// has when compaction keeps up (`merge_width` for each tier), because one that is large keeps a
/// thread busy for long when it is sealed, and flushes pile up harmlessly meanwhile.
const LEVEL0_BACKLOG: usize = 40;

impl CompactionStrategy for TimeWindow {
    fn name(&self) -> &'static str {
        "time_window"
    }

    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan> {
        let windows = self.windows(tree);
        windows
            .pick_similar(self.merge_width_at(tree.now_ms))
            .or_else(|| windows.pick_past())
            .or_else(|| windows.pick_divided())
            .or_else(|| windows.stack.pick_garbage(1))
    }

    fn debt_bytes(&self, tree: &TreeView<'_>) -> u64 {
        let windows = self.windows(tree);
        let past = windows.current_end..windows.sealed_start;
        match windows.of_run[past].iter().min_by_key(|window| **window) {
            Some(oldest) if windows.of_run[windows.current_end] > *oldest => {
                windows.bytes(0..windows.current_end)
            }
            _ => 0,
        }
    }

    fn level0_runs_max(&self) -> Option<usize> {
        Some(self.merge_width * LEVEL0_BACKLOG)
    }

    fn due_at_ms(&self, tree: &TreeView<'_>) -> Option<u64> {
        let windows = self.windows(tree);
        let oldest = windows.sealed_start.checked_sub(1)?;
        let next = windows.of_run[oldest].saturating_add(1);
        (oldest < windows.current_end).then(|| next.saturating_mul(self.window_ms()))
    }
}

impl TimeWindow {
    fn window_ms(&self) -> u64 {
        self.window_s.saturating_mul(1000).max(1)
    }

    /// How many similar runs are merged: in the second half of a window twice as many as in the
    /// first.
    fn merge_width_at(&self, now_ms: u64) -> usize {
        let is_late = now_ms % self.window_ms() >= self.window_ms().div_ceil(2);
        if is_late { 2 * self.merge_width } else { self.merge_width }
    }

    fn windows<'a>(&self, tree: &'a TreeView<'a>) -> Windows<'a> {
        let stack = Stack::new(tree);
        let mut of_run = vec![0; stack.runs.len()];
        let mut newest = 0;
        for (window, stacked) in of_run.iter_mut().zip(&stack.runs).rev() {
            newest = newest.max(written_ms(stacked.run) / self.window_ms());
            *window = newest;
        }
        let current = tree.now_ms / self.window_ms();
        let sealed_start = stack.of_level(LAST).start;
        let current_end = of_run[..sealed_start].partition_point(|window| *window >= current);
        Windows { stack, of_run, current, current_end, sealed_start }
    }
}

/// When the newest entry was written.
fn written_ms(run: &Run) -> u64 {
    run.tables.iter().map(|table| table.meta().write_time_max_ms).max().unwrap_or(0)
}

/// The stack with its windows.
struct Windows<'a> {
    stack: Stack<'a>,
    /// The window of each run; none is newer than one before it.
    of_run: Vec<u64>,
    current: u64,
    /// Before here runs are of the current window and not sealed.
    current_end: usize,
    /// From here on runs are sealed. Those between are of past windows, to be sealed.
    sealed_start: usize,
}

impl Windows<'_> {
    fn bytes(&self, range: Range<usize>) -> u64 {
        range.map(|at| self.stack.bytes(at)).sum()
    }

    fn is_idle(&self, at: usize) -> bool {
        self.stack.runs[at].is_idle
    }

    fn pick_similar(&self, merge_width: usize) -> Option<CompactionPlan> {
        let mut stretches = (0..self.current_end).map(|start| self.similar(start, merge_width));
        stretches.find_map(|stretch| {
            let newest = self.stack.runs[stretch.start];
            let (level, run) = (newest.level, newest.run.id);
            (stretch.len() >= merge_width).then(|| {
                self.stack.merge_into(stretch, level, run, CompactionReason::SimilarRuns)
            })?
        })
    }

    /// From `start` on: similar runs, and with them those that their merge would complete the next
    /// such group of. Too few to be merged if it is less than a group.
    fn similar(&self, start: usize, merge_width: usize) -> Range<usize> {
        let mut end = self.similar_end(start, 0);
        if end - start < merge_width {
            return start..end;
        }
        loop {
            let next_end = self.similar_end(end, self.bytes(start..end));
            if next_end - end + 1 < merge_width {
                return start..end;
            }
            end = next_end;
        }
    }

    /// The end of the idle runs from `start` on of which none is more than twice as large as the
    /// largest before it, one of `largest` bytes being the first if that is not 0.
    fn similar_end(&self, start: usize, mut largest: u64) -> usize {
        let mut end = start;
        while end < self.current_end && self.is_idle(end) {
            let bytes = self.stack.bytes(end);
            if largest > 0 && bytes > largest.saturating_mul(2) {
                break;
            }
            largest = largest.max(bytes);
            end += 1;
        }
        end
    }

    /// Seals the oldest window that is past and not sealed. A newer one waits for it, because
    /// nothing may pass it on its way down.
    fn pick_past(&self) -> Option<CompactionPlan> {
        let past = self.current_end..self.sealed_start;
        let oldest = *self.of_run[past.clone()].last()?;
        let newer = self.of_run[past.clone()].partition_point(|window| *window > oldest);
        let start = past.start + newer;
        self.seal(start..self.sealed_end(start, past.end))
    }

    /// Merges sealed runs of a past window that are large enough for each other.
    fn pick_divided(&self) -> Option<CompactionPlan> {
        let sealed = self.sealed_start..self.stack.runs.len();
        let past = sealed.filter(|at| self.of_run[*at] < self.current && self.is_idle(*at));
        past.map(|start| start..self.sealed_end(start, start + 1))
            .find_map(|range| (range.len() > 1).then(|| self.seal(range))?)
    }

    /// The end of `start..end` with the sealed runs after it that are of the same window and not
    /// too large to be merged with all before them.
    fn sealed_end(&self, start: usize, mut end: usize) -> usize {
        let mut bytes = self.bytes(start..end);
        while end < self.stack.runs.len()
            && self.of_run[end] == self.of_run[start]
            && self.is_idle(end)
            && bytes.saturating_mul(LATE_SHARE) >= self.stack.bytes(end)
        {
            bytes += self.stack.bytes(end);
            end += 1;
        }
        end
    }

    fn seal(&self, range: Range<usize>) -> Option<CompactionPlan> {
        let newest = self.stack.runs[range.start];
        let run = match newest.level {
            LAST => newest.run.id,
            _ => self.stack.newest_run(LAST, range.start),
        };
        self.stack.merge_into(range, LAST, run, CompactionReason::PastWindow)
    }
}

#[cfg(test)]
mod tests;
