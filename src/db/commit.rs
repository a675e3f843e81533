//! The commit queue: the one order of all writes, their durability, and when readers see them.
//!
//! A write goes through three short steps:
//! 1. **enter**, under the commit lock: take sequence numbers, append to the log, join the queue;
//! 2. **apply**, without the lock: insert into the memtables, concurrently with other writers;
//! 3. **finish**: the visible sequence number advances over the front of the queue as far as writes are applied and,
//!    where they promise it, synced. So visibility follows commit order and promised durability, whoever is fastest.
//!
//! # Group commit
//! A writer that needs a sync and finds none under way leads: it syncs the log up to its end, without the lock, for
//! everybody who appended before. Others park, each on its own flag. When the sync is done the leader advances the
//! front, hands leadership to the first writer that still waits for a sync (so that the device is busy again first),
//! and only then wakes the rest, one by one.
//!
//! Before syncing, a leader lingers while fewer writers wait than the last group had, for at most a tenth of a typical
//! sync: the threads just woken are about to come back, and would otherwise miss the boat and halve every group.
//!
//! # Failure
//! A failed append or sync poisons the queue: what reached the disk is unknown, so nothing that waits is ever
//! acknowledged or shown, and every later write gets the first error until the database is reopened. A failed sync is
//! never retried.
//!
//! # Locks
//! The commit lock is a leaf but for [`Waiter`]s' atomics: nothing else is locked under it. No I/O happens under it but
//! the copy into the log (a store to a map or one `pwrite`), and the creation of a segment when none was prepared.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::Clock;
use crate::db::waiter::{DONE, FAILED, LEAD, Waiter, fresh_waiter, tell_all};
use crate::error::{Error, ErrorKind, Result};
use crate::key::SequenceNumber;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::thread::yield_now;
use crate::sync::{Condvar, Mutex, MutexGuard, spin_loop};
use crate::wal::WalPosition;
use crate::wal::sync::SyncTarget;
use crate::wal::writer::WalWriter;

/// A leader yields at most this often before it syncs.
const LINGER_YIELDS_MAX: u32 = 40;
/// A leader lingers at most this part of a typical sync.
const LINGER_SYNC_FRACTION: u64 = 10;
/// A writer whose predecessors are still applying spins this often before it parks.
const SPINS_BEFORE_PARK: u32 = 64;

/// A write between enter and finish.
#[derive(Debug)]
struct Pending {
    last_sequence: SequenceNumber,
    /// The end of its record in the log.
    wal_end: WalPosition,
    /// Visible only once the log is synced up to `wal_end`.
    needs_sync: bool,
    applied: bool,
    waiter: Option<Arc<Waiter>>,
}

/// A write's place in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket(u64);

/// Sums over all writes; under the commit lock, where counting costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteTotals {
    pub(crate) user_bytes: u64,
    pub(crate) operations: u64,
    pub(crate) batches: u64,
    pub(crate) wal_bytes: u64,
    pub(crate) wal_records: u64,
}

/// What the commit lock protects.
#[derive(Debug)]
pub(crate) struct CommitState {
    /// The next sequence number to give.
    pub(crate) next_sequence: SequenceNumber,
    /// The log; `None` in a database opened for reading.
    pub(crate) wal: Option<WalWriter>,
    /// What was written since open.
    pub(crate) totals: WriteTotals,
    queue: VecDeque<Pending>,
    /// The ticket of the front of the queue.
    front: u64,
    sync_running: bool,
    /// Writers released by the last sync.
    last_group_count: usize,
    /// Moving average of the time of a sync.
    sync_ns: u64,
    /// Set once; every later write returns it.
    failure: Option<Error>,
}

/// The commit queue of a database.
#[derive(Debug)]
pub(crate) struct CommitQueue {
    state: Mutex<CommitState>,
    visible: AtomicU64,
    /// Writers that wait for a sync; read by a lingering leader without the lock.
    sync_waiting: AtomicUsize,
    /// Signalled when the visible sequence number advances and somebody in [`CommitQueue::wait_visible`] waits.
    advanced: Condvar,
    advance_waiters: AtomicUsize,
    /// The number of log syncs done.
    pub(crate) sync_count: AtomicU64,
}

