//! The metrics say what was done: every number is predicted by hand, and held against the operating system's.
//!
//! * Scripted databases on the simulated file system, without threads and with a clock that goes on by a millisecond
//!   at each look: sums, lengths and times follow from the script. A number that no script predicts as something
//!   other than 0 fails the test, and so does a new one that nobody has predicted.
//! * What the process wrote, by `/proc/self/io`, in a process of its own.
//! * What lies on disk, by the lengths and the blocks of the files.
//! * What the manifest keeps over a crash and over many opens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::clock::Clock;
use esker::compaction::filter::{CompactionFilter, Decision};
use esker::compaction::{
    CompactionAction, CompactionPlan, CompactionReason, CompactionStrategy, PlanInput, TreeView,
};
use esker::fs::sim_fs::{Repeat, SimFs};
use esker::fs::{FileSystem, StdFs};
use esker::{
    CompactOptions, Compaction, CompactionRate, Compression, Db, DbBuilder, DbOptions, Durability,
    KeyspaceOptions, Metrics, ReadMode, WalMode, WriteBatch, WriteOptions,
};

use crate::support::DIR;

const MS: u64 = 1_000_000;
const SEGMENT_BYTES: u64 = 64 << 10;
/// A put of a key of 1 byte and a value of 9, as a record of the log: tag, check and guard; payload length, entry
/// count, sequence number and synced offset, a byte each; keyspace, kind and the two lengths, a byte each; key and
/// value.
const PUT_RECORD: u64 = 7 + 4 + 4 + 1 + 9;
const SEGMENT_HEADER: u64 = 64;

/// Goes on by a millisecond at each look. Can call somebody at a look to come: then no lock of the engine is held, if
/// the look was well chosen.
#[derive(Default)]
struct StepClock {
    looks: AtomicU64,
    hook: Mutex<Option<(u64, Box<dyn FnOnce() + Send>)>>,
}

impl fmt::Debug for StepClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepClock").field("looks", &self.looks).finish_non_exhaustive()
    }
}

impl StepClock {
    /// Calls `hook` at the look after `looks` more.
    fn call_at(&self, looks: u64, hook: impl FnOnce() + Send + 'static) {
        let at = self.looks.load(Ordering::Relaxed) + looks;
        *self.hook.lock().unwrap() = Some((at, Box::new(hook)));
    }
}

impl Clock for StepClock {
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.monotonic_ns() / MS
    }

    fn monotonic_ns(&self) -> u64 {
        let look = self.looks.fetch_add(1, Ordering::Relaxed) + 1;
        let hook = self.hook.lock().unwrap().take_if(|(at, _)| *at == look);
        if let Some((_, hook)) = hook {
            hook();
        }
        look * MS
    }
}

/// Does to the newest run of level 0 what it is told, once, and claims a debt.
#[derive(Debug, Default)]
struct Script {
    next: Mutex<Option<(CompactionAction, CompactionReason)>>,
    debt_bytes: AtomicU64,
}

impl CompactionStrategy for Script {
    fn name(&self) -> &'static str {
        "script"
    }

    fn pick(&self, tree: &TreeView<'_>) -> Option<CompactionPlan> {
        let run = tree.version.levels[0].runs.first()?;
        let (action, reason) = self.next.lock().unwrap().take()?;
        let below = tree.version.levels[1].runs.first().map_or(run.id, |run| run.id);
        let tables = run.tables.iter().map(|table| table.meta().number).collect();
        let inputs = vec![PlanInput { level: 0, run: run.id, tables }];
        Some(CompactionPlan { action, reason, inputs, output_level: 1, output_run: below })
    }

    fn debt_bytes(&self, _tree: &TreeView<'_>) -> u64 {
        self.debt_bytes.load(Ordering::Relaxed)
    }
}

/// A database without threads that a test can predict.
struct Stage {
    fs: SimFs,
    clock: Arc<StepClock>,
    script: Arc<Script>,
    db: Db,
}

impl Stage {
    fn new(db: &DbOptions, keyspace: KeyspaceOptions) -> Self {
        Stage::with(Db::builder(), db, keyspace)
    }

