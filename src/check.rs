//! Checking a database at rest: every byte of every file, and every claim that one file makes of another.
//!
//! Nothing is opened here in the sense of `db`: a database whose manifest or log is damaged is checked like any other,
//! and each bad file is named, not only the first. Nothing on disk changes.
//!
//! # What is checked
//! * `CURRENT`: its checksum, and that the manifest that it names is there.
//! * The manifest: header, every record, that the edits fit each other, the invariants of each tree, the options of
//!   each keyspace.
//! * Every table that it names: see [`TableReader::verify_all`]; without a manifest, every table that there is, against
//!   its own properties. Of a damaged one every damaged place is named ([`places`]).
//! * The levels ([`order`]): for every key, what stands above is newer than what stands below.
//! * The log: that its segments form a chain without a gap, that it reaches as far as anything says it was synced, and
//!   every operation of every record.
//!
//! What is no damage is a *note*: a torn end that the next open drops, files that nothing names. Which bytes no check
//! can cover stands in `docs/operations.md`.

mod log;
mod order;
mod places;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::assembly::refuse_incomplete;
use crate::batch::operations;
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::{DirEntry, FileSystem};
use crate::key::{FileNumber, KeyspaceId};
use crate::manifest::recovery::{
    Current, Recovered, missing_manifest, read_current, recover_manifest,
};
use crate::manifest::state::ManifestState;
use crate::options::{ReadMode, RecoveryMode, Verify};
use crate::table::TableMeta;
use crate::table::reader::{ReadContext, TableReader};
use crate::table::salvage::describe;
use crate::wal::WalPosition;
use crate::wal::replay::{Replay, ReplayOptions, WalRecord, replay};
use crate::wal::segment::RecordKind;

/// What a verification read, and what was wrong.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Tables read.
    pub tables: u64,
    /// Bytes of those tables.
    pub table_bytes: u64,
    /// Entries in those tables.
    pub entries: u64,
    /// Records of the log read.
    pub wal_records: u64,
    /// Everything that is wrong: one error each, with file and offset. Empty: all is well. Of a table every damaged
    /// place is named, up to 100 and then their number; of a manifest and a log segment the first.
    pub problems: Vec<Error>,
    /// What is worth knowing and no damage: files that nothing names, the torn end that a crash left.
    pub notes: Vec<String>,
}

impl VerifyReport {
    /// Whether nothing was wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }

    fn note(&mut self, file: &str, what: &str) {
        self.notes.push(format!("{file}: {what}"));
    }
}

/// A database directory as it was found.
#[derive(Debug)]
pub(crate) struct Survey {
    /// What stands in the directory.
    pub(crate) entries: Vec<DirEntry>,
    /// What the manifest tells; `None` if none can be read to its end.
    pub(crate) manifest: Option<Recovered>,
    /// Every table that the manifest names, or without one every table that there is; what is wrong with it.
    pub(crate) tables: BTreeMap<FileNumber, Option<Error>>,
    /// Without a manifest: what the good tables say of themselves.
    pub(crate) described: BTreeMap<FileNumber, (TableMeta, Option<KeyspaceId>)>,
    /// What an open would replay, or why it would not.
    pub(crate) log: Result<Replay>,
    pub(crate) report: VerifyReport,
}

impl Survey {
    /// The numbers of the files in the directory of which `pick` says so.
    pub(crate) fn numbers(&self, pick: impl Fn(FileKind) -> Option<FileNumber>) -> Vec<FileNumber> {
        let files = self.entries.iter().filter(|entry| entry.is_file);
        let mut numbers: Vec<_> = files.filter_map(|e| pick(FileKind::parse(&e.name)?)).collect();
        numbers.sort_unstable();
        numbers
    }

    pub(crate) fn table_numbers(&self) -> Vec<FileNumber> {
        self.numbers(|kind| match kind {
            FileKind::Table(number) => Some(number),
            _ => None,
        })
    }

    pub(crate) fn manifest_numbers(&self) -> Vec<FileNumber> {
        self.numbers(|kind| match kind {
            FileKind::Manifest(number) => Some(number),
            _ => None,
        })
    }

    pub(crate) fn segment_numbers(&self) -> Vec<FileNumber> {
        self.numbers(|kind| match kind {
            FileKind::WalSegment(number) => Some(number),
            _ => None,
        })
    }
}

