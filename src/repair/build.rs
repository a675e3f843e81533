//! Carries a plan out: new tables, the originals in safety, then the manifest.
//!
//! In place, new tables are written in `lost-N/`, and go to their place once all are whole: so a crash leaves no half
//! table among the tables, where a repair without a manifest would find it.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::assembly::Assembly;
use crate::check::{Survey, read_context};
use crate::compaction::retention::Retention;
use crate::content::copy;
use crate::cursor::Cursor;
use crate::cursor::merging::MergingCursor;
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::filter::KeyProbe;
use crate::flush::{FlushContext, flush};
use crate::fs::{Access, FileSystem};
use crate::key::{FileNumber, KeyspaceId, SequenceNumber, Trailer, key_hash};
use crate::manifest::Manifest;
use crate::manifest::state::{KeyspaceState, ManifestState};
use crate::repair::plan::{Damaged, Plan, TreePlan};
use crate::repair::{RepairReport, Site};
use crate::table::cursor::TableCursor;
use crate::table::reader::{ReadStats, TableReader};
use crate::table::salvage::salvage;
use crate::table::writer::{TableWriter, TableWriterOptions};
use crate::table::{Table, TableMeta};
use crate::version::{LEVEL_COUNT, RunId, Version};

/// The level of a tree whose shape is not known: all of it is one run.
const REBUILT_LEVEL: usize = LEVEL_COUNT - 1;

/// Does what the plan says.
pub(super) fn build(
    site: &Site<'_>,
    into: Option<&Path>,
    plan: &Plan,
    report: &mut RepairReport,
) -> Result<()> {
    let Site { fs, dir, survey, now_ms } = *site;
    let assembly = into.map(|into| Assembly::begin(fs, into)).transpose()?;
    let stage = match into {
        Some(into) => into.to_path_buf(),
        None => make_lost_dir(fs, dir, survey)?,
    };
    let mut builder = Builder {
        fs,
        dir,
        stage: &stage,
        now_ms,
        next_number: first_number(plan, survey),
        made: Vec::new(),
    };
    let mut trees = Vec::new();
    let mut state = plan.base.clone();
    for (id, tree) in &plan.trees {
        let tables = if plan.has_shape {
            builder.build_tree(*id, tree, plan)?
        } else {
            builder.rebuild_tree(*id, tree, plan, report)?
        };
        trees.push((*id, tree, tables));
    }
    let Builder { next_number, made, .. } = builder;
    finish_state(&mut state, plan, survey, trees, next_number)?;
    check_state(&state)?;
    if let Some(assembly) = assembly {
        for number in live_tables(&state).filter(|number| !made.contains(number)) {
            link_or_copy(fs, &FileKind::Table(number).path(dir), &assembly.table_path(number))?;
        }
        assembly.finish(state)?;
        report.database = into.map(Path::to_path_buf);
        return Ok(());
    }
    keep_originals(fs, dir, &stage, survey)?;
    for number in &made {
        let kind = FileKind::Table(*number);
        link_or_copy(fs, &kind.path(&stage), &kind.path(dir))?;
        // Only originals stay there.
        fs.remove(&kind.path(&stage))?;
    }
    fs.sync_dir(&stage)?;
    report.originals = Some(stage.clone());
    fs.sync_dir(dir)?;
    let number = state.next_file_number;
    state.next_file_number = FileNumber(number.0 + 1);
    Manifest::create(fs, dir, number, &state)?;
    report.database = Some(dir.to_path_buf());
    Ok(())
}

fn live_tables(state: &ManifestState) -> impl Iterator<Item = FileNumber> {
    let versions = state.keyspaces.values().map(|keyspace| &keyspace.version);
    versions.flat_map(|version| version.tables().map(|(_, _, table)| table.meta().number))
}

/// A number above those of all files that there are or were.
fn first_number(plan: &Plan, survey: &Survey) -> FileNumber {
    let used = survey.table_numbers().into_iter().chain(survey.manifest_numbers()).max();
    let next = FileNumber(used.map_or(1, |used| used.0.saturating_add(1)));
    next.max(plan.base.next_file_number)
}

/// Makes the first `lost-N` that there is not yet.
fn make_lost_dir(fs: &dyn FileSystem, dir: &Path, survey: &Survey) -> Result<PathBuf> {
    let is_used = |name: &str| survey.entries.iter().any(|entry| entry.name == name);
    let mut number = 1u64;
    while is_used(&format!("lost-{number}")) {
        number += 1;
    }
    let lost = dir.join(format!("lost-{number}"));
    fs.create_dir_all(&lost)?;
    Ok(lost)
}

