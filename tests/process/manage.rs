//! The operator's commands on the real binary: `fws register`, `rotate`, `remove`, `disconnect` and
//! `push`; their output for scripts; and the files they leave in the data folder.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::command::{at, bad, demo, fws, good, run};
use crate::common::control::{Control, frame};
use crate::common::eventually;
use crate::common::server::{
    DEMO_KEY, Dir, OTHER_KEY, Options, SERVER_KEY, Server, fill, on_small_disk,
};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

/// A server that made its own server key, and the key of its namespace `shop`.
fn with_shop() -> (Server, String) {
    let server = Server::start(&Options { key: None, ..Options::default() });
    let key = run(at(&server, &["register", "shop"])).out;
    (server, key.trim().to_owned())
}

/// As one who goes on after a trial, in the same folder: the next trial opens it again.
#[test]
fn the_namespace_that_a_trial_has_left_is_not_missed() {
    let config = |is_demo| json!({ "demo": is_demo, "namespaces": { "other": OTHER_KEY } });
    let trial = Server::start(&Options { config: config(true), ..Options::default() });
    let options = Options { config: config(false), ..Options::default() };
    let server = Server::start_in(trial.stop(), &options);
    assert!(!server.log().join(" ").contains("nobody can open"), "{:#?}", server.log());
    // Another one of that name is.
    let dir = server.stop();
    fs::remove_file(dir.file("data/keys/demo")).unwrap();
    Server::start_in(dir, &options).told("nobody can open namespace \"demo\"");
}

#[test]
fn rotate_replaces_the_key() {
    let (server, first) = with_shop();
    let path = server.dir().file("data/keys/shop");
    let ran = run(at(&server, &["rotate", "shop"]));
    assert_eq!(ran.err, format!("fws: the key is also kept in {}\n", path.display()));
    assert_eq!((ran.code, std::fs::read_to_string(&path).unwrap()), (Some(0), ran.out.clone()));
    assert_ne!(ran.out.trim(), first);
    assert_eq!(good(at(&server, &["emit", "shop", "news", "1"])), "sent\n");
    let with_key = |key: &str| at(&server, &["emit", "shop", "news", "1", "--key", key]);
    assert!(bad(with_key(&first), 1).contains("does not open"));

    // With a grace period both keys work.
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
    let says = "the server says: Invalid argument params.grace (code 300)";
    assert_eq!(line, format!("{says}; --grace is above its limit grace_seconds"));
    // The key in the configuration file is outdated from now on.
    let file = server.dir().file("config.json");
    let ran = run(at(&server, &["rotate", "demo", "--config", file.to_str().unwrap()]));
    let told = format!("warning: {} still has the key before", file.display());
    assert!(ran.code == Some(0) && ran.err.contains(&told), "{ran:?}");
    assert_eq!(good(at(&server, &["emit", "demo", "a", "1", "--key", ran.out.trim()])), "sent\n");
}

