//! Tests of the manifest over real files, with a wrapper that records and fails operations.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::recovery::{Current, Recovered, decode_current, fold, recover};
use super::*;
use crate::error::ErrorKind;
use crate::fs::{DirEntry, FileLock, LockKind, LogFile, ReadFile, StdFs};
use crate::key::{KeyspaceId, SequenceNumber};
use crate::version::RunId;
use crate::version::edit::{KeyspaceCreated, TableAdded};
use crate::version::text::meta;
use crate::wal::WalPosition;
use parking_lot::Mutex;
use proptest::prelude::*;

const NUMBER: FileNumber = FileNumber(5);

fn created(id: u32, name: &str) -> VersionEdit {
    let options = vec![("table_bytes".to_owned(), "65536".to_owned())];
    let created = KeyspaceCreated { id: KeyspaceId(id), name: name.to_owned(), options };
    VersionEdit { keyspaces_created: vec![created], ..VersionEdit::default() }
}

/// An edit of keyspace 0: `added` is `level run table`, by commas.
fn tables(removed: &[u64], added: &str) -> VersionEdit {
    let keyspace = KeyspaceId(0);
    let added = added.split_terminator(',').map(|part| {
        let words: Vec<&str> = part.split_whitespace().collect();
        let (level, run) = (words[0].parse().unwrap(), RunId(words[1].parse().unwrap()));
        TableAdded { keyspace, level, run, meta: meta(words[2]) }
    });
    VersionEdit {
        tables_removed: removed.iter().map(|number| (keyspace, FileNumber(*number))).collect(),
        tables_added: added.collect(),
        ..VersionEdit::default()
    }
}

/// Five edits that touch everything.
fn history() -> Vec<VersionEdit> {
    let mut first = created(0, "default");
    first.next_file_number = Some(FileNumber(6));
    let mut flush = tables(&[], "0 7 7[a..m]#1-9:4096,0 8 8[c..z]#10-20");
    flush.flushed_sequences = vec![(KeyspaceId(0), SequenceNumber(20))];
    flush.wal_first_segment = Some(FileNumber(3));
    flush.wal_synced = Some(WalPosition { segment: FileNumber(4), offset: 512 });
    let mut compaction = tables(&[7, 8], "6 7 9[a..z]#0-20~0");
    compaction.last_sequence = Some(SequenceNumber(25));
    let mut second = created(1, "logs");
    second.keyspaces_changed = vec![(KeyspaceId(0), vec![("a".to_owned(), "b".to_owned())])];
    let mut last = tables(&[9], "5 1 9[a..z]#0-20~0");
    last.keyspaces_dropped = vec![KeyspaceId(1)];
    vec![first, flush, compaction, second, last]
}

/// The state after each of `edits`; the first is the default.
fn states(edits: &[VersionEdit]) -> Vec<ManifestState> {
    let mut states = vec![ManifestState::default()];
    for edit in edits {
        let mut state = states[states.len() - 1].clone();
        state.apply(edit).unwrap();
        states.push(state);
    }
    states
}

