//! The builder: everything that enters a database from outside, and what can be done to one that is not open.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::check::{VerifyReport, verify_at_rest};
use crate::clock::{Clock, SystemClock};
use crate::compaction::CompactionStrategy;
use crate::compaction::filter::CompactionFilter;
use crate::db::handle::Handle;
use crate::db::recovery::{self, OpenRequest};
use crate::error::Result;
use crate::event::{EventListener, Listeners};
use crate::file_name::FileKind;
use crate::fs::{FileSystem, LockKind, StdFs};
use crate::options::{DbOptions, KeyspaceOptions};
use crate::repair::{RepairOptions, RepairReport, repair};
use crate::spawn::{Spawn, StdSpawn};

/// Opens a database with options (plain data) and components (objects) of your choice.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use esker::{Db, DbOptions, KeyspaceOptions};
/// let db = Db::builder()
///     .options(DbOptions { cache_bytes: 8 << 20, ..DbOptions::default() })
///     .default_keyspace(KeyspaceOptions { memtable_bytes: 1 << 20, ..KeyspaceOptions::default() })
///     .open(dir.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until open is called"]
pub struct DbBuilder {
    options: DbOptions,
    default_keyspace: Option<KeyspaceOptions>,
    fs: Arc<dyn FileSystem>,
    clock: Arc<dyn Clock>,
    spawner: Arc<dyn Spawn>,
    strategies: BTreeMap<String, Arc<dyn CompactionStrategy>>,
    listeners: ListenerList,
    filters: BTreeMap<String, Arc<dyn CompactionFilter>>,
}

/// The listeners of a database to be opened.
#[derive(Default)]
struct ListenerList(Vec<Arc<dyn EventListener>>);

/// Listeners need not be printable: closures are not.
impl fmt::Debug for ListenerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} listeners", self.0.len())
    }
}

impl Default for DbBuilder {
    fn default() -> Self {
        DbBuilder {
            options: DbOptions::default(),
            default_keyspace: None,
            fs: Arc::new(StdFs),
            clock: Arc::new(SystemClock::default()),
            spawner: Arc::new(StdSpawn),
            strategies: BTreeMap::new(),
            listeners: ListenerList::default(),
            filters: BTreeMap::new(),
        }
    }
}

impl DbBuilder {
    /// The options of the database.
    pub fn options(mut self, options: DbOptions) -> Self {
        self.options = options;
        self
    }

    /// Options for the keyspace `default`. Not given: those it has.
    pub fn default_keyspace(mut self, options: KeyspaceOptions) -> Self {
        self.default_keyspace = Some(options);
        self
    }

    /// The file system to use. Default: the operating system's.
    pub fn file_system(mut self, fs: Arc<dyn FileSystem>) -> Self {
        self.fs = fs;
        self
    }

    /// The clock to use. Default: the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How background threads are started. Default: as plain threads.
    pub fn spawner(mut self, spawner: Arc<dyn Spawn>) -> Self {
        self.spawner = spawner;
        self
    }

    /// Registers a compaction strategy of your own; keyspaces choose it by its name with
    /// [`Compaction::Named`](crate::Compaction::Named).
    pub fn strategy(mut self, strategy: Arc<dyn CompactionStrategy>) -> Self {
        self.strategies.insert(strategy.name().to_owned(), strategy);
        self
    }

    /// Registers a listener that hears of flushes, compactions, stalls and errors as they happen. Several may be
    /// registered; they are called in the order of registration. What a listener may do: see [`event`](crate::event).
    pub fn listener(mut self, listener: Arc<dyn EventListener>) -> Self {
        self.listeners.0.push(listener);
        self
    }

    /// Shows every entry of the keyspace called `keyspace` to `filter` when it is merged: see [`CompactionFilter`].
    /// Like a strategy, it is not stored: it holds for this opening.
    pub fn compaction_filter(
        mut self,
        keyspace: impl Into<String>,
        filter: Arc<dyn CompactionFilter>,
    ) -> Self {
        self.filters.insert(keyspace.into(), filter);
        self
    }

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
    /// file that cannot be read: copy the directory with a tool for failing devices first), `Unsupported` for files of
    /// a newer esker, `Locked`, `NotFound`, `InvalidArgument` if the directory to write to is not empty.
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

    /// Opens the database in `dir`, as a handle that keeps it open.
    pub(super) fn open_handle(self, dir: &Path) -> Result<Arc<Handle>> {
        recovery::open(OpenRequest {
            dir: dir.to_path_buf(),
            options: self.options,
            default_keyspace: self.default_keyspace,
            fs: self.fs,
            clock: self.clock,
            spawner: self.spawner,
            strategies: self.strategies,
            listeners: Listeners::new(self.listeners.0).into(),
            filters: self.filters,
        })
    }
}
