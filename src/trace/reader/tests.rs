//! Whole files, torn files and damaged files.

use super::*;
use crate::fs::SimFs;
use crate::trace::format::tests::{block_of, file_of};
use crate::trace::{TraceOperation, TraceRecord};

const PATH: &str = "/traces/app.trace";

fn block(count: u64) -> TraceBlock {
    let record = |n| TraceRecord {
        time_us: n,
        key_hash: n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        key_bytes: 16,
        operation: TraceOperation::GetMiss,
    };
    block_of(0, (0..count).map(record).collect())
}

/// The blocks in a file of these bytes, and how much of its end is torn.
fn read(bytes: &[u8]) -> Result<(Vec<TraceBlock>, u64)> {
    let fs = SimFs::new();
    fs.write_file(PATH, bytes).unwrap();
    let mut reader = TraceReader::open(&fs, Path::new(PATH))?;
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block()? {
        blocks.push(block);
    }
    assert_eq!(reader.next_block().unwrap(), None, "the end stays the end");
    Ok((blocks, reader.torn_bytes()))
}

#[test]
fn a_whole_trace_is_read_to_its_end() {
    let blocks = [block(3), block(0), block(100)];
    assert_eq!(read(&file_of(9, &blocks)).unwrap(), (blocks.to_vec(), 0));
    assert_eq!(read(&file_of(9, &[])).unwrap(), (Vec::new(), 0));
}

#[test]
fn a_trace_cut_anywhere_gives_the_blocks_before_the_cut() {
    let blocks = [block(3), block(2), block(5)];
    let file = file_of(9, &blocks);
    let ends: Vec<usize> = (0..=3).map(|count| file_of(9, &blocks[..count]).len()).collect();
    for cut in FILE_HEADER_BYTES..=file.len() {
        let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
        let (read, torn_bytes) = read(&file[..cut]).unwrap();
        assert_eq!(read, blocks[..whole], "cut at {cut}");
        assert_eq!(torn_bytes as usize, cut - ends[whole], "cut at {cut}");
    }
    for cut in 0..FILE_HEADER_BYTES {
        assert_eq!(read(&file[..cut]).unwrap_err().kind(), ErrorKind::Corruption);
    }
}

#[test]
fn damage_is_corruption_with_its_offset_unless_it_may_be_a_torn_end() {
    let blocks = [block(4000), block(4000), block(4000)];
    let file = file_of(9, &blocks);
    let second = file_of(9, &blocks[..1]).len();
    // In the head and in the payload of the second of three long blocks.
    for at in [second, second + 7, second + 9, second + 20, second + 30_000] {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        let error = read(&damaged).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{at}");
        assert_eq!(error.offset(), Some(second as u64), "{at}");
    }
    let last = file_of(9, &blocks[..2]).len();
    for at in [last + 3, last + 9, last + 1000] {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        let (read, torn_bytes) = read(&damaged).unwrap();
        assert_eq!((read.len(), torn_bytes as usize), (2, file.len() - last), "{at}");
    }
}

#[test]
fn blocks_in_another_place_or_another_trace_are_not_believed() {
    let (one, other) = (file_of(9, &[block(4000), block(4000)]), file_of(8, &[block(4000)]));
    let second = file_of(9, &[block(4000)]).len();
    let mixed = [&one[..FILE_HEADER_BYTES], &other[FILE_HEADER_BYTES..], &one[second..]].concat();
    assert_eq!(read(&mixed).unwrap_err().kind(), ErrorKind::Corruption);
    let moved = [&one[..FILE_HEADER_BYTES], &one[second..], &one[second..]].concat();
    assert_eq!(read(&moved).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn a_missing_file_and_a_foreign_file_are_told_apart() {
    let fs = SimFs::new();
    let kind = || TraceReader::open(&fs, Path::new(PATH)).unwrap_err().kind();
    assert_eq!(kind(), ErrorKind::NotFound);
    fs.write_file(PATH, b"a letter to somebody, long enough for a header").unwrap();
    assert_eq!(kind(), ErrorKind::Corruption);
}
