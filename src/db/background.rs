//! Background work: the threads, how they choose what to do, and the same work done inline.
//!
//! With one thread, it flushes and compacts; a running compaction stops between blocks to run a flush that became due.
//! With more, one thread only flushes, so that flush never waits behind compaction. With none, the calls that need
//! the work do it: [`run_due`].
//!
//! A failed flush or compaction is remembered and not tried again by itself, so that a full disk does not make a busy
//! loop. It is tried again when a writer needs room, when somebody asks for it, or when the tree changes.

use std::sync::Arc;
use std::time::Duration;

use crate::db::compact_job::{self, CompactJob};
use crate::db::flush_job;
use crate::db::gate::{self, Gate};
use crate::db::install::{oldest_snapshot, remove_unreferenced};
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::work::{Running, Subcompaction, WorkState};
use crate::error::{Error, Result};
use crate::event::{BackgroundError, BackgroundTask, Event};
use crate::key::SequenceNumber;
use crate::spawn::Spawn;
use crate::sync::MutexGuard;
use crate::sync::thread::JoinHandle;
use crate::wal::writer::WalWriter;

/// How long a recorded operation stays in memory at most, while it goes on.
const DRAIN_INTERVAL: Duration = Duration::from_secs(30);

/// What a thread works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Flush,
    Compact,
    Both,
}

/// Something to do, counted as running from the moment it is chosen.
type ChosenJob<'a> = (Job, Running<'a>);

/// A kind of work.
#[derive(Debug)]
enum Job {
    Flush(Arc<KeyspaceCore>),
    PrepareSegment,
    RemoveFiles,
    Compact(Box<CompactJob>),
    /// A strategy made a plan that was refused, for this reason.
    ReportRefusal(Error),
    /// One range of a merge that another thread runs.
    Subcompaction(Subcompaction),
}

/// Starts the threads that the options ask for.
pub(crate) fn start(inner: &Arc<Inner>, spawner: &dyn Spawn) -> Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let count = inner.options.background_threads;
    let mut spawn = |name: String, body: Box<dyn FnOnce() + Send>| -> Result<()> {
        let thread = spawner
            .spawn(&name, body)
            .map_err(|e| Error::io("start a thread for", &inner.dir, e))?;
        threads.push(thread);
        Ok(())
    };
    for index in 0..count {
        let role = match (count, index) {
            (1, _) => Role::Both,
            (_, 0) => Role::Flush,
            _ => Role::Compact,
        };
        let inner = Arc::clone(inner);
        spawn(format!("esker-{index}"), Box::new(move || work(&inner, role)))?;
    }
    if count > 0 {
        let inner = Arc::clone(inner);
        spawn("esker-timer".to_owned(), Box::new(move || run_timer(&inner)))?;
    }
    Ok(threads)
}

/// The life of a background thread.
fn work(inner: &Inner, role: Role) {
    let mut state = inner.work.lock();
    while !state.shutdown {
        match next_job(inner, &mut state, role) {
            Some(job) => {
                drop(state);
                // The error is kept in the work state, where those who wait for the job find it.
                let _ = run(inner, job);
                state = inner.work.lock();
            }
            None => inner.work.wait_due(&mut state),
        }
    }
}

/// Chooses the most urgent job for `role` and marks it as running.
fn next_job<'a>(
    inner: &'a Inner,
    state: &mut MutexGuard<'_, WorkState>,
    role: Role,
) -> Option<ChosenJob<'a>> {
    if state.shutdown {
        return None;
    }
    let job = choose_job(inner, state, role)?;
    Some((job, Running::begin(&inner.work, state)))
}

