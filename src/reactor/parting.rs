//! Those who were let go and are on their way out, in the order in which they were: where there is
//! no room the first of them makes place, so that who has gone for the handler, and counts for
//! nobody there, keeps nobody out. Part of the reactor.

use std::collections::VecDeque;

use super::Reactor;
use super::io::Io;
use super::peer::{Peer, Phase, flag};
use crate::edge::{ConnId, Door, Handler};

/// So many in the line who have ended are not worth a look.
const STALE: usize = 64;

/// The line.
#[derive(Debug, Default)]
pub(super) struct Parting {
    /// Among others who have ended meanwhile.
    line: VecDeque<ConnId>,
    /// How many of them are there yet.
    pub count: usize,
}

impl Io {
    /// One more is let go. Those of the admin door take no place of anybody else.
    pub fn line_up(&mut self, conn: ConnId) {
        let Io { peers, parting: Parting { line, count }, .. } = self;
        let Some(peer) = peers.get_mut(conn).filter(|peer| peer.door != Door::Admin) else {
            return;
        };
        peer.set(flag::PARTING, true);
        *count += 1;
        line.push_back(conn);
        if line.len() > 2 * *count + STALE {
            line.retain(|conn| peers.get(*conn).is_some());
            line.shrink_to(2 * *count + STALE);
        }
    }

    /// One has ended, who may be one of them.
    pub fn leave_line(&mut self, peer: &Peer) {
        if !peer.is(flag::PARTING) {
            return;
        }
        let Parting { line, count } = &mut self.parting;
        *count -= 1;
        if *count == 0 {
            line.clear();
            // What a crowd took is given back; one after the other needs no memory anew.
            line.shrink_to(STALE);
        }
    }

    /// Frees the slot of a peer that has not taken its last words in time. The kernel would keep
    /// what it has for it, for as long as it likes: whoever never reads must not hold that.
    pub fn abandon(&mut self, conn: ConnId) {
        if let Some(peer) = self.peer(conn) {
            peer.stream.abandon();
        }
        self.free(conn);
    }
}

impl Reactor {
    /// Somebody comes through that door. If there is no room, the first goes who was let go.
    pub(super) fn make_place(&mut self, handler: &mut impl Handler, door: Door) {
        if self.is_within(door) {
            return;
        }
        // The slot may be another's in a moment: nobody is to be told of the end of this one then.
        self.forget(handler);
        while let Some(conn) = self.io.parting.line.pop_front() {
            match self.io.peers.get(conn).map(|peer| peer.phase) {
                None => continue,
                Some(Phase::Lingering) => self.io.free(conn),
                Some(_) => self.io.abandon(conn),
            }
            return;
        }
    }
}
