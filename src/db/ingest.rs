//! Bulk ingest: sorted entries go straight into tables, past the log and the memtables.
//!
//! The entries are written once, into tables that nobody sees yet, by the thread that has them. [`Ingest::finish`]
//! makes them part of the tree in one step: all of them are there, or none is, for readers and for crashes.
//!
//! # The place in the order of writes
//! All entries share one sequence number, taken at the end. It is taken as a write's is, and holds up the commit queue
//! until the tables are in the tree, so that nothing later is seen before them. What is older must not be found before
//! them: memtables with older versions of keys in the range are flushed first. The tables are *stamped* with the number
//! by the manifest (see `table`).
//!
//! An ingest is durable when it is installed. Writes before it may not be, in the log; by the prefix rule of
//! `db/flush_job` the log is synced before the edit is.
//!
//! # The place in the tree
//! In a leveled tree the tables go into the deepest level such that nothing in it or above it meets their range, if no
//! compaction runs; else into level 0, as its newest run.
//!
//! # Locks
//! The turn in the commit queue is held from the number to the end. Background threads may wait for that turn with a
//! flush in hand; so nothing here waits for them but for a flush that began before. In the order of `db/state`.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cursor::Cursor;
use crate::db::background;
use crate::db::commit::Ticket;
use crate::db::handle::Handle;
use crate::db::install;
use crate::db::state::{Inner, KeyspaceCore, Memory};
use crate::error::{Error, ErrorKind, Result};
use crate::expiry::{EXPIRY_LEN, expires_at_ms, ttl_ms};
use crate::file_name::FileKind;
use crate::key::{
    FileNumber, KEY_LEN_MAX, SequenceNumber, Trailer, VALUE_LEN_MAX, ValueKind, escape,
};
use crate::table::TableMeta;
use crate::table::writer::{TableWriter, TableWriterOptions};
use crate::version::LEVEL_COUNT;

/// What an ingest did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestReport {
    /// Entries.
    pub entries: u64,
    /// Tables written.
    pub tables: u64,
    /// Bytes of those tables.
    pub table_bytes: u64,
    /// The level that they went to.
    pub level: usize,
}

/// Sorted entries on their way into a keyspace, past log and memtables. Made by
/// [`Keyspace::ingest`](crate::Keyspace::ingest).
///
/// Keys must come in ascending order, each once. Each byte is written once, and never again if nothing else lies in the
/// range of the keys: the cheapest way to load much data that is sorted. It costs the memory of one table's index and
/// filter and a buffer of about 1 MiB.
///
/// Nothing is seen before [`Ingest::finish`]; then everything is, at once. Newer and older writes of the same keys win
/// and lose as if the whole ingest were one write of that moment. An ingest that is dropped or meets a crash before
/// leaves nothing behind.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let db = esker::Db::open(dir.path())?;
/// let mut ingest = db.default_keyspace().ingest()?;
/// for n in 0u32..1000 {
///     ingest.put(n.to_be_bytes(), "value")?;
/// }
/// let report = ingest.finish()?;
/// assert_eq!(report.entries, 1000);
/// assert_eq!(db.get(7u32.to_be_bytes())?.as_deref(), Some(&b"value"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Ingest {
    handle: Arc<Handle>,
    core: Arc<KeyspaceCore>,
    writer: Option<TableWriter>,
    finished: Vec<TableMeta>,
    /// Every file that may exist, until all are in the tree.
    created: Vec<FileNumber>,
    last_key: Option<Vec<u8>>,
    /// A value behind its time of expiry.
    stored: Vec<u8>,
    entry_count: u64,
    user_bytes: u64,
    begun_ms: u64,
    begun_ns: u64,
    /// Set by the first error of a file; later calls return it.
    failure: Option<Error>,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest")
            .field("keyspace", &self.core.name)
            .field("entry_count", &self.entry_count)
            .finish_non_exhaustive()
    }
}

impl Ingest {
    pub(crate) fn begin(handle: &Arc<Handle>, core: &Arc<KeyspaceCore>) -> Result<Self> {
        handle.inner.check_writable()?;
        Ok(Ingest {
            core: Arc::clone(core),
            writer: None,
            finished: Vec::new(),
            created: Vec::new(),
            last_key: None,
            stored: Vec::new(),
            entry_count: 0,
            user_bytes: 0,
            begun_ms: handle.inner.clock.unix_ms(),
            begun_ns: handle.inner.clock.monotonic_ns(),
            failure: None,
            handle: Arc::clone(handle),
        })
    }

