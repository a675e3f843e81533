//! Closing: leave a directory that opens fast and says that everything up to its end was synced.
//!
//! Memtables that hold much are flushed; little is left in the log, where the next open replays it in a moment. The log
//! is closed with a mark and synced, its unused tail is cut off, and spare segments are removed. The last manifest edit
//! promises the synced end, so that any later damage to the log is told from a torn tail. Last of all the manifest is
//! sealed, so that the same holds for it.

use std::sync::Arc;

use crate::db::background;
use crate::db::flush_job;
use crate::db::install::{commit_edit, note_log_state, remove_unreferenced, retire_segments};
use crate::db::state::{Inner, KeyspaceCore};
use crate::error::Result;
use crate::event::Event;
use crate::file_name::FileKind;
use crate::key::SequenceNumber;
use crate::version::edit::VersionEdit;

/// Memtables that together hold less than this stay in the log at close: it is replayed in milliseconds.
const LOG_KEPT_BYTES_MAX: u64 = 1 << 20;
/// But not if the log is longer than this: the rest of it, flushed long ago, would be kept and read again.
const LOG_KEPT_FILE_BYTES_MAX: u64 = 4 << 20;

/// Closes `inner`, whose threads and jobs have ended and which takes no more writes.
pub(crate) fn close(inner: &Inner) -> Result<()> {
    if inner.options.read_only {
        return Ok(());
    }
    // Writers that took their place before the database was closed still insert into memtables and wait for their sync.
    // What follows looks at what the memtables hold.
    let last = {
        let commit = inner.commit().lock();
        commit.check()?;
        SequenceNumber(commit.next_sequence.0.saturating_sub(1))
    };
    inner.commit().wait_visible(last)?;
    background::flush_immutables(inner)?;
    let log_is_needed = leave_in_log(inner)?;
    if log_is_needed {
        // Not in one expression: the lock must be free again before the failure is told to everybody.
        let closed = inner.commit().lock().wal().close();
        closed.map_err(|error| inner.poison(error))?;
        inner.commit().sync(&*inner.clock)?;
    }
    let first_needed = {
        let mut tree = inner.tree.lock();
        let mut edit = VersionEdit::default();
        let mut first_needed = note_log_state(inner, &mut edit, None);
        if !log_is_needed {
            first_needed = inner.commit().lock().wal().next_segment();
            edit.wal_first_segment = Some(first_needed);
        }
        commit_edit(inner, &mut tree, edit)?;
        first_needed
    };
    remove_unreferenced(inner);
    retire_segments(inner, first_needed);
    // From here on only waste is removed: failures are harmless, the next open removes what is left.
    let (current, unused) = inner.commit().lock().wal().finish();
    let remove = |number| {
        let _ = inner.fs.remove(&FileKind::WalSegment(number).path(&inner.dir));
        inner.listeners.note(|| Event::WalSegmentRemoved(number));
    };
    unused.into_iter().for_each(remove);
    match current {
        Some(current) if log_is_needed => {
            let path = FileKind::WalSegment(current.number).path(&inner.dir);
            inner.fs.truncate(&path, current.data_bytes)?;
        }
        Some(current) => remove(current.number),
        None => {}
    }
    let manifest = inner.tree.lock().manifest.take();
    // Everything is durable already. A disk that has no room for this leaves the manifest as open as a crash does.
    let _ = manifest.map(|manifest| manifest.seal(inner.fs.as_ref(), &inner.dir));
    Ok(())
}

/// Flushes all memtables if together they hold more than the log may keep, or something that was never logged. Returns
/// whether anything is left to the log.
fn leave_in_log(inner: &Inner) -> Result<bool> {
    let cores = inner.keyspaces.load().in_order();
    let active = |core: &KeyspaceCore| Arc::clone(&core.view.load().active);
    let bytes: u64 = cores.iter().map(|core| active(core).table.user_bytes()).sum();
    let unlogged = cores.iter().any(|core| active(core).has_unlogged());
    let log_bytes = inner.commit().lock().wal().live_bytes();
    let is_short = bytes <= LOG_KEPT_BYTES_MAX && log_bytes <= LOG_KEPT_FILE_BYTES_MAX;
    if is_short && !unlogged {
        return Ok(cores.iter().any(|core| !active(core).table.is_empty()));
    }
    for core in cores.iter().filter(|core| !active(core).table.is_empty()) {
        let next = inner.commit().lock().next_sequence;
        inner.rotate(core, SequenceNumber(next.0 - 1));
        flush_job::run(inner, core)?;
    }
    Ok(false)
}
