//! The cost of a delivery on each transport, in the switch alone, on a network that only counts:
//! allocations, bytes and writes of one message to one subscriber, and its time relative to a raw
//! WebSocket. Counts have no noise: the bench fails if one exceeds its bound. Times have, so only
//! their ratio is shown.

#[path = "support/mod.rs"]
mod support;

use std::alloc::System;
use std::time::Instant;

use fws::address::Address;
use fws::codec::jwt;
use fws::edge::{ConnId, Door, Handler, Net};
use fws::frame::Frame;
use fws::journal::MemoryJournal;
use fws::limits::Limits;
use fws::reason::CloseReason;
use fws::switch::{Settings, Switch};
use fws::time::{Millis, Now, UnixMillis};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bytes of data in a message.
const DATA_BYTES: usize = 128;
/// Number of messages that are timed.
const TIMED: usize = 2000;

/// A network that accepts everything at once, and counts it.
#[derive(Default)]
struct Counter {
    frames: usize,
    bytes: usize,
    /// The start of the last frame, to check that it is the expected one.
    last: Vec<u8>,
}

impl Counter {
    fn count(&mut self, frame: &Frame) {
        self.frames += 1;
        self.bytes += frame.len();
        self.last.clear();
        self.last.extend_from_slice(&frame[..frame.len().min(64)]);
    }
}

impl Net for Counter {
    fn now(&self) -> Now {
        Now { mono: Millis(1000), unix: UnixMillis(1_800_000_000_000) }
    }
    fn random(&mut self, out: &mut [u8]) {
        out.fill(9);
    }
    fn send(&mut self, _: ConnId, frame: Frame) {
        self.count(&frame);
    }
    fn publish(&mut self, _: ConnId, frame: Frame) -> bool {
        self.count(&frame);
        false
    }
    fn queued(&self, _: ConnId) -> usize {
        0
    }
    fn taken(&self, _: ConnId) -> u32 {
        0
    }
    fn close(&mut self, _: ConnId, reason: CloseReason) {
        panic!("closed: {reason}");
    }
    fn deadline(&mut self, _: ConnId, _: Option<Millis>) {}
    fn pause(&mut self, _: ConnId) {}
    fn resume(&mut self, _: ConnId) {}
}

/// A subscriber's transport.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Raw,
    SockJs,
    XhrStreaming,
    EventSource,
    HtmlFile,
    XhrPolling,
    Jsonp,
}

use Transport::*;

/// Each with its name, and the allocations that one more subscriber may cost.
const TRANSPORTS: [(Transport, &str, usize); 7] = [
    (Raw, "raw WebSocket", 0),
    (SockJs, "SockJS WebSocket", 0),
    (XhrStreaming, "xhr-streaming", 0),
    (EventSource, "eventsource", 0),
    (HtmlFile, "htmlfile", 0),
    (XhrPolling, "xhr-polling, with the next request", 24),
    (Jsonp, "jsonp-polling, with the next request", 24),
];

struct World {
    switch: Switch,
    net: Counter,
    controller: ConnId,
    subscribers: Vec<(ConnId, Vec<u8>)>,
}

impl World {
    /// A server with `count` subscribers on a transport.
    fn new(transport: Transport, count: usize) -> World {
        let net = Counter::default();
        // A streamed answer lasts for the whole bench.
        let limits = Limits { stream_response_bytes: 1 << 30, ..Limits::default() };
        let settings = Settings::new(limits, "a key of the benches", net.now());
        let mut switch = Switch::new(settings, MemoryJournal::default());
        switch.declare(support::NAMESPACE, support::KEY);
        let controller = ConnId::new(0, 0);
        let mut world = World { switch, net, controller, subscribers: Vec::new() };
        world.switch.opened(&mut world.net, controller, Door::Control, Address::Unix);
        world.give(controller, &support::auth());
        for n in 0..count {
            world.subscribe(transport, n);
        }
        world
    }

    /// One turn with this input.
    fn give(&mut self, conn: ConnId, bytes: &[u8]) {
        let mut input = bytes.to_vec();
        self.switch.tick(&mut self.net);
        let used = self.switch.received(&mut self.net, conn, &mut input);
        assert_eq!(used, Ok(input.len()));
        self.switch.settle(&mut self.net);
    }

    fn open(&mut self, slot: usize) -> ConnId {
        let conn = ConnId::new(slot as u32, 0);
        self.switch.opened(&mut self.net, conn, Door::Web, Address::Unix);
        conn
    }

