//! Bytes that are wrong under checksums that are right, as somebody who means harm would write them.
//!
//! There is no right answer to read then. But nothing may panic, hang, or take memory that the files do not justify:
//! not an open, a read, a verification, a write, a flush, a compaction or a close.

use std::panic::{AssertUnwindSafe, catch_unwind};

use esker::Db;
use esker::fs::SimFs;

use super::original::{self, DIR, Dice, Original, READS, at};
use super::process::Share;
use super::text_of;
use crate::trust;

const TABLE_FOOTER_BYTES: usize = 84;
const MANIFEST_HEADER_BYTES: usize = 24;
const SEGMENT_HEADER_BYTES: usize = 64;

/// What is written over the bytes of a file: extremes of fixed numbers, of varints, and single bits.
const PATTERNS: [&[u8]; 15] = [
    &[0],
    &[1],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0xff, 0xff],
    &[0xff; 4],
    &[0xff; 8],
    &[0, 0, 0, 0, 0, 0, 0, 0x80],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    // The largest varint, and one below the largest sequence number.
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
    &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0; 16],
];

/// The CRC-32 of `parts`, in front of them the salt of the formats: a number and an offset.
fn salted_crc(number: u64, offset: usize, parts: &[&[u8]]) -> u32 {
    let mut hasher = salted(number, offset);
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

fn salted(number: u64, offset: usize) -> crc32fast::Hasher {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&(offset as u64).to_le_bytes());
    hasher
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn number_of(name: &str) -> u64 {
    name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// A file and where its checksums stand.
struct Target {
    name: String,
    bytes: Vec<u8>,
    /// Starts of the parts that have a checksum each: blocks, or records; the end last.
    starts: Vec<usize>,
}

impl Target {
    fn of(name: &str, bytes: &[u8]) -> Target {
        let starts = if name.ends_with(".table") {
            blocks(bytes, number_of(name))
        } else if name.ends_with(".wal") {
            log_records(bytes)
        } else if name.starts_with("MANIFEST") {
            manifest_records(bytes)
        } else {
            Vec::new()
        };
        Target { name: name.to_owned(), bytes: bytes.to_vec(), starts }
    }

    /// Makes the checksums of `bytes` right, which differ from the file's near `offset`.
    fn mend(&self, bytes: &mut [u8], range: std::ops::Range<usize>) {
        let number = number_of(&self.name);
        let parts = self.starts.windows(2).map(|pair| pair[0]..pair[1]);
        let touched = parts.filter(|part| part.start < range.end && range.start < part.end);
        if self.name.ends_with(".table") {
            touched.for_each(|part| {
                let crc = salted_crc(number, part.start, &[&bytes[part.start..part.end - 4]]);
                put_u32(bytes, part.end - 4, crc);
            });
            mend_footer(bytes, number);
        } else if self.name.ends_with(".wal") {
            touched.for_each(|part| mend_log_record(bytes, number, part));
            let crc = salted_crc(number, 0, &[&bytes[..60]]);
            put_u32(bytes, 60, crc);
        } else {
            touched.for_each(|part| {
                let end = part.start + 8 + u32_at(bytes, part.start) as usize;
                let end = if end <= bytes.len() { end } else { part.end };
                let parts = [&bytes[part.start..part.start + 4], &bytes[part.start + 8..end]];
                put_u32(bytes, part.start + 4, salted_crc(number, part.start, &parts));
            });
            let crc = crc32fast::hash(&bytes[..20]);
            put_u32(bytes, 20, crc);
        }
    }
}

/// Where the data blocks of a table begin, and where they end. A block ends where its checksum holds.
fn blocks(bytes: &[u8], number: u64) -> Vec<usize> {
    let data_end = u64_at(bytes, bytes.len() - TABLE_FOOTER_BYTES) as usize;
    let mut starts = vec![20];
    let mut hasher = salted(number, 20);
    for end in 20..data_end - 3 {
        let start = *starts.last().unwrap();
        if end > start && hasher.clone().finalize() == u32_at(bytes, end) {
            starts.push(end + 4);
            hasher = salted(number, end + 4);
        } else if end >= start {
            hasher.update(&bytes[end..=end]);
        }
    }
    assert_eq!(starts.last(), Some(&data_end), "the blocks of a table were not found");
    starts
}

fn mend_footer(bytes: &mut [u8], number: u64) {
    let footer_at = bytes.len() - TABLE_FOOTER_BYTES;
    for region in 0..3 {
        let at = footer_at + 20 * region;
        let (offset, len) = (u64_at(bytes, at), u64_at(bytes, at + 8));
        let end = offset.checked_add(len).filter(|end| *end <= footer_at as u64);
        if let Some(end) = end {
            let crc = salted_crc(number, offset as usize, &[&bytes[offset as usize..end as usize]]);
            put_u32(bytes, at + 16, crc);
        }
    }
    let (head, tail) = (&bytes[footer_at..footer_at + 68], &bytes[footer_at + 72..]);
    let crc = salted_crc(number, footer_at, &[head, tail]);
    put_u32(bytes, footer_at + 68, crc);
}

fn manifest_records(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![MANIFEST_HEADER_BYTES];
    while *starts.last().unwrap() < bytes.len() {
        let start = *starts.last().unwrap();
        starts.push(start + 8 + u32_at(bytes, start) as usize);
    }
    assert_eq!(starts.last(), Some(&bytes.len()));
    starts
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The ends of the header and of the payload of the record at `start`.
fn log_record(bytes: &[u8], start: usize) -> Option<(usize, usize)> {
    if *bytes.get(start)? & 0xf0 != 0xe0 {
        return None;
    }
    let mut at = start + 7;
    let payload = varint(bytes, &mut at)?;
    for _ in 0..3 {
        varint(bytes, &mut at)?;
    }
    let end = (at as u64).checked_add(payload).filter(|end| *end <= bytes.len() as u64)?;
    Some((at, end as usize))
}

fn log_records(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![SEGMENT_HEADER_BYTES];
    while let Some((_, end)) = log_record(bytes, *starts.last().unwrap()) {
        starts.push(end);
    }
    assert!(starts.len() > 3, "the records of a segment were not found");
    starts
}

fn mend_log_record(bytes: &mut [u8], number: u64, part: std::ops::Range<usize>) {
    let start = part.start;
    let Some((header_end, end)) = log_record(bytes, start) else { return };
    let header = salted_crc(number, start, &[&bytes[start..=start], &bytes[start + 7..header_end]]);
    let payload = crc32fast::hash(&bytes[header_end..end]);
    put_u32(bytes, start + 1, header ^ payload.rotate_left(1));
    bytes[start + 5..start + 7].copy_from_slice(&((header >> 16) as u16).to_le_bytes());
}

/// Does everything that a database is for. Errors are fine.
fn use_all(fs: &SimFs, read: usize) -> esker::Result<()> {
    let db = original::builder(fs, READS[read % READS.len()]).open(DIR)?;
    let results = [read_all(&db), original::write_more(&db)];
    for name in db.list_keyspaces() {
        if let Some(keyspace) = db.open_keyspace(&name)? {
            let _ = keyspace.compact_range::<&[u8]>(..);
        }
    }
    let _ = db.metrics().to_string();
    let _ = db.measure_space();
    let _ = db.drop_keyspace("other");
    db.close()?;
    results.into_iter().collect()
}

fn read_all(db: &Db) -> esker::Result<()> {
    for name in db.list_keyspaces() {
        let Some(keyspace) = db.open_keyspace(&name)? else { continue };
        for n in (0..320).step_by(7) {
            let _ = keyspace.get(format!("key {n:05}"));
            let _ = keyspace.get(format!("other {n:05}"));
        }
        let _ = keyspace.iter().try_for_each(|item| item.map(drop));
        let _ = keyspace.iter().rev().try_for_each(|item| item.map(drop));
    }
    db.verify().map(drop)
}

fn cases(targets: &[Target]) -> impl Iterator<Item = (usize, usize, usize)> {
    // Of ten thousand places, how many are taken: in manifests, in what describes tables, in data.
    let [manifest, dense, sparse] = match trust::cases(0, 1, 2) {
        0 => [15, 3, 0],
        1 => [2_000, 200, 20],
        _ => [10_000, 10_000, 600],
    };
    targets.iter().enumerate().flat_map(move |(file, target)| {
        (0..target.bytes.len()).flat_map(move |offset| {
            let is_data = target.starts.last().is_some_and(|end| offset < *end);
            let share = match is_data {
                true if target.name.starts_with("MANIFEST") => manifest,
                true => sparse,
                false => dense,
            };
            let mut dice = Dice(trust::seed() ^ ((file as u64) << 40) ^ offset as u64);
            dice.roll();
            let chosen = move |_: &usize| dice.roll() % 10_000 < share;
            (0..PATTERNS.len()).filter(chosen).map(move |pattern| (file, offset, pattern))
        })
    })
}

pub(super) fn sweep(share: &Share) {
    let original = Original::build();
    let files = original.files.iter().filter(|(name, _)| name != "CURRENT");
    let targets: Vec<_> = files.map(|(name, bytes)| Target::of(name, bytes)).collect();
    for (number, (file, offset, pattern)) in (0..).zip(cases(&targets)) {
        if !share.has(number) {
            continue;
        }
        let target = &targets[file];
        let describe = || format!("{} at {offset}: {:02x?}", target.name, PATTERNS[pattern]);
        share.begin(number, describe);
        let fs = original.fs.kill_clone();
        let mut bytes = target.bytes.clone();
        let end = (offset + PATTERNS[pattern].len()).min(bytes.len());
        bytes[offset..end].copy_from_slice(&PATTERNS[pattern][..end - offset]);
        target.mend(&mut bytes, offset..end);
        fs.write_file(at(&target.name), &bytes).unwrap();
        let run = AssertUnwindSafe(|| {
            // Twice: the second one meets what the first one made of it.
            let _ = use_all(&fs, number as usize);
            let _ = use_all(&fs, number as usize + 1);
        });
        if let Err(panic) = catch_unwind(run) {
            share.failure(number, &describe(), &text_of(&*panic));
        }
    }
}
