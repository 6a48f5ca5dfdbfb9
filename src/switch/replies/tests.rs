//! Back ends on a slow disk: which replies and commands wait, for what, and for how long.

mod endings;
mod full;
mod places;

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::super::Settings;
use super::*;
use crate::address::Address;
use crate::edge::{Door, Handler};
use crate::frame::QueueMemory;
use crate::hub::{Change, Entry, Hub, Key, KeyRef, Undo};
use crate::journal::{Event, Journal, Proposal, Ticket};
use crate::limits::Limits;
use crate::time::{Millis, Now, UnixMillis};

const KEY: &str = "11111111-1111-4111-8111-111111111111";
const AUTH: &str =
    r#"{"action":"auth","name":"site","sKey":"11111111-1111-4111-8111-111111111111"}"#;

/// A journal whose disk writes nothing until a test tells it to, through a clone.
#[derive(Clone, Debug, Default)]
struct Slow(Rc<RefCell<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    mark: u64,
    durable: u64,
    /// The mark of the last change of each row.
    rows: Vec<(Key, u64)>,
    is_full: bool,
    /// Removals of namespaces that are not durable yet, and those that are.
    removals: VecDeque<Change<'static>>,
    ordered: VecDeque<Event>,
}

impl Slow {
    fn disk(&self) -> RefMut<'_, Disk> {
        self.0.borrow_mut()
    }
}

impl Journal for Slow {
    fn propose(&mut self, _: UnixMillis, change: &Change<'_>) -> Proposal {
        if matches!(change, Change::Remove { .. }) {
            self.disk().removals.push_back(change.clone().into_owned());
            return Proposal::Later(Ticket(1));
        }
        Proposal::Now
    }
    fn after_change(&mut self, undo: Undo) {
        let Disk { mark, rows, .. } = &mut *self.disk();
        *mark += 1;
        rows.retain(|(key, _)| *key != undo.key);
        rows.push((undo.key, *mark));
    }
    fn commit(&mut self, _: &Hub, _: UnixMillis, _: Now) {}
    fn poll(&mut self) -> Option<Event> {
        self.disk().ordered.pop_front()
    }
    fn mark(&self) -> Mark {
        Mark(self.disk().mark)
    }
    fn mark_of(&self, key: KeyRef<'_>) -> Mark {
        let disk = self.disk();
        let row = disk.rows.iter().find(|(other, _)| other.as_ref() == key);
        Mark(row.map_or(0, |(_, mark)| *mark))
    }
    fn durable(&self) -> Mark {
        Mark(self.disk().durable)
    }
    fn has_room(&self) -> bool {
        !self.disk().is_full
    }
}

/// A network of back ends.
#[derive(Default)]
pub(in crate::switch) struct Wire {
    pub now: u64,
    /// The date at the zero of `now`.
    pub date: u64,
    /// Bytes that each has been sent and has not taken.
    pub sent: BTreeMap<ConnId, Vec<u8>>,
    /// Bytes sent and not taken.
    answers: usize,
    /// Memory taken by queued publications.
    published: usize,
    /// Connections for which [`Net::queued`] tells what they have not taken.
    slow: Vec<ConnId>,
    pub deadlines: BTreeMap<ConnId, Option<Millis>>,
    paused: Vec<ConnId>,
    pub closed: Vec<(ConnId, CloseReason)>,
}

impl Wire {
    /// What a connection has been sent.
    pub fn text(&self, conn: ConnId) -> String {
        String::from_utf8_lossy(self.sent.get(&conn).map_or(&[], Vec::as_slice)).into_owned()
    }
}

impl Net for Wire {
    fn now(&self) -> Now {
        Now { mono: Millis(self.now), unix: UnixMillis(self.date + self.now) }
    }
    fn random(&mut self, _: &mut [u8]) {}
    fn send(&mut self, conn: ConnId, frame: Frame) {
        self.answers += frame.len();
        self.sent.entry(conn).or_default().extend_from_slice(&frame);
    }
    fn publish(&mut self, _: ConnId, _: Frame) -> bool {
        false
    }
    fn queue_memory(&self) -> QueueMemory {
        QueueMemory { bytes: self.published, answers: self.answers, ..QueueMemory::default() }
    }
    fn queued(&self, conn: ConnId) -> usize {
        let is_slow = self.slow.contains(&conn);
        self.sent.get(&conn).filter(|_| is_slow).map_or(0, Vec::len)
    }
    fn taken(&self, _: ConnId) -> u32 {
        0
    }
    fn close(&mut self, conn: ConnId, reason: CloseReason) {
        if self.closed.iter().all(|(other, _)| *other != conn) {
            self.closed.push((conn, reason));
        }
    }
    fn deadline(&mut self, conn: ConnId, at: Option<Millis>) {
        self.deadlines.insert(conn, at);
    }
    fn pause(&mut self, conn: ConnId) {
        self.resume(conn);
        self.paused.push(conn);
    }
    fn resume(&mut self, conn: ConnId) {
        self.paused.retain(|other| *other != conn);
    }
}