    fn with(builder: DbBuilder, db: &DbOptions, keyspace: KeyspaceOptions) -> Self {
        let (fs, clock) = (SimFs::new(), Arc::new(StepClock::default()));
        let script = Arc::new(Script::default());
        let options = DbOptions {
            wal_segment_bytes: SEGMENT_BYTES,
            wal_mode: WalMode::Write,
            read_mode: ReadMode::Pread,
            ..db.clone()
        };
        let keyspace = KeyspaceOptions { compression: vec![Compression::None], ..keyspace };
        let db = builder
            .options(options)
            .default_keyspace(keyspace.compaction(Compaction::Named("script".to_owned())))
            .file_system(Arc::new(fs.clone()))
            .clock(clock.clone())
            .strategy(script.clone())
            .open(DIR)
            .unwrap();
        Stage { fs, clock, script, db }
    }

    /// Puts a value of 9 bytes.
    fn put(&self, key: &str) {
        self.db.put(key, "123456789").unwrap();
    }

    fn bytes_of(&self, suffix: &str) -> u64 {
        let entries = self.fs.list(Path::new(DIR)).unwrap().unwrap();
        entries.iter().filter(|e| e.name.contains(suffix)).map(|e| e.bytes).sum()
    }

    /// Has the metrics taken at the given look at the clock from now on.
    fn watch(&self, looks: u64) -> Arc<Mutex<Metrics>> {
        let (db, seen) = (self.db.clone(), Arc::new(Mutex::new(Metrics::default())));
        let to = Arc::clone(&seen);
        self.clock.call_at(looks, move || *to.lock().unwrap() = db.metrics());
        seen
    }
}

/// The plain numbers of a struct, by the names of their fields.
fn numbers(of: &impl fmt::Debug) -> BTreeMap<String, u64> {
    let text = format!("{of:#?}");
    let fields = text.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(','));
    let fields = fields.filter(|field| !field.starts_with(' '));
    let fields = fields.filter_map(|field| field.split_once(": "));
    fields.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect()
}

/// Predictions, and which fields were predicted as something.
#[derive(Default)]
struct Predictions {
    predicted: BTreeSet<String>,
}

impl Predictions {
    #[track_caller]
    fn hold(&mut self, of: &impl fmt::Debug, expected: &[(&str, u64)]) {
        let actual = numbers(of);
        let wrong: Vec<_> = expected.iter().filter(|(n, v)| actual.get(*n) != Some(v)).collect();
        let got: Vec<_> = wrong.iter().map(|(name, _)| (name, actual.get(*name))).collect();
        assert!(wrong.is_empty(), "predicted {wrong:?}, got {got:?}");
        let something = expected.iter().filter(|(_, value)| *value > 0);
        self.predicted.extend(something.map(|(name, _)| (*name).to_owned()));
    }

    #[track_caller]
    fn are_complete_for(&self, of: &impl fmt::Debug) {
        let all: BTreeSet<_> = numbers(of).into_keys().collect();
        let missing: Vec<_> = all.difference(&self.predicted).collect();
        assert!(missing.is_empty(), "nobody predicts {missing:?}");
    }
}

fn no_threads() -> DbOptions {
    DbOptions { background_threads: 0, ..DbOptions::default() }
}

/// Two flushes and a merge, watched from within, with a reader that pins what the merge replaces.
fn write_and_merge(stage: &Stage, predict: &mut Predictions) {
    let Stage { db, .. } = stage;
    for key in ["a", "b", "c", "a"] {
        stage.put(key);
    }
    // The looks: the rotation, the flush's start, its write time, its end.
    let watched = stage.watch(4);
    db.flush().unwrap();
    let table1 = stage.bytes_of(".table");
    let watched = watched.lock().unwrap().clone();
    predict.hold(&watched, &[("in_flight_bytes", table1), ("flushes_running", 1)]);
    let mut batch = WriteBatch::new();
    batch.delete("b").put("d", "123456789");
    db.write(batch).unwrap();
    db.flush().unwrap();
    let table2 = stage.bytes_of(".table") - table1;
    let reader = db.cursor();
    // The looks: the plan's, the merge's start, its time, its end.
    let watched = stage.watch(4);
    db.compact_range::<&[u8]>(..).unwrap();
    let table3 = stage.bytes_of(".table") - table1 - table2;
    let watched = watched.lock().unwrap().clone();
    predict.hold(&watched, &[("in_flight_bytes", table3), ("compactions_running", 1)]);
    predict.hold(&watched.keyspaces[0], &[("compactions_running", 1)]);
    check_sums(stage, predict, [table1, table2, table3]);
    check_merge(&db.metrics(), predict, [table1, table2, table3]);
    drop(reader);
    db.wait_idle().unwrap();
    predict.hold(&db.metrics(), &[("obsolete_files_removed", 2), ("obsolete_table_bytes", 0)]);
}

