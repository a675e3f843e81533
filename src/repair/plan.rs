//! The plan of a repair: what stays, what is salvaged, what may be lost. Reads and writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::check::Survey;
use crate::error::{ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::manifest::state::{KeyspaceState, ManifestState};
use crate::options::KeyspaceOptions;
use crate::repair::log::{LogContent, Wanted, read_log};
use crate::repair::pieces::{DEFAULT_KEYSPACE, Pieces, UNKNOWN_KEYSPACE, free_name, nameless};
use crate::repair::{LostRange, RepairReport, RepairedFile, Site};
use crate::table::TableMeta;
use crate::table::salvage::{Gap, Salvaged, salvage};
use crate::version::edit::OptionPairs;
use crate::version::{RunId, Version};

/// A damaged table.
#[derive(Clone, Debug)]
pub(super) struct Damaged {
    pub(super) number: FileNumber,
    /// What a manifest says of it.
    pub(super) known: Option<TableMeta>,
    /// Level and run that its salvaged entries go to.
    pub(super) place: (usize, RunId),
    /// What the table says itself, as far as that is readable, for the write times.
    pub(super) own: Option<TableMeta>,
}

/// What becomes of the tree of one keyspace.
#[derive(Clone, Debug)]
pub(super) struct TreePlan {
    pub(super) name: String,
    pub(super) pairs: OptionPairs,
    pub(super) options: KeyspaceOptions,
    pub(super) kept: Vec<(usize, RunId, TableMeta)>,
    pub(super) damaged: Vec<Damaged>,
    /// What the manifest says of damaged tables that are as a flush made them.
    pub(super) flushed: Vec<TableMeta>,
}

impl TreePlan {
    fn new(name: String, pairs: OptionPairs) -> Self {
        let state = KeyspaceState {
            name: name.clone(),
            options: pairs.clone(),
            flushed_sequence: SequenceNumber::ZERO,
            version: Version::empty(),
        };
        // Options that cannot be used are kept as they are, and only not used here.
        let options = state.parsed_options().unwrap_or_default();
        TreePlan {
            name,
            pairs,
            options,
            kept: Vec::new(),
            damaged: Vec::new(),
            flushed: Vec::new(),
        }
    }
}

/// What a repair will do.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) trees: BTreeMap<KeyspaceId, TreePlan>,
    /// The counters and totals that the new manifest goes on from.
    pub(super) base: ManifestState,
    /// Whether levels and runs are known. If not, every tree becomes one run.
    pub(super) has_shape: bool,
    pub(super) log: LogContent,
    pub(super) next_keyspace_id: KeyspaceId,
}

/// Where plans are made.
struct Planner<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    survey: &'a Survey,
    now_ms: u64,
    report: &'a mut RepairReport,
}

impl Plan {
    pub(super) fn new(site: &Site<'_>, report: &mut RepairReport) -> Result<Plan> {
        let Site { fs, dir, survey, now_ms } = *site;
        let mut planner = Planner { fs, dir, survey, now_ms, report };
        planner.note_small_files();
        match survey.manifest.as_ref().filter(|_| planner.has_shape()) {
            Some(recovered) => planner.with_manifest(&recovered.state),
            None => planner.without_manifest(),
        }
    }
}

