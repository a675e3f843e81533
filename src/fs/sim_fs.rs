//! A file system in memory that can lose power, fail, fill up and lie.
//!
//! [`SimFs`] stands in for the operating system in tests. It keeps two states: what the process
//! sees, and what a power cut would leave. [`SimFs::crash_clone`] gives the latter as a new file
//! system, [`SimFs::kill_clone`] gives what the death of the process alone would leave. Both are
//! independent of the original and share unchanged blocks with it, so that a test can take one at
//! each of thousands of operations.
//!
//! # What is durable
//! * The bytes and the length of a file: after `sync_data`. Its name is not.
//! * Names: after `sync_dir`. A rename is one change; no crash leaves half of it.
//! * Directories: at once, because `create_dir_all` syncs the parents.
//! * A log segment from `create_log`: its length, all zeros. Its name is not.
//!
//! What is not durable may survive a crash nevertheless, in any combination: see [`Persist`].
//! Creating a file over an old one truncates it in place, so until the next sync a crash may leave
//! old bytes, new bytes or a mixture under the same name. A recycled log segment keeps its inode,
//! so its old name may come back.
//!
//! # Failures
//! Operations are numbered from 0 in the order in which they take effect. `create_log` is three of
//! them (`create`, `allocate`, `sync_data`), `recycle_log` two (`rename`, `open`), as on the
//! operating system; every other method of the traits is one, and so is every
//! `Mapping::populate`. A refused operation has no effect, with two exceptions, both as in
//! reality: a write that finds the disk full writes what fits, and after a failed `sync_data` the
//! unsynced bytes are lost to later syncs, which succeed and write nothing of them.
//!
//! # Locks
//! One mutex guards everything. It is never held while foreign code runs.
//!
//! # What is simpler than in reality
//! A mapping is a copy of the file at the time of the call: later damage does not show in it. Paths
//! are compared by name; there are no symbolic links and no permissions. Files cannot move between
//! directories, but a file can have names in several ([`FileSystem::hard_link`]).

mod access;
mod content;
mod disk;
mod faults;
mod handle;
mod rng;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use self::content::{BLOCK_BYTES, block_count};
use self::disk::{Disk, InodeId};
use self::faults::{Gate, Operation};
pub use self::faults::{Repeat, SimCounters};
use self::handle::{Handle, SimAppendFile, SimFileLock, SimLogFile, SimReadFile};
use crate::error::{Error, Result};
use crate::file_name::FileKind;
use crate::fs::{AppendFile, DirEntry, FileLock, FileSystem, LockKind, LogFile, ReadFile};
use crate::fs::{is_unlinkable, locked_elsewhere, not_a_directory};

/// What a power cut leaves of the state that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// Synced bytes under synced names, and nothing else.
    Nothing,
    /// All bytes and all names.
    Everything,
    /// All names, but of the bytes only the synced ones: new files are empty.
    NamesOnly,
    /// All bytes, but only synced names.
    BytesOnly,
    /// Chance decides, separately for every unsynced 4 KiB block, file length and change of a name.
    ///
    /// Blocks may be torn inside and lengths lie between old and new. The surviving changes of
    /// names are mostly the first ones of each directory, sometimes any that fit together. 0
    /// percent equals `Nothing`, 100 `Everything`.
    Random {
        /// How likely each survives.
        percent: u8,
        /// The same seed on the same state gives the same result.
        seed: u64,
    },
}

/// Which syncs a lying device ignores, by the kind of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// Segments of the write-ahead log.
    Wal,
    /// Tables.
    Table,
    /// Manifests.
    Manifest,
    /// `CURRENT` and `CURRENT.tmp`.
    Current,
    /// Directories. A new directory's own name is durable all the same.
    Dir,
}

impl SyncKind {
    fn of_file(path: &Path) -> Option<Self> {
        match FileKind::parse(path.file_name()?.to_str()?)? {
            FileKind::WalSegment(_) => Some(SyncKind::Wal),
            FileKind::Table(_) => Some(SyncKind::Table),
            FileKind::Manifest(_) => Some(SyncKind::Manifest),
            FileKind::Current | FileKind::CurrentTemporary => Some(SyncKind::Current),
            FileKind::Lock => None,
        }
    }
}

type Observer = Arc<dyn Fn(&SimFs, u64) + Send + Sync>;

