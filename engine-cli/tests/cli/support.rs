//! Runs the program on a database of its own and takes its answers apart.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use tempfile::TempDir;

/// A directory with room for a database and for files beside it.
pub struct Place {
    dir: TempDir,
}

/// What a run gave.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    pub fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }

    /// The output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap()
    }

    /// Succeeded, and said nothing on stderr.
    #[track_caller]
    pub fn ok(self) -> Answer {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        self
    }

    /// Failed with `code` and one line on stderr that holds every one of `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Answer {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("error: ") && self.err.matches(": ").count() >= 3, "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
        self
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Answer {
            code: output.status.code().unwrap_or(-1),
            out: output.stdout,
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The program, without anything of ours in its environment.
pub fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("engine-cli"));
    command.env_remove("ENGINE_DB").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

impl Place {
    pub fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap() }
    }

    /// The database's directory; nothing makes it but the program.
    pub fn db(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    /// A file beside the database.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file beside the database with this content.
    pub fn file_with(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.file(name);
        std::fs::write(&file, content).unwrap();
        file
    }

    pub fn command(&self) -> Command {
        let mut command = program();
        command.arg("--db").arg(self.db());
        command
    }

    /// Runs the program with arguments separated by spaces.
    pub fn run(&self, arguments: &str) -> Answer {
        self.run_with(&arguments.split(' ').collect::<Vec<_>>())
    }

    pub fn run_with(&self, arguments: &[&str]) -> Answer {
        self.command().args(arguments).output().unwrap().into()
    }

    /// Runs the program with something to read on standard input.
    pub fn feed(&self, arguments: &str, input: impl AsRef<[u8]>) -> Answer {
        let mut command = self.command();
        command.args(arguments.split(' ')).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.as_ref().to_vec();
        let writer = std::thread::spawn(move || {
            // A program that stops reading early is no failure of the test.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output.into()
    }

    /// What the shell answers to these lines.
    pub fn shell(&self, lines: &str) -> Vec<String> {
        let answer = self.feed("shell", lines).ok();
        answer.lines().into_iter().map(str::to_owned).collect()
    }

    /// Paths of the database's files whose names end so.
    pub fn files(&self, suffix: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.db()).unwrap().map(|entry| entry.unwrap().path());
        let mut files =
            entries.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect::<Vec<_>>();
        files.sort();
        files
    }
}

/// A shell that stays open while the test talks to it.
pub struct Talk {
    pub child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Talk {
    pub fn start(place: &Place, options: &[&str]) -> Self {
        let mut command = place.command();
        command.args(options).arg("shell");
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Talk { child, stdin, stdout }
    }

    /// Sends a line without waiting.
    pub fn send(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Reads a line of answers.
    pub fn read(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end_matches('\n').to_owned()
    }

    /// Sends a line and reads one line of answer.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.read()
    }

    /// Ends the input and waits; gives the exit code and stderr.
    pub fn end(self) -> Answer {
        drop(self.stdin);
        drop(self.stdout);
        self.child.wait_with_output().unwrap().into()
    }
}

/// The lines that `line` makes of the numbers below `count`.
pub fn numbered(count: u32, line: impl Fn(u32) -> String) -> String {
    (0..count).map(line).collect()
}

/// Every file below `dir` with its content, to show that nothing changed.
pub fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect::<Vec<_>>();
    files.sort();
    files
}
