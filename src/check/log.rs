//! The log at rest: where it begins, whether an open would take it, and what each of its records says.
//!
//! # Where it begins
//! The manifest says it. Without one, the readable pieces of manifests may: the first segment only moves forward, so
//! the last that any piece names is one that the log cannot begin behind. Without such a piece the links tell: headers
//! name the segment before them, so the walk goes back from the last segment that was begun as long as it finds them.
//! What it does not reach is taken for a segment that is kept to be recycled, whose header is whole, and whose records
//! are in tables: if tables, or pieces, say of each keyspace that writes as late as those to it were flushed, and the
//! walk did not end at a damaged header. Else something is missing between it and the rest, and the log begins there.
//!
//! Either may be wrong where something is missing in the middle. So without a manifest, which knows how far the log was
//! synced, a log that ends before the last segment that was begun is a damaged one, whose every record is read, and not
//! a torn one.

use std::collections::BTreeMap;
use std::path::Path;

use crate::batch::operations;
use crate::check::{Survey, note_damage, segments};
use crate::error::{Error, ErrorKind, Result};
use crate::file_name::FileKind;
use crate::fs::FileSystem;
use crate::key::{FileNumber, KeyspaceId, SequenceNumber};
use crate::manifest::state::ManifestState;
use crate::options::RecoveryMode;
use crate::version::edit::VersionEdit;
use crate::wal::WalPosition;
use crate::wal::reader::{FIRST_RECORD_OFFSET, SegmentReader, Step};
use crate::wal::replay::{Replay, ReplayOptions, WalRecord, replay};
use crate::wal::segment::{HeaderState, RecordKind};

/// Where the log begins, and where it ends at the earliest.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogStart {
    /// The segment that the log begins with.
    pub(crate) first_segment: FileNumber,
    /// Everything before this was synced, as a manifest knows.
    promised: WalPosition,
    /// Without a manifest: the last segment that was begun.
    last_segment: Option<FileNumber>,
    /// Segments that were begun, and are left out although no manifest says so.
    pub(crate) unlinked: Vec<FileNumber>,
}

impl LogStart {
    /// What a manifest says.
    pub(super) fn of(state: &ManifestState) -> Self {
        LogStart {
            first_segment: state.wal_first_segment,
            promised: state.wal_synced,
            ..LogStart::default()
        }
    }

    /// What can be told without a manifest.
    pub(super) fn guess(survey: &Survey, fs: &dyn FileSystem, dir: &Path) -> Result<Self> {
        let edits = survey.salvaged_edits(fs, dir)?;
        let told = edits.iter().filter_map(|edit| edit.wal_first_segment).max();
        let promised = edits.iter().filter_map(|edit| edit.wal_synced).max().unwrap_or_default();
        let mut headers = BTreeMap::new();
        for number in survey.segment_numbers() {
            let Some(mut reader) = SegmentReader::open(fs, dir, number)? else { continue };
            match reader.header() {
                Ok(state) => drop(headers.insert(number, state)),
                Err(error) if error.kind() == ErrorKind::Io => return Err(error),
                // A newer format: the replay says so, if the segment is one of the log's.
                Err(_) => {}
            }
        }
        let begun = |number: &FileNumber| matches!(headers[number], HeaderState::Valid(_));
        let last_segment = headers.keys().copied().rfind(begun);
        let mut first_segment = told
            .or_else(|| last_segment.map(|last| first_linked(&headers, last)))
            .or_else(|| survey.segment_numbers().first().copied())
            .unwrap_or_default();
        if told.is_none() {
            let flushed = flushed_sequences(survey, &edits);
            // Behind a header that is damaged nobody knows what it continues.
            let is_cut = matches!(headers.get(&first_segment), Some(HeaderState::Damaged));
            for number in headers.range(..first_segment).map(|(number, _)| *number).filter(begun) {
                if is_cut || !is_flushed(fs, dir, number, &flushed)? {
                    first_segment = number;
                    break;
                }
            }
        }
        let before = headers.range(..first_segment).map(|(number, _)| *number);
        let unlinked = before.filter(begun).filter(|_| told.is_none()).collect();
        Ok(LogStart { first_segment, promised, last_segment, unlinked })
    }

    /// How the log is replayed.
    pub(crate) fn options(&self, mode: RecoveryMode) -> ReplayOptions {
        ReplayOptions { first_segment: self.first_segment, mode, promised: self.promised }
    }

    /// Refuses a log that ends before the last segment that was begun, if there is no manifest.
    fn refuse_short(&self, replayed: Replay, dir: &Path) -> Result<Replay> {
        let WalPosition { segment, offset } = replayed.end;
        match self.last_segment {
            Some(last) if segment < last => {
                let path = FileKind::WalSegment(segment).path(dir);
                let what = format!(
                    "the log ends here, but segment {last} was begun, and no manifest says what was synced"
                );
                Err(Error::corruption(&path, offset, what))
            }
            _ => Ok(replayed),
        }
    }
}

