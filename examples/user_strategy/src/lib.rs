//! Two-level compaction: a strategy written outside esker, on its public API alone.
//!
//! The tree has two parts. *Level 0* collects flushed runs. The *main run*, in the last level, holds everything else.
//! When level 0 has grown to a share of the main run, or has too many runs, it is merged into the tables of the main
//! run that it meets. `docs/writing-a-strategy.md` goes through this file step by step.
//!
//! # What it costs With keys in random order level 0 meets the whole main run. Each merge then writes the main run
//! once for every `share` of it that is new: with a share of 1/4 a byte is written about 1 + 1 + 4 = 6 times (flush,
//! merge, and the main run's bytes beside it), whatever the size of the tree. A read considers at most `runs_max` + 1
//! runs, and the dead versions take at most the share. What it does not do well: while a merge runs, nothing else can,
//! so a large tree makes writers wait. With keys in rising order level 0 meets nothing, and its runs are moved for
//! nothing at all.

use std::collections::HashSet;
use std::sync::Arc;

use esker::compaction::{
    CompactionAction, CompactionPlan, CompactionReason, CompactionStrategy, PlanInput, TreeView,
};
use esker::table::Table;
use esker::version::{LEVEL_COUNT, Run, RunId, Version};

/// Where the main run is: in the last level, where compression and filters by level expect the old data.
const MAIN: usize = LEVEL_COUNT - 1;

/// Two-level compaction. See the module text.
#[derive(Clone, Copy, Debug)]
pub struct TwoLevel {
    /// Level 0 is merged when its bytes are this percentage of those in the main run that it meets. Default 25.
    pub share_percent: u64,
    /// It is merged earlier when it has this many runs. Default 8.
    pub runs_max: usize,
}

impl Default for TwoLevel {
    fn default() -> Self {
        TwoLevel { share_percent: 25, runs_max: 8 }
    }
}

impl CompactionStrategy for TwoLevel {
    fn name(&self) -> &'static str {
        "two_level"
    }

    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan> {
        // When what is in the way ends, the tree changes, and the engine asks again.
        self.wanted(tree.version).filter(|plan| is_free(tree, plan))
    }

    fn debt_bytes(&self, tree: &TreeView<'_>) -> u64 {
        let wanted = self.wanted(tree.version);
        let moves_bytes = |plan: &CompactionPlan| plan.action == CompactionAction::Merge;
        wanted.filter(moves_bytes).map_or(0, |plan| input_bytes(tree.version, &plan.inputs))
    }

    fn level0_runs_max(&self) -> Option<usize> {
        // Writers are slowed from half of it on: from twice the runs that a merge waits for.
        Some(4 * self.runs_max)
    }
}

impl TwoLevel {
    /// The plan that brings the tree nearer to its shape, whether or not it can run now; `None` if it is in shape.
    ///
    /// Each plan lowers the number of runs, or at least of those outside the last level, so on a tree that gets no new
    /// ones this falls silent.
    fn wanted(&self, version: &Version) -> Option<CompactionPlan> {
        // Another strategy may have left this tree: first everything below level 0 becomes one run.
        let older: Vec<_> = runs(version).filter(|(level, _)| *level > 0).collect();
        if older.len() > 1 || older.iter().any(|(level, _)| *level != MAIN) {
            let inputs = older.iter().map(|(level, run)| whole(*level, run)).collect();
            return Some(into_main(
                version,
                CompactionAction::Merge,
                CompactionReason::RunCount,
                inputs,
            ));
        }
        let reason = self.is_due(version)?;
        let level0 = &version.levels[0].runs;
        let oldest = level0.last()?;
        // Nothing to merge it with, and nothing in it that a merge would drop: it costs nothing to move it.
        let tombstones: u64 = oldest.tables.iter().map(|table| table.meta().tombstone_count).sum();
        let meets_main = main_run(version)
            .is_some_and(|main| !main.overlapping(oldest.smallest(), oldest.largest()).is_empty());
        if !meets_main && tombstones == 0 {
            return Some(into_main(
                version,
                CompactionAction::Move,
                reason,
                vec![whole(0, oldest)],
            ));
        }
        let mut inputs: Vec<_> = level0.iter().map(|run| whole(0, run)).collect();
        inputs.extend(met_of_main(version));
        Some(into_main(version, CompactionAction::Merge, reason, inputs))
    }

    /// Why level 0 should be merged now, if it should.
    fn is_due(&self, version: &Version) -> Option<CompactionReason> {
        let level0 = &version.levels[0];
        // A lone run waits for company: else every flush would be merged at once.
        if level0.runs.len() < 2 {
            return None;
        }
        let met_bytes = met_of_main(version).map_or(0, |met| input_bytes(version, &[met]));
        if level0.bytes() * 100 >= met_bytes * self.share_percent {
            return Some(CompactionReason::LevelBytes);
        }
        (level0.runs.len() >= self.runs_max).then_some(CompactionReason::Level0Runs)
    }
}

/// All runs with their levels, newest first.
fn runs(version: &Version) -> impl Iterator<Item = (usize, &Run)> {
    let levels = version.levels.iter().enumerate();
    levels.flat_map(|(level, of_level)| of_level.runs.iter().map(move |run| (level, &**run)))
}

fn main_run(version: &Version) -> Option<&Run> {
    version.levels[MAIN].runs.first().map(|run| &**run)
}

/// All tables of `run`, as the input of a plan.
fn whole(level: usize, run: &Run) -> PlanInput {
    input(level, run, &run.tables)
}

fn input(level: usize, run: &Run, tables: &[Arc<Table>]) -> PlanInput {
    PlanInput {
        level,
        run: run.id,
        tables: tables.iter().map(|table| table.meta().number).collect(),
    }
}

/// The tables of the main run that lie in the key range of level 0.
fn met_of_main(version: &Version) -> Option<PlanInput> {
    let level0 = || version.levels[0].runs.iter();
    let smallest = level0().map(|run| run.smallest()).min()?;
    let largest = level0().map(|run| run.largest()).max()?;
    let main = main_run(version)?;
    let met = main.overlapping(smallest, largest);
    (!met.is_empty()).then(|| input(MAIN, main, met))
}

/// A plan that puts `inputs`, newest first, into the main run.
fn into_main(
    version: &Version,
    action: CompactionAction,
    reason: CompactionReason,
    inputs: Vec<PlanInput>,
) -> CompactionPlan {
    // Outputs join the run that is there; its age within the level says nothing when it is alone.
    let output_run = main_run(version).map_or(RunId(0), |main| main.id);
    CompactionPlan { action, reason, inputs, output_level: MAIN, output_run }
}

fn input_bytes(version: &Version, inputs: &[PlanInput]) -> u64 {
    let numbers: HashSet<_> = inputs.iter().flat_map(|input| &input.tables).collect();
    let metas = version.tables().map(|(_, _, table)| table.meta());
    metas.filter(|meta| numbers.contains(&meta.number)).map(|meta| meta.file_bytes).sum()
}

/// Whether nothing that runs stands in the way of `plan`.
fn is_free(tree: &TreeView<'_>, plan: &CompactionPlan) -> bool {
    let mut tables = plan.inputs.iter().flat_map(|input| &input.tables);
    // This strategy writes into the main run from everywhere, so one merge at a time.
    tables.all(|table| !tree.is_busy(*table))
        && tree.busy_outputs.iter().all(|output| output.level != MAIN)
}

#[cfg(test)]
mod tests;
