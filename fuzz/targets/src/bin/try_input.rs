//! Tries inputs on a target, without libFuzzer: `try_input TARGET FILE...`. Panics as the target does.

#![expect(clippy::disallowed_methods, reason = "inputs are files of the user's")]
#![expect(clippy::print_stdout, reason = "this is a program")]

use std::env;
use std::fs;
use std::io;

use esker_fuzz_targets::by_name;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let target = arguments.next().and_then(|name| by_name(&name));
    let Some(target) = target else {
        return Err(io::Error::other("usage: try_input TARGET FILE..."));
    };
    for path in arguments {
        let is_whole = (target.run)(&fs::read(&path)?);
        println!("{path}: {}", if is_whole { "whole" } else { "not whole" });
    }
    Ok(())
}