impl CommitQueue {
    /// A queue whose next write takes `next_sequence`, and in which everything before it is visible.
    pub(crate) fn new(next_sequence: SequenceNumber, wal: Option<WalWriter>) -> Self {
        CommitQueue {
            visible: AtomicU64::new(next_sequence.0.saturating_sub(1)),
            state: Mutex::new(CommitState {
                next_sequence,
                wal,
                totals: WriteTotals::default(),
                queue: VecDeque::new(),
                front: 0,
                sync_running: false,
                last_group_count: 1,
                sync_ns: 0,
                failure: None,
            }),
            sync_waiting: AtomicUsize::new(0),
            advanced: Condvar::new(),
            advance_waiters: AtomicUsize::new(0),
            sync_count: AtomicU64::new(0),
        }
    }

    /// The newest sequence number that readers may see.
    #[inline]
    pub(crate) fn visible(&self) -> SequenceNumber {
        SequenceNumber(self.visible.load(Ordering::Acquire))
    }

    /// Takes the commit lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, CommitState> {
        self.state.lock()
    }

    /// The error that poisoned the queue, as later writes report it.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.lock().failure.clone()
    }

    /// Poisons the queue: whoever waits, and every later write, gets `error`.
    pub(crate) fn poison(&self, error: &Error) {
        let mut state = self.lock();
        let wake = state.fail(error);
        drop(state);
        tell_all(&wake, FAILED);
        self.notify_advanced();
    }

    /// Step 1, the end: joins the queue. Call with the lock held, after the append.
    pub(crate) fn enter(
        &self,
        state: &mut CommitState,
        last_sequence: SequenceNumber,
        wal_end: WalPosition,
        needs_sync: bool,
    ) -> Ticket {
        debug_assert!(last_sequence.0 + 1 == state.next_sequence.0);
        if needs_sync {
            self.sync_waiting.fetch_add(1, Ordering::Relaxed);
        }
        state.queue.push_back(Pending {
            last_sequence,
            wal_end,
            needs_sync,
            applied: false,
            waiter: None,
        });
        Ticket(state.front + state.queue.len() as u64 - 1)
    }

    /// Step 3: marks the write as applied and returns when readers see it, and it is as durable as it promised.
    pub(crate) fn finish(&self, ticket: Ticket, clock: &dyn Clock) -> Result<()> {
        let mut state = self.lock();
        if let Some(pending) = state.pending(ticket) {
            pending.applied = true;
        }
        let wake = self.advance(&mut state);
        let Some(pending) = state.pending(ticket) else {
            let failed = state.failure_of(ticket);
            drop(state);
            tell_all(&wake, DONE);
            return failed;
        };
        if pending.needs_sync {
            return self.finish_synced(state, ticket, &wake, clock);
        }
        let last_sequence = pending.last_sequence;
        drop(state);
        tell_all(&wake, DONE);
        // The writers before this one are inserting into memtables: a matter of a microsecond, most times.
        for _ in 0..SPINS_BEFORE_PARK {
            if self.visible() >= last_sequence {
                return Ok(());
            }
            spin_loop();
        }
        self.park(ticket, clock)
    }

    /// Waits in the queue, without leading unless told to.
    fn park(&self, ticket: Ticket, clock: &dyn Clock) -> Result<()> {
        let mut state = self.lock();
        let Some(pending) = state.pending(ticket) else { return state.failure_of(ticket) };
        let waiter = fresh_waiter();
        pending.waiter = Some(Arc::clone(&waiter));
        drop(state);
        self.wait(&waiter, ticket, clock)
    }

    fn wait(&self, waiter: &Waiter, ticket: Ticket, clock: &dyn Clock) -> Result<()> {
        loop {
            let told = waiter.wait();
            if told & FAILED != 0 {
                return self.lock().failure_of(ticket);
            }
            if told & LEAD != 0 {
                self.lead(clock);
            }
            if told & DONE != 0 {
                return Ok(());
            }
        }
    }

    /// Finishes a write that must be synced: leads, or waits for the one who does.
    fn finish_synced(
        &self,
        mut state: MutexGuard<'_, CommitState>,
        ticket: Ticket,
        wake: &[Arc<Waiter>],
        clock: &dyn Clock,
    ) -> Result<()> {
        let waiter = fresh_waiter();
        let synced = state.synced();
        let pending = state.pending(ticket).expect("the caller just saw it");
        pending.waiter = Some(Arc::clone(&waiter));
        let lead = pending.wal_end > synced && !state.sync_running;
        if lead {
            state.sync_running = true;
        }
        drop(state);
        tell_all(wake, DONE);
        if lead {
            self.lead(clock);
        }
        self.wait(&waiter, ticket, clock)
    }

    /// Runs one sync for everybody, as the leader. `sync_running` is set, and no lock is held.
    fn lead(&self, clock: &dyn Clock) {
        self.linger(clock);
        let (outcome, took_ns, target) = {
            let state = self.lock();
            let target = state.wal.as_ref().map(WalWriter::sync_target);
            drop(state);
            let start = clock.monotonic_ns();
            let outcome = target.as_ref().map_or(Ok(()), SyncTarget::sync);
            (outcome, clock.monotonic_ns() - start, target)
        };
        self.sync_count.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        state.sync_running = false;
        if let Err(error) = outcome {
            let wake = state.fail(&error);
            drop(state);
            tell_all(&wake, FAILED);
            self.notify_advanced();
            return;
        }
        if let (Some(wal), Some(target)) = (&mut state.wal, &target) {
            wal.mark_synced(target);
        }
        state.sync_ns =
            if state.sync_ns == 0 { took_ns } else { (state.sync_ns * 7 + took_ns) / 8 };
        let before = self.sync_waiting.load(Ordering::Relaxed);
        let wake = self.advance(&mut state);
        state.last_group_count =
            before.saturating_sub(self.sync_waiting.load(Ordering::Relaxed)).max(1);
        let next = state.next_leader();
        if let Some(next) = next {
            state.sync_running = true;
            // Under the lock, while it is queued: so this is never told to a thread that is already gone.
            next.tell(LEAD);
        }
        drop(state);
        tell_all(&wake, DONE);
    }

    /// Waits a little for the writers of the last group to come back.
    fn linger(&self, clock: &dyn Clock) {
        let (wanted, limit_ns) = {
            let state = self.lock();
            (state.last_group_count, state.sync_ns / LINGER_SYNC_FRACTION)
        };
        if self.sync_waiting.load(Ordering::Relaxed) >= wanted {
            return;
        }
        let start = clock.monotonic_ns();
        for _ in 0..LINGER_YIELDS_MAX {
            yield_now();
            if self.sync_waiting.load(Ordering::Relaxed) >= wanted
                || clock.monotonic_ns().saturating_sub(start) > limit_ns
            {
                return;
            }
        }
    }

    /// Syncs the log up to its present end and waits for it; also for a caller that wrote nothing itself.
    pub(crate) fn sync(&self, clock: &dyn Clock) -> Result<()> {
        let ticket = {
            let mut state = self.lock();
            state.check()?;
            let Some(wal) = &state.wal else { return Ok(()) };
            // The end of what was written; a log without a segment has nothing to sync.
            let (end, last) = (wal.sync_target().end(), SequenceNumber(state.next_sequence.0 - 1));
            if wal.synced_position() >= end && state.queue.is_empty() {
                return Ok(());
            }
            // An entry that carries no write: it takes its turn behind everything entered before it.
            self.sync_waiting.fetch_add(1, Ordering::Relaxed);
            state.queue.push_back(Pending {
                last_sequence: last,
                wal_end: end,
                needs_sync: true,
                applied: true,
                waiter: None,
            });
            Ticket(state.front + state.queue.len() as u64 - 1)
        };
        self.finish(ticket, clock)
    }

    /// Syncs the log up to its present end, without taking a turn in the queue: for a caller that holds up the queue
    /// itself. A failure poisons.
    pub(crate) fn sync_log(&self) -> Result<()> {
        let Some(target) = self.lock().wal.as_ref().map(WalWriter::sync_target) else {
            return Ok(());
        };
        let outcome = target.sync();
        self.sync_count.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = outcome {
            self.poison(&error);
            return Err(error);
        }
        let mut state = self.lock();
        if let Some(wal) = &mut state.wal {
            wal.mark_synced(&target);
        }
        let wake = self.advance(&mut state);
        drop(state);
        tell_all(&wake, DONE);
        Ok(())
    }

    /// Waits until everything up to `sequence` is visible.
    pub(crate) fn wait_visible(&self, sequence: SequenceNumber) -> Result<()> {
        if self.visible() >= sequence {
            return Ok(());
        }
        // Whoever advances does so under the lock taken next: it either sees this count, or is seen by the check below.
        self.advance_waiters.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        let result = loop {
            if self.visible() >= sequence {
                break Ok(());
            }
            if let Err(error) = state.check() {
                break Err(error);
            }
            self.advanced.wait(&mut state);
        };
        drop(state);
        self.advance_waiters.fetch_sub(1, Ordering::Relaxed);
        result
    }

    /// Moves the visible sequence number over the front of the queue. Returns whom to wake, after unlocking.
    fn advance(&self, state: &mut CommitState) -> Vec<Arc<Waiter>> {
        let mut wake = Vec::new();
        if state.failure.is_some() {
            return wake;
        }
        let synced = state.synced();
        let mut visible = None;
        while let Some(front) = state.queue.front_mut() {
            if !front.applied || (front.needs_sync && front.wal_end > synced) {
                break;
            }
            visible = Some(front.last_sequence);
            wake.extend(front.waiter.take());
            if front.needs_sync {
                self.sync_waiting.fetch_sub(1, Ordering::Relaxed);
            }
            state.queue.pop_front();
            state.front += 1;
        }
        if let Some(visible) = visible {
            self.visible.store(visible.0, Ordering::Release);
            self.notify_advanced();
        }
        wake
    }

    fn notify_advanced(&self) {
        if self.advance_waiters.load(Ordering::Relaxed) > 0 {
            self.advanced.notify_all();
        }
    }
}

