//! What a simulation found, as plain data and as text.

use std::fmt;

use crate::compaction::CompactionReason;

/// Seconds of simulated time, bytes as they would be on storage. See `docs/simulator.md`.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Report {
    /// The strategy's name.
    pub strategy: String,
    /// Simulated seconds.
    pub seconds: f64,
    /// Bytes of keys and values that were written.
    pub user_bytes: u64,
    /// Bytes written to the write-ahead log.
    pub wal_bytes: u64,
    /// Bytes written by flushes.
    pub flush_bytes: u64,
    /// Bytes written by compactions.
    pub compaction_bytes_written: u64,
    /// Bytes read by compactions.
    pub compaction_bytes_read: u64,
    /// The same bytes by the level they were written into, and what the levels hold at the end.
    pub levels: Vec<LevelReport>,
    /// The same bytes by the reason of the compaction; reasons that never occurred are left out.
    pub reasons: Vec<ReasonReport>,
    /// Memtables written out.
    pub flushes: u64,
    /// Compactions that merged tables.
    pub merges: u64,
    /// Compactions that only moved tables.
    pub moves: u64,
    /// Compactions that only dropped tables.
    pub drops: u64,
    /// Sorted runs at the end: what a point read has to consider.
    pub runs: usize,
    /// The most runs at once.
    pub runs_max: usize,
    /// Runs over time, on average.
    pub runs_mean: f64,
    /// Keys and values that are alive at the end.
    pub live_bytes: u64,
    /// Bytes of tables at the end, half-written ones included.
    pub table_bytes: u64,
    /// The most of those at once: inputs of running merges, and their outputs as far as written.
    pub table_bytes_max: u64,
    /// `table_bytes` for each of `live_bytes`, at the end.
    pub space_amplification: f64,
    /// The same, over time, on average.
    pub space_amplification_mean: f64,
    /// The same, at its most.
    pub space_amplification_max: f64,
    /// Seconds by which writers were held up.
    pub stalled_s: f64,
    /// Compaction debt at the end, as the strategy counts it.
    pub debt_bytes: u64,
    /// Seconds for which compactions ran, summed over those that ran at once.
    pub busy_s: f64,
    /// Equal stretches of the simulation.
    pub series: Vec<Sample>,
}

/// A level.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LevelReport {
    /// Its number.
    pub level: usize,
    /// Runs at the end.
    pub runs: usize,
    /// Bytes at the end.
    pub bytes: u64,
    /// Bytes that compactions wrote into it.
    pub bytes_written: u64,
}

/// What compactions of one reason did.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct ReasonReport {
    /// The reason's name.
    pub reason: String,
    /// Compactions that were done or begun.
    pub compactions: u64,
    /// Bytes that they wrote.
    pub bytes_written: u64,
}

/// One stretch of a simulation: rates within it, the rest at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Sample {
    /// Seconds since the beginning.
    pub seconds: f64,
    /// Bytes of keys and values that got through in a second.
    pub ingest_bytes_per_s: f64,
    /// Bytes that compactions wrote in a second.
    pub compaction_bytes_per_s: f64,
    /// Write amplification since the beginning.
    pub write_amplification: f64,
    /// Space amplification.
    pub space_amplification: f64,
    /// Sorted runs.
    pub runs: usize,
    /// Compaction debt, as the strategy counts it.
    pub debt_bytes: u64,
    /// The share of the stretch by which writers were held up.
    pub stalled_share: f64,
}

impl Report {
    /// Bytes written to storage for each byte that the user wrote.
    pub fn write_amplification(&self) -> f64 {
        self.ratio(self.wal_bytes + self.flush_bytes + self.compaction_bytes_written)
    }

    /// `bytes` for each byte that the user wrote; 0 if nothing was written.
    pub fn ratio(&self, bytes: u64) -> f64 {
        if self.user_bytes == 0 { 0.0 } else { bytes as f64 / self.user_bytes as f64 }
    }

    /// Bytes of keys and values that got through in a second.
    pub fn ingest_bytes_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.user_bytes as f64 / self.seconds } else { 0.0 }
    }

    /// Bytes that compactions wrote in a second.
    pub fn compaction_bytes_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.compaction_bytes_written as f64 / self.seconds } else { 0.0 }
    }

    /// The share of the time by which writers were held up.
    pub fn stalled_share(&self) -> f64 {
        if self.seconds > 0.0 { self.stalled_s / self.seconds } else { 0.0 }
    }
}

/// A reason as metrics and tools write it: `LevelBytes` is `level_bytes`.
pub(crate) fn reason_name(reason: CompactionReason) -> String {
    let mut name = String::new();
    for letter in format!("{reason:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {:.0} s, {:.0} MB written by the user, {:.1} MB/s",
            self.strategy,
            self.seconds,
            mega(self.user_bytes),
            self.ingest_bytes_per_s() / 1e6
        )?;
        writeln!(
            f,
            "write amplification {:.2}: wal {:.2}, flush {:.2}, compaction {:.2}",
            self.write_amplification(),
            self.ratio(self.wal_bytes),
            self.ratio(self.flush_bytes),
            self.ratio(self.compaction_bytes_written)
        )?;
        for level in self.levels.iter().filter(|level| level.bytes + level.bytes_written > 0) {
            writeln!(
                f,
                "  level {}: {} runs, {:.0} MB; {:.2} compacted into it",
                level.level,
                level.runs,
                mega(level.bytes),
                self.ratio(level.bytes_written)
            )?;
        }
        for reason in &self.reasons {
            let ratio = self.ratio(reason.bytes_written);
            writeln!(f, "  {}: {} compactions, {ratio:.2}", reason.reason, reason.compactions)?;
        }
        writeln!(
            f,
            "runs {} at the end, {:.1} on average, {} at most",
            self.runs, self.runs_mean, self.runs_max
        )?;
        writeln!(
            f,
            "space amplification {:.2} at the end, {:.2} on average, {:.2} at most",
            self.space_amplification, self.space_amplification_mean, self.space_amplification_max
        )?;
        writeln!(
            f,
            "{} flushes, {} merges, {} moves, {} drops; writers held up for {:.0} s",
            self.flushes, self.merges, self.moves, self.drops, self.stalled_s
        )
    }
}
