//! The log: one line to standard error, in one write, and no line can break or stop the server.
//! Owns the form of a line. No key, token or payload is ever handed to it. Called by the server
//! and by `fws serve`; the other commands speak to a person and do not log.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};

use crate::time::UnixMillis;

/// Longest line in bytes with its newline: what a pipe takes undivided (PIPE_BUF on Linux).
const LINE_BYTES: usize = 4096;

thread_local! {
    static IS_MUTED: Cell<bool> = const { Cell::new(false) };
}

/// Writes `2026-11-23T22:19:08Z fws: message`.
pub fn info(at: UnixMillis, message: fmt::Arguments<'_>) {
    write(&line(at, "", message));
}

/// Writes `2026-11-23T22:19:08Z fws: warning: message`: something an operator should look at.
pub fn warning(at: UnixMillis, message: fmt::Arguments<'_>) {
    write(&line(at, "warning: ", message));
}

/// Writes `2026-11-23T22:19:08Z fws: error: message`: something does not work.
pub fn error(at: UnixMillis, message: fmt::Arguments<'_>) {
    write(&line(at, "error: ", message));
}

/// From now on the lines of this thread are dropped, or written again: simulated days are nobody's
/// news.
pub(crate) fn mute(is_muted: bool) {
    IS_MUTED.set(is_muted);
}

/// A closed or full standard error is no reason to stop serving, and there is nobody to tell.
fn write(line: &str) {
    if IS_MUTED.get() {
        return;
    }
    let _ = io::stderr().write_all(line.as_bytes());
}

/// One line of at most [`LINE_BYTES`]. Control characters are escaped: a name that a peer chose
/// can neither forge a second line nor move the cursor of who reads the first.
fn line(at: UnixMillis, kind: &str, message: fmt::Arguments<'_>) -> String {
    let mut line = format!("{} fws: {kind}", at.to_rfc3339());
    for c in message.to_string().chars() {
        if line.len() + "\\u{10ffff}\n".len() > LINE_BYTES {
            break;
        }
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_is_in_it() {
        let at = UnixMillis(1_795_472_348_999);
        assert_eq!(
            line(at, "warning: ", format_args!("é\nx\u{1b}[2J")),
            "2026-11-23T22:19:08Z fws: warning: é\\nx\\u{1b}[2J\n"
        );
        let long = line(at, "", format_args!("{}", "é\0".repeat(5000)));
        assert!(long.len() <= LINE_BYTES && long.len() > LINE_BYTES - 32 && long.ends_with('\n'));
    }
}
