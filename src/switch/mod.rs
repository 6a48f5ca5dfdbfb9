//! The switch: what a byte means. It owns the role of every connection, the hub and the journal,
//! and carries messages between them. It never touches a socket or a clock: a reactor, or a
//! simulator, calls it through [`Handler`].
//!
//! One file per role: `control` for back ends, `web` for HTTP before an upgrade, `browser` for what
//! speaks WebSocket. This file has what is between the roles: the order of changes, delivery, and
//! the end of connections.

mod browser;
mod command;
mod control;
mod fuzz;
mod shared;
mod web;

use std::collections::BTreeSet;

use hashbrown::HashMap;

use crate::codec::ws;
use crate::edge::{ConnId, Door, Handler, Net};
use crate::frame::Frame;
use crate::hub::{Change, Entry, Hub, Outbox, Outcome, PeerId, Refusal, Undo};
use crate::journal::{Event, Journal, Ticket};
use crate::limits::Limits;
use crate::metrics::{Metrics, Refusals};
use crate::publication::{Form, Publication};
use crate::reason::CloseReason;
use crate::time::{Millis, Now, UnixMillis};
use browser::Browser;
use control::Controller;
use shared::SharedStates;
use web::Http;

#[doc(hidden)]
pub use fuzz::{fuzz_browser, fuzz_commands};
pub use web::Demo;

/// Between two log lines about refusals.
const REPORT_MS: u64 = 10_000;

/// What a switch is told at the start.
#[derive(Debug)]
pub struct Settings {
    /// All limits.
    pub limits: Limits,
    /// Opens `registerNameSpace`, `removeNameSpace` and `rotateKey`.
    pub server_key: String,
    /// The page to try the server with, if it is to be served.
    pub demo: Option<Demo>,
    /// The time at the start.
    pub now: Now,
    /// The same moment on the scale of entries and states; the date, unless an earlier run had
    /// another idea of it.
    pub at: UnixMillis,
}

/// What a connection is.
#[derive(Debug, Default)]
enum Role {
    /// Nobody, or somebody who is being served right now.
    #[default]
    None,
    Controller(Box<Controller>),
    Http(Http),
    Browser(Browser),
}

/// A connection and what it is.
#[derive(Debug)]
struct Seat {
    conn: ConnId,
    role: Role,
}

/// How a peer of the hub is reached.
#[derive(Clone, Copy, Debug)]
struct Link {
    conn: ConnId,
    form: Form,
}

/// The connections, the hub, and the way between them.
#[derive(Debug)]
pub struct Switch<J> {
    limits: Limits,
    server_key: String,
    demo: Option<Demo>,
    hub: Hub,
    journal: J,
    /// By the slot of the connection.
    seats: Vec<Seat>,
    /// Connections with the role of a controller: by name, so that their number cannot drift.
    controllers: BTreeSet<ConnId>,
    /// By the slot of the peer; meaningful while the peer lives.
    links: Vec<Link>,
    /// Who waits for a place in the order.
    waiting: HashMap<Ticket, ConnId>,
    /// Controllers with replies that wait until something is durable.
    owing: Vec<ConnId>,
    /// Controllers that are not read until the journal, or the list of their replies, has room.
    crowded: Vec<ConnId>,
    /// Large states on their way to those who subscribed.
    shared: SharedStates,
    /// Peers to be let go once the hub has finished speaking.
    leaving: Vec<(ConnId, CloseReason)>,
    metrics: Metrics,
    /// Date at the zero of the monotonic clock, as it was at the start: states live by the
    /// monotonic clock, whatever happens to the date.
    epoch: u64,
    /// When to report refusals next, and those that have been reported.
    report_at: Option<Millis>,
    reported: Refusals,
}

impl<J: Journal> Switch<J> {
    /// A switch over an empty hub.
    pub fn new(settings: Settings, journal: J) -> Switch<J> {
        let hub = Hub::new(settings.limits.clone(), settings.at);
        Switch::over(hub, settings, journal)
    }

    /// A switch over a hub that holds what an earlier run has recorded.
    pub fn over(hub: Hub, settings: Settings, journal: J) -> Switch<J> {
        let Settings { limits, server_key, demo, now, at } = settings;
        let epoch = at.0.saturating_sub(now.mono.0);
        Switch {
            // Below that, what is queued for a connection anyway is the bound.
            shared: SharedStates::new(limits.answers_pause_bytes / 64),
            hub,
            limits,
            server_key,
            demo,
            journal,
            seats: Vec::new(),
            controllers: BTreeSet::new(),
            links: Vec::new(),
            waiting: HashMap::new(),
            owing: Vec::new(),
            crowded: Vec::new(),
            leaving: Vec::new(),
            reported: Metrics::default().refusals(),
            metrics: Metrics::default(),
            epoch,
            report_at: None,
        }
    }

