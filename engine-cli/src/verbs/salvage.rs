//! `verify` and `repair`: what is damaged, and what can be saved.
//!
//! Neither opens the database, so both work on one that cannot be opened. A finding is one line, `path:offset: what`.
//!
//! What a repair in place says it says once: the next one finds nothing damaged. So it stands in a file beside the
//! originals too, before anything is printed.

use std::fs::File as DiskFile;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use esker::Db;
use esker::repair::{LostRange, LostWrites, RepairOptions, RepairReport};
use serde::Serialize;

use crate::args::Global;
use crate::database::{self, Overrides};
use crate::error::Failure;
use crate::output::{self, Out, complain};
use crate::text::printable;
use crate::verbs::copies::{into_new, refuse_within};

/// The file in `lost-N` that says what a repair said.
const REPORT_NAME: &str = "REPORT.txt";

/// The flags of `repair`.
#[derive(Args, Debug)]
pub struct RepairArgs {
    /// Write the repaired database into this new directory, and leave the damaged one as it is
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// What `verify` read.
#[derive(Serialize)]
struct Verified {
    tables: u64,
    table_bytes: u64,
    entries: u64,
    wal_records: u64,
    problems: Vec<String>,
    notes: Vec<String>,
}

/// `verify`: reads every byte of every file.
pub fn verify(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let dir = database::directory(global)?;
    // What options say does not matter here, but a wrong one is an error as everywhere.
    Overrides::parse(&global.options)?.check()?;
    database::refuse_file(&dir)?;
    let progress = output::spinner("verifying");
    let report = Db::builder().verify(&dir);
    progress.finish_and_clear();
    let report = report.map_err(|error| database::at(error, &dir))?;
    let report = Verified {
        tables: report.tables,
        table_bytes: report.table_bytes,
        entries: report.entries,
        wal_records: report.wal_records,
        problems: report.problems.iter().map(problem).collect(),
        notes: report.notes,
    };
    if out.json {
        out.json_line(&report)?;
    } else {
        tell_verified(&report, out)?;
    }
    match report.problems.len() {
        0 => Ok(()),
        found => Err(Failure::corruption(found_text(found))
            .at(dir.display().to_string())
            .advise("restore the named files from a copy, or save what is readable with `engine-cli repair`")),
    }
}

fn tell_verified(report: &Verified, out: &mut Out) -> Result<(), Failure> {
    for problem in &report.problems {
        out.line(problem)?;
    }
    for note in &report.notes {
        out.line(format!("note: {note}"))?;
    }
    if report.problems.is_empty() {
        out.line(format!(
            "verified: {} tables, {}, {} entries, {} WAL records: no problem found",
            output::count(report.tables),
            output::bytes(report.table_bytes),
            output::count(report.entries),
            output::count(report.wal_records),
        ))?;
    }
    Ok(())
}

pub fn found_text(found: usize) -> String {
    if found == 1 { "one problem found".to_owned() } else { format!("{found} problems found") }
}

/// A finding as `path:offset: what`.
pub fn problem(error: &esker::Error) -> String {
    let path = error.path().map_or_else(|| "-".to_owned(), |path| path.display().to_string());
    printable(&match error.offset() {
        Some(offset) => format!("{path}:{offset}: {}", error.what()),
        None => format!("{path}: {}", error.what()),
    })
}

/// What `repair` did, or would do.
#[derive(Serialize)]
struct Repaired {
    needed: bool,
    lossless: bool,
    dry_run: bool,
    problems: Vec<String>,
    files: Vec<File>,
    lost_ranges: Vec<Range>,
    lost_writes: Vec<Writes>,
    notes: Vec<String>,
    entries_kept: u64,
    entries_rewritten: u64,
    database: Option<String>,
    originals: Option<String>,
    /// The file that says the same.
    report: Option<String>,
}

#[derive(Serialize)]
struct File {
    name: String,
    entries_kept: u64,
    complete: bool,
}

/// Both ends included; no end: open.
#[derive(Serialize)]
struct Range {
    keyspace: String,
    from: Option<String>,
    to: Option<String>,
    file: String,
}

#[derive(Serialize)]
struct Writes {
    first: u64,
    last: Option<u64>,
}

impl Repaired {
    fn of(report: &RepairReport, dry_run: bool, out: &Out) -> Self {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| show(path));
        let range = |range: &LostRange| Range {
            keyspace: range.keyspace.clone(),
            from: range.from.as_deref().map(|key| out.encoding.show(key)),
            to: range.to.as_deref().map(|key| out.encoding.show(key)),
            file: range.file.clone(),
        };
        let writes = |writes: &LostWrites| Writes { first: writes.first, last: writes.last };
        Repaired {
            needed: report.is_needed(),
            lossless: report.is_lossless(),
            dry_run,
            problems: report.problems.iter().map(problem).collect(),
            files: report
                .files
                .iter()
                .map(|file| File {
                    name: file.name.clone(),
                    entries_kept: file.entries_kept,
                    complete: file.is_complete,
                })
                .collect(),
            lost_ranges: report.lost_ranges.iter().map(range).collect(),
            lost_writes: report.lost_writes.iter().map(writes).collect(),
            notes: report.notes.clone(),
            entries_kept: report.entries_kept,
            entries_rewritten: report.entries_rewritten,
            database: path(&report.database),
            originals: path(&report.originals),
            report: None,
        }
    }

