//! Connections that lose a grant, their namespace or their slot lose it at once, however many they
//! are and however long it takes to notify them. Uses the real binary, from outside, limited to so
//! little per turn that everything takes many turns.

use crate::common::browser::Browser;
use crate::common::eventually;
use crate::common::server::{Options, SERVER_KEY, Server};

/// A server that closes one connection, or ends one subscription, per turn.
fn server() -> Server {
    let limits = [("leaves_per_turn", 1), ("connections_per_user", 1000)];
    Server::start(&Options::limits(&limits))
}

/// `count` connections of one user, subscribed to these channels.
fn crowd(server: &Server, count: usize, channels: &[&str]) -> Vec<Browser> {
    let one = |_| {
        let mut browser = server.browser("demo", r#"{"i":"guest"}"#);
        channels.iter().for_each(|channel| browser.subscribe(channel));
        browser
    };
    (0..count).map(one).collect()
}

const NOBODY: &str = r#"{"countUser":0,"countConnection":0,"connId_UserId":{}}"#;

#[test]
fn a_revoked_grant_of_many_is_ineffective_from_the_reply_on() {
    let server = server();
    let mut control = server.controller("demo");
    let grant = r##"{"action":"subscribe","channel":"#vip","params":{"userId":"guest"}}"##;
    control.ok(grant);
    let mut crowd = crowd(&server, 300, &["#vip", "all"]);
    // In one write: none waits for the reply to another.
    let revoke = grant.replace("subscribe", "unsubscribe");
    let emit = r##"{"action":"emit","channel":"#vip","data":1,"params":{"count":true}}"##;
    let info = r##"{"action":"channelInfo","channel":"#vip"}"##;
    control.wire.hold();
    for command in [&*revoke, emit, info, grant, emit] {
        control.send(command);
    }
    control.wire.release();
    for answer in [
        r#"{"success":true}"#,
        r#"{"success":true,"count":0}"#,
        NOBODY,
        r#"{"success":true}"#,
        r#"{"success":true,"count":0}"#,
    ] {
        assert_eq!(control.recv(), answer);
    }
    // A connection that subscribes again, by the new grant, stays.
    crowd[7].subscribe("#vip");
    control.ok(r#"{"action":"emit","channel":"all","data":"all"}"#);
    for browser in &mut crowd {
        browser.expect(r#"{"event":"all","data":"all"}"#);
    }
    assert_eq!(control.ask(emit), r#"{"success":true,"count":1}"#);
    crowd[7].expect(r##"{"event":"#vip","data":1}"##);
    crowd[8].nothing();
}

#[test]
fn a_removed_namespace_is_gone_before_its_browsers_are_closed() {
    let server = server();
    let crowd = crowd(&server, 200, &["c"]);
    let mut control = server.control();
    let (name, key) = ("demo", SERVER_KEY);
    control.wire.hold();
    control.send(&format!(r#"{{"action":"removeNameSpace","name":"{name}","key":"{key}"}}"#));
    control.send(&format!(r#"{{"action":"registerNameSpace","name":"{name}","key":"{key}"}}"#));
    control.wire.release();
    assert_eq!(control.recv(), r#"{"success":true}"#);
    let answer = control.recv();
    let (_, key) = answer.split_once(r#""secretKey":""#).unwrap();
    let key = key.trim_end_matches("\"}");
    control.ok(&format!(r#"{{"action":"auth","name":"{name}","sKey":"{key}"}}"#));
    let emit = r#"{"action":"emit","channel":"c","data":"new","params":{"count":true}}"#;
    assert_eq!(control.ask(emit), r#"{"success":true,"count":0}"#);
    let mut new = server.browser_of(name, key, r#"{"i":"guest"}"#);
    new.subscribe("c");
    assert_eq!(control.ask(emit), r#"{"success":true,"count":1}"#);
    new.expect(r#"{"event":"c","data":"new"}"#);
    for mut browser in crowd {
        browser.expect_closed(3404, "site id not registered");
    }
    new.nothing();
}

#[test]
fn a_disconnected_user_is_gone_before_all_connections_are_closed() {
    let server = server();
    let crowd = crowd(&server, 200, &["c"]);
    let mut control = server.controller("demo");
    let disconnect = r#"{"action":"disconnect","params":{"userId":"guest"}}"#;
    control.wire.hold();
    control.send(disconnect);
    control.send(r#"{"action":"channelInfo","channel":"c"}"#);
    control.send(disconnect);
    control.wire.release();
    assert_eq!(control.recv(), r#"{"success":true,"count":200}"#);
    assert_eq!(control.recv(), NOBODY);
    assert_eq!(control.recv(), r#"{"success":true,"count":0}"#);
    for mut browser in crowd {
        browser.expect_closed(3403, "disconnected by the site");
    }
}

#[test]
fn many_connections_that_close_at_once_leave_all_channels() {
    let mut server = server();
    let channels: Vec<String> = (0..20).map(|i| i.to_string()).collect();
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    let crowd = crowd(&server, 100, &channels);
    server.freeze();
    drop(crowd);
    server.thaw();
    let mut control = server.controller("demo");
    let info = |channel: &str| format!(r#"{{"action":"channelInfo","channel":"{channel}"}}"#);
    for channel in channels {
        eventually("all have left", || (control.ask(&info(channel)) == NOBODY).then_some(()));
    }
    server.assert_alive();
}
