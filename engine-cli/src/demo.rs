//! `demo`: the main job on real data, with every answer checked.
//!
//! Every path below a directory becomes a key, its kind, size, time and mode the value. Then a tenth is updated and
//! a twentieth deleted, chosen by a hash of the path so that every run on the same files does the same. A snapshot
//! taken before must still show what was; scans by prefix must count what the walk counted; a sample is read back;
//! the tree is compacted; then the database is closed, opened again, compared entry by entry with the [`ledger`],
//! and every byte of its files is verified. A wrong answer ends the demo with the exit code of corruption.
//!
//! The database goes to a temporary directory unless one is named, and memtables and tables are small, so that some
//! ten megabytes of paths grow a tree of several levels.

mod ledger;

use std::path::{Path, PathBuf};
use std::time::Instant;

use esker::{DbOptions, KeyspaceOptions, Leveled, Metrics, Snapshot, WriteBatch};
use serde::Serialize;
use tempfile::TempDir;
use walkdir::WalkDir;

use crate::args::{DemoArgs, Global};
use crate::database::{Access, Opened};
use crate::error::Failure;
use crate::output::{self, Out};
use crate::range::KeyRange;
use crate::verbs::amplification::{self, Amplification};
use crate::verbs::{reports, upkeep};
use ledger::{Digest, Ledger, hash};

const BATCH_ENTRIES: usize = 500;
const DIRECTORIES_SCANNED: usize = 8;

/// `demo [DIR]`.
pub fn run(global: &Global, args: &DemoArgs, out: &mut Out) -> Result<(), Failure> {
    let metadata = std::fs::metadata(&args.root);
    let metadata = metadata.map_err(|error| Failure::io("read", &args.root, error))?;
    if !metadata.is_dir() {
        return Err(Failure::refused("the demo indexes a directory, and this is none")
            .at(args.root.display().to_string())
            .advise("name a directory, for example /usr"));
    }
    let (global, temporary) = place(global)?;
    let mut demo = Demo::start(&global, args, out, temporary.is_some())?;
    demo.index()?;
    let before = demo.opened.db.snapshot();
    let digest = demo.ledger.digest();
    demo.update_and_delete(&before)?;
    demo.check_snapshot(&before, digest)?;
    drop(before);
    demo.scan_directories()?;
    demo.read_sample()?;
    demo.draw_tree()?;
    let metrics = demo.compact()?;
    let checked = demo.reopen_and_verify(&global)?;
    draw(&metrics, out)?;
    if let Some(temporary) = temporary {
        let path = temporary.path().to_path_buf();
        temporary.close().map_err(|error| Failure::io("remove", &path, error))?;
    }
    Stage {
        name: "checked",
        entries: checked,
        note: "everything checked, every answer right".to_owned(),
        seconds: None,
    }
    .tell(out)
}

/// The command line with a directory for the database: its own, or a temporary one.
fn place(global: &Global) -> Result<(Global, Option<TempDir>), Failure> {
    if global.db.is_some() {
        return Ok((global.clone(), None));
    }
    let temporary = tempfile::Builder::new().prefix("esker-demo-").tempdir();
    let temporary =
        temporary.map_err(|error| Failure::io("create", &std::env::temp_dir(), error))?;
    let global = Global { db: Some(temporary.path().to_path_buf()), ..global.clone() };
    Ok((global, Some(temporary)))
}

fn draw(metrics: &Metrics, out: &mut Out) -> Result<(), Failure> {
    if out.json {
        return out.json_line(metrics);
    }
    out.line("")?;
    reports::draw_levels(metrics, out)?;
    out.line("")?;
    amplification::draw(&Amplification::of(metrics, None), out)?;
    out.line("")
}

/// What one stage did: a line for people, or a JSON object.
#[derive(Serialize)]
struct Stage {
    #[serde(rename = "stage")]
    name: &'static str,
    entries: u64,
    note: String,
    seconds: Option<f64>,
}

impl Stage {
    fn tell(&self, out: &mut Out) -> Result<(), Failure> {
        if out.json {
            out.json_line(self)?;
        } else {
            let seconds =
                self.seconds.map_or_else(String::new, |seconds| format!("{seconds:.2} s"));
            let count = output::count(self.entries);
            let line = format!("{:<10} {count:>12}  {seconds:>9}  {}", self.name, self.note);
            out.line(line.trim_end())?;
        }
        out.flush()
    }
}

/// A demo on its way.
struct Demo<'a> {
    opened: Opened,
    out: &'a mut Out,
    root: PathBuf,
    ledger: Ledger,
}

