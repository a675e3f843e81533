//! What is recorded, how the sample thins out, and what happens when the file cannot be written.

use std::time::Duration;

use super::*;
use crate::batch::WriteBatch;
use crate::clock::ManualClock;
use crate::error::ErrorKind;
use crate::fs::{Repeat, SimFs};
use crate::trace::TraceReader;

const PATH: &str = "/traces/app.trace";
const KEYSPACE: KeyspaceId = KeyspaceId(0);

struct Fixture {
    fs: SimFs,
    clock: Arc<ManualClock>,
    recorder: Recorder,
}

impl Fixture {
    fn new(step_bytes: u64, file_bytes_max: u64) -> Self {
        let fs = SimFs::new();
        fs.create_dir_all(Path::new("/traces")).unwrap();
        let clock = Arc::new(ManualClock::at_unix_ms(5000));
        let bounds = (step_bytes, file_bytes_max);
        let recorder = Recorder::start_with(&fs, clock.clone(), Path::new(PATH), bounds).unwrap();
        Fixture { fs, clock, recorder }
    }

    fn put(&self, key: impl AsRef<[u8]>, value_bytes: usize) {
        let mut batch = WriteBatch::new();
        batch.put(key, vec![0; value_bytes]);
        self.recorder.record_batch(batch.payload());
    }

    fn blocks(&self) -> Vec<TraceBlock> {
        let mut reader = TraceReader::open(&self.fs, Path::new(PATH)).unwrap();
        assert_eq!(reader.start_unix_ms(), 5000);
        std::iter::from_fn(|| reader.next_block().unwrap()).collect()
    }
}

#[test]
fn each_operation_is_recorded_as_it_was() {
    let it = Fixture::new(STEP_BYTES, FILE_BYTES_MAX);
    let mut batch = WriteBatch::new();
    batch.put("b", "value").put("a", "").delete("b");
    let mut expiring = 7500u64.to_le_bytes().to_vec();
    expiring.extend_from_slice(b"xyz");
    it.recorder.record_batch(batch.payload());
    let kind = ValueKind::PutExpiring;
    it.recorder.record_write(&Operation { keyspace: KEYSPACE, kind, key: b"c", value: &expiring });
    it.clock.advance(Duration::from_micros(1500));
    it.recorder.record_get(KEYSPACE, b"a", Some(b"12345"));
    it.recorder.record_get(KEYSPACE, b"nothing", None);
    it.recorder.record_scan(KEYSPACE, (77, 3), 20);
    it.recorder.record_get(KeyspaceId(4), b"elsewhere", None);
    it.recorder.close();
    it.recorder.record_get(KEYSPACE, b"after the close", None);
    it.recorder.drain();

    let put = |value_bytes, ttl_ms, ascending, appended| TraceOperation::Put {
        value_bytes,
        ttl_ms,
        ascending,
        appended,
    };
    let expected = [
        (0, key_hash(b"b"), 1, put(5, None, true, true)),
        (0, key_hash(b"a"), 1, put(0, None, false, false)),
        (0, key_hash(b"b"), 1, TraceOperation::Delete),
        (0, key_hash(b"c"), 1, put(3, Some(2500), true, true)),
        (1500, key_hash(b"a"), 1, TraceOperation::GetHit { value_bytes: 5 }),
        (1500, key_hash(b"nothing"), 7, TraceOperation::GetMiss),
        (1500, 77, 3, TraceOperation::Scan { entries: 20 }),
    ];
    let blocks = it.blocks();
    let records = expected.map(|(time_us, key_hash, key_bytes, operation)| TraceRecord {
        time_us,
        key_hash,
        key_bytes,
        operation,
    });
    assert_eq!(blocks[0].records, records);
    assert_eq!((blocks[0].first_us, blocks[0].last_us), (0, 1500));
    assert_eq!(
        blocks[0].counts,
        TraceCounts {
            puts: 3,
            expiring_puts: 1,
            ascending_puts: 2,
            appended_puts: 2,
            put_key_bytes: 3,
            put_value_bytes: 8,
            deletes: 1,
            delete_key_bytes: 1,
            get_hits: 1,
            get_misses: 1,
            scans: 1,
            scan_entries: 20,
        }
    );
    assert_eq!((blocks.len(), blocks[1].keyspace, blocks[1].counts.get_misses), (2, 4, 1));
}

#[test]
fn ascending_is_above_the_last_and_appended_is_above_all() {
    let mut order = KeyOrder::default();
    let said: Vec<_> =
        ["", "b", "a", "ab", "b", "c"].map(|key| order.note_put(key.as_bytes())).into();
    let (up, new) = (true, true);
    assert_eq!(said, [(up, new), (up, new), (false, false), (up, false), (up, false), (up, new)]);
    let long = |end: u8| [vec![9; ORDER_KEY_BYTES_MAX], vec![end]].concat();
    assert_eq!(order.note_put(&long(1)), (false, false));
    assert_eq!(order.note_put(&long(2)), (false, false), "only so many bytes are compared");
    assert!(order.last.len() <= ORDER_KEY_BYTES_MAX);
}

