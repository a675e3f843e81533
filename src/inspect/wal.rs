//! A log segment: its header, records and operations.

use std::path::Path;

use crate::batch::operations;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::FileSystem;
use crate::inspect::{Item, Visit, number_at, read_file};
use crate::key::{FileNumber, SequenceNumber};
use crate::wal::reader::{FIRST_RECORD_OFFSET, SegmentReader, Step};
use crate::wal::segment::{HeaderState, RecordKind, SegmentHeader};

/// Where a segment's header says its id.
const SEGMENT_ID_AT: usize = 16;

/// Shows the log segment at `path`. The bytes behind its last record, which are zero, unfinished, or left from the
/// segment that the file was before, are not looked into.
///
/// # Errors
/// `Corruption` for a damaged header or record, after the items before it; `Unsupported` for a newer format; `Io`.
pub fn wal(fs: &dyn FileSystem, path: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let bytes = read_file(fs, path)?;
    let number = FileNumber(number_at(&bytes, SEGMENT_ID_AT).unwrap_or(0));
    let file_bytes = bytes.len() as u64;
    let located = |error: Error| error.at(path).at_offset(0);
    match SegmentHeader::decode(&bytes, number).map_err(located)? {
        HeaderState::Valid(header) => visit(show_header(&header, file_bytes))?,
        HeaderState::Blank => return visit(Item::new(0, "blank").number("bytes", file_bytes)),
        HeaderState::Stale(_) | HeaderState::Damaged => {
            return Err(Error::corruption(path, 0, "log segment header is damaged"));
        }
    }
    drop(bytes);
    let Some(mut reader) = SegmentReader::open_path(fs, path, number)? else {
        return Err(Error::corruption(path, 0, "the file vanished"));
    };
    let mut offset = FIRST_RECORD_OFFSET;
    loop {
        let (header, payload) = match reader.step(offset)? {
            Step::Record(header, payload) => (header, payload),
            Step::End => break,
            Step::Damaged(len) => {
                // A length is known only if the header's own check holds: so it was a record of this segment.
                let is_record = len > 1 || reader.find(offset + 1, SequenceNumber::ZERO)?.is_some();
                if is_record {
                    return Err(Error::corruption(path, offset, "log record is damaged"));
                }
                break;
            }
        };
        let kind = header.kind().map_err(|error| error.at(path).at_offset(offset))?;
        let name = match kind {
            RecordKind::Batch => "batch",
            RecordKind::Skip => "skip",
            RecordKind::Close => "close",
        };
        let item = Item::new(offset, name)
            .number("bytes", header.record_len())
            .number("first_sequence", header.first_sequence.0)
            .number("entries", header.entry_count)
            .number("synced_offset", header.synced_offset)
            .text("checksum", "good");
        visit(item)?;
        if kind == RecordKind::Batch {
            show_operations(payload, offset, header.first_sequence.0, path, visit)?;
        }
        offset += header.record_len();
        if kind == RecordKind::Close {
            break;
        }
    }
    visit(Item::new(offset, "end").number("bytes_behind", file_bytes.saturating_sub(offset)))
}

fn show_header(header: &SegmentHeader, file_bytes: u64) -> Item {
    Item::new(0, "header")
        .number("segment", header.segment.0)
        .number("previous_segment", header.previous.segment.0)
        .number("previous_bytes", header.previous.offset)
        .number("previous_synced_bytes", header.previous_synced_bytes)
        .number("first_sequence", header.first_sequence.0)
        .number("file_bytes", file_bytes)
        .text("checksum", "good")
}

fn show_operations(
    payload: &[u8],
    offset: u64,
    first: u64,
    path: &Path,
    visit: &mut Visit<'_>,
) -> Result<()> {
    for (sequence, operation) in (first..).zip(operations(payload)) {
        let operation = operation.map_err(|error| match error.kind() {
            ErrorKind::Corruption => Error::corruption(path, offset, error.what()),
            _ => error.at(path).at_offset(offset),
        })?;
        let item = Item::new(offset, "operation")
            .number("sequence", sequence)
            .number("keyspace", operation.keyspace.0)
            .bytes("key", operation.key)
            .value(operation.kind as u8, operation.value);
        visit(item)?;
    }
    Ok(())
}