    /// What happened so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The hub, to look into.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Makes a namespace with a key that the configuration gives it, before the doors open; or
    /// gives it to the one that is there. Its key is not recorded: the configuration is the record
    /// of that. `false` if there is no room for it.
    pub fn declare(&mut self, name: &str, key: &str) -> bool {
        struct Recorded<'a, J>(&'a mut J);
        impl<J: Journal> Outbox for Recorded<'_, J> {
            fn deliver(&mut self, _: PeerId, _: &Publication<'_>) {}
            fn close(&mut self, _: PeerId, _: CloseReason) {}
            fn changed(&mut self, undo: Undo) {
                self.0.changed(undo);
            }
        }
        self.hub.declare(name, key, &mut Recorded(&mut self.journal))
    }

    /// All are gone: what is not written yet is written now.
    pub fn close(&mut self, now: Now) {
        self.journal.close(&self.hub, self.at(now), now);
    }

    /// The time on the scale of entries and states.
    fn at(&self, now: Now) -> UnixMillis {
        UnixMillis(self.epoch.saturating_add(now.mono.0))
    }

    /// The role of a connection that the reactor knows.
    fn role(&mut self, conn: ConnId) -> &mut Role {
        let seat = &mut self.seats[conn.index()];
        debug_assert_eq!(seat.conn, conn);
        &mut seat.role
    }

    /// The hub, and the outbox that it speaks to.
    fn delivery<'a, N: Net>(&'a mut self, net: &'a mut N) -> (&'a mut Hub, Delivery<'a, N, J>) {
        let delivery = Delivery {
            net,
            links: &self.links,
            leaving: &mut self.leaving,
            journal: &mut self.journal,
            shared: &mut self.shared,
            backlog_max: self.limits.backlog_bytes,
            deliveries: &mut self.metrics.deliveries,
        };
        (&mut self.hub, delivery)
    }

    /// Applies an entry and lets its effects out.
    fn apply(&mut self, net: &mut impl Net, entry: Entry) -> Result<Outcome, Refusal> {
        self.metrics.publications += u64::from(matches!(entry.change, Change::Emit { .. }));
        let (hub, mut delivery) = self.delivery(net);
        let outcome = hub.apply(entry, &mut delivery);
        self.dismiss_leaving(net);
        outcome
    }

    /// States whose time has come are no longer kept.
    fn advance(&mut self, net: &mut impl Net) {
        let horizon = self.journal.horizon(self.at(net.now()));
        let (hub, mut delivery) = self.delivery(net);
        hub.advance(horizon, &mut delivery);
    }

    fn dismiss_leaving(&mut self, net: &mut impl Net) {
        for (conn, reason) in std::mem::take(&mut self.leaving) {
            self.dismiss(net, conn, reason);
        }
    }

    /// Lets a browser go: it is told why, and hears nothing more.
    fn dismiss(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        if let Role::Browser(browser) = self.role(conn) {
            let (form, peer) = (browser.form, browser.peer.take());
            farewell(net, conn, form, reason);
            if let Some(peer) = peer {
                self.hub.disconnect(peer);
            }
        }
        net.close(conn, reason);
    }

    fn handle(&mut self, net: &mut impl Net, event: Event) {
        let (ticket, result) = match event {
            Event::Entry(ticket, entry) => (ticket, Some(self.apply(net, entry))),
            Event::Failed(ticket) => (Some(ticket), None),
            Event::Undo(undo) => {
                let (hub, mut delivery) = self.delivery(net);
                hub.undo(undo, &mut delivery);
                self.shared.clear();
                return self.dismiss_leaving(net);
            }
            Event::Lost { from, upto } => {
                self.lose(net, from, upto);
                // What came back may have ended meanwhile.
                return self.advance(net);
            }
        };
        let Some(conn) = ticket.and_then(|ticket| self.waiting.remove(&ticket)) else { return };
        self.answer_late(net, conn, result);
    }

    fn report_soon(&mut self, now: Now) {
        self.report_at.get_or_insert(now.mono.plus(REPORT_MS));
    }

    /// Every ten seconds at most, one line about what was turned away and why.
    fn report(&mut self, now: Now) {
        let Some(at) = self.report_at else { return };
        if now.mono < at {
            return;
        }
        self.report_at = None;
        let refusals = self.metrics.refusals_since(&self.reported);
        self.reported = self.metrics.refusals();
        if !refusals.is_empty() {
            crate::log::warning(now.unix, format_args!("refused: {refusals}"));
        }
    }

    /// Checks all that must hold; for tests.
    ///
    /// # Panics
    /// If anything does not hold.
    pub fn check_invariants(&self) {
        self.hub.check_invariants();
        let peers = self.seats.iter().filter(|seat| {
            matches!(&seat.role, Role::Browser(browser)
                if browser.peer.is_some_and(|peer| self.hub.identity(peer).is_some()))
        });
        assert_eq!(peers.count(), self.hub.sizes()[3], "a peer without a connection");
        let is_controller = |seat: &&Seat| matches!(seat.role, Role::Controller(_));
        let controllers = self.seats.iter().filter(is_controller).map(|seat| seat.conn);
        let controllers: BTreeSet<ConnId> = controllers.collect();
        assert_eq!(controllers, self.controllers, "a controller that is none, or is not known");
        for conn in &self.crowded {
            let seat = &self.seats[conn.index()];
            assert!(seat.conn != *conn || matches!(seat.role, Role::Controller(_) | Role::None));
        }
        for (ticket, conn) in &self.waiting {
            let role = self.seats.get(conn.index()).map(|seat| &seat.role);
            assert!(matches!(role, Some(Role::Controller(c)) if c.waits == Some(*ticket)));
        }
    }
}

