//! Delivers publications to browsers, and ends those that do not take them.

use super::http_session::HttpSessionId;
use super::session::Link;
use super::{Application, GIVEN_PER_TURN, Line, Session, SessionId, Web};
use crate::edge::{ConnId, Net};
use crate::publication::Publication;
use crate::reason::CloseReason;

impl<P> Web<P> {
    /// Gives a publication to a session. Returns true if it must be ended, because it does not take
    /// what it was given before.
    #[inline]
    pub fn publish(
        &mut self,
        net: &mut impl Net,
        id: SessionId,
        publication: &Publication<'_>,
    ) -> bool {
        match id.link() {
            // The `Net` recognizes a stale connection id.
            Link::Socket(conn, form) => net.publish(conn, publication.frame(form).clone()),
            Link::Http(id) => self.publish_session(net, id, publication),
        }
    }

    fn publish_session(
        &mut self,
        net: &mut impl Net,
        id: HttpSessionId,
        publication: &Publication<'_>,
    ) -> bool {
        let max = self.limits.backlog_bytes;
        let Some(session) = self.session(id) else { return false };
        let is_too_much = session.publish(net, publication, max);
        // On a streaming answer the `Net` has decided, and queues nothing more.
        let is_lost = is_too_much && (session.has_receiver() || self.is_lost(net, id));
        let Some(Session { session, .. }) = self.sessions.get_mut(id) else { return false };
        if is_lost {
            session.give_up();
        }
        if session.is_answer_due() && session.mark_dirty() {
            self.dirty.push_back(id);
        }
        let has_room =
            self.given < GIVEN_PER_TURN && net.queue_memory().answers <= self.limits.answers_bytes;
        if session.inbox_bytes() > max && has_room {
            // Offered at once, as to a socket, if there is room for its answer. Publications that
            // follow find no receiver.
            self.give(net, id);
        }
        is_lost
    }

    /// A connection does not take what was published to it.
    pub fn too_slow<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        reason: CloseReason,
    ) {
        match &self.lines[conn.index()] {
            Line::Receiver(id, _) => {
                let id = *id;
                self.dismiss_session(net, app, id, reason.into());
            }
            Line::Socket(_) => self.dismiss_socket(net, app, conn, reason.into()),
            // The output left there is of a session that goes on elsewhere. It is cut short, so
            // that the client does not take it for complete.
            Line::Http(_) | Line::AnswerInFlight(..) | Line::Sender(..) => {
                net.drop_all(conn);
                net.close(conn, reason);
            }
            Line::None => {}
        }
    }

    /// The session over HTTP with the most publications waiting, and their bytes. Scans all.
    pub fn largest(&self) -> Option<(SessionId, usize)> {
        let inboxes =
            self.sessions.iter().map(|(id, Session { session, .. })| (id, session.published()));
        let largest = inboxes.max_by_key(|(id, bytes)| (*bytes, std::cmp::Reverse(id.slot)));
        largest.map(|(id, bytes)| (SessionId::of_http(id), bytes))
    }
}
