//! Checkpoints: a second database directory that holds exactly one moment.
//!
//! The tables of the moment are hard links to those of the database: immutable files, which neither database ever
//! writes to again, and each removes only its own name. The log is not taken: its segments are recycled in place. What
//! is in memory is written as tables of the checkpoint. So the cost is a link for each table, and writing what the
//! memtables hold, once more than the flush of the database itself will.
//!
//! How the directory comes to be, and what a crash leaves of it: [`assembly`](crate::assembly).

use std::path::Path;

use crate::assembly::{Assembly, refuse_within};
use crate::content::copy;
use crate::db::install::remove_unreferenced;
use crate::db::moment::Moment;
use crate::db::state::Inner;
use crate::error::Result;
use crate::file_name::FileKind;

/// What [`Db::checkpoint`](crate::Db::checkpoint) made: a database that holds exactly one moment, in all keyspaces:
/// everything acked before the call, whatever its durability, and whole batches only.
///
/// Tables are hard links, so it takes little time and space (copies, where the directory is on another file system);
/// what is in memory is written as tables, at most the size of the memtables. Writers go on meanwhile. What a crash
/// leaves of it is not opened as a database, and the same call puts a new one in its place; an error removes what was
/// made. The two databases are independent: each may be written to, compacted and deleted. One opened with
/// `read_only` can be checkpointed too.
///
/// ```
/// # let place = tempfile::tempdir()?;
/// # let (data, copy) = (place.path().join("data"), place.path().join("copy"));
/// let db = esker::Db::open(&data)?;
/// db.put("apple", "red")?;
/// let report = db.checkpoint(&copy)?;
/// assert_eq!(report.sequence, 1);
/// db.put("apple", "green")?;
/// let copy = esker::Db::open(&copy)?;
/// assert_eq!(copy.get("apple")?.as_deref(), Some(&b"red"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointReport {
    /// The sequence number of its moment: the last write in it.
    pub sequence: u64,
    /// Tables that are links: they take no space until the database lets go of them.
    pub tables_linked: u64,
    /// Bytes of those.
    pub bytes_linked: u64,
    /// Tables that were copied, because the directory cannot hold links to them.
    pub tables_copied: u64,
    /// Bytes of those.
    pub bytes_copied: u64,
    /// Tables written from what was in memory only.
    pub tables_written: u64,
    /// Bytes of those.
    pub bytes_written: u64,
}

/// Makes a checkpoint of the present moment in `dir`.
pub(crate) fn checkpoint(inner: &Inner, dir: &Path) -> Result<CheckpointReport> {
    make(inner, dir).inspect_err(|_| inner.tell_failure())
}

fn make(inner: &Inner, dir: &Path) -> Result<CheckpointReport> {
    inner.check_open()?;
    refuse_within(&inner.dir, dir)?;
    let assembly = Assembly::begin(inner.fs.as_ref(), dir)?;
    let mut moment = Moment::take(inner)?;
    let report = fill(inner, &assembly, &mut moment, dir);
    let report = report.and_then(|report| {
        assembly.finish(std::mem::take(&mut moment.state))?;
        Ok(report)
    });
    // Tables that left the tree meanwhile were kept for the moment.
    drop(moment);
    remove_unreferenced(inner);
    inner.listeners.tell();
    report
}

/// Brings the tables of `moment` into the directory.
fn fill(
    inner: &Inner,
    assembly: &Assembly<'_>,
    moment: &mut Moment,
    dir: &Path,
) -> Result<CheckpointReport> {
    let fs = inner.fs.as_ref();
    let mut report =
        CheckpointReport { sequence: moment.sequence.0, ..CheckpointReport::default() };
    for table in moment.tables() {
        let meta = table.meta();
        let from = FileKind::Table(meta.number).path(&inner.dir);
        let to = assembly.table_path(meta.number);
        if fs.hard_link(&from, &to)? {
            report.tables_linked += 1;
            report.bytes_linked += meta.file_bytes;
        } else {
            copy(fs, &from, &to)?;
            report.tables_copied += 1;
            report.bytes_copied += meta.file_bytes;
        }
    }
    for meta in moment.write_memory(inner, fs, dir)? {
        report.tables_written += 1;
        report.bytes_written += meta.file_bytes;
    }
    Ok(report)
}
