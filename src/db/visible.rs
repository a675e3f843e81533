//! From entries to what a user sees: the newest visible version of each key, in both directions.
//!
//! A [`VisibleCursor`] merges the memtables and runs of one [`ReadView`] and shows, for each user key, the newest
//! version at or before its sequence number, unless that is a tombstone or has expired. The view pins everything it
//! reads, so it needs no snapshot registered.
//!
//! # Time
//! The clock is read once, when the cursor first meets an entry that can expire; all of them are judged by that time.
//!
//! # Positions
//! Going forward, the merge stands on the entry shown. Going backward, versions of a key come oldest first, so the
//! cursor reads through all of them before it knows the newest: key and value are then held apart, and the merge stands
//! before the key. After an error every method returns that error: nothing is skipped silently.

use std::sync::Arc;

use crate::cursor::Cursor;
use crate::cursor::merging::MergingCursor;
use crate::db::state::{ReadShared, ReadView};
use crate::error::{Error, Result};
use crate::expiry::{EXPIRY_LEN, is_expired, split_expiring};
use crate::fs::Access;
use crate::key::{KeyspaceId, SequenceNumber, Trailer, ValueKind, key_hash};
use crate::memtable::cursor::MemCursor;
use crate::table::reader::ReadStats;
use crate::table_cache::run_cursor::RunCursor;
use crate::value::Value;

/// One source of entries: no dynamic dispatch on the way to an entry.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a box would be one more place to go to for each step"
)]
enum Source {
    Memory(MemCursor),
    Run(RunCursor),
}

macro_rules! each {
    ($self:ident, $cursor:ident => $body:expr) => {
        match $self {
            Source::Memory($cursor) => $body,
            Source::Run($cursor) => $body,
        }
    };
}

impl Cursor for Source {
    #[inline]
    fn valid(&self) -> bool {
        each!(self, c => c.valid())
    }
    fn seek_to_first(&mut self) -> Result<()> {
        each!(self, c => c.seek_to_first())
    }
    fn seek_to_last(&mut self) -> Result<()> {
        each!(self, c => c.seek_to_last())
    }
    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        each!(self, c => c.seek(key, trailer))
    }
    fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        each!(self, c => c.seek_for_prev(key, trailer))
    }
    #[inline]
    fn next(&mut self) -> Result<()> {
        each!(self, c => c.next())
    }
    #[inline]
    fn prev(&mut self) -> Result<()> {
        each!(self, c => c.prev())
    }
    #[inline]
    fn key(&self) -> &[u8] {
        each!(self, c => c.key())
    }
    #[inline]
    fn trailer(&self) -> Trailer {
        each!(self, c => c.trailer())
    }
    #[inline]
    fn value(&self) -> &[u8] {
        each!(self, c => c.value())
    }
}

impl Source {
    /// Names in `error`, which is about the entry, where that stands.
    #[cold]
    fn locate(&self, error: Error) -> Error {
        match self {
            Source::Memory(_) => error,
            Source::Run(cursor) => cursor.table_cursor().locate(error),
        }
    }

    fn pin_value(&self) -> Value {
        match self {
            Source::Memory(cursor) => Value::in_memory(cursor.pin_value()),
            Source::Run(cursor) => Value::in_table(cursor.table_cursor().pin_value()),
        }
    }
}

/// Where a [`VisibleCursor`] stands.
#[derive(Debug)]
enum Position {
    Nowhere,
    /// On the entry under the merge, whose value begins after so many bytes.
    Forward(usize),
    /// On `key`, with this value; the merge stands before every version of `key`.
    Backward(Value),
}

/// See the module text.
#[derive(Debug)]
pub(crate) struct VisibleCursor {
    shared: Arc<ReadShared>,
    merge: MergingCursor<Source>,
    bound: Trailer,
    position: Position,
    /// By which expiry is judged, once it had to be.
    now_ms: Option<u64>,
    /// Forward: scratch, the key to skip. Backward: the key shown.
    key: Vec<u8>,
    seeks: u64,
    steps: u64,
    failed: Option<Error>,
    keyspace: KeyspaceId,
    /// The scan that goes on, if operations are recorded.
    scan: Option<Scan>,
}

/// A seek, as it will be recorded when its scan has ended.
#[derive(Clone, Copy, Debug)]
struct Scan {
    /// Hash and length of the key.
    sought: (u64, usize),
    /// Steps before it.
    steps: u64,
}