/// After two flushes, `table1` and `table2`, and their merge, `table3`.
fn check_sums(stage: &Stage, predict: &mut Predictions, [table1, table2, table3]: [u64; 3]) {
    let metrics = stage.db.metrics();
    let wal_bytes = SEGMENT_HEADER + 4 * PUT_RECORD + 7 + 4 + 4 + 14;
    let of_both = [
        ("user_bytes_written", 51),
        ("flushes", 2),
        ("flush_bytes", table1 + table2),
        ("flush_duration_ns", 4 * MS),
    ];
    predict.hold(&metrics, &of_both);
    predict.hold(&metrics.keyspaces[0], &of_both);
    predict.hold(
        &metrics,
        &[
            ("user_operations", 6),
            ("batches", 5),
            ("wal_records", 5),
            ("wal_bytes", wal_bytes),
            ("wal_live_bytes", wal_bytes),
            ("wal_file_bytes", SEGMENT_BYTES),
            ("flush_entries", 6),
            ("compactions", 1),
            ("compaction_bytes_read", table1 + table2),
            ("compaction_bytes_written", table3),
            ("compaction_entries_read", 5),
            ("compaction_duration_ns", 2 * MS),
            ("entries_shadowed", 2),
            ("tombstones_dropped", 1),
            ("entries_dropped", 3),
            ("table_bytes_appended", table1 + table2 + table3),
            ("manifest_edits", 3),
            ("manifest_bytes", stage.bytes_of("MANIFEST")),
            ("manifest_file_bytes", stage.bytes_of("MANIFEST") + stage.bytes_of("CURRENT")),
            ("table_bytes", table3),
            ("obsolete_table_bytes", table1 + table2),
            ("in_flight_bytes", 0),
            ("disk_bytes", stage.bytes_of("")),
            ("disk_bytes_peak", stage.bytes_of("")),
            ("live_bytes_estimate", 30),
            ("sequence", 6),
        ],
    );
}

/// The same by reason and by level.
fn check_merge(metrics: &Metrics, predict: &mut Predictions, [table1, table2, table3]: [u64; 3]) {
    let [part] = &metrics.compactions_by_reason[..] else { panic!("{metrics}") };
    assert_eq!((part.level, part.reason.as_str()), (1, "manual"));
    assert_eq!(metrics.keyspaces[0].compactions_by_reason, metrics.compactions_by_reason);
    predict.hold(
        &part.totals,
        &[
            ("merges", 1),
            ("bytes_read", table1 + table2),
            ("bytes_written", table3),
            ("entries_read", 5),
            ("entries_written", 3),
            ("entries_shadowed", 1),
            ("tombstones_dropped", 1),
            ("duration_ns", 2 * MS),
        ],
    );
    let level = &metrics.keyspaces[0].levels[1];
    predict.hold(
        level,
        &[
            ("level", 1),
            ("runs", 1),
            ("tables", 1),
            ("bytes", table3),
            ("entries", 3),
            ("bytes_written", table3),
            ("bytes_read", table1 + table2),
        ],
    );
    assert_eq!(metrics.keyspaces[0].levels[0].bytes_written, table1 + table2);
}

