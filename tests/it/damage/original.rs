//! The database before it is damaged, and the oracle.
//!
//! Small, so that it is read in a millisecond, and with everything that a database can hold: three levels, raw, Snappy
//! and Zstandard blocks, both kinds of filters, tombstones, entries that expire and have expired, two keyspaces with
//! different strategies, a log of several segments, and a manifest of many edits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use esker::clock::Clock;
use esker::fs::SimFs;
use esker::{
    Compression, Db, DbBuilder, DbOptions, Error, ErrorKind, FilterKind, Iter, KeyspaceOptions,
    Leveled, ReadMode, SizeTiered, Verify, WriteOptions,
};

pub(super) const DIR: &str = "/db";
/// Every way to read; the cases take them in turn.
pub(super) const READS: [(ReadMode, Verify); 4] = [
    (ReadMode::Mmap, Verify::Once),
    (ReadMode::Pread, Verify::Once),
    (ReadMode::Mmap, Verify::Always),
    (ReadMode::Pread, Verify::Always),
];
/// Keys of the keyspace `default`, deleted and expired ones included.
const KEYS: u64 = 500;
const NOW_MS: u64 = 1_700_000_000_000;
const SEGMENT_BYTES: u64 = 64 << 10;
/// Where the header of a segment says where the data of the one before ended.
const PREVIOUS_OFFSET_AT: usize = 32;

pub(super) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Small numbers that look random; the same in every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

/// A clock that stands: what has expired is the same in every run.
#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn unix_ms(&self) -> u64 {
        NOW_MS
    }

    fn monotonic_ns(&self) -> u64 {
        0
    }
}

/// As [`Stopped`], long ago.
#[derive(Debug)]
struct LongAgo;

impl Clock for LongAgo {
    fn unix_ms(&self) -> u64 {
        NOW_MS - 1_000_000
    }

    fn monotonic_ns(&self) -> u64 {
        0
    }
}

pub(super) fn options((read_mode, verify): (ReadMode, Verify)) -> DbOptions {
    DbOptions {
        background_threads: 0,
        wal_segment_bytes: SEGMENT_BYTES,
        wal_bytes_max: 1 << 20,
        cache_bytes: 256 << 10,
        read_mode,
        verify,
        ..DbOptions::default()
    }
}

pub(super) fn default_keyspace() -> KeyspaceOptions {
    KeyspaceOptions {
        memtable_bytes: 8 << 10,
        block_bytes: 1024,
        table_bytes: 12 << 10,
        compression: vec![Compression::None, Compression::Snap, Compression::Zstd],
        compaction: Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 }.into(),
        ..KeyspaceOptions::default()
    }
}

fn other_keyspace() -> KeyspaceOptions {
    KeyspaceOptions {
        block_bytes: 512,
        filter: FilterKind::Bloom,
        compression: vec![Compression::Zstd],
        compaction: SizeTiered::default().into(),
        ..KeyspaceOptions::default()
    }
}

pub(super) fn builder(fs: &SimFs, read: (ReadMode, Verify)) -> DbBuilder {
    let builder = Db::builder().options(options(read)).file_system(Arc::new(fs.clone()));
    builder.clock(Arc::new(Stopped))
}

