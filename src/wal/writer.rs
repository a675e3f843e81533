//! Appends records to the log, rotates its segments and makes them durable.
//!
//! # Locks
//! [`WalWriter`] is not synchronised: it lives under the commit lock of the database, and appending
//! there costs one short checksum and one copy. What is slow happens outside that lock, through
//! values taken under it:
//! * [`SyncTarget`]: the files to sync; then [`WalWriter::mark_synced`];
//! * [`Preparation`]: a segment to create or recycle ahead of need; then
//!   [`WalWriter::install_prepared`].
//!
//! # Invariants
//! * Segment ids grow. Each new segment's header links to the end of the one before, whose last
//!   byte of data is written.
//! * After a failed write or sync nothing is written any more.
//! * The byte after the last record is zero (unless the file ends there), so that a clean end can
//!   be told from a torn one.
//!
//! The writer deletes nothing and knows nothing of the manifest: it says which segments are no
//! longer needed, and is told when that is durable.

use std::path::Path;
use std::sync::Arc;

use crate::checksum::checksum;
use crate::error::Result;
use crate::file_name::FileKind;
use crate::fs::{FileSystem, LogFile};
use crate::key::{FileNumber, SequenceNumber};
use crate::wal::segment::{RecordHeader, RecordKind, SEGMENT_HEADER_LEN, SegmentHeader, TAG_END};
use crate::wal::sync::{Shared, SyncTarget};
use crate::wal::{WalPosition, WalStart};

/// Obsolete segments kept to be recycled, those prepared included.
const SPARES_MAX: usize = 3;
/// Larger payloads are not gathered with their header into one write: copying them would cost more
/// than a second write, and the buffer would stay as large.
const GATHERED_PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// Segments longer than usual are a multiple of this, for the file system's sake.
const ALLOCATION_UNIT_BYTES: u64 = 4096;

/// How segments are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalWriterOptions {
    /// Length of a segment, unless one record needs more.
    pub(crate) segment_bytes: u64,
    /// Whether writes go through a map where that is safe.
    pub(crate) mapped: bool,
}

/// A segment that may hold records still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LiveSegment {
    /// Its id.
    pub(crate) number: FileNumber,
    /// Header and records.
    pub(crate) data_bytes: u64,
    /// Length of the file.
    pub(crate) file_bytes: u64,
}

/// Writes the log.
#[derive(Debug)]
pub(crate) struct WalWriter {
    shared: Arc<Shared>,
    options: WalWriterOptions,
    /// The id that no file has yet.
    next_segment: FileNumber,
    next_sequence: SequenceNumber,
    /// The end of the log while there is no current segment.
    previous: WalPosition,
    current: Option<OpenSegment>,
    /// Segments before the current one that are not known to be durable, oldest first.
    unsynced: Vec<OpenSegment>,
    synced: WalPosition,
    /// Segments before the current one that are still needed, oldest first.
    closed: Vec<LiveSegment>,
    prepared: Option<PreparedSegment>,
    preparation: PreparationState,
    /// Segments of the usual length that hold nothing needed.
    spares: Vec<FileNumber>,
    buffer: Vec<u8>,
    is_closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PreparationState {
    Idle,
    Running,
    /// Failed; not tried again before the next rotation.
    Failed,
}

#[derive(Debug)]
struct OpenSegment {
    number: FileNumber,
    file: Arc<dyn LogFile>,
    file_bytes: u64,
    /// Where the next record goes.
    end_offset: u64,
    name_is_durable: bool,
}

impl OpenSegment {
    fn end(&self) -> WalPosition {
        WalPosition { segment: self.number, offset: self.end_offset }
    }
}

impl WalWriter {
    /// A writer that goes on where `start` says. Nothing is created before the first append.
    pub(crate) fn new(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        options: WalWriterOptions,
        start: WalStart,
    ) -> Self {
        assert!(options.segment_bytes > SEGMENT_HEADER_LEN as u64, "segments must hold records");
        assert!(start.previous.segment < start.next_segment, "segment ids grow");
        WalWriter {
            shared: Arc::new(Shared::new(fs, dir)),
            options,
            next_segment: start.next_segment,
            next_sequence: start.next_sequence,
            previous: start.previous,
            current: None,
            unsynced: Vec::new(),
            synced: WalPosition::default(),
            closed: Vec::new(),
            prepared: None,
            preparation: PreparationState::Idle,
            spares: Vec::new(),
            buffer: Vec::new(),
            is_closed: false,
        }
    }

