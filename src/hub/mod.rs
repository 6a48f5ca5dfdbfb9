//! The hub: namespaces, channels, users, grants, states, presence. It owns who may hear what and
//! who does; it never sees a socket, a clock or a byte of any protocol. The switch calls it.
//!
//! What is *recorded* (namespaces, grants, states) changes only by [`Hub::apply`], in the order
//! that a journal gave. Who is *here* (connections, subscriptions) is nobody else's business and
//! changes at once. Nothing that can be seen from outside depends on the order of a hash table.

mod apply;
mod census;
mod change;
mod few;
mod grants;
mod index;
mod keys;
mod leave;
mod record;
mod share;
mod state;
mod states;

pub use apply::Checked;
pub use census::Tally;
pub use change::{Change, Entry, Outcome, Place, Refusal, Seq, Spot};
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
use few::{Blank, Few};
use grants::Grant;
use index::{Index, Named};
use leave::{Leaving, Present};
use state::State;

/// A namespace, for as long as it lives: one that is removed and registered again is another.
pub type NsId = Id<Namespace>;
/// A connection as the hub knows it: somebody who can be delivered to.
pub type PeerId = Id<Peer>;

/// A channel, as long as it has subscribers.
pub type ChannelId = Id<Channel>;
/// How a peer is reached: whoever connects it says that, and is told it again at each delivery. The
/// hub never looks inside.
pub type Route = crate::web::SessionId;

/// What the hub speaks to. It is a sink: nothing called here may call the hub.
pub trait Outbox {
    /// So many are looked at for a message, whether they are given it or not; or so many channels,
    /// of several.
    fn look_at(&mut self, _count: usize) {}
    /// Give whoever is reached like this this message.
    fn deliver(&mut self, route: Route, publication: &Publication<'_>);
    /// Everybody in this channel, and they are so many, is to be given this. Whether it is taken:
    /// then the hub is asked for [`Hub::audience`] before anything else happens to the channel.
    /// Otherwise the hub delivers it now.
    fn gather(&mut self, _: ChannelId, _count: usize, _channel: &str, _data: &str) -> bool {
        false
    }
    /// Let this peer go. The hub has forgotten it already.
    fn close(&mut self, route: Route, reason: CloseReason);
    /// A state is about to become one of so many bytes. Whether that is all that need be known of
    /// it, because nobody will want to take it back; otherwise [`Outbox::changed`] comes.
    fn stays(&mut self, _: KeyRef<'_>, _bytes: usize) -> bool {
        false
    }
    /// A row of what is recorded is about to change, and this is what it is now.
    fn changes<'a>(&mut self, _: KeyRef<'_>, _row: &dyn Fn() -> Option<Row<'a>>) {}
    /// The mark of the last change, which rises: no change is taken back that [`Hub::keep`] has
    /// been told of. Without marks none ever is.
    fn mark(&self) -> u64 {
        0
    }
    /// A row of what is recorded has changed; this takes it back.
    fn changed(&mut self, undo: Undo) {
        drop(undo);
    }
}

/// One site.
#[derive(Debug)]
pub struct Namespace {
    /// No other namespace ever has it.
    number: u64,
    name: Box<str>,
    /// `None`: nobody can open it, until the configuration or `rotateKey` gives it a key.
    key: Option<Box<str>>,
    /// The key that the configuration gives it, which may have been replaced.
    configured: Option<Box<str>>,
    /// The configuration names it, so that this key opens something.
    is_named: bool,
    /// The key before, and until when it is good.
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
    members: Few<Member, 1>,
}

/// One subscription, from the channel's side.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// The peer's, so that a publication needs to look at nothing else.
    route: Route,
    /// Slot of the peer.
    peer: u32,
    /// Index in that peer's `subscriptions`.
    subscription: u32,
}

/// One subscription, from the peer's side.
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
    /// Nowhere, once it can no longer be found and all its connections are let go.
    ns: NsId,
    name: SmolStr,
    peers: Few<PeerId, 1>,
}

impl User {
    /// The namespace of those who can no longer be found.
    const NOWHERE: NsId = Id::new(u32::MAX, u32::MAX);

    fn is_leaving(&self) -> bool {
        self.ns == User::NOWHERE
    }
}

/// An authenticated connection.
#[derive(Debug)]
pub struct Peer {
    /// Slot of the user, while the peer is not gone.
    user: u32,
    /// Index in the user's `peers`.
    place: u32,
    cid: Uuid,
    route: Route,
    /// A shared channel and its own one are what most have.
    subscriptions: Few<Subscription, 2>,
}

impl Peer {
    /// Of those who hear nothing more, and only have to be taken out of their channels.
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
    /// The peer has as many channels as it may have, which is this.
    TooManyChannels(usize),
    /// All together have as many as they may have, which is this.
    TooManySubscriptions(usize),
    /// What is left of those is for other namespaces, or for other connections.
    Share(usize),
    /// The peer is gone.
    Gone,
}

