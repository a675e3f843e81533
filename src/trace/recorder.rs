//! Records what is done to a database, while it is done.
//!
//! Each operation takes one of a few locks, chosen by its thread, and writes some 13 bytes into a buffer there, one for
//! each keyspace. A buffer that is full is written out by the thread that filled it; the timer and the close write out
//! the rest. Memory is bounded by the buffers: 32 KiB for each of eight groups of threads, and 512 bytes for each group
//! and keyspace.
//!
//! # Failures
//! Recording never fails what is recorded. When the file cannot be written, recording ends, the error is kept for the
//! metrics, and the file ends in what was written until then. Nothing is synced: a crash loses the last buffers, the
//! power the rest of the page cache. A trace is also ended when it is [`FILE_BYTES_MAX`] long.
//!
//! # Locks
//! A buffer's lock is never held while the file is written, nor while another lock is taken. Both are leaves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::batch::{Operation, operations};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::expiry::split_expiring;
use crate::file_name::FileKind;
use crate::fs::{AppendFile, FileSystem};
use crate::key::{KeyspaceId, ValueKind, key_hash};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::trace::format::{
    BLOCK_HEADER_BYTES_MAX, MAGIC, PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX, SAMPLE_SHIFT_MAX,
    encode_block_header, encode_file_header, encode_frame, encode_record,
};
use crate::trace::{TraceBlock, TraceCounts, TraceOperation, TraceRecord, is_sampled};

/// Groups of threads that share a lock. A power of two.
const GROUP_COUNT: usize = 8;
/// Records of a group at which they are written out.
const BUFFER_BYTES: usize = 32 << 10;
/// Records in the file after which half of the keys are let go.
const STEP_BYTES: u64 = 8 << 20;
/// A trace does not grow beyond this.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Keys are compared by so many bytes to tell their order.
const ORDER_KEY_BYTES_MAX: usize = 256;

const _: () =
    assert!(BUFFER_BYTES + RECORD_BYTES_MAX + BLOCK_HEADER_BYTES_MAX <= PAYLOAD_BYTES_MAX);

/// Records the operations of an open database into a file. See the module text.
#[derive(Debug)]
pub(crate) struct Recorder {
    clock: Arc<dyn Clock>,
    /// The monotonic time at which the trace began.
    start_ns: u64,
    start_unix_ms: u64,
    step_bytes: u64,
    file_bytes_max: u64,
    groups: [Group; GROUP_COUNT],
    sample_shift: AtomicU32,
    /// Nothing is recorded any more.
    stopped: AtomicBool,
    sink: Mutex<Sink>,
}

/// What one group of threads recorded and did not write out.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Group(Mutex<Buffers>);

#[derive(Debug, Default)]
struct Buffers {
    by_keyspace: BTreeMap<u32, Buffer>,
    /// Bytes of records in all of them.
    record_bytes: usize,
}

/// The block of one keyspace that is being made, and the order of the keys that it was given.
#[derive(Debug, Default)]
struct Buffer {
    sample_shift: u32,
    first_us: u64,
    last_us: u64,
    /// The time of the last record.
    record_us: u64,
    counts: TraceCounts,
    records: Vec<u8>,
    order: KeyOrder,
}

/// Where the next put stands among the keys put before.
#[derive(Debug, Default)]
struct KeyOrder {
    any: bool,
    last: Vec<u8>,
    greatest: Vec<u8>,
}

/// The file.
#[derive(Debug)]
struct Sink {
    /// `None` once recording has ended.
    file: Option<Box<dyn AppendFile>>,
    bytes: u64,
    /// Bytes of records since the sample was last halved.
    step_bytes: u64,
    frame: Vec<u8>,
    error: Option<Error>,
}

/// A payload to be written out.
#[derive(Debug)]
struct Sealed {
    payload: Vec<u8>,
    record_bytes: usize,
}

thread_local! {
    /// Its address tells threads apart.
    static GROUP_MARK: u8 = const { 0 };
}

impl Recorder {
    /// Begins a trace in the file at `path`, in place of a trace that is there.
    ///
    /// # Errors
    /// `InvalidArgument` if the file is there and no trace, or has the name of a file of a database; `Io`.
    pub(crate) fn start(
        fs: &dyn FileSystem,
        clock: Arc<dyn Clock>,
        path: &Path,
    ) -> Result<Recorder> {
        Recorder::start_with(fs, clock, path, (STEP_BYTES, FILE_BYTES_MAX))
    }

