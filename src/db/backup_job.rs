//! One backup: brings what a backup directory lacks of the present moment into it.
//!
//! Memtables are flushed first, so that what is in memory becomes tables that the next backup shares; what is written
//! after that flush goes into tables of the backup's own.
//!
//! # Which tables are there already
//! Numbers and metadata do not tell the tables of two databases apart that were one once (a checkpoint and its
//! source), so a table is known by the hash of its bytes. To hash it is to read it; what was hashed once is remembered
//! as long as the database is open, because tables never change. A table that goes into the directory is verified
//! first, so that damage of the database is found here, and not at the restore.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::assembly::refuse_within;
use crate::backup::BackupReport;
use crate::backup::format::Description;
use crate::backup::store::Store;
use crate::content::{Content, read};
use crate::db::background;
use crate::db::install::remove_unreferenced;
use crate::db::moment::Moment;
use crate::db::state::Inner;
use crate::error::Result;
use crate::file_name::FileKind;
use crate::key::FileNumber;
use crate::table::Table;

/// Adds a backup of the present moment to `dir`.
pub(crate) fn backup(inner: &Inner, dir: &Path) -> Result<BackupReport> {
    make(inner, dir).inspect_err(|_| inner.tell_failure())
}

fn make(inner: &Inner, dir: &Path) -> Result<BackupReport> {
    inner.check_open()?;
    refuse_within(&inner.dir, dir)?;
    let mut store = Store::open(inner.fs.as_ref(), dir)?;
    if !inner.options.read_only {
        background::flush(inner, &inner.keyspaces.load().in_order())?;
    }
    let mut moment = Moment::take(inner)?;
    let report = fill(inner, &mut store, &mut moment, dir);
    // Tables that left the tree meanwhile were kept for the moment.
    drop(moment);
    remove_unreferenced(inner);
    inner.listeners.tell();
    let report = report?;
    // The backup is there; waste that stays goes with the next one.
    let _ = store.sweep();
    Ok(report)
}

fn fill(
    inner: &Inner,
    store: &mut Store<'_>,
    moment: &mut Moment,
    dir: &Path,
) -> Result<BackupReport> {
    let id = store.next_id();
    let mut report = BackupReport { id, sequence: moment.sequence.0, ..BackupReport::default() };
    let mut tables = BTreeMap::new();
    for table in moment.tables() {
        let (content, is_new) = add(inner, store, &table)?;
        tables.insert(table.meta().number, content);
        count(&mut report, content, is_new);
    }
    remember_only(inner, &tables);
    for meta in moment.write_memory(inner, inner.fs.as_ref(), dir)? {
        let content = store.adopt(meta.number)?;
        tables.insert(meta.number, content);
        count(&mut report, content, true);
    }
    store.publish(&Description {
        id,
        created_ms: inner.clock.unix_ms(),
        sequence: moment.sequence,
        tables,
        state: std::mem::take(&mut moment.state),
    })?;
    Ok(report)
}

/// Copies a table unless it is there. Whether it was copied.
fn add(inner: &Inner, store: &mut Store<'_>, table: &Arc<Table>) -> Result<(Content, bool)> {
    let number = table.meta().number;
    let path = FileKind::Table(number).path(&inner.dir);
    let known = inner.table_contents.lock().get(&number).copied();
    let known = match known {
        // With nothing to compare it with, it is hashed while it is copied.
        None if store.holds_any(number) => Some(read(inner.fs.as_ref(), &path)?),
        known => known,
    };
    if let Some(content) = known.filter(|content| store.holds(number, *content)) {
        inner.table_contents.lock().insert(number, content);
        return Ok((content, false));
    }
    inner.read.tables.open(table)?.verify_all(table.meta())?;
    let content = store.add_copy(number, &path)?;
    inner.table_contents.lock().insert(number, content);
    Ok((content, true))
}

fn count(report: &mut BackupReport, content: Content, is_new: bool) {
    if is_new {
        report.tables_copied += 1;
        report.bytes_copied += content.bytes;
    } else {
        report.tables_shared += 1;
        report.bytes_shared += content.bytes;
    }
}

/// Forgets the contents of tables that left the tree.
fn remember_only(inner: &Inner, tables: &BTreeMap<FileNumber, Content>) {
    let live: HashSet<&FileNumber> = tables.keys().collect();
    inner.table_contents.lock().retain(|number, _| live.contains(number));
}
