//! A cursor over a run: its tables, one after the other, each opened when the cursor reaches it.
//!
//! The tables of a run are disjoint and in key order, so one of them at a time answers; a merge has
//! one source for each run and not one for each table. The table that the cursor stands in stays
//! open for as long as that.
//!
//! After an error the cursor stands nowhere; the next seek starts afresh.

use std::ops::Range;
use std::sync::Arc;

use crate::cursor::Cursor;
use crate::error::Result;
use crate::fs::Access;
use crate::key::Trailer;
use crate::table::Table;
use crate::table::cursor::TableCursor;
use crate::table::reader::ReadStats;
use crate::table_cache::TableCache;
use crate::version::Run;

/// A position in some adjacent tables of a run, or nowhere.
#[derive(Debug)]
pub(crate) struct RunCursor {
    cache: Arc<TableCache>,
    /// None once all tables were forgotten.
    run: Option<Arc<Run>>,
    /// Which of the run's tables are seen.
    tables: Range<usize>,
    access: Access,
    /// Which table `cursor` is in.
    at: usize,
    cursor: Option<TableCursor>,
    /// What reading the tables left behind cost.
    stats: ReadStats,
}

impl RunCursor {
    /// A cursor over `tables` of the run, standing nowhere.
    pub(crate) fn new(
        cache: Arc<TableCache>,
        run: Arc<Run>,
        tables: Range<usize>,
        access: Access,
    ) -> Self {
        assert!(tables.start <= tables.end && tables.end <= run.tables.len(), "tables of the run");
        let run = Some(run);
        RunCursor { cache, run, tables, access, at: 0, cursor: None, stats: ReadStats::default() }
    }

    /// The table that the cursor stands in. Must be valid.
    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.run_tables()[self.at]
    }

    /// Which of the run's tables that is. Must be valid.
    #[inline]
    pub(crate) fn table_index(&self) -> usize {
        self.at
    }

    /// Lets go of the tables before the one that the cursor stands in, of all if it stands nowhere.
    /// The cursor sees them no more, and the others under new indexes, from 0 on.
    pub(crate) fn forget_passed(&mut self) {
        let from = if self.valid() { self.at } else { self.tables.end };
        let ahead = self.run_tables()[from..self.tables.end].to_vec();
        if ahead.is_empty() {
            self.leave_stats();
            self.cursor = None;
        }
        self.tables = 0..ahead.len();
        self.at = 0;
        let id = self.run.take().map(|run| run.id).filter(|_| !ahead.is_empty());
        self.run = id.map(|id| Arc::new(Run::new(id, ahead)));
    }

    fn run_tables(&self) -> &[Arc<Table>] {
        self.run.as_ref().map_or(&[], |run| &run.tables)
    }

    /// The cursor in that table. Must be valid.
    pub(crate) fn table_cursor(&self) -> &TableCursor {
        self.cursor.as_ref().expect("the cursor is valid")
    }

    /// What reading cost since the last call.
    pub(crate) fn take_stats(&mut self) -> ReadStats {
        self.leave_stats();
        std::mem::take(&mut self.stats)
    }

    fn leave_stats(&mut self) {
        if let Some(cursor) = &mut self.cursor {
            self.stats += cursor.take_stats();
        }
    }

    /// Goes to table `at`, which may be none of ours, and there where `place` says.
    fn enter(
        &mut self,
        at: Option<usize>,
        place: impl FnOnce(&mut TableCursor) -> Result<()>,
    ) -> Result<()> {
        let at = at.filter(|at| self.tables.contains(at));
        // Seeks within one table keep its block and readahead.
        let kept = if at == Some(self.at) { self.cursor.take() } else { None };
        self.leave_stats();
        self.cursor = None;
        let Some(at) = at else { return Ok(()) };
        let mut cursor = if let Some(cursor) = kept {
            cursor
        } else {
            let table = &self.run_tables()[at];
            let reader = self.cache.open(table)?;
            let mut cursor = TableCursor::new(Arc::clone(reader.reader()), self.access);
            if table.meta().is_partial() {
                cursor.set_lower_bound(&table.meta().smallest);
            }
            cursor
        };
        place(&mut cursor)?;
        self.at = at;
        self.cursor = Some(cursor);
        Ok(())
    }

    /// Goes on to the next table if this one is at its end.
    fn skip_forward(&mut self) -> Result<()> {
        if self.cursor.as_ref().is_none_or(TableCursor::valid) {
            return Ok(());
        }
        self.enter(self.at.checked_add(1), TableCursor::seek_to_first)
    }

    /// Goes back to the table before if this one is at its start.
    fn skip_backward(&mut self) -> Result<()> {
        if self.cursor.as_ref().is_none_or(TableCursor::valid) {
            return Ok(());
        }
        self.enter(self.at.checked_sub(1), TableCursor::seek_to_last)
    }

    fn seen(&self) -> &[Arc<Table>] {
        &self.run_tables()[self.tables.clone()]
    }

    fn step(&mut self, step: impl FnOnce(&mut TableCursor) -> Result<()>) -> Result<()> {
        let cursor = self.cursor.as_mut().expect("the cursor is valid");
        let stepped = step(cursor);
        if stepped.is_err() {
            self.leave_stats();
            self.cursor = None;
        }
        stepped
    }
}

impl Cursor for RunCursor {
    #[inline]
    fn valid(&self) -> bool {
        self.cursor.as_ref().is_some_and(TableCursor::valid)
    }

    fn seek_to_first(&mut self) -> Result<()> {
        // A table is never empty.
        self.enter(Some(self.tables.start), TableCursor::seek_to_first)
    }

    fn seek_to_last(&mut self) -> Result<()> {
        self.enter(self.tables.end.checked_sub(1), TableCursor::seek_to_last)
    }

    fn seek(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        let before = self.seen().partition_point(|table| *table.meta().largest < *key);
        self.enter(Some(self.tables.start + before), |cursor| cursor.seek(key, trailer))?;
        // The key may be the table's last, and all its versions newer than `trailer`.
        self.skip_forward()
    }

    fn seek_for_prev(&mut self, key: &[u8], trailer: Trailer) -> Result<()> {
        let upto = self.seen().partition_point(|table| *table.meta().smallest <= *key);
        let at = upto.checked_sub(1).map(|at| self.tables.start + at);
        self.enter(at, |cursor| cursor.seek_for_prev(key, trailer))?;
        self.skip_backward()
    }

    #[inline]
    fn next(&mut self) -> Result<()> {
        self.step(TableCursor::next)?;
        self.skip_forward()
    }

    #[inline]
    fn prev(&mut self) -> Result<()> {
        self.step(TableCursor::prev)?;
        self.skip_backward()
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
