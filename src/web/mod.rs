//! The web door: HTTP/1.1, WebSocket and SockJS, for whatever application stands behind it.
//!
//! It owns every connection that came through [`Door::Web`](crate::edge::Door), and every
//! *session*: one browser that is spoken with, over a WebSocket or over requests that come and go.
//! It never knows what a message says: that is told to an [`Application`], which speaks to one
//! session through an [`Outlet`], and to any of them with [`Web::publish`]. Called by the switch,
//! and by [`Standalone`] for applications that have nothing else.
//!
//! One file per role: `http` for requests, `answers` for those that need no session, `service` for
//! what is served where, `addresses` for where clients are, `origin` for the sites whose pages may
//! connect, `pace` for how fast they may speak, `publish` for what others say to them, `hungry` for
//! those whose answers there is no room for, `polled` for a session over HTTP, `transports` for its
//! coming and going and `taking` for answers that take their time, `socket` for WebSockets, `drain`
//! for the end of all when the server stops.

mod addresses;
mod answers;
mod census;
mod drain;
mod fuzz;
mod http;
mod hungry;
mod invariants;
mod origin;
mod outlet;
mod pace;
mod polled;
mod publish;
mod service;
mod session;
mod socket;
mod standalone;
mod strangers;
mod taking;
mod transports;
mod uploads;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashMap;

use crate::address::{Address, Proxies};
use crate::arena::{Arena, TRIMMED_MAX, shrink_some};
use crate::codec::http::{Head, Response};
use crate::codec::ws::Bounds;
use crate::edge::{ConnId, Net};
use crate::limits::Limits;
use crate::reason::CloseReason;
use crate::time::{Millis, Now};
use crate::wheel::Wheel;
use addresses::Addresses;
use answers::Pages;
use http::{Http, SenderReply};
use hungry::Hungry;
use pace::Pace;
use polled::{Polled, PolledId, PolledKind};
use session::Link;
use socket::Socket;
use strangers::Strangers;
use taking::Taking;

pub use census::Ways;
#[doc(hidden)]
pub use fuzz::{fuzz_connection, fuzz_sockjs};
pub use outlet::Outlet;
pub use service::Service;
pub use session::SessionId;
pub use standalone::Standalone;
pub use uploads::Bodies;

/// Sessions over HTTP that are seen to in one turn, for their deadlines and for what there is to
/// say. The others come in the next one.
const SESSIONS_PER_TURN: usize = 128;
/// Bytes given to receivers in one turn, after which the others come in the next one: what each of
/// them gets is made for it alone.
const GIVEN_PER_TURN: usize = 256 * 1024;
/// So many places of connections that have gone are kept for those who come.
const LINES_KEPT: usize = 1024;

