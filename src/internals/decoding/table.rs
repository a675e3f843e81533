//! Any bytes as a table file.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::block::BlockLayout;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::file_name::FileKind;
use crate::filter::KeyProbe;
use crate::fs::Access;
use crate::fs::sim_fs::SimFs;
use crate::internals::decoding::{Entry, HELD_BYTES_MAX, are_ordered};
use crate::key::{FileNumber, Trailer, key_hash};
use crate::options::{ReadMode, Verify};
use crate::table::TableMeta;
use crate::table::cursor::TableCursor;
use crate::table::format::{BlockHandle, FOOTER_LEN, Footer, HEADER_LEN, Properties};
use crate::table::reader::{ReadContext, ReadStats, TableReader};

const DIR: &str = "/tables";

/// Decodes `bytes` as a table; whether they are one that keeps all promises of the format.
///
/// The manifest is taken to say what the table says of itself, so that nothing but the table is looked at. Both read
/// modes give the same entries or both an error; a walk back gives what a walk forth gives, if both come to an end. In
/// a table that verifies, entries are in order and as many as it says, and every lookup and seek finds what the walk
/// found.
///
/// # Panics
/// If any of that is not so.
pub fn check(bytes: &[u8]) -> bool {
    let Some(meta) = described(bytes) else { return false };
    let fs = SimFs::new();
    let path = FileKind::Table(meta.number).path(Path::new(DIR));
    fs.write_file(path, bytes).expect("memory does not fail");
    let outcomes = [ReadMode::Mmap, ReadMode::Pread].map(|read_mode| {
        let context = ReadContext { read_mode, verify: Verify::Once, cache: None };
        let reader = TableReader::open(&fs, Path::new(DIR), &meta, &context).ok()?;
        Some(check_open(&Arc::new(reader), &meta))
    });
    let [mapped, read] = outcomes;
    assert!(mapped == read, "the read modes give different answers");
    mapped.is_some_and(|(_, is_verified)| is_verified)
}

/// The data blocks of a table as its index gives them, for who wants to change one and keep the rest. Empty if it
/// cannot be read that far.
pub fn block_ranges(bytes: &[u8]) -> Vec<Range<usize>> {
    let ranges = || -> Option<Vec<Range<usize>>> {
        let (_, footer) = footer_of(bytes)?;
        let index = bytes.get(footer.index.offset as usize..footer.index.end() as usize)?;
        let layout = BlockLayout::parse(index).ok()?;
        let block = layout.block(index);
        let handle = |ordinal| {
            let value = block.value(ordinal).ok()?;
            let handle = BlockHandle::decode(value, footer.filter.offset).ok()?;
            Some(handle.offset as usize..handle.end() as usize)
        };
        (0..layout.count()).map(handle).collect()
    };
    ranges().unwrap_or_default()
}

fn footer_of(bytes: &[u8]) -> Option<(FileNumber, Footer)> {
    let number =
        bytes.get(12..HEADER_LEN)?.first_chunk().map(|n| FileNumber(u64::from_le_bytes(*n)))?;
    let footer_at = bytes.len().checked_sub(FOOTER_LEN)?;
    let path = Path::new("table");
    let footer = Footer::decode(&bytes[footer_at..], number, footer_at as u64, path).ok()?;
    Some((number, footer))
}

/// What the table says of itself.
fn described(bytes: &[u8]) -> Option<TableMeta> {
    let (number, footer) = footer_of(bytes)?;
    let region = footer.properties.offset as usize..footer.properties.end() as usize;
    let crc = crc32fast::hash(bytes);
    let properties =
        Properties::decode(bytes.get(region)?, number, bytes.len() as u64, crc).ok()?;
    Some(properties.meta)
}

/// What can be read of an open table: the entries of a walk if it comes to its end, and whether the table verifies.
fn check_open(reader: &Arc<TableReader>, meta: &TableMeta) -> (Option<Vec<Entry>>, bool) {
    let is_verified = reader.verify_all(meta).is_ok();
    let forth = walk(reader, true);
    let back = walk(reader, false);
    if let (Some(forth), Some(back)) = (&forth, &back) {
        assert!(forth.iter().eq(back.iter().rev()), "a walk back shows other entries");
    }
    let anchors = reader.anchors(4);
    if is_verified {
        let entries = forth.as_ref().expect("a table that verifies can be read");
        assert!(back.is_some() && anchors.is_ok());
        assert_eq!(entries.len() as u64, meta.entry_count);
        assert!(are_ordered(entries), "a table that verifies is in order");
        check_lookups(reader, entries);
    } else {
        look_up_blindly(reader, meta);
    }
    (forth, is_verified)
}

