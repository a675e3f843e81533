//! Versions: the immutable shape of one keyspace's tree.
//!
//! A [`Version`] is a list of levels; a [`Level`] is a list of runs, newest first; a [`Run`] is a
//! list of tables with disjoint key ranges, in key order. That one shape holds leveled (one run in
//! each level below 0), tiered and FIFO trees. Versions are never changed: [`Version::apply`] makes
//! the next one and shares every untouched run with it.
//!
//! # Invariants (checked by [`Version::check_invariants`])
//! * Tables of a run are disjoint and ordered; no user key stands in two tables of a run.
//! * Runs of a level are ordered by [`RunId`], newest (highest) first, and never empty.
//! * A table is in the tree once.
//! * For any key, everything in a level is newer than everything in the levels below, and
//!   everything in a run newer than everything in the older runs of its level.
//!
//! The last one is about keys, and metadata names only two keys of a table: its bounds. So it is
//! checked where two tables share a bound. Overlap alone proves nothing: while a table lies in a
//! lower level, compaction may merge two older neighbours above it into one table that spans it,
//! without a key in common. A table whose sequence numbers were zeroed says 0, which is older than
//! all.
//!
//! # Not here
//! Reading tables (`lookup`), the stored form of a change (`edit`), and where it is stored
//! (`manifest`). [`Version::apply`] takes its arguments from disk, so it answers wrong ones with an
//! error, not a panic.

pub mod totals;
pub(crate) mod edit;
pub(crate) mod lookup;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod text;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::key::{FileNumber, SequenceNumber, escape, key_prefix};
use crate::table::{Table, TableMeta};

/// Levels of a tree.
pub const LEVEL_COUNT: usize = 7;

/// The age of a run within its level: a higher id is newer. A flushed run's id is its first table's
/// file number; a compacted run takes the id its plan says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// Tables with disjoint key ranges, in key order. Made by [`Run::new`] and not changed afterwards:
/// what it caches would no longer fit.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its age within the level.
    pub id: RunId,
    /// Its tables, in key order. Never empty.
    pub tables: Vec<Arc<Table>>,
    /// The bytes that all keys between the run's bounds begin with.
    shared_prefix: Box<[u8]>,
    /// For each table, the 8 bytes after `shared_prefix` of its largest key: the search touches one
    /// dense column instead of a table per step.
    fences: Vec<u64>,
    bytes: u64,
    entry_count: u64,
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

impl Run {
    /// A run of `tables`, which are in key order, disjoint, and at least one.
    ///
    /// # Panics
    /// If they are not.
    pub fn new(id: RunId, tables: Vec<Arc<Table>>) -> Self {
        if let Err(what) = check_tables(&tables) {
            panic!("run {}: {what}", id.0);
        }
        Run::unchecked(id, tables)
    }

    /// A run that may break the invariants, except that it is not empty.
    fn unchecked(id: RunId, tables: Vec<Arc<Table>>) -> Self {
        let (smallest, largest) = (&*tables[0].meta().smallest, last(&tables));
        let shared_len = smallest.iter().zip(largest).take_while(|(a, b)| a == b).count();
        let shared_prefix = Box::from(&smallest[..shared_len]);
        // The cut is clamped only for runs that break the order, which tests draw.
        let fence = |key: &[u8]| key_prefix(key.get(shared_len..).unwrap_or_default());
        let fences = tables.iter().map(|table| fence(&table.meta().largest)).collect();
        let bytes = tables.iter().map(|table| table.meta().file_bytes).fold(0, u64::saturating_add);
        let entry_count =
            tables.iter().map(|table| table.meta().entry_count).fold(0, u64::saturating_add);
        Run { id, tables, shared_prefix, fences, bytes, entry_count }
    }

