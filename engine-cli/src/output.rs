//! Standard output: one buffered writer, and what it should look like.
//!
//! Three questions are answered once, here: is it a terminal (tables with borders, colour), is colour wanted
//! (`NO_COLOR` unset), is it JSON (`--format json`). Everything the program says on standard output goes through
//! [`Out`], so that a failed write is always a [`Failure`] and never a panic, and a closed pipe ends the program
//! quietly. In a pipe, text is plain lines with columns lined up by spaces.
//!
//! Progress goes to stderr and only where stderr is a terminal.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::error::Failure;
use crate::text::Encoding;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people: plain lines, tables on a terminal.
    Text,
    /// For programs: one JSON object a line for entries, one document for reports.
    Json,
}

/// Standard output.
pub struct Out {
    writer: BufWriter<Box<dyn Write>>,
    /// `--format json`.
    pub json: bool,
    /// How keys and values are shown.
    pub encoding: Encoding,
    terminal: bool,
    /// Width of the terminal, where it is known.
    columns: Option<u16>,
    colour: bool,
    scratch: Vec<u8>,
}

/// One entry as a JSON object; keys and values are encoded as everywhere.
#[derive(Serialize)]
struct JsonEntry<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
}

const BUFFER_BYTES: usize = 64 << 10;

/// Columns of a terminal from which on it is better to wrap cells than to let lines run on.
const WRAP_COLUMNS_MIN: u16 = 60;

/// What the widest table with bars takes beside them, so that bars do not wrap.
const COLUMNS_BESIDE_BAR: usize = 68;

/// A bar that tells anything.
const BAR_WIDTH_MIN: usize = 8;

