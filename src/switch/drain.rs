//! The shutdown. Browsers are disconnected evenly over the time there is, so that they do not all
//! reconnect at once, and each is told when to: no more at a time than the next server admits. Back
//! ends are served until the last browser has gone, so what they say at the end is still delivered.

use super::Switch;
use crate::edge::{ConnId, Net};
use crate::time::Millis;

/// The most connections let go in one turn.
const PER_TURN: usize = 64;
/// The most slots examined in one turn for a connection to let go.
const SEATS_PER_TURN: usize = 4096;
/// The longest interval between two browsers: a few need not be spread over all the time there is.
const MS_FOR_EACH: u64 = 50;
/// Assumed time from the end of this server until the next one admits connections.
const RESTART_MS: u64 = 1000;

/// The progress of the shutdown.
#[derive(Debug)]
pub(super) struct Drain {
    /// The first browser goes at the beginning of this span, the last one at its end.
    until: Millis,
    span_ms: u64,
    /// The span over which browsers reconnect.
    back_ms: u64,
    /// Connections at the web door at the beginning, and how many have been let go.
    count: u64,
    gone: u64,
    /// The next slot to examine.
    slot: usize,
    /// All browsers have gone and the back ends are let go; `last` is the last one so far.
    is_last: bool,
    last: Option<ConnId>,
    is_over: bool,
}

impl Drain {
    fn new(now: Millis, end: Millis, count: u64, admissions_per_second: u64) -> Drain {
        let span_ms = end.0.saturating_sub(now.0).min(count.saturating_mul(MS_FOR_EACH));
        let admission_ms = count.saturating_mul(1000) / admissions_per_second.max(1);
        Drain {
            until: now.plus(span_ms),
            span_ms,
            back_ms: span_ms.max(admission_ms),
            count,
            gone: 0,
            slot: 0,
            is_last: false,
            last: None,
            is_over: false,
        }
    }

    /// Returns how many browsers may still be connected at that moment.
    fn goal(&self, now: Millis) -> u64 {
        let left_ms = self.until.0.saturating_sub(now.0).min(self.span_ms);
        self.count.saturating_mul(left_ms) / self.span_ms.max(1)
    }

    /// Returns when the next browser has to go while `live` are left.
    fn next_at(&self, live: u64) -> Millis {
        let left_ms = live.saturating_mul(self.span_ms).saturating_sub(1) / self.count.max(1);
        Millis(self.until.0.saturating_sub(left_ms.min(self.span_ms)))
    }

    /// Returns in how many milliseconds the next browser to go is to reconnect: its place in a
    /// queue that starts when the next server is up.
    fn back_in(&self, now: Millis) -> u64 {
        let place_ms = self.back_ms.saturating_mul(self.gone) / self.count.max(1);
        self.until.plus(RESTART_MS).plus(place_ms).0.saturating_sub(now.0)
    }
}

impl Switch {
    /// Begins the shutdown: all connections are to be gone by `end`.
    pub(super) fn begin_drain(&mut self, now: Millis, end: Millis) {
        let rate = self.limits.admissions_per_second as u64;
        self.drain = Some(Drain::new(now, end, self.web_connections() as u64, rate));
    }

    /// Returns when the shutdown continues.
    pub(super) fn drain_due(&self) -> Option<Millis> {
        let drain = self.drain.as_ref().filter(|drain| !drain.is_over)?;
        let live = self.web_connections() as u64;
        Some(if live > 0 { drain.next_at(live) } else { Millis(0) })
    }

    /// Lets go the connections whose time has come.
    pub(super) fn drain(&mut self, net: &mut impl Net) {
        let (now, live) = (net.now().mono, self.web_connections());
        let Some(drain) = self.drain.as_mut().filter(|drain| !drain.is_over) else { return };
        if live > 0 {
            let back_ms = drain.back_in(now);
            let count = (live as u64).saturating_sub(drain.goal(now));
            self.web.refuse_new(back_ms);
            return self.drain_web(net, usize::try_from(count).unwrap_or(PER_TURN));
        }
        if !drain.is_last {
            let (web, mut site) = self.split();
            if !web.abandon(net, &mut site, PER_TURN) {
                return;
            }
            if let Some(drain) = &mut self.drain {
                drain.is_last = true;
            }
        }
        self.drain_control(net);
    }

    fn drain_web(&mut self, net: &mut impl Net, count: usize) {
        let mut left = count.min(PER_TURN);
        for _ in 0..SEATS_PER_TURN {
            let Some(drain) = self.drain.as_mut().filter(|_| left > 0) else { return };
            if drain.slot >= self.web.slots() {
                // Those that are left opened in slots that had been passed already: start over.
                drain.slot = 0;
                return;
            }
            drain.slot += 1;
            let Some(conn) = self.web.conn(drain.slot - 1) else { continue };
            drain.gone += 1;
            let back_ms = drain.back_in(net.now().mono);
            let (web, mut site) = self.split();
            web.let_go(net, &mut site, conn, Some(back_ms));
            left -= 1;
        }
    }

    pub(super) fn drain_control(&mut self, net: &mut impl Net) {
        let last = self.drain.as_ref().and_then(|drain| drain.last);
        let mut left = self.connections.all_controllers();
        left.retain(|conn| last.is_none_or(|last| *conn > last));
        for conn in left.iter().take(PER_TURN) {
            let Some(mut controller) = self.connections.take(*conn) else { continue };
            // Commands carried out are answered first; no others are begun.
            controller.end();
            self.close_when_answered(net, *conn, &mut controller);
            self.connections.put_back(*conn, controller);
        }
        if let Some(drain) = &mut self.drain {
            drain.last = left.get(PER_TURN - 1).copied().or(drain.last);
            drain.is_over = left.len() <= PER_TURN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_drains_evenly_and_reconnects_at_the_admission_rate() {
        let (start, end) = (Millis(1000), Millis(10_000));
        let mut drain = Drain::new(start, end, 90_000, 5000);
        assert_eq!((drain.goal(start), drain.goal(end)), (90_000, 0));
        assert_eq!(drain.goal(Millis(4000)), 60_000);
        assert_eq!(drain.next_at(90_000), Millis(1001));
        assert_eq!(drain.next_at(1), end);
        // The first reconnects when the next server is up, the last eighteen seconds later.
        assert_eq!(drain.back_in(start), 10_000);
        drain.gone = 45_000;
        assert_eq!(drain.back_in(Millis(5500)), 5500 + 9000);
        drain.gone = 90_000;
        assert_eq!(drain.back_in(end), 1000 + 18_000);
    }

    #[test]
    fn few_connections_drain_quickly() {
        let drain = Drain::new(Millis(0), Millis(9000), 3, 5000);
        assert_eq!(drain.until, Millis(150));
        let nobody = Drain::new(Millis(5), Millis(5), 0, 1);
        assert_eq!((nobody.goal(Millis(5)), nobody.back_in(Millis(5))), (0, 1000));
        let no_time = Drain::new(Millis(5), Millis(5), 9, 1);
        assert_eq!((no_time.goal(Millis(5)), no_time.next_at(9)), (0, Millis(5)));
    }
}
