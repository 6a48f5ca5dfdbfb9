//! What happens when somebody does not read: back ends that do not take their replies, browsers
//! that do not take what they asked for, large messages. The real binary, from outside.

// A test that cannot go on panics, in its helpers as in itself.
#![allow(clippy::unwrap_used)]

mod common;

use common::browser::auth_message;
use common::control::{Control, frame};
use common::eventually;
use common::server::{Options, Server, key_of};
use common::token::token;
use common::web::{Http, post, session};
use common::wire::Wire;
use serde_json::json;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// A JSON string of this many bytes.
fn text(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

fn set(channel: &str, data: &str) -> String {
    format!(r#"{{"action":"set","channel":{},"data":{data}}}"#, json!(channel))
}

fn emit(channel: &str, data: &str) -> String {
    format!(r#"{{"action":"emit","channel":{},"data":{data}}}"#, json!(channel))
}

fn message(channel: &str, data: &str) -> String {
    format!(r#"{{"event":{},"data":{data}}}"#, json!(channel))
}

const GET: &str = r#"{"action":"get","channel":"c"}"#;

#[test]
fn a_reply_leaves_in_one_piece() {
    // The PHP client loses its place if a reply comes in several.
    let server = Server::new();
    let mut control = server.controller("demo");
    for bytes in [2, 1019, 1020, 1024, 4096, 16_000] {
        let state = text(bytes);
        control.ok(&set("c", &state));
        for _ in 0..20 {
            control.send(GET);
            let mut buffer = vec![0; 64 * 1024];
            let length = control.wire.read(&mut buffer).unwrap();
            assert_eq!(buffer[..length], frame(state.as_bytes()));
        }
    }
}

#[test]
fn a_back_end_that_reads_late_loses_no_reply() {
    let mut server = Server::new();
    for half_close in [false, true] {
        let mut control = server.controller("demo");
        let state = text(1 << 20);
        control.ok(&set("c", &state));
        // Far more than the kernel holds between us.
        let count = 100;
        control.send_raw(&frame(GET.as_bytes()).repeat(count));
        if half_close {
            control.wire.half_close();
        }
        // Meanwhile the server is there for others.
        server.assert_alive();
        for _ in 0..count {
            assert_eq!(control.recv(), state);
        }
        if half_close {
            control.expect_closed();
        } else {
            control.nothing();
        }
    }
}

#[test]
fn a_back_end_that_never_reads_is_given_up() {
    let mut server = Server::start(&Options::limits(&[("control_replies_ms", 100)]));
    let mut control = server.controller("demo");
    control.ok(&set("c", &text(1 << 20)));
    control.send_raw(&frame(GET.as_bytes()).repeat(100));
    // Nothing is read here, so that writing is the only way to notice.
    eventually("it is closed", || control.wire.write_all(&frame(b"null")).err());
    server.assert_alive();
}

#[test]
fn a_browser_gets_all_the_states_it_asked_for_at_its_own_pace() {
    let mut server = Server::new();
    let mut control = server.controller("demo");
    let count = 60;
    let state = text(1 << 20);
    for number in 0..count {
        control.ok(&set(&format!("c{number}"), &state));
    }
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.wire().hold();
    for number in 0..count {
        browser.say(&json!({ "event": "subscribe", "data": format!("c{number}") }).to_string());
    }
    browser.wire().release();
    server.assert_alive();
    for number in 0..count {
        browser.expect(&message(&format!("c{number}"), &state));
    }
    browser.nothing();
    control.ok(&emit("c0", "1"));
    browser.expect(&message("c0", "1"));
}

#[test]
fn a_large_state_is_there_once_however_many_have_not_taken_it() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let state = text(8_000_000);
    control.ok(&set("c", &state));
    let mut browsers: Vec<_> =
        (0..20).map(|number| server.browser("demo", &format!(r#"{{"i":"{number}"}}"#))).collect();
    let before = server.peak_memory_bytes();
    for browser in &mut browsers {
        browser.say(r#"{"event":"subscribe","data":"c"}"#);
        // The first bytes show that it is there, or on its way.
        browser.wire().read_exact(&mut [0; 1]).unwrap();
    }
    // A few copies while it is encoded. Not 160 MB.
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 60_000_000, "{grown} bytes");
    // Whoever comes when it has changed gets what it is then.
    control.ok(&set("c", "1"));
    let mut browser = server.browser("demo", r#"{"i":"late"}"#);
    browser.say(r#"{"event":"subscribe","data":"c"}"#);
    browser.expect(&message("c", "1"));
}

#[test]
fn the_size_of_one_message_is_no_reason_to_cut() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    let data = text(8_000_000);
    for _ in 0..3 {
        control.ok(&emit("c", &data));
        browser.expect(&message("c", &data));
    }
}

#[test]
fn what_is_queued_arrives_before_the_server_goes() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    let data = text(8_000_000);
    control.ok(&emit("c", &data));
    control.send_raw(&frame(r#"{"action":"ping"}"#.as_bytes()).repeat(10));
    for _ in 0..10 {
        control.recv();
    }
    server.terminate();
    browser.expect(&message("c", &data));
    browser.expect_going_away();
    control.expect_closed();
    server.exited();
}

#[test]
fn a_pushed_list_is_bounded() {
    let server = Server::start(&Options::limits(&[("list_items", 3)]));
    let mut control = server.controller("demo");
    for number in 0..5 {
        control.ok(&format!(r#"{{"action":"push","channel":"c","data":{number}}}"#));
    }
    assert_eq!(control.ask(GET), "[2,3,4]");
}

#[test]
fn messages_in_a_row_reach_a_browser_that_reads() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    let data = text(3_000_000);
    let count = 4;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            control.send_raw(&frame(emit("c", &data).as_bytes()).repeat(count));
            for _ in 0..count {
                assert_eq!(control.recv(), r#"{"success":true}"#);
            }
        });
        for _ in 0..count {
            browser.expect(&message("c", &data));
        }
    });
}

#[test]
fn a_full_server_serves_again_when_there_is_room() {
    let mut server = Server::start(&Options::limits(&[("connections", 16)]));
    let ws = server.ws;
    let is_let_in =
        || (common::web::ask(ws, "GET /socket/info", &[], "").status == 200).then_some(());
    for _ in 0..3 {
        // More than fit: the rest is turned away, or waits for that.
        let waiting: Vec<_> = (0..40).map(|_| common::wire::Wire::tcp(server.ws)).collect();
        drop(waiting);
        eventually("there is room again", is_let_in);
    }
    server.assert_alive();
    // And with all places taken by browsers that are there to stay.
    let mut browsers: Vec<_> =
        (0..16).map(|number| server.browser("demo", &format!(r#"{{"i":"{number}"}}"#))).collect();
    let full = |http: &mut common::web::Http| {
        let answer = http.answer();
        assert_eq!((answer.status, &*answer.body), (503, "The server is full\n"));
        assert_eq!(answer.header("retry-after"), Some("5"));
        http.expect_end();
    };
    // Whoever asks, whoever does not, and many more than can be told at a time.
    let mut late: Vec<_> = (0..60).map(|_| common::web::Http::connect(server.ws)).collect();
    for (number, http) in late.iter_mut().enumerate().filter(|(number, _)| number % 3 > 0) {
        let body = "x".repeat(number * 1000);
        http.send("POST /socket/a/b/xhr_send", &[], &body);
    }
    late.iter_mut().for_each(full);
    // Back ends are let in, and nobody who was there notices.
    server.controller("demo").ok(r#"{"action":"ping"}"#);
    for browser in &mut browsers {
        browser.nothing();
    }
    drop(browsers);
    eventually("there is room again", is_let_in);
    server.assert_alive();
}

#[test]
fn what_is_large_silences_nobody_who_says_little() {
    let server = Server::start(&Options::limits(&[("queued_bytes", 7_800_000)]));
    let mut reader = server.browser("demo", r#"{"i":1}"#);
    reader.subscribe("c");
    let mut near = server.browser("other", r#"{"i":1}"#);
    near.subscribe("d");
    let (mut control, mut other) = (server.controller("demo"), server.controller("other"));
    let data = text(8_000_000);
    control.ok(&emit("c", &data));
    // More waits than may, and the reader may take its time.
    control.send(&emit("c", &text(100_000)));
    control.wire.set_deadline(std::time::Duration::from_millis(50));
    assert!(control.wire.read(&mut [0]).is_err(), "what is long waits");
    control.wire.set_deadline(common::DEADLINE);
    other.ok(&emit("d", "1"));
    near.expect(&message("d", "1"));
    reader.expect(&message("c", &data));
    assert_eq!(control.recv(), r#"{"success":true}"#);
}

#[test]
fn back_ends_are_heard_as_soon_as_what_waits_has_gone_out() {
    let server = Server::start(&Options::limits(&[("queued_bytes", 65_536)]));
    let (mut control, mut other) = (server.controller("demo"), server.controller("demo"));
    let data = text(8_000_000);
    let mut waited_ms = 0;
    for _ in 0..5 {
        // A new one each time: for one that has read much the kernel would keep much.
        let mut reader = server.browser("demo", r#"{"i":1}"#);
        reader.subscribe("c");
        control.ok(&emit("c", &data));
        other.send(r#"{"action":"ping"}"#);
        // It is not heard meanwhile: far more waits than may.
        other.wire.set_deadline(std::time::Duration::from_millis(50));
        assert!(other.wire.read(&mut [0]).is_err());
        other.wire.set_deadline(common::DEADLINE);
        reader.expect(&message("c", &data));
        let began = std::time::Instant::now();
        assert_eq!(other.recv(), r#"{"success":true}"#);
        waited_ms += began.elapsed().as_millis();
    }
    // Each would wait for the next look at who takes nothing, most of a second.
    assert!(waited_ms < 2000, "{waited_ms} ms");
}

#[test]
fn what_a_back_end_said_before_it_reset_the_connection_is_heard() {
    // Closing with unread replies sends a reset right behind the last command.
    let server = Server::new();
    let mut browser = server.browser("demo", r#"{"i":"u"}"#);
    browser.subscribe("c");
    for _ in 0..40 {
        let mut control = server.controller("demo");
        control.send(&emit("c", "1"));
        assert_eq!(browser.hear(), message("c", "1"));
        // The reply is there, and stays unread.
        let mut one = [0; 1];
        control.wire.read_exact(&mut one).unwrap();
        control.send(&emit("c", "2"));
        drop(control);
        assert_eq!(browser.hear(), message("c", "2"));
    }
}

/// One command that gives a message to many channels.
fn emit_to(channels: &[String], data: &str) -> String {
    format!(r#"{{"action":"emit","channels":{},"data":{data}}}"#, json!(channels))
}

fn channels(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("c{number}")).collect()
}

#[test]
fn what_is_published_at_one_moment_cuts_nobody_who_reads() {
    let server = Server::new();
    let mut control = server.controller("demo");
    // Each time more than the limit, in one turn, and far less than the kernel takes.
    for (count, bytes) in [(3, 200_000), (100, 3000)] {
        let (channels, data) = (channels(count), text(bytes));
        let mut browser = server.browser("demo", r#"{"i":1}"#);
        channels.iter().for_each(|channel| browser.subscribe(channel));
        control.ok(&emit_to(&channels, &data));
        for channel in &channels {
            browser.expect(&message(channel, &data));
        }
        browser.nothing();
    }
}

#[test]
fn back_ends_that_speak_at_once_cut_nobody_who_reads() {
    let server = Server::new();
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    let mut controls: Vec<_> = (0..10).map(|_| server.controller("demo")).collect();
    let data = text(10_000);
    let emits = frame(emit("c", &data).as_bytes()).repeat(6);
    // All is there when the server wakes up, so that it is one turn.
    server.freeze();
    controls.iter_mut().for_each(|control| control.send_raw(&emits));
    server.thaw();
    for _ in 0..controls.len() * 6 {
        browser.expect(&message("c", &data));
    }
    browser.nothing();
}

#[test]
fn one_command_cannot_fill_the_memory_for_one_that_does_not_read() {
    let server = Server::start(&Options::limits(&[
        ("backlog_bytes", 1_000_000),
        ("queued_bytes", 8_000_000),
        ("emit_bytes", 1_000_000_000),
        ("publication_bytes", 1 << 31),
    ]));
    let mut control = server.controller("demo");
    let channels = channels(128);
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    channels.iter().for_each(|channel| browser.subscribe(channel));
    let data = text(2_000_000);
    let before = server.peak_memory_bytes();
    control.ok(&emit_to(&channels, &data));
    eventually("the one that does not read is cut", || {
        control.ask(r#"{"action":"channelInfo","channel":"c0"}"#).contains(":0,").then_some(())
    });
    // The command itself, twice; what is being sent, what waited until the kernel refused, and
    // what came until it was too much, each with a message over its bound. Not 256 MB.
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 32_000_000, "{grown} bytes");
}

#[test]
fn replies_that_wait_for_the_disk_are_bounded_in_bytes() {
    let server = Server::new();
    let mut control = server.controller("demo");
    control.ok(&set("c", &text(1_000_000)));
    let before = server.peak_memory_bytes();
    // Each `get` shows what may not be on disk yet, and so waits for it.
    let get = frame(br#"{"action":"get","channel":"c"}"#);
    let mut frames = frame(set("c", &text(1_000_001)).as_bytes());
    (0..200).for_each(|_| frames.extend_from_slice(&get));
    control.send_raw(&frames);
    assert_eq!(control.next().unwrap().as_deref(), Some(r#"{"success":true}"#));
    for _ in 0..200 {
        assert_eq!(control.next().unwrap().map(|reply| reply.len()), Some(1_000_001));
    }
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 24_000_000, "{grown} bytes");
}

#[test]
fn whoever_does_not_say_who_it_is_makes_room() {
    let limits = [("control_auth_ms", 300), ("control_unauthenticated_connections", 3)];
    let server = Server::start(&Options::limits(&limits));
    let mut known = server.controller("demo");
    let mut unauthenticated: Vec<_> = (0..4).map(|_| server.control()).collect();
    // The oldest goes for the fourth, and the others when their time is over.
    unauthenticated.remove(0).expect_closed();
    let ping = r#"{"action":"ping"}"#;
    unauthenticated[2].ok(ping);
    unauthenticated.iter_mut().for_each(|unauthenticated| unauthenticated.expect_closed());
    known.ok(ping);
}

#[test]
fn who_comes_fastest_takes_places_from_nobody_else() {
    let limits = [("control_unauthenticated_connections", 3)];
    let server = Server::start(&Options { unix: true, ..Options::limits(&limits) });
    let mut near = Control::unix(&server.socket());
    let mut far = Control { wire: Wire::from_ip([127, 0, 0, 2], server.control) };
    // So fast that whoever is a little slower to say who it is would be pushed out.
    let mut crowd: Vec<_> = (0..10).map(|_| server.control()).collect();
    crowd.drain(..9).for_each(|mut unauthenticated| unauthenticated.expect_closed());
    near.auth("demo");
    far.auth("demo");
    crowd[0].auth("demo");
}

#[test]
fn when_all_places_are_taken_strangers_make_room() {
    let server = Server::start(&Options::limits(&[("control_connections", 4)]));
    let ping = r#"{"action":"ping"}"#;
    let mut known = vec![server.controller("demo")];
    let mut far = Control { wire: Wire::from_ip([127, 0, 0, 2], server.control) };
    far.ok(ping);
    let mut crowd: Vec<_> = (0..2).map(|_| server.control()).collect();
    crowd.iter_mut().for_each(|unauthenticated| unauthenticated.ok(ping));
    // The oldest goes of those who are most at one place, while there is any.
    known.push(server.controller("demo"));
    crowd.remove(0).expect_closed();
    far.ok(ping);
    known.push(server.controller("demo"));
    crowd.remove(0).expect_closed();
    far.ok(ping);
    known.push(server.controller("demo"));
    far.expect_closed();
    // Nobody goes who has said who it is.
    server.control().expect_closed();
    known.iter_mut().for_each(|known| known.ok(ping));
    // Nor anybody at the socket of this machine for who is not there.
    let limits = Options::limits(&[("control_connections", 1)]);
    let server = Server::start(&Options { unix: true, ..limits });
    let mut near = Control::unix(&server.socket());
    near.ok(ping);
    server.control().expect_closed();
    near.ok(ping);
    Control::unix(&server.socket()).auth("demo");
    near.expect_closed();
}

#[test]
fn whoever_guesses_keys_is_closed() {
    let server = Server::new();
    let mut control = server.control();
    let guess = r#"{"action":"auth","name":"demo","sKey":"guess"}"#;
    for _ in 0..5 {
        control.send(guess);
    }
    control.send(r#"{"action":"ping"}"#);
    let wrong = r#"{"success":false,"reason":"Invalid sKey","code":305}"#;
    for _ in 0..5 {
        assert_eq!(control.next().unwrap().as_deref(), Some(wrong));
    }
    control.expect_closed();
}

#[test]
fn half_commands_of_one_namespace_keep_nobody_else_out() {
    let mut server = Server::new();
    let half = |_| {
        let mut control = server.controller("demo");
        let mut half = ((8 << 20) - 100_i32).to_le_bytes().to_vec();
        half.resize(17_000, b'x');
        control.send_raw(&half);
        control
    };
    // Each would have 10 s, and there is room for eight.
    let halves: Vec<_> = (0..40).map(half).collect();
    let mut other = server.controller("other");
    for _ in 0..3 {
        let began = Instant::now();
        other.ok(&emit("c", &text(400_000)));
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
    drop(halves);
    server.assert_alive();
}

#[test]
fn whoever_polls_and_has_asked_for_more_gets_what_is_there_all_the_same() {
    // The last of them leaves no room.
    const CROWD: usize = 8;
    let server = Server::start(&Options::limits(&[("answers_bytes", 300_000)]));
    let mut control = server.controller("demo");
    let state = text(40_000);
    (0..CROWD).for_each(|number| control.ok(&set(&format!("c{number}"), &state)));
    let subscribe = |number: usize| {
        let channel = format!("c{}", number % CROWD);
        json!({ "event": "subscribe", "data": channel }).to_string()
    };
    let sessions: Vec<String> = (0..CROWD).map(|_| session()).collect();
    for (number, id) in sessions.iter().enumerate() {
        assert_eq!(post(server.ws, &format!("/socket/{id}/xhr"), "").1, "o\n");
        let payload = json!({ "i": format!("u{number}") }).to_string();
        let auth = auth_message("demo", &token(&payload, key_of("demo")));
        let said = json!([auth, subscribe(number)]).to_string();
        assert_eq!(post(server.ws, &format!("/socket/{id}/xhr_send"), &said).0, 204);
    }
    // There is no room for more: its answer waits.
    let mut senders: Vec<Http> = sessions.iter().map(|_| Http::connect(server.ws)).collect();
    for (number, (sender, id)) in senders.iter_mut().zip(&sessions).enumerate() {
        let said = json!([subscribe(number + 1)]).to_string();
        sender.send(&format!("POST /socket/{id}/xhr_send"), &[], &said);
    }
    let mut polls: Vec<Http> = sessions.iter().map(|_| Http::connect(server.ws)).collect();
    for (poll, id) in polls.iter_mut().zip(&sessions) {
        poll.send(&format!("POST /socket/{id}/xhr"), &[], "");
    }
    for (number, (poll, id)) in polls.iter_mut().zip(&sessions).enumerate() {
        let mut got = poll.answer().body;
        let second = json!(message(&format!("c{}", (number + 1) % CROWD), &state)).to_string();
        while !got.contains(&second) {
            poll.send(&format!("POST /socket/{id}/xhr"), &[], "");
            got += &poll.answer().body;
        }
        let first = json!(message(&format!("c{number}"), &state)).to_string();
        assert!(got.contains(&first), "{number}: {}", got.len());
    }
    senders.iter_mut().for_each(|sender| assert_eq!(sender.answer().status, 204));
}

#[test]
fn whoever_polls_gets_states_that_leave_no_room_for_anybody_else() {
    // What waits for polls is all that takes the room: that none of them got anything while there
    // was none left them, and all others, waiting for ever.
    const CROWD: usize = 3;
    let server = Server::start(&Options::limits(&[("answers_bytes", 1_000_000)]));
    let mut control = server.controller("demo");
    let state = text(400_000);
    (0..CROWD).for_each(|number| control.ok(&set(&format!("c{number}"), &state)));
    let sessions: Vec<String> = (0..CROWD).map(|_| session()).collect();
    for (number, id) in sessions.iter().enumerate() {
        assert_eq!(post(server.ws, &format!("/socket/{id}/xhr"), "").1, "o\n");
        let auth = auth_message(
            "demo",
            &token(&json!({ "i": format!("u{number}") }).to_string(), key_of("demo")),
        );
        let subscribe = json!({ "event": "subscribe", "data": format!("c{number}") }).to_string();
        let said = json!([auth, subscribe]).to_string();
        assert_eq!(post(server.ws, &format!("/socket/{id}/xhr_send"), &said).0, 204);
    }
    let mut other = server.browser("other", r#"{"i":1}"#);
    let mut polls: Vec<Http> = sessions.iter().map(|_| Http::connect(server.ws)).collect();
    for (poll, id) in polls.iter_mut().zip(&sessions) {
        poll.send(&format!("POST /socket/{id}/xhr"), &[], "");
    }
    for (number, poll) in polls.iter_mut().enumerate() {
        let body = poll.answer().body;
        let state = json!(message(&format!("c{number}"), &state)).to_string();
        assert!(
            body.ends_with(&format!(",{state}]\n")),
            "{number}: {} {}",
            body.len(),
            &body[..60.min(body.len())]
        );
    }
    server.controller("other").ok(&set("large", &state));
    other.say(r#"{"event":"subscribe","data":"large"}"#);
    other.expect(&message("large", &state));
}
