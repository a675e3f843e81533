//! Damage: every file of a closed database is changed in every way that one change can be, and everything is read.
//!
//! The oracle is strict. An open or a read gives the right value or an error of kind `Corruption`, `Unsupported` or
//! `Io` that names a file; a scan is right up to its error, and complete if it has none. Nothing is missing in silence,
//! because a clean close leaves no unpromised tail. A damaged table is always found by `verify`, and a compaction that
//! reads it fails and replaces nothing.
//!
//! The number of cases is chosen for every run; `ESKER_TEST_SCALE=100` and more takes every byte.

#![allow(clippy::disallowed_methods, reason = "damage comes from behind the seam")]
#![allow(clippy::case_sensitive_file_extension_comparisons, reason = "names are of our making")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use esker::fs::SimFs;
use esker::{
    Compression, Db, DbOptions, Error, ErrorKind, Iter, KeyspaceOptions, Leveled, ReadMode, Verify,
    WriteOptions,
};

use crate::concurrency::guarded;

const DIR: &str = "/db";
/// Every way to read; the cases take them in turn.
const READS: [(ReadMode, Verify); 4] = [
    (ReadMode::Mmap, Verify::Once),
    (ReadMode::Pread, Verify::Once),
    (ReadMode::Mmap, Verify::Always),
    (ReadMode::Pread, Verify::Always),
];

/// Keys of the keyspace `default`, deleted ones included.
const KEYS: u64 = 5000;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A database before it was damaged, and what it holds.
struct Original {
    fs: SimFs,
    default: Model,
    other: Model,
    /// An earlier moment of every file that was there then.
    older: BTreeMap<String, Vec<u8>>,
}

fn scale() -> usize {
    let scale = std::env::var("ESKER_TEST_SCALE").unwrap_or_default();
    if scale == "full" { 1_000_000 } else { scale.parse().unwrap_or(1) }
}

/// Small numbers that look random; the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

fn options((read_mode, verify): (ReadMode, Verify)) -> DbOptions {
    DbOptions {
        background_threads: 0,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 1 << 20,
        cache_bytes: 1 << 20,
        read_mode,
        verify,
        ..DbOptions::default()
    }
}

fn keyspace() -> KeyspaceOptions {
    KeyspaceOptions {
        memtable_bytes: 24 << 10,
        block_bytes: 1024,
        table_bytes: 32 << 10,
        compression: vec![Compression::None, Compression::Snap, Compression::Zstd],
        compaction: Leveled { l0_runs: 3, base_bytes: 64 << 10, fanout: 2 }.into(),
        ..KeyspaceOptions::default()
    }
}

fn open(fs: &SimFs, read: (ReadMode, Verify)) -> esker::Result<Db> {
    Db::builder().options(options(read)).file_system(Arc::new(fs.clone())).open(DIR)
}

/// Three levels, filters, raw and compressed blocks, tombstones, two keyspaces, and a log of three segments.
fn build() -> Original {
    let fs = SimFs::new();
    let builder = Db::builder().options(options(READS[0])).default_keyspace(keyspace());
    let db = builder.file_system(Arc::new(fs.clone())).open(DIR).unwrap();
    let other_keyspace = db.keyspace("other", KeyspaceOptions::default()).unwrap();
    let (mut dice, mut default, mut other) = (Dice(1), Model::new(), Model::new());
    let mut older = BTreeMap::new();
    for round in 0..9000u64 {
        let key = format!("key {:05}", dice.roll() % KEYS).into_bytes();
        if round % 11 == 0 {
            db.delete(&key).unwrap();
            default.remove(&key);
        } else {
            // Half of them can be compressed.
            let mut value = format!("{round} of ").into_bytes();
            let random = round % 2 == 0;
            value.extend((0..90).map(|_| if random { dice.roll() as u8 } else { b'=' }));
            db.put(&key, &value).unwrap();
            default.insert(key, value);
        }
        if round == 8900 {
            // A run in level 0, which is not enough to be compacted.
            db.default_keyspace().flush().unwrap();
        }
        if round > 8000 && round % 10 == 0 {
            let (key, value) = (format!("other {round:05}"), vec![round as u8; 1000]);
            other_keyspace.put(&key, &value).unwrap();
            other.insert(key.into_bytes(), value);
        }
        if round == 8400 {
            let names = fs.list_dir(DIR).into_iter();
            older = names.map(|name| (name.clone(), fs.read_file(at(&name)).unwrap())).collect();
        }
    }
    drop(other_keyspace);
    let levels = &db.metrics().keyspaces[0].levels;
    assert!(levels.iter().filter(|level| level.tables > 0).count() >= 3, "{}", db.metrics());
    db.close().unwrap();
    let segments = fs.list_dir(DIR).iter().filter(|name| name.ends_with(".wal")).count();
    assert!(segments >= 3, "{:?}", fs.list_dir(DIR));
    Original { fs, default, other, older }
}

