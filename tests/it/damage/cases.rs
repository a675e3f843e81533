//! What is done to the files of a closed database: one change a case.

use esker::fs::SimFs;

use super::original::{Dice, Original, at};
use crate::trust;

/// What the cases are counted by.
pub(super) const KINDS: [&str; 5] = ["flips", "truncations", "extensions", "units", "files"];

/// Both ends of a file are damaged more thoroughly than its middle.
const END_BYTES: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Flip { offset: usize, mask: u8 },
    Cut { bytes: usize },
    Extend { bytes: usize, is_garbage: bool },
    Zero { offset: usize, unit: usize },
    Garble { offset: usize, unit: usize },
    Copy { from: usize, to: usize, unit: usize },
    Swap { a: usize, b: usize, unit: usize },
    Remove,
    Empty,
    ZeroAll,
    Older,
    SwapWith { other: usize },
    CopyOver { other: usize },
}

/// A change of one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    /// The index of the file.
    pub(super) file: usize,
    change: Change,
}

impl Case {
    /// The index of its kind in [`KINDS`].
    pub(super) fn kind(&self) -> usize {
        match self.change {
            Change::Flip { .. } => 0,
            Change::Cut { .. } => 1,
            Change::Extend { .. } => 2,
            Change::Zero { .. }
            | Change::Garble { .. }
            | Change::Copy { .. }
            | Change::Swap { .. } => 3,
            _ => 4,
        }
    }

    pub(super) fn describe(&self, original: &Original) -> String {
        let name = |file: usize| original.files[file].0.as_str();
        match self.change {
            Change::SwapWith { other } | Change::CopyOver { other } => {
                format!("{} {:?} ({})", name(self.file), self.change, name(other))
            }
            _ => format!("{} {:?}", name(self.file), self.change),
        }
    }

    /// The bytes of the file afterwards; `None` if it is gone.
    fn changed(&self, original: &Original) -> Option<Vec<u8>> {
        let (name, bytes) = &original.files[self.file];
        let mut bytes = bytes.clone();
        match self.change {
            Change::Flip { offset, mask } => bytes[offset] ^= mask,
            Change::Cut { bytes: left } => bytes.truncate(left),
            Change::Extend { bytes: more, is_garbage } => {
                let mut dice = Dice(3 + more as u64);
                let tail = (0..more).map(|_| if is_garbage { dice.roll() as u8 } else { 0 });
                bytes.extend(tail);
            }
            Change::Zero { offset, unit } => bytes[offset..offset + unit].fill(0),
            Change::Garble { offset, unit } => {
                let mut dice = Dice(offset as u64);
                bytes[offset..offset + unit].fill_with(|| dice.roll() as u8);
            }
            Change::Copy { from, to, unit } => bytes.copy_within(from..from + unit, to),
            Change::Swap { a, b, unit } => {
                let (head, tail) = bytes.split_at_mut(b);
                head[a..a + unit].swap_with_slice(&mut tail[..unit]);
            }
            Change::Remove => return None,
            Change::Empty => bytes.clear(),
            Change::ZeroAll => bytes.fill(0),
            Change::Older => bytes.clone_from(&original.older[name]),
            Change::SwapWith { other } | Change::CopyOver { other } => {
                bytes.clone_from(&original.files[other].1);
            }
        }
        Some(bytes)
    }

    /// Whether the file is another one afterwards: a unit may be put where the same bytes stand.
    pub(super) fn changes_bytes(&self, original: &Original) -> bool {
        matches!(self.change, Change::Flip { .. })
            || self.changed(original).as_ref() != Some(&original.files[self.file].1)
    }

    /// Whether nobody may take the change for what was written. A flip and a cut are known to the byte. What follows
    /// the end of the log, or stands for bytes that hold nothing, may be passed over.
    pub(super) fn must_be_noticed(&self, original: &Original) -> bool {
        let (name, bytes) = &original.files[self.file];
        let is_log = name.ends_with(".wal");
        match self.change {
            Change::Flip { offset, .. } => !original.is_waste(self.file, offset),
            Change::Cut { bytes: left } => {
                left < bytes.len() && !original.is_waste(self.file, left)
            }
            Change::Extend { .. } => !is_log,
            Change::Remove
            | Change::Empty
            | Change::ZeroAll
            | Change::SwapWith { .. }
            | Change::CopyOver { .. } => true,
            // The one of before the close: all of it is true, only less is known.
            Change::Older => name != "CURRENT" && self.changes_bytes(original) && !is_log,
            _ => !is_log && self.changes_bytes(original),
        }
    }

    pub(super) fn apply(&self, original: &Original, fs: &SimFs) {
        let path = at(&original.files[self.file].0);
        if let Change::SwapWith { other } = self.change {
            let (name, _) = &original.files[other];
            fs.write_file(at(name), &original.files[self.file].1).unwrap();
        }
        match self.changed(original) {
            Some(bytes) => fs.write_file(path, &bytes).unwrap(),
            None => fs.remove_file(path).unwrap(),
        }
    }
}

