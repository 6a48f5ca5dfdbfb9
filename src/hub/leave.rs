//! Removal. A connection, user or namespace that leaves is gone at once for every query and
//! publication. Taking it out of the tables costs a step for each subscription, closing its
//! connections more; each turn has a budget of steps ([`Hub::reap`]), and the rest goes on in the
//! next one. Only [`Hub::hears`] has to consider peers that are still leaving, and only while there
//! are any: [`Leaving::is_calm`] says that there are none.

#[cfg(test)]
mod tests;
mod withdrawn;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::index::Slots;
use super::{ChannelId, Hub, Namespace, NsId, Outbox, Outcome, PeerId};
use super::{Subscription, User};
use crate::arena::{Id, NIL};
use crate::reason::CloseReason;
use withdrawn::{Exit, Withdrawals};

/// Steps that closing a connection costs: it gets a last message, is closed, and written to.
const LET_GO_STEPS: usize = 16;
/// Old subscriptions that each new one removes, so that clients that connect and disconnect cannot
/// leave more behind than they have taken.
const PAID_STEPS: usize = 2;
/// States and grants freed at once when a namespace is removed; the rest follow later.
const FREED_AT_ONCE: usize = 1000;

/// Everything that is gone, but not yet removed from the tables.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Steps left in this turn.
    steps: usize,
    /// Peers that are gone and still listed in their channels.
    gone: VecDeque<PeerId>,
    /// Users whose connections are all to be closed.
    users: VecDeque<Id<User>>,
    /// Slots still to be scanned for peers of removed namespaces, and whether to scan all once
    /// more, because another namespace was removed meanwhile.
    sweep: Range<usize>,
    is_swept_again: bool,
    /// Grants that were withdrawn while connections of the user were in the channel.
    withdrawn: BTreeMap<(ChannelId, Id<User>), Withdrawals>,
    /// How many withdrawals there have been, and the exits still to be made, in order.
    withdrawals: u64,
    exits: VecDeque<Exit>,
    /// No change up to this mark is undone.
    kept: u64,
    /// The contents of removed namespaces.
    garbage: VecDeque<Garbage>,
}

/// What is still to be freed of a removed namespace; it cannot be found any more.
#[derive(Debug)]
struct Garbage {
    /// The removed namespace, and the slots of its states and grants. The slot of a state that has
    /// expired meanwhile may have been reused.
    ns: NsId,
    states: Slots,
    grants: Slots,
}

/// How many there are, without those that are leaving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Present {
    pub channels: usize,
    pub users: usize,
    pub peers: usize,
    /// Pairs of a peer and a channel that it hears.
    pub subscriptions: usize,
}

impl Leaving {
    /// Takes `steps` from the budget. Returns whether any were left: the last one may overdraw it.
    fn spend(&mut self, steps: usize) -> bool {
        let is_affordable = self.steps > 0;
        self.steps = self.steps.saturating_sub(steps);
        is_affordable
    }

    /// Whether every member of every channel may hear what is published there.
    pub fn is_calm(&self) -> bool {
        self.gone.is_empty() && self.users.is_empty() && self.withdrawn.is_empty()
    }

    /// Whether removed namespaces have contents still to be freed.
    pub fn has_garbage(&self) -> bool {
        !self.garbage.is_empty()
    }

    /// Whether every member of this channel may hear what is published there.
    pub fn is_calm_in(&self, channel: ChannelId) -> bool {
        let of_it = (channel, Id::new(0, 0))..=(channel, Id::new(NIL, NIL));
        let is_given = || self.withdrawn.range(of_it).next().is_none();
        self.gone.is_empty() && self.users.is_empty() && (self.withdrawn.is_empty() || is_given())
    }

    /// Whether the next withdrawal is final, so that connections have to leave the channel.
    fn has_exits(&self) -> bool {
        self.exits.front().is_some_and(|exit| exit.mark <= self.kept)
    }

    /// Slots of states still to be freed with their namespaces.
    pub fn garbage_states(&self) -> usize {
        self.garbage.iter().map(|garbage| garbage.states.len()).sum()
    }

    /// Slots of grants still to be freed with their namespaces.
    pub fn garbage_grants(&self) -> usize {
        self.garbage.iter().map(|garbage| garbage.grants.len()).sum()
    }

