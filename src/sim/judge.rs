//! The judge: applies every call into the switch to its own record of the world, and compares what
//! the switch did, according to the tape, with what it had to do. Panics at the first difference.
//! The world calls it after each call into the switch.
//!
//! This file has the connections and the comparison; `changes` has the effects of entries,
//! `long_emit` those of long emits, `roles` of input, `clock` of time, `deadlines` of changed
//! limits, `intake` of reading large commands, `recovery` what must be there after a crash.

mod addresses;
mod changes;
mod clock;
mod conn_model;
mod deadlines;
mod expected;
mod full;
mod intake;
mod long_emit;
mod pending_replies;
mod queues;
mod recovery;
mod renewal;
mod replica;
mod roles;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::intent::{Command, Event, Intent};
use super::record::Record;
use super::tape::Item;
use crate::address::Address;
use crate::edge::{ConnId, Door};
use crate::hub::{Change, NsId};
use crate::limits::Limits;
use crate::publication::Form;
use crate::reason::CloseReason;
use crate::time::{Millis, Now};
use addresses::{Whereabouts, prefix};
use deadlines::{Deadline, Deadlines, Half};
use expected::Expected;
use full::DiskWait;
use long_emit::LongEmit;
use queues::Queue;
use recovery::{Disk, Past};
use replica::Replica;

pub(super) use expected::{BOUNDS, Seen};
pub(super) use recovery::Found;

/// The judge's view of one connection.
#[derive(Debug)]
pub(super) struct ConnModel {
    pub role: Role,
    /// What the client has sent and the server has not executed yet: first byte, byte after the
    /// last, meaning.
    intents: VecDeque<(u64, u64, Intent)>,
    /// What must be sent next.
    expected: VecDeque<Due>,
    /// What was sent, and the client has not received yet.
    pub wire: VecDeque<Seen>,
    /// Frames that were sent, and the kernel has not taken yet.
    queue: Queue,
    /// Why it was closed. Anything sent afterwards is dropped.
    pub closing: Option<CloseReason>,
    /// The switch has been told that it is closed.
    pub is_gone: bool,
    from: Address,
    whereabouts: Whereabouts,
    /// At least one request has been answered.
    is_answered_once: bool,
    /// Bytes handed to the switch.
    delivered: u64,
    /// The first intent has arrived in part; and, if so at rest, its first byte and since when.
    half: Option<Half>,
    half_at_rest: Option<(u64, Millis)>,
}

/// What must be sent, and when.
#[derive(Debug)]
struct Due {
    what: Expected,
    /// It must not be sent before this mark is durable.
    after: u64,
    /// It must have been sent once this mark, of all that was recorded by then, is durable.
    by: u64,
}

#[derive(Debug)]
pub(super) enum Role {
    Controller(Controller),
    /// The deadline of the current request.
    Http(Deadline),
    Browser(Browser),
}

#[derive(Debug, Default)]
pub(super) struct Controller {
    /// Its address; addresses that count as one have the same text.
    place: String,
    /// The namespace, and the key that it authenticated with.
    pub auth: Option<(u32, String)>,
    waits: bool,
    /// Its last command, which waits for room for its reply.
    deferred: Option<Command>,
    /// It sends no more, or is no longer read.
    is_ended: bool,
    /// It broke a rule, for which it is to be closed.
    fault: Option<CloseReason>,
    /// Since when it has been seen paused for its unread replies.
    held_since: Option<Millis>,
    /// How long that may last at most, in milliseconds; when it was last seen being read.
    held_ms: usize,
    heard_at: Millis,
    auth_by: Deadline,
    /// Time has passed while it was paused; and by when it must then authenticate.
    was_unheard: bool,
    auth_at_last: Millis,
    /// Its number among the unauthenticated, if it is one: without an `auth`, or its key has ended.
    unauthenticated: Option<u64>,
    /// It has been authenticated before, whatever became of that.
    was_authenticated: bool,
    wrong_keys: usize,
}

