//! B12 to B21: what let clients in, or kept none out.

use super::{emit, get, grant, refusal, set, subscribe};
use crate::common::browser::{Browser, auth_message, message};
use crate::common::control::{DONE, frame};
use crate::common::eventually;
use crate::common::server::{
    DEMO_KEY, Dir, OTHER_KEY, Options, SERVER_KEY, Server, mode, run_to_end,
};
use crate::common::token::token;
use crate::common::wire::Wire;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn b12_an_array_joins_no_private_channel() {
    let server = Server::new();
    let mut control = server.controller("demo");
    control.ok(&set("#p", "\"secret\"", "{}"));
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    for channel in [r##"["#p"]"##, r##"[["#p"]]"##, r##"{"0":"#p"}"##] {
        browser.say(&format!(r#"{{"event":"subscribe","data":{channel}}}"#));
    }
    control.ok(&emit("#p", "1"));
    browser.nothing();
    assert_eq!(control.connections("#p"), 0);
    assert_eq!(control.connections("[\"#p\"]"), 0);
}

#[test]
fn b13_nobody_hears_anything_before_auth() {
    let mut options = Options::default();
    options.config["namespaces"]["null"] = json!(OTHER_KEY);
    let server = Server::start(&options);
    let mut control = server.control();
    control.auth_as("null", OTHER_KEY);
    let mut browser = Browser::raw(server.ws);
    browser.subscribe("c");
    control.ok(&set("c", "1", r#"{"emit":true}"#));
    browser.nothing();
    browser.subscribe("c");
    assert_eq!(control.connections("c"), 0);
}

#[test]
fn b14_withdrawing_a_grant_makes_that_user_leave() {
    let server = Server::new();
    let mut control = server.controller("demo");
    control.ok(&grant("subscribe", "#p", "1"));
    control.ok(&grant("subscribe", "#p", "2"));
    let mut one = server.browser("demo", r#"{"i":1}"#);
    let mut again = server.browser("demo", r#"{"i":"1"}"#);
    let mut two = server.browser("demo", r#"{"i":2}"#);
    for browser in [&mut one, &mut again, &mut two] {
        browser.subscribe("#p");
    }
    control.ok(&grant("unsubscribe", "#p", "1"));
    assert_eq!(control.connections("#p"), 1);
    control.ok(&emit("#p", "\"now\""));
    one.nothing();
    again.nothing();
    two.expect(&message("#p", "\"now\""));
    // Nor can it subscribe again.
    control.ok(&set("#p", "\"secret\"", "{}"));
    one.subscribe("#p");
    assert_eq!(control.connections("#p"), 1);
}

#[test]
fn b15_only_the_exact_string_is_accepted_as_a_key() {
    let server = Server::new();
    let mut control = server.control();
    let near = &DEMO_KEY[..35];
    for key in [
        json!([DEMO_KEY]),
        json!({ "0": DEMO_KEY }),
        json!(format!("{DEMO_KEY} ")),
        json!(near),
        json!(""),
        json!(null),
        json!(true),
        json!(1),
    ] {
        let command = json!({ "action": "auth", "name": "demo", "sKey": key }).to_string();
        // Five wrong keys close a connection, so each gets its own.
        let mut control = server.control();
        assert_eq!(control.ask(&command), refusal(305, "Invalid sKey"), "{key}");
    }
    for key in [json!([SERVER_KEY]), json!(&SERVER_KEY[1..]), json!(null), json!(""), json!(0)] {
        let command = json!({ "action": "registerNameSpace", "name": "n", "key": key }).to_string();
        let mut control = server.control();
        assert_eq!(control.ask(&command), refusal(306, "Invalid key"), "{key}");
    }
    let command = r#"{"action":["ping"]}"#;
    assert_eq!(control.ask(command), refusal(312, "Invalid action..."));
}

#[test]
fn b16_a_replaced_key_opens_nothing() {
    let server = Server::new();
    let mut inside = server.controller("demo");
    let mut control = server.control();
    let rotate = json!({ "action": "rotateKey", "name": "demo", "key": SERVER_KEY }).to_string();
    let reply: Value = serde_json::from_str(&control.ask(&rotate)).unwrap();
    let key = reply["secretKey"].as_str().unwrap().to_owned();
    let old = json!({ "action": "auth", "name": "demo", "sKey": DEMO_KEY }).to_string();
    for control in [&mut control, &mut inside] {
        assert_eq!(control.ask(&old), refusal(305, "Invalid sKey"));
        // Connections that used the old key lose their access too.
        assert_eq!(control.ask(&get("c")), refusal(311, "Need auth"));
        control.auth_as("demo", &key);
        assert_eq!(control.ask(&get("c")), "null");
    }
    let mut browser = Browser::raw(server.ws);
    browser.say(&auth_message("demo", &token(r#"{"i":1}"#, DEMO_KEY)));
    browser.expect_closed(3404, "invalid JWT");
    let mut browser = Browser::raw(server.ws);
    browser.auth_with("demo", &token(r#"{"i":1}"#, &key));
}

#[test]
fn b17_frames_have_a_limit_before_auth_and_after_it() {
    let limits = [("control_frame_bytes", 2000), ("control_frame_unauthenticated_bytes", 1500)];
    let mut server = Server::start(&Options::limits(&limits));
    let mut control = server.control();
    control.send_raw(&1501_i32.to_le_bytes());
    control.expect_closed();
    let body = |length: usize| {
        let body = set("c", "\"\"", "{}");
        let fill = "x".repeat(length - body.len());
        body.replace("\"\"", &format!("\"{fill}\""))
    };
    let mut control = server.control();
    assert_eq!(control.ask(&body(1500)), refusal(311, "Need auth"));
    control.auth("demo");
    control.ok(&body(1501));
    control.ok(&body(2000));
    control.send_raw(&2001_i32.to_le_bytes());
    control.expect_closed();
    server.assert_alive();
}

#[test]
fn b17_incomplete_requests_and_unauthenticated_clients_time_out() {
    let limits = [("control_frame_ms", 100), ("http_head_ms", 100), ("auth_ms", 100)];
    let server = Server::start(&Options::limits(&limits));
    // Between frames, a back end may idle.
    let mut idle = server.control();
    let bytes = frame(br#"{"action":"ping"}"#);
    for half in [1, 3, 4, 10, bytes.len() - 1] {
        let mut control = server.control();
        control.send_raw(&bytes[..half]);
        control.expect_closed();
    }
    let mut wire = Wire::tcp(server.ws);
    assert_eq!(wire.read_rest().unwrap(), b"");
    let mut wire = Wire::tcp(server.ws);
    wire.write_all(b"GET /socket HTTP/1.1\r\n").unwrap();
    wire.read_rest().unwrap();
    Browser::raw(server.ws).expect_closed(3408, "no auth in time");
    let mut browser = Browser::sockjs(server.ws);
    assert_eq!(browser.hear(), r#"c[3408,"no auth in time"]"#);
    idle.ok(r#"{"action":"ping"}"#);
}

#[test]
fn b17_heads_messages_and_fragments_have_a_limit() {
    let limits = [("http_head_bytes", 1000), ("message_bytes", 1000), ("message_fragments", 3)];
    let mut server = Server::start(&Options::limits(&limits));
    let mut wire = Wire::tcp(server.ws);
    let head = format!("GET /socket HTTP/1.1\r\nX: {}", "x".repeat(1000));
    wire.write_all(head.as_bytes()).unwrap();
    let answer = String::from_utf8(wire.read_rest().unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.send(&"x".repeat(1000));
    browser.nothing();
    // The length alone is enough to refuse.
    browser.send_raw(&[0x81, 0x80 | 126, 1001_u16.to_be_bytes()[0], 1001_u16.to_be_bytes()[1]]);
    browser.send_raw(&[0; 4]);
    browser.expect_closed(1009, "message too large");

    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.send_raw(&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    browser.expect_closed(1009, "message too large");

    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.send_raw(&[0x01, 0x80, 0, 0, 0, 0]);
    browser.send_raw(&[0x00, 0x80, 0, 0, 0, 0].repeat(3));
    browser.expect_closed(1009, "message too large");
    server.assert_alive();
}

#[test]
fn b17_channels_connections_and_namespaces_have_a_limit() {
    let limits = [("channels_per_connection", 2), ("connections_per_user", 2), ("namespaces", 3)];
    let server = Server::start(&Options::limits(&limits));
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    for channel in ["a", "b", "c"] {
        browser.subscribe(channel);
    }
    assert_eq!(["a", "b", "c"].map(|channel| control.connections(channel)), [1, 1, 0]);
    // Unsubscribing makes room.
    browser.say(r#"{"event":"unsubscribe","data":"a"}"#);
    browser.subscribe("c");
    assert_eq!(["a", "b", "c"].map(|channel| control.connections(channel)), [0, 1, 1]);

    let _second = server.browser("demo", r#"{"i":"1"}"#);
    let mut third = Browser::raw(server.ws);
    third.say(&auth_message("demo", &token(r#"{"i":1}"#, DEMO_KEY)));
    third.expect_closed(3429, "too many connections");

    let register =
        |name: &str| json!({ "action": "registerNameSpace", "name": name, "key": SERVER_KEY });
    assert!(control.ask(&register("n1").to_string()).starts_with(r#"{"success":true"#));
    let reply = control.ask(&register("n2").to_string());
    assert_eq!(reply, refusal(313, "Too many name spaces, at most 3"));
}

#[test]
fn b17_all_subscriptions_together_have_a_limit() {
    let limits = [("subscriptions", 3), ("connections_per_user", 3)];
    let server = Server::start(&Options::limits(&limits));
    let mut control = server.controller("demo");
    let [mut one, mut two, mut three] = [0; 3].map(|_| server.browser("demo", r#"{"i":1}"#));
    one.subscribe("a");
    two.subscribe("a");
    two.subscribe("b");
    let full = r#"{"ok":false,"reason":"too many subscriptions in all, at most 3"}"#;
    let ok = r#"{"ok":true}"#;
    let ask = |browser: &mut Browser, event: &str, channel: &str, answer: &str| {
        browser.say(&format!(r#"{{"event":"{event}","clb":1,"data":"{channel}"}}"#));
        browser.expect(&format!(r#"{{"event":"callBackAnswer","clb":1,"data":{answer}}}"#));
    };
    ask(&mut three, "subscribe", "a", full);
    // Repeating a subscription does not count, and ending one makes room.
    ask(&mut two, "subscribe", "b", ok);
    ask(&mut one, "unsubscribe", "a", ok);
    ask(&mut three, "subscribe", "c", ok);
    ask(&mut one, "subscribe", "a", full);
    control.ok(&emit("b", "1"));
    two.expect(&message("b", "1"));
    // So does a connection that closes.
    drop(two);
    eventually("it has left", || (control.connections("b") == 0).then_some(()));
    ask(&mut one, "subscribe", "a", ok);
    ask(&mut one, "subscribe", "b", ok);
    ask(&mut one, "subscribe", "d", full);
    control.ask(r#"{"action":"disconnect","params":{"userId":"1"}}"#);
    let mut other = server.browser("demo", r#"{"i":2}"#);
    ask(&mut other, "subscribe", "a", ok);
}

#[test]
fn one_namespace_cannot_use_up_the_limits_of_all() {
    let (most, bytes) = (20, 2000);
    let limits = [("states", most), ("states_bytes", bytes), ("grants", most)];
    let server = Server::start(&Options::limits(&limits));
    let (mut one, mut two) = (server.controller("demo"), server.controller("other"));
    let shared = |what: &str, most: u64| {
        let rest = "what is left is for other name spaces";
        refusal(313, &format!("Too many {what} in all, at most {most}: {rest}"))
    };
    let set = |name: &str, data: &str| {
        json!({ "action": "set", "channel": name, "data": data }).to_string()
    };
    let grant = |user: usize| {
        let params = json!({ "userId": user.to_string() });
        json!({ "action": "subscribe", "channel": "#c", "params": params }).to_string()
    };
    // Eight ninths of all, and one more.
    for number in 0..18 {
        one.ok(&set(&format!("s{number}"), ""));
        one.ok(&grant(number));
    }
    assert_eq!(one.ask(&set("more", "")), shared("states", most));
    assert_eq!(one.ask(&grant(99)), shared("grants", most));
    one.ok(&set("s0", &"x".repeat(1600)));
    assert_eq!(one.ask(&set("s1", &"x".repeat(200))), shared("bytes of states", bytes));
    // It may change what it has, or replace it by something else.
    one.ok(&set("s0", &"y".repeat(1600)));
    one.ok(&json!({ "action": "set", "channel": "s17", "data": null }).to_string());
    one.ok(&set("more", ""));
    two.ok(&set("s0", &"x".repeat(150)));
    two.ok(&grant(0));
}

#[test]
fn the_first_connections_cannot_use_up_all_subscriptions() {
    let limits = [("subscriptions", 720), ("channels_per_connection", 128)];
    let server = Server::start(&Options::limits(&limits));
    let subscribe = |browser: &mut Browser, channel: usize| {
        browser.say(&format!(r#"{{"event":"subscribe","clb":1,"data":"c{channel}"}}"#));
        browser.hear().contains(r#"{"ok":true}"#)
    };
    let mut counts = Vec::new();
    let mut crowd = Vec::new();
    for _ in 0..40 {
        let mut browser = server.browser("demo", r#"{"i":1}"#);
        counts.push((0..20).take_while(|channel| subscribe(&mut browser, *channel)).count());
        crowd.push(browser);
    }
    assert!(counts.is_sorted_by(|one, next| one >= next) && counts[0] == 10, "{counts:?}");
    assert!(counts.iter().all(|count| *count > 2), "{counts:?}");
    assert!(subscribe(&mut server.browser("other", r#"{"i":1}"#), 0));
}

#[test]
fn b17_a_slow_subscriber_is_cut_off() {
    let mut server = Server::start(&Options::limits(&[("backlog_bytes", 1024)]));
    let mut control = server.controller("demo");
    let mut slow = server.browser("demo", r#"{"i":1}"#);
    slow.subscribe("c");
    let mut quick = server.browser("demo", r#"{"i":2}"#);
    quick.subscribe("c");
    // It never reads: once the kernel's buffers are full, the rest would queue in the server.
    let data = format!("\"{}\"", "x".repeat(1 << 20));
    eventually("the slow one is disconnected", || {
        control.ok(&emit("c", &data));
        quick.expect(&message("c", &data));
        (control.connections("c") == 1).then_some(())
    });
    server.assert_alive();
}

#[test]
fn b18_a_hostile_length_ends_the_connection_at_once() {
    let mut server = Server::new();
    let big_endian = i32::from_be_bytes(17_i32.to_le_bytes());
    for length in [0, -1, i32::MIN, i32::MAX, big_endian, (8 << 20) + 1] {
        for with_auth in [false, true] {
            let mut control = server.control();
            if with_auth {
                control.auth("demo");
            }
            control.send_raw(&length.to_le_bytes());
            control.expect_closed();
        }
    }
    server.assert_alive();
}

#[test]
fn b19_there_is_no_default_key_and_no_key_is_logged() {
    let options = Options { key: None, ..Options::default() };
    let server = Server::start(&options);
    let file = server.dir().file("data/server.key");
    assert_eq!(mode(&file), 0o600);
    let key = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(key.len() >= 32, "at least 128 bits");
    let register =
        |name: &str| json!({ "action": "registerNameSpace", "name": name, "key": key }).to_string();
    let reply = server.control().ask(&register("n"));
    assert!(reply.starts_with(r#"{"success":true,"secretKey":""#), "{reply}");
    let namespace_key = reply.split('"').nth(5).unwrap().to_owned();
    let token = token(r#"{"i":1}"#, DEMO_KEY);
    Browser::raw(server.ws).auth_with("demo", &token);
    server.controller("demo").ok(&emit("c", "\"a payload\""));
    let mut control = server.control();
    control.send("no JSON at all");
    control.recv();
    control.expect_closed();

    let log = server.log().join("\n");
    assert!(log.contains("data/server.key"), "it says where the key is: {log}");
    let keys = [key.as_str(), &namespace_key, DEMO_KEY, OTHER_KEY];
    for secret in keys.into_iter().chain([&*token, "a payload", "no JSON at all"]) {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    // The next start loads the same key.
    let server = Server::start_in(server.stop(), &options);
    assert!(server.control().ask(&register("m")).starts_with(r#"{"success":true,"#));
}

#[test]
fn b19_the_sample_key_is_refused() {
    let options = Options { key: Some("asd82nvakadfs".into()), ..Options::default() };
    let dir = Dir::new();
    let (code, output) = run_to_end(options.command(&dir));
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("FWS_SECRETKEY") && !output.contains("asd82nvakadfs"), "{output}");
}

#[test]
fn b19_the_control_port_listens_on_loopback_by_default() {
    let config = fws::config::Config::default();
    assert_eq!(config.control, "127.0.0.1:8085".parse().unwrap());
}

#[test]
fn b20_a_falsy_user_id_is_refused_and_does_not_mean_everybody() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    let mut zero = server.browser("demo", r#"{"i":"0"}"#);
    browser.subscribe("c");
    zero.subscribe("c");
    for user in ["0", "false", "\"\"", "-0", "0.0"] {
        for command in [
            format!(r#"{{"action":"emit","channel":"c","data":1,"params":{{"userId":{user}}}}}"#),
            set("c", "1", &format!(r#"{{"userId":{user},"emit":true}}"#)),
            format!(r##"{{"action":"subscribe","channel":"#c","params":{{"userId":{user}}}}}"##),
        ] {
            let reply = control.ask(&command);
            assert!(reply.contains("params.userId\",\"code\":300}"), "{command}: {reply}");
        }
    }
    browser.nothing();
    zero.nothing();
    assert_eq!(control.ask(&get("c")), "null");
    // The string "0" is a user.
    control.ok(r#"{"action":"emit","channel":"c","data":1,"params":{"userId":"0"}}"#);
    browser.nothing();
    zero.expect(&message("c", "1"));
    // Null or an absent userId means all users.
    control.ok(r#"{"action":"emit","channel":"c","data":2,"params":{"userId":null}}"#);
    browser.expect(&message("c", "2"));
    zero.expect(&message("c", "2"));
    for payload in [r#"{"i":0}"#, r#"{"i":-0}"#, r#"{"i":0.0}"#] {
        let mut browser = Browser::raw(server.ws);
        browser.say(&auth_message("demo", &token(payload, DEMO_KEY)));
        browser.expect_closed(3404, "invalid JWT");
    }
}

/// Seconds since 1970.
fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn b21_a_token_and_its_connections_expire_on_time() {
    let server = Server::new();
    for claim in ["\"exp\":1000000000", "\"nbf\":9999999999", "\"exp\":\"9999999999\""] {
        let payload = format!(r#"{{"i":1,{claim}}}"#);
        let mut browser = Browser::raw(server.ws);
        browser.say(&auth_message("demo", &token(&payload, DEMO_KEY)));
        browser.expect_closed(3404, "invalid JWT");
    }
    // It also ends open connections.
    let soon = format!(r#"{{"i":1,"exp":{}}}"#, unix_seconds() + 3);
    let mut raw = server.browser("demo", &soon);
    let mut sockjs = Browser::sockjs(server.ws);
    sockjs.auth("demo", &soon);
    // A new token in time moves the end, and keeps all subscriptions.
    let mut renewed = server.browser("demo", &soon);
    renewed.subscribe("c");
    renewed.auth("demo", &format!(r#"{{"i":1,"exp":{}}}"#, unix_seconds() + 3600));
    raw.expect_closed(3401, "token expired");
    assert_eq!(sockjs.hear(), r#"c[3401,"token expired"]"#);
    sockjs.expect_closed(1000, "Normal closure");
    let mut control = server.controller("demo");
    control.ok(&emit("c", "1"));
    renewed.expect(&message("c", "1"));
    assert_eq!(control.ask(r#"{"action":"ping"}"#), DONE);
    renewed.say(&subscribe("d"));
    renewed.nothing();
}
