//! What can happen to a hub: proposed as a [`Change`], ordered by a journal, applied as an
//! [`Entry`].

use std::borrow::Cow;

use super::NsId;
use crate::time::UnixMillis;
use crate::uuid::Uuid;

/// Where a state lives: in a channel, or in a channel for one user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateKey {
    /// Name of the channel, with its `@` or `#`.
    pub channel: Box<str>,
    /// The user whose state it is; `None` for the channel's own.
    pub user: Option<Box<str>>,
}

impl StateKey {
    /// Total length of its names.
    pub fn bytes(&self) -> usize {
        self.channel.len() + self.user.as_ref().map_or(0, |user| user.len())
    }

    /// The borrowed form, for lookups.
    pub fn as_ref(&self) -> StateKeyRef<'_> {
        StateKeyRef { channel: &self.channel, user: self.user.as_deref() }
    }
}

/// A borrowed [`StateKey`], for lookups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StateKeyRef<'a> {
    /// Name of the channel.
    pub channel: &'a str,
    /// The user.
    pub user: Option<&'a str>,
}

impl StateKeyRef<'_> {
    /// Total length of its names.
    pub fn bytes(&self) -> usize {
        self.channel.len() + self.user.map_or(0, str::len)
    }

    /// The owned form.
    pub fn to_key(&self) -> StateKey {
        StateKey { channel: self.channel.into(), user: self.user.map(Into::into) }
    }
}

/// A proposed change. JSON values are text and stay as they were written. What comes often is
/// borrowed from the command, until the change has to be kept ([`Change::into_owned`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Registers a namespace.
    Register {
        /// Its name.
        name: Box<str>,
        /// Its key.
        key: Box<str>,
    },
    /// Removes a namespace with all that is in it.
    Remove {
        /// The namespace.
        ns: NsId,
    },
    /// Gives a namespace a new key.
    Rotate {
        /// The namespace.
        ns: NsId,
        /// The new key.
        key: Box<str>,
        /// How long the old key stays valid.
        grace_ms: u64,
    },
    /// Grants a user access to a `#` channel.
    Grant {
        /// In which namespace.
        ns: NsId,
        /// The channel.
        channel: Box<str>,
        /// The user.
        user: Box<str>,
    },
    /// Revokes a grant; the user's connections leave the channel.
    Revoke {
        /// In which namespace.
        ns: NsId,
        /// The channel.
        channel: Box<str>,
        /// The user.
        user: Box<str>,
    },
    /// Sets a state, replacing the old one and its ttl.
    Set {
        /// In which namespace.
        ns: NsId,
        /// The channel whose state it is.
        channel: Cow<'a, str>,
        /// The user whose state it is; `None` for the channel's own.
        user: Option<Cow<'a, str>>,
        /// JSON text; `null` removes the state.
        data: Cow<'a, str>,
        /// How long it lives; `None`: for ever.
        ttl_ms: Option<u64>,
        /// Whether `data` is also published, to `user` alone if there is one.
        emit: bool,
    },
    /// Appends an element to a list state, whose ttl is replaced.
    Push {
        /// In which namespace.
        ns: NsId,
        /// The channel whose state it is.
        channel: Cow<'a, str>,
        /// The user whose state it is; `None` for the channel's own.
        user: Option<Cow<'a, str>>,
        /// JSON text.
        data: Cow<'a, str>,
        /// How long the list lives from now; `None`: for ever.
        ttl_ms: Option<u64>,
        /// Whether the element is also published.
        emit: bool,
    },
    /// Publishes a message; nothing of it is stored.
    Emit {
        /// In which namespace.
        ns: NsId,
        /// To the subscribers of these channels.
        channels: Cow<'a, [Cow<'a, str>]>,
        /// JSON text.
        data: Cow<'a, str>,
        /// Only to this user.
        user: Option<Cow<'a, str>>,
        /// To all but this connection.
        except: Option<Uuid>,
    },
    /// Closes all connections of a user.
    Disconnect {
        /// In which namespace.
        ns: NsId,
        /// The user.
        user: Box<str>,
    },
}

impl Change<'_> {
    /// The same change, owning all its text.
    pub fn into_owned(self) -> Change<'static> {
        fn own(text: Cow<'_, str>) -> Cow<'static, str> {
            Cow::Owned(text.into_owned())
        }
        match self {
            Change::Register { name, key } => Change::Register { name, key },
            Change::Remove { ns } => Change::Remove { ns },
            Change::Rotate { ns, key, grace_ms } => Change::Rotate { ns, key, grace_ms },
            Change::Grant { ns, channel, user } => Change::Grant { ns, channel, user },
            Change::Revoke { ns, channel, user } => Change::Revoke { ns, channel, user },
            Change::Set { ns, channel, user, data, ttl_ms, emit } => {
                let (channel, user, data) = (own(channel), user.map(own), own(data));
                Change::Set { ns, channel, user, data, ttl_ms, emit }
            }
            Change::Push { ns, channel, user, data, ttl_ms, emit } => {
                let (channel, user, data) = (own(channel), user.map(own), own(data));
                Change::Push { ns, channel, user, data, ttl_ms, emit }
            }
            Change::Emit { ns, channels, data, user, except } => {
                let channels = channels.into_owned().into_iter().map(own).collect();
                Change::Emit { ns, channels, data: own(data), user: user.map(own), except }
            }
            Change::Disconnect { ns, user } => Change::Disconnect { ns, user },
        }
    }

    /// Whether it is stored, so that its reply has to wait until it is durable.
    pub fn is_recorded(&self) -> bool {
        !matches!(self, Change::Emit { .. } | Change::Disconnect { .. })
    }

    /// The namespace in which this change publishes a message, if it publishes one.
    pub fn publishes_in(&self) -> Option<NsId> {
        match self {
            Change::Emit { ns, .. }
            | Change::Set { ns, emit: true, .. }
            | Change::Push { ns, emit: true, .. } => Some(*ns),
            _ => None,
        }
    }

    /// Namespace, channel and data of a message for all subscribers of exactly one channel.
    pub fn is_for_all_in(&self) -> Option<(NsId, &str, &str)> {
        match self {
            Change::Emit { ns, channels, data, user: None, except: None } => match &channels[..] {
                [channel] => Some((*ns, channel, data)),
                _ => None,
            },
            Change::Set { ns, channel, user: None, data, emit: true, .. }
            | Change::Push { ns, channel, user: None, data, emit: true, .. } => {
                Some((*ns, channel, data))
            }
            _ => None,
        }
    }
}

/// A change that has its place in the order. Applying the same entries in the same order gives
/// every hub the same contents: `at` is the only time that `apply` knows.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it was ordered.
    pub at: UnixMillis,
    /// What it changes.
    pub change: Change<'static>,
}

/// Result of an applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done as asked.
    Done,
    /// The key that the namespace has from now on.
    Key(Box<str>),
    /// How many connections a message reached, or how many were closed.
    Reached(usize),
}

/// Why a change was not applied. Nothing of it has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A namespace of this name exists.
    NameTaken,
    /// The namespace in which it was to act is gone.
    Gone,
    /// The namespace to be removed, or to get a new key, is gone.
    NoNamespace,
    /// `push` onto a state that is not a list.
    NotAList,
    /// A state would be larger than this, in bytes.
    StateTooLarge(usize),
    /// The limit, this number, has been reached.
    TooMany(&'static str, usize),
    /// What is left of the total, this number, is reserved for other namespaces.
    Share(&'static str, usize),
}
