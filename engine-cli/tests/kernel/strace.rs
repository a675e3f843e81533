//! `strace`: which system calls a run makes, and runs in which one of them goes wrong.
//!
//! A crashed database is made first. The run on it then recovers, works and closes; it is traced once to number its
//! calls, and each case repeats it on a copy. strace counts calls by name and thread, so without background threads
//! the Nth call of a name is the same in each repetition.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::dice::Dice;
use crate::place::{Place, copy_files};
use crate::reopen::read_state;
use crate::shell::{Ended, Shell, shell_arguments, wrapped};
use crate::trust;
use crate::workload::{Op, State, Workload, options, text};

/// Calls that change something, in the file system or for whoever reads the answers. Not every machine has all.
pub const CHANGES: &str = "?write,?pwrite64,?fsync,?fdatasync,?sync_file_range,?rename,?renameat,?renameat2,?unlink,\
                           ?unlinkat,?mkdir,?mkdirat,?openat,?ftruncate,?fallocate,?mmap,?msync";

/// Calls that read.
pub const READS: &str =
    "?read,?pread64,?statx,?newfstatat,?fstat,?getdents64,?flock,?madvise,?lseek";

/// Why it cannot be used here, if so.
pub fn missing() -> Option<String> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "true"]).stdin(Stdio::null());
    match command.output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("strace: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("strace: {error}")),
    }
}

/// One system call of a run.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// The how manieth of its name in its thread, from 1.
    pub number: u64,
    /// The line in which strace tells it, with the paths of file descriptors.
    pub line: String,
}

impl Call {
    pub fn is_answer(&self) -> bool {
        self.name == "write" && self.line.contains("write(1<")
    }

    pub fn touches(&self, dir: &Path) -> bool {
        self.line.contains(dir.to_str().unwrap())
    }
}

/// A crashed database, and a run that can be repeated on copies of it.
pub struct Rehearsed {
    place: Place,
    /// What is in the crashed database.
    pub state: State,
    /// The commands of the run.
    pub ops: Vec<Op>,
    pub options: Vec<String>,
    pub dice: Dice,
}

impl Rehearsed {
    pub fn new(stream: u64, background_threads: u64, op_count: u64) -> Result<Self, String> {
        let seed = trust::seed();
        let mut dice = Dice::new(seed, stream);
        let place = Place::new();
        let crashed = place.file("crashed");
        let mut workload = Workload::new(seed, stream + 1);
        workload.upkeep_per_mille = 60;
        let mut options = options(&mut dice, background_threads);
        let ops = workload.ops(60);
        let mut shell = Shell::on(&crashed, &options);
        shell.feed(text(&ops), false);
        let acked = ops.iter().map_while(|_| shell.read()).filter(|answer| answer == "ok").count();
        let ended = shell.kill();
        if acked < ops.len() {
            return Err(place.keep(&format!("{acked} of {} acked: {}", ops.len(), ended.told())));
        }
        // Reading recovers and closes, so it is done on a copy.
        let copy = place.file("copy");
        copy_files(&crashed, &copy);
        let state = read_state(&copy, &options, &mut dice)?;
        let mut ops = workload.ops(op_count);
        // Whatever was drawn, each run flushes and merges once.
        let plain = |text: &str| Op { text: text.to_owned(), edits: vec![], is_durable: true };
        ops.insert(ops.len() / 2, plain("flush\n"));
        ops.push(plain("compact\n"));
        options.retain(|option| !option.starts_with("async_interval_ms"));
        Ok(Rehearsed { place, state, ops, options, dice })
    }

    /// The calls of the run that are among `names`, in their order.
    pub fn calls(&self, names: &str) -> Result<(PathBuf, Vec<Call>), String> {
        let copy = Place::new();
        let trace = copy.file("trace");
        let (ended, _) = self.run(&copy, &[format!("trace={names}")], &trace);
        ended.clean().map_err(|what| copy.file("trace").display().to_string() + ": " + &what)?;
        Ok((copy.db(), parse(&fs::read_to_string(&trace).unwrap())))
    }

    /// Repeats the run in `place` under strace, with these `-e` expressions. Gives its end and all of its answers.
    pub fn run(&self, place: &Place, expressions: &[String], trace: &Path) -> (Ended, Vec<String>) {
        copy_files(&self.place.file("crashed"), &place.db());
        let mut prefix = ["strace", "-f", "-qq", "-y", "-o"].map(str::to_owned).to_vec();
        prefix.push(trace.display().to_string());
        prefix.extend(expressions.iter().flat_map(|text| ["-e".to_owned(), text.clone()]));
        let arguments = shell_arguments(&place.db(), &self.options);
        let mut shell = Shell::start(wrapped(&prefix, &arguments));
        shell.feed(text(&self.ops) + "quit\n", true);
        let ended = shell.end();
        let answers = ended.answers.clone();
        (ended, answers)
    }
}

/// The calls in what strace has written. A call that was interrupted by another thread is told by its first line.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut counts = BTreeMap::<(&str, &str), u64>::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            continue;
        }
        let number = counts.entry((thread, name)).or_default();
        *number += 1;
        calls.push(Call { name: name.to_owned(), number: *number, line: line.to_owned() });
    }
    calls
}

#[test]
fn calls_are_numbered_by_thread_and_name() {
    let trace = "7  openat(AT_FDCWD</x>, \"/x/y\", O_RDONLY) = 3</x/y>\n7  write(1</dev/pts/0>, \"ok\", 2) = 2\n\
                 8  openat(AT_FDCWD</x>, \"/z\", O_RDONLY <unfinished ...>\n8  <... openat resumed>) = 4</z>\n\
                 7  openat(AT_FDCWD</x>, \"/z\", O_RDONLY) = 4</z>\n7  +++ exited with 0 +++\n";
    let calls = parse(trace);
    let seen = calls.iter().map(|call| (call.name.as_str(), call.number)).collect::<Vec<_>>();
    assert_eq!(seen, [("openat", 1), ("write", 1), ("openat", 1), ("openat", 2)]);
    assert!(calls[0].touches(Path::new("/x/y")) && !calls[3].touches(Path::new("/x/y")));
    assert!(calls[1].is_answer() && !calls[0].is_answer());
}