    /// Takes up to `count` slots out of the garbage, of states and of grants (`count` in all), each
    /// with the namespace that it belonged to.
    fn take_slots(&mut self, count: usize) -> [Vec<(NsId, u32)>; 2] {
        let (mut taken, mut left) = ([Vec::new(), Vec::new()], count);
        while let Some(garbage) = self.garbage.front_mut().filter(|_| left > 0) {
            let ns = garbage.ns;
            for (slots, taken) in
                [&mut garbage.states, &mut garbage.grants].into_iter().zip(&mut taken)
            {
                let before = taken.len();
                taken.extend(slots.take(left).map(|slot| (ns, slot)));
                left -= taken.len() - before;
            }
            if garbage.states.len() == 0 && garbage.grants.len() == 0 {
                self.garbage.pop_front();
            }
        }
        taken
    }
}

impl Hub {
    /// Goes on with the removals. `steps` is the budget of all operations until the next call. A
    /// step removes one subscription or looks at one connection; closing a connection takes
    /// sixteen.
    pub fn reap(&mut self, steps: usize, out: &mut impl Outbox) {
        self.leaving.steps = steps;
        self.reap_some(out);
        self.shrink();
    }

    /// Gives back memory that a crowd has left behind: a part of each table per call.
    fn shrink(&mut self) {
        let Hub { namespaces, channels, users, peers, states, grants, ends, .. } = self;
        let here = channels.trim() | users.trim() | peers.trim();
        let kept = namespaces.trim() | states.trim() | grants.trim() | ends.trim();
        self.is_shrinking = here | kept;
    }

    /// Whether any removal is unfinished.
    pub fn is_leaving(&self) -> bool {
        let Leaving { sweep, gone, users, .. } = &self.leaving;
        let is_anybody = !gone.is_empty() || !users.is_empty() || self.leaving.has_exits();
        is_anybody || !sweep.is_empty() || self.leaving.has_garbage()
    }

    /// No change up to this mark ([`Outbox::mark`]) will be undone any more.
    pub fn keep(&mut self, mark: u64) {
        self.leaving.kept = mark;
    }

    fn reap_some(&mut self, out: &mut impl Outbox) {
        self.let_users_go(out);
        self.sweep(out);
        self.forget_withdrawn();
        self.forget_gone();
    }

    /// Whether a peer is connected, and neither its namespace nor its user is being removed.
    pub(super) fn is_here(&self, peer: PeerId) -> bool {
        self.verdict(peer).is_none()
    }

    /// Why a peer is about to be closed; `None` if it is not. What such a peer sends is ignored.
    pub fn verdict(&self, peer: PeerId) -> Option<CloseReason> {
        let Some(user) = self.user_of(peer) else { return Some(CloseReason::Disconnected) };
        let is_lost = !self.namespaces.contains(user.ns);
        is_lost.then_some(CloseReason::NamespaceRemoved)
    }

    /// The user of a peer; `None` if the peer is gone, or the user can no longer be found.
    pub(super) fn user_of(&self, peer: PeerId) -> Option<&User> {
        let peer = self.peers.get(peer).filter(|peer| !peer.is_gone())?;
        self.users.in_slot(peer.user).map(|(_, user)| user).filter(|user| !user.is_leaving())
    }

    /// Whether a member of a channel is to hear what is published there.
    pub(super) fn hears(&self, peer: PeerId, channel: ChannelId) -> bool {
        self.leaving.is_calm() || self.is_here(peer) && !self.is_withdrawn(peer, channel)
    }

    fn is_withdrawn(&self, id: PeerId, channel: ChannelId) -> bool {
        if self.leaving.withdrawn.is_empty() {
            return false;
        }
        let user = self.user_id(id);
        let withdrawn = user.and_then(|user| self.leaving.withdrawn.get(&(channel, user)));
        withdrawn.is_some_and(|withdrawn| !withdrawn.is_readmitted(id))
    }

    /// The user of a peer that is not gone.
    fn user_id(&self, peer: PeerId) -> Option<Id<User>> {
        let peer = self.peers.get(peer).filter(|peer| !peer.is_gone())?;
        self.users.at(peer.user as usize)
    }

    /// How many channels a peer hears.
    pub(super) fn channels_of(&self, id: PeerId) -> usize {
        let Some(peer) = self.peers.get(id) else { return 0 };
        let is_heard = |s: &&Subscription| {
            let channel = self.channels.at(s.channel as usize);
            !channel.is_some_and(|channel| self.is_withdrawn(id, channel))
        };
        match self.leaving.withdrawn.is_empty() {
            true => peer.subscriptions.len(),
            false => peer.subscriptions.iter().filter(is_heard).count(),
        }
    }

