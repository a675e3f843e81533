//! First in, first out over metadata alone: plans on drawn trees, and trees that grow.

use proptest::prelude::*;

use super::*;
use crate::compaction::tests::{Segment, Sim, Step, busy, memtable, shape, small_options, steps};
use crate::options::KeyspaceOptions;
use crate::version::Version;

const STRATEGY: Fifo = Fifo { total_bytes_max: 1000, age_max_s: 10, merge_runs: 3 };

fn picked_with(text: &str, change: impl FnOnce(&mut Sim)) -> String {
    let mut sim = Sim::new(small_options(), STRATEGY);
    sim.version = crate::version::text::version(text);
    sim.now_ms = 20_000;
    change(&mut sim);
    sim.picked()
}

fn picked(text: &str) -> String {
    picked_with(text, |_| ())
}

const THREE: &str = "
    L0 run 9: 9[a..z]:400@19000-19500
    L0 run 8: 8[a..m]:300@18000-18500 7[n..z]:300@18000-18500
    L0 run 6: 6[a..z]:101@17000-17500";

#[test]
fn the_oldest_are_dropped_until_the_rest_fits() {
    assert_eq!(picked(THREE), "TotalBytes Drop L0:6 -> L0 run 0");
    assert_eq!(picked(&THREE.replace("101", "0")), "nothing");
    let larger = THREE.replace("400", "800");
    assert_eq!(picked(&larger), "TotalBytes Drop L0:8,7 L0:6 -> L0 run 0");
    let one = larger.replace(":101", ":301");
    assert_eq!(picked(&one), "TotalBytes Drop L0:8,7 L0:6 -> L0 run 0");
    let written_later = larger.replace("8[a..m]:300@18000-18500", "8[a..m]:300@18000-18900");
    let enough = written_later.replace(":800", ":600");
    assert_eq!(picked(&enough), "TotalBytes Drop L0:7 L0:6 -> L0 run 0", "7 was written first");
}

#[test]
fn nothing_is_dropped_out_of_turn() {
    assert_eq!(picked_with(THREE, busy(&[6])), "nothing");
    let tree = THREE.replace("6[a..z]:101@17000-17500", "6[a..c]:101@19900-19900 5[x..z]:1@0-0");
    assert_eq!(picked(&tree), "TotalBytes Drop L0:6,5 -> L0 run 0", "both are older than run 8");
    let busy_oldest = tree.replace("8[a..m]:300@18000-18500", "8[a..m]:300@0-1");
    assert_eq!(
        picked_with(&busy_oldest, busy(&[6])),
        "TotalBytes Drop L0:5 -> L0 run 0",
        "8 is too old, but over 6, which stays"
    );
}

#[test]
fn what_is_too_old_is_dropped_with_all_that_is_under_it() {
    let tree = "
        L0 run 9: 9[a..z]@19000-19500
        L0 run 8: 8[a..m]@9000-9999 7[n..z]@9000-10000
        L0 run 6: 6[a..z]@8000-8500";
    assert_eq!(picked(tree), "Age Drop L0:8 L0:6 -> L0 run 0");
    let forever = |sim: &mut Sim| sim.switch(Fifo { age_max_s: 0, ..STRATEGY });
    assert_eq!(picked_with(tree, forever), "nothing");
    let over_younger = tree.replace("@8000-8500", "@8000-10001");
    assert_eq!(picked(&over_younger), "nothing", "8 would uncover what is in 6");
}

#[test]
fn it_wants_to_be_asked_when_the_next_table_grows_too_old() {
    let mut sim = Sim::new(small_options(), STRATEGY);
    sim.version = crate::version::text::version(
        "
        L0 run 9: 9[a..z]@19000-19500
        L0 run 8: 8[a..m]@9000-9999 7[n..z]@9000-10000",
    );
    sim.now_ms = 20_000;
    assert_eq!(sim.due_at_ms(), Some(20_001), "8 is too old already, 7 is next");
    sim.now_ms = 20_001;
    assert_eq!(sim.picked(), "Age Drop L0:8,7 -> L0 run 0");
    assert_eq!(sim.due_at_ms(), Some(29_501));
    sim.now_ms = 29_501;
    assert_eq!(sim.due_at_ms(), None, "everything is too old");
    sim.now_ms = 0;
    sim.switch(Fifo { age_max_s: u64::MAX, ..STRATEGY });
    assert_eq!(sim.due_at_ms(), Some(u64::MAX));
    sim.switch(Fifo { age_max_s: 0, ..STRATEGY });
    assert_eq!(sim.due_at_ms(), None);
}

#[test]
fn deeper_levels_are_older() {
    let tree = "
        L0 run 9: 9[a..z]:500@19000-19500
        L5 run 0: 5[a..c]:200@12000-14000 4[d..z]:200@12000-13000
        L6 run 0: 3[a..z]:300@12000-15000";
    assert_eq!(picked(tree), "TotalBytes Drop L6:3 -> L0 run 0");
    assert_eq!(picked(&tree.replace(":500", ":701")), "TotalBytes Drop L5:4 L6:3 -> L0 run 0");
}

