//! `stats`, `levels`, `amp`: the engine's metrics as text and as JSON.
//!
//! The counters count from the opening of the database, so for a database that this program only just opened they say
//! what opening cost; sizes and the tree are those on disk. `demo` and the shell's `stats` show a working process.

use esker::{KeyspaceMetrics, LevelMetrics, Metrics};
use serde::Serialize;

use crate::args::Global;
use crate::database::{Access, Opened};
use crate::error::Failure;
use crate::output::{self, Out};

const BAR_WIDTH: usize = 32;

/// `stats`.
pub fn stats(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let metrics = read_metrics(global)?;
    if out.json { out.json_line(&metrics) } else { out.line(metrics.to_string().trim_end()) }
}

/// `levels`.
pub fn levels(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let metrics = read_metrics(global)?;
    if out.json { out.json_line(&LevelsReport::of(&metrics)) } else { draw_levels(&metrics, out) }
}

/// `amp`.
pub fn amp(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let metrics = read_metrics(global)?;
    if out.json { out.json_line(&Amplification::of(&metrics)) } else { draw_amp(&metrics, out) }
}

fn read_metrics(global: &Global) -> Result<Metrics, Failure> {
    let opened = Opened::open(global, Access::Read)?;
    let metrics = opened.db.metrics();
    opened.close()?;
    Ok(metrics)
}

/// The tree of every keyspace.
#[derive(Serialize)]
struct LevelsReport<'a> {
    keyspaces: Vec<KeyspaceLevels<'a>>,
}

#[derive(Serialize)]
struct KeyspaceLevels<'a> {
    name: &'a str,
    memtable_bytes: u64,
    debt_bytes: u64,
    levels: &'a [LevelMetrics],
}

impl<'a> LevelsReport<'a> {
    fn of(metrics: &'a Metrics) -> Self {
        let keyspaces = metrics.keyspaces.iter();
        LevelsReport {
            keyspaces: keyspaces
                .map(|keyspace| KeyspaceLevels {
                    name: &keyspace.name,
                    memtable_bytes: keyspace.memtable_bytes,
                    debt_bytes: keyspace.debt_bytes,
                    levels: &keyspace.levels,
                })
                .collect(),
        }
    }
}

/// Draws the tree of every keyspace: a line a level that holds anything, with a bar by size.
pub fn draw_levels(metrics: &Metrics, out: &mut Out) -> Result<(), Failure> {
    for keyspace in &metrics.keyspaces {
        out.heading(&format!("keyspace {}", keyspace.name))?;
        draw_keyspace(keyspace, out)?;
    }
    Ok(())
}

fn draw_keyspace(keyspace: &KeyspaceMetrics, out: &mut Out) -> Result<(), Failure> {
    let largest = keyspace.levels.iter().map(|level| level.bytes).max().unwrap_or(0);
    let largest = largest.max(keyspace.memtable_bytes);
    let memory = vec![
        "memory".to_owned(),
        String::new(),
        String::new(),
        output::bytes(keyspace.memtable_bytes),
        String::new(),
        String::new(),
        output::bar(keyspace.memtable_bytes, largest, BAR_WIDTH),
    ];
    let shown = keyspace.levels.iter().filter(|level| level.level == 0 || level.tables > 0);
    let levels = shown.map(|level| {
        vec![
            format!("L{}", level.level),
            output::count(level.runs),
            output::count(level.tables),
            output::bytes(level.bytes),
            output::count(level.entries),
            output::count(level.tombstones),
            output::bar(level.bytes, largest, BAR_WIDTH),
        ]
    });
    let rows = std::iter::once(memory).chain(levels).collect();
    let header = ["level", "runs", "tables", "bytes", "entries", "tombstones", "size"];
    out.table(&header, rows, &[1, 2, 3, 4, 5])
}

/// One part of an amplification.
#[derive(Serialize)]
struct Part {
    #[serde(rename = "part")]
    name: &'static str,
    bytes: u64,
    amplification: Option<f64>,
}

/// Write, read and space amplification, each as a whole and by part. A ratio without a divisor is null.
#[derive(Serialize)]
struct Amplification {
    write: WriteAmplification,
    read: ReadAmplification,
    space: SpaceAmplification,
}

