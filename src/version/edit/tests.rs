//! Tests of the edit's format, and edits for the tests of the manifest.

use super::*;
use proptest::prelude::*;

/// Any edit that can be stored; its parts need not fit together.
pub(crate) fn edits() -> impl Strategy<Value = VersionEdit> {
    let id = || any::<u32>().prop_map(KeyspaceId);
    let number = || (0..=FileNumber::MAX.0).prop_map(FileNumber);
    let sequence = || (0..=SequenceNumber::MAX.0).prop_map(SequenceNumber);
    let options = || prop::collection::vec(("[a-z_]{1,9}", ".{0,9}"), 0..4);
    let created = (id(), "[^\\p{Cc}]{1,63}", options());
    let created = created.prop_map(|(id, name, options)| KeyspaceCreated { id, name, options });
    let keyspaces = (
        prop::collection::vec(created, 0..3),
        prop::collection::vec((id(), options()), 0..3),
        prop::collection::vec(id(), 0..3),
    );
    let tables = (
        prop::collection::vec((id(), number()), 0..3),
        prop::collection::vec(tables_added(), 0..3),
        prop::collection::vec((id(), sequence()), 0..3),
    );
    let position = (number(), any::<u64>());
    let position = position.prop_map(|(segment, offset)| WalPosition { segment, offset });
    let counters = (
        prop::option::of(number()),
        prop::option::of(id()),
        prop::option::of(sequence()),
        prop::option::of(number()),
        prop::option::of(position),
        prop::option::of(crate::version::totals::tests::totals()),
    );
    (keyspaces, tables, counters).prop_map(|(keyspaces, tables, counters)| VersionEdit {
        keyspaces_created: keyspaces.0,
        keyspaces_changed: keyspaces.1,
        keyspaces_dropped: keyspaces.2,
        tables_removed: tables.0,
        tables_added: tables.1,
        flushed_sequences: tables.2,
        next_file_number: counters.0,
        next_keyspace_id: counters.1,
        last_sequence: counters.2,
        wal_first_segment: counters.3,
        wal_synced: counters.4,
        lifetime_totals: counters.5,
    })
}

fn tables_added() -> impl Strategy<Value = TableAdded> {
    let key = || prop::collection::vec(any::<u8>(), 0..20).prop_map(Vec::into_boxed_slice);
    let place = (any::<u32>(), 0..LEVEL_COUNT, any::<u64>());
    let sequence = || (0..=SequenceNumber::MAX.0).prop_map(SequenceNumber);
    let numbers = any::<([u64; 7], [u64; 4], u32)>();
    let hidden = prop_oneof![Just(0), 0..1u64 << 48];
    (place, key(), key(), (sequence(), sequence()), numbers, hidden).prop_map(
        |((keyspace, level, run), smallest, largest, sequences, numbers, hidden_entry_count)| {
            let (sequence_min, sequence_max) = sequences;
            let (counts, times, checksum) = numbers;
            let meta = TableMeta {
                number: FileNumber(counts[0] % (FileNumber::MAX.0 + 1)),
                file_bytes: counts[1] >> 16,
                entry_count: counts[2] >> 16,
                tombstone_count: counts[3] >> 16,
                shadowed_count: counts[4] >> 16,
                key_bytes: counts[5] >> 16,
                value_bytes: counts[6] >> 16,
                smallest,
                largest,
                sequence_min,
                sequence_max,
                write_time_min_ms: times[0],
                write_time_max_ms: times[1],
                expiry_min_ms: times[2],
                expiry_max_ms: times[3],
                checksum,
                hidden_entry_count,
            };
            TableAdded { keyspace: KeyspaceId(keyspace), level, run: RunId(run), meta }
        },
    )
}