impl VisibleCursor {
    /// A cursor over `view` as of `sequence`, standing nowhere.
    pub(crate) fn new(
        shared: &Arc<ReadShared>,
        keyspace: KeyspaceId,
        view: &ReadView,
        sequence: SequenceNumber,
    ) -> Self {
        let memories = std::iter::once(&view.active).chain(&view.immutables);
        let memories = memories.filter(|memory| !memory.table.is_empty());
        let runs = view.version.levels.iter().flat_map(|level| &level.runs);
        let sources = memories
            .map(|memory| Source::Memory(memory.table.cursor()))
            .chain(runs.map(|run| {
                Source::Run(RunCursor::new(
                    Arc::clone(&shared.tables),
                    Arc::clone(run),
                    0..run.tables.len(),
                    Access::Random,
                ))
            }))
            .collect();
        VisibleCursor {
            shared: Arc::clone(shared),
            merge: MergingCursor::new(sources),
            bound: Trailer::visible_at(sequence),
            position: Position::Nowhere,
            now_ms: None,
            key: Vec::new(),
            seeks: 0,
            steps: 0,
            failed: None,
            keyspace,
            scan: None,
        }
    }

    #[inline]
    pub(crate) fn valid(&self) -> bool {
        !matches!(self.position, Position::Nowhere)
    }

    /// The key. Must be valid.
    #[inline]
    pub(crate) fn key(&self) -> &[u8] {
        match &self.position {
            Position::Backward(_) => &self.key,
            _ => self.merge.key(),
        }
    }

    /// The value. Must be valid.
    #[inline]
    pub(crate) fn value(&self) -> &[u8] {
        match &self.position {
            Position::Backward(value) => value,
            Position::Forward(start) => &self.merge.value()[*start..],
            Position::Nowhere => self.merge.value(),
        }
    }

    /// The value, pinned. Must be valid.
    pub(crate) fn pin_value(&self) -> Value {
        match &self.position {
            Position::Backward(value) => value.clone(),
            Position::Forward(EXPIRY_LEN) => self.merge.current().pin_value().without_expiry(),
            _ => self.merge.current().pin_value(),
        }
    }

    /// The time by which expiry is judged, once it had to be.
    pub(crate) fn now_ms(&self) -> Option<u64> {
        self.now_ms
    }

    /// Judges expiry by this time from now on.
    pub(crate) fn set_now_ms(&mut self, now_ms: Option<u64>) {
        self.now_ms = now_ms;
    }

    pub(crate) fn seek_to_first(&mut self) -> Result<()> {
        self.begin_scan(b"");
        self.run(true, |cursor| {
            cursor.merge.seek_to_first()?;
            cursor.find_forward(false)
        })
    }

    pub(crate) fn seek_to_last(&mut self) -> Result<()> {
        self.begin_scan(b"");
        self.run(true, |cursor| {
            cursor.merge.seek_to_last()?;
            cursor.find_backward()
        })
    }

