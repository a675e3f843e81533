//! One list of operations under many sets of options gives one history, and it is the model's.
//!
//! A list is drawn from a seed: puts, puts that expire, deletes, batches over keyspaces, all ways of reading,
//! iterators that take from both ends in turns, cursors that turn round and seek, snapshots read and read again,
//! flushes, compactions, keyspaces dropped and made anew, time that passes, reopens and crashes. What it answers is
//! its *history*, and nothing in it may depend on the options: not on the strategy, the sizes, the compression, the
//! filters, the way of reading, the number of threads, nor on when the process dies or the power goes. So each list
//! runs under each of [`option_sets`], and under some drawn at random, and the histories are compared answer by
//! answer with that of a `BTreeMap`.
//!
//! # Crashes
//! A crash syncs first (or flushes, if something was never logged), so that it must lose nothing and be invisible. Each
//! set has crash points of its own beside those of the list. The crashed database lives on in its own world: snapshots,
//! iterators and cursors made before the crash are read there afterwards.
//!
//! # Failures
//! A list that differs is shrunk: operations are left out for as long as some answer still differs. Every operation
//! means something whatever was left out before it. The text names the seed, the set, the first answer that differs,
//! and the operations that are left.

mod engine;
mod list;
mod model;
mod sets;

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use self::engine::Engine;
use self::list::{Answer, Change, List, Op};
use self::model::Model;
use self::sets::{OptionSet, option_sets, random_set};
use crate::trust;

/// How many snapshots, iterators and cursors are held at once, of each.
const SLOTS: usize = 3;
/// Operations of a list.
const LIST_LEN: usize = 1000;
/// Sets drawn at random for each list, beside those of the table.
const RANDOM_SETS: u64 = 4;
/// Runs that shrinking a list may cost.
const SHRINK_RUNS: usize = 600;
const START_MS: u64 = 1_700_000_000_000;

/// The first operation whose answers differ.
fn first_difference(expected: &[Answer], found: &[Answer]) -> Option<usize> {
    (0..expected.len()).find(|at| found.get(*at) != Some(&expected[*at]))
}

fn differs(list: &List, set: &OptionSet, seed: u64) -> bool {
    let found = Engine::history(list, set, seed);
    first_difference(&Model::history(list), &found).is_some()
}

/// Leaves out operations, many at first, as long as `is_wrong` with what is left.
fn shrink(list: &List, is_wrong: impl Fn(&List) -> bool) -> List {
    let mut list = list.clone();
    let (mut runs, mut width) = (0, list.ops.len() / 2);
    while width > 0 {
        let mut at = 0;
        while at < list.ops.len() && runs < SHRINK_RUNS {
            let mut shorter = list.clone();
            shorter.ops.drain(at..(at + width).min(list.ops.len()));
            runs += 1;
            if is_wrong(&shorter) {
                list = shorter;
            } else {
                at += width;
            }
        }
        width /= 2;
    }
    list
}

/// Lists of bytes as text, shortened.
fn readable(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let (before, list) = rest.split_at(open + 1);
        let close = list.find([']', '[']).unwrap_or(list.len());
        let bytes: Option<Vec<u8>> =
            list[..close].split(", ").map(|number| number.parse().ok()).collect();
        match bytes {
            Some(bytes) if list[close..].starts_with(']') => {
                let shown = bytes[..bytes.len().min(48)].escape_ascii();
                let more = if bytes.len() > 48 { "..." } else { "" };
                let _ = write!(out, "{}\"{shown}{more}\"", &before[..open]);
                rest = &list[close + 1..];
            }
            _ => {
                out.push_str(before);
                rest = list;
            }
        }
    }
    out + rest
}

/// Says in words how `list` under `set` is wrong, if it is.
fn check(list: &List, set: &OptionSet, seed: u64, expected: &[Answer]) -> Option<String> {
    let found = Engine::history(list, set, seed);
    first_difference(expected, &found)?;
    let short = shrink(list, |list| differs(list, set, seed));
    let (mut expected, mut found) = (Model::history(&short), Engine::history(&short, set, seed));
    // With threads, the shortest list may go right now and then.
    let mut shown = &short;
    if first_difference(&expected, &found).is_none() {
        (expected, found) = (Model::history(list), Engine::history(list, set, seed));
        shown = list;
    }
    let mut text = format!("seed {seed}, options {}\n", set.name);
    match first_difference(&expected, &found) {
        None => text.push_str("it went right when it was run again\n"),
        Some(at) => {
            let op = shown.ops.get(at).map_or("the end".to_owned(), |op| format!("{op:?}"));
            let found = found.get(at);
            let _ = writeln!(text, "operation {at}, {op}\n  model  {:?}", expected[at]);
            let _ = writeln!(text, "  engine {found:?}\nof these operations:");
        }
    }
    for (at, op) in shown.ops.iter().enumerate() {
        let _ = writeln!(text, "  {at} {op:?}");
    }
    Some(readable(&text))
}

#[test]
fn one_list_of_operations_has_one_history_under_all_options() {
    let (lists, first) = (trust::cases(3, 40, 10_000), trust::seed() * 1_000_000);
    let sets = option_sets();
    let (next, runs, operations) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failures: Mutex<Vec<String>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= lists || failures.lock().unwrap().len() > 2 {
                return;
            }
            let seed = first + index;
            let list = List::of_seed(seed);
            let expected = Model::history(&list);
            let random = (0..RANDOM_SETS).map(|n| random_set(seed * RANDOM_SETS + n));
            for set in sets.iter().cloned().chain(random) {
                runs.fetch_add(1, Ordering::Relaxed);
                operations.fetch_add(list.ops.len() as u64, Ordering::Relaxed);
                if let Some(what) = check(&list, &set, seed, &expected) {
                    failures.lock().unwrap().push(what);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    let details = [
        ("lists", next.into_inner().min(lists)),
        ("option_sets", sets.len() as u64 + RANDOM_SETS),
        ("operations", operations.into_inner()),
    ];
    trust::report("metamorphic", runs.into_inner(), failures.len() as u64, &details);
    assert!(failures.is_empty(), "{} histories differ:\n{}", failures.len(), failures.join("\n"));
}

/// The list as an engine would run it that forgets every delete.
fn without_deletes(list: &List) -> List {
    let mut list = list.clone();
    for op in &mut list.ops {
        if let Op::Write(_, parts) = op {
            parts.retain(|part| !matches!(part.2, Change::Delete));
        }
    }
    list
}

#[test]
fn a_history_that_differs_is_found_and_shrunk() {
    let (list, set) = (List::of_seed(7), &option_sets()[0]);
    let is_wrong = |list: &List| {
        let found = Engine::history(&without_deletes(list), set, 7);
        first_difference(&Model::history(list), &found).is_some()
    };
    assert!(is_wrong(&list), "deletes that are forgotten are not seen");
    let short = shrink(&list, is_wrong);
    // A put, its delete, and at most one that reads.
    assert!(short.ops.len() <= 3, "{} operations are left", short.ops.len());
}
