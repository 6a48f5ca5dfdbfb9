//! Browsers that exceed their message rate are throttled, and none of their messages is lost. Uses
//! the real binary, from outside.

use crate::common::browser::{Browser, Heard, auth_message, masked};
use crate::common::eventually;
use crate::common::server::{Options, Server};
use crate::common::token::token;
use crate::common::web::{Http, ask, session};
use serde_json::json;
use std::time::{Duration, Instant};

fn low_rate() -> Options {
    Options::limits(&[("messages_per_second", 50), ("messages_burst", 20)])
}

fn ping(clb: usize) -> String {
    format!(r#"{{"event":"ping","clb":{clb}}}"#)
}

fn answer(clb: usize) -> String {
    format!(r#"{{"event":"callBackAnswer","clb":{clb},"data":{{"ok":true}}}}"#)
}

#[test]
fn a_browser_above_its_rate_is_slowed_and_loses_no_message() {
    let server = Server::start(&low_rate());
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.say(r#"{"event":"subscribe","data":"c"}"#);
    let start = Instant::now();
    (0..100).for_each(|clb| browser.say(&ping(clb)));
    let (mut heard, mut emit_at) = (0, None);
    while heard < 100 {
        let text = browser.hear();
        if text == r#"{"event":"c","data":1}"# {
            emit_at = Some(heard);
            continue;
        }
        assert_eq!(text, answer(heard));
        heard += 1;
        if heard == 15 {
            control.ok(r#"{"action":"emit","channel":"c","data":1}"#);
        }
    }
    // Messages to the browser are not throttled.
    assert!(emit_at.is_some_and(|heard| heard < 60), "{emit_at:?}");
    // A burst of twenty, then fifty a second.
    assert!(start.elapsed().as_millis() >= 1500, "{:?}", start.elapsed());
    browser.nothing();
}

#[test]
fn a_throttled_browser_is_still_pinged() {
    let limits = [("messages_per_second", 1), ("messages_burst", 1), ("heartbeat_ms", 200)];
    let server = Server::start(&Options::limits(&limits));
    let mut browser = Browser::raw(server.ws);
    // Ten seconds' worth of tokens: meanwhile the server reads nothing else from it.
    browser.send_raw(&masked(0x8A, b"").repeat(10));
    for _ in 0..4 {
        assert!(matches!(browser.next(), Ok(Heard::Ping)), "no ping");
    }
}

#[test]
fn frames_count_like_messages() {
    let server = Server::start(&low_rate());
    for frames in [
        masked(0x89, b"").repeat(60),
        masked(0x8A, b"").repeat(60),
        [masked(0x01, b""), masked(0x00, b"").repeat(58), masked(0x80, b"")].concat(),
    ] {
        let mut browser = Browser::raw(server.ws);
        let start = Instant::now();
        browser.send_raw(&frames);
        browser.say(&ping(7));
        loop {
            match browser.next().unwrap() {
                Heard::Pong(_) => {}
                Heard::Text(text) => break assert_eq!(text, answer(7)),
                other => panic!("heard {other:?}"),
            }
        }
        assert!(start.elapsed().as_millis() >= 700, "{:?}", start.elapsed());
    }
}

#[test]
fn a_post_above_the_rate_is_answered_later() {
    let server = Server::start(&low_rate());
    let (ws, place) = (server.ws, session());
    assert_eq!(ask(ws, &format!("POST /socket/{place}/xhr"), &[], "").body, "o\n");
    let mut messages =
        vec![auth_message("demo", &token(r#"{"i":1}"#, crate::common::server::DEMO_KEY))];
    messages.extend((0..99).map(ping));
    let start = Instant::now();
    let mut stream = Http::connect(ws);
    stream.send(&format!("POST /socket/{place}/xhr_streaming"), &[], "");
    stream.head();
    stream.chunk();
    let send = format!("POST /socket/{place}/xhr_send");
    let mut sender = Http::connect(ws);
    assert_eq!(sender.ask(&send, &[], &json!(messages).to_string()).status, 204);
    assert!(start.elapsed().as_millis() >= 1500, "{:?}", start.elapsed());
    let mut heard = String::new();
    while !heard.contains(r#"\"clb\":98,"#) {
        heard += &stream.chunk();
    }
    assert_eq!(heard.matches("callBackAnswer").count(), 99);
}

#[test]
fn a_post_above_the_rate_is_answered_after_a_half_close() {
    let server = Server::start(&low_rate());
    let place = session();
    assert_eq!(ask(server.ws, &format!("POST /socket/{place}/xhr"), &[], "").body, "o\n");
    let messages: Vec<String> = (0..60).map(ping).collect();
    let mut sender = Http::connect(server.ws);
    sender.send(&format!("POST /socket/{place}/xhr_send"), &[], &json!(messages).to_string());
    sender.wire.half_close();
    assert_eq!(sender.answer().status, 204);
    sender.expect_end();
    // So much follows that the connection is not read any further.
    let mut sender = Http::connect(server.ws);
    sender.send(&format!("POST /socket/{place}/xhr_send"), &[], &json!([ping(60)]).to_string());
    (0..400).for_each(|_| sender.send("GET /socket", &[], ""));
    sender.wire.half_close();
    assert_eq!(sender.answer().status, 204);
    (0..400).for_each(|_| assert_eq!(sender.answer().body, "Welcome to SockJS!\n"));
    sender.expect_end();
    // Its messages are handled all the same.
    let mut heard = String::new();
    while !heard.contains(r#"\"clb\":60,"#) {
        heard += &ask(server.ws, &format!("POST /socket/{place}/xhr"), &[], "").body;
    }
    assert_eq!(heard.matches("callBackAnswer").count(), 61);
}

#[test]
fn a_returning_client_subscribes_within_the_default_burst() {
    // At this rate, a burst below 128 would make the test time out.
    let server = Server::start(&Options::limits(&[("messages_per_second", 1)]));
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    for number in 0..128 {
        let subscribe = json!({ "event": "subscribe", "data": format!("c{number}"), "clb": 1 });
        browser.say(&subscribe.to_string());
    }
    (0..128).for_each(|_| browser.expect(&answer(1)));
}

#[test]
fn a_throttled_browser_is_not_closed_as_dead() {
    let limits = [
        ("messages_per_second", 1),
        ("messages_burst", 4),
        ("heartbeat_ms", 150),
        ("heartbeat_answer_ms", 150),
    ];
    let server = Server::start(&Options::limits(&limits));
    let mut browser = Browser::raw(server.ws);
    (0..7).for_each(|clb| browser.say(&ping(clb)));
    let mut answers = 0;
    while answers < 7 {
        match browser.next().unwrap() {
            Heard::Text(text) => {
                assert_eq!(text, answer(answers));
                answers += 1;
            }
            Heard::Ping => {}
            other => panic!("heard {other:?}"),
        }
    }
}

#[test]
fn a_throttled_browser_that_disconnects_leaves_at_once() {
    let limits = [("messages_per_second", 1), ("messages_burst", 5)];
    let server = Server::start(&Options::limits(&limits));
    let mut control = server.controller("demo");
    for is_reset in [false, true] {
        let mut browser = server.browser("demo", r#"{"i":1}"#);
        browser.join("c");
        let channel_info = r#"{"action":"channelInfo","channel":"c"}"#;
        assert!(control.ask(channel_info).contains(r#""countConnection":1"#));
        // A minute's worth of tokens; one half arrives before the server stops reading, one after.
        (0..30).for_each(|clb| browser.say(&ping(clb)));
        (0..3).for_each(|clb| browser.expect(&answer(clb)));
        (0..30).for_each(|clb| browser.say(&ping(clb)));
        if is_reset {
            browser.drop_connection(true);
        } else {
            browser.wire().half_close();
        }
        let start = Instant::now();
        eventually("it is gone", || {
            control.ask(channel_info).contains(r#""countConnection":0"#).then_some(())
        });
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[test]
fn a_half_close_behind_throttled_messages_is_noticed_at_once() {
    let limits = [("messages_per_second", 1), ("messages_burst", 5)];
    let server = Server::start(&Options::limits(&limits));
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    let frames: Vec<u8> = (0..60).flat_map(|clb| masked(0x81, ping(clb).as_bytes())).collect();
    server.freeze();
    browser.send_raw(&frames);
    browser.wire().half_close();
    server.thaw();
    let start = Instant::now();
    browser.wire().read_rest().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn rate_tokens_refill_one_by_one() {
    let limits = [("messages_per_second", 10), ("messages_burst", 10)];
    let server = Server::start(&Options::limits(&limits));
    let mut browser = Browser::raw(server.ws);
    let start = Instant::now();
    (0..24).for_each(|clb| browser.say(&ping(clb)));
    let mut longest = Duration::ZERO;
    for clb in 0..24 {
        let before = Instant::now();
        browser.expect(&answer(clb));
        longest = longest.max(before.elapsed());
    }
    // Ten at once, then one every 100 ms, rather than ten every second.
    assert!(longest < Duration::from_millis(500), "{longest:?}");
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(1390), "{elapsed:?}");
    assert!(elapsed < Duration::from_millis(1900), "{elapsed:?}");
}

#[test]
fn posted_messages_are_handled_as_rate_tokens_refill() {
    let limits = [("messages_per_second", 10), ("messages_burst", 10)];
    let server = Server::start(&Options::limits(&limits));
    let place = session();
    assert_eq!(ask(server.ws, &format!("POST /socket/{place}/xhr"), &[], "").body, "o\n");
    let messages: Vec<String> = (0..24).map(ping).collect();
    let start = Instant::now();
    let send = format!("POST /socket/{place}/xhr_send");
    let mut sender = Http::connect(server.ws);
    assert_eq!(sender.ask(&send, &[], &json!(messages).to_string()).status, 204);
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(1390), "{elapsed:?}");
    assert!(elapsed < Duration::from_millis(1900), "{elapsed:?}");
}
