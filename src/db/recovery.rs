//! Opening: from a directory to an open database, whatever a crash left in it.
//!
//! # Order
//! 1. The lock.
//! 2. `CURRENT` and the manifest: which tables there are.
//! 3. Every listed table is there with its exact length.
//! 4. The log is replayed into memtables: what the tables do not hold yet.
//! 5. The replayed segments are made durable: after the death of a process they may be in the page cache only, and what
//!    is written next must not outlive them. What is not known to be synced is written again: see [`make_durable`].
//! 6. A new manifest begins with the recovered state.
//! 7. Only now files that nothing names are removed.
//! 8. Last, the background threads start.
//!
//! Each step may be cut short by another crash: up to 6 nothing that recovery needs was changed, and 6 is one rename.
//! Replayed memtables stay in memory and their segments stay live until they are flushed like any other
//! (`docs/adr/0006`), so opening a database and closing it again rewrites nothing.
//!
//! Opened for reading only, steps 5 to 8 are left out and nothing on disk changes.

mod log;

use std::cmp::Ordering as Order;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::cache::BlockCache;
use crate::clock::Clock;
use crate::compaction::CompactionStrategy;
use crate::compaction::filter::CompactionFilter;
use crate::db::background;
use crate::db::commit::CommitQueue;
use crate::db::counters::Counters;
use crate::db::disk_usage::{DiskUsage, MeteredFs, Part};
use crate::db::handle::Handle;
use crate::db::install;
use crate::db::recovery::log::{log_start, replay_log};
use crate::db::snapshots::SnapshotList;
use crate::db::state::{
    DEFAULT_KEYSPACE, Inner, KeyspaceCore, KeyspaceMap, ReadShared, Tree, require_strategy,
    stored_options, strategy_for,
};
use crate::db::work::WorkQueue;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Listeners;
use crate::file_name::FileKind;
use crate::fs::{DirEntry, FileLock, FileSystem, LockKind};
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::manifest::Manifest;
use crate::manifest::recovery::recover;
use crate::manifest::state::ManifestState;
use crate::options::{CompactionRate, DbOptions, KeyspaceOptions, WalMode};
use crate::spawn::Spawn;
use crate::table::reader::ReadContext;
use crate::table_cache::TableCache;
use crate::trace::recorder::Recorder;
use crate::version::edit::{KeyspaceCreated, VersionEdit};
use crate::version::totals::LifetimeTotals;
use crate::wal::replay::Replay;
use crate::wal::writer::{LiveSegment, WalWriter, WalWriterOptions};
use crate::wal::{WalPosition, WalStart};

/// What an open needs.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) dir: PathBuf,
    pub(crate) options: DbOptions,
    /// Options for the keyspace `default`; `None`: those it has, or the defaults.
    pub(crate) default_keyspace: Option<KeyspaceOptions>,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) spawner: Arc<dyn Spawn>,
    pub(crate) strategies: BTreeMap<String, Arc<dyn CompactionStrategy>>,
    pub(crate) listeners: Arc<Listeners>,
    pub(crate) filters: BTreeMap<String, Arc<dyn CompactionFilter>>,
}

/// What was found on disk.
struct Found {
    entries: Vec<DirEntry>,
    lock: Option<Box<dyn FileLock>>,
    state: ManifestState,
}

