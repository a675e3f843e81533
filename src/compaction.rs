//! Compaction: what to merge, and merging it.
//!
//! A [`CompactionStrategy`] is pure: it looks at a [`TreeView`] and answers with a
//! [`CompactionPlan`], or with nothing when the tree is in shape. It does no I/O, takes no lock and
//! keeps no state; users can write their own. `compaction/job` runs a plan. `compaction/retention`
//! decides which versions of a key survive a merge. Nothing here knows `Db`.
//!
//! # Rules for a strategy
//! * On a static tree it falls silent: every plan lowers the debt, the number of runs, or the
//!   garbage.
//! * Inputs of a merge are adjacent in age: no run that stays behind may be newer than one input
//!   and older than another for a key in the inputs' range. All versions of a user key leave a
//!   level together.
//! * It never names a table that is [`TreeView::is_busy`].

mod draft;
pub(crate) mod expired;
pub(crate) mod fifo;
pub mod filter;
pub(crate) mod job;
pub(crate) mod lazy_leveled;
pub(crate) mod leveled;
mod outputs;
pub(crate) mod planned;
pub(crate) mod pressure;
pub(crate) mod retention;
pub mod simulator;
pub(crate) mod size_tiered;
pub(crate) mod slice;
mod stack;
pub(crate) mod subcompaction;
#[cfg(test)]
mod tests;
pub(crate) mod time_window;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::key::{FileNumber, SequenceNumber};
use crate::options::{Compaction, KeyspaceOptions};
use crate::version::{RunId, Version};

/// Decides what to compact. See the module text for its rules.
pub trait CompactionStrategy: Send + Sync + fmt::Debug {
    /// The name that the manifest keeps.
    fn name(&self) -> &str;

    /// The most urgent work, or `None` when nothing is to be done (or all of it is busy).
    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan>;

    /// The bytes that must still be moved before [`CompactionStrategy::pick`] falls silent; drives
    /// the throttle.
    fn debt_bytes(&self, tree: &TreeView<'_>) -> u64;

    /// When a silent strategy wants to be asked again though the tree does not change, in Unix
    /// milliseconds: the earliest moment after [`TreeView::now_ms`] at which time alone gives
    /// [`CompactionStrategy::pick`] something to do. `None`: never. A moment that has passed is
    /// ignored: the strategy is asked before it is asked for this.
    fn due_at_ms(&self, tree: &TreeView<'_>) -> Option<u64> {
        let _ = tree;
        None
    }

    /// The number of runs in level 0 at which writers stop; they are slowed from half of it on.
    /// `None`: runs do not slow writers, only debt does.
    fn level0_runs_max(&self) -> Option<usize> {
        None
    }
}

/// The strategy object of a built-in choice; `None` for a strategy of the user's.
pub fn built_in(compaction: &Compaction) -> Option<Arc<dyn CompactionStrategy>> {
    match compaction {
        Compaction::Leveled(leveled) => Some(Arc::new(*leveled)),
        Compaction::SizeTiered(tiered) => Some(Arc::new(*tiered)),
        Compaction::LazyLeveled(lazy) => Some(Arc::new(*lazy)),
        Compaction::Fifo(fifo) => Some(Arc::new(*fifo)),
        Compaction::TimeWindow(windows) => Some(Arc::new(*windows)),
        Compaction::Named(_) => None,
    }
}

/// What a strategy may look at.
#[derive(Clone, Copy, Debug)]
pub struct TreeView<'a> {
    /// The tree.
    pub version: &'a Version,
    /// The keyspace's options.
    pub options: &'a KeyspaceOptions,
    /// Tables that running compactions read, and that no plan may name.
    pub busy: &'a HashSet<FileNumber>,
    /// Where running compactions write into.
    pub busy_outputs: &'a [BusyOutput],
    /// The oldest snapshot in use, or the newest sequence number if there is none: versions of a
    /// key shadowed below it are garbage.
    pub oldest_snapshot: SequenceNumber,
    /// The time, in Unix milliseconds.
    pub now_ms: u64,
}

/// Where a running compaction writes into: a run of a level, and the closed key range of all that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusyOutput {
    /// The level.
    pub level: usize,
    /// The run in it.
    pub run: RunId,
    /// The smallest user key.
    pub smallest: Box<[u8]>,
    /// The largest user key.
    pub largest: Box<[u8]>,
}

