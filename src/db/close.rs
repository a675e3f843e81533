//! Closing: leave a directory that opens fast and says that everything up to its end was synced.
//!
//! Memtables that hold much are flushed; little is left in the log, where the next open replays it in a moment. The log
//! is closed with a mark and synced, its unused tail is cut off, and spare segments are removed. The last manifest edit
//! promises the synced end, so that any later damage to the log is told from a torn tail.

use crate::db::background;
use crate::db::flush_job;
use crate::db::install::{commit_edit, note_log_state, remove_unreferenced, retire_segments};
use crate::db::state::Inner;
use crate::error::Result;
use crate::file_name::FileKind;
use crate::key::SequenceNumber;
use crate::version::edit::VersionEdit;

/// Memtables that together hold less than this stay in the log at close: it is replayed in milliseconds.
const LOG_KEPT_BYTES_MAX: u64 = 1 << 20;

/// Closes `inner`, whose threads have ended and which takes no more calls.
pub(crate) fn close(inner: &Inner) -> Result<()> {
    if inner.options.read_only {
        return Ok(());
    }
    inner.commit().lock().check()?;
    flush_for_close(inner)?;
    inner.commit().lock().wal().close().map_err(|error| inner.poison(&error))?;
    inner.commit().sync(&*inner.clock)?;
    let first_needed = {
        let mut tree = inner.tree.lock();
        let mut edit = VersionEdit::default();
        let first_needed = note_log_state(inner, &mut edit, None);
        commit_edit(inner, &mut tree, edit)?;
        first_needed
    };
    retire_segments(inner, first_needed);
    remove_unreferenced(inner);
    // From here on only waste is removed: failures are harmless, the next open removes what is left.
    let removable = inner.commit().lock().wal().finish();
    for segment in removable {
        let _ = inner.fs.remove(&FileKind::WalSegment(segment).path(&inner.dir));
    }
    Ok(())
}

/// Flushes everything, if there is more than the log may keep, or if some of it was never logged.
fn flush_for_close(inner: &Inner) -> Result<()> {
    background::flush_immutables(inner)?;
    let cores = inner.keyspaces.load().in_order();
    let active = |core: &crate::db::state::KeyspaceCore| core.view.load().active.clone();
    let bytes: u64 = cores.iter().map(|core| active(core).table.user_bytes()).sum();
    let unlogged = cores.iter().any(|core| active(core).has_unlogged());
    if bytes <= LOG_KEPT_BYTES_MAX && !unlogged {
        return Ok(());
    }
    for core in &cores {
        if !active(core).table.is_empty() {
            let next = inner.commit().lock().next_sequence;
            core.rotate(SequenceNumber(next.0 - 1));
            flush_job::run(inner, core)?;
        }
    }
    Ok(())
}
