//! **The write path**: from a batch to something readers see.
//!
//! 1. Outside any lock: lengths are checked, times to live are started, the payload's checksum is computed, the
//!    throttle is passed.
//! 2. Under the commit lock: full memtables are rotated, sequence numbers are taken, the payload is copied into the
//!    log, and the write joins the commit queue.
//! 3. Outside again: the operations are inserted into the memtables that were active at 2, concurrently.
//! 4. The commit queue (`db/commit.rs`) syncs if promised and makes the write visible in its turn.
//!
//! A write that fails in 1 or before the copy in 2 did nothing. A failure of the log poisons the database.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::{WriteBatch, operations};
use crate::checksum::checksum;
use crate::db::background;
use crate::db::commit::{CommitState, Ticket};
use crate::db::counters::StallCause;
use crate::db::state::{Inner, KeyspaceCore, Memory};
use crate::db::throttle::busy;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::key::{KeyspaceId, SequenceNumber, Trailer, ValueKind, key_hash};
use crate::options::{Durability, Stall, WriteOptions};
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, thread_local};
use crate::wal::WalPosition;

/// A buffer kept by a thread for its single operations is not kept when it grew beyond this.
const KEPT_BUFFER_BYTES_MAX: usize = 64 << 10;

thread_local! {
    /// Single puts and deletes are encoded here, without an allocation.
    static SINGLE: RefCell<WriteBatch> = RefCell::default();
}

/// Where a write goes: the keyspaces it names, and the memtables that were active when it took its place.
#[derive(Debug, Default)]
struct Targets {
    cores: Vec<Arc<KeyspaceCore>>,
    memories: Vec<Arc<Memory>>,
}

impl Targets {
    fn index(&self, id: KeyspaceId) -> usize {
        let mut cores = self.cores.iter();
        cores.position(|core| core.id == id).expect("every keyspace of the batch was resolved")
    }

    fn memory(&self, id: KeyspaceId) -> &Memory {
        &self.memories[self.index(id)]
    }
}

/// What a write took under the commit lock.
#[derive(Debug)]
struct Entered {
    first: SequenceNumber,
    ticket: Ticket,
    rotated: bool,
    wants_segment: bool,
}

/// A change of one key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    Put(&'a [u8]),
    /// Put, to live so long.
    PutLiving(&'a [u8], Duration),
    Delete,
}