#[derive(Serialize)]
struct WriteAmplification {
    amplification: Option<f64>,
    user_bytes: u64,
    parts: Vec<Part>,
}

#[derive(Serialize)]
struct ReadAmplification {
    /// Sorted runs that a point read must consider.
    structural: u64,
    blocks_per_get: Option<f64>,
    bytes_per_get: Option<u64>,
    filter_checks: u64,
    filter_useful: u64,
    filter_false_positives: u64,
}

#[derive(Serialize)]
struct SpaceAmplification {
    amplification: Option<f64>,
    live_bytes: u64,
    disk_bytes: u64,
    parts: Vec<Part>,
}

impl Amplification {
    fn of(metrics: &Metrics) -> Self {
        let user = metrics.user_bytes_written;
        let live = metrics.live_bytes_estimate;
        let gets = metrics.gets;
        Amplification {
            write: WriteAmplification {
                amplification: finite(metrics.write_amplification()),
                user_bytes: user,
                parts: vec![
                    part("wal", metrics.wal_bytes, user),
                    part("flush", metrics.flush_bytes, user),
                    part("compaction", metrics.compaction_bytes_written, user),
                    part("manifest", metrics.manifest_bytes, user),
                ],
            },
            read: ReadAmplification {
                structural: metrics.read_amplification(),
                blocks_per_get: quotient(metrics.blocks_read, gets),
                bytes_per_get: metrics.block_bytes_read.checked_div(gets),
                filter_checks: metrics.filter_checks,
                filter_useful: metrics.filter_useful,
                filter_false_positives: metrics.filter_false_positives,
            },
            space: SpaceAmplification {
                amplification: finite(metrics.space_amplification()),
                live_bytes: live,
                disk_bytes: metrics.disk_bytes,
                parts: vec![
                    part("tables", metrics.table_bytes, live),
                    part("wal", metrics.wal_file_bytes, live),
                    part("manifest", metrics.manifest_file_bytes, live),
                    part("other", other_bytes(metrics), live),
                ],
            },
        }
    }
}

/// Bytes on disk that are no live table, log or manifest: files in the making and files about to be removed.
fn other_bytes(metrics: &Metrics) -> u64 {
    let known = metrics.table_bytes + metrics.wal_file_bytes + metrics.manifest_file_bytes;
    metrics.disk_bytes.saturating_sub(known)
}

fn part(name: &'static str, bytes: u64, of: u64) -> Part {
    Part { name, bytes, amplification: quotient(bytes, of) }
}

fn quotient(part: u64, whole: u64) -> Option<f64> {
    finite(part as f64 / whole as f64)
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// Draws write, read and space amplification by part.
pub fn draw_amp(metrics: &Metrics, out: &mut Out) -> Result<(), Failure> {
    let amp = Amplification::of(metrics);
    let mut rows = Vec::new();
    let total = amp.write.parts.iter().map(|part| part.bytes).sum();
    rows.push(row("write", "all", output::bytes(total), amp.write.amplification));
    for part in &amp.write.parts {
        rows.push(row("", part.name, output::bytes(part.bytes), part.amplification));
    }
    rows.push(row("", "user wrote", output::bytes(amp.write.user_bytes), None));
    let read = &amp.read;
    rows.push(row("read", "runs a get considers", output::count(read.structural), None));
    rows.push(row("", "blocks a get", String::new(), read.blocks_per_get));
    let bytes_per_get = read.bytes_per_get.map_or_else(String::new, output::bytes);
    rows.push(row("", "bytes a get", bytes_per_get, None));
    let useful = finite(read.filter_useful as f64 / read.filter_checks as f64);
    rows.push(row("", "filter saved a look", output::count(read.filter_useful), useful));
    let space = &amp.space;
    rows.push(row("space", "all", output::bytes(space.disk_bytes), space.amplification));
    for part in &space.parts {
        rows.push(row("", part.name, output::bytes(part.bytes), part.amplification));
    }
    rows.push(row("", "live estimate", output::bytes(space.live_bytes), None));
    out.table(&["amplification", "part", "amount", "ratio"], rows, &[2, 3])
}

fn row(group: &str, part: &str, amount: String, value: Option<f64>) -> Vec<String> {
    let value = value.map_or_else(String::new, output::ratio);
    vec![group.to_owned(), part.to_owned(), amount, value]
}
