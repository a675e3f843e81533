//! Each fsync is needed: leave it out, and the crash tests find a state that is wrong.
//!
//! The engine syncs at a handful of places: the log's data and the log's name, a table's data and its name, a new
//! manifest's data and its name, each edit, `CURRENT` before its rename and after it, the log that recovery replayed.
//! [`ForgetfulFs`] passes everything on to the simulated file system but the syncs of one such place. A workload is
//! then crashed at every file operation, as in [`crash`](crate::crash): with all syncs every state is right; without
//! any one of them some state is wrong, or does not open. So nobody can remove an fsync without a test that fails.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use esker::Durability::{Buffered, Sync};
use esker::fs::{
    AppendFile, DirEntry, FileLock, FileSystem, LockKind, LogFile, Persist, ReadFile, SimFs,
    SyncKind,
};
use esker::{Leveled, Result};

use crate::crash::check::Judge;
use crate::crash::recording::Recording;
use crate::support::{DIR, Generator, Op, Setup, World};

/// A place at which the engine syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    LogData,
    LogReplayed,
    TableData,
    /// The snapshot that a manifest begins with.
    ManifestBegun,
    ManifestEdit,
    CurrentData,
    /// The directory, after a file whose name contains this was made or renamed to.
    NameOf(&'static str),
}

const NAMED: [&str; 4] = [".wal", ".table", "MANIFEST", "CURRENT"];

/// What the file system forgets, and the names made since the last sync of the directory.
#[derive(Debug)]
struct Memory {
    forgets: Option<Place>,
    /// Nothing is forgotten before this is set.
    armed: AtomicBool,
    new_names: Mutex<BTreeSet<&'static str>>,
}

impl Memory {
    fn forgets(&self, place: Place) -> bool {
        self.armed.load(Ordering::Relaxed) && self.forgets == Some(place)
    }

    fn note_name(&self, path: &Path) {
        // The temporary file of CURRENT is no name that anybody looks for.
        let is_temporary = path.extension().is_some_and(|extension| extension == "tmp");
        let path = path.to_str().unwrap();
        if !is_temporary {
            let name = NAMED.iter().find(|name| path.contains(**name));
            self.new_names.lock().unwrap().extend(name);
        }
    }
}

/// See the module text.
#[derive(Clone, Debug)]
struct ForgetfulFs {
    sim: SimFs,
    memory: Arc<Memory>,
}

impl ForgetfulFs {
    fn new(sim: &SimFs, forgets: Option<Place>) -> Self {
        let memory = Memory { forgets, armed: AtomicBool::new(true), new_names: Mutex::default() };
        ForgetfulFs { sim: sim.clone(), memory: Arc::new(memory) }
    }

    fn world(&self, setup: &Setup) -> World {
        World::new(setup, Arc::new(self.clone()), Path::new(DIR))
    }
}

#[derive(Debug)]
struct ForgetfulAppend {
    file: Box<dyn AppendFile>,
    memory: Arc<Memory>,
    place: Place,
}

impl AppendFile for ForgetfulAppend {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.append(bytes)
    }

    fn start_writeback(&mut self) -> Result<()> {
        self.file.start_writeback()
    }

    fn sync_data(&mut self) -> Result<()> {
        let place = self.place;
        if place == Place::ManifestBegun {
            self.place = Place::ManifestEdit;
        }
        if self.memory.forgets(place) { Ok(()) } else { self.file.sync_data() }
    }
}

#[derive(Debug)]
struct ForgetfulLog {
    file: Box<dyn LogFile>,
    memory: Arc<Memory>,
}

impl LogFile for ForgetfulLog {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> Result<()> {
        if self.memory.forgets(Place::LogData) { Ok(()) } else { self.file.sync_data() }
    }
}

impl FileSystem for ForgetfulFs {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        self.sim.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> Result<Option<Vec<DirEntry>>> {
        self.sim.list(dir)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn AppendFile>> {
        let file = self.sim.create(path)?;
        self.memory.note_name(path);
        let name = path.to_str().unwrap();
        let place = match name {
            _ if name.contains(".table") => Place::TableData,
            _ if name.contains("MANIFEST") => Place::ManifestBegun,
            _ => Place::CurrentData,
        };
        Ok(Box::new(ForgetfulAppend { file, memory: Arc::clone(&self.memory), place }))
    }

    fn open(&self, path: &Path) -> Result<Option<Arc<dyn ReadFile>>> {
        self.sim.open(path)
    }

    fn create_log(&self, path: &Path, bytes: u64, mapped: bool) -> Result<Box<dyn LogFile>> {
        let file = self.sim.create_log(path, bytes, mapped)?;
        self.memory.note_name(path);
        Ok(Box::new(ForgetfulLog { file, memory: Arc::clone(&self.memory) }))
    }

    fn recycle_log(
        &self,
        from: &Path,
        to: &Path,
        bytes: u64,
        mapped: bool,
    ) -> Result<Box<dyn LogFile>> {
        let file = self.sim.recycle_log(from, to, bytes, mapped)?;
        self.memory.note_name(to);
        Ok(Box::new(ForgetfulLog { file, memory: Arc::clone(&self.memory) }))
    }

    fn sync_file(&self, path: &Path, range: Range<u64>) -> Result<()> {
        if self.memory.forgets(Place::LogReplayed) {
            Ok(())
        } else {
            self.sim.sync_file(path, range)
        }
    }

