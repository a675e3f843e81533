//! The merge job: runs a plan.
//!
//! A job reads the plan's inputs once, in order, through one cursor for each run; decides with
//! [`retention`](crate::compaction::retention) what stays; and writes tables. It is the same for
//! every strategy, and does not know [`Db`](crate::db): the caller installs the outputs.
//!
//! # Rules
//! * The version is the one that the plan was made for, and the snapshots are taken before the job
//!   begins and not looked at again.
//! * Every output is synced, and then the directory, before the caller gets it. The manifest edit
//!   comes after that.
//! * An error leaves nothing behind: outputs are removed as far as that is possible. What cannot be
//!   removed is an orphan, which the next open deletes.
//! * As many entries are read as the manifest says the inputs have. A read that ends early would
//!   lose data silently; it is corruption.
//! * All versions of a user key go into one output.
//!
//! # Slices
//! A long merge is installed piece by piece, so that its inputs are freed while it runs
//! ([`slice`](crate::compaction::slice) says why that is right): whenever enough outputs are
//! finished, they are made durable and given to [`Slices::install`]. Once given they are not the
//! job's any more: an error later on removes only what was not given. For the files to be freed,
//! nobody may hold the version that the plan was made for, so the job takes it over, keeps what it
//! needs of it, and lets it go.

use std::path::Path;
use std::sync::Arc;

use crate::compaction::filter::MergeFilter;
use crate::compaction::outputs::{OutputContext, Outputs};
use crate::compaction::planned::{PlannedInput, find_inputs};
use crate::compaction::retention::{Fate, Retention};
use crate::compaction::slice::{InputProgress, ReadEntry, Replacement};
use crate::compaction::{CompactionAction, CompactionPlan};
use crate::cursor::Cursor;
use crate::cursor::merging::MergingCursor;
use crate::error::{Error, Result};
use crate::expiry::user_value_len;
use crate::file_name::FileKind;
use crate::fs::{Access, FileSystem};
use crate::key::{FileNumber, KeyspaceId, SequenceNumber, Trailer};
use crate::options::KeyspaceOptions;
use crate::table::Table;
use crate::table_cache::TableCache;
use crate::table_cache::run_cursor::RunCursor;
use crate::version::{Run, Version};

/// Bytes of entries read between two calls of [`JobContext::poll`].
const POLL_BYTES: u64 = 1 << 20;

/// What a job works with.
pub(crate) struct JobContext<'a> {
    pub(crate) fs: &'a dyn FileSystem,
    /// The database's directory.
    pub(crate) dir: &'a Path,
    pub(crate) tables: &'a Arc<TableCache>,
    /// Whose tree it is.
    pub(crate) keyspace: KeyspaceId,
    pub(crate) options: &'a KeyspaceOptions,
    /// The sequence numbers in use, ascending; the last is the visible one.
    pub(crate) snapshots: &'a [SequenceNumber],
    /// The time by which expiry is judged, taken when the job began.
    pub(crate) now_ms: u64,
    /// The user's filter, if there is one.
    pub(crate) filter: Option<MergeFilter>,
    /// Gives each output its number.
    pub(crate) new_file_number: &'a dyn Fn() -> FileNumber,
    /// Called every [`POLL_BYTES`] and at the end: may wait, or end the job with an error.
    pub(crate) poll: &'a mut dyn FnMut(JobProgress) -> Result<()>,
    /// How it is installed in slices; `None`: at once, by the caller.
    pub(crate) slices: Option<Slices<'a>>,
}

/// What holds for all of a merge, whoever runs it in however many parts.
#[derive(Clone, Debug)]
pub(crate) struct MergeTerms {
    /// Whose tree it is.
    pub(crate) keyspace: KeyspaceId,
    pub(crate) options: Arc<KeyspaceOptions>,
    /// The sequence numbers in use, ascending; the last is the visible one.
    pub(crate) snapshots: Vec<SequenceNumber>,
    /// The time by which expiry is judged.
    pub(crate) now_ms: u64,
    /// The user's filter, if there is one.
    pub(crate) filter: Option<MergeFilter>,
}

