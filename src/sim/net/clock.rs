//! What time does in the fake network: deadlines, and who takes nothing for too long.

use super::{FakeNet, Phase};
use crate::edge::ConnId;
use crate::reason::CloseReason;
use crate::time::Millis;

impl FakeNet {
    /// The next peer that has not taken what was published to it for too long.
    pub fn overdue(&mut self) -> Option<(ConnId, Option<CloseReason>)> {
        let conn = self.watches.next(self.now.mono)?;
        self.offer(conn);
        let watch = self.open(conn).map(|socket| socket.watch);
        let reason = watch.and_then(|watch| self.watches.judge(watch, self.now.mono));
        Some((conn, reason))
    }

    /// When something is due at the latest.
    pub fn next_at(&self) -> Option<Millis> {
        let timer = self.wheel.next_at().map(Millis);
        [timer, self.watches.next_at()].into_iter().flatten().min()
    }

    /// Whether nobody is watched.
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

    /// The timer of a connection has come: it holds none any more.
    pub fn timer_came(&mut self, conn: ConnId) -> Option<Phase> {
        let socket = self.socket(conn)?;
        socket.timer = None;
        Some(socket.phase)
    }
}
