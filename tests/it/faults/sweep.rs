//! Every operation of many workloads fails, once and for ever.
//!
//! A [`Scenario`] is a workload on a prepared database, with options of its own: each strategy, both ways of reading,
//! the recovery of a killed process, long logs, keyspaces that come and go. It runs once in health, which numbers its
//! file operations. Then it runs again for each [`Fault`]: an operation, an error number, and a manner. The faults
//! are taken class by class (`open`, `write`, `sync_data`, `map`, `populate`, ...), so that any number of them is a
//! mixture. Reads are operations too.
//!
//! What must hold all along:
//! * A call returns an error that names the file and the operation, or has truly done what it says.
//! * A fault that struck is told: by the call, or as a background error in the metrics. Only what may fail without
//!   harm is not: the removal of waste, the log segment made ready in advance, and reading ahead. (With background
//!   threads nobody can say which call should tell; there the rest of this list is checked.)
//! * No read gives a wrong answer, or an end that is none; iterators and cursors that met an error stay where it left
//!   them.
//! * After a failed write or sync of the log or the manifest every write is refused as `Poisoned`, reads go on, and
//!   that file is never synced again while the database is open.
//!
//! And afterwards, with the device well again, in what the process and what the power leaves: every acked write is
//! there, the tree verifies, new synced writes survive the next power cut together with everything that was seen
//! before it, and nothing is left over.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use esker::Durability::{Async, Buffered, Disabled, Sync};
use esker::fs::sim_fs::{Persist, Repeat, SimFs};
use esker::{
    Compaction, Compression, Db, ErrorKind, Fifo, LazyLeveled, Leveled, ReadMode, SizeTiered,
    TimeWindow, Verify, WalMode, WriteOptions,
};

use super::{EIO, ENOSPC, is_effective};
use crate::concurrency::guarded;
use crate::support::{
    Contents, DIR, Generator, History, Key, Map, Op, Rng, Setup, World, difference, read_contents,
};
use crate::trust;

const EINTR: i32 = 4;
const EMFILE: i32 = 24;

/// The classes of operations, by the first word of their trace line, and whether they read.
const CLASSES: [(&str, bool); 16] = [
    ("open", true),
    ("read", true),
    ("map", true),
    ("populate", true),
    ("list", true),
    ("lock", false),
    ("create_dir_all", false),
    ("create", false),
    ("write", false),
    ("start_writeback", false),
    ("sync_data", false),
    ("sync_dir", false),
    ("allocate", false),
    ("rename", false),
    ("remove", false),
    ("truncate", false),
];

fn class_of(verb: &str) -> Option<usize> {
    CLASSES.iter().position(|(name, _)| *name == verb)
}

/// Whom the fault strikes beside its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Once,
    /// All later operations.
    ForEver,
    /// All later operations of its class.
    ClassForEver,
    /// Nothing fails by itself, but the disk is full from then on: writes are short.
    FullDisk,
}

const MANNERS: [Manner; 4] =
    [Manner::Once, Manner::ForEver, Manner::ClassForEver, Manner::FullDisk];

#[derive(Clone, Copy, Debug)]
struct Fault {
    scenario: usize,
    number: u64,
    class: usize,
    errno: i32,
    manner: Manner,
}

/// Something that a scenario does.
#[derive(Clone, Debug)]
enum Act {
    Do(Op),
    /// All keyspaces, forward.
    Scan,
    /// The first keyspace from its end.
    ScanBack,
    /// Each key by itself, and keys that are not there.
    Gets,
    MultiGet,
    /// A cursor to and fro.
    Walk,
    Verify,
}

struct Scenario {
    name: String,
    setup: Setup,
    /// Done in health before; then the process dies or the database is closed.
    prepare: Vec<Op>,
    is_killed: bool,
    acts: Vec<Act>,
}

/// A scenario whose preparation was done.
struct Prepared {
    scenario: Scenario,
    fs: SimFs,
    history: History,
    /// The class of each operation of a healthy run.
    operations: Vec<Option<usize>>,
}

fn strategies() -> Vec<Compaction> {
    vec![
        Leveled { l0_runs: 2, base_bytes: 64 << 10, fanout: 2 }.into(),
        SizeTiered { merge_width: 3, ..SizeTiered::default() }.into(),
        LazyLeveled { runs_per_level: 2, last_level_fanout: 2 }.into(),
        Fifo { total_bytes_max: 1 << 40, age_max_s: 0, merge_runs: 3 }.into(),
        TimeWindow { window_s: 1, merge_width: 2 }.into(),
    ]
}

