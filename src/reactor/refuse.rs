//! Turns connections away when there is no room, or when too many come at once: the client is told
//! why and when to come back, instead of waiting in the kernel's queue for an unknown time. Part of
//! the reactor, which accepts.

use mio::Token;

use super::io::Io;
use super::listener::{Listener, Refusal};
use super::peer::{Phase, flag};
use super::stream::Stream;
use super::{Bounds, REPEAT_MS, Reactor};
use crate::edge::{ConnId, Door, Handler, Net, TurnedAway};
use crate::time::Millis;

/// Connections turned away that may be closing at a time, beyond the room for connections: they
/// have descriptors too. At that number the oldest makes room, once its response is written.
const TURNED_AWAY_MAX: usize = 8;
/// Shortest time until a client is to come back, if there is no room.
const FULL_SECONDS: u64 = 5;
/// Longest time until a client is to come back; then the times start from the shortest again.
const LINE_SECONDS_MAX: u64 = 60;
/// Maximum time from the accept to the end of a connection that is turned away, and from an
/// expulsion to the end of the connection.
pub(super) const TURNED_AWAY_MS: u64 = 200;

impl Io {
    /// Returns whether everything is written, and the peer's own end is awaited.
    pub fn is_done(&self, conn: ConnId) -> bool {
        self.peers.get(conn).is_some_and(|peer| peer.phase == Phase::Lingering)
    }
}

impl Reactor {
    /// Returns the number of connections that were not turned away. Counted from the slots.
    pub(super) fn let_in(&self) -> usize {
        self.io.connections() - self.io.turned_away.len()
    }

    /// Returns whether there is a free place for a connection through that listener. Counted from
    /// the slots, so that it cannot drift.
    pub(super) fn is_within(&self, door: Door) -> bool {
        let Bounds { connections, control_reserve, admin_connections, .. } = self.bounds;
        match door {
            Door::Web => self.let_in() < connections,
            // Browsers beyond a bound that was lowered stay, and must not lock them out either.
            Door::Control => {
                self.let_in() < connections.saturating_add(control_reserve)
                    || self.io.back_ends < control_reserve
            }
            Door::Admin => self.io.admins() < admin_connections,
        }
    }

    /// Returns whether there is a place for one, or a closing connection that can be ended.
    pub(super) fn has_room(&self, door: Door) -> bool {
        self.is_within(door) || (door != Door::Admin && self.io.closing.count > 0)
    }

    /// Returns whether one more connection can be turned away at this listener.
    pub(super) fn can_refuse(&self, door: &Listener) -> bool {
        let Io { turned_away, .. } = &self.io;
        let has_place = || {
            let first = turned_away.first().filter(|_| turned_away.len() == TURNED_AWAY_MAX);
            first.is_none_or(|first| self.io.is_done(*first))
        };
        door.refusal.is_some() && has_place()
    }

    /// Logs that there is no room: once when it runs out, and again only after a tenth of it was
    /// free.
    pub(super) fn tell_full(&mut self) {
        let now = self.io.now;
        if !self.is_full_told && self.full_again_at <= now.mono {
            let open = self.let_in() as u64;
            let open = crate::log::Count(open, "connection is", "connections are");
            let text = format_args!("full: {open} open, there is no room for more");
            crate::log::warning(now.unix, text);
            self.is_full_told = true;
            self.full_again_at = now.mono.plus(REPEAT_MS);
        }
    }

    /// Returns why a connection through that listener cannot be let in, if so.
    pub(super) fn obstacle(&self, door: Door) -> Option<TurnedAway> {
        if !self.has_room(door) {
            return Some(TurnedAway::Full);
        }
        let is_crowd = door == Door::Web && self.admission.opens_at() > self.io.now.mono;
        is_crowd.then_some(TurnedAway::Crowd)
    }