impl<'a> Demo<'a> {
    fn start(
        global: &Global,
        args: &DemoArgs,
        out: &'a mut Out,
        temporary: bool,
    ) -> Result<Self, Failure> {
        let opened = open(global)?;
        let mut cursor = opened.keyspace.cursor();
        cursor.seek_to_first()?;
        if cursor.valid() {
            return Err(Failure::refused(format!(
                "keyspace {} is not empty",
                opened.keyspace.name()
            ))
            .at(opened.db.path().display().to_string())
            .advise("name another --db or --keyspace, or none for a temporary database"));
        }
        drop(cursor);
        if !out.json {
            let kept = if temporary { "temporary, removed at the end" } else { "kept" };
            out.line(format!("database in {} ({kept})", opened.db.path().display()))?;
            out.flush()?;
        }
        let ledger = Ledger::new(&args.root);
        Ok(Demo { opened, out, root: args.root.clone(), ledger })
    }

    fn tell(
        &mut self,
        stage: &'static str,
        entries: u64,
        note: String,
        start: Instant,
    ) -> Result<(), Failure> {
        Stage { name: stage, entries, note, seconds: Some(start.elapsed().as_secs_f64()) }
            .tell(self.out)
    }

    /// Writes an entry for every path.
    fn index(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        let progress = output::spinner("indexing");
        let mut batch = WriteBatch::new();
        let mut skipped = 0_u64;
        let mut bytes = 0_u64;
        for entry in WalkDir::new(&self.root).follow_links(false).sort_by_file_name() {
            let described = entry.and_then(|entry| {
                let value = describe(&entry.metadata()?);
                Ok((entry, value))
            });
            let Ok((entry, value)) = described else {
                skipped += 1;
                continue;
            };
            let key = entry.path().as_os_str().as_encoded_bytes();
            self.ledger.put(key, &value);
            bytes += (key.len() + value.len()) as u64;
            batch.put_in(&self.opened.keyspace, key, &value);
            if batch.len() == BATCH_ENTRIES {
                progress.inc(batch.len() as u64);
                self.opened.db.write(std::mem::take(&mut batch))?;
            }
        }
        self.opened.db.write(batch)?;
        progress.finish_and_clear();
        let note = format!(
            "paths below {}, {}, {skipped} unreadable skipped",
            self.root.display(),
            output::bytes(bytes)
        );
        self.tell("index", self.ledger.len(), note, start)
    }

    /// Updates a tenth and deletes a twentieth of what the snapshot shows.
    fn update_and_delete(&mut self, before: &Snapshot) -> Result<(), Failure> {
        let start = Instant::now();
        let progress = output::progress("changing", self.ledger.len());
        let (mut updated, mut deleted) = (0, 0);
        let mut cursor = before.keyspace(&self.opened.keyspace)?.cursor();
        let (opened, ledger) = (&self.opened, &mut self.ledger);
        KeyRange::default().walk(&mut cursor, false, u64::MAX, |key, value| {
            progress.inc(1);
            match hash(key) % 20 {
                3 | 13 => {
                    let value = [value, b" updated"].concat();
                    opened.keyspace.put(key, &value)?;
                    ledger.put(key, &value);
                    updated += 1;
                }
                7 => {
                    opened.keyspace.delete(key)?;
                    ledger.delete(key);
                    deleted += 1;
                }
                _ => {}
            }
            Ok(())
        })?;
        progress.finish_and_clear();
        self.tell(
            "change",
            updated + deleted,
            format!("{updated} updated, {deleted} deleted"),
            start,
        )
    }

    /// The snapshot must show what was there when it was taken.
    fn check_snapshot(&mut self, before: &Snapshot, expected: Digest) -> Result<(), Failure> {
        let start = Instant::now();
        let mut seen = Digest::default();
        let mut cursor = before.keyspace(&self.opened.keyspace)?.cursor();
        KeyRange::default().walk(&mut cursor, false, u64::MAX, |key, value| {
            seen.add(key, value);
            Ok(())
        })?;
        if seen != expected {
            return Err(wrong(&format!("the snapshot shows {seen:?}, not {expected:?}")));
        }
        self.tell("snapshot", seen.entries, "entries as before the changes".to_owned(), start)
    }

    /// Scans the largest directories by prefix, in both directions.
    fn scan_directories(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        let mut total = 0;
        let directories = self.ledger.largest_directories(DIRECTORIES_SCANNED);
        for (prefix, expected) in &directories {
            let range = KeyRange::default().with_prefix(prefix);
            for reverse in [false, true] {
                let mut cursor = self.opened.keyspace.cursor();
                let mut last: Option<Vec<u8>> = None;
                let found = range.walk(&mut cursor, reverse, u64::MAX, |key, _| {
                    let in_order = last.as_deref().is_none_or(|last| (last < key) != reverse);
                    if !in_order || !key.starts_with(prefix) {
                        return Err(wrong(&format!("a scan met {} in the wrong place", show(key))));
                    }
                    last = Some(key.to_vec());
                    Ok(())
                })?;
                if found != *expected {
                    let what = format!("{found} entries below {}, not {expected}", show(prefix));
                    return Err(wrong(&what));
                }
                total += found;
            }
        }
        let note = format!("entries of {} directories by prefix, up and down", directories.len());
        self.tell("scan", total, note, start)
    }

