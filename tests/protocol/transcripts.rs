//! The protocol on the real binary: every transcript in `tests/transcripts/`, its control streams
//! replayed byte by byte and in one piece as well, and what a transcript cannot express.
//!
//! `FWS_TEST_CASE=NAME cargo test --test protocol transcripts` plays only the cases whose name
//! contains NAME.
//! `FWS_TEST_BINARY=PATH` tests another binary that takes the flags of `fws serve`: the same
//! protocol on another journal.

use crate::common::browser::{Browser, Heard, RAW, SOCKJS, auth_message, masked};
use crate::common::control::Control;
use crate::common::eventually;
use crate::common::http;
use crate::common::server::{DEMO_KEY, Options, Server, mode};
use crate::common::token::token;
use crate::common::transcript::{Case, control_stream, parse, play, replay};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How many cases play in parallel.
const AT_A_TIME: usize = 4;

/// Longer streams are not replayed byte by byte, which takes one system call per byte.
const SPLIT_BYTES: usize = 100_000;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

/// Plays every case of a transcript file and replays its control streams.
fn play_file(name: &str) {
    let path = directory().join(format!("{name}.txt"));
    let cases = parse(&std::fs::read_to_string(path).expect("the transcript is there"));
    assert!(!cases.is_empty(), "{name} has cases");
    let wanted = std::env::var("FWS_TEST_CASE").unwrap_or_default();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !case.name.contains(&wanted) {
                        continue;
                    }
                    if let Err(failure) = play_every_way(case) {
                        failures.lock().expect("a list").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("a list");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

fn play_every_way(case: &Case) -> Result<(), String> {
    play(case)?;
    let Some(stream) = control_stream(case) else { return Ok(()) };
    let how = |way| move |error| format!("case {}, {way}: {error}\n", case.name);
    replay(&stream, false).map_err(how("in one piece"))?;
    if stream.sent.len() <= SPLIT_BYTES {
        replay(&stream, true).map_err(how("byte by byte"))?;
    }
    Ok(())
}

macro_rules! transcripts {
    ($($name:ident)*) => {
        const TRANSCRIPTS: &[&str] = &[$(stringify!($name),)*];
        $(#[test] fn $name() { play_file(stringify!($name)); })*
    };
}

transcripts! {
    control_framing control_auth control_emit control_state control_grants
    http websocket browser_auth browser_messages subscribe private deliver presence
    php fws_js push ours_control ours_browser
}

#[test]
fn every_transcript_file_is_played() {
    let files = std::fs::read_dir(directory()).expect("the directory is there");
    let mut names: Vec<String> = files
        .map(|file| file.expect("a file").path())
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut known = TRANSCRIPTS.to_vec();
    known.sort();
    assert_eq!(names, known);
}

#[test]
fn the_first_message_may_arrive_with_the_handshake() {
    let server = Server::new();
    let auth = auth_message("demo", &token(r#"{"i":1}"#, DEMO_KEY));
    let first = masked(0x81, auth.as_bytes());
    let mut browser = Browser::open(server.ws, RAW, &[], &first).unwrap();
    assert!(browser.hear().starts_with(r#"{"event":"auth ok""#));
    browser.nothing();
    // Half of the message, and the other half later.
    let (one, two) = first.split_at(first.len() / 2);
    let mut browser = Browser::open(server.ws, RAW, &[], one).unwrap();
    browser.send_raw(two);
    assert!(browser.hear().starts_with(r#"{"event":"auth ok""#));
}

#[test]
fn an_auth_with_falsy_data_is_ignored() {
    let server = Server::new();
    for data in ["null", "0", "-0.0", "false", r#""""#] {
        let mut browser = Browser::raw(server.ws);
        browser.say(&format!(r#"{{"event":"auth","data":{data}}}"#));
        browser.say(r#"{"event":"auth"}"#);
        browser.nothing();
    }
    for data in ["1", "true", "[]", "{}", r#""a""#] {
        let mut browser = Browser::raw(server.ws);
        browser.say(&format!(r#"{{"event":"auth","data":{data}}}"#));
        browser.expect_closed(3002, "not found s - param, auth string");
    }
}

#[test]
fn a_subscribe_read_after_token_expiry_closes_the_connection() {
    let server = Server::new();
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut browser = Browser::raw(server.ws);
    let end = seconds() + 2;
    browser.auth("demo", &format!(r#"{{"i":"5","exp":{end}}}"#));
    // The browser subscribes before expiry; the frozen server reads it after expiry, before any
    // deadline has fired.
    server.freeze();
    browser.say(r#"{"event":"subscribe","data":"c","clb":1}"#);
    eventually("the token expires", || (seconds() >= end).then_some(()));
    server.thaw();
    browser.expect_closed(3401, "token expired");
}

#[test]
fn a_browser_that_answers_pings_stays_connected() {
    let limits = [("heartbeat_ms", 100), ("heartbeat_answer_ms", 10_000)];
    let server = Server::start(&Options::limits(&limits));
    for path in [RAW, SOCKJS] {
        let mut browser = Browser::open(server.ws, path, &[], &[]).unwrap();
        if path == SOCKJS {
            assert_eq!(browser.hear(), "o");
        }
        for _ in 0..3 {
            assert_eq!(browser.next(), Ok(Heard::Ping));
        }
    }
}

#[test]
fn a_browser_that_answers_no_ping_is_closed() {
    let limits = [("heartbeat_ms", 100), ("heartbeat_answer_ms", 100)];
    let server = Server::start(&Options::limits(&limits));
    let ping = Ok((0x89, Vec::new()));
    let close =
        |code: u16, reason: &str| Ok((0x88, [&code.to_be_bytes(), reason.as_bytes()].concat()));

    let mut browser = Browser::raw(server.ws);
    assert_eq!(browser.next_frame(), ping);
    assert_eq!(browser.next_frame(), close(3000, "No response from heartbeat"));

    let mut browser = Browser::sockjs(server.ws);
    assert_eq!(browser.next_frame(), ping);
    let frame = br#"c[3000,"No response from heartbeat"]"#;
    assert_eq!(browser.next_frame(), Ok((0x81, frame.to_vec())));
    assert_eq!(browser.next_frame(), close(1000, "Normal closure"));
}

#[test]
fn sigterm_sends_going_away_and_closes_all_connections() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let mut raw = server.browser("demo", r#"{"i":1}"#);
    let mut sockjs = Browser::sockjs(server.ws);
    raw.subscribe("news");
    sockjs.nothing();
    server.terminate();
    raw.expect_going_away();
    sockjs.expect_going_away();
    control.expect_closed();
    server.exited();
}

#[test]
fn a_second_signal_stops_the_server_at_once() {
    let limits = [("drain_ms", 600_000), ("close_ms", 600_000)];
    let server = Server::start(&Options::limits(&limits));
    // A browser that never answers the close frame holds the server up.
    let mut browser = Browser::raw(server.ws);
    server.terminate();
    assert_eq!(browser.next_frame().unwrap().0, 0x88);
    server.terminate();
    server.ended();
}

#[test]
fn the_control_unix_socket_speaks_the_same_protocol() {
    let server = Server::start(&Options { unix: true, ..Options::default() });
    assert_eq!(mode(&server.socket()), 0o660);
    let mut control = Control::unix(&server.socket());
    control.auth("demo");
    control.ok(r#"{"action":"set","channel":"c","data":1,"params":{}}"#);
    assert_eq!(control.ask(r#"{"action":"get","channel":"c","params":{}}"#), "1");
    control.nothing();
}

#[test]
fn many_pipelined_requests_are_all_answered() {
    let server = Server::new();
    let mut wire = crate::common::wire::Wire::tcp(server.ws);
    let count = 20_000;
    let request = "GET /socket/info HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    // More answers than the kernel buffers: the server must wait for this reader, then go on.
    let all = request.repeat(count) + last;
    let answers = std::thread::scope(|scope| {
        let mut sender = wire.another();
        scope.spawn(move || sender.write_all(all.as_bytes()).expect("the server reads"));
        wire.read_rest().unwrap()
    });
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), count + 1);
    assert!(answers.ends_with("Welcome to SockJS!\n"));
}

#[test]
fn a_request_head_may_arrive_byte_by_byte() {
    let server = Server::new();
    let mut wire = crate::common::wire::Wire::tcp(server.ws);
    let request = "GET /socket HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for byte in request.as_bytes().chunks(1) {
        wire.write_all(byte).expect("the server reads");
    }
    let answer = http::answer(&wire.read_rest().unwrap()).unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "Welcome to SockJS!\n"));
}
