//! `fws store import`: imports lines of JSON into the store, all of them or none.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use super::importer::{Importer, Refused};
use super::line::Line;
use super::{REPLACE, holder, now};
use crate::cli::flags::{CONFIG, DATA, LIMIT};
use crate::cli::output::out;
use crate::cli::{Call, Command, Stop, owner};
use crate::hub::StateKey;
use crate::limits::Limits;

pub(super) const COMMAND: Command = Command {
    name: "store import",
    summary: "take lines of JSON into the store",
    usage: &["[FILE] [OPTION…]"],
    about: "\
Reads what `fws store export` has written, from FILE, or from standard input
without one or with `-`, into the store, which is created if there is none. If a
line is wrong, its number is printed and nothing is changed.

Grants and states are added to the existing ones; of two for the same place, the
last one counts. Expired states are left out, and so is what belongs to a user
with an empty name. A namespace that exists with another key is an error, unless
--replace is given; a key of it that is kept in the data folder for the commands
is replaced as well. Other kept keys stay, with a warning if they open nothing.
The limits of the server apply: names, states, and how many there may be.

No server may use the folder meanwhile. Run it as the server's user: root is
refused if the folder belongs to another user.",
    flags: &[REPLACE, DATA, CONFIG, LIMIT],
    examples: &[
        ("fws store import backup.jsonl --data /var/lib/fws", "restore a backup"),
        ("ssh old fws store export | fws store import", "directly from another machine"),
    ],
    run,
};

/// Most bytes of a line beside its names and its state: the members' own names, and keys.
const LINE_BYTES: usize = 65_536;

fn run(call: &Call) -> Result<(), Stop> {
    let file = match call.words.as_slice() {
        [] => "-",
        [file] => file.as_str(),
        _ => return Err(call.misused()),
    };
    let (config, now) = (call.config()?, now());
    let (name, mut input): (&str, Box<dyn BufRead>) = match file {
        "-" => ("standard input", Box::new(io::stdin().lock())),
        _ => {
            let file =
                File::open(file).map_err(|e| Stop::Failed(format!("cannot read {file}: {e}")))?;
            (call.words[0].as_str(), Box::new(BufReader::new(file)))
        }
    };
    owner::refuse_root(call, &config.data)?;
    let is_replacing = call.flag(REPLACE.name).is_some();
    let mut importer = Importer::start(&config, &holder(call, now), now, is_replacing)?;
    read(&mut *input, name, &config.limits, &mut importer)?;
    out(&importer.finish()?)
}

/// Reads all lines into the importer.
fn read(
    input: &mut dyn BufRead,
    name: &str,
    limits: &Limits,
    importer: &mut Importer,
) -> Result<(), Stop> {
    // JSON may escape each byte of a name as six.
    let line_max = limits.state_bytes + 18 * limits.name_bytes + LINE_BYTES;
    let (mut line, mut number) = (Vec::new(), 0_u64);
    let (mut has_start, mut has_end) = (false, false);
    loop {
        line.clear();
        number += 1;
        let place = || format!("{name}: line {number}");
        let wrong = |what: &str| Stop::Failed(format!("{}: {what}", place()));
        let mut bounded = Read::take(&mut *input, line_max as u64 + 1);
        let read = bounded.read_until(b'\n', &mut line);
        if read.map_err(|e| wrong(&e.to_string()))? == 0 {
            break;
        }
        let text = str::from_utf8(&line).map_err(|_| wrong("this is not UTF-8"))?;
        if text.len() > line_max {
            let text = format!("longer than {line_max} bytes (limit state_bytes)");
            return Err(wrong(&text));
        }
        let text = text.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let parsed = Line::parse(text).map_err(|what| wrong(&what))?;
        if has_end {
            return Err(wrong("nothing may follow the last line of an export"));
        }
        match parsed {
            Line::Start if !has_start => has_start = true,
            _ if !has_start => {
                let first = "an export begins with {\"fws\":\"export\",\"version\":1}";
                return Err(wrong(first));
            }
            Line::End => has_end = true,
            line => take(line, importer).map_err(|refused| refused.at(place))?,
        }
    }
    if !has_end {
        return Err(Stop::Failed(format!(
            "{name}: the last line, {{\"fws\":\"end\"}}, is missing: this is not all of an export"
        )));
    }
    Ok(())
}

fn take(line: Line<'_>, importer: &mut Importer) -> Result<(), Refused> {
    match line {
        Line::Start => Err("an export begins but once".to_owned().into()),
        Line::End => Ok(()),
        Line::Namespace(namespace) => importer.namespace(namespace),
        Line::Grant { namespace, channel, user } => importer.grant(&namespace, &channel, &user),
        Line::State { namespace, channel, user, expires, data } => {
            let state_key = StateKey { channel: channel.into(), user: user.map(Into::into) };
            importer.state(&namespace, state_key, expires, &data)
        }
    }
}
