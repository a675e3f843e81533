//! Tables against a model: a sorted vector; in both read modes and with every compression.

#![expect(clippy::disallowed_methods, reason = "tests damage files behind the seam's back")]

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::block::bytes::PinnedValue;
use crate::cache::BlockCache;
use crate::cursor::Cursor;
use crate::error::{ErrorKind, Result};
use crate::filter::KeyProbe;
use crate::fs::{Access, StdFs};
use crate::key::{KeyspaceId, Trailer, ValueKind, compare_entries, key_hash};
use crate::options::{Compression, FilterKind, ReadMode, Verify};
use crate::table::cursor::TableCursor;
use crate::table::format::{BlockHandle, FOOTER_LEN, Footer, HEADER_LEN, Region};
use crate::table::reader::{ReadContext, ReadStats};
use crate::table::salvage::describe;
use crate::table::writer::{TableWriter, TableWriterOptions};
use proptest::collection::vec;
use proptest::prelude::*;

type Entry = (Vec<u8>, Trailer, Vec<u8>);

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Snap, Compression::Zstd];
const MODES: [ReadMode; 2] = [ReadMode::Mmap, ReadMode::Pread];

fn options(compression: Compression) -> TableWriterOptions {
    TableWriterOptions {
        keyspace: KeyspaceId::default(),
        number: FileNumber(7),
        block_bytes: 512,
        compression,
        filter: FilterKind::Bloom,
        filter_bits: 10.0,
    }
}

fn write(dir: &Path, options: TableWriterOptions, entries: &[Entry]) -> TableMeta {
    let mut writer = TableWriter::create(&StdFs, dir, options).unwrap();
    writer.set_write_times(1000, 2000);
    for (key, trailer, value) in entries {
        writer.add(key, *trailer, value).unwrap();
    }
    let estimate = writer.estimated_bytes();
    let meta = writer.finish().unwrap();
    if options.compression == Compression::None {
        assert!(
            meta.file_bytes.abs_diff(estimate) < 600 + meta.file_bytes / 4,
            "{estimate} {}",
            meta.file_bytes
        );
    }
    meta
}

fn context(read_mode: ReadMode) -> ReadContext {
    ReadContext { read_mode, verify: Verify::Once, cache: Some(Arc::new(BlockCache::new(1 << 20))) }
}

fn open(dir: &Path, meta: &TableMeta, ctx: &ReadContext) -> Result<Arc<TableReader>> {
    TableReader::open(&StdFs, dir, meta, ctx).map(Arc::new)
}

fn cursor_of(reader: &Arc<TableReader>, access: Access) -> TableCursor {
    TableCursor::new(Arc::clone(reader), access)
}

fn get(reader: &TableReader, key: &[u8], bound: Trailer) -> Result<Option<(Trailer, PinnedValue)>> {
    reader.get(key, &KeyProbe::new(key_hash(key)), bound, &mut ReadStats::default())
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| compare_entries((&a.0, a.1), (&b.0, b.1)));
    entries.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
    entries
}

fn put(key: &[u8], sequence: u64, value: &[u8]) -> Entry {
    (key.to_vec(), Trailer::new(SequenceNumber(sequence), ValueKind::Put), value.to_vec())
}

/// 400 numbered keys, each with one version, values of some length; several blocks of 512 bytes.
fn numbered() -> Vec<Entry> {
    (0..400u64)
        .map(|n| {
            put(format!("user{:08}", n * 3).as_bytes(), n + 1, &[b'v'; 40][..(n % 41) as usize])
        })
        .collect()
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let key = prop_oneof![
        (0u32..60).prop_map(|number| format!("user{number:06}").into_bytes()),
        vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..8),
    ];
    let trailer = (0u64..50, any::<bool>())
        .prop_map(|(sequence, is_put)| Trailer(sequence << 8 | u64::from(is_put)));
    let value = prop_oneof![vec(any::<u8>(), 0..4), vec(0u8..2, 60), Just(vec![9; 700])];
    vec((key, trailer, value), 1..200).prop_map(sorted)
}

