//! Key prefixes that tell apart keys with a common beginning.
//!
//! The memtable orders its entries by a 64-bit prefix before it looks at a key, because a prefix is
//! at hand where a key costs a cache miss. Eight bytes of a key such as `user000000012345` say
//! nothing; so the eight bytes *after* a base are used. The base is guessed from the keys of the
//! memtable before: see [`PrefixHint::between`].
//!
//! # Invariant
//! For every base the map from key to prefix is monotone: `a <= b` implies `prefix(a) <=
//! prefix(b)`. Equal prefixes decide nothing. So a bad guess costs time and never correctness.

use std::cmp::Ordering;

use crate::key::key_prefix;

/// How many bytes of the common beginning are left in the prefix. Keys that grow (times, counters)
/// soon leave the range seen so far; one byte lets them grow tenfold (in decimal; more in binary)
/// before prefixes stop telling them apart.
const SLACK_BYTES: usize = 1;

/// A guess at how the keys to come begin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrefixHint {
    base: Box<[u8]>,
}

impl PrefixHint {
    /// The hint for keys like those between `min` and `max`.
    pub(super) fn between(min: &[u8], max: &[u8]) -> Self {
        let common = min.iter().zip(max).take_while(|(a, b)| a == b).count();
        PrefixHint { base: min[..common.saturating_sub(SLACK_BYTES)].into() }
    }

    /// The prefix of `key`: the bytes after the base, or the least or greatest prefix for a key
    /// that is less or greater than all keys beginning with it.
    #[inline]
    pub(super) fn prefix(&self, key: &[u8]) -> u64 {
        if let Some(rest) = key.strip_prefix(&*self.base) {
            return key_prefix(rest);
        }
        match key.cmp(&self.base) {
            Ordering::Less => u64::MIN,
            // Not equal: the base would have been stripped.
            Ordering::Equal | Ordering::Greater => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_base_is_the_common_beginning_less_the_slack() {
        let hint = PrefixHint::between(b"user00000123", b"user00000987");
        assert_eq!(&*hint.base, b"user0000");
        assert_eq!(hint.prefix(b"user00000500"), key_prefix(b"0500"));
        assert!(hint.prefix(b"user00001000") < u64::MAX, "room to grow");
        assert_eq!(hint.prefix(b"user0000"), 0);
        assert_eq!(hint.prefix(b"user000"), 0, "shorter than the base");
        assert_eq!(hint.prefix(b"user"), 0);
        assert_eq!(hint.prefix(b""), 0);
        assert_eq!(hint.prefix(b"usee"), 0, "below the base");
        assert_eq!(hint.prefix(b"user0001"), u64::MAX, "above the base");
        assert_eq!(hint.prefix(b"v"), u64::MAX, "above the base, and shorter");
        assert_eq!(&*PrefixHint::between(b"", b"").base, b"");
        assert_eq!(PrefixHint::default().prefix(b"abc"), key_prefix(b"abc"));
    }

    proptest! {
        #[test]
        fn prefixes_are_monotone(
            ends in (vec(0u8..3, 0..12), vec(0u8..3, 0..12)),
            a in vec(0u8..3, 0..16),
            b in vec(0u8..3, 0..16),
        ) {
            let hint = PrefixHint::between(&ends.0, &ends.1);
            let (low, high) = if a <= b { (a, b) } else { (b, a) };
            prop_assert!(hint.prefix(&low) <= hint.prefix(&high));
        }
    }
}