    /// Returns when a connection that waits at a listener may be let in, or turned away.
    pub(super) fn accept_due(&self) -> Option<Millis> {
        let due = |(_, listener): (usize, &Listener)| {
            if !listener.is_ready {
                return None;
            }
            match self.obstacle(listener.door).filter(|_| !self.can_refuse(listener)) {
                None => Some(self.accept_from()),
                Some(TurnedAway::Crowd) => Some(self.admission.opens_at().max(self.accept_from())),
                // The end of a connection causes a turn.
                Some(TurnedAway::Full) => None,
            }
        };
        self.doors.iter().filter_map(due).min()
    }

    /// Tells a client why it is not let in, and when to come back. Its request is read and
    /// discarded, because closing a socket with unread input would reset it, and the response would
    /// be lost.
    pub(super) fn refuse(
        &mut self,
        handler: &mut impl Handler,
        stream: Stream,
        why: TurnedAway,
        words: Refusal,
    ) {
        if self.io.turned_away.len() == TURNED_AWAY_MAX
            && let Some(first) = self.io.turned_away.first().copied()
        {
            self.discard(first);
            self.io.free(first);
        }
        let conn = self.io.insert(stream, Door::Web);
        let registry = self.poll.registry();
        let Some(peer) = self.io.peer(conn) else { return };
        if let Err(error) = peer.stream.register(registry, Token(conn.index())) {
            self.io.free(conn);
            return self.starve(&error);
        }
        let seconds = self.admission.queue_up(self.io.now.mono, why);
        // The response is all it gets, and it ends within that time.
        let io = &mut self.io;
        io.send(conn, words(why, seconds));
        let Some(peer) = io.peer(conn) else { return };
        peer.phase = Phase::Flushing;
        peer.set(flag::FAST_CLOSE, true);
        io.turned_away.push(conn);
        io.set_timer(conn, Some(io.now.mono.plus(TURNED_AWAY_MS)));
        io.mark_ready(conn);
        handler.turned_away(self.io.now, why);
    }
}

/// Token bucket for browsers: so many per second, and a burst after a quiet time. Each client that
/// is turned away gets the next place in a virtual queue, which moves at the same rate.
#[derive(Debug)]
pub(super) struct AdmissionRate {
    /// Microseconds for one connection, and for a full burst.
    each_us: u64,
    burst_us: u64,
    /// When all let in so far would have come in at the steady rate; and the queue's end.
    passed_us: u64,
    line_us: u64,
}

impl AdmissionRate {
    pub fn new(bounds: &Bounds) -> AdmissionRate {
        let per_second = bounds.admissions_per_second.max(1) as u64;
        let each_us = (1_000_000 / per_second).max(1);
        let burst_us = each_us.saturating_mul(bounds.admissions_burst as u64);
        AdmissionRate { each_us, burst_us, passed_us: 0, line_us: 0 }
    }

    /// Changes the rate. Connections let in so far count by their number, a burst of them at most;
    /// how long they take to work off depends on the new rate.
    pub fn set_pace(&mut self, bounds: &Bounds, now: Millis) {
        let (now_us, next) = (now.0.saturating_mul(1000), AdmissionRate::new(bounds));
        let ahead_us = |end_us: u64| {
            let ahead = end_us.saturating_sub(now_us).div_ceil(self.each_us);
            ahead.saturating_mul(next.each_us)
        };
        let passed_us = now_us.saturating_add(ahead_us(self.passed_us).min(next.burst_us));
        let line_us = now_us.saturating_add(ahead_us(self.line_us));
        *self = AdmissionRate { passed_us, line_us, ..next };
    }

    /// Returns from when on the next connection is let in.
    pub fn opens_at(&self) -> Millis {
        let at_us = self.passed_us.saturating_add(self.each_us).saturating_sub(self.burst_us);
        Millis(at_us.div_ceil(1000))
    }

    /// Counts one that is let in.
    pub fn pass(&mut self, now: Millis) {
        let now_us = now.0.saturating_mul(1000);
        self.passed_us = self.passed_us.max(now_us).saturating_add(self.each_us);
    }

