//! Time-window compaction over metadata alone: plans on drawn trees, and trees that grow and expire.

use proptest::prelude::*;

use super::*;
use crate::compaction::tests::{ENTRY_BYTES, Segment, Sim, Step, busy, memtable, shape, steps};
use crate::compaction::{CompactionAction, CompactionPlan};
use crate::key::SequenceNumber;
use crate::options::{Compression, KeyspaceOptions, Leveled, SizeTiered};

/// Windows of ten seconds; it is 95 seconds past, in window 9.
const STRATEGY: TimeWindow = TimeWindow { window_s: 10, merge_width: 3 };

fn drawn(text: &str) -> Sim {
    let mut sim = Sim::drawn(STRATEGY, text);
    sim.now_ms = 94_900;
    sim
}

fn picked_with(text: &str, change: impl FnOnce(&mut Sim)) -> String {
    let mut sim = drawn(text);
    change(&mut sim);
    sim.picked()
}

fn picked(text: &str) -> String {
    picked_with(text, |_| ())
}

const SIMILAR: &str = "
    L0 run 19: 19[a..z]:100@93000-94000
    L0 run 18: 18[a..z]:200@91000-92000
    L0 run 17: 17[a..z]:90@90000-90999
    L0 run 16: 16[a..z]:1000@89000-90000
    L6 run 5: 5[a..z]:100@70000-79999";

#[test]
fn similar_runs_of_the_current_window_become_one() {
    assert_eq!(picked(SIMILAR), "SimilarRuns Merge L0:19 L0:18 L0:17 -> L0 run 19");
    assert_eq!(picked_with(SIMILAR, busy(&[17])), "nothing");
    assert_eq!(picked(&SIMILAR.replace(":200", ":201")), "nothing", "more than twice as large");
    let four = SIMILAR.replace("1000", "400");
    assert_eq!(picked(&four), "SimilarRuns Merge L0:19 L0:18 L0:17 L0:16 -> L0 run 19");
    let later = |sim: &mut Sim| sim.now_ms = 80_000;
    assert_eq!(
        picked_with(&four, later),
        "SimilarRuns Merge L0:19 L0:18 L0:17 L0:16 -> L0 run 19",
        "under a clock that was set back, all is current"
    );
}

#[test]
fn late_in_a_window_twice_as_many_are_waited_for() {
    let tree = |count: u64| {
        let run = |id: u64| format!("L0 run {id}: {id}[a..z]:100@90000-90999\n");
        (10..10 + count).rev().map(run).collect::<String>()
    };
    let late = |sim: &mut Sim| sim.now_ms = 95_000;
    assert_eq!(picked(&tree(3)), "SimilarRuns Merge L0:12 L0:11 L0:10 -> L0 run 12");
    assert_eq!(picked_with(&tree(3), late), "nothing");
    assert_eq!(picked_with(&tree(5), late), "nothing");
    let six = "SimilarRuns Merge L0:15 L0:14 L0:13 L0:12 L0:11 L0:10 -> L0 run 15";
    assert_eq!(picked_with(&tree(6), late), six);
}

#[test]
fn a_group_that_the_result_would_complete_is_taken_along() {
    let tree = SIMILAR.replace(":1000", ":780").replace(
        "L6 run 5",
        "L0 run 15: 15[a..z]:1560@89000-90000
         L6 run 5",
    );
    assert_eq!(picked(&tree), "SimilarRuns Merge L0:19 L0:18 L0:17 L0:16 L0:15 -> L0 run 19");
    let larger = tree.replace("780", "781");
    assert_eq!(picked(&larger), "SimilarRuns Merge L0:19 L0:18 L0:17 -> L0 run 19");
}

#[test]
fn a_window_that_is_over_becomes_one_run_of_the_last_level_whatever_its_sizes() {
    let tree = "
        L0 run 19: 19[a..z]:100@89500-90000
        L0 run 18: 18[a..z]:1@84000-89999
        L0 run 17: 17[a..z]:9000@79000-83000
        L6 run 5: 5[a..z]:9000@70000-79999";
    assert_eq!(picked(tree), "PastWindow Merge L0:18 L0:17 -> L6 run 18");
    assert_eq!(picked_with(tree, busy(&[18])), "nothing");
    assert_eq!(picked_with(tree, |sim| sim.now_ms = 89_999), "nothing", "it is not over");
    let sealed =
        tree.replace("L0 run 18", "L6 run 18").replace("L0 run 17: 17[a..z]:9000@79000-83000", "");
    assert_eq!(picked(&sealed), "nothing");
    let due = |text: &str| drawn(text).due_at_ms();
    assert_eq!(due(&sealed), Some(100_000), "run 19 is in window 9");
    assert_eq!(due(tree), None, "what is due already is not due later");
    assert_eq!(due("L6 run 5: 5[a..z]@70000-95000"), None, "what is sealed stays");
    assert_eq!(due("L0 run 5: 5[a..z]@70000-225000"), Some(230_000), "a clock that was set back");
}

