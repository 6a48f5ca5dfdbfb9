//! The web listener ("door"): HTTP/1.1, WebSocket and SockJS, for any [`Application`].
//!
//! It owns every connection accepted on [`Door::Web`](crate::edge::Door), and every *session*: one
//! browser, over a WebSocket or over a series of HTTP requests. It does not interpret messages: it
//! hands them to the application, which writes to the current session through an [`Outlet`], and to
//! any session with [`Web::publish`]. Called by the switch, and by [`Standalone`] for applications
//! that need nothing else.
//!
//! One file per role: `http` parses and routes requests, `answers` answers those that need no
//! session, `service` says what is served where, `addresses` counts connections per client address,
//! `origin` checks the sites whose pages may connect, `pace` limits message rates, `publish`
//! delivers publications, `room_queue` queues sessions while memory for answers is short,
//! `http_session` is a session over HTTP, `transports` its life cycle, `answer_in_flight` its
//! answers that are slow to leave, `socket` serves WebSockets, `drain` ends all connections when
//! the server stops.

mod addresses;
mod answer_in_flight;
mod answers;
mod census;
mod drain;
mod fuzz;
mod http;
mod http_session;
mod invariants;
mod origin;
mod outlet;
mod pace;
mod publish;
mod room_queue;
mod service;
mod session;
mod socket;
mod standalone;
mod transports;
mod unauthenticated;
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
use answer_in_flight::AnswerInFlight;
use answers::Pages;
use http::{Http, SenderReply};
use http_session::{HttpSession, HttpSessionId, HttpSessionKind};
use pace::Pace;
use room_queue::RoomQueue;
use session::Link;
use socket::Socket;
use unauthenticated::Unauthenticated;

#[doc(hidden)]
pub use fuzz::{fuzz_connection, fuzz_sockjs};
pub use outlet::Outlet;
pub use service::Service;
pub use session::SessionId;
pub use standalone::Standalone;
pub use uploads::Bodies;

/// Sessions over HTTP served in one turn, for expired timers and for output. The rest follow in the
/// next turn.
const SESSIONS_PER_TURN: usize = 128;
/// Bytes given to receivers in one turn; the rest follow in the next turn. Every receiver gets an
/// answer encoded for it alone.
const GIVEN_PER_TURN: usize = 256 * 1024;
/// Spare entries that `lines` keeps for new connections when it shrinks.
const LINES_KEPT: usize = 1024;

/// A message from a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes; only over a raw WebSocket.
    Binary(&'a [u8]),
}

impl<'a> Message<'a> {
    /// The message as text; `None` for bytes that are not UTF-8.
    pub fn as_text(self) -> Option<&'a str> {
        match self {
            Message::Text(text) => Some(text),
            Message::Binary(bytes) => str::from_utf8(bytes).ok(),
        }
    }
}

/// How a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parting {
    /// Close code and text sent to the browser (RFC 6455, 7.4); `None` if nothing is sent.
    pub told: Option<(u16, &'static str)>,
    /// The reason that is counted.
    pub reason: CloseReason,
    /// In how many milliseconds the browser is to reconnect, if known.
    pub back_ms: Option<u64>,
}

impl Parting {
    /// Close code and text for the browser, including the time to reconnect.
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

/// The application served on the listener. Its methods cannot call the [`Web`]; they write to the
/// current session through the [`Outlet`].
pub trait Application {
    /// The application's state for one session.
    type Peer: std::fmt::Debug;

    /// Whether the application has sessions. If it serves pages only, the rest is not compiled in.
    const HAS_SESSIONS: bool = true;

    /// A session begins, on the service with that index.
    ///
    /// # Errors
    /// How the session ends, at once.
    fn opened(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        service: usize,
    ) -> Result<Self::Peer, Parting>;

    /// Handles a message from the browser. Messages of one session come strictly one after another.
    ///
    /// # Errors
    /// How the session ends.
    fn message(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        peer: &mut Self::Peer,
        message: Message<'_>,
    ) -> Result<(), Parting>;

    /// Whether waiting answers take too much memory.
    fn is_short(&self, _net: &impl Net) -> bool {
        false
    }

    /// Whether there is room for the answer to this message. If not, it waits until there is, and
    /// so do all messages behind it.
    fn has_room(&self, _net: &impl Net, _peer: &Self::Peer, _message: &str) -> bool {
        true
    }

    /// The bounds on the session's next message.
    fn bounds(&self, peer: &Self::Peer) -> Bounds;