/// Who is in a channel (protocol part 4, channelInfo).
#[derive(Debug, PartialEq, Eq)]
pub struct Presence<'a> {
    /// How many different users.
    pub users: usize,
    /// Each connection with its user, in the order of joining as long as nobody left.
    pub connections: Vec<(Uuid, &'a str)>,
}

/// All that the server knows.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    hasher: DefaultHashBuilder,
    names: Index<Namespace>,
    namespaces: Arena<Namespace>,
    /// The namespaces by their numbers, and the number of the next one.
    numbers: HashMap<u64, NsId>,
    next_number: u64,
    /// No old key is good any more from this moment on.
    graces_end: UnixMillis,
    key_changes: u64,
    channels: Arena<Channel>,
    users: Arena<User>,
    peers: Arena<Peer>,
    states: Arena<State>,
    given: Arena<Grant>,
    /// Number and bytes of all states that can be found, and number of all such grants.
    living: usize,
    states_bytes: usize,
    grants: usize,
    /// Those who are here, and those who are on their way out.
    present: Present,
    leaving: Leaving,
    /// When states end, on the scale of `Entry::at`.
    ends: Wheel<Id<State>>,
    /// Some of several changes have been taken back, and not all.
    is_taking_back: bool,
    /// There is more memory to be given back.
    is_shrinking: bool,
}

impl Hub {
    /// An empty hub, whose first entry will not be older than `at`.
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
            given: Arena::default(),
            living: 0,
            states_bytes: 0,
            grants: 0,
            present: Present::default(),
            leaving: Leaving::default(),
            ends: Wheel::new(at.0),
            is_taking_back: false,
            is_shrinking: false,
        }
    }

    /// From now on these limits hold, for what comes next: what is there already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    #[inline]
    fn hash(&self, key: impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }

    /// The namespace of that name.
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

    /// Who is subscribed to a channel; nobody, if it or its namespace is not there.
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

    /// The users of those who are subscribed to a channel, once for each connection. Looks at no
    /// more of them than are asked for.
    pub fn users_in(&self, ns: NsId, channel: &str) -> impl Iterator<Item = &str> {
        self.hearers(ns, channel).map(|(_, user)| user)
    }

    /// Who hears a channel, each with the name of its user.
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

    /// A connection has proved to be that user. `None` if the namespace is gone, or the user has
    /// as many connections as one may have.
    pub fn connect(&mut self, ns: NsId, user: &str, cid: Uuid, route: Route) -> Option<PeerId> {
        let id = match self.find_user(ns, user) {
            Some((id, _)) => id,
            None => {
                let space = self.namespaces.get_mut(ns)?;
                let user = User { ns, name: user.into(), peers: Few::default() };
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
        let peer = Peer { user: id.slot, place, cid, route, subscriptions: Few::default() };
        let peer = self.peers.insert(peer);
        user.peers.push(peer);
        self.count_peers(ns, 1, 0);
        Some(peer)
    }

    /// How everybody is reached who is in a channel, in the order of the members' list. Only asked
    /// while all who are in it are to hear what is said there (see [`Outbox::gather`]).
    pub fn audience(&self, channel: ChannelId) -> impl Iterator<Item = Route> {
        debug_assert!(self.leaving.is_calm_in(channel));
        let members = self.channels.get(channel).map_or(&[][..], |channel| &channel.members);
        members.iter().map(|member| member.route)
    }

    /// How many a message on a channel may reach, or one to that user there: as many are looked at.
    pub fn audience_max(&self, ns: NsId, channel: &str, user: Option<&str>) -> usize {
        let Some(user) = user else {
            return self.find_channel(ns, channel).map_or(0, |(_, channel)| channel.members.len());
        };
        self.find_user(ns, user).map_or(0, |(_, user)| user.peers.len())
    }

    /// The namespace and user of a peer; `None` if it is gone, or about to be let go.
    pub fn identity(&self, peer: PeerId) -> Option<(NsId, &str)> {
        let user = self.user_of(peer).filter(|user| self.namespaces.contains(user.ns))?;
        Some((user.ns, &user.name))
    }

    /// The id of a connection, as others are told it.
    pub fn cid(&self, peer: PeerId) -> Option<Uuid> {
        self.peers.get(peer).map(|peer| peer.cid)
    }

    /// A peer wants to hear a channel. Returns the state that it is to be sent, if there is one:
    /// the channel's, or in an `@` channel its own (protocol part 9).
    ///
    /// # Errors
    /// [`Denied`]; the peer hears nothing new then.
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

    /// A peer no longer wants to hear a channel. Whether it did before.
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
        let id = self.channels.insert(Channel { ns, name: name.into(), members: Few::default() });
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

    /// Checks all that must hold between the tables; for tests.
    ///
    /// # Panics
    /// If anything does not hold.
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
    fn whoever_is_here_stays_small() {
        assert!(size_of::<Peer>() <= 56 && size_of::<User>() <= 48);
        assert!(size_of::<Member>() <= 16 && size_of::<Channel>() <= 56);
    }
}
