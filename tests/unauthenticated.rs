//! What the real binary spends on those who have not said who they are, and on bodies that come
//! slowly, for nobody, or in great number.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod common;

use common::browser::{Browser, auth_message, masked};
use common::http::request;
use common::server::{DEMO_KEY, Options, Server};
use common::token::token;
use common::web::{Http, ask, post, session};
use common::{DEADLINE, eventually};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use serde_json::json;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A server with an admin door, and where that is.
fn watched(limits: &[(&str, u64)]) -> (Server, SocketAddr) {
    let mut options = Options::limits(limits);
    options.config["admin"] = json!("127.0.0.1:0");
    let server = Server::start(&options);
    let admin = server.admin();
    (server, admin)
}

/// The value of a metric without labels.
fn metric(admin: SocketAddr, name: &str) -> f64 {
    let page = request(admin, "GET /metrics", &[]).unwrap().body;
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}

#[track_caller]
fn shows(admin: SocketAddr, name: &str, value: f64) {
    eventually(&format!("{name} {value}"), || (metric(admin, name) == value).then_some(()));
}

/// A session over HTTP: its path. It has said who it is, if there is a user.
fn open(server: &Server, user: Option<&str>) -> String {
    let path = format!("/socket/{}", session());
    assert_eq!(post(server.ws, &format!("{path}/xhr"), "").1, "o\n");
    if let Some(user) = user {
        let auth =
            json!([auth_message("demo", &token(&json!({ "i": user }).to_string(), DEMO_KEY))])
                .to_string();
        assert_eq!(post(server.ws, &format!("{path}/xhr_send"), &auth).0, 204);
        assert!(post(server.ws, &format!("{path}/xhr"), "").1.contains("auth ok"));
    }
    path
}

/// A connection that has begun to post so many bytes, of which some are there.
fn posting(server: &Server, path: &str, length: usize, there: usize) -> Http {
    let mut http = Http::connect(server.ws);
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    http.raw(head + &" ".repeat(there));
    http
}

#[test]
fn a_body_that_comes_too_slowly_is_not_waited_for() {
    let server = Server::start(&Options::limits(&[("http_body_ms", 60_000)]));
    let start = Instant::now();
    // The second has come a long way, and has time for it: eight seconds.
    let mut slow = posting(&server, "/nothing", 10_000, 10);
    let mut good = posting(&server, "/nothing", 10_000, 3000);
    assert_eq!(slow.answer().status, 408);
    slow.expect_end();
    let after = start.elapsed();
    assert!(after > Duration::from_millis(1900) && after < DEADLINE / 2, "{after:?}");
    good.raw(" ".repeat(7000));
    assert_eq!(good.answer().status, 404);
}

#[test]
fn a_body_for_nobody_is_thrown_away() {
    let (server, admin) = watched(&[]);
    let mut nobody = posting(&server, "/socket/0/nobody/xhr_send", 60_000, 50_000);
    let mut unauthenticated =
        posting(&server, &format!("{}/xhr_send", open(&server, None)), 16_000, 9000);
    eventually("one of them is kept", || {
        let bytes = metric(admin, "fws_bodies_bytes");
        (9000.0..20_000.0).contains(&bytes).then_some(())
    });
    nobody.raw(" ".repeat(10_000));
    assert_eq!(nobody.answer().status, 404);
    // The connection goes on.
    assert_eq!(nobody.ask("GET /socket", &[], "").status, 200);
    unauthenticated.raw(" ".repeat(7000));
    assert_eq!(unauthenticated.answer().status, 500, "that was no JSON");
    shows(admin, "fws_bodies_bytes", 0.0);
    // Who is gone keeps nothing.
    let gone = posting(&server, &format!("{}/xhr_send", open(&server, None)), 16_000, 9000);
    eventually("it is kept", || (metric(admin, "fws_bodies_bytes") > 9000.0).then_some(()));
    drop(gone);
    shows(admin, "fws_bodies_bytes", 0.0);
}

#[test]
fn a_stranger_says_little_at_once() {
    let server = Server::new();
    let ping = json!({ "event": "ping", "clb": 1, "x": "x".repeat(1000) }).to_string();
    let many = json!(vec![ping; 20]).to_string();
    for (user, status) in [(None, 413), (Some("1"), 204)] {
        let path = format!("{}/xhr_send", open(&server, user));
        assert_eq!(post(server.ws, &path, &many).0, status, "{user:?}");
    }
}