fn acts(ops: Vec<Op>) -> Vec<Act> {
    ops.into_iter().map(Act::Do).collect()
}

const READS: [Act; 6] =
    [Act::Scan, Act::ScanBack, Act::Gets, Act::MultiGet, Act::Walk, Act::Verify];

impl Scenario {
    fn new(name: &str, setup: Setup, acts: Vec<Act>) -> Self {
        Scenario { name: name.to_owned(), setup, prepare: Vec::new(), is_killed: false, acts }
    }

    fn after(mut self, prepare: Vec<Op>, is_killed: bool) -> Self {
        (self.prepare, self.is_killed) = (prepare, is_killed);
        self
    }

    fn prepare(self) -> Prepared {
        let fs = SimFs::new();
        let mut world = World::on_sim(&self.setup, &fs);
        if !self.prepare.is_empty() {
            world.open().unwrap();
            self.prepare.iter().for_each(|op| world.run(op).unwrap());
            if !self.is_killed {
                world.close().unwrap();
            }
        }
        let fs = fs.kill_clone();
        world.db = None;
        let history = world.history.lock().unwrap().clone();
        let healthy = fs.kill_clone();
        healthy.trace_operations(true);
        let mut run = Run::new(&self, &history, &healthy);
        run.finish().unwrap_or_else(|what| panic!("{} in health: {what}", self.name));
        let verb = |line: &String| line.split(' ').nth(1).and_then(class_of);
        let operations = healthy.operations().iter().map(verb).collect();
        Prepared { scenario: self, fs, history, operations }
    }
}

fn tiny() -> Setup {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 4 << 10;
    setup.keyspace.table_bytes = 4 << 10;
    setup
}

/// Every kind of work, with each strategy.
fn lives(seed: u64) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (index, strategy) in strategies().into_iter().enumerate() {
        let mut setup = tiny();
        setup.db.read_mode = [ReadMode::Mmap, ReadMode::Pread][(index + seed as usize) % 2];
        setup.db.wal_mode = [WalMode::Map, WalMode::Write][index % 2];
        setup.keyspace.compression = vec![[Compression::None, Compression::Snap][index % 2]];
        let name = format!("a life with {}", strategy.name());
        setup.keyspace.compaction = strategy;
        let mut generator = Generator::new(seed, 2, &[Sync, Buffered, Buffered, Async]);
        let mut list = vec![Act::Do(Op::Create(1))];
        list.extend(acts(generator.writes(50)));
        list.extend([Act::Scan, Act::Do(Op::Flush), Act::Gets, Act::Do(Op::Compact(0))]);
        list.extend([Act::ScanBack, Act::Do(Op::Reopen), Act::Walk]);
        list.extend(acts(generator.writes(30)));
        list.extend([Act::Do(Op::Drop(1)), Act::Do(Op::Sync), Act::Do(Op::Flush), Act::Scan]);
        if index < 2 {
            let mut setup = setup.clone();
            setup.db.background_threads = 1 + index;
            let name = format!("{name}, {} background threads", 1 + index);
            scenarios.push(Scenario::new(&name, setup, list.clone()));
        }
        scenarios.push(Scenario::new(&name, setup, list));
    }
    scenarios
}

/// Merges of what stands in many runs already.
fn merges(seed: u64) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (index, strategy) in strategies().into_iter().enumerate() {
        let mut setup = tiny();
        setup.db.read_mode = [ReadMode::Pread, ReadMode::Mmap][(index + seed as usize) % 2];
        setup.db.open_tables_max = 16;
        setup.db.cache_bytes = 0;
        let name = format!("merges with {}", strategy.name());
        setup.keyspace.compaction = strategy;
        let mut generator = Generator::new(seed + 1, 1, &[Buffered, Disabled]);
        generator.value_bytes = 400;
        let prepare = generator.writes(80);
        // Closing made all of that durable. What no log holds may be missing now, below writes that a log holds.
        generator.durabilities = vec![Buffered, Async];
        let mut list = acts(generator.writes(15));
        list.extend([Act::Do(Op::Compact(0)), Act::Scan, Act::Do(Op::Flush), Act::Gets]);
        scenarios.push(Scenario::new(&name, setup, list).after(prepare, false));
    }
    scenarios
}

