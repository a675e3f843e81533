//! Running a plan: merges its inputs into new tables.
//!
//! The inputs are read as one sorted stream, newest version first; [`Retention`] decides what survives; what survives is
//! written to tables that are cut at `table_bytes`, or earlier where a table of the level below ends, so that a later
//! compaction of the output drags in less. All versions of a key go into one table.
//!
//! The outputs' bytes and names are durable when this returns. The tree does not have them yet: that is the caller's to
//! record. On an error, nothing is left behind but what the next open removes. Knows no `Db`, no thread and no lock.
//!
//! # Checks
//! Exactly as many entries must be read as the inputs' metadata says: a read error that looked like an end would
//! otherwise lose the rest of a table for good.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::compaction::CompactionPlan;
use crate::compaction::retention::Retention;
use crate::cursor::Cursor;
use crate::cursor::merging::MergingCursor;
use crate::error::{Error, Result};
use crate::file_name::FileKind;
use crate::fs::{Access, FileSystem};
use crate::key::{FileNumber, SequenceNumber, Trailer};
use crate::options::KeyspaceOptions;
use crate::table::writer::{TableWriter, TableWriterOptions};
use crate::table::{Table, TableMeta};
use crate::table_cache::TableCache;
use crate::version::lookup::RunCursor;
use crate::version::{Run, RunId, Version};

/// Bytes of entries between two calls of the poll.
const POLL_BYTES: u64 = 1 << 20;

/// What a job needs besides its plan.
pub(crate) struct JobContext<'a> {
    pub(crate) fs: &'a dyn FileSystem,
    pub(crate) dir: &'a Path,
    pub(crate) tables: &'a Arc<TableCache>,
    pub(crate) options: &'a KeyspaceOptions,
    /// Sequence numbers in use, ascending, the visible one last. Taken after the inputs were chosen.
    pub(crate) snapshots: &'a [SequenceNumber],
    /// Gives a file number that was never used.
    pub(crate) new_file_number: &'a dyn Fn() -> FileNumber,
}

/// What a job made.
#[derive(Debug, Default)]
pub(crate) struct JobOutput {
    /// The new tables, in key order.
    pub(crate) added: Vec<TableMeta>,
    pub(crate) entries_in: u64,
    pub(crate) entries_out: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
}

/// Merges the inputs of `plan`, which was made of `version`. `poll` is called about every MiB; its error stops the job.
pub(crate) fn run_job(
    context: &JobContext<'_>,
    plan: &CompactionPlan,
    version: &Version,
    poll: &mut dyn FnMut() -> Result<()>,
) -> Result<JobOutput> {
    let inputs = Inputs::of(plan, version);
    let mut outputs = Outputs::new(context, plan, version, &inputs);
    let merged = merge(context, plan, version, &inputs, &mut outputs, poll);
    match merged.and_then(|entries_in| outputs.finish(entries_in)) {
        Ok(mut output) => {
            output.bytes_read = inputs.tables.iter().map(|table| table.meta().file_bytes).sum();
            Ok(output)
        }
        Err(error) => {
            outputs.discard();
            Err(error)
        }
    }
}

/// The tables of a plan.
struct Inputs {
    /// One run for each input of the plan, newest first.
    runs: Vec<Arc<Run>>,
    tables: Vec<Arc<Table>>,
    numbers: HashSet<FileNumber>,
}

impl Inputs {
    fn of(plan: &CompactionPlan, version: &Version) -> Self {
        let find = |number: &FileNumber| {
            let found = version.find_table(*number);
            let (_, _, table) = found.unwrap_or_else(|| panic!("plan names table {number}, which is not in the tree"));
            Arc::clone(table)
        };
        let runs: Vec<_> = plan
            .inputs
            .iter()
            .map(|input| Arc::new(Run::new(input.run, input.tables.iter().map(find).collect())))
            .collect();
        let tables: Vec<_> = runs.iter().flat_map(|run| run.tables.iter().cloned()).collect();
        let numbers = tables.iter().map(|table| table.meta().number).collect();
        Inputs { runs, tables, numbers }
    }

