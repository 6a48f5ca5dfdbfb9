//! The rounds of a turn: of the connections to be read, and of those to be written to, as many as
//! one turn has time for. The others stay at the front of their lists, and the next turn does not
//! wait. Part of the reactor, whose turn calls it.

use std::collections::VecDeque;

use super::io::Io;
use super::listener::Listener;
use super::peer::{Phase, flag};
use super::{ACCEPT_MAX, Reactor};
use crate::edge::{ConnId, Door, Handler};
use crate::time::Stopwatch;

/// Browsers read in one turn, and closing connections whose input is discarded: a back end that has
/// just published waits for these rounds to be read, and an `auth` takes ten microseconds.
pub(super) const READS_MAX: usize = 32;
/// Back ends and admin clients read in one turn.
const CONTROL_READS_MAX: usize = 128;
/// Bytes of those passed to the handler in one turn, after which no other of them is read.
const CONTROL_ROUND_BYTES: u64 = 128 * 1024;
/// The same for browsers. As frames without content alone, this is five thousand of them.
const READ_ROUND_BYTES: u64 = 32 * 1024;
/// Connections written to in one turn.
pub(super) const FLUSHES_MAX: usize = 128;
/// Bytes written in one turn, after which no other connection is written to.
const FLUSH_ROUND_BYTES: u64 = 256 * 1024;
/// A connection with more queued is written to after all those with less, so that large
/// publications to many connections delay no others.
pub(super) const SMALL_BYTES: usize = 16 * 1024;
/// Bytes written in one turn to connections with more queued, after which no other of them is
/// written to. The kernel must find memory for each, and on a virtual machine so must the host: ten
/// microseconds a page after an idle time. That is a third of a millisecond, and a tenth elsewhere.
pub(super) const LARGE_ROUND_BYTES: u64 = 128 * 1024;
/// Such connections written to in one turn; ending one takes ten microseconds.
const LARGE_FLUSHES_MAX: usize = 32;
/// Connections that one turn only moves to another list: those found to have more queued, and those
/// found to be closing.
const MOVED_MAX: usize = 1024;
/// Bytes discarded in one turn: the input of closing connections.
pub(super) const DISCARD_ROUND_BYTES: u64 = 256 * 1024;
/// Microseconds after which a round is continued in the next turn, whatever its other bounds: what
/// a back end publishes meanwhile waits for every round. A machine that needs as long for one token
/// reads one browser per turn, but hears its back ends as soon as others do.
const ROUND_US: u64 = 50;
/// The same for back ends, which nothing should delay.
const CONTROL_ROUND_US: u64 = 250;

/// One round, with its share of the time of a turn. The first connection is always served: the time
/// runs from the second on, so that a round of one or none does not read the clock.
pub(super) struct Round {
    watch: Option<Stopwatch>,
    us: u64,
}

impl Round {
    /// Starts a round.
    pub fn start() -> Round {
        Round { watch: None, us: ROUND_US }
    }

    /// Lets its time run, for connections of which the first may take as long as a round.
    pub fn run(&mut self) {
        self.watch.get_or_insert_with(Stopwatch::start);
    }

    /// Returns whether its time is over. Asked before each connection but the first.
    pub fn is_late(&mut self) -> bool {
        let Some(watch) = &self.watch else {
            self.watch = Some(Stopwatch::start());
            return false;
        };
        watch.elapsed_us() >= self.us
    }
}

impl Reactor {
    /// Returns how many connections a listener may accept in this turn. Back ends are accepted only
    /// as fast as the rounds read them: one too many evicts an unauthenticated connection, which
    /// must not be one whose `auth` was merely not read yet. The rest waits in the kernel's queue,
    /// but not behind a crowd that has been read and has not authenticated.
    pub(super) fn accept_max(&self, handler: &impl Handler, door: usize) -> usize {
        let is_ready = |door: &&Listener| door.is_ready && door.door == Door::Control;
        if self.doors.get(door).filter(is_ready).is_none() {
            return ACCEPT_MAX;
        }
        let is_unheard = |conn: &&ConnId| {
            let peer = self.io.peers.get(**conn).filter(|peer| peer.door == Door::Control);
            peer.is_some_and(|peer| peer.phase == Phase::Open && peer.is(flag::NEW))
        };
        let most = self.bounds.control_unread_max.min(ACCEPT_MAX);
        let unheard = self.io.control_ready.iter().filter(is_unheard).count();
        let is_siege = handler.unauthenticated() > unheard + most / 2;
        if is_siege { ACCEPT_MAX } else { most.saturating_sub(unheard) }
    }

