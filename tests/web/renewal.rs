//! Token renewal while states are in flight to the browser: its requests wait behind them, but the
//! renewal counts as in time. Drives the real binary from outside.

// A test that cannot go on panics, and so do its helpers.

use crate::common::browser::{Browser, SOCKJS, auth_message};
use crate::common::control::{Control, wait};
use crate::common::eventually;
use crate::common::server::{DEMO_KEY, Options, Server};
use crate::common::token::token;
use crate::common::web::{Http, post, session};
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

const STATE_BYTES: usize = 3_000_000;

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn renewal(user: &str, end: u64) -> String {
    auth_message("demo", &token(&json!({ "i": user, "exp": end }).to_string(), DEMO_KEY))
}

fn subscribe(channel: &str) -> String {
    json!({ "event": "subscribe", "data": channel, "clb": 7 }).to_string()
}

const OK: &str = r#"{"event":"callBackAnswer","clb":7,"data":{"ok":true}}"#;

/// A server with small kernel send buffers and a large state in channel `c`.
fn server(limits: &[(&str, u64)]) -> (Server, Control) {
    let never = [("kernel_send_bytes", 16_384), ("close_ms", 600_000)];
    let server = Server::start(&Options::limits(&[&never[..], limits].concat()));
    let mut control = server.controller("demo");
    let data = "x".repeat(STATE_BYTES);
    control.ok(&format!(r#"{{"action":"set","channel":"c","data":"{data}"}}"#));
    (server, control)
}

/// A browser of this user that does not read the state of `c`, and whose token expires at `end`.
fn held(server: &Server, path: &str, user: &str, end: u64) -> Browser {
    let mut browser = match path {
        SOCKJS => Browser::sockjs(server.ws),
        _ => Browser::raw(server.ws),
    };
    browser.say(&renewal(user, end));
    assert!(browser.hear().contains("auth ok"));
    browser.say(&subscribe("c"));
    browser
}

#[track_caller]
fn expect_state(browser: &mut Browser) {
    browser.expect(OK);
    assert!(browser.hear().len() > STATE_BYTES);
}

#[test]
fn a_token_renewal_queued_behind_states_is_in_time() {
    let (server, mut control) = server(&[]);
    for path in ["raw", SOCKJS] {
        let end = seconds() + 4;
        let mut renewed = held(&server, path, "a", end);
        let mut late = held(&server, path, "b", end);
        let mut other = held(&server, path, "c", end);
        let mut far = held(&server, path, "d", end);
        eventually("four are subscribed", || (control.connections("c") == 4).then_some(()));
        // One request before the renewal and one after it.
        renewed.say(&subscribe("e"));
        renewed.say(&renewal("a", end + 3600));
        renewed.say(&subscribe("\u{1}\"f"));
        late.say(&subscribe("e"));
        // Neither another user's token nor an invalid one is a renewal.
        other.say(&renewal("x", end + 3600));
        other.say(&auth_message("demo", "bad"));
        // This renewal is behind more input than the server reads ahead.
        for _ in 0..20 {
            far.say(&subscribe(&"x".repeat(1000)));
        }
        far.say(&renewal("d", end + 3600));
        eventually("three are unsubscribed", || (control.connections("c") == 1).then_some(()));
        assert!(seconds() >= end);
        // The renewed connection lives on; its other requests wait for their turn.
        assert_eq!(control.connections("e"), 0);
        expect_state(&mut renewed);
        // If the machine stood still meanwhile, its token may have expired a little later than the
        // others': then the renewal may have been read in its turn.
        let said = [(); 3].map(|()| renewed.hear());
        assert_eq!(said.iter().filter(|said| **said == renewed.form(OK)).count(), 2, "{said:?}");
        let is_renewed = |said: &String| said.contains("auth ok") && said.contains("expiresIn");
        assert!(said.iter().any(is_renewed), "{said:?}");
        renewed.nothing();
        assert_eq!(control.connections("e"), 1);
        for mut ended in [late, other, far] {
            expect_state(&mut ended);
            match path {
                SOCKJS => assert_eq!(ended.hear(), "c[3401,\"token expired\"]"),
                _ => ended.expect_closed(3401, "token expired"),
            }
        }
        drop(renewed);
        eventually("it is unsubscribed", || (control.connections("c") == 0).then_some(()));
    }
}

#[test]
fn several_token_renewals_may_queue_behind_the_same_states() {
    let (server, mut control) = server(&[]);
    let end = seconds() + 2;
    let mut browser = held(&server, "raw", "a", end);
    browser.say(&renewal("a", end + 1));
    browser.say(&subscribe("e"));
    browser.say(&renewal("a", end + 3600));
    // Both expiry times pass.
    while seconds() < end + 2 {
        wait(&mut control, 50);
    }
    expect_state(&mut browser);
    let said = [(); 3].map(|()| browser.hear());
    assert_eq!(said.iter().filter(|said| said.contains("auth ok")).count(), 2, "{said:?}");
    browser.nothing();
}

#[test]
fn a_token_renewal_over_http_behind_waiting_answers_is_in_time() {
    let (server, mut control) = server(&[("session_ms", 60_000)]);
    let open = |user: &str, end| {
        let path = format!("/socket/{}", session());
        assert_eq!(post(server.ws, &format!("{path}/xhr"), "").1, "o\n");
        let first = json!([renewal(user, end)]).to_string();
        assert_eq!(post(server.ws, &format!("{path}/xhr_send"), &first).0, 204);
        assert!(post(server.ws, &format!("{path}/xhr"), "").1.contains("auth ok"));
        path
    };
    let send = |path: &str, messages: &[String]| {
        let mut http = Http::connect(server.ws);
        http.send(&format!("POST {path}/xhr_send"), &[], &json!(messages).to_string());
        http
    };
    let end = seconds() + 4;
    let (renewed, late) = (open("a", end), open("b", end));
    let (c, e, f) = (subscribe("c"), subscribe("e"), subscribe("f"));
    let mut sent = send(&renewed, &[c.clone(), e.clone(), renewal("a", end + 3600), f.clone()]);
    send(&late, &[c, e]);
    eventually("both are subscribed", || (control.connections("c") == 2).then_some(()));
    eventually("one is unsubscribed", || (control.connections("c") == 1).then_some(()));
    assert!(seconds() >= end);
    let poll = |path: &str| post(server.ws, &format!("{path}/xhr"), "").1;
    // As above: the answer to the renewal comes with the state or after it.
    let (first, next) = (poll(&renewed), poll(&renewed));
    assert!(first.len() > STATE_BYTES, "{}", first.len());
    assert_eq!([first, next.clone()].concat().matches("auth ok").count(), 1);
    assert_eq!(next.matches("callBackAnswer").count(), 2);
    assert_eq!(sent.answer().status, 204);
    assert!(poll(&late).len() > STATE_BYTES);
    assert_eq!(poll(&late), "c[3401,\"token expired\"]\n");
}
