//! Sessions that have not authenticated: less may wait for them, and there are so many at most.
//! Each costs its place here, and nothing afterwards. Called where sessions begin and are heard.

use super::{Application, SessionId, Web};
use crate::edge::Net;
use crate::reason::CloseReason;

/// A session, by its age: lives of slots are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    age: u32,
    id: SessionId,
}

impl Age {
    pub fn of(id: SessionId) -> Age {
        Age { age: id.generation, id }
    }
}

impl<P> Web<P> {
    /// How many sessions have not authenticated.
    pub fn strangers(&self) -> usize {
        self.strangers.len()
    }

    /// A session has begun. If it is one too many of those that have not authenticated, the oldest
    /// of them goes.
    pub(super) fn meet<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
    ) {
        let peer = self.sessions.get(id).and_then(|session| session.peer.as_ref());
        if peer.is_none_or(|peer| app.is_known(peer)) {
            return;
        }
        self.strangers.insert(Age::of(id));
        if self.strangers.len() > self.limits.sessions_unauthenticated
            && let Some(Age { id: oldest, .. }) = self.strangers.first().copied()
        {
            self.dismiss(net, app, oldest, CloseReason::AuthTimeout.into());
        }
    }

    /// A session has said something: perhaps who it is.
    pub(super) fn get_to_know<A: Application<Peer = P>>(&mut self, app: &A, id: SessionId) {
        if self.strangers.is_empty() {
            return;
        }
        let peer = self.sessions.get(id).and_then(|session| session.peer.as_ref());
        if peer.is_some_and(|peer| app.is_known(peer)) {
            self.strangers.remove(&Age::of(id));
        }
    }

    /// What may wait for a session that is not heard meanwhile.
    pub(super) fn pause_bytes<A: Application<Peer = P>>(&self, app: &A, id: SessionId) -> usize {
        let most = self.limits.answers_pause_bytes;
        let peer = self.sessions.get(id).and_then(|session| session.peer.as_ref());
        match peer.is_some_and(|peer| !app.is_known(peer)) {
            true => most.min(self.limits.answers_unauthenticated_bytes),
            false => most,
        }
    }

    pub(super) fn check_strangers(&self) {
        for Age { id, .. } in &self.strangers {
            let session = self.sessions.get(*id);
            assert!(session.is_some_and(|session| session.peer.is_some()), "{id:?} is gone");
        }
        assert!(self.strangers.len() <= self.limits.sessions_unauthenticated);
    }
}
