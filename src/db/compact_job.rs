//! Choosing and running compactions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::compaction::job::{JobContext, JobOutput, JobProgress, Slices, run_job};
use crate::compaction::slice::{Replacement, slice_bytes};
use crate::compaction::subcompaction::SplitMerge;
use crate::compaction::{CompactionAction, CompactionPlan, CompactionReason, TreeView};
use crate::db::install::{self, install_compaction, remove_unreferenced};
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::work::{Busy, Reservation, WorkState};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{FileNumber, SequenceNumber};
use crate::options::KeyspaceOptions;
use crate::version::Version;

/// A subcompaction has at least this many tables' worth of bytes.
const SUBCOMPACTION_TABLES_MIN: u64 = 4;
/// A merge of more tables is sliced, not split.
const SPLIT_TABLES_MAX: u64 = 64;

/// A compaction that was chosen, with what it was chosen from.
#[derive(Debug)]
pub(crate) struct CompactJob {
    pub(crate) core: Arc<KeyspaceCore>,
    pub(crate) plan: CompactionPlan,
    /// Until it runs.
    pub(crate) version: Option<Arc<Version>>,
    pub(crate) options: Arc<KeyspaceOptions>,
    pub(crate) reservation: Reservation,
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
        if let Err(error) = tree.check_plan(&plan) {
            // A broken strategy of the user's; better to stop compacting than to lose data.
            state.note_error(&error, false);
            return None;
        }
        let reservation = state.reserve(core.id, &plan, &version);
        return Some(CompactJob { core, plan, version: Some(version), options, reservation });
    }
    None
}

/// Runs `job` and installs what it made. `between` is called between blocks of output.
pub(crate) fn run(
    inner: &Inner,
    job: &mut CompactJob,
    between: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    // Not kept in the job: the files of tables that leave the tree meanwhile could not be freed.
    let version = job.version.take().expect("a job runs once");
    let plan = &job.plan;
    let target = (plan.output_level, plan.output_run);
    let inputs = plan.inputs.iter().flat_map(|input| input.tables.iter().copied());
    let removed: Vec<FileNumber> = inputs.collect();
    let replacement = match plan.action {
        CompactionAction::Drop => Replacement { removed, ..Replacement::default() },
        CompactionAction::Move => {
            inner.counters().trivial_moves.add(1);
            let moved = removed.iter().filter_map(|number| version.find_table(*number));
            let added: Vec<_> = moved.map(|(_, _, table)| table.meta().clone()).collect();
            assert_eq!(added.len(), removed.len(), "a move keeps every table");
            Replacement { removed, added, ..Replacement::default() }
        }
        CompactionAction::Merge => merge(inner, job, version, between)?,
    };
    install_compaction(inner, &job.core, replacement, target)
}

/// Merges, installs all slices but the last, and gives that one.
fn merge(
    inner: &Inner,
    job: &mut CompactJob,
    version: Arc<Version>,
    between: &mut dyn FnMut() -> Result<()>,
) -> Result<Replacement> {
    let snapshots = inner.read.snapshots.with_visible(|| inner.visible());
    let count_max = subcompactions_max(inner, job, plan_bytes(&job.plan, &version));
    let output = if count_max > 1 {
        let tables = &inner.read.tables;
        let options = Arc::clone(&job.options);
        let mut merge = SplitMerge::new(&job.plan, &version, options, snapshots)?;
        drop(version);
        merge.split(tables, count_max)?;
        merge_in_subcompactions(inner, &Arc::new(merge), between)?
    } else {
        merge_in_slices(inner, job, version, &snapshots, between)?
    };
    let (core, counters) = (&job.core, inner.counters());
    counters.compactions.add(1);
    counters.compaction_bytes_read.add(output.bytes_read);
    counters.compaction_bytes_written.add(output.bytes_written);
    counters.entries_dropped.add(output.entries_in - output.entries_out);
    let level = job.plan.output_level;
    core.levels.bytes_read[level].fetch_add(output.bytes_read, Ordering::Relaxed);
    core.levels.bytes_written[level].fetch_add(output.bytes_written, Ordering::Relaxed);
    Ok(output.rest)
}

/// The bytes of the files that `plan` names.
fn plan_bytes(plan: &CompactionPlan, version: &Version) -> u64 {
    let inputs = plan.inputs.iter().flat_map(|input| &input.tables);
    let tables = inputs.filter_map(|number| version.find_table(*number));
    tables.map(|(_, _, table)| table.meta().file_bytes).sum()
}