    /// Appends a batch of `entry_count` sequence numbers from `first_sequence`; `payload_crc` is
    /// the CRC-32 of `payload`. Returns where the record ends. Sequence numbers passed over are
    /// recorded as skipped.
    ///
    /// The bytes are handed to the operating system, not durable. An error poisons the log: this
    /// and every later append fails.
    pub(crate) fn append(
        &mut self,
        first_sequence: SequenceNumber,
        entry_count: u32,
        payload: &[u8],
        payload_crc: u32,
    ) -> Result<WalPosition> {
        assert!(entry_count > 0, "a batch takes sequence numbers");
        assert!(first_sequence >= self.next_sequence, "sequence numbers never go back");
        debug_assert_eq!(payload_crc, checksum(payload));
        if first_sequence > self.next_sequence {
            self.append_record(RecordHeader::mark(RecordKind::Skip, first_sequence), &[], 0)?;
        }
        let header = RecordHeader::batch(first_sequence, entry_count, payload.len() as u64);
        self.append_record(header, payload, payload_crc)
    }

    /// Marks the end of the log, if anything was appended. Nothing can be appended after it. To be
    /// durable it needs a sync like any record.
    pub(crate) fn close(&mut self) -> Result<WalPosition> {
        if self.current.is_some() && !self.is_closed {
            self.append_record(RecordHeader::mark(RecordKind::Close, self.next_sequence), &[], 0)?;
        }
        self.is_closed = true;
        Ok(self.end_position())
    }

    fn append_record(
        &mut self,
        mut header: RecordHeader,
        payload: &[u8],
        payload_crc: u32,
    ) -> Result<WalPosition> {
        self.shared.check()?;
        assert!(!self.is_closed, "append to a closed log");
        header.synced_offset = self.synced_offset();
        if header.record_len() > self.room_bytes() {
            header.synced_offset = 0;
            let rotated = self.rotate(header.record_len());
            self.shared.poison_on_error(rotated)?;
        }
        let written = self.write_record(&header, payload, payload_crc);
        let end = self.shared.poison_on_error(written)?;
        self.next_sequence = header.next_sequence();
        Ok(end)
    }

    /// Bytes of the current segment known to be durable.
    fn synced_offset(&self) -> u64 {
        match &self.current {
            Some(current) if current.number == self.synced.segment => self.synced.offset,
            _ => 0,
        }
    }

    fn room_bytes(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.file_bytes - current.end_offset)
    }

    fn write_record(
        &mut self,
        header: &RecordHeader,
        payload: &[u8],
        payload_crc: u32,
    ) -> Result<WalPosition> {
        let current = self.current.as_mut().expect("a rotation makes a current segment");
        let start = current.end();
        let end_offset = start.offset + header.record_len();
        let ends_file = end_offset == current.file_bytes;
        self.buffer.clear();
        header.encode(&mut self.buffer, start, payload_crc);
        if payload.len() <= GATHERED_PAYLOAD_BYTES_MAX {
            self.buffer.extend_from_slice(payload);
            if !ends_file {
                self.buffer.push(TAG_END);
            }
        } else {
            // The header last: until it stands, nothing looks like a record.
            current.file.write_at(start.offset + self.buffer.len() as u64, payload)?;
            if !ends_file {
                current.file.write_at(end_offset, &[TAG_END])?;
            }
        }
        current.file.write_at(start.offset, &self.buffer)?;
        current.end_offset = end_offset;
        Ok(current.end())
    }

    /// Begins a segment with room for a record of `record_len` bytes.
    fn rotate(&mut self, record_len: u64) -> Result<()> {
        let needed_bytes = SEGMENT_HEADER_LEN as u64 + record_len;
        let segment = self.next_open_segment(needed_bytes)?;
        let header = SegmentHeader {
            segment: segment.number,
            previous: self.end_position_or_previous(),
            previous_synced_bytes: self.synced_offset(),
            first_sequence: self.next_sequence,
        };
        segment.file.write_at(0, &header.encode())?;
        if let Some(old) = self.current.replace(segment) {
            self.closed.push(live(&old));
            if old.end() > self.synced {
                self.unsynced.push(old);
            }
        }
        if self.preparation == PreparationState::Failed {
            self.preparation = PreparationState::Idle;
        }
        Ok(())
    }

