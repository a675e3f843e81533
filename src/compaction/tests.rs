//! What the tests of all strategies share: trees of metadata that grow and are compacted.
//!
//! [`Sim`] drives the simulator's tree of metadata ([`MetaTree`]) by hand, without time and threads:
//! gigabytes of writes are compacted in milliseconds. Every plan is checked
//! ([`TreeView::check_plan`]), and every tree.

use std::ops::{Deref, DerefMut};

use proptest::prelude::*;

use super::*;
use crate::compaction::expired::pick_expired;
use crate::compaction::simulator::content;
use crate::compaction::simulator::cost::Costs;
use crate::compaction::simulator::tree::{Merged, MetaTree, Origin};
use crate::compaction::{CompactionAction, PlanInput};
use crate::options::{Fifo, LazyLeveled, Leveled, SizeTiered, TimeWindow};
use crate::table::{Table, TableMeta};
use crate::version::{LEVEL_COUNT, Level};

pub(super) const ENTRY_BYTES: u64 = 116;

/// Keys `low..high` of which the shares `live` and `dead` have a value or a tombstone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) live: f64,
    pub(super) dead: f64,
}

pub(super) struct Sim {
    strategy: Box<dyn CompactionStrategy>,
    tree: MetaTree,
    /// How long what is flushed lives.
    pub(super) ttl_ms: u64,
    pub(super) flushed_bytes: u64,
    pub(super) merged_bytes: u64,
    pub(super) runs_max: usize,
    /// Of all tables, after any change.
    pub(super) bytes_max: u64,
}

impl Deref for Sim {
    type Target = MetaTree;

    fn deref(&self) -> &MetaTree {
        &self.tree
    }
}

impl DerefMut for Sim {
    fn deref_mut(&mut self) -> &mut MetaTree {
        &mut self.tree
    }
}

impl Sim {
    pub(super) fn new(
        options: KeyspaceOptions,
        strategy: impl CompactionStrategy + 'static,
    ) -> Self {
        Sim::with(options, Box::new(strategy))
    }

    fn with(options: KeyspaceOptions, strategy: Box<dyn CompactionStrategy>) -> Self {
        let costs = Costs::flat((ENTRY_BYTES, 16), (ENTRY_BYTES, 20));
        Sim {
            strategy,
            tree: MetaTree::new(options, costs, [1.0].into()),
            ttl_ms: u64::MAX,
            flushed_bytes: 0,
            merged_bytes: 0,
            runs_max: 0,
            bytes_max: 0,
        }
    }

    /// The drawn tree, whose tables are large under [`small_options`].
    pub(super) fn drawn(strategy: impl CompactionStrategy + 'static, text: &str) -> Self {
        let mut sim = Sim::new(small_options(), strategy);
        sim.version = crate::version::text::version(text);
        sim
    }

    /// A tree that went through `steps` and came to rest: every plan obeyed the rules, every tree
    /// kept its invariants, and once the writes ended compaction ended, also as time went by.
    pub(super) fn lived(
        options: KeyspaceOptions,
        strategy: impl CompactionStrategy + 'static,
        steps: Vec<Step>,
    ) -> Self {
        let mut sim = Sim::new(options, strategy);
        sim.live(steps);
        sim.release_snapshots();
        sim.settle_over_time();
        sim
    }

    /// Adds a flushed table; that takes a second.
    pub(super) fn flush(&mut self, segment: Segment) {
        self.sequence += 1;
        let written_ms = (self.now_ms, self.now_ms + 1000);
        self.now_ms += 1000;
        let expiry = |ms: u64| ms.saturating_add(self.ttl_ms);
        let origin = Origin {
            sequences: (self.sequence, self.sequence),
            times_ms: written_ms,
            expiry_ms: (expiry(written_ms.0), expiry(written_ms.1)),
        };
        let Segment { low, high, live, dead } = segment;
        let content = vec![content::Segment::of_one_class(low, high, live, dead)];
        self.flushed_bytes += self.tree.add_flush(content, origin);
        self.runs_max = self.runs_max.max(self.version.run_count());
        self.bytes_max = self.bytes_max.max(self.version.bytes());
    }

    /// One memtable of random puts over `keys` keys.
    pub(super) fn flush_random(&mut self, bytes: u64, keys: u64) {
        let share = 1.0 - (-((bytes / ENTRY_BYTES) as f64) / keys as f64).exp();
        self.flush(Segment { low: 0, high: keys, live: share, dead: 0.0 });
    }

