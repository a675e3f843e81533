//! The inputs that a search begins with: small, and made by the engine itself.
//!
//! `cargo run -p esker-fuzz-targets --bin seeds` writes them below `fuzz/seeds`. Inputs that once broke something lie
//! beside them under a name that says what, and stay.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::clock::ManualClock;
use esker::fs::SimFs;
use esker::{
    Compression, Db, DbOptions, FilterKind, KeyspaceOptions, Leveled, Result, WalMode, WriteBatch,
};

use crate::files::{self, File};
use crate::layout::{Format, skip_varints, split};
use crate::mutation::Random;

const DIR: &str = "/db";
const TRACE: &str = "/app.trace";

/// The seeds of the target called `name`, each with the name of its file.
pub fn of(name: &str) -> Vec<(String, Vec<u8>)> {
    let databases = databases();
    let each = |make: fn(&SimFs) -> Vec<Vec<u8>>, count: usize| {
        let named = databases.iter().flat_map(move |(name, fs)| {
            let seeds = make(fs).into_iter().take(count).enumerate();
            seeds.map(move |(number, bytes)| (format!("{name}-{number}"), bytes))
        });
        named.collect::<Vec<_>>()
    };
    match name {
        "batch" => each(batches, 3),
        "block" => each(blocks, 3),
        "filter" => [each(filters, 2), filters_to_build()].concat(),
        "wal" => each(log, 1),
        "manifest" => each(|fs| contents_like(fs, "MANIFEST-"), 1),
        "table" => each(|fs| contents_like(fs, ".table"), 2),
        "db_directory" => each(|fs| vec![directory(fs)], 1),
        "shell" => numbered(SCRIPTS.map(|script| script.as_bytes().to_vec())),
        "operations" => numbered([0, 1, 2, 3, 4, 5, 6, 7].map(operation_list)),
        "trace" => numbered([40, 400].map(recorded)),
        _ => Vec::new(),
    }
}

fn numbered<const N: usize>(seeds: [Vec<u8>; N]) -> Vec<(String, Vec<u8>)> {
    seeds.into_iter().enumerate().map(|(number, seed)| (format!("{number:02}"), seed)).collect()
}

/// Small databases of different shapes, at rest.
fn databases() -> [(&'static str, SimFs); 4] {
    let made = |name, make: fn(&Db) -> Result<()>| {
        let fs = SimFs::new();
        let db = open(&fs).expect("memory does not fail");
        make(&db).expect("memory does not fail");
        db.close().expect("memory does not fail");
        (name, fs)
    };
    // The last one did not end well: its log is not closed.
    let unclosed = SimFs::new();
    let db = open(&unclosed).expect("memory does not fail");
    write_log(&db).expect("memory does not fail");
    let unclosed = ("unclosed", unclosed.kill_clone());
    drop(db);
    [
        made("plain", write_plain),
        made("packed", write_packed),
        made("levels", write_levels),
        unclosed,
    ]
}

fn open(fs: &SimFs) -> Result<Db> {
    let options = DbOptions {
        background_threads: 0,
        wal_segment_bytes: 64 << 10,
        wal_bytes_max: 128 << 10,
        wal_mode: WalMode::Write,
        ..DbOptions::default()
    };
    let builder = Db::builder().options(options).default_keyspace(tiny());
    let clock = Arc::new(ManualClock::at_unix_ms(1_800_000_000_000));
    builder.clock(clock).file_system(Arc::new(fs.clone())).open(DIR)
}

/// Options under which a few entries fill blocks and tables.
fn tiny() -> KeyspaceOptions {
    let compaction = Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 };
    KeyspaceOptions {
        memtable_bytes: 4 << 10,
        block_bytes: 512,
        table_bytes: 4 << 10,
        ..KeyspaceOptions::default()
    }
    .compaction(compaction)
}

/// A table, a log behind it, keys of one length.
fn write_plain(db: &Db) -> Result<()> {
    for n in 0..40 {
        db.put(format!("key{n:05}"), format!("value {n}"))?;
    }
    db.flush()?;
    (0..5).try_for_each(|n| db.delete(format!("key{n:05}")))
}

