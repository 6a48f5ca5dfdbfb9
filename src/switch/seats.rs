//! Who is connected, and as what: back ends, each with what is known of it, and by their slots
//! those who have come through the web door, which knows the rest of them.

use std::collections::BTreeMap;

use super::control::Controller;
use crate::edge::ConnId;

/// So many places are kept, however few are taken.
const KEPT: usize = 1024;

/// All connections but those of the admin.
#[derive(Debug, Default)]
pub(super) struct Seats {
    /// None, while it is being served.
    controllers: BTreeMap<ConnId, Option<Box<Controller>>>,
    /// By the slot of the connection: which life of the slot it is, and one more; 0 for nobody.
    browsers: Vec<u32>,
}

impl Seats {
    /// How many back ends there are.
    pub fn controllers(&self) -> usize {
        self.controllers.len()
    }

    /// All back ends, in the order of their slots.
    pub fn all_controllers(&self) -> Vec<ConnId> {
        self.controllers.keys().copied().collect()
    }

    /// So many back ends at most, from that one on.
    pub fn controllers_from(&self, conn: ConnId, most: usize) -> Vec<ConnId> {
        self.controllers.range(conn..).map(|(conn, _)| *conn).take(most).collect()
    }

    /// A back end, unless it is being served.
    pub fn controller(&mut self, conn: ConnId) -> Option<&mut Controller> {
        self.controllers.get_mut(&conn)?.as_deref_mut()
    }

    /// The same, to look at.
    pub fn look_at(&self, conn: ConnId) -> Option<&Controller> {
        self.controllers.get(&conn)?.as_deref()
    }

    /// Whether this is a back end.
    pub fn is_controller(&self, conn: ConnId) -> bool {
        self.controllers.contains_key(&conn)
    }

    /// Whether somebody of either kind is here.
    pub fn has(&self, conn: ConnId) -> bool {
        self.is_controller(conn) || self.is_browser(conn)
    }

    /// A back end, to be served and put back.
    pub fn take(&mut self, conn: ConnId) -> Option<Box<Controller>> {
        self.controllers.get_mut(&conn)?.take()
    }

    /// One that has been served.
    pub fn put_back(&mut self, conn: ConnId, controller: Box<Controller>) {
        if let Some(place) = self.controllers.get_mut(&conn) {
            *place = Some(controller);
        }
    }

    /// A back end has come.
    pub fn seat_controller(&mut self, conn: ConnId, controller: Controller) {
        self.controllers.insert(conn, Some(Box::new(controller)));
    }

    /// A back end has gone, if this was one.
    pub fn leave_controller(&mut self, conn: ConnId) -> Option<Box<Controller>> {
        self.controllers.remove(&conn).flatten()
    }

    /// Somebody has come through the web door.
    pub fn seat_browser(&mut self, conn: ConnId) {
        if self.browsers.len() <= conn.index() {
            self.browsers.resize(conn.index() + 1, 0);
        }
        self.browsers[conn.index()] = conn.generation.wrapping_add(1);
    }

    /// Who is in that slot, if they came through the web door. `None` behind the last of them.
    pub fn browser(&self, slot: usize) -> Option<Option<ConnId>> {
        let life = *self.browsers.get(slot)?;
        let conn = (life != 0).then(|| ConnId::new(slot as u32, life.wrapping_sub(1)));
        Some(conn)
    }

    /// Whether this is one of them.
    pub fn is_browser(&self, conn: ConnId) -> bool {
        self.browser(conn.index()).flatten() == Some(conn)
    }

    /// All of them.
    pub fn browsers(&self) -> impl Iterator<Item = ConnId> {
        (0..self.browsers.len()).filter_map(|slot| self.browser(slot).flatten())
    }

    /// One of them has gone. Places behind the last are given back when most are empty.
    pub fn leave_browser(&mut self, conn: ConnId) {
        if let Some(life) = self.browsers.get_mut(conn.index()) {
            *life = 0;
        }
        while self.browsers.last() == Some(&0) {
            self.browsers.pop();
        }
        if self.browsers.is_empty() && self.browsers.capacity() >= KEPT {
            self.browsers = Vec::new();
        } else if self.browsers.capacity() > KEPT
            && self.browsers.len() <= self.browsers.capacity() / 4
        {
            self.browsers.shrink_to(KEPT.max(2 * self.browsers.len()));
        }
    }
}
