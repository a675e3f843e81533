//! One list of operations under many sets of options gives one history, and it is the model's.
//!
//! A list is drawn from a seed: puts, puts that expire, deletes, batches over keyspaces, all ways of reading, iterators
//! that take from both ends in turns, cursors that turn round and seek, snapshots read and read again, flushes, compactions,
//! keyspaces dropped and made anew, time that passes, reopens and crashes. What it answers is its *history*, and nothing
//! in it may depend on the options: not on the strategy, the sizes, the compression, the filters, the way of reading, the
//! number of threads, nor on when the process dies or the power goes. So each list runs under each of [`option_sets`],
//! and under some drawn at random, and the histories are compared answer by answer with that of a `BTreeMap`.
//!
//! # Crashes
//! A crash syncs first (or flushes, if something was never logged), so that it must lose nothing and be invisible. Each
//! set has crash points of its own beside those of the list. The crashed database lives on in its own world: snapshots,
//! iterators and cursors made before the crash are read there afterwards.
//!
//! # Failures
//! A list that differs is shrunk: operations are left out for as long as some answer still differs. Every operation
//! means something whatever was left out before it. The text names the seed, the set, the first answer that differs, and
//! the operations that are left.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use esker::clock::Clock;
use esker::fs::sim_fs::{Persist, SimFs};
use esker::{
    Compaction, CompactionRate, Compression, Cursor, Db, Durability, Fifo, FilterKind, Iter,
    Keyspace, LazyLeveled, Leveled, ReadMode, SizeTiered, Snapshot, TimeWindow, Verify, WalMode,
    WriteBatch, WriteOptions,
};

use crate::support::{DIR, Generator, Key, NAMES, Rng, Setup};
use crate::trust;

/// How many snapshots, iterators and cursors are held at once, of each.
const SLOTS: usize = 3;
/// Operations of a list.
const LIST_LEN: usize = 1000;
/// Sets drawn at random for each list, beside those of the table.
const RANDOM_SETS: u64 = 4;
/// Runs that shrinking a list may cost.
const SHRINK_RUNS: usize = 600;
const START_MS: u64 = 1_700_000_000_000;

type Range = (Bound<Key>, Bound<Key>);
type Pair = (Key, Vec<u8>);

/// What a write does to a key.
#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>),
    /// With the milliseconds that it lives.
    PutFor(Vec<u8>, u64),
    Delete,
}

/// Where a read reads: now, or in the snapshot of a slot.
#[derive(Clone, Copy, Debug)]
enum At {
    Now,
    Snapshot(usize),
}

/// A move of a cursor.
#[derive(Clone, Debug)]
enum Step {
    First,
    Last,
    Seek(Key),
    SeekForPrev(Key),
    /// From nowhere, as `First`.
    Next,
    /// From nowhere, as `Last`.
    Prev,
}

/// The end that an iterator takes from next.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Front,
    Back,
}

#[derive(Clone, Debug)]
enum Op {
    Write(Durability, Vec<(usize, Key, Change)>),
    Get(At, usize, Key),
    MultiGet(At, usize, Vec<Key>),
    /// Everything in the range; the ends follow one another as listed, again and again.
    Scan(At, usize, Range, Vec<End>),
    Prefix(At, usize, Key, End),
    Walk(At, usize, Vec<Step>),
    OpenIter(usize, At, usize, Range),
    TakeFromIter(usize, Vec<End>),
    OpenCursor(usize, At, usize),
    MoveCursor(usize, Vec<Step>),
    Snapshot(usize),
    /// Reads everything in the snapshot and lets go of it.
    Release(usize),
    Flush,
    Sync,
    Compact(usize, Range),
    /// Drops the keyspace and makes it anew; snapshots are released before.
    Renew(usize),
    /// Held iterators and cursors are dropped before: which of their entries they judge by the old time is not promised.
    PassTime(u64),
    /// Snapshots are released before, and held iterators and cursors dropped: a closed database pins no files any more.
    Reopen,
    Kill,
    PowerCut(Persist),
}

/// What an operation gave.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Done,
    /// The slot was empty.
    Nothing,
    Value(Option<Vec<u8>>),
    Values(Vec<Option<Vec<u8>>>),
    Pairs(Vec<Pair>),
    /// Of each move: where the cursor or iterator stood then.
    Steps(Vec<Option<Pair>>),
    Failed(String),
}

/// A list of operations, and what it says of expiry by default.
#[derive(Clone, Debug)]
struct List {
    ops: Vec<Op>,
    default_ttl_s: u64,
}

/// Draws lists.
struct Draw {
    generator: Generator,
    default_ttl_s: u64,
}

