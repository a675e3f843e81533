//! The metrics in the text format that Prometheus scrapes.
//!
//! Names are those of the fields with `esker_` in front; counters end in `_total`; times are in seconds. What belongs
//! to a keyspace, a level or a reason has labels. Each family stands in one piece with its `HELP` and `TYPE` before
//! it, as the format demands.

use std::fmt::Write as _;

use crate::db::metrics::Metrics;
use crate::db::metrics::fields::{
    COMPACTIONS, Field, KEYSPACE, Kind, LEVEL, LIFETIME, METRICS, STALL,
};

impl Metrics {
    /// The metrics as Prometheus text (version 0.0.4), to be served as `text/plain`.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let db = esker::Db::open(dir.path())?;
    /// db.put("key", "value")?;
    /// assert!(db.metrics().prometheus().contains("\nesker_user_bytes_written_total 8\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prometheus(&self) -> String {
        let mut out = Exposition::default();
        out.families("", METRICS, &[(Vec::new(), self)]);
        out.families("lifetime_", LIFETIME, &[(Vec::new(), &self.lifetime)]);
        let stalls =
            self.stalls.iter().map(|stall| (vec![("cause", stall.cause.to_owned())], stall));
        out.families("stall_", STALL, &stalls.collect::<Vec<_>>());

        let name = |name: &str| ("keyspace", name.to_owned());
        let keyspaces = self.keyspaces.iter();
        let of_keyspace = keyspaces.clone().map(|keyspace| (vec![name(&keyspace.name)], keyspace));
        out.families("keyspace_", KEYSPACE, &of_keyspace.collect::<Vec<_>>());
        let of_level = keyspaces.clone().flat_map(|keyspace| {
            keyspace.levels.iter().map(move |level| {
                (vec![name(&keyspace.name), ("level", level.level.to_string())], level)
            })
        });
        out.families("level_", LEVEL, &of_level.collect::<Vec<_>>());
        let of_reason = keyspaces.flat_map(|keyspace| {
            keyspace.compactions_by_reason.iter().map(move |part| {
                let level = ("level", part.level.to_string());
                let reason = ("reason", part.reason.clone());
                (vec![name(&keyspace.name), level, reason], &part.totals)
            })
        });
        out.families("keyspace_compaction_", COMPACTIONS, &of_reason.collect::<Vec<_>>());

        // No limit is no number.
        if let Some(rate) = self.compaction_rate {
            let name = "esker_compaction_rate_bytes_per_second";
            out.head(name, "The present limit of compaction.", Kind::Gauge);
            out.sample(name, &[], rate);
        }
        self.ratios().into_iter().for_each(|(name, help, value)| {
            out.head(name, help, Kind::Gauge);
            out.sample(name, &[], value);
        });
        out.text
    }

    fn ratios(&self) -> [(&'static str, &'static str, f64); 5] {
        [
            (
                "esker_write_amplification",
                "Bytes written to storage per byte that users wrote, since open.",
                self.write_amplification(),
            ),
            (
                "esker_lifetime_write_amplification",
                "Bytes written to storage per byte that users wrote, in the life of the database.",
                self.lifetime.write_amplification(),
            ),
            (
                "esker_read_amplification_runs",
                "Sorted runs that a point read may have to ask.",
                self.read_amplification() as f64,
            ),
            (
                "esker_space_amplification",
                "Bytes on disk per estimated byte of live keys and values.",
                self.space_amplification(),
            ),
            (
                "esker_compaction_pending",
                "Whether a strategy may have more to do than is running.",
                f64::from(u8::from(self.compaction_pending)),
            ),
        ]
    }
}