#[test]
fn the_oldest_window_comes_first_and_the_others_wait_for_it() {
    let tree = "
        L0 run 19: 19[a..z]@80000-80001
        L0 run 18: 18[a..z]@70000-70001
        L0 run 17: 17[a..z]@60000-60001
        L0 run 16: 16[a..z]@60000-60001";
    assert_eq!(picked(tree), "PastWindow Merge L0:17 L0:16 -> L6 run 17");
    assert_eq!(picked_with(tree, busy(&[16, 17])), "nothing");
    let two = tree.replace("L0 run 17: 17[a..z]@60000-60001", "");
    assert_eq!(picked(&two), "PastWindow Move L0:16 -> L6 run 16", "one run is moved");
}

#[test]
fn one_run_is_moved_if_the_last_level_takes_it() {
    let tree = "L0 run 19: 19[a..z]~10@80000-80001\n L6 run 30: 5[a..z]@0-1";
    assert_eq!(picked(tree), "PastWindow Move L0:19 -> L6 run 31");
    let compressed = |sim: &mut Sim| {
        sim.options.compression = vec![Compression::None, Compression::Zstd];
    };
    assert_eq!(picked_with(tree, compressed), "PastWindow Merge L0:19 -> L6 run 31");
    let disjoint = "
        L0 run 19: 19[n..z]@80000-80001
        L0 run 18: 18[a..m]@80000-80001";
    assert_eq!(picked(disjoint), "PastWindow Move L0:19 L0:18 -> L6 run 19", "so are these");
}

#[test]
fn late_data_is_merged_into_its_window_if_it_is_a_good_share_of_it() {
    let tree = "
        L0 run 19: 19[a..z]:100@80000-85000
        L0 run 18: 18[a..z]:100@80000-84000
        L6 run 9: 9[a..z]:100@80000-89000
        L6 run 8: 8[a..z]:1200@80000-89000
        L6 run 7: 7[a..z]:10@70000-79000";
    assert_eq!(picked(tree), "PastWindow Merge L0:19 L0:18 L6:9 L6:8 -> L6 run 19");
    let large = tree.replace("1200", "1201");
    assert_eq!(picked(&large), "PastWindow Merge L0:19 L0:18 L6:9 -> L6 run 19");
    assert_eq!(picked_with(&large, busy(&[9])), "PastWindow Merge L0:19 L0:18 -> L6 run 19");
    let small = large.replace(":100@80000-89000", ":801@80000-89000");
    assert_eq!(picked(&small), "PastWindow Merge L0:19 L0:18 -> L6 run 19");
    let other = tree.replace("L6 run 9: 9[a..z]:100@80000-89000", "").replace("8000", "7000");
    assert_eq!(
        picked(&other),
        "PastWindow Merge L0:19 L0:18 -> L6 run 19",
        "run 8 is of the window of run 9, whatever it was written"
    );
}

#[test]
fn sealed_runs_of_one_window_are_merged_when_they_are_large_enough_for_each_other() {
    let tree = "
        L6 run 9: 9[a..z]:100@80000-89000
        L6 run 8: 8[a..z]:400@80000-89000
        L6 run 7: 7[a..z]:2000@80000-89000
        L6 run 6: 6[a..z]:1@70000-79000";
    assert_eq!(picked(tree), "PastWindow Merge L6:9 L6:8 L6:7 -> L6 run 9");
    let grown = tree.replace("2000", "2001");
    assert_eq!(picked(&grown), "PastWindow Merge L6:9 L6:8 -> L6 run 9");
    assert_eq!(picked_with(&grown, busy(&[9])), "nothing");
    let fourfold = grown.replace("400", "401");
    assert_eq!(picked(&fourfold), "nothing");
    let two = fourfold.replace(":100@", ":102@");
    assert_eq!(picked(&two), "PastWindow Merge L6:9 L6:8 L6:7 -> L6 run 9");
    let older = fourfold.replace("2001", "1600");
    assert_eq!(picked(&older), "PastWindow Merge L6:8 L6:7 -> L6 run 8");
    assert_eq!(picked_with(&older, |sim| sim.now_ms = 89_999), "nothing", "it may yet grow");
}

