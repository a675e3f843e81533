//! The log into memtables: all of it if an open would take it, else every record that is still whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::batch::operations;
use crate::check::Survey;
use crate::check::log::check_record;
use crate::error::{ErrorKind, Result};
use crate::fs::FileSystem;
use crate::key::{KeyspaceId, SequenceNumber, Trailer, key_hash};
use crate::memtable::MemTable;
use crate::options::RecoveryMode;
use crate::repair::{LostRange, LostWrites};
use crate::wal::WalPosition;
use crate::wal::replay::{WalRecord, replay};
use crate::wal::segment::RecordKind;

/// What becomes of the operations on a keyspace.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Up to here the tables have everything, or had.
    pub(super) flushed: SequenceNumber,
    /// The keys that the tables may not have any more.
    pub(super) lost: Vec<LostRange>,
    /// Bytes at which a memtable is full.
    pub(super) memtable_bytes: u64,
}

/// What the log held.
#[derive(Debug, Default)]
pub(super) struct LogContent {
    /// Of each keyspace, oldest first.
    pub(super) memtables: BTreeMap<KeyspaceId, Vec<Arc<MemTable>>>,
    /// What damaged tables should hold, and the log does still.
    pub(super) refound: BTreeMap<KeyspaceId, Arc<MemTable>>,
    pub(super) lost: Vec<LostWrites>,
    /// The sequence numbers of the readable records, first and last of each stretch.
    logged: Vec<(u64, u64)>,
    /// Entries that went into memtables.
    pub(super) entry_count: u64,
    /// At least every sequence number in the log.
    pub(super) max_sequence: SequenceNumber,
}

/// Reads the log. `wanted` says of each keyspace what is done with it; `None`: it was dropped.
pub(super) fn read_log(
    fs: &dyn FileSystem,
    dir: &Path,
    survey: &Survey,
    now_ms: u64,
    wanted: &mut dyn FnMut(KeyspaceId) -> Option<Wanted>,
) -> Result<LogContent> {
    let is_whole = survey.log.is_ok();
    let mode = if is_whole { RecoveryMode::PointInTime } else { RecoveryMode::Salvage };
    let state = survey.manifest.as_ref().map(|recovered| &recovered.state);
    let mut content = LogContent::default();
    let mut next: Option<u64> = state.map(|state| {
        let flushed = state.keyspaces.values().map(|keyspace| keyspace.flushed_sequence.0);
        flushed.min().unwrap_or(0) + 1
    });
    let mut known: BTreeMap<KeyspaceId, Option<Wanted>> = BTreeMap::new();
    let mut end: Option<WalPosition> = None;
    let mut has_gap = false;
    let mut visit = |record: &WalRecord<'_>| {
        let first = record.first_sequence.0;
        let is_readable = check_record(record, None, dir);
        if is_readable.as_ref().is_err_and(|error| error.kind() != ErrorKind::Corruption) {
            return is_readable;
        }
        let gap_from = next.filter(|next| *next < first);
        next = Some(first + u64::from(record.entry_count));
        // A skip says that numbers were not logged. Behind damage nobody knows whether it means all that are missing.
        let is_skip = record.kind == RecordKind::Skip;
        let follows = end == Some(record.start);
        end =
            Some(WalPosition { offset: record.start.offset + record.record_bytes, ..record.start });
        if let Some(gap_from) = gap_from.filter(|_| !(is_skip && follows)) {
            content.lose(gap_from, Some(first - 1));
            has_gap |= !is_skip;
        }
        if is_readable.is_err() {
            content.lose(first, Some(record.last_sequence().0));
            has_gap = true;
            return Ok(());
        }
        content.note_logged(record);
        for operation in operations(record.payload).flatten() {
            known.entry(operation.keyspace).or_insert_with(|| wanted(operation.keyspace));
        }
        content.take(record, now_ms, &known)
    };
    let replayed = replay(fs, dir, survey.log_start.options(mode), &mut visit)?;
    if is_whole {
        // What an open would take is whole: numbers that it does not hold were never logged.
        content.lost.clear();
    } else if !has_gap {
        // Something is damaged, and no number is surely missing before the last record: so it is what came behind it.
        content.lose(next.unwrap_or(1), None);
    }
    content.max_sequence = replayed.max_sequence_seen;
    Ok(content)
}

impl LogContent {
    fn lose(&mut self, first: u64, last: Option<u64>) {
        self.lost.push(LostWrites { first, last });
    }

    fn note_logged(&mut self, record: &WalRecord<'_>) {
        if record.entry_count == 0 {
            return;
        }
        let (first, last) = (record.first_sequence.0, record.last_sequence().0);
        match self.logged.last_mut() {
            Some(stretch) if stretch.1 + 1 == first => stretch.1 = last,
            _ => self.logged.push((first, last)),
        }
    }

    /// Whether every write from `first` to `last` is in the log.
    pub(super) fn holds(&self, first: SequenceNumber, last: SequenceNumber) -> bool {
        self.logged.iter().any(|stretch| stretch.0 <= first.0 && last.0 <= stretch.1)
    }

    /// Inserts the operations of a record that tables do not hold yet.
    fn take(
        &mut self,
        record: &WalRecord<'_>,
        now_ms: u64,
        wanted: &BTreeMap<KeyspaceId, Option<Wanted>>,
    ) -> Result<()> {
        if record.kind != RecordKind::Batch {
            return Ok(());
        }
        for (sequence, operation) in (record.first_sequence.0..).zip(operations(record.payload)) {
            let operation = operation?;
            let Some(Some(wanted)) = wanted.get(&operation.keyspace) else { continue };
            let is_flushed = sequence <= wanted.flushed.0;
            if is_flushed && !wanted.lost.iter().any(|range| range.contains(operation.key)) {
                continue;
            }
            let fresh = || MemTable::new(wanted.memtable_bytes, None);
            let memtable = if is_flushed {
                self.refound.entry(operation.keyspace).or_insert_with(fresh)
            } else {
                let memtables = self.memtables.entry(operation.keyspace).or_default();
                if memtables.last().is_none_or(|last| last.bytes() >= wanted.memtable_bytes) {
                    memtables.push(fresh());
                }
                let last = memtables.len() - 1;
                &mut memtables[last]
            };
            memtable.note_write_time(now_ms);
            let trailer = Trailer::new(SequenceNumber(sequence), operation.kind);
            memtable.insert(operation.key, trailer, operation.value, key_hash(operation.key));
            if is_flushed {
                continue;
            }
            self.entry_count += 1;
        }
        Ok(())
    }
}
