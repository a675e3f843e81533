//! The table cache: opens tables when they are first needed and closes idle ones when too many are
//! open.
//!
//! The open reader stands in the table itself, so a hit takes no lock. The first tables, up to half of
//! those that may be open, are *pinned*: they stay open as long as they live, and a hit is one plain
//! load, without the barrier that taking a reader out of a shared slot needs; with several runs to ask,
//! that barrier would keep the processor from fetching the next filter while it waits for this one.
//! The others stand in [`Table::slot`]. The cache keeps a queue of those, oldest first; when there are
//! more than allowed, those at the front that nobody used since they were last looked at are closed (a
//! clock). Closing takes the reader out of the slot; whoever still holds it keeps the file open until
//! they let go.
//!
//! # Locks
//! * `opening`: one lock of a few, by file number, held while a table is opened, so that it is
//!   opened once. I/O happens under it; nothing else is locked inside but `queue`.
//! * `queue`: leaf lock; no I/O under it, and no table is let go under it: the last holder of an
//!   obsolete table runs its removal, which may come back here.

pub(crate) mod run_cursor;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use arc_swap::Guard;

use crate::error::Result;
use crate::fs::FileSystem;
use crate::key::FileNumber;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::table::Table;
use crate::table::reader::{ReadContext, TableReader};

const OPENING_LOCKS: usize = 16;
/// A cache for fewer tables pins none.
const PINNING_CACHE_MIN: usize = 16;

/// Opens and closes tables.
pub(crate) struct TableCache {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    ctx: ReadContext,
    /// Tables in the queue.
    queued_max: usize,
    /// Tables that stay open.
    pinned_max: usize,
    /// Each pinned table holds one clone.
    places: Arc<()>,
    opening: [Mutex<()>; OPENING_LOCKS],
    queue: Mutex<VecDeque<(FileNumber, Weak<Table>)>>,
    pinned: Mutex<Vec<Weak<Table>>>,
    open_count: AtomicU64,
}

/// An open table, held for a short while.
pub(crate) enum OpenTable<'a> {
    Pinned(&'a Arc<TableReader>),
    Held(Guard<Option<Arc<TableReader>>>),
}

impl OpenTable<'_> {
    /// The reader, to be held longer or to make cursors.
    #[inline]
    pub(crate) fn reader(&self) -> &Arc<TableReader> {
        match self {
            OpenTable::Pinned(reader) => reader,
            OpenTable::Held(guard) => guard.as_ref().expect("made only from a filled slot"),
        }
    }
}

impl Deref for OpenTable<'_> {
    type Target = TableReader;

    #[inline]
    fn deref(&self) -> &TableReader {
        self.reader()
    }
}

impl TableCache {
    /// A cache for the tables in `dir` that keeps about `open_tables_max` of them open.
    pub(crate) fn new(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        ctx: ReadContext,
        open_tables_max: usize,
    ) -> Self {
        let pinned_max = if open_tables_max < PINNING_CACHE_MIN { 0 } else { open_tables_max / 2 };
        TableCache {
            fs,
            dir: dir.to_path_buf(),
            ctx,
            queued_max: (open_tables_max - pinned_max).max(1),
            pinned_max,
            places: Arc::new(()),
            opening: std::array::from_fn(|_| Mutex::new(())),
            queue: Mutex::default(),
            pinned: Mutex::default(),
            open_count: AtomicU64::new(0),
        }
    }

