//! Sizes and times of the command line: `10TB`, `64MiB`, `100MB/s`, `7d`, or plain numbers.

/// Bytes by suffix, in lower case and without a final `b`.
const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("t", 1_000_000_000_000),
    ("p", 1_000_000_000_000_000),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
    ("ti", 1 << 40),
    ("pi", 1 << 50),
];

const TIMES: &[(&str, u64)] = &[
    ("", 1),
    ("s", 1),
    ("m", 60),
    ("h", 3600),
    ("d", 86_400),
    ("w", 7 * 86_400),
    ("y", 365 * 86_400),
];

/// Bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_suffix('b').unwrap_or(&lower);
    scaled(bare, SIZES).ok_or_else(|| format!("{text:?} is no size like 10TB, 64MiB or 1000"))
}

/// Bytes in a second, with or without `/s`.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let rate = parse_size(text.strip_suffix("/s").unwrap_or(text));
    rate.ok()
        .filter(|rate| *rate > 0)
        .ok_or_else(|| format!("{text:?} is no rate like 100MB/s, above 0"))
}

/// Bytes, of something that is there.
pub fn parse_some_size(text: &str) -> Result<u64, String> {
    let size = parse_size(text)?;
    if size > 0 { Ok(size) } else { Err(format!("{text:?} is nothing: give a size above 0")) }
}

/// Seconds, at least one: what is shorter would be rounded to none, and none often means never.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    scaled(&text.to_ascii_lowercase(), TIMES)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| format!("{text:?} is no time like 90s, 12h or 7d, of a second at least"))
}

/// A limit of an amplification.
pub fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| ratio.is_finite() && *ratio > 0.0);
    ratio.ok_or_else(|| format!("{text:?} is no ratio like 1.5, above 0"))
}

/// A number with a suffix of `units`, as a whole number.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let (_, unit) = units.iter().find(|(suffix, _)| *suffix == &text[digits.len()..])?;
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(*unit);
    }
    let value = digits.parse::<f64>().ok()? * *unit as f64;
    (value >= 0.0 && value < u64::MAX as f64).then_some(value as u64)
}

/// Decimal bytes for people: what rates and simulated trees are given in.
pub fn decimal_bytes(bytes: f64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
    let mut value = bytes;
    let mut at = 0;
    while value >= 1000.0 && at + 1 < units.len() {
        value /= 1000.0;
        at += 1;
    }
    if value >= 100.0 || at == 0 {
        format!("{value:.0} {}", units[at])
    } else {
        format!("{value:.1} {}", units[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_rates_and_times_are_read() {
        assert_eq!(parse_size("10TB"), Ok(10_000_000_000_000));
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1.5k"), Ok(1500));
        assert_eq!(parse_size("7"), Ok(7));
        assert_eq!(parse_rate("100MB/s"), Ok(100_000_000));
        assert_eq!(parse_seconds("7d"), Ok(604_800));
        assert_eq!(parse_seconds("90"), Ok(90));
        for wrong in ["", "x", "10XB", "-5", "1e", "99999999999PB", "nan", "inf"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
        assert!(parse_rate("0").is_err() && parse_seconds("7q").is_err());
        assert!(parse_seconds("0.5s").is_err() && parse_seconds("0").is_err());
        assert!(parse_some_size("0").is_err() && parse_some_size("1") == Ok(1));
        assert_eq!(parse_ratio("1.5"), Ok(1.5));
        for wrong in ["0", "-1", "nan", "inf", "x"] {
            assert!(parse_ratio(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_are_shown_in_thousands() {
        assert_eq!(decimal_bytes(999.0), "999 B");
        assert_eq!(decimal_bytes(1_500_000.0), "1.5 MB");
        assert_eq!(decimal_bytes(1e15), "1.0 PB");
    }
}
