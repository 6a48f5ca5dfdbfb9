//! The command line of the real binary: its output, on which stream, and its exit codes.

use crate::common::command::{at, bad, demo, fws, good, run};
use crate::common::server::{DEMO_KEY, Dir, Options, SERVER_KEY, Server, mode};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Stdio;

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a file of ours");
}

#[test]
fn every_command_has_help() {
    let overview = good(fws(&[]));
    assert_eq!(overview, good(fws(&["--help"])));
    assert_eq!(overview, good(fws(&["help"])));
    let group = good(fws(&["store", "--help"]));
    for name in [
        "serve",
        "check",
        "register",
        "rotate",
        "remove",
        "token",
        "emit",
        "set",
        "push",
        "get",
        "info",
        "grant",
        "revoke",
        "disconnect",
        "watch",
        "stat",
        "bench",
        "doctor",
        "store",
        "store check",
        "store export",
        "store import",
        "store import-redis",
    ] {
        let list = if name.contains(' ') { &group } else { &overview };
        assert!(list.contains(&format!("\n  {name} ")), "{name}");
        let with = |before: &[&'static str], after: &[&'static str]| {
            let words: Vec<&str> = name.split(' ').collect();
            good(fws(&[before, &words, after].concat()))
        };
        let help = with(&[], &["--help"]);
        assert_eq!(help, with(&["help"], &[]));
        assert_eq!(help, with(&[], &["-h", "--no-such-flag"]));
        for part in [format!("usage: fws {name} "), "options:".into(), "examples:".into()] {
            assert!(help.contains(&part), "{help}");
        }
    }
    assert_eq!(good(fws(&["--version"])), concat!("fws ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_mistyped_command_or_flag_exits_with_2_and_a_suggestion() {
    for (words, line) in [
        (&["emti"][..], "there is no command \"emti\" (did you mean emit?)"),
        (&["help", "chek"], "there is no command \"chek\" (did you mean check?)"),
        (&["frobnicate"], "there is no command \"frobnicate\" (see `fws --help`)"),
        (&["-v"], "-v: a command comes first (see `fws --help`)"),
        (&["--demo"], "--demo: a command comes first, as in `fws serve --demo` (see `fws --help`)"),
        (&["store", "chek"], "there is no command \"store chek\" (did you mean check?)"),
        (&["store", "x"], "there is no command \"store x\" (see `fws store --help`)"),
        (&["store", "check", "--dta", "x"], "--dta: there is no such flag (did you mean --data?)"),
        (
            &["store", "import-redis"],
            "usage: fws store import-redis URL [OPTION…] (see `fws store import-redis --help`)",
        ),
        (&["serve", "--contol", "x"], "--contol: there is no such flag (did you mean --control?)"),
        (&["register", "--x"], "--x: there is no such flag (see `fws register --help`)"),
        (&["register", "--x=5"], "--x: there is no such flag (see `fws register --help`)"),
        (&["serve", "--xyzzy"], "--xyzzy: there is no such flag (see `fws serve --help`)"),
        (&["serve", "--ws"], "--ws: a value is missing: ADDR:PORT"),
        (&["serve", "--demo=1"], "--demo: takes no value"),
        (&["check", "--ws", "a:1", "--ws", "b:2"], "--ws: comes twice"),
        (&["check", "more"], "usage: fws check [OPTION…] (see `fws check --help`)"),
        (&["emit", "shop"], "usage: fws emit NAME CHANNEL DATA [OPTION…] (see `fws emit --help`)"),
        (&["watch", "shop"], "usage: fws watch NAME CHANNEL… [OPTION…] (see `fws watch --help`)"),
        (&["token", "shop", ""], "the name of the user is empty"),
        (
            &["token", "shop", "5", "--ttl", "0"],
            "--ttl: \"0\" is not a number of seconds from 1 on",
        ),
        (&["emit", "shop", "a", "b", "--user", ""], "--user: the name of the user is empty"),
        (&["emit", "", "a", "b"], "the name of the namespace is empty"),
        (&["register", ""], "the name of the namespace is empty"),
        (&["emit", "shop", "", "b"], "the name of the channel is empty"),
        (&["watch", "shop", "a", ""], "the name of the channel is empty"),
        (&["grant", "shop", "#vip", ""], "the name of the user is empty"),
        (
            &["emit", "shop", "a", "-x"],
            "-x: there is no such flag; before words that begin with - write --, as in `fws emit \
             -- …`",
        ),
        (
            &["grant", "shop", "vip", "5"],
            "\"vip\" is open to all users: the name of a private channel begins with #",
        ),
    ] {
        assert_eq!(bad(fws(words), 2), line);
    }
}

#[test]
fn check_escapes_control_characters() {
    let dir = Dir::new();
    let file = dir.file("fws.json");
    let name = "a\u{9b}31m\u{1b}]0;b\nlimits:";
    let config = json!({ "namespaces": { name: "its-key-0123456789" }, "data": "/a\nb" });
    std::fs::write(&file, config.to_string()).unwrap();
    set_mode(&file, 0o600);
    let text = good(fws(&["check", "--config", file.to_str().unwrap()]));
    let obeyed = |c: char| c.is_control() && c != '\n';
    assert!(!text.contains(obeyed) && text.matches("\nlimits:").count() == 1, "{text:?}");
    let name_shown = r"a\u{9b}31m\u{1b}]0;b\nlimits:";
    assert!(text.lines().any(|line| line.contains(name_shown)), "{text}");
    let text = good(fws(&["check", "--json", "--config", file.to_str().unwrap()]));
    assert!(!text.trim_end().contains(char::is_control), "{text:?}");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["namespaces"][0], &json["data"]), (&json!(name), &json!("/a\nb")));
}

