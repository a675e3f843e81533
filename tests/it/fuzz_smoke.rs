//! A bounded run of what the fuzz targets do without end: mutated directories and traces must never panic, hang or eat
//! memory.
//!
//! The real targets are in `fuzz/` and need a nightly toolchain or `RUSTC_BOOTSTRAP=1`. This run is seeded and short.
//! `ESKER_TEST_SCALE=N` makes it N times longer. Whether answers are right under damage is the business of `damage`.

use std::path::Path;
use std::sync::Arc;

use esker::fs::{FileSystem, SimFs};
use esker::trace::TraceSummary;
use esker::{Compression, Db, DbOptions, KeyspaceOptions};

const DIR: &str = "/db";

fn scale() -> u64 {
    std::env::var("ESKER_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A small deterministic generator (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn open(fs: &SimFs, read_only: bool) -> esker::Result<Db> {
    let options = DbOptions {
        background_threads: 0,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 1 << 20,
        read_only,
        ..DbOptions::default()
    };
    Db::builder().options(options).file_system(Arc::new(fs.clone())).open(DIR)
}

/// Tables of two compressions, a manifest of several edits, and a log with something in it.
fn small_database() -> SimFs {
    let fs = SimFs::new();
    let db = open(&fs, false).unwrap();
    let options = KeyspaceOptions {
        compression: vec![Compression::Snap],
        block_bytes: 512,
        memtable_bytes: 8 << 10,
        ..KeyspaceOptions::default()
    };
    let packed = db.keyspace("packed", options).unwrap();
    for n in 0..400u32 {
        db.put(format!("key{n:05}"), format!("value {n}").repeat(3)).unwrap();
        packed.put(format!("key{n:05}"), "again and again ".repeat(4)).unwrap();
        if n == 200 {
            db.flush().unwrap();
        }
    }
    db.flush().unwrap();
    for n in 0..50u32 {
        db.delete(format!("key{n:05}")).unwrap();
    }
    drop(packed);
    db.close().unwrap();
    fs
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let len = random.below(64).min(bytes.len() - at);
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => bytes[at..at + len].fill(0),
            4 => bytes.extend((0..len).map(|_| 0u8)),
            _ => {
                let piece = bytes[at..at + len].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

#[test]
fn fuzz_smoke_mutated_directories_never_panic() {
    let whole = small_database();
    let names: Vec<String> =
        whole.list_dir(Path::new(DIR)).into_iter().filter(|name| name != "LOCK").collect();
    for seed in 0..400 * scale() {
        let mut random = Random(seed);
        let fs = whole.kill_clone();
        let path = Path::new(DIR).join(&names[random.below(names.len())]);
        let mut bytes = fs.read_file(&path).unwrap();
        mutate(&mut bytes, &mut random);
        fs.write_file(&path, &bytes).unwrap();
        let read_only = seed % 2 == 0;
        let Ok(db) = open(&fs, read_only) else { continue };
        for name in db.list_keyspaces() {
            let Some(keyspace) = db.open_keyspace(&name).unwrap() else { continue };
            let forward = keyspace.iter().take_while(Result::is_ok).count();
            let backward = keyspace.iter().rev().take_while(Result::is_ok).count();
            assert!(forward <= 1000 && backward <= 1000, "seed {seed}: entries out of nowhere");
            let _ = keyspace.get("key00100");
        }
        let _ = db.verify();
        if !read_only {
            let _ = db.put("new", "value");
            let _ = db.compact_range::<&[u8]>(..);
            let _ = db.close();
        }
        assert!(fs.list(Path::new(DIR)).is_ok());
    }
}

#[test]
fn fuzz_smoke_mutated_traces_never_panic() {
    let path = Path::new("/app.trace");
    let fs = SimFs::new();
    let options = DbOptions {
        background_threads: 0,
        record_workload: Some(path.to_path_buf()),
        ..DbOptions::default()
    };
    let db = Db::builder().options(options).file_system(Arc::new(fs.clone())).open(DIR).unwrap();
    for n in 0..6000u32 {
        db.put(format!("key{:05}", n % 700), vec![0; n as usize % 90]).unwrap();
        db.get(format!("key{:05}", n % 900)).unwrap();
    }
    db.close().unwrap();
    let whole = fs.read_file(path).unwrap();
    let mut outcomes = [0u32; 2];
    for seed in 0..400 * scale() {
        let mut random = Random(seed);
        let mut bytes = whole.clone();
        mutate(&mut bytes, &mut random);
        fs.write_file(path, &bytes).unwrap();
        let summary = TraceSummary::read(&fs, path, None);
        outcomes[usize::from(summary.is_ok())] += 1;
        if let Ok(summary) = summary {
            assert!(summary.operations <= 12_000, "seed {seed}: operations out of nowhere");
        }
    }
    assert!(outcomes.iter().all(|&count| count > 0), "errors and answers: {outcomes:?}");
}
