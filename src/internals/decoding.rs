//! What must hold of every private decoder, whatever bytes it is given: the heart of the fuzz targets.
//!
//! Each `check` takes bytes as they could stand on a disk and says whether a decoder takes them for whole. That it
//! comes back at all is the first thing it shows: no panic, no hang, no memory out of proportion. Beyond that it holds
//! what was decoded against a second way to the same answer: what decodes is encoded again, lookups are held against
//! scans, scans in one direction against those in the other, an error stays an error. What does not agree is a panic.
//!
//! The decoders are private and stay so; these functions are the one door to them. They are driven by the crate in
//! `fuzz/targets`, from libFuzzer and from a bounded test.

pub mod batch;
pub mod block;
pub mod filter;
pub mod manifest;
pub mod table;
pub mod wal;

use std::cmp::Ordering;

use crate::key::{Trailer, compare_entries};

/// Keys and values that a check holds at once; a block's header can make many long keys of few bytes.
const HELD_BYTES_MAX: usize = 8 << 20;

/// An entry out of a block or a table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: Vec<u8>,
    trailer: Trailer,
    value: Vec<u8>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.len()
    }

    fn compare(&self, other: &Entry) -> Ordering {
        compare_entries((&self.key, self.trailer), (&other.key, other.trailer))
    }

    /// Whether it stands before (`key`, `trailer`).
    fn is_before(&self, key: &[u8], trailer: Trailer) -> bool {
        compare_entries((&self.key, self.trailer), (key, trailer)).is_lt()
    }
}

/// Whether each entry stands before the next.
fn are_ordered(entries: &[Entry]) -> bool {
    entries.windows(2).all(|pair| pair[0].compare(&pair[1]).is_lt())
}
