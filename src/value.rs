//! Values as readers get them: pinned where they lie, not copied.

use std::fmt;
use std::ops::Deref;

use crate::block::bytes::PinnedValue;
use crate::memtable::MemValue;

/// A value read from the database.
///
/// It dereferences to its bytes and can be kept as long as needed. It pins what it lies in: a memtable, a
/// decompressed block, or the mapping of a table. To keep many small values for a long time, copy them
/// ([`Value::to_vec`](slice::to_vec)) so that those can be freed.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// let db = esker::Db::open(dir.path())?;
/// db.put("k", "value")?;
/// let value = db.get("k")?.expect("it was just put");
/// assert_eq!(&*value, b"value");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Value(Repr);

#[derive(Clone)]
enum Repr {
    Memory(MemValue),
    Table(PinnedValue),
}

impl Value {
    pub(crate) fn in_memory(value: MemValue) -> Self {
        Value(Repr::Memory(value))
    }

    pub(crate) fn in_table(value: PinnedValue) -> Self {
        Value(Repr::Table(value))
    }

    /// The user's part of a stored value that can expire. Still pinned where it lies.
    pub(crate) fn without_expiry(self) -> Self {
        Value(match self.0 {
            Repr::Memory(value) => Repr::Memory(value.without_expiry()),
            Repr::Table(value) => Repr::Table(value.without_expiry()),
        })
    }
}

impl Deref for Value {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Memory(value) => value,
            Repr::Table(value) => value,
        }
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", crate::key::escape(self))
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Value {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl Eq for Value {}