impl Out {
    pub fn new(format: Format, encoding: Encoding) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Out {
            writer: BufWriter::with_capacity(BUFFER_BYTES, Box::new(stdout)),
            json: format == Format::Json,
            encoding,
            terminal,
            columns: Table::new().width().filter(|_| terminal),
            colour: terminal && !no_colour,
            scratch: Vec::new(),
        }
    }

    /// Output for programs that goes to `writer`: no terminal, no colour.
    pub fn to(writer: Box<dyn Write>, encoding: Encoding) -> Self {
        Out {
            writer: BufWriter::with_capacity(BUFFER_BYTES, writer),
            json: false,
            encoding,
            terminal: false,
            columns: None,
            colour: false,
            scratch: Vec::new(),
        }
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer.write_all(bytes).map_err(Failure::output)
    }

    /// Writes a line of text.
    pub fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.raw(text.as_ref().as_bytes())?;
        self.raw(b"\n")
    }

    /// Writes a heading, bold on a terminal.
    pub fn heading(&mut self, text: &str) -> Result<(), Failure> {
        let text = self.paint(text, "1");
        self.line(text)
    }

    /// `text` in the ANSI style `code` where colour is wanted.
    pub fn paint(&self, text: &str, code: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes a value as one line of JSON.
    pub fn json_line(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.writer, value)
            .map_err(|error| Failure::output(io::Error::from(error)))?;
        self.raw(b"\n")
    }

    /// Writes an entry: `KEY<TAB>VALUE`, only the key if there is no value, or a JSON object.
    pub fn entry(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Failure> {
        if self.json {
            return self.json_entry(key, value);
        }
        let mut line = std::mem::take(&mut self.scratch);
        line.clear();
        self.encoding.write(key, &mut line);
        if let Some(value) = value {
            line.push(b'\t');
            self.encoding.write(value, &mut line);
        }
        line.push(b'\n');
        let written = self.raw(&line);
        self.scratch = line;
        written
    }

    /// Writes an entry as a JSON object on a line.
    pub fn json_entry(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Failure> {
        let key = self.encoding.show(key);
        let value = value.map(|value| self.encoding.show(value));
        self.json_line(&JsonEntry { key: &key, value: value.as_deref() })
    }

    /// `part` of `whole` as a bar of at most `width` characters: of blocks on a terminal, of `#` in a pipe.
    pub fn bar(&self, part: u64, whole: u64, width: usize) -> String {
        if !self.terminal {
            return ascii_bar(part, whole, width);
        }
        let room = self.columns.map_or(width, |columns| {
            usize::from(columns).saturating_sub(COLUMNS_BESIDE_BAR).max(BAR_WIDTH_MIN)
        });
        block_bar(part, whole, width.min(room))
    }

    /// Writes a table; the columns named in `right` are aligned to the right.
    pub fn table(
        &mut self,
        header: &[&str],
        rows: Vec<Vec<String>>,
        right: &[usize],
    ) -> Result<(), Failure> {
        let mut table = Table::new();
        table.load_preset(if self.terminal {
            presets::UTF8_FULL_CONDENSED
        } else {
            presets::NOTHING
        });
        if self.terminal && table.width().is_some_and(|columns| columns >= WRAP_COLUMNS_MIN) {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        let colour = self.colour;
        table.set_header(header.iter().map(|title| {
            let cell = Cell::new(title);
            if colour { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
        for row in rows {
            table.add_row(row);
        }
        for column in right {
            if let Some(column) = table.column_mut(*column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        if !self.terminal {
            for column in table.column_iter_mut() {
                column.set_padding((0, 2));
            }
        }
        let text = table.to_string();
        for line in text.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Hands everything to the operating system.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(Failure::output)
    }
}

/// Writes a line to stderr; there is nobody to tell if that fails.
pub fn complain(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A byte count for people.
pub fn bytes(count: u64) -> String {
    BinaryBytes(count).to_string()
}

/// A count for people, with separators.
pub fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

/// `part` of `whole` as a bar of at most `width` characters: ASCII.
fn ascii_bar(part: u64, whole: u64, width: usize) -> String {
    "#".repeat(eighths(part, whole, width).div_ceil(8))
}

/// The same in blocks, to an eighth of a character.
fn block_bar(part: u64, whole: u64, width: usize) -> String {
    let eighths = eighths(part, whole, width);
    let (full, rest) = (eighths / 8, eighths as u32 % 8);
    let mut bar = "\u{2588}".repeat(full);
    // The blocks from seven eighths down to one eighth follow the full one.
    bar.extend(char::from_u32(0x2590 - rest).filter(|_| rest > 0));
    bar
}

/// The eighths of characters that `part` of `whole` fills; at least one if it is anything.
fn eighths(part: u64, whole: u64, width: usize) -> usize {
    if whole == 0 || part == 0 {
        return 0;
    }
    let filled = u128::from(part) * 8 * width as u128 / u128::from(whole);
    (filled as usize).clamp(1, 8 * width)
}

/// `part` of `whole` in percent; empty where there is no whole.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

/// A ratio, or `-` where there is nothing to divide by.
pub fn ratio(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { "-".to_owned() }
}

/// A progress bar over `total` steps on a terminal, else nothing.
pub fn progress(what: &'static str, total: u64) -> ProgressBar {
    styled(ProgressBar::new(total), what, "{msg:12} [{bar:30}] {human_pos}/{human_len} {eta}")
}

/// A progress bar over `total` bytes on a terminal, else nothing.
pub fn progress_bytes(what: &'static str, total: u64) -> ProgressBar {
    styled(
        ProgressBar::new(total),
        what,
        "{msg:12} [{bar:30}] {binary_bytes}/{binary_total_bytes} {eta}",
    )
}

/// A spinner with a count on a terminal, else nothing.
pub fn spinner(what: &'static str) -> ProgressBar {
    let spinner = styled(ProgressBar::new_spinner(), what, "{spinner} {msg} {human_pos} {elapsed}");
    if !spinner.is_hidden() {
        spinner.enable_steady_tick(Duration::from_millis(120));
    }
    spinner
}

fn styled(bar: ProgressBar, what: &'static str, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).expect("the templates in this file are valid");
    bar.set_style(style);
    bar.set_message(what);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_every_part_that_is_there() {
        assert_eq!(ascii_bar(0, 10, 10), "");
        assert_eq!(ascii_bar(1, 1_000_000, 10), "#");
        assert_eq!(ascii_bar(5, 10, 10), "#####");
        assert_eq!(ascii_bar(10, 10, 10), "##########");
        assert_eq!(ascii_bar(1, 0, 10), "");
    }

    #[test]
    fn blocks_show_eighths() {
        assert_eq!(block_bar(0, 10, 10), "");
        assert_eq!(block_bar(1, 1_000_000, 10), "\u{258f}");
        assert_eq!(block_bar(3, 16, 2), "\u{258d}");
        assert_eq!(block_bar(15, 16, 2), "\u{2588}\u{2589}");
        assert_eq!(block_bar(16, 16, 2), "\u{2588}\u{2588}");
    }

    #[test]
    fn percents_of_nothing_are_not_shown() {
        assert_eq!((percent(1, 8).as_str(), percent(0, 0).as_str()), ("12.5 %", ""));
    }

    #[test]
    fn a_ratio_without_a_divisor_is_a_dash() {
        assert_eq!(ratio(1.0 / 3.0), "0.33");
        assert_eq!(ratio(f64::NAN), "-");
        assert_eq!(ratio(f64::INFINITY), "-");
    }
}