/// Compressed tables of three keyspaces, of both kinds of filters and none.
fn write_packed(db: &Db) -> Result<()> {
    let kinds = [
        ("snap", Compression::Snap, FilterKind::Bloom, 10.0),
        ("zstd", Compression::Zstd, FilterKind::Blocked, 6.5),
        ("bare", Compression::None, FilterKind::Blocked, 0.0),
    ];
    for (name, compression, filter, bits) in kinds {
        let options = KeyspaceOptions {
            compression: vec![compression],
            filter,
            filter_bits: vec![bits],
            ..tiny()
        };
        let keyspace = db.keyspace(name, options)?;
        for n in 0..30usize {
            keyspace.put("ab".repeat(n % 7) + &n.to_string(), "again and again ".repeat(n % 9))?;
        }
    }
    db.flush()
}

/// Several levels, versions that a snapshot holds, tombstones, entries that expire.
fn write_levels(db: &Db) -> Result<()> {
    let mut snapshots = Vec::new();
    for round in 0..6u32 {
        for n in 0..24u32 {
            let key = format!("{:04}", (n * 7 + round) % 60);
            match n % 8 {
                0 => db.delete(&key)?,
                1 => db.put_with_ttl(&key, "for a while", Duration::from_secs(u64::from(n) + 1))?,
                _ => db.put(&key, vec![n as u8; 30 + n as usize])?,
            }
        }
        snapshots.push(db.snapshot());
        db.flush()?;
    }
    db.compact_range("0000".."0030")?;
    db.put("last", "in the log")
}

/// Nothing but a log: batches over two keyspaces, syncs in between.
fn write_log(db: &Db) -> Result<()> {
    let other = db.keyspace("other", KeyspaceOptions::default())?;
    for n in 0..12u8 {
        let mut batch = WriteBatch::new();
        for key in 0..=n % 4 {
            batch.put([key, n], vec![n; usize::from(n) * 3]);
            batch.put_in_with_ttl(&other, [n], "soon gone", Duration::from_millis(7));
            batch.delete_in(&other, [key]);
        }
        db.write(batch)?;
        if n % 5 == 4 {
            db.sync()?;
        }
    }
    Ok(())
}

/// The names and contents of a database's files.
fn all_files(fs: &SimFs) -> Vec<(String, Vec<u8>)> {
    let mut names = fs.list_dir(DIR);
    names.sort();
    let content = |name: String| {
        let mut bytes = fs.read_file(Path::new(DIR).join(&name))?;
        if name.rsplit('.').next() == Some("wal") {
            // A segment is allocated in full; a reader takes the end of the file for its end too.
            let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(len);
        }
        Some((name, bytes))
    };
    names.into_iter().filter_map(content).collect()
}

fn contents_like(fs: &SimFs, words: &str) -> Vec<Vec<u8>> {
    let files = all_files(fs).into_iter().filter(|(name, _)| name.contains(words));
    files.map(|(_, bytes)| bytes).collect()
}

/// The files as the target `db_directory` lists them.
fn directory(fs: &SimFs) -> Vec<u8> {
    list(fs, |_| true)
}

/// The segments as the target `wal` lists them, from the first on, and nothing synced.
fn log(fs: &SimFs) -> Vec<Vec<u8>> {
    let list = list(fs, |kind| kind == 3);
    let first = list.get(1).copied().unwrap_or(1);
    vec![[&[first, 0, 0, 0], &*list].concat()]
}

fn list(fs: &SimFs, is_listed: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut listed = Vec::new();
    for (name, content) in all_files(fs) {
        let kinds = [("CURRENT", 0), ("MANIFEST-", 1), (".table", 2), (".wal", 3)];
        let Some((words, kind)) = kinds.into_iter().find(|(words, _)| name.contains(words)) else {
            continue;
        };
        let number = name.replace(words, "").parse().unwrap_or(0);
        if is_listed(kind) {
            listed.push(File { kind, number, content });
        }
    }
    let mut out = Vec::new();
    files::write(&listed, &mut out);
    out
}

/// The payloads of the log's records.
fn batches(fs: &SimFs) -> Vec<Vec<u8>> {
    let layouts = contents_like(fs, ".wal").into_iter();
    let records =
        layouts.filter_map(|bytes| split(Format::Segment, &bytes)).flat_map(|l| l.records);
    let payload = |record: Vec<u8>| skip_varints(&record[1..], 3).map(<[u8]>::to_vec);
    records.filter_map(payload).filter(|payload| !payload.is_empty()).collect()
}

