//! Imports rows: checks them against the limits and the existing rows, and writes a new store that
//! replaces the old one at the end, or not at all. Knows neither lines nor Redis.

use std::borrow::Cow;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};

use hashbrown::{DefaultHashBuilder, HashMap};

use super::line::Namespace;
use super::{count, failed};
use crate::cli::Stop;
use crate::cli::output::tell;
use crate::codec::json;
use crate::config::{Config, Secret};
use crate::hub::{Key, Row, StateKey};
use crate::journal::store::{Folder, Rewrite};
use crate::keys;
use crate::limits::Limits;
use crate::time::{Now, UnixMillis};

/// Why a row is refused.
pub(super) enum Refused {
    /// The row is wrong, or exceeds a limit.
    Input(String),
    /// The store cannot be written.
    Store(Stop),
}

impl Refused {
    /// The error of the whole command; `place` says where in the input it is.
    pub fn at(self, place: impl FnOnce() -> String) -> Stop {
        match self {
            Refused::Input(wrong) => Stop::Failed(format!("{}: {wrong}", place())),
            Refused::Store(stop) => stop,
        }
    }
}

impl From<String> for Refused {
    fn from(wrong: String) -> Refused {
        Refused::Input(wrong)
    }
}

/// A namespace of the new store.
struct Space {
    number: u64,
    row: Namespace<'static>,
    /// The key that it had before this import, which has another one.
    replaced: Option<Cow<'static, str>>,
    size: Size,
    /// Whether it was imported.
    is_taken: bool,
}

/// The keys of a namespace of the new store.
struct Keys {
    name: Cow<'static, str>,
    replaced: Option<Cow<'static, str>>,
    /// The former one, if it is still accepted.
    old: Option<Cow<'static, str>>,
    new: Cow<'static, str>,
}

/// The quantities that have limits.
#[derive(Clone, Copy, Default)]
struct Size {
    grants: usize,
    states: usize,
    /// Of states: names and values together.
    bytes: usize,
}

/// A row that exists.
#[derive(Clone, Copy)]
struct Known {
    /// As in [`Size`]. The limits keep states below 4 GiB.
    bytes: u32,
    /// Whether it was imported.
    is_taken: bool,
}

/// Counts of imported and skipped rows.
#[derive(Default)]
struct Counts {
    namespaces: u64,
    grants: u64,
    states: u64,
    /// States that had already expired.
    expired: u64,
    /// Rows of a user with an empty name, which no token and no command can name.
    nameless: u64,
}

/// An import in progress.
pub(super) struct Importer {
    rewrite: Rewrite,
    data: PathBuf,
    limits: Limits,
    now: Now,
    is_replacing: bool,
    /// In the order of their numbers.
    spaces: Vec<Space>,
    /// Index into `spaces` by name.
    names: HashMap<String, usize>,
    /// Over all namespaces.
    size: Size,
    /// All rows by key hash. Two rows whose 64-bit hashes collide are counted as one: only the
    /// limits use this, and they tolerate it.
    hasher: DefaultHashBuilder,
    known: HashMap<u64, Known>,
    counts: Counts,
}

impl Importer {
    /// Locks the folder, creating it if necessary, and loads the existing rows.
    pub fn start(
        config: &Config,
        holder: &str,
        now: Now,
        is_replacing: bool,
    ) -> Result<Importer, Stop> {
        let folder = Folder::take(&config.data, holder).map_err(failed)?;
        let (content, rewrite) = Rewrite::begin(folder, now).map_err(failed)?;
        let mut importer = Importer {
            rewrite,
            data: config.data.clone(),
            limits: config.limits.clone(),
            now,
            is_replacing,
            spaces: Vec::new(),
            names: HashMap::new(),
            size: Size::default(),
            hasher: DefaultHashBuilder::default(),
            known: HashMap::new(),
            counts: Counts::default(),
        };
        if let Some(content) = content {
            let mut stop = None;
            let read = content.each(&mut |key, row| {
                if stop.is_none() {
                    stop = importer.keep(key, row).err();
                }
            });
            read.map_err(|damage| Stop::Failed(damage.to_string()))?;
            stop.map_or(Ok(()), Err)?;
        }
        Ok(importer)
    }

