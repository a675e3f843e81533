//! Flushing the oldest immutable memtable of a keyspace.
//!
//! # The prefix rule
//! A flush makes the writes of one keyspace durable. Writes of other keyspaces with lower sequence numbers may still be
//! in unsynced log bytes only; a power loss would then keep the newer and lose the older, or half of a batch. So if
//! another keyspace has anything in memory, the log is synced before the edit is.

use std::sync::Arc;
use std::time::Duration;

use crate::db::install::install_flush;
use crate::db::state::{Inner, KeyspaceCore, Memory};
use crate::error::Result;
use crate::event::{Event, FlushBegin, FlushEnd};
use crate::flush::{FlushContext, flush};
use crate::table::TableMeta;

/// Flushes the oldest immutable memtable of `core`, if there is one.
pub(crate) fn run(inner: &Inner, core: &KeyspaceCore) -> Result<()> {
    let Some(memory) = core.view.load().immutables.last().cloned() else { return Ok(()) };
    inner.listeners.emit(|| {
        Event::FlushBegin(FlushBegin {
            keyspace: Arc::clone(&core.name),
            memtable_bytes: memory.table.bytes(),
            entry_count: memory.table.entry_count(),
        })
    });
    let start_ns = inner.clock.monotonic_ns();
    let result = flush_memory(inner, core, &memory, start_ns);
    inner.listeners.emit(|| {
        let made = result.as_ref().ok().and_then(Option::as_ref);
        Event::FlushEnd(FlushEnd {
            keyspace: Arc::clone(&core.name),
            table: made.map(|meta| meta.number),
            bytes_written: made.map_or(0, |meta| meta.file_bytes),
            duration: Duration::from_nanos(inner.clock.monotonic_ns().saturating_sub(start_ns)),
            error: result.as_ref().err().cloned(),
        })
    });
    result.map(drop)
}

/// Flushes `memory`, the oldest of `core`, since `start_ns`, and answers with the table made of it.
fn flush_memory(
    inner: &Inner,
    core: &KeyspaceCore,
    memory: &Arc<Memory>,
    start_ns: u64,
) -> Result<Option<TableMeta>> {
    // Writers that took their place before the rotation may still be inserting, or waiting for their sync.
    inner.commit().wait_visible(memory.cut())?;
    inner.work.rate.charge_flush(memory.table.user_bytes(), &*inner.clock);
    let options = core.options.load_full();
    let snapshots = inner.read.snapshots.with_visible(|| inner.visible());
    let context = FlushContext {
        fs: inner.fs.as_ref(),
        dir: &inner.dir,
        keyspace: core.id,
        options: &options,
        snapshots: &snapshots,
        number: inner.new_file_number(),
        now_ms: inner.clock.unix_ms(),
    };
    let table = flush(std::slice::from_ref(&memory.table), &context)?;
    if others_in_memory(inner, core) {
        // Not by a turn in the queue, which an ingest may hold up that waits for this flush.
        inner.commit().sync_log()?;
    }
    let duration_ns = inner.clock.monotonic_ns().saturating_sub(start_ns);
    let entries = memory.table.entry_count();
    inner.counters().count_flush(&core.counters, entries, table.as_ref(), duration_ns);
    install_flush(inner, core, memory, table.clone())?;
    Ok(table)
}

fn others_in_memory(inner: &Inner, core: &KeyspaceCore) -> bool {
    inner.keyspaces.load().by_id.values().any(|other| {
        let view = other.view.load();
        other.id != core.id && (!view.immutables.is_empty() || !view.active.table.is_empty())
    })
}
