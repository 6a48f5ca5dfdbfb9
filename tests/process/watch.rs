//! `fws watch`, the real binary against a real server: what it prints, and when it exits.

use crate::common::command::{at, bad, demo, fws, good};
use crate::common::server::{DEMO_KEY, Dir, Options, SERVER_KEY, Server};
use crate::common::{DEADLINE, eventually};
use fws::codec::ws;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, ChildStdout, Command};
use std::sync::mpsc::{Receiver, channel};

/// A running `fws watch`. Killed when dropped.
struct Watch {
    child: Child,
    out: BufReader<ChildStdout>,
    err: Receiver<String>,
}

impl Watch {
    fn start(mut command: Command) -> Watch {
        let mut child = command.spawn().expect("the binary starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        let err = lines(child.stderr.take().expect("a pipe"));
        Watch { child, out, err }
    }

    /// The next line on its standard error.
    #[track_caller]
    fn says(&self) -> String {
        self.err.recv_timeout(DEADLINE).expect("it says something")
    }

    #[track_caller]
    fn prints(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("UTF-8");
        line
    }

    #[track_caller]
    fn ends(&mut self) -> Option<i32> {
        eventually("it ends", || self.child.try_wait().expect("a child")).code()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have exited already, as the test expected.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: ChildStderr) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // The receiver may be gone.
            let _ = sender.send(line);
        }
    });
    receiver
}

#[test]
fn watch_prints_messages_until_the_server_stops() {
    let server = Server::new();
    good(demo(&server, &["set", "demo", "price", "9.90"]));
    let mut watch = Watch::start(demo(&server, &["watch", "demo", "news", "price"]));
    assert_eq!(watch.says(), "fws: subscribed to news");
    assert_eq!(watch.says(), "fws: subscribed to price");
    assert_eq!(watch.prints(), "price\t9.90\n");
    let emitted = good(demo(&server, &["emit", "demo", "news", "{\"a\": [1.0]}", "--count"]));
    assert_eq!(emitted, "sent to 1 connection\n");
    assert_eq!(watch.prints(), "news\t{\"a\": [1.0]}\n");
    let info = good(demo(&server, &["info", "demo", "news"]));
    assert!(info.starts_with("1 user, 1 connection\n") && info.ends_with("\twatch\n"), "{info}");

    server.stop();
    let told = watch.says();
    let told = told.strip_prefix("fws: the server has closed: 1001 ").unwrap_or(&told);
    crate::common::browser::back_ms(told);
    assert_eq!((watch.prints(), watch.ends()), (String::new(), Some(1)));
}

#[test]
fn watch_exits_quietly_when_its_output_is_closed() {
    let server = Server::new();
    let mut watch = Watch::start(demo(&server, &["watch", "demo", "news"]));
    assert_eq!(watch.says(), "fws: subscribed to news");
    let Watch { child, .. } = &mut watch;
    assert_eq!(child.try_wait().unwrap(), None);
    // Its output is closed while it prints nothing.
    watch.out = BufReader::new(closed());
    assert_eq!(watch.ends(), Some(0));
    assert!(watch.err.recv_timeout(DEADLINE).is_err(), "it says nothing more");
}

/// The standard output of a process that has exited.
fn closed() -> ChildStdout {
    let mut child = fws(&["--version"]).spawn().expect("the binary starts");
    let out = child.stdout.take().expect("a pipe");
    child.wait().expect("a child");
    out
}

#[test]
fn watch_exits_after_count_messages() {
    let server = Server::new();
    good(demo(&server, &["set", "demo", "price", "9.90"]));
    let words = ["watch", "demo", "news", "price", "--count", "2"];
    let mut watch = Watch::start(demo(&server, &words));
    assert_eq!(watch.says(), "fws: subscribed to news");
    assert_eq!(watch.says(), "fws: subscribed to price");
    assert_eq!(watch.prints(), "price\t9.90\n");
    good(demo(&server, &["emit", "demo", "news", "1"]));
    assert_eq!(watch.prints(), "news\t1\n");
    assert_eq!((watch.prints(), watch.ends()), (String::new(), Some(0)));
    for count in ["0", "x"] {
        let line = bad(demo(&server, &["watch", "demo", "news", "--count", count]), 2);
        assert_eq!(line, format!("--count: {count:?} is not a number from 1 on"));
    }
}

#[test]
fn watch_and_get_escape_terminal_control_characters() {
    let server = Server::new();
    let data = "{\"a\u{9b}31m\":\"\u{9d}0;evil\u{9c}\u{7f}\u{85}\u{2028}é\"}";
    let shown = r#"{"a\u009b31m":"\u009d0;evil\u009c\u007f\u0085\u2028é"}"#;
    good(demo(&server, &["set", "demo", "price", data]));
    assert_eq!(good(demo(&server, &["get", "demo", "price"])), format!("{shown}\n"));
    let mut watch = Watch::start(demo(&server, &["watch", "demo", "price"]));
    assert_eq!(watch.says(), "fws: subscribed to price");
    assert_eq!(watch.prints(), format!("price\t{shown}\n"));
}

