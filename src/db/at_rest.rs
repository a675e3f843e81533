//! What a builder does with a database without opening it: verify it, repair it.

use std::path::Path;

use crate::check::{VerifyReport, verify_at_rest};
use crate::db::DbBuilder;
use crate::error::Result;
use crate::file_name::FileKind;
use crate::fs::LockKind;
use crate::repair::{RepairOptions, RepairReport, repair};

impl DbBuilder {
    /// Saves everything that is still readable of the damaged database in `dir`, in place or into another directory.
    /// No original file is changed or removed. See [`repair`](crate::repair) for how, and `docs/operations.md` for what
    /// to do before.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # esker::Db::open(dir.path())?.close()?;
    /// # std::fs::remove_file(dir.path().join("CURRENT")).unwrap();
    /// use esker::{Db, repair::RepairOptions};
    ///
    /// let report = Db::builder().repair(dir.path(), &RepairOptions::default())?;
    /// for range in &report.lost_ranges {
    ///     println!("may be missing or older: {range}");
    /// }
    /// assert!(report.is_lossless());
    /// let db = Db::open(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What kept it from being done, and nothing is changed then but for files that nothing names: `Io` (also of a
    /// file that cannot be read: copy the directory with a tool for failing devices first), `Unsupported` for files
    /// of a newer esker, `Locked`, `NotFound`, `InvalidArgument` if the directory to write to is not empty.
    pub fn repair(self, dir: impl AsRef<Path>, options: &RepairOptions) -> Result<RepairReport> {
        repair(&self.fs, &*self.clock, dir.as_ref(), options)
    }

    /// Reads every byte of every file of the database in `dir`, which must not be open for writing, and checks every
    /// claim that one file makes of another. A database that cannot be opened for damage is verified like any other:
    /// each damaged file is named. Nothing on disk changes.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # esker::Db::open(dir.path())?.close()?;
    /// let report = esker::Db::builder().verify(dir.path())?;
    /// for problem in &report.problems {
    ///     eprintln!("{problem}"); // what, which file, which offset, what to do
    /// }
    /// assert!(report.is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What kept it from going on: `NotFound`, `Locked`, `Io`, and `Unsupported` for files of a newer esker.
    pub fn verify(self, dir: impl AsRef<Path>) -> Result<VerifyReport> {
        let dir = dir.as_ref();
        let _lock = self.fs.lock(&FileKind::Lock.path(dir), LockKind::Shared)?;
        verify_at_rest(&self.fs, dir)
    }
}
