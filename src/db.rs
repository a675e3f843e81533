//! The database: the public handles, and below them the write path, the read path, background work and recovery.
//!
//! [`Db`] only delegates: the write path is one file (`db/write.rs`), and so is the read path (`db/read.rs`).

pub(crate) mod counters;
pub(crate) mod disk_usage;
pub(crate) mod snapshots;
pub(crate) mod waiter;
pub(crate) mod commit;
pub(crate) mod throttle;
pub(crate) mod stalls;
pub(crate) mod rate_limit;
pub(crate) mod work;
pub(crate) mod state;
pub(crate) mod install;
pub(crate) mod check;
pub(crate) mod moment;
pub(crate) mod checkpoint;
pub(crate) mod flush_job;
pub(crate) mod gate;
pub(crate) mod compact_job;
pub(crate) mod background;
pub(crate) mod visible;
pub(crate) mod iter;
pub(crate) mod manual;
pub(crate) mod backup_job;
pub(crate) mod close;
pub(crate) mod handle;
pub(crate) mod pause;
pub(crate) mod ingest;
pub(crate) mod write;
pub(crate) mod read;
pub(crate) mod metrics;
pub(crate) mod keyspace;
pub(crate) mod keyspaces;
pub(crate) mod snapshot;
pub(crate) mod recovery;
pub(crate) mod builder;

use std::fmt;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backup::BackupReport;
use crate::batch::WriteBatch;
use crate::check::VerifyReport;
use crate::db::builder::DbBuilder;
use crate::db::checkpoint::CheckpointReport;
use crate::db::handle::Handle;
use crate::db::iter::{Cursor, Iter};
use crate::db::keyspace::Keyspace;
use crate::db::metrics::space::SpaceMeasurement;
use crate::db::metrics::{Metrics, gather};
use crate::db::pause::CompactionPause;
use crate::db::snapshot::Snapshot;
use crate::error::Result;
use crate::options::{KeyspaceOptions, WriteOptions};
use crate::value::Value;

/// An open database. Cheap to clone and to send between threads; dropping the last handle closes it.
///
/// The methods that read and write keys work on the keyspace `default`.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let db = esker::Db::open(dir.path())?;
/// db.put("apple", "red")?;
/// assert_eq!(db.get("apple")?.as_deref(), Some(&b"red"[..]));
/// for item in db.range("a".."b") {
///     let (key, value) = item?;
///     println!("{} is {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
/// }
/// db.close()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Db {
    handle: Arc<Handle>,
    default: Keyspace,
}

