//! The public handle of a keyspace.

use std::fmt;
use std::ops::{ControlFlow, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use crate::batch::WriteBatch;
use crate::db::handle::Handle;
use crate::db::ingest::Ingest;
use crate::db::iter::{Cursor, Iter, Moment, bounds_of, bounds_of_prefix};
use crate::db::manual::{CompactOptions, CompactionProgress};
use crate::db::metrics::KeyspaceMetrics;
use crate::db::metrics::gather::keyspace_metrics;
use crate::db::state::{Inner, KeyspaceCore};
use crate::db::write::{Change, write_one};
use crate::db::{background, manual, read};
use crate::error::{Error, Result};
use crate::key::ValueKind;
use crate::options::{KeyspaceOptions, WriteOptions};
use crate::sync::atomic::Ordering;
use crate::value::Value;

/// A named, separately compacted set of keys of a database. Cheap to clone; keeps the database open.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use esker::{Db, KeyspaceOptions, WriteBatch};
/// let db = Db::open(dir.path())?;
/// let users = db.keyspace("users", KeyspaceOptions::default())?;
/// let by_mail = db.keyspace("by_mail", KeyspaceOptions::default())?;
/// let mut batch = WriteBatch::new();
/// batch.put_in(&users, "u1", "alice").put_in(&by_mail, "alice@example.com", "u1");
/// db.write(batch)?; // both or neither
/// assert_eq!(by_mail.get("alice@example.com")?.as_deref(), Some(&b"u1"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Keyspace {
    pub(crate) handle: Arc<Handle>,
    pub(crate) core: Arc<KeyspaceCore>,
}

impl Keyspace {
    fn inner(&self) -> &Inner {
        &self.handle.inner
    }

    /// Refuses a closed database and a dropped keyspace.
    pub(crate) fn check(&self) -> Result<()> {
        self.inner().check_open()?;
        if self.core.dropped.load(Ordering::Relaxed) {
            return Err(Error::invalid(format!("keyspace {} was dropped", self.core.name))
                .advise("open it again with Db::keyspace to create it anew"));
        }
        Ok(())
    }

    pub(crate) fn moment(&self, snapshot: Option<crate::key::SequenceNumber>) -> Moment {
        Moment::new(&self.inner().read, &self.core, snapshot)
    }

    /// The keyspace's name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// The options in force.
    pub fn options(&self) -> KeyspaceOptions {
        KeyspaceOptions::clone(&self.core.options.load())
    }

