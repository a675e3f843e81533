//! Versions: the immutable shape of one keyspace's tree.
//!
//! A [`Version`] is a list of levels; a [`Level`] is a list of runs, newest first; a [`Run`] is a list of tables with
//! disjoint key ranges, in key order. That one shape holds leveled (one run in each level below 0), tiered and FIFO
//! trees. Versions are never changed: [`edit`] makes the next one.
//!
//! # Invariants (checked by [`Version::check_invariants`])
//! * Tables of a run are disjoint and ordered; no user key stands in two tables of a run.
//! * Runs of a level are ordered by [`RunId`], newest (highest) first.
//! * A table is in the tree once.
//! * For any key, everything in a level is newer than everything in the levels below, and everything in a run newer
//!   than everything in the older runs of its level.

pub(crate) mod edit;
pub(crate) mod lookup;

use std::sync::Arc;

use crate::table::Table;

/// Levels of a tree.
pub const LEVEL_COUNT: usize = 7;

/// The age of a run within its level: a higher id is newer. A flushed run's id is its first table's file number; a
/// compacted run takes the id its plan says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// Tables with disjoint key ranges, in key order.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its age within the level.
    pub id: RunId,
    /// Its tables, in key order. Never empty.
    pub tables: Vec<Arc<Table>>,
}

/// The runs of a level, newest first.
#[derive(Clone, Debug, Default)]
pub struct Level {
    /// The runs, newest first.
    pub runs: Vec<Arc<Run>>,
}

/// The tree of one keyspace at one moment.
#[derive(Clone, Debug)]
pub struct Version {
    /// Level 0 (flushed runs) first. Always [`LEVEL_COUNT`] long.
    pub levels: Vec<Level>,
}
