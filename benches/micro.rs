//! Micro benchmarks of single structures: blocks, filters, memtables, merges, the log.
//!
//! `cargo bench --bench micro --features internals -- --quick`. They drive `esker::internals`, which is there for them
//! alone. For operations of a whole database see `engine.rs`.

#![allow(missing_docs, reason = "a benchmark")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot set up its structure has failed")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use esker::FilterKind;
use esker::fs::StdFs;
use esker::internals::{BlockBench, FilterBench, MemtableBench, MergeBench, WalBench};

const VALUE_BYTES: usize = 100;
/// About 4 KiB of entries.
const BLOCK_ENTRIES: usize = 36;
const KEYS: u64 = 100_000;

/// A cheap walk over all numbers in no order.
fn scattered(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS
}

fn block(criterion: &mut Criterion) {
    let mut bench = BlockBench::new(BLOCK_ENTRIES, VALUE_BYTES).unwrap();
    let mut group = criterion.benchmark_group("block");
    group.throughput(Throughput::Elements(BLOCK_ENTRIES as u64));
    group.bench_function("build", |bencher| bencher.iter(|| bench.build()));
    group.bench_function("iterate", |bencher| bencher.iter(|| bench.walk().unwrap()));
    group.throughput(Throughput::Elements(1));
    let mut n = 0;
    group.bench_function("seek", |bencher| {
        bencher.iter(|| {
            n += 17;
            bench.seek(black_box(n)).unwrap()
        });
    });
}

fn filter(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filter");
    for (name, kind) in [("blocked", FilterKind::Blocked), ("bloom", FilterKind::Bloom)] {
        let bench = FilterBench::new(kind, 10.0, KEYS).unwrap();
        group.throughput(Throughput::Elements(KEYS));
        group.bench_function(format!("{name} build"), |bencher| bencher.iter(|| bench.build()));
        group.throughput(Throughput::Elements(1));
        let mut n = 0;
        for (outcome, first) in [("hit", 0), ("miss", KEYS)] {
            group.bench_function(format!("{name} {outcome}"), |bencher| {
                bencher.iter(|| {
                    n += 1;
                    bench.probe(first + scattered(n))
                });
            });
        }
    }
}

fn memtable(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memtable");
    let filled = |order: fn(u64) -> u64| {
        let mut bench = MemtableBench::new(64 << 20, VALUE_BYTES);
        for n in 0..KEYS {
            black_box(bench.insert(order(n)));
        }
        bench
    };
    group.throughput(Throughput::Elements(KEYS));
    for (name, order) in [("random", scattered as fn(u64) -> u64), ("sequential", |n| n)] {
        group.bench_function(format!("insert {name}"), |bencher| {
            bencher.iter_batched(|| (), |()| filled(order), BatchSize::PerIteration);
        });
    }
    let bench = filled(scattered);
    group.bench_function("cursor", |bencher| bencher.iter(|| bench.walk().unwrap()));
    group.throughput(Throughput::Elements(1));
    let mut n = 0;
    for (name, first) in [("get", 0), ("get miss", KEYS)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                n += 1;
                bench.get(first + scattered(n))
            });
        });
    }
}

fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(KEYS));
    for source_count in [2, 8, 32] {
        let mut bench = MergeBench::new(source_count, KEYS);
        group.bench_function(format!("{source_count} sources"), |bencher| {
            bencher.iter(|| bench.walk().unwrap());
        });
    }
}

fn wal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal");
    for (name, mapped) in [("mapped", true), ("written", false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = WalBench::new(Arc::new(StdFs), dir.path(), mapped, VALUE_BYTES);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("append {name}"), |bencher| {
            bencher.iter(|| bench.append().unwrap());
        });
        for group_count in [1, 16] {
            group.throughput(Throughput::Elements(group_count));
            group.bench_function(format!("sync {name}, group of {group_count}"), |bencher| {
                bencher.iter(|| {
                    for _ in 0..group_count {
                        black_box(bench.append().unwrap());
                    }
                    bench.sync().unwrap();
                });
            });
        }
    }
}

criterion_group!(benches, block, filter, memtable, merge, wal);
criterion_main!(benches);
