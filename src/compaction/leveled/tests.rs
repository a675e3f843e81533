//! Leveled compaction over metadata alone: plans on drawn trees, and trees that grow.
//!
//! [`Sim`] keeps tables as key ranges with an expected number of entries, spread evenly: merging
//! two that overlap gives the expected union. So gigabytes of writes are compacted in milliseconds.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::compaction::{BusyOutput, CompactionAction, PlanInput};
use crate::key::{FileNumber, SequenceNumber};
use crate::options::KeyspaceOptions;
use crate::table::TableMeta;
use crate::version::RunId;

const ENTRY_BYTES: u64 = 116;

/// Keys `low..high` of which the shares `live` and `dead` have a value or a tombstone.
#[derive(Clone, Copy, Debug)]
struct Segment {
    low: u64,
    high: u64,
    live: f64,
    dead: f64,
}

struct Sim {
    leveled: Leveled,
    options: KeyspaceOptions,
    version: Version,
    busy: HashSet<FileNumber>,
    busy_outputs: Vec<BusyOutput>,
    oldest_snapshot: SequenceNumber,
    sequence: u64,
    next_number: u64,
    flushed_bytes: u64,
    merged_bytes: u64,
    runs_max: usize,
    plans: usize,
}

impl Sim {
    fn new(options: KeyspaceOptions, leveled: Leveled) -> Self {
        Sim {
            leveled,
            options,
            version: Version::empty(),
            busy: HashSet::new(),
            busy_outputs: Vec::new(),
            oldest_snapshot: SequenceNumber::MAX,
            sequence: 0,
            next_number: 1,
            flushed_bytes: 0,
            merged_bytes: 0,
            runs_max: 0,
            plans: 0,
        }
    }

    fn view(&self) -> TreeView<'_> {
        TreeView {
            version: &self.version,
            options: &self.options,
            busy: &self.busy,
            busy_outputs: &self.busy_outputs,
            oldest_snapshot: self.oldest_snapshot,
            now_ms: 0,
        }
    }

    fn table(&mut self, segments: &[Segment], sequences: (u64, u64)) -> Option<Arc<Table>> {
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
            sequence_min: SequenceNumber(sequences.0),
            sequence_max: SequenceNumber(sequences.1),
            write_time_min_ms: 0,
            write_time_max_ms: 0,
            expiry_min_ms: u64::MAX,
            expiry_max_ms: u64::MAX,
            checksum: 0,
        })))
    }

    fn flush(&mut self, segment: Segment) {
        self.sequence += 1;
        let run = RunId(self.next_number);
        let Some(table) = self.table(&[segment], (self.sequence, self.sequence)) else { return };
        self.flushed_bytes += table.meta().file_bytes;
        self.version = self.version.apply(&[], &[(0, run, table)]).unwrap();
        self.runs_max = self.runs_max.max(self.version.run_count());
    }

    /// One memtable of random puts over `keys` keys.
    fn flush_random(&mut self, bytes: u64, keys: u64) {
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
        let sequences = (
            all.iter().map(|table| table.meta().sequence_min.0).min().unwrap(),
            all.iter().map(|table| table.meta().sequence_max.0).max().unwrap(),
        );
        let mut segments = union(&inputs);
        let (low, high) = (
            all.iter().map(|t| t.meta().smallest.clone()).min().unwrap(),
            all.iter().map(|t| t.meta().largest.clone()).max().unwrap(),
        );
        let below = plan.output_level + 1..LEVEL_COUNT;
        let is_bottom = plan.output_level > 0
            && below
                .into_iter()
                .all(|level| self.version.overlapping(level, &low, &high).next().is_none());
        if is_bottom && sequences.1 <= self.oldest_snapshot.0 {
            for segment in &mut segments {
                segment.dead = 0.0;
            }
            segments.retain(|segment| segment.live > 0.0);
        }
        let mut outputs = Vec::new();
        for part in cut(&segments, self.options.table_bytes) {
            outputs.extend(self.table(&part, sequences));
        }
        self.merged_bytes += outputs.iter().map(|table| table.meta().file_bytes).sum::<u64>();
        outputs
    }

    fn install(&mut self, plan: &CompactionPlan, outputs: Vec<Arc<Table>>) {
        let removed: Vec<FileNumber> =
            plan.inputs.iter().flat_map(|input| input.tables.clone()).collect();
        let added: Vec<_> =
            outputs.into_iter().map(|table| (plan.output_level, plan.output_run, table)).collect();
        self.version = self.version.apply(&removed, &added).unwrap();
        self.version.check_invariants().unwrap();
    }

    fn pick(&self) -> Option<CompactionPlan> {
        let plan = self.leveled.pick(&self.view())?;
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

    /// Compacts until nothing is to be done.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let Some(plan) = self.pick() else { return };
            self.plans += 1;
            let outputs = self.run(&plan);
            self.install(&plan, outputs);
        }
        panic!("never silent: {}", shape(&self.version));
    }
}

