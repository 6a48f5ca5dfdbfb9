//! The queue of sessions whose next message waits for room for its answer, because waiting answers
//! take too much memory. They go on as soon as there is room. Their input is bounded like all input
//! that waits.
//!
//! Sessions over HTTP with output and a receiver have a queue of their own: an answer to a request
//! is encoded for it alone, so it must wait as well. But the output that waits for them may be all
//! that takes up the room. So while answers in flight leave a quarter of it free, they are served
//! one after another, which makes room.

use std::collections::VecDeque;

use super::http_session::HttpSessionId;
use super::session::Link;
use super::{Application, SESSIONS_PER_TURN, SessionId, Web};
use crate::edge::{ConnId, Net};

/// Stale ids tolerated in a queue before it is cleaned up.
const STALE: usize = 64;

/// The sessions that wait, in order of arrival.
#[derive(Debug, Default)]
struct Queue {
    line: VecDeque<SessionId>,
    /// The length at which the queue is next searched for stale ids.
    look_at: usize,
}

impl Queue {
    /// Whether the queue is due to be cleaned up.
    fn is_untidy(&self) -> bool {
        let Queue { line, look_at } = self;
        line.len() > *look_at || (line.is_empty() && line.capacity() > 2 * STALE)
    }

    /// Removes stale ids, if that is due.
    fn tidy(&mut self, is_there: impl Fn(&SessionId) -> bool) {
        if self.is_untidy() {
            let Queue { line, look_at } = self;
            line.retain(is_there);
            line.shrink_to(2 * line.len());
            *look_at = 2 * line.len() + STALE;
        }
    }
}

/// Both queues.
#[derive(Debug, Default)]
pub(super) struct RoomQueue {
    /// Sessions that wait for room for the answer to a message.
    askers: Queue,
    /// Sessions that wait for room to give a receiver its output.
    takers: Queue,
    /// The taker that is served next, although there is no room.
    next: Option<HttpSessionId>,
    /// The connection of the last such taker, until it has taken all it was given.
    pub given: Option<ConnId>,
    /// Another taker may be served in the next turn.
    pub is_due: bool,
    /// The next session is taken from the askers, if there are any.
    is_askers_turn: bool,
}

impl RoomQueue {
    /// Adds a session whose message waits.
    pub fn push(&mut self, id: SessionId) {
        self.askers.line.push_back(id);
    }

    /// Adds a session whose output waits.
    pub fn push_taker(&mut self, id: SessionId) {
        self.takers.line.push_back(id);
        self.is_due = true;
    }

    /// Removes the next session, alternating between the queues, and says whether it is a taker.
    fn pop(&mut self) -> Option<(SessionId, bool)> {
        let RoomQueue { askers, takers, is_askers_turn, .. } = self;
        *is_askers_turn ^= true;
        let taker = |takers: &mut Queue| Some((takers.line.pop_front()?, true));
        let asker = |askers: &mut Queue| Some((askers.line.pop_front()?, false));
        match is_askers_turn {
            true => taker(takers).or_else(|| asker(askers)),
            false => asker(askers).or_else(|| taker(takers)),
        }
    }

    /// The output given to a connection has gone out, or is lost.
    pub fn has_gone(&mut self, conn: ConnId) {
        if self.given.take_if(|given| *given == conn).is_some() {
            self.is_due = !self.takers.line.is_empty();
        }
    }

    /// Whether a session may give out its output although there is no room; true only once.
    pub fn has_turn(&mut self, id: HttpSessionId) -> bool {
        self.next.take_if(|next| *next == id).is_some()
    }
}

impl<P> Web<P> {
    /// Whether any session waits for room.
    pub fn waits_for_room(&self) -> bool {
        !self.room_queue.askers.line.is_empty() || !self.room_queue.takers.line.is_empty()
    }

    /// Resumes sessions while there is room for their answers.
    pub(super) fn resume_waiting<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
    ) {
        self.room_queue.is_due = false;
        for _ in 0..SESSIONS_PER_TURN {
            if !self.waits_for_room() || app.is_short(net) {
                break;
            }
            match self.room_queue.pop().map(|(id, is_taker)| (id.link(), is_taker)) {
                Some((Link::Socket(conn, _), _)) => self.socket_resumed(net, app, conn),
                Some((Link::Http(id), true)) => self.taker_resumed(id),
                Some((Link::Http(id), false)) => self.session_resumed(id),
                None => break,
            }
        }
        if !self.room_queue.takers.line.is_empty() {
            self.resume_one(net);
        }
        if self.room_queue.askers.is_untidy() || self.room_queue.takers.is_untidy() {
            let mut queue = std::mem::take(&mut self.room_queue);
            queue.askers.tidy(|id| self.is_there(*id));
            queue.takers.tidy(|id| self.is_there(*id));
            self.room_queue = queue;
        }
    }

    /// Serves the first taker if answers in flight leave a quarter of the room free, and the taker
    /// before has taken what it was given.
    fn resume_one(&mut self, net: &impl Net) {
        let (memory, max) = (net.queue_memory(), self.limits.answers_bytes);
        let is_taking = self.room_queue.given.is_some_and(|conn| net.queued(conn) > 0);
        let has_turn = self.room_queue.next.is_some_and(|id| self.sessions.contains(id));
        let on_their_way = memory.answers.saturating_sub(memory.answers_outside);
        if is_taking || has_turn || on_their_way > max - max / 4 {
            return;
        }
        let line = &mut self.room_queue.takers.line;
        let Some(Link::Http(id)) = line.pop_front().map(|id| id.link()) else { return };
        self.room_queue.is_due = !line.is_empty();
        self.room_queue.next = Some(id);
        self.taker_resumed(id);
    }

    /// Whether a session exists, even if it has ended for the application.
    fn is_there(&self, id: SessionId) -> bool {
        match id.link() {
            Link::Socket(conn, _) => self.socket(conn).is_some(),
            Link::Http(id) => self.sessions.contains(id),
        }
    }

    pub(super) fn check_nobody_waits(&self) {
        for Queue { line, .. } in [&self.room_queue.askers, &self.room_queue.takers] {
            let is_little = line.is_empty() && line.capacity() <= 4 * STALE;
            assert!(is_little, "a line of those who have gone");
        }
    }
}
