//! How the hub forgets. Whoever leaves is gone at once for everybody who asks or publishes; taking
//! them out of the tables costs a step for each subscription, and telling them some more, and a
//! turn takes no more steps than it has ([`Hub::depart`]). What is left goes on in the next one.
//!
//! Nobody needs to look at those who are on their way out but [`Hub::hears`], and only while there
//! are any: `is_calm` says that there are none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::BuildHasher;
use std::ops::Range;

use hashbrown::{hash_set, hash_table};

use super::state::State;
use super::{Channel, Grant, Hub, Namespace, NsId, Outbox, Outcome, PeerId, Subscription, User};
use crate::arena::Id;
use crate::reason::CloseReason;

/// What it costs to let a connection go, in steps: it is told, closed, and written to.
const LET_GO_STEPS: usize = 16;
/// Each new subscription takes so many old ones out, so that those who come and go at once cannot
/// leave more behind than they have taken.
const PAID_STEPS: usize = 2;
/// Of a namespace that is removed, so many states are dropped at once; the others follow.
const BURIED_AT_ONCE: usize = 1000;

/// All that is on its way out.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Steps that may still be taken in this turn.
    steps: usize,
    /// Peers that are gone, and still in their channels.
    gone: VecDeque<PeerId>,
    /// Users whose connections are all to be let go.
    users: VecDeque<Id<User>>,
    /// Slots to be looked at for peers whose namespace is no more, and whether all are once more,
    /// because another namespace was removed meanwhile.
    sweep: Range<usize>,
    is_swept_again: bool,
    /// Grants that were withdrawn while their users had connections.
    withdrawn: BTreeMap<(Id<Channel>, Id<User>), Withdrawal>,
    /// What was in namespaces that are no more.
    graves: VecDeque<Grave>,
}

/// A user is to leave a channel, with each connection that has not come back meanwhile.
#[derive(Debug, Default)]
struct Withdrawal {
    /// So many of the user's connections, from the first on, have not been looked at.
    left: usize,
    /// These have subscribed again, by another grant.
    readmitted: BTreeSet<PeerId>,
}

/// What is still to be dropped of a namespace: nobody can find it.
#[derive(Debug)]
struct Grave {
    states: hash_table::IntoIter<Id<State>>,
    grants: hash_set::IntoIter<Grant>,
}

/// How many there are, without those who are on their way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    pub channels: usize,
    pub users: usize,
    pub peers: usize,
}

impl Leaving {
    /// Whether there was a step left to begin with something that takes so many.
    fn spend(&mut self, steps: usize) -> bool {
        let is_affordable = self.steps > 0;
        self.steps = self.steps.saturating_sub(steps);
        is_affordable
    }

    /// Whether nobody who must not hear anything is still in a channel.
    pub fn is_calm(&self) -> bool {
        self.gone.is_empty() && self.users.is_empty() && self.withdrawn.is_empty()
    }

    /// States that nobody can find any more.
    pub fn buried(&self) -> usize {
        self.graves.iter().map(|grave| grave.states.len()).sum()
    }

    /// Takes states and grants out of graves, as many of both together; gives the states back.
    fn dig(&mut self, count: usize) -> Vec<Id<State>> {
        let (mut ids, mut left) = (Vec::new(), count);
        while let Some(grave) = self.graves.front_mut().filter(|_| left > 0) {
            let before = ids.len();
            ids.extend(grave.states.by_ref().take(left));
            left -= ids.len() - before;
            left -= grave.grants.by_ref().take(left).count();
            if grave.states.len() == 0 && grave.grants.len() == 0 {
                self.graves.pop_front();
            }
        }
        ids
    }
}

impl Hub {
    /// Goes on with whatever has been left to do: so many steps, those that are taken by the end
    /// of the turn included. A step ends one subscription, or looks at one connection; to let one
    /// go takes sixteen.
    pub fn depart(&mut self, steps: usize, out: &mut impl Outbox) {
        self.leaving.steps = steps;
        self.go_on(out);
    }

    /// Whether anything is left to do.
    pub fn is_leaving(&self) -> bool {
        let Leaving { sweep, graves, .. } = &self.leaving;
        !self.leaving.is_calm() || !sweep.is_empty() || !graves.is_empty()
    }