#[test]
fn little_waits_for_a_stranger() {
    let server = Server::new();
    let ping = json!({ "event": "ping", "clb": "x".repeat(40) }).to_string();
    let many = json!(vec![ping; 100]).to_string();
    for (user, is_held) in [(None, true), (Some("1"), false)] {
        let path = open(&server, user);
        let mut sender = Http::connect(server.ws);
        sender.send(&format!("POST {path}/xhr_send"), &[], &many);
        if is_held {
            sender.expect_silence();
            // It is heard as it takes its answers.
            let mut count = 0;
            while count < 100 {
                let got = post(server.ws, &format!("{path}/xhr"), "").1;
                assert!(got.len() < 10_000, "{} bytes have waited", got.len());
                count += got.matches("callBackAnswer").count();
            }
            assert_eq!(count, 100);
        }
        assert_eq!(sender.answer().status, 204);
    }
}

#[test]
fn whoever_asks_for_a_page_and_does_not_read_is_owed_one_answer() {
    let (server, admin) = watched(&[("kernel_send_bytes", 4096)]);
    let iframe = "GET /socket/iframe.js HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200);
    let crowd: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(server.ws).unwrap();
            set_socket_recv_buffer_size(&stream, 4096).unwrap();
            stream.write_all(iframe.as_bytes()).unwrap();
            stream
        })
        .collect();
    let owed = || metric(admin, "fws_answers_bytes");
    eventually("answers wait", || (owed() > 20_000.0).then_some(()));
    // Another gets them all: one in a turn, in which everybody has one.
    let mut http = Http::connect(server.ws);
    http.raw(&iframe);
    for _ in 0..200 {
        assert_eq!(http.answer().body, include_str!("../clients/js/iframe.js"));
    }
    // The page is there once, and for each its place in the line, and the head.
    let owed = owed();
    assert!(owed < 100.0 * 700.0 + 10_000.0, "{owed} bytes");
    drop(crowd);
    shows(admin, "fws_answers_bytes", 0.0);
}

#[test]
fn what_an_answer_that_waits_repeats_is_counted_and_bounded() {
    let (server, admin) = watched(&[("input_bytes", 1 << 20)]);
    let waiting = || metric(admin, "fws_input_bytes");
    let (long, name) = ("o".repeat(3000), "c".repeat(1900));
    let headers = [format!("Origin: {long}"), format!("Access-Control-Request-Headers: {long}")];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let wait = |line: &str, body: &str| {
        let mut http = Http::connect(server.ws);
        http.send(line, &headers, body);
        http
    };
    // Polls, one of them with a callback.
    let (path, script) = (open(&server, None), open(&server, None));
    let mut poll = wait(&format!("POST {path}/xhr"), "");
    eventually("it is counted", || (3000.0..7000.0).contains(&waiting()).then_some(()));
    let before = waiting();
    let mut call = wait(&format!("GET {script}/jsonp?c={name}"), "");
    eventually("so is the callback", || (waiting() >= before + 1900.0).then_some(()));
    // Whoever sends waits behind what is too much for a stranger.
    let many = json!(vec![json!({ "event": "ping", "clb": 1 }).to_string(); 100]).to_string();
    for (path, receiver) in [(&path, &mut poll), (&script, &mut call)] {
        let mut sender = wait(&format!("POST {path}/xhr_send"), &many);
        let answer = receiver.answer();
        assert!(answer.body.contains("callBackAnswer"), "{answer:?}");
        eventually("its answer is counted", || (waiting() > 3000.0).then_some(()));
        let mut count = answer.body.matches("callBackAnswer").count();
        while count < 100 {
            let got = post(server.ws, &format!("{path}/xhr"), "").1;
            count += got.matches("callBackAnswer").count();
        }
        assert_eq!(sender.answer().status, 204);
    }
    shows(admin, "fws_input_bytes", 0.0);
}

#[test]
fn who_makes_many_answers_wait_goes() {
    let (server, admin) = watched(&[("input_bytes", 1 << 20)]);
    let long = format!("Origin: {}", "o".repeat(7000));
    let wait = |_| {
        let path = open(&server, None);
        let mut http = Http::connect(server.ws);
        http.send(&format!("POST {path}/xhr"), &[&long], "");
        http
    };
    let _polls: Vec<Http> = (0..200).map(wait).collect();
    eventually("some had to go", || {
        (metric(admin, "fws_input_evicted_total") >= 20.0).then_some(())
    });
    assert!(metric(admin, "fws_input_bytes") <= f64::from(1 << 20));
}