#[test]
fn a_run_is_in_no_older_window_than_what_lies_below_it() {
    let tree = "
        L0 run 19: 19[a..z]@20000-25000
        L0 run 18: 18[a..z]@80000-85000
        L6 run 5: 5[a..z]:10@20000-25000";
    assert_eq!(picked(tree), "PastWindow Merge L0:19 L0:18 -> L6 run 19");
}

#[test]
fn levels_of_another_strategy_are_of_the_window_of_their_newest_entry() {
    let tree = "
        L0 run 19: 19[a..z]:300@92000-94000
        L3 run 0: 3[a..m]:400@80000-90000
        L4 run 0: 4[a..k]:200@10000-80000 5[l..z]:200@10000-30000
        L5 run 0: 6[a..z]:800@10000-80000
        L6 run 0: 7[a..z]:9000@0-80000";
    assert_eq!(picked(tree), "PastWindow Merge L4:4,5 L5:6 -> L6 run 1");
    let current = tree.replace("-80000", "-90000");
    assert_eq!(picked(&current), "SimilarRuns Merge L0:19 L3:3 L4:4,5 L5:6 -> L0 run 19");
}

#[test]
fn garbage_at_the_bottom_is_rewritten_once_no_snapshot_needs_it() {
    let tree = "
        L6 run 8: 8[a..c]~10@80000-89000
        L6 run 1: 1[a..c]#5-9=50~10@70000-79000 2[d..e]:300@70000-79000";
    assert_eq!(picked(tree), "Garbage Merge L6:1 -> L6 run 1", "not where something lies below");
    let pinned = |sim: &mut Sim| sim.oldest_snapshot = SequenceNumber(8);
    assert_eq!(picked_with(tree, pinned), "nothing");
}

#[test]
fn shadowed_entries_are_rewritten_away_at_any_level_once_no_snapshot_needs_them() {
    let tree = "
        L0 run 9: 9[a..z]#5-9=40%10@91000-92000
        L6 run 0: 1[a..z]#1-2=40%20:1000@70000-79000";
    assert_eq!(picked(tree), "Garbage Merge L6:1 -> L6 run 0", "the oldest first");
    let above = tree.replace("%20", "%9");
    assert_eq!(picked(&above), "Garbage Merge L0:9 -> L0 run 9", "over others too");
    let pinned = |sim: &mut Sim| sim.oldest_snapshot = SequenceNumber(8);
    assert_eq!(picked_with(&above, pinned), "nothing", "some would stay");
    assert_eq!(picked_with(&above, busy(&[9])), "nothing");
    assert_eq!(picked(&above.replace("%10", "%9")), "nothing", "little to gain");
}

#[test]
fn debt_is_what_arrived_since_a_second_window_was_over() {
    let debt = |text: &str| drawn(text).debt_bytes();
    assert_eq!(debt(""), 0);
    let one = "
        L0 run 19: 19[a..z]:7@92000-94000
        L0 run 18: 18[a..z]:100@80000-85000
        L0 run 17: 17[a..z]:100@80000-85000";
    assert_eq!(debt(one), 0, "sealing one window is no reason to slow writers");
    let two = format!("{one}\nL0 run 16: 16[a..z]:100@70000-75000");
    assert_eq!(debt(&two), 7);
    let sealed = two.replace("L0 run 16", "L6 run 16");
    assert_eq!(debt(&sealed), 0);
}

const TTL_MS: u64 = 400_000;
/// 20 windows while an entry lives, 20 flushes in each.
const SERIES: TimeWindow = TimeWindow { window_s: 20, merge_width: 10 };
const FLUSH_BYTES: u64 = 42_000_000;

/// A time series of many sources: a flush a second, each over all sources, all of it new.
fn series(strategy: impl CompactionStrategy + 'static) -> Sim {
    let mut sim = Sim::new(memtable(64 << 20), strategy);
    sim.ttl_ms = TTL_MS;
    sim
}

fn append(sim: &mut Sim) {
    sim.flush_random(FLUSH_BYTES, 1 << 40);
    sim.drop_expired();
    sim.settle();
}

