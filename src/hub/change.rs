//! What can happen to a hub: proposed as a [`Change`], ordered by a journal, applied as an
//! [`Entry`].

use std::borrow::Cow;

use super::NsId;
use crate::time::UnixMillis;
use crate::uuid::Uuid;

/// Where a state lives: in a channel, or in a channel for one user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Name of the channel, with its `@` or `#`.
    pub channel: Box<str>,
    /// The user whose state it is; `None` for the channel's own.
    pub user: Option<Box<str>>,
}

impl Place {
    /// Length of its names.
    pub fn bytes(&self) -> usize {
        self.channel.len() + self.user.as_ref().map_or(0, |user| user.len())
    }

    /// As it is looked up.
    pub fn spot(&self) -> Spot<'_> {
        Spot { channel: &self.channel, user: self.user.as_deref() }
    }
}

/// A [`Place`] to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spot<'a> {
    /// Name of the channel.
    pub channel: &'a str,
    /// The user.
    pub user: Option<&'a str>,
}

impl Spot<'_> {
    /// Length of its names.
    pub fn bytes(&self) -> usize {
        self.channel.len() + self.user.map_or(0, str::len)
    }

    /// As it is kept.
    pub fn place(&self) -> Place {
        Place { channel: self.channel.into(), user: self.user.map(Into::into) }
    }
}

/// A proposal. JSON values are text and stay as they were written. What comes often is borrowed
/// from the command that asks for it, until somebody keeps it ([`Change::into_owned`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// A new namespace.
    Register {
        /// Its name.
        name: Box<str>,
        /// Its key.
        key: Box<str>,
    },
    /// The end of a namespace and all that is in it.
    Remove {
        /// Which.
        ns: NsId,
    },
    /// A new key for a namespace.
    Rotate {
        /// Which.
        ns: NsId,
        /// The new key.
        key: Box<str>,
        /// How long the old one is still good.
        grace_ms: u64,
    },
    /// A right to a `#` channel.
    Grant {
        /// In which namespace.
        ns: NsId,
        /// To which channel.
        channel: Box<str>,
        /// For whom.
        user: Box<str>,
    },
    /// The end of such a right; the user's connections leave the channel.
    Revoke {
        /// In which namespace.
        ns: NsId,
        /// To which channel.
        channel: Box<str>,
        /// For whom.
        user: Box<str>,
    },
    /// A new state, in place of the old one and its ttl.
    Set {
        /// In which namespace.
        ns: NsId,
        /// The channel whose state it is.
        channel: Cow<'a, str>,
        /// The user whose state it is; `None` for the channel's own.
        user: Option<Cow<'a, str>>,
        /// JSON text; `null` removes the state.
        data: Cow<'a, str>,
        /// How long it lives; `None` for ever.
        ttl_ms: Option<u64>,
        /// Whether `data` is also published, to `user` alone if there is one.
        emit: bool,
    },
    /// One more element of a list state, whose ttl is replaced.
    Push {
        /// In which namespace.
        ns: NsId,
        /// The channel whose state it is.
        channel: Cow<'a, str>,
        /// The user whose state it is; `None` for the channel's own.
        user: Option<Cow<'a, str>>,
        /// JSON text.
        data: Cow<'a, str>,
        /// How long the list lives from now; `None` for ever.
        ttl_ms: Option<u64>,
        /// Whether the element is also published.
        emit: bool,
    },
    /// A message; nothing of it stays.
    Emit {
        /// In which namespace.
        ns: NsId,
        /// To the subscribers of these channels.
        channels: Cow<'a, [Cow<'a, str>]>,
        /// JSON text.
        data: Cow<'a, str>,
        /// To this user alone.
        user: Option<Cow<'a, str>>,
        /// To all but this connection.
        except: Option<Uuid>,
    },
    /// The end of all connections of a user.
    Disconnect {
        /// In which namespace.
        ns: NsId,
        /// Whose.
        user: Box<str>,
    },
}

impl Change<'_> {
    /// The same, with all that it is about.
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

    /// Whether anything of it stays, so that an answer to it must wait until that is durable.
    pub fn is_recorded(&self) -> bool {
        !matches!(self, Change::Emit { .. } | Change::Disconnect { .. })
    }

    /// The namespace that a message is published in by this change, if one is.
    pub fn publishes_in(&self) -> Option<NsId> {
        match self {
            Change::Emit { ns, .. }
            | Change::Set { ns, emit: true, .. }
            | Change::Push { ns, emit: true, .. } => Some(*ns),
            _ => None,
        }
    }

    /// The one channel on which everybody is to hear this, if that is so, and what.
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

/// Place of an entry in the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seq {
    /// A stretch of the order without a break; each start of a server begins a new one.
    pub term: u64,
    /// Counts from 1 within the term.
    pub n: u64,
}

/// A change with its place in the order. Applying the same entries in the same order leads every
/// hub to the same contents: `at` is the only time that `apply` knows.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place.
    pub seq: Seq,
    /// When it was ordered.
    pub at: UnixMillis,
    /// What it changes.
    pub change: Change<'static>,
}

/// What an applied entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done,
    /// A namespace has this key from now on.
    Key(Box<str>),
    /// So many connections were reached by a message, or closed.
    Reached(usize),
}

/// Why a change was not applied. Nothing of it has happened then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The name is taken.
    NameTaken,
    /// The namespace that it was to act in is no longer there.
    Gone,
    /// The namespace that it was about is no longer there.
    NoNamespace,
    /// `push` onto a state that is no list.
    NotAList,
    /// A state would be larger than this, in bytes.
    StateTooLarge(usize),
    /// There are this many already, and no more may be.
    TooMany(&'static str, usize),
}