/// The bytes of a manifest with `edits`, and where each record ends.
fn manifest_bytes(edits: &[VersionEdit]) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = encode_header(NUMBER);
    let mut ends = Vec::new();
    for edit in edits {
        let offset = bytes.len() as u64;
        bytes.extend(encode_record(NUMBER, offset, &edit.encode(), Path::new("m")).unwrap());
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn folded(bytes: &[u8]) -> Result<Recovered> {
    fold(bytes, NUMBER, Path::new("m"))
}

fn assert_same(found: &ManifestState, expected: &ManifestState) {
    assert_eq!(found.to_edit(), expected.to_edit());
}

#[test]
fn fold_of_edits() {
    let states = states(&history());
    let state = &states[5];
    assert_eq!(state.keyspaces.len(), 1);
    let keyspace = &state.keyspaces[&KeyspaceId(0)];
    assert_eq!(keyspace.name, "default");
    assert_eq!(keyspace.options, [("a".to_owned(), "b".to_owned())]);
    assert_eq!(keyspace.flushed_sequence, SequenceNumber(20));
    assert_eq!(keyspace.version.to_string(), "L5 run 1: 000009[a..z]#0-20\n");
    assert_eq!(state.next_file_number, FileNumber(10));
    assert_eq!(state.next_keyspace_id, KeyspaceId(2), "the id of a dropped keyspace is not free");
    assert_eq!(state.last_sequence, SequenceNumber(25));
    assert_eq!(state.wal_first_segment, FileNumber(3));
    assert_eq!(state.wal_synced, WalPosition { segment: FileNumber(4), offset: 512 });
    // The snapshot makes the same state of nothing.
    for state in &states {
        let mut again = ManifestState::default();
        again.apply(&state.to_edit()).unwrap();
        assert_same(&again, state);
    }
    // Tables that nobody said a number or sequence for still raise the counters.
    assert_eq!(states[2].next_file_number, FileNumber(9));
    assert_eq!(states[2].last_sequence, SequenceNumber(20));
}

#[test]
fn a_moved_table_stays_the_same_object() {
    let states = states(&history());
    let table = |state: &ManifestState| {
        let tree = &state.keyspaces[&KeyspaceId(0)].version;
        Arc::clone(tree.find_table(FileNumber(9)).unwrap().2)
    };
    assert!(Arc::ptr_eq(&table(&states[4]), &table(&states[5])));
}

#[test]
fn a_promise_does_not_weaken() {
    let mut state = states(&history()).pop().unwrap();
    let position = |offset| Some(WalPosition { segment: FileNumber(4), offset });
    for (said, kept) in [(511, 512), (513, 513), (0, 513)] {
        state.apply(&VersionEdit { wal_synced: position(said), ..Default::default() }).unwrap();
        assert_eq!(Some(state.wal_synced), position(kept));
    }
}

#[test]
fn edits_that_do_not_fit_change_nothing() {
    let state = states(&history()).pop().unwrap();
    let flushed = |id, sequence| VersionEdit {
        flushed_sequences: vec![(KeyspaceId(id), SequenceNumber(sequence))],
        ..Default::default()
    };
    let plain = VersionEdit::default;
    let cases = [
        (created(1, "x"), "keyspace id 1 is given out a second time"),
        (created(2, "default"), "a second keyspace is called default"),
        (created(u32::MAX, "x"), "no keyspace id is left"),
        (flushed(1, 30), "there is no keyspace 1"),
        (flushed(0, 19), "the flushed sequence goes back from 20 to 19"),
        (
            VersionEdit { keyspaces_dropped: vec![KeyspaceId(7)], ..plain() },
            "there is no keyspace 7",
        ),
        (
            VersionEdit { next_file_number: Some(FileNumber(9)), ..plain() },
            "the next file number goes back from 000010 to 000009",
        ),
        (
            VersionEdit { next_keyspace_id: Some(KeyspaceId(1)), ..plain() },
            "the next keyspace id goes back from 2 to 1",
        ),
        (
            VersionEdit { last_sequence: Some(SequenceNumber(24)), ..plain() },
            "the last sequence goes back from 25 to 24",
        ),
        (
            VersionEdit { wal_first_segment: Some(FileNumber(2)), ..plain() },
            "the first WAL segment goes back from 000003 to 000002",
        ),
        (tables(&[8], ""), "table 000008 is not in the tree"),
        (tables(&[], "0 1 9[a..b]"), "table 000009 is in the tree already"),
        (tables(&[9], "0 1 9[a..b]"), "table 000009 changes as it moves"),
        (tables(&[], "5 1 10[m..n]"), "they overlap"),
    ];
    for (mut edit, what) in cases {
        // Something good beside the misfit must not come through.
        edit.wal_synced = Some(WalPosition { segment: FileNumber(99), offset: 0 });
        let mut after = state.clone();
        let error = after.apply(&edit).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption);
        assert!(error.what().ends_with(what), "{error}");
        assert_same(&after, &state);
    }
}

