//! The simulator: what a strategy would cost under a workload, without writing a byte.
//!
//! It runs any [`CompactionStrategy`] over the metadata of tables that do not exist. A described
//! [`Workload`] fills simulated memtables; flushes and merges take as long as the [`Machine`] needs
//! for their bytes; several merges run at once; writers are slowed as the engine slows them. The
//! [`Report`] says what came of it: write amplification by part, runs, space, bandwidth over time.
//! Ten terabytes take seconds. `docs/simulator.md` says what is modelled, and what is not.
//!
//! ```
//! use esker::compaction::simulator::{Machine, Simulator, Workload};
//! use esker::{KeyspaceOptions, SizeTiered};
//!
//! let workload = Workload::uniform(50_000_000); // random puts over 50 million keys
//! let options = KeyspaceOptions::default().compaction(SizeTiered::default());
//! let mut simulator = Simulator::new(options, &workload, Machine::default())?;
//! simulator.load()?; // all keys are there, in the shape the strategy leaves
//! simulator.run_for(600.0)?;
//! let report = simulator.report();
//! assert!(report.write_amplification() > 2.0 && report.write_amplification() < 10.0);
//! println!("{report}");
//! # Ok::<(), esker::Error>(())
//! ```
//!
//! A strategy of one's own is passed to [`Simulator::with_strategy`].
//!
//! # Parts
//! `content` is what tables hold, `workload` what memtables hold, `cost` what an entry takes, `tree`
//! runs plans, `run` lets time pass, `start` makes a tree of some size without writing it.
//!
//! # Determinism
//! Nothing is drawn, no clock is read: the same description gives the same report.

pub(crate) mod content;
pub(crate) mod cost;
mod cut;
mod recorded;
mod report;
mod run;
mod start;
#[cfg(test)]
mod tests;
mod totals;
pub(crate) mod tree;
mod workload;

use std::sync::Arc;

use crate::compaction::simulator::cost::Costs;
use crate::compaction::simulator::report::reason_name;
use crate::compaction::simulator::run::{Clockwork, Until};
use crate::compaction::simulator::totals::Totals;
use crate::compaction::simulator::tree::MetaTree;
use crate::compaction::simulator::workload::Source;
use crate::compaction::{CompactionStrategy, built_in};
use crate::error::{Error, Result};
use crate::options::KeyspaceOptions;
pub use report::{LevelReport, ReasonReport, Report, Sample};
pub use workload::{KeyPattern, Workload};

/// Stretches of which [`Report::series`] tells, for each call that lets time pass.
const SAMPLES: u32 = 60;

/// What background work has at its disposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Machine {
    /// As [`DbOptions::background_threads`](crate::DbOptions::background_threads): one flushes, the
    /// others compact.
    pub background_threads: usize,
    /// Bytes in a second that flushes and compactions read or write, whichever is more, in total.
    pub bandwidth_bytes_per_s: u64,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { background_threads: 2, bandwidth_bytes_per_s: 500_000_000 }
    }
}

impl Machine {
    fn compaction_threads(&self) -> usize {
        self.background_threads.saturating_sub(1).max(1)
    }
}

/// See the module text.
#[derive(Debug)]
pub struct Simulator {
    clockwork: Clockwork,
    series: Vec<Sample>,
    /// As of the last sample: it is too dear to be computed at every event.
    live_bytes: f64,
    /// Of live bytes, and what table bytes were for each of them at most.
    live_byte_seconds: f64,
    space_max: f64,
}

impl Simulator {
    /// A simulation of the built-in strategy that `options` name, over an empty tree.
    pub fn new(options: KeyspaceOptions, workload: &Workload, machine: Machine) -> Result<Self> {
        let strategy = built_in(&options.compaction).ok_or_else(|| {
            let name = options.compaction.name();
            Error::invalid(format!("there is no built-in compaction strategy called {name}"))
                .advise("pass a strategy of your own to Simulator::with_strategy")
        })?;
        Simulator::with_strategy(options, strategy, workload, machine)
    }

    /// A simulation of any strategy, over an empty tree.
    pub fn with_strategy(
        options: KeyspaceOptions,
        strategy: Arc<dyn CompactionStrategy>,
        workload: &Workload,
        machine: Machine,
    ) -> Result<Self> {
        options.validate()?;
        workload.validate()?;
        if machine.bandwidth_bytes_per_s == 0 {
            return Err(Error::invalid("a bandwidth of 0 moves nothing")
                .advise("give the bytes that the device moves in a second"));
        }
        let costs =
            Costs::measure(&options, workload.key_bytes, workload.value_bytes, workload.ttl_s > 0)?;
        let source = Source::new(workload);
        let tree = MetaTree::new(options, costs, Arc::clone(&source.classes));
        let mut clockwork = Clockwork::new(tree, strategy, source, machine);
        clockwork.tree.now_ms = start::EPOCH_MS;
        clockwork.begin()?;
        Ok(Simulator {
            clockwork,
            series: Vec::new(),
            live_bytes: 0.0,
            live_byte_seconds: 0.0,
            space_max: 0.0,
        })
    }