/// Point reads and scans of one table with `a`, `c` and `d`, and a memtable with `e` and `g`.
fn read(stage: &Stage, predict: &mut Predictions) {
    let Stage { db, fs, .. } = stage;
    for key in ["e", "g"] {
        stage.put(key);
    }
    // Its filter says no; what it reads is what opening the table reads.
    assert!(db.get("bb").unwrap().is_none());
    let before = fs.counters().bytes_read;
    assert!(db.get("a").unwrap().is_some() && db.get("c").unwrap().is_some());
    let block_bytes = fs.counters().bytes_read - before;
    assert!(db.get("zz").unwrap().is_none() && db.get("e").unwrap().is_some());
    // Keys that the table does not have, until its filter is wrong about one.
    let mut tried = 0;
    while db.metrics().filter_false_positives == 0 {
        tried += 1;
        assert!(tried < 100_000 && db.get(format!("b{tried}")).unwrap().is_none());
    }
    let mut cursor = db.cursor();
    cursor.seek_to_first().unwrap();
    for key in ["a", "c", "d", "e", "g"] {
        assert_eq!(cursor.key(), key.as_bytes());
        cursor.next().unwrap();
    }
    drop(cursor);
    let metrics = db.metrics();
    predict.hold(
        &metrics,
        &[
            ("gets", 5 + tried),
            ("get_hits", 3),
            ("memtable_hits", 1),
            ("tables_probed", 3 + tried),
            ("filter_checks", 3 + tried),
            ("filter_useful", tried),
            ("filter_false_positives", 1),
            ("get_blocks_read", 3),
            ("get_block_bytes_read", block_bytes),
            ("seeks", 1),
            ("steps", 5),
            ("scan_blocks_read", 1),
            ("scan_block_bytes_read", 0),
            // `c`, the false positive and the scan.
            ("cache_hits", 3),
            ("cache_misses", 1),
            // The merge opened two.
            ("tables_opened", 3),
        ],
    );
    assert!(metrics.cache_bytes > 0 && metrics.cache_bytes < 4 * block_bytes);
    assert_eq!(metrics.blocks_per_scanned_entry(), 1.0 / 6.0);
    assert_eq!(metrics.filter_false_positive_rate(), 1.0 / (1.0 + tried as f64));
    predict.predicted.insert("cache_bytes".to_owned());
}

/// A move, a drop and a scan of a block that nobody has read before, under a snapshot.
fn move_and_drop(stage: &Stage, predict: &mut Predictions) {
    let Stage { db, fs, script, .. } = stage;
    let before = db.metrics();
    let snapshot = db.snapshot();
    let aged = db.metrics();
    assert_eq!(aged.oldest_snapshot, Some(snapshot.sequence()));
    predict.hold(&aged, &[("snapshots", 1), ("oldest_snapshot_age_ms", 1)]);
    drop(snapshot);
    *script.next.lock().unwrap() = Some((CompactionAction::Move, CompactionReason::LevelBytes));
    let merged = stage.bytes_of(".table");
    db.flush().unwrap();
    let moved = stage.bytes_of(".table") - merged;
    assert!(db.get("f").unwrap().is_none(), "opens the table, and its filter says no");
    let read_before = fs.counters().bytes_read;
    let mut cursor = db.cursor();
    cursor.seek("d1").unwrap();
    assert_eq!(cursor.key(), b"e");
    drop(cursor);
    let block_bytes = fs.counters().bytes_read - read_before;
    let interval = db.metrics().since(&before);
    predict.hold(&interval, &[("scan_block_bytes_read", block_bytes), ("trivial_moves", 1)]);
    let [part] = &interval.compactions_by_reason[..] else { panic!("{interval}") };
    predict.hold(&part.totals, &[("moves", 1), ("bytes_moved", moved), ("merges", 0)]);

    *script.next.lock().unwrap() = Some((CompactionAction::Drop, CompactionReason::Age));
    stage.put("x");
    let before = db.metrics();
    db.flush().unwrap();
    let interval = db.metrics().since(&before);
    let dropped = interval.flush_bytes;
    predict
        .hold(&interval, &[("table_drops", 1), ("entries_discarded", 1), ("entries_dropped", 1)]);
    let [part] = &interval.compactions_by_reason[..] else { panic!("{interval}") };
    let expected = [("drops", 1), ("bytes_dropped", dropped), ("entries_discarded", 1)];
    predict.hold(&part.totals, &expected);
    assert!(dropped > 0 && db.get("x").unwrap().is_none());
}