#[test]
fn create_append_recover() {
    let dir = tempfile::tempdir().unwrap();
    assert!(recover(&StdFs, dir.path()).unwrap().is_none());
    let edits = history();
    let states = states(&edits);
    let mut manifest = Manifest::create(&StdFs, dir.path(), NUMBER, &states[1]).unwrap();
    for (edit, state) in edits[1..].iter().zip(&states[2..]) {
        manifest.append(edit).unwrap();
        manifest.append(&VersionEdit::default()).unwrap();
        let recovered = recover(&StdFs, dir.path()).unwrap().unwrap();
        assert_same(&recovered.state, state);
        assert_eq!((recovered.manifest_number, recovered.torn_tail_bytes), (NUMBER, 0));
    }
    let path = FileKind::Manifest(NUMBER).path(dir.path());
    assert_eq!(StdFs.open(&path).unwrap().unwrap().bytes(), manifest.bytes());
    assert_eq!(manifest.number(), NUMBER);
    // The next one takes over, with the whole state in its first record.
    Manifest::create(&StdFs, dir.path(), FileNumber(12), &states[5]).unwrap();
    let recovered = recover(&StdFs, dir.path()).unwrap().unwrap();
    assert_eq!(recovered.manifest_number, FileNumber(12));
    assert_eq!(recovered.state.next_file_number, FileNumber(13), "its own number is taken");
    let expected = VersionEdit { next_file_number: Some(FileNumber(13)), ..states[5].to_edit() };
    assert_eq!(recovered.state.to_edit(), expected);
}

#[test]
fn torn_at_every_length() {
    let edits = history();
    let (states, (bytes, ends)) = (states(&edits), manifest_bytes(&edits));
    let zeros = |cut: usize| [&bytes[..cut], &[0; 64][..]].concat();
    let garbage = |cut: usize| [&bytes[..cut], &b"ESKERMAN\x01\0\0\0garbage"[..]].concat();
    for cut in 0..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= cut).count();
        for (torn, added_len) in [(bytes[..cut].to_vec(), 0), (zeros(cut), 64), (garbage(cut), 19)]
        {
            let result = folded(&torn);
            if whole == 0 {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corruption, "cut at {cut}: {error}");
                continue;
            }
            let recovered = result.unwrap();
            assert_same(&recovered.state, &states[whole]);
            let tail = cut - ends[whole - 1] + added_len;
            assert_eq!(recovered.torn_tail_bytes, tail as u64);
        }
    }
}

#[test]
fn every_flip_is_an_error_except_in_the_last_record() {
    let edits = history();
    let (states, (bytes, ends)) = (states(&edits), manifest_bytes(&edits));
    let last_start = ends[3];
    for offset in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[offset] ^= 1 << bit;
            let result = folded(&flipped);
            if offset < last_start {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corruption, "byte {offset}: {error}");
                assert!(error.path().is_some() && error.offset().is_some());
            } else {
                // What recovery.rs says of a damaged last record.
                assert_same(&result.unwrap().state, &states[4]);
            }
        }
    }
}

#[test]
fn a_removed_repeated_or_swapped_record_is_an_error() {
    let (bytes, ends) = manifest_bytes(&history());
    let record = |index: usize| &bytes[ends[index - 1]..ends[index]];
    let head = &bytes[..ends[0]];
    let removed = [head, record(2), record(3), record(4)].concat();
    let swapped = [head, record(2), record(1), record(3), record(4)].concat();
    let repeated = [&bytes[..ends[4]], record(4)].concat();
    // Moved records are bad by their salt; only at a tail are they taken for a torn one.
    assert_eq!(folded(&removed).unwrap().torn_tail_bytes, (removed.len() - ends[0]) as u64);
    assert_eq!(folded(&repeated).unwrap().torn_tail_bytes, record(4).len() as u64);
    let swapped = folded(&swapped).unwrap_err();
    assert!(swapped.what().contains("with a good one at"), "{swapped}");
    // A manifest under another's name.
    let renamed = fold(&bytes, FileNumber(6), Path::new("m")).unwrap_err();
    assert_eq!(renamed.what(), "by its header this is manifest 000005");
}

