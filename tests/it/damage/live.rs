//! Damage to tables that an open database reads, on the real file system.
//!
//! Where every read is checked (`read_mode=pread`, `verify=always`), a read gives the right value or an error. With
//! `verify=once` in mode `mmap`, a block that was read before may be wrong afterwards, as `docs/guarantees.md` says;
//! then nothing may panic, and `verify` finds it. In every mode a compaction finds it and replaces nothing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use esker::{
    Compression, Db, DbOptions, Error, ErrorKind, FilterKind, Keyspace, KeyspaceOptions, ReadMode,
    Verify,
};

use super::original::{Dice, Model, READS};
use super::process::Share;
use super::text_of;
use crate::trust;

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Snap, Compression::Zstd];

/// A keyspace with one table.
struct Live {
    keyspace: Keyspace,
    model: Model,
    table: PathBuf,
    bytes: Vec<u8>,
    /// Where the data blocks end.
    data_end: u64,
}

struct World {
    db: Db,
    lives: Vec<Live>,
    /// Whether every read is checked.
    is_strict: bool,
    read: (ReadMode, Verify),
}

fn tables(place: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "table")).collect();
    paths.sort();
    paths
}

fn build(place: &Path, read: (ReadMode, Verify)) -> World {
    let (read_mode, verify) = read;
    let options = DbOptions {
        background_threads: 0,
        cache_bytes: 0,
        wal_segment_bytes: 1 << 20,
        wal_bytes_max: 2 << 20,
        read_mode,
        verify,
        ..DbOptions::default()
    };
    let db = Db::builder().options(options).open(place).unwrap();
    let mut lives = Vec::new();
    let mut dice = Dice(8);
    for (index, compression) in COMPRESSIONS.into_iter().enumerate() {
        let options = KeyspaceOptions {
            block_bytes: 1024,
            filter: if index == 1 { FilterKind::Bloom } else { FilterKind::Blocked },
            compression: vec![compression],
            ..KeyspaceOptions::default()
        };
        let keyspace = db.keyspace(&format!("in {compression:?}"), options).unwrap();
        let mut model = Model::new();
        for n in 0..200u64 {
            let key = format!("key {n:05}").into_bytes();
            let mut value = vec![n as u8; 80];
            value.extend((0..20).map(|_| dice.roll() as u8));
            keyspace.put(&key, &value).unwrap();
            model.insert(key, value);
        }
        keyspace.flush().unwrap();
        let table = tables(place).pop().unwrap();
        let bytes = fs::read(&table).unwrap();
        let data_end = u64::from_le_bytes(bytes[bytes.len() - 84..][..8].try_into().unwrap());
        lives.push(Live { keyspace, model, table, bytes, data_end });
    }
    let is_strict = read != (ReadMode::Mmap, Verify::Once);
    let world = World { db, lives, is_strict, read };
    for live in &world.lives {
        assert!(world.check(live));
    }
    assert!(world.db.verify().unwrap().is_ok());
    world
}

impl World {
    fn blame(&self, error: &Error, live: &Live) {
        let known = matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io);
        // Only what was not verified can look like something newer.
        let known = known || (!self.is_strict && error.kind() == ErrorKind::Unsupported);
        assert!(known, "{error:?}");
        assert_eq!(error.path(), Some(live.table.as_path()), "{error:?}");
        assert!(error.offset().is_some(), "{error:?}");
    }

    /// Reads everything; whether all was there and right. A wrong answer is a panic where reads are checked.
    fn check(&self, live: &Live) -> bool {
        let mut well = true;
        let judge = |is_right: bool, what: &str| {
            assert!(is_right || !self.is_strict, "{what}");
            is_right
        };
        for (key, value) in &live.model {
            match live.keyspace.get(key) {
                Ok(found) => {
                    well &= judge(found.as_deref() == Some(value.as_slice()), "a wrong value");
                }
                Err(error) => {
                    self.blame(&error, live);
                    well = false;
                }
            }
        }
        for n in 0..20 {
            match live.keyspace.get(format!("key {n:05}x")) {
                Ok(found) => well &= judge(found.is_none(), "a key that never was"),
                Err(error) => {
                    self.blame(&error, live);
                    well = false;
                }
            }
        }
        let mut iter = live.keyspace.iter();
        for (key, value) in &live.model {
            match iter.next() {
                Some(Ok((found, found_value))) => {
                    let is_right = (&found, &*found_value) == (key, value.as_slice());
                    well &= judge(is_right, "a scan is wrong");
                }
                Some(Err(error)) => {
                    self.blame(&error, live);
                    return false;
                }
                None => return judge(false, "a scan ends early"),
            }
        }
        well
    }

    fn check_damaged(&self, live: &Live, must_be_read: bool) {
        let well = self.check(live);
        assert!(!well || !must_be_read || !self.is_strict, "no read noticed");
        let report = self.db.verify().unwrap();
        assert!(!report.is_ok(), "verify finds nothing");
        report.problems.iter().for_each(|error| self.blame(error, live));
        if !must_be_read {
            // A merge reads neither filters nor footers: what it writes is right, and new.
            return;
        }
        let compacted = live.keyspace.compact_range::<&[u8]>(..);
        let error = compacted.expect_err("a compaction took a damaged table for good");
        self.blame(&error, live);
        assert!(live.table.exists(), "the damaged table is gone");
    }

    /// Flips bits, looks, and puts them back.
    fn flip(&self, live: &Live, offset: u64, mask: u8) {
        let file = File::options().write(true).open(&live.table).unwrap();
        let byte = live.bytes[offset as usize];
        file.write_all_at(&[byte ^ mask], offset).unwrap();
        let is_data = (20..live.data_end).contains(&offset);
        self.check_damaged(live, is_data);
        file.write_all_at(&[byte], offset).unwrap();
        assert!(self.check(live), "wrong after the byte was put back");
    }

    /// Cuts the table, looks, and puts the rest back.
    fn cut(&self, live: &Live, bytes: u64) {
        let file = File::options().write(true).open(&live.table).unwrap();
        file.set_len(bytes).unwrap();
        self.check_damaged(live, bytes < live.data_end);
        file.write_all_at(&live.bytes[bytes as usize..], bytes).unwrap();
        assert!(self.check(live), "wrong after the rest was put back");
    }
}