impl List {
    fn of_seed(seed: u64) -> Self {
        let mut generator = Generator::new(seed ^ 0x6d65_7461, NAMES.len() as u64, &[]);
        generator.keys = generator.rng.pick(&[12, 40, 80, 200]);
        let default_ttl_s = generator.rng.pick(&[0, 0, 0, 30]);
        let mut draw = Draw { generator, default_ttl_s };
        let ops = (0..LIST_LEN).map(|_| draw.op()).collect();
        List { ops, default_ttl_s: draw.default_ttl_s }
    }
}

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.generator.rng.below(bound)
    }

    fn key(&mut self) -> Key {
        self.generator.key()
    }

    fn keyspace(&mut self) -> usize {
        // Most happens in the first, so that its tree has a shape.
        self.below(6).saturating_sub(3) as usize
    }

    fn slot(&mut self) -> usize {
        self.below(SLOTS as u64) as usize
    }

    fn at(&mut self) -> At {
        if self.below(3) == 0 { At::Snapshot(self.slot()) } else { At::Now }
    }

    fn range(&mut self) -> Range {
        let low = self.bound();
        (low, self.bound())
    }

    fn bound(&mut self) -> Bound<Key> {
        match self.below(4) {
            0 => Bound::Unbounded,
            1 => Bound::Excluded(self.key()),
            _ => Bound::Included(self.key()),
        }
    }

    fn ends(&mut self) -> Vec<End> {
        match self.below(4) {
            0 => vec![End::Front],
            1 => vec![End::Back],
            _ => {
                let count = 2 + self.below(9);
                let ends = [End::Front, End::Back];
                (0..count).map(|_| self.generator.rng.pick(&ends)).collect()
            }
        }
    }

    /// A walk that goes on in one direction for a while, then turns round or jumps.
    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..2 + self.below(4) {
            match self.below(6) {
                0 => steps.push(Step::First),
                1 => steps.push(Step::Last),
                2 | 3 => steps.push(Step::Seek(self.key())),
                4 => steps.push(Step::SeekForPrev(self.key())),
                _ => {}
            }
            for _ in 0..1 + self.below(2) {
                let step = if self.below(2) == 0 { Step::Next } else { Step::Prev };
                let count = 1 + self.below(6) as usize;
                steps.extend(std::iter::repeat_n(step, count));
            }
        }
        steps
    }

    fn change(&mut self) -> Change {
        match self.below(10) {
            0..2 => Change::Delete,
            2 => Change::PutFor(self.generator.value(), 1 + self.below(60_000)),
            _ => Change::Put(self.generator.value()),
        }
    }

    fn write(&mut self) -> Op {
        let count = if self.below(4) == 0 { 2 + self.below(8) } else { 1 };
        let parts = (0..count).map(|_| (self.keyspace(), self.key(), self.change())).collect();
        let durabilities = [
            Durability::Buffered,
            Durability::Buffered,
            Durability::Buffered,
            Durability::Sync,
            Durability::Async,
            Durability::Disabled,
        ];
        Op::Write(self.generator.rng.pick(&durabilities), parts)
    }

    fn op(&mut self) -> Op {
        match self.below(200) {
            0..10 => Op::Get(self.at(), self.keyspace(), self.key()),
            10..16 => {
                let count = 1 + self.below(8);
                let keys = (0..count).map(|_| self.key()).collect();
                Op::MultiGet(self.at(), self.keyspace(), keys)
            }
            16..26 => Op::Scan(self.at(), self.keyspace(), self.range(), self.ends()),
            26..30 => {
                let key = self.key();
                let bytes = self.below(key.len() as u64 + 1) as usize;
                let end = self.generator.rng.pick(&[End::Front, End::Back]);
                Op::Prefix(self.at(), self.keyspace(), key[..bytes].to_vec(), end)
            }
            30..36 => Op::Walk(self.at(), self.keyspace(), self.steps()),
            36..40 => Op::OpenIter(self.slot(), self.at(), self.keyspace(), self.range()),
            40..50 => Op::TakeFromIter(self.slot(), self.ends()),
            50..54 => Op::OpenCursor(self.slot(), self.at(), self.keyspace()),
            54..64 => Op::MoveCursor(self.slot(), self.steps()),
            64..70 => Op::Snapshot(self.slot()),
            70..72 => Op::Release(self.slot()),
            72..75 => Op::Flush,
            75..77 => Op::Sync,
            77..80 => self.compact(),
            80 => Op::Renew(self.keyspace()),
            81..83 => Op::PassTime(1 + self.below(40_000)),
            83 => Op::Reopen,
            84 => Op::Kill,
            85 => {
                let seed = self.generator.rng.next();
                let random = Persist::Random { percent: 50, seed };
                Op::PowerCut(self.generator.rng.pick(&[Persist::Nothing, random]))
            }
            _ => self.write(),
        }
    }

    fn compact(&mut self) -> Op {
        let at = self.keyspace();
        let (a, b) = (self.key(), self.key());
        let part = (Bound::Included(a.clone().min(b.clone())), Bound::Included(a.max(b)));
        let all = (Bound::Unbounded, Bound::Unbounded);
        Op::Compact(at, self.generator.rng.pick(&[all, part]))
    }
}

