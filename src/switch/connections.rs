//! The open connections and their roles: back ends, each with its [`Controller`], and browsers, by
//! slot only, because the web door keeps the rest about them.

use std::collections::BTreeMap;

use super::control::Controller;
use crate::edge::ConnId;

/// Entries that are kept allocated, however few are used.
const KEPT: usize = 1024;

/// All connections except those of the admin listener.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// `None` while the controller is taken out to be served.
    controllers: BTreeMap<ConnId, Option<Box<Controller>>>,
    /// By slot: generation of the connection plus one; 0 if there is none.
    browsers: Vec<u32>,
}

impl Connections {
    /// Returns the number of back ends.
    pub fn controllers(&self) -> usize {
        self.controllers.len()
    }

    /// Returns all back ends, in the order of their slots.
    pub fn all_controllers(&self) -> Vec<ConnId> {
        self.controllers.keys().copied().collect()
    }

    /// Returns at most `most` back ends, starting with `conn`.
    pub fn controllers_from(&self, conn: ConnId, most: usize) -> Vec<ConnId> {
        self.controllers.range(conn..).map(|(conn, _)| *conn).take(most).collect()
    }

    /// Returns a back end, unless it is taken out to be served.
    pub fn controller(&mut self, conn: ConnId) -> Option<&mut Controller> {
        self.controllers.get_mut(&conn)?.as_deref_mut()
    }

    /// The same, for reading.
    pub fn look_at(&self, conn: ConnId) -> Option<&Controller> {
        self.controllers.get(&conn)?.as_deref()
    }

    /// Whether this is a back end.
    pub fn is_controller(&self, conn: ConnId) -> bool {
        self.controllers.contains_key(&conn)
    }

    /// Whether this connection, of either kind, is open.
    pub fn has(&self, conn: ConnId) -> bool {
        self.is_controller(conn) || self.is_browser(conn)
    }

    /// Takes a back end out to serve it; the caller puts it back.
    pub fn take(&mut self, conn: ConnId) -> Option<Box<Controller>> {
        self.controllers.get_mut(&conn)?.take()
    }

    /// Puts back a back end that has been served.
    pub fn put_back(&mut self, conn: ConnId, controller: Box<Controller>) {
        if let Some(place) = self.controllers.get_mut(&conn) {
            *place = Some(controller);
        }
    }

    /// Adds a back end.
    pub fn add_controller(&mut self, conn: ConnId, controller: Controller) {
        self.controllers.insert(conn, Some(Box::new(controller)));
    }

    /// Removes a back end, if this is one.
    pub fn remove_controller(&mut self, conn: ConnId) -> Option<Box<Controller>> {
        self.controllers.remove(&conn).flatten()
    }

    /// Adds a connection of the web door.
    pub fn add_browser(&mut self, conn: ConnId) {
        if self.browsers.len() <= conn.index() {
            self.browsers.resize(conn.index() + 1, 0);
        }
        self.browsers[conn.index()] = conn.generation.wrapping_add(1);
    }

    /// Returns the web connection in that slot, `Some(None)` for none; `None` past the last slot.
    pub fn browser(&self, slot: usize) -> Option<Option<ConnId>> {
        let life = *self.browsers.get(slot)?;
        let conn = (life != 0).then(|| ConnId::new(slot as u32, life.wrapping_sub(1)));
        Some(conn)
    }

    /// Whether this is a connection of the web door.
    pub fn is_browser(&self, conn: ConnId) -> bool {
        self.browser(conn.index()).flatten() == Some(conn)
    }

    /// All connections of the web door.
    pub fn browsers(&self) -> impl Iterator<Item = ConnId> {
        (0..self.browsers.len()).filter_map(|slot| self.browser(slot).flatten())
    }

    /// Removes one; drops trailing empty entries, and memory when most of it is unused.
    pub fn remove_browser(&mut self, conn: ConnId) {
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
