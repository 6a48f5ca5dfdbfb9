//! State and counters of the switch, for the server at its end, the admin listener and tests.
//! Changes nothing.

use super::browser::Browser;
use super::intake::Room;
use super::{Switch, Waiter};
use crate::edge::ConnId;
use crate::hub::Hub;
use crate::journal::Journal;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::publication::Ways;
use crate::reason::CloseReason;
use crate::time::Now;
use crate::web::Bodies;

/// The number of connections of each kind, and what waits for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Connections of back ends.
    pub control: usize,
    /// Browsers, by transport.
    pub ways: Ways,
    /// Connections of browsers that are not WebSockets: idle between two requests, in a request, or
    /// waiting for messages of a session.
    pub http: usize,
    /// Browsers that have not authenticated.
    pub unauthenticated: usize,
    /// Memory held for request bodies.
    pub bodies: Bodies,
    /// Bytes of replies to back ends that wait for the disk.
    pub pending_reply_bytes: usize,
    /// Bytes reserved for large frames of back ends that are arriving.
    pub control_input: usize,
    /// How often such a frame had to wait for room.
    pub control_input_waits: u64,
    /// How often the connection of one was closed to make room for others.
    pub control_input_evicted: u64,
}

impl Switch {
    /// Returns the counters of what has happened so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the hub, for reading.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Returns the journal, for reading.
    pub fn journal(&self) -> &dyn Journal {
        &*self.journal
    }

    /// Returns the limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether replies that could be sent wait for the next turn.
    pub fn is_releasing(&self) -> bool {
        self.is_releasing
    }

    /// Returns how many sessions over HTTP have ended, by [`CloseReason`].
    pub fn http_sessions_closed(&self) -> &[u64; CloseReason::ALL.len()] {
        self.web.http_sessions_closed()
    }

    /// Counts the open connections of each kind.
    pub fn census(&self) -> Census {
        let ways = self.web.ways();
        let http = self.web_connections().saturating_sub(ways.raw + ways.sockjs);
        let (unauthenticated, bodies) = (self.web.unauthenticated(), self.web.bodies());
        Census {
            control: self.connections.controllers(),
            ways,
            http,
            unauthenticated,
            bodies,
            pending_reply_bytes: self.pending_reply_bytes(),
            control_input: self.intake.reserved(),
            control_input_waits: self.intake.waits,
            control_input_evicted: self.intake.evicted,
        }
    }

    /// Returns how many connections of the web door are open.
    pub(super) fn web_connections(&self) -> usize {
        let Metrics { web_opened, web_closed, .. } = self.metrics;
        usize::try_from(web_opened.saturating_sub(web_closed)).unwrap_or_default()
    }

    /// Checks all invariants; for tests.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub fn check_invariants(&self) {
        self.hub.check_invariants();
        self.web.check_invariants();
        self.check_census();
        self.check_intake();
        self.check_owed();
        let is_authenticated = |browser: &&Browser| {
            browser.peer().is_some_and(|peer| self.hub.identity(peer).is_some())
        };
        let peers = self.web.peers().filter(is_authenticated);
        assert_eq!(peers.count(), self.hub.sizes()[3], "a peer without a connection");
        let controllers = self.connections.all_controllers();
        assert!(self.unauthenticated.iter().all(|conn| controllers.contains(&conn)));
        self.unauthenticated.check_invariants();
        let is_served = |conn: &ConnId| self.connections.look_at(*conn).is_none();
        assert!(!controllers.iter().any(is_served), "one is not put back");
        for (ticket, waiter) in &self.waiting {
            let Waiter::Command(conn) = waiter else { continue };
            let controller = self.connections.look_at(*conn);
            assert!(controller.is_some_and(|c| c.waits == Some(*ticket)));
        }
    }

    /// Checks that nothing is left after all connections have gone; for tests.
    ///
    /// # Panics
    /// If anything is left.
    pub fn check_drained(&self, now: Now) {
        let queues =
            [self.connections.controllers(), self.unauthenticated.len(), self.waiting.len()];
        assert_eq!(queues, [0; 3], "controllers, strangers, and who waits for a place");
        let queues = [
            self.pending_durable.len(),
            self.waiting_for_room.len(),
            self.leaving.len(),
            self.long_emits.len(),
        ];
        assert_eq!(queues, [0; 4], "who is owed, held back, leaving, or not done with");
        assert!(self.publish_batch.is_empty(), "what was gathered is not handed out");
        assert!(self.shared.due().is_none(), "a large state is on its way to nobody");
        assert_eq!(
            (self.room_queue.len(), self.reply_reserve.reserved()),
            (0, 0),
            "who waits for answers"
        );
        self.intake.check_drained();
        self.web.check_drained();
        let meters = self.journal.meters(now).unwrap_or_default();
        assert!(!meters.is_failing, "the disk is well, and the store is not");
        let pending = (meters.pending_changes, meters.pending_bytes, meters.lag_ms);
        assert_eq!(pending, (0, 0, 0), "what waits for the disk");
    }

    /// Checks that each waiting controller is in the right queue, once; for tests.
    fn check_owed(&self) {
        let mut reserved = 0;
        for conn in self.connections.all_controllers() {
            let Some(controller) = self.connections.look_at(conn) else { continue };
            let is_owed = !controller.replies.is_empty();
            let bytes: usize = controller.replies.iter().map(|(_, owed)| owed.body().len()).sum();
            assert_eq!(bytes, controller.replies_bytes, "bytes that {conn:?} is owed");
            assert!(is_owed || controller.reply_room.is_none(), "{conn:?} is owed nothing");
            reserved += controller.reply_room.as_ref().map_or(0, Room::bytes);
            let places = |line: &mut dyn Iterator<Item = &ConnId>| {
                line.filter(|other| **other == conn).count()
            };
            let pending_durable = places(&mut self.pending_durable.iter());
            let queued = places(&mut self.room_queue.iter());
            let deferred = usize::from(controller.deferred.is_some());
            assert!(
                pending_durable >= usize::from(is_owed) && queued <= deferred,
                "{conn:?} waits for nothing"
            );
            assert_eq!(
                pending_durable + queued,
                deferred.max(usize::from(is_owed)),
                "places of {conn:?}"
            );
        }
        assert_eq!(reserved, self.reply_reserve.reserved(), "room for replies that are owed");
    }

    /// Checks the counters against what there is; for tests.
    fn check_census(&self) {
        let count = (0..self.web.slots()).filter(|slot| self.web.conn(*slot).is_some()).count();
        assert_eq!(count, self.web_connections(), "connections of the web door");
        let unauthenticated = self.web.peers().filter(|browser| browser.peer().is_none());
        assert_eq!(
            unauthenticated.count(),
            self.web.unauthenticated(),
            "who has not authenticated"
        );
    }
}
