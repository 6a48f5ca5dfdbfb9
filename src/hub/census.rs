//! Counts: how much there is in the hub and in each namespace, and what was published there.
//! Numbers only, each known without a search.

use super::leave::Present;
use super::state::State;
use super::{Hub, Namespace, NsId, PeerId};

/// The counts of one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages published since the namespace was created or restored.
    pub publications: u64,
    /// Messages delivered to subscribers since then.
    pub deliveries: u64,
    /// Authenticated connections, now.
    pub peers: usize,
    /// States, now.
    pub states: usize,
}

impl Hub {
    /// Numbers of namespaces, channels, users, peers and states. What is leaving does not count,
    /// but a channel does until its leaving members have been taken out.
    pub fn sizes(&self) -> [usize; 5] {
        [
            self.namespaces.len(),
            self.present.channels,
            self.present.users,
            self.present.peers,
            self.state_count,
        ]
    }

    /// The name of a namespace; `None` if it is gone.
    pub fn name(&self, ns: NsId) -> Option<&str> {
        self.namespaces.get(ns).map(|ns| &*ns.name)
    }

    /// Number of grants, and bytes of all states.
    pub fn grants_and_states_bytes(&self) -> (usize, usize) {
        (self.grant_count, self.states_bytes)
    }

    /// Counts published messages, and the deliveries of all of them together.
    pub fn count_publications(&mut self, ns: NsId, publications: u64, deliveries: u64) {
        if let Some(space) = self.namespaces.get_mut(ns) {
            space.tally.publications += publications;
            space.tally.deliveries += deliveries;
        }
    }

    /// Counts `more` peers in a namespace and `less` fewer.
    pub(super) fn count_peers(&mut self, ns: NsId, more: usize, less: usize) {
        if let Some(space) = self.namespaces.get_mut(ns) {
            space.tally.peers = space.tally.peers + more - less;
            self.present.peers = self.present.peers + more - less;
        }
    }

    /// Counts `more` subscriptions in a namespace and `less` fewer.
    pub(super) fn count_subscriptions(&mut self, ns: NsId, more: usize, less: usize) {
        if let Some(space) = self.namespaces.get_mut(ns) {
            space.subscriptions = space.subscriptions + more - less;
            self.present.subscriptions = self.present.subscriptions + more - less;
        }
    }

    /// Names and counts of the namespaces in the first `slots` slots. A namespace keeps its slot
    /// for life, so one that is shown stays shown.
    pub fn tallies(&self, slots: usize) -> impl Iterator<Item = (&str, Tally)> {
        let first = (0..slots).filter_map(|slot| self.namespaces.at(slot));
        let spaces = first.filter_map(|id| self.namespaces.get(id));
        spaces.map(|space| (&*space.name, Tally { states: space.states.len(), ..space.tally }))
    }

    /// Checks the counts against the tables.
    ///
    /// # Panics
    /// If one does not match.
    pub(super) fn check_numbers(&self) {
        let is_found = |state: &State| self.namespaces.contains(state.ns);
        for (id, state) in self.states.iter().filter(|(_, state)| is_found(state)) {
            let found = self.find_state(state.ns, state.state_key.as_ref());
            assert_eq!(found.map(|(id, _)| id), Some(id));
            assert!(state.end.as_ref().is_none_or(|end| end.timer.is_some()));
        }
        let total = |count: fn(&Namespace) -> usize| -> usize {
            self.namespaces.iter().map(|(_, ns)| count(ns)).sum()
        };
        let Present { channels, users, peers, subscriptions } = self.present;
        let heard = |ns: Option<NsId>| -> usize {
            let here = self.peers.iter().map(|(id, _)| id).filter(|id| self.is_here(*id));
            let its = |id: &PeerId| ns.is_none() || self.user_of(*id).map(|user| user.ns) == ns;
            here.filter(its).map(|id| self.channels_of(id)).sum()
        };
        assert_eq!(heard(None), subscriptions);
        for (id, ns) in self.namespaces.iter() {
            assert_eq!(heard(Some(id)), ns.subscriptions);
        }
        assert_eq!(total(|ns| ns.channels.len()), channels);
        assert_eq!(total(|ns| ns.users.len()), users);
        assert_eq!(total(|ns| ns.tally.peers), peers);
        let here = self.peers.iter().filter(|(id, _)| self.is_here(*id));
        assert_eq!(here.count(), peers);
        if !self.is_leaving() {
            let in_all = (self.channels.len(), self.users.len(), self.peers.len());
            assert_eq!(in_all, (channels, users, peers), "somebody is left");
        }
        let garbage = self.states.iter().filter(|(_, state)| !is_found(state)).count();
        assert_eq!(total(|ns| ns.states.len()), self.state_count);
        assert_eq!(self.state_count + garbage, self.states.len());
        // Some of those states may have expired after their namespace was removed.
        assert!(garbage <= self.leaving.garbage_states());
        assert_eq!(total(|ns| ns.grants.len()), self.grant_count);
        assert_eq!(self.grant_count + self.leaving.garbage_grants(), self.grants.len());
        assert_eq!(total(|ns| ns.states_bytes), self.states_bytes);
        let states = self.states.iter().map(|(_, state)| state);
        let bytes: usize = states.filter(|state| is_found(state)).map(State::bytes).sum();
        assert_eq!(bytes, self.states_bytes);
        let timed = self.states.iter().filter(|(_, state)| state.end.is_some()).count();
        assert_eq!(timed, self.ends.len());
        self.ends.check_invariants();
    }
}