    /// The one table whose key range covers `key`, if there is one.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<&Arc<Table>> {
        // Every key between the run's bounds begins with the shared prefix.
        let prefix = key_prefix(key.strip_prefix(&*self.shared_prefix)?);
        let mut index = self.fences.partition_point(|fence| *fence < prefix);
        let ties = self.fences[index..].partition_point(|fence| *fence == prefix);
        if ties > 0 {
            let tied = &self.tables[index..index + ties];
            index += tied.partition_point(|table| *table.meta().largest < *key);
        }
        let table = self.tables.get(index)?;
        (*table.meta().smallest <= *key).then_some(table)
    }

    /// The tables whose key ranges meet the closed range from `lo` to `hi`.
    pub fn overlapping(&self, lo: &[u8], hi: &[u8]) -> &[Arc<Table>] {
        let start = self.tables.partition_point(|table| *table.meta().largest < *lo);
        let len = self.tables[start..].partition_point(|table| *table.meta().smallest <= *hi);
        &self.tables[start..start + len]
    }

    /// The bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The entries of its tables, of every kind.
    pub fn entry_count(&self) -> u64 {
        self.entry_count
    }

    /// Its smallest user key.
    pub fn smallest(&self) -> &[u8] {
        &self.tables[0].meta().smallest
    }

    /// Its largest user key.
    pub fn largest(&self) -> &[u8] {
        last(&self.tables)
    }
}

fn last(tables: &[Arc<Table>]) -> &[u8] {
    &tables[tables.len() - 1].meta().largest
}

impl Level {
    /// The bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes()).fold(0, u64::saturating_add)
    }

    /// The number of its tables.
    pub fn table_count(&self) -> usize {
        self.runs.iter().map(|run| run.tables.len()).sum()
    }

    /// The level after a change: its runs without the `removed` tables (sorted), with the `added`
    /// ones.
    fn apply(&self, removed: &[FileNumber], mut added: Additions) -> Result<Level, String> {
        let mut runs = Vec::with_capacity(self.runs.len() + added.len());
        let is_removed = |table: &Table| removed.binary_search(&table.meta().number).is_ok();
        for run in &self.runs {
            let joining = added.remove(&run.id).unwrap_or_default();
            if joining.is_empty() && !run.tables.iter().any(|table| is_removed(table)) {
                runs.push(Arc::clone(run));
                continue;
            }
            let staying = run.tables.iter().filter(|table| !is_removed(table)).cloned();
            runs.extend(run_of(run.id, staying.chain(joining).collect())?);
        }
        for (id, tables) in added {
            runs.extend(run_of(id, tables)?);
        }
        runs.sort_by_key(|run| Reverse(run.id));
        Ok(Level { runs })
    }
}

/// Tables that join a level, by run.
type Additions = BTreeMap<RunId, Vec<Arc<Table>>>;

/// A run of `tables`, or none if there are none.
fn run_of(id: RunId, mut tables: Vec<Arc<Table>>) -> Result<Option<Arc<Run>>, String> {
    if tables.is_empty() {
        return Ok(None);
    }
    tables.sort_by(|a, b| a.meta().smallest.cmp(&b.meta().smallest));
    check_tables(&tables).map_err(|what| format!("run {}: {what}", id.0))?;
    Ok(Some(Arc::new(Run::unchecked(id, tables))))
}

/// Whether `tables` can be a run.
fn check_tables(tables: &[Arc<Table>]) -> Result<(), String> {
    if tables.is_empty() {
        return Err("no tables".to_owned());
    }
    for table in tables {
        check_meta(table.meta())?;
    }
    for pair in tables.windows(2) {
        let (left, right) = (pair[0].meta(), pair[1].meta());
        if left.largest >= right.smallest {
            let (left_end, right_start) = (escape(&left.largest), escape(&right.smallest));
            return Err(format!(
                "table {} ends at {left_end} and table {} begins at {right_start}: they overlap",
                left.number, right.number
            ));
        }
    }
    Ok(())
}

fn check_meta(meta: &TableMeta) -> Result<(), String> {
    let what = if meta.smallest > meta.largest {
        "begins after its end"
    } else if meta.sequence_min > meta.sequence_max {
        "has its sequence numbers the wrong way round"
    } else if meta.tombstone_count > meta.entry_count {
        "has more tombstones than entries"
    } else if meta.shadowed_count > meta.entry_count {
        "has more shadowed entries than entries"
    } else {
        return Ok(());
    };
    Err(format!("table {} {what}", meta.number))
}

