//! Micro benchmarks of single operations through the public API, on a small database that fits the caches.
//!
//! `cargo bench --bench engine`. For whole workloads and for the peers see `benches/side_by_side.sh`.

#![allow(missing_docs, reason = "a benchmark")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot open its database has failed")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use esker::compaction::simulator::{Machine, Simulator, Workload};
use esker::{Compaction, Db, KeyspaceOptions, WriteBatch};

const KEYS: u64 = 200_000;

fn key(n: u64) -> [u8; 16] {
    let mut key = *b"0000000000000000";
    let digits = format!("{n:016}");
    key.copy_from_slice(digits.as_bytes());
    key
}

/// A cheap walk over all keys in no order.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS
}

fn filled(dir: &tempfile::TempDir) -> Db {
    let db = Db::open(dir.path()).unwrap();
    for n in 0..KEYS {
        db.put(key(n), [b'v'; 100]).unwrap();
    }
    db.compact_range::<&[u8]>(..).unwrap();
    db
}

fn writes(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let mut group = criterion.benchmark_group("write");
    group.throughput(Throughput::Elements(1));
    let mut n = 0;
    group.bench_function("put random", |bencher| {
        bencher.iter(|| {
            n += 1;
            db.put(key(scattered(n)), [b'v'; 100]).unwrap();
        });
    });
    group.throughput(Throughput::Elements(100));
    group.bench_function("batch of 100", |bencher| {
        bencher.iter_batched(
            || {
                let mut batch = WriteBatch::new();
                for _ in 0..100 {
                    n += 1;
                    batch.put(key(scattered(n)), [b'v'; 100]);
                }
                batch
            },
            |batch| db.write(batch).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let db = filled(&dir);
    let mut group = criterion.benchmark_group("read");
    let mut n = 0;
    group.bench_function("get hit", |bencher| {
        bencher.iter(|| {
            n += 1;
            black_box(db.get(key(scattered(n))).unwrap())
        });
    });
    group.bench_function("get miss", |bencher| {
        bencher.iter(|| {
            n += 1;
            let mut absent = key(scattered(n));
            absent[15] = b'x';
            black_box(db.get(absent).unwrap())
        });
    });
    group.bench_function("seek and 10 next", |bencher| {
        let mut cursor = db.cursor();
        bencher.iter(|| {
            n += 1;
            cursor.seek(key(scattered(n))).unwrap();
            for _ in 0..10 {
                if !cursor.valid() {
                    break;
                }
                black_box((cursor.key(), cursor.value()));
                cursor.next().unwrap();
            }
        });
    });
    group.finish();
}

/// An hour in the life of a petabyte: it must take less than a second.
fn simulations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("simulate a petabyte for an hour");
    group.sample_size(10);
    let workload = Workload {
        ingest_bytes_per_s: 100_000_000,
        ..Workload::uniform(1_000_000_000_000_000 / 116)
    };
    for name in ["leveled", "size_tiered", "lazy_leveled"] {
        let options = KeyspaceOptions::default().compaction(Compaction::from_name(name));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let machine = Machine::default();
                let mut simulator = Simulator::new(options.clone(), &workload, machine).unwrap();
                simulator.load().unwrap();
                simulator.run_for(3600.0).unwrap();
                black_box(simulator.report())
            });
        });
    }
}

criterion_group!(benches, writes, reads, simulations);
criterion_main!(benches);