#[test]
fn small_runs_are_merged_once() {
    let tree = "
        L0 run 9: 9[a..z]:90@15000-19500
        L0 run 8: 8[a..z]:100@15000-19500
        L0 run 7: 7[a..z]:101@15000-19500
        L0 run 6: 6[a..z]:50@15000-19500
        L0 run 5: 5[a..z]:50@15000-19500
        L0 run 4: 4[a..z]:50@15000-19500
        L0 run 3: 3[a..z]:50@15000-19500";
    assert_eq!(picked(tree), "SimilarRuns Merge L0:6 L0:5 L0:4 -> L0 run 6");
    assert_eq!(picked_with(tree, busy(&[5])), "nothing");
    assert_eq!(picked(&tree.replace("101", "100")), "SimilarRuns Merge L0:9 L0:8 L0:7 -> L0 run 9");
    let never = |sim: &mut Sim| sim.switch(Fifo { merge_runs: 0, ..STRATEGY });
    assert_eq!(picked_with(tree, never), "nothing");
}

#[test]
fn a_bounded_log_is_written_once() {
    let fifo = Fifo { total_bytes_max: 1 << 30, ..Fifo::default() };
    let mut sim = Sim::new(memtable(64 << 20), fifo);
    sim.fill(200, 42_000_000, 50_000_000);
    assert_eq!(sim.merged_bytes, 0);
    assert!(sim.version.bytes() <= 1 << 30, "{}", shape(&sim.version));
    assert!(sim.version.bytes() > (1 << 30) - 42_000_000, "no more is dropped than must be");
}

#[test]
fn merging_writes_once_more_and_keeps_fewer_runs() {
    let fifo = Fifo { total_bytes_max: 4 << 30, merge_runs: 8, age_max_s: 0 };
    let mut sim = Sim::new(memtable(64 << 20), fifo);
    sim.fill(200, 42_000_000, 500_000_000);
    assert!(sim.merged_bytes <= sim.flushed_bytes, "{} bytes", sim.merged_bytes);
    assert!(sim.version.run_count() <= 22, "{}", shape(&sim.version));
}

#[test]
fn with_an_age_only_what_is_younger_stays() {
    let fifo = Fifo { age_max_s: 30, ..Fifo::default() };
    let mut sim = Sim::new(memtable(64 << 20), fifo);
    for at in 0..100 {
        // A flush a second.
        sim.flush(Segment { low: at * 10, high: at * 10 + 100, live: 1.0, dead: 0.0 });
        sim.settle();
        assert!(sim.version.run_count() <= 31, "{}", shape(&sim.version));
    }
    assert_eq!(sim.version.run_count(), 31);
}

/// Whether no table that is there was written before one that is gone and overlaps it.
fn dropped_in_order(before: &Version, after: &Version) -> bool {
    let before: Vec<_> = before.tables().map(|(_, _, table)| table).collect();
    let stays = |number| after.find_table(number).is_some();
    before.iter().enumerate().filter(|(_, table)| !stays(table.meta().number)).all(|(at, gone)| {
        let (low, high) = (&gone.meta().smallest, &gone.meta().largest);
        // Older tables stand further down.
        before[at + 1..]
            .iter()
            .all(|older| !older.meta().overlaps(low, high) || !stays(older.meta().number))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Flushes and any number of compactions at once: every plan obeys the rules, every tree keeps
    /// its invariants, and once the writes end everything fits.
    #[test]
    fn plans_are_valid_and_end(
        steps in steps(),
        total_bytes_max in 1_000..2_000_000u64,
        age_max_s in 0..100u64,
        merge_runs in 0..5usize,
    ) {
        let fifo = Fifo { total_bytes_max, age_max_s, merge_runs };
        let options = KeyspaceOptions {
            table_bytes: 4096, memtable_bytes: 8192, ..KeyspaceOptions::default()
        };
        let mut sim = Sim::new(options, fifo);
        sim.live(steps);
        sim.settle();
        prop_assert!(sim.version.bytes() <= total_bytes_max);
    }

    /// In whatever order drops become due, also over what another strategy left: nothing old comes
    /// back.
    #[test]
    fn no_drop_uncovers_an_older_version(
        steps in steps(),
        total_bytes_max in 1_000..500_000u64,
        age_max_s in 0..100u64,
    ) {
        let options = KeyspaceOptions {
            table_bytes: 4096, memtable_bytes: 8192, ..KeyspaceOptions::default()
        };
        let mut sim = Sim::new(options, crate::options::Leveled::default());
        sim.live(steps.into_iter().filter(|step| !matches!(step, Step::Snapshot(_))).collect());
        sim.switch(Fifo { total_bytes_max, age_max_s, merge_runs: 0 });
        if let Some(plan) = sim.pick() {
            let before = sim.version.clone();
            sim.apply(&plan);
            prop_assert!(dropped_in_order(&before, &sim.version));
        }
    }
}
