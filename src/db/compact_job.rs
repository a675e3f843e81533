//! Choosing and running compactions.
//!
//! The keyspace whose compaction is most urgent goes first (see `compaction/pressure.rs`); among equals, the one that
//! waits longest. So that work which no debt speaks for (tombstones, expiry, garbage) is not put off for ever by a
//! keyspace that is written without a break, every fourth choice goes to the keyspace that waits longest, urgent or
//! not.

use std::sync::Arc;
use std::time::Duration;

use crate::compaction::expired::{self, pick_expired};
use crate::compaction::filter::MergeFilter;
use crate::compaction::job::{JobContext, JobOutput, JobProgress, MergeTerms, Slices, run_job};
use crate::compaction::slice::{Replacement, slice_bytes};
use crate::compaction::subcompaction::SplitMerge;
use crate::compaction::{CompactionAction, CompactionPlan, CompactionReason, TreeView};
use crate::db::counters::{merge_totals, whole_table_totals};
use crate::db::gate::Gate;
use crate::db::install::{self, install_compaction, remove_unreferenced};
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::work::{Busy, Reservation, Subcompaction, WorkState};
use crate::error::Result;
use crate::event::{
    BackgroundError, BackgroundTask, CompactionBegin, CompactionEnd, CompactionTotals, Event,
};
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

