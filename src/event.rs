//! Events: what the engine tells a listener, and how they get there.
//!
//! An [`EventListener`] is registered with [`DbBuilder::listener`](crate::DbBuilder::listener) and hears what happens
//! below the writes and reads: flushes, compactions, tables that come and go, writers that are slowed, errors that no
//! call returned. Counters say how much; events say when, and in which order.
//!
//! # What a listener can rely on
//! * **One at a time, in one order.** Events of all keyspaces stand in one queue. A listener is never called by two
//!   threads at once, and each listener hears the same order. A begin comes before its end; a table is created before
//!   the flush or compaction that made it ends, and it is created before it is removed.
//! * **No engine lock is held**, so a listener may read: get, iterate, take snapshots and metrics. (Closing is the one
//!   call during which events are told and that no listener may call.)
//! * **The thread** is one that the engine uses anyway: a background thread, or a thread of the user's inside a call
//!   that writes, flushes, compacts, verifies or closes. Whoever finds events in the queue tells them, so the thread
//!   need not be the one that the event is about, and what an event says has happened already; it may be outdated a
//!   little.
//! * **Errors** reach a listener also when nobody waits for the job that failed.
//!
//! # What is asked of it
//! * **Do not block.** While a listener runs, the job or call whose thread it borrowed stands still, and events pile up
//!   in memory. Send slow work to a thread of your own, through a channel.
//! * **Do not wait for the engine:** no write, flush, compaction or close in a listener. The thread that it waits for
//!   may be the one it stands on.
//! * **Do not panic.** A panic is caught, so that it harms no job and no write, but the listener that panicked is let
//!   go and hears nothing any more: it may have left its own state half changed. (With `panic = "abort"` it aborts.)
//!
//! Closing the database tells what is left and then drops the listeners, so one that holds a [`Db`](crate::Db) of its
//! own keeps nothing alive after [`Db::close`](crate::Db::close). Replay at open is not told.
//!
//! # Inside
//! `Listeners::note` puts an event into the queue and may be called under any lock: the queue's is a leaf. Noted under
//! the lock that orders the change, events stand in the order of the changes. `Listeners::tell` empties the queue and
//! must be called without any lock. It never waits: if another thread is telling, that one sees to what was noted. A
//! database without listeners pays one relaxed load for either. Nothing here knows the database.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::compaction::CompactionPlan;
use crate::error::Error;
use crate::key::FileNumber;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Hears what the engine does. See the [module text](self) for what it can rely on and what is asked of it.
///
/// A closure is a listener:
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::sync::{Arc, mpsc};
/// use esker::Db;
/// use esker::event::Event;
///
/// let (sender, events) = mpsc::channel();
/// let db = Db::builder()
///     .listener(Arc::new(move |event: &Event| drop(sender.send(event.clone()))))
///     .open(dir.path())?;
/// db.put("apple", "red")?;
/// db.flush()?;
/// db.close()?;
/// assert!(events.iter().any(|event| matches!(event, Event::TableCreated(table) if table.level == 0)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait EventListener: Send + Sync {
    /// Called for each event, one at a time.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> EventListener for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// Something that happened. [`fmt::Display`] makes a line of it that a log can hold.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A memtable became immutable: it waits for its flush.
    MemtableSealed(MemtableSealed),
    /// A flush begins.
    FlushBegin(FlushBegin),
    /// A flush ended.
    FlushEnd(FlushEnd),
    /// A compaction begins.
    CompactionBegin(CompactionBegin),
    /// A compaction ended.
    CompactionEnd(CompactionEnd),
    /// A table joined a tree: it is durable, the manifest names it, readers see it. Moving it later to another level
    /// makes no new one.
    TableCreated(TableEvent),
    /// The file of a table was removed: it left its tree, and no reader needs it any more.
    TableRemoved(TableEvent),
    /// Writers of a keyspace are being slowed or stopped.
    StallBegin(StallBegin),
    /// They no longer are.
    StallEnd(StallEnd),
    /// The log goes on in this segment, in a new file or one used before.
    WalSegmentBegun(FileNumber),
    /// The file of a log segment was removed. One kept to be used again is not.
    WalSegmentRemoved(FileNumber),
    /// A flush or compaction failed, or a strategy's plan was refused. It is tried again when writers need it, when
    /// somebody asks, or when the tree changes.
    BackgroundError(BackgroundError),
    /// A scrub, or [`Db::verify`](crate::Db::verify), found damage on disk.
    CorruptionFound(Error),
    /// The log or the manifest failed: nothing can be written until the database is reopened. Told once.
    Poisoned(Error),
}

/// See [`Event::MemtableSealed`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemtableSealed {
    /// The keyspace.
    pub keyspace: Arc<str>,
    /// Bytes of memory that it takes.
    pub bytes: u64,
    /// Entries of every kind.
    pub entry_count: u64,
}

