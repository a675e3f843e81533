//! Size-tiered compaction over metadata alone: plans on drawn trees, and trees that grow.

use proptest::prelude::*;

use super::*;
use crate::compaction::tests::{ENTRY_BYTES, Sim, busy, memtable, shape, steps, survey};
use crate::key::SequenceNumber;
use crate::options::{Compression, KeyspaceOptions, Leveled};

const STRATEGY: SizeTiered =
    SizeTiered { merge_width: 3, size_slack_percent: 20, runs_max: 6, space_percent_max: 200 };

fn picked_with(text: &str, change: impl FnOnce(&mut Sim)) -> String {
    let mut sim = Sim::drawn(STRATEGY, text);
    change(&mut sim);
    sim.picked()
}

fn picked(text: &str) -> String {
    picked_with(text, |_| ())
}

const SIMILAR: &str = "
    L0 run 9: 9[a..z]:100
    L0 run 8: 8[a..z]:110
    L0 run 7: 7[a..k]:50 6[l..z]:70
    L0 run 5: 5[a..z]:410
    L0 run 4: 4[a..z]:300
    L6 run 1: 1[a..m]:900 2[n..z]:900";

#[test]
fn similar_runs_become_one_in_the_place_of_the_newest() {
    assert_eq!(picked(SIMILAR), "SimilarRuns Merge L0:9 L0:8 L0:7,6 -> L0 run 9");
    let two = SIMILAR.replace("L0 run 9: 9[a..z]:100", "");
    assert_eq!(picked(&two), "nothing", "two are too few");
    assert_eq!(picked(&SIMILAR.replace("70", "90")), "nothing", "140 are too many over 105");
    assert_eq!(picked_with(SIMILAR, busy(&[6])), "nothing", "a run is busy as a whole");
}

#[test]
fn a_group_that_the_result_would_complete_is_taken_along() {
    let tree = SIMILAR.replace("410", "390");
    assert_eq!(picked(&tree), "SimilarRuns Merge L0:9 L0:8 L0:7,6 L0:5 L0:4 -> L0 run 9");
    let busy_below = picked_with(&tree, busy(&[4]));
    assert_eq!(busy_below, "SimilarRuns Merge L0:9 L0:8 L0:7,6 -> L0 run 9");
    let chain = tree.replace("900", "450").replace("L6 run 1", "L6 run 0: 0[A..Z]:1000\n L5 run 1");
    assert_eq!(
        picked(&chain),
        "SimilarRuns Merge L0:9 L0:8 L0:7,6 L0:5 L0:4 L5:1,2 L6:0 -> L6 run 0"
    );
}

#[test]
fn everything_is_merged_when_the_newer_runs_outweigh_the_oldest() {
    let tree = "
        L0 run 9: 9[a..z]:500
        L0 run 8: 8[a..z]:1500
        L0 run 1: 1[a..z]:1000";
    assert_eq!(picked(tree), "SpaceAmplification Merge L0:9 L0:8 L0:1 -> L6 run 9");
    assert_eq!(picked(&tree.replace("500", "499")), "nothing");
    assert_eq!(picked_with(tree, busy(&[9])), "nothing", "1500 are not enough");
    let heavy = tree.replace("1500", "2000");
    assert_eq!(picked_with(&heavy, busy(&[9])), "SpaceAmplification Merge L0:8 L0:1 -> L6 run 8");
    assert_eq!(picked_with(&heavy, busy(&[1])), "nothing");
}

#[test]
fn too_many_runs_are_merged_where_it_is_cheapest() {
    let tree = "
        L0 run 16: 16[a..z]:8
        L0 run 15: 15[a..z]:20
        L0 run 14: 14[a..z]:50
        L0 run 13: 13[a..z]:130
        L0 run 12: 12[a..z]:400
        L0 run 11: 11[a..z]:1200
        L6 run 1: 1[a..z]:4000";
    assert_eq!(picked(tree), "RunCount Merge L0:16 L0:15 L0:14 -> L0 run 16");
    assert_eq!(picked_with(tree, busy(&[15])), "RunCount Merge L0:14 L0:13 L0:12 -> L0 run 14");
    let six = tree.replace("L0 run 16: 16[a..z]:8", "");
    assert_eq!(picked(&six), "nothing");
}

#[test]
fn runs_that_meet_nothing_are_moved() {
    let tree = "
        L0 run 9: 9[a..b]
        L0 run 8: 8[e..f]
        L0 run 7: 7[c..d]
        L6 run 1: 1[a..z]:1000";
    assert_eq!(picked(tree), "SimilarRuns Move L0:9 L0:8 L0:7 -> L0 run 9");
    let deleted = tree.replace("8[e..f]", "8[e..f]~1");
    assert_eq!(picked(&deleted), "SimilarRuns Merge L0:9 L0:8 L0:7 -> L0 run 9");
    let alone = tree.replace("L6 run 1: 1[a..z]:1000", "");
    assert_eq!(picked(&alone), "SpaceAmplification Move L0:9 L0:8 L0:7 -> L6 run 9");
    let compressed = |sim: &mut Sim| {
        sim.options.compression = vec![Compression::None, Compression::Zstd];
    };
    assert_eq!(
        picked_with(&alone, compressed),
        "SpaceAmplification Merge L0:9 L0:8 L0:7 -> L6 run 9"
    );
}

