//! What the correctness tests share: small databases, operations and their random lists, and the history that says
//! which states are right.
//!
//! # The history
//! A [`History`] holds every write in commit order. After a crash the database must hold the writes of some prefix of
//! it, which includes at least [`History::synced`] (power loss) or [`History::logged`] (death of the process) of them.
//! Keyspaces are created and dropped durably outside that order, so the history keeps which *instances* of names are
//! alive: a keyspace that was dropped and created again is another instance, and the writes to the former one are gone.
//!
//! A write is put into the history before the engine sees it, so that a crash in the middle finds it there as issued.
//!
//! # Expiry
//! A value that expires says so itself: it begins with `until MS:`. So maps of values need no times beside them, and
//! what is there at a time follows from the map: [`living`].

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use esker::clock::{Clock, ManualClock};
use esker::compaction::filter::CompactionFilter;
use esker::event::{Event, EventListener};
use esker::fs::FileSystem;
use esker::fs::sim_fs::SimFs;
use esker::{
    Db, DbOptions, Durability, Keyspace, KeyspaceOptions, Leveled, WriteBatch, WriteOptions,
};
use std::sync::Mutex;

pub(crate) type Key = Vec<u8>;
pub(crate) type Map = BTreeMap<Key, Vec<u8>>;

/// Where databases stand in the simulated file system.
pub(crate) const DIR: &str = "/db";
/// The keyspaces that operations use: `default` and two more.
pub(crate) const NAMES: [&str; 3] = ["default", "logs", "index"];

/// Splitmix64: small, seeded, the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize].clone()
    }
}

/// A clock that goes on by a millisecond whenever somebody looks; on the wall, by ten, so that windows of time pass.
#[derive(Debug, Default)]
pub(crate) struct TickClock(AtomicU64);

impl Clock for TickClock {
    fn unix_ms(&self) -> u64 {
        1_700_000_000_000 + self.monotonic_ns() / 100_000
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.fetch_add(1_000_000, Ordering::Relaxed)
    }
}

/// The options of a test database.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) db: DbOptions,
    pub(crate) keyspace: KeyspaceOptions,
    /// `None`: one that ticks, anew at each open.
    pub(crate) clock: Option<Arc<ManualClock>>,
    /// Counts the tables that slices of merges let go, if somebody wants to know.
    pub(crate) slices: Option<Arc<AtomicU64>>,
    /// What compactions of the default keyspace ask.
    pub(crate) filter: Option<Arc<dyn CompactionFilter>>,
}

/// Counts the tables removed before the compaction that merges them ends. Compactions run one at a time.
fn count_slices(slices: Arc<AtomicU64>) -> Arc<dyn EventListener> {
    let is_merging = AtomicBool::new(false);
    Arc::new(move |event: &Event| match event {
        Event::CompactionBegin(_) => is_merging.store(true, Ordering::Relaxed),
        Event::CompactionEnd(_) => is_merging.store(false, Ordering::Relaxed),
        Event::TableRemoved(_) => {
            slices.fetch_add(is_merging.load(Ordering::Relaxed).into(), Ordering::Relaxed);
        }
        _ => {}
    })
}

impl Setup {
    /// Everything so small that a few hundred writes flush, compact and fill log segments. No threads.
    pub(crate) fn small() -> Self {
        Setup {
            db: DbOptions {
                background_threads: 0,
                wal_segment_bytes: 64 << 10,
                cache_bytes: 1 << 20,
                wal_bytes_max: 256 << 10,
                ..DbOptions::default()
            },
            keyspace: KeyspaceOptions {
                memtable_bytes: 8 << 10,
                block_bytes: 512,
                table_bytes: 8 << 10,
                compaction: Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 4 }.into(),
                ..KeyspaceOptions::default()
            },
            clock: None,
            slices: None,
            filter: None,
        }
    }

    /// The time, if it stands still.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.as_ref().map_or(0, |clock| clock.unix_ms())
    }

    pub(crate) fn open(&self, fs: Arc<dyn FileSystem>, dir: &Path) -> esker::Result<Db> {
        let clock: Arc<dyn Clock> = match &self.clock {
            Some(clock) => Arc::clone(clock) as Arc<dyn Clock>,
            None => Arc::new(TickClock::default()),
        };
        let mut builder = Db::builder();
        if let Some(slices) = &self.slices {
            builder = builder.listener(count_slices(Arc::clone(slices)));
        }
        if let Some(filter) = &self.filter {
            builder = builder.compaction_filter(NAMES[0], Arc::clone(filter));
        }
        builder
            .options(self.db.clone())
            .default_keyspace(self.keyspace.clone())
            .file_system(fs)
            .clock(clock)
            .open(dir)
    }

    pub(crate) fn open_sim(&self, fs: &SimFs) -> esker::Result<Db> {
        self.open(Arc::new(fs.clone()), Path::new(DIR))
    }
}

