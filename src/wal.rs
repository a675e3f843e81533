//! stub
pub(crate) mod reader;
pub(crate) mod segment;
pub(crate) mod writer;

use crate::key::FileNumber;

/// A position in the log: all bytes before it come before all bytes after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WalPosition {
    /// The segment.
    pub(crate) segment: FileNumber,
    /// The offset in the segment.
    pub(crate) offset: u64,
}
