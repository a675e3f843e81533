//! Leveled compaction: one sorted run in each level below 0.
//!
//! Flushes stack runs in level 0. When there are enough of them they are merged, all at once, into
//! the *base level*; levels from there down grow by a constant factor; the last one holds nearly
//! everything. This file only decides; it reads nothing but table metadata and keeps no state.
//!
//! # Level targets
//! See [`Targets`]. A small tree has no level between 0 and the last. Levels are added above the
//! last one as the tree grows, and only as many as the fanout asks for.
//!
//! # What is picked, in order
//! 1. *Stacked runs*: a level below 0 with several runs (another strategy left them) becomes one
//!    run.
//! 2. *Scores*: the fill of a level (level 0: its runs against `l0_runs`) divided by the fill of
//!    the next level, so that a level about to receive much is emptied first. From the highest:
//!    * level 0: all idle runs from the oldest on, with what they meet in the base level. Where the
//!      base level would overflow, it is taken along into the next one: the bytes are written once
//!      instead of twice. Runs that meet nothing are moved, not merged. When the base level is
//!      busy, or is out of all proportion to what level 0 holds, the newest runs are merged within
//!      level 0 instead.
//!    * below: the stretch of tables that meets least in the next level for what it moves; moved if
//!      it meets nothing. A level that fits into one plan with all it meets is emptied at once,
//!      because a level that fills up again from empty holds, on average, half as much for level 0
//!      to be merged with.
//! 3. *Tombstones*: tables that are mostly tombstones go down early if they free a good part of
//!    what that costs.
//! 4. *Garbage*: shadowed entries, and tombstones in tables with nothing below them, once no
//!    snapshot needs any of a table's.
//!
//! # Why it falls silent
//! A plan of kind 1 or 2 lowers the number of runs or moves bytes down towards levels whose target
//! they fit; the last level has no target. Kind 3 moves down. Kind 4 is chosen only if *every*
//! shadowed entry, or tombstone, of the table must go.

mod stretch;
mod targets;

use std::ops::Range;
use std::sync::Arc;

use crate::compaction::draft::{Draft, is_movable, overlapping, table_bytes};
use crate::compaction::stack::Stack;
use crate::compaction::{CompactionPlan, CompactionReason, CompactionStrategy, TreeView};
use crate::options::Leveled;
use crate::table::Table;
use crate::version::{LEVEL_COUNT, Run, RunId, Version};
use targets::{LAST, Targets};

/// A plan reads at most this many tables' worth of bytes where it has a choice: it bounds the space
/// that a compaction takes on top of the tree, and the time until its inputs are free again.
const PLAN_TABLES_MAX: u64 = 32;

/// Level 0 is merged within itself when what it meets in the base level is this many times larger
/// (and than `fanout`).
const DISPROPORTION_MIN: u64 = 10;

/// A tombstone-rich table goes down early if it frees at least one in so many bytes of the cost.
const TOMBSTONE_GAIN: u64 = 4;

/// Writers stop at this many times `l0_runs` runs in level 0, but not below the other number.
const LEVEL0_BACKLOG: usize = 5;
const LEVEL0_RUNS_MAX_MIN: usize = 20;

/// Fewer runs than this are not merged within level 0 while the base level is busy.
const INTRA_LEVEL0_RUNS_MIN: usize = 4;

impl CompactionStrategy for Leveled {
    fn name(&self) -> &'static str {
        "leveled"
    }

    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan> {
        let shape = Shape::new(self, tree);
        if shape.is_stacked() {
            // All other picks count on one run for each level, so they wait for it.
            return shape.pick_stacked().or_else(|| shape.pick_intra_level0(true));
        }
        shape
            .pick_by_score()
            .or_else(|| shape.pick_tombstones())
            .or_else(|| Stack::new(tree).pick_garbage(shape.targets.base))
    }

    /// Far above what compaction leaves when it keeps up; small runs pile up without much debt.
    fn level0_runs_max(&self) -> Option<usize> {
        Some((self.l0_runs * LEVEL0_BACKLOG).max(LEVEL0_RUNS_MAX_MIN))
    }

    /// Level 0, once it is full, with what it is merged into; then each level's excess with the
    /// share of the next level that it meets, carried down. Bytes that a running compaction reads
    /// are counted until it is done.
    fn debt_bytes(&self, tree: &TreeView<'_>) -> u64 {
        let shape = Shape::new(self, tree);
        let level0 = shape.bytes[0];
        let mut debt = 0;
        let mut incoming = 0;
        if shape.level0_fill(tree.version.levels[0].runs.len(), level0) >= 1.0 {
            debt = level0 + shape.bytes[shape.targets.base];
            incoming = level0;
        }
        for level in shape.targets.base..LAST {
            let bytes = shape.bytes[level] + incoming;
            let excess = bytes.saturating_sub(shape.targets.bytes[level]);
            if excess > 0 {
                let met =
                    u128::from(excess) * u128::from(shape.bytes[level + 1]) / u128::from(bytes);
                debt += excess + met as u64;
            }
            incoming = excess;
        }
        debt
    }
}

