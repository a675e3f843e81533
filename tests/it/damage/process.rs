//! Processes that share the cases of a sweep, each with one thread and a limit of 256 MiB of address space.
//!
//! An allocation beyond that is an abort; a panic outside of the oracle, a signal and a hang end the process too. Its
//! parent learns from a file which case was at work. `ESKER_DAMAGE_CASE=N` runs that case alone.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::trust;

/// What a process may have mapped; a limit of memory that even untouched allocations cannot pass.
const ADDRESS_SPACE_KIB: u64 = 256 << 10;
/// A case takes milliseconds. One that takes longer than this hangs.
const CASE_LIMIT: Duration = Duration::from_secs(60);
const SHARE: &str = "ESKER_DAMAGE_SHARE";
const PLACE: &str = "ESKER_DAMAGE_PLACE";
const CASE: &str = "ESKER_DAMAGE_CASE";
const FAILURES_TOLD_MAX: u64 = 20;

/// What one process does of a sweep.
pub(super) struct Share {
    sweep: String,
    index: u64,
    count: u64,
    only: Option<u64>,
    progress: File,
    begun: Arc<AtomicU64>,
    cases: Cell<u64>,
    failures: Cell<u64>,
}

impl Share {
    /// The share that the environment gives this process.
    pub(super) fn of_this_process() -> Option<Share> {
        let text = std::env::var(SHARE).ok()?;
        let mut parts = text.split(' ');
        let mut next = || parts.next().unwrap().to_owned();
        let (sweep, index, count) = (next(), next().parse().unwrap(), next().parse().unwrap());
        let only = std::env::var(CASE).ok().map(|text| text.parse().expect("a number"));
        let progress = File::create(std::env::var(PLACE).unwrap()).unwrap();
        let begun = Arc::new(AtomicU64::new(0));
        watch(Arc::clone(&begun));
        let (cases, failures) = (Cell::new(0), Cell::new(0));
        Some(Share { sweep, index, count, only, progress, begun, cases, failures })
    }

    pub(super) fn sweep(&self) -> &str {
        &self.sweep
    }

    /// Whether the case is one of this process.
    pub(super) fn has(&self, number: u64) -> bool {
        self.only.map_or(number % self.count == self.index, |only| only == number)
    }

    /// Notes that a case begins.
    pub(super) fn begin(&self, number: u64, describe: impl FnOnce() -> String) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.cases.set(self.cases.get() + 1);
        let text = format!("case {number}, {:<120}", describe());
        self.progress.write_all_at(text.as_bytes(), 0).unwrap();
    }

    pub(super) fn failure(&self, number: u64, case: &str, what: &str) {
        self.failures.set(self.failures.get() + 1);
        if self.failures.get() <= FAILURES_TOLD_MAX {
            say(&format!("failure case {number}, {case}: {}", what.replace('\n', " ")));
        }
    }

    pub(super) fn count(name: &str, count: u64) {
        say(&format!("count {count} {name}"));
    }

    /// Tells the parent that all cases were run.
    pub(super) fn end(&self) {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        say(&format!("peak {}", peak_kib << 10));
        say(&format!("end {} {}", self.cases.get(), self.failures.get()));
    }
}

/// Says a line to the parent. It begins anew: libtest writes without ends of lines.
fn say(line: &str) {
    std::io::stdout().write_all(format!("\ndamage: {line}\n").as_bytes()).unwrap();
}

/// Ends the process if a case does not end.
fn watch(begun: Arc<AtomicU64>) {
    thread::spawn(move || {
        loop {
            let before = begun.load(Ordering::Relaxed);
            thread::sleep(CASE_LIMIT);
            if before == begun.load(Ordering::Relaxed) {
                say("failure a case hangs: ");
                std::process::abort();
            }
        }
    });
}

/// What a sweep came to.
pub(super) struct Outcome {
    cases: u64,
    failed: u64,
    failures: Vec<String>,
    counts: Vec<(String, u64)>,
}

impl Outcome {
    /// Reports the figures, and fails if any case did.
    pub(super) fn report(&self, suite: &str, details: &[&str]) {
        let value = |name: &str| {
            let found = self.counts.iter().find(|(known, _)| known == name);
            found.map_or(0, |(_, count)| *count)
        };
        let details: Vec<_> = details.iter().map(|name| (*name, value(name))).collect();
        trust::report(suite, self.cases, self.failed, &details);
        assert!(self.cases > 0, "no cases");
        assert!(
            self.failed == 0,
            "seed {}: {} of {} cases failed:\n{}",
            trust::seed(),
            self.failed,
            self.cases,
            self.failures.join("\n")
        );
    }

    fn add(&mut self, name: &str, count: u64) {
        match self.counts.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) if name == "peak_rss_bytes" => *sum = count.max(*sum),
            Some((_, sum)) => *sum += count,
            None => self.counts.push((name.to_owned(), count)),
        }
    }

    /// Takes in what a process said.
    fn hear(&mut self, said: &str) -> bool {
        let mut has_ended = false;
        for line in said.lines().filter_map(|line| line.strip_prefix("damage: ")) {
            let (word, rest) = line.split_once(' ').unwrap();
            let numbers = rest.split(' ').map_while(|word| word.parse().ok()).collect::<Vec<u64>>();
            match (word, numbers.as_slice()) {
                ("failure", _) => self.failures.push(rest.to_owned()),
                ("count", [count, ..]) => self.add(rest.split_once(' ').unwrap().1, *count),
                ("peak", [bytes]) => self.add("peak_rss_bytes", *bytes),
                ("end", [cases, failed]) => {
                    self.cases += cases;
                    self.failed += failed;
                    has_ended = true;
                }
                _ => panic!("a child says {line}"),
            }
        }
        has_ended
    }
}

fn start(sweep: &str, index: u64, count: u64, progress: &Path) -> Child {
    // Many arenas would take the address space that is to measure the engine.
    // A sanitizer maps more than that for itself.
    let limit = match std::env::var_os("ESKER_ADDRESS_SPACE_UNLIMITED") {
        None => format!("ulimit -v {ADDRESS_SPACE_KIB} && "),
        Some(_) => String::new(),
    };
    let script = format!("{limit}exec \"$0\" \"$@\"");
    Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "damage::child", "--nocapture", "--test-threads=1"])
        .env(SHARE, format!("{sweep} {index} {count}"))
        .env(PLACE, progress)
        .env("MALLOC_ARENA_MAX", "1")
        // A backtrace needs memory, which may be what is missing.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Runs a sweep in as many processes as there are cores.
pub(super) fn run(sweep: &str) -> Outcome {
    let is_single = std::env::var_os(CASE).is_some();
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let count = if is_single { 1 } else { cores };
    let place = tempfile::tempdir().unwrap();
    let progress = |index: u64| place.path().join(index.to_string());
    let children: Vec<_> =
        (0..count).map(|index| start(sweep, index, count, &progress(index))).collect();
    let mut outcome = Outcome { cases: 0, failed: 0, failures: Vec::new(), counts: Vec::new() };
    for (index, mut child) in (0..count).zip(children) {
        let mut said = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut said).unwrap();
        let status = child.wait().unwrap();
        if !outcome.hear(&String::from_utf8_lossy(&said)) {
            let case = fs::read_to_string(progress(index)).unwrap_or_default();
            let how = match status.signal() {
                Some(signal) => format!("signal {signal}"),
                None => format!("code {:?}", status.code()),
            };
            outcome.failed += 1;
            outcome.cases += 1;
            outcome.failures.push(format!("a process ended by {how} in {}", case.trim_end()));
        }
    }
    outcome
}
