//! A list of operations on two keyspaces against a `BTreeMap`, with failures, crashes and crashes of the recovery in
//! it.
//!
//! The first byte chooses strategy, read mode, log mode, compression and filter. Keys come from a small alphabet, so
//! that they meet again; memtables, blocks and tables are tiny, so that a short input builds several levels; time moves
//! only when the list says so.
//!
//! # What may be left
//! Every write that was tried has left a state. After a power cut the state must be one of those since the last write
//! that promised to be durable, whole; after the death of the process it must be the last one, or the last but one if
//! the last write failed. An operation that fails ends in a crash, since what is in the files is what counts then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use esker::clock::{Clock, ManualClock};
use esker::fs::SimFs;
use esker::fs::sim_fs::{Persist, Repeat};
use esker::{
    Compaction, Compression, Db, DbOptions, Durability, FilterKind, Keyspace, KeyspaceOptions,
    LazyLeveled, Leveled, ReadMode, Result, SizeTiered, Snapshot, WalMode, WriteBatch,
    WriteOptions,
};

const DIR: &str = "/db";
const KEYSPACES: [&str; 2] = ["default", "other"];
const EIO: i32 = 5;

/// A keyspace and a key, and the byte that its value is made of, with the time when it expires.
type Map = BTreeMap<(usize, Vec<u8>), (u8, u64)>;

pub(crate) fn check(input: &[u8]) -> bool {
    let mut input = Input(input);
    let mut world = World::new(input.number());
    while let Some(operation) = input.byte() {
        if world.step(operation, &mut input).is_err() {
            world.crash(Crash::Death);
        }
    }
    world.fs.clear_faults();
    world.compare().expect("no fault is left");
    !world.was_hurt
}

/// The bytes that are left; numbers are 0 and keys empty when there are none.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    /// One of 64 keys of different lengths, in one of two keyspaces.
    fn key(&mut self) -> (usize, Vec<u8>) {
        let number = self.number();
        let key = vec![b'a' + number % 8; usize::from(number / 8 % 8)];
        (usize::from(number >= 192), key)
    }
}

fn value(number: u8) -> Vec<u8> {
    vec![number; usize::from(number) * 4]
}

/// How the database comes to an end.
#[derive(Clone, Copy, Debug)]
enum Crash {
    /// The process dies; the operating system goes on.
    Death,
    /// The power is cut, and leaves so much of what was not synced.
    PowerCut(Persist),
}

/// The database, and what it must hold.
struct World {
    configuration: u8,
    fs: SimFs,
    clock: Arc<ManualClock>,
    db: Option<Db>,
    map: Map,
    /// Every state since the oldest that a power cut may leave.
    states: Vec<Map>,
    /// How many of them the death of the process may leave: one, or two if the last write failed.
    open_count: usize,
    snapshots: Vec<(Snapshot, Map)>,
    /// Whether anything failed or crashed.
    was_hurt: bool,
}

impl World {
    fn new(configuration: u8) -> Self {
        let mut world = World {
            configuration,
            fs: SimFs::new(),
            clock: Arc::new(ManualClock::at_unix_ms(1_800_000_000_000)),
            db: None,
            map: Map::new(),
            states: vec![Map::new()],
            open_count: 1,
            snapshots: Vec::new(),
            was_hurt: false,
        };
        world.db = Some(world.open().expect("memory does not fail"));
        world
    }