type Labels = Vec<(&'static str, String)>;

/// The text in the making.
#[derive(Default)]
struct Exposition {
    text: String,
}

impl Exposition {
    /// One family for each field, with a sample for each of `sources`.
    fn families<T>(&mut self, prefix: &str, fields: &[Field<T>], sources: &[(Labels, &T)]) {
        for field in fields {
            let (stem, divisor, unit) = unit_of(field.name);
            let total = if field.kind == Kind::Counter { "_total" } else { "" };
            let name = format!("esker_{prefix}{stem}{unit}{total}");
            self.head(&name, field.help, field.kind);
            for (labels, source) in sources {
                let value = (field.get)(source);
                if divisor == 1 {
                    self.sample(&name, labels, value);
                } else {
                    self.sample(&name, labels, value as f64 / divisor as f64);
                }
            }
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: Kind) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, String)], value: impl std::fmt::Display) {
        self.text.push_str(name);
        for (at, (label, of)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{before}{label}=\"{}\"", escaped(of));
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// The name without its unit, what a value is divided by, and the unit that Prometheus wants.
fn unit_of(name: &str) -> (&str, u64, &'static str) {
    if let Some(stem) = name.strip_suffix("_ns") {
        (stem, 1_000_000_000, "_seconds")
    } else if let Some(stem) = name.strip_suffix("_ms") {
        (stem, 1_000, "_seconds")
    } else {
        (name, 1, "")
    }
}

/// A label's value between its quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::db::metrics::{CompactionMetrics, KeyspaceMetrics, LevelMetrics, StallMetrics};
    use crate::version::totals::CompactionTotals;

    fn is_name(text: &str) -> bool {
        let is_start = |c: char| c.is_ascii_alphabetic() || c == '_';
        text.starts_with(is_start) && text.chars().all(|c| is_start(c) || c.is_ascii_digit())
    }

    /// Takes the labels between the braces apart, undoing the escapes.
    fn parse_labels(mut text: &str) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        while !text.is_empty() {
            let (label, rest) = text.split_once("=\"").expect("label=\"value\"");
            assert!(is_name(label), "{label}");
            let (mut value, mut escaped, mut end) = (String::new(), false, None);
            for (at, c) in rest.char_indices() {
                match (escaped, c) {
                    (true, 'n') => value.push('\n'),
                    (true, '\\' | '"') | (false, _) if escaped || (c != '"' && c != '\\') => {
                        value.push(c);
                    }
                    (false, '\\') => {
                        escaped = true;
                        continue;
                    }
                    (false, '"') => {
                        end = Some(at + 1);
                        break;
                    }
                    _ => panic!("a bad escape in {rest}"),
                }
                escaped = false;
            }
            text = &rest[end.expect("the quote is closed")..];
            text = text.strip_prefix(',').unwrap_or(text);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice");
        }
        labels
    }

    type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

    /// A strict reader of the format: every family has HELP, then TYPE, then its samples in one piece.
    fn parse(text: &str) -> Samples {
        let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
        let mut family = String::new();
        let mut lines = text.lines();
        assert!(text.ends_with('\n'));
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("HELP name text");
                assert!(is_name(name) && !help.is_empty(), "{line}");
                assert!(families.insert(name.to_owned()), "{name} in two pieces");
                let is_counter = name.ends_with("_total");
                let kind = if is_counter { "counter" } else { "gauge" };
                assert_eq!(lines.next(), Some(&*format!("# TYPE {name} {kind}")));
                name.clone_into(&mut family);
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect("name value");
            let (name, labels) = match name.split_once('{') {
                Some((name, labels)) => (name, labels.strip_suffix('}').expect("closed")),
                None => (name, ""),
            };
            assert_eq!(name, family, "a sample outside its family");
            let key = (name.to_owned(), parse_labels(labels));
            assert!(samples.insert(key, value.parse().unwrap()).is_none(), "{line} twice");
        }
        samples
    }

    fn value(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter().map(|(label, of)| ((*label).to_owned(), (*of).to_owned()));
        samples[&(name.to_owned(), labels.collect())]
    }

    #[test]
    fn the_text_is_what_a_strict_reader_accepts_and_holds_every_number() {
        let totals = CompactionTotals { bytes_written: 77, ..CompactionTotals::default() };
        let part = CompactionMetrics { level: 2, reason: "level_bytes".to_owned(), totals };
        let odd_name = "a \"b\"\\c\nd";
        let keyspace = KeyspaceMetrics {
            name: odd_name.to_owned(),
            debt_bytes: 5,
            compactions_by_reason: vec![part],
            levels: vec![LevelMetrics { level: 2, runs: 3, ..LevelMetrics::default() }],
            ..KeyspaceMetrics::default()
        };
        let metrics = Metrics {
            gets: 11,
            disk_bytes_peak: 12,
            compaction_rate: Some(13),
            oldest_snapshot_age_ms: 1500,
            stalls: vec![StallMetrics { cause: "debt", count: 2, duration_ns: 250_000_000 }],
            keyspaces: vec![keyspace, KeyspaceMetrics::default()],
            ..Metrics::default()
        };
        let samples = parse(&metrics.prometheus());
        assert_eq!(value(&samples, "esker_gets_total", &[]), 11.0);
        assert_eq!(value(&samples, "esker_disk_bytes_peak", &[]), 12.0);
        assert_eq!(value(&samples, "esker_compaction_rate_bytes_per_second", &[]), 13.0);
        assert_eq!(value(&samples, "esker_oldest_snapshot_age_seconds", &[]), 1.5);
        assert_eq!(value(&samples, "esker_stall_count_total", &[("cause", "debt")]), 2.0);
        let stalled = value(&samples, "esker_stall_duration_seconds_total", &[("cause", "debt")]);
        assert_eq!(stalled, 0.25);
        let keyspace = ("keyspace", odd_name);
        assert_eq!(value(&samples, "esker_keyspace_debt_bytes", &[keyspace]), 5.0);
        assert_eq!(value(&samples, "esker_level_runs", &[keyspace, ("level", "2")]), 3.0);
        let labels = [keyspace, ("level", "2"), ("reason", "level_bytes")];
        let written = "esker_keyspace_compaction_bytes_written_total";
        assert_eq!(value(&samples, written, &labels), 77.0);
        let names: BTreeSet<_> = samples.keys().map(|(name, _)| name.as_str()).collect();
        let lists = [METRICS.len(), LIFETIME.len(), STALL.len(), KEYSPACE.len(), LEVEL.len()];
        assert_eq!(names.len(), lists.iter().sum::<usize>() + COMPACTIONS.len() + 6);
    }
}