#[test]
fn levels_of_another_strategy_are_runs_by_age() {
    let tree = "
        L0 run 9: 9[a..z]
        L4 run 0: 4[c..z]
        L5 run 0: 5[a..c]:120
        L6 run 0: 6[a..z]:1000";
    assert_eq!(picked(tree), "SimilarRuns Merge L0:9 L4:4 L5:5 -> L0 run 9");
}

#[test]
fn garbage_at_the_bottom_is_rewritten_once_no_snapshot_needs_it() {
    let tree = "
        L0 run 8: 8[a..z]~10
        L6 run 1: 1[a..c]#5-9=50~10 2[d..e]:300";
    assert_eq!(picked(tree), "Garbage Merge L6:1 -> L6 run 1", "not where something lies below");
    let pinned = |sim: &mut Sim| sim.oldest_snapshot = SequenceNumber(8);
    assert_eq!(picked_with(tree, pinned), "nothing");
}

#[test]
fn shadowed_entries_are_rewritten_away_at_any_level_once_no_snapshot_needs_them() {
    let tree = "
        L0 run 9: 9[a..z]#5-9=40%10
        L6 run 0: 1[a..z]#1-2=40%20:1000";
    assert_eq!(picked(tree), "Garbage Merge L6:1 -> L6 run 0", "the oldest first");
    let above = tree.replace("%20", "%9");
    assert_eq!(picked(&above), "Garbage Merge L0:9 -> L0 run 9", "over others too");
    let pinned = |sim: &mut Sim| sim.oldest_snapshot = SequenceNumber(8);
    assert_eq!(picked_with(&above, pinned), "nothing", "some would stay");
    assert_eq!(picked_with(&above, busy(&[9])), "nothing");
    assert_eq!(picked(&above.replace("%10", "%9")), "nothing", "little to gain");
}

#[test]
fn debt_is_what_arrived_since_work_became_due() {
    let debt = |text: &str| Sim::drawn(STRATEGY, text).debt_bytes();
    assert_eq!(debt(""), 0);
    assert_eq!(debt("L0 run 9: 9[a..z]:2500\n L6 run 1: 1[a..z]:1000"), 500);
    let eight: Vec<String> = (1..9).rev().map(|n| format!("L0 run {n}: {n}[a..z]:{n}")).collect();
    let tree = format!("{}\n L6 run 0: 99[a..z]:1000", eight.join("\n"));
    assert_eq!(debt(&tree), 8 + 7 + 6);
}

/// The load by which the issue judges: 10 M puts over 5 M keys, 8 MiB memtables.
#[test]
fn less_than_half_of_what_leveled_rewrites() {
    let mut leveled = Sim::new(memtable(8 << 20), Leveled::default());
    leveled.fill(220, 5_300_000, 5_000_000);
    let mut tiered = Sim::new(memtable(8 << 20), SizeTiered::default());
    tiered.fill(220, 5_300_000, 5_000_000);
    assert!(
        tiered.merged_bytes * 2 < leveled.merged_bytes,
        "{} against {}",
        tiered.merged_bytes,
        leveled.merged_bytes
    );
    assert!(tiered.runs_max <= 33, "{} runs", tiered.runs_max);
}

/// `cargo test --lib size_tiered::tests::numbers -- --ignored --nocapture` prints the numbers of
/// `docs/compaction.md`.
#[test]
#[ignore = "prints a table"]
#[expect(clippy::print_stdout, reason = "it is run by hand, for what it prints")]
fn numbers() {
    let default = SizeTiered::default();
    let variants = [
        default,
        SizeTiered { merge_width: 4, ..default },
        SizeTiered { merge_width: 16, ..default },
        SizeTiered { space_percent_max: 100, ..default },
        SizeTiered { space_percent_max: 400, ..default },
    ];
    let text = |tiered: &SizeTiered| {
        let SizeTiered { merge_width, space_percent_max, .. } = tiered;
        format!("`merge_width` {merge_width}, `space_percent_max` {space_percent_max}")
    };
    println!("{}", survey(&variants.map(|tiered| (text(&tiered), tiered))));
}

#[test]
fn space_stays_within_its_bound() {
    let mut sim = Sim::new(memtable(64 << 20), SizeTiered::default());
    sim.fill(480, 42_000_000, 5_000_000);
    let live = 5_000_000 * ENTRY_BYTES;
    assert!(sim.version.bytes() <= 3 * live, "{}", shape(&sim.version));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Flushes and any number of compactions at once: every plan obeys the rules, every tree keeps
    /// its invariants, and once the writes end compaction ends, within its bounds.
    #[test]
    fn plans_are_valid_and_end(
        steps in steps(),
        merge_width in 2..6usize,
        more_runs in 0..8usize,
        size_slack_percent in 0..150u64,
        space_percent_max in 10..400u64,
    ) {
        let options = KeyspaceOptions { table_bytes: 4096, ..KeyspaceOptions::default() };
        let runs_max = merge_width + more_runs;
        let strategy = SizeTiered { merge_width, size_slack_percent, runs_max, space_percent_max };
        let runs = Sim::lived(options, strategy, steps).version.run_count();
        prop_assert!(runs <= runs_max, "{runs} runs");
    }
}
