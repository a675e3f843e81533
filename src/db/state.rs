//! The shared state of an open database, and the order in which its locks are taken.
//!
//! [`Inner`] is what every handle and every background thread shares. A [`KeyspaceCore`] is one keyspace; its
//! [`ReadView`] is all that a read needs, replaced whole.
//!
//! # Lock order
//! A thread that holds a lock takes only locks further down:
//! 1. `Inner::tree`: the manifest and the fold of its edits. Held over the manifest's write and sync, never by a read
//!    or a write.
//! 2. `Inner::work`: what background threads do. Held while a job is chosen, never while one runs.
//! 3. `Inner::commit`: the commit queue and the log.
//! 4. leaves: the results of subcompactions, the snapshot list, the throttle and its watch, the table cache, the
//!    list of unreferenced tables, the contents of tables, the queue of events.
//!
//! Views are replaced by [`ArcSwap::rcu`]: rotation (under 3) replaces the memtables, installation (under 1)
//! the version and the flushed memtables; each keeps what the other did.
//!
//! # Invariants
//! * A read takes the view first and the sequence number after it. The view then holds every version visible at that
//!   number, or a consistent older moment if a rotation came between.
//! * Bytes durable, then the manifest edit, then the view: in that order everywhere.
//! * A memtable is flushed in the order of rotation, and only up to sequence numbers that are visible.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;
use crate::compaction::filter::CompactionFilter;
use crate::compaction::{CompactionStrategy, built_in};
use crate::content::Content;
use crate::db::commit::{CommitQueue, CommitState};
use crate::db::counters::{Counters, KeyspaceCounters};
use crate::db::disk_usage::DiskUsage;
use crate::db::snapshots::SnapshotList;
use crate::db::stalls::StallWatch;
use crate::db::throttle::Throttle;
use crate::db::work::WorkQueue;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Listeners, MemtableSealed};
use crate::fs::{FileLock, FileSystem};
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::manifest::Manifest;
use crate::manifest::state::ManifestState;
use crate::memtable::MemTable;
use crate::options::{DbOptions, KeyspaceOptions};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{ArcSwap, Mutex, RwLock};
use crate::table_cache::TableCache;
use crate::trace::recorder::Recorder;
use crate::version::Version;
use crate::version::totals::LifetimeTotals;

/// The keyspace that every database has.
pub(crate) const DEFAULT_KEYSPACE: &str = "default";

/// No WAL segment: nothing in the memtable was logged.
const NO_SEGMENT: u64 = u64::MAX;

/// A memtable and what the log holds of it.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) table: Arc<MemTable>,
    /// The first WAL segment that holds one of its entries.
    first_segment: AtomicU64,
    /// Bytes at which it is rotated.
    limit_bytes: AtomicU64,
    /// Whether an entry of it is in no log, so that only a flush keeps it.
    unlogged: AtomicBool,
    /// Set at rotation: everything in it has this sequence number or a lower one, everything later a higher one.
    cut: AtomicU64,
}

impl Memory {
    pub(crate) fn new(table: Arc<MemTable>, limit_bytes: u64) -> Arc<Self> {
        Arc::new(Memory {
            table,
            limit_bytes: AtomicU64::new(limit_bytes),
            first_segment: AtomicU64::new(NO_SEGMENT),
            unlogged: AtomicBool::new(false),
            cut: AtomicU64::new(0),
        })
    }

