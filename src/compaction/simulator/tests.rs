//! Simulations whose numbers are worked out by hand, and the measured costs held against the real
//! thing.

use super::*;
use crate::compaction::{
    CompactionAction, CompactionPlan, CompactionReason, CompactionStrategy, PlanInput, TreeView,
};
use crate::key::{SequenceNumber, Trailer, ValueKind, key_hash};
use crate::memtable::MemTable;
use crate::options::{Compaction, Leveled, TimeWindow};
use crate::version::{LEVEL_COUNT, RunId};

fn simulator(options: KeyspaceOptions, workload: &Workload) -> Simulator {
    Simulator::new(options, workload, Machine::default()).unwrap()
}

fn options(name: &str) -> KeyspaceOptions {
    KeyspaceOptions::default().compaction(Compaction::from_name(name))
}

/// Merges everything as soon as there are `runs` runs.
#[derive(Debug)]
struct MergeAll {
    runs: usize,
    /// It says so forever.
    is_restless: bool,
}

impl CompactionStrategy for MergeAll {
    fn name(&self) -> &'static str {
        "merge_all"
    }

    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan> {
        let is_idle = tree.busy.is_empty();
        if !is_idle || tree.version.run_count() < self.runs && !self.is_restless {
            return None;
        }
        let levels = tree.version.levels.iter().enumerate();
        let inputs: Vec<PlanInput> = levels
            .flat_map(|(level, of_level)| of_level.runs.iter().map(move |run| (level, run)))
            .map(|(level, run)| PlanInput {
                level,
                run: run.id,
                tables: run.tables.iter().map(|table| table.meta().number).collect(),
            })
            .collect();
        (!inputs.is_empty()).then_some(CompactionPlan {
            action: CompactionAction::Merge,
            reason: CompactionReason::RunCount,
            inputs,
            output_level: LEVEL_COUNT - 1,
            output_run: RunId(0),
        })
    }

    fn debt_bytes(&self, _: &TreeView<'_>) -> u64 {
        0
    }
}

fn merge_all(runs: usize, workload: &Workload) -> Simulator {
    let strategy = Arc::new(MergeAll { runs, is_restless: false });
    let machine = Machine::default();
    Simulator::with_strategy(KeyspaceOptions::default(), strategy, workload, machine).unwrap()
}

#[track_caller]
fn near(value: f64, expected: f64, share: f64) {
    assert!((value / expected - 1.0).abs() <= share, "{value}, not {expected}");
}

#[test]
fn sequential_writes_are_logged_and_flushed_and_never_compacted() {
    for name in ["leveled", "size_tiered", "lazy_leveled"] {
        let mut sim = simulator(options(name), &Workload::sequential(1_000_000));
        sim.write(10_000_000).unwrap();
        sim.settle().unwrap();
        let costs = sim.clockwork.tree.costs.clone();
        let report = sim.report();
        assert_eq!((report.compaction_bytes_written, report.merges), (0, 0), "{report}");
        assert!(report.moves > 0, "{report}");
        near(report.user_bytes as f64, 116e7, 1e-9);
        near(report.flush_bytes as f64, 1e7 * costs.tables[0].put, 1e-6);
        let expected = (costs.wal.put + costs.tables[0].put) / 116.0;
        near(report.write_amplification(), expected, 1e-6);
        near(report.live_bytes as f64, 116e7, 1e-6);
    }
}

#[test]
fn two_flushes_merged_are_the_sum_of_their_distinct_keys() {
    let keys = 1_000_000.0;
    let mut sim = merge_all(2, &Workload::uniform(1_000_000));
    let memtable = sim.clockwork.memtable_writes_max();
    sim.write(2 * memtable as u64).unwrap();
    sim.settle().unwrap();
    let report = sim.report();
    let distinct = |writes: f64| keys * (1.0 - (-writes / keys).exp());
    let tables = sim.clockwork.tree.costs.tables;
    assert_eq!((report.flushes, report.merges, report.runs), (2, 1, 1), "{report}");
    near(report.flush_bytes as f64, 2.0 * distinct(memtable) * tables[0].put, 1e-4);
    let merged = distinct(2.0 * memtable);
    near(report.compaction_bytes_written as f64, merged * tables[LEVEL_COUNT - 1].put, 1e-4);
    near(report.compaction_bytes_read as f64, report.flush_bytes as f64, 1e-6);
    near(report.live_bytes as f64, merged * 116.0, 1e-4);
    let written = report.compaction_bytes_written;
    assert_eq!(report.levels[LEVEL_COUNT - 1].bytes_written, written);
    assert_eq!(report.reasons.len(), 1);
    assert_eq!(report.reasons[0].reason, "run_count");
    assert_eq!(report.reasons[0].bytes_written, written);
    // While it merged, inputs and outputs were there.
    near(report.table_bytes_max as f64, (report.flush_bytes + written) as f64, 1e-6);
    let space = (report.flush_bytes + written) as f64 / report.live_bytes as f64;
    near(report.space_amplification_max, space, 1e-4);
}

