//! Runs the cases of a suite on all cores, and leaves its figures.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::trust;

/// More failures than this are not collected: the first ones say enough.
const FAILURES_MAX: usize = 20;

/// The figures of a suite while it runs.
pub struct Suite {
    name: &'static str,
    cases: AtomicU64,
    details: Mutex<BTreeMap<&'static str, u64>>,
    failures: Mutex<Vec<String>>,
}

impl Suite {
    pub fn new(name: &'static str) -> Self {
        Suite {
            name,
            cases: AtomicU64::new(0),
            details: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// One more case was tried.
    pub fn count_case(&self) {
        self.cases.fetch_add(1, Ordering::Relaxed);
    }

    pub fn cases(&self) -> u64 {
        self.cases.load(Ordering::Relaxed)
    }

    /// Adds to the figure called `name`.
    pub fn add(&self, name: &'static str, count: u64) {
        *self.details.lock().unwrap().entry(name).or_default() += count;
    }

    /// The figure called `name`.
    pub fn detail(&self, name: &str) -> u64 {
        self.details.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// Leaves out `count` cases, and says why.
    pub fn skip(&self, count: u64, why: &str) {
        self.add("skipped", count);
        say(&format!("{}: skipped: {why}", self.name));
    }

    pub fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }

    /// Runs `run` with each number below `count`, on all cores. Stops early when many have failed.
    pub fn run_each(&self, count: u64, run: impl Fn(u64) -> Result<(), String> + Sync) {
        let next = AtomicU64::new(0);
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count || self.failures.lock().unwrap().len() >= FAILURES_MAX {
                    return;
                }
                if let Err(what) = run(number) {
                    let seed = trust::seed();
                    self.fail(format!("{}, seed {seed}, number {number}: {what}", self.name));
                }
            }
        };
        let threads = thread::available_parallelism().map_or(2, NonZero::get);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }

    /// Leaves the figures, then fails if anything has.
    pub fn end(self) {
        let failures = self.failures.into_inner().unwrap();
        let details = self.details.into_inner().unwrap();
        let details = details.into_iter().collect::<Vec<_>>();
        let cases = self.cases.into_inner();
        trust::report(self.name, cases, failures.len() as u64, &details);
        say(&format!("{}: {cases} cases, seed {}, {details:?}", self.name, trust::seed()));
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    }
}

/// Says something to whoever reads the output of the test.
#[expect(clippy::print_stderr, reason = "what was skipped, and the figures, are for people too")]
pub fn say(text: &str) {
    eprintln!("{text}");
}