/// A flush that fails once, so that a writer finds all memtables full.
fn fail_and_stall(predict: &mut Predictions) {
    let keyspace =
        KeyspaceOptions { memtable_bytes: 4 << 10, memtables_max: 2, ..KeyspaceOptions::default() };
    let stage = Stage::new(&no_threads(), keyspace);
    let Stage { db, fs, script, .. } = &stage;
    script.debt_bytes.store(77, Ordering::Relaxed);
    assert!(!db.metrics().compaction_pending || db.wait_idle().is_ok());
    fs.fail_when("create .table", libc_eio(), Repeat::Once);
    for key in ["a", "b"] {
        db.put(key, [0; 5000]).unwrap();
    }
    let full = db.metrics();
    predict.hold(&full, &[("background_errors", 1)]);
    predict.hold(&full.keyspaces[0], &[("immutable_memtables", 1)]);
    assert!(full.first_background_error.is_some() && full.memtable_bytes >= 10_000);
    assert_eq!(full.memtable_bytes, full.keyspaces[0].memtable_bytes);
    predict.predicted.insert("memtable_bytes".to_owned());
    db.put("c", [0; 5000]).unwrap();
    let metrics = db.metrics();
    let stall = metrics.stalls.iter().find(|stall| stall.cause == "memtables").unwrap();
    // The looks from the stall's start to its end: three of the flush, two of what looks at the tree after it.
    predict.hold(stall, &[("count", 1), ("duration_ns", 6 * MS)]);
    predict.hold(&metrics, &[("debt_bytes", 77)]);
    // Two runs that do not meet, and a memtable that may replace some of them.
    let live_bytes = 10_002 + 5_001 * 5_001 / 15_003;
    let of_keyspace = [("debt_bytes", 77), ("live_bytes_estimate", live_bytes)];
    predict.hold(&metrics.keyspaces[0], &of_keyspace);
    assert!(!metrics.compaction_pending);
}

/// Drops and replaces what says so.
#[derive(Debug)]
struct Told;

impl CompactionFilter for Told {
    fn filter(&self, _level: usize, _key: &[u8], value: &[u8]) -> Decision {
        match value {
            b"drop" => Decision::Drop,
            b"replace" => Decision::Replace(b"replaced".to_vec()),
            _ => Decision::Keep,
        }
    }
}

/// A merge in which one value has expired, one is filtered out and one is replaced.
fn expire_and_filter(predict: &mut Predictions) {
    let builder = Db::builder().compaction_filter("default", Arc::new(Told));
    let stage = Stage::with(builder, &no_threads(), KeyspaceOptions::default());
    let Stage { db, .. } = &stage;
    db.put_with_ttl("a", "1", Duration::from_secs(1)).unwrap();
    for (key, value) in [("b", "drop"), ("c", "replace"), ("d", "keep")] {
        db.put(key, value).unwrap();
    }
    db.flush().unwrap();
    // A second of looks.
    (0..1000).for_each(|_| drop(db.snapshot()));
    db.compact_range::<&[u8]>(..).unwrap();
    let metrics = db.metrics();
    let of_both = [("entries_expired", 1), ("entries_filtered_out", 1), ("entries_filtered", 2)];
    predict.hold(&metrics, &of_both);
    predict.hold(&metrics, &[("entries_dropped", 2), ("compaction_entries_read", 4)]);
    let [part] = &metrics.compactions_by_reason[..] else { panic!("{metrics}") };
    predict.hold(&part.totals, &of_both);
    predict.hold(&part.totals, &[("entries_read", 4), ("entries_written", 2)]);
    predict.hold(&part.totals, &[("entries_shadowed", 0), ("tombstones_dropped", 0)]);
}

