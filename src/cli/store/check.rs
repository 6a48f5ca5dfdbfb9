//! `fws store check`: verifies the store, and prints what is in it.

use super::{failed, holder, now, unopened};
use crate::cli::flags::{CONFIG, DATA, JSON};
use crate::cli::output::{out, out_json, tell};
use crate::cli::{Call, Command, Stop};
use crate::codec::json;
use crate::hub::Row;
use crate::journal::store::{DAMAGED_ADVICE, Folder, Home, Opened};

pub(super) const COMMAND: Command = Command {
    name: "store check",
    summary: "check the store, and say what is in it",
    usage: &["[OPTION…]"],
    about: "\
Reads the whole store and verifies every page and every row. Creates and changes
nothing, so it works on a copy in a read-only folder as well. No server may use
the folder meanwhile.

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
    let folder = Folder::take_existing(&config.data, &holder(call, now));
    let folder = folder.map_err(|e| unopened(call, &config.data, e))?;
    let path = folder.store_path();
    let opened = Opened::look(folder).map_err(|e| unopened(call, &config.data, e))?;
    let damaged =
        |damage| format!("the store {} is damaged: {damage}. {DAMAGED_ADVICE}", path.display());
    let opened = opened.map_err(|damage| Stop::Failed(damaged(damage)))?;
    if opened.warning.is_some() {
        let seal = opened.folder().seal_path();
        tell(&format!("warning: {} is damaged, and the store is whole", seal.display()));
    }
    let (content, at) = (opened.content(), opened.at(now));
    let mut ended = 0;
    let read = content.each(&mut |_, row| {
        let is_over = matches!(row, Row::State { expires: Some(end), .. } if end <= at);
        ended += u64::from(is_over);
    });
    read.map_err(|damage| Stop::Failed(damaged(damage)))?;
    let file_bytes = std::fs::metadata(&path).map_err(failed)?.len();
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
        let file = ("file", json::quote(&path.to_string_lossy()));
        return out_json(&[&[file][..], &numbers].concat());
    }
    let mut text = format!("{} is whole\n", path.display());
    for (name, number) in numbers {
        text.push_str(&format!("{name:<11} {number}\n"));
    }
    out(&text)
}
