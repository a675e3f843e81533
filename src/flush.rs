//! Flush: writes memtables out as one table of level 0.
//!
//! One table holds all of them: level 0 counts runs, and a flushed run is one table. Versions that
//! no snapshot needs are left out, so a key overwritten many times within a memtable costs one
//! entry; what has expired becomes a tombstone. Nothing is known here of the tree below, so
//! tombstones and sequence numbers stay.
//!
//! # Rules
//! * The memtables of [`flush`] are frozen: nobody writes to them any more.
//! * The table and its name are durable when [`flush`] returns; the manifest edit comes after that.
//! * An error leaves nothing behind, as far as the file can be removed.

use std::path::Path;
use std::sync::Arc;

use crate::compaction::retention::Retention;
use crate::cursor::Cursor;
use crate::cursor::merging::MergingCursor;
use crate::error::Result;
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::memtable::MemTable;
use crate::options::KeyspaceOptions;
use crate::table::TableMeta;
use crate::table::writer::{TableWriter, TableWriterOptions};

/// What a flush works with.
#[derive(Clone, Copy)]
pub(crate) struct FlushContext<'a> {
    pub(crate) fs: &'a dyn FileSystem,
    /// The database's directory.
    pub(crate) dir: &'a Path,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) options: &'a KeyspaceOptions,
    /// The sequence numbers in use, ascending; the last is the visible one.
    pub(crate) snapshots: &'a [SequenceNumber],
    /// The table's number.
    pub(crate) number: FileNumber,
    /// The time: by it expiry is judged, and it is the write time of entries whose memtable has
    /// noted none.
    pub(crate) now_ms: u64,
}

/// Writes `memtables`, newest first, as one table; `None` if they are empty.
pub(crate) fn flush(
    memtables: &[Arc<MemTable>],
    ctx: &FlushContext<'_>,
) -> Result<Option<TableMeta>> {
    let written = write_table(memtables, SequenceNumber::MAX, ctx)?;
    let expected: u64 = memtables.iter().map(|memtable| memtable.entry_count()).sum();
    let count = written.as_ref().map_or(0, |(_, count)| *count);
    assert_eq!(count, expected, "a flush writes every entry of its frozen memtables");
    Ok(written.map(|(meta, _)| meta))
}

/// As [`flush`], of memtables that may be written to meanwhile, for a copy of the database as of one moment: only what
/// `sequence` sees is written, and of that only what a reader at `sequence` can still ask for.
pub(crate) fn copy_visible(
    memtables: &[Arc<MemTable>],
    sequence: SequenceNumber,
    ctx: &FlushContext<'_>,
) -> Result<Option<TableMeta>> {
    Ok(write_table(memtables, sequence, ctx)?.map(|(meta, _)| meta))
}

/// Writes the entries up to `sequence`, and says how many it read; `None` if there are none.
fn write_table(
    memtables: &[Arc<MemTable>],
    sequence: SequenceNumber,
    ctx: &FlushContext<'_>,
) -> Result<Option<(TableMeta, u64)>> {
    let mut cursor = MergingCursor::new(memtables.iter().map(MemTable::cursor).collect());
    cursor.seek_to_first()?;
    skip_newer(&mut cursor, sequence)?;
    if !cursor.valid() {
        return Ok(None);
    }
    let written = write(&mut cursor, memtables, sequence, ctx);
    if written.is_err() {
        // The error is the one worth telling; a file that stays is an orphan, deleted at open.
        let _ = ctx.fs.remove(&FileKind::Table(ctx.number).path(ctx.dir));
    }
    written.map(Some)
}

/// Moves to the next entry that `sequence` sees, unless the cursor stands on one.
fn skip_newer(cursor: &mut impl Cursor, sequence: SequenceNumber) -> Result<()> {
    while cursor.valid() && cursor.trailer().sequence() > sequence {
        cursor.next()?;
    }
    Ok(())
}

fn write(
    cursor: &mut impl Cursor,
    memtables: &[Arc<MemTable>],
    sequence: SequenceNumber,
    ctx: &FlushContext<'_>,
) -> Result<(TableMeta, u64)> {
    let options = TableWriterOptions {
        number: ctx.number,
        keyspace: ctx.keyspace,
        block_bytes: ctx.options.block_bytes,
        compression: ctx.options.compression_at(0),
        filter: ctx.options.filter,
        filter_bits: ctx.options.filter_bits_at(0),
    };
    let mut writer = TableWriter::create(ctx.fs, ctx.dir, options)?;
    let (min_ms, max_ms) = memtables
        .iter()
        .map(|memtable| memtable.write_time_range_ms().unwrap_or((ctx.now_ms, ctx.now_ms)))
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
        .unwrap_or((ctx.now_ms, ctx.now_ms));
    writer.set_write_times(min_ms, max_ms);

    let mut retention = Retention::new(ctx.snapshots, ctx.now_ms);
    let mut entries = 0;
    while cursor.valid() {
        let (key, trailer, value) = (cursor.key(), cursor.trailer(), cursor.value());
        let fate = retention.next(key, trailer, value, |_| false)?;
        if let Some((trailer, value)) = fate.written(trailer, value) {
            writer.add(key, trailer, value)?;
        }
        entries += 1;
        cursor.next()?;
        skip_newer(cursor, sequence)?;
    }
    let meta = writer.finish()?;
    ctx.fs.sync_dir(ctx.dir)?;
    Ok((meta, entries))
}

#[cfg(test)]
mod tests;
