//! The switch: the protocol logic of the server. It owns the role of every connection, the hub and
//! the journal, and carries messages between them. It never touches a socket or a clock: a reactor
//! or a simulator calls it through [`Handler`].
//!
//! One file per role. Back ends: `control`, with `text`, `command`, `deadlines`, `replies` and
//! `unauthenticated`. Browsers: `browser` for their messages (the web door, [`Web`], owns their
//! connections and sessions), `page` for the demo page. `connections` keeps the back ends,
//! `publish_batch` gathers publications to a whole channel, `long_emit` splits an emit to many
//! channels over several turns. `publish_pressure`, `answer_pressure` and `intake` handle overload,
//! `full` a full journal, `drain` the shutdown, `refusal_tally` names the namespaces in the log
//! line about refusals. This file has what lies between the roles: the order of changes, delivery,
//! and the end of connections.

mod answer_pressure;
mod browser;
mod census;
mod command;
mod connections;
mod control;
mod deadlines;
mod drain;
mod full;
mod intake;
mod long_emit;
mod page;
mod publish_batch;
mod publish_pressure;
mod refusal_tally;
mod replies;
mod settings;
mod shared;
mod text;
mod unauthenticated;

use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};

use crate::address::Address;
use crate::edge::{ConnId, Door, Handler, Net, TurnedAway};
use crate::hub::{
    Change, ChannelId, Checked, Hub, KeyRef, NsId, Outbox, Outcome, Refusal, Route, Row, Undo,
};
use crate::journal::{Event, Journal, Mark, Ticket};
use crate::limits::Limits;
use crate::metrics::{Metrics, Refusals};
use crate::publication::Publication;
use crate::reason::CloseReason;
use crate::time::{Millis, Now, UnixMillis};
use crate::web::{SessionId, Web};
use answer_pressure::AnswerPressure;
use browser::{Browser, Site};
use connections::Connections;
use control::Controller;
use drain::Drain;
use intake::{Intake, Reserve};
use long_emit::LongEmit;
use publish_batch::PublishBatch;
use publish_pressure::PublishPressure;
use refusal_tally::RefusalTally;
use replies::WORK_BYTES;
use shared::SharedStates;
use unauthenticated::{KeyWatch, Unauthenticated};

pub use census::Census;
pub use page::Demo;
pub use settings::Settings;

/// The most states that expire in one turn: about a millisecond.
const ENDS_PER_TURN: usize = 1000;

/// What waits until the journal has ordered its change.
#[derive(Debug)]
enum Waiter {
    /// A back end's command.
    Command(ConnId),
    /// A part of a long emit, and whether it is the first part.
    LongEmit(Box<LongEmit>, bool),
}

/// How an entry relates to the command it came from.
struct Part<'a> {
    is_first: bool,
    /// The routes that the command has reached, if they are to be counted.
    reached: Option<&'a mut HashSet<Route>>,
}

/// The entry is the whole command.
const WHOLE: Part<'static> = Part { is_first: true, reached: None };