#[test]
fn what_is_deleted_is_gone_once_it_is_merged_at_the_bottom() {
    let workload = Workload { delete_share: 1.0, ..Workload::uniform(1_000_000) };
    let mut sim = merge_all(2, &workload);
    sim.load().unwrap();
    assert_eq!(sim.report().runs, 1);
    sim.write(700_000).unwrap();
    sim.settle().unwrap();
    let report = sim.report();
    // Of the pours of the load some deleted too; what is left is one run without a tombstone.
    let tree = &sim.clockwork.tree;
    let tombstones: u64 = tree.version.tables().map(|(_, _, t)| t.meta().tombstone_count).sum();
    assert_eq!((report.runs, tombstones), (1, 0), "{report}");
    assert!(report.live_bytes < 500_000 * 116, "{report}");
}

#[test]
fn time_passes_as_writes_and_bandwidth_say() {
    let workload = Workload { ingest_bytes_per_s: 1_160_000, ..Workload::uniform(1_000_000) };
    let mut sim = simulator(options("leveled"), &workload);
    sim.run_for(100.0).unwrap();
    let report = sim.report();
    near(report.user_bytes as f64, 116e6, 1e-9);
    near(report.seconds, 100.0, 1e-12);
    assert_eq!(report.stalled_s, 0.0);
    assert_eq!(report.series.len(), SAMPLES as usize);
    near(report.series[0].ingest_bytes_per_s, 1_160_000.0, 1e-6);
}

#[test]
fn a_machine_that_is_too_slow_holds_writers_up() {
    let workload = Workload { ingest_bytes_per_s: 100_000_000, ..Workload::uniform(20_000_000) };
    let machine = Machine { bandwidth_bytes_per_s: 50_000_000, ..Machine::default() };
    let mut sim = Simulator::new(options("leveled"), &workload, machine).unwrap();
    sim.run_for(600.0).unwrap();
    let report = sim.report();
    assert!(report.stalled_share() > 0.5, "{report}");
    // All bandwidth is used: flushes and compactions cannot do more than it allows.
    let moved = report.flush_bytes + report.compaction_bytes_written;
    assert!(moved <= 600 * 50_000_000, "{report}");
    assert!(report.ingest_bytes_per_s() < 50e6, "{report}");
}

#[test]
fn skewed_updates_are_compacted_less_than_even_ones() {
    let amplification = |workload: &Workload| {
        let mut sim = simulator(options("leveled"), workload);
        sim.load().unwrap();
        sim.run_for(600.0).unwrap();
        sim.report().write_amplification()
    };
    let (even, skewed) = (Workload::uniform(50_000_000), Workload::zipf(50_000_000, 0.99));
    let (even, skewed) = (amplification(&even), amplification(&skewed));
    assert!(skewed < even * 0.9, "{skewed} against {even}");
}

#[test]
fn what_expires_gives_its_space_back() {
    let workload =
        Workload { ingest_bytes_per_s: 1_160_000, ..Workload::time_series(1 << 40, 3600) };
    let windows = TimeWindow { window_s: 180, ..TimeWindow::default() };
    let mut sim = simulator(KeyspaceOptions::default().compaction(windows), &workload);
    sim.load().unwrap();
    sim.run_for(7200.0).unwrap();
    let report = sim.report();
    near(report.live_bytes as f64, 3600.0 * 1_160_000.0, 0.1);
    assert!(report.drops > 20, "{report}");
    assert!(report.space_amplification_max < 1.4, "{report}");
}

