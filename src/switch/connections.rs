//! The open connections of back ends, each with its [`Controller`]. Those of browsers are kept by
//! [`Web`](crate::web::Web).

use std::collections::BTreeMap;

use super::control::Controller;
use crate::edge::ConnId;

/// All connections of the control listener.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// `None` while the controller is taken out to be served.
    controllers: BTreeMap<ConnId, Option<Box<Controller>>>,
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
}
