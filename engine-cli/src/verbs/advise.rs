//! `advise`: which strategy, and with which parameters, for a described or recorded workload.
//!
//! Every strategy that fits the workload is simulated with a few choices of its parameters. Those that break a hard
//! limit are out. Of the rest the one with the least cost is recommended: the weighted sum of the logarithms of write
//! amplification, runs and space amplification, so that halving one weighs the same at any size; and writers that are
//! held up weigh heavily, because then the machine is too slow for the strategy.
//!
//! Fifo, which drops data, is only a candidate where everything expires.

use std::path::Path;

use esker::compaction::simulator::{Machine, Workload};
use esker::fs::StdFs;
use esker::trace::TraceSummary;
use esker::{Compaction, Fifo, LazyLeveled, Leveled, SizeTiered, TimeWindow};
use serde::Serialize;

use crate::args::{AdviseArgs, Global, Prefer};
use crate::database::Overrides;
use crate::error::Failure;
use crate::output::Out;
use crate::verbs::simulate::{self, Course, Simulation};

/// How much writers that are held up weigh, against `Weights`.
const STALL_WEIGHT: f64 = 4.0;

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
    let candidates = simulate::options_of(&candidates(&workload), &overrides)?;
    let course =
        Course { hours: args.workload.hours, writes: None, starts_empty: false, settles: false };
    let mut simulations = simulate::run_all(&candidates, &workload, machine, course)?;
    simulations.sort_by(|a, b| weights.cost(a).total_cmp(&weights.cost(b)));
    let best = simulations.iter().position(|simulation| fits(simulation, args));
    let reasons = best.map_or_else(Vec::new, |at| reasons(&simulations, at, args));
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
            .at("--space-amp-max, --write-amp-max")
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
    let summary = TraceSummary::read(&StdFs, path, None)
        .map_err(|error| Failure::from(error).at(path.display().to_string()))?;
    if summary.put_share + summary.delete_share > 0.0 {
        return Ok(summary);
    }
    Err(Failure::refused("the recorded workload writes nothing")
        .at(path.display().to_string())
        .advise("record a workload that writes, or describe one with --data and --ingest"))
}

/// The strategies that fit the workload, each with a few choices of its parameters.
fn candidates(workload: &Workload) -> Vec<Compaction> {
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
        for merge_runs in [0, 8] {
            let total_bytes_max = u64::MAX;
            all.push(Fifo { total_bytes_max, age_max_s: workload.ttl_s, merge_runs }.into());
        }
    }
    all
}

fn fits(simulation: &Simulation, args: &AdviseArgs) -> bool {
    let within = |value: f64, max: Option<f64>| max.is_none_or(|max| value <= max);
    within(simulation.report.space_amplification_max, args.space_amp_max)
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
        reasons.push("it drops data by design: what is older than the time to live".to_owned());
    }
    let out = simulations[..best].iter().filter(|other| !fits(other, args)).count();
    if out > 0 {
        reasons.push(format!("{out} that would cost less break a limit"));
    }
    if let Some(next) = simulations[best + 1..].iter().find(|other| fits(other, args)) {
        let words = next.options.join(" ").replacen("compaction=", "", 1);
        reasons.push(format!("next best: {words}"));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_expires_may_be_dropped() {
        let names = |workload: &Workload| -> Vec<String> {
            candidates(workload).iter().map(|choice| choice.name().to_owned()).collect()
        };
        let kept = names(&Workload::default());
        assert!(!kept.contains(&"fifo".to_owned()) && kept.contains(&"leveled".to_owned()));
        let series = names(&Workload::time_series(1000, 3600));
        assert!(series.contains(&"fifo".to_owned()) && series.contains(&"time_window".to_owned()));
    }
}
