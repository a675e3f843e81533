//! Failures of the command line: what, where, what to do, and the exit code.
//!
//! This file is the one place where an engine error becomes an exit code, and where the one line on stderr is
//! made: `error: WHAT: WHERE: WHAT TO DO`. Every failure has all three parts by the time it is printed; the place is
//! filled in from the database directory and the advice from the exit code where the engine gave none.
//!
//! | code | meaning | engine kinds |
//! |---|---|---|
//! | 0 | done | |
//! | 1 | the key is absent; nothing is printed | |
//! | 2 | the command line is wrong | |
//! | 3 | stored bytes are not what was written | `corruption` |
//! | 4 | the operating system refused, or there is no database at the path | `io`, `notfound` |
//! | 5 | the database is open elsewhere | `locked` |
//! | 6 | refused: the engine or the input does not allow it | `invalid`, `unsupported`, `busy`, `poisoned`, `closed` |
//! | 130 | interrupted (`SIGINT`), cleanly: what was done so far stays | `cancelled` |
//!
//! A reader that closes our standard output early has seen enough: that ends the program quietly with code 0.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use esker::ErrorKind;

use crate::text::printable;

/// The exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Absent = 1,
    Usage = 2,
    Corruption = 3,
    Io = 4,
    Locked = 5,
    Refused = 6,
    Interrupted = 130,
}

impl Exit {
    fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Corruption => Exit::Corruption,
            ErrorKind::Io | ErrorKind::NotFound => Exit::Io,
            ErrorKind::Locked => Exit::Locked,
            ErrorKind::Cancelled => Exit::Interrupted,
            _ => Exit::Refused,
        }
    }

    fn default_advice(self) -> &'static str {
        match self {
            Exit::Usage => "see `engine-cli --help`",
            Exit::Corruption => "run `engine-cli verify` to name every damaged file",
            Exit::Io => "check the path, the permissions and the device",
            Exit::Locked => "close it there first",
            _ => "change the command or its input",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command stopped.
#[derive(Debug)]
pub enum Failure {
    /// It ends with this code and says nothing: an absent key, or a closed pipe.
    Quiet(Exit),
    /// It ends with a line on stderr.
    Told(Box<Report>),
}

/// The parts of the line on stderr.
#[derive(Debug)]
pub struct Report {
    exit: Exit,
    kind: &'static str,
    what: String,
    place: Option<String>,
    advice: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    fn new(exit: Exit, kind: &'static str, what: impl Into<String>) -> Self {
        Failure::Told(Box::new(Report {
            exit,
            kind,
            what: what.into(),
            place: None,
            advice: None,
            source: None,
        }))
    }

    /// The command line is wrong.
    pub fn usage(what: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, "invalid", what).at("command line")
    }

    /// The input or the state of the database does not allow it.
    pub fn refused(what: impl Into<String>) -> Self {
        Failure::new(Exit::Refused, ErrorKind::InvalidArgument.as_str(), what)
    }

    /// Stored bytes are wrong.
    pub fn corruption(what: impl Into<String>) -> Self {
        Failure::new(Exit::Corruption, ErrorKind::Corruption.as_str(), what)
    }

    /// Somebody else has the database in `dir` open.
    pub fn locked(dir: &Path) -> Self {
        let kind = ErrorKind::Locked.as_str();
        Failure::new(Exit::Locked, kind, "the database is open elsewhere")
            .at(dir.display().to_string())
    }

    /// The operating system refused `what` on `path`. Where it can say what to do, the engine says it.
    pub fn io(what: &str, path: &Path, source: io::Error) -> Self {
        Failure::from(esker::Error::io(what, path, source))
            .advise("check the path and its permissions")
    }

    /// Writing to standard output failed. A closed pipe is no failure.
    pub fn output(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Failure::Quiet(Exit::Done);
        }
        let mut failure = Failure::new(Exit::Io, OUTPUT, format!("cannot write: {source}"))
            .at("standard output")
            .advise("check where the output goes: free space, a file size limit (ulimit -f)");
        if let Failure::Told(report) = &mut failure {
            report.source = Some(Box::new(source));
        }
        failure
    }

    /// The same failure at `place`, unless it already says where.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        if let Failure::Told(report) = &mut self {
            report.place.get_or_insert_with(|| place.into());
        }
        self
    }

    /// The same failure with other advice.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        if let Failure::Told(report) = &mut self {
            report.advice = Some(advice.into());
        }
        self
    }

    /// The same failure, whose advice says `more` too.
    #[must_use]
    pub fn adding(self, more: &str) -> Self {
        let advice = match &self {
            Failure::Quiet(_) => return self,
            Failure::Told(report) => {
                let advice = report.advice.as_deref();
                advice.unwrap_or_else(|| report.exit.default_advice())
            }
        };
        let advice = format!("{advice}; {more}");
        self.advise(advice)
    }

    /// Whether a full disk is the cause.
    pub fn is_no_space(&self) -> bool {
        let Failure::Told(report) = self else { return false };
        let mut cause = report.source.as_deref().and_then(|source| match source.downcast_ref() {
            Some(Cause(engine)) => StdError::source(engine),
            None => Some(source as &dyn StdError),
        });
        while let Some(source) = cause {
            let io = source.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
            if matches!(io, Some(libc::ENOSPC | libc::EDQUOT)) {
                return true;
            }
            cause = source.source();
        }
        false
    }

    /// The code the program ends with.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Quiet(exit) => *exit,
            Failure::Told(report) => report.exit,
        }
    }

    /// Whether our own standard output is gone, so that nobody can be answered.
    pub fn is_output(&self) -> bool {
        match self {
            Failure::Quiet(_) => true,
            Failure::Told(report) => report.kind == OUTPUT,
        }
    }

    /// The failure as the shell answers it: the kind word, then one line of text.
    pub fn answer(&self) -> String {
        match self {
            Failure::Quiet(_) => String::new(),
            Failure::Told(report) => {
                let mut text = format!("{} {}", report.kind, shorten(&report.what));
                for part in [&report.place, &report.advice].into_iter().flatten() {
                    let _ = write!(text, ": {part}");
                }
                one_line(&text)
            }
        }
    }

    /// The line for stderr, and with `causes` one more line for each cause. Empty if there is nothing to say.
    pub fn render(&self, causes: bool) -> String {
        let Failure::Told(report) = self else {
            return String::new();
        };
        let place = report.place.as_deref().unwrap_or("engine-cli");
        let advice = report.advice.as_deref().unwrap_or_else(|| report.exit.default_advice());
        let what = shorten(&report.what);
        let mut text = one_line(&format!("error: {what}: {place}: {advice}"));
        text.push('\n');
        if causes {
            let mut next = report.source.as_deref().map(|source| source as &dyn StdError);
            while let Some(cause) = next {
                let _ = writeln!(text, "  caused by: {}", one_line(&cause.to_string()));
                next = cause.source();
            }
        }
        text
    }
}