/// Tells a browser why it is let go (protocol parts 6 and 7): on SockJS in a `c[…]` frame, followed
/// by an ordinary close, otherwise in the close frame itself.
fn farewell(net: &mut impl Net, conn: ConnId, form: Form, reason: CloseReason) {
    let Some((code, text)) = reason.told() else { return };
    use CloseReason::{BrokenFraming, WsProtocol, WsTooLarge, WsUtf8};
    if matches!(reason, WsProtocol | WsUtf8 | WsTooLarge) {
        // Told where the error was found, in words of its own.
        return;
    }
    let is_transport = reason == BrokenFraming;
    match form {
        Form::SockJs if !is_transport => {
            let last = crate::codec::sockjs::close_text(code, text);
            net.send(conn, ws::text_frame(last.as_bytes()));
            net.send(conn, ws::close_frame(1000, "Normal closure"));
        }
        _ => net.send(conn, ws::close_frame(code, text)),
    }
}

/// The outbox of one entry.
struct Delivery<'a, N, J> {
    net: &'a mut N,
    links: &'a [Link],
    leaving: &'a mut Vec<(ConnId, CloseReason)>,
    journal: &'a mut J,
    shared: &'a mut SharedStates,
    backlog_max: usize,
    deliveries: &'a mut u64,
}

impl<N: Net, J: Journal> Outbox for Delivery<'_, N, J> {
    fn deliver(&mut self, peer: PeerId, publication: &Publication<'_>) {
        let Link { conn, form } = self.links[peer.index()];
        *self.deliveries += 1;
        // A slow peer is cut, not thinned: it comes back and gets the state. Neither what is being
        // sent counts against it, however large it is, nor what it asked for itself, nor what has
        // not yet been offered to it. Behind what was too much, the net takes nothing more.
        if self.net.publish(conn, Frame::clone(publication.frame(form))) > self.backlog_max {
            self.leaving.push((conn, CloseReason::SlowConsumer));
        }
    }

    fn close(&mut self, peer: PeerId, reason: CloseReason) {
        self.leaving.push((self.links[peer.index()].conn, reason));
    }

    fn changed(&mut self, undo: Undo) {
        self.shared.forget(&undo.key);
        self.journal.changed(undo);
    }
}

