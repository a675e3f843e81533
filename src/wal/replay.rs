//! Recovery: follows the chain of segments, hands out every record, and judges where the log ends.
//!
//! # The chain
//! The log begins with the segment that the manifest names. A segment is read until something is no
//! record. Then the later segment whose header links to exactly that end goes on. If there is none,
//! the log ends there.
//!
//! # The judgement
//! That end may be where the writer stopped, a torn tail, or damage. It is corruption, in every
//! mode but salvage, if anything later vouches for synced data beyond it: the position that the
//! manifest remembers, or the `synced_offset` of a whole record, or the `previous_synced_bytes` of
//! a header. Otherwise what follows was never synced; the recovery mode says whether it may be
//! dropped. So a single damaged place is never taken for a torn tail if a later record that vouches
//! for it is left.
//!
//! A record whose checksum holds and whose sequence number does not follow is corruption: no crash
//! makes one. A record kind or segment format of a newer version is an error in every mode, salvage
//! too: it is not damage.
//!
//! What a payload means, and what to do with the sequence numbers, is the caller's.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::key::{FileNumber, SequenceNumber};
use crate::options::RecoveryMode;
use crate::wal::reader::{FIRST_RECORD_OFFSET, SegmentReader, Step};
use crate::wal::segment::{HeaderState, RecordHeader, RecordKind, SegmentHeader};
use crate::wal::{WalPosition, WalStart};

/// A record as read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalRecord<'a> {
    /// What it is. Only a batch has a payload and takes sequence numbers.
    pub(crate) kind: RecordKind,
    /// The first of its sequence numbers; for other kinds the one expected next.
    pub(crate) first_sequence: SequenceNumber,
    /// How many sequence numbers it takes.
    pub(crate) entry_count: u32,
    /// The bytes given to the writer.
    pub(crate) payload: &'a [u8],
    /// Where it begins.
    pub(crate) start: WalPosition,
    /// Its length in the log.
    pub(crate) record_bytes: u64,
}

impl WalRecord<'_> {
    /// The last of its sequence numbers, if it takes any.
    pub(crate) fn last_sequence(&self) -> SequenceNumber {
        SequenceNumber(self.first_sequence.0 + u64::from(self.entry_count).saturating_sub(1))
    }
}

/// What to replay, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplayOptions {
    /// The segment that the log begins with.
    pub(crate) first_segment: FileNumber,
    /// What to do with damage.
    pub(crate) mode: RecoveryMode,
    /// Everything before this was synced, as the manifest knows.
    pub(crate) promised: WalPosition,
}

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replay {
    /// Where the replayed data ends.
    pub(crate) end: WalPosition,
    /// The sequence number expected after the last replayed record; zero if there was no segment.
    pub(crate) next_sequence: SequenceNumber,
    /// The largest sequence number in any record, also of those dropped: numbers are never used
    /// twice.
    pub(crate) max_sequence_seen: SequenceNumber,
    /// Greater than every segment id in the directory.
    pub(crate) next_segment: FileNumber,
    /// The segments replayed, in order, and the length of their data.
    pub(crate) segments: Vec<(FileNumber, u64)>,
    /// Records handed out.
    pub(crate) record_count: u64,
    /// Whole records that were not handed out.
    pub(crate) dropped_record_count: u64,
    /// Bytes of the records that were not handed out, the torn one included as far as its length is
    /// known.
    pub(crate) dropped_bytes: u64,
    /// Whether the log ends with a close record.
    pub(crate) is_closed: bool,
    /// Up to here the log is known to have been synced: the last that the manifest, a header or a record says so.
    pub(crate) synced: WalPosition,
}

impl Replay {
    /// How a new writer goes on after this log. Sequence numbers used elsewhere (by tables) are not
    /// considered.
    pub(crate) fn start(&self) -> WalStart {
        let unused = SequenceNumber(self.max_sequence_seen.0 + 1);
        WalStart {
            previous: self.end,
            next_segment: self.next_segment,
            next_sequence: self.next_sequence.max(unused),
        }
    }
}

/// Receives the records of a replay in order.
pub(crate) type Visit<'a> = dyn FnMut(&WalRecord<'_>) -> Result<()> + 'a;

