//! Random operations against a `BTreeMap`: every reader gives the same answer, under every set of options.
//!
//! A list of random operations (writes of all durabilities, batches over keyspaces, flushes, compactions, keyspaces
//! created and dropped, reopens, crashes) is applied to a database and to the model. Now and then, and at the end, all
//! ways of reading are compared with the model: gets, many gets, iterators over ranges and prefixes from both ends,
//! cursors that seek and turn around. In some runs entries expire, and time passes. Snapshots are read again much
//! later. After a crash the database must hold a
//! prefix of the writes, and the model goes on from it. `verify` checks the tree and every file.
//!
//! The seed stands in the failure's text.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use esker::Durability::{Async, Buffered, Disabled, Sync};
use esker::clock::ManualClock;
use esker::fs::StdFs;
use esker::fs::sim_fs::{Persist, SimFs};
use esker::{
    Compaction, Compression, Cursor, Fifo, Iter, Keyspace, LazyLeveled, Leveled, ReadMode,
    SizeTiered, Snapshot, TimeWindow, Verify, WalMode,
};

use crate::support::{
    Alive, Contents, Generator, Key, Lives, Map, NAMES, Op, Rng, Setup, World, difference, living,
    read_contents,
};
use crate::trust;

/// The readers that a keyspace and a snapshot share.
trait Reader {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;
    fn multi_get(&self, keys: &[Key]) -> Vec<Option<Vec<u8>>>;
    fn range(&self, range: (Bound<Key>, Bound<Key>)) -> Iter;
    fn prefix(&self, prefix: &[u8]) -> Iter;
    fn cursor(&self) -> Cursor;
}

macro_rules! reader {
    ($type:ty) => {
        impl Reader for $type {
            fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
                let value = <$type>::get(self, key).unwrap().map(|value| value.to_vec());
                assert_eq!(self.contains_key(key).unwrap(), value.is_some());
                value
            }
            fn multi_get(&self, keys: &[Key]) -> Vec<Option<Vec<u8>>> {
                let values = <$type>::multi_get(self, keys).unwrap();
                values.into_iter().map(|value| value.map(|value| value.to_vec())).collect()
            }
            fn range(&self, range: (Bound<Key>, Bound<Key>)) -> Iter {
                <$type>::range::<Key>(self, range)
            }
            fn prefix(&self, prefix: &[u8]) -> Iter {
                <$type>::prefix(self, prefix)
            }
            fn cursor(&self) -> Cursor {
                <$type>::cursor(self)
            }
        }
    };
}

reader!(Keyspace);
reader!(Snapshot);

type Pair = (Key, Vec<u8>);

fn collect(iter: impl Iterator<Item = esker::Result<(Key, esker::Value)>>) -> Vec<Pair> {
    iter.map(|item| item.map(|(key, value)| (key, value.to_vec())).unwrap()).collect()
}

fn pairs_of<'a>(entries: impl Iterator<Item = (&'a Key, &'a Vec<u8>)>) -> Vec<Pair> {
    entries.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether `(low, high)` is a range that `BTreeMap` accepts.
fn is_in_order(low: &Bound<Key>, high: &Bound<Key>) -> bool {
    match (low, high) {
        (Bound::Excluded(low), Bound::Excluded(high)) => low < high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low <= high,
        _ => true,
    }
}

fn bound(generator: &mut Generator) -> Bound<Key> {
    match generator.rng.below(5) {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(generator.key()),
        _ => Bound::Excluded(generator.key()),
    }
}

/// Compares every way of reading with the model.
fn check_reader(reader: &impl Reader, model: &Map, generator: &mut Generator) {
    let all = (Bound::Unbounded, Bound::Unbounded);
    assert_eq!(collect(reader.range(all.clone())), pairs_of(model.iter()), "iterator");
    assert_eq!(collect(reader.range(all).rev()), pairs_of(model.iter().rev()), "backwards");
    let keys: Vec<Key> = (0..20).map(|_| generator.key()).collect();
    let values: Vec<_> = keys.iter().map(|key| model.get(key).cloned()).collect();
    for (key, value) in keys.iter().zip(&values) {
        assert_eq!(reader.get(key), *value, "get of {}", key.escape_ascii());
    }
    assert_eq!(reader.multi_get(&keys), values, "multi_get");
    for _ in 0..4 {
        let (low, high) = (bound(generator), bound(generator));
        let expected = if is_in_order(&low, &high) {
            pairs_of(model.range((low.clone(), high.clone())))
        } else {
            Vec::new()
        };
        let range = (low, high);
        assert_eq!(collect(reader.range(range.clone())), expected, "{range:?}");
        check_both_ends(reader.range(range), expected, &mut generator.rng);
        let key = generator.key();
        let prefix = &key[..generator.rng.below(key.len() as u64 + 1) as usize];
        let expected = pairs_of(model.iter().filter(|(key, _)| key.starts_with(prefix)));
        assert_eq!(collect(reader.prefix(prefix)), expected, "prefix {}", prefix.escape_ascii());
    }
    walk(reader.cursor(), model, generator);
}

