//! Versions drawn as text, for tests.
//!
//! A line is a run: `L<level> run <id>: <table> <table> ...`. Runs of a level stand in the order in
//! which they are written, so that a test can also draw a tree that breaks the rules. Empty lines
//! and lines that begin with `//` are skipped.
//!
//! A table is `<number>[<smallest>..<largest>]`, followed by any of these, in any order, without
//! spaces:
//!
//! | text | meaning | else |
//! |---|---|---|
//! | `:100` | bytes of the file | 100 |
//! | `#3-9` | smallest and largest sequence number | `#1-1` |
//! | `=40` | entries | 10, or the tombstones or shadowed entries if they are more |
//! | `~3` | tombstones among the entries | 0 |
//! | `%3` | shadowed entries among the entries | 0 |
//! | `@5-8` | write times of the oldest and newest entry, in ms | `@0-0` |
//! | `!7-9` | first and last expiry, in ms | never |
//! | `^6` | hidden entries | none |
//!
//! Keys are written as [`crate::key::escape`] does; one with a space, `]` or `..` needs `\xNN`
//! there. `Display` of a version is such text. A text that does not parse is a panic.

use std::sync::Arc;

use crate::key::{FileNumber, SequenceNumber};
use crate::table::{Table, TableMeta};
use crate::version::{Run, RunId, Version};

/// The version drawn by `text`.
pub(crate) fn version(text: &str) -> Version {
    let mut version = Version::empty();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with("//") {
            continue;
        }
        let (head, tables) = line.split_once(':').expect("a line is `L0 run 1: tables`");
        let (level, run) = head.split_once(" run ").expect("a line begins with `L0 run 1`");
        let level: usize = number(level.strip_prefix('L').expect("a level is `L0`")) as usize;
        let tables = tables.split_whitespace().map(table).collect();
        let run = Run::unchecked(RunId(number(run)), tables);
        version.levels[level].runs.push(Arc::new(run));
    }
    version
}

/// The table drawn by `text`.
pub(crate) fn table(text: &str) -> Arc<Table> {
    Arc::new(Table::new(meta(text)))
}

/// The metadata of the table drawn by `text`.
pub(crate) fn meta(text: &str) -> TableMeta {
    let (table_number, rest) = text.split_once('[').expect("a table is `1[a..b]`");
    let (range, mut rest) = rest.split_once(']').expect("a key range ends with `]`");
    let (smallest, largest) = range.split_once("..").expect("a key range is `a..b`");
    let mut meta = TableMeta {
        number: FileNumber(number(table_number)),
        file_bytes: 100,
        entry_count: 10,
        tombstone_count: 0,
        shadowed_count: 0,
        key_bytes: 50,
        value_bytes: 50,
        smallest: key(smallest),
        largest: key(largest),
        sequence_min: SequenceNumber(1),
        sequence_max: SequenceNumber(1),
        write_time_min_ms: 0,
        write_time_max_ms: 0,
        expiry_min_ms: u64::MAX,
        expiry_max_ms: u64::MAX,
        checksum: 0,
        hidden_entry_count: 0,
    };
    let mut entry_count = None;
    while let Some(mark) = rest.chars().next() {
        let marks = [':', '#', '=', '~', '%', '@', '!', '^'];
        let end = rest[1..].find(marks).map_or(rest.len(), |end| end + 1);
        let (value, next) = (&rest[1..end], &rest[end..]);
        match mark {
            ':' => meta.file_bytes = number(value),
            '#' => {
                let (min, max) = pair(value);
                (meta.sequence_min, meta.sequence_max) = (SequenceNumber(min), SequenceNumber(max));
            }
            '=' => entry_count = Some(number(value)),
            '~' => meta.tombstone_count = number(value),
            '%' => meta.shadowed_count = number(value),
            '@' => (meta.write_time_min_ms, meta.write_time_max_ms) = pair(value),
            '^' => meta.hidden_entry_count = number(value),
            '!' => (meta.expiry_min_ms, meta.expiry_max_ms) = pair(value),
            _ => panic!("table {text}: unknown mark {mark}"),
        }
        rest = next;
    }
    let least = meta.tombstone_count.max(meta.shadowed_count);
    meta.entry_count = entry_count.unwrap_or(meta.entry_count.max(least));
    meta
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn pair(text: &str) -> (u64, u64) {
    let (min, max) = text.split_once('-').expect("a range of numbers is `1-2`");
    (number(min), number(max))
}

fn key(text: &str) -> Box<[u8]> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => out.push(b'\\'),
            Some(b'x') => {
                let digit = |byte: Option<u8>| char::from(byte.expect("two digits")).to_digit(16);
                let (high, low) = (digit(bytes.next()), digit(bytes.next()));
                let value = high.zip(low).map(|(high, low)| high << 4 | low);
                out.push(value.expect("hexadecimal digits") as u8);
            }
            other => panic!("key {text}: {other:?} after a backslash"),
        }
    }
    out.into()
}