fn choose_job(inner: &Inner, state: &mut MutexGuard<'_, WorkState>, role: Role) -> Option<Job> {
    if inner.work.has_unreferenced() {
        return Some(Job::RemoveFiles);
    }
    if role != Role::Compact {
        if let Some(core) = due_flush(inner, state) {
            state.flushing.insert(core.id);
            return Some(Job::Flush(core));
        }
        if segment_is_due(inner) {
            return Some(Job::PrepareSegment);
        }
    }
    if role != Role::Flush {
        if let Some(one) = state.subcompactions.pop_front() {
            return Some(Job::Subcompaction(one));
        }
        state.want_what_is_due(&*inner.clock);
    }
    if role != Role::Flush && state.compaction_wanted && state.compaction_error.is_none() {
        let oldest = oldest_snapshot(inner);
        if let Some(job) = compact_job::pick(inner, state) {
            return Some(Job::Compact(Box::new(job)));
        }
        if let Some(error) = &state.compaction_error {
            return Some(Job::ReportRefusal(error.clone()));
        }
        let waits_for = compact_job::garbage_waits_for(inner, oldest);
        inner.work.set_garbage_waits_for(waits_for);
        // True if a snapshot was released while they were asked.
        state.compaction_wanted = waits_for.is_some_and(|at| at <= oldest_snapshot(inner));
        state.compaction_due_at_ms = compact_job::due_at_ms(inner, state);
        inner.work.due_changed();
        inner.work.job_ended();
    }
    None
}

/// The keyspace whose oldest immutable memtable waits longest for flush.
fn due_flush(inner: &Inner, state: &WorkState) -> Option<Arc<KeyspaceCore>> {
    if state.flush_error.is_some() {
        return None;
    }
    let keyspaces = inner.keyspaces.load();
    let waiting = keyspaces.by_id.values().filter(|core| !state.flushing.contains(&core.id));
    waiting
        .filter_map(|core| Some((core.view.load().immutables.last()?.cut(), core)))
        .min_by_key(|(cut, _)| *cut)
        .map(|(_, core)| Arc::clone(core))
}

fn segment_is_due(inner: &Inner) -> bool {
    inner.commit().lock().wal.as_ref().is_some_and(WalWriter::wants_prepared_segment)
}

/// Runs `job`. On failure the error is also kept in the work state.
fn run(inner: &Inner, (job, running): ChosenJob<'_>) -> Result<()> {
    let result = run_job(inner, job);
    drop(running);
    if result.is_err() {
        // Whoever waits for what failed must not wait on.
        inner.wake_all();
        inner.tell_failure();
    }
    inner.listeners.tell();
    result
}

fn run_job(inner: &Inner, job: Job) -> Result<()> {
    match job {
        Job::Flush(core) => {
            let result = flush_job::run(inner, &core);
            let mut state = inner.work.lock();
            state.flushing.remove(&core.id);
            note_result(inner, &mut state, &result, (BackgroundTask::Flush, &core));
            drop(state);
            inner.work.job_ended();
            result
        }
        Job::PrepareSegment => prepare_segment(inner),
        Job::ReportRefusal(error) => Err(error),
        Job::Subcompaction(one) => {
            compact_job::run_offered(inner, &one);
            Ok(())
        }
        Job::RemoveFiles => {
            remove_unreferenced(inner);
            Ok(())
        }
        Job::Compact(mut job) => {
            let single = inner.options.background_threads == 1;
            let mut flush = || if single { run_due_flush(inner) } else { Ok(()) };
            let mut gate = Gate::new(inner, job.cancel_count, Some(gate::priority(&job.plan)));
            let result =
                compact_job::run(inner, &mut job, &mut |progress| gate.pass(progress, &mut flush));
            let mut state = inner.work.lock();
            state.release(&job.reservation);
            state.compaction_wanted = true;
            note_result(inner, &mut state, &result, (BackgroundTask::Compaction, &job.core));
            drop(state);
            if result.is_err() {
                // Writers that it was to let go on must learn that it does not.
                job.core.throttle.wake_all();
            }
            drop(job);
            inner.work.job_ended();
            result
        }
    }
}

fn note_result(
    inner: &Inner,
    state: &mut WorkState,
    result: &Result<()>,
    (task, core): (BackgroundTask, &KeyspaceCore),
) {
    if let Err(error) = result
        && !gate::is_cancelled(error)
    {
        inner.counters().background_errors.add(1);
        state.note_error(error, task == BackgroundTask::Flush);
        inner.listeners.note(|| {
            let (keyspace, error) = (Arc::clone(&core.name), error.clone());
            Event::BackgroundError(BackgroundError { task, keyspace, error })
        });
    }
}