/// How a job is installed in slices.
pub(crate) struct Slices<'a> {
    /// Bytes of outputs that make a slice.
    pub(crate) bytes: u64,
    /// Installs a slice. An error ends the job.
    pub(crate) install: &'a mut dyn FnMut(Replacement) -> Result<()>,
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
    /// What is still to be installed: all of it, if there were no slices.
    pub(crate) rest: Replacement,
    /// Slices installed before.
    pub(crate) slice_count: u64,
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

/// Runs a plan that merges. Returns once the outputs and their names are durable. `version` is the
/// tree that the plan was made for; whoever else holds it keeps the inputs' files from being freed.
pub(crate) fn run_job(
    plan: &CompactionPlan,
    version: Arc<Version>,
    ctx: &mut JobContext<'_>,
) -> Result<JobOutput> {
    let inputs = MergeInputs::new(plan, &version)?;
    drop(version);
    let merge = Merge::new(&inputs, None, ctx);
    drop(inputs);
    merge.run_to_end()
}

/// What a merge reads, and all that it needs to know of the tree. It does not hold on to the tree's
/// own runs where these are inputs: they would hold on to tables that a sliced merge lets go.
pub(super) struct MergeInputs {
    /// The inputs, newest first.
    pub(super) runs: Vec<Arc<Run>>,
    older: Vec<Arc<Run>>,
    below: Option<Arc<Run>>,
    output_level: usize,
    write_time_min_ms: u64,
    write_time_max_ms: u64,
    pub(super) file_bytes: u64,
    pub(super) entry_count: u64,
}

impl MergeInputs {
    /// The inputs of `plan`, which was made for `version`.
    pub(super) fn new(plan: &CompactionPlan, version: &Version) -> Result<Self> {
        assert_eq!(plan.action, CompactionAction::Merge, "moves and drops read nothing");
        let inputs = find_inputs(plan, version)?;
        let metas = || inputs.iter().flat_map(PlannedInput::tables).map(|table| table.meta());
        // Only one run below can be aligned with; a level of several is not merged into piecewise.
        let below = match version.levels.get(plan.output_level + 1).map(|level| &level.runs[..]) {
            Some([run]) => Some(Arc::clone(run)),
            _ => None,
        };
        let run = |input: &PlannedInput<'_>| Run::new(input.run.id, input.tables().to_vec());
        Ok(MergeInputs {
            runs: inputs.iter().map(|input| Arc::new(run(input))).collect(),
            older: older_runs(version, &inputs),
            below,
            output_level: plan.output_level,
            write_time_min_ms: metas().map(|meta| meta.write_time_min_ms).min().unwrap_or(0),
            write_time_max_ms: metas().map(|meta| meta.write_time_max_ms).max().unwrap_or(0),
            file_bytes: metas().map(|meta| meta.file_bytes).sum(),
            entry_count: metas().map(|meta| meta.entry_count).sum(),
        })
    }
}

/// The keys from `start` on that are below `end`; no bound where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyRange<'a> {
    pub(super) start: Option<&'a [u8]>,
    pub(super) end: Option<&'a [u8]>,
}

/// A merge that runs.
pub(super) struct Merge<'a, 'c> {
    ctx: &'c mut JobContext<'a>,
    /// The part of the keys that is merged; `None`: all of them.
    range: Option<KeyRange<'a>>,
    cursor: MergingCursor<RunCursor>,
    /// Of each source of `cursor`, if all keys are merged.
    progress: Vec<InputProgress>,
    older: OlderTables,
    retention: Retention<'a>,
    outputs: Outputs<'a>,
    counts: JobOutput,
}

