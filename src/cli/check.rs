//! `fws check`: the configuration with which `fws serve` would run.

use std::io::ErrorKind;

use super::flags::{Flag, JSON, SERVE};
use super::output::{out, printable_json, tell};
use super::{Call, Command, Stop};
use crate::keys;
use crate::server::fit_memory;

const QUIET: Flag = Flag { name: "quiet", value: "", about: "print errors only, no warnings" };

/// The flags of `serve`, and two more.
const FLAGS: [Flag; SERVE.len() + 2] = {
    let mut flags = [JSON; SERVE.len() + 2];
    let (serve, more) = flags.split_at_mut(SERVE.len());
    serve.copy_from_slice(&SERVE);
    more.copy_from_slice(&[JSON, QUIET]);
    flags
};

pub(super) const COMMAND: Command = Command {
    name: "check",
    summary: "check the configuration and show it with every limit",
    usage: &["[OPTION…]"],
    about: "\
Takes the same flags, environment and file as `fws serve`, but starts nothing.
Also checks the server key in the data folder, if it may read it.
Shows each setting with its value and its source, and each limit with its
meaning. A limit that is `fitted` was lowered to the memory or to another limit,
because nothing sets it. The name of a limit ends in its unit. Keys are not shown.

Exit code 0: everything is right; 2: something is wrong, and a line says what.",
    flags: &FLAGS,
    examples: &[
        ("fws check --config fws.json", "is the file right, and what does it set?"),
        ("fws check --json --limit message_bytes=32768", "the same for a program"),
        (
            "fws check --quiet --config fws.json && kill -HUP 4711",
            "reload only if the file is right",
        ),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [] = call.words()?;
    let mut config = call.config()?;
    let server_key = match keys::checked_server_key(&config) {
        Err(error) if error.kind() != ErrorKind::PermissionDenied => {
            return Err(Stop::Usage(error.to_string()));
        }
        // A caller who may not read the key is not the server's user: the server itself can.
        read => read.ok().flatten(),
    };
    if call.flag(QUIET.name).is_some() {
        return Ok(());
    }
    // Limits that exceed the machine's memory are shown as reduced, with a warning: not an error.
    let fitted = fit_memory(&mut config).filter(|fitted| fitted.is_warning);
    let fitted = fitted.map(|fitted| fitted.text);
    let of_key = server_key.map(|key| keys::server_key_warnings(&config, &key));
    config.warnings.extend(fitted.into_iter().chain(of_key.into_iter().flatten()));
    for warning in &config.warnings {
        tell(&format!("warning: {warning}"));
    }
    match call.flag(JSON.name) {
        Some(_) => out(&(printable_json(&config.to_json()) + "\n")),
        None => out(&config.to_text()),
    }
}
