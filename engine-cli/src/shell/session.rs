//! One session of the shell: runs commands against the database and writes their answers.
//!
//! It owns the database, the current keyspace, the snapshots by name, and a batch that is still being read. A batch
//! is collected first and applied when its last line is there; a bad line in it is remembered, and the one answer
//! is then `err` and nothing was applied. A snapshot covers all keyspaces; reading from it uses the current
//! keyspace.

use std::collections::HashMap;

use esker::{Cursor, Durability, Snapshot, WriteBatch, WriteOptions};

use super::protocol::{self, Command, Write};
use crate::database::Opened;
use crate::error::Failure;
use crate::output::Out;
use crate::range::KeyRange;

/// Whether the session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Line,
    Quit,
}

/// A session.
pub struct Session<'a> {
    opened: Opened,
    out: &'a mut Out,
    snapshots: HashMap<String, Snapshot>,
    batch: Option<OpenBatch>,
    scratch: Vec<u8>,
}

/// A batch whose lines are still coming.
struct OpenBatch {
    lines_left: u64,
    durability: Option<Durability>,
    writes: WriteBatch,
    /// The first thing wrong with it.
    problem: Option<String>,
}

impl<'a> Session<'a> {
    pub fn new(opened: Opened, out: &'a mut Out) -> Self {
        Session { opened, out, snapshots: HashMap::new(), batch: None, scratch: Vec::new() }
    }

    /// Runs a line and flushes its answer. Fails only if nobody can be answered any more.
    pub fn line(&mut self, line: &[u8]) -> Result<Next, Failure> {
        let next = match self.run(line) {
            Ok(next) => next,
            Err(failure) if failure.is_output() => return Err(failure),
            Err(failure) => {
                self.out.line(format!("err {}", failure.answer()))?;
                Next::Line
            }
        };
        self.out.flush()?;
        Ok(next)
    }

    /// The input is over. A batch whose lines did not all come is not applied.
    pub fn end_of_input(&mut self) -> Result<(), Failure> {
        let Some(batch) = self.batch.take() else {
            return Ok(());
        };
        let missing = batch.lines_left;
        self.out.line(format!(
            "err invalid the input ended {missing} lines before the batch; nothing of it is applied"
        ))?;
        self.out.flush()
    }

    /// The current keyspace's name, and how many lines of a batch are still to come.
    pub fn state(&self) -> (&str, Option<u64>) {
        (self.opened.keyspace.name(), self.batch.as_ref().map(|batch| batch.lines_left))
    }

    /// Gives up a batch that is still being read.
    pub fn forget_batch(&mut self) {
        self.batch = None;
    }

