//! The log: one line to standard error, in one write, and no line can break or stop the server.
//! Owns the form of a line. It is never given a key, token or payload. Called by the server and by
//! `fws serve`; the other commands speak to a person and do not log.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::io::{self, Write};
use std::panic::{self, Location};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::time::{Clock, UnixMillis};

/// Longest line in bytes with its newline: what a pipe takes undivided (PIPE_BUF on Linux).
const LINE_BYTES: usize = 4096;

/// Lines that were lost since the last one that was written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Whether the last write ended in the middle of a line, as when a disk becomes full.
static IS_HALF: AtomicBool = AtomicBool::new(false);

thread_local! {
    static IS_MUTED: Cell<bool> = const { Cell::new(false) };
}

/// Writes `2026-11-23T22:19:08Z fws: message`.
pub fn info(at: UnixMillis, message: fmt::Arguments<'_>) {
    write(&line(at, "", message), "");
}

/// Writes `2026-11-23T22:19:08Z fws: warning: message`: something an operator should look at.
pub fn warning(at: UnixMillis, message: fmt::Arguments<'_>) {
    write(&line(at, "warning: ", message), "<4>");
}

/// Writes `2026-11-23T22:19:08Z fws: error: message`: something does not work.
pub fn error(at: UnixMillis, message: fmt::Arguments<'_>) {
    write(&line(at, "error: ", message), "<3>");
}

/// A number with its noun, singular and plural: `1 change`, `2 changes`.
#[derive(Clone, Copy, Debug)]
pub struct Count(pub u64, pub &'static str, pub &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(count, one, several) = self;
        write!(f, "{count} {}", if *count == 1 { one } else { several })
    }
}

/// Log lines of an event that may cause a hundred thousand of them: the first are written, and then
/// how many more there are.
#[derive(Debug)]
pub struct News {
    prefix: &'static str,
    at: UnixMillis,
    count: usize,
}

impl News {
    const WRITTEN_MAX: usize = 20;

    /// Starts with no lines. Each will begin with `prefix`.
    pub fn new(prefix: &'static str, at: UnixMillis) -> News {
        News { prefix, at, count: 0 }
    }

    /// Writes one more line, or only counts it.
    pub fn tell(&mut self, message: fmt::Arguments<'_>) {
        self.count += 1;
        if self.count <= News::WRITTEN_MAX {
            info(self.at, format_args!("{}{message}", self.prefix));
        }
    }

    /// Writes how many more lines there were; returns the number of all.
    pub fn end(self) -> usize {
        let more = self.count.saturating_sub(News::WRITTEN_MAX);
        if more > 0 {
            info(self.at, format_args!("{}and {more} more like these", self.prefix));
        }
        self.count
    }
}

/// Mutes the log lines of this thread, or unmutes them: nobody wants to read about simulated days.
pub(crate) fn mute(is_muted: bool) {
    IS_MUTED.set(is_muted);
}

/// Has each panic of any thread logged as one line: its place, and its message if that is a literal
/// in the source. A message formatted at run time may contain what a peer has sent.
pub fn tell_panics() {
    panic::set_hook(Box::new(|panic| {
        let message = panic_message(panic.location(), panic.payload());
        error(Clock::new().now().unix, format_args!("{message}"));
    }));
}

fn panic_message(place: Option<&Location<'_>>, payload: &(dyn Any + Send)) -> String {
    let place = place.map_or("an unknown place".into(), ToString::to_string);
    let said = payload.downcast_ref::<&'static str>().map_or(String::new(), |s| format!(": {s}"));
    format!("panic at {place}{said}; this is a fault of fws, please report it")
}

/// Whether standard error is the systemd journal, by the test given in systemd.exec(5). The journal
/// takes the priority of a line from a prefix such as `<4>` (sd-daemon(3)).
fn is_journal() -> bool {
    static IS_JOURNAL: OnceLock<bool> = OnceLock::new();
    *IS_JOURNAL.get_or_init(|| {
        let named = std::env::var("JOURNAL_STREAM");
        let stat = rustix::fs::fstat(io::stderr()).ok();
        let found = stat.map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
        found.is_some() && found == named.ok()
    })
}