/// Takes items from the two ends in a random order.
fn check_both_ends(mut iter: Iter, expected: Vec<Pair>, rng: &mut Rng) {
    let mut expected = expected.into_iter();
    loop {
        let front = rng.percent(50);
        let want = if front { expected.next() } else { expected.next_back() };
        let got = if front { iter.next() } else { iter.next_back() };
        let got = got.map(|item| item.map(|(key, value)| (key, value.to_vec())).unwrap());
        assert_eq!(got, want, "from both ends");
        if want.is_none() {
            return;
        }
    }
}

/// Moves a cursor about, and knows at each step where it must stand.
fn walk(mut cursor: Cursor, model: &Map, generator: &mut Generator) {
    let mut trail = Vec::new();
    let mut at: Option<&Key> = None;
    for _ in 0..30 {
        let key = generator.key();
        let step = generator.rng.below(if at.is_some() { 12 } else { 4 });
        at = match step {
            0 => {
                cursor.seek(&key).unwrap();
                model.range(key.clone()..).next()
            }
            1 => {
                cursor.seek_for_prev(&key).unwrap();
                model.range(..=key.clone()).next_back()
            }
            2 => {
                cursor.seek_to_first().unwrap();
                model.iter().next()
            }
            3 => {
                cursor.seek_to_last().unwrap();
                model.iter().next_back()
            }
            4..8 => {
                cursor.next().unwrap();
                model.range::<Key, _>((Bound::Excluded(at.unwrap()), Bound::Unbounded)).next()
            }
            _ => {
                cursor.prev().unwrap();
                model.range::<Key, _>(..at.unwrap()).next_back()
            }
        }
        .map(|(key, _)| key);
        trail.push((step, key));
        let stands = cursor.valid().then(|| (cursor.key().to_vec(), cursor.value().to_vec()));
        assert_eq!(stands, at.map(|at| (at.clone(), model[at].clone())), "cursor after {trail:?}");
    }
}

/// A run of the model test.
struct Run {
    world: World,
    /// The simulated file system, if it is one.
    sim: Option<SimFs>,
    generator: Generator,
    snapshots: Vec<(Snapshot, Contents, Alive)>,
    /// Of which one is chosen anew whenever the database is reopened.
    strategies: Vec<Compaction>,
    /// Writes that no log holds were made since the last flush; a crash may lose any of them.
    has_unlogged: bool,
}

impl Run {
    fn new(mut world: World, sim: Option<SimFs>, seed: u64) -> Self {
        world.open().unwrap();
        let durabilities = [Sync, Buffered, Buffered, Buffered, Async, Disabled];
        let mut generator = Generator::new(seed, 3, &durabilities);
        let default_ttl_s = world.setup.keyspace.default_ttl_s;
        generator.lives = world.setup.clock.clone().map(|clock| Lives { clock, default_ttl_s });
        let (snapshots, strategies) = (Vec::new(), Vec::new());
        Run { world, sim, generator, snapshots, strategies, has_unlogged: false }
    }

    fn step(&mut self) {
        match self.generator.rng.below(100) {
            0 => self.check(),
            1 => {
                if self.snapshots.len() > 3 {
                    self.check_snapshots();
                }
                let alive = self.world.moment().alive;
                self.snapshots.push((self.world.db().snapshot(), self.world.given(), alive));
            }
            2 if self.generator.rng.percent(50) => self.crash(),
            3 => self.pass_time(),
            _ => {
                let op = self.generator.op();
                self.apply(&op);
            }
        }
    }

