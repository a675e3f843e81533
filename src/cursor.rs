//! The internal cursor: one trait for everything that yields entries in order.
//!
//! A cursor stands on an entry (user key, trailer, value) or nowhere. The order is that of
//! [`compare_entries`](crate::key::compare_entries): user key ascending, newest version first. A new cursor stands
//! nowhere until it is moved. Slices lent by a cursor are good until it moves again.
//!
//! A method that returns an error leaves the cursor nowhere; the error is never swallowed, and whoever holds the
//! cursor must not take "nowhere" for "at the end" without having looked at the result.

pub(crate) mod merging;

use crate::error::Result;
use crate::key::Trailer;

/// A position in an ordered sequence of entries.
pub(crate) trait Cursor {
    /// Whether the cursor stands on an entry.
    fn valid(&self) -> bool;

    /// Moves to the first entry.
    fn seek_to_first(&mut self) -> Result<()>;

    /// Moves to the last entry.
    fn seek_to_last(&mut self) -> Result<()>;

    /// Moves to the first entry at or after (`key`, `trailer`).
    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()>;

    /// Moves to the last entry at or before (`key`, `trailer`).
    fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()>;

    /// Moves to the next entry. Must be valid.
    fn next(&mut self) -> Result<()>;

    /// Moves to the previous entry. Must be valid.
    fn prev(&mut self) -> Result<()>;

    /// The user key. Must be valid.
    fn key(&self) -> &[u8];

    /// The trailer. Must be valid.
    fn trailer(&self) -> Trailer;

    /// The stored value. Must be valid.
    fn value(&self) -> &[u8];
}
