//! Write batches: operations that are applied together or not at all.
//!
//! A batch is kept encoded from the start, in the form in which the write-ahead log stores it, so that committing it
//! copies bytes and encodes nothing. The log's record carries the number of operations and the first sequence number;
//! the operations take consecutive sequence numbers in their order.
//!
//! # Format (the payload of a WAL record of kind *batch*)
//! ```text
//! batch     := operation*
//! operation := keyspace:varint  kind:u8  key_len:varint  key  value?
//! value     := value_len:varint  value          for every kind but delete
//! ```
//! `docs/format/batch.md` says the same byte by byte. Kinds are those of [`ValueKind`].
//!
//! # Times to live
//! Until the batch is written, an operation that expires holds its time to live where its time of expiry will be. The
//! write starts them all at once ([`WriteBatch::start_ttls`]): a batch is one moment, however long it took to collect.
//!
//! This file does not know which keyspaces exist, nor what a sequence number is for.

use std::time::Duration;

use crate::coding::{Decoder, put_slice, put_u64, put_varint};
use crate::error::{Error, Result};
use crate::expiry::{EXPIRY_LEN, expires_at_ms, split_expiring, ttl_ms};
use crate::key::{KEY_LEN_MAX, KeyspaceId, VALUE_LEN_MAX, ValueKind};

/// Operations that are written atomically, over any keyspaces of one database.
///
/// Later operations win over earlier ones on the same key. A key or value that is too long is reported by the write,
/// and then nothing of the batch is written.
///
/// ```
/// let mut batch = esker::WriteBatch::new();
/// batch.put("apple", "red").put("banana", "yellow").delete("cherry");
/// assert_eq!(batch.len(), 3);
/// ```
#[derive(Clone, Debug, Default)]
pub struct WriteBatch {
    payload: Vec<u8>,
    count: u32,
    user_bytes: u64,
    /// The first thing that was wrong; the write returns it.
    error: Option<Error>,
    /// The database whose keyspace handles were used, if any.
    origin: Option<u64>,
    /// Where in the payload times to live stand that were not started yet.
    ttls: Vec<usize>,
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        WriteBatch::default()
    }

    /// Adds a put into the keyspace `default`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut Self {
        self.add(KeyspaceId::default(), ValueKind::Put, key.as_ref(), value.as_ref());
        self
    }

    /// Adds a put into the keyspace `default` that expires `ttl` after the batch was written. See
    /// [`Db::put_with_ttl`](crate::Db::put_with_ttl).
    pub fn put_with_ttl(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Duration,
    ) -> &mut Self {
        self.add_expiring(KeyspaceId::default(), key.as_ref(), value.as_ref(), ttl);
        self
    }

    /// Adds a delete in the keyspace `default`.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.add(KeyspaceId::default(), ValueKind::Delete, key.as_ref(), b"");
        self
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The encoded length in bytes; what the log will hold of it.
    pub fn bytes(&self) -> usize {
        self.payload.len()
    }

    /// Removes all operations and keeps the memory.
    pub fn clear(&mut self) {
        self.payload.clear();
        self.count = 0;
        self.user_bytes = 0;
        self.error = None;
        self.origin = None;
        self.ttls.clear();
    }

    /// Adds a put or a delete.
    pub(crate) fn add(&mut self, keyspace: KeyspaceId, kind: ValueKind, key: &[u8], value: &[u8]) {
        debug_assert_ne!(kind, ValueKind::PutExpiring, "that takes a time to live");
        if !self.begin(keyspace, kind, key, value, VALUE_LEN_MAX) {
            return;
        }
        if kind != ValueKind::Delete {
            put_slice(&mut self.payload, value);
        }
    }

    /// Adds a put that expires `ttl` after the batch was written.
    pub(crate) fn add_expiring(
        &mut self,
        keyspace: KeyspaceId,
        key: &[u8],
        value: &[u8],
        ttl: Duration,
    ) {
        match ttl_ms(ttl) {
            Ok(ttl_ms) => self.add_living(keyspace, key, value, ttl_ms),
            Err(error) => drop(self.error.get_or_insert(error)),
        }
    }

    /// Adds a put that lives for `ttl_ms`.
    pub(crate) fn add_living(
        &mut self,
        keyspace: KeyspaceId,
        key: &[u8],
        value: &[u8],
        ttl_ms: u64,
    ) {
        let kind = ValueKind::PutExpiring;
        if !self.begin(keyspace, kind, key, value, VALUE_LEN_MAX - EXPIRY_LEN) {
            return;
        }
        put_varint(&mut self.payload, (EXPIRY_LEN + value.len()) as u64);
        self.ttls.push(self.payload.len());
        put_u64(&mut self.payload, ttl_ms);
        self.payload.extend_from_slice(value);
    }

    /// Begins an operation; what its kind says of the value follows. Returns whether it can be.
    fn begin(
        &mut self,
        keyspace: KeyspaceId,
        kind: ValueKind,
        key: &[u8],
        value: &[u8],
        value_len_max: usize,
    ) -> bool {
        if let Err(error) = check_lengths(key, value, value_len_max) {
            self.error.get_or_insert(error);
            return false;
        }
        if self.count == u32::MAX {
            self.error.get_or_insert(Error::invalid("a batch holds at most 4294967295 operations"));
            return false;
        }
        put_varint(&mut self.payload, u64::from(keyspace.0));
        self.payload.push(kind as u8);
        put_slice(&mut self.payload, key);
        self.count += 1;
        self.user_bytes += (key.len() + value.len()) as u64;
        true
    }

    /// Gives plain puts the default time to live of their keyspace, in milliseconds; 0: none.
    pub(crate) fn give_default_ttls(&mut self, ttl_ms_of: impl Fn(KeyspaceId) -> u64) {
        let mut with_ttls = WriteBatch {
            payload: Vec::with_capacity(self.payload.len() + EXPIRY_LEN * self.len()),
            error: self.error.clone(),
            origin: self.origin,
            ..WriteBatch::default()
        };
        for operation in operations(&self.payload) {
            let Operation { keyspace, kind, key, value } =
                operation.expect("a batch encodes itself well");
            match (kind, ttl_ms_of(keyspace)) {
                (ValueKind::Put, 0) | (ValueKind::Delete, _) => {
                    with_ttls.add(keyspace, kind, key, value);
                }
                (ValueKind::Put, ttl_ms) => with_ttls.add_living(keyspace, key, value, ttl_ms),
                _ => {
                    let (ttl_ms, value) = split_expiring(value).expect("it was checked above");
                    with_ttls.add_living(keyspace, key, value, ttl_ms);
                }
            }
        }
        *self = with_ttls;
    }

    /// Whether there are times to live that were not started yet.
    pub(crate) fn has_ttls(&self) -> bool {
        !self.ttls.is_empty()
    }

    /// Turns times to live into times of expiry: the batch is written at `now_ms`.
    pub(crate) fn start_ttls(&mut self, now_ms: u64) {
        for at in self.ttls.drain(..) {
            let slot = self.payload[at..].first_chunk_mut().expect("a time to live stands there");
            *slot = expires_at_ms(now_ms, u64::from_le_bytes(*slot)).to_le_bytes();
        }
    }

    /// Notes that a handle of database `origin` was used; handles of two databases in one batch are an error.
    pub(crate) fn note_origin(&mut self, origin: u64) {
        if *self.origin.get_or_insert(origin) != origin {
            self.error.get_or_insert(foreign_keyspace());
        }
    }

    /// The first thing that was wrong with the batch for database `origin`, if any.
    pub(crate) fn check(&self, origin: u64) -> Result<()> {
        match (&self.error, self.origin) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(other)) if other != origin => Err(foreign_keyspace()),
            _ => Ok(()),
        }
    }

    /// The encoded operations.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The number of operations.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of keys and values that the user gave.
    pub(crate) fn user_bytes(&self) -> u64 {
        self.user_bytes
    }
}

