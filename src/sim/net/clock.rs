//! What time does in the fake network: deadlines, and peers that take nothing for too long.

use super::{FakeNet, Phase};
use crate::edge::ConnId;
use crate::reason::CloseReason;
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
