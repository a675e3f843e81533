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

pub(crate) mod log;
mod order;
mod places;
mod segments;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::assembly::refuse_incomplete;
use crate::check::log::LogStart;
use crate::content::to_memory;
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::{DirEntry, FileSystem};
use crate::key::{FileNumber, KeyspaceId};
use crate::manifest::recovery::{
    Current, Recovered, missing_manifest, read_current, recover_manifest, salvage_edits,
};
use crate::manifest::state::ManifestState;
use crate::options::{ReadMode, Verify};
use crate::table::TableMeta;
use crate::table::reader::{ReadContext, TableReader};
use crate::table::salvage::describe;
use crate::version::Version;
use crate::version::edit::VersionEdit;
use crate::wal::replay::Replay;

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
    /// Where the log begins.
    pub(crate) log_start: LogStart,
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

    /// Every readable edit of every manifest in the directory, oldest first. They make no state; each was true of some
    /// moment.
    pub(crate) fn salvaged_edits(
        &self,
        fs: &dyn FileSystem,
        dir: &Path,
    ) -> Result<Vec<VersionEdit>> {
        let mut edits = Vec::new();
        for number in self.manifest_numbers() {
            let path = FileKind::Manifest(number).path(dir);
            let Some(file) = fs.open(&path)? else { continue };
            let bytes = to_memory(&*file, file.bytes(), &path)?;
            edits.extend(salvage_edits(&bytes, number).into_iter().map(|(_, edit)| edit));
        }
        Ok(edits)
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
        log_start: LogStart::default(),
        log: Ok(Replay::default()),
        report: VerifyReport::default(),
    };
    survey.find_manifest(fs, dir)?;
    if let Some(recovered) = survey.manifest.take() {
        survey.check_state(&recovered, dir);
        survey.check_named_tables(fs, dir, &recovered.state)?;
        survey.log_start = LogStart::of(&recovered.state);
        survey.check_log(fs, dir, Some(recovered.state.next_keyspace_id))?;
        survey.note_others(Some(&recovered));
        survey.manifest = Some(recovered);
    } else {
        survey.check_all_tables(fs, dir)?;
        survey.log_start = LogStart::guess(&survey, fs, dir)?;
        survey.check_log(fs, dir, None)?;
        survey.note_others(None);
    }
    Ok(survey)
}

impl Survey {
    /// Reads the manifest that `CURRENT` names; if that is damaged, the newest one: each was whole before `CURRENT`
    /// named it, and an older one is removed only after that. Removed if that works: so an older one that is still
    /// there is not believed if a newer one cannot be read, or tables that it names are gone.
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
        let newest = self.manifest_numbers().last().copied().map(unnamed);
        let Some(current) = named.or(newest) else { return Ok(()) };
        let found = recover_manifest(fs, dir, current)
            .and_then(|found| found.ok_or_else(|| missing_manifest(dir, current.number)));
        match found {
            Ok(recovered) if named.is_some() || self.has_tables_of(&recovered.state) => {
                self.manifest = Some(recovered);
            }
            Ok(_) => {
                let file = FileKind::Manifest(current.number).file_name();
                self.report.note(&file, "is not believed: CURRENT does not name it, and tables that it names are missing");
            }
            Err(error) => drop(note_damage(Err(error), &mut self.report)?),
        }
        Ok(())
    }

    /// Whether every table that `state` names is there, damaged or not.
    fn has_tables_of(&self, state: &ManifestState) -> bool {
        let present = self.table_numbers();
        let versions = state.keyspaces.values().map(|keyspace| &keyspace.version);
        versions
            .flat_map(Version::tables)
            .all(|(_, _, table)| present.binary_search(&table.meta().number).is_ok())
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

    /// Notes files that the database does not need.
    fn note_others(&mut self, recovered: Option<&Recovered>) {
        let first_segment = self.log_start.first_segment;
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
