//! The state of a database as its manifest tells it: the fold of version edits.
//!
//! Everything here is pure: edits in, state or an error out. An edit is applied in full or, if
//! anything of it does not fit, not at all; since edits come from disk, that is an error and no
//! panic.
//!
//! # Invariants
//! * Counters never go back. `next_file_number` is above the number of every table that was ever in
//!   a tree, `last_sequence` is at least every sequence number in a table, whether or not edits say
//!   so: neither may be given out twice.
//! * Ids of keyspaces only grow, and an id is never used again: the log may still hold writes for a
//!   dropped one. Names of living keyspaces differ.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::options::KeyspaceOptions;
use crate::table::Table;
use crate::version::edit::{KeyspaceCreated, OptionPairs, TableAdded, VersionEdit};
use crate::version::totals::LifetimeTotals;
use crate::version::{RunId, Version};
use crate::wal::WalPosition;

/// A keyspace as the manifest tells it.
#[derive(Clone, Debug)]
pub(crate) struct KeyspaceState {
    pub(crate) name: String,
    pub(crate) options: OptionPairs,
    /// Up to here all writes to the keyspace are in its tables.
    pub(crate) flushed_sequence: SequenceNumber,
    pub(crate) version: Version,
}

impl KeyspaceState {
    /// The options as this version understands them. One that it does not know is an error, not ignored.
    pub(crate) fn parsed_options(&self) -> Result<KeyspaceOptions> {
        let mut options = KeyspaceOptions::default();
        for (option, value) in &self.options {
            if !options.set(option, value)? {
                let name = &self.name;
                let what = format!(
                    "keyspace {name} has an option that this version does not know: {option}={value}"
                );
                return Err(Error::new(ErrorKind::Unsupported, what).advise(
                    "open the database with the esker version that wrote it, or a newer one",
                ));
            }
        }
        options.validate()?;
        Ok(options)
    }
}

/// A database as its manifest tells it. The default is a database before its first edit.
#[derive(Clone, Debug, Default)]
pub(crate) struct ManifestState {
    pub(crate) keyspaces: BTreeMap<KeyspaceId, KeyspaceState>,
    /// No table has this number or a higher one.
    pub(crate) next_file_number: FileNumber,
    /// No keyspace ever had this id or a higher one.
    pub(crate) next_keyspace_id: KeyspaceId,
    /// At least the sequence number of every write in a table.
    pub(crate) last_sequence: SequenceNumber,
    /// Earlier segments of the log are not needed.
    pub(crate) wal_first_segment: FileNumber,
    /// The log was durable up to here.
    pub(crate) wal_synced: WalPosition,
    /// What was written to the database since its first edit.
    pub(crate) totals: LifetimeTotals,
}

/// What an edit does to one tree.
#[derive(Default)]
struct TreeChange {
    removed: Vec<FileNumber>,
    added: Vec<(usize, RunId, Arc<Table>)>,
}

impl ManifestState {
    /// Applies `edit`; if that is an error, nothing has changed.
    pub(crate) fn apply(&mut self, edit: &VersionEdit) -> Result<()> {
        self.check(edit)?;
        let mut versions = BTreeMap::new();
        let empty = Version::empty();
        for (id, change) in self.tree_changes(edit)? {
            let version = self.keyspaces.get(&id).map_or(&empty, |keyspace| &keyspace.version);
            versions.insert(id, version.apply(&change.removed, &change.added)?);
        }
        self.commit(edit);
        for (id, version) in versions {
            if let Some(keyspace) = self.keyspaces.get_mut(&id) {
                keyspace.version = version;
            }
        }
        Ok(())
    }

    /// The edit that makes this state of the default one: the first record of a manifest.
    pub(crate) fn to_edit(&self) -> VersionEdit {
        let mut edit = VersionEdit {
            next_file_number: Some(self.next_file_number),
            next_keyspace_id: Some(self.next_keyspace_id),
            last_sequence: Some(self.last_sequence),
            wal_first_segment: Some(self.wal_first_segment),
            wal_synced: Some(self.wal_synced),
            lifetime_totals: Some(self.totals.clone()).filter(|t| *t != LifetimeTotals::default()),
            ..VersionEdit::default()
        };
        for (&id, keyspace) in &self.keyspaces {
            let KeyspaceState { name, options, flushed_sequence, version } = keyspace;
            let (name, options) = (name.clone(), options.clone());
            edit.keyspaces_created.push(KeyspaceCreated { id, name, options });
            edit.flushed_sequences.push((id, *flushed_sequence));
            edit.tables_added.extend(version.tables().map(|(level, run, table)| TableAdded {
                keyspace: id,
                level,
                run: run.id,
                meta: table.meta().clone(),
            }));
        }
        edit
    }