/// A file system in memory for crash and fault tests. Clones are handles of the same file system.
///
/// ```
/// use std::path::Path;
/// use esker::fs::sim_fs::{Persist, SimFs};
/// use esker::fs::FileSystem;
///
/// let fs = SimFs::new();
/// fs.create_dir_all(Path::new("/db"))?;
/// let mut file = fs.create(Path::new("/db/notes"))?;
/// file.append(b"synced")?;
/// file.sync_data()?;
/// fs.sync_dir(Path::new("/db"))?;
/// file.append(b", lost")?;
///
/// let after_kill = fs.kill_clone();
/// assert_eq!(after_kill.read_file("/db/notes"), Some(b"synced, lost".to_vec()));
/// let after_power_cut = fs.crash_clone(Persist::Nothing);
/// assert_eq!(after_power_cut.read_file("/db/notes"), Some(b"synced".to_vec()));
///
/// // The power goes before the operation after next.
/// fs.halt_at(fs.op_count() + 1);
/// assert!(file.append(b"!").is_ok());
/// assert!(file.sync_data().is_err());
/// # Ok::<(), esker::Error>(())
/// ```
#[derive(Clone)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    disk: Disk,
    gate: Gate,
    capacity_bytes: Option<u64>,
    ignored_syncs: Vec<SyncKind>,
    observer: Option<Observer>,
}

impl State {
    /// How many of the first `bytes` bytes of the file fit on the disk.
    fn fitting_bytes(&self, inode: InodeId, bytes: u64) -> u64 {
        let Some(capacity_bytes) = self.capacity_bytes else { return bytes };
        let own_bytes = block_count(self.disk.content(inode).bytes()) * BLOCK_BYTES as u64;
        let others_bytes = self.disk.used_bytes() - own_bytes;
        let free_blocks = capacity_bytes.saturating_sub(others_bytes) / BLOCK_BYTES as u64;
        bytes.min((free_blocks * BLOCK_BYTES as u64).max(own_bytes))
    }

    fn is_ignored(&self, kind: Option<SyncKind>) -> bool {
        kind.is_some_and(|kind| self.ignored_syncs.contains(&kind))
    }

    fn full_disk(&mut self) -> io::Error {
        self.gate.counters.failures += 1;
        io::Error::from_raw_os_error(libc::ENOSPC)
    }
}

impl Default for SimFs {
    fn default() -> Self {
        SimFs::new()
    }
}

impl fmt::Debug for SimFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFs").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

/// Life and death.
impl SimFs {
    /// An empty file system: the root directory and the working directory.
    pub fn new() -> Self {
        SimFs::of_state(State { disk: Disk::new(), ..State::default() })
    }

    fn of_state(state: State) -> Self {
        SimFs { state: Arc::new(Mutex::new(state)) }
    }

    /// The file system after a power cut now: all that is left is durable.
    ///
    /// The clone is independent, holds no locks, counts from zero and has no faults and no
    /// observer. The capacity, the ignored syncs and the numbering and tracing of operations stay.
    #[must_use]
    pub fn crash_clone(&self, persist: Persist) -> SimFs {
        let state = self.state.lock();
        SimFs::of_state(State { disk: state.disk.after_crash(persist), ..Self::settings(&state) })
    }

    /// The file system after the death of the process now: as [`SimFs::crash_clone`], but nothing
    /// is lost, and what was not synced is still not.
    #[must_use]
    pub fn kill_clone(&self) -> SimFs {
        let state = self.state.lock();
        SimFs::of_state(State { disk: state.disk.after_kill(), ..Self::settings(&state) })
    }

    fn settings(state: &State) -> State {
        State {
            gate: state.gate.renewed(),
            capacity_bytes: state.capacity_bytes,
            ignored_syncs: state.ignored_syncs.clone(),
            ..State::default()
        }
    }
}

/// Faults and counters.
impl SimFs {
    /// Cuts the power at the operation with this number, counted from the making of this file
    /// system (see [`SimFs::op_count`]): it and all later operations fail with `EIO` and have no
    /// effect, reads included.
    pub fn halt_at(&self, number: u64) {
        self.state.lock().gate.halt_at(number);
    }

    /// Whether the power is gone.
    pub fn is_halted(&self) -> bool {
        self.state.lock().gate.is_halted()
    }

    /// Makes the operation with this number fail with `errno`, and with [`Repeat::Forever`] all
    /// later numbered ones.
    pub fn fail_at(&self, number: u64, errno: i32, repeat: Repeat) {
        self.state.lock().gate.fail_at(number, errno, repeat);
    }

    /// Makes the next operation fail whose line in the trace contains all of `words`, and with
    /// [`Repeat::Forever`] all such: `fail_when("sync_data .wal", 5, Repeat::Once)`.
    pub fn fail_when(&self, words: &str, errno: i32, repeat: Repeat) {
        self.state.lock().gate.fail_when(words, errno, repeat);
    }

