//! The bytes of the format, and decoders that stand anything.

use proptest::prelude::*;

use super::*;
use crate::coding::put_slice;

fn path() -> &'static Path {
    Path::new("/app.trace")
}

fn put(
    value_bytes: u32,
    ttl_ms: Option<u64>,
    (ascending, appended): (bool, bool),
) -> TraceOperation {
    TraceOperation::Put { value_bytes, ttl_ms, ascending, appended }
}

fn record(time_us: u64, key_hash: u64, key_bytes: u32, operation: TraceOperation) -> TraceRecord {
    TraceRecord { time_us, key_hash, key_bytes, operation }
}

/// A block whose counts are those of its records.
pub(in crate::trace) fn block_of(keyspace: u32, records: Vec<TraceRecord>) -> TraceBlock {
    let mut counts = TraceCounts::default();
    for record in &records {
        counts.add_operation(record.operation, record.key_bytes);
    }
    let first_us = records.first().map_or(0, |record| record.time_us);
    let last_us = records.last().map_or(0, |record| record.time_us);
    TraceBlock { keyspace, sample_shift: 0, first_us, last_us, counts, records }
}

pub(in crate::trace) fn payload_of(block: &TraceBlock) -> Vec<u8> {
    let mut payload = Vec::new();
    encode_block_header(&mut payload, block);
    let mut previous_us = block.first_us;
    for record in &block.records {
        encode_record(&mut payload, record, previous_us);
        previous_us = record.time_us;
    }
    payload
}

/// A trace of these blocks.
pub(in crate::trace) fn file_of(start_unix_ms: u64, blocks: &[TraceBlock]) -> Vec<u8> {
    let mut file = encode_file_header(start_unix_ms);
    for block in blocks {
        let offset = file.len() as u64;
        encode_frame(&mut file, start_unix_ms, offset, &payload_of(block));
    }
    file
}

fn example() -> TraceBlock {
    block_of(
        3,
        vec![
            record(5, 0x0807_0605_0403_0201, 2, put(300, None, (true, true))),
            record(6, 0x10, 1, put(4, Some(1000), (true, false))),
            record(6, 0x10, 1, TraceOperation::Delete),
            record(206, 0x10, 1, TraceOperation::GetHit { value_bytes: 4 }),
            record(206, 0x11, 7, TraceOperation::GetMiss),
            record(207, 0x12, 0, TraceOperation::Scan { entries: 9 }),
        ],
    )
}

/// The example of `docs/format/trace.md`.
#[test]
fn the_bytes_of_the_format() {
    let expected: &[&[u8]] = &[
        b"eskertrc\x01\0\0\0\0\0\0\0\xe8\x03\0\0\0\0\0\0\0\0\0\0",
        &HEADER_CRC.to_le_bytes(),
        b"\x5c\0\0\0",
        &LEN_CRC.to_le_bytes(),
        &PAYLOAD_CRC.to_le_bytes(),
        b"\x03\0\x05\xca\x01",
        b"\x02\x01\x02\x01\x03\xb0\x02\x01\x01\x01\x01\x01\x09",
        b"\x19\0\x01\x02\x03\x04\x05\x06\x07\x08\x02\xac\x02",
        b"\x0a\x01\x10\0\0\0\0\0\0\0\x01\x04\xe8\x07",
        b"\0\0\x10\0\0\0\0\0\0\0\x01",
        b"\x03\xc8\x01\x10\0\0\0\0\0\0\0\x01\x04",
        b"\x04\0\x11\0\0\0\0\0\0\0\x07",
        b"\x05\x01\x12\0\0\0\0\0\0\0\0\x09",
    ];
    assert_eq!(file_of(1000, &[example()]), expected.concat());
}

/// Calculated with zlib from the salts and bytes that `docs/format/trace.md` names.
const HEADER_CRC: u32 = 0x826e_9d6e;
const LEN_CRC: u32 = 0xec47_1045;
const PAYLOAD_CRC: u32 = 0xdb3c_3b06;

