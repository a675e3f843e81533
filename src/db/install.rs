//! Installing changes: manifest first, then the view, then the removal of what is no longer needed.
//!
//! Everything that changes a tree comes through here, so the order of design section 2 holds in one place: the tables'
//! bytes are durable already; the edit is appended and synced; only then readers get the new version; only then files
//! are let go. A failed edit poisons the database and removes nothing.

use std::collections::HashSet;
use std::sync::Arc;

use crate::compaction::TreeView;
use crate::compaction::pressure::Load;
use crate::compaction::slice::Replacement;
use crate::db::disk_usage::Part;
use crate::db::state::{Inner, KeyspaceCore, Memory, ReadView, Tree};
use crate::db::work::Busy;
use crate::error::{Error, Result};
use crate::event::{Event, TableEvent};
use crate::file_name::FileKind;
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::manifest::Manifest;
use crate::options::Compaction;
use crate::sync::atomic::Ordering;
use crate::table::{Table, TableMeta};
use crate::version::edit::{TableAdded, VersionEdit};
use crate::version::{LEVEL_COUNT, RunId};
use crate::wal::writer::WalWriter;

/// A manifest longer than this, and than four times its snapshot, is replaced by a new one.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Appends `edit` to the manifest and folds it into the state. On failure the database is poisoned.
pub(crate) fn commit_edit(inner: &Inner, tree: &mut Tree, mut edit: VersionEdit) -> Result<()> {
    edit.next_file_number = Some(FileNumber(inner.next_file_number.load(Ordering::Relaxed)));
    inner.commit().lock().check()?;
    if tree.manifest.is_none() {
        inner.check_open()?;
    }
    let totals = inner.totals_since_open();
    edit.lifetime_totals = Some(totals.since(&tree.totals_in_state));
    let dropped = tables_of(tree, &edit.keyspaces_dropped);
    let manifest = tree.manifest.as_mut().expect("only a writable database changes its tree");
    let before = manifest.bytes();
    // An edit that does not fit is refused before anything is written; after it was applied, a failed append poisons.
    tree.state.apply(&edit)?;
    debug_assert_eq!(
        tree.state
            .keyspaces
            .values()
            .find_map(|keyspace| keyspace.version.check_invariants().err()),
        None,
        "the edit leaves a tree that is out of order"
    );
    manifest.append(&edit).map_err(|error| inner.poison(error))?;
    inner.counters().manifest_edits.add(1);
    inner.counters().manifest_bytes.add(manifest.bytes() - before);
    tree.totals_in_state = totals;
    place_tables(inner, &edit, &dropped);
    if manifest.bytes() > MANIFEST_BYTES_MAX.max(4 * tree.snapshot_bytes) {
        roll_manifest(inner, tree)?;
    }
    Ok(())
}

/// The tables of `keyspaces`.
fn tables_of(tree: &Tree, keyspaces: &[KeyspaceId]) -> Vec<FileNumber> {
    let trees = keyspaces.iter().filter_map(|id| tree.state.keyspaces.get(id));
    let tables = trees.flat_map(|keyspace| keyspace.version.tables());
    tables.map(|(_, _, table)| table.meta().number).collect()
}

/// Says what the tables of `edit`, which is durable, count as on disk.
fn place_tables(inner: &Inner, edit: &VersionEdit, dropped: &[FileNumber]) {
    for number in edit.tables_removed.iter().map(|(_, number)| number).chain(dropped) {
        inner.disk.place(*number, Part::ObsoleteTables);
    }
    // After the removed ones: a table that is removed and added has moved.
    for added in &edit.tables_added {
        inner.disk.place(added.meta.number, Part::LiveTables);
    }
}

/// Replaces a long manifest by a new one that begins with the present state.
fn roll_manifest(inner: &Inner, tree: &mut Tree) -> Result<()> {
    let number = inner.new_file_number();
    tree.state.next_file_number = FileNumber(inner.next_file_number.load(Ordering::Relaxed));
    let fresh = Manifest::create(inner.fs.as_ref(), &inner.dir, number, &tree.state)
        .map_err(|error| inner.poison(error))?;
    tree.snapshot_bytes = fresh.bytes();
    inner.counters().manifest_bytes.add(fresh.bytes());
    let old = tree.manifest.replace(fresh);
    if let Some(old) = old {
        // The new manifest is durable and CURRENT names it: the old one is only waste, and waste may stay.
        let _ = inner.fs.remove(&FileKind::Manifest(old.number()).path(&inner.dir));
    }
    Ok(())
}

