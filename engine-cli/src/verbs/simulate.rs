//! `simulate`: what strategies would cost under a described workload. Nothing is opened or written.
//!
//! Also what `advise` shares with it: the workload from the command line, the options of a strategy, and running many
//! simulations at once.

use std::sync::Mutex;
use std::thread;

use esker::compaction::simulator::{KeyPattern, Machine, Report, Sample, Simulator, Workload};
use esker::{Compaction, DbOptions, KeyspaceOptions};
use serde::Serialize;

use crate::args::{Global, KeysArg, SimulateArgs, WorkloadArgs};
use crate::database::Overrides;
use crate::error::Failure;
use crate::output::{self, Out};
use crate::units::decimal_bytes;

/// Keys and values of a workload that says nothing about them.
const DATA_BYTES: u64 = 100_000_000_000;

/// More hours than that are a slip of the hand.
const HOURS_MAX: f64 = 1e6;

/// Heights of a chart, from nothing to all: blocks of eighths.
const HEIGHTS: [char; 9] = [
    ' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}',
    '\u{2588}',
];

/// What the columns of the comparison mean.
const LEGEND: [&str; 4] = [
    "write amp: bytes written for each byte of yours; compaction: its part of that, beside log and flush",
    "runs: sorted runs that a point read considers, on average and at most",
    "space amp: bytes of tables for each live byte, on average and at most",
    "compacted: what compaction writes; stalled: share of the time for which writers are held up",
];

/// Its space looks small because the data is gone.
const FIFO_WARNING: &str = "\
    fifo drops live data by design, all above total_bytes_max or older than age_max_s: its numbers are those of what is left";

/// How long, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    pub hours: f64,
    pub writes: Option<u64>,
    pub starts_empty: bool,
    pub settles: bool,
}

/// One strategy with its options, simulated.
#[derive(Serialize)]
pub struct Simulation {
    /// The options that choose it, as `--option` takes them.
    pub options: Vec<String>,
    /// The strategy and what of it is not as by default.
    #[serde(skip)]
    pub label: String,
    pub write_amplification: f64,
    pub stalled_share: f64,
    pub compaction_bytes_per_s: f64,
    #[serde(flatten)]
    pub report: Report,
}

#[derive(Serialize)]
struct Document<'a> {
    workload: &'a Workload,
    machine: Machine,
    simulations: &'a [Simulation],
}

/// `simulate`.
pub fn simulate(global: &Global, args: &SimulateArgs, out: &mut Out) -> Result<(), Failure> {
    let workload = described(&args.workload, None)?;
    let overrides = Overrides::parse(&global.options)?;
    let machine = machine(&args.workload)?;
    let course = Course {
        hours: args.workload.hours,
        writes: args.writes,
        starts_empty: args.empty,
        settles: args.settle,
    };
    let compactions: Vec<Compaction> =
        args.strategy.iter().map(|name| Compaction::from_name(name)).collect();
    let candidates = options_of(&compactions, &overrides)?;
    let simulations = run_all(&candidates, &workload, machine, course)?;
    if out.json {
        let simulations = &simulations[..];
        return out.json_line(&Document { workload: &workload, machine, simulations });
    }
    out.line(describe(&workload, machine))?;
    compare(&simulations, out)?;
    out.line("charts: from the beginning of the simulation on the left to its end on the right")?;
    for simulation in &simulations {
        draw(&simulation.report, out)?;
    }
    Ok(())
}

/// The workload that the flags describe, over that of `recorded`.
pub fn described(args: &WorkloadArgs, recorded: Option<Workload>) -> Result<Workload, Failure> {
    let is_recorded = recorded.is_some();
    let mut workload = recorded.unwrap_or_default();
    let entry_bytes_before = workload.entry_bytes();
    workload.key_bytes = args.key_bytes.unwrap_or(workload.key_bytes);
    workload.value_bytes = args.value_bytes.unwrap_or(workload.value_bytes);
    let theta = args.theta.unwrap_or(0.99);
    if let Some(keys) = args.keys {
        workload.keys = match keys {
            KeysArg::Uniform => KeyPattern::Uniform,
            KeysArg::Zipf => KeyPattern::Zipf { theta },
            KeysArg::Sequential => KeyPattern::Sequential,
            KeysArg::TimeSeries => KeyPattern::TimeSeries,
        };
        let is_new = matches!(keys, KeysArg::Sequential | KeysArg::TimeSeries);
        workload.update_share = if is_new { 0.0 } else { 1.0 };
    } else if args.theta.is_some() {
        workload.keys = KeyPattern::Zipf { theta };
    }
    let data_bytes = match args.data {
        Some(bytes) => bytes,
        None if is_recorded => workload.key_count.saturating_mul(entry_bytes_before),
        None => DATA_BYTES,
    };
    workload.key_count = data_bytes.div_ceil(workload.entry_bytes().max(1)).max(1);
    workload.update_share = args.update_share.unwrap_or(workload.update_share);
    workload.delete_share = args.delete_share.unwrap_or(workload.delete_share);
    workload.ingest_bytes_per_s = args.ingest.unwrap_or(workload.ingest_bytes_per_s);
    workload.ttl_s = args.ttl.unwrap_or(workload.ttl_s);
    if !(args.hours > 0.0 && args.hours <= HOURS_MAX) {
        return Err(Failure::usage(format!("--hours {} is not in 0..={HOURS_MAX}", args.hours)));
    }
    workload.validate().map_err(|error| Failure::from(error).at("command line"))?;
    Ok(workload)
}