    /// A peer has subscribed, and may have been listed in the channel already: earlier withdrawals
    /// no longer concern it. Also removes some subscriptions of peers that are gone.
    pub(super) fn admitted(&mut self, id: PeerId, channel: ChannelId, was_in: bool) {
        if let Some(user) = self.user_id(id)
            && let Some(withdrawn) = self.leaving.withdrawn.get_mut(&(channel, user))
        {
            withdrawn.readmit(id, was_in);
        }
        if !self.leaving.gone.is_empty() {
            self.leaving.steps += PAID_STEPS;
            self.forget_gone();
        }
    }

    /// A peer is about to leave a channel: forgets that it was readmitted there.
    fn forget_readmission(&mut self, id: PeerId, channel: ChannelId) {
        if !self.leaving.withdrawn.is_empty()
            && let Some(user) = self.user_id(id)
            && let Some(withdrawn) = self.leaving.withdrawn.get_mut(&(channel, user))
        {
            withdrawn.forget(id, u64::MAX);
        }
    }

    /// The same for all its channels, because the peer goes.
    fn forget_readmissions(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(id).filter(|_| !self.leaving.withdrawn.is_empty()) else {
            return;
        };
        let slots = peer.subscriptions.iter().map(|s| s.channel as usize);
        let channels: Vec<ChannelId> = slots.filter_map(|slot| self.channels.at(slot)).collect();
        channels.into_iter().for_each(|channel| self.forget_readmission(id, channel));
    }

    /// A connection is gone: it hears nothing more, and will be taken out of all its channels.
    pub fn disconnect(&mut self, peer: PeerId) {
        self.take_leave(peer);
        self.forget_gone();
    }

    fn take_leave(&mut self, id: PeerId) {
        let was_here = self.is_here(id);
        let Some(user_id) = self.user_id(id) else { return };
        let heard = self.channels_of(id);
        self.forget_readmissions(id);
        let Some(peer) = self.peers.get_mut(id) else { return };
        let place = peer.place;
        peer.go();
        self.leaving.gone.push_back(id);
        let Some(user) = self.users.get_mut(user_id) else { return };
        let ns = user.ns;
        user.peers.swap_remove(place as usize);
        if let Some(moved) = user.peers.get(place as usize).copied()
            && let Some(peer) = self.peers.get_mut(moved)
        {
            peer.place = place;
        }
        let is_last = user.peers.is_empty();
        if was_here {
            self.count_peers(ns, 0, 1);
            self.count_subscriptions(ns, 0, heard);
        }
        if is_last {
            self.close_user(user_id);
            self.users.remove(user_id);
        }
    }

    /// Makes a user impossible to find.
    fn close_user(&mut self, id: Id<User>) {
        let Some(user) = self.users.get_mut(id) else { return };
        let ns = std::mem::replace(&mut user.ns, User::NOWHERE);
        if let Some(ns) = self.namespaces.get_mut(ns) {
            ns.users.remove(&self.users, id, &self.hasher);
            self.present.users -= 1;
        }
    }

