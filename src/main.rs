//! The binary: `fws serve` with its flags; the command line proper comes with `cli`.

use std::process::ExitCode;

use fws::config::{Config, ConfigFile};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let mut flags = Vec::new();
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let name = flag.trim_start_matches('-');
        let value = if name == "demo" { Some("true") } else { rest.next().map(String::as_str) };
        flags.push((name, value.unwrap_or_default()));
    }
    let environment: Vec<_> = std::env::vars().collect();
    let config = match Config::load(&flags, &environment, ConfigFile::read) {
        Ok(config) => config,
        Err(error) => {
            fws::log::error(Default::default(), format_args!("{error}"));
            return ExitCode::from(2);
        }
    };
    match fws::server::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fws::log::error(Default::default(), format_args!("{error}"));
            ExitCode::FAILURE
        }
    }
}