/// One look at a tree: what the picks share.
struct Shape<'a> {
    tree: &'a TreeView<'a>,
    leveled: &'a Leveled,
    /// Of all tables, by level.
    bytes: [u64; LEVEL_COUNT],
    targets: Targets,
    plan_bytes_max: u64,
}

impl<'a> Shape<'a> {
    fn new(leveled: &'a Leveled, tree: &'a TreeView<'a>) -> Self {
        let mut bytes = [0; LEVEL_COUNT];
        for (bytes, level) in bytes.iter_mut().zip(&tree.version.levels) {
            *bytes = level.bytes();
        }
        Shape {
            tree,
            leveled,
            bytes,
            targets: Targets::new(leveled, tree.options, &bytes),
            plan_bytes_max: tree.options.table_bytes.saturating_mul(PLAN_TABLES_MAX),
        }
    }

    fn version(&self) -> &'a Version {
        self.tree.version
    }

    /// The one run of a level below 0.
    fn run(&self, level: usize) -> Option<&'a Run> {
        self.version().levels[level].runs.first().map(Arc::as_ref)
    }

    fn is_idle(&self, table: &Table) -> bool {
        !self.tree.is_busy(table.meta().number)
    }

    fn is_run_idle(&self, run: &Run) -> bool {
        run.tables.iter().all(|table| self.is_idle(table))
    }

    /// Level 0 is full by the number of its runs, or by what it would hold if they all were
    /// memtables.
    fn level0_fill(&self, runs: usize, bytes: u64) -> f64 {
        let limit = self.tree.options.memtable_bytes.saturating_mul(self.leveled.l0_runs as u64);
        (runs as f64 / self.leveled.l0_runs as f64)
            .max(bytes as f64 / limit.saturating_mul(2) as f64)
    }

    fn is_stacked(&self) -> bool {
        self.version().levels[1..].iter().any(|level| level.runs.len() > 1)
    }

    /// Makes one run of a level below 0 that holds several.
    fn pick_stacked(&self) -> Option<CompactionPlan> {
        (1..LEVEL_COUNT).rev().find_map(|level| {
            let runs = &self.version().levels[level].runs;
            if runs.len() < 2 || !runs.iter().all(|run| self.is_run_idle(run)) {
                return None;
            }
            let mut draft = Draft::default();
            for run in runs {
                draft.add(level, run, 0..run.tables.len());
            }
            self.merge(&draft, level, CompactionReason::LevelBytes)
        })
    }

    /// The levels that are at or above their target, with their scores, highest first.
    fn scores(&self) -> Vec<(usize, f64)> {
        let idle_bytes = |level: usize| -> u64 {
            let runs = &self.version().levels[level].runs;
            let tables =
                runs.iter().flat_map(|run| &run.tables).filter(|table| self.is_idle(table));
            tables.map(|table| table.meta().file_bytes).sum()
        };
        let fill = |level: usize| match level {
            0 => {
                let runs = self.version().levels[0].runs.iter();
                self.level0_fill(runs.filter(|run| self.is_run_idle(run)).count(), idle_bytes(0))
            }
            LAST => 1.0,
            _ => idle_bytes(level) as f64 / self.targets.bytes[level] as f64,
        };
        let mut scores: Vec<(usize, f64)> = std::iter::once(0)
            .chain(self.targets.base..LAST)
            .filter_map(|level| {
                let next = if level == 0 { self.targets.base } else { level + 1 };
                let here = fill(level);
                (here >= 1.0).then(|| (level, here / fill(next).max(0.01)))
            })
            .collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        scores
    }

    fn pick_by_score(&self) -> Option<CompactionPlan> {
        let mut level0_waits = false;
        for (level, _) in self.scores() {
            if level == 0 {
                if let Some(plan) = self.pick_level0() {
                    return Some(plan);
                }
                level0_waits = true;
            } else if level == self.targets.base && level0_waits {
                // One more compaction out of the base level would make level 0 wait longer.
            } else if let Some(plan) = self.pick_level(level) {
                return Some(plan);
            }
        }
        None
    }

    fn pick_level0(&self) -> Option<CompactionPlan> {
        let Some(draft) = self.level0_draft() else { return self.pick_intra_level0(true) };
        if let Some(plan) = self.move_level0() {
            return Some(plan);
        }
        let met = self.met(&draft, self.targets.base).map_or(0, |(_, tables)| table_bytes(tables));
        let disproportion = self.leveled.fanout.max(DISPROPORTION_MIN);
        if met / disproportion > draft.bytes
            && let Some(plan) = self.pick_intra_level0(false)
        {
            return Some(plan);
        }
        self.descend(draft, self.targets.base, CompactionReason::Level0Runs)
            .or_else(|| self.pick_intra_level0(true))
    }

    /// All idle runs from the oldest on; nothing if the oldest is busy, because then a compaction
    /// out of level 0 runs.
    fn level0_draft(&self) -> Option<Draft<'a>> {
        let runs = &self.version().levels[0].runs;
        let idle = runs.iter().rev().take_while(|run| self.is_run_idle(run)).count();
        let mut draft = Draft::default();
        for run in &runs[runs.len() - idle..] {
            draft.add(0, run, 0..run.tables.len());
        }
        (idle > 0).then_some(draft)
    }

    /// Moves runs down, from the oldest on, as long as they meet neither each other nor the base
    /// level.
    fn move_level0(&self) -> Option<CompactionPlan> {
        let base = self.targets.base;
        let mut moved: Vec<&'a Run> = Vec::new();
        for run in self.version().levels[0].runs.iter().rev() {
            let mut draft = Draft::default();
            draft.add(0, run, 0..run.tables.len());
            let (low, high) = draft.key_range();
            let meets = |other: &&Run| !overlapping(&other.tables, low, high).is_empty();
            if !self.is_run_idle(run)
                || moved.iter().any(meets)
                || self.run(base).as_ref().is_some_and(meets)
                || self.tree.is_output_busy(base, low, high)
            {
                break;
            }
            moved.push(run);
        }
        if moved.is_empty() || !is_movable(self.tree.options, 0, base) {
            return None;
        }
        let mut draft = Draft::default();
        for run in moved.into_iter().rev() {
            draft.add(0, run, 0..run.tables.len());
        }
        Some(draft.into_move(base, self.output_run(base), CompactionReason::Level0Runs))
    }

    /// Merges the newest idle runs of level 0, as many as make the bytes written per run removed
    /// fall.
    ///
    /// `is_blocked`: only because the base level is busy, so only if it is worth it.
    fn pick_intra_level0(&self, is_blocked: bool) -> Option<CompactionPlan> {
        let runs = &self.version().levels[0].runs;
        let runs_min = if is_blocked { INTRA_LEVEL0_RUNS_MIN } else { 2 };
        if is_blocked && runs.len() < self.leveled.l0_runs + 2 {
            return None;
        }
        let idle = runs.iter().skip_while(|run| !self.is_run_idle(run));
        let mut draft = Draft::default();
        let mut best = u64::MAX;
        let mut count = 0;
        for run in idle.take_while(|run| self.is_run_idle(run)) {
            let bytes = draft.bytes + run.bytes();
            if let Some(bytes_per_removed) = bytes.checked_div(count) {
                if bytes_per_removed > best || bytes > self.plan_bytes_max {
                    break;
                }
                best = bytes_per_removed;
            }
            draft.add(0, run, 0..run.tables.len());
            count += 1;
        }
        if (count as usize) < runs_min {
            return None;
        }
        let newest = draft.inputs[0].run.id;
        Some(draft.into_merge(0, newest, CompactionReason::IntraLevel0))
    }

    /// Moves the best stretch of a level below 0 down.
    fn pick_level(&self, level: usize) -> Option<CompactionPlan> {
        let run = self.run(level)?;
        let next = self.run(level + 1).map_or(&[][..], |next| &next.tables);
        let excess = self.bytes[level].saturating_sub(self.targets.bytes[level]).max(1);
        let is_small = self.bytes[level] + table_bytes(next) <= self.plan_bytes_max;
        let goal = if is_small { u64::MAX } else { excess };
        let stretch = self.best_stretch(level, &run.tables, next, goal)?;
        let mut draft = Draft::default();
        draft.add(level, run, stretch);
        self.descend(draft, level + 1, CompactionReason::LevelBytes)
    }

    /// Lets a table go down, or be rewritten where it is, if it is mostly tombstones and frees
    /// enough.
    fn pick_tombstones(&self) -> Option<CompactionPlan> {
        let reason = CompactionReason::Tombstones;
        for level in (1..LAST).rev() {
            let Some(run) = self.run(level) else { continue };
            for (at, table) in run.tables.iter().enumerate() {
                let mut draft = Draft::default();
                draft.add(level, run, at..at + 1);
                let plan = (is_tombstone_rich(&draft)
                    && self.is_idle(table)
                    && self.frees_enough(&draft, level + 1))
                .then(|| self.descend(draft, level + 1, reason));
                if let Some(Some(plan)) = plan {
                    return Some(plan);
                }
            }
        }
        let draft = self.level0_draft()?;
        if is_tombstone_rich(&draft) && self.frees_enough(&draft, self.targets.base) {
            return self.descend(draft, self.targets.base, reason);
        }
        None
    }

    /// Whether the tombstones of `draft` free a good part of what merging it into `level` costs. A
    /// table that meets nothing costs nothing.
    fn frees_enough(&self, draft: &Draft<'a>, level: usize) -> bool {
        let Some((_, met)) = self.met(draft, level) else { return level > 1 };
        let entries: u64 = met.iter().map(|table| table.meta().entry_count).sum();
        let met_bytes = table_bytes(met);
        let tombstones: u64 = draft.tables().map(|table| table.meta().tombstone_count).sum();
        let freed = tombstones.saturating_mul(met_bytes / entries.max(1)).min(met_bytes);
        freed.saturating_mul(TOMBSTONE_GAIN) >= draft.bytes + met_bytes
    }

    /// The tables of `level` that lie in the draft's key range, if any.
    fn met(&self, draft: &Draft<'a>, level: usize) -> Option<(Range<usize>, &'a [Arc<Table>])> {
        let run = self.run(level)?;
        let (low, high) = draft.key_range();
        let range = overlapping(&run.tables, low, high);
        (!range.is_empty()).then(|| (range.clone(), &run.tables[range]))
    }

    /// Merges the draft into `level`, and on into deeper levels where it would overflow; moves it
    /// if it meets nothing. `None` if something on the way is busy.
    fn descend(
        &self,
        mut draft: Draft<'a>,
        mut level: usize,
        reason: CompactionReason,
    ) -> Option<CompactionPlan> {
        let from = draft.inputs[0].level;
        if self.met(&draft, level).is_none()
            && draft.inputs.len() == 1
            && is_movable(self.tree.options, from, level)
        {
            let (low, high) = draft.key_range();
            let busy = self.tree.is_output_busy(level, low, high);
            return (!busy).then(|| draft.into_move(level, self.output_run(level), reason));
        }
        loop {
            let incoming = draft.bytes;
            self.absorb(&mut draft, level)?;
            if level == LAST || self.bytes[level] + incoming <= self.targets.bytes[level] {
                break;
            }
            let Some((_, below)) = self.met(&draft, level + 1) else { break };
            let bytes = draft.bytes + table_bytes(below);
            if bytes > self.plan_bytes_max || !below.iter().all(|table| self.is_idle(table)) {
                break;
            }
            level += 1;
        }
        self.merge(&draft, level, reason)
    }

    /// Adds what the draft meets in `level`; `None` if part of that is busy.
    fn absorb(&self, draft: &mut Draft<'a>, level: usize) -> Option<()> {
        if let Some((range, tables)) = self.met(draft, level) {
            tables.iter().all(|table| self.is_idle(table)).then_some(())?;
            draft.add(level, self.run(level)?, range);
        }
        Some(())
    }

    fn merge(
        &self,
        draft: &Draft<'a>,
        level: usize,
        reason: CompactionReason,
    ) -> Option<CompactionPlan> {
        let (low, high) = draft.key_range();
        let busy = self.tree.is_output_busy(level, low, high);
        (!busy).then(|| draft.clone().into_merge(level, self.output_run(level), reason))
    }

    /// The run of `level`. A level below 0 has one, so its name does not matter, but all plans must
    /// agree on it.
    fn output_run(&self, level: usize) -> RunId {
        self.run(level).map(|run| run.id).unwrap_or_default()
    }
}

/// Whether at least half of the entries are tombstones.
fn is_tombstone_rich(draft: &Draft<'_>) -> bool {
    let count = |of: fn(&Table) -> u64| draft.tables().map(|table| of(table)).sum::<u64>();
    let tombstones = count(|table| table.meta().tombstone_count);
    tombstones > 0 && tombstones.saturating_mul(2) >= count(|table| table.meta().entry_count)
}

#[cfg(test)]
mod tests;
