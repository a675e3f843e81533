//! The work queue: what background threads should do, what they are doing, and who waits for it.
//!
//! The queue holds no jobs. What is due follows from the state of the trees (an immutable memtable is due for flush; a
//! strategy's plan is due for compaction), so nothing can be queued twice or forgotten. It holds flags that wake
//! threads, and the sets that keep two jobs apart.
//!
//! # Locks
//! A worker holds the work lock while it chooses a job, never while it runs one. See `db/state.rs` for the lock order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::compaction::subcompaction::SplitMerge;
use crate::compaction::{BusyOutput, CompactionPlan};
use crate::error::Error;
use crate::key::{FileNumber, KeyspaceId};
use crate::version::Version;

/// What the running compactions of a keyspace hold.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    pub(crate) tables: HashSet<FileNumber>,
    pub(crate) outputs: Vec<BusyOutput>,
    pub(crate) running_count: usize,
    /// Manual compactions that keep the automatic ones out.
    pub(crate) paused_count: usize,
}

/// What the work lock protects.
#[derive(Debug, Default)]
pub(crate) struct WorkState {
    pub(crate) shutdown: bool,
    /// Jobs that run, in background threads and in threads of the user's. None begins after shutdown.
    pub(crate) running_count: usize,
    /// Keyspaces with a flush running.
    pub(crate) flushing: HashSet<KeyspaceId>,
    /// A tree changed since the strategies last had nothing to do.
    pub(crate) compaction_wanted: bool,
    pub(crate) busy: HashMap<KeyspaceId, Busy>,
    /// Subcompactions of running merges that no thread has begun.
    pub(crate) subcompactions: VecDeque<(Arc<SplitMerge>, usize)>,
    /// The last flush failed with this; cleared when somebody asks for another try.
    pub(crate) flush_error: Option<Error>,
    /// The last compaction failed with this; cleared when a tree changes or somebody asks.
    pub(crate) compaction_error: Option<Error>,
    /// The first background error since open, for the metrics.
    pub(crate) first_error: Option<Error>,
}

/// See the module text.
#[derive(Debug, Default)]
pub(crate) struct WorkQueue {
    state: Mutex<WorkState>,
    /// Workers wait here for something to do.
    due: Condvar,
    /// Writers and callers wait here for a job to end.
    progress: Condvar,
    /// Tables whose last holder let go; their files can be removed.
    unreferenced: Mutex<Vec<FileNumber>>,
    /// Async writes since the last timed sync.
    async_dirty: AtomicBool,
    timer: Condvar,
}

impl WorkQueue {
    pub(crate) fn lock(&self) -> MutexGuard<'_, WorkState> {
        self.state.lock()
    }

    /// Something became due: wakes the workers.
    pub(crate) fn announce(&self) {
        drop(self.state.lock());
        self.due.notify_all();
    }

    /// As [`WorkQueue::announce`], for a caller that holds the lock.
    pub(crate) fn announce_locked(&self, _state: &MutexGuard<'_, WorkState>) {
        self.due.notify_all();
    }

    /// A tree changed: compaction may be due, and whoever waits for progress looks again.
    pub(crate) fn tree_changed(&self) {
        let mut state = self.state.lock();
        state.compaction_wanted = true;
        state.compaction_error = None;
        drop(state);
        self.due.notify_all();
        self.progress.notify_all();
    }

    /// A job ended.
    pub(crate) fn job_ended(&self) {
        self.due.notify_all();
        self.progress.notify_all();
    }

    /// Wakes everybody, to see that the database is closed or poisoned.
    pub(crate) fn wake_all(&self) {
        drop(self.state.lock());
        self.due.notify_all();
        self.progress.notify_all();
        self.timer.notify_all();
    }

    /// Waits, as a worker, for something to become due.
    pub(crate) fn wait_due(&self, state: &mut MutexGuard<'_, WorkState>) {
        self.due.wait(state);
    }

    /// Waits until no job runs; after shutdown none begins.
    pub(crate) fn wait_jobs_ended(&self) {
        let mut state = self.state.lock();
        debug_assert!(state.shutdown, "else another one begins");
        while state.running_count > 0 {
            self.progress.wait(&mut state);
        }
    }

    /// Waits for a job to end.
    pub(crate) fn wait_progress(&self, state: &mut MutexGuard<'_, WorkState>) {
        self.progress.wait(state);
    }

    /// A table's last holder let go.
    pub(crate) fn add_unreferenced(&self, table: FileNumber) {
        self.unreferenced.lock().push(table);
        // Not under the work lock: a worker that just went to sleep removes the file when it next wakes.
        self.due.notify_one();
    }

    pub(crate) fn take_unreferenced(&self) -> Vec<FileNumber> {
        std::mem::take(&mut *self.unreferenced.lock())
    }

    pub(crate) fn has_unreferenced(&self) -> bool {
        !self.unreferenced.lock().is_empty()
    }

    /// An async write happened: arms the timer.
    #[inline]
    pub(crate) fn note_async(&self) {
        if !self.async_dirty.swap(true, Ordering::Relaxed) {
            drop(self.state.lock());
            self.timer.notify_all();
        }
    }

    /// Whether async writes wait for their timed sync.
    pub(crate) fn async_is_dirty(&self) -> bool {
        self.async_dirty.load(Ordering::Relaxed)
    }

    /// Begins the timed sync: async writes from here on arm the timer again.
    pub(crate) fn take_async(&self) {
        self.async_dirty.store(false, Ordering::SeqCst);
    }

    /// Waits, as the timer, until armed, or for `interval`, or to shut down. Returns false on shutdown.
    pub(crate) fn wait_timer(&self, interval: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        if !state.shutdown && !self.async_dirty.load(Ordering::Relaxed) {
            match interval {
                Some(interval) => drop(self.timer.wait_for(&mut state, interval)),
                None => self.timer.wait(&mut state),
            }
        }
        !state.shutdown
    }

    /// Sleeps, as the timer, for `interval` or until shutdown. Returns false on shutdown.
    pub(crate) fn sleep(&self, interval: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.shutdown {
            self.timer.wait_for(&mut state, interval);
        }
        !state.shutdown
    }
}

