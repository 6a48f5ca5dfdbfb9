//! `fws stat`: the metrics of a running server, in a terminal.

mod screen;

use std::env;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use rustix::termios::tcgetwinsize;

use super::flags::{AT_ADMIN, AT_CONFIG, Flag};
use super::output::{number, out, out_json, printable};
use super::session::place;
use super::{Call, Command, Stop};
use crate::client::{Address, ClientError, page};
use crate::codec::prometheus::{Sample, parse};
use crate::time::Stopwatch;
use screen::{Reading, Size, cut, screen};

/// The default address of the admin listener.
const ADDRESS: &str = "127.0.0.1:8086";

/// Interval between readings.
const REFRESH: Duration = Duration::from_secs(1);

/// Terminal escapes: cursor home with line wrap off, so that wider lines than expected are cut;
/// clear the line; clear the rest of the screen; line wrap on.
const HOME: &str = "\x1b[H\x1b[?7l";
const LINE: &str = "\x1b[K";
const REST: &str = "\x1b[J";
const WRAP: &str = "\x1b[?7h";

const ONCE: Flag = Flag { name: "once", value: "", about: "print once and exit, without rates" };
const JSON: Flag =
    Flag { name: "json", value: "", about: "one JSON object a line, with every number" };

pub(super) const COMMAND: Command = Command {
    name: "stat",
    summary: "show the metrics of a server, live",
    usage: &["[OPTION…]"],
    about: "\
Shows how many are connected, what is published and delivered, how long turns of
the event loop and batches of the store take, and the busiest namespaces; again
each second, with rates, until Ctrl-C. Needs the server's admin door: start it
with `fws serve --admin 127.0.0.1:8086`. Times of turns are upper bounds, known
only to within a bucket of the histogram. A narrow terminal gets one column, a low
one the first lines; with TERM=dumb, or in a pipe, it prints again and again.

Exit code 1 if there is no admin door, or it has gone.",
    flags: &[AT_ADMIN, ONCE, JSON, AT_CONFIG],
    examples: &[
        ("fws stat", "the server on this machine, live"),
        ("fws stat --once --json", "every number once, for a program"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [] = call.words()?;
    let config = call.client_config()?;
    let address = match (call.flag(AT_ADMIN.name), config.admin) {
        (Some(address), _) => Address::Tcp(place(&AT_ADMIN, address)?.into()),
        (None, Some(address)) => Address::to_reach(address),
        (None, None) => Address::Tcp(ADDRESS.into()),
    };
    let (is_once, is_json) = (call.flag(ONCE.name).is_some(), call.flag(JSON.name).is_some());
    let is_dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let is_screen = !is_once && !is_json && !is_dumb && stdout().is_terminal();
    let mut before: Option<(Reading, Stopwatch)> = None;
    loop {
        let (watch, samples) = (Stopwatch::start(), look(&address)?);
        if is_json {
            out_json(&members(&samples))?;
        } else {
            let reading = Reading::new(samples);
            let elapsed = before.as_ref().map(|(before, watch)| (before, watch.elapsed_us()));
            let size = size();
            let text = screen(&address.to_string(), &reading, elapsed, size.columns);
            out(&if is_screen { drawn(&cut(&text, size)) } else { text })?;
            before = Some((reading, watch));
        }
        if is_once {
            return Ok(());
        }
        if !is_screen && !is_json {
            out("\n")?;
        }
        pause(REFRESH);
    }
}

/// Redraws the screen. A line is cleared before it is written: after a line as wide as the screen,
/// the cursor is still on its last character.
fn drawn(text: &str) -> String {
    let text = text.trim_end();
    let (lines, last) = text.rsplit_once('\n').unwrap_or(("", text));
    let lines: String = lines.lines().map(|line| format!("{LINE}{line}\n")).collect();
    format!("{HOME}{lines}{REST}{last}{WRAP}")
}

/// The terminal's size now; 80 by 24 if it is unknown.
fn size() -> Size {
    let known = tcgetwinsize(stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    known.map_or(Size { columns: 80, lines: 24 }, |size| Size {
        columns: size.ws_col.into(),
        lines: size.ws_row.into(),
    })
}

/// Sleeps. Nothing unparks this thread, but `park_timeout` may return early.
fn pause(time: Duration) {
    let watch = Stopwatch::start();
    while let Some(left) = time.checked_sub(Duration::from_micros(watch.elapsed_us()))
        && !left.is_zero()
    {
        std::thread::park_timeout(left);
    }
}

/// Reads all metrics.
fn look(address: &Address) -> Result<Vec<Sample>, Stop> {
    let foreign = |what: &str| {
        Stop::Failed(format!(
            "{address} is no admin door: {what}; --admin takes the address that `fws serve` was \
             given as --admin"
        ))
    };
    let (status, body) = page(address, "/metrics").map_err(|e| match e {
        ClientError::Lost => foreign("it closed without an answer, as the port for back ends does"),
        ClientError::Connect(..) => Stop::Failed(format!(
            "no admin door at {address}: start the server with `fws serve --admin {ADDRESS}`, and \
             say here with --admin where it is"
        )),
        e => Stop::Failed(format!("{address}: {e}")),
    })?;
    if status != 200 {
        return Err(foreign(&format!("it answers {status} when asked for /metrics")));
    }
    let samples = parse(&body).ok_or_else(|| foreign("what it says are no metrics"))?;
    if samples.iter().all(|sample| sample.name != "fws_build_info") {
        return Err(foreign("what it says are no metrics of ours"));
    }
    Ok(samples)
}

/// The samples as JSON members, each named as Prometheus writes it.
fn members(samples: &[Sample]) -> Vec<(String, String)> {
    let member = |Sample { name, labels, value }: &Sample| {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        let key = match labels.is_empty() {
            true => name.clone(),
            false => format!("{name}{{{}}}", labels.join(",")),
        };
        (printable(&key), number(*value))
    };
    samples.iter().map(member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::object;

    #[test]
    fn every_sample_is_a_json_member_named_with_its_labels() {
        let text = "a_total 5\nb{x=\"1\"} 0.25\nb{x=\"\u{1b}\"} 1\n";
        let text = object(&members(&parse(text).unwrap()));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["a_total"], 5);
        assert_eq!(value["b{x=\"1\"}"], 0.25);
        assert_eq!(value["b{x=\"\\u{1b}\"}"], 1);
    }
}
