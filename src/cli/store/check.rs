//! `fws store check`: verifies the store, and prints what is in it.

use super::source::Source;
use super::{failed, now};
use crate::cli::flags::{CONFIG, DATA, JSON};
use crate::cli::output::{out, out_json, tell};
use crate::cli::{Call, Command, Stop};
use crate::codec::json;
use crate::hub::Row;

pub(super) const COMMAND: Command = Command {
    name: "store check",
    summary: "check the store, and say what is in it",
    usage: &["[OPTION…]"],
    about: "\
Reads the whole store and verifies every page and every row. Creates and changes
nothing in the folder, so it works on a copy that is read-only as well. If a
server runs, it goes on: what is checked is a copy of what was durable at one
moment, made in the folder that TMPDIR names, or /var/tmp. That is each page of
the store's tables as the system's page cache has it; where the file has room is
verified by the next start.

Prints the format, the terms (starts of a server) and batches written, how many
namespaces, grants and states there are, how many of the states have expired and
only wait to be removed, the bytes of all these rows, and those of the file.

Exit code 0: it is intact; 1: it is damaged or gone, and a line says how.",
    flags: &[JSON, DATA, CONFIG],
    examples: &[
        ("fws store check", "the store in ./fws-data"),
        ("fws store check --data /mnt/backup/fws-data", "is that copy intact?"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [] = call.words()?;
    let (config, now) = (call.config()?, now());
    let source = Source::open(call, &config.data, now)?;
    if let Some(seal) = source.damaged_seal() {
        tell(&format!("warning: {} is damaged, and the store is whole", seal.display()));
    }
    let content = source.content();
    let at = content.meta.at(now);
    let mut ended = 0;
    let read = content.each(&mut |_, row| {
        let is_over = matches!(row, Row::State { expires: Some(end), .. } if end <= at);
        ended += u64::from(is_over);
    });
    read.map_err(|damage| source.damaged(&damage))?;
    let file_bytes = std::fs::metadata(&source.path).map_err(failed)?.len();
    let [namespaces, grants, states] = content.counts;
    let numbers = [
        ("format", content.format()),
        ("term", content.meta.term),
        ("batches", content.meta.batch),
        ("namespaces", namespaces),
        ("grants", grants),
        ("states", states),
        ("ended", ended),
        ("bytes", content.bytes),
        ("file_bytes", file_bytes),
    ];
    if call.flag(JSON.name).is_some() {
        let numbers = numbers.map(|(name, number)| (name, number.to_string()));
        let file = ("file", json::quote(&source.path.to_string_lossy()));
        return out_json(&[&[file][..], &numbers].concat());
    }
    let mut text = format!("{} is whole\n", source.path.display());
    for (name, number) in numbers {
        text.push_str(&format!("{name:<11} {number}\n"));
    }
    out(&text)
}
