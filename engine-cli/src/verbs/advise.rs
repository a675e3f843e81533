//! `advise`: which strategy, and with which parameters, for a described or recorded workload.
//!
//! Every strategy that fits the workload is simulated with a few choices of its parameters. Those that break a hard
//! limit are out. Of the rest the one with the least cost is recommended: the weighted sum of the logarithms of write
//! amplification, runs and space amplification, so that halving one weighs the same at any size; and writers that are
//! held up weigh heavily, because then the machine is too slow for the strategy.
//!
//! Fifo drops live data, so it is only a candidate where the command line says that it may: with a time to live for
//! every entry (`--ttl`; that of a recorded workload is only its median), or with `--drop-above`, and then nothing
//! that takes more is recommended.

use std::io;
use std::path::Path;

use esker::compaction::simulator::{Machine, Workload};
use esker::fs::StdFs;
use esker::trace::TraceSummary;
use esker::{
    Compaction, ErrorKind, Fifo, KeyspaceOptions, LazyLeveled, Leveled, SizeTiered, TimeWindow,
};
use serde::Serialize;

use crate::args::{AdviseArgs, Global, Prefer};
use crate::database::Overrides;
use crate::error::Failure;
use crate::output::Out;
use crate::verbs::simulate::{self, Course, Simulation};

/// How much writers that are held up weigh, against `Weights`.
const STALL_WEIGHT: f64 = 4.0;

/// Data that fills no more memtables than that is small: it is mostly in memory or in a run or two.
const SMALL_MEMTABLES: f64 = 2.0;

/// Reads that are recorded make runs weigh up to this much more.
const READ_WEIGHT: f64 = 0.7;

/// How much each amplification weighs.
#[derive(Clone, Copy, Debug, Serialize)]
struct Weights {
    write: f64,
    read: f64,
    space: f64,
}

impl Weights {
    /// `read_share` is that of point reads and scans among recorded operations, 0 if nothing is known.
    fn of(prefer: Prefer, read_share: f64) -> Self {
        let weights = |write, read, space| Weights { write, read, space };
        match prefer {
            Prefer::Write => weights(3.0, 0.1, 0.3),
            Prefer::Read => weights(0.3, 1.5, 0.3),
            Prefer::Space => weights(0.3, 0.1, 4.0),
            Prefer::Balanced => weights(1.0, 0.3 + READ_WEIGHT * read_share, 1.0),
        }
    }

    fn cost(self, simulation: &Simulation) -> f64 {
        let log = |value: f64| value.max(1e-3).ln();
        let report = &simulation.report;
        let flowing = (1.0 - simulation.stalled_share).max(1e-3);
        self.write * log(simulation.write_amplification)
            + self.read * log(report.runs_mean)
            + self.space * log(report.space_amplification_mean)
            - STALL_WEIGHT * flowing.ln()
    }
}

#[derive(Serialize)]
struct Advice<'a> {
    workload: &'a Workload,
    machine: Machine,
    weights: Weights,
    recommended: &'a [String],
    reasons: &'a [String],
    simulations: &'a [Simulation],
}

/// `advise`.
pub fn advise(global: &Global, args: &AdviseArgs, out: &mut Out) -> Result<(), Failure> {
    let summary = args.trace.as_deref().map(read_trace).transpose()?;
    let recorded = summary.as_ref().map(Workload::from);
    let workload = simulate::described(&args.workload, recorded)?;
    let machine = simulate::machine(&args.workload)?;
    let read_share = summary.as_ref().map_or(0.0, |summary| summary.get_share + summary.scan_share);
    let weights = Weights::of(args.prefer, read_share);
    let overrides = Overrides::parse(&global.options)?;
    let candidates = candidates(&workload, args.workload.ttl, args.drop_above);
    let candidates = simulate::options_of(&candidates, &overrides)?;
    let course =
        Course { hours: args.workload.hours, writes: None, starts_empty: false, settles: false };
    let mut simulations = simulate::run_all(&candidates, &workload, machine, course)?;
    simulations.sort_by(|a, b| weights.cost(a).total_cmp(&weights.cost(b)));
    let best = simulations.iter().position(|simulation| fits(simulation, args));
    let mut reasons = best.map_or_else(Vec::new, |at| reasons(&simulations, at, args));
    if live_bytes(&workload) <= SMALL_MEMTABLES * KeyspaceOptions::default().memtable_bytes as f64 {
        reasons.push(
            "with so little data the choice hardly matters: the defaults are fine".to_owned(),
        );
    }
    let options = best.map_or(&[][..], |at| &simulations[at].options[..]);
    if out.json {
        let (recommended, reasons) = (options, &reasons[..]);
        let simulations = &simulations[..];
        let workload = &workload;
        out.json_line(&Advice { workload, machine, weights, recommended, reasons, simulations })?;
    } else {
        out.line(simulate::describe(&workload, machine))?;
        simulate::compare(&simulations, out)?;
        out.line("")?;
    }
    if best.is_none() {
        return Err(Failure::refused("no strategy stays within the limits")
            .at("--space-amp-max, --write-amp-max, --drop-above")
            .advise("raise a limit, or choose from the comparison"));
    }
    if out.json {
        return Ok(());
    }
    let words: Vec<String> = options.iter().map(|word| format!("--option {word}")).collect();
    out.heading(&format!("recommended: {}", words.join(" ")))?;
    reasons.iter().try_for_each(|reason| out.line(format!("* {reason}")))
}