/// When the value expires, if it does.
fn until_ms(value: &[u8]) -> Option<u64> {
    let digits = value.strip_prefix(b"until ")?.split(|byte| *byte == b':').next()?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What of `map` is there at `now_ms`.
pub(crate) fn living(mut map: Map, now_ms: u64) -> Map {
    map.retain(|_, value| until_ms(value).is_none_or(|until_ms| until_ms > now_ms));
    map
}

/// One change of one key: keyspace by its index in [`NAMES`], key, and the value or `None` for a delete.
pub(crate) type Part = (usize, Key, Option<Vec<u8>>);

/// Something to do to a database.
#[derive(Clone)]
pub(crate) enum Op {
    /// A put or a delete, or with more parts a batch.
    Write(Durability, Vec<Part>),
    Flush,
    Sync,
    Compact(usize),
    /// Creates the keyspace if it does not exist.
    Create(usize),
    Drop(usize),
    Reopen,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Write(durability, parts) => {
                write!(f, "{}", durability.as_str())?;
                for (keyspace, key, value) in parts {
                    write!(f, " {}/{}=", NAMES[*keyspace], key.escape_ascii())?;
                    match value {
                        Some(value) => write!(f, "{}", value.len())?,
                        None => f.write_str("deleted")?,
                    }
                }
                Ok(())
            }
            Op::Flush => f.write_str("flush"),
            Op::Sync => f.write_str("sync"),
            Op::Compact(at) => write!(f, "compact {}", NAMES[*at]),
            Op::Create(at) => write!(f, "create {}", NAMES[*at]),
            Op::Drop(at) => write!(f, "drop {}", NAMES[*at]),
            Op::Reopen => f.write_str("reopen"),
        }
    }
}

/// Makes random operations.
#[derive(Clone, Debug)]
pub(crate) struct Generator {
    pub(crate) rng: Rng,
    /// Keyspaces in use, from the front of [`NAMES`].
    pub(crate) keyspaces: u64,
    pub(crate) durabilities: Vec<Durability>,
    pub(crate) keys: u64,
    pub(crate) value_bytes: u64,
    /// If set, values expire: some or, with a default time to live in seconds, all.
    pub(crate) lives: Option<Lives>,
    written: u64,
}

/// How values expire.
#[derive(Clone, Debug)]
pub(crate) struct Lives {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) default_ttl_s: u64,
}

impl Generator {
    pub(crate) fn new(seed: u64, keyspaces: u64, durabilities: &[Durability]) -> Self {
        Generator {
            rng: Rng::new(seed),
            keyspaces,
            durabilities: durabilities.to_vec(),
            keys: 80,
            value_bytes: 160,
            lives: None,
            written: 0,
        }
    }

    /// Keys of many lengths, with long shared prefixes, bytes of 0xff and 0, and the empty key among them.
    pub(crate) fn key(&mut self) -> Key {
        let n = self.rng.below(self.keys);
        match n % 8 {
            0 => format!("{n}").into_bytes(),
            1 => format!("a long prefix that many keys share/{n:04}").into_bytes(),
            2 => vec![0xff; (n / 8 % 5) as usize],
            3 => [b"a".as_slice(), &vec![0; (n / 8 % 5) as usize]].concat(),
            _ => format!("key{n:03}").into_bytes(),
        }
    }

    pub(crate) fn value(&mut self) -> Vec<u8> {
        self.written += 1;
        let len = match self.rng.below(40) {
            0 => 0,
            1 => self.value_bytes * 20,
            _ => self.rng.below(self.value_bytes),
        };
        let until_ms = self.until_ms();
        let mut value = match until_ms {
            Some(until_ms) => format!("until {until_ms}:{}:", self.written).into_bytes(),
            None if len == 0 => return Vec::new(),
            None => format!("{}:", self.written).into_bytes(),
        };
        // Half of it compressible.
        for at in 0..len {
            value.push(if at % 16 < 8 { b'v' } else { self.rng.below(256) as u8 });
        }
        value
    }

