//! Rounds of a turn: of those who are to be read, and of those who are to be written to, as many
//! as one turn has time for. The others stay on their lists, in front, and the next turn does not
//! wait. Part of the reactor, whose turn calls it.

use super::Reactor;
use crate::edge::{ConnId, Handler};

/// Browsers read in one turn, and those who are on their way out: what a back end has just
/// published waits until they have been, and an `auth` takes ten microseconds.
pub(super) const READS_MAX: usize = 32;
/// Back ends read in one turn.
const FIRST_READS_MAX: usize = 128;
/// Bytes given to the handler in one turn, after which nobody else of these is read.
const READ_ROUND_BYTES: u64 = 128 * 1024;
/// Connections written to in one turn.
pub(super) const FLUSHES_MAX: usize = 128;
/// Bytes written in one turn, after which nobody else is written to.
const FLUSH_ROUND_BYTES: u64 = 256 * 1024;
/// Whoever is owed more is written to behind all who are owed less, so that large publications to
/// many hold up nobody else.
const LIGHT_BYTES: usize = 16 * 1024;
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

impl Reactor {
    /// Reads those who have something to say, each once: back ends, who are few and are trusted,
    /// before browsers, and those who are on their way out behind all others.
    pub(super) fn read_round(&mut self, handler: &mut impl Handler) {
        let batch = std::mem::replace(&mut self.io.first, std::mem::take(&mut self.spare));
        self.has_read = !batch.is_empty() || !self.io.ready.is_empty();
        let taken = self.read_some(handler, &batch, FIRST_READS_MAX);
        let later = std::mem::take(&mut self.io.first);
        (self.io.first, self.spare) = queue_up(batch, taken, later);
        let batch = std::mem::replace(&mut self.io.ready, std::mem::take(&mut self.spare));
        let taken = self.read_some(handler, &batch, READS_MAX);
        let later = std::mem::take(&mut self.io.ready);
        (self.io.ready, self.spare) = queue_up(batch, taken, later);
        self.discard_round();
    }

    /// As many of these as there is time for: how many.
    fn read_some(&mut self, handler: &mut impl Handler, batch: &[ConnId], most: usize) -> usize {
        let (mut taken, mut read, start) = (0, 0, self.heard_bytes);
        while read < most
            && taken < read + MOVED_MAX
            && self.heard_bytes - start < READ_ROUND_BYTES
            && let Some(conn) = batch.get(taken)
        {
            taken += 1;
            if self.io.is_leaving(*conn) {
                self.io.leaving.push(*conn);
            } else {
                read += 1;
                self.read(handler, *conn);
            }
        }
        taken
    }

    /// Throws away what comes from those who are on their way out.
    fn discard_round(&mut self) {
        let batch = std::mem::replace(&mut self.io.leaving, std::mem::take(&mut self.spare));
        let (mut taken, start) = (0, self.io.meters.received_bytes);
        while taken < READS_MAX
            && self.io.meters.received_bytes - start < DISCARD_ROUND_BYTES
            && let Some(conn) = batch.get(taken)
        {
            taken += 1;
            self.discard(*conn);
        }
        let later = std::mem::take(&mut self.io.leaving);
        (self.io.leaving, self.spare) = queue_up(batch, taken, later);
    }

    /// Writes to those for whom something waits, and then to those for whom much does, or the last
    /// words: ten thousand who are sent away must not hold up who stays.
    pub(super) fn flush_round(&mut self, handler: &mut impl Handler) {
        let batch = std::mem::replace(&mut self.io.dirty, std::mem::take(&mut self.spare));
        let (mut taken, mut written, start) = (0, 0, self.io.meters.sent_bytes);
        while written < FLUSHES_MAX
            && taken < written + MOVED_MAX
            && self.io.meters.sent_bytes - start < FLUSH_ROUND_BYTES
            && let Some(conn) = batch.get(taken)
        {
            taken += 1;
            if self.io.is_owed(*conn, LIGHT_BYTES) || self.io.is_leaving(*conn) {
                self.io.heavy.push(*conn);
            } else {
                written += 1;
                self.flush(handler, *conn);
            }
        }
        let later = std::mem::take(&mut self.io.dirty);
        (self.io.dirty, self.spare) = queue_up(batch, taken, later);
        self.flush_heavy(handler, start);
        self.io.cork.clear();
    }

    /// Of these at least one has its turn.
    fn flush_heavy(&mut self, handler: &mut impl Handler, start: u64) {
        let batch = std::mem::replace(&mut self.io.heavy, std::mem::take(&mut self.spare));
        let end = (start + FLUSH_ROUND_BYTES).min(self.io.meters.sent_bytes + HEAVY_ROUND_BYTES);
        let mut taken = 0;
        while taken < HEAVY_FLUSHES_MAX
            && (taken == 0 || self.io.meters.sent_bytes < end)
            && let Some(conn) = batch.get(taken)
        {
            taken += 1;
            self.flush(handler, *conn);
        }
        let later = std::mem::take(&mut self.io.heavy);
        (self.io.heavy, self.spare) = queue_up(batch, taken, later);
    }
}

/// What is left of a round in front of those who came meanwhile; and a list that is empty.
fn queue_up(
    mut batch: Vec<ConnId>,
    taken: usize,
    mut later: Vec<ConnId>,
) -> (Vec<ConnId>, Vec<ConnId>) {
    batch.drain(..taken);
    if batch.is_empty() {
        return (later, batch);
    }
    batch.append(&mut later);
    (batch, later)
}
