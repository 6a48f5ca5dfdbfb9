//! Clients that do not read: back ends with unread replies, browsers with unread messages, large
//! messages, and full limits. Uses the real binary, from outside.

use crate::common::browser::{auth_message, message};
use crate::common::control::{Control, emit, frame, set};
use crate::common::server::{Options, Server, key_of};
use crate::common::token::token;
use crate::common::web::{Http, post, session};
use crate::common::wire::Wire;
use crate::common::{eventually, text};
use serde_json::json;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const GET: &str = r#"{"action":"get","channel":"c"}"#;

#[test]
fn a_reply_arrives_in_one_piece() {
    // The PHP client loses track of the stream if a reply arrives in several pieces.
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
        // Far more than the kernel buffers on both sides.
        let count = 100;
        control.send_raw(&frame(GET.as_bytes()).repeat(count));
        if half_close {
            control.wire.half_close();
        }
        // Meanwhile the server serves others.
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
fn a_back_end_that_never_reads_is_closed() {
    let mut server = Server::start(&Options::limits(&[("control_replies_ms", 100)]));
    let mut control = server.controller("demo");
    control.ok(&set("c", &text(1 << 20)));
    control.send_raw(&frame(GET.as_bytes()).repeat(100));
    // The test reads nothing, so only a failing write shows that the connection is closed.
    eventually("it is closed", || control.wire.write_all(&frame(b"null")).err());
    server.assert_alive();
}

#[test]
fn a_browser_receives_all_subscribed_states_at_its_own_pace() {
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
fn a_large_state_is_held_once_for_all_subscribers_that_wait() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let state = text(8_000_000);
    control.ok(&set("c", &state));
    let mut browsers: Vec<_> =
        (0..20).map(|number| server.browser("demo", &format!(r#"{{"i":"{number}"}}"#))).collect();
    let before = server.peak_memory_bytes();
    for browser in &mut browsers {
        browser.say(r#"{"event":"subscribe","data":"c"}"#);
        // The first byte shows that the state is queued.
        browser.wire().read_exact(&mut [0; 1]).unwrap();
    }
    // A few copies during encoding, not one for each browser (160 MB).
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 60_000_000, "{grown} bytes");
    // A browser that subscribes after a change receives the new state.
    control.ok(&set("c", "1"));
    let mut browser = server.browser("demo", r#"{"i":"late"}"#);
    browser.say(r#"{"event":"subscribe","data":"c"}"#);
    browser.expect(&message("c", "1"));
}

#[test]
fn one_large_message_disconnects_no_browser() {
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
fn queued_messages_arrive_before_the_server_stops() {
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
fn a_pushed_list_keeps_only_its_last_items() {
    let server = Server::start(&Options::limits(&[("list_items", 3)]));
    let mut control = server.controller("demo");
    for number in 0..5 {
        control.ok(&format!(r#"{{"action":"push","channel":"c","data":{number}}}"#));
    }
    assert_eq!(control.ask(GET), "[2,3,4]");
}

#[test]
fn consecutive_large_messages_reach_a_browser_that_reads() {
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
fn a_full_server_answers_503_and_recovers() {
    let mut server = Server::start(&Options::limits(&[("connections", 16)]));
    let ws = server.ws;
    let is_let_in =
        || (crate::common::web::ask(ws, "GET /socket/info", &[], "").status == 200).then_some(());
    for _ in 0..3 {
        // More than fit: the rest is refused, or waits to be.
        let waiting: Vec<_> = (0..40).map(|_| crate::common::wire::Wire::tcp(server.ws)).collect();
        drop(waiting);
        eventually("there is room again", is_let_in);
    }
    server.assert_alive();
    // And with all slots taken by browsers that stay.
    let mut browsers: Vec<_> =
        (0..16).map(|number| server.browser("demo", &format!(r#"{{"i":"{number}"}}"#))).collect();
    let full = |http: &mut crate::common::web::Http| {
        let answer = http.answer();
        assert_eq!((answer.status, &*answer.body), (503, "The server is full\n"));
        assert_eq!(answer.header("retry-after"), Some("5"));
        http.expect_end();
    };
    // Clients with and without a request, many more than can be answered at a time.
    let mut late: Vec<_> = (0..60).map(|_| crate::common::web::Http::connect(server.ws)).collect();
    for (number, http) in late.iter_mut().enumerate().filter(|(number, _)| number % 3 > 0) {
        let body = "x".repeat(number * 1000);
        http.send("POST /socket/a/b/xhr_send", &[], &body);
    }
    late.iter_mut().for_each(full);
    // Back ends are still accepted, and connected browsers are not affected.
    server.controller("demo").ok(r#"{"action":"ping"}"#);
    for browser in &mut browsers {
        browser.nothing();
    }
    drop(browsers);
    eventually("there is room again", is_let_in);
    server.assert_alive();
}

#[test]
fn a_full_queue_delays_no_small_publication() {
    let server = Server::start(&Options::limits(&[("queued_bytes", 7_800_000)]));
    let mut reader = server.browser("demo", r#"{"i":1}"#);
    reader.subscribe("c");
    let mut listener = server.browser("other", r#"{"i":1}"#);
    listener.subscribe("d");
    let (mut control, mut other) = (server.controller("demo"), server.controller("other"));
    let data = text(8_000_000);
    control.ok(&emit("c", &data));
    // More is queued than the limit allows, and the reader has time left.
    control.send(&emit("c", &text(100_000)));
    control.wire.set_deadline(std::time::Duration::from_millis(50));
    assert!(control.wire.read(&mut [0]).is_err(), "a large publication waits");
    control.wire.set_deadline(crate::common::DEADLINE);
    other.ok(&emit("d", "1"));
    listener.expect(&message("d", "1"));
    reader.expect(&message("c", &data));
    assert_eq!(control.recv(), r#"{"success":true}"#);
}

#[test]
fn back_ends_are_read_again_as_soon_as_the_queue_drains() {
    let server = Server::start(&Options::limits(&[("queued_bytes", 65_536)]));
    let (mut control, mut other) = (server.controller("demo"), server.controller("demo"));
    let data = text(8_000_000);
    let mut waited_ms = 0;
    for _ in 0..5 {
        // A new one each time, because the kernel enlarges the buffers of one that has read much.
        let mut reader = server.browser("demo", r#"{"i":1}"#);
        reader.subscribe("c");
        control.ok(&emit("c", &data));
        other.send(r#"{"action":"ping"}"#);
        // Commands are not read meanwhile: far more is queued than the limit allows.
        other.wire.set_deadline(std::time::Duration::from_millis(50));
        assert!(other.wire.read(&mut [0]).is_err());
        other.wire.set_deadline(crate::common::DEADLINE);
        reader.expect(&message("c", &data));
        let began = std::time::Instant::now();
        assert_eq!(other.recv(), r#"{"success":true}"#);
        waited_ms += began.elapsed().as_millis();
    }
    // Otherwise each would wait for the next check for stalled connections, most of a second.
    assert!(waited_ms < 2000, "{waited_ms} ms");
}

#[test]
fn commands_sent_before_a_reset_are_carried_out() {
    // Closing a connection with unread replies sends a reset right behind the last command.
    let server = Server::new();
    let mut browser = server.browser("demo", r#"{"i":"u"}"#);
    browser.subscribe("c");
    for _ in 0..40 {
        let mut control = server.controller("demo");
        control.send(&emit("c", "1"));
        assert_eq!(browser.hear(), message("c", "1"));
        // The reply has arrived, and most of it stays unread.
        let mut one = [0; 1];
        control.wire.read_exact(&mut one).unwrap();
        control.send(&emit("c", "2"));
        drop(control);
        assert_eq!(browser.hear(), message("c", "2"));
    }
}

/// A command that emits a message to many channels.
fn emit_to(channels: &[String], data: &str) -> String {
    format!(r#"{{"action":"emit","channels":{},"data":{data}}}"#, json!(channels))
}

fn channels(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("c{number}")).collect()
}

#[test]
fn one_emit_to_many_channels_disconnects_no_browser_that_reads() {
    let server = Server::new();
    let mut control = server.controller("demo");
    // Each time more than the backlog limit in one turn, but far less than the kernel buffers.
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
fn simultaneous_emits_disconnect_no_browser_that_reads() {
    let server = Server::new();
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    let mut controls: Vec<_> = (0..10).map(|_| server.controller("demo")).collect();
    let data = text(10_000);
    let emits = frame(emit("c", &data).as_bytes()).repeat(6);
    // Everything has arrived when the server wakes up, so it is handled in one turn.
    server.freeze();
    controls.iter_mut().for_each(|control| control.send_raw(&emits));
    server.thaw();
    for _ in 0..controls.len() * 6 {
        browser.expect(&message("c", &data));
    }
    browser.nothing();
}

#[test]
fn one_emit_to_a_stalled_browser_does_not_fill_the_memory() {
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
    eventually("the stalled browser is disconnected", || {
        control.ask(r#"{"action":"channelInfo","channel":"c0"}"#).contains(":0,").then_some(())
    });
    // Two copies of the command; what is being sent, what was queued until the kernel's buffer was
    // full, and what was queued until the limit, each plus one message. Not 256 MB.
    let grown = server.peak_memory_bytes() - before;
    assert!(grown < 32_000_000, "{grown} bytes");
}

#[test]
fn replies_that_wait_for_the_disk_are_bounded_in_bytes() {
    let server = Server::new();
    let mut control = server.controller("demo");
    control.ok(&set("c", &text(1_000_000)));
    let before = server.peak_memory_bytes();
    // Each `get` may show a change that is not on disk yet, so its reply waits for the disk.
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
fn unauthenticated_back_ends_are_evicted_and_time_out() {
    let limits = [("control_auth_ms", 300), ("control_unauthenticated_connections", 3)];
    let server = Server::start(&Options::limits(&limits));
    let mut known = server.controller("demo");
    let mut unauthenticated: Vec<_> = (0..4).map(|_| server.control()).collect();
    // The fourth evicts the oldest, and the others time out.
    unauthenticated.remove(0).expect_closed();
    let ping = r#"{"action":"ping"}"#;
    unauthenticated[2].ok(ping);
    unauthenticated.iter_mut().for_each(|unauthenticated| unauthenticated.expect_closed());
    known.ok(ping);
}

#[test]
fn a_flood_of_back_ends_evicts_only_those_of_its_address() {
    let limits = [("control_unauthenticated_connections", 3)];
    let server = Server::start(&Options { unix: true, ..Options::limits(&limits) });
    let mut near = Control::unix(&server.socket());
    let mut far = Control { wire: Wire::from_ip([127, 0, 0, 2], server.control) };
    // Without a share for each address, these would evict the two before they authenticate.
    let mut crowd: Vec<_> = (0..10).map(|_| server.control()).collect();
    crowd.drain(..9).for_each(|mut unauthenticated| unauthenticated.expect_closed());
    near.auth("demo");
    far.auth("demo");
    crowd[0].auth("demo");
}

#[test]
fn a_full_control_port_evicts_unauthenticated_back_ends() {
    let server = Server::start(&Options::limits(&[("control_connections", 4)]));
    let ping = r#"{"action":"ping"}"#;
    let mut known = vec![server.controller("demo")];
    let mut far = Control { wire: Wire::from_ip([127, 0, 0, 2], server.control) };
    far.ok(ping);
    let mut crowd: Vec<_> = (0..2).map(|_| server.control()).collect();
    crowd.iter_mut().for_each(|unauthenticated| unauthenticated.ok(ping));
    // The oldest connection of the address with the most unauthenticated ones is evicted.
    known.push(server.controller("demo"));
    crowd.remove(0).expect_closed();
    far.ok(ping);
    known.push(server.controller("demo"));
    crowd.remove(0).expect_closed();
    far.ok(ping);
    known.push(server.controller("demo"));
    far.expect_closed();
    // Authenticated connections are never evicted.
    server.control().expect_closed();
    known.iter_mut().for_each(|known| known.ok(ping));
    // Nor are connections of the unix socket, for a remote one.
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
fn five_wrong_keys_close_the_connection() {
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
fn incomplete_commands_of_one_namespace_do_not_block_others() {
    let mut server = Server::new();
    let half = |_| {
        let mut control = server.controller("demo");
        let mut half = ((8 << 20) - 100_i32).to_le_bytes().to_vec();
        half.resize(17_000, b'x');
        control.send_raw(&half);
        control
    };
    // Each may take 10 s, and there is room for eight.
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
fn a_poll_gets_queued_states_while_a_later_one_waits_for_room() {
    // The last one fills the budget.
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
    // There is no room for more: these answers wait.
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
fn polls_are_answered_when_their_states_fill_the_answer_budget() {
    // Only states queued for polls fill the budget. Once, polls were not answered while it was
    // full, so they and all others waited for ever.
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
