//! Concurrent histories: what several threads saw at once fits one order of the operations.
//!
//! Threads put, delete, write batches over keyspaces, get, scan, walk, and take snapshots that all of them read,
//! while flushes and compactions run beside them and file operations give way to other threads at random. Each
//! operation notes when it began and ended, by one counter. Between two phases the database is reopened, killed or
//! loses power. Then [`check`] looks for an order of all operations that explains everything that was read:
//! * it respects real time: what ended before another began stands before it;
//! * a batch takes effect at once, and each read, of however many keys, is one moment;
//! * all reads through a snapshot, by any thread and at any time, are one read at the moment of its making, and so are
//!   those of an iterator or a cursor.
//!
//! This is strict serializability. It implies that each key alone is linearizable, that a snapshot never sees half a
//! batch, and that of two snapshots one is the older in everything.
//!
//! # The checker
//! A depth-first search over orders, as Wing and Gong's, with memory of the states it has been in. A read that may
//! come next and fits is taken at once: reads change nothing, so if any order is left, one with the read here is.
//! Only writes branch. Values are unique, the threads are few, so states are few too. It is exact: it finds an order
//! if there is one, and a test compares it with trying all orders.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use esker::fs::sim_fs::{Persist, SimFs};
use esker::{
    Db, Durability, Keyspace, LazyLeveled, Leveled, SizeTiered, Snapshot, WalMode, WriteBatch,
    WriteOptions,
};

use crate::concurrency::guarded;
use crate::support::{Rng, Setup};
use crate::trust;

/// Keys of a history, in turns in one keyspace and the other.
const KEYS: usize = 6;
const KEYSPACES: [&str; 2] = ["default", "logs"];
/// Threads that are recorded.
const LANES: usize = 3;
/// Operations of each thread in each phase.
const LANE_LEN: u64 = 30;
const PHASES: u64 = 3;

type KeyIndex = usize;
/// The number of the write that left it; `None`: there was nothing.
type Seen = Option<u64>;

/// What an operation did, all of it at one moment between its beginning and its end.
#[derive(Clone, Debug, PartialEq)]
enum What {
    Write(Vec<(KeyIndex, Seen)>),
    Read(Vec<(KeyIndex, Seen)>),
}

#[derive(Clone, Debug)]
struct Event {
    lane: usize,
    begin: u64,
    end: u64,
    what: What,
}

/// Which events of each lane stand in the order already, and what the keys hold then.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Front {
    done: Vec<usize>,
    values: Vec<Seen>,
}

/// The search for an order.
struct Search<'a> {
    lanes: Vec<Vec<&'a Event>>,
    been: HashSet<Front>,
    furthest: Option<Front>,
}

impl<'a> Search<'a> {
    fn new(events: &'a [Event]) -> Self {
        let count = events.iter().map(|event| event.lane + 1).max().unwrap_or(0);
        let mut lanes: Vec<Vec<&Event>> = vec![Vec::new(); count];
        for event in events {
            assert!(event.begin < event.end, "an operation that ends before it begins");
            lanes[event.lane].push(event);
        }
        for lane in &mut lanes {
            lane.sort_by_key(|event| event.begin);
            assert!(lane.is_sorted_by(|a, b| a.end < b.begin), "a thread does two things at once");
        }
        Search { lanes, been: HashSet::new(), furthest: None }
    }