    /// Reads the back ends that have input, each once.
    pub(super) fn read_back_ends(&mut self, handler: &mut impl Handler) {
        self.has_read = !self.io.control_ready.is_empty();
        let control = (CONTROL_READS_MAX, CONTROL_ROUND_BYTES, CONTROL_ROUND_US);
        self.read_some(handler, control, Door::Control);
    }

    /// Reads the browsers that have input, each once. Discards the input of closing ones last.
    pub(super) fn read_browsers(&mut self, handler: &mut impl Handler) {
        self.has_read |= !self.io.web_ready.is_empty();
        self.read_some(handler, (READS_MAX, READ_ROUND_BYTES, ROUND_US), Door::Web);
        self.discard_round();
    }

    /// Reads as many connections of that kind as there is time for. The others keep their place in
    /// the list; those that have been read go behind them, so that each gets its turn.
    fn read_some(
        &mut self,
        handler: &mut impl Handler,
        (most, most_bytes, us): (usize, u64, u64),
        door: Door,
    ) {
        fn list(io: &mut Io, door: Door) -> &mut VecDeque<ConnId> {
            if door == Door::Control { &mut io.control_ready } else { &mut io.web_ready }
        }
        let (mut read, start) = (0, self.handled_bytes);
        let mut round = Round { us, ..Round::start() };
        for taken in 0..list(&mut self.io, door).len() {
            let is_over = self.handled_bytes - start >= most_bytes || (read > 0 && round.is_late());
            let is_enough = door == Door::Control && handler.is_turn_full();
            if read == most || taken == read + MOVED_MAX || is_over || is_enough {
                return;
            }
            let Some(conn) = list(&mut self.io, door).pop_front() else { return };
            if self.io.is_leaving(conn) {
                self.io.leaving.push_back(conn);
            } else {
                read += 1;
                self.read(handler, conn);
            }
        }
    }

    /// Discards the input of closing connections.
    fn discard_round(&mut self) {
        let (mut round, start) = (Round::start(), self.io.meters.received_bytes);
        for taken in 0..self.io.leaving.len().min(READS_MAX) {
            let is_over = self.io.meters.received_bytes - start >= DISCARD_ROUND_BYTES;
            if is_over || (taken > 0 && round.is_late()) {
                return;
            }
            let Some(conn) = self.io.leaving.pop_front() else { return };
            self.discard(conn);
        }
    }

    /// Writes to the connections with little queued, as far as the bounds of this turn allow. The
    /// others, and closing ones, are put on the list of those that come last.
    pub(super) fn flush_small(&mut self, handler: &mut impl Handler) {
        let (before, sent_before) = (self.flushed, self.io.meters.sent_bytes);
        for taken in 0..self.io.to_flush.len() {
            if self.flushed == FLUSHES_MAX
                || taken == self.flushed - before + MOVED_MAX
                || self.flushed_bytes + self.io.meters.sent_bytes - sent_before >= FLUSH_ROUND_BYTES
            {
                break;
            }
            let Some(conn) = self.io.to_flush.pop_front() else { break };
            match self.flush(handler, conn, SMALL_BYTES) {
                true => self.flushed += 1,
                false => self.io.to_flush_large.push_back(conn),
            }
        }
        self.flushed_bytes += self.io.meters.sent_bytes - sent_before;
    }

    /// Ends the output of a turn. Connections with much queued, and closing ones, come after all
    /// others: ten thousand that are sent away must not delay those that stay.
    pub(super) fn flush_rest(&mut self, handler: &mut impl Handler) {
        self.flush_small(handler);
        self.flush_large(handler);
        self.io.joiner.clear();
    }

    /// At least one of these is written to in each turn.
    fn flush_large(&mut self, handler: &mut impl Handler) {
        let left = FLUSH_ROUND_BYTES.saturating_sub(self.flushed_bytes).min(LARGE_ROUND_BYTES);
        let end = self.io.meters.sent_bytes + left;
        let mut round = Round::start();
        for taken in 0..self.io.to_flush_large.len().min(LARGE_FLUSHES_MAX) {
            if taken > 0 && (self.io.meters.sent_bytes >= end || round.is_late()) {
                return;
            }
            let Some(conn) = self.io.to_flush_large.pop_front() else { return };
            round.run();
            self.flush(handler, conn, usize::MAX);
        }
    }
}