#[test]
fn check_shows_the_settings_that_serve_would_use() {
    let text = good(fws(&["check"]));
    for line in [
        "ws            0.0.0.0:8080           default",
        "control       127.0.0.1:8085         default",
        "control_unix  not set                default",
        "admin         not set                default",
        "data          ./fws-data             default",
        "secret_key    in the data folder     default",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let json: Value = serde_json::from_str(&good(fws(&["check", "--json"]))).unwrap();
    let limits = json["limits"].as_object().unwrap();
    assert!(limits.len() > 20 && limits["message_bytes"] == 16_384);
    for name in limits.keys() {
        assert!(text.lines().any(|line| line.split(' ').next() == Some(name)), "{name}");
    }

    let dir = Dir::new();
    let file = dir.file("fws.json");
    let config = json!({ "ws": "1.1.1.1:1", "control": "127.1.1.1:2", "data": "/file",
        "namespaces": { "shop": "its-key-0123456789" },
        "limits": { "name_bytes": 100, "auth_ms": 200 } });
    std::fs::write(&file, config.to_string()).unwrap();
    set_mode(&file, 0o600);
    let mut command = fws(&["check", "--json", "--data", "/flag", "--limit", "auth_ms=300"]);
    command.env("FWS_CONFIG_FILE", &file).env("FWS_LISTEN_CONTROL", "127.2.2.2:2");
    command.env("FWS_DATA_DIR", "/environment").env("FWS_SYNC", "250ms");
    let mut json: Value = serde_json::from_str(&good(command)).unwrap();
    assert_eq!(json["limits"]["name_bytes"], 100);
    assert_eq!(json["limits"]["auth_ms"], 300);
    json.as_object_mut().unwrap().remove("limits");
    let expected = json!({ "ws": "1.1.1.1:1", "ws_unix": null, "control": "127.2.2.2:2",
        "control_unix": null, "admin": null, "data": "/flag", "store": "redb", "sync": "250ms",
        "demo": false, "allow_origin": [], "trusted_proxy": [], "secret_key": "not set",
        "namespaces": ["shop"],
        "sockjs": { "cookie": false, "jsonp": true, "htmlfile": true, "script": null } });
    assert_eq!(json, expected);
}

#[test]
fn a_wrong_setting_exits_with_2_and_one_line() {
    let dir = Dir::new();
    let file = dir.file("fws.json");
    let path = file.to_str().unwrap();
    for (words, variable, text, start) in [
        (&["--ws", ":80"][..], None, "", "--ws: \":80\" is not ADDR:PORT: write 0.0.0.0:80"),
        (
            &["--limit", "auth_s=5"],
            None,
            "",
            "--limit: there is no limit \"auth_s\" (did you mean auth_ms?)",
        ),
        (&["--config", "/no/such"], None, "", "--config: cannot read /no/such: "),
        (&[], Some(("FWS_LISTEN_WS", "x")), "", "FWS_LISTEN_WS: \"x\" is not ADDR:PORT"),
        (
            &[],
            Some(("FWS_SECRET_KEY", "x")),
            "",
            "FWS_SECRET_KEY: there is no such variable (did you mean FWS_SECRETKEY?)",
        ),
        (&[], Some(("FWS_SECRETKEY", "")), "", "FWS_SECRETKEY: the key is empty"),
        (
            &[],
            Some(("FWS_SECRETKEY", "asd82nvakadfs")),
            "",
            "FWS_SECRETKEY: this is the sample key of the original",
        ),
        (&[], None, "{\"limit\":{}}", "limit: there is no such key (did you mean limits?)"),
        (&[], None, "{\"portWS\":1}", "portWS: this is a key of the original server; write \"ws\""),
        (&[], None, "{\"ws\":\"x\",\"ws\":\"x\"}", "the key \"ws\" comes twice"),
        (&[], None, "\u{feff}{\"portWS\":1}", "portWS: this is a key of the original server"),
    ] {
        for name in ["check", "serve"] {
            let mut command = fws(&[name]);
            command.args(words).envs(variable);
            let mut start = start.to_string();
            if !text.is_empty() {
                std::fs::write(&file, text).unwrap();
                command.args(["--config", path]);
                start = format!("{path}: {start}");
            }
            let line = bad(command, 2);
            assert!(line.starts_with(&start), "{line}");
        }
    }
}

#[test]
fn kubernetes_service_variables_are_ignored() {
    let mut command = fws(&["check"]);
    for (name, value) in [
        ("FWS_PORT", "tcp://10.0.0.1:8080"),
        ("FWS_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("FWS_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("FWS_PORT_8080_TCP_PORT", "8080"),
        ("FWS_PORT_8080_TCP_PROTO", "tcp"),
        ("FWS_SERVICE_HOST", "10.0.0.1"),
        ("FWS_SERVICE_PORT", "8080"),
        ("FWS_SERVICE_PORT_CONTROL", "8085"),
        ("FWS_WS_PORT", "tcp://10.0.0.1:8080"),
        ("FWS_WS_SERVICE_HOST", "10.0.0.1"),
        ("FWS_DEMO_SERVICE_HOST", "10.0.0.1"),
        ("FWS_SHOP_SERVICE_PORT_WS", "8080"),
    ] {
        command.env(name, value);
    }
    assert_eq!(good(command), good(fws(&["check"])));
}

#[test]
fn no_key_is_ever_printed() {
    let dir = Dir::new();
    let file = dir.file("fws.json");
    let text = json!({ "secret_key": "hush-0123456789abcdef", "namespaces": { "shop": "hush" } });
    std::fs::write(&file, text.to_string()).unwrap();
    set_mode(&file, 0o640);
    let path = file.to_str().unwrap();
    for words in [&["check", "--config", path][..], &["check", "--json", "--config", path]] {
        let ran = run(fws(words));
        assert_eq!(ran.code, Some(0));
        assert!(ran.out.contains("shop") && !ran.out.contains("hush"), "{ran:?}");
        let warning = format!("fws: warning: {path} holds keys and others may read it");
        assert!(ran.err.starts_with(&warning) && !ran.err.contains("hush"), "{ran:?}");
    }
    for wrong in [
        json!({ "secret_key": ["hush"] }).to_string(),
        json!({ "namespaces": { "shop": { "hush": "hush" } } }).to_string(),
        json!({ "namespaces": "hush" }).to_string(),
        "{\"secret_key\":\"hush".into(),
        "\"hush\"".into(),
        json!({ "secret_key": "hush", "namespaces": { "shop": "hush" } }).to_string(),
    ] {
        std::fs::write(&file, &wrong).unwrap();
        let line = bad(fws(&["check", "--config", path]), 2);
        assert!(!line.contains("hush"), "{line}");
    }
}

#[test]
fn a_closed_output_stream_causes_no_panic() {
    let mut child = fws(&["check"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));

    let mut child = fws(&["chekc"]).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = fws(&["check"]);
    command.stdout(full);
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.starts_with("fws: cannot write to standard output: "), "{err}");
}

#[test]
fn tokens_are_made_and_explained() {
    let with_key = |words: &[&str]| {
        let mut command = fws(words);
        command.env("FWS_NAMESPACE_KEY", DEMO_KEY);
        command
    };
    let token = good(with_key(&["token", "demo", "bob"]));
    let token = token.trim_end();
    // The example in protocol part 8.
    assert_eq!(
        token,
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJpIjoiYm9iIn0\
         ._uYdDuz987-d2j1AC0ttpgbIe7wQ9xjRQc8eEGj54Mw"
    );
    let said = "header:  {\"typ\":\"JWT\",\"alg\":\"HS256\"}\npayload: {\"i\":\"bob\"}\n";
    let valid = format!("{said}user:    bob\nvalid\n");
    assert_eq!(good(with_key(&["token", "--check", token])), valid);
    assert_eq!(good(fws(&["token", "--check", token, "demo", "--key", DEMO_KEY])), valid);
    let unsure = good(fws(&["token", "--check", token]));
    assert!(unsure.ends_with("valid, if the signature is: without the key it was not checked\n"));

    let ran = run(fws(&["token", "--check", token, "demo", "--key", "another"]));
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), said));
    assert_eq!(ran.err, "fws: not valid: signature does not match the key\n");
    let ran = run(fws(&["token", "--check", "not.a.token"]));
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), ""));
    assert!(ran.err.starts_with("fws: not valid: "), "{ran:?}");

    // A number other than 0; but not a name, because JavaScript would print it as 1e+30.
    let number = "eyJhbGciOiJIUzI1NiJ9.eyJpIjoxZTMwfQ.eA";
    let ran = run(fws(&["token", "--check", number]));
    assert!(ran.err.starts_with("fws: not valid: i is no name: ") && ran.err.contains("exponent"));

    // An unverified token may contain anything: no escape sequence reaches the terminal.
    let evil = "eyJhbGciOiJIUzI1NiIsIngiOiJ/In0.eyJpIjoiYlx1MDAxYlszMW0ifQ.eA";
    let ran = run(fws(&["token", "--check", evil]));
    assert!(!ran.out.contains(|c: char| c.is_control() && c != '\n'), "{ran:?}");
    let user = good(with_key(&["token", "demo", "\u{1b}[31mred\u{7f}"]));
    let ran = run(with_key(&["token", "--check", user.trim_end()]));
    assert!(ran.out.contains("user:    \\u{1b}[31mred\\u{7f}\n"), "{ran:?}");
    assert!(!ran.out.contains(|c: char| c.is_control() && c != '\n'), "{ran:?}");

    let brief = good(with_key(&["token", "demo", "5", "--ttl", "3600"]));
    let checked = good(with_key(&["token", "--check", brief.trim_end()]));
    assert!(checked.contains("\nexpires: 20") && checked.ends_with(" s\nvalid\n"), "{checked}");

    let dir = Dir::new();
    let data = dir.file("data");
    let line = bad(fws(&["token", "demo", "5", "--data", data.to_str().unwrap()]), 1);
    assert!(line.starts_with("no key for namespace \"demo\": give it with --key or"), "{line}");
    // The signature was not checked, so it is not called wrong.
    let words = ["token", "--check", token, "demo", "--data", data.to_str().unwrap()];
    assert_eq!(bad(fws(&words), 2), line);
}

