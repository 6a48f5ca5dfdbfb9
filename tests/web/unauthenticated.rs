//! What the real binary spends on unauthenticated clients, and on bodies that are slow, numerous or
//! for unknown sessions.

use crate::common::browser::{Browser, auth_message, masked};
use crate::common::server::{DEMO_KEY, Options, Server};
use crate::common::token::token;
use crate::common::web::{Http, ask, post, session};
use crate::common::{DEADLINE, eventually};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use serde_json::json;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A server with an admin listener.
fn watched(limits: &[(&str, u64)]) -> Server {
    let mut options = Options::limits(limits);
    options.config["admin"] = json!("127.0.0.1:0");
    Server::start(&options)
}

#[track_caller]
fn expect_metric(server: &Server, name: &str, value: f64) {
    eventually(&format!("{name} {value}"), || (server.metric(name) == value).then_some(()));
}

/// Opens an HTTP session, authenticated if there is a user; returns its path.
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

/// A connection that posts a body of `length` bytes, of which it has sent `there`.
fn posting(server: &Server, path: &str, length: usize, there: usize) -> Http {
    let mut http = Http::connect(server.ws);
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
    http.raw(head + &" ".repeat(there));
    http
}

#[test]
fn a_body_that_arrives_too_slowly_times_out() {
    let server = Server::start(&Options::limits(&[("http_body_ms", 60_000)]));
    let start = Instant::now();
    // The second has sent much, and has earned eight seconds by it.
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
fn a_body_for_an_unknown_session_is_discarded() {
    let server = watched(&[]);
    let mut nobody = posting(&server, "/socket/0/nobody/xhr_send", 60_000, 50_000);
    let mut unauthenticated =
        posting(&server, &format!("{}/xhr_send", open(&server, None)), 16_000, 9000);
    eventually("one of the bodies is buffered", || {
        let bytes = server.metric("fws_bodies_bytes");
        (9000.0..20_000.0).contains(&bytes).then_some(())
    });
    nobody.raw(" ".repeat(10_000));
    assert_eq!(nobody.answer().status, 404);
    // The connection goes on.
    assert_eq!(nobody.ask("GET /socket", &[], "").status, 200);
    unauthenticated.raw(" ".repeat(7000));
    assert_eq!(unauthenticated.answer().status, 500, "the body was no JSON");
    expect_metric(&server, "fws_bodies_bytes", 0.0);
    // The body of a closed connection is freed.
    let gone = posting(&server, &format!("{}/xhr_send", open(&server, None)), 16_000, 9000);
    eventually("it is buffered", || (server.metric("fws_bodies_bytes") > 9000.0).then_some(()));
    drop(gone);
    expect_metric(&server, "fws_bodies_bytes", 0.0);
}

#[test]
fn the_body_of_an_unauthenticated_session_is_limited() {
    let server = Server::new();
    let ping = json!({ "event": "ping", "clb": 1, "x": "x".repeat(1000) }).to_string();
    let many = json!(vec![ping; 20]).to_string();
    for (user, status) in [(None, 413), (Some("1"), 204)] {
        let path = format!("{}/xhr_send", open(&server, user));
        assert_eq!(post(server.ws, &path, &many).0, status, "{user:?}");
    }
}

#[test]
fn answers_queued_for_an_unauthenticated_session_are_limited() {
    let server = Server::new();
    let ping = json!({ "event": "ping", "clb": "x".repeat(40) }).to_string();
    let many = json!(vec![ping; 100]).to_string();
    for (user, is_held) in [(None, true), (Some("1"), false)] {
        let path = open(&server, user);
        let mut sender = Http::connect(server.ws);
        sender.send(&format!("POST {path}/xhr_send"), &[], &many);
        if is_held {
            sender.expect_silence();
            // Its messages are carried out as it collects the answers.
            let mut count = 0;
            while count < 100 {
                let got = post(server.ws, &format!("{path}/xhr"), "").1;
                assert!(got.len() < 10_000, "{} bytes were queued", got.len());
                count += got.matches("callBackAnswer").count();
            }
            assert_eq!(count, 100);
        }
        assert_eq!(sender.answer().status, 204);
    }
}

#[test]
fn a_client_that_reads_nothing_has_one_answer_queued() {
    let server = watched(&[("kernel_send_bytes", 4096)]);
    let iframe = "GET /socket/iframe.js HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200);
    let crowd: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(server.ws).unwrap();
            set_socket_recv_buffer_size(&stream, 4096).unwrap();
            stream.write_all(iframe.as_bytes()).unwrap();
            stream
        })
        .collect();
    let owed = || server.metric("fws_answers_bytes");
    eventually("answers are queued", || (owed() > 20_000.0).then_some(()));
    // A client that reads gets all of its answers: one per turn, as each connection does.
    let mut http = Http::connect(server.ws);
    http.raw(&iframe);
    for _ in 0..200 {
        assert_eq!(http.answer().body, include_str!("../../clients/js/iframe.js"));
    }
    // The page is in memory once; each connection has a queue entry and a response head.
    let owed = owed();
    assert!(owed < 100.0 * 700.0 + 10_000.0, "{owed} bytes");
    drop(crowd);
    expect_metric(&server, "fws_answers_bytes", 0.0);
}

