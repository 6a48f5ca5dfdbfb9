//! The simulation of sessions over HTTP: the real switch, web door, hub and journal on the
//! in-memory network, with visitors whose requests attach to sessions and leave them, and a back
//! end that publishes. Owns the randomness and the clock of a run, as [`super::run`] does for
//! sockets, and is called only by `tests/simulate.rs`.
//!
//! How it checks: each action is run until nothing happens any more, and applied to a [`Model`] as
//! well, which says what each visitor must receive: every frame, in order, nothing else, and
//! nothing early.

mod model;

use super::Prng;
use super::net::{FakeNet, Phase};
use super::storage::{Diskless, FaultyStore, Storage};
use super::tape::Tape;
use crate::address::Address;
use crate::codec::{control, jwt};
use crate::edge::{ConnId, Door, Handler};
use crate::journal::Journal;
use crate::limits::{Limits, SyncPolicy};
use crate::reason::CloseReason;
use crate::switch::{Settings, Switch};
use crate::time::{Millis, Now, UnixMillis};
use model::{CHANNELS, Kind, Model, NAMES, Piece, Said};

/// The namespace of every run, and its key.
const SPACE: &str = "site";
const KEY: &str = "11111111-1111-4111-8111-111111111111";

/// How many visitors make requests.
const VISITORS: usize = 7;

/// Maximum number of busy turns without time passing; more is a livelock.
const TURNS_MAX: usize = 10_000;

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// A hash of everything that visitors received.
    pub trace: u64,
    /// Sessions opened.
    pub opened: u64,
    /// Sessions that expired without a receiver.
    pub expired: u64,
    /// Sessions that ended because their receiver's connection was cut.
    pub aborted: u64,
    /// Receivers that found another one attached.
    pub seconds: u64,
    /// Sessions that were told of their end.
    pub told: u64,
    /// Streaming responses that ended at their size limit.
    pub limited: u64,
    /// Messages that visitors received.
    pub messages: u64,
}

/// A client that makes requests one after the other, on one connection at a time.
#[derive(Debug, Default)]
struct Visitor {
    conn: Option<ConnId>,
    /// Bytes written that have not arrived yet.
    pipe: Vec<u8>,
    inbox: Vec<u8>,
    /// It is in the middle of a chunked response.
    is_in_chunks: bool,
    got: Vec<Piece>,
}

impl Visitor {
    /// Splits the received bytes into pieces.
    fn parse(&mut self) {
        loop {
            let text = String::from_utf8_lossy(&self.inbox).into_owned();
            let (used, piece) = match self.is_in_chunks {
                true => {
                    let Some((size, rest)) = text.split_once("\r\n") else { return };
                    let bytes = usize::from_str_radix(size, 16).expect("the size of a chunk");
                    let Some(chunk) = rest.get(..bytes + 2) else { return };
                    self.is_in_chunks = bytes > 0;
                    let piece = match bytes {
                        0 => Piece::End,
                        _ => Piece::Chunk(chunk[..bytes].to_owned()),
                    };
                    (size.len() + 2 + bytes + 2, piece)
                }
                false => {
                    let Some((head, rest)) = text.split_once("\r\n\r\n") else { return };
                    let status = head.get(9..12).and_then(|status| status.parse().ok());
                    let status = status.expect("a status");
                    let length =
                        head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                    let length = length.map_or(0, |length| length.parse().expect("a length"));
                    let Some(body) = rest.get(..length) else { return };
                    self.is_in_chunks = head.contains("Transfer-Encoding: chunked");
                    self.got.push(Piece::Head(status));
                    let piece = Piece::Body(body.to_owned());
                    (head.len() + 4 + length, piece)
                }
            };
            self.inbox.drain(..used);
            if piece != Piece::Body(String::new()) {
                self.got.push(piece);
            }
        }
    }
}

