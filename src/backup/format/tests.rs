//! Golden bytes, round trips, and decoders that take anything.

use proptest::prelude::*;

use super::*;
use crate::key::KeyspaceId;
use crate::version::RunId;
use crate::version::edit::{KeyspaceCreated, TableAdded};
use crate::version::text::meta;

fn path() -> &'static Path {
    Path::new("BACKUP-000003")
}

/// Two tables in one keyspace.
fn sample() -> Description {
    let mut state = ManifestState::default();
    let created = KeyspaceCreated {
        id: KeyspaceId(0),
        name: "default".to_owned(),
        options: vec![("table_bytes".to_owned(), "65536".to_owned())],
    };
    let metas = [meta("7[a..m]#1-9:4096"), meta("9[c..z]#10-20")];
    let added = metas.iter().map(|meta| TableAdded {
        keyspace: KeyspaceId(0),
        level: 0,
        run: RunId(meta.number.0),
        meta: meta.clone(),
    });
    state
        .apply(&VersionEdit {
            keyspaces_created: vec![created],
            tables_added: added.collect(),
            ..VersionEdit::default()
        })
        .unwrap();
    let tables = metas.iter().zip(1..).map(|(meta, hash)| {
        let content = Content { bytes: meta.file_bytes, hash: ContentHash(hash << 64 | 0xab) };
        (meta.number, content)
    });
    Description {
        id: 3,
        created_ms: 1_700_000_000_000,
        sequence: SequenceNumber(20),
        tables: tables.collect(),
        state,
    }
}

fn encoded() -> Vec<u8> {
    sample().encode(path()).unwrap()
}

/// `bytes` with a checksum that fits.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let covered = &bytes[..bytes.len() - CRC_LEN];
    [covered, &checksum_at(3, 0, &[covered]).to_le_bytes()].concat()
}

fn fails(bytes: &[u8], kind: ErrorKind, word: &str) {
    let error = Description::decode(bytes, 3, path()).unwrap_err();
    assert_eq!((error.kind(), error.path()), (kind, Some(path())), "{error}");
    assert!(error.to_string().contains(word), "no {word:?} in {error}");
}