/// Writes one operation into `core`.
pub(crate) fn write_one(
    inner: &Inner,
    core: &Arc<KeyspaceCore>,
    (key, change): (&[u8], Change<'_>),
    options: WriteOptions,
) -> Result<()> {
    SINGLE.with(|batch| {
        let batch = &mut *batch.borrow_mut();
        batch.clear();
        match change {
            Change::Put(value) => match core.default_ttl_ms() {
                0 => batch.add(core.id, ValueKind::Put, key, value),
                ttl_ms => batch.add_living(core.id, key, value, ttl_ms),
            },
            Change::PutLiving(value, ttl) => batch.add_expiring(core.id, key, value, ttl),
            Change::Delete => batch.add(core.id, ValueKind::Delete, key, b""),
        }
        let result = write(inner, batch, Some(core), options);
        if batch.bytes() > KEPT_BUFFER_BYTES_MAX {
            *batch = WriteBatch::new();
        }
        result
    })
}

/// Writes `batch`. `only` is its keyspace, if it is a single operation.
pub(crate) fn write(
    inner: &Inner,
    batch: &mut WriteBatch,
    only: Option<&Arc<KeyspaceCore>>,
    options: WriteOptions,
) -> Result<()> {
    inner.check_writable()?;
    batch.check(inner.origin)?;
    let mut durability = options.durability.unwrap_or(inner.options.durability);
    if durability == Durability::Async && inner.runs_inline() {
        // Nobody would sync it in time.
        durability = Durability::Sync;
    }
    if batch.is_empty() {
        return if durability == Durability::Sync {
            inner.commit().sync(&*inner.clock)
        } else {
            Ok(())
        };
    }
    let mut targets = resolve(inner, batch, only)?;
    // A single put was given it already.
    if only.is_none() && targets.cores.iter().any(|core| core.default_ttl_ms() > 0) {
        batch.give_default_ttls(|id| targets.cores[targets.index(id)].default_ttl_ms());
        batch.check(inner.origin)?;
    }
    if batch.has_ttls() {
        batch.start_ttls(inner.clock.unix_ms());
    }
    let payload_checksum =
        if durability == Durability::Disabled { 0 } else { checksum(batch.payload()) };
    for core in &targets.cores {
        pass_throttle(inner, core, batch.bytes() as u64, options.stall)?;
    }
    let entered = enter(inner, batch, durability, payload_checksum, &mut targets, options.stall)
        .inspect_err(|_| inner.tell_failure())?;
    apply(batch, entered.first, &targets);
    if durability == Durability::Async {
        inner.work.note_async();
    }
    if entered.rotated || entered.wants_segment {
        inner.work.announce();
    }
    inner.commit().finish(entered.ticket, &*inner.clock).inspect_err(|_| inner.tell_failure())?;
    if let Some(recorder) = &inner.read.recorder {
        recorder.record_batch(batch.payload());
    }
    if entered.rotated && inner.runs_inline() {
        // This write is done whatever becomes of the flush; a failed flush is reported by the write that needs room.
        let _ = background::run_due(inner);
    }
    if entered.rotated || entered.wants_segment {
        inner.listeners.tell();
    }
    Ok(())
}

/// Finds the keyspaces that `batch` names.
fn resolve(inner: &Inner, batch: &WriteBatch, only: Option<&Arc<KeyspaceCore>>) -> Result<Targets> {
    let mut targets = Targets::default();
    if let Some(core) = only {
        targets.cores.push(Arc::clone(core));
        return Ok(targets);
    }
    let keyspaces = inner.keyspaces.load();
    for operation in operations(batch.payload()) {
        let id = operation.expect("a batch encodes itself well").keyspace;
        if targets.cores.last().is_some_and(|core| core.id == id)
            || targets.cores.iter().any(|core| core.id == id)
        {
            continue;
        }
        let core = keyspaces.by_id.get(&id).ok_or_else(dropped_keyspace)?;
        targets.cores.push(Arc::clone(core));
    }
    Ok(targets)
}

fn dropped_keyspace() -> Error {
    Error::invalid("the keyspace was dropped")
        .advise("open it again with Db::keyspace to create it anew")
}

fn pass_throttle(inner: &Inner, core: &KeyspaceCore, bytes: u64, stall: Stall) -> Result<()> {
    if !core.throttle.is_pressed() {
        return Ok(());
    }
    // A compaction that failed is tried again for the writer's sake: else a failure that passed would stop it for good.
    let retried = background::retry_compaction(inner);
    if inner.runs_inline() {
        // There is nobody to wait for.
        return match stall {
            Stall::Wait if core.throttle.is_stopped() => retried,
            Stall::Fail if core.throttle.is_pressed() => Err(busy("compaction is behind")),
            _ => Ok(()),
        };
    }
    let waited_ns = core.throttle.pass(bytes, stall, &*inner.clock, || {
        inner.check_open()?;
        inner.commit().lock().check()?;
        match &inner.work.lock().compaction_error {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    })?;
    if waited_ns > 0 {
        inner.counters().count_stall(&core.counters, StallCause::Debt, waited_ns);
    }
    Ok(())
}

/// Step 2: everything under the commit lock.
fn enter(
    inner: &Inner,
    batch: &WriteBatch,
    durability: Durability,
    payload_checksum: u32,
    targets: &mut Targets,
    stall: Stall,
) -> Result<Entered> {
    let (mut commit, mut rotated) = lock_with_room(inner, targets, stall)?;
    let first = commit.next_sequence;
    let last = SequenceNumber(first.0 + u64::from(batch.count()) - 1);
    if last > SequenceNumber::MAX {
        // No database writes so often; its files say that it did.
        return Err(Error::corruption(&inner.dir, 0, "sequence numbers are used up"));
    }
    let mut wal_end = WalPosition::default();
    let mut wants_segment = false;
    if durability == Durability::Disabled {
        targets.memories.iter().for_each(|memory| memory.note_unlogged());
    } else {
        let wal = commit.wal();
        let before = wal.end_position();
        wal_end = match wal.append(first, batch.count(), batch.payload(), payload_checksum) {
            Ok(end) => end,
            Err(error) => {
                drop(commit);
                return Err(inner.poison(error));
            }
        };
        let is_begun = before.offset == 0 || wal_end.segment != before.segment;
        wants_segment = wal.wants_prepared_segment() || is_begun;
        if is_begun {
            inner.listeners.note(|| Event::WalSegmentBegun(wal_end.segment));
        }
        targets.memories.iter().for_each(|memory| memory.note_segment(wal_end.segment));
        if is_begun && wal.live_bytes() > inner.options.wal_bytes_max {
            rotated |= bound_log(inner, last);
            wants_segment = true;
        }
        commit.totals.wal_records += 1;
        commit.totals.wal_bytes += wal_end.offset - if is_begun { 0 } else { before.offset };
    }
    for memory in targets.memories.iter().filter(|memory| memory.table.is_empty()) {
        memory.table.note_write_time(inner.clock.unix_ms());
    }
    commit.next_sequence = SequenceNumber(last.0 + 1);
    commit.totals.user_bytes += batch.user_bytes();
    commit.totals.operations += u64::from(batch.count());
    commit.totals.batches += 1;
    let ticket = inner.commit().enter(&mut commit, last, wal_end, durability == Durability::Sync);
    Ok(Entered { first, ticket, rotated, wants_segment })
}

/// Takes the commit lock with room for the write in each memtable it goes to, rotating full ones.
fn lock_with_room<'a>(
    inner: &'a Inner,
    targets: &mut Targets,
    stall: Stall,
) -> Result<(MutexGuard<'a, CommitState>, bool)> {
    let mut rotated = false;
    'again: loop {
        let commit = inner.commit().lock();
        commit.check()?;
        inner.check_open()?;
        targets.memories.clear();
        for core in &targets.cores {
            if core.dropped.load(Ordering::Relaxed) {
                return Err(dropped_keyspace());
            }
            let view = core.view.load();
            if !view.active.is_full() {
                targets.memories.push(Arc::clone(&view.active));
                continue;
            }
            if view.immutables.len() + 1 >= core.options.load().memtables_max {
                drop(commit);
                wait_for_room(inner, core, stall)?;
                continue 'again;
            }
            inner.rotate(core, SequenceNumber(commit.next_sequence.0 - 1));
            rotated = true;
            targets.memories.push(Arc::clone(&core.view.load().active));
        }
        return Ok((commit, rotated));
    }
}

