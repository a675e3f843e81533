//! Damaged logs: never a wrong payload, never a panic, never a silent loss of what was promised.

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;
use crate::wal::segment::{RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader};

const MODES: [RecoveryMode; 4] = [
    RecoveryMode::PointInTime,
    RecoveryMode::Absolute,
    RecoveryMode::TolerateTail,
    RecoveryMode::Salvage,
];

/// Six records in two segments, synced before each record if `synced`.
fn two_segments(synced: bool) -> Log {
    let mut log = Log::new(256, false);
    for index in 0..6 {
        log.append(1 + (index % 2) as u32, &payload(index, 20 + index as usize));
        if synced {
            log.sync();
        }
    }
    assert_eq!(log.writer.end_position().segment, FileNumber(2));
    log
}

/// Length of the data of each segment.
fn data_bytes(log: &Log) -> Vec<(u64, usize)> {
    log.writer.segments().map(|s| (s.number.0, s.data_bytes as usize)).collect()
}

#[test]
fn a_record_torn_at_any_byte_is_dropped_and_only_it() {
    for mapped in [false, true] {
        let mut log = Log::new(256, mapped);
        log.append(1, &payload(0, 40));
        log.append(1, &payload(1, 40));
        log.sync();
        let start = log.writer.end_position().offset as usize;
        let end = log.append(2, &payload(2, 40)).offset as usize;
        let whole = read_segment(log.path(), 1);
        for torn_at in start..end {
            let mut zeroed = whole.clone();
            zeroed[torn_at..].fill(0);
            for (bytes, is_cut) in [(zeroed.as_slice(), false), (&whole[..torn_at], true)] {
                write_segment(log.path(), 1, bytes);
                let (found, seen) = log.replay(RecoveryMode::PointInTime).unwrap();
                assert_eq!(seen, log.appended[..2], "torn at {torn_at}");
                assert_eq!(found.end.offset as usize, start);
                assert_eq!(found.next_sequence, SequenceNumber(3));
                assert_eq!(log.replay(RecoveryMode::TolerateTail).unwrap().1, seen);
                assert_eq!(log.replay(RecoveryMode::Salvage).unwrap().1, seen);
                let is_clean = torn_at == start;
                let absolute = log.replay(RecoveryMode::Absolute);
                assert_eq!(absolute.is_ok(), is_clean, "torn at {torn_at}, cut: {is_cut}");
                // The manifest knows better: the record had been synced.
                let promised = WalPosition { segment: FileNumber(1), offset: end as u64 };
                let error =
                    replay_dir(log.path(), RecoveryMode::PointInTime, promised).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corruption);
                assert_eq!(error.offset(), Some(start as u64));
                assert_eq!(error.path(), Some(segment_path(log.path(), 1).as_path()));
            }
        }
    }
}

#[test]
fn a_flipped_bit_never_gives_a_wrong_record_nor_loses_a_promised_one() {
    for synced in [false, true] {
        let log = two_segments(synced);
        let all = &log.appended;
        let end = log.writer.end_position();
        for (number, len) in data_bytes(&log) {
            let whole = read_segment(log.path(), number);
            for bit in (0..len).map(|byte| byte * 8 + byte % 8) {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                write_segment(log.path(), number, &bytes);
                let context = format!("segment {number} byte {} bit {}", bit / 8, bit % 8);
                match log.replay(RecoveryMode::PointInTime) {
                    Ok((_, seen)) => {
                        assert_eq!(seen, all[..seen.len()], "{context}");
                        // Every record but the last is vouched for by the one after it.
                        assert!(!synced || seen.len() >= all.len() - 1, "{context}");
                        assert!(seen.len() < all.len(), "{context}");
                    }
                    Err(error) => {
                        assert!(synced, "{context}: {error}");
                        assert_eq!(error.kind(), ErrorKind::Corruption, "{context}");
                    }
                }
                replay_dir(log.path(), RecoveryMode::PointInTime, end).unwrap_err();
                log.replay(RecoveryMode::Absolute).unwrap_err();
                let (found, salvaged) = log.replay(RecoveryMode::Salvage).unwrap();
                assert!(salvaged.iter().all(|record| all.contains(record)), "{context}");
                let in_header = bit < 64 * 8;
                assert_eq!(salvaged.len(), all.len() - usize::from(!in_header), "{context}");
                assert_eq!(found.dropped_bytes == 0, in_header, "{context}");
            }
            write_segment(log.path(), number, &whole);
        }
    }
}

#[test]
fn a_segment_cut_on_a_record_boundary_is_noticed() {
    for synced in [false, true] {
        let log = two_segments(synced);
        let kept = log.ends.iter().filter(|end| end.segment.0 == 1).count() - 1;
        let cut = log.ends[kept - 1];
        let mut bytes = read_segment(log.path(), 1);
        bytes[cut.offset as usize..].fill(0);
        write_segment(log.path(), 1, &bytes);
        match log.replay(RecoveryMode::PointInTime) {
            Ok((found, seen)) => {
                assert!(!synced);
                assert_eq!(seen, log.appended[..kept]);
                assert_eq!(found.end, cut);
                assert_eq!(found.dropped_record_count as usize, 6 - 1 - kept);
                assert_eq!(found.max_sequence_seen.0 + 1, log.writer.next_sequence().0);
                log.replay(RecoveryMode::TolerateTail).unwrap_err();
            }
            Err(error) => {
                assert!(synced, "{error}");
                assert_eq!(error.offset(), Some(cut.offset));
            }
        }
    }
}

