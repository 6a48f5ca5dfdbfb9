//! The hub: namespaces, channels, users, grants, states, presence. It knows which connections may
//! hear a channel and which do; it sees no socket, clock or protocol. The switch calls it.
//!
//! *Recorded* data (namespaces, grants, states) changes by [`Hub::apply`] in a journal's order,
//! else only by expiry, configuration, restore and undo. Connections and subscriptions are not
//! recorded and change at once. Nothing visible from outside depends on the order of a hash table.

mod apply;
mod census;
mod change;
mod grants;
mod index;
mod keys;
mod leave;
mod long_list;
mod record;
mod share;
mod small_list;
mod state;
mod states;

pub use apply::Checked;
pub use census::Tally;
pub use change::{Change, Entry, Outcome, Refusal, StateKey, StateKeyRef};
pub use keys::Declared;
pub use record::{Cursor, Key, KeyRef, Row, Undo};
pub use state::LOOKED_INTO_BYTES;

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashMap};
use smol_str::SmolStr;

use crate::arena::{Arena, Id, NIL};
use crate::limits::Limits;
use crate::publication::Publication;
use crate::reason::CloseReason;
use crate::time::UnixMillis;
use crate::uuid::Uuid;
use crate::wheel::Wheel;
use grants::Grant;
use index::{Index, Named};
use leave::{Leaving, Present};
use long_list::LongList;
use small_list::{Blank, SmallList};
use state::State;

/// A namespace, for as long as it lives: one removed and registered again gets another id.
pub type NsId = Id<Namespace>;
/// An authenticated connection as the hub knows it: something that messages can be delivered to.
pub type PeerId = Id<Peer>;

/// A channel, as long as it has subscribers.
pub type ChannelId = Id<Channel>;
/// How a peer is reached. Given to [`Hub::connect`] and handed back at each delivery; the hub never
/// looks inside.
pub type Route = crate::web::SessionId;

/// Where the output of the hub goes. It is a sink: no method of it may call the hub.
pub trait Outbox {
    /// `count` peers are looked at for a message, whether they receive it or not; or that many
    /// channels, for a message to several.
    fn look_at(&mut self, _count: usize) {}
    /// Delivers a message to the peer on this route.
    fn deliver(&mut self, _: Route, _: &Publication<'_>) {}
    /// Offers a message for all `count` members of a channel. `true` if the outbox takes it: then
    /// it gets the routes from [`Hub::audience`] before anything else happens to the channel. On
    /// `false` the hub delivers the message itself.
    fn gather(&mut self, _: ChannelId, _count: usize, _channel: &str, _data: &str) -> bool {
        false
    }
    /// Closes this peer. The hub has forgotten it already.
    fn close(&mut self, _: Route, _: CloseReason) {}
    /// A state is about to be replaced by one of `bytes` bytes. `true` if no undo is needed,
    /// because the change will never be undone; on `false` [`Outbox::after_change`] follows.
    fn needs_no_undo(&mut self, _: KeyRef<'_>, _bytes: usize) -> bool {
        false
    }
    /// A recorded row is about to change; `row` returns it as it is now.
    fn before_change<'a>(&mut self, _: KeyRef<'_>, _row: &dyn Fn() -> Option<Row<'a>>) {}
    /// The mark of the last change, which never decreases. A change is not undone once its mark has
    /// been given to [`Hub::keep`]; an outbox without marks never undoes any.
    fn mark(&self) -> u64 {
        0
    }
    /// A recorded row has changed; `undo` reverts that.
    fn after_change(&mut self, undo: Undo) {
        drop(undo);
    }
}

/// One tenant: a site with its own keys, channels, users, grants and states.
#[derive(Debug)]
pub struct Namespace {
    /// Unique for ever: no other namespace gets it, not even one of the same name.
    number: u64,
    name: Box<str>,
    /// `None`: nobody can open it until the configuration or `rotateKey` gives it a key.
    key: Option<Box<str>>,
    /// The key that the configuration gives it; `rotateKey` may have replaced it.
    configured: Option<Box<str>>,
    /// Whether the configuration names it now; if not, `configured` opens nothing.
    is_named: bool,
    /// The previous key, and until when it is valid.
    old_key: Option<(Box<str>, UnixMillis)>,
    /// Counts the keys that this namespace has had.
    key_epoch: u32,
    channels: Index<Channel>,
    users: Index<User>,
    states: Index<State>,
    /// Bytes of its states.
    states_bytes: usize,
    grants: Index<Grant>,
    /// Subscriptions of its peers.
    subscriptions: usize,
    tally: Tally,
}

/// A channel with subscribers; one without is not kept.
#[derive(Debug)]
pub struct Channel {
    ns: NsId,
    name: SmolStr,
    members: LongList<Member>,
}

/// One subscription, as stored in the channel.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// Copied from the peer, so that a publication has to look at nothing else.
    route: Route,
    /// Slot of the peer.
    peer: u32,
    /// Index in that peer's `subscriptions`.
    subscription: u32,
}