    /// Takes peers that are gone out of their channels, while steps are left.
    fn forget_gone(&mut self) {
        while let Some(id) = self.leaving.gone.front().copied()
            && self.leaving.spend(1)
        {
            match self.peers.get(id).and_then(|peer| peer.subscriptions.last()) {
                Some(Subscription { channel, .. }) => {
                    let channel = *channel;
                    self.leave_slot(id, channel);
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

    /// Disconnects a user: all its connections will be closed. Returns how many they are.
    pub(super) fn expel(&mut self, ns: NsId, user: &str, out: &mut impl Outbox) -> Outcome {
        let Some((id, _)) = self.find_user(ns, user) else { return Outcome::Reached(0) };
        let peers = self.users.get(id).map_or(&[][..], |user| &user.peers);
        let count = peers.len();
        let heard = peers.iter().map(|peer| self.channels_of(*peer)).sum();
        self.close_user(id);
        self.count_peers(ns, 0, count);
        self.count_subscriptions(ns, 0, heard);
        self.leaving.users.push_back(id);
        self.reap_some(out);
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
            let route = self.peers.get(peer).map(|peer| peer.route);
            self.take_leave(peer);
            if let Some(route) = route {
                out.close(route, CloseReason::Disconnected);
            }
        }
    }

    /// Removes a namespace. It is out of reach at once; its peers are closed in the order of their
    /// slots, because the order of the tables is random.
    pub(super) fn remove(&mut self, ns: NsId, out: &mut impl Outbox) -> Outcome {
        self.names.remove(&self.namespaces, ns, &self.hasher);
        let Some(space) = self.namespaces.remove(ns) else { return Outcome::Reached(0) };
        let Namespace { number, channels, users, states, grants, tally, .. } = space;
        self.numbers.remove(&number);
        self.key_changes += 1;
        self.grant_count -= grants.len();
        self.states_bytes -= space.states_bytes;
        self.state_count -= states.len();
        self.present.channels -= channels.len();
        self.present.users -= users.len();
        self.present.peers -= tally.peers;
        self.present.subscriptions -= space.subscriptions;
        let garbage = Garbage { ns, states: states.into_slots(), grants: grants.into_slots() };
        self.leaving.garbage.push_back(garbage);
        self.free_garbage(FREED_AT_ONCE);
        if tally.peers > 0 && self.leaving.sweep.is_empty() {
            self.leaving.sweep = 0..self.peers.slots();
        } else if tally.peers > 0 {
            self.leaving.is_swept_again = true;
        }
        self.reap_some(out);
        Outcome::Reached(tally.peers)
    }

    /// Closes peers of removed namespaces, while steps are left.
    fn sweep(&mut self, out: &mut impl Outbox) {
        while !self.leaving.sweep.is_empty() && self.leaving.spend(1) {
            let Some(slot) = self.leaving.sweep.next() else { return };
            if self.leaving.sweep.is_empty() && std::mem::take(&mut self.leaving.is_swept_again) {
                self.leaving.sweep = 0..self.peers.slots();
            }
            let Some(id) = self.peers.at(slot) else { continue };
            let Some(peer) = self.peers.get(id).filter(|peer| !peer.is_gone()) else { continue };
            let route = peer.route;
            if let Some(reason) = self.verdict(id) {
                self.leaving.spend(LET_GO_STEPS);
                self.take_leave(id);
                out.close(route, reason);
            }
        }
    }

    /// Frees states and grants of removed namespaces, at most `count` in all.
    pub(super) fn free_garbage(&mut self, count: usize) {
        let [states, grants] = self.leaving.take_slots(count);
        for (ns, slot) in states {
            let state = self.states.in_slot(slot).filter(|(_, state)| state.ns == ns);
            let Some((id, _)) = state else { continue };
            let timer = self.states.remove(id).and_then(|state| state.end?.timer);
            if let Some(timer) = timer {
                self.ends.cancel(timer);
            }
        }
        for (ns, slot) in grants {
            let grant = self.grants.in_slot(slot).filter(|(_, grant)| grant.ns == ns);
            let id = grant.map(|(id, _)| id);
            id.and_then(|id| self.grants.remove(id));
        }
    }

    /// Takes a peer out of a channel; returns whether it was in it. Constant time, except for a
    /// search among the peer's own few subscriptions. Frees the channel with its last member.
    pub(super) fn leave(&mut self, id: PeerId, channel: ChannelId) -> bool {
        self.channels.contains(channel) && self.leave_slot(id, channel.slot)
    }

    /// The same for the channel in that slot.
    fn leave_slot(&mut self, id: PeerId, slot: u32) -> bool {
        let Some(channel_id) = self.channels.at(slot as usize) else { return false };
        let ns = self.user_of(id).map(|user| user.ns);
        let was_heard = self.hears(id, channel_id);
        self.forget_readmission(id, channel_id);
        let Some(peer) = self.peers.get_mut(id) else { return false };
        let find = |s: &Subscription| s.channel == slot;
        let Some(at) = peer.subscriptions.iter().rposition(find) else { return false };
        let Subscription { member, .. } = peer.subscriptions.swap_remove(at);
        let moved = peer.subscriptions.get(at).copied();
        if let Some(ns) = ns.filter(|_| was_heard) {
            self.count_subscriptions(ns, 0, 1);
        }
        // Both lists fill their gap with their last element, which must learn its new place.
        if let Some(moved) = moved
            && let Some(channel) = self.channels.in_slot_mut(moved.channel)
        {
            channel.members[moved.member as usize].subscription = at as u32;
        }
        let Some(channel) = self.channels.in_slot_mut(slot) else { return false };
        channel.members.swap_remove(member as usize);
        if let Some(moved) = channel.members.get(member as usize).copied()
            && let Some(peer) = self.peers.in_slot_mut(moved.peer)
        {
            peer.subscriptions[moved.subscription as usize].member = member;
        }
        if !channel.members.is_empty() {
            return true;
        }
        if let Some(ns) = self.namespaces.get_mut(channel.ns) {
            ns.channels.remove(&self.channels, channel_id, &self.hasher);
            self.present.channels -= 1;
        }
        self.channels.remove(channel_id);
        true
    }
}