#[test]
fn a_token_that_the_server_would_refuse_is_not_made() {
    let (longest, longer) = ("u".repeat(255), "u".repeat(256));
    let token = |user: &str, more: &[&str]| {
        let mut command = fws(&["token", "demo", user, "--key", DEMO_KEY]);
        command.args(more);
        command
    };
    let dir = Dir::new();
    let good_token = good(token(&longest, &[]));
    assert!(good(fws(&["token", "--check", good_token.trim_end()])).contains("valid"));
    let why = "the user has 256 bytes, the most is 255 (limit name_bytes)";
    assert_eq!(bad(token(&longer, &[]), 2), why);
    // With a server whose limit allows it, it is made.
    let file = dir.file("long.json");
    std::fs::write(&file, r#"{"limits":{"name_bytes":300}}"#).unwrap();
    let long_token = good(token(&longer, &["--config", file.to_str().unwrap()]));
    let ran = run(fws(&["token", "--check", long_token.trim_end()]));
    assert_eq!((ran.code, ran.err), (Some(1), format!("fws: not valid: {why}\n")));
}

#[test]
fn an_unreachable_server_is_reported_with_its_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = free.to_string();
    let line = format!("no server at {at}: is `fws serve` running?");
    let socket = Dir::new().file("none.sock");
    let unix = format!("no server at unix:{}: is `fws serve` running?", socket.display());
    assert_eq!(bad(fws(&["get", "a", "b", "--key", "k", "--control", &at]), 1), line);
    assert_eq!(bad(fws(&["watch", "a", "b", "--key", "k", "--ws", &at]), 1), line);
    let mut command = fws(&["get", "a", "b", "--key", "k", "--control-unix"]);
    command.arg(socket);
    assert_eq!(bad(command, 1), unix);
    let mut command = fws(&["register", "a", "--data", "/nowhere"]);
    command.env("FWS_LISTEN_CONTROL", at).env("FWS_SECRETKEY", "0123456789abcdef");
    assert_eq!(bad(command, 1), line);
}

