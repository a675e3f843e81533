//! What must be true of a crash state.
//!
//! * It opens, and the contents are those of some prefix of the writes, between the last one that must be there and the
//!   last one issued, with batches whole over all keyspaces.
//! * `verify` finds nothing wrong.
//! * Sequence numbers and file numbers go on behind all that were used and are still seen.
//! * A new write wins over every old version, also of keys that were deleted, and survives the next crash.
//! * After a flush and a close the directory holds nothing but what the database needs, and the contents are the same.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use esker::clock::ManualClock;
use esker::fs::sim_fs::{Persist, SimFs};
use esker::{Db, WriteBatch, WriteOptions};

use crate::crash::recording::{Cut, Recording};
use crate::support::{
    Contents, DIR, History, Key, Map, NAMES, Setup, difference, read_contents, same_living,
};

/// What a workload may lose by design.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Allowance {
    #[default]
    Nothing,
    /// Keys that begin with this byte: a filter drops them.
    Keys(u8),
    /// The oldest writes, with all before them: first in, first out. One keyspace.
    Oldest,
}

/// What else must be true of a state; it is given as the crash left it.
pub(crate) type AlsoCheck = fn(&Judge<'_>, &SimFs) -> Result<(), String>;

/// What a state of `cut` is held against.
#[derive(Clone, Copy)]
pub(crate) struct Judge<'a> {
    recording: &'a Recording,
    pub(crate) cut: &'a Cut,
    /// That many writes must be there.
    pub(crate) least: usize,
}

impl<'a> Judge<'a> {
    /// After a power loss.
    pub(crate) fn of_crash(recording: &'a Recording, cut: &'a Cut) -> Self {
        Judge { recording, cut, least: cut.moment.synced }
    }

    /// After the death of the process.
    pub(crate) fn of_kill(recording: &'a Recording, cut: &'a Cut) -> Self {
        Judge { recording, cut, least: cut.moment.logged }
    }

    /// After a power loss in the recovery: what was only logged may be gone.
    pub(crate) fn of_crash_within(self) -> Self {
        Judge { least: self.cut.moment.synced, ..self }
    }

    fn history(&self) -> &'a History {
        &self.recording.histories[self.cut.life]
    }

    /// The setup, with the time of the cut.
    fn setup(&self) -> Setup {
        let mut setup = self.recording.setup.clone();
        if setup.clock.is_some() {
            setup.clock = Some(Arc::new(ManualClock::at_unix_ms(self.cut.now_ms)));
        }
        setup
    }

    pub(crate) fn open(&self, fs: &SimFs) -> Result<Db, String> {
        // Recovery and what follows are the same with and without threads; without, they are exact and fast.
        let mut setup = self.setup();
        setup.db.background_threads = 0;
        setup.open_sim(fs).map_err(|error| format!("open: {error}"))
    }

    fn ignores(&self, key: &[u8]) -> bool {
        matches!(self.recording.allowance, Allowance::Keys(first) if key.first() == Some(&first))
    }

    pub(crate) fn read(&self, db: &Db) -> Result<Contents, String> {
        let mut contents = read_contents(db).map_err(|error| format!("read: {error}"))?;
        if let Some(map) = contents.get_mut(&0) {
            map.retain(|key, _| !self.ignores(key));
        }
        Ok(contents)
    }

    /// The number of writes that `found` holds.
    fn find_prefix(&self, found: &Contents) -> Result<usize, String> {
        let (history, moment) = (self.history(), &self.cut.moment);
        let now_ms = self.cut.now_ms;
        match self.recording.allowance {
            Allowance::Nothing => {
                history.find_prefix_by(found, self.least, moment, |map, found| {
                    same_living(map, found, now_ms)
                })
            }
            Allowance::Keys(_) => {
                history.find_prefix_by(found, self.least, moment, |map, found| {
                    let kept = map.iter().filter(|(key, _)| !self.ignores(key));
                    kept.map(|(key, value)| (*key, *value)).eq(found)
                })
            }
            Allowance::Oldest => {
                let mut counts = self.least..=moment.issued;
                let count = counts.find(|count| is_end(history, *count, &found[&0]));
                count.ok_or_else(|| format!("not the last of {}.. writes", self.least))
            }
        }
    }

    /// Checks all that the module text says. Returns the contents found at first.
    pub(crate) fn check(&self, fs: &SimFs) -> Result<Contents, String> {
        let image = fs.kill_clone();
        let db = self.open(fs)?;
        let found = self.read(&db)?;
        let count = self.find_prefix(&found)?;
        check_verified(&db)?;
        self.check_sequence(&db, count)?;
        let expected = self.check_next_writes(fs, &db, &found)?;
        db.flush().map_err(|error| format!("flush: {error}"))?;
        let table_count = table_count(&db);
        check_numbers(&image, fs, &[".table", "MANIFEST-"], "MANIFEST-")?;
        db.close().map_err(|error| format!("close: {error}"))?;
        check_no_waste(fs, table_count)?;
        let again = self.read(&self.open(fs)?)?;
        self.same(&expected, &again, "after a flush and a close")?;
        match self.recording.also {
            Some(also) => also(self, &image).map(|()| found),
            None => Ok(found),
        }
    }

    fn same(&self, expected: &Contents, found: &Contents, when: &str) -> Result<(), String> {
        let is_same = match self.recording.allowance {
            // Every flush may drop more.
            Allowance::Oldest => {
                found[&0].iter().all(|(key, value)| expected[&0].get(key) == Some(value))
            }
            _ => expected == found,
        };
        if is_same { Ok(()) } else { Err(format!("{when}: {}", difference(expected, found))) }
    }

    /// The writes that are left took that many sequence numbers; the next write must take a later one.
    fn check_sequence(&self, db: &Db, count: usize) -> Result<(), String> {
        let (used, visible) = (self.history().sequences(count), db.snapshot().sequence());
        if visible < used {
            return Err(format!(
                "{count} writes took {used} sequence numbers, but {visible} is the last"
            ));
        }
        Ok(())
    }

    /// Keys to write next: present ones, one that was there once, and a new one.
    fn next_keys(&self, found: &Map) -> Vec<Key> {
        let mut keys: Vec<Key> = found.keys().take(3).cloned().collect();
        let writes = &self.history().writes[..self.cut.moment.issued];
        let written = writes.iter().flatten().map(|(_, key, _)| key);
        let mut gone = written.filter(|key| !found.contains_key(*key) && !self.ignores(key));
        keys.extend(gone.next().cloned());
        keys.push(b"a new key".to_vec());
        keys
    }

    /// Overwrites, deletes and writes keys, crashes, and looks whether all of that is there. Returns what is there.
    fn check_next_writes(&self, fs: &SimFs, db: &Db, found: &Contents) -> Result<Contents, String> {
        let (before, mut expected) = (fs.kill_clone(), found.clone());
        let says = |error: esker::Error| format!("next write: {error}");
        let keys = self.next_keys(&found[&0]);
        let mut batch = WriteBatch::new();
        for (index, key) in keys.iter().enumerate() {
            let map = expected.get_mut(&0).expect("default is always there");
            if index == 1 {
                map.remove(key);
                batch.delete(key);
            } else {
                map.insert(key.clone(), b"new".to_vec());
                batch.put(key, b"new");
            }
        }
        for (at, map) in &mut expected {
            let keyspace = db.open_keyspace(NAMES[*at]).map_err(says)?.expect("it was read");
            batch.put_in(&keyspace, b"everywhere", b"new");
            map.insert(b"everywhere".to_vec(), b"new".to_vec());
        }
        let sequence = db.snapshot().sequence();
        db.write_with(batch, &WriteOptions::SYNC).map_err(says)?;
        if db.snapshot().sequence() <= sequence {
            return Err(format!("the next write took no number after {sequence}"));
        }
        for key in &keys {
            let got = db.get(key).map_err(|error| format!("get: {error}"))?;
            if got.as_deref() != expected[&0].get(key).map(Vec::as_slice) {
                return Err(format!("the next write of {} is not seen", key.escape_ascii()));
            }
        }
        check_numbers(&before, fs, &[".wal"], ".wal")?;
        let after = self.read(&self.open(&fs.crash_clone(Persist::Nothing))?)?;
        self.same(&expected, &after, "after the next write and a crash")?;
        Ok(expected)
    }
}

