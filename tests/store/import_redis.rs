//! `fws store import-redis` from a real Redis with the data of an original server, and with data
//! that it would not have written.
#![cfg(feature = "import-redis")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::command::{bad, fws, good, run};
use crate::common::server::{Dir, Options, Server};
use crate::common::{DEADLINE, eventually};
use serde_json::{Value, json};

/// A Redis process on a unix socket. Killed when dropped.
struct Redis {
    child: Child,
    socket: PathBuf,
    wire: BufReader<UnixStream>,
}

impl Redis {
    fn start(dir: &Dir) -> Redis {
        let socket = dir.file("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(&socket).arg("--dir").arg(socket.parent().unwrap());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("redis-server, which scripts/setup installs");
        let wire = eventually("Redis listens", || UnixStream::connect(&socket).ok());
        wire.set_read_timeout(Some(DEADLINE)).unwrap();
        Redis { child, socket, wire: BufReader::new(wire) }
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Sends a command; returns the first line of the answer.
    fn ask(&mut self, words: &[&[u8]]) -> String {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.wire.get_mut().write_all(&bytes).unwrap();
        let mut line = String::new();
        self.wire.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends a command; returns the text of the answer.
    fn text(&mut self, words: &[&[u8]]) -> String {
        let length = self.ask(words).strip_prefix('$').unwrap().parse::<usize>().unwrap();
        let mut text = vec![0; length + 2];
        self.wire.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        assert_eq!(self.ask(&[b"SET", key, value]), "+OK");
    }

    fn namespace(&mut self, name: &str, key: &str) {
        self.set(format!("LaWS_Server:name_spaces:{name}").as_bytes(), key.as_bytes());
    }

    fn state(&mut self, rest: &str, value: &str) {
        self.set(format!("LaWS_Server:store:{rest}").as_bytes(), value.as_bytes());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn import(url: &str, more: &[&str], data: &Path) -> Command {
    let mut command = fws(&["store", "import-redis", url]);
    command.args(more).arg("--data").arg(data);
    command
}

/// The states in a store, as `NAMESPACE|USER|CHANNEL|DATA`, in order.
fn states(data: &Path) -> Vec<String> {
    let mut command = fws(&["store", "export"]);
    command.arg("--data").arg(data);
    let lines = good(command);
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut states: Vec<String> = lines
        .filter(|line| line["kind"] == "state")
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            let (namespace, user) = (text("namespace"), text("user"));
            format!("{namespace}|{user}|{}|{}", text("channel"), line["data"])
        })
        .collect();
    states.sort();
    states
}

#[test]
fn data_of_an_original_server_is_imported() {
    let dir = Dir::new();
    let mut redis = Redis::start(&dir);
    redis.namespace("shop", "22222222-2222-4222-8222-222222222222");
    redis.namespace("мир мира", "k2");
    redis.state("shop:news", "{\"text\":\"hello\"}");
    redis.state("shop:#vip", " [1, 2.0] ");
    redis.state("shop:5:@cart", "9007199254740993");
    redis.state("мир мира:канал", "\"\\u043f\"");
    redis.state("shop:soon", "1");
    redis.state("shop:later", "2");
    let key = |rest: &str| format!("LaWS_Server:store:{rest}").into_bytes();
    assert_eq!(redis.ask(&[b"PEXPIRE", &key("shop:soon"), b"1"]), ":1");
    assert_eq!(redis.ask(&[b"EXPIRE", &key("shop:later"), b"3600"]), ":1");
    // Keys of others.
    redis.set(b"LaWS_Server:other", b"x");
    redis.set(b"unrelated", b"x");
    for i in 0..3000 {
        redis.state(&format!("shop:many{i}"), &i.to_string());
    }
    eventually("the state expires", || {
        (redis.ask(&[b"EXISTS", &key("shop:soon")]) == ":0").then_some(())
    });

    let data = dir.file("data");
    let before = redis.text(&[b"INFO", b"commandstats"]);
    assert!(!before.contains("cmdstat_scan:"));
    let said = good(import(&redis.url(), &[], &data));
    assert_eq!(said, "imported 2 namespaces, 0 grants, 3005 states\n");
    let used = redis.text(&[b"INFO", b"commandstats"]);
    assert!(used.contains("cmdstat_scan:") && !used.contains("cmdstat_keys:"), "{used}");

    let server = Server::start_in(dir, &Options { config: json!({}), ..Options::default() });
    let mut control = server.control();
    let auth = json!({ "action": "auth", "name": "shop",
        "sKey": "22222222-2222-4222-8222-222222222222" });
    assert_eq!(control.ask(&auth.to_string()), r#"{"success":true}"#);
    for (channel, user, expected) in [
        ("news", None, r#"{"text":"hello"}"#),
        ("#vip", None, "[1, 2.0]"),
        ("@cart", Some("5"), "9007199254740993"),
        ("later", None, "2"),
        ("soon", None, "null"),
        ("many2999", None, "2999"),
    ] {
        let get = json!({ "action": "get", "channel": channel, "params": { "userId": user } });
        assert_eq!(control.ask(&get.to_string()), expected, "{channel}");
    }
    let dir = server.stop();
    let mut command = fws(&["store", "export"]);
    command.arg("--data").arg(dir.file("data"));
    let saved = good(command);
    let later = saved.lines().find(|line| line.contains("\"later\"")).unwrap();
    let expires = serde_json::from_str::<Value>(later).unwrap()["expires"].as_u64().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let left = expires - now.as_millis() as u64;
    assert!((3_500_000..=3_600_500).contains(&left), "{left}");
}

/// Ambiguous keys (reference part 10), and some that no server would have written.
fn fill_with_ambiguous_keys(redis: &mut Redis) {
    for (rest, value) in [
        ("shop:news", "1"),
        // User 1 in channel x, or channel 1:x.
        ("shop:1:x", "2"),
        ("shop:1:2:x", "3"),
        // Namespace a with channel b:c (or user b in c), or namespace a:b with channel c.
        ("a:b:c", "4"),
        ("a:b:@c", "5"),
        ("a:c", "6"),
        ("gone:x", "7"),
        ("shop:", "8"),
        ("shop:text", "no JSON"),
        ("shop:deep", &"[".repeat(100)),
        ("shop:nothing", "null"),
    ] {
        redis.state(rest, value);
    }
    redis.set(b"LaWS_Server:store:shop:\xff", b"1");
    redis.set(b"LaWS_Server:store:shop:bytes", b"\"\xff\"");
    assert_eq!(redis.ask(&[b"LPUSH", b"LaWS_Server:store:shop:list", b"1"]), ":1");
    assert_eq!(redis.ask(&[b"LPUSH", b"LaWS_Server:name_spaces:list", b"1"]), ":1");
}

#[test]
fn ambiguous_keys_are_left_out_and_reported() {
    let dir = Dir::new();
    let mut redis = Redis::start(&dir);
    redis.namespace("shop", "k");
    redis.namespace("a", "k");
    redis.namespace("a:b", "k");
    redis.namespace("none", "");
    fill_with_ambiguous_keys(&mut redis);

    let data = dir.file("data");
    let ran = run(import(&redis.url(), &[], &data));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.out, "imported 3 namespaces, 0 grants, 2 states\n");
    assert_eq!(states(&data), ["a|-|c|6", "shop|-|news|1"]);
    let key = |rest: &str| format!("fws: left out \"LaWS_Server:{rest}\": ");
    let mut told: Vec<&str> = ran.err.lines().collect();
    assert_eq!(
        told.pop(),
        Some("fws: 13 keys left out: 4 ambiguous, 2 not JSON, 1 of no namespace, 6 of no use")
    );
    told.sort_unstable();
    let of_user = |rest: &str, user: &str, channel: &str| {
        let place = format!("{user}:{channel}");
        let start = key(&format!("store:shop:{rest}"));
        format!(
            "{start}it may be of channel {place:?}, or of user {user:?} in {channel:?} (see \
             --colon)"
        )
    };
    let expected = [
        key("name_spaces:list") + "there is no key in it",
        key("name_spaces:none") + "there is no key in it",
        key("store:a:b:@c") + "it may be of namespace \"a\" or \"a:b\"",
        key("store:a:b:c") + "it may be of namespace \"a\" or \"a:b\"",
        key("store:gone:x") + "there is no such namespace",
        key("store:shop:") + "the name of its channel is empty",
        of_user("1:2:x", "1", "2:x"),
        of_user("1:x", "1", "x"),
        key("store:shop:bytes") + "what it holds is not JSON",
        key("store:shop:deep") + "it holds JSON nested deeper than 64",
        key("store:shop:list") + "it holds no text",
        key("store:shop:text") + "what it holds is not JSON",
        key("store:shop:\u{fffd}") + "the key is not UTF-8",
    ];
    assert_eq!(told, expected);

    // `--colon` resolves the ambiguity; importing again what is there already is fine.
    for (colon, of_it) in [("channel", "shop|-|1:x|2"), ("user", "shop|1|x|2")] {
        let data = dir.file(colon);
        assert_eq!(run(import(&redis.url(), &["--colon", colon], &data)).code, Some(0));
        assert_eq!(run(import(&redis.url(), &["--colon", colon], &data)).code, Some(0));
        let states = states(&data);
        assert!(states.iter().any(|state| state == of_it), "{states:?}");
        let has_longer = states.iter().any(|state| state == "shop|-|1:2:x|3");
        assert_eq!(has_longer, colon == "channel", "{states:?}");
        assert!(!states.iter().any(|state| state.ends_with("|4")), "{states:?}");
    }
}

#[test]
fn a_conflicting_import_changes_nothing() {
    let dir = Dir::new();
    let mut redis = Redis::start(&dir);
    redis.namespace("shop", "one");
    redis.state("shop:x", "1");
    let (data, url) = (dir.file("data"), redis.url());
    good(import(&url, &[], &data));
    let before = fs::read(data.join("store.redb")).unwrap();

    redis.namespace("shop", "two");
    redis.state("shop:y", "2");
    let line = bad(import(&url, &[], &data), 1);
    let start = "\"LaWS_Server:name_spaces:shop\": namespace \"shop\" is there already, with";
    assert!(line.starts_with(start) && !line.contains("two"), "{line}");
    let limit = ["--replace", "--limit", "states_per_namespace=1"];
    let line = bad(import(&url, &limit, &data), 1);
    assert!(
        line.ends_with("there would be more than 1 states (limit states_per_namespace)"),
        "{line}"
    );
    assert_eq!(fs::read(data.join("store.redb")).unwrap(), before);
    good(import(&url, &["--replace"], &data));
    assert_eq!(states(&data), ["shop|-|x|1", "shop|-|y|2"]);

    for wrong in ["localhost", "http://h", "redis://user:hush@:1"] {
        let line = bad(import(wrong, &[], &data), 2);
        assert!(line.starts_with("that is no URL of a Redis") && !line.contains("hush"), "{line}");
    }
    let line = bad(import(&url, &["--colon", "x"], &data), 2);
    assert_eq!(line, "--colon: \"x\" is neither channel nor user");
    let none = dir.file("none.sock");
    let line = bad(import(&format!("unix://{}", none.display()), &[], &dir.file("new")), 1);
    assert!(line.starts_with(&format!("Redis at unix:{}: ", none.display())), "{line}");
    assert!(!dir.file("new").exists(), "without a Redis nothing is created");
}

#[test]
fn a_redis_without_data_of_an_original_server_is_refused() {
    let dir = Dir::new();
    let mut redis = Redis::start(&dir);
    redis.set(b"unrelated", b"x");
    let data = dir.file("data");
    let line = bad(import(&redis.url(), &[], &data), 1);
    assert!(line.contains("there is nothing of an original server in database 0"), "{line}");
    assert!(!data.join("store.redb").exists(), "nothing is imported");
}

/// If a refusal were ignored, the state would be missing once the original is gone.
#[test]
fn a_command_that_redis_refuses_ends_the_import() {
    let dir = Dir::new();
    let mut redis = Redis::start(&dir);
    redis.namespace("shop", "k");
    redis.state("shop:price", "1");
    for command in ["pttl", "get", "scan"] {
        let taken = format!("-{command}");
        let changed = redis.ask(&[b"ACL", b"SETUSER", b"default", b"+@all", taken.as_bytes()]);
        assert_eq!(changed, "+OK");
        let data = dir.file(command);
        let line = bad(import(&redis.url(), &[], &data), 1);
        assert!(line.starts_with("Redis: NOPERM ") && line.contains(command), "{line}");
        assert!(!data.join("store.redb").exists(), "nothing is imported");
    }
}