    /// Whether it should be rotated before the next write.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.table.bytes() >= self.limit_bytes.load(Ordering::Relaxed)
    }

    /// Changes the bytes at which it is rotated.
    pub(crate) fn set_limit_bytes(&self, bytes: u64) {
        self.limit_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Notes that a record in `segment` holds an entry of it. Called under the commit lock, in log order.
    #[inline]
    pub(crate) fn note_segment(&self, segment: FileNumber) {
        if self.first_segment.load(Ordering::Relaxed) == NO_SEGMENT {
            self.first_segment.store(segment.0, Ordering::Relaxed);
        }
    }

    /// Notes that an entry of it is in no log.
    pub(crate) fn note_unlogged(&self) {
        self.unlogged.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_unlogged(&self) -> bool {
        self.unlogged.load(Ordering::Relaxed)
    }

    /// The first WAL segment that recovery would need for it.
    pub(crate) fn first_segment(&self) -> Option<FileNumber> {
        let segment = self.first_segment.load(Ordering::Relaxed);
        (segment != NO_SEGMENT).then_some(FileNumber(segment))
    }

    pub(crate) fn set_cut(&self, sequence: SequenceNumber) {
        self.cut.store(sequence.0, Ordering::Relaxed);
    }

    /// The last sequence number that may be in it; meaningful once it is immutable.
    pub(crate) fn cut(&self) -> SequenceNumber {
        SequenceNumber(self.cut.load(Ordering::Relaxed))
    }
}

/// Everything that a read of one keyspace looks at, newest first: memtables, then the tree.
#[derive(Clone, Debug)]
pub(crate) struct ReadView {
    pub(crate) active: Arc<Memory>,
    /// Full memtables that are not flushed yet, newest first.
    pub(crate) immutables: Vec<Arc<Memory>>,
    pub(crate) version: Arc<Version>,
}

/// One keyspace of an open database.
pub(crate) struct KeyspaceCore {
    pub(crate) id: KeyspaceId,
    pub(crate) name: Arc<str>,
    pub(crate) options: ArcSwap<KeyspaceOptions>,
    /// `None` while the strategy that the options name is not registered: then nothing is compacted.
    pub(crate) strategy: RwLock<Option<Arc<dyn CompactionStrategy>>>,
    pub(crate) view: ArcSwap<ReadView>,
    pub(crate) dropped: AtomicBool,
    /// The option `default_ttl_s` in milliseconds, where a write finds it without touching the options.
    default_ttl_ms: AtomicU64,
    pub(crate) throttle: Throttle,
    pub(crate) stalls: StallWatch,
    /// What the strategy said must still be moved, when it was last asked.
    pub(crate) debt_bytes: AtomicU64,
    /// How urgent its compaction was then: the bits of an `f64`.
    pub(crate) urgency: AtomicU64,
    pub(crate) counters: KeyspaceCounters,
}

impl fmt::Debug for KeyspaceCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyspaceCore")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl KeyspaceCore {
    pub(crate) fn new(
        id: KeyspaceId,
        name: &str,
        options: KeyspaceOptions,
        version: Arc<Version>,
        strategy: Option<Arc<dyn CompactionStrategy>>,
    ) -> Arc<Self> {
        let name = Arc::from(name);
        let active =
            Memory::new(MemTable::new(options.memtable_bytes, None), options.memtable_bytes);
        Arc::new(KeyspaceCore {
            id,
            default_ttl_ms: AtomicU64::new(options.default_ttl_ms()),
            stalls: StallWatch::new(&name),
            name,
            options: ArcSwap::from_pointee(options),
            strategy: RwLock::new(strategy),
            view: ArcSwap::from_pointee(ReadView { active, immutables: Vec::new(), version }),
            dropped: AtomicBool::new(false),
            throttle: Throttle::default(),
            debt_bytes: AtomicU64::new(0),
            urgency: AtomicU64::new(0),
            counters: KeyspaceCounters::default(),
        })
    }

    /// Replaces the options.
    pub(crate) fn set_options(&self, options: KeyspaceOptions) {
        self.default_ttl_ms.store(options.default_ttl_ms(), Ordering::Relaxed);
        self.options.store(Arc::new(options));
    }

    /// How long a plain put lives, in milliseconds; 0: for ever.
    #[inline]
    pub(crate) fn default_ttl_ms(&self) -> u64 {
        self.default_ttl_ms.load(Ordering::Relaxed)
    }

    /// How urgent compaction is: see [`Load`](crate::compaction::pressure::Load).
    pub(crate) fn urgency(&self) -> f64 {
        f64::from_bits(self.urgency.load(Ordering::Relaxed))
    }

    /// Makes the active memtable immutable and starts an empty one. The caller holds the commit lock, or is recovery;
    /// `cut` is the last sequence number given, `now_ms` the time. Returns what is immutable now; a flush may have
    /// taken it out of the view already.
    pub(crate) fn rotate(&self, cut: SequenceNumber, now_ms: u64) -> Arc<Memory> {
        let bytes = self.options.load().memtable_bytes;
        let before = self.view.rcu(|view| {
            view.active.set_cut(cut);
            view.active.table.note_write_time(now_ms);
            let fresh =
                Memory::new(MemTable::new(bytes, Some(&view.active.table.prefix_hint())), bytes);
            let mut immutables = Vec::with_capacity(view.immutables.len() + 1);
            immutables.push(Arc::clone(&view.active));
            immutables.extend(view.immutables.iter().cloned());
            ReadView { active: fresh, immutables, version: Arc::clone(&view.version) }
        });
        Arc::clone(&before.active)
    }
}

