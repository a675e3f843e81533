//! Where simulated tables end.
//!
//! As the engine's outputs do (`compaction/outputs`): at the size of a table, or earlier where a
//! table of the level below ends; or, in a coarse run, on a grid.

use std::sync::Arc;

use crate::compaction::simulator::content::{Segment, part};
use crate::key::key_prefix;
use crate::table::Table;

/// An output meets at most about this many tables' worth of bytes below, as in
/// `compaction/outputs`.
const BELOW_TABLES_MAX: u64 = 16;

/// The position that a key of a simulated table stands for.
pub(crate) fn position(key: &[u8]) -> u64 {
    key_prefix(key)
}

/// Cuts segments into tables.
pub(crate) struct Cutter {
    /// Bytes at which a table ends; 0: only on the grid.
    table_bytes: u64,
    /// Where else a table may end: positions, and the bytes below that lie before.
    ends: Ends,
}

enum Ends {
    /// Of the tables of the level below.
    Below(Vec<(u64, u64)>),
    /// Every multiple.
    Grid(u64),
}

impl Cutter {
    /// Tables of about `table_bytes`, over those `below`.
    pub(crate) fn fine(table_bytes: u64, below: &[Arc<Table>]) -> Self {
        let end = |table: &Arc<Table>| {
            let meta = table.meta();
            (position(&meta.largest).saturating_add(1), meta.file_bytes)
        };
        Cutter { table_bytes, ends: Ends::Below(below.iter().map(end).collect()) }
    }

    /// Tables on a grid of `width` positions.
    pub(crate) fn coarse(width: u64) -> Self {
        Cutter { table_bytes: 0, ends: Ends::Grid(width) }
    }

    /// The tables' segments. `weights` are bytes for each position of a segment.
    pub(crate) fn cut(&self, segments: Vec<Segment>, weights: &[f64]) -> Vec<Vec<Segment>> {
        let mut out = vec![Vec::new()];
        let mut open = OpenTable::default();
        let mut next_below = 0;
        for (segment, weight) in segments.into_iter().zip(weights) {
            let mut low = segment.low;
            while low < segment.high {
                let passed = self.pass(low, &mut next_below, &mut open);
                if self.is_full(&open, passed) {
                    out.push(Vec::new());
                    open = OpenTable { cell: open.cell, ..OpenTable::default() };
                }
                let high = self.stop(low, next_below, &open, *weight).min(segment.high);
                open.bytes += (high - low) as f64 * weight;
                let of_table = out.last_mut().expect("there is always an open table");
                of_table.push(part(&segment, low, high));
                low = high;
            }
        }
        out.retain(|part| !part.is_empty());
        out
    }

    /// Goes on to `low`; whether that is, or passes, an end.
    fn pass(&self, low: u64, next_below: &mut usize, open: &mut OpenTable) -> bool {
        match &self.ends {
            Ends::Grid(width) => {
                let cell = low / width;
                let passed = open.cell.is_some_and(|before| before != cell);
                open.cell = Some(cell);
                passed
            }
            Ends::Below(ends) => {
                let mut passed = false;
                while let Some((end, bytes)) = ends.get(*next_below)
                    && *end <= low
                {
                    *next_below += 1;
                    // What was passed before the first key of a table does not count.
                    if open.bytes > 0.0 {
                        open.ends_seen += 1;
                        open.met_bytes += bytes;
                        passed = true;
                    }
                }
                passed
            }
        }
    }

    /// As in `compaction/outputs`.
    fn is_full(&self, open: &OpenTable, passed: bool) -> bool {
        if self.table_bytes == 0 {
            return passed;
        }
        let bytes = open.bytes as u64;
        let aligned_bytes = self.table_bytes / 20 * (10 + open.ends_seen.min(8));
        let is_wide = open.met_bytes / BELOW_TABLES_MAX >= self.table_bytes;
        bytes >= self.table_bytes || (passed && (bytes >= aligned_bytes || is_wide))
    }

    /// Where to look again at the latest: the next end, or where the table is full.
    fn stop(&self, low: u64, next_below: usize, open: &OpenTable, weight: f64) -> u64 {
        let end = match &self.ends {
            Ends::Grid(width) => (low / width).saturating_add(1).saturating_mul(*width),
            Ends::Below(ends) => ends.get(next_below).map_or(u64::MAX, |(end, _)| *end),
        };
        if self.table_bytes == 0 {
            return end;
        }
        let room = (self.table_bytes as f64 - open.bytes) / weight;
        let fits = (room.ceil() as u64).max(1);
        end.min(low.saturating_add(fits))
    }
}

/// The table being cut.
#[derive(Default)]
struct OpenTable {
    bytes: f64,
    ends_seen: u64,
    met_bytes: u64,
    cell: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::text;

    fn lows(cutter: &Cutter, segments: Vec<Segment>) -> Vec<u64> {
        let weights = vec![1.0; segments.len()];
        cutter.cut(segments, &weights).iter().map(|table| table[0].low).collect()
    }

    fn full(low: u64, high: u64) -> Vec<Segment> {
        vec![Segment::of_one_class(low, high, 1.0, 0.0)]
    }

    #[test]
    fn tables_end_when_they_are_full() {
        assert_eq!(lows(&Cutter::fine(100, &[]), full(0, 250)), [0, 100, 200]);
    }

    #[test]
    fn a_table_half_full_ends_where_one_below_does() {
        let below = |end: u64, bytes: u64| {
            let mut meta = text::meta("1[a..b]");
            meta.smallest = 0u64.to_be_bytes().into();
            meta.largest = (end - 1).to_be_bytes().into();
            meta.file_bytes = bytes;
            Arc::new(Table::new(meta))
        };
        // At 40 it is not half full; at 60 it is, but has seen two ends and waits for 60 percent.
        let tables = [below(40, 10), below(60, 10), below(90, 10)];
        assert_eq!(lows(&Cutter::fine(100, &tables), full(0, 200)), [0, 60, 160]);
        let tables = [below(40, 10), below(58, 10), below(90, 10)];
        assert_eq!(lows(&Cutter::fine(100, &tables), full(0, 200)), [0, 90, 190]);
        let wide = [below(10, 1600)];
        assert_eq!(lows(&Cutter::fine(100, &wide), full(0, 100)), [0, 10]);
    }

    #[test]
    fn coarse_tables_end_on_the_grid() {
        assert_eq!(lows(&Cutter::coarse(64), full(10, 200)), [10, 64, 128, 192]);
        let apart = vec![
            Segment::of_one_class(0, 10, 1.0, 0.0),
            Segment::of_one_class(70, 80, 1.0, 0.0),
            Segment::of_one_class(90, 130, 1.0, 0.0),
        ];
        assert_eq!(lows(&Cutter::coarse(64), apart), [0, 70, 128]);
    }
}