/// How tables are read here: past every cache, and not through maps, so that a failing device is an error.
pub(crate) fn read_context() -> ReadContext {
    ReadContext { read_mode: ReadMode::Pread, verify: Verify::Always, cache: None }
}

/// Checks everything in `dir`. What is damaged goes into the report; an error is what kept the work from going on: a
/// device that fails, a newer format, no database.
pub(crate) fn verify_at_rest(fs: &Arc<dyn FileSystem>, dir: &Path) -> Result<VerifyReport> {
    let mut survey = survey(&**fs, dir)?;
    if let Some(recovered) = &survey.manifest {
        let damaged = |number| survey.tables.get(&number).is_none_or(Option::is_some);
        for keyspace in recovered.state.keyspaces.values() {
            let mut tables = keyspace.version.tables();
            if tables.any(|(_, _, table)| damaged(table.meta().number)) {
                // Named already; what it says of others is worth nothing.
                continue;
            }
            let checked = order::check_order(fs, dir, &keyspace.version);
            note_damage(checked, &mut survey.report)?;
        }
    }
    Ok(survey.report)
}

/// Puts damage into the report, and hands on every other error.
fn note_damage(result: Result<()>, report: &mut VerifyReport) -> Result<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::Corruption => {
            report.problems.push(error);
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Looks at every file of the database in `dir`, once.
pub(crate) fn survey(fs: &dyn FileSystem, dir: &Path) -> Result<Survey> {
    let no_database = |what: &str| {
        Error::new(ErrorKind::NotFound, what)
            .at(dir)
            .advise("check the path, or create a database there")
    };
    let entries = fs.list(dir)?.ok_or_else(|| no_database("there is no such directory"))?;
    let holds_data = |kind| {
        use FileKind::{Current, Manifest, Table, WalSegment};
        matches!(kind, Current | Manifest(_) | Table(_) | WalSegment(_))
    };
    let files = entries.iter().filter(|entry| entry.is_file);
    if !files.filter_map(|entry| FileKind::parse(&entry.name)).any(holds_data) {
        return Err(no_database("there is no database in the directory"));
    }
    refuse_incomplete(dir, &entries)?;
    let mut survey = Survey {
        entries,
        manifest: None,
        tables: BTreeMap::new(),
        described: BTreeMap::new(),
        log: Ok(Replay::default()),
        report: VerifyReport::default(),
    };
    survey.find_manifest(fs, dir)?;
    if let Some(recovered) = survey.manifest.take() {
        survey.check_state(&recovered, dir);
        survey.check_named_tables(fs, dir, &recovered.state)?;
        survey.check_log(fs, dir, Some(&recovered.state))?;
        survey.note_others(Some(&recovered));
        survey.manifest = Some(recovered);
    } else {
        survey.check_all_tables(fs, dir)?;
        survey.check_log(fs, dir, None)?;
        survey.note_others(None);
    }
    Ok(survey)
}

impl Survey {
    /// Reads the manifest that `CURRENT` names; if that is damaged, the newest one that can be read: each was whole
    /// before `CURRENT` named it, and an older one is removed only after that.
    fn find_manifest(&mut self, fs: &dyn FileSystem, dir: &Path) -> Result<()> {
        let current = FileKind::Current.path(dir);
        let named = match read_current(fs, dir) {
            Ok(Some(current)) => Some(current),
            Ok(None) => {
                self.report.problems.push(
                    Error::corruption(&current, 0, "CURRENT is missing")
                        .advise("restore it from a copy, or repair the database"),
                );
                None
            }
            Err(error) => {
                note_damage(Err(error), &mut self.report)?;
                None
            }
        };
        let unnamed = |number| Current { number, sealed_bytes: None };
        let candidates = named.map_or_else(
            || self.manifest_numbers().into_iter().map(unnamed).collect(),
            |named| vec![named],
        );
        for current in candidates.into_iter().rev() {
            let found = recover_manifest(fs, dir, current)
                .and_then(|found| found.ok_or_else(|| missing_manifest(dir, current.number)));
            match found {
                Ok(recovered) => {
                    self.manifest = Some(recovered);
                    return Ok(());
                }
                Err(error) => drop(note_damage(Err(error), &mut self.report)?),
            }
        }
        Ok(())
    }

    /// What the manifest claims that no table and no log can refute.
    fn check_state(&mut self, recovered: &Recovered, dir: &Path) {
        let Recovered { state, manifest_number, torn_tail_bytes, torn_is_whole } = recovered;
        let kind = FileKind::Manifest(*manifest_number);
        let mut wrong = |what: String| {
            self.report.problems.push(Error::corruption(&kind.path(dir), 0, what));
        };
        if !state.keyspaces.contains_key(&KeyspaceId::default()) {
            wrong("the manifest has no keyspace `default`".to_owned());
        }
        for keyspace in state.keyspaces.values() {
            if let Err(error) = keyspace.parsed_options() {
                self.report.problems.push(error.at(&kind.path(dir)));
            }
        }
        if *torn_is_whole {
            let end = self.entries.iter().find(|entry| entry.name == kind.file_name());
            let at = end.map_or(0, |entry| entry.bytes.saturating_sub(*torn_tail_bytes));
            let what = "the last record of the manifest is damaged, or was torn by a power cut";
            self.report.problems.push(Error::corruption(&kind.path(dir), at, what).advise(
                "open the database, which drops the record if nothing acted on it, and verify again",
            ));
        } else if *torn_tail_bytes > 0 {
            let what = format!(
                "ends in {torn_tail_bytes} bytes of an unfinished record, which the next open drops"
            );
            self.report.note(&kind.file_name(), &what);
        }
    }

    fn check_named_tables(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        state: &ManifestState,
    ) -> Result<()> {
        for keyspace in state.keyspaces.values() {
            for (_, _, table) in keyspace.version.tables() {
                self.check_table(fs, dir, table.meta())?;
            }
        }
        Ok(())
    }

    fn check_all_tables(&mut self, fs: &dyn FileSystem, dir: &Path) -> Result<()> {
        for number in self.table_numbers() {
            match describe(fs, dir, number) {
                Ok((meta, keyspace)) => {
                    self.check_table(fs, dir, &meta)?;
                    if self.tables.get(&number).is_some_and(Option::is_none) {
                        self.described.insert(number, (meta, keyspace));
                    }
                }
                Err(error) => self.blame_table(fs, dir, (number, None), error)?,
            }
        }
        Ok(())
    }

    fn check_table(&mut self, fs: &dyn FileSystem, dir: &Path, meta: &TableMeta) -> Result<()> {
        self.report.tables += 1;
        self.report.table_bytes += meta.file_bytes;
        self.report.entries += meta.entry_count;
        let checked = TableReader::open(fs, dir, meta, &read_context())
            .and_then(|reader| reader.verify_all(meta));
        match checked {
            Ok(()) => drop(self.tables.insert(meta.number, None)),
            Err(error) => {
                self.blame_table(fs, dir, (meta.number, Some(meta.file_bytes)), error)?;
            }
        }
        Ok(())
    }

    /// A table is damaged if wrong bytes say so, or bytes that claim a newer format: only some of those are covered by
    /// a checksum, so repair looks again.
    fn blame_table(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        (number, file_bytes): (FileNumber, Option<u64>),
        error: Error,
    ) -> Result<()> {
        match error.kind() {
            ErrorKind::Corruption => {
                let places = places::damaged_places(fs, dir, number, file_bytes, error.clone())?;
                self.report.problems.extend(places);
            }
            ErrorKind::Unsupported => self.report.problems.push(error.clone()),
            _ => return Err(error),
        }
        self.tables.insert(number, Some(error));
        Ok(())
    }

    /// Replays the log as an open would. If it would fail, every segment is looked at by itself.
    fn check_log(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        state: Option<&ManifestState>,
    ) -> Result<()> {
        let options = log_options(self, state, RecoveryMode::PointInTime);
        let next_id = state.map(|state| state.next_keyspace_id);
        let mut check = |record: &WalRecord<'_>| check_record(record, next_id, dir);
        self.log = replay(fs, dir, options, &mut check);
        match &self.log {
            Ok(replayed) => {
                self.report.wal_records = replayed.record_count;
                if replayed.dropped_bytes > 0 {
                    let file = FileKind::WalSegment(replayed.end.segment).file_name();
                    let what = format!(
                        "ends at offset {} with {} bytes that were never promised, which the next open drops",
                        replayed.end.offset, replayed.dropped_bytes
                    );
                    self.report.note(&file, &what);
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Corruption => {
                let error = error.clone();
                self.blame_log(fs, dir, options, &error)
            }
            Err(error) => Err(error.clone()),
        }
    }

    /// Names what is wrong with a log that an open would refuse with `error`: that, and what each segment by itself
    /// shows. An open can only say where the log ends; where a segment is missing, that one is named instead.
    fn blame_log(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        options: ReplayOptions,
        error: &Error,
    ) -> Result<()> {
        let live: Vec<_> =
            self.segment_numbers().into_iter().filter(|n| *n >= options.first_segment).collect();
        let path = |number| FileKind::WalSegment(number).path(dir);
        let named = live.iter().copied().find(|number| error.path() == Some(&path(*number)));
        let missing = log::missing_segments(fs, dir, &live, options)?;
        let is_elsewhere = match named {
            Some(number) if !missing.is_empty() => log::ends_cleanly(fs, dir, number)?,
            _ => false,
        };
        if !is_elsewhere {
            self.report.problems.push(error.clone());
        }
        for number in missing.iter().filter(|number| error.path() != Some(&path(**number))) {
            let what = "the log segment is missing or empty, but others say that it was written";
            self.report.problems.push(Error::corruption(&path(*number), 0, what));
        }
        for number in live {
            if named != Some(number) && !missing.contains(&number) {
                note_damage(log::check_segment(fs, dir, number), &mut self.report)?;
            }
        }
        Ok(())
    }

    /// Notes files that the database does not need.
    fn note_others(&mut self, recovered: Option<&Recovered>) {
        let first_segment = recovered.map_or(FileNumber(0), |found| found.state.wal_first_segment);
        for entry in self.entries.clone().into_iter().filter(|entry| entry.is_file) {
            let kind = FileKind::parse(&entry.name);
            let what = match kind {
                None => "is no file of esker's, and was left alone",
                Some(FileKind::Lock) if entry.bytes > 0 => "is not empty, and does not matter",
                Some(FileKind::CurrentTemporary) => "is what a crash left of a switch of manifests",
                Some(FileKind::Manifest(number))
                    if recovered.is_some_and(|found| found.manifest_number != number) =>
                {
                    "is named by nothing: the next open removes it"
                }
                Some(FileKind::Table(number))
                    if recovered.is_some() && !self.tables.contains_key(&number) =>
                {
                    "is named by nothing: the next open removes it"
                }
                Some(FileKind::WalSegment(number)) if number < first_segment => {
                    "is not needed any more: the next open removes it"
                }
                Some(_) => continue,
            };
            self.report.note(&entry.name, what);
        }
    }
}

/// How the log of the database is replayed; without a manifest from the first segment that there is.
pub(crate) fn log_options(
    survey: &Survey,
    state: Option<&ManifestState>,
    mode: RecoveryMode,
) -> ReplayOptions {
    match state {
        Some(state) => ReplayOptions {
            first_segment: state.wal_first_segment,
            mode,
            promised: state.wal_synced,
        },
        None => ReplayOptions {
            first_segment: survey.segment_numbers().first().copied().unwrap_or_default(),
            mode,
            promised: WalPosition::default(),
        },
    }
}

/// Whether a record holds what it says: readable operations, as many as it counts, on keyspaces that there were.
pub(crate) fn check_record(
    record: &WalRecord<'_>,
    next_id: Option<KeyspaceId>,
    dir: &Path,
) -> Result<()> {
    if record.kind != RecordKind::Batch {
        return Ok(());
    }
    let path = FileKind::WalSegment(record.start.segment).path(dir);
    let wrong = |what: String| Error::corruption(&path, record.start.offset, what);
    let mut count = 0u64;
    for operation in operations(record.payload) {
        let operation =
            operation.map_err(|error| error.at(&path).at_offset(record.start.offset))?;
        count += 1;
        let KeyspaceId(id) = operation.keyspace;
        if next_id.is_some_and(|next_id| operation.keyspace >= next_id) {
            return Err(wrong(format!("a batch names keyspace {id}, which never was")));
        }
    }
    if count != u64::from(record.entry_count) {
        let says = record.entry_count;
        return Err(wrong(format!("a batch holds {count} operations, but its record says {says}")));
    }
    Ok(())
}