/// The connections, the hub, and the message flow between them.
#[derive(Debug)]
pub struct Switch {
    limits: Limits,
    server_key: String,
    demo: Option<Demo>,
    hub: Hub,
    journal: Box<dyn Journal>,
    /// The open connections of back ends.
    connections: Connections,
    /// Back ends that have not authenticated.
    unauthenticated: Unauthenticated,
    key_watch: KeyWatch,
    /// The sessions of all browsers.
    web: Web<Browser>,
    /// The next slot to count towards a cap per address that a reload has introduced.
    count_from: Option<usize>,
    /// What waits until the journal has ordered its change, by ticket.
    waiting: HashMap<Ticket, Waiter>,
    /// Emits to several channels that go on in the next turns, round-robin.
    long_emits: VecDeque<LongEmit>,
    /// Replies to the back end whose input is being handled; they are sent as one frame.
    reply_buffer: Vec<u8>,
    /// Controllers with replies, or a request, that wait until something is durable.
    pending_durable: Vec<ConnId>,
    /// Some of `pending_durable` had no turn yet, or the limits have changed.
    is_releasing: bool,
    /// Some of `pending_durable` may be ended: see [`Switch::dismiss_ended`].
    may_be_ended: bool,
    /// Bytes reserved for large replies that wait for the disk.
    reply_reserve: Reserve,
    /// Controllers not read until there is room, of any kind that [`Switch::next`] checks.
    waiting_for_room: Vec<ConnId>,
    /// Bytes reserved for large frames that are arriving, and the queue for them.
    intake: Intake,
    /// Publications to a whole channel, gathered from the back end whose input is being handled.
    publish_batch: PublishBatch,
    /// Set while queued publications take too much memory.
    publish_pressure: Option<PublishPressure>,
    /// Set while queued answers take too much memory.
    answer_pressure: Option<AnswerPressure>,
    /// Back ends with a request that waits for room for its answer.
    room_queue: VecDeque<ConnId>,
    /// Encoded frames of large states on their way to subscribers.
    shared: SharedStates,
    /// Peers to disconnect once the hub call in progress has returned.
    leaving: Vec<(SessionId, CloseReason)>,
    /// Browsers to disconnect because they do not take what is published to them, or do not ask for
    /// it, and how many have been in this turn.
    too_slow: VecDeque<SessionId>,
    dismissed_slow: usize,
    metrics: Metrics,
    /// Work done for the commands of this turn, in messages delivered.
    work: usize,
    /// Date at the zero of the monotonic clock. States live by that clock: setting the date moves
    /// none.
    epoch: u64,
    /// Set while the server stops and disconnects everybody.
    drain: Option<Drain>,
    /// When to log refusals next, and the counts at the last report.
    report_at: Option<Millis>,
    reported: Refusals,
    /// The namespaces whose refusals they were, since the last report.
    refusal_tally: RefusalTally,
}

impl Switch {
    /// Creates a switch over an empty hub.
    pub fn new(settings: Settings, journal: impl Journal + 'static) -> Switch {
        let hub = Hub::new(settings.limits.clone(), settings.at);
        Switch::over(hub, settings, Box::new(journal))
    }

    /// Creates a switch over a hub that holds what an earlier run recorded.
    pub fn over(hub: Hub, settings: Settings, journal: Box<dyn Journal>) -> Switch {
        let Settings { limits, server_key, demo, service, proxies, now, at } = settings;
        let epoch = at.0.saturating_sub(now.mono.0);
        Switch {
            shared: SharedStates::new(&limits),
            hub,
            web: Web::new(vec![service], limits.clone(), now).believing(proxies),
            limits,
            server_key,
            demo,
            journal,
            connections: Connections::default(),
            unauthenticated: Unauthenticated::default(),
            key_watch: KeyWatch::default(),
            count_from: None,
            waiting: HashMap::new(),
            long_emits: VecDeque::new(),
            reply_buffer: Vec::new(),
            pending_durable: Vec::new(),
            is_releasing: false,
            may_be_ended: false,
            reply_reserve: Reserve::default(),
            waiting_for_room: Vec::new(),
            intake: Intake::default(),
            publish_batch: PublishBatch::default(),
            publish_pressure: None,
            answer_pressure: None,
            room_queue: VecDeque::new(),
            leaving: Vec::new(),
            too_slow: VecDeque::new(),
            dismissed_slow: 0,
            reported: Metrics::default().refusals(),
            metrics: Metrics::default(),
            work: 0,
            epoch,
            drain: None,
            report_at: None,
            refusal_tally: RefusalTally::default(),
        }
    }

    /// Writes what is not written yet, after all connections are gone ([`Journal::close`]).
    pub fn close(&mut self, now: Now, is_urged: &mut dyn FnMut() -> bool) -> usize {
        self.journal.close(&self.hub, self.at(now), now, is_urged)
    }

    /// Returns the time on the scale of entries and states.
    pub fn at(&self, now: Now) -> UnixMillis {
        UnixMillis(self.epoch.saturating_add(now.mono.0))
    }