/// What a compaction holds until it ends.
#[derive(Debug)]
pub(crate) struct Reservation {
    keyspace: KeyspaceId,
    tables: Vec<FileNumber>,
    output: BusyOutput,
}

/// A job that runs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a WorkQueue);

impl<'a> Running<'a> {
    /// Notes that a job begins. The caller holds the lock of `queue`, and saw no shutdown.
    pub(crate) fn begin(queue: &'a WorkQueue, state: &mut WorkState) -> Self {
        state.running_count += 1;
        Running(queue)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.lock().running_count -= 1;
        self.0.job_ended();
    }
}

impl WorkState {
    /// Records a failed background job.
    pub(crate) fn note_error(&mut self, error: &Error, flush: bool) {
        self.first_error.get_or_insert_with(|| error.clone());
        if flush {
            self.flush_error = Some(error.clone());
        } else {
            self.compaction_error = Some(error.clone());
        }
    }

    /// Marks the tables and the output range of `plan`, which was picked from `version`, as busy.
    pub(crate) fn reserve(
        &mut self,
        keyspace: KeyspaceId,
        plan: &CompactionPlan,
        version: &Version,
    ) -> Reservation {
        let tables = plan.inputs.iter().flat_map(|input| input.tables.iter().copied()).collect();
        let output = output_range(plan, version);
        let busy = self.busy.entry(keyspace).or_default();
        busy.running_count += 1;
        busy.tables.extend(&tables);
        busy.outputs.push(output.clone());
        Reservation { keyspace, tables, output }
    }

    /// Marks more tables as busy: outputs that join the tree before the compaction ends. What it merges next joins the
    /// same run, so nobody may take them out of it.
    pub(crate) fn reserve_more(
        &mut self,
        reservation: &mut Reservation,
        tables: impl Iterator<Item = FileNumber>,
    ) {
        let busy = self.busy.entry(reservation.keyspace).or_default();
        for table in tables {
            reservation.tables.push(table);
            busy.tables.insert(table);
        }
    }

    /// Ends what [`WorkState::reserve`] began.
    pub(crate) fn release(&mut self, reservation: &Reservation) {
        let busy = self.busy.entry(reservation.keyspace).or_default();
        busy.running_count -= 1;
        for table in &reservation.tables {
            busy.tables.remove(table);
        }
        let range = &reservation.output;
        if let Some(index) = busy.outputs.iter().position(|output| output == range) {
            busy.outputs.swap_remove(index);
        }
    }
}

/// The level and the closed key range that `plan` writes. `version` is the one it was picked from.
fn output_range(plan: &CompactionPlan, version: &Version) -> BusyOutput {
    let mut range: Option<(&[u8], &[u8])> = None;
    for number in plan.inputs.iter().flat_map(|input| &input.tables) {
        let Some((_, _, table)) = version.find_table(*number) else { continue };
        let (low, high) = (&*table.meta().smallest, &*table.meta().largest);
        range = Some(range.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
    }
    let (low, high) = range.unwrap_or_default();
    BusyOutput { level: plan.output_level, smallest: low.into(), largest: high.into() }
}