#[test]
fn header_values_held_for_waiting_answers_are_counted() {
    let server = watched(&[("input_bytes", 1 << 20)]);
    let waiting = || server.metric("fws_input_bytes");
    let (long, name) = ("o".repeat(3000), "c".repeat(1900));
    let headers = [format!("Origin: {long}"), format!("Access-Control-Request-Headers: {long}")];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let wait = |line: &str, body: &str| {
        let mut http = Http::connect(server.ws);
        http.send(line, &headers, body);
        http
    };
    // Two polls, the second with a callback name.
    let (path, script) = (open(&server, None), open(&server, None));
    let mut poll = wait(&format!("POST {path}/xhr"), "");
    eventually("it is counted", || (3000.0..7000.0).contains(&waiting()).then_some(()));
    let before = waiting();
    let mut call = wait(&format!("GET {script}/jsonp?c={name}"), "");
    eventually("the callback is counted too", || (waiting() >= before + 1900.0).then_some(()));
    // The sender waits, since its answers are over the limit of an unauthenticated session.
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
    expect_metric(&server, "fws_input_bytes", 0.0);
}

#[test]
fn waiting_polls_over_the_input_budget_are_evicted() {
    let server = watched(&[("input_bytes", 1 << 20)]);
    let long = format!("Origin: {}", "o".repeat(7000));
    let wait = |_| {
        let path = open(&server, None);
        let mut http = Http::connect(server.ws);
        http.send(&format!("POST {path}/xhr"), &[&long], "");
        http
    };
    let _polls: Vec<Http> = (0..200).map(wait).collect();
    eventually("some are evicted", || {
        (server.metric("fws_input_evicted_total") >= 20.0).then_some(())
    });
    assert!(server.metric("fws_input_bytes") <= f64::from(1 << 20));
}