    /// Some entries expire.
    fn pass_time(&mut self) {
        let Some(clock) = &self.world.setup.clock else { return };
        clock.advance(Duration::from_millis(self.generator.rng.below(30_000)));
        self.world.history.lock().unwrap().now_ms = self.world.setup.now_ms();
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write(Disabled, _) => self.has_unlogged = true,
            Op::Flush => self.has_unlogged = false,
            Op::Reopen => {
                self.check_snapshots();
                self.has_unlogged = false;
                if !self.strategies.is_empty() {
                    let strategy = self.generator.rng.pick(&self.strategies);
                    self.world.setup.keyspace.compaction = strategy;
                }
            }
            _ => {}
        }
        self.world.run(op).unwrap_or_else(|error| panic!("{op:?}: {error}"));
        if matches!(op, Op::Reopen) {
            for at in self.world.moment().alive.into_keys() {
                // With the strategy of this turn.
                self.world.db().keyspace(NAMES[at], self.world.setup.keyspace.clone()).unwrap();
            }
            let found = read_contents(self.world.db()).unwrap();
            let expected = self.world.expected();
            assert!(found == expected, "reopened: {}", difference(&expected, &found));
        }
    }

    /// Kills the process or cuts the power, and goes on with what is left.
    fn crash(&mut self) {
        let Some(sim) = self.sim.clone() else { return };
        if self.has_unlogged {
            self.apply(&Op::Flush);
        }
        self.check_snapshots();
        let moment = self.world.moment();
        let seed = self.generator.rng.next();
        let (fs, least) = match seed % 6 {
            0 | 1 => (sim.kill_clone(), moment.logged),
            2 => (sim.crash_clone(Persist::Nothing), moment.synced),
            3 => (sim.crash_clone(Persist::NamesOnly), moment.synced),
            4 => (sim.crash_clone(Persist::BytesOnly), moment.synced),
            _ => (sim.crash_clone(Persist::Random { percent: 50, seed }), moment.synced),
        };
        // The old database goes on in its own world and disturbs nobody.
        self.world.db = None;
        self.world.fs = Arc::new(fs.clone());
        self.world.open().unwrap();
        self.sim = Some(fs);
        let found = read_contents(self.world.db()).unwrap();
        let prefix = self.world.history.lock().unwrap().find_prefix(&found, least, &moment);
        let count = prefix.unwrap_or_else(|what| panic!("after a crash: {what}"));
        self.world.truncate(count, &found);
    }

    fn check(&mut self) {
        for (at, map) in &self.world.expected() {
            check_reader(&self.world.keyspace(*at).unwrap(), map, &mut self.generator);
        }
        let report = self.world.db().verify().unwrap();
        assert!(report.is_ok(), "verify: {report:?}");
    }

    /// Reads the snapshots again, and lets go of them.
    fn check_snapshots(&mut self) {
        let now = self.world.moment().alive;
        let now_ms = self.world.setup.now_ms();
        for (snapshot, contents, alive) in std::mem::take(&mut self.snapshots) {
            for (at, map) in contents {
                // The keyspace of that name may be gone, or be another one now.
                if now.get(&at) == alive.get(&at) {
                    let keyspace = self.world.keyspace(at).unwrap();
                    let of_keyspace = snapshot.keyspace(&keyspace).unwrap();
                    check_reader(&of_keyspace, &living(map, now_ms), &mut self.generator);
                }
            }
        }
    }

    fn finish(mut self, steps: u64) {
        for _ in 0..steps {
            self.step();
        }
        self.check_snapshots();
        self.check();
        self.apply(&Op::Flush);
        self.check();
        for at in 0..NAMES.len() {
            self.apply(&Op::Compact(at));
        }
        self.check();
        self.apply(&Op::Reopen);
        self.check();
        self.world.close().unwrap();
    }
}

/// The runs under one set of options. Says the seed of the one that failed, and leaves the figures.
struct Tally<'a> {
    name: &'a str,
    seed: u64,
    runs: u64,
    operations: u64,
}

impl<'a> Tally<'a> {
    /// Makes one run for each seed; `run` gives how many operations it did.
    fn of(name: &'a str, seeds: u64, mut run: impl FnMut(u64) -> u64) {
        let mut tally = Tally { name, seed: 0, runs: 0, operations: 0 };
        for seed in 0..seeds {
            tally.seed = trust::seed() * 1_000_000 + seed;
            tally.runs += 1;
            tally.operations += run(tally.seed);
        }
    }
}

impl Drop for Tally<'_> {
    #[expect(clippy::print_stderr, reason = "a failed test says its seed")]
    fn drop(&mut self) {
        let has_failed = std::thread::panicking();
        if has_failed {
            eprintln!("model test failed: options {}, seed {}", self.name, self.seed);
        }
        trust::report("model", self.runs, has_failed.into(), &[("operations", self.operations)]);
    }
}

/// How many seeds each set of options has.
fn seeds() -> u64 {
    trust::cases(8, 60, 3000)
}

fn on_sim(name: &str, setup: &Setup) {
    Tally::of(name, seeds(), |seed| {
        let fs = SimFs::new();
        Run::new(World::on_sim(setup, &fs), Some(fs), seed).finish(1000);
        1000
    });
}