struct World<G: Storage> {
    seed: u64,
    storage: G,
    switch: Switch,
    net: FakeNet,
    tape: Tape,
    visitors: Vec<Visitor>,
    back_end: ConnId,
    model: Model,
    trace: u64,
    serial: u64,
}

/// Limits so small that every run reaches some of them.
fn limits() -> Limits {
    Limits {
        backlog_bytes: 1024,
        stream_response_bytes: 1024,
        http_head_ms: 3_600_000,
        auth_ms: 20_000,
        ..Limits::default()
    }
}

/// Runs one seed for `steps` actions on a journal without a disk.
///
/// # Panics
/// If a visitor receives anything but what it must.
pub fn run_sessions(seed: u64, steps: usize, journal: impl Journal + 'static) -> Met {
    run_on(seed, steps, Diskless::new(journal))
}

/// Runs one seed on the store, over a disk that fails and hangs, which no visitor may notice.
///
/// # Panics
/// As [`run_sessions`].
pub fn run_sessions_on_store(seed: u64, steps: usize) -> Met {
    run_on(seed, steps, FaultyStore::new(SyncPolicy::Always))
}

fn run_on(seed: u64, steps: usize, storage: impl Storage) -> Met {
    crate::log::mute(true);
    let mut world = World::new(seed, storage);
    for step in 0..steps {
        let done = world.step();
        world.look(&format!("step {step}: {done}"));
    }
    let met = world.finish();
    crate::log::mute(false);
    met
}