/// Installs a flush: `memory`'s entries are in `table` now, or nothing of them survived.
pub(crate) fn install_flush(
    inner: &Inner,
    core: &KeyspaceCore,
    memory: &Arc<Memory>,
    table: Option<TableMeta>,
) -> Result<()> {
    let mut tree = inner.tree.lock();
    if core.dropped.load(Ordering::Relaxed) {
        discard(inner, table.as_slice());
        return Ok(());
    }
    let made = table.clone();
    let mut edit = VersionEdit::default();
    if let Some(meta) = table {
        let run = RunId(meta.number.0);
        edit.tables_added.push(TableAdded { keyspace: core.id, level: 0, run, meta });
    }
    edit.flushed_sequences.push((core.id, memory.cut()));
    let first_needed = note_log_state(inner, &mut edit, Some(memory));
    commit_edit(inner, &mut tree, edit)?;
    let version = Arc::new(tree.state.keyspaces[&core.id].version.clone());
    // Under the tree lock, like the reading of it: the memtable's bytes are either here or in the view.
    core.counters.flushed_user_bytes.add(memory.table.user_bytes());
    core.view.rcu(|view| {
        let immutables =
            view.immutables.iter().filter(|other| !Arc::ptr_eq(other, memory)).cloned().collect();
        ReadView { active: Arc::clone(&view.active), immutables, version: Arc::clone(&version) }
    });
    note_created(inner, core, 0, made.as_slice());
    drop(tree);
    retire_segments(inner, first_needed);
    changed(inner, core);
    Ok(())
}

/// Removes tables made for a keyspace that was dropped meanwhile. A failure leaves waste, which the next open removes.
fn discard(inner: &Inner, tables: &[TableMeta]) {
    for meta in tables {
        let _ = inner.fs.remove(&FileKind::Table(meta.number).path(&inner.dir));
    }
}

/// Writes into `edit` what the log holds: the last sequence number given, the first segment still needed, and what is
/// known to be synced.
pub(crate) fn note_log_state(
    inner: &Inner,
    edit: &mut VersionEdit,
    flushed: Option<&Arc<Memory>>,
) -> FileNumber {
    let commit = inner.commit().lock();
    let first_needed = inner.first_needed_segment(&commit, flushed);
    edit.last_sequence = Some(SequenceNumber(commit.next_sequence.0.saturating_sub(1)));
    edit.wal_first_segment = Some(first_needed);
    edit.wal_synced = commit.wal.as_ref().map(WalWriter::synced_position);
    first_needed
}

/// Lets go of log segments before `first_needed`: some are kept as spares, the rest is removed. A failure leaves waste,
/// which the next open removes.
pub(crate) fn retire_segments(inner: &Inner, first_needed: FileNumber) {
    let obsolete = inner.commit().lock().wal().retire(first_needed);
    for segment in obsolete {
        let _ = inner.fs.remove(&FileKind::WalSegment(segment).path(&inner.dir));
        inner.listeners.note(|| Event::WalSegmentRemoved(segment));
    }
}