#[test]
fn remove_needs_confirmation() {
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

/// Of several concurrent rotations, the last one's key is valid: that one is stored.
#[test]
fn concurrent_rotations_keep_the_last_key() {
    let (server, _) = with_shop();
    for _ in 0..12 {
        let rotate = || at(&server, &["rotate", "shop"]).stdout(Stdio::null()).spawn().unwrap();
        for mut child in [rotate(), rotate(), rotate(), rotate()] {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(good(at(&server, &["emit", "shop", "news", "1"])), "sent\n");
    }
}

/// The data folder of a server on a small disk.
fn folder(server: &Server) -> PathBuf {
    let root = format!("/proc/{}/root", server.pid().as_raw_nonzero());
    Path::new(&root).join(server.dir().file("data").strip_prefix("/").unwrap())
}

/// Fills the server's disk, and waits until it has noticed.
fn fill_until_the_store_fails(server: &Server, control: &mut Control) {
    fill(&folder(server));
    let mut number = 0;
    eventually("the store fails", || {
        number += 1;
        let set = json!({"action": "set", "channel": number, "data": "x".repeat(20_000)});
        control.ask(&set.to_string()).contains("302").then_some(())
    });
}

fn reload(server: &Server, options: &Options) {
    fs::write(server.dir().file("config.json"), options.config.to_string()).unwrap();
    kill_process(server.pid(), Signal::HUP).unwrap();
}

#[track_caller]
fn assert_cannot_write(server: &Server, name: &str) {
    let told = server.told("reload: ");
    let why = format!("the store fails, and namespace {name:?} cannot be written to it");
    assert!(told.contains("nothing is changed") && told.ends_with(&why), "{told}");
}

/// A change that cannot be recorded is refused, for commands and reloads alike.
#[test]
fn a_removed_namespace_stays_removed_while_the_store_fails() {
    let (dir, mut options) = (Dir::new(), Options::default());
    let server = Server::spawn(on_small_disk(&options, &dir, 2), dir, false);
    let mut control = server.controller("demo");
    control
        .ok(&json!({"action": "removeNameSpace", "name": "other", "key": SERVER_KEY}).to_string());
    fill_until_the_store_fails(&server, &mut control);
    let reload = |options: &Options| reload(&server, options);
    options.config["limits"] = json!({ "name_bytes": 20 });
    reload(&options);
    assert_cannot_write(&server, "other");
    let auth = json!({"action": "auth", "name": "other", "sKey": OTHER_KEY}).to_string();
    assert!(control.ask(&auth).contains("404"));
    // A namespace that does not exist can be taken out of the file.
    options.config["namespaces"].as_object_mut().unwrap().remove("other");
    reload(&options);
    server.told("reload: done, 1 change");
    // And the file can always lock a namespace that it opened, whatever the state of the disk.
    options.config["namespaces"].as_object_mut().unwrap().remove("demo");
    reload(&options);
    server.told("nobody can open namespace \"demo\" any more");
}

/// Nor does a key from the file or the data folder replace one set by a command.
#[test]
fn a_key_set_by_a_command_stays_while_the_store_fails() {
    let (dir, mut options) = (Dir::new(), Options::default());
    let server = Server::spawn(on_small_disk(&options, &dir, 2), dir, false);
    let mut control = server.controller("demo");
    let mut manage = |action: &str, name: &str| {
        let reply = control.ask(
            &json!({ "action": action, "name": name, "key": SERVER_KEY, "params": {} }).to_string(),
        );
        serde_json::from_str::<Value>(&reply).unwrap()["secretKey"].clone()
    };
    manage("removeNameSpace", "other");
    let key = manage("registerNameSpace", "other");
    fill_until_the_store_fails(&server, &mut control);
    options.config["limits"] = json!({ "name_bytes": 20 });
    reload(&server, &options);
    assert_cannot_write(&server, "other");
    let auth = json!({ "action": "auth", "name": "other", "sKey": key }).to_string();
    control.ok(&auth);

    let (dir, mut options) = (Dir::new(), Options::default());
    options.config["namespaces"].as_object_mut().unwrap().remove("demo");
    options.config["demo"] = json!(true);
    let server = Server::spawn(on_small_disk(&options, &dir, 2), dir, false);
    let mut control = server.controller("other");
    // As `fws rotate` does.
    let rotate = json!({ "action": "rotateKey", "name": "demo", "key": SERVER_KEY });
    let reply: Value = serde_json::from_str(&control.ask(&rotate.to_string())).unwrap();
    let path = folder(&server).join("keys/demo");
    fs::write(&path, reply["secretKey"].as_str().unwrap()).unwrap();
    fill_until_the_store_fails(&server, &mut control);
    options.config["limits"] = json!({ "name_bytes": 20 });
    reload(&server, &options);
    assert_cannot_write(&server, "demo");
    // Without that file a new key would be made, but is not.
    fs::remove_file(&path).unwrap();
    reload(&server, &options);
    let refused = |log: Vec<String>| log.iter().filter(|it| it.contains("is changed")).count();
    eventually("the second reload is refused", || (refused(server.log()) == 2).then_some(()));
    assert!(!path.exists());
}

/// A command that has its key does not block others while it waits for a reader of its output.
#[test]
fn a_command_that_cannot_print_does_not_block_others() {
    let (server, _) = with_shop();
    let (_reader, writer) = std::io::pipe().unwrap();
    // Fill the pipe.
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    while (&writer).write(&[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    let stuck =
        |words: &[&str]| at(&server, words).stdout(writer.try_clone().unwrap()).spawn().unwrap();
    let registers = || {
        let mut child = at(&server, &["register", "blog"]).stdout(Stdio::null()).spawn().unwrap();
        assert!(eventually("the command ends", || child.try_wait().unwrap()).success());
    };
    let [shop, blog] = ["shop", "blog"].map(|name| server.dir().file("data/keys").join(name));
    let before = fs::read_to_string(&shop).unwrap();
    let rotates = stuck(&["rotate", "shop"]);
    eventually("the key file has changed", || {
        (fs::read_to_string(&shop).ok()? != before).then_some(())
    });
    registers();
    let removes = stuck(&["remove", "blog", "--yes"]);
    eventually("the key file is removed", || (!blog.exists()).then_some(()));
    registers();
    for mut child in [rotates, removes] {
        assert!(child.try_wait().unwrap().is_none(), "it is not blocked");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// A new key that could not be printed is not lost, if it is kept.
#[test]
fn a_key_that_could_not_be_printed_is_found_where_it_is_kept() {
    let (server, _) = with_shop();
    for words in [["register", "blog"], ["rotate", "shop"]] {
        let mut command = at(&server, &words);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        let ran = run(command);
        let (name, start) = (words[1], "fws: the key is also kept in ");
        let [kept, failed] = ran.err.lines().collect::<Vec<_>>()[..] else { panic!("{ran:?}") };
        assert!(kept.starts_with(start) && kept.ends_with(name), "{kept}");
        assert!(failed.starts_with("fws: cannot write to standard output: "), "{failed}");
        assert_eq!(ran.code, Some(1));
    }
}

/// A server that gives these replies to the commands of one connection, whatever they are.
fn replying(replies: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for reply in replies {
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            let mut rest = vec![0; u32::from_le_bytes(length) as usize + 1];
            stream.read_exact(&mut rest).unwrap();
            stream.write_all(&frame(reply.as_bytes())).unwrap();
        }
    });
    address
}

/// The disk has failed while the server had a change for it that the first reply would have shown.
#[test]
fn get_prints_no_refusal_as_a_state() {
    const DONE: &str = r#"{"success":true}"#;
    const LOST: &str = r#"{"success":false,"reason":"Error store, try latter...","code":302}"#;
    const INFO: &str = r#"{"countUser":0,"countConnection":0,"connId_UserId":{}}"#;
    let get = |replies| {
        let address = replying(replies).to_string();
        good(fws(&["get", "shop", "price", "--key", "k", "--control", &address]))
    };
    assert_eq!(get(&[DONE, LOST, "5"]), "5\n");
    // A state that looks like it is there again.
    assert_eq!(get(&[DONE, LOST, LOST, INFO]), format!("{LOST}\n"));
}

/// Returns the address of a web server.
fn speaking_http() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // Until the client has read it.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    address
}

/// The server is gone before it replies: what it has done is not known.
#[test]
fn a_command_without_a_reply_says_what_may_have_happened() {
    for (words, then) in [
        (&["register", "shop"][..], "then `fws rotate` prints a key for it"),
        (&["rotate", "shop"], "run it again"),
        (&["remove", "shop", "--yes"], "run it again"),
    ] {
        let address = replying(&[]).to_string();
        let mut command = fws(&[words, &["--control", &address]].concat());
        command.env("FWS_SECRETKEY", "a-server-key");
        let line = bad(command, 1);
        assert!(line.contains("all the same") && line.contains(then), "{line}");
    }
    // What is no fws server has certainly done nothing.
    let mut command = fws(&["rotate", "shop", "--control", &speaking_http()]);
    command.env("FWS_SECRETKEY", "a-server-key");
    assert!(bad(command, 1).ends_with("back ends have a port of their own"));
}

/// The output of the removal has no reader; the namespace is removed all the same, and its key.
#[test]
fn remove_deletes_the_key_file_even_if_it_cannot_print() {
    let (server, _) = with_shop();
    let mut command = at(&server, &["remove", "shop", "--yes"]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    assert!(!command.status().unwrap().success());
    assert!(!server.dir().file("data/keys/shop").exists());
}

#[test]
fn disconnect_closes_the_connections_of_a_user() {
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

/// A state that no subscriber would ever be sent is set, but with a warning.
#[test]
fn a_state_that_no_subscriber_is_sent_is_warned_of() {
    let server = Server::new();
    let warnings = |words: &[&str]| {
        let ran = run(demo(&server, words));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.err
    };
    let start = "fws: warning: nobody who subscribes is sent this state: ";
    let whose = warnings(&["set", "demo", "@cart", "1"]);
    assert_eq!(
        whose,
        format!("{start}in an @ channel each user has a state, and --user says whose this is\n")
    );
    let plain = warnings(&["push", "demo", "log", "1", "--user", "5"]);
    assert_eq!(plain, format!("{start}users have states of their own in @ channels alone\n"));
    assert_eq!(warnings(&["set", "demo", "@cart", "1", "--user", "5"]), "");
    assert_eq!(warnings(&["set", "demo", "@cart", "null"]), "");
}

/// A shell takes the quotes out of `{"text":"hello"}`, and what is left is text.
#[test]
fn broken_json_is_taken_as_a_string_with_a_warning() {
    let server = Server::new();
    let warnings = |words: &[&str]| {
        let ran = run(demo(&server, words));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.err
    };
    let warned = "fws: warning: DATA begins like JSON but is not, so it is taken as a string; in a \
                  shell, write '…' around JSON\n";
    assert_eq!(warnings(&["emit", "demo", "news", "{text:hello}"]), warned);
    assert_eq!(warnings(&["push", "demo", "log", " [1,2"]), warned);
    assert_eq!(warnings(&["emit", "demo", "news", "{}"]), "");
    assert_eq!(warnings(&["set", "demo", "price", "door {opened}"]), "");
}

#[test]
fn push_appends_to_a_list() {
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

/// Temporary files that `kill -9` left are removed by the next write in the folder, and by the next
/// start; other files are not, whatever their names.
#[test]
fn temporary_files_left_by_a_kill_are_removed() {
    let (server, _) = with_shop();
    let [data, keys] = ["data", "data/keys"].map(|folder| server.dir().file(folder));
    let left = |folder: &std::path::Path| folder.join(".new-0123456789abcdef");
    let foreign = [".new-notes", ".new-0123456789abcdeg", ".new-0123456789ABCDEF", "new-old"];
    let (folder, link) = (".new-00000000000000aa", ".new-00000000000000bb");
    for place in [&data, &keys] {
        fs::write(left(place), "half a ke").unwrap();
        for name in foreign {
            fs::write(place.join(name), "mine").unwrap();
        }
        fs::create_dir(place.join(folder)).unwrap();
        std::os::unix::fs::symlink("shop", place.join(link)).unwrap();
    }
    // This one is being written at the moment.
    let busy = keys.join(".new-00000000000000cc");
    let writer = File::create(&busy).unwrap();
    writer.lock().unwrap();
    let all_but = |place: &std::path::Path| {
        assert!(!left(place).exists(), "{}", place.display());
        let others = foreign.iter().chain([&folder, &link]);
        others.for_each(|name| assert!(place.join(name).symlink_metadata().is_ok(), "{name}"));
    };
    assert_eq!(run(at(&server, &["register", "blog"])).code, Some(0));
    all_but(&keys);
    assert!(busy.exists());
    drop(writer);

    fs::write(left(&keys), "half a ke").unwrap();
    let dir = server.stop();
    let _server = Server::start_in(dir, &Options { key: None, ..Options::default() });
    all_but(&data);
    all_but(&keys);
    assert!(!busy.exists());
}

#[test]
fn commands_print_json_for_scripts() {
    let (server, _) = with_shop();
    let object = |words: &[&str]| -> Value {
        let ran = run(at(&server, &[words, &["--json"]].concat()));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    };
    let path = server.dir().file("data/keys/blog").display().to_string();
    for command in ["register", "rotate"] {
        let said = object(&[command, "blog"]);
        let key = fs::read_to_string(&path).unwrap();
        let expected = json!({"namespace": "blog", "key": key.trim_end(), "file": path});
        assert_eq!(said, expected);
    }
    let mut browser = server.browser("demo", r#"{"i":"5"}"#);
    browser.subscribe("news");
    let with_key = |words: &[&str]| object(&[words, &["--key", DEMO_KEY]].concat());
    let said = with_key(&["info", "demo", "news"]);
    assert_eq!([&said["users"], &said["connections"]], [1, 1]);
    assert_eq!(said["members"][0]["user"], "5");
    assert!(said["members"][0]["id"].as_str().is_some_and(|id| !id.is_empty()), "{said}");
    let nobody = json!({"users": 0, "connections": 0, "members": []});
    assert_eq!(with_key(&["info", "demo", "nothing"]), nobody);
    assert_eq!(with_key(&["emit", "demo", "news", "1"]), json!({"connections": 1}));
    let mut watch = demo(&server, &["watch", "demo", "news", "--count", "1", "--json"]);
    let watch = watch.spawn().unwrap();
    while with_key(&["info", "demo", "news"])["connections"] == 1 {}
    with_key(&["emit", "demo", "news", "{\"a\":[1,\"\\t\"]}"]);
    let heard = String::from_utf8(watch.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(heard, "{\"channel\":\"news\",\"data\":{\"a\":[1,\"\\t\"]}}\n");
    assert_eq!(with_key(&["disconnect", "demo", "5"]), json!({"connections": 1}));
}

#[test]
fn token_and_store_checks_print_json_for_scripts() {
    let check = |words: &[&str]| {
        let ran = run(fws(&[&["token", "--json", "--check"], words].concat()));
        (ran.code, serde_json::from_str::<Value>(&ran.out).unwrap(), ran.err)
    };
    let with_key = ["--key", DEMO_KEY];
    let token = good(fws(&[&["token", "demo", "5", "--ttl", "60"], &with_key[..]].concat()));
    let token = token.trim_end();
    let (code, said, err) = check(&[&[token, "demo"], &with_key[..]].concat());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(said["header"], json!({"typ": "JWT", "alg": "HS256"}));
    assert_eq!(said["payload"]["i"], "5");
    assert_eq!(said["expires"], said["payload"]["exp"]);
    assert_eq!((&said["valid"], &said["user"]), (&json!(true), &json!("5")));
    assert_eq!(said["signature_checked"], true);
    let (code, said, _) = check(&[token]);
    assert_eq!((code, &said["signature_checked"]), (Some(0), &json!(false)));
    let (code, said, err) = check(&[token, "demo", "--key", "another"]);
    assert_eq!((code, &said["valid"]), (Some(1), &json!(false)));
    let wrong = said["wrong"].as_str().unwrap();
    assert_eq!(err, format!("fws: not valid: {wrong}\n"));
    let (code, said, _) = check(&["no.token"]);
    assert_eq!((code, &said["header"], &said["user"]), (Some(1), &Value::Null, &Value::Null));

    let (server, _) = with_shop();
    let dir = server.stop();
    let data = dir.file("data").display().to_string();
    let said = good(fws(&["store", "check", "--data", &data, "--json"]));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["file"], format!("{data}/store.redb"));
    assert_eq!([&said["format"], &said["namespaces"]], [2, 3]);
    assert!(said["file_bytes"].as_u64() > Some(0) && said["states"] == 0, "{said}");
}
