//! Blocks against a naive model: a sorted vector.

use super::builder::{BlockBuilder, shared_len};
use std::sync::Arc;

use super::bytes::BlockBytes;
use super::cursor::BlockCursor;
use super::*;
use crate::checksum::checksum;
use crate::key::{SequenceNumber, ValueKind, compare_entries};
use proptest::collection::vec;
use proptest::prelude::*;

type Entry = (Vec<u8>, Trailer, Vec<u8>);

fn build(entries: &[Entry]) -> Vec<u8> {
    let mut builder = BlockBuilder::new();
    for (key, trailer, value) in entries {
        let shared = shared_len(builder.last_key(), key);
        assert!(builder.add(shared, (key, *trailer, value), usize::MAX));
    }
    let estimate = builder.estimated_len();
    let mut out = Vec::new();
    builder.finish(&mut out);
    assert!(out.len() <= estimate, "{} > {estimate}", out.len());
    out
}

fn heap_bytes(bytes: &[u8]) -> BlockBytes {
    BlockBytes::heap(Arc::from(bytes), 0..bytes.len())
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| compare_entries((&a.0, a.1), (&b.0, b.1)));
    entries.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
    entries
}

/// Keys that share much, hold zeros, extend each other, and repeat with other trailers.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    let zeros = (0usize..12).prop_map(|len| vec![0; len]);
    let few = vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..12);
    let numbered = (0u32..300).prop_map(|number| format!("user{number:08}").into_bytes());
    prop_oneof![zeros, few, numbered, vec(any::<u8>(), 0..20)]
}

fn trailers() -> impl Strategy<Value = Trailer> {
    let near =
        (0u64..600).prop_map(|sequence| Trailer::new(SequenceNumber(sequence), ValueKind::Put));
    let mixed = (0u64..5, any::<bool>())
        .prop_map(|(sequence, is_put)| Trailer(sequence << 8 | u64::from(is_put)));
    prop_oneof![near, mixed, any::<u64>().prop_map(Trailer)]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let value = prop_oneof![Just(Vec::new()), vec(any::<u8>(), 0..8), vec(any::<u8>(), 300)];
    let few_keys = vec(keys(), 1..6).prop_flat_map(|keys| {
        vec((proptest::sample::select(keys), trailers(), vec(any::<u8>(), 0..3)), 1..60)
    });
    let any_keys = vec((keys(), trailers(), value), 1..80);
    let prefixed = (vec(any::<u8>(), 0..9), vec((keys(), trailers(), vec(any::<u8>(), 4)), 1..60))
        .prop_map(|(prefix, entries)| {
            entries
                .into_iter()
                .map(|(key, trailer, value)| ([&prefix[..], &key].concat(), trailer, value))
                .collect()
        });
    prop_oneof![any_keys, few_keys, prefixed].prop_map(sorted)
}

fn check_search(entries: &[Entry], block: &Block<'_>, key: &[u8], trailer: Trailer) {
    let expected = entries
        .partition_point(|entry| compare_entries((&entry.0, entry.1), (key, trailer)).is_lt());
    let found = block.lower_bound(key, trailer).unwrap();
    assert_eq!(found.index, expected, "{key:?} {trailer:?}");
    assert_eq!(
        found.is_same_key,
        entries.get(expected).is_some_and(|entry| entry.0 == key),
        "{key:?}"
    );
}

fn check_at(cursor: &BlockCursor, expected: Option<&Entry>) {
    assert_eq!(cursor.valid(), expected.is_some());
    if let Some((key, trailer, value)) = expected {
        assert_eq!(
            (cursor.key(), cursor.trailer(), cursor.value()),
            (&key[..], *trailer, &value[..])
        );
        assert_eq!(*cursor.pin_value(), value[..]);
    }
}