fn at(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// An error that damage may cause.
fn blame(error: &Error) {
    let kinds = [ErrorKind::Corruption, ErrorKind::Unsupported, ErrorKind::Io];
    assert!(kinds.contains(&error.kind()), "the kind of {error:?}");
    assert!(error.path().is_some_and(|path| path.starts_with(DIR)), "no path: {error:?}");
    assert!(error.advice().is_some(), "no advice: {error:?}");
}

/// Reads on until the end or an error; right as far as it came. Returns whether it was complete.
fn check_scan<'a>(
    mut items: impl Iterator<Item = esker::Result<(Vec<u8>, esker::Value)>>,
    expected: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
) -> bool {
    for (key, value) in expected {
        match items.next() {
            Some(Ok((found, found_value))) => {
                assert_eq!(&found, key, "a key is missing or wrong");
                assert_eq!(&*found_value, value.as_slice(), "a wrong value");
            }
            Some(Err(error)) => {
                blame(&error);
                assert!(!matches!(items.next(), Some(Ok(_))), "it went on after an error");
                return false;
            }
            None => panic!("the scan ended before {}", String::from_utf8_lossy(key)),
        }
    }
    match items.next() {
        None => true,
        Some(Ok((key, _))) => panic!("{} is too much", String::from_utf8_lossy(&key)),
        Some(Err(error)) => {
            blame(&error);
            false
        }
    }
}

/// Reads everything in a keyspace in every way. Returns whether nothing failed.
fn check_reads(
    get: impl Fn(&[u8]) -> esker::Result<Option<esker::Value>>,
    iter: impl Fn() -> Iter,
    model: &Model,
) -> bool {
    let mut well = check_scan(iter(), model.iter());
    well &= check_scan(iter().rev(), model.iter().rev());
    let missing = (0..50).map(|n| (format!("key {:05}x", n * 30).into_bytes(), None));
    let deleted = (0..KEYS).map(|n| format!("key {n:05}").into_bytes());
    let deleted = deleted.filter(|key| !model.contains_key(key)).map(|key| (key, None));
    let present = model.iter().map(|(key, value)| (key.clone(), Some(value)));
    for (key, value) in present.chain(missing).chain(deleted) {
        match get(&key) {
            Ok(found) => assert_eq!(
                found.as_deref(),
                value.map(Vec::as_slice),
                "get {}",
                String::from_utf8_lossy(&key)
            ),
            Err(error) => {
                blame(&error);
                well = false;
            }
        }
    }
    well
}

/// Opens the damaged `fs` and reads everything. Returns whether anything was found wrong.
fn check(original: &Original, fs: &SimFs, read: (ReadMode, Verify), damaged: &str) -> bool {
    let db = match open(fs, read) {
        Ok(db) => db,
        Err(error) => {
            blame(&error);
            return true;
        }
    };
    let mut well = check_reads(|key| db.get(key), || db.iter(), &original.default);
    let other = db.open_keyspace("other").unwrap().expect("a keyspace is missing");
    well &= check_reads(|key| other.get(key), || other.iter(), &original.other);
    let report = db.verify().unwrap();
    report.problems.iter().for_each(blame);
    if damaged.ends_with(".table") {
        assert!(!report.is_ok(), "verify finds every damaged byte of a table");
        check_compaction(&db, fs, damaged);
        assert!(
            check_reads(|key| db.get(key), || db.iter(), &original.default) || !well,
            "reads got worse"
        );
    }
    drop(other);
    // Closing may meet the damage, but not hang or panic.
    if let Err(error) = db.close() {
        blame(&error);
    }
    !well || !report.is_ok()
}