    fn next_open_segment(&mut self, needed_bytes: u64) -> Result<OpenSegment> {
        let segment_bytes = self.options.segment_bytes;
        if let Some(prepared) = self.prepared.take() {
            if needed_bytes <= segment_bytes {
                return Ok(prepared.0);
            }
            // Ids grow, so it cannot come after the longer segment made now.
            self.spares.push(prepared.0.number);
        }
        let (file_bytes, recycled) = if needed_bytes <= segment_bytes {
            (segment_bytes, self.spares.pop())
        } else {
            (needed_bytes.next_multiple_of(ALLOCATION_UNIT_BYTES), None)
        };
        let number = self.take_segment_number();
        make_segment(&self.shared, number, recycled, file_bytes, self.options.mapped)
    }

    fn take_segment_number(&mut self) -> FileNumber {
        let number = self.next_segment;
        self.next_segment = FileNumber(number.0 + 1);
        number
    }

    /// The end of the last record; where the first one will be while there is none.
    pub(crate) fn end_position(&self) -> WalPosition {
        let unborn = WalPosition { segment: self.next_segment, offset: 0 };
        self.current.as_ref().map_or(unborn, OpenSegment::end)
    }

    fn end_position_or_previous(&self) -> WalPosition {
        self.current.as_ref().map_or(self.previous, OpenSegment::end)
    }

    /// Up to here everything this writer wrote is known to be durable.
    pub(crate) fn synced_position(&self) -> WalPosition {
        self.synced
    }

    /// The sequence number that the next record is expected to begin with.
    #[cfg(test)]
    pub(crate) fn next_sequence(&self) -> SequenceNumber {
        self.next_sequence
    }
}

fn live(segment: &OpenSegment) -> LiveSegment {
    LiveSegment {
        number: segment.number,
        data_bytes: segment.end_offset,
        file_bytes: segment.file_bytes,
    }
}

/// Creates the segment `number`, or makes it of the obsolete segment `recycled`.
fn make_segment(
    shared: &Shared,
    number: FileNumber,
    recycled: Option<FileNumber>,
    file_bytes: u64,
    mapped: bool,
) -> Result<OpenSegment> {
    let path = FileKind::WalSegment(number).path(&shared.dir);
    let file = match recycled {
        Some(old) => {
            let old_path = FileKind::WalSegment(old).path(&shared.dir);
            shared.fs.recycle_log(&old_path, &path, file_bytes, mapped)?
        }
        None => shared.fs.create_log(&path, file_bytes, mapped)?,
    };
    Ok(OpenSegment {
        number,
        file: Arc::from(file),
        file_bytes,
        end_offset: SEGMENT_HEADER_LEN as u64,
        name_is_durable: false,
    })
}

/// Durability.
impl WalWriter {
    /// What must be synced to make everything appended so far durable.
    pub(crate) fn sync_target(&self) -> SyncTarget {
        let end = self.current.as_ref().map_or(self.synced, OpenSegment::end);
        let open = || self.unsynced.iter().chain(&self.current).filter(|s| s.end() > self.synced);
        SyncTarget {
            shared: Arc::clone(&self.shared),
            files: open().map(|segment| Arc::clone(&segment.file)).collect(),
            syncs_names: open().any(|segment| !segment.name_is_durable),
            end,
        }
    }

    /// Records that [`SyncTarget::sync`] of `target` succeeded.
    pub(crate) fn mark_synced(&mut self, target: &SyncTarget) {
        // Another sync may hold the lock; waiting for it here would stop all writers.
        debug_assert!(
            self.shared.durable.try_lock().is_none_or(|durable| *durable >= target.end),
            "the target was not synced"
        );
        self.synced = self.synced.max(target.end);
        self.unsynced.retain(|segment| segment.end() > self.synced);
        for segment in self.unsynced.iter_mut().chain(&mut self.current) {
            if segment.number <= target.end.segment {
                segment.name_is_durable = true;
            }
        }
    }
}

/// Segments ahead of need.
impl WalWriter {
    /// Whether it is time to prepare the next segment: the current one is more than half full.
    pub(crate) fn wants_prepared_segment(&self) -> bool {
        let half_full = |current: &OpenSegment| current.end_offset > current.file_bytes / 2;
        self.preparation == PreparationState::Idle
            && self.prepared.is_none()
            && self.current.as_ref().is_some_and(half_full)
    }

    /// Takes the order to prepare a segment, if it is time. It must be followed by
    /// [`WalWriter::install_prepared`] or [`WalWriter::abandon_preparation`].
    pub(crate) fn start_preparation(&mut self) -> Option<Preparation> {
        if !self.wants_prepared_segment() || self.is_closed {
            return None;
        }
        self.preparation = PreparationState::Running;
        Some(Preparation {
            shared: Arc::clone(&self.shared),
            number: self.take_segment_number(),
            recycled: self.spares.pop(),
            options: self.options,
        })
    }