fn foreign_keyspace() -> Error {
    Error::invalid("the batch names a keyspace of another database")
        .advise("use the handles of the database that the batch is written to")
}

/// Refuses a key or value that no format could hold.
fn check_lengths(key: &[u8], value: &[u8], value_len_max: usize) -> Result<()> {
    if key.len() > KEY_LEN_MAX {
        return Err(Error::invalid(format!(
            "key of {} bytes is longer than {KEY_LEN_MAX} bytes",
            key.len()
        ))
        .advise("store a hash of the key, or put the rest into the value"));
    }
    if value.len() > value_len_max {
        return Err(Error::invalid(format!(
            "value of {} bytes is longer than {value_len_max} bytes",
            value.len()
        ))
        .advise("split the value over several keys"));
    }
    Ok(())
}

/// One operation of an encoded batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Operation<'a> {
    pub(crate) keyspace: KeyspaceId,
    pub(crate) kind: ValueKind,
    pub(crate) key: &'a [u8],
    /// As it is stored: that of a put that expires begins with the time. Empty for a delete.
    pub(crate) value: &'a [u8],
}

/// The operations of an encoded batch, in order. Ends after the first error.
pub(crate) fn operations(payload: &[u8]) -> Operations<'_> {
    Operations { rest: Decoder::new(payload) }
}

/// See [`operations`].
#[derive(Clone, Debug)]
pub(crate) struct Operations<'a> {
    rest: Decoder<'a>,
}

impl<'a> Iterator for Operations<'a> {
    /// `None` inside: the bytes are not a batch.
    type Item = Result<Operation<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let decoded = decode_operation(&mut self.rest);
        if decoded.is_err() {
            self.rest = Decoder::new(&[]);
        }
        Some(decoded)
    }
}

