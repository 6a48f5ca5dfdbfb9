//! What is recorded, row by row: the keys and rows that a journal stores, and how one change of one
//! row is undone.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use super::grants::GrantRef;
use super::keys::Keys;
use super::state::Value;
use super::{Hub, Namespace, NsId, Outbox, StateKey, StateKeyRef};
use crate::time::UnixMillis;

/// The key of a recorded row. `ns` is the number of a namespace, which no other one ever has,
/// unlike its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A namespace itself.
    Namespace {
        /// Its number.
        ns: u64,
    },
    /// A right to a `#` channel.
    Grant {
        /// Number of the namespace.
        ns: u64,
        /// The channel.
        channel: Box<str>,
        /// The user.
        user: Box<str>,
    },
    /// A state.
    State {
        /// Number of the namespace.
        ns: u64,
        /// Its channel and user.
        state_key: StateKey,
    },
}

impl Key {
    /// The number of the namespace that it belongs to.
    pub fn ns(&self) -> u64 {
        self.as_ref().ns()
    }

    /// Total length of its names.
    pub fn bytes(&self) -> usize {
        match self {
            Key::Namespace { .. } => 0,
            Key::Grant { channel, user, .. } => channel.len() + user.len(),
            Key::State { state_key, .. } => state_key.bytes(),
        }
    }

    /// The borrowed form, for lookups.
    pub fn as_ref(&self) -> KeyRef<'_> {
        match self {
            Key::Namespace { ns } => KeyRef::Namespace { ns: *ns },
            Key::Grant { ns, channel, user } => KeyRef::Grant { ns: *ns, channel, user },
            Key::State { ns, state_key } => {
                KeyRef::State { ns: *ns, state_key: state_key.as_ref() }
            }
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

/// A borrowed [`Key`], for lookups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyRef<'a> {
    /// A namespace itself.
    Namespace {
        /// Its number.
        ns: u64,
    },
    /// A right to a `#` channel.
    Grant {
        /// Number of the namespace.
        ns: u64,
        /// The channel.
        channel: &'a str,
        /// The user.
        user: &'a str,
    },
    /// A state.
    State {
        /// Number of the namespace.
        ns: u64,
        /// Its channel and user.
        state_key: StateKeyRef<'a>,
    },
}

impl KeyRef<'_> {
    /// The number of the namespace that it belongs to.
    pub fn ns(&self) -> u64 {
        let (KeyRef::Namespace { ns } | KeyRef::Grant { ns, .. } | KeyRef::State { ns, .. }) = self;
        *ns
    }

    /// The owned form.
    pub fn key(&self) -> Key {
        match *self {
            KeyRef::Namespace { ns } => Key::Namespace { ns },
            KeyRef::Grant { ns, channel, user } => {
                Key::Grant { ns, channel: channel.into(), user: user.into() }
            }
            KeyRef::State { ns, state_key } => Key::State { ns, state_key: state_key.to_key() },
        }
    }
}

impl hashbrown::Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self == key.as_ref()
    }
}

/// What is recorded under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row<'a> {
    /// A namespace.
    Namespace {
        /// Its name.
        name: Cow<'a, str>,
        /// Its key; `None` if it is the configured one and is not stored (see `keys.rs`).
        key: Option<Cow<'a, str>>,
        /// The configured key that `key` has replaced.
        replaces: Option<Cow<'a, str>>,
        /// The previous key, and until when it is valid.
        old_key: Option<(Cow<'a, str>, UnixMillis)>,
    },
    /// A right to a `#` channel.
    Grant,
    /// A state.
    State {
        /// JSON text.
        text: Cow<'a, str>,
        /// Not readable from this moment on.
        expires: Option<UnixMillis>,
    },
}

/// Reverts one change of one row: see [`Hub::undo`], called in reverse order of the changes.
#[derive(Debug)]
pub struct Undo {
    /// Which row was changed.
    pub key: Key,
    /// Bytes of the row after the change.
    pub row_bytes: usize,
    before: Before,
}