fn check_get(entries: &[Entry], reader: &TableReader, key: &[u8], bound: Trailer) {
    let first =
        entries.partition_point(|entry| compare_entries((&entry.0, entry.1), (key, bound)).is_lt());
    let expected =
        entries.get(first).filter(|entry| entry.0 == key).map(|entry| (entry.1, entry.2.clone()));
    let found = get(reader, key, bound).unwrap().map(|(trailer, value)| (trailer, value.to_vec()));
    assert_eq!(found, expected, "{key:?} {bound:?}");
}

fn check_at(cursor: &TableCursor, expected: Option<&Entry>) {
    assert_eq!(cursor.valid(), expected.is_some());
    if let Some((key, trailer, value)) = expected {
        assert_eq!(
            (cursor.key(), cursor.trailer(), cursor.value()),
            (&key[..], *trailer, &value[..])
        );
        assert_eq!(*cursor.pin_value(), value[..]);
    }
}

fn check_cursor(entries: &[Entry], cursor: &mut TableCursor) {
    cursor.seek_to_first().unwrap();
    for entry in entries {
        check_at(cursor, Some(entry));
        cursor.next().unwrap();
    }
    check_at(cursor, None);
    cursor.seek_to_last().unwrap();
    for entry in entries.iter().rev() {
        check_at(cursor, Some(entry));
        cursor.prev().unwrap();
    }
    check_at(cursor, None);
}

