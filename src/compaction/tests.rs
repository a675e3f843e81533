//! What the tests of all strategies share: trees of metadata that grow and are compacted.
//!
//! [`Sim`] keeps tables as key ranges with an expected number of entries, spread evenly: merging
//! two that overlap gives the expected union. So gigabytes of writes are compacted in milliseconds.
//! Every plan is checked ([`TreeView::check_plan`]), and every tree.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::compaction::{BusyOutput, CompactionAction, PlanInput};
use crate::options::{Fifo, LazyLeveled, Leveled, SizeTiered};
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

/// What the entries of a table have in common: sequence numbers and write times, least and greatest.
#[derive(Clone, Copy, Debug)]
struct Origin {
    sequences: (u64, u64),
    times_ms: (u64, u64),
}

pub(super) struct Sim {
    strategy: Box<dyn CompactionStrategy>,
    pub(super) options: KeyspaceOptions,
    pub(super) version: Version,
    pub(super) busy: HashSet<FileNumber>,
    pub(super) busy_outputs: Vec<BusyOutput>,
    pub(super) oldest_snapshot: SequenceNumber,
    pub(super) now_ms: u64,
    sequence: u64,
    next_number: u64,
    pub(super) flushed_bytes: u64,
    pub(super) merged_bytes: u64,
    pub(super) runs_max: usize,
    /// Of all tables, after any change.
    pub(super) bytes_max: u64,
}

impl Sim {
    pub(super) fn new(
        options: KeyspaceOptions,
        strategy: impl CompactionStrategy + 'static,
    ) -> Self {
        Sim::with(options, Box::new(strategy))
    }

    fn with(options: KeyspaceOptions, strategy: Box<dyn CompactionStrategy>) -> Self {
        Sim {
            strategy,
            options,
            version: Version::empty(),
            busy: HashSet::new(),
            busy_outputs: Vec::new(),
            oldest_snapshot: SequenceNumber::MAX,
            now_ms: 0,
            sequence: 0,
            next_number: 1,
            flushed_bytes: 0,
            merged_bytes: 0,
            runs_max: 0,
            bytes_max: 0,
        }
    }

