//! What a command says. Never panics: a closed standard output ends the command, a closed standard
//! error is nobody's loss.

use std::io::{self, ErrorKind, Write};

use super::Stop;

/// Writes to standard output at once.
pub(super) fn out(text: &str) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Stop::Closed,
        _ => Stop::Failed(format!("cannot write to standard output: {e}")),
    })
}

/// Says something to the person, on standard error, without disturbing the output.
pub(super) fn tell(line: &str) {
    let _ = io::stderr().write_all(format!("fws: {line}\n").as_bytes());
}

/// A text from elsewhere, such that it can neither move the cursor nor begin a line.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { vec![c] };
    text.chars().flat_map(escape).collect()
}
