//! Choosing and running compactions.
//!
//! The keyspace whose compaction is most urgent goes first (see `compaction/pressure.rs`); among equals, the one that waits
//! longest. So that work which no debt speaks for (tombstones, expiry, garbage) is not put off for ever by a keyspace
//! that is written without a break, every fourth choice goes to the keyspace that waits longest, urgent or not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::compaction::expired::{self, pick_expired};
use crate::compaction::filter::MergeFilter;
use crate::compaction::job::{JobContext, JobProgress, run_job};
use crate::compaction::slice::{Replacement, slice_bytes};
use crate::compaction::{CompactionAction, CompactionPlan, TreeView};
use crate::db::install::{self, install_compaction, remove_unreferenced};
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::work::{Busy, Reservation, WorkState};
use crate::error::Result;
use crate::event::{
    BackgroundError, BackgroundTask, CompactionBegin, CompactionEnd, CompactionTotals, Event,
};
use crate::key::FileNumber;
use crate::options::KeyspaceOptions;
use crate::version::Version;

/// A compaction that was chosen, with what it was chosen from.
#[derive(Debug)]
pub(crate) struct CompactJob {
    pub(crate) core: Arc<KeyspaceCore>,
    pub(crate) plan: Arc<CompactionPlan>,
    /// Until it runs.
    pub(crate) version: Option<Arc<Version>>,
    pub(crate) options: Arc<KeyspaceOptions>,
    pub(crate) reservation: Reservation,
    /// How often compactions had been cancelled when this one was chosen.
    pub(crate) cancel_count: u64,
}

impl CompactJob {
    /// Length of the input files.
    fn input_bytes(&self) -> u64 {
        let numbers = self.plan.inputs.iter().flat_map(|input| &input.tables);
        let version = self.version.as_ref();
        let tables = numbers.filter_map(|number| version?.find_table(*number));
        tables.map(|(_, _, table)| table.meta().file_bytes).sum()
    }
}

/// Every so many choices the keyspace that waits longest goes first.
const FAIR_EVERY: u64 = 4;

/// The keyspaces in the order in which they are asked for work.
fn in_turn(inner: &Inner, state: &WorkState) -> Vec<Arc<KeyspaceCore>> {
    let mut cores = inner.keyspaces.load().in_order();
    let picked_at = |core: &KeyspaceCore| state.busy.get(&core.id).map_or(0, |busy| busy.picked_at);
    // Both sorts keep the order of equals.
    cores.sort_by_key(|core| picked_at(core));
    if state.picked_count % FAIR_EVERY != FAIR_EVERY - 1 {
        cores.sort_by(|a, b| b.urgency().total_cmp(&a.urgency()));
    }
    cores
}

/// Asks the strategies of the keyspaces in turn for work, and reserves what the first answer names. What has expired
/// goes first, whatever the strategy.
pub(crate) fn pick(inner: &Inner, state: &mut WorkState) -> Option<CompactJob> {
    if state.paused_count > 0 {
        return None;
    }
    let none = Busy::default();
    for core in in_turn(inner, state) {
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
        let Some(plan) = pick_expired(&tree).or_else(|| strategy.pick(&tree)) else { continue };
        if let Err(error) = tree.check_plan(&plan) {
            // A broken strategy of the user's; better to stop compacting than to lose data.
            state.note_error(&error, false);
            inner.listeners.note(|| {
                let (task, keyspace) = (BackgroundTask::Planning, Arc::clone(&core.name));
                Event::BackgroundError(BackgroundError { task, keyspace, error })
            });
            return None;
        }
        let reservation = state.reserve(core.id, &plan, &version);
        let cancel_count = inner.work.cancel_count();
        let (plan, version) = (Arc::new(plan), Some(version));
        return Some(CompactJob { core, plan, version, options, reservation, cancel_count });
    }
    None
}

/// When a strategy that has nothing to do should be asked again though no tree changes, in Unix milliseconds.
pub(crate) fn due_at_ms(inner: &Inner, state: &WorkState) -> Option<u64> {
    let none = Busy::default();
    let now_ms = inner.clock.unix_ms();
    let of_keyspace = |core: &Arc<KeyspaceCore>| {
        let strategy = core.strategy.read().clone()?;
        let busy = state.busy.get(&core.id).unwrap_or(&none);
        let version = Arc::clone(&core.view.load().version);
        let tree = TreeView {
            version: &version,
            options: &core.options.load(),
            busy: &busy.tables,
            busy_outputs: &busy.outputs,
            oldest_snapshot: install::oldest_snapshot(inner),
            now_ms,
        };
        let moments = [expired::due_at_ms(&tree), strategy.due_at_ms(&tree)];
        // What was due already was not to be done, or is being done.
        moments.into_iter().flatten().filter(|at_ms| *at_ms > now_ms).min()
    };
    inner.keyspaces.load().by_id.values().filter_map(of_keyspace).min()
}