    /// Moves to the first key at or after `key`.
    pub(crate) fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.begin_scan(key);
        self.run(true, |cursor| {
            cursor.merge.seek(key, cursor.bound)?;
            cursor.find_forward(false)
        })
    }

    /// Moves to the last key at or before `key`.
    pub(crate) fn seek_for_prev(&mut self, key: &[u8]) -> Result<()> {
        self.begin_scan(key);
        self.run(true, |cursor| {
            cursor.merge.seek_for_prev(key, Trailer::OLDEST)?;
            cursor.find_backward()
        })
    }

    /// Moves to the next key. Must be valid.
    pub(crate) fn next(&mut self) -> Result<()> {
        assert!(self.valid() || self.failed.is_some(), "next on a cursor that stands nowhere");
        self.run(false, |cursor| {
            if matches!(cursor.position, Position::Backward(_)) {
                // The merge stands before the key, or ran off the front: step onto its first version.
                if cursor.merge.valid() {
                    cursor.merge.next()?;
                } else {
                    cursor.merge.seek_to_first()?;
                }
            } else {
                cursor.key.clear();
                cursor.key.extend_from_slice(cursor.merge.key());
                cursor.merge.next()?;
            }
            cursor.find_forward(true)
        })
    }

    /// Moves to the previous key. Must be valid.
    pub(crate) fn prev(&mut self) -> Result<()> {
        assert!(self.valid() || self.failed.is_some(), "prev on a cursor that stands nowhere");
        self.run(false, |cursor| {
            if matches!(cursor.position, Position::Forward(_)) {
                cursor.key.clear();
                cursor.key.extend_from_slice(cursor.merge.key());
                while cursor.merge.valid() && cursor.merge.key() == cursor.key.as_slice() {
                    cursor.merge.prev()?;
                }
            }
            cursor.find_backward()
        })
    }

    /// Notes for the recorder that a scan from `key` begins, and the one before has ended.
    #[inline]
    fn begin_scan(&mut self, key: &[u8]) {
        if self.shared.recorder.is_some() {
            self.end_scan();
            self.scan = Some(Scan { sought: (key_hash(key), key.len()), steps: self.steps });
        }
    }

    /// Records the scan that went on, if any.
    fn end_scan(&mut self) {
        if let (Some(recorder), Some(scan)) = (&self.shared.recorder, self.scan.take()) {
            // Each step led from one entry to the next; the last one may have led off the end.
            let entries = self.steps - scan.steps + u64::from(self.valid());
            recorder.record_scan(self.keyspace, scan.sought, entries);
        }
    }

    /// Runs a move; an error stays.
    #[inline]
    fn run(&mut self, seek: bool, step: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if seek {
            self.seeks += 1;
        } else {
            self.steps += 1;
        }
        let result = step(self);
        if let Err(error) = &result {
            self.position = Position::Nowhere;
            self.failed = Some(error.clone());
        }
        result
    }

    /// Where in its stored value the user's value of the entry under the merge begins; `None` if it has none.
    #[inline]
    fn value_start(&mut self, trailer: Trailer) -> Result<Option<usize>> {
        let located = |error| self.merge.current().locate(error);
        match trailer.kind().map_err(located)? {
            ValueKind::Put => Ok(Some(0)),
            ValueKind::PutExpiring => {
                let (expires_at_ms, _) = split_expiring(self.merge.value()).map_err(located)?;
                let now_ms = *self.now_ms.get_or_insert_with(|| self.shared.clock.unix_ms());
                Ok((!is_expired(expires_at_ms, now_ms)).then_some(EXPIRY_LEN))
            }
            _ => Ok(None),
        }
    }

    /// From where the merge stands, finds the first key to show; with `skip`, versions of `self.key` do not count.
    fn find_forward(&mut self, mut skip: bool) -> Result<()> {
        self.position = Position::Nowhere;
        while self.merge.valid() {
            let trailer = self.merge.trailer();
            if trailer <= self.bound && !(skip && self.merge.key() == self.key.as_slice()) {
                if let Some(start) = self.value_start(trailer)? {
                    self.position = Position::Forward(start);
                    return Ok(());
                }
                self.key.clear();
                self.key.extend_from_slice(self.merge.key());
                skip = true;
            }
            self.merge.next()?;
        }
        Ok(())
    }

    /// From where the merge stands, finds the last key to show.
    fn find_backward(&mut self) -> Result<()> {
        self.position = Position::Nowhere;
        // The newest visible version seen so far of the key under the merge, if it is a put.
        let mut candidate = None;
        while self.merge.valid() {
            let trailer = self.merge.trailer();
            if trailer <= self.bound {
                if candidate.is_some() && self.merge.key() != self.key.as_slice() {
                    break;
                }
                candidate = match self.value_start(trailer)? {
                    None => None,
                    Some(start) => {
                        self.key.clear();
                        self.key.extend_from_slice(self.merge.key());
                        let value = self.merge.current().pin_value();
                        Some(if start == EXPIRY_LEN { value.without_expiry() } else { value })
                    }
                };
            }
            self.merge.prev()?;
        }
        if let Some(value) = candidate {
            self.position = Position::Backward(value);
        }
        Ok(())
    }
}

impl Drop for VisibleCursor {
    fn drop(&mut self) {
        self.end_scan();
        let mut stats = ReadStats::default();
        self.merge.for_each_source(|source| {
            if let Source::Run(cursor) = source {
                stats += cursor.take_stats();
            }
        });
        self.shared.counters.count_scan(self.seeks, self.steps, &stats);
    }
}
