//! Pausing compaction, for as long as a guard lives.

use std::fmt;
use std::sync::Arc;

use crate::db::handle::Handle;

/// While it lives, no automatic compaction of the database begins: see
/// [`Db::pause_compactions`](crate::Db::pause_compactions). Keeps the database open.
#[must_use = "compaction goes on when the guard is dropped"]
pub struct CompactionPause {
    handle: Arc<Handle>,
}

impl CompactionPause {
    pub(crate) fn new(handle: &Arc<Handle>) -> Self {
        handle.inner.work.lock().paused_count += 1;
        CompactionPause { handle: Arc::clone(handle) }
    }
}

impl Drop for CompactionPause {
    fn drop(&mut self) {
        let work = &self.handle.inner.work;
        let mut state = work.lock();
        state.paused_count -= 1;
        let is_last = state.paused_count == 0;
        drop(state);
        if is_last {
            // What became due meanwhile is looked for now.
            work.tree_changed();
        }
    }
}

impl fmt::Debug for CompactionPause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompactionPause").finish_non_exhaustive()
    }
}