#[test]
fn a_control_port_given_as_another_port_is_recognised() {
    let server = Server::start(&Options::default());
    let port = server.control.to_string();
    let line = bad(demo(&server, &["watch", "demo", "a", "--ws", &port]), 1);
    assert!(line.contains("as the port for back ends does; --ws takes the port"), "{line}");
    let line = bad(fws(&["stat", "--once", "--admin", &port]), 1);
    let start = format!("{port} is no admin door: it closed without an answer, as the port for");
    assert!(line.starts_with(&start), "{line}");
}

#[test]
fn a_data_folder_that_is_a_file_is_refused() {
    let dir = Dir::new();
    let file = dir.file("file");
    std::fs::write(&file, "").unwrap();
    let mut command = fws(&["serve", "--ws", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"]);
    let ran = run({
        command.arg(&file);
        command
    });
    let said = format!("fws: {}: it is no folder\n", file.display());
    assert!(ran.code == Some(1) && ran.err.ends_with(&said), "{ran:?}");
}

#[test]
fn an_address_without_a_port_is_refused() {
    for (flag, words) in [
        ("control", &["emit", "a", "b", "1", "--key", "k"][..]),
        ("ws", &["watch", "a", "b", "--key", "k"]),
        ("admin", &["stat", "--once"]),
        #[cfg(feature = "bench")]
        ("control", &["bench", "control", "--key", "k"]),
    ] {
        for place in ["127.0.0.1", "127.0.0.1:", ":8080", "::1", "localhost:http"] {
            let mut command = fws(words);
            command.args([format!("--{flag}"), place.to_owned()]);
            assert_eq!(bad(command, 2), format!("--{flag}: {place:?} is not HOST:PORT"));
        }
        let mut command = fws(words);
        command.args([format!("--{flag}"), "fd00::1:80".into()]);
        let hint = ": an IPv6 address stands in brackets, as in [fd00::1]:80";
        let expected = format!("--{flag}: \"fd00::1:80\" is not HOST:PORT{hint}");
        assert_eq!(bad(command, 2), expected);
    }
}

#[test]
fn register_keeps_the_key_wherever_the_server_key_comes_from() {
    let server = Server::new();
    let data = server.dir().file("data");
    assert_eq!(mode(&data), 0o700);
    let mut command = at(&server, &["register", "shop"]);
    command.env("FWS_SECRETKEY", SERVER_KEY);
    let ran = run(command);
    let path = data.join("keys/shop");
    assert_eq!(ran.err, format!("fws: the key is also kept in {}\n", path.display()));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), ran.out);
    assert_eq!(good(at(&server, &["emit", "shop", "news", "hello"])), "sent\n");
    // On another machine that folder does not exist, and the user is told.
    let mut command = at(&server, &["register", "other shop"]);
    command.env("FWS_SECRETKEY", SERVER_KEY).env("FWS_DATA_DIR", "/nowhere");
    let ran = run(command);
    assert_eq!(ran.err, "fws: the key is not kept here: there is no folder /nowhere (--data)\n");
    assert_eq!((ran.code, ran.out.len()), (Some(0), 37));
}

