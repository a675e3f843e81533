//! The choice of a compaction strategy, with the parameters of each.
//!
//! A parameter belongs to the strategies whose struct has a field of its name. In text, setting `compaction` gives the
//! strategy its defaults; the parameters come after it. One that belongs to another strategy is an error, because it
//! would do nothing.

use super::{bad, check, number};
use crate::error::{Error, Result};

/// Leveled compaction: one sorted run per level below 0, each level `fanout` times the one above.
///
/// Low read and space amplification; write amplification about `fanout / 2` per level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Leveled {
    /// Runs in level 0 at which they are merged down. Default 4, range 1..=64.
    pub l0_runs: usize,
    /// The most bytes that the first level below 0 is meant to hold when there are deeper ones.
    /// Default 256 MiB, at least 64 KiB.
    pub base_bytes: u64,
    /// How many times larger a level is than the one above, at most. Default 10, range 2..=100.
    pub fanout: u64,
}

impl Default for Leveled {
    fn default() -> Self {
        Leveled { l0_runs: 4, base_bytes: 256 << 20, fanout: 10 }
    }
}

/// Size-tiered compaction: adjacent runs of similar size are merged into one larger run.
///
/// Low write amplification; a read considers more runs, and more dead versions are kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SizeTiered {
    /// Similar runs at which they are merged. Default 10, range 2..=32.
    pub merge_width: usize,
    /// A run is similar to newer ones if it is at most this many percent larger than they are on average.
    /// Default 100, range 0..=1000.
    pub size_slack_percent: u64,
    /// Runs above which some are merged though they are not similar. Default 32, range `merge_width`..=128.
    pub runs_max: usize,
    /// How large, in percent of the oldest run, the newer ones may become together before everything is merged into
    /// one run: the bound on space amplification. Default 200, range 1..=10000.
    pub space_percent_max: u64,
}

impl Default for SizeTiered {
    fn default() -> Self {
        SizeTiered {
            merge_width: 10,
            size_slack_percent: 100,
            runs_max: 32,
            space_percent_max: 200,
        }
    }
}

/// Lazy-leveled compaction: several runs in each level but the last, which holds one.
///
/// Write amplification between leveled and size-tiered; nearly the space amplification of leveled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LazyLeveled {
    /// Runs of a level at which they become one run of the next level. Default 8, range 2..=64.
    pub runs_per_level: usize,
    /// How many times larger the last level is than everything above it before that is merged into it.
    /// Default 3, range 1..=100.
    pub last_level_fanout: u64,
}

impl Default for LazyLeveled {
    fn default() -> Self {
        LazyLeveled { runs_per_level: 8, last_level_fanout: 3 }
    }
}

/// First in, first out: the oldest tables are dropped. **Drops live data by design**; nothing else is merged or kept.
///
/// For caches and logs of bounded size or age: the least write amplification, and as many runs as tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fifo {
    /// Bytes of all tables above which the oldest are dropped. Default 16 GiB, at least 64 KiB.
    pub total_bytes_max: u64,
    /// Seconds after the writing of its newest entry from which a table is dropped. 0: never (default).
    pub age_max_s: u64,
    /// Adjacent runs, none larger than a memtable, that are merged into one. Default 0, which is never, range 0 or
    /// 2..=64.
    pub merge_runs: usize,
}

impl Default for Fifo {
    fn default() -> Self {
        Fifo { total_bytes_max: 16 << 30, age_max_s: 0, merge_runs: 0 }
    }
}

/// Time-window compaction: runs are merged with those written in the same window of time only, and each window that is
/// over becomes one run.
///
/// For time series whose entries expire: the oldest windows are dropped without being read. A read considers a run for
/// each window that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeWindow {
    /// Seconds of a window; windows begin at multiples of it since 1970. About a twentieth of the time that entries
    /// live is a good length. Default 86400 (a day), range 1..=315360000.
    pub window_s: u64,
    /// Similar runs of the current window at which they are merged. Default 10, range 2..=32.
    pub merge_width: usize,
}

impl Default for TimeWindow {
    fn default() -> Self {
        TimeWindow { window_s: 24 * 60 * 60, merge_width: 10 }
    }
}

/// How a keyspace's tree is compacted.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Compaction {
    /// [`Leveled`].
    Leveled(Leveled),
    /// [`SizeTiered`].
    SizeTiered(SizeTiered),
    /// [`LazyLeveled`].
    LazyLeveled(LazyLeveled),
    /// [`Fifo`]. Drops live data by design.
    Fifo(Fifo),
    /// [`TimeWindow`].
    TimeWindow(TimeWindow),
    /// The strategy registered under this name with [`DbBuilder::strategy`](crate::DbBuilder::strategy).
    Named(String),
}

impl Default for Compaction {
    fn default() -> Self {
        Compaction::Leveled(Leveled::default())
    }
}