/// A switch, its network, and the input of back ends that the switch has not read.
struct World {
    switch: Switch,
    journal: Slow,
    net: Wire,
    input: BTreeMap<ConnId, Vec<u8>>,
}

impl World {
    fn new(limits: Limits) -> World {
        let net = Wire::default();
        let now = net.now();
        let settings = Settings::new(limits, "server", now);
        let journal = Slow::default();
        let mut switch = Switch::new(settings, journal.clone());
        switch.declare("site", KEY).unwrap();
        let mut world = World { switch, journal, net, input: BTreeMap::new() };
        world.sync();
        world
    }

    /// Connects a back end that sends these commands.
    fn connect(&mut self, slot: u32, commands: &[&str]) -> ConnId {
        let conn = ConnId::new(slot, 0);
        self.switch.opened(&mut self.net, conn, Door::Control, Address::Unix);
        self.send(conn, commands);
        conn
    }

    fn send(&mut self, conn: ConnId, commands: &[&str]) {
        let input = self.input.entry(conn).or_default();
        commands.iter().for_each(|body| control::encode_into(input, body.as_bytes()));
        self.turn();
    }

    /// Sends the first 20,000 bytes of a command of `bytes`.
    fn send_start(&mut self, conn: ConnId, bytes: usize) {
        let mut frame = Vec::new();
        control::encode_into(&mut frame, &vec![b' '; bytes]);
        self.input.entry(conn).or_default().extend_from_slice(&frame[..20_000]);
        self.turn();
    }

    /// The back end half-closes its connection, and all its input has been read.
    fn half_close(&mut self, conn: ConnId) {
        self.switch.ended(&mut self.net, conn);
        self.turn();
    }

    fn turn(&mut self) {
        self.switch.tick(&mut self.net);
        for (conn, input) in &mut self.input {
            if !input.is_empty() && !self.net.paused.contains(conn) {
                let used = self.switch.received(&mut self.net, *conn, input).unwrap();
                input.drain(..used);
            }
        }
        self.switch.settle(&mut self.net);
        for (conn, reason) in self.net.closed.clone() {
            if self.switch.connections.is_controller(conn) {
                self.switch.closed(&mut self.net, conn, reason);
                self.input.remove(&conn);
            }
        }
        self.switch.check_invariants();
    }

    /// Makes all changes recorded by now durable.
    fn sync(&mut self) {
        let mark = self.journal.mark().0;
        self.journal.disk().durable = mark;
        self.turn();
    }

    /// Runs turns until the switch needs none; returns how many.
    fn run_until_idle(&mut self) -> usize {
        let is_due = |world: &World| world.switch.due(&world.net).is_some_and(|at| at.0 == 0);
        let mut turns = 0;
        while is_due(self) {
            self.turn();
            turns += 1;
            assert!(turns < 1000, "it never becomes idle");
        }
        turns
    }

    /// Returns the replies that a back end has received since the last call.
    fn take_replies(&mut self, conn: ConnId) -> Vec<String> {
        let bytes = self.net.sent.remove(&conn).unwrap_or_default();
        self.net.answers -= bytes.len();
        let (mut decoder, mut at, mut bodies) = (control::Decoder::new(), 0, Vec::new());
        while at < bytes.len() {
            let decoded = decoder.next(&bytes[at..], bytes.len()).unwrap();
            at += decoded.consumed;
            bodies.push(String::from_utf8(decoded.body.unwrap().to_vec()).unwrap());
        }
        bodies
    }

    fn owed(&self, conn: ConnId) -> usize {
        self.switch
            .connections
            .look_at(conn)
            .map_or(0, |it| it.replies.iter().map(|(_, owed)| owed.body().len()).sum())
    }
}