impl CommitState {
    /// The error that later writes report, if the queue is poisoned.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.failure {
            Some(error) => Err(poisoned(error)),
            None => Ok(()),
        }
    }

    /// The log of a database that is open for writing.
    pub(crate) fn wal(&mut self) -> &mut WalWriter {
        self.wal.as_mut().expect("only a writable database writes")
    }

    fn synced(&self) -> WalPosition {
        self.wal.as_ref().map_or(WalPosition::default(), WalWriter::synced_position)
    }

    fn pending(&mut self, ticket: Ticket) -> Option<&mut Pending> {
        let index = ticket.0.checked_sub(self.front)?;
        self.queue.get_mut(usize::try_from(index).ok()?)
    }

    /// What a writer whose ticket left the queue returns: done, unless the queue was emptied by a failure. Then it gets
    /// the failure itself, since it may be the one who met it.
    fn failure_of(&self, ticket: Ticket) -> Result<()> {
        match &self.failure {
            Some(failure) if ticket.0 >= self.front => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    /// The first parked writer that waits for a sync not yet done.
    fn next_leader(&self) -> Option<Arc<Waiter>> {
        let synced = self.synced();
        self.queue
            .iter()
            .find(|pending| {
                pending.needs_sync && pending.wal_end > synced && pending.waiter.is_some()
            })
            .and_then(|pending| pending.waiter.clone())
    }

    /// Poisons: empties the queue without advancing its front, so that its tickets are told apart from finished ones.
    fn fail(&mut self, error: &Error) -> Vec<Arc<Waiter>> {
        self.failure.get_or_insert_with(|| error.clone());
        self.queue.drain(..).filter_map(|pending| pending.waiter).collect()
    }
}

/// `error` as a later write reports it.
pub(crate) fn poisoned(error: &Error) -> Error {
    if matches!(error.kind(), ErrorKind::Poisoned | ErrorKind::Closed) {
        return error.clone();
    }
    let poisoned = Error::new(ErrorKind::Poisoned, format!("writing stopped after an earlier error: {}", error.what()))
        .advise("mend the cause, then close and reopen the database; everything acknowledged as durable is kept")
        .caused_by(error.clone());
    match error.path() {
        Some(path) => poisoned.at(path),
        None => poisoned,
    }
}
