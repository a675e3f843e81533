//! Reading a version: point lookups over its runs, and a cursor over one run.
//!
//! A point lookup asks the runs that may hold the key, newest first, and stops at the first that does: by the
//! invariants of a [`Version`] nothing newer can stand further down. What kind of entry it found is not its business.

use std::sync::Arc;

use crate::block::bytes::PinnedValue;
use crate::cursor::Cursor;
use crate::error::Result;
use crate::filter::KeyProbe;
use crate::fs::Access;
use crate::key::Trailer;
use crate::table::cursor::TableCursor;
use crate::table::reader::ReadStats;
use crate::table_cache::TableCache;
use crate::version::{Run, Version};

/// The newest entry of `key` at or after `bound` in `version`.
pub(crate) fn get(
    version: &Version,
    tables: &TableCache,
    key: &[u8],
    probe: &KeyProbe,
    bound: Trailer,
    stats: &mut ReadStats,
) -> Result<Option<(Trailer, PinnedValue)>> {
    for run in version.levels.iter().flat_map(|level| &level.runs) {
        let Some(table) = run.find(key) else { continue };
        if let Some(found) = tables.open(table)?.reader().get(key, probe, bound, stats)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A cursor over the tables of a run, one open at a time.
#[derive(Debug)]
pub(crate) struct RunCursor {
    run: Arc<Run>,
    tables: Arc<TableCache>,
    access: Access,
    /// The table the cursor stands in, and its cursor.
    current: Option<(usize, TableCursor)>,
    stats: ReadStats,
}

impl RunCursor {
    pub(crate) fn new(run: Arc<Run>, tables: Arc<TableCache>, access: Access) -> Self {
        RunCursor { run, tables, access, current: None, stats: ReadStats::default() }
    }

    /// The value, pinned. The cursor must be valid.
    pub(crate) fn pin_value(&self) -> PinnedValue {
        self.table_cursor().pin_value()
    }

    /// What reading cost since the last call.
    pub(crate) fn take_stats(&mut self) -> ReadStats {
        if let Some((_, cursor)) = &mut self.current {
            self.stats += cursor.take_stats();
        }
        std::mem::take(&mut self.stats)
    }

    fn table_cursor(&self) -> &TableCursor {
        let (_, cursor) = self.current.as_ref().expect("a valid cursor stands in a table");
        cursor
    }

    /// Makes the cursor of the table at `index` the current one; past either end, the cursor stands nowhere.
    fn enter(&mut self, index: Option<usize>) -> Result<Option<&mut TableCursor>> {
        let Some((index, table)) =
            index.and_then(|index| Some((index, self.run.tables.get(index)?)))
        else {
            self.leave();
            return Ok(None);
        };
        if self.current.as_ref().is_none_or(|(current, _)| *current != index) {
            let table = Arc::clone(table);
            self.leave();
            let cursor = self.tables.open(&table)?.reader().cursor(self.access);
            self.current = Some((index, cursor));
        }
        Ok(self.current.as_mut().map(|(_, cursor)| cursor))
    }

    fn leave(&mut self) {
        if let Some((_, mut cursor)) = self.current.take() {
            self.stats += cursor.take_stats();
        }
    }

    /// If the current table is exhausted forward, moves to the first entry of the next one. Tables are not empty, but
    /// the loop does not rely on it.
    fn skip_forward(&mut self) -> Result<()> {
        while let Some((index, cursor)) = &self.current {
            if cursor.valid() {
                return Ok(());
            }
            let next = Some(index + 1);
            if let Some(cursor) = self.enter(next)? {
                cursor.seek_to_first()?;
            }
        }
        Ok(())
    }

    fn skip_backward(&mut self) -> Result<()> {
        while let Some((index, cursor)) = &self.current {
            if cursor.valid() {
                return Ok(());
            }
            let previous = index.checked_sub(1);
            if let Some(cursor) = self.enter(previous)? {
                cursor.seek_to_last()?;
            }
        }
        Ok(())
    }
}

impl Cursor for RunCursor {
    #[inline]
    fn valid(&self) -> bool {
        self.current.as_ref().is_some_and(|(_, cursor)| cursor.valid())
    }

    fn seek_to_first(&mut self) -> Result<()> {
        if let Some(cursor) = self.enter(Some(0))? {
            cursor.seek_to_first()?;
        }
        self.skip_forward()
    }

    fn seek_to_last(&mut self) -> Result<()> {
        let last = self.run.tables.len().checked_sub(1);
        if let Some(cursor) = self.enter(last)? {
            cursor.seek_to_last()?;
        }
        self.skip_backward()
    }

    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        let index = self.run.tables.partition_point(|table| *table.meta().largest < *key);
        if let Some(cursor) = self.enter(Some(index))? {
            cursor.seek(key, trailer)?;
        }
        self.skip_forward()
    }

    fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        let after = self.run.tables.partition_point(|table| *table.meta().smallest <= *key);
        if let Some(cursor) = self.enter(after.checked_sub(1))? {
            cursor.seek_for_prev(key, trailer)?;
        }
        self.skip_backward()
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        let (_, cursor) = self.current.as_mut().expect("next needs a valid cursor");
        cursor.next()?;
        if cursor.valid() { Ok(()) } else { self.skip_forward() }
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        let (_, cursor) = self.current.as_mut().expect("prev needs a valid cursor");
        cursor.prev()?;
        if cursor.valid() { Ok(()) } else { self.skip_backward() }
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.table_cursor().key()
    }

    #[inline]
    fn trailer(&self) -> Trailer {
        self.table_cursor().trailer()
    }

    #[inline]
    fn value(&self) -> &[u8] {
        self.table_cursor().value()
    }
}