fn on_disk(name: &str, setup: &Setup) {
    Tally::of(name, seeds() / 4, |seed| {
        let dir = tempfile::tempdir().unwrap();
        let world = World::new(setup, Arc::new(StdFs), Path::new(dir.path()));
        Run::new(world, None, seed).finish(300);
        300
    });
}

fn small(change: impl FnOnce(&mut Setup)) -> Setup {
    let mut setup = Setup::small();
    change(&mut setup);
    setup
}

#[test]
fn defaults() {
    on_sim("defaults", &Setup::small());
}

#[test]
fn pread_and_verify_always() {
    let setup = small(|setup| {
        setup.db.read_mode = ReadMode::Pread;
        setup.db.verify = Verify::Always;
        setup.db.cache_bytes = 4096;
        setup.keyspace.compression = vec![Compression::Snap];
    });
    on_sim("pread, verify always, snap", &setup);
}

#[test]
fn no_cache_and_few_open_tables() {
    let setup = small(|setup| {
        setup.db.cache_bytes = 0;
        setup.db.open_tables_max = 16;
        setup.keyspace.memtable_bytes = 4 << 10;
        setup.keyspace.table_bytes = 4 << 10;
        setup.keyspace.compression = vec![Compression::None, Compression::Snap, Compression::Zstd];
    });
    on_sim("no cache, 16 open tables, compression by level", &setup);
}

#[test]
fn large_blocks_without_filters() {
    let setup = small(|setup| {
        setup.keyspace.block_bytes = 64 << 10;
        setup.keyspace.filter_bits = vec![0.0];
        setup.keyspace.compression = vec![Compression::Zstd];
        setup.db.read_mode = ReadMode::Pread;
    });
    on_sim("large blocks, no filters, zstd", &setup);
}

#[test]
fn many_memtables_and_runs() {
    let setup = small(|setup| {
        setup.keyspace.memtables_max = 5;
        setup.keyspace.memtable_bytes = 4 << 10;
        setup.keyspace.compaction = Leveled { l0_runs: 6, base_bytes: 64 << 10, fanout: 2 }.into();
        setup.db.wal_mode = WalMode::Write;
    });
    on_sim("many memtables and runs", &setup);
}

#[test]
fn size_tiered() {
    let tiered =
        SizeTiered { merge_width: 3, size_slack_percent: 50, runs_max: 5, space_percent_max: 100 };
    let setup = small(|setup| setup.keyspace.compaction = tiered.into());
    on_sim("size-tiered", &setup);
    let setup = small(|setup| {
        setup.keyspace.compaction = tiered.into();
        setup.keyspace.memtable_bytes = 4 << 10;
        setup.keyspace.table_bytes = 4 << 10;
        setup.db.background_threads = 3;
    });
    on_sim("size-tiered, three threads", &setup);
}

#[test]
fn lazy_leveled() {
    let lazy = LazyLeveled { runs_per_level: 3, last_level_fanout: 2 };
    let setup = small(|setup| setup.keyspace.compaction = lazy.into());
    on_sim("lazy-leveled", &setup);
    let setup = small(|setup| {
        setup.keyspace.compaction = lazy.into();
        setup.keyspace.memtable_bytes = 4 << 10;
        setup.keyspace.table_bytes = 4 << 10;
        setup.db.background_threads = 3;
    });
    on_sim("lazy-leveled, three threads", &setup);
}

/// Nothing is dropped as long as everything fits.
#[test]
fn fifo() {
    let setup = small(|setup| {
        setup.keyspace.compaction = Fifo { merge_runs: 3, ..ROOMY }.into();
    });
    on_sim("fifo", &setup);
    let setup = small(|setup| {
        setup.keyspace.compaction = ROOMY.into();
        setup.keyspace.memtable_bytes = 4 << 10;
        setup.db.background_threads = 3;
    });
    on_sim("fifo, three threads", &setup);
}

/// Keeps everything that these tests write.
const ROOMY: Fifo = Fifo { total_bytes_max: 1 << 40, age_max_s: 0, merge_runs: 0 };

/// The clock of these tests goes on by ten milliseconds with each look, so a window is about a hundred writes.
#[test]
fn time_window() {
    let windows = TimeWindow { window_s: 1, merge_width: 3 };
    let setup = small(|setup| setup.keyspace.compaction = windows.into());
    on_sim("time-window", &setup);
    let setup = small(|setup| {
        setup.keyspace.compaction = windows.into();
        setup.keyspace.memtable_bytes = 4 << 10;
        setup.keyspace.table_bytes = 4 << 10;
        setup.db.background_threads = 3;
    });
    on_sim("time-window, three threads", &setup);
}