    /// Whether the session has authenticated. Before that its limits are lower: for what it sends,
    /// and for what may wait for it.
    fn is_authenticated(&self, _peer: &Self::Peer) -> bool {
        true
    }

    /// When [`Application::timed_out`] is to be called. Queried when a session begins, after a
    /// deadline has passed, and after [`Outlet::reschedule`].
    fn deadline(&self, _peer: &Self::Peer, _now: Now) -> Option<Millis> {
        None
    }

    /// A deadline has passed, possibly not the one requested.
    ///
    /// # Errors
    /// How the session ends.
    fn timed_out(&mut self, _peer: &mut Self::Peer, _now: Now) -> Result<(), Parting> {
        Ok(())
    }

    /// For a session that has expired while its messages wait: `Some(true)` if this message renews
    /// it when handled ahead of those before it; `Some(false)` if it does not, and no message
    /// behind it may overtake it; `None` if it has no bearing on the expiry.
    fn renews(&self, _peer: &Self::Peer, _message: &str, _now: Now) -> Option<bool> {
        None
    }

    /// A session has ended: its state is to be dropped.
    fn closed(&mut self, _peer: Self::Peer) {}

    /// Answers a request that is not for a service. The body of the request is read and discarded.
    fn page(&mut self, net: &mut impl Net, head: &Head<'_>) -> Response;
}

/// The state of a connection, with the generation of its slot. A WebSocket is stored inline, with
/// nothing elsewhere, because most are idle and there may be a million; all other states are rare
/// or short-lived.
#[derive(Debug, Default)]
enum Line<P> {
    /// Closed, or not a web connection.
    #[default]
    None,
    /// Between requests or inside one. Next: any.
    Http(Http),
    /// A request waits for output of a session. Next: `Http`.
    Receiver(HttpSessionId, u32),
    /// An answer is complete but has not all been sent. Next: `Http`.
    AnswerInFlight(Box<AnswerInFlight>, u32),
    /// A request that sent messages waits until its session has handled them all. Next: `Http`.
    Sender(HttpSessionId, Box<SenderReply>, u32),
    /// A WebSocket, which is a session. Next: `None`.
    Socket(Socket<P>),
}

impl<P> Line<P> {
    /// The generation of the connection; `None` if there is none.
    fn generation(&self) -> Option<u32> {
        match self {
            Line::None => None,
            Line::Http(http) => Some(http.generation),
            Line::Socket(socket) => Some(socket.generation),
            Line::Receiver(_, generation)
            | Line::AnswerInFlight(_, generation)
            | Line::Sender(.., generation) => Some(*generation),
        }
    }
}

/// A session over HTTP.
#[derive(Debug)]
struct Session<P> {
    /// The application's state; `None` once it has been told of the end.
    peer: Option<P>,
    session: Box<HttpSession>,
}

/// Identifies a session over HTTP: its service, and the name chosen by the client.
type Key = (u16, Rc<str>);

/// A borrowed [`Key`], for lookups.
#[derive(Hash)]
struct KeyRef<'a>(u16, &'a str);

impl hashbrown::Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, (service, name): &Key) -> bool {
        self.0 == *service && *self.1 == **name
    }
}

/// All connections and sessions of the web listener.
#[derive(Debug)]
pub struct Web<P> {
    limits: Limits,
    addresses: Addresses,
    pace: Pace,
    /// How often a browser was not read because it sent too fast.
    held: u64,
    /// Sessions over HTTP that have ended, by [`CloseReason`].
    http_sessions_closed: [u64; CloseReason::ALL.len()],
    services: Vec<Service>,
    pages: Vec<Pages>,
    /// The only list of the open connections, indexed by slot.
    lines: Vec<Line<P>>,
    /// Sessions over HTTP, and their ids by key.
    sessions: Arena<Session<P>, HttpSessionKind>,
    names: HashMap<Key, HttpSessionId>,
    /// Memory of arriving request bodies, and of messages in them that wait.
    bodies: Bodies,
    /// Sessions that have not authenticated.
    unauthenticated: Unauthenticated,
    /// Timers of sessions over HTTP.
    wheel: Wheel<HttpSessionId>,
    /// Sessions that wait for room for an answer.
    room_queue: RoomQueue,
    /// Sessions over HTTP that have changed and wait to be served.
    dirty: VecDeque<HttpSessionId>,
    /// Bytes of messages given to receivers in this turn.
    given: usize,
    /// More memory can be given back.
    is_shrinking: bool,
    /// The number of WebSocket sessions, raw and SockJS.
    raw_sockets: usize,
    sockjs_sockets: usize,
    /// Set while the server stops: new clients are refused, and told to come back after this time.
    back_ms: Option<u64>,
}