#[test]
fn few_requests_wait_for_one_session() {
    let server = Server::new();
    let path = open(&server, None);
    let ping = json!({ "event": "ping", "clb": 1 }).to_string();
    let send = |messages: usize| {
        let mut http = Http::connect(server.ws);
        let body = json!(vec![&ping; messages]).to_string();
        http.send(&format!("POST {path}/xhr_send"), &[], &body);
        http
    };
    let mut waiting = vec![send(100)];
    waiting[0].expect_silence();
    waiting.extend((1..64).map(|_| send(1)));
    eventually("there are enough", || (send(1).answer().status == 503).then_some(()));
    let mut count = 0;
    while count < 163 {
        count += post(server.ws, &format!("{path}/xhr"), "").1.matches("callBackAnswer").count();
    }
    assert_eq!(count, 163);
    assert!(waiting.iter_mut().all(|http| http.answer().status == 204));
}

#[test]
fn the_oldest_of_too_many_strangers_goes() {
    let (server, admin) = watched(&[("sessions_unauthenticated", 3)]);
    let mut known = server.browser("demo", r#"{"i":1}"#);
    let polled = open(&server, None);
    let mut sockets: Vec<Browser> = (0..2).map(|_| Browser::raw(server.ws)).collect();
    shows(admin, "fws_sessions_unauthenticated", 3.0);
    sockets.push(Browser::raw(server.ws));
    let told = "c[3408,\"no auth in time\"]\n";
    assert_eq!(post(server.ws, &format!("{polled}/xhr"), "").1, told);
    sockets.push(Browser::sockjs(server.ws));
    sockets.remove(0).expect_closed(3408, "no auth in time");
    // Who says who it is makes room.
    sockets[0].auth("demo", r#"{"i":2}"#);
    shows(admin, "fws_sessions_unauthenticated", 2.0);
    let _room = Browser::raw(server.ws);
    for socket in &mut sockets {
        socket.nothing();
    }
    known.nothing();
    drop(sockets);
    shows(admin, "fws_sessions_unauthenticated", 1.0);
}

#[test]
fn strangers_and_those_who_are_over_make_place_for_sessions() {
    let (server, admin) = watched(&[("sessions", 3), ("session_ms", 600_000)]);
    let ours = |path: &str| post(server.ws, &format!("{path}/xhr"), "");
    let known = open(&server, Some("1"));
    let (first, second) = (open(&server, None), open(&server, None));
    let mut poll = Http::connect(server.ws);
    poll.raw(format!("POST {second}/xhr HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
    shows(admin, "fws_sessions_unauthenticated", 2.0);
    // The first that came goes altogether, also if it was asked for; whoever waits is told.
    let _third = open(&server, None);
    assert_eq!(post(server.ws, &format!("{first}/xhr_send"), r#"["x"]"#).0, 404);
    let fourth = open(&server, Some("2"));
    assert!(poll.answer().body.contains("c[3408,\"no auth in time\"]"));
    let fifth = open(&server, Some("3"));
    shows(admin, "fws_sessions_unauthenticated", 0.0);
    // Nobody goes who has said who it is.
    let more = format!("/socket/{}", session());
    assert_eq!(ours(&more), (503, "too many sessions\n".into()));
    // Of those that are over, nobody need be told.
    let mut control = server.controller("demo");
    control.ask(r#"{"action":"disconnect","params":{"userId":"1"}}"#);
    assert_eq!(ours(&more).1, "o\n");
    assert_eq!(post(server.ws, &format!("{known}/xhr_send"), r#"["x"]"#).0, 404);
    for path in [fourth, fifth] {
        assert_eq!(post(server.ws, &format!("{path}/xhr_send"), r#"["x"]"#).0, 204);
    }
}

/// A connection is let in once, and can make sessions over HTTP as fast as they are answered: by so
/// many of its own nobody else may lose the time to say who they are.
#[test]
fn who_makes_many_sessions_takes_no_place_from_others() {
    for limit in ["sessions", "sessions_unauthenticated"] {
        let server = Server::start(&Options::limits(&[(limit, 3), ("session_ms", 600_000)]));
        let mut socket = Browser::raw(server.ws);
        let polled = open(&server, None);
        let mut crowd = Http::connect(server.ws);
        for _ in 0..9 {
            let made = crowd.ask(&format!("POST /socket/{}/xhr", session()), &[], "");
            assert_eq!(made.status, 200);
        }
        socket.auth("demo", r#"{"i":1}"#);
        let auth = auth_message("demo", &token(r#"{"i":2}"#, DEMO_KEY));
        let sent = post(server.ws, &format!("{polled}/xhr_send"), &json!([auth]).to_string());
        assert_eq!(sent.0, 204, "{limit}");
        assert!(post(server.ws, &format!("{polled}/xhr"), "").1.contains("auth ok"), "{limit}");
    }
}

#[test]
fn when_bodies_take_too_much_the_largest_goes() {
    let (server, admin) = watched(&[("bodies_bytes", 90_000), ("http_body_ms", 60_000)]);
    let path = format!("{}/xhr_send", open(&server, Some("1")));
    let mut small = posting(&server, &path, 10_000, 5000);
    let mut large = posting(&server, &path, 60_000, 50_000);
    eventually("both are kept", || (metric(admin, "fws_bodies_bytes") > 55_000.0).then_some(()));
    let mut last = posting(&server, &path, 50_000, 40_000);
    assert_eq!(large.answer().status, 503);
    large.expect_end();
    assert_eq!(metric(admin, "fws_bodies_evicted_total"), 1.0);
    for (http, missing) in [(&mut small, 5000), (&mut last, 10_000)] {
        http.raw(" ".repeat(missing));
        assert_eq!(http.answer().status, 500, "it was read to its end");
    }
    assert_eq!(ask(server.ws, "GET /socket", &[], "").status, 200);
    shows(admin, "fws_bodies_bytes", 0.0);
}

#[test]
fn strangers_who_fill_the_room_for_input_go_before_those_who_have_said_who_they_are() {
    let (server, admin) = watched(&[("input_bytes", 1 << 20)]);
    let ping = json!({ "event": "ping", "clb": 1, "data": "y".repeat(12_000) }).to_string();
    let ping = masked(0x81, ping.as_bytes());
    let auth = auth_message("demo", &token(r#"{"i":2}"#, DEMO_KEY));
    let auth = masked(0x81, auth.as_bytes());
    let mut client = server.browser("demo", r#"{"i":1}"#);
    client.send_raw(&ping[..11_000]);
    let mut newcomer = Browser::raw(server.ws);
    newcomer.send_raw(&auth[..100]);
    let half = |_| {
        let mut http = Http::connect(server.ws);
        http.raw(format!("GET /socket HTTP/1.1\r\nHost: a\r\nA: {}", "a".repeat(7900)));
        http
    };
    let _crowd: Vec<Http> = (0..200).map(half).collect();
    eventually("some had to go", || {
        (metric(admin, "fws_input_evicted_total") >= 20.0).then_some(())
    });
    client.send_raw(&ping[11_000..]);
    assert!(client.hear().contains("callBackAnswer"));
    newcomer.send_raw(&auth[100..]);
    assert!(newcomer.hear().contains("auth ok"));
}

#[test]
fn strangers_who_fill_the_room_for_bodies_go_before_those_who_have_said_who_they_are() {
    let limits = [("bodies_bytes", 300_000), ("session_ms", 60_000)];
    let (server, admin) = watched(&limits);
    let begin = |user, length, there| {
        posting(&server, &format!("{}/xhr_send", open(&server, user)), length, there)
    };
    let mut client = begin(Some("1"), 50_000, 30_000);
    let mut newcomer = begin(None, 1000, 500);
    // Those whose body nobody wants have no more than a head.
    let nobody = || {
        let mut http = Http::connect(server.ws);
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nA: {}\r\n", "a".repeat(8000));
        http.raw(head + "Content-Length: 2\r\n\r\n");
        http
    };
    let unauthenticated = || begin(None, 16_000, 15_900);
    let _crowd: Vec<[Http; 2]> = (0..25).map(|_| [nobody(), unauthenticated()]).collect();
    eventually("some had to go", || {
        (metric(admin, "fws_bodies_evicted_total") >= 10.0).then_some(())
    });
    for (http, missing) in [(&mut client, 20_000), (&mut newcomer, 500)] {
        http.raw(" ".repeat(missing));
        assert_eq!(http.answer().status, 500, "it was read to its end");
    }
}
