//! What time does in the fake network: deadlines, and peers that take nothing for too long.

use super::{FakeNet, Phase};
use crate::edge::ConnId;
use crate::frame::{Kind, Waiting};
use crate::reason::CloseReason;
use crate::slow::WatchId;
use crate::time::Millis;

impl FakeNet {
    /// Returns the next slow peer that is due, and why to cut it, unless it now took enough.
    pub fn overdue(&mut self) -> Option<(ConnId, Option<CloseReason>)> {
        let conn = self.watches.next(self.now.mono)?;
        self.offer(conn);
        let watch = self.open(conn).map(|socket| socket.watch);
        let reason = watch.and_then(|watch| self.watches.judge(watch, self.now.mono));
        Some((conn, reason))
    }

    /// What waits for a connection.
    pub(super) fn waiting(&self, conn: ConnId) -> Waiting {
        let socket = self.sockets.get(&conn);
        socket.map_or_else(Waiting::default, |socket| self.frames.waiting(&socket.out))
    }

    /// Notes what waits for a peer that does not take everything.
    pub(super) fn watch(&mut self, conn: ConnId, has_taken: bool) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        if socket.phase == Phase::Open && (!socket.is_writable || !socket.watch.is_none()) {
            let waiting = self.frames.waiting(&socket.out);
            self.watches.note(&mut socket.watch, conn, waiting, has_taken, self.now.mono);
        }
    }

    /// Whether the peer's backlog is too large, and it must be cut because memory is short.
    pub(super) fn is_lost(&mut self, conn: ConnId) -> bool {
        let kept = self.frames.ledger.weight(Kind::Published);
        let watch = self.open(conn).map_or(WatchId::NONE, |socket| socket.watch);
        self.watches.is_lost(watch, kept)
    }

    /// The time of the next timer or check of a slow peer.
    pub fn next_at(&self) -> Option<Millis> {
        let timer = self.wheel.next_at().map(Millis);
        [timer, self.watches.next_at()].into_iter().flatten().min()
    }

    /// Whether no peer is being watched for slowness.
    pub fn is_nobody_watched(&self) -> bool {
        self.watches.is_empty()
    }

    pub fn set_timer(&mut self, conn: ConnId, at: Option<Millis>) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        if let Some(timer) = socket.timer.take() {
            self.wheel.cancel(timer);
        }
        socket.timer = at.map(|at| self.wheel.insert(at.0, conn));
    }

    /// Clears the timer that has fired, and returns the phase of its connection.
    pub fn timer_came(&mut self, conn: ConnId) -> Option<Phase> {
        let socket = self.socket(conn)?;
        socket.timer = None;
        Some(socket.phase)
    }
}
