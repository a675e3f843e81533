//! `amp`: write, read and space amplification, as a whole and by part.
//!
//! A program that only just opened a database has written and read nothing, so what it shows is what the directory
//! knows: the write amplification of the database's whole life, from the totals in the manifest; the runs of the
//! tree; and the sizes on disk. What was counted since the open stands beside it where there is something. `--exact`
//! reads every entry and so knows what is alive, where otherwise the engine's estimate stands; it also shows what
//! scanning cost.

use esker::{CompactionMetrics, LifetimeMetrics, Metrics, SpaceMeasurement};
use serde::Serialize;

use crate::args::{AmpArgs, Global};
use crate::database::{Access, Opened};
use crate::error::Failure;
use crate::output::{self, Out};

const BAR_WIDTH: usize = 24;

/// `amp [--exact]`.
pub fn amp(global: &Global, args: &AmpArgs, out: &mut Out) -> Result<(), Failure> {
    let opened = Opened::open(global, Access::Read)?;
    let exact = if args.exact { Some(measure(&opened)?) } else { None };
    let metrics = opened.db.metrics();
    opened.close()?;
    let report = Amplification::of(&metrics, exact);
    if out.json { out.json_line(&report) } else { draw(&report, out) }
}

fn measure(opened: &Opened) -> Result<SpaceMeasurement, Failure> {
    let progress = output::spinner("scanning");
    let measured = opened.db.measure_space();
    progress.finish_and_clear();
    Ok(measured?)
}

/// One part of an amplification.
#[derive(Serialize)]
struct Part {
    #[serde(rename = "part")]
    name: &'static str,
    bytes: u64,
    amplification: Option<f64>,
}

/// The whole report. A ratio without a divisor is null.
#[derive(Serialize)]
pub struct Amplification {
    write: WriteReport,
    read: ReadReport,
    space: SpaceReport,
}

#[derive(Serialize)]
struct WriteReport {
    /// Over the life of the database.
    #[serde(flatten)]
    lifetime: Written,
    compactions: Vec<CompactionMetrics>,
    /// Since this program opened it.
    since_open: Written,
}

