//! Changes an input where it hurts: a part of it, with everything around the part made to fit again.
//!
//! What is done to the bytes of a part is the caller's: libFuzzer's own mutations, or [`change_bytes`]. Beside that
//! records are removed, doubled and swapped. Once in a while an input is changed blindly, so that wrong checksums and
//! lengths are tried too.

use crate::layout::{FILE_CONTENT_AT, Format, Layout, TABLE_LAST_RECORDS, format_of, join, split};

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }
}

/// Changes some bytes; the result is at most so long.
pub type ChangeBytes<'a> = dyn FnMut(&mut Vec<u8>, usize) + 'a;

/// Changes `input`, which is of `format`, by `change`. It will be at most `bytes_max` long.
pub fn mutate(
    format: Format,
    input: &mut Vec<u8>,
    bytes_max: usize,
    random: &mut Random,
    change: &mut ChangeBytes<'_>,
) {
    let layout = if random.below(16) == 0 { None } else { split(format, input) };
    let Some(mut layout) = layout else {
        change(input, bytes_max);
        return;
    };
    let room = bytes_max.saturating_sub(input.len());
    if !rearrange(format, &mut layout, room, random) {
        change_part(format, &mut layout, room, random, change);
    }
    let mut joined = join(format, &layout);
    joined.truncate(bytes_max);
    *input = joined;
}

/// Now and then: removes, doubles or swaps records. Whether it did.
fn rearrange(format: Format, layout: &mut Layout, room: usize, random: &mut Random) -> bool {
    let count = layout.records.len();
    // The index of a table says where its blocks lie, so moving them is damage and little else.
    let is_due = format != Format::Table && random.below(6) == 0;
    if !is_due || count == 0 {
        return false;
    }
    let (one, other) = (random.below(count), random.below(count));
    match random.below(3) {
        0 if count > 1 => drop(layout.records.remove(one)),
        1 if layout.records[one].len() + 16 <= room => {
            let record = layout.records[one].clone();
            layout.records.insert(other, record);
        }
        _ => layout.records.swap(one, other),
    }
    true
}

/// Changes one part: mostly a record.
fn change_part(
    format: Format,
    layout: &mut Layout,
    room: usize,
    random: &mut Random,
    change: &mut ChangeBytes<'_>,
) {
    let choice = random.below(12);
    let count = layout.records.len();
    let (part, is_record, index) = match choice {
        0 => (&mut layout.head, false, 0),
        1 => (&mut layout.tail, false, 0),
        _ if count == 0 => (&mut layout.head, false, 0),
        _ => {
            let index = random.below(count);
            (&mut layout.records[index], true, index)
        }
    };
    let (len, part_bytes_max) = (part.len(), part.len() + room);
    match format {
        Format::Directory | Format::Segments if is_record => {
            change_file(format, part, room, random, change);
        }
        _ => change(part, part_bytes_max),
    }
    // A data block must keep its length, since the index says where the next one lies.
    if format == Format::Table && is_record && index + TABLE_LAST_RECORDS < count {
        part.resize(len, 0);
    }
}

/// Changes the content of a file by its own format, or rarely its kind or number.
fn change_file(
    list: Format,
    file: &mut Vec<u8>,
    room: usize,
    random: &mut Random,
    change: &mut ChangeBytes<'_>,
) {
    if file.len() < FILE_CONTENT_AT {
        return;
    }
    if random.below(16) == 0 {
        file[random.below(FILE_CONTENT_AT)] = random.below(8) as u8;
        return;
    }
    let format = if list == Format::Segments { Format::Segment } else { format_of(file[0]) };
    let mut content = file.split_off(FILE_CONTENT_AT);
    let bytes_max = content.len() + room;
    mutate(format, &mut content, bytes_max, random, change);
    file.append(&mut content);
}

/// Changes some bytes by chance: flips, numbers that are often limits, cuts, copies, zeros.
pub fn change_bytes(bytes: &mut Vec<u8>, bytes_max: usize, random: &mut Random) {
    const INTERESTING: [u64; 12] =
        [0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 0xffff_ffff, 1 << 56, u64::MAX];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let len = random.below(32).min(bytes.len() - at);
        match random.below(8) {
            _ if bytes.is_empty() => bytes.push(random.number() as u8),
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.number() as u8,
            2 => bytes[at] = bytes[at].wrapping_add_signed(random.below(9) as i8 - 4),
            3 => {
                let number = INTERESTING[random.below(INTERESTING.len())].to_le_bytes();
                let width = (1 << random.below(4)).min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&number[..width]);
            }
            4 => drop(bytes.drain(at..at + len)),
            5 => bytes[at..at + len].fill(0),
            6 => bytes.truncate(at),
            _ => {
                let piece = bytes[at..at + len].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
    bytes.truncate(bytes_max);
}
