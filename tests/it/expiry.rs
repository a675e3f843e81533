//! Entries that expire: what readers see, what merges do with them, and what happens in a database that nobody uses.
//!
//! Time is a clock that the test sets, forward and back. Random operations with expiry stand in [`super::model`].

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use esker::clock::Clock;
use esker::fs::sim_fs::SimFs;
use esker::{
    Compaction, Db, DbBuilder, ErrorKind, Fifo, Keyspace, KeyspaceOptions, LazyLeveled, Leveled,
    SizeTiered, TimeWindow, WriteBatch, WriteOptions,
};

use crate::support::{DIR, Setup};

const START_MS: u64 = 1_700_000_000_000;
const SECOND: Duration = Duration::from_secs(1);

/// A clock that stands where it was put, and counts how often somebody looked at the wall clock.
#[derive(Debug, Default)]
struct SetClock {
    ms: AtomicU64,
    looks: AtomicU64,
}

impl SetClock {
    fn go_to_s(&self, seconds: u64) {
        self.ms.store(START_MS + 1000 * seconds, Ordering::Relaxed);
    }

    fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }
}

impl Clock for SetClock {
    fn unix_ms(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.ms.load(Ordering::Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        0
    }
}

/// A database without threads on a simulated disk.
struct World {
    fs: SimFs,
    clock: Arc<SetClock>,
    setup: Setup,
    db: Db,
}

impl World {
    fn new(compaction: impl Into<Compaction>) -> Self {
        let mut setup = Setup::small();
        setup.keyspace.compaction = compaction.into();
        World::with(setup)
    }

    fn with(setup: Setup) -> Self {
        let (fs, clock) = (SimFs::new(), Arc::new(SetClock::default()));
        clock.go_to_s(0);
        let db = builder(&setup, &fs, &clock).open(DIR).unwrap();
        World { fs, clock, setup, db }
    }

    fn reopen(self) -> Self {
        let World { fs, clock, setup, db } = self;
        db.close().unwrap();
        let db = builder(&setup, &fs, &clock).open(DIR).unwrap();
        World { fs, clock, setup, db }
    }

    fn tables(&self) -> u64 {
        let metrics = self.db.metrics();
        metrics.keyspaces.iter().flat_map(|k| &k.levels).map(|level| level.tables).sum()
    }

