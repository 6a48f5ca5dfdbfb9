//! Counts without noise: allocations for one emit to a thousand subscribers and for 64 commands of
//! a back end, and user memory per idle subscriber with ten thousand of them. Runs the real reactor
//! and switch in this process, over loopback sockets. Fails if a count exceeds its bound.

#[path = "support/mod.rs"]
mod support;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::TcpStream;

use fws::edge::Door;
use fws::journal::MemoryJournal;
use fws::limits::Limits;
use fws::reactor::{Bounds, Listener, Reactor};
use fws::slow::Rules;
use fws::switch::{Settings, Switch};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The server; it and its clients share one thread.
struct World {
    reactor: Reactor,
    switch: Switch,
    ws: String,
    control: String,
}

impl World {
    fn new() -> std::io::Result<World> {
        let bounds = Bounds {
            connections: 20_000,
            admissions_per_second: 1_000_000,
            admissions_burst: 1_000_000,
            control_reserve: 0,
            control_unread_max: 64,
            admin_connections: 0,
            close_ms: 1000,
            drain_ms: 1000,
            input_bytes: 67_108_864,
            slow: Rules::new(&Limits::default()),
        };
        let mut reactor = Reactor::new(bounds)?;
        let any = "127.0.0.1:0".parse().expect("an address");
        let doors = [Listener::tcp(Door::Web, any)?, Listener::tcp(Door::Control, any)?];
        let [ws, control] = doors.each_ref().map(Listener::address);
        for door in doors {
            reactor.add_door(door)?;
        }
        let settings = Settings::new(Limits::default(), "a key of the benches", reactor.now());
        let mut switch = Switch::new(settings, MemoryJournal::default());
        assert!(switch.declare(support::NAMESPACE, support::KEY).is_some(), "a new namespace");
        Ok(World { reactor, switch, ws, control })
    }

    /// Runs turns until a client has received enough, or its connection has ended.
    fn read_until(&mut self, stream: &mut TcpStream, is_enough: impl Fn(&[u8]) -> bool) {
        stream.set_nonblocking(true).expect("a socket");
        let mut got = Vec::new();
        let mut piece = [0; 4096];
        while !is_enough(&got) {
            match stream.read(&mut piece) {
                Ok(0) => panic!("closed: {}", String::from_utf8_lossy(&got)),
                Ok(count) => got.extend_from_slice(&piece[..count]),
                Err(_) => self.reactor.turn(&mut self.switch).expect("a turn"),
            }
        }
    }

    fn subscribers(&mut self, count: usize, channel: &str) -> Vec<TcpStream> {
        let mut all = Vec::with_capacity(count);
        for n in 0..count {
            let mut stream = TcpStream::connect(&self.ws).expect("a connection");
            stream.write_all(&support::hello(n, channel)).expect("room for a request");
            self.read_until(&mut stream, |got| got.ends_with(support::HELLO_END));
            all.push(stream);
        }
        all
    }

    fn controller(&mut self) -> TcpStream {
        let mut stream = TcpStream::connect(&self.control).expect("a connection");
        stream.write_all(&support::auth()).expect("room for a request");
        self.read_until(&mut stream, |got| got.ends_with(b"}\0"));
        stream
    }
}

/// Allocations of the server for one emit, once its pools have grown.
fn allocations_per_emit(subscribers: usize) -> usize {
    let mut world = World::new().expect("doors");
    let mut peers = world.subscribers(subscribers, "news");
    let mut controller = world.controller();
    let emit = support::emit("news", 128);
    let mut piece = [0; 4096];
    let mut fewest = usize::MAX;
    for _ in 0..5 {
        controller.write_all(&emit).expect("room for a request");
        let region = Region::new(ALLOCATOR);
        loop {
            world.reactor.turn(&mut world.switch).expect("a turn");
            if controller.read(&mut piece).is_ok() {
                break;
            }
        }
        fewest = fewest.min(region.change().allocations);
        for peer in &mut peers {
            while peer.read(&mut piece).is_err() {
                world.reactor.turn(&mut world.switch).expect("a turn");
            }
        }
    }
    fewest
}

