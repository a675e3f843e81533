//! What the simulator predicts is what the engine does: the same writes, for real, in the simulated file system.

use std::sync::Arc;

use esker::compaction::simulator::{Machine, Simulator, Workload};
use esker::fs::SimFs;
use esker::{Compaction, Db, DbOptions, KeyspaceOptions};

const KEYS: u64 = 120_000;
const WRITES: u64 = 400_000;

/// Small, so that a few megabytes have several levels.
fn options(name: &str) -> KeyspaceOptions {
    let mut options = KeyspaceOptions::default().compaction(Compaction::from_name(name));
    options.memtable_bytes = 512 << 10;
    options.table_bytes = 512 << 10;
    if name == "leveled" {
        options.set("base_bytes", "2097152").unwrap();
    }
    options
}

/// Bytes that flushes and compactions wrote, and those of tables at the end.
fn measured(name: &str) -> [u64; 3] {
    let db_options = DbOptions { background_threads: 0, ..DbOptions::default() };
    let db = Db::builder()
        .options(db_options)
        .default_keyspace(options(name))
        .file_system(Arc::new(SimFs::new()))
        .open("/db")
        .unwrap();
    let mut state = 42u64;
    for _ in 0..WRITES {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = (u128::from(state >> 32) * u128::from(KEYS)) >> 32;
        db.put(format!("{number:016}"), [7; 100]).unwrap();
    }
    db.flush().unwrap();
    db.wait_idle().unwrap();
    let metrics = db.metrics();
    [metrics.flush_bytes, metrics.compaction_bytes_written, metrics.table_bytes]
}

fn predicted(name: &str) -> [u64; 3] {
    // The work is done inline, so writers wait for all of it: a machine without a bound does the same.
    let machine = Machine { background_threads: 2, bandwidth_bytes_per_s: 1 << 50 };
    let workload = Workload::uniform(KEYS);
    let mut simulator = Simulator::new(options(name), &workload, machine).unwrap();
    simulator.write(WRITES).unwrap();
    simulator.settle().unwrap();
    let report = simulator.report();
    [report.flush_bytes, report.compaction_bytes_written, report.table_bytes]
}

#[test]
fn predicted_bytes_are_written_bytes() {
    for name in ["leveled", "size_tiered", "lazy_leveled"] {
        let (measured, predicted) = (measured(name), predicted(name));
        for (part, within) in [(0, 0.03), (1, 0.15), (2, 0.20)] {
            let ratio = predicted[part] as f64 / measured[part] as f64;
            assert!((ratio - 1.0).abs() < within, "{name}: {predicted:?} for {measured:?}");
        }
    }
}
