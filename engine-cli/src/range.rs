//! Ranges of keys, walked by a lending cursor in either direction without copying an entry.
//!
//! A range includes its start and excludes its end; either may be open. A range whose end is not above its start is
//! empty, and asking for it is no error.

use std::ops::Bound;

use esker::Cursor;

use crate::error::Failure;

/// Keys from `from` on, before `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    pub from: Option<Vec<u8>>,
    pub to: Option<Vec<u8>>,
}

impl KeyRange {
    /// The part of the range whose keys begin with `prefix`.
    #[must_use]
    pub fn with_prefix(self, prefix: &[u8]) -> Self {
        let from = self.from.filter(|from| from.as_slice() > prefix);
        let end = successor(prefix);
        let to = match (self.to, end) {
            (Some(to), Some(end)) => Some(to.min(end)),
            (to, end) => to.or(end),
        };
        KeyRange { from: Some(from.unwrap_or_else(|| prefix.to_vec())), to }
    }

    /// The range as the library takes it.
    pub fn bounds(self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let from = self.from.map_or(Bound::Unbounded, Bound::Included);
        (from, self.to.map_or(Bound::Unbounded, Bound::Excluded))
    }

    /// Whether no key can be inside.
    pub fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (from, Some(to)) => from.as_deref().unwrap_or_default() >= to.as_slice(),
            (_, None) => false,
        }
    }

    /// Calls `each` for at most `limit` entries, from the bottom up or in `reverse`; returns how many there were.
    pub fn walk(
        &self,
        cursor: &mut Cursor,
        reverse: bool,
        limit: u64,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        if limit == 0 || self.is_empty() {
            return Ok(0);
        }
        if reverse {
            self.seek_last(cursor)?;
        } else {
            match &self.from {
                Some(from) => cursor.seek(from)?,
                None => cursor.seek_to_first()?,
            }
        }
        let mut seen = 0;
        while cursor.valid() && self.holds(cursor.key(), reverse) {
            each(cursor.key(), cursor.value())?;
            seen += 1;
            if seen == limit {
                break;
            }
            if reverse {
                cursor.prev()?;
            } else {
                cursor.next()?;
            }
        }
        Ok(seen)
    }

    fn seek_last(&self, cursor: &mut Cursor) -> Result<(), Failure> {
        let Some(to) = &self.to else {
            return Ok(cursor.seek_to_last()?);
        };
        cursor.seek_for_prev(to)?;
        if cursor.valid() && cursor.key() == to.as_slice() {
            cursor.prev()?;
        }
        Ok(())
    }

    /// Whether a key met on the way is still inside; only the far end needs a look.
    fn holds(&self, key: &[u8], reverse: bool) -> bool {
        if reverse {
            self.from.as_deref().is_none_or(|from| key >= from)
        } else {
            self.to.as_deref().is_none_or(|to| key < to)
        }
    }
}

/// The smallest key above every key that begins with `prefix`; none if there is no such key.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: &str, to: &str) -> KeyRange {
        KeyRange { from: Some(from.into()), to: Some(to.into()) }
    }

    #[test]
    fn the_successor_of_a_prefix_drops_trailing_ff() {
        assert_eq!(successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(successor(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(successor(b"\xff"), None);
        assert_eq!(successor(b""), None);
    }

    #[test]
    fn a_prefix_cuts_the_range() {
        assert_eq!(range("a", "z").with_prefix(b"k"), range("k", "l"));
        assert_eq!(range("ka", "kb").with_prefix(b"k"), range("ka", "kb"));
        assert!(range("m", "z").with_prefix(b"k").is_empty());
        let all = KeyRange::default().with_prefix(b"\xff");
        assert_eq!(all, KeyRange { from: Some(vec![0xff]), to: None });
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_empty() {
        assert!(range("b", "a").is_empty() && range("a", "a").is_empty());
        assert!(KeyRange { from: None, to: Some(vec![]) }.is_empty());
        assert!(!range("a", "b").is_empty() && !KeyRange::default().is_empty());
    }
}
