//! Choosing and running compactions.
//!
//! The keyspace whose compaction is most urgent goes first (see `db/throttle.rs`); among equals, the one that waits
//! longest. So that work which no debt speaks for (tombstones, expiry, garbage) is not put off for ever by a keyspace
//! that is written without a break, every fourth choice goes to the keyspace that waits longest, urgent or not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::compaction::job::{JobContext, JobProgress, run_job};
use crate::compaction::{CompactionAction, CompactionPlan, TreeView};
use crate::db::install::{self, install_compaction};
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::work::{Busy, WorkState};
use crate::error::Result;
use crate::options::KeyspaceOptions;
use crate::table::TableMeta;
use crate::version::Version;

/// A compaction that was chosen, with what it was chosen from.
#[derive(Debug)]
pub(crate) struct CompactJob {
    pub(crate) core: Arc<KeyspaceCore>,
    pub(crate) plan: CompactionPlan,
    pub(crate) version: Arc<Version>,
    pub(crate) options: Arc<KeyspaceOptions>,
    /// How often compactions had been cancelled when this one was chosen.
    pub(crate) cancel_count: u64,
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

/// Asks the strategies of the keyspaces in turn for work, and reserves what the first answer names.
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
        let Some(plan) = strategy.pick(&tree) else { continue };
        if let Err(error) = tree.check_plan(&plan) {
            // A broken strategy of the user's; better to stop compacting than to lose data.
            state.note_error(&error, false);
            return None;
        }
        state.reserve(core.id, &plan, &version);
        let cancel_count = inner.work.cancel_count();
        return Some(CompactJob { core, plan, version, options, cancel_count });
    }
    None
}

/// Runs `job` and installs what it made. `poll` is called between blocks of output, and ends the job by an error.
pub(crate) fn run(
    inner: &Inner,
    job: &CompactJob,
    poll: &mut dyn FnMut(JobProgress) -> Result<()>,
) -> Result<()> {
    let CompactJob { core, plan, version, options, .. } = job;
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
            let mut context = JobContext {
                fs: inner.fs.as_ref(),
                dir: &inner.dir,
                tables: &inner.read.tables,
                options,
                version,
                snapshots: &snapshots,
                new_file_number: &|| inner.new_file_number(),
                poll,
            };
            let output = run_job(plan, &mut context)?;
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

#[cfg(test)]
mod tests;
