//! **The read path**: a point read, from the newest memtable down to the last level.
//!
//! The view is taken first and the sequence number after it (see `db/state.rs`). One hash of the key serves the filters
//! of all memtables and tables. The first entry found is the newest visible one; what it says is the answer. The clock
//! is read only when that entry can expire; of several keys read at once all are judged by one reading of it.

use crate::db::counters::Counters;
use crate::db::state::{KeyspaceCore, ReadShared, ReadView};
use crate::error::Result;
use crate::expiry::{is_expired, split_expiring};
use crate::filter::KeyProbe;
use crate::key::{SequenceNumber, Trailer, ValueKind, key_hash};
use crate::table::reader::ReadStats;
use crate::value::Value;
use crate::version::lookup;

/// Reads `key` as of `snapshot`, or as of now.
pub(crate) fn get(
    shared: &ReadShared,
    core: &KeyspaceCore,
    snapshot: Option<SequenceNumber>,
    key: &[u8],
) -> Result<Option<Value>> {
    let view = core.view.load();
    let sequence = snapshot.unwrap_or_else(|| shared.commit.visible());
    let answer = get_in_view(shared, &view, sequence, key, &mut None)?;
    record(shared, core, key, answer.as_ref());
    Ok(answer)
}

/// Reads several keys as of one moment: `snapshot`, or now.
pub(crate) fn multi_get<K: AsRef<[u8]>>(
    shared: &ReadShared,
    core: &KeyspaceCore,
    snapshot: Option<SequenceNumber>,
    keys: &[K],
) -> Result<Vec<Option<Value>>> {
    let view = core.view.load_full();
    let sequence = snapshot.unwrap_or_else(|| shared.commit.visible());
    let mut now_ms = None;
    let get_one = |key: &K| {
        let answer = get_in_view(shared, &view, sequence, key.as_ref(), &mut now_ms)?;
        record(shared, core, key.as_ref(), answer.as_ref());
        Ok(answer)
    };
    keys.iter().map(get_one).collect()
}

#[inline]
fn record(shared: &ReadShared, core: &KeyspaceCore, key: &[u8], answer: Option<&Value>) {
    if let Some(recorder) = &shared.recorder {
        recorder.record_get(core.id, key, answer.map(|value| &**value));
    }
}

/// `now_ms` is the time of the read once somebody has asked for it.
fn get_in_view(
    shared: &ReadShared,
    view: &ReadView,
    sequence: SequenceNumber,
    key: &[u8],
    now_ms: &mut Option<u64>,
) -> Result<Option<Value>> {
    let bound = Trailer::visible_at(sequence);
    let hash = key_hash(key);
    for memory in std::iter::once(&view.active).chain(&view.immutables) {
        if let Some((trailer, value)) = memory.table.get(key, hash, bound) {
            let answer = answer(shared, trailer, Value::in_memory(value), now_ms)?;
            return Ok(count(&shared.counters, answer, true, &ReadStats::default()));
        }
    }
    let mut stats = ReadStats::default();
    let probe = KeyProbe::new(hash);
    let found = lookup::get(&view.version, &shared.tables, key, &probe, bound, &mut stats)?;
    let answer = match found {
        Some((trailer, value)) => {
            answer(shared, trailer, Value::in_table(value), now_ms).map_err(|error| {
                lookup::locate(&view.version, &shared.tables, key, &probe, bound, error)
            })?
        }
        None => None,
    };
    Ok(count(&shared.counters, answer, false, &stats))
}

/// What an entry says of its key.
#[inline]
fn answer(
    shared: &ReadShared,
    trailer: Trailer,
    value: Value,
    now_ms: &mut Option<u64>,
) -> Result<Option<Value>> {
    Ok(match trailer.kind()? {
        ValueKind::Put => Some(value),
        ValueKind::PutExpiring => {
            let (expires_at_ms, _) = split_expiring(&value)?;
            let now_ms = *now_ms.get_or_insert_with(|| shared.clock.unix_ms());
            (!is_expired(expires_at_ms, now_ms)).then(|| value.without_expiry())
        }
        _ => None,
    })
}

#[inline]
fn count(
    counters: &Counters,
    answer: Option<Value>,
    in_memory: bool,
    stats: &ReadStats,
) -> Option<Value> {
    counters.count_get(answer.is_some(), in_memory, stats);
    answer
}
