//! Leveled compaction over metadata alone: plans on drawn trees, and trees that grow.

use proptest::prelude::*;

use super::*;
use crate::compaction::BusyOutput;
use crate::compaction::tests::{ENTRY_BYTES, Segment, Sim, Step, busy, memtable, shape, steps};
use crate::key::SequenceNumber;
use crate::options::KeyspaceOptions;

/// `count` flushes of `run_bytes` random puts over `keys` keys; compaction after each.
fn fill(options: KeyspaceOptions, leveled: Leveled, count: u64, run_bytes: u64, keys: u64) -> Sim {
    let mut sim = Sim::new(options, leveled);
    sim.fill(count, run_bytes, keys);
    sim
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
fn deleting_everything_gives_the_space_back() {
    let mut sim = fill(memtable(64 << 20), Leveled::default(), 20, 42_000_000, 2_000_000);
    for at in 0..4 {
        let (low, high) = (at * 500_000, (at + 1) * 500_000);
        sim.flush(Segment { low, high, live: 0.0, dead: 1.0 });
        sim.settle();
    }
    assert_eq!(sim.version.table_count(), 0, "{}", shape(&sim.version));
}

/// The plan for the tree drawn.
fn picked_with(text: &str, change: impl FnOnce(&mut Sim)) -> String {
    let leveled = Leveled { l0_runs: 4, base_bytes: 64 << 10, fanout: 10 };
    let mut sim = Sim::drawn(leveled, text);
    change(&mut sim);
    sim.picked()
}

fn picked(text: &str) -> String {
    picked_with(text, |_| ())
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
            run: RunId(0),
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
fn shadowed_entries_are_rewritten_away_at_any_level_once_no_snapshot_needs_them() {
    let tree = "
        L0 run 9: 9[a..z]#5-9=40%10
        L6 run 0: 1[a..c]#1-2=40%20 2[d..e]#3-4=40%9";
    assert_eq!(picked(tree), "Garbage Merge L6:1 -> L6 run 0", "the oldest first");
    let above = tree.replace("%20", "%9");
    assert_eq!(picked(&above), "Garbage Merge L0:9 -> L0 run 9", "over others too");
    let pinned = |sim: &mut Sim| sim.oldest_snapshot = SequenceNumber(8);
    assert_eq!(picked_with(&above, pinned), "nothing", "some would stay");
    assert_eq!(picked_with(&above, busy(&[9])), "nothing");
    assert_eq!(picked(&above.replace("%10", "%9")), "nothing", "little to gain");
}

#[test]
fn stacked_runs_below_level_0_become_one() {
    let tree = "
        L6 run 5: 1[a..m]
        L6 run 3: 2[b..c] 3[d..e]";
    assert_eq!(picked(tree), "LevelBytes Merge L6:1 L6:2,3 -> L6 run 5");
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
        live(steps, Leveled { l0_runs, base_bytes: 64 << 10, fanout }, options);
    }
}

fn live(steps: Vec<Step>, leveled: Leveled, options: KeyspaceOptions) {
    let sim = Sim::lived(options, leveled, steps);
    assert!(sim.version.levels[0].runs.len() < leveled.l0_runs);
}