    /// Adds an entry. A keyspace with a default time to live gives it to the entry.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) if the key does not stand after the last one, or key or value is
    /// too long: the entry is not added, and the ingest can go on. After any other error it cannot.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        match self.core.default_ttl_ms() {
            0 => self.add(key.as_ref(), ValueKind::Put, value.as_ref()),
            ttl_ms => self.put_living(key.as_ref(), value.as_ref(), ttl_ms),
        }
    }

    /// Adds an entry that expires after `ttl`, counted from this call.
    ///
    /// # Errors
    /// As [`Ingest::put`]; also for a time of zero.
    pub fn put_with_ttl(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<()> {
        self.put_living(key.as_ref(), value.as_ref(), ttl_ms(ttl)?)
    }

    fn put_living(&mut self, key: &[u8], value: &[u8], ttl_ms: u64) -> Result<()> {
        let at_ms = expires_at_ms(self.handle.inner.clock.unix_ms(), ttl_ms);
        let mut stored = std::mem::take(&mut self.stored);
        stored.clear();
        stored.extend_from_slice(&at_ms.to_le_bytes());
        stored.extend_from_slice(value);
        let added = self.add(key, ValueKind::PutExpiring, &stored);
        self.stored = stored;
        added
    }

    fn add(&mut self, key: &[u8], kind: ValueKind, stored: &[u8]) -> Result<()> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.check_entry(key, stored)?;
        let added = self.write(key, Trailer::new(SequenceNumber::ZERO, kind), stored);
        if let Err(error) = added {
            self.failure = Some(error.clone());
            return Err(error);
        }
        let last_key = self.last_key.get_or_insert_default();
        last_key.clear();
        last_key.extend_from_slice(key);
        self.entry_count += 1;
        let prefix_len = if kind == ValueKind::PutExpiring { EXPIRY_LEN } else { 0 };
        self.user_bytes += (key.len() + stored.len() - prefix_len) as u64;
        Ok(())
    }

    fn check_entry(&self, key: &[u8], stored: &[u8]) -> Result<()> {
        if key.len() > KEY_LEN_MAX || stored.len() > VALUE_LEN_MAX {
            let what =
                format!("key of {} bytes or value of {} is too long", key.len(), stored.len());
            return Err(Error::invalid(what).advise("see the limits in docs/guarantees.md"));
        }
        match &self.last_key {
            Some(last_key) if key <= &last_key[..] => {
                let (key, last_key) = (escape(key), escape(last_key));
                Err(Error::invalid(format!("key {key} does not stand after {last_key}")).advise(
                    "sort the entries by key, bytewise, and give each key once; or write them as batches",
                ))
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, key: &[u8], trailer: Trailer, stored: &[u8]) -> Result<()> {
        let options = self.core.options.load_full();
        if self
            .writer
            .as_ref()
            .is_some_and(|writer| writer.estimated_bytes() >= options.table_bytes)
        {
            self.finish_table()?;
        }
        let inner = &self.handle.inner;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            empty => {
                // The close waits until the file is there: later the number may be another opener's.
                let Some(_running) = inner.work.begin() else { return Err(inner.closed_error()) };
                let number = inner.new_file_number();
                self.created.push(number);
                // Where they will lie is not known yet; the deepest level is what they are made for.
                let level = LEVEL_COUNT - 1;
                let options = TableWriterOptions {
                    number,
                    keyspace: self.core.id,
                    block_bytes: options.block_bytes,
                    compression: options.compression_at(level),
                    filter: options.filter,
                    filter_bits: options.filter_bits_at(level),
                };
                empty.insert(TableWriter::create(inner.fs.as_ref(), &inner.dir, options)?)
            }
        };
        writer.add(key, trailer, stored)
    }

    fn finish_table(&mut self) -> Result<()> {
        let Some(mut writer) = self.writer.take() else { return Ok(()) };
        let now_ms = self.handle.inner.clock.unix_ms().max(self.begun_ms);
        writer.set_write_times(self.begun_ms, now_ms);
        self.finished.push(writer.finish()?);
        Ok(())
    }

    /// Makes all entries part of the keyspace: seen by every later read, and durable, at once. So is every write before
    /// it. Nothing to do if there are none.
    ///
    /// Writers of the database wait while it is installed: a sync of the log and of the manifest, and the flush of what
    /// was written to the same range of keys a moment before.
    ///
    /// # Errors
    /// Nothing is in the keyspace then, but after a failed write or sync of the manifest, which poisons the database:
    /// then that is known only after reopening it.
    pub fn finish(mut self) -> Result<IngestReport> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let handle = Arc::clone(&self.handle);
        let inner = &*handle.inner;
        inner.check_writable()?;
        self.finish_table()?;
        if self.finished.is_empty() {
            return Ok(IngestReport::default());
        }
        inner.fs.sync_dir(&inner.dir)?;
        let result = self.install(inner);
        inner.tell_failure();
        let level = result?;
        if inner.runs_inline() {
            // The entries are there whatever becomes of it.
            let _ = background::run_due(inner);
        }
        Ok(IngestReport {
            entries: self.entry_count,
            tables: self.finished.len() as u64,
            table_bytes: self.finished.iter().map(|meta| meta.file_bytes).sum(),
            level,
        })
    }

    fn install(&mut self, inner: &Inner) -> Result<usize> {
        let (first, last) = (&self.finished[0], self.finished.last().expect("it has a first one"));
        let range = first.smallest.clone()..=last.largest.clone();
        let core = Arc::clone(&self.core);
        if memories(&core).any(|memory| holds_any(&memory, &range, SequenceNumber::MAX)) {
            // Almost all that must be flushed, while writers go on.
            background::flush(inner, std::slice::from_ref(&core))?;
        }
        let turn = Turn::take(inner, &core, &range, (self.entry_count, self.user_bytes))?;
        let before = SequenceNumber(turn.sequence.0 - 1);
        inner.commit().wait_visible(before)?;
        let older = |memory: &Arc<Memory>| memory.cut() <= before;
        let immutables = core.view.load().immutables.clone();
        let mut blocking = immutables.iter().filter(|memory| older(memory));
        if let Some(memory) = blocking.find(|memory| holds_any(memory, &range, before)) {
            background::flush_here(inner, &core, memory.cut())?;
        }
        inner.commit().sync_log()?;
        for meta in &mut self.finished {
            (meta.sequence_min, meta.sequence_max) = (turn.sequence, turn.sequence);
        }
        let duration_ns = inner.clock.monotonic_ns().saturating_sub(self.begun_ns);
        let tables = &self.finished;
        let installed = install::install_ingest(inner, &core, tables, duration_ns, || turn.end());
        if installed.is_ok() || inner.commit().failure().is_some() {
            // They are the tree's now, or nobody knows: then the next open does.
            self.created.clear();
        }
        installed
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.writer = None;
        let inner = &self.handle.inner;
        // After the close the directory may be another opener's, who removes what no manifest names.
        let Some(_running) = inner.work.begin() else { return };
        for number in self.created.drain(..) {
            let _ = inner.fs.remove(&FileKind::Table(number).path(&inner.dir));
        }
    }
}