impl<'a, 'c> Merge<'a, 'c> {
    pub(super) fn new(
        inputs: &MergeInputs,
        range: Option<KeyRange<'a>>,
        ctx: &'c mut JobContext<'a>,
    ) -> Self {
        let outputs = Outputs::new(OutputContext {
            fs: ctx.fs,
            dir: ctx.dir,
            keyspace: ctx.keyspace,
            options: ctx.options,
            level: inputs.output_level,
            new_file_number: ctx.new_file_number,
            write_time_min_ms: inputs.write_time_min_ms,
            write_time_max_ms: inputs.write_time_max_ms,
            below: inputs.below.clone(),
        });
        let source = |run: &Arc<Run>| {
            let (tables, run) = (0..run.tables.len(), Arc::clone(run));
            RunCursor::new(Arc::clone(ctx.tables), run, tables, Access::Sequential)
        };
        let progress = |run: &Arc<Run>| {
            InputProgress::new(run.tables.iter().map(|table| table.meta().clone()))
        };
        let is_whole = range.is_none();
        Merge {
            range,
            cursor: MergingCursor::new(inputs.runs.iter().map(source).collect()),
            progress: inputs.runs.iter().filter(|_| is_whole).map(progress).collect(),
            older: OlderTables { runs: inputs.older.iter().cloned().map(|run| (run, 0)).collect() },
            retention: Retention::new(ctx.snapshots, ctx.now_ms).with_filter(ctx.filter.clone()),
            outputs,
            counts: JobOutput { bytes_read: inputs.file_bytes, ..JobOutput::default() },
            ctx,
        }
    }

    /// Merges everything. An error leaves nothing behind but what was given to be installed.
    pub(super) fn run_to_end(mut self) -> Result<JobOutput> {
        let merged = self.run().and_then(|()| self.finish());
        if merged.is_err() {
            self.outputs.discard();
        }
        merged
    }

    fn seek_to_start(&mut self) -> Result<()> {
        match self.range.and_then(|range| range.start) {
            Some(start) => self.cursor.seek(start, Trailer::NEWEST),
            None => self.cursor.seek_to_first(),
        }
    }

    fn run(&mut self) -> Result<()> {
        let mut read_bytes = 0;
        let mut poll_at = 0;
        let mut key_number = 0;
        let end = self.range.and_then(|range| range.end);
        self.seek_to_start()?;
        while self.cursor.valid() {
            let (key, trailer, value) =
                (self.cursor.key(), self.cursor.trailer(), self.cursor.value());
            if end.is_some_and(|end| key >= end) {
                break;
            }
            let fate = self
                .retention
                .next(key, trailer, value, |key| !self.older.may_hold(key))
                .map_err(|error| in_table(&error, self.ctx.dir, self.cursor.current().table()))?;
            key_number += u64::from(self.retention.begins_key());
            if self.retention.begins_key() && self.outputs.ends_before(key) {
                self.end_output()?;
            }
            let (key, value) = (self.cursor.key(), self.cursor.value());
            if let Some((trailer, value)) = self.retention.written(fate, trailer, value) {
                self.outputs.add(key, trailer, value)?;
            } else {
                self.counts.count_dropped(fate);
            }
            self.counts.entries_in += 1;
            let lens = (key.len(), user_value_len(trailer, value.len()));
            if let Some(progress) = self.progress.get_mut(self.cursor.current_index()) {
                let at = self.cursor.current().table_index();
                let (key_len, value_len) = lens;
                let is_tombstone = trailer.is_tombstone();
                let entry = ReadEntry { key_number, key_len, value_len, is_tombstone };
                progress.note(at, entry, self.ctx.dir)?;
            }
            read_bytes += (lens.0 + lens.1) as u64;
            if read_bytes >= poll_at {
                poll_at = read_bytes + POLL_BYTES;
                let progress = self.job_progress(read_bytes);
                (self.ctx.poll)(progress)?;
            }
            self.cursor.next()?;
        }
        self.counts.filtered = self.retention.filtered_count();
        let progress = self.job_progress(read_bytes);
        (self.ctx.poll)(progress)
    }

