//! `bench amplification`: what each compaction strategy costs under each load, as JSON lines, and `report`: the same
//! as a page of plots.
//!
//! For each pair of load and strategy a fresh database is filled, settled, read and scanned. While it runs, a sample
//! is taken five times a second; at the end comes one line with the totals. The space that live data needs is not
//! estimated: it is counted by a scan. `load` makes the operations, `run` measures, `line` is the form of the lines,
//! `report` and `plot` draw them.

mod line;
mod load;
mod plot;
mod report;
mod run;

use std::fs;
use std::path::Path;

pub use load::Load;

use crate::args::{BenchArgs, Global, ReportArgs};
use crate::error::Failure;
use crate::output::{self, Out};
use line::Line;
use run::Run;

/// `bench amplification`: every load under every strategy, in databases below `dir`, which are removed again.
pub fn run(global: &Global, args: &BenchArgs, dir: &Path, out: &mut Out) -> Result<(), Failure> {
    for load in &args.loads {
        for strategy in &args.strategies {
            let spinner = output::spinner(load.name());
            let run = Run::new(global, args, *load, strategy, dir)?;
            run.measure(&mut |line: &Line| out.json_line(line))?;
            out.flush()?;
            spinner.finish_and_clear();
        }
    }
    Ok(())
}

/// `report FILE...`: the lines of `bench amplification` as one HTML page on standard output.
pub fn report(args: &ReportArgs, out: &mut Out) -> Result<(), Failure> {
    let mut lines = Vec::new();
    for file in &args.files {
        let text = fs::read(file).map_err(|error| Failure::io("read", file, error))?;
        // Bytes that are no text make a line that is none of ours, and so are refused by its number.
        for (number, text) in (1..).zip(String::from_utf8_lossy(&text).lines()) {
            if text.trim().is_empty() {
                continue;
            }
            let line = serde_json::from_str(text).map_err(|error| {
                Failure::refused(format!(
                    "line {number} is no line of `bench amplification`: {error}"
                ))
                .at(file.display().to_string())
                .advise("give files that hold the output of `engine-cli bench amplification`")
            })?;
            lines.push(line);
        }
    }
    if !lines.iter().any(|line| matches!(line, Line::Total(_))) {
        let files: Vec<_> = args.files.iter().map(|file| file.display().to_string()).collect();
        return Err(Failure::refused("there is no finished run to report")
            .at(files.join(", "))
            .advise("run `engine-cli bench amplification` and keep its output in a file"));
    }
    out.raw(report::page(&lines).as_bytes())
}
