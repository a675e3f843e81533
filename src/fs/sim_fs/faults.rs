//! Operation numbers, the faults that hit them, the counters and the trace.
//!
//! Every operation passes [`Gate::admit`] before it takes effect. The gate numbers it, writes it
//! into the trace, and lets it pass or refuses it with an error number. It knows nothing of files.

use std::fmt;
use std::io;
use std::path::Path;

/// How often an injected fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Once; then the device is well again.
    Once,
    /// From then on, always.
    Forever,
}

/// What the file system did since it was made or cloned. Only operations that succeeded count, but
/// for `operations` and `failures`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimCounters {
    /// Numbered operations, refused ones included.
    pub operations: u64,
    /// Operations refused by an injected fault, a halt or a full disk.
    pub failures: u64,
    /// Syncs of files.
    pub syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
    /// Bytes written to files.
    pub bytes_written: u64,
    /// Bytes read from files, not counting mappings.
    pub bytes_read: u64,
}

/// One operation, as the trace shows it: `write 000001.wal 4096+120`.
pub(super) struct Operation<'a> {
    pub(super) verb: &'static str,
    pub(super) path: &'a Path,
    pub(super) target: Target<'a>,
    pub(super) is_read: bool,
}

/// What the operation concerns beside its path.
pub(super) enum Target<'a> {
    Whole,
    Range { offset: u64, bytes: u64 },
    RenameTo(&'a Path),
}

impl<'a> Operation<'a> {
    pub(super) fn change(verb: &'static str, path: &'a Path) -> Self {
        Operation { verb, path, target: Target::Whole, is_read: false }
    }

    pub(super) fn read(verb: &'static str, path: &'a Path) -> Self {
        Operation { verb, path, target: Target::Whole, is_read: true }
    }

    pub(super) fn range(mut self, offset: u64, bytes: usize) -> Self {
        self.target = Target::Range { offset, bytes: bytes as u64 };
        self
    }

    pub(super) fn to(mut self, path: &'a Path) -> Self {
        self.target = Target::RenameTo(path);
        self
    }
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, last_name(self.path))?;
        match self.target {
            Target::Whole => Ok(()),
            Target::Range { offset, bytes } => write!(f, " {offset}+{bytes}"),
            Target::RenameTo(path) => write!(f, " -> {}", last_name(path)),
        }
    }
}

fn last_name(path: &Path) -> impl fmt::Display {
    Path::new(path.file_name().unwrap_or(path.as_os_str())).display()
}

enum Trigger {
    /// The operation with this number, or the first numbered one after it if the fault lasts.
    At(u64),
    /// Operations whose trace line contains all these words.
    Words(Vec<String>),
}

struct Fault {
    trigger: Trigger,
    errno: i32,
    repeat: Repeat,
}

/// Decides about every operation.
#[derive(Default)]
pub(super) struct Gate {
    pub(super) counters: SimCounters,
    halt_at: Option<u64>,
    halted: bool,
    faults: Vec<Fault>,
    reads_unnumbered: bool,
    trace: Option<Vec<String>>,
}

impl Gate {
    /// A gate with the same settings and without faults, counting from zero.
    pub(super) fn renewed(&self) -> Self {
        Gate {
            reads_unnumbered: self.reads_unnumbered,
            trace: self.trace.as_ref().map(|_| Vec::new()),
            ..Gate::default()
        }
    }

    pub(super) fn halt_at(&mut self, number: u64) {
        self.halt_at = Some(number);
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }

    pub(super) fn fail_at(&mut self, number: u64, errno: i32, repeat: Repeat) {
        self.faults.push(Fault { trigger: Trigger::At(number), errno, repeat });
    }

    pub(super) fn fail_when(&mut self, words: &str, errno: i32, repeat: Repeat) {
        let words = words.split_whitespace().map(str::to_owned).collect();
        self.faults.push(Fault { trigger: Trigger::Words(words), errno, repeat });
    }

    pub(super) fn clear_faults(&mut self) {
        (self.halt_at, self.halted) = (None, false);
        self.faults.clear();
    }

    pub(super) fn number_reads(&mut self, numbered: bool) {
        self.reads_unnumbered = !numbered;
    }

    pub(super) fn set_trace(&mut self, on: bool) {
        self.trace = on.then(Vec::new);
    }

    pub(super) fn trace(&self) -> Vec<String> {
        self.trace.clone().unwrap_or_default()
    }

    /// The number that `operation` will get; `None` if it gets none.
    pub(super) fn number_of(&self, operation: &Operation<'_>) -> Option<u64> {
        let numbered = !(operation.is_read && self.reads_unnumbered);
        numbered.then_some(self.counters.operations)
    }

    /// Lets `operation` pass, or says how it fails.
    pub(super) fn admit(&mut self, operation: &Operation<'_>) -> io::Result<()> {
        let number = self.number_of(operation);
        let errno = self.decide(operation, number);
        if let Some(trace) = &mut self.trace {
            let number = number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            let failed = errno.map_or_else(String::new, |errno| format!(" failed: errno {errno}"));
            trace.push(format!("{number} {operation}{failed}"));
        }
        self.counters.operations += u64::from(number.is_some());
        match errno {
            None => Ok(()),
            Some(errno) => {
                self.counters.failures += 1;
                Err(io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn decide(&mut self, operation: &Operation<'_>, number: Option<u64>) -> Option<i32> {
        self.halted |= matches!((number, self.halt_at), (Some(number), Some(at)) if number >= at);
        if self.halted {
            return Some(libc::EIO);
        }
        if self.faults.is_empty() {
            return None;
        }
        let line = operation.to_string();
        let strikes = |fault: &Fault| match &fault.trigger {
            Trigger::At(at) => number.is_some_and(|number| match fault.repeat {
                Repeat::Once => number == *at,
                Repeat::Forever => number >= *at,
            }),
            Trigger::Words(words) => words.iter().all(|word| line.contains(word.as_str())),
        };
        let at = self.faults.iter().position(strikes)?;
        let errno = self.faults[at].errno;
        if self.faults[at].repeat == Repeat::Once {
            self.faults.remove(at);
        }
        Some(errno)
    }
}