    fn job_progress(&self, read_bytes: u64) -> JobProgress {
        let (written_bytes, table_count) =
            (self.outputs.written_bytes(), self.outputs.table_count());
        JobProgress { read_bytes, written_bytes, table_count }
    }

    /// Ends the open output before the key that the cursor stands on, and the slice if it is due.
    fn end_output(&mut self) -> Result<()> {
        self.outputs.finish_table()?;
        let is_due = |slices: &Slices<'_>| self.outputs.finished_bytes() >= slices.bytes;
        if !self.ctx.slices.as_ref().is_some_and(is_due) {
            return Ok(());
        }
        let slice = self.end_slice()?;
        // First, so that the caller can free the files of what leaves the tree.
        self.cursor.for_each_source(RunCursor::forget_passed);
        self.counts.slice_count += 1;
        let slices = self.ctx.slices.as_mut().expect("found above");
        (slices.install)(slice)
    }

    /// What is to be installed now: every version of the keys before the cursor is in finished
    /// outputs, or was dropped.
    fn end_slice(&mut self) -> Result<Replacement> {
        let mut slice = Replacement::default();
        for (source, progress) in self.cursor.sources().iter().zip(&mut self.progress) {
            let position = source.valid().then(|| (source.table_index(), source.key()));
            progress.end_slice(position, &mut slice, self.ctx.dir)?;
        }
        if self.outputs.finished_bytes() > 0 {
            self.ctx.fs.sync_dir(self.ctx.dir)?;
        }
        // From here on they are the caller's: an edit may name them, even one that failed.
        slice.added = self.outputs.take_finished();
        Ok(slice)
    }

    fn finish(&mut self) -> Result<JobOutput> {
        self.outputs.finish_table()?;
        let rest = self.end_slice()?;
        (self.counts.entries_out, self.counts.bytes_written) = self.outputs.taken();
        Ok(JobOutput { rest, ..std::mem::take(&mut self.counts) })
    }
}

/// The error, which does not know where the entry came from, with the table's path.
fn in_table(error: &Error, dir: &Path, table: &Table) -> Error {
    error.clone().at(&FileKind::Table(table.meta().number).path(dir))
}

/// The runs that are older than the newest input, without the inputs themselves.
///
/// What stays of an input's run is older than the newer inputs, and may meet them where the outputs go above it. What
/// stays of the newest input's run meets nothing of that run, and counts for nothing.
fn older_runs(version: &Version, inputs: &[PlannedInput<'_>]) -> Vec<Arc<Run>> {
    let mut older = Vec::new();
    let mut is_older = false;
    for (number, level) in version.levels.iter().enumerate() {
        for run in &level.runs {
            let mut is_input = false;
            let mut staying = run.tables.clone();
            for input in inputs.iter().filter(|it| (it.level, it.run.id) == (number, run.id)) {
                is_input = true;
                let chosen =
                    |table: &Arc<Table>| input.tables().iter().any(|it| Arc::ptr_eq(it, table));
                staying.retain(|table| !chosen(table));
            }
            if is_older && !is_input {
                older.push(Arc::clone(run));
            } else if is_older && !staying.is_empty() {
                older.push(Arc::new(Run::new(run.id, staying)));
            }
            is_older |= is_input;
        }
    }
    older
}

/// The tables in which an older version of a key of the merge may stand, as [`older_runs`] finds them.
///
/// Asked with keys ascending, it only ever goes forward in each run.
struct OlderTables {
    /// Each such run, and the first of its tables that was not passed yet.
    runs: Vec<(Arc<Run>, usize)>,
}

impl OlderTables {
    /// Whether a table's key range covers `key`.
    fn may_hold(&mut self, key: &[u8]) -> bool {
        self.runs.iter_mut().any(|(run, at)| {
            while let Some(table) = run.tables.get(*at)
                && *table.meta().largest < *key
            {
                *at += 1;
            }
            run.tables.get(*at).is_some_and(|table| *table.meta().smallest <= *key)
        })
    }
}

#[cfg(test)]
mod tests;