    /// Keeps a row of the existing store.
    fn keep(&mut self, key: Key, row: Row<'_>) -> Result<(), Stop> {
        match (&key, row) {
            (Key::Namespace { ns }, Row::Namespace { name, key, replaces, old_key }) => {
                // A date until `finish`, as imported ones are.
                let date = |until| self.rewrite.meta().date(until);
                let old_key = old_key.map(|(key, until)| (key, date(until)));
                self.insert(*ns, Namespace { name, key, replaces, old_key }.into_owned());
                Ok(())
            }
            (Key::State { .. }, Row::State { expires: Some(end), .. })
                if end <= self.rewrite.meta().at(self.now) =>
            {
                Ok(())
            }
            (Key::Grant { .. } | Key::State { .. }, row) => {
                self.count(&key, &row, false);
                self.rewrite.put(key, row).map_err(failed)
            }
            // The key determines the kind of row.
            _ => Ok(()),
        }
    }

    fn insert(&mut self, number: u64, row: Namespace<'static>) {
        self.names.insert(row.name.clone().into_owned(), self.spaces.len());
        let size = Size::default();
        self.spaces.push(Space { number, row, replaced: None, size, is_taken: false });
    }

    /// Imports a namespace.
    pub fn namespace(&mut self, row: Namespace<'_>) -> Result<(), Refused> {
        self.check_name("name", &row.name)?;
        let keys = [row.key.as_ref(), row.replaces.as_ref(), row.old_key.as_ref().map(|(k, _)| k)];
        if keys.into_iter().flatten().any(|key| key.is_empty()) {
            return Err("the key is empty".to_owned().into());
        }
        let row = row.into_owned();
        let Some(place) = self.names.get(&*row.name).copied() else {
            if self.spaces.len() >= self.limits.namespaces {
                return Err(full("namespaces", self.limits.namespaces, "namespaces"));
            }
            let last = self.spaces.last().map_or(0, |space| space.number);
            self.insert(last + 1, row);
            self.count_namespace(self.spaces.len() - 1);
            return Ok(());
        };
        let Some(Space { row: there, replaced, .. }) = self.spaces.get_mut(place) else {
            return Ok(());
        };
        match (&row.key, &there.key) {
            // A namespace without a key has it in the configuration: the existing row stays.
            (None, _) => {}
            (Some(new), Some(old)) if new == old => {
                there.replaces = row.replaces.or(there.replaces.take());
                there.old_key = row.old_key.or(there.old_key.take());
            }
            (Some(_), Some(_)) if !self.is_replacing => {
                let name = &row.name;
                return Err(format!(
                    "namespace {name:?} is there already, with another key (--replace puts the \
                     new one in its place)"
                )
                .into());
            }
            (Some(_), _) => {
                let before = std::mem::replace(there, row);
                *replaced = replaced.take().or(before.key);
            }
        }
        self.count_namespace(place);
        Ok(())
    }

    /// Counts a namespace when its first line has been imported.
    fn count_namespace(&mut self, place: usize) {
        if let Some(space) = self.spaces.get_mut(place) {
            self.counts.namespaces += u64::from(!space.is_taken);
            space.is_taken = true;
        }
    }

    /// Imports a grant, unless its user is empty.
    pub fn grant(&mut self, namespace: &str, channel: &str, user: &str) -> Result<(), Refused> {
        self.check_name("channel", channel)?;
        self.check_length("user", user)?;
        if !channel.starts_with('#') {
            return Err("the name of a private channel begins with #".to_owned().into());
        }
        let ns = self.number(namespace)?;
        if user.is_empty() {
            self.counts.nameless += 1;
            return Ok(());
        }
        let key = Key::Grant { ns, channel: channel.into(), user: user.into() };
        self.put(key, Row::Grant)
    }

