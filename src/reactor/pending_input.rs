//! Pending input: what the handler has not consumed, because it is incomplete or its
//! connection is paused, and how much consumed input the handler keeps itself. The total, without
//! back ends, is bounded: beyond that the connections with the most, relative to how much they may
//! send, are closed. Also reports peers that hang up while paused. Part of the reactor, which
//! reads.

use std::cmp::Reverse;

use super::Reactor;
use super::io::Io;
use super::peer::{Peer, Phase, flag};
use crate::arena::{NIL, Slots};
use crate::edge::{ConnId, Door, Handler, Net};
use crate::limits::share;
use crate::reason::CloseReason;

/// Unprocessed input of one connection.
#[derive(Debug, Default)]
struct Pending {
    /// What the handler has not consumed.
    bytes: Box<[u8]>,
    /// Bytes that it has consumed and keeps.
    handler_bytes: usize,
}

/// All unprocessed input.
#[derive(Debug, Default)]
pub(super) struct PendingInput {
    kept: Slots<Pending>,
    /// Bytes that count: not those of back ends, which are few and have bounds of their own.
    pub bytes: usize,
}

impl PendingInput {
    /// Removes and returns what the handler has not consumed of a connection.
    pub fn take(&mut self, peer: &mut Peer) -> Box<[u8]> {
        let Some(tail) = self.kept.get_mut(peer.tail) else { return Box::default() };
        let bytes = std::mem::take(&mut tail.bytes);
        if peer.door != Door::Control {
            self.bytes -= bytes.len();
        }
        if tail.handler_bytes == 0 {
            self.kept.remove(std::mem::replace(&mut peer.tail, NIL));
        }
        bytes
    }

    /// Stores what the handler has not consumed of a connection, all of it.
    pub fn keep(&mut self, peer: &mut Peer, tail: &[u8]) {
        if !tail.is_empty() {
            self.change(peer, |kept| kept.bytes = tail.into());
        }
    }

    /// Records how much of what it has consumed the handler keeps.
    pub fn set_handler_bytes(&mut self, peer: &mut Peer, bytes: usize) {
        self.change(peer, |kept| kept.handler_bytes = bytes);
    }

    /// Drops everything stored for a connection.
    pub fn forget(&mut self, peer: &mut Peer) {
        if peer.tail != NIL {
            self.change(peer, |kept| *kept = Pending::default());
        }
    }

    fn change(&mut self, peer: &mut Peer, change: impl FnOnce(&mut Pending)) {
        self.bytes -= self.counts(peer);
        if peer.tail == NIL {
            peer.tail = self.kept.insert(Pending::default());
        }
        if let Some(tail) = self.kept.get_mut(peer.tail) {
            change(tail);
            if tail.bytes.is_empty() && tail.handler_bytes == 0 {
                self.kept.remove(std::mem::replace(&mut peer.tail, NIL));
            }
        }
        self.bytes += self.counts(peer);
    }

    /// Gives back a part of the memory of a past crowd. Returns whether there may be more.
    pub fn trim(&mut self) -> bool {
        self.kept.trim()
    }

    /// Returns how many bytes count for a connection.
    pub fn counts(&self, peer: &Peer) -> usize {
        let bytes =
            self.kept.get(peer.tail).map_or(0, |tail| tail.bytes.len() + tail.handler_bytes);
        if peer.door == Door::Control { 0 } else { bytes }
    }
}

impl Reactor {
    /// Tells the handler that a peer whose connection is paused has hung up.
    pub(super) fn hang_up(&mut self, handler: &mut impl Handler, conn: ConnId) {
        let Some(peer) = self.io.peer(conn) else { return };
        if peer.phase == Phase::Open && peer.is(flag::PAUSED) && peer.is(flag::END_NEAR) {
            handler.hung_up(&mut self.io, conn);
        }
    }

    /// Handles a failed write: the peer takes nothing any more. Input of a back end is processed
    /// all the same: some send all that they have to say, wait for no answer and leave.
    pub(super) fn lose_output(&mut self, conn: ConnId) {
        let Io { peers, frames, .. } = &mut self.io;
        let Some(peer) = peers.get_mut(conn) else { return };
        let is_spent = peer.is(flag::ENDED) && peer.tail == NIL;
        let is_heard = peer.phase == Phase::Open && !peer.is(flag::PAUSED) && !is_spent;
        if peer.door != Door::Control || !is_heard {
            return self.io.lose(conn, CloseReason::PeerLost);
        }
        frames.clear(&mut peer.out);
        // No event follows for the rest: have it read, up to the end.
        peer.set(flag::READABLE, true);
        self.io.mark_ready(conn);
    }

    /// If the total is too large, closes the connections with the most until a quarter is free, so
    /// that the search costs little per byte received. The most is relative to what each may send:
    /// one that has not authenticated may send little, and goes first if it uses all of that.
    pub(super) fn enforce_input_max(&mut self, handler: &mut impl Handler) {
        let most = self.bounds.input_bytes;
        if self.io.pending_input.bytes <= most {
            return;
        }
        let waiting = |(conn, peer): (ConnId, &Peer)| {
            let bytes =
                if peer.phase == Phase::Open { self.io.pending_input.counts(peer) } else { 0 };
            (bytes > 0).then(|| (share(bytes, handler.message_bytes(conn)), conn))
        };
        let mut largest: Vec<(u64, ConnId)> = self.io.peers.iter().filter_map(waiting).collect();
        largest.sort_unstable_by_key(|(share, _)| Reverse(*share));
        for (_, conn) in largest {
            if self.io.pending_input.bytes <= most - most / 4 {
                return;
            }
            self.io.meters.input_evicted += 1;
            self.io.close(conn, CloseReason::Full);
        }
    }
}