/// Up to where tables, or pieces of manifests, say that the writes to each keyspace were flushed.
fn flushed_sequences(
    survey: &Survey,
    edits: &[VersionEdit],
) -> BTreeMap<KeyspaceId, SequenceNumber> {
    let tables = survey.described.values();
    let tables = tables.filter_map(|(meta, keyspace)| Some(((*keyspace)?, meta.sequence_max)));
    let told = edits.iter().flat_map(|edit| edit.flushed_sequences.iter().copied());
    let mut flushed = BTreeMap::new();
    for (keyspace, sequence) in tables.chain(told) {
        let last = flushed.entry(keyspace).or_insert(sequence);
        *last = sequence.max(*last);
    }
    flushed
}

/// Whether tables have everything that the readable start of a segment holds.
fn is_flushed(
    fs: &dyn FileSystem,
    dir: &Path,
    number: FileNumber,
    flushed: &BTreeMap<KeyspaceId, SequenceNumber>,
) -> Result<bool> {
    let Some(mut reader) = SegmentReader::open(fs, dir, number)? else { return Ok(true) };
    let mut offset = FIRST_RECORD_OFFSET;
    while let Step::Record(record, payload) = reader.step(offset)? {
        offset += record.record_len();
        if record.entry_count == 0 {
            continue;
        }
        for (sequence, operation) in (record.first_sequence.0..).zip(operations(payload)) {
            let Ok(operation) = operation else { return Ok(false) };
            let last = flushed.get(&operation.keyspace);
            if last.is_none_or(|last| last.0 < sequence) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The first segment that can be reached from `last` by the links of headers. One whose own header is damaged can be.
fn first_linked(headers: &BTreeMap<FileNumber, HeaderState>, last: FileNumber) -> FileNumber {
    let mut first = last;
    while let Some(HeaderState::Valid(header)) = headers.get(&first) {
        let previous = header.previous.segment;
        let is_there =
            matches!(headers.get(&previous), Some(HeaderState::Valid(_) | HeaderState::Damaged));
        if previous >= first || !is_there {
            break;
        }
        first = previous;
    }
    first
}

impl Survey {
    /// Replays the log as an open would. If it would fail, every segment is looked at by itself.
    pub(super) fn check_log(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        next_id: Option<KeyspaceId>,
    ) -> Result<()> {
        let options = self.log_start.options(RecoveryMode::PointInTime);
        let mut check = |record: &WalRecord<'_>| check_record(record, next_id, dir);
        self.log = replay(fs, dir, options, &mut check)
            .and_then(|replayed| self.log_start.refuse_short(replayed, dir));
        match &self.log {
            Ok(replayed) => {
                self.report.wal_records = replayed.record_count;
                if replayed.dropped_bytes > 0 {
                    let file = FileKind::WalSegment(replayed.end.segment).file_name();
                    let what = format!(
                        "ends at offset {} with {} bytes that were never promised, which the next open drops",
                        replayed.end.offset, replayed.dropped_bytes
                    );
                    self.report.note(&file, &what);
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Corruption => {
                let error = error.clone();
                self.blame_log(fs, dir, options, &error)
            }
            Err(error) => Err(error.clone()),
        }
    }

    /// Names what is wrong with a log that an open would refuse with `error`: that, and what each segment by itself
    /// shows. An open can only say where the log ends; where a segment is missing, that one is named instead.
    fn blame_log(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        options: ReplayOptions,
        error: &Error,
    ) -> Result<()> {
        let live: Vec<_> =
            self.segment_numbers().into_iter().filter(|n| *n >= options.first_segment).collect();
        let path = |number| FileKind::WalSegment(number).path(dir);
        let named = live.iter().copied().find(|number| error.path() == Some(&path(*number)));
        let missing = segments::missing(fs, dir, &live, options)?;
        let is_elsewhere = match named {
            Some(number) if !missing.is_empty() => segments::ends_cleanly(fs, dir, number)?,
            _ => false,
        };
        if !is_elsewhere {
            self.report.problems.push(error.clone());
        }
        for number in missing.iter().filter(|number| error.path() != Some(&path(**number))) {
            let what = "the log segment is missing or empty, but others say that it was written";
            self.report.problems.push(Error::corruption(&path(*number), 0, what));
        }
        for number in live {
            if (is_elsewhere || named != Some(number)) && !missing.contains(&number) {
                note_damage(segments::check(fs, dir, number), &mut self.report)?;
            }
        }
        Ok(())
    }
}

/// Whether a record holds what it says: readable operations, as many as it counts, on keyspaces that there were.
pub(crate) fn check_record(
    record: &WalRecord<'_>,
    next_id: Option<KeyspaceId>,
    dir: &Path,
) -> Result<()> {
    if record.kind != RecordKind::Batch {
        return Ok(());
    }
    let path = FileKind::WalSegment(record.start.segment).path(dir);
    let wrong = |what: String| Error::corruption(&path, record.start.offset, what);
    let mut count = 0u64;
    for operation in operations(record.payload) {
        let operation =
            operation.map_err(|error| error.at(&path).at_offset(record.start.offset))?;
        count += 1;
        let KeyspaceId(id) = operation.keyspace;
        if next_id.is_some_and(|next_id| operation.keyspace >= next_id) {
            return Err(wrong(format!("a batch names keyspace {id}, which never was")));
        }
    }
    if count != u64::from(record.entry_count) {
        let says = record.entry_count;
        return Err(wrong(format!("a batch holds {count} operations, but its record says {says}")));
    }
    Ok(())
}
