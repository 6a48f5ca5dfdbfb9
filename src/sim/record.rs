//! The judge's shadow of what the hub records: namespaces, keys, grants, states. Implemented
//! independently and as simply as possible: sorted maps, text, no timers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::intent::{Command, Store};
use crate::limits::Limits;

/// A namespace that holds more of a shared resource than this many times the rest gets no more.
pub(super) const SHARE: usize = 8;

/// Why a command fails: code and text of the reply (protocol part 3, and our own).
pub(super) type Refusal = (u16, String);

/// One namespace, from its registration to its removal.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Space {
    pub name: String,
    pub key: String,
    /// The previous key, and when it stops being valid.
    pub old_key: Option<(String, u64)>,
    /// Pairs of channel and user.
    pub grants: BTreeSet<(String, String)>,
    pub states: BTreeMap<(String, Option<String>), State>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub text: String,
    pub ends: Option<u64>,
}

/// All namespaces, by ids that are never reused.
#[derive(Debug)]
pub(super) struct Record {
    limits: Limits,
    pub spaces: BTreeMap<u32, Space>,
    /// Changes are being undone; no state expires meanwhile.
    pub is_undoing: bool,
    next: u32,
    /// Every key that has ever existed, with the name of its namespace.
    pub keys: Vec<(String, String)>,
}

impl Space {
    /// Whether the key is valid for the namespace at that time.
    pub fn opens(&self, key: &str, at: u64) -> bool {
        self.key == key || self.old_key.as_ref().is_some_and(|(old, end)| old == key && at < *end)
    }

    /// Returns the state at that place, unless it has expired by then.
    pub fn state(&self, channel: &str, user: Option<&str>, at: u64) -> Option<&State> {
        let state = self.states.get(&(channel.to_string(), user.map(str::to_string)));
        state.filter(|state| state.ends.is_none_or(|end| at < end))
    }
}

impl Record {
    pub fn new(limits: Limits) -> Record {
        Record { limits, spaces: BTreeMap::new(), is_undoing: false, next: 1, keys: Vec::new() }
    }

    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Restores an earlier set of namespaces; the key history and the id counter stay.
    pub fn go_back(&mut self, spaces: BTreeMap<u32, Space>) {
        self.spaces = spaces;
    }

    pub fn named(&self, name: &str) -> Option<u32> {
        self.spaces.iter().find(|(_, space)| space.name == name).map(|(id, _)| *id)
    }

    fn bytes(space: &Space) -> usize {
        space.states.iter().map(|(place, state)| weight(place, &state.text)).sum()
    }

    /// Whether the key is valid for that namespace, if it still exists.
    pub fn opens(&self, space: u32, key: &str, at: u64) -> bool {
        self.spaces.get(&space).is_some_and(|space| space.opens(key, at))
    }

    /// Forgets the states that have expired by then.
    pub fn advance(&mut self, at: u64) {
        if self.is_undoing {
            return;
        }
        for space in self.spaces.values_mut() {
            space.states.retain(|_, state| state.ends.is_none_or(|end| at < end));
        }
    }

    pub fn states(&self) -> usize {
        self.spaces.values().map(|space| space.states.len()).sum()
    }

    /// Counts the states that have not expired by then, which exist whatever is being undone.
    pub fn living(&self, at: u64) -> usize {
        let states = self.spaces.values().flat_map(|space| space.states.values());
        states.filter(|state| state.ends.is_none_or(|end| at < end)).count()
    }

    /// Checks whether a change can be made at that time.
    pub fn check(&self, command: &Command, id: Option<u32>, at: u64) -> Result<(), Refusal> {
        if let Command::Register { name, .. } = command {
            let max = self.limits.namespaces;
            return match self.named(name) {
                Some(_) => Err((309, "Name space is busy".into())),
                None if self.spaces.len() >= max => Err(too_many("name spaces", max)),
                None => Ok(()),
            };
        }
        let Some(space) = id.and_then(|id| self.spaces.get(&id)) else {
            return Err(match command {
                Command::Remove { .. } | Command::Rotate { .. } => no_namespace(),
                _ => need_auth(),
            });
        };
        match command {
            Command::Grant { channel, user, is_withdrawn: false } => {
                let max = self.limits.grants_per_namespace;
                let is_new = !space.grants.contains(&(channel.clone(), user.clone()));
                if is_new && space.grants.len() >= max {
                    return Err(too_many("grants", max));
                }
                let count = |space: &Space| space.grants.len();
                self.check_total(space, count, is_new.into(), (self.limits.grants, "grants"))
            }
            Command::Store(store) => self.check_store(space, store, at),
            _ => Ok(()),
        }
    }