/// Runs `job` and installs what it made. `poll` is called between blocks of output, and ends the job by an error.
pub(crate) fn run(
    inner: &Inner,
    job: &mut CompactJob,
    poll: &mut dyn FnMut(JobProgress) -> Result<()>,
) -> Result<()> {
    let number = inner.listeners.new_job();
    let start_ns = inner.clock.monotonic_ns();
    inner.listeners.emit(|| {
        Event::CompactionBegin(CompactionBegin {
            job: number,
            keyspace: Arc::clone(&job.core.name),
            plan: Arc::clone(&job.plan),
            input_bytes: job.input_bytes(),
        })
    });
    let result = run_plan(inner, job, poll);
    inner.listeners.emit(|| {
        Event::CompactionEnd(CompactionEnd {
            job: number,
            keyspace: Arc::clone(&job.core.name),
            plan: Arc::clone(&job.plan),
            totals: *result.as_ref().unwrap_or(&CompactionTotals::default()),
            duration: Duration::from_nanos(inner.clock.monotonic_ns().saturating_sub(start_ns)),
            error: result.as_ref().err().cloned(),
        })
    });
    result.map(drop)
}

/// Does what the plan says.
fn run_plan(
    inner: &Inner,
    job: &mut CompactJob,
    poll: &mut dyn FnMut(JobProgress) -> Result<()>,
) -> Result<CompactionTotals> {
    // Not kept in the job: the files of tables that leave the tree meanwhile could not be freed.
    let version = job.version.take().expect("a job runs once");
    let plan = &job.plan;
    let target = (plan.output_level, plan.output_run);
    let inputs = plan.inputs.iter().flat_map(|input| input.tables.iter().copied());
    let removed: Vec<FileNumber> = inputs.collect();
    let (replacement, totals) = match plan.action {
        CompactionAction::Drop => {
            (Replacement { removed, ..Replacement::default() }, CompactionTotals::default())
        }
        CompactionAction::Move => {
            inner.counters().trivial_moves.add(1);
            let moved = removed.iter().filter_map(|number| version.find_table(*number));
            let added: Vec<_> = moved.map(|(_, _, table)| table.meta().clone()).collect();
            assert_eq!(added.len(), removed.len(), "a move keeps every table");
            (Replacement { removed, added, ..Replacement::default() }, CompactionTotals::default())
        }
        CompactionAction::Merge => merge(inner, job, version, poll)?,
    };
    install_compaction(inner, &job.core, replacement, target)?;
    Ok(totals)
}

/// Merges, installs all slices but the last, and gives that one.
fn merge(
    inner: &Inner,
    job: &mut CompactJob,
    version: Arc<Version>,
    poll: &mut dyn FnMut(JobProgress) -> Result<()>,
) -> Result<(Replacement, CompactionTotals)> {
    let CompactJob { core, plan, options, reservation, .. } = job;
    let snapshots = inner.read.snapshots.with_visible(|| inner.visible());
    // After the list: a snapshot made between the two is respected as well.
    let newest_snapshot = inner.read.snapshots.newest();
    let filter = inner.filters.get(&*core.name).map(|filter| MergeFilter {
        filter: &**filter,
        level: plan.output_level,
        newest_snapshot,
    });
    let mut install = |slice: Replacement| {
        let outputs = slice.added.iter().map(|meta| meta.number);
        // Before anybody sees them, so that no plan names them.
        inner.work.lock().reserve_more(reservation, outputs);
        install_compaction(inner, core, slice, (plan.output_level, plan.output_run))?;
        // The thread that removes files may be this one.
        remove_unreferenced(inner);
        Ok(())
    };
    let inputs = plan.inputs.iter().flat_map(|input| &input.tables);
    let metas = inputs.filter_map(|number| version.find_table(*number));
    let plan_bytes = metas.map(|(_, _, table)| table.meta().file_bytes).sum();
    let mut context = JobContext {
        fs: inner.fs.as_ref(),
        dir: &inner.dir,
        tables: &inner.read.tables,
        options,
        snapshots: &snapshots,
        now_ms: inner.clock.unix_ms(),
        filter,
        new_file_number: &|| inner.new_file_number(),
        poll,
        slice_bytes: slice_bytes(plan_bytes, options.table_bytes),
        install: &mut install,
    };
    let output = run_job(plan, version, &mut context)?;
    let counters = inner.counters();
    counters.compactions.add(1);
    counters.compaction_bytes_read.add(output.bytes_read);
    counters.compaction_bytes_written.add(output.bytes_written);
    counters.entries_dropped.add(output.entries_in - output.entries_out);
    counters.entries_filtered.add(output.filtered);
    let level = plan.output_level;
    core.levels.bytes_read[level].fetch_add(output.bytes_read, Ordering::Relaxed);
    core.levels.bytes_written[level].fetch_add(output.bytes_written, Ordering::Relaxed);
    let totals = CompactionTotals {
        bytes_read: output.bytes_read,
        bytes_written: output.bytes_written,
        entries_dropped: output.entries_in - output.entries_out,
    };
    Ok((output.rest, totals))
}

#[cfg(test)]
mod tests;
