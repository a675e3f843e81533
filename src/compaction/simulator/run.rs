//! Simulated time: writes arrive, memtables fill, flushes and compactions take as long as they have
//! bytes.
//!
//! Between two events all rates are constant, so time jumps from event to event: a memtable is
//! full, a flush or a merge is done. Background work shares the machine's bandwidth. A flush goes
//! first; the merges that run share what there is. A merge costs the larger of what it reads and
//! what it writes.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::compaction::pressure::{Load, delay_ns_per_kib};
use crate::compaction::simulator::Machine;
use crate::compaction::simulator::content::{Segment, entries};
use crate::compaction::simulator::totals::Totals;
use crate::compaction::simulator::tree::{Merged, MetaTree, Origin};
use crate::compaction::simulator::workload::Source;
use crate::compaction::{CompactionAction, CompactionStrategy, TreeView};
use crate::error::{Error, Result};

/// A strategy that answers so many times without an end, while nothing is written, never falls
/// silent.
const PICKS_MAX: usize = 100_000;

/// What is left of a job below this is rounding.
const BYTES_EPSILON: f64 = 1e-3;
/// The same for writes, and as a share of many.
const WRITES_EPSILON: f64 = 1e-6;
const WRITES_EPSILON_SHARE: f64 = 1e-12;

/// How long to go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Until {
    /// Seconds since the beginning.
    Time(f64),
    /// Writes since the beginning.
    Writes(f64),
    /// Nothing is left to be done; nothing more is written.
    Idle,
}

/// A memtable that waits for its flush, or is being flushed.
#[derive(Debug)]
struct Frozen {
    segments: Vec<Segment>,
    origin: Origin,
    bytes_left: f64,
}

/// A merge that runs.
#[derive(Debug)]
struct Job {
    merged: Merged,
    work_bytes: f64,
    bytes_left: f64,
}

impl Job {
    fn new(merged: Merged) -> Self {
        let work_bytes = merged.read_bytes.max(merged.written_bytes) as f64;
        Job { merged, work_bytes, bytes_left: work_bytes }
    }

    /// Of its outputs, what is written.
    fn written_bytes(&self) -> f64 {
        if self.work_bytes == 0.0 {
            return 0.0;
        }
        self.merged.written_bytes as f64 * (1.0 - self.bytes_left / self.work_bytes)
    }
}

/// See the module text.
#[derive(Debug)]
pub(crate) struct Clockwork {
    pub(crate) tree: MetaTree,
    pub(crate) strategy: Arc<dyn CompactionStrategy>,
    pub(crate) source: Source,
    pub(crate) machine: Machine,
    pub(crate) totals: Totals,
    /// Since the beginning.
    pub(crate) seconds: f64,
    /// The clock of the tree at the beginning.
    start_ms: u64,
    memtable_writes_max: f64,
    active_writes: f64,
    active_since_ms: u64,
    frozen: VecDeque<Frozen>,
    jobs: Vec<Job>,
    /// `None`: stopped.
    delay_ns_per_kib: Option<u64>,
    /// When the strategy is to be asked again, if nothing happens before; seconds.
    due: f64,
}

impl Clockwork {
    pub(crate) fn new(
        tree: MetaTree,
        strategy: Arc<dyn CompactionStrategy>,
        source: Source,
        machine: Machine,
    ) -> Self {
        let costs = &tree.costs;
        let room = tree.options.memtable_bytes.saturating_sub(costs.memtable_fixed) as f64;
        let write_bytes = source.mean(costs.memtable.put, costs.memtable.delete);
        Clockwork {
            memtable_writes_max: (room / write_bytes).ceil().max(1.0),
            tree,
            strategy,
            source,
            machine,
            totals: Totals::default(),
            seconds: 0.0,
            start_ms: 0,
            active_writes: 0.0,
            active_since_ms: 0,
            frozen: VecDeque::new(),
            jobs: Vec::new(),
            delay_ns_per_kib: Some(0),
            due: f64::INFINITY,
        }
    }

    /// Writes that a memtable takes.
    pub(crate) fn memtable_writes_max(&self) -> f64 {
        self.memtable_writes_max
    }