/// Reads the log in `dir` and gives every record that belongs to it to `visit`, in order. An error
/// of `visit` ends it.
pub(crate) fn replay(
    fs: &dyn FileSystem,
    dir: &Path,
    options: ReplayOptions,
    visit: &mut Visit<'_>,
) -> Result<Replay> {
    let (headers, next_segment) = list_segments(fs, dir, options.first_segment)?;
    let mut replayer = Replayer {
        fs,
        dir,
        options,
        headers,
        replay: Replay { next_segment, synced: options.promised, ..Replay::default() },
    };
    match options.mode {
        RecoveryMode::Salvage => replayer.salvage(visit)?,
        _ => replayer.follow(visit)?,
    }
    Ok(replayer.replay)
}

/// The headers of the segments from `first` on, and an id greater than all in use.
fn list_segments(
    fs: &dyn FileSystem,
    dir: &Path,
    first: FileNumber,
) -> Result<(BTreeMap<FileNumber, HeaderState>, FileNumber)> {
    let mut headers = BTreeMap::new();
    let mut last = FileNumber(first.0.saturating_sub(1));
    for entry in fs.list(dir)?.unwrap_or_default() {
        let Some(FileKind::WalSegment(number)) = FileKind::parse(&entry.name) else { continue };
        last = last.max(number);
        let Some(mut reader) = SegmentReader::open(fs, dir, number)? else { continue };
        let state = match reader.header() {
            Ok(state) => state,
            // Obsolete segments are of no interest, readable or not.
            Err(_) if number < first => continue,
            Err(error) => return Err(error),
        };
        if let HeaderState::Stale(other) = state {
            // A rename undone by a crash leaves a younger segment under the name of an older one.
            last = last.max(other);
        }
        if number >= first {
            headers.insert(number, state);
        }
    }
    if last >= FileNumber::USED_UP {
        let path = FileKind::WalSegment(last).path(dir);
        return Err(Error::corruption(&path, 0, "segment ids are used up"));
    }
    Ok((headers, FileNumber(last.0 + 1)))
}

/// How the readable part of a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// With a close record.
    Closed,
    /// With a zero tag or the end of the file.
    Clean,
    /// With something that is no record, of this length as far as known.
    Torn(u64),
    /// Before its header: the segment is missing or was not begun.
    Unborn,
}

struct Replayer<'a> {
    fs: &'a dyn FileSystem,
    dir: &'a Path,
    options: ReplayOptions,
    headers: BTreeMap<FileNumber, HeaderState>,
    replay: Replay,
}

