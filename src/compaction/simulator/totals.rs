//! Sums over a simulation. Fractions of bytes are kept: they are expectations.

use crate::compaction::{CompactionAction, CompactionPlan, CompactionReason};
use crate::version::LEVEL_COUNT;

/// What compactions of one reason did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfReason {
    pub(crate) reason: CompactionReason,
    pub(crate) compactions: u64,
    pub(crate) written: f64,
}

/// See the module text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) writes: f64,
    pub(crate) user_bytes: f64,
    pub(crate) wal_bytes: f64,
    pub(crate) flush_bytes: f64,
    pub(crate) read_bytes: f64,
    pub(crate) merged_bytes: f64,
    pub(crate) by_level: [f64; LEVEL_COUNT],
    pub(crate) by_reason: Vec<OfReason>,
    pub(crate) flushes: u64,
    pub(crate) merges: u64,
    pub(crate) moves: u64,
    pub(crate) drops: u64,
    pub(crate) stalled_s: f64,
    pub(crate) busy_s: f64,
    pub(crate) runs_max: usize,
    pub(crate) bytes_max: f64,
    /// Runs, and bytes of tables, integrated over time.
    pub(crate) run_seconds: f64,
    pub(crate) byte_seconds: f64,
}

impl Totals {
    pub(crate) fn note_plan(&mut self, plan: &CompactionPlan) {
        match plan.action {
            CompactionAction::Merge => self.merges += 1,
            CompactionAction::Move => self.moves += 1,
            CompactionAction::Drop => self.drops += 1,
        }
        self.of_reason(plan.reason).compactions += 1;
    }

    fn of_reason(&mut self, reason: CompactionReason) -> &mut OfReason {
        let at = self.by_reason.iter().position(|of| of.reason == reason).unwrap_or_else(|| {
            self.by_reason.push(OfReason { reason, compactions: 0, written: 0.0 });
            self.by_reason.len() - 1
        });
        &mut self.by_reason[at]
    }

    /// A merge went on.
    pub(crate) fn note_merging(&mut self, plan: &CompactionPlan, read: f64, written: f64) {
        self.read_bytes += read;
        self.merged_bytes += written;
        self.by_level[plan.output_level] += written;
        self.of_reason(plan.reason).written += written;
    }

    /// For `dt` seconds the tree had `runs` runs; then it had `bytes` bytes.
    pub(crate) fn note_tree(&mut self, dt: f64, runs: usize, bytes: f64) {
        self.run_seconds += dt * runs as f64;
        self.byte_seconds += dt * bytes;
        self.runs_max = self.runs_max.max(runs);
        self.bytes_max = self.bytes_max.max(bytes);
    }

    /// Bytes written to storage.
    pub(crate) fn written_bytes(&self) -> f64 {
        self.wal_bytes + self.flush_bytes + self.merged_bytes
    }
}
