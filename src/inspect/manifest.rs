//! A manifest: its header, and each edit, one change an item.

use std::path::Path;

use crate::error::Result;
use crate::fs::FileSystem;
use crate::inspect::{Item, Visit, number_at, read_file};
use crate::key::FileNumber;
use crate::manifest::recovery::{check_header, edits};
use crate::table::TableMeta;
use crate::version::edit::{OptionPairs, TableAdded, VersionEdit};

/// Where a manifest's header says its number.
const NUMBER_AT: usize = 12;

/// Shows the manifest at `path`: for each record an item `edit`, then one for each change that it makes.
///
/// # Errors
/// `Corruption` for a damaged header or record, an unfinished last one included, after the items before it;
/// `Unsupported` for a newer format; `Io`.
pub fn manifest(fs: &dyn FileSystem, path: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let bytes = read_file(fs, path)?;
    let number = FileNumber(number_at(&bytes, NUMBER_AT).unwrap_or(0));
    check_header(&bytes, number, path)?;
    visit(
        Item::new(0, "header")
            .number("number", number.0)
            .number("file_bytes", bytes.len() as u64)
            .text("checksum", "good"),
    )?;
    edits(&bytes, number, path, &mut |offset, len, edit| {
        visit(Item::new(offset, "edit").number("bytes", len).text("checksum", "good"))?;
        show(&edit, offset, visit)
    })
}

/// In the order in which an edit is applied.
fn show(edit: &VersionEdit, offset: u64, visit: &mut Visit<'_>) -> Result<()> {
    let item = |what| Item::new(offset, what);
    for created in &edit.keyspaces_created {
        let named = item("keyspace_created").number("id", created.id.0).text("name", &created.name);
        visit(named.text("options", show_options(&created.options)))?;
    }
    for (id, options) in &edit.keyspaces_changed {
        let changed = item("keyspace_changed").number("id", id.0);
        visit(changed.text("options", show_options(options)))?;
    }
    for (id, number) in &edit.tables_removed {
        visit(item("table_removed").number("keyspace", id.0).number("table", number.0))?;
    }
    for added in &edit.tables_added {
        visit(show_added(item("table_added"), added))?;
    }
    for (id, sequence) in &edit.flushed_sequences {
        visit(item("flushed").number("keyspace", id.0).number("sequence", sequence.0))?;
    }
    for id in &edit.keyspaces_dropped {
        visit(item("keyspace_dropped").number("id", id.0))?;
    }
    let counters = [
        ("next_file_number", edit.next_file_number.map(|number| number.0)),
        ("next_keyspace_id", edit.next_keyspace_id.map(|id| u64::from(id.0))),
        ("last_sequence", edit.last_sequence.map(|sequence| sequence.0)),
        ("wal_first_segment", edit.wal_first_segment.map(|number| number.0)),
    ];
    for (what, value) in counters {
        if let Some(value) = value {
            visit(item(what).number("value", value))?;
        }
    }
    if let Some(synced) = edit.wal_synced {
        let segment = item("wal_synced").number("segment", synced.segment.0);
        visit(segment.number("offset", synced.offset))?;
    }
    if let Some(totals) = &edit.lifetime_totals {
        visit(
            item("lifetime_totals")
                .number("through", totals.through.0)
                .number("user_bytes", totals.user_bytes)
                .number("user_operations", totals.user_operations)
                .number("wal_bytes", totals.wal_bytes),
        )?;
    }
    Ok(())
}

fn show_options(pairs: &OptionPairs) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(",")
}

fn show_added(item: Item, added: &TableAdded) -> Item {
    let item = item
        .number("keyspace", added.keyspace.0)
        .number("level", added.level as u64)
        .number("run", added.run.0);
    show_meta(item, &added.meta)
}

/// The fields of a table's metadata, in their order.
pub(super) fn show_meta(item: Item, meta: &TableMeta) -> Item {
    item.number("table", meta.number.0)
        .number("file_bytes", meta.file_bytes)
        .number("entries", meta.entry_count)
        .number("tombstones", meta.tombstone_count)
        .number("shadowed", meta.shadowed_count)
        .number("key_bytes", meta.key_bytes)
        .number("value_bytes", meta.value_bytes)
        .bytes("smallest", &meta.smallest)
        .bytes("largest", &meta.largest)
        .number("sequence_min", meta.sequence_min.0)
        .number("sequence_max", meta.sequence_max.0)
        .number("write_time_min_ms", meta.write_time_min_ms)
        .number("write_time_max_ms", meta.write_time_max_ms)
        .number("expiry_min_ms", meta.expiry_min_ms)
        .number("expiry_max_ms", meta.expiry_max_ms)
        .text("file_checksum", format!("{:08x}", meta.checksum))
        .number("hidden", meta.hidden_entry_count)
}
