//! The program on a pipe: commands in, answers out, and an end of one kind or another.
//!
//! Commands are written by a thread of their own, so the program is never short of work while the test reads answers.
//! An answer is a whole line: what a killed program began to write is none. Each program has a watch that kills it,
//! with all that it started, if it does not end in time.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A program that takes longer hangs. Generous, because strace is slow and machines are shared.
const HANG: Duration = Duration::from_secs(90);

/// The program, without anything of ours in its environment.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine-cli"));
    command.env_remove("ENGINE_DB").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Puts `prefix` (a program and its arguments) before the program of a command.
pub fn wrapped(prefix: &[String], arguments: &[String]) -> Command {
    let Some((first, rest)) = prefix.split_first() else {
        let mut command = program();
        command.args(arguments);
        return command;
    };
    let mut command = Command::new(first);
    command.env_remove("ENGINE_DB").env("NO_COLOR", "1");
    command.args(rest).arg(env!("CARGO_BIN_EXE_engine-cli")).args(arguments);
    command
}

/// The arguments of a shell on the database in `db`.
pub fn shell_arguments(db: &Path, options: &[String]) -> Vec<String> {
    let mut arguments = vec!["--db".to_owned(), db.display().to_string(), "shell".to_owned()];
    for option in options {
        arguments.extend(["--option".to_owned(), option.clone()]);
    }
    arguments
}

/// A running program.
pub struct Shell {
    child: Child,
    stdin: Option<ChildStdin>,
    feeder: Option<JoinHandle<Option<ChildStdin>>>,
    answers: BufReader<ChildStdout>,
    watch: Watch,
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// The answers that nobody had read yet.
    pub answers: Vec<String>,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stderr: String,
    pub is_hung: bool,
}

impl Ended {
    /// Ended by itself, in good order.
    pub fn clean(&self) -> Result<(), String> {
        let is_clean = self.code == Some(0) && self.stderr.is_empty() && !self.is_hung;
        if is_clean { Ok(()) } else { Err(self.told()) }
    }

    pub fn told(&self) -> String {
        let Ended { answers, code, signal, stderr, is_hung } = self;
        let hangs = if *is_hung { "it hangs; " } else { "" };
        let count = answers.len();
        format!("{hangs}exit code {code:?}, signal {signal:?}, {count} answers, stderr {stderr:?}")
    }
}

impl Shell {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).spawn().unwrap();
        let watch = Watch::start(child.id());
        let stdin = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Shell { child, stdin, feeder: None, answers, watch }
    }

    pub fn on(db: &Path, options: &[String]) -> Self {
        Shell::start(wrapped(&[], &shell_arguments(db, options)))
    }

    /// Sends all of `text` while the test does something else. With `ends` the input is over afterwards.
    pub fn feed(&mut self, text: String, ends: bool) {
        self.wait_for_feeder();
        let Some(mut stdin) = self.stdin.take() else { return };
        self.feeder = Some(thread::spawn(move || {
            // A program that was killed reads no more.
            let _ = stdin.write_all(text.as_bytes());
            (!ends).then_some(stdin)
        }));
    }

    /// The next answer, or nothing if the program is gone.
    pub fn read(&mut self) -> Option<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.pop().filter(|end| *end == '\n').map(|_| line)
    }

    /// Sends one command and reads one line of answer.
    pub fn ask(&mut self, command: &str) -> Option<String> {
        self.feed(format!("{command}\n"), false);
        self.read()
    }

    /// `kill -9`.
    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        self.wait()
    }

    /// Ends the input and waits.
    pub fn end(mut self) -> Ended {
        self.wait_for_feeder();
        drop(self.stdin.take());
        self.wait()
    }

    fn wait_for_feeder(&mut self) {
        if let Some(feeder) = self.feeder.take() {
            self.stdin = feeder.join().unwrap();
        }
    }

    fn wait(mut self) -> Ended {
        let mut answers = Vec::new();
        while let Some(answer) = self.read() {
            answers.push(answer);
        }
        let mut stderr = Vec::new();
        self.child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        self.wait_for_feeder();
        drop(self.stdin.take());
        let status = self.child.wait().unwrap();
        Ended {
            answers,
            code: status.code(),
            signal: status.signal(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            is_hung: self.watch.end(),
        }
    }
}

/// Kills a process group if nobody says in time that it is done.
struct Watch {
    done: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watch {
    fn start(group: u32) -> Self {
        let (done, waits) = mpsc::channel();
        let thread = thread::spawn(move || {
            let is_hung = waits.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout);
            if is_hung {
                let group = format!("-{group}");
                let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
            }
            is_hung
        });
        Watch { done, thread }
    }

    /// Whether it had to kill.
    fn end(self) -> bool {
        drop(self.done);
        self.thread.join().unwrap()
    }
}