/// Whether `BTreeMap` accepts the range.
fn is_in_order((low, high): &Range) -> bool {
    match (low, high) {
        (Bound::Excluded(low), Bound::Excluded(high)) => low < high,
        (
            Bound::Included(low) | Bound::Excluded(low),
            Bound::Included(high) | Bound::Excluded(high),
        ) => low <= high,
        _ => true,
    }
}

/// Values, and when they expire.
type Map = BTreeMap<Key, (Vec<u8>, u64)>;

/// What the engine must be like.
struct Model {
    default_ttl_s: u64,
    now_ms: u64,
    maps: [Map; NAMES.len()],
    snapshots: [Option<[Map; NAMES.len()]>; SLOTS],
    iters: [Option<VecDeque<Pair>>; SLOTS],
    cursors: [Option<(Vec<Pair>, Option<usize>)>; SLOTS],
}

impl Model {
    fn new(default_ttl_s: u64) -> Self {
        Model {
            default_ttl_s,
            now_ms: START_MS,
            maps: Default::default(),
            snapshots: Default::default(),
            iters: Default::default(),
            cursors: Default::default(),
        }
    }

    fn history(list: &List) -> Vec<Answer> {
        let mut model = Model::new(list.default_ttl_s);
        let mut answers: Vec<Answer> = list.ops.iter().map(|op| model.answer(op)).collect();
        answers.push(model.everything());
        answers
    }

    /// What is there, in order; `None` if the slot is empty.
    fn living(&self, at: At, keyspace: usize) -> Option<Vec<Pair>> {
        let map = match at {
            At::Now => &self.maps[keyspace],
            At::Snapshot(slot) => &self.snapshots[slot].as_ref()?[keyspace],
        };
        let living = map.iter().filter(|(_, (_, until_ms))| *until_ms > self.now_ms);
        Some(living.map(|(key, (value, _))| (key.clone(), value.clone())).collect())
    }

    fn within(&self, at: At, keyspace: usize, range: &Range) -> Option<VecDeque<Pair>> {
        let mut pairs = self.living(at, keyspace)?;
        let is_in_order = is_in_order(range);
        pairs.retain(|(key, _)| is_in_order && std::ops::RangeBounds::contains(range, key));
        Some(pairs.into())
    }

    fn write(&mut self, parts: &[(usize, Key, Change)]) {
        for (keyspace, key, change) in parts {
            let ttl_ms = match change {
                Change::Put(_) => 1000 * self.default_ttl_s,
                Change::PutFor(_, ttl_ms) => *ttl_ms,
                Change::Delete => 0,
            };
            let until_ms = if ttl_ms == 0 { u64::MAX } else { self.now_ms + ttl_ms };
            match change {
                Change::Put(value) | Change::PutFor(value, _) => {
                    self.maps[*keyspace].insert(key.clone(), (value.clone(), until_ms));
                }
                Change::Delete => drop(self.maps[*keyspace].remove(key)),
            }
        }
    }

    fn read(&self, op: &Op) -> Option<Answer> {
        Some(match op {
            Op::Get(at, keyspace, key) => {
                let pairs: Map2 = self.living(*at, *keyspace)?.into_iter().collect();
                Answer::Value(pairs.get(key).cloned())
            }
            Op::MultiGet(at, keyspace, keys) => {
                let pairs: Map2 = self.living(*at, *keyspace)?.into_iter().collect();
                Answer::Values(keys.iter().map(|key| pairs.get(key).cloned()).collect())
            }
            Op::Scan(at, keyspace, range, ends) => {
                let mut pairs = self.within(*at, *keyspace, range)?;
                let count = pairs.len() + 1;
                let ends: Vec<End> = ends.iter().copied().cycle().take(count).collect();
                Answer::Steps(take(&mut pairs, &ends))
            }
            Op::Prefix(at, keyspace, prefix, end) => {
                let mut pairs = self.living(*at, *keyspace)?;
                pairs.retain(|(key, _)| key.starts_with(prefix));
                if *end == End::Back {
                    pairs.reverse();
                }
                Answer::Pairs(pairs)
            }
            Op::Walk(at, keyspace, steps) => {
                Answer::Steps(walk(&self.living(*at, *keyspace)?, &mut None, steps))
            }
            _ => unreachable!("not a read"),
        })
    }