/// The keyspaces of a database, replaced whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyspaceMap {
    /// In order, so that without threads the same operations have the same effects on the disk.
    pub(crate) by_id: BTreeMap<KeyspaceId, Arc<KeyspaceCore>>,
}

impl KeyspaceMap {
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<KeyspaceCore>> {
        self.by_id.values().find(|core| &*core.name == name)
    }

    /// All keyspaces, in the order of their ids.
    pub(crate) fn in_order(&self) -> Vec<Arc<KeyspaceCore>> {
        self.by_id.values().cloned().collect()
    }
}

/// The manifest and the fold of its edits.
#[derive(Debug)]
pub(crate) struct Tree {
    /// `None` in a database opened for reading.
    pub(crate) manifest: Option<Manifest>,
    /// Length of the manifest when it held nothing but its first record.
    pub(crate) snapshot_bytes: u64,
    pub(crate) state: ManifestState,
    /// What of the totals since open is in `state` already.
    pub(crate) totals_in_state: LifetimeTotals,
}

/// What reads share with handles that outlive the database: iterators and their tables.
#[derive(Debug)]
pub(crate) struct ReadShared {
    /// Asked only when a read meets an entry that can expire.
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tables: Arc<TableCache>,
    pub(crate) counters: Counters,
    pub(crate) commit: CommitQueue,
    pub(crate) snapshots: SnapshotList,
    /// Where operations are recorded, if that was asked for.
    pub(crate) recorder: Option<Recorder>,
}

