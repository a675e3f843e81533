//! Any bytes as a batch of operations.

use crate::batch::{Operation, WriteBatch, operations};
use crate::error::Result;
use crate::expiry::split_expiring;
use crate::key::ValueKind;

/// Decodes `bytes` as a batch; whether they are one. What decodes, encodes to the same operations, and to the same
/// bytes where every number was as short as it can be. A batch that is cut holds a prefix of its operations.
///
/// # Panics
/// If any of that is not so.
pub fn check(bytes: &[u8]) -> bool {
    let (decoded, is_whole) = decode(bytes);
    let mut again = WriteBatch::new();
    for operation in &decoded {
        encode(&mut again, operation);
    }
    again.check(0).expect("what was decoded can be written");
    let payload = again.payload();
    assert_eq!(again.len(), decoded.len());
    assert!(payload.len() <= bytes.len(), "the shortest form is no longer than any other");
    if is_whole && payload.len() == bytes.len() {
        assert_eq!(payload, bytes, "two encodings of one batch, both the shortest");
    }
    let (same, is_same_whole) = decode(payload);
    assert!(is_same_whole && same == decoded, "encoding and decoding give other operations");
    // Every cut of a short batch, and some of a long one.
    for cut in (0..payload.len()).step_by(payload.len() / 64 + 1) {
        let (fewer, _) = decode(&payload[..cut]);
        assert!(decoded.starts_with(&fewer), "a cut batch holds other operations");
        assert!(fewer.len() < decoded.len(), "a cut batch holds all operations");
    }
    is_whole
}

/// The operations up to the first error, and whether there was none.
fn decode(bytes: &[u8]) -> (Vec<Operation<'_>>, bool) {
    let mut rest = operations(bytes);
    let mut decoded = Vec::new();
    while let Some(next) = rest.next() {
        let next: Result<Operation<'_>> = next;
        let Ok(operation) = next else {
            assert!(rest.next().is_none(), "operations behind an error");
            return (decoded, false);
        };
        decoded.push(operation);
    }
    (decoded, true)
}

fn encode(batch: &mut WriteBatch, operation: &Operation<'_>) {
    let Operation { keyspace, kind, key, value } = *operation;
    if kind == ValueKind::PutExpiring {
        let (expires_at_ms, value) = split_expiring(value).expect("the decoder checks it");
        // The time stands where a time to live would, and stays as it is until the batch is written.
        batch.add_living(keyspace, key, value, expires_at_ms);
    } else {
        batch.add(keyspace, kind, key, value);
    }
}