/// The memtables of `core`, newest first.
fn memories(core: &KeyspaceCore) -> impl Iterator<Item = Arc<Memory>> {
    let view = core.view.load_full();
    let mut all = vec![Arc::clone(&view.active)];
    all.extend(view.immutables.iter().cloned());
    all.into_iter()
}

/// Whether `memory` holds a version up to `sequence` of a key in `range`.
fn holds_any(memory: &Memory, range: &RangeInclusive<Box<[u8]>>, sequence: SequenceNumber) -> bool {
    let mut cursor = memory.table.cursor();
    let mut stands = cursor.seek(range.start(), Trailer::NEWEST);
    while stands.is_ok() && cursor.valid() && *cursor.key() <= **range.end() {
        if cursor.trailer().sequence() <= sequence {
            return true;
        }
        stands = cursor.next();
    }
    debug_assert!(stands.is_ok(), "a memtable does no I/O");
    false
}

/// The ingest's turn in the commit queue, which it holds up until it is given back.
struct Turn<'a> {
    inner: &'a Inner,
    ticket: Option<Ticket>,
    sequence: SequenceNumber,
}

impl<'a> Turn<'a> {
    /// Takes a sequence number and a turn. Everything older of the keys in `range` is then in immutable memtables or in
    /// tables.
    fn take(
        inner: &'a Inner,
        core: &KeyspaceCore,
        range: &RangeInclusive<Box<[u8]>>,
        (entry_count, user_bytes): (u64, u64),
    ) -> Result<Self> {
        let queue = inner.commit();
        let mut commit = queue.lock();
        commit.check()?;
        inner.check_open()?;
        if core.dropped.load(Ordering::Relaxed) {
            return Err(Error::invalid(format!("keyspace {} was dropped", core.name))
                .advise("open it again with Db::keyspace to create it anew"));
        }
        let sequence = commit.next_sequence;
        if sequence >= SequenceNumber::MAX {
            return Err(Error::new(ErrorKind::InvalidArgument, "sequence numbers are used up"));
        }
        let before = SequenceNumber(sequence.0 - 1);
        // Writers that have their place may not have inserted yet: then nobody knows what the memtable will hold.
        let active = Arc::clone(&core.view.load().active);
        if queue.visible() < before || holds_any(&active, range, before) {
            inner.rotate(core, before);
        }
        commit.next_sequence = SequenceNumber(sequence.0 + 1);
        commit.totals.user_bytes += user_bytes;
        commit.totals.operations += entry_count;
        commit.totals.batches += 1;
        let end = commit.wal().end_position();
        let ticket = queue.enter(&mut commit, sequence, end, false);
        drop(commit);
        // The memtable may have been rotated.
        inner.work.announce();
        Ok(Turn { inner, ticket: Some(ticket), sequence })
    }

    /// Lets the queue go on; the number is visible afterwards.
    fn end(mut self) -> Result<()> {
        let ticket = self.ticket.take().expect("it is taken once");
        self.inner.commit().finish(ticket, &*self.inner.clock)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            // A number without a write. The error is the one that led here.
            let _ = self.inner.commit().finish(ticket, &*self.inner.clock);
        }
    }
}