    /// Imports a state, unless it has expired or its user is empty.
    pub fn state(
        &mut self,
        namespace: &str,
        state_key: StateKey,
        expires: Option<UnixMillis>,
        data: &str,
    ) -> Result<(), Refused> {
        self.check_name("channel", &state_key.channel)?;
        self.check_length("user", state_key.user.as_deref().unwrap_or_default())?;
        json::members(data, &[]).map_err(|e| format!("data is {e}"))?;
        let max = self.limits.state_bytes;
        if data.len() > max {
            let text = format!("the state is larger than {max} bytes (limit state_bytes)");
            return Err(text.into());
        }
        let ns = self.number(namespace)?;
        if expires.is_some_and(|date| date <= self.now.unix) {
            self.counts.expired += 1;
            return Ok(());
        }
        if state_key.user.as_deref() == Some("") {
            self.counts.nameless += 1;
            return Ok(());
        }
        let expires = expires.map(|date| self.rewrite.moment(date));
        self.put(Key::State { ns, state_key }, Row::State { text: data.into(), expires })
    }

    fn put(&mut self, key: Key, row: Row<'_>) -> Result<(), Refused> {
        let Limits { grants, grants_per_namespace, states, states_per_namespace, .. } = self.limits;
        let Limits { states_bytes, states_bytes_per_namespace, .. } = self.limits;
        let (old, old_in_all) = self.of_space(&key);
        let (new, new_in_all) = self.count(&key, &row, true);
        for (before, after, max, what, limit) in [
            (old.grants, new.grants, grants_per_namespace, "grants", "grants_per_namespace"),
            (old_in_all.grants, new_in_all.grants, grants, "grants in all", "grants"),
            (old.states, new.states, states_per_namespace, "states", "states_per_namespace"),
            (old_in_all.states, new_in_all.states, states, "states in all", "states"),
            (
                old.bytes,
                new.bytes,
                states_bytes_per_namespace,
                "bytes of states",
                "states_bytes_per_namespace",
            ),
            (
                old_in_all.bytes,
                new_in_all.bytes,
                states_bytes,
                "bytes of states in all",
                "states_bytes",
            ),
        ] {
            if after > before && after > max {
                return Err(full(what, max, limit));
            }
        }
        self.rewrite.put(key, row).map_err(|error| Refused::Store(failed(error)))
    }

    fn place(&self, number: u64) -> Option<usize> {
        self.spaces.binary_search_by_key(&number, |space| space.number).ok()
    }

    /// Sizes of the row's namespace, and of all namespaces.
    fn of_space(&self, key: &Key) -> (Size, Size) {
        let space = self.place(key.ns()).and_then(|place| self.spaces.get(place));
        (space.map_or(Size::default(), |space| space.size), self.size)
    }

    /// Counts a row in place of any with the same key; returns the new sizes.
    fn count(&mut self, key: &Key, row: &Row<'_>, is_taken: bool) -> (Size, Size) {
        let bytes = match (key, row) {
            (Key::State { state_key, .. }, Row::State { text, .. }) => {
                state_key.bytes() + text.len()
            }
            _ => 0,
        };
        let is_grant = matches!(row, Row::Grant);
        let now = Known { bytes: u32::try_from(bytes).unwrap_or(u32::MAX), is_taken };
        let before = self.known.insert(self.hasher.hash_one(key), now);
        if is_taken && !before.is_some_and(|before| before.is_taken) {
            let Counts { grants, states, .. } = &mut self.counts;
            *(if is_grant { grants } else { states }) += 1;
        }
        let space = self.place(key.ns()).and_then(|place| self.spaces.get_mut(place));
        for size in space.map(|space| &mut space.size).into_iter().chain([&mut self.size]) {
            match before {
                Some(before) => size.bytes -= before.bytes as usize,
                None if is_grant => size.grants += 1,
                None => size.states += 1,
            }
            size.bytes += now.bytes as usize;
        }
        self.of_space(key)
    }

    fn number(&self, namespace: &str) -> Result<u64, Refused> {
        let place = self.names.get(namespace).and_then(|place| self.spaces.get(*place));
        place.map(|space| space.number).ok_or_else(|| {
            format!("there is no namespace {namespace:?} (its own line comes first)").into()
        })
    }