    fn open(&self) -> Result<Db> {
        let configuration = usize::from(self.configuration);
        let options = DbOptions {
            background_threads: 0,
            wal_segment_bytes: 64 << 10,
            wal_bytes_max: 128 << 10,
            cache_bytes: 1 << 16,
            read_mode: [ReadMode::Mmap, ReadMode::Pread][configuration / 4 % 2],
            wal_mode: [WalMode::Map, WalMode::Write][configuration / 8 % 2],
            ..DbOptions::default()
        };
        let compaction: [Compaction; 4] = [
            Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 }.into(),
            SizeTiered { merge_width: 2, runs_max: 4, ..SizeTiered::default() }.into(),
            LazyLeveled { runs_per_level: 2, last_level_fanout: 1 }.into(),
            Leveled { l0_runs: 1, base_bytes: 64 << 10, fanout: 3 }.into(),
        ];
        let keyspace = KeyspaceOptions {
            memtable_bytes: 4 << 10,
            block_bytes: 512,
            table_bytes: 4 << 10,
            compression: vec![
                [Compression::None, Compression::Snap, Compression::Zstd, Compression::None]
                    [configuration / 16 % 4],
            ],
            filter: [FilterKind::Blocked, FilterKind::Bloom][configuration / 64 % 2],
            ..KeyspaceOptions::default()
        }
        .compaction(compaction[configuration % 4].clone());
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        let builder =
            Db::builder().options(options).default_keyspace(keyspace.clone()).clock(clock);
        let db = builder.file_system(Arc::new(self.fs.clone())).open(DIR)?;
        db.keyspace(KEYSPACES[1], keyspace)?;
        Ok(db)
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("there is always one between operations")
    }

    fn keyspace(&self, index: usize) -> Keyspace {
        let found = self.db().open_keyspace(KEYSPACES[index]).expect("nothing is written for it");
        found.expect("it was created when the database was opened")
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) -> Result<()> {
        match operation % 16 {
            0..4 => {
                return self.write(
                    input,
                    [Durability::Buffered, Durability::Async][usize::from(operation % 2)],
                );
            }
            4 => return self.write(input, Durability::Sync),
            5 => return self.check_key(&input.key()),
            6 => return self.check_range(&input.key(), &input.key()),
            7 => {
                self.db().flush()?;
                self.all_durable();
            }
            8 => {
                let ((index, low), (_, high)) = (input.key(), input.key());
                if low <= high {
                    self.keyspace(index).compact_range(low..high)?;
                }
            }
            9 => {
                let snapshot = self.db().snapshot();
                self.snapshots.push((snapshot, self.map.clone()));
            }
            10 => return self.check_snapshot(input.number()),
            11 => return self.reopen(),
            12 => self.crash(Crash::PowerCut(persist(input))),
            13 => {
                self.interrupt_recovery(input);
            }
            14 => {
                let at = self.fs.op_count() + u64::from(input.number() % 64);
                let repeat = [Repeat::Once, Repeat::Forever][usize::from(operation / 16 % 2)];
                self.fs.fail_at(at, EIO, repeat);
            }
            _ => match input.number() {
                0..64 => {
                    self.db().sync()?;
                    self.all_durable();
                }
                64..128 => self.crash(Crash::Death),
                number => self.clock.advance(Duration::from_millis(u64::from(number - 127))),
            },
        }
        Ok(())
    }

    /// Writes one batch of up to 8 operations.
    fn write(&mut self, input: &mut Input<'_>, durability: Durability) -> Result<()> {
        let keyspaces = [self.keyspace(0), self.keyspace(1)];
        let mut batch = WriteBatch::new();
        let now_ms = self.clock.unix_ms();
        for _ in 0..=input.number() % 8 {
            let (index, key) = input.key();
            let keyspace = &keyspaces[index];
            match input.number() % 8 {
                0 | 1 => {
                    batch.delete_in(keyspace, &key);
                    self.map.remove(&(index, key));
                }
                2 => {
                    let (number, ttl_ms) = (input.number(), u64::from(input.number()) + 1);
                    let ttl = Duration::from_millis(ttl_ms);
                    batch.put_in_with_ttl(keyspace, &key, value(number), ttl);
                    self.map.insert((index, key), (number, now_ms + ttl_ms));
                }
                _ => {
                    let number = input.number();
                    batch.put_in(keyspace, &key, value(number));
                    self.map.insert((index, key), (number, u64::MAX));
                }
            }
        }
        let written = self.db().write_with(batch, &WriteOptions::with_durability(durability));
        self.states.push(self.map.clone());
        self.open_count = if written.is_ok() { 1 } else { 2 };
        written?;
        if durability == Durability::Sync {
            self.all_durable();
        }
        Ok(())
    }

    fn all_durable(&mut self) {
        self.states = vec![self.map.clone()];
        self.open_count = 1;
    }

    fn check_key(&self, (index, key): &(usize, Vec<u8>)) -> Result<()> {
        let found = self.keyspace(*index).get(key)?;
        let expected = self.seen(&self.map).remove(&(*index, key.clone()));
        assert_eq!(found.as_deref(), expected.map(value).as_deref(), "a get is wrong");
        Ok(())
    }

    fn check_range(&self, low: &(usize, Vec<u8>), high: &(usize, Vec<u8>)) -> Result<()> {
        let ((index, low), (_, high)) = (low, high);
        if low <= high {
            let range = self.keyspace(*index).range(low.clone()..high.clone());
            let found: Result<Vec<_>> = range.rev().map(|entry| Ok(entry?.0)).collect();
            let seen = self.seen(&self.map);
            let expected = seen.range((*index, low.clone())..(*index, high.clone())).rev();
            assert!(found?.iter().eq(expected.map(|((_, key), _)| key)), "a scan is wrong");
        }
        Ok(())
    }

    fn check_snapshot(&mut self, number: u8) -> Result<()> {
        if self.snapshots.is_empty() {
            return Ok(());
        }
        let at = usize::from(number) % self.snapshots.len();
        let (snapshot, map) = self.snapshots.swap_remove(at);
        self.compare_snapshot(&snapshot, &map)
    }

    fn compare_snapshot(&self, snapshot: &Snapshot, map: &Map) -> Result<()> {
        let views = [snapshot.keyspace(&self.keyspace(0))?, snapshot.keyspace(&self.keyspace(1))?];
        let found = contents(views.map(|view| view.iter()))?;
        assert!(found == self.seen(map), "a snapshot has changed");
        Ok(())
    }

    /// What a reader sees of `map` now.
    fn seen(&self, map: &Map) -> BTreeMap<(usize, Vec<u8>), u8> {
        let now_ms = self.clock.unix_ms();
        let living = map.iter().filter(|(_, (_, expires_at_ms))| *expires_at_ms > now_ms);
        living.map(|(key, (number, _))| (key.clone(), *number)).collect()
    }

    fn contents(&self) -> Result<BTreeMap<(usize, Vec<u8>), u8>> {
        contents([self.keyspace(0).iter(), self.keyspace(1).iter()])
    }

    fn compare(&self) -> Result<()> {
        assert!(self.contents()? == self.seen(&self.map), "a walk is wrong");
        self.snapshots.iter().try_for_each(|(snapshot, map)| self.compare_snapshot(snapshot, map))
    }

    /// Closes and opens: everything is there.
    fn reopen(&mut self) -> Result<()> {
        self.compare()?;
        self.snapshots.clear();
        if let Some(db) = self.db.take() {
            db.close()?;
        }
        self.db = Some(self.open()?);
        self.compare()
    }

    /// A power cut, and another one at some operation of the recovery from it.
    fn interrupt_recovery(&mut self, input: &mut Input<'_>) {
        let (first, second) = (persist(input), persist(input));
        // Cloned before the database is let go, which would sync and write more.
        let fs = self.fs.crash_clone(first);
        self.let_go();
        self.fs = fs;
        self.fs.halt_at(u64::from(input.number()) + 1);
        drop(self.open());
        self.crash(Crash::PowerCut(second));
    }

    fn let_go(&mut self) {
        self.was_hurt = true;
        self.snapshots.clear();
        self.db = None;
    }

    /// Goes on with what a crash leaves, which must be a state that it may leave.
    fn crash(&mut self, crash: Crash) {
        let fs = match crash {
            Crash::Death => self.fs.kill_clone(),
            Crash::PowerCut(persist) => self.fs.crash_clone(persist),
        };
        self.let_go();
        self.fs = fs;
        self.db = Some(self.open().expect("a database opens after a crash"));
        let first = match crash {
            Crash::Death => self.states.len() - self.open_count,
            Crash::PowerCut(_) => 0,
        };
        let left = self.contents().expect("a database can be read after a crash");
        let state = self.states[first..].iter().rev().find(|state| self.seen(state) == left);
        let Some(state) = state else {
            panic!("{crash:?} has left none of the {} states", self.states.len() - first);
        };
        self.map = state.clone();
        // What was read is durable, so that the next crash cannot take it back.
        self.all_durable();
        assert!(self.db().verify().expect("no fault is left").is_ok(), "a crash has damaged files");
    }
}

/// What a power cut leaves of what was not synced.
fn persist(input: &mut Input<'_>) -> Persist {
    match (input.number(), u64::from(input.number())) {
        (0, _) => Persist::Nothing,
        (1, _) => Persist::Everything,
        (2, _) => Persist::NamesOnly,
        (3, _) => Persist::BytesOnly,
        (percent, seed) => Persist::Random { percent: percent % 101, seed },
    }
}

/// What both keyspaces hold, each value as the byte that it is made of.
fn contents(iters: [esker::Iter; 2]) -> Result<BTreeMap<(usize, Vec<u8>), u8>> {
    let mut found = BTreeMap::new();
    for (index, iter) in iters.into_iter().enumerate() {
        for entry in iter {
            let (key, stored) = entry?;
            let number = stored.first().copied().unwrap_or(0);
            assert!(*stored == *value(number), "a value is not what was written");
            assert!(found.insert((index, key), number).is_none(), "a key is there twice");
        }
    }
    Ok(found)
}