/// Installs a compaction, or a slice of one: what it adds goes into `level` and `run`, what remains stays in its place.
pub(crate) fn install_compaction(
    inner: &Inner,
    core: &KeyspaceCore,
    replacement: Replacement,
    (level, run): (usize, RunId),
) -> Result<()> {
    let Replacement { removed, added, remaining } = replacement;
    let mut tree = inner.tree.lock();
    if core.dropped.load(Ordering::Relaxed) {
        let made: Vec<_> =
            added.into_iter().filter(|meta| !removed.contains(&meta.number)).collect();
        discard(inner, &made);
        return Ok(());
    }
    let before = Arc::clone(&core.view.load().version);
    let mut edit = VersionEdit::default();
    let parted = remaining.iter().map(|meta| meta.number);
    edit.tables_removed
        .extend(removed.iter().copied().chain(parted).map(|number| (core.id, number)));
    let staying: HashSet<_> = added.iter().map(|meta| meta.number).collect();
    let made: Vec<_> =
        added.iter().filter(|meta| !removed.contains(&meta.number)).cloned().collect();
    edit.tables_added.extend(added.into_iter().map(|meta| TableAdded {
        keyspace: core.id,
        level,
        run,
        meta,
    }));
    edit.tables_added.extend(remaining.iter().map(|meta| {
        let place = before.find_table(meta.number);
        let (level, run, _) = place.expect("a running compaction's input stays where it is");
        TableAdded { keyspace: core.id, level, run: run.id, meta: meta.clone() }
    }));
    commit_edit(inner, &mut tree, edit)?;
    let version = Arc::new(tree.state.keyspaces[&core.id].version.clone());
    for meta in &remaining {
        let (whole, part) = (before.find_table(meta.number), version.find_table(meta.number));
        if let (Some((_, _, whole)), Some((_, _, part))) = (whole, part) {
            inner.read.tables.take_over(whole, part);
        }
    }
    core.view.rcu(|view| ReadView { version: Arc::clone(&version), ..ReadView::clone(view) });
    note_created(inner, core, level, &made);
    drop(tree);
    for number in removed.iter().filter(|number| !staying.contains(number)) {
        if let Some((level, _, table)) = before.find_table(*number) {
            let_go(inner, core, level, table);
        }
    }
    drop(before);
    changed(inner, core);
    Ok(())
}

/// Installs the tables of an ingest, which took `duration_ns`, and answers with their level. Their bytes and names are
/// durable, and nothing older of their keys is in memory. `show` makes their sequence number visible: still under the
/// tree lock, so that nobody who takes it finds something in a tree that readers do not see yet.
pub(crate) fn install_ingest(
    inner: &Inner,
    core: &KeyspaceCore,
    tables: &[TableMeta],
    duration_ns: u64,
    show: impl FnOnce() -> Result<()>,
) -> Result<usize> {
    let mut tree = inner.tree.lock();
    if core.dropped.load(Ordering::Relaxed) {
        return Err(Error::invalid(format!("keyspace {} was dropped", core.name))
            .advise("open it again with Db::keyspace to create it anew"));
    }
    // While it is held no compaction puts tables between those that are seen here.
    let quiet = inner.work.keep_quiet(core.id);
    let (level, run) = place_ingest(inner, core, tables, quiet.is_some());
    let mut edit = VersionEdit::default();
    edit.tables_added.extend(tables.iter().map(|meta| TableAdded {
        keyspace: core.id,
        level,
        run,
        meta: meta.clone(),
    }));
    let first_needed = note_log_state(inner, &mut edit, None);
    inner.counters().count_ingest(&core.counters, level, tables, duration_ns);
    commit_edit(inner, &mut tree, edit)?;
    let version = Arc::new(tree.state.keyspaces[&core.id].version.clone());
    core.view.rcu(|view| ReadView { version: Arc::clone(&version), ..ReadView::clone(view) });
    show()?;
    note_created(inner, core, level, tables);
    drop(tree);
    drop(quiet);
    retire_segments(inner, first_needed);
    changed(inner, core);
    Ok(level)
}

/// Where the tables of an ingest go: in a leveled tree into the deepest level such that nothing in it or above meets
/// them; else, or if compactions run, into level 0 as the newest run.
fn place_ingest(
    inner: &Inner,
    core: &KeyspaceCore,
    tables: &[TableMeta],
    is_quiet: bool,
) -> (usize, RunId) {
    let version = Arc::clone(&core.view.load().version);
    let (first, last) = (&tables[0].smallest, &tables[tables.len() - 1].largest);
    let is_leveled = matches!(core.options.load().compaction, Compaction::Leveled(_));
    let is_free = |level: &usize| {
        let has_one_run = *level == 0 || version.levels[*level].runs.len() <= 1;
        has_one_run && version.overlapping(*level, first, last).next().is_none()
    };
    let free = (0..LEVEL_COUNT).take_while(is_free).last();
    match free {
        Some(level) if level > 0 && is_leveled && is_quiet => {
            (level, version.levels[level].runs.first().map_or(RunId(0), |run| run.id))
        }
        _ => (0, RunId(inner.new_file_number().0)),
    }
}

