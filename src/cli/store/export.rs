//! `fws store export`: writes the contents of the store as lines of JSON.

use hashbrown::{HashMap, HashSet};

use super::line::{Line, Namespace};
use super::source::Source;
use super::{count, failed, holder, now, unopened};
use crate::cli::flags::{CONFIG, DATA, Flag};
use crate::cli::output::{Output, tell};
use crate::cli::{Call, Command, Stop};
use crate::hub::{Key, Row};
use crate::journal::store::{Folder, Home, Lost, Salvage, SealState, StoreMeta};
use crate::time::Now;

const DAMAGED: Flag =
    Flag { name: "damaged", value: "", about: "whatever can still be read from a damaged store" };

pub(super) const COMMAND: Command = Command {
    name: "store export",
    summary: "write the contents of the store as lines of JSON",
    usage: &["[FILE] [OPTION…]"],
    about: "\
Writes to standard output, or to FILE (mode 0600), which must not exist yet and
gets its name once it is complete: a first line that says what this is, then
namespaces with their keys, grants, states, and a last line that says that this
is all. `fws store import` reads it. States that have expired are left out;
`expires` is a date in milliseconds since 1970, and `data` is JSON, digit for
digit as it was set.

If a server runs, it goes on: what is written is what was durable at one moment
after the start of this command. The store is copied for that, in the folder that
TMPDIR names, or /var/tmp.

THE OUTPUT CONTAINS THE KEYS of all namespaces: keep it as safe as those.

With --damaged: every row of a damaged store that is still as it was written;
standard error says how many are not. The contents of a namespace whose own row
is lost come in a namespace without a key, `lost-NUMBER`, to be renamed by hand.
No server may use the folder meanwhile.",
    flags: &[DAMAGED, DATA, CONFIG],
    examples: &[
        ("fws store export backup.jsonl --data /var/lib/fws", "a backup"),
        ("fws store export | grep -c '\"kind\":\"state\"'", "how many states are there?"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let file = match call.words.as_slice() {
        [] => None,
        // As `import` does.
        [file] if file == "-" => None,
        [file] => Some(file.as_str()),
        _ => return Err(call.misused()),
    };
    let (config, now) = (call.config()?, now());
    if call.flag(DAMAGED.name).is_some() {
        let folder = Folder::take_existing(&config.data, &holder(call, now));
        let folder = folder.map_err(|e| unopened(call, &config.data, e))?;
        return salvage(&folder, file, now);
    }
    let source = Source::open(call, &config.data, now)?;
    let content = source.content();
    let mut writer = Writer::start(&content.meta, file, now)?;
    let read = content.each(&mut |key, row| writer.row(key, row));
    read.map_err(|damage| source.damaged(&damage))?;
    writer.finish()
}

/// Exports what can still be read, and reports what cannot.
fn salvage(folder: &Folder, file: Option<&str>, now: Now) -> Result<(), Stop> {
    let path = folder.store_path();
    let key = match folder.seal_state().map_err(failed)? {
        SealState::Seal(seal) => Some(seal.key),
        SealState::Nothing | SealState::Damaged => None,
    };
    // A missing store is reported as for any export.
    drop(folder.read().map_err(failed)?);
    let salvage = Salvage::open(|| folder.read(), key).map_err(|damage| {
        let path = path.display();
        Stop::Failed(format!("nothing can be read of the store {path}: {damage}"))
    })?;
    if let Some(doubt) = &salvage.doubt {
        tell(&format!(
            "{doubt}: its key was taken from {}, and dates may be off by as much as the clock \
             was ever set",
            folder.seal_path().display()
        ));
    }
    let mut writer = Writer::start(&salvage.meta, file, now)?;
    let Lost { rows, gaps } = salvage.each(&mut |key, row| writer.row(key, row));
    let lost = writer.lost;
    writer.finish()?;
    tell(&format!("rows left out, because they are not as they were written: {rows}"));
    for gap in &gaps {
        tell(&format!("more may be lost, a table could not be read through: {gap}"));
    }
    if lost > 0 {
        let namespaces = count(lost, "namespace");
        tell(&format!("{namespaces} lost, of which there are rows: see lost-NUMBER"));
    }
    Ok(())
}

/// How the name of a namespace begins whose own is lost; its number follows.
const MADE_UP: &str = "lost-";

/// Writes rows as lines.
struct Writer<'f> {
    meta: &'f StoreMeta,
    now: Now,
    output: Output,
    line: Vec<u8>,
    names: HashMap<u64, String>,
    /// Those that begin like a name that is made up.
    like_made_up: HashSet<String>,
    /// Number of namespaces whose own row is missing.
    lost: u64,
    /// The first error; nothing is written after it.
    stop: Option<Stop>,
}

impl<'f> Writer<'f> {
    fn start(meta: &'f StoreMeta, file: Option<&str>, now: Now) -> Result<Writer<'f>, Stop> {
        let mut writer = Writer {
            meta,
            now,
            output: Output::open(file)?,
            line: Vec::new(),
            names: HashMap::new(),
            like_made_up: HashSet::new(),
            lost: 0,
            stop: None,
        };
        writer.write(&Line::Start);
        Ok(writer)
    }

    fn write(&mut self, line: &Line<'_>) {
        if self.stop.is_none() {
            self.line.clear();
            line.write(&mut self.line);
            self.stop = self.output.write(&self.line).err();
        }
    }

    fn row(&mut self, key: Key, row: Row<'_>) {
        let at = self.meta.at(self.now);
        match (key, row) {
            (Key::Namespace { ns }, Row::Namespace { name, key, replaces, old_key }) => {
                let old_key = old_key.filter(|(_, until)| *until > at);
                let old_key = old_key.map(|(key, until)| (key, self.meta.date(until)));
                self.names.insert(ns, name.to_string());
                self.like_made_up.extend(name.starts_with(MADE_UP).then(|| name.to_string()));
                self.write(&Line::Namespace(Namespace { name, key, replaces, old_key }));
            }
            (Key::Grant { ns, channel, user }, Row::Grant) => {
                let namespace = self.name(ns).into();
                let (channel, user) = (String::from(channel).into(), String::from(user).into());
                self.write(&Line::Grant { namespace, channel, user });
            }
            (Key::State { ns, state_key }, Row::State { text, expires })
                if expires.is_none_or(|end| end > at) =>
            {
                let namespace = self.name(ns).into();
                let expires = expires.map(|end| self.meta.date(end));
                let channel = String::from(state_key.channel).into();
                let user = state_key.user.map(|user| String::from(user).into());
                self.write(&Line::State { namespace, channel, user, expires, data: text });
            }
            // Expired states. The key determines the kind of row.
            _ => {}
        }
    }

    /// The name of a namespace. If its row is lost, makes up a name and writes a line for it.
    fn name(&mut self, ns: u64) -> String {
        if let Some(name) = self.names.get(&ns) {
            return name.clone();
        }
        let mut name = format!("{MADE_UP}{ns}");
        while self.like_made_up.contains(&name) {
            name.push('_');
        }
        self.lost += 1;
        self.names.insert(ns, name.clone());
        let namespace = name.clone().into();
        let (key, replaces, old_key) = (None, None, None);
        self.write(&Line::Namespace(Namespace { name: namespace, key, replaces, old_key }));
        name
    }

    fn finish(mut self) -> Result<(), Stop> {
        self.write(&Line::End);
        match self.stop {
            Some(stop) => Err(stop),
            None => self.output.finish(),
        }
    }
}