    fn answer(&mut self, op: &Op) -> Answer {
        match op {
            Op::Write(_, parts) => self.write(parts),
            Op::OpenIter(slot, at, keyspace, range) => {
                self.iters[*slot] = self.within(*at, *keyspace, range);
            }
            Op::OpenCursor(slot, at, keyspace) => {
                self.cursors[*slot] = self.living(*at, *keyspace).map(|pairs| (pairs, None));
            }
            Op::TakeFromIter(slot, ends) => {
                let Some(pairs) = &mut self.iters[*slot] else { return Answer::Nothing };
                return Answer::Steps(take(pairs, ends));
            }
            Op::MoveCursor(slot, steps) => {
                let Some((pairs, stands)) = &mut self.cursors[*slot] else {
                    return Answer::Nothing;
                };
                return Answer::Steps(walk(pairs, stands, steps));
            }
            Op::Snapshot(slot) => self.snapshots[*slot] = Some(self.maps.clone()),
            Op::Release(slot) => return self.release(*slot..*slot + 1),
            Op::Renew(keyspace) => {
                let answer = self.release(0..SLOTS);
                self.maps[*keyspace].clear();
                return answer;
            }
            Op::PassTime(ms) => {
                (self.iters, self.cursors) = Default::default();
                self.now_ms += ms;
            }
            Op::Reopen => {
                (self.iters, self.cursors) = Default::default();
                return self.release(0..SLOTS);
            }
            Op::Flush | Op::Sync | Op::Compact(..) | Op::Kill | Op::PowerCut(_) => {}
            read => return self.read(read).unwrap_or(Answer::Nothing),
        }
        Answer::Done
    }

    fn release(&mut self, slots: std::ops::Range<usize>) -> Answer {
        let mut all = Vec::new();
        for slot in slots {
            for keyspace in 0..NAMES.len() {
                all.extend(self.living(At::Snapshot(slot), keyspace).unwrap_or_default());
            }
            self.snapshots[slot] = None;
        }
        Answer::Pairs(all)
    }

    fn everything(&mut self) -> Answer {
        let Answer::Pairs(mut all) = self.release(0..SLOTS) else { unreachable!() };
        for _ in 0..2 {
            for keyspace in 0..NAMES.len() {
                all.extend(self.living(At::Now, keyspace).unwrap_or_default());
            }
        }
        Answer::Pairs(all)
    }
}

type Map2 = BTreeMap<Key, Vec<u8>>;

fn take(pairs: &mut VecDeque<Pair>, ends: &[End]) -> Vec<Option<Pair>> {
    let one = |end: &End| match end {
        End::Front => pairs.pop_front(),
        End::Back => pairs.pop_back(),
    };
    ends.iter().map(one).collect()
}

fn walk(pairs: &[Pair], stands: &mut Option<usize>, steps: &[Step]) -> Vec<Option<Pair>> {
    let mut seen = Vec::new();
    for step in steps {
        let at = match (step, *stands) {
            (Step::First, _) | (Step::Next, None) => 0,
            (Step::Last, _) | (Step::Prev, None) => pairs.len().wrapping_sub(1),
            (Step::Seek(key), _) => pairs.partition_point(|pair| pair.0 < *key),
            (Step::SeekForPrev(key), _) => {
                pairs.partition_point(|pair| pair.0 <= *key).wrapping_sub(1)
            }
            (Step::Next, Some(at)) => at + 1,
            (Step::Prev, Some(at)) => at.wrapping_sub(1),
        };
        *stands = (at < pairs.len()).then_some(at);
        seen.push(stands.map(|at| pairs[at].clone()));
    }
    seen
}

/// Wall time that stands still until told, and a running clock for the engine's waits.
#[derive(Debug)]
struct StepClock {
    unix_ms: AtomicU64,
    looks: AtomicU64,
}

impl Clock for StepClock {
    fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        1_000_000 * self.looks.fetch_add(1, Ordering::Relaxed)
    }
}

/// A set of options, and how often it crashes beside the crashes of the list.
#[derive(Clone, Debug)]
struct OptionSet {
    name: String,
    setup: Setup,
    crash_percent: u64,
}