#[test]
fn watch_connects_over_the_unix_socket() {
    let dir = Dir::new();
    let path = dir.file("ws.sock").display().to_string();
    let mut options = Options::default();
    options.config["ws_unix"] = json!(path);
    let server = Server::start_in(dir, &options);
    eventually("the socket listens", || server.dir().file("ws.sock").exists().then_some(()));
    for is_flag in [true, false] {
        let more = if is_flag { &["--ws-unix", &path][..] } else { &[] };
        let mut command = demo(&server, &[&["watch", "demo", "news"], more].concat());
        command.env("FWS_LISTEN_WS", if is_flag { "127.0.0.1:1" } else { "none" });
        if !is_flag {
            command.env("FWS_LISTEN_WS_UNIX", &path);
        }
        let watch = Watch::start(command);
        assert_eq!(watch.says(), "fws: subscribed to news");
    }
}

#[test]
fn watch_reports_why_it_is_refused() {
    let server = Server::new();
    let refused = bad(demo(&server, &["watch", "demo", "#vip"]), 1);
    assert!(refused.starts_with("the server refuses #vip: "), "{refused}");
    let line = bad(at(&server, &["watch", "demo", "news", "--key", "wrong"]), 1);
    assert_eq!(
        line,
        "the server refuses us: 3404 invalid JWT (is the key from --key the right one?)"
    );
    let line = bad(at(&server, &["watch", "nope", "news", "--key", "wrong"]), 1);
    assert!(line.starts_with("the server refuses us: 3404 site id not registered"), "{line}");

    good(demo(&server, &["grant", "demo", "#vip", "5"]));
    let mut watch = Watch::start(demo(&server, &["watch", "demo", "#vip", "--user", "5"]));
    assert_eq!(watch.says(), "fws: subscribed to #vip");
    good(demo(&server, &["emit", "demo", "#vip", "psst", "--user", "5"]));
    assert_eq!(watch.prints(), "#vip\t\"psst\"\n");
    let log = server.log().join("\n");
    assert!(!log.contains("psst") && !log.contains(DEMO_KEY) && !log.contains(SERVER_KEY), "{log}");
}

#[test]
fn watch_sends_an_allowed_origin() {
    let mut options = Options::default();
    options.config["allow_origin"] = json!(["https://shop.example"]);
    let server = Server::start(&options);
    for more in [&[][..], &["--origin", "https://evil.example"]] {
        let line = bad(demo(&server, &[&["watch", "demo", "news"], more].concat()), 1);
        let why = "HTTP 403: only pages of some sites may connect; name one of them with --origin";
        assert_eq!(line, format!("{}: {why}", server.ws));
    }
    let line = bad(demo(&server, &["watch", "demo", "news", "--origin", "shop.example"]), 2);
    assert!(line.starts_with("--origin: \"shop.example\" is not written as"), "{line}");
    let words = ["watch", "demo", "news", "--origin", "https://shop.example"];
    assert_eq!(Watch::start(demo(&server, &words)).says(), "fws: subscribed to news");
}

#[test]
fn watch_prints_the_most_deeply_nested_state() {
    let server = Server::new();
    let (open, close) = ("[".repeat(63), "]".repeat(63));
    let mut control = server.control();
    let auth = json!({ "action": "auth", "name": "demo", "sKey": DEMO_KEY });
    assert_eq!(control.ask(&auth.to_string()), r#"{"success":true}"#);
    // A list around data of the greatest depth that a command accepts, inside a message.
    control.ok(&format!(r#"{{"action":"push","channel":"deep","data":{open}{close}}}"#));
    let mut watch = Watch::start(demo(&server, &["watch", "demo", "deep"]));
    assert_eq!(watch.says(), "fws: subscribed to deep");
    assert_eq!(watch.prints(), format!("deep\t[{open}{close}]\n"));
}

#[test]
fn watch_does_not_accept_pings_as_the_answer_to_auth() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let (_, key) = head.split_once("Sec-WebSocket-Key: ").unwrap();
        let accept = ws::accept_key(key.lines().next().unwrap());
        let answer = format!("HTTP/1.1 101 S\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
        stream.write_all(answer.as_bytes()).unwrap();
        // One ping per second, for three times as long as watch waits.
        let (_sender, never) = channel::<()>();
        for _ in 0..30 {
            if stream.write_all(&ws::ping_frame(b"")).is_err() {
                return;
            }
            let _ = never.recv_timeout(std::time::Duration::from_secs(1));
        }
    });
    let before = std::time::Instant::now();
    let line = bad(fws(&["watch", "demo", "news", "--key", DEMO_KEY, "--ws", &at]), 1);
    assert_eq!(line, "no answer within 10000 ms");
    assert!(before.elapsed().as_secs() < 20, "{:?}", before.elapsed());
}
