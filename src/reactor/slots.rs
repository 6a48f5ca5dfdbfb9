//! The reactor's slab: listeners and connections, each at the index that is its token in epoll.
//! Part of the reactor, which looks connections up here; the listeners, which are few, have a table
//! of their own for everything else.

use super::peer::Peer;
use crate::arena::Arena;
use crate::edge::{Conn, ConnId, Door};

/// Slots reserved for admin clients: the largest `admin_connections` that can be configured.
const WATCHERS_MAX: usize = 8;

/// What a slot holds.
#[derive(Debug)]
enum Slot {
    /// A listener: its index in the table of listeners.
    Door(u16),
    Peer(Peer),
    /// Reserved for an admin client.
    Watcher,
}

/// Listeners and connections.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Arena<Slot, Conn>,
    doors: usize,
    /// Low slots reserved for admin clients: otherwise a table of theirs that is indexed by slot
    /// would be as long as for all browsers, allocated at once when the first of them comes.
    watchers: Vec<ConnId>,
}

impl Slots {
    /// Returns the number of connections.
    pub fn len(&self) -> usize {
        self.slots.len() - self.doors - self.watchers.len()
    }

    /// Adds a listener with that index in the table of listeners.
    pub fn open_door(&mut self, place: usize, door: Door) -> ConnId {
        self.doors += 1;
        while door == Door::Admin && self.watchers.len() < WATCHERS_MAX {
            self.watchers.push(self.slots.insert(Slot::Watcher));
        }
        self.slots.insert(Slot::Door(place as u16))
    }

    /// Returns the index of the listener in that slot, if it holds one.
    pub fn door(&self, slot: usize) -> Option<usize> {
        match self.slots.get(self.slots.at(slot)?)? {
            Slot::Door(place) => Some(usize::from(*place)),
            Slot::Peer(_) | Slot::Watcher => None,
        }
    }

    /// Removes the listener with that index.
    pub fn close_door(&mut self, place: usize) {
        let is_it = |slot: &Slot| matches!(slot, Slot::Door(other) if usize::from(*other) == place);
        let id = self.slots.iter().find(|(_, slot)| is_it(slot)).map(|(id, _)| id);
        let door = id.and_then(|id| self.slots.remove(id));
        self.doors -= usize::from(door.is_some());
    }

    pub fn insert(&mut self, peer: Peer) -> ConnId {
        if peer.door == Door::Admin
            && let Some(kept) = self.watchers.pop()
        {
            // The slot freed last is reused first.
            self.slots.remove(kept);
        }
        self.slots.insert(Slot::Peer(peer))
    }

    #[inline]
    pub fn get(&self, conn: ConnId) -> Option<&Peer> {
        match self.slots.get(conn) {
            Some(Slot::Peer(peer)) => Some(peer),
            _ => None,
        }
    }

    #[inline]
    pub fn get_mut(&mut self, conn: ConnId) -> Option<&mut Peer> {
        match self.slots.get_mut(conn) {
            Some(Slot::Peer(peer)) => Some(peer),
            _ => None,
        }
    }

    pub fn remove(&mut self, conn: ConnId) -> Option<Peer> {
        self.get(conn)?;
        let Some(Slot::Peer(peer)) = self.slots.remove(conn) else { return None };
        if peer.door == Door::Admin && self.watchers.len() < WATCHERS_MAX {
            self.watchers.push(self.slots.insert(Slot::Watcher));
        }
        Some(peer)
    }

    /// Gives back a part of the memory of a past crowd. Returns whether there may be more.
    pub fn trim(&mut self) -> bool {
        self.slots.trim()
    }

    /// Returns the id of the listener or connection in that slot.
    pub fn at(&self, slot: usize) -> Option<ConnId> {
        self.slots.at(slot)
    }

    /// Iterates over all connections, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (ConnId, &Peer)> {
        self.slots.iter().filter_map(|(id, slot)| match slot {
            Slot::Peer(peer) => Some((id, peer)),
            Slot::Door(_) | Slot::Watcher => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;

    #[test]
    fn the_limit_of_admin_connections_matches_the_reserved_slots() {
        let limit = Limits::TABLE.iter().find(|(name, ..)| *name == "admin_connections");
        assert_eq!(limit.map(|(_, _, most, _)| *most), Some(WATCHERS_MAX));
    }

    #[test]
    fn an_idle_connection_stays_small() {
        assert_eq!(Arena::<Slot, Conn>::SLOT_BYTES, 32);
    }
}
