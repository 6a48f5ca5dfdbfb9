//! Rounds of a turn: of those who are to be read, and of those who are to be written to, as many
//! as one turn has time for. The others stay on their lists, in front, and the next turn does not
//! wait. Part of the reactor, whose turn calls it.

use super::Reactor;
use crate::edge::{ConnId, Handler};

/// Connections read in one turn.
pub(super) const READS_MAX: usize = 128;
/// Bytes given to the handler in one turn, after which nobody else is read.
const READ_ROUND_BYTES: u64 = 128 * 1024;
/// Connections written to in one turn.
pub(super) const FLUSHES_MAX: usize = 128;
/// Bytes written in one turn, after which nobody else is written to.
const FLUSH_ROUND_BYTES: u64 = 1024 * 1024;

impl Reactor {
    /// Reads those who have something to say, each once.
    pub(super) fn read_round(&mut self, handler: &mut impl Handler) {
        let batch = std::mem::replace(&mut self.io.ready, std::mem::take(&mut self.spare));
        self.has_read = !batch.is_empty();
        let (mut taken, start) = (0, self.heard_bytes);
        while taken < READS_MAX
            && self.heard_bytes - start < READ_ROUND_BYTES
            && let Some(conn) = batch.get(taken)
        {
            taken += 1;
            self.read(handler, *conn);
        }
        let later = std::mem::take(&mut self.io.ready);
        (self.io.ready, self.spare) = queue_up(batch, taken, later);
    }

    /// Writes to those for whom something waits.
    pub(super) fn flush_round(&mut self, handler: &mut impl Handler) {
        let batch = std::mem::replace(&mut self.io.dirty, std::mem::take(&mut self.spare));
        let (mut taken, start) = (0, self.io.meters.sent_bytes);
        while taken < FLUSHES_MAX
            && self.io.meters.sent_bytes - start < FLUSH_ROUND_BYTES
            && let Some(conn) = batch.get(taken)
        {
            taken += 1;
            self.flush(handler, *conn);
        }
        let later = std::mem::take(&mut self.io.dirty);
        (self.io.dirty, self.spare) = queue_up(batch, taken, later);
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
