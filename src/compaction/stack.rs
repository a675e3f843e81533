//! The runs of a tree as one stack, newest first, whatever their levels.
//!
//! Tiered strategies think in ages, not in levels: they merge adjacent runs of the stack, whole. So
//! a tree that another strategy left is a stack like any other, and no level is special but the
//! last: there the oldest run goes, where compression and filters by level expect it.
//!
//! # Where outputs go
//! To the place of the newest input, or, when the oldest run of the tree is among the inputs, to
//! the last level. Everything between the newest and the oldest input is an input too, so nothing
//! is passed.

use std::ops::Range;

use crate::compaction::draft::Draft;
use crate::compaction::{CompactionPlan, CompactionReason, TreeView};
use crate::table::{Table, TableMeta};
use crate::version::{LEVEL_COUNT, Run, RunId};

/// The level of the oldest run once it was merged.
const LAST: usize = LEVEL_COUNT - 1;

/// Tombstones with nothing below them are garbage worth a rewrite from one in so many entries on.
const GARBAGE_SHARE: u64 = 16;
/// Shadowed entries are, from one in so many entries on: the rewrite frees about that share.
const SHADOWED_SHARE: u64 = 4;

/// A run with its level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stacked<'a> {
    pub(super) level: usize,
    pub(super) run: &'a Run,
    /// No running compaction reads any of it.
    pub(super) is_idle: bool,
}

/// See the module text.
#[derive(Debug)]
pub(super) struct Stack<'a> {
    tree: &'a TreeView<'a>,
    /// Newest first.
    pub(super) runs: Vec<Stacked<'a>>,
}

impl<'a> Stack<'a> {
    pub(super) fn new(tree: &'a TreeView<'a>) -> Self {
        let is_idle = |run: &Run| run.tables.iter().all(|table| !tree.is_busy(table.meta().number));
        let levels = tree.version.levels.iter().enumerate();
        let runs = levels.flat_map(|(level, of_level)| {
            let stacked = move |run: &'a Run| Stacked { level, run, is_idle: is_idle(run) };
            of_level.runs.iter().map(move |run| stacked(run))
        });
        Stack { tree, runs: runs.collect() }
    }

    pub(super) fn bytes(&self, at: usize) -> u64 {
        self.runs[at].run.bytes()
    }

    /// The first run of those at the end of the stack that are all idle.
    pub(super) fn idle_suffix(&self) -> usize {
        self.runs.iter().rposition(|run| !run.is_idle).map_or(0, |busy| busy + 1)
    }

    /// The runs of a level.
    pub(super) fn of_level(&self, level: usize) -> Range<usize> {
        let start = self.runs.partition_point(|stacked| stacked.level < level);
        start..self.runs.partition_point(|stacked| stacked.level <= level)
    }

    /// Makes one run of `range`, in the place that the module text says.
    pub(super) fn merge(
        &self,
        range: Range<usize>,
        reason: CompactionReason,
    ) -> Option<CompactionPlan> {
        let inputs = &self.runs[range.clone()];
        let newest = inputs.first()?;
        if range.end < self.runs.len() {
            return self.merge_into(range, newest.level, newest.run.id, reason);
        }
        let joined = inputs.iter().find(|input| input.level == LAST).unwrap_or(newest);
        self.merge_into(range, LAST, joined.run.id, reason)
    }

    /// The run that what begins at `start`, above level `to`, makes there: newer than all of it.
    pub(super) fn newest_run(&self, to: usize, start: usize) -> RunId {
        let newest_there = self.runs[self.of_level(to)].first();
        let above = newest_there.map_or(0, |stacked| stacked.run.id.0.saturating_add(1));
        RunId(above.max(self.runs[start].run.id.0))
    }

    /// Makes one run of `range`: by a move if it is one run, or if no two tables meet and none
    /// holds a tombstone; else by a merge. `None` if part of it is busy, or the place where it would go.
    pub(super) fn merge_into(
        &self,
        range: Range<usize>,
        level: usize,
        run: RunId,
        reason: CompactionReason,
    ) -> Option<CompactionPlan> {
        let mut draft = Draft::default();
        for input in &self.runs[range] {
            input.is_idle.then_some(())?;
            draft.add(input.level, input.run, 0..input.run.tables.len());
        }
        let (low, high) = draft.key_range();
        if self.tree.is_run_output_busy(level, run, low, high) {
            return None;
        }
        let has_tombstones = || draft.tables().any(|table| table.meta().tombstone_count > 0);
        let is_merged = draft.inputs.len() == 1 || (draft.is_disjoint() && !has_tombstones());
        Some(if is_merged && draft.is_movable(self.tree.options, level) {
            draft.into_move(level, run, reason)
        } else {
            draft.into_merge(level, run, reason)
        })
    }

    /// Rewrites in place a table whose shadowed entries all can go; or, in `level_min` or below it,
    /// one that nothing lies under and whose tombstones all can go.
    pub(super) fn pick_garbage(&self, level_min: usize) -> Option<CompactionPlan> {
        for (at, &Stacked { level, run, .. }) in self.runs.iter().enumerate().rev() {
            let garbage = |table: &Table| {
                let meta = table.meta();
                self.is_unpinned(meta)
                    && (is_worth(meta.shadowed_count, SHADOWED_SHARE, meta)
                        || is_worth(meta.tombstone_count, GARBAGE_SHARE, meta)
                            && level >= level_min
                            && !self.is_over(at, table))
            };
            let Some(index) = run.tables.iter().position(|table| garbage(table)) else { continue };
            let mut draft = Draft::default();
            draft.add(level, run, index..index + 1);
            let (low, high) = draft.key_range();
            if !self.tree.is_run_output_busy(level, run.id, low, high) {
                return Some(draft.into_merge(level, run.id, CompactionReason::Garbage));
            }
        }
        None
    }

    /// Whether the table is idle, and every snapshot sees all of it: then one version of each key
    /// is enough for all of them.
    fn is_unpinned(&self, meta: &TableMeta) -> bool {
        meta.sequence_max <= self.tree.oldest_snapshot && !self.tree.is_busy(meta.number)
    }

    /// Whether `table`, of the run at `at`, meets an older run.
    fn is_over(&self, at: usize, table: &Table) -> bool {
        let (low, high) = (&table.meta().smallest, &table.meta().largest);
        self.runs[at + 1..].iter().any(|older| !older.run.overlapping(low, high).is_empty())
    }
}

/// Whether `count` entries are worth the rewrite of the table: at least one in `share`.
fn is_worth(count: u64, share: u64, meta: &TableMeta) -> bool {
    count > 0 && count.saturating_mul(share) >= meta.entry_count
}