    /// The events that may come next: nothing that is left ended before they began.
    fn candidates(&self, front: &Front) -> Vec<&'a Event> {
        let heads = self.lanes.iter().zip(&front.done).filter_map(|(lane, done)| lane.get(*done));
        let heads: Vec<&Event> = heads.copied().collect();
        let first_end = heads.iter().map(|event| event.end).min().unwrap_or(0);
        heads.into_iter().filter(|event| event.begin < first_end).collect()
    }

    fn take_reads(&self, front: &mut Front) {
        loop {
            let fits = |event: &&Event| match &event.what {
                What::Read(pairs) => pairs.iter().all(|(key, seen)| front.values[*key] == *seen),
                What::Write(_) => false,
            };
            let Some(read) = self.candidates(front).into_iter().find(fits) else { return };
            front.done[read.lane] += 1;
        }
    }

    fn is_serializable(&mut self, key_count: usize) -> bool {
        let start = Front { done: vec![0; self.lanes.len()], values: vec![None; key_count] };
        let mut stack = vec![start];
        while let Some(mut front) = stack.pop() {
            self.take_reads(&mut front);
            let candidates = self.candidates(&front);
            if candidates.is_empty() {
                return true;
            }
            if !self.been.insert(front.clone()) {
                continue;
            }
            let length = |front: &Front| front.done.iter().sum::<usize>();
            if self.furthest.as_ref().is_none_or(|furthest| length(furthest) < length(&front)) {
                self.furthest = Some(front.clone());
            }
            for event in candidates {
                if let What::Write(pairs) = &event.what {
                    let mut next = front.clone();
                    next.done[event.lane] += 1;
                    for (key, value) in pairs {
                        next.values[*key] = *value;
                    }
                    stack.push(next);
                }
            }
        }
        false
    }

    /// Where the search came furthest: the next events of each thread, and what the keys held.
    fn impasse(&self) -> String {
        let Some(front) = &self.furthest else { return "nothing fits".to_owned() };
        let mut text =
            format!("after {:?} operations the keys hold {:?}", front.done, front.values);
        for (lane, done) in self.lanes.iter().zip(&front.done) {
            let first = done.saturating_sub(3);
            for (at, event) in lane.iter().enumerate().skip(first).take(6) {
                let mark = if at < *done { "in order" } else { "left" };
                let _ = write!(text, "\n  {mark} {event:?}");
            }
        }
        text
    }
}

/// The events as the one key sees them.
fn of_key(events: &[Event], key: KeyIndex) -> Vec<Event> {
    let one = |pairs: &[(KeyIndex, Seen)]| -> Vec<(KeyIndex, Seen)> {
        pairs.iter().filter(|pair| pair.0 == key).copied().collect()
    };
    let mut events = events.to_vec();
    for event in &mut events {
        event.what = match &event.what {
            What::Write(pairs) => What::Write(one(pairs)),
            What::Read(pairs) => What::Read(one(pairs)),
        };
    }
    events
}

/// Whether some order of `events` explains what they read; if not, says what is wrong.
fn check(events: &[Event], key_count: usize) -> Result<(), String> {
    let mut search = Search::new(events);
    if search.is_serializable(key_count) {
        return Ok(());
    }
    for key in 0..key_count {
        let events = of_key(events, key);
        let mut search = Search::new(&events);
        if !search.is_serializable(key_count) {
            return Err(format!("key {key} is not linearizable: {}", search.impasse()));
        }
    }
    Err(format!("each key alone is right, but not together: {}", search.impasse()))
}

/// A snapshot that all threads read, and what they saw.
struct Shared {
    /// One for each keyspace.
    of: Vec<Snapshot>,
    made: Event,
    seen: Mutex<Vec<(KeyIndex, Seen)>>,
}

/// What the threads of a history share.
struct Recorder {
    /// The counter that orders everything. It is not a clock.
    tick: AtomicU64,
    written: AtomicU64,
    snapshots: Mutex<Vec<Arc<Shared>>>,
    events: Mutex<Vec<Event>>,
}

impl Recorder {
    fn new() -> Self {
        Recorder {
            tick: AtomicU64::new(0),
            written: AtomicU64::new(0),
            snapshots: Mutex::default(),
            events: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        self.tick.fetch_add(1, Ordering::SeqCst)
    }

    /// Lets go of the snapshot and keeps what was seen in it.
    fn settle(&self, shared: &Shared) {
        let mut event = shared.made.clone();
        event.what = What::Read(std::mem::take(&mut *shared.seen.lock().unwrap()));
        self.events.lock().unwrap().push(event);
    }

    fn settle_all(&self) {
        for shared in std::mem::take(&mut *self.snapshots.lock().unwrap()) {
            self.settle(&shared);
        }
    }
}

fn key_bytes(key: KeyIndex) -> Vec<u8> {
    format!("key {key}").into_bytes()
}

fn key_index(bytes: &[u8]) -> KeyIndex {
    usize::from(bytes[4] - b'0')
}

fn value_bytes(number: u64) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(30 + (number * 37 % 300) as usize, number as u8);
    value
}