    fn start_with(
        fs: &dyn FileSystem,
        clock: Arc<dyn Clock>,
        path: &Path,
        (step_bytes, file_bytes_max): (u64, u64),
    ) -> Result<Recorder> {
        check_replaceable(fs, path)?;
        let start_unix_ms = clock.unix_ms();
        let header = encode_file_header(start_unix_ms);
        let mut file = fs.create(path)?;
        file.append(&header)?;
        let sink = Sink {
            file: Some(file),
            bytes: header.len() as u64,
            step_bytes: 0,
            frame: Vec::new(),
            error: None,
        };
        Ok(Recorder {
            start_ns: clock.monotonic_ns(),
            clock,
            start_unix_ms,
            step_bytes,
            file_bytes_max,
            groups: Default::default(),
            sample_shift: AtomicU32::new(0),
            stopped: AtomicBool::new(false),
            sink: Mutex::new(sink),
        })
    }

    /// Records the operations of an encoded batch that was written.
    pub(crate) fn record_batch(&self, payload: &[u8]) {
        if self.is_stopped() {
            return;
        }
        for operation in operations(payload) {
            let operation = operation.expect("a batch encodes itself well");
            self.record_write(&operation);
        }
    }

    fn record_write(&self, operation: &Operation<'_>) {
        let hash = key_hash(operation.key);
        let (value, ttl_ms) = if operation.kind == ValueKind::PutExpiring {
            let (expires_at_ms, value) =
                split_expiring(operation.value).expect("a batch encodes itself well");
            (value, Some(expires_at_ms.saturating_sub(self.clock.unix_ms())))
        } else {
            (operation.value, None)
        };
        let is_delete = operation.kind == ValueKind::Delete;
        self.record(operation.keyspace, (hash, operation.key.len()), |order| {
            if is_delete {
                return TraceOperation::Delete;
            }
            let (ascending, appended) = order.note_put(operation.key);
            TraceOperation::Put { value_bytes: value.len() as u32, ttl_ms, ascending, appended }
        });
    }

    /// Records a point read of `key` that gave `value`.
    pub(crate) fn record_get(&self, keyspace: KeyspaceId, key: &[u8], value: Option<&[u8]>) {
        if self.is_stopped() {
            return;
        }
        self.record(keyspace, (key_hash(key), key.len()), |_| match value {
            Some(value) => TraceOperation::GetHit { value_bytes: value.len() as u32 },
            None => TraceOperation::GetMiss,
        });
    }

    /// Records a scan that sought a key of this hash and length and stood on `entries` entries.
    pub(crate) fn record_scan(&self, keyspace: KeyspaceId, sought: (u64, usize), entries: u64) {
        if self.is_stopped() {
            return;
        }
        self.record(keyspace, sought, |_| TraceOperation::Scan { entries });
    }

    /// Records what `make` says of a key of this hash and length.
    fn record(
        &self,
        keyspace: KeyspaceId,
        (hash, key_len): (u64, usize),
        make: impl FnOnce(&mut KeyOrder) -> TraceOperation,
    ) {
        let mut buffers = self.group().0.lock();
        // Read under the lock, so that the times in a buffer never go back.
        let now_us = self.clock.monotonic_ns().saturating_sub(self.start_ns) / 1000;
        let buffer = buffers.by_keyspace.entry(keyspace.0).or_default();
        if buffer.counts.operations() == 0 {
            buffer.sample_shift = self.sample_shift.load(Ordering::Relaxed);
            (buffer.first_us, buffer.record_us) = (now_us, now_us);
        }
        buffer.last_us = now_us;
        let key_bytes = key_len as u32;
        let operation = make(&mut buffer.order);
        buffer.counts.add_operation(operation, key_bytes);
        if !is_sampled(hash, buffer.sample_shift) {
            return;
        }
        let record = TraceRecord { time_us: now_us, key_hash: hash, key_bytes, operation };
        let before = buffer.records.len();
        encode_record(&mut buffer.records, &record, buffer.record_us);
        buffer.record_us = now_us;
        let added = buffer.records.len() - before;
        buffers.record_bytes += added;
        if buffers.record_bytes >= BUFFER_BYTES {
            let sealed = buffers.seal();
            drop(buffers);
            self.append(&sealed);
        }
    }

    /// Writes out what is in the buffers.
    pub(crate) fn drain(&self) {
        for group in &self.groups {
            let sealed = group.0.lock().seal();
            self.append(&sealed);
        }
    }

