//! Which tables of a level go down first.

use std::ops::Range;
use std::sync::Arc;

use super::Shape;
use crate::compaction::draft::{overlapping, table_bytes};
use crate::table::Table;

/// A neighbour joins a stretch if the stretch then meets at most this much more per byte moved than
/// the best table alone.
const SLACK: f64 = 1.25;

impl<'a> Shape<'a> {
    /// The table that meets the fewest bytes of `next` per byte it moves, with those of its
    /// neighbours that do about as well, until `goal` bytes are moved.
    pub(super) fn best_stretch(
        &self,
        level: usize,
        tables: &'a [Arc<Table>],
        next: &'a [Arc<Table>],
        goal: u64,
    ) -> Option<Range<usize>> {
        let mut met_before = vec![0];
        for table in next {
            met_before.push(met_before[met_before.len() - 1] + table.meta().file_bytes);
        }
        let met = |stretch: &Range<usize>| {
            let low = &tables[stretch.start].meta().smallest;
            let high = &tables[stretch.end - 1].meta().largest;
            let range = overlapping(next, low, high);
            let idle = next[range.clone()].iter().all(|table| self.is_idle(table))
                && tables[stretch.clone()].iter().all(|table| self.is_idle(table))
                && !self.tree.is_output_busy(level + 1, low, high);
            idle.then(|| met_before[range.end] - met_before[range.start])
        };
        let ratio = |stretch: &Range<usize>| {
            let moved: u64 = tables[stretch.clone()].iter().map(|t| compensated_bytes(t)).sum();
            met(stretch).map(|met| met as f64 / moved as f64)
        };
        let single = (0..tables.len()).filter_map(|at| Some((at, ratio(&(at..at + 1))?)));
        let (at, best) = single.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let mut stretch = at..at + 1;
        loop {
            let wider = [
                (stretch.end < tables.len()).then(|| stretch.start..stretch.end + 1),
                (stretch.start > 0).then(|| stretch.start - 1..stretch.end),
            ];
            let wider =
                wider.into_iter().flatten().filter_map(|wider| Some((ratio(&wider)?, wider)));
            let Some((worse, wider)) = wider.min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
            let (met_now, met_then) = (met(&stretch)?, met(&wider)?);
            let is_free = met_then == met_now && met_now > 0;
            let moved = table_bytes(&tables[stretch.clone()]);
            if (moved >= goal && !is_free)
                || worse > best * SLACK
                || table_bytes(&tables[wider.clone()]) + met_then > self.plan_bytes_max
            {
                break;
            }
            stretch = wider;
        }
        Some(stretch)
    }
}

/// The file's bytes, and for tombstones beyond half of the entries twice what they may free: such
/// tables go first.
fn compensated_bytes(table: &Table) -> u64 {
    let meta = table.meta();
    let surplus = meta.tombstone_count.saturating_mul(2).saturating_sub(meta.entry_count);
    let values = meta.entry_count.saturating_sub(meta.tombstone_count).max(1);
    let freed = surplus.saturating_mul(meta.value_bytes / values).saturating_mul(2);
    meta.file_bytes.saturating_add(freed).max(1)
}