/// Damaged input is not made good by writing it anew under good checksums.
fn check_compaction(db: &Db, fs: &SimFs, damaged: &str) {
    let other = db.open_keyspace("other").unwrap().unwrap();
    let results = [db.compact_range::<&[u8]>(..), other.compact_range::<&[u8]>(..)];
    let mut failed = false;
    for error in results.into_iter().filter_map(Result::err) {
        blame(&error);
        failed = true;
    }
    assert!(failed, "a compaction took a damaged table for good");
    assert!(fs.list_dir(DIR).iter().any(|name| name == damaged), "the damaged table is gone");
    assert!(!db.verify().unwrap().is_ok(), "the damage is gone");
}

/// Runs one case and says which it was if it panics.
fn case(
    original: &Original,
    name: &str,
    read: usize,
    what: &str,
    damage: impl FnOnce(&SimFs),
) -> bool {
    let fs = original.fs.kill_clone();
    damage(&fs);
    let checked = catch_unwind(AssertUnwindSafe(|| check(original, &fs, READS[read % 4], name)));
    checked.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        panic!("{what} of {name}, {:?}: {}", READS[read % 4], text.unwrap_or_default())
    })
}

/// The names of the files that can be damaged, and their lengths.
fn files(original: &Original) -> Vec<(String, usize)> {
    let names = original.fs.list_dir(DIR).into_iter().filter(|name| name != "LOCK");
    names.map(|name| (name.clone(), original.fs.read_file(at(&name)).unwrap().len())).collect()
}

/// About `count` offsets in `0..bytes`: spread evenly, but for the scale at odd places, and all near both ends.
fn places(bytes: usize, count: usize, near: usize) -> Vec<usize> {
    let step = (bytes / count.saturating_mul(scale()).max(1)).max(1);
    let near = near.saturating_mul(scale());
    let mut places: Vec<_> = (0..bytes).step_by(step).map(|at| at + at % step.min(7)).collect();
    places.extend((0..bytes).take(near).chain(bytes.saturating_sub(near)..bytes));
    places.retain(|at| *at < bytes);
    places.sort_unstable();
    places.dedup();
    places
}

#[test]
fn a_whole_database_is_read_right_in_every_way() {
    let original = build();
    for (read, name) in READS.iter().enumerate().zip(["", "", "", ""]) {
        assert!(!case(&original, name, read.0, "nothing", |_| {}), "{read:?}");
    }
}

/// What may go unnoticed, because nothing depends on it: the manifest's last edit, which looks torn, and what follows
/// the last record of a segment that had no room for the next one.
fn may_go_unnoticed(name: &str, bytes: usize, offset: usize) -> bool {
    const LONGEST_RECORD_BYTES: usize = 1100;
    let is_full_segment = name.ends_with(".wal") && bytes == 64 << 10;
    name.starts_with("MANIFEST") || (is_full_segment && offset + LONGEST_RECORD_BYTES > bytes)
}

#[test]
fn flipped_bits() {
    guarded(|| {
        let original = build();
        let (mut dice, mut unnoticed) = (Dice(2), Vec::new());
        for (name, bytes) in files(&original) {
            for (turn, offset) in places(bytes, 25, 3).into_iter().enumerate() {
                let mask = 1u8 << (dice.roll() % 8);
                let what = format!("bits {mask:#x} at {offset}");
                let noticed = case(&original, &name, turn, &what, |fs| {
                    fs.flip(at(&name), offset as u64, mask).unwrap();
                });
                if !noticed && !may_go_unnoticed(&name, bytes, offset) {
                    unnoticed.push(format!("{name} {what}"));
                }
            }
        }
        assert!(unnoticed.is_empty(), "{unnoticed:?}");
    });
}

#[test]
fn files_cut_short() {
    guarded(|| {
        let original = build();
        for (name, bytes) in files(&original) {
            for (turn, length) in places(bytes, 8, 3).into_iter().enumerate() {
                let what = format!("the first {length} bytes");
                let noticed = case(&original, &name, turn, &what, |fs| {
                    fs.truncate_file(at(&name), length as u64).unwrap();
                });
                let fine = noticed || may_go_unnoticed(&name, bytes, length);
                assert!(fine, "{what} of {name} was taken");
            }
        }
    });
}

