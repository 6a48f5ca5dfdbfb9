//! Deadlines of WebSockets: pings, and the signs that a peer is alive.

use std::mem;

use super::{Around, Held, Socket};
use crate::codec::ws;
use crate::edge::Net;
use crate::reason::CloseReason;
use crate::web::{Application, Parting};

/// The unit in which output taken between two beats is counted.
const TAKEN_UNIT_BYTES: u32 = 16 * 1024;

impl<P> Socket<P> {
    /// A deadline has passed.
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
                // Its pongs are behind input that is not read. The ping only tests whether its
                // machine is there, which must acknowledge it.
                around.net.send(conn, ws::ping_frame(b""));
                self.beat_at = next;
            } else if self.held == Held::Answers {
                // It is not read, so pongs are not seen: taking output shows that it is alive.
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

    /// Bytes that the kernel has taken since the last beat. Some may still be in the kernel, or on
    /// a slow link, in front of the next ping.
    fn taken_since_beat<A: Application<Peer = P>>(
        &mut self,
        around: &Around<'_, impl Net, A>,
    ) -> usize {
        let taken = (around.net.taken(around.conn) / TAKEN_UNIT_BYTES) as u8;
        let units = taken.wrapping_sub(mem::replace(&mut self.taken_before, taken));
        usize::from(units) * TAKEN_UNIT_BYTES as usize
    }

    /// Sends a ping, behind whatever is queued.
    fn ping<A: Application<Peer = P>>(&mut self, around: &mut Around<'_, impl Net, A>) {
        if around.net.queued(around.conn) > 0 {
            let taken = Some(around.net.taken(around.conn));
            self.unheard.get_or_insert_default().taken_at_beat = taken;
        }
        around.net.send(around.conn, ws::ping_frame(b""));
    }

    /// Whether output was queued when the ping was sent, and not all of it has gone out.
    pub(super) fn stands_behind(&self) -> bool {
        self.unheard.as_ref().is_some_and(|unheard| unheard.taken_at_beat.is_some())
    }

    /// Forgets how much had been taken at the last beat.
    pub(super) fn forget_beat(&mut self) {
        self.unheard.take_if(|unheard| {
            unheard.taken_at_beat = None;
            unheard.is_empty()
        });
    }

    /// Whether the ping is still queued behind other output, of which some has been taken since the
    /// last check: a sign of life.
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
    /// has taken: over a slow link the ping arrives no sooner. Meanwhile the kernel detects a
    /// machine that is gone (`tcp_user_timeout_ms`).
    pub(super) fn patience_ms(&self, in_front: usize) -> u64 {
        self.limits.heartbeat_answer_ms as u64 + self.limits.link_ms(in_front)
    }
}