    /// Refuses an edit that does not fit, as far as that shows without looking into trees.
    fn check(&self, edit: &VersionEdit) -> Result<()> {
        self.check_keyspaces(edit)?;
        for (id, sequence) in &edit.flushed_sequences {
            let before =
                self.keyspaces.get(id).map_or(SequenceNumber::ZERO, |k| k.flushed_sequence);
            check_forward("flushed sequence", before, Some(*sequence))?;
        }
        check_forward("next file number", self.next_file_number, edit.next_file_number)?;
        check_forward(
            "next keyspace id",
            self.next_keyspace_id.0,
            edit.next_keyspace_id.map(|id| id.0),
        )?;
        check_forward("last sequence", self.last_sequence, edit.last_sequence)?;
        check_forward("first WAL segment", self.wal_first_segment, edit.wal_first_segment)
    }

    fn check_keyspaces(&self, edit: &VersionEdit) -> Result<()> {
        let mut names: BTreeSet<&str> = BTreeSet::new();
        if !edit.keyspaces_created.is_empty() {
            names.extend(self.keyspaces.values().map(|keyspace| keyspace.name.as_str()));
        }
        let mut created_ids = BTreeSet::new();
        let mut next_id = self.next_keyspace_id;
        for created in &edit.keyspaces_created {
            let KeyspaceId(id) = created.id;
            if created.id < next_id {
                return Err(misfit(format!("keyspace id {id} is given out a second time")));
            }
            next_id =
                KeyspaceId(id.checked_add(1).ok_or_else(|| misfit("no keyspace id is left"))?);
            created_ids.insert(created.id);
            if !names.insert(&created.name) {
                return Err(misfit(format!("a second keyspace is called {}", created.name)));
            }
        }
        let changed = edit.keyspaces_changed.iter().map(|(id, _)| *id);
        let flushed = edit.flushed_sequences.iter().map(|(id, _)| *id);
        let removed = edit.tables_removed.iter().map(|(id, _)| *id);
        let added = edit.tables_added.iter().map(|added| added.keyspace);
        let dropped = edit.keyspaces_dropped.iter().copied();
        for id in changed.chain(flushed).chain(removed).chain(added).chain(dropped) {
            if !self.keyspaces.contains_key(&id) && !created_ids.contains(&id) {
                return Err(misfit(format!("there is no keyspace {}", id.0)));
            }
        }
        Ok(())
    }

    /// Groups the tables of `edit` by tree. A table that moves stays the object it is, with its
    /// open reader; one of which only a part stays shares its file.
    fn tree_changes(&self, edit: &VersionEdit) -> Result<BTreeMap<KeyspaceId, TreeChange>> {
        let mut changes: BTreeMap<KeyspaceId, TreeChange> = BTreeMap::new();
        for (id, number) in &edit.tables_removed {
            changes.entry(*id).or_default().removed.push(*number);
        }
        for added in &edit.tables_added {
            let TableAdded { keyspace, level, run, meta } = added;
            let change = changes.entry(*keyspace).or_default();
            let moved = if change.removed.contains(&meta.number) {
                let tree = self.keyspaces.get(keyspace).map(|keyspace| &keyspace.version);
                tree.and_then(|tree| tree.find_table(meta.number))
            } else {
                None
            };
            let table = match moved {
                Some((_, _, table)) if table.meta() == meta => Arc::clone(table),
                Some((_, _, table)) if meta.is_part_of(table.meta()) => {
                    Arc::new(table.part(meta.clone()))
                }
                Some(_) => {
                    return Err(misfit(format!("table {} changes as it moves", meta.number)));
                }
                None => Arc::new(Table::new(meta.clone())),
            };
            change.added.push((*level, *run, table));
        }
        Ok(changes)
    }

