//! Many peers at once on the real reactor, each with its own habits: bytes in odd pieces, deep
//! pipelines, late reads, half-closes, resets. The simulation covers all of that for the switch;
//! this covers the reactor, whose bugs show as connections that hang. Every client must get
//! all its answers, in order. `FWS_TEST_CHAOS_SEED` replays one seed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use crate::common::DEADLINE;
use crate::common::browser::{Browser, auth_message};
use crate::common::control::frame;
use crate::common::server::{DEMO_KEY, Options, Server};
use crate::common::token::token;
use crate::common::web::Http;
use fws::sim::Prng;

/// Writes all bytes in pieces of odd sizes from its own thread, so that the reader may lag; then
/// perhaps shuts down the sending side.
fn write_in_pieces(stream: &TcpStream, bytes: Vec<u8>, seed: u64) -> thread::JoinHandle<()> {
    let mut stream = stream.try_clone().unwrap();
    let mut random = Prng::new(seed);
    thread::spawn(move || {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let max = [1, 7, 300, 5000, 200_000][random.below(5)];
            let (piece, later) = rest.split_at(rest.len().min(1 + random.below(max)));
            stream.write_all(piece).unwrap();
            rest = later;
        }
        if random.below(2) == 0 {
            stream.shutdown(Shutdown::Write).unwrap();
        }
    })
}