    /// Borrows the hub, and the outbox that it delivers to.
    fn delivery<'a, N: Net>(&'a mut self, net: &'a mut N) -> (&'a mut Hub, Delivery<'a, N>) {
        let delivery = Delivery {
            net,
            web: &mut self.web,
            publish_batch: &mut self.publish_batch,
            gathers_in: None,
            reached: None,
            leaving: &mut self.leaving,
            too_slow: &mut self.too_slow,
            journal: &mut *self.journal,
            shared: &mut self.shared,
            deliveries: &mut self.metrics.deliveries,
            work: &mut self.work,
        };
        (&mut self.hub, delivery)
    }

    /// Applies an entry and delivers its effects. With `checked` it is a command being carried out,
    /// and its publications to a whole channel may be gathered.
    fn apply(
        &mut self,
        net: &mut impl Net,
        (at, change): (UnixMillis, &Change<'_>),
        checked: Option<Checked>,
        part: Part<'_>,
    ) -> Result<Outcome, Refusal> {
        if let Some(ns) = checked.and_then(|checked| checked.unheard_in(change)) {
            self.count_publication(ns, part.is_first, 0);
            return Ok(Outcome::Reached(0));
        }
        let (published_in, before) = (change.publishes_in(), self.metrics.deliveries);
        let (hub, mut delivery) = self.delivery(net);
        delivery.gathers_in = published_in.filter(|_| checked.is_some());
        delivery.reached = part.reached;
        let outcome = hub.apply(at, change, checked, &mut delivery);
        if let (Some(ns), Ok(_)) = (published_in, &outcome) {
            self.count_publication(ns, part.is_first, self.metrics.deliveries - before);
        }
        self.dismiss_leaving(net);
        outcome
    }

    fn count_publication(&mut self, ns: NsId, is_first: bool, deliveries: u64) {
        self.metrics.publications += u64::from(is_first);
        self.hub.count_publications(ns, u64::from(is_first), deliveries);
    }

    /// Drops states that have expired.
    fn advance(&mut self, net: &mut impl Net) {
        let horizon = self.journal.horizon(self.at(net.now()));
        let (hub, mut delivery) = self.delivery(net);
        hub.advance(horizon, ENDS_PER_TURN, &mut delivery);
    }

    /// Continues disconnecting the peers that are leaving, up to the limit of one turn.
    fn reap(&mut self, net: &mut impl Net) {
        let steps = self.limits.leaves_per_turn;
        let (hub, mut delivery) = self.delivery(net);
        hub.reap(steps, &mut delivery);
        self.dismiss_leaving(net);
    }

    #[inline]
    fn dismiss_leaving(&mut self, net: &mut impl Net) {
        if !self.leaving.is_empty() {
            self.dismiss(net);
        }
        self.dismiss_slow(net);
    }

    fn dismiss(&mut self, net: &mut impl Net) {
        for (session, reason) in std::mem::take(&mut self.leaving) {
            let (web, mut site) = self.split();
            web.dismiss(net, &mut site, session, reason.into());
        }
    }

    /// Borrows the web door, and the application behind it.
    fn split(&mut self) -> (&mut Web<Browser>, Site<'_>) {
        let site = Site {
            hub: &mut self.hub,
            shared: &mut self.shared,
            refusal_tally: &mut self.refusal_tally,
            limits: &self.limits,
            demo: self.demo.as_ref(),
            is_short: self.answer_pressure.is_some(),
            epoch: self.epoch,
        };
        (&mut self.web, site)
    }

    /// Handles what the journal reports. Undoing a change counts as work: what exceeds the budget
    /// of this turn is undone in the next.
    fn hear_journal(&mut self, net: &mut impl Net) {
        while let Some(event) = self.journal.poll() {
            let is_undo = matches!(event, Event::Undo(_));
            self.handle(net, event);
            if is_undo && self.has_worked_enough() {
                return;
            }
        }
    }

    fn handle(&mut self, net: &mut impl Net, event: Event) {
        let (ticket, entry, mark) = match event {
            Event::Entry(ticket, entry, mark) => (ticket, Some(entry), mark),
            Event::Failed(ticket) => (Some(ticket), None, Mark::default()),
            Event::Undo(undo) => {
                self.work += 1;
                self.hub.keep(self.journal.durable().0);
                let (hub, mut delivery) = self.delivery(net);
                hub.undo(undo, &mut delivery);
                self.shared.clear();
                return self.dismiss_leaving(net);
            }
            Event::Lost { from, upto } => {
                self.hub.undo_finished();
                self.lose(net, from, upto);
                // A state that was restored may have expired meanwhile.
                return self.advance(net);
            }
        };
        let mut waiter = ticket.and_then(|ticket| self.waiting.remove(&ticket));
        let part = match &mut waiter {
            Some(Waiter::LongEmit(long_emit, is_first)) => {
                Part { is_first: *is_first, reached: long_emit.reached.as_mut() }
            }
            _ => WHOLE,
        };
        let result = entry.map(|entry| self.apply(net, (entry.at, &entry.change), None, part));
        match waiter {
            Some(Waiter::Command(conn)) => self.answer_late(net, conn, result, mark),
            Some(Waiter::LongEmit(long_emit, _)) => {
                self.continue_long_emit(net, *long_emit, result, mark)
            }
            None => {}
        }
    }
}

