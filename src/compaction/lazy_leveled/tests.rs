//! Lazy-leveled compaction over metadata alone: plans on drawn trees, and trees that grow.

use proptest::prelude::*;

use super::*;
use crate::compaction::tests::{ENTRY_BYTES, Sim, busy, memtable, shape, steps, survey};
use crate::key::SequenceNumber;
use crate::options::{KeyspaceOptions, Leveled, SizeTiered};

const STRATEGY: LazyLeveled = LazyLeveled { runs_per_level: 3, last_level_fanout: 4 };

fn picked_with(text: &str, change: impl FnOnce(&mut Sim)) -> String {
    let mut sim = Sim::drawn(STRATEGY, text);
    change(&mut sim);
    sim.picked()
}

fn picked(text: &str) -> String {
    picked_with(text, |_| ())
}

const FULL: &str = "
    L0 run 9: 9[a..z]
    L0 run 8: 8[a..z]
    L0 run 7: 7[a..z]
    L1 run 6: 6[a..z]:300
    L2 run 3: 3[a..z]:900
    L2 run 2: 2[a..z]:900
    L6 run 0: 0[a..m]:5000 1[n..z]:5000";

#[test]
fn a_full_level_becomes_one_run_of_the_next() {
    assert_eq!(picked(FULL), "Level0Runs Merge L0:9 L0:8 L0:7 -> L1 run 9");
    assert_eq!(picked(&FULL.replace("L0 run 7: 7[a..z]", "")), "nothing", "two are too few");
}

#[test]
fn a_level_that_would_be_filled_is_taken_along() {
    let tree = FULL
        .replace("5000", "9000")
        .replace("L1 run 6: 6[a..z]:300", "L1 run 6: 6[a..z]:300\nL1 run 5: 5[a..z]:300");
    assert_eq!(picked(&tree), "Level0Runs Merge L0:9 L0:8 L0:7 L1:6 L1:5 L2:3 L2:2 -> L3 run 9");
    assert_eq!(
        picked_with(&tree, busy(&[2])),
        "Level0Runs Merge L0:9 L0:8 L0:7 L1:6 L1:5 -> L2 run 9"
    );
    assert_eq!(picked_with(&tree, busy(&[5])), "Level0Runs Merge L0:9 L0:8 L0:7 -> L1 run 9");
}

#[test]
fn everything_goes_to_the_last_level_when_it_is_a_good_part_of_it() {
    let tree = FULL.replace("5000", "4800");
    assert_eq!(picked(&tree), "Level0Runs Merge L0:9 L0:8 L0:7 L1:6 L2:3 L2:2 L6:0,1 -> L6 run 0");
    let small = "
        L0 run 9: 9[a..z]
        L0 run 8: 8[a..z]
        L0 run 7: 7[a..z]";
    assert_eq!(picked(small), "Level0Runs Merge L0:9 L0:8 L0:7 -> L6 run 9");
}

#[test]
fn newer_runs_wait_for_the_oldest_within_level_0() {
    let tree = "
        L0 run 9: 9[a..z]
        L0 run 8: 8[a..z]
        L0 run 7: 7[a..z]
        L0 run 6: 6[a..z]
        L6 run 0: 0[a..z]:9999";
    assert_eq!(picked_with(tree, busy(&[6])), "IntraLevel0 Merge L0:9 L0:8 L0:7 -> L0 run 9");
    assert_eq!(picked_with(tree, busy(&[6, 9])), "nothing");
    assert_eq!(picked_with(tree, busy(&[9])), "Level0Runs Merge L0:8 L0:7 L0:6 -> L1 run 8");
}

#[test]
fn a_level_above_the_last_that_fills_up_becomes_one_run() {
    let tree = "
        L5 run 4: 4[a..z]
        L5 run 3: 3[a..z]
        L5 run 2: 2[a..z]
        L6 run 0: 0[a..z]:9999";
    assert_eq!(picked(tree), "LevelBytes Merge L5:4 L5:3 L5:2 -> L5 run 5");
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
fn stacked_runs_in_the_last_level_become_one() {
    assert_eq!(
        picked("L6 run 5: 1[a..m]~1\n L6 run 3: 2[b..c] 3[d..e]"),
        "LevelBytes Merge L6:1 L6:2,3 -> L6 run 5"
    );
}

/// The load by which the issue judges: 10 M puts over 5 M keys, 8 MiB memtables.
#[test]
fn between_size_tiered_and_leveled() {
    let load = |mut sim: Sim| {
        sim.fill(220, 5_300_000, 5_000_000);
        sim
    };
    let leveled = load(Sim::new(memtable(8 << 20), Leveled::default()));
    let tiered = load(Sim::new(memtable(8 << 20), SizeTiered::default()));
    let lazy = load(Sim::new(memtable(8 << 20), LazyLeveled::default()));
    let written = [&tiered, &lazy, &leveled].map(|sim| sim.merged_bytes);
    assert!(written.is_sorted(), "{written:?}");
    let (space, of_leveled) = (lazy.version.bytes(), leveled.version.bytes());
    assert!(space * 10 <= of_leveled * 13, "{space} against {of_leveled}");
}

#[test]
fn space_stays_within_its_bound() {
    let lazy = LazyLeveled::default();
    let mut sim = Sim::new(memtable(64 << 20), lazy);
    sim.fill(480, 42_000_000, 50_000_000);
    let live = 50_000_000 * ENTRY_BYTES;
    let flushed = 42_000_000 * lazy.runs_per_level as u64;
    let bound = live + live / lazy.last_level_fanout + flushed;
    assert!(sim.version.bytes() <= bound, "{}", shape(&sim.version));
}

/// `cargo test --lib lazy_leveled::tests::numbers -- --ignored --nocapture` prints the numbers of
/// `docs/compaction.md`.
#[test]
#[ignore = "prints a table"]
#[expect(clippy::print_stdout, reason = "it is run by hand, for what it prints")]
fn numbers() {
    let default = LazyLeveled::default();
    let variants = [
        default,
        LazyLeveled { runs_per_level: 4, ..default },
        LazyLeveled { runs_per_level: 16, ..default },
        LazyLeveled { last_level_fanout: 2, ..default },
        LazyLeveled { last_level_fanout: 3, ..default },
        LazyLeveled { last_level_fanout: 6, ..default },
        LazyLeveled { last_level_fanout: 10, ..default },
    ];
    let text = |lazy: &LazyLeveled| {
        let LazyLeveled { runs_per_level, last_level_fanout } = lazy;
        format!("`runs_per_level` {runs_per_level}, `last_level_fanout` {last_level_fanout}")
    };
    println!("{}", survey(&variants.map(|lazy| (text(&lazy), lazy))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Flushes and any number of compactions at once: every plan obeys the rules, every tree keeps
    /// its invariants, and once the writes end compaction ends, with every level in shape.
    #[test]
    fn plans_are_valid_and_end(
        steps in steps(),
        runs_per_level in 2..6usize,
        last_level_fanout in 2..12u64,
    ) {
        let options = KeyspaceOptions { table_bytes: 4096, ..KeyspaceOptions::default() };
        let sim = Sim::lived(options, LazyLeveled { runs_per_level, last_level_fanout }, steps);
        for level in &sim.version.levels[..LAST] {
            prop_assert!(level.runs.len() < runs_per_level, "{}", shape(&sim.version));
        }
        prop_assert!(sim.version.levels[LAST].runs.len() <= 1);
    }
}