/// Makes the next log segment ready, so that no writer waits for its allocation. Best effort: a writer that finds none
/// makes one, and reports what is wrong.
fn prepare_segment(inner: &Inner) -> Result<()> {
    let Some(preparation) = inner.commit().lock().wal().start_preparation() else { return Ok(()) };
    let prepared = preparation.run();
    let mut commit = inner.commit().lock();
    match prepared {
        Ok(segment) => {
            commit.wal().install_prepared(segment);
            Ok(())
        }
        Err(error) => {
            commit.wal().abandon_preparation();
            Err(error)
        }
    }
}

/// Runs flushes until none is due; from within a compaction, or inline.
pub(crate) fn run_due_flush(inner: &Inner) -> Result<()> {
    loop {
        let mut state = inner.work.lock();
        if state.shutdown {
            return Ok(());
        }
        let Some(core) = due_flush(inner, &state) else { return Ok(()) };
        state.flushing.insert(core.id);
        let running = Running::begin(&inner.work, &mut state);
        drop(state);
        run(inner, (Job::Flush(core), running))?;
    }
}

/// Runs everything that is due, in this thread; for databases without background threads.
pub(crate) fn run_due(inner: &Inner) -> Result<()> {
    loop {
        let mut state = inner.work.lock();
        let Some(job) = next_job(inner, &mut state, Role::Both) else { return Ok(()) };
        drop(state);
        run(inner, job)?;
    }
}

/// Lets a failed compaction be tried again; inline, does what is due and says how it went.
pub(crate) fn retry_compaction(inner: &Inner) -> Result<()> {
    let mut state = inner.work.lock();
    if state.compaction_error.take().is_some() {
        state.compaction_wanted = true;
        inner.work.announce_locked(&state);
    }
    drop(state);
    if inner.runs_inline() { run_due(inner) } else { Ok(()) }
}

/// Waits until `done` says so, while flushes go on. Asks for another try if the last flush failed.
pub(crate) fn wait_for_flush(inner: &Inner, done: impl Fn() -> bool) -> Result<()> {
    let mut state = inner.work.lock();
    let mut may_retry = true;
    loop {
        if done() {
            return Ok(());
        }
        inner.check_open()?;
        if let Some(error) = inner.commit().failure() {
            return Err(crate::db::commit::poisoned(&error));
        }
        if let Some(error) = state.flush_error.clone() {
            if !may_retry {
                return Err(error);
            }
            state.flush_error = None;
        }
        may_retry = false;
        if inner.runs_inline() && due_flush(inner, &state).is_some() {
            drop(state);
            run_due_flush(inner)?;
            state = inner.work.lock();
        } else {
            inner.work.announce_locked(&state);
            inner.work.wait_progress(&mut state);
        }
    }
}

/// Waits until nothing is due and nothing runs.
pub(crate) fn wait_idle(inner: &Inner) -> Result<()> {
    if inner.runs_inline() {
        let mut state = inner.work.lock();
        state.flush_error = None;
        state.compaction_error = None;
        state.compaction_wanted = true;
        drop(state);
        return run_due(inner);
    }
    let _hurry = inner.work.rate.hurry(&*inner.clock);
    let mut state = inner.work.lock();
    state.flush_error = None;
    state.compaction_error = None;
    state.compaction_wanted = true;
    inner.work.announce_locked(&state);
    loop {
        inner.check_open()?;
        if let Some(error) = inner.commit().failure() {
            return Err(crate::db::commit::poisoned(&error));
        }
        if let Some(error) = state.flush_error.as_ref().or(state.compaction_error.as_ref()) {
            return Err(error.clone());
        }
        let running =
            !state.flushing.is_empty() || state.busy.values().any(|busy| busy.running_count > 0);
        if !running && !state.compaction_wanted && due_flush(inner, &state).is_none() {
            return Ok(());
        }
        inner.work.wait_progress(&mut state);
    }
}

