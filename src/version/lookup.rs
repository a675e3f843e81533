//! Point lookups in a version.
//!
//! A point lookup asks the runs that may hold the key, newest first, and stops at the first that does: by the
//! invariants of a [`Version`] nothing newer can stand further down. What kind of entry it found is not its business.

use crate::block::bytes::PinnedValue;
use crate::error::{Error, Result};
use crate::filter::KeyProbe;
use crate::key::Trailer;
use crate::table::reader::ReadStats;
use crate::table_cache::TableCache;
use crate::version::Version;

/// The newest entry of `key` at or after `bound` in `version`.
pub(crate) fn get(
    version: &Version,
    tables: &TableCache,
    key: &[u8],
    probe: &KeyProbe,
    bound: Trailer,
    stats: &mut ReadStats,
) -> Result<Option<(Trailer, PinnedValue)>> {
    for run in version.levels.iter().flat_map(|level| &level.runs) {
        let Some(table) = run.find(key) else { continue };
        if let Some(found) = tables.open(table)?.reader().get(key, probe, bound, stats)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Names in `error`, which is about what [`get`] found, where that stands.
#[cold]
pub(crate) fn locate(
    version: &Version,
    tables: &TableCache,
    key: &[u8],
    probe: &KeyProbe,
    bound: Trailer,
    error: Error,
) -> Error {
    let mut stats = ReadStats::default();
    for run in version.levels.iter().flat_map(|level| &level.runs) {
        let Some(table) = run.find(key) else { continue };
        let Ok(opened) = tables.open(table) else { break };
        if let Ok(Some(_)) = opened.reader().get(key, probe, bound, &mut stats) {
            return opened.reader().locate(error, key);
        }
    }
    error
}
