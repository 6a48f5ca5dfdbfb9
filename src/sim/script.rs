//! Fuzz target for the whole server: switch, web, hub and a journal on the fake network. Owns the
//! turn, which is that of the reactor, and does what an input says; what the network does by itself
//! follows a seed that the input gives. Called by the fuzzer and by the test that replays its
//! corpus, never by the server.
//!
//! An input is a script. Its first byte chooses the journal: `l` in memory with late order, `s` a
//! store, `S` a store with `--sync 1s`, anything else in memory. The second byte is the seed. After
//! these, each line is a letter and its text:
//!
//! | letter | what happens |
//! |---|---|
//! | `a` `b` | a browser sends the text as one WebSocket message |
//! | `c` `d` | another browser does so over SockJS |
//! | `h` `i` | a client sends the text and a newline to the browsers' port, `i` as a proxy |
//! | `k` `l` `n` `o` | a back end sends the text as one command |
//! | `m` | a client sends the text and a newline to the admin port |
//! | upper case | the same peer sends the text as raw bytes |
//! | `/` | the bytes of the peer named next arrive in pieces of the size of the next byte |
//! | `.` `:` | time passes: 40 ms, or 1 s, for each unit of the next byte |
//! | `!` | the peer named next stops reading, or reads again |
//! | `$` | the peer named next ends its stream |
//! | `~` | the peer named next is lost |
//! | `#` | a connection is turned away |
//! | `@` | lower limits, and without `=` another server key and no namespace `site`; or back |
//! | `%` `&` | the disk hangs or fails; the disk is well again |
//! | `^` | the server is killed (`x`), loses power (`p`) or stops; then another one starts |
//!
//! A peer that is not connected connects first. After each line the server runs until it is at
//! rest, unless the line ends in `+`. All that the server sends must be whole, and follow the
//! protocol of its connection.
//!
//! Scripts of browsers, and of back ends, have limits that a short script reaches. They begin with
//! the first line, or with `*` for a journal in memory with late order; some have authenticated.

mod limits;
mod output;
mod peers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::Prng;
use super::net::{FakeNet, Phase};
use super::storage::{Diskless, End, FaultyStore, Start, Storage};
use super::tape::{Item, Tape, Traced};
use crate::admin::AdminDoor;
use crate::codec::{jwt, sockjs};
use crate::edge::{ConnId, Handler, Net, TurnedAway};
use crate::hub::{Cursor, Hub};
use crate::journal::{DelayedJournal, Journal, MemoryJournal};
use crate::limits::{Limits, SyncPolicy};
use crate::switch::{Demo, Settings, Switch};
use crate::time::{Millis, Now, UnixMillis};
use crate::web::Service;
use peers::Peers;

/// The key of the namespace `site`.
const KEY: &str = "11111111-1111-4111-8111-111111111111";
const SERVER_KEY: &str = "server";
/// How long an orderly stop may take, in milliseconds.
const DRAIN_MS: u64 = 2000;
/// The clocks at the start of every script.
const START: Now = Now { mono: Millis(0), unix: UnixMillis(1_800_000_000_000) };
/// One unit of `.`, in milliseconds.
const STEP_MS: u64 = 40;
/// Maximum number of busy turns without time passing; more is a livelock.
const TURNS_MAX: usize = 20_000;
/// Maximum number of lines of a script that are played.
const LINES_MAX: usize = 400;
/// The peers and users that listen to scripts of back ends.
const AUDIENCE: [(char, &str); 2] = [('a', "1"), ('d', "2")];
/// Clients that sent too fast are read to their end within this many times ten seconds.
const PATIENCE: usize = 12;

/// Fuzz target: a script of the whole server. In the end all peers leave, and nothing may be left.
///
/// # Panics
/// If an invariant or a law of [`crate::edge`] is broken, if something is left at the end, or if a
/// store that was closed in an orderly way is found in another state.
pub fn fuzz_server(data: &[u8]) {
    crate::log::mute(true);
    let (first, rest) = data.split_first().unwrap_or((&b'm', &[]));
    let (seed, script) = rest.split_first().unwrap_or((&0, &[]));
    let seed = u64::from(*seed);
    match first {
        b's' => play(seed, FaultyStore::new(SyncPolicy::Always), script),
        b'S' => play(seed, FaultyStore::new(SyncPolicy::Every(1000)), script),
        b'l' => play(seed, Diskless::new(DelayedJournal::new(seed, 4)), script),
        _ => play(seed, Diskless::new(MemoryJournal::default()), script),
    }
}