    /// Takes back all halts and faults.
    pub fn clear_faults(&self) {
        self.state.lock().gate.clear_faults();
    }

    /// Lets writes that need more space than this fail with `ENOSPC`; `None` takes the limit away.
    /// Files take whole 4 KiB blocks; removed files count while they are open.
    pub fn set_capacity_bytes(&self, bytes: Option<u64>) {
        self.state.lock().capacity_bytes = bytes;
    }

    /// Makes syncs of this kind return success and do nothing.
    pub fn ignore_syncs(&self, kind: SyncKind) {
        self.state.lock().ignored_syncs.push(kind);
    }

    /// The number that the next operation will get.
    pub fn op_count(&self) -> u64 {
        self.counters().operations
    }

    /// What happened so far.
    pub fn counters(&self) -> SimCounters {
        self.state.lock().gate.counters
    }

    /// Whether operations that change nothing get numbers: listing, opening, reading, mapping,
    /// populating, shared locks. At first they do. Those without a number are not hit by
    /// [`SimFs::fail_at`].
    pub fn count_reads(&self, counted: bool) {
        self.state.lock().gate.number_reads(counted);
    }

    /// Starts an empty trace of the operations, or ends tracing.
    pub fn trace_operations(&self, on: bool) {
        self.state.lock().gate.set_trace(on);
    }

    /// The trace: number, operation, name, range, and the error if it was refused.
    pub fn operations(&self) -> Vec<String> {
        self.state.lock().gate.trace()
    }

    /// Calls `observer` before each numbered operation with its number, before it takes effect, on
    /// the thread that asks for it. Crash clones taken there show every state in which the power
    /// can go, in a single run of the workload.
    pub fn on_operation(&self, observer: impl Fn(&SimFs, u64) + Send + Sync + 'static) {
        let former = self.state.lock().observer.replace(Arc::new(observer));
        // It may own open files, whose drop takes the lock.
        drop(former);
    }
}

/// The way of every operation.
impl SimFs {
    /// Numbers `operation` and, unless it is refused, lets `effect` happen at once.
    fn operate<T>(
        &self,
        operation: &Operation<'_>,
        effect: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.observe(operation);
        let mut state = self.state.lock();
        state.gate.admit(operation)?;
        effect(&mut state)
    }

    fn observe(&self, operation: &Operation<'_>) {
        let state = self.state.lock();
        if let (Some(observer), Some(number)) =
            (state.observer.clone(), state.gate.number_of(operation))
        {
            drop(state);
            observer(self, number);
        }
    }

    fn handle_of(&self, path: &Path) -> Result<Handle> {
        let opened = self.operate(&Operation::read("open", path), |state| {
            let inode = state.disk.find(path)?;
            let inode = inode.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
            Ok(Handle::open(self, state, inode, path))
        });
        opened.map_err(|e| Error::io("open", path, e))
    }

    fn create_inode(&self, path: &Path) -> Result<Handle> {
        let created = self.operate(&Operation::change("create", path), |state| {
            let inode = state.disk.find_or_create(path)?;
            state.disk.content_mut(inode).resize(0);
            Ok(Handle::open(self, state, inode, path))
        });
        created.map_err(|e| Error::io("create", path, e))
    }
}