#[derive(Debug)]
pub(super) struct Browser {
    /// Its number among the browsers of the run.
    number: u64,
    pub form: Form,
    /// Namespace and user, while the hub has it.
    pub who: Option<(u32, String)>,
    pub cid: Option<String>,
    pub channels: BTreeSet<String>,
    /// Channels that it lost by revocations that may still be undone: the numbers of those entries.
    held: BTreeMap<String, Vec<u64>>,
    /// It counts as unauthenticated: no `auth` yet, and not told to go.
    is_unauthenticated: bool,
    /// It is to be closed for this reason within some turns, and receives nothing until then.
    parting: Option<CloseReason>,
    /// When its token ends, in seconds since 1970.
    expires: Option<u64>,
    /// When it was first seen with a token that had ended.
    overdue_since: Option<Millis>,
    auth_by: Deadline,
    /// The deadline of the next ping, from the start or from the answer to the last one.
    ping_at: Deadline,
    /// The deadline of the answer to the outstanding ping.
    pong_by: Option<Deadline>,
    /// Something was queued in front of that ping when it was sent.
    is_pong_behind: bool,
    /// The same, or much had been taken just before.
    may_be_late: bool,
    /// Its deadline instead of one that came while it was paused: another heartbeat from then.
    held_until: Option<Millis>,
    /// When its token bucket is full again, in milliseconds, if each message was one frame, and if
    /// each had as many frames as permitted.
    spent_until: (u64, u64),
    /// When it was last read.
    heard_at: Millis,
    /// Events that wait behind more answers than it has taken, or for room.
    pending: VecDeque<Event>,
    /// The first of them waits for room for its answer.
    waits_for_room: bool,
    /// Its token has ended, and its further input is read to see if it renews the token.
    is_read_ahead: bool,
    /// When that began.
    read_ahead_at: Option<Millis>,
}

/// What was queued for a connection when a call into the switch began, and what the call sent.
#[derive(Debug, Default)]
struct Meter {
    before: usize,
    sent: Vec<usize>,
    /// The number of expected items before the call.
    start: usize,
    /// How many frames had been sent to it when a request was put off, if one was.
    put_off: Option<usize>,
    /// The memory of all queued answers before the call.
    answers: usize,
}

/// What the judge is told about a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View {
    pub delivered: u64,
    pub consumed: u64,
    pub is_paused: bool,
    pub queued: usize,
    pub taken_at: Millis,
}

/// A proposal that is not ordered yet.
#[derive(Debug)]
struct Pending {
    conn: ConnId,
    command: Command,
    space: Option<u32>,
    /// The key that the server drew for it.
    key: String,
    change: Change<'static>,
    /// The long emit that it is a part of.
    of: Option<Box<LongEmit>>,
}

#[derive(Debug)]
pub(super) struct Judge {
    pub limits: Limits,
    /// The highest `control_input_bytes` so far.
    input_max: usize,
    pub record: Record,
    replica: Replica,
    pub lines: BTreeMap<ConnId, ConnModel>,
    pub now: Now,
    /// The date at the zero of the monotonic clock, as of the start.
    epoch: u64,
    pending: BTreeMap<u64, Pending>,
    /// Emits that go on in later turns, in order.
    long_emits: VecDeque<LongEmit>,
    /// The connections reached by the last message.
    reached: BTreeSet<ConnId>,
    /// Number of the last entry.
    applied: u64,
    /// The mark that was durable at the end of the last turn.
    durable: u64,
    /// The mark of everything recorded so far.
    mark: u64,
    /// The mark of the last change of each state.
    marks: BTreeMap<(u32, String, Option<String>), u64>,
    /// Changes that may still be undone.
    past: VecDeque<Past>,
    /// The hub's id of each namespace.
    names: BTreeMap<u32, NsId>,
    deadlines: Deadlines,
    /// How often there was no room, by cause ([`super::Report::full`]).
    pub full: BTreeMap<String, u64>,
    /// How many tokens were renewed behind unread answers.
    pub renewed: u64,
    /// Since when, at the earliest, queued publications have taken too much memory; and since when
    /// the server must know of it.
    flooded_since: Option<Millis>,
    flood_known: Option<Millis>,
    /// Slow consumers whose time is up, and whose close the tape must still show.
    overdue: BTreeSet<ConnId>,
    /// Since when queued answers have taken too much memory; when they last did, from and to.
    short_since: Option<Millis>,
    short_at: Option<(Millis, Millis)>,
    /// Since when there has been room for them again.
    room_at: Option<Millis>,
    /// Closes that the tape must still show.
    closings: Vec<(ConnId, CloseReason)>,
    /// Publications to everybody in one channel of a namespace that have not been sent yet: the
    /// channel, and how many messages for each connection.
    gathered: Option<((u32, String), BTreeMap<ConnId, usize>)>,
    /// The date has been changed during the run.
    pub has_date_jumped: bool,
    /// There was no limit on connections per address before this change.
    is_cap_new: bool,
    /// How many times a controller has become unauthenticated.
    unauthenticated: u64,
    pub is_stopping: bool,
    disk: Disk,
    /// The disk hangs, so that paused connections may be waiting for it.
    pub is_disk_stuck: bool,
    pub disk_wait: DiskWait,
    /// The server is stopping, and all browsers have gone.
    is_last_call: bool,
    /// How many browsers there have been.
    browsers: u64,
    /// The meter of the current call.
    meter: Meter,
}