    /// As it would be if a snapshot in use had pinned an older version of every other key, which
    /// the simulator does not model.
    fn pinned(&self, merged: &Merged) -> Merged {
        let pinned = |table: &Arc<Table>| {
            let meta = table.meta();
            let is_pinned = meta.sequence_max > self.oldest_snapshot;
            let shadowed_count = if is_pinned { meta.entry_count / 3 } else { 0 };
            Arc::new(Table::new(TableMeta { shadowed_count, ..meta.clone() }))
        };
        let is_merge = merged.plan.action == CompactionAction::Merge;
        let outputs = merged.outputs.iter();
        let outputs =
            if is_merge { outputs.map(pinned).collect() } else { outputs.cloned().collect() };
        Merged { outputs, ..merged.clone() }
    }

    fn install(&mut self, merged: &Merged) {
        let before = self.version.bytes();
        self.tree.finish(&self.pinned(merged)).unwrap();
        self.version.check_invariants().unwrap();
        self.merged_bytes += merged.written_bytes;
        // While the compaction ran, its inputs were there beside its outputs.
        if merged.plan.action == CompactionAction::Merge {
            self.bytes_max = self.bytes_max.max(before + merged.written_bytes);
        }
    }

    pub(super) fn pick(&self) -> Option<CompactionPlan> {
        let plan = self.strategy.pick(&self.view())?;
        self.view().check_plan(&plan).unwrap();
        Some(plan)
    }

    /// From now on compacted otherwise.
    pub(super) fn switch(&mut self, strategy: impl CompactionStrategy + 'static) {
        self.strategy = Box::new(strategy);
    }

    /// Does what `plan` says.
    pub(super) fn apply(&mut self, plan: &CompactionPlan) {
        let merged = self.tree.merge(plan.clone()).unwrap();
        self.install(&merged);
    }

    pub(super) fn due_at_ms(&self) -> Option<u64> {
        self.strategy.due_at_ms(&self.view())
    }

    pub(super) fn debt_bytes(&self) -> u64 {
        self.strategy.debt_bytes(&self.view())
    }

    /// What compaction lowers: debt, runs, tombstones, shadowed entries, bytes times the levels
    /// below them, bytes.
    fn score(&self) -> [u64; 6] {
        let tombstones = self.version.tables().map(|(_, _, table)| table.meta().tombstone_count);
        let shadowed = self.version.tables().map(|(_, _, table)| table.meta().shadowed_count);
        let fall = |(at, level): (usize, &Level)| (LEVEL_COUNT - at) as u64 * level.bytes();
        [
            self.debt_bytes(),
            self.version.run_count() as u64,
            tombstones.sum(),
            shadowed.sum(),
            self.version.levels.iter().enumerate().map(fall).sum(),
            self.version.bytes(),
        ]
    }

