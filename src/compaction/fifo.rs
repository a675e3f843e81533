//! First in, first out: the oldest tables are dropped, and hardly anything is merged.
//!
//! **It drops live data by design**: a keyspace compacted like this is a cache or a log of bounded
//! size or age, and a snapshot does not keep what is dropped. This file only decides; it reads
//! nothing but table metadata and keeps no state.
//!
//! # What is picked, in order
//! 1. *Drops*: from the oldest run on (a deeper level, which another strategy left, is older; in
//!    a run the tables written first), tables as long as the tree has more than `total_bytes_max`,
//!    and tables whose newest entry was written more than `age_max_s` seconds ago. Nothing is read.
//! 2. *Small runs*, if `merge_runs` is not 0: that many adjacent runs of level 0, none larger than
//!    a memtable, become one. The result is larger than a memtable and so is not merged again,
//!    unless flushes are much smaller.
//!
//! # No old value comes back
//! A table is dropped only if no older table that stays meets it. For the bound on bytes the order
//! is strict: where the next table is busy nothing is dropped instead of it.
//!
//! # Why it falls silent
//! Kind 1 removes tables, kind 2 lowers the number of runs.

use std::sync::Arc;

use crate::compaction::draft::Draft;
use crate::compaction::stack::Stack;
use crate::compaction::{CompactionPlan, CompactionReason, CompactionStrategy, TreeView};
use crate::options::Fifo;
use crate::table::Table;
use crate::version::Run;

impl CompactionStrategy for Fifo {
    fn name(&self) -> &'static str {
        "fifo"
    }

    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan> {
        let stack = Stack::new(tree);
        self.pick_drops(tree, &stack).or_else(|| self.pick_small(tree, &stack))
    }

    fn debt_bytes(&self, tree: &TreeView<'_>) -> u64 {
        tree.version.bytes().saturating_sub(self.total_bytes_max)
    }

    fn due_at_ms(&self, tree: &TreeView<'_>) -> Option<u64> {
        if self.age_max_s == 0 {
            return None;
        }
        // The first moment at which `pick_drops` calls the table old.
        let age_ms = self.age_max_s.saturating_mul(1000).saturating_add(1);
        let old_at_ms = |table: &Table| table.meta().write_time_max_ms.saturating_add(age_ms);
        let moments = tree.version.tables().map(|(_, _, table)| old_at_ms(table));
        moments.filter(|at_ms| *at_ms > tree.now_ms).min()
    }
}

impl Fifo {
    fn pick_drops(&self, tree: &TreeView<'_>, stack: &Stack<'_>) -> Option<CompactionPlan> {
        let mut surplus_bytes = self.debt_bytes(tree);
        let age_max_ms = self.age_max_s.saturating_mul(1000);
        let written_before_ms =
            if age_max_ms == 0 { 0 } else { tree.now_ms.saturating_sub(age_max_ms) };
        let is_old = |table: &Table| table.meta().write_time_max_ms < written_before_ms;
        let any_old = || tree.version.tables().any(|(_, _, table)| is_old(table));
        if surplus_bytes == 0 && !any_old() {
            return None;
        }
        let reason =
            if surplus_bytes > 0 { CompactionReason::TotalBytes } else { CompactionReason::Age };
        let mut staying: Vec<&Arc<Table>> = Vec::new();
        let mut dropped: Vec<(usize, &Run, Vec<usize>)> = Vec::new();
        for stacked in stack.runs.iter().rev() {
            let tables = &stacked.run.tables;
            let mut chosen = Vec::new();
            for at in in_writing_order(stacked.run) {
                let table = &tables[at];
                if surplus_bytes == 0 && !is_old(table) {
                    continue;
                }
                let meta = table.meta();
                let meets =
                    |older: &&Arc<Table>| older.meta().overlaps(&meta.smallest, &meta.largest);
                if tree.is_busy(meta.number) || staying.iter().any(meets) {
                    surplus_bytes = 0;
                    continue;
                }
                surplus_bytes = surplus_bytes.saturating_sub(meta.file_bytes);
                chosen.push(at);
            }
            chosen.sort_unstable();
            let stays = |at: &usize| chosen.binary_search(at).is_err();
            staying.extend((0..tables.len()).filter(stays).map(|at| &tables[at]));
            dropped.push((stacked.level, stacked.run, chosen));
        }
        let mut draft = Draft::default();
        for (level, run, chosen) in dropped.into_iter().rev() {
            for stretch in chosen.chunk_by(|left, right| left + 1 == *right) {
                draft.add(level, run, stretch[0]..stretch[0] + stretch.len());
            }
        }
        (!draft.inputs.is_empty()).then(|| draft.into_drop(reason))
    }

    /// Makes one run of `merge_runs` adjacent small ones, the newest that there are.
    fn pick_small(&self, tree: &TreeView<'_>, stack: &Stack<'_>) -> Option<CompactionPlan> {
        let is_small = |at: &usize| {
            let stacked = &stack.runs[*at];
            stacked.level == 0
                && stacked.is_idle
                && stacked.run.bytes() <= tree.options.memtable_bytes
        };
        if self.merge_runs < 2 {
            return None;
        }
        let starts = 0..(stack.runs.len() + 1).saturating_sub(self.merge_runs);
        let mut stretches = starts.map(|start| start..start + self.merge_runs);
        let stretch = stretches.find(|stretch| stretch.clone().all(|at| is_small(&at)))?;
        let newest = stack.runs[stretch.start].run.id;
        stack.merge_into(stretch, 0, newest, CompactionReason::SimilarRuns)
    }
}

/// The tables of a run, those written first first.
fn in_writing_order(run: &Run) -> Vec<usize> {
    let mut order: Vec<usize> = (0..run.tables.len()).collect();
    order.sort_by_key(|at| run.tables[*at].meta().write_time_max_ms);
    order
}

#[cfg(test)]
mod tests;
