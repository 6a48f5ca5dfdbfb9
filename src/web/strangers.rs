//! Sessions that have not authenticated: less may wait for them, there are so many at most, and
//! over HTTP they make place for others. Those go first that a connection has made on top of
//! another: else a single one, which is let in once, could make them so fast that nobody else had
//! the time to authenticate. Each costs its place here, and nothing afterwards. Called where
//! sessions begin, are heard and end.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::polled::PolledId;
use super::{Application, Line, Session, SessionId, Web};
use crate::edge::{ConnId, Net};
use crate::limits::Limits;
use crate::reason::CloseReason;

/// So many in the line who are no strangers any more are not worth a look.
const STALE: usize = 64;
/// The list of makers has room for so many more than there are, and is given back beyond that.
const MAKERS_KEPT: usize = 1024;

/// Those who go first, and behind all of them the others; both in the order in which they came.
#[derive(Debug)]
struct Queue<T>([VecDeque<T>; 2]);

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue([VecDeque::new(), VecDeque::new()])
    }
}

impl<T> Queue<T> {
    fn push(&mut self, it: T, goes_first: bool) {
        self.0[usize::from(!goes_first)].push_back(it);
    }

    fn pop(&mut self) -> Option<T> {
        let Queue([first, others]) = self;
        first.pop_front().or_else(|| others.pop_front())
    }

    fn len(&self) -> usize {
        self.0.iter().map(VecDeque::len).sum()
    }

    /// Forgets all others, and gives back what they took.
    fn retain(&mut self, stays: impl Fn(&T) -> bool) {
        for line in &mut self.0 {
            line.retain(&stays);
            line.shrink_to(2 * line.len() + STALE);
        }
    }
}

/// Those who have not authenticated.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Among others who have authenticated or gone meanwhile.
    line: Queue<SessionId>,
    /// Sessions over HTTP as they came, and again as they were let go, among others who have gone.
    places: Queue<PolledId>,
    /// A session over HTTP that each connection has made, by its slot: none that was nobody's then
    /// is older.
    makers: HashMap<u32, PolledId>,
    /// How many there are.
    count: usize,
    /// The most that there may have been at any time.
    most: usize,
}

impl Strangers {
    /// Nobody yet, and so many at most.
    pub fn new(most: usize) -> Strangers {
        Strangers { most, ..Strangers::default() }
    }

    /// There may be so many from now on. Whoever is here stays.
    pub fn set_max(&mut self, max: usize) {
        self.most = self.most.max(max);
    }

    /// The application has heard somebody: whether it knew who that is, and knows now.
    pub fn note(&mut self, was_known: bool, is_known: bool) {
        self.count = self.count + usize::from(was_known) - usize::from(is_known);
    }

    /// No session over HTTP is left.
    pub fn give_back_places(&mut self) {
        self.places.retain(|_| false);
    }

    /// A connection has gone.
    pub fn forget_maker(&mut self, conn: ConnId) {
        if self.makers.remove(&conn.slot).is_some()
            && self.makers.capacity() > 8 * self.makers.len() + MAKERS_KEPT
        {
            self.makers.shrink_to(2 * self.makers.len());
        }
    }

    /// Somebody has gone.
    pub fn forget(&mut self, was_known: bool) {
        self.count -= usize::from(!was_known);
        if self.count == 0 {
            self.line.retain(|_| false);
        }
    }
}

/// What may wait for a session that is not heard meanwhile.
pub(super) fn pause_bytes(limits: &Limits, is_known: bool) -> usize {
    let most = limits.answers_pause_bytes;
    if is_known { most } else { most.min(limits.answers_unauthenticated_bytes) }
}

impl<P> Web<P> {
    /// How many sessions have not authenticated.
    pub fn strangers(&self) -> usize {
        self.strangers.count
    }