impl FileSystem for SimFs {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        let created = self.operate(&Operation::change("create_dir_all", dir), |state| {
            Ok(state.disk.create_dir_all(dir))
        });
        match created {
            Ok(true) => Ok(()),
            Ok(false) => Err(not_a_directory(dir)),
            Err(e) => Err(Error::io("create directory", dir, e)),
        }
    }

    fn list(&self, dir: &Path) -> Result<Option<Vec<DirEntry>>> {
        let listed = self.operate(&Operation::read("list", dir), |state| {
            let is_file = !state.disk.has_dir(dir) && state.disk.find(dir)?.is_some();
            Ok((state.disk.list(dir), is_file))
        });
        match listed {
            Ok((_, true)) => Err(not_a_directory(dir)),
            Ok((entries, false)) => Ok(entries),
            Err(e) => Err(Error::io("list directory", dir, e)),
        }
    }

    fn create(&self, path: &Path) -> Result<Box<dyn AppendFile>> {
        Ok(Box::new(SimAppendFile { handle: self.create_inode(path)?, bytes: 0 }))
    }

    fn open(&self, path: &Path) -> Result<Option<Arc<dyn ReadFile>>> {
        let opened = self.operate(&Operation::read("open", path), |state| {
            if state.disk.has_dir(path) {
                return Ok(Err(Error::corruption(path, 0, "not a regular file")));
            }
            let Some(inode) = state.disk.find(path)? else { return Ok(Ok(None)) };
            let bytes = state.disk.content(inode).bytes();
            let handle = Arc::new(Handle::open(self, state, inode, path));
            Ok(Ok(Some(Arc::new(SimReadFile { handle, bytes }) as Arc<dyn ReadFile>)))
        });
        opened.map_err(|e| Error::io("open", path, e))?
    }

    fn create_log(&self, path: &Path, bytes: u64, _mapped: bool) -> Result<Box<dyn LogFile>> {
        let handle = self.create_inode(path)?;
        let allocate = Operation::change("allocate", path).range(0, bytes as usize);
        let allocated = self.operate(&allocate, |state| {
            if state.fitting_bytes(handle.inode, bytes) < bytes {
                return Err(state.full_disk());
            }
            state.disk.content_mut(handle.inode).resize(bytes);
            Ok(())
        });
        if let Err(e) = allocated {
            let mut state = self.state.lock();
            // As on the operating system, no half-allocated segment stays, unless the power is gone.
            if !state.gate.is_halted() {
                // It fails only if somebody else removed the file meanwhile.
                let _ = state.disk.remove(path);
            }
            return Err(Error::io("allocate", path, e));
        }
        handle.sync_data()?;
        Ok(Box::new(SimLogFile { handle, bytes }))
    }

    fn recycle_log(
        &self,
        from: &Path,
        to: &Path,
        bytes: u64,
        _mapped: bool,
    ) -> Result<Box<dyn LogFile>> {
        self.rename(from, to)?;
        let opened = self.operate(&Operation::change("open", to), |state| {
            let inode = state.disk.find(to)?;
            let inode = inode.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
            Ok((state.disk.content(inode).bytes(), Handle::open(self, state, inode, to)))
        });
        let (found_bytes, handle) = opened.map_err(|e| Error::io("open", to, e))?;
        if found_bytes != bytes {
            let what = format!("recycled segment is not {bytes} bytes long");
            return Err(Error::corruption(to, found_bytes, what));
        }
        Ok(Box::new(SimLogFile { handle, bytes }))
    }

    fn sync_file(&self, path: &Path) -> Result<()> {
        self.handle_of(path)?.sync_data()
    }

    fn truncate(&self, path: &Path, bytes: u64) -> Result<()> {
        let handle = self.handle_of(path)?;
        let truncated = self.operate(&Operation::change("truncate", path), |state| {
            state.disk.content_mut(handle.inode).resize(bytes);
            Ok(())
        });
        truncated.map_err(|e| Error::io("truncate", path, e))?;
        handle.sync_data()
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let operation = Operation::change("rename", from).to(to);
        let renamed = self.operate(&operation, |state| state.disk.rename(from, to));
        renamed.map_err(|e| Error::io("rename", from, e))
    }

    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        let operation = Operation::change("link", from).to(to);
        match self.operate(&operation, |state| state.disk.link(from, to)) {
            Ok(()) => Ok(true),
            Err(e) if is_unlinkable(e.raw_os_error()) => Ok(false),
            Err(e) => Err(Error::io("link", to, e)),
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        let operation = Operation::change("remove", path);
        let removed = self.operate(&operation, |state| state.disk.remove(path));
        removed.map_err(|e| Error::io("remove", path, e))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let synced = self.operate(&Operation::change("sync_dir", dir), |state| {
            if !state.is_ignored(Some(SyncKind::Dir)) {
                state.disk.sync_dir(dir)?;
            }
            state.gate.counters.dir_syncs += 1;
            Ok(())
        });
        synced.map_err(|e| Error::io("sync directory", dir, e))
    }

    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn FileLock>>> {
        let operation = match kind {
            LockKind::Exclusive => Operation::change("lock", path),
            LockKind::Shared => Operation::read("lock", path),
        };
        let locked = self.operate(&operation, |state| {
            let inode = match kind {
                LockKind::Exclusive => state.disk.find_or_create(path)?,
                LockKind::Shared => match state.disk.find(path)? {
                    Some(inode) => inode,
                    None => return Ok(Ok(None)),
                },
            };
            if !state.disk.try_lock(inode, kind) {
                return Ok(Err(locked_elsewhere(path)));
            }
            let handle = Handle::open(self, state, inode, path);
            Ok(Ok(Some(Box::new(SimFileLock { handle, kind }) as Box<dyn FileLock>)))
        });
        locked.map_err(|e| Error::io("lock", path, e))?
    }
}
