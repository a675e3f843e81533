//! The program: everything stands in the library beside this file.

use std::process::ExitCode;

fn main() -> ExitCode {
    engine_cli::run_command_line()
}