impl<P> Web<P> {
    /// Creates the state for these services.
    pub fn new(services: Vec<Service>, limits: Limits, now: Now) -> Web<P> {
        Web {
            pages: services.iter().map(Pages::new).collect(),
            addresses: Addresses::new(limits.connections_per_address),
            pace: Pace::new(&limits),
            held: 0,
            http_sessions_closed: [0; CloseReason::ALL.len()],
            services,
            lines: Vec::new(),
            sessions: Arena::default(),
            names: HashMap::new(),
            bodies: Bodies::default(),
            unauthenticated: Unauthenticated::new(limits.sessions_unauthenticated),
            wheel: Wheel::new(now.mono.0),
            room_queue: RoomQueue::default(),
            dirty: VecDeque::new(),
            given: 0,
            is_shrinking: false,
            raw_sockets: 0,
            sockjs_sockets: 0,
            back_ms: None,
            limits,
        }
    }

    /// Replaces the services, of which there must be as many as before, and the limits. Requests
    /// and uploads that have begun go on as they are.
    pub fn reload(&mut self, services: Vec<Service>, limits: Limits, now: Now) {
        debug_assert_eq!(services.len(), self.services.len());
        self.pages = services.iter().map(Pages::new).collect();
        self.pace.change(&limits, now.mono);
        self.addresses.set_max(limits.connections_per_address);
        self.unauthenticated.set_max(limits.sessions_unauthenticated);
        (self.services, self.limits) = (services, limits);
    }

    /// Trusts these proxies to state the addresses of their clients.
    pub fn believing(mut self, proxies: Proxies) -> Web<P> {
        self.addresses.proxies = proxies;
        self
    }

    /// A connection was accepted from that address.
    pub fn opened(&mut self, net: &mut impl Net, conn: ConnId, from: Address) {
        net.deadline(conn, Some(net.now().mono.plus(self.limits.http_head_ms as u64)));
        if self.lines.len() <= conn.index() {
            self.lines.resize_with(conn.index() + 1, || Line::None);
        }
        let is_proxy = self.addresses.proxies.has(from);
        self.lines[conn.index()] = Line::Http(Http::new(conn, is_proxy));
        if let Err(reason) = self.arrive(net, conn, from) {
            net.close(conn, reason);
        }
    }