pub(super) fn at(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// An error that damage may cause.
pub(super) fn blame(error: &Error) {
    let kinds = [ErrorKind::Corruption, ErrorKind::Unsupported, ErrorKind::Io];
    assert!(kinds.contains(&error.kind()), "the kind of {error:?}");
    assert!(error.path().is_some_and(|path| path.starts_with(DIR)), "no path: {error:?}");
    let is_placed = error.kind() != ErrorKind::Corruption || error.offset().is_some();
    assert!(is_placed, "no offset: {error:?}");
    assert!(error.advice().is_some(), "no advice: {error:?}");
}

/// A database before it was damaged, and what it holds.
pub(super) struct Original {
    pub(super) fs: SimFs,
    pub(super) default: Model,
    pub(super) other: Model,
    /// Its files and their bytes, without `LOCK`.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// An earlier moment of every file that was there then.
    pub(super) older: BTreeMap<String, Vec<u8>>,
    /// Keys that were never written, and such as were deleted or have expired.
    absent: Vec<Vec<u8>>,
}

/// The bytes of every file but `LOCK`.
fn read_files(fs: &SimFs) -> Vec<(String, Vec<u8>)> {
    let names = fs.list_dir(DIR).into_iter().filter(|name| name != "LOCK");
    names.map(|name| (name.clone(), fs.read_file(at(&name)).unwrap())).collect()
}

fn level_count(db: &Db) -> usize {
    db.metrics().keyspaces[0].levels.iter().filter(|level| level.tables > 0).count()
}

fn value(round: u64, dice: &mut Dice, bytes: u64) -> Vec<u8> {
    let mut value = format!("{round} of ").into_bytes();
    // Half of them can be compressed.
    let is_random = round.is_multiple_of(2);
    value.extend((0..bytes).map(|_| if is_random { dice.roll() as u8 } else { b'=' }));
    value
}

impl Original {
    pub(super) fn build() -> Original {
        let fs = SimFs::new();
        let (mut dice, mut default, mut other) = (Dice(1), Model::new(), Model::new());
        // Some entries expire before the database is damaged.
        let early = builder(&fs, READS[0]).clock(Arc::new(LongAgo));
        let db = early.default_keyspace(default_keyspace()).open(DIR).unwrap();
        for key in (0..KEYS).step_by(5) {
            let key = format!("key {key:05}");
            db.put_with_ttl(&key, "gone by then", Duration::from_secs(100)).unwrap();
        }
        db.close().unwrap();
        let db = builder(&fs, READS[0]).open(DIR).unwrap();
        let others = db.keyspace("other", other_keyspace()).unwrap();
        let mut put_other = |round: u64, dice: &mut Dice| {
            let (key, value) = (format!("other {round:05}").into_bytes(), value(round, dice, 900));
            others.put(&key, &value).unwrap();
            other.insert(key, value);
        };
        (0..12).for_each(|round| put_other(round, &mut dice));
        db.flush().unwrap();
        for round in 0..6000u64 {
            if round > 500 && round % 10 == 0 && level_count(&db) >= 3 {
                break;
            }
            let key = format!("key {:05}", dice.roll() % KEYS).into_bytes();
            if round % 7 == 0 {
                db.delete(&key).unwrap();
                default.remove(&key);
            } else {
                let value = value(round, &mut dice, 300);
                if round % 5 == 0 {
                    db.put_with_ttl(&key, &value, Duration::from_secs(1 << 30)).unwrap();
                } else {
                    db.put(&key, &value).unwrap();
                }
                default.insert(key, value);
            }
        }
        assert!(level_count(&db) >= 3, "{}", db.metrics());
        let mut older = BTreeMap::new();
        for round in 12..160 {
            put_other(round, &mut dice);
            if round == 60 {
                older = read_files(&fs).into_iter().collect();
            }
        }
        drop(others);
        db.close().unwrap();
        let files = read_files(&fs);
        let segments = files.iter().filter(|(name, _)| name.ends_with(".wal")).count();
        assert!(segments >= 3, "{:?}", fs.list_dir(DIR));
        let written = (0..KEYS).map(|n| format!("key {n:05}").into_bytes());
        let unwritten = (0..20).map(|n| format!("key {:05}x", n * 15).into_bytes());
        let absent = written.chain(unwritten).filter(|key| !default.contains_key(key)).collect();
        Original { fs, default, other, files, older, absent }
    }

    /// Whether nothing was ever stored in the byte: behind the last record of a segment that had no room for the next.
    pub(super) fn is_waste(&self, file: usize, offset: usize) -> bool {
        let (name, bytes) = &self.files[file];
        let next = self.files.get(file + 1).filter(|(next, _)| next.ends_with(".wal"));
        let (true, Some((_, next))) = (name.ends_with(".wal"), next) else { return false };
        let end = next[PREVIOUS_OFFSET_AT..][..8].try_into().map(u64::from_le_bytes).unwrap();
        assert!(end as usize <= bytes.len() && bytes.len() as u64 == SEGMENT_BYTES, "{name}");
        offset >= end as usize
    }

    /// Opens the damaged `fs` and reads everything. Returns whether anything was found wrong.
    pub(super) fn check(
        &self,
        fs: &SimFs,
        read: (ReadMode, Verify),
        damaged_table: Option<&str>,
    ) -> bool {
        let db = match builder(fs, read).open(DIR) {
            Ok(db) => db,
            Err(error) => {
                blame(&error);
                return true;
            }
        };
        let mut well = self.check_default(&db);
        let other = db.open_keyspace("other").unwrap().expect("a keyspace is missing");
        well &= check_reads(|key| other.get(key), || other.iter(), &self.other, &[]);
        let report = db.verify().unwrap();
        report.problems.iter().for_each(blame);
        well &= report.is_ok();
        if let Some(name) = damaged_table {
            assert!(!report.is_ok(), "verify finds every damaged byte of a table");
            check_compaction(&db, fs, name);
            assert!(self.check_default(&db) || !well, "reads got worse");
        }
        drop(other);
        // Closing may meet the damage, but not hang or panic.
        if let Err(error) = db.close() {
            blame(&error);
        }
        !well
    }

    fn check_default(&self, db: &Db) -> bool {
        check_reads(|key| db.get(key), || db.iter(), &self.default, &self.absent)
    }
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
    absent: &[Vec<u8>],
) -> bool {
    let mut well = check_scan(iter(), model.iter());
    well &= check_scan(iter().rev(), model.iter().rev());
    let present = model.iter().map(|(key, value)| (key, Some(value.as_slice())));
    for (key, value) in present.chain(absent.iter().map(|key| (key, None))) {
        match get(key) {
            Ok(found) => {
                assert_eq!(found.as_deref(), value, "get {}", String::from_utf8_lossy(key));
            }
            Err(error) => {
                blame(&error);
                well = false;
            }
        }
    }
    well
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

/// Writes more than fits into memtables, so that flushes and compactions meet whatever is there.
pub(super) fn write_more(db: &Db) -> esker::Result<()> {
    let mut dice = Dice(5);
    for round in 0..120u64 {
        let key = format!("key {:05}", dice.roll() % KEYS);
        db.put_with(key, value(round, &mut dice, 150), &WriteOptions::default())?;
    }
    db.flush()?;
    db.compact_range::<&[u8]>(..)
}