/// The engine as it runs one list.
struct Engine<'a> {
    set: &'a OptionSet,
    fs: SimFs,
    clock: Arc<StepClock>,
    db: Option<Db>,
    /// One for each keyspace.
    snapshots: [Option<Vec<Snapshot>>; SLOTS],
    iters: [Option<Iter>; SLOTS],
    cursors: [Option<Cursor>; SLOTS],
    /// Something was written past the log since the last flush.
    has_unlogged: bool,
}

/// Runs `$body` with `$reader` being a keyspace or a snapshot; answers `Nothing` if the slot is empty.
macro_rules! read {
    ($engine:expr, $at:expr, $keyspace:expr, $reader:ident => $body:expr) => {
        match $at {
            At::Now => {
                let $reader = $engine.keyspace($keyspace)?;
                $body
            }
            At::Snapshot(slot) => match &$engine.snapshots[slot] {
                Some(snapshots) => {
                    let $reader = &snapshots[$keyspace];
                    $body
                }
                None => return Ok(Answer::Nothing),
            },
        }
    };
}

impl<'a> Engine<'a> {
    /// The history of `list` under `set`. A panic is the last answer.
    fn history(list: &List, set: &'a OptionSet, seed: u64) -> Vec<Answer> {
        let mut answers = Vec::new();
        let run = catch_unwind(AssertUnwindSafe(|| {
            let mut set = set.clone();
            set.setup.keyspace.default_ttl_s = list.default_ttl_s;
            let mut rng = Rng::new(seed ^ 0x6372_6173_6865_73);
            let mut engine = match Engine::open(&set) {
                Ok(engine) => engine,
                Err(error) => return answers.push(Answer::Failed(error.to_string())),
            };
            let failed = |error: esker::Error| Answer::Failed(error.to_string());
            for op in &list.ops {
                if rng.percent(set.crash_percent)
                    && let Err(error) = engine.crash(rng.percent(50).then_some(Persist::Nothing))
                {
                    answers.push(failed(error));
                    return;
                }
                answers.push(engine.answer(op).unwrap_or_else(failed));
            }
            answers.push(engine.everything().unwrap_or_else(failed));
        }));
        if let Err(panic) = run {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            answers.push(Answer::Failed(format!("a panic: {}", text.unwrap_or_default())));
        }
        answers
    }

    fn open(set: &'a OptionSet) -> esker::Result<Self> {
        let clock = StepClock { unix_ms: AtomicU64::new(START_MS), looks: AtomicU64::new(0) };
        let mut engine = Engine {
            set,
            fs: SimFs::new(),
            clock: Arc::new(clock),
            db: None,
            snapshots: Default::default(),
            iters: Default::default(),
            cursors: Default::default(),
            has_unlogged: false,
        };
        engine.reopen()?;
        Ok(engine)
    }

    fn reopen(&mut self) -> esker::Result<()> {
        let Setup { db, keyspace, .. } = &self.set.setup;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let opened = Db::builder()
            .options(db.clone())
            .default_keyspace(keyspace.clone())
            .file_system(Arc::new(self.fs.clone()))
            .clock(clock)
            .open(Path::new(DIR))?;
        for name in &NAMES[1..] {
            opened.keyspace(name, keyspace.clone())?;
        }
        self.db = Some(opened);
        Ok(())
    }

    fn db(&self) -> &Db {
        self.db.as_ref().expect("the database is open")
    }

    fn keyspace(&self, at: usize) -> esker::Result<Keyspace> {
        Ok(self.db().open_keyspace(NAMES[at])?.expect("it was created at the start"))
    }

    fn write(
        &mut self,
        durability: Durability,
        parts: &[(usize, Key, Change)],
    ) -> esker::Result<()> {
        self.has_unlogged |= durability == Durability::Disabled;
        let options = WriteOptions::with_durability(durability);
        // Only a batch can have both a time to live and a durability.
        if let [(at, key, change)] = parts {
            let keyspace = self.keyspace(*at)?;
            match change {
                Change::Put(value) => return keyspace.put_with(key, value, &options),
                Change::Delete => return keyspace.delete_with(key, &options),
                Change::PutFor(..) => {}
            }
        }
        let mut batch = WriteBatch::new();
        for (at, key, change) in parts {
            let keyspace = self.keyspace(*at)?;
            match change {
                Change::Put(value) => batch.put_in(&keyspace, key, value),
                Change::PutFor(value, ms) => {
                    batch.put_in_with_ttl(&keyspace, key, value, Duration::from_millis(*ms))
                }
                Change::Delete => batch.delete_in(&keyspace, key),
            };
        }
        self.db().write_with(batch, &options)
    }

