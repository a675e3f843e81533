//! Any bytes as the segments of a log.

use std::path::Path;
use std::sync::Arc;

use crate::checksum::checksum;
use crate::error::Result;
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::fs::sim_fs::SimFs;
use crate::key::{FileNumber, SequenceNumber};
use crate::options::RecoveryMode;
use crate::wal::replay::{Replay, ReplayOptions, replay};
use crate::wal::segment::RecordKind;
use crate::wal::writer::{WalWriter, WalWriterOptions};
use crate::wal::{WalPosition, WalStart};

const DIR: &str = "/wal";

/// A batch as it was read.
#[derive(Debug, PartialEq, Eq)]
struct Batch {
    first_sequence: SequenceNumber,
    entry_count: u32,
    payload: Vec<u8>,
}

/// Replays a log of `segments` (number, bytes) from `first_segment` on, of which everything before `promised` (segment,
/// offset) was synced; whether it is one.
///
/// In every mode sequence numbers only grow. What a strict mode takes, a lenient one takes too, and reads the same.
/// Cut anywhere within its last segment, the log is an error or holds a prefix of the batches. Written again it is read
/// again.
///
/// # Panics
/// If any of that is not so.
pub fn check(segments: &[(u64, &[u8])], first_segment: u64, promised: (u64, u64)) -> bool {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new(DIR)).expect("memory does not fail");
    for (number, bytes) in segments {
        write_segment(&fs, FileNumber(*number), bytes);
    }
    let promised = WalPosition { segment: FileNumber(promised.0), offset: promised.1 };
    let read = |fs: &SimFs, mode| {
        let first_segment = FileNumber(first_segment);
        read(fs, ReplayOptions { first_segment, mode, promised })
    };
    // From the strictest to the most lenient.
    let absolute = read(&fs, RecoveryMode::Absolute);
    let tolerant = read(&fs, RecoveryMode::TolerateTail);
    let lenient = read(&fs, RecoveryMode::PointInTime);
    for (strict, lenient) in [(&absolute, &tolerant), (&tolerant, &lenient)] {
        if let Ok(strict) = strict {
            assert_eq!(Ok(strict), lenient.as_ref(), "a lenient mode reads something else");
        }
    }
    let _ = read(&fs, RecoveryMode::Salvage);
    let Ok((batches, found)) = lenient else { return false };
    let cut = cut_last_segment(&fs, &found);
    if let Some(Ok((fewer, _))) = cut.map(|cut| read(&cut, RecoveryMode::PointInTime)) {
        assert!(batches.starts_with(&fewer), "a log that was cut holds other batches");
    }
    check_written(&batches);
    true
}

fn write_segment(fs: &SimFs, number: FileNumber, bytes: &[u8]) {
    let path = FileKind::WalSegment(number).path(Path::new(DIR));
    fs.write_file(path, bytes).expect("memory does not fail");
}

/// Replays; the error as its text, so that two can be compared.
fn read(fs: &SimFs, options: ReplayOptions) -> Result<(Vec<Batch>, Replay), String> {
    let mut batches = Vec::new();
    let mut next = SequenceNumber::ZERO;
    let mut record_count = 0;
    let outcome = replay(fs, Path::new(DIR), options, &mut |record| {
        record_count += 1;
        assert!(record.first_sequence >= next, "sequence numbers go back");
        next = SequenceNumber(record.first_sequence.0 + u64::from(record.entry_count));
        assert!(next.0 <= SequenceNumber::MAX.0 + 1, "there are no such sequence numbers");
        assert!(record.record_bytes > record.payload.len() as u64);
        if record.kind == RecordKind::Batch {
            batches.push(Batch {
                first_sequence: record.first_sequence,
                entry_count: record.entry_count,
                payload: record.payload.to_vec(),
            });
        }
        Ok(())
    });
    let found = outcome.map_err(|error| error.to_string())?;
    assert_eq!(found.record_count, record_count);
    assert!(found.next_sequence >= next && found.max_sequence_seen.0 + 1 >= next.0);
    assert!(found.segments.iter().all(|(number, _)| *number < found.next_segment));
    assert!(found.segments.windows(2).all(|pair| pair[0].0 < pair[1].0));
    Ok((batches, found))
}

/// The segments that were replayed, the last of them shorter; `None` if there were none.
fn cut_last_segment(fs: &SimFs, found: &Replay) -> Option<SimFs> {
    let (&(last, data_bytes), earlier) = found.segments.split_last()?;
    let cut = SimFs::new();
    cut.create_dir_all(Path::new(DIR)).expect("memory does not fail");
    let content = |number| {
        let path = FileKind::WalSegment(number).path(Path::new(DIR));
        fs.read_file(path).expect("it was replayed a moment ago")
    };
    for (number, _) in earlier {
        write_segment(&cut, *number, &content(*number));
    }
    let bytes = content(last);
    // Any length below that of the data; the checksum of the bytes is as good as chance.
    let keep = u64::from(checksum(&bytes)) % data_bytes.max(1);
    write_segment(&cut, last, &bytes[..(keep as usize).min(bytes.len())]);
    Some(cut)
}

/// Writes the batches into a new log, in short segments, and reads them back.
fn check_written(batches: &[Batch]) {
    let fs = SimFs::new();
    let dir = Path::new(DIR);
    fs.create_dir_all(dir).expect("memory does not fail");
    let options = WalWriterOptions { segment_bytes: 1024, mapped: false };
    let start = WalStart::default();
    let Some(first) = batches.first() else { return };
    if first.first_sequence < start.next_sequence {
        // No database begins with sequence number 0.
        return;
    }
    let mut writer = WalWriter::new(Arc::new(fs.clone()), dir, options, start);
    for Batch { first_sequence, entry_count, payload } in batches {
        writer
            .append(*first_sequence, *entry_count, payload, checksum(payload))
            .expect("memory does not fail");
    }
    writer.close().expect("memory does not fail");
    let options = ReplayOptions {
        first_segment: start.next_segment,
        mode: RecoveryMode::Absolute,
        promised: WalPosition::default(),
    };
    let (again, found) = read(&fs, options).expect("a log that was just written");
    assert!(again == batches, "a log is written and read back");
    assert!(found.is_closed && found.dropped_bytes == 0);
}