/// A merge that keeps to a limit.
fn limit(predict: &mut Predictions) {
    let compaction_rate = CompactionRate::BytesPerSecond(1 << 20);
    let options = DbOptions { background_threads: 1, compaction_rate, ..DbOptions::default() };
    let stage = Stage::new(&options, KeyspaceOptions::default());
    let Stage { db, .. } = &stage;
    db.put("a", vec![0; 50_000]).unwrap();
    db.flush().unwrap();
    assert_eq!(db.metrics().compaction_rate, Some(1 << 20));
    predict.hold(&db.metrics(), &[("compaction_limited_bytes", 0), ("compaction_limited_ns", 0)]);
    let limited = CompactOptions { is_rate_limited: true };
    let keyspace = db.default_keyspace();
    keyspace.compact_range_with::<&[u8]>(.., limited, &mut |_| ControlFlow::Continue(())).unwrap();
    let metrics = db.metrics();
    // Of a table that is not finished the bytes are an estimate.
    let bytes = metrics.compaction_limited_bytes;
    assert!(bytes.abs_diff(metrics.compaction_bytes_written) < 4096, "{bytes}\n{metrics}");
    // A look when it comes and one when it goes at least.
    let waited_ns = metrics.compaction_limited_ns;
    assert!(waited_ns >= MS && waited_ns <= metrics.compaction_duration_ns, "{metrics}");
    let both = ["compaction_limited_bytes", "compaction_limited_ns"];
    predict.predicted.extend(both.map(str::to_owned));
}

/// EIO.
fn libc_eio() -> i32 {
    5
}

/// With a thread: writers slowed by debt, the scrubber, a tombstone at rest.
fn slow_down_and_scrub(predict: &mut Predictions) {
    let options = DbOptions {
        background_threads: 1,
        scrub_interval_s: 1,
        async_interval_ms: 2,
        ..DbOptions::default()
    };
    let keyspace = KeyspaceOptions {
        debt_bytes_soft: 1 << 20,
        filter_bits: vec![0.0],
        ..KeyspaceOptions::default()
    };
    let stage = Stage::new(&options, keyspace);
    let Stage { db, script, .. } = &stage;
    stage.put("a");
    db.delete("b").unwrap();
    db.sync().unwrap();
    predict.hold(&db.metrics(), &[("wal_syncs", 1)]);
    script.debt_bytes.store(5 << 19, Ordering::Relaxed);
    db.flush().unwrap();
    predict.hold(&db.metrics().keyspaces[0].levels[0], &[("tombstones", 1), ("entries", 2)]);
    assert!(db.get("a").unwrap().is_some(), "without a filter");
    predict.hold(&db.metrics(), &[("tables_probed", 1), ("filter_checks", 0)]);
    stage.put("c");
    let metrics = db.metrics();
    let stall = metrics.stalls.iter().find(|stall| stall.cause == "debt").unwrap();
    assert!(stall.count == 1 && stall.duration_ns >= 2 * MS, "{stall:?}");
    assert_eq!(metrics.keyspaces[0].stalls.iter().map(|stall| stall.count).sum::<u64>(), 1);
    // A second of looks, and then something that wakes the timer.
    (0..1100).for_each(|_| drop(db.snapshot()));
    let durability = Some(Durability::Async);
    db.put_with("d", "1", &WriteOptions { durability, ..WriteOptions::default() }).unwrap();
    while db.metrics().scrub_passes == 0 {
        std::thread::yield_now();
    }
    predict.hold(&db.metrics(), &[("scrub_passes", 1)]);
}

#[test]
fn every_number_is_predicted_by_hand() {
    let mut predict = Predictions::default();
    // Filters so short that one of a few dozen is wrong.
    let keyspace = KeyspaceOptions { filter_bits: vec![2.0], ..KeyspaceOptions::default() };
    let stage = Stage::new(&no_threads(), keyspace);
    write_and_merge(&stage, &mut predict);
    read(&stage, &mut predict);
    move_and_drop(&stage, &mut predict);
    fail_and_stall(&mut predict);
    slow_down_and_scrub(&mut predict);
    expire_and_filter(&mut predict);
    limit(&mut predict);
    let metrics = stage.db.metrics();
    assert_eq!(metrics.compaction_rate, None);
    predict.are_complete_for(&metrics);
    predict.are_complete_for(&metrics.keyspaces[0]);
    predict.are_complete_for(&metrics.keyspaces[0].levels[0]);
    predict.are_complete_for(&metrics.compactions_by_reason[0].totals);
    predict.are_complete_for(&metrics.stalls[0]);
    predict.are_complete_for(&metrics.lifetime);
    // A database of one life only has done in it what it did since it was opened.
    let life = numbers(&metrics.lifetime);
    let whole = numbers(&metrics);
    for (name, value) in &life {
        assert_eq!(whole[name], *value, "{name}");
    }
    assert_eq!(metrics.lifetime.compactions_by_reason, metrics.compactions_by_reason);
}