/// Opens or creates the database. See the module text.
pub(crate) fn open(mut request: OpenRequest) -> Result<Arc<Handle>> {
    let disk = Arc::new(DiskUsage::default());
    request.fs = Arc::new(MeteredFs::new(request.fs, Arc::clone(&disk)));
    let request = &request;
    request.options.validate()?;
    if let Some(options) = &request.default_keyspace {
        options.validate()?;
        require_strategy(&request.strategies, options)?;
    }
    let Found { entries, lock, mut state } = find(request)?;
    if let Some(options) = &request.default_keyspace {
        change_default_options(&mut state, options)?;
    }
    check_tables(&request.dir, &state, &entries)?;
    adopt_files(&disk, &state, &entries);
    let cores = make_cores(request, &state)?;
    let recorder = start_recorder(request)?;
    let (replayed, uncounted) = replay_log(request, &state, &cores)?;
    state.totals.add(&uncounted);
    let start = log_start(&state, &replayed);
    let fresh_manifest = if request.options.read_only {
        None
    } else {
        make_durable(request, state.wal_synced, &replayed)?;
        Some(begin_manifest(request, &mut state, &entries, &replayed, &cores, start)?)
    };
    let first_segment = state.wal_first_segment;
    let wal = (!request.options.read_only)
        .then(|| make_wal(request, (start, first_segment), &replayed, &entries));
    let parts = Parts { cores, state, fresh_manifest, wal, start, lock, recorder, disk };
    let inner = assemble(request, parts)?;
    if !request.options.read_only {
        remove_orphans(&inner, &entries);
        for core in inner.keyspaces.load().by_id.values() {
            install::update_pressure(&inner, core);
        }
    }
    let threads = if request.options.read_only {
        Vec::new()
    } else {
        background::start(&inner, &*request.spawner)?
    };
    inner.work.tree_changed();
    Ok(Handle::new(inner, threads))
}

/// Steps 1 and 2: locks the directory and reads the manifest, or creates a database.
fn find(request: &OpenRequest) -> Result<Found> {
    let OpenRequest { dir, options, fs, .. } = request;
    let may_create = options.create_if_missing && !options.read_only;
    let mut entries = fs.list(dir)?;
    if entries.is_none() && may_create {
        fs.create_dir_all(dir)?;
        entries = Some(Vec::new());
    }
    let entries = entries.ok_or_else(|| no_database(dir, "there is no such directory"))?;
    let is_ours = |entry: &DirEntry| entry.is_file && FileKind::parse(&entry.name).is_some();
    if !entries.iter().any(is_ours) {
        if !may_create {
            return Err(no_database(dir, "there is no database in the directory"));
        }
        if !entries.is_empty() {
            return Err(Error::invalid("the directory is not empty and holds no esker database")
                .at(dir)
                .advise("name an empty or new directory"));
        }
    }
    let lock_kind = if options.read_only { LockKind::Shared } else { LockKind::Exclusive };
    let lock = fs.lock(&FileKind::Lock.path(dir), lock_kind)?;
    // Listed again under the lock: the last owner may have been at work until now.
    let entries = fs.list(dir)?.unwrap_or_default();
    let state = match recover(fs.as_ref(), dir)? {
        Some(recovered) => recovered.state,
        None => new_state(request, &entries)?,
    };
    Ok(Found { entries, lock, state })
}

fn no_database(dir: &Path, what: &str) -> Error {
    Error::new(ErrorKind::NotFound, what)
        .at(dir)
        .advise("check the path, or create a database there")
}

/// The state of a database that is being created. Without `CURRENT`, only what a creation cut short leaves may be
/// there.
fn new_state(request: &OpenRequest, entries: &[DirEntry]) -> Result<ManifestState> {
    for entry in entries.iter().filter(|entry| entry.is_file) {
        if let Some(FileKind::Table(_) | FileKind::WalSegment(_)) = FileKind::parse(&entry.name) {
            return Err(Error::corruption(
                &FileKind::Current.path(&request.dir),
                0,
                format!("CURRENT is missing, but {} is there", entry.name),
            ));
        }
    }
    if request.options.read_only || !request.options.create_if_missing {
        return Err(no_database(&request.dir, "there is no database in the directory"));
    }
    let options = request.default_keyspace.clone().unwrap_or_default();
    let mut state = ManifestState::default();
    state.apply(&VersionEdit {
        keyspaces_created: vec![KeyspaceCreated {
            id: KeyspaceId::default(),
            name: DEFAULT_KEYSPACE.to_owned(),
            options: stored_options(&options),
        }],
        next_file_number: Some(FileNumber(1)),
        wal_first_segment: Some(FileNumber(1)),
        ..VersionEdit::default()
    })?;
    Ok(state)
}