#[test]
fn a_missing_segment_is_noticed() {
    for synced in [false, true] {
        for missing in [1, 2] {
            let mut log = Log::new(256, false);
            for index in 0..3 {
                log.append(1, &payload(index, 150));
            }
            log.append(1, b"short");
            if synced {
                log.sync();
                log.append(1, b"vouches");
            }
            StdFs.remove(&segment_path(log.path(), missing)).unwrap();
            log.replay(RecoveryMode::Absolute).unwrap_err();
            match log.replay(RecoveryMode::PointInTime) {
                Ok((_, seen)) => {
                    assert!(!synced);
                    assert_eq!(seen, log.appended[..missing as usize - 1]);
                }
                Err(error) => assert!(synced, "{error}"),
            }
            let salvaged = log.replay(RecoveryMode::Salvage).unwrap().1;
            assert_eq!(salvaged.len(), log.appended.len() - 1);
        }
    }
}

#[test]
fn salvage_gives_out_no_number_again_that_a_header_counts() {
    let mut log = Log::new(256, false);
    for index in 0..3 {
        log.append(4, &payload(index, 150));
    }
    for number in [2, 3] {
        let mut bytes = read_segment(log.path(), number);
        bytes[100] ^= 1;
        write_segment(log.path(), number, &bytes);
    }
    let (found, seen) = log.replay(RecoveryMode::Salvage).unwrap();
    assert_eq!(seen, log.appended[..1]);
    assert_eq!(found.max_sequence_seen, SequenceNumber(8));
}

#[test]
fn what_an_earlier_recovery_dropped_is_not_salvaged() {
    let mut log = Log::new(256, false);
    for index in 0..3 {
        log.append(1, &payload(index, 20));
    }
    let mut bytes = read_segment(log.path(), 1);
    bytes[SEGMENT_HEADER_LEN + 31 + 15] ^= 1;
    write_segment(log.path(), 1, &bytes);
    assert_eq!(log.replay(RecoveryMode::Salvage).unwrap().1.len(), 2, "the first and the third");
    assert_eq!(log.reopen().dropped_record_count, 1);
    log.append(1, b"after");
    assert_eq!(log.replay(RecoveryMode::Salvage).unwrap().1.len(), 2);
    assert_eq!(log.replay(RecoveryMode::Salvage).unwrap().1[1].payload, b"after");
}

#[test]
fn a_zeroed_sector_before_synced_records_is_corruption() {
    let mut log = Log::new(4096, false);
    for index in 0..15 {
        log.append(1, &payload(index, 200));
        log.sync();
    }
    let whole = read_segment(log.path(), 1);
    for sector in 0..4 {
        let mut bytes = whole.clone();
        bytes[sector * 512..][..512].fill(0);
        write_segment(log.path(), 1, &bytes);
        let error = log.replay(RecoveryMode::PointInTime).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "sector {sector}");
    }
}

#[test]
fn a_lost_header_with_synced_records_is_corruption_and_one_without_is_an_empty_segment() {
    let mut log = Log::new(256, false);
    log.append(1, &payload(0, 150));
    log.append(1, &payload(1, 20));
    let first = read_segment(log.path(), 1);
    // A header that says segment 1, as in a segment that was recycled and not begun.
    write_segment(log.path(), 2, &first);
    let (found, seen) = log.replay(RecoveryMode::Absolute).unwrap();
    assert_eq!(seen, log.appended[..1]);
    assert_eq!(found.next_segment, FileNumber(3));
    write_segment(log.path(), 2, &[0; 256]);
    assert_eq!(log.replay(RecoveryMode::Absolute).unwrap().1, log.appended[..1]);

    let mut log = two_segments(true);
    log.append(1, b"last");
    let mut second = read_segment(log.path(), 2);
    second[..64].copy_from_slice(&first[..64]);
    write_segment(log.path(), 2, &second);
    log.replay(RecoveryMode::PointInTime).unwrap_err();
}

/// Rewrites the first record of segment 1 with `kind_bits`, its checksum right.
fn with_kind(log: &Log, kind_bits: u8) -> Vec<u8> {
    let mut bytes = read_segment(log.path(), 1);
    let at = WalPosition { segment: FileNumber(1), offset: 64 };
    let header = RecordHeader::decode(&bytes[64..], at, 256).unwrap().header;
    let payload_crc = checksum(&log.appended[0].payload);
    let mut encoded = Vec::new();
    header.with_kind_bits(kind_bits).encode(&mut encoded, at, payload_crc);
    bytes[64..64 + encoded.len()].copy_from_slice(&encoded);
    bytes
}

