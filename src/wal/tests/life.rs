//! Intact logs: round trips, segments coming and going, syncs.

use super::*;
use crate::error::ErrorKind;

fn number(segment: u64) -> FileNumber {
    FileNumber(segment)
}

#[test]
fn records_come_back_across_segments_in_both_modes_and_the_files_are_the_same() {
    let fill = |mapped| {
        let mut log = Log::new(4096, mapped);
        for index in 0..60 {
            log.append(1 + (index % 3) as u32, &payload(index, 10 + 7 * index as usize));
            if index % 7 == 0 {
                log.sync();
            }
            log.prepare();
        }
        log.writer.close().unwrap();
        log
    };
    let (written, mapped) = (fill(false), fill(true));
    let (found, mut seen) = written.replay(RecoveryMode::Absolute).unwrap();
    assert_eq!(seen.pop().unwrap().kind, RecordKind::Close);
    assert_eq!(seen, written.appended);
    assert!(found.segments.len() > 3 && found.is_closed);
    assert_eq!(found.end, written.writer.end_position());
    assert_eq!(found.next_sequence, written.writer.next_sequence());
    assert_eq!((found.dropped_bytes, found.dropped_record_count), (0, 0));
    let live: Vec<_> = written.writer.segments().map(|s| (s.number, s.data_bytes)).collect();
    assert_eq!(found.segments, live);
    for (segment, _) in found.segments {
        let bytes = read_segment(written.path(), segment.0);
        assert_eq!(bytes, read_segment(mapped.path(), segment.0), "segment {segment}");
    }
}

#[test]
fn an_empty_directory_is_an_empty_log() {
    let log = Log::new(256, false);
    let (found, seen) = log.replay(RecoveryMode::Absolute).unwrap();
    assert!(seen.is_empty());
    assert_eq!(found.end, WalPosition { segment: number(1), offset: 0 });
    assert_eq!(found.next_segment, number(1));
    let promised = WalPosition { segment: number(1), offset: 64 };
    let error = replay_dir(log.path(), RecoveryMode::PointInTime, promised).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}

#[test]
fn a_record_too_long_for_a_segment_gets_one_of_its_own() {
    let mut log = Log::new(256, false);
    log.append(1, b"before");
    let long = payload(1, 100_000);
    let end = log.append(1, &long);
    assert_eq!(end.segment, number(2));
    log.append(1, b"after");
    let (found, seen) = log.replay(RecoveryMode::Absolute).unwrap();
    assert_eq!(seen, log.appended);
    assert_eq!(found.end, log.writer.end_position());
    // A segment of unusual length is never recycled.
    log.append(1, &payload(2, 5000));
    let first_needed = log.writer.end_position().segment;
    assert_eq!(log.writer.retire(first_needed), [number(2)]);
}

#[test]
fn a_record_may_fill_its_segment_to_the_last_byte() {
    let mut log = Log::new(256, false);
    let header_len = 7 + 2 + 1 + 1 + 1;
    let end = log.append(1, &payload(1, 256 - 64 - header_len));
    assert_eq!(end, WalPosition { segment: number(1), offset: 256 });
    log.append(1, b"next");
    let (found, seen) = log.replay(RecoveryMode::Absolute).unwrap();
    assert_eq!(seen, log.appended);
    assert_eq!(found.segments[0], (number(1), 256));
}

#[test]
fn sequence_numbers_passed_over_are_recorded() {
    let mut log = Log::new(256, false);
    log.append(2, b"one");
    log.append_at(1000, 3, b"two");
    log.append(1, b"three");
    let (found, seen) = log.replay(RecoveryMode::Absolute).unwrap();
    assert_eq!(seen, log.appended);
    assert_eq!(seen[1].kind, RecordKind::Skip);
    assert_eq!(found.next_sequence, SequenceNumber(1004));
}

#[test]
#[should_panic(expected = "sequence numbers never go back")]
fn a_sequence_number_is_never_appended_twice() {
    let mut log = Log::new(256, false);
    log.append(2, b"one");
    log.append_at(2, 1, b"two");
}