proptest! {
    #[test]
    fn answers_are_the_models(entries in entries(), asked in vec((keys(), trailers()), 20)) {
        let bytes = build(&entries);
        let layout = BlockLayout::parse(&bytes).unwrap();
        let block = layout.block(&bytes);
        prop_assert_eq!(layout.count(), entries.len());
        let mut key = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            block.key_into(index, &mut key).unwrap();
            prop_assert_eq!((&key, block.trailer(index)), (&entry.0, entry.1));
            prop_assert_eq!(block.value(index).unwrap(), &entry.2[..]);
            for trailer in [Trailer::NEWEST, entry.1, Trailer(entry.1.0.wrapping_add(1)),
                            Trailer(entry.1.0.wrapping_sub(1)), Trailer::OLDEST] {
                check_search(&entries, &block, &entry.0, trailer);
            }
            check_search(&entries, &block, &[&entry.0[..], &[0]].concat(), Trailer::NEWEST);
            check_search(&entries, &block, &entry.0[..entry.0.len() / 2], Trailer::OLDEST);
        }
        for (key, trailer) in &asked {
            check_search(&entries, &block, key, *trailer);
        }
    }

    #[test]
    fn cursor_steps_as_the_model(
        entries in entries(),
        steps in vec(0u8..6, 0..60),
        asked in keys(),
    ) {
        let target = (&asked[..], Trailer(300));
        let mut cursor = BlockCursor::new();
        cursor.set_block(heap_bytes(&build(&entries))).unwrap();
        let mut at: Option<usize> = None;
        check_at(&cursor, None);
        for step in steps {
            match (step, at) {
                (0, _) => { cursor.seek_to_first().unwrap(); at = Some(0); }
                (1, _) => { cursor.seek_to_last().unwrap(); at = Some(entries.len() - 1); }
                (2, _) => {
                    cursor.seek(&asked, target.1).unwrap();
                    let is_before = |e: &Entry| compare_entries((&e.0, e.1), target).is_lt();
                    at = Some(entries.partition_point(is_before));
                }
                (3 | 4, Some(index)) => { cursor.next().unwrap(); at = Some(index + 1); }
                (5, Some(index)) => { cursor.prev().unwrap(); at = index.checked_sub(1); }
                _ => continue,
            }
            at = at.filter(|&index| index < entries.len());
            check_at(&cursor, at.map(|index| &entries[index]));
        }
    }

    #[test]
    fn any_bytes_give_answers_or_errors(
        entries in entries(),
        damage in vec((0usize..400, any::<u8>()), 1..4),
        noise in vec(any::<u8>(), 0..80),
        cut in 0usize..64,
    ) {
        let mut damaged = build(&entries);
        for (place, byte) in damage {
            let place = place % damaged.len();
            damaged[place] = byte;
        }
        damaged.truncate(damaged.len() - cut % damaged.len());
        for bytes in [damaged, noise] {
            let mut cursor = BlockCursor::new();
            if cursor.set_block(heap_bytes(&bytes)).is_err() {
                continue;
            }
            for (key, trailer, _) in &entries {
                let _ = cursor.seek(key, *trailer);
                if cursor.valid() {
                    let _ = (cursor.key().len(), cursor.value().len());
                }
            }
            let _ = cursor.seek_to_first();
            for _ in 0..200 {
                if !cursor.valid() {
                    break;
                }
                let _ = (cursor.key().len(), cursor.value().len(), cursor.next());
            }
        }
    }

    #[test]
    fn a_block_stays_within_its_limit(entries in entries(), limit in 64usize..600) {
        let mut builder = BlockBuilder::new();
        let mut out = Vec::new();
        for (key, trailer, value) in &entries {
            let shared = if builder.is_empty() { 0 } else { shared_len(builder.last_key(), key) };
            if !builder.add(shared, (key, *trailer, value), limit) {
                out.clear();
                builder.finish(&mut out);
                let is_single = BlockLayout::parse(&out).unwrap().count() == 1;
                prop_assert!(out.len() <= limit || is_single, "{} > {}", out.len(), limit);
                prop_assert!(builder.add(0, (key, *trailer, value), limit));
            }
        }
    }

    #[test]
    fn shared_len_counts(a in vec(0u8..2, 0..40), b in vec(0u8..2, 0..40)) {
        let naive = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
        prop_assert_eq!(shared_len(&a, &b), naive);
    }
}

fn put(key: &[u8], sequence: u64, value: &[u8]) -> Entry {
    (key.to_vec(), Trailer::new(SequenceNumber(sequence), ValueKind::Put), value.to_vec())
}