    fn check_store(&self, space: &Space, store: &Store, at: u64) -> Result<(), Refusal> {
        let (max, bytes_max) = (self.limits.states_per_namespace, self.limits.state_bytes);
        if !store.is_push && store.data == "null" {
            return Ok(());
        }
        let state = space.state(&store.channel, store.user.as_deref(), at);
        if store.is_push && state.is_some_and(|state| !state.text.starts_with('[')) {
            return Err((314, "State is not a list".into()));
        }
        if store.data.len() + if store.is_push { 2 } else { 0 } > bytes_max {
            return Err((313, format!("State is too large, at most {bytes_max} bytes")));
        }
        if state.is_none() && space.states.len() >= max {
            return Err(too_many("states", max));
        }
        let (count, is_new) = (|space: &Space| space.states.len(), state.is_none());
        self.check_total(space, count, is_new.into(), (self.limits.states, "states"))?;
        let place = (store.channel.clone(), store.user.clone());
        let (before, after) = match state {
            // A push that drops old items, so that the list gets no longer, costs nothing.
            Some(state) if store.is_push => {
                let appended = appended(&state.text, &store.data, &self.limits);
                let is_longer = appended.len() > state.text.len();
                (0, if is_longer { store.data.len() + 1 } else { 0 })
            }
            Some(state) => (weight(&place, &state.text), weight(&place, &store.data)),
            None if store.is_push => (0, weight(&place, &store.data) + 2),
            None => (0, weight(&place, &store.data)),
        };
        let (here, max) = (Self::bytes(space), self.limits.states_bytes_per_namespace);
        if after > before && here + after - before > max {
            return Err(too_many("bytes of states", max));
        }
        let more = after.saturating_sub(before);
        self.check_total(space, Self::bytes, more, (self.limits.states_bytes, "bytes of states"))
    }

    /// Checks whether a namespace may take `more` of a resource that all namespaces share.
    fn check_total(
        &self,
        space: &Space,
        count: impl Fn(&Space) -> usize,
        more: usize,
        (max, what): (usize, &str),
    ) -> Result<(), Refusal> {
        let (own, in_all) = (count(space), self.spaces.values().map(&count).sum::<usize>());
        if more > 0 && in_all + more > max {
            return Err(too_many(&format!("{what} in all"), max));
        }
        // The share is checked before the last unit, when one more is left than will be at the end.
        if more > 0 && own + more - 1 > SHARE * (max - in_all - more + 1) {
            let rest = "what is left is for other name spaces";
            return Err((313, format!("Too many {what} in all, at most {max}: {rest}")));
        }
        Ok(())
    }

    pub fn register(&mut self, name: &str, key: &str) {
        self.keys.push((name.to_string(), key.to_string()));
        let space = Space {
            name: name.into(),
            key: key.into(),
            old_key: None,
            grants: BTreeSet::new(),
            states: BTreeMap::new(),
        };
        self.spaces.insert(self.next, space);
        self.next += 1;
    }

    pub fn rotate(&mut self, id: u32, key: &str, old_ends: u64) {
        let Some(space) = self.spaces.get_mut(&id) else { return };
        self.keys.push((space.name.clone(), key.to_string()));
        let old = std::mem::replace(&mut space.key, key.to_string());
        space.old_key = Some((old, old_ends));
    }

    /// Sets a state, or appends to it.
    pub fn store(&mut self, id: u32, store: &Store, ends: Option<u64>) {
        let Some(space) = self.spaces.get_mut(&id) else { return };
        let place = (store.channel.clone(), store.user.clone());
        if !store.is_push && store.data == "null" {
            space.states.remove(&place);
            return;
        }
        let text = match space.states.get(&place).filter(|_| store.is_push) {
            Some(state) => appended(&state.text, &store.data, &self.limits),
            None if store.is_push => format!("[{}]", store.data),
            None => store.data.clone(),
        };
        space.states.insert(place, State { text, ends });
    }
}

/// How many bytes a state counts for.
fn weight((channel, user): &(String, Option<String>), text: &str) -> usize {
    channel.len() + user.as_ref().map_or(0, String::len) + text.len()
}

/// Appends an item to a list, and drops the oldest items as far as the limits demand.
fn appended(list: &str, item: &str, limits: &Limits) -> String {
    let items: Vec<&RawValue> = serde_json::from_str(list).expect("a list");
    let items = items.into_iter().map(RawValue::get).chain([item]);
    let mut items: Vec<&str> = items.collect();
    loop {
        let text = format!("[{}]", items.join(","));
        if items.len() <= limits.list_items && text.len() <= limits.state_bytes {
            return text;
        }
        items.remove(0);
    }
}

pub(super) fn need_auth() -> Refusal {
    (311, "Need auth".into())
}

pub(super) fn no_namespace() -> Refusal {
    (404, "Name space not found".into())
}

fn too_many(what: &str, max: usize) -> Refusal {
    (313, format!("Too many {what}, at most {max}"))
}