    /// Writes out what is in the buffers and ends the trace.
    pub(crate) fn close(&self) {
        self.drain();
        self.stopped.store(true, Ordering::Relaxed);
        self.sink.lock().file = None;
    }

    /// Why recording ended early, if it failed.
    pub(crate) fn error(&self) -> Option<Error> {
        self.sink.lock().error.clone()
    }

    #[inline]
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn group(&self) -> &Group {
        let address = GROUP_MARK.with(|mark| std::ptr::from_ref(mark).addr());
        // Thread stacks and thread-local blocks lie megabytes or at least pages apart: fold both.
        &self.groups[((address >> 12) ^ (address >> 21)) % GROUP_COUNT]
    }

    fn append(&self, sealed: &[Sealed]) {
        if sealed.is_empty() {
            return;
        }
        let mut sink = self.sink.lock();
        for block in sealed {
            sink.append(self.start_unix_ms, block);
            if sink.step_bytes >= self.step_bytes {
                sink.step_bytes = 0;
                let shift = self.sample_shift.load(Ordering::Relaxed);
                self.sample_shift.store((shift + 1).min(SAMPLE_SHIFT_MAX), Ordering::Relaxed);
            }
            if sink.bytes >= self.file_bytes_max {
                sink.file = None;
            }
        }
        if sink.file.is_none() {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }
}

impl Sink {
    fn append(&mut self, start_unix_ms: u64, block: &Sealed) {
        let Some(file) = &mut self.file else { return };
        self.frame.clear();
        encode_frame(&mut self.frame, start_unix_ms, self.bytes, &block.payload);
        match file.append(&self.frame) {
            Ok(()) => {
                self.bytes += self.frame.len() as u64;
                self.step_bytes += block.record_bytes as u64;
            }
            Err(error) => {
                self.error = Some(error);
                self.file = None;
            }
        }
    }
}

impl Buffers {
    /// Takes out what is there, as payloads.
    fn seal(&mut self) -> Vec<Sealed> {
        self.record_bytes = 0;
        let used = self.by_keyspace.iter_mut().filter(|(_, it)| it.counts.operations() > 0);
        used.map(|(keyspace, buffer)| buffer.seal(*keyspace)).collect()
    }
}

impl Buffer {
    fn seal(&mut self, keyspace: u32) -> Sealed {
        let header = TraceBlock {
            keyspace,
            sample_shift: self.sample_shift,
            first_us: self.first_us,
            last_us: self.last_us,
            counts: std::mem::take(&mut self.counts),
            records: Vec::new(),
        };
        let record_bytes = self.records.len();
        let mut payload = Vec::with_capacity(BLOCK_HEADER_BYTES_MAX + record_bytes);
        encode_block_header(&mut payload, &header);
        payload.append(&mut self.records);
        Sealed { payload, record_bytes }
    }
}

impl KeyOrder {
    /// Whether `key` is greater than the last key, and than all keys; notes it.
    fn note_put(&mut self, key: &[u8]) -> (bool, bool) {
        let key = &key[..key.len().min(ORDER_KEY_BYTES_MAX)];
        let ascending = !self.any || key > self.last.as_slice();
        let appended = !self.any || key > self.greatest.as_slice();
        self.any = true;
        self.last.clear();
        self.last.extend_from_slice(key);
        if appended {
            self.greatest.clear();
            self.greatest.extend_from_slice(key);
        }
        (ascending, appended)
    }
}

/// Refuses to write over anything but a trace.
fn check_replaceable(fs: &dyn FileSystem, path: &Path) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str());
    if name.is_some_and(|name| FileKind::parse(name).is_some()) {
        return Err(Error::invalid("record_workload has the name of a file of a database")
            .at(path)
            .advise("give the trace another name, such as app.trace"));
    }
    let Some(file) = fs.open(path)? else { return Ok(()) };
    let mut head = [0; MAGIC.len()];
    let head = &mut head[..file.bytes().min(MAGIC.len() as u64) as usize];
    file.read_at(head, 0)?;
    // A trace is never synced: of its head a power cut may have left a part, or zeros.
    if head.iter().zip(MAGIC).all(|(found, magic)| *found == magic || *found == 0) {
        return Ok(());
    }
    Err(Error::invalid("record_workload names a file that is no trace")
        .at(path)
        .advise("name a new file, or an earlier trace, which is then replaced"))
}

#[cfg(test)]
mod tests;
