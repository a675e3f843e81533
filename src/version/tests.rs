//! Tests of versions, drawn as text.

use super::text::{table, version};
use super::*;
use proptest::prelude::*;

fn check(text: &str, expected: Result<(), &str>) {
    let found = version(text).check_invariants();
    assert_eq!(found.as_ref().map_err(String::as_str).copied(), expected, "{text}");
}

#[test]
fn invariants() {
    check("", Ok(()));
    check("L0 run 9: 9[a..f]\n L0 run 8: 8[a..f]\n L6 run 1: 1[a..b] 2[c..c] 3[d..z]", Ok(()));
    check(
        "L1 run 1: 1[a..c] 2[c..d]",
        Err("level 1: run 1: table 000001 ends at c and table 000002 begins at c: they overlap"),
    );
    check(
        "L1 run 1: 1[c..d] 2[a..b]",
        Err("level 1: run 1: table 000001 ends at d and table 000002 begins at a: they overlap"),
    );
    check("L1 run 1: 1[b..a]", Err("level 1: run 1: table 000001 begins after its end"));
    check("L0 run 8: 8[a..f]\n L0 run 9: 9[a..f]", Err("level 0: run 8 stands before run 9"));
    check("L0 run 9: 8[a..f]\n L0 run 9: 9[a..f]", Err("level 0: run 9 stands before run 9"));
    check("L0 run 9: 9[a..f]\n L3 run 1: 9[k..l]", Err("table 000009 is in the tree twice"));
    check(
        "L1 run 1: 1[a..b]#5-4",
        Err("level 1: run 1: table 000001 has its sequence numbers the wrong way round"),
    );
    check(
        "L1 run 1: 1[a..b]=3~4",
        Err("level 1: run 1: table 000001 has more tombstones than entries"),
    );
}

#[test]
fn ages_are_compared_where_tables_share_a_bound() {
    // An older table above a newer one is possible while they have no key in common.
    check("L0 run 9: 9[a..z]#1-2\n L1 run 1: 1[m..n]#3-3", Ok(()));
    let both = "table 000009 (up to #2) stands above table 000001 (from #3), and both have";
    let shared = |key: &str| format!("{both} {key}");
    check("L0 run 9: 9[a..m]#1-2\n L1 run 1: 1[m..n]#3-3", Err(&shared("m")));
    check("L2 run 9: 9[a..m]#1-2\n L2 run 1: 1[a..n]#3-3", Err(&shared("a")));
    // The newest of three is not enough: each must be newer than all below it.
    let three = "L0 run 9: 9[a..m]#1-2\n L0 run 8: 8[m..m]#5-5\n L1 run 1: 1[m..n]#3-3";
    check(
        three,
        Err("table 000009 (up to #2) stands above table 000008 (from #5), and both have m"),
    );
    check("L0 run 9: 9[a..m]#2-3\n L1 run 1: 1[m..n]#3-3", Ok(()));
    // Zeroed entries are older than all, and may share 0 with older ones.
    check("L5 run 9: 9[a..m]#4-9\n L6 run 1: 1[m..n]#0-0", Ok(()));
    check("L5 run 9: 9[a..m]#0-0\n L6 run 1: 1[m..n]#0-0", Ok(()));
}

#[test]
fn text_round_trips_and_says_everything() {
    let text = "L0 run 9: 000009[a..f]#3-9\nL6 run 1: 000001[\\x00\\\\..b]#1-1 000002[c..z]#0-8\n";
    assert_eq!(version(text).to_string(), text);
    let meta = text::meta("7[a..b]:512#3-4=20~5@6-7!8-9");
    assert_eq!((meta.file_bytes, meta.entry_count, meta.tombstone_count), (512, 20, 5));
    assert_eq!((meta.write_time_min_ms, meta.write_time_max_ms), (6, 7));
    assert_eq!((meta.expiry_min_ms, meta.expiry_max_ms), (8, 9));
}

/// Applies `removed` and `added` (`level run table`, by commas) to `text`; the new text, or the
/// error.
fn applied(text: &str, removed: &[u64], added: &str) -> String {
    let before = version(text);
    let removed: Vec<FileNumber> = removed.iter().copied().map(FileNumber).collect();
    let added: Vec<_> = added
        .split_terminator(',')
        .map(|part| {
            let words: Vec<&str> = part.split_whitespace().collect();
            (words[0].parse().unwrap(), RunId(words[1].parse().unwrap()), table(words[2]))
        })
        .collect();
    match before.apply(&removed, &added) {
        Ok(after) => {
            after.check_invariants().unwrap();
            after.to_string()
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corruption);
            error.what().strip_prefix("the change does not fit the tree: ").unwrap().to_owned()
        }
    }
}

const TREE: &str = "L0 run 9: 000009[a..f]#8-9\nL0 run 5: 000005[b..g]#6-7\n\
                    L1 run 1: 000001[a..c]#1-1 000002[e..h]#1-1\n";

#[test]
fn apply_moves_joins_makes_and_removes_runs() {
    assert_eq!(applied(TREE, &[], ""), TREE);
    assert_eq!(
        applied(TREE, &[], "0 7 7[x..z],1 1 3[d..d],1 1 4[i..i]"),
        "L0 run 9: 000009[a..f]#8-9\nL0 run 7: 000007[x..z]#1-1\nL0 run 5: 000005[b..g]#6-7\n\
         L1 run 1: 000001[a..c]#1-1 000003[d..d]#1-1 000002[e..h]#1-1 000004[i..i]#1-1\n"
    );
    assert_eq!(
        applied(TREE, &[5, 9, 2], "2 4 10[a..g]#0-1"),
        "L1 run 1: 000001[a..c]#1-1\nL2 run 4: 000010[a..g]#0-1\n"
    );
    // A move: the same table, removed and added.
    assert_eq!(
        applied(TREE, &[1, 2], "3 1 1[a..c],3 1 2[e..h]"),
        "L0 run 9: 000009[a..f]#8-9\nL0 run 5: 000005[b..g]#6-7\n\
         L3 run 1: 000001[a..c]#1-1 000002[e..h]#1-1\n"
    );
    assert_eq!(applied(TREE, &[1, 2, 5, 9], ""), "");
}

