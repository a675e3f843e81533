//! A compaction plan in the making: stretches of runs, newest first, with their joint key range and
//! bytes.

use std::ops::Range;
use std::sync::Arc;

use crate::compaction::{CompactionAction, CompactionPlan, CompactionReason, PlanInput};
use crate::options::KeyspaceOptions;
use crate::table::Table;
use crate::version::{Run, RunId};

/// Adjacent tables of one run.
#[derive(Clone, Debug)]
pub(super) struct DraftInput<'a> {
    pub(super) level: usize,
    pub(super) run: &'a Run,
    tables: Range<usize>,
}

/// Inputs collected so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft<'a> {
    /// Newest first.
    pub(super) inputs: Vec<DraftInput<'a>>,
    /// Of all inputs.
    pub(super) bytes: u64,
    low: &'a [u8],
    high: &'a [u8],
}

impl<'a> Draft<'a> {
    /// Adds tables of a run that is older than those added before.
    pub(super) fn add(&mut self, level: usize, run: &'a Run, tables: Range<usize>) {
        let added = &run.tables[tables.clone()];
        let (Some(first), Some(last)) = (added.first(), added.last()) else { return };
        if self.inputs.is_empty() || *first.meta().smallest < *self.low {
            self.low = &first.meta().smallest;
        }
        if self.inputs.is_empty() || *last.meta().largest > *self.high {
            self.high = &last.meta().largest;
        }
        self.bytes += table_bytes(added);
        self.inputs.push(DraftInput { level, run, tables });
    }

    /// The smallest and the largest key of all inputs.
    pub(super) fn key_range(&self) -> (&'a [u8], &'a [u8]) {
        (self.low, self.high)
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &'a Arc<Table>> + '_ {
        self.inputs.iter().flat_map(|input| &input.run.tables[input.tables.clone()])
    }

    /// Whether no two of the tables share a key.
    pub(super) fn is_disjoint(&self) -> bool {
        let mut ranges: Vec<_> =
            self.tables().map(|table| (&table.meta().smallest, &table.meta().largest)).collect();
        ranges.sort_unstable();
        ranges.windows(2).all(|pair| pair[0].1 < pair[1].0)
    }

    /// Whether the tables may serve in `level` as they are.
    pub(super) fn is_movable(&self, options: &KeyspaceOptions, level: usize) -> bool {
        self.inputs.iter().all(|input| is_movable(options, input.level, level))
    }

    pub(super) fn into_merge(
        self,
        level: usize,
        run: RunId,
        reason: CompactionReason,
    ) -> CompactionPlan {
        self.into_plan(CompactionAction::Merge, level, run, reason)
    }

    pub(super) fn into_move(
        self,
        level: usize,
        run: RunId,
        reason: CompactionReason,
    ) -> CompactionPlan {
        self.into_plan(CompactionAction::Move, level, run, reason)
    }

    pub(super) fn into_drop(self, reason: CompactionReason) -> CompactionPlan {
        self.into_plan(CompactionAction::Drop, 0, RunId::default(), reason)
    }

    fn into_plan(
        self,
        action: CompactionAction,
        output_level: usize,
        output_run: RunId,
        reason: CompactionReason,
    ) -> CompactionPlan {
        let inputs = self.inputs.into_iter().map(|input| PlanInput {
            level: input.level,
            run: input.run.id,
            tables: input.run.tables[input.tables]
                .iter()
                .map(|table| table.meta().number)
                .collect(),
        });
        CompactionPlan { action, reason, inputs: inputs.collect(), output_level, output_run }
    }
}

/// Whether a table made for level `from` may serve in level `to` as it is.
pub(super) fn is_movable(options: &KeyspaceOptions, from: usize, to: usize) -> bool {
    options.compression_at(from) == options.compression_at(to)
        && options.filter_bits_at(from) >= options.filter_bits_at(to)
}

/// Which of `tables`, disjoint and in key order, meet the closed key range.
pub(super) fn overlapping(tables: &[Arc<Table>], low: &[u8], high: &[u8]) -> Range<usize> {
    let start = tables.partition_point(|table| *table.meta().largest < *low);
    let end = tables.partition_point(|table| *table.meta().smallest <= *high);
    start..end.max(start)
}

/// The bytes of all files.
pub(super) fn table_bytes(tables: &[Arc<Table>]) -> u64 {
    tables.iter().map(|table| table.meta().file_bytes).sum()
}