    fn go_on(&mut self, out: &mut impl Outbox) {
        self.let_users_go(out);
        self.sweep(out);
        self.forget_withdrawn();
        self.forget_gone();
    }

    /// Whether a peer is here: connected, and neither its namespace nor its user on the way out.
    pub(super) fn is_here(&self, peer: PeerId) -> bool {
        self.verdict(peer).is_none()
    }

    /// Why a peer is about to be let go, if it is: nothing that it says means anything.
    pub fn verdict(&self, peer: PeerId) -> Option<CloseReason> {
        let peer = self.peers.get(peer).filter(|peer| !peer.is_gone);
        let Some(peer) = peer else { return Some(CloseReason::Disconnected) };
        if self.users.get(peer.user).is_none_or(|user| user.is_leaving) {
            return Some(CloseReason::Disconnected);
        }
        let is_lost = !self.namespaces.contains(peer.ns);
        is_lost.then_some(CloseReason::NamespaceRemoved)
    }

    /// Whether a member of a channel is to hear what is said there.
    pub(super) fn hears(&self, peer: PeerId, channel: Id<Channel>) -> bool {
        self.leaving.is_calm() || self.is_here(peer) && !self.is_withdrawn(peer, channel)
    }

    fn is_withdrawn(&self, id: PeerId, channel: Id<Channel>) -> bool {
        if self.leaving.withdrawn.is_empty() {
            return false;
        }
        let user = self.peers.get(id).map(|peer| peer.user);
        let withdrawal = user.and_then(|user| self.leaving.withdrawn.get(&(channel, user)));
        withdrawal.is_some_and(|withdrawal| !withdrawal.readmitted.contains(&id))
    }

    /// How many channels a peer hears.
    pub(super) fn channels_of(&self, id: PeerId) -> usize {
        let Some(peer) = self.peers.get(id) else { return 0 };
        let is_heard = |s: &&Subscription| !self.is_withdrawn(id, s.channel);
        match self.leaving.withdrawn.is_empty() {
            true => peer.subscriptions.len(),
            false => peer.subscriptions.iter().filter(is_heard).count(),
        }
    }

    /// A peer has subscribed: whatever was withdrawn before does not concern it. Takes out some of
    /// those who are gone.
    pub(super) fn admitted(&mut self, id: PeerId, channel: Id<Channel>) {
        if let Some(user) = self.peers.get(id).map(|peer| peer.user)
            && let Some(withdrawal) = self.leaving.withdrawn.get_mut(&(channel, user))
        {
            withdrawal.readmitted.insert(id);
        }
        if !self.leaving.gone.is_empty() {
            self.leaving.steps += PAID_STEPS;
            self.forget_gone();
        }
    }

    /// A connection is gone: it hears nothing more, and leaves all its channels.
    pub fn disconnect(&mut self, peer: PeerId) {
        self.take_leave(peer);
        self.forget_gone();
    }

    fn take_leave(&mut self, id: PeerId) {
        let was_here = self.is_here(id);
        let Some(peer) = self.peers.get_mut(id).filter(|peer| !peer.is_gone) else { return };
        peer.is_gone = true;
        let (ns, user_id, place) = (peer.ns, peer.user, peer.place);
        self.leaving.gone.push_back(id);
        if was_here {
            self.count_peers(ns, 0, 1);
        }
        let Some(user) = self.users.get_mut(user_id) else { return };
        user.peers.swap_remove(place as usize);
        if let Some(moved) = user.peers.get(place as usize).copied()
            && let Some(peer) = self.peers.get_mut(moved)
        {
            peer.place = place;
        }
        if user.peers.is_empty() {
            self.close_user(ns, user_id);
            self.users.remove(user_id);
        }
    }

    /// A user can no longer be found.
    fn close_user(&mut self, ns: NsId, id: Id<User>) {
        let Some(user) = self.users.get_mut(id) else { return };
        let was_leaving = std::mem::replace(&mut user.is_leaving, true);
        let hash = self.hasher.hash_one(&*user.name);
        if let Some(ns) = self.namespaces.get_mut(ns).filter(|_| !was_leaving) {
            ns.users.remove(hash, id);
            self.present.users -= 1;
        }
    }