    /// Begins to count time and bytes, with the tree as it is.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.seconds = 0.0;
        self.totals = Totals::default();
        self.start_ms = self.tree.now_ms;
        self.active_since_ms = self.tree.now_ms;
        self.changed()
    }

    /// Goes on until the goal is reached.
    pub(crate) fn advance(&mut self, until: Until) -> Result<()> {
        let mut events = 0;
        while !self.is_reached(until) {
            events += 1;
            if until == Until::Idle && events > PICKS_MAX {
                return Err(self.never_silent());
            }
            let rate = if until == Until::Idle { 0.0 } else { self.writes_per_s() };
            let dt = self.until_next_event(until, rate);
            if dt.is_infinite() {
                return Err(Error::invalid(format!(
                    "{} lets writers wait, and nothing runs that would let them go on",
                    self.strategy.name()
                ))
                .advise("mend the compaction strategy: its debt or level0_runs_max is wrong"));
            }
            self.pass(dt, rate);
            self.handle_events()?;
        }
        Ok(())
    }

    fn is_reached(&self, until: Until) -> bool {
        match until {
            Until::Time(seconds) => self.seconds >= seconds,
            Until::Writes(writes) => {
                self.totals.writes >= writes - WRITES_EPSILON - writes * WRITES_EPSILON_SHARE
            }
            Until::Idle => self.jobs.is_empty() && self.frozen.is_empty(),
        }
    }

    /// Freezes what is in the memtable.
    pub(crate) fn freeze_rest(&mut self) {
        if self.active_writes > WRITES_EPSILON {
            self.freeze();
        }
    }

    fn is_memtable_full(&self) -> bool {
        self.active_writes >= self.memtable_writes_max - WRITES_EPSILON
    }

    /// Writes in a second that get through now.
    fn writes_per_s(&self) -> f64 {
        if self.is_memtable_full() {
            return 0.0;
        }
        let user_bytes = self.source.user_bytes_per_write(&self.tree.costs);
        let wanted = self.source.workload().ingest_bytes_per_s as f64;
        let allowed = match self.delay_ns_per_kib {
            None => 0.0,
            Some(0) => f64::INFINITY,
            Some(delay) => 1024.0 * 1e9 / delay as f64,
        };
        wanted.min(allowed) / user_bytes.max(1.0)
    }

    /// Bytes in a second that each running merge moves; the flush, if one waits, has all.
    fn bytes_per_s(&self) -> f64 {
        self.machine.bandwidth_bytes_per_s as f64 / self.jobs.len().max(1) as f64
    }

    fn until_next_event(&self, until: Until, writes_per_s: f64) -> f64 {
        let mut dt = match until {
            Until::Time(seconds) => seconds - self.seconds,
            Until::Writes(writes) => (writes - self.totals.writes) / writes_per_s,
            Until::Idle => f64::INFINITY,
        };
        if writes_per_s > 0.0 {
            dt = dt.min((self.memtable_writes_max - self.active_writes) / writes_per_s);
        }
        if let Some(frozen) = self.frozen.front() {
            dt = dt.min(frozen.bytes_left / self.machine.bandwidth_bytes_per_s as f64);
        } else {
            let least = self.jobs.iter().map(|job| job.bytes_left).fold(f64::INFINITY, f64::min);
            dt = dt.min(least / self.bytes_per_s());
        }
        if until != Until::Idle {
            dt = dt.min(self.due - self.seconds);
        }
        dt.max(0.0)
    }

    /// Lets `dt` seconds pass in which no event happens.
    fn pass(&mut self, dt: f64, writes_per_s: f64) {
        self.seconds += dt;
        self.tree.now_ms = self.start_ms + (self.seconds * 1e3) as u64;
        let (costs, source) = (&self.tree.costs, &self.source);
        let writes = writes_per_s * dt;
        self.active_writes += writes;
        self.totals.writes += writes;
        self.totals.user_bytes += writes * source.user_bytes_per_write(costs);
        self.totals.wal_bytes += writes * source.mean(costs.wal.put, costs.wal.delete);
        let wanted = source.workload().ingest_bytes_per_s as f64
            / source.user_bytes_per_write(costs).max(1.0);
        self.totals.stalled_s += dt * (1.0 - writes_per_s / wanted).max(0.0);
        if let Some(frozen) = self.frozen.front_mut() {
            frozen.bytes_left -= dt * self.machine.bandwidth_bytes_per_s as f64;
        } else {
            let moved = dt * self.bytes_per_s();
            for job in &mut self.jobs {
                let before = job.written_bytes();
                job.bytes_left = (job.bytes_left - moved).max(0.0);
                let written = job.written_bytes() - before;
                let read = job.merged.read_bytes as f64 / job.work_bytes.max(1.0) * moved;
                self.totals.note_merging(&job.merged.plan, read, written);
            }
            self.totals.busy_s += dt * self.jobs.len() as f64;
        }
        let runs = self.tree.version.run_count();
        let bytes = self.table_bytes();
        self.totals.note_tree(dt, runs, bytes);
    }

    /// Bytes of tables, half-written ones included.
    pub(crate) fn table_bytes(&self) -> f64 {
        let written: f64 = self.jobs.iter().map(Job::written_bytes).sum();
        self.tree.version.bytes() as f64 + written
    }

    fn handle_events(&mut self) -> Result<()> {
        let mut is_changed = self.seconds >= self.due;
        if self.frozen.front().is_some_and(|frozen| frozen.bytes_left <= BYTES_EPSILON) {
            let frozen = self.frozen.pop_front().expect("it was looked at");
            let bytes = self.tree.add_flush(frozen.segments, frozen.origin);
            self.totals.flush_bytes += bytes as f64;
            self.totals.flushes += 1;
            is_changed = true;
        }
        while let Some(at) = self.jobs.iter().position(|job| job.bytes_left <= BYTES_EPSILON) {
            let job = self.jobs.swap_remove(at);
            self.tree.finish(&job.merged)?;
            is_changed = true;
        }
        if self.is_memtable_full() && self.frozen.len() + 1 < self.tree.options.memtables_max {
            self.freeze();
        }
        if is_changed { self.changed() } else { Ok(()) }
    }

    fn freeze(&mut self) {
        let writes = std::mem::take(&mut self.active_writes);
        let segments = self.take(writes);
        let sum = entries(&segments, &self.tree.classes);
        let cost = self.tree.costs.tables[0];
        let bytes_left = sum.live * cost.put + sum.dead * cost.delete;
        let origin = self.origin(self.active_since_ms, self.tree.now_ms);
        self.active_since_ms = self.tree.now_ms;
        self.frozen.push_back(Frozen { segments, origin, bytes_left });
    }

    /// What a memtable of `writes` writes becomes.
    pub(crate) fn take(&mut self, writes: f64) -> Vec<Segment> {
        let workload = self.source.workload();
        if workload.ttl_s > 0 {
            let per_s = workload.ingest_bytes_per_s as f64
                / self.source.user_bytes_per_write(&self.tree.costs).max(1.0);
            let alive = per_s * workload.ttl_s as f64;
            self.source.forget_before(alive);
        }
        self.source.take(writes)
    }

    /// Of what was written from `since_ms` to `now_ms`.
    pub(crate) fn origin(&mut self, since_ms: u64, now_ms: u64) -> Origin {
        self.tree.sequence += 1;
        let ttl_ms = self.source.workload().ttl_s.saturating_mul(1000);
        let expiry = |ms: u64| if ttl_ms == 0 { u64::MAX } else { ms.saturating_add(ttl_ms) };
        Origin {
            sequences: (self.tree.sequence, self.tree.sequence),
            times_ms: (since_ms, now_ms),
            expiry_ms: (expiry(since_ms), expiry(now_ms)),
        }
    }

    /// After a change of the tree: starts what the strategy wants, as far as threads are free, and
    /// sets the pressure.
    fn changed(&mut self) -> Result<()> {
        let threads = self.machine.compaction_threads();
        self.due = f64::INFINITY;
        for _ in 0..PICKS_MAX {
            let coarse = self.jobs.iter().filter(|job| job.merged.is_coarse).count();
            if self.jobs.len() - coarse >= threads || coarse > threads {
                return self.set_pressure();
            }
            let Some(plan) = self.tree.pick(&*self.strategy)? else {
                let due_at_ms = self.tree.due_at_ms(&*self.strategy);
                // A little later, so that rounding does not end before it.
                let seconds = |at_ms: u64| (at_ms - self.start_ms) as f64 / 1e3 + 1e-6;
                self.due = due_at_ms.map_or(f64::INFINITY, seconds);
                return self.set_pressure();
            };
            self.totals.note_plan(&plan);
            if plan.action == CompactionAction::Merge {
                let merged = self.tree.start(plan)?;
                self.jobs.push(Job::new(merged));
            } else {
                let merged = self.tree.merge(plan)?;
                self.tree.finish(&merged)?;
            }
        }
        Err(self.never_silent())
    }

    fn never_silent(&self) -> Error {
        let what = format!("{} never falls silent on a tree that rests", self.strategy.name());
        Error::invalid(what).advise("mend the compaction strategy: each plan must lower something")
    }

    /// Compacts until nothing is to be done, in no time.
    pub(crate) fn settle_at_once(&mut self) -> Result<()> {
        for _ in 0..PICKS_MAX {
            let Some(plan) = self.tree.pick(&*self.strategy)? else { return Ok(()) };
            let merged = self.tree.merge(plan)?;
            self.tree.finish(&merged)?;
        }
        Err(self.never_silent())
    }

    /// The strategy's debt, as the engine asks for it: nothing is busy.
    pub(crate) fn debt_bytes(&self) -> u64 {
        let none = std::collections::HashSet::new();
        let tree = TreeView { busy: &none, busy_outputs: &[], ..self.tree.view() };
        self.strategy.debt_bytes(&tree)
    }

    #[expect(clippy::unnecessary_wraps, reason = "it ends calls that may fail")]
    fn set_pressure(&mut self) -> Result<()> {
        let load = Load {
            debt_bytes: self.debt_bytes(),
            debt_bytes_soft: self.tree.options.debt_bytes_soft,
            level0_runs: self.tree.version.levels[0].runs.len(),
            level0_runs_max: self.strategy.level0_runs_max(),
        };
        self.delay_ns_per_kib = delay_ns_per_kib(load.pressure());
        Ok(())
    }
}