/// The parameters of all strategies, with the strategies that have them.
const PARAMETERS: &[(&str, &[&str])] = &[
    ("l0_runs", &["leveled"]),
    ("base_bytes", &["leveled"]),
    ("fanout", &["leveled"]),
    ("merge_width", &["size_tiered", "time_window"]),
    ("size_slack_percent", &["size_tiered"]),
    ("runs_max", &["size_tiered"]),
    ("space_percent_max", &["size_tiered"]),
    ("runs_per_level", &["lazy_leveled"]),
    ("last_level_fanout", &["lazy_leveled"]),
    ("total_bytes_max", &["fifo"]),
    ("age_max_s", &["fifo"]),
    ("merge_runs", &["fifo"]),
    ("window_s", &["time_window"]),
];

impl Compaction {
    /// The names of the built-in strategies, the default first.
    pub const BUILT_IN: &'static [&'static str] =
        &["leveled", "size_tiered", "lazy_leveled", "fifo", "time_window"];

    /// The strategy's name, as the manifest and tools say it.
    pub fn name(&self) -> &str {
        match self {
            Compaction::Leveled(_) => "leveled",
            Compaction::SizeTiered(_) => "size_tiered",
            Compaction::LazyLeveled(_) => "lazy_leveled",
            Compaction::Fifo(_) => "fifo",
            Compaction::TimeWindow(_) => "time_window",
            Compaction::Named(name) => name,
        }
    }

    /// The built-in strategy called `name` with its defaults, or the user's of that name.
    pub fn from_name(name: &str) -> Self {
        match name {
            "leveled" => Leveled::default().into(),
            "size_tiered" => SizeTiered::default().into(),
            "lazy_leveled" => LazyLeveled::default().into(),
            "fifo" => Fifo::default().into(),
            "time_window" => TimeWindow::default().into(),
            _ => Compaction::Named(name.to_owned()),
        }
    }

    /// Sets the parameter called `name` from text. `Ok(false)` if no strategy has one of that name.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<bool> {
        match (&mut *self, name) {
            (Compaction::Leveled(leveled), "l0_runs") => leveled.l0_runs = number(name, value)?,
            (Compaction::Leveled(leveled), "base_bytes") => {
                leveled.base_bytes = number(name, value)?;
            }
            (Compaction::Leveled(leveled), "fanout") => leveled.fanout = number(name, value)?,
            (Compaction::SizeTiered(tiered), "merge_width") => {
                tiered.merge_width = number(name, value)?;
            }
            (Compaction::SizeTiered(tiered), "size_slack_percent") => {
                tiered.size_slack_percent = number(name, value)?;
            }
            (Compaction::SizeTiered(tiered), "runs_max") => tiered.runs_max = number(name, value)?,
            (Compaction::SizeTiered(tiered), "space_percent_max") => {
                tiered.space_percent_max = number(name, value)?;
            }
            (Compaction::LazyLeveled(lazy), "runs_per_level") => {
                lazy.runs_per_level = number(name, value)?;
            }
            (Compaction::LazyLeveled(lazy), "last_level_fanout") => {
                lazy.last_level_fanout = number(name, value)?;
            }
            (Compaction::Fifo(fifo), "total_bytes_max") => {
                fifo.total_bytes_max = number(name, value)?;
            }
            (Compaction::Fifo(fifo), "age_max_s") => fifo.age_max_s = number(name, value)?,
            (Compaction::Fifo(fifo), "merge_runs") => fifo.merge_runs = number(name, value)?,
            (Compaction::TimeWindow(windows), "window_s") => {
                windows.window_s = number(name, value)?;
            }
            (Compaction::TimeWindow(windows), "merge_width") => {
                windows.merge_width = number(name, value)?;
            }
            _ => return self.refuse(name).map_or(Ok(false), Err),
        }
        Ok(true)
    }

    /// Why `parameter` cannot be set, if it is another strategy's.
    fn refuse(&self, parameter: &str) -> Option<Error> {
        let (_, owners) = PARAMETERS.iter().find(|(name, _)| *name == parameter)?;
        let (owners, name) = (owners.join(" or "), self.name());
        let what = format!(
            "option {parameter} belongs to {owners} compaction, but the keyspace uses {name}"
        );
        Some(Error::invalid(what).advise("set compaction before it, to a strategy that has it"))
    }

    /// The parameters as pairs that [`Compaction::set`] reads back.
    pub(super) fn to_pairs(&self) -> Vec<(&'static str, String)> {
        match self {
            Compaction::Leveled(leveled) => vec![
                ("l0_runs", leveled.l0_runs.to_string()),
                ("base_bytes", leveled.base_bytes.to_string()),
                ("fanout", leveled.fanout.to_string()),
            ],
            Compaction::SizeTiered(tiered) => vec![
                ("merge_width", tiered.merge_width.to_string()),
                ("size_slack_percent", tiered.size_slack_percent.to_string()),
                ("runs_max", tiered.runs_max.to_string()),
                ("space_percent_max", tiered.space_percent_max.to_string()),
            ],
            Compaction::LazyLeveled(lazy) => vec![
                ("runs_per_level", lazy.runs_per_level.to_string()),
                ("last_level_fanout", lazy.last_level_fanout.to_string()),
            ],
            Compaction::Fifo(fifo) => vec![
                ("total_bytes_max", fifo.total_bytes_max.to_string()),
                ("age_max_s", fifo.age_max_s.to_string()),
                ("merge_runs", fifo.merge_runs.to_string()),
            ],
            Compaction::TimeWindow(windows) => vec![
                ("window_s", windows.window_s.to_string()),
                ("merge_width", windows.merge_width.to_string()),
            ],
            Compaction::Named(_) => Vec::new(),
        }
    }

    /// Refuses values out of range.
    pub(super) fn validate(&self) -> Result<()> {
        match self {
            Compaction::Leveled(leveled) => {
                check("l0_runs", leveled.l0_runs as u64, 1, 64)?;
                check("base_bytes", leveled.base_bytes, 64 << 10, u64::MAX >> 8)?;
                check("fanout", leveled.fanout, 2, 100)
            }
            Compaction::SizeTiered(tiered) => {
                check("merge_width", tiered.merge_width as u64, 2, 32)?;
                check("size_slack_percent", tiered.size_slack_percent, 0, 1000)?;
                check("space_percent_max", tiered.space_percent_max, 1, 10_000)?;
                if tiered.runs_max < tiered.merge_width {
                    return Err(bad(
                        "runs_max",
                        &tiered.runs_max.to_string(),
                        "at least merge_width",
                    ));
                }
                check("runs_max", tiered.runs_max as u64, 2, 128)
            }
            Compaction::LazyLeveled(lazy) => {
                check("runs_per_level", lazy.runs_per_level as u64, 2, 64)?;
                check("last_level_fanout", lazy.last_level_fanout, 1, 100)
            }
            Compaction::Fifo(fifo) => {
                check("total_bytes_max", fifo.total_bytes_max, 64 << 10, u64::MAX)?;
                if fifo.merge_runs == 1 {
                    return Err(bad("merge_runs", "1", "0 or in 2..=64"));
                }
                check("merge_runs", fifo.merge_runs as u64, 0, 64)
            }
            Compaction::TimeWindow(windows) => {
                check("window_s", windows.window_s, 1, 10 * 365 * 24 * 60 * 60)?;
                check("merge_width", windows.merge_width as u64, 2, 32)
            }
            Compaction::Named(_) => Ok(()),
        }
    }
}

