//! Deadlines of WebSockets: pings, and what shows that somebody is there.

use std::mem;

use super::{Around, Held, Socket};
use crate::codec::ws;
use crate::edge::Net;
use crate::reason::CloseReason;
use crate::web::{Application, Parting};

/// What was taken between two beats is counted in these.
const TAKEN_UNIT_BYTES: u32 = 16 * 1024;

impl<P> Socket<P> {
    /// A deadline has come.
    pub(super) fn timed_out<A: Application<Peer = P>>(
        &mut self,
        around: &mut Around<'_, impl Net, A>,
    ) -> Result<(), Parting> {
        let Some(peer) = &mut self.peer else { return Ok(()) };
        let (conn, now) = (around.conn, around.net.now());
        if let Err(parting) = around.app.timed_out(peer, now) {
            return if self.goes_on(around)? { Ok(()) } else { Err(parting) };
        }
        self.is_in_time(around)?;
        let was_too_fast = self.held == Held::Pace;
        if was_too_fast && !self.bucket.is_spent(around.pace, now.mono) {
            self.held = Held::No;
            around.net.resume(conn);
        }
        if self.beat_at <= now.mono {
            let next = now.mono.plus(around.limits.heartbeat_ms as u64);
            let taken = self.taken_since_beat(around);
            if was_too_fast || self.held == Held::Room {
                // Its pongs stand behind what it said too fast, or what there is no room for. What
                // the ping shows is whether its machine is there, which must acknowledge it.
                around.net.send(conn, ws::ping_frame(b""));
                self.beat_at = next;
            } else if self.held == Held::Answers {
                // It is not read, so its pongs are not heard: what it takes shows that it lives.
                let taken = Some(around.net.taken(conn));
                let before = &mut self.unheard.get_or_insert_default().taken_at_beat;
                if mem::replace(before, taken) == taken {
                    return Err(CloseReason::NoHeartbeat.into());
                }
                self.beat_at = next;
            } else if self.awaits_answer && !self.is_taking(around) {
                return Err(CloseReason::NoHeartbeat.into());
            } else {
                if !mem::replace(&mut self.awaits_answer, true) {
                    self.ping(around);
                }
                let in_front = if self.stands_behind() { usize::MAX } else { taken };
                self.beat_at = now.mono.plus(around.patience_ms(in_front));
            }
        }
        self.reschedule(around);
        Ok(())
    }

    /// Bytes that the kernel has taken for it since the last beat: some of them may be there yet,
    /// or on a slow link, and the next ping behind them.
    fn taken_since_beat<A: Application<Peer = P>>(
        &mut self,
        around: &Around<'_, impl Net, A>,
    ) -> usize {
        let taken = (around.net.taken(around.conn) / TAKEN_UNIT_BYTES) as u8;
        let units = taken.wrapping_sub(mem::replace(&mut self.taken_before, taken));
        usize::from(units) * TAKEN_UNIT_BYTES as usize
    }

    /// Asks for a sign of life, behind whatever waits.
    fn ping<A: Application<Peer = P>>(&mut self, around: &mut Around<'_, impl Net, A>) {
        if around.net.queued(around.conn) > 0 {
            let taken = Some(around.net.taken(around.conn));
            self.unheard.get_or_insert_default().taken_at_beat = taken;
        }
        around.net.send(around.conn, ws::ping_frame(b""));
    }

    /// Whether something waited when the ping was sent, and not all of that has gone out.
    pub(super) fn stands_behind(&self) -> bool {
        self.unheard.as_ref().is_some_and(|unheard| unheard.taken_at_beat.is_some())
    }

    /// What it had taken at the last beat counts no more.
    pub(super) fn forget_beat(&mut self) {
        self.unheard.take_if(|unheard| {
            unheard.taken_at_beat = None;
            unheard.is_empty()
        });
    }

    /// Whether the ping still stands behind something, of which it has taken a part since it was
    /// looked at last: that is a sign of life.
    fn is_taking<A: Application<Peer = P>>(&mut self, around: &Around<'_, impl Net, A>) -> bool {
        let is_behind = around.net.queued(around.conn) > 0;
        let taken = Some(around.net.taken(around.conn));
        self.unheard.as_mut().is_some_and(|unheard| {
            let before = mem::replace(&mut unheard.taken_at_beat, taken);
            is_behind && before.is_some() && before != taken
        })
    }
}

impl<N: Net, A> Around<'_, N, A> {
    /// How long the answer to a ping may take, with so many bytes in front of it that the kernel
    /// has: over a slow link it is read no sooner. That a machine is gone the kernel finds out
    /// meanwhile (`tcp_user_timeout_ms`).
    pub(super) fn patience_ms(&self, in_front: usize) -> u64 {
        self.limits.heartbeat_answer_ms as u64 + self.limits.link_ms(in_front)
    }
}
