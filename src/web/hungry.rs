//! Those whose next message waits for room for its answer, because answers that wait take too much
//! memory: a line, in which they are heard again as soon as there is room. What they say is bounded
//! as input that waits is.

use std::collections::VecDeque;

use super::session::Link;
use super::{Application, SESSIONS_PER_TURN, SessionId, Web};
use crate::edge::Net;

/// So many in the line who have gone are not worth a look.
const STALE: usize = 64;

/// The line.
#[derive(Debug, Default)]
pub(super) struct Hungry {
    line: VecDeque<SessionId>,
    /// The line is looked through for those who have gone when it is as long as this.
    look_at: usize,
}

impl Hungry {
    /// One more waits.
    pub fn push(&mut self, id: SessionId) {
        self.line.push_back(id);
    }
}

impl<P> Web<P> {
    /// Whether somebody waits for room.
    pub fn is_hungry(&self) -> bool {
        !self.hungry.line.is_empty()
    }

    /// Hears those again for whose answers there is room now.
    pub(super) fn feed<A: Application<Peer = P>>(&mut self, net: &mut impl Net, app: &mut A) {
        for _ in 0..SESSIONS_PER_TURN {
            if self.hungry.line.is_empty() || app.is_short(net) {
                break;
            }
            let Some(id) = self.hungry.line.pop_front() else { break };
            match id.link() {
                Link::Socket(conn, _) => self.socket_fed(net, app, conn),
                Link::Polled(id) => self.polled_fed(id),
            }
        }
        let Hungry { line, look_at } = &self.hungry;
        if line.len() >= *look_at || (line.is_empty() && line.capacity() > 2 * STALE) {
            let mut line = std::mem::take(&mut self.hungry.line);
            line.retain(|id| self.is_there(*id));
            line.shrink_to(2 * line.len());
            self.hungry.look_at = 2 * line.len() + STALE;
            self.hungry.line = line;
        }
    }

    /// Whether a session is there, be it over for the application or not.
    fn is_there(&self, id: SessionId) -> bool {
        match id.link() {
            Link::Socket(conn, _) => self.socket(conn).is_some(),
            Link::Polled(id) => self.sessions.contains(id),
        }
    }

    pub(super) fn check_nobody_waits(&self) {
        let line = &self.hungry.line;
        assert!(line.is_empty() && line.capacity() <= 4 * STALE, "a line of those who have gone");
    }
}