    /// Hands over what [`Preparation::run`] made.
    pub(crate) fn install_prepared(&mut self, prepared: PreparedSegment) {
        assert_eq!(self.preparation, PreparationState::Running, "no preparation was under way");
        self.preparation = PreparationState::Idle;
        if self.current.as_ref().is_some_and(|current| current.number > prepared.0.number) {
            // The rotation could not wait and took a later id. The file still serves to be
            // recycled.
            self.spares.push(prepared.0.number);
        } else {
            self.prepared = Some(prepared);
        }
    }

    /// Notes that [`Preparation::run`] failed. The next one is due after the next rotation, which
    /// makes a segment by itself and reports what is wrong, if it still is.
    pub(crate) fn abandon_preparation(&mut self) {
        assert_eq!(self.preparation, PreparationState::Running, "no preparation was under way");
        self.preparation = PreparationState::Failed;
    }
}

/// An order to make the next segment.
#[derive(Debug)]
pub(crate) struct Preparation {
    shared: Arc<Shared>,
    number: FileNumber,
    recycled: Option<FileNumber>,
    options: WalWriterOptions,
}

impl Preparation {
    /// Creates or recycles the segment and makes its name durable. Call it without the commit lock.
    /// An error harms nothing.
    pub(crate) fn run(self) -> Result<PreparedSegment> {
        let WalWriterOptions { segment_bytes, mapped } = self.options;
        let mut segment =
            make_segment(&self.shared, self.number, self.recycled, segment_bytes, mapped)?;
        self.shared.fs.sync_dir(&self.shared.dir)?;
        segment.name_is_durable = true;
        Ok(PreparedSegment(segment))
    }
}

/// A segment ready to be begun.
#[derive(Debug)]
pub(crate) struct PreparedSegment(OpenSegment);

/// The life of segments.
impl WalWriter {
    /// Takes over the segments of the log before it, oldest first: they are live until they are retired.
    pub(crate) fn adopt(&mut self, segments: Vec<LiveSegment>) {
        assert!(self.closed.is_empty() && self.current.is_none(), "old segments come first");
        self.closed = segments;
    }

    /// The id that no segment of the log has, and that the next one made will have.
    pub(crate) fn next_segment(&self) -> FileNumber {
        self.next_segment
    }

    /// Ends the use of the log: returns the current segment and the length of its data, and the spare and prepared
    /// segments, which hold nothing. Nothing can be appended any more.
    pub(crate) fn finish(&mut self) -> (Option<LiveSegment>, Vec<FileNumber>) {
        self.is_closed = true;
        let mut unused = std::mem::take(&mut self.spares);
        unused.extend(self.prepared.take().map(|prepared| prepared.0.number));
        (self.current.as_ref().map(live), unused)
    }

    /// The segments that may hold records still needed, oldest first.
    pub(crate) fn segments(&self) -> impl Iterator<Item = LiveSegment> + '_ {
        self.closed.iter().copied().chain(self.current.as_ref().map(live))
    }

    /// Bytes of data in the segments still needed: what a recovery would read.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.segments().map(|segment| segment.data_bytes).sum()
    }

    /// Bytes on disk of all segments, those kept in reserve included.
    #[cfg(test)]
    pub(crate) fn file_bytes(&self) -> u64 {
        let reserve_count = self.spares.len() + usize::from(self.prepared.is_some());
        let live: u64 = self.segments().map(|segment| segment.file_bytes).sum();
        live + reserve_count as u64 * self.options.segment_bytes
    }

    /// Forgets the segments before `first_needed`, now that a durable manifest edit says that they
    /// are not needed. Keeps some to be recycled and returns those whose files the caller should
    /// remove.
    pub(crate) fn retire(&mut self, first_needed: FileNumber) -> Vec<FileNumber> {
        let obsolete_count = self.closed.partition_point(|segment| segment.number < first_needed);
        self.unsynced.retain(|segment| segment.number >= first_needed);
        let mut to_remove = Vec::new();
        for segment in self.closed.drain(..obsolete_count) {
            let reserve_count = self.spares.len()
                + usize::from(self.prepared.is_some())
                + usize::from(self.preparation == PreparationState::Running);
            if segment.file_bytes == self.options.segment_bytes && reserve_count < SPARES_MAX {
                self.spares.push(segment.number);
            } else {
                to_remove.push(segment.number);
            }
        }
        to_remove
    }
}
