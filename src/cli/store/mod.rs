//! `fws store`: works on the store of a data folder. The commands read and write the files
//! themselves, and never contact a server. Only `check` and `export` work while one runs.

mod check;
mod export;
mod import;
mod importer;
mod line;
mod redis;
mod source;

use std::path::Path;

use super::flags::{CONFIG, DATA, Flag};
use super::session::count;
use super::{Call, Command, Stop, owner};
use crate::journal::store::OpenError;
use crate::time::{Clock, Now};

/// The group's name, which begins the names of all its commands.
pub(super) const NAME: &str = "store";

pub(super) const COMMAND: Command = Command {
    name: NAME,
    summary: "check, export and import the store of a data folder",
    usage: &["check [OPTION…]", "export [FILE] …", "import [FILE] …", "import-redis URL …"],
    about: "\
What is registered, granted and set is kept in one file of the data folder.
`check` and `export` read it, whether a server runs or not; the others write it
while no server uses it. `fws help store check` explains one of them.",
    flags: &[DATA, CONFIG],
    examples: &[
        ("fws store check --data /var/lib/fws", "is it intact?"),
        ("fws store export backup.jsonl", "a backup"),
    ],
    run: |call| Err(call.misused()),
};

pub(super) const COMMANDS: &[&Command] =
    &[&check::COMMAND, &export::COMMAND, &import::COMMAND, &redis::COMMAND];

const REPLACE: Flag =
    Flag { name: "replace", value: "", about: "a namespace that has another key gets the new one" };

/// What to tell other processes that want the folder's lock.
fn holder(call: &Call, now: Now) -> String {
    let (id, name, date) = (std::process::id(), call.command.name, now.unix.to_rfc3339());
    format!("process {id} (fws {name}), since {date}")
}

fn now() -> Now {
    Clock::new().now()
}

/// As [`failed`], where the folder or its files may belong to another user.
fn unopened(call: &Call, data: &Path, error: impl Into<OpenError>) -> Stop {
    match error.into() {
        OpenError::Io(error) => owner::unreadable(call, data, &error),
        error => failed(error),
    }
}

fn failed(error: impl Into<OpenError>) -> Stop {
    Stop::Failed(error.into().to_string())
}