#[test]
fn files_with_something_behind_them() {
    guarded(|| {
        let original = build();
        let mut dice = Dice(3);
        for (turn, (name, _)) in files(&original).into_iter().enumerate() {
            for length in [1, 7, 64, 4096, 70_000] {
                for garbage in [false, true] {
                    case(&original, &name, turn, &format!("{length} bytes behind"), |fs| {
                        let mut bytes = fs.read_file(at(&name)).unwrap();
                        let tail = (0..length).map(|_| if garbage { dice.roll() as u8 } else { 0 });
                        bytes.extend(tail);
                        fs.write_file(at(&name), &bytes).unwrap();
                    });
                }
            }
        }
    });
}

#[test]
fn units_zeroed_doubled_and_moved() {
    guarded(|| {
        let original = build();
        for (name, bytes) in files(&original) {
            for unit in [512, 4096] {
                for (turn, start) in places(bytes / unit, 3, 1).into_iter().enumerate() {
                    let range = start * unit..(start + 1) * unit;
                    case(&original, &name, turn, &format!("zeros in {range:?}"), |fs| {
                        let mut bytes = fs.read_file(at(&name)).unwrap();
                        bytes[range.clone()].fill(0);
                        fs.write_file(at(&name), &bytes).unwrap();
                    });
                    case(&original, &name, turn, &format!("{range:?} over its neighbour"), |fs| {
                        let mut bytes = fs.read_file(at(&name)).unwrap();
                        let to = if start == 0 { unit } else { range.start - unit };
                        if to + unit <= bytes.len() {
                            bytes.copy_within(range.clone(), to);
                        } else {
                            bytes.truncate(range.start);
                        }
                        fs.write_file(at(&name), &bytes).unwrap();
                    });
                }
            }
        }
    });
}

#[test]
fn files_deleted_emptied_swapped_and_replaced_by_older_ones() {
    guarded(|| {
        let original = build();
        let names: Vec<_> = files(&original).into_iter().map(|(name, _)| name).collect();
        for (turn, name) in names.iter().enumerate() {
            let gone = case(&original, "", turn, &format!("removal of {name}"), |fs| {
                fs.remove_file(at(name)).unwrap();
            });
            assert!(gone, "{name} is not missed");
            let zeros = case(&original, "", turn, &format!("zeros in {name}"), |fs| {
                let bytes = fs.read_file(at(name)).unwrap().len();
                fs.write_file(at(name), &vec![0; bytes]).unwrap();
            });
            assert!(zeros, "{name} can be zeros");
            let kind = name.rsplit('.').next().unwrap();
            for other in names.iter().filter(|other| *other > name && other.ends_with(kind)) {
                let swapped = case(&original, "", turn, &format!("{name} for {other}"), |fs| {
                    let (a, b) =
                        (fs.read_file(at(name)).unwrap(), fs.read_file(at(other)).unwrap());
                    fs.write_file(at(name), &b).unwrap();
                    fs.write_file(at(other), &a).unwrap();
                });
                assert!(swapped, "{name} can stand for {other}");
            }
            if let Some(older) = original.older.get(name) {
                case(&original, "", turn, &format!("an older {name}"), |fs| {
                    fs.write_file(at(name), older).unwrap();
                });
            }
        }
    });
}

