//! `fws bench` against a running server: every workload and transport of ours, with figures that
//! make sense; and against servers that are not there or do wrong, of which there are no figures.
#![cfg(feature = "bench")]
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use common::command::{bad, fws, good};
use common::server::{DEMO_KEY, Options, Server};
use serde_json::{Value, json};

/// As short as a run can be.
const SHORT: [&str; 4] = ["--seconds", "0.1", "--warm-up", "0.05"];

/// What a run against a server of ours found.
fn bench(server: &Server, words: &[&str]) -> Value {
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let pid = server.pid().to_string();
    let places = ["--ws", &ws, "--control", &control, "--pid", &pid, "--key", DEMO_KEY, "--json"];
    let text = good(fws(&[&["bench"], words, &SHORT, &places].concat()));
    serde_json::from_str(&text).unwrap()
}

fn figure(outcome: &Value, name: &str) -> f64 {
    outcome[name].as_f64().unwrap_or_else(|| panic!("no {name} in {outcome}"))
}

#[test]
fn messages_to_many_over_every_transport() {
    let server = Server::new();
    for to in ["fws", "sockjs", "xhr-streaming"] {
        // Enough for an answer over HTTP to end, and be asked for again.
        let words = ["broadcast", "--to", to, "--subscribers", "5", "--bytes", "8000"];
        let outcome = bench(&server, &words);
        assert_eq!((&outcome["to"], &outcome["workload"]), (&to.into(), &"broadcast".into()));
        assert!(figure(&outcome, "deliveries") >= 5.0, "{outcome}");
        let (p50, max) = (figure(&outcome, "latency_p50_us"), figure(&outcome, "latency_max_us"));
        assert!(p50 <= max && max < 10e6, "{outcome}");
        assert!(figure(&outcome, "rss_bytes") > 1e6, "{outcome}");
        let outcome = bench(&server, &["unicast", "--to", to, "--subscribers", "20"]);
        assert!(figure(&outcome, "deliveries") >= 1.0, "{outcome}");
    }
    let outcome = bench(&server, &["rate", "--subscribers", "5", "--per-second", "200"]);
    let published = figure(&outcome, "published");
    assert!((5.0..=40.0).contains(&published), "{outcome}");
    let words = ["slow", "--subscribers", "5", "--stalled", "2", "--per-second", "200"];
    let outcome = bench(&server, &words);
    assert_eq!(figure(&outcome, "stalled_cut"), 0.0, "{outcome}");
    assert!(figure(&outcome, "stalled_latency_p99_us") > 0.0, "{outcome}");
}

#[test]
fn those_who_idle_come_and_go_or_command() {
    let server = Server::new();
    for words in [&["idle", "--subscribers", "50"][..], &["idle", "--own-channel"]] {
        let outcome = bench(&server, words);
        assert!(figure(&outcome, "pss_full_bytes") > 1e6, "{outcome}");
    }
    let outcome = bench(&server, &["churn", "--in-flight", "20"]);
    assert!(figure(&outcome, "visits") >= 1.0, "{outcome}");
    for command in ["set", "get", "emit"] {
        for connections in ["1", "3"] {
            let words = ["control", "--command", command, "--connections", connections];
            let outcome = bench(&server, &words);
            assert!(figure(&outcome, "replies") >= 1.0, "{outcome}");
            assert_eq!(outcome["command"], command);
        }
    }
}

#[test]
fn a_server_may_be_silent_where_nothing_is_to_be_said() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let place = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
    // Longer than it is waited for an answer, and shorter than between two pings.
    let words = ["bench", "idle", "--subscribers", "2", "--warm-up", "10.2", "--seconds", "0.1"];
    good(fws(&[&words[..], &place].concat()));
}

#[test]
fn more_a_second_than_a_clock_has_ticks() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let place = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
    let words = ["bench", "rate", "--subscribers", "2", "--per-second", "10000000"];
    let line = bad(fws(&[&words[..], &SHORT, &place].concat()), 1);
    assert!(line.starts_with("nobody keeps up: ") && line.ends_with(" more are due"), "{line}");
}