#[test]
fn records_carry_how_much_of_their_segment_is_synced() {
    let mut log = Log::new(256, false);
    let first = log.append(1, b"one");
    assert_eq!(log.writer.synced_position(), WalPosition::default());
    log.sync();
    assert_eq!(log.writer.synced_position(), first);
    let target = log.writer.sync_target();
    assert_eq!(target.end(), first);
    let before = log.append(1, b"two");
    log.append(1, &payload(3, 180));
    let bytes = read_segment(log.path(), 1);
    // The synced offset is the last byte of a header as short as this one's.
    assert_eq!(bytes[first.offset as usize + 10], first.offset as u8);
    assert_eq!(&bytes[first.offset as usize + 11..before.offset as usize], b"two");
    // In a new segment the header says it of the old one, and the first record nothing.
    let bytes = read_segment(log.path(), 2);
    assert_eq!(bytes[40..48], first.offset.to_le_bytes());
    assert_eq!(bytes[64 + 11], 0);
}

#[test]
fn a_sync_names_the_new_files_and_goes_from_old_to_new() {
    let fs = Recorder::default();
    let mut log = Log::with_fs(Arc::new(fs.clone()), 256, false);
    log.append(1, &payload(1, 100));
    log.append(1, &payload(2, 100));
    log.append(1, &payload(3, 100));
    fs.take();
    log.sync();
    let expected = ["sync_dir dir", "sync 000001.wal", "sync 000002.wal", "sync 000003.wal"];
    assert_eq!(fs.take(), expected);
    log.sync();
    assert!(fs.take().is_empty(), "nothing new, nothing to sync");
    log.append(1, &payload(4, 20));
    log.sync();
    assert_eq!(fs.take()[1..], ["sync 000003.wal"]);
}

#[test]
fn a_sync_covers_what_was_appended_before_it_and_no_more() {
    let mut log = Log::new(256, false);
    log.append(1, &payload(1, 100));
    let target = log.writer.sync_target();
    target.sync().unwrap();
    // While it ran, the log went on and rotated.
    log.append(1, &payload(2, 10));
    log.append(1, &payload(3, 100));
    log.writer.mark_synced(&target);
    assert_eq!(log.writer.synced_position(), log.ends[0]);
    assert!(log.writer.sync_target().files.len() == 2, "the first segment has grown since");
}

#[test]
fn after_a_failed_write_or_sync_every_append_fails_alike() {
    for failing in ["write", "create 000002.wal", "sync 000001.wal", "sync_dir"] {
        let fs = Recorder::default();
        let mut log = Log::with_fs(Arc::new(fs.clone()), 256, false);
        log.append(1, b"one");
        let other = log.writer.sync_target();
        fs.fail(failing);
        let first = match failing {
            "write" => append(&mut log.writer, 2, 1, b"two").unwrap_err(),
            "create 000002.wal" => append(&mut log.writer, 2, 1, &[7; 200]).unwrap_err(),
            _ => log.writer.sync_target().sync().unwrap_err(),
        };
        assert_eq!(first.kind(), ErrorKind::Io);
        fs.stop_failing();
        fs.take();
        for _ in 0..2 {
            let error = append(&mut log.writer, 2, 1, b"two").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Poisoned);
            assert!(error.to_string().contains(first.what()), "{error}");
            assert_eq!(other.sync().unwrap_err().kind(), ErrorKind::Poisoned);
        }
        assert!(fs.take().is_empty(), "{failing}: nothing is written or synced after the failure");
    }
}

#[test]
fn segments_are_prepared_recycled_and_removed() {
    let fs = Recorder::default();
    let mut log = Log::with_fs(Arc::new(fs.clone()), 256, false);
    assert!(!log.writer.wants_prepared_segment());
    log.append(1, &payload(0, 20));
    assert!(!log.prepare(), "less than half full");
    log.append(1, &payload(0, 60));
    fs.take();
    assert!(log.prepare());
    assert_eq!(fs.take(), ["create 000002.wal", "sync_dir dir"]);
    assert!(!log.prepare(), "one is enough");
    for index in 1..=5 {
        log.append(1, &payload(index, 150));
    }
    assert_eq!(log.writer.end_position().segment, number(6));
    let live = log.writer.live_bytes();
    let removed = log.writer.retire(number(9));
    assert_eq!(
        removed,
        [number(4), number(5)],
        "three are kept, and never is the current one gone"
    );
    assert!(log.writer.retire(number(6)).is_empty());
    assert!(log.writer.live_bytes() < live);
    assert_eq!(log.writer.file_bytes(), 4 * 256);
    fs.take();
    assert!(log.prepare());
    log.append(1, &payload(6, 150));
    log.append(1, &payload(7, 150));
    let made: Vec<_> = fs.take().into_iter().filter(|op| !op.starts_with("write")).collect();
    assert_eq!(made, ["recycle 000007.wal", "sync_dir dir", "recycle 000008.wal"]);
}