/// Options as the manifest kept them. Options that this version does not know are an error, not ignored.
fn read_options(name: &str, pairs: &[(String, String)]) -> Result<KeyspaceOptions> {
    let mut options = KeyspaceOptions::default();
    for (option, value) in pairs {
        if !options.set(option, value)? {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("keyspace {name} has an option that this version does not know: {option}={value}"),
            )
            .advise("open the database with the esker version that wrote it, or a newer one"));
        }
    }
    options.validate()?;
    Ok(options)
}

fn change_default_options(state: &mut ManifestState, options: &KeyspaceOptions) -> Result<()> {
    let pairs = stored_options(options);
    let stored = state.keyspaces.get(&KeyspaceId::default()).map(|keyspace| &keyspace.options);
    if stored == Some(&pairs) {
        return Ok(());
    }
    state.apply(&VersionEdit {
        keyspaces_changed: vec![(KeyspaceId::default(), pairs)],
        ..VersionEdit::default()
    })
}

/// Step 3: every table of the manifest is there, with the length the manifest says.
fn check_tables(dir: &Path, state: &ManifestState, entries: &[DirEntry]) -> Result<()> {
    let lengths: HashMap<_, _> = entries
        .iter()
        .filter(|entry| entry.is_file)
        .filter_map(|entry| Some((FileKind::parse(&entry.name)?, entry.bytes)))
        .collect();
    for keyspace in state.keyspaces.values() {
        for (_, _, table) in keyspace.version.tables() {
            let kind = FileKind::Table(table.meta().number);
            let want = table.meta().file_bytes;
            match lengths.get(&kind) {
                Some(&bytes) if bytes == want => {}
                Some(&bytes) => {
                    let what =
                        format!("the table is {bytes} bytes long, but the manifest says {want}");
                    return Err(Error::corruption(&kind.path(dir), bytes.min(want), what));
                }
                None => {
                    return Err(Error::corruption(
                        &kind.path(dir),
                        0,
                        "a table named by the manifest is missing",
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Tells `disk` what the directory holds.
fn adopt_files(disk: &DiskUsage, state: &ManifestState, entries: &[DirEntry]) {
    disk.adopt(entries);
    for (_, _, table) in state.keyspaces.values().flat_map(|keyspace| keyspace.version.tables()) {
        disk.place(table.meta().number, Part::LiveTables);
    }
}

type Cores = BTreeMap<KeyspaceId, Arc<KeyspaceCore>>;

fn make_cores(request: &OpenRequest, state: &ManifestState) -> Result<Cores> {
    let make = |(id, keyspace): (&KeyspaceId, &crate::manifest::state::KeyspaceState)| {
        let options = read_options(&keyspace.name, &keyspace.options)?;
        let strategy = strategy_for(&request.strategies, &options);
        let version = Arc::new(keyspace.version.clone());
        Ok((*id, KeyspaceCore::new(*id, &keyspace.name, options, version, strategy)))
    };
    state.keyspaces.iter().map(make).collect()
}

/// Begins the trace that the options ask for. Under the lock: another opener may be writing one to the same file.
fn start_recorder(request: &OpenRequest) -> Result<Option<Recorder>> {
    let Some(path) = &request.options.record_workload else { return Ok(None) };
    Recorder::start(request.fs.as_ref(), Arc::clone(&request.clock), path).map(Some)
}

/// Step 5. Everything before `synced` is durable already.
///
/// A sync alone would not do. If one failed in the process before this, the operating system has taken the bytes for
/// written that are not, and no later sync writes them. So they are written again, the same bytes in the same place:
/// cut short, that changes nothing.
fn make_durable(request: &OpenRequest, synced: WalPosition, replayed: &Replay) -> Result<()> {
    for &(segment, data_bytes) in &replayed.segments {
        let start = match segment.cmp(&synced.segment) {
            Order::Less => data_bytes,
            Order::Equal => synced.offset,
            Order::Greater => 0,
        };
        let path = FileKind::WalSegment(segment).path(&request.dir);
        if start < data_bytes {
            write_again(request.fs.as_ref(), &path, start..data_bytes)?;
        }
    }
    if !replayed.segments.is_empty() {
        request.fs.sync_dir(&request.dir)?;
    }
    Ok(())
}

/// Writes a range of a segment over itself, and syncs it.
fn write_again(fs: &dyn FileSystem, path: &Path, range: Range<u64>) -> Result<()> {
    const STEP_BYTES: usize = 1 << 20;
    let Some(file) = fs.open(path)? else {
        return Err(Error::corruption(path, 0, "log segment vanished during recovery"));
    };
    let log = fs.recycle_log(path, path, file.bytes(), false)?;
    let mut piece = Vec::new();
    for at in range.clone().step_by(STEP_BYTES) {
        piece.resize(((range.end - at) as usize).min(STEP_BYTES), 0);
        file.read_at(&mut piece, at)?;
        log.write_at(at, &piece)?;
    }
    log.sync_data()
}

/// Step 6: a new manifest that begins with the recovered state.
fn begin_manifest(
    request: &OpenRequest,
    state: &mut ManifestState,
    entries: &[DirEntry],
    replayed: &Replay,
    cores: &Cores,
    start: WalStart,
) -> Result<Manifest> {
    let used = entries.iter().filter_map(|entry| match FileKind::parse(&entry.name)? {
        FileKind::Table(number) | FileKind::Manifest(number) => Some(number.0),
        _ => None,
    });
    let number =
        FileNumber(used.max().unwrap_or(0).saturating_add(1).max(state.next_file_number.0));
    let needed = cores.values().flat_map(|core| {
        let view = core.view.load();
        let memories = view.immutables.iter().chain(std::iter::once(&view.active));
        memories.filter_map(|memory| memory.first_segment()).collect::<Vec<_>>()
    });
    state.apply(&VersionEdit {
        next_file_number: Some(FileNumber(number.0 + 1)),
        last_sequence: Some(SequenceNumber(start.next_sequence.0 - 1)),
        wal_first_segment: Some(needed.min().unwrap_or(start.next_segment)),
        wal_synced: Some(replayed.end.max(state.wal_synced)),
        ..VersionEdit::default()
    })?;
    Manifest::create(request.fs.as_ref(), &request.dir, number, state)
}

/// The writer that goes on with the log. The segments that are still needed are its own from now on; replayed ones
/// before `first_segment` are not, and are removed with the orphans.
fn make_wal(
    request: &OpenRequest,
    (start, first_segment): (WalStart, FileNumber),
    replayed: &Replay,
    entries: &[DirEntry],
) -> WalWriter {
    let options = WalWriterOptions {
        segment_bytes: request.options.wal_segment_bytes,
        mapped: request.options.wal_mode == WalMode::Map,
    };
    let mut wal = WalWriter::new(Arc::clone(&request.fs), &request.dir, options, start);
    let needed = replayed.segments.iter().filter(|(number, _)| *number >= first_segment);
    let live = needed.map(|&(number, data_bytes)| {
        let name = FileKind::WalSegment(number).file_name();
        let file_bytes =
            entries.iter().find(|entry| entry.name == name).map_or(data_bytes, |entry| entry.bytes);
        LiveSegment { number, data_bytes, file_bytes }
    });
    wal.adopt(live.collect());
    wal
}

/// What [`assemble`] puts together.
struct Parts {
    cores: Cores,
    state: ManifestState,
    fresh_manifest: Option<Manifest>,
    wal: Option<WalWriter>,
    start: WalStart,
    lock: Option<Box<dyn FileLock>>,
    recorder: Option<Recorder>,
    disk: Arc<DiskUsage>,
}

fn assemble(request: &OpenRequest, parts: Parts) -> Result<Arc<Inner>> {
    static NEXT_ORIGIN: AtomicU64 = AtomicU64::new(1);
    let Parts { cores, state, fresh_manifest, wal, start, lock, recorder, disk } = parts;
    let options = request.options.clone();
    let cache = (options.cache_bytes > 0).then(|| Arc::new(BlockCache::new(options.cache_bytes)));
    let context = ReadContext { read_mode: options.read_mode, verify: options.verify, cache };
    let tables =
        TableCache::new(Arc::clone(&request.fs), &request.dir, context, options.open_tables_max);
    let default_keyspace = cores.get(&KeyspaceId::default()).cloned().ok_or_else(|| {
        Error::corruption(
            &FileKind::Current.path(&request.dir),
            0,
            "the manifest has no keyspace `default`",
        )
    })?;
    let snapshot_bytes = fresh_manifest.as_ref().map_or(0, Manifest::bytes);
    let counters = Counters::default();
    counters.manifest_bytes.add(snapshot_bytes);
    Ok(Arc::new(Inner {
        origin: NEXT_ORIGIN.fetch_add(1, Ordering::Relaxed),
        dir: request.dir.clone(),
        fs: Arc::clone(&request.fs),
        clock: Arc::clone(&request.clock),
        strategies: request.strategies.clone(),
        listeners: Arc::clone(&request.listeners),
        filters: request.filters.clone(),
        read: Arc::new(ReadShared {
            clock: Arc::clone(&request.clock),
            tables: Arc::new(tables),
            counters,
            commit: CommitQueue::new(start.next_sequence, wal),
            snapshots: SnapshotList::default(),
            recorder,
        }),
        disk,
        default_keyspace,
        keyspaces: ArcSwap::from_pointee(KeyspaceMap { by_id: cores.into_iter().collect() }),
        next_file_number: AtomicU64::new(state.next_file_number.0),
        tree: Mutex::new(Tree {
            manifest: fresh_manifest,
            snapshot_bytes,
            state,
            totals_in_state: LifetimeTotals::default(),
        }),
        work: Arc::new(WorkQueue::new(background_rate(&request.options))),
        closed: AtomicBool::new(false),
        lock: Mutex::new(lock),
        options,
    }))
}

/// The rate limit of background work. Inline work has none: the call that does it waits for it anyway.
fn background_rate(options: &DbOptions) -> CompactionRate {
    if options.background_threads == 0 {
        CompactionRate::Unlimited
    } else {
        options.compaction_rate
    }
}

/// Step 7: removes files of ours that nothing names. Failures leave waste for the next open.
fn remove_orphans(inner: &Inner, entries: &[DirEntry]) {
    let tree = inner.tree.lock();
    let tables: HashSet<FileNumber> = tree
        .state
        .keyspaces
        .values()
        .flat_map(|keyspace| {
            keyspace.version.tables().map(|(_, _, table)| table.meta().number).collect::<Vec<_>>()
        })
        .collect();
    let manifest = tree.manifest.as_ref().map(Manifest::number);
    let first_segment = tree.state.wal_first_segment;
    drop(tree);
    let live: HashSet<FileNumber> =
        inner.commit().lock().wal().segments().map(|segment| segment.number).collect();
    for entry in entries.iter().filter(|entry| entry.is_file) {
        let Some(kind) = FileKind::parse(&entry.name) else { continue };
        let is_orphan = match kind {
            FileKind::Table(number) => !tables.contains(&number),
            FileKind::Manifest(number) => manifest != Some(number),
            FileKind::WalSegment(number) => number < first_segment || !live.contains(&number),
            FileKind::CurrentTemporary => true,
            FileKind::Current | FileKind::Lock => false,
        };
        if is_orphan && inner.fs.remove(&kind.path(&inner.dir)).is_ok() {
            inner.counters().obsolete_files_removed.add(1);
        }
    }
}
