//! The command line under test: runs the binary, and takes down what it says and where.

use std::process::{Command, Stdio};

use super::server::{DEMO_KEY, Server};

/// What a command has done.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub out: String,
    /// And to standard error.
    pub err: String,
}

/// A command in an environment of its own.
pub fn fws(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fws"));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    forget_settings(&mut command);
    command
}

/// Takes the settings of whoever runs the tests out of a command's environment.
pub fn forget_settings(command: &mut Command) {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.to_string_lossy().starts_with("FWS_")).for_each(|name| {
        command.env_remove(name);
    });
}

/// Runs it to its end.
pub fn run(mut command: Command) -> Ran {
    let output = command.output().expect("the binary starts");
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Succeeds without a word on standard error; its output.
#[track_caller]
pub fn good(command: Command) -> String {
    let ran = run(command);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    ran.out
}

/// Fails with this code, one line on standard error and nothing on standard output.
#[track_caller]
pub fn bad(command: Command, code: i32) -> String {
    let ran = run(command);
    assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{ran:?}");
    let line = ran.err.strip_prefix("fws: ").and_then(|line| line.strip_suffix('\n'));
    let line = line.unwrap_or_else(|| panic!("{ran:?}"));
    assert!(!line.contains('\n'), "{line}");
    line.to_string()
}

/// A command that finds this server, and the keys in its data folder.
pub fn at(server: &Server, words: &[&str]) -> Command {
    let mut command = fws(words);
    command.env("FWS_LISTEN_CONTROL", server.control.to_string());
    command.env("FWS_LISTEN_WS", server.ws.to_string());
    command.env("FWS_DATA_DIR", server.dir().file("data"));
    command
}

/// The same, acting in the namespace `demo`.
pub fn demo(server: &Server, words: &[&str]) -> Command {
    let mut command = at(server, words);
    command.env("FWS_NAMESPACE_KEY", DEMO_KEY);
    command
}
