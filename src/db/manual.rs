//! Compacting a range of keys by hand: everything in it is merged into the last level.
//!
//! Automatic compactions of the keyspace are kept out meanwhile, so that the plan is made of the tree as it is. Flushes
//! go on: what they add is newer than everything merged.

use std::collections::HashSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::compaction::job::JobProgress;
use crate::compaction::{CompactionAction, CompactionPlan, CompactionReason, PlanInput};
use crate::db::background;
use crate::db::compact_job::{CompactJob, run};
use crate::db::gate::{Gate, cancelled};
use crate::db::iter::KeyBound;
use crate::db::rate_limit::Priority;
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::work::Running;
use crate::error::Result;
use crate::table::{Table, TableMeta};
use crate::version::{RunId, Version};

/// How a range of keys is compacted by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactOptions {
    /// Whether the database's [`compaction_rate`](crate::DbOptions::compaction_rate) holds for it. Default no: somebody
    /// waits for it.
    pub is_rate_limited: bool,
}

/// How far a compaction by hand is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionProgress {
    /// Bytes of keys and values read so far.
    pub bytes_read: u64,
    /// Bytes of keys and values to read in all. 0: the range is in shape already.
    pub bytes_total: u64,
    /// Bytes of tables written so far.
    pub bytes_written: u64,
    /// Tables written so far, the unfinished one included.
    pub tables_written: u64,
}

/// Keeps automatic compactions of a keyspace out while it lives.
struct Pause<'a> {
    inner: &'a Inner,
    core: &'a KeyspaceCore,
}

impl<'a> Pause<'a> {
    /// Waits for running compactions of `core`, and lets none start.
    fn new(inner: &'a Inner, core: &'a KeyspaceCore) -> Result<Self> {
        let _hurry = inner.work.rate.hurry(&*inner.clock);
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
    options: CompactOptions,
    progress: &mut dyn FnMut(CompactionProgress) -> ControlFlow<()>,
) -> Result<CompactionProgress> {
    let pause = Pause::new(inner, core)?;
    let version = Arc::clone(&core.view.load().version);
    let mut done = CompactionProgress::default();
    let has_filter = inner.filters.contains_key(&*core.name);
    if let Some(plan) = plan_range(&version, bounds, inner.clock.unix_ms(), has_filter) {
        done.bytes_total = logical_bytes(&plan, &version);
        let (mut job, running) = {
            let mut state = inner.work.lock();
            inner.check_open()?;
            let reservation = state.reserve(core.id, &plan, &version);
            let (core, options) = (Arc::clone(core), core.options.load_full());
            let cancel_count = inner.work.cancel_count();
            let (plan, version) = (Arc::new(plan), Some(version));
            let job = CompactJob { core, plan, version, options, reservation, cancel_count };
            (job, Running::begin(&inner.work, &mut state))
        };
        let limit = options.is_rate_limited.then_some(Priority::Deep);
        let mut gate = Gate::new(inner, job.cancel_count, limit);
        let flush = || if inner.runs_inline() { background::run_due_flush(inner) } else { Ok(()) };
        let result = run(inner, &mut job, &mut |now: JobProgress| {
            (done.bytes_read, done.bytes_written) = (now.read_bytes, now.written_bytes);
            done.tables_written = now.table_count;
            // Told again while it waits for its share, so that it can be stopped there.
            gate.pass(now, &mut || {
                if progress(done).is_break() { Err(cancelled()) } else { flush() }
            })
        });
        inner.work.lock().release(&job.reservation);
        drop(job);
        drop(running);
        result?;
    }
    drop(pause);
    if inner.runs_inline() {
        background::run_due(inner)?;
    }
    Ok(done)
}

/// The bytes of keys and values that `plan` reads.
fn logical_bytes(plan: &CompactionPlan, version: &Version) -> u64 {
    let tables = plan.inputs.iter().flat_map(|input| &input.tables);
    let metas = tables.filter_map(|number| version.find_table(*number));
    metas.map(|(_, _, table)| table.meta().key_bytes + table.meta().value_bytes).sum()
}

/// The plan of a manual compaction; `None` if the range is in shape already, and there is no filter that wants to see
/// it all the same.
fn plan_range(
    version: &Version,
    (lower, upper): &(KeyBound, KeyBound),
    now_ms: u64,
    has_filter: bool,
) -> Option<CompactionPlan> {
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
                last.tables.push(table.meta().number);
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
    let in_shape = !has_filter
        && inputs.len() == 1
        && inputs[0].level == output_level
        && !tables.iter().any(|(_, _, table)| {
            inputs[0].tables.contains(&table.meta().number) && has_garbage(table.meta(), now_ms)
        });
    (!in_shape).then_some(CompactionPlan {
        action: CompactionAction::Merge,
        reason: CompactionReason::Manual,
        inputs,
        output_level,
        output_run,
    })
}

/// Whether a rewrite at the bottom could drop something: tombstones, what has expired, what is hidden, or
/// versions whose numbers are not all zero.
fn has_garbage(meta: &TableMeta, now_ms: u64) -> bool {
    meta.tombstone_count > 0
        || meta.sequence_max.0 > 0
        || meta.expiry_min_ms <= now_ms
        || meta.is_partial()
}