impl Judge {
    fn new(limits: Limits, now: Now) -> Judge {
        Judge {
            input_max: limits.control_input_bytes,
            record: Record::new(limits.clone()),
            replica: Replica::new(limits.clone(), now.unix.0),
            deadlines: Deadlines::new(limits.clone()),
            full: BTreeMap::new(),
            renewed: 0,
            limits,
            lines: BTreeMap::new(),
            now,
            epoch: now.unix.0 - now.mono.0,
            pending: BTreeMap::new(),
            long_emits: VecDeque::new(),
            reached: BTreeSet::new(),
            applied: 0,
            durable: 0,
            mark: 0,
            marks: BTreeMap::new(),
            past: VecDeque::new(),
            names: BTreeMap::new(),
            flooded_since: None,
            flood_known: None,
            short_since: None,
            short_at: None,
            room_at: None,
            overdue: BTreeSet::new(),
            closings: Vec::new(),
            gathered: None,
            has_date_jumped: false,
            is_cap_new: false,
            unauthenticated: 0,
            is_stopping: false,
            disk: Disk::default(),
            is_disk_stuck: false,
            disk_wait: DiskWait::default(),
            is_last_call: false,
            browsers: 0,
            meter: Meter::default(),
        }
    }

    /// Applies new limits.
    pub fn reload(&mut self, limits: &Limits) {
        self.is_cap_new |=
            self.limits.connections_per_address == 0 && limits.connections_per_address > 0;
        self.input_max = self.input_max.max(limits.control_input_bytes);
        self.record.set_limits(limits.clone());
        self.replica.set_limits(limits.clone());
        self.deadlines.change(self.now.mono, limits);
        self.limits = limits.clone();
        self.reload_halves();
    }

    /// Returns the time on the scale of states and keys.
    pub fn at(&self) -> u64 {
        self.epoch + self.now.mono.0
    }

    /// A client has sent the bytes `from..to` of its stream, with this meaning.
    pub fn intends(&mut self, conn: ConnId, from: u64, to: u64, intent: Intent) {
        if let Some(line) = self.lines.get_mut(&conn) {
            line.intents.push_back((from, to, intent));
        }
    }

    /// A connection was accepted, with what its client had sent by then.
    pub fn opened(
        &mut self,
        conn: ConnId,
        door: Door,
        from: Address,
        intents: Vec<(u64, u64, Intent)>,
        items: &[Item],
    ) {
        let is_controller = |line: &&ConnModel| !line.is_gone && line.door() == Door::Control;
        let controllers = self.lines.values().filter(is_controller).count();
        let role = match door {
            Door::Control => {
                let (place, heard_at) = (prefix(from), self.now.mono);
                Role::Controller(Controller { place, heard_at, ..Controller::default() })
            }
            Door::Web | Door::Admin => Role::Http(self.deadline("http_head_ms")),
        };
        let line = ConnModel {
            role,
            intents: intents.into(),
            expected: VecDeque::new(),
            wire: VecDeque::new(),
            queue: Queue::default(),
            closing: None,
            is_gone: false,
            from,
            whereabouts: Whereabouts::default(),
            is_answered_once: false,
            delivered: 0,
            half: None,
            half_at_rest: None,
        };
        self.lines.insert(conn, line);
        if door == Door::Web {
            self.came(conn, from);
        }
        if door == Door::Control {
            let is_full =
                controllers >= self.limits.control_connections && !self.is_room_made(items);
            self.note_unauthenticated(conn, is_full);
        }
    }