#[test]
fn the_life_of_a_database_goes_on_over_crashes_and_opens() {
    let fs = SimFs::new();
    let open = |fs: &SimFs| {
        let options = DbOptions { wal_mode: WalMode::Write, ..no_threads() };
        Db::builder().options(options).file_system(Arc::new(fs.clone())).open(DIR).unwrap()
    };
    let db = open(&fs);
    db.put("a", "1234").unwrap();
    db.flush().unwrap();
    db.put("b", "1234").unwrap();
    db.put("c", "1234").unwrap();
    let before = db.metrics();
    let killed = fs.kill_clone();
    drop(db);
    let db = open(&killed);
    let life = db.metrics().lifetime;
    // The two writes after the last edit come from the log.
    assert_eq!((life.user_bytes_written, life.user_operations), (15, 3));
    assert_eq!((life.flushes, life.flush_bytes), (1, before.flush_bytes));
    assert_eq!(life.wal_bytes, before.wal_bytes);
    assert_eq!(db.metrics().keyspaces[0].user_bytes_written, 0, "nothing since open");
    db.compact_range::<&[u8]>(..).unwrap();
    let since_open = db.metrics();
    assert_eq!((since_open.user_bytes_written, since_open.compactions), (0, 1));
    db.close().unwrap();
    for _ in 0..3 {
        let db = open(&killed);
        let life = db.metrics().lifetime;
        assert_eq!((life.user_bytes_written, life.user_operations, life.flushes), (15, 3, 2));
        assert_eq!(life.compaction_bytes_written, since_open.compaction_bytes_written);
        assert_eq!(life.compactions_by_reason, since_open.compactions_by_reason);
        assert!(
            life.write_amplification() > 1.0 && life.manifest_bytes > since_open.manifest_bytes
        );
        db.close().unwrap();
    }
}

#[test]
fn space_is_measured_exactly() {
    let stage = Stage::new(&no_threads(), KeyspaceOptions::default());
    let Stage { db, .. } = &stage;
    let other = db.keyspace("other", KeyspaceOptions::default()).unwrap();
    for key in ["a", "b", "c"] {
        stage.put(key);
        other.put(key, "12").unwrap();
    }
    db.flush().unwrap();
    stage.put("a");
    db.delete("b").unwrap();
    let measured = db.measure_space().unwrap();
    assert_eq!((measured.live_bytes, measured.live_entries), (20 + 9, 5));
    assert_eq!(measured.disk_bytes, stage.bytes_of(""));
    assert_eq!(measured.amplification(), stage.bytes_of("") as f64 / 29.0);
    let per_keyspace: Vec<u64> =
        db.metrics().keyspaces.iter().map(|keyspace| keyspace.user_bytes_written).collect();
    assert_eq!(per_keyspace, [41, 9]);
}

#[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// A small real database with flushes and compactions.
fn run_really(dir: &Path, wal_mode: WalMode) -> Db {
    let options = DbOptions { wal_mode, wal_segment_bytes: 1 << 20, ..no_threads() };
    let keyspace = KeyspaceOptions {
        memtable_bytes: 64 << 10,
        table_bytes: 64 << 10,
        ..KeyspaceOptions::default()
    };
    let db = Db::builder().options(options).default_keyspace(keyspace).open(dir).unwrap();
    for at in 0..20_000u32 {
        db.put((at.wrapping_mul(0x9e37_79b9) % 5000).to_be_bytes(), [at as u8; 60]).unwrap();
    }
    db.flush().unwrap();
    db.wait_idle().unwrap();
    assert!(db.metrics().compactions > 3);
    db
}