    /// All of it as lines for people.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.needed {
            lines.push(match &self.database {
                None => "nothing is damaged: nothing was changed".to_owned(),
                Some(dir) => format!("nothing is damaged: made a checkpoint in {dir}"),
            });
            return lines;
        }
        for problem in &self.problems {
            lines.push(format!("damaged: {problem}"));
        }
        for file in &self.files {
            let verdict = if file.complete { "nothing of it is lost" } else { "not all of it" };
            let kept = output::count(file.entries_kept);
            lines.push(format!("file {}: {kept} entries kept, {verdict}", file.name));
        }
        for range in &self.lost_ranges {
            let from = range.from.as_deref().unwrap_or("the first key");
            let to = range.to.as_deref().unwrap_or("the last key");
            lines.push(format!(
                "may be missing, older, or back though deleted: keyspace {}, from {from} to {to} ({})",
                range.keyspace, range.file
            ));
        }
        for writes in &self.lost_writes {
            let last = writes.last.map_or("the end".to_owned(), |last| last.to_string());
            lines.push(format!("lost from the log: writes {} to {last}", writes.first));
        }
        for note in &self.notes {
            lines.push(format!("note: {note}"));
        }
        let loss = if self.lossless { "nothing is lost" } else { "see above for what may be lost" };
        let kept = output::count(self.entries_kept);
        let rewritten = output::count(self.entries_rewritten);
        let begin = if self.dry_run { "would repair" } else { "repaired" };
        let place = self.database.as_ref().map_or(String::new(), |dir| format!(" into {dir}"));
        lines.push(format!(
            "{begin}{place}: {kept} entries kept in their tables, {rewritten} written anew; {loss}"
        ));
        if let Some(dir) = &self.originals {
            lines.push(format!("the originals are in {dir}"));
        }
        lines
    }

    /// Writes the lines into the directory of the originals. The repair is done, so not being able to is no failure of
    /// it; but it is said.
    fn keep(&mut self, originals: &Path) {
        let path = originals.join(REPORT_NAME);
        let text = self.lines().join("\n") + "\n";
        let write = || -> io::Result<()> {
            let mut file = DiskFile::create_new(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            DiskFile::open(originals)?.sync_all()
        };
        match write() {
            Ok(()) => self.report = Some(show(&path)),
            Err(error) => complain(&format!(
                "warning: the report could not be written: {}: {error}\n",
                printable(&show(&path))
            )),
        }
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

/// The database in `dir` is whole and should be in `into`: makes it there, as a checkpoint.
fn copy_whole(global: &Global, dir: &Path, into: &Path) -> Result<(), Failure> {
    let options = Overrides::parse(&global.options)?.database(esker::DbOptions::default())?;
    let options = esker::DbOptions { read_only: true, create_if_missing: false, ..options };
    let db = Db::builder().options(options).open(dir).map_err(|error| database::at(error, dir))?;
    db.checkpoint(into).map_err(|error| database::at(error, into))?;
    db.close().map_err(|error| database::at(error, dir))
}

/// `repair [--into DIR] [--dry-run]`.
pub fn repair(global: &Global, args: &RepairArgs, out: &mut Out) -> Result<(), Failure> {
    let dir = database::directory(global)?;
    database::refuse_file(&dir)?;
    Overrides::parse(&global.options)?.check()?;
    if let Some(into) = &args.into {
        refuse_within(&dir, into)?;
    }
    let options = RepairOptions { into: args.into.clone(), dry_run: args.dry_run };
    let progress = output::spinner("repairing");
    let report = Db::builder().repair(&dir, &options);
    progress.finish_and_clear();
    let report = report.map_err(|error| database::at(error, &dir))?;
    let mut repaired = Repaired::of(&report, args.dry_run, out);
    if let (false, false, Some(into)) = (report.is_needed(), args.dry_run, &args.into) {
        into_new(into, || copy_whole(global, &dir, into))?;
        repaired.database = Some(show(into));
    }
    if let Some(originals) = &report.originals {
        repaired.keep(originals);
    }
    if out.json {
        return out.json_line(&repaired);
    }
    repaired.lines().iter().try_for_each(|line| out.line(line))?;
    match &repaired.report {
        Some(path) => out.line(format!("this report is in {path}")),
        None => Ok(()),
    }
}
