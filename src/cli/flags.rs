//! Flags of the commands: one table for both parsing and help.

use getopts::{Fail, HasArg, Occur, Options, ParsingStyle};

use super::{Command, Stop};
use crate::config::{hint, nearest};

/// One flag.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// Placeholder of the value in help; empty for a switch.
    pub value: &'static str,
    /// What it means, and its default.
    pub about: &'static str,
}

pub(super) const WS: Flag = Flag {
    name: "ws",
    value: "ADDR:PORT",
    about: "where browsers connect, or none (0.0.0.0:8080)",
};
pub(super) const WS_UNIX: Flag = Flag {
    name: "ws-unix",
    value: "PATH",
    about: "also a unix socket for browsers; with --ws none only that (none)",
};
pub(super) const CONTROL: Flag =
    Flag { name: "control", value: "ADDR:PORT", about: "where back ends connect (127.0.0.1:8085)" };
pub(super) const CONTROL_UNIX: Flag =
    Flag { name: "control-unix", value: "PATH", about: "also a unix socket for back ends (none)" };
pub(super) const ADMIN: Flag =
    Flag { name: "admin", value: "ADDR:PORT", about: "where metrics and health are served (none)" };
pub(super) const DATA: Flag =
    Flag { name: "data", value: "DIR", about: "the data folder (./fws-data)" };
pub(super) const STORE: Flag = Flag {
    name: "store",
    value: "KIND",
    about: "redb: a file in the data folder; none: nothing is kept (redb)",
};
pub(super) const SYNC: Flag = Flag {
    name: "sync",
    value: "WHEN",
    about: "write states at once or within a time: always, 1s, … (always)",
};
pub(super) const CONFIG: Flag =
    Flag { name: "config", value: "FILE", about: "settings in a JSON file (none)" };
pub(super) const DEMO: Flag =
    Flag { name: "demo", value: "", about: "serve the demo page, for a namespace `demo`" };
pub(super) const ALLOW_ORIGIN: Flag = Flag {
    name: "allow-origin",
    value: "ORIGIN",
    about: "a site whose pages may connect, repeatable (any site)",
};
pub(super) const TRUSTED_PROXY: Flag = Flag {
    name: "trusted-proxy",
    value: "CIDR",
    about: "a proxy that may name client addresses, repeatable (none)",
};
pub(super) const LIMIT: Flag = Flag {
    name: "limit",
    value: "NAME=VALUE",
    about: "set a limit, repeatable (`fws check` lists them)",
};

/// Where a command finds the server.
pub(super) const AT_CONTROL: Flag = Flag {
    name: "control",
    value: "HOST:PORT",
    about: "the server's control port (FWS_LISTEN_CONTROL, 127.0.0.1:8085)",
};
pub(super) const AT_CONTROL_UNIX: Flag = Flag {
    name: "control-unix",
    value: "PATH",
    about: "its unix socket instead (FWS_LISTEN_CONTROL_UNIX, none)",
};
pub(super) const AT_WS: Flag = Flag {
    name: "ws",
    value: "HOST:PORT",
    about: "the server's port for browsers (FWS_LISTEN_WS, 127.0.0.1:8080)",
};
pub(super) const AT_ADMIN: Flag = Flag {
    name: "admin",
    value: "HOST:PORT",
    about: "the server's admin door (FWS_LISTEN_ADMIN, 127.0.0.1:8086)",
};
pub(super) const AT_WS_UNIX: Flag = Flag {
    name: "ws-unix",
    value: "PATH",
    about: "its unix socket instead (FWS_LISTEN_WS_UNIX, none)",
};
pub(super) const ORIGIN: Flag = Flag {
    name: "origin",
    value: "ORIGIN",
    about: "connect as a page of this site, if only some may connect (none)",
};
pub(super) const AT_DATA: Flag = Flag {
    name: "data",
    value: "DIR",
    about: "where the server keeps keys (FWS_DATA_DIR, ./fws-data)",
};
pub(super) const AT_CONFIG: Flag = Flag {
    name: "config",
    value: "FILE",
    about: "the server's JSON file, for all of these (FWS_CONFIG_FILE, none)",
};
pub(super) const KEY: Flag = Flag {
    name: "key",
    value: "KEY",
    about: "key of the namespace (FWS_NAMESPACE_KEY, or data folder)",
};
pub(super) const JSON: Flag = Flag { name: "json", value: "", about: "as one JSON object" };
pub(super) const USER: Flag =
    Flag { name: "user", value: "USER", about: "only for this user (everybody)" };