fn shape(version: &Version) -> String {
    let level = |(at, level): (usize, &crate::version::Level)| {
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

/// `count` flushes of `run_bytes` random puts over `keys` keys; compaction after each.
fn fill(options: KeyspaceOptions, leveled: Leveled, count: u64, run_bytes: u64, keys: u64) -> Sim {
    let mut sim = Sim::new(options, leveled);
    for _ in 0..count {
        sim.flush_random(run_bytes, keys);
        sim.settle();
    }
    sim
}

fn memtable(bytes: u64) -> KeyspaceOptions {
    KeyspaceOptions { memtable_bytes: bytes, ..KeyspaceOptions::default() }
}

/// `cargo test --lib leveled::tests::survey -- --ignored --nocapture` prints what the defaults were
/// chosen by, as it stands in `docs/compaction.md`.
#[test]
#[ignore = "prints a table"]
#[expect(clippy::print_stdout, reason = "it is run by hand, for what it prints")]
fn survey() {
    let loads = [
        ("0.6 GB over 5 M keys", 64 << 20, 14, 42_000_000, 5_000_000),
        ("1.2 GB over 10 M keys, 8 MiB memtables", 8 << 20, 220, 5_300_000, 10_000_000),
        ("2.5 GB over 20 M keys", 64 << 20, 60, 42_000_000, 20_000_000),
        ("20 GB over 50 M keys", 64 << 20, 480, 42_000_000, 50_000_000),
        ("100 GB over 500 M keys", 64 << 20, 2400, 42_000_000, 500_000_000),
    ];
    let default = Leveled::default();
    let variants = [
        default,
        Leveled { l0_runs: 8, ..default },
        Leveled { l0_runs: 6, ..default },
        Leveled { l0_runs: 12, ..default },
        Leveled { base_bytes: 1 << 30, ..default },
        Leveled { fanout: 4, ..default },
    ];
    println!("| load | `l0_runs` | `base_bytes` | `fanout` | rewritten | most runs | space |");
    println!("|---|---|---|---|---|---|---|");
    for (name, memtable_bytes, count, run_bytes, keys) in loads {
        for leveled in variants {
            let sim = fill(memtable(memtable_bytes), leveled, count, run_bytes, keys);
            let puts = count as f64 * (run_bytes / ENTRY_BYTES) as f64;
            let live = keys as f64 * (1.0 - (-puts / keys as f64).exp()) * ENTRY_BYTES as f64;
            println!(
                "| {name} | {} | {} MiB | {} | {:.2} | {} | {:.2} |",
                leveled.l0_runs,
                leveled.base_bytes >> 20,
                leveled.fanout,
                sim.merged_bytes as f64 / sim.flushed_bytes as f64,
                sim.runs_max,
                sim.version.bytes() as f64 / live
            );
        }
    }
}

#[test]
fn write_amplification_is_bounded() {
    // fillrandom: 5 M puts, each of a random key of 5 M, in memtables of 42 MB.
    let sim = fill(memtable(64 << 20), Leveled::default(), 14, 42_000_000, 5_000_000);
    assert!(sim.merged_bytes <= 830_000_000, "{} bytes", sim.merged_bytes);
    // Small memtables: a base level stands between level 0 and the last.
    let sim = fill(memtable(8 << 20), Leveled::default(), 220, 5_300_000, 10_000_000);
    assert!(sim.merged_bytes <= 6 * sim.flushed_bytes, "{} bytes", sim.merged_bytes);
    assert!(sim.runs_max <= 4 + 3, "{} runs", sim.runs_max);
    // 58 GB: three levels below 0.
    let sim = fill(memtable(64 << 20), Leveled::default(), 2400, 42_000_000, 500_000_000);
    assert!(sim.merged_bytes <= 12 * sim.flushed_bytes, "{} bytes", sim.merged_bytes);
    assert!(sim.runs_max <= 4 + 4, "{} runs", sim.runs_max);
}

#[test]
fn overwriting_keeps_space_bounded() {
    let sim = fill(memtable(64 << 20), Leveled::default(), 480, 42_000_000, 50_000_000);
    let live = 50_000_000 * ENTRY_BYTES;
    let below: u64 = sim.version.levels[1..].iter().map(crate::version::Level::bytes).sum();
    assert!(below * 4 <= live * 5, "{below} bytes for {live}");
}

#[test]
fn sorted_writes_are_never_rewritten() {
    let mut sim = Sim::new(memtable(8 << 20), Leveled::default());
    for at in 0..300 {
        sim.flush(Segment { low: at * 50_000, high: (at + 1) * 50_000, live: 1.0, dead: 0.0 });
        sim.settle();
    }
    assert_eq!(sim.merged_bytes, 0);
    assert!(sim.runs_max <= 4 + 3, "{} runs", sim.runs_max);
}

#[test]
fn deleting_everything_gives_the_space_back() {
    let mut sim = fill(memtable(64 << 20), Leveled::default(), 20, 42_000_000, 2_000_000);
    for at in 0..4 {
        let (low, high) = (at * 500_000, (at + 1) * 500_000);
        sim.flush(Segment { low, high, live: 0.0, dead: 1.0 });
        sim.settle();
    }
    assert_eq!(sim.version.table_count(), 0, "{}", shape(&sim.version));
}

/// Options under which a drawn tree (tables of 100 bytes) is large: plans stay below 3200 bytes.
fn small_options() -> KeyspaceOptions {
    KeyspaceOptions { table_bytes: 100, memtable_bytes: 100, ..KeyspaceOptions::default() }
}

fn pick_with(text: &str, change: impl FnOnce(&mut Sim)) -> Option<CompactionPlan> {
    let leveled = Leveled { l0_runs: 4, base_bytes: 64 << 10, fanout: 10 };
    let mut sim = Sim::new(small_options(), leveled);
    sim.version = crate::version::text::version(text);
    change(&mut sim);
    sim.pick()
}

/// The plan for the tree drawn, as `reason action inputs -> output`.
fn picked_with(text: &str, change: impl FnOnce(&mut Sim)) -> String {
    let Some(plan) = pick_with(text, change) else { return "nothing".to_owned() };
    let input = |input: &PlanInput| {
        let numbers: Vec<String> = input.tables.iter().map(|number| number.0.to_string()).collect();
        format!("L{}:{}", input.level, numbers.join(","))
    };
    let inputs: Vec<String> = plan.inputs.iter().map(input).collect();
    let (level, run) = (plan.output_level, plan.output_run.0);
    format!("{:?} {:?} {} -> L{level} run {run}", plan.reason, plan.action, inputs.join(" "))
}

fn picked(text: &str) -> String {
    picked_with(text, |_| ())
}

fn busy(numbers: &'static [u64]) -> impl FnOnce(&mut Sim) {
    |sim| sim.busy.extend(numbers.iter().map(|number| FileNumber(*number)))
}

const FOUR_RUNS: &str = "
    L0 run 4: 4[a..z]
    L0 run 3: 3[a..m]
    L0 run 2: 2[c..z]
    L0 run 1: 1[b..k]";

#[test]
fn level_0_waits_for_its_runs_and_goes_to_the_last_level_of_a_small_tree() {
    assert_eq!(picked("L0 run 1: 1[a..z]"), "nothing");
    let first = picked(FOUR_RUNS);
    assert_eq!(first, "Level0Runs Move L0:1 -> L6 run 0", "free, and the others wait for a fourth");
    let more = format!("{FOUR_RUNS}\n L6 run 0: 11[A..C] 12[Z..b] 13[d..e] 14[y..~]");
    assert_eq!(picked(&more), "Level0Runs Merge L0:4 L0:3 L0:2 L0:1 L6:12,13,14 -> L6 run 0");
}

#[test]
fn level_0_never_passes_a_level_that_is_there() {
    let tree = format!("{FOUR_RUNS}\n L3 run 0: 11[A..C] 12[x..y]\n L6 run 0: 13[a..b]");
    // Level 3 is over its target, which is a quarter of nearly nothing, so it empties first.
    assert!(picked(&tree).ends_with("-> L4 run 0"), "{}", picked(&tree));
    let tree = format!("{FOUR_RUNS}\n L5 run 0: 11[a..z]:10\n L6 run 0: 13[a..b]:3100");
    assert_eq!(picked(&tree), "Level0Runs Merge L0:4 L0:3 L0:2 L0:1 L5:11 -> L5 run 0");
}

#[test]
fn a_base_level_that_would_overflow_is_taken_along() {
    let tree =
        format!("{FOUR_RUNS}\n L5 run 0: 11[a..z]:310\n L6 run 0: 13[a..b]:900 14[c..d]:900");
    assert_eq!(picked(&tree), "Level0Runs Merge L0:4 L0:3 L0:2 L0:1 L5:11 L6:13,14 -> L6 run 0");
}

#[test]
fn runs_that_meet_nothing_are_moved() {
    let disjoint = "
        L0 run 4: 4[c..d]
        L0 run 3: 3[g..h]
        L0 run 2: 2[e..f]
        L0 run 1: 1[a..b]
        L6 run 0: 9[i..z]";
    assert_eq!(picked(disjoint), "Level0Runs Move L0:4 L0:3 L0:2 L0:1 -> L6 run 0");
    let partly = disjoint.replace("3[g..h]", "3[d..j]");
    assert_eq!(picked(&partly), "Level0Runs Move L0:2 L0:1 -> L6 run 0");
    let compressed = |sim: &mut Sim| {
        sim.options.compression =
            [vec![crate::options::Compression::None; 6], vec![crate::options::Compression::Zstd]]
                .concat();
    };
    assert_eq!(
        picked_with(disjoint, compressed),
        "Level0Runs Merge L0:4 L0:3 L0:2 L0:1 -> L6 run 0"
    );
}

#[test]
fn only_one_compaction_out_of_level_0_and_the_rest_merges_within() {
    assert_eq!(picked_with(FOUR_RUNS, busy(&[1])), "nothing");
    let seven = "
        L0 run 7: 7[a..z]
        L0 run 6: 6[a..z]
        L0 run 5: 5[a..z]
        L0 run 4: 4[a..z]
        L0 run 3: 3[a..z]:900
        L0 run 2: 2[a..z]
        L0 run 1: 1[a..z]
        L6 run 0: 11[a..z]";
    assert_eq!(
        picked_with(seven, busy(&[1, 2, 11])),
        "IntraLevel0 Merge L0:7 L0:6 L0:5 L0:4 -> L0 run 7"
    );
    assert_eq!(picked_with(seven, busy(&[1, 2, 6, 11])), "nothing");
    // The base level is busy with something else.
    assert_eq!(
        picked_with(seven, busy(&[11])),
        "IntraLevel0 Merge L0:7 L0:6 L0:5 L0:4 -> L0 run 7"
    );
}

#[test]
fn tiny_runs_are_merged_among_themselves_rather_than_with_a_huge_level() {
    let tiny = FOUR_RUNS.replace(']', "]:1");
    let tree = format!("{tiny}\n L6 run 0: 11[a..z]:300");
    assert_eq!(picked(&tree), "IntraLevel0 Merge L0:4 L0:3 L0:2 L0:1 -> L0 run 4");
}

#[test]
fn the_stretch_that_meets_least_goes_down() {
    let tree = "
        L5 run 0: 1[a..c]:700 2[d..f]:700 3[g..i]:700
        L6 run 0: 11[a..b]:1500 12[c..d]:1500 13[e..e]:100 14[f..g]:900 15[h..i]:1800";
    assert_eq!(picked(tree), "LevelBytes Merge L5:2 L6:12,13,14 -> L6 run 0");
    assert_eq!(picked_with(tree, busy(&[12])), "LevelBytes Merge L5:3 L6:14,15 -> L6 run 0");
    let output = |sim: &mut Sim| {
        sim.busy_outputs.push(BusyOutput {
            level: 6,
            smallest: Box::from(*b"dd"),
            largest: Box::from(*b"e"),
        });
    };
    assert_eq!(picked_with(tree, output), "LevelBytes Merge L5:3 L6:14,15 -> L6 run 0");
    let apart = tree.replace("12[c..d]", "12[c..cc]").replace("13[e..e]:100 14[f..g]", "14[g..g]");
    assert_eq!(picked(&apart), "LevelBytes Move L5:2 -> L6 run 0");
}

#[test]
fn a_level_that_fits_into_a_plan_is_emptied_at_once() {
    let tree = "
        L5 run 0: 1[a..c]:450 2[d..f]:450
        L6 run 0: 11[a..c]:900 13[d..f]:900";
    assert_eq!(picked(tree), "LevelBytes Merge L5:1,2 L6:11,13 -> L6 run 0");
}

#[test]
fn mostly_tombstones_go_down_when_they_free_enough() {
    let tree = "
        L5 run 0: 1[a..c]:100=50~50
        L6 run 0: 11[a..c]:3000=30 12[d..e]:5000";
    assert_eq!(picked(tree), "Tombstones Merge L5:1 L6:11 -> L6 run 0");
    assert_eq!(picked(&tree.replace("~50", "~20")), "nothing");
    assert_eq!(picked(&tree.replace("=30", "=3000")), "nothing", "frees little");
}

#[test]
fn garbage_at_the_bottom_is_rewritten_once_no_snapshot_needs_it() {
    let tree = "L6 run 0: 1[a..c]#5-9=50~10 2[d..e]";
    assert_eq!(picked(tree), "Garbage Merge L6:1 -> L6 run 0");
    let pinned = |sim: &mut Sim| sim.oldest_snapshot = SequenceNumber(8);
    assert_eq!(picked_with(tree, pinned), "nothing", "some tombstones would stay");
    assert_eq!(picked(&tree.replace("~10", "~1")), "nothing", "little to gain");
}

#[test]
fn stacked_runs_below_level_0_become_one() {
    let tree = "
        L6 run 5: 1[a..m]
        L6 run 3: 2[b..c] 3[d..e]";
    assert_eq!(picked(tree), "LevelBytes Merge L6:1 L6:2,3 -> L6 run 5");
}

/// What may happen to a tree.
#[derive(Clone, Debug)]
enum Step {
    Flush { low: u64, width: u64, live: u8, dead: u8 },
    Start,
    Finish(usize),
    Snapshot(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Flushes and any number of compactions at once: every plan obeys the rules
    /// ([`TreeView::check_plan`]), every tree keeps its invariants, and once the writes end,
    /// compaction ends, with nothing left to do.
    #[test]
    fn plans_are_valid_and_end(
        steps in steps(),
        l0_runs in 1..9usize,
        fanout in 2..12u64,
        memtable_bytes in 4_096..65_536u64,
    ) {
        let options =
            KeyspaceOptions { table_bytes: 4096, memtable_bytes, ..KeyspaceOptions::default() };
        live(steps, Sim::new(options, Leveled { l0_runs, base_bytes: 64 << 10, fanout }));
    }
}

fn live(steps: Vec<Step>, mut sim: Sim) {
    let mut running: Vec<(CompactionPlan, Vec<Arc<Table>>)> = Vec::new();
    for step in steps {
        match step {
            Step::Flush { low, width, live, dead } => {
                let all = 100.0 + f64::from(live) + f64::from(dead);
                let (live, dead) = (f64::from(live) / all, f64::from(dead) / all);
                sim.flush(Segment { low, high: low + width, live, dead });
            }
            Step::Snapshot(age) => {
                sim.oldest_snapshot = SequenceNumber(sim.sequence.saturating_sub(age));
            }
            Step::Start => {
                let Some(plan) = sim.pick() else { continue };
                let outputs = sim.run(&plan);
                sim.occupy(&plan);
                running.push((plan, outputs));
            }
            Step::Finish(at) if at < running.len() => {
                let (plan, outputs) = running.swap_remove(at);
                sim.install(&plan, outputs);
                sim.release(&running);
            }
            Step::Finish(_) => {}
        }
    }
    while let Some((plan, outputs)) = running.pop() {
        sim.install(&plan, outputs);
    }
    sim.release(&running);
    sim.oldest_snapshot = SequenceNumber(sim.sequence);
    sim.settle();
    assert_eq!(sim.leveled.debt_bytes(&sim.view()), 0);
    assert!(sim.version.levels[0].runs.len() < sim.leveled.l0_runs);
}
