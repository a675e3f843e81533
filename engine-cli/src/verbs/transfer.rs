//! `load` and `dump`: whole keyspaces as lines of text, in three forms that round-trip every byte.
//!
//! Both stream. `load` writes batches; a bad line is named by its number and ends the load, and what stood before it
//! is kept (with `--atomic` everything is one batch and nothing is kept). With `--sorted` the entries go through a bulk
//! ingest instead of batches; a key out of order is a bad line. When `load` returns, all is durable.
//!
//! A line ends with a newline; the last one may lack it. The first tab ends the key, so a value may hold raw tabs. A
//! line that has no tab where the longest key ends is refused before the rest of it is read.
//!
//! Whatever ends a load early (a bad line, an error, a signal), it says how many entries are kept.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use esker::{DbOptions, Durability, ErrorKind, Ingest, WriteBatch};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

use crate::args::{DumpArgs, DumpFormat, Global, LoadArgs};
use crate::database::{self, Access, Opened};
use crate::error::Failure;
use crate::output::{self, Out};
use crate::range::KeyRange;
use crate::signals;
use crate::text::Encoding;

const BATCH_ENTRIES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 1 << 20;

/// A line of `jsonl`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLine {
    key: String,
    value: String,
}

/// What `load` did.
#[derive(Default, Serialize)]
struct Loaded {
    entries: u64,
    bytes: u64,
}

/// `load FILE`.
pub fn load(global: &Global, args: &LoadArgs, out: &mut Out) -> Result<(), Failure> {
    let (mut input, bytes) = open_input(&args.file)?;
    let encoding = if args.input == DumpFormat::Hex { Encoding::Hex } else { out.encoding };
    let parser = Parser { json: args.input == DumpFormat::Jsonl, encoding };
    let opened = Opened::open(global, Access::Create)?;
    let progress = match bytes {
        Some(bytes) => output::progress_bytes("loading", bytes),
        None => output::spinner("loading"),
    };
    let defaults = opened.overrides.database(DbOptions::default())?;
    let mut loader = Loader {
        opened: &opened,
        parser,
        ingest: if args.sorted { Some(opened.keyspace.ingest()?) } else { None },
        batch: WriteBatch::new(),
        loaded: Loaded::default(),
        written: 0,
        is_logged: defaults.durability != Durability::Disabled,
    };
    signals::watch_load();
    let result = loader.run(&mut input, args, &progress);
    progress.finish_and_clear();
    let (written, loaded) = (loader.written, loader.loaded);
    // Also after a bad line: what came before it is kept, and so it is made durable.
    let synced = opened.db.sync();
    result?;
    let dir = opened.db.path().to_path_buf();
    let unsure = format!("{written} entries were written, and nobody knows how many are durable");
    synced.map_err(|error| database::at(error, &dir).adding(&unsure))?;
    opened.close().map_err(|failure| failure.adding(&unsure))?;
    if out.json {
        return out.json_line(&loaded);
    }
    let (entries, bytes) = (output::count(loaded.entries), output::bytes(loaded.bytes));
    out.line(format!("loaded {entries} entries, {bytes} of keys and values"))
}

/// `dump`.
pub fn dump(global: &Global, args: &DumpArgs, out: &mut Out) -> Result<(), Failure> {
    if let Some(form) = args.output {
        out.json = form == DumpFormat::Jsonl;
    }
    if args.output == Some(DumpFormat::Hex) {
        out.encoding = Encoding::Hex;
    }
    let opened = Opened::open(global, Access::Read)?;
    let mut cursor = opened.keyspace.cursor();
    KeyRange::default()
        .walk(&mut cursor, false, u64::MAX, |key, value| out.entry(key, Some(value)))?;
    drop(cursor);
    opened.close()
}

/// The input and its length, where that is known.
fn open_input(file: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if file == Path::new("-") {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let open = || -> io::Result<(File, u64)> {
        let input = File::open(file)?;
        let metadata = input.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        Ok((input, metadata.len()))
    };
    let (input, bytes) = open().map_err(|error| Failure::io("read", file, error))?;
    Ok((Box::new(BufReader::with_capacity(READ_BYTES, input)), Some(bytes)))
}

/// One `load` on its way.
struct Loader<'a> {
    opened: &'a Opened,
    parser: Parser,
    /// Where entries go if they are sorted; else they go into `batch`.
    ingest: Option<Ingest>,
    batch: WriteBatch,
    loaded: Loaded,
    /// Entries that were written: those that are kept however the load ends.
    written: u64,
    is_logged: bool,
}

