//! Any bytes as a stored filter, and any keys as what a filter is built of.

use crate::filter::{FilterBuilder, FilterLayout, KeyProbe};
use crate::key::key_hash;
use crate::options::FilterKind;

/// Decodes `stored` as a filter; whether it is one. Asking it for anything gives an answer; one that is not present
/// keeps nothing out.
///
/// # Panics
/// If that is not so.
pub fn check(stored: &[u8]) -> bool {
    let Ok(layout) = FilterLayout::parse(stored) else { return false };
    let step = stored.len() / 64 + 1;
    for start in (0..stored.len()).step_by(step) {
        let hash = key_hash(&stored[start..]);
        for hash in [hash, 0, u64::MAX, start as u64] {
            let answer = layout.may_contain(stored, &KeyProbe::new(hash));
            assert!(answer || layout.is_present(), "no filter keeps a key out");
        }
    }
    true
}

/// Builds a filter of `kind` with `bits_per_key` over the hashes of `keys`, to stand at `file_offset`: it parses, and
/// lets each of them pass. So does the same filter with more bits set, which is what damage could do to it unseen.
///
/// # Panics
/// If that is not so.
pub fn check_built(kind: FilterKind, bits_per_key: f32, file_offset: u64, keys: &[&[u8]]) {
    let mut builder = FilterBuilder::new(kind, bits_per_key);
    for key in keys {
        builder.add(key_hash(key));
    }
    let estimated_bytes = builder.estimated_bytes();
    let mut stored = Vec::new();
    builder.finish(file_offset, &mut stored);
    // Headers, padding, and the last block.
    assert!(stored.len() <= estimated_bytes + 192, "a filter is much longer than estimated");
    let layout = FilterLayout::parse(&stored).expect("a filter that was just built");
    assert_eq!(layout.is_present(), !keys.is_empty() && bits_per_key > 0.0);
    for key in keys {
        let probe = KeyProbe::new(key_hash(key));
        assert!(layout.may_contain(&stored, &probe), "a filter keeps out what it was built of");
    }
    check(&stored);
}