    /// The open table.
    #[inline]
    pub(crate) fn open<'a>(&self, table: &'a Arc<Table>) -> Result<OpenTable<'a>> {
        if let Some(reader) = table.pinned() {
            return Ok(OpenTable::Pinned(reader));
        }
        let guard = table.slot().load();
        match guard.as_ref() {
            Some(reader) => {
                reader.touch();
                Ok(OpenTable::Held(guard))
            }
            None => self.open_slowly(table),
        }
    }

    /// Lets `part`, which nobody else sees yet, go on with the open reader of `whole`.
    pub(crate) fn take_over(&self, whole: &Table, part: &Arc<Table>) {
        if !part.take_reader_of(whole) {
            return;
        }
        if part.pinned().is_some() {
            self.note_pinned(part);
        } else {
            self.enqueue(part);
        }
    }

    #[cold]
    fn open_slowly<'a>(&self, table: &'a Arc<Table>) -> Result<OpenTable<'a>> {
        let number = table.meta().number;
        let _opening = self.opening[(number.0 % OPENING_LOCKS as u64) as usize].lock();
        if let Some(reader) = table.pinned() {
            return Ok(OpenTable::Pinned(reader));
        }
        if let Some(reader) = table.slot().load_full() {
            return Ok(OpenTable::Held(Guard::from_inner(Some(reader))));
        }
        let reader = Arc::new(TableReader::open(&*self.fs, &self.dir, table.meta(), &self.ctx)?);
        self.open_count.fetch_add(1, Ordering::Relaxed);
        // One of the counted references is the cache's own.
        if Arc::strong_count(&self.places) <= self.pinned_max {
            table.pin(Arc::clone(&reader), Arc::clone(&self.places));
            self.note_pinned(table);
        } else {
            table.slot().store(Some(Arc::clone(&reader)));
            self.enqueue(table);
        }
        Ok(OpenTable::Held(Guard::from_inner(Some(reader))))
    }

    /// Remembers a pinned table for [`TableCache::for_each_open`], and forgets those that are gone.
    fn note_pinned(&self, table: &Arc<Table>) {
        let mut pinned = self.pinned.lock();
        if pinned.len() == pinned.capacity() {
            pinned.retain(|table| table.strong_count() > 0);
        }
        pinned.push(Arc::downgrade(table));
    }

    /// Notes an opened table and closes those that must go for it.
    fn enqueue(&self, table: &Arc<Table>) {
        // Closing unmaps and closes files, and letting a table go may remove it: both outside the
        // lock.
        let mut closed = Vec::new();
        let mut held = Vec::new();
        let mut queue = self.queue.lock();
        queue.push_back((table.meta().number, Arc::downgrade(table)));
        // Each table in the queue gets at most one second chance, so the loop ends.
        let mut chances = queue.len();
        while queue.len() > self.queued_max {
            let Some((number, front)) = queue.pop_front() else { break };
            let Some(candidate) = front.upgrade() else { continue };
            let is_used =
                candidate.slot().load().as_ref().is_some_and(|reader| reader.take_recently_used());
            if Arc::ptr_eq(&candidate, table) || (is_used && chances > 0) {
                chances = chances.saturating_sub(1);
                queue.push_back((number, front));
            } else {
                closed.extend(candidate.slot().swap(None));
            }
            held.push(candidate);
        }
        drop(queue);
        drop(closed);
        drop(held);
    }

    /// Closes a table that is no longer part of any tree.
    pub(crate) fn evict(&self, number: FileNumber) {
        // A table and its parts have one number.
        let mut tables = Vec::new();
        self.queue.lock().retain(|(queued, table)| {
            let stays = *queued != number;
            if !stays {
                tables.extend(table.upgrade());
            }
            stays
        });
        for table in tables {
            table.slot().store(None);
        }
    }

    /// Visits the tables that are open now.
    pub(crate) fn for_each_open(&self, mut visit: impl FnMut(&Arc<TableReader>)) {
        let mut tables: Vec<Arc<Table>> =
            self.queue.lock().iter().filter_map(|(_, table)| table.upgrade()).collect();
        tables.extend(self.pinned.lock().iter().filter_map(Weak::upgrade));
        for table in tables {
            if let Some(reader) = table.pinned() {
                visit(reader);
            } else if let Some(reader) = table.slot().load_full() {
                visit(&reader);
            }
        }
    }

    /// Makes the data blocks of all open tables be verified again at their next touch.
    pub(crate) fn clear_verified(&self) {
        self.for_each_open(|reader| reader.clear_verified());
    }

    /// Bytes in the block cache.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.ctx.cache.as_ref().map_or(0, |cache| cache.bytes())
    }

    /// Tables opened so far.
    pub(crate) fn open_count(&self) -> u64 {
        self.open_count.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for TableCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableCache")
            .field("dir", &self.dir)
            .field("open", &self.queue.lock().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::filter::KeyProbe;
    use crate::fs::StdFs;
    use crate::key::{KeyspaceId, Trailer, key_hash};
    use crate::options::{Compression, ReadMode, Verify};
    use crate::table::reader::ReadStats;
    use crate::table::writer::{TableWriter, TableWriterOptions};

    fn table(dir: &Path, number: u64) -> Arc<Table> {
        table_in(&StdFs, dir, number)
    }

    fn table_in(fs: &dyn FileSystem, dir: &Path, number: u64) -> Arc<Table> {
        let options = TableWriterOptions {
            keyspace: KeyspaceId::default(),
            number: FileNumber(number),
            block_bytes: 4096,
            compression: Compression::None,
            filter: crate::options::FilterKind::Blocked,
            filter_bits: 10.0,
        };
        let mut writer = TableWriter::create(fs, dir, options).unwrap();
        writer.add(b"key", Trailer(number << 8 | 1), &number.to_le_bytes()).unwrap();
        Arc::new(Table::new(writer.finish().unwrap()))
    }

    fn cache(dir: &Path, open_tables_max: usize) -> TableCache {
        let ctx = ReadContext { read_mode: ReadMode::Mmap, verify: Verify::Once, cache: None };
        TableCache::new(Arc::new(StdFs), dir, ctx, open_tables_max)
    }

    fn get(cache: &TableCache, table: &Arc<Table>) -> Option<Trailer> {
        let open = cache.open(table).unwrap();
        let probe = KeyProbe::new(key_hash(b"key"));
        open.get(b"key", &probe, Trailer::NEWEST, &mut ReadStats::default())
            .unwrap()
            .map(|found| found.0)
    }

    fn open_numbers(cache: &TableCache) -> Vec<u64> {
        let mut numbers = Vec::new();
        cache.for_each_open(|reader| numbers.push(reader.meta().number.0));
        numbers.sort_unstable();
        numbers
    }

    #[test]
    fn the_first_tables_are_pinned_and_free_their_places_when_they_go() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), PINNING_CACHE_MIN);
        let mut tables: Vec<_> = (1..=12).map(|number| table(dir.path(), number)).collect();
        for table in &tables {
            assert!(get(&cache, table).is_some());
        }
        let pinned = |tables: &[Arc<Table>]| tables.iter().filter(|t| t.pinned().is_some()).count();
        assert_eq!(pinned(&tables), PINNING_CACHE_MIN / 2);
        tables.drain(..3);
        let late = table(dir.path(), 20);
        assert!(get(&cache, &late).is_some());
        assert!(late.pinned().is_some(), "a place was free again");
        let mut visited = 0;
        cache.for_each_open(|_| visited += 1);
        assert_eq!(visited, 10);
    }

    #[test]
    fn a_table_is_opened_once_and_served_from_its_slot() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 8);
        let one = table(dir.path(), 1);
        for _ in 0..3 {
            assert_eq!(get(&cache, &one), Some(Trailer(1 << 8 | 1)));
        }
        std::thread::scope(|scope| {
            let two = table(dir.path(), 2);
            for _ in 0..4 {
                let (two, cache) = (Arc::clone(&two), &cache);
                scope.spawn(move || assert!(get(cache, &two).is_some()));
            }
        });
        assert_eq!(cache.open_count(), 2);
    }

    #[test]
    fn idle_tables_are_closed_and_used_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 3);
        let tables: Vec<_> = (1..=6).map(|number| table(dir.path(), number)).collect();
        for table in &tables {
            assert!(get(&cache, table).is_some());
            // Table 1 is used between all the others.
            assert!(get(&cache, &tables[0]).is_some());
        }
        assert_eq!(open_numbers(&cache).len(), 3);
        assert!(open_numbers(&cache).contains(&1), "{:?}", open_numbers(&cache));
        for table in &tables {
            assert!(get(&cache, table).is_some());
        }
        assert_eq!(open_numbers(&cache).len(), 3);
    }

    #[test]
    fn a_reader_in_use_survives_its_closing_and_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 3);
        let one = table(dir.path(), 1);
        let open = cache.open(&one).unwrap();
        cache.evict(FileNumber(1));
        assert!(one.slot().load().is_none() && open_numbers(&cache).is_empty());
        StdFs.remove(&dir.path().join("000001.table")).unwrap();
        let probe = KeyProbe::new(key_hash(b"key"));
        assert!(
            open.get(b"key", &probe, Trailer::NEWEST, &mut ReadStats::default()).unwrap().is_some()
        );
        let error = cache.open(&one).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert!(
            error.to_string().contains("missing") && error.to_string().contains("000001.table"),
            "{error}"
        );
    }

    #[test]
    fn a_removal_that_comes_back_to_the_cache_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Arc::new(cache(dir.path(), 1));
        let one = table(dir.path(), 1);
        let two = table(dir.path(), 2);
        assert!(get(&cache, &one).is_some());
        let back = Arc::clone(&cache);
        one.set_obsolete(Arc::new(move |number| back.evict(number)));
        drop(one);
        assert!(get(&cache, &two).is_some());
        assert_eq!(open_numbers(&cache), [2]);
    }

    /// More tables than may be open, used and closed at once; each is let go once, by whoever is last.
    #[cfg(esker_shuttle)]
    #[test]
    fn under_any_schedule_tables_are_readable_and_are_let_go_once() {
        use crate::fs::SimFs;
        use crate::schedules::explore::{below, explore};
        use crate::sync::thread::spawn;

        explore("table_cache", (60, 1500, 100_000), || {
            let fs = Arc::new(SimFs::new());
            let dir = Path::new("/db");
            fs.create_dir_all(dir).unwrap();
            let ctx = ReadContext { read_mode: ReadMode::Pread, verify: Verify::Once, cache: None };
            let cache =
                Arc::new(TableCache::new(Arc::clone(&fs) as Arc<dyn FileSystem>, dir, ctx, 1));
            let gone = Arc::new(Mutex::new(Vec::new()));
            let tables: Vec<_> = (1..=3).map(|number| table_in(&*fs, dir, number)).collect();
            for table in &tables {
                let (gone, cache, fs) = (Arc::clone(&gone), Arc::clone(&cache), Arc::clone(&fs));
                table.set_obsolete(Arc::new(move |number| {
                    cache.evict(number);
                    fs.remove(&dir.join(format!("{:06}.table", number.0))).unwrap();
                    gone.lock().push(number.0);
                }));
            }
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let (cache, tables) = (Arc::clone(&cache), tables.clone());
                    spawn(move || {
                        for _ in 0..3 {
                            let table = &tables[below(3) as usize];
                            if below(4) == 0 {
                                cache.evict(table.meta().number);
                            } else {
                                assert!(get(&cache, table).is_some());
                            }
                        }
                    })
                })
                .collect();
            drop(tables);
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(open_numbers(&cache).is_empty());
            let mut gone = gone.lock().clone();
            gone.sort_unstable();
            assert_eq!(gone, [1, 2, 3]);
        });
    }
}
