//! What is recorded: one function for each kind of work, with a seed.
//!
//! A workload drives a [`Stage`] by operations of [`Op`], or by whatever it likes between them, as long as the history
//! hears of it ([`World::change`](crate::support::World::change)). `reaches` are words of the file system's trace that
//! must turn up in one line each: so that a workload which no longer does what its name says is noticed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use esker::Durability::{Async, Buffered, Disabled, Sync};
use esker::clock::ManualClock;
use esker::compaction::filter::{CompactionFilter, Decision};
use esker::{Compaction, Compression, Fifo, LazyLeveled, Leveled, SizeTiered, TimeWindow, WalMode};

use crate::crash::check::Allowance;
use crate::crash::recording::{Recording, Stage};
use crate::crash::states::persists;
use crate::support::{Generator, Lives, Op, Setup};

/// A kind of work.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) record: fn(u64) -> Recording,
    pub(crate) reaches: &'static [&'static str],
}

macro_rules! workloads {
    ($($record:ident reaches $reaches:expr),+ $(,)?) => {
        &[$(Workload { name: stringify!($record), record: $record, reaches: &$reaches }),+]
    };
}

pub(crate) const WORKLOADS: &[Workload] = workloads![
    sync_puts reaches ["sync_data .wal"],
    buffered_puts reaches ["sync_data .wal"],
    mixed_durabilities reaches ["sync_data .wal"],
    disabled_writes reaches ["create .table", "sync_data MANIFEST"],
    leveled reaches ["create .table", "remove .table"],
    size_tiered reaches ["create .table", "remove .table"],
    lazy_leveled reaches ["create .table", "remove .table"],
    fifo_that_keeps reaches ["create .table", "remove .table"],
    fifo_that_drops reaches ["create .table", "remove .table"],
    time_window reaches ["create .table", "remove .table"],
    merge_in_slices reaches ["create .table", "remove .table"],
    merge_in_threads reaches ["create .table", "remove .table"],
    background_threads reaches ["create .table", "remove .table"],
    expiry reaches ["create .table", "remove .table"],
    compaction_filter reaches ["create .table", "remove .table"],
    keyspaces_flushed_apart reaches ["create .table", "remove .table"],
    create_and_drop reaches ["create .table", "remove .table"],
    close_and_reopen reaches ["truncate .wal", "create MANIFEST", "rename CURRENT"],
    recycled_logs reaches ["rename .wal -> .wal", "allocate .wal"],
    long_records reaches ["allocate .wal", "sync_data .wal"],
    several_lives reaches ["create .table", "sync_data .wal", "remove .wal"],
];

/// Memtables and tables so small that tens of writes fill them.
fn tiny() -> Setup {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 4 << 10;
    setup.keyspace.table_bytes = 4 << 10;
    setup
}

fn with_keyspaces(mut ops: Vec<Op>) -> Vec<Op> {
    ops.splice(0..0, [Op::Create(1), Op::Create(2)]);
    ops
}

fn record(setup: &Setup, ops: &[Op]) -> Recording {
    let mut stage = Stage::new(setup);
    stage.run(ops);
    stage.finish()
}

fn sync_puts(seed: u64) -> Recording {
    record(&Setup::small(), &Generator::new(seed, 1, &[Sync]).writes(40))
}

fn buffered_puts(seed: u64) -> Recording {
    let mut generator = Generator::new(seed, 1, &[Buffered]);
    let mut ops = Vec::new();
    for _ in 0..5 {
        ops.extend(generator.writes(12));
        ops.push(Op::Sync);
    }
    record(&Setup::small(), &ops)
}

fn mixed_durabilities(seed: u64) -> Recording {
    let mut generator = Generator::new(seed, 3, &[Sync, Buffered, Buffered, Async]);
    record(&Setup::small(), &with_keyspaces(generator.writes(60)))
}

fn disabled_writes(seed: u64) -> Recording {
    let mut generator = Generator::new(seed, 1, &[Disabled]);
    let mut ops = Vec::new();
    for _ in 0..4 {
        ops.extend(generator.writes(15));
        ops.push(Op::Flush);
    }
    ops.push(Op::Reopen);
    ops.extend(generator.writes(10));
    record(&tiny(), &ops)
}

