//! `engine-cli`: the command line of esker.
//!
//! `args` says what can be asked; `verbs`, `shell`, `bench` and `demo` do it; `database` opens; `output` writes;
//! `error` ends. A verb returns `Result<(), Failure>`; nothing but this file turns that into an exit code, and
//! nothing but a signal ends the program elsewhere.
//!
//! It is a library so that a shell session can be run on a database and an output of a test's or a fuzzer's own
//! ([`run_shell_script`]); nothing else of it is for others to use.

#![expect(
    clippy::disallowed_methods,
    reason = "the engine's seams are for the engine: this program reads files, clocks and starts threads itself"
)]

mod amplification;
mod args;
mod bench;
mod database;
mod demo;
mod error;
mod output;
mod range;
mod shell;
mod signals;
mod text;
mod units;
mod verbs;

use std::io::{BufRead, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as ClapErrorKind;
use esker::Db;

use crate::args::{Cli, Command};
use crate::error::{Exit, Failure};
use crate::output::{Out, complain};
use crate::text::Encoding;

/// Does what the command line of this process asks for. Returns the exit code.
pub fn run_command_line() -> ExitCode {
    signals::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let encoding = if cli.global.hex { Encoding::Hex } else { Encoding::Text };
    let mut out = Out::new(cli.global.format, encoding);
    let done = run(&cli, &mut out);
    // What was found before a failure is still an answer, so it goes out first.
    let flushed = out.flush();
    let Err(failure) = done.and(flushed) else {
        return Exit::Done.into();
    };
    complain(&failure.render(cli.global.verbose));
    failure.exit().into()
}

/// Runs the lines of `input` as a session of `shell` on `db`, writes the answers to `output`, and closes the database.
/// What goes wrong with a line is an answer; an error is the line that the program would end with.
pub fn run_shell_script(
    db: Db,
    input: &mut dyn BufRead,
    output: Box<dyn Write>,
) -> Result<(), String> {
    let mut out = Out::to(output, Encoding::Text);
    shell::run_script(db, input, &mut out).map_err(|failure| failure.render(false))
}

fn run(cli: &Cli, out: &mut Out) -> Result<(), Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Put(args) => verbs::entries::put(global, args, out.encoding),
        Command::Get(args) => verbs::entries::get(global, args, out),
        Command::Delete(args) => verbs::entries::delete(global, args, out.encoding),
        Command::Scan(args) => verbs::entries::scan(global, args, out),
        Command::Load(args) => verbs::transfer::load(global, args, out),
        Command::Dump(args) => verbs::transfer::dump(global, args, out),
        Command::Flush => verbs::upkeep::flush(global),
        Command::Sync => verbs::upkeep::sync(global),
        Command::Compact(args) => verbs::upkeep::compact(global, args, out),
        Command::Verify => verbs::salvage::verify(global, out),
        Command::Repair(args) => verbs::salvage::repair(global, args, out),
        Command::Inspect(args) => verbs::inspect::inspect(args, out),
        Command::Checkpoint(args) => verbs::copies::checkpoint(global, args, out),
        Command::Backup(args) => verbs::copies::backup(global, args, out),
        Command::Backups(args) => verbs::copies::backups(args, out),
        Command::Restore(args) => verbs::copies::restore(global, args, out),
        Command::Keyspaces(args) => verbs::upkeep::keyspaces(global, args, out),
        Command::Stats => verbs::reports::stats(global, out),
        Command::Levels => verbs::reports::levels(global, out),
        Command::Amp(args) => verbs::amplification::amp(global, args, out),
        Command::Options => verbs::about::options(out),
        Command::Completions { shell } => verbs::about::completions(*shell, out),
        Command::Man => verbs::about::man(out),
        Command::Bench(args) => bench::run(global, args, out),
        Command::Report(args) => amplification::report(args, out),
        Command::Simulate(args) => verbs::simulate::simulate(global, args, out),
        Command::Advise(args) => verbs::advise::advise(global, args, out),
        Command::Shell(args) => shell::run(global, args, out),
        Command::Demo(args) => demo::run(global, args, out),
    }
}

/// Ends with what the parser of the command line has to say: help on standard output, or an error on one line.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion) {
        let Err(failure) = error.print().map_err(Failure::output) else {
            return Exit::Done.into();
        };
        complain(&failure.render(false));
        return failure.exit().into();
    }
    let failure = Failure::usage(usage_text(&error.render().to_string()))
        .advise("see `engine-cli --help`, or `engine-cli COMMAND --help`");
    complain(&failure.render(false));
    failure.exit().into()
}

/// The parser's message without its heading, its usage lines and its line breaks.
fn usage_text(message: &str) -> String {
    let body = message.split("\n\nUsage:").next().unwrap_or(message);
    let body = body.split("\n\nFor more information").next().unwrap_or(body);
    let words = body.split_whitespace().collect::<Vec<_>>().join(" ");
    words.strip_prefix("error: ").unwrap_or(&words).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parser_messages_become_one_line() {
        let error = Cli::try_parse_from(["engine-cli", "put"]).unwrap_err();
        let text = usage_text(&error.render().to_string());
        assert_eq!(text, "the following required arguments were not provided: <KEY> <VALUE>");
    }
}