    fn until_ms(&mut self) -> Option<u64> {
        let Lives { clock, default_ttl_s } = self.lives.clone()?;
        let ttl_ms = match self.rng.below(4) {
            0 | 1 if default_ttl_s > 0 => 1000 * default_ttl_s,
            0 | 1 => return None,
            2 => 1 + self.rng.below(20_000),
            _ => 1000 * (1 + self.rng.below(300)),
        };
        Some(clock.unix_ms() + ttl_ms)
    }

    pub(crate) fn part(&mut self) -> Part {
        let keyspace = self.rng.below(self.keyspaces) as usize;
        let key = self.key();
        let value = (!self.rng.percent(25)).then(|| self.value());
        (keyspace, key, value)
    }

    pub(crate) fn write(&mut self) -> Op {
        let durability = self.rng.pick(&self.durabilities.clone());
        let count = if self.rng.percent(25) { 2 + self.rng.below(6) } else { 1 };
        Op::Write(durability, (0..count).map(|_| self.part()).collect())
    }

    pub(crate) fn writes(&mut self, count: u64) -> Vec<Op> {
        (0..count).map(|_| self.write()).collect()
    }

    /// Anything.
    pub(crate) fn op(&mut self) -> Op {
        let other = self.keyspaces > 1;
        match self.rng.below(1000) {
            0..10 => Op::Flush,
            10..20 => Op::Sync,
            20..28 => Op::Compact(self.rng.below(self.keyspaces) as usize),
            28..34 if other => Op::Drop(1 + self.rng.below(self.keyspaces - 1) as usize),
            34..46 if other => Op::Create(1 + self.rng.below(self.keyspaces - 1) as usize),
            46..52 => Op::Reopen,
            _ => self.write(),
        }
    }
}

/// Which life of a name a keyspace is.
pub(crate) type Instance = u32;
/// The keyspaces that exist, by index in [`NAMES`], with their instances.
pub(crate) type Alive = BTreeMap<usize, Instance>;

/// The changes of one write.
pub(crate) type Write = Vec<(Instance, Key, Option<Vec<u8>>)>;

/// See the module text.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) moment: Moment,
    /// What expires by then is not there.
    pub(crate) now_ms: u64,
    next_instance: Instance,
}

/// What is known at one moment of a history.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// That many writes, from the first, must survive a power loss.
    pub(crate) synced: usize,
    /// That many must survive the death of the process.
    pub(crate) logged: usize,
    /// No more than these may be there.
    pub(crate) issued: usize,
    pub(crate) alive: Alive,
    /// The keyspaces after the change that is under way.
    pub(crate) next_alive: Option<Alive>,
}

impl Default for History {
    fn default() -> Self {
        let alive = Alive::from([(0, 0)]);
        let moment = Moment { synced: 0, logged: 0, issued: 0, alive, next_alive: None };
        History { writes: Vec::new(), moment, now_ms: 0, next_instance: 1 }
    }
}

/// The contents of the keyspaces, by index in [`NAMES`].
pub(crate) type Contents = BTreeMap<usize, Map>;

impl History {
    /// The contents after the first `count` writes, of the keyspaces in `alive`.
    pub(crate) fn contents(&self, count: usize, alive: &Alive) -> Contents {
        let mut maps: BTreeMap<Instance, Map> = BTreeMap::new();
        for write in &self.writes[..count] {
            apply(&mut maps, write);
        }
        of_alive(&maps, alive)
    }

    /// The number of writes of the prefix that `found` is, between `least` and what was issued at `moment`.
    pub(crate) fn find_prefix(
        &self,
        found: &Contents,
        least: usize,
        moment: &Moment,
    ) -> Result<usize, String> {
        self.find_prefix_by(found, least, moment, |map, found| same_living(map, found, self.now_ms))
    }

