//! The building blocks: codecs, tokens, the wheel, the hub. For each its allocations, which have no
//! noise: the bench fails if they exceed their bound; and its time, which has: the best of several.
//! What must not grow with the number of channels, members, namespaces, states or timers is
//! measured with few and with many: the bench fails if the ratio of the times is that of a linear
//! search.

#[path = "support/mod.rs"]
mod support;

use std::alloc::System;
use std::hint::black_box;
use std::time::Instant;

use fws::codec::control::Decoder;
use fws::codec::ws::{self, Event, Opcode, Reader, Side};
use fws::codec::{json, jwt, sockjs};
use fws::edge::ConnId;
use fws::hub::{Change, Hub, NsId, Outbox, PeerId, Route};
use fws::limits::Limits;
use fws::publication::{Form, Publication};
use fws::reason::CloseReason;
use fws::time::UnixMillis;
use fws::uuid::Uuid;
use fws::wheel::Wheel;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Calls per measurement, and number of measurements, of which the best counts.
const TIMES: usize = 20_000;
const TRIES: usize = 5;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// Nanoseconds and allocations per call.
fn measure(mut work: impl FnMut(usize)) -> (f64, f64) {
    (0..1000).for_each(&mut work);
    let (mut best, mut fewest) = (f64::MAX, f64::MAX);
    for _ in 0..TRIES {
        let (region, start) = (Region::new(ALLOCATOR), Instant::now());
        (0..TIMES).for_each(&mut work);
        best = best.min(start.elapsed().as_nanos() as f64 / TIMES as f64);
        let change = region.change();
        let allocations = change.allocations + change.reallocations;
        fewest = fewest.min(allocations as f64 / TIMES as f64);
    }
    (best, fewest)
}

/// The verdict so far.
struct Report {
    is_good: bool,
}

impl Report {
    fn one(&mut self, what: &str, bound: f64, work: impl FnMut(usize)) {
        let (ns, allocations) = measure(work);
        let verdict = if allocations <= bound { "ok" } else { "TOO MANY" };
        self.is_good &= allocations <= bound;
        println!("{what:<58} {ns:>8.0} ns, {allocations:.2} allocations ({bound}) {verdict}");
    }

    /// Compares few and many: cache misses make many slower, a linear search would make it far
    /// slower.
    fn grown(&mut self, what: &str, few: (f64, f64), many: (f64, f64)) {
        let ratio = many.0 / few.0;
        let verdict = if ratio <= 20.0 { "ok" } else { "TOO SLOW" };
        self.is_good &= ratio <= 20.0;
        println!("{what:<58} {:>8.0} ns, {:.0} with few: {ratio:.1} × {verdict}", many.0, few.0);
    }
}

