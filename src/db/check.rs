//! Verification of an open database, and the scrubber. What is checked of a file stands in `check`; here it is compared
//! with what is in memory, beside readers and writers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check::VerifyReport;
use crate::check::log::check_record;
use crate::db::state::Inner;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::file_name::FileKind;
use crate::key::FileNumber;
use crate::manifest::recovery::recover;
use crate::manifest::state::ManifestState;
use crate::options::RecoveryMode;
use crate::table::{Table, TableMeta};
use crate::wal::replay::{ReplayOptions, WalRecord, replay};

/// Reads everything. Damage goes into the report; an error is returned only if the work itself could not go on.
pub(crate) fn verify(inner: &Inner) -> Result<VerifyReport> {
    inner.check_open()?;
    let mut report = VerifyReport::default();
    for core in inner.keyspaces.load().in_order() {
        let view = core.view.load_full();
        if let Err(what) = view.version.check_invariants() {
            let what = format!("the tree of keyspace {} is out of order: {what}", core.name);
            report.problems.push(Error::corruption(&FileKind::Current.path(&inner.dir), 0, what));
        }
        for (_, _, table) in view.version.tables() {
            report.tables += 1;
            report.table_bytes += table.meta().file_bytes;
            report.entries += table.meta().entry_count;
            if let Err(error) = verify_table(inner, table) {
                report.problems.push(error);
            }
        }
    }
    verify_manifest(inner, &mut report);
    verify_log(inner, &mut report);
    for error in &report.problems {
        inner.listeners.note(|| Event::CorruptionFound(error.clone()));
    }
    inner.listeners.tell();
    Ok(report)
}

fn verify_table(inner: &Inner, table: &Arc<Table>) -> Result<()> {
    inner.read.tables.open(table)?.verify_all(table.meta())
}

/// Reads the manifest again: it must say what is in memory.
fn verify_manifest(inner: &Inner, report: &mut VerifyReport) {
    let tree = inner.tree.lock();
    let tables = |state: &ManifestState| -> BTreeMap<FileNumber, TableMeta> {
        let versions = state.keyspaces.values().map(|keyspace| &keyspace.version);
        versions
            .flat_map(|version| version.tables().collect::<Vec<_>>())
            .map(|(_, _, table)| (table.meta().number, table.meta().clone()))
            .collect()
    };
    let current = FileKind::Current.path(&inner.dir);
    match recover(inner.fs.as_ref(), &inner.dir) {
        Ok(Some(found)) => {
            let manifest = FileKind::Manifest(found.manifest_number).path(&inner.dir);
            if tables(&found.state) != tables(&tree.state) {
                report.problems.push(Error::corruption(
                    &manifest,
                    0,
                    "the manifest names other tables than were opened",
                ));
            }
            if found.torn_tail_bytes > 0 && !inner.options.read_only {
                report.problems.push(Error::corruption(
                    &manifest,
                    0,
                    "the manifest ends in a torn record",
                ));
            }
        }
        Ok(None) => report.problems.push(Error::corruption(&current, 0, "CURRENT is missing")),
        Err(error) => report.problems.push(error),
    }
}

/// Reads the log again. Writers wait meanwhile.
fn verify_log(inner: &Inner, report: &mut VerifyReport) {
    let tree = inner.tree.lock();
    let commit = inner.commit().lock();
    // Everything this writer appended must be there, synced or not. What recovery dropped is no damage: a tail torn by
    // a crash stays in its segment until that is flushed.
    let written = commit.wal.as_ref().map(|wal| wal.sync_target().end()).unwrap_or_default();
    let promised = written.max(tree.state.wal_synced);
    let options = ReplayOptions {
        first_segment: tree.state.wal_first_segment,
        mode: RecoveryMode::PointInTime,
        promised,
    };
    let next_id = Some(tree.state.next_keyspace_id);
    let mut check = |record: &WalRecord<'_>| check_record(record, next_id, &inner.dir);
    match replay(inner.fs.as_ref(), &inner.dir, options, &mut check) {
        Ok(found) => report.wal_records = found.record_count,
        Err(error) => report.problems.push(error),
    }
    drop(commit);
}

/// One pass of the scrubber: forgets which blocks were verified, and reads every table again. Damage is counted and
/// kept for the metrics; reads of the damaged block report it too.
pub(crate) fn scrub(inner: &Inner) {
    inner.read.tables.clear_verified();
    for core in inner.keyspaces.load().in_order() {
        let view = core.view.load_full();
        for (_, _, table) in view.version.tables() {
            if inner.check_open().is_err() {
                return;
            }
            match verify_table(inner, table) {
                Err(error) if error.kind() != ErrorKind::Closed => {
                    inner.counters().background_errors.add(1);
                    inner.listeners.emit(|| Event::CorruptionFound(error.clone()));
                    inner.work.lock().first_error.get_or_insert(error);
                }
                _ => {}
            }
        }
    }
    inner.counters().scrub_passes.add(1);
}
