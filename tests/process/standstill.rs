//! A server process that stands still for a while, as in a paused container: peers that acted in
//! time are not closed because the server looked late, and expiry dates still hold.

use std::time::{Duration, Instant};

use crate::common::browser::{Browser, auth_message};
use crate::common::control::{Control, frame};
use crate::common::server::{Options, Server, key_of};
use crate::common::token::token;
use crate::common::web::{Http, session_on};
use serde_json::json;

/// Every deadline that is tested here.
const WITHIN_MS: u64 = 1500;
/// How long the process stands still: longer than every deadline.
const STOOD_MS: u64 = 4000;
/// More connections than are read, or timed out, in one turn.
const CROWD: usize = 80;

/// A server with this deadline for browsers to authenticate.
fn server(auth_ms: u64) -> Server {
    let mut options = Options::limits(&[
        ("auth_ms", auth_ms),
        ("control_auth_ms", WITHIN_MS),
        ("control_frame_ms", WITHIN_MS),
        ("http_head_ms", WITHIN_MS),
        ("session_ms", WITHIN_MS),
        ("heartbeat_ms", 30_000),
    ]);
    options.config["admin"] = json!("127.0.0.1:0");
    Server::start(&options)
}

/// Freezes the process while `act` runs, and for `STOOD_MS` after it.
fn while_frozen(server: &Server, act: impl FnOnce()) {
    server.freeze();
    act();
    std::thread::park_timeout(Duration::from_millis(STOOD_MS));
    server.thaw();
}

#[test]
fn peers_that_acted_in_time_survive_a_standstill() {
    let server = server(WITHIN_MS);
    let mut polls: Vec<Http> = Vec::new();
    let sessions: Vec<String> = (0..4).map(|user| session_on(server.ws, user + 1, "c")).collect();
    let mut browsers: Vec<Browser> = (0..CROWD).map(|_| Browser::raw(server.ws)).collect();
    let mut heads: Vec<Http> = (0..CROWD).map(|_| Http::connect(server.ws)).collect();
    heads.iter_mut().for_each(|it| it.raw("GET /socket/info HTTP/1.1\r\n"));
    let mut back_ends: Vec<Control> = (0..8).map(|_| Control::tcp(server.control)).collect();
    let auth = frame(
        json!({ "action": "auth", "name": "demo", "sKey": key_of("demo") }).to_string().as_bytes(),
    );
    back_ends.iter_mut().for_each(|it| it.send_raw(&auth[..9]));
    let mut control = server.controller("demo");
    control.ok(r#"{"action":"set","channel":"brief","data":1,"params":{"ttl":2}}"#);
    control.ok(r#"{"action":"set","channel":"lasting","data":1,"params":{"ttl":3600}}"#);

    while_frozen(&server, || {
        for (user, browser) in browsers.iter_mut().enumerate() {
            let payload = json!({ "i": user + 1 }).to_string();
            browser.say(&auth_message("demo", &token(&payload, key_of("demo"))));
        }
        heads.iter_mut().for_each(|it| it.raw("Host: a\r\n\r\n"));
        back_ends.iter_mut().for_each(|it| it.send_raw(&auth[9..]));
        for place in &sessions {
            let mut poll = Http::connect(server.ws);
            poll.send(&format!("POST /socket/{place}/xhr"), &[], "");
            polls.push(poll);
        }
    });

    for browser in &mut browsers {
        let text = browser.hear();
        assert!(text.contains("auth ok"), "{text}");
    }
    for head in &mut heads {
        assert_eq!(head.answer().status, 200);
    }
    for back_end in &mut back_ends {
        assert_eq!(back_end.recv(), r#"{"success":true}"#);
    }
    control.ok(r#"{"action":"emit","channel":"c","event":"e","data":"back"}"#);
    for poll in &mut polls {
        let body = poll.answer().body;
        assert!(body.starts_with("a[") && body.contains("back"), "{body}");
    }
    // A state expires at its date.
    let brief = control.ask(r#"{"action":"get","channel":"brief"}"#);
    assert_eq!(brief, "null");
    let lasting = control.ask(r#"{"action":"get","channel":"lasting"}"#);
    assert_eq!(lasting, "1");
    server.told("the process stood still for");
    let seconds = server.metric("fws_stood_still_seconds_total");
    assert!(seconds >= 3.0, "{seconds} s");
}

#[test]
fn a_standstill_postpones_deadlines_by_its_length() {
    let server = server(2 * WITHIN_MS);
    let mut silent = Browser::raw(server.ws);
    while_frozen(&server, || ());
    // More than its whole deadline has passed by now, yet most of it is left.
    let start = Instant::now();
    silent.expect_closed(3408, "no auth in time");
    assert!(start.elapsed() >= Duration::from_millis(WITHIN_MS / 2), "{:?}", start.elapsed());
    server.told("stood still");
}
