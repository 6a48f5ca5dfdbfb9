//! B22 to B38: lost, late, reordered and forgotten data.

use super::{emit, get, grant, refusal, set, subscribe};
use crate::common::browser::{Browser, Heard, auth_message, message};
use crate::common::control::{Control, DONE, frame};
use crate::common::eventually;
use crate::common::http;
use crate::common::server::{DEMO_KEY, Dir, OTHER_KEY, Options, SERVER_KEY, Server, run_to_end};
use crate::common::token::token;
use serde_json::{Value, json};
use std::sync::Barrier;

#[test]
fn b22_frames_that_arrive_together_are_all_answered() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let count = 500;
    let mut bytes = Vec::new();
    for number in 0..count {
        bytes.extend(frame(set("c", &number.to_string(), "{}").as_bytes()));
        bytes.extend(frame(get("c").as_bytes()));
    }
    // The last frame is split, and its rest comes later.
    let (most, rest) = bytes.split_at(bytes.len() - 7);
    control.send_raw(most);
    for number in 0..count {
        assert_eq!(control.recv(), DONE);
        if number + 1 == count {
            control.send_raw(rest);
        }
        assert_eq!(control.recv(), number.to_string());
    }
    control.nothing();
}

#[test]
fn b23_a_frame_of_length_0_closes_the_connection() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let bytes = [&frame(b"")[..], &frame(set("c", "1", "{}").as_bytes())].concat();
    control.send_raw(&bytes);
    control.expect_closed();
    // Nor was the command after it carried out without a reply.
    assert_eq!(server.controller("demo").ask(&get("c")), "null");
}