fn number_of(value: &[u8]) -> u64 {
    let number = u64::from_le_bytes(value[..8].try_into().unwrap());
    assert_eq!(value, value_bytes(number), "a torn value");
    number
}

/// A thread of a history.
struct Lane<'a> {
    number: usize,
    recorder: &'a Recorder,
    db: &'a Db,
    keyspaces: Vec<Keyspace>,
    durabilities: &'a [Durability],
    rng: Rng,
    events: Vec<Event>,
}

impl<'a> Lane<'a> {
    fn new(
        number: usize,
        recorder: &'a Recorder,
        db: &'a Db,
        durabilities: &'a [Durability],
        rng: Rng,
    ) -> Self {
        let keyspaces =
            KEYSPACES.iter().map(|name| db.open_keyspace(name).unwrap().unwrap()).collect();
        Lane { number, recorder, db, keyspaces, durabilities, rng, events: Vec::new() }
    }

    fn event(&mut self, begin: u64, end: u64, what: What) {
        self.events.push(Event { lane: self.number, begin, end, what });
    }

    fn keyspace(&self, key: KeyIndex) -> &Keyspace {
        &self.keyspaces[key % KEYSPACES.len()]
    }

    fn key(&mut self) -> KeyIndex {
        self.rng.below(KEYS as u64) as usize
    }

    fn run(mut self) {
        for _ in 0..LANE_LEN {
            if self.rng.percent(30) {
                thread::yield_now();
            }
            match self.rng.below(20) {
                0..8 => self.write(),
                8..12 => self.get(),
                12..14 => self.read_many(),
                14..16 => self.scan(),
                16 => self.take_snapshot(),
                17..19 => self.read_snapshot(),
                _ => self.hold_iterator(),
            }
        }
        self.recorder.events.lock().unwrap().append(&mut self.events);
    }

    fn write(&mut self) {
        let durability = self.rng.pick(self.durabilities);
        let options = WriteOptions::with_durability(durability);
        let count = if self.rng.percent(40) { 2 + self.rng.below(4) } else { 1 };
        let number = self.recorder.written.fetch_add(1, Ordering::Relaxed) + 1;
        let mut pairs: BTreeMap<KeyIndex, Seen> = BTreeMap::new();
        for _ in 0..count {
            let is_put = self.rng.percent(80);
            pairs.insert(self.key(), is_put.then_some(number));
        }
        let mut batch = WriteBatch::new();
        for (key, seen) in &pairs {
            match seen {
                Some(number) => {
                    batch.put_in(self.keyspace(*key), key_bytes(*key), value_bytes(*number))
                }
                None => batch.delete_in(self.keyspace(*key), key_bytes(*key)),
            };
        }
        let first = pairs.first_key_value().map(|(key, seen)| (*key, *seen)).unwrap();
        let begin = self.recorder.now();
        match first {
            (key, Some(number)) if pairs.len() == 1 => {
                let (keyspace, value) = (self.keyspace(key), value_bytes(number));
                keyspace.put_with(key_bytes(key), value, &options).unwrap();
            }
            _ => self.db.write_with(batch, &options).unwrap(),
        }
        let end = self.recorder.now();
        self.event(begin, end, What::Write(pairs.into_iter().collect()));
    }

    fn get(&mut self) {
        let key = self.key();
        let begin = self.recorder.now();
        let value = self.keyspace(key).get(key_bytes(key)).unwrap();
        let end = self.recorder.now();
        self.event(begin, end, What::Read(vec![(key, value.map(|value| number_of(&value)))]));
    }

    fn read_many(&mut self) {
        let at = self.rng.below(KEYSPACES.len() as u64) as usize;
        let keys: Vec<KeyIndex> = keys_of(at).collect();
        let names: Vec<Vec<u8>> = keys.iter().map(|key| key_bytes(*key)).collect();
        let begin = self.recorder.now();
        let values = self.keyspaces[at].multi_get(&names).unwrap();
        let end = self.recorder.now();
        let seen = values.into_iter().map(|value| value.map(|value| number_of(&value)));
        self.event(begin, end, What::Read(keys.into_iter().zip(seen).collect()));
    }

