//! A web listener with an application and nothing else, to run a [`Reactor`](crate::edge) with. It
//! adds nothing of its own, so the transports behave as in the server.

use super::{Application, Service, Web};
use crate::address::{Address, Proxies};
use crate::edge::{ConnId, Door, Handler, Net};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::{Millis, Now};

/// The handler for an application that has only a web listener.
#[derive(Debug)]
pub struct Standalone<A: Application> {
    pub(super) web: Web<A::Peer>,
    pub(super) app: A,
}

impl<A: Application> Standalone<A> {
    /// Creates the handler for these services and that application.
    pub fn new(services: Vec<Service>, limits: Limits, now: Now, app: A) -> Standalone<A> {
        Standalone { web: Web::new(services, limits, now), app }
    }

    /// Trusts these proxies to state the addresses of their clients.
    pub fn believing(mut self, proxies: Proxies) -> Standalone<A> {
        self.web = self.web.believing(proxies);
        self
    }

    /// The number of sessions of all kinds.
    pub fn sessions(&self) -> usize {
        self.web.sessions()
    }

    /// Checks all invariants; for tests.
    ///
    /// # Panics
    /// If one is broken.
    pub fn check_invariants(&self) {
        self.web.check_invariants();
    }
}

impl<A: Application> Handler for Standalone<A> {
    fn opened(&mut self, net: &mut impl Net, conn: ConnId, _: Door, from: Address) {
        self.web.opened(net, conn, from);
    }

    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        self.web.received(net, &mut self.app, conn, input)
    }

    fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        self.web.ended(net, conn);
    }

    fn hung_up(&mut self, net: &mut impl Net, conn: ConnId) {
        self.web.hung_up(net, conn);
    }

    fn drained(&mut self, net: &mut impl Net, conn: ConnId) {
        self.web.drained(net, &mut self.app, conn);
    }

    fn timed_out(&mut self, net: &mut impl Net, conn: ConnId) {
        self.web.timed_out(net, &mut self.app, conn);
    }

    fn too_slow(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        self.web.too_slow(net, &mut self.app, conn, reason);
    }

    fn closed(&mut self, net: &mut impl Net, conn: ConnId, _: CloseReason) {
        self.web.closed(net, &mut self.app, conn);
    }

    /// Closes all at once: it knows of no other server that a crowd of reconnects could overload.
    fn stopping(&mut self, net: &mut impl Net, _: Millis) {
        for slot in 0..self.web.slots() {
            if let Some(conn) = self.web.conn(slot) {
                self.web.let_go(net, &mut self.app, conn, None);
            }
        }
        self.web.abandon(net, &mut self.app, usize::MAX);
    }

    fn message_bytes(&mut self, conn: ConnId) -> usize {
        self.web.message_bytes(&self.app, conn)
    }

    fn due(&self, _: &impl Net) -> Option<Millis> {
        self.web.due()
    }

    fn tick(&mut self, net: &mut impl Net) {
        self.web.tick(net, &mut self.app);
    }

    fn settle(&mut self, net: &mut impl Net) {
        self.web.settle(net, &mut self.app);
    }
}