/// The outbox of one entry.
struct Delivery<'a, N> {
    net: &'a mut N,
    web: &'a mut Web<Browser>,
    /// Gathers what goes to all of a channel in the namespace `gathers_in`.
    publish_batch: &'a mut PublishBatch,
    gathers_in: Option<NsId>,
    leaving: &'a mut Vec<(SessionId, CloseReason)>,
    too_slow: &'a mut VecDeque<SessionId>,
    journal: &'a mut dyn Journal,
    shared: &'a mut SharedStates,
    deliveries: &'a mut u64,
    work: &'a mut usize,
    /// The routes reached, if they are to be counted.
    reached: Option<&'a mut HashSet<Route>>,
}

impl<N: Net> Outbox for Delivery<'_, N> {
    fn look_at(&mut self, count: usize) {
        *self.work += count;
    }

    #[inline]
    fn deliver(&mut self, route: Route, publication: &Publication<'_>) {
        *self.deliveries += 1;
        if let Some(reached) = &mut self.reached {
            reached.insert(route);
        }
        // A slow peer is disconnected, not given a thinned stream: it reconnects and gets the
        // state. Not counted: the frame being sent, answers it asked for, frames not yet offered to
        // the kernel. No message is too much by itself. One that is too slow gets nothing more.
        if self.web.publish(self.net, route, publication) {
            self.too_slow.push_back(route);
        }
    }

    fn gather(&mut self, channel: ChannelId, count: usize, name: &str, data: &str) -> bool {
        let Some(ns) = self.gathers_in else { return false };
        let is_taken = self.publish_batch.gather(ns, channel, name, data);
        *self.deliveries += if is_taken { count as u64 } else { 0 };
        is_taken
    }

    fn close(&mut self, route: Route, reason: CloseReason) {
        self.leaving.push((route, reason));
    }

    fn needs_no_undo(&mut self, key: KeyRef<'_>, bytes: usize) -> bool {
        let is_settled = self.journal.needs_no_undo(key, bytes);
        if is_settled {
            self.shared.forget(key);
        }
        is_settled
    }

    fn before_change<'a>(&mut self, key: KeyRef<'_>, row: &dyn Fn() -> Option<Row<'a>>) {
        self.journal.before_change(key, row);
    }

    fn mark(&self) -> u64 {
        self.journal.mark().0
    }

    fn after_change(&mut self, undo: Undo) {
        // A `push` that made a list of a text has parsed the text, and dropped elements may be
        // long. Expiry is no command's work, and must not keep commands from being carried out.
        *self.work += if undo.is_end() { 0 } else { undo.bytes() / WORK_BYTES };
        self.shared.forget(undo.key.as_ref());
        self.journal.after_change(undo);
    }
}

impl Handler for Switch {
    fn opened(&mut self, net: &mut impl Net, conn: ConnId, door: Door, from: Address) {
        self.metrics.opened += 1;
        match door {
            Door::Control => {
                let is_full = self.connections.controllers() >= self.limits.control_connections
                    && !self.dismiss_ended(net);
                self.connections.add_controller(conn, Controller::new(from.into()));
                self.meet(net, conn, is_full);
            }
            Door::Web => {
                self.metrics.web_opened += 1;
                self.web.opened(net, conn, from);
            }
            // The admin door has a handler of its own.
            Door::Admin => {}
        }
    }

    /// States and keys expire by date: the time for which the process stood still counts.
    fn stood_still(&mut self, ms: u64) {
        self.epoch = self.epoch.saturating_add(ms);
    }