fn check_seeks(entries: &[Entry], cursor: &mut TableCursor, key: &[u8], trailer: Trailer) {
    let first = entries
        .partition_point(|entry| compare_entries((&entry.0, entry.1), (key, trailer)).is_lt());
    let after = entries
        .partition_point(|entry| compare_entries((&entry.0, entry.1), (key, trailer)).is_le());
    cursor.seek(key, trailer).unwrap();
    check_at(cursor, entries.get(first));
    if cursor.valid() {
        cursor.prev().unwrap();
        check_at(cursor, first.checked_sub(1).map(|index| &entries[index]));
    }
    cursor.seek_for_prev(key, trailer).unwrap();
    check_at(cursor, after.checked_sub(1).map(|index| &entries[index]));
    if cursor.valid() {
        cursor.next().unwrap();
        check_at(cursor, entries.get(after));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn answers_are_the_models(
        entries in entries(),
        compression in proptest::sample::select(&COMPRESSIONS[..]),
        block_bytes in prop_oneof![Just(1usize), Just(128), Just(512), Just(4096)],
        filter_bits in prop_oneof![Just(0.0f32), Just(10.0)],
        filter in prop_oneof![Just(FilterKind::Blocked), Just(FilterKind::Bloom)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = TableWriterOptions { block_bytes, filter, filter_bits, ..options(compression) };
        let meta = write(dir.path(), options, &entries);
        for mode in MODES {
            let reader = open(dir.path(), &meta, &context(mode)).unwrap();
            let mut cursors = [cursor_of(&reader, Access::Random), cursor_of(&reader, Access::Sequential)];
            for (key, trailer, _) in &entries {
                let older = Trailer(trailer.0.wrapping_sub(1));
                let bounds = [Trailer::NEWEST, *trailer, older, Trailer::OLDEST];
                for bound in bounds {
                    check_get(&entries, &reader, key, bound);
                    for cursor in &mut cursors {
                        check_seeks(&entries, cursor, key, bound);
                    }
                }
                let absent = [&key[..], &[0]].concat();
                check_get(&entries, &reader, &absent, Trailer::NEWEST);
                check_seeks(&entries, &mut cursors[0], &absent, Trailer::NEWEST);
            }
            for cursor in &mut cursors {
                check_cursor(&entries, cursor);
            }
            reader.verify_all(reader.meta()).unwrap();
        }
    }
}

#[test]
fn meta_says_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut entries = numbered();
    entries[5].1 = Trailer::new(SequenceNumber(6), ValueKind::Delete);
    let meta = write(dir.path(), options(Compression::None), &entries);
    let bytes = std::fs::read(dir.path().join("000007.table")).unwrap();
    assert_eq!(meta.file_bytes, bytes.len() as u64);
    assert_eq!(meta.checksum, crate::checksum::checksum(&bytes));
    assert_eq!((meta.entry_count, meta.tombstone_count, meta.key_bytes), (400, 1, 400 * 12));
    assert_eq!(meta.shadowed_count, 0);
    assert_eq!(meta.value_bytes, entries.iter().map(|entry| entry.2.len() as u64).sum::<u64>());
    assert_eq!((&*meta.smallest, &*meta.largest), (&b"user00000000"[..], &b"user00001197"[..]));
    assert_eq!((meta.sequence_min, meta.sequence_max), (SequenceNumber(1), SequenceNumber(400)));
    assert_eq!((meta.write_time_min_ms, meta.write_time_max_ms), (1000, 2000));
    assert_eq!((meta.expiry_min_ms, meta.expiry_max_ms), (u64::MAX, u64::MAX));
}

/// In one block and across blocks, whatever the kinds; `verify` counts them too.
#[test]
fn meta_says_how_many_entries_are_shadowed() {
    let dir = tempfile::tempdir().unwrap();
    let mut entries = Vec::new();
    for (key, count) in [("a", 1), ("b", 3), ("ba", 2), ("c", 300), ("d", 1)] {
        entries.extend((0..count).map(|n| put(key.as_bytes(), 1 + n, &[b'v'; 30])));
    }
    entries[2].1 = Trailer::new(SequenceNumber(2), ValueKind::Delete);
    let entries = sorted(entries);
    let meta = write(dir.path(), options(Compression::None), &entries);
    assert_eq!((meta.entry_count, meta.shadowed_count), (307, 2 + 1 + 299));
    let reader = open(dir.path(), &meta, &context(MODES[0])).unwrap();
    assert!(reader.block_count() > 3);
    reader.verify_all(&meta).unwrap();
    let wrong = TableMeta { shadowed_count: 301, ..meta };
    assert!(reader.verify_all(&wrong).is_err());
}

#[test]
fn meta_says_when_what_was_written_expires() {
    let expiring = |n: u64, at_ms: u64| {
        let trailer = Trailer::new(SequenceNumber(n + 1), ValueKind::PutExpiring);
        let value = [&at_ms.to_le_bytes(), &b"value"[..]].concat();
        (format!("key{n:03}").into_bytes(), trailer, value)
    };
    let dir = tempfile::tempdir().unwrap();
    let mut entries: Vec<Entry> = (0..100).map(|n| expiring(n, 5000 + n)).collect();
    entries[50].1 = Trailer::new(SequenceNumber(51), ValueKind::Delete);
    entries[50].2.clear();
    let meta = write(dir.path(), options(Compression::None), &entries);
    assert_eq!((meta.expiry_min_ms, meta.expiry_max_ms), (5000, 5099));
    assert_eq!(meta.value_bytes, 99 * 5, "times of expiry are not the user's");
    let reader = open(dir.path(), &meta, &context(MODES[0])).unwrap();
    reader.verify_all(&meta).unwrap();
    let (_, value) = get(&reader, b"key007", Trailer::NEWEST).unwrap().unwrap();
    assert_eq!(*value.without_expiry(), *b"value");

    let dir = tempfile::tempdir().unwrap();
    entries[0] = put(b"key000", 1, b"lasts");
    let meta = write(dir.path(), options(Compression::None), &entries);
    assert_eq!((meta.expiry_min_ms, meta.expiry_max_ms), (5001, u64::MAX));
    open(dir.path(), &meta, &context(MODES[0])).unwrap().verify_all(&meta).unwrap();

    // Nothing is written that no reader could take apart.
    let dir = tempfile::tempdir().unwrap();
    let mut writer = TableWriter::create(&StdFs, dir.path(), options(Compression::None)).unwrap();
    let error = writer.add(b"k", expiring(0, 0).1, b"short").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}

#[test]
fn versions_of_one_key_may_span_many_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut entries = vec![put(b"a", 5000, b"first"), put(b"kk", 4, b"last")];
    entries.extend((1..1000).map(|sequence| put(b"k", sequence, &sequence.to_le_bytes())));
    let entries = sorted(entries);
    for compression in COMPRESSIONS {
        let meta = write(dir.path(), options(compression), &entries);
        for mode in MODES {
            let reader = open(dir.path(), &meta, &context(mode)).unwrap();
            assert!(reader.block_count() > 10);
            let mut cursor = cursor_of(&reader, Access::Random);
            for sequence in [0, 1, 2, 500, 777, 998, 999, 1000] {
                check_get(&entries, &reader, b"k", Trailer::visible_at(SequenceNumber(sequence)));
                check_seeks(
                    &entries,
                    &mut cursor,
                    b"k",
                    Trailer::visible_at(SequenceNumber(sequence)),
                );
            }
            check_seeks(&entries, &mut cursor, b"k", Trailer::OLDEST);
        }
    }
}

