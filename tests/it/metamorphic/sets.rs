//! The sets of options under which each list runs.

use esker::{
    Compaction, CompactionRate, Compression, Fifo, FilterKind, LazyLeveled, Leveled, ReadMode,
    SizeTiered, TimeWindow, Verify, WalMode,
};

use crate::support::{Rng, Setup};

/// A set of options, and how often it crashes beside the crashes of the list.
#[derive(Clone, Debug)]
pub(super) struct OptionSet {
    pub(super) name: String,
    pub(super) setup: Setup,
    pub(super) crash_percent: u64,
}

fn tiny(setup: &mut Setup) {
    setup.keyspace.memtable_bytes = 4 << 10;
    setup.keyspace.table_bytes = 4 << 10;
}

fn strategies() -> Vec<Compaction> {
    let roomy = Fifo { total_bytes_max: 1 << 40, age_max_s: 0, merge_runs: 0 };
    vec![
        Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 }.into(),
        SizeTiered { merge_width: 3, size_slack_percent: 50, runs_max: 5, space_percent_max: 100 }
            .into(),
        LazyLeveled { runs_per_level: 3, last_level_fanout: 2 }.into(),
        Fifo { merge_runs: 4, ..roomy }.into(),
        roomy.into(),
        TimeWindow { window_s: 20, merge_width: 3 }.into(),
    ]
}

/// The table of sets: each strategy without and with threads, then each other option.
pub(super) fn option_sets() -> Vec<OptionSet> {
    let mut sets = Vec::new();
    for (index, strategy) in strategies().into_iter().enumerate() {
        let threads = 1 + index % 3;
        for (threads, crash_percent) in [(0, 0), (threads, 2)] {
            let mut setup = Setup::small();
            tiny(&mut setup);
            setup.keyspace.compaction = strategy.clone();
            setup.db.background_threads = threads;
            let name = format!("{}, {threads} threads", strategy.name());
            sets.push(OptionSet { name, setup, crash_percent });
        }
    }
    let mut add = |name: &str, crash_percent, change: fn(&mut Setup)| {
        let mut setup = Setup::small();
        tiny(&mut setup);
        change(&mut setup);
        sets.push(OptionSet { name: name.to_owned(), setup, crash_percent });
    };
    add("everything in memory", 0, |setup| setup.keyspace.memtable_bytes = 64 << 20);
    add("everything in memory, crashes", 5, |setup| setup.keyspace.memtable_bytes = 64 << 20);
    add("pread, verify always, snap, no cache", 1, |setup| {
        setup.db.read_mode = ReadMode::Pread;
        setup.db.verify = Verify::Always;
        setup.db.cache_bytes = 0;
        setup.keyspace.compression = vec![Compression::Snap];
    });
    add("pread, small cache, zstd, 16 tables open", 0, |setup| {
        setup.db.read_mode = ReadMode::Pread;
        setup.db.cache_bytes = 4096;
        setup.db.open_tables_max = 16;
        setup.keyspace.compression = vec![Compression::None, Compression::Snap, Compression::Zstd];
    });
    add("large blocks, no filters", 1, |setup| {
        setup.keyspace.block_bytes = 64 << 10;
        setup.keyspace.filter_bits = vec![0.0];
    });
    add("classic filters of 1 bit, verify always", 0, |setup| {
        setup.keyspace.filter = FilterKind::Bloom;
        setup.keyspace.filter_bits = vec![1.0, 20.0, 0.0];
        setup.db.verify = Verify::Always;
    });
    add("many memtables, log by write, 3 threads", 1, |setup| {
        setup.keyspace.memtables_max = 5;
        setup.db.wal_mode = WalMode::Write;
        setup.db.background_threads = 3;
    });
    add("large tables, one memtable more, 2 threads", 1, |setup| {
        setup.keyspace.table_bytes = 1 << 20;
        setup.keyspace.memtables_max = 3;
        setup.db.background_threads = 2;
    });
    add("rate auto, 2 threads", 0, |setup| {
        setup.db.compaction_rate = CompactionRate::Auto;
        setup.db.background_threads = 2;
    });
    add("fixed rate, scrubber, 4 threads", 0, |setup| {
        setup.db.compaction_rate = CompactionRate::BytesPerSecond(1 << 30);
        setup.db.scrub_interval_s = 1;
        setup.db.background_threads = 4;
    });
    add("recorded, short log", 1, |setup| {
        setup.db.wal_bytes_max = 2 * setup.db.wal_segment_bytes;
        setup.keyspace.memtable_bytes = 1 << 20;
        setup.db.record_workload = Some("/workload.trace".into());
    });
    sets
}

/// A set drawn at random.
pub(super) fn random_set(seed: u64) -> OptionSet {
    let mut rng = Rng::new(seed ^ 0x7365_7473);
    let mut setup = Setup::small();
    setup.db.background_threads = rng.below(5) as usize;
    setup.db.cache_bytes = rng.pick(&[0, 4096, 1 << 20]);
    setup.db.open_tables_max = rng.pick(&[16, 4096]);
    setup.db.read_mode = rng.pick(&[ReadMode::Mmap, ReadMode::Pread]);
    setup.db.verify = rng.pick(&[Verify::Once, Verify::Always]);
    setup.db.wal_mode = rng.pick(&[WalMode::Map, WalMode::Write]);
    setup.db.compaction_rate = rng.pick(&[CompactionRate::Unlimited, CompactionRate::Auto]);
    setup.keyspace.memtable_bytes = rng.pick(&[4 << 10, 8 << 10, 32 << 10]);
    setup.keyspace.memtables_max = rng.pick(&[2, 3, 8]);
    setup.keyspace.block_bytes = rng.pick(&[512, 1024, 4096]);
    setup.keyspace.table_bytes = rng.pick(&[4 << 10, 16 << 10, 1 << 20]);
    setup.keyspace.filter_bits = rng.pick(&[vec![10.0], vec![0.0], vec![0.0, 4.0], vec![2.0]]);
    setup.keyspace.filter = rng.pick(&[FilterKind::Blocked, FilterKind::Bloom]);
    let kinds = [Compression::None, Compression::Snap, Compression::Zstd];
    setup.keyspace.compression = (0..=rng.below(3)).map(|_| rng.pick(&kinds)).collect();
    setup.keyspace.compaction = rng.pick(&strategies());
    let crash_percent = rng.pick(&[0, 1, 4]);
    OptionSet { name: format!("random {seed}: {setup:?}"), setup, crash_percent }
}