fn play(seed: u64, storage: impl Storage, script: &[u8]) {
    let mut stage = Stage::new(seed, limits(seed), storage);
    stage.play(script);
    stage.end();
}

/// Fuzz target: a script of browsers. One back end, `k`, has authenticated.
///
/// # Panics
/// As [`fuzz_server`].
pub fn fuzz_browser(data: &[u8]) {
    play_before(&[], data);
}

/// Fuzz target: a script of back ends. Two users listen as well, over WebSocket and SockJS.
///
/// # Panics
/// As [`fuzz_server`].
pub fn fuzz_commands(data: &[u8]) {
    play_before(&AUDIENCE, data);
}

/// Plays a script before these peers and users.
fn play_before(audience: &[(char, &str)], data: &[u8]) {
    crate::log::mute(true);
    match data.strip_prefix(b"*") {
        Some(script) => opened(DelayedJournal::new(data.len() as u64, 4), audience, script).end(),
        None => opened(MemoryJournal::default(), audience, data).end(),
    }
}

/// A stage on which these have authenticated, with `k`, and then a script was played.
fn opened(
    journal: impl Journal + 'static,
    audience: &[(char, &str)],
    script: &[u8],
) -> Stage<Diskless> {
    let mut opening = format!("k{{\"action\":\"auth\",\"name\":\"site\",\"sKey\":\"{KEY}\"}}\n");
    for (peer, user) in audience {
        let token = jwt::sign(user, KEY, None);
        opening += &format!("{peer}{{\"event\":\"auth\",\"data\":{{\"i\":\"site\",");
        opening += &format!("\"s\":\"{token}\"}}}}+\n");
        for channel in ["c", "@c", "#c"] {
            opening += &format!("{peer}{{\"event\":\"subscribe\",\"data\":\"{channel}\"}}+\n");
        }
    }
    let mut stage = Stage::new(0, limits::limits(), Diskless::new(journal));
    stage.play(opening.as_bytes());
    stage.play(script);
    stage
}

/// The server, its network and its peers.
struct Stage<G: Storage> {
    /// The limits at the start, and those in force.
    first: Limits,
    limits: Limits,
    storage: G,
    door: AdminDoor,
    net: FakeNet,
    peers: Peers,
    /// All that the server has sent on each open connection.
    sent: BTreeMap<ConnId, Vec<u8>>,
    tape: Tape,
}

fn door(start: Start, limits: &Limits, now: Now, tape: &Tape) -> AdminDoor {
    let settings = Settings {
        demo: Some(Demo { page: "<p>".as_bytes().into(), namespace: "site".to_owned() }),
        proxies: super::ways::proxies(),
        at: start.at,
        ..Settings::new(limits.clone(), SERVER_KEY, now)
    };
    let mut switch =
        Switch::over(start.hub, settings, Box::new(Traced::new(start.journal, tape.clone())));
    switch.declare("site", KEY);
    AdminDoor::new(switch, now)
}

/// Small limits, with room for the peers of a script.
fn limits(seed: u64) -> Limits {
    Limits {
        control_connections: 3,
        control_unauthenticated_connections: 2,
        connections_per_address: 6,
        connections_per_user: 4,
        sessions_unauthenticated: 6,
        messages_burst: 32,
        ..super::limits(seed)
    }
}

impl<G: Storage> Stage<G> {
    fn new(seed: u64, limits: Limits, mut storage: G) -> Stage<G> {
        let (mut prng, tape) = (Prng::new(seed), Tape::default());
        let start = storage.start(&mut prng, START, &limits);
        let door = door(start, &limits, START, &tape);
        let net = FakeNet::new(prng, START, &limits, tape.clone());
        let (first, peers, sent) = (limits.clone(), Peers::default(), BTreeMap::new());
        Stage { first, limits, storage, door, net, peers, sent, tape }
    }