/// Reads of all kinds.
fn readings(seed: u64) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for read_mode in [ReadMode::Mmap, ReadMode::Pread] {
        for verify in [Verify::Once, Verify::Always] {
            let mut setup = tiny();
            (setup.db.read_mode, setup.db.verify) = (read_mode, verify);
            setup.db.cache_bytes = 0;
            setup.keyspace.compression = vec![Compression::None, Compression::Zstd];
            let mut generator = Generator::new(seed + 2, 2, &[Buffered]);
            let mut prepare = vec![Op::Create(1)];
            prepare.extend(generator.writes(90));
            let name = format!("reading by {}, {}", read_mode.as_str(), verify.as_str());
            // Each in its turn is the first to touch the blocks.
            let mut list = READS.to_vec();
            list.rotate_left((seed % 6) as usize);
            scenarios.push(Scenario::new(&name, setup, list).after(prepare, false));
        }
    }
    scenarios
}

/// What a dead process left.
fn recoveries(seed: u64) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (name, memtable_bytes) in [("a log alone", 64 << 20), ("tables and a log", 4 << 10)] {
        let mut setup = tiny();
        setup.keyspace.memtable_bytes = memtable_bytes;
        let mut generator = Generator::new(seed + 3, 2, &[Sync, Buffered, Buffered]);
        generator.value_bytes = 300;
        let mut prepare = vec![Op::Create(1)];
        prepare.extend(generator.writes(80));
        let mut list = vec![Act::Scan, Act::Gets];
        list.extend(acts(generator.writes(10)));
        list.extend([Act::Do(Op::Reopen), Act::Do(Op::Flush), Act::Do(Op::Reopen), Act::Scan]);
        let name = format!("recovery of {name}");
        scenarios.push(Scenario::new(&name, setup, list).after(prepare, true));
    }
    scenarios
}

/// Segments that fill, are recycled and removed; and keyspaces that come and go.
fn logs_and_keyspaces(seed: u64) -> Vec<Scenario> {
    let mut setup = tiny();
    setup.keyspace.memtable_bytes = 32 << 10;
    setup.db.wal_bytes_max = 2 * setup.db.wal_segment_bytes;
    let mut generator = Generator::new(seed + 4, 1, &[Sync, Buffered, Async]);
    generator.value_bytes = 6000;
    let mut list = acts(generator.writes(100));
    list.push(Act::Scan);
    let log = Scenario::new("a long log", setup, list);
    let mut generator = Generator::new(seed + 5, 3, &[Sync, Buffered]);
    let mut list = Vec::new();
    for round in 0..4 {
        list.extend(acts(vec![Op::Create(1), Op::Create(2)]));
        list.extend(acts(generator.writes(8)));
        list.extend(acts(vec![Op::Flush, Op::Drop(1 + round % 2)]));
        list.extend(acts(generator.writes(2)));
        list.push(Act::Scan);
    }
    list.push(Act::Do(Op::Reopen));
    vec![log, Scenario::new("keyspaces", tiny(), list)]
}

fn scenarios(seed: u64) -> Vec<Scenario> {
    [lives(seed), merges(seed), readings(seed), recoveries(seed), logs_and_keyspaces(seed)]
        .into_iter()
        .flatten()
        .collect()
}

/// All faults of the scenarios: a fault of each class, manner and scenario in turn, then another of each.
fn plan(prepared: &[Prepared], rng: &mut Rng) -> Vec<Fault> {
    let mut heaps: BTreeMap<(Manner, usize, usize), Vec<u64>> = BTreeMap::new();
    for (scenario, prepared) in prepared.iter().enumerate() {
        for (number, class) in prepared.operations.iter().enumerate() {
            let Some(class) = *class else { continue };
            for manner in MANNERS {
                if manner != Manner::FullDisk || !CLASSES[class].1 {
                    heaps.entry((manner, class, scenario)).or_default().push(number as u64);
                }
            }
        }
    }
    let mut heaps: Vec<_> = heaps.into_iter().collect();
    // So that the first few already have something of everything.
    for at in (1..heaps.len()).rev() {
        heaps.swap(at, rng.below(at as u64 + 1) as usize);
    }
    let mut faults = Vec::new();
    while !heaps.is_empty() {
        heaps.retain_mut(|((manner, class, scenario), numbers)| {
            let number = numbers.swap_remove(rng.below(numbers.len() as u64) as usize);
            let errno = match CLASSES[*class].0 {
                "open" => rng.pick(&[EIO, EMFILE, EINTR]),
                verb if CLASSES[*class].1 || verb == "lock" => rng.pick(&[EIO, EINTR]),
                _ => rng.pick(&[EIO, ENOSPC, EINTR]),
            };
            let (scenario, class, manner) = (*scenario, *class, *manner);
            faults.push(Fault { scenario, number, class, errno, manner });
            !numbers.is_empty()
        });
    }
    faults
}

