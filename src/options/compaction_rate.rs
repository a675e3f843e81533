//! How fast background work may write: without limit, by need, or at a fixed rate.

use std::fmt;
use std::str::FromStr;

use super::bad;
use crate::error::{Error, Result};

/// The slowest fixed rate: below it one table would take hours.
const BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// A limit on the bytes that compaction writes each second. Flush is never held back: what it writes is taken from
/// the compactions' share, at most half of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompactionRate {
    /// As fast as the device and the processors allow. In text `none`.
    #[default]
    Unlimited,
    /// Slow while little is to be done, so that compaction disturbs others least; without limit before writers would be
    /// slowed. In text `auto`.
    Auto,
    /// At most so many bytes per second, at least 64 KiB. In text the number.
    BytesPerSecond(u64),
}

impl CompactionRate {
    /// Refuses values out of range.
    pub(super) fn validate(self) -> Result<()> {
        match self {
            CompactionRate::BytesPerSecond(bytes) if bytes < BYTES_PER_SECOND_MIN => {
                Err(unknown(&bytes.to_string()))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for CompactionRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompactionRate::Unlimited => f.write_str("none"),
            CompactionRate::Auto => f.write_str("auto"),
            CompactionRate::BytesPerSecond(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl FromStr for CompactionRate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(CompactionRate::Unlimited),
            "auto" => Ok(CompactionRate::Auto),
            _ => text.parse().map(CompactionRate::BytesPerSecond).map_err(|_| unknown(text)),
        }
    }
}

fn unknown(text: &str) -> Error {
    bad("compaction_rate", text, "none, auto, or bytes per second from 65536 on")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_nonsense_is_refused() {
        let rates = ["none", "auto", "65536", "100000000"];
        for text in rates {
            let rate: CompactionRate = text.parse().unwrap();
            rate.validate().unwrap();
            assert_eq!(rate.to_string(), text);
        }
        assert!("fast".parse::<CompactionRate>().is_err());
        assert!("-1".parse::<CompactionRate>().is_err());
        assert!(CompactionRate::BytesPerSecond(65535).validate().is_err());
    }
}
