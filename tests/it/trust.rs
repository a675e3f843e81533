//! How much the trust suite tries, and the figures it leaves.
//!
//! One variable, `ESKER_TRUST`, chooses between three sizes: `quick` (the default: what `cargo test` does, in debug
//! builds too), `ci` and `full`. Each suite says how many cases it makes at each. `ESKER_TRUST_SEED` moves all of its
//! random choices; the seed is in every failure and in every figure.
//!
//! With `ESKER_TRUST_REPORT=FILE` each suite appends one line of JSON to that file: what it tried and what was wrong.
//! `tests/trust.sh` sets all three and draws the table of [docs/testing.md](../../docs/testing.md) from the lines.

#![allow(dead_code, reason = "shared by two test binaries, of which neither needs all of it")]
#![allow(
    clippy::disallowed_methods,
    reason = "the report is a file of the test's, not of the engine's"
)]

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

/// The size that `ESKER_TRUST` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Quick,
    Ci,
    Full,
}

impl Size {
    pub(crate) fn get() -> Self {
        match std::env::var("ESKER_TRUST").as_deref() {
            Err(_) | Ok("" | "quick") => Size::Quick,
            Ok("ci") => Size::Ci,
            Ok("full") => Size::Full,
            Ok(other) => panic!("ESKER_TRUST={other}: say quick, ci or full"),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Size::Quick => "quick",
            Size::Ci => "ci",
            Size::Full => "full",
        }
    }
}

/// How many cases to make at the chosen size.
pub(crate) fn cases(quick: u64, ci: u64, full: u64) -> u64 {
    match Size::get() {
        Size::Quick => quick,
        Size::Ci => ci,
        Size::Full => full,
    }
}

/// The first seed; 0 if nobody says otherwise.
pub(crate) fn seed() -> u64 {
    let text = std::env::var("ESKER_TRUST_SEED").unwrap_or_default();
    if text.is_empty() { 0 } else { text.parse().expect("ESKER_TRUST_SEED: a number") }
}

/// Leaves the figures of one suite: `cases` tried, of which `failures` were wrong, and details by name. Call it before
/// asserting that there were no failures, so that those are on record too.
pub(crate) fn report(suite: &str, cases: u64, failures: u64, details: &[(&str, u64)]) {
    let mut line = format!(
        r#"{{"suite":"{suite}","size":"{}","seed":{},"cases":{cases},"failures":{failures}"#,
        Size::get().as_str(),
        seed()
    );
    for (name, value) in details {
        write!(line, r#","{name}":{value}"#).unwrap();
    }
    line.push_str("}\n");
    if let Ok(path) = std::env::var("ESKER_TRUST_REPORT") {
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        // One write, so that lines of tests that run at once do not mix.
        file.write_all(line.as_bytes()).unwrap();
    }
}