impl Fault {
    fn arm(self, fs: &SimFs) {
        let Fault { number, errno, .. } = self;
        match self.manner {
            Manner::Once => fs.fail_at(number, errno, Repeat::Once),
            Manner::ForEver => fs.fail_at(number, errno, Repeat::Forever),
            Manner::ClassForEver => {
                let verb = CLASSES[self.class].0;
                fs.on_operation(move |fs, now| {
                    if now == number {
                        fs.fail_when(verb, errno, Repeat::Forever);
                    }
                });
            }
            Manner::FullDisk => fs.on_operation(move |fs, now| {
                if now == number {
                    fs.set_capacity_bytes(Some(0));
                }
            }),
        }
    }
}

/// A failed operation, as the trace tells it.
#[derive(Clone, Debug)]
struct Strike {
    verb: String,
    file: String,
    /// Nobody needs to know. What cannot be removed is removed by the next open. A segment that cannot be made ready in
    /// advance is made when it is needed. What cannot be read ahead is read block by block.
    is_harmless: bool,
}

fn is_log(file: &str) -> bool {
    file.rsplit('.').next() == Some("wal")
}

/// Whether line `at` belongs to the sealing of the manifest by a clean close, which is for the better and may fail: it
/// replaces `CURRENT` without having begun a manifest.
fn seals_manifest(words: &[Vec<&str>], at: usize) -> bool {
    let is_step = words[at][2] == "CURRENT.tmp"
        || words[at][1] == "sync_dir" && at > 0 && words[at - 1][2] == "CURRENT.tmp";
    let begin = |line: &Vec<&str>| line[1] == "create" && line[2] == "CURRENT.tmp";
    let begun = words[..=at].iter().rposition(begin);
    is_step && begun.is_some_and(|begun| begun > 0 && words[begun - 1][1] != "sync_dir")
}

impl Strike {
    /// The strike in line `at` of the trace; `words` are those of all lines.
    fn of(words: &[Vec<&str>], at: usize) -> Self {
        let (verb, file) = (words[at][1], words[at][2]);
        let before = at.checked_sub(1).map(|before| &words[before]);
        let is_log = is_log(file);
        let is_harmless = match verb {
            "remove" => true,
            _ if seals_manifest(words, at) => true,
            "create" | "allocate" | "rename" | "open" => is_log,
            "sync_data" => {
                is_log && before.is_some_and(|line| line[1] == "allocate" && line[2] == file)
            }
            // A segment has its name, but no data yet.
            "sync_dir" => before.is_some_and(|line| {
                ["open", "sync_data"].contains(&line[1]) && self::is_log(line[2])
            }),
            // The block that a window was for, at the end where the cursor came in, is read again at once.
            "populate" | "read" => words.get(at + 1).is_some_and(|line| {
                let ends = |line: &[&str]| -> Option<(u64, u64)> {
                    let (start, len) = line.get(3)?.split_once('+')?;
                    let start: u64 = start.parse().ok()?;
                    Some((start, start + len.parse::<u64>().ok()?))
                };
                let same_end = ends(line).zip(ends(&words[at]));
                line[1..3] == words[at][1..3]
                    && same_end.is_some_and(|(now, then)| now.0 == then.0 || now.1 == then.1)
            }),
            _ => false,
        };
        Strike { verb: verb.to_owned(), file: file.to_owned(), is_harmless }
    }

    /// Whether the log or the manifest cannot be trusted any more.
    fn poisons(&self) -> bool {
        let is_write = ["write", "sync_data"].contains(&self.verb.as_str());
        let is_one = is_log(&self.file) || self.file.starts_with("MANIFEST");
        is_write && is_one && !self.is_harmless
    }
}