    /// Makes the tree that holds all of the workload's keys, or those that have not expired, in the
    /// shape that the strategy leaves. That takes no simulated time and is not counted.
    pub fn load(&mut self) -> Result<()> {
        start::load(&mut self.clockwork)?;
        self.clockwork.begin()?;
        self.live_bytes = self.count_live_bytes();
        Ok(())
    }

    /// Lets the workload run for some time.
    pub fn run_for(&mut self, seconds: f64) -> Result<()> {
        let start = self.clockwork.seconds;
        self.run(|share| Until::Time(start + seconds * share))
    }

    /// Lets the workload run until it has done so many writes.
    pub fn write(&mut self, writes: u64) -> Result<()> {
        let start = self.clockwork.totals.writes;
        self.run(|share| Until::Writes(start + writes as f64 * share))
    }

    /// Flushes, and lets compactions run until nothing is left to be done; nothing is written
    /// meanwhile.
    pub fn settle(&mut self) -> Result<()> {
        self.clockwork.freeze_rest();
        let (before, stalled) = (self.clockwork.totals.clone(), self.clockwork.totals.stalled_s);
        let seconds = self.clockwork.seconds;
        self.clockwork.advance(Until::Idle)?;
        self.clockwork.totals.stalled_s = stalled;
        self.sample(&before, seconds);
        Ok(())
    }

    fn run(&mut self, until: impl Fn(f64) -> Until) -> Result<()> {
        for at in 1..=SAMPLES {
            let (before, seconds) = (self.clockwork.totals.clone(), self.clockwork.seconds);
            self.clockwork.advance(until(f64::from(at) / f64::from(SAMPLES)))?;
            self.sample(&before, seconds);
        }
        Ok(())
    }

    /// Takes note of the stretch since `seconds`, when `before` was the state.
    fn sample(&mut self, before: &Totals, seconds: f64) {
        let dt = self.clockwork.seconds - seconds;
        let live_before = self.live_bytes;
        self.live_bytes = self.count_live_bytes();
        self.live_byte_seconds += dt * f64::midpoint(live_before, self.live_bytes);
        let now = &self.clockwork.totals;
        if now.bytes_max > before.bytes_max {
            let live = live_before.max(self.live_bytes);
            self.space_max = self.space_max.max(quotient(now.bytes_max, live));
        }
        self.series.push(Sample {
            seconds: self.clockwork.seconds,
            ingest_bytes_per_s: quotient(now.user_bytes - before.user_bytes, dt),
            compaction_bytes_per_s: quotient(now.merged_bytes - before.merged_bytes, dt),
            write_amplification: quotient(now.written_bytes(), now.user_bytes),
            space_amplification: quotient(self.clockwork.table_bytes(), self.live_bytes),
            runs: self.clockwork.tree.version.run_count(),
            debt_bytes: self.clockwork.debt_bytes(),
            stalled_share: quotient(now.stalled_s - before.stalled_s, dt),
        });
    }

    fn count_live_bytes(&self) -> f64 {
        self.clockwork.tree.live_entries() * self.clockwork.source.workload().entry_bytes() as f64
    }

    /// What came of it so far.
    pub fn report(&self) -> Report {
        let Clockwork { tree, totals, .. } = &self.clockwork;
        let levels = tree.version.levels.iter().zip(totals.by_level).enumerate();
        let levels = levels.map(|(level, (of_level, written))| LevelReport {
            level,
            runs: of_level.runs.len(),
            bytes: of_level.bytes(),
            bytes_written: written as u64,
        });
        let reasons = totals.by_reason.iter().map(|of| ReasonReport {
            reason: reason_name(of.reason),
            compactions: of.compactions,
            bytes_written: of.written as u64,
        });
        let seconds = self.clockwork.seconds;
        let table_bytes = self.clockwork.table_bytes();
        let space_amplification = quotient(table_bytes, self.live_bytes);
        Report {
            strategy: self.clockwork.strategy.name().to_owned(),
            seconds,
            user_bytes: totals.user_bytes as u64,
            wal_bytes: totals.wal_bytes as u64,
            flush_bytes: totals.flush_bytes as u64,
            compaction_bytes_written: totals.merged_bytes as u64,
            compaction_bytes_read: totals.read_bytes as u64,
            levels: levels.collect(),
            reasons: reasons.collect(),
            flushes: totals.flushes,
            merges: totals.merges,
            moves: totals.moves,
            drops: totals.drops,
            runs: tree.version.run_count(),
            runs_max: totals.runs_max,
            runs_mean: quotient(totals.run_seconds, seconds),
            live_bytes: self.live_bytes as u64,
            table_bytes: table_bytes as u64,
            table_bytes_max: totals.bytes_max as u64,
            space_amplification,
            space_amplification_mean: quotient(totals.byte_seconds, self.live_byte_seconds),
            space_amplification_max: self.space_max.max(space_amplification),
            stalled_s: totals.stalled_s,
            debt_bytes: self.clockwork.debt_bytes(),
            busy_s: totals.busy_s,
            series: self.series.clone(),
        }
    }
}

/// 0 where there is nothing to divide by.
fn quotient(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
