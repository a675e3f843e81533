//! A crash at every file operation: what is left is a prefix of the writes that holds every acked one.
//!
//! Workloads of every kind ([`workloads`]) are recorded on the simulated file system: before each file operation it is
//! cloned ([`recording`]). Each clone stands for the power going, or the process dying, at that moment. Of each, crash
//! states are made under several models of what survives: nothing unsynced, everything, names without bytes, bytes
//! without names, lengths without bytes, a prefix of all changes, torn and zero-filled last writes, random mixtures
//! ([`states`]). Each state is opened and checked ([`check`]). The recovery of some is recorded in its turn, and cut at
//! each of its operations, and again.
//!
//! What is counted is distinct states. A failure says how to run it again.

pub(crate) mod check;
pub(crate) mod recording;
pub(crate) mod states;
pub(crate) mod workloads;

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use esker::WriteOptions;
use esker::fs::sim_fs::SimFs;

use crate::crash::check::check_verified;
use crate::crash::recording::Cut;
use crate::crash::states::{Effort, Explorer, Tally};
use crate::crash::workloads::{WORKLOADS, Workload, merge_in_slices};
use crate::support::{DIR, Setup};
use crate::trust;

/// One workload with one seed; of its cuts perhaps only one.
struct Task {
    workload: &'static Workload,
    seed: u64,
    only: Option<u64>,
}

impl Task {
    /// Every workload with each of `seeds`, or what `ESKER_CRASH_STATE=WORKLOAD/SEED/OPERATION` asks for.
    fn all(seeds: u64) -> Vec<Task> {
        let chosen = std::env::var("ESKER_CRASH_STATE").unwrap_or_default();
        if !chosen.is_empty() {
            let mut parts = chosen.split('/');
            let name = parts.next().unwrap();
            let workload = WORKLOADS.iter().find(|workload| workload.name == name);
            let mut number = || parts.next().map(|part| part.parse().expect("a number"));
            let seed = number().unwrap_or(trust::seed());
            let workload = workload.unwrap_or_else(|| panic!("no workload {name}"));
            return vec![Task { workload, seed, only: number() }];
        }
        let first = trust::seed() * 1000;
        let with_seed =
            |seed| WORKLOADS.iter().map(move |workload| Task { workload, seed, only: None });
        (first..first + seeds).flat_map(with_seed).collect()
    }

    fn run(&self, effort: Effort) -> Tally {
        // A workload that cannot be recorded is a failure like others: its own reads were wrong, or an open failed.
        let Ok(recording) = catch_unwind(|| (self.workload.record)(self.seed)) else {
            let (name, seed) = (self.workload.name, self.seed);
            let failures = vec![format!("{name}, seed {seed}, in the workload itself: see above")];
            return Tally { failures, ..Tally::default() };
        };
        let mut explorer = Explorer::new(&recording, effort, self.seed);
        let is_asked = |cut: &&Cut| self.only.is_none_or(|only| cut.number == only);
        explorer.explore(recording.cuts.iter().filter(is_asked));
        let mut tally = explorer.tally;
        for failure in &mut tally.failures {
            *failure = format!("{}, seed {}, {failure}", self.workload.name, self.seed);
        }
        tally
    }
}

/// Runs the tasks on all cores.
fn run_all(tasks: &[Task], effort: Effort) -> Tally {
    let (next, total) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let threads = available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let tally = task.run(effort);
                    total.lock().unwrap().add(tally);
                }
            });
        }
    });
    total.into_inner().unwrap()
}

/// How to run the states again of which a failure tells.
fn advice(failure: &str) -> String {
    let size = std::env::var("ESKER_TRUST").unwrap_or_default();
    let mut words = failure.split([' ', ',', ':']).filter(|word| !word.is_empty());
    let name = words.next().unwrap_or_default();
    let mut number_after =
        |word: &str| words.by_ref().skip_while(|w| *w != word).nth(1).unwrap_or("?");
    let seed = number_after("seed");
    // None if the workload itself failed: then all of it is run again.
    let operation = match number_after("operation") {
        "?" => String::new(),
        number => format!("/{number}"),
    };
    format!(
        "ESKER_TRUST={size} ESKER_CRASH_STATE={name}/{seed}{operation} cargo test --test it crash::every"
    )
}

