//! Flush: a memtable becomes a table of level 0.
//!
//! One memtable gives one table, or none if nothing of it survives. Versions that no snapshot needs are left out;
//! tombstones stay, because what they hide lies below. The table's bytes and its name are durable when this returns;
//! that the tree has it is the caller's to record. Knows no `Db`, no log and no lock.

use std::path::Path;
use std::sync::Arc;

use crate::compaction::retention::Retention;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::key::{FileNumber, SequenceNumber};
use crate::memtable::MemTable;
use crate::options::KeyspaceOptions;
use crate::table::TableMeta;
use crate::table::writer::{TableWriter, TableWriterOptions};

/// The level that flush writes to.
const LEVEL: usize = 0;

/// What a flush needs besides the memtable.
#[derive(Debug)]
pub(crate) struct FlushRequest<'a> {
    pub(crate) fs: &'a dyn FileSystem,
    pub(crate) dir: &'a Path,
    /// The number of the table; also the id of its run.
    pub(crate) number: FileNumber,
    pub(crate) options: &'a KeyspaceOptions,
    /// Sequence numbers in use, ascending, the visible one last.
    pub(crate) snapshots: &'a [SequenceNumber],
}

/// Writes `memtable`, which takes no more inserts, to a table. `None`: nothing of it survived.
pub(crate) fn flush(request: &FlushRequest<'_>, memtable: &Arc<MemTable>) -> Result<Option<TableMeta>> {
    let mut writer = TableWriter::create(request.fs, request.dir, writer_options(request.number, request.options))?;
    if let Some((min_ms, max_ms)) = memtable.write_time_range_ms() {
        writer.set_write_times(min_ms, max_ms);
    }
    let filled = fill(&mut writer, request.snapshots, memtable);
    if filled.is_err() || writer.entry_count() == 0 {
        // The error is what matters; an orphan left behind is removed by the next open.
        let abandoned = writer.abandon(request.fs);
        return filled.and(abandoned).map(|()| None);
    }
    let finished = writer.finish().and_then(|meta| {
        request.fs.sync_dir(request.dir)?;
        Ok(Some(meta))
    });
    if finished.is_err() {
        let _ = request.fs.remove(&FileKind::Table(request.number).path(request.dir));
    }
    finished
}

/// How a table of level 0 is written.
fn writer_options(number: FileNumber, options: &KeyspaceOptions) -> TableWriterOptions {
    TableWriterOptions {
        number,
        block_bytes: options.block_bytes,
        compression: options.compression_at(LEVEL),
        filter_bits: options.filter_bits_at(LEVEL),
    }
}

fn fill(writer: &mut TableWriter, snapshots: &[SequenceNumber], memtable: &Arc<MemTable>) -> Result<()> {
    let mut retention = Retention::new(snapshots);
    let mut cursor = memtable.cursor();
    cursor.seek_to_first()?;
    while cursor.valid() {
        let fate = retention.next(cursor.key(), cursor.trailer(), |_| false)?;
        if let Some(trailer) = fate.trailer(cursor.trailer()) {
            writer.add(cursor.key(), trailer, cursor.value())?;
        }
        cursor.next()?;
    }
    Ok(())
}