#[test]
fn a_table_for_a_person() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let words = ["bench", "broadcast", "--ws", &ws, "--control", &control, "--key", DEMO_KEY];
    let text = good(fws(&[&words[..], &SHORT, &["--subscribers", "2"]].concat()));
    assert!(text.starts_with("broadcast to fws, 128 bytes\n  subscribers "), "{text}");
    for part in ["deliveries", " a second\n", "latency p99.9"] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(!text.contains("server cpu"), "{text}");
}

#[test]
fn what_cannot_work_is_said_in_a_sentence() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let place = ["--ws", &ws, "--control", &control];
    let wrong = |words: &[&str]| fws(&[&["bench"], words, &place].concat());
    let line = bad(wrong(&["broadcast", "--key", "not-the-key", "--subscribers", "2"]), 1);
    assert!(line.ends_with("(is the key the one of that namespace?)"), "{line}");
    let line = bad(wrong(&["control", "--key", "not-the-key"]), 1);
    let key = "(is the key the one of that namespace?)";
    let refused =
        "the server refuses: {\"success\":false,\"reason\":\"Invalid sKey\",\"code\":305}";
    assert_eq!(line, format!("{control}: {refused} {key}"));
    for to in ["fws", "sockjs", "xhr-streaming"] {
        let line = bad(wrong(&["churn", "--key", "not-the-key", "--to", to]), 1);
        assert!(line.starts_with(&format!("{ws}: visitor ")), "{line}");
        let said = if to == "fws" { "3404 invalid JWT" } else { "c[3404,\"invalid JWT\"]" };
        assert!(line.ends_with(&format!("was closed too early: {said} {key}")), "{line}");
    }
    // The port for back ends, taken for the other.
    let crossed = ["bench", "idle", "--key", DEMO_KEY, "--ws", &control];
    let line = bad(fws(&crossed), 1);
    assert!(line.contains(&control) && line.ends_with("(is it the right port?)"), "{line}");
    for (words, part) in [
        (&["fly"][..], "\"fly\" is none of broadcast, unicast,"),
        (&["idle", "--to", "redis"], "that protocol cannot do that"),
        (&["idle", "--bytes", "5"], "a message has from 32 to 32768 bytes"),
        (&["idle", "--seconds", "0"], "--seconds: \"0\" is not a number from 0.05"),
        (&["slow", "--stalled", "1000"], "nobody is left who reads"),
        (&["broadcast", "--in-flight", "65537"], "at most 65536 of them can be in flight"),
        (&["idle", "--subscribers", "many"], "\"many\" is not a number from 1 to 10000000"),
    ] {
        let line = bad(wrong(&[words, &["--key", DEMO_KEY]].concat()), 2);
        assert!(line.contains(part), "{line}");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for words in [&["broadcast"][..], &["idle"], &["churn"], &["control"]] {
        let place = ["--ws", &free, "--control", &free, "--key", DEMO_KEY];
        let line = bad(fws(&[&["bench"], words, &place].concat()), 1);
        assert!(line.starts_with(&format!("{free}: ")), "{line}");
        assert!(line.ends_with(&format!("; nobody listens at {free}")), "{line}");
    }
}

#[test]
fn those_who_stall_and_are_cut_are_counted() {
    let mut options = Options::default();
    options.config["limits"] = json!({ "backlog_bytes": 65_536, "backlog_ms": 200 });
    let server = Server::start(&options);
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    // In two seconds 12 MB are published, for which the kernel has no room: they are cut in that
    // time, and told so when they read again.
    let words = ["bench", "slow", "--subscribers", "4", "--stalled", "2", "--bytes", "30000"];
    let more = ["--per-second", "200", "--warm-up", "0.05", "--seconds", "2", "--json"];
    let places = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
    for to in ["fws", "xhr-streaming"] {
        let text = good(fws(&[&words[..], &more, &places, &["--to", to]].concat()));
        let outcome: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(figure(&outcome, "stalled_cut"), 2.0, "{outcome}");
    }
}

