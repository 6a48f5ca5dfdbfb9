//! Sessions that have not authenticated: less may wait for them, there are so many at most, and
//! over HTTP they make place for others. Each costs its place here, and nothing afterwards. Called
//! where sessions begin, are heard and end.

use std::collections::VecDeque;

use super::polled::PolledId;
use super::{Application, Session, SessionId, Web};
use crate::edge::Net;
use crate::limits::Limits;
use crate::reason::CloseReason;

/// So many in the line who are no strangers any more are not worth a look.
const STALE: usize = 64;

/// Those who have not authenticated.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// In the order in which they came, among others who have authenticated or gone meanwhile.
    line: VecDeque<SessionId>,
    /// Sessions over HTTP as they came, and again as they were let go, among others who have gone.
    places: VecDeque<PolledId>,
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
        self.places.clear();
        self.places.shrink_to(STALE);
    }

    /// Somebody has gone.
    pub fn forget(&mut self, was_known: bool) {
        self.count -= usize::from(!was_known);
        if self.count == 0 {
            self.line.clear();
            if self.line.capacity() > STALE {
                self.line = VecDeque::new();
            }
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

    /// A session has begun. If it is one too many of those that have not authenticated, the oldest
    /// of them goes: one for one, so that a lower limit sends nobody away and costs no turn more.
    pub(super) fn meet<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
    ) {
        if !self.is_stranger(app, id) {
            return;
        }
        self.strangers.count += 1;
        self.strangers.line.push_back(id);
        if self.strangers.count > self.limits.sessions_unauthenticated {
            while let Some(oldest) = self.strangers.line.pop_front() {
                if self.is_stranger(app, oldest) {
                    self.dismiss(net, app, oldest, CloseReason::AuthTimeout.into());
                    break;
                }
            }
        }
        if self.strangers.line.len() > 2 * self.strangers.count + STALE {
            let mut line = std::mem::take(&mut self.strangers.line);
            line.retain(|id| self.is_stranger(app, *id));
            line.shrink_to(2 * line.len() + STALE);
            self.strangers.line = line;
        }
    }

    /// A session over HTTP has begun, or is over and waits for somebody to tell: from now on it may
    /// have to make place, in its turn.
    pub(super) fn stand_in_line<A: Application<Peer = P>>(&mut self, app: &A, id: PolledId) {
        let mut places = std::mem::take(&mut self.strangers.places);
        places.push_back(id);
        // No session stands in it more than twice.
        if places.len() > 4 * self.sessions.len() + STALE {
            places.retain(|id| self.makes_place(app, *id));
            places.shrink_to(2 * places.len() + STALE);
        }
        self.strangers.places = places;
    }

    /// All places for sessions over HTTP are taken: the first that has not authenticated, or is
    /// over, goes altogether. Whether there was one.
    pub(super) fn make_place<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
    ) -> bool {
        while let Some(id) = self.strangers.places.pop_front() {
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
        self.sessions.get(id).is_some_and(|Session { peer, polled }| {
            peer.as_ref().is_none_or(|peer| !app.is_known(peer)) && !polled.owes_much()
        })
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
        let Strangers { line, places, count, most } = &self.strangers;
        assert!(!self.sessions.is_empty() || places.is_empty(), "memory of those who have gone");
        let living = line.iter().filter(|id| self.peer(**id).is_some());
        assert!(living.count() >= *count, "a stranger stands in no line");
        assert!(count <= most && line.len() <= 2 * most + STALE + 1);
    }
}