/// One run of a scenario.
struct Run<'a> {
    scenario: &'a Scenario,
    fs: SimFs,
    world: World,
    /// Writes that a call said were done.
    acked: usize,
    failures_seen: u64,
    lines_seen: usize,
    is_poisoned: bool,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, history: &History, fs: &SimFs) -> Self {
        let world = World::on_sim(&scenario.setup, fs);
        *world.history.lock().unwrap() = history.clone();
        let acked = history.writes.len();
        let fs = fs.clone();
        let (failures_seen, lines_seen, is_poisoned) = (0, 0, false);
        Run { scenario, fs, world, acked, failures_seen, lines_seen, is_poisoned }
    }

    /// What struck since the last call.
    fn new_strikes(&mut self) -> Vec<Strike> {
        let failures = self.fs.counters().failures;
        if failures == self.failures_seen {
            return Vec::new();
        }
        self.failures_seen = failures;
        let lines = self.fs.operations();
        let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
        let from = std::mem::replace(&mut self.lines_seen, lines.len());
        let struck = (from..lines.len()).filter(|at| lines[*at].contains(" failed: "));
        let mut strikes: Vec<Strike> = struck.map(|at| Strike::of(&words, at)).collect();
        if strikes.is_empty() {
            // A full disk refuses in the middle of an operation; the trace shows it as begun.
            let (verb, file) = ("write".to_owned(), "on a full disk".to_owned());
            let seals = |at: usize| words[at][1] == "write" && seals_manifest(&words, at);
            let is_harmless = words[from..].iter().any(|line| line[1] == "allocate")
                || (from..words.len()).any(seals);
            strikes.push(Strike { verb, file, is_harmless });
        }
        strikes
    }

    /// Whether faults may strike while no call is under way.
    fn has_threads(&self) -> bool {
        self.scenario.setup.db.background_threads > 0
    }

    fn background_errors(&self) -> u64 {
        self.world.db.as_ref().map_or(0, |db| db.metrics().background_errors)
    }

    /// Runs the scenario; says what is wrong.
    fn finish(&mut self) -> Result<(), String> {
        if !self.open()? {
            return Ok(());
        }
        for (at, act) in self.scenario.acts.iter().enumerate() {
            let told = |what: String| format!("act {at}, {act:?}: {what}");
            if let Act::Do(Op::Reopen) = act {
                if !self.reopen().map_err(told)? {
                    return Ok(());
                }
                continue;
            }
            if self.is_poisoned && matches!(act, Act::Do(Op::Create(_) | Op::Drop(_))) {
                // The history remembers one change of the keyspaces that may have happened.
                continue;
            }
            let errors_before = self.background_errors();
            let result = match act {
                Act::Do(op) => self.world.run(op),
                act => self.read(act).map_err(told)?,
            };
            let was_poisoned = self.is_poisoned;
            if let Err(error) = &result {
                check_told(error).map_err(told)?;
                self.is_poisoned |= error.kind() == ErrorKind::Poisoned;
            }
            let strikes = self.new_strikes();
            let is_told = result.is_err() || self.background_errors() > errors_before;
            if !is_told && !self.has_threads() && strikes.iter().any(|strike| !strike.is_harmless) {
                return Err(told(format!("nobody was told of {strikes:?}")));
            }
            if let Act::Do(op) = act {
                self.settle_write(op, &result, was_poisoned).map_err(told)?;
            }
            if strikes.iter().any(Strike::poisons) && !self.has_threads() {
                self.check_poisoned().map_err(told)?;
            }
        }
        self.check_reads_at_end()
    }

    fn settle_write(
        &mut self,
        op: &Op,
        result: &esker::Result<()>,
        was_poisoned: bool,
    ) -> Result<(), String> {
        // Writes to keyspaces that do not exist are left out by the world.
        if let (Op::Write(..), Ok(()), true) = (op, result, is_effective(&self.world, op)) {
            if was_poisoned {
                return Err("a write on a poisoned database".into());
            }
            self.acked = self.world.history.lock().unwrap().writes.len();
        }
        let may_be_other = matches!(op, Op::Flush | Op::Compact(_));
        match result {
            Err(error) if was_poisoned && error.kind() != ErrorKind::Poisoned && !may_be_other => {
                Err(format!("after poison: {error:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Every way to change something is refused, and nothing is synced.
    fn check_poisoned(&mut self) -> Result<(), String> {
        self.is_poisoned = true;
        let db = self.world.db();
        let results = [
            ("put", db.put("never", "written")),
            ("sync put", db.put_with("never", "written", &WriteOptions::SYNC)),
            ("sync", db.sync()),
            ("flush", db.flush()),
        ];
        for (name, result) in results {
            match result {
                Ok(()) => return Err(format!("{name} on a poisoned database")),
                Err(error) if error.kind() != ErrorKind::Poisoned => {
                    return Err(format!("{name} on a poisoned database: {error:?}"));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Opens; if it fails and the device is well again, once more. `Ok(false)`: it cannot be opened.
    fn open(&mut self) -> Result<bool, String> {
        for is_last in [false, true] {
            let result = self.world.open();
            let strikes = self.new_strikes();
            match result {
                Ok(()) => {
                    let told = self.background_errors() > 0;
                    if !told
                        && !self.has_threads()
                        && strikes.iter().any(|strike| !strike.is_harmless)
                    {
                        return Err(format!("open: nobody was told of {strikes:?}"));
                    }
                    self.is_poisoned = false;
                    return Ok(true);
                }
                Err(error) => {
                    check_told(&error).map_err(|what| format!("open: {what}"))?;
                    if strikes.is_empty() && !self.has_threads() {
                        return Err(format!("open without a fault: {error:?}"));
                    }
                    if is_last {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(false)
    }

    fn reopen(&mut self) -> Result<bool, String> {
        let closed = self.world.close();
        let strikes = self.new_strikes();
        match &closed {
            Err(error) => check_told(error)?,
            Ok(()) if !self.has_threads() && strikes.iter().any(|strike| !strike.is_harmless) => {
                return Err(format!("close: nobody was told of {strikes:?}"));
            }
            Ok(()) => {}
        }
        let moment = self.world.moment();
        if !self.open()? {
            return Ok(false);
        }
        let found = match read_contents(self.world.db()) {
            Ok(found) => found,
            Err(error) => {
                check_told(&error)?;
                self.new_strikes();
                self.world.db = None;
                return Ok(false);
            }
        };
        let prefix = {
            let history = self.world.history.lock().unwrap();
            history.find_prefix(&found, moment.logged, &history.moment)
        };
        let count = prefix.map_err(|what| format!("reopened: {what}"))?;
        self.world.truncate(count, &found);
        self.acked = count;
        Ok(true)
    }

    /// What the first keyspace must show.
    fn expected(&self) -> Map {
        let history = self.world.history.lock().unwrap();
        history.contents(self.acked, &history.moment.alive).remove(&0).unwrap_or_default()
    }

    /// `Err`: a wrong answer. `Ok(Err)`: an error that says so.
    fn read(&self, act: &Act) -> Result<esker::Result<()>, String> {
        let (db, expected) = (self.world.db(), self.expected());
        Ok(match act {
            Act::Scan => match read_contents(db) {
                Ok(found) => {
                    self.check_contents(&found)?;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Act::ScanBack => scan_back(db, &expected)?,
            Act::Gets => gets(db, &expected)?,
            Act::MultiGet => {
                let keys: Vec<&Key> = expected.keys().collect();
                match db.multi_get(&keys) {
                    Ok(values) => {
                        let found = values.iter().map(|value| value.as_deref());
                        if !found.eq(expected.values().map(|value| Some(value.as_slice()))) {
                            return Err("multi_get gives a wrong answer".into());
                        }
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            Act::Walk => walk(db, &expected)?,
            Act::Verify => match db.verify() {
                Ok(report) if report.is_ok() => Ok(()),
                // What cannot be read is a problem that it reports.
                Ok(report) if self.fs.counters().failures > self.failures_seen => {
                    report.problems.into_iter().next().map_or(Ok(()), Err)
                }
                Ok(report) => return Err(format!("verify: {report:?}")),
                Err(error) => Err(error),
            },
            Act::Do(_) => unreachable!("not a read"),
        })
    }

    fn check_contents(&self, found: &Contents) -> Result<(), String> {
        let history = self.world.history.lock().unwrap();
        let mut moment = history.moment.clone();
        // Of a write that failed nothing may be seen before the database is opened again.
        moment.issued = self.acked;
        history.find_prefix(found, self.acked, &moment).map(drop)
    }

    /// The database may be poisoned; it can be read, unless reads fail.
    fn check_reads_at_end(&mut self) -> Result<(), String> {
        if let Err(error) = self.read(&Act::Scan)? {
            check_told(&error)?;
            if self.new_strikes().is_empty() && !self.has_threads() {
                return Err(format!("a read failed without a fault: {error:?}"));
            }
        }
        Ok(())
    }
}

fn check_told(error: &esker::Error) -> Result<(), String> {
    let is_named = error.path().is_some() && error.what().contains("cannot ");
    let is_kind = matches!(error.kind(), ErrorKind::Io | ErrorKind::Poisoned);
    if is_named && is_kind { Ok(()) } else { Err(format!("a fault must not look like {error:?}")) }
}

fn scan_back(db: &Db, expected: &Map) -> Result<esker::Result<()>, String> {
    let mut iter = db.iter();
    let mut want = expected.iter();
    loop {
        match iter.next_back() {
            None if want.next_back().is_none() => return Ok(Ok(())),
            None => return Err("an iterator ends too early".into()),
            Some(Ok((key, value))) => {
                let is_right =
                    want.next_back().is_some_and(|(a, b)| (a, b) == (&key, &value.to_vec()));
                if !is_right {
                    return Err(format!("a wrong entry at {}", key.escape_ascii()));
                }
            }
            Some(Err(error)) => {
                // The device may be well again: it must not go on.
                let after = (iter.next_back(), iter.next());
                if matches!(after, (None | Some(Err(_)), None | Some(Err(_)))) {
                    return Ok(Err(error));
                }
                return Err(format!("an iterator goes on after an error: {after:?}"));
            }
        }
    }
}

fn gets(db: &Db, expected: &Map) -> Result<esker::Result<()>, String> {
    let mut first_error = None;
    let absent = expected.keys().map(|key| [key.as_slice(), b"!"].concat());
    let absent: Vec<Key> = absent.filter(|key| !expected.contains_key(key)).collect();
    for key in expected.keys().chain(&absent) {
        match db.get(key) {
            Ok(found) if found.as_deref() == expected.get(key).map(Vec::as_slice) => {}
            Ok(found) => return Err(format!("get {}: {found:?}", key.escape_ascii())),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Ok(first_error.map_or(Ok(()), Err))
}

/// To the middle, back to the start, and through to the end.
fn walk(db: &Db, expected: &Map) -> Result<esker::Result<()>, String> {
    let keys: Vec<&Key> = expected.keys().collect();
    let middle = keys.len() / 2;
    let way = (0..=middle).chain((0..middle).rev()).chain(1..keys.len());
    let mut cursor = db.cursor();
    let mut stands: Option<usize> = None;
    for at in way {
        let moved = match stands {
            None => cursor.seek_to_first(),
            Some(before) if before < at => cursor.next(),
            Some(_) => cursor.prev(),
        };
        if let Err(error) = moved {
            let again = [cursor.seek_to_first(), cursor.next(), cursor.seek_to_last()];
            let stays = !cursor.valid() && again.iter().all(Result::is_err);
            return if stays {
                Ok(Err(error))
            } else {
                Err("a cursor goes on after an error".into())
            };
        }
        let Some(key) = keys.get(at) else { return Ok(Ok(())) };
        if !cursor.valid() || cursor.key() != key.as_slice() || cursor.value() != expected[*key] {
            return Err(format!("a cursor does not stand at {}", key.escape_ascii()));
        }
        stands = Some(at);
    }
    Ok(Ok(()))
}

/// Whether a file of the log or the manifest was synced again after a sync of it had failed, while the database was
/// open.
fn check_no_sync_after_failure(lines: &[String]) -> Result<(), String> {
    let mut failed: Vec<&str> = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        match words[1] {
            "lock" => failed.clear(),
            "sync_data" if failed.contains(&words[2]) => {
                return Err(format!("synced again: {line}"));
            }
            "sync_data" if line.contains(" failed: ") => failed.push(words[2]),
            _ => {}
        }
    }
    Ok(())
}

/// The device is well again. Looks at what the process and what the power leaves.
fn check_healed(run: Run<'_>, seed: u64) -> Result<(), String> {
    let Run { scenario, fs, mut world, .. } = run;
    world.db = None;
    fs.on_operation(|_, _| {});
    fs.clear_faults();
    fs.set_capacity_bytes(None);
    let history = world.history.lock().unwrap().clone();
    let moment = &history.moment;
    let random = Persist::Random { percent: 50, seed };
    let states = [
        ("killed", fs.kill_clone(), moment.logged),
        ("power cut", fs.crash_clone(Persist::Nothing), moment.synced),
        ("power cut, something left", fs.crash_clone(random), moment.synced),
    ];
    // The third is one of many: now and then.
    let count = if seed.is_multiple_of(4) { 3 } else { 2 };
    for (name, fs, least) in states.into_iter().take(count) {
        fs.trace_operations(false);
        let check = || -> esker::Result<Result<(), String>> {
            let db = scenario.setup.open_sim(&fs)?;
            let found = read_contents(&db)?;
            if let Err(what) = history.find_prefix(&found, least, moment) {
                return Ok(Err(what));
            }
            let report = db.verify()?;
            if !report.is_ok() {
                return Ok(Err(format!("{report:?}")));
            }
            check_what_is_built_on_it(scenario, &fs, db, found)
        };
        let result = check().unwrap_or_else(|error| Err(format!("{error:?}")));
        result.map_err(|what| format!("healed, {name}: {what}"))?;
    }
    Ok(())
}

/// What was seen once stays, below a new synced write, over a power cut; and nothing is left over in the end.
fn check_what_is_built_on_it(
    scenario: &Scenario,
    fs: &SimFs,
    db: Db,
    mut found: Contents,
) -> esker::Result<Result<(), String>> {
    db.put_with("after", "all is well", &WriteOptions::SYNC)?;
    found.entry(0).or_default().insert(b"after".to_vec(), b"all is well".to_vec());
    let after = scenario.setup.open_sim(&fs.crash_clone(Persist::Nothing))?;
    let now = read_contents(&after)?;
    if now != found {
        let what = difference(&found, &now);
        return Ok(Err(format!("a synced write, then a power cut: {what}")));
    }
    db.flush()?;
    db.wait_idle()?;
    let levels = db.metrics().keyspaces.into_iter().flat_map(|keyspace| keyspace.levels);
    let table_count = levels.map(|level| level.tables).sum::<u64>() as usize;
    db.close()?;
    let names = fs.list_dir(DIR);
    // The lock, `CURRENT`, its manifest, and the tables.
    let is_clean = names.len() == 3 + table_count;
    Ok(if is_clean { Ok(()) } else { Err(format!("{table_count} tables, but {names:?}")) })
}

/// Runs the scenario with the fault. Gives whether it struck, and what is wrong.
fn strike(prepared: &Prepared, fault: Fault) -> (bool, Result<(), String>) {
    let fs = prepared.fs.kill_clone();
    fs.trace_operations(true);
    fault.arm(&fs);
    let mut run = Run::new(&prepared.scenario, &prepared.history, &fs);
    let mut result = run.finish();
    let has_struck = fs.counters().failures > 0;
    let lines = fs.operations();
    if result.is_ok() {
        result = check_no_sync_after_failure(&lines);
    }
    if result.is_ok() {
        result = check_healed(run, fault.number);
    }
    let result = result.map_err(|what| {
        let failed = lines.iter().position(|line| line.contains(" failed: ")).unwrap_or(0);
        let around = lines[failed.saturating_sub(3)..lines.len().min(failed + 5)].join("\n  ");
        let Fault { number, errno, manner, .. } = fault;
        let name = &prepared.scenario.name;
        format!("{name}, operation {number}, errno {errno}, {manner:?}: {what}\n  {around}")
    });
    (has_struck, result)
}

/// What the sweep counts.
#[derive(Default)]
struct Figures {
    struck: AtomicU64,
    by_class: [AtomicU64; CLASSES.len()],
    by_manner: [AtomicU64; MANNERS.len()],
    failures: Mutex<Vec<String>>,
}

impl Figures {
    /// Strikes until there were `wanted`, or all faults of the seed are done.
    fn sweep(&self, seed: u64, wanted: u64) {
        let prepared: Vec<Prepared> = scenarios(seed).into_iter().map(Scenario::prepare).collect();
        let faults = plan(&prepared, &mut Rng::new(seed));
        let next = AtomicU64::new(0);
        let work = || {
            while self.struck.load(Ordering::Relaxed) < wanted {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(&fault) = faults.get(at as usize) else { return };
                let run = || strike(&prepared[fault.scenario], fault);
                let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
                let (has_struck, result) = run.unwrap_or_else(|_| {
                    let name = &prepared[fault.scenario].scenario.name;
                    (true, Err(format!("{name}, {fault:?}: a panic")))
                });
                if let Err(what) = result {
                    self.failures.lock().unwrap().push(format!("seed {seed}, {what}"));
                }
                if has_struck {
                    self.struck.fetch_add(1, Ordering::Relaxed);
                    self.by_class[fault.class].fetch_add(1, Ordering::Relaxed);
                    let manner = MANNERS.iter().position(|manner| *manner == fault.manner);
                    self.by_manner[manner.unwrap()].fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(work);
            }
        });
    }
}

#[test]
fn every_operation_of_many_workloads_fails() {
    guarded(|| {
        let wanted = trust::cases(300, 4000, 110_000);
        let figures = Figures::default();
        let mut seed = trust::seed();
        while figures.struck.load(Ordering::Relaxed) < wanted {
            figures.sweep(seed, wanted);
            seed += 1;
        }
        let failures = figures.failures.into_inner().unwrap();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut details: Vec<(&str, u64)> =
            CLASSES.iter().map(|class| class.0).zip(figures.by_class.iter().map(count)).collect();
        let manners = ["once", "for_ever", "class_for_ever", "full_disk"];
        details.extend(manners.into_iter().zip(figures.by_manner.iter().map(count)));
        let struck = figures.struck.into_inner();
        trust::report("I/O errors", struck, failures.len() as u64, &details);
        let shown = &failures[..failures.len().min(8)];
        assert!(failures.is_empty(), "{} of {struck}:\n{}", failures.len(), shown.join("\n"));
    });
}