    fn read(&self, op: &Op) -> esker::Result<Answer> {
        let own = |value: esker::Value| value.to_vec();
        Ok(match op {
            Op::Get(at, keyspace, key) => {
                let value = read!(self, *at, *keyspace, reader => reader.get(key)?);
                Answer::Value(value.map(own))
            }
            Op::MultiGet(at, keyspace, keys) => {
                let values = read!(self, *at, *keyspace, reader => reader.multi_get(keys)?);
                Answer::Values(values.into_iter().map(|value| value.map(own)).collect())
            }
            Op::Scan(at, keyspace, range, ends) => {
                let range = range.clone();
                let mut iter = read!(self, *at, *keyspace, reader => reader.range::<Key>(range));
                let mut seen = Vec::new();
                for end in ends.iter().cycle() {
                    seen.extend(take_from(&mut iter, &[*end])?);
                    if seen.last() == Some(&None) {
                        break;
                    }
                }
                Answer::Steps(seen)
            }
            Op::Prefix(at, keyspace, prefix, end) => {
                let iter = read!(self, *at, *keyspace, reader => reader.prefix(prefix));
                Answer::Pairs(if *end == End::Front { pairs(iter)? } else { pairs(iter.rev())? })
            }
            Op::Walk(at, keyspace, steps) => {
                let mut cursor = read!(self, *at, *keyspace, reader => reader.cursor());
                Answer::Steps(walk_with(&mut cursor, steps)?)
            }
            _ => unreachable!("not a read"),
        })
    }

    fn answer(&mut self, op: &Op) -> esker::Result<Answer> {
        match op {
            Op::Write(durability, parts) => self.write(*durability, parts)?,
            Op::OpenIter(slot, at, keyspace, range) => {
                self.iters[*slot] = self.open_iter(*at, *keyspace, range.clone())?;
            }
            Op::OpenCursor(slot, at, keyspace) => {
                self.cursors[*slot] = self.open_cursor(*at, *keyspace)?;
            }
            Op::TakeFromIter(slot, ends) => {
                let Some(iter) = &mut self.iters[*slot] else { return Ok(Answer::Nothing) };
                return Ok(Answer::Steps(take_from(iter, ends)?));
            }
            Op::MoveCursor(slot, steps) => {
                let Some(cursor) = &mut self.cursors[*slot] else { return Ok(Answer::Nothing) };
                return Ok(Answer::Steps(walk_with(cursor, steps)?));
            }
            Op::Snapshot(slot) => {
                let snapshot = self.db().snapshot();
                let of = |at| snapshot.keyspace(&self.keyspace(at)?);
                let all: esker::Result<Vec<Snapshot>> = (0..NAMES.len()).map(of).collect();
                self.snapshots[*slot] = Some(all?);
            }
            Op::Release(slot) => return self.release(*slot..*slot + 1),
            Op::Flush => {
                self.db().flush()?;
                self.has_unlogged = false;
            }
            Op::Sync => self.db().sync()?,
            Op::Compact(at, range) => self.keyspace(*at)?.compact_range::<Key>(range.clone())?,
            Op::Renew(at) => {
                let answer = self.release(0..SLOTS)?;
                self.renew(*at)?;
                return Ok(answer);
            }
            Op::PassTime(ms) => {
                (self.iters, self.cursors) = Default::default();
                self.clock.unix_ms.fetch_add(*ms, Ordering::Relaxed);
            }
            Op::Reopen => {
                let answer = self.release(0..SLOTS)?;
                (self.iters, self.cursors) = Default::default();
                self.close()?;
                self.reopen()?;
                return Ok(answer);
            }
            Op::Kill => self.crash(None)?,
            Op::PowerCut(persist) => self.crash(Some(*persist))?,
            read => return self.read(read),
        }
        Ok(Answer::Done)
    }

    fn open_iter(&self, at: At, keyspace: usize, range: Range) -> esker::Result<Option<Iter>> {
        Ok(match at {
            At::Now => Some(self.keyspace(keyspace)?.range::<Key>(range)),
            At::Snapshot(slot) => {
                self.snapshots[slot].as_ref().map(|all| all[keyspace].range::<Key>(range))
            }
        })
    }

    fn open_cursor(&self, at: At, keyspace: usize) -> esker::Result<Option<Cursor>> {
        Ok(match at {
            At::Now => Some(self.keyspace(keyspace)?.cursor()),
            At::Snapshot(slot) => self.snapshots[slot].as_ref().map(|all| all[keyspace].cursor()),
        })
    }