impl<J: Journal> Handler for Switch<J> {
    fn opened(&mut self, net: &mut impl Net, conn: ConnId, door: Door) {
        self.metrics.opened += 1;
        let role = match door {
            Door::Control => {
                if self.controllers.len() >= self.limits.control_connections {
                    net.close(conn, CloseReason::Full);
                }
                self.controllers.insert(conn);
                Role::Controller(Box::default())
            }
            Door::Web => {
                net.deadline(conn, Some(net.now().mono.plus(self.limits.http_head_ms as u64)));
                Role::Http(Http::default())
            }
        };
        let vacant = || Seat { conn, role: Role::None };
        if self.seats.len() <= conn.index() {
            self.seats.resize_with(conn.index() + 1, vacant);
        }
        self.seats[conn.index()] = Seat { conn, role };
    }

    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        match std::mem::take(self.role(conn)) {
            Role::None => Ok(input.len()),
            Role::Controller(mut controller) => {
                let used = self.controller_received(net, conn, &mut controller, input);
                *self.role(conn) = Role::Controller(controller);
                used
            }
            Role::Http(http) => {
                let (role, used) = self.http_received(net, conn, http, input)?;
                let is_upgraded = matches!(role, Role::Browser(_));
                *self.role(conn) = role;
                if is_upgraded && used < input.len() {
                    // The first message may ride in the same segment as the request.
                    return Ok(used + self.received(net, conn, &mut input[used..])?);
                }
                Ok(used)
            }
            Role::Browser(mut browser) => {
                let used = self.browser_received(net, conn, &mut browser, input);
                *self.role(conn) = Role::Browser(browser);
                match used {
                    Err(reason) => {
                        self.dismiss(net, conn, reason);
                        Ok(input.len())
                    }
                    used => used,
                }
            }
        }
    }

    fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        match std::mem::take(self.role(conn)) {
            Role::Controller(mut controller) => {
                controller.is_ended = true;
                self.close_when_answered(net, conn, &mut controller);
                *self.role(conn) = Role::Controller(controller);
            }
            role => {
                *self.role(conn) = role;
                net.close(conn, CloseReason::PeerClosed);
            }
        }
    }

    fn drained(&mut self, net: &mut impl Net, conn: ConnId) {
        match std::mem::take(self.role(conn)) {
            Role::Controller(mut controller) => {
                controller.drained(net, conn);
                self.close_when_answered(net, conn, &mut controller);
                *self.role(conn) = Role::Controller(controller);
            }
            Role::Browser(mut browser) => {
                let result = self.browser_drained(net, conn, &mut browser);
                *self.role(conn) = Role::Browser(browser);
                if let Err(reason) = result {
                    self.dismiss(net, conn, reason);
                }
            }
            role => {
                *self.role(conn) = role;
                net.resume(conn);
            }
        }
    }

    fn timed_out(&mut self, net: &mut impl Net, conn: ConnId) {
        match std::mem::take(self.role(conn)) {
            Role::Browser(mut browser) => {
                let over = self.browser_timed_out(net, conn, &mut browser);
                *self.role(conn) = Role::Browser(browser);
                if let Some(reason) = over {
                    self.dismiss(net, conn, reason);
                }
            }
            Role::Controller(mut controller) => {
                controller.timed_out(net, conn);
                *self.role(conn) = Role::Controller(controller);
            }
            role => {
                let reason = match &role {
                    Role::Http(http) => {
                        web::send_timeout(net, conn, http);
                        CloseReason::HalfRequest
                    }
                    _ => CloseReason::HalfRequest,
                };
                *self.role(conn) = role;
                net.close(conn, reason);
            }
        }
    }

    fn closed(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        self.metrics.count_closed(reason);
        if !reason.is_ordinary() {
            self.report_soon(net.now());
        }
        match std::mem::take(self.role(conn)) {
            Role::Controller(controller) => {
                self.controllers.remove(&conn);
                if let Some(ticket) = controller.waits {
                    self.waiting.remove(&ticket);
                }
            }
            Role::Browser(browser) => {
                if let Some(peer) = browser.peer {
                    self.hub.disconnect(peer);
                }
            }
            Role::Http(_) | Role::None => {}
        }
    }

    fn stopping(&mut self, net: &mut impl Net) {
        self.report_at = self.report_at.map(|_| net.now().mono);
        self.report(net.now());
        for slot in 0..self.seats.len() {
            let conn = self.seats[slot].conn;
            match std::mem::take(&mut self.seats[slot].role) {
                Role::None => {}
                Role::Controller(mut controller) => {
                    // What has been carried out is answered first; what has not is not begun.
                    controller.is_ended = true;
                    self.close_when_answered(net, conn, &mut controller);
                    *self.role(conn) = Role::Controller(controller);
                }
                role => {
                    *self.role(conn) = role;
                    self.dismiss(net, conn, CloseReason::GoingAway);
                }
            }
        }
    }

    fn due(&self) -> Option<Millis> {
        let end = self.hub.next_end().map(|end| Millis(end.0.saturating_sub(self.epoch)));
        [end, self.report_at, self.journal.due(), self.shared.due()].into_iter().flatten().min()
    }

    fn tick(&mut self, net: &mut impl Net) {
        let now = net.now();
        self.shared.tick(now.mono);
        // An entry meets the states of its own moment, even if it comes late.
        self.advance(net);
        while let Some(event) = self.journal.poll() {
            self.handle(net, event);
        }
        self.report(now);
    }

    fn settle(&mut self, net: &mut impl Net) {
        let now = net.now();
        self.journal.commit(&self.hub, self.at(now), now);
        while let Some(event) = self.journal.poll() {
            self.handle(net, event);
        }
        self.release(net);
    }
}
