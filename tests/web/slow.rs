//! Browsers that do not read what is published to them: which are closed, why and when, and which
//! are not. Drives the real binary from outside.

// A test that cannot go on panics, and so do its helpers.

use crate::common::browser::{Browser, masked, message};
use crate::common::control::{Control, emit, frame, wait};
use crate::common::server::{Options, Server};
use crate::common::web::{Http, post, session_on};
use crate::common::{eventually, text};
use serde_json::json;
use std::io::Read;
use std::time::{Duration, Instant};

/// Longer than any test takes, in milliseconds.
const NEVER: u64 = 600_000;
const UNLIMITED: u64 = 1 << 30;

/// A server with an admin listener, small kernel send buffers and these limits; all other limits
/// on slow readers are out of reach.
fn server(limits: &[(&str, u64)]) -> Server {
    let never = [("stall_ms", NEVER), ("backlog_soft_ms", NEVER), ("backlog_bytes", UNLIMITED)];
    let kernel = [("kernel_send_bytes", 16_384), ("close_ms", NEVER)];
    let all = [&never[..], &kernel, limits].concat();
    let mut options = Options::limits(&all);
    options.config["admin"] = json!("127.0.0.1:0");
    Server::start(&options)
}

/// A browser subscribed to this channel.
fn subscriber(server: &Server, channel: &str) -> Browser {
    let mut browser = server.browser("demo", &json!({ "i": channel }).to_string());
    browser.subscribe(channel);
    browser
}

