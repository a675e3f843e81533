//! The whole database as of one sequence number, for a copy that opens on its own.
//!
//! Taken while writers write: under the tree lock no flush and no compaction is installed, so the trees hold nothing
//! above the visible sequence number, and what they lack is in the memtables. Those are written to as before; whoever
//! copies them leaves out what is newer. Nothing is rotated, flushed or synced in the database itself: it does not
//! notice, but that the tables of the moment are kept until it is dropped.
//!
//! A moment needs no log. Everything that a reader saw at its sequence number is in its tables once the memory is
//! written, writes that were never logged too, and a batch is on one side.

use std::path::Path;
use std::sync::Arc;

use crate::db::state::{Inner, KeyspaceCore};
use crate::error::Result;
use crate::flush::{FlushContext, copy_visible};
use crate::fs::FileSystem;
use crate::key::{FileNumber, SequenceNumber};
use crate::manifest::state::ManifestState;
use crate::memtable::MemTable;
use crate::table::{Table, TableMeta};
use crate::version::RunId;
use crate::version::edit::{TableAdded, VersionEdit};
use crate::wal::WalPosition;

/// See the module text.
#[derive(Debug)]
pub(crate) struct Moment {
    /// What is seen: everything up to it.
    pub(crate) sequence: SequenceNumber,
    /// The state of a database of this moment; without what is in `memory`.
    pub(crate) state: ManifestState,
    memory: Vec<(Arc<KeyspaceCore>, Vec<Arc<MemTable>>)>,
}

impl Moment {
    /// The present moment: every write acked before the call is seen.
    pub(crate) fn take(inner: &Inner) -> Result<Self> {
        inner.check_open()?;
        let tree = inner.tree.lock();
        // After a failed edit the state may be ahead of what readers see, and of what is on disk.
        inner.commit().lock().check()?;
        let mut state = tree.state.clone();
        state.totals.add(&inner.totals_since_open().since(&tree.totals_in_state));
        let sequence = inner.visible();
        let cores = inner.keyspaces.load().in_order();
        let memory = cores.into_iter().map(|core| {
            let view = core.view.load();
            let memories = std::iter::once(&view.active).chain(&view.immutables);
            let tables = memories.map(|memory| Arc::clone(&memory.table)).collect();
            drop(view);
            (core, tables)
        });
        let memory = memory.collect();
        debug_assert!(
            state
                .keyspaces
                .values()
                .flat_map(|keyspace| keyspace.version.tables())
                .all(|(_, _, table)| table.meta().sequence_max <= sequence),
            "a tree holds what readers do not see"
        );
        drop(tree);
        state.totals.through = state.totals.through.min(sequence);
        state.last_sequence = sequence;
        state.wal_first_segment = FileNumber(1);
        state.wal_synced = WalPosition::default();
        Ok(Moment { sequence, state, memory })
    }

    /// The tables of all trees. Their files stay as long as the moment does.
    pub(crate) fn tables(&self) -> Vec<Arc<Table>> {
        let trees = self.state.keyspaces.values().map(|keyspace| &keyspace.version);
        trees
            .flat_map(|tree| {
                tree.tables().map(|(_, _, table)| Arc::clone(table)).collect::<Vec<_>>()
            })
            .collect()
    }

    /// Writes what is in memory as tables into `dir`, and adds them to the state, which is complete then. Returns them.
    pub(crate) fn write_memory(
        &mut self,
        inner: &Inner,
        fs: &dyn FileSystem,
        dir: &Path,
    ) -> Result<Vec<TableMeta>> {
        let mut edit = VersionEdit::default();
        for (core, memtables) in std::mem::take(&mut self.memory) {
            let number = inner.new_file_number();
            let options = core.options.load_full();
            let context = FlushContext {
                fs,
                dir,
                keyspace: core.id,
                options: &options,
                snapshots: &[self.sequence],
                number,
                now_ms: inner.clock.unix_ms(),
            };
            if let Some(meta) = copy_visible(&memtables, self.sequence, &context)? {
                let run = RunId(number.0);
                edit.tables_added.push(TableAdded { keyspace: core.id, level: 0, run, meta });
            }
            edit.flushed_sequences.push((core.id, self.sequence));
        }
        edit.next_file_number = Some(inner.new_file_number());
        self.state.apply(&edit)?;
        Ok(edit.tables_added.into_iter().map(|added| added.meta).collect())
    }
}
