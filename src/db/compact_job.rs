//! Choosing and running compactions, and compacting a range by hand.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::compaction::job::{JobContext, run_job};
use crate::compaction::{CompactionAction, CompactionPlan, CompactionReason, PlanInput, TreeView};
use crate::db::background;
use crate::db::install::{self, install_compaction};
use crate::db::iter::KeyBound;
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::work::{Busy, WorkState};
use crate::error::{Error, ErrorKind, Result};
use crate::options::KeyspaceOptions;
use crate::table::{Table, TableMeta};
use crate::version::{LEVEL_COUNT, RunId, Version};

/// A compaction that was chosen, with what it was chosen from.
#[derive(Debug)]
pub(crate) struct CompactJob {
    pub(crate) core: Arc<KeyspaceCore>,
    pub(crate) plan: CompactionPlan,
    pub(crate) version: Arc<Version>,
    options: Arc<KeyspaceOptions>,
}

/// Asks the strategies of all keyspaces for work, and reserves what the first answer names.
pub(crate) fn pick(inner: &Inner, state: &mut WorkState) -> Option<CompactJob> {
    let none = Busy::default();
    for core in inner.keyspaces.load().in_order() {
        let Some(strategy) = core.strategy.read().clone() else { continue };
        let busy = state.busy.get(&core.id).unwrap_or(&none);
        if busy.paused_count > 0 {
            continue;
        }
        let version = Arc::clone(&core.view.load().version);
        let options = core.options.load_full();
        let tree = TreeView {
            version: &version,
            options: &options,
            busy: &busy.tables,
            busy_outputs: &busy.outputs,
            oldest_snapshot: install::oldest_snapshot(inner),
            now_ms: inner.clock.unix_ms(),
        };
        let Some(plan) = strategy.pick(&tree) else { continue };
        check_plan(&plan, &tree, strategy.name());
        state.reserve(core.id, &plan, &version);
        return Some(CompactJob { core, plan, version, options });
    }
    None
}

/// A plan that names tables that are not there, or are busy, is a broken strategy; better to stop than to lose data.
fn check_plan(plan: &CompactionPlan, tree: &TreeView<'_>, strategy: &str) {
    assert!(
        plan.output_level < LEVEL_COUNT,
        "strategy {strategy} plans for a level that does not exist"
    );
    assert!(!plan.inputs.is_empty(), "strategy {strategy} plans nothing");
    for input in &plan.inputs {
        assert!(!input.tables.is_empty(), "strategy {strategy} plans an empty input");
        for number in &input.tables {
            let found = tree.version.find_table(*number);
            let (level, run, _) = found.unwrap_or_else(|| {
                panic!("strategy {strategy} plans table {number}, which is not in the tree")
            });
            assert!(
                level == input.level && run.id == input.run,
                "strategy {strategy} misplaces table {number}"
            );
            assert!(
                !tree.is_busy(*number),
                "strategy {strategy} plans table {number}, which is busy"
            );
        }
    }
}

/// Runs `job` and installs what it made. `between` is called between blocks of output.
pub(crate) fn run(
    inner: &Inner,
    job: &CompactJob,
    between: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let CompactJob { core, plan, version, options } = job;
    let removed: Vec<_> =
        plan.inputs.iter().flat_map(|input| input.tables.iter().copied()).collect();
    let target = (plan.output_level, plan.output_run);
    match plan.action {
        CompactionAction::Drop => install_compaction(inner, core, &removed, Vec::new(), target),
        CompactionAction::Move => {
            inner.counters().trivial_moves.add(1);
            let moved = removed.iter().filter_map(|number| version.find_table(*number));
            let metas: Vec<TableMeta> = moved.map(|(_, _, table)| table.meta().clone()).collect();
            assert_eq!(metas.len(), removed.len(), "a move keeps every table");
            install_compaction(inner, core, &removed, metas, target)
        }
        CompactionAction::Merge => {
            let snapshots = inner.read.snapshots.with_visible(|| inner.visible());
            let mut poll = || {
                if inner.work.lock().shutdown {
                    return Err(cancelled());
                }
                between()
            };
            let output = run_job(
                &JobContext {
                    fs: inner.fs.as_ref(),
                    dir: &inner.dir,
                    tables: &inner.read.tables,
                    options,
                    snapshots: &snapshots,
                    new_file_number: &|| inner.new_file_number(),
                },
                plan,
                version,
                &mut poll,
            )?;
            let counters = inner.counters();
            counters.compactions.add(1);
            counters.compaction_bytes_read.add(output.bytes_read);
            counters.compaction_bytes_written.add(output.bytes_written);
            counters.entries_dropped.add(output.entries_in - output.entries_out);
            core.levels.bytes_read[plan.output_level]
                .fetch_add(output.bytes_read, Ordering::Relaxed);
            core.levels.bytes_written[plan.output_level]
                .fetch_add(output.bytes_written, Ordering::Relaxed);
            install_compaction(inner, core, &removed, output.added, target)
        }
    }
}

