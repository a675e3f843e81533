//! Small databases, and threads that use them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use esker::clock::Clock;
use esker::fs::{FileSystem, SimFs};
use esker::spawn::Spawn;
use esker::{Db, DbBuilder, DbOptions, Durability, KeyspaceOptions, Leveled, WriteOptions};
use shuttle::thread::JoinHandle;

use super::explore::below;

/// Where databases stand in the simulated file system.
pub(crate) const DIR: &str = "/db";

/// One of `list`, by the schedule.
pub(crate) fn pick<T: Copy>(list: &[T]) -> T {
    list[below(list.len() as u64) as usize]
}

/// Starts a thread of the test.
pub(crate) fn go<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    shuttle::thread::spawn(body)
}

/// Waits for all of `threads`.
pub(crate) fn join<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// Starts background threads under the scheduler.
#[derive(Debug)]
struct ScheduledSpawn;

impl Spawn for ScheduledSpawn {
    fn spawn(&self, name: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        shuttle::thread::Builder::new().name(name.to_owned()).spawn(body)
    }
}

/// Goes on by a millisecond whenever somebody looks.
#[derive(Debug, Default)]
struct TickClock(AtomicU64);

impl Clock for TickClock {
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.monotonic_ns() / 1_000_000
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.fetch_add(1_000_000, Ordering::Relaxed)
    }
}

/// The smallest there is; no block cache, so that reads go to files.
pub(crate) fn options(background_threads: usize) -> DbOptions {
    DbOptions {
        background_threads,
        cache_bytes: 0,
        open_tables_max: 16,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 256 << 10,
        ..DbOptions::default()
    }
}

/// A few writes fill a memtable, two flushes are due for compaction.
pub(crate) fn small() -> KeyspaceOptions {
    KeyspaceOptions {
        memtable_bytes: 12 << 10,
        memtables_max: 2,
        block_bytes: 512,
        table_bytes: 4 << 10,
        compaction: Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 }.into(),
        ..KeyspaceOptions::default()
    }
}

pub(crate) fn open_with(fs: &Arc<SimFs>, options: DbOptions, keyspace: KeyspaceOptions) -> Db {
    builder(fs, options, keyspace).open(DIR).unwrap()
}

pub(crate) fn builder(fs: &Arc<SimFs>, options: DbOptions, keyspace: KeyspaceOptions) -> DbBuilder {
    Db::builder()
        .options(options)
        .default_keyspace(keyspace)
        .file_system(Arc::clone(fs) as Arc<dyn FileSystem>)
        .clock(Arc::new(TickClock::default()))
        .spawner(Arc::new(ScheduledSpawn))
}

pub(crate) fn open(fs: &Arc<SimFs>, background_threads: usize) -> Db {
    open_with(fs, options(background_threads), small())
}

/// The database as another opener would find it, in `fs`.
pub(crate) fn reopen(fs: SimFs) -> Db {
    open(&Arc::new(fs), 0)
}

pub(crate) fn with(durability: Durability) -> WriteOptions {
    WriteOptions::with_durability(durability)
}

/// A value of `len` bytes that says `version`.
pub(crate) fn value(version: u64, len: usize) -> Vec<u8> {
    let mut value = version.to_le_bytes().to_vec();
    value.resize(len.max(8), version as u8);
    value
}

/// The version that a value says; 0 for no value.
pub(crate) fn version_of(value: Option<&[u8]>) -> u64 {
    let Some(value) = value else { return 0 };
    let version = u64::from_le_bytes(value[..8].try_into().unwrap());
    assert!(value[8..].iter().all(|byte| *byte == version as u8), "a torn value");
    version
}

pub(crate) fn version(db: &Db, key: impl AsRef<[u8]>) -> u64 {
    version_of(db.get(key).unwrap().as_deref())
}

/// The table files that are there.
pub(crate) fn tables(fs: &SimFs) -> Vec<String> {
    let mut names = fs.list_dir(DIR);
    names.retain(|name| name.ends_with(".table"));
    names
}

/// What must hold when everybody has gone: no file is left that a tree does not name, and every byte verifies.
pub(crate) fn check_left(fs: &Arc<SimFs>) {
    let left = tables(fs);
    let db = open(fs, 0);
    assert_eq!(tables(fs), left, "the close left tables that no tree names");
    assert!(db.verify().unwrap().is_ok());
    db.close().unwrap();
}