impl Version {
    /// A tree without tables.
    pub fn empty() -> Self {
        Version { levels: vec![Level::default(); LEVEL_COUNT] }
    }

    /// The version after a change: without the `removed` tables, with the `added` ones, each in its
    /// level and run. A run that is not there is made; one that becomes empty vanishes. A table may
    /// be removed and added at once: it moves.
    ///
    /// The change comes from disk. One that does not fit (a table removed that is not there, one
    /// added twice or over another of its run) is an error of kind
    /// [`Corruption`](ErrorKind::Corruption).
    pub fn apply(
        &self,
        removed: &[FileNumber],
        added: &[(usize, RunId, Arc<Table>)],
    ) -> Result<Version> {
        self.try_apply(removed, added).map_err(|what| {
            Error::new(ErrorKind::Corruption, format!("the change does not fit the tree: {what}"))
        })
    }

    fn try_apply(
        &self,
        removed: &[FileNumber],
        added: &[(usize, RunId, Arc<Table>)],
    ) -> Result<Version, String> {
        let removed = sorted_once(removed.to_vec(), "removed")?;
        let numbers = added.iter().map(|(_, _, table)| table.meta().number).collect();
        self.check_numbers(&removed, &sorted_once(numbers, "added")?)?;
        let mut additions = vec![Additions::new(); LEVEL_COUNT];
        for (level, run, table) in added {
            let additions = additions.get_mut(*level).ok_or_else(|| {
                format!("table {} in level {level} of {LEVEL_COUNT}", table.meta().number)
            })?;
            additions.entry(*run).or_default().push(Arc::clone(table));
        }
        let mut levels = Vec::with_capacity(LEVEL_COUNT);
        for (number, (level, added)) in self.levels.iter().zip(additions).enumerate() {
            let next = level.apply(&removed, added);
            levels.push(next.map_err(|what| format!("level {number}: {what}"))?);
        }
        Ok(Version { levels })
    }

    /// Refuses a removed table that is not in the tree, and an added one that stays in it.
    fn check_numbers(&self, removed: &[FileNumber], added: &[FileNumber]) -> Result<(), String> {
        let mut found = Vec::with_capacity(removed.len());
        for (_, _, table) in self.tables() {
            let number = table.meta().number;
            if removed.binary_search(&number).is_ok() {
                found.push(number);
            } else if added.binary_search(&number).is_ok() {
                return Err(format!("table {number} is in the tree already"));
            }
        }
        // Numbers in the tree are unique, so equal counts mean that all were found.
        let all_found = found.len() == removed.len();
        match removed.iter().find(|number| !all_found && !found.contains(number)) {
            Some(number) => Err(format!("table {number} is not in the tree")),
            None => Ok(()),
        }
    }

    /// All tables with their level and run: upper levels first, newer runs first, in key order.
    pub fn tables(&self) -> impl Iterator<Item = (usize, &Run, &Arc<Table>)> {
        let runs = self
            .levels
            .iter()
            .enumerate()
            .flat_map(|(number, level)| level.runs.iter().map(move |run| (number, &**run)));
        runs.flat_map(|(number, run)| run.tables.iter().map(move |table| (number, run, table)))
    }

