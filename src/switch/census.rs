//! What there is and what happened, for whoever looks into the switch: the server at its end, the
//! admin door, tests. Changes nothing.

use super::{Role, Switch};
use crate::hub::Hub;
use crate::journal::Journal;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::reason::CloseReason;
use crate::web::{Bodies, Ways};

/// How many connections there are, by what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Of back ends.
    pub control: usize,
    /// Browsers, by how they are reached.
    pub ways: Ways,
    /// Connections of browsers that are not WebSockets: between two requests, in one, or waiting
    /// for what a session has to say.
    pub http: usize,
    /// Browsers that have not authenticated.
    pub strangers: usize,
    /// What is kept of bodies of requests.
    pub bodies: Bodies,
}

impl<J: Journal> Switch<J> {
    /// What happened so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The hub, to look into.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The journal, to look into.
    pub fn journal(&self) -> &J {
        &self.journal
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many browsers are spoken with, over sockets and sessions.
    pub fn sessions(&self) -> usize {
        self.web.sessions()
    }

    /// How many sessions over HTTP have ended, by [`CloseReason`].
    pub fn parted(&self) -> &[u64; CloseReason::ALL.len()] {
        self.web.parted()
    }

    /// How many connections of each kind are open.
    pub fn census(&self) -> Census {
        let ways = self.web.ways();
        let http = self.web_connections().saturating_sub(ways.raw + ways.sockjs);
        let (strangers, bodies) = (self.web.strangers(), self.web.bodies());
        Census { control: self.controllers.len(), ways, http, strangers, bodies }
    }

    /// How many connections have come through the web door and are open.
    pub(super) fn web_connections(&self) -> usize {
        let Metrics { web_opened, web_closed, .. } = self.metrics;
        usize::try_from(web_opened.saturating_sub(web_closed)).unwrap_or_default()
    }

    /// Checks that what was counted is what there is; for tests.
    pub(super) fn check_census(&self) {
        let of_web = self.seats.iter().filter(|seat| matches!(seat.role, Role::Web));
        assert_eq!(of_web.count(), self.web_connections(), "connections of the web door");
    }
}
