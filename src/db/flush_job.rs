//! Flushing the oldest immutable memtable of a keyspace.
//!
//! # The prefix rule
//! A flush makes the writes of one keyspace durable. Writes of other keyspaces with lower sequence numbers may still be
//! in unsynced log bytes only; a power loss would then keep the newer and lose the older, or half of a batch. So if
//! another keyspace has anything in memory, the log is synced before the edit is.

use crate::db::install::install_flush;
use crate::db::state::{Inner, KeyspaceCore};
use crate::error::Result;
use crate::flush::{FlushContext, flush};

/// Flushes the oldest immutable memtable of `core`, if there is one.
pub(crate) fn run(inner: &Inner, core: &KeyspaceCore) -> Result<()> {
    let Some(memory) = core.view.load().immutables.last().cloned() else { return Ok(()) };
    // Writers that took their place before the rotation may still be inserting, or waiting for their sync.
    inner.commit().wait_visible(memory.cut())?;
    let start_ns = inner.clock.monotonic_ns();
    let options = core.options.load_full();
    let snapshots = inner.read.snapshots.with_visible(|| inner.visible());
    let context = FlushContext {
        fs: inner.fs.as_ref(),
        dir: &inner.dir,
        options: &options,
        snapshots: &snapshots,
        number: inner.new_file_number(),
        now_ms: inner.clock.unix_ms(),
    };
    let table = flush(std::slice::from_ref(&memory.table), &context)?;
    if others_in_memory(inner, core) {
        inner.commit().sync(&*inner.clock)?;
    }
    let duration_ns = inner.clock.monotonic_ns().saturating_sub(start_ns);
    let entries = memory.table.entry_count();
    inner.counters().count_flush(&core.counters, entries, table.as_ref(), duration_ns);
    install_flush(inner, core, &memory, table)
}

fn others_in_memory(inner: &Inner, core: &KeyspaceCore) -> bool {
    inner.keyspaces.load().by_id.values().any(|other| {
        let view = other.view.load();
        other.id != core.id && (!view.immutables.is_empty() || !view.active.table.is_empty())
    })
}
