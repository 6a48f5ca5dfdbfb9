//! An answer that has all that it gets and takes its time on the way, and what gathers behind it
//! where it is a session's: who is slow by that, and who is not. A page goes to whoever asks, so it
//! has no longer than a slow link needs for it.

use super::polled::{Finished, Polled, PolledId};
use super::{Line, Session, Web};
use crate::edge::{ConnId, Net};
use crate::limits::{Limits, slow_link_ms};
use crate::reason::CloseReason;
use crate::time::Millis;

/// An answer of more bytes than that may take its time until it has gone out.
const MUCH_BYTES: usize = 16 * 1024;
/// What the kernel still has of an answer that has gone out, twice `kernel_send_bytes` at most, is
/// on its way for as long as a link of so many bytes a millisecond needs.
const LINK_BYTES_PER_MS: usize = 32;

/// An answer that has all that it gets, and has not gone out.
#[derive(Debug)]
pub(super) struct Taking {
    /// Whose answer it is; `None` for a page.
    pub id: Option<PolledId>,
    /// The reason to close the connection behind it, if it does not go on.
    close: Option<CloseReason>,
    /// Much of it is what the browser asked for itself: however much gathers behind that is no lag.
    is_asked: bool,
    /// Some of it was published.
    is_owed: bool,
    since: Millis,
    /// Bytes of all of it, and those that had not gone out when it had all that it gets.
    bytes: usize,
    queued: usize,
    /// What of it had been taken when that was last looked at, and when that had changed.
    taken: u32,
    taken_at: Millis,
}

impl Taking {
    /// When some of it was last taken.
    fn look(&mut self, net: &impl Net, conn: ConnId) -> Millis {
        let taken = net.taken(conn);
        if std::mem::replace(&mut self.taken, taken) != taken {
            self.taken_at = net.now().mono;
        }
        self.taken_at
    }

    /// How long nothing of it may be taken, in milliseconds.
    fn term(&self, limits: &Limits) -> u64 {
        let ms = if self.is_owed { limits.stall_ms } else { limits.heartbeat_ms };
        ms as u64
    }

    /// The end of its time, however it is taken, if nothing may be taken for so long.
    fn until(&self, ms: u64) -> Millis {
        match self.id {
            Some(_) => Millis(u64::MAX),
            None => self.since.plus(ms + slow_link_ms(self.bytes)),
        }
    }

    /// Its deadline has come: as long as some of it is taken, it has its time.
    pub fn timed_out(&mut self, net: &mut impl Net, conn: ConnId, limits: &Limits) {
        let ms = self.term(limits);
        if self.look(net, conn).plus(ms) <= net.now().mono {
            // The kernel tells late that it has room.
            net.offer(conn);
        }
        let due = self.look(net, conn).plus(ms).min(self.until(ms));
        if due > net.now().mono {
            return net.deadline(conn, Some(due));
        }
        // It is cut short, so that nobody takes it for whole.
        net.drop_all(conn);
        net.close(conn, CloseReason::Stalled);
    }
}

impl<P> Web<P> {
    /// An answer has come to its end: the session is alone, for a while.
    pub(super) fn finish(&mut self, net: &mut impl Net, id: PolledId, finished: Finished) {
        let (now, Finished { conn, close, asked, bytes, is_owed }) = (net.now().mono, finished);
        let link_ms = self.limits.link_ms(bytes);
        let queued = net.queued(conn);
        let is_much = queued > MUCH_BYTES;
        if let Some(polled) = self.polled(id) {
            (polled.alone_since, polled.took_ms, polled.link_ms) = (now, 0, link_ms);
            polled.taking = is_much.then_some(conn);
        }
        if !is_much {
            return self.release(net, conn, close, link_ms);
        }
        let is_asked = asked > self.limits.backlog_soft_bytes;
        let taken = net.taken(conn);
        let (since, taken_at, id) = (now, now, Some(id));
        let taking = Taking { id, close, is_asked, is_owed, since, bytes, queued, taken, taken_at };
        self.take_time(net, conn, taking);
    }

    /// A page has been queued, behind which the connection is closed for that reason or goes on:
    /// whether it is so long that it takes its time.
    pub(super) fn page_takes_time(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        close: Option<CloseReason>,
    ) -> bool {
        let (now, taken) = (net.now().mono, net.taken(conn));
        let queued = net.queued(conn);
        if queued <= MUCH_BYTES {
            return false;
        }
        let (id, is_asked, is_owed, since, taken_at) = (None, true, false, now, now);
        let bytes = queued;
        let taking = Taking { id, close, is_asked, is_owed, since, bytes, queued, taken, taken_at };
        self.take_time(net, conn, taking);
        true
    }

    fn take_time(&mut self, net: &mut impl Net, conn: ConnId, taking: Taking) {
        net.deadline(conn, Some(net.now().mono.plus(taking.term(&self.limits))));
        self.lines[conn.index()] = Line::Taking(Box::new(taking));
        // The reactor tells when all has gone out only of those that are not read.
        net.pause(conn);
    }

    /// An answer has gone out: its session waits for the next request from now on.
    pub(super) fn taken(&mut self, net: &mut impl Net, conn: ConnId) {
        let Line::Taking(taking) = std::mem::take(&mut self.lines[conn.index()]) else { return };
        let now = net.now().mono;
        let in_kernel = taking.queued.min(2 * self.limits.kernel_send_bytes);
        if let Some(id) = taking.id
            && let Some(polled) = self.polled(id).filter(|polled| polled.taking == Some(conn))
        {
            (polled.taking, polled.alone_since) = (None, now);
            polled.took_ms = now.0 - taking.since.0 + (in_kernel / LINK_BYTES_PER_MS) as u64;
            self.mark_dirty(id);
        }
        self.release(net, conn, taking.close, self.limits.link_ms(taking.bytes));
    }

    /// Whether a session that nobody asks for, and for which too much waits, is to be let go: when
    /// memory is short, at once; between two requests, when the next does not come in time, longer
    /// by as long as the last answer took, some of which may still be on its way; while an answer
    /// is on its way, when nothing of it is taken. Who takes it has more time, which the session's
    /// deadline knows of.
    pub(super) fn is_lost(&mut self, net: &mut impl Net, id: PolledId) -> bool {
        if net.kept().bytes > self.limits.queued_bytes / 2 {
            return true;
        }
        let (now, ms) = (net.now().mono, self.limits.backlog_ms as u64);
        let Some(Session { polled, .. }) = self.sessions.get_mut(id) else { return false };
        let Some(conn) = polled.taking else {
            return polled.alone_since.plus(polled.took_ms + ms) <= now;
        };
        let Line::Taking(taking) = &mut self.lines[conn.index()] else { return false };
        if polled.over_since.is_none() && !taking.is_asked {
            polled.over_since = Some(now);
            if polled.mark_dirty() {
                self.dirty.push_back(id);
            }
        }
        if taking.look(net, conn).plus(ms) > now {
            return false;
        }
        // The kernel tells late that it has room.
        net.offer(conn);
        taking.look(net, conn).plus(ms) <= now
    }
}

impl Polled {
    /// When nobody will ask for it any more: that long after its last answer can have arrived.
    pub fn alone_until(&self, session_ms: usize) -> Millis {
        self.alone_since.plus(self.link_ms + session_ms as u64)
    }

    /// When too much has waited for so long behind the answer that is on its way.
    pub fn lags_at(&self, ms: usize) -> Option<Millis> {
        Some(self.taking.and(self.over_since)?.plus(ms as u64))
    }
}
