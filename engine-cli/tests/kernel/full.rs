//! Disks that are full: small file systems (ext4, tmpfs) and a limit on the size of files, filled until nothing goes.
//!
//! A cycle: fill until commands fail; the error says what, where and what to do; reads go on, in the process and in a
//! new one; then room is made, everything acked is there, deletes and a compaction give space back, and the next
//! cycle begins on the same database.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::dice::Dice;
use crate::mounts::{Mounted, in_own_mounts, make_ext4};
use crate::outcome;
use crate::place::Place;
use crate::pool::Suite;
use crate::reopen::{check_no_waste, read_state, scanned, verify};
use crate::shell::{Ended, Shell, shell_arguments, wrapped};
use crate::trust;
use crate::workload::{KEYSPACES, Op, State, Workload, text};

/// How many cycles one file system lives through.
const CYCLES_OF_ONE: u64 = 4;

/// How large the file systems are.
const DISK_KIB: u64 = 8 << 10;

/// How many commands are sent at a time, how many times at most, and how many failures are enough.
const CHUNK: u64 = 200;
const CHUNKS_MAX: usize = 60;
const FAILURES_ENOUGH: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ext4,
    Tmpfs,
    /// `ulimit -f`.
    FileSize,
}

impl Kind {
    /// What is kept back until room is made: somewhat more than the database can take, because a merge of everything
    /// needs that much again.
    fn ballast_kib(self) -> Option<usize> {
        match self {
            Kind::Ext4 => Some(3584),
            Kind::Tmpfs => Some(4608),
            Kind::FileSize => None,
        }
    }
}

const KINDS: [Kind; 3] = [Kind::FileSize, Kind::Ext4, Kind::Tmpfs];

#[test]
fn nothing_goes_on_the_disk_any_more() {
    in_own_mounts("full::nothing_goes_on_the_disk_any_more", || {
        let suite = Suite::new("kernel: full disks");
        let cycles = trust::cases(3, 60, 1000);
        let lives = cycles.div_ceil(CYCLES_OF_ONE).max(KINDS.len() as u64);
        suite.run_each(lives, |life| live(&suite, life, cycles.div_ceil(lives)));
        suite.end();
    });
}

fn live(suite: &Suite, life: u64, cycles: u64) -> Result<(), String> {
    let kind = KINDS[(life % KINDS.len() as u64) as usize];
    let place = Place::new();
    let mounted = match mount(kind, &place) {
        Ok(mounted) => mounted,
        Err(why) => {
            suite.skip(cycles, &format!("{kind:?}: {why}"));
            return Ok(());
        }
    };
    let mut filled = Filled::new(kind, place.file("disk"), life);
    for cycle in 0..cycles {
        suite.count_case();
        if let Err(what) = filled.cycle() {
            let kept = place.file("kept");
            let _ = std::process::Command::new("cp").arg("-a").args([&filled.dir, &kept]).status();
            drop(mounted);
            return Err(place.keep(&format!("{kind:?}, cycle {cycle}: {what}")));
        }
        suite.add(filled.name(), 1);
        suite.add("poisoned", std::mem::take(&mut filled.poisoned_count));
    }
    Ok(())
}

fn mount(kind: Kind, place: &Place) -> Result<Option<Mounted>, String> {
    let dir = place.file("disk");
    match kind {
        Kind::FileSize => {
            fs::create_dir(dir).unwrap();
            Ok(None)
        }
        Kind::Tmpfs => Mounted::tmpfs(&dir, DISK_KIB).map(Some),
        Kind::Ext4 => {
            let image = place.file("image");
            make_ext4(&image, DISK_KIB, "-J size=1")?;
            Mounted::ext4(&image, &dir, "data=ordered").map(Some)
        }
    }
}

/// One file system, the database on it, and what must be in that.
struct Filled {
    kind: Kind,
    dir: PathBuf,
    dice: Dice,
    workload: Workload,
    state: State,
    poisoned_count: u64,
}

