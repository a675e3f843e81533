//! Where the parts of a file lie, and what lengths, places and checksums must be for them.
//!
//! [`split`] takes an input apart into a head, records and a tail, without looking at any checksum. [`join`] puts it
//! together again and computes all of that anew. So a changed part is still what a reader looks into, and not damage
//! that the first checksum finds. Of an input that is whole `join(split(input))` is the input; a test holds that for
//! all seeds.
//!
//! This is written after `docs/format/`, not with the engine's code: a third hand that knows the formats. Only the
//! blocks of a table are found by the engine, since that takes the decoding of an index.

use esker::internals::decoding::table::block_ranges;

use crate::files::{self, File};

/// How an input is taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Not at all: bytes without checksums.
    Blind,
    /// Records are lines.
    Lines,
    /// A segment of the log. A record is its tag, the three numbers after the length, and the payload.
    Segment,
    /// A manifest. A record is an edit.
    Manifest,
    /// `CURRENT`. The head is a name.
    Current,
    /// A table. The records are its data blocks, the filter, the index and the properties.
    Table,
    /// A workload trace. A record is the payload of a frame.
    Trace,
    /// A list of files, each of which has a format of its own. See [`format_of`].
    Directory,
    /// Four bytes, and a list of files, each of which is a segment.
    Segments,
}

/// An input taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// What stands before the records.
    pub head: Vec<u8>,
    /// What there is any number of.
    pub records: Vec<Vec<u8>>,
    /// What stands behind the records.
    pub tail: Vec<u8>,
}

/// The format of a file of this kind in a directory.
pub fn format_of(kind: u8) -> Format {
    match kind % 5 {
        0 => Format::Current,
        1 => Format::Manifest,
        2 => Format::Table,
        3 => Format::Segment,
        _ => Format::Blind,
    }
}

/// Takes `input` apart; `None` if it is too far from anything of the format.
pub fn split(format: Format, input: &[u8]) -> Option<Layout> {
    match format {
        Format::Blind => None,
        Format::Lines => {
            let records = input.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            Some(Layout { records, ..Layout::default() })
        }
        Format::Segment => split_segment(input),
        Format::Manifest => split_manifest(input),
        Format::Current => {
            let head = input.split(|byte| *byte == b'\n').next()?.to_vec();
            Some(Layout { head, ..Layout::default() })
        }
        Format::Table => split_table(input),
        Format::Trace => split_trace(input),
        Format::Directory => Some(split_list(&[], input)),
        Format::Segments => input.split_at_checked(4).map(|(head, list)| split_list(head, list)),
    }
}

/// Puts an input together.
pub fn join(format: Format, layout: &Layout) -> Vec<u8> {
    match format {
        Format::Blind => [&*layout.head, &layout.records.concat(), &layout.tail].concat(),
        Format::Lines => layout.records.join(&b'\n'),
        Format::Segment => join_segment(layout),
        Format::Manifest => join_manifest(layout),
        Format::Current => {
            let line = format!("\n{:08x}\n", crc32fast::hash(&layout.head));
            [&*layout.head, line.as_bytes()].concat()
        }
        Format::Table => join_table(layout),
        Format::Trace => join_trace(layout),
        Format::Directory | Format::Segments => join_list(layout),
    }
}

/// The checksum of all formats: salted with a number of the file and the place.
fn checksum(number: u64, at: usize, parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&(at as u64).to_le_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize)
}

/// The varint that `bytes` begin with, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let len = bytes.iter().take(10).position(|byte| *byte < 0x80)? + 1;
    let (digits, rest) = bytes.split_at(len);
    let value = digits.iter().rev().fold(0u64, |value, byte| value << 7 | u64::from(byte & 0x7f));
    Some((value, rest))
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Tag, check and guard of a record of the log.
const WAL_FIXED_LEN: usize = 7;
const WAL_HEADER_LEN: usize = 64;

fn split_segment(input: &[u8]) -> Option<Layout> {
    let head = input.get(..WAL_HEADER_LEN - 4)?.to_vec();
    let mut rest = input.get(WAL_HEADER_LEN..)?;
    let mut records = Vec::new();
    while let Some((record, after)) = split_wal_record(rest) {
        records.push(record);
        rest = after;
    }
    Some(Layout { head, records, tail: rest.to_vec() })
}