impl TreeView<'_> {
    /// Whether a running compaction reads the table.
    pub fn is_busy(&self, table: FileNumber) -> bool {
        self.busy.contains(&table)
    }

    /// Whether a running compaction writes into `level` within the closed key range, for strategies with one run in
    /// each level. Within level 0 it writes a run of its own, so that no other is in its way. See also
    /// [`TreeView::is_run_output_busy`].
    pub fn is_output_busy(&self, level: usize, smallest: &[u8], largest: &[u8]) -> bool {
        let meets = |output: &BusyOutput| {
            output.level == level && *output.smallest <= *largest && *smallest <= *output.largest
        };
        level > 0 && self.busy_outputs.iter().any(meets)
    }

    /// Whether a running compaction writes into this run of `level` within the closed key range. Outputs in two runs of
    /// a level are in nobody's way: what lies between them in age, both plans were checked against.
    pub fn is_run_output_busy(
        &self,
        level: usize,
        run: RunId,
        smallest: &[u8],
        largest: &[u8],
    ) -> bool {
        let meets = |output: &BusyOutput| {
            (output.level, output.run) == (level, run)
                && *output.smallest <= *largest
                && *smallest <= *output.largest
        };
        self.busy_outputs.iter().any(meets)
    }

    /// Checks that `plan` obeys the rules: its tables are there and idle, nothing that stays lies
    /// in age between an input that it meets and the outputs, and the outputs meet nothing in their
    /// run. What is dropped as expired has expired, and uncovers nothing. Every plan is checked
    /// before it runs; tests of strategies may do so themselves.
    pub fn check_plan(&self, plan: &CompactionPlan) -> Result<()> {
        planned::check_plan(self, plan)
    }
}

/// Why a plan was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CompactionReason {
    /// Level 0 has too many runs.
    Level0Runs,
    /// A level is larger than its target.
    LevelBytes,
    /// Runs within level 0 are merged because the level below is busy.
    IntraLevel0,
    /// Adjacent runs are of similar size.
    SimilarRuns,
    /// The tree has too many runs.
    RunCount,
    /// The runs above the oldest one are too large for it.
    SpaceAmplification,
    /// A time window is over.
    PastWindow,
    /// The tree has more bytes than it may.
    TotalBytes,
    /// A table is older than it may be.
    Age,
    /// Everything in a table has expired.
    Expired,
    /// A table is mostly tombstones.
    Tombstones,
    /// Shadowed versions or tombstones at the bottom are no longer needed by any snapshot.
    Garbage,
    /// Somebody asked for it.
    Manual,
}

impl CompactionReason {
    /// Its name in metrics and in the manifest's totals.
    pub fn as_str(self) -> &'static str {
        match self {
            CompactionReason::Level0Runs => "level0_runs",
            CompactionReason::LevelBytes => "level_bytes",
            CompactionReason::IntraLevel0 => "intra_level0",
            CompactionReason::SimilarRuns => "similar_runs",
            CompactionReason::RunCount => "run_count",
            CompactionReason::SpaceAmplification => "space_amplification",
            CompactionReason::PastWindow => "past_window",
            CompactionReason::TotalBytes => "total_bytes",
            CompactionReason::Age => "age",
            CompactionReason::Expired => "expired",
            CompactionReason::Tombstones => "tombstones",
            CompactionReason::Garbage => "garbage",
            CompactionReason::Manual => "manual",
        }
    }
}

/// What a plan does with its inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionAction {
    /// Merges them into new tables.
    Merge,
    /// Moves them to the output level as they are, without reading them.
    Move,
    /// Removes them without reading them.
    Drop,
}

/// Tables of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanInput {
    /// The run's level.
    pub level: usize,
    /// The run.
    pub run: RunId,
    /// Some of its tables, in key order, adjacent.
    pub tables: Vec<FileNumber>,
}

/// Work for one compaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionPlan {
    /// What is done with the inputs.
    pub action: CompactionAction,
    /// Why.
    pub reason: CompactionReason,
    /// The tables concerned, newest run first.
    pub inputs: Vec<PlanInput>,
    /// The level that the outputs go to.
    pub output_level: usize,
    /// The run in that level that the outputs go to: joined if it is there, else made.
    pub output_run: RunId,
}