/// What a browser said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes, over a raw WebSocket alone.
    Binary(&'a [u8]),
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parting {
    /// Code and text that the browser is told (RFC 6455, 7.4); `None` where it is told nothing.
    pub told: Option<(u16, &'static str)>,
    /// What is counted.
    pub reason: CloseReason,
    /// In how many milliseconds it is to come back, if that is known.
    pub back_ms: Option<u64>,
}

impl Parting {
    /// Code and text that the browser is told, with the time to come back.
    pub fn words(&self) -> Option<(u16, Cow<'static, str>)> {
        let (code, text) = self.told?;
        let text = match self.back_ms {
            Some(ms) => format!("{text}, come back in {ms} ms").into(),
            None => text.into(),
        };
        Some((code, text))
    }
}

impl From<CloseReason> for Parting {
    fn from(reason: CloseReason) -> Parting {
        Parting { told: reason.told(), reason, back_ms: None }
    }
}

/// What stands behind the door. Nothing called here may call the [`Web`]; what is to be said to
/// the session that speaks goes through the [`Outlet`].
pub trait Application {
    /// What it knows of one session.
    type Peer: std::fmt::Debug;

    /// Whether there are any. Where there are pages alone, the rest is not compiled for it.
    const HAS_SESSIONS: bool = true;

    /// A session begins, at the service of that index.
    ///
    /// # Errors
    /// How it ends at once.
    fn opened(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        service: usize,
    ) -> Result<Self::Peer, Parting>;

    /// The browser said something. Messages of one session come strictly one after the other.
    ///
    /// # Errors
    /// How the session ends.
    fn message(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        peer: &mut Self::Peer,
        message: Message<'_>,
    ) -> Result<(), Parting>;

    /// Whether answers that wait take too much memory.
    fn is_short(&self, _net: &impl Net) -> bool {
        false
    }

    /// Whether there is room for the answer to this message: else it waits until there is, and all
    /// behind it.
    fn has_room(&self, _net: &impl Net, _peer: &Self::Peer, _message: &str) -> bool {
        true
    }

    /// What may come from that session at most: the next message.
    fn bounds(&self, peer: &Self::Peer) -> Bounds;

    /// Whether it has proved who it is. Before that it gets less: of what it says, and of what
    /// waits for it.
    fn is_known(&self, _peer: &Self::Peer) -> bool {
        true
    }

    /// When [`Application::timed_out`] is wanted. Asked when a session begins, after its deadline,
    /// and when [`Outlet::reschedule`] says so.
    fn deadline(&self, _peer: &Self::Peer, _now: Now) -> Option<Millis> {
        None
    }

    /// A deadline has come, perhaps not the one that was asked for.
    ///
    /// # Errors
    /// How the session ends.
    fn timed_out(&mut self, _peer: &mut Self::Peer, _now: Now) -> Result<(), Parting> {
        Ok(())
    }

    /// Whether a session whose time is over, and which was not heard before, goes on if this
    /// message is heard at once, in front of what was said before it; `None` if it has no say in
    /// that. In front of one that does, and renews nothing, no other is heard.
    fn renews(&self, _peer: &Self::Peer, _message: &str, _now: Now) -> Option<bool> {
        None
    }

    /// A session has ended: forget it.
    fn closed(&mut self, _peer: Self::Peer) {}

    /// The answer to a request that is not for a service. The body of the request is read and
    /// thrown away.
    fn page(&mut self, net: &mut impl Net, head: &Head<'_>) -> Response;
}

/// What a connection is. What is known of a WebSocket stands here and nowhere else, because most
/// are idle and there may be a million; all else is rare, or lives for a moment.
#[derive(Debug, Default)]
enum Line<P> {
    /// Closed, or not of this door.
    #[default]
    None,
    /// Between requests or inside one. Next: any.
    Http(Http),
    /// An answer waits for what a session has to say. Next: `Http`.
    Receiver(PolledId),
    /// An answer has all that it gets, and takes its time on the way. Next: `Http`.
    Taking(Box<Taking>),
    /// An answer waits for a session to have heard all. Next: `Http`.
    Sender(PolledId, Box<SenderReply>),
    /// A WebSocket, which is a session. Next: `None`.
    Socket(Socket<P>),
}

/// A session over HTTP.
#[derive(Debug)]
struct Session<P> {
    /// What the application knows of it; `None` once it has been told of the end.
    peer: Option<P>,
    polled: Box<Polled>,
}

/// The name of a session over HTTP: its service, and what the client made up.
type Key = (u16, Rc<str>);

/// A [`Key`] to look up.
#[derive(Hash)]
struct KeyRef<'a>(u16, &'a str);

impl hashbrown::Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, (service, name): &Key) -> bool {
        self.0 == *service && *self.1 == **name
    }
}