#[test]
fn a_time_series_with_ttl_keeps_the_bounds_of_the_issue() {
    let mut sim = series(SERIES);
    let live_flushes = TTL_MS / 1000;
    let mut flushes = Vec::new();
    for at in 0..3 * live_flushes {
        let before = sim.flushed_bytes;
        append(&mut sim);
        flushes.push(sim.flushed_bytes - before);
        let live: u64 = flushes.iter().rev().take(live_flushes as usize).sum();
        let window_ms = SERIES.window_s * 1000;
        let bound = live as f64 * (TTL_MS + window_ms) as f64 / TTL_MS as f64 + 64e6;
        let bytes = sim.version.bytes();
        assert!(bytes as f64 <= bound, "{bytes} bytes after {at} flushes, {live} live");
        assert!(at < live_flushes || bytes > live / 10 * 9, "what lives is kept");
    }
    // The log and the flush write each byte once.
    let write_amplification = 2.0 + sim.merged_bytes as f64 / sim.flushed_bytes as f64;
    assert!(write_amplification <= 4.0, "{write_amplification}");
    assert!(sim.version.run_count() <= 21 + 11, "{}", shape(&sim.version));
}

#[test]
fn a_window_of_more_flushes_is_written_once_more_for_each_tier() {
    for (merge_width, rewritten_max) in [(2, 5.5), (4, 3.5), (10, 2.0), (32, 1.05)] {
        let mut sim = series(TimeWindow { merge_width, ..SERIES });
        (0..200).for_each(|_| append(&mut sim));
        let rewritten = sim.merged_bytes as f64 / sim.flushed_bytes as f64;
        assert!(rewritten <= rewritten_max, "{rewritten} with merge_width {merge_width}");
    }
}

/// Whether the plan reads a run of the last level.
fn reads_sealed(plan: &CompactionPlan) -> bool {
    let reads = plan.action == CompactionAction::Merge;
    reads && plan.inputs.iter().any(|input| input.level == LAST)
}

#[test]
fn a_sealed_window_is_one_run_and_is_never_written_again() {
    let mut sim = series(SERIES);
    for _ in 0..SERIES.window_s * 20 {
        sim.flush_random(FLUSH_BYTES, 1 << 40);
        while let Some(plan) = sim.pick() {
            assert!(!reads_sealed(&plan), "{plan:?}");
            sim.apply(&plan);
        }
    }
    let windows: Vec<u64> = windows_of(&sim, LAST);
    assert!(windows.len() > 15 && windows.is_sorted_by(|newer, older| newer > older));
}

fn windows_of(sim: &Sim, level: usize) -> Vec<u64> {
    let runs = sim.version.levels[level].runs.iter();
    runs.map(|run| written_ms(run) / 1000 / SERIES.window_s).collect()
}

#[test]
fn a_trickle_of_late_data_writes_little_again() {
    let mut sim = series(SERIES);
    // Nothing expires, though a long time passes.
    sim.ttl_ms = u64::MAX;
    (1..SERIES.window_s).for_each(|_| append(&mut sim));
    let window_bytes = sim.flushed_bytes;
    sim.now_ms = 20 * 60_000;
    sim.settle();
    assert_eq!(sim.version.run_count(), 1);
    let (sealed_bytes, mut late_bytes) = (sim.merged_bytes, 0);
    for _ in 0..100 {
        // Written when the window was the current one, flushed only now.
        sim.now_ms = 18_000;
        let before = sim.flushed_bytes;
        sim.flush_random(FLUSH_BYTES / 10, 1 << 40);
        late_bytes += sim.flushed_bytes - before;
        sim.now_ms = 20 * 60_000;
        sim.settle();
    }
    assert!(late_bytes * 2 <= window_bytes + FLUSH_BYTES, "half as much as the window had");
    // Five bytes each time that a run becomes five times as large: from a flush to the window.
    let rewritten = (sim.merged_bytes - sealed_bytes) as f64 / late_bytes as f64;
    let growth = (window_bytes + late_bytes) as f64 / (FLUSH_BYTES / 10) as f64;
    assert!(rewritten <= 5.0 * growth.log(5.0) / 2.0, "{rewritten}, about half of the worst case");
    assert!(sim.version.run_count() <= 4, "{}", shape(&sim.version));
}

#[test]
fn less_is_rewritten_than_by_size_tiers_that_know_no_time() {
    let load = |mut sim: Sim| {
        (0..500).for_each(|_| append(&mut sim));
        sim
    };
    let windows = load(series(SERIES));
    let tiered = load(series(SizeTiered { space_percent_max: 50, ..SizeTiered::default() }));
    let leveled = load(series(Leveled::default()));
    assert!(windows.merged_bytes < leveled.merged_bytes / 2);
    assert!(windows.version.bytes() < tiered.version.bytes());
}