    fn subscribe(&mut self, transport: Transport, n: usize) {
        let conn = self.open(1 + 2 * n);
        let path = match transport {
            Raw | SockJs => {
                let hello = support::hello(n, "news");
                let hello = match transport {
                    Raw => hello,
                    _ => in_sockjs(n),
                };
                self.give(conn, &hello);
                return self.subscribers.push((conn, Vec::new()));
            }
            XhrStreaming => "POST /socket/0/N/xhr_streaming",
            EventSource => "GET /socket/0/N/eventsource",
            HtmlFile => "GET /socket/0/N/htmlfile?c=x",
            XhrPolling => "POST /socket/0/N/xhr",
            Jsonp => "GET /socket/0/N/jsonp?c=x",
        };
        let path = path.replace("/N/", &format!("/{n}/"));
        let request = format!("{path} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes();
        self.give(conn, &request);
        let sender = self.open(2 + 2 * n);
        let body = serde_json::to_string(&messages(n)).expect("memory takes every byte");
        let head = format!("POST /socket/0/{n}/xhr_send HTTP/1.1\r\nHost: bench\r\n");
        let send = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        // The first poll was answered with the opening frame; new ones must wait for the answers.
        self.give(sender, send.as_bytes());
        let polls = matches!(transport, XhrPolling | Jsonp);
        if polls {
            self.give(conn, &request);
            self.give(conn, &request);
        }
        self.subscribers.push((conn, if polls { request } else { Vec::new() }));
    }

    /// One message to all; polling subscribers poll again.
    fn emit(&mut self, frame: &[u8]) {
        self.give(self.controller, frame);
        for at in 0..self.subscribers.len() {
            let (conn, request) = &self.subscribers[at];
            if !request.is_empty() {
                let (conn, mut request) = (*conn, request.clone());
                let used = self.switch.received(&mut self.net, conn, &mut request);
                assert_eq!(used, Ok(request.len()));
            }
        }
        self.switch.settle(&mut self.net);
    }
}

fn messages(n: usize) -> [String; 2] {
    let token = jwt::sign(&format!("user-{n}"), support::KEY, None);
    let namespace = support::NAMESPACE;
    [
        format!(r#"{{"event":"auth","data":{{"i":"{namespace}","s":"{token}"}}}}"#),
        r#"{"event":"subscribe","data":"news","clb":1}"#.into(),
    ]
}

/// The bytes with which user `n` opens a SockJS WebSocket, authenticates and subscribes.
fn in_sockjs(n: usize) -> Vec<u8> {
    let raw = support::hello(n, "news");
    let end = raw.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8_lossy(&raw[..end]);
    let mut out = head.replace("/socket/websocket", "/socket/0/0/websocket").into_bytes();
    let text = serde_json::to_string(&messages(n)).expect("memory takes every byte");
    let opcode = fws::codec::ws::Opcode::Text;
    fws::codec::ws::encode_masked_into(&mut out, opcode, text.as_bytes(), [1, 2, 3, 4]);
    out
}

/// Allocations, frames and bytes of one emit to `subscribers`.
fn count(transport: Transport, subscribers: usize) -> (usize, usize, usize) {
    let mut world = World::new(transport, subscribers);
    let frame = support::emit("news", DATA_BYTES);
    let mut fewest = (usize::MAX, 0, 0);
    for _ in 0..5 {
        (world.net.frames, world.net.bytes) = (0, 0);
        let region = Region::new(ALLOCATOR);
        world.emit(&frame);
        let allocations = region.change().allocations;
        let reply = support::frame(r#"{"success":true}"#).len();
        fewest =
            fewest.min((allocations, world.net.frames - 1, world.net.bytes.saturating_sub(reply)));
    }
    assert!(fewest.1 >= subscribers, "not everybody was reached");
    fewest
}

/// Nanoseconds per delivery.
fn time(transport: Transport) -> f64 {
    const SUBSCRIBERS: usize = 100;
    let mut world = World::new(transport, SUBSCRIBERS);
    let frame = support::emit("news", DATA_BYTES);
    let mut best = f64::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        for _ in 0..TIMED / 5 {
            world.emit(&frame);
        }
        let each = start.elapsed().as_nanos() as f64 / (TIMED / 5 * SUBSCRIBERS) as f64;
        best = best.min(each);
    }
    best
}

fn main() {
    let mut is_good = true;
    let raw = time(Raw);
    println!(
        "one message of {DATA_BYTES} bytes of data, per subscriber (raw WebSocket: {raw:.0} ns):"
    );
    for (transport, name, bound) in TRANSPORTS {
        let (few, _, _) = count(transport, 10);
        let (many, frames, bytes) = count(transport, 110);
        let (more, each) = (many.saturating_sub(few).div_ceil(100), frames as f64 / 110.0);
        let verdict = if more <= bound { "ok" } else { "TOO MANY" };
        is_good &= more <= bound;
        let ratio = if transport == Raw { 1.0 } else { time(transport) / raw };
        println!(
            "{name}: {more} allocations (at most {bound}) {verdict}, {few} for an emit to ten, \
             {each:.0} frame in 1 write, {} bytes, {ratio:.1} times the time",
            bytes / 110
        );
    }
    std::process::exit(i32::from(!is_good));
}
