//! What the readable pieces of manifests say when they make no state any more, and names for what they do not name.
//!
//! Each piece is an edit whose checksum holds, so it was true of some moment. They are taken one by one, oldest first;
//! the last word counts. Counters only grow: the largest that any piece says, or that follows from one, counts.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::manifest::state::ManifestState;
use crate::version::edit::{KEYSPACE_NAME_LEN_MAX, OptionPairs, TableAdded, VersionEdit};

/// The keyspace that every database has.
pub(super) const DEFAULT_KEYSPACE: &str = "default";
/// Stands for the keyspace of tables that do not say whose they are.
pub(super) const UNKNOWN_KEYSPACE: KeyspaceId = KeyspaceId(u32::MAX);

/// The name of keyspace `id` if nothing tells it.
pub(super) fn nameless(id: KeyspaceId) -> String {
    if id == UNKNOWN_KEYSPACE {
        return "recovered-unknown".to_owned();
    }
    format!("recovered-{}", id.0)
}

/// `name`, or if that is taken another one made of it and `id`.
pub(super) fn free_name(name: &str, id: KeyspaceId, is_taken: impl Fn(&str) -> bool) -> String {
    if !is_taken(name) {
        return name.to_owned();
    }
    let first = if id == UNKNOWN_KEYSPACE { 2 } else { id.0 };
    for number in first.. {
        let longer = format!("{name}-{number}");
        let free = if longer.len() <= KEYSPACE_NAME_LEN_MAX {
            longer
        } else {
            format!("recovered-{number}")
        };
        if !is_taken(&free) {
            return free;
        }
    }
    unreachable!("there are fewer keyspaces than numbers")
}

/// What pieces of manifests say.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub(super) keyspaces: BTreeMap<KeyspaceId, (String, OptionPairs)>,
    pub(super) dropped: BTreeSet<KeyspaceId>,
    pub(super) tables: BTreeMap<FileNumber, TableAdded>,
    /// Tables of which the last word is that they left the tree.
    pub(super) removed: BTreeSet<FileNumber>,
    /// Up to here tables have everything, or had.
    pub(super) flushed: BTreeMap<KeyspaceId, SequenceNumber>,
    /// A state that has the counters, and nothing else.
    pub(super) counters: ManifestState,
}

impl Pieces {
    /// What `edits` say, oldest first.
    pub(super) fn of(edits: Vec<VersionEdit>) -> Self {
        let mut pieces = Pieces::default();
        for edit in edits {
            pieces.count(&edit);
            pieces.take(edit);
        }
        pieces
    }

    fn take(&mut self, edit: VersionEdit) {
        for created in edit.keyspaces_created {
            self.keyspaces.insert(created.id, (created.name, created.options));
        }
        for (id, pairs) in edit.keyspaces_changed {
            if let Some(keyspace) = self.keyspaces.get_mut(&id) {
                keyspace.1 = pairs;
            }
        }
        for (_, number) in edit.tables_removed {
            self.removed.insert(number);
        }
        for added in edit.tables_added {
            self.removed.remove(&added.meta.number);
            self.tables.insert(added.meta.number, added);
        }
        for (id, sequence) in edit.flushed_sequences {
            let flushed = self.flushed.entry(id).or_default();
            *flushed = sequence.max(*flushed);
        }
        for id in edit.keyspaces_dropped {
            self.keyspaces.remove(&id);
            self.dropped.insert(id);
        }
    }

    fn count(&mut self, edit: &VersionEdit) {
        let counters = &mut self.counters;
        let metas = || edit.tables_added.iter().map(|added| &added.meta);
        let sequences = metas().map(|meta| meta.sequence_max);
        let flushed = edit.flushed_sequences.iter().map(|(_, sequence)| *sequence);
        raise(&mut counters.last_sequence, sequences.chain(flushed).chain(edit.last_sequence));
        let files = metas().map(|meta| FileNumber(meta.number.0.saturating_add(1)));
        raise(&mut counters.next_file_number, files.chain(edit.next_file_number));
        let created = edit.keyspaces_created.iter();
        let ids = created.map(|created| KeyspaceId(created.id.0.saturating_add(1)));
        raise(&mut counters.next_keyspace_id, ids.chain(edit.next_keyspace_id));
        raise(&mut counters.wal_first_segment, edit.wal_first_segment);
        raise(&mut counters.wal_synced, edit.wal_synced);
    }
}

fn raise<T: Ord + Copy>(counter: &mut T, values: impl IntoIterator<Item = T>) {
    *counter = values.into_iter().fold(*counter, T::max);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_free_and_not_too_long() {
        let taken = |names: &'static [&str]| move |name: &str| names.contains(&name);
        assert_eq!(free_name("logs", KeyspaceId(3), taken(&[])), "logs");
        assert_eq!(free_name("logs", KeyspaceId(3), taken(&["logs"])), "logs-3");
        assert_eq!(free_name("logs", KeyspaceId(3), taken(&["logs", "logs-3"])), "logs-4");
        let unknown = nameless(UNKNOWN_KEYSPACE);
        assert_eq!(
            free_name(&unknown, UNKNOWN_KEYSPACE, taken(&["recovered-unknown"])),
            "recovered-unknown-2"
        );
        let long = "n".repeat(KEYSPACE_NAME_LEN_MAX);
        assert_eq!(free_name(&long, KeyspaceId(5), |name| name == long), "recovered-5");
    }

    #[test]
    fn counters_are_the_largest_that_any_piece_says() {
        let newer = VersionEdit {
            last_sequence: Some(SequenceNumber(70)),
            next_file_number: Some(FileNumber(30)),
            wal_first_segment: Some(FileNumber(6)),
            ..VersionEdit::default()
        };
        let older = VersionEdit {
            last_sequence: Some(SequenceNumber(60)),
            flushed_sequences: vec![(KeyspaceId(0), SequenceNumber(80))],
            next_file_number: Some(FileNumber(20)),
            ..VersionEdit::default()
        };
        let Pieces { counters, .. } = Pieces::of(vec![newer, older]);
        assert_eq!(counters.last_sequence, SequenceNumber(80));
        assert_eq!(counters.next_file_number, FileNumber(30));
        assert_eq!(counters.wal_first_segment, FileNumber(6));
    }
}