/// Marks a table that left the tree: its file is removed once nobody holds it any more.
pub(crate) fn let_go(inner: &Inner, core: &KeyspaceCore, level: usize, table: &Table) {
    let work = Arc::clone(&inner.work);
    let gone = table_event(core, level, table.meta());
    table.set_obsolete(Arc::new(move |_| work.add_unreferenced(gone.clone())));
}

fn note_created(inner: &Inner, core: &KeyspaceCore, level: usize, made: &[TableMeta]) {
    for meta in made {
        inner.listeners.note(|| Event::TableCreated(table_event(core, level, meta)));
    }
}

fn table_event(core: &KeyspaceCore, level: usize, meta: &TableMeta) -> TableEvent {
    let keyspace = Arc::clone(&core.name);
    TableEvent { keyspace, number: meta.number, bytes: meta.file_bytes, level }
}

/// After a change of `core`'s tree or memtables: sets the write pressure and wakes whoever waits.
pub(crate) fn changed(inner: &Inner, core: &KeyspaceCore) {
    update_pressure(inner, core);
    inner.work.tree_changed();
}

/// Asks the strategy how far behind compaction is, and tells the throttle.
pub(crate) fn update_pressure(inner: &Inner, core: &KeyspaceCore) {
    let mut stalls = core.stalls.lock();
    let now_ns = inner.clock.monotonic_ns();
    let view = core.view.load();
    let options = core.options.load();
    let Some(strategy) = core.strategy.read().clone() else {
        core.throttle.set_pressure(0.0);
        core.stalls.note_load(&mut stalls, None, now_ns, &inner.listeners);
        core.urgency.store(0, Ordering::Relaxed);
        return;
    };
    let none = Busy::default();
    let tree = TreeView {
        version: &view.version,
        options: &options,
        busy: &none.tables,
        busy_outputs: &none.outputs,
        oldest_snapshot: oldest_snapshot(inner),
        now_ms: inner.clock.unix_ms(),
    };
    let debt_bytes = strategy.debt_bytes(&tree);
    core.debt_bytes.store(debt_bytes, Ordering::Relaxed);
    let load = Load {
        debt_bytes,
        debt_bytes_soft: options.debt_bytes_soft,
        level0_runs: view.version.levels[0].runs.len(),
        level0_runs_max: strategy.level0_runs_max(),
    };
    core.throttle.set_pressure(load.pressure());
    core.stalls.note_load(&mut stalls, Some(load), now_ns, &inner.listeners);
    core.urgency.store(load.urgency().to_bits(), Ordering::Relaxed);
    let keyspaces = inner.keyspaces.load();
    let most = keyspaces.by_id.values().map(|core| core.urgency()).fold(0.0, f64::max);
    inner.work.rate.set_urgency(most, &*inner.clock);
}

/// The oldest sequence number that somebody may still read at.
pub(crate) fn oldest_snapshot(inner: &Inner) -> SequenceNumber {
    let visible = inner.visible();
    inner.read.snapshots.summary().1.map_or(visible, |oldest| oldest.min(visible))
}

/// Removes the files of tables that nobody holds any more. A failure leaves waste, which the next open removes.
pub(crate) fn remove_unreferenced(inner: &Inner) {
    let tables = inner.work.take_unreferenced();
    // After a manifest error nothing is removed: what the manifest on disk says is unknown.
    if tables.is_empty() || inner.commit().failure().is_some() {
        return;
    }
    for table in tables {
        inner.read.tables.evict(table.number);
        if inner.fs.remove(&FileKind::Table(table.number).path(&inner.dir)).is_ok() {
            inner.counters().obsolete_files_removed.add(1);
            inner.listeners.note(|| Event::TableRemoved(table));
        }
    }
}