    fn entry_count(&self) -> u64 {
        self.tables.iter().map(|table| table.meta().entry_count).sum()
    }
}

/// Feeds every input entry through retention into `outputs`. Returns how many there were.
fn merge(
    context: &JobContext<'_>,
    plan: &CompactionPlan,
    version: &Version,
    inputs: &Inputs,
    outputs: &mut Outputs<'_>,
    poll: &mut dyn FnMut() -> Result<()>,
) -> Result<u64> {
    let cursors = inputs.runs.iter();
    let cursors =
        cursors.map(|run| RunCursor::new(Arc::clone(run), Arc::clone(context.tables), Access::Sequential));
    let mut merge = MergingCursor::new(cursors.collect());
    let mut retention = Retention::new(context.snapshots);
    let mut beneath = Beneath::new(plan, version, inputs);
    let (mut entries_in, mut bytes_since_poll) = (0u64, 0u64);
    merge.seek_to_first()?;
    while merge.valid() {
        let (key, trailer) = (merge.key(), merge.trailer());
        entries_in += 1;
        bytes_since_poll += (key.len() + merge.value().len()) as u64;
        let fate = retention.next(key, trailer, |key| !beneath.may_hold(key))?;
        if let Some(trailer) = fate.trailer(trailer) {
            outputs.add(key, trailer, merge.value())?;
        }
        merge.next()?;
        if bytes_since_poll >= POLL_BYTES {
            bytes_since_poll = 0;
            poll()?;
        }
    }
    let expected = inputs.entry_count();
    if entries_in != expected {
        let what = format!("compaction read {entries_in} entries of tables that hold {expected}");
        let first = inputs.tables.first().map(|table| table.meta().number).unwrap_or_default();
        return Err(Error::corruption(&FileKind::Table(first).path(context.dir), 0, what));
    }
    Ok(entries_in)
}

/// The tables that may hold older versions than the merge: what lies below the output. Asked with keys ascending.
struct Beneath {
    /// For each run, its tables that are no inputs, and the first that does not end before the last key asked.
    runs: Vec<(Vec<Arc<Table>>, usize)>,
}

impl Beneath {
    fn new(plan: &CompactionPlan, version: &Version, inputs: &Inputs) -> Self {
        let is_beneath = |level: usize, run: RunId| {
            level > plan.output_level || (level == plan.output_level && run < plan.output_run)
        };
        let mut runs = Vec::new();
        for (level, tree_level) in version.levels.iter().enumerate() {
            for run in tree_level.runs.iter().filter(|run| is_beneath(level, run.id)) {
                let stays = |table: &&Arc<Table>| !inputs.numbers.contains(&table.meta().number);
                let tables: Vec<_> = run.tables.iter().filter(stays).cloned().collect();
                if !tables.is_empty() {
                    runs.push((tables, 0));
                }
            }
        }
        Beneath { runs }
    }

    fn may_hold(&mut self, key: &[u8]) -> bool {
        self.runs.iter_mut().any(|(tables, index)| {
            while tables.get(*index).is_some_and(|table| *table.meta().largest < *key) {
                *index += 1;
            }
            tables.get(*index).is_some_and(|table| *table.meta().smallest <= *key)
        })
    }
}

/// Writes the survivors.
struct Outputs<'a> {
    context: &'a JobContext<'a>,
    output_level: usize,
    write_times_ms: (u64, u64),
    writer: Option<TableWriter>,
    finished: Vec<TableMeta>,
    grandparents: Grandparents,
}

impl<'a> Outputs<'a> {
    fn new(context: &'a JobContext<'a>, plan: &CompactionPlan, version: &Version, inputs: &Inputs) -> Self {
        let metas = || inputs.tables.iter().map(|table| table.meta());
        let oldest_ms = metas().map(|meta| meta.write_time_min_ms).min().unwrap_or(0);
        let newest_ms = metas().map(|meta| meta.write_time_max_ms).max().unwrap_or(0);
        Outputs {
            context,
            output_level: plan.output_level,
            write_times_ms: (oldest_ms, newest_ms),
            writer: None,
            finished: Vec::new(),
            grandparents: Grandparents::new(version, plan.output_level),
        }
    }