#[test]
fn columns_are_as_narrow_as_they_can_be() {
    let layout_of = |entries: &[Entry]| BlockLayout::parse(&build(entries)).unwrap();
    // Numbered keys of one length, settled at the bottom: two bytes tell them apart, nothing else
    // is stored.
    let settled: Vec<Entry> =
        (1000..1030).map(|n| put(format!("user{n:012}").as_bytes(), 0, &[7; 100])).collect();
    let layout = layout_of(&settled);
    assert_eq!((layout.head_width, layout.trailer_width, layout.end_width), (2, 0, 0));
    assert_eq!(layout.suffix_len, Some(2));
    // 14 key bytes once, 2 and the value for each entry, and the header.
    assert_eq!(build(&settled).len(), HEADER_LEN + 14 + 30 * 102);
    // Recent writes: sequences within 256 take one byte as long as all are of one kind.
    let recent: Vec<Entry> =
        (0..30).map(|n| put(&[b'k', n], 9_000_000 + u64::from(n), b"v")).collect();
    assert_eq!(layout_of(&recent).trailer_width, 1);
    let mut with_delete = recent.clone();
    with_delete[3].1 = Trailer::new(SequenceNumber(9_000_003), ValueKind::Delete);
    assert_eq!(layout_of(&with_delete).trailer_width, 2);
    // Values of different lengths need ends.
    let mut uneven = recent;
    uneven[0].2 = b"longer".to_vec();
    assert_eq!(layout_of(&uneven).end_width, 2);
    uneven[0].2 = vec![0; 70_000];
    assert_eq!(layout_of(&uneven).end_width, 4);
}

#[test]
fn keys_and_values_of_extreme_lengths() {
    let longest = vec![b'k'; KEY_LEN_MAX];
    let mut next = longest.clone();
    next[KEY_LEN_MAX - 1] = b'l';
    let entries = vec![
        put(b"", 5, b""),
        put(b"", 4, b"empty key"),
        put(&longest, 3, b""),
        put(&next, 2, b"v"),
    ];
    let bytes = build(&entries);
    let mut cursor = BlockCursor::new();
    cursor.set_block(heap_bytes(&bytes)).unwrap();
    for entry in &entries {
        cursor.seek(&entry.0, entry.1).unwrap();
        check_at(&cursor, Some(entry));
    }
    let alone = build(&entries[2..3]);
    let layout = BlockLayout::parse(&alone).unwrap();
    assert!(layout.block(&alone).lower_bound(&longest, Trailer::NEWEST).unwrap().is_same_key);
}

#[test]
fn heaps_beyond_four_gib_are_described() {
    // The format has room for them; a test has no room for the bytes, so only the header is looked
    // at.
    let mut bytes = build(&[put(b"a", 1, b"x"), put(b"b", 2, b"yy")]);
    bytes[4] |= 3 << 6;
    assert_eq!(BlockLayout::parse(&bytes).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn unknown_flags_are_unsupported_and_empty_blocks_damaged() {
    let good = build(&[put(b"a", 1, b"x")]);
    let mut flags = good.clone();
    flags[5] |= 0x80;
    assert_eq!(BlockLayout::parse(&flags).unwrap_err().kind(), ErrorKind::Unsupported);
    let mut width = good.clone();
    width[4] |= 7 << 2;
    assert_eq!(BlockLayout::parse(&width).unwrap_err().kind(), ErrorKind::Unsupported);
    let mut empty = good;
    empty[..4].fill(0);
    assert_eq!(BlockLayout::parse(&empty).unwrap_err().kind(), ErrorKind::Corruption);
    assert_eq!(BlockLayout::parse(&[]).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn stored_bytes_never_change() {
    let entries = [
        put(b"esker/a", 7, b"one"),
        put(b"esker/a", 3, b""),
        put(b"esker/alpha", 4, b"two"),
        (b"esker/b".to_vec(), Trailer::new(SequenceNumber(9), ValueKind::Delete), Vec::new()),
    ];
    let bytes = build(&entries);
    let mut expected = Vec::new();
    expected.extend_from_slice(&[4, 0, 0, 0]); // entries
    expected.extend_from_slice(&[0b0100_1001, 0]); // H = 2, T = 2, O = 2
    expected.extend_from_slice(&[6, 0, 0, 0]); // common length, no uniform suffix
    expected.extend_from_slice(&[1, 3, 0, 0, 0, 0, 0, 0]); // base: the put at 3
    expected.extend_from_slice(b"esker/");
    expected.extend_from_slice(b"a\0a\0alb\0"); // heads
    expected.extend_from_slice(&[0, 4, 0, 0, 0, 1, 0xff, 5]); // trailers
    expected.extend_from_slice(&[4, 0, 5, 0, 12, 0, 13, 0]); // ends
    expected.extend_from_slice(b"\x01one\x01\x05phatwo\x01"); // heap
    assert_eq!(bytes, expected);
    assert_eq!(checksum(&bytes), checksum(&expected));
}
