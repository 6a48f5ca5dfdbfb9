//! The command line under test: runs the binary, and captures its output.

use std::process::{Command, Stdio};

use super::server::{DEMO_KEY, Server};

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

/// A command without the `FWS_*` variables of the environment.
pub fn fws(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fws"));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    forget_settings(&mut command);
    command
}

/// Removes the settings of the developer's environment from a command.
pub fn forget_settings(command: &mut Command) {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.to_string_lossy().starts_with("FWS_")).for_each(|name| {
        command.env_remove(name);
    });
}

/// Runs a command to its end.
pub fn run(mut command: Command) -> Ran {
    let output = command.output().expect("the binary starts");
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Asserts success with nothing on standard error; returns the output.
#[track_caller]
pub fn good(command: Command) -> String {
    let ran = run(command);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    ran.out
}

/// Asserts failure with this code and nothing but one line on standard error; returns the line.
#[track_caller]
pub fn bad(command: Command, code: i32) -> String {
    let ran = run(command);
    assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{ran:?}");
    let line = ran.err.strip_prefix("fws: ").and_then(|line| line.strip_suffix('\n'));
    let line = line.unwrap_or_else(|| panic!("{ran:?}"));
    assert!(!line.contains('\n'), "{line}");
    line.to_string()
}

/// A command that is configured for this server, and the keys in its data folder.
pub fn at(server: &Server, words: &[&str]) -> Command {
    let mut command = fws(words);
    command.env("FWS_LISTEN_CONTROL", server.control.to_string());
    command.env("FWS_LISTEN_WS", server.ws.to_string());
    command.env("FWS_DATA_DIR", server.dir().file("data"));
    command
}

/// The same, with the key of namespace `demo`.
pub fn demo(server: &Server, words: &[&str]) -> Command {
    let mut command = at(server, words);
    command.env("FWS_NAMESPACE_KEY", DEMO_KEY);
    command
}