    fn add(&mut self, key: &[u8], trailer: Trailer, value: &[u8]) -> Result<()> {
        if self.should_cut(key) {
            self.finish_table()?;
        }
        if self.writer.is_none() {
            self.writer = Some(self.new_writer()?);
        }
        let writer = self.writer.as_mut().expect("it was just made");
        writer.add(key, trailer, value)
    }

    /// Whether the table should end before `key`. Never between two versions of a key.
    fn should_cut(&mut self, key: &[u8]) -> bool {
        let Some(writer) = &self.writer else {
            self.grandparents.start(key);
            return false;
        };
        if writer.last_key() == key {
            return false;
        }
        let bytes = writer.estimated_bytes();
        let limit_bytes = self.context.options.table_bytes;
        let cut = bytes >= limit_bytes || self.grandparents.ends_before(key, bytes, limit_bytes);
        if cut {
            self.grandparents.start(key);
        }
        cut
    }

    fn new_writer(&self) -> Result<TableWriter> {
        let options = self.context.options;
        let writer_options = TableWriterOptions {
            number: (self.context.new_file_number)(),
            block_bytes: options.block_bytes,
            compression: options.compression_at(self.output_level),
            filter_bits: options.filter_bits_at(self.output_level),
        };
        let mut writer = TableWriter::create(self.context.fs, self.context.dir, writer_options)?;
        writer.set_write_times(self.write_times_ms.0, self.write_times_ms.1);
        Ok(writer)
    }

    fn finish_table(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            self.finished.push(writer.finish()?);
        }
        Ok(())
    }

    fn finish(&mut self, entries_in: u64) -> Result<JobOutput> {
        self.finish_table()?;
        if !self.finished.is_empty() {
            self.context.fs.sync_dir(self.context.dir)?;
        }
        let added = std::mem::take(&mut self.finished);
        Ok(JobOutput {
            entries_in,
            entries_out: added.iter().map(|meta| meta.entry_count).sum(),
            bytes_read: 0,
            bytes_written: added.iter().map(|meta| meta.file_bytes).sum(),
            added,
        })
    }

    /// Removes what was written. Failures leave orphans, which the next open removes.
    fn discard(&mut self) {
        if let Some(writer) = self.writer.take() {
            let _ = writer.abandon(self.context.fs);
        }
        for meta in self.finished.drain(..) {
            let _ = self.context.fs.remove(&FileKind::Table(meta.number).path(self.context.dir));
        }
    }
}

/// The tables of the level below the output, which a later compaction of the output will drag in. RocksDB found that
/// ending outputs where these end, once they are half full, writes about a tenth less.
struct Grandparents {
    tables: Vec<Arc<Table>>,
    /// The first table that does not end before the last key seen.
    index: usize,
    /// Table ends passed since the present output began.
    passed_count: u64,
}

impl Grandparents {
    fn new(version: &Version, output_level: usize) -> Self {
        let below = version.levels.get(output_level + 1);
        // With several runs there is no telling what a later compaction takes; then only the size counts.
        let tables = match below.map(|level| level.runs.as_slice()) {
            Some([run]) => run.tables.clone(),
            _ => Vec::new(),
        };
        Grandparents { tables, index: 0, passed_count: 0 }
    }

    fn advance(&mut self, key: &[u8]) -> u64 {
        let before = self.index;
        while self.tables.get(self.index).is_some_and(|table| *table.meta().largest < *key) {
            self.index += 1;
        }
        (self.index - before) as u64
    }

    /// An output begins with `key`.
    fn start(&mut self, key: &[u8]) {
        self.advance(key);
        self.passed_count = 0;
    }

    /// Whether a table ends between the last key and `key`, and the output of `bytes` is full enough to end there too.
    fn ends_before(&mut self, key: &[u8], bytes: u64, limit_bytes: u64) -> bool {
        let passed = self.advance(key);
        if passed == 0 {
            return false;
        }
        let enough_percent = 50 + 5 * self.passed_count.min(8);
        self.passed_count += passed;
        bytes >= limit_bytes / 100 * enough_percent
    }
}
