//! The settings of a switch at the start, and those that can change while the server runs.

use super::full::Wait;
use super::{Demo, Switch};
use crate::address::Proxies;
use crate::codec::sockjs;
use crate::edge::Net;
use crate::hub::Declared;
use crate::journal::Recorder;
use crate::limits::Limits;
use crate::time::{Now, UnixMillis};
use crate::web::Service;

/// Slots examined in one turn for connections to count: about 50 µs.
const COUNTED_PER_TURN: usize = 64;

/// The settings of a switch at the start.
#[derive(Debug)]
pub struct Settings {
    /// All limits.
    pub limits: Limits,
    /// The key required for `registerNameSpace`, `removeNameSpace` and `rotateKey`.
    pub server_key: String,
    /// The demo page, if it is served.
    pub demo: Option<Demo>,
    /// How browsers are served over SockJS, and where.
    pub service: Service,
    /// Trusted proxies: their word is taken for the address of the client they forward.
    pub proxies: Proxies,
    /// The time at the start.
    pub now: Now,
    /// The same moment on the scale of entries and states: the date, unless an earlier run recorded
    /// another.
    pub at: UnixMillis,
}

impl Settings {
    /// Creates settings with these limits and this server key, defaults for all else, starting at
    /// `now`.
    pub fn new(limits: Limits, server_key: &str, now: Now) -> Settings {
        let service = Service::new(sockjs::PREFIX, &limits);
        let (server_key, proxies, at) = (server_key.to_owned(), Proxies::default(), now.unix);
        Settings { limits, server_key, demo: None, service, proxies, now, at }
    }
}

impl Switch {
    /// Declares a namespace of the configuration, at the start or a reload: creates it with this
    /// key, or gives it the key ([`crate::hub::Hub::declare`]). The key is not recorded: the
    /// configuration is its record. Returns `None` if there is no room.
    pub fn declare(&mut self, name: &str, key: &str) -> Option<Declared> {
        self.hub.declare(name, key, &mut Recorder(&mut *self.journal))
    }

    /// Applies new limits and options of the service. What has begun continues: no connection is
    /// closed because it would exceed a new limit.
    pub fn reload(&mut self, limits: &Limits, service: Service, now: Now) {
        if self.limits.connections_per_address == 0 && limits.connections_per_address > 0 {
            self.count_from = Some(0);
        }
        self.limits = limits.clone();
        self.hub.set_limits(limits.clone());
        self.journal.reload(limits);
        self.intake.reload();
        // Waiting connections may find room now, and nothing else may wake the loop for long.
        self.is_releasing = true;
        // A command that waits for the disk may be refused under the new limits: look at it again.
        for conn in &self.waiting_for_room {
            if let Some(controller) = self.connections.controller(*conn) {
                controller.wait = Wait::Other;
            }
        }
        self.shared.reload(limits);
        self.web.reload(vec![service], limits.clone(), now);
    }

    /// Counts the connections that were opened while there was no cap per address, a few per turn.
    pub(super) fn count_in(&mut self, net: &impl Net) {
        let Some(from) = self.count_from else { return };
        let end = (from + COUNTED_PER_TURN).min(self.web.slots());
        for slot in from..end {
            if let Some(conn) = self.web.conn(slot) {
                self.web.count_in(net, conn);
            }
        }
        self.count_from = (end < self.web.slots()).then_some(end);
    }

    /// Sets the key for `registerNameSpace`, `removeNameSpace` and `rotateKey`.
    pub fn set_server_key(&mut self, key: &str) {
        key.clone_into(&mut self.server_key);
    }

    /// Withdraws a namespace from the configuration (see [`crate::hub::Hub::undeclare`]).
    pub fn undeclare(&mut self, name: &str) -> bool {
        self.hub.undeclare(name)
    }
}
