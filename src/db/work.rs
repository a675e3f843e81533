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
use std::time::Duration;

use crate::clock::Clock;
use crate::compaction::subcompaction::SplitMerge;
use crate::compaction::{BusyOutput, CompactionPlan};
use crate::db::rate_limit::RateLimiter;
use crate::error::Error;
use crate::event::TableEvent;
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::options::CompactionRate;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::version::Version;

/// The timer looks at the clock at least this often while something is due some day: the wall clock may be set.
const DUE_RECHECK: Duration = Duration::from_secs(60);

/// What the running compactions of a keyspace hold.
#[derive(Debug, Default)]
pub(crate) struct Busy {
    pub(crate) tables: HashSet<FileNumber>,
    pub(crate) outputs: Vec<BusyOutput>,
    pub(crate) running_count: usize,
    /// When a compaction of it was last chosen, counted in choices.
    pub(crate) picked_at: u64,
    /// Manual compactions that keep the automatic ones out.
    pub(crate) paused_count: usize,
}

/// One range of a merge, offered to idle threads.
#[derive(Debug)]
pub(crate) struct Subcompaction {
    pub(crate) merge: Arc<SplitMerge>,
    pub(crate) index: usize,
    /// How often compactions had been cancelled when the merge was chosen.
    pub(crate) cancel_count: u64,
}

/// What the work lock protects.
#[derive(Debug, Default)]
pub(crate) struct WorkState {
    pub(crate) shutdown: bool,
    /// Jobs that run, in background threads and in threads of the user's. None begins after shutdown.
    pub(crate) running_count: usize,
    /// Keyspaces with a flush running.
    pub(crate) flushing: HashSet<KeyspaceId>,
    /// Those who let no automatic compaction begin.
    pub(crate) paused_count: usize,
    /// Compactions chosen so far.
    pub(crate) picked_count: u64,
    /// A tree changed since the strategies last had nothing to do.
    pub(crate) compaction_wanted: bool,
    /// When they should be asked again though no tree changes, in Unix milliseconds: something expires, or grows too
    /// old.
    pub(crate) compaction_due_at_ms: Option<u64>,
    pub(crate) busy: HashMap<KeyspaceId, Busy>,
    /// Subcompactions of running merges that no thread has begun.
    pub(crate) subcompactions: VecDeque<Subcompaction>,
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
    unreferenced: Mutex<Vec<TableEvent>>,
    /// Async writes since the last timed sync.
    async_dirty: AtomicBool,
    timer: Condvar,
    /// What compactions pass between blocks.
    pub(crate) rate: RateLimiter,
    /// How often running compactions were cancelled.
    cancel_count: AtomicU64,
    /// The oldest snapshot must be at least this new for waiting garbage to become free; as of the
    /// last time that the strategies had nothing to do.
    garbage_waits_for: AtomicU64,
}

/// No compaction of a keyspace begins while this lives. See [`WorkQueue::keep_quiet`].
#[derive(Debug)]
pub(crate) struct Quiet<'a> {
    work: &'a WorkQueue,
    keyspace: KeyspaceId,
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let mut state = self.work.lock();
        state.busy.entry(self.keyspace).or_default().paused_count -= 1;
        drop(state);
        self.work.tree_changed();
    }
}

impl WorkQueue {
    /// A queue whose compactions write no faster than `rate`.
    pub(crate) fn new(rate: CompactionRate) -> Self {
        WorkQueue { rate: RateLimiter::new(rate), ..WorkQueue::default() }
    }

    /// Lets no compaction of the keyspace begin while the answer lives; `None` if one runs, or others keep them out.
    pub(crate) fn keep_quiet(&self, keyspace: KeyspaceId) -> Option<Quiet<'_>> {
        let mut state = self.lock();
        let busy = state.busy.entry(keyspace).or_default();
        if busy.running_count > 0 || busy.paused_count > 0 {
            return None;
        }
        busy.paused_count += 1;
        Some(Quiet { work: self, keyspace })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, WorkState> {
        self.state.lock()
    }

    /// Something became due: wakes the workers.
    pub(crate) fn announce(&self) {
        drop(self.state.lock());
        self.due.notify_all();
        // A compaction that waits for its share may be the one that flushes.
        self.rate.wake_all();
    }

