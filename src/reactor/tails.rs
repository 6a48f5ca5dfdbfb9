//! Input that waits: what the handler has not consumed, because it is half of something or its
//! connection is paused. That of browsers is bounded in all; when it is too much, those of whom the
//! most waits go; and whoever waits and has gone is told of. Part of the reactor, which reads.

use std::cmp::Reverse;

use super::Reactor;
use super::io::{Io, Peer, Phase, Slot};
use crate::edge::{ConnId, Handler, Net};
use crate::reason::CloseReason;

impl Io {
    /// Takes what waits of a connection.
    pub(super) fn take_tail(&mut self, conn: ConnId) -> Box<[u8]> {
        let Some(Slot::Peer(peer)) = self.slots.get_mut(conn) else { return Box::default() };
        self.tails -= peer.tail_counts();
        std::mem::take(&mut peer.tail)
    }

    /// Keeps what the handler has not consumed.
    pub(super) fn keep_tail(&mut self, conn: ConnId, tail: Box<[u8]>) {
        let Some(Slot::Peer(peer)) = self.slots.get_mut(conn) else { return };
        self.tails -= peer.tail_counts();
        peer.tail = tail;
        self.tails += peer.tail_counts();
    }
}

impl Reactor {
    /// Tells the handler that somebody whom it does not hear has gone.
    pub(super) fn hang_up(&mut self, handler: &mut impl Handler, conn: ConnId) {
        let Some(peer) = self.io.peer(conn) else { return };
        if peer.phase == Phase::Open && peer.is_paused && peer.is_end_near {
            handler.hung_up(&mut self.io, conn);
        }
    }

    /// If too much waits in all, the largest go, until a quarter is free: so that looking for them
    /// costs little for each byte that had to come before.
    pub(super) fn relieve(&mut self) {
        let most = self.bounds.input_bytes;
        if self.io.tails <= most {
            return;
        }
        let waits = |peer: &Peer| if peer.phase == Phase::Open { peer.tail_counts() } else { 0 };
        let mut largest: Vec<(usize, ConnId)> = Vec::new();
        for (conn, slot) in self.io.slots.iter() {
            if let Slot::Peer(peer) = slot
                && waits(peer) > 0
            {
                largest.push((waits(peer), conn));
            }
        }
        largest.sort_unstable_by_key(|(bytes, _)| Reverse(*bytes));
        for (_, conn) in largest {
            if self.io.tails <= most - most / 4 {
                return;
            }
            self.io.meters.input_evicted += 1;
            self.io.close(conn, CloseReason::Full);
        }
    }
}