#[test]
fn a_header_is_read_back_or_refused_by_what_is_wrong() {
    let header: [u8; FILE_HEADER_BYTES] = encode_file_header(77).try_into().unwrap();
    assert_eq!(decode_file_header(path(), &header).unwrap(), 77);
    for at in 0..FILE_HEADER_BYTES {
        let mut damaged = header;
        damaged[at] ^= 0x40;
        let error = decode_file_header(path(), &damaged).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "byte {at}");
    }
    let mut newer = header;
    newer[8] = 2;
    let crc = checksum_at(0, 0, &[&newer[..28]]);
    newer[28..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(decode_file_header(path(), &newer).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn kinds_of_newer_versions_are_unsupported_and_nonsense_is_corruption() {
    let header = payload_of(&block_of(0, Vec::new()));
    let after_header = |tag: u8| [&header[..], &[tag, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]].concat();
    let kind_of = |payload: &[u8]| decode_block(path(), 32, payload).map_err(|e| e.kind());
    assert!(kind_of(&after_header(SCAN)).is_ok());
    for tag in [6, 7, SCAN | 0x20, PUT | 0x80] {
        assert_eq!(kind_of(&after_header(tag)), Err(ErrorKind::Unsupported), "tag {tag:#x}");
    }
    for tag in [SCAN | ASCENDING, GET_HIT | APPENDED, PUT_EXPIRING] {
        assert_eq!(kind_of(&after_header(tag)), Err(ErrorKind::Corruption), "tag {tag:#x}");
    }
    let mut long_key = header.clone();
    long_key.extend_from_slice(b"\0\0\x01\0\0\0\0\0\0\0\x80\x80\x04");
    assert_eq!(kind_of(&long_key), Err(ErrorKind::Corruption));
    let mut no_sample = header;
    no_sample[1] = 64;
    assert_eq!(kind_of(&no_sample), Err(ErrorKind::Corruption));
    let error = decode_block(path(), 4711, b"\x80").unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Corruption, Some(4711)));
}

fn any_operation() -> impl Strategy<Value = TraceOperation> {
    prop_oneof![
        (any::<u32>(), any::<Option<u64>>(), any::<(bool, bool)>())
            .prop_map(|(value_bytes, ttl_ms, order)| put(value_bytes, ttl_ms, order)),
        Just(TraceOperation::Delete),
        any::<u32>().prop_map(|value_bytes| TraceOperation::GetHit { value_bytes }),
        Just(TraceOperation::GetMiss),
        (0..1u64 << 40).prop_map(|entries| TraceOperation::Scan { entries }),
    ]
}

fn any_block() -> impl Strategy<Value = TraceBlock> {
    let record = (0..1u64 << 40, any::<u64>(), 0..=KEY_LEN_MAX as u32, any_operation())
        .prop_map(|(time_us, hash, bytes, operation)| record(time_us, hash, bytes, operation));
    let records = proptest::collection::vec(record, 0..50);
    (any::<u32>(), 0..=SAMPLE_SHIFT_MAX, records).prop_map(
        |(keyspace, sample_shift, mut records)| {
            records.sort_by_key(|record| record.time_us);
            TraceBlock { sample_shift, ..block_of(keyspace, records) }
        },
    )
}

proptest! {
    #[test]
    fn blocks_round_trip(block in any_block()) {
        let payload = payload_of(&block);
        let longest = BLOCK_HEADER_BYTES_MAX + block.records.len() * RECORD_BYTES_MAX;
        prop_assert!(payload.len() <= longest);
        prop_assert_eq!(decode_block(path(), 0, &payload).unwrap(), block);
    }

    #[test]
    fn every_change_of_a_frame_is_seen(block in any_block(), at: usize, mask in 1u8..) {
        let file = file_of(5, &[block]);
        let mut frame = file[FILE_HEADER_BYTES..].to_vec();
        let at = at % frame.len();
        frame[at] ^= mask;
        let offset = FILE_HEADER_BYTES as u64;
        let (header, payload) = frame.split_first_chunk().unwrap();
        let is_whole = FrameHeader::decode(5, offset, header).is_some_and(|header| {
            header.payload_bytes == payload.len() && header.matches(5, offset, payload)
        });
        prop_assert!(!is_whole);
    }

    #[test]
    fn decoding_is_total(mut bytes: Vec<u8>, head: Vec<u8>) {
        let _ = decode_block(path(), 0, &bytes);
        let mut payload = payload_of(&block_of(0, Vec::new()));
        put_slice(&mut payload, &head);
        payload.append(&mut bytes);
        let _ = decode_block(path(), 0, &payload);
    }
}
