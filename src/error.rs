//! Errors: what happened, where (path and offset), and what to do about it.
//!
//! An [`Error`] is one kind, one sentence, and optionally a path, an offset, an advice and a cause. Kinds are
//! prescriptive: each says what the caller should do. The text is for people and may change; the kind is API.
//! Errors are cheap to clone, because a poisoned database answers every later write with the first error.
//!
//! This file knows nothing of the rest of the crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The result of every fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it was, and so what the caller can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused an operation. Mend the cause (space, permission, device) and retry or reopen.
    Io,
    /// Stored bytes are not what was written. Restore the file from a copy, or salvage what is readable.
    Corruption,
    /// The call or an option is wrong. Change it; nothing was done.
    InvalidArgument,
    /// The data was written by a newer esker or needs a feature that this version lacks. Use the version it names.
    Unsupported,
    /// Another process, or another handle in this one, has the database open. Close it first.
    Locked,
    /// There is no database at that path. Check the path, or create one.
    NotFound,
    /// The write would have had to wait and the caller asked not to. Retry later or slow down; nothing was written.
    Busy,
    /// An earlier write to the log or manifest failed; what reached the disk is unknown. Reopen the database.
    Poisoned,
    /// The database was closed. Open it again.
    Closed,
    /// Somebody cancelled the work, as they may. Start it again when it suits; the database is as valid as before.
    Cancelled,
}

impl ErrorKind {
    /// The kind as one lower-case word, as printed by tools.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Io => "io",
            ErrorKind::Corruption => "corruption",
            ErrorKind::InvalidArgument => "invalid",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Locked => "locked",
            ErrorKind::NotFound => "notfound",
            ErrorKind::Busy => "busy",
            ErrorKind::Poisoned => "poisoned",
            ErrorKind::Closed => "closed",
            ErrorKind::Cancelled => "cancelled",
        }
    }
}

/// A failure, with where it happened and what to do.
///
/// `Display` prints `what: path (offset N): advice`; [`std::error::Error::source`] gives the operating system's error.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    what: String,
    path: Option<PathBuf>,
    offset: Option<u64>,
    advice: Option<&'static str>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`, described by `what`: lower case, no final dot.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Error(Arc::new(Inner {
            kind,
            what: what.into(),
            path: None,
            offset: None,
            advice: None,
            source: None,
        }))
    }

    /// The operation `what` on `path` failed in the operating system.
    pub fn io(what: &str, path: &Path, source: io::Error) -> Self {
        let advice = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => "free some space, then reopen the database",
            Some(libc::EFBIG) => "raise the file size limit (ulimit -f), then reopen the database",
            Some(libc::EACCES | libc::EPERM) => {
                "check the permissions of the file and its directory"
            }
            Some(libc::EROFS) => {
                "the file system is read-only: remount it, or open the database read-only"
            }
            Some(libc::EMFILE | libc::ENFILE) => {
                "raise the limit of open files (ulimit -n), or lower open_tables_max"
            }
            Some(libc::ENOENT) => {
                "check the path; if the file belongs to the database, restore it from a copy"
            }
            Some(libc::ENOTDIR) => "a part of the path is not a directory: check the path",
            _ => "check the device and the system log, then reopen the database",
        };
        Error::new(ErrorKind::Io, format!("cannot {what}: {source}"))
            .at(path)
            .advise(advice)
            .caused_by(source)
    }

    /// Stored bytes at `offset` of `path` are wrong in the way `what` says.
    pub fn corruption(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Error::new(ErrorKind::Corruption, what).at(path).at_offset(offset).advise(
            "restore the file from a copy, or repair the database, which keeps what is readable",
        )
    }

    /// The caller passed something that cannot be done.
    pub fn invalid(what: impl Into<String>) -> Self {
        Error::new(ErrorKind::InvalidArgument, what)
    }

    /// Adds the path that the failure concerns.
    #[must_use]
    pub fn at(self, path: &Path) -> Self {
        self.with(|inner| inner.path = Some(path.to_path_buf()))
    }

    /// Adds the byte offset in the file that the failure concerns.
    #[must_use]
    pub fn at_offset(self, offset: u64) -> Self {
        self.with(|inner| inner.offset = Some(offset))
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn advise(self, advice: &'static str) -> Self {
        self.with(|inner| inner.advice = Some(advice))
    }

    /// Adds the underlying cause.
    #[must_use]
    pub fn caused_by(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.source = Some(Arc::new(source)))
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// The kind: what the caller can do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What happened, without place and advice.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// The file or directory concerned.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The byte offset in [`Error::path`] concerned.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// What the user can do.
    pub fn advice(&self) -> Option<&'static str> {
        self.0.advice
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(path) = &self.0.path {
            write!(f, ": {}", path.display())?;
            if let Some(offset) = self.0.offset {
                write!(f, " (offset {offset})")?;
            }
        }
        if let Some(advice) = self.0.advice {
            write!(f, ": {advice}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_what_where_and_what_to_do() {
        let error =
            Error::corruption(Path::new("/db/000007.table"), 4096, "block checksum mismatch");
        let text = error.to_string();
        assert!(
            text.starts_with("block checksum mismatch: /db/000007.table (offset 4096): restore"),
            "{text}"
        );
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert_eq!(error.offset(), Some(4096));
    }

    #[test]
    fn io_errors_keep_their_cause_and_advise_by_errno() {
        let error = Error::io("write", Path::new("x"), io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(error.to_string().contains("free some space"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}
