//! What a running compaction passes between blocks: it may be told to stop, flush first, or wait for its share.
//!
//! A compaction is told to stop when the database closes ([`ErrorKind::Closed`]) or somebody cancels compactions
//! ([`ErrorKind::Cancelled`]). The job then removes what it wrote and nobody installed;
//! slices that were installed stay, and the rest of its inputs was never touched. Where no thread is
//! there for flush alone, a flush that became due is run here. Last comes the rate limit.

use crate::compaction::job::JobProgress;
use crate::compaction::{CompactionPlan, CompactionReason};
use crate::db::rate_limit::Priority;
use crate::db::state::Inner;
use crate::error::{Error, ErrorKind, Result};

/// The gate of one compaction.
#[derive(Debug)]
pub(crate) struct Gate<'a> {
    inner: &'a Inner,
    /// How often compactions had been cancelled when this one was chosen.
    cancel_count: u64,
    /// `None`: the rate limit does not hold.
    limit: Option<Priority>,
    /// Written when it last passed.
    written_bytes: u64,
}

impl<'a> Gate<'a> {
    pub(crate) fn new(inner: &'a Inner, cancel_count: u64, limit: Option<Priority>) -> Self {
        Gate { inner, cancel_count, limit, written_bytes: 0 }
    }

    /// Passes with what was done so far. `flush` runs flushes that are due, if it is this thread's to do so.
    pub(crate) fn pass(
        &mut self,
        progress: JobProgress,
        flush: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let inner = self.inner;
        let mut look = || {
            self.check()?;
            flush()
        };
        look()?;
        let Some(priority) = self.limit else { return Ok(()) };
        // The bytes of an open table are an estimate, which may go back a little when it is finished.
        let bytes = progress.written_bytes.saturating_sub(self.written_bytes);
        inner.work.rate.pass(priority, bytes, &*inner.clock, &mut look)?;
        self.written_bytes = self.written_bytes.max(progress.written_bytes);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.inner.work.lock().shutdown {
            let what = "the compaction was cancelled: the database is closing";
            return Err(Error::new(ErrorKind::Closed, what));
        }
        if self.inner.work.cancel_count() != self.cancel_count {
            return Err(cancelled());
        }
        Ok(())
    }
}

/// The error of a compaction that somebody stopped.
pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the compaction was cancelled")
        .advise("start it again when it suits; the database is as valid as before")
}

/// Whether a compaction ended because it was told to, not because it failed.
pub(crate) fn is_cancelled(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Cancelled)
}

/// Level 0 goes first: the runs in it are what reads and writers wait for.
pub(crate) fn priority(plan: &CompactionPlan) -> Priority {
    let is_level0 =
        plan.reason != CompactionReason::Manual && plan.inputs.iter().any(|input| input.level == 0);
    if is_level0 { Priority::Level0 } else { Priority::Deep }
}