    /// Writes a line that is no answer, for people.
    pub fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.out.line(text)?;
        self.out.flush()
    }

    /// Closes the database.
    pub fn close(self) -> Result<(), Failure> {
        drop(self.snapshots);
        self.opened.close()
    }

    fn run(&mut self, line: &[u8]) -> Result<Next, Failure> {
        if let Some(batch) = self.batch.take() {
            return self.batch_line(batch, line).map(|()| Next::Line);
        }
        let command = protocol::parse(line, self.out.encoding).map_err(Failure::refused)?;
        match command {
            Command::Quit => return Ok(Next::Quit),
            Command::Write { write, durability } => self.write(write, durability)?,
            Command::Batch { lines, durability } => return self.open_batch(lines, durability),
            Command::Get { snapshot, key } => return self.get(snapshot.as_deref(), &key),
            Command::Scan { snapshot, range, limit, reverse } => {
                return self.scan(snapshot.as_deref(), &range, limit, reverse);
            }
            Command::Snapshot { name } => {
                self.snapshots.insert(name, self.opened.db.snapshot());
            }
            Command::Drop { name } => {
                self.snapshots.remove(&name).ok_or_else(|| no_snapshot(&name))?;
            }
            Command::Keyspace { name } => {
                let Opened { db, overrides, .. } = &self.opened;
                let keyspace = overrides.create(db, &name, esker::KeyspaceOptions::default())?;
                self.opened.keyspace = keyspace;
            }
            Command::Flush => self.flush()?,
            Command::Compact => {
                self.flush()?;
                self.opened.keyspace.compact_range::<Vec<u8>>(..)?;
            }
            Command::Sync => self.opened.db.sync()?,
            Command::Stats => {
                let metrics = self.opened.db.metrics();
                return self.out.json_line(&metrics).map(|()| Next::Line);
            }
        }
        self.ok()
    }

    fn ok(&mut self) -> Result<Next, Failure> {
        self.out.line("ok").map(|()| Next::Line)
    }

    /// Everything in tables, and with it every earlier write durable.
    fn flush(&self) -> Result<(), Failure> {
        self.opened.db.flush()?;
        Ok(self.opened.db.sync()?)
    }

    fn write(&self, write: Write, durability: Option<Durability>) -> Result<(), Failure> {
        let options = WriteOptions { durability, ..WriteOptions::default() };
        let keyspace = &self.opened.keyspace;
        match write {
            Write::Put { key, value, ttl: None } => keyspace.put_with(key, value, &options)?,
            Write::Put { key, value, ttl: Some(ttl) } => {
                let mut batch = WriteBatch::new();
                batch.put_in_with_ttl(keyspace, key, value, ttl);
                self.opened.db.write_with(batch, &options)?;
            }
            Write::Delete { key } => keyspace.delete_with(key, &options)?,
        }
        Ok(())
    }

    fn open_batch(
        &mut self,
        lines: u64,
        durability: Result<Option<Durability>, String>,
    ) -> Result<Next, Failure> {
        let (durability, problem) = match durability {
            Ok(durability) => (durability, None),
            Err(problem) => (None, Some(problem)),
        };
        let batch = OpenBatch { lines_left: lines, durability, writes: WriteBatch::new(), problem };
        if lines == 0 {
            return self.apply(batch).map(|()| Next::Line);
        }
        self.batch = Some(batch);
        Ok(Next::Line)
    }

    fn batch_line(&mut self, mut batch: OpenBatch, line: &[u8]) -> Result<(), Failure> {
        batch.lines_left -= 1;
        if batch.problem.is_none() {
            match protocol::parse_batch_line(line, self.out.encoding) {
                Ok(Write::Put { key, value, ttl: None }) => {
                    batch.writes.put_in(&self.opened.keyspace, key, value);
                }
                Ok(Write::Put { key, value, ttl: Some(ttl) }) => {
                    batch.writes.put_in_with_ttl(&self.opened.keyspace, key, value, ttl);
                }
                Ok(Write::Delete { key }) => {
                    batch.writes.delete_in(&self.opened.keyspace, key);
                }
                Err(problem) => batch.problem = Some(problem),
            }
        }
        if batch.lines_left == 0 {
            return self.apply(batch);
        }
        self.batch = Some(batch);
        Ok(())
    }

    fn apply(&mut self, batch: OpenBatch) -> Result<(), Failure> {
        if let Some(problem) = batch.problem {
            return Err(Failure::refused(problem).advise("nothing of the batch is applied"));
        }
        let options = WriteOptions { durability: batch.durability, ..WriteOptions::default() };
        self.opened.db.write_with(batch.writes, &options)?;
        self.ok().map(|_| ())
    }

    fn get(&mut self, snapshot: Option<&str>, key: &[u8]) -> Result<Next, Failure> {
        let value = match snapshot {
            Some(name) => self.snapshot(name)?.get(key)?,
            None => self.opened.keyspace.get(key)?,
        };
        let Some(value) = value else {
            return self.out.line("-").map(|()| Next::Line);
        };
        self.answer(&[&value])?;
        Ok(Next::Line)
    }

    fn scan(
        &mut self,
        snapshot: Option<&str>,
        range: &KeyRange,
        limit: u64,
        reverse: bool,
    ) -> Result<Next, Failure> {
        let mut cursor: Cursor = match snapshot {
            Some(name) => self.snapshot(name)?.cursor(),
            None => self.opened.keyspace.cursor(),
        };
        let found =
            range.walk(&mut cursor, reverse, limit, |key, value| self.answer(&[key, value]))?;
        self.out.line(format!("end {found}"))?;
        Ok(Next::Line)
    }

    /// The snapshot called `name`, reading from the current keyspace.
    fn snapshot(&self, name: &str) -> Result<Snapshot, Failure> {
        let snapshot = self.snapshots.get(name).ok_or_else(|| no_snapshot(name))?;
        Ok(snapshot.keyspace(&self.opened.keyspace)?)
    }

    /// Writes `= ` and the tokens.
    fn answer(&mut self, tokens: &[&[u8]]) -> Result<(), Failure> {
        let line = &mut self.scratch;
        line.clear();
        line.push(b'=');
        for token in tokens {
            line.push(b' ');
            self.out.encoding.write_token(token, line);
        }
        line.push(b'\n');
        self.out.raw(line)
    }
}

fn no_snapshot(name: &str) -> Failure {
    Failure::refused(format!("there is no snapshot {name:?}")).advise("make one with snap NAME")
}
