//! Sessions that have not authenticated: less output may wait for them, their number is limited,
//! and those over HTTP make room for new sessions. The first to go are those that a connection
//! opened beside an earlier one: otherwise a single connection, admitted once, could open them so
//! fast that nobody else had time to authenticate. Each costs an entry in a queue and no further
//! work. Called where sessions begin, handle messages and end.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::addresses::fit;
use super::http_session::HttpSessionId;
use super::{Application, Session, SessionId, Web};
use crate::edge::{ConnId, Net};
use crate::limits::Limits;
use crate::reason::CloseReason;

/// Stale ids tolerated in a queue before it is cleaned up.
const STALE: usize = 64;

/// A queue of two priorities: the first to go, then all others; each in order of arrival.
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

    /// Keeps only the elements that `stays` accepts, and gives back memory.
    fn retain(&mut self, stays: impl Fn(&T) -> bool) {
        for line in &mut self.0 {
            line.retain(&stays);
            line.shrink_to(2 * line.len() + STALE);
        }
    }
}

/// Sessions that have not authenticated.
#[derive(Debug, Default)]
pub(super) struct Unauthenticated {
    /// May include stale ids and sessions that have authenticated since.
    line: Queue<SessionId>,
    /// Sessions over HTTP, queued when opened and again when ended; may include stale ids.
    places: Queue<HttpSessionId>,
    /// By connection slot, a session over HTTP that the connection opened: the oldest that had not
    /// authenticated when the connection last opened one.
    makers: HashMap<u32, HttpSessionId>,
    /// The number of sessions that have not authenticated.
    count: usize,
    /// The highest limit that has been in force.
    most: usize,
}

impl Unauthenticated {
    /// Creates an empty list with that limit.
    pub fn new(most: usize) -> Unauthenticated {
        Unauthenticated { most, ..Unauthenticated::default() }
    }

    /// Changes the limit. Existing sessions stay.
    pub fn set_max(&mut self, max: usize) {
        self.most = self.most.max(max);
    }

    /// Updates the count after a message: whether its session was authenticated, and is now.
    pub fn note(&mut self, was_authenticated: bool, is_authenticated: bool) {
        self.count = self.count + usize::from(was_authenticated) - usize::from(is_authenticated);
    }

    /// The last session over HTTP has gone.
    pub fn give_back_places(&mut self) {
        self.places.retain(|_| false);
    }

    /// A connection is closed.
    pub fn forget_maker(&mut self, conn: ConnId) {
        self.makers.remove(&conn.slot);
        fit(&mut self.makers);
    }

    /// A session has ended.
    pub fn forget(&mut self, was_authenticated: bool) {
        self.count -= usize::from(!was_authenticated);
        if self.count == 0 {
            self.line.retain(|_| false);
        }
    }
}

/// The amount of waiting output at which a session's messages are no longer handled.
pub(super) fn pause_bytes(limits: &Limits, is_authenticated: bool) -> usize {
    let most = limits.answers_pause_bytes;
    if is_authenticated { most } else { most.min(limits.answers_unauthenticated_bytes) }
}

impl<P> Web<P> {
    /// The number of sessions that have not authenticated.
    pub fn unauthenticated(&self) -> usize {
        self.unauthenticated.count
    }

    /// A session has begun. If it exceeds the limit on unauthenticated ones, one is closed: one for
    /// one, so that a lowered limit closes none at once and no turn costs more.
    pub(super) fn meet<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
        goes_first: bool,
    ) {
        if !self.is_unauthenticated(app, id) {
            return;
        }
        self.unauthenticated.count += 1;
        self.unauthenticated.line.push(id, goes_first);
        if self.unauthenticated.count > self.limits.sessions_unauthenticated {
            while let Some(first) = self.unauthenticated.line.pop() {
                if self.is_unauthenticated(app, first) {
                    self.dismiss(net, app, first, CloseReason::AuthTimeout.into());
                    break;
                }
            }
        }
        if self.unauthenticated.line.len() > 2 * self.unauthenticated.count + STALE {
            let mut line = std::mem::take(&mut self.unauthenticated.line);
            line.retain(|id| self.is_unauthenticated(app, *id));
            self.unauthenticated.line = line;
        }
    }

    /// A connection has opened a session. Whether its earlier one is unauthenticated, or has ended.
    pub(super) fn makes_more<A: Application<Peer = P>>(
        &mut self,
        app: &A,
        conn: ConnId,
        id: HttpSessionId,
    ) -> bool {
        let before = self.unauthenticated.makers.get(&conn.slot);
        let before = before.and_then(|before| self.sessions.get(*before));
        let makes_more = before.is_some_and(|before| before.is_nobodys(app));
        if !makes_more {
            self.unauthenticated.makers.insert(conn.slot, id);
        }
        makes_more
    }

    /// A session over HTTP has begun, or has ended and waits for a receiver to be told: from now on
    /// it may have to make room, in its turn.
    pub(super) fn stand_in_line<A: Application<Peer = P>>(
        &mut self,
        app: &A,
        id: HttpSessionId,
        goes_first: bool,
    ) {
        let mut places = std::mem::take(&mut self.unauthenticated.places);
        places.push(id, goes_first);
        // No session is in it more than twice.
        if places.len() > 4 * self.sessions.len() + STALE {
            places.retain(|id| self.makes_place(app, *id));
        }
        self.unauthenticated.places = places;
    }

    /// All places for sessions over HTTP are taken: removes one that has not authenticated, or has
    /// ended. Returns whether there was one.
    pub(super) fn make_place<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
    ) -> bool {
        while let Some(id) = self.unauthenticated.places.pop() {
            if self.makes_place(app, id) {
                self.dismiss_session(net, app, id, CloseReason::AuthTimeout.into());
                self.give(net, id);
                self.destroy(net, app, id);
                return true;
            }
        }
        false
    }

    /// Whether a session may be removed: it has no authenticated user, and no receiver that is due
    /// more than a little output, for which there may be no room.
    fn makes_place<A: Application<Peer = P>>(&self, app: &A, id: HttpSessionId) -> bool {
        let session = self.sessions.get(id);
        session.is_some_and(|it| it.is_nobodys(app) && !it.session.owes_much())
    }

    fn is_unauthenticated<A: Application<Peer = P>>(&self, app: &A, id: SessionId) -> bool {
        self.peer(id).is_some_and(|peer| !app.is_authenticated(peer))
    }

    /// A session has ended for the application.
    pub(super) fn forget<A: Application<Peer = P>>(&mut self, app: &mut A, peer: Option<P>) {
        if let Some(peer) = peer {
            self.unauthenticated.forget(app.is_authenticated(&peer));
            app.closed(peer);
        }
    }

    pub(super) fn check_unauthenticated(&self) {
        let Unauthenticated { line, places, makers, count, most } = &self.unauthenticated;
        assert!(!self.sessions.is_empty() || places.len() == 0, "memory of those who have gone");
        let living = line.0.iter().flatten().filter(|id| self.peer(**id).is_some());
        assert!(living.count() >= *count, "a stranger stands in no line");
        assert!(count <= most && line.len() <= 2 * most + STALE + 1);
        let is_open = |slot: &u32| self.conn(*slot as usize).is_some();
        assert!(makers.keys().all(is_open), "a connection that has gone");
    }
}

impl<P> Session<P> {
    /// Whether the session has not authenticated, or has ended.
    fn is_nobodys<A: Application<Peer = P>>(&self, app: &A) -> bool {
        self.peer.as_ref().is_none_or(|peer| !app.is_authenticated(peer))
    }
}
