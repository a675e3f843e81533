//! Any bytes as a block of a table.

use std::sync::Arc;

use crate::block::BlockLayout;
use crate::block::builder::{BlockBuilder, shared_len};
use crate::block::bytes::BlockBytes;
use crate::block::cursor::BlockCursor;
use crate::error::Result;
use crate::internals::decoding::{Entry, HELD_BYTES_MAX, are_ordered};
use crate::key::Trailer;

/// Decodes `bytes` as a block; whether they are one, all of whose entries can be read.
///
/// A walk down gives what a walk up gives, and both give what single entries say of themselves. The entries, sorted,
/// make a block that gives them back, in which every search ends where counting says. If it is `bytes`, then these are
/// a block that a writer would write, and searching in them was checked too.
///
/// # Panics
/// If any of that is not so.
pub fn check(bytes: &[u8]) -> bool {
    let Ok(mut cursor) = open(bytes) else { return false };
    let Ok(layout) = BlockLayout::parse(bytes) else { panic!("parsing gives two answers") };
    assert!(layout.count() > 0 && layout.count() < bytes.len().max(1), "entries out of nowhere");
    let entries = walk(&mut cursor, &layout, bytes);
    search_blindly(&mut cursor, bytes);
    let Some(mut entries) = entries else { return false };
    entries.sort_by(Entry::compare);
    entries.dedup_by(|a, b| a.compare(b).is_eq());
    let built = build(&entries);
    check_built(&built, &entries);
    true
}

fn open(bytes: &[u8]) -> Result<BlockCursor> {
    let mut cursor = BlockCursor::new();
    assert!(!cursor.valid() && !cursor.has_block());
    let heap: Arc<[u8]> = Arc::from(bytes);
    let range = 0..heap.len();
    cursor.set_block(BlockBytes::heap(heap, range))?;
    assert!(!cursor.valid(), "a block is entered by a move");
    Ok(cursor)
}

/// All entries, from the first to the last and back; `None` if one cannot be read, or they are too much.
fn walk(cursor: &mut BlockCursor, layout: &BlockLayout, bytes: &[u8]) -> Option<Vec<Entry>> {
    let block = layout.block(bytes);
    let mut entries = Vec::new();
    let mut held_bytes = 0;
    let mut key = Vec::new();
    let mut moved = cursor.seek_to_first();
    while moved.is_ok() && cursor.valid() {
        let entry = current(cursor);
        let index = entries.len();
        block.key_into(index, &mut key).expect("the cursor could read it");
        assert_eq!(key, entry.key);
        assert_eq!(block.value(index).expect("the cursor could read it"), entry.value);
        assert_eq!(block.trailer(index), entry.trailer);
        held_bytes += entry.bytes();
        if held_bytes > HELD_BYTES_MAX {
            return None;
        }
        entries.push(entry);
        moved = cursor.next();
    }
    assert!(!cursor.valid(), "an error leaves the cursor nowhere");
    let is_whole = moved.is_ok();
    assert_eq!(is_whole, entries.len() == layout.count(), "a walk ends at the end or at an error");
    let mut rest = entries.iter().rev();
    let mut moved = cursor.seek_to_last();
    while is_whole && moved.is_ok() && cursor.valid() {
        assert_eq!(rest.next(), Some(&current(cursor)), "a walk back shows other entries");
        moved = cursor.prev();
    }
    assert!(!is_whole || (rest.next().is_none() && moved.is_ok()), "a walk back shows fewer");
    is_whole.then_some(entries)
}

fn current(cursor: &BlockCursor) -> Entry {
    Entry { key: cursor.key().to_vec(), trailer: cursor.trailer(), value: cursor.value().to_vec() }
}

/// Searches in a block whose entries may be in any order: any answer is right.
fn search_blindly(cursor: &mut BlockCursor, bytes: &[u8]) {
    for start in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
        let target = &bytes[start..(start + start % 24).min(bytes.len())];
        for trailer in [Trailer::NEWEST, Trailer::OLDEST, Trailer(start as u64)] {
            let sought = cursor.seek(target, trailer);
            assert!(sought.is_ok() || !cursor.valid(), "an error leaves the cursor nowhere");
            if cursor.valid() {
                let _ = (current(cursor), cursor.pin_value());
            }
        }
    }
}

fn build(entries: &[Entry]) -> Vec<u8> {
    let mut builder = BlockBuilder::new();
    for Entry { key, trailer, value } in entries {
        let shared = if builder.is_empty() { 0 } else { shared_len(builder.last_key(), key) };
        assert!(builder.add(shared, (key, *trailer, value), usize::MAX), "there is no limit");
    }
    let estimated_len = builder.estimated_len();
    let mut built = Vec::new();
    builder.finish(&mut built);
    assert!(built.len() <= estimated_len, "a block is longer than estimated");
    built
}

/// Checks a block that was built of `entries`, which are in order.
fn check_built(built: &[u8], entries: &[Entry]) {
    assert!(are_ordered(entries));
    let mut cursor = open(built).expect("a block that was just built");
    let layout = BlockLayout::parse(built).expect("a block that was just built");
    let found = walk(&mut cursor, &layout, built).expect("they were held a moment ago");
    assert!(found == entries, "a block gives other entries than it was built of");
    let block = layout.block(built);
    let mut beyond = Vec::new();
    for entry in entries.iter().step_by(entries.len() / 256 + 1) {
        beyond.clone_from(&entry.key);
        beyond.push(0);
        let before = &entry.key[..entry.key.len().saturating_sub(1)];
        let next_trailer = Trailer(entry.trailer.0.saturating_sub(1));
        for (key, trailer) in [
            (&*entry.key, entry.trailer),
            (&*entry.key, Trailer::NEWEST),
            (&*entry.key, next_trailer),
            (&*beyond, Trailer::NEWEST),
            (before, Trailer::OLDEST),
        ] {
            let expected = entries.partition_point(|other| other.is_before(key, trailer));
            let position = block.lower_bound(key, trailer).expect("a block that was just built");
            assert_eq!(position.index, expected, "a search ends at another entry than a count");
            let is_same_key = entries.get(expected).is_some_and(|other| other.key == key);
            assert_eq!(position.is_same_key, is_same_key);
            cursor.seek(key, trailer).expect("a block that was just built");
            assert_eq!(cursor.valid().then(|| current(&cursor)).as_ref(), entries.get(expected));
        }
    }
}