    fn scan(&mut self) {
        let at = self.rng.below(KEYSPACES.len() as u64) as usize;
        let backward = self.rng.percent(50);
        let begin = self.recorder.now();
        let iter = self.keyspaces[at].iter();
        let found: Vec<_> = if backward { iter.rev().collect() } else { iter.collect() };
        let end = self.recorder.now();
        self.event(begin, end, What::Read(all_seen(at, found.into_iter())));
    }

    /// An iterator or a cursor sees the moment of its making, however late it is read.
    fn hold_iterator(&mut self) {
        let at = self.rng.below(KEYSPACES.len() as u64) as usize;
        if self.rng.percent(50) {
            let begin = self.recorder.now();
            let iter = self.keyspaces[at].iter();
            let end = self.recorder.now();
            self.write();
            thread::yield_now();
            let seen = all_seen(at, iter);
            self.event(begin, end, What::Read(seen));
            return;
        }
        let begin = self.recorder.now();
        let mut cursor = self.keyspaces[at].cursor();
        let end = self.recorder.now();
        self.write();
        let mut found = Vec::new();
        cursor.seek_to_last().unwrap();
        while cursor.valid() {
            found.push(Ok((cursor.key().to_vec(), cursor.pin_value())));
            thread::yield_now();
            cursor.prev().unwrap();
        }
        self.event(begin, end, What::Read(all_seen(at, found.into_iter())));
    }

    fn take_snapshot(&mut self) {
        let begin = self.recorder.now();
        let snapshot = self.db.snapshot();
        let end = self.recorder.now();
        let of = self.keyspaces.iter().map(|keyspace| snapshot.keyspace(keyspace).unwrap());
        let made = Event { lane: self.number, begin, end, what: What::Read(Vec::new()) };
        let shared = Shared { of: of.collect(), made, seen: Mutex::default() };
        let mut snapshots = self.recorder.snapshots.lock().unwrap();
        snapshots.push(Arc::new(shared));
        // One that is let go pins no versions any more; compaction may take them. Another thread may still read it.
        if snapshots.len() > 4 {
            let at = self.rng.below(4) as usize;
            if Arc::strong_count(&snapshots[at]) == 1 {
                let oldest = snapshots.swap_remove(at);
                drop(snapshots);
                self.recorder.settle(&oldest);
            }
        }
    }

    fn read_snapshot(&mut self) {
        let shared = {
            let snapshots = self.recorder.snapshots.lock().unwrap();
            if snapshots.is_empty() {
                return;
            }
            Arc::clone(&snapshots[self.rng.below(snapshots.len() as u64) as usize])
        };
        let at = self.rng.below(KEYSPACES.len() as u64) as usize;
        let seen = if self.rng.percent(50) {
            all_seen(at, shared.of[at].iter())
        } else {
            let key = keys_of(at).nth(self.rng.below(KEYS as u64 / 2) as usize).unwrap();
            let value = shared.of[at].get(key_bytes(key)).unwrap();
            vec![(key, value.map(|value| number_of(&value)))]
        };
        shared.seen.lock().unwrap().extend(seen);
    }
}

/// The keys of a keyspace.
fn keys_of(keyspace: usize) -> impl Iterator<Item = KeyIndex> {
    (0..KEYS).filter(move |key| key % KEYSPACES.len() == keyspace)
}

/// What a scan says of every key of the keyspace.
fn all_seen(
    keyspace: usize,
    items: impl Iterator<Item = esker::Result<(Vec<u8>, esker::Value)>>,
) -> Vec<(KeyIndex, Seen)> {
    let mut seen: BTreeMap<KeyIndex, Seen> = keys_of(keyspace).map(|key| (key, None)).collect();
    for item in items {
        let (key, value) = item.unwrap();
        let before = seen.insert(key_index(&key), Some(number_of(&value)));
        assert_eq!(before, Some(None), "a scan shows a key twice, or one of another keyspace");
    }
    seen.into_iter().collect()
}

/// How a phase ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    GoOn,
    Reopen,
    Kill,
    PowerCut,
}

