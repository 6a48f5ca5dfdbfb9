//! The server for the tests of `sockjs-protocol`, `sockjs-client` and Autobahn: echo and similar
//! services on the reactor, codecs and sessions of the real server, with its own application.
//!
//! ```sh
//! cargo run --release --example conformance -- --listen 127.0.0.1:8081
//! ```
//!
//! It prints `listening ADDRESS` and runs until it is killed. The raw endpoint has no heartbeat:
//! Autobahn sends its pong in the middle of a frame that it writes in pieces.
// An example reports errors on standard error.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::process::ExitCode;

use fws::codec::http::{Head, Response};
use fws::codec::ws::Bounds as MessageBounds;
use fws::edge::{Door, Net};
use fws::limits::Limits;
use fws::reactor::{Bounds, Listener, Reactor};
use fws::reason::CloseReason;
use fws::web::{Application, Message, Outlet, Parting, Service, Standalone};

/// Largest frame and message, over WebSocket and in a request body.
const MESSAGE_BYTES: usize = 32 << 20;
/// Most fragments per message: Autobahn sends 4 MiB in fragments of 64 bytes.
const FRAGMENTS: usize = 70_000;
/// Where `sockjs-protocol` expects a streamed answer to end.
const RESPONSE_BYTES: usize = 4096;

/// The behaviour of each service, in their order.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// Sends back what it receives.
    Echo,
    /// Sends 2^N letters when it receives N.
    Amplify,
}

/// The application.
#[derive(Debug)]
struct Echoes;

impl Application for Echoes {
    type Peer = Peer;

    fn opened(&mut self, _: &mut Outlet<'_, impl Net>, service: usize) -> Result<Peer, Parting> {
        match service {
            CLOSE => {
                let told = Some((3000, "Go away!"));
                Err(Parting { told, reason: CloseReason::Answered, back_ms: None })
            }
            AMPLIFY => Ok(Peer::Amplify),
            _ => Ok(Peer::Echo),
        }
    }

    fn message(
        &mut self,
        outlet: &mut Outlet<'_, impl Net>,
        peer: &mut Peer,
        message: Message<'_>,
    ) -> Result<(), Parting> {
        match (*peer, message) {
            (Peer::Echo, Message::Text(text)) => outlet.send(text),
            (Peer::Echo, Message::Binary(bytes)) => outlet.send_binary(bytes),
            (Peer::Amplify, Message::Text(text)) => {
                let power = text.parse().ok().filter(|power| (1..19).contains(power)).unwrap_or(1);
                outlet.send(&"x".repeat(1 << power));
            }
            (Peer::Amplify, Message::Binary(_)) => {}
        }
        Ok(())
    }

    fn bounds(&self, _: &Peer) -> MessageBounds {
        MessageBounds { message_bytes: MESSAGE_BYTES, fragments: FRAGMENTS }
    }

    fn page(&mut self, _: &mut impl Net, _: &Head<'_>) -> Response {
        Response::new(404).text("nothing here\n")
    }
}

/// Indices into [`services`].
const CLOSE: usize = 3;
const AMPLIFY: usize = 4;

fn services(limits: &Limits) -> Vec<Service> {
    let echo = Service {
        response_bytes: RESPONSE_BYTES,
        raw_heartbeat: false,
        ..Service::new("/echo", limits)
    };
    vec![
        echo.clone(),
        Service {
            websocket: false,
            response_bytes: RESPONSE_BYTES,
            ..Service::new("/disabled_websocket_echo", limits)
        },
        Service {
            cookie: true,
            response_bytes: RESPONSE_BYTES,
            ..Service::new("/cookie_needed_echo", limits)
        },
        Service::new("/close", limits),
        Service::new("/amplify", limits),
    ]
}

fn run(address: &str) -> Result<(), Box<dyn std::error::Error>> {
    let limits = Limits {
        http_body_bytes: 4 * MESSAGE_BYTES,
        // Four peers at a time send the longest messages and read them again; a message in progress
        // takes up to twice its size.
        input_bytes: 8 * MESSAGE_BYTES,
        queued_bytes: 8 * MESSAGE_BYTES,
        // The test cases send as fast as they can.
        messages_per_second: 1_000_000,
        messages_burst: 1_000_000,
        ..Limits::default()
    };
    let mut reactor = Reactor::new(Bounds {
        connections: 10_000,
        admissions_per_second: limits.admissions_per_second,
        admissions_burst: limits.admissions_burst,
        control_reserve: 0,
        control_unread_max: 0,
        admin_connections: 0,
        close_ms: limits.close_ms as u64,
        drain_ms: limits.drain_ms as u64,
        input_bytes: limits.input_bytes,
        slow: fws::slow::Rules::new(&limits),
    })?;
    let door = Listener::tcp(Door::Web, address.parse()?)?;
    println!("listening {}", door.address());
    reactor.add_door(door)?;
    let mut handler = Standalone::new(services(&limits), limits, reactor.now(), Echoes);
    Ok(reactor.run(&mut handler)?)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => "127.0.0.1:8081",
        ["--listen", address] => address,
        _ => {
            eprintln!("usage: conformance [--listen ADDRESS:PORT]");
            return ExitCode::from(2);
        }
    };
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("conformance: {error}");
            ExitCode::FAILURE
        }
    }
}