/// An open database.
pub(crate) struct Inner {
    /// Tells the databases of a process apart.
    pub(crate) origin: u64,
    pub(crate) dir: PathBuf,
    pub(crate) options: DbOptions,
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) listeners: Arc<Listeners>,
    /// The user's strategies, by name.
    pub(crate) strategies: BTreeMap<String, Arc<dyn CompactionStrategy>>,
    /// The user's compaction filters, by keyspace.
    pub(crate) filters: BTreeMap<String, Arc<dyn CompactionFilter>>,
    pub(crate) read: Arc<ReadShared>,
    pub(crate) disk: Arc<DiskUsage>,
    pub(crate) default_keyspace: Arc<KeyspaceCore>,
    pub(crate) keyspaces: ArcSwap<KeyspaceMap>,
    pub(crate) tree: Mutex<Tree>,
    pub(crate) next_file_number: AtomicU64,
    pub(crate) work: Arc<WorkQueue>,
    /// What backups found in tables: an immutable file is read once.
    pub(crate) table_contents: Mutex<HashMap<FileNumber, Content>>,
    pub(crate) closed: AtomicBool,
    /// Released last.
    pub(crate) lock: Mutex<Option<Box<dyn FileLock>>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn commit(&self) -> &CommitQueue {
        &self.read.commit
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.read.counters
    }

    /// What was written since open, as the manifest keeps it.
    pub(crate) fn totals_since_open(&self) -> LifetimeTotals {
        let jobs = self.counters().jobs();
        let compactions = jobs.compactions.into_iter();
        let (through, writes) = {
            let commit = self.commit().lock();
            (SequenceNumber(commit.next_sequence.0.saturating_sub(1)), commit.totals)
        };
        LifetimeTotals {
            through,
            user_bytes: writes.user_bytes,
            user_operations: writes.operations,
            wal_bytes: writes.wal_bytes,
            flushes: jobs.flushes.count,
            flush_bytes: jobs.flushes.bytes,
            manifest_bytes: self.counters().manifest_bytes.get(),
            compactions: compactions
                .map(|((level, reason), totals)| ((level, reason.to_owned()), totals))
                .collect(),
        }
    }

    /// A file number that was never used.
    pub(crate) fn new_file_number(&self) -> FileNumber {
        FileNumber(self.next_file_number.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn visible(&self) -> SequenceNumber {
        self.commit().visible()
    }

    /// Whether flush and compaction run inside the calls that need them.
    pub(crate) fn runs_inline(&self) -> bool {
        self.options.background_threads == 0
    }

    /// Rotates the memtable of `core`. The caller holds the commit lock; `cut` is the last sequence number given.
    pub(crate) fn rotate(&self, core: &KeyspaceCore, cut: SequenceNumber) {
        let sealed = core.rotate(cut, self.clock.unix_ms());
        self.listeners.note(|| {
            Event::MemtableSealed(MemtableSealed {
                keyspace: Arc::clone(&core.name),
                bytes: sealed.table.bytes(),
                entry_count: sealed.table.entry_count(),
            })
        });
    }

    /// Tells the listeners if the database is poisoned. The caller holds no lock, and met an error.
    #[cold]
    pub(crate) fn tell_failure(&self) {
        if let Some(error) = self.commit().failure() {
            self.listeners.note_poisoned(&error);
        }
        self.listeners.tell();
    }

    /// Refuses to work on a closed database.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(self.closed_error());
        }
        Ok(())
    }

    #[cold]
    pub(crate) fn closed_error(&self) -> Error {
        Error::new(ErrorKind::Closed, "the database is closed")
            .at(&self.dir)
            .advise("open it again")
    }

    /// Refuses to write to a closed database, or one opened for reading.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        if self.options.read_only {
            return Err(Error::invalid("the database was opened read-only")
                .at(&self.dir)
                .advise("open it without read_only"));
        }
        Ok(())
    }

    /// Stops writing for good after `error`, which is returned for the call that met it; later writes will say that the
    /// database is poisoned.
    pub(crate) fn poison(&self, error: Error) -> Error {
        self.commit().poison(&error);
        self.listeners.note_poisoned(&error);
        self.wake_all();
        error
    }

    /// Wakes everybody who waits for anything, to see that the database is closed or poisoned.
    pub(crate) fn wake_all(&self) {
        self.work.wake_all();
        for core in self.keyspaces.load().by_id.values() {
            core.throttle.wake_all();
        }
    }

    /// The first WAL segment that recovery would need, given that `flushed` is in tables now. The caller holds the
    /// commit lock, so that no record is added meanwhile.
    pub(crate) fn first_needed_segment(
        &self,
        commit: &CommitState,
        flushed: Option<&Arc<Memory>>,
    ) -> FileNumber {
        let current = commit.wal.as_ref().map_or(FileNumber(0), |wal| wal.end_position().segment);
        let mut first = current;
        for core in self.keyspaces.load().by_id.values() {
            let view = core.view.load();
            for memory in view.immutables.iter().chain(std::iter::once(&view.active)) {
                if flushed.is_some_and(|flushed| Arc::ptr_eq(flushed, memory)) {
                    continue;
                }
                first = memory.first_segment().map_or(first, |segment| first.min(segment));
            }
        }
        first
    }
}

/// The strategy object that `options` name: built in, or one of `registered`.
pub(crate) fn strategy_for(
    registered: &BTreeMap<String, Arc<dyn CompactionStrategy>>,
    options: &KeyspaceOptions,
) -> Option<Arc<dyn CompactionStrategy>> {
    built_in(&options.compaction).or_else(|| registered.get(options.compaction.name()).cloned())
}

/// As [`strategy_for`], for options that a caller passes: an unknown strategy is a mistake of theirs.
pub(crate) fn require_strategy(
    registered: &BTreeMap<String, Arc<dyn CompactionStrategy>>,
    options: &KeyspaceOptions,
) -> Result<Arc<dyn CompactionStrategy>> {
    strategy_for(registered, options).ok_or_else(|| {
        let name = options.compaction.name();
        Error::invalid(format!("no compaction strategy called {name} is registered"))
            .advise("register it with DbBuilder::strategy, or choose a built-in one")
    })
}

/// Options as the manifest keeps them.
pub(crate) fn stored_options(options: &KeyspaceOptions) -> Vec<(String, String)> {
    options.to_pairs().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
