//! The server on a slow journal: every change is ordered some turns after it was proposed, and
//! durable still later. The protocol tests run on it as on the real one (`make test`); it takes the
//! flags of `fws serve`.

use std::process::ExitCode;

use fws::config::{Config, ConfigFile};
use fws::journal::DelayedJournal;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let flags: Vec<(&str, &str)> = arguments
        .chunks_exact(2)
        .map(|pair| (pair[0].trim_start_matches("--"), pair[1].as_str()))
        .collect();
    let environment: Vec<(String, String)> = std::env::vars().collect();
    let load = || Config::load(&flags, &environment, ConfigFile::read);
    let config = match load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let reread = || load().map_err(|error| error.to_string());
    match fws::server::run_with(config, DelayedJournal::new(42, 0), &reread) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