impl Loader<'_> {
    fn run(
        &mut self,
        input: &mut dyn BufRead,
        args: &LoadArgs,
        progress: &ProgressBar,
    ) -> Result<(), Failure> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let read = self.parser.read_line(input, &mut line);
            let read =
                read.map_err(|error| self.stopped(Failure::io("read", &args.file, error)))?;
            if read == 0 {
                break;
            }
            progress.inc(read as u64);
            let added = self.add(line.strip_suffix(b"\n").unwrap_or(&line));
            if let Err(what) = added.map_err(|failure| self.stopped(failure))? {
                return Err(self.bad_line(number, &what, args));
            }
            if !args.atomic
                && (self.batch.len() >= BATCH_ENTRIES || self.batch.bytes() >= BATCH_BYTES)
            {
                self.write().map_err(|failure| self.stopped(failure))?;
            }
        }
        self.write().map_err(|failure| self.stopped(failure))
    }

    /// The failure that ended the load, which says what is kept. An ingest is all or nothing.
    fn stopped(&self, failure: Failure) -> Failure {
        failure.at(self.opened.db.path().display().to_string()).adding(&self.kept())
    }

    /// How many entries are kept of a load that ended early.
    fn kept(&self) -> String {
        match self.written {
            0 => "nothing of this load was written".to_owned(),
            1 => "the entry before it is kept".to_owned(),
            entries => format!("the {entries} entries before it are kept"),
        }
    }

    /// Takes a line; the inner error is what is wrong with it.
    fn add(&mut self, line: &[u8]) -> Result<Result<(), String>, Failure> {
        let (key, value) = match self.parser.parse(line) {
            Ok(entry) => entry,
            Err(what) => return Ok(Err(what)),
        };
        if key.len() > esker::key::KEY_LEN_MAX {
            let (len, max) = (key.len(), esker::key::KEY_LEN_MAX);
            return Ok(Err(format!("the key has {len} bytes, more than {max}")));
        }
        if let Some(ingest) = &mut self.ingest {
            match ingest.put(&key, &value) {
                Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                    return Ok(Err(error.what().to_owned()));
                }
                result => result?,
            }
            self.loaded.entries += 1;
        } else {
            self.batch.put_in(&self.opened.keyspace, &key, &value);
        }
        self.loaded.bytes += (key.len() + value.len()) as u64;
        Ok(Ok(()))
    }

    /// Writes what was taken so far.
    fn write(&mut self) -> Result<(), Failure> {
        if let Some(ingest) = self.ingest.take() {
            ingest.finish()?;
            self.written = self.loaded.entries;
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        let entries = batch.len() as u64;
        if entries > 0 {
            self.opened.db.write(batch)?;
            self.loaded.entries += entries;
            self.written = self.loaded.entries;
            // A signal ends the process, and what was never logged with it.
            if self.is_logged {
                signals::tell_loaded(self.written);
            }
        }
        Ok(())
    }

    /// Writes what came before the bad line, unless nothing is to be kept, and tells.
    fn bad_line(&mut self, number: u64, what: &str, args: &LoadArgs) -> Failure {
        if args.atomic {
            self.ingest = None;
            self.loaded = Loaded::default();
        } else if let Err(failure) = self.write() {
            return self.stopped(failure);
        }
        let kept = self.kept();
        Failure::refused(format!("bad line {number}: {what}"))
            .at(args.file.display().to_string())
            .advise(format!("mend the line and load again; {kept}"))
    }
}

/// Takes a line apart.
struct Parser {
    json: bool,
    encoding: Encoding,
}

impl Parser {
    /// Reads the next line; of one that cannot be one, only the beginning. Returns the bytes read; 0 at the end.
    fn read_line(&self, input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
        // Each byte of a key is at most four of its text, and `\u0000` where that is in JSON.
        const HEAD_BYTES: u64 = 8 * esker::key::KEY_LEN_MAX as u64;
        let read = (&mut *input).take(HEAD_BYTES).read_until(b'\n', line)?;
        let goes_on = read as u64 == HEAD_BYTES && line.last() != Some(&b'\n');
        let begins = if self.json { line.first() == Some(&b'{') } else { line.contains(&b'\t') };
        if goes_on && begins {
            return Ok(read + input.read_until(b'\n', line)?);
        }
        Ok(read)
    }

    fn parse(&self, line: &[u8]) -> Result<(Vec<u8>, Vec<u8>), String> {
        if self.json {
            if line.trim_ascii_start().first() != Some(&b'{') {
                return Err(r#"not an object like {"key": KEY, "value": VALUE}"#.to_owned());
            }
            let line: JsonLine =
                serde_json::from_slice(line).map_err(|error| json_error(&error))?;
            let field = |text: &str| self.encoding.read(text.as_bytes());
            return Ok((field(&line.key)?, field(&line.value)?));
        }
        let Some(tab) = line.iter().position(|byte| *byte == b'\t') else {
            return Err("no tab between key and value".to_owned());
        };
        Ok((self.encoding.read(&line[..tab])?, self.encoding.read(&line[tab + 1..])?))
    }
}

/// What is wrong with a line of JSON. Which line it is, the caller knows: here it is always the first.
fn json_error(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TSV: Parser = Parser { json: false, encoding: Encoding::Text };
    const JSON: Parser = Parser { json: true, encoding: Encoding::Text };

    #[test]
    fn the_first_tab_ends_the_key() {
        assert_eq!(TSV.parse(b"a\tb\tc").unwrap(), (b"a".to_vec(), b"b\tc".to_vec()));
        assert_eq!(TSV.parse(b"\t").unwrap(), (vec![], vec![]));
        assert_eq!(TSV.parse(br"a\x09b	c").unwrap(), (b"a\tb".to_vec(), b"c".to_vec()));
    }

    #[test]
    fn bad_lines_say_why() {
        assert!(TSV.parse(b"abc").unwrap_err().contains("no tab"));
        assert!(TSV.parse(b"").is_err());
        assert!(TSV.parse(b"a\\q\tb").unwrap_err().contains("backslash"));
        for line in [
            "",
            "{}",
            "[]",
            r#"["a","1"]"#,
            r#"{"key":"a"}"#,
            r#"{"key":1,"value":"b"}"#,
            r#"{"key":"a","value":"b","x":1}"#,
        ] {
            assert!(JSON.parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn json_strings_hold_encoded_bytes() {
        let line = br#"{"value":"\\x00","key":"k\\\\"}"#;
        assert_eq!(JSON.parse(line).unwrap(), (b"k\\".to_vec(), b"\0".to_vec()));
    }
}