#[derive(Serialize)]
struct Written {
    amplification: Option<f64>,
    user_bytes: u64,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct ReadReport {
    /// Sorted runs that a point read must consider, in the keyspace that has most.
    structural: u64,
    keyspaces: Vec<KeyspaceRuns>,
    gets: u64,
    tables_per_get: Option<f64>,
    blocks_per_get: Option<f64>,
    bytes_per_get: Option<f64>,
    entries_scanned: u64,
    blocks_per_scanned_entry: Option<f64>,
    bytes_per_scanned_entry: Option<f64>,
    filter_checks: u64,
    filter_useful: u64,
    filter_false_positives: u64,
    filter_false_positive_rate: Option<f64>,
}

#[derive(Serialize)]
struct KeyspaceRuns {
    name: String,
    runs: u64,
}

#[derive(Serialize)]
struct SpaceReport {
    amplification: Option<f64>,
    /// Estimated.
    live_bytes: u64,
    disk_bytes: u64,
    peak_bytes: u64,
    parts: Vec<Part>,
    exact: Option<ExactSpace>,
}

#[derive(Serialize)]
struct ExactSpace {
    amplification: Option<f64>,
    #[serde(flatten)]
    measured: SpaceMeasurement,
}

impl Amplification {
    /// The report on a database; `exact` if it was scanned.
    pub fn of(metrics: &Metrics, exact: Option<SpaceMeasurement>) -> Self {
        Amplification {
            write: WriteReport::of(metrics),
            read: ReadReport::of(metrics),
            space: SpaceReport::of(metrics, exact),
        }
    }
}

impl WriteReport {
    fn of(metrics: &Metrics) -> Self {
        let LifetimeMetrics { user_bytes_written: user, .. } = metrics.lifetime;
        let life = &metrics.lifetime;
        let lifetime = Written {
            amplification: quotient(life.storage_bytes_written(), user),
            user_bytes: user,
            parts: vec![
                part("wal", life.wal_bytes, user),
                part("flush", life.flush_bytes, user),
                part("compaction", life.compaction_bytes_written, user),
                part("manifest", life.manifest_bytes, user),
            ],
        };
        let user = metrics.user_bytes_written;
        let since_open = Written {
            amplification: quotient(metrics.storage_bytes_written(), user),
            user_bytes: user,
            parts: vec![
                part("wal", metrics.wal_bytes, user),
                part("flush", metrics.flush_bytes, user),
                part("compaction", metrics.compaction_bytes_written, user),
                part("manifest", metrics.manifest_bytes, user),
            ],
        };
        WriteReport { lifetime, compactions: life.compactions_by_reason.clone(), since_open }
    }
}

impl ReadReport {
    fn of(metrics: &Metrics) -> Self {
        let known = |count: u64, value: f64| (count > 0).then_some(value);
        let (gets, scanned) = (metrics.gets, metrics.entries_scanned());
        let negatives = metrics.filter_useful + metrics.filter_false_positives;
        let keyspaces = metrics.keyspaces.iter().map(|keyspace| KeyspaceRuns {
            name: keyspace.name.clone(),
            runs: keyspace.read_amplification(),
        });
        ReadReport {
            structural: metrics.read_amplification(),
            keyspaces: keyspaces.collect(),
            gets,
            tables_per_get: known(gets, metrics.tables_probed_per_get()),
            blocks_per_get: known(gets, metrics.blocks_per_get()),
            bytes_per_get: known(gets, metrics.block_bytes_per_get()),
            entries_scanned: scanned,
            blocks_per_scanned_entry: known(scanned, metrics.blocks_per_scanned_entry()),
            bytes_per_scanned_entry: known(scanned, metrics.block_bytes_per_scanned_entry()),
            filter_checks: metrics.filter_checks,
            filter_useful: metrics.filter_useful,
            filter_false_positives: metrics.filter_false_positives,
            filter_false_positive_rate: known(negatives, metrics.filter_false_positive_rate()),
        }
    }
}

impl SpaceReport {
    fn of(metrics: &Metrics, exact: Option<SpaceMeasurement>) -> Self {
        let live = metrics.live_bytes_estimate;
        SpaceReport {
            amplification: quotient(metrics.disk_bytes, live),
            live_bytes: live,
            disk_bytes: metrics.disk_bytes,
            peak_bytes: metrics.disk_bytes_peak,
            parts: vec![
                part("tables", metrics.table_bytes, live),
                part("obsolete", metrics.obsolete_table_bytes, live),
                part("in flight", metrics.in_flight_bytes, live),
                part("wal", metrics.wal_file_bytes, live),
                part("manifest", metrics.manifest_file_bytes, live),
            ],
            exact: exact.map(|measured| ExactSpace {
                amplification: (measured.live_bytes > 0).then(|| measured.amplification()),
                measured,
            }),
        }
    }
}

fn part(name: &'static str, bytes: u64, of: u64) -> Part {
    Part { name, bytes, amplification: quotient(bytes, of) }
}

fn quotient(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// A line of the drawing: group, part, amount, ratio, bar.
type Row = Vec<String>;

/// Draws write, read and space amplification by part.
pub fn draw(report: &Amplification, out: &mut Out) -> Result<(), Failure> {
    let mut rows = Vec::new();
    draw_written("write", "users wrote", &report.write.lifetime, out, &mut rows);
    for part in &report.write.compactions {
        let name = format!("compaction into L{}: {}", part.level, part.reason);
        let ratio = quotient(part.totals.bytes_written, report.write.lifetime.user_bytes);
        rows.push(row("", &name, output::bytes(part.totals.bytes_written), ratio));
    }
    if report.write.since_open.user_bytes > 0 {
        draw_written("since open", "users wrote", &report.write.since_open, out, &mut rows);
    }
    draw_read(&report.read, &mut rows);
    draw_space(&report.space, out, &mut rows);
    out.table(&["amplification", "part", "amount", "ratio", "share"], rows, &[2, 3])
}

fn draw_written(group: &str, user: &str, written: &Written, out: &Out, rows: &mut Vec<Row>) {
    let total = written.parts.iter().map(|part| part.bytes).sum();
    rows.push(row(group, "all", output::bytes(total), written.amplification));
    rows.push(row("", user, output::bytes(written.user_bytes), None));
    draw_parts(&written.parts, total, out, rows);
}

fn draw_parts(parts: &[Part], total: u64, out: &Out, rows: &mut Vec<Row>) {
    for part in parts {
        let mut row = row("", part.name, output::bytes(part.bytes), part.amplification);
        row.push(out.bar(part.bytes, total, BAR_WIDTH));
        rows.push(row);
    }
}

fn draw_read(read: &ReadReport, rows: &mut Vec<Row>) {
    rows.push(row("read", "runs a get considers", output::count(read.structural), None));
    for keyspace in read.keyspaces.iter().filter(|_| read.keyspaces.len() > 1) {
        rows.push(row("", &format!("  in {}", keyspace.name), output::count(keyspace.runs), None));
    }
    let measured = [
        ("tables a get asks", read.tables_per_get),
        ("blocks a get reads", read.blocks_per_get),
        ("bytes a get reads", read.bytes_per_get),
        ("blocks a scanned entry", read.blocks_per_scanned_entry),
        ("bytes a scanned entry", read.bytes_per_scanned_entry),
        ("filter false positives", read.filter_false_positive_rate),
    ];
    // What nobody did since the open has no cost to tell.
    for (name, value) in measured.into_iter().filter(|(_, value)| value.is_some()) {
        rows.push(row("", name, String::new(), value));
    }
}

fn draw_space(space: &SpaceReport, out: &Out, rows: &mut Vec<Row>) {
    rows.push(row("space", "all", output::bytes(space.disk_bytes), space.amplification));
    draw_parts(&space.parts, space.disk_bytes, out, rows);
    rows.push(row("", "peak since open", output::bytes(space.peak_bytes), None));
    rows.push(row("", "live, estimated", output::bytes(space.live_bytes), None));
    if let Some(exact) = &space.exact {
        let live = output::bytes(exact.measured.live_bytes);
        rows.push(row("", "live, exactly", live, exact.amplification));
    }
}

fn row(group: &str, part: &str, amount: String, value: Option<f64>) -> Row {
    let value = value.map_or_else(String::new, output::ratio);
    vec![group.to_owned(), part.to_owned(), amount, value]
}
