//! `flush`, `sync`, `compact`, `keyspaces`: keeping a database in order.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use esker::{CompactOptions, CompactionProgress, Db, Keyspace, Metrics};
use serde::Serialize;

use crate::args::{CompactArgs, Global, KeyspacesAction, KeyspacesArgs};
use crate::database::{self, Access, Opened};
use crate::error::Failure;
use crate::output::{self, Out};
use crate::range::KeyRange;
use crate::signals;

/// `flush`: memtables to tables.
pub fn flush(global: &Global) -> Result<(), Failure> {
    let opened = Opened::open(global, Access::Change)?;
    opened.db.flush().map_err(|error| database::at(error, opened.db.path()))?;
    opened.close()
}

/// `sync`: every earlier write is durable.
pub fn sync(global: &Global) -> Result<(), Failure> {
    let opened = Opened::open(global, Access::Change)?;
    opened.db.sync().map_err(|error| database::at(error, opened.db.path()))?;
    opened.close()
}

/// What `compact` did.
#[derive(Serialize)]
struct Compacted {
    keyspace: String,
    compactions: u64,
    trivial_moves: u64,
    flush_bytes: u64,
    bytes_read: u64,
    bytes_written: u64,
    table_bytes_before: u64,
    table_bytes_after: u64,
    seconds: f64,
}

impl Compacted {
    fn between(keyspace: &str, before: &Metrics, after: &Metrics, seconds: f64) -> Self {
        Compacted {
            keyspace: keyspace.to_owned(),
            compactions: after.compactions - before.compactions,
            trivial_moves: after.trivial_moves - before.trivial_moves,
            flush_bytes: after.flush_bytes - before.flush_bytes,
            bytes_read: after.compaction_bytes_read - before.compaction_bytes_read,
            bytes_written: after.compaction_bytes_written - before.compaction_bytes_written,
            table_bytes_before: before.table_bytes,
            table_bytes_after: after.table_bytes,
            seconds,
        }
    }

    fn line(&self) -> String {
        format!(
            "compacted {}: read {}, wrote {} in {} compactions and {} moves; tables {} -> {}; {:.1} s",
            self.keyspace,
            output::bytes(self.bytes_read),
            output::bytes(self.bytes_written),
            self.compactions,
            self.trivial_moves,
            output::bytes(self.table_bytes_before),
            output::bytes(self.table_bytes_after),
            self.seconds,
        )
    }
}

/// `compact [--from K] [--to K] [--limited]`.
pub fn compact(global: &Global, args: &CompactArgs, out: &mut Out) -> Result<(), Failure> {
    let range = args.range.decode(out.encoding)?;
    let opened = Opened::open(global, Access::Change)?;
    let start = Instant::now();
    let before = opened.db.metrics();
    if !range.is_empty() {
        compact_range(&opened.keyspace, range, args.limited)
            .map_err(|failure| failure.at(opened.db.path().display().to_string()))?;
    }
    let after = opened.db.metrics();
    let seconds = start.elapsed().as_secs_f64();
    let compacted = Compacted::between(opened.keyspace.name(), &before, &after, seconds);
    opened.close()?;
    if out.json { out.json_line(&compacted) } else { out.line(compacted.line()) }
}

/// Compacts a range, with a bar on a terminal. Ctrl-C stops it, and leaves the database as valid as it was.
fn compact_range(keyspace: &Keyspace, range: KeyRange, limited: bool) -> Result<(), Failure> {
    let bar = output::progress_bytes("compacting", 0);
    let mut watch = |now: CompactionProgress| {
        bar.set_length(now.bytes_total);
        bar.set_position(now.bytes_read);
        if signals::was_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let options = CompactOptions { is_rate_limited: limited };
    let done =
        signals::interruptible(|| keyspace.compact_range_with(range.bounds(), options, &mut watch));
    bar.finish_and_clear();
    done?;
    Ok(())
}

/// Does `work` and meanwhile shows on a terminal what compactions read and wrote.
pub fn compacting<T>(db: &Db, work: impl FnOnce() -> T) -> T {
    let progress = output::spinner("compacting");
    if progress.is_hidden() {
        return work();
    }
    let done = AtomicBool::new(false);
    let before = db.metrics();
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let now = db.metrics();
                let read = now.compaction_bytes_read - before.compaction_bytes_read;
                let written = now.compaction_bytes_written - before.compaction_bytes_written;
                let (read, written) = (output::bytes(read), output::bytes(written));
                progress.set_message(format!("compacting: read {read}, wrote {written}"));
                thread::park_timeout(WATCH_INTERVAL);
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        progress.finish_and_clear();
        result
    })
}

const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// `keyspaces [list | drop NAME --yes]`.
pub fn keyspaces(global: &Global, args: &KeyspacesArgs, out: &mut Out) -> Result<(), Failure> {
    match &args.action {
        None | Some(KeyspacesAction::List) => list_keyspaces(global, out),
        Some(KeyspacesAction::Drop { name, yes }) => drop_keyspace(global, name, *yes),
    }
}

fn list_keyspaces(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let opened = Opened::open(global, Access::Read)?;
    let names = opened.db.list_keyspaces();
    opened.close()?;
    if out.json {
        return out.json_line(&names);
    }
    names.iter().try_for_each(|name| out.line(name))
}

fn drop_keyspace(global: &Global, name: &str, yes: bool) -> Result<(), Failure> {
    if !yes {
        return Err(Failure::usage(format!("this deletes everything in keyspace {name:?}"))
            .advise("add --yes if you mean it"));
    }
    let opened = Opened::open(global, Access::Change)?;
    if !opened.db.drop_keyspace(name)? {
        return Err(Failure::refused(format!("there is no keyspace {name:?}"))
            .at(opened.db.path().display().to_string())
            .advise(format!("the keyspaces are: {}", opened.db.list_keyspaces().join(", "))));
    }
    opened.close()
}