#[test]
fn a_description_is_these_bytes() {
    let bytes = encoded();
    let state = sample().state.to_edit().encode();
    let (first, second) = (4096u64, sample().tables[&FileNumber(9)].bytes);
    let mut expected = b"ESKERBAK".to_vec();
    expected.extend([1, 0, 0, 0]);
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([0x00, 0x68, 0xe5, 0xcf, 0x8b, 0x01, 0, 0]);
    expected.extend([20, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([2, 0, 0, 0]);
    for (number, bytes, hash) in [(7u8, first, 1u8), (9, second, 2)] {
        expected.extend([number, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend(bytes.to_le_bytes());
        expected.extend([0xab, 0, 0, 0, 0, 0, 0, 0, hash, 0, 0, 0, 0, 0, 0, 0]);
    }
    expected.extend((state.len() as u32).to_le_bytes());
    expected.extend(&state);
    let mut salted = [3u64.to_le_bytes(), 0u64.to_le_bytes()].concat();
    salted.extend(&expected);
    expected.extend(crc32fast::hash(&salted).to_le_bytes());
    assert_eq!(bytes, expected);
}

#[test]
fn what_is_decoded_is_what_was_encoded() {
    let (sample, found) = (sample(), Description::decode(&encoded(), 3, path()).unwrap());
    assert_eq!(
        (found.id, found.created_ms, found.sequence),
        (3, sample.created_ms, sample.sequence)
    );
    assert_eq!(found.tables, sample.tables);
    assert_eq!(found.state.to_edit(), sample.state.to_edit());
}

#[test]
fn every_changed_bit_and_every_cut_is_found() {
    let bytes = encoded();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            assert!(Description::decode(&bytes, 3, path()).is_err(), "byte {at}, bit {bit}");
        }
        assert!(Description::decode(&bytes[..at], 3, path()).is_err(), "cut to {at}");
    }
    let other = Description::decode(&bytes, 4, path()).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Corruption, "the description of another backup");
}

#[test]
fn each_kind_of_nonsense_under_a_good_checksum_has_its_name() {
    let bytes = encoded();
    let with = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        sealed(&bytes)
    };
    fails(&with(8, &[2]), ErrorKind::Unsupported, "format 2");
    fails(&with(8, &[0]), ErrorKind::Corruption, "format");
    fails(&with(12, &[5]), ErrorKind::Corruption, "backup 5");
    fails(&with(36, &[0xff; 4]), ErrorKind::Corruption, "within a field");
    fails(&with(40, &[9]), ErrorKind::Corruption, "twice");
    fails(&with(40, &[8]), ErrorKind::Corruption, "not stored");
    fails(&with(48, &[0xff]), ErrorKind::Corruption, "not stored");
    let longer = [&bytes[..bytes.len() - CRC_LEN], &[0; 1 + CRC_LEN]].concat();
    fails(&sealed(&longer), ErrorKind::Corruption, "left over");
    let mut more = sample();
    more.tables.insert(FileNumber(10), Content { bytes: 1, hash: ContentHash(1) });
    fails(&more.encode(path()).unwrap(), ErrorKind::Corruption, "no tree names");
    let mut used_up = sample();
    used_up.state.next_file_number = FileNumber::USED_UP;
    fails(&used_up.encode(path()).unwrap(), ErrorKind::Corruption, "no file number");
    let mut renamed = sample();
    let keyspace = renamed.state.keyspaces.remove(&KeyspaceId(0)).unwrap();
    renamed.state.keyspaces.insert(KeyspaceId(1), keyspace);
    fails(&renamed.encode(path()).unwrap(), ErrorKind::Corruption, "default keyspace");
}

#[test]
fn names_are_ours_only_as_we_write_them() {
    let hash = ContentHash(0xab);
    let table = BackupFile::Table(FileNumber(7), hash);
    assert_eq!(table.file_name(), "000007-000000000000000000000000000000ab.table");
    assert_eq!(BackupFile::Description(3).file_name(), "BACKUP-000003");
    for kind in [BackupFile::Lock, BackupFile::Description(3), table] {
        assert_eq!(BackupFile::parse(&kind.file_name()), Some(kind));
        assert_eq!(BackupFile::parse(&kind.temporary_name()), Some(BackupFile::Unfinished));
    }
    assert_eq!(BackupFile::parse("000007.table"), Some(BackupFile::Unfinished));
    for foreign in [
        "",
        ".tmp",
        "notes.tmp",
        "BACKUP-3",
        "BACKUP-+00003",
        "BACKUP-../../x",
        "000007-AB.table",
        "000007-ab.table",
        "000007-000000000000000000000000000000AB.table",
        "CURRENT",
        "000007.wal",
    ] {
        assert_eq!(BackupFile::parse(foreign), None, "{foreign}");
    }
}

proptest! {
    #[test]
    fn the_decoder_takes_any_bytes(bytes: Vec<u8>, id: u64) {
        let _ = Description::decode(&bytes, id, path());
    }

    #[test]
    fn the_decoder_takes_any_change_under_a_good_checksum(
        at in 12..400usize, new in prop::collection::vec(any::<u8>(), 1..16),
    ) {
        let mut bytes = encoded();
        let at = at % (bytes.len() - CRC_LEN);
        let new = &new[..new.len().min(bytes.len() - CRC_LEN - at)];
        bytes[at..at + new.len()].copy_from_slice(new);
        if let Ok(found) = Description::decode(&sealed(&bytes), 3, path()) {
            // Whatever it says, its tables are those of its trees.
            let trees = found.state.keyspaces.values();
            let count: usize = trees.map(|keyspace| keyspace.version.tables().count()).sum();
            prop_assert_eq!(count, found.tables.len());
        }
    }
}