/// `cargo test --lib time_window::tests::numbers -- --ignored --nocapture` prints the numbers of
/// `docs/compaction.md`.
#[test]
#[ignore = "prints a table"]
#[expect(clippy::print_stdout, reason = "it is run by hand, for what it prints")]
fn numbers() {
    println!(
        "| flushes in a window | `merge_width` | rewritten | most runs | space | most space |"
    );
    println!("|---|---|---|---|---|---|");
    for (window_s, merge_width) in
        [(5, 10), (20, 4), (20, 10), (20, 32), (100, 4), (100, 10), (100, 32), (500, 10), (500, 32)]
    {
        let mut sim = Sim::new(memtable(64 << 20), TimeWindow { window_s, merge_width });
        sim.ttl_ms = 20 * window_s * 1000;
        let mut bytes_max = 0;
        for _ in 0..2 * 20 * window_s {
            append(&mut sim);
            bytes_max = bytes_max.max(sim.version.bytes());
        }
        let live = (20 * window_s * FLUSH_BYTES) as f64;
        println!(
            "| {window_s} | {merge_width} | {:.2} | {} | {:.2} | {:.2} |",
            sim.merged_bytes as f64 / sim.flushed_bytes as f64,
            sim.runs_max,
            bytes_max as f64 / live,
            sim.bytes_max as f64 / live,
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Flushes and any number of compactions at once: every plan obeys the rules, every tree keeps
    /// its invariants, and once the writes end compaction ends, also as time goes by, with every
    /// window sealed.
    #[test]
    fn plans_are_valid_and_end(
        steps in steps(),
        window_s in 1..60u64,
        merge_width in 2..6usize,
        backward_ms in 0..200_000u64,
    ) {
        let options = KeyspaceOptions { table_bytes: 4096, ..KeyspaceOptions::default() };
        let mut sim = Sim::new(options, TimeWindow { window_s, merge_width });
        sim.now_ms = backward_ms;
        let halves = steps.split_at(steps.len() / 2);
        sim.live(halves.0.to_vec());
        // Somebody sets the clock back.
        sim.now_ms = sim.now_ms.saturating_sub(backward_ms);
        sim.live(halves.1.to_vec());
        sim.release_snapshots();
        sim.settle_over_time();
        for level in &sim.version.levels[..LAST] {
            prop_assert!(level.runs.is_empty(), "{}", shape(&sim.version));
        }
        // Of one window there are only runs that grow fourfold with age.
        let runs = &sim.version.levels[LAST].runs;
        let mut newest = 0;
        let windows = runs.iter().rev().map(|run| {
            newest = newest.max(written_ms(run) / 1000 / window_s);
            newest
        });
        let windows: Vec<u64> = windows.collect();
        let pairs = runs.windows(2).zip(windows.iter().rev().zip(windows.iter().rev().skip(1)));
        for (pair, (newer, older)) in pairs {
            prop_assert!(newer > older || pair[0].bytes() * LATE_SHARE < pair[1].bytes());
        }
    }

    /// Runs in the current window are few, whatever the sizes of flushes.
    #[test]
    fn the_current_window_has_few_runs(
        flushes in prop::collection::vec(1..2_000u64, 1..200),
        merge_width in 2..6usize,
    ) {
        let strategy = TimeWindow { window_s: 1_000_000, merge_width };
        let mut sim = Sim::new(KeyspaceOptions::default(), strategy);
        for entries in flushes {
            sim.flush_random(entries * ENTRY_BYTES, 1 << 40);
            sim.settle();
        }
        let smallest = sim.version.tables().map(|(_, run, _)| run.bytes()).min().unwrap();
        let doublings = (sim.version.bytes() / smallest).ilog2() as usize + 1;
        prop_assert!(sim.version.run_count() <= (merge_width - 1) * doublings);
    }

    /// No plan ever joins two windows, unless a run spans them.
    #[test]
    fn no_merge_crosses_windows(steps in steps(), window_s in 1..60u64) {
        let mut sim = Sim::new(memtable(8192), TimeWindow { window_s, merge_width: 3 });
        for step in steps {
            if let Step::Flush { low, width, live, dead } = step {
                let all = 100.0 + f64::from(live) + f64::from(dead);
                let (live, dead) = (f64::from(live) / all, f64::from(dead) / all);
                sim.flush(Segment { low, high: low + width, live, dead });
            }
            let Some(plan) = sim.pick() else { continue };
            let window = |number| {
                let (_, run, _) = sim.version.find_table(number).unwrap();
                written_ms(run) / 1000 / window_s
            };
            let numbers = plan.inputs.iter().map(|input| window(input.tables[0]));
            let windows: Vec<u64> = numbers.collect();
            prop_assert!(windows.iter().all(|of_run| *of_run == windows[0]), "{plan:?}");
            sim.apply(&plan);
        }
    }
}