    fn view(&self) -> TreeView<'_> {
        TreeView {
            version: &self.version,
            options: &self.options,
            busy: &self.busy,
            busy_outputs: &self.busy_outputs,
            oldest_snapshot: self.oldest_snapshot,
            now_ms: self.now_ms,
        }
    }

    fn table(&mut self, segments: &[Segment], origin: Origin) -> Option<Arc<Table>> {
        let sum = |share: fn(&Segment) -> f64| -> f64 {
            segments.iter().map(|s| (s.high - s.low) as f64 * share(s)).sum()
        };
        let (live, dead) = (sum(|s| s.live).round() as u64, sum(|s| s.dead).round() as u64);
        if live + dead == 0 {
            return None;
        }
        let number = FileNumber(self.next_number);
        self.next_number += 1;
        Some(Arc::new(Table::new(TableMeta {
            number,
            file_bytes: live * ENTRY_BYTES + dead * 20,
            entry_count: live + dead,
            tombstone_count: dead,
            key_bytes: (live + dead) * 16,
            value_bytes: live * 100,
            smallest: segments[0].low.to_be_bytes().into(),
            largest: (segments[segments.len() - 1].high - 1).to_be_bytes().into(),
            sequence_min: SequenceNumber(origin.sequences.0),
            sequence_max: SequenceNumber(origin.sequences.1),
            write_time_min_ms: origin.times_ms.0,
            write_time_max_ms: origin.times_ms.1,
            expiry_min_ms: u64::MAX,
            expiry_max_ms: u64::MAX,
            checksum: 0,
            hidden_entry_count: 0,
        })))
    }

    /// Adds a flushed table; that takes a second.
    pub(super) fn flush(&mut self, segment: Segment) {
        self.sequence += 1;
        let written_ms = (self.now_ms, self.now_ms + 1000);
        self.now_ms += 1000;
        let run = RunId(self.next_number);
        let origin = Origin { sequences: (self.sequence, self.sequence), times_ms: written_ms };
        let Some(table) = self.table(&[segment], origin) else { return };
        self.flushed_bytes += table.meta().file_bytes;
        self.version = self.version.apply(&[], &[(0, run, table)]).unwrap();
        self.runs_max = self.runs_max.max(self.version.run_count());
        self.bytes_max = self.bytes_max.max(self.version.bytes());
    }

    /// One memtable of random puts over `keys` keys.
    pub(super) fn flush_random(&mut self, bytes: u64, keys: u64) {
        let share = 1.0 - (-((bytes / ENTRY_BYTES) as f64) / keys as f64).exp();
        self.flush(Segment { low: 0, high: keys, live: share, dead: 0.0 });
    }

    fn tables_of(&self, plan: &CompactionPlan) -> Vec<(usize, Vec<Arc<Table>>)> {
        let find = |number: &FileNumber| Arc::clone(self.version.find_table(*number).unwrap().2);
        let input = |input: &PlanInput| (input.level, input.tables.iter().map(find).collect());
        plan.inputs.iter().map(input).collect()
    }

    /// The plan's outputs.
    fn run(&mut self, plan: &CompactionPlan) -> Vec<Arc<Table>> {
        let inputs = self.tables_of(plan);
        let all: Vec<Arc<Table>> = inputs.iter().flat_map(|(_, tables)| tables.clone()).collect();
        if plan.action == CompactionAction::Move {
            return all;
        }
        if plan.action == CompactionAction::Drop {
            return Vec::new();
        }
        let least = |of: fn(&TableMeta) -> u64| all.iter().map(|t| of(t.meta())).min().unwrap();
        let most = |of: fn(&TableMeta) -> u64| all.iter().map(|t| of(t.meta())).max().unwrap();
        let origin = Origin {
            sequences: (least(|meta| meta.sequence_min.0), most(|meta| meta.sequence_max.0)),
            times_ms: (least(|meta| meta.write_time_min_ms), most(|meta| meta.write_time_max_ms)),
        };
        let mut segments = union(&inputs);
        if self.is_bottom(plan, &all) && origin.sequences.1 <= self.oldest_snapshot.0 {
            for segment in &mut segments {
                segment.dead = 0.0;
            }
            segments.retain(|segment| segment.live > 0.0);
        }
        let mut outputs = Vec::new();
        for part in cut(&segments, self.options.table_bytes) {
            outputs.extend(self.table(&part, origin));
        }
        self.merged_bytes += outputs.iter().map(|table| table.meta().file_bytes).sum::<u64>();
        outputs
    }

    /// Whether no run that stays is older than an input and meets one.
    fn is_bottom(&self, plan: &CompactionPlan, inputs: &[Arc<Table>]) -> bool {
        let is_input = |level: usize, run: RunId| {
            plan.inputs.iter().any(|input| input.level == level && input.run == run)
        };
        let mut runs = self
            .version
            .levels
            .iter()
            .enumerate()
            .flat_map(|(level, of_level)| of_level.runs.iter().map(move |run| (level, run)));
        runs.by_ref().find(|(level, run)| is_input(*level, run.id));
        runs.filter(|(level, run)| !is_input(*level, run.id)).all(|(_, run)| {
            inputs.iter().all(|table| {
                run.overlapping(&table.meta().smallest, &table.meta().largest).is_empty()
            })
        })
    }

    fn install(&mut self, plan: &CompactionPlan, outputs: Vec<Arc<Table>>) {
        let before = self.version.bytes();
        let out: u64 = outputs.iter().map(|table| table.meta().file_bytes).sum();
        let removed: Vec<FileNumber> =
            plan.inputs.iter().flat_map(|input| input.tables.clone()).collect();
        let added: Vec<_> =
            outputs.into_iter().map(|table| (plan.output_level, plan.output_run, table)).collect();
        self.version = self.version.apply(&removed, &added).unwrap();
        self.version.check_invariants().unwrap();
        // While the compaction ran, its inputs were there beside its outputs.
        if plan.action == CompactionAction::Merge {
            self.bytes_max = self.bytes_max.max(before + out);
        }
    }

    pub(super) fn pick(&self) -> Option<CompactionPlan> {
        let plan = self.strategy.pick(&self.view())?;
        self.view().check_plan(&plan).unwrap();
        Some(plan)
    }

    /// Marks what a started plan reads and writes.
    fn occupy(&mut self, plan: &CompactionPlan) {
        let tables = self.tables_of(plan);
        let all = || tables.iter().flat_map(|(_, tables)| tables);
        let low = all().map(|table| table.meta().smallest.clone()).min().unwrap();
        let high = all().map(|table| table.meta().largest.clone()).max().unwrap();
        self.busy.extend(plan.inputs.iter().flat_map(|input| input.tables.clone()));
        self.busy_outputs.push(BusyOutput {
            level: plan.output_level,
            smallest: low,
            largest: high,
        });
    }

    /// Leaves only the marks of the plans that still run.
    fn release(&mut self, running: &[(CompactionPlan, Vec<Arc<Table>>)]) {
        self.busy.clear();
        self.busy_outputs.clear();
        for (plan, _) in running {
            self.occupy(plan);
        }
    }

    /// From now on compacted otherwise.
    pub(super) fn switch(&mut self, strategy: impl CompactionStrategy + 'static) {
        self.strategy = Box::new(strategy);
    }

    /// Does what `plan` says.
    pub(super) fn apply(&mut self, plan: &CompactionPlan) {
        let outputs = self.run(plan);
        self.install(plan, outputs);
    }

    pub(super) fn debt_bytes(&self) -> u64 {
        self.strategy.debt_bytes(&self.view())
    }

    /// What compaction lowers: debt, runs, tombstones, bytes times the levels below them, bytes.
    fn score(&self) -> [u64; 5] {
        let tombstones = self.version.tables().map(|(_, _, table)| table.meta().tombstone_count);
        let fall = |(at, level): (usize, &Level)| (LEVEL_COUNT - at) as u64 * level.bytes();
        [
            self.debt_bytes(),
            self.version.run_count() as u64,
            tombstones.sum(),
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

    /// What `steps` do, with any number of compactions at once, until all of them are done.
    pub(super) fn live(&mut self, steps: Vec<Step>) {
        let mut running: Vec<(CompactionPlan, Vec<Arc<Table>>)> = Vec::new();
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
                    let outputs = self.run(&plan);
                    self.occupy(&plan);
                    running.push((plan, outputs));
                }
                Step::Finish(at) if at < running.len() => {
                    let (plan, outputs) = running.swap_remove(at);
                    self.install(&plan, outputs);
                    self.release(&running);
                }
                Step::Finish(_) => {}
            }
        }
        while let Some((plan, outputs)) = running.pop() {
            self.install(&plan, outputs);
        }
        self.release(&running);
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

