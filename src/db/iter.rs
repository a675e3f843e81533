//! Iterators and cursors as users get them.
//!
//! Both see one moment: the view and sequence number of their making, or their snapshot. Neither holds a lock, and
//! neither keeps the database open; what they read is pinned.

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::db::state::{KeyspaceCore, ReadShared, ReadView};
use crate::db::visible::VisibleCursor;
use crate::error::{Error, Result};
use crate::key::{KeyspaceId, SequenceNumber};
use crate::value::Value;

/// A bound of a key range, owned.
pub(crate) type KeyBound = Bound<Vec<u8>>;

/// The bounds of a range of keys, owned.
pub(crate) fn bounds_of<K: AsRef<[u8]>>(range: &impl RangeBounds<K>) -> (KeyBound, KeyBound) {
    let own = |bound: Bound<&K>| bound.map(|key| key.as_ref().to_vec());
    (own(range.start_bound()), own(range.end_bound()))
}

/// The bounds of the keys that begin with `prefix`.
pub(crate) fn bounds_of_prefix(prefix: &[u8]) -> (KeyBound, KeyBound) {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (Bound::Included(prefix.to_vec()), Bound::Excluded(end));
        }
    }
    (Bound::Included(prefix.to_vec()), Bound::Unbounded)
}

/// What an iterator or cursor reads from.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    shared: Arc<ReadShared>,
    keyspace: KeyspaceId,
    view: Arc<ReadView>,
    sequence: SequenceNumber,
}

impl Moment {
    /// `core` as of `snapshot`, or as of now. The view is taken before the sequence number: see `db/state.rs`.
    pub(crate) fn new(
        shared: &Arc<ReadShared>,
        core: &KeyspaceCore,
        snapshot: Option<SequenceNumber>,
    ) -> Self {
        let view = core.view.load_full();
        let sequence = snapshot.unwrap_or_else(|| shared.commit.visible());
        Moment { shared: Arc::clone(shared), keyspace: core.id, view, sequence }
    }

    fn cursor(&self) -> VisibleCursor {
        VisibleCursor::new(&self.shared, self.keyspace, &self.view, self.sequence)
    }
}

/// An iterator over keys and values in key order, from either end.
///
/// It sees one moment, whatever is written meanwhile. Each item is a [`Result`]: after an error the iterator ends, so
/// nothing is skipped silently, but a loop that ignores errors sees only a part. It reads the clock once, when it
/// first meets an entry that can expire: what has expired by then is left out, and only that.
///
/// Cost: a seek at the first step from each end, then about the cost of decoding an entry. It allocates the key of each
/// item; [`Cursor`] lends keys and values instead.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// for n in 0..5u8 {
///     db.put([n], [n * n])?;
/// }
/// let squares: Vec<u8> = db.range([1u8]..[4u8]).map(|item| item.map(|(_, v)| v[0])).collect::<Result<_, _>>()?;
/// assert_eq!(squares, [1, 4, 9]);
/// let last = db.iter().next_back().transpose()?.map(|(k, _)| k);
/// assert_eq!(last, Some(vec![4]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "an iterator reads nothing until it is moved"]
pub struct Iter {
    moment: Moment,
    lower: KeyBound,
    upper: KeyBound,
    front: Option<VisibleCursor>,
    back: Option<VisibleCursor>,
    done: bool,
    /// The database was closed before the iterator was made: its only item.
    error: Option<Error>,
}

impl Iter {
    pub(crate) fn new(
        moment: Moment,
        (lower, upper): (KeyBound, KeyBound),
        open: Result<()>,
    ) -> Self {
        Iter { moment, lower, upper, front: None, back: None, done: false, error: open.err() }
    }

    fn below_upper(&self, key: &[u8]) -> bool {
        match &self.upper {
            Bound::Included(upper) => key <= upper.as_slice(),
            Bound::Excluded(upper) => key < upper.as_slice(),
            Bound::Unbounded => true,
        }
    }

    fn above_lower(&self, key: &[u8]) -> bool {
        match &self.lower {
            Bound::Included(lower) => key >= lower.as_slice(),
            Bound::Excluded(lower) => key > lower.as_slice(),
            Bound::Unbounded => true,
        }
    }

    /// A cursor for one end. Both ends judge expiry by one time.
    fn new_cursor(&self) -> VisibleCursor {
        let mut cursor = self.moment.cursor();
        let other = self.front.as_ref().or(self.back.as_ref());
        cursor.set_now_ms(other.and_then(VisibleCursor::now_ms));
        cursor
    }

    fn step_front(&mut self) -> Result<Option<(Vec<u8>, Value)>> {
        if let Some(cursor) = &mut self.front {
            cursor.next()?;
        } else {
            let mut cursor = self.new_cursor();
            match &self.lower {
                Bound::Included(lower) => cursor.seek(lower)?,
                Bound::Excluded(lower) => {
                    cursor.seek(lower)?;
                    if cursor.valid() && cursor.key() == lower.as_slice() {
                        cursor.next()?;
                    }
                }
                Bound::Unbounded => cursor.seek_to_first()?,
            }
            self.front = Some(cursor);
        }
        let Some(cursor) = self.front.as_ref().filter(|cursor| cursor.valid()) else {
            return Ok(None);
        };
        let met = self.back.as_ref().is_some_and(|back| cursor.key() >= back.key());
        if met || !self.below_upper(cursor.key()) {
            return Ok(None);
        }
        Ok(Some((cursor.key().to_vec(), cursor.pin_value())))
    }