#[test]
fn records_and_segments_of_newer_versions_are_refused_and_not_dropped() {
    let mut log = Log::new(256, false);
    log.append(1, b"one");
    log.append(1, b"two");
    let whole = read_segment(log.path(), 1);
    for kind_bits in [0, 4, 8, 9, 10, 15] {
        write_segment(log.path(), 1, &with_kind(&log, kind_bits));
        for mode in MODES {
            let error = log.replay(mode).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{kind_bits} {mode:?}");
            assert_eq!(error.offset(), Some(64));
        }
    }
    let mut bytes = whole.clone();
    bytes[8] = 2;
    let crc = crate::checksum::checksum_at(1, 0, &[&bytes[..60]]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    write_segment(log.path(), 1, &bytes);
    for mode in MODES {
        assert_eq!(log.replay(mode).unwrap_err().kind(), ErrorKind::Unsupported, "{mode:?}");
    }
}

#[test]
fn a_whole_record_with_a_wrong_sequence_number_is_corruption_in_every_mode() {
    let mut log = Log::new(256, false);
    let end = log.append(1, b"one");
    let mut bytes = read_segment(log.path(), 1);
    for (first, count) in [(1, 1), (3, 1), (2, 0)] {
        let mut encoded = Vec::new();
        let header = RecordHeader::batch(SequenceNumber(first), count, 3);
        header.encode(&mut encoded, end, checksum(b"two"));
        encoded.extend_from_slice(b"two");
        bytes[end.offset as usize..][..encoded.len()].copy_from_slice(&encoded);
        write_segment(log.path(), 1, &bytes);
        for mode in &MODES[..3] {
            let error = log.replay(*mode).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption);
            assert_eq!(error.offset(), Some(end.offset));
        }
    }
}

#[test]
fn bytes_made_to_need_quadratic_work_are_refused() {
    let mut log = Log::new(256 << 10, false);
    log.append(1, b"one");
    let mut bytes = read_segment(log.path(), 1);
    // Every 16 bytes a header that is right and claims all the rest as its payload.
    for offset in (128..bytes.len() - 16).step_by(16) {
        let at = WalPosition { segment: FileNumber(1), offset: offset as u64 };
        let payload_len = (bytes.len() - offset - 14) as u64;
        let mut header = Vec::new();
        RecordHeader::batch(SequenceNumber(5), 1, payload_len).encode(&mut header, at, 0);
        bytes[offset..][..header.len()].copy_from_slice(&header);
    }
    write_segment(log.path(), 1, &bytes);
    let error = log.replay(RecoveryMode::PointInTime).unwrap_err();
    assert!(error.what().contains("beyond telling"), "{error}");
    assert_eq!(log.replay(RecoveryMode::Salvage).unwrap().1, log.appended);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_give_a_log_or_an_error(
        segments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 1..4),
        with_headers: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut previous = WalPosition::default();
        for (index, bytes) in segments.iter().enumerate() {
            let segment = FileNumber(index as u64 + 1);
            let mut bytes = bytes.clone();
            if with_headers {
                let first_sequence = SequenceNumber(1);
                let header = SegmentHeader {
                    segment,
                    previous,
                    previous_synced_bytes: 0,
                    first_sequence,
                };
                bytes.splice(0..0, header.encode());
                previous = WalPosition { segment, offset: 64 };
            }
            write_segment(dir.path(), segment.0, &bytes);
        }
        for mode in MODES {
            let promised = WalPosition::default();
            if let Ok((_, seen)) = replay_dir(dir.path(), mode, promised) {
                prop_assert!(seen.is_empty());
            }
        }
    }

    #[test]
    fn overwritten_ranges_leave_a_prefix(
        damage in prop::collection::vec(
            (1u64..3, 0usize..256, prop::collection::vec(any::<u8>(), 1..40)),
            1..4,
        ),
        synced: bool,
    ) {
        let log = two_segments(synced);
        for (number, at, bytes) in damage {
            let mut segment = read_segment(log.path(), number);
            let len = bytes.len().min(segment.len() - at);
            segment[at..at + len].copy_from_slice(&bytes[..len]);
            write_segment(log.path(), number, &segment);
        }
        for mode in MODES {
            if let Ok((_, seen)) = log.replay(mode) {
                if mode == RecoveryMode::Salvage {
                    prop_assert!(seen.iter().all(|record| log.appended.contains(record)));
                } else {
                    prop_assert_eq!(&seen[..], &log.appended[..seen.len()]);
                }
            }
        }
    }

    #[test]
    fn what_is_appended_comes_back(
        records in prop::collection::vec((0u64..3, 1u32..5, 0usize..700, 0u8..4), 1..40),
        segment_bytes in 100u64..2000,
    ) {
        let mut log = Log::new(segment_bytes, false);
        for (index, (gap, count, len, then)) in records.into_iter().enumerate() {
            let first = log.writer.next_sequence().0 + gap;
            log.append_at(first, count, &payload(index as u64, len));
            match then {
                0 => log.sync(),
                1 => { log.prepare(); }
                _ => {}
            }
        }
        let (found, seen) = log.replay(RecoveryMode::Absolute).unwrap();
        prop_assert_eq!(&seen, &log.appended);
        prop_assert_eq!(found.end, log.writer.end_position());
    }
}