    fn renew(&mut self, at: usize) -> esker::Result<()> {
        if at == 0 {
            // The default keyspace cannot be dropped; empty it.
            let keyspace = self.keyspace(0)?;
            let mut batch = WriteBatch::new();
            for item in keyspace.iter() {
                batch.delete_in(&keyspace, item?.0);
            }
            return self.db().write(batch);
        }
        assert!(self.db().drop_keyspace(NAMES[at])?, "the keyspace was not there");
        self.db().keyspace(NAMES[at], self.set.setup.keyspace.clone()).map(drop)
    }

    fn close(&mut self) -> esker::Result<()> {
        self.has_unlogged = false;
        self.db.take().expect("the database is open").close()
    }

    /// Kills the process or, with `persist`, cuts the power. Nothing may be lost.
    fn crash(&mut self, persist: Option<Persist>) -> esker::Result<()> {
        if self.has_unlogged {
            self.db().flush()?;
            self.has_unlogged = false;
        } else if persist.is_some() {
            self.db().sync()?;
        }
        self.fs = match persist {
            Some(persist) => self.fs.crash_clone(persist),
            None => self.fs.kill_clone(),
        };
        // The old one ends in its own world, unless a snapshot keeps it.
        self.db = None;
        self.reopen()
    }

    fn release(&mut self, slots: std::ops::Range<usize>) -> esker::Result<Answer> {
        let mut all = Vec::new();
        for slot in slots {
            for snapshot in self.snapshots[slot].take().unwrap_or_default() {
                let forward = pairs(snapshot.iter())?;
                let mut backward = pairs(snapshot.iter().rev())?;
                backward.reverse();
                assert!(forward == backward, "a snapshot reads otherwise backwards");
                all.extend(forward);
            }
        }
        Ok(Answer::Pairs(all))
    }

    fn everything(mut self) -> esker::Result<Answer> {
        let Answer::Pairs(mut all) = self.release(0..SLOTS)? else { unreachable!() };
        for _ in 0..2 {
            for at in 0..NAMES.len() {
                all.extend(pairs(self.keyspace(at)?.iter())?);
            }
            let report = self.db().verify()?;
            assert!(report.is_ok(), "verify: {report:?}");
            self.close()?;
            self.reopen()?;
        }
        self.close()?;
        Ok(Answer::Pairs(all))
    }
}

fn pairs(
    iter: impl Iterator<Item = esker::Result<(Key, esker::Value)>>,
) -> esker::Result<Vec<Pair>> {
    iter.map(|item| item.map(|(key, value)| (key, value.to_vec()))).collect()
}

fn take_from(iter: &mut Iter, ends: &[End]) -> esker::Result<Vec<Option<Pair>>> {
    let mut one = |end: &End| {
        let item = match end {
            End::Front => iter.next(),
            End::Back => iter.next_back(),
        };
        item.transpose().map(|item| item.map(|(key, value)| (key, value.to_vec())))
    };
    ends.iter().map(&mut one).collect()
}