    /// Reads a sample by key: present, deleted, and never there.
    fn read_sample(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        let mut reads = 0;
        for key in self.ledger.sample() {
            let value = self.opened.keyspace.get(key)?;
            if value.as_deref().map(hash) != self.ledger.value_hash(key) {
                return Err(wrong(&format!("a get of {} gave the wrong value", show(key))));
            }
            let never = [key.as_slice(), b"\0"].concat();
            if self.opened.keyspace.get(&never)?.is_some() {
                return Err(wrong(&format!("{} was never put and is there", show(&never))));
            }
            reads += 2;
        }
        self.tell(
            "read",
            reads,
            "point reads of present, deleted and absent keys".to_owned(),
            start,
        )
    }

    /// Shows the tree as the work left it, before everything is merged.
    fn draw_tree(&mut self) -> Result<(), Failure> {
        if self.out.json {
            return Ok(());
        }
        self.out.line("")?;
        reports::draw_levels(&self.opened.db.metrics(), self.out)?;
        self.out.line("")
    }

    /// Flushes and compacts; returns the metrics of the whole work.
    fn compact(&mut self) -> Result<Metrics, Failure> {
        let start = Instant::now();
        self.opened.db.flush()?;
        let keyspace = &self.opened.keyspace;
        upkeep::compacting(&self.opened.db, || keyspace.compact_range::<Vec<u8>>(..))?;
        let metrics = self.opened.db.metrics();
        let note = format!(
            "compactions since the start, {} written by them",
            output::bytes(metrics.compaction_bytes_written)
        );
        self.tell("compact", metrics.compactions, note, start)?;
        Ok(metrics)
    }

    /// Closes, opens again, compares every entry with the ledger and verifies every file.
    fn reopen_and_verify(self, global: &Global) -> Result<u64, Failure> {
        let Demo { opened, out, ledger, .. } = self;
        opened.close()?;
        let start = Instant::now();
        let opened = open(global)?;
        let open_ms = start.elapsed().as_secs_f64() * 1e3;
        let progress = output::progress("verifying", ledger.len());
        let mut cursor = opened.keyspace.cursor();
        let found = KeyRange::default().walk(&mut cursor, false, u64::MAX, |key, value| {
            progress.inc(1);
            if ledger.value_hash(key) != Some(hash(value)) {
                return Err(wrong(&format!("{} has the wrong value or should be gone", show(key))));
            }
            Ok(())
        })?;
        drop(cursor);
        progress.finish_and_clear();
        if found != ledger.len() {
            return Err(wrong(&format!("{found} entries, not {}", ledger.len())));
        }
        let report = opened.db.verify()?;
        if let Some(problem) = report.problems.into_iter().next() {
            return Err(problem.into());
        }
        let note = format!(
            "entries as expected after reopening in {open_ms:.1} ms; {} tables verified, {}",
            report.tables,
            output::bytes(report.table_bytes)
        );
        let seconds = Some(start.elapsed().as_secs_f64());
        Stage { name: "verify", entries: found, note, seconds }.tell(out)?;
        opened.close()?;
        Ok(found)
    }
}

fn open(global: &Global) -> Result<Opened, Failure> {
    let leveled = Leveled { l0_runs: 4, base_bytes: 1 << 20, fanout: 4 };
    let keyspace = KeyspaceOptions {
        memtable_bytes: 1 << 20,
        table_bytes: 1 << 20,
        compaction: leveled.into(),
        ..KeyspaceOptions::default()
    };
    let options = DbOptions { wal_segment_bytes: 4 << 20, ..DbOptions::default() };
    Opened::open_with(global, Access::Create, options, keyspace)
}

/// What is kept about a file: kind, size, time of change, mode.
fn describe(metadata: &std::fs::Metadata) -> Vec<u8> {
    use std::os::unix::fs::MetadataExt;

    let kind = match metadata.file_type() {
        kind if kind.is_dir() => "dir",
        kind if kind.is_symlink() => "link",
        kind if kind.is_file() => "file",
        _ => "special",
    };
    let mode = metadata.mode() & 0o7777;
    format!("{kind} size={} mtime={} mode={mode:o}", metadata.size(), metadata.mtime()).into_bytes()
}

fn show(key: &[u8]) -> String {
    crate::text::Encoding::Text.show(key)
}

fn wrong(what: &str) -> Failure {
    Failure::corruption(format!("wrong answer: {what}"))
        .at("demo")
        .advise("this is a defect of the engine or of the disk: keep the database and report it")
}

/// The path that every key below it begins with.
fn with_separator(path: &Path) -> Vec<u8> {
    let mut prefix = path.as_os_str().as_encoded_bytes().to_vec();
    if prefix.last() != Some(&b'/') {
        prefix.push(b'/');
    }
    prefix
}