/// The snapshot that the oldest one must reach before more garbage can go than could with `oldest`: until then asking
/// the strategies again is of no use. `None` if no garbage waits.
pub(crate) fn garbage_waits_for(inner: &Inner, oldest: SequenceNumber) -> Option<SequenceNumber> {
    let of_keyspace = |core: &Arc<KeyspaceCore>| {
        let view = core.view.load();
        let metas = view.version.tables().map(|(_, _, table)| table.meta());
        let waiting = metas.filter(|meta| {
            (meta.shadowed_count > 0 || meta.tombstone_count > 0) && meta.sequence_max > oldest
        });
        waiting.map(|meta| meta.sequence_max).min()
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
    let result = run_plan(inner, job, start_ns, poll);
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

/// Does what the plan says, since `start_ns`.
fn run_plan(
    inner: &Inner,
    job: &mut CompactJob,
    start_ns: u64,
    poll: &mut dyn FnMut(JobProgress) -> Result<()>,
) -> Result<CompactionTotals> {
    // Not kept in the job: the files of tables that leave the tree meanwhile could not be freed.
    let version = job.version.take().expect("a job runs once");
    let plan = &job.plan;
    let target = (plan.output_level, plan.output_run);
    let inputs = plan.inputs.iter().flat_map(|input| input.tables.iter().copied());
    let removed: Vec<FileNumber> = inputs.collect();
    let (replacement, totals) = match plan.action {
        action @ (CompactionAction::Drop | CompactionAction::Move) => {
            let named = removed.iter().filter_map(|number| version.find_table(*number));
            let mut added: Vec<_> = named.map(|(_, _, table)| table.meta().clone()).collect();
            assert_eq!(added.len(), removed.len(), "a plan names tables of its version");
            let totals = whole_table_totals(action, &added);
            inner.counters().count_compaction(&job.core.counters, plan, totals);
            if action == CompactionAction::Drop {
                added.clear();
            }
            let replacement = Replacement { removed, added, ..Replacement::default() };
            (replacement, CompactionTotals::default())
        }
        CompactionAction::Merge => merge(inner, job, version, start_ns, poll)?,
    };
    install_compaction(inner, &job.core, replacement, target)?;
    Ok(totals)
}

/// Merges, installs all slices but the last, and gives that one.
fn merge(
    inner: &Inner,
    job: &mut CompactJob,
    version: Arc<Version>,
    start_ns: u64,
    poll: &mut dyn FnMut(JobProgress) -> Result<()>,
) -> Result<(Replacement, CompactionTotals)> {
    let snapshots = inner.read.snapshots.with_visible(|| inner.visible());
    // After the list: a snapshot made between the two is respected as well.
    let newest_snapshot = inner.read.snapshots.newest();
    let filter = inner.filters.get(&*job.core.name).map(|filter| MergeFilter {
        filter: Arc::clone(filter),
        level: job.plan.output_level,
        newest_snapshot,
    });
    let options = Arc::clone(&job.options);
    let terms = MergeTerms {
        keyspace: job.core.id,
        options,
        snapshots,
        now_ms: inner.clock.unix_ms(),
        filter,
    };
    let count_max = subcompactions_max(inner, job, plan_bytes(&job.plan, &version));
    let output = if count_max > 1 {
        let tables = &inner.read.tables;
        let mut merge = SplitMerge::new(&job.plan, &version, terms)?;
        drop(version);
        merge.split(tables, count_max)?;
        merge_in_subcompactions(inner, &Arc::new(merge), job.cancel_count, poll)?
    } else {
        merge_in_slices(inner, job, version, &terms, poll)?
    };
    let duration_ns = inner.clock.monotonic_ns().saturating_sub(start_ns);
    let totals = merge_totals(&output, duration_ns);
    inner.counters().count_compaction(&job.core.counters, &job.plan, totals);
    let totals = CompactionTotals {
        bytes_read: output.bytes_read,
        bytes_written: output.bytes_written,
        entries_dropped: output.entries_in - output.entries_out,
    };
    Ok((output.rest, totals))
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
    terms: &MergeTerms,
    poll: &mut dyn FnMut(JobProgress) -> Result<()>,
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
    let new_file_number = || inner.new_file_number();
    let mut context = job_context(inner, terms, &new_file_number, poll);
    context.slices = slice_bytes.map(|bytes| Slices { bytes, install: &mut install });
    run_job(plan, version, &mut context)
}

/// How many subcompactions a merge is split into. What is waited for (level 0, or by somebody who asked for it) is
/// worth the threads that are idle. What is too large for it is sliced, so that its inputs do not stay until the end;
/// what is limited in its rate would only wait in more threads.
fn subcompactions_max(inner: &Inner, job: &CompactJob, plan_bytes: u64) -> usize {
    let plan = &job.plan;
    let from_level0 = plan.output_level > 0 && plan.inputs.iter().any(|input| input.level == 0);
    let threads = inner.options.background_threads.saturating_sub(1);
    let table_count = plan_bytes / job.options.table_bytes;
    let is_split = from_level0 || plan.reason == CompactionReason::Manual;
    let is_limited = inner.work.rate.rate().is_some();
    if !is_split || is_limited || threads < 2 || table_count > SPLIT_TABLES_MAX {
        return 1;
    }
    usize::try_from(table_count / SUBCOMPACTION_TABLES_MIN)
        .map_or(threads, |count| count.min(threads))
}

/// Runs all subcompactions: offers them to idle threads, and takes back what none has begun.
fn merge_in_subcompactions(
    inner: &Inner,
    merge: &Arc<SplitMerge>,
    cancel_count: u64,
    poll: &mut dyn FnMut(JobProgress) -> Result<()>,
) -> Result<JobOutput> {
    let mut state = inner.work.lock();
    let offer = |index| Subcompaction { merge: Arc::clone(merge), index, cancel_count };
    state.subcompactions.extend((1..merge.count()).map(offer));
    inner.work.announce_locked(&state);
    drop(state);
    // Told of all of them, whoever runs them.
    let mut poll_whole = |_: JobProgress| poll(merge.progress());
    run_subcompaction(inner, merge, 0, &mut poll_whole);
    let mut state = inner.work.lock();
    loop {
        let offered = state.subcompactions.iter().position(|one| Arc::ptr_eq(&one.merge, merge));
        if let Some(one) = offered.and_then(|place| state.subcompactions.remove(place)) {
            drop(state);
            run_subcompaction(inner, merge, one.index, &mut poll_whole);
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

/// Runs a subcompaction that another thread's merge offered.
pub(crate) fn run_offered(inner: &Inner, offered: &Subcompaction) {
    let mut gate = Gate::new(inner, offered.cancel_count, None);
    run_subcompaction(inner, &offered.merge, offered.index, &mut |progress| {
        gate.pass(progress, &mut || Ok(()))
    });
}

/// Runs one range of a merge. How it went is for the thread that waits for all of them.
fn run_subcompaction(
    inner: &Inner,
    merge: &SplitMerge,
    index: usize,
    poll: &mut dyn FnMut(JobProgress) -> Result<()>,
) {
    let mut poll = |progress: JobProgress| {
        merge.check()?;
        merge.note_progress(index, progress);
        poll(progress)
    };
    let new_file_number = || inner.new_file_number();
    merge.run(index, &mut job_context(inner, merge.terms(), &new_file_number, &mut poll));
}

fn job_context<'a>(
    inner: &'a Inner,
    terms: &'a MergeTerms,
    new_file_number: &'a dyn Fn() -> FileNumber,
    poll: &'a mut dyn FnMut(JobProgress) -> Result<()>,
) -> JobContext<'a> {
    JobContext {
        fs: inner.fs.as_ref(),
        dir: &inner.dir,
        tables: &inner.read.tables,
        keyspace: terms.keyspace,
        options: &terms.options,
        snapshots: &terms.snapshots,
        now_ms: terms.now_ms,
        filter: terms.filter.clone(),
        new_file_number,
        poll,
        slices: None,
    }
}

#[cfg(test)]
mod tests;