/// Writes that flush and compact, then a merge of everything, then more.
fn with_strategy(seed: u64, compaction: impl Into<Compaction>) -> Recording {
    let mut setup = tiny();
    setup.keyspace.compaction = compaction.into();
    record(&setup, &flush_and_compact(seed))
}

fn flush_and_compact(seed: u64) -> Vec<Op> {
    let mut ops = Generator::new(seed, 1, &[Sync, Buffered, Buffered, Buffered]).writes(110);
    ops.push(Op::Compact(0));
    ops.extend(Generator::new(seed + 1000, 1, &[Buffered]).writes(20));
    ops
}

fn leveled(seed: u64) -> Recording {
    with_strategy(seed, Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 4 })
}

fn size_tiered(seed: u64) -> Recording {
    with_strategy(seed, SizeTiered { merge_width: 2, ..SizeTiered::default() })
}

fn lazy_leveled(seed: u64) -> Recording {
    with_strategy(seed, LazyLeveled { runs_per_level: 2, last_level_fanout: 2 })
}

fn fifo_that_keeps(seed: u64) -> Recording {
    with_strategy(seed, Fifo { merge_runs: 2, ..Fifo::default() })
}

fn time_window(seed: u64) -> Recording {
    with_strategy(seed, TimeWindow { window_s: 1, merge_width: 2 })
}

fn fifo_that_drops(seed: u64) -> Recording {
    let mut setup = tiny();
    setup.keyspace.compaction = Fifo { total_bytes_max: 64 << 10, ..Fifo::default() }.into();
    let mut generator = Generator::new(seed, 1, &[Buffered]);
    generator.value_bytes = 2000;
    let mut stage = Stage::new(&setup);
    stage.allowance = Allowance::Oldest;
    stage.run(&generator.writes(45));
    stage.only_from_here();
    generator.durabilities = vec![Sync, Buffered];
    stage.run(&generator.writes(40));
    stage.finish()
}

fn tiered() -> Setup {
    let mut setup = tiny();
    setup.keyspace.compression = vec![Compression::None];
    setup.keyspace.compaction = SizeTiered { merge_width: 4, ..SizeTiered::default() }.into();
    setup
}

/// A tree of several runs, with random values of 300 bytes.
fn large_tree(setup: &Setup, seed: u64, writes: u64) -> Stage {
    let mut generator = Generator::new(seed, 1, &[Buffered]);
    (generator.keys, generator.value_bytes) = (400, 300);
    let mut stage = Stage::new(setup);
    stage.run(&generator.writes(writes));
    stage.run(&[Op::Flush]);
    stage.only_from_here();
    stage
}

/// A merge of everything in a tiered tree is installed in slices.
pub(crate) fn merge_in_slices(seed: u64) -> Recording {
    let mut stage = large_tree(&tiered(), seed, 300);
    stage.run(&[Op::Compact(0)]);
    stage.finish()
}

/// As above, with threads that take key ranges of it. The caller waits at its first operation until one has begun.
fn merge_in_threads(seed: u64) -> Recording {
    let mut setup = tiered();
    setup.db.background_threads = 4;
    let mut stage = large_tree(&setup, seed, 400);
    let caller = std::thread::current().id();
    let (is_merging, helped) = (AtomicBool::new(true), Mutex::new(false));
    let wake = Condvar::new();
    stage.before_cuts(Arc::new(move || {
        if std::thread::current().id() != caller {
            *helped.lock().unwrap() = true;
            wake.notify_all();
        } else if is_merging.swap(false, Ordering::Relaxed) {
            let limit = Duration::from_secs(60);
            let helped =
                wake.wait_timeout_while(helped.lock().unwrap(), limit, |helped| !*helped).unwrap();
            assert!(*helped.0, "no other thread helped");
        }
    }));
    stage.run(&[Op::Compact(0)]);
    stage.finish()
}

/// Flushes and compactions at any moment, in any order.
fn background_threads(seed: u64) -> Recording {
    let mut setup = tiny();
    setup.db.background_threads = 3;
    let mut generator = Generator::new(seed, 2, &[Sync, Buffered, Buffered]);
    let mut ops = vec![Op::Create(1)];
    ops.extend(generator.writes(110));
    ops.extend([Op::Compact(0), Op::Reopen]);
    ops.extend(generator.writes(30));
    record(&setup, &ops)
}

