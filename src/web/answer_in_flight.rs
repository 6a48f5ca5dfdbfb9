//! An answer that is complete but still in flight, and the backlog behind it if it is a session's:
//! decides which clients are too slow. A page, which anybody can request, gets only the time that a
//! slow link needs for it.

use super::http_session::{Finished, HttpSession, HttpSessionId};
use super::{Line, Session, Web};
use crate::edge::{ConnId, Net};
use crate::limits::{Limits, slow_link_ms};
use crate::reason::CloseReason;
use crate::time::Millis;

/// An answer with more bytes queued is tracked until it has gone out.
const MUCH_BYTES: usize = 16 * 1024;
/// The link rate assumed for what the kernel still holds of an answer that has gone out, which is
/// at most twice `kernel_send_bytes`.
const LINK_BYTES_PER_MS: usize = 32;

/// An answer that is complete and has not gone out.
#[derive(Debug)]
pub(super) struct AnswerInFlight {
    /// The session that it belongs to; `None` for a page.
    pub id: Option<HttpSessionId>,
    /// The reason to close the connection after it; `None` if it stays open.
    close: Option<CloseReason>,
    /// The browser asked for much of it itself: then a backlog behind it is no lag.
    is_asked: bool,
    /// It includes publications that had waited.
    is_owed: bool,
    since: Millis,
    /// The length of the answer, and the bytes still queued when it was complete.
    bytes: usize,
    queued: usize,
    /// The output taken at the last look, and when that last changed.
    taken: u32,
    taken_at: Millis,
}

impl AnswerInFlight {
    /// Returns when some of it was last taken.
    fn look(&mut self, net: &impl Net, conn: ConnId) -> Millis {
        let taken = net.taken(conn);
        if std::mem::replace(&mut self.taken, taken) != taken {
            self.taken_at = net.now().mono;
        }
        self.taken_at
    }

    /// How long it may go without progress, in milliseconds.
    fn term(&self, limits: &Limits) -> u64 {
        let ms = if self.is_owed { limits.stall_ms } else { limits.heartbeat_ms };
        ms as u64
    }

    /// The end of its total time, given its time without progress; none for a session's answer.
    fn until(&self, ms: u64) -> Millis {
        match self.id {
            Some(_) => Millis(u64::MAX),
            None => self.since.plus(ms + slow_link_ms(self.bytes)),
        }
    }

    /// Its deadline has passed: extends it if there is progress and total time left.
    pub fn timed_out(&mut self, net: &mut impl Net, conn: ConnId, limits: &Limits) {
        let ms = self.term(limits);
        if self.look(net, conn).plus(ms) <= net.now().mono {
            // The kernel reports late that it has room.
            net.offer(conn);
        }
        let due = self.look(net, conn).plus(ms).min(self.until(ms));
        if due > net.now().mono {
            return net.deadline(conn, Some(due));
        }
        // Cut short, so that the client does not take it for complete.
        net.drop_all(conn);
        net.close(conn, CloseReason::Stalled);
    }
}

impl<P> Web<P> {
    /// An answer is complete: the session has no receiver for now.
    pub(super) fn finish(&mut self, net: &mut impl Net, id: HttpSessionId, finished: Finished) {
        let (now, Finished { conn, close, asked, bytes, is_owed }) = (net.now().mono, finished);
        let link_ms = self.limits.link_ms(bytes);
        let queued = net.queued(conn);
        let is_much = queued > MUCH_BYTES;
        if let Some(session) = self.session(id) {
            (session.alone_since, session.took_ms, session.link_ms) = (now, 0, link_ms);
            session.in_flight = is_much.then_some(conn);
        }
        if !is_much {
            return self.release(net, conn, close, link_ms);
        }
        let is_asked = asked > self.limits.backlog_soft_bytes;
        let taken = net.taken(conn);
        let (since, taken_at, id) = (now, now, Some(id));
        let answer =
            AnswerInFlight { id, close, is_asked, is_owed, since, bytes, queued, taken, taken_at };
        self.take_time(net, conn, answer);
    }

    /// A page has been queued, after which the connection closes for that reason or stays open.
    /// Returns whether it is so long that it is tracked.
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
        let answer =
            AnswerInFlight { id, close, is_asked, is_owed, since, bytes, queued, taken, taken_at };
        self.take_time(net, conn, answer);
        true
    }

    fn take_time(&mut self, net: &mut impl Net, conn: ConnId, answer: AnswerInFlight) {
        net.deadline(conn, Some(net.now().mono.plus(answer.term(&self.limits))));
        self.lines[conn.index()] = Line::AnswerInFlight(Box::new(answer), conn.generation);
        // `drained` is called only after a refusal by the kernel, or if it is paused.
        net.pause(conn);
    }

    /// Whether the session's last answer is in flight on that connection.
    pub(super) fn is_taking(&self, id: HttpSessionId, conn: ConnId) -> bool {
        self.sessions.get(id).is_some_and(|entry| entry.session.in_flight == Some(conn))
    }

    /// An answer has gone out: its session starts to wait for the next request.
    pub(super) fn taken(&mut self, net: &mut impl Net, conn: ConnId) {
        let Line::AnswerInFlight(answer, _) = std::mem::take(&mut self.lines[conn.index()]) else {
            return;
        };
        let now = net.now().mono;
        let in_kernel = answer.queued.min(2 * self.limits.kernel_send_bytes);
        if let Some(id) = answer.id
            && let Some(session) =
                self.session(id).filter(|session| session.in_flight == Some(conn))
        {
            (session.in_flight, session.alone_since) = (None, now);
            session.took_ms = now.0 - answer.since.0 + (in_kernel / LINK_BYTES_PER_MS) as u64;
            self.mark_dirty(id);
        }
        self.release(net, conn, answer.close, self.limits.link_ms(answer.bytes));
    }

    /// Whether a session without a receiver and with too large a backlog is to be ended. If memory
    /// is short, at once. Between two requests, if the next is `backlog_ms` late, plus the time of
    /// the last answer, part of which may still be in flight. During an answer, if nothing of it is
    /// taken for `backlog_ms`; a client that takes it has until [`HttpSession::lags_at`].
    pub(super) fn is_lost(&mut self, net: &mut impl Net, id: HttpSessionId) -> bool {
        if net.queue_memory().bytes > self.limits.queued_bytes / 2 {
            return true;
        }
        let (now, ms) = (net.now().mono, self.limits.backlog_ms as u64);
        let Some(Session { session, .. }) = self.sessions.get_mut(id) else { return false };
        let Some(conn) = session.in_flight else {
            return session.alone_since.plus(session.took_ms + ms) <= now;
        };
        let Line::AnswerInFlight(answer, _) = &mut self.lines[conn.index()] else { return false };
        if session.over_since.is_none() && !answer.is_asked {
            session.over_since = Some(now);
            if session.mark_dirty() {
                self.dirty.push_back(id);
            }
        }
        if answer.look(net, conn).plus(ms) > now {
            return false;
        }
        // The kernel reports late that it has room.
        net.offer(conn);
        answer.look(net, conn).plus(ms) <= now
    }
}

impl HttpSession {
    /// When the session is given up: `session_ms` after its last answer can have arrived.
    pub fn alone_until(&self, session_ms: usize) -> Millis {
        self.alone_since.plus(self.link_ms + session_ms as u64)
    }

    /// When the backlog behind the answer in flight has been too large for that time.
    pub fn lags_at(&self, ms: usize) -> Option<Millis> {
        Some(self.in_flight.and(self.over_since)?.plus(ms as u64))
    }
}