    /// Bytes arrived (see [`Handler::received`](crate::edge::Handler::received)).
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
                    // The first message may arrive in the same segment as the request.
                    return Ok(used + self.received(net, app, conn, &mut input[used..])?);
                }
                Ok(used)
            }
            Line::Socket(_) => Ok(self.socket_received(net, app, conn, input)),
            // The next request waits for the answer to this one. The connection is still read while
            // little input waits, to notice the end of the stream.
            Line::Receiver(..) | Line::AnswerInFlight(..) | Line::Sender(..) => {
                if input.len() >= self.limits.http_head_bytes {
                    net.pause(conn);
                }
                Ok(0)
            }
        }
    }

    /// The peer has ended its stream. A request whose messages still wait is answered at once:
    /// there is nobody left to hold back, and the messages are handled all the same.
    pub fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        self.answer_sender(net, conn);
        net.close(conn, CloseReason::PeerClosed);
    }

    /// The peer has ended its stream while it is paused. A WebSocket ends with it: messages sent
    /// too fast, or without taking their answers, are not waited for. So does a session whose
    /// receiver is gone, whatever requests follow on that connection. Other requests are answered,
    /// one whose messages wait at once, as in [`Web::ended`].
    pub fn hung_up(&mut self, net: &mut impl Net, conn: ConnId) {
        match self.lines[conn.index()] {
            Line::Socket(_) | Line::Receiver(..) => net.close(conn, CloseReason::PeerClosed),
            Line::Sender(..) => self.answer_sender(net, conn),
            Line::None | Line::Http(_) | Line::AnswerInFlight(..) => {}
        }
    }

    /// All queued output has gone to the kernel.
    pub fn drained<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
    ) {
        self.room_queue.has_gone(conn);
        match &self.lines[conn.index()] {
            Line::None => {}
            Line::Http(_) => net.resume(conn),
            Line::Receiver(id, _) => {
                let id = *id;
                self.receiver_drained(net, id);
            }
            Line::AnswerInFlight(..) => self.taken(net, conn),
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
                    // More of it has arrived meanwhile.
                    return net.deadline(conn, due);
                }
                let reason = http.time_out(net, conn);
                net.close(conn, reason);
            }
            Line::AnswerInFlight(answer, _) => answer.timed_out(net, conn, &self.limits),
            Line::Socket(_) => self.socket_timed_out(net, app, conn),
            Line::Sender(..) => self.answer_sender(net, conn),
            // No deadline on the connection: a receiver's session has a timer of its own.
            Line::None | Line::Receiver(..) => {}
        }
    }

    /// The connection is closed.
    pub fn closed<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        conn: ConnId,
    ) {
        self.room_queue.has_gone(conn);
        self.addresses.leave(conn);
        self.unauthenticated.forget_maker(conn);
        self.take_upload(conn);
        match std::mem::take(&mut self.lines[conn.index()]) {
            Line::None | Line::Http(_) => {}
            Line::Sender(id, ..) => self.forget_sender(id, conn),
            // Output on its way to it is lost, so its session ends.
            Line::Receiver(id, _) => self.destroy(net, app, id),
            Line::AnswerInFlight(answer, _) => {
                if let Some(id) = answer.id.filter(|id| self.is_taking(*id, conn)) {
                    self.destroy(net, app, id);
                }
            }
            Line::Socket(socket) => self.socket_closed(app, socket),
        }
        self.is_shrinking |= self.give_back_lines();
    }

    /// Gives back part of the memory of free entries at the end of `lines`. Returns whether more
    /// can be given back.
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

    /// When the next turn is needed at the latest.
    pub fn due(&self) -> Option<Millis> {
        let is_busy = !self.dirty.is_empty() || self.is_shrinking || self.room_queue.is_due;
        if is_busy { Some(Millis(0)) } else { self.wheel.next_at().map(Millis) }
    }

    /// Runs once a turn, before its input.
    pub fn tick<A: Application<Peer = P>>(&mut self, net: &mut impl Net, app: &mut A) {
        self.given = 0;
        self.is_shrinking = self.sessions.trim() | self.wheel.trim() | self.give_back_lines();
        self.wheel.advance(net.now().mono.0);
        for _ in 0..SESSIONS_PER_TURN {
            let Some((_, id)) = self.wheel.pop_expired() else { return };
            self.session_timed_out(net, app, id);
        }
    }

    /// Runs once a turn, after its input: answers polls and resumes sessions that waited.
    pub fn settle<A: Application<Peer = P>>(&mut self, net: &mut impl Net, app: &mut A) {
        self.resume_waiting(net, app);
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

    /// The longest message allowed on that connection ([`Application::bounds`]): by its WebSocket
    /// session, or by the session its request waits for or is answered by; otherwise the limit
    /// before `auth`.
    pub fn message_bytes<A: Application<Peer = P>>(&self, app: &A, conn: ConnId) -> usize {
        let peer = match self.lines.get(conn.index()) {
            Some(Line::Socket(socket)) => socket.peer.as_ref(),
            Some(Line::Receiver(id, _) | Line::Sender(id, ..)) => {
                self.peer(SessionId::of_http(*id))
            }
            Some(Line::AnswerInFlight(it, _)) => {
                it.id.and_then(|id| self.peer(SessionId::of_http(id)))
            }
            _ => None,
        };
        let unauthenticated = self.limits.message_unauthenticated_bytes;
        peer.map_or(unauthenticated, |peer| app.bounds(peer).message_bytes)
    }

    /// Ends a session: the browser is told why, and receives nothing more.
    pub fn dismiss<A: Application<Peer = P>>(
        &mut self,
        net: &mut impl Net,
        app: &mut A,
        id: SessionId,
        parting: Parting,
    ) {
        match id.link() {
            Link::Socket(conn, _) => self.dismiss_socket(net, app, conn, parting),
            Link::Http(id) => self.dismiss_session(net, app, id, parting),
        }
    }

    /// The application's state for a session, until it has been told of the end.
    fn peer(&self, id: SessionId) -> Option<&P> {
        match id.link() {
            Link::Socket(conn, _) => self.socket(conn)?.peer.as_ref(),
            Link::Http(id) => self.sessions.get(id)?.peer.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_of_an_idle_connection_stays_small() {
        /// As large as the switch's data about a browser.
        type Known = (u64, u64, bool);
        assert!(size_of::<Line<()>>() <= 48, "{}", size_of::<Line<()>>());
        assert!(size_of::<Line<Known>>() <= 64, "{}", size_of::<Line<Known>>());
    }

    #[test]
    fn memory_of_a_crowd_is_released_in_parts() {
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
