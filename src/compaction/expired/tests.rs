//! What may be dropped whole: on drawn trees, and on random ones against the rule itself.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::compaction::{BusyOutput, CompactionAction};
use crate::key::SequenceNumber;
use crate::options::KeyspaceOptions;
use crate::version::{Version, text};

const NOW_MS: u64 = 1000;

fn pick(version: &Version, busy: &HashSet<FileNumber>, now_ms: u64) -> Option<CompactionPlan> {
    let none: &[BusyOutput] = &[];
    let tree = TreeView {
        version,
        options: &KeyspaceOptions::default(),
        busy,
        busy_outputs: none,
        oldest_snapshot: SequenceNumber::MAX,
        now_ms,
    };
    let plan = pick_expired(&tree)?;
    tree.check_plan(&plan).unwrap();
    assert_eq!((plan.action, plan.reason), (CompactionAction::Drop, CompactionReason::Expired));
    Some(plan)
}

fn numbers(plan: Option<CompactionPlan>) -> Vec<u64> {
    let inputs = plan.into_iter().flat_map(|plan| plan.inputs);
    inputs.flat_map(|input| input.tables).map(|number| number.0).collect()
}

fn picked(tree: &str) -> Vec<u64> {
    numbers(pick(&text::version(tree), &HashSet::new(), NOW_MS))
}

#[test]
fn tables_go_when_all_in_them_has_expired() {
    assert_eq!(picked("L0 run 1: 1[a..b]!5-1000"), [1]);
    assert_eq!(picked("L0 run 1: 1[a..b]!5-1001"), [0; 0], "not yet");
    assert_eq!(picked("L0 run 1: 1[a..b]"), [0; 0], "never");
    assert_eq!(picked("L6 run 0: 1[a..b]!5-6 2[c..d]!5-9999 3[e..f]!5-6 4[g..h]!1-1"), [1, 3, 4]);
    let tombstones = "L0 run 1: 1[a..b]!5-6=9~4";
    assert_eq!(picked(tombstones), [1], "with nothing below they hide nothing");
}

#[test]
fn nothing_older_is_uncovered() {
    let below = "
        L0 run 9: 9[a..c]!5-6 8[x..z]!5-6
        L6 run 0: 1[c..d]";
    assert_eq!(picked(below), [8]);
    let together = "
        L0 run 9: 9[a..c]!5-6
        L6 run 0: 1[c..d]!5-6";
    assert_eq!(picked(together), [9, 1]);
    let newer = "
        L0 run 9: 9[a..c]
        L6 run 0: 1[c..d]!5-6";
    assert_eq!(picked(newer), [1], "what is newer does not matter");
    let chain = "
        L0 run 9: 9[a..c]!5-6
        L0 run 8: 8[c..e]!5-6
        L0 run 7: 7[e..g]!5-9999";
    assert_eq!(picked(chain), [0; 0], "8 stays over 7, and so 9 stays over 8");
}

#[test]
fn what_is_busy_stays_and_keeps_what_is_above_it() {
    let tree = text::version(
        "
        L0 run 9: 9[a..c]!5-6
        L6 run 0: 1[c..d]!5-6 2[x..y]!5-6",
    );
    let busy = HashSet::from([FileNumber(1)]);
    assert_eq!(numbers(pick(&tree, &busy, NOW_MS)), [2]);
}

#[test]
fn it_is_due_when_the_next_table_expires_whole() {
    let tree = text::version("L0 run 1: 1[a..b]!5-1000 2[c..d]!5-1500 3[e..f]!5-1400 4[g..h]");
    let due = |now_ms| {
        due_at_ms(&TreeView {
            version: &tree,
            options: &KeyspaceOptions::default(),
            busy: &HashSet::new(),
            busy_outputs: &[],
            oldest_snapshot: SequenceNumber::MAX,
            now_ms,
        })
    };
    assert_eq!(due(0), Some(1000));
    assert_eq!(due(1000), Some(1400), "what is due already is asked for first");
    assert_eq!(due(1500), None);
}

/// A run as its tables: smallest key, width, and when all of it expires.
type Drawn = Vec<(u8, u8, u64)>;

fn trees() -> impl Strategy<Value = (Vec<Drawn>, HashSet<FileNumber>)> {
    let table = (0..60u8, 0..12u8, prop_oneof![4 => 990..1010u64, 1 => Just(u64::MAX)]);
    let run = prop::collection::vec(table, 0..6);
    let busy = prop::collection::hash_set((1..40u64).prop_map(FileNumber), 0..4);
    (prop::collection::vec(run, 1..7), busy)
}

/// Runs newest first: three in level 0, the others one in each level below.
fn draw(runs: Vec<Drawn>) -> Version {
    let mut lines = Vec::new();
    let mut number = 0;
    for (at, mut tables) in runs.into_iter().enumerate() {
        tables.sort_unstable();
        let mut free_from = 0;
        let mut line = Vec::new();
        for (low, width, expiry_ms) in tables {
            if low < free_from {
                continue;
            }
            free_from = low + width + 1;
            number += 1;
            let (low, high) = (format!("{low:03}"), format!("{:03}", low + width));
            line.push(format!("{number}[{low}..{high}]!1-{expiry_ms}"));
        }
        if !line.is_empty() {
            let (level, run) = if at < 3 { (0, 10 - at) } else { (at - 2, 0) };
            lines.push(format!("L{level} run {run}: {}", line.join(" ")));
        }
    }
    let version = text::version(&lines.join("\n"));
    version.check_invariants().unwrap();
    version
}

proptest! {
    /// The tables dropped have expired, are idle, and no older table that stays meets one: these by
    /// `check_plan`. No more could go, and what is left has nothing to drop.
    #[test]
    fn as_many_go_as_can((runs, busy) in trees()) {
        let version = draw(runs);
        let gone: HashSet<u64> = numbers(pick(&version, &busy, NOW_MS)).into_iter().collect();
        let order: Vec<_> = version.tables().collect();
        for (at, (level, run, table)) in order.iter().enumerate() {
            let meta = table.meta();
            let may_go = meta.expiry_max_ms <= NOW_MS && !busy.contains(&meta.number);
            let blocked = order[at..].iter().any(|(other_level, other_run, older)| {
                (other_level, other_run.id) != (level, run.id)
                    && older.meta().overlaps(&meta.smallest, &meta.largest)
                    && !gone.contains(&older.meta().number.0)
            });
            prop_assert_eq!(gone.contains(&meta.number.0), may_go && !blocked, "{}", meta.number);
        }
        let removed: Vec<_> = gone.into_iter().map(FileNumber).collect();
        let left = version.apply(&removed, &[]).unwrap();
        prop_assert_eq!(pick(&left, &busy, NOW_MS), None);
    }
}