    /// Takes those who are gone out of their channels.
    fn forget_gone(&mut self) {
        while let Some(id) = self.leaving.gone.front().copied()
            && self.leaving.spend(1)
        {
            match self.peers.get(id).and_then(|peer| peer.subscriptions.last()) {
                Some(Subscription { channel, .. }) => {
                    self.leave(id, *channel);
                }
                None => {
                    self.leaving.gone.pop_front();
                    self.peers.remove(id);
                }
            }
        }
        if self.leaving.gone.is_empty() {
            self.leaving.gone = VecDeque::new();
        }
    }

    /// All connections of a user are to be let go; returns how many.
    pub(super) fn expel(&mut self, ns: NsId, user: &str, out: &mut impl Outbox) -> Outcome {
        let Some(id) = self.find_user(ns, user) else { return Outcome::Reached(0) };
        let count = self.users.get(id).map_or(0, |user| user.peers.len());
        self.close_user(ns, id);
        self.count_peers(ns, 0, count);
        self.leaving.users.push_back(id);
        self.go_on(out);
        Outcome::Reached(count)
    }

    fn let_users_go(&mut self, out: &mut impl Outbox) {
        while let Some(id) = self.leaving.users.front().copied() {
            let Some(peer) = self.users.get(id).and_then(|user| user.peers.last()).copied() else {
                self.leaving.users.pop_front();
                continue;
            };
            if !self.leaving.spend(LET_GO_STEPS) {
                return;
            }
            self.take_leave(peer);
            out.close(peer, CloseReason::Disconnected);
        }
    }

    /// Removes a namespace: it is out of reach at once, and its peers are let go in the order of
    /// their slots; that of the tables is chance.
    pub(super) fn remove(&mut self, ns: NsId, out: &mut impl Outbox) -> Outcome {
        let Some(space) = self.namespaces.remove(ns) else { return Outcome::Reached(0) };
        let Namespace { number, name, channels, users, states, grants, tally, .. } = space;
        self.names.remove(self.hash(&*name), ns);
        self.numbers.remove(&number);
        self.grants -= grants.len();
        self.states_bytes -= space.states_bytes;
        self.present.channels -= channels.len();
        self.present.users -= users.len();
        self.present.peers -= tally.peers;
        let grave = Grave { states: states.into_ids(), grants: grants.into_iter() };
        self.leaving.graves.push_back(grave);
        self.bury(BURIED_AT_ONCE);
        if tally.peers > 0 && self.leaving.sweep.is_empty() {
            self.leaving.sweep = 0..self.peers.slots();
        } else if tally.peers > 0 {
            self.leaving.is_swept_again = true;
        }
        self.go_on(out);
        Outcome::Reached(tally.peers)
    }

    /// Lets those go whose namespace is no more.
    fn sweep(&mut self, out: &mut impl Outbox) {
        while !self.leaving.sweep.is_empty() && self.leaving.spend(1) {
            let Some(slot) = self.leaving.sweep.next() else { return };
            if self.leaving.sweep.is_empty() && std::mem::take(&mut self.leaving.is_swept_again) {
                self.leaving.sweep = 0..self.peers.slots();
            }
            let is_there = |id: &PeerId| self.peers.get(*id).is_some_and(|peer| !peer.is_gone);
            let Some(id) = self.peers.at(slot).filter(is_there) else { continue };
            if let Some(reason) = self.verdict(id) {
                self.leaving.spend(LET_GO_STEPS);
                self.take_leave(id);
                out.close(id, reason);
            }
        }
    }

    /// Drops what was in namespaces that are no more: states and grants, at most so many.
    pub(super) fn bury(&mut self, count: usize) {
        for id in self.leaving.dig(count) {
            let timer = self.states.remove(id).and_then(|state| state.end?.timer);
            if let Some(timer) = timer {
                self.ends.cancel(timer);
            }
        }
    }

    /// Takes a grant back: the user's connections leave the channel. Whether there was one.
    pub(super) fn withdraw(&mut self, ns: NsId, channel: &str, user: &str) -> bool {
        let Some(space) = self.namespaces.get_mut(ns) else { return false };
        let was_granted = space.grants.remove(&super::GrantRef { channel, user });
        self.grants -= usize::from(was_granted);
        if let (Some(channel), Some(user)) =
            (self.find_channel(ns, channel), self.find_user(ns, user))
        {
            let left = self.users.get(user).map_or(0, |user| user.peers.len());
            let withdrawal = Withdrawal { left, readmitted: BTreeSet::new() };
            self.leaving.withdrawn.insert((channel, user), withdrawal);
            self.forget_withdrawn();
        }
        was_granted
    }

