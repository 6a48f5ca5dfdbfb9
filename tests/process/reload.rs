//! SIGHUP on the real binary: limits and keys are read again, all of them or none, and the log
//! states the result.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use crate::common::browser::Browser;
use crate::common::command::{bad, fws, good, run};
use crate::common::control::{Control, DONE, PING};
use crate::common::server::{DEMO_KEY, Dir, OTHER_KEY, Options, SERVER_KEY, Server};
use crate::common::web::Http;
use crate::common::{DEADLINE, eventually};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

#[track_caller]
fn assert_says(lines: &[String], what: &str) {
    assert!(lines.iter().any(|line| line.ends_with(what)), "{what}: {lines:#?}");
}

fn register(name: &str, server_key: &str) -> String {
    format!(r#"{{"action":"registerNameSpace","name":"{name}","key":"{server_key}"}}"#)
}

fn auth(control: &mut Control, name: &str, key: &str) -> String {
    control.ask(&format!(r#"{{"action":"auth","name":"{name}","sKey":"{key}"}}"#))
}

#[test]
fn reloaded_limits_apply_from_then_on() {
    let mut options = Options::limits(&[("connections_per_user", 2), ("message_bytes", 2000)]);
    let mut server = Server::start(&options);
    let mut one = server.browser("demo", r#"{"i":1}"#);
    let mut two = server.browser("demo", r#"{"i":1}"#);
    for channel in ["a", "b"] {
        one.subscribe(channel);
    }
    options.config["limits"] = json!({ "connections_per_user": 1, "channels_per_connection": 1,
        "messages_per_second": 30, "connections": 500, "kernel_send_bytes": 500_000,
        "namespaces": 50, "tcp_user_timeout_ms": 5000, "store_retry_ms": 100,
        "metrics_namespaces": 300, "control_commands_per_turn": 2 });
    let said = server.reload_with(&options.config);
    assert_says(&said, "reload: connections_per_user is 1, was 2");
    assert_says(&said, "reload: channels_per_connection is 1, was 128");
    // The limit, not the setting of the same name, whose changes have other lines.
    assert_says(&said, "reload: namespaces is 50, was 100000");
    assert_says(
        &said,
        "warning: reload: store_retry_ms needs a restart to be 100: it is still 400",
    );
    let metrics = "warning: reload: metrics_namespaces needs a restart to be 300: it is still 100";
    assert_says(&said, metrics);
    assert_says(&said, "reload: message_bytes is 16384, was 2000");
    assert_says(&said, "reload: message_unauthenticated_bytes is 4096, was 2000");
    // Fewer connections leave room for more of other things, on a machine with little memory.
    let changes =
        said.iter().filter(|line| line.contains("fws: reload: ") && line.contains(" is "));
    assert_says(&said, &format!("reload: done, {} changes", changes.count()));
    // Existing connections and subscriptions stay, even those over the new limit.
    let mut control = server.controller("demo");
    control.ok(r#"{"action":"emit","channel":"b","data":1}"#);
    one.expect(r#"{"event":"b","data":1}"#);
    two.nothing();
    let mut third = Browser::raw(server.ws);
    third.say(&format!(
        r#"{{"event":"auth","data":{{"i":"demo","s":"{}"}}}}"#,
        crate::common::token::token(r#"{"i":1}"#, DEMO_KEY)
    ));
    third.expect_closed(3429, "too many connections");
    two.subscribe("c");
    two.say(r#"{"event":"subscribe","clb":7,"data":"d"}"#);
    let refused = two.hear();
    assert!(refused.contains("at most 1"), "{refused}");
    let mut said = server.reload();
    said.retain(|line| !line.contains("may be guessed"));
    assert_eq!(said.len(), 3, "a second time nothing was to be changed: {said:#?}");
    server.assert_alive();
}

#[test]
fn a_raised_admission_rate_admits_newcomers_at_once() {
    let mut options = Options::limits(&[("admissions_per_second", 2)]);
    let mut server = Server::start(&options);
    for _ in 0..50 {
        drop(server.browser("demo", r#"{"i":1}"#));
    }
    options.config["limits"] = json!({});
    server.rewrite(&options.config);
    assert_says(&server.reload(), "reload: admissions_per_second is 20000, was 2");
    // At 2 per second, the 50 admissions would have delayed this one by 25 seconds.
    drop(server.browser("demo", r#"{"i":1}"#));
    server.assert_alive();
}

#[test]
fn a_new_address_cap_counts_open_connections() {
    let mut options = Options::default();
    let server = Server::start(&options);
    let mut here: Vec<_> = (0..60).map(|_| server.browser("demo", r#"{"i":1}"#)).collect();
    options.config["limits"] = json!({ "connections_per_address": 59 });
    server.reload_with(&options.config);
    let ask = || {
        let mut http = Http::connect(server.ws);
        (http.ask("GET /socket", &[], "").status, http)
    };
    assert_eq!(ask().0, 503);
    here.truncate(58);
    let _last = eventually("there is room", || Some(ask()).filter(|(status, _)| *status == 200));
    assert_eq!(ask().0, 503);
}

#[test]
fn a_new_address_cap_counts_proxy_connections_for_their_clients() {
    let mut options = Options::default();
    options.config["trusted_proxy"] = json!(["127.0.0.1"]);
    let server = Server::start(&options);
    let client = |number: usize| format!("X-Forwarded-For: 192.0.2.{number}");
    let ask = |http: &mut Http, number| {
        let header = client(number);
        http.ask("GET /socket", &[&header], "").status
    };
    let mut kept: Vec<Http> = (0..3).map(|_| Http::connect(server.ws)).collect();
    kept.iter_mut().for_each(|http| assert_eq!(ask(http, 1), 200));
    options.config["limits"] = json!({ "connections_per_address": 2 });
    server.reload_with(&options.config);
    // Each counts from its next request on. A request that names no client counts for no address,
    // not even the proxy's.
    let [first, second, third] = &mut kept[..] else { panic!("three are kept") };
    assert_eq!([ask(first, 1), ask(second, 1)], [200, 200]);
    assert_eq!(third.ask("GET /socket", &[], "").status, 200);
    assert_eq!(ask(&mut Http::connect(server.ws), 1), 503);
    assert_eq!(ask(third, 2), 200);
    assert_eq!(ask(third, 1), 503);
}

#[test]
fn a_push_over_a_lowered_bytes_limit_may_shorten_the_list() {
    let mut options = Options::default();
    let server = Server::start(&options);
    let mut control = server.controller("demo");
    let push = |item: &str| json!({ "action": "push", "channel": "c", "data": item }).to_string();
    (0..50).for_each(|_| control.ok(&push(&"x".repeat(100))));
    options.config["limits"] = json!({ "list_items": 10, "states_bytes_per_namespace": 3000 });
    server.reload_with(&options.config);
    control.ok(&push("last"));
    let list: Value =
        serde_json::from_str(&control.ask(r#"{"action":"get","channel":"c"}"#)).unwrap();
    assert_eq!((list.as_array().unwrap().len(), &list[9]), (10, &json!("last")));
    assert!(control.ask(&push(&"x".repeat(2500))).contains("Too many bytes of states"));
}

#[test]
fn a_lowered_unauthenticated_limit_evicts_only_for_newcomers() {
    let mut options = Options::limits(&[("sessions_unauthenticated", 4), ("auth_ms", 3_600_000)]);
    let server = Server::start(&options);
    let mut unauthenticated: Vec<Browser> = (0..4).map(|_| Browser::raw(server.ws)).collect();
    options.config["limits"] = json!({ "sessions_unauthenticated": 1, "auth_ms": 100 });
    server.rewrite(&options.config);
    assert_says(&server.reload(), "reload: sessions_unauthenticated is 1, was 4");
    let mut newcomer = Browser::raw(server.ws);
    unauthenticated.remove(0).expect_closed(3408, "no auth in time");
    // A newcomer has the shorter deadline; the existing sessions keep the old one, and stay.
    newcomer.expect_closed(3408, "no auth in time");
    for browser in &mut unauthenticated {
        browser.nothing();
    }
    unauthenticated[0].auth("demo", r#"{"i":1}"#);
}

#[test]
fn a_backlog_over_a_lowered_limit_closes_the_slow_consumer() {
    let mut options = Options::default();
    let server = Server::start(&options);
    let mut slow = server.browser("demo", r#"{"i":1}"#);
    slow.subscribe("c");
    let mut control = server.controller("demo");
    // The first fills the kernel's buffer, the others queue behind it.
    // Of each, a quarter of the limit counts.
    for bytes in [8_000_000, 40_000, 40_000, 40_000, 40_000, 40_000] {
        let data = "x".repeat(bytes);
        control.ok(&format!(r#"{{"action":"emit","channel":"c","data":"{data}"}}"#));
    }
    options.config["limits"] = json!({ "backlog_bytes": 20_000, "backlog_ms": 0 });
    server.rewrite(&options.config);
    assert_says(&server.reload(), "reload: backlog_bytes is 20000, was 262144");
    control.ok(r#"{"action":"emit","channel":"c","data":"one more"}"#);
    let told = |line: &String| line.contains("refused: slow_consumer 1");
    server.terminate();
    eventually("it is closed", || server.log().iter().any(told).then_some(()));
}

#[test]
fn an_invalid_configuration_changes_nothing() {
    let mut options = Options::default();
    let mut server = Server::start(&options);
    let good = options.config.clone();
    let file = server.dir().file("config.json");
    let limits = |limits: Value| json!({ "namespaces": good["namespaces"], "limits": limits });
    let five = json!({ "a": "k", "b": "k", "c": "k", "demo": DEMO_KEY, "other": OTHER_KEY });
    for (config, wrong) in [
        (limits(json!({ "name_bytes": 20, "messages": 5 })), "there is no limit \"messages\""),
        (limits(json!({ "name_bytes": 20, "message_bytes": 1 })), "is not between"),
        (json!({ "namespaces": five, "limits": { "namespaces": 4 } }), "room for 4"),
        (json!({ "namespaces": { "demo": SERVER_KEY } }), "also the key of namespace"),
    ] {
        let said = server.reload_with(&config);
        assert_eq!(said.len(), 1, "{said:#?}");
        let start = "error: reload: nothing is changed, all stays as it was: ";
        assert!(said[0].contains(start) && said[0].contains(wrong), "{said:#?}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(server.reload()[0].contains("cannot read"));
    // A FIFO without a writer would block the server for ever.
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
    assert!(server.reload()[0].contains("it is no regular file"));
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, vec![b' '; (16 << 20) + 1]).unwrap();
    assert!(server.reload()[0].contains("it has more than 16 MiB"));
    // Nothing has changed: a name of 21 bytes is still accepted.
    let mut control = server.control();
    control.ask(&register("a-name-of-21-bytes-xx", SERVER_KEY));
    assert!(auth(&mut control, "demo", DEMO_KEY) == DONE);
    options.config["limits"] = json!({ "name_bytes": 20 });
    server.rewrite(&options.config);
    assert_says(&server.reload(), "reload: done, 1 change");
    let refused = control.ask(&register("b-name-of-21-bytes-xx", SERVER_KEY));
    assert!(refused.contains("at most 20 bytes"), "{refused}");
    server.assert_alive();
}

#[test]
fn a_refused_reload_creates_no_demo_key() {
    let config = json!({ "demo": true, "namespaces": { "other": OTHER_KEY } });
    let mut options = Options { config, ..Options::default() };
    let server = Server::start(&options);
    let mut control = server.control();
    for name in ["a", "b"] {
        control.ask(&register(name, SERVER_KEY));
    }
    let key = server.dir().file("data/keys/demo");
    std::fs::remove_file(&key).unwrap();
    options.config["namespaces"]["c"] = json!(DEMO_KEY);
    options.config["limits"] = json!({ "namespaces": 3 });
    let said = server.reload_with(&options.config);
    assert!(said.iter().any(|line| line.contains("no room for namespace \"c\"")), "{said:#?}");
    assert!(!key.exists(), "a key was made for the demo, which is not in use");
    options.config["limits"] = json!({ "namespaces": 5 });
    server.rewrite(&options.config);
    assert_says(&server.reload(), "the key of namespace \"demo\" is another one");
    let key = std::fs::read_to_string(&key).unwrap();
    assert_eq!(auth(&mut control, "demo", key.trim()), DONE);
}

#[test]
fn namespace_keys_follow_the_configuration_file() {
    let options = Options::default();
    let server = Server::start(&options);
    let mut old = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    old.ok(r#"{"action":"set","channel":"c","data":1}"#);
    let said =
        server.reload_with(&json!({ "namespaces": { "demo": "another key", "third": "its key" } }));
    assert_says(&said, "reload: the key of namespace \"demo\" is another one");
    assert_says(&said, "reload: namespace \"third\" is new");
    assert_says(&said, "reload: nobody can open namespace \"other\" any more");
    assert!(!said.iter().any(|line| line.contains("another key")), "{said:#?}");
    // The old key is invalid, also on connections that had authenticated with it.
    let refused = old.ask(r#"{"action":"emit","channel":"c","data":2}"#);
    assert!(refused.contains("\"success\":false"), "{refused}");
    assert!(auth(&mut server.control(), "demo", DEMO_KEY).contains("305"));
    assert!(auth(&mut server.control(), "other", OTHER_KEY).contains("305"));
    assert_eq!(auth(&mut server.control(), "third", "its key"), DONE);
    let mut new = server.control();
    assert_eq!(auth(&mut new, "demo", "another key"), DONE);
    assert_eq!(new.ask(r#"{"action":"get","channel":"c"}"#), "1");
    new.ok(r#"{"action":"emit","channel":"c","data":3}"#);
    browser.expect(r#"{"event":"c","data":3}"#);
    // What a restart finds is the same.
    let config = std::fs::read_to_string(server.dir().file("config.json")).unwrap();
    let config = serde_json::from_str(&config).unwrap();
    let server = Server::start_in(server.stop(), &Options { config, ..options });
    assert!(auth(&mut server.control(), "other", OTHER_KEY).contains("305"));
    let mut new = server.control();
    assert_eq!(auth(&mut new, "demo", "another key"), DONE);
    assert_eq!(new.ask(r#"{"action":"get","channel":"c"}"#), "1");
}

#[test]
fn a_reload_compares_keys_with_those_in_use() {
    let server = Server::new();
    let mut control = server.control();
    let made: Value = serde_json::from_str(&control.ask(&register("shop", SERVER_KEY))).unwrap();
    let key = made["secretKey"].as_str().expect("a key");
    assert_eq!(auth(&mut control, "shop", key), DONE);
    // The file gives it another key; after a removal, the next reload restores it from the file.
    let both = json!({ "namespaces": { "demo": DEMO_KEY, "other": OTHER_KEY, "shop": "k" } });
    let said = server.reload_with(&both);
    assert_says(&said, "reload: the key of namespace \"shop\" is another one");
    assert_says(&said, "reload: done, 1 change");
    let remove = format!(r#"{{"action":"removeNameSpace","name":"shop","key":"{SERVER_KEY}"}}"#);
    control.ok(&remove);
    let said = server.reload();
    assert_says(&said, "reload: namespace \"shop\" is new");
    assert_says(&said, "reload: done, 1 change");
    assert_says(&server.reload(), "reload: nothing was to be changed");
}

#[test]
fn a_restored_namespace_is_logged_at_reload_but_not_at_start() {
    let options = Options::default();
    let server = Server::start(&options);
    let demo = json!({ "namespaces": { "demo": DEMO_KEY } });
    server.rewrite(&demo);
    assert_says(&server.reload(), "reload: nobody can open namespace \"other\" any more");
    server.rewrite(&json!({ "namespaces": { "demo": DEMO_KEY, "other": OTHER_KEY } }));
    assert_says(&server.reload(), "reload: namespace \"other\" can be opened again");
    let server = Server::start_in(server.stop(), &options);
    assert!(
        !server.log().iter().any(|line| line.contains("key of namespace")),
        "{:#?}",
        server.log()
    );
}

fn rotate(server: &Server, grace: u32) -> String {
    let params = json!({ "grace": grace });
    let rotate =
        json!({ "action": "rotateKey", "name": "demo", "key": SERVER_KEY, "params": params });
    let made = server.control().ask(&rotate.to_string());
    let made: Value = serde_json::from_str(&made).unwrap();
    made["secretKey"].as_str().expect("a key").to_owned()
}

#[test]
fn writing_a_rotated_key_into_the_file_keeps_the_grace_period() {
    let options = Options::default();
    let server = Server::start(&options);
    let mut old = server.controller("demo");
    let key = rotate(&server, 3600);
    let mut new = server.control();
    assert_eq!(auth(&mut new, "demo", &key), DONE);
    server.rewrite(&json!({ "namespaces": { "demo": key, "other": OTHER_KEY } }));
    assert_says(&server.reload(), "reload: nothing was to be changed");
    for control in [&mut old, &mut new] {
        control.ok(r#"{"action":"set","channel":"c","data":1}"#);
    }
    assert_eq!(auth(&mut server.control(), "demo", DEMO_KEY), DONE);
    server.browser("demo", r#"{"i":1}"#);
    // What a restart finds is the same.
    let config = json!({ "namespaces": { "demo": key, "other": OTHER_KEY } });
    let server = Server::start_in(server.stop(), &Options { config, ..options });
    assert!(!server.log().iter().any(|line| line.contains("key of namespace")));
    for key in [&key, DEMO_KEY] {
        assert_eq!(auth(&mut server.control(), "demo", key), DONE);
    }
}

#[test]
fn a_key_removed_from_the_file_loses_its_grace_period() {
    let options = Options::default();
    let server = Server::start(&options);
    let mut old = server.controller("demo");
    let key = rotate(&server, 3600);
    let config = json!({ "namespaces": { "other": OTHER_KEY } });
    let said = server.reload_with(&config);
    let but = "but with the key that rotateKey has given it";
    assert_says(&said, &format!("reload: nobody can open namespace \"demo\" any more {but}"));
    assert_says(&said, "reload: done, 1 change");
    assert!(old.ask(r#"{"action":"get","channel":"c"}"#).contains("311"));
    assert!(auth(&mut server.control(), "demo", DEMO_KEY).contains("305"));
    assert_eq!(auth(&mut server.control(), "demo", &key), DONE);
    let server = Server::start_in(server.stop(), &Options { config, ..options });
    assert!(auth(&mut server.control(), "demo", DEMO_KEY).contains("305"));
    assert_eq!(auth(&mut server.control(), "demo", &key), DONE);
    // The file has it again, and the rest of its grace with it.
    let both = json!({ "namespaces": { "demo": DEMO_KEY, "other": OTHER_KEY } });
    let said = server.reload_with(&both);
    assert_says(&said, "reload: namespace \"demo\" can be opened with its former key again");
    assert_eq!(auth(&mut server.control(), "demo", DEMO_KEY), DONE);
    assert_says(&server.reload(), "reload: nothing was to be changed");
}

#[test]
fn a_start_names_the_namespaces_that_no_key_opens() {
    let options = Options::default();
    let server = Server::start(&options);
    let nobody = "nobody can open namespace";
    assert!(!server.log().iter().any(|line| line.contains(nobody)), "{:#?}", server.log());
    let config = json!({ "namespaces": { "demo": DEMO_KEY } });
    let server = Server::start_in(server.stop(), &Options { config, ..options });
    let said = server.log();
    let why = "it has no key, and the configuration does not name it (fws rotate makes one)";
    assert_says(&said, &format!("fws: {nobody} \"other\": {why}"));
    assert_eq!(said.iter().filter(|line| line.contains(nobody)).count(), 1, "{said:#?}");
}

#[test]
fn a_reload_of_many_namespaces_logs_few_lines() {
    let server = Server::start(&Options::limits(&[("namespaces", 30_000)]));
    let many: serde_json::Map<String, Value> =
        (0..20_000).map(|n| (format!("n{n}"), format!("key {n}").into())).collect();
    let config = json!({ "namespaces": many, "limits": { "namespaces": 30_000 } });
    let said = server.reload_with(&config);
    assert!(said.len() < 50, "{} lines", said.len());
    assert_says(&said, "warning: namespaces: and 19980 more keys like these");
    assert_says(&said, "reload: and 19982 more like these");
    // A reload compares each namespace once, however many there are.
    assert_says(&server.reload(), "reload: nothing was to be changed");
}

#[test]
fn a_reload_reads_the_server_key_again() {
    let server = Server::start(&Options { key: None, ..Options::default() });
    let file = server.dir().file("data").join("server.key");
    let first = std::fs::read_to_string(&file).unwrap();
    let mut control = server.control();
    assert!(control.ask(&register("one", first.trim())).contains("true"));
    std::fs::write(&file, "a key of another kind\n").unwrap();
    assert_says(&server.reload(), "reload: the server key is another one");
    assert!(control.ask(&register("two", first.trim())).contains("306"));
    assert!(control.ask(&register("two", "a key of another kind")).contains("true"));
    std::fs::remove_file(&file).unwrap();
    let told = server.reload().remove(0);
    assert!(told.contains("there is no server key"), "{told}");
    assert!(told.ends_with(": put it back, or restart, which makes one"), "{told}");
    assert!(!file.exists(), "no key is made");
    assert!(control.ask(&register("three", "a key of another kind")).contains("true"));
}

#[test]
fn short_keys_are_warned_about_at_start_and_each_reload() {
    let mut options = Options { key: None, ..Options::default() };
    options.config = json!({ "namespaces": { "shop": "short" } });
    let dir = Dir::new();
    std::fs::create_dir_all(dir.file("data")).unwrap();
    let file = dir.file("data/server.key");
    std::fs::write(&file, "brief\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = Server::start_in(dir, &options);
    let why = "is shorter than 16 characters and may be guessed";
    let namespace = format!("warning: namespaces: the key of \"shop\" {why}");
    let key = format!("warning: {}: the server key {why}", file.display());
    assert_says(&server.log(), &namespace);
    server.told(&key);
    let said = server.reload();
    assert_says(&said, &namespace);
    assert_says(&said, &key);
    // With good keys there is no warning.
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    server.rewrite(&json!({ "namespaces": { "shop": "744099b2-3fcf-4f3b-8364" } }));
    assert!(!server.reload().iter().any(|line| line.contains("warning")), "{:#?}", server.log());
}

#[test]
fn settings_that_need_a_restart_are_named() {
    let options = Options::default();
    let server = Server::start(&options);
    let mut config = options.config.clone();
    config["store"] = json!("none");
    config["admin"] = json!("127.0.0.1:0");
    config["allow_origin"] = json!(["https://example.org"]);
    server.rewrite(&config);
    for _ in 0..2 {
        let said = server.reload();
        assert_says(&said, "warning: reload: store needs a restart to be none: it is still redb");
        let admin = "warning: reload: admin needs a restart to be 127.0.0.1:0: it is still not set";
        assert_says(&said, admin);
    }
    let get = |site: &str| {
        let origin = format!("Origin: {site}");
        crate::common::http::request(server.ws, "GET /socket/info", &[&origin]).unwrap().status
    };
    assert_eq!((get("https://example.org"), get("https://example.com")), (200, 403));
    assert_eq!(server.control().ask(PING), DONE);
}

#[test]
fn a_reload_notifies_the_service_manager() {
    let dir = Dir::new();
    let path = dir.file("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = || {
        let mut bytes = [0; 256];
        let count = manager.recv(&mut bytes).expect("a notification");
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let mut command = Options::default().command(&dir);
    command.env("NOTIFY_SOCKET", &path);
    let server = Server::spawn(command, dir, false);
    assert_eq!(hear(), "READY=1");
    server.reload();
    assert_eq!(hear(), "RELOADING=1");
    assert_eq!(hear(), "READY=1\nSTATUS=reload: nothing was to be changed");
    server.stop();
}

#[test]
fn a_reload_while_stopping_is_refused_in_the_log() {
    let server = Server::new();
    let _browser = server.browser("demo", r#"{"i":1}"#);
    server.terminate();
    let has = |text: &str| server.log().iter().any(|line| line.contains(text));
    eventually("the stop is logged", || has("stopping").then_some(()));
    kill_process(server.pid(), Signal::HUP).unwrap();
    eventually("it is logged", || has("nothing is read again, the server stops").then_some(()));
}

#[test]
fn repeated_reload_signals_disturb_no_connection() {
    let mut server = Server::new();
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    for n in 0..200 {
        kill_process(server.pid(), Signal::HUP).unwrap();
        control.ok(&format!(r#"{{"action":"emit","channel":"c","data":{n}}}"#));
        browser.expect(&format!(r#"{{"event":"c","data":{n}}}"#));
    }
    assert_eq!(control.ask(PING), DONE);
    server.assert_alive();
}

#[test]
fn a_back_end_with_a_revoked_key_must_authenticate_in_time() {
    let mut options = Options::limits(&[("control_auth_ms", 400)]);
    let server = Server::start(&options);
    let mut other = server.controller("other");
    let mut registered = |name| {
        let reply: Value = serde_json::from_str(&other.ask(&register(name, SERVER_KEY))).unwrap();
        let mut control = server.control();
        assert_eq!(auth(&mut control, name, reply["secretKey"].as_str().unwrap()), DONE);
        control
    };
    let [mut rotated, mut removed] = ["shop", "gone"].map(&mut registered);
    let [mut silent, mut again] = [(); 2].map(|()| server.controller("demo"));
    // None of them sends anything meanwhile.
    options.config["namespaces"]["demo"] = json!("another-key");
    server.reload_with(&options.config);
    assert_eq!(auth(&mut again, "demo", "another-key"), DONE);
    silent.expect_closed();
    let grace = json!({ "grace": 1 });
    let rotate = json!({ "action": "rotateKey", "name": "shop", "key": SERVER_KEY,
        "params": grace });
    assert!(other.ask(&rotate.to_string()).contains("true"));
    other
        .ok(&json!({ "action": "removeNameSpace", "name": "gone", "key": SERVER_KEY }).to_string());
    removed.expect_closed();
    rotated.ok(PING);
    rotated.expect_closed();
    again.ok(PING);
    other.ok(PING);
}

/// The unit runs `fws check` first, with all flags that the server was started with, so that
/// `systemctl reload` fails with the error, which the server would report only in its log.
#[test]
fn the_service_unit_checks_the_configuration_before_a_reload() {
    let unit = include_str!("../../packaging/fws.service");
    let lines = |name: &str| -> Vec<&str> {
        unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
    };
    let (start, reload) = (lines("ExecStart"), lines("ExecReload"));
    let flags = start[0].strip_prefix("/usr/local/bin/fws serve ").unwrap();
    let check = format!("/usr/local/bin/fws check --quiet {flags}");
    assert_eq!(reload, [check.as_str(), "/bin/kill -HUP $MAINPID"]);

    let (dir, data) = (Dir::new(), Dir::new());
    let (file, data) = (dir.file("fws.json"), data.file("data").display().to_string());
    let flags = flags.replace("${STATE_DIRECTORY}", &data);
    let flags = flags.replace("/etc/fws.json", file.to_str().unwrap());
    let check = || fws(&[vec!["check", "--quiet"], flags.split(' ').collect()].concat());
    // A mere warning does not prevent the reload; the server logs it.
    std::fs::write(&file, r#"{"namespaces":{"shop":"short"}}"#).unwrap();
    assert_eq!(good(check()), "");
    std::fs::write(&file, r#"{"limits":{"mesage_bytes":5}}"#).unwrap();
    assert!(bad(check(), 2).contains("did you mean message_bytes"));
    // An invalid server key does; a full disk may have left the file empty.
    let key = std::path::Path::new(&data).join("server.key");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(&file, r#"{"namespaces":{"shop":"the-key-of-the-shop"}}"#).unwrap();
    // A server that got past its configuration would fail at this port, which is taken.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    for (text, wrong) in [
        ("\n", "server.key: the key is empty"),
        ("the-key-of-the-shop\n", "the server key is also the key of namespace \"shop\""),
    ] {
        std::fs::write(&key, text).unwrap();
        let said = bad(check(), 2);
        assert!(said.contains(wrong), "{said}");
        // A server does not start with what each reload would refuse.
        let ran = run(fws(&[vec!["serve", "--ws", &taken], flags.split(' ').collect()].concat()));
        assert!(ran.code == Some(1) && ran.err.contains(wrong), "{ran:?}");
    }
}