    /// As [`History::find_prefix`], with another notion of what is the same.
    pub(crate) fn find_prefix_by(
        &self,
        found: &Contents,
        least: usize,
        moment: &Moment,
        is_same: impl Fn(&MapOfRefs<'_>, &Map) -> bool,
    ) -> Result<usize, String> {
        let candidates = [Some(&moment.alive), moment.next_alive.as_ref()];
        let none = MapOfRefs::new();
        for alive in candidates.into_iter().flatten() {
            if !alive.keys().eq(found.keys()) {
                continue;
            }
            let mut maps: BTreeMap<Instance, MapOfRefs<'_>> = BTreeMap::new();
            let (first, more) = self.writes[..moment.issued].split_at(least);
            for write in first {
                apply_refs(&mut maps, write);
            }
            let mut more = more.iter();
            for count in least.. {
                let same = alive
                    .iter()
                    .all(|(at, instance)| is_same(maps.get(instance).unwrap_or(&none), &found[at]));
                if same {
                    return Ok(count);
                }
                match more.next() {
                    Some(write) => apply_refs(&mut maps, write),
                    None => break,
                }
            }
        }
        let nearest = if moment.alive.keys().eq(found.keys()) {
            difference(&self.contents(least, &moment.alive), found)
        } else {
            "the keyspaces are others".to_owned()
        };
        Err(format!("no prefix of {least}..={} writes: against {least}: {nearest}", moment.issued))
    }

    /// How many sequence numbers the first `count` writes took, at least.
    pub(crate) fn sequences(&self, count: usize) -> u64 {
        self.writes[..count].iter().map(|write| write.len() as u64).sum()
    }
}

/// A map into the history.
pub(crate) type MapOfRefs<'a> = BTreeMap<&'a Key, &'a Vec<u8>>;

/// Whether `found` is what of `map` is there at `now_ms`; 0: time does not matter.
pub(crate) fn same_living(map: &MapOfRefs<'_>, found: &Map, now_ms: u64) -> bool {
    let lives =
        |value: &[u8]| now_ms == 0 || until_ms(value).is_none_or(|until_ms| until_ms > now_ms);
    let living = map.iter().filter(|(_, value)| lives(value));
    living.map(|(key, value)| (*key, *value)).eq(found)
}

fn apply_refs<'a>(maps: &mut BTreeMap<Instance, MapOfRefs<'a>>, write: &'a Write) {
    for (instance, key, value) in write {
        let map = maps.entry(*instance).or_default();
        match value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(key)),
        }
    }
}