    /// The network has lost a connection; the switch does not know yet.
    pub fn lost(&mut self, conn: ConnId) {
        let Some(line) = self.lines.get_mut(&conn).filter(|line| line.closing.is_none()) else {
            return;
        };
        line.closing = Some(CloseReason::PeerLost);
        line.expected.clear();
    }

    /// The switch has been told that a connection is closed.
    pub fn closed(&mut self, conn: ConnId, reason: CloseReason) {
        self.leave(conn);
        let line = self.lines.get_mut(&conn).expect("what is closed was open");
        assert_eq!(line.closing, Some(reason), "{conn:?} closed for another reason");
        assert!(!std::mem::replace(&mut line.is_gone, true), "{conn:?} closed twice");
        line.intents.clear();
        line.expected.clear();
    }

    /// The switch was told to stop.
    pub fn stopping(&mut self) {
        self.is_stopping = true;
    }

    /// Compares the tape with what was expected. `pinged` may have been sent a ping.
    pub fn compare(&mut self, items: &[Item], durable: u64, pinged: Option<ConnId>) {
        let mut slow = BTreeSet::new();
        let now = self.now.mono;
        self.note_last_call();
        self.note_partings(items);
        for (at, item) in items.iter().enumerate() {
            match item {
                Item::PutOff { conn, is_waiting: false } => self.resumed(*conn, &items[at..]),
                Item::Taken { conn, bytes } => {
                    let line = self.lines.get_mut(conn).expect("only of the known is taken");
                    line.queue.take(*bytes, now, &self.limits);
                }
                Item::Blocked { conn, is_blocked } => {
                    if let Some(line) = self.lines.get_mut(conn) {
                        line.queue.block(*is_blocked, now, &self.limits);
                    }
                }
                Item::Cleared { conn } => {
                    if let Some(line) = self.lines.get_mut(conn) {
                        line.queue = Queue::default();
                    }
                }
                Item::Dropped { conn, dropped, is_all } => {
                    if *is_all {
                        self.evicted(*conn);
                    }
                    let line = self.lines.get_mut(conn).expect("the known alone are dropped");
                    line.forget_frames(dropped, *is_all);
                }
                Item::Backlog { conn, bytes, is_lost } => {
                    self.backlog_seen(*conn, *bytes, *is_lost);
                    if *is_lost {
                        slow.insert(*conn);
                    }
                }
                Item::Chosen { conn, since } => self.chosen(*conn, *since),
                Item::Sent { conn, frame, is_published } => {
                    let line = self.lines.get_mut(conn).expect("only what is known is sent to");
                    line.queue.push(frame, *is_published, now, &self.limits);
                    for seen in line.see(frame) {
                        if seen == Seen::Ping && pinged == Some(*conn) {
                            line.wire.push_back(seen);
                            continue;
                        }
                        let acknowledged = line.sent(*conn, seen, durable, *is_published);
                        self.disk.acknowledge(acknowledged);
                    }
                }
                Item::Closing { conn, reason, was_open: true } => {
                    let is_slow = slow.remove(conn) || self.overdue.remove(conn);
                    let is_cut = *reason == CloseReason::SlowConsumer;
                    assert_eq!(is_cut, is_slow, "{conn:?}: cut, or not, against its backlog");
                    self.close_seen(*conn, *reason);
                }
                _ => {}
            }
        }
        assert!(slow.is_empty(), "not cut: {slow:?}");
        self.gathered = None;
        self.note_flood();
        self.note_shortage();
        assert!(self.closings.is_empty(), "still open: {:?}", self.closings);
        for (conn, line) in &self.lines {
            let is_owed = line.door() == Door::Control && line.closing.is_none();
            let Some(due) = line.expected.front().filter(|_| !is_owed) else { continue };
            panic!("{conn:?} ({:?}) was not sent {due:?}", line.closing);
        }
    }

