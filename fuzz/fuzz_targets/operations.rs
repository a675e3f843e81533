//! A list of operations against a `BTreeMap`, with flushes, compactions, snapshots, reopens and power cuts in it.
//!
//! Keys come from a small alphabet, so that they meet again. Memtables, blocks and tables are tiny, so that a short
//! input builds several levels. After a power cut the state must be one of those since the last synced write, whole.

#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use esker::fs::SimFs;
use esker::fs::sim_fs::Persist;
use esker::{
    Db, DbOptions, Durability, KeyspaceOptions, Leveled, Snapshot, WriteBatch, WriteOptions,
};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/db";

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fuzz_target!(|data: &[u8]| {
    let mut world = World::new();
    let mut input = Input(data);
    while let Some(operation) = input.byte() {
        world.step(operation, &mut input);
    }
    world.compare();
});

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

    /// One of 64 keys of different lengths.
    fn key(&mut self) -> Vec<u8> {
        let number = self.number() & 63;
        vec![b'a' + number % 8; usize::from(number / 8)]
    }

    fn value(&mut self) -> Vec<u8> {
        let number = self.number();
        vec![number; usize::from(number) * 4]
    }
}

/// The database, and what it must hold.
struct World {
    fs: SimFs,
    db: Db,
    map: Map,
    /// The states that a power cut may leave: from the last synced one to now.
    possible: Vec<Map>,
    snapshots: Vec<(Snapshot, Map)>,
}

impl World {
    fn new() -> Self {
        let fs = SimFs::new();
        let db = open(&fs);
        World { fs, db, map: Map::new(), possible: vec![Map::new()], snapshots: Vec::new() }
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        match operation % 12 {
            0..4 => {
                let durability =
                    if operation % 12 == 3 { Durability::Sync } else { Durability::Buffered };
                self.write(input, durability);
            }
            4 => self.check_key(&input.key()),
            5 => self.check_range(&input.key(), &input.key()),
            6 => {
                self.db.flush().expect("flush");
                self.all_durable();
            }
            7 => {
                let (low, high) = (input.key(), input.key());
                if low <= high {
                    self.db.compact_range(low..high).expect("compact");
                }
            }
            8 => self.snapshots.push((self.db.snapshot(), self.map.clone())),
            9 => self.check_snapshot(input.number()),
            10 => self.reopen(),
            _ => self.cut_power(input.number()),
        }
    }

    /// Writes one batch of up to 8 operations.
    fn write(&mut self, input: &mut Input<'_>, durability: Durability) {
        let mut batch = WriteBatch::new();
        for _ in 0..=input.number() % 8 {
            let key = input.key();
            if input.number() % 4 == 0 {
                batch.delete(&key);
                self.map.remove(&key);
            } else {
                let value = input.value();
                batch.put(&key, &value);
                self.map.insert(key, value);
            }
        }
        self.db.write_with(batch, &WriteOptions::with_durability(durability)).expect("write");
        self.possible.push(self.map.clone());
        if durability == Durability::Sync {
            self.all_durable();
        }
    }

    fn all_durable(&mut self) {
        self.possible = vec![self.map.clone()];
    }

    fn check_key(&self, key: &[u8]) {
        let found = self.db.get(key).expect("get");
        assert_eq!(found.as_deref(), self.map.get(key).map(Vec::as_slice));
    }

    fn check_range(&self, low: &[u8], high: &[u8]) {
        if low <= high {
            let found = self.db.range(low..high).rev().map(|entry| entry.expect("scan").0);
            let expected =
                self.map.range(low.to_vec()..high.to_vec()).rev().map(|(key, _)| key.clone());
            assert!(found.eq(expected));
        }
    }

    fn check_snapshot(&mut self, number: u8) {
        if !self.snapshots.is_empty() {
            let (snapshot, map) =
                self.snapshots.swap_remove(usize::from(number) % self.snapshots.len());
            assert_eq!(contents(snapshot.iter()), map);
        }
    }

    fn compare(&self) {
        assert_eq!(contents(self.db.iter()), self.map);
        for (snapshot, map) in &self.snapshots {
            assert_eq!(contents(snapshot.iter()), *map);
        }
    }

    /// Closes and opens: everything is there.
    fn reopen(&mut self) {
        self.compare();
        self.snapshots.clear();
        // A placeholder takes the place of the handle, so that the lock is free when the database is opened again.
        let old = std::mem::replace(&mut self.db, open(&SimFs::new()));
        old.close().expect("close");
        self.db = open(&self.fs);
        self.compare();
    }

    /// Goes on with what a power cut would have left, with `percent` of the unsynced blocks and names.
    fn cut_power(&mut self, percent: u8) {
        self.snapshots.clear();
        let seed = self.fs.op_count();
        self.fs = self.fs.crash_clone(Persist::Random { percent: percent % 101, seed });
        self.db = open(&self.fs);
        let left = contents(self.db.iter());
        assert!(
            self.possible.contains(&left),
            "the state after a power cut is none of those before it"
        );
        self.map = left;
        // Whatever the power cut left is on the disk; the next one cannot take it back.
        self.all_durable();
    }
}

fn contents(entries: esker::Iter) -> Map {
    entries.map(|entry| entry.map(|(key, value)| (key, value.to_vec())).expect("scan")).collect()
}

fn open(fs: &SimFs) -> Db {
    let options = DbOptions {
        background_threads: 0,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 128 << 10,
        cache_bytes: 1 << 16,
        ..DbOptions::default()
    };
    let keyspace = KeyspaceOptions {
        memtable_bytes: 4 << 10,
        block_bytes: 512,
        table_bytes: 4 << 10,
        ..KeyspaceOptions::default()
    }
    .compaction(Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 });
    let builder = Db::builder().options(options).default_keyspace(keyspace);
    builder.file_system(Arc::new(fs.clone())).open(DIR).expect("open")
}