/// Waits until a flush made room for another memtable of `core`.
#[cold]
fn wait_for_room(inner: &Inner, core: &KeyspaceCore, stall: Stall) -> Result<()> {
    if stall == Stall::Fail {
        return Err(busy("all memtables are full"));
    }
    let start_ns = inner.clock.monotonic_ns();
    core.stalls.note_wait(start_ns, &inner.listeners);
    inner.listeners.tell();
    let waited = background::wait_for_flush(inner, || {
        core.view.load().immutables.len() + 1 < core.options.load().memtables_max
    });
    let waited_ns = inner.clock.monotonic_ns();
    core.stalls.note_waited(waited_ns, &inner.listeners);
    inner.listeners.tell();
    waited?;
    let stalled_ns = waited_ns.saturating_sub(start_ns);
    inner.counters().count_stall(&core.counters, StallCause::Memtables, stalled_ns);
    Ok(())
}

/// Rotates the memtables that keep the oldest log segments alive, so that flush lets go of those. The caller holds the
/// commit lock; its own write, up to `last`, still goes to the memtables it found active. Returns whether any was.
fn bound_log(inner: &Inner, last: SequenceNumber) -> bool {
    let keyspaces = inner.keyspaces.load();
    let oldest_of = |core: &Arc<KeyspaceCore>| {
        let view = core.view.load();
        // Immutable ones are on their way to flush already.
        if view.immutables.is_empty() { view.active.first_segment() } else { None }
    };
    let Some(oldest) = keyspaces.by_id.values().filter_map(oldest_of).min() else { return false };
    for core in keyspaces.by_id.values() {
        if oldest_of(core) == Some(oldest) {
            inner.rotate(core, last);
        }
    }
    true
}

/// Step 3: inserts the operations into the memtables.
#[inline]
fn apply(batch: &WriteBatch, first: SequenceNumber, targets: &Targets) {
    for (sequence, operation) in (first.0..).zip(operations(batch.payload())) {
        let operation = operation.expect("a batch encodes itself well");
        let trailer = Trailer::new(SequenceNumber(sequence), operation.kind);
        let memory = targets.memory(operation.keyspace);
        memory.table.insert(operation.key, trailer, operation.value, key_hash(operation.key));
    }
}

/// Makes every write before the call durable.
pub(crate) fn sync(inner: &Inner) -> Result<()> {
    inner.check_writable()?;
    inner.commit().sync(&*inner.clock).inspect_err(|_| {
        inner.wake_all();
        inner.tell_failure();
    })
}
