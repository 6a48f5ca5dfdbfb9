//! How the door's connections end when the server stops: each is told so, and when to come back.
//! Who is let go when is for the handler to say.

use super::{Application, Line, Link, Parting, Session, SessionId, Web};
use crate::codec::http::Response;
use crate::edge::{ConnId, Net};
use crate::reason::CloseReason;

/// What is told to those who want to be spoken with, and to those in the midst of a request.
pub(super) fn unavailable(back_ms: u64) -> Response {
    let seconds = back_ms.div_ceil(1000).to_string();
    Response::new(503).header("Retry-After", &seconds).text("The server is stopping\n").close()
}

impl<P> Web<P> {
    /// From now on nobody new is spoken with: they are told to come back in so long.
    pub fn refuse_new(&mut self, back_ms: u64) {
        self.back_ms = Some(back_ms);
    }

    /// Lets a connection go, because the server stops, and tells it to come back in so long, if
    /// that is known.
    pub fn let_go<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        back_ms: Option<u64>,
    ) {
        match &self.lines[conn.index()] {
            Line::None => {}
            Line::Http(http) => {
                if http.is_midway() {
                    net.send(conn, unavailable(back_ms.unwrap_or_default()).encode());
                }
                net.close(conn, CloseReason::GoingAway);
            }
            Line::Receiver(id) | Line::Sender(id, _) | Line::Socket(id) => {
                let id = *id;
                let parting = Parting { back_ms, ..CloseReason::GoingAway.into() };
                self.dismiss(net, app, id, parting);
                self.serve(net, app, id);
                net.close(conn, CloseReason::GoingAway);
            }
        }
    }

    /// Forgets sessions to which nobody is connected, at most so many. Whether that was all.
    pub fn abandon<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        count: usize,
    ) -> bool {
        let is_alone = |session: &Session<P>| match &session.link {
            Link::Polled(polled) => !polled.has_receiver(),
            Link::Socket(_) => false,
        };
        let alone = self.sessions.iter().filter(|(_, session)| is_alone(session));
        let ids: Vec<SessionId> = alone.map(|(id, _)| id).take(count).collect();
        for id in &ids {
            self.destroy(net, app, *id);
        }
        ids.len() < count
    }
}