    fn step_back(&mut self) -> Result<Option<(Vec<u8>, Value)>> {
        if let Some(cursor) = &mut self.back {
            cursor.prev()?;
        } else {
            let mut cursor = self.new_cursor();
            match &self.upper {
                Bound::Included(upper) => cursor.seek_for_prev(upper)?,
                Bound::Excluded(upper) => {
                    cursor.seek_for_prev(upper)?;
                    if cursor.valid() && cursor.key() == upper.as_slice() {
                        cursor.prev()?;
                    }
                }
                Bound::Unbounded => cursor.seek_to_last()?,
            }
            self.back = Some(cursor);
        }
        let Some(cursor) = self.back.as_ref().filter(|cursor| cursor.valid()) else {
            return Ok(None);
        };
        let met = self.front.as_ref().is_some_and(|front| cursor.key() <= front.key());
        if met || !self.above_lower(cursor.key()) {
            return Ok(None);
        }
        Ok(Some((cursor.key().to_vec(), cursor.pin_value())))
    }

    fn step(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<Option<(Vec<u8>, Value)>>,
    ) -> Option<Result<(Vec<u8>, Value)>> {
        if self.done {
            return None;
        }
        let result = match self.error.take() {
            Some(error) => Err(error),
            None => step(self),
        };
        // While not done, both cursors that exist are valid: each end compares its key with the other's.
        self.done = !matches!(result, Ok(Some(_)));
        if let (Some(front), Some(back)) = (&mut self.front, &mut self.back) {
            // One of them may have had to read the clock now.
            let now_ms = front.now_ms().or(back.now_ms());
            front.set_now_ms(now_ms);
            back.set_now_ms(now_ms);
        }
        result.transpose()
    }
}

impl Iterator for Iter {
    type Item = Result<(Vec<u8>, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Iter::step_front)
    }
}

impl DoubleEndedIterator for Iter {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(Iter::step_back)
    }
}

impl std::iter::FusedIterator for Iter {}

impl fmt::Debug for Iter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter")
            .field("sequence", &self.moment.sequence)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// A cursor that can be moved to any key and lends what it stands on: the fastest way to read ranges.
///
/// It sees one moment, whatever is written meanwhile, and judges expiry by one reading of the clock, as [`Iter`] does.
/// A new cursor stands nowhere. After an error it stands nowhere
/// and every move returns that error.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let db = esker::Db::open(dir.path())?;
/// for name in ["ant", "bee", "cat"] {
///     db.put(name, "animal")?;
/// }
/// let mut cursor = db.cursor();
/// cursor.seek("b")?;
/// assert_eq!(cursor.key(), b"bee");
/// cursor.next()?;
/// assert_eq!(cursor.key(), b"cat");
/// cursor.seek_for_prev("bat")?;
/// assert_eq!(cursor.key(), b"ant");
/// cursor.prev()?;
/// assert!(!cursor.valid());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Cursor {
    inner: VisibleCursor,
    error: Option<Error>,
}

impl Cursor {
    pub(crate) fn new(moment: &Moment, open: Result<()>) -> Self {
        Cursor { inner: moment.cursor(), error: open.err() }
    }

    fn check(&self) -> Result<()> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// Whether the cursor stands on an entry.
    #[inline]
    pub fn valid(&self) -> bool {
        self.inner.valid()
    }

    /// Moves to the first key; nowhere, if there is none.
    pub fn seek_to_first(&mut self) -> Result<()> {
        self.check()?;
        self.inner.seek_to_first()
    }

    /// Moves to the last key; nowhere, if there is none.
    pub fn seek_to_last(&mut self) -> Result<()> {
        self.check()?;
        self.inner.seek_to_last()
    }

    /// Moves to the first key at or after `key`; nowhere, if there is none.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.check()?;
        self.inner.seek(key.as_ref())
    }

    /// Moves to the last key at or before `key`; nowhere, if there is none.
    pub fn seek_for_prev(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.check()?;
        self.inner.seek_for_prev(key.as_ref())
    }

    /// Moves to the next key; nowhere, after the last.
    ///
    /// # Panics
    /// If the cursor stands nowhere and has met no error.
    #[expect(
        clippy::should_implement_trait,
        reason = "a lending cursor cannot be an Iterator; next is the field's word"
    )]
    pub fn next(&mut self) -> Result<()> {
        self.inner.next()
    }

    /// Moves to the previous key; nowhere, before the first.
    ///
    /// # Panics
    /// If the cursor stands nowhere and has met no error.
    pub fn prev(&mut self) -> Result<()> {
        self.inner.prev()
    }

    /// The key the cursor stands on.
    ///
    /// # Panics
    /// If the cursor stands nowhere.
    #[inline]
    pub fn key(&self) -> &[u8] {
        assert!(self.valid(), "key of a cursor that stands nowhere");
        self.inner.key()
    }

    /// The value the cursor stands on.
    ///
    /// # Panics
    /// If the cursor stands nowhere.
    #[inline]
    pub fn value(&self) -> &[u8] {
        assert!(self.valid(), "value of a cursor that stands nowhere");
        self.inner.value()
    }

    /// The value the cursor stands on, pinned: it stays good when the cursor moves.
    ///
    /// # Panics
    /// If the cursor stands nowhere.
    pub fn pin_value(&self) -> Value {
        assert!(self.valid(), "value of a cursor that stands nowhere");
        self.inner.pin_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_bounds_step_over_trailing_ff() {
        assert_eq!(
            bounds_of_prefix(b"ab"),
            (Bound::Included(b"ab".to_vec()), Bound::Excluded(b"ac".to_vec()))
        );
        let (lower, upper) = bounds_of_prefix(b"a\xff\xff");
        assert_eq!(
            (lower, upper),
            (Bound::Included(b"a\xff\xff".to_vec()), Bound::Excluded(b"b".to_vec()))
        );
        assert_eq!(bounds_of_prefix(b"\xff").1, Bound::Unbounded);
        assert_eq!(bounds_of_prefix(b"").1, Bound::Unbounded);
    }
}