#[test]
fn a_rotation_does_not_wait_for_a_preparation_under_way() {
    let mut log = Log::new(256, false);
    log.append(1, &payload(0, 150));
    let preparation = log.writer.start_preparation().unwrap();
    assert!(!log.writer.wants_prepared_segment());
    log.append(1, &payload(1, 150));
    assert_eq!(log.writer.end_position().segment, number(3));
    log.writer.install_prepared(preparation.run().unwrap());
    let (_, seen) = log.replay(RecoveryMode::Absolute).unwrap();
    assert_eq!(seen, log.appended, "a segment made in vain does not end the log");
    log.append(1, &payload(2, 150));
    assert!(StdFs.open(&segment_path(log.path(), 2)).unwrap().is_none(), "recycled as segment 4");
    assert_eq!(log.replay(RecoveryMode::Absolute).unwrap().1, log.appended);
}

#[test]
fn a_failed_preparation_harms_nothing() {
    let fs = Recorder::default();
    let mut log = Log::with_fs(Arc::new(fs.clone()), 256, false);
    log.append(1, &payload(0, 150));
    fs.fail("create 000002.wal");
    assert!(log.writer.start_preparation().unwrap().run().is_err());
    log.writer.abandon_preparation();
    assert!(!log.writer.wants_prepared_segment(), "not again for this segment");
    fs.stop_failing();
    log.append(1, &payload(1, 150));
    assert!(log.writer.wants_prepared_segment());
    assert_eq!(log.replay(RecoveryMode::Absolute).unwrap().1, log.appended);
}

#[test]
fn a_prepared_segment_too_short_for_the_record_is_passed_over() {
    let mut log = Log::new(256, false);
    log.append(1, &payload(0, 150));
    assert!(log.prepare());
    assert_eq!(log.append(1, &payload(1, 1000)).segment, number(3));
    // The spare has the lowest id; it is renamed before it is used.
    log.append(1, &payload(2, 4000));
    log.append(1, &payload(3, 100));
    assert_eq!(log.replay(RecoveryMode::Absolute).unwrap().1, log.appended);
}

#[test]
fn stale_records_of_a_recycled_segment_are_not_read() {
    let mut log = Log::new(256, false);
    log.append(1, &payload(0, 16));
    for index in 1..8 {
        log.append(1, &payload(index, 20));
    }
    assert_eq!(log.writer.end_position().segment, number(2));
    assert!(log.writer.retire(number(2)).is_empty());
    while log.writer.end_position().segment == number(2) {
        log.append(1, &payload(9, 20));
    }
    // Segment 3 was segment 1. Its first record has the old length: the old second one follows it.
    assert!(StdFs.open(&segment_path(log.path(), 1)).unwrap().is_none());
    let first_segment = number(2);
    for zero_is_lost in [false, true] {
        let end = log.writer.end_position();
        if zero_is_lost {
            let mut bytes = read_segment(log.path(), 3);
            bytes[end.offset as usize] = 0xe1;
            write_segment(log.path(), 3, &bytes);
        }
        let mode = RecoveryMode::PointInTime;
        let options = ReplayOptions { first_segment, mode, promised: end };
        let mut firsts = Vec::new();
        let found = replay(&StdFs, log.path(), options, &mut |record| {
            firsts.push(record.first_sequence.0);
            Ok(())
        })
        .unwrap();
        assert_eq!(found.end, end);
        assert_eq!(firsts.last(), Some(&(log.writer.next_sequence().0 - 1)));
        assert_eq!(found.dropped_record_count, 0);
    }
}

#[test]
fn a_closed_log_goes_on_in_a_new_segment() {
    let mut log = Log::new(256, false);
    log.append(1, b"one");
    log.writer.close().unwrap();
    log.sync();
    let found = log.reopen();
    assert!(found.is_closed);
    log.append(1, b"two");
    log.sync();
    log.append(1, b"three");
    let (found, seen) = log.replay(RecoveryMode::Absolute).unwrap();
    assert_eq!(seen, log.appended);
    assert!(!found.is_closed);
    assert_eq!(found.segments.len(), 2);
}