#[test]
fn every_crash_state_is_right() {
    let effort = Effort {
        models: trust::cases(2, 12, 18) as usize,
        nested_permille: trust::cases(2, 10, 30),
        deeper_permille: 10,
    };
    let (seeds, least) = (trust::cases(1, 1, 14), trust::cases(4000, 20_000, 500_000));
    let tasks = Task::all(seeds);
    let tally = run_all(&tasks, effort);
    let (states, failures) = (tally.distinct.len() as u64, tally.failures.len() as u64);
    let details = [
        ("workloads", WORKLOADS.len() as u64),
        ("seeds", seeds),
        ("operations", tally.cuts),
        ("killed", tally.kills),
        ("in_recovery", tally.nested),
        ("in_recovery_of_recovery", tally.deeper),
        ("repeated", tally.repeated),
    ];
    trust::report("crash states", states, failures, &details);
    if let Some(first) = tally.failures.first() {
        let (list, advice) =
            (tally.failures[..tally.failures.len().min(5)].join("\n"), advice(first));
        panic!(
            "{failures} of {states} crash states are wrong; the first:\n{list}\nAgain: {advice}"
        );
    }
    assert!(states >= least || tasks.len() == 1, "{states} states: {details:?}");
}

/// Each workload does to the disk what it is there for.
#[test]
fn every_workload_reaches_its_subject() {
    let mut missed = Vec::new();
    for (workload, seed) in WORKLOADS.iter().flat_map(|workload| [(workload, 0), (workload, 1)]) {
        let recording = (workload.record)(trust::seed() * 1000 + seed);
        assert!(recording.cuts.len() > 30, "{}: {}", workload.name, recording.cuts.len());
        for words in workload.reaches {
            let is_line = |line: &String| words.split(' ').all(|word| line.contains(word));
            if !recording.operations.iter().any(is_line) {
                missed.push(format!("{}, seed {seed}: {words}", workload.name));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// That a merge was sliced shows in its inputs, which go at several moments and not all at the end.
#[test]
fn the_merge_in_slices_lets_its_inputs_go_while_it_runs() {
    let recording = merge_in_slices(0);
    let tables = |cut: &Cut| -> Vec<String> {
        cut.fs.list_dir(DIR).into_iter().filter(|name| name.contains(".table")).collect()
    };
    let inputs = tables(&recording.cuts[0]);
    let left_at = |cut| tables(cut).iter().filter(|name| inputs.contains(name)).count();
    let mut left: Vec<usize> = recording.cuts.iter().map(left_at).collect();
    left.dedup();
    assert!(left.len() > 4, "{} inputs, then {left:?}", inputs.len());
}

/// Recovery removed a replayed segment that nothing needed, and gave it to the log for recycling all the same; the
/// first write then failed to rename it.
#[test]
fn a_replayed_segment_that_was_removed_is_not_recycled() {
    let (setup, fs) = (Setup::small(), SimFs::new());
    let db = setup.open_sim(&fs).unwrap();
    db.put("k", "v").unwrap();
    db.flush().unwrap();
    let db = setup.open_sim(&fs.kill_clone()).unwrap();
    db.put("k", "w").unwrap();
    assert_eq!(db.get("k").unwrap().as_deref(), Some(&b"w"[..]));
}

/// `verify` called the torn tail, which stays in a replayed segment until that is flushed, damage.
#[test]
fn a_tail_torn_by_a_crash_is_no_damage_to_verify() {
    let (setup, fs) = (Setup::small(), SimFs::new());
    let db = setup.open_sim(&fs).unwrap();
    db.put_with("k", "v", &WriteOptions::SYNC).unwrap();
    db.put("torn", "w").unwrap();
    let fs = fs.kill_clone();
    let bytes = fs.read_file("/db/000001.wal").unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    fs.flip("/db/000001.wal", last as u64, 0xff).unwrap();
    let db = setup.open_sim(&fs).unwrap();
    assert!(db.get("k").unwrap().is_some() && db.get("torn").unwrap().is_none());
    check_verified(&db).unwrap();
    // What the writer itself appended is never a torn tail.
    db.put("next", "x").unwrap();
    let bytes = fs.read_file("/db/000002.wal").unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    fs.flip("/db/000002.wal", last as u64, 0xff).unwrap();
    assert!(!db.verify().unwrap().is_ok());
}
