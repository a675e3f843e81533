//! Every byte of a table damaged, and every length of it: what is handed out is right, and gaps name the rest.

use super::*;
use crate::fs::SimFs;
use crate::key::{SequenceNumber, ValueKind};
use crate::options::FilterKind;
use crate::table::writer::{TableWriter, TableWriterOptions};

const DIR: &str = "/db";
const NUMBER: FileNumber = FileNumber(7);

type Entry = (Vec<u8>, Trailer, Vec<u8>);

fn writer(fs: &SimFs, block_bytes: usize, compression: Compression) -> TableWriter {
    fs.create_dir_all(Path::new(DIR)).unwrap();
    let options = TableWriterOptions {
        number: NUMBER,
        keyspace: KeyspaceId(3),
        block_bytes,
        compression,
        filter: FilterKind::Blocked,
        filter_bits: 10.0,
    };
    TableWriter::create(fs, Path::new(DIR), options).unwrap()
}

/// A table of several blocks; some keys have several versions, one has enough to span blocks.
fn table(compression: Compression) -> (SimFs, TableMeta, Vec<Entry>) {
    let fs = SimFs::new();
    let mut writer = writer(&fs, 600, compression);
    let mut entries = Vec::new();
    for key in 0..60u64 {
        let versions = if key == 30 { 20 } else { 1 + key % 2 };
        for version in (1..=versions).rev() {
            let kind = if key % 7 == 0 { ValueKind::Delete } else { ValueKind::Put };
            let value = if kind == ValueKind::Put { vec![key as u8; 50] } else { Vec::new() };
            let trailer = Trailer::new(SequenceNumber(100 * version + key), kind);
            entries.push((format!("key {key:03}").into_bytes(), trailer, value));
        }
    }
    for (key, trailer, value) in &entries {
        writer.add(key, *trailer, value).unwrap();
    }
    let meta = writer.finish().unwrap();
    (fs, meta, entries)
}

fn read(fs: &SimFs, known: Option<&TableMeta>) -> (Salvaged, Vec<Entry>) {
    let mut found: Vec<Entry> = Vec::new();
    let salvaged = salvage(fs, Path::new(DIR), NUMBER, known, &mut |key, trailer, value| {
        found.push((key.to_vec(), trailer, value.to_vec()));
        Ok(())
    });
    (salvaged.unwrap(), found)
}

/// What was found is right, in order, and what was not lies in a gap. Returns how many entries are missing.
fn check(entries: &[Entry], salvaged: &Salvaged, found: &[Entry], case: &str) -> usize {
    assert_eq!(salvaged.entry_count, found.len() as u64, "{case}");
    let mut rest = found.iter().peekable();
    let mut missing = 0;
    for entry in entries {
        if rest.next_if_eq(&entry).is_some() {
            continue;
        }
        missing += 1;
        let in_gap = salvaged.gaps.iter().any(|gap| {
            gap.from.as_ref().is_none_or(|from| *from <= entry.0)
                && gap.to.as_ref().is_none_or(|to| entry.0 <= *to)
        });
        assert!(
            in_gap,
            "{case}: {} is in no gap: {:?}",
            crate::key::escape(&entry.0),
            salvaged.gaps
        );
    }
    assert!(rest.next().is_none(), "{case}: an entry that never was");
    missing
}

#[test]
fn one_damaged_byte_costs_at_most_its_block() {
    for compression in [Compression::None, Compression::Snap, Compression::Zstd] {
        let (fs, meta, entries) = table(compression);
        let path = Path::new(DIR).join("000007.table");
        let bytes = fs.read_file(&path).unwrap();
        let data_end = Anatomy::of(&bytes, NUMBER).data_end.unwrap() as usize;
        for at in (0..bytes.len()).step_by(3) {
            fs.flip(&path, at as u64, 0x10).unwrap();
            for known in [Some(&meta), None] {
                let case = format!("{compression:?}, byte {at}, manifest {}", known.is_some());
                let (salvaged, found) = read(&fs, known);
                let missing = check(&entries, &salvaged, &found, &case);
                let is_data = (HEADER_LEN..data_end).contains(&at);
                assert_eq!(missing > 0, is_data, "{case}: {missing} entries are missing");
                assert!(missing < entries.len() / 2, "{case}: {missing} entries are missing");
                // Without any manifest and index nobody can know whether the last block found was the last.
                assert!(is_data || known.is_none() || salvaged.gaps.is_empty(), "{case}");
            }
            fs.flip(&path, at as u64, 0x10).unwrap();
        }
    }
}