/// Every strategy takes over what another one left, again and again.
#[test]
fn strategies_that_take_turns() {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 4 << 10;
    take_turns("strategies that take turns", &setup, &strategies());
}

/// Every strategy, small.
fn strategies() -> Vec<Compaction> {
    vec![
        Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 }.into(),
        SizeTiered { merge_width: 3, size_slack_percent: 50, runs_max: 5, space_percent_max: 100 }
            .into(),
        LazyLeveled { runs_per_level: 3, last_level_fanout: 2 }.into(),
        Fifo { merge_runs: 4, ..ROOMY }.into(),
        TimeWindow { window_s: 1, merge_width: 3 }.into(),
    ]
}

/// A small setup in which time passes only when the test says so.
fn expiring(change: impl FnOnce(&mut Setup)) -> Setup {
    small(|setup| {
        setup.clock = Some(Arc::new(ManualClock::at_unix_ms(1_700_000_000_000)));
        setup.keyspace.memtable_bytes = 4 << 10;
        setup.keyspace.table_bytes = 4 << 10;
        change(setup);
    })
}

#[test]
fn entries_that_expire() {
    for strategy in strategies() {
        let name = format!("expiry, {}", strategy.name());
        on_sim(&name, &expiring(|setup| setup.keyspace.compaction = strategy));
    }
    take_turns("expiry, strategies that take turns", &expiring(|_| ()), &strategies());
}

#[test]
fn entries_that_expire_by_default() {
    on_sim("default time to live", &expiring(|setup| setup.keyspace.default_ttl_s = 30));
    let setup = expiring(|setup| {
        setup.keyspace.default_ttl_s = 60;
        setup.db.background_threads = 3;
        setup.db.read_mode = ReadMode::Pread;
    });
    on_sim("default time to live, three threads, pread", &setup);
}

/// Trees large enough for merges of eight tables and more, entries that expire among them.
fn on_large_trees(name: &str, setup: &Setup) {
    Tally::of(name, seeds() / 4, |seed| {
        let fs = SimFs::new();
        let mut run = Run::new(World::on_sim(setup, &fs), Some(fs), seed);
        (run.generator.keys, run.generator.value_bytes) = (400, 300);
        run.strategies = vec![setup.keyspace.compaction.clone()];
        run.finish(600);
        600
    });
}

/// Merges that are installed in slices, and crashes that leave parts of tables behind.
#[test]
fn merges_in_slices() {
    for strategy in strategies() {
        let name = format!("slices, {}", strategy.name());
        let mut setup = expiring(|setup| setup.keyspace.compaction = strategy);
        setup.keyspace.compression = vec![Compression::None];
        let slices = Arc::new(AtomicU64::new(0));
        setup.slices = Some(Arc::clone(&slices));
        on_large_trees(&name, &setup);
        let count = slices.load(Ordering::Relaxed);
        assert!(count > 0, "{name}: no merge was sliced");
    }
}

/// With idle threads, merges of eight tables and more are split into subcompactions.
#[test]
fn merges_in_subcompactions() {
    for strategy in strategies() {
        let name = format!("subcompactions, {}", strategy.name());
        let mut setup = expiring(|setup| setup.keyspace.compaction = strategy);
        setup.keyspace.compression = vec![Compression::None];
        setup.db.background_threads = 4;
        on_large_trees(&name, &setup);
    }
}

fn take_turns(name: &str, setup: &Setup, strategies: &[Compaction]) {
    Tally::of(name, seeds(), |seed| {
        let fs = SimFs::new();
        let mut run = Run::new(World::on_sim(setup, &fs), Some(fs), seed);
        run.strategies = strategies.to_vec();
        for _ in 0..20 {
            run.apply(&Op::Reopen);
            for _ in 0..60 {
                run.step();
            }
        }
        run.finish(60);
        1260
    });
}

#[test]
fn one_background_thread() {
    on_sim("one thread", &small(|setup| setup.db.background_threads = 1));
}

#[test]
fn three_background_threads() {
    let setup = small(|setup| {
        setup.db.background_threads = 3;
        setup.keyspace.memtables_max = 3;
        setup.keyspace.memtable_bytes = 4 << 10;
    });
    on_sim("three threads", &setup);
}

#[test]
fn on_the_real_file_system() {
    on_disk("disk, map", &Setup::small());
    let setup = small(|setup| {
        setup.db.background_threads = 2;
        setup.db.read_mode = ReadMode::Pread;
        setup.db.wal_mode = WalMode::Write;
        setup.keyspace.compression = vec![Compression::Snap];
    });
    on_disk("disk, pread, two threads", &setup);
}