#[test]
fn a_writer_behind_a_compaction_that_fails_is_told() {
    guarded(|| {
        for threads in [0, 1, 2] {
            let original = build();
            let fs = original.fs.kill_clone();
            for (name, bytes) in files(&original) {
                if name.ends_with(".table") {
                    fs.flip(at(&name), bytes as u64 / 3, 4).unwrap();
                }
            }
            let options = DbOptions { background_threads: threads, ..options(READS[0]) };
            // Writers stop at 4 MiB of debt.
            let keyspace = KeyspaceOptions { debt_bytes_soft: 1 << 20, ..keyspace() };
            let builder = Db::builder().options(options).default_keyspace(keyspace);
            let db = builder.file_system(Arc::new(fs.clone())).open(DIR).unwrap();
            // The background is slow, so that the writer waits already when the compaction fails.
            fs.on_operation(|_, _| {
                let thread = std::thread::current();
                if thread.name().is_some_and(|name| name.starts_with("esker-")) {
                    (0..200).for_each(|_| std::thread::yield_now());
                }
            });
            let mut dice = Dice(4);
            let tables = fs.list_dir(DIR);
            let mut written = 0u64;
            let error = loop {
                let key = format!("key {:05}", written * 7 % 1500);
                match db.put_with(
                    key,
                    (0..400).map(|_| dice.roll() as u8).collect::<Vec<_>>(),
                    &WriteOptions::default(),
                ) {
                    Ok(()) => written += 1,
                    Err(error) => break error,
                }
                assert!(written < 30_000, "nobody noticed");
            };
            assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
            blame(&error);
            let metrics = db.metrics();
            assert!(metrics.background_errors > 0 && metrics.first_background_error.is_some());
            let left = fs.list_dir(DIR);
            for name in tables.iter().filter(|name| name.ends_with(".table")) {
                assert!(left.contains(name), "the damaged table {name} is gone");
            }
        }
    });
}

/// A database on the real file system, open, and the path of its one table.
fn open_real(place: &Path, read_mode: ReadMode) -> (Db, Model, PathBuf) {
    let options = DbOptions {
        background_threads: 0,
        cache_bytes: 0,
        read_mode,
        verify: Verify::Always,
        ..DbOptions::default()
    };
    let db = Db::builder().options(options).open(place).unwrap();
    let mut model = Model::new();
    for index in 0..1500 {
        let (key, value) = (format!("key {index:05}").into_bytes(), vec![index as u8; 100]);
        db.put(&key, &value).unwrap();
        model.insert(key, value);
    }
    db.flush().unwrap();
    let mut paths = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    let table = paths.find(|path| path.extension().is_some_and(|e| e == "table")).unwrap();
    (db, model, table)
}

/// Damage that comes while the database is open is found where every read is checked.
fn check_live(db: &Db, model: &Model) -> bool {
    let blame = |error: &Error| {
        assert!(matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Io), "{error:?}");
        assert!(error.path().is_some(), "{error:?}");
    };
    let mut well = true;
    for (key, value) in model.iter().step_by(5) {
        match db.get(key) {
            Ok(found) => assert_eq!(found.as_deref(), Some(value.as_slice())),
            Err(error) => {
                blame(&error);
                well = false;
            }
        }
    }
    let mut iter = db.iter();
    for (key, value) in model {
        match iter.next().expect("the scan ended early") {
            Ok((found, found_value)) => assert_eq!((&found, &*found_value), (key, &value[..])),
            Err(error) => {
                blame(&error);
                return false;
            }
        }
    }
    well
}

#[test]
fn damage_to_an_open_table_is_found_by_every_read() {
    for read_mode in [ReadMode::Mmap, ReadMode::Pread] {
        let place = tempfile::tempdir().unwrap();
        let (db, model, table) = open_real(place.path(), read_mode);
        assert!(check_live(&db, &model));
        let file = fs::File::options().read(true).write(true).open(&table).unwrap();
        let bytes = file.metadata().unwrap().len();
        for offset in (20..bytes * 9 / 10).step_by(bytes as usize / 15) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
            assert!(!check_live(&db, &model), "{read_mode:?}: byte {offset} was not missed");
            assert!(!db.verify().unwrap().is_ok(), "byte {offset}");
            assert!(db.compact_range::<&[u8]>(..).is_err(), "byte {offset}");
            assert!(table.exists());
            file.write_all_at(&byte, offset).unwrap();
            assert!(check_live(&db, &model), "{read_mode:?}: byte {offset} was put back");
        }
        db.compact_range::<&[u8]>(..).unwrap();
        assert!(check_live(&db, &model));
    }
}

#[test]
fn an_open_table_cut_short_is_an_error_with_pread() {
    let place = tempfile::tempdir().unwrap();
    let (db, model, table) = open_real(place.path(), ReadMode::Pread);
    assert!(check_live(&db, &model));
    let file = fs::File::options().write(true).open(&table).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    assert!(!check_live(&db, &model));
    assert!(!db.verify().unwrap().is_ok());
    assert!(db.compact_range::<&[u8]>(..).is_err());
    assert!(table.exists());
}