/// A back end that sends a long pipeline of commands and checks every reply.
fn back_end(server: &Server, seed: u64) {
    let mut random = Prng::new(seed);
    let stream = TcpStream::connect(server.control).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let auth = format!(r#"{{"action":"auth","name":"demo","sKey":"{DEMO_KEY}"}}"#);
    let done = r#"{"success":true}"#.to_owned();
    let (mut sent, mut expected) = (frame(auth.as_bytes()), frame(done.as_bytes()));
    for n in 0..1 + random.below(400) {
        let size = [10, 100, 3000, 70_000][random.below(4)];
        let data = format!("\"{n}{}\"", "x".repeat(random.below(size)));
        let channel = format!("c{seed}");
        let (command, reply) = match random.below(4) {
            0 => (r#"{"action":"ping"}"#.into(), &done),
            1 => (format!(r#"{{"action":"emit","channel":"news","data":{n}}}"#), &done),
            2 => (format!(r#"{{"action":"set","channel":"{channel}","data":{data}}}"#), &done),
            _ => {
                let set = format!(r#"{{"action":"set","channel":"{channel}","data":{data}}}"#);
                sent.extend(frame(set.as_bytes()));
                expected.extend(frame(done.as_bytes()));
                (format!(r#"{{"action":"get","channel":"{channel}"}}"#), &data)
            }
        };
        sent.extend(frame(command.as_bytes()));
        expected.extend(frame(reply.as_bytes()));
    }
    let writer = write_in_pieces(&stream, sent, seed);
    if random.below(3) == 0 {
        // Late: by then the server has met a full socket and stopped reading.
        thread::park_timeout(std::time::Duration::from_millis(50));
    }
    let mut got = vec![0; expected.len()];
    let mut filled = 0;
    while filled < got.len() {
        let end = (filled + 1 + random.below(100_000)).min(got.len());
        let count = (&stream).read(&mut got[filled..end]);
        let count = count.unwrap_or_else(|e| panic!("seed {seed}: {e} after {filled} bytes"));
        assert!(count > 0, "seed {seed}: closed after {filled} of {} bytes", got.len());
        filled += count;
    }
    assert!(got == expected, "seed {seed}: other replies");
    writer.join().unwrap();
}

/// A browser that comes and goes, sometimes in the middle of a message.
fn visitor(server: &Server, seed: u64) {
    let mut random = Prng::new(seed);
    for _ in 0..20 {
        let mut browser =
            if random.below(2) == 0 { Browser::raw(server.ws) } else { Browser::sockjs(server.ws) };
        match random.below(5) {
            0 => browser.drop_connection(true),
            1 => {
                let piece = crate::common::browser::masked(0x81, &[b'x'; 100]);
                browser.send_raw(&piece[..1 + random.below(piece.len() - 1)]);
                browser.drop_connection(random.below(2) == 0);
            }
            2 => {
                browser.auth("demo", &format!(r#"{{"i":"visitor-{seed}"}}"#));
                browser.join("news");
                browser.drop_connection(true);
            }
            3 => {
                browser.auth("demo", &format!(r#"{{"i":"visitor-{seed}"}}"#));
                browser.close(Some((1000, "bye")));
                assert_eq!(browser.closed().unwrap(), (1000, "bye".into()), "seed {seed}");
            }
            _ => {
                browser.auth("demo", &format!(r#"{{"i":"visitor-{seed}"}}"#));
                for n in 0..50 {
                    browser.say(&format!(r#"{{"event":"ping","clb":{n}}}"#));
                }
                for n in 0..50 {
                    let answer = r#"{"event":"callBackAnswer","clb":N,"data":{"ok":true}}"#;
                    browser.expect(&answer.replace('N', &n.to_string()));
                }
            }
        }
    }
}

/// Sends a request in pieces of odd sizes.
fn send_in_pieces(http: &mut Http, request: &str, random: &mut Prng) {
    let mut rest = request.as_bytes();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(rest.len().min(1 + random.below(60)));
        http.raw(piece);
        rest = later;
    }
}

/// A poller that receives every message of one back end in order, over changing requests.
fn poller(server: &Server, seed: u64) {
    let mut random = Prng::new(seed);
    let mut http = Http::connect(server.ws);
    let path = format!("/socket/0/poller-{seed}");
    let head = "HTTP/1.1\r\nHost: a\r\n";
    let channel = format!("polled-{seed}");
    let user = token(&format!(r#"{{"i":"poller-{seed}"}}"#), DEMO_KEY);
    let subscribe = format!(r#"{{"event":"subscribe","data":"{channel}","clb":1}}"#);
    let body = serde_json::json!([auth_message("demo", &user), subscribe]).to_string();
    // Pipelined: open a session, send messages, and poll for the answers.
    let poll = format!("POST {path}/xhr {head}\r\n");
    let send = format!("POST {path}/xhr_send {head}Content-Length: {}\r\n\r\n{body}", body.len());
    send_in_pieces(&mut http, &[poll.as_str(), &send, &poll].concat(), &mut random);
    assert_eq!(http.answer().body, "o\n", "seed {seed}");
    assert_eq!(http.answer().status, 204, "seed {seed}");
    assert!(http.answer().body.contains("callBackAnswer"), "seed {seed}");
    let mut control = server.controller("demo");
    let (mut sent, mut heard) = (0, 0);
    while heard < 600 {
        let stream = format!("POST {path}/xhr_streaming {head}\r\n");
        let is_stream = random.below(3) == 0;
        let is_first = random.below(2) == 0 || heard == sent;
        let request = if is_stream { &stream } else { &poll };
        if is_first {
            send_in_pieces(&mut http, request, &mut random);
        }
        for _ in 0..random.below(30) + usize::from(heard == sent) {
            let command = format!(r#"{{"action":"emit","channel":"{channel}","data":{sent}}}"#);
            control.send(&command);
            sent += 1;
        }
        if !is_first {
            send_in_pieces(&mut http, request, &mut random);
        }
        let mut hear = |frame: &str| {
            let messages: Vec<String> = serde_json::from_str(&frame[1..]).unwrap_or_default();
            for message in messages {
                let expected = format!(r#"{{"event":"{channel}","data":{heard}}}"#);
                assert_eq!(message, expected, "seed {seed}");
                heard += 1;
            }
            heard
        };
        if is_stream {
            http.head();
            http.chunk();
            while hear(&http.chunk()) < sent {}
            // It leaves in the middle: only what it has received is certainly consumed.
            return drop(http);
        }
        hear(&http.answer().body);
    }
}

/// A subscriber that stays and receives every message of one back end in order.
fn listener(server: &Server, name: usize) {
    let mut browser = server.browser("demo", &format!(r#"{{"i":"listener-{name}"}}"#));
    let channel = format!("ordered-{name}");
    browser.subscribe(&channel);
    let mut control = server.controller("demo");
    let emit = |n: usize| format!(r#"{{"action":"emit","channel":"{channel}","data":{n}}}"#);
    for round in 0..20 {
        let commands: Vec<u8> =
            (0..50).flat_map(|n| frame(emit(round * 50 + n).as_bytes())).collect();
        control.send_raw(&commands);
        for n in 0..50 {
            assert_eq!(control.recv(), r#"{"success":true}"#);
            let n = round * 50 + n;
            browser.expect(&format!(r#"{{"event":"{channel}","data":{n}}}"#));
        }
    }
}

#[test]
fn every_client_gets_its_answers_under_random_timing() {
    let seed = std::env::var("FWS_TEST_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(1);
    // Few descriptors, so that slots are reused often; enough that no connection is refused.
    let mut server = Server::start(&Options { descriptors: Some(192), ..Options::default() });
    thread::scope(|scope| {
        let server = &server;
        for n in 0..8 {
            scope.spawn(move || {
                (0..6).for_each(|round| back_end(server, seed * 1000 + n * 10 + round));
            });
            scope.spawn(move || visitor(server, seed * 1000 + 500 + n));
        }
        for n in 0..4 {
            scope.spawn(move || listener(server, n));
            scope.spawn(move || {
                (0..6).for_each(|round| poller(server, seed * 1000 + 600 + n as u64 * 10 + round));
            });
        }
    });
    server.assert_alive();
    server.stop();
}