proptest! {
    #[test]
    fn edits_round_trip(edit in edits()) {
        let bytes = edit.encode();
        prop_assert_eq!(VersionEdit::decode(&bytes).unwrap(), edit);
        prop_assert!(is_cut_into_fields(&bytes).0);
    }

    #[test]
    fn decoding_is_total(bytes: Vec<u8>) {
        let decoded = VersionEdit::decode(&bytes);
        prop_assert!(decoded.is_err() || is_cut_into_fields(&bytes).0);
    }

    #[test]
    fn decoding_is_total_near_real_edits(edit in edits(), at: prop::sample::Index, byte: u8) {
        let mut bytes = edit.encode();
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        // Cut short, it is the edit without its last fields, or an error.
        let _ = VersionEdit::decode(&bytes[..at]);
        bytes[at] = byte;
        if let Ok(decoded) = VersionEdit::decode(&bytes) {
            prop_assert_eq!(VersionEdit::decode(&decoded.encode()).unwrap(), decoded);
        }
    }
}

fn error_of(bytes: &[u8]) -> (ErrorKind, String) {
    let error = VersionEdit::decode(bytes).unwrap_err();
    (error.kind(), error.what().to_owned())
}

#[test]
fn unknown_fields_are_skipped_or_refused_by_their_tag() {
    let mut bytes = VersionEdit::default().encode();
    assert!(bytes.is_empty());
    bytes.extend([0x81, 3, 1, 2, 3, 7, 1, 42]);
    let edit = VersionEdit::decode(&bytes).unwrap();
    assert_eq!(edit, VersionEdit { next_file_number: Some(FileNumber(42)), ..Default::default() });
    for tag in [0, 13, 0x7f] {
        let what = format!("the edit has a field of unknown kind {tag}");
        assert_eq!(error_of(&[tag, 0]), (ErrorKind::Unsupported, what));
    }
}

#[test]
fn wrong_fields_are_named() {
    let cases: &[(&[u8], &str)] = &[
        (&[7], "a field of the edit ends early"),
        (&[7, 2, 1], "a field of the edit ends early"),
        (&[7, 0], "a field of kind 7 in the edit ends early"),
        (&[7, 2, 1, 1], "a field of kind 7 in the edit has bytes after its end"),
        (&[7, 1, 1, 7, 1, 1], "a field of kind 7 in the edit stands there twice"),
        (&[1, 2, 0, 0], "a field of kind 1 in the edit has a name that no keyspace can have"),
        (&[1, 3, 0, 1, 7], "a field of kind 1 in the edit has a name that no keyspace can have"),
        (&[1, 3, 0, 1, 0xff], "a field of kind 1 in the edit has text that is not UTF-8"),
        (&[2, 3, 0, 0, 0], "a field of kind 2 in the edit has an option without a name"),
        (&[4, 2, 0, 7], "a field of kind 4 in the edit has a level that is too deep"),
        (
            &[4, 11, 0, 0, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40],
            "a field of kind 4 in the edit has a size that no table has",
        ),
        (
            &[9, 9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            "a field of kind 9 in the edit has too large a sequence number",
        ),
        (&[3, 5, 0xff, 0xff, 0xff, 0xff, 0x10], "a field of kind 3 in the edit ends early"),
    ];
    for (bytes, what) in cases {
        assert_eq!(error_of(bytes), (ErrorKind::Corruption, (*what).to_owned()), "{bytes:?}");
    }
}

#[test]
fn keyspace_names() {
    for name in ["a", "default", "gr\u{fc}n", " ", &"x".repeat(255)] {
        check_keyspace_name(name).unwrap();
    }
    for name in ["", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(256)] {
        assert_eq!(check_keyspace_name(name).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn file_numbers_have_an_end() {
    let edit = |number| VersionEdit {
        next_file_number: Some(FileNumber(number)),
        ..VersionEdit::default()
    };
    let last = edit(FileNumber::MAX.0);
    assert_eq!(VersionEdit::decode(&last.encode()).unwrap(), last);
    for number in [FileNumber::MAX.0 + 1, u64::MAX] {
        let error = VersionEdit::decode(&edit(number).encode()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption);
    }
}
