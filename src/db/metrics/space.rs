//! How much is alive: estimated from metadata, or measured by a scan.

use crate::db::metrics::ratio;
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::visible::VisibleCursor;
use crate::error::Result;

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
    let views: Vec<_> =
        inner.keyspaces.load().in_order().iter().map(|core| core.view.load_full()).collect();
    // After the views: they then hold every version visible at it.
    let sequence = inner.visible();
    let mut measured =
        SpaceMeasurement { disk_bytes: inner.disk.now().total(), ..Default::default() };
    for view in views {
        let mut cursor = VisibleCursor::new(&inner.read, &view, sequence);
        cursor.seek_to_first()?;
        while cursor.valid() {
            measured.live_bytes += (cursor.key().len() + cursor.value().len()) as u64;
            measured.live_entries += 1;
            cursor.next()?;
        }
    }
    Ok(measured)
}

/// What a scan would return, estimated without one: the logical bytes of the last level that holds tables, and for what
/// lies above it the share of its entries that the last level does not seem to know. Deletes count against.
pub(super) fn live_bytes_estimate(core: &KeyspaceCore) -> u64 {
    let view = core.view.load();
    let memories = std::iter::once(&view.active).chain(&view.immutables);
    let in_memory: u64 = memories.map(|memory| memory.table.user_bytes()).sum();
    let logical = |level: usize| -> (u64, u64) {
        let tables = || {
            view.version.levels[level]
                .runs
                .iter()
                .flat_map(|run| &run.tables)
                .map(|table| table.meta())
        };
        let live = tables().map(|meta| {
            let live_share = 1.0 - ratio(2 * meta.tombstone_count, meta.entry_count).min(1.0);
            ((meta.key_bytes + meta.value_bytes) as f64 * live_share) as u64
        });
        (live.sum(), view.version.levels[level].runs.len() as u64)
    };
    let Some(last) = view.version.last_nonempty_level() else { return in_memory };
    let (bottom, bottom_runs) = logical(last);
    if last == 0 {
        return bottom / bottom_runs.max(1) + in_memory;
    }
    let above: u64 = (0..last).map(|level| logical(level).0).sum::<u64>() + in_memory;
    // An entry above the last level is new or replaces one below; the larger the last level, the likelier the latter.
    bottom + (above as f64 * ratio(above, above + bottom)) as u64
}