#[test]
fn what_a_recovery_dropped_stays_dropped() {
    let mut log = Log::new(256, false);
    for index in 0..4 {
        log.append(1, &payload(index, 100));
    }
    // The second record is torn: three segments are dropped with it.
    let mut bytes = read_segment(log.path(), 2);
    bytes[100] ^= 1;
    write_segment(log.path(), 2, &bytes);
    let found = log.reopen();
    assert_eq!(found.record_count, 1);
    assert_eq!((found.dropped_record_count, found.max_sequence_seen.0), (2, 4));
    assert_eq!(log.writer.next_sequence(), SequenceNumber(5), "4 was used by a dropped record");
    log.append(1, b"new");
    log.sync();
    log.append(1, b"newer");
    let promised = log.writer.synced_position();
    let (found, seen) = replay_dir(log.path(), RecoveryMode::PointInTime, promised).unwrap();
    assert_eq!(seen, log.appended);
    assert_eq!(found.end, log.writer.end_position());
}

#[test]
fn ids_in_names_and_in_headers_are_not_given_again() {
    let mut log = Log::new(256, false);
    log.append(1, b"one");
    write_segment(log.path(), 7, &[]);
    let mut log2 = Log::new(256, false);
    for index in 0..3 {
        log2.append(1, &payload(index, 150));
    }
    // The rename of segment 0 to 3 was undone by a crash: its old name has segment 3's bytes.
    write_segment(log2.path(), 0, &read_segment(log2.path(), 3));
    StdFs.remove(&segment_path(log2.path(), 3)).unwrap();
    let next = |log: &Log| log.replay(RecoveryMode::PointInTime).unwrap().0.next_segment;
    assert_eq!(next(&log), number(8));
    assert_eq!(next(&log2), number(4));
}

#[test]
fn an_error_of_the_visitor_ends_the_replay() {
    let mut log = Log::new(256, false);
    log.append(1, b"one");
    log.append(1, b"two");
    let options = ReplayOptions {
        first_segment: number(1),
        mode: RecoveryMode::PointInTime,
        promised: WalPosition::default(),
    };
    let mut calls = 0;
    let result = replay(&StdFs, log.path(), options, &mut |_| {
        calls += 1;
        Err(Error::invalid("enough"))
    });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(calls, 1);
}

/// The example of `docs/format/wal.md`; its bytes were made by another program.
#[test]
fn the_bytes_of_the_format() {
    let document = include_str!("../../../docs/format/wal.md");
    let example = document.split("```text").nth(1).unwrap().split("```").next().unwrap();
    let columns = example.lines().filter_map(|line| line.get(5..53.min(line.len())));
    let expected: Vec<u8> = columns
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let mut log = Log::new(256, false);
    let start = WalStart {
        previous: WalPosition { segment: number(2), offset: 226 },
        next_segment: number(3),
        next_sequence: SequenceNumber(7),
    };
    let options = WalWriterOptions { segment_bytes: 256, mapped: false };
    log.writer = WalWriter::new(Arc::new(StdFs), log.path(), options, start);
    log.append(2, b"hello");
    log.sync();
    log.append_at(300, 1, b"world");
    log.writer.close().unwrap();
    let bytes = read_segment(log.path(), 3);
    assert_eq!(expected.len(), 122);
    assert_eq!(bytes[..122], expected);
    assert!(bytes[122..].iter().all(|&byte| byte == 0));

    write_segment(log.path(), 3, &expected);
    let options = ReplayOptions {
        first_segment: number(3),
        mode: RecoveryMode::Absolute,
        promised: WalPosition { segment: number(3), offset: 80 },
    };
    let mut seen = Vec::new();
    let found = replay(&StdFs, log.path(), options, &mut |record| {
        seen.push((record.kind, record.first_sequence.0, record.payload.to_vec()));
        Ok(())
    })
    .unwrap();
    let expected = [
        (RecordKind::Batch, 7, b"hello".to_vec()),
        (RecordKind::Skip, 300, vec![]),
        (RecordKind::Batch, 300, b"world".to_vec()),
        (RecordKind::Close, 301, vec![]),
    ];
    assert_eq!(seen, expected);
    assert_eq!(found.start().next_sequence, SequenceNumber(301));
}
