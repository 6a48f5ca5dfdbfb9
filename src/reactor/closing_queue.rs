//! The queue of closing connections, oldest first. Where there is no room the oldest is ended at
//! once: a connection that the handler has closed, and no longer counts, must not keep a new one
//! out. Part of the reactor.

use std::collections::VecDeque;

use super::Reactor;
use super::io::Io;
use super::peer::{Peer, Phase, flag};
use crate::edge::{ConnId, Door, Handler};

/// The queue is cleaned once it has this many stale ids more than live ones.
const STALE: usize = 64;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct ClosingQueue {
    /// Ids of closing connections, among stale ones of those that have ended.
    line: VecDeque<ConnId>,
    /// How many closing connections there are.
    pub count: usize,
}

impl Io {
    /// Appends a closing connection, unless the admin listener's: those take no room of others.
    pub fn enqueue_closing(&mut self, conn: ConnId) {
        let Io { peers, closing: ClosingQueue { line, count }, .. } = self;
        let Some(peer) = peers.get_mut(conn).filter(|peer| peer.door != Door::Admin) else {
            return;
        };
        peer.set(flag::IN_CLOSING_QUEUE, true);
        *count += 1;
        line.push_back(conn);
        if line.len() > 2 * *count + STALE {
            line.retain(|conn| peers.get(*conn).is_some());
            line.shrink_to(2 * *count + STALE);
        }
    }

    /// Notes that a connection has ended, which may be in the queue.
    pub fn dequeue_closing(&mut self, peer: &Peer) {
        if !peer.is(flag::IN_CLOSING_QUEUE) {
            return;
        }
        let ClosingQueue { line, count } = &mut self.closing;
        *count -= 1;
        if *count == 0 {
            line.clear();
            // Gives back the memory of a crowd; single connections in sequence need no allocation.
            line.shrink_to(STALE);
        }
    }

    /// Frees the slot of a peer that has not taken its last output in time. The kernel would hold
    /// that output for as long as it likes: a peer that never reads must not keep that memory.
    pub fn abandon(&mut self, conn: ConnId) {
        if let Some(peer) = self.peer(conn) {
            peer.stream.abandon();
        }
        self.free(conn);
    }
}

impl Reactor {
    /// Makes room for a connection through that listener: ends the oldest closing one if need be.
    pub(super) fn make_place(&mut self, handler: &mut impl Handler, door: Door) {
        if self.is_within(door) {
            return;
        }
        // Its slot may be reused at once, so its end must have been reported before.
        self.report_closed(handler);
        // Those that were lost have left their places.
        if self.is_within(door) {
            return;
        }
        while let Some(conn) = self.io.closing.line.pop_front() {
            match self.io.peers.get(conn).map(|peer| peer.phase) {
                None => continue,
                Some(Phase::Lingering) => self.io.free(conn),
                Some(_) => self.io.abandon(conn),
            }
            return;
        }
    }
}