/// Writes a line. A closed or full standard error must neither stop the server nor block it: a line
/// that cannot be written is lost, and the next one that can says how many were. `priority` is for
/// the journal only.
fn write(line: &str, priority: &str) {
    if IS_MUTED.get() {
        return;
    }
    // The journal adds the time and the name itself.
    let line = &match line.split_once(" fws: ") {
        Some((_, said)) if is_journal() => [priority, said].concat(),
        _ => line.to_owned(),
    };
    let mut stderr = io::stderr();
    if !is_taken(&stderr) {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let lost = LOST.swap(0, Ordering::Relaxed);
    let text = match lost {
        0 => line,
        _ => &with_lost(line, lost, if is_journal() { "<4>" } else { "fws: " }),
    };
    // One write: a pipe that is ready takes it as a whole. For the rest of a line another write,
    // which might block, is not worth it.
    let count = stderr.write(text.as_bytes()).unwrap_or(0);
    if count < text.len() {
        // The text before the line reports the earlier losses, if it has been written completely.
        let told = text.len().saturating_sub(line.len());
        let before = if count < told { lost } else { 0 };
        LOST.fetch_add(before + 1, Ordering::Relaxed);
    }
    if count > 0 {
        IS_HALF.store(count < text.len(), Ordering::Relaxed);
    }
}

/// Whether a write would return at once, because it is taken or because it fails.
fn is_taken(stderr: &io::Stderr) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(stderr, PollFlags::OUT)], Some(&at_once)) {
            // Interrupted by a signal: try again.
            Err(Errno::INTR) => {}
            ready => return ready.is_ok_and(|count| count > 0),
        }
    }
}

/// Prepends a warning about the lost lines; no longer in all than a line may be.
fn with_lost(line: &str, lost: u64, start: &str) -> String {
    let end_of_half = if IS_HALF.load(Ordering::Relaxed) { "\n" } else { "" };
    let lines = Count(lost, "line of the log is", "lines of the log are");
    let mut all = format!("{end_of_half}{start}warning: {lines} lost, nobody took them\n{line}");
    if all.len() > LINE_BYTES {
        let end = (0..LINE_BYTES).rev().find(|end| all.is_char_boundary(*end));
        all.truncate(end.unwrap_or_default());
        all.push('\n');
    }
    all
}

/// Escapes text from outside, so that it can neither move the cursor nor start a new line.
pub fn printable(text: &str) -> String {
    let escape = |c: char| if is_command(c) { c.escape_default().collect() } else { vec![c] };
    text.chars().flat_map(escape).collect()
}

/// Whether a terminal may obey it (as U+0080 to U+009F), or a program take it for a line end.
pub(crate) fn is_command(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Formats one line of at most [`LINE_BYTES`]. Control characters are escaped: a name that a peer
/// chose can neither forge a second line nor move the reader's cursor.
fn line(at: UnixMillis, kind: &str, message: fmt::Arguments<'_>) -> String {
    let mut line = format!("{} fws: {kind}", at.to_rfc3339());
    for c in message.to_string().chars() {
        if line.len() + "\\u{10ffff}\n".len() > LINE_BYTES {
            break;
        }
        if is_command(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_singular_or_plural() {
        let told = [0, 1, 2].map(|count| Count(count, "socket was", "sockets were").to_string());
        assert_eq!(told, ["0 sockets were", "1 socket was", "2 sockets were"]);
    }

    #[test]
    fn a_panic_message_has_its_location_and_no_data_of_peers() {
        let place = Location::caller();
        let (line, column) = (place.line(), place.column());
        let message_of = |payload: &(dyn Any + Send)| panic_message(Some(place), payload);
        let start = format!("panic at src/log.rs:{line}:{column}");
        let end = "; this is a fault of fws, please report it";
        assert_eq!(message_of(&"left without right"), format!("{start}: left without right{end}"));
        assert_eq!(message_of(&String::from("a token of somebody")), format!("{start}{end}"));
    }

    #[test]
    fn lost_lines_are_reported_before_the_next_line() {
        let start = "fws: warning: 7 lines of the log are lost, nobody took them\n";
        assert_eq!(with_lost("a line\n", 7, "fws: "), format!("{start}a line\n"));
        let long = with_lost(&"é".repeat(LINE_BYTES), 7, "fws: ");
        assert!(long.len() <= LINE_BYTES && long.starts_with(start) && long.ends_with("é\n"));
    }

    #[test]
    fn a_message_is_logged_as_one_line_of_bounded_length() {
        let at = UnixMillis(1_795_472_348_999);
        assert_eq!(
            line(at, "warning: ", format_args!("é\nx\u{1b}[2J")),
            "2026-11-23T22:19:08Z fws: warning: é\\nx\\u{1b}[2J\n"
        );
        let long = line(at, "", format_args!("{}", "é\0".repeat(5000)));
        assert!(long.len() <= LINE_BYTES && long.len() > LINE_BYTES - 32 && long.ends_with('\n'));
    }
}
