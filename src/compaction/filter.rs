//! Compaction filters: what a user's rule makes of the entries that merges read.
//!
//! A [`CompactionFilter`] is asked by merges, never by flushes, moves or reads, and answers with a
//! [`Decision`]. So it costs nothing on the way of a write or a read, and it comes to every entry
//! some day, but nobody knows when.
//!
//! # What it is asked about
//! Only about the newest version of a key in a merge, if that is a value that has not expired and
//! that no snapshot sees. An entry that some snapshot sees stays as it is until that snapshot is
//! gone.
//!
//! # What becomes of its answer
//! * What is dropped is deleted: a tombstone takes its place, with its sequence number, unless
//!   nothing older can lie below. So no older version comes back.
//! * What is replaced keeps its sequence number and its time of expiry.
//!
//! # What cannot be promised
//! * An entry may be shown more than once, also in the form that the filter gave it.
//! * If a newer version lies outside the merge, the filter is asked about one that nobody reads any
//!   more.
//! * A snapshot taken while a merge is under way comes too late for it: it sees the entries as they
//!   were, and once the merge is installed as the filter left them. Iterators and cursors pin what
//!   they read and see no change.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::expiry::EXPIRY_LEN;
use crate::key::{SequenceNumber, VALUE_LEN_MAX, escape};

/// Looks at entries as they are merged, and keeps, drops or replaces them.
///
/// Registered for a keyspace with
/// [`DbBuilder::compaction_filter`](crate::DbBuilder::compaction_filter). It runs in compaction
/// threads, several at once, once for each key merged: it must be fast. It must not use the
/// database, which may be waiting for the compaction. It should depend on nothing but the entry and
/// what only grows, like time: nobody knows when, or how often, it is asked.
///
/// If it panics, the compaction fails with an error, its inputs stay, and it is tried again later.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::sync::Arc;
/// use esker::Db;
/// use esker::compaction::filter::{CompactionFilter, Decision};
///
/// /// Forgets the sessions of a user that is gone, and shortens the texts of the others.
/// #[derive(Debug)]
/// struct Tidy;
///
/// impl CompactionFilter for Tidy {
///     fn filter(&self, _level: usize, key: &[u8], value: &[u8]) -> Decision {
///         if key.starts_with(b"session/bob/") {
///             Decision::Drop
///         } else if value.len() > 5 {
///             Decision::Replace(value[..5].to_vec())
///         } else {
///             Decision::Keep
///         }
///     }
/// }
///
/// let db = Db::builder().compaction_filter("default", Arc::new(Tidy)).open(dir.path())?;
/// db.put("session/ann/1", "hello, world")?;
/// db.put("session/bob/1", "hello")?;
/// db.compact_range::<&str>(..)?;
/// assert_eq!(db.get("session/ann/1")?.as_deref(), Some(&b"hello"[..]));
/// assert!(db.get("session/bob/1")?.is_none());
/// assert_eq!(db.metrics().entries_filtered, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait CompactionFilter: Send + Sync + fmt::Debug {
    /// What becomes of `key` and its `value`, which a merge is about to write into `level`.
    fn filter(&self, level: usize, key: &[u8], value: &[u8]) -> Decision;
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays as it is.
    Keep,
    /// It is deleted.
    Drop,
    /// Its value becomes this one. A time to live goes on.
    Replace(Vec<u8>),
}

/// The filter of one merge.
#[derive(Clone, Debug)]
pub(crate) struct MergeFilter {
    pub(crate) filter: Arc<dyn CompactionFilter>,
    /// The output level.
    pub(crate) level: usize,
    /// The newest live snapshot: what it sees is not filtered.
    pub(crate) newest_snapshot: Option<SequenceNumber>,
}

impl MergeFilter {
    /// Whether no snapshot sees an entry with this sequence number.
    pub(super) fn may_ask(&self, sequence: SequenceNumber) -> bool {
        self.newest_snapshot.is_none_or(|newest| sequence > newest)
    }

    /// Asks the filter. Its panic is an error.
    pub(super) fn ask(&self, key: &[u8], value: &[u8]) -> Result<Decision> {
        // What the panic left behind is the filter's own; nothing of ours is touched by the call.
        let asked = AssertUnwindSafe(|| self.filter.filter(self.level, key, value));
        match catch_unwind(asked) {
            Ok(Decision::Replace(value)) if value.len() > VALUE_LEN_MAX - EXPIRY_LEN => {
                let len = value.len();
                Err(unfit(format!("gave a value of {len} bytes, which is too long"), key))
            }
            Ok(decision) => Ok(decision),
            Err(_) => Err(unfit("panicked", key)),
        }
    }
}

#[cold]
fn unfit(did: impl fmt::Display, key: &[u8]) -> Error {
    Error::invalid(format!("the compaction filter {did} at key {}", escape(key)))
        .advise("mend the filter; nothing was lost, and compaction goes on once it is mended")
}