    fn check_name(&self, what: &str, name: &str) -> Result<(), Refused> {
        if name.is_empty() {
            return Err(format!("{what} is empty").into());
        }
        self.check_length(what, name)
    }

    fn check_length(&self, what: &str, name: &str) -> Result<(), Refused> {
        let max = self.limits.name_bytes;
        if name.len() <= max {
            return Ok(());
        }
        Err(format!("{what} is longer than {max} bytes (limit name_bytes)").into())
    }

    /// Replaces the store, and those of the keys that are kept for the commands of this machine
    /// that the import has replaced. Returns a summary of what was imported.
    pub fn finish(mut self) -> Result<String, Stop> {
        let mut keys = Vec::new();
        for Space { number, row, replaced, .. } in std::mem::take(&mut self.spaces) {
            if let Some(new) = &row.key {
                let old = row.old_key.as_ref().filter(|(_, until)| *until > self.now.unix);
                let old = old.map(|(key, _)| key.clone());
                keys.push(Keys { name: row.name.clone(), replaced, old, new: new.clone() });
            }
            let moment = |until| self.rewrite.moment(until);
            let row = Row::Namespace {
                name: row.name,
                key: row.key,
                replaces: row.replaces,
                old_key: row.old_key.map(|(key, until)| (key, moment(until))),
            };
            self.rewrite.put(Key::Namespace { ns: number }, row).map_err(failed)?;
        }
        // As soon as the store is in place a server may start, and another command change a key.
        let wait = || tell("waits for another command that makes or ends a key");
        let has_replaced = keys.iter().any(|keys| keys.replaced.is_some());
        let turn = has_replaced.then(|| keys::lock(&self.data, wait));
        self.rewrite.finish().map_err(failed)?;
        let renewed = renew_keys(&self.data, &keys);
        drop(turn);
        let Counts { namespaces, grants, states, expired, nameless } = self.counts;
        let (namespaces, grants) = (count(namespaces, "namespace"), count(grants, "grant"));
        let mut text = format!("imported {namespaces}, {grants}, {}\n", count(states, "state"));
        if expired > 0 {
            text.push_str(&format!("left out {} that had ended\n", count(expired, "state")));
        }
        if nameless > 0 {
            let rows = count(nameless, "row");
            text.push_str(&format!("left out {rows} of a user with an empty name\n"));
        }
        if renewed > 0 {
            let keys = count(renewed as u64, "key");
            text.push_str(&format!("renewed {keys} in {}\n", self.data.join("keys").display()));
        }
        Ok(text)
    }
}

/// Stores the new key of each namespace whose replaced one is kept for the commands here.
/// Any other one that is kept may belong to another server, and nobody else may have it: that is
/// told, because the commands will try it. Returns how many are stored.
fn renew_keys(data: &Path, all: &[Keys]) -> usize {
    let (mut renewed, mut strange) = (0, Vec::new());
    for Keys { name, replaced, old, new } in all {
        let Some(kept) = keys::load(data, name).ok().flatten() else { continue };
        if replaced.as_ref().is_some_and(|key| kept.matches(key)) {
            let Ok(key) = Secret::new(&**new) else { continue };
            match keys::store(data, name, &key) {
                Ok(_) => renewed += 1,
                Err(e) => tell(&format!(
                    "warning: the key of {name:?} that is kept for commands is an old one: {e}"
                )),
            }
        } else if !kept.matches(new) && !old.as_ref().is_some_and(|key| kept.matches(key)) {
            strange.push(name);
        }
    }
    if let [name, more @ ..] = &strange[..] {
        let more = match more.len() {
            0 => String::new(),
            more => format!(" (and {more} more like it)"),
        };
        let path = keys::path(data, name);
        tell(&format!(
            "warning: {} is not the key of namespace {name:?}{more}, and stays, because it may be \
             that of another server: commands need --key, or put the right one into that file",
            path.display()
        ));
    }
    renewed
}

fn full(what: &str, max: usize, limit: &str) -> Refused {
    format!("there would be more than {max} {what} (limit {limit})").into()
}