/// A history under way.
struct Run {
    setup: Setup,
    fs: SimFs,
    rng: Rng,
    recorder: Recorder,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x6869_7374);
        let mut setup = Setup::small();
        setup.db.background_threads = rng.below(4) as usize;
        setup.db.wal_mode = rng.pick(&[WalMode::Map, WalMode::Write]);
        setup.keyspace.memtable_bytes = 4 << 10;
        setup.keyspace.table_bytes = 4 << 10;
        setup.keyspace.memtables_max = rng.pick(&[2, 3]);
        setup.keyspace.compaction = match rng.below(3) {
            0 => Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 }.into(),
            1 => SizeTiered { merge_width: 2, ..SizeTiered::default() }.into(),
            _ => LazyLeveled { runs_per_level: 2, last_level_fanout: 2 }.into(),
        };
        Run { setup, fs: SimFs::new(), rng, recorder: Recorder::new() }
    }

    fn open(&self) -> Db {
        // Whoever uses a file may have to wait for somebody else.
        let count = AtomicU64::new(0);
        self.fs.on_operation(move |_, _| {
            if Rng::new(count.fetch_add(1, Ordering::Relaxed)).percent(25) {
                thread::yield_now();
            }
        });
        let db = self.setup.open_sim(&self.fs).unwrap();
        db.keyspace(KEYSPACES[1], self.setup.keyspace.clone()).unwrap();
        db
    }

    fn finish(mut self) -> Vec<Event> {
        let mut db = self.open();
        for _ in 0..PHASES {
            let endings = [Ending::GoOn, Ending::Reopen, Ending::Kill, Ending::PowerCut];
            let ending = self.rng.pick(&endings);
            self.phase(&db, ending);
            self.recorder.settle_all();
            db = self.end(db, ending);
            self.read_all(&db);
        }
        db.close().unwrap();
        self.recorder.events.into_inner().unwrap()
    }

    fn phase(&mut self, db: &Db, ending: Ending) {
        let mut durabilities = vec![Durability::Buffered, Durability::Sync, Durability::Async];
        if ending == Ending::GoOn || ending == Ending::Reopen {
            durabilities.push(Durability::Disabled);
        }
        let start = Barrier::new(LANES + 1);
        let rngs: Vec<Rng> = (0..=LANES).map(|_| Rng::new(self.rng.next())).collect();
        thread::scope(|scope| {
            for (number, rng) in rngs[..LANES].iter().enumerate() {
                let lane = Lane::new(number, &self.recorder, db, &durabilities, rng.clone());
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    lane.run();
                });
            }
            let (start, mut rng) = (&start, rngs[LANES].clone());
            scope.spawn(move || {
                start.wait();
                for _ in 0..6 {
                    match rng.below(4) {
                        0 => db.sync().unwrap(),
                        1 => db.compact_range::<&[u8]>(..).unwrap(),
                        _ => db.flush().unwrap(),
                    }
                    thread::yield_now();
                }
            });
        });
    }

    fn end(&mut self, db: Db, ending: Ending) -> Db {
        match ending {
            Ending::GoOn => return db,
            Ending::Reopen => db.close().unwrap(),
            Ending::Kill => self.fs = self.fs.kill_clone(),
            Ending::PowerCut => {
                db.sync().unwrap();
                self.fs = self.fs.crash_clone(Persist::Nothing);
            }
        }
        self.open()
    }

    /// One read of everything, of which nothing can be missing.
    fn read_all(&self, db: &Db) {
        let begin = self.recorder.now();
        let snapshot = db.snapshot();
        let mut pairs = Vec::new();
        for (at, name) in KEYSPACES.iter().enumerate() {
            let keyspace = db.open_keyspace(name).unwrap().unwrap();
            pairs.extend(all_seen(at, snapshot.keyspace(&keyspace).unwrap().iter()));
        }
        let end = self.recorder.now();
        let event = Event { lane: LANES, begin, end, what: What::Read(pairs) };
        self.recorder.events.lock().unwrap().push(event);
    }
}

/// Events that overlap one of another thread: a history without any would show nothing.
fn overlapping_count(events: &[Event]) -> u64 {
    let overlaps =
        |a: &Event| events.iter().any(|b| a.lane != b.lane && a.begin < b.end && b.begin < a.end);
    events.iter().filter(|event| overlaps(event)).count() as u64
}