#[test]
fn newer_formats_are_unsupported_and_say_so() {
    let (mut bytes, _) = manifest_bytes(&history());
    bytes[8] = 2;
    let crc = checksum(&bytes[..20]);
    bytes[20..24].copy_from_slice(&crc.to_le_bytes());
    let error = folded(&bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.what(), "manifest format version 2; this esker reads 1");

    let mut bytes = encode_header(NUMBER);
    bytes.extend(encode_record(NUMBER, 24, &[0x7f, 0], Path::new("m")).unwrap());
    let error = folded(&bytes).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Unsupported, Some(24)));
}

#[test]
fn a_whole_record_with_a_wrong_edit_is_an_error_at_its_place() {
    for (edit, what) in [
        (tables(&[1], ""), "table 000001 is not in the tree"),
        (tables(&[], "5 1 9[a..b]"), "table 000009 is in the tree already"),
        (created(0, "again"), "keyspace id 0 is given out a second time"),
    ] {
        let mut edits = history();
        edits.push(edit);
        let (bytes, ends) = manifest_bytes(&edits);
        let error = folded(&bytes).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Corruption, Some(ends[4] as u64)));
        assert!(error.what().ends_with(what) && error.advice().is_some(), "{error}");
    }
    for (added, what) in [
        ("5 1 10[m..n]", "they overlap"),
        ("2 1 10[z..zz]#1-2,3 1 11[zz..zzz]#3-4", "and both have zz"),
    ] {
        let mut edits = history();
        edits.push(tables(&[], added));
        let error = folded(&manifest_bytes(&edits).0).unwrap_err();
        assert!(error.what().ends_with(what), "{error}");
    }
}

#[test]
fn the_search_behind_a_bad_record_is_bounded() {
    // Every other offset of these tails looks like the start of a long record of many small fields;
    // in the first the fields fill it and need a checksum, in the second the last one does not fit.
    for tag in [0x80, 0x81] {
        let (mut bytes, _) = manifest_bytes(&history());
        bytes.extend([tag, 0x00].repeat(12 << 20));
        let error = folded(&bytes).unwrap_err();
        assert_eq!(error.what(), "a damaged record that is not the end of a log");
    }
}

#[test]
fn an_empty_record_is_none() {
    let (mut bytes, ends) = manifest_bytes(&history());
    bytes.extend(encode_record(NUMBER, ends[4] as u64, &[], Path::new("m")).unwrap());
    assert_eq!(folded(&bytes).unwrap().torn_tail_bytes, 8);
}

#[test]
fn current_is_checked_to_the_byte() {
    let dir = tempfile::tempdir().unwrap();
    let state = &states(&history())[5];
    Manifest::create(&StdFs, dir.path(), NUMBER, state).unwrap();
    let path = FileKind::Current.path(dir.path());
    let write = |bytes: &[u8]| StdFs.create(&path).unwrap().append(bytes).unwrap();
    let mut bad = vec![Vec::new(), b"MANIFEST-000005\n".to_vec(), vec![b'x'; 1000]];
    for sealed_bytes in [None, Some(1234)] {
        let good = encode_current(NUMBER, sealed_bytes);
        assert_eq!(decode_current(&good), Some(Current { number: NUMBER, sealed_bytes }));
        bad.push([&good[..], b"\n"].concat());
        for offset in 0..good.len() {
            bad.push(good[..offset].to_vec());
            for bit in 0..8 {
                let mut flipped = good.clone();
                flipped[offset] ^= 1 << bit;
                bad.push(flipped);
            }
        }
    }
    for bytes in bad {
        write(&bytes);
        let error = recover(&StdFs, dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{bytes:?}");
        assert_eq!(error.path(), Some(&*path));
    }
    write(&encode_current(FileNumber(6), None));
    let error = recover(&StdFs, dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert_eq!(error.what(), "the manifest that CURRENT names is missing");
    assert!(error.path().unwrap().ends_with("MANIFEST-000006"));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "damage comes from behind the seam")]
fn a_sealed_manifest_has_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let edits = history();
    let mut state = ManifestState::default();
    state.apply(&edits[0]).unwrap();
    let mut manifest = Manifest::create(&StdFs, dir.path(), NUMBER, &state).unwrap();
    for edit in &edits[1..] {
        manifest.append(edit).unwrap();
    }
    manifest.seal(&StdFs, dir.path()).unwrap();
    assert_eq!(recover(&StdFs, dir.path()).unwrap().unwrap().torn_tail_bytes, 0);
    let path = FileKind::Manifest(NUMBER).path(dir.path());
    let write = |bytes: &[u8]| StdFs.create(&path).unwrap().append(bytes).unwrap();
    let file = StdFs.open(&path).unwrap().unwrap();
    let mut good = vec![0; file.bytes() as usize];
    file.read_at(&mut good, 0).unwrap();
    let expect = |bytes: &[u8], what: &str| {
        write(bytes);
        let error = recover(&StdFs, dir.path()).expect_err(what);
        assert_eq!((error.kind(), error.path()), (ErrorKind::Corruption, Some(&*path)), "{what}");
    };
    for offset in 0..good.len() {
        expect(&good[..offset], "cut short");
        let mut flipped = good.clone();
        flipped[offset] ^= 1 << (offset % 8);
        expect(&flipped, "flipped");
    }
    for tail in [&b"\0"[..], b"garbage behind it"] {
        expect(&[&good, tail].concat(), "with a tail");
    }
    write(&good);
    assert!(recover(&StdFs, dir.path()).is_ok());
}