/// Data blocks, as far as they are not compressed, and indexes.
fn blocks(fs: &SimFs) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    for mut records in table_records(fs) {
        let [_, index, _] = [records.pop(), records.pop(), records.pop()];
        blocks.extend(index);
        let stored = records.into_iter().filter(|block| block.last() == Some(&0));
        blocks.extend(stored.map(|block| block[..block.len() - 1].to_vec()).take(1));
    }
    blocks
}

/// Stored filters, behind the byte that says so.
fn filters(fs: &SimFs) -> Vec<Vec<u8>> {
    let filter =
        |records: Vec<Vec<u8>>| records.iter().nth_back(2).map(|filter| [&[0], &**filter].concat());
    table_records(fs).filter_map(filter).collect()
}

fn table_records(fs: &SimFs) -> impl Iterator<Item = Vec<Vec<u8>>> {
    let tables = contents_like(fs, ".table").into_iter();
    tables.filter_map(|bytes| split(Format::Table, &bytes)).map(|layout| layout.records)
}

/// Keys that filters are to be built of.
fn filters_to_build() -> Vec<(String, Vec<u8>)> {
    let keys: Vec<u8> = (0..200u16).flat_map(u16::to_le_bytes).collect();
    let head = |kind, eighths| [1, kind, eighths, 77, 1];
    let seed = |kind, eighths| [&head(kind, eighths), &*keys].concat();
    vec![("build-blocked".to_owned(), seed(0, 80)), ("build-bloom".to_owned(), seed(1, 80))]
}

/// Operations by chance; half of the lists have no failures and crashes in them.
fn operation_list(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let operation_count = if seed.is_multiple_of(2) { 12 } else { 16 };
    let byte = |_| {
        let number = random.number() as u8;
        number & 0xf0 | ((number & 0x0f) % operation_count)
    };
    (0..400).map(byte).collect()
}

/// The trace of so many operations.
fn recorded(count: u32) -> Vec<u8> {
    let fs = SimFs::new();
    let options = DbOptions {
        background_threads: 0,
        record_workload: Some(TRACE.into()),
        ..DbOptions::default()
    };
    let clock = Arc::new(ManualClock::at_unix_ms(1_800_000_000_000));
    let builder = Db::builder().options(options).clock(Arc::clone(&clock) as _);
    let db = builder.file_system(Arc::new(fs.clone())).open(DIR).expect("memory does not fail");
    let other = db.keyspace("other", KeyspaceOptions::default()).expect("memory does not fail");
    let work = |n: u32| -> Result<()> {
        let key = format!("key{:04}", n * n % 211);
        match n % 7 {
            0 => db.delete(&key)?,
            1 => drop(db.get(&key)?),
            2 => drop(db.range(key.clone()..).take(5).count()),
            3 => db.put_with_ttl(&key, "short", Duration::from_secs(60))?,
            4 => other.put(&key, "elsewhere")?,
            _ => db.put(&key, vec![0; n as usize % 90])?,
        }
        clock.advance(Duration::from_micros(u64::from(n)));
        Ok(())
    };
    (0..count).try_for_each(work).expect("memory does not fail");
    db.close().expect("memory does not fail");
    fs.read_file(TRACE).expect("it was recorded")
}

/// Scripts with every word of the shell's language.
const SCRIPTS: [&str; 6] = [
    "put a 1\nput b 2 sync\nget a\nget c\ndel a\nget a\nscan . . 10\nquit\n",
    "batch 3\nput a 1\nput b 2\ndel a\nbatch 2 sync\nput c 3\nget c\nbatch 0\nscan a z 9\n",
    "put k 1\nsnap s\nput k 2\nget@s k\nscan@s . . 5\nrscan@s . . 5\ndrop s\nget@s k\nrscan . . 1\n",
    "keyspace other\nput a x ttl=5\nput b y async ttl=1000000\nkeyspace default\nget a\nflush\nstats\n",
    "put \\x00\\xff \\\\\nput  \nget \nflush\ncompact\nsync\nscan . . 18446744073709551615\nrscan . \\xff 3\n",
    "put a aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nflush\nput a b\nflush\ndel a\nflush\ncompact\nfrob\nput\nbatch x\nget@ a\n",
];