impl Replayer<'_> {
    fn open(&self, number: FileNumber) -> Result<SegmentReader> {
        SegmentReader::open(self.fs, self.dir, number)?.ok_or_else(|| {
            let path = FileKind::WalSegment(number).path(self.dir);
            Error::corruption(&path, 0, "log segment vanished during recovery")
        })
    }

    /// Reads the chain from its first segment to where it ends, and judges that end.
    fn follow(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let first = self.options.first_segment;
        self.replay.end = WalPosition { segment: first, offset: 0 };
        let mut ending = match self.headers.get(&first) {
            Some(HeaderState::Valid(header)) => self.read_segment(*header, visit)?,
            Some(HeaderState::Damaged) => Ending::Torn(FIRST_RECORD_OFFSET),
            _ => Ending::Unborn,
        };
        while let Some(header) = self.successor() {
            ending = self.read_segment(header, visit)?;
        }
        self.replay.is_closed = ending == Ending::Closed;
        self.judge(ending)
    }

    /// The segment whose header says that it follows where the data read so far ends.
    fn successor(&self) -> Option<SegmentHeader> {
        let end = self.replay.end;
        let later = self.headers.range(FileNumber(end.segment.0.saturating_add(1))..);
        later
            .filter_map(|(_, state)| match state {
                HeaderState::Valid(header) => Some(*header),
                _ => None,
            })
            .find(|header| header.previous == end)
    }

    /// Hands out the records of a segment up to the first that is none.
    fn read_segment(&mut self, header: SegmentHeader, visit: &mut Visit<'_>) -> Result<Ending> {
        let mut reader = self.open(header.segment)?;
        if header.first_sequence < self.replay.next_sequence
            || header.first_sequence > SequenceNumber::MAX
        {
            return Err(reader.corruption(0, "log segment begins with a wrong sequence number"));
        }
        self.expect_next(header.first_sequence);
        self.replay.synced = self.replay.synced.max(header.promised());
        let mut offset = FIRST_RECORD_OFFSET;
        let ending = loop {
            let (record, payload) = match reader.step(offset)? {
                Step::Record(record, payload) => (record, payload),
                Step::End => break Ending::Clean,
                Step::Damaged(len) => break Ending::Torn(len),
            };
            let at = WalPosition { segment: header.segment, offset };
            self.replay.synced = self.replay.synced.max(record.promised(header.segment));
            let kind = record.kind().map_err(|e| self.locate(e, at))?;
            if !self.continues(kind, &record) {
                let what = format!(
                    "log record begins with sequence number {}, expected {}",
                    record.first_sequence, self.replay.next_sequence
                );
                return Err(reader.corruption(offset, what));
            }
            offset = self.deliver((kind, &record, payload), at, visit)?;
            if kind == RecordKind::Close {
                break Ending::Closed;
            }
        };
        self.replay.end = WalPosition { segment: header.segment, offset };
        self.replay.segments.push((header.segment, offset));
        Ok(ending)
    }

    /// Whether `record` may follow the records before it without a gap.
    fn continues(&self, kind: RecordKind, record: &RecordHeader) -> bool {
        let expected = self.replay.next_sequence;
        match kind {
            RecordKind::Batch => record.first_sequence == expected && record.entry_count > 0,
            RecordKind::Skip => record.first_sequence >= expected && record.entry_count == 0,
            RecordKind::Close => record.first_sequence == expected && record.entry_count == 0,
        }
    }

    /// Hands out a record and returns the offset of its end.
    fn deliver(
        &mut self,
        (kind, header, payload): (RecordKind, &RecordHeader, &[u8]),
        start: WalPosition,
        visit: &mut Visit<'_>,
    ) -> Result<u64> {
        visit(&WalRecord {
            kind,
            first_sequence: header.first_sequence,
            entry_count: header.entry_count,
            payload,
            start,
            record_bytes: header.record_len(),
        })?;
        self.expect_next(header.next_sequence());
        self.replay.record_count += 1;
        Ok(start.offset + header.record_len())
    }

    fn expect_next(&mut self, next: SequenceNumber) {
        self.replay.next_sequence = next;
        self.saw_next(next);
    }

    /// Notes that the numbers before `next` may have been used.
    fn saw_next(&mut self, next: SequenceNumber) {
        let last = SequenceNumber(next.0.saturating_sub(1));
        self.replay.max_sequence_seen = self.replay.max_sequence_seen.max(last);
    }

    fn corruption_at(&self, at: WalPosition, what: String) -> Error {
        Error::corruption(&FileKind::WalSegment(at.segment).path(self.dir), at.offset, what)
    }

    fn locate(&self, error: Error, at: WalPosition) -> Error {
        error.at(&FileKind::WalSegment(at.segment).path(self.dir)).at_offset(at.offset)
    }

    /// Decides what it means that the chain ends at `replay.end`.
    fn judge(&mut self, ending: Ending) -> Result<()> {
        let end = self.replay.end;
        self.check_promise(self.options.promised, ending, format_args!("the manifest"))?;
        if !matches!(ending, Ending::Closed) && self.headers.contains_key(&end.segment) {
            self.survey_rest(end.segment, end.offset.max(FIRST_RECORD_OFFSET), ending)?;
        }
        let mut is_torn = matches!(ending, Ending::Torn(_));
        let mut is_last = true;
        let later: Vec<_> = self
            .headers
            .range(FileNumber(end.segment.0.saturating_add(1))..)
            .map(|(&number, &state)| (number, state))
            .collect();
        for (number, state) in later {
            match state {
                HeaderState::Stale(_) if !self.has_record_at_start(number)? => continue,
                HeaderState::Valid(header) => {
                    is_last = false;
                    let by = format_args!("the header of segment {number}");
                    self.check_promise(header.promised(), ending, by)?;
                    if header.first_sequence <= SequenceNumber::MAX {
                        self.saw_next(header.first_sequence);
                    }
                }
                HeaderState::Damaged => is_torn = true,
                HeaderState::Blank | HeaderState::Stale(_) => {}
            }
            self.survey_rest(number, FIRST_RECORD_OFFSET, ending)?;
        }
        let is_last = is_last && self.replay.dropped_record_count == 0;
        if let Ending::Torn(len) = ending {
            self.replay.dropped_bytes = self.replay.dropped_bytes.max(len);
        }
        let is_refused = match self.options.mode {
            RecoveryMode::Absolute => !is_last || is_torn,
            RecoveryMode::TolerateTail => !is_last,
            RecoveryMode::PointInTime | RecoveryMode::Salvage => false,
        };
        if is_refused {
            let follows = if matches!(ending, Ending::Torn(_)) { "" } else { ", but data follows" };
            let what =
                format!("{}{follows}; the recovery mode forbids to drop it", describe(ending));
            return Err(self
                .corruption_at(end, what)
                .advise("open with wal_recovery=point_in_time to drop the tail"));
        }
        Ok(())
    }

    /// Whether a segment without a header of its own holds a record of its own all the same.
    fn has_record_at_start(&self, number: FileNumber) -> Result<bool> {
        let mut reader = self.open(number)?;
        Ok(matches!(reader.step(FIRST_RECORD_OFFSET)?, Step::Record(..)))
    }

    /// Looks at the records that a replay ending at `replay.end` drops: those from `offset` of the
    /// segment `number`. It is corruption if one of them says that what should stand at the end had
    /// been synced.
    fn survey_rest(&mut self, number: FileNumber, offset: u64, ending: Ending) -> Result<()> {
        let mut reader = self.open(number)?;
        let mut offset = offset;
        let floor = self.replay.next_sequence;
        loop {
            let header = match reader.step(offset)? {
                Step::Record(header, _) => header,
                Step::End | Step::Damaged(_) => match reader.find(offset, floor)? {
                    Some(found) => {
                        offset = found;
                        continue;
                    }
                    None => return Ok(()),
                },
            };
            let by = format_args!("the record at offset {offset} of segment {number}");
            self.check_promise(header.promised(number), ending, by)?;
            self.saw_next(header.next_sequence());
            self.replay.dropped_record_count += 1;
            self.replay.dropped_bytes += header.record_len();
            offset += header.record_len();
        }
    }

    /// It is corruption if the log ends before `promised`, of which `by` says that it was synced.
    fn check_promise(
        &self,
        promised: WalPosition,
        ending: Ending,
        by: fmt::Arguments<'_>,
    ) -> Result<()> {
        let end = self.replay.end;
        if promised <= end {
            return Ok(());
        }
        let what = format!("{}, but {by} says that it had been synced", describe(ending));
        Err(self.corruption_at(end, what))
    }

    /// Hands out every whole record whose sequence numbers are not below those before it, but none behind the end that
    /// a later segment names: an earlier recovery dropped those.
    fn salvage(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        let numbers: Vec<FileNumber> = self.headers.keys().copied().collect();
        for number in numbers {
            let limit = self.linked_end(number);
            let mut reader = self.open(number)?;
            let mut offset = FIRST_RECORD_OFFSET;
            let mut end_offset = 0;
            while limit.is_none_or(|limit| offset < limit) {
                let floor = self.replay.next_sequence;
                let skipped = match reader.step(offset)? {
                    Step::Record(record, payload) if record.first_sequence >= floor => {
                        let at = WalPosition { segment: number, offset };
                        let kind = record.kind().map_err(|e| self.locate(e, at))?;
                        offset = self.deliver((kind, &record, payload), at, visit)?;
                        end_offset = offset;
                        continue;
                    }
                    Step::Record(record, _) => {
                        self.replay.dropped_record_count += 1;
                        record.record_len()
                    }
                    Step::Damaged(len) => len,
                    Step::End => 0,
                };
                let found = match reader.find(offset + 1, floor) {
                    // Bytes that cannot be told apart in linear time are given up like damaged
                    // ones.
                    Err(error) if error.kind() == ErrorKind::Corruption => None,
                    result => result?,
                };
                self.replay.dropped_bytes += found.map_or(skipped, |found| found - offset);
                match found {
                    Some(found) => offset = found,
                    None => break,
                }
            }
            if end_offset > 0 {
                self.replay.end = WalPosition { segment: number, offset: end_offset };
                self.replay.segments.push((number, end_offset));
            }
        }
        // Its records may all be gone; the numbers before a segment were given out.
        for header in self.valid_headers() {
            if header.first_sequence <= SequenceNumber::MAX {
                self.saw_next(header.first_sequence);
            }
        }
        Ok(())
    }

    fn valid_headers(&self) -> Vec<SegmentHeader> {
        let states = self.headers.values();
        let valid = states.filter_map(|state| match state {
            HeaderState::Valid(header) => Some(*header),
            _ => None,
        });
        valid.collect()
    }

    /// Where the data of a segment ends by the last header that links to it.
    fn linked_end(&self, number: FileNumber) -> Option<u64> {
        let later = self.valid_headers().into_iter().filter(|header| header.segment > number);
        let links = later.filter(|header| header.previous.segment == number);
        links.map(|header| header.previous.offset).next_back()
    }
}

fn describe(ending: Ending) -> &'static str {
    match ending {
        Ending::Closed | Ending::Clean => "the log ends here",
        Ending::Torn(_) => "log record is damaged",
        Ending::Unborn => "log segment is missing or empty",
    }
}