/// Gives every file of the database a second name in `lost`.
fn keep_originals(fs: &dyn FileSystem, dir: &Path, lost: &Path, survey: &Survey) -> Result<()> {
    for entry in survey.entries.iter().filter(|entry| entry.is_file) {
        let Some(kind) = FileKind::parse(&entry.name) else { continue };
        if kind == FileKind::Lock {
            // Empty, and a link would share our lock.
            continue;
        }
        link_or_copy(fs, &kind.path(dir), &kind.path(lost))?;
    }
    fs.sync_dir(lost)
}

fn link_or_copy(fs: &dyn FileSystem, from: &Path, to: &Path) -> Result<()> {
    if !fs.hard_link(from, to)? {
        copy(fs, from, to)?;
    }
    Ok(())
}

type PlacedTable = (usize, RunId, TableMeta);

/// A table that is merged with others.
#[derive(Clone, Debug)]
struct Source {
    /// The number of the table that its entries come from: what was salvaged of a table is no newer than that was.
    age: FileNumber,
    meta: TableMeta,
}

/// The state that the new manifest begins with.
fn finish_state(
    state: &mut ManifestState,
    plan: &Plan,
    survey: &Survey,
    trees: Vec<(KeyspaceId, &TreePlan, Vec<PlacedTable>)>,
    next_number: FileNumber,
) -> Result<()> {
    let sequences =
        trees.iter().flat_map(|(_, _, tables)| tables).map(|(_, _, meta)| meta.sequence_max);
    let damaged = plan.trees.values().flat_map(|tree| &tree.damaged);
    let known = damaged.filter_map(|table| Some(table.known.as_ref()?.sequence_max));
    let last = sequences.chain(known).max().unwrap_or(SequenceNumber::ZERO);
    state.last_sequence = state.last_sequence.max(last).max(plan.log.max_sequence);
    state.next_file_number = next_number;
    state.next_keyspace_id = plan.next_keyspace_id;
    let segments = survey.segment_numbers();
    let replayed = survey.log.as_ref().map_or(FileNumber(0), |replayed| replayed.next_segment);
    let used = segments.last().map_or(FileNumber(1), |last| FileNumber(last.0.saturating_add(1)));
    let promised = FileNumber(state.wal_synced.segment.0.saturating_add(1));
    // No segment of the old log is part of the new one.
    state.wal_first_segment = state.wal_first_segment.max(replayed).max(used).max(promised);
    state.keyspaces.clear();
    for (id, tree, tables) in trees {
        let added: Vec<_> = tables
            .into_iter()
            .map(|(level, run, meta)| (level, run, Arc::new(Table::new(meta))))
            .collect();
        let keyspace = KeyspaceState {
            name: tree.name.clone(),
            options: tree.pairs.clone(),
            flushed_sequence: state.last_sequence,
            version: Version::empty().apply(&[], &added)?,
        };
        state.keyspaces.insert(id, keyspace);
    }
    Ok(())
}

/// Refuses a state that an open would refuse, before anything names it.
fn check_state(state: &ManifestState) -> Result<()> {
    let mut opened = ManifestState::default();
    opened.apply(&state.to_edit())?;
    for keyspace in opened.keyspaces.values() {
        keyspace.version.check_invariants().map_err(|what| {
            let what = format!("what is left of keyspace {} makes no tree: {what}", keyspace.name);
            Error::new(ErrorKind::Corruption, what)
        })?;
    }
    Ok(())
}

struct Builder<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    /// Where new tables are written.
    stage: &'a Path,
    now_ms: u64,
    next_number: FileNumber,
    /// New tables.
    made: Vec<FileNumber>,
}