/// One subscription, as stored in the peer.
#[derive(Clone, Copy, Debug)]
struct Subscription {
    /// Slot of the channel.
    channel: u32,
    /// Index in that channel's `members`.
    member: u32,
}

impl Blank for Member {
    const BLANK: Member = Member { route: Route::NOWHERE, peer: NIL, subscription: NIL };

    fn is_blank(&self) -> bool {
        self.peer == NIL
    }
}

impl Blank for Subscription {
    const BLANK: Subscription = Subscription { channel: NIL, member: NIL };

    fn is_blank(&self) -> bool {
        self.channel == NIL
    }
}

impl Blank for PeerId {
    const BLANK: PeerId = Id::new(NIL, NIL);

    fn is_blank(&self) -> bool {
        self.slot == NIL
    }
}

/// A user with connections; one without is not kept.
#[derive(Debug)]
struct User {
    /// [`User::NOWHERE`] once the user can no longer be found and its connections are being closed.
    ns: NsId,
    name: SmolStr,
    peers: SmallList<PeerId, 1>,
}

impl User {
    /// Stands for the namespace of users that can no longer be found.
    const NOWHERE: NsId = Id::new(u32::MAX, u32::MAX);

    fn is_leaving(&self) -> bool {
        self.ns == User::NOWHERE
    }
}

/// An authenticated connection.
#[derive(Debug)]
pub struct Peer {
    /// Slot of the user, unless the peer is gone.
    user: u32,
    /// Index in the user's `peers`.
    place: u32,
    cid: Uuid,
    route: Route,
    /// Most peers have two: a shared channel and a channel of their own.
    subscriptions: SmallList<Subscription, 2>,
}

impl Peer {
    /// The `place` of a peer that hears nothing more and only has to be taken out of its channels.
    const GONE: u32 = u32::MAX;

    fn go(&mut self) {
        self.place = Peer::GONE;
    }

    fn is_gone(&self) -> bool {
        self.place == Peer::GONE
    }
}

impl Namespace {
    fn new(number: u64, name: Box<str>, key: Option<Box<str>>) -> Namespace {
        Namespace {
            number,
            name,
            key,
            configured: None,
            is_named: false,
            old_key: None,
            key_epoch: 0,
            channels: Index::default(),
            users: Index::default(),
            states: Index::default(),
            states_bytes: 0,
            grants: Index::default(),
            subscriptions: 0,
            tally: Tally::default(),
        }
    }
}

impl Named for Namespace {
    fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one(&*self.name)
    }
}

impl Named for Channel {
    fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one(&*self.name)
    }
}

impl Named for User {
    fn hash(&self, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one(&*self.name)
    }
}

/// Why a peer could not subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// A `#` channel without a grant.
    NoGrant,
    /// The peer has reached its limit of channels, this number.
    TooManyChannels(usize),
    /// The server has reached its limit of subscriptions, this number.
    TooManySubscriptions(usize),
    /// What is left of that limit is reserved for other namespaces or other connections.
    Share(usize),
    /// The peer is gone.
    Gone,
}