/// All connections and sessions of the door.
#[derive(Debug)]
pub struct Web<P> {
    limits: Limits,
    addresses: Addresses,
    pace: Pace,
    /// How often somebody was held back for speaking too fast.
    held: u64,
    /// Sessions over HTTP that have ended, by [`CloseReason`].
    parted: [u64; CloseReason::ALL.len()],
    services: Vec<Service>,
    pages: Vec<Pages>,
    /// By the slot of the connection.
    lines: Vec<Line<P>>,
    /// Sessions over HTTP, and their ids by their names.
    sessions: Arena<Session<P>, PolledKind>,
    names: HashMap<Key, PolledId>,
    /// Bodies that arrive, and what waits of them.
    bodies: Bodies,
    /// Sessions that have not authenticated.
    strangers: Strangers,
    /// Deadlines of sessions over HTTP.
    wheel: Wheel<PolledId>,
    /// Those whose next message waits for room for its answer.
    hungry: Hungry,
    /// Sessions over HTTP of which something has changed in this turn.
    dirty: VecDeque<PolledId>,
    /// Bytes of messages given to receivers in this turn.
    given: usize,
    /// There is more memory to be given back.
    is_shrinking: bool,
    /// How many sessions there are over WebSockets, raw ones and those of SockJS.
    raw_sockets: usize,
    sockjs_sockets: usize,
    /// The server stops, and nobody new is spoken with: they come back in so long.
    back_ms: Option<u64>,
}

impl<P> Web<P> {
    /// A door to these services.
    pub fn new(services: Vec<Service>, limits: Limits, now: Now) -> Web<P> {
        Web {
            pages: services.iter().map(Pages::new).collect(),
            addresses: Addresses::new(limits.connections_per_address),
            pace: Pace::new(&limits),
            held: 0,
            parted: [0; CloseReason::ALL.len()],
            services,
            lines: Vec::new(),
            sessions: Arena::default(),
            names: HashMap::new(),
            bodies: Bodies::default(),
            strangers: Strangers::new(limits.sessions_unauthenticated),
            wheel: Wheel::new(now.mono.0),
            hungry: Hungry::default(),
            dirty: VecDeque::new(),
            given: 0,
            is_shrinking: false,
            raw_sockets: 0,
            sockjs_sockets: 0,
            back_ms: None,
            limits,
        }
    }

    /// From now on these services, as many as before, are served like this, within these limits:
    /// what has begun goes on as it is.
    pub fn reload(&mut self, services: Vec<Service>, limits: Limits, now: Now) {
        debug_assert_eq!(services.len(), self.services.len());
        self.pages = services.iter().map(Pages::new).collect();
        self.pace.change(&limits, now.mono);
        self.addresses.set_max(limits.connections_per_address);
        self.strangers.set_max(limits.sessions_unauthenticated);
        (self.services, self.limits) = (services, limits);
    }

    /// Believes these proxies where they say whom they speak for.
    pub fn believing(mut self, proxies: Proxies) -> Web<P> {
        self.addresses.proxies = proxies;
        self
    }

    /// A peer came through the door, from that address.
    pub fn opened(&mut self, net: &mut impl Net, conn: ConnId, from: Address) {
        net.deadline(conn, Some(net.now().mono.plus(self.limits.http_head_ms as u64)));
        if self.lines.len() <= conn.index() {
            self.lines.resize_with(conn.index() + 1, || Line::None);
        }
        let is_proxy = self.addresses.proxies.has(from);
        self.lines[conn.index()] = Line::Http(Http::new(is_proxy));
        if let Err(reason) = self.arrive(net, conn, from) {
            net.close(conn, reason);
        }
    }

    /// Whether a connection is of this door and not yet closed.
    pub fn has(&self, conn: ConnId) -> bool {
        !matches!(self.lines.get(conn.index()), None | Some(Line::None))
    }