impl Builder<'_> {
    fn new_number(&mut self) -> FileNumber {
        let number = self.next_number;
        self.next_number.0 += 1;
        number
    }

    /// A tree whose shape is known: damaged tables are replaced in their place, the log goes on top.
    fn build_tree(
        &mut self,
        id: KeyspaceId,
        tree: &TreePlan,
        plan: &Plan,
    ) -> Result<Vec<PlacedTable>> {
        let mut tables = tree.kept.clone();
        for damaged in &tree.damaged {
            let meta = self.rewrite(id, tree, damaged, damaged.place.0)?;
            tables.extend(meta.map(|meta| (damaged.place.0, damaged.place.1, meta)));
        }
        let meta = self.write_refound(id, tree, plan, &tables)?;
        tables.extend(meta.map(|meta| (0, RunId(meta.number.0), meta)));
        for meta in self.write_log(id, tree, plan)? {
            tables.push((0, RunId(meta.number.0), meta));
        }
        Ok(tables)
    }

    /// A tree of which only the tables are known: one run, in which tables whose keys meet are merged.
    fn rebuild_tree(
        &mut self,
        id: KeyspaceId,
        tree: &TreePlan,
        plan: &Plan,
        report: &mut RepairReport,
    ) -> Result<Vec<PlacedTable>> {
        let kept =
            tree.kept.iter().map(|(_, _, meta)| Source { age: meta.number, meta: meta.clone() });
        let mut sources: Vec<Source> = kept.collect();
        for damaged in &tree.damaged {
            let meta = self.rewrite(id, tree, damaged, REBUILT_LEVEL)?;
            sources.extend(meta.map(|meta| Source { age: damaged.number, meta }));
        }
        let logged = self.write_log(id, tree, plan)?.into_iter();
        sources.extend(logged.map(|meta| Source { age: meta.number, meta }));
        sources.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
        let run = RunId(self.next_number.0);
        let mut tables = Vec::new();
        let mut rest = sources.as_slice();
        while let Some(first) = rest.first() {
            let mut largest = &first.meta.largest;
            let mut count = 1;
            while let Some(next) = rest.get(count).filter(|next| next.meta.smallest <= *largest) {
                largest = largest.max(&next.meta.largest);
                count += 1;
            }
            let (meeting, behind) = rest.split_at(count);
            rest = behind;
            if count == 1 {
                tables.push(first.meta.clone());
                continue;
            }
            let merged = self.merge(id, tree, meeting)?;
            let old: u64 = meeting
                .iter()
                .filter(|source| !self.made.contains(&source.meta.number))
                .map(|source| source.meta.entry_count)
                .sum();
            report.entries_kept = report.entries_kept.saturating_sub(old);
            report.entries_rewritten += old;
            tables.extend(merged);
        }
        Ok(tables.into_iter().map(|meta| (REBUILT_LEVEL, run, meta)).collect())
    }

    /// A new table whose entries were written between these times.
    fn writer(
        &mut self,
        id: KeyspaceId,
        tree: &TreePlan,
        level: usize,
        (min_ms, max_ms): (u64, u64),
    ) -> Result<TableWriter> {
        let number = self.new_number();
        let options = TableWriterOptions {
            number,
            keyspace: id,
            block_bytes: tree.options.block_bytes,
            compression: tree.options.compression_at(level),
            filter: tree.options.filter,
            filter_bits: tree.options.filter_bits_at(level),
        };
        self.made.push(number);
        let mut writer = TableWriter::create(self.fs, self.stage, options)?;
        writer.set_write_times(min_ms.min(max_ms), max_ms);
        Ok(writer)
    }

    /// What is left of a damaged table, as a new one; `None` if that is nothing.
    fn rewrite(
        &mut self,
        id: KeyspaceId,
        tree: &TreePlan,
        damaged: &Damaged,
        level: usize,
    ) -> Result<Option<TableMeta>> {
        let told = damaged.known.as_ref().or(damaged.own.as_ref());
        let times =
            told.map_or((self.now_ms, self.now_ms), |t| (t.write_time_min_ms, t.write_time_max_ms));
        let mut writer = self.writer(id, tree, level, times)?;
        let mut add = |key: &[u8], trailer: Trailer, value: &[u8]| writer.add(key, trailer, value);
        let found = salvage(self.fs, self.dir, damaged.number, damaged.known.as_ref(), &mut add)?;
        assert!(found.entry_count > 0, "the plan found entries in the same bytes");
        writer.finish().map(Some)
    }

    /// What the log holds of the keyspace, as tables, oldest first.
    fn write_log(
        &mut self,
        id: KeyspaceId,
        tree: &TreePlan,
        plan: &Plan,
    ) -> Result<Vec<TableMeta>> {
        let mut metas = Vec::new();
        for memtable in plan.log.memtables.get(&id).into_iter().flatten() {
            let number = self.new_number();
            let context = FlushContext {
                fs: self.fs,
                dir: self.stage,
                keyspace: id,
                options: &tree.options,
                snapshots: &[SequenceNumber::MAX],
                number,
                now_ms: self.now_ms,
            };
            if let Some(meta) = flush(std::slice::from_ref(memtable), &context)? {
                self.made.push(number);
                metas.push(meta);
            }
        }
        Ok(metas)
    }

    /// What the log holds of the keys that damaged tables lost, as a table above `tables`; but nothing that those
    /// have in the same or a newer version.
    ///
    /// Of what a merge brought to the last level nobody can tell whether it is newer: it has no sequence number any
    /// more, and an ingest, or a write without a log, leaves nothing in the log but a hole. So an entry counts only if
    /// no number is missing from it to the last that tables have; or if it was in a table of level 0 that is lost: what
    /// lies below that is older, for every key in its range.
    fn write_refound(
        &mut self,
        id: KeyspaceId,
        tree: &TreePlan,
        plan: &Plan,
        tables: &[PlacedTable],
    ) -> Result<Option<TableMeta>> {
        let (Some(refound), Some(keyspace)) =
            (plan.log.refound.get(&id), plan.base.keyspaces.get(&id))
        else {
            return Ok(None);
        };
        // An ingest raises no flushed sequence.
        let in_tables = keyspace.version.tables().map(|(_, _, table)| table.meta().sequence_max);
        let flushed = in_tables.fold(keyspace.flushed_sequence, SequenceNumber::max);
        let mut readers = Vec::new();
        for (_, _, meta) in tables {
            readers.push((meta, self.open(meta)?));
        }
        let mut writer: Option<TableWriter> = None;
        let mut last_key: Option<Vec<u8>> = None;
        let mut cursor = refound.cursor();
        cursor.seek_to_first()?;
        while cursor.valid() {
            let (key, trailer) = (cursor.key(), cursor.trailer());
            let sequence = trailer.sequence();
            let was_in = |meta: &TableMeta| {
                meta.covers(key) && (meta.sequence_min..=meta.sequence_max).contains(&sequence)
            };
            let is_newest = last_key.as_deref() != Some(key)
                && (plan.log.holds(sequence, flushed) || tree.flushed.iter().any(was_in));
            let mut is_missing = is_newest;
            for (_, reader) in readers.iter().filter(|(meta, _)| is_newest && meta.covers(key)) {
                let probe = KeyProbe::new(key_hash(key));
                let found = reader.get(key, &probe, Trailer::NEWEST, &mut ReadStats::default())?;
                is_missing &= found.is_none_or(|(found, _)| found.sequence() < trailer.sequence());
            }
            if is_missing {
                if writer.is_none() {
                    writer = Some(self.writer(id, tree, 0, (self.now_ms, self.now_ms))?);
                }
                if let Some(writer) = &mut writer {
                    writer.add(key, trailer, cursor.value())?;
                }
            }
            last_key = Some(key.to_vec());
            cursor.next()?;
        }
        writer.map(TableWriter::finish).transpose()
    }

    /// Opens a kept or a new table.
    fn open(&self, meta: &TableMeta) -> Result<TableReader> {
        let place = if self.made.contains(&meta.number) { self.stage } else { self.dir };
        TableReader::open(self.fs, place, meta, &read_context())
    }

    /// Merges tables into new ones that hold of each key the newest version, or its tombstone.
    fn merge(
        &mut self,
        id: KeyspaceId,
        tree: &TreePlan,
        sources: &[Source],
    ) -> Result<Vec<TableMeta>> {
        let mut newest_first: Vec<&Source> = sources.iter().collect();
        // Of entries that are alike the first source's counts.
        newest_first.sort_by_key(|source| Reverse(source.age));
        let mut cursors = Vec::new();
        for source in newest_first {
            let reader = Arc::new(self.open(&source.meta)?);
            cursors.push(TableCursor::new(reader, Access::Sequential));
        }
        let metas = || sources.iter().map(|source| &source.meta);
        let min_ms = metas().map(|meta| meta.write_time_min_ms).min().unwrap_or(0);
        let max_ms = metas().map(|meta| meta.write_time_max_ms).max().unwrap_or(min_ms);
        let mut retention = Retention::new(&[SequenceNumber::MAX], self.now_ms);
        let mut cursor = MergingCursor::new(cursors);
        cursor.seek_to_first()?;
        let mut last: (Vec<u8>, Option<Trailer>) = (Vec::new(), None);
        let mut open: Option<TableWriter> = None;
        let mut finished = Vec::new();
        while cursor.valid() {
            let (key, trailer, value) = (cursor.key(), cursor.trailer(), cursor.value());
            if last.1 == Some(trailer) && last.0 == key {
                cursor.next()?;
                continue;
            }
            let fate = retention.next(key, trailer, value, |_| false)?;
            if let Some((trailer, value)) = fate.written(trailer, value) {
                let is_new = last.1.is_none() || last.0 != key;
                let is_full =
                    |writer: &TableWriter| writer.estimated_bytes() >= tree.options.table_bytes;
                if is_new && open.as_ref().is_some_and(is_full) {
                    finished.extend(open.take().map(TableWriter::finish).transpose()?);
                }
                if open.is_none() {
                    open = Some(self.writer(id, tree, REBUILT_LEVEL, (min_ms, max_ms))?);
                }
                if let Some(writer) = &mut open {
                    writer.add(key, trailer, value)?;
                }
            }
            last.0.clear();
            last.0.extend_from_slice(key);
            last.1 = Some(trailer);
            cursor.next()?;
        }
        finished.extend(open.map(TableWriter::finish).transpose()?);
        Ok(finished)
    }
}