    fn entries(&self) -> u64 {
        let metrics = self.db.metrics();
        metrics.keyspaces.iter().flat_map(|k| &k.levels).map(|level| level.entries).sum()
    }
}

fn builder(setup: &Setup, fs: &SimFs, clock: &Arc<SetClock>) -> DbBuilder {
    Db::builder()
        .options(setup.db.clone())
        .default_keyspace(setup.keyspace.clone())
        .file_system(Arc::new(fs.clone()))
        .clock(Arc::clone(clock) as Arc<dyn Clock>)
}

/// Every built-in strategy, none of which drops anything else here.
fn strategies() -> Vec<Compaction> {
    let fifo = Fifo { total_bytes_max: 1 << 40, age_max_s: 0, merge_runs: 2 };
    vec![
        Leveled::default().into(),
        SizeTiered::default().into(),
        LazyLeveled::default().into(),
        fifo.into(),
        TimeWindow { window_s: 20, merge_width: 2 }.into(),
    ]
}

/// What a keyspace holds, as `key=value` words, read in every way.
fn seen(keyspace: &Keyspace) -> String {
    let word =
        |key: &[u8], value: &[u8]| format!("{}={}", key.escape_ascii(), value.escape_ascii());
    let forward: Vec<String> =
        keyspace.iter().map(|item| item.map(|(key, value)| word(&key, &value)).unwrap()).collect();
    let mut backward: Vec<String> = keyspace
        .iter()
        .rev()
        .map(|item| item.map(|(key, value)| word(&key, &value)).unwrap())
        .collect();
    backward.reverse();
    assert_eq!(forward, backward);
    let mut cursor = keyspace.cursor();
    let mut lent = Vec::new();
    cursor.seek_to_first().unwrap();
    while cursor.valid() {
        lent.push(word(cursor.key(), cursor.value()));
        assert_eq!(cursor.pin_value(), cursor.value());
        cursor.next().unwrap();
    }
    assert_eq!(forward, lent);
    let keys = ["a", "b", "c", "d", "e"];
    let got = keyspace.multi_get(&keys).unwrap();
    let mut by_key = Vec::new();
    for (key, value) in keys.iter().zip(got) {
        assert_eq!(keyspace.get(key).unwrap(), value);
        assert_eq!(keyspace.contains_key(key).unwrap(), value.is_some());
        by_key.extend(value.map(|value| word(key.as_bytes(), &value)));
    }
    assert_eq!(forward, by_key, "the tests use the keys a to e");
    forward.join(" ")
}

#[test]
fn an_entry_is_there_until_its_moment_and_hides_what_is_older() {
    for strategy in strategies() {
        let mut world = World::new(strategy.clone());
        world.db.put("a", "old").unwrap();
        world.db.put("b", "stays").unwrap();
        world.db.flush().unwrap();
        world.db.put_with_ttl("a", "new", 10 * SECOND).unwrap();
        world.db.put_with_ttl("c", "", 20 * SECOND).unwrap();
        let before = "a=new b=stays c=";
        let after = "b=stays c=";
        let at = |world: &World, seconds, expected: &str| {
            world.clock.go_to_s(seconds);
            assert_eq!(seen(world.db.default_keyspace()), expected, "{seconds} s, {strategy:?}");
        };
        // In memory, in tables, merged, after reopening from the log and from tables.
        at(&world, 9, before);
        at(&world, 10, after);
        at(&world, 0, before);
        world = world.reopen();
        at(&world, 9, before);
        at(&world, 10, after);
        at(&world, 0, before);
        world.db.flush().unwrap();
        at(&world, 9, before);
        at(&world, 10, after);
        at(&world, 0, before);
        world.db.compact_range::<&[u8]>(..).unwrap();
        at(&world, 9, before);
        at(&world, 10, after);
        world.db.compact_range::<&[u8]>(..).unwrap();
        assert_eq!(world.entries(), 2, "what has expired is gone at the bottom");
        at(&world, 0, after);
        at(&world, 20, "b=stays");
        world.db.put("c", "again").unwrap();
        at(&world, 99, "b=stays c=again");
        assert!(world.db.verify().unwrap().is_ok());
    }
}

#[test]
fn an_expired_entry_is_flushed_as_a_tombstone() {
    let world = World::new(Leveled::default());
    world.db.put("a", "old").unwrap();
    world.db.flush().unwrap();
    world.db.put_with_ttl("a", "new", SECOND).unwrap();
    world.db.put("b", "1").unwrap();
    world.clock.go_to_s(1);
    world.db.flush().unwrap();
    // Even if the clock goes back: the old value does not come back.
    world.clock.go_to_s(0);
    assert_eq!(seen(world.db.default_keyspace()), "b=1");
    world.db.compact_range::<&[u8]>(..).unwrap();
    assert_eq!(seen(world.db.default_keyspace()), "b=1");
    assert_eq!(world.entries(), 1);
}

#[test]
fn times_to_live_at_their_ends() {
    let world = World::new(Leveled::default());
    let refused = world.db.put_with_ttl("a", "1", Duration::ZERO).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument, "{refused}");
    let mut batch = WriteBatch::new();
    batch.put("b", "1").put_with_ttl("a", "1", Duration::ZERO);
    assert_eq!(world.db.write(batch).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(seen(world.db.default_keyspace()), "", "nothing of it was written");
    world.db.put_with_ttl("a", "never", Duration::MAX).unwrap();
    world.db.put_with_ttl("b", "long", Duration::from_secs(u64::MAX / 1000)).unwrap();
    world.db.put_with_ttl("c", "short", Duration::from_nanos(1)).unwrap();
    assert_eq!(seen(world.db.default_keyspace()), "a=never b=long c=short", "rounded up");
    world.clock.ms.store(u64::MAX, Ordering::Relaxed);
    assert_eq!(seen(world.db.default_keyspace()), "a=never b=long");
    world.db.flush().unwrap();
    world.db.compact_range::<&[u8]>(..).unwrap();
    assert_eq!(seen(world.db.default_keyspace()), "a=never b=long");
}

#[test]
fn a_batch_lives_from_when_it_was_written() {
    let world = World::new(Leveled::default());
    let other = world.db.keyspace("other", world.setup.keyspace.clone()).unwrap();
    let mut batch = WriteBatch::new();
    batch.put_with_ttl("a", "1", 10 * SECOND).put("b", "2");
    batch.put_in_with_ttl(&other, "c", "3", 5 * SECOND);
    world.clock.go_to_s(100);
    world.db.write_with(batch, &WriteOptions::SYNC).unwrap();
    assert_eq!(seen(&other), "c=3");
    world.clock.go_to_s(105);
    assert_eq!(seen(&other), "");
    assert_eq!(seen(world.db.default_keyspace()), "a=1 b=2");
    world.clock.go_to_s(110);
    assert_eq!(seen(world.db.default_keyspace()), "b=2");
}

#[test]
fn a_keyspace_gives_plain_puts_a_time_to_live() {
    let world = World::new(Leveled::default());
    let options = KeyspaceOptions { default_ttl_s: 10, ..world.setup.keyspace.clone() };
    let cache = world.db.keyspace("cache", options.clone()).unwrap();
    cache.put("a", "1").unwrap();
    cache.put_with_ttl("b", "2", 20 * SECOND).unwrap();
    let mut batch = WriteBatch::new();
    batch.put("a", "of default").put_in(&cache, "c", "3").put_in(&cache, "d", "4");
    batch.put_in_with_ttl(&cache, "e", "5", 5 * SECOND).delete_in(&cache, "d");
    world.db.write(batch).unwrap();
    assert_eq!(seen(&cache), "a=1 b=2 c=3 e=5");
    world.clock.go_to_s(5);
    assert_eq!(seen(&cache), "a=1 b=2 c=3");
    cache.put("d", "later").unwrap();
    world.clock.go_to_s(10);
    assert_eq!(seen(&cache), "b=2 d=later");
    assert_eq!(seen(world.db.default_keyspace()), "a=of default");
    // A change holds for what is written from then on, and for ever.
    let options = KeyspaceOptions { default_ttl_s: 1, ..options };
    world.db.keyspace("cache", options).unwrap();
    let world = world.reopen();
    let cache = world.db.open_keyspace("cache").unwrap().unwrap();
    cache.put("c", "short").unwrap();
    assert_eq!(seen(&cache), "b=2 c=short d=later");
    world.clock.go_to_s(11);
    assert_eq!(seen(&cache), "b=2 d=later");
    world.clock.go_to_s(u64::from(u32::MAX));
    assert_eq!(seen(&cache), "");
    assert_eq!(seen(world.db.default_keyspace()), "a=of default");
}

#[test]
fn snapshots_do_not_see_what_has_expired_but_keep_what_is_older() {
    let world = World::new(Leveled::default());
    world.db.put("a", "old").unwrap();
    let before = world.db.snapshot();
    world.db.put_with_ttl("a", "new", 10 * SECOND).unwrap();
    let after = world.db.snapshot();
    let value = |snapshot: &esker::Snapshot| snapshot.get("a").unwrap().map(|v| v.to_vec());
    world.clock.go_to_s(9);
    assert_eq!(value(&after).as_deref(), Some(&b"new"[..]));
    world.clock.go_to_s(10);
    for _ in 0..2 {
        assert_eq!(value(&before).as_deref(), Some(&b"old"[..]));
        assert_eq!(value(&after), None, "expiry goes by the clock of the read");
        assert_eq!(seen(world.db.default_keyspace()), "");
        world.db.compact_range::<&[u8]>(..).unwrap();
    }
    drop((before, after));
    world.db.compact_range::<&[u8]>(..).unwrap();
    assert_eq!(world.entries(), 0);
}

#[test]
fn an_iterator_reads_the_clock_once() {
    for flushed in [false, true] {
        let world = World::new(Leveled::default());
        for key in ["a", "b", "c", "d"] {
            world.db.put_with_ttl(key, key, 10 * SECOND).unwrap();
        }
        if flushed {
            world.db.flush().unwrap();
        }
        let mut iter = world.db.iter();
        let mut cursor = world.db.cursor();
        let key = |item: Option<esker::Result<(Vec<u8>, esker::Value)>>| {
            item.map(|item| String::from_utf8(item.unwrap().0).unwrap())
        };
        assert_eq!(key(iter.next()).as_deref(), Some("a"));
        cursor.seek("c").unwrap();
        world.clock.go_to_s(10);
        assert_eq!(key(iter.next_back()).as_deref(), Some("d"), "both ends by one time");
        assert_eq!(key(iter.next()).as_deref(), Some("b"));
        assert_eq!(key(iter.next_back()).as_deref(), Some("c"));
        assert_eq!(key(iter.next()), None);
        cursor.prev().unwrap();
        assert_eq!((cursor.key(), cursor.value()), (&b"b"[..], &b"b"[..]));
        assert!(world.db.iter().next().is_none());
        assert!(world.db.iter().next_back().is_none());
    }
}

#[test]
fn reads_of_what_never_expires_do_not_look_at_the_clock() {
    let world = World::new(Leveled::default());
    world.db.put("a", "1").unwrap();
    world.db.put("b", "2").unwrap();
    world.db.put_with_ttl("c", "3", SECOND).unwrap();
    let looks = world.clock.looks();
    assert!(world.db.get("a").unwrap().is_some());
    assert!(world.db.get("x").unwrap().is_none());
    assert_eq!(world.db.range("a".."b").count(), 1);
    assert_eq!(world.clock.looks(), looks);
    assert!(world.db.get("c").unwrap().is_some());
    assert_eq!(world.clock.looks(), looks + 1);
    assert!(world.db.multi_get(&["c", "b", "c"]).unwrap().iter().all(Option::is_some));
    assert_eq!(world.clock.looks(), looks + 2, "once for all keys");
}

#[test]
fn the_time_of_expiry_is_not_counted_as_the_users_bytes() {
    let world = World::new(Leveled::default());
    world.db.put_with_ttl("key", "value", SECOND).unwrap();
    let metrics = world.db.metrics();
    assert_eq!((metrics.user_bytes_written, metrics.live_bytes_estimate), (8, 8));
    world.db.flush().unwrap();
    assert_eq!(world.db.metrics().live_bytes_estimate, 8);
}

#[test]
fn tables_that_have_expired_go_without_being_read() {
    for strategy in strategies() {
        let world = World::new(strategy.clone());
        for round in 0..3 {
            for key in 0..50 {
                let key = format!("{key:03}");
                world.db.put_with_ttl(key, vec![round; 100], 60 * SECOND).unwrap();
            }
            world.db.flush().unwrap();
        }
        let read = world.db.metrics().compaction_bytes_read;
        assert!(world.tables() > 0);
        world.clock.go_to_s(59);
        world.db.flush().unwrap();
        assert!(world.tables() > 0, "{strategy:?}");
        world.clock.go_to_s(60);
        // Nothing was written and no tree changed: it is due by time alone.
        world.db.flush().unwrap();
        assert_eq!(world.tables(), 0, "{strategy:?}");
        assert_eq!(world.db.metrics().compaction_bytes_read, read, "{strategy:?}");
        let files = world.fs.list_dir(DIR);
        assert!(!files.iter().any(|name| name.contains(".table")), "{files:?}");
        assert!(world.db.verify().unwrap().is_ok());
    }
}

#[test]
fn a_time_series_is_sealed_and_expires_window_by_window() {
    let mut setup = Setup::small();
    setup.keyspace.compaction = TimeWindow { window_s: 20, merge_width: 4 }.into();
    setup.keyspace.default_ttl_s = 100;
    let world = World::with(setup);
    let runs = |level: usize| world.db.metrics().keyspaces[0].levels[level].runs;
    for second in 0..200_u64 {
        world.clock.go_to_s(second);
        for source in 0..10 {
            world.db.put(format!("{source}-{second:03}"), [0; 100]).unwrap();
        }
        world.db.flush().unwrap();
        assert_eq!(world.db.iter().count() as u64, 10 * (second + 1).min(100));
        let expired = (second + 1).saturating_sub(100) / 20;
        assert_eq!(runs(6), second / 20 - expired, "second {second}");
        // In its second half a window has up to seven runs of one flush, and two of four.
        assert!(runs(0) <= 7 + 2, "{} runs", runs(0));
        // What lives, what expired of one window, and nothing else.
        assert!(world.entries() <= 10 * (100 + 20), "{} entries", world.entries());
    }
    let written = world.db.metrics().compaction_bytes_written;
    assert!(written <= 3 * world.db.metrics().flush_bytes, "each window is sealed once");
    for (second, sealed) in [(200, 5), (219, 4), (238, 4), (239, 3), (298, 1), (299, 0)] {
        world.clock.go_to_s(second);
        // Nobody writes: it is due by time alone.
        world.db.flush().unwrap();
        assert_eq!(runs(6), sealed, "second {second}");
    }
    assert_eq!(world.tables(), 0);
    assert!(world.db.verify().unwrap().is_ok());
}

#[test]
fn an_expired_table_stays_while_it_hides_something() {
    let world = World::new(Fifo { total_bytes_max: 1 << 40, age_max_s: 0, merge_runs: 0 });
    world.db.put("a", "old").unwrap();
    world.db.flush().unwrap();
    world.db.put_with_ttl("a", "new", SECOND).unwrap();
    world.db.put_with_ttl("c", "new", SECOND).unwrap();
    world.db.flush().unwrap();
    world.db.put_with_ttl("d", "apart", SECOND).unwrap();
    world.db.flush().unwrap();
    assert_eq!(world.tables(), 3);
    world.clock.go_to_s(1);
    world.db.flush().unwrap();
    assert_eq!(world.tables(), 2, "the one with d goes");
    assert_eq!(seen(world.db.default_keyspace()), "");
    world.clock.go_to_s(0);
    assert_eq!(seen(world.db.default_keyspace()), "a=new c=new", "nothing was lost early");
}

#[test]
fn age_drops_tables_of_a_database_that_nobody_writes_to() {
    let world = World::new(Fifo { age_max_s: 10, ..Fifo::default() });
    world.db.put("a", "1").unwrap();
    world.db.flush().unwrap();
    world.clock.go_to_s(10);
    world.db.flush().unwrap();
    assert_eq!(world.tables(), 1, "not older than 10 s yet");
    world.clock.go_to_s(11);
    world.db.flush().unwrap();
    assert_eq!(world.tables(), 0);
}

#[test]
fn what_expired_while_the_database_was_closed_goes_at_the_next_work() {
    let mut world = World::new(Leveled::default());
    world.db.put_with_ttl("a", "1", 10 * SECOND).unwrap();
    world.db.flush().unwrap();
    world.clock.go_to_s(5);
    world = world.reopen();
    world.db.flush().unwrap();
    assert_eq!(world.tables(), 1);
    world.clock.go_to_s(10);
    world = world.reopen();
    world.db.flush().unwrap();
    assert_eq!(world.tables(), 0);
}

/// On the real clock: the timer has an idle database drop what has expired. It waits for that, however long it takes;
/// a minute means that it never comes.
#[test]
fn threads_drop_what_expires_in_an_idle_database() {
    let dir = tempfile::tempdir().unwrap();
    for threads in [1, 2, 3] {
        let mut setup = Setup::small();
        setup.db.background_threads = threads;
        let db = Db::builder()
            .options(setup.db)
            .default_keyspace(setup.keyspace)
            .open(Path::new(dir.path()))
            .unwrap();
        db.put_with_ttl("a", "1", Duration::from_millis(50)).unwrap();
        db.flush().unwrap();
        let start = Instant::now();
        while db.metrics().table_bytes > 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "nobody dropped it");
            std::thread::yield_now();
        }
        assert!(db.get("a").unwrap().is_none());
        db.close().unwrap();
    }
}
