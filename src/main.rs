//! The `fws` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    fws::cli::main(std::env::args_os().skip(1), std::env::vars_os())
}