/// What a compaction returns that was stopped because the database closes.
fn cancelled() -> Error {
    Error::new(ErrorKind::Closed, "the compaction was cancelled: the database is closing")
}

pub(crate) fn is_cancelled(error: &Error) -> bool {
    error.kind() == ErrorKind::Closed
}

/// Keeps automatic compactions of a keyspace out while it lives.
struct Pause<'a> {
    inner: &'a Inner,
    core: &'a KeyspaceCore,
}

impl<'a> Pause<'a> {
    /// Waits for running compactions of `core`, and lets none start.
    fn new(inner: &'a Inner, core: &'a KeyspaceCore) -> Result<Self> {
        let mut state = inner.work.lock();
        // One manual compaction at a time.
        while state.busy.entry(core.id).or_default().paused_count > 0 {
            inner.check_open()?;
            inner.work.wait_progress(&mut state);
        }
        state.busy.entry(core.id).or_default().paused_count += 1;
        let pause = Pause { inner, core };
        while state.busy.entry(core.id).or_default().running_count > 0 {
            if let Err(error) = inner.check_open() {
                drop(state);
                return Err(error);
            }
            inner.work.wait_progress(&mut state);
        }
        drop(state);
        Ok(pause)
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.work.lock();
        state.busy.entry(self.core.id).or_default().paused_count -= 1;
        drop(state);
        self.inner.work.tree_changed();
    }
}

/// Merges everything in a range of keys, and what that drags along, into the last level that holds anything.
pub(crate) fn compact_range(
    inner: &Inner,
    core: &Arc<KeyspaceCore>,
    bounds: &(KeyBound, KeyBound),
) -> Result<()> {
    let pause = Pause::new(inner, core)?;
    let version = Arc::clone(&core.view.load().version);
    if let Some(plan) = plan_range(&version, bounds) {
        let job =
            CompactJob { core: Arc::clone(core), plan, version, options: core.options.load_full() };
        inner.work.lock().reserve(core.id, &job.plan, &job.version);
        let result = run(inner, &job, &mut || {
            if inner.runs_inline() { background::run_due_flush(inner) } else { Ok(()) }
        });
        inner.work.lock().release(core.id, &job.plan, &job.version);
        drop(job);
        inner.work.job_ended();
        result?;
    }
    drop(pause);
    if inner.runs_inline() { background::run_due(inner) } else { Ok(()) }
}

/// The plan of a manual compaction; `None` if the range is in shape already.
fn plan_range(version: &Version, (lower, upper): &(KeyBound, KeyBound)) -> Option<CompactionPlan> {
    let meets = |table: &Table| {
        let after = match lower {
            Bound::Included(low) => *table.meta().largest >= **low,
            Bound::Excluded(low) => *table.meta().largest > **low,
            Bound::Unbounded => true,
        };
        let before = match upper {
            Bound::Included(high) => *table.meta().smallest <= **high,
            Bound::Excluded(high) => *table.meta().smallest < **high,
            Bound::Unbounded => true,
        };
        after && before
    };
    let tables: Vec<_> = version.tables().collect();
    let mut chosen: HashSet<usize> =
        (0..tables.len()).filter(|&index| meets(tables[index].2)).collect();
    // Nothing may stay between what is merged: take in whatever meets the range of what was taken, until it is closed.
    loop {
        let low = chosen.iter().map(|&index| &*tables[index].2.meta().smallest).min()?;
        let high = chosen.iter().map(|&index| &*tables[index].2.meta().largest).max()?;
        let closed: HashSet<usize> =
            (0..tables.len()).filter(|&index| tables[index].2.meta().overlaps(low, high)).collect();
        if closed.len() == chosen.len() {
            break;
        }
        chosen = closed;
    }
    let mut order: Vec<_> = chosen.into_iter().collect();
    order.sort_unstable();
    let mut inputs: Vec<PlanInput> = Vec::new();
    for index in order {
        let (level, run, table) = &tables[index];
        match inputs.last_mut() {
            Some(last) if last.level == *level && last.run == run.id => {
                last.tables.push(table.meta().number)
            }
            _ => inputs.push(PlanInput {
                level: *level,
                run: run.id,
                tables: vec![table.meta().number],
            }),
        }
    }
    let output_level = version.last_nonempty_level()?.max(1);
    let output_run = version.levels[output_level].runs.last().map_or(RunId(0), |run| run.id);
    let in_shape = inputs.len() == 1
        && inputs[0].level == output_level
        && !tables.iter().any(|(_, _, table)| {
            inputs[0].tables.contains(&table.meta().number) && has_garbage(table.meta())
        });
    (!in_shape).then_some(CompactionPlan {
        action: CompactionAction::Merge,
        reason: CompactionReason::Manual,
        inputs,
        output_level,
        output_run,
    })
}

/// Whether a rewrite at the bottom could drop something: tombstones, or versions whose numbers are not all zero.
fn has_garbage(meta: &TableMeta) -> bool {
    meta.tombstone_count > 0 || meta.sequence_max.0 > 0
}
