//! Step 4 of an open: the log into memtables, and where the log goes on.
//!
//! Only what the tables do not hold yet is inserted. What was written after the manifest last summed up what users
//! wrote is summed up here, so that the totals of the database's life survive a crash.

use crate::batch::operations;
use crate::db::recovery::{Cores, OpenRequest};
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::key::{SequenceNumber, Trailer, key_hash};
use crate::manifest::state::ManifestState;
use crate::version::totals::LifetimeTotals;
use crate::wal::replay::{Replay, ReplayOptions, WalRecord, replay};
use crate::wal::segment::RecordKind;
use crate::wal::{WalPosition, WalStart};

/// Step 4: replays what the tables do not hold into the memtables of `cores`. Also sums up the writes that the totals
/// of `state` do not know yet.
pub(super) fn replay_log(
    request: &OpenRequest,
    state: &ManifestState,
    cores: &Cores,
) -> Result<(Replay, LifetimeTotals)> {
    let options = ReplayOptions {
        first_segment: state.wal_first_segment,
        mode: request.options.wal_recovery,
        promised: state.wal_synced,
    };
    let now_ms = request.clock.unix_ms();
    let mut uncounted = LifetimeTotals::default();
    let mut applied = |record: &WalRecord<'_>| {
        let user_bytes = apply_record(state, cores, record, now_ms).map_err(|error| {
            let path = FileKind::WalSegment(record.start.segment).path(&request.dir);
            error.at(&path).at_offset(record.start.offset)
        })?;
        if record.entry_count > 0 && record.first_sequence > state.totals.through {
            uncounted.through = record.last_sequence();
            uncounted.user_bytes += user_bytes;
            uncounted.user_operations += u64::from(record.entry_count);
            uncounted.wal_bytes += record.record_bytes;
        }
        Ok(())
    };
    let replayed = replay(request.fs.as_ref(), &request.dir, options, &mut applied)?;
    for core in cores.values() {
        let view = core.view.load();
        let memories = std::iter::once(&view.active).chain(&view.immutables);
        let replayed_user_bytes = memories.map(|memory| memory.table.user_bytes()).sum();
        core.counters.replayed_user_bytes.add(replayed_user_bytes);
    }
    Ok((replayed, uncounted))
}

/// Inserts the operations of a record; returns the bytes of their keys and values.
fn apply_record(
    state: &ManifestState,
    cores: &Cores,
    record: &WalRecord<'_>,
    now_ms: u64,
) -> Result<u64> {
    if record.kind != RecordKind::Batch {
        return Ok(0);
    }
    let mut user_bytes = 0;
    let mut applied_count = 0u32;
    for (sequence, operation) in (record.first_sequence.0..).zip(operations(record.payload)) {
        let operation = operation?;
        applied_count += 1;
        user_bytes += (operation.key.len() + operation.value.len()) as u64;
        let sequence = SequenceNumber(sequence);
        let Some(core) = cores.get(&operation.keyspace) else {
            if operation.keyspace < state.next_keyspace_id {
                // Dropped since.
                continue;
            }
            let what = format!("a batch names keyspace {}, which never was", operation.keyspace.0);
            return Err(Error::new(ErrorKind::Corruption, what));
        };
        if sequence <= state.keyspaces[&operation.keyspace].flushed_sequence {
            continue;
        }
        let view = core.view.load();
        view.active.note_segment(record.start.segment);
        view.active.table.note_write_time(now_ms);
        let trailer = Trailer::new(sequence, operation.kind);
        view.active.table.insert(operation.key, trailer, operation.value, key_hash(operation.key));
    }
    if applied_count != record.entry_count {
        let what = format!(
            "a batch holds {applied_count} operations, but its record says {}",
            record.entry_count
        );
        return Err(Error::new(ErrorKind::Corruption, what));
    }
    let last = record.last_sequence();
    for core in cores.values() {
        // Only between records: all of a batch is on one side of a cut.
        if core.view.load().active.is_full() {
            core.rotate(last, now_ms);
        }
    }
    Ok(user_bytes)
}

/// How the log goes on: behind everything that ever took a sequence number.
pub(super) fn log_start(state: &ManifestState, replayed: &Replay) -> WalStart {
    let start = replayed.start();
    let unused = SequenceNumber(state.last_sequence.0 + 1);
    // A log without a segment begins anew; there is nothing that its first segment could link to.
    let previous = if start.previous.segment < start.next_segment {
        start.previous
    } else {
        WalPosition::default()
    };
    WalStart { next_sequence: start.next_sequence.max(unused), previous, ..start }
}