impl<G: Storage> World<G> {
    fn new(seed: u64, mut storage: G) -> World<G> {
        let mut prng = Prng::new(seed ^ 0x5E55_1045);
        let now = Now {
            mono: Millis(prng.next() >> 30),
            unix: UnixMillis(1_800_000_000_000 + (prng.next() >> 30)),
        };
        let tape = Tape::default();
        let start = storage.start(&mut prng, now, &limits());
        let settings = Settings { at: start.at, ..Settings::new(limits(), "server", now) };
        let mut switch = Switch::over(start.hub, settings, start.journal);
        assert!(switch.declare(SPACE, KEY).is_some(), "there is room for one");
        let mut net = FakeNet::new(prng, now, &limits(), tape.clone());
        let back_end = net.insert(Address::Unix);
        switch.opened(&mut net, back_end, Door::Control, Address::Unix);
        let mut world = World {
            seed,
            storage,
            switch,
            net,
            tape,
            visitors: (0..VISITORS).map(|_| Visitor::default()).collect(),
            back_end,
            model: Model::new(limits()),
            trace: 0xCBF2_9CE4_8422_2325,
            serial: 0,
        };
        let auth = format!(r#"{{"action":"auth","name":"{SPACE}","sKey":"{KEY}"}}"#);
        world.command(&auth);
        world
    }

    fn step(&mut self) -> String {
        self.model.now = self.net.now.mono;
        let of_disk = usize::from(self.storage.store().is_some());
        match self.net.prng.weighted(&[40, 40, 90, 6, 14, 3, 3, 6 * of_disk]) {
            0 => self.receive(),
            1 => self.send(),
            2 => self.publish(),
            3 => self.cut(),
            4 => {
                let ms = self.net.prng.below(4000) as u64;
                self.walk(ms);
                format!("{ms} ms pass")
            }
            5 => {
                let ms = self.net.prng.below(60_000) as u64;
                self.walk(ms);
                format!("{ms} ms pass")
            }
            7 => match self.storage.store() {
                Some(store) => store.trouble(&mut self.net.prng, self.net.now.mono),
                None => "there is no disk".into(),
            },
            _ => {
                let user = self.net.prng.below(NAMES.len());
                let params = format!(r#"{{"userId":"user {user}"}}"#);
                self.command(&format!(r#"{{"action":"disconnect","params":{params}}}"#));
                self.model.disconnect(user);
                format!("user {user} is disconnected")
            }
        }
    }

    /// Returns a visitor with no request pending.
    fn idle_visitor(&mut self) -> Option<usize> {
        let start = self.net.prng.below(VISITORS);
        (0..VISITORS).map(|i| (start + i) % VISITORS).find(|i| !self.model.is_waiting(*i))
    }

    /// Sends a request, in pieces, and runs it to rest.
    fn request(&mut self, visitor: usize, text: &str) {
        if self.visitors[visitor].conn.is_none() {
            let conn = self.net.insert(Address::Unix);
            self.switch.opened(&mut self.net, conn, Door::Web, Address::Unix);
            self.visitors[visitor] = Visitor { conn: Some(conn), ..Visitor::default() };
        }
        self.visitors[visitor].pipe.extend_from_slice(text.as_bytes());
        self.drive();
    }

    /// Makes a request that waits for the messages of a session.
    fn receive(&mut self) -> String {
        let name = self.net.prng.below(NAMES.len());
        let Some(visitor) = self.idle_visitor() else { return "nobody is idle".into() };
        let kind = *self.net.prng.pick(&[Kind::Poll, Kind::Poll, Kind::Xhr, Kind::EventSource]);
        let (method, transport) = match kind {
            Kind::Poll => ("POST", "xhr"),
            Kind::Xhr => ("POST", "xhr_streaming"),
            Kind::EventSource => ("GET", "eventsource"),
        };
        let path = format!("/socket/0/{}/{transport}", NAMES[name]);
        self.model.receive(name, visitor, kind);
        self.request(visitor, &format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        format!("visitor {visitor} receives {} by {kind:?}", NAMES[name])
    }

    /// Makes a request that sends messages.
    fn send(&mut self) -> String {
        let name = self.net.prng.below(NAMES.len());
        let Some(visitor) = self.idle_visitor() else { return "nobody is idle".into() };
        let mut said = Vec::new();
        let mut texts = Vec::new();
        for _ in 0..self.net.prng.below(4) {
            let channel = self.net.prng.below(CHANNELS.len());
            let (what, text) = match self.net.prng.below(12) {
                0..5 => {
                    let token = jwt::sign(&format!("user {name}"), KEY, None);
                    let data = format!(r#"{{"i":"{SPACE}","s":"{token}"}}"#);
                    (Said::Auth, format!(r#"{{"event":"auth","data":{data}}}"#))
                }
                5 => (Said::BadAuth, r#"{"event":"auth","data":{"i":"site","s":"x"}}"#.into()),
                6..10 => (
                    Said::Subscribe(channel),
                    format!(r#"{{"event":"subscribe","data":"{}","clb":1}}"#, CHANNELS[channel]),
                ),
                10 => (
                    Said::Unsubscribe(channel),
                    format!(r#"{{"event":"unsubscribe","data":"{}","clb":2}}"#, CHANNELS[channel]),
                ),
                _ => (Said::Ping, r#"{"event":"ping","clb":3}"#.into()),
            };
            said.push(what);
            texts.push(text);
        }
        let body = serde_json::to_string(&texts).expect("memory takes every byte");
        let head = format!("POST /socket/1/{}/xhr_send HTTP/1.1\r\nHost: h\r\n", NAMES[name]);
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        let chunked =
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let rest = if self.net.prng.one_in(3) { chunked } else { length + &body };
        self.model.send(name, visitor, &said);
        self.request(visitor, &(head + &rest));
        format!("visitor {visitor} says {said:?} to {}", NAMES[name])
    }

    /// Publishes one or many messages from the back end.
    fn publish(&mut self) -> String {
        let channel = self.net.prng.below(CHANNELS.len());
        let count = if self.net.prng.one_in(5) { 1 + self.net.prng.below(30) } else { 1 };
        for _ in 0..count {
            self.serial += 1;
            let data = format!("{}{}", "y".repeat(self.net.prng.below(80)), self.serial);
            let name = CHANNELS[channel];
            self.command(&format!(r#"{{"action":"emit","channel":"{name}","data":"{data}"}}"#));
            self.model.publish(channel, &data);
        }
        format!("{count} messages to {}", CHANNELS[channel])
    }

    /// Ends a visitor's connection, in one of several ways.
    fn cut(&mut self) -> String {
        let visitor = self.net.prng.below(VISITORS);
        let Some(conn) = self.visitors[visitor].conn else { return "nobody to cut".into() };
        if self.net.prng.one_in(2) {
            self.net.reset(conn);
        } else {
            if self.model.is_waiting(visitor) && self.net.prng.one_in(2) {
                // So much input behind a waiting request is not read, and must not hide the end.
                let more = "GET /socket HTTP/1.1\r\nHost: h\r\n\r\n".repeat(400);
                self.net.arrive(conn, more.bytes());
                if self.net.prng.one_in(2) {
                    self.drive();
                }
            }
            self.net.arrive_end(conn);
        }
        self.drive();
        self.model.cut(visitor);
        // What was still on the way is not checked.
        self.visitors[visitor] = Visitor::default();
        format!("visitor {visitor} is cut")
    }

    fn command(&mut self, body: &str) {
        let frame = control::encode(body.as_bytes());
        self.net.arrive(self.back_end, frame.iter().copied());
        self.drive();
    }

    /// Checks that every visitor has received what it must, and that the server has the same state.
    fn look(&mut self, when: &str) {
        let when = format!("seed {}, {when}", self.seed);
        for (i, visitor) in self.visitors.iter_mut().enumerate() {
            let got: Vec<Piece> = std::mem::take(&mut visitor.got);
            let got: Vec<Piece> = got.into_iter().map(Piece::without_cid).collect();
            let expected = self.model.take_expected(i);
            assert_eq!(got, expected, "{when}: visitor {i}");
            for byte in format!("{i}{got:?}").bytes() {
                self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
            }
            if self.model.take_closed(i) {
                let is_gone = visitor.conn.is_none_or(|conn| self.net.socket(conn).is_none());
                assert!(is_gone, "{when}: the connection of visitor {i} goes on");
                *visitor = Visitor::default();
            }
        }
        self.switch.check_invariants();
        assert_eq!(self.switch.census().ways.http, self.model.sessions(), "{when}: sessions");
        let [_, channels, _, peers, _] = self.switch.hub().sizes();
        assert_eq!((channels, peers), self.model.sizes(), "{when}: the hub");
    }

    /// Advances time, from one deadline to the next.
    fn walk(&mut self, ms: u64) {
        let until = self.net.now.mono.plus(ms);
        loop {
            let now = self.net.now.mono;
            let dues =
                [self.net.next_at(), self.switch.due(&self.net), self.storage.due(), Some(until)];
            let next = dues.into_iter().flatten().min();
            let next = next.unwrap_or(until).max(now.plus(1)).min(until);
            let unix = self.net.now.unix.plus(next.0 - now.0);
            self.net.now = Now { mono: next, unix };
            self.model.now = next;
            self.model.time_passes();
            self.drive();
            self.look(&format!("at {}", next.0));
            if next >= until {
                return;
            }
        }
    }

    fn drive(&mut self) {
        let mut turns = 0;
        loop {
            let is_busy = self.turn();
            let is_due = self.switch.due(&self.net).is_some_and(|at| at <= self.net.now.mono);
            if !is_busy && !is_due {
                return;
            }
            turns += 1;
            assert!(turns < TURNS_MAX, "a livelock");
        }
    }

    /// Runs one turn, in the order of `Reactor::turn`. Returns whether anything happened in it.
    fn turn(&mut self) -> bool {
        let mut is_busy = self.storage.step(&mut self.net.prng, self.net.now) | self.move_bytes();
        for conn in self.net.events() {
            self.net.lose(conn);
        }
        is_busy |= self.forget();
        self.switch.tick(&mut self.net);
        let ready = std::mem::take(&mut self.net.ready);
        is_busy |= !ready.is_empty();
        for conn in ready {
            self.net.read_for(&mut self.switch, conn);
        }
        self.net.expire_for(&mut self.switch);
        assert_eq!(self.net.overdue(), None, "all visitors read");
        is_busy |= self.forget();
        self.switch.settle(&mut self.net);
        is_busy |= self.forget();
        let dirty = std::mem::take(&mut self.net.dirty);
        is_busy |= !dirty.is_empty();
        for conn in dirty {
            self.net.flush_for(&mut self.switch, conn);
        }
        is_busy |= self.forget();
        drop(self.tape.take());
        is_busy || !self.net.ready.is_empty() || !self.net.dirty.is_empty()
    }

    /// Delivers bytes of the visitors, some at a time, and lets them read what is there for them.
    fn move_bytes(&mut self) -> bool {
        let mut is_busy = false;
        for visitor in &mut self.visitors {
            let Some(conn) = visitor.conn else { continue };
            if !visitor.pipe.is_empty() {
                let most = visitor.pipe.len();
                let is_cut = self.net.prng.one_in(3);
                let count = if is_cut { 1 + self.net.prng.below(most) } else { most };
                self.net.arrive(conn, visitor.pipe.drain(..count));
                is_busy = true;
            }
            let (left, has_end) = match self.net.socket(conn) {
                Some(socket) => (std::mem::take(&mut socket.outbound), socket.has_outbound_end),
                None => {
                    let left = self.net.leftovers.remove(&conn);
                    (left.map(|(bytes, _)| bytes).unwrap_or_default(), false)
                }
            };
            is_busy |= !left.is_empty();
            visitor.inbox.extend(left);
            visitor.parse();
            if has_end && self.net.socket(conn).is_some_and(|socket| !socket.has_inbound_end) {
                self.net.arrive_end(conn);
                is_busy = true;
            }
        }
        let replies = self.net.socket(self.back_end).map(|s| std::mem::take(&mut s.outbound));
        is_busy | replies.is_some_and(|bytes| !bytes.is_empty())
    }

    fn forget(&mut self) -> bool {
        let is_busy = !self.net.doomed.is_empty();
        while !self.net.doomed.is_empty() {
            for (conn, reason) in std::mem::take(&mut self.net.doomed) {
                self.switch.closed(&mut self.net, conn, reason);
                if self.net.socket(conn).is_some_and(|s| s.phase == Phase::Lingering) {
                    self.net.free(conn);
                }
            }
        }
        is_busy
    }

    /// Stops the server: waiting receivers are told, and no session is left.
    fn finish(mut self) -> Met {
        // The deadline is now: the closes are not spread over time.
        let now = self.net.now.mono;
        self.switch.stopping(&mut self.net, now);
        self.model.stop();
        self.drive();
        for visitor in &mut self.visitors {
            visitor.got.retain(|piece| matches!(piece, Piece::Body(_) | Piece::Chunk(_)));
        }
        for i in 0..VISITORS {
            let told = self.visitors[i].got.iter().filter(|piece| piece.says_going_away()).count();
            assert_eq!(told, self.model.told_to_go(i), "seed {}: visitor {i}", self.seed);
        }
        self.switch.check_invariants();
        assert_eq!(self.switch.census().ways.http, 0, "seed {}", self.seed);
        if let Some(store) = self.storage.store() {
            store.mend();
        }
        let ms = (limits().close_ms + limits().store_retry_ms) as u64;
        let Now { mono, unix } = self.net.now;
        self.net.now = Now { mono: mono.plus(ms), unix: unix.plus(ms) };
        self.drive();
        self.switch.check_drained(self.net.now);
        let [_, channels, users, peers, _] = self.switch.hub().sizes();
        assert_eq!([channels, users, peers], [0; 3], "somebody is left in the hub");
        let closed: u64 = self.switch.metrics().closed.iter().sum();
        assert!(closed <= self.switch.metrics().opened);
        assert_eq!(self.switch.metrics().closed[CloseReason::BadHttp as usize], 0);
        Met { trace: self.trace, ..self.model.met }
    }
}