/// Flags of `serve` and `check`.
pub(super) const SERVE: [Flag; 13] = [
    WS,
    WS_UNIX,
    CONTROL,
    CONTROL_UNIX,
    ADMIN,
    DATA,
    STORE,
    SYNC,
    CONFIG,
    DEMO,
    ALLOW_ORIGIN,
    TRUSTED_PROXY,
    LIMIT,
];

/// Flags with their values, and the positional arguments.
pub(super) type Parsed = (Vec<(&'static str, String)>, Vec<String>);

/// Marks a negative number for getopts, which would take it for flags. No argument contains it.
const VALUE: char = '\0';

/// Parses the arguments after the command's name. `-` and a digit begin a value, never a flag: no
/// flag has such a name, and `fws set shop temperature -5` means what it says.
pub(super) fn parse(command: &'static Command, arguments: &[String]) -> Result<Parsed, Stop> {
    let mut options = Options::new();
    options.parsing_style(ParsingStyle::FloatingFrees);
    for flag in command.flags {
        let has = if flag.value.is_empty() { HasArg::No } else { HasArg::Yes };
        let is_list = [LIMIT, ALLOW_ORIGIN, TRUSTED_PROXY].iter().any(|it| it.name == flag.name);
        let occur = if is_list { Occur::Multi } else { Occur::Optional };
        options.opt("", flag.name, flag.about, flag.value, has, occur);
    }
    let marked = arguments.iter().map(|word| match is_negative(word) {
        true => format!("{VALUE}{word}"),
        false => word.clone(),
    });
    let matches =
        options.parse(marked).map_err(|fail| Stop::Usage(explain(command, fail, arguments)))?;
    let plain = |word: String| word.trim_start_matches(VALUE).to_owned();
    let mut flags = Vec::new();
    for flag in command.flags {
        if flag.value.is_empty() {
            flags.extend(matches.opt_present(flag.name).then(|| (flag.name, "true".to_string())));
        } else {
            flags.extend(
                matches.opt_strs(flag.name).into_iter().map(|value| (flag.name, plain(value))),
            );
        }
    }
    Ok((flags, matches.free.into_iter().map(plain).collect()))
}

fn is_negative(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn explain(command: &Command, fail: Fail, arguments: &[String]) -> String {
    // getopts reports names without dashes.
    let is_long = |name: &str| {
        let (words, flag) =
            (arguments.iter().take_while(|word| *word != "--"), format!("--{name}"));
        words.filter_map(|word| word.split('=').next()).any(|word| word == flag)
    };
    match fail {
        Fail::UnrecognizedOption(name) if name.chars().count() == 1 && !is_long(&name) => format!(
            "-{name}: there is no such flag; before words that begin with - write --, as in \
             `fws {} -- …`",
            command.name
        ),
        Fail::UnrecognizedOption(name) => {
            let near = nearest(&name, command.flags.iter().map(|flag| flag.name));
            let near = near.map(|near| format!("--{near}"));
            let see = format!(" (see `fws {} --help`)", command.name);
            let hint = near.map_or(see, |near| hint(Some(&near)));
            format!("--{name}: there is no such flag{hint}")
        }
        Fail::ArgumentMissing(name) => {
            let flag = command.flags.iter().find(|flag| flag.name == name);
            format!("--{name}: a value is missing: {}", flag.map_or("", |flag| flag.value))
        }
        Fail::OptionDuplicated(name) => format!("--{name}: comes twice"),
        Fail::UnexpectedArgument(name) => format!("--{name}: takes no value"),
        Fail::OptionMissing(name) => format!("--{name}: is missing"),
    }
}