/// The machine that the flags describe.
pub fn machine(args: &WorkloadArgs) -> Result<Machine, Failure> {
    let background_threads = usize::try_from(args.threads)
        .map_err(|_| Failure::usage(format!("--threads {} are too many", args.threads)))?;
    Ok(Machine { background_threads, bandwidth_bytes_per_s: args.bandwidth })
}

/// The options of a keyspace for each of `compactions`, with those of the command line over them. A parameter goes to
/// the strategies that have it; one that none has is an error.
pub fn options_of(
    compactions: &[Compaction],
    overrides: &Overrides,
) -> Result<Vec<KeyspaceOptions>, Failure> {
    if overrides.names("compaction") {
        return Err(Failure::usage("--option compaction does not choose what is simulated")
            .advise("give simulate its strategies with --strategy; advise compares all that fit"));
    }
    let mut all: Vec<KeyspaceOptions> = compactions
        .iter()
        .map(|compaction| KeyspaceOptions::default().compaction(compaction.clone()))
        .collect();
    for (name, value) in overrides.pairs() {
        if DbOptions::NAMES.contains(&name.as_str()) {
            return Err(Failure::usage(format!("option {name} changes nothing in a simulation"))
                .advise("give --threads and --bandwidth, and options of a keyspace"));
        }
        let results: Vec<_> = all.iter_mut().map(|options| options.set(name, value)).collect();
        if results.iter().all(Result::is_err)
            && let Some(Err(error)) = results.into_iter().next()
        {
            return Err(Failure::from(error).at("command line"));
        }
    }
    Ok(all)
}

/// Simulates every candidate, as many at once as there are processors. The order is that of the candidates.
pub fn run_all(
    candidates: &[KeyspaceOptions],
    workload: &Workload,
    machine: Machine,
    course: Course,
) -> Result<Vec<Simulation>, Failure> {
    let next = Mutex::new(0..candidates.len());
    let found = Mutex::new(Vec::new());
    let progress = output::progress("simulate", candidates.len() as u64);
    let work = || {
        while let Some(at) = next.lock().ok().and_then(|mut next| next.next()) {
            let simulation = run(&candidates[at], workload, machine, course);
            if let Ok(mut found) = found.lock() {
                found.push((at, simulation));
            }
            progress.inc(1);
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(candidates.len());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    progress.finish_and_clear();
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, simulation)| simulation.map_err(Failure::from)).collect()
}

fn run(
    options: &KeyspaceOptions,
    workload: &Workload,
    machine: Machine,
    course: Course,
) -> esker::Result<Simulation> {
    let mut simulator = Simulator::new(options.clone(), workload, machine)?;
    if !course.starts_empty {
        simulator.load()?;
    }
    match course.writes {
        Some(writes) => simulator.write(writes)?,
        None => simulator.run_for(course.hours * 3600.0)?,
    }
    if course.settles {
        simulator.settle()?;
    }
    let report = simulator.report();
    Ok(Simulation {
        options: option_words(options),
        label: label(options),
        write_amplification: report.write_amplification(),
        stalled_share: report.stalled_share(),
        compaction_bytes_per_s: report.compaction_bytes_per_s(),
        report,
    })
}

/// The strategy and its parameters, as `NAME=VALUE`.
pub fn option_words(options: &KeyspaceOptions) -> Vec<String> {
    let bare = KeyspaceOptions::default().compaction(Compaction::Named(String::new())).to_pairs();
    let is_of_strategy =
        |name: &str| name == "compaction" || !bare.iter().any(|(common, _)| *common == name);
    let pairs = options.to_pairs().into_iter().filter(|(name, _)| is_of_strategy(name));
    pairs.map(|(name, value)| format!("{name}={value}")).collect()
}

/// The strategy with those of its parameters that are not as by default, for people.
fn label(options: &KeyspaceOptions) -> String {
    let name = options.compaction.name();
    let default = KeyspaceOptions::default().compaction(Compaction::from_name(name));
    let usual = option_words(&default);
    let unusual = option_words(options).into_iter().filter(|word| !usual.contains(word));
    let unbounded = u64::MAX.to_string();
    unusual.fold(name.to_owned(), |label, word| {
        format!("{label} {}", word.replace(&unbounded, "unbounded"))
    })
}