/// The union of the inputs, newest first.
fn union(inputs: &[(usize, Vec<Arc<Table>>)]) -> Vec<Segment> {
    let segments: Vec<Vec<Segment>> =
        inputs.iter().map(|(_, tables)| tables.iter().map(|t| segment(t)).collect()).collect();
    let mut cuts: Vec<u64> = segments.iter().flatten().flat_map(|s| [s.low, s.high]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut positions = vec![0; segments.len()];
    let mut out = Vec::new();
    for pair in cuts.windows(2) {
        let (mut live, mut dead) = (0.0, 0.0);
        for (run, position) in segments.iter().zip(&mut positions) {
            while run.get(*position).is_some_and(|s| s.high <= pair[0]) {
                *position += 1;
            }
            if let Some(s) = run.get(*position).filter(|s| s.low <= pair[0]) {
                let uncovered = 1.0 - live - dead;
                live += uncovered * s.live;
                dead += uncovered * s.dead;
            }
        }
        if live + dead > 0.0 {
            out.push(Segment { low: pair[0], high: pair[1], live, dead });
        }
    }
    out
}

fn segment(table: &Table) -> Segment {
    let meta = table.meta();
    let key = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    let (low, high) = (key(&meta.smallest), key(&meta.largest) + 1);
    let width = (high - low) as f64;
    let dead = meta.tombstone_count as f64 / width;
    Segment { low, high, live: (meta.entry_count - meta.tombstone_count) as f64 / width, dead }
}

/// Cuts segments into tables of at most about `bytes`.
fn cut(segments: &[Segment], bytes: u64) -> Vec<Vec<Segment>> {
    let weight = |s: &Segment| s.live * ENTRY_BYTES as f64 + s.dead * 20.0;
    let mut out = vec![Vec::new()];
    let mut room = bytes as f64;
    for segment in segments {
        let mut rest = *segment;
        while rest.low < rest.high {
            let fits = ((room / weight(&rest)).floor() as u64).max(1).min(rest.high - rest.low);
            let part = Segment { high: rest.low + fits, ..rest };
            room -= fits as f64 * weight(&part);
            out.last_mut().unwrap().push(part);
            rest.low += fits;
            if room < weight(segment) {
                out.push(Vec::new());
                room = bytes as f64;
            }
        }
    }
    out.retain(|part| !part.is_empty());
    out
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
pub(super) fn small_options() -> KeyspaceOptions {
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
                sim.settle();
                sim.live(after.clone());
                sim.release_snapshots();
                sim.settle();
                if sim.strategy.level0_runs_max().is_some() {
                    prop_assert!(sim.version.run_count() <= 9, "{}", shape(&sim.version));
                }
            }
        }
    }
}