    /// A session has begun. If it is one too many of those that have not authenticated, one of them
    /// goes: one for one, so that a lower limit sends nobody away and costs no turn more.
    pub(super) fn meet<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
        goes_first: bool,
    ) {
        if !self.is_stranger(app, id) {
            return;
        }
        self.strangers.count += 1;
        self.strangers.line.push(id, goes_first);
        if self.strangers.count > self.limits.sessions_unauthenticated {
            while let Some(first) = self.strangers.line.pop() {
                if self.is_stranger(app, first) {
                    self.dismiss(net, app, first, CloseReason::AuthTimeout.into());
                    break;
                }
            }
        }
        if self.strangers.line.len() > 2 * self.strangers.count + STALE {
            let mut line = std::mem::take(&mut self.strangers.line);
            line.retain(|id| self.is_stranger(app, *id));
            self.strangers.line = line;
        }
    }

    /// A connection has made a session over HTTP: whether one that it had made before is nobody's.
    pub(super) fn makes_more<A: Application<Peer = P>>(
        &mut self,
        app: &A,
        conn: ConnId,
        id: PolledId,
    ) -> bool {
        let before = self.strangers.makers.get(&conn.slot);
        let before = before.and_then(|before| self.sessions.get(*before));
        let makes_more = before.is_some_and(|before| before.is_nobodys(app));
        if !makes_more {
            self.strangers.makers.insert(conn.slot, id);
        }
        makes_more
    }

    /// A session over HTTP has begun, or is over and waits for somebody to tell: from now on it may
    /// have to make place, in its turn.
    pub(super) fn stand_in_line<A: Application<Peer = P>>(
        &mut self,
        app: &A,
        id: PolledId,
        goes_first: bool,
    ) {
        let mut places = std::mem::take(&mut self.strangers.places);
        places.push(id, goes_first);
        // No session stands in it more than twice.
        if places.len() > 4 * self.sessions.len() + STALE {
            places.retain(|id| self.makes_place(app, *id));
        }
        self.strangers.places = places;
    }

    /// All places for sessions over HTTP are taken: one that has not authenticated, or is over,
    /// goes altogether. Whether there was one.
    pub(super) fn make_place<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
    ) -> bool {
        while let Some(id) = self.strangers.places.pop() {
            if self.makes_place(app, id) {
                self.dismiss_polled(net, app, id, CloseReason::AuthTimeout.into());
                self.give(net, id);
                self.destroy(net, app, id);
                return true;
            }
        }
        false
    }

    /// Whether a session is nobody's, and nobody waits to be given more than a little of it, for
    /// which there may be no room.
    fn makes_place<A: Application<Peer = P>>(&self, app: &A, id: PolledId) -> bool {
        let session = self.sessions.get(id);
        session.is_some_and(|session| session.is_nobodys(app) && !session.polled.owes_much())
    }

    fn is_stranger<A: Application<Peer = P>>(&self, app: &A, id: SessionId) -> bool {
        self.peer(id).is_some_and(|peer| !app.is_known(peer))
    }

    /// A session is over for the application.
    pub(super) fn forget<A: Application<Peer = P>>(&mut self, app: &mut A, peer: Option<P>) {
        if let Some(peer) = peer {
            self.strangers.forget(app.is_known(&peer));
            app.closed(peer);
        }
    }

    pub(super) fn check_strangers(&self) {
        let Strangers { line, places, makers, count, most } = &self.strangers;
        assert!(!self.sessions.is_empty() || places.len() == 0, "memory of those who have gone");
        let living = line.0.iter().flatten().filter(|id| self.peer(**id).is_some());
        assert!(living.count() >= *count, "a stranger stands in no line");
        assert!(count <= most && line.len() <= 2 * most + STALE + 1);
        let is_open = |slot: u32| !matches!(self.lines.get(slot as usize), None | Some(Line::None));
        assert!(makers.keys().all(|slot| is_open(*slot)), "a connection that has gone");
    }
}

impl<P> Session<P> {
    /// Whether nobody has said in it who they are, or it is over.
    fn is_nobodys<A: Application<Peer = P>>(&self, app: &A) -> bool {
        self.peer.as_ref().is_none_or(|peer| !app.is_known(peer))
    }
}