/// The subscribers of a channel (protocol part 4, channelInfo).
#[derive(Debug, PartialEq, Eq)]
pub struct Presence<'a> {
    /// How many different users.
    pub users: usize,
    /// Each connection with its user, in the order of joining as long as nobody has left.
    pub connections: Vec<(Uuid, &'a str)>,
}

/// All namespaces, with their contents and connections.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    hasher: DefaultHashBuilder,
    names: Index<Namespace>,
    namespaces: Arena<Namespace>,
    /// The namespaces by number, and the number of the next one.
    numbers: HashMap<u64, NsId>,
    next_number: u64,
    /// When the last grace period of an old key ends.
    graces_end: UnixMillis,
    key_changes: u64,
    channels: Arena<Channel>,
    users: Arena<User>,
    peers: Arena<Peer>,
    states: Arena<State>,
    grants: Arena<Grant>,
    /// Number and bytes of all states that can be found, and number of all such grants.
    state_count: usize,
    states_bytes: usize,
    grant_count: usize,
    /// Counts of what is present, and what is gone but not yet removed from the tables.
    present: Present,
    leaving: Leaving,
    /// When states expire, on the scale of `Entry::at`.
    ends: Wheel<Id<State>>,
    /// A series of changes is being undone, until [`Hub::undo_finished`].
    is_undoing: bool,
    /// There may be more memory to give back.
    is_shrinking: bool,
}

impl Hub {
    /// Creates an empty hub; no entry for it may be older than `at`.
    pub fn new(limits: Limits, at: UnixMillis) -> Hub {
        Hub {
            limits,
            hasher: DefaultHashBuilder::default(),
            names: Index::default(),
            namespaces: Arena::default(),
            numbers: HashMap::new(),
            next_number: 1,
            graces_end: UnixMillis(0),
            key_changes: 0,
            channels: Arena::default(),
            users: Arena::default(),
            peers: Arena::default(),
            states: Arena::default(),
            grants: Arena::default(),
            state_count: 0,
            states_bytes: 0,
            grant_count: 0,
            present: Present::default(),
            leaving: Leaving::default(),
            ends: Wheel::new(at.0),
            is_undoing: false,
            is_shrinking: false,
        }
    }

    /// Sets the limits for what comes next; what exists already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    #[inline]
    fn hash(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Finds a namespace by name.
    pub fn namespace(&self, name: &str) -> Option<NsId> {
        let found = self.names.find(&self.namespaces, self.hash(name), |ns| *ns.name == *name);
        found.map(|(id, _)| id)
    }

    fn find_channel(&self, ns: NsId, name: &str) -> Option<(ChannelId, &Channel)> {
        let table = &self.namespaces.get(ns)?.channels;
        table.find(&self.channels, self.hash(name), |channel| *channel.name == *name)
    }

    fn find_user(&self, ns: NsId, name: &str) -> Option<(Id<User>, &User)> {
        let table = &self.namespaces.get(ns)?.users;
        table.find(&self.users, self.hash(name), |user| *user.name == *name)
    }

    /// The subscribers of a channel; empty if the channel or its namespace does not exist.
    pub fn presence(&self, ns: NsId, channel: &str) -> Presence<'_> {
        let most = self.audience_max(ns, channel, None);
        let mut users: Vec<u32> = Vec::with_capacity(most);
        let mut connections = Vec::with_capacity(most);
        for (peer, user) in self.hearers(ns, channel) {
            users.push(peer.user);
            connections.push((peer.cid, user));
        }
        users.sort_unstable();
        users.dedup();
        Presence { users: users.len(), connections }
    }

    /// The users subscribed to a channel, once for each connection. Lazy: looks at no more members
    /// than are asked for.
    pub fn users_in(&self, ns: NsId, channel: &str) -> impl Iterator<Item = &str> {
        self.hearers(ns, channel).map(|(_, user)| user)
    }