#[test]
fn concurrent_histories_are_serializable_in_real_time() {
    guarded(|| {
        let (count, first) = (trust::cases(10, 500, 20_000), trust::seed() * 1_000_000);
        let next = AtomicU64::new(0);
        let (event_count, overlapping) = (AtomicU64::new(0), AtomicU64::new(0));
        let failures: Mutex<Vec<String>> = Mutex::default();
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                let events = Run::new(first + index).finish();
                event_count.fetch_add(events.len() as u64, Ordering::Relaxed);
                overlapping.fetch_add(overlapping_count(&events), Ordering::Relaxed);
                if let Err(what) = check(&events, KEYS) {
                    failures.lock().unwrap().push(format!("seed {}: {what}", first + index));
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
        let failures = failures.into_inner().unwrap();
        let overlapping = overlapping.into_inner();
        let details =
            [("operations", event_count.into_inner()), ("overlapping_operations", overlapping)];
        trust::report("concurrent histories", count, failures.len() as u64, &details);
        assert!(failures.is_empty(), "{} are wrong:\n{}", failures.len(), failures[0]);
        assert!(overlapping > 0, "no two operations overlapped");
    });
}

fn event(lane: usize, (begin, end): (u64, u64), what: What) -> Event {
    Event { lane, begin, end, what }
}

fn write(lane: usize, at: (u64, u64), pairs: &[(KeyIndex, u64)]) -> Event {
    event(lane, at, What::Write(pairs.iter().map(|(key, value)| (*key, Some(*value))).collect()))
}

fn delete(lane: usize, at: (u64, u64), key: KeyIndex) -> Event {
    event(lane, at, What::Write(vec![(key, None)]))
}

/// 0 stands for nothing.
fn read(lane: usize, at: (u64, u64), pairs: &[(KeyIndex, u64)]) -> Event {
    let seen = |value: u64| (value > 0).then_some(value);
    event(lane, at, What::Read(pairs.iter().map(|(key, value)| (*key, seen(*value))).collect()))
}

/// Histories that no right store can have, each with its name.
fn wrong_histories() -> Vec<(&'static str, Vec<Event>)> {
    let (whole, w) = ((0, 100), write);
    vec![
        (
            "a stale read",
            vec![w(0, (0, 1), &[(0, 1)]), w(0, (2, 3), &[(0, 2)]), read(1, (4, 5), &[(0, 1)])],
        ),
        ("a lost write", vec![w(0, (0, 1), &[(0, 1)]), read(1, (2, 3), &[(0, 0)])]),
        ("an own write not seen", vec![w(0, (0, 1), &[(0, 1)]), read(0, (2, 3), &[(0, 0)])]),
        (
            "a lost update",
            vec![w(0, (0, 4), &[(0, 1)]), w(1, (1, 3), &[(0, 2)]), read(2, (5, 6), &[(0, 0)])],
        ),
        ("half a batch", vec![w(0, whole, &[(0, 1), (1, 1)]), read(1, (9, 10), &[(0, 1), (1, 0)])]),
        (
            "half a batch, in two reads",
            vec![
                w(0, whole, &[(0, 1), (1, 1)]),
                read(1, (9, 10), &[(0, 1)]),
                read(1, (11, 12), &[(1, 0)]),
            ],
        ),
        (
            "a key that goes back",
            vec![
                w(0, whole, &[(0, 1)]),
                w(1, whole, &[(0, 2)]),
                read(2, (10, 11), &[(0, 1)]),
                read(2, (12, 13), &[(0, 2)]),
                read(2, (14, 15), &[(0, 1)]),
            ],
        ),
        (
            "two threads that see two writes in two orders",
            vec![
                w(0, whole, &[(0, 1)]),
                w(1, whole, &[(1, 1)]),
                read(2, (10, 20), &[(0, 1), (1, 0)]),
                read(3, (10, 20), &[(0, 0), (1, 1)]),
            ],
        ),
        (
            "a snapshot that moved",
            vec![w(0, whole, &[(0, 1)]), read(1, (10, 11), &[(0, 0), (0, 1)])],
        ),
        (
            "a snapshot older than its making",
            vec![
                w(0, (0, 1), &[(0, 1)]),
                w(0, (2, 3), &[(1, 1)]),
                read(1, (4, 5), &[(0, 1), (1, 0)]),
            ],
        ),
        (
            "a deleted key that comes back",
            vec![w(0, (0, 1), &[(0, 1)]), delete(0, (2, 3), 0), read(1, (4, 5), &[(0, 1)])],
        ),
        ("a value from the future", vec![read(1, (0, 1), &[(0, 1)]), w(0, (2, 3), &[(0, 1)])]),
        ("a value that nobody wrote", vec![w(0, (0, 9), &[(0, 1)]), read(1, (2, 3), &[(0, 7)])]),
    ]
}

#[test]
fn the_checker_refuses_every_wrong_history() {
    for (name, events) in wrong_histories() {
        assert!(check(&events, 2).is_err(), "{name} was accepted");
    }
}

#[test]
fn the_checker_accepts_what_concurrency_allows() {
    let (whole, w) = ((0, 100), write);
    let right = [
        vec![w(0, whole, &[(0, 1)]), read(1, (1, 2), &[(0, 0)]), read(1, (3, 4), &[(0, 1)])],
        // The later of two that overlap may win or lose.
        vec![w(0, (0, 4), &[(0, 1)]), w(1, (1, 3), &[(0, 2)]), read(2, (5, 6), &[(0, 1)])],
        vec![w(0, (0, 4), &[(0, 1)]), w(1, (1, 3), &[(0, 2)]), read(2, (5, 6), &[(0, 2)])],
        // Reads that overlap may see one write and not the other, in one order.
        vec![
            w(0, whole, &[(0, 1)]),
            w(1, whole, &[(1, 1)]),
            read(2, (10, 20), &[(0, 1), (1, 0)]),
            read(3, (10, 20), &[(0, 1), (1, 1)]),
        ],
        vec![w(0, (0, 1), &[(0, 1)]), delete(1, (2, 9), 0), read(2, (3, 4), &[(0, 1)])],
    ];
    for events in right {
        check(&events, 2).unwrap();
    }
}

/// Tries every order.
fn is_explained(left: &mut Vec<Event>, values: &[Seen]) -> bool {
    let Some(first_end) = left.iter().map(|event| event.end).min() else { return true };
    for at in 0..left.len() {
        if left[at].begin > first_end {
            continue;
        }
        let event = left.remove(at);
        let mut next = values.to_vec();
        let fits = match &event.what {
            What::Read(pairs) => pairs.iter().all(|(key, seen)| values[*key] == *seen),
            What::Write(pairs) => {
                for (key, value) in pairs {
                    next[*key] = *value;
                }
                true
            }
        };
        let is_explained = fits && is_explained(left, &next);
        left.insert(at, event);
        if is_explained {
            return true;
        }
    }
    false
}

#[test]
fn the_checker_agrees_with_trying_every_order() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let (mut events, mut number) = (Vec::new(), 0);
        for lane in 0..3 {
            let mut at = rng.below(6);
            for _ in 0..=rng.below(3) {
                // Distinct ticks, as those of the counter are.
                let (begin, end) = (at, at + 1 + rng.below(8));
                at = end + 1 + rng.below(3);
                let at = (begin * 4 + lane, end * 4 + lane);
                let key = rng.below(2) as usize;
                let other = (1 - key, rng.below(4));
                let lane = lane as usize;
                number += 1;
                events.push(match rng.below(5) {
                    0 | 1 => write(lane, at, &[(key, number)]),
                    2 => write(lane, at, &[(0, number), (1, number)]),
                    3 => read(lane, at, &[(key, rng.below(4))]),
                    _ => read(lane, at, &[(key, rng.below(4)), other]),
                });
            }
        }
        let expected = is_explained(&mut events.clone(), &[None, None]);
        assert_eq!(check(&events, 2).is_ok(), expected, "seed {seed}: {events:?}");
        if expected { right += 1 } else { wrong += 1 }
    }
    assert!(right > 300 && wrong > 300, "{right} are right, {wrong} wrong");
}
