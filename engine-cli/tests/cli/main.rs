//! The contract of the command line, from outside: each verb, its output, its exit code.
//!
//! Every test has its own directory and runs the program as a script would, so nothing here knows how it is built.
//! One binary, one file a subject; `support` runs the program.

#![expect(clippy::disallowed_methods, reason = "tests make and damage files themselves")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod copies;
mod damage;
mod entries;
mod failures;
mod reports;
mod shell;
mod simulate;
mod support;
mod transfer;
mod work;