    /// The peers that hear a channel, each with the name of its user.
    fn hearers(&self, ns: NsId, channel: &str) -> impl Iterator<Item = (&Peer, &str)> {
        let found = self.find_channel(ns, channel).into_iter();
        let members =
            found.flat_map(|(id, channel)| channel.members.iter().map(move |it| (id, it)));
        members.filter_map(|(channel, member)| {
            let (id, peer) = self.peers.in_slot(member.peer)?;
            let (_, user) = self.users.in_slot(peer.user).filter(|_| self.hears(id, channel))?;
            Some((peer, &*user.name))
        })
    }

    /// Adds an authenticated connection of a user. `None` if the namespace is gone, or the user has
    /// as many connections as one may have.
    pub fn connect(&mut self, ns: NsId, user: &str, cid: Uuid, route: Route) -> Option<PeerId> {
        let id = match self.find_user(ns, user) {
            Some((id, _)) => id,
            None => {
                let space = self.namespaces.get_mut(ns)?;
                let user = User { ns, name: user.into(), peers: SmallList::default() };
                let id = self.users.insert(user);
                space.users.insert(&self.users, id, &self.hasher);
                self.present.users += 1;
                id
            }
        };
        let user = self.users.get_mut(id)?;
        if user.peers.len() >= self.limits.connections_per_user {
            return None;
        }
        let place = user.peers.len() as u32;
        let peer = Peer { user: id.slot, place, cid, route, subscriptions: SmallList::default() };
        let peer = self.peers.insert(peer);
        user.peers.push(peer);
        self.count_peers(ns, 1, 0);
        Some(peer)
    }

    /// The routes of all members of a channel, in the order of the members' list. Only called while
    /// every member is to hear what is published there (see [`Outbox::gather`]).
    pub fn audience(&self, channel: ChannelId) -> impl Iterator<Item = Route> {
        debug_assert!(self.leaving.is_calm_in(channel));
        let channel = self.channels.get(channel).into_iter();
        channel.flat_map(|channel| channel.members.iter()).map(|member| member.route)
    }

    /// How many peers a message to a channel, or to one user in it, looks at; it reaches no more.
    pub fn audience_max(&self, ns: NsId, channel: &str, user: Option<&str>) -> usize {
        let Some(user) = user else {
            return self.find_channel(ns, channel).map_or(0, |(_, channel)| channel.members.len());
        };
        self.find_user(ns, user).map_or(0, |(_, user)| user.peers.len())
    }

    /// The namespace and user of a peer; `None` if it is gone or about to be closed.
    pub fn identity(&self, peer: PeerId) -> Option<(NsId, &str)> {
        let user = self.user_of(peer).filter(|user| self.namespaces.contains(user.ns))?;
        Some((user.ns, &user.name))
    }

    /// The id of a connection, as it is shown to others.
    pub fn cid(&self, peer: PeerId) -> Option<Uuid> {
        self.peers.get(peer).map(|peer| peer.cid)
    }

    /// Subscribes a peer to a channel. Returns the state to send to the peer, if there is one: the
    /// channel's, or in an `@` channel the peer's own (protocol part 9).
    ///
    /// # Errors
    /// [`Denied`]; the peer is subscribed to nothing new then.
    pub fn subscribe(
        &mut self,
        peer: PeerId,
        channel: &str,
        at: UnixMillis,
    ) -> Result<Option<&str>, Denied> {
        let (ns, user) = self.identity(peer).ok_or(Denied::Gone)?;
        let space = self.namespaces.get(ns).ok_or(Denied::Gone)?;
        if channel.starts_with('#') && !self.is_granted(ns, channel, user) {
            return Err(Denied::NoGrant);
        }
        let id = self.find_channel(ns, channel).map(|(id, _)| id);
        let is_in = id.is_some_and(|id| self.is_member(peer, id));
        if !is_in || !id.is_some_and(|id| self.hears(peer, id)) {
            self.check_subscription(space, self.channels_of(peer))?;
            let id = match id {
                Some(id) => id,
                None => self.open_channel(ns, channel).ok_or(Denied::Gone)?,
            };
            if !is_in {
                self.join(peer, id);
            }
            self.count_subscriptions(ns, 1, 0);
            self.admitted(peer, id, is_in);
        }
        let user = self.identity(peer).map(|(_, user)| user).filter(|_| channel.starts_with('@'));
        Ok(self.state(ns, channel, user, at))
    }