impl Db {
    /// Opens the database in `dir` with default options, and creates it if the directory is missing or empty.
    ///
    /// # Errors
    /// `Locked` if it is open elsewhere; `Corruption` if a file is missing or damaged; `InvalidArgument` if `dir` holds
    /// something else; `Unsupported` if a newer esker wrote it; `Io`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Db> {
        Db::builder().open(dir)
    }

    /// Opens a database with options and components of your choice.
    pub fn builder() -> DbBuilder {
        DbBuilder::default()
    }

    /// The database's directory.
    pub fn path(&self) -> &Path {
        &self.handle.inner.dir
    }

    /// Writes `value` under `key`, with the database's default durability
    /// ([`DbOptions::durability`](crate::DbOptions::durability)).
    ///
    /// # Errors
    /// `InvalidArgument` if the key or value is too long; nothing was written then. `Poisoned` after an earlier failure
    /// of the log; `Io` if the log fails now: what became of this write is then unknown until the database is reopened.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.default.put(key, value)
    }

    /// Writes `value` under `key`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put_with("account", "100", &esker::WriteOptions::SYNC)?; // survives power loss from here on
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<()> {
        self.default.put_with(key, value, options)
    }

    /// Writes `value` under `key`, to expire after `ttl`: from then on it is not there, for snapshots neither, and its
    /// space is returned by compaction. A time to live counts from the write, in wall-clock time (see
    /// `docs/guarantees.md` for clocks that are set), is rounded up to milliseconds, and lasts through reopening. A
    /// later write of the key replaces it: a plain put does not expire, unless the keyspace says so
    /// ([`KeyspaceOptions::default_ttl_s`]). For other write options, see [`WriteBatch::put_with_ttl`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// use std::time::Duration;
    /// db.put_with_ttl("session", "alice", Duration::from_secs(3600))?;
    /// assert!(db.contains_key("session")?); // for an hour
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` if `ttl` is zero. As [`Db::put`] otherwise.
    pub fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<()> {
        self.default.put_with_ttl(key, value, ttl)
    }

    /// Deletes `key`; it need not exist.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.default.delete(key)
    }

    /// Deletes `key`; it need not exist.
    pub fn delete_with(&self, key: impl AsRef<[u8]>, options: &WriteOptions) -> Result<()> {
        self.default.delete_with(key, options)
    }

    /// The value under `key`. Takes no lock and copies nothing.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.default.get(key)
    }

    /// Whether there is a value under `key`.
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.default.contains_key(key)
    }

    /// The values under `keys`, all as of one moment.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        self.default.multi_get(keys)
    }

    /// Applies `batch` atomically, with the database's default durability.
    pub fn write(&self, batch: WriteBatch) -> Result<()> {
        self.write_with(batch, &WriteOptions::default())
    }

    /// Applies `batch` atomically: all of it is readable after the call and after any crash, or nothing.
    pub fn write_with(&self, mut batch: WriteBatch, options: &WriteOptions) -> Result<()> {
        write::write(&self.handle.inner, &mut batch, None, *options)
    }

    /// All keys and values, in key order.
    pub fn iter(&self) -> Iter {
        self.default.iter()
    }

    /// The keys and values of a range of keys. An inverted range is empty.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Iter {
        self.default.range(range)
    }

    /// The keys that begin with `prefix`, and their values.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter {
        self.default.prefix(prefix)
    }

    /// A cursor that stands nowhere yet.
    pub fn cursor(&self) -> Cursor {
        self.default.cursor()
    }

    /// A snapshot of all keyspaces as they are now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(&self.default)
    }

    /// The keyspace `default`.
    pub fn default_keyspace(&self) -> &Keyspace {
        &self.default
    }

    /// Opens the keyspace called `name` with these options, and creates it if it is new. The options replace those it
    /// had; its tables change shape as they are compacted.
    ///
    /// # Errors
    /// `InvalidArgument` if an option is out of range, the strategy is not registered, or the name is empty, longer
    /// than 255 bytes, or has control characters.
    pub fn keyspace(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        let core = keyspaces::open(&self.handle.inner, name, options)
            .inspect_err(|_| self.handle.inner.tell_failure())?;
        Ok(Keyspace { handle: Arc::clone(&self.handle), core })
    }

    /// The keyspace called `name` with the options it has, if there is one.
    pub fn open_keyspace(&self, name: &str) -> Result<Option<Keyspace>> {
        self.handle.inner.check_open()?;
        let core = self.handle.inner.keyspaces.load().by_name(name).cloned();
        Ok(core.map(|core| Keyspace { handle: Arc::clone(&self.handle), core }))
    }

    /// The names of all keyspaces, in the order of their creation.
    pub fn list_keyspaces(&self) -> Vec<String> {
        self.handle
            .inner
            .keyspaces
            .load()
            .in_order()
            .iter()
            .map(|core| core.name.to_string())
            .collect()
    }

    /// Drops the keyspace called `name` and everything in it. Returns whether there was one. Durable when it returns.
    /// Handles of it report errors from then on; iterators made before go on.
    ///
    /// # Errors
    /// `InvalidArgument` for the keyspace `default`, which every database has.
    pub fn drop_keyspace(&self, name: &str) -> Result<bool> {
        keyspaces::drop_keyspace(&self.handle.inner, name)
            .inspect_err(|_| self.handle.inner.tell_failure())
    }

    /// Writes what is in memory to tables, in all keyspaces, and waits for it.
    pub fn flush(&self) -> Result<()> {
        self.handle.inner.check_writable()?;
        background::flush(&self.handle.inner, &self.handle.inner.keyspaces.load().in_order())
    }

    /// Makes every logged write before the call durable.
    pub fn sync(&self) -> Result<()> {
        write::sync(&self.handle.inner)
    }

    /// Merges a range of keys of the keyspace `default`: see [`Keyspace::compact_range`].
    pub fn compact_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<()> {
        self.default.compact_range(range)
    }

    /// Lets no automatic compaction begin, in any keyspace, until the guard is dropped; guards nest. It waits for
    /// nothing: compactions that run go on, unless [`Db::cancel_compactions`] stops them. Flushes go on, and so does
    /// what somebody asks for by [`Db::compact_range`].
    ///
    /// Runs pile up meanwhile. Writers are slowed and then stopped as always, until the guard is dropped; with
    /// [`Stall::Fail`](crate::Stall::Fail) they get `Busy` instead. Do not write with `Stall::Wait` from the thread
    /// that is to drop the guard.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// let pause = db.pause_compactions();
    /// db.cancel_compactions();
    /// db.wait_idle()?; // nothing is compacted from here on
    /// drop(pause);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pause_compactions(&self) -> CompactionPause {
        CompactionPause::new(&self.handle)
    }

    /// Stops the compactions that run, automatic ones and those that somebody waits for, which get `Cancelled`. It
    /// does not wait for their end ([`Db::wait_idle`] does). Their inputs are untouched and what they wrote and did not
    /// install is removed; the automatic ones begin again unless compaction is paused.
    pub fn cancel_compactions(&self) {
        self.handle.inner.work.cancel_compactions();
    }

    /// Waits until no flush and no compaction is due or running. While compaction is paused, none is due.
    pub fn wait_idle(&self) -> Result<()> {
        self.handle.inner.check_writable()?;
        background::wait_idle(&self.handle.inner)
    }

    /// What the engine did since it was opened, and what it holds.
    pub fn metrics(&self) -> Metrics {
        gather::metrics(&self.handle.inner)
    }

    /// Counts exactly what is alive, by reading every entry of every keyspace as of one moment: the exact space
    /// amplification, of which [`Metrics::space_amplification`] is an estimate. Costs a full scan, which counts as one
    /// in the metrics.
    pub fn measure_space(&self) -> Result<SpaceMeasurement> {
        metrics::space::measure(&self.handle.inner)
    }

    /// Reads every byte of every file and checks every claim that one makes of another. Slow: it reads everything.
    pub fn verify(&self) -> Result<VerifyReport> {
        check::verify(&self.handle.inner)
    }

    /// Makes a database of exactly this moment in `dir`, which must be new or empty, by hard links: see
    /// [`CheckpointReport`]. Durable when it returns.
    ///
    /// # Errors
    /// `InvalidArgument` if `dir` is not empty or lies within the database; `Locked`; `Poisoned`; `Io`.
    pub fn checkpoint(&self, dir: impl AsRef<Path>) -> Result<CheckpointReport> {
        checkpoint::checkpoint(&self.handle.inner, dir.as_ref())
    }

    /// Adds a backup of this moment to a backup directory, which need not exist: see [`backup`](crate::backup).
    pub fn backup(&self, dir: impl AsRef<Path>) -> Result<BackupReport> {
        backup_job::backup(&self.handle.inner, dir.as_ref())
    }

    /// Closes the database, for all handles, and reports what dropping would swallow. Waits for running jobs; cancels
    /// compactions. Everything acknowledged as `Buffered` or better is durable when it returns.
    pub fn close(self) -> Result<()> {
        self.handle.close()
    }
}

/// `for item in &db`: as [`Db::iter`].
impl IntoIterator for &Db {
    type Item = Result<(Vec<u8>, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl DbBuilder {
    /// Opens the database in `dir`. See [`Db::open`] for errors.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Db> {
        let handle = self.open_handle(dir.as_ref())?;
        let core = Arc::clone(&handle.inner.default_keyspace);
        let default = Keyspace { handle: Arc::clone(&handle), core };
        Ok(Db { handle, default })
    }
}