pub(super) fn sweep(share: &Share) {
    let count = trust::cases(60, 1_000, 20_000);
    // In memory, where there is such a place: nothing here is about syncs.
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let place = place.unwrap();
    let worlds: Vec<_> = READS
        .iter()
        .enumerate()
        .map(|(index, read)| build(&place.path().join(index.to_string()), *read))
        .collect();
    let (mut flips, mut truncations) = (0, 0);
    for number in (0..count).filter(|number| share.has(*number)) {
        let mut dice = Dice(number ^ (trust::seed() << 40));
        dice.roll();
        let world = &worlds[number as usize / 2 % worlds.len()];
        let live = &world.lives[dice.roll() as usize % world.lives.len()];
        let len = live.bytes.len() as u64;
        // Half of the damage in data, half in what stands behind it.
        let range =
            if dice.roll().is_multiple_of(2) { 0..live.data_end } else { live.data_end..len };
        let offset = range.start + dice.roll() % (range.end - range.start);
        let mask = 1u8 << (dice.roll() % 8);
        // A page of a map that is gone is a signal; only checked reads look before they touch.
        let is_cut = dice.roll().is_multiple_of(5) && world.is_strict;
        let describe = || {
            let what = if is_cut { "cut at" } else { "flip at" };
            format!("{:?} {what} {offset} of {}, mask {mask:#x}", world.read, live.table.display())
        };
        share.begin(number, describe);
        let run = || if is_cut { world.cut(live, offset) } else { world.flip(live, offset, mask) };
        if is_cut {
            truncations += 1;
        } else {
            flips += 1;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            share.failure(number, &describe(), &text_of(&*panic));
            fs::write(&live.table, &live.bytes).unwrap();
        }
    }
    Share::count("flips", flips);
    Share::count("truncations", truncations);
}

/// Under `verify=once` damage that came after the check can make a kind of entry that there is not; the error said
/// neither the file nor the place.
#[test]
fn a_kind_that_damage_made_unknown_names_its_table() {
    let dir = tempfile::tempdir().unwrap();
    let world = build(dir.path(), (ReadMode::Mmap, Verify::Once));
    let live = &world.lives[0];
    let file = File::options().write(true).open(&live.table).unwrap();
    let (mut by_get, mut by_scan) = (0, 0);
    for offset in 20..live.data_end.min(1100) {
        let byte = live.bytes[offset as usize];
        file.write_all_at(&[byte ^ 0x82], offset).unwrap();
        let found = live.keyspace.get("key 00003").err();
        let scanned = live.keyspace.iter().take(5).find_map(Result::err);
        for (error, count) in [(found, &mut by_get), (scanned, &mut by_scan)] {
            if let Some(error) = error {
                world.blame(&error, live);
                *count += u64::from(error.kind() == ErrorKind::Unsupported);
            }
        }
        file.write_all_at(&[byte], offset).unwrap();
    }
    assert!(by_get > 0 && by_scan > 0, "{by_get} {by_scan}");
}