#[test]
fn longest_keys_empty_keys_and_large_values() {
    let dir = tempfile::tempdir().unwrap();
    let longest = vec![b'z'; crate::key::KEY_LEN_MAX];
    let entries = vec![
        put(b"", 1, b""),
        put(b"m", 2, &vec![3; 3 << 20]),
        put(&longest, 3, b"end"),
        put(&longest, 2, b""),
    ];
    for compression in COMPRESSIONS {
        let meta = write(dir.path(), options(compression), &entries);
        for mode in MODES {
            let reader = open(dir.path(), &meta, &context(mode)).unwrap();
            for (key, trailer, _) in &entries {
                check_get(&entries, &reader, key, *trailer);
            }
            for access in [Access::Random, Access::Sequential] {
                check_cursor(&entries, &mut cursor_of(&reader, access));
            }
        }
    }
}

#[test]
#[should_panic(expected = "strictly ordered")]
fn entries_out_of_order_are_a_bug_of_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), options(Compression::None), &[put(b"b", 1, b""), put(b"a", 2, b"")]);
}

#[test]
#[should_panic(expected = "strictly ordered")]
fn repeated_entries_are_a_bug_of_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), options(Compression::None), &[put(b"b", 1, b""), put(b"b", 1, b"")]);
}

#[test]
fn statistics_count_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let meta = write(dir.path(), options(Compression::Zstd), &numbered());
    let reader = open(dir.path(), &meta, &context(ReadMode::Mmap)).unwrap();
    let mut stats = ReadStats::default();
    let mut ask = |key: &[u8]| {
        reader.get(key, &KeyProbe::new(key_hash(key)), Trailer::NEWEST, &mut stats).unwrap()
    };
    assert!(ask(b"user00000003").is_some());
    assert!(ask(b"user00000006").is_some());
    for n in 0..399 {
        assert!(ask(format!("user{:08}", n * 3 + 1).as_bytes()).is_none());
    }
    assert_eq!(stats.filter_checks, 401);
    assert_eq!(stats.filter_useful + stats.filter_false_positives, 399);
    assert_eq!(stats.blocks_read, 2 + stats.filter_false_positives);
    assert_eq!(stats.cache_hits + stats.cache_misses, stats.blocks_read);
    assert!(stats.cache_hits >= 1 && stats.filter_useful > 380);
}

/// Everything that can be asked of a small table, or the first error.
fn everything(
    dir: &Path,
    meta: &TableMeta,
    ctx: &ReadContext,
    keys: &[Entry],
) -> Result<Vec<Entry>> {
    let reader = open(dir, meta, ctx)?;
    let mut seen = Vec::new();
    for (key, trailer, _) in keys {
        let (found, value) =
            get(&reader, key, *trailer)?.expect("a stored key is found or an error says why not");
        seen.push((key.clone(), found, value.to_vec()));
    }
    let mut cursor = cursor_of(&reader, Access::Sequential);
    cursor.seek_to_first()?;
    while cursor.valid() {
        seen.push((cursor.key().to_vec(), cursor.trailer(), cursor.value().to_vec()));
        cursor.next()?;
    }
    Ok(seen)
}

