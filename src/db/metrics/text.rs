//! The metrics as text for people: what was written, read and occupied, then a table for each keyspace.

use std::collections::BTreeSet;
use std::fmt;

use crate::db::metrics::{KeyspaceMetrics, LevelMetrics, Metrics, ratio};

/// `bytes` for people.
fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn seconds(duration_ns: u64) -> String {
    format!("{:.3} s", duration_ns as f64 / 1e9)
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_writes(f)?;
        self.write_reads(f)?;
        self.write_space(f)?;
        for stall in &self.stalls {
            writeln!(
                f,
                "stalls by {}: {} for {}",
                stall.cause,
                stall.count,
                seconds(stall.duration_ns)
            )?;
        }
        self.keyspaces.iter().try_for_each(|keyspace| keyspace.fmt(f))
    }
}

impl Metrics {
    fn write_writes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part =
            |bytes| format!("{} ({:.2})", human(bytes), ratio(bytes, self.user_bytes_written));
        writeln!(
            f,
            "write amplification {:.2}: users wrote {} in {} operations; log {}, flush {}, compaction {}, manifest {}",
            self.write_amplification(),
            human(self.user_bytes_written),
            self.user_operations,
            part(self.wal_bytes),
            part(self.flush_bytes),
            part(self.compaction_bytes_written),
            part(self.manifest_bytes),
        )?;
        writeln!(
            f,
            "  in its life {:.2}: users wrote {}, storage was written {}",
            self.lifetime.write_amplification(),
            human(self.lifetime.user_bytes_written),
            human(self.lifetime.storage_bytes_written()),
        )?;
        writeln!(
            f,
            "  {} flushes in {}; {} compactions, {} moves and {} drops in {}; {} entries dropped",
            self.flushes,
            seconds(self.flush_duration_ns),
            self.compactions,
            self.trivial_moves,
            self.table_drops,
            seconds(self.compaction_duration_ns),
            self.entries_dropped,
        )
    }

    fn write_reads(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "read amplification {} runs; a get: {:.2} tables, {:.2} blocks, {:.0} bytes; a scanned entry: {:.3} blocks, {:.0} bytes",
            self.read_amplification(),
            self.tables_probed_per_get(),
            self.blocks_per_get(),
            self.block_bytes_per_get(),
            self.blocks_per_scanned_entry(),
            self.block_bytes_per_scanned_entry(),
        )?;
        writeln!(
            f,
            "  filters: {} asked, {} saved a block, {} false positives ({:.2} %)",
            self.filter_checks,
            self.filter_useful,
            self.filter_false_positives,
            100.0 * self.filter_false_positive_rate(),
        )
    }

    fn write_space(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "space amplification {:.2}: about {} alive, {} on disk, {} at the peak",
            self.space_amplification(),
            human(self.live_bytes_estimate),
            human(self.disk_bytes),
            human(self.disk_bytes_peak),
        )?;
        writeln!(
            f,
            "  tables {}, obsolete {}, in flight {}, log {}, manifest {}; in memory: memtables {}, cache {}",
            human(self.table_bytes),
            human(self.obsolete_table_bytes),
            human(self.in_flight_bytes),
            human(self.wal_file_bytes),
            human(self.manifest_file_bytes),
            human(self.memtable_bytes),
            human(self.cache_bytes),
        )
    }
}

/// The columns of a keyspace's table: a title, and whether the column is aligned to the right.
const COLUMNS: [(&str, bool); 10] = [
    ("level", false),
    ("runs", true),
    ("tables", true),
    ("bytes", true),
    ("entries", true),
    ("tombstones", true),
    ("read", true),
    ("written", true),
    ("w-amp", true),
    ("reasons", false),
];

impl fmt::Display for KeyspaceMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "keyspace {}: users wrote {}, debt {}, {} compactions running",
            self.name,
            human(self.user_bytes_written),
            human(self.debt_bytes),
            self.compactions_running,
        )?;
        let shown = self.levels.iter().filter(|level| level.tables + level.bytes_written > 0);
        let mut rows = vec![COLUMNS.map(|(title, _)| title.to_owned())];
        rows.extend(shown.map(|level| self.row(level)));
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        for row in &rows {
            let mut line = String::new();
            for ((cell, width), (_, right)) in row.iter().zip(&widths).zip(COLUMNS) {
                let aligned =
                    if right { format!("  {cell:>width$}") } else { format!("  {cell:<width$}") };
                line.push_str(&aligned);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl KeyspaceMetrics {
    fn row(&self, level: &LevelMetrics) -> [String; COLUMNS.len()] {
        let into = self.compactions_by_reason.iter().filter(|part| part.level == level.level);
        let reasons: BTreeSet<String> = into
            .map(|part| {
                let totals = &part.totals;
                format!("{} {}", part.reason, totals.merges + totals.moves + totals.drops)
            })
            .collect();
        [
            format!("L{}", level.level),
            level.runs.to_string(),
            level.tables.to_string(),
            human(level.bytes),
            level.entries.to_string(),
            level.tombstones.to_string(),
            human(level.bytes_read),
            human(level.bytes_written),
            format!("{:.2}", self.level_write_amplification(level)),
            reasons.into_iter().collect::<Vec<_>>().join(", "),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::metrics::CompactionMetrics;
    use crate::version::totals::CompactionTotals;

    #[test]
    fn columns_of_a_keyspace_line_up() {
        let totals = CompactionTotals { merges: 3, ..CompactionTotals::default() };
        let part = CompactionMetrics { level: 1, reason: "level0_runs".to_owned(), totals };
        let level = |level, bytes_written| LevelMetrics {
            level,
            runs: 1,
            tables: 12,
            bytes: 5 << 20,
            entries: 1000,
            bytes_written,
            ..LevelMetrics::default()
        };
        let keyspace = KeyspaceMetrics {
            name: "default".to_owned(),
            user_bytes_written: 2048,
            compactions_by_reason: vec![part],
            levels: vec![level(0, 1024), level(1, 4096), LevelMetrics::default()],
            ..KeyspaceMetrics::default()
        };
        let text = keyspace.to_string();
        let expected = "\
keyspace default: users wrote 2.0 KiB, debt 0 B, 0 compactions running
  level  runs  tables    bytes  entries  tombstones  read  written  w-amp  reasons
  L0        1      12  5.0 MiB     1000           0   0 B  1.0 KiB   0.50
  L1        1      12  5.0 MiB     1000           0   0 B  4.0 KiB   2.00  level0_runs 3
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 30, "3.0 GiB")];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(human(u64::MAX), "16777216.0 TiB");
    }
}
