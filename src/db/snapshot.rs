//! The public handle of a snapshot.

use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;

use crate::db::handle::Handle;
use crate::db::install::oldest_snapshot;
use crate::db::iter::{Cursor, Iter, bounds_of, bounds_of_prefix};
use crate::db::keyspace::Keyspace;
use crate::db::read;
use crate::error::{Error, Result};
use crate::key::SequenceNumber;
use crate::value::Value;

/// A moment of the whole database, readable for as long as the handle lives. Cheap to clone; keeps the database open.
///
/// It reads one keyspace, at first `default`; [`Snapshot::keyspace`] gives the same moment of another. A snapshot pins
/// only the versions that it can see, not everything that is newer.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// db.put("k", "old")?;
/// let before = db.snapshot();
/// db.put("k", "new")?;
/// assert_eq!(before.get("k")?.as_deref(), Some(&b"old"[..]));
/// assert_eq!(db.get("k")?.as_deref(), Some(&b"new"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Snapshot {
    pin: Arc<Pin>,
    keyspace: Keyspace,
}

/// Keeps the sequence number in the list of live snapshots.
struct Pin {
    handle: Arc<Handle>,
    sequence: SequenceNumber,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let inner = &self.handle.inner;
        let was_oldest = inner.read.snapshots.release(self.sequence);
        // Most snapshots free nothing, and cost no more than the list's lock.
        if was_oldest && inner.work.frees_garbage(oldest_snapshot(inner)) {
            inner.work.tree_changed();
        }
    }
}

impl Snapshot {
    /// A snapshot of what is visible now.
    pub(crate) fn new(keyspace: &Keyspace) -> Self {
        let handle = Arc::clone(&keyspace.handle);
        let inner = &handle.inner;
        let now_ns = inner.clock.monotonic_ns();
        let sequence = inner.read.snapshots.acquire(now_ns, || inner.visible());
        Snapshot { pin: Arc::new(Pin { handle, sequence }), keyspace: keyspace.clone() }
    }

    /// The same moment of another keyspace.
    ///
    /// # Errors
    /// `InvalidArgument` if the keyspace belongs to another database.
    pub fn keyspace(&self, keyspace: &Keyspace) -> Result<Snapshot> {
        if !Arc::ptr_eq(&self.pin.handle, &keyspace.handle) {
            return Err(Error::invalid("the keyspace belongs to another database")
                .advise("use a handle of the snapshot's database"));
        }
        Ok(Snapshot { pin: Arc::clone(&self.pin), keyspace: keyspace.clone() })
    }

    /// The sequence number: the snapshot sees exactly the writes up to it.
    pub fn sequence(&self) -> u64 {
        self.pin.sequence.0
    }

    /// The value under `key` at that moment.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.keyspace.check()?;
        read::get(
            &self.pin.handle.inner.read,
            &self.keyspace.core,
            Some(self.pin.sequence),
            key.as_ref(),
        )
    }

    /// Whether there was a value under `key`.
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(key)?.is_some())
    }

    /// The values under `keys` at that moment.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        self.keyspace.check()?;
        read::multi_get(
            &self.pin.handle.inner.read,
            &self.keyspace.core,
            Some(self.pin.sequence),
            keys,
        )
    }

    /// All keys and values at that moment, in key order.
    pub fn iter(&self) -> Iter {
        self.range::<&[u8]>(..)
    }

    /// The keys and values of a range of keys at that moment.
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Iter {
        Iter::new(
            self.keyspace.moment(Some(self.pin.sequence)),
            bounds_of(&range),
            self.keyspace.check(),
        )
    }

    /// The keys that begin with `prefix`, and their values, at that moment.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Iter {
        Iter::new(
            self.keyspace.moment(Some(self.pin.sequence)),
            bounds_of_prefix(prefix.as_ref()),
            self.keyspace.check(),
        )
    }

    /// A cursor over that moment.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(&self.keyspace.moment(Some(self.pin.sequence)), self.keyspace.check())
    }
}

/// `for item in &snapshot`: as [`Snapshot::iter`].
impl IntoIterator for &Snapshot {
    type Item = Result<(Vec<u8>, Value)>;
    type IntoIter = Iter;

    fn into_iter(self) -> Iter {
        self.iter()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("sequence", &self.pin.sequence.0).finish_non_exhaustive()
    }
}