    /// Takes over everything of a checked edit but its tables.
    fn commit(&mut self, edit: &VersionEdit) {
        for created in &edit.keyspaces_created {
            let keyspace = KeyspaceState {
                name: created.name.clone(),
                options: created.options.clone(),
                flushed_sequence: SequenceNumber::ZERO,
                version: Version::empty(),
            };
            self.keyspaces.insert(created.id, keyspace);
            self.next_keyspace_id = KeyspaceId(created.id.0 + 1);
        }
        for (id, options) in &edit.keyspaces_changed {
            if let Some(keyspace) = self.keyspaces.get_mut(id) {
                keyspace.options.clone_from(options);
            }
        }
        for (id, sequence) in &edit.flushed_sequences {
            if let Some(keyspace) = self.keyspaces.get_mut(id) {
                raise(&mut keyspace.flushed_sequence, Some(*sequence));
            }
            raise(&mut self.last_sequence, Some(*sequence));
        }
        for TableAdded { meta, .. } in &edit.tables_added {
            let FileNumber(number) = meta.number;
            raise(&mut self.next_file_number, Some(FileNumber(number.saturating_add(1))));
            raise(&mut self.last_sequence, Some(meta.sequence_max));
        }
        for id in &edit.keyspaces_dropped {
            self.keyspaces.remove(id);
        }
        raise(&mut self.next_file_number, edit.next_file_number);
        raise(&mut self.next_keyspace_id, edit.next_keyspace_id);
        raise(&mut self.last_sequence, edit.last_sequence);
        raise(&mut self.wal_first_segment, edit.wal_first_segment);
        // A promise does not weaken: an older position says nothing new.
        raise(&mut self.wal_synced, edit.wal_synced);
        if let Some(totals) = &edit.lifetime_totals {
            self.totals.add(totals);
        }
    }
}

fn raise<T: Ord>(value: &mut T, to: Option<T>) {
    if let Some(to) = to
        && to > *value
    {
        *value = to;
    }
}

fn check_forward<T: Copy + Ord + Display>(what: &str, before: T, after: Option<T>) -> Result<()> {
    match after {
        Some(after) if after < before => {
            Err(misfit(format!("the {what} goes back from {before} to {after}")))
        }
        _ => Ok(()),
    }
}

fn misfit(what: impl Display) -> Error {
    Error::new(ErrorKind::Corruption, format!("the edit does not fit the state: {what}"))
}

/// Folds the edits of a whole manifest.
///
/// The same as applying them one by one to the default state, but a tree is built once, at the end,
/// and not after each edit: a run of ten thousand tables would be copied for each table that joins
/// it. So tables that overlapped for a while go unnoticed, and those that overlap at the end do
/// not.
#[derive(Default)]
pub(super) struct Replay {
    state: ManifestState,
    tables: BTreeMap<KeyspaceId, HashMap<FileNumber, TableAdded>>,
}

impl Replay {
    /// Takes in the next edit. After an error the fold is of no use any more.
    pub(super) fn apply(&mut self, edit: VersionEdit) -> Result<()> {
        self.state.check(&edit)?;
        self.state.commit(&edit);
        for (id, number) in edit.tables_removed {
            let removed = self.tables.get_mut(&id).and_then(|tables| tables.remove(&number));
            if removed.is_none() {
                return Err(misfit(format!("table {number} is not in the tree")));
            }
        }
        for added in edit.tables_added {
            let tables = self.tables.entry(added.keyspace).or_default();
            let number = added.meta.number;
            if tables.insert(number, added).is_some() {
                return Err(misfit(format!("table {number} is in the tree already")));
            }
        }
        for id in edit.keyspaces_dropped {
            if let Entry::Occupied(tables) = self.tables.entry(id) {
                tables.remove();
            }
        }
        Ok(())
    }

    /// The state after the last edit.
    pub(super) fn finish(self) -> Result<ManifestState> {
        let mut state = self.state;
        for (id, tables) in self.tables {
            let Some(keyspace) = state.keyspaces.get_mut(&id) else { continue };
            let added = tables
                .into_values()
                .map(|added| (added.level, added.run, Arc::new(Table::new(added.meta))));
            keyspace.version = Version::empty().apply(&[], &added.collect::<Vec<_>>())?;
            keyspace.version.check_invariants().map_err(|what| {
                misfit(format!("the tree of keyspace {} is broken: {what}", keyspace.name))
            })?;
        }
        Ok(state)
    }
}