/// See [`Event::FlushBegin`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlushBegin {
    /// The keyspace; it runs one flush at a time.
    pub keyspace: Arc<str>,
    /// Bytes of memory that the memtable takes.
    pub memtable_bytes: u64,
    /// Its entries of every kind.
    pub entry_count: u64,
}

/// See [`Event::FlushEnd`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlushEnd {
    /// The keyspace.
    pub keyspace: Arc<str>,
    /// The table made; `None` if the flush failed or nothing survived it.
    pub table: Option<FileNumber>,
    /// Length of its file.
    pub bytes_written: u64,
    /// How long it took.
    pub duration: Duration,
    /// What went wrong.
    pub error: Option<Error>,
}

/// See [`Event::CompactionBegin`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CompactionBegin {
    /// Tells the compactions of a database apart: several may run at once.
    pub job: u64,
    /// The keyspace.
    pub keyspace: Arc<str>,
    /// Why, what is done, with which tables, and where the outputs go.
    pub plan: Arc<CompactionPlan>,
    /// Length of the input files.
    pub input_bytes: u64,
}

/// See [`Event::CompactionEnd`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CompactionEnd {
    /// As in its [`CompactionBegin`].
    pub job: u64,
    /// The keyspace.
    pub keyspace: Arc<str>,
    /// As in its [`CompactionBegin`].
    pub plan: Arc<CompactionPlan>,
    /// What it did; all zero if it failed.
    pub totals: CompactionTotals,
    /// How long it took.
    pub duration: Duration,
    /// What went wrong; of kind [`Closed`](crate::ErrorKind::Closed) if it was cancelled.
    pub error: Option<Error>,
}

/// What a compaction did. Moves and drops read and write nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionTotals {
    /// Bytes of table files read.
    pub bytes_read: u64,
    /// Bytes of table files written.
    pub bytes_written: u64,
    /// Entries that were read and not written again.
    pub entries_dropped: u64,
}

/// A table that came or went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableEvent {
    /// The keyspace.
    pub keyspace: Arc<str>,
    /// The number in its file name.
    pub number: FileNumber,
    /// Length of its file.
    pub bytes: u64,
    /// Its level: the first one if it came, the last one if it went.
    pub level: usize,
}

/// What slows writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StallCause {
    /// Compaction has too many bytes to move.
    CompactionDebt,
    /// Level 0 has too many runs.
    Level0Runs,
    /// All memtables are full and wait for flush.
    Memtables,
}

/// See [`Event::StallBegin`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StallBegin {
    /// The keyspace.
    pub keyspace: Arc<str>,
    /// The cause. There is at most one stall of full memtables, and one of the other two, at a time.
    pub cause: StallCause,
    /// How hard: from just above 0 (slowed a little) to 1 (stopped). Full memtables always stop.
    pub pressure: f64,
}

/// See [`Event::StallEnd`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StallEnd {
    /// The keyspace.
    pub keyspace: Arc<str>,
    /// The cause that it began with.
    pub cause: StallCause,
    /// The hardest that it was.
    pub pressure_max: f64,
    /// How long it lasted.
    pub duration: Duration,
}

/// See [`Event::BackgroundError`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackgroundError {
    /// What failed.
    pub task: BackgroundTask,
    /// Whose it was.
    pub keyspace: Arc<str>,
    /// What went wrong.
    pub error: Error,
}

/// Work that can fail without a caller who hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackgroundTask {
    /// Writing a memtable to a table.
    Flush,
    /// Merging, moving or dropping tables.
    Compaction,
    /// Asking a strategy for its next plan.
    Planning,
}

/// The listeners of a database, and what they are still to be told.
pub(crate) struct Listeners {
    /// Whether anybody listens.
    heard: AtomicBool,
    noted: Mutex<VecDeque<Event>>,
    /// Held by whoever is telling.
    telling: Mutex<Vec<Arc<dyn EventListener>>>,
    next_job: AtomicU64,
    poisoned: AtomicBool,
}

impl Listeners {
    pub(crate) fn new(listeners: Vec<Arc<dyn EventListener>>) -> Self {
        Listeners {
            heard: AtomicBool::new(!listeners.is_empty()),
            noted: Mutex::default(),
            telling: Mutex::new(listeners),
            next_job: AtomicU64::new(1),
            poisoned: AtomicBool::new(false),
        }
    }

    /// Whether anybody listens.
    #[inline]
    pub(crate) fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// Puts an event into the queue. May be called under any lock.
    #[inline]
    pub(crate) fn note(&self, event: impl FnOnce() -> Event) {
        if self.is_heard() {
            let event = event();
            self.noted.lock().push_back(event);
        }
    }

    /// Tells the listeners what was noted, unless another thread is doing so. The caller holds no lock.
    #[inline]
    pub(crate) fn tell(&self) {
        if self.is_heard() {
            self.tell_noted();
        }
    }