#[test]
fn subscribers_come_from_a_site_that_may_connect() {
    let mut options = Options::default();
    options.config["allow_origin"] = json!(["https://shop.example"]);
    let server = Server::start(&options);
    for to in ["fws", "sockjs", "xhr-streaming"] {
        let words = ["broadcast", "--subscribers", "2", "--to", to];
        bench(&server, &[&words[..], &["--origin", "https://shop.example"]].concat());
        let (ws, control) = (server.ws.to_string(), server.control.to_string());
        let place = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
        let line = bad(fws(&[&["bench"], &words[..], &place].concat()), 1);
        assert!(line.contains("HTTP/1.1 403") && line.contains("--origin"), "{line}");
    }
}

/// A Redis in its protected mode refuses whoever does not come from 127.0.0.1.
#[test]
fn whoever_commands_comes_from_the_usual_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.1");
        stream.write_all(b"-DENIED Redis is running in protected mode\r\n").unwrap();
        // It may close at any moment.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let line = bad(fws(&["bench", "control", "--to", "redis", "--control", &at]), 1);
    let said = "the server refuses: -DENIED Redis is running in protected mode";
    assert!(line.starts_with(&format!("{at}: {said}")), "{line}");
    server.join().unwrap();
}

/// What a server of topics does to the second message for the second subscriber.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sin {
    Loses,
    Doubles,
    Swaps,
    Closes,
}

/// Serves a publisher, who comes first, and two subscribers; sins once.
fn serve(listener: &TcpListener, sin: Sin) {
    let mut publisher = open(listener);
    let mut subscribers = [open(listener), open(listener)];
    for subscriber in &mut subscribers {
        assert_eq!(message(subscriber).unwrap(), b"sub t000000");
        subscriber.write_all(b"\x81\x02ok").unwrap();
    }
    let mut held = Vec::new();
    for number in 0.. {
        let Some(text) = message(&mut publisher) else { return };
        let data = text.strip_prefix(b"pub t000000 ").unwrap();
        let frame = [&[0x81, u8::try_from(data.len()).unwrap()], data].concat();
        let [first, second] = &mut subscribers;
        let frames = match (number, sin) {
            (1, Sin::Loses) => Vec::new(),
            (1, Sin::Doubles) => [&frame[..], &frame].concat(),
            (1, Sin::Swaps) => {
                held = frame.clone();
                Vec::new()
            }
            (1, Sin::Closes) => return,
            _ => [&frame[..], &std::mem::take(&mut held)].concat(),
        };
        // It may be gone by now: it has seen what it had to see.
        let _ = first.write_all(&frame).and_then(|()| second.write_all(&frames));
    }
}

/// A WebSocket whose key is that of the bench.
fn open(listener: &TcpListener) -> TcpStream {
    let mut stream = listener.accept().unwrap().0;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let accept = "HTTP/1.1 101 S\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(accept.as_bytes()).unwrap();
    stream
}

/// A short message of a client, whose mask is all zeros; `None` if it is gone.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = [0; 6];
    stream.read_exact(&mut head).ok()?;
    assert_eq!((head[0], &head[2..]), (0x81, &[0; 4][..]));
    let mut text = vec![0; usize::from(head[1] & 0x7f)];
    stream.read_exact(&mut text).ok()?;
    Some(text)
}

#[test]
fn a_server_that_does_wrong_has_no_figures() {
    for (sin, part) in [
        (Sin::Loses, "message 2 came to subscriber 1 too early: one is lost (not 1)"),
        (Sin::Doubles, "message 1 came to subscriber 1 twice or late (not 2)"),
        (Sin::Swaps, "message 2 came to subscriber 1 too early: one is lost (not 1)"),
        (Sin::Closes, "the server has closed "),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || serve(&listener, sin));
        let words = ["bench", "broadcast", "--to", "topic", "--ws", &at, "--subscribers", "2"];
        let more = ["--bytes", "64", "--in-flight", "4"];
        let line = bad(fws(&[&words[..], &more, &SHORT].concat()), 1);
        assert!(line.contains(part), "{line}");
        server.join().unwrap();
    }
}
