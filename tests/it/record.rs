//! `record_workload` writes what was done to a database, and never gets in its way.
//!
//! What a trace says is counted by hand here; its bytes and its sampling are tested beside `src/trace/`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use esker::clock::ManualClock;
use esker::fs::{Repeat, SimFs};
use esker::trace::{TraceOperation, TraceReader, TraceSummary};
use esker::{Db, DbOptions, ErrorKind, KeyspaceOptions, WriteBatch};

const DIR: &str = "/db";
const TRACE: &str = "/app.trace";

struct World {
    fs: SimFs,
    clock: Arc<ManualClock>,
}

impl World {
    fn new() -> Self {
        World { fs: SimFs::new(), clock: Arc::new(ManualClock::at_unix_ms(1_000_000)) }
    }

    fn open_with(&self, options: DbOptions) -> esker::Result<Db> {
        let options = DbOptions {
            background_threads: 0,
            wal_segment_bytes: 64 << 10,
            wal_bytes_max: 1 << 20,
            ..options
        };
        let builder = Db::builder().options(options).clock(self.clock.clone());
        builder.file_system(Arc::new(self.fs.clone())).open(DIR)
    }

    fn open(&self, trace: &str) -> esker::Result<Db> {
        let record_workload = (!trace.is_empty()).then(|| PathBuf::from(trace));
        self.open_with(DbOptions { record_workload, ..DbOptions::default() })
    }

    fn summary(&self, keyspace: Option<u32>) -> TraceSummary {
        TraceSummary::read(&self.fs, Path::new(TRACE), keyspace).unwrap()
    }
}

#[test]
fn all_ways_to_read_and_write_are_recorded_and_nothing_else() {
    let world = World::new();
    let db = world.open(TRACE).unwrap();
    let logs = db.keyspace("logs", KeyspaceOptions::default()).unwrap();
    for n in 0..10u8 {
        db.put([n], [0; 50]).unwrap();
        world.clock.advance(Duration::from_secs(1));
    }
    let mut batch = WriteBatch::new();
    batch.put("batched", "v").delete([3u8]).put_in(&logs, "line", "text");
    db.write(batch).unwrap();
    db.flush().unwrap();
    assert!(db.get([1u8]).unwrap().is_some());
    assert!(!db.contains_key("missing").unwrap());
    assert_eq!(db.multi_get(&[[2u8], [3], [4]]).unwrap().iter().flatten().count(), 2);
    assert!(db.snapshot().get([5u8]).unwrap().is_some());
    assert_eq!(db.range([0u8]..[5]).count(), 4);
    assert_eq!(db.iter().rev().count(), 10);
    let mut cursor = db.cursor();
    cursor.seek([8u8]).unwrap();
    cursor.next().unwrap();
    cursor.seek("z").unwrap();
    drop(cursor);
    assert!(db.put(vec![0; 70_000], "too long a key").is_err());
    db.compact_range::<&[u8]>(..).unwrap();
    drop(logs);
    db.close().unwrap();

    let mut reader = TraceReader::open(&world.fs, Path::new(TRACE)).unwrap();
    let mut scans = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        let entries = block.records.iter().filter_map(|record| match record.operation {
            TraceOperation::Scan { entries } => Some(entries),
            _ => None,
        });
        scans.extend(entries);
        if block.keyspace == 0 {
            let counts = block.counts;
            assert_eq!((counts.puts, counts.deletes, counts.appended_puts), (11, 1, 11));
            assert_eq!((counts.get_hits, counts.get_misses), (4, 2));
            assert_eq!((counts.put_key_bytes, counts.put_value_bytes), (17, 501));
        } else {
            assert_eq!((block.counts.operations(), block.counts.puts), (1, 1));
        }
    }
    // The range stood on 0, 1, 2, 4 and on 5, which showed its end.
    assert_eq!(scans, [5, 10, 2, 0]);
    assert_eq!(reader.torn_bytes(), 0);
    let summary = world.summary(Some(0));
    assert_eq!((summary.operations, summary.span_s), (22, 10.0));
    assert_eq!((summary.distinct_keys_estimate, summary.sequential_share), (11, 1.0));
}

#[test]
fn nothing_is_written_unless_it_is_asked_for() {
    let world = World::new();
    let db = world.open("").unwrap();
    db.put("k", "v").unwrap();
    db.close().unwrap();
    assert_eq!(world.fs.list_dir("/"), ["db"]);
}

#[test]
fn each_open_replaces_the_trace_and_an_open_that_fails_leaves_it() {
    let world = World::new();
    let db = world.open(TRACE).unwrap();
    db.put("k", "v").unwrap();
    db.put("k", "v").unwrap();
    assert_eq!(world.open(TRACE).unwrap_err().kind(), ErrorKind::Locked);
    db.close().unwrap();
    assert_eq!(world.summary(None).operations, 2, "the second opener did not touch it");
    let reads =
        DbOptions { read_only: true, record_workload: Some(TRACE.into()), ..DbOptions::default() };
    let db = world.open_with(reads).unwrap();
    assert!(db.get("k").unwrap().is_some());
    let iter = db.iter();
    db.close().unwrap();
    assert_eq!(iter.count(), 1, "an iterator that outlives the database is not recorded");
    assert_eq!((world.summary(None).operations, world.summary(None).get_share), (1, 1.0));
}

