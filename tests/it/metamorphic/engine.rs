//! A database as it runs a list under one set of options, crashes included.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use esker::clock::Clock;
use esker::fs::sim_fs::{Persist, SimFs};
use esker::{Cursor, Db, Durability, Iter, Keyspace, Snapshot, WriteBatch, WriteOptions};

use super::list::{Answer, At, Change, End, List, Op, Pair, Range, Step};
use super::sets::OptionSet;
use super::{SLOTS, START_MS};
use crate::support::{DIR, Key, NAMES, Rng, Setup};

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

/// The engine as it runs one list.
pub(super) struct Engine<'a> {
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
    pub(super) fn history(list: &List, set: &'a OptionSet, seed: u64) -> Vec<Answer> {
        let mut answers = Vec::new();
        let run = catch_unwind(AssertUnwindSafe(|| {
            let mut set = set.clone();
            set.setup.keyspace.default_ttl_s = list.default_ttl_s;
            let mut rng = Rng::new(seed ^ 0x63_7261_7368);
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
            for item in &keyspace {
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