fn closed(server: &Server, reason: &str) -> f64 {
    server.metric(&format!(r#"fws_connections_closed_total{{reason="{reason}"}}"#))
}

#[test]
fn a_stalled_reader_is_closed_and_a_slow_one_is_not() {
    let server = server(&[("stall_ms", 600)]);
    let mut control = server.controller("demo");
    let (mut slow, mut stuck) = (subscriber(&server, "c"), subscriber(&server, "c"));
    let data = text(3_000_000);
    control.ok(&emit("c", &data));
    let start = Instant::now();
    // Behind it, at once, a small message and another large one.
    control.ok(&emit("c", "1"));
    control.ok(&emit("c", &data));
    // The frame header has ten bytes.
    let (mut left, mut piece) = (message("c", &data).len() + 10, vec![0; 40_000]);
    while left > 0 {
        left -= slow.wire().read(&mut piece[..left.min(40_000)]).unwrap();
        wait(&mut control, 20);
    }
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    // It took more than twice the stall limit, and is still subscribed.
    assert_eq!((control.connections("c"), closed(&server, "stalled")), (1, 1.0));
    slow.expect(&message("c", "1"));
    slow.expect(&message("c", &data));
    // What the kernel had, then the close frame in place of what was queued.
    let rest = stuck.wire().read_rest().unwrap();
    assert!(rest.len() < 3_100_000 && rest.ends_with(b"\x0b\xc0too slow"), "{}", rest.len());
}

#[test]
fn the_pong_deadline_starts_when_the_message_ahead_is_sent() {
    let server = server(&[("heartbeat_ms", 300), ("heartbeat_answer_ms", 1500)]);
    let mut control = server.controller("demo");
    let (mut slow, mut mute) = (subscriber(&server, "c"), subscriber(&server, "other"));
    let data = text(3_000_000);
    control.ok(&emit("c", &data));
    let (mut left, mut piece) = (message("c", &data).len() + 10, vec![0; 30_000]);
    let start = Instant::now();
    while left > 0 {
        let count = left.min(piece.len());
        slow.wire().read_exact(&mut piece[..count]).unwrap();
        left -= count;
        wait(&mut control, 30);
    }
    assert!(start.elapsed() > Duration::from_secs(2), "it was not slow");
    assert_eq!(slow.next_frame(), Ok((0x89, Vec::new())));
    slow.send_raw(&masked(0x8a, b""));
    slow.fence().unwrap();
    // A browser that reads everything but answers no ping is closed.
    assert_eq!(mute.next_frame(), Ok((0x89, Vec::new())));
    mute.expect_closed(3000, "No response from heartbeat");
    assert_eq!(closed(&server, "no_heartbeat"), 1.0);
}

#[test]
fn the_pong_deadline_allows_for_data_in_the_kernel() {
    let server = server(&[("heartbeat_ms", 1500), ("heartbeat_answer_ms", 100)]);
    let mut control = server.controller("demo");
    let (mut slow, mut mute) = (subscriber(&server, "c"), subscriber(&server, "other"));
    let data = text(50_000);
    control.ok(&emit("c", &data));
    // The test reads all of it at once; over a slow link the ping would arrive much later.
    slow.expect(&message("c", &data));
    assert_eq!(slow.next_frame(), Ok((0x89, Vec::new())));
    wait(&mut control, 800);
    slow.send_raw(&masked(0x8a, b""));
    slow.fence().unwrap();
    // A browser that was sent little gets no extra time.
    assert_eq!(mute.next_frame(), Ok((0x89, Vec::new())));
    assert_eq!(closed(&server, "no_heartbeat"), 1.0);
    mute.expect_closed(3000, "No response from heartbeat");
    // Data sent before the previous heartbeat gives no extra time either.
    assert_eq!(slow.next_frame(), Ok((0x89, Vec::new())));
    let start = Instant::now();
    slow.expect_closed(3000, "No response from heartbeat");
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
}

#[test]
fn the_pong_deadline_allows_for_a_slow_link() {
    let server = server(&[("heartbeat_ms", 400), ("heartbeat_answer_ms", 100)]);
    let mut control = server.controller("demo");
    let mut slow = subscriber(&server, "c");
    let data = text(60_000);
    control.ok(&emit("c", &data));
    slow.expect(&message("c", &data));
    assert_eq!(slow.next_frame(), Ok((0x89, Vec::new())));
    // At 40 kbit/s it would have read only half of it by now.
    wait(&mut control, 1500);
    slow.send_raw(&masked(0x8a, b""));
    slow.fence().unwrap();
    assert_eq!(closed(&server, "no_heartbeat"), 0.0);
}

#[test]
fn a_session_outlives_a_slowly_read_http_answer() {
    let limits = [("session_ms", 800), ("http_head_ms", 800), ("heartbeat_ms", 700)];
    let server = server(&limits);
    let mut control = server.controller("demo");
    let ways = [("xhr", "POST"), ("jsonp?c=f", "GET"), ("eventsource", "GET")];
    for (user, (way, method)) in ways.into_iter().enumerate() {
        let id = session_on(server.ws, user, "c");
        let mut http = Http::connect(server.ws);
        http.send(&format!("{method} /socket/{id}/{way}"), &["Connection: close"], "");
        let data = text(2_000_000);
        control.ok(&emit("c", &data));
        // Much longer than a session may be without a request, or a connection between two.
        let (start, mut got, mut piece) = (Instant::now(), Vec::new(), vec![0; 30_000]);
        while let Ok(count @ 1..) = http.wire.read(&mut piece) {
            got.extend_from_slice(&piece[..count]);
            wait(&mut control, 20);
        }
        assert!(start.elapsed() > Duration::from_secs(1), "{way}: it was not slow");
        assert!(got.len() > data.len(), "{way}: cut after {} bytes", got.len());
        assert_eq!(control.connections("c"), 1, "{way}");
        let next = post(server.ws, &format!("/socket/{id}/xhr"), "");
        assert_eq!(next, (200, "h\n".into()), "{way}");
        eventually("the session expires", || (control.connections("c") == 0).then_some(()));
    }
    // A client that reads nothing of what it requested is closed, and its session with it.
    let data = text(4_000_000);
    control.ok(&format!(r#"{{"action":"set","channel":"large","data":{data}}}"#));
    let id = session_on(server.ws, 9, "c");
    let mut http = Http::connect(server.ws);
    http.send(&format!("POST /socket/{id}/xhr"), &[], "");
    let subscribe = json!([json!({ "event": "subscribe", "data": "large" }).to_string()]);
    let sent = post(server.ws, &format!("/socket/{id}/xhr_send"), &subscribe.to_string());
    assert_eq!((sent.0, control.connections("large")), (204, 1));
    eventually("it is closed", || (control.connections("large") == 0).then_some(()));
    assert_eq!((closed(&server, "stalled"), closed(&server, "no_heartbeat")), (1.0, 0.0));
}

#[test]
fn an_unread_http_answer_is_closed_at_the_stall_limit() {
    let server = server(&[("heartbeat_ms", NEVER), ("stall_ms", 600)]);
    let mut control = server.controller("demo");
    let ways = [("xhr", "POST"), ("jsonp?c=f", "GET")];
    for ((way, method), cut) in ways.into_iter().zip([1.0, 2.0]) {
        let id = session_on(server.ws, 1, "c");
        let mut http = Http::connect(server.ws);
        http.send(&format!("{method} /socket/{id}/{way}"), &[], "");
        control.ok(&emit("c", &text(4_000_000)));
        eventually("it is closed", || (control.connections("c") == 0).then_some(()));
        assert_eq!(closed(&server, "stalled"), cut, "{way}");
    }
}

/// Reads this many bytes at 1.5 MB/s at most, and calls `each` 40 times on the way.
fn read_slowly(http: &mut Http, control: &mut Control, bytes: usize, each: impl Fn(&mut Control)) {
    let mut piece = vec![0; 30_000];
    for turn in 0..bytes / piece.len() {
        http.wire.read_exact(&mut piece).unwrap();
        (turn..40).take(1).for_each(|_| each(control));
        wait(control, 20);
    }
    http.wire.read_exact(&mut piece[..bytes % 30_000]).unwrap();
}

#[test]
fn a_backlog_behind_an_http_answer_in_progress_is_no_reason_to_close() {
    let server = server(&[("backlog_bytes", 20_000), ("backlog_ms", 700)]);
    let mut control = server.controller("demo");
    let (large, small) = (text(2_500_000), emit("c", &text(9000)));
    for (user, (way, method)) in [("xhr", "POST"), ("jsonp?c=f", "GET")].into_iter().enumerate() {
        let id = session_on(server.ws, user, "c");
        let mut http = Http::connect(server.ws);
        http.send(&format!("{method} /socket/{id}/{way}"), &[], "");
        control.ok(&emit("c", &large));
        let start = Instant::now();
        read_slowly(&mut http, &mut control, large.len(), |control| control.ok(&small));
        assert!(start.elapsed() > Duration::from_millis(1200), "{way}: it was not slow");
        assert_eq!(control.connections("c"), 1, "{way}");
        // Before its next poll it gets extra time: as long as the answer took.
        wait(&mut control, 900);
        control.ok(&small);
        assert_eq!(control.connections("c"), 1, "{way}");
        let next = post(server.ws, &format!("/socket/{id}/xhr"), "").1;
        assert_eq!(next.matches("event").count(), 41, "{way}");
        // Data that the kernel may still have of the answer gives extra time as well.
        (0..8).for_each(|_| control.ok(&small));
        wait(&mut control, 900);
        control.ok(&small);
        assert_eq!(control.connections("c"), 1, "{way}");
        assert_eq!(post(server.ws, &format!("/socket/{id}/xhr"), "").1.matches("event").count(), 9);
        // Now it has read everything, lastly a small answer, and does not poll again.
        control.ok(&small);
        assert_eq!(post(server.ws, &format!("/socket/{id}/xhr"), "").1.matches("event").count(), 1);
        wait(&mut control, 800);
        (0..8).for_each(|_| control.ok(&small));
        assert_eq!(control.connections("c"), 0, "{way}");
        assert_eq!(post(server.ws, &format!("/socket/{id}/xhr"), "").1, "c[3008,\"too slow\"]\n");
    }
}

#[test]
fn a_backlog_behind_an_unread_http_answer_closes_the_session() {
    let limits = [("backlog_bytes", 20_000), ("backlog_ms", 700), ("backlog_soft_ms", 700)];
    let server = server(&limits);
    let mut control = server.controller("demo");
    let (large, small) = (text(3_000_000), emit("c", &text(9000)));
    let poll = |user: usize| {
        let id = session_on(server.ws, user, "c");
        let mut http = Http::connect(server.ws);
        http.send(&format!("POST /socket/{id}/xhr"), &[], "");
        (id, http)
    };
    let told = |id: &str| post(server.ws, &format!("/socket/{id}/xhr"), "").1;
    // A client that reads nothing is tolerated briefly.
    let (id, _stuck) = poll(1);
    control.ok(&emit("c", &large));
    (0..8).for_each(|_| control.ok(&small));
    assert_eq!(control.connections("c"), 1);
    eventually("it is closed", || {
        wait(&mut control, 100);
        control.ok(&small);
        (control.connections("c") == 0).then_some(())
    });
    assert_eq!(told(&id), "c[3008,\"too slow\"]\n");
    // A slow reader is tolerated longer, and closed even if nothing more is published to it.
    let (id, mut slow) = poll(2);
    control.ok(&emit("c", &large));
    (0..8).for_each(|_| control.ok(&small));
    read_slowly(&mut slow, &mut control, large.len(), |_| ());
    assert_eq!(control.connections("c"), 0);
    assert_eq!(told(&id), "c[3008,\"too slow\"]\n");
    // A backlog behind a state that the session requested itself is tolerated.
    control.ok(&format!(r#"{{"action":"set","channel":"c","data":{large}}}"#));
    let id = session_on(server.ws, 3, "other");
    let subscribe = json!([json!({ "event": "subscribe", "data": "c" }).to_string()]).to_string();
    assert_eq!(post(server.ws, &format!("/socket/{id}/xhr_send"), &subscribe).0, 204);
    let mut slow = Http::connect(server.ws);
    slow.send(&format!("POST /socket/{id}/xhr"), &[], "");
    read_slowly(&mut slow, &mut control, large.len(), |control| control.ok(&small));
    assert_eq!(control.connections("c"), 1);
    assert_eq!(told(&id).matches("event").count(), 40);
}

#[test]
fn a_poll_waiting_for_answer_memory_is_not_closed() {
    let limits = [("backlog_bytes", 20_000), ("backlog_ms", 500), ("answers_bytes", 1_000_000)];
    let server = server(&limits);
    let mut control = server.controller("demo");
    control.ok(&format!(r#"{{"action":"set","channel":"big","data":{}}}"#, text(3_000_000)));
    let (id, small) = (session_on(server.ws, 1, "c"), emit("c", &text(9000)));
    (0..8).for_each(|_| control.ok(&small));
    wait(&mut control, 600);
    let mut stuck = server.browser("demo", r#"{"i":2}"#);
    stuck.say(r#"{"event":"subscribe","data":"big"}"#);
    eventually("the budget is full", || (server.metric("fws_answers_bytes") > 1e6).then_some(()));
    let mut http = Http::connect(server.ws);
    http.send(&format!("POST /socket/{id}/xhr"), &[], "");
    http.expect_silence();
    control.ok(&small);
    assert_eq!(control.connections("c"), 1);
    drop(stuck);
    assert_eq!(http.answer().body.matches("event").count(), 9);
}

#[test]
fn a_stalled_reader_gets_the_stall_time_only_once() {
    // The first data frees kernel buffer space when it arrives; that the kernel takes a little more
    // then is no progress of the reader.
    let server = server(&[("stall_ms", 4000), ("kernel_send_bytes", 65_536)]);
    let mut control = server.controller("demo");
    let _stuck = subscriber(&server, "c");
    let start = Instant::now();
    control.ok(&emit("c", &text(8_000_000)));
    eventually("it is closed", || (closed(&server, "stalled") == 1.0).then_some(()));
    let elapsed = start.elapsed();
    let (least, most) = (Duration::from_millis(4000), Duration::from_millis(7000));
    assert!((least..most).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn a_closed_slow_connection_leaves_nothing_in_the_kernel() {
    let server = server(&[("stall_ms", 200), ("close_ms", 200)]);
    let mut control = server.controller("demo");
    let mut stuck = subscriber(&server, "c");
    control.ok(&emit("c", &text(8_000_000)));
    eventually("it is closed", || (closed(&server, "stalled") == 1.0).then_some(()));
    eventually("the socket is freed", || (server.metric("fws_sockets") == 1.0).then_some(()));
    // It can read what it had received; a reset discarded the rest.
    let mut piece = vec![0; 100_000];
    let end = loop {
        match stuck.wire().read(&mut piece) {
            Ok(1..) => {}
            end => break end.map_err(|error| error.kind()),
        }
    };
    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_state_requested_by_the_browser_is_no_reason_to_close() {
    let server = server(&[("stall_ms", 200), ("backlog_soft_ms", 200)]);
    let mut control = server.controller("demo");
    let state = text(8_000_000);
    control.ok(&format!(r#"{{"action":"set","channel":"c","data":{state}}}"#));
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.say(r#"{"event":"subscribe","data":"c"}"#);
    wait(&mut control, 1000);
    browser.expect(&message("c", &state));
    browser.nothing();
    assert_eq!(closed(&server, "stalled") + closed(&server, "lagging"), 0.0);
}

#[test]
fn a_persistent_backlog_over_the_soft_limit_closes_the_connection() {
    let limits = [("backlog_soft_bytes", 20_000), ("backlog_soft_ms", 300)];
    let server = server(&limits);
    let mut control = server.controller("demo");
    let (mut more, mut less) = (subscriber(&server, "more"), subscriber(&server, "less"));
    let (large, small) = (text(8_000_000), text(9000));
    for channel in ["more", "less"] {
        control.ok(&emit(channel, &large));
        (0..2).for_each(|_| control.ok(&emit(channel, &small)));
    }
    control.ok(&emit("more", &small));
    eventually("it is closed", || (control.connections("more") == 0).then_some(()));
    assert!(more.wire().read_rest().unwrap().ends_with(b"\x0b\xc0too slow"));
    wait(&mut control, 600);
    less.expect(&message("less", &large));
    (0..2).for_each(|_| less.expect(&message("less", &small)));
    less.nothing();
    assert_eq!((closed(&server, "lagging"), closed(&server, "stalled")), (1.0, 0.0));
}

#[test]
fn a_memory_shortage_pauses_back_ends_and_evicts_the_largest_queue() {
    let mut server = server(&[("queued_bytes", 4_000_000)]);
    let mut control = server.controller("demo");
    let (mut most, mut less) = (subscriber(&server, "most"), subscriber(&server, "less"));
    let mut reader = subscriber(&server, "reader");
    let data = text(700_000);
    control.ok(&emit("less", &data));
    let before = server.peak_memory_bytes();
    // Many times the budget in one write; the reader gets all of its messages. They are small, so
    // that on a slow machine the reader does not become the largest queue.
    let (count, short) = (12, text(70_000));
    let commands = [emit("most", &data), emit("reader", &short)].map(|it| frame(it.as_bytes()));
    std::thread::scope(|scope| {
        scope.spawn(|| control.send_raw(&commands.concat().repeat(count)));
        (0..count).for_each(|_| reader.expect(&message("reader", &short)));
    });
    (0..2 * count).for_each(|_| assert_eq!(control.recv(), r#"{"success":true}"#));
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 20_000_000, "{grown} bytes");
    assert!(most.wire().read_rest().unwrap().ends_with(b"\x0b\xc0too slow"));
    less.expect(&message("less", &data));
    less.nothing();
    reader.nothing();
    assert_eq!(closed(&server, "largest"), 1.0);
    assert!(server.metric("fws_floods_total") >= 1.0);
    assert_eq!(server.metric("fws_kept_bytes"), 0.0);
    server.assert_alive();
}

#[test]
fn a_memory_shortage_frees_the_queue_of_a_closed_session() {
    let server = server(&[("queued_bytes", 2_000_000), ("session_ms", NEVER)]);
    let mut control = server.controller("demo");
    session_on(server.ws, 1, "most");
    let mut less = subscriber(&server, "less");
    control.ok(&emit("most", &text(1_200_000)));
    // The session is closed, and nothing will collect its queue.
    let gone = control.ask(r#"{"action":"disconnect","params":{"userId":1}}"#);
    assert_eq!(gone, r#"{"success":true,"count":1}"#);
    let data = text(500_000);
    (0..2).for_each(|_| control.ok(&emit("less", &data)));
    control.ok(&emit("nobody", &text(20_000)));
    (0..2).for_each(|_| less.expect(&message("less", &data)));
    less.nothing();
    assert!(server.metric("fws_floods_total") >= 1.0);
}

#[test]
fn a_memory_shortage_evicts_a_finished_unread_answer_at_once() {
    let server = server(&[("queued_bytes", 2_000_000)]);
    let mut control = server.controller("demo");
    let id = session_on(server.ws, 1, "most");
    let mut stream = Http::connect(server.ws);
    stream.send(&format!("POST /socket/{id}/xhr_streaming"), &[], "");
    stream.head();
    let mut less = subscriber(&server, "less");
    let data = text(500_000);
    control.ok(&emit("most", &text(1_200_000)));
    control.ok(&emit("less", &data));
    // The kernel takes what it has room for, of both.
    wait(&mut control, 500);
    control.ok(&emit("less", &data));
    control.ok(&emit("nobody", &text(20_000)));
    // The truncated answer cannot be mistaken for a complete one.
    assert!(!stream.wire.read_rest().unwrap().ends_with(b"0\r\n\r\n"));
    (0..2).for_each(|_| less.expect(&message("less", &data)));
    less.nothing();
    assert_eq!(closed(&server, "largest"), 1.0);
}

#[test]
fn many_stalled_readers_cost_little_memory_and_delay_no_reader() {
    let mut options = Options::limits(&[("queued_bytes", 4_000_000)]);
    options.config["admin"] = json!("127.0.0.1:0");
    let mut server = Server::start(&options);
    let mut control = server.controller("demo");
    let stuck: Vec<Browser> = (0..100)
        .map(|number| {
            let mut browser = server.browser("demo", &format!(r#"{{"i":"{number}"}}"#));
            browser.subscribe("c");
            browser
        })
        .collect();
    let mut reader = subscriber(&server, "c");
    let before = server.peak_memory_bytes();
    let (data, start) = (text(20_000), Instant::now());
    while control.connections("c") > 1 {
        control.send_raw(&frame(emit("c", &data).as_bytes()).repeat(20));
        (0..20).for_each(|_| reader.expect(&message("c", &data)));
        (0..20).for_each(|_| assert_eq!(control.recv(), r#"{"success":true}"#));
    }
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 6_400_000, "{grown} bytes");
    assert_eq!(closed(&server, "slow_consumer") as usize, stuck.len());
    reader.nothing();
    server.assert_alive();
}

#[test]
fn partial_messages_over_the_input_budget_evict_the_largest() {
    let server = server(&[("input_bytes", 1 << 20)]);
    let message = masked(0x81, &[b'x'; 15_000]);
    let browser = |user| server.browser("demo", &json!({ "i": user }).to_string());
    let mut browsers: Vec<Browser> = (1..=100).map(browser).collect();
    let waiting = || server.metric("fws_input_bytes");
    // The first sends less than the others, and completes its message.
    let (little, rest) = message.split_at(1008);
    browsers[0].send_raw(little);
    eventually("it is counted", || (waiting() == 1000.0).then_some(()));
    browsers[0].send_raw(rest);
    eventually("it is complete", || (waiting() == 0.0).then_some(()));
    browsers[0].send_raw(little);
    for browser in &mut browsers[1..] {
        browser.send_raw(&message[..14_008]);
    }
    let closed = || closed(&server, "full");
    eventually("some are evicted", || (waiting() > 500_000.0 && closed() >= 25.0).then_some(()));
    assert!(waiting() <= f64::from(1 << 20), "{}", waiting());
    assert_eq!(closed(), server.metric("fws_input_evicted_total"));
    browsers[0].send_raw(rest);
    browsers[0].nothing();
}

#[test]
fn many_slow_readers_get_their_states_within_the_answer_budget() {
    const CROWD: usize = 8;
    let mut server = server(&[("answers_bytes", 1_000_000)]);
    let mut control = server.controller("demo");
    let state = text(500_000);
    let channel = |number| format!("c{number}");
    for number in 0..CROWD {
        let (channel, state) = (channel(number), &state);
        control.ok(&format!(r#"{{"action":"set","channel":"{channel}","data":{state}}}"#));
    }
    let before = server.peak_memory_bytes();
    let mut crowd: Vec<Browser> = (0..CROWD)
        .map(|number| {
            let mut browser = server.browser("demo", &json!({ "i": channel(number) }).to_string());
            browser.say(&json!({ "event": "subscribe", "data": channel(number) }).to_string());
            browser.wire().set_deadline(Duration::from_millis(1));
            browser
        })
        .collect();
    // Waiting browsers send nothing else; a back end is still answered at once.
    let mut lines = vec![Vec::new(); CROWD];
    let whole = |number| message(&channel(number), &state).len() + 10;
    let mut piece = [0; 40_000];
    while (0..CROWD).any(|number| lines[number].len() < whole(number)) {
        for (browser, line) in crowd.iter_mut().zip(&mut lines) {
            if let Ok(count) = browser.wire().read(&mut piece) {
                assert!(count > 0, "it is not closed");
                line.extend_from_slice(&piece[..count]);
            }
        }
        control.ok(r#"{"action":"ping"}"#);
        wait(&mut control, 10);
    }
    for (number, line) in lines.iter().enumerate() {
        assert!(line.ends_with(message(&channel(number), &state).as_bytes()));
    }
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 5_000_000, "{grown} bytes");
    assert_eq!(closed(&server, "largest"), 0.0);
    assert!(server.metric("fws_shortages_total") >= 1.0);
    assert_eq!(server.metric("fws_answers_bytes"), 0.0);
    for browser in &mut crowd {
        browser.wire().set_deadline(crate::common::DEADLINE);
        browser.nothing();
    }
    server.assert_alive();
}

#[test]
fn channel_info_excludes_a_subscriber_closed_by_the_message_before_it() {
    // The first message takes more than half of the memory for all, so no time is given.
    let server = server(&[("backlog_bytes", 1024), ("queued_bytes", 12_000_000)]);
    let _deaf = subscriber(&server, "c");
    let mut control = server.controller("demo");
    // The first never finishes; the others still fit into the backlog behind it.
    for bytes in [8_000_000, 300, 300, 300, 300] {
        control.ok(&emit("c", &text(bytes)));
    }
    assert_eq!(control.connections("c"), 1);
    // In one write, so that the server could batch the message with the request behind it.
    let info = frame(br#"{"action":"channelInfo","channel":"c"}"#);
    control.send_raw(&[frame(emit("c", &text(300)).as_bytes()), info].concat());
    assert_eq!(control.recv(), r#"{"success":true}"#);
    let info = control.recv();
    assert!(info.contains(r#""countConnection":0"#), "{info}");
}
