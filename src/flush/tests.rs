//! Flushes on a simulated file system: what stays, and what an error leaves.

use super::*;
use crate::error::ErrorKind;
use crate::fs::SimFs;
use crate::fs::sim_fs::Repeat;
use crate::key::{Trailer, ValueKind, key_hash};

fn memtable(entries: &[(&str, u64, ValueKind)]) -> Arc<MemTable> {
    let memtable = MemTable::new(1 << 16, None);
    for (key, sequence, kind) in entries {
        let trailer = Trailer::new(SequenceNumber(*sequence), *kind);
        memtable.insert(key.as_bytes(), trailer, b"value", key_hash(key.as_bytes()));
    }
    memtable
}

fn flushed(
    fs: &SimFs,
    memtables: &[Arc<MemTable>],
    snapshots: &[u64],
) -> Result<Option<TableMeta>> {
    let snapshots: Vec<_> = snapshots.iter().map(|number| SequenceNumber(*number)).collect();
    let options = KeyspaceOptions::default();
    let ctx = FlushContext {
        fs,
        dir: Path::new("/db"),
        keyspace: KeyspaceId::default(),
        options: &options,
        snapshots: &snapshots,
        number: FileNumber(7),
        now_ms: 99,
    };
    flush(memtables, &ctx)
}

fn new_fs() -> SimFs {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new("/db")).unwrap();
    fs
}

#[test]
fn shadowed_versions_go_and_tombstones_stay() {
    use ValueKind::{Delete, Put};
    let newer = memtable(&[("a", 5, Put), ("a", 4, Put), ("b", 6, Delete)]);
    let older = memtable(&[("a", 1, Put), ("b", 2, Put), ("c", 3, Put)]);
    newer.note_write_time(50);
    let meta = flushed(&new_fs(), &[newer.clone(), older.clone()], &[9]).unwrap().unwrap();
    assert_eq!((meta.entry_count, meta.tombstone_count), (3, 1));
    assert_eq!((meta.sequence_min, meta.sequence_max), (SequenceNumber(3), SequenceNumber(6)));
    assert_eq!((meta.write_time_min_ms, meta.write_time_max_ms), (50, 99));
    // The snapshot at 4 needs "a" as of 4 and "b" as of 2.
    let meta = flushed(&new_fs(), &[newer, older], &[4, 9]).unwrap().unwrap();
    assert_eq!(meta.entry_count, 5);
}

#[test]
fn nothing_makes_no_table() {
    let fs = new_fs();
    assert_eq!(flushed(&fs, &[memtable(&[])], &[9]).unwrap(), None);
    assert_eq!(flushed(&fs, &[], &[9]).unwrap(), None);
    assert!(fs.list_dir("/db").is_empty());
}

#[test]
fn a_flush_that_fails_anywhere_leaves_nothing_behind() {
    let fs = new_fs();
    let memtable = memtable(&[("a", 1, ValueKind::Put)]);
    let start = fs.op_count();
    flushed(&fs, std::slice::from_ref(&memtable), &[9]).unwrap();
    let count = fs.op_count() - start;
    fs.remove_file("/db/000007.table").unwrap();
    for at in 0..count {
        fs.fail_at(fs.op_count() + at, libc::EIO, Repeat::Once);
        let error = flushed(&fs, std::slice::from_ref(&memtable), &[9]).unwrap_err();
        fs.clear_faults();
        assert_eq!(error.kind(), ErrorKind::Io, "operation {at}");
        assert!(fs.list_dir("/db").is_empty(), "operation {at}");
    }
}
