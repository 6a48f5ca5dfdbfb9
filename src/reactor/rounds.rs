//! Rounds of a turn: of those who are to be read, and of those who are to be written to, as many
//! as one turn has time for. The others stay on their lists, in front, and the next turn does not
//! wait. Part of the reactor, whose turn calls it.

use std::collections::VecDeque;

use super::Reactor;
use super::io::Io;
use crate::edge::{ConnId, Handler};

/// Connections read in one turn, of back ends and of browsers each.
pub(super) const READS_MAX: usize = 128;
/// Bytes given to the handler in one turn, after which nobody else of these is read.
const READ_ROUND_BYTES: u64 = 128 * 1024;
/// Connections written to in one turn.
pub(super) const FLUSHES_MAX: usize = 128;
/// Bytes written in one turn, after which nobody else is written to.
pub(super) const FLUSH_ROUND_BYTES: u64 = 256 * 1024;
/// Whoever is owed more is written to behind all who are owed less, so that large publications to
/// many hold up nobody else.
pub(super) const LIGHT_BYTES: usize = 16 * 1024;
/// Connections that are found to be owed more in one turn.
const HEAVY_MAX: usize = 1024;
/// Bytes thrown away in one turn: what comes from those who are on their way out.
pub(super) const DISCARD_ROUND_BYTES: u64 = 256 * 1024;

impl Reactor {
    /// Reads those who have something to say, each once: back ends, who are few and are trusted,
    /// before browsers, and those who are on their way out behind all others.
    pub(super) fn read_round(&mut self, handler: &mut impl Handler) {
        self.has_read = !self.io.first.is_empty() || !self.io.ready.is_empty();
        self.read_some(handler, |io| &mut io.first);
        self.read_some(handler, |io| &mut io.ready);
        self.discard_round();
    }

    /// As many of a list as there is time for.
    fn read_some(
        &mut self,
        handler: &mut impl Handler,
        list: impl Fn(&mut Io) -> &mut VecDeque<ConnId>,
    ) {
        let start = self.heard_bytes;
        for _ in 0..list(&mut self.io).len().min(READS_MAX) {
            if self.heard_bytes - start >= READ_ROUND_BYTES {
                return;
            }
            let Some(conn) = list(&mut self.io).pop_front() else { return };
            match self.io.is_leaving(conn) {
                true => self.io.leaving.push_back(conn),
                false => self.read(handler, conn),
            }
        }
    }

    /// Throws away what comes from those who are on their way out.
    fn discard_round(&mut self) {
        let start = self.io.meters.received_bytes;
        for _ in 0..self.io.leaving.len().min(READS_MAX) {
            if self.io.meters.received_bytes - start >= DISCARD_ROUND_BYTES {
                return;
            }
            let Some(conn) = self.io.leaving.pop_front() else { return };
            self.discard(conn);
        }
    }

    /// Writes to those for whom something waits, and then to those for whom much does.
    pub(super) fn flush_round(&mut self, handler: &mut impl Handler) {
        let (mut written, start) = (0, self.io.meters.sent_bytes);
        for taken in 0..self.io.dirty.len() {
            if written == FLUSHES_MAX
                || taken == written + HEAVY_MAX
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

    /// Of those for whom much waits at least one has its turn.
    fn flush_heavy(&mut self, handler: &mut impl Handler, start: u64) {
        for taken in 0..self.io.heavy.len().min(FLUSHES_MAX) {
            if taken > 0 && self.io.meters.sent_bytes - start >= FLUSH_ROUND_BYTES {
                return;
            }
            let Some(conn) = self.io.heavy.pop_front() else { return };
            self.flush(handler, conn, usize::MAX);
        }
    }
}