fn read_trace(path: &Path) -> Result<TraceSummary, Failure> {
    if path.is_dir() {
        return Err(Failure::io("read", path, io::ErrorKind::IsADirectory.into())
            .advise("give a file that --option record_workload=FILE made"));
    }
    let summary = TraceSummary::read(&StdFs, path, None).map_err(|error| {
        let is_damaged = error.kind() == ErrorKind::Corruption;
        let failure = Failure::from(error).at(path.display().to_string());
        if !is_damaged {
            return failure;
        }
        failure.advise("give a file that --option record_workload=FILE made, or record it again")
    })?;
    if summary.put_share + summary.delete_share > 0.0 {
        return Ok(summary);
    }
    Err(Failure::refused("the recorded workload writes nothing")
        .at(path.display().to_string())
        .advise("record a workload that writes, or describe one with --data and --ingest"))
}

/// Keys and values that are there.
fn live_bytes(workload: &Workload) -> f64 {
    workload.key_count as f64 * workload.entry_bytes() as f64
}

/// The strategies that fit the workload, each with a few choices of its parameters. Live data may only be dropped
/// after `ttl_s`, or above `drop_above` bytes.
fn candidates(workload: &Workload, ttl_s: Option<u64>, drop_above: Option<u64>) -> Vec<Compaction> {
    let leveled = Leveled::default();
    let tiered = SizeTiered::default();
    let lazy = LazyLeveled::default();
    let mut all: Vec<Compaction> = vec![
        leveled.into(),
        Leveled { l0_runs: 8, ..leveled }.into(),
        Leveled { fanout: 5, ..leveled }.into(),
        tiered.into(),
        SizeTiered { merge_width: 4, ..tiered }.into(),
        SizeTiered { space_percent_max: 100, ..tiered }.into(),
        lazy.into(),
        LazyLeveled { runs_per_level: 4, ..lazy }.into(),
        LazyLeveled { last_level_fanout: 6, ..lazy }.into(),
    ];
    if workload.ttl_s > 0 {
        for windows in [10, 20, 40] {
            let window_s = (workload.ttl_s / windows).max(1);
            all.push(TimeWindow { window_s, ..TimeWindow::default() }.into());
        }
    }
    if ttl_s.is_some() || drop_above.is_some() {
        for merge_runs in [0, 8] {
            let total_bytes_max = drop_above.unwrap_or(u64::MAX);
            let age_max_s = ttl_s.unwrap_or(0);
            all.push(Fifo { total_bytes_max, age_max_s, merge_runs }.into());
        }
    }
    all
}

fn fits(simulation: &Simulation, args: &AdviseArgs) -> bool {
    let within = |value: f64, max: Option<f64>| max.is_none_or(|max| value <= max);
    let is_bounded = simulation.report.strategy == "fifo"
        || args.drop_above.is_none_or(|max| simulation.report.table_bytes_max <= max);
    is_bounded
        && within(simulation.report.space_amplification_max, args.space_amp_max)
        && within(simulation.write_amplification, args.write_amp_max)
}

/// Why the simulation at `best`, in words.
fn reasons(simulations: &[Simulation], best: usize, args: &AdviseArgs) -> Vec<String> {
    let chosen = &simulations[best];
    let report = &chosen.report;
    let default = simulations.iter().find(|other| other.report.strategy == "leveled");
    let against = |of: fn(&Simulation) -> f64| {
        let default = default.filter(|default| default.options != chosen.options);
        default.map_or_else(String::new, |default| format!(" (best leveled: {:.2})", of(default)))
    };
    let mut reasons = vec![
        format!(
            "writes {:.2} bytes for each byte of yours{}",
            chosen.write_amplification,
            against(|simulation| simulation.write_amplification)
        ),
        format!(
            "a point read considers {:.1} runs on average{}, {} at most",
            report.runs_mean,
            against(|simulation| simulation.report.runs_mean),
            report.runs_max
        ),
        format!(
            "takes {:.2} bytes for each live byte on average{}, {:.2} at its peak",
            report.space_amplification_mean,
            against(|simulation| simulation.report.space_amplification_mean),
            report.space_amplification_max
        ),
    ];
    if chosen.stalled_share > 0.01 {
        reasons.push(format!(
            "writers are held up for {:.0} % of the time even so: the machine is too slow for this ingest; {}",
            chosen.stalled_share * 100.0,
            "no candidate costs less"
        ));
    }
    if report.strategy == "fifo" {
        let what = match (args.workload.ttl, args.drop_above) {
            (_, None) => "what is older than --ttl",
            (None, _) => "the oldest, as soon as tables take more than --drop-above",
            _ => "what is older than --ttl, and the oldest above --drop-above",
        };
        reasons.push(format!("it drops data by design: {what}"));
    }
    let out = simulations[..best].iter().filter(|other| !fits(other, args)).count();
    if out > 0 {
        reasons.push(format!("{out} that would cost less break a limit"));
    }
    if let Some(next) = simulations[best + 1..].iter().find(|other| fits(other, args)) {
        reasons.push(format!("next best: {}", next.label));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_expires_may_be_dropped() {
        let has = |workload: &Workload, ttl_s, drop_above, name: &str| {
            candidates(workload, ttl_s, drop_above).iter().any(|choice| choice.name() == name)
        };
        let (kept, series) = (Workload::default(), Workload::time_series(1000, 3600));
        assert!(!has(&kept, None, None, "fifo") && has(&kept, None, None, "leveled"));
        assert!(has(&kept, None, Some(1 << 30), "fifo"));
        assert!(has(&series, Some(3600), None, "fifo"));
        // A recorded time to live is that of most entries, not of all.
        assert!(!has(&series, None, None, "fifo") && has(&series, None, None, "time_window"));
    }
}
