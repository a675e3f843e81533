//! `kill -9` at the Nth system call, for each N and each call that changes something.
//!
//! Where [`kill`](crate::kill) hits where it hits, this hits every gap between two changes of the disk that the kernel
//! can see: in the recovery of a crashed database, in its work afterwards, in flushes and merges, and in the close.

use std::collections::BTreeSet;
use std::path::Path;

use crate::place::Place;
use crate::pool::Suite;
use crate::reopen::{check_no_waste, read_state};
use crate::strace::{self, CHANGES, Rehearsed};
use crate::trust;
use crate::workload::{matching_prefix, options};

/// How many calls of one run a sweep takes at most.
const CALLS_OF_ONE_MAX: usize = 250;

#[test]
fn killed_at_each_system_call() {
    let suite = Suite::new("kernel: kills at a system call");
    let cases = trust::cases(12, 600, 10_000);
    if let Some(why) = strace::missing() {
        suite.skip(cases, &why);
        return suite.end();
    }
    // One sweep for each thread at least; and if a run makes few calls, more of them.
    let sweeps = (cases / 150).max(2);
    let of_each = (cases / sweeps).min(CALLS_OF_ONE_MAX as u64) as usize;
    suite.run_each(sweeps, |number| sweep(&suite, number, of_each.max(1)));
    suite.end();
}

/// Kills one run at `count` of its calls, or at all if there are not more.
fn sweep(suite: &Suite, number: u64, count: usize) -> Result<(), String> {
    // With background threads the same call need not come again; most sweeps do without.
    let background_threads = if number % 4 == 3 { 2 } else { 0 };
    let mut run = Rehearsed::new(10_000 + 10 * number, background_threads, 40)?;
    let (db, calls) = run.calls(CHANGES)?;
    let calls = calls.iter().filter(|call| call.touches(&db) || call.is_answer());
    let mut points = calls.map(|call| (call.name.clone(), call.number)).collect::<BTreeSet<_>>();
    while points.len() > count {
        let index = run.dice.below(points.len() as u64) as usize;
        let point = points.iter().nth(index).unwrap().clone();
        points.remove(&point);
    }
    for (name, nth) in points {
        let place = Place::new();
        if let Err(what) = kill_at(suite, &mut run, &place, &name, nth) {
            let what = format!("killed at {name} {nth} of {:?}: {what}", run.options);
            suite.fail(place.keep(&format!("seed {}, sweep {number}: {what}", trust::seed())));
        }
    }
    Ok(())
}

fn kill_at(
    suite: &Suite,
    run: &mut Rehearsed,
    place: &Place,
    name: &str,
    nth: u64,
) -> Result<(), String> {
    let inject = format!("inject={name}:signal=KILL:when={nth}");
    let (ended, answers) =
        run.run(place, &[format!("trace={name}"), inject], Path::new("/dev/null"));
    if ended.is_hung {
        return Err("it hangs".to_owned());
    }
    suite.count_case();
    if ended.signal.is_none() {
        ended.clean()?;
        suite.add("not_reached", 1);
    }
    if let Some(wrong) = answers.iter().find(|answer| *answer != "ok") {
        return Err(format!("a command answered {wrong:?}"));
    }
    let options = options(&mut run.dice, nth % 3);
    let found = read_state(&place.db(), &options, &mut run.dice)?;
    matching_prefix(&run.state, &run.ops, (answers.len(), answers.len() + 1), &found)?;
    check_no_waste(&place.db())
}