    fn play(&mut self, script: &[u8]) {
        for line in script.split(|byte| *byte == b'\n').take(LINES_MAX) {
            match line.strip_suffix(b"+") {
                Some(line) => self.line(line),
                None => {
                    self.line(line);
                    self.rest();
                }
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some((letter, text)) = line.split_first() else { return };
        let first = text.first().copied().unwrap_or(0);
        match letter {
            b'.' => self.walk(STEP_MS * u64::from(first)),
            b':' => self.walk(1000 * u64::from(first)),
            b'#' => self.door.turned_away(self.net.now, TurnedAway::Full),
            b'@' => self.reload(first != b'='),
            b'%' => {
                let now = self.net.now.mono;
                if let Some(store) = self.storage.store() {
                    store.trouble(&mut self.net.prng, now);
                }
            }
            b'&' => {
                if let Some(store) = self.storage.store() {
                    store.mend();
                }
            }
            b'^' => self.restart(match first {
                b'x' => End::Killed,
                b'p' => End::PowerCut,
                _ => End::Closed,
            }),
            letter => self.peers.line(*letter, text, &mut self.net, &mut self.door),
        }
    }

    fn reload(&mut self, has_keys: bool) {
        let limits = self.first.clone();
        self.limits = if self.limits.states != limits.states {
            let switch = self.door.switch_mut();
            switch.set_server_key(SERVER_KEY);
            // It may fail for want of room.
            if switch.declare("site", KEY).is_some() {
                assert!(!switch.hub().would_record("site", KEY), "once is enough");
            }
            limits
        } else {
            if has_keys {
                let switch = self.door.switch_mut();
                switch.set_server_key("another");
                switch.undeclare("site");
            }
            Limits {
                states: limits.states / 2,
                namespaces: limits.namespaces - 1,
                state_bytes: limits.state_bytes / 2,
                channels_per_connection: limits.channels_per_connection / 2,
                messages_burst: limits.messages_burst / 2,
                control_connections: limits.control_connections / 2,
                control_frame_bytes: limits.control_frame_bytes / 2,
                connections_per_address: 0,
                ..limits
            }
        };
        let service = Service::new(sockjs::PREFIX, &self.limits);
        self.door.reload(&self.limits, service, self.net.now);
    }

    /// Runs turns until nothing happens any more without time or input.
    fn rest(&mut self) {
        let mut turns = 0;
        while self.turn() || self.door.due(&self.net).is_some_and(|at| at <= self.net.now.mono) {
            turns += 1;
            assert!(turns < TURNS_MAX, "a livelock");
        }
        self.door.switch().check_invariants();
    }

    /// Runs one turn, in the order of the reactor's. Returns whether anything happened in it.
    fn turn(&mut self) -> bool {
        let mut is_busy = self.peers.move_bytes(&mut self.net);
        is_busy |= self.storage.step(&mut self.net.prng, self.net.now);
        for conn in self.net.events() {
            self.net.lose(conn);
        }
        is_busy |= self.forget();
        self.door.tick(&mut self.net);
        let most = self.net.round().min(self.net.ready.len());
        is_busy |= most > 0;
        // Back ends skipped because the switch has processed enough for now keep their place.
        let mut left = Vec::new();
        let (back_ends, browsers): (Vec<_>, Vec<_>) =
            self.net.ready.drain(..most).partition(|conn| self.peers.is_first(*conn));
        for conn in back_ends {
            match self.door.is_turn_full() {
                true => left.push(conn),
                false => self.net.read_for(&mut self.door, conn),
            }
        }
        is_busy |= self.flush_some();
        for conn in browsers {
            self.net.read_for(&mut self.door, conn);
        }
        self.net.ready.splice(..0, left);
        self.expire();
        is_busy |= self.forget();
        self.door.settle(&mut self.net);
        if let Some(store) = self.storage.store() {
            store.take_sent();
        }
        is_busy |= self.forget();
        is_busy |= self.flush_some();
        is_busy |= self.forget();
        self.note_sent();
        is_busy || !self.net.ready.is_empty() || !self.net.dirty.is_empty()
    }

    /// Notes what the server has sent.
    fn note_sent(&mut self) {
        for item in self.tape.take() {
            if let Item::Sent { conn, frame, .. } = item {
                self.sent.entry(conn).or_default().extend_from_slice(&frame);
            }
        }
    }

    /// Writes to some of the connections that have output.
    fn flush_some(&mut self) -> bool {
        let some = self.net.some_dirty();
        some.iter().for_each(|conn| self.net.flush_for(&mut self.door, *conn));
        !some.is_empty()
    }

    /// Handles expired timers, and slow peers whose time is up.
    fn expire(&mut self) {
        self.net.expire_for(&mut self.door);
        while let Some((conn, verdict)) = self.net.overdue() {
            if let Some(reason) = verdict {
                self.door.too_slow(&mut self.net, conn, reason);
            }
        }
    }

    /// Tells the switch about closed connections.
    fn forget(&mut self) -> bool {
        let is_busy = !self.net.doomed.is_empty();
        while !self.net.doomed.is_empty() {
            for (conn, reason) in std::mem::take(&mut self.net.doomed) {
                self.door.closed(&mut self.net, conn, reason);
                self.note_sent();
                let mut sent = self.sent.remove(&conn).unwrap_or_default();
                match self.peers.has_back_end(conn) {
                    true => _ = output::check_control(&sent),
                    false => output::check_web(&mut sent),
                }
                if self.net.socket(conn).is_some_and(|s| s.phase == Phase::Lingering) {
                    self.net.free(conn);
                }
            }
        }
        is_busy
    }

    /// Advances time, from one deadline to the next.
    fn walk(&mut self, ms: u64) {
        let until = self.net.now.mono.plus(ms);
        loop {
            self.rest();
            let now = self.net.now.mono;
            if now >= until {
                return;
            }
            let due = [self.net.next_at(), self.door.due(&self.net), self.storage.due()];
            let next = due.into_iter().flatten().min().unwrap_or(until);
            let ms = next.max(now.plus(1)).min(until).0 - now.0;
            let Now { mono, unix } = self.net.now;
            self.net.now = Now { mono: mono.plus(ms), unix: unix.plus(ms) };
        }
    }

    /// Lets all peers go.
    fn stop(&mut self) {
        let until = self.net.now.mono.plus(DRAIN_MS);
        self.door.stopping(&mut self.net, until);
        self.walk(DRAIN_MS);
    }

    /// Ends this server, and starts another on what it has left.
    fn restart(&mut self, how: End) {
        if how == End::Closed {
            self.stop();
        }
        let now = self.net.now;
        let Some(store) = self.storage.store() else { return };
        let rows = if how == End::Closed {
            self.door.switch_mut().close(now, &mut || false);
            let meters = self.door.switch().journal().meters(now).unwrap_or_default();
            // A store does not keep the rows of a namespace whose removal is in flight.
            (!meters.is_failing && self.tape.later() == 0).then(|| rows(self.door.switch().hub()))
        } else {
            None
        };
        store.end(&mut self.net.prng, how, now.mono);
        let start = self.storage.start(&mut self.net.prng, now, &self.limits);
        if let Some(left) = rows.filter(|_| !start.power_went) {
            assert_eq!(self::rows(&start.hub), left, "what a server finds that another has left");
        }
        self.tape = Tape::default();
        self.door = door(start, &self.limits, now, &self.tape);
        let prng = Prng::new(self.net.prng.next());
        self.net = FakeNet::new(prng, now, &self.limits, self.tape.clone());
        (self.peers, self.sent) = (Peers::default(), BTreeMap::new());
    }

    /// Checks that each command has had one reply.
    fn check_replies(&mut self) {
        for (conn, count) in self.peers.commands().collect::<Vec<_>>() {
            if self.net.socket(conn).is_some_and(|socket| socket.phase == Phase::Open) {
                let replies = self.sent.get(&conn).map_or(0, |sent| output::check_control(sent));
                assert_eq!(replies, count, "each command has one reply");
            }
        }
    }

    /// Lets all peers read and leave, and checks that nothing is left; then stops the server.
    fn end(mut self) {
        if let Some(store) = self.storage.store() {
            store.mend();
        }
        self.peers.take_all();
        self.rest();
        if self.storage.store().is_none() {
            self.check_replies();
            // Nothing waits for a disk: a stop ends all but those at the admin door.
            self.stop();
            let metrics = self.door.switch().metrics();
            assert_eq!(metrics.opened, metrics.closed.iter().sum::<u64>(), "a stop leaves nobody");
        }
        self.peers.leave(&mut self.net);
        for _ in 0..PATIENCE {
            self.walk(10_000);
        }
        assert!(self.net.sockets.is_empty(), "left: {:?}", self.net.sockets);
        assert!(self.net.frames.is_empty() && self.net.wheel.is_empty(), "frames or timers left");
        assert_eq!(self.net.queue_memory().bytes, 0, "publications are left");
        assert!(self.net.is_nobody_watched(), "somebody is watched");
        let switch = self.door.switch();
        let [_, channels, users, peers, _] = switch.hub().sizes();
        assert_eq!([channels, users, peers], [0; 3], "somebody is left in the hub");
        switch.check_drained(self.net.now);
        assert!(!switch.is_releasing(), "replies that are durable wait");
        let metrics = switch.metrics();
        assert_eq!(metrics.opened, metrics.closed.iter().sum::<u64>(), "opened and closed");
        assert!(self.sent.is_empty(), "what was sent at an end was not looked at");
        if self.storage.store().is_some() {
            self.restart(End::Closed);
        }
    }
}

/// Returns all rows, for a comparison.
fn rows(hub: &Hub) -> Vec<String> {
    let (mut rows, mut cursor) = (Vec::new(), Some(Cursor::default()));
    while let Some(from) = cursor {
        cursor = hub.rows(from, |key, row| {
            rows.push(format!("{key:?} {row:?}"));
            true
        });
    }
    rows.sort();
    rows
}