    #[cold]
    fn tell_noted(&self) {
        // Again if something was noted after the last look, by a thread that found this one still telling.
        while !self.noted.lock().is_empty() {
            // A listener's own calls into the engine come by here too: the outer call goes on with
            // what they noted.
            let Some(mut listeners) = self.telling.try_lock() else { return };
            while let Some(event) = self.next() {
                let hears = |listener: &dyn EventListener| {
                    catch_unwind(AssertUnwindSafe(|| listener.on_event(&event))).is_ok()
                };
                listeners.retain(|listener| hears(&**listener));
            }
            self.heard.store(!listeners.is_empty(), Ordering::Relaxed);
        }
    }

    /// Notes `event` and tells it. The caller holds no lock.
    #[inline]
    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        self.note(event);
        self.tell();
    }

    fn next(&self) -> Option<Event> {
        self.noted.lock().pop_front()
    }

    /// A number that no other compaction of this database has.
    pub(crate) fn new_job(&self) -> u64 {
        self.next_job.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes, the first time, that the database is poisoned. May be called under any lock.
    pub(crate) fn note_poisoned(&self, error: &Error) {
        if !self.poisoned.swap(true, Ordering::Relaxed) {
            self.note(|| Event::Poisoned(error.clone()));
        }
    }

    /// Tells what is left, and lets the listeners go.
    pub(crate) fn end(&self) {
        self.tell();
        self.heard.store(false, Ordering::Relaxed);
        // Not while a listener runs: it is the one that closes, against the rules, or soon done with the last event.
        let ended = self.telling.try_lock().map(|mut listeners| std::mem::take(&mut *listeners));
        // Outside the lock: a listener may drop anything.
        drop(ended);
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("heard", &self.is_heard()).finish_non_exhaustive()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::MemtableSealed(MemtableSealed { keyspace, bytes, entry_count }) => {
                write!(f, "{keyspace}: memtable sealed: {bytes} bytes, {entry_count} entries")
            }
            Event::FlushBegin(FlushBegin { keyspace, memtable_bytes, entry_count }) => {
                write!(f, "{keyspace}: flush begins: {memtable_bytes} bytes, {entry_count} entries")
            }
            Event::FlushEnd(end) => end.fmt(f),
            Event::CompactionBegin(CompactionBegin { job, keyspace, plan, input_bytes }) => {
                let count: usize = plan.inputs.iter().map(|input| input.tables.len()).sum();
                let (action, reason, level) = (plan.action, plan.reason, plan.output_level);
                write!(
                    f,
                    "{keyspace}: compaction {job} begins: {action:?} for {reason:?}, {count} tables, {input_bytes} \
                     bytes, into level {level}"
                )
            }
            Event::CompactionEnd(end) => end.fmt(f),
            Event::TableCreated(TableEvent { keyspace, number, bytes, level }) => {
                write!(f, "{keyspace}: table {number} created in level {level}: {bytes} bytes")
            }
            Event::TableRemoved(TableEvent { keyspace, number, bytes, level }) => {
                write!(
                    f,
                    "{keyspace}: table {number} removed, last in level {level}: {bytes} bytes"
                )
            }
            Event::StallBegin(StallBegin { keyspace, cause, pressure }) => {
                write!(f, "{keyspace}: stall begins: {cause:?}, pressure {pressure:.2}")
            }
            Event::StallEnd(StallEnd { keyspace, cause, pressure_max, duration }) => {
                write!(
                    f,
                    "{keyspace}: stall ended after {duration:?}: {cause:?}, up to {pressure_max:.2}"
                )
            }
            Event::WalSegmentBegun(number) => write!(f, "log segment {number} begun"),
            Event::WalSegmentRemoved(number) => write!(f, "log segment {number} removed"),
            Event::BackgroundError(BackgroundError { task, keyspace, error }) => {
                write!(f, "{keyspace}: {task:?} failed: {error}")
            }
            Event::CorruptionFound(error) => write!(f, "corruption found: {error}"),
            Event::Poisoned(error) => write!(f, "poisoned: {error}"),
        }
    }
}

impl FlushEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FlushEnd { keyspace, table, bytes_written, duration, error } = self;
        match (error, table) {
            (Some(error), _) => write!(f, "{keyspace}: flush failed after {duration:?}: {error}"),
            (None, None) => write!(f, "{keyspace}: flush ended after {duration:?}: no table"),
            (None, Some(table)) => {
                write!(
                    f,
                    "{keyspace}: flush ended after {duration:?}: table {table}, {bytes_written} bytes"
                )
            }
        }
    }
}

impl CompactionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CompactionEnd { job, keyspace, totals, duration, error, .. } = self;
        let CompactionTotals { bytes_read, bytes_written, entries_dropped } = totals;
        if let Some(error) = error {
            return write!(f, "{keyspace}: compaction {job} failed after {duration:?}: {error}");
        }
        write!(
            f,
            "{keyspace}: compaction {job} ended after {duration:?}: {bytes_read} bytes read, {bytes_written} written, \
             {entries_dropped} entries dropped"
        )
    }
}
