//! Makes the log durable, and remembers when it cannot be trusted any more.
//!
//! # Locks
//! A [`SyncTarget`] is taken under the commit lock and synced outside it. Syncs exclude each other
//! by the lock on [`Shared::durable`], so that a failed one poisons the log before another one,
//! which the kernel would answer with success, can return. A sync that finds its target durable
//! already does nothing.
//!
//! # Invariants
//! * A position is durable only when all data before it, in all segments, and the names of those
//!   segments are.
//! * After a failed write or sync nothing is written or synced any more: the state of the disk is
//!   unknown.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileSystem, LogFile};
use crate::sync::Mutex;
use crate::wal::WalPosition;

/// What the writer shares with what it hands out.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) dir: PathBuf,
    poison: OnceLock<Error>,
    /// Up to here everything is durable. Held during a sync.
    pub(crate) durable: Mutex<WalPosition>,
}

impl Shared {
    pub(crate) fn new(fs: Arc<dyn FileSystem>, dir: &Path) -> Self {
        Shared {
            fs,
            dir: dir.to_path_buf(),
            poison: OnceLock::new(),
            durable: Mutex::new(WalPosition::default()),
        }
    }

    /// Fails with the reason if the log is poisoned.
    pub(crate) fn check(&self) -> Result<()> {
        self.poison.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Refuses all later writes because of `result`, if it is an error. The first one stays the
    /// reason.
    pub(crate) fn poison_on_error<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            let what = format!("an earlier write to the log failed: {}", error.what());
            let mut poison = Error::new(ErrorKind::Poisoned, what)
                .advise("reopen the database; what was acknowledged as synced is kept")
                .caused_by(error.clone());
            if let Some(path) = error.path() {
                poison = poison.at(path);
            }
            let _ = self.poison.set(poison);
        }
        result
    }
}

/// The files that hold what was appended before this was taken, and where that ends.
#[derive(Debug)]
pub(crate) struct SyncTarget {
    pub(crate) shared: Arc<Shared>,
    /// Oldest first.
    pub(crate) files: Vec<Arc<dyn LogFile>>,
    /// Whether a segment is new.
    pub(crate) syncs_names: bool,
    /// Where the data ends.
    pub(crate) end: WalPosition,
}

impl SyncTarget {
    /// The position that becomes durable.
    pub(crate) fn end(&self) -> WalPosition {
        self.end
    }

    /// Makes everything before [`SyncTarget::end`] durable: names first, then the segments in
    /// order. Call it without the commit lock. An error poisons the log.
    pub(crate) fn sync(&self) -> Result<()> {
        let mut durable = self.shared.durable.lock();
        if self.end <= *durable {
            return Ok(());
        }
        self.shared.check()?;
        self.shared.poison_on_error(self.sync_files())?;
        *durable = self.end;
        Ok(())
    }

    fn sync_files(&self) -> Result<()> {
        if self.syncs_names {
            self.shared.fs.sync_dir(&self.shared.dir)?;
        }
        self.files.iter().try_for_each(|file| file.sync_data())
    }
}