#[test]
fn the_sample_halves_by_whole_keys_and_counts_stay_exact() {
    let it = Fixture::new(64 << 10, FILE_BYTES_MAX);
    let operations = 100_000u32;
    for n in 0..operations {
        it.clock.advance(Duration::from_micros(3));
        it.put((n % 20_000).to_be_bytes(), 10);
    }
    it.recorder.close();
    let blocks = it.blocks();
    let mut counts = TraceCounts::default();
    let mut records_by_shift = BTreeMap::<u32, u64>::new();
    for block in &blocks {
        counts.add(&block.counts);
        *records_by_shift.entry(block.sample_shift).or_default() += block.records.len() as u64;
        assert!(block.records.iter().all(|it| is_sampled(it.key_hash, block.sample_shift)));
        assert!(block.records.is_sorted_by_key(|record| record.time_us));
        let sampled = block.records.len() as f64 * 2f64.powf(f64::from(block.sample_shift));
        let ratio = sampled / block.counts.puts as f64;
        assert!((0.5..2.0).contains(&ratio), "a block with {ratio} of what was to be expected");
    }
    assert_eq!((counts.puts, counts.put_value_bytes), (100_000, 1_000_000));
    assert!(records_by_shift.len() >= 4, "{records_by_shift:?}");
    // Steps of 64 KiB, in blocks of 32 KiB, of records of 13 bytes: only the last step is not full.
    for (shift, records) in records_by_shift.iter().rev().skip(1) {
        assert!((5000..9000).contains(records), "{records} records at shift {shift}");
    }
    let bytes = it.fs.read_file(PATH).unwrap().len();
    assert!(bytes < 100_000 * 13 / 2, "{bytes} bytes for {operations} operations");
}

#[test]
fn a_trace_ends_when_it_is_long_enough() {
    let it = Fixture::new(STEP_BYTES, 100_000);
    for n in 0..50_000u32 {
        it.put(n.to_be_bytes(), 10);
    }
    it.recorder.close();
    let bytes = it.fs.read_file(PATH).unwrap().len();
    assert!((100_000..140_000).contains(&bytes), "{bytes}");
    assert!(it.recorder.error().is_none(), "that is no failure");
    assert!(!it.blocks().is_empty());
}

#[test]
fn threads_record_side_by_side() {
    let it = Fixture::new(STEP_BYTES, FILE_BYTES_MAX);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let it = &it;
            scope.spawn(move || {
                for n in 0..5000u32 {
                    it.put([thread.to_be_bytes(), n.to_be_bytes()].concat(), 1);
                }
            });
        }
    });
    it.recorder.close();
    let blocks = it.blocks();
    let puts: u64 = blocks.iter().map(|block| block.counts.puts).sum();
    let mut hashes: Vec<u64> =
        blocks.iter().flat_map(|block| &block.records).map(|it| it.key_hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!((puts, hashes.len()), (20_000, 20_000));
}

#[test]
fn a_failed_write_ends_the_recording_and_is_remembered() {
    let it = Fixture::new(STEP_BYTES, FILE_BYTES_MAX);
    for n in 0..3000u32 {
        it.put(n.to_be_bytes(), 10);
    }
    let before = it.blocks().len();
    assert!(before > 0);
    it.fs.fail_when("write app.trace", libc::ENOSPC, Repeat::Once);
    for n in 0..10_000u32 {
        it.put(n.to_be_bytes(), 10);
    }
    it.recorder.close();
    let error = it.recorder.error().expect("it is told");
    assert!(error.kind() == ErrorKind::Io && error.path() == Some(Path::new(PATH)), "{error}");
    assert_eq!(it.blocks().len(), before, "nothing is written behind what failed");
}

#[test]
fn only_a_trace_or_nothing_is_replaced() {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new("/traces")).unwrap();
    let start = |name: &str| {
        let clock = Arc::new(ManualClock::at_unix_ms(1));
        Recorder::start(&fs, clock, &Path::new("/traces").join(name)).map(drop)
    };
    start("app.trace").unwrap();
    start("app.trace").unwrap();
    fs.write_file("/traces/empty", b"").unwrap();
    start("empty").unwrap();
    for (name, bytes) in [("letter", &b"dear reader"[..]), ("short", &b"essay"[..])] {
        fs.write_file(Path::new("/traces").join(name), bytes).unwrap();
        assert_eq!(start(name).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(fs.read_file(Path::new("/traces").join(name)).unwrap(), bytes);
    }
    for name in ["000001.wal", "CURRENT", "LOCK", "MANIFEST-000004"] {
        assert_eq!(start(name).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(fs.read_file(Path::new("/traces").join(name)), None);
    }
    let nowhere =
        Recorder::start(&fs, Arc::new(ManualClock::default()), Path::new("/no/such/trace"));
    assert_eq!(nowhere.unwrap_err().kind(), ErrorKind::Io);
}