    /// Writes `value` under `key`, with the database's default durability.
    ///
    /// # Errors
    /// As [`Db::write`](crate::Db::write).
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, &WriteOptions::default())
    }

    /// Writes `value` under `key`.
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &WriteOptions,
    ) -> Result<()> {
        let change = Change::Put(value.as_ref());
        write_one(self.inner(), &self.core, (key.as_ref(), change), *options)
    }

    /// Writes `value` under `key`, to expire after `ttl`. See [`Db::put_with_ttl`](crate::Db::put_with_ttl).
    pub fn put_with_ttl(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> Result<()> {
        let change = Change::PutLiving(value.as_ref(), ttl);
        write_one(self.inner(), &self.core, (key.as_ref(), change), WriteOptions::default())
    }

    /// Begins a bulk ingest: sorted entries straight into tables. See [`Ingest`].
    ///
    /// # Errors
    /// If the database is closed or read-only, or the keyspace was dropped.
    pub fn ingest(&self) -> Result<Ingest> {
        self.check()?;
        Ingest::begin(&self.handle, &self.core)
    }

    /// Deletes `key`; it need not exist. With the database's default durability.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        self.delete_with(key, &WriteOptions::default())
    }

    /// Deletes `key`; it need not exist.
    pub fn delete_with(&self, key: impl AsRef<[u8]>, options: &WriteOptions) -> Result<()> {
        write_one(self.inner(), &self.core, (key.as_ref(), Change::Delete), *options)
    }

    /// The value under `key`. No lock is taken and nothing is copied.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.check()?;
        read::get(&self.inner().read, &self.core, None, key.as_ref())
    }

    /// Whether there is a value under `key`.
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// The values under `keys`, all as of one moment.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        self.check()?;
        read::multi_get(&self.inner().read, &self.core, None, keys)
    }

    /// All keys and values, in key order.
    pub fn iter(&self) -> Iter {
        self.range::<&[u8]>(..)
    }

    /// The keys and values of a range of keys. An inverted range is empty.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Iter {
        Iter::new(self.moment(None), bounds_of(&range), self.check())
    }

    /// The keys that begin with `prefix`, and their values.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter {
        Iter::new(self.moment(None), bounds_of_prefix(prefix.as_ref()), self.check())
    }

    /// A cursor that stands nowhere yet.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(&self.moment(None), self.check())
    }

    /// Writes what is in memory to tables, and waits for it.
    pub fn flush(&self) -> Result<()> {
        self.check()?;
        background::flush(self.inner(), std::slice::from_ref(&self.core))
    }

    /// Merges everything in a range of keys into the last level, and waits for it: shadowed versions and tombstones
    /// that no snapshot needs are gone then, and reads ask one run. Rewrites all tables that meet the range, and those
    /// that meet these; needs as much free space as they take.
    pub fn compact_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<()> {
        let mut go_on = |_| ControlFlow::Continue(());
        self.compact_range_with(range, CompactOptions::default(), &mut go_on).map(drop)
    }

    /// As [`Keyspace::compact_range`], telling `progress` how far it is, about once for each MiB read. It may
    /// stop the compaction by [`ControlFlow::Break`]. Returns what was done.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// # db.put("k", "v")?;
    /// use std::ops::ControlFlow;
    /// let options = esker::CompactOptions::default();
    /// let done = db.default_keyspace().compact_range_with("a".."z", options, &mut |now| {
    ///     println!("{} of {} bytes", now.bytes_read, now.bytes_total);
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!(done.bytes_read, done.bytes_total);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Cancelled` if it was stopped, by `progress` or by
    /// [`Db::cancel_compactions`](crate::Db::cancel_compactions): what was not installed by then is removed, and the
    /// database is as valid as before.
    pub fn compact_range_with<K: AsRef<[u8]>>(
        &self,
        range: impl RangeBounds<K>,
        options: CompactOptions,
        progress: &mut dyn FnMut(CompactionProgress) -> ControlFlow<()>,
    ) -> Result<CompactionProgress> {
        self.inner().check_writable()?;
        self.flush()?;
        manual::compact_range(self.inner(), &self.core, &bounds_of(&range), options, progress)
    }

    /// The metrics of this keyspace alone.
    pub fn metrics(&self) -> KeyspaceMetrics {
        keyspace_metrics(self.inner(), &self.core)
    }
}

/// `for item in &keyspace`: as [`Keyspace::iter`].
impl IntoIterator for &Keyspace {
    type Item = Result<(Vec<u8>, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyspace").field("name", &self.core.name).finish_non_exhaustive()
    }
}

impl WriteBatch {
    /// Adds a put into `keyspace`.
    pub fn put_in(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.note_origin(keyspace.inner().origin);
        self.add(keyspace.core.id, ValueKind::Put, key.as_ref(), value.as_ref());
        self
    }

    /// Adds a put into `keyspace` that expires `ttl` after the batch was written. See
    /// [`Db::put_with_ttl`](crate::Db::put_with_ttl).
    pub fn put_in_with_ttl(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> &mut Self {
        self.note_origin(keyspace.inner().origin);
        self.add_expiring(keyspace.core.id, key.as_ref(), value.as_ref(), ttl);
        self
    }

    /// Adds a delete in `keyspace`.
    pub fn delete_in(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> &mut Self {
        self.note_origin(keyspace.inner().origin);
        self.add(keyspace.core.id, ValueKind::Delete, key.as_ref(), b"");
        self
    }
}