/// Allocations of the server for one visit, once its pools have grown: a client connects, upgrades,
/// authenticates, subscribes and leaves, while others stay.
fn allocations_per_visit() -> usize {
    let mut world = World::new().expect("doors");
    let _others = world.subscribers(10, "news");
    let (hello, address) = (support::hello(77, "news"), world.ws.parse().expect("an address"));
    let mut piece = [0; 4096];
    let mut fewest = usize::MAX;
    for _ in 0..50 {
        let address: std::net::SocketAddr = address;
        let region = Region::new(ALLOCATOR);
        let mut visitor = TcpStream::connect(address).expect("a connection");
        visitor.set_nonblocking(true).expect("a socket");
        visitor.write_all(&hello).expect("room for a request");
        let mut got = 0;
        while !piece[..got].ends_with(support::HELLO_END) {
            world.reactor.turn(&mut world.switch).expect("a turn");
            got += visitor.read(&mut piece[got..]).unwrap_or_default();
        }
        drop(visitor);
        while world.switch.census().ways.raw > 10 {
            world.reactor.turn(&mut world.switch).expect("a turn");
        }
        fewest = fewest.min(region.change().allocations);
    }
    fewest
}

/// Allocations of the server for 64 pipelined commands, each with a new value, on keys that it has
/// seen before.
fn allocations_per_64(action: &str) -> usize {
    let mut world = World::new().expect("doors");
    let mut controller = world.controller();
    let mut fewest = usize::MAX;
    for round in 0..5 {
        let mut commands = Vec::new();
        for n in 0..64 {
            let data = format!("{:0>128}", round * 64 + n);
            let action = if round == 0 { "set" } else { action };
            let what = format!(r#""action":"{action}","channel":"key-{n:02}","data":"{data}""#);
            commands.extend(support::frame(&format!(r#"{{{what},"params":{{}}}}"#)));
        }
        controller.write_all(&commands).expect("room for a request");
        // A reply has two quotes, be it `{"success":true}` or a value.
        let (mut left, mut piece) = (2 * 64, [0; 4096]);
        let region = Region::new(ALLOCATOR);
        while left > 0 {
            match controller.read(&mut piece) {
                Ok(count) => left -= piece[..count].iter().filter(|byte| **byte == b'"').count(),
                Err(_) => world.reactor.turn(&mut world.switch).expect("a turn"),
            }
        }
        fewest = fewest.min(region.change().allocations);
    }
    fewest
}

/// Heap bytes per idle subscriber; each has its own user, and all share one channel.
fn bytes_per_idle_subscriber(count: usize) -> usize {
    let mut world = World::new().expect("doors");
    // The first subscribers pay for what all of them share.
    let _first = world.subscribers(64, "news");
    let region = Region::new(ALLOCATOR);
    let mut others = Vec::with_capacity(count);
    let list = region.change();
    for n in 0..count {
        let mut stream = TcpStream::connect(&world.ws).expect("a connection");
        stream.write_all(&support::hello(100 + n, "news")).expect("room for a request");
        world.read_until(&mut stream, |got| got.ends_with(support::HELLO_END));
        others.push(stream);
    }
    let change = region.change();
    let live = |stats: &stats_alloc::Stats| stats.bytes_allocated - stats.bytes_deallocated;
    (live(&change) - live(&list)) / count
}

fn main() {
    let mut is_good = true;
    let mut report = |what: &str, value: usize, bound: usize| {
        let verdict = if value <= bound { "ok" } else { "TOO MANY" };
        is_good &= value <= bound;
        println!("{what}: {value} (at most {bound}) {verdict}");
    };
    let (few, many) = (allocations_per_emit(10), allocations_per_emit(1000));
    report("allocations per emit to 10 subscribers", few, 2);
    report("allocations per emit to 1000 subscribers", many, 2);
    report("additional allocations for 990 more subscribers", many.saturating_sub(few), 0);
    report("allocations per visit", allocations_per_visit(), 13);
    for action in ["set", "get", "emit"] {
        let what = format!("allocations for 64 {action} commands in one read");
        report(&what, allocations_per_64(action), 2);
    }
    report("heap bytes per idle subscriber of 9000", bytes_per_idle_subscriber(9000), 600);
    std::process::exit(i32::from(!is_good));
}
