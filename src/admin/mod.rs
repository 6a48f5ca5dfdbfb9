//! The admin listener: metrics and health over HTTP, for monitoring. It wraps the switch as a
//! [`Handler`] and passes on what came through other listeners, so the switch knows nothing of it;
//! it reads from the switch what it shows, and changes nothing. Its HTTP is that of the web
//! listener, with the same limits and deadlines. Made by the server, called by the reactor.

mod report;

use std::convert::Infallible;

use crate::address::Address;
use crate::codec::http::{Head, Response};
use crate::codec::prometheus;
use crate::codec::ws::Bounds;
use crate::edge::{ConnId, Door, Handler, Net, TurnedAway};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::switch::Switch;
use crate::time::{Millis, Now};
use crate::web::{Application, Message, Outlet, Parting, Service, Web};

/// A switch, and the listener through which it is monitored.
#[derive(Debug)]
pub struct AdminDoor {
    switch: Switch,
    web: Web<Infallible>,
    /// Connections of this listener, few and mostly none; first the one that has been without a
    /// request for the longest time.
    conns: Vec<ConnId>,
    /// A reload has allowed fewer connections, and none has come since.
    is_lowered: bool,
    started: Now,
    /// Only this machine can reach it, which includes the browsers that run there.
    is_local: bool,
}

impl AdminDoor {
    /// Wraps this switch, at the start of the server.
    pub fn new(switch: Switch, now: Now) -> AdminDoor {
        let web = Web::new(Vec::new(), own_limits(switch.limits()), now);
        AdminDoor {
            switch,
            web,
            conns: Vec::new(),
            is_lowered: false,
            started: now,
            is_local: false,
        }
    }

    /// Sets whether only this machine can reach the port: then the one host name it answers to is
    /// `localhost`.
    pub fn at_loopback(mut self, is_local: bool) -> AdminDoor {
        self.is_local = is_local;
        self
    }

    /// Applies new limits, to this listener and to the switch (see [`Switch::reload`]).
    pub fn reload(&mut self, limits: &Limits, service: Service, now: Now) {
        self.is_lowered |= limits.admin_connections < self.switch.limits().admin_connections;
        self.web.reload(Vec::new(), own_limits(limits), now);
        self.switch.reload(limits, service, now);
    }

    /// Returns the switch, to read it.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Returns the switch, to change it.
    pub fn switch_mut(&mut self) -> &mut Switch {
        &mut self.switch
    }

    /// Unwraps the switch.
    pub fn into_switch(self) -> Switch {
        self.switch
    }

    fn is_ours(&self, conn: ConnId) -> bool {
        self.conns.contains(&conn)
    }

    /// Makes room for the next connection if there is none: of those that have nothing queued,
    /// except the newest, closes the ones that have been without a request for the longest time.
    fn make_room(&mut self, net: &mut impl Net, newest: Option<ConnId>) {
        let excess = (self.conns.len() + 1).saturating_sub(self.switch.limits().admin_connections);
        let idle = |conn: &&ConnId| net.queued(**conn) == 0 && Some(**conn) != newest;
        let idle: Vec<ConnId> = self.conns.iter().filter(idle).take(excess).copied().collect();
        for conn in idle {
            net.expel(conn, CloseReason::HalfRequest);
        }
    }

    fn split(&mut self) -> (&mut Web<Infallible>, Pages<'_>) {
        (
            &mut self.web,
            Pages { switch: &self.switch, started: self.started, is_local: self.is_local },
        )
    }
}

/// Limits of this listener. Its clients are few, and mostly on one machine: the bound for browsers
/// of one address does not apply to them.
fn own_limits(limits: &Limits) -> Limits {
    Limits { connections_per_address: 0, ..limits.clone() }
}

/// What is shown. There are no sessions here, only pages.
#[derive(Debug)]
struct Pages<'a> {
    switch: &'a Switch,
    started: Now,
    is_local: bool,
}

/// Returns whether a request is for an address or `localhost`, and so not from a page whose own
/// name was made to point here (DNS rebinding). HTTP/1.0 needs no `Host`; browsers always send it.
fn is_for_address(head: &Head<'_>) -> bool {
    let Some(host) = head.only("host") else { return !head.has("host") };
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    // In brackets it is an address: the codec has checked that.
    host.starts_with('[')
        || name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::Ipv4Addr>().is_ok()
}

impl Pages<'_> {
    /// Returns why no traffic should be sent here now, if so.
    fn trouble(&self, net: &impl Net) -> Option<&'static str> {
        if net.meters().is_draining {
            return Some("draining\n");
        }
        let is_failing =
            self.switch.journal().meters(net.now()).is_some_and(|store| store.is_failing);
        is_failing.then_some("store failing\n")
    }
}

