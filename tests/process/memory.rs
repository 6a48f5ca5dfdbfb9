//! Little memory: what clients can make the server hold fits into it, because a process that runs
//! out of memory is killed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::common::browser::{Browser, RAW, auth_message, masked, upgrade};
use crate::common::control::{Control, frame};
use crate::common::eventually;
use crate::common::server::{Dir, Options, Server, key_of};
use crate::common::token::token;
use crate::common::web::{Http, session_on};
use serde_json::{Value, json};

/// Held by a test for as long as it keeps a processor busy. There are two of these places, so that
/// what such a test waits for does not come late because there are more.
fn place() -> MutexGuard<'static, ()> {
    static PLACES: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let place = &PLACES[NEXT.fetch_add(1, Ordering::Relaxed) % PLACES.len()];
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server with an address space of `kib` KiB.
fn start_limited(dir: Dir, kib: u32, options: &Options) -> Server {
    let command = limited(&options.command(&dir), kib);
    Server::spawn(command, dir, false)
}

/// The same command with an address space of `kib` KiB.
fn limited(server: &Command, kib: u32) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(r#"ulimit -v {kib} && exec "$0" "$@""#));
    command.arg(server.get_program()).args(server.get_args());
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Requests whose second half never comes.
const INCOMPLETE_REQUESTS: [(&str, usize); 3] = [
    (
        "POST /socket/000/abcdefgh/xhr_send HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n\
      Content-Length: 65000\r\n\r\n",
        64_000,
    ),
    ("GET /socket/info HTTP/1.1\r\nX: ", 8000),
    (
        "GET /socket/websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
      Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
      Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\u{1}\u{7e}",
        4000,
    ),
];

#[test]
fn incomplete_requests_do_not_exhaust_little_memory() {
    let _place = place();
    let limits = [("http_body_ms", 60_000), ("http_head_ms", 60_000), ("auth_ms", 60_000)];
    let mut server = start_limited(Dir::new(), 262_144, &Options::limits(&limits));
    let log = server.log().join("\n");
    assert!(log.contains("warning: this process may have 256 MiB of memory, so "), "{log}");
    let flood = |half: &(&str, usize), count: usize| -> Vec<TcpStream> {
        let bytes = [half.0.as_bytes(), &vec![b'x'; half.1]].concat();
        let send = |_| {
            let mut stream = TcpStream::connect(server.ws).ok()?;
            // The server may refuse some of them.
            let _ = stream.write_all(&bytes);
            Some(stream)
        };
        (0..count).filter_map(send).collect()
    };
    // Without such limits, as many of the first kind alone took 200 MB.
    let _held: Vec<Vec<TcpStream>> = INCOMPLETE_REQUESTS
        .iter()
        .zip([3200, 1000, 1000])
        .map(|(half, count)| flood(half, count))
        .collect();
    server.assert_alive();
}

#[test]
fn a_list_of_millions_does_not_exhaust_little_memory() {
    let _place = place();
    let mut server = start_limited(Dir::new(), 262_144, &Options::default());
    let mut control = server.controller("demo");
    let ones = format!("[{}1]", "1,".repeat(4_190_000));
    control.ok(&format!(r#"{{"action":"set","channel":"log","data":{ones}}}"#));
    control.ok(r#"{"action":"push","channel":"log","data":2}"#);
    let list = control.ask(r#"{"action":"get","channel":"log"}"#);
    assert_eq!((list.len(), &list[list.len() - 5..]), (2001, ",1,2]"));
    let reply = control.ask(&format!(r#"{{"action":"emit","channels":{ones},"data":0}}"#));
    assert!(reply.contains("Too many channels, at most 1000"), "{reply}");
    server.assert_alive();
}

#[test]
fn a_store_above_its_limits_is_served_with_a_warning() {
    let server = Server::start(&Options::default());
    let mut control = server.controller("demo");
    control.ok(r##"{"action":"subscribe","channel":"#vip","params":{"userId":5}}"##);
    for name in ["a", "b"] {
        control.ok(&format!(r#"{{"action":"set","channel":"{name}","data":"{name:200}"}}"#));
    }
    let is_told = |line: &&String| line.contains("warning: store: ");
    assert_eq!(server.log().iter().find(is_told), None);
    let limits = [("states", 2), ("states_bytes", 300), ("state_bytes", 300)];
    let server = Server::start_in(server.stop(), &Options::limits(&limits));
    let said = server.log();
    let said: Vec<_> = said.iter().filter(is_told).map(|line| &line[26..]).collect();
    let bytes = "warning: store: states_bytes is 300, and there are 406: all stay, and none can \
                 be added; see that there is memory for them";
    assert_eq!(said, [bytes]);
    let mut control = server.controller("demo");
    assert_eq!(control.ask(r#"{"action":"get","channel":"a"}"#).len(), 202);
}

/// A large command without effect.
fn large() -> Vec<u8> {
    let body = format!(r#"{{"action":"ping","x":"{}"}}"#, "x".repeat((8 << 20) - 100));
    frame(body.as_bytes())
}

#[test]
fn incomplete_large_commands_stay_within_the_input_budget() {
    let _place = place();
    // The default would allow one of them at a time.
    let limits = [("control_frame_ms", 20_000), ("control_input_bytes", 20_000_000)];
    let mut options = Options::limits(&limits);
    options.config["admin"] = json!("127.0.0.1:0");
    let mut server = start_limited(Dir::new(), 262_144, &options);
    let (before, large) = (server.peak_memory_bytes(), large());
    let half = |_| {
        let mut stream = TcpStream::connect(server.control).unwrap();
        let key = key_of("demo");
        let auth = frame(format!(r#"{{"action":"auth","name":"demo","sKey":"{key}"}}"#).as_bytes());
        stream.write_all(&auth).unwrap();
        stream.read_exact(&mut [0; 21]).unwrap();
        // A connection that is not read blocks after some writes.
        stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let _ = stream.write_all(&large[..2 << 20]);
        stream
    };
    let mut halves: Vec<TcpStream> = (0..30).map(half).collect();
    // Small commands of others are not delayed.
    let began = Instant::now();
    let mut other = server.controller("demo");
    (0..10).for_each(|_| other.ok(r#"{"action":"ping"}"#));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let reserved = server.metric("fws_control_input_bytes");
    assert!((8e6..=21e6).contains(&reserved), "{reserved}");
    assert!(server.metric("fws_control_input_waits_total") >= 10.0);
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 48 << 20, "it took {grown} bytes");
    // Two stay incomplete and are closed in time; the complete ones are answered.
    halves.drain(..28);
    let wholes = (0..4).map(|_| (server.controller("demo"), large.clone()));
    let ask = |(mut control, large): (Control, Vec<u8>)| {
        std::thread::spawn(move || {
            control.send_raw(&large);
            assert_eq!(control.recv(), r#"{"success":true}"#);
        })
    };
    let threads: Vec<_> = wholes.map(ask).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    eventually("no input is held", || {
        (server.metric("fws_control_input_bytes") == 0.0).then_some(())
    });
    // Whether they timed out, or were evicted because others waited.
    let closed = r#"fws_connections_closed_total{reason="half_request"}"#;
    let evicted = server.metric("fws_control_input_evicted_total");
    assert!(server.metric(closed) + evicted >= 2.0);
    server.assert_alive();
}

#[test]
fn unread_answers_do_not_exhaust_little_memory() {
    let _place = place();
    // The default would be lower, and serve fewer of them at a time.
    let mut options = Options::limits(&[("answers_bytes", 46_000_000)]);
    options.config["admin"] = serde_json::json!("127.0.0.1:0");
    let mut server = start_limited(Dir::new(), 262_144, &options);
    let mut control = server.controller("demo");
    let set = |control: &mut Control, number: usize, bytes: usize| {
        let data = format!("\"{number:04}{}\"", "x".repeat(bytes));
        control.ok(&format!(r#"{{"action":"set","channel":"big","data":{data}}}"#));
    };
    control.ok(r#"{"action":"set","channel":"small","data":1}"#);
    // Each queues, or waits for, a state of its own.
    let stuck: Vec<Browser> = (0..64)
        .map(|number| {
            set(&mut control, number, 4_000_000);
            let mut browser = server.browser("demo", r#"{"i":"u"}"#);
            browser.say(r#"{"event":"subscribe","data":"big"}"#);
            browser
        })
        .collect();
    set(&mut control, 0, 8_000_000);
    let unread: Vec<Control> = (0..64)
        .map(|_| {
            let mut control = server.controller("demo");
            control.send(r#"{"action":"get","channel":"big"}"#);
            control
        })
        .collect();
    // Others are not delayed for long.
    let began = Instant::now();
    for number in 0..50 {
        let mut healthy = server.browser("demo", &format!(r#"{{"i":"{number}"}}"#));
        healthy.join("small");
        healthy.expect(r#"{"event":"small","data":1}"#);
        control.ok(r#"{"action":"emit","channel":"small","data":2}"#);
        healthy.expect(r#"{"event":"small","data":2}"#);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // And a large request is served once the stalled ones have been disconnected.
    let mut healthy = server.browser("demo", r#"{"i":"h"}"#);
    healthy.say(r#"{"event":"subscribe","data":"big"}"#);
    assert!(healthy.hear().len() > 8_000_000);
    drop((stuck, unread));
    assert!(server.peak_memory_bytes() < 160_000_000, "{}", server.peak_memory_bytes());
    server.assert_alive();
}

#[test]
fn answers_to_polls_wait_for_the_answer_budget() {
    let _place = place();
    // The last ones to be read stall until all others have been read.
    let patient = Options::limits(&[("stall_ms", 120_000)]);
    let mut server = start_limited(Dir::new(), 262_144, &patient);
    let polls: Vec<Http> = (0..120)
        .map(|number| {
            let mut http = Http::connect(server.ws);
            http.send(&format!("POST /socket/{}/xhr", session_on(server.ws, number, "x")), &[], "");
            http
        })
        .collect();
    let mut control = server.controller("demo");
    control.ok(r#"{"action":"ping"}"#);
    let data = "y".repeat(4 << 20);
    control.ok(&format!(r#"{{"action":"emit","channel":"x","data":"{data}"}}"#));
    // All receive it when they read, in any order.
    for mut http in polls {
        let body = http.answer().body;
        assert!(body.starts_with("a[\"{\\\"event\\\":\\\"x\\\"") && body.len() > data.len());
    }
    let peak = server.peak_memory_bytes();
    assert!(peak < 120_000_000, "it took {peak} bytes");
    server.assert_alive();
}

#[test]
fn the_rest_of_a_paused_sockjs_frame_takes_no_extra_memory() {
    let _place = place();
    const CROWD: usize = 60;
    let mut options = Options::limits(&[("kernel_send_bytes", 16_384)]);
    options.config["admin"] = json!("127.0.0.1:0");
    let mut server = Server::start(&options);
    let state = format!("\"{}\"", "x".repeat(700_000));
    server.controller("demo").ok(&format!(r#"{{"action":"set","channel":"c","data":{state}}}"#));
    let subscribe = json!({ "event": "subscribe", "data": "c" }).to_string();
    let browser = |user: usize| {
        let mut browser = Browser::sockjs(server.ws);
        browser.auth("demo", &json!({ "i": user }).to_string());
        browser
    };
    let mut crowd: Vec<Browser> = (1..=CROWD).map(browser).collect();
    let before = server.peak_memory_bytes();
    // Each element is a message, and the first one pauses the handling of the others.
    let frame = format!(r#"[{},{}""]"#, json!(subscribe), "\"\",".repeat(5300));
    for browser in &mut crowd {
        browser.send(&frame);
    }
    let counted = || server.metric("fws_input_bytes");
    eventually("all input is held and counted", || {
        (counted() >= (CROWD * 15_900) as f64).then_some(())
    });
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 4_000_000, "{grown} bytes");
    drop(crowd);
    eventually("no input is held", || (counted() == 0.0).then_some(()));
    // Queued messages are handled once, and in order.
    let mut browser = browser(CROWD + 1);
    let ping = |clb: usize| json!({ "event": "ping", "clb": clb }).to_string();
    let mut messages = vec![subscribe];
    messages.extend((0..100).map(ping));
    browser.send(&json!(messages).to_string());
    eventually("the input is held", || (counted() > 2000.0).then_some(()));
    browser.expect(&format!(r#"{{"event":"c","data":{state}}}"#));
    for clb in 0..100 {
        browser
            .expect(&format!(r#"{{"event":"callBackAnswer","clb":{clb},"data":{{"ok":true}}}}"#));
    }
    assert_eq!(counted(), 0.0);
    server.assert_alive();
}

#[test]
fn escaping_a_large_message_does_not_exhaust_little_memory() {
    let _place = place();
    let mut server = start_limited(Dir::new(), 262_144, &Options::default());
    let mut control = server.controller("demo");
    let mut raw = server.browser("demo", r#"{"i":"raw"}"#);
    raw.join("x");
    let emit = |data: &[u8]| {
        let body = [br#"{"action":"emit","channel":"x","data":""#, data, br#""}"#].concat();
        frame(&body)
    };
    let long = 8_000_000;
    // For the raw endpoint, which needs no escapes, it is not too long.
    control.send_raw(&emit(&b"<".repeat(long)));
    assert_eq!(control.recv(), r#"{"success":true}"#);
    assert!(raw.hear().len() > long);
    let id = session_on(server.ws, 1, "x");
    let mut page = Http::connect(server.ws);
    page.send(&format!("GET /socket/{id}/htmlfile?c=f"), &[], "");
    page.head();
    for piece in [&b"<"[..], b"\\\"", "😀".as_bytes()] {
        control.send_raw(&emit(&piece.repeat(long / piece.len())));
        let reply = control.recv();
        assert!(reply.contains("Too much data as browsers take it"), "{reply}");
    }
    control.send_raw(&emit(&b"\xff".repeat(long)));
    assert!(control.recv().contains("Not UTF-8 in too many places, at most 524288"));
    control.send_raw(&emit(&b"\xff".repeat(300_000)));
    assert_eq!(control.recv(), r#"{"success":true}"#);
    assert!(raw.hear().ends_with("\u{fffd}\"}"));
    let peak = server.peak_memory_bytes();
    assert!(peak < 60_000_000, "it took {peak} bytes");
    server.assert_alive();
}

/// Sends all bytes, even if the server stops reading.
fn pour(port: std::net::SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(port).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(bytes);
    stream
}

#[test]
fn subscriptions_do_not_exhaust_little_memory() {
    let _place = place();
    let limits = [
        ("channels_per_connection", 2000),
        ("messages_burst", 3000),
        ("connections_per_user", 500),
    ];
    let mut options = Options::limits(&limits);
    options.config["admin"] = json!("127.0.0.1:0");
    let mut server = start_limited(Dir::new(), 131_072, &options);
    let token = token(r#"{"i":1}"#, key_of("demo"));
    // All of these would take 90 MB.
    let _held: Vec<TcpStream> = (0..160)
        .map(|number| {
            let mut said = upgrade(RAW, &[]).into_bytes();
            said.extend(masked(0x81, auth_message("demo", &token).as_bytes()));
            for channel in 0..1500 {
                let name = format!("{:n<240}", format!("{number}-{channel}-"));
                let subscribe = format!(r#"{{"event":"subscribe","data":"{name}"}}"#);
                said.extend(masked(0x81, subscribe.as_bytes()));
            }
            pour(server.ws, &said)
        })
        .collect();
    let mut browser = server.browser("demo", r#"{"i":2}"#);
    browser.say(r#"{"event":"subscribe","clb":1,"data":"x"}"#);
    let answer = browser.hear();
    assert!(answer.contains(r#"{"ok":true}"#), "the crowd left something: {answer}");
    assert!(server.metric("fws_channels") > 7000.0);
    server.assert_alive();
}

#[test]
fn grants_do_not_exhaust_little_memory() {
    let _place = place();
    let mut options = Options::default();
    options.config["store"] = json!("none");
    options.config["admin"] = json!("127.0.0.1:0");
    let mut server = start_limited(Dir::new(), 49_152, &options);
    let mut control = server.controller("demo");
    let mut full = 0;
    // All of these would take 52 MB.
    for hundred in 0..800 {
        let grant = |number| {
            let (channel, user) = (format!("{:c<250}", format!("#{number}-")), "u".repeat(250));
            let params = json!({ "userId": user });
            let command = json!({ "action": "subscribe", "channel": channel, "params": params });
            frame(command.to_string().as_bytes())
        };
        let grants: Vec<u8> = (0..100).flat_map(|one| grant(hundred * 100 + one)).collect();
        control.send_raw(&grants);
        full += (0..100).filter(|_| control.recv().contains("\"code\":313")).count();
    }
    let grants = server.metric("fws_grants");
    assert!(grants > 1000.0 && full + grants as usize == 80_000, "{full} and {grants}");
    server.assert_alive();
}

#[test]
fn limits_that_are_set_are_not_lowered_for_little_memory() {
    let limits = [("http_body_bytes", 50_000)];
    let server = start_limited(Dir::new(), 262_144, &Options::limits(&limits));
    let log = server.log().join("\n");
    assert!(!log.contains("http_body_bytes is"), "{log}");
    assert!(log.contains("states_bytes is"), "{log}");
}

#[test]
fn check_shows_the_limits_lowered_for_little_memory() {
    let mut check = crate::common::command::fws(&["check", "--json", "--limit", "sessions=99999"]);
    let ample = serde_json::from_slice::<Value>(&check.output().unwrap().stdout).unwrap();
    let check = limited(&check, 262_144).output().unwrap();
    let err = String::from_utf8(check.stderr).unwrap();
    assert!(err.contains("warning: this process may have 256 MiB of memory, so "), "{err}");
    let little: Value = serde_json::from_slice(&check.stdout).unwrap();
    let limit = |config: &Value, name: &str| config["limits"][name].as_u64().unwrap();
    assert!(limit(&little, "states_bytes") < limit(&ample, "states_bytes"));
    assert_eq!(limit(&little, "sessions"), 99_999);
    // The replies of all these back ends share their budget, and each gets at least the minimum.
    let mut check =
        crate::common::command::fws(&["check", "--json", "--limit", "control_connections=1000"]);
    let check = check_limited(&mut check, 160_000);
    assert_eq!(limit(&check, "control_connections"), 1000);
    assert_eq!(limit(&check, "control_replies_pause_bytes"), 1024, "the minimum");
}

/// The output of `fws check --json` in so much address space.
fn check_limited(check: &mut Command, kib: u32) -> Value {
    serde_json::from_slice(&limited(check, kib).output().unwrap().stdout).unwrap()
}
