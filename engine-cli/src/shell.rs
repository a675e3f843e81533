//! `shell`: a session of commands, one a line, on a pipe or on a terminal.
//!
//! `protocol` takes a line apart and knows no database. `session` runs one command and writes its answer. `editor`
//! is the terminal: prompt, history, help. This file is the loop on a pipe.
//!
//! The rule of the pipe: the answer to a line is written and flushed before the next line is read. A wrong line is
//! answered with `err KIND message` and the session goes on. It ends at `quit`, at the end of the input, or when
//! nobody reads our answers; each time the database is closed.

mod editor;
mod protocol;
mod session;

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;

use esker::Db;

use crate::args::{Global, ShellArgs};
use crate::database::{Access, Opened, Overrides};
use crate::error::Failure;
use crate::output::Out;
use session::{Next, Session};

/// `shell`.
pub fn run(global: &Global, args: &ShellArgs, out: &mut Out) -> Result<(), Failure> {
    let opened = Opened::open(global, Access::Create)?;
    let mut session = Session::new(opened, out);
    let ended = if io::stdin().is_terminal() {
        editor::run(&mut session, args.history.as_deref())
    } else {
        read_lines(&mut session, &mut io::stdin().lock())
    };
    let closed = session.close();
    ended.and(closed)
}

/// A session on `db` whose lines come from `input`.
pub fn run_script(db: Db, input: &mut dyn BufRead, out: &mut Out) -> Result<(), Failure> {
    let keyspace = db.default_keyspace().clone();
    let opened = Opened { db, keyspace, overrides: Overrides::default() };
    let mut session = Session::new(opened, out);
    let ended = read_lines(&mut session, input);
    let closed = session.close();
    ended.and(closed)
}

fn read_lines(session: &mut Session<'_>, input: &mut dyn BufRead) -> Result<(), Failure> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.read_until(b'\n', &mut line);
        let read = read.map_err(|error| Failure::io("read", Path::new("standard input"), error))?;
        if read == 0 {
            return session.end_of_input();
        }
        if session.line(line.strip_suffix(b"\n").unwrap_or(&line))? == Next::Quit {
            return Ok(());
        }
    }
}