/// All cases, in an order that does not change.
pub(super) fn all(original: &Original) -> impl Iterator<Item = Case> {
    (0..original.files.len()).flat_map(move |file| {
        let (name, bytes) = &original.files[file];
        let changes = flips(name, bytes)
            .chain(cuts(bytes.len()))
            .chain(extensions())
            .chain(units(bytes.len()))
            .chain(files(original, file));
        changes.map(move |change| Case { file, change })
    })
}

/// A number that looks random, of a place.
fn hash(a: usize, b: usize) -> usize {
    let mut dice = Dice(trust::seed() ^ ((a as u64) << 32) ^ b as u64);
    dice.roll();
    dice.roll() as usize
}

/// Whether damage there hits structure: both ends of a file, all of a short one, and what is not data in a table.
fn is_dense(name: &str, bytes: &[u8], offset: usize) -> bool {
    let is_end = offset < END_BYTES || offset + END_BYTES >= bytes.len();
    let is_data = if name.ends_with(".table") {
        // The footer begins with the offset of the filter, where the data ends.
        let footer = &bytes[bytes.len() - 84..];
        offset < u64::from_le_bytes(footer[..8].try_into().unwrap()) as usize
    } else {
        name.ends_with(".wal")
    };
    is_end || !is_data
}

fn flips<'a>(name: &'a str, bytes: &'a [u8]) -> impl Iterator<Item = Change> + 'a {
    // Of ten thousand bits, how many are flipped: where structure is dense, and elsewhere.
    let (dense, sparse) = match trust::cases(0, 1, 2) {
        0 => (15, 2),
        1 => (1_500, 100),
        _ => (10_000, 10_000),
    };
    (0..bytes.len()).flat_map(move |offset| {
        let share = if is_dense(name, bytes, offset) { dense } else { sparse };
        let chosen = move |bit: &usize| hash(offset * 8 + bit, bytes.len()) % 10_000 < share;
        (0..8).filter(chosen).map(move |bit| Change::Flip { offset, mask: 1 << bit })
    })
}

fn cuts(bytes: usize) -> impl Iterator<Item = Change> {
    let (near, step) = match trust::cases(0, 1, 2) {
        0 => (2, 9973),
        1 => (END_BYTES / 4, 61),
        _ => (END_BYTES, 1),
    };
    let is_chosen =
        move |left: &usize| *left < near || left + near >= bytes || left.is_multiple_of(step);
    (0..bytes).filter(is_chosen).map(|left| Change::Cut { bytes: left })
}

fn extensions() -> impl Iterator<Item = Change> {
    let lengths = match trust::cases(0, 1, 2) {
        0 => vec![1, 4096],
        1 => (1..=64).chain([100, 512, 4095, 4096, 4097, 70_000]).collect(),
        _ => (1..=4097).chain([10_000, 65_536, 70_000]).collect::<Vec<_>>(),
    };
    lengths
        .into_iter()
        .flat_map(|bytes| [false, true].map(|is_garbage| Change::Extend { bytes, is_garbage }))
}

fn units(bytes: usize) -> impl Iterator<Item = Change> {
    // How many other units each is copied to and exchanged with.
    let partners = trust::cases(0, 3, 200) as usize;
    let skip = trust::cases(16, 1, 1) as usize;
    [512, 4096].into_iter().flat_map(move |unit| {
        let count = bytes / unit;
        (0..count).step_by(skip).flat_map(move |index| {
            let offset = index * unit;
            let alone = [Change::Zero { offset, unit }, Change::Garble { offset, unit }];
            let others = (1..=partners.min(count.saturating_sub(1))).flat_map(move |nth| {
                // The neighbours first, then whoever comes.
                let other = if nth <= 2 || partners > 3 { nth } else { hash(index, nth) };
                let other = (index + other) % count * unit;
                let swap = Change::Swap { a: offset.min(other), b: offset.max(other), unit };
                let copy = Change::Copy { from: offset, to: other, unit };
                [Some(copy), (offset < other).then_some(swap)].into_iter().flatten()
            });
            alone.into_iter().chain(others)
        })
    })
}

fn files(original: &Original, file: usize) -> impl Iterator<Item = Change> {
    let name = &original.files[file].0;
    let kind_of = |name: &str| name.rsplit('.').next().unwrap().to_owned();
    let older = original.older.contains_key(name).then_some(Change::Older);
    let same_kind = (0..original.files.len())
        .filter(|other| *other != file && kind_of(&original.files[*other].0) == kind_of(name));
    let pairs: Vec<_> = same_kind
        .flat_map(|other| {
            let swap = (other > file).then_some(Change::SwapWith { other });
            [Some(Change::CopyOver { other }), swap].into_iter().flatten()
        })
        .collect();
    [Change::Remove, Change::Empty, Change::ZeroAll].into_iter().chain(older).chain(pairs)
}
