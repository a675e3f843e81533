//! The segments of a log that an open refuses, each by itself: which are missing, which are damaged.
//!
//! A replay follows the chain and says where it ends. Which file that is the fault of takes a look at the others: their
//! headers name the segment before them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::Result;
use crate::fs::FileSystem;
use crate::key::FileNumber;
use crate::wal::reader::{FIRST_RECORD_OFFSET, SegmentReader, Step};
use crate::wal::replay::ReplayOptions;
use crate::wal::segment::HeaderState;

/// The segments that the manifest or the header of another says were written, and that are not there or were not
/// begun. One whose header is damaged is not missing.
pub(super) fn missing(
    fs: &dyn FileSystem,
    dir: &Path,
    live: &[FileNumber],
    options: ReplayOptions,
) -> Result<BTreeSet<FileNumber>> {
    let promised = options.promised;
    let mut wanted: BTreeSet<_> =
        (promised.offset > 0).then_some(promised.segment).into_iter().collect();
    let mut begun = BTreeSet::new();
    for number in live {
        let Some(mut reader) = SegmentReader::open(fs, dir, *number)? else { continue };
        match reader.header()? {
            HeaderState::Valid(header) => {
                wanted.insert(header.previous.segment);
            }
            HeaderState::Damaged => {}
            HeaderState::Blank | HeaderState::Stale(_) => continue,
        }
        begun.insert(*number);
    }
    let is_lost = |number: &FileNumber| *number >= options.first_segment && !begun.contains(number);
    Ok(wanted.into_iter().filter(|number| number.0 > 0 && is_lost(number)).collect())
}

/// Whether the records of a segment end where nothing more was written.
pub(super) fn ends_cleanly(fs: &dyn FileSystem, dir: &Path, number: FileNumber) -> Result<bool> {
    let Some(mut reader) = SegmentReader::open(fs, dir, number)? else { return Ok(false) };
    if !matches!(reader.header()?, HeaderState::Valid(_)) {
        return Ok(false);
    }
    let mut offset = FIRST_RECORD_OFFSET;
    loop {
        match reader.step(offset)? {
            Step::Record(record, _) => offset += record.record_len(),
            Step::End => return Ok(true),
            Step::Damaged(_) => return Ok(false),
        }
    }
}

/// Looks at one segment by itself: a header that is none, or a damaged place with good records behind it.
pub(super) fn check(fs: &dyn FileSystem, dir: &Path, number: FileNumber) -> Result<()> {
    let Some(mut reader) = SegmentReader::open(fs, dir, number)? else { return Ok(()) };
    let floor = match reader.header()? {
        HeaderState::Valid(header) => header.first_sequence,
        HeaderState::Damaged => return Err(reader.corruption(0, "log segment header is damaged")),
        HeaderState::Blank | HeaderState::Stale(_) => return Ok(()),
    };
    let mut offset = FIRST_RECORD_OFFSET;
    while let Step::Record(record, _) = reader.step(offset)? {
        offset += record.record_len();
    }
    match reader.find(offset + 1, floor)? {
        Some(_) => {
            Err(reader.corruption(offset, "log record is damaged, with good ones behind it"))
        }
        None => Ok(()),
    }
}
