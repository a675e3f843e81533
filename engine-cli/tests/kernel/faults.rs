//! Each system call on the database fails, once or from then on, with errors that a kernel gives.
//!
//! Every command answers `ok` or `err` with a kind and a place; nothing hangs, panics or dies of a signal. Opened again
//! without errors, everything acked is there. After a failed sync of the log or the manifest every write is refused,
//! and the trace shows no second sync of that file.

use std::fs;
use std::path::Path;

use crate::outcome;
use crate::place::Place;
use crate::pool::Suite;
use crate::reopen::{read_state, verify};
use crate::shell::Ended;
use crate::strace::{self, CHANGES, Call, READS, Rehearsed};
use crate::trust;
use crate::workload::{Op, options};

/// How many errors are injected into repetitions of one run.
const ERRORS_OF_ONE: u64 = 60;

/// Kinds of answers that a failing disk can have.
const KINDS: [&str; 3] = ["io", "poisoned", "busy"];

#[test]
fn each_system_call_fails() {
    let suite = Suite::new("kernel: injected errors");
    let cases = trust::cases(16, 480, 20_000);
    if let Some(why) = strace::missing() {
        suite.skip(cases, &why);
        return suite.end();
    }
    let runs = cases.div_ceil(ERRORS_OF_ONE).max(2);
    suite.run_each(runs, |number| inject_each(&suite, number, cases.div_ceil(runs)));
    suite.end();
}

/// An error in one call of a run.
struct Injected {
    call: Call,
    error: &'static str,
    is_forever: bool,
}

impl Injected {
    fn expression(&self) -> String {
        let (name, number) = (&self.call.name, self.call.number);
        let plus = if self.is_forever { "+" } else { "" };
        format!("inject={name}:error={}:when={number}{plus}", self.error)
    }
}

fn inject_each(suite: &Suite, number: u64, count: u64) -> Result<(), String> {
    let mut run = Rehearsed::new(50_000 + 10 * number, 0, 40)?;
    let (db, calls) = run.calls(&format!("{CHANGES},{READS}"))?;
    let calls = calls.into_iter().filter(|call| call.touches(&db)).collect::<Vec<_>>();
    for _ in 0..count {
        // Names first: a run has a hundred writes for each rename.
        let mut names = calls.iter().map(|call| call.name.as_str()).collect::<Vec<_>>();
        names.sort_unstable();
        names.dedup();
        let name = run.dice.pick(&names);
        let calls = calls.iter().filter(|call| call.name == name).collect::<Vec<_>>();
        let call = run.dice.pick(&calls).clone();
        let error = run.dice.pick(&["EIO", "EIO", "ENOSPC", "EINTR"]);
        // EINTR for ever is not an error but a busy kernel. Memory comes from mmap and madvise too, and with all writes
        // gone nobody could be told (full disks are the subject of `full`).
        let may_stay = error != "EINTR" && !["mmap", "madvise", "write"].contains(&name);
        let injected = Injected { call, error, is_forever: may_stay && run.dice.chance(50) };
        let place = Place::new();
        suite.count_case();
        suite.add(if injected.is_forever { "for_ever" } else { "once" }, 1);
        if let Err(what) = inject(suite, &mut run, &place, &injected) {
            let what = format!("{} of {:?}: {what}", injected.expression(), run.options);
            suite.fail(place.keep(&format!("seed {}, run {number}: {what}", trust::seed())));
        }
    }
    Ok(())
}

fn inject(
    suite: &Suite,
    run: &mut Rehearsed,
    place: &Place,
    injected: &Injected,
) -> Result<(), String> {
    let trace = place.file("trace");
    let names = format!("trace=fsync,fdatasync,write,{}", injected.call.name);
    let (ended, answers) = run.run(place, &[names, injected.expression()], &trace);
    let told = format!("{}; answers {:?}", ended.told(), unique(&answers));
    check_end(&ended, &place.db()).map_err(|what| format!("{what}: {told}"))?;
    for answer in answers.iter().filter(|answer| *answer != "ok") {
        let kind = answer.split(' ').nth(1).unwrap_or_default();
        if !answer.starts_with("err ") || !KINDS.contains(&kind) || !answer.contains(": ") {
            return Err(format!("a command answered {answer:?}: {told}"));
        }
    }
    if answers.iter().any(|answer| answer != "ok") {
        suite.add("err_answers", 1);
    }
    if answers.is_empty() {
        suite.add("refused_to_open", 1);
    }
    let calls = strace::parse(&fs::read_to_string(&trace).unwrap());
    check_trace(suite, &calls, &run.ops, &answers, injected)
        .map_err(|what| format!("{what}: {told}"))?;
    let options = options(&mut run.dice, 0);
    let found = read_state(&place.db(), &options, &mut run.dice)?;
    outcome::check(&run.state, &run.ops, &answers, &found)
        .map_err(|what| format!("{what}: {told}"))?;
    verify(&place.db())
}

/// It ended by itself: in order, or with a line that says which file it was.
fn check_end(ended: &Ended, db: &Path) -> Result<(), String> {
    match ended.code {
        Some(0) if ended.stderr.is_empty() => Ok(()),
        // 4 and 6 are errors of the system and refusals; 0 with words on stderr is neither.
        Some(4 | 6) => {
            let line = ended.stderr.trim_end_matches('\n');
            let names_a_place =
                line.contains(db.to_str().unwrap()) || line.contains("standard output");
            let is_told = line.starts_with("error: ")
                && line.lines().count() == 1
                && line.matches(": ").count() >= 3
                && !line.contains("SIGBUS");
            if is_told && names_a_place {
                Ok(())
            } else {
                Err("it does not say what failed".into())
            }
        }
        _ => Err("it ended badly".into()),
    }
}

/// After a failed sync of the log or the manifest: no sync of that file again, no write accepted.
fn check_trace(
    suite: &Suite,
    calls: &[Call],
    ops: &[Op],
    answers: &[String],
    injected: &Injected,
) -> Result<(), String> {
    let is_sync = |call: &Call| ["fsync", "fdatasync"].contains(&call.name.as_str());
    let failed = |call: &Call| call.line.contains("(INJECTED)") && is_sync(call);
    let Some(first) = calls.iter().position(failed) else { return Ok(()) };
    let path = calls[first].line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    let (path, _) = path.ok_or("a sync of no file")?;
    let is_log = path.contains(".wal") || path.contains("/MANIFEST-");
    // EINTR says that nothing happened, so asking again is right.
    if !is_log || injected.error == "EINTR" {
        return Ok(());
    }
    suite.add("failed_log_syncs", 1);
    let again = format!("<{path}>");
    let later = &calls[first + 1..];
    if let Some(call) = later.iter().find(|call| is_sync(call) && call.line.contains(&again)) {
        return Err(format!("after a failed sync, another one: {}", call.line));
    }
    let answered = calls[..first].iter().filter(|call| call.is_answer()).count();
    let after = ops.iter().zip(answers).skip(answered + 1);
    match after.filter(|(op, _)| !op.edits.is_empty()).find(|(_, answer)| *answer == "ok") {
        Some((op, _)) => {
            Err(format!("the sync of {path} failed, but {:?} is acked", op.text.get(..20)))
        }
        None => Ok(()),
    }
}

fn unique(answers: &[String]) -> Vec<&String> {
    let mut answers = answers.iter().collect::<Vec<_>>();
    answers.dedup();
    answers
}