#[test]
fn a_server_key_that_others_may_read_is_warned_of() {
    let dir = Server::start(&Options { key: None, ..Options::default() }).stop();
    let path = dir.file("data/server.key");
    let options = Options { key: None, ..Options::default() };
    let told = format!("{} holds the server key and others may read it", path.display());
    let server = Server::start_in(dir, &options);
    assert!(!server.log().join("\n").contains(&told));
    set_mode(&path, 0o644);
    let server = Server::start_in(server.stop(), &options);
    assert!(server.log().join("\n").contains(&told), "{:#?}", server.log());
}

#[test]
fn a_namespace_is_registered_and_its_key_is_kept() {
    // No server key is configured: the first start makes one.
    let server = Server::start(&Options { key: None, ..Options::default() });
    let kept = server.dir().file("data/server.key");
    assert_eq!(mode(&kept), 0o600);
    let server_key = std::fs::read_to_string(&kept).unwrap();

    let ran = run(at(&server, &["register", "my shop"]));
    let path = server.dir().file("data/keys/my%20shop");
    let told = format!("fws: the key is also kept in {}\n", path.display());
    assert_eq!((ran.code, ran.err), (Some(0), told));
    assert_eq!((ran.out.len(), ran.out.lines().count()), (37, 1), "a key and nothing else");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), ran.out);
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));

    let busy = bad(at(&server, &["register", "my shop"]), 1);
    assert_eq!(busy, "there is a namespace \"my shop\" already");
    let mut command = at(&server, &["register", "other shop"]);
    command.env("FWS_SECRETKEY", "not-the-key-of-that-server");
    assert_eq!(bad(command, 1), "this is not the server key of that server");
    assert_eq!(good(at(&server, &["emit", "my shop", "news", "hello"])), "sent\n");

    let log = server.log().join("\n");
    assert!(log.contains(&kept.display().to_string()), "{log}");
    for secret in [server_key.trim(), ran.out.trim(), "hello"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn states_and_grants_are_set_and_read() {
    let server = Server::new();
    let run = |words: &[&str]| good(demo(&server, words));
    assert_eq!(run(&["get", "demo", "price"]), "null\n");
    assert_eq!(run(&["set", "demo", "price", "9.90", "--ttl", "3600"]), "set\n");
    assert_eq!(run(&["get", "demo", "price"]), "9.90\n");
    assert_eq!(run(&["set", "demo", "@cart", "a b", "--user", "5", "--emit"]), "set and sent\n");
    assert_eq!(run(&["get", "demo", "@cart", "--user", "5"]), "\"a b\"\n");
    assert_eq!(run(&["get", "demo", "@cart", "--user", "6"]), "null\n");
    assert_eq!(run(&["set", "demo", "price", "null"]), "removed\n");
    assert_eq!(run(&["get", "demo", "price"]), "null\n");
    assert_eq!(run(&["set", "demo", "price", "-5", "--emit"]), "set and sent\n");
    assert_eq!(run(&["get", "demo", "price"]), "-5\n");
    assert_eq!(run(&["set", "demo", "@cart", "--user", "-7", "-1.5e3"]), "set\n");
    assert_eq!(run(&["get", "demo", "@cart", "--user=-7"]), "-1.5e3\n");
    assert_eq!(run(&["emit", "demo", "news", "--", "-5"]), "sent\n");
    let error = r#"{"success":false,"reason":"like an error","code":1}"#;
    run(&["set", "demo", "odd", error]);
    assert_eq!(run(&["get", "demo", "odd"]), format!("{error}\n"));
    let long = "x".repeat(256);
    let line = bad(demo(&server, &["get", "demo", &long]), 1);
    assert!(line.starts_with("the server says: ") && line.ends_with("(code 300)"), "{line}");
    let line = bad(demo(&server, &["get", "demo", "odd", "--user", &long]), 1);
    assert!(line.starts_with("the server says: Argument params.userId is too long"), "{line}");
    let line = bad(demo(&server, &["set", "demo", "price", "1", "--ttl", "99999999999"]), 1);
    assert!(line.ends_with("; --ttl is above its limit ttl_seconds"), "{line}");
    assert_eq!(run(&["info", "demo", "price"]), "0 users, 0 connections\n");
    assert_eq!(run(&["grant", "demo", "#vip", "5"]), "user 5 may join #vip\n");
    assert_eq!(run(&["revoke", "demo", "#vip", "5"]), "user 5 may no longer join #vip\n");
    // Names may come from others, so control characters in them are escaped.
    let (channel, user) = ("#\u{9b}2J", "\u{1b}]0;x\n");
    let shown = r"user \u{1b}]0;x\n may join #\u{9b}2J";
    assert_eq!(run(&["grant", "demo", channel, user]), format!("{shown}\n"));
    let shown = shown.replace("may join", "may no longer join");
    assert_eq!(run(&["revoke", "demo", channel, user]), format!("{shown}\n"));

    let line = bad(at(&server, &["get", "demo", "x", "--key", "wrong"]), 1);
    assert!(line.starts_with("the key from --key does not open namespace \"demo\""), "{line}");
    let line = bad(at(&server, &["get", "nope", "x", "--key", "wrong"]), 1);
    assert!(line.starts_with("there is no namespace \"nope\""), "{line}");
    let ws = server.ws.to_string();
    let line = bad(at(&server, &["get", "demo", "x", "--key", "k", "--control", &ws]), 1);
    assert!(line.starts_with(&format!("{ws}: ")), "{line}");
}

#[test]
fn a_dash_reads_data_from_standard_input() {
    let server = Server::new();
    for (input, state) in
        [("two words\n", "\"two words\"\n"), ("{\"a\":\n1.0}\n", "{\"a\":\n1.0}\n")]
    {
        let mut command = demo(&server, &["set", "demo", "long", "-"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
        let got = good(demo(&server, &["get", "demo", "long"]));
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parse(&got), parse(state));
    }
}

#[test]
fn commands_work_over_the_unix_socket() {
    let server = Server::start(&Options { unix: true, ..Options::default() });
    let mut command = fws(&["emit", "demo", "a", "b", "--count", "--key", DEMO_KEY]);
    command.arg("--control-unix").arg(server.socket());
    assert_eq!(good(command), "sent to 0 connections\n");
}

#[test]
fn commands_find_the_key_of_the_demo_namespace() {
    let server = Server::start(&Options { config: json!({ "demo": true }), ..Options::default() });
    let emitted = good(at(&server, &["emit", "demo", "news", "hello", "--count"]));
    assert_eq!(emitted, "sent to 0 connections\n");
}