    /// Takes those out of channels to whom they were granted no longer.
    fn forget_withdrawn(&mut self) {
        while let Some(mut first) = self.leaving.withdrawn.first_entry() {
            let ((channel, user), withdrawal) = (*first.key(), first.get_mut());
            let peers = self.users.get(user).map_or(&[][..], |user| &user.peers);
            // Whoever leaves in between makes the list shorter, and fills the gap with the last.
            let at = withdrawal.left.min(peers.len());
            let Some(id) = at.checked_sub(1).and_then(|at| peers.get(at)).copied() else {
                first.remove();
                continue;
            };
            if self.leaving.steps == 0 {
                return;
            }
            withdrawal.left = at - 1;
            let is_to_leave = !withdrawal.readmitted.contains(&id);
            self.leaving.spend(1);
            if is_to_leave {
                self.leave(id, channel);
            }
        }
    }

    /// Takes a peer out of a channel, in constant time but for the search among the peer's own
    /// subscriptions, which are few. Frees the channel with its last member.
    pub(super) fn leave(&mut self, id: PeerId, channel_id: Id<Channel>) -> bool {
        let Some(peer) = self.peers.get_mut(id) else { return false };
        let find = |s: &Subscription| s.channel == channel_id;
        let Some(at) = peer.subscriptions.iter().rposition(find) else { return false };
        let Subscription { member, .. } = peer.subscriptions.swap_remove(at);
        if peer.subscriptions.is_empty() {
            peer.subscriptions = Vec::new();
        }
        // Both lists filled their gap with their last element, which must learn its new place.
        if let Some(moved) = peer.subscriptions.get(at).copied()
            && let Some(channel) = self.channels.get_mut(moved.channel)
        {
            channel.members[moved.member as usize].subscription = at as u32;
        }
        let Some(channel) = self.channels.get_mut(channel_id) else { return false };
        channel.members.swap_remove(member as usize);
        if let Some(moved) = channel.members.get(member as usize).copied()
            && let Some(peer) = self.peers.get_mut(moved.peer)
        {
            peer.subscriptions[moved.subscription as usize].member = member;
        }
        if channel.members.is_empty() {
            let (ns, hash) = (channel.ns, self.hasher.hash_one(&*channel.name));
            if let Some(ns) = self.namespaces.get_mut(ns) {
                ns.channels.remove(hash, channel_id);
                self.present.channels -= 1;
            }
            self.channels.remove(channel_id);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Change, Entry, Place, Seq, Undo};
    use crate::limits::Limits;
    use crate::publication::Publication;
    use crate::time::UnixMillis;
    use crate::uuid::Uuid;

    const AT: UnixMillis = UnixMillis(1000);

    /// What came out of the hub.
    #[derive(Default)]
    struct Out {
        closed: Vec<(PeerId, CloseReason)>,
        delivered: Vec<PeerId>,
    }

    impl Outbox for Out {
        fn deliver(&mut self, peer: PeerId, _: &Publication<'_>) {
            self.delivered.push(peer);
        }
        fn close(&mut self, peer: PeerId, reason: CloseReason) {
            self.closed.push((peer, reason));
        }
        fn changed(&mut self, _: Undo) {}
    }

    struct World {
        hub: Hub,
        out: Out,
        ns: NsId,
    }

    impl World {
        fn new() -> World {
            let limits = Limits { connections_per_user: 100_000, ..Limits::default() };
            let mut hub = Hub::new(limits, AT);
            let mut out = Out::default();
            assert!(hub.declare("a", "k", &mut out));
            let ns = hub.namespace("a").unwrap();
            World { hub, out, ns }
        }

        fn apply(&mut self, change: Change) -> Outcome {
            let entry = Entry { seq: Seq::default(), at: AT, change };
            self.hub.apply(entry, &mut self.out).unwrap()
        }

        /// Connections of users of that name, in so many channels each.
        fn crowd(&mut self, count: usize, user: &str, channels: &[&str]) -> Vec<PeerId> {
            let mut one = |i: usize| {
                let cid = Uuid::from_random([i as u8; 16]);
                let peer = self.hub.connect(self.ns, user, cid).unwrap();
                for channel in channels {
                    self.hub.subscribe(peer, channel, AT).unwrap();
                }
                peer
            };
            (0..count).map(&mut one).collect()
        }

        fn subscriptions(&self) -> usize {
            self.hub.peers.iter().map(|(_, peer)| peer.subscriptions.len()).sum()
        }

        fn emit(&mut self, channel: &str) -> Vec<PeerId> {
            let (ns, data) = (self.ns, "1".into());
            let channels = vec![channel.into()];
            self.apply(Change::Emit { ns, channels, data, user: None, except: None });
            std::mem::take(&mut self.out.delivered)
        }

        fn grant(&mut self, is_withdrawn: bool) {
            let (ns, channel, user) = (self.ns, "#vip".into(), "guest".into());
            self.apply(match is_withdrawn {
                true => Change::Revoke { ns, channel, user },
                false => Change::Grant { ns, channel, user },
            });
        }

        /// Turns until nobody is leaving any more, each of which must keep its budget.
        fn rest(&mut self, steps: usize) -> usize {
            let mut turns = 0;
            while self.hub.is_leaving() {
                assert_eq!(self.hub.next_end(), Some(UnixMillis(0)), "nobody would come back");
                let (told, left) = (self.out.closed.len(), self.subscriptions());
                self.hub.depart(steps, &mut self.out);
                let told = self.out.closed.len() - told;
                assert!(told <= steps.div_ceil(LET_GO_STEPS), "{told} told in one turn");
                let left = left - self.subscriptions();
                assert!(left + told * LET_GO_STEPS <= steps + LET_GO_STEPS, "{left} left at once");
                self.hub.check_invariants();
                turns += 1;
            }
            turns
        }
    }

    #[test]
    fn a_crowd_that_closes_at_once_leaves_step_by_step() {
        let mut world = World::new();
        let names: Vec<String> = (0..128).map(|i| i.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let crowd = world.crowd(100, "guest", &names);
        let stays = world.crowd(1, "other", &["7"]);
        crowd.iter().for_each(|peer| world.hub.disconnect(*peer));
        assert_eq!(world.hub.sizes(), [1, 128, 1, 1, 0], "gone for everybody who asks");
        assert_eq!(world.subscriptions(), 12_801, "no step was taken");
        let presence = world.hub.presence(world.ns, "7");
        assert_eq!((presence.users, presence.connections.len()), (1, 1));
        assert_eq!(world.emit("7"), stays);
        assert_eq!(world.hub.identity(crowd[0]), None);
        assert!(world.hub.subscribe(crowd[0], "7", AT).is_err());
        let turns = world.rest(1000);
        assert_eq!(turns, 13);
        assert_eq!(world.hub.sizes(), [1, 1, 1, 1, 0]);
    }

    #[test]
    fn whoever_comes_pays_for_those_who_left() {
        let mut world = World::new();
        for _ in 0..50 {
            // No turn begins: nobody takes a step but those who subscribe.
            for peer in world.crowd(10, "guest", &["a", "b", "c"]) {
                world.hub.disconnect(peer);
            }
            assert!(world.subscriptions() <= 60, "{} are left", world.subscriptions());
        }
    }

    #[test]
    fn a_namespace_is_gone_at_once_and_its_peers_are_told_step_by_step() {
        let mut world = World::new();
        let crowd = world.crowd(200, "guest", &["a", "b", "c"]);
        let (ns, place) = (world.ns, Place { channel: "a".into(), user: None });
        let data = "1".into();
        world.apply(Change::Set { ns, place, data, ttl_ms: None, emit: false });
        assert_eq!(world.apply(Change::Remove { ns }), Outcome::Reached(200));
        assert_eq!(world.hub.sizes()[..4], [0; 4]);
        // Its name can be had again, and those who were in it hear nothing of the new one.
        world.apply(Change::Register { name: "a".into(), key: "k".into() });
        world.ns = world.hub.namespace("a").unwrap();
        let new = world.crowd(1, "guest", &["a"]);
        assert_eq!(world.emit("a"), new);
        assert_eq!(world.hub.verdict(crowd[3]), Some(CloseReason::NamespaceRemoved));
        assert!(world.hub.subscribe(crowd[3], "a", AT).is_err());
        world.hub.disconnect(crowd[5]);
        assert!(world.rest(64) > 50);
        assert_eq!(world.out.closed.len(), 199);
        assert!(world.out.closed.iter().all(|(_, why)| *why == CloseReason::NamespaceRemoved));
        assert_eq!(world.hub.sizes(), [1, 1, 1, 1, 0]);
        // One that goes while the last one is still being swept out is not forgotten.
        world.crowd(100, "guest", &["a"]);
        assert!(world.hub.declare("b", "k", &mut world.out));
        let (first, second) = (world.ns, world.hub.namespace("b").unwrap());
        world.ns = second;
        world.crowd(100, "guest", &["a"]);
        world.apply(Change::Remove { ns: first });
        world.hub.depart(64, &mut world.out);
        world.apply(Change::Remove { ns: second });
        world.rest(64);
        assert_eq!(world.hub.sizes(), [0; 5]);
        assert_eq!(world.out.closed.len(), 199 + 201);
    }

    #[test]
    fn a_user_with_a_crowd_of_connections_is_let_go_step_by_step() {
        let mut world = World::new();
        let crowd = world.crowd(200, "guest", &["a"]);
        let disconnect = Change::Disconnect { ns: world.ns, user: "guest".into() };
        assert_eq!(world.apply(disconnect.clone()), Outcome::Reached(200));
        assert_eq!(world.apply(disconnect), Outcome::Reached(0));
        assert_eq!(world.hub.sizes()[2..4], [0, 0]);
        // The same user may come again, and is another.
        let again = world.crowd(1, "guest", &["a"]);
        assert_eq!(world.emit("a"), again);
        assert_eq!(world.hub.verdict(crowd[0]), Some(CloseReason::Disconnected));
        world.rest(64);
        assert_eq!(world.out.closed.len(), 200);
        assert_eq!(world.hub.sizes(), [1, 1, 1, 1, 0]);
    }

    #[test]
    fn a_grant_withdrawn_from_a_crowd_holds_at_once() {
        let mut world = World::new();
        world.grant(false);
        let crowd = world.crowd(500, "guest", &["#vip", "a"]);
        assert_eq!(world.emit("#vip").len(), 500);
        world.grant(true);
        assert_eq!(world.subscriptions(), 1000, "no step was taken");
        assert_eq!(world.emit("#vip"), []);
        assert_eq!(world.hub.presence(world.ns, "#vip").connections.len(), 0);
        assert!(world.hub.subscribe(crowd[1], "#vip", AT).is_err());
        // With another grant whoever subscribes again hears again, and nobody else.
        world.grant(false);
        assert_eq!(world.emit("#vip"), []);
        world.hub.subscribe(crowd[1], "#vip", AT).unwrap();
        world.hub.subscribe(crowd[490], "#vip", AT).unwrap();
        assert_eq!(world.emit("#vip"), [crowd[1], crowd[490]]);
        world.hub.depart(100, &mut world.out);
        world.hub.disconnect(crowd[2]);
        world.hub.disconnect(crowd[499]);
        world.hub.unsubscribe(crowd[3], "#vip");
        let newcomer = world.crowd(1, "guest", &["#vip"]);
        world.rest(100);
        let mut heard = world.emit("#vip");
        heard.sort_unstable();
        let mut expected = vec![crowd[1], crowd[490], newcomer[0]];
        expected.sort_unstable();
        assert_eq!(heard, expected);
        assert_eq!(world.subscriptions(), 498 + 3 + world.emit("none").len());
    }

    #[test]
    fn what_was_withdrawn_counts_against_no_limit() {
        let mut world = World::new();
        world.grant(false);
        let names: Vec<String> = (0..127).map(|i| i.to_string()).collect();
        let crowd = world.crowd(1, "guest", &["#vip"]);
        for name in &names {
            world.hub.subscribe(crowd[0], name, AT).unwrap();
        }
        assert!(world.hub.subscribe(crowd[0], "one more", AT).is_err());
        world.grant(true);
        world.hub.subscribe(crowd[0], "one more", AT).unwrap();
        world.rest(100);
        assert_eq!(world.subscriptions(), 128);
    }
}