/// The real file system, with a list of what was done; operation `fail_at` and all later ones fail.
#[derive(Debug)]
struct RecordingFs {
    log: Arc<Log>,
}

#[derive(Debug)]
struct Log {
    done: Mutex<Vec<String>>,
    fail_at: AtomicUsize,
}

impl Log {
    fn step(&self, what: &str, path: &Path) -> Result<()> {
        let mut done = self.done.lock();
        if done.len() >= self.fail_at.load(Ordering::Relaxed) {
            return Err(Error::io(what, path, std::io::Error::from_raw_os_error(libc::EIO)));
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        // The directory of the test has a random name.
        done.push(if what == "sync dir" { what.to_owned() } else { format!("{what} {name}") });
        Ok(())
    }
}

impl RecordingFs {
    fn failing_at(fail_at: usize) -> Self {
        let (done, fail_at) = (Mutex::default(), AtomicUsize::new(fail_at));
        RecordingFs { log: Arc::new(Log { done, fail_at }) }
    }
}

impl FileSystem for RecordingFs {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        StdFs.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> Result<Option<Vec<DirEntry>>> {
        StdFs.list(dir)
    }
    fn create(&self, path: &Path) -> Result<Box<dyn AppendFile>> {
        self.log.step("create", path)?;
        let (file, log) = (StdFs.create(path)?, Arc::clone(&self.log));
        Ok(Box::new(RecordingFile { file, path: path.to_owned(), log }))
    }
    fn open(&self, path: &Path) -> Result<Option<Arc<dyn ReadFile>>> {
        StdFs.open(path)
    }
    fn create_log(&self, path: &Path, bytes: u64, mapped: bool) -> Result<Box<dyn LogFile>> {
        StdFs.create_log(path, bytes, mapped)
    }
    fn recycle_log(
        &self,
        from: &Path,
        to: &Path,
        bytes: u64,
        mapped: bool,
    ) -> Result<Box<dyn LogFile>> {
        StdFs.recycle_log(from, to, bytes, mapped)
    }
    fn sync_file(&self, path: &Path, range: Range<u64>) -> Result<()> {
        StdFs.sync_file(path, range)
    }
    fn truncate(&self, path: &Path, bytes: u64) -> Result<()> {
        StdFs.truncate(path, bytes)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.log.step("rename to", to)?;
        StdFs.rename(from, to)
    }
    fn hard_link(&self, from: &Path, to: &Path) -> Result<bool> {
        StdFs.hard_link(from, to)
    }
    fn remove(&self, path: &Path) -> Result<()> {
        StdFs.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.log.step("sync dir", dir)?;
        StdFs.sync_dir(dir)
    }
    fn lock(&self, path: &Path, kind: LockKind) -> Result<Option<Box<dyn FileLock>>> {
        StdFs.lock(path, kind)
    }
}

#[derive(Debug)]
struct RecordingFile {
    file: Box<dyn AppendFile>,
    path: PathBuf,
    log: Arc<Log>,
}

impl AppendFile for RecordingFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.log.step("append", &self.path)?;
        self.file.append(bytes)
    }
    fn start_writeback(&mut self) -> Result<()> {
        self.file.start_writeback()
    }
    fn sync_data(&mut self) -> Result<()> {
        self.log.step("sync", &self.path)?;
        self.file.sync_data()
    }
}

