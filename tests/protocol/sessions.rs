//! HTTP sessions of the real server: their identity, what they receive and when they end, with back
//! ends that publish to them.

use crate::common::browser::{Browser, auth_message, back_ms, message, sockjs_frame};
use crate::common::control::{Control, emit, wait};
use crate::common::eventually;
use crate::common::http::Answer;
use crate::common::server::{DEMO_KEY, Options, Server};
use crate::common::token::token;
use crate::common::web::{Http, ask, post, session, session_on};
use serde_json::json;
use std::time::{Duration, Instant};

/// A session, as its polling client sees it.
struct Session<'a> {
    server: &'a Server,
    path: String,
}

impl<'a> Session<'a> {
    /// Opens a new session.
    fn open(server: &'a Server) -> Session<'a> {
        let session = Session { server, path: format!("/socket/{}", session()) };
        assert_eq!(session.poll(), "o\n");
        session
    }

    /// Opens a new session and authenticates it.
    fn authenticated(server: &'a Server, user: &str) -> Session<'a> {
        let session = Session::open(server);
        session.auth(user);
        session
    }

    fn auth(&self, user: &str) {
        self.say(&[&auth_message("demo", &token(user, DEMO_KEY))]);
        let got = self.poll();
        assert!(got.starts_with("a[\"{\\\"event\\\":\\\"auth ok\\\""), "{got}");
    }

    fn send(&self, body: &str) -> Answer {
        ask(self.server.ws, &format!("POST {}/xhr_send", self.path), &[], body)
    }

    /// Sends messages.
    #[track_caller]
    fn say(&self, messages: &[&str]) {
        assert_eq!(self.send(&json!(messages).to_string()).status, 204);
    }

    #[track_caller]
    fn subscribe(&self, channel: &str) {
        self.say(&[&json!({ "event": "subscribe", "data": channel }).to_string()]);
    }

    fn poll(&self) -> String {
        post(self.server.ws, &format!("{}/xhr", self.path), "").1
    }

    /// Sends a request and returns its connection; the answer may come later.
    fn wait(&self, line: &str) -> Http {
        let mut http = Http::connect(self.server.ws);
        http.send(&line.replace("PLACE", &self.path), &[], "");
        http
    }

    /// Opens a streaming answer and reads its prelude.
    fn stream(&self, line: &str) -> Http {
        let mut http = self.wait(line);
        assert_eq!(http.head().status, 200);
        http.chunk();
        http
    }
}

#[test]
fn a_message_reaches_subscribers_of_every_transport() {
    let server = Server::new();
    let mut control = server.controller("demo");
    control.ask(r#"{"action":"set","channel":"news","data":"state"}"#);
    let session = || {
        let session = Session::authenticated(&server, r#"{"i":1}"#);
        session.subscribe("news");
        assert_eq!(session.poll(), sockjs_frame(&message("news", "\"state\"")) + "\n");
        session
    };
    let sessions: Vec<Session<'_>> = (0..5).map(|_| session()).collect();
    let [collecting, polling, xhr, event, html] = &sessions[..] else { unreachable!() };
    let mut raw = server.browser("demo", r#"{"i":1}"#);
    raw.say(&json!({ "event": "subscribe", "data": "news" }).to_string());
    raw.expect(&message("news", "\"state\""));
    let mut poll = polling.wait("POST PLACE/xhr");
    let mut xhr = xhr.stream("POST PLACE/xhr_streaming");
    let mut event = event.stream("GET PLACE/eventsource");
    let mut html = html.stream("GET PLACE/htmlfile?c=x");
    poll.expect_silence();
    for data in ["{\"a\":\"%20<b>\"}", "2.0"] {
        control.ok(&emit("news", data));
        let message = message("news", data);
        raw.expect(&message);
        let frame = sockjs_frame(&message);
        assert_eq!(xhr.chunk(), format!("{frame}\n"));
        assert_eq!(event.chunk(), format!("data: {}\r\n\r\n", frame.replace('%', "%25")));
        let script = json!(frame).to_string().replace('<', "\\u003c").replace('>', "\\u003e");
        assert_eq!(html.chunk(), format!("<script>\np({script});\n</script>\r\n"));
        if data != "2.0" {
            assert_eq!(poll.answer().body, format!("{frame}\n"));
        }
    }
    let both = ["{\"a\":\"%20<b>\"}", "2.0"].map(|data| sockjs_frame(&message("news", data)));
    let both = format!("{},{}\n", both[0].trim_end_matches(']'), &both[1][2..]);
    assert_eq!(collecting.poll(), both, "all queued messages");
    assert_eq!(control.connections("news"), 6);
}

#[test]
fn a_session_without_a_receiver_expires_and_leaves_its_channels() {
    let server = Server::start(&Options::limits(&[("session_ms", 300)]));
    let mut control = server.controller("demo");
    let session = Session::authenticated(&server, r#"{"i":1}"#);
    session.subscribe("here");
    let mut waiting = session.wait("POST PLACE/xhr");
    waiting.expect_silence();
    assert_eq!(control.connections("here"), 1);
    control.ok(&emit("here", "1"));
    assert!(waiting.answer().body.starts_with("a["));
    eventually("it is unsubscribed", || (control.connections("here") == 0).then_some(()));
    assert_eq!(session.send("[\"x\"]").status, 404);
    assert_eq!(session.poll(), "o\n", "another session of that name");
    // A session whose receiver disconnects ends at once.
    session.auth(r#"{"i":2}"#);
    session.subscribe("here");
    let stream = session.stream("GET PLACE/eventsource");
    assert_eq!(control.connections("here"), 1);
    stream.wire.reset();
    eventually("it is unsubscribed", || (control.connections("here") == 0).then_some(()));
    assert_eq!(session.send("[\"x\"]").status, 404);
}

#[test]
fn a_refused_session_gets_the_reason_with_every_answer() {
    let server = Server::new();
    let session = Session::open(&server);
    session.say(&[&auth_message("demo", "bad"), "{\"event\":\"ping\",\"clb\":1}"]);
    for _ in 0..2 {
        assert_eq!(session.poll(), "c[3404,\"invalid JWT\"]\n");
    }
    let session = Session::authenticated(&server, r#"{"i":"bob"}"#);
    let mut waiting = session.stream("POST PLACE/xhr_streaming");
    let mut control = server.controller("demo");
    control.ask(r#"{"action":"disconnect","params":{"userId":"bob"}}"#);
    assert_eq!(waiting.chunk(), "c[3403,\"disconnected by the site\"]\n");
    assert_eq!(waiting.chunk(), "");
    assert_eq!(session.poll(), "c[3403,\"disconnected by the site\"]\n");
}

#[test]
fn sessions_have_auth_deadlines_and_heartbeats() {
    let limits = [("auth_ms", 700), ("heartbeat_ms", 150)];
    let server = Server::start(&Options::limits(&limits));
    let session = Session::open(&server);
    assert_eq!(session.poll(), "h\n");
    let mut stream = session.stream("GET PLACE/eventsource");
    for _ in 0..2 {
        assert_eq!(stream.chunk(), "data: h\r\n\r\n");
    }
    loop {
        let frame = stream.chunk();
        if frame != "data: h\r\n\r\n" {
            assert_eq!(frame, "data: c[3408,\"no auth in time\"]\r\n\r\n");
            break;
        }
    }
    assert_eq!(stream.chunk(), "");
    stream.expect_end();
    let jsonp =
        Session { server: &server, path: format!("/socket/{}", crate::common::web::session()) };
    assert_eq!(jsonp.wait("GET PLACE/jsonp?c=x").answer().body, "/**/x(\"o\");\r\n");
    assert_eq!(jsonp.wait("GET PLACE/jsonp?c=x").answer().body, "/**/x(\"h\");\r\n");
}

#[test]
fn a_session_that_does_not_poll_is_closed_as_too_slow() {
    let limits = [("backlog_bytes", 20_000), ("stream_response_bytes", 1_000_000_000)];
    let server = Server::start(&Options::limits(&limits));
    let mut control = server.controller("demo");
    let (never, slow) = (
        Session::authenticated(&server, r#"{"i":1}"#),
        Session::authenticated(&server, r#"{"i":2}"#),
    );
    never.subscribe("flood");
    slow.subscribe("flood");
    // A single message is never over the backlog limit.
    control.ok(&emit("flood", &format!("\"{}\"", "x".repeat(100_000))));
    assert_eq!(control.connections("flood"), 2);
    let (mut stream, mut sent) = (slow.wait("POST PLACE/xhr_streaming"), 0);
    while control.connections("flood") > 0 {
        control.ok(&emit("flood", &format!("\"{}\"", "y".repeat(9000))));
        sent += 1;
        assert!(sent < 10_000, "no session is closed");
    }
    assert_eq!(never.poll(), "c[3008,\"too slow\"]\n");
    // Data already in the kernel is read first; the connection ends after the close frame.
    assert!(stream.rest().contains("c[3008,\"too slow\"]\n"));
}

#[test]
fn a_burst_does_not_close_a_polling_session() {
    let server = Server::start(&Options::limits(&[("backlog_bytes", 20_000)]));
    let mut control = server.controller("demo");
    let session = Session::authenticated(&server, r#"{"i":1}"#);
    let channels: Vec<String> = (0..30).map(|number| format!("c{number}")).collect();
    channels.iter().for_each(|channel| session.subscribe(channel));
    let mut poll = session.wait("POST PLACE/xhr");
    poll.expect_silence();
    let data = "z".repeat(9000);
    let emit = json!({ "action": "emit", "channels": channels, "data": data });
    assert_eq!(control.ask(&emit.to_string()), r#"{"success":true}"#);
    let mut body = poll.answer().body;
    while body.matches("zzz\\\"}").count() < channels.len() {
        body += &session.poll();
    }
    assert!(!body.contains("c["), "{}", &body[body.len() - 100..]);
}

#[test]
fn uncollected_answers_pause_a_sessions_requests() {
    let server = Server::start(&Options::limits(&[("answers_pause_bytes", 20_000)]));
    let mut control = server.controller("demo");
    for channel in 0..6 {
        let data = "s".repeat(15_000);
        let set = format!(r#"{{"action":"set","channel":"c{channel}","data":"{data}"}}"#);
        assert_eq!(control.ask(&set), r#"{"success":true}"#);
    }
    let session = Session::authenticated(&server, r#"{"i":1}"#);
    let subscribe = |channel| json!({ "event": "subscribe", "data": format!("c{channel}") });
    let all: Vec<String> = (0..6).map(|channel| subscribe(channel).to_string()).collect();
    let mut sender = session.wait("GET /socket");
    assert_eq!(sender.answer().status, 200);
    sender.send(&format!("POST {}/xhr_send", session.path), &[], &json!(all).to_string());
    sender.expect_silence();
    let mut got = 0;
    while got < 6 {
        let body = session.poll();
        assert!(body.len() < 40_000, "two states at most");
        got += body.matches("\\\"event\\\"").count();
    }
    assert_eq!(sender.answer().status, 204);
    // The same with a streaming answer, which ends at its limit and continues in the next.
    sender.send(&format!("POST {}/xhr_send", session.path), &[], &json!(all).to_string());
    let mut stream = session.stream("POST PLACE/xhr_streaming");
    let mut got = 0;
    while got < 6 {
        got += stream.chunk().matches("\\\"event\\\"").count();
    }
    assert_eq!(sender.answer().status, 204);
}

#[test]
fn messages_are_carried_out_after_their_sender_disconnects() {
    let limits = [("answers_pause_bytes", 4000), ("http_body_bytes", 8000)];
    let server = Server::start(&Options::limits(&limits));
    let mut control = server.controller("demo");
    control.ask(&format!(r#"{{"action":"set","channel":"c","data":"{}"}}"#, "s".repeat(5000)));
    let session = Session::authenticated(&server, r#"{"i":1}"#);
    let ping = |clb: usize| format!(r#"{{"event":"ping","clb":{clb}}}"#);
    let subscribe = json!({ "event": "subscribe", "data": "c" }).to_string();
    let messages: Vec<String> =
        (0..200).map(|clb| [subscribe.clone(), ping(clb)][clb % 2].clone()).collect();
    let mut senders = 0;
    // Each sender disconnects before its answer; the server queues only a limited amount.
    loop {
        let mut sender = Http::connect(server.ws);
        let body = json!(messages).to_string();
        sender.send(&format!("POST {}/xhr_send", session.path), &[], &body);
        if senders == 2 {
            assert_eq!(sender.answer().status, 503);
            break;
        }
        sender.expect_silence();
        senders += 1;
    }
    let (mut pings, mut states) = (Vec::new(), 0);
    while pings.len() < 200 {
        let body = session.poll();
        let got: Vec<String> = serde_json::from_str(&body[1..]).expect("an array");
        for message in got {
            let message: serde_json::Value = serde_json::from_str(&message).expect("JSON");
            match message["clb"].as_u64() {
                Some(clb) => pings.push(clb),
                None => states += 1,
            }
        }
    }
    let odd: Vec<u64> = (0..200).filter(|clb| clb % 2 == 1).collect();
    assert_eq!(pings, [odd.clone(), odd].concat());
    assert_eq!(states, 200);
}

#[test]
fn messages_and_sessions_are_limited() {
    // Nothing polls here: throttled messages would be lost with the session, hence the burst.
    let limits = [("sessions", 2), ("message_bytes", 4096), ("messages_burst", 2000)];
    let server = Server::start(&Options::limits(&limits));
    let (one, two) = (Session::open(&server), Session::open(&server));
    // Unauthenticated sessions would be evicted.
    one.auth(r#"{"i":1}"#);
    two.auth(r#"{"i":1}"#);
    let path = format!("POST /socket/{}/xhr", session());
    assert_eq!(ask(server.ws, &path, &[], "").status, 503);
    let long = format!("POST /socket/0/{}/xhr", "x".repeat(256));
    assert_eq!(ask(server.ws, &long, &[], "").status, 404);
    one.say(&[&"x".repeat(4097)]);
    assert_eq!(one.poll(), "c[1009,\"message too large\"]\n");
    // Any number of small messages is accepted, up to the limits of bodies and bursts.
    two.say(&vec!["{\"event\":\"nothing\",\"data\":1}"; 1500]);
    assert_eq!(two.send(&format!("[\"{}\"]", "x".repeat(66_000))).status, 413);
    // WebSockets do not count.
    Browser::sockjs(server.ws).fence().unwrap();
}

#[test]
fn disabled_transports_are_not_found() {
    let mut options = Options::default();
    options.config["sockjs"] = json!({ "jsonp": false, "htmlfile": false, "cookie": true,
        "script": "https://cdn.example/sockjs.js" });
    let server = Server::start(&options);
    for line in
        ["GET /socket/a/b/jsonp?c=x", "POST /socket/a/b/jsonp_send", "GET /socket/a/b/htmlfile?c=x"]
    {
        assert_eq!(ask(server.ws, line, &[], "").status, 404, "{line}");
    }
    let answer = ask(server.ws, "GET /socket/iframe.html", &[], "");
    assert!(answer.body.contains("<script src=\"https://cdn.example/sockjs.js\"></script>"));
    let answer = ask(server.ws, "POST /socket/a/b/xhr", &[], "");
    assert_eq!(answer.header("set-cookie"), Some("JSESSIONID=dummy; path=/"));
    assert!(ask(server.ws, "GET /socket/info", &[], "").body.contains("\"cookie_needed\":true"));
}

#[test]
fn a_stop_is_announced_to_every_session() {
    let server = Server::new();
    let session = Session::authenticated(&server, r#"{"i":1}"#);
    let other = Session::open(&server);
    let mut stream = session.stream("GET PLACE/eventsource");
    let mut poll = other.wait("POST PLACE/xhr");
    poll.expect_silence();
    server.terminate();
    let told = |text: &str| {
        let text = text.trim().trim_start_matches("data: ");
        back_ms(text.trim_start_matches("c[1001,\"").trim_end_matches("\"]"))
    };
    told(&stream.chunk());
    assert_eq!(stream.chunk(), "");
    told(&poll.answer().body);
    drop((stream, poll));
    server.exited();
}

#[test]
fn a_message_to_a_receiver_just_gone_ends_the_session_without_a_gap() {
    let server = Server::new();
    let mut control = server.controller("demo");
    for is_reset in [true, false] {
        let id = session_on(server.ws, 1, "c");
        let mut http = Http::connect(server.ws);
        http.send(&format!("POST /socket/{id}/xhr"), &[], "");
        http.expect_silence();
        // The message and the disconnect of the receiver are seen in one turn.
        server.freeze();
        control.send(r#"{"action":"emit","channel":"c","data":"first"}"#);
        match is_reset {
            true => http.wire.reset(),
            false => drop(http),
        }
        server.thaw();
        assert_eq!(control.recv(), r#"{"success":true}"#);
        assert_eq!(post(server.ws, &format!("/socket/{id}/xhr"), ""), (200, "o\n".into()));
    }
}

#[test]
fn a_disconnected_poll_ends_its_session_despite_pipelined_requests() {
    let server = Server::new();
    let mut control = server.controller("demo");
    for count in [1, 1000] {
        let id = session_on(server.ws, 1, "c");
        let mut http = Http::connect(server.ws);
        http.send(&format!("POST /socket/{id}/xhr"), &[], "");
        (0..count).for_each(|_| http.send("GET /socket", &[], ""));
        http.expect_silence();
        assert_eq!(control.connections("c"), 1);
        drop(http);
        eventually("it is unsubscribed", || (control.connections("c") == 0).then_some(()));
    }
}

#[test]
fn a_throttled_send_is_answered_before_a_proxy_times_out() {
    let pace = [("messages_per_second", 1), ("messages_burst", 10)];
    let server = Server::start(&Options::limits(&[&pace[..], &[("heartbeat_ms", 400)]].concat()));
    let id = session_on(server.ws, 1, "c");
    let pings: Vec<String> =
        (0..14).map(|clb| json!({ "event": "ping", "clb": clb }).to_string()).collect();
    let start = Instant::now();
    let place = format!("/socket/{id}");
    let (status, _) = post(server.ws, &format!("{place}/xhr_send"), &json!(pings).to_string());
    assert_eq!(status, 204);
    let waited = start.elapsed();
    assert!(waited > Duration::from_millis(300) && waited < Duration::from_secs(2), "{waited:?}");
    // All of it is carried out at the limited rate, in order.
    let mut heard = String::new();
    while heard.matches("callBackAnswer").count() < 14 {
        heard += &post(server.ws, &format!("{place}/xhr"), "").1;
        assert!(start.elapsed() < Duration::from_secs(20), "{heard}");
    }
    let at: Vec<_> = (0..14).map(|clb| heard.find(&format!(r#"\"clb\":{clb},"#))).collect();
    assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{heard}");
    assert!(start.elapsed() > Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn a_session_lives_while_a_slow_link_carries_its_last_answer() {
    let limits = [("session_ms", 300), ("http_head_ms", 300), ("kernel_send_bytes", 16_384)];
    let server = Server::start(&Options::limits(&limits));
    let mut control = server.controller("demo");
    let is_there = |control: &mut Control| {
        let info = control.ask(r#"{"action":"channelInfo","channel":"c"}"#);
        info.contains(r#""countConnection":1"#)
    };
    for (user, (way, method)) in [("xhr", "POST"), ("jsonp?c=f", "GET")].into_iter().enumerate() {
        let id = session_on(server.ws, user, "c");
        let mut http = Http::connect(server.ws);
        let line = format!("{method} /socket/{id}/{way}");
        let emit = |data: &str| format!(r#"{{"action":"emit","channel":"c","data":{data}}}"#);
        control.ok(&emit(&format!("\"{}\"", "x".repeat(6000))));
        assert!(http.ask(&line, &[], "").body.len() > 6000, "{way}");
        // At 40 kbit/s the answer has just arrived, and the same connection may poll again.
        wait(&mut control, 1200);
        assert!(is_there(&mut control), "{way}");
        control.ok(&emit("1"));
        assert!(http.ask(&line, &[], "").body.contains("data"), "{way}");
        // After a short answer the session expires sooner.
        wait(&mut control, 600);
        assert!(!is_there(&mut control), "{way}");
        http.expect_end();
    }
}
