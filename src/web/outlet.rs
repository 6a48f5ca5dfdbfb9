//! What an application speaks to one session with, while that session is being served.

use super::SessionId;
use super::polled::Polled;
use crate::codec::ws;
use crate::edge::{ConnId, Net};
use crate::frame::Frame;
use crate::publication::{Form, Publication, message_frame};
use crate::time::Now;

/// How what is said reaches the browser.
#[derive(Debug)]
pub(super) enum Way<'a> {
    Socket(ConnId, Form),
    Polled(&'a mut Polled),
}

/// One session's ear. What is said here was asked for: it is never a reason to cut the session.
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

    /// Whose it is: for [`Web::publish`](super::Web::publish) and
    /// [`Web::dismiss`](super::Web::dismiss), later.
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

    /// Says a message.
    pub fn send(&mut self, message: &str) {
        self.send_as(|form| message_frame(form, message));
    }

    /// Says a message that may have been encoded for others already.
    pub fn send_publication(&mut self, publication: &Publication<'_>) {
        self.send_as(|form| publication.frame(form).clone());
    }

    /// The form in which a message goes to the session now.
    pub fn form(&self) -> Form {
        match &self.way {
            Way::Socket(_, form) => *form,
            Way::Polled(polled) => polled.form(),
        }
    }

    /// Says bytes, which only a raw WebSocket can carry; on all others nothing is said.
    pub fn send_binary(&mut self, bytes: &[u8]) {
        if let Way::Socket(conn, Form::Raw) = self.way {
            self.net.send(conn, ws::binary_frame(bytes));
        }
    }

    /// The session's deadline is another one from now on.
    pub fn reschedule(&mut self) {
        self.is_rescheduled = true;
    }

    fn send_as(&mut self, frame: impl FnOnce(Form) -> Frame) {
        match &mut self.way {
            Way::Socket(conn, form) => self.net.send(*conn, frame(*form)),
            Way::Polled(polled) => polled.send(self.net, frame),
        }
    }
}