    /// The tables of `level` whose key ranges meet the closed range from `lo` to `hi`, newer runs
    /// first.
    pub fn overlapping<'a>(
        &'a self,
        level: usize,
        lo: &'a [u8],
        hi: &'a [u8],
    ) -> impl Iterator<Item = &'a Arc<Table>> {
        self.levels[level].runs.iter().flat_map(move |run| run.overlapping(lo, hi))
    }

    /// The table with this number.
    pub fn find_table(&self, number: FileNumber) -> Option<(usize, &Run, &Arc<Table>)> {
        self.tables().find(|(_, _, table)| table.meta().number == number)
    }

    /// The smallest and the largest user key; `None` if there are no tables.
    pub fn key_range(&self) -> Option<(&[u8], &[u8])> {
        let runs = || self.levels.iter().flat_map(|level| &level.runs);
        let smallest = runs().map(|run| run.smallest()).min()?;
        let largest = runs().map(|run| run.largest()).max()?;
        Some((smallest, largest))
    }

    /// The number of its tables.
    pub fn table_count(&self) -> usize {
        self.levels.iter().map(Level::table_count).sum()
    }

    /// The bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.levels.iter().map(Level::bytes).fold(0, u64::saturating_add)
    }

    /// The number of its runs: how many tables a point read may have to consider, its structural
    /// read amplification.
    pub fn run_count(&self) -> usize {
        self.levels.iter().map(|level| level.runs.len()).sum()
    }

    /// The deepest level that has tables.
    pub fn last_nonempty_level(&self) -> Option<usize> {
        self.levels.iter().rposition(|level| !level.runs.is_empty())
    }

    /// Checks what metadata can show of the invariants in the module text; the error names the
    /// first breach.
    pub fn check_invariants(&self) -> Result<(), String> {
        if self.levels.len() != LEVEL_COUNT {
            return Err(format!("{} levels, not {LEVEL_COUNT}", self.levels.len()));
        }
        for (number, level) in self.levels.iter().enumerate() {
            for pair in level.runs.windows(2) {
                let (newer, older) = (pair[0].id.0, pair[1].id.0);
                if newer <= older {
                    return Err(format!("level {number}: run {newer} stands before run {older}"));
                }
            }
            for run in &level.runs {
                check_tables(&run.tables)
                    .map_err(|what| format!("level {number}: run {}: {what}", run.id.0))?;
            }
        }
        let numbers = self.tables().map(|(_, _, table)| table.meta().number).collect();
        sorted_once(numbers, "in the tree")?;
        self.check_ages()
    }

    /// Where a table shares a bound, and so a key, with one in an older run, it must not be wholly
    /// older.
    fn check_ages(&self) -> Result<(), String> {
        // A stable sort: tables with the same bound stay in their order, newest run first.
        let mut bounds: Vec<(&[u8], &TableMeta)> = Vec::with_capacity(2 * self.table_count());
        for (_, _, table) in self.tables() {
            let meta = table.meta();
            bounds.push((&meta.smallest, meta));
            if meta.smallest != meta.largest {
                bounds.push((&meta.largest, meta));
            }
        }
        bounds.sort_by_key(|(key, _)| *key);
        for sharing in bounds.chunk_by(|a, b| a.0 == b.0) {
            let mut oldest: Option<&TableMeta> = None;
            for (key, meta) in sharing {
                let upper = oldest.filter(|upper| upper.sequence_max < meta.sequence_min);
                if let Some(upper) = upper {
                    return Err(format!(
                        "table {} (up to #{}) stands above table {} (from #{}), and both have {}",
                        upper.number,
                        upper.sequence_max,
                        meta.number,
                        meta.sequence_min,
                        escape(key)
                    ));
                }
                if oldest.is_none_or(|oldest| meta.sequence_max < oldest.sequence_max) {
                    oldest = Some(meta);
                }
            }
        }
        Ok(())
    }
}

/// `numbers` sorted; an error if one stands there twice.
fn sorted_once(mut numbers: Vec<FileNumber>, what: &str) -> Result<Vec<FileNumber>, String> {
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("table {} is {what} twice", pair[0])),
        None => Ok(numbers),
    }
}

/// A line for each run: `L1 run 7: 000012[a..k]#3-9 000013[l..z]#1-8`.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, level) in self.levels.iter().enumerate() {
            for run in &level.runs {
                write!(f, "L{number} run {}:", run.id.0)?;
                for table in &run.tables {
                    let meta = table.meta();
                    let (smallest, largest) = (escape(&meta.smallest), escape(&meta.largest));
                    let SequenceNumber(newest) = meta.sequence_max;
                    let oldest = meta.sequence_min;
                    write!(f, " {}[{smallest}..{largest}]#{oldest}-{newest}", meta.number)?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
