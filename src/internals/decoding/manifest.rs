//! Any bytes as a manifest.

use std::path::Path;

use crate::coding::Decoder;
use crate::error::Result;
use crate::fs::FileSystem;
use crate::fs::sim_fs::SimFs;
use crate::key::FileNumber;
use crate::manifest::recovery::{fold, recover};
use crate::manifest::state::ManifestState;
use crate::manifest::{HEADER_LEN, Manifest};
use crate::version::edit::VersionEdit;

const DIR: &str = "/manifest";

/// Folds `bytes` as a manifest; whether they are one.
///
/// Each of its edits encodes to one that decodes to the same. The state keeps its promises: trees in order, counters
/// above what they count. If the edits can be applied one by one too, they give the same state. A new manifest that
/// begins with the state gives it back.
///
/// # Panics
/// If any of that is not so.
pub fn check(bytes: &[u8]) -> bool {
    // The number is that of the header, so that the name fits; it is a checksum's salt.
    let number = bytes.get(12..20).and_then(|bytes| Decoder::new(bytes).u64().ok()).unwrap_or(1);
    let path = Path::new(DIR).join("MANIFEST");
    let Ok(recovered) = fold(bytes, FileNumber(number), &path) else { return false };
    let state = recovered.state;
    check_state(&state);
    let whole = &bytes[..bytes.len() - recovered.torn_tail_bytes as usize];
    let edits = edits_of(&whole[HEADER_LEN..]);
    if let Ok(stepwise) = one_by_one(&edits) {
        check_state(&stepwise);
        assert_eq!(stepwise.to_edit(), state.to_edit(), "folding and applying give two states");
    }
    check_written(&state);
    true
}

fn edits_of(records: &[u8]) -> Vec<VersionEdit> {
    let mut rest = Decoder::new(records);
    let mut edits = Vec::new();
    while !rest.is_empty() {
        let len = rest.u32().expect("the records were whole");
        rest.u32().expect("the records were whole");
        let payload = rest.bytes(len as usize).expect("the records were whole");
        let edit = VersionEdit::decode(payload).expect("it was folded a moment ago");
        let again = VersionEdit::decode(&edit.encode()).expect("an edit that was just encoded");
        assert_eq!(again, edit, "encoding and decoding give another edit");
        edits.push(edit);
    }
    edits
}

fn one_by_one(edits: &[VersionEdit]) -> Result<ManifestState> {
    let mut state = ManifestState::default();
    for edit in edits {
        let before = state.to_edit();
        if let Err(error) = state.apply(edit) {
            assert_eq!(state.to_edit(), before, "an edit that does not fit has changed the state");
            return Err(error);
        }
    }
    Ok(state)
}

fn check_state(state: &ManifestState) {
    let mut names: Vec<_> = state.keyspaces.values().map(|keyspace| &keyspace.name).collect();
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "two keyspaces of one name");
    for (id, keyspace) in &state.keyspaces {
        assert!(*id < state.next_keyspace_id, "the id of a keyspace is given out again");
        assert!(keyspace.flushed_sequence <= state.last_sequence);
        keyspace.version.check_invariants().expect("a tree that was folded");
        for (_, _, table) in keyspace.version.tables() {
            let meta = table.meta();
            assert!(meta.number < state.next_file_number || meta.number.0 == u64::MAX);
            assert!(meta.sequence_max <= state.last_sequence);
        }
    }
}

/// Begins a manifest with `state` and reads it back.
fn check_written(state: &ManifestState) {
    let (fs, dir) = (SimFs::new(), Path::new(DIR));
    fs.create_dir_all(dir).expect("memory does not fail");
    let written = Manifest::create(&fs, dir, FileNumber(7), state).expect("memory does not fail");
    let recovered = recover(&fs, dir).expect("a manifest just written").expect("there is CURRENT");
    assert_eq!((recovered.manifest_number, recovered.torn_tail_bytes), (written.number(), 0));
    let mut expected = state.clone();
    expected.next_file_number = expected.next_file_number.max(FileNumber(8));
    assert_eq!(recovered.state.to_edit(), expected.to_edit(), "a state is written and read back");
}