    /// Compacts until nothing is to be done. Each plan must lower something, and in the end there
    /// is no debt.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let Some(plan) = self.pick() else {
                assert_eq!(self.debt_bytes(), 0, "silent, with debt: {}", shape(&self.version));
                return;
            };
            let before = self.score();
            self.apply(&plan);
            let after = self.score();
            let lowered = before.iter().zip(&after).any(|(before, after)| after < before);
            assert!(lowered, "{plan:?} is of no use: {before:?} to {after:?}");
        }
        panic!("never silent: {}", shape(&self.version));
    }

    /// Settles now, and then at each moment at which the strategy wants to be asked again.
    pub(super) fn settle_over_time(&mut self) {
        for _ in 0..10_000 {
            self.settle();
            let Some(due_at_ms) = self.due_at_ms() else { return };
            assert!(due_at_ms > self.now_ms, "due at {due_at_ms}, now {}", self.now_ms);
            self.now_ms = due_at_ms;
        }
        panic!("asks again and again: {}", shape(&self.version));
    }

    /// Drops tables in which everything has expired, as far as they can go.
    pub(super) fn drop_expired(&mut self) {
        while let Some(plan) = pick_expired(&self.view()) {
            self.view().check_plan(&plan).unwrap();
            self.apply(&plan);
        }
    }

    /// What `steps` do, with any number of compactions at once, until all of them are done.
    pub(super) fn live(&mut self, steps: Vec<Step>) {
        let mut running: Vec<Merged> = Vec::new();
        for step in steps {
            match step {
                Step::Flush { low, width, live, dead } => {
                    let all = 100.0 + f64::from(live) + f64::from(dead);
                    let (live, dead) = (f64::from(live) / all, f64::from(dead) / all);
                    self.flush(Segment { low, high: low + width, live, dead });
                }
                Step::Snapshot(age) => {
                    self.oldest_snapshot = SequenceNumber(self.sequence.saturating_sub(age));
                }
                Step::Start => {
                    let Some(plan) = self.pick() else { continue };
                    running.push(self.tree.start(plan).unwrap());
                }
                Step::Finish(at) if at < running.len() => {
                    let merged = running.swap_remove(at);
                    self.install(&merged);
                }
                Step::Finish(_) => {}
            }
        }
        while let Some(merged) = running.pop() {
            self.install(&merged);
        }
    }

    /// No snapshot is in use any more.
    pub(super) fn release_snapshots(&mut self) {
        self.oldest_snapshot = SequenceNumber(self.sequence);
    }

    /// `count` flushes of `run_bytes` random puts over `keys` keys; compaction after each.
    pub(super) fn fill(&mut self, count: u64, run_bytes: u64, keys: u64) {
        for _ in 0..count {
            self.flush_random(run_bytes, keys);
            self.settle();
        }
    }

    /// The plan picked, as `reason action inputs -> output`.
    pub(super) fn picked(&self) -> String {
        let Some(plan) = self.pick() else { return "nothing".to_owned() };
        let input = |input: &PlanInput| {
            let numbers: Vec<String> =
                input.tables.iter().map(|number| number.0.to_string()).collect();
            format!("L{}:{}", input.level, numbers.join(","))
        };
        let inputs: Vec<String> = plan.inputs.iter().map(input).collect();
        let (level, run) = (plan.output_level, plan.output_run.0);
        format!("{:?} {:?} {} -> L{level} run {run}", plan.reason, plan.action, inputs.join(" "))
    }
}

pub(super) fn shape(version: &Version) -> String {
    let level = |(at, level): (usize, &Level)| {
        format!(
            "L{at}: {} runs {} tables {:.1} MB",
            level.runs.len(),
            level.table_count(),
            level.bytes() as f64 / 1e6
        )
    };
    version
        .levels
        .iter()
        .enumerate()
        .filter(|(_, l)| !l.runs.is_empty())
        .map(level)
        .collect::<Vec<_>>()
        .join("; ")
}

/// What may happen to a tree.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Flush { low: u64, width: u64, live: u8, dead: u8 },
    Start,
    Finish(usize),
    Snapshot(u64),
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let flush = (0..2000u64, 1..800u64, 0..100u8, 0..100u8)
        .prop_map(|(low, width, live, dead)| Step::Flush { low, width, live, dead });
    let step = prop_oneof![
        6 => flush,
        6 => Just(Step::Start),
        4 => (0..8usize).prop_map(Step::Finish),
        1 => (0..100u64).prop_map(Step::Snapshot),
    ];
    prop::collection::vec(step, 1..250)
}

/// Options under which a drawn tree (tables of 100 bytes) is large.
fn small_options() -> KeyspaceOptions {
    KeyspaceOptions { table_bytes: 100, memtable_bytes: 100, ..KeyspaceOptions::default() }
}

pub(super) fn memtable(bytes: u64) -> KeyspaceOptions {
    KeyspaceOptions { memtable_bytes: bytes, ..KeyspaceOptions::default() }
}

/// A change of a drawn tree: these tables are busy.
pub(super) fn busy(numbers: &'static [u64]) -> impl FnOnce(&mut Sim) {
    |sim| sim.busy.extend(numbers.iter().map(|number| FileNumber(*number)))
}

/// Sizes of random loads: name, memtable bytes, flushes, bytes of each, keys.
const LOADS: [(&str, u64, u64, u64, u64); 5] = [
    ("0.6 GB over 5 M keys", 64 << 20, 14, 42_000_000, 5_000_000),
    ("1.2 GB over 5 M keys, 8 MiB memtables", 8 << 20, 220, 5_300_000, 5_000_000),
    ("2.5 GB over 20 M keys", 64 << 20, 60, 42_000_000, 20_000_000),
    ("20 GB over 50 M keys", 64 << 20, 480, 42_000_000, 50_000_000),
    ("100 GB over 500 M keys", 64 << 20, 2400, 42_000_000, 500_000_000),
];

