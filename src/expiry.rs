//! Expiry: how an entry says until when its value holds, and whether that time has come.
//!
//! # Format
//! The stored value of an entry of kind [`ValueKind::PutExpiring`] is
//! ```text
//! expiring := expires_at_ms:u64  value      Unix milliseconds, little-endian
//! ```
//!
//! # Rules
//! * An entry is expired from the moment `expires_at_ms` on. To readers it then is a tombstone: it hides every older
//!   version of its key.
//! * `u64::MAX` is never: so a time to live that leads beyond what fits never ends.
//! * A time to live is rounded up to whole milliseconds, so that nothing expires early.
//!
//! This file does not know where the time comes from: callers have a clock.

use std::time::Duration;

use crate::coding::Decoder;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Trailer, ValueKind};

/// Bytes that stand before the user's value.
pub(crate) const EXPIRY_LEN: usize = 8;

/// What `expires_at_ms` is for an entry that never expires.
const NEVER_MS: u64 = u64::MAX;

/// When the entry expires, and the user's value.
#[inline]
pub(crate) fn split_expiring(stored: &[u8]) -> Result<(u64, &[u8])> {
    let mut decoder = Decoder::new(stored);
    match decoder.u64() {
        Ok(expires_at_ms) => Ok((expires_at_ms, decoder.rest())),
        Err(_) => Err(cut_short()),
    }
}

#[cold]
fn cut_short() -> Error {
    Error::new(ErrorKind::Corruption, "a value that expires is shorter than its time of expiry")
        .advise(
            "restore the file from a copy, or repair the database, which keeps what is readable",
        )
}

/// Whether an entry that expires at `expires_at_ms` is gone at `now_ms`.
#[inline]
pub(crate) fn is_expired(expires_at_ms: u64, now_ms: u64) -> bool {
    expires_at_ms <= now_ms && expires_at_ms != NEVER_MS
}

/// When something written at `now_ms` expires that is to live for `ttl_ms`.
pub(crate) fn expires_at_ms(now_ms: u64, ttl_ms: u64) -> u64 {
    now_ms.saturating_add(ttl_ms)
}

/// A time to live in whole milliseconds, at least one.
pub(crate) fn ttl_ms(ttl: Duration) -> Result<u64> {
    if ttl.is_zero() {
        return Err(Error::invalid("a time to live of zero: the entry would never be there")
            .advise("delete the key instead, or give it a longer time"));
    }
    Ok(u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(NEVER_MS))
}

/// The length of what the user gave of a stored value of `stored_len` bytes.
#[inline]
pub(crate) fn user_value_len(trailer: Trailer, stored_len: usize) -> usize {
    if trailer.kind_byte() == ValueKind::PutExpiring as u8 {
        stored_len.saturating_sub(EXPIRY_LEN)
    } else {
        stored_len
    }
}

/// When the values of a set of entries expire. Tombstones do not count: they have no value, and go when there is
/// nothing left for them to hide.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ExpiryRange {
    /// First and last; `None` before the first value.
    range: Option<(u64, u64)>,
    has_lasting: bool,
}

impl ExpiryRange {
    /// Takes an entry into account.
    #[inline]
    pub(crate) fn add(&mut self, trailer: Trailer, stored: &[u8]) -> Result<()> {
        match trailer.kind_byte() {
            kind if kind == ValueKind::PutExpiring as u8 => {
                let (at_ms, _) = split_expiring(stored)?;
                let (first, last) = self.range.unwrap_or((at_ms, at_ms));
                self.range = Some((first.min(at_ms), last.max(at_ms)));
            }
            kind if kind == ValueKind::Delete as u8 => {}
            _ => self.has_lasting = true,
        }
        Ok(())
    }

    /// The range of both.
    pub(crate) fn with(self, other: &ExpiryRange) -> ExpiryRange {
        let range = match (self.range, other.range) {
            (Some(one), Some(two)) => Some((one.0.min(two.0), one.1.max(two.1))),
            (one, two) => one.or(two),
        };
        ExpiryRange { range, has_lasting: self.has_lasting || other.has_lasting }
    }

    /// When the first value expires; `u64::MAX` if none ever does.
    pub(crate) fn min_ms(&self) -> u64 {
        self.range.map_or(NEVER_MS, |(first, _)| first)
    }

    /// When the last value expires; `u64::MAX` if any never does, or there is none.
    pub(crate) fn max_ms(&self) -> u64 {
        if self.has_lasting { NEVER_MS } else { self.range.map_or(NEVER_MS, |(_, last)| last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::SequenceNumber;

    #[test]
    fn golden_bytes() {
        let stored = b"\x08\x07\x06\x05\x04\x03\x02\x01value";
        assert_eq!(split_expiring(stored).unwrap(), (0x0102_0304_0506_0708, &b"value"[..]));
        assert_eq!(split_expiring(&stored[..8]).unwrap().1, b"");
        for len in 0..8 {
            let error = split_expiring(&stored[..len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption);
        }
    }

    #[test]
    fn an_entry_is_gone_from_its_moment_on() {
        assert!(!is_expired(100, 99));
        assert!(is_expired(100, 100));
        assert!(is_expired(0, 0));
        assert!(!is_expired(NEVER_MS, u64::MAX), "never is never");
    }

    #[test]
    fn times_to_live_are_rounded_up_and_do_not_overflow() {
        assert_eq!(ttl_ms(Duration::ZERO).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(ttl_ms(Duration::from_nanos(1)).unwrap(), 1);
        assert_eq!(ttl_ms(Duration::from_nanos(1_000_001)).unwrap(), 2);
        assert_eq!(ttl_ms(Duration::from_secs(3)).unwrap(), 3000);
        assert_eq!(ttl_ms(Duration::MAX).unwrap(), NEVER_MS);
        assert_eq!(expires_at_ms(5, NEVER_MS), NEVER_MS);
    }

    #[test]
    fn the_range_is_that_of_the_values() {
        let trailer = |kind| Trailer::new(SequenceNumber(1), kind);
        let mut range = ExpiryRange::default();
        assert_eq!((range.min_ms(), range.max_ms()), (u64::MAX, u64::MAX));
        range.add(trailer(ValueKind::Delete), b"").unwrap();
        assert_eq!((range.min_ms(), range.max_ms()), (u64::MAX, u64::MAX), "nothing expires");
        for at_ms in [7u64, 5, 6] {
            range.add(trailer(ValueKind::PutExpiring), &at_ms.to_le_bytes()).unwrap();
        }
        assert_eq!((range.min_ms(), range.max_ms()), (5, 7));
        range.add(trailer(ValueKind::Put), b"").unwrap();
        assert_eq!((range.min_ms(), range.max_ms()), (5, u64::MAX));
        assert!(range.add(trailer(ValueKind::PutExpiring), b"short").is_err());
    }

    #[test]
    fn what_the_user_gave_is_what_counts() {
        let trailer = |kind| Trailer::new(SequenceNumber(1), kind);
        assert_eq!(user_value_len(trailer(ValueKind::PutExpiring), 11), 3);
        assert_eq!(user_value_len(trailer(ValueKind::PutExpiring), 3), 0);
        assert_eq!(user_value_len(trailer(ValueKind::Put), 11), 11);
    }
}