#[test]
fn disk_bytes_are_what_the_files_take() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let probe = dir.path().join("probe");
    std::fs::write(&probe, vec![7; 1 << 20]).unwrap();
    let probe_blocks = std::fs::metadata(&probe).unwrap().blocks();
    let dir = dir.path().join("db");
    let db = run_really(&dir, WalMode::Write);
    db.put(0u32.to_be_bytes(), "newer").unwrap();
    db.flush().unwrap();
    let reader = db.cursor();
    db.compact_range::<&[u8]>(..).unwrap();
    let metrics = db.metrics();
    let files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    let files: Vec<_> = files.collect();
    assert!(metrics.obsolete_table_bytes > 0, "the reader holds the old tables");
    assert_eq!(metrics.disk_bytes, files.iter().map(std::fs::Metadata::len).sum::<u64>());
    assert!(metrics.disk_bytes_peak >= metrics.disk_bytes);
    drop(reader);
    if probe_blocks < 2048 {
        skipped("this file system compresses, or tells blocks late");
        return;
    }
    // Each file may take a part of a block more than its length, and some blocks for its map.
    let taken: u64 = files.iter().map(|file| file.blocks() * 512).sum();
    let slack = 16_384 * files.len() as u64;
    assert!(taken + slack >= metrics.disk_bytes && taken <= metrics.disk_bytes + slack, "{taken}");
}

/// Bytes that this process has passed to write calls, and has taken from read calls.
fn process_io() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    let number = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
    };
    Some((number("wchar:")?, number("rchar:")?))
}

const CHILD: &str = "ESKER_TEST_IO_CHILD";

/// Does nothing but in the process that [`our_counters_agree_with_those_of_the_process`] starts.
#[test]
fn io_of_this_process_alone() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    for (mode, dir) in [(WalMode::Write, "write"), (WalMode::Map, "map")]
        .map(|(mode, name)| (mode, Path::new(&dir).join(name)))
    {
        let before = process_io().unwrap();
        let db = run_really(&dir, mode);
        let written = process_io().unwrap().0 - before.0;
        let metrics = db.metrics();
        // A mapped log is stored to, not written: the kernel counts its pages when it cleans them, once each, and not
        // as calls. Where the file system does not allocate natively the engine writes, map or not.
        let log = if mode == WalMode::Write { metrics.wal_bytes } else { 0 };
        let ours = metrics.storage_bytes_written() - metrics.wal_bytes + log;
        // Each record is followed by a zero byte that the next one overwrites; CURRENT is written too.
        let most = ours + metrics.wal_records + 4096;
        let is_mapped = mode == WalMode::Write || written < ours + metrics.wal_bytes;
        assert!(written >= ours, "{written} bytes written, {ours} counted\n{metrics}");
        assert!(
            written <= most || !is_mapped,
            "{written} bytes written, {ours} counted\n{metrics}"
        );
        db.close().unwrap();
    }
    read_alone(&Path::new(&dir).join("write"));
}

/// Reads by `pread` without a cache: what point reads count is what the process reads.
fn read_alone(dir: &Path) {
    let options = DbOptions { read_mode: ReadMode::Pread, cache_bytes: 0, ..no_threads() };
    let db = Db::builder().options(options).open(dir).unwrap();
    let read_all = || {
        (0..5000u32).for_each(|key| assert!(db.get(key.to_be_bytes()).unwrap().is_some()));
    };
    // Opens the tables.
    read_all();
    let (metrics, before) = (db.metrics(), process_io().unwrap());
    read_all();
    let read = process_io().unwrap().1 - before.1;
    let ours = db.metrics().since(&metrics).get_block_bytes_read;
    // Reading /proc/self/io is reading.
    assert!(ours > 0 && read >= ours && read <= ours + 4096, "{read} bytes read, {ours} counted");
}

#[test]
fn our_counters_agree_with_those_of_the_process() {
    if process_io().is_none() {
        skipped("there is no /proc/self/io here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "metrics::io_of_this_process_alone", "--test-threads=1", "--nocapture"])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && told.contains("1 passed"), "{told}\n{errors}");
}

#[test]
fn read_only_opens_know_sizes_and_life() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("db");
    let db = run_really(&dir, WalMode::Write);
    db.close().unwrap();
    let options = DbOptions { read_only: true, create_if_missing: false, ..no_threads() };
    let db = Db::builder().options(options).file_system(Arc::new(StdFs)).open(&dir).unwrap();
    let metrics = db.metrics();
    let files =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert_eq!(metrics.disk_bytes, files.sum::<u64>());
    assert_eq!((metrics.user_bytes_written, metrics.lifetime.user_operations), (0, 20_000));
    assert_eq!(metrics.lifetime.user_bytes_written, 20_000 * 64);
}