/// What was there before.
#[derive(Debug)]
pub(super) enum Before {
    /// No undo is needed: the change stays, whether it is written or not.
    Kept,
    Nothing,
    Grant {
        /// Number of the withdrawal.
        withdrawal: u64,
    },
    Keys(Keys),
    State {
        value: Value,
        expires: Option<UnixMillis>,
    },
    /// A state that expired: time changed it, not an entry.
    Ended {
        value: Value,
        expires: Option<UnixMillis>,
    },
    /// A list without its last element, of `pushed` bytes, and with `dropped` at its front.
    Shorter {
        pushed: usize,
        dropped: Vec<Box<str>>,
        expires: Option<UnixMillis>,
    },
}

impl Undo {
    pub(super) fn new(key: Key, row_bytes: usize, before: Before) -> Undo {
        Undo { key, row_bytes, before }
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let before = match &self.before {
            Before::State { value, .. } | Before::Ended { value, .. } => value.bytes(),
            Before::Shorter { dropped, .. } => dropped.iter().map(|item| item.len() + 16).sum(),
            _ => 0,
        };
        size_of::<Undo>() + self.key.bytes() + before
    }

    /// Whether time made this change, not an entry.
    pub fn is_end(&self) -> bool {
        matches!(self.before, Before::Ended { .. })
    }
}

impl Hub {
    /// The number of a namespace; `None` if it is gone.
    pub fn number(&self, ns: NsId) -> Option<u64> {
        self.namespaces.get(ns).map(|ns| ns.number)
    }