#[test]
fn a_trace_in_the_directory_is_left_alone_and_other_files_are_refused() {
    let world = World::new();
    let inside = "/db/app.trace";
    for _ in 0..3 {
        let db = world.open(inside).unwrap();
        db.put("k", "v").unwrap();
        db.verify().unwrap();
        db.close().unwrap();
        assert!(world.fs.read_file(inside).unwrap().len() > 32);
    }
    world.fs.write_file("/letter", b"dear reader").unwrap();
    let kind_of = |trace: &str| world.open(trace).unwrap_err().kind();
    assert_eq!(kind_of("/letter"), ErrorKind::InvalidArgument);
    assert_eq!(world.fs.read_file("/letter").unwrap(), b"dear reader");
    assert_eq!(kind_of("/db/CURRENT"), ErrorKind::InvalidArgument);
    assert_eq!(kind_of("/db/000099.table"), ErrorKind::InvalidArgument);
    assert_eq!(kind_of("/no/such/directory"), ErrorKind::Io);
    world.open("").unwrap().close().unwrap();
}

/// A power cut took the bytes of the trace, which nobody syncs, and the database could not be opened any more.
#[test]
fn a_trace_that_lost_its_head_to_a_power_cut_is_replaced() {
    let world = World::new();
    drop(world.open(TRACE).unwrap());
    let head = world.fs.read_file(TRACE).unwrap();
    for left in [vec![0; 4096], head[..3].to_vec(), [&head[..5], &[0; 60]].concat()] {
        world.fs.write_file(TRACE, &left).unwrap();
        drop(world.open(TRACE).unwrap());
        assert_eq!(world.fs.read_file(TRACE).unwrap()[..8], head[..8]);
    }
    for other in [&b"not"[..], &b"\0\0\0\0notes"[..]] {
        world.fs.write_file(TRACE, other).unwrap();
        assert_eq!(world.open(TRACE).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_no_operation_fails() {
    let world = World::new();
    let db = world.open(TRACE).unwrap();
    world.fs.fail_when("write app.trace", libc_enospc(), Repeat::Forever);
    for n in 0..5000u32 {
        db.put(n.to_be_bytes(), "value").unwrap();
        assert!(db.get(n.to_be_bytes()).unwrap().is_some());
    }
    let metrics = db.metrics();
    assert_eq!(metrics.background_errors, 1);
    let told = metrics.first_background_error.unwrap();
    assert!(told.contains("app.trace"), "{told}");
    db.flush().unwrap();
    db.close().unwrap();
    assert_eq!(world.summary(None).operations, 0);
    let db = world.open("").unwrap();
    assert_eq!(db.iter().count(), 5000);
}

/// The error number of a full disk, without a dependency for it.
fn libc_enospc() -> i32 {
    28
}

#[test]
fn a_crash_leaves_a_trace_that_is_read_to_its_torn_end() {
    let world = World::new();
    let db = world.open(TRACE).unwrap();
    for n in 0..20_000u32 {
        db.put(n.to_be_bytes(), "value").unwrap();
    }
    let mut bytes = world.fs.kill_clone().read_file(TRACE).unwrap();
    assert!(bytes.len() > 100_000, "full buffers were written out: {}", bytes.len());
    bytes.truncate(bytes.len() - 5);
    let fs = SimFs::new();
    fs.write_file(TRACE, &bytes).unwrap();
    let summary = TraceSummary::read(&fs, Path::new(TRACE), None).unwrap();
    assert!(summary.operations > 5000 && summary.torn_bytes > 0, "{summary}");
    assert_eq!((summary.sequential_share, summary.update_share), (1.0, 0.0));
}

#[test]
fn times_to_live_are_recorded_whoever_gave_them() {
    let world = World::new();
    let db = world.open(TRACE).unwrap();
    db.put_with_ttl("a", "123", Duration::from_secs(60)).unwrap();
    db.put_with_ttl("b", "123", Duration::from_secs(90)).unwrap();
    db.put("c", "123").unwrap();
    let options = KeyspaceOptions { default_ttl_s: 10, ..KeyspaceOptions::default() };
    let brief = db.keyspace("brief", options).unwrap();
    brief.put("d", "12345").unwrap();
    world.clock.advance(Duration::from_secs(20));
    assert!(brief.get("d").unwrap().is_none());
    drop(brief);
    db.close().unwrap();
    let summary = world.summary(Some(0));
    assert!((summary.ttl_share - 2.0 / 3.0).abs() < 1e-9, "{}", summary.ttl_share);
    assert_eq!((summary.ttl_p50_s, summary.value_bytes_mean), (60.0, 3.0));
    let summary = world.summary(Some(1));
    assert_eq!((summary.ttl_share, summary.ttl_p50_s), (1.0, 10.0));
    assert_eq!(
        (summary.value_bytes_p99, summary.get_miss_share),
        (5, 1.0),
        "what expired is a miss"
    );
}
