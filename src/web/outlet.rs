//! What an application uses to write to a session while that session is being served.

use super::SessionId;
use super::http_session::HttpSession;
use crate::codec::ws;
use crate::edge::{ConnId, Net};
use crate::frame::Frame;
use crate::publication::{Form, Publication, message_frame};
use crate::time::Now;

/// How output reaches the browser.
#[derive(Debug)]
pub(super) enum Way<'a> {
    Socket(ConnId, Form),
    Http(&'a mut HttpSession),
}

/// Writes to one session. Its output was asked for, so it is never a reason to end the session.
#[derive(Debug)]
pub struct Outlet<'a, N> {
    net: &'a mut N,
    id: SessionId,
    way: Way<'a>,
    pub(super) is_rescheduled: bool,
}

impl<'a, N: Net> Outlet<'a, N> {
    pub(super) fn new(net: &'a mut N, id: SessionId, way: Way<'a>) -> Outlet<'a, N> {
        Outlet { net, id, way, is_rescheduled: false }
    }

    /// The session's id, for later use with [`Web::publish`](super::Web::publish) and
    /// [`Web::dismiss`](super::Web::dismiss).
    pub fn session(&self) -> SessionId {
        self.id
    }

    /// The time of this turn.
    pub fn now(&self) -> Now {
        self.net.now()
    }

    /// Fills the slice from the system's random source.
    pub fn random(&mut self, out: &mut [u8]) {
        self.net.random(out);
    }

    /// Sends a message.
    pub fn send(&mut self, message: &str) {
        self.send_as(|form| message_frame(form, message));
    }

    /// Sends a message that may already have been encoded for other sessions.
    pub fn send_publication(&mut self, publication: &Publication<'_>) {
        self.send_as(|form| publication.frame(form).clone());
    }

    /// The form in which a message is sent to the session now.
    pub fn form(&self) -> Form {
        match &self.way {
            Way::Socket(_, form) => *form,
            Way::Http(http_session) => http_session.form(),
        }
    }

    /// Sends bytes. Only a raw WebSocket can carry them; on all others nothing is sent.
    pub fn send_binary(&mut self, bytes: &[u8]) {
        if let Way::Socket(conn, Form::Raw) = self.way {
            self.net.send(conn, ws::binary_frame(bytes));
        }
    }

    /// The session's deadline has changed.
    pub fn reschedule(&mut self) {
        self.is_rescheduled = true;
    }

    fn send_as(&mut self, frame: impl FnOnce(Form) -> Frame) {
        match &mut self.way {
            Way::Socket(conn, form) => self.net.send(*conn, frame(*form)),
            Way::Http(http_session) => http_session.send(self.net, frame),
        }
    }
}
