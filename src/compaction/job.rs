//! The merge job: runs a plan.
//!
//! A job reads the plan's inputs once, in order, through one cursor for each run; decides with
//! [`retention`](crate::compaction::retention) what stays; and writes tables. It is the same for
//! every strategy, and does not know [`Db`](crate::db): the caller installs the outputs.
//!
//! # Rules
//! * The version is the one that the plan was made for, and the snapshots are taken before the job
//!   begins and not looked at again.
//! * Every output is synced, and then the directory, once, before [`run_job`] returns. The manifest
//!   edit comes after that.
//! * An error leaves nothing behind: outputs are removed as far as that is possible. What cannot be
//!   removed is an orphan, which the next open deletes.
//! * As many entries are read as the manifest says the inputs have. A read that ends early would
//!   lose data silently; it is corruption.
//! * All versions of a user key go into one output.

use std::path::Path;
use std::sync::Arc;

use crate::compaction::filter::MergeFilter;
use crate::compaction::outputs::{OutputContext, Outputs};
use crate::compaction::planned::{PlannedInput, find_inputs};
use crate::compaction::retention::{Fate, Retention};
use crate::compaction::{CompactionAction, CompactionPlan};
use crate::cursor::Cursor;
use crate::cursor::merging::MergingCursor;
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::{Access, FileSystem};
use crate::key::{FileNumber, SequenceNumber};
use crate::options::KeyspaceOptions;
use crate::table::{Table, TableMeta};
use crate::table_cache::TableCache;
use crate::table_cache::run_cursor::RunCursor;
use crate::version::Version;

/// Bytes of entries read between two calls of [`JobContext::poll`].
const POLL_BYTES: u64 = 1 << 20;

/// What a job works with.
pub(crate) struct JobContext<'a> {
    pub(crate) fs: &'a dyn FileSystem,
    /// The database's directory.
    pub(crate) dir: &'a Path,
    pub(crate) tables: &'a Arc<TableCache>,
    pub(crate) options: &'a KeyspaceOptions,
    /// The tree that the plan was made for.
    pub(crate) version: &'a Version,
    /// The sequence numbers in use, ascending; the last is the visible one.
    pub(crate) snapshots: &'a [SequenceNumber],
    /// The time by which expiry is judged, taken when the job began.
    pub(crate) now_ms: u64,
    /// The user's filter, if there is one.
    pub(crate) filter: Option<MergeFilter<'a>>,
    /// Gives each output its number.
    pub(crate) new_file_number: &'a dyn Fn() -> FileNumber,
    /// Called every [`POLL_BYTES`] and at the end: may wait, or end the job with an error.
    pub(crate) poll: &'a mut dyn FnMut(JobProgress) -> Result<()>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobProgress {
    /// Of entries, as they are in memory.
    pub(crate) read_bytes: u64,
    /// Of output files.
    pub(crate) written_bytes: u64,
    /// Output tables, the unfinished one included.
    pub(crate) table_count: u64,
}

/// What a job did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct JobOutput {
    /// The new tables, in key order. None if nothing survived.
    pub(crate) added: Vec<TableMeta>,
    pub(crate) entries_in: u64,
    pub(crate) entries_out: u64,
    /// Of the input files.
    pub(crate) bytes_read: u64,
    /// Of the output files.
    pub(crate) bytes_written: u64,
    /// Entries dropped because a newer version stands in their stripe.
    pub(crate) dropped_shadowed: u64,
    /// Tombstones dropped at the bottom.
    pub(crate) dropped_tombstones: u64,
    /// Expired entries dropped at the bottom.
    pub(crate) dropped_expired: u64,
    /// Entries that the filter dropped, at the bottom.
    pub(crate) dropped_filtered: u64,
    /// Entries that the filter dropped or replaced. One dropped above the bottom stays as a tombstone.
    pub(crate) filtered: u64,
}

impl JobOutput {
    fn count_dropped(&mut self, fate: Fate) {
        match fate {
            Fate::DropShadowed => self.dropped_shadowed += 1,
            Fate::DropTombstone => self.dropped_tombstones += 1,
            Fate::DropExpired => self.dropped_expired += 1,
            Fate::DropFiltered => self.dropped_filtered += 1,
            Fate::Keep | Fate::KeepAsOldest | Fate::KeepAsTombstone => {
                unreachable!("what is kept is written")
            }
        }
    }
}