/// A table with a row for each load and each of `variants`: what is rewritten for each byte flushed,
/// the most runs, the space at the end and at its most, both for each byte of live entries.
pub(super) fn survey<S: CompactionStrategy + Clone + 'static>(variants: &[(String, S)]) -> String {
    let mut rows = vec![
        "| load | parameters | rewritten | most runs | space | most space |".to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    for (name, memtable_bytes, count, run_bytes, keys) in LOADS {
        for (parameters, strategy) in variants {
            let mut sim = Sim::new(memtable(memtable_bytes), strategy.clone());
            sim.fill(count, run_bytes, keys);
            let puts = count as f64 * (run_bytes / ENTRY_BYTES) as f64;
            let live = keys as f64 * (1.0 - (-puts / keys as f64).exp()) * ENTRY_BYTES as f64;
            rows.push(format!(
                "| {name} | {parameters} | {:.2} | {} | {:.2} | {:.2} |",
                sim.merged_bytes as f64 / sim.flushed_bytes as f64,
                sim.runs_max,
                sim.version.bytes() as f64 / live,
                sim.bytes_max as f64 / live,
            ));
        }
    }
    rows.join("\n")
}

/// `cargo test --lib compaction::tests::comparison -- --ignored --nocapture` prints the comparison of
/// `docs/compaction.md`.
#[test]
#[ignore = "prints a table"]
#[expect(clippy::print_stdout, reason = "it is run by hand, for what it prints")]
fn comparison() {
    println!("{}", survey(&[("`leveled`".to_owned(), Leveled::default())]));
    println!("{}", survey(&[("`size_tiered`".to_owned(), SizeTiered::default())]));
    println!("{}", survey(&[("`lazy_leveled`".to_owned(), LazyLeveled::default())]));
}

#[test]
fn sorted_writes_are_never_rewritten() {
    let options = || memtable(8 << 20);
    let windows = TimeWindow { window_s: 20, ..TimeWindow::default() };
    for (mut sim, runs_max) in [
        (Sim::new(options(), Leveled::default()), 4 + 3),
        (Sim::new(options(), SizeTiered::default()), 33),
        (Sim::new(options(), LazyLeveled::default()), 33),
        // Each window that was is a run.
        (Sim::new(options(), windows), 15 + 11),
    ] {
        for at in 0..300 {
            sim.flush(Segment { low: at * 50_000, high: (at + 1) * 50_000, live: 1.0, dead: 0.0 });
            sim.settle();
        }
        assert_eq!(sim.merged_bytes, 0, "{}", sim.strategy.name());
        assert!(sim.runs_max <= runs_max, "{}: {} runs", sim.strategy.name(), sim.runs_max);
    }
}

/// Every built-in strategy, small enough for [`steps`].
fn strategies() -> Vec<Box<dyn CompactionStrategy>> {
    vec![
        Box::new(Leveled { l0_runs: 3, base_bytes: 64 << 10, fanout: 3 }),
        Box::new(SizeTiered {
            merge_width: 3,
            size_slack_percent: 50,
            runs_max: 8,
            space_percent_max: 100,
        }),
        Box::new(LazyLeveled { runs_per_level: 3, last_level_fanout: 2 }),
        Box::new(Fifo { total_bytes_max: 300_000, age_max_s: 0, merge_runs: 3 }),
        Box::new(TimeWindow { window_s: 20, merge_width: 3 }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What one strategy leaves, at any moment, another brings into its shape: for every pair.
    #[test]
    fn every_strategy_takes_over_from_every_other(
        before in steps(),
        after in steps(),
        table_bytes in 2_048..16_384u64,
    ) {
        let options = KeyspaceOptions { table_bytes, memtable_bytes: 8192, ..KeyspaceOptions::default() };
        for from in 0..strategies().len() {
            for to in 0..strategies().len() {
                let mut sim = Sim::with(options.clone(), strategies().swap_remove(from));
                sim.live(before.clone());
                sim.strategy = strategies().swap_remove(to);
                sim.release_snapshots();
                sim.settle_over_time();
                sim.live(after.clone());
                sim.release_snapshots();
                sim.settle_over_time();
                // Fifo and time windows keep as many runs as there is old data.
                if !matches!(sim.strategy.name(), "fifo" | "time_window") {
                    prop_assert!(sim.version.run_count() <= 9, "{}", shape(&sim.version));
                }
            }
        }
    }
}
