//! B1 to B11: what crashed the original.

use super::{emit, get, refusal, set, subscribe};
use crate::common::browser::{Browser, RAW, SOCKJS, auth_message, message, upgrade};
use crate::common::control::{DONE, frame};
use crate::common::http;
use crate::common::server::{DEMO_KEY, Options, Server};
use crate::common::token::{odd, token};
use crate::common::wire::Wire;
use std::io::Write;

#[test]
fn b01_a_frame_may_begin_with_fewer_than_four_bytes() {
    let mut server = Server::new();
    let bytes = frame(br#"{"action":"ping"}"#);
    for first in 1..bytes.len() {
        let mut control = server.control();
        control.send_raw(&bytes[..first]);
        control.send_raw(&bytes[first..]);
        assert_eq!(control.recv(), DONE, "{first} bytes first");
    }
    let mut control = server.control();
    control.send_split(&bytes.repeat(3));
    for _ in 0..3 {
        assert_eq!(control.recv(), DONE);
    }
    // And a frame that never continues.
    let mut control = server.control();
    control.send_raw(&bytes[..2]);
    drop(control);
    server.assert_alive();
}

#[test]
fn b02_invalid_json_closes_only_its_connection() {
    let mut server = Server::new();
    let bodies: [&[u8]; 8] = [
        b"hello",
        b"{",
        b"{'action':'ping'}",
        b"\xef\xbb\xbf{\"action\":\"ping\"}",
        b"{\"action\":\"ping\"}\0",
        b"{\"action\":\"ping\"} x",
        b" ",
        b"\xff\xfe",
    ];
    for body in bodies {
        let mut control = server.control();
        control.send_raw(&frame(body));
        // An error reply may come first.
        if let Some(reply) = control.next().unwrap() {
            assert!(reply.starts_with(r#"{"success":false,"#), "{body:?}: {reply}");
            control.expect_closed();
        }
    }
    let mut control = server.controller("demo");
    assert_eq!(control.ask("null"), refusal(300, "Need action"));
    control.ok(r#"{"hasOwnProperty":1,"action":"ping","__proto__":{"action":"x"}}"#);
    control.ok(r#"{"action":"emit","channel":"c","data":1,"params":{"hasOwnProperty":1}}"#);
    server.assert_alive();
}

#[test]
fn b03_params_and_channel_may_be_absent_or_null() {
    let mut server = Server::new();
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    for params in ["", r#","params":null"#] {
        control.ok(&format!(r#"{{"action":"set","channel":"c","data":1{params}}}"#));
        let reply = control.ask(&format!(r#"{{"action":"get","channel":"c"{params}}}"#));
        assert_eq!(reply, "1");
        control.ok(&format!(r#"{{"action":"set","channel":"c","data":null{params}}}"#));
        control.ok(&format!(r#"{{"action":"emit","channel":"c","data":2{params}}}"#));
        browser.expect(&message("c", "2"));
        for action in ["subscribe", "unsubscribe"] {
            let reply =
                control.ask(&format!(r##"{{"action":"{action}","channel":"#c"{params}}}"##));
            assert_eq!(reply, refusal(300, "Need argument params"));
        }
    }
    for action in ["subscribe", "unsubscribe"] {
        let command = format!(r#"{{"action":"{action}","channel":null,"params":{{"userId":1}}}}"#);
        assert_eq!(control.ask(&command), refusal(300, "Need argument channel"));
    }
    server.assert_alive();
}

#[test]
fn b04_an_invalid_ttl_is_refused() {
    let mut server = Server::new();
    let mut control = server.controller("demo");
    control.ok(&set("c", "\"before\"", "{}"));
    for ttl in ["1.5", "\"x\"", "{}", "[]", "true", "-1", "1e300", "9007199254740993", "\"1e9\""] {
        let command = set("c", "\"after\"", &format!(r#"{{"ttl":{ttl}}}"#));
        assert_eq!(control.ask(&command), refusal(300, "Invalid argument params.ttl"), "{ttl}");
    }
    assert_eq!(control.ask(&get("c")), "\"before\"");
    server.assert_alive();
}

/// There is no store that others could write to. The nearest equivalent: states that other parsers
/// choke on.
#[test]
fn b05_odd_states_are_read_and_sent() {
    let mut server = Server::new();
    let mut control = server.controller("demo");
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let deep = nested(60);
    for state in ["\"\\ud800\"", "1e400", "\"\u{fffd}\"", "{\"a\":1,\"a\":2}", &deep] {
        control.ok(&set("c", state, "{}"));
        assert_eq!(control.ask(&get("c")), state);
        let mut browser = server.browser("demo", r#"{"i":1}"#);
        browser.say(&subscribe("c"));
        browser.expect(&message("c", state));
    }
    // JSON nested too deep for most readers is refused.
    let mut other = server.controller("demo");
    other.send(&set("c", &nested(100_000), "{}"));
    let refused = r#"{"success":false,"reason":"Nested too deep, at most 64 levels","code":300}"#;
    assert_eq!(other.recv(), refused);
    assert_eq!(other.ask(r#"{"action":"ping"}"#), DONE);
    // Invalid UTF-8 is replaced, as the original does, and reads back as valid UTF-8.
    control.send_raw(&frame(
        b"{\"action\":\"set\",\"channel\":\"c\",\"data\":\"\xff\",\"params\":{}}",
    ));
    assert_eq!(control.recv(), DONE);
    assert_eq!(control.ask(&get("c")), "\"\u{fffd}\"");
    server.assert_alive();
}

/// Sends `auth` with a token given as raw JSON, and is refused.
#[track_caller]
fn assert_invalid(server: &Server, token: &str) {
    let mut browser = Browser::raw(server.ws);
    browser.say(&format!(r#"{{"event":"auth","data":{{"i":"demo","s":{token}}}}}"#));
    browser.expect_closed(3404, "invalid JWT");
}

#[test]
fn b06_odd_tokens_are_invalid() {
    let mut server = Server::new();
    for token in ["5", "true", "[\"x\"]", "{\"a\":1}", "\"..\"", "\"a.b.c\"", "\"\\u0000\""] {
        assert_invalid(&server, token);
    }
    for header in [
        "null",
        "5",
        "[]",
        "",
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"constructor"}"#,
        r#"{"alg":"__proto__"}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"none"}"#,
    ] {
        assert_invalid(&server, &format!("\"{}\"", odd(header, r#"{"i":1}"#, DEMO_KEY)));
    }
    server.assert_alive();
}

#[test]
fn b07_odd_payloads_are_invalid() {
    let mut server = Server::new();
    for payload in ["null", "5", "\"x\"", "[]", "{}", "", "{", r#"{"i":null}"#, r#"{"i":{}}"#] {
        assert_invalid(&server, &format!("\"{}\"", token(payload, DEMO_KEY)));
    }
    server.assert_alive();
}

#[test]
fn b08_subscribe_counts_right_behind_auth_and_not_before() {
    let mut server = Server::new();
    let mut control = server.controller("demo");
    control.ok(&set("c", "\"state\"", "{}"));
    for path in [RAW, SOCKJS] {
        let mut browser = Browser::open(server.ws, path, &[], &[]).unwrap();
        if path == SOCKJS {
            assert_eq!(browser.hear(), "o");
        }
        // A subscribe before auth has no effect, also after auth.
        browser.subscribe("c");
        browser.auth("demo", r#"{"i":1}"#);
        control.ok(&emit("c", "1"));
        browser.nothing();
        assert_eq!(control.connections("c"), 0);
        // After that it can subscribe as usual.
        browser.say(&subscribe("c"));
        browser.expect(&message("c", "\"state\""));
        browser.drop_connection(false);

        let mut browser = Browser::open(server.ws, path, &[], &[]).unwrap();
        browser.wire().hold();
        browser.say(&auth_message("demo", &token(r#"{"i":1}"#, DEMO_KEY)));
        browser.say(&subscribe("c"));
        browser.wire().release();
        if path == SOCKJS {
            assert_eq!(browser.hear(), "o");
        }
        assert!(browser.hear().contains("auth ok"));
        browser.expect(&message("c", "\"state\""));
        control.ok(&emit("c", "2"));
        browser.expect(&message("c", "2"));
        browser.drop_connection(true);
        crate::common::eventually("both have left", || {
            (control.connections("c") == 0).then_some(())
        });
    }
    server.assert_alive();
}

#[test]
fn b09_another_identity_leaves_all_channels() {
    let mut server = Server::new();
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    let cid = browser.auth("demo", r#"{"i":1}"#);
    assert_eq!(control.connections("c"), 1, "the same identity keeps them");
    assert_eq!(browser.auth("demo", r#"{"i":2}"#), cid);
    assert_eq!(control.connections("c"), 0);
    control.ok(&emit("c", "1"));
    browser.nothing();
    browser.subscribe("c");
    // The same user in another namespace is a different user.
    assert_eq!(browser.auth("other", r#"{"i":2}"#), cid);
    control.ok(&emit("c", "2"));
    browser.nothing();
    browser.drop_connection(false);
    server.assert_alive();
}

#[test]
fn b10_a_reset_after_an_upgrade_on_a_wrong_path_is_survived() {
    let mut server = Server::new();
    for path in ["/", "/other", "/socket/nope", "/socket/a/b/nope", "/socketx/websocket"] {
        let mut wire = Wire::tcp(server.ws);
        wire.write_all(upgrade(path, &[]).as_bytes()).unwrap();
        wire.half_close();
        let answer = http::answer(&wire.read_rest().unwrap()).unwrap();
        assert_eq!(answer.status, 404, "{path}");

        let mut wire = Wire::tcp(server.ws);
        wire.write_all(upgrade(path, &[]).as_bytes()).unwrap();
        wire.reset();
    }
    for path in [RAW, SOCKJS] {
        let browser = Browser::open(server.ws, path, &[], &[]).unwrap();
        browser.drop_connection(true);
    }
    server.assert_alive();
}

/// States live in memory; what can fail is that a limit is reached.
#[test]
fn b11_a_state_that_cannot_be_stored_is_an_error() {
    let mut server = Server::start(&Options::limits(&[("states_per_namespace", 1)]));
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("b");
    control.ok(&set("a", "1", "{}"));
    let reply = control.ask(&set("b", "2", r#"{"emit":true}"#));
    assert_eq!(reply, refusal(313, "Too many states, at most 1"));
    browser.nothing();
    assert_eq!(control.ask(&get("b")), "null");
    // An existing state can be replaced, and removing it makes room.
    control.ok(&set("a", "3", "{}"));
    control.ok(&set("a", "null", "{}"));
    control.ok(&set("b", "2", "{}"));
    server.assert_alive();
}