/// Runs a plan that merges. Returns once the outputs and their names are durable.
pub(crate) fn run_job(plan: &CompactionPlan, ctx: &mut JobContext<'_>) -> Result<JobOutput> {
    assert_eq!(plan.action, CompactionAction::Merge, "moves and drops read nothing");
    let inputs = find_inputs(plan, ctx.version)?;
    let input_tables = || inputs.iter().flat_map(PlannedInput::tables).map(|table| table.meta());
    let mut outputs = Outputs::new(OutputContext {
        fs: ctx.fs,
        dir: ctx.dir,
        options: ctx.options,
        level: plan.output_level,
        new_file_number: ctx.new_file_number,
        write_time_min_ms: input_tables().map(|meta| meta.write_time_min_ms).min().unwrap_or(0),
        write_time_max_ms: input_tables().map(|meta| meta.write_time_max_ms).max().unwrap_or(0),
        below: ctx.version.levels.get(plan.output_level + 1).map_or(&[], |level| &level.runs),
    });
    let mut output = JobOutput {
        bytes_read: input_tables().map(|meta| meta.file_bytes).sum(),
        ..JobOutput::default()
    };
    let expected = input_tables().map(|meta| meta.entry_count).sum();
    let merged = merge(&inputs, ctx, &mut outputs, &mut output)
        .and_then(|()| check_count(&inputs, ctx.dir, output.entries_in, expected));
    let finished = merged.and_then(|()| outputs.finish()).and_then(|added| {
        if !added.is_empty() {
            ctx.fs.sync_dir(ctx.dir)?;
        }
        Ok(added)
    });
    match finished {
        Ok(added) => {
            output.entries_out = added.iter().map(|meta| meta.entry_count).sum();
            output.bytes_written = added.iter().map(|meta| meta.file_bytes).sum();
            output.added = added;
            Ok(output)
        }
        Err(error) => {
            outputs.discard();
            Err(error)
        }
    }
}

fn merge(
    inputs: &[PlannedInput<'_>],
    ctx: &mut JobContext<'_>,
    outputs: &mut Outputs<'_>,
    counts: &mut JobOutput,
) -> Result<()> {
    let source = |input: &PlannedInput<'_>| {
        let run = Arc::clone(input.run);
        RunCursor::new(Arc::clone(ctx.tables), run, input.tables.clone(), Access::Sequential)
    };
    let mut cursor = MergingCursor::new(inputs.iter().map(source).collect());
    let mut older = OlderTables::new(ctx.version, inputs);
    let mut retention = Retention::new(ctx.snapshots, ctx.now_ms).with_filter(ctx.filter);
    let mut read_bytes = 0;
    let mut poll_at = 0;
    cursor.seek_to_first()?;
    while cursor.valid() {
        let (key, trailer, value) = (cursor.key(), cursor.trailer(), cursor.value());
        let fate = retention
            .next(key, trailer, value, |key| !older.may_hold(key))
            .map_err(|error| in_table(&error, ctx.dir, cursor.current().table()))?;
        if let Some((trailer, value)) = retention.written(fate, trailer, value) {
            outputs.add(key, trailer, value)?;
        } else {
            counts.count_dropped(fate);
        }
        counts.entries_in += 1;
        read_bytes += (key.len() + value.len()) as u64;
        if read_bytes >= poll_at {
            poll_at = read_bytes + POLL_BYTES;
            (ctx.poll)(progress(outputs, read_bytes))?;
        }
        cursor.next()?;
    }
    counts.filtered = retention.filtered_count();
    (ctx.poll)(progress(outputs, read_bytes))
}

fn progress(outputs: &Outputs<'_>, read_bytes: u64) -> JobProgress {
    let (written_bytes, table_count) = (outputs.written_bytes(), outputs.table_count());
    JobProgress { read_bytes, written_bytes, table_count }
}

/// The error, which does not know where the entry came from, with the table's path.
fn in_table(error: &Error, dir: &Path, table: &Table) -> Error {
    error.clone().at(&FileKind::Table(table.meta().number).path(dir))
}

fn check_count(inputs: &[PlannedInput<'_>], dir: &Path, read: u64, expected: u64) -> Result<()> {
    if read == expected {
        return Ok(());
    }
    let tables = inputs.iter().flat_map(PlannedInput::tables);
    let numbers: Vec<String> = tables.map(|table| table.meta().number.to_string()).collect();
    let what = format!(
        "read {read} entries of the {expected} that tables {} have by the manifest",
        numbers.join(", ")
    );
    Err(Error::new(ErrorKind::Corruption, what)
        .at(dir)
        .advise("verify the tables, and restore the damaged one from a copy"))
}

/// The tables in which an older version of a key of the merge may stand: those of every run that is
/// older than the newest input and not among the inputs.
///
/// Asked with keys ascending, it only ever goes forward in each run.
struct OlderTables<'a> {
    /// The tables of each such run that were not passed yet.
    runs: Vec<&'a [Arc<Table>]>,
}

impl<'a> OlderTables<'a> {
    fn new(version: &'a Version, inputs: &[PlannedInput<'a>]) -> Self {
        let mut runs: Vec<&[Arc<Table>]> = Vec::new();
        let mut is_older = false;
        for (number, level) in version.levels.iter().enumerate() {
            for run in &level.runs {
                let input =
                    inputs.iter().find(|input| input.level == number && input.run.id == run.id);
                match input {
                    // What stays of an input's run meets no newer input: the plan would name it.
                    Some(_) => is_older = true,
                    None if is_older => runs.push(&run.tables),
                    None => {}
                }
            }
        }
        OlderTables { runs }
    }

    /// Whether a table's key range covers `key`.
    fn may_hold(&mut self, key: &[u8]) -> bool {
        self.runs.iter_mut().any(|tables| {
            while let Some((first, rest)) = tables.split_first()
                && *first.meta().largest < *key
            {
                *tables = rest;
            }
            tables.first().is_some_and(|table| *table.meta().smallest <= *key)
        })
    }
}

#[cfg(test)]
mod tests;
