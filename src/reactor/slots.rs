//! The one slab of the reactor: doors and connections, each by the number that the kernel calls it
//! by. Part of the reactor, which asks it for connections; doors have a table for the rest of what
//! is known of them, because they are few.

use super::peer::Peer;
use crate::arena::Arena;
use crate::edge::{Conn, ConnId, Door};

/// So many slots are kept for those who watch: as many as `admin_connections` ever lets in.
const WATCHERS_MAX: usize = 8;

/// Who has a slot.
#[derive(Debug)]
enum Slot {
    /// A door: its place among the doors.
    Door(u16),
    Peer(Peer),
    /// One who may come through the admin door.
    Watcher,
}

/// Doors and connections.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Arena<Slot, Conn>,
    doors: usize,
    /// Slots kept for those who watch, low ones: whoever stands behind that door and has a table by
    /// slots would else have one as long as for all browsers, made at once when the first one asks.
    watchers: Vec<ConnId>,
}

impl Slots {
    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.doors - self.watchers.len()
    }

    /// A door with that place among the doors opens.
    pub fn open_door(&mut self, place: usize, door: Door) -> ConnId {
        self.doors += 1;
        while door == Door::Admin && self.watchers.len() < WATCHERS_MAX {
            self.watchers.push(self.slots.insert(Slot::Watcher));
        }
        self.slots.insert(Slot::Door(place as u16))
    }

    /// The place among the doors of the one in that slot, if it is one.
    pub fn door(&self, slot: usize) -> Option<usize> {
        match self.slots.get(self.slots.at(slot)?)? {
            Slot::Door(place) => Some(usize::from(*place)),
            Slot::Peer(_) | Slot::Watcher => None,
        }
    }

    /// The door with that place closes.
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
            // The slot that was freed last is used first.
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

    /// Gives a part of the memory back that a crowd has left behind. Whether there may be more.
    pub fn trim(&mut self) -> bool {
        self.slots.trim()
    }

    /// The id of the door or connection in that slot.
    pub fn at(&self, slot: usize) -> Option<ConnId> {
        self.slots.at(slot)
    }

    /// All connections, in the order of their slots.
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
    fn whoever_may_watch_has_a_slot() {
        let limit = Limits::TABLE.iter().find(|(name, ..)| *name == "admin_connections");
        assert_eq!(limit.map(|(_, _, most, _)| *most), Some(WATCHERS_MAX));
    }

    #[test]
    fn an_idle_connection_stays_small() {
        assert_eq!(Arena::<Slot, Conn>::SLOT_BYTES, 32);
    }
}