impl Planner<'_> {
    fn is_there(&self, number: FileNumber) -> bool {
        let name = FileKind::Table(number).file_name();
        self.survey.entries.iter().any(|entry| entry.is_file && entry.name == name)
    }

    /// Whether the table is not known to be whole. Without shape, a table that the manifest does not name was not read.
    fn is_damaged(&self, number: FileNumber) -> bool {
        self.survey.tables.get(&number).is_none_or(Option::is_some)
    }

    /// Whether the manifest can be believed. Its last record may be damaged, and not torn: then something may have
    /// acted on it, and files that the state before it names may be gone.
    fn has_shape(&self) -> bool {
        let Some(recovered) = &self.survey.manifest else { return false };
        let missing = self
            .survey
            .tables
            .iter()
            .any(|(number, error)| error.is_some() && !self.is_there(*number));
        recovered.torn_tail_bytes == 0 || !missing && self.survey.log.is_ok()
    }

    /// `CURRENT` and manifests hold no entries; they are written anew.
    fn note_small_files(&mut self) {
        let mut names = BTreeSet::new();
        for problem in &self.survey.report.problems {
            let name = problem.path().and_then(|path| path.file_name()?.to_str());
            if let Some(name) = name
                && let Some(FileKind::Current | FileKind::Manifest(_)) = FileKind::parse(name)
            {
                names.insert(name.to_owned());
            }
        }
        let is_complete = self.survey.manifest.is_some();
        self.report.files.extend(names.into_iter().map(|name| RepairedFile {
            is_complete: is_complete || name == FileKind::Current.file_name(),
            name,
            entries_kept: 0,
        }));
    }

    fn with_manifest(&mut self, state: &ManifestState) -> Result<Plan> {
        let mut trees = BTreeMap::new();
        for (&id, keyspace) in &state.keyspaces {
            let mut tree = TreePlan::new(keyspace.name.clone(), keyspace.options.clone());
            for (level, run, table) in keyspace.version.tables() {
                let meta = table.meta();
                if !self.is_damaged(meta.number) {
                    self.report.entries_kept += meta.entry_count;
                    tree.kept.push((level, run.id, meta.clone()));
                    continue;
                }
                if level == 0 && run.id.0 == meta.number.0 {
                    tree.flushed.push(meta.clone());
                }
                let place = (level, run.id);
                self.measure(&mut tree, meta.number, Some(meta.clone()), place)?;
            }
            trees.insert(id, tree);
        }
        // A log with holes may lack the newest version of a key that it holds.
        let lost =
            if self.survey.log.is_ok() { self.report.lost_ranges.clone() } else { Vec::new() };
        let log = read_log(self.fs, self.dir, self.survey, self.now_ms, &mut |id| {
            let keyspace = state.keyspaces.get(&id)?;
            let memtable_bytes = trees[&id].options.memtable_bytes;
            let lost = lost.iter().filter(|range| range.keyspace == keyspace.name).cloned();
            let flushed = keyspace.flushed_sequence;
            Some(Wanted { flushed, lost: lost.collect(), memtable_bytes })
        })?;
        self.forgive(&trees, &log);
        self.note_log(&log, trees.values().map(|tree| tree.name.as_str()));
        let next_keyspace_id = state.next_keyspace_id;
        Ok(Plan { trees, base: state.clone(), has_shape: true, log, next_keyspace_id })
    }

    /// Takes back what was said of tables of which nothing is lost, because the log holds every write that they were
    /// made of, and all of those are found again. That is known of tables as a flush made them: a merge may have
    /// changed values by a filter.
    fn forgive(&mut self, trees: &BTreeMap<KeyspaceId, TreePlan>, log: &LogContent) {
        if self.survey.log.is_err() {
            return;
        }
        for meta in trees.values().flat_map(|tree| &tree.flushed) {
            if !log.holds(meta.sequence_min, meta.sequence_max) {
                continue;
            }
            let name = FileKind::Table(meta.number).file_name();
            self.report.lost_ranges.retain(|range| range.file != name);
            for file in self.report.files.iter_mut().filter(|file| file.name == name) {
                file.is_complete = true;
            }
        }
    }

    /// Reads what is wanted of a table that does not stay as it is, to know what is lost.
    fn measure(
        &mut self,
        tree: &mut TreePlan,
        number: FileNumber,
        known: Option<TableMeta>,
        place: (usize, RunId),
    ) -> Result<()> {
        let file = FileKind::Table(number).file_name();
        let found = match salvage(self.fs, self.dir, number, known.as_ref(), &mut |_, _, _| Ok(()))
        {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::Corruption => {
                let bounds =
                    known.as_ref().map(|meta| (meta.smallest.to_vec(), meta.largest.to_vec()));
                let (from, to) = bounds.unzip();
                Salvaged { gaps: vec![Gap { from, to }], ..Salvaged::default() }
            }
            Err(error) => return Err(error),
        };
        self.report.entries_rewritten += found.entry_count;
        if self.is_damaged(number) {
            self.report.files.push(RepairedFile {
                name: file.clone(),
                entries_kept: found.entry_count,
                is_complete: found.gaps.is_empty(),
            });
        }
        self.report.lost_ranges.extend(found.gaps.into_iter().map(|gap| LostRange {
            keyspace: tree.name.clone(),
            from: gap.from,
            to: gap.to,
            file: file.clone(),
        }));
        if found.entry_count > 0 {
            let own = found.properties.map(|properties| properties.meta);
            tree.damaged.push(Damaged { number, known, place, own });
        }
        Ok(())
    }

    fn note_log<'n>(&mut self, log: &LogContent, names: impl Iterator<Item = &'n str>) {
        self.report.entries_rewritten += log.entry_count;
        self.report.lost_writes.clone_from(&log.lost);
        let Err(error) = &self.survey.log else { return };
        let name = error.path().and_then(|path| path.file_name()?.to_str()).unwrap_or("the log");
        self.report.files.push(RepairedFile {
            name: name.to_owned(),
            entries_kept: log.entry_count,
            is_complete: log.lost.is_empty(),
        });
        if !log.lost.is_empty() {
            // Which keys the lost writes were about is not known.
            self.report.lost_ranges.extend(names.map(|keyspace| LostRange {
                keyspace: keyspace.to_owned(),
                from: None,
                to: None,
                file: name.to_owned(),
            }));
        }
    }

    fn without_manifest(&mut self) -> Result<Plan> {
        let pieces = Pieces::of(self.survey.salvaged_edits(self.fs, self.dir)?);
        let mut trees = told_trees(&pieces);
        for number in self.survey.table_numbers() {
            let told = pieces.tables.get(&number);
            let is_gone = pieces.removed.contains(&number);
            if is_gone {
                continue;
            }
            let own = self.described(number)?;
            let id = told.map(|told| told.keyspace).or(own.as_ref().and_then(|(_, id)| *id));
            let id = id.unwrap_or(UNKNOWN_KEYSPACE);
            if pieces.dropped.contains(&id) {
                continue;
            }
            let tree = add_tree(&mut trees, id);
            match own {
                // Of some only the last part is wanted: the rest must not come back.
                Some((mut meta, _))
                    if !self.is_damaged(number)
                        && !told.is_some_and(|told| told.meta.is_partial()) =>
                {
                    if let Some(told) = told {
                        let stamp = told.meta.stamp_on(&meta);
                        meta.sequence_min = meta.sequence_min.max(stamp);
                        meta.sequence_max = meta.sequence_max.max(stamp);
                    }
                    self.report.entries_kept += meta.entry_count;
                    tree.kept.push((0, RunId(0), meta));
                }
                _ => {
                    let known = told.map(|told| told.meta.clone());
                    self.measure(tree, number, known, (0, RunId(0)))?;
                }
            }
        }
        self.lose_missing(&pieces, &trees);
        let report = &*self.report;
        let lost: BTreeSet<String> =
            report.lost_ranges.iter().map(|range| range.keyspace.clone()).collect();
        let log = read_log(self.fs, self.dir, self.survey, self.now_ms, &mut |id| {
            let is_dropped = pieces.dropped.contains(&id);
            let tree = trees.get(&id);
            let options = tree.map_or_else(KeyspaceOptions::default, |tree| tree.options.clone());
            // What whole tables hold is not taken from the log: versions that merges made older than all (number 0)
            // may have been newer, if they were never logged.
            let is_whole = tree.is_some_and(|tree| !lost.contains(&tree.name));
            let flushed = pieces.flushed.get(&id).copied().filter(|_| is_whole).unwrap_or_default();
            let memtable_bytes = options.memtable_bytes;
            (!is_dropped).then_some(Wanted { flushed, lost: Vec::new(), memtable_bytes })
        })?;
        for &id in log.memtables.keys() {
            add_tree(&mut trees, id);
        }
        self.note_log(&log, trees.values().map(|tree| tree.name.as_str()));
        self.note_no_manifest(&pieces, &trees);
        let unknown = trees.remove(&UNKNOWN_KEYSPACE);
        let last = trees.keys().next_back().map_or(0, |id| id.0);
        let mut next_keyspace_id =
            KeyspaceId(last.saturating_add(1)).max(pieces.counters.next_keyspace_id);
        if let Some(unknown) = unknown {
            trees.insert(next_keyspace_id, unknown);
            next_keyspace_id.0 += 1;
        }
        let base = pieces.counters;
        Ok(Plan { trees, base, has_shape: false, log, next_keyspace_id })
    }

    /// What the table says of itself, if that is readable.
    fn described(&self, number: FileNumber) -> Result<Option<(TableMeta, Option<KeyspaceId>)>> {
        if let Some(described) = self.survey.described.get(&number) {
            return Ok(Some(described.clone()));
        }
        match crate::table::salvage::describe(self.fs, self.dir, number) {
            Ok((meta, keyspace)) => Ok(Some((meta, keyspace))),
            Err(error) if error.kind() == ErrorKind::Io => Err(error),
            Err(_) => self.described_by_parts(number),
        }
    }

    /// The same for a table whose footer is damaged, but not its properties.
    fn described_by_parts(
        &self,
        number: FileNumber,
    ) -> Result<Option<(TableMeta, Option<KeyspaceId>)>> {
        match salvage(self.fs, self.dir, number, None, &mut |_, _, _| Ok(())) {
            Ok(found) => Ok(found.properties.map(|own| (own.meta, own.keyspace))),
            Err(error) if error.kind() == ErrorKind::Corruption => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tables that a piece of the manifest names, no piece removes, and that are not there.
    fn lose_missing(&mut self, pieces: &Pieces, trees: &BTreeMap<KeyspaceId, TreePlan>) {
        for (number, told) in &pieces.tables {
            let Some(tree) = trees.get(&told.keyspace) else { continue };
            if pieces.removed.contains(number) || self.is_there(*number) {
                continue;
            }
            let name = FileKind::Table(*number).file_name();
            self.report.lost_ranges.push(LostRange {
                keyspace: tree.name.clone(),
                from: Some(told.meta.smallest.to_vec()),
                to: Some(told.meta.largest.to_vec()),
                file: name.clone(),
            });
            self.report.files.push(RepairedFile { name, entries_kept: 0, is_complete: false });
        }
    }

    fn note_no_manifest(&mut self, pieces: &Pieces, trees: &BTreeMap<KeyspaceId, TreePlan>) {
        let notes = &mut self.report.notes;
        notes.push(
            "there is no readable manifest: every table counted, so what was deleted or overwritten shortly before the \
             damage may be back, where a table, or its first part, was not needed any more and still there; and what a \
             bulk ingest or writes without a log replaced, if the log still had it"
                .to_owned(),
        );
        let unlinked = &self.survey.log_start.unlinked;
        if !unlinked.is_empty() {
            let names: Vec<_> =
                unlinked.iter().map(|n| FileKind::WalSegment(*n).file_name()).collect();
            notes.push(format!(
                "no later log segment continues {}: taken for segments that were not needed any more, and not read",
                names.join(", ")
            ));
        }
        for (id, tree) in trees {
            if !pieces.keyspaces.contains_key(id) {
                notes.push(format!(
                    "the options of keyspace {} are lost, and its name if it had another; it has the defaults",
                    tree.name
                ));
            }
        }
    }
}

/// The trees of the keyspaces that pieces of manifests name. Two may have had one name: the younger is the likelier one
/// to have it still.
fn told_trees(pieces: &Pieces) -> BTreeMap<KeyspaceId, TreePlan> {
    let default = (KeyspaceId::default(), TreePlan::new(DEFAULT_KEYSPACE.to_owned(), Vec::new()));
    let mut trees = BTreeMap::from([default]);
    for (&id, (name, pairs)) in pieces.keyspaces.iter().rev() {
        let name = match id {
            KeyspaceId(0) => DEFAULT_KEYSPACE.to_owned(),
            _ => free_name(name, id, |name| trees.values().any(|tree| tree.name == name)),
        };
        trees.insert(id, TreePlan::new(name, pairs.clone()));
    }
    trees
}

/// The tree of keyspace `id`; if nothing names it, one that is named after its id.
fn add_tree(trees: &mut BTreeMap<KeyspaceId, TreePlan>, id: KeyspaceId) -> &mut TreePlan {
    let taken: BTreeSet<String> = match trees.get(&id) {
        Some(_) => BTreeSet::new(),
        None => trees.values().map(|tree| tree.name.clone()).collect(),
    };
    trees.entry(id).or_insert_with(|| {
        let name = free_name(&nameless(id), id, |name| taken.contains(name));
        TreePlan::new(name, Vec::new())
    })
}