    /// The row under a key, if there is one.
    pub fn row(&self, key: KeyRef<'_>) -> Option<Row<'_>> {
        let id = *self.numbers.get(&key.ns())?;
        match key {
            KeyRef::Namespace { .. } => self.namespaces.get(id).map(Namespace::row),
            KeyRef::Grant { channel, user, .. } => {
                self.is_granted(id, channel, user).then_some(Row::Grant)
            }
            KeyRef::State { state_key, .. } => {
                self.find_state(id, state_key).map(|(_, state)| state.row())
            }
        }
    }

    /// Shows the outbox a row before it is changed.
    pub(super) fn show(&self, key: KeyRef<'_>, out: &mut impl Outbox) {
        out.before_change(key, &|| self.row(key));
    }

    /// Restores a row that an earlier run recorded; namespaces come before what is in them. Returns
    /// whether there was a place for it.
    pub fn restore(&mut self, key: Key, row: Row<'_>) -> bool {
        match (key, row) {
            (Key::Namespace { ns }, Row::Namespace { name, key, replaces, old_key }) => {
                if self.namespace(&name).is_some() || self.numbers.contains_key(&ns) {
                    return false;
                }
                let own = |key: Cow<'_, str>| key.into_owned().into_boxed_str();
                let key = key.map(own);
                let grace = old_key.as_ref().map_or(UnixMillis(0), |(_, until)| *until);
                self.graces_end = self.graces_end.max(grace);
                self.insert_namespace(Namespace {
                    configured: replaces.map(own),
                    old_key: old_key.map(|(key, until)| (own(key), until)),
                    ..Namespace::new(ns, name.into_owned().into(), key)
                });
                self.next_number = self.next_number.max(ns + 1);
                true
            }
            (Key::Grant { ns, channel, user }, Row::Grant) => {
                let ns = self.numbers.get(&ns).copied();
                ns.is_some_and(|ns| self.admit(ns, channel, user))
            }
            (Key::State { ns, state_key }, Row::State { text, expires }) => {
                let Some(ns) = self.numbers.get(&ns).copied() else { return false };
                self.put_state(
                    ns,
                    state_key.as_ref(),
                    Value::Json(text.into_owned().into()),
                    expires,
                );
                true
            }
            _ => false,
        }
    }

    /// Undoes a change. Undone in reverse order, changes leave nothing behind. From the first call
    /// until [`Hub::undo_finished`] no state expires.
    pub fn undo(&mut self, undo: Undo, out: &mut impl Outbox) {
        self.is_undoing = true;
        let Undo { key, before, .. } = undo;
        // Without its namespace there is nothing left to undo.
        let Some(id) = self.numbers.get(&key.ns()).copied() else { return };
        match (key, before) {
            (_, Before::Kept) => {}
            (Key::Namespace { .. }, Before::Nothing) => {
                // It stays if the configuration has named it meanwhile.
                if self.namespaces.get(id).is_some_and(|space| !space.is_named) {
                    self.remove(id, out);
                }
            }
            (Key::Namespace { .. }, Before::Keys(keys)) => self.undo_keys(id, keys),
            (Key::Grant { channel, user, .. }, Before::Nothing) => {
                self.undo_grant(id, GrantRef { channel: &channel, user: &user });
            }
            (Key::Grant { channel, user, .. }, Before::Grant { withdrawal }) => {
                let grant = GrantRef { channel: &channel, user: &user };
                self.undo_withdrawal(id, grant, withdrawal);
                self.admit(id, channel, user);
            }
            (Key::State { state_key, .. }, Before::Nothing) => {
                if let Some((state, _)) = self.find_state(id, state_key.as_ref()) {
                    self.take_state(state);
                }
            }
            (
                Key::State { state_key, .. },
                Before::State { value, expires } | Before::Ended { value, expires },
            ) => self.put_state(id, state_key.as_ref(), value, expires),
            (Key::State { state_key, .. }, Before::Shorter { pushed, dropped, expires }) => {
                let Some((state, _)) = self.find_state(id, state_key.as_ref()) else { return };
                self.change_list(state, |list| list.unpush(pushed, &dropped));
                self.end_at(state, expires);
            }
            (key, before) => debug_assert!(false, "{key:?} cannot have been {before:?}"),
        }
    }

    /// Ends a series of [`Hub::undo`]: everything has been undone.
    pub fn undo_finished(&mut self) {
        self.is_undoing = false;
    }

    /// Passes rows from `cursor` on to `each` until it returns `false`; their order holds while
    /// nothing is recorded. Returns where to go on, also between kinds of rows; `None` at the end.
    pub fn rows(
        &self,
        cursor: Cursor,
        mut each: impl FnMut(Key, Row<'_>) -> bool,
    ) -> Option<Cursor> {
        let Cursor { part, slot } = cursor;
        match part {
            Part::Namespaces => {
                for (id, space) in self.namespaces.iter_from(slot) {
                    if !each(Key::Namespace { ns: space.number }, space.row()) {
                        return Some(Cursor { part, slot: id.index() + 1 });
                    }
                }
                Some(Cursor { part: Part::Grants, slot: 0 })
            }
            Part::Grants => {
                for (id, grant) in self.grants.iter_from(slot) {
                    let Some(ns) = self.number(grant.ns) else { continue };
                    let (channel, user) = (grant.channel.clone(), grant.user.clone());
                    if !each(Key::Grant { ns, channel, user }, Row::Grant) {
                        return Some(Cursor { part, slot: id.index() + 1 });
                    }
                }
                Some(Cursor { part: Part::States, slot: 0 })
            }
            Part::States => {
                for (id, state) in self.states.iter_from(slot) {
                    let Some(ns) = self.number(state.ns) else { continue };
                    if !each(Key::State { ns, state_key: state.state_key.clone() }, state.row()) {
                        return Some(Cursor { part, slot: id.index() + 1 });
                    }
                }
                None
            }
        }
    }

    pub(super) fn take_number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}

/// Where [`Hub::rows`] continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    part: Part,
    slot: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Namespaces,
    Grants,
    States,
}