fn walk_with(cursor: &mut Cursor, steps: &[Step]) -> esker::Result<Vec<Option<Pair>>> {
    let mut seen = Vec::new();
    for step in steps {
        match (step, cursor.valid()) {
            (Step::First, _) | (Step::Next, false) => cursor.seek_to_first()?,
            (Step::Last, _) | (Step::Prev, false) => cursor.seek_to_last()?,
            (Step::Seek(key), _) => cursor.seek(key)?,
            (Step::SeekForPrev(key), _) => cursor.seek_for_prev(key)?,
            (Step::Next, true) => cursor.next()?,
            (Step::Prev, true) => cursor.prev()?,
        }
        seen.push(cursor.valid().then(|| (cursor.key().to_vec(), cursor.value().to_vec())));
    }
    Ok(seen)
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
fn option_sets() -> Vec<OptionSet> {
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
fn random_set(seed: u64) -> OptionSet {
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
    setup.keyspace.compression = (0..1 + rng.below(3)).map(|_| rng.pick(&kinds)).collect();
    setup.keyspace.compaction = rng.pick(&strategies());
    let crash_percent = rng.pick(&[0, 1, 4]);
    OptionSet { name: format!("random {seed}: {setup:?}"), setup, crash_percent }
}

/// The first operation whose answers differ.
fn first_difference(expected: &[Answer], found: &[Answer]) -> Option<usize> {
    (0..expected.len()).find(|at| found.get(*at) != Some(&expected[*at]))
}

fn differs(list: &List, set: &OptionSet, seed: u64) -> bool {
    let found = Engine::history(list, set, seed);
    first_difference(&Model::history(list), &found).is_some()
}

/// Leaves out operations, many at first, as long as `is_wrong` with what is left.
fn shrink(list: &List, is_wrong: impl Fn(&List) -> bool) -> List {
    let mut list = list.clone();
    let (mut runs, mut width) = (0, list.ops.len() / 2);
    while width > 0 {
        let mut at = 0;
        while at < list.ops.len() && runs < SHRINK_RUNS {
            let mut shorter = list.clone();
            shorter.ops.drain(at..(at + width).min(list.ops.len()));
            runs += 1;
            if is_wrong(&shorter) {
                list = shorter;
            } else {
                at += width;
            }
        }
        width /= 2;
    }
    list
}

/// Lists of bytes as text, shortened.
fn readable(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let (before, list) = rest.split_at(open + 1);
        let close = list.find([']', '[']).unwrap_or(list.len());
        let bytes: Option<Vec<u8>> =
            list[..close].split(", ").map(|number| number.parse().ok()).collect();
        match bytes {
            Some(bytes) if list[close..].starts_with(']') => {
                let shown = bytes[..bytes.len().min(48)].escape_ascii();
                let more = if bytes.len() > 48 { "..." } else { "" };
                let _ = write!(out, "{}\"{shown}{more}\"", &before[..open]);
                rest = &list[close + 1..];
            }
            _ => {
                out.push_str(before);
                rest = list;
            }
        }
    }
    out + rest
}

/// Says in words how `list` under `set` is wrong, if it is.
fn check(list: &List, set: &OptionSet, seed: u64, expected: &[Answer]) -> Option<String> {
    let found = Engine::history(list, set, seed);
    first_difference(expected, &found)?;
    let short = shrink(list, |list| differs(list, set, seed));
    let (mut expected, mut found) = (Model::history(&short), Engine::history(&short, set, seed));
    // With threads, the shortest list may go right now and then.
    let mut shown = &short;
    if first_difference(&expected, &found).is_none() {
        (expected, found) = (Model::history(list), Engine::history(list, set, seed));
        shown = list;
    }
    let mut text = format!("seed {seed}, options {}\n", set.name);
    match first_difference(&expected, &found) {
        None => text.push_str("it went right when it was run again\n"),
        Some(at) => {
            let op = shown.ops.get(at).map_or("the end".to_owned(), |op| format!("{op:?}"));
            let found = found.get(at);
            let _ = writeln!(text, "operation {at}, {op}\n  model  {:?}", expected[at]);
            let _ = writeln!(text, "  engine {found:?}\nof these operations:");
        }
    }
    for (at, op) in shown.ops.iter().enumerate() {
        let _ = writeln!(text, "  {at} {op:?}");
    }
    Some(readable(&text))
}

#[test]
fn one_list_of_operations_has_one_history_under_all_options() {
    let (lists, first) = (trust::cases(3, 200, 10_000), trust::seed() * 1_000_000);
    let sets = option_sets();
    let (next, runs, operations) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failures: Mutex<Vec<String>> = Mutex::default();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= lists || failures.lock().unwrap().len() > 2 {
                return;
            }
            let seed = first + index;
            let list = List::of_seed(seed);
            let expected = Model::history(&list);
            let random = (0..RANDOM_SETS).map(|n| random_set(seed * RANDOM_SETS + n));
            for set in sets.iter().cloned().chain(random) {
                runs.fetch_add(1, Ordering::Relaxed);
                operations.fetch_add(list.ops.len() as u64, Ordering::Relaxed);
                if let Some(what) = check(&list, &set, seed, &expected) {
                    failures.lock().unwrap().push(what);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    let details = [
        ("lists", next.into_inner().min(lists)),
        ("option_sets", sets.len() as u64 + RANDOM_SETS),
        ("operations", operations.into_inner()),
    ];
    trust::report("metamorphic", runs.into_inner(), failures.len() as u64, &details);
    assert!(failures.is_empty(), "{} histories differ:\n{}", failures.len(), failures.join("\n"));
}

/// The list as an engine would run it that forgets every delete.
fn without_deletes(list: &List) -> List {
    let mut list = list.clone();
    for op in &mut list.ops {
        if let Op::Write(_, parts) = op {
            parts.retain(|part| !matches!(part.2, Change::Delete));
        }
    }
    list
}

#[test]
fn a_history_that_differs_is_found_and_shrunk() {
    let (list, set) = (List::of_seed(7), &option_sets()[0]);
    let is_wrong = |list: &List| {
        let found = Engine::history(&without_deletes(list), set, 7);
        first_difference(&Model::history(list), &found).is_some()
    };
    assert!(is_wrong(&list), "deletes that are forgotten are not seen");
    let short = shrink(&list, is_wrong);
    // A put, its delete, and at most one that reads.
    assert!(short.ops.len() <= 3, "{} operations are left", short.ops.len());
}