    /// Accepts the closes of connections that were to be let go, which may come at any time. While
    /// the server stops, that is all of them; back ends come last.
    fn note_partings(&mut self, items: &[Item]) {
        for item in items {
            let Item::Closing { conn, reason, was_open: true } = item else { continue };
            let Some(line) = self.lines.get_mut(conn) else { continue };
            let is_going = self.is_stopping && *reason == CloseReason::GoingAway;
            match &mut line.role {
                Role::Browser(browser) if browser.parting == Some(*reason) || is_going => {
                    self.dismiss(*conn, *reason);
                }
                Role::Http(_) if is_going => {
                    let is_told =
                        |item: &Item| matches!(item, Item::Sent { conn: to, .. } if to == conn);
                    if line.half.is_some() && items.iter().any(is_told) {
                        line.expect(Expected::Http(503));
                    }
                    self.close(*conn, *reason);
                }
                _ => {}
            }
        }
    }

    /// Marks a browser to be let go: it leaves the hub now, and is told and closed in its turn.
    fn part(&mut self, conn: ConnId, reason: CloseReason) {
        self.leave(conn);
        if let Some(browser) = self.browser(conn) {
            browser.parting.get_or_insert(reason);
        }
    }

    fn close_seen(&mut self, conn: ConnId, reason: CloseReason) {
        let expected = self.closings.iter().position(|closing| *closing == (conn, reason));
        if let Some(expected) = expected {
            self.closings.remove(expected);
            return;
        }
        let end = self.end_of(conn).or_else(|| self.in_the_way(conn));
        let line = self.lines.get_mut(&conn).expect("only what is known is closed");
        let is_over = line.is_answered() && line.closing.is_none() && end == Some(reason);
        assert!(is_over, "{conn:?} must not be closed for {reason}: {line:?}");
        line.closing = Some(reason);
    }

    /// The connection must be closed in this call.
    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(line) = self.lines.get_mut(&conn).filter(|line| line.closing.is_none()) else {
            return;
        };
        line.closing = Some(reason);
        self.closings.push((conn, reason));
    }

    /// A controller must be closed in this call, or once it has been sent the replies it is owed.
    fn let_go_answered(&mut self, conn: ConnId, reason: CloseReason) {
        let is_answered = self.lines.get(&conn).is_some_and(ConnModel::is_answered);
        let Some(controller) = self.controller(conn) else { return };
        let reason = *controller.fault.get_or_insert(reason);
        controller.is_ended = true;
        if is_answered {
            self.close(conn, reason);
        }
    }

    /// The connection must be told why, and closed; it leaves the hub at once.
    fn dismiss(&mut self, conn: ConnId, reason: CloseReason) {
        if let Some(browser) = self.browser(conn) {
            browser.is_unauthenticated = false;
        }
        let Some(line) = self.lines.get_mut(&conn).filter(|line| line.closing.is_none()) else {
            return;
        };
        if let (Role::Browser(browser), Some((code, text, has_frame))) =
            (&line.role, expected::farewell(reason))
        {
            let is_sockjs = browser.form == Form::SockJs && has_frame;
            if is_sockjs {
                line.expect(Expected::SockClose(code, text.into()));
                line.expect(Expected::Close(Some((1000, "Normal closure".into()))));
            } else {
                line.expect(Expected::Close(Some((code, text.into()))));
            }
        }
        self.leave(conn);
        self.close(conn, reason);
    }

    /// The connection is no longer authenticated, and in no channel.
    fn leave(&mut self, conn: ConnId) {
        if let Some(browser) = self.browser(conn) {
            browser.who = None;
            (browser.channels, browser.held) = Default::default();
        }
    }

    fn browser(&mut self, conn: ConnId) -> Option<&mut Browser> {
        match &mut self.lines.get_mut(&conn)?.role {
            Role::Browser(browser) => Some(browser),
            _ => None,
        }
    }

    fn controller(&mut self, conn: ConnId) -> Option<&mut Controller> {
        match &mut self.lines.get_mut(&conn)?.role {
            Role::Controller(controller) => Some(controller),
            _ => None,
        }
    }

    /// Iterates over the authenticated browsers: connection, namespace, user, browser.
    fn peers(&self) -> impl Iterator<Item = (ConnId, u32, &str, &Browser)> {
        self.lines.iter().filter_map(|(conn, line)| match &line.role {
            Role::Browser(browser) => {
                browser.who.as_ref().map(|(space, user)| (*conn, *space, user.as_str(), browser))
            }
            _ => None,
        })
    }
}