/// `impl From<$strategy> for Compaction`, for each.
macro_rules! choices {
    ($($strategy:ident),+) => {
        $(impl From<$strategy> for Compaction {
            fn from(parameters: $strategy) -> Self {
                Compaction::$strategy(parameters)
            }
        })+
    };
}

choices!(Leveled, SizeTiered, LazyLeveled, Fifo, TimeWindow);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::options::KeyspaceOptions;

    #[test]
    fn every_strategy_is_valid_by_default_and_round_trips_through_text() {
        for name in Compaction::BUILT_IN {
            let mut compaction = Compaction::from_name(name);
            assert_eq!(compaction.name(), *name);
            compaction.validate().unwrap();
            // Another value for each parameter, so that none is lost unseen.
            for (parameter, value) in compaction.to_pairs() {
                let other = if value == "true" { "false".to_owned() } else { format!("1{value}") };
                assert!(compaction.set(parameter, &other).unwrap(), "{parameter}");
            }
            let written = KeyspaceOptions::default().compaction(compaction);
            let mut read = KeyspaceOptions::default();
            for (name, value) in written.to_pairs() {
                assert!(KeyspaceOptions::NAMES.contains(&name));
                assert!(read.set(name, &value).unwrap(), "{name}");
            }
            assert_eq!(read, written);
        }
    }

    #[test]
    fn a_parameter_of_another_strategy_is_refused() {
        for (parameter, owners) in PARAMETERS {
            assert!(KeyspaceOptions::NAMES.contains(parameter), "{parameter}");
            for name in Compaction::BUILT_IN {
                let mut compaction = Compaction::from_name(name);
                let pairs = compaction.to_pairs();
                let default = pairs.iter().find(|(name, _)| name == parameter);
                assert_eq!(default.is_some(), owners.contains(name), "{parameter} of {name}");
                match compaction.set(parameter, default.map_or("1", |(_, value)| value)) {
                    Ok(known) => assert!(known && default.is_some()),
                    Err(error) => {
                        assert!(default.is_none());
                        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
                        let text = error.to_string();
                        assert!(text.contains(parameter) && text.contains(owners[0]), "{text}");
                    }
                }
            }
        }
        assert!(!Compaction::default().set("nonsense", "1").unwrap());
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let refuse = |compaction: Compaction, name: &str| {
            let text = compaction.validate().unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
        };
        refuse(Leveled { fanout: 1, ..Leveled::default() }.into(), "fanout=1");
        refuse(SizeTiered { merge_width: 1, ..SizeTiered::default() }.into(), "merge_width=1");
        refuse(LazyLeveled { runs_per_level: 1, last_level_fanout: 3 }.into(), "runs_per_level=1");
        refuse(Fifo { merge_runs: 1, ..Fifo::default() }.into(), "merge_runs=1");
        refuse(TimeWindow { window_s: 0, ..TimeWindow::default() }.into(), "window_s=0");
        refuse(SizeTiered { runs_max: 4, ..SizeTiered::default() }.into(), "runs_max=4");
    }
}