    fn truncate(&self, path: &Path, bytes: u64) -> Result<()> {
        self.sim.truncate(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.sim.rename(from, to)?;
        self.memory.note_name(to);
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        let linked = self.sim.hard_link(from, to)?;
        self.memory.note_name(to);
        Ok(linked)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.sim.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let names = std::mem::take(&mut *self.memory.new_names.lock().unwrap());
        if names.iter().any(|name| self.memory.forgets(Place::NameOf(name))) {
            return Ok(());
        }
        self.sim.sync_dir(dir)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn FileLock>>> {
        self.sim.lock(path, kind)
    }
}

fn setup() -> Setup {
    let mut setup = Setup::small();
    setup.keyspace.memtable_bytes = 4 << 10;
    setup
}

/// Every kind of sync happens in it, and for each something follows that relies on it.
fn workload() -> Vec<Op> {
    let mut generator = Generator::new(7, 2, &[Sync, Sync, Buffered]);
    let mut ops = vec![Op::Create(1)];
    ops.extend(generator.writes(30));
    ops.extend([Op::Flush, Op::Reopen, Op::Create(2), Op::Drop(1)]);
    ops.extend(generator.writes(10));
    ops
}

/// The first crash state of `recording` that is wrong.
fn first_violation(recording: &Recording, random_count: u64) -> Option<String> {
    for cut in &recording.cuts {
        for persist in persists(cut.number, random_count) {
            let state = cut.fs.crash_clone(persist);
            if let Err(what) = Judge::of_crash(recording, cut).check(&state) {
                return Some(format!("at operation {} with {persist:?}: {what}", cut.number));
            }
        }
    }
    None
}

/// The plain models, and some random mixtures.
fn persists(seed: u64, random_count: u64) -> Vec<Persist> {
    let mut list =
        vec![Persist::Nothing, Persist::Everything, Persist::NamesOnly, Persist::BytesOnly];
    let percents = [50, 10, 90, 30, 70];
    list.extend((0..random_count).map(|index| Persist::Random {
        percent: percents[index as usize % percents.len()],
        seed: seed.wrapping_mul(1000) + index,
    }));
    list
}

fn violation_without(place: Option<Place>) -> Option<String> {
    let sim = SimFs::new();
    let fs = ForgetfulFs::new(&sim, place);
    let is_rare = place == Some(Place::NameOf("MANIFEST"));
    // That needs a crash in which the rename of CURRENT survives and the older name of the manifest does not.
    let (ops, random_count) =
        if is_rare { (vec![Op::Reopen, Op::Reopen], 200) } else { (workload(), 8) };
    let recording = Recording::of(fs.world(&setup()), &sim, &ops, |_| {});
    first_violation(&recording, random_count)
}

#[test]
fn with_every_fsync_all_crash_states_are_right() {
    assert_eq!(violation_without(None), None);
}

#[test]
fn without_any_one_fsync_some_crash_state_is_wrong() {
    for place in [
        Place::LogData,
        Place::TableData,
        Place::ManifestBegun,
        Place::ManifestEdit,
        Place::CurrentData,
        Place::NameOf(".wal"),
        Place::NameOf(".table"),
        Place::NameOf("MANIFEST"),
        Place::NameOf("CURRENT"),
    ] {
        assert!(violation_without(Some(place)).is_some(), "nobody misses the fsync {place:?}");
    }
}

#[test]
fn without_the_fsyncs_of_one_kind_of_file_some_crash_state_is_wrong() {
    for kind in
        [SyncKind::Wal, SyncKind::Table, SyncKind::Manifest, SyncKind::Current, SyncKind::Dir]
    {
        let sim = SimFs::new();
        sim.ignore_syncs(kind);
        let recording = Recording::of(World::on_sim(&setup(), &sim), &sim, &workload(), |_| {});
        assert!(first_violation(&recording, 8).is_some(), "nobody misses the fsyncs of {kind:?}");
    }
}

/// The tables that a compaction writes: nothing but the compaction runs while the fsync is missing.
#[test]
fn without_the_fsyncs_of_a_compaction_some_crash_state_is_wrong() {
    let mut setup = setup();
    setup.keyspace.compaction = Leveled { l0_runs: 20, base_bytes: 64 << 10, fanout: 4 }.into();
    let mut ops = Generator::new(3, 1, &[Sync]).writes(60);
    ops.extend([Op::Flush, Op::Compact(0)]);
    let compaction = ops.len() - 1;
    for place in [None, Some(Place::TableData), Some(Place::NameOf(".table"))] {
        let sim = SimFs::new();
        let fs = ForgetfulFs::new(&sim, place);
        fs.memory.armed.store(false, Ordering::Relaxed);
        let memory = Arc::clone(&fs.memory);
        let recording = Recording::of(fs.world(&setup), &sim, &ops, move |index| {
            memory.armed.store(index == compaction, Ordering::Relaxed);
        });
        assert_eq!(first_violation(&recording, 0).is_some(), place.is_some(), "{place:?}");
    }
}

/// After the death of a process the replayed log may be in memory only. What is written next must not outlive it.
#[test]
fn without_the_fsync_of_the_replayed_log_some_crash_state_is_wrong() {
    for place in [None, Some(Place::LogReplayed)] {
        let before = SimFs::new();
        let mut first = ForgetfulFs::new(&before, None).world(&setup());
        first.open().unwrap();
        let mut generator = Generator::new(1, 1, &[Buffered]);
        for op in generator.writes(5) {
            first.run(&op).unwrap();
        }
        let sim = before.kill_clone();
        let mut second = ForgetfulFs::new(&sim, place).world(&setup());
        second.history = Arc::clone(&first.history);
        generator.durabilities = vec![Sync];
        let recording = Recording::of(second, &sim, &generator.writes(3), |_| {});
        assert_eq!(first_violation(&recording, 8).is_some(), place.is_some(), "{place:?}");
    }
}