fn expiry(seed: u64) -> Recording {
    let mut setup = tiny();
    let clock = Arc::new(ManualClock::at_unix_ms(1_700_000_000_000));
    setup.clock = Some(Arc::clone(&clock));
    setup.keyspace.compaction = TimeWindow { window_s: 20, merge_width: 2 }.into();
    let mut generator = Generator::new(seed, 1, &[Sync, Buffered, Buffered]);
    generator.lives = Some(Lives { clock, default_ttl_s: 0 });
    let mut stage = Stage::new(&setup);
    for _ in 0..6 {
        stage.run(&generator.writes(20));
        stage.advance(7);
    }
    stage.run(&[Op::Compact(0), Op::Reopen]);
    stage.advance(200);
    stage.run(&generator.writes(25));
    stage.finish()
}

/// Drops all keys of one kind.
#[derive(Debug)]
struct DropKeys(u8);

impl CompactionFilter for DropKeys {
    fn filter(&self, _level: usize, key: &[u8], _value: &[u8]) -> Decision {
        if key.first() == Some(&self.0) { Decision::Drop } else { Decision::Keep }
    }
}

fn compaction_filter(seed: u64) -> Recording {
    let mut setup = tiny();
    setup.filter = Some(Arc::new(DropKeys(0xff)));
    let mut stage = Stage::new(&setup);
    stage.allowance = Allowance::Keys(0xff);
    stage.run(&flush_and_compact(seed));
    stage.finish()
}

fn keyspaces_flushed_apart(seed: u64) -> Recording {
    let mut generator = Generator::new(seed, 3, &[Sync, Buffered, Buffered, Buffered]);
    let mut ops = generator.writes(60);
    ops.push(Op::Compact(1));
    ops.extend(generator.writes(30));
    ops.push(Op::Compact(0));
    record(&tiny(), &with_keyspaces(ops))
}

fn create_and_drop(seed: u64) -> Recording {
    let mut generator = Generator::new(seed, 3, &[Sync, Buffered, Buffered]);
    let mut ops = Vec::new();
    for round in 0..4 {
        ops.extend([Op::Create(1), Op::Create(2)]);
        ops.extend(generator.writes(12));
        if round % 2 == 1 {
            ops.push(Op::Flush);
        }
        ops.push(Op::Drop(1 + round % 2));
        ops.extend(generator.writes(4));
    }
    ops.push(Op::Reopen);
    record(&tiny(), &ops)
}

fn close_and_reopen(seed: u64) -> Recording {
    let mut generator = Generator::new(seed, 2, &[Sync, Buffered, Buffered]);
    let mut ops = vec![Op::Create(1)];
    for count in [3, 20, 40, 0, 1] {
        ops.extend(generator.writes(count));
        ops.push(Op::Reopen);
    }
    record(&tiny(), &ops)
}

/// Logs over many segments.
fn logs(mut generator: Generator, mode: WalMode, writes: u64) -> Recording {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 64 << 10;
    setup.db.wal_mode = mode;
    let mut ops = vec![Op::Create(1)];
    ops.extend(generator.writes(writes));
    record(&setup, &ops)
}

/// Segments of the usual length, which are recycled: one keyspace, so that a flush lets all before it go.
fn recycled_logs(seed: u64) -> Recording {
    let mut generator = Generator::new(seed, 1, &[Buffered, Buffered, Buffered, Sync]);
    generator.value_bytes = 2000;
    logs(generator, WalMode::Map, 150)
}

/// Some records are longer than a segment.
fn long_records(seed: u64) -> Recording {
    let mut generator = Generator::new(seed, 2, &[Buffered, Buffered, Buffered, Sync]);
    generator.value_bytes = 4000;
    logs(generator, WalMode::Write, 80)
}

/// Power cuts in between: recovery, and writes on top of what it found.
fn several_lives(seed: u64) -> Recording {
    let mut generator = Generator::new(seed, 2, &[Sync, Buffered, Buffered, Buffered]);
    let mut stage = Stage::new(&tiny());
    stage.run(&[Op::Create(1)]);
    for life in 0..4 {
        stage.run(&generator.writes(4 + seed % 7 + 9 * life));
        let persist = generator.rng.pick(&persists(&stage.fs, seed ^ life));
        stage.die(persist);
    }
    stage.run(&generator.writes(12));
    stage.finish()
}