#[test]
fn b24_replies_come_in_the_order_of_the_commands() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let commands = [
        (r#"{"action":"ping"}"#.to_owned(), DONE.to_owned()),
        (get("none"), "null".into()),
        (r#"{"action":"nope"}"#.into(), refusal(312, "Invalid action...")),
        (set("c", "\"v\"", "{}"), DONE.into()),
        (get("c"), "\"v\"".into()),
        (r#"{"action":"get"}"#.into(), refusal(300, "Need argument channel")),
        (
            r#"{"action":"auth","name":"no","sKey":"x"}"#.into(),
            refusal(404, "Name space not found"),
        ),
    ];
    let all: Vec<_> = commands.iter().cycle().take(700).collect();
    let bytes: Vec<u8> = all.iter().flat_map(|(command, _)| frame(command.as_bytes())).collect();
    for piece in bytes.chunks(1000) {
        control.send_raw(piece);
    }
    for (command, reply) in all {
        assert_eq!(&control.recv(), reply, "{command}");
    }
}

#[test]
fn b25_a_half_close_loses_no_reply() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let large = format!("\"{}\"", "x".repeat(3 << 20));
    control.send(&set("c", &large, "{}"));
    control.send(&get("c"));
    control.send(r#"{"action":"ping"}"#);
    control.wire.half_close();
    assert_eq!(control.recv(), DONE);
    assert_eq!(control.recv(), large);
    assert_eq!(control.recv(), DONE);
    control.expect_closed();
    // An incomplete frame has no reply.
    let mut control = server.control();
    control.send_raw(&frame(get("c").as_bytes())[..9]);
    control.wire.half_close();
    control.expect_closed();
}

#[test]
fn b26_a_set_is_visible_once_it_is_answered() {
    let server = Server::new();
    let mut writer = server.controller("demo");
    let mut reader = server.controller("demo");
    for number in 0..200 {
        let params = if number % 2 == 0 { r#"{"ttl":60}"# } else { "{}" };
        writer.ok(&set("c", &number.to_string(), params));
        assert_eq!(reader.ask(&get("c")), number.to_string());
    }
    // State and ttl are set together: a state never outlives its ttl, and never inherits one.
    writer.ok(&set("short", "1", r#"{"ttl":1}"#));
    writer.ok(&set("kept", "1", r#"{"ttl":1}"#));
    writer.ok(&set("kept", "2", "{}"));
    writer.ok(&set("later", "1", r#"{"ttl":1}"#));
    for channel in ["short", "later"] {
        eventually("the state has expired", || (reader.ask(&get(channel)) == "null").then_some(()));
    }
    assert_eq!(reader.ask(&get("kept")), "2");
}

#[test]
fn b27_of_many_registrations_at_once_one_succeeds() {
    let server = Server::new();
    let many = 8;
    for round in 0..20 {
        let name = format!("race {round}");
        let command = json!({ "action": "registerNameSpace", "name": name, "key": SERVER_KEY });
        let command = command.to_string();
        let barrier = Barrier::new(many);
        let replies: Vec<String> = std::thread::scope(|scope| {
            let register = || {
                let mut control = server.control();
                control.ok(r#"{"action":"ping"}"#);
                barrier.wait();
                control.ask(&command)
            };
            let threads: Vec<_> = (0..many).map(|_| scope.spawn(register)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let busy = refusal(309, "Name space is busy");
        let mut good = replies.iter().filter(|reply| **reply != busy);
        let reply: Value = serde_json::from_str(good.next().expect("one succeeds")).unwrap();
        assert_eq!(good.next(), None);
        server.control().auth_as(&name, reply["secretKey"].as_str().unwrap());
    }
}

#[test]
fn b28_falsy_states_are_sent() {
    let server = Server::new();
    let mut control = server.controller("demo");
    for state in ["0", "false", "\"\"", "[]", "{}", "-0"] {
        control.ok(&set("c", state, "{}"));
        control.ok(&set("@c", state, r#"{"userId":1}"#));
        let mut browser = server.browser("demo", r#"{"i":1}"#);
        for channel in ["c", "@c"] {
            browser.say(&subscribe(channel));
            browser.expect(&message(channel, state));
        }
        browser.nothing();
    }
    // Null means no state.
    control.ok(&set("c", "null", "{}"));
    server.browser("demo", r#"{"i":1}"#).subscribe("c");
}

#[test]
fn b29_the_state_comes_before_later_messages() {
    let server = Server::new();
    let last = 2000_u64;
    let mut control = server.controller("demo");
    control.ok(&set("c", "0", "{}"));
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for number in 1..=last {
                control.ok(&set("c", &number.to_string(), r#"{"emit":true}"#));
            }
        });
        // A browser that subscribes meanwhile receives a state, and from then on every message: no
        // gap, no duplicate, nothing older.
        while !publisher.is_finished() {
            let mut browser = server.browser("demo", r#"{"i":1}"#);
            browser.say(&subscribe("c"));
            let number = |browser: &mut Browser| {
                let heard: Value = serde_json::from_str(&browser.hear()).unwrap();
                heard["data"].as_u64().unwrap()
            };
            let state = number(&mut browser);
            for next in (state + 1..=last).take(20) {
                assert_eq!(number(&mut browser), next);
            }
        }
    });
}

#[test]
fn b30_the_unsubscribe_event_leaves_the_channel() {
    let server = Server::new();
    let mut control = server.controller("demo");
    for mut browser in [Browser::raw(server.ws), Browser::sockjs(server.ws)] {
        browser.auth("demo", r#"{"i":1}"#);
        browser.subscribe("a");
        browser.subscribe("b");
        browser.say(r#"{"event":"unsubscribe","data":"a","clb":1}"#);
        browser.expect(r#"{"event":"callBackAnswer","clb":1,"data":{"ok":true}}"#);
        browser.say(r#"{"event":"unsubscribe","data":"never joined"}"#);
        control.ok(&emit("a", "1"));
        control.ok(&emit("b", "2"));
        browser.expect(&message("b", "2"));
        browser.nothing();
        assert_eq!(["a", "b"].map(|channel| control.connections(channel)), [0, 1]);
        browser.drop_connection(false);
        eventually("it has left", || (control.connections("b") == 0).then_some(()));
    }
}

#[test]
fn b31_an_empty_channel_has_no_members_whatever_its_name() {
    let server = Server::new();
    let mut control = server.controller("demo");
    for channel in ["c", "__proto__", "constructor", "hasOwnProperty", "toString"] {
        let command = json!({ "action": "channelInfo", "channel": channel }).to_string();
        let empty = control.ask(&command);
        assert_eq!(empty, r#"{"countUser":0,"countConnection":0,"connId_UserId":{}}"#);
        let mut browser = server.browser("demo", r#"{"i":"__proto__"}"#);
        browser.subscribe(channel);
        assert_eq!(control.connections(channel), 1);
        control.ok(&emit(channel, "1"));
        browser.expect(&message(channel, "1"));
        browser.drop_connection(false);
        eventually("the channel is empty", || (control.ask(&command) == empty).then_some(()));
    }
}

#[test]
fn b32_the_raw_endpoint_has_a_heartbeat() {
    let limits = [("heartbeat_ms", 100), ("heartbeat_answer_ms", 100)];
    let server = Server::start(&Options::limits(&limits));
    let mut control = server.controller("demo");
    let mut dead = Browser::raw(server.ws);
    dead.say(&auth_message("demo", &token(r#"{"i":1}"#, DEMO_KEY)));
    dead.say(r#"{"event":"subscribe","data":"c","clb":1}"#);
    // It subscribes but answers no ping, like a machine that is gone.
    let joined = br#"{"event":"callBackAnswer","clb":1,"data":{"ok":true}}"#;
    while dead.next_frame().unwrap().1 != joined {}
    eventually("the dead connection is closed", || (control.connections("c") == 0).then_some(()));

    let server = Server::start(&Options::limits(&[("heartbeat_ms", 100)]));
    let mut alive = server.browser("demo", r#"{"i":1}"#);
    assert_eq!(alive.next(), Ok(Heard::Ping));
    assert_eq!(alive.next(), Ok(Heard::Ping));
}

#[test]
fn b33_requests_outside_the_prefix_are_answered() {
    let server = Server::new();
    for path in ["/", "/other", "/socketx", "/favicon.ico", "/socke", "//socket", "*"] {
        for method in ["GET", "POST", "HEAD", "OPTIONS", "BREW"] {
            let answer = http::request(server.ws, &format!("{method} {path}"), &[]);
            let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
            assert!([400, 404, 405, 501].contains(&answer.status), "{method} {path}: {answer:?}");
            if method == "GET" && path != "*" {
                assert_eq!(answer.status, 404, "{path}");
            }
        }
    }
}

#[test]
fn b34_states_with_similar_names_do_not_collide() {
    let mut options = Options::default();
    options.config["namespaces"] = json!({ "a": OTHER_KEY, "a:b": OTHER_KEY });
    let server = Server::start(&options);
    let (mut one, mut two) = (server.control(), server.control());
    one.auth_as("a", OTHER_KEY);
    two.auth_as("a:b", OTHER_KEY);
    one.ok(&set("b:c", "1", "{}"));
    assert_eq!(two.ask(&get("c")), "null");
    two.ok(&set("c", "2", "{}"));
    assert_eq!(one.ask(&get("b:c")), "1");

    one.ok(&set("x", "\"of user 1\"", r#"{"userId":1}"#));
    assert_eq!(one.ask(&get("1:x")), "null");
    one.ok(&set("1:x", "\"of the channel\"", "{}"));
    let of_user = r#"{"action":"get","channel":"x","params":{"userId":1}}"#;
    assert_eq!(one.ask(of_user), "\"of user 1\"");
    one.ok(&set("1:x", "null", "{}"));
    assert_eq!(one.ask(of_user), "\"of user 1\"");
}

/// Grants are kept (`tests/store/running.rs`); a server told to keep nothing says so at its start.
#[test]
fn b35_a_server_without_a_store_warns_that_grants_are_lost() {
    let mut options = Options::default();
    options.config["store"] = "none".into();
    let server = Server::start(&options);
    server.controller("demo").ok(&grant("subscribe", "#p", "1"));
    server.browser("demo", r#"{"i":1}"#).subscribe("#p");
    let server = Server::start_in(server.stop(), &options);
    let log = server.log().join("\n");
    assert!(log.contains("registered, granted and set is lost at the end"), "{log}");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.say(r##"{"event":"subscribe","data":"#p","clb":1}"##);
    let answer = r#"{"event":"callBackAnswer","clb":1,"data":{"ok":false,"reason":"no grant"}}"#;
    browser.expect(answer);
}

#[test]
fn b36_a_user_id_beside_the_channel_limits_the_message() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let mut one = server.browser("demo", r#"{"i":1}"#);
    let mut two = server.browser("demo", r#"{"i":2}"#);
    one.subscribe("c");
    two.subscribe("c");
    for params in ["", r#","params":{}"#, r#","params":null"#, r#","params":[]"#] {
        let command = r#"{"action":"emit","channel":"c","userId":1,"data":1"#;
        control.ok(&format!("{command}{params}}}"));
        one.expect(&message("c", "1"));
        two.nothing();
    }
}

#[test]
fn b37_numbers_keep_their_digits() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let mut raw = server.browser("demo", r#"{"i":1}"#);
    let mut sockjs = Browser::sockjs(server.ws);
    sockjs.auth("demo", r#"{"i":1}"#);
    raw.subscribe("c");
    sockjs.subscribe("c");
    for number in
        ["9007199254740993", "-12345678901234567890", "0.1000000000000000055511151231257827", "1.0"]
    {
        let data = format!(r#"{{"id":{number}}}"#);
        control.ok(&set("c", &data, r#"{"emit":true}"#));
        assert_eq!(control.ask(&get("c")), data);
        raw.expect(&message("c", &data));
        sockjs.expect(&message("c", &data));
    }
    // Users are compared as text, so that adjacent numbers beyond 2^53 stay different.
    let mut large = server.browser("demo", r#"{"i":9007199254740993}"#);
    large.subscribe("d");
    control.ok(r#"{"action":"emit","channel":"d","data":1,"params":{"userId":9007199254740992}}"#);
    large.nothing();
    control
        .ok(r#"{"action":"emit","channel":"d","data":2,"params":{"userId":"9007199254740993"}}"#);
    large.expect(&message("d", "2"));
}

#[test]
fn b38_a_stale_unix_socket_is_replaced() {
    let options = Options { unix: true, ..Options::default() };
    let serves = |server: &Server| Control::unix(&server.socket()).auth("demo");
    let server = Server::start(&options);
    serves(&server);
    let dir: Dir = server.crash();
    assert!(dir.file("control.sock").exists(), "a crash leaves the socket behind");
    let server = Server::start_in(dir, &options);
    serves(&server);
    let dir = server.stop();
    assert!(!dir.file("control.sock").exists(), "an orderly end does not");
    // What is not a socket is someone's file, and stays.
    std::fs::write(dir.file("control.sock"), "precious").unwrap();
    let (code, output) = run_to_end(options.command(&dir));
    assert!(code.is_some_and(|code| code != 0), "{output}");
    assert_eq!(std::fs::read_to_string(dir.file("control.sock")).unwrap(), "precious");
}

#[test]
fn b38_a_unix_socket_in_use_is_not_replaced() {
    let options = Options { unix: true, ..Options::default() };
    let mut server = Server::start(&options);
    let (code, output) = run_to_end(options.command(server.dir()));
    assert!(code.is_some_and(|code| code != 0), "{output}");
    Control::unix(&server.socket()).auth("demo");
    server.assert_alive();
}
