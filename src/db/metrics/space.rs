//! How much is alive: estimated from metadata, or measured by a scan.

use crate::db::metrics::ratio;
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::visible::VisibleCursor;
use crate::error::Result;
use crate::version::Run;

/// What a scan of everything found: see [`Db::measure_space`](crate::Db::measure_space).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct SpaceMeasurement {
    /// Bytes of keys and values that readers see.
    pub live_bytes: u64,
    /// Entries that readers see.
    pub live_entries: u64,
    /// Bytes of all files of the database when the scan began.
    pub disk_bytes: u64,
}

impl SpaceMeasurement {
    /// Bytes on disk per byte of live keys and values, exactly; 0 if nothing is alive.
    pub fn amplification(&self) -> f64 {
        ratio(self.disk_bytes, self.live_bytes)
    }
}

/// Scans every keyspace as of one moment.
pub(crate) fn measure(inner: &Inner) -> Result<SpaceMeasurement> {
    inner.check_open()?;
    let cores = inner.keyspaces.load().in_order();
    let views: Vec<_> = cores.iter().map(|core| (core.id, core.view.load_full())).collect();
    // After the views: they then hold every version visible at it.
    let sequence = inner.visible();
    let mut measured =
        SpaceMeasurement { disk_bytes: inner.disk.now().total(), ..Default::default() };
    for (id, view) in views {
        let mut cursor = VisibleCursor::new(&inner.read, id, &view, sequence);
        cursor.seek_to_first()?;
        while cursor.valid() {
            measured.live_bytes += (cursor.key().len() + cursor.value().len()) as u64;
            measured.live_entries += 1;
            cursor.next()?;
        }
    }
    Ok(measured)
}

/// What a scan would return, estimated without one, run by run from the oldest. What meets no older run is new, and
/// counts in full. What does is new or replaces something; the more there is below, the likelier the latter. A
/// tombstone counts against what it hides.
pub(super) fn live_bytes_estimate(core: &KeyspaceCore) -> u64 {
    let view = core.view.load();
    let runs = view.version.levels.iter().flat_map(|level| &level.runs);
    let newest_first: Vec<&Run> = runs.map(|run| &**run).collect();
    let mut live_bytes = 0.0;
    for (at, run) in newest_first.iter().enumerate().rev() {
        let (new_bytes, meeting_bytes) = new_and_meeting_bytes(run, &newest_first[at + 1..]);
        live_bytes = add_meeting(live_bytes, meeting_bytes) + new_bytes;
    }
    let memories = std::iter::once(&view.active).chain(&view.immutables);
    let in_memory: u64 = memories.map(|memory| memory.table.user_bytes()).sum();
    add_meeting(live_bytes, in_memory as f64) as u64
}

/// `live_bytes` after `bytes` that may replace some of it.
fn add_meeting(live_bytes: f64, bytes: f64) -> f64 {
    if bytes == 0.0 { live_bytes } else { live_bytes + bytes * bytes / (bytes + live_bytes) }
}

/// The bytes of keys and values in tables of `run` that meet none of the `older` runs, and in those that do.
fn new_and_meeting_bytes(run: &Run, older: &[&Run]) -> (f64, f64) {
    let (mut new_bytes, mut meeting_bytes) = (0.0, 0.0);
    for table in &run.tables {
        let meta = table.meta();
        let live_share = 1.0 - ratio(2 * meta.tombstone_count, meta.entry_count).min(1.0);
        let bytes = (meta.key_bytes + meta.value_bytes) as f64 * live_share;
        let meets = |run: &&Run| !run.overlapping(&meta.smallest, &meta.largest).is_empty();
        if older.iter().any(meets) {
            meeting_bytes += bytes;
        } else {
            new_bytes += bytes;
        }
    }
    (new_bytes, meeting_bytes)
}