#[test]
fn every_flipped_bit_is_found_and_every_truncation_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("000007.table");
    let entries: Vec<Entry> = numbered().into_iter().take(16).collect();
    for compression in COMPRESSIONS {
        let options = TableWriterOptions { block_bytes: 200, ..options(compression) };
        let meta = write(dir.path(), options, &entries);
        let good = std::fs::read(&path).unwrap();
        let expected = everything(dir.path(), &meta, &context(ReadMode::Mmap), &entries).unwrap();
        for place in 0..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1 << (place % 8);
            std::fs::write(&path, &bad).unwrap();
            let errors = MODES.map(|mode| {
                let error = everything(dir.path(), &meta, &context(mode), &entries).unwrap_err();
                assert!(
                    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::Unsupported),
                    "{place}: {error}"
                );
                assert!(error.path() == Some(&path) && error.to_string().contains("000007.table"));
                (error.kind(), error.to_string())
            });
            assert_eq!(errors[0], errors[1], "both modes say the same of byte {place}");
        }
        for len in 0..good.len() {
            std::fs::write(&path, &good[..len]).unwrap();
            let error =
                everything(dir.path(), &meta, &context(ReadMode::Mmap), &entries).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption);
        }
        std::fs::write(&path, &good).unwrap();
        assert_eq!(
            everything(dir.path(), &meta, &context(ReadMode::Pread), &entries).unwrap(),
            expected
        );
    }
}

#[test]
fn damage_after_the_first_touch_is_found_when_asked_to_look_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("000007.table");
    let meta = write(dir.path(), options(Compression::None), &numbered());
    let reader = open(dir.path(), &meta, &context(ReadMode::Mmap)).unwrap();
    let always = ReadContext { verify: Verify::Always, ..context(ReadMode::Mmap) };
    let strict = open(dir.path(), &meta, &always).unwrap();
    for reader in [&reader, &strict] {
        assert!(get(reader, b"user00000003", Trailer::NEWEST).unwrap().is_some());
    }
    // In place, so that the mapping sees it.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_at(&file, b"X", 200).unwrap();
    assert_eq!(
        get(&strict, b"user00000003", Trailer::NEWEST).unwrap_err().kind(),
        ErrorKind::Corruption
    );
    assert!(get(&reader, b"user00000003", Trailer::NEWEST).is_ok());
    // A long scan, such as a compaction, never trusts an earlier look.
    assert_eq!(
        cursor_of(&reader, Access::Sequential).seek_to_first().unwrap_err().offset(),
        Some(20)
    );
    reader.clear_verified();
    let error = get(&reader, b"user00000003", Trailer::NEWEST).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corruption, Some(20)));
}

#[test]
fn a_cursor_returns_its_error_and_starts_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("000007.table");
    let entries = numbered();
    let meta = write(dir.path(), options(Compression::None), &entries);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    for (mode, access) in
        MODES.into_iter().flat_map(|mode| [(mode, Access::Random), (mode, Access::Sequential)])
    {
        let reader = open(dir.path(), &meta, &context(mode)).unwrap();
        let mut cursor = cursor_of(&reader, access);
        cursor.seek_to_first().unwrap();
        let mut read = 0;
        let error = loop {
            assert!(cursor.valid(), "an error is never taken for the end");
            read += 1;
            if let Err(error) = cursor.next() {
                break error;
            }
        };
        assert!(!cursor.valid() && read > 10 && read < entries.len());
        assert_eq!(error.kind(), ErrorKind::Corruption);
        cursor.seek_to_last().unwrap();
        check_at(&cursor, entries.last());
    }
}

#[test]
fn newer_formats_and_other_tables_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("000007.table");
    let meta = write(dir.path(), options(Compression::None), &numbered());
    let good = std::fs::read(&path).unwrap();
    for place in [8, good.len() - 12] {
        let mut newer = good.clone();
        newer[place] = 9;
        std::fs::write(&path, newer).unwrap();
        let error = open(dir.path(), &meta, &context(ReadMode::Pread)).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("format 9"), "{error}");
    }
    let other = TableMeta { number: FileNumber(8), ..meta.clone() };
    std::fs::write(dir.path().join("000008.table"), &good).unwrap();
    let error = open(dir.path(), &other, &context(ReadMode::Pread)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("this is table 000007"), "{error}");
    std::fs::write(&path, &good).unwrap();
    let wrong = TableMeta { entry_count: 3, ..meta };
    let error = open(dir.path(), &wrong, &context(ReadMode::Mmap)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("disagree"), "{error}");
}

