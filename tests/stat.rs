//! `fws stat` against a running server: one look, live, as JSON, and where there is no such door.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod common;

use std::io::{BufRead, BufReader};

use common::command::{bad, fws, good};
use common::server::{Options, Server};
use serde_json::{Value, json};

/// A server with an admin door, and where that is.
fn server() -> (Server, String) {
    let mut options = Options::default();
    options.config["admin"] = json!("127.0.0.1:0");
    let server = Server::start(&options);
    let address = server.admin().to_string();
    (server, address)
}

#[test]
fn one_look_shows_what_is_there() {
    let (server, at) = server();
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("news");
    server.controller("demo").ok(r#"{"action":"emit","channel":"news","data":1}"#);
    let text = good(fws(&["stat", "--once", "--admin", &at]));
    let version = env!("CARGO_PKG_VERSION");
    assert!(text.starts_with(&format!("fws {version} at {at}: ok\n")), "{text}");
    let has = |words: &[&str]| {
        let wanted = words.join(" ");
        let is_it = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.join(" ").contains(&wanted)
        };
        assert!(text.lines().any(is_it), "{words:?} in\n{text}");
    };
    has(&["WebSocket", "1"]);
    has(&["deliveries", "1", "-"]);
    has(&["publications", "1", "-"]);
    has(&["demo", "1", "-"]);
    assert!(!text.contains('\x1b'), "{text:?}");

    let mut command = fws(&["stat", "--once", "--json"]);
    command.env("FWS_LISTEN_ADMIN", &at);
    let object: Value = serde_json::from_str(&good(command)).unwrap();
    assert_eq!(object["fws_connections{kind=\"websocket\"}"], 1);
    assert_eq!(object["fws_namespace_deliveries_total{namespace=\"demo\"}"], 1);
    assert_eq!(object["fws_namespace_deliveries_total{other=\"true\"}"], 0);
}

#[test]
fn it_goes_on_until_the_server_goes() {
    let (server, at) = server();
    let mut child = fws(&["stat", "--admin", &at]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let heads = |line: &String| line.starts_with("fws ");
    assert!(lines.any(|line| heads(&line)) && lines.any(|line| heads(&line)));
    // Rates come with the second look.
    let deliveries = lines.find(|line| line.starts_with("deliveries")).unwrap();
    let rate = deliveries.split_whitespace().nth(2);
    assert_eq!(rate, Some("0"), "{deliveries}");
    server.stop();
    assert!(lines.all(|line| !line.contains('\x1b')));
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn without_a_door_it_says_how_to_open_one() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let line = bad(fws(&["stat", "--admin", &free.to_string()]), 1);
    assert_eq!(
        line,
        format!(
            "no admin door at {free}: start the server with `fws serve --admin 127.0.0.1:8086`, \
             and say here with --admin where it is"
        )
    );
    let server = Server::new();
    let ws = server.ws.to_string();
    let line = bad(fws(&["stat", "--admin", &ws]), 1);
    let start = format!("{ws} is no admin door: it answers 404 when asked for /metrics; ");
    assert!(line.starts_with(&start), "{line}");
    let line = bad(fws(&["stat", "--admin", &server.control.to_string()]), 1);
    assert!(!line.is_empty());
    let line = bad(fws(&["stat", "--admn", "x"]), 2);
    assert!(line.contains("did you mean --admin"), "{line}");
}

#[test]
fn an_address_that_others_can_reach_is_worth_a_word() {
    let ran = common::command::run(fws(&["check", "--admin", "0.0.0.0:8086"]));
    assert_eq!(ran.code, Some(0));
    assert!(ran.err.contains("warning: admin: whoever reaches 0.0.0.0:8086 sees"), "{}", ran.err);
    for loopback in ["127.0.0.1:8086", "[::1]:8086"] {
        good(fws(&["check", "--admin", loopback]));
    }
    let ran = common::command::run(fws(&["check", "--control", "10.0.0.5:8085"]));
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.err.contains("warning: control: keys go to 10.0.0.5:8085 as they are"),
        "{}",
        ran.err
    );
    good(fws(&["check", "--control", "[::1]:8085"]));
    let line = bad(fws(&["check", "--admin", "127.0.0.1:8085"]), 2);
    assert_eq!(
        line,
        "admin: 127.0.0.1:8085 is taken by control (127.0.0.1:8085): choose another port"
    );
}