#[test]
fn requests_waiting_for_one_session_are_limited() {
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
fn the_oldest_unauthenticated_session_is_evicted_over_the_limit() {
    let server = watched(&[("sessions_unauthenticated", 3)]);
    let mut known = server.browser("demo", r#"{"i":1}"#);
    let polled = open(&server, None);
    let mut sockets: Vec<Browser> = (0..2).map(|_| Browser::raw(server.ws)).collect();
    expect_metric(&server, "fws_sessions_unauthenticated", 3.0);
    sockets.push(Browser::raw(server.ws));
    let told = "c[3408,\"no auth in time\"]\n";
    assert_eq!(post(server.ws, &format!("{polled}/xhr"), "").1, told);
    sockets.push(Browser::sockjs(server.ws));
    sockets.remove(0).expect_closed(3408, "no auth in time");
    // A session that authenticates makes room.
    sockets[0].auth("demo", r#"{"i":2}"#);
    expect_metric(&server, "fws_sessions_unauthenticated", 2.0);
    let _room = Browser::raw(server.ws);
    for socket in &mut sockets {
        socket.nothing();
    }
    known.nothing();
    drop(sockets);
    expect_metric(&server, "fws_sessions_unauthenticated", 1.0);
}

#[test]
fn unauthenticated_and_closed_sessions_make_room_for_new_ones() {
    let server = watched(&[("sessions", 3), ("session_ms", 600_000)]);
    let ours = |path: &str| post(server.ws, &format!("{path}/xhr"), "");
    let known = open(&server, Some("1"));
    let (first, second) = (open(&server, None), open(&server, None));
    let mut poll = Http::connect(server.ws);
    poll.raw(format!("POST {second}/xhr HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
    expect_metric(&server, "fws_sessions_unauthenticated", 2.0);
    // The oldest is removed altogether, though it was used; a waiting poll gets the reason.
    let _third = open(&server, None);
    assert_eq!(post(server.ws, &format!("{first}/xhr_send"), r#"["x"]"#).0, 404);
    let fourth = open(&server, Some("2"));
    assert!(poll.answer().body.contains("c[3408,\"no auth in time\"]"));
    let fifth = open(&server, Some("3"));
    expect_metric(&server, "fws_sessions_unauthenticated", 0.0);
    // No authenticated session is evicted.
    let more = format!("/socket/{}", session());
    assert_eq!(ours(&more), (503, "too many sessions\n".into()));
    // Closed sessions that have not yet fetched their reason make room too.
    let mut control = server.controller("demo");
    control.ask(r#"{"action":"disconnect","params":{"userId":"1"}}"#);
    assert_eq!(ours(&more).1, "o\n");
    assert_eq!(post(server.ws, &format!("{known}/xhr_send"), r#"["x"]"#).0, 404);
    for path in [fourth, fifth] {
        assert_eq!(post(server.ws, &format!("{path}/xhr_send"), r#"["x"]"#).0, 204);
    }
}

/// One admitted connection can open HTTP sessions as fast as they are answered. They must not cost
/// other clients their time to authenticate.
#[test]
fn a_connection_that_opens_many_sessions_evicts_only_its_own() {
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
fn the_largest_body_is_evicted_over_the_budget() {
    let server = watched(&[("bodies_bytes", 90_000), ("http_body_ms", 60_000)]);
    let path = format!("{}/xhr_send", open(&server, Some("1")));
    let mut small = posting(&server, &path, 10_000, 5000);
    let mut large = posting(&server, &path, 60_000, 50_000);
    eventually("both are held", || (server.metric("fws_bodies_bytes") > 55_000.0).then_some(()));
    let mut last = posting(&server, &path, 50_000, 40_000);
    assert_eq!(large.answer().status, 503);
    large.expect_end();
    assert_eq!(server.metric("fws_bodies_evicted_total"), 1.0);
    for (http, missing) in [(&mut small, 5000), (&mut last, 10_000)] {
        http.raw(" ".repeat(missing));
        assert_eq!(http.answer().status, 500, "it was read to its end");
    }
    assert_eq!(ask(server.ws, "GET /socket", &[], "").status, 200);
    expect_metric(&server, "fws_bodies_bytes", 0.0);
}

#[test]
fn the_input_budget_evicts_unauthenticated_clients_first() {
    let server = watched(&[("input_bytes", 1 << 20)]);
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
    eventually("some are evicted", || {
        (server.metric("fws_input_evicted_total") >= 20.0).then_some(())
    });
    client.send_raw(&ping[11_000..]);
    assert!(client.hear().contains("callBackAnswer"));
    newcomer.send_raw(&auth[100..]);
    assert!(newcomer.hear().contains("auth ok"));
}

#[test]
fn the_bodies_budget_evicts_unauthenticated_clients_first() {
    let limits = [("bodies_bytes", 300_000), ("session_ms", 60_000)];
    let server = watched(&limits);
    let begin = |user, length, there| {
        posting(&server, &format!("{}/xhr_send", open(&server, user)), length, there)
    };
    let mut client = begin(Some("1"), 50_000, 30_000);
    let mut newcomer = begin(None, 1000, 500);
    // A request whose body is discarded holds no more than its head.
    let nobody = || {
        let mut http = Http::connect(server.ws);
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nA: {}\r\n", "a".repeat(8000));
        http.raw(head + "Content-Length: 2\r\n\r\n");
        http
    };
    let unauthenticated = || begin(None, 16_000, 15_900);
    let _crowd: Vec<[Http; 2]> = (0..25).map(|_| [nobody(), unauthenticated()]).collect();
    eventually("some are evicted", || {
        (server.metric("fws_bodies_evicted_total") >= 10.0).then_some(())
    });
    for (http, missing) in [(&mut client, 20_000), (&mut newcomer, 500)] {
        http.raw(" ".repeat(missing));
        assert_eq!(http.answer().status, 500, "it was read to its end");
    }
}