    fn turned_away(&mut self, now: Now, why: TurnedAway) {
        self.metrics.turned_away[why as usize] += 1;
        self.report_soon(now);
    }

    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        if let Some(mut controller) = self.connections.take(conn) {
            let used = self.controller_received(net, conn, &mut controller, input);
            self.hand_out(net);
            self.connections.put_back(conn, controller);
            return used;
        }
        let (web, mut site) = self.split();
        web.received(net, &mut site, conn, input)
    }

    fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        let Some(mut controller) = self.connections.take(conn) else {
            return self.web.ended(net, conn);
        };
        controller.end();
        self.close_when_answered(net, conn, &mut controller);
        self.connections.put_back(conn, controller);
    }

    fn hung_up(&mut self, net: &mut impl Net, conn: ConnId) {
        // A back end's commands are carried out all the same.
        if !self.connections.is_controller(conn) {
            self.web.hung_up(net, conn);
        }
    }

    fn drained(&mut self, net: &mut impl Net, conn: ConnId) {
        let Some(mut controller) = self.connections.take(conn) else {
            let (web, mut site) = self.split();
            return web.drained(net, &mut site, conn);
        };
        controller.drained(net, conn);
        self.close_when_answered(net, conn, &mut controller);
        self.connections.put_back(conn, controller);
    }

    fn timed_out(&mut self, net: &mut impl Net, conn: ConnId) {
        if let Some(controller) = self.connections.controller(conn) {
            return controller.timed_out(net, conn);
        }
        let (web, mut site) = self.split();
        web.timed_out(net, &mut site, conn);
    }

    fn too_slow(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        let (web, mut site) = self.split();
        web.too_slow(net, &mut site, conn, reason);
    }

    fn closed(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        self.metrics.count_closed(reason);
        if !reason.is_ordinary() {
            self.report_soon(net.now());
        }
        if let Some(controller) = self.connections.remove_controller(conn) {
            self.unauthenticated.remove(conn);
            self.leave_lines(conn, &controller);
        } else if self.web.has(conn) {
            self.metrics.web_closed += 1;
            let (web, mut site) = self.split();
            web.closed(net, &mut site, conn);
        }
    }

    fn stopping(&mut self, net: &mut impl Net, until: Millis) {
        self.report_at = self.report_at.map(|_| net.now().mono);
        self.report(net.now());
        self.begin_drain(net.now().mono, until);
        self.drain(net);
    }

    fn is_turn_full(&self) -> bool {
        self.has_worked_enough()
    }

    fn unauthenticated(&self) -> usize {
        self.unauthenticated.len()
    }

    fn message_bytes(&mut self, conn: ConnId) -> usize {
        let (web, site) = self.split();
        web.message_bytes(&site, conn)
    }

    fn due(&self, net: &impl Net) -> Option<Millis> {
        let end = self.hub.next_end().map(|end| Millis(end.0.saturating_sub(self.epoch)));
        let has_more = self.publish_pressure.is_none() && !self.long_emits.is_empty()
            || self.count_from.is_some()
            || self.is_releasing
            || !self.too_slow.is_empty();
        let long_emit = has_more.then_some(Millis(0));
        let much = [
            self.publish_pressure_due(net),
            self.answer_pressure_due(net),
            self.intake.due(),
            long_emit,
        ];
        let parts = [self.journal.due(), self.shared.due(), self.web.due(), self.keys_due()];
        [end, self.report_at, self.drain_due()].into_iter().chain(much).chain(parts).flatten().min()
    }

    fn tick(&mut self, net: &mut impl Net) {
        (self.work, self.dismissed_slow) = (0, 0);
        self.shared.tick(net.now().mono);
        self.has_publish_pressure(net);
        self.note_shortage(net);
        self.reap(net);
        // Only up to the horizon: an entry that comes late still meets the states of its own time.
        self.advance(net);
        self.hear_journal(net);
        self.look_at_keys(net);
        self.count_in(net);
        let (web, mut site) = self.split();
        web.tick(net, &mut site);
        self.drain(net);
        self.report(net.now());
    }

    fn settle(&mut self, net: &mut impl Net) {
        self.journal.commit(&self.hub, self.at(net.now()), net.now());
        self.hear_journal(net);
        self.continue_long_emits(net);
        self.relieve_publish_pressure(net);
        self.make_room(net);
        self.release(net);
        self.take_in(net);
        let (web, mut site) = self.split();
        web.settle(net, &mut site);
        self.note_shortage(net);
        self.metrics.browsers_held = self.web.held();
        self.hub.keep(self.journal.durable().0);
    }
}