    /// As [`WorkQueue::announce`], for a caller that holds the lock.
    pub(crate) fn announce_locked(&self, _state: &MutexGuard<'_, WorkState>) {
        self.due.notify_all();
        self.rate.wake_all();
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

    /// Notes what [`WorkQueue::frees_garbage`] is asked about; `None`: no garbage waits. The caller
    /// looks at the oldest snapshot again afterwards: one released meanwhile was not told.
    pub(crate) fn set_garbage_waits_for(&self, sequence: Option<SequenceNumber>) {
        let sequence = sequence.map_or(u64::MAX, |sequence| sequence.0);
        self.garbage_waits_for.store(sequence, Ordering::SeqCst);
    }

    /// Whether garbage waits for the oldest snapshot to be as new as `oldest`.
    pub(crate) fn frees_garbage(&self, oldest: SequenceNumber) -> bool {
        oldest.0 >= self.garbage_waits_for.load(Ordering::SeqCst)
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
        self.rate.wake_all();
    }

    /// Stops the compactions that run, as soon as they look.
    pub(crate) fn cancel_compactions(&self) {
        // Under the lock under which they are chosen: each was chosen before or after.
        let state = self.state.lock();
        self.cancel_count.fetch_add(1, Ordering::Relaxed);
        drop(state);
        self.rate.wake_all();
    }

    /// How often compactions were cancelled. One that is told to stop finds it changed.
    pub(crate) fn cancel_count(&self) -> u64 {
        self.cancel_count.load(Ordering::Relaxed)
    }

    /// Waits, as a worker, for something to become due.
    pub(crate) fn wait_due(&self, state: &mut MutexGuard<'_, WorkState>) {
        self.due.wait(state);
    }

    /// Begins a job in a thread of the user's; `None` after shutdown.
    pub(crate) fn begin(&self) -> Option<Running<'_>> {
        let mut state = self.lock();
        (!state.shutdown).then(|| Running::begin(self, &mut state))
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
    pub(crate) fn add_unreferenced(&self, table: TableEvent) {
        self.unreferenced.lock().push(table);
        // Not under the work lock: a worker that just went to sleep removes the file when it next wakes.
        self.due.notify_one();
    }

    pub(crate) fn take_unreferenced(&self) -> Vec<TableEvent> {
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

    /// The moment at which compaction is due by time alone may be another one now.
    pub(crate) fn due_changed(&self) {
        self.timer.notify_all();
    }

    /// Waits, as the timer, until armed, or for `interval`, or until compaction is due by time, or to shut down; wakes
    /// the workers if compaction is due. Returns false on shutdown.
    pub(crate) fn wait_timer(&self, interval: Option<Duration>, clock: &dyn Clock) -> bool {
        let mut state = self.state.lock();
        let until_due = state.until_due(clock);
        if !state.shutdown && !self.async_dirty.load(Ordering::Relaxed) {
            match interval.into_iter().chain(until_due).min() {
                Some(interval) => drop(self.timer.wait_for(&mut state, interval)),
                None => self.timer.wait(&mut state),
            }
        }
        if state.want_what_is_due(clock) {
            self.due.notify_all();
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
    /// How long to wait until compaction is due by time, at most [`DUE_RECHECK`].
    fn until_due(&self, clock: &dyn Clock) -> Option<Duration> {
        let due_at_ms = self.compaction_due_at_ms?;
        let until_due = Duration::from_millis(due_at_ms.saturating_sub(clock.unix_ms()));
        Some(until_due.min(DUE_RECHECK))
    }

    /// Has the strategies asked again if the time for it has come; whether it has.
    pub(crate) fn want_what_is_due(&mut self, clock: &dyn Clock) -> bool {
        let is_due = self.compaction_due_at_ms.is_some_and(|at_ms| at_ms <= clock.unix_ms());
        if is_due {
            self.compaction_due_at_ms = None;
            self.compaction_wanted = true;
        }
        is_due
    }

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
        self.picked_count += 1;
        busy.picked_at = self.picked_count;
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
    BusyOutput {
        level: plan.output_level,
        run: plan.output_run,
        smallest: low.into(),
        largest: high.into(),
    }
}