fn set(channel: &str, bytes: usize) -> String {
    let data = "x".repeat(bytes);
    format!("{{\"action\":\"set\",\"channel\":\"{channel}\",\"data\":\"{data}\"}}")
}

fn get(channel: &str) -> String {
    format!("{{\"action\":\"get\",\"channel\":\"{channel}\"}}")
}

const OK: &str = "{\"success\":true}";
const PING: &str = r#"{"action":"ping"}"#;
const REGISTER: &str = r#"{"action":"registerNameSpace","name":"new","key":"server"}"#;
const AUTH_KEY: &str = "22222222-2222-4222-8222-222222222222";
const LARGE: usize = 100_000;
const LESS: usize = 90_000;

#[test]
fn lost_changes_and_store_failures_get_the_same_refusal() {
    assert_eq!(refusal(&command::STORE_FAILED), LOST);
}

#[test]
fn a_refusal_that_depended_on_a_lost_change_is_counted_once() {
    let mut world = World::new(Limits::default());
    let push = r#"{"action":"push","channel":"it","data":1}"#;
    let conn = world.connect(0, &[AUTH, &set("it", 9), push]);
    let (from, upto) = (world.journal.durable(), world.journal.mark());
    world.switch.lose(&mut world.net, from, upto);
    world.sync();
    let lost = String::from_utf8(LOST.into()).unwrap();
    assert_eq!(world.take_replies(conn), [OK, &lost, &lost]);
    let metrics = world.switch.metrics();
    let counts: Vec<_> = metrics.refused.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!((counts, metrics.store_failures), (vec![&(302, 1), &(314, 1)], 1));
}