#[inline]
fn decode_operation<'a>(rest: &mut Decoder<'a>) -> Result<Operation<'a>> {
    let malformed = |_| {
        Error::new(
            crate::error::ErrorKind::Corruption,
            "malformed batch: an operation is cut short",
        )
    };
    let keyspace = KeyspaceId(rest.varint32().map_err(malformed)?);
    let kind = ValueKind::from_byte(rest.u8().map_err(malformed)?)?;
    let key = rest.slice().map_err(malformed)?;
    let value =
        if kind == ValueKind::Delete { &[][..] } else { rest.slice().map_err(malformed)? };
    if key.len() > KEY_LEN_MAX {
        return Err(Error::new(
            crate::error::ErrorKind::Corruption,
            "malformed batch: a key is too long",
        ));
    }
    if kind == ValueKind::PutExpiring {
        split_expiring(value)?;
    }
    Ok(Operation { keyspace, kind, key, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;

    type Decoded = (u32, ValueKind, Vec<u8>, Vec<u8>);

    fn decode(payload: &[u8]) -> Result<Vec<Decoded>> {
        operations(payload)
            .map(|op| op.map(|op| (op.keyspace.0, op.kind, op.key.to_vec(), op.value.to_vec())))
            .collect()
    }

    #[test]
    fn golden_bytes() {
        let mut batch = WriteBatch::new();
        batch.put("k", "value").delete("");
        batch.add(KeyspaceId(300), ValueKind::Put, b"a", b"");
        assert_eq!(batch.payload(), b"\x00\x01\x01k\x05value\x00\x00\x00\xac\x02\x01\x01a\x00");
        assert_eq!((batch.count(), batch.user_bytes()), (3, 7));
    }

    #[test]
    fn golden_bytes_of_a_put_that_expires() {
        let mut batch = WriteBatch::new();
        batch.put_with_ttl("k", "value", Duration::from_millis(5)).put("l", "");
        assert!(batch.has_ttls());
        batch.start_ttls(0x0102_0304_0506_0708);
        let bytes = b"\x00\x02\x01k\x0d\x0d\x07\x06\x05\x04\x03\x02\x01value\x00\x01\x01l\x00";
        assert_eq!(batch.payload(), bytes);
        assert_eq!((batch.count(), batch.user_bytes()), (2, 7), "the time is not the user's");
        batch.start_ttls(1);
        assert_eq!(batch.payload(), bytes, "times to live start once");
        let short = b"\x00\x02\x01k\x07\x0d\x07\x06\x05\x04\x03\x02";
        assert_eq!(decode(short).unwrap_err().kind(), ErrorKind::Corruption);
    }

    #[test]
    fn default_times_to_live_are_for_plain_puts_of_their_keyspace() {
        let mut batch = WriteBatch::new();
        batch.put("a", "1").delete("b").put_with_ttl("c", "2", Duration::from_millis(7));
        batch.add(KeyspaceId(3), ValueKind::Put, b"d", b"3");
        let before = (batch.count(), batch.user_bytes());
        batch.give_default_ttls(|keyspace| if keyspace.0 == 0 { 50 } else { 0 });
        batch.start_ttls(1000);
        let living = |at_ms: u64, value: &[u8]| [&at_ms.to_le_bytes(), value].concat();
        let expected = [
            (0, ValueKind::PutExpiring, b"a".to_vec(), living(1050, b"1")),
            (0, ValueKind::Delete, b"b".to_vec(), Vec::new()),
            (0, ValueKind::PutExpiring, b"c".to_vec(), living(1007, b"2")),
            (3, ValueKind::Put, b"d".to_vec(), b"3".to_vec()),
        ];
        assert_eq!(decode(batch.payload()).unwrap(), expected);
        assert_eq!((batch.count(), batch.user_bytes()), before);
    }

    #[test]
    fn a_time_to_live_of_zero_is_reported_by_check() {
        let mut batch = WriteBatch::new();
        batch.put("a", "1").put_with_ttl("b", "2", Duration::ZERO);
        assert_eq!(batch.check(1).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    proptest! {
        #[test]
        fn round_trip(ops: Vec<(u32, bool, Vec<u8>, Vec<u8>)>) {
            let mut batch = WriteBatch::new();
            let mut expected = Vec::new();
            for (keyspace, delete, key, value) in ops {
                let (kind, value) =
                    if delete { (ValueKind::Delete, Vec::new()) } else { (ValueKind::Put, value) };
                batch.add(KeyspaceId(keyspace), kind, &key, &value);
                expected.push((keyspace, kind, key, value));
            }
            prop_assert_eq!(decode(batch.payload()).unwrap(), expected);
            for cut in 0..batch.payload().len() {
                // A prefix is a shorter batch or an error, never a panic.
                let _ = decode(&batch.payload()[..cut]);
            }
        }

        #[test]
        fn decoding_is_total(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn too_long_keys_and_foreign_handles_are_reported_by_check() {
        let mut batch = WriteBatch::new();
        batch.put(vec![0; KEY_LEN_MAX + 1], "v");
        assert_eq!(batch.check(1).unwrap_err().kind(), ErrorKind::InvalidArgument);
        batch.clear();
        batch.put(vec![0; KEY_LEN_MAX], "v");
        batch.check(1).unwrap();
        batch.note_origin(2);
        assert!(batch.check(1).is_err());
    }
}
