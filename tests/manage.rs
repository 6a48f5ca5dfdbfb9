//! The commands of an operator on the real binary: `fws rotate`, `remove`, `disconnect` and `push`.
#![allow(clippy::unwrap_used)] // a test that cannot go on panics

mod common;

use common::command::{at, bad, demo, good, run};
use common::server::{Options, Server};
use serde_json::json;

/// A server that has made its server key itself, and the key of its namespace `shop`.
fn with_shop() -> (Server, String) {
    let server = Server::start(&Options { key: None, ..Options::default() });
    let key = run(at(&server, &["register", "shop"])).out;
    (server, key.trim().to_owned())
}

#[test]
fn another_key_takes_the_place_of_the_first() {
    let (server, first) = with_shop();
    let path = server.dir().file("data/keys/shop");
    let ran = run(at(&server, &["rotate", "shop"]));
    assert_eq!(ran.err, format!("fws: the key is also kept in {}\n", path.display()));
    assert_eq!((ran.code, std::fs::read_to_string(&path).unwrap()), (Some(0), ran.out.clone()));
    assert_ne!(ran.out.trim(), first);
    assert_eq!(good(at(&server, &["emit", "shop", "news", "1"])), "sent\n");
    let with_key = |key: &str| at(&server, &["emit", "shop", "news", "1", "--key", key]);
    assert!(bad(with_key(&first), 1).contains("does not open"));

    // With a grace both are good.
    let second = ran.out.trim();
    let third = run(at(&server, &["rotate", "shop", "--grace", "3600"])).out;
    assert_ne!(third.trim(), second);
    for key in [second, third.trim()] {
        assert_eq!(good(with_key(key)), "sent\n");
    }

    assert_eq!(bad(at(&server, &["rotate", "nope"]), 1), "there is no namespace \"nope\"");
    let mut command = at(&server, &["rotate", "shop"]);
    command.env("FWS_SECRETKEY", "not-the-key-of-that-server");
    assert_eq!(bad(command, 1), "this is not the server key of that server");
    let line = bad(at(&server, &["rotate", "shop", "--grace", "99999999999"]), 1);
    assert_eq!(line, "the server says: Invalid argument params.grace (code 300)");
    // That of the file is another one from now on.
    let file = server.dir().file("config.json");
    let ran = run(at(&server, &["rotate", "demo", "--config", file.to_str().unwrap()]));
    let told = format!("warning: {} still has the key before", file.display());
    assert!(ran.code == Some(0) && ran.err.contains(&told), "{ran:?}");
    assert_eq!(good(at(&server, &["emit", "demo", "a", "1", "--key", ran.out.trim()])), "sent\n");
}

#[test]
fn a_namespace_is_removed_when_it_is_meant() {
    let (server, key) = with_shop();
    let mut browser = server.browser_of("shop", &key, r#"{"i":5}"#);
    let line = bad(at(&server, &["remove", "shop"]), 2);
    assert!(line.starts_with("this would remove namespace \"shop\" for good"), "{line}");
    assert_eq!(good(at(&server, &["emit", "shop", "news", "1"])), "sent\n");

    let ran = run(at(&server, &["remove", "shop", "--yes"]));
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "removed\n"));
    assert_eq!(ran.err, "fws: the key that was kept for it is removed as well\n");
    browser.expect_closed(3404, "site id not registered");
    assert!(!server.dir().file("data/keys/shop").exists());
    assert_eq!(bad(at(&server, &["remove", "shop", "--yes"]), 1), "there is no namespace \"shop\"");
    let again = run(at(&server, &["register", "shop"]));
    assert_eq!(again.code, Some(0), "the name is free: {again:?}");

    let file = server.dir().file("config.json");
    let words = ["remove", "other", "--yes", "--config", file.to_str().unwrap()];
    let ran = run(at(&server, &words));
    assert!(
        ran.code == Some(0) && ran.err.contains("it comes back with the next start"),
        "{ran:?}"
    );
}

#[test]
fn a_user_is_disconnected() {
    let server = Server::new();
    let disconnect = |user: &str| good(demo(&server, &["disconnect", "demo", user]));
    let mut browsers =
        [5, 5, 6].map(|user| server.browser("demo", &json!({ "i": user }).to_string()));
    assert_eq!(disconnect("5"), "closed 2 connections\n");
    let [first, second, other] = &mut browsers;
    for gone in [first, second] {
        gone.expect_closed(3403, "disconnected by the site");
    }
    other.nothing();
    assert_eq!(disconnect("6"), "closed 1 connection\n");
    assert_eq!(disconnect("7"), "closed 0 connections\n");
    let line = bad(demo(&server, &["disconnect", "demo", ""]), 2);
    assert_eq!(line, "the name of the user is empty");
}

#[test]
fn a_list_grows() {
    let server = Server::new();
    let run = |words: &[&str]| good(demo(&server, words));
    assert_eq!(run(&["push", "demo", "log", "door opened"]), "appended\n");
    assert_eq!(run(&["get", "demo", "log"]), "[\"door opened\"]\n");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.join("log");
    assert_eq!(
        run(&["push", "demo", "log", "2", "--emit", "--ttl", "3600"]),
        "appended and sent\n"
    );
    assert_eq!(run(&["get", "demo", "log"]), "[\"door opened\",2]\n");
    assert_eq!(run(&["push", "demo", "@seen", "null", "--user", "5"]), "appended\n");
    assert_eq!(run(&["get", "demo", "@seen", "--user", "5"]), "[null]\n");
    run(&["set", "demo", "price", "5"]);
    let line = bad(demo(&server, &["push", "demo", "price", "6"]), 1);
    assert_eq!(line, "the server says: State is not a list (code 314)");
}
