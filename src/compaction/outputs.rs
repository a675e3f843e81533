//! The output tables of a merge: where one ends and the next begins.
//!
//! A table ends when it has `table_bytes`, or earlier where a table of the level below ends too:
//! outputs aligned with the tables below meet fewer of them when they go down in turn. The more of
//! those ends an output has seen, the fuller it waits to be (half full plus a twentieth for each).
//! It also ends there when the tables below it have grown too many to be merged with at once.
//! A table never ends between two versions of one user key.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::key::{FileNumber, Trailer};
use crate::options::KeyspaceOptions;
use crate::table::writer::{TableWriter, TableWriterOptions};
use crate::table::{Table, TableMeta};
use crate::version::Run;

/// An output meets at most about this many tables' worth of bytes below.
const BELOW_TABLES_MAX: u64 = 16;

/// How outputs are made.
pub(super) struct OutputContext<'a> {
    pub(super) fs: &'a dyn FileSystem,
    pub(super) dir: &'a Path,
    pub(super) options: &'a KeyspaceOptions,
    pub(super) level: usize,
    pub(super) new_file_number: &'a dyn Fn() -> FileNumber,
    pub(super) write_time_min_ms: u64,
    pub(super) write_time_max_ms: u64,
    /// The runs of the level below the output level.
    pub(super) below: &'a [Arc<Run>],
}

/// Output tables being written, one at a time.
pub(super) struct Outputs<'a> {
    ctx: OutputContext<'a>,
    writer: Option<TableWriter>,
    /// Every file that may exist, finished or not.
    created: Vec<FileNumber>,
    finished: Vec<TableMeta>,
    /// Of the finished ones.
    finished_bytes: u64,
    below: Below<'a>,
}

impl<'a> Outputs<'a> {
    pub(super) fn new(ctx: OutputContext<'a>) -> Self {
        // Only one run below can be aligned with; a level of several is not merged into piecewise.
        let tables = match ctx.below {
            [run] => &run.tables[..],
            _ => &[],
        };
        let below = Below { tables, ends_seen: 0, met_bytes: 0 };
        Outputs {
            ctx,
            writer: None,
            created: Vec::new(),
            finished: Vec::new(),
            finished_bytes: 0,
            below,
        }
    }

    /// Adds an entry, which must stand after the last one.
    pub(super) fn add(&mut self, key: &[u8], trailer: Trailer, value: &[u8]) -> Result<()> {
        let passed_end = self.below.pass(key);
        if let Some(writer) = &self.writer
            && self.is_full(writer.estimated_bytes(), passed_end)
            && writer.last_key() != key
        {
            self.finish_table()?;
        }
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
            block_bytes: ctx.options.block_bytes,
            compression: ctx.options.compression_at(ctx.level),
            filter: ctx.options.filter,
            filter_bits: ctx.options.filter_bits_at(ctx.level),
        };
        let mut writer = TableWriter::create(ctx.fs, ctx.dir, options)?;
        writer.set_write_times(ctx.write_time_min_ms, ctx.write_time_max_ms);
        Ok(writer)
    }

    fn finish_table(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let meta = writer.finish()?;
        self.finished_bytes += meta.file_bytes;
        self.finished.push(meta);
        Ok(())
    }

    /// Bytes written so far, those of the open table estimated.
    pub(super) fn written_bytes(&self) -> u64 {
        self.finished_bytes + self.writer.as_ref().map_or(0, TableWriter::estimated_bytes)
    }

    /// Tables so far, the open one included.
    pub(super) fn table_count(&self) -> u64 {
        self.created.len() as u64
    }

    /// Finishes the last table. The files are durable, their names not yet. Should the caller fail
    /// afterwards, [`Outputs::discard`] still knows them.
    pub(super) fn finish(&mut self) -> Result<Vec<TableMeta>> {
        self.finish_table()?;
        Ok(self.finished.clone())
    }

    /// Removes everything written, as far as that is possible.
    pub(super) fn discard(&mut self) {
        self.writer = None;
        for number in self.created.drain(..) {
            // The error that led here is the one worth telling; what stays is an orphan.
            let _ = self.ctx.fs.remove(&FileKind::Table(number).path(self.ctx.dir));
        }
    }
}

/// Where the output stands among the tables of the level below.
struct Below<'a> {
    /// Those that were not passed yet.
    tables: &'a [Arc<Table>],
    /// Ends of tables that the current output has passed.
    ends_seen: u64,
    /// Bytes of the tables that the current output has passed.
    met_bytes: u64,
}

impl Below<'_> {
    /// What was passed before the first key of an output does not count.
    fn start_output(&mut self) {
        self.ends_seen = 0;
        self.met_bytes = 0;
    }

    /// Goes on to `key`; whether that passes the end of a table.
    #[inline]
    fn pass(&mut self, key: &[u8]) -> bool {
        let mut passed = false;
        while let Some((first, rest)) = self.tables.split_first()
            && *first.meta().largest < *key
        {
            self.tables = rest;
            self.ends_seen += 1;
            self.met_bytes += first.meta().file_bytes;
            passed = true;
        }
        passed
    }
}