#[test]
fn a_table_cut_short_gives_the_blocks_before_the_cut() {
    let (fs, meta, entries) = table(Compression::Snap);
    let path = Path::new(DIR).join("000007.table");
    let bytes = fs.read_file(&path).unwrap();
    let mut found_before = 0;
    for len in (0..bytes.len()).step_by(61) {
        fs.write_file(&path, &bytes[..len]).unwrap();
        for known in [Some(&meta), None] {
            let (salvaged, found) = read(&fs, known);
            check(&entries, &salvaged, &found, &format!("{len} bytes"));
            assert!(found.len() >= found_before, "more bytes give more entries");
            found_before = found.len();
        }
    }
    assert_eq!(found_before, entries.len(), "a cut in the regions costs no entry");
}

#[test]
fn damage_to_an_index_and_a_block_costs_that_block() {
    let (fs, meta, entries) = table(Compression::None);
    let path = Path::new(DIR).join("000007.table");
    let bytes = fs.read_file(&path).unwrap();
    let data_end = Anatomy::of(&bytes, NUMBER).data_end.unwrap();
    fs.flip(&path, bytes.len() as u64 - 20, 1).unwrap();
    fs.flip(&path, bytes.len() as u64 - 60, 1).unwrap();
    fs.flip(&path, data_end / 2, 1).unwrap();
    let (salvaged, found) = read(&fs, Some(&meta));
    let missing = check(&entries, &salvaged, &found, "both");
    assert!(missing > 0 && missing < 30, "{missing}");
}

#[test]
fn hidden_entries_stay_hidden_and_a_newer_format_is_no_damage() {
    let (fs, meta, entries) = table(Compression::None);
    let path = Path::new(DIR).join("000007.table");
    let hidden = entries.iter().filter(|entry| *entry.0 < b"key 020"[..]).count() as u64;
    let part = TableMeta {
        smallest: b"key 020".as_slice().into(),
        entry_count: meta.entry_count - hidden,
        hidden_entry_count: hidden,
        ..meta
    };
    fs.flip(&path, 3, 1).unwrap();
    let (salvaged, found) = read(&fs, Some(&part));
    assert_eq!(found, entries[hidden as usize..]);
    assert!(salvaged.gaps.is_empty(), "{:?}", salvaged.gaps);
    assert_eq!(salvaged.properties.unwrap().keyspace, Some(KeyspaceId(3)));
    fs.flip(&path, 3, 1).unwrap();

    let bytes = fs.read_file(&path).unwrap();
    fs.flip(&path, 8, 8).unwrap();
    assert!(read(&fs, None).1.len() == entries.len(), "one end alone is damage");
    fs.flip(&path, bytes.len() as u64 - 12, 8).unwrap();
    let error = salvage(&fs, Path::new(DIR), NUMBER, None, &mut |_, _, _| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn blocks_behind_a_long_damaged_one_are_found_without_the_index() {
    let fs = SimFs::new();
    let mut writer = writer(&fs, 8 << 10, Compression::None);
    for key in 0..300u64 {
        let value = [key as u8; 200];
        let trailer = Trailer::new(SequenceNumber(key + 1), ValueKind::Put);
        writer.add(format!("key {key:03}").as_bytes(), trailer, &value).unwrap();
    }
    let meta = writer.finish().unwrap();
    let path = Path::new(DIR).join("000007.table");
    let bytes = fs.read_file(&path).unwrap();
    let index = Anatomy::of(&bytes, NUMBER).index.unwrap();
    assert!(index.len() > 5);
    fs.flip(&path, index[2].1.offset + 40, 1).unwrap();
    for from_end in [20, 60] {
        fs.flip(&path, bytes.len() as u64 - from_end, 1).unwrap();
    }
    assert!(Anatomy::of(&fs.read_file(&path).unwrap(), NUMBER).index.is_none());
    let (salvaged, found) = read(&fs, Some(&meta));
    // What the block held, and what may have stood at the end.
    assert_eq!(salvaged.gaps.len(), 2, "{:?}", salvaged.gaps);
    assert!(found.len() > 250, "{}", found.len());
    assert_eq!(found.last().unwrap().0, b"key 299");
}

#[test]
fn a_stamp_that_is_not_the_entries_own_gives_no_two_alike() {
    let (fs, meta, _) = table(Compression::None);
    let stamp = SequenceNumber(0xff_ffff);
    let known = TableMeta { sequence_min: stamp, sequence_max: stamp, ..meta };
    let (salvaged, found) = read(&fs, Some(&known));
    assert!(!salvaged.gaps.is_empty());
    for pair in found.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        assert!(compare_entries((&before.0, before.1), (&after.0, after.1)).is_lt());
    }
}
