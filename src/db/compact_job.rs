//! Choosing and running compactions.

use std::sync::Arc;

use crate::compaction::job::{JobContext, JobProgress, run_job};
use crate::compaction::{CompactionAction, CompactionPlan, TreeView};
use crate::db::counters::{merge_totals, whole_table_totals};
use crate::db::install::{self, install_compaction};
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::work::{Busy, WorkState};
use crate::error::{Error, ErrorKind, Result};
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
        state.reserve(core.id, &plan, &version);
        return Some(CompactJob { core, plan, version, options });
    }
    None
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
        action @ (CompactionAction::Drop | CompactionAction::Move) => {
            let named = removed.iter().filter_map(|number| version.find_table(*number));
            let mut metas: Vec<TableMeta> =
                named.map(|(_, _, table)| table.meta().clone()).collect();
            assert_eq!(metas.len(), removed.len(), "a plan names tables of its version");
            let totals = whole_table_totals(action, &metas);
            inner.counters().count_compaction(&core.counters, plan, totals);
            if action == CompactionAction::Drop {
                metas.clear();
            }
            install_compaction(inner, core, &removed, metas, target)
        }
        CompactionAction::Merge => {
            let start_ns = inner.clock.monotonic_ns();
            let snapshots = inner.read.snapshots.with_visible(|| inner.visible());
            let mut poll = |_: JobProgress| {
                if inner.work.lock().shutdown {
                    return Err(cancelled());
                }
                between()
            };
            let mut context = JobContext {
                fs: inner.fs.as_ref(),
                dir: &inner.dir,
                tables: &inner.read.tables,
                options,
                version,
                snapshots: &snapshots,
                new_file_number: &|| inner.new_file_number(),
                poll: &mut poll,
            };
            let output = run_job(plan, &mut context)?;
            let duration_ns = inner.clock.monotonic_ns().saturating_sub(start_ns);
            let totals = merge_totals(&output, duration_ns);
            inner.counters().count_compaction(&core.counters, plan, totals);
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