impl Filled {
    fn new(kind: Kind, dir: PathBuf, life: u64) -> Self {
        let seed = trust::seed();
        let mut workload = Workload::new(seed, 5000 + life);
        workload.key_count = 6000;
        workload.value_bytes_max = 4000;
        workload.keyspace_percent = 0;
        workload.sync_percent = 5;
        workload.upkeep_per_mille = 4;
        let dice = Dice::new(seed, 6000 + life);
        Filled { kind, dir, dice, workload, state: State::new(), poisoned_count: 0 }
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Ext4 => "ext4",
            Kind::Tmpfs => "tmpfs",
            Kind::FileSize => "file_size",
        }
    }

    fn db(&self) -> PathBuf {
        self.dir.join("db")
    }

    fn options(&mut self) -> Vec<String> {
        let mut options = Vec::new();
        let mut set = |name: &str, choices: &[&str]| {
            options.push(format!("{name}={}", self.dice.pick(choices)));
        };
        set("background_threads", &["0", "1", "2"]);
        set("compaction", &["leveled", "size_tiered", "lazy_leveled"]);
        set("compression", &["none", "none", "snap"]);
        set("read_mode", &["mmap", "pread"]);
        set("wal_mode", &["map", "write"]);
        set("wal_segment_bytes", &["65536", "131072", "262144"]);
        // Tables larger than the limit on files; on a small disk either tables or the log are what does not fit.
        let sizes: &[&str] = match self.kind {
            Kind::FileSize => &["1048576"],
            Kind::Ext4 | Kind::Tmpfs => &["65536", "262144", "4194304", "4194304"],
        };
        set("memtable_bytes", sizes);
        set("table_bytes", &["65536", "1048576"]);
        options
    }

    /// The program under the limit on files, if that is the kind.
    fn limited(&mut self, arguments: &[String]) -> Shell {
        let kib = self.dice.pick(&[64, 192, 256, 512]);
        let script = format!("ulimit -f {kib} && exec \"$@\"");
        let prefix = ["bash", "-c", &script, "bash"].map(str::to_owned);
        let prefix = if self.kind == Kind::FileSize { &prefix[..] } else { &[] };
        Shell::start(wrapped(prefix, arguments))
    }

    fn cycle(&mut self) -> Result<(), String> {
        let ballast = self.dir.join("ballast");
        if let Some(kib) = self.kind.ballast_kib() {
            fs::write(&ballast, vec![1; kib << 10]).map_err(|error| format!("ballast: {error}"))?;
        }
        let options = self.options();
        let told = |what| format!("{what} with {options:?}");
        let mut shell = self.limited(&shell_arguments(&self.db(), &options));
        let (ops, answers) = self.fill(&mut shell).map_err(told)?;
        self.poisoned_count +=
            u64::from(answers.iter().any(|answer| answer.starts_with("err poisoned")));
        let has_failed = answers.len() < ops.len();
        if !has_failed {
            self.read_on(&mut shell, &ops, &answers).map_err(told)?;
        }
        let ended = shell.end();
        check_end(&ended, &self.db()).map_err(told)?;
        // It may refuse to open, but once it answers it goes on.
        if has_failed && (ended.code == Some(0) || !answers.is_empty()) {
            return Err(told(format!("it stopped after {} answers", answers.len())));
        }
        self.run_once(&options).map_err(told)?;
        if self.kind.ballast_kib().is_some() {
            fs::remove_file(&ballast).unwrap();
        }
        let found = self.read().map_err(|what| told(format!("with room again: {what}")))?;
        outcome::check(&self.state, &ops, &answers, &found)
            .map_err(|what| told(format!("with room again: {what}")))?;
        self.state = found;
        self.shrink(&options).map_err(told)
    }

    /// Sends commands until enough have failed.
    fn fill(&mut self, shell: &mut Shell) -> Result<(Vec<Op>, Vec<String>), String> {
        let (mut ops, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..CHUNKS_MAX {
            let chunk = self.workload.ops(CHUNK);
            shell.feed(text(&chunk), false);
            ops.extend(chunk);
            while answers.len() < ops.len() {
                let Some(answer) = shell.read() else { return Ok((ops, answers)) };
                check_answer(&answer, &self.db())?;
                answers.push(answer);
            }
            if answers.iter().filter(|answer| *answer != "ok").count() >= FAILURES_ENOUGH {
                return Ok((ops, answers));
            }
        }
        Err("it never gets full".to_owned())
    }

    /// The process that could not write reads.
    fn read_on(&mut self, shell: &mut Shell, ops: &[Op], answers: &[String]) -> Result<(), String> {
        shell.feed("scan . . 1000000\n".to_owned(), false);
        let mut lines = Vec::new();
        while let Some(line) = shell.read() {
            let is_last = !line.starts_with("= ");
            lines.push(line);
            if is_last {
                break;
            }
        }
        let entries = scanned(&mut lines.into_iter())?.into_iter();
        let found = entries.map(|(key, value)| ((KEYSPACES[0], key), value)).collect::<State>();
        outcome::check(&self.state, ops, answers, &found)
            .map_err(|what| format!("reads on a full disk: {what}"))
    }

    /// New processes on the full disk: one that reads must work, one that writes says what is wrong.
    fn run_once(&mut self, options: &[String]) -> Result<(), String> {
        let arguments = |words: &[&str]| {
            let mut list = shell_arguments(&self.db(), options);
            words[0].clone_into(&mut list[2]);
            list.extend(words[1..].iter().map(|word| (*word).to_owned()));
            list
        };
        if self.db().join("CURRENT").exists() {
            let scan = arguments(&["scan", "--count"]);
            let output = wrapped(&[], &scan).stdin(Stdio::null()).output().unwrap();
            if output.status.code() != Some(0) {
                return Err(format!("reading on a full disk: {output:?}"));
            }
        }
        let put = arguments(&["put", "one-more", "value"]);
        check_end(&self.limited(&put).end(), &self.db())
    }

    fn read(&mut self) -> Result<State, String> {
        let options = self.options();
        let mut found = read_state(&self.db(), &options, &mut self.dice)?;
        found.remove(&(KEYSPACES[0], "one-more".to_owned()));
        Ok(found)
    }

    /// Deletes most of it. That and a compaction must succeed, and give space back.
    fn shrink(&mut self, options: &[String]) -> Result<(), String> {
        let keys = self.state.keys().map(|(_, key)| key.clone()).collect::<Vec<_>>();
        let gone = keys.iter().filter(|_| self.dice.chance(95)).cloned().collect::<Vec<_>>();
        let deletes = gone.iter().flat_map(|key| ["del ", key, "\n"]).collect::<String>();
        let mut shell = Shell::on(&self.db(), options);
        shell.feed(deletes + "del one-more\ncompact\nquit\n", true);
        for _ in 0..gone.len() + 2 {
            let answer = shell.read().unwrap_or_default();
            if answer != "ok" {
                return Err(format!(
                    "deleting with room again: {answer:?}, {}",
                    shell.kill().told()
                ));
            }
        }
        shell.end().clean().map_err(|what| format!("deleting with room again: {what}"))?;
        for key in gone {
            self.state.remove(&(KEYSPACES[0], key));
        }
        let found = self.read()?;
        if found != self.state {
            return Err("deleting leaves something else than the rest".to_owned());
        }
        verify(&self.db())?;
        check_no_waste(&self.db())?;
        let bytes = fs::read_dir(self.db()).unwrap();
        let bytes = bytes.map(|entry| entry.unwrap().metadata().unwrap().len()).sum::<u64>();
        if bytes > 2 << 20 {
            return Err(format!("after deleting and compacting it takes {bytes} bytes"));
        }
        Ok(())
    }
}

/// An error of a command says what, where and what to do.
fn check_answer(answer: &str, db: &Path) -> Result<(), String> {
    let is_told =
        ["err io ", "err poisoned ", "err busy "].iter().any(|kind| answer.starts_with(kind))
            && answer.contains(db.to_str().unwrap())
            && answer.matches(": ").count() >= 2;
    if answer == "ok" || is_told { Ok(()) } else { Err(format!("a command answered {answer:?}")) }
}

/// It ended by itself, in order or with a line that says what, where and what to do.
fn check_end(ended: &Ended, db: &Path) -> Result<(), String> {
    let line = ended.stderr.trim_end_matches('\n');
    let is_told = line.starts_with("error: ")
        && line.lines().count() == 1
        && line.matches(": ").count() >= 3
        && line.contains(db.to_str().unwrap())
        && !line.contains("SIGBUS");
    match ended.code {
        Some(0) if line.is_empty() => Ok(()),
        Some(4 | 6) if is_told => Ok(()),
        _ => Err(format!("it ended badly: {}", ended.told())),
    }
}
