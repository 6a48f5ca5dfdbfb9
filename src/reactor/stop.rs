//! Shutdown: listeners closed, input that has arrived handled, all connections closed. Part of the
//! reactor, whose turn calls it.

use super::events::SIGNALS;
use super::peer::{Peer, Phase, flag};
use super::{EVENTS_MAX, Listener, Reactor};
use crate::arena::NIL;
use crate::edge::{Door, Handler};
use crate::time::{Millis, Stopwatch};

/// Stop signals that come within this time are one: a terminal and the parent process send it
/// together, and supervisors tend to send it twice.
const SAME_STOP_MS: u64 = 100;
/// Maximum time from the last byte sent to the end of a connection while the server stops.
const LINGER_MS: u64 = 500;
/// How long input is still handled, at most half the drain time: a peer that never falls silent, or
/// does not take its answers, is not waited for.
const HEAR_MS: u64 = 1000;
/// How long before the end the last peers are closed, at most a quarter of the drain time: they
/// need time to take what is queued, and to answer.
const PART_MS: u64 = 1000;
/// From the last turn to the end of the process, at most a tenth of the drain time.
const CLOSING_MS: u64 = 200;

impl Reactor {
    /// Returns whether a second stop signal has come, even since the last turn: then what is left
    /// is to be done at once.
    pub fn is_urged(&mut self) -> bool {
        let before = self.io.now.mono;
        self.io.now = self.read_clock(&Stopwatch::start());
        let signals = 0..self.signals.len();
        let came = signals.map(|at| self.note_signal(SIGNALS + at)).sum::<usize>();
        // It may have come at any moment since the last look: in doubt it is the same signal.
        if came > 0 && before >= self.same_stop_until {
            self.stop();
        }
        self.stops > 1
    }

    /// Handles a stop signal: closes the listeners but the admin's, and shortens lingering, also
    /// that of connections that linger already.
    pub(super) fn stop(&mut self) {
        let now = self.io.now.mono;
        if now < self.same_stop_until {
            return;
        }
        self.stops += 1;
        self.same_stop_until = now.plus(SAME_STOP_MS);
        if self.stops > 1 {
            return;
        }
        self.io.meters.is_draining = true;
        let is_closing = |(_, listener): &(usize, &Listener)| listener.door != Door::Admin;
        let closing = self.doors.iter().filter(is_closing).map(|(door, _)| door);
        for door in closing.collect::<Vec<_>>() {
            self.doors.remove(door);
            self.io.peers.close_door(door);
        }
        let drain_ms = self.bounds.drain_ms;
        // What follows the loop takes time as well: the store is closed.
        self.drain_until = now.plus(drain_ms - CLOSING_MS.min(drain_ms / 10));
        self.hear_until = Some(now.plus(HEAR_MS.min(drain_ms / 2)));
        self.io.linger_ms = self.io.linger_ms.min(LINGER_MS);
        let lingering = self.io.peers.iter().filter(|(_, peer)| peer.phase == Phase::Lingering);
        for conn in lingering.map(|(conn, _)| conn).collect::<Vec<_>>() {
            self.io.set_timer(conn, Some(now.plus(self.io.linger_ms)));
        }
    }

    /// Has the handler close all connections, once all input that had arrived has been handled: no
    /// connection was to be read in this turn or is in the next, and no paused one has input left.
    pub(super) fn part(&mut self, handler: &mut impl Handler) {
        let Some(until) = self.hear_until else { return };
        let is_heard = || {
            let is_quiet =
                !self.has_read && self.io.web_ready.is_empty() && self.io.control_ready.is_empty();
            // If the kernel had more to report than fits, the rest comes in the next turn.
            let is_all_reported = self.reported < EVENTS_MAX;
            let has_more = |peer: &Peer| {
                let is_held = peer.phase == Phase::Open && peer.is(flag::PAUSED);
                is_held && (peer.is(flag::READABLE) || peer.tail != NIL)
            };
            is_quiet && is_all_reported && !self.io.peers.iter().any(|(_, peer)| has_more(peer))
        };
        if self.io.now.mono < until && !is_heard() {
            return;
        }
        self.hear_until = None;
        // Everything queued has the whole time to go out; nothing is waited for after that.
        self.io.close_ms = self.bounds.drain_ms;
        let part_ms = PART_MS.min(self.bounds.drain_ms / 4);
        let until = Millis(self.drain_until.0.saturating_sub(part_ms));
        handler.stopping(&mut self.io, until);
    }
}