    /// Bytes came (see [`Handler::received`](crate::edge::Handler::received)).
    ///
    /// # Errors
    /// The reason for which the connection must be closed.
    pub fn received<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        match &self.lines[conn.index()] {
            Line::None => Ok(input.len()),
            Line::Http(_) => {
                let used = self.http_received(net, app, conn, input)?;
                if used < input.len() && matches!(self.lines[conn.index()], Line::Socket(_)) {
                    // The first message may ride in the same segment as the request.
                    return Ok(used + self.received(net, app, conn, &mut input[used..])?);
                }
                Ok(used)
            }
            Line::Socket(_) => Ok(self.socket_received(net, app, conn, input)),
            // The next request waits for the answer to this one. The end of the stream must be
            // noticed meanwhile, so the connection is read as long as little waits.
            Line::Receiver(_) | Line::Taking(_) | Line::Sender(..) => {
                if input.len() >= self.limits.http_head_bytes {
                    net.pause(conn);
                }
                Ok(0)
            }
        }
    }

    /// The peer sends no more.
    pub fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        net.close(conn, CloseReason::PeerClosed);
    }

    /// The peer sends no more, and is not heard. A WebSocket is over with its stream: nobody waits
    /// for what it said too fast, or without taking its answers. So is a session whose receiver has
    /// gone, whatever it has asked for behind that. Other requests may be answered yet.
    pub fn hung_up(&mut self, net: &mut impl Net, conn: ConnId) {
        if let Line::Socket(_) | Line::Receiver(_) = self.lines[conn.index()] {
            net.close(conn, CloseReason::PeerClosed);
        }
    }

    /// All that was queued has gone to the kernel.
    pub fn drained<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
    ) {
        self.hungry.has_gone(conn);
        match &self.lines[conn.index()] {
            Line::None => {}
            Line::Http(_) => net.resume(conn),
            Line::Receiver(id) => {
                let id = *id;
                self.receiver_drained(net, id);
            }
            Line::Taking(_) => self.taken(net, conn),
            Line::Sender(..) => {}
            Line::Socket(_) => self.socket_drained(net, app, conn),
        }
    }

    /// The deadline of a connection has passed.
    pub fn timed_out<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
    ) {
        match &mut self.lines[conn.index()] {
            Line::Http(http) => {
                let due = http.upload.as_ref().map(|upload| upload.due(&self.limits));
                if due.is_some_and(|due| due > net.now().mono) {
                    // More of it has come meanwhile.
                    return net.deadline(conn, due);
                }
                let reason = http.time_out(net, conn);
                net.close(conn, reason);
            }
            Line::Taking(taking) => taking.timed_out(net, conn, &self.limits),
            Line::Socket(_) => self.socket_timed_out(net, app, conn),
            Line::Sender(id, _) => {
                let id = *id;
                self.forget_sender(id, conn);
                self.release_sender(net, conn, id);
            }
            // Those have no deadline: the session's counts.
            Line::None | Line::Receiver(_) => {}
        }
    }

    /// The connection is gone.
    pub fn closed<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
    ) {
        self.hungry.has_gone(conn);
        self.addresses.leave(conn);
        self.strangers.forget_maker(conn);
        self.take_upload(conn);
        match std::mem::take(&mut self.lines[conn.index()]) {
            Line::None | Line::Http(_) => {}
            Line::Sender(id, _) => self.forget_sender(id, conn),
            // What was on its way to it is lost, so its session is over.
            Line::Receiver(id) => self.destroy(net, app, id),
            Line::Taking(taking) => {
                if let Some(id) = taking.id
                    && self.polled(id).is_some_and(|polled| polled.taking == Some(conn))
                {
                    self.destroy(net, app, id);
                }
            }
            Line::Socket(socket) => self.socket_closed(app, socket),
        }
        self.is_shrinking |= self.give_back_lines();
    }

    /// Gives a part of the memory of the last places back, while nobody is there. Whether there may
    /// be more.
    fn give_back_lines(&mut self) -> bool {
        let (len, capacity) = (self.lines.len(), self.lines.capacity());
        let is_free = |line: &&Line<P>| matches!(line, Line::None);
        let free = self.lines.iter().rev().take(TRIMMED_MAX).take_while(is_free).count();
        self.lines.truncate(len - free);
        let wanted = if len == free { 0 } else { 2 * (len - free) + LINES_KEPT };
        if capacity > 2 * wanted && capacity >= LINES_KEPT {
            shrink_some(&mut self.lines, wanted);
        }
        free == TRIMMED_MAX || self.lines.capacity() < capacity
    }

    /// When a turn is wanted at the latest.
    pub fn due(&self) -> Option<Millis> {
        let is_busy = !self.dirty.is_empty() || self.is_shrinking || self.hungry.is_due;
        if is_busy { Some(Millis(0)) } else { self.wheel.next_at().map(Millis) }
    }

    /// Once a turn, before its input.
    pub fn tick<A: Application<Peer = P>>(&mut self, net: &mut impl Net, app: &mut A) {
        self.given = 0;
        self.is_shrinking = self.sessions.trim() | self.wheel.trim() | self.give_back_lines();
        self.wheel.advance(net.now().mono.0);
        for _ in 0..SESSIONS_PER_TURN {
            let Some((_, id)) = self.wheel.pop_expired() else { return };
            self.polled_timed_out(net, app, id);
        }
    }

    /// Once a turn, after its input: polls are answered, whoever waited goes on.
    pub fn settle<A: Application<Peer = P>>(&mut self, net: &mut impl Net, app: &mut A) {
        self.feed(net, app);
        for served in 0..SESSIONS_PER_TURN {
            if served > 0 && self.given >= GIVEN_PER_TURN {
                return;
            }
            let Some(id) = self.dirty.pop_front() else {
                return self.dirty.shrink_to(SESSIONS_PER_TURN);
            };
            self.serve(net, app, id);
        }
    }

    /// How long a message of that connection may be ([`Application::bounds`]): of a session that it
    /// is, or that its request waits for; any other is a stranger's.
    pub fn message_bytes<A: Application<Peer = P>>(&self, app: &A, conn: ConnId) -> usize {
        let peer = match self.lines.get(conn.index()) {
            Some(Line::Socket(socket)) => socket.peer.as_ref(),
            Some(Line::Receiver(id) | Line::Sender(id, _)) => self.peer(SessionId::of_polled(*id)),
            _ => None,
        };
        let stranger = self.limits.message_unauthenticated_bytes;
        peer.map_or(stranger, |peer| app.bounds(peer).message_bytes)
    }

    /// Lets a session go: it is told why, and hears nothing more.
    pub fn dismiss<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
        parting: Parting,
    ) {
        match id.link() {
            Link::Socket(conn, _) => self.dismiss_socket(net, app, conn, parting),
            Link::Polled(id) => self.dismiss_polled(net, app, id, parting),
        }
    }

    /// What the application knows of a session, until it has been told of the end.
    fn peer(&self, id: SessionId) -> Option<&P> {
        match id.link() {
            Link::Socket(conn, _) => self.socket(conn)?.peer.as_ref(),
            Link::Polled(id) => self.sessions.get(id)?.peer.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_an_idle_connection_stays_small() {
        /// As much as the switch knows of a browser.
        type Known = (u64, u64, bool);
        assert!(size_of::<Line<()>>() <= 48, "{}", size_of::<Line<()>>());
        assert!(size_of::<Line<Known>>() <= 64, "{}", size_of::<Line<Known>>());
    }

    #[test]
    fn places_of_a_crowd_are_given_back_in_parts() {
        let mut web = Web::<()>::new(Vec::new(), Limits::default(), Now::default());
        web.lines.resize_with(100_000, || Line::None);
        let mut times = 0;
        while web.give_back_lines() {
            times += 1;
            assert!(web.lines.len() + times * TRIMMED_MAX >= 100_000);
        }
        assert_eq!((web.lines.len(), web.lines.capacity()), (0, 0));
    }
}