/// The file of a good table, to be damaged with care: every checksum is made good again.
struct Forgery {
    bytes: Vec<u8>,
    footer: Footer,
}

impl Forgery {
    fn of(dir: &Path) -> Self {
        let path = dir.join("000007.table");
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.len() - FOOTER_LEN;
        let footer = Footer::decode(&bytes[at..], FileNumber(7), at as u64, &path).unwrap();
        Forgery { bytes, footer }
    }

    fn region(&mut self, region: Region) -> &mut [u8] {
        &mut self.bytes[region.offset as usize..region.end() as usize]
    }

    /// Changes the block that `handle` names.
    fn block(&mut self, handle: BlockHandle, change: impl FnOnce(&mut [u8])) {
        let stored = &mut self.bytes[handle.offset as usize..handle.end() as usize];
        let (covered, crc) = stored.split_last_chunk_mut::<4>().unwrap();
        change(covered);
        *crc = crate::checksum::checksum_at(7, handle.offset, &[covered]).to_le_bytes();
    }

    /// Writes the file with good checksums and returns what a manifest would say of it.
    fn write(mut self, dir: &Path, meta: &TableMeta) -> TableMeta {
        let Footer { filter, index, properties } = self.footer;
        let [filter, index, properties] = [filter, index, properties]
            .map(|region| Region::of(FileNumber(7), region.offset, self.region(region)));
        let footer = Footer { filter, index, properties };
        let at = self.bytes.len() - FOOTER_LEN;
        self.bytes[at..].copy_from_slice(&footer.encode(FileNumber(7)));
        std::fs::write(dir.join("000007.table"), &self.bytes).unwrap();
        TableMeta { checksum: crate::checksum::checksum(&self.bytes), ..meta.clone() }
    }
}

