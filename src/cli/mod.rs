//! The command line: argv → a command, a checked `Config` → its work, an exit code. Owns the words
//! a person reads; speaks to a running server only through its ports ([`crate::client`]). Called
//! by `main`.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. A closed standard output ends a command quietly;
//! errors are one line on standard error.

mod bench;
mod check;
mod disconnect;
mod doctor;
mod emit;
mod flags;
mod get;
mod grant;
mod help;
mod info;
mod output;
mod owner;
mod push;
mod register;
mod remove;
mod revoke;
mod rotate;
mod serve;
mod session;
mod set;
mod stat;
mod store;
mod token;
mod watch;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use crate::config::{Config, ConfigFile, hint, nearest};

use flags::Flag;
use output::{out, tell};

/// One sub-command: help, arguments and implementation.
struct Command {
    name: &'static str,
    /// One line for the list of commands.
    summary: &'static str,
    /// The arguments after the name, one form per line.
    usage: &'static [&'static str],
    /// Help in a paragraph or two.
    about: &'static str,
    flags: &'static [Flag],
    /// Full command lines, each with what it does.
    examples: &'static [(&'static str, &'static str)],
    run: fn(&Call) -> Result<(), Stop>,
}

const COMMANDS: &[&Command] = &[
    &serve::COMMAND,
    &check::COMMAND,
    &register::COMMAND,
    &rotate::COMMAND,
    &remove::COMMAND,
    &token::COMMAND,
    &emit::COMMAND,
    &set::COMMAND,
    &push::COMMAND,
    &get::COMMAND,
    &info::COMMAND,
    &grant::COMMAND,
    &revoke::COMMAND,
    &disconnect::COMMAND,
    &watch::COMMAND,
    &stat::COMMAND,
    &bench::COMMAND,
    &doctor::COMMAND,
    &store::COMMAND,
];

/// Why a command ends before it is done.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// Wrong usage: exit 2.
    Usage(String),
    /// It did not work: exit 1.
    Failed(String),
    /// The reader of standard output is gone: exit 0.
    Closed,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Usage(line) | Stop::Failed(line) => f.write_str(line),
            Stop::Closed => Ok(()),
        }
    }
}

/// One command line, parsed. Not `Debug`: it may hold a key.
struct Call {
    command: &'static Command,
    /// Names without dashes; the value of a switch is `true`.
    flags: Vec<(&'static str, String)>,
    words: Vec<String>,
    environment: Vec<(String, String)>,
}

/// Runs the command line (without the program name) in the given environment.
pub fn main(
    arguments: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> ExitCode {
    let (line, code) = match run(arguments, environment) {
        Ok(()) | Err(Stop::Closed) => return ExitCode::SUCCESS,
        Err(Stop::Usage(line)) => (line, 2),
        Err(Stop::Failed(line)) => (line, 1),
    };
    tell(&line);
    ExitCode::from(code)
}

fn run(
    arguments: impl Iterator<Item = OsString>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<(), Stop> {
    let arguments = arguments.map(text).collect::<Result<Vec<String>, Stop>>()?;
    let Some((first, rest)) = arguments.split_first() else {
        return out(&help::overview());
    };
    match first.as_str() {
        "--help" | "-h" | "help" => match rest {
            [] => out(&help::overview()),
            words => out(&help::command(find(words)?.0)),
        },
        "--version" | "-V" | "version" => out(concat!("fws ", env!("CARGO_PKG_VERSION"), "\n")),
        flag if flag.starts_with('-') => {
            let name = flag.trim_start_matches('-').split('=').next();
            let is_known = flags::SERVE.iter().any(|known| Some(known.name) == name);
            let example =
                if is_known { format!(", as in `fws serve {flag}`") } else { String::new() };
            Err(Stop::Usage(format!("{flag}: a command comes first{example} (see `fws --help`)")))
        }
        _ => {
            let (command, rest) = find(&arguments)?;
            if rest.iter().take_while(|word| *word != "--").any(|w| w == "--help" || w == "-h") {
                return out(&help::command(command));
            }
            let (flags, words) = flags::parse(command, rest)?;
            let environment = ours(environment)?;
            (command.run)(&Call { command, flags, words, environment })
        }
    }
}

/// The command that these words name, and the remaining words.
fn find(words: &[String]) -> Result<(&'static Command, &[String]), Stop> {
    let (first, rest) = words.split_first().map_or(("", words), |(first, rest)| (first, rest));
    let command = named(first, COMMANDS, "")?;
    match rest.split_first() {
        Some((second, rest)) if command.name == store::NAME && !second.starts_with('-') => {
            Ok((named(second, store::COMMANDS, store::NAME)?, rest))
        }
        _ => Ok((command, rest)),
    }
}

/// Looks up a command by name, within a group if there is one: its commands are `GROUP NAME`.
fn named(word: &str, commands: &[&'static Command], group: &str) -> Result<&'static Command, Stop> {
    let names = || {
        commands.iter().map(|this| this.name.strip_prefix(group).map_or(this.name, str::trim_start))
    };
    let place = names().position(|name| name == word);
    place.and_then(|place| commands.get(place).copied()).ok_or_else(|| {
        let gap = if group.is_empty() { "" } else { " " };
        let hint = match nearest(word, names()) {
            Some(near) => hint(Some(near)),
            None => format!(" (see `fws {group}{gap}--help`)"),
        };
        Stop::Usage(format!("there is no command \"{group}{gap}{word}\"{hint}"))
    })
}

/// The `FWS_*` variables of the environment, as text.
fn ours(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Stop> {
    environment
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with("FWS_"))
        .map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(Stop::Usage(format!("{name}: the value is not UTF-8"))),
        })
        .collect()
}

fn text(argument: OsString) -> Result<String, Stop> {
    argument.into_string().map_err(|wrong| {
        Stop::Usage(format!("the argument {:?} is not UTF-8", wrong.to_string_lossy()))
    })
}

impl Call {
    /// The value of a flag, if it was given.
    fn flag(&self, name: &str) -> Option<&str> {
        self.flags.iter().find(|(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// The configuration from flags, environment and file.
    fn config(&self) -> Result<Config, Stop> {
        self.config_of(|_| true, ConfigFile::read)
    }

    /// The same, for a reload.
    fn config_again(&self) -> Result<Config, Stop> {
        self.config_of(|_| true, ConfigFile::read_again)
    }

    /// The configuration without the address flags: to a client command they say where to connect,
    /// and may contain host names.
    fn client_config(&self) -> Result<Config, Stop> {
        let places = [flags::AT_WS, flags::AT_CONTROL, flags::AT_ADMIN];
        let wanted = |name: &str| places.iter().all(|flag| flag.name != name);
        self.config_of(wanted, ConfigFile::read)
    }

    /// The configuration, with only the flags that `wanted` accepts.
    fn config_of(
        &self,
        wanted: impl Fn(&str) -> bool,
        read: fn(&Path) -> io::Result<ConfigFile>,
    ) -> Result<Config, Stop> {
        let flags: Vec<(&str, &str)> = self
            .flags
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        Config::load(&flags, &self.environment, read).map_err(|e| Stop::Usage(e.to_string()))
    }

    /// The positional arguments, which must be exactly `N`.
    fn words<const N: usize>(&self) -> Result<[&str; N], Stop> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        words.try_into().map_err(|_| self.misused())
    }

    /// The error for wrong positional arguments.
    fn misused(&self) -> Stop {
        Stop::Usage(help::usage(self.command))
    }
}