fn merge_in_slices(
    inner: &Inner,
    job: &mut CompactJob,
    version: Arc<Version>,
    snapshots: &[SequenceNumber],
    between: &mut dyn FnMut() -> Result<()>,
) -> Result<JobOutput> {
    let CompactJob { core, plan, options, reservation, .. } = job;
    let slice_bytes = slice_bytes(plan_bytes(plan, &version), options.table_bytes);
    let mut install = |slice: Replacement| {
        let outputs = slice.added.iter().map(|meta| meta.number);
        // Before anybody sees them, so that no plan names them.
        inner.work.lock().reserve_more(reservation, outputs);
        install_compaction(inner, core, slice, (plan.output_level, plan.output_run))?;
        // The thread that removes files may be this one.
        remove_unreferenced(inner);
        Ok(())
    };
    let mut poll = |_: JobProgress| poll(inner, between);
    let new_file_number = || inner.new_file_number();
    let mut context = job_context(inner, options, snapshots, &new_file_number, &mut poll);
    context.slices = slice_bytes.map(|bytes| Slices { bytes, install: &mut install });
    run_job(plan, version, &mut context)
}

/// How many subcompactions a merge is split into. What is waited for (level 0, or by somebody who asked for it) is
/// worth the threads that are idle. What is too large for it is sliced, so that its inputs do not stay until the end.
fn subcompactions_max(inner: &Inner, job: &CompactJob, plan_bytes: u64) -> usize {
    let plan = &job.plan;
    let from_level0 = plan.output_level > 0 && plan.inputs.iter().any(|input| input.level == 0);
    let threads = inner.options.background_threads.saturating_sub(1);
    let table_count = plan_bytes / job.options.table_bytes;
    let is_split = from_level0 || plan.reason == CompactionReason::Manual;
    if !is_split || threads < 2 || table_count > SPLIT_TABLES_MAX {
        return 1;
    }
    usize::try_from(table_count / SUBCOMPACTION_TABLES_MIN)
        .map_or(threads, |count| count.min(threads))
}

/// Runs all subcompactions: offers them to idle threads, and takes back what none has begun.
fn merge_in_subcompactions(
    inner: &Inner,
    merge: &Arc<SplitMerge>,
    between: &mut dyn FnMut() -> Result<()>,
) -> Result<JobOutput> {
    let mut state = inner.work.lock();
    state.subcompactions.extend((1..merge.count()).map(|index| (Arc::clone(merge), index)));
    inner.work.announce_locked(&state);
    drop(state);
    run_subcompaction(inner, merge, 0, between);
    let mut state = inner.work.lock();
    loop {
        let offered =
            state.subcompactions.iter().position(|(offered, _)| Arc::ptr_eq(offered, merge));
        if let Some((_, index)) = offered.and_then(|place| state.subcompactions.remove(place)) {
            drop(state);
            run_subcompaction(inner, merge, index, between);
            state = inner.work.lock();
        } else if merge.is_ended() {
            break;
        } else {
            inner.work.wait_progress(&mut state);
        }
    }
    drop(state);
    merge.finish(inner.fs.as_ref(), &inner.dir)
}

/// Runs one subcompaction of a merge. How it went is for the thread that waits for all of them.
pub(crate) fn run_subcompaction(
    inner: &Inner,
    merge: &SplitMerge,
    index: usize,
    between: &mut dyn FnMut() -> Result<()>,
) {
    let mut poll = |_: JobProgress| {
        merge.check()?;
        poll(inner, between)
    };
    let new_file_number = || inner.new_file_number();
    let snapshots = merge.snapshots();
    merge.run(
        index,
        &mut job_context(inner, merge.options(), snapshots, &new_file_number, &mut poll),
    );
}

fn poll(inner: &Inner, between: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    if inner.work.lock().shutdown {
        return Err(cancelled());
    }
    between()
}

fn job_context<'a>(
    inner: &'a Inner,
    options: &'a KeyspaceOptions,
    snapshots: &'a [SequenceNumber],
    new_file_number: &'a dyn Fn() -> FileNumber,
    poll: &'a mut dyn FnMut(JobProgress) -> Result<()>,
) -> JobContext<'a> {
    JobContext {
        fs: inner.fs.as_ref(),
        dir: &inner.dir,
        tables: &inner.read.tables,
        options,
        snapshots,
        new_file_number,
        poll,
        slices: None,
    }
}

/// What a compaction returns that was stopped because the database closes.
fn cancelled() -> Error {
    Error::new(ErrorKind::Closed, "the compaction was cancelled: the database is closing")
}

pub(crate) fn is_cancelled(error: &Error) -> bool {
    error.kind() == ErrorKind::Closed
}