/// What [`TableReader::verify_all`] says of a table that was forged as `forge` does.
fn verdict(forge: impl FnOnce(&mut Forgery, &TableReader)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let meta = write(dir.path(), options(Compression::None), &numbered());
    let reader = open(dir.path(), &meta, &context(ReadMode::Pread)).unwrap();
    reader.verify_all(reader.meta()).unwrap();
    let mut forgery = Forgery::of(dir.path());
    forge(&mut forgery, &reader);
    let meta = forgery.write(dir.path(), &meta);
    let reader = open(dir.path(), &meta, &context(ReadMode::Mmap)).unwrap();
    let error = reader.verify_all(reader.meta()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    error.to_string()
}

#[test]
fn verification_finds_what_checksums_cannot() {
    let verdict_of_filter = verdict(|forgery, _| {
        let filter = forgery.footer.filter;
        forgery.region(filter)[46..].fill(0);
    });
    assert!(
        verdict_of_filter.contains("filter does not hold the key user00000000"),
        "{verdict_of_filter}"
    );

    // Numbered keys share 10 bytes in the first block; the first heads stand after them.
    let verdict_of_order = verdict(|forgery, reader| {
        forgery.block(reader.handle(0).unwrap(), |block| block[18 + 10..18 + 14].reverse());
    });
    assert!(verdict_of_order.contains("out of order"), "{verdict_of_order}");

    let verdict_of_counts = verdict(|forgery, reader| {
        // The base trailer of the second block: all its sequence numbers move by 2^40.
        forgery.block(reader.handle(1).unwrap(), |block| block[10 + 6] = 1);
    });
    assert!(verdict_of_counts.contains("disagree with its properties"), "{verdict_of_counts}");

    let verdict_of_index = verdict(|forgery, _| {
        // The heads of the index stand after its header and common bytes; lower the last byte of
        // the first.
        let index = forgery.footer.index;
        let bytes = forgery.region(index);
        let common_len = usize::from(bytes[6]);
        let layout = crate::block::BlockLayout::parse(bytes).unwrap();
        let mut key = Vec::new();
        layout.block(bytes).key_into(0, &mut key).unwrap();
        bytes[18 + common_len] -= 1;
    });
    assert!(verdict_of_index.contains("separator is below"), "{verdict_of_index}");
}

#[test]
fn verification_covers_the_file_and_finds_a_wrong_checksum() {
    let dir = tempfile::tempdir().unwrap();
    for compression in COMPRESSIONS {
        let meta = write(dir.path(), options(compression), &numbered());
        open(dir.path(), &meta, &context(ReadMode::Mmap)).unwrap().verify_all(&meta).unwrap();
        let wrong = TableMeta { checksum: meta.checksum ^ 1, ..meta };
        let error = open(dir.path(), &wrong, &context(ReadMode::Mmap))
            .unwrap()
            .verify_all(&wrong)
            .unwrap_err();
        assert!(error.to_string().contains("whole table"), "{error}");
    }
}

#[test]
fn an_index_that_points_outside_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Vec<Entry> = numbered().into_iter().take(3).collect();
    let meta = write(dir.path(), options(Compression::None), &entries);
    let mut forgery = Forgery::of(dir.path());
    let index = forgery.footer.index;
    // The only entry ends with its handle: offset 20 in one byte, then the length.
    let handle_at =
        forgery.region(index).iter().rposition(|&byte| byte == HEADER_LEN as u8).unwrap();
    forgery.region(index)[handle_at] = 100;
    let meta = forgery.write(dir.path(), &meta);
    for mode in MODES {
        let reader = open(dir.path(), &meta, &context(mode)).unwrap();
        for error in [
            get(&reader, b"user00000003", Trailer::NEWEST).map(|_| ()).unwrap_err(),
            cursor_of(&reader, Access::Random).seek_to_first().unwrap_err(),
            reader.verify_all(reader.meta()).unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.offset()), (ErrorKind::Corruption, Some(index.offset)));
        }
    }
}

fn golden(text: &str) -> Vec<u8> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

/// The bytes of tables never change: what was written by the first esker is read by every later
/// one, and this esker writes the same. If this fails, the format was changed: make a new version
/// of it instead.
#[test]
fn stored_bytes_never_change() {
    let entries = sorted(vec![
        put(b"", 1, b"empty key"),
        put(b"esker", 9, b""),
        (b"esker".to_vec(), Trailer::new(SequenceNumber(7), ValueKind::Delete), Vec::new()),
        put(b"esker", 3, &[b'x'; 60]),
        put(b"eskers are ridges", 4, b"of gravel"),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let options = TableWriterOptions { block_bytes: 100, ..options(Compression::None) };
    let meta = write(dir.path(), options, &entries);
    let path = dir.path().join("000007.table");
    let written = std::fs::read(&path).unwrap();
    let hex: Vec<String> = written.iter().map(|byte| format!("{byte:02x}")).collect();
    let text: Vec<String> = hex.chunks(16).map(|line| line.join(" ")).collect();
    let current = golden(include_str!("golden/table.hex"));
    assert_eq!(written, current, "the bytes written are\n{}", text.join("\n"));
    let (number, first) = (meta.number, golden(include_str!("golden/table_1.hex")));
    for (bytes, keyspace) in [(current, Some(KeyspaceId(0))), (first, None)] {
        std::fs::write(&path, bytes).unwrap();
        let (meta, found) = describe(&StdFs, dir.path(), number).unwrap();
        assert_eq!(found, keyspace, "version 1 does not name it");
        check_golden(dir.path(), &meta, &entries);
    }
}

fn check_golden(dir: &Path, meta: &TableMeta, entries: &[Entry]) {
    for mode in MODES {
        let reader = open(dir, meta, &context(mode)).unwrap();
        assert_eq!(reader.block_count(), 3);
        check_cursor(entries, &mut cursor_of(&reader, Access::Random));
        reader.verify_all(reader.meta()).unwrap();
    }
}
