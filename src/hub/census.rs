//! How much there is in the hub, and in each namespace; what was published there. Numbers alone,
//! each known without a search.

use super::{Hub, NsId};

/// What is counted of one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages published, since the namespace is there.
    pub publications: u64,
    /// Messages handed to subscribers, since then.
    pub deliveries: u64,
    /// Authenticated connections, now.
    pub peers: usize,
    /// States, now.
    pub states: usize,
}

impl Hub {
    /// How many namespaces, channels, users, peers and states there are. Those who are on their way
    /// out do not count, but for the channels that they have not been taken out of.
    pub fn sizes(&self) -> [usize; 5] {
        [
            self.namespaces.len(),
            self.present.channels,
            self.present.users,
            self.present.peers,
            self.living,
        ]
    }

    /// How many grants there are, and how many bytes of states.
    pub fn grants_and_states_bytes(&self) -> (usize, usize) {
        (self.grants, self.states_bytes)
    }

    /// Counts a message that was published, and handed to so many.
    pub fn count_publication(&mut self, ns: NsId, deliveries: u64) {
        if let Some(space) = self.namespaces.get_mut(ns) {
            space.tally.publications += 1;
            space.tally.deliveries += deliveries;
        }
    }

    /// So many peers more in a namespace, and so many less.
    pub(super) fn count_peers(&mut self, ns: NsId, more: usize, less: usize) {
        if let Some(space) = self.namespaces.get_mut(ns) {
            space.tally.peers = space.tally.peers + more - less;
            self.present.peers = self.present.peers + more - less;
        }
    }

    /// Name and numbers of the namespaces in the first `slots` places. A namespace keeps its place
    /// for life, so whoever is among them stays among them.
    pub fn tallies(&self, slots: usize) -> impl Iterator<Item = (&str, Tally)> {
        let first = (0..slots).filter_map(|slot| self.namespaces.at(slot));
        let spaces = first.filter_map(|id| self.namespaces.get(id));
        spaces.map(|space| (&*space.name, Tally { states: space.states.len(), ..space.tally }))
    }
}