#[test]
fn a_state_that_looks_like_a_refusal_is_not_counted_as_one() {
    let mut world = World::new(Limits::default());
    let state = r#"{"success":false,"reason":1}"#;
    let set = format!(r#"{{"action":"set","channel":"it","data":{state}}}"#);
    world.connect(0, &[AUTH, &set, &get("it")]);
    let (from, upto) = (world.journal.durable(), world.journal.mark());
    world.switch.lose(&mut world.net, from, upto);
    assert_eq!(world.switch.metrics().store_failures, 2);
}

#[test]
fn a_state_too_large_in_any_transport_encoding_is_refused() {
    let limits = Limits { state_bytes: 1000, publication_bytes: 3000, ..Limits::default() };
    let mut world = World::new(limits);
    // A `<` takes one byte in a queue, and six in the script that `jsonp` sends.
    let command = |action: &str, marks: usize| {
        let data = "<".repeat(marks);
        format!(r#"{{"action":"{action}","channel":"it","data":"{data}"}}"#)
    };
    let reason = "Too much data as browsers take it, at most 3000 bytes in all forms";
    let refused = format!(r#"{{"success":false,"reason":"{reason}","code":300}}"#);
    let pushed = r#"{"action":"push","channel":"list","data":"<<<<<<<<<<<<<<<<<<<<"}"#.to_owned();
    let (long, short) = (command("set", 430), command("set", 420));
    let conn = world.connect(0, &[AUTH, &long, &short, &set("plain", 900)]);
    let lists: Vec<&str> = vec![&pushed; 20];
    world.send(conn, &lists);
    world.sync();
    let replies = world.take_replies(conn);
    assert_eq!(replies[..4], [OK, &refused, OK, OK]);
    let fits = replies[4..].iter().filter(|reply| reply.contains("true")).count();
    assert!((17..20).contains(&fits), "{fits} of twenty pushes fit; each adds about 150 bytes");
    assert!(replies[4 + fits..].iter().all(|reply| *reply == refused));
}

#[test]
fn large_answers_are_built_only_when_they_may_be_sent() {
    let mut world = World::new(Limits { answers_bytes: 8 * LARGE, ..Limits::default() });
    let first = world.connect(0, &[AUTH, &set("big", LARGE - 2)]);
    world.sync();
    assert_eq!(world.take_replies(first), [OK, OK]);
    let conns: Vec<ConnId> = (1..=20)
        .map(|slot| world.connect(slot, &[AUTH, &set("k", 1), &get("big"), PING]))
        .collect();
    for conn in &conns {
        assert_eq!(world.take_replies(*conn), [OK], "the other replies wait for the disk");
    }
    // One large answer and all short ones wait for the disk; requests for the other large ones wait
    // for room.
    let owed: usize = conns.iter().map(|conn| world.owed(*conn)).sum();
    assert_eq!(owed, LARGE + conns.len() * OK.len() + OK.len());
    assert_eq!(world.switch.census().pending_reply_bytes, owed);
    assert_eq!(world.run_until_idle(), 0, "it waits for the disk only");
    world.sync();
    let mut got = vec![Vec::new(); conns.len()];
    for _ in 0..100 {
        world.run_until_idle();
        assert!(world.net.answers <= 10 * LARGE, "{} bytes wait", world.net.answers);
        // They read their answers one by one.
        let next = (0..conns.len()).find(|i| world.net.sent.contains_key(&conns[*i]));
        let Some(next) = next else { break };
        got[next].extend(world.take_replies(conns[next]));
        world.turn();
    }
    for replies in got {
        let lengths: Vec<usize> = replies.iter().map(String::len).collect();
        assert_eq!(lengths, [OK.len(), LARGE, OK.len()]);
    }
    assert_eq!((world.switch.pending_durable.len(), world.switch.reply_reserve.reserved()), (0, 0));
}

#[test]
fn connections_owed_little_are_answered_while_others_use_all_the_room() {
    let mut world = World::new(Limits { answers_bytes: 8 * LARGE, ..Limits::default() });
    world.switch.declare("other", AUTH_KEY).unwrap();
    let other_auth = AUTH.replace("site", "other").replace(KEY, AUTH_KEY);
    let others: Vec<ConnId> =
        (100..105).map(|slot| world.connect(slot, &[&other_auth, &set("big", LESS - 2)])).collect();
    let mut site = vec![world.connect(0, &[AUTH, &set("big", LARGE - 2)])];
    world.sync();
    others.iter().chain(&site).for_each(|conn| assert_eq!(world.take_replies(*conn), [OK, OK]));
    world.net.slow.extend((1..20).map(|slot| ConnId::new(slot, 0)));
    site.extend((1..20).map(|slot| world.connect(slot, &[AUTH, &get("big")])));
    let has = |world: &World, conn: &ConnId| {
        world.net.sent.get(conn).is_some_and(|bytes| bytes.len() > LESS)
    };
    let answered = |world: &World, all: &[ConnId]| all.iter().filter(|it| has(world, it)).count();
    // One more than there is room for, as always; a quarter of the room is for other namespaces.
    assert_eq!(answered(&world, &site), 8);
    world.net.slow.extend(&others);
    world.send(others[0], &[&get("big")]);
    assert_eq!(answered(&world, &others), 1, "it is owed nothing, so it does not wait");
    for other in &others[1..] {
        world.send(*other, &[&get("big")]);
    }
    // Half of that quarter is left for other namespaces.
    assert_eq!(answered(&world, &others), 1);
    assert!(world.net.answers <= 8 * LARGE + 8 * LARGE / 4 + LARGE);
    // As each reads its answer, the next of them is answered before the rest of `site`.
    for (at, other) in others.iter().enumerate() {
        assert_eq!(answered(&world, &others), 1, "{at}");
        assert_eq!(world.take_replies(*other).pop().map(|reply| reply.len()), Some(LESS));
        world.net.now += 100;
        world.turn();
    }
    assert_eq!(answered(&world, &site), 8, "the rest of `site` still waits");
}

#[test]
fn a_state_that_changes_constantly_can_still_be_read() {
    let mut world = World::new(Limits { answers_bytes: LARGE, ..Limits::default() });
    let writer = world.connect(0, &[AUTH, &set("hot", LARGE)]);
    // There is room for one such answer at a time to wait for the disk.
    let readers: Vec<ConnId> =
        (1..=3).map(|slot| world.connect(slot, &[AUTH, &get("hot")])).collect();
    let mut got = vec![Vec::new(); readers.len()];
    for _ in 0..readers.len() {
        // By the time one change is durable, the next has been made.
        let before = world.journal.disk().mark;
        world.send(writer, &[&set("hot", LARGE)]);
        world.journal.disk().durable = before;
        world.turn();
        for (got, reader) in got.iter_mut().zip(&readers) {
            got.extend(world.take_replies(*reader).iter().map(String::len));
        }
    }
    assert_eq!(got, vec![vec![OK.len(), LARGE + 2]; readers.len()]);
}

#[test]
fn many_replies_are_sent_over_several_turns() {
    let limits = Limits { deliveries_per_turn: 10, ..Limits::default() };
    let mut world = World::new(limits);
    let conns: Vec<ConnId> =
        (0..30).map(|slot| world.connect(slot, &[AUTH, &set("k", 1), &set("k", 2)])).collect();
    conns.iter().for_each(|conn| assert_eq!(world.take_replies(*conn), [OK]));
    assert_eq!(world.run_until_idle(), 0, "no reply is sent before the disk is done");
    world.sync();
    let answered = world.net.sent.len();
    assert_eq!((answered, world.run_until_idle()), (10, 2));
    conns.iter().for_each(|conn| assert_eq!(world.take_replies(*conn), [OK, OK]));
}

#[test]
fn a_refused_auth_does_not_wait_for_the_disk() {
    let mut world = World::new(Limits::default());
    world.connect(0, &[AUTH, &set("k", 1)]);
    let [unknown, wrong] = ["no-such", "site"]
        .map(|name| format!("{{\"action\":\"auth\",\"name\":\"{name}\",\"sKey\":\"{AUTH_KEY}\"}}"));
    let conn = world.connect(1, &[&unknown, &wrong]);
    let codes = world.take_replies(conn);
    assert!(
        codes[0].ends_with("\"code\":404}") && codes[1].ends_with("\"code\":305}"),
        "{codes:?}"
    );
    world.half_close(conn);
    assert_eq!(world.net.closed, [(conn, CloseReason::PeerClosed)]);
    assert_eq!(world.switch.pending_durable.len(), 1);
}

#[test]
fn presence_answers_are_bounded() {
    let name = "\u{1}".repeat(1000);
    let cid = crate::uuid::Uuid::from_random([7; 16]);
    let presence = Presence { users: 1, connections: vec![(cid, &name); 20] };
    let whole = info(&presence, 200_000).unwrap();
    assert!(whole.len() > 120_000 && info(&presence, whole.len()).is_ok());
    let refused = info(&presence, 100_000).unwrap_err();
    assert_eq!(refused.code, 313);
    assert_eq!(refused.reason, "Answer is too large, at most 100000 bytes");
}

#[test]
fn an_expired_key_gives_up_the_room_reserved_for_a_reply() {
    let mut world = World::new(Limits { answers_bytes: 8 * LARGE, ..Limits::default() });
    let old = world.connect(0, &[AUTH, &set("big", LARGE)]);
    world.sync();
    let rotate = r#"{"action":"rotateKey","name":"site","key":"server","params":{"grace":1}}"#;
    let other = world.connect(1, &[AUTH, rotate]);
    world.sync();
    let reply = world.take_replies(other).pop().unwrap();
    let key = reply.split('"').rev().nth(1).unwrap().to_owned();
    // For a while there is no room for the answer to this command.
    world.net.answers += 9 * LARGE;
    world.send(old, &[&get("big")]);
    assert_eq!(world.switch.room_queue.len(), 1);
    let auth = AUTH.replace(KEY, &key);
    world.send(other, &[&auth, &set("big", LARGE + 1)]);
    world.net.now = 2000;
    world.net.answers -= 9 * LARGE;
    world.turn();
    assert!(world.take_replies(old).pop().unwrap().ends_with("\"code\":311}"));
    assert_eq!(world.switch.reply_reserve.reserved(), 0);
}

#[test]
fn an_evicted_connection_no_longer_queues_for_input_room() {
    let mut world = World::new(Limits {
        control_input_bytes: LARGE,
        control_unauthenticated_connections: 1,
        ..Limits::default()
    });
    world.switch.declare("other", AUTH_KEY).unwrap();
    world.sync();
    let holder = world.connect(0, &[&AUTH.replace("site", "other").replace(KEY, AUTH_KEY)]);
    world.send_start(holder, LARGE - 10);
    let waits = world.connect(1, &[AUTH, &set("k", 1)]);
    world.send_start(waits, LARGE - 10);
    assert_eq!(world.switch.census().control_input_waits, 1);
    // Both back ends of `site` are unauthenticated from now on, and there is room for one: the
    // first is closed once it has the reply that it is owed.
    world.connect(2, &[AUTH, r#"{"action":"rotateKey","name":"site","key":"server"}"#]);
    world.net.now = 5000;
    world.run_until_idle();
    let is_ended = world.switch.connections.look_at(waits).map(|it| it.is_ended);
    assert_eq!((is_ended, world.owed(waits)), (Some(true), OK.len()));
    assert_eq!(world.net.closed, []);
    // It no longer queues for room, so others do not wait behind it.
    world.net.now = 5100;
    world.run_until_idle();
    assert_eq!(world.switch.intake.due(), None);
    world.sync();
    assert_eq!(world.net.closed, [(waits, CloseReason::ControlAuth)]);
}

/// Each push searches a long list for elements to drop.
#[test]
fn refused_pushes_count_as_work() {
    let mut world = World::new(Limits { states_bytes_per_namespace: 70_000, ..Limits::default() });
    let conn = world.connect(0, &[AUTH]);
    let item = format!("\"{}\"", "x".repeat(60));
    let list = format!("[{}]", vec![item.as_str(); 1000].join(","));
    let command = |action: &str, data: &str| {
        format!("{{\"action\":\"{action}\",\"channel\":\"c\",\"data\":{data}}}")
    };
    world.send(conn, &[&command("set", &list)]);
    world.sync();
    world.take_replies(conn);
    let push = command("push", &format!("\"{}\"", "x".repeat(8000)));
    world.send(conn, &[push.as_str(); 20]);
    let mut answers = Vec::new();
    while answers.len() < 20 {
        let some = world.take_replies(conn);
        assert!((1..=5).contains(&some.len()), "{} replies in one turn", some.len());
        answers.extend(some);
        world.turn();
    }
    assert!(answers.iter().all(|answer| answer.ends_with("\"code\":313}")), "{answers:?}");
}

#[test]
fn an_old_key_expires_on_time_despite_a_standstill() {
    let mut world = World::new(Limits::default());
    let rotate = r#"{"action":"rotateKey","name":"site","key":"server","params":{"grace":10}}"#;
    let (old, server) = (world.connect(1, &[AUTH]), world.connect(2, &[rotate]));
    world.sync();
    world.run_until_idle();
    assert_eq!(world.take_replies(old), [OK]);
    assert!(world.take_replies(server)[0].starts_with(r#"{"success":true,"secretKey":"#));
    assert_eq!(world.switch.due(&world.net), Some(Millis(10_000)));
    world.switch.stood_still(4000);
    assert_eq!(world.switch.due(&world.net), Some(Millis(6000)));
    world.net.now = 6000;
    world.turn();
    assert!(world.switch.unauthenticated.has(old), "its key is still valid");
}

/// A removal cannot be undone, so the loss of other changes must not be reported as its failure.
#[test]
fn the_removal_of_a_namespace_is_reported_as_soon_as_it_is_done() {
    let mut world = World::new(Limits::default());
    world.switch.declare("other", AUTH_KEY).unwrap();
    world.sync();
    let server =
        world.connect(1, &[r#"{"action":"removeNameSpace","name":"other","key":"server"}"#]);
    let conn = world.connect(2, &[AUTH, &set("c", 10)]);
    assert!(world.take_replies(server).is_empty());
    let change = world.journal.disk().removals.pop_front().unwrap();
    let entry = Entry { at: UnixMillis(0), change };
    let event = Event::Entry(Some(Ticket(1)), entry, Mark::default());
    world.journal.disk().ordered.push_back(event);
    world.turn();
    assert_eq!(world.switch.hub.namespace("other"), None);
    assert_eq!(
        (world.take_replies(server), world.take_replies(conn)),
        (vec![OK.into()], vec![OK.into()])
    );
    assert_eq!(world.owed(conn), OK.len(), "the set is not durable yet");
}

#[test]
fn expiring_states_do_not_block_back_ends() {
    let mut world = World::new(Limits::default());
    let data = "x".repeat(600);
    let set = |channel: usize| {
        format!(r#"{{"action":"set","channel":{channel},"data":"{data}","params":{{"ttl":1}}}}"#)
    };
    let sets: Vec<String> = (0..2000).map(set).collect();
    let conn = world.connect(1, &[AUTH]);
    world.send(conn, &sets.iter().map(String::as_str).collect::<Vec<_>>());
    while !world.input[&conn].is_empty() {
        world.sync();
    }
    world.sync();
    assert_eq!((world.take_replies(conn).len(), world.switch.hub.sizes()[4]), (2001, 2000));
    world.net.now = 1000;
    world.send(conn, &[PING]);
    assert_eq!(world.take_replies(conn), [OK]);
    assert_eq!(world.switch.hub.sizes()[4], 1000, "the others expire in the next turn");
}