#[test]
fn create_syncs_in_this_order_and_no_failure_loses_the_state() {
    let states = states(&history());
    let mut fail_at = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        Manifest::create(&StdFs, dir.path(), NUMBER, &states[5]).unwrap();
        let fs = RecordingFs::failing_at(fail_at);
        let created = Manifest::create(&fs, dir.path(), FileNumber(12), &states[5]);
        let recovered = recover(&StdFs, dir.path()).unwrap().unwrap();
        let expected = VersionEdit {
            next_file_number: Some(recovered.state.next_file_number),
            ..states[5].to_edit()
        };
        assert_eq!(recovered.state.to_edit(), expected);
        // The operation that switches is the rename, the eighth.
        let live = if fail_at < 8 { NUMBER } else { FileNumber(12) };
        assert_eq!(recovered.manifest_number, live);
        if created.is_ok() {
            let done = fs.log.done.lock().join(", ");
            assert_eq!(
                done,
                "create MANIFEST-000012, append MANIFEST-000012, sync MANIFEST-000012, sync dir, \
                 create CURRENT.tmp, append CURRENT.tmp, sync CURRENT.tmp, rename to CURRENT, \
                 sync dir"
            );
            break;
        }
        fail_at += 1;
    }
    assert_eq!(fail_at, 9);
}

