//! How connections end when the server stops: each is told so, and when to reconnect. The handler
//! decides which connection ends when.

use super::answers;
use super::http_session::HttpSessionId;
use super::{Application, Line, Parting, Web};
use crate::codec::http::Response;
use crate::edge::{ConnId, Net};
use crate::reason::CloseReason;

/// The answer to requests for a new session, and to incomplete requests.
pub(super) fn unavailable(back_ms: u64) -> Response {
    let seconds = back_ms.div_ceil(1000).to_string();
    Response::new(503).header("Retry-After", &seconds).text("The server is stopping\n").close()
}

impl<P> Web<P> {
    /// From now on refuses new sessions, and tells clients to come back after that time.
    pub fn refuse_new(&mut self, back_ms: u64) {
        self.back_ms = Some(back_ms);
    }

    /// Ends a connection because the server stops, and tells the client when to come back, if that
    /// is known.
    pub fn let_go<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        back_ms: Option<u64>,
    ) {
        let Some(line) = self.lines.get(conn.index()) else { return };
        let parting = Parting { back_ms, ..CloseReason::GoingAway.into() };
        match line {
            Line::None => {}
            Line::Http(http) => {
                if http.is_midway() {
                    answers::send(net, conn, unavailable(back_ms.unwrap_or_default()));
                }
                net.close(conn, CloseReason::GoingAway);
            }
            // The answer in flight goes out, and its session ends: it could not ask for more.
            Line::AnswerInFlight(answer, _) => {
                // Unless its client waits elsewhere by now.
                let id = answer.id;
                if let Some(id) = id.filter(|id| self.is_taking(*id, conn)) {
                    self.dismiss_session(net, app, id, parting);
                }
                net.close(conn, CloseReason::GoingAway);
            }
            Line::Receiver(id, _) | Line::Sender(id, ..) => {
                let (id, is_receiver) = (*id, matches!(line, Line::Receiver(..)));
                self.dismiss_session(net, app, id, parting);
                if is_receiver
                    && app.is_short(net)
                    && let Some(http_session) =
                        self.session(id).filter(|http_session| http_session.owes_much())
                {
                    // No room for its output, and no time to wait: at least it is told of the end.
                    http_session.clear_inbox(net);
                }
                self.serve(net, app, id);
                net.close(conn, CloseReason::GoingAway);
            }
            Line::Socket(_) => self.dismiss_socket(net, app, conn, parting),
        }
    }

    /// Removes at most `count` sessions without a receiver; returns whether those were all.
    pub fn abandon<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        count: usize,
    ) -> bool {
        let alone = self.sessions.iter().filter(|(_, entry)| !entry.session.has_receiver());
        let ids: Vec<HttpSessionId> = alone.map(|(id, _)| id).take(count).collect();
        for id in &ids {
            self.dismiss_session(net, app, *id, CloseReason::GoingAway.into());
            self.destroy(net, app, *id);
        }
        ids.len() < count
    }
}
