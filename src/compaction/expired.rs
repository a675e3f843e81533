//! Tables in which everything has expired are dropped whole, without being read.
//!
//! Asked before the strategy, for every strategy: nothing is cheaper than this, and whatever the
//! strategy would do with such a table is wasted. This file only decides; it reads nothing but table
//! metadata.
//!
//! # No old value comes back
//! An expired entry hides older versions of its key, as a tombstone does. So a table goes only if no
//! older table that stays meets it; those that go at the same time do not stay. Its tombstones, if
//! it has any, then have nothing left to hide. Snapshots need none of it: to them, too, what has
//! expired is not there.
//!
//! # Why it falls silent
//! Each plan removes tables.

use std::collections::HashSet;

use crate::compaction::draft::Draft;
use crate::compaction::stack::Stack;
use crate::compaction::{CompactionPlan, CompactionReason, TreeView};
use crate::key::FileNumber;
use crate::table::Table;

/// Whether every value of the table has expired.
pub(super) fn is_expired(table: &Table, now_ms: u64) -> bool {
    crate::expiry::is_expired(table.meta().expiry_max_ms, now_ms)
}

/// Drops every idle table in which everything has expired, and which nothing older that stays meets.
pub(crate) fn pick_expired(tree: &TreeView<'_>) -> Option<CompactionPlan> {
    let may_go =
        |table: &Table| is_expired(table, tree.now_ms) && !tree.is_busy(table.meta().number);
    if !tree.version.tables().any(|(_, _, table)| may_go(table)) {
        return None;
    }
    let stack = Stack::new(tree);
    let mut gone: HashSet<FileNumber> = HashSet::new();
    for (at, stacked) in stack.runs.iter().enumerate().rev() {
        for table in stacked.run.tables.iter().filter(|table| may_go(table)) {
            let meta = table.meta();
            let older = stack.runs[at + 1..].iter();
            let mut met =
                older.flat_map(|older| older.run.overlapping(&meta.smallest, &meta.largest));
            if met.all(|older| gone.contains(&older.meta().number)) {
                gone.insert(meta.number);
            }
        }
    }
    let mut draft = Draft::default();
    for stacked in &stack.runs {
        let tables = &stacked.run.tables;
        let goes = |at: &usize| gone.contains(&tables[*at].meta().number);
        let going: Vec<usize> = (0..tables.len()).filter(goes).collect();
        for stretch in going.chunk_by(|left, right| left + 1 == *right) {
            draft.add(stacked.level, stacked.run, stretch[0]..stretch[0] + stretch.len());
        }
    }
    (!draft.inputs.is_empty()).then(|| draft.into_drop(CompactionReason::Expired))
}

/// The earliest moment after now at which everything in some table will have expired.
pub(crate) fn due_at_ms(tree: &TreeView<'_>) -> Option<u64> {
    let moments = tree.version.tables().map(|(_, _, table)| table.meta().expiry_max_ms);
    moments.filter(|at_ms| *at_ms > tree.now_ms && *at_ms != u64::MAX).min()
}

#[cfg(test)]
mod tests;