#[test]
fn after_a_failed_append_nothing_is_appended_any_more() {
    let edits = history();
    let states = states(&edits);
    for (fail_at, last) in [(9, 1), (10, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let fs = RecordingFs::failing_at(fail_at);
        let mut manifest = Manifest::create(&fs, dir.path(), NUMBER, &states[1]).unwrap();
        let first = manifest.append(&edits[1]).unwrap_err();
        // The device is well again; the manifest must not believe it.
        fs.log.fail_at.store(usize::MAX, Ordering::Relaxed);
        let second = manifest.append(&edits[2]).unwrap_err();
        assert_eq!(first.to_string(), second.to_string());
        assert_eq!(fs.log.done.lock().len(), fail_at);
        let recovered = recover(&StdFs, dir.path()).unwrap().unwrap();
        assert_same(&recovered.state, &states[last]);
    }
}

#[test]
fn an_append_is_synced() {
    let (dir, fs) = (tempfile::tempdir().unwrap(), RecordingFs::failing_at(usize::MAX));
    let state = ManifestState::default();
    let mut manifest = Manifest::create(&fs, dir.path(), NUMBER, &state).unwrap();
    manifest.append(&history()[0]).unwrap();
    let done = fs.log.done.lock();
    assert_eq!(done[9..], ["append MANIFEST-000005", "sync MANIFEST-000005"]);
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes
        .chunks(16)
        .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

/// The example in docs/format/manifest.md is what is written. If the bytes change, so must the
/// format version.
#[test]
fn golden_bytes() {
    let document = include_str!("../../docs/format/manifest.md");
    let mut flush = tables(&[], "0 7 7[a..m]:4096#1-9=12~3%4@1000-2000");
    flush.flushed_sequences = vec![(KeyspaceId(0), SequenceNumber(9))];
    flush.wal_first_segment = Some(FileNumber(6));
    let state = &states(&[created(0, "default")])[1];
    let slice = tables(&[7], "0 7 7[f..m]:4096#1-9=7~2%1^5@1000-2000");
    let (bytes, _) = manifest_bytes(&[state.to_edit(), flush, slice]);
    assert!(document.contains(&hex(&bytes)), "{}", hex(&bytes));
    for sealed_bytes in [None, Some(1234)] {
        let current = String::from_utf8(encode_current(NUMBER, sealed_bytes)).unwrap();
        assert!(document.contains(&current), "{current}");
    }
}

proptest! {
    #[test]
    fn folding_is_total(bytes: Vec<u8>) {
        prop_assert!(folded(&bytes).is_err());
        let headed = [&encode_header(NUMBER)[..], &bytes].concat();
        prop_assert!(folded(&headed).is_err());
        // After a good snapshot, what is no record is a tail.
        let (mut snapshot, _) = manifest_bytes(&history()[..1]);
        snapshot.extend(&bytes);
        prop_assert_eq!(folded(&snapshot).unwrap().torn_tail_bytes, bytes.len() as u64);
    }

    #[test]
    fn any_edits_are_folded_or_refused(edits in prop::collection::vec(
        crate::version::edit::tests::edits(), 1..4,
    )) {
        let mut state = ManifestState::default();
        let result = edits.iter().try_for_each(|edit| state.apply(edit));
        let mut edits = edits;
        edits.retain(|edit| !edit.encode().is_empty());
        prop_assume!(!edits.is_empty());
        match (result, folded(&manifest_bytes(&edits).0)) {
            (Ok(()), Ok(recovered)) => assert_same(&recovered.state, &state),
            // Recovery looks at whole trees, apply only at what changes.
            (_, Err(error)) => prop_assert!(error.offset().is_some()),
            (Err(error), Ok(_)) => prop_assert!(false, "recovery took what apply refused: {error}"),
        }
    }

    /// Flushes, compactions, moves, new and dropped keyspaces: folding a manifest gives what
    /// applying its edits one by one gave.
    #[test]
    fn recovery_agrees_with_apply(steps in prop::collection::vec(any::<(u8, u8)>(), 1..60)) {
        let mut state = ManifestState::default();
        let mut edits = vec![created(0, "default")];
        state.apply(&edits[0]).unwrap();
        for (kind, choice) in steps {
            let edit = random_edit(&state, kind, choice);
            state.apply(&edit).unwrap();
            for keyspace in state.keyspaces.values() {
                keyspace.version.check_invariants().unwrap();
            }
            if edit != VersionEdit::default() {
                edits.push(edit);
            }
        }
        let recovered = folded(&manifest_bytes(&edits).0).unwrap();
        assert_same(&recovered.state, &state);
    }
}

/// An edit that fits `state`, told by two random bytes. Level 0 is flushed to; its oldest run moves
/// to level 1.
fn random_edit(state: &ManifestState, kind: u8, choice: u8) -> VersionEdit {
    let next = state.next_file_number.0;
    let tree = &state.keyspaces[&KeyspaceId(0)].version;
    let stored: Vec<_> = tree.tables().map(|(_, _, table)| table).collect();
    let picked = stored.get(usize::from(choice) % stored.len().max(1));
    match (kind % 6, picked) {
        (0, _) => {
            let Some(run) = tree.levels[0].runs.last() else { return VersionEdit::default() };
            let (keyspace, meta) = (KeyspaceId(0), run.tables[0].meta().clone());
            let mut edit = tables(&[meta.number.0], "");
            edit.tables_added.push(TableAdded { keyspace, level: 1, run: run.id, meta });
            edit
        }
        (1, Some(table)) => tables(&[table.meta().number.0], ""),
        (2, _) => created(state.next_keyspace_id.0, &format!("k{}", state.next_keyspace_id.0)),
        (3, _) => {
            let last = *state.keyspaces.keys().next_back().unwrap();
            let keyspaces_dropped = if last.0 > 0 { vec![last] } else { vec![] };
            let last_sequence = Some(SequenceNumber(state.last_sequence.0 + 1));
            VersionEdit { keyspaces_dropped, last_sequence, ..VersionEdit::default() }
        }
        _ => {
            let (first, sequence) = (choice % 20, state.last_sequence.0 + 1);
            let (smallest, largest) = (char::from(b'a' + first / 4), char::from(b'g' + first));
            tables(&[], &format!("0 {next} {next}[{smallest}..{largest}]#{sequence}-{sequence}"))
        }
    }
}