#[test]
fn the_same_description_gives_the_same_report() {
    let report = || {
        let workload = Workload { delete_share: 0.1, ..Workload::zipf(30_000_000, 0.9) };
        let mut sim = simulator(options("size_tiered"), &workload);
        sim.load().unwrap();
        sim.run_for(300.0).unwrap();
        format!("{:?}", sim.report())
    };
    assert_eq!(report(), report());
}

#[test]
fn a_petabyte_is_a_bounded_number_of_tables() {
    let workload = Workload {
        ingest_bytes_per_s: 100_000_000,
        ..Workload::uniform(1_000_000_000_000_000 / 116)
    };
    for name in ["leveled", "size_tiered", "lazy_leveled"] {
        let mut sim = simulator(options(name), &workload);
        sim.load().unwrap();
        sim.run_for(60.0).unwrap();
        let tables = sim.clockwork.tree.version.table_count();
        let report = sim.report();
        assert!(tables < 4000, "{tables} tables: {report}");
        near(report.live_bytes as f64, 1e15, 0.01);
        assert!(report.space_amplification < 3.5, "{report}");
    }
}

#[test]
fn a_loaded_tree_has_the_shape_that_the_strategy_leaves() {
    let mut sim = simulator(options("leveled"), &Workload::uniform(500_000_000));
    sim.load().unwrap();
    let report = sim.report();
    assert!(report.levels[5].bytes > 1 << 30, "levels above the last are filled: {report}");
    near(report.space_amplification, 1.05, 0.15);
    assert_eq!((report.user_bytes, report.write_amplification()), (0, 0.0), "it is not counted");
    assert_eq!(sim.clockwork.tree.pick(&Leveled::default()).unwrap(), None, "it is at rest");
}

#[test]
fn broken_strategies_are_errors() {
    let strategy = Arc::new(MergeAll { runs: 1, is_restless: true });
    let workload = Workload::uniform(1000);
    let options = KeyspaceOptions { memtable_bytes: 1 << 16, ..KeyspaceOptions::default() };
    let named = options.clone().compaction(Compaction::Named("mine".to_owned()));
    let error = Simulator::new(named, &workload, Machine::default()).unwrap_err();
    assert!(error.to_string().contains("mine"), "{error}");
    let mut sim =
        Simulator::with_strategy(options, strategy, &workload, Machine::default()).unwrap();
    sim.write(10_000).unwrap();
    let error = sim.settle().unwrap_err();
    assert!(error.to_string().contains("never falls silent"), "{error}");
}

/// The memtable that the simulator predicts, filled for real.
#[test]
fn a_memtable_takes_as_many_entries_as_predicted() {
    let options = KeyspaceOptions { memtable_bytes: 8 << 20, ..KeyspaceOptions::default() };
    let sim = simulator(options, &Workload::uniform(1_000_000));
    let memtable = MemTable::new(8 << 20, None);
    let mut state = 7u64;
    while memtable.bytes() < 8 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = format!("{:016}", (state >> 33) % 1_000_000);
        let trailer = Trailer::new(SequenceNumber(memtable.entry_count() + 1), ValueKind::Put);
        memtable.insert(key.as_bytes(), trailer, &[7; 100], key_hash(key.as_bytes()));
    }
    near(sim.clockwork.memtable_writes_max(), memtable.entry_count() as f64, 0.02);
}

#[test]
fn compression_and_filters_change_what_an_entry_costs() {
    let plain = Costs::measure(&KeyspaceOptions::default(), 16, 100, false).unwrap();
    let mut packed = KeyspaceOptions::default();
    packed.set("compression", "none,zstd").unwrap();
    packed.set("filter_bits", "10,0").unwrap();
    let packed = Costs::measure(&packed, 16, 100, false).unwrap();
    assert_eq!(plain.tables[0], packed.tables[0]);
    assert!(packed.tables[1].put < plain.tables[1].put * 0.8, "{packed:?}");
    let expiring = Costs::measure(&KeyspaceOptions::default(), 16, 100, true).unwrap();
    near(expiring.tables[0].put - plain.tables[0].put, 8.0, 0.1);
    for (key_bytes, value_bytes) in [(1, 0), (2, 1), (9, 1 << 20), (60_000, 0)] {
        let costs =
            Costs::measure(&KeyspaceOptions::default(), key_bytes, value_bytes, false).unwrap();
        assert!(costs.tables[0].put >= value_bytes as f64, "{costs:?}");
    }
}