fn apply(maps: &mut BTreeMap<Instance, Map>, write: &[(Instance, Key, Option<Vec<u8>>)]) {
    for (instance, key, value) in write {
        let map = maps.entry(*instance).or_default();
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

fn of_alive(maps: &BTreeMap<Instance, Map>, alive: &Alive) -> Contents {
    alive
        .iter()
        .map(|(at, instance)| (*at, maps.get(instance).cloned().unwrap_or_default()))
        .collect()
}

/// The first keys in which two contents differ, in words.
pub(crate) fn difference(expected: &Contents, found: &Contents) -> String {
    let mut text = String::new();
    let none = Map::new();
    for (at, name) in NAMES.iter().enumerate() {
        let (expected, found) =
            (expected.get(&at).unwrap_or(&none), found.get(&at).unwrap_or(&none));
        let keys: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
        let differing = keys.into_iter().filter(|key| expected.get(*key) != found.get(*key));
        for key in differing.take(3) {
            let short = |map: &Map| {
                map.get(key).map_or("nothing".to_owned(), |value| {
                    value[..value.len().min(12)].escape_ascii().to_string()
                })
            };
            let (key, expected, found) = (key.escape_ascii(), short(expected), short(found));
            let _ = write!(text, "{name}/{key}: expected {expected}, found {found}; ");
        }
    }
    text
}

/// Reads all keyspaces of a database.
pub(crate) fn read_contents(db: &Db) -> esker::Result<Contents> {
    let mut contents = Contents::new();
    for name in db.list_keyspaces() {
        let at = NAMES.iter().position(|known| *known == name).expect("a keyspace nobody created");
        let keyspace = db.open_keyspace(&name)?.expect("it was just listed");
        contents.insert(at, read_map(&keyspace)?);
    }
    Ok(contents)
}

pub(crate) fn read_map(keyspace: &Keyspace) -> esker::Result<Map> {
    keyspace.iter().map(|item| item.map(|(key, value)| (key, value.to_vec()))).collect()
}

/// A database under test, with the history of what was done to it.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) dir: PathBuf,
    pub(crate) db: Option<Db>,
    pub(crate) history: Arc<Mutex<History>>,
}

impl World {
    pub(crate) fn on_sim(setup: &Setup, fs: &SimFs) -> Self {
        World::new(setup, Arc::new(fs.clone()), Path::new(DIR))
    }

    /// A world without an open database.
    pub(crate) fn new(setup: &Setup, fs: Arc<dyn FileSystem>, dir: &Path) -> Self {
        World {
            setup: setup.clone(),
            fs,
            dir: dir.to_path_buf(),
            db: None,
            history: Arc::default(),
        }
    }

    pub(crate) fn open(&mut self) -> esker::Result<()> {
        self.db = Some(self.setup.open(Arc::clone(&self.fs), &self.dir)?);
        Ok(())
    }

    pub(crate) fn db(&self) -> &Db {
        self.db.as_ref().expect("the database is open")
    }

    /// A handle of the keyspace, if it exists.
    pub(crate) fn keyspace(&self, at: usize) -> Option<Keyspace> {
        self.db().open_keyspace(NAMES[at]).expect("the database is open")
    }

    fn with<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        change(&mut self.history.lock().unwrap())
    }

    pub(crate) fn moment(&self) -> Moment {
        self.with(|history| history.moment.clone())
    }

    /// What the database was given, expired or not.
    pub(crate) fn given(&self) -> Contents {
        self.with(|history| history.contents(history.writes.len(), &history.moment.alive))
    }

    /// The contents that the database must have now.
    pub(crate) fn expected(&self) -> Contents {
        let now_ms = self.setup.now_ms();
        self.given().into_iter().map(|(at, map)| (at, living(map, now_ms))).collect()
    }

    /// Does `op`, and keeps the history. Parts in keyspaces that do not exist are left out.
    pub(crate) fn run(&mut self, op: &Op) -> esker::Result<()> {
        match op {
            Op::Write(durability, parts) => self.write(*durability, parts),
            Op::Flush => {
                self.db().flush()?;
                self.all_is_durable();
                Ok(())
            }
            Op::Sync => {
                self.db().sync()?;
                self.with(|history| {
                    history.moment.synced = history.moment.synced.max(history.moment.logged);
                });
                Ok(())
            }
            Op::Compact(at) => self.compact(*at),
            Op::Create(at) => self.create(*at),
            Op::Drop(at) => self.drop_keyspace(*at),
            Op::Reopen => {
                self.close()?;
                self.open()
            }
        }
    }

    /// Closes the database; everything is durable then.
    pub(crate) fn close(&mut self) -> esker::Result<()> {
        self.db.take().expect("the database is open").close()?;
        self.all_is_durable();
        Ok(())
    }

    fn all_is_durable(&self) {
        self.with(|history| {
            history.moment.synced = history.writes.len();
            history.moment.logged = history.writes.len();
        });
    }

    fn write(&self, durability: Durability, parts: &[Part]) -> esker::Result<()> {
        let alive = self.moment().alive;
        let parts: Vec<_> = parts.iter().filter(|part| alive.contains_key(&part.0)).collect();
        if parts.is_empty() {
            return Ok(());
        }
        self.change(durability, &parts, || self.write_parts(durability, &parts))
    }

    /// Does `act`, which makes the changes `parts` at once, or none of them if it fails: a write, or anything that is
    /// as atomic. When it has returned, what it wrote, and all before it, is as durable as `durability` says.
    pub(crate) fn change(
        &self,
        durability: Durability,
        parts: &[&Part],
        act: impl FnOnce() -> esker::Result<()>,
    ) -> esker::Result<()> {
        self.with(|history| {
            let alive = &history.moment.alive;
            let write =
                parts.iter().map(|(at, key, value)| (alive[at], key.clone(), value.clone()));
            history.writes.push(write.collect());
            history.moment.issued = history.writes.len();
        });
        let result = act();
        self.settle_write(durability, &result);
        result
    }

    fn write_parts(&self, durability: Durability, parts: &[&Part]) -> esker::Result<()> {
        let options = WriteOptions::with_durability(durability);
        match parts {
            [(at, key, Some(value))] => {
                let keyspace = self.keyspace(*at).unwrap();
                match self.ttl_of(value) {
                    None => keyspace.put_with(key, value, &options),
                    Some(ttl) if durability == self.setup.db.durability => {
                        keyspace.put_with_ttl(key, value, ttl)
                    }
                    Some(ttl) => {
                        let mut batch = WriteBatch::new();
                        batch.put_in_with_ttl(&keyspace, key, value, ttl);
                        self.db().write_with(batch, &options)
                    }
                }
            }
            [(at, key, None)] => self.keyspace(*at).unwrap().delete_with(key, &options),
            parts => {
                let mut batch = WriteBatch::new();
                for (at, key, value) in parts {
                    let keyspace = self.keyspace(*at).unwrap();
                    match value {
                        Some(value) => match self.ttl_of(value) {
                            Some(ttl) => batch.put_in_with_ttl(&keyspace, key, value, ttl),
                            None => batch.put_in(&keyspace, key, value),
                        },
                        None => batch.delete_in(&keyspace, key),
                    };
                }
                self.db().write_with(batch, &options)
            }
        }
    }

    fn settle_write(&self, durability: Durability, result: &esker::Result<()>) {
        let is_poisoned = result.is_err() && self.db().sync().is_err();
        self.with(|history| match result {
            Ok(()) => {
                let acked = history.writes.len();
                if durability != Durability::Disabled {
                    history.moment.logged = acked;
                }
                let is_synced = durability == Durability::Sync
                    || (durability == Durability::Async && self.setup.db.background_threads == 0);
                if is_synced {
                    history.moment.synced = acked;
                }
            }
            // The log failed: it may be there or not.
            Err(_) if is_poisoned => {}
            // Nothing was written.
            Err(_) => {
                history.writes.pop();
                history.moment.issued = history.writes.len();
            }
        });
    }

    /// How long the value is to live, unless that is what the keyspace gives it.
    fn ttl_of(&self, value: &[u8]) -> Option<Duration> {
        let ttl_ms = until_ms(value)? - self.setup.now_ms();
        let is_default = ttl_ms == 1000 * self.setup.keyspace.default_ttl_s;
        (!is_default).then(|| Duration::from_millis(ttl_ms))
    }

    fn compact(&self, at: usize) -> esker::Result<()> {
        let Some(keyspace) = self.keyspace(at) else { return Ok(()) };
        keyspace.compact_range::<&[u8]>(..)?;
        self.with(|history| {
            // It flushes what this keyspace holds; by the prefix rule nothing before that may be missing.
            let instance = history.moment.alive[&at];
            let touches = |write: &Write| write.iter().any(|part| part.0 == instance);
            let last = history.writes.iter().rposition(touches).map_or(0, |index| index + 1);
            history.moment.synced = history.moment.synced.max(last);
            history.moment.logged = history.moment.logged.max(last);
        });
        Ok(())
    }

    fn create(&self, at: usize) -> esker::Result<()> {
        if self.moment().alive.contains_key(&at) {
            return Ok(());
        }
        self.with(|history| {
            let mut next = history.moment.alive.clone();
            next.insert(at, history.next_instance);
            history.next_instance += 1;
            history.moment.next_alive = Some(next);
        });
        self.db().keyspace(NAMES[at], self.setup.keyspace.clone())?;
        self.settle_keyspaces();
        Ok(())
    }

    fn drop_keyspace(&self, at: usize) -> esker::Result<()> {
        if !self.moment().alive.contains_key(&at) {
            return Ok(());
        }
        self.with(|history| {
            let mut next = history.moment.alive.clone();
            next.remove(&at);
            history.moment.next_alive = Some(next);
        });
        assert!(self.db().drop_keyspace(NAMES[at])?, "a keyspace that exists was not found");
        self.settle_keyspaces();
        Ok(())
    }

    fn settle_keyspaces(&self) {
        self.with(|history| {
            if let Some(next) = history.moment.next_alive.take() {
                history.moment.alive = next;
            }
        });
    }

    /// After a crash: `count` writes are left. The history goes on from there.
    pub(crate) fn truncate(&self, count: usize, found: &Contents) {
        self.with(|history| {
            history.writes.truncate(count);
            let next = history.moment.next_alive.take();
            if let Some(next) = next.filter(|next| next.keys().eq(found.keys())) {
                history.moment.alive = next;
            }
            (history.moment.synced, history.moment.logged, history.moment.issued) =
                (count, count, count);
        });
    }
}