/// Whether `found` is what the last writes of the first `count` leave, however many those are.
fn is_end(history: &History, count: usize, found: &Map) -> bool {
    let mut last: BTreeMap<&Key, Option<&Vec<u8>>> = BTreeMap::new();
    let is_same = |last: &BTreeMap<&Key, Option<&Vec<u8>>>| {
        let present = || last.iter().filter_map(|(key, value)| Some((*key, (*value)?)));
        present().count() == found.len() && present().eq(found)
    };
    let mut writes = history.writes[..count].iter().rev();
    loop {
        if is_same(&last) {
            return true;
        }
        let Some(write) = writes.next() else { return false };
        for (_, key, value) in write.iter().rev() {
            last.entry(key).or_insert(value.as_ref());
        }
    }
}

pub(crate) fn check_verified(db: &Db) -> Result<(), String> {
    let report = db.verify().map_err(|error| format!("verify: {error}"))?;
    if report.is_ok() { Ok(()) } else { Err(format!("verify: {:?}", report.problems)) }
}

fn table_count(db: &Db) -> u64 {
    let metrics = db.metrics();
    let levels = metrics.keyspaces.iter().flat_map(|keyspace| &keyspace.levels);
    levels.map(|level| level.tables).sum()
}

/// No number is taken twice: files that are new in `after` have numbers above those of all that were there, one of kind
/// `expected` is among them, and a table that was there is what it was.
fn check_numbers(
    before: &SimFs,
    after: &SimFs,
    kinds: &[&str],
    expected: &str,
) -> Result<(), String> {
    let number = |name: &String| -> Option<u64> {
        let kind = kinds.iter().find(|kind| name.contains(**kind))?;
        name.replace(kind, "").parse().ok()
    };
    let names = before.list_dir(DIR);
    let last = names.iter().filter_map(number).max();
    let mut has_expected = false;
    for name in after.list_dir(DIR) {
        if names.contains(&name) {
            let path = Path::new(DIR).join(&name);
            if name.contains(".table") && before.read_file(&path) != after.read_file(&path) {
                return Err(format!("{name} was written anew"));
            }
        } else if number(&name).is_some_and(|number| Some(number) <= last) {
            return Err(format!("{name} is new, but there were {names:?}"));
        } else {
            has_expected |= name.contains(expected);
        }
    }
    if has_expected { Ok(()) } else { Err(format!("no new {expected}; there were {names:?}")) }
}

/// After a flush and a close only these are left: the lock, `CURRENT`, its manifest, and the tables.
fn check_no_waste(fs: &SimFs, table_count: u64) -> Result<(), String> {
    let names = fs.list_dir(DIR);
    let count = |part: &str| names.iter().filter(|name| name.contains(part)).count() as u64;
    let is_clean = count("MANIFEST-") == 1
        && count(".wal") == 0
        && count(".table") == table_count
        && names.len() as u64 == 3 + table_count;
    if is_clean {
        Ok(())
    } else {
        Err(format!("{table_count} tables, but the directory holds {names:?}"))
    }
}