fn split_wal_record(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let tag = *bytes.first().filter(|tag| **tag & 0xf0 == 0xe0)?;
    let (payload_len, numbers) = varint(bytes.get(WAL_FIXED_LEN..)?)?;
    let payload = skip_varints(numbers, 3)?;
    let end = (numbers.len() - payload.len()).checked_add(usize::try_from(payload_len).ok()?)?;
    let (record, after) = numbers.split_at_checked(end)?;
    Some(([&[tag], record].concat(), after))
}

/// What follows the first `count` varints of `bytes`.
pub(crate) fn skip_varints(mut bytes: &[u8], count: usize) -> Option<&[u8]> {
    for _ in 0..count {
        (_, bytes) = varint(bytes)?;
    }
    Some(bytes)
}

fn join_segment(layout: &Layout) -> Vec<u8> {
    let mut out = layout.head.clone();
    out.resize(WAL_HEADER_LEN - 4, 0);
    let segment = u64_at(&out, 16);
    out.extend_from_slice(&checksum(segment, 0, &[&out]).to_le_bytes());
    for record in &layout.records {
        let taken_apart = record
            .split_first()
            .and_then(|(tag, rest)| skip_varints(rest, 3).map(|payload| (tag, rest, payload)));
        let Some((tag, rest, payload)) = taken_apart else {
            out.extend_from_slice(record);
            continue;
        };
        let mut numbers = Vec::new();
        put_varint(&mut numbers, payload.len() as u64);
        numbers.extend_from_slice(&rest[..rest.len() - payload.len()]);
        let header_crc = checksum(segment, out.len(), &[&[*tag], &numbers]);
        let check = header_crc ^ crc32fast::hash(payload).rotate_left(1);
        out.push(*tag);
        out.extend_from_slice(&check.to_le_bytes());
        out.extend_from_slice(&((header_crc >> 16) as u16).to_le_bytes());
        out.extend_from_slice(&numbers);
        out.extend_from_slice(payload);
    }
    out.extend_from_slice(&layout.tail);
    out
}

const MANIFEST_HEADER_LEN: usize = 24;

fn split_manifest(input: &[u8]) -> Option<Layout> {
    let head = input.get(..MANIFEST_HEADER_LEN - 4)?.to_vec();
    let mut rest = input.get(MANIFEST_HEADER_LEN..)?;
    let mut records = Vec::new();
    while let Some(payload) = u32_at(rest, 0).and_then(|len| rest.get(8..8usize.checked_add(len)?))
    {
        records.push(payload.to_vec());
        rest = &rest[8 + payload.len()..];
    }
    Some(Layout { head, records, tail: rest.to_vec() })
}

fn join_manifest(layout: &Layout) -> Vec<u8> {
    let mut out = layout.head.clone();
    out.resize(MANIFEST_HEADER_LEN - 4, 0);
    let number = u64_at(&out, 12);
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    for payload in &layout.records {
        let len = (payload.len() as u32).to_le_bytes();
        let crc = checksum(number, out.len(), &[&len, payload]);
        out.extend_from_slice(&len);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(payload);
    }
    out.extend_from_slice(&layout.tail);
    out
}

const TABLE_HEADER_LEN: usize = 20;
const TABLE_FOOTER_LEN: usize = 84;
/// The filter, the index and the properties, each with a region of this length in the footer.
const TABLE_REGION_COUNT: usize = 3;
const TABLE_REGION_LEN: usize = 20;

/// How many of a table's records are no data blocks.
pub(crate) const TABLE_LAST_RECORDS: usize = TABLE_REGION_COUNT;

fn split_table(input: &[u8]) -> Option<Layout> {
    let head = input.get(..TABLE_HEADER_LEN)?.to_vec();
    let footer = input.get(input.len().checked_sub(TABLE_FOOTER_LEN)?..)?;
    let mut records = Vec::new();
    let mut at = TABLE_HEADER_LEN;
    for range in block_ranges(input) {
        // The checksum behind each block is none of the record.
        records.push(input.get(range.start..range.end.checked_sub(4)?)?.to_vec());
        if range.start != at {
            return None;
        }
        at = range.end;
    }
    for region in 0..TABLE_REGION_COUNT {
        let place = region * TABLE_REGION_LEN;
        let start = usize::try_from(u64_at(footer, place)).ok()?;
        let end = start.checked_add(usize::try_from(u64_at(footer, place + 8)).ok()?)?;
        if start != at {
            return None;
        }
        records.push(input.get(start..end)?.to_vec());
        at = end;
    }
    Some(Layout { head, records, tail: Vec::new() })
}