impl Application for Pages<'_> {
    type Peer = Infallible;

    const HAS_SESSIONS: bool = false;

    fn opened(&mut self, _: &mut Outlet<'_, impl Net>, _: usize) -> Result<Infallible, Parting> {
        Err(CloseReason::BadHttp.into())
    }

    fn message(
        &mut self,
        _: &mut Outlet<'_, impl Net>,
        peer: &mut Infallible,
        _: Message<'_>,
    ) -> Result<(), Parting> {
        match *peer {}
    }

    fn bounds(&self, peer: &Infallible) -> Bounds {
        match *peer {}
    }

    fn page(&mut self, net: &mut impl Net, head: &Head<'_>) -> Response {
        if self.is_local && !is_for_address(head) {
            let text = "this door has no name: ask for its address, or for localhost\n";
            return Response::new(403).text(text);
        }
        let fresh = |status| Response::new(status).header("Cache-Control", "no-store");
        match (head.method, head.path()) {
            ("GET" | "HEAD", "/metrics") => {
                fresh(200).body(prometheus::CONTENT_TYPE, self.report(net))
            }
            ("GET" | "HEAD", "/healthz") => match self.trouble(net) {
                None => fresh(200).text("ok\n"),
                Some(trouble) => fresh(503).text(trouble),
            },
            ("GET" | "HEAD", _) => {
                Response::new(404).text("not found; there are /metrics and /healthz\n")
            }
            _ => Response::new(405).header("Allow", "GET, HEAD").text("method not allowed\n"),
        }
    }
}

impl Handler for AdminDoor {
    fn opened(&mut self, net: &mut impl Net, conn: ConnId, door: Door, from: Address) {
        if door == Door::Admin {
            self.conns.push(conn);
            self.web.opened(net, conn, from);
            self.is_lowered = false;
            self.make_room(net, Some(conn));
        } else {
            self.switch.opened(net, conn, door, from);
        }
    }

    fn stood_still(&mut self, ms: u64) {
        self.switch.stood_still(ms);
    }

    /// This listener turns nothing away, so it was another one.
    fn turned_away(&mut self, now: Now, why: TurnedAway) {
        self.switch.turned_away(now, why);
    }

    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        if self.is_ours(conn) {
            let (web, mut pages) = self.split();
            let used = web.received(net, &mut pages, conn, input);
            if net.queued(conn) > 0 {
                self.conns.retain(|ours| *ours != conn);
                self.conns.push(conn);
            }
            return used;
        }
        self.switch.received(net, conn, input)
    }

    /// Nothing is published to connections of this listener.
    fn too_slow(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        self.switch.too_slow(net, conn, reason);
    }

    fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        if self.is_ours(conn) {
            return net.close(conn, CloseReason::PeerClosed);
        }
        self.switch.ended(net, conn);
    }

    fn hung_up(&mut self, net: &mut impl Net, conn: ConnId) {
        // Connections of this listener have nothing but requests.
        if !self.is_ours(conn) {
            self.switch.hung_up(net, conn);
        }
    }

    fn drained(&mut self, net: &mut impl Net, conn: ConnId) {
        if self.is_ours(conn) {
            let (web, mut pages) = self.split();
            return web.drained(net, &mut pages, conn);
        }
        self.switch.drained(net, conn);
    }

    fn timed_out(&mut self, net: &mut impl Net, conn: ConnId) {
        if self.is_ours(conn) {
            let (web, mut pages) = self.split();
            return web.timed_out(net, &mut pages, conn);
        }
        self.switch.timed_out(net, conn);
    }

    fn closed(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        if self.is_ours(conn) {
            self.conns.retain(|ours| *ours != conn);
            let (web, mut pages) = self.split();
            return web.closed(net, &mut pages, conn);
        }
        self.switch.closed(net, conn, reason);
    }

    /// Admin clients may stay to the end: nothing waits for them.
    fn stopping(&mut self, net: &mut impl Net, until: Millis) {
        self.switch.stopping(net, until);
    }

    fn is_turn_full(&self) -> bool {
        self.switch.is_turn_full()
    }

    fn unauthenticated(&self) -> usize {
        self.switch.unauthenticated()
    }

    /// Admin clients never authenticate.
    fn message_bytes(&mut self, conn: ConnId) -> usize {
        self.switch.message_bytes(conn)
    }

    fn due(&self, net: &impl Net) -> Option<Millis> {
        self.switch.due(net)
    }

    fn tick(&mut self, net: &mut impl Net) {
        // Until those that are busy now have had their answers.
        if self.is_lowered {
            self.make_room(net, None);
        }
        self.switch.tick(net);
    }

    fn settle(&mut self, net: &mut impl Net) {
        self.switch.settle(net);
    }
}