#[test]
fn apply_refuses_what_does_not_fit() {
    assert_eq!(applied(TREE, &[3], ""), "table 000003 is not in the tree");
    assert_eq!(applied(TREE, &[1, 1], ""), "table 000001 is removed twice");
    assert_eq!(applied(TREE, &[], "2 1 9[a..b]"), "table 000009 is in the tree already");
    assert_eq!(applied(TREE, &[], "2 1 3[a..b],3 1 3[a..b]"), "table 000003 is added twice");
    assert_eq!(applied(TREE, &[], "7 1 3[a..b]"), "table 000003 in level 7 of 7");
    assert_eq!(
        applied(TREE, &[], "2 1 3[b..a]"),
        "level 2: run 1: table 000003 begins after its end"
    );
    assert_eq!(
        applied(TREE, &[], "1 1 3[c..d]"),
        "level 1: run 1: table 000001 ends at c and table 000003 begins at c: they overlap"
    );
}

#[test]
fn untouched_runs_are_shared() {
    let before = version(TREE);
    let after = before.apply(&[FileNumber(9)], &[(0, RunId(10), table("10[a..b]"))]).unwrap();
    assert!(Arc::ptr_eq(&before.levels[0].runs[1], &after.levels[0].runs[1]));
    assert!(Arc::ptr_eq(&before.levels[1].runs[0], &after.levels[1].runs[0]));
    assert!(
        before.find_table(FileNumber(9)).is_some() && after.find_table(FileNumber(9)).is_none()
    );
}

#[test]
fn sums() {
    let tree =
        version("L0 run 9: 9[b..f]:7=3\n L0 run 5: 5[a..g]:5\n L4 run 1: 1[a..c]:30=2 2[e..h]:4");
    assert_eq!((tree.table_count(), tree.run_count(), tree.bytes()), (4, 3, 46));
    assert_eq!((tree.levels[0].bytes(), tree.levels[0].table_count()), (12, 2));
    assert_eq!((tree.levels[4].runs[0].bytes(), tree.levels[4].runs[0].entry_count()), (34, 12));
    assert_eq!(tree.last_nonempty_level(), Some(4));
    assert_eq!(tree.key_range(), Some((&b"a"[..], &b"h"[..])));
    let numbers =
        |found: Vec<&Arc<Table>>| found.iter().map(|t| t.meta().number.0).collect::<Vec<_>>();
    assert_eq!(numbers(tree.overlapping(0, b"g", b"z").collect()), [5]);
    assert_eq!(numbers(tree.overlapping(4, b"c", b"e").collect()), [1, 2]);
    let (level, run, table) = tree.find_table(FileNumber(2)).unwrap();
    assert_eq!((level, run.id, table.meta().file_bytes), (4, RunId(1), 4));
    assert_eq!(Version::empty().last_nonempty_level(), None);
    assert_eq!(Version::empty().key_range(), None);
}

#[test]
#[should_panic(expected = "they overlap")]
fn a_run_of_overlapping_tables_is_a_panic() {
    Run::new(RunId(1), vec![table("1[a..c]"), table("2[b..d]")]);
}

/// A run over the sorted distinct `keys`, cut into tables of 1 to 3 keys; some keys are left out.
fn run_over(keys: &[Vec<u8>], cuts: &[u8]) -> Run {
    let mut tables = Vec::new();
    let mut rest = keys;
    for (index, cut) in cuts.iter().enumerate() {
        let len = 1 + usize::from(cut % 3);
        if rest.len() < len {
            break;
        }
        let mut meta = text::meta("1[a..b]");
        meta.number = FileNumber(index as u64);
        meta.smallest = rest[0].clone().into();
        meta.largest = rest[len - 1].clone().into();
        tables.push(Arc::new(Table::new(meta)));
        rest = &rest[rest.len().min(len + usize::from(cut % 2))..];
    }
    Run::new(RunId(1), tables)
}

/// Keys that often share long prefixes and differ by trailing zeros.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..10);
    (0..3usize, tail).prop_map(|(head, tail)| [&b"sharedprefix"[..6 * head], &tail].concat())
}

proptest! {
    #[test]
    fn find_and_overlapping_agree_with_a_linear_search(
        stored in prop::collection::btree_set(keys(), 1..40),
        cuts in prop::collection::vec(any::<u8>(), 1..40),
        probes in prop::collection::vec(keys(), 1..40),
    ) {
        let stored: Vec<Vec<u8>> = stored.into_iter().collect();
        prop_assume!(usize::from(cuts[0] % 3) < stored.len());
        let run = run_over(&stored, &cuts);
        for key in stored.iter().chain(&probes) {
            let number = |table: &Arc<Table>| table.meta().number;
            let expected = run.tables.iter().find(|table| table.meta().covers(key));
            prop_assert_eq!(run.find(key).map(number), expected.map(number));
            for hi in probes.iter().filter(|hi| key <= hi) {
                let expected = run.tables.iter().filter(|table| table.meta().overlaps(key, hi));
                let expected: Vec<_> = expected.map(number).collect();
                let found: Vec<_> = run.overlapping(key, hi).iter().map(number).collect();
                prop_assert_eq!(found, expected);
            }
            // The wrong way round is no panic.
            run.overlapping(key, &probes[0]);
        }
    }
}