/// The workload in a line.
pub fn describe(workload: &Workload, machine: Machine) -> String {
    let keys = match workload.keys {
        KeyPattern::Uniform => "uniform".to_owned(),
        KeyPattern::Zipf { theta } => format!("zipf {theta}"),
        KeyPattern::Sequential => "sequential".to_owned(),
        _ => "time_series".to_owned(),
    };
    let data = workload.key_count as f64 * workload.entry_bytes() as f64;
    let ttl = match workload.ttl_s {
        0 => String::new(),
        seconds => format!(", each for {seconds} s"),
    };
    format!(
        "{} of {} + {} bytes{ttl}; {keys} keys, {:.0} % updates, {:.0} % deletes, {}/s; \
         {} threads, {}/s",
        decimal_bytes(data),
        workload.key_bytes,
        workload.value_bytes,
        workload.update_share * 100.0,
        workload.delete_share * 100.0,
        decimal_bytes(workload.ingest_bytes_per_s as f64),
        machine.background_threads,
        decimal_bytes(machine.bandwidth_bytes_per_s as f64),
    )
}

/// A row for each simulation.
pub fn compare(simulations: &[Simulation], out: &mut Out) -> Result<(), Failure> {
    let row = |simulation: &Simulation| {
        let report = &simulation.report;
        vec![
            simulation.label.clone(),
            output::ratio(simulation.write_amplification),
            output::ratio(report.ratio(report.compaction_bytes_written)),
            format!("{:.1}", report.runs_mean),
            report.runs_max.to_string(),
            space(report.space_amplification_mean),
            space(report.space_amplification_max),
            format!("{}/s", decimal_bytes(simulation.compaction_bytes_per_s)),
            format!("{:.1} %", simulation.stalled_share * 100.0),
        ]
    };
    let header = [
        "strategy",
        "write amp",
        "compaction",
        "runs",
        "runs max",
        "space amp",
        "space max",
        "compacted",
        "stalled",
    ];
    out.table(&header, simulations.iter().map(row).collect(), &[1, 2, 3, 4, 5, 6, 7, 8])?;
    LEGEND.iter().try_for_each(|line| out.line(line))?;
    if simulations.iter().any(|simulation| simulation.report.strategy == "fifo") {
        out.line(FIFO_WARNING)?;
    }
    Ok(())
}

/// A space amplification. With next to nothing alive it is a number that says nothing.
fn space(value: f64) -> String {
    if value >= 1e4 { "> 9999".to_owned() } else { output::ratio(value) }
}

/// A simulation by part, and over time.
fn draw(report: &Report, out: &mut Out) -> Result<(), Failure> {
    out.line("")?;
    out.heading(&report.strategy)?;
    let part = |name: &str, bytes: u64| {
        vec![name.to_owned(), decimal_bytes(bytes as f64), output::ratio(report.ratio(bytes))]
    };
    let mut rows = vec![part("wal", report.wal_bytes), part("flush", report.flush_bytes)];
    for level in report.levels.iter().filter(|level| level.bytes_written > 0) {
        rows.push(part(&format!("into level {}", level.level), level.bytes_written));
    }
    for reason in &report.reasons {
        rows.push(part(&format!("for {}", reason.reason), reason.bytes_written));
    }
    out.table(&["written", "bytes", "ratio"], rows, &[1, 2])?;
    out.line(format!(
        "{} flushes, {} merges, {} moves, {} drops; at most {} of tables",
        output::count(report.flushes),
        output::count(report.merges),
        output::count(report.moves),
        output::count(report.drops),
        decimal_bytes(report.table_bytes_max as f64),
    ))?;
    let rate = |bytes: f64| format!("{}/s", decimal_bytes(bytes));
    chart("compacted", report, |sample| sample.compaction_bytes_per_s, rate, out)?;
    chart("ingested", report, |sample| sample.ingest_bytes_per_s, rate, out)?;
    chart("runs", report, |sample| sample.runs as f64, |runs| format!("{runs:.0}"), out)?;
    chart("space", report, |sample| sample.space_amplification, output::ratio, out)
}

/// A line of blocks, one for each stretch, and what the highest stands for.
fn chart(
    name: &str,
    report: &Report,
    value: impl Fn(&Sample) -> f64,
    show: impl Fn(f64) -> String,
    out: &mut Out,
) -> Result<(), Failure> {
    let values: Vec<f64> = report.series.iter().map(value).collect();
    let most = values.iter().copied().fold(0.0, f64::max);
    let block = |value: &f64| {
        let eighths = if most > 0.0 { (value / most * 8.0).ceil() as usize } else { 0 };
        HEIGHTS[eighths.min(8)]
    };
    let line: String = values.iter().map(block).collect();
    out.line(format!("{name:10}|{line}| to {}", show(most)))
}