fn codecs(report: &mut Report) {
    let message = format!(r#"{{"event":"subscribe","data":"{}"}}"#, "c".repeat(20));
    let mut masked = Vec::new();
    ws::encode_masked_into(&mut masked, Opcode::Text, message.as_bytes(), [1, 2, 3, 4]);
    let bounds = ws::Bounds { message_bytes: 16_384, fragments: 64 };
    let mut reader = Reader::default();
    let mut input = masked.clone();
    report.one("WebSocket: read a masked message of 54 bytes", 0.0, |_| {
        input.copy_from_slice(&masked);
        let step = reader.read(Side::Server, &mut input, &bounds).expect("a good frame");
        assert!(matches!(black_box(step.event), Some(Event::Text(_))));
    });
    let payload = "x".repeat(128);
    report.one("WebSocket: encode a frame of 128 bytes", 2.0, |_| {
        black_box(ws::text_frame(payload.as_bytes()));
    });
    let frame = support::emit("news", 128);
    let mut decoder = Decoder::new();
    report.one("control: decode a frame", 0.0, |_| {
        black_box(decoder.next(&frame, 1 << 20).expect("a good frame").body);
    });
    let body = String::from_utf8_lossy(&frame[4..frame.len() - 1]).into_owned();
    report.one("JSON: find five members of a command of 128 bytes", 0.0, |_| {
        let names = ["action", "channel", "data", "params", "userId"];
        black_box(json::members(&body, &names).expect("JSON"));
    });
    let body = r#"{"action":"get","channel":"key000000","params":{}}"#;
    report.one("JSON: walk the members of a command of 50 bytes", 0.0, |_| {
        json::each_member(black_box(body), json::DEPTH_MAX, |key, value| {
            black_box((key, json::text(value)));
        })
        .expect("JSON");
    });
    let mut out = Vec::with_capacity(1024);
    report.one("SockJS: frame a message", 0.0, |_| {
        out.clear();
        sockjs::message_into(&mut out, black_box(&message));
    });
    let publication_bytes = format!("\"{payload}\"");
    for (name, form, bound) in [("raw", Form::Raw, 3.0), ("SockJS", Form::SockJs, 4.0)] {
        report.one(&format!("publication: first frame of 128 bytes, {name}"), bound, |_| {
            let publication = Publication::new("news", &publication_bytes);
            black_box(publication.frame(form));
        });
    }
}

fn tokens(report: &mut Report) {
    let token = jwt::sign("user-000001", support::KEY, None);
    report.one("token: verify", 4.0, |_| {
        black_box(jwt::verify(&token, &[support::KEY], NOW.seconds()).expect("a good token"));
    });
}

fn wheel(report: &mut Report) {
    let insert_and_cancel = |timers: u64| {
        let mut wheel = Wheel::new(0);
        for n in 0..timers {
            wheel.insert(25_000 + n % 1000, n);
        }
        measure(|n| {
            let timer = wheel.insert(25_000 + n as u64 % 1000, 0);
            black_box(wheel.cancel(timer));
        })
    };
    let (few, many) = (insert_and_cancel(10), insert_and_cancel(1_000_000));
    report.grown("wheel: insert and cancel, among a million timers", few, many);
    let mut wheel = Wheel::new(0);
    let mut now = 0;
    report.one("wheel: insert, expire a heartbeat later", 0.0, |n| {
        wheel.insert(now + 25_000, n);
        now += 25;
        wheel.advance(now);
        while let Some(expired) = wheel.pop_expired() {
            black_box(expired);
        }
    });
}

/// A route to a connection that does not exist.
fn route() -> Route {
    Route::of_socket(ConnId::new(0, 0), Form::Raw)
}

/// Counts deliveries.
struct Counter(usize);

impl Outbox for Counter {
    fn deliver(&mut self, _: Route, _: &Publication<'_>) {
        self.0 += 1;
    }
    fn close(&mut self, _: Route, reason: CloseReason) {
        panic!("closed: {reason}");
    }
}

/// A hub with a namespace whose channel has `members` members; and `others` each of channels with
/// one subscriber, namespaces and states.
fn hub(others: usize, members: usize) -> (Hub, NsId, Vec<PeerId>) {
    let limits = Limits {
        namespaces: 10_000_000,
        states_bytes: 1 << 40,
        states_bytes_per_namespace: 1 << 40,
        channels_per_connection: 1_000_000,
        ..Limits::default()
    };
    let mut hub = Hub::new(limits, NOW);
    let mut out = Counter(0);
    let mut apply = |hub: &mut Hub, change| {
        hub.apply(NOW, &change, None, &mut out).expect("room for it");
    };
    let register = |name: String| Change::Register { name: name.into(), key: support::KEY.into() };
    apply(&mut hub, register(support::NAMESPACE.into()));
    let ns = hub.namespace(support::NAMESPACE).expect("it is there");
    for n in 0..others {
        let peer = hub.connect(ns, &format!("other-{n}"), Uuid::from_random([0; 16]), route());
        hub.subscribe(peer.expect("room"), &format!("channel-{n}"), NOW).expect("room");
        let channel = format!("state-{n}").into();
        let (data, ttl_ms) = ("1".into(), Some(1_000_000));
        apply(&mut hub, Change::Set { ns, channel, user: None, data, ttl_ms, emit: false });
        if n % 10 == 0 {
            apply(&mut hub, register(format!("site-{n}")));
        }
    }
    let mut peers = Vec::with_capacity(members);
    for n in 0..members {
        let peer = hub.connect(ns, &format!("user-{n}"), Uuid::from_random([0; 16]), route());
        peers.extend(peer);
        hub.subscribe(peers[n], "news", NOW).expect("room");
    }
    (hub, ns, peers)
}

fn hubs(report: &mut Report) {
    let emit = |others: usize| {
        let (mut hub, ns, _) = hub(others, 10);
        let mut out = Counter(0);
        measure(|_| {
            let (channels, data) = (vec!["news".into()].into(), "1".into());
            let change = Change::Emit { ns, channels, data, user: None, except: None };
            hub.apply(NOW, &change, None, &mut out).expect("the namespace is there");
        })
    };
    let (few, many) = (emit(0), emit(1_000_000));
    report.grown("hub: emit to 10, among a million channels and states", few, many);
    let rejoin = |members: usize| {
        let (mut hub, _, peers) = hub(0, members);
        measure(|n| {
            // Members at the front, the middle and the end.
            let peer = peers[(n * 7919) % peers.len()];
            assert!(hub.unsubscribe(peer, "news"));
            black_box(hub.subscribe(peer, "news", NOW).is_ok());
        })
    };
    let (few, many) = (rejoin(10), rejoin(100_000));
    report.grown("hub: unsubscribe and subscribe, among 100,000 members", few, many);
}

fn main() {
    let mut report = Report { is_good: true };
    codecs(&mut report);
    tokens(&mut report);
    wheel(&mut report);
    hubs(&mut report);
    std::process::exit(i32::from(!report.is_good));
}