/// The kind of a failure to write our own output; no engine error has it.
const OUTPUT: &str = "output";

impl From<esker::Error> for Failure {
    fn from(error: esker::Error) -> Self {
        Failure::Told(Box::new(Report {
            exit: Exit::of(error.kind()),
            kind: error.kind().as_str(),
            what: error.what().to_owned(),
            place: place(&error),
            advice: error.advice().map(str::to_owned),
            source: StdError::source(&error).is_some().then(|| Cause(error).into()),
        }))
    }
}

/// Where an engine error happened, as text.
fn place(error: &esker::Error) -> Option<String> {
    let path = error.path()?.display();
    Some(match error.offset() {
        Some(offset) => format!("{path} (offset {offset})"),
        None => path.to_string(),
    })
}

/// Stands for the source of an engine error, which can only be borrowed from it.
#[derive(Debug)]
struct Cause(esker::Error);

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match StdError::source(&self.0) {
            Some(source) => write!(f, "{source}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        StdError::source(&self.0).and_then(StdError::source)
    }
}

/// Words of a message that are longer, which only keys are, are cut to half of it.
const WORD_CHARS_MAX: usize = 200;

/// `text` with line ends and all that a terminal would obey made visible, so that one error is one line whatever the
/// paths contain.
fn one_line(text: &str) -> String {
    printable(text)
}

/// `what` with long keys cut.
fn shorten(what: &str) -> String {
    let words = what.split(' ').map(|word| {
        let count = word.chars().count();
        if count <= WORD_CHARS_MAX {
            return word.to_owned();
        }
        let begin: String = word.chars().take(WORD_CHARS_MAX / 2).collect();
        format!("{begin}...({count} characters)")
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_told_failure_is_one_line_of_three_parts() {
        let bare = Failure::refused("no").render(false);
        assert_eq!(bare, "error: no: engine-cli: change the command or its input\n");
        let engine = Failure::from(esker::Error::corruption(Path::new("a\nb"), 7, "bad block"));
        assert!(engine.render(true).starts_with("error: bad block: a\\x0ab (offset 7): restore"));
        assert_eq!(engine.render(true).lines().count(), 1);
        assert_eq!(engine.exit(), Exit::Corruption);
    }

    #[test]
    fn causes_follow_on_their_own_lines_only_when_asked() {
        let failure =
            Failure::io("write", Path::new("x"), io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(failure.render(false).lines().count(), 1);
        assert!(
            failure.render(true).contains("\n  caused by: No space left"),
            "{}",
            failure.render(true)
        );
    }

    #[test]
    fn long_keys_are_cut_and_escapes_are_shown() {
        let key = "k".repeat(60_000);
        let text =
            Failure::refused(format!("key {key} stands after {key}\x1b")).at("x").render(false);
        assert!(text.len() < 500 && text.contains("(60000 characters) stands after k"), "{text}");
        let text = Failure::refused("no").at("a\x1b[31m").render(false);
        assert!(text.contains("a\\x1b[31m"), "{text}");
    }

    #[test]
    fn a_full_disk_is_known_behind_an_engine_error() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        assert!(Failure::io("write", Path::new("x"), error(libc::ENOSPC)).is_no_space());
        assert!(!Failure::io("write", Path::new("x"), error(libc::EIO)).is_no_space());
        let added = Failure::refused("no").advise("do it").adding("again").render(false);
        assert!(added.ends_with(": do it; again\n"), "{added}");
    }

    #[test]
    fn the_first_place_stays() {
        let text = Failure::refused("no").at("here").at("there").render(false);
        assert!(text.starts_with("error: no: here: "), "{text}");
    }

    #[test]
    fn a_closed_pipe_is_quiet_and_a_full_disk_is_not() {
        let closed = Failure::output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((closed.exit(), closed.render(true).as_str()), (Exit::Done, ""));
        let full = Failure::output(io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(full.exit(), Exit::Io);
        assert!(full.is_output() && full.render(false).contains("standard output"));
    }
}
