//! Rounds of a turn: of those who are to be read, and of those who are to be written to, as many
//! as one turn has time for. The others stay on their lists, in front, and the next turn does not
//! wait. Part of the reactor, whose turn calls it.

use std::collections::VecDeque;

use super::io::Io;
use super::listener::Listener;
use super::peer::{Phase, flag};
use super::{ACCEPT_MAX, Reactor};
use crate::edge::{ConnId, Door, Handler};
use crate::time::Stopwatch;

/// Browsers read in one turn, and those who are on their way out: what a back end has just
/// published waits until they have been, and an `auth` takes ten microseconds.
pub(super) const READS_MAX: usize = 32;
/// Back ends read in one turn.
const FIRST_READS_MAX: usize = 128;
/// Bytes of back ends given to the handler in one turn, after which none of the others is read.
const FIRST_ROUND_BYTES: u64 = 128 * 1024;
/// The same of browsers, who may send nothing but frames without content: five thousand of those.
const READ_ROUND_BYTES: u64 = 32 * 1024;
/// Connections written to in one turn.
pub(super) const FLUSHES_MAX: usize = 128;
/// Bytes written in one turn, after which nobody else is written to.
const FLUSH_ROUND_BYTES: u64 = 256 * 1024;
/// Whoever is owed more is written to behind all who are owed less, so that large publications to
/// many hold up nobody else.
pub(super) const LIGHT_BYTES: usize = 16 * 1024;
/// Bytes written in one turn to those, after which none of them is written to. The kernel must find
/// memory for each, and on a virtual machine the host too: ten microseconds a page when it has been
/// idle. So this is a third of a millisecond where it is slow, and a tenth elsewhere.
pub(super) const HEAVY_ROUND_BYTES: u64 = 128 * 1024;
/// Connections of those in one turn; the end of one takes ten microseconds.
const HEAVY_FLUSHES_MAX: usize = 32;
/// Connections that are only put on another list in one turn: those that are found to be owed more,
/// and those on their way out.
const MOVED_MAX: usize = 1024;
/// Bytes thrown away in one turn: what comes from those who are on their way out.
pub(super) const DISCARD_ROUND_BYTES: u64 = 256 * 1024;
/// Microseconds after which a round goes on in the next turn, whatever else bounds it: what a back
/// end publishes meanwhile waits for as many rounds as there are. A machine on which one token
/// takes as long hears one browser in a turn, but its back ends as soon as others do.
const ROUND_US: u64 = 50;
/// The same of back ends, whom nobody should hold up.
const FIRST_ROUND_US: u64 = 250;

/// One round, which has its share of the time of a turn. Whoever is first always has a turn: time
/// is taken from the second on, so that a round of one, or of nobody, does not ask the clock.
pub(super) struct Round {
    watch: Option<Stopwatch>,
    us: u64,
}

impl Round {
    /// Begins one.
    pub fn start() -> Round {
        Round { watch: None, us: ROUND_US }
    }

    /// Whether its time is over; asked before each but the first.
    pub fn is_late(&mut self) -> bool {
        self.watch.get_or_insert_with(Stopwatch::start).elapsed_us() >= self.us
    }
}

impl Reactor {
    /// How many may come in through a door in this turn. Of back ends so many that the rounds keep
    /// up with them: one too many makes a stranger go, and that shall be nobody who has said who it
    /// is and only was not heard yet. The others wait in the kernel's queue; but not behind a crowd
    /// that has been heard and does not say it.
    pub(super) fn accept_max(&self, handler: &impl Handler, door: usize) -> usize {
        let is_ready = |door: &&Listener| door.is_ready && door.door == Door::Control;
        if self.doors.get(door).filter(is_ready).is_none() {
            return ACCEPT_MAX;
        }
        let is_unheard = |conn: &&ConnId| {
            let peer = self.io.peers.get(**conn).filter(|peer| peer.door == Door::Control);
            peer.is_some_and(|peer| peer.phase == Phase::Open && peer.is(flag::NEW))
        };
        let most = self.bounds.control_unheard.min(ACCEPT_MAX);
        let unheard = self.io.first.iter().filter(is_unheard).count();
        let is_siege = handler.strangers() > unheard + most / 2;
        if is_siege { ACCEPT_MAX } else { most.saturating_sub(unheard) }
    }

    /// Reads those who have something to say, each once: back ends, who are few and are trusted,
    /// before browsers, and those who are on their way out behind all others.
    pub(super) fn read_round(&mut self, handler: &mut impl Handler) {
        self.has_read = !self.io.first.is_empty() || !self.io.ready.is_empty();
        let first = (FIRST_READS_MAX, FIRST_ROUND_BYTES, FIRST_ROUND_US);
        self.read_some(handler, first, Door::Control);
        self.read_some(handler, (READS_MAX, READ_ROUND_BYTES, ROUND_US), Door::Web);
        self.discard_round();
    }

    /// As many of those who came through that door as there is time for. The others stay where they
    /// are in the list, behind which those go who have been read: each in its turn.
    fn read_some(
        &mut self,
        handler: &mut impl Handler,
        (most, most_bytes, us): (usize, u64, u64),
        door: Door,
    ) {
        fn list(io: &mut Io, door: Door) -> &mut VecDeque<ConnId> {
            if door == Door::Control { &mut io.first } else { &mut io.ready }
        }
        let (mut read, start) = (0, self.heard_bytes);
        let mut round = Round { us, ..Round::start() };
        for taken in 0..list(&mut self.io, door).len() {
            let is_over = self.heard_bytes - start >= most_bytes || (read > 0 && round.is_late());
            let is_enough = door == Door::Control && handler.has_heard_enough();
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

    /// Throws away what comes from those who are on their way out.
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

    /// Writes to those for whom something waits, and then to those for whom much does, or the last
    /// words: ten thousand who are sent away must not hold up who stays.
    pub(super) fn flush_round(&mut self, handler: &mut impl Handler) {
        let (mut written, start) = (0, self.io.meters.sent_bytes);
        for taken in 0..self.io.dirty.len() {
            if written == FLUSHES_MAX
                || taken == written + MOVED_MAX
                || self.io.meters.sent_bytes - start >= FLUSH_ROUND_BYTES
            {
                break;
            }
            let Some(conn) = self.io.dirty.pop_front() else { break };
            match self.flush(handler, conn, LIGHT_BYTES) {
                true => written += 1,
                false => self.io.heavy.push_back(conn),
            }
        }
        self.flush_heavy(handler, start);
        self.io.cork.clear();
    }

    /// Of these at least one has its turn.
    fn flush_heavy(&mut self, handler: &mut impl Handler, start: u64) {
        let end = (start + FLUSH_ROUND_BYTES).min(self.io.meters.sent_bytes + HEAVY_ROUND_BYTES);
        let mut round = Round::start();
        for taken in 0..self.io.heavy.len().min(HEAVY_FLUSHES_MAX) {
            if taken > 0 && (self.io.meters.sent_bytes >= end || round.is_late()) {
                return;
            }
            let Some(conn) = self.io.heavy.pop_front() else { return };
            self.flush(handler, conn, usize::MAX);
        }
    }
}