    /// Returns in how many seconds a client that is turned away is to come back.
    pub fn queue_up(&mut self, now: Millis, why: TurnedAway) -> u64 {
        let now_us = now.0.saturating_mul(1000);
        let end_us = self.line_us.max(now_us).saturating_add(self.each_us);
        let is_too_long = end_us - now_us > LINE_SECONDS_MAX * 1_000_000;
        self.line_us = if is_too_long { now_us } else { end_us };
        let least = match why {
            TurnedAway::Full => FULL_SECONDS,
            TurnedAway::Crowd => 1,
        };
        least + (self.line_us - now_us) / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(admissions_per_second: usize, admissions_burst: usize) -> Bounds {
        Bounds {
            connections: 100,
            admissions_per_second,
            admissions_burst,
            control_reserve: 0,
            control_unread_max: 0,
            admin_connections: 0,
            close_ms: 0,
            drain_ms: 0,
            input_bytes: 0,
            slow: crate::slow::Rules::new(&crate::limits::Limits::default()),
        }
    }

    #[test]
    fn a_change_of_rate_keeps_the_count_of_past_admissions() {
        let now = Millis(5000);
        let after = |admitted: usize, before: Bounds, then: Bounds| {
            let mut admission = AdmissionRate::new(&before);
            (0..admitted).for_each(|_| admission.pass(now));
            admission.set_pace(&then, now);
            admission.opens_at().0.saturating_sub(now.0)
        };
        // Slow, then fast: 2000 of a burst of 20,000 cause no wait, at whatever rate they arrived.
        assert_eq!(after(2000, bounds(10, 20_000), bounds(20_000, 20_000)), 0);
        assert_eq!(after(20_000, bounds(10, 20_000), bounds(20_000, 20_000)), 1);
        // Fast, then slow: the burst is used up, and the change does not restore it.
        assert_eq!(after(100, bounds(1000, 100), bounds(10, 100)), 100);
        // A lower burst is used up, and not more than that.
        assert_eq!(after(15_000, bounds(10, 20_000), bounds(10, 100)), 100);
        // A higher burst admits as many more.
        assert_eq!(after(100, bounds(10, 100), bounds(10, 200)), 0);
    }

    #[test]
    fn retry_times_follow_the_admission_rate_in_force() {
        let now = Millis(5000);
        let mut admission = AdmissionRate::new(&bounds(10, 3));
        let retry_in = |admission: &mut AdmissionRate| admission.queue_up(now, TurnedAway::Crowd);
        assert_eq!((0..400).map(|_| retry_in(&mut admission)).max(), Some(41));
        admission.set_pace(&bounds(1000, 3), now);
        assert_eq!(retry_in(&mut admission), 1);
        admission.set_pace(&bounds(1, 3), now);
        assert_eq!(retry_in(&mut admission), 1, "the queue would be too long, and starts anew");
    }

    #[test]
    fn a_burst_is_admitted_and_then_a_fixed_rate_per_second() {
        let mut admission = AdmissionRate::new(&bounds(10, 3));
        let try_admit = |admission: &mut AdmissionRate, now| {
            let is_open = admission.opens_at() <= Millis(now);
            if is_open {
                admission.pass(Millis(now));
            }
            is_open
        };
        let first = [5000; 5].map(|now| try_admit(&mut admission, now));
        assert_eq!(first, [true, true, true, false, false]);
        assert_eq!(admission.opens_at(), Millis(5100));
        assert!(!try_admit(&mut admission, 5099));
        let all = (5100..8100).filter(|now| try_admit(&mut admission, *now)).count();
        assert_eq!(all, 30, "ten in a second");
        let again = [60_000; 5].map(|now| try_admit(&mut admission, now));
        assert_eq!(again.iter().filter(|is_in| **is_in).count(), 3);
        // The retry times of refused clients follow the same rate.
        let waits: Vec<u64> =
            (0..20).map(|_| admission.queue_up(Millis(60_000), TurnedAway::Crowd)).collect();
        assert_eq!((waits[0], waits[8], waits[9], waits[19]), (1, 1, 2, 3));
        assert_eq!(admission.queue_up(Millis(62_000), TurnedAway::Full), FULL_SECONDS);
        let longest =
            (0..5000).map(|_| admission.queue_up(Millis(62_000), TurnedAway::Crowd)).max();
        assert_eq!(longest, Some(LINE_SECONDS_MAX + 1));
    }
}
