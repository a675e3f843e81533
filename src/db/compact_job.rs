//! Choosing and running compactions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::compaction::job::{JobContext, JobProgress, run_job};
use crate::compaction::slice::{Replacement, slice_bytes};
use crate::compaction::{CompactionAction, CompactionPlan, TreeView};
use crate::db::install::{self, install_compaction, remove_unreferenced};
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::work::{Busy, Reservation, WorkState};
use crate::error::{Error, ErrorKind, Result};
use crate::key::FileNumber;
use crate::options::KeyspaceOptions;
use crate::version::Version;

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
    let CompactJob { core, plan, options, reservation, .. } = job;
    let snapshots = inner.read.snapshots.with_visible(|| inner.visible());
    let mut poll = |_: JobProgress| {
        if inner.work.lock().shutdown {
            return Err(cancelled());
        }
        between()
    };
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
        new_file_number: &|| inner.new_file_number(),
        poll: &mut poll,
        slice_bytes: slice_bytes(plan_bytes, options.table_bytes),
        install: &mut install,
    };
    let output = run_job(plan, version, &mut context)?;
    let counters = inner.counters();
    counters.compactions.add(1);
    counters.compaction_bytes_read.add(output.bytes_read);
    counters.compaction_bytes_written.add(output.bytes_written);
    counters.entries_dropped.add(output.entries_in - output.entries_out);
    let level = plan.output_level;
    core.levels.bytes_read[level].fetch_add(output.bytes_read, Ordering::Relaxed);
    core.levels.bytes_written[level].fetch_add(output.bytes_written, Ordering::Relaxed);
    Ok(output.rest)
}

/// What a compaction returns that was stopped because the database closes.
fn cancelled() -> Error {
    Error::new(ErrorKind::Closed, "the compaction was cancelled: the database is closing")
}

pub(crate) fn is_cancelled(error: &Error) -> bool {
    error.kind() == ErrorKind::Closed
}