/// A walk over the whole table; `None` if it ends in an error, or is too long to be held.
fn walk(reader: &Arc<TableReader>, is_forth: bool) -> Option<Vec<Entry>> {
    let access = if is_forth { Access::Sequential } else { Access::Random };
    let mut cursor = TableCursor::new(Arc::clone(reader), access);
    let mut entries = Vec::new();
    let mut held_bytes = 0;
    let mut moved = if is_forth { cursor.seek_to_first() } else { cursor.seek_to_last() };
    while moved.is_ok() && cursor.valid() {
        let entry = current(&cursor);
        held_bytes += entry.bytes() + 64;
        if held_bytes > HELD_BYTES_MAX {
            return None;
        }
        entries.push(entry);
        moved = if is_forth { cursor.next() } else { cursor.prev() };
    }
    assert!(!cursor.valid(), "an error leaves the cursor nowhere");
    moved.is_ok().then_some(entries)
}

fn current(cursor: &TableCursor) -> Entry {
    Entry { key: cursor.key().to_vec(), trailer: cursor.trailer(), value: cursor.value().to_vec() }
}

fn get(reader: &TableReader, key: &[u8], bound: Trailer) -> Result<Option<Entry>> {
    let probe = KeyProbe::new(key_hash(key));
    let found = reader.get(key, &probe, bound, &mut ReadStats::default())?;
    Ok(found.map(|(trailer, value)| Entry { key: key.to_vec(), trailer, value: value.to_vec() }))
}

/// In a table that verifies: lookups and seeks against the entries of a walk.
fn check_lookups(reader: &Arc<TableReader>, entries: &[Entry]) {
    let mut cursor = TableCursor::new(Arc::clone(reader), Access::Random);
    let mut beyond = Vec::new();
    for entry in entries.iter().step_by(entries.len() / 128 + 1) {
        beyond.clone_from(&entry.key);
        beyond.push(0);
        let older = Trailer(entry.trailer.0.saturating_sub(1));
        for (key, trailer) in [
            (&*entry.key, entry.trailer),
            (&*entry.key, Trailer::NEWEST),
            (&*entry.key, older),
            (&*beyond, Trailer::NEWEST),
        ] {
            let at = entries.partition_point(|other| other.is_before(key, trailer));
            let next = entries.get(at);
            let found = get(reader, key, trailer).expect("a table that verifies can be read");
            assert_eq!(found.as_ref(), next.filter(|next| next.key == key), "a lookup is wrong");
            cursor.seek(key, trailer).expect("a table that verifies can be read");
            assert_eq!(cursor.valid().then(|| current(&cursor)).as_ref(), next, "a seek is wrong");
            let is_here = next.is_some_and(|next| next.key == key && next.trailer == trailer);
            let before = at.checked_sub(1).and_then(|at| entries.get(at));
            let last = if is_here { next } else { before };
            cursor.seek_for_prev(key, trailer).expect("a table that verifies can be read");
            assert_eq!(cursor.valid().then(|| current(&cursor)).as_ref(), last, "a seek is wrong");
        }
    }
}

/// In a table that does not verify: any answer or error, but nothing else.
fn look_up_blindly(reader: &Arc<TableReader>, meta: &TableMeta) {
    let mut cursor = TableCursor::new(Arc::clone(reader), Access::Random);
    for key in [&*meta.smallest, &*meta.largest, b"", b"key", &[0xff; 9]] {
        for trailer in [Trailer::NEWEST, Trailer::OLDEST] {
            let _ = get(reader, key, trailer);
            for sought in [cursor.seek(key, trailer), cursor.seek_for_prev(key, trailer)] {
                if sought.is_ok() && cursor.valid() {
                    let _ = (current(&cursor), cursor.pin_value(), cursor.next());
                }
            }
        }
    }
}
