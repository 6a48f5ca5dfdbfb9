//! Which connections are open, and the numbers of sessions now and so far, for monitoring: each is
//! known without a scan, except for [`Web::peers`]. Changes nothing.

use super::{Bodies, Line, Web};
use crate::edge::ConnId;
use crate::publication::Ways;
use crate::reason::CloseReason;

impl<P> Web<P> {
    /// Whether a connection belongs to this listener and is not closed.
    pub fn has(&self, conn: ConnId) -> bool {
        self.conn(conn.index()) == Some(conn)
    }

    /// The open connection in that slot.
    pub fn conn(&self, slot: usize) -> Option<ConnId> {
        let generation = self.lines.get(slot)?.generation()?;
        Some(ConnId::new(slot as u32, generation))
    }

    /// All open connections are in slots below this one.
    pub fn slots(&self) -> usize {
        self.lines.len()
    }

    /// The number of sessions of all kinds.
    pub fn sessions(&self) -> usize {
        self.raw_sockets + self.sockjs_sockets + self.sessions.len()
    }

    /// The number of sessions of each kind.
    pub fn ways(&self) -> Ways {
        let (raw, sockjs) = (self.raw_sockets, self.sockjs_sockets);
        Ways { raw, sockjs, http: self.sessions.len() }
    }

    /// The memory of request bodies.
    pub fn bodies(&self) -> Bodies {
        self.bodies
    }

    /// How often a browser was not read because it sent too fast.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// The number of sessions over HTTP that have ended, by [`CloseReason`], including those whose
    /// client was not told.
    pub fn http_sessions_closed(&self) -> &[u64; CloseReason::ALL.len()] {
        &self.http_sessions_closed
    }

    /// The application's state of all live sessions.
    pub fn peers(&self) -> impl Iterator<Item = &P> {
        let sockets = self.lines.iter().filter_map(|line| match line {
            Line::Socket(socket) => socket.peer.as_ref(),
            _ => None,
        });
        sockets.chain(self.sessions.iter().filter_map(|(_, session)| session.peer.as_ref()))
    }
}
