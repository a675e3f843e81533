//! `stats` and `levels`: the engine's metrics as text and as JSON, and the tree as a drawing.
//!
//! The counters count from the opening of the database, so for a database that this program only just opened they say
//! what opening cost; sizes, the tree and the lifetime totals are those on disk. `demo` and the shell's `stats` show a
//! working process.

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
        out.bar(keyspace.memtable_bytes, largest, BAR_WIDTH),
    ];
    let shown = keyspace.levels.iter().filter(|level| level.level == 0 || level.tables > 0);
    let levels = shown.map(|level| {
        vec![
            format!("L{}", level.level),
            output::count(level.runs),
            output::count(level.tables),
            output::bytes(level.bytes),
            output::count(level.entries),
            output::percent(level.tombstones, level.entries),
            out.bar(level.bytes, largest, BAR_WIDTH),
        ]
    });
    let rows = std::iter::once(memory).chain(levels).collect();
    let header = ["level", "runs", "tables", "bytes", "entries", "tombstones", "size"];
    out.table(&header, rows, &[1, 2, 3, 4, 5])
}
