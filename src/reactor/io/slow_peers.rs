//! Peers that do not take what is published to them. Part of the reactor: [`crate::slow`] says
//! which of them are too slow.

use super::{Io, OFFER_ROUND_BYTES};
use crate::edge::ConnId;
use crate::frame::{Frame, Kind, Waiting};
use crate::reactor::peer::{Phase, flag};
use crate::reason::CloseReason;
use crate::slow::{Rules, WatchId};
use crate::time::Millis;

impl Io {
    /// Applies new rules, and recounts how much of each backlog counts.
    pub fn set_rules(&mut self, rules: Rules) {
        self.frames.set_counted_max(rules.counted_max());
        for conn in self.watches.set_rules(rules) {
            self.watch(conn, false);
        }
    }

    /// Queues a publication for a peer that has not taken everything it was sent.
    #[cold]
    pub(super) fn publish_with_care(&mut self, conn: ConnId, frame: Frame) -> bool {
        let max = self.watches.rules().backlog_bytes;
        let Some(peer) = self.peers.get(conn) else { return false };
        if peer.phase != Phase::Open || peer.is(flag::TOO_SLOW) {
            return false;
        }
        let is_due = peer.is(flag::WRITABLE) && self.frames.bytes_of(&peer.out) > max;
        if is_due && self.offered < OFFER_ROUND_BYTES {
            self.offer(conn);
        }
        let before = self.waiting(conn);
        self.queue(conn, frame, Kind::Published);
        if !self.watches.is_same(before, self.waiting(conn)) {
            self.watch(conn, false);
        }
        if !self.is_lost(conn) {
            return false;
        }
        // It may have taken something since the kernel refused; that event comes next turn.
        self.offer(conn);
        let is_lost = self.is_lost(conn);
        if let Some(peer) = self.open(conn) {
            peer.set(flag::TOO_SLOW, is_lost);
        }
        is_lost
    }

    /// Watches a peer for which the kernel has refused output, as long as publications are queued.
    pub(super) fn watch(&mut self, conn: ConnId, has_taken: bool) {
        let Some(peer) = self.peers.get_mut(conn) else { return };
        if peer.phase == Phase::Open && (!peer.is(flag::WRITABLE) || !peer.watch.is_none()) {
            let waiting = self.frames.waiting(&peer.out);
            self.watches.note(&mut peer.watch, conn, waiting, has_taken, self.now.mono);
        }
    }

    /// What waits for a connection.
    pub(super) fn waiting(&self, conn: ConnId) -> Waiting {
        let peer = self.peers.get(conn);
        peer.map_or_else(Waiting::default, |peer| self.frames.waiting(&peer.out))
    }

    /// Returns whether too much was published to the peer, and memory is short.
    fn is_lost(&mut self, conn: ConnId) -> bool {
        let kept = self.frames.ledger.weight(Kind::Published);
        let watch = self.open(conn).map_or(WatchId::NONE, |peer| peer.watch);
        self.watches.is_lost(watch, kept)
    }

    /// Returns the next peer that is due for a check, and why to cut it if it is too slow. It is
    /// offered its queue first: the kernel reports room only when there is much.
    pub fn overdue(&mut self) -> Option<(ConnId, Option<CloseReason>)> {
        let conn = self.watches.next(self.now.mono)?;
        self.offer(conn);
        let watch = self.open(conn).map(|peer| peer.watch);
        let reason = watch.and_then(|watch| self.watches.judge(watch, self.now.mono));
        Some((conn, reason))
    }

    /// Returns when [`Io::overdue`] must be called at the latest.
    pub fn overdue_at(&self) -> Option<Millis> {
        self.watches.next_at()
    }
}