    /// Unsubscribes a peer from a channel. Returns whether it was subscribed.
    pub fn unsubscribe(&mut self, peer: PeerId, channel: &str) -> bool {
        let user = self.user_of(peer);
        let found = user.and_then(|user| self.find_channel(user.ns, channel));
        found.map(|(id, _)| id).is_some_and(|id| self.leave(peer, id))
    }

    #[inline]
    fn is_member(&self, peer: PeerId, channel: Id<Channel>) -> bool {
        self.peers
            .get(peer)
            .is_some_and(|peer| peer.subscriptions.iter().any(|s| s.channel == channel.slot))
    }

    fn open_channel(&mut self, ns: NsId, name: &str) -> Option<Id<Channel>> {
        let space = self.namespaces.get_mut(ns)?;
        let id =
            self.channels.insert(Channel { ns, name: name.into(), members: LongList::default() });
        space.channels.insert(&self.channels, id, &self.hasher);
        self.present.channels += 1;
        Some(id)
    }

    fn join(&mut self, id: PeerId, channel_id: Id<Channel>) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let (subscription, member) = (peer.subscriptions.len(), channel.members.len());
        peer.subscriptions.push(Subscription { channel: channel_id.slot, member: member as u32 });
        let route = peer.route;
        channel.members.push(Member { route, peer: id.slot, subscription: subscription as u32 });
    }

    fn insert_namespace(&mut self, namespace: Namespace) -> NsId {
        let number = namespace.number;
        let id = self.namespaces.insert(namespace);
        self.names.insert(&self.namespaces, id, &self.hasher);
        self.numbers.insert(number, id);
        id
    }

    /// Checks the invariants between the tables; for tests.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn check_invariants(&self) {
        for (id, channel) in self.channels.iter() {
            assert!(!channel.members.is_empty(), "an empty channel is kept");
            if self.namespaces.contains(channel.ns) {
                let found = self.find_channel(channel.ns, &channel.name);
                assert_eq!(found.map(|(id, _)| id), Some(id));
            }
            for (i, member) in channel.members.iter().enumerate() {
                let (peer_id, peer) = self.peers.in_slot(member.peer).expect("members live");
                let back = peer.subscriptions[member.subscription as usize];
                assert!(back.channel == id.slot && back.member as usize == i);
                assert_eq!(peer.route, member.route);
                if !self.is_here(peer_id) || !self.hears(peer_id, id) {
                    continue;
                }
                let user = self.user_of(peer_id).expect("users live");
                assert_eq!(user.ns, channel.ns, "a channel of another namespace");
                let is_granted = self.is_granted(user.ns, &channel.name, &user.name);
                assert!(!channel.name.starts_with('#') || is_granted);
            }
        }
        for (id, peer) in self.peers.iter() {
            if !peer.is_gone() {
                let (user_id, user) = self.users.in_slot(peer.user).expect("users live");
                assert_eq!(user.peers.get(peer.place as usize), Some(&id));
                let found = self.find_user(user.ns, &user.name).map(|(id, _)| id);
                assert!(!self.is_here(id) || found == Some(user_id));
            }
            for (i, subscription) in peer.subscriptions.iter().enumerate() {
                let channel = self.channels.in_slot(subscription.channel).expect("channels live").1;
                let back = channel.members[subscription.member as usize];
                assert!(back.peer == id.slot && back.subscription as usize == i);
            }
        }
        for (id, ns) in self.namespaces.iter() {
            assert_eq!(self.namespace(&ns.name), Some(id));
            assert_eq!(self.numbers.get(&ns.number), Some(&id));
        }
        assert_eq!(self.numbers.len(), self.namespaces.len());
        self.check_withdrawn();
        self.check_numbers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_peers_users_and_channels_stay_small() {
        assert!(size_of::<Peer>() <= 56 && size_of::<User>() <= 48);
        assert!(size_of::<Member>() <= 16 && size_of::<Channel>() <= 56);
    }
}