/// The life of the timer: syncs async writes in time, writes out what was recorded, scrubs, and has compaction asked
/// again when it said so.
fn run_timer(inner: &Inner) {
    let half_interval = Duration::from_millis(inner.options.async_interval_ms.div_ceil(2));
    let scrub = (inner.options.scrub_interval_s > 0)
        .then(|| Duration::from_secs(inner.options.scrub_interval_s));
    let mut next_scrub_ns = scrub.map(|every| inner.clock.monotonic_ns() + every.as_nanos() as u64);
    let mut next_drain_ns = 0;
    loop {
        let until_scrub = next_scrub_ns.map(|at| {
            Duration::from_nanos(at.saturating_sub(inner.clock.monotonic_ns()).max(1_000_000))
        });
        let until_drain = inner.read.recorder.as_ref().map(|_| DRAIN_INTERVAL);
        let until = until_scrub.into_iter().chain(until_drain).min();
        if !inner.work.wait_timer(until, &*inner.clock) {
            return;
        }
        if let (Some(recorder), now_ns) = (&inner.read.recorder, inner.clock.monotonic_ns())
            && now_ns >= next_drain_ns
        {
            recorder.drain();
            next_drain_ns = now_ns + DRAIN_INTERVAL.as_nanos() as u64;
        }
        if inner.work.async_is_dirty() {
            // Half the interval to gather, the rest for the sync itself.
            if !inner.work.sleep(half_interval) {
                return;
            }
            inner.work.take_async();
            // A failure poisons the queue; every later write says so.
            let _ = inner.commit().sync(&*inner.clock).inspect_err(|_| inner.tell_failure());
        }
        if let (Some(every), Some(at)) = (scrub, next_scrub_ns)
            && inner.clock.monotonic_ns() >= at
        {
            crate::db::check::scrub(inner);
            next_scrub_ns = Some(inner.clock.monotonic_ns() + every.as_nanos() as u64);
        }
    }
}

/// Writes the memtables of `cores` to tables, and waits for it.
pub(crate) fn flush(inner: &Inner, cores: &[Arc<KeyspaceCore>]) -> Result<()> {
    inner.check_writable()?;
    for core in cores {
        wait_for_flush(inner, || {
            core.view.load().immutables.len() + 1 < core.options.load().memtables_max
        })?;
        let commit = inner.commit().lock();
        commit.check()?;
        if !core.view.load().active.table.is_empty() {
            inner.rotate(core, SequenceNumber(commit.next_sequence.0 - 1));
        }
    }
    inner.work.announce();
    for core in cores {
        // Newer ones may come meanwhile; what was there at the call is what counts.
        let target = core.view.load().immutables.first().map(|memory| memory.cut());
        let Some(target) = target else { continue };
        wait_for_flush(inner, || {
            core.view.load().immutables.last().is_none_or(|memory| memory.cut() > target)
        })?;
    }
    if inner.runs_inline() { run_due(inner) } else { Ok(()) }
}

/// Flushes the memtables of `core` rotated at `cut` or before, in this thread unless another one is at it. For a caller
/// that holds up the commit queue, for which other threads may wait.
pub(crate) fn flush_here(
    inner: &Inner,
    core: &Arc<KeyspaceCore>,
    cut: SequenceNumber,
) -> Result<()> {
    loop {
        let mut state = inner.work.lock();
        if core.view.load().immutables.last().is_none_or(|memory| memory.cut() > cut) {
            return Ok(());
        }
        inner.check_open()?;
        if let Some(error) = inner.commit().failure() {
            return Err(crate::db::commit::poisoned(&error));
        }
        if state.flushing.contains(&core.id) {
            inner.work.wait_progress(&mut state);
            continue;
        }
        state.flushing.insert(core.id);
        let running = Running::begin(&inner.work, &mut state);
        drop(state);
        run(inner, (Job::Flush(Arc::clone(core)), running))?;
    }
}

/// Flushes every immutable memtable in this thread; for close, when the other threads have ended.
pub(crate) fn flush_immutables(inner: &Inner) -> Result<()> {
    for core in inner.keyspaces.load().in_order() {
        while !core.view.load().immutables.is_empty() {
            flush_job::run(inner, &core)?;
        }
    }
    Ok(())
}
