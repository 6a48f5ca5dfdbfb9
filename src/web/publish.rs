//! What others say to a browser, and what becomes of one that does not take it.

use super::polled::PolledId;
use super::session::Link;
use super::{Application, GIVEN_PER_TURN, Line, Session, SessionId, Web};
use crate::edge::{ConnId, Net};
use crate::publication::Publication;
use crate::reason::CloseReason;

impl<P> Web<P> {
    /// Gives a message of somebody else to a session. Returns whether that was too much, and it
    /// must be let go: it does not take what it was given before.
    #[inline]
    pub fn publish(
        &mut self,
        net: &mut impl Net,
        id: SessionId,
        publication: &Publication<'_>,
    ) -> bool {
        match id.link() {
            // The net knows whether that connection is still there.
            Link::Socket(conn, form) => net.publish(conn, publication.frame(form).clone()),
            Link::Polled(id) => self.publish_polled(net, id, publication),
        }
    }

    fn publish_polled(
        &mut self,
        net: &mut impl Net,
        id: PolledId,
        publication: &Publication<'_>,
    ) -> bool {
        let max = self.limits.backlog_bytes;
        let Some(polled) = self.polled(id) else { return false };
        let is_too_much = polled.publish(net, publication, max);
        // Of an answer that goes on the net has judged, and takes nothing more.
        let is_lost = is_too_much && (polled.has_receiver() || self.is_lost(net, id));
        let Some(Session { polled, .. }) = self.sessions.get_mut(id) else { return false };
        if is_lost {
            polled.give_up();
        }
        if polled.is_answer_due() && polled.mark_dirty() {
            self.dirty.push_back(id);
        }
        let has_room =
            self.given < GIVEN_PER_TURN && net.kept().answers <= self.limits.answers_bytes;
        if polled.inbox_bytes() > max && has_room {
            // Offered at once, as to a socket, if there is room for an answer of its own: what
            // comes now finds nobody who waits.
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
            Line::Receiver(id) => {
                let id = *id;
                self.dismiss_polled(net, app, id, reason.into());
            }
            Line::Socket(_) => self.dismiss_socket(net, app, conn, reason.into()),
            // What is left there is of a session that goes on elsewhere. It is cut short, so that
            // nobody takes it for whole.
            Line::Http(_) | Line::Taking(_) | Line::Sender(..) => {
                net.drop_all(conn);
                net.close(conn, reason);
            }
            Line::None => {}
        }
    }

    /// The session over HTTP for which most publications wait, and how many bytes. Looks at all.
    pub fn largest(&self) -> Option<(SessionId, usize)> {
        let inboxes =
            self.sessions.iter().map(|(id, Session { polled, .. })| (id, polled.published()));
        let largest = inboxes.max_by_key(|(id, bytes)| (*bytes, std::cmp::Reverse(id.slot)));
        largest.map(|(id, bytes)| (SessionId::of_polled(id), bytes))
    }
}
