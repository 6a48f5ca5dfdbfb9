//! Those whose next message waits for room for its answer, because answers that wait take too much
//! memory: a line, in which they are heard again as soon as there is room. What they say is bounded
//! as input that waits is.
//!
//! Sessions over HTTP that have their answers, and a browser that waits for them, have a line of
//! their own: an answer to a request is made for it alone, and so must wait as well. But what waits
//! for them may be all that leaves no room. So where what is on its way to others leaves a quarter,
//! they get it one after the other: that makes room.

use std::collections::VecDeque;

use super::polled::PolledId;
use super::session::Link;
use super::{Application, SESSIONS_PER_TURN, SessionId, Web};
use crate::edge::{ConnId, Net};

/// So many in a line who have gone are not worth a look.
const STALE: usize = 64;

/// Who waits, in the order in which they came.
#[derive(Debug, Default)]
struct Queue {
    line: VecDeque<SessionId>,
    /// It is looked through for those who have gone when it is as long as this.
    look_at: usize,
}

impl Queue {
    /// Whether it is time to look who has gone.
    fn is_untidy(&self) -> bool {
        let Queue { line, look_at } = self;
        line.len() > *look_at || (line.is_empty() && line.capacity() > 2 * STALE)
    }

    /// Forgets those who have gone, if it is time.
    fn tidy(&mut self, is_there: impl Fn(&SessionId) -> bool) {
        if self.is_untidy() {
            let Queue { line, look_at } = self;
            line.retain(is_there);
            line.shrink_to(2 * line.len());
            *look_at = 2 * line.len() + STALE;
        }
    }
}

/// Both lines.
#[derive(Debug, Default)]
pub(super) struct Hungry {
    /// Those who ask for more.
    askers: Queue,
    /// Those for whom it is there.
    takers: Queue,
    /// The one of these that has its turn, though there is no room.
    next: Option<PolledId>,
    /// The connection of the one that had it last, while that has not taken all it was given.
    pub given: Option<ConnId>,
    /// Another one may have it in the next turn of the loop.
    pub is_due: bool,
    /// Of the two lines the next is that of those who ask.
    is_askers_turn: bool,
}

impl Hungry {
    /// One more waits with what it asks for.
    pub fn push(&mut self, id: SessionId) {
        self.askers.line.push_back(id);
    }

    /// One more waits for what is there for it.
    pub fn push_taker(&mut self, id: SessionId) {
        self.takers.line.push_back(id);
        self.is_due = true;
    }

    /// Takes the first who is to be heard again, of both lines in turn, and whether it is one for
    /// whom something is there.
    fn pop(&mut self) -> Option<(SessionId, bool)> {
        let Hungry { askers, takers, is_askers_turn, .. } = self;
        *is_askers_turn ^= true;
        let taker = |takers: &mut Queue| Some((takers.line.pop_front()?, true));
        let asker = |askers: &mut Queue| Some((askers.line.pop_front()?, false));
        match is_askers_turn {
            true => taker(takers).or_else(|| asker(askers)),
            false => asker(askers).or_else(|| taker(takers)),
        }
    }

    /// What was given to a connection has gone out, or is lost.
    pub fn has_gone(&mut self, conn: ConnId) {
        if self.given.take_if(|given| *given == conn).is_some() {
            self.is_due = !self.takers.line.is_empty();
        }
    }

    /// Whether a session gets what is there for it though there is no room: once.
    pub fn has_turn(&mut self, id: PolledId) -> bool {
        self.next.take_if(|next| *next == id).is_some()
    }
}

impl<P> Web<P> {
    /// Whether somebody waits for room.
    pub fn is_hungry(&self) -> bool {
        !self.hungry.askers.line.is_empty() || !self.hungry.takers.line.is_empty()
    }

    /// Hears those again for whose answers there is room now.
    pub(super) fn feed<A: Application<Peer = P>>(&mut self, net: &mut impl Net, app: &mut A) {
        self.hungry.is_due = false;
        for _ in 0..SESSIONS_PER_TURN {
            if !self.is_hungry() || app.is_short(net) {
                break;
            }
            match self.hungry.pop().map(|(id, is_taker)| (id.link(), is_taker)) {
                Some((Link::Socket(conn, _), _)) => self.socket_fed(net, app, conn),
                Some((Link::Polled(id), true)) => self.taker_fed(id),
                Some((Link::Polled(id), false)) => self.polled_fed(id),
                None => break,
            }
        }
        if !self.hungry.takers.line.is_empty() {
            self.feed_one(net);
        }
        if self.hungry.askers.is_untidy() || self.hungry.takers.is_untidy() {
            let mut hungry = std::mem::take(&mut self.hungry);
            hungry.askers.tidy(|id| self.is_there(*id));
            hungry.takers.tidy(|id| self.is_there(*id));
            self.hungry = hungry;
        }
    }

    /// If what is on its way to others leaves a quarter of the room, the first taker has its turn,
    /// when the one before has taken what it was given.
    fn feed_one(&mut self, net: &impl Net) {
        let (kept, max) = (net.kept(), self.limits.answers_bytes);
        let is_taking = self.hungry.given.is_some_and(|conn| net.queued(conn) > 0);
        let has_turn = self.hungry.next.is_some_and(|id| self.sessions.contains(id));
        let on_their_way = kept.answers.saturating_sub(kept.answers_aside);
        if is_taking || has_turn || on_their_way > max - max / 4 {
            return;
        }
        let line = &mut self.hungry.takers.line;
        let Some(Link::Polled(id)) = line.pop_front().map(|id| id.link()) else { return };
        self.hungry.is_due = !line.is_empty();
        self.hungry.next = Some(id);
        self.taker_fed(id);
    }

    /// Whether a session is there, be it over for the application or not.
    fn is_there(&self, id: SessionId) -> bool {
        match id.link() {
            Link::Socket(conn, _) => self.socket(conn).is_some(),
            Link::Polled(id) => self.sessions.contains(id),
        }
    }

    pub(super) fn check_nobody_waits(&self) {
        for Queue { line, .. } in [&self.hungry.askers, &self.hungry.takers] {
            let is_little = line.is_empty() && line.capacity() <= 4 * STALE;
            assert!(is_little, "a line of those who have gone");
        }
    }
}
