//! The output tables of a merge: where one ends and the next begins.
//!
//! A table ends when it has `table_bytes`, or earlier where a table of the level below ends too:
//! outputs aligned with the tables below meet fewer of them when they go down in turn. The more of
//! those ends an output has seen, the fuller it waits to be (half full plus a twentieth for each).
//! It also ends there when the tables below it have grown too many to be merged with at once.
//! A table never ends between two versions of one user key.
//!
//! The caller may take finished tables while the merge goes on, to install them.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::key::{FileNumber, KeyspaceId, Trailer};
use crate::options::KeyspaceOptions;
use crate::table::TableMeta;
use crate::table::writer::{TableWriter, TableWriterOptions};
use crate::version::Run;

/// An output meets at most about this many tables' worth of bytes below.
const BELOW_TABLES_MAX: u64 = 16;

/// How outputs are made.
pub(super) struct OutputContext<'a> {
    pub(super) fs: &'a dyn FileSystem,
    pub(super) dir: &'a Path,
    pub(super) keyspace: KeyspaceId,
    pub(super) options: &'a KeyspaceOptions,
    pub(super) level: usize,
    pub(super) new_file_number: &'a dyn Fn() -> FileNumber,
    pub(super) write_time_min_ms: u64,
    pub(super) write_time_max_ms: u64,
    /// The only run of the level below the output level.
    pub(super) below: Option<Arc<Run>>,
}

/// Output tables being written, one at a time.
pub(super) struct Outputs<'a> {
    ctx: OutputContext<'a>,
    writer: Option<TableWriter>,
    /// Every file that may exist, finished or not.
    created: Vec<FileNumber>,
    /// Those that the caller has not taken yet.
    finished: Vec<TableMeta>,
    /// Of those.
    finished_bytes: u64,
    /// Of those that the caller took.
    taken_count: u64,
    taken_bytes: u64,
    taken_entries: u64,
    below: Below,
}

impl<'a> Outputs<'a> {
    pub(super) fn new(ctx: OutputContext<'a>) -> Self {
        let below = Below { run: ctx.below.clone(), at: 0, ends_seen: 0, met_bytes: 0 };
        Outputs {
            ctx,
            writer: None,
            created: Vec::new(),
            finished: Vec::new(),
            finished_bytes: 0,
            taken_count: 0,
            taken_bytes: 0,
            taken_entries: 0,
            below,
        }
    }

    /// Goes on to `key`, of which no version was added yet; whether the open table should end before
    /// it.
    #[inline]
    pub(super) fn ends_before(&mut self, key: &[u8]) -> bool {
        let passed_end = self.below.pass(key);
        let Some(writer) = &self.writer else { return false };
        self.is_full(writer.estimated_bytes(), passed_end)
    }

    /// Adds an entry, which must stand after the last one.
    pub(super) fn add(&mut self, key: &[u8], trailer: Trailer, value: &[u8]) -> Result<()> {
        let writer = if let Some(writer) = &mut self.writer {
            writer
        } else {
            self.below.start_output();
            let number = (self.ctx.new_file_number)();
            self.created.push(number);
            self.writer.insert(Self::create(&self.ctx, number)?)
        };
        writer.add(key, trailer, value)
    }

    fn is_full(&self, bytes: u64, passed_end: bool) -> bool {
        let table_bytes = self.ctx.options.table_bytes;
        let aligned_bytes = table_bytes / 20 * (10 + self.below.ends_seen.min(8));
        let is_wide = self.below.met_bytes / BELOW_TABLES_MAX >= table_bytes;
        bytes >= table_bytes || (passed_end && (bytes >= aligned_bytes || is_wide))
    }

    fn create(ctx: &OutputContext<'_>, number: FileNumber) -> Result<TableWriter> {
        let options = TableWriterOptions {
            number,
            keyspace: ctx.keyspace,
            block_bytes: ctx.options.block_bytes,
            compression: ctx.options.compression_at(ctx.level),
            filter: ctx.options.filter,
            filter_bits: ctx.options.filter_bits_at(ctx.level),
        };
        let mut writer = TableWriter::create(ctx.fs, ctx.dir, options)?;
        writer.set_write_times(ctx.write_time_min_ms, ctx.write_time_max_ms);
        Ok(writer)
    }

    /// Finishes the open table. Its bytes are durable, its name not yet.
    pub(super) fn finish_table(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let meta = writer.finish()?;
        self.finished_bytes += meta.file_bytes;
        self.finished.push(meta);
        Ok(())
    }

    /// Bytes written so far, those of the open table estimated.
    pub(super) fn written_bytes(&self) -> u64 {
        let open_bytes = self.writer.as_ref().map_or(0, TableWriter::estimated_bytes);
        self.taken_bytes + self.finished_bytes + open_bytes
    }

    /// Tables so far, the open one included.
    pub(super) fn table_count(&self) -> u64 {
        self.taken_count + self.created.len() as u64
    }

    /// Of the finished tables that were not taken yet.
    pub(super) fn finished_bytes(&self) -> u64 {
        self.finished_bytes
    }

    /// Hands over the finished tables; none is open. They are the caller's now, and
    /// [`Outputs::discard`] knows nothing of them any more.
    pub(super) fn take_finished(&mut self) -> Vec<TableMeta> {
        assert!(self.writer.is_none(), "what is handed over is whole");
        self.created.clear();
        self.taken_count += self.finished.len() as u64;
        self.taken_bytes += std::mem::take(&mut self.finished_bytes);
        self.taken_entries += self.finished.iter().map(|meta| meta.entry_count).sum::<u64>();
        std::mem::take(&mut self.finished)
    }

    /// Entries and bytes of all tables taken.
    pub(super) fn taken(&self) -> (u64, u64) {
        (self.taken_entries, self.taken_bytes)
    }

    /// Removes everything that was written and not taken, as far as that is possible.
    pub(super) fn discard(&mut self) {
        self.writer = None;
        for number in self.created.drain(..) {
            // The error that led here is the one worth telling; what stays is an orphan.
            let _ = self.ctx.fs.remove(&FileKind::Table(number).path(self.ctx.dir));
        }
    }
}

/// Where the output stands among the tables of the level below.
struct Below {
    run: Option<Arc<Run>>,
    /// The first table that was not passed yet.
    at: usize,
    /// Ends of tables that the current output has passed.
    ends_seen: u64,
    /// Bytes of the tables that the current output has passed.
    met_bytes: u64,
}

impl Below {
    /// What was passed before the first key of an output does not count.
    fn start_output(&mut self) {
        self.ends_seen = 0;
        self.met_bytes = 0;
    }

    /// Goes on to `key`; whether that passes the end of a table.
    #[inline]
    fn pass(&mut self, key: &[u8]) -> bool {
        let Some(run) = &self.run else { return false };
        let before = self.at;
        while let Some(table) = run.tables.get(self.at)
            && *table.meta().largest < *key
        {
            self.at += 1;
            self.ends_seen += 1;
            self.met_bytes += table.meta().file_bytes;
        }
        self.at > before
    }
}