/// The version behind the magic of a table's header.
fn layout_version(head: &[u8]) -> [u8; 4] {
    head[8..12].try_into().expect("the header was made as long as it must be")
}

fn join_table(layout: &Layout) -> Vec<u8> {
    let mut out = layout.head.clone();
    out.resize(TABLE_HEADER_LEN, 0);
    let number = u64_at(&out, 12);
    let block_count = layout.records.len().saturating_sub(TABLE_REGION_COUNT);
    let (blocks, regions) = layout.records.split_at(block_count);
    for block in blocks {
        let crc = checksum(number, out.len(), &[block]);
        out.extend_from_slice(block);
        out.extend_from_slice(&crc.to_le_bytes());
    }
    let mut footer = Vec::new();
    for region in regions {
        footer.extend_from_slice(&(out.len() as u64).to_le_bytes());
        footer.extend_from_slice(&(region.len() as u64).to_le_bytes());
        footer.extend_from_slice(&checksum(number, out.len(), &[region]).to_le_bytes());
        out.extend_from_slice(region);
    }
    footer.extend_from_slice(&number.to_le_bytes());
    // Version and magic, as they stand in the header too.
    let end = [&layout_version(&out)[..], b"eskertab"].concat();
    let crc = checksum(number, out.len(), &[&footer, &end]);
    out.extend_from_slice(&footer);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&end);
    out
}

const TRACE_HEADER_LEN: usize = 32;
const TRACE_FRAME_LEN: usize = 12;

fn split_trace(input: &[u8]) -> Option<Layout> {
    let head = input.get(..TRACE_HEADER_LEN - 4)?.to_vec();
    let mut rest = input.get(TRACE_HEADER_LEN..)?;
    let mut records = Vec::new();
    while let Some(payload) =
        u32_at(rest, 0).and_then(|len| rest.get(TRACE_FRAME_LEN..TRACE_FRAME_LEN.checked_add(len)?))
    {
        records.push(payload.to_vec());
        rest = &rest[TRACE_FRAME_LEN + payload.len()..];
    }
    Some(Layout { head, records, tail: rest.to_vec() })
}

fn join_trace(layout: &Layout) -> Vec<u8> {
    let mut out = layout.head.clone();
    out.resize(TRACE_HEADER_LEN - 4, 0);
    let start_unix_ms = u64_at(&out, 16);
    out.extend_from_slice(&checksum(0, 0, &[&out]).to_le_bytes());
    for payload in &layout.records {
        let (at, len) = (out.len(), (payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&len);
        out.extend_from_slice(&checksum(start_unix_ms, at, &[&len]).to_le_bytes());
        out.extend_from_slice(&checksum(start_unix_ms, at, &[payload]).to_le_bytes());
        out.extend_from_slice(payload);
    }
    out.extend_from_slice(&layout.tail);
    out
}

/// A record of a list is a file: kind, number, content.
fn split_list(head: &[u8], list: &[u8]) -> Layout {
    let records = files::read(list).into_iter().map(|File { kind, number, content }| {
        [&[kind], &number.to_le_bytes()[..], &content].concat()
    });
    Layout { head: head.to_vec(), records: records.collect(), tail: Vec::new() }
}

fn join_list(layout: &Layout) -> Vec<u8> {
    let mut out = layout.head.clone();
    let files: Vec<File> = layout.records.iter().filter_map(|record| file_of(record)).collect();
    files::write(&files, &mut out);
    out
}

/// Where the content of a file begins in a record of a list.
pub(crate) const FILE_CONTENT_AT: usize = 5;

fn file_of(record: &[u8]) -> Option<File> {
    let (&[kind, a, b, c, d], content) = record.split_first_chunk::<FILE_CONTENT_AT>()?;
    let number = u32::from_le_bytes([a, b, c, d]);
    Some(File { kind, number, content: content.to_vec() })
}
