//! The store of a running server: acknowledged changes survive a restart, however the server ended;
//! a data folder belongs to one server; a full disk refuses changes and recovers.

use rustix::process::{Resource, Rlimit, prlimit};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::control::{Control, DONE, FULL, get};
use crate::common::server::{
    Dir, OTHER_KEY, Options, SERVER_KEY, Server, fill, mode, on_disk, on_small_disk, run_to_end,
};
use crate::common::{DEADLINE, eventually, within};
use serde_json::{Value, json};

fn set(channel: &str, data: &str, params: &str) -> String {
    format!(r#"{{"action":"set","channel":"{channel}","data":{data},"params":{params}}}"#)
}

fn get_of(channel: &str, user: &str) -> String {
    format!(r#"{{"action":"get","channel":"{channel}","params":{{"userId":"{user}"}}}}"#)
}

fn register(control: &mut Control, name: &str) -> String {
    let request = json!({ "action": "registerNameSpace", "name": name, "key": SERVER_KEY });
    let reply: Value = serde_json::from_str(&control.ask(&request.to_string())).unwrap();
    reply["secretKey"].as_str().unwrap_or_else(|| panic!("{reply}")).to_string()
}

fn auth(control: &mut Control, name: &str, key: &str) -> String {
    control.ask(&json!({ "action": "auth", "name": name, "sKey": key }).to_string())
}

#[test]
fn acknowledged_changes_survive_a_crash() {
    for is_crash in [true, false] {
        let server = Server::new();
        let mut control = server.control();
        let key = register(&mut control, "shop:a\u{e9}");
        assert_eq!(auth(&mut control, "shop:a\u{e9}", &key), DONE);
        control.ok(&set("price", "[9007199254740993, 1.0]", "{}"));
        control.ok(&set("@cart", "[1,2]", r#"{"userId":5}"#));
        control.ok(&set("gone", "1", "{}"));
        control.ok(&set("gone", "null", "{}"));
        control.ok(&set("later", "1", r#"{"ttl":1000}"#));
        for i in 0..3 {
            control.ok(&format!(r#"{{"action":"push","channel":"list","data":{i}}}"#));
        }
        let grant = |action: &str, user: &str| {
            format!(r##"{{"action":"{action}","channel":"#p","params":{{"userId":"{user}"}}}}"##)
        };
        control.ok(&grant("subscribe", "1"));
        control.ok(&grant("subscribe", "2"));
        control.ok(&grant("unsubscribe", "2"));
        let mut demo = server.controller("demo");
        demo.ok(&set("of demo", "\"kept as well\"", "{}"));
        let dir = if is_crash { server.crash() } else { server.stop() };

        let server = Server::start_in(dir, &Options::default());
        let mut control = server.control();
        assert_eq!(auth(&mut control, "shop:a\u{e9}", &key), DONE);
        assert_eq!(control.ask(&get("price")), "[9007199254740993, 1.0]");
        assert_eq!(control.ask(&get_of("@cart", "5")), "[1,2]");
        assert_eq!(control.ask(&get("@cart")), "null");
        assert_eq!(control.ask(&get("gone")), "null");
        assert_eq!(control.ask(&get("later")), "1");
        assert_eq!(control.ask(&get("list")), "[0,1,2]");
        control.ok(r#"{"action":"push","channel":"list","data":3}"#);
        assert_eq!(control.ask(&get("list")), "[0,1,2,3]");
        assert_eq!(server.controller("demo").ask(&get("of demo")), "\"kept as well\"");
        control.ok(r##"{"action":"set","channel":"#p","data":"psst"}"##);
        let mut browser = server.browser_of("shop:a\u{e9}", &key, r#"{"i":1}"#);
        browser.say(r##"{"event":"subscribe","data":"#p"}"##);
        browser.expect(r##"{"event":"#p","data":"psst"}"##);
        let mut other = server.browser_of("shop:a\u{e9}", &key, r#"{"i":2}"#);
        other.say(r##"{"event":"subscribe","data":"#p","clb":1}"##);
        let answer =
            r#"{"event":"callBackAnswer","clb":1,"data":{"ok":false,"reason":"no grant"}}"#;
        other.expect(answer);
    }
}

#[test]
fn replaced_and_removed_keys_stay_invalid_after_a_crash() {
    let server = Server::new();
    let mut control = server.control();
    let one = register(&mut control, "one");
    let two = register(&mut control, "two");
    let rotate = |name: &str, grace: u32| {
        json!({ "action": "rotateKey", "name": name, "key": SERVER_KEY,
            "params": { "grace": grace } })
        .to_string()
    };
    let reply: Value = serde_json::from_str(&control.ask(&rotate("one", 1000))).unwrap();
    let fresh = reply["secretKey"].as_str().unwrap().to_string();
    let reply: Value = serde_json::from_str(&control.ask(&rotate("other", 0))).unwrap();
    let other = reply["secretKey"].as_str().unwrap().to_string();
    auth(&mut control, "two", &two);
    control.ok(&set("c", "1", "{}"));
    let remove = json!({ "action": "removeNameSpace", "name": "two", "key": SERVER_KEY });
    assert_eq!(control.ask(&remove.to_string()), DONE);

    let server = Server::start_in(server.crash(), &Options::default());
    let mut control = server.control();
    assert_eq!(auth(&mut control, "one", &fresh), DONE);
    assert_eq!(auth(&mut control, "one", &one), DONE, "within the grace");
    let wrong = r#"{"success":false,"reason":"Invalid sKey","code":305}"#;
    assert_eq!(auth(&mut control, "other", OTHER_KEY), wrong, "replaced by rotateKey");
    assert_eq!(auth(&mut control, "other", &other), DONE);
    let gone = r#"{"success":false,"reason":"Name space not found","code":404}"#;
    assert_eq!(auth(&mut control, "two", &two), gone);
    let again = register(&mut control, "two");
    auth(&mut control, "two", &again);
    assert_eq!(control.ask(&get("c")), "null", "the state of a former namespace");
    // A new key in the configuration is newer than the one that replaced the old one there.
    let mut options = Options::default();
    options.config["namespaces"]["other"] = "a key of today".into();
    let server = Server::start_in(server.crash(), &options);
    let mut control = server.control();
    assert_eq!(auth(&mut control, "other", "a key of today"), DONE);
    assert_eq!(auth(&mut control, "other", &other), wrong);
}

#[test]
fn an_expired_state_is_not_restored() {
    let server = Server::new();
    let mut control = server.controller("demo");
    control.ok(&set("short", "1", r#"{"ttl":1}"#));
    control.ok(&set("long", "2", r#"{"ttl":60}"#));
    let since = Instant::now();
    let dir = server.crash();
    // The TTL passes while no server runs.
    eventually("a second passes", || (since.elapsed() > Duration::from_millis(1100)).then_some(()));
    let server = Server::start_in(dir, &Options::default());
    let mut control = server.controller("demo");
    assert_eq!(control.ask(&get("short")), "null");
    assert_eq!(control.ask(&get("long")), "2");
    assert!(server.log().join("\n").contains("1 state,"), "{:?}", server.log());
}

#[test]
fn states_may_be_synced_later_but_keys_are_not() {
    let mut options = Options::default();
    options.config["sync"] = "1s".into();
    let server = Server::start(&options);
    let mut control = server.control();
    let key = register(&mut control, "shop");
    auth(&mut control, "shop", &key);
    control.ok(&set("c", "1", "{}"));
    // A clean stop writes it, whatever the sync interval.
    let server = Server::start_in(server.stop(), &options);
    let mut control = server.control();
    assert_eq!(auth(&mut control, "shop", &key), DONE);
    assert_eq!(control.ask(&get("c")), "1");
    control.ok(&set("c", "2", "{}"));
    let store = server.dir().file("data/store.redb");
    let before = std::fs::metadata(&store).unwrap().modified().unwrap();
    eventually("the state is written", || {
        let now = std::fs::metadata(&store).unwrap().modified().unwrap();
        (now > before).then_some(())
    });
    let server = Server::start_in(server.crash(), &options);
    let mut control = server.control();
    auth(&mut control, "shop", &key);
    // Everything up to some sync, which came before the second value or with it.
    let found = control.ask(&get("c"));
    assert!(found == "1" || found == "2", "{found}");
}

#[test]
fn a_stop_reports_acknowledged_changes_it_could_not_write() {
    let mut options = Options::default();
    options.config["sync"] = "1s".into();
    let dir = Dir::new();
    let command = on_small_disk(&options, &dir, 2);
    let mut server = Server::spawn(command, dir, false);
    let mut control = server.controller("demo");
    fill(&folder_of(&server));
    let value = format!("\"{}\"", "x".repeat(20_000));
    let ask = |i: &usize| control.ask(&set(&format!("s{i}"), &value, "{}")) == DONE;
    let acknowledged = (0..100).filter(ask).count();
    assert!(acknowledged > 0, "states are acknowledged before a sync");
    server.told("the store cannot be written (No space left");
    server.terminate();
    let code = eventually("it ends", || server.exit_code());
    assert_eq!(code, Some(1));
    let log = server.log();
    let said = " acknowledged (--sync 1s) and never reached the disk";
    let line = log.last().and_then(|line| line.strip_prefix("fws: ")?.strip_suffix(said));
    let count = line.and_then(|line| line.split(' ').next());
    let count: usize = count.unwrap_or_else(|| panic!("{log:?}")).parse().unwrap();
    assert!((1..=acknowledged).contains(&count), "{count} of {acknowledged}");
}

#[test]
fn a_data_folder_belongs_to_one_server() {
    let server = Server::new();
    for (name, mode_wanted) in
        [("store.redb", 0o600), ("store.seal", 0o600), ("lock", 0o600), ("", 0o700)]
    {
        assert_eq!(mode(&server.dir().file("data").join(name)), mode_wanted, "{name}");
    }
    let options = Options::default();
    let mut second = Command::new(options.command(&Dir::new()).get_program());
    second.args(["serve", "--ws", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"]);
    second.arg(server.dir().file("data")).env("FWS_SECRETKEY", SERVER_KEY);
    second.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (code, log) = run_to_end(second);
    let holder = format!("is in use by process {}", server.pid().as_raw_nonzero());
    assert!(code == Some(1) && log.contains(&holder), "{code:?}: {log}");
    assert!(log.trim_end().ends_with(": stop that first, or wait until it ends"), "{log}");
    // The lock is on the folder, not on a file that may be removed.
    std::fs::remove_file(server.dir().file("data/lock")).unwrap();
    let mut third = Command::new(options.command(&Dir::new()).get_program());
    third.args(["serve", "--ws", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"]);
    third.arg(server.dir().file("data")).env_remove("FWS_SECRETKEY");
    third.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (code, log) = run_to_end(third);
    assert!(code == Some(1) && log.contains("is in use by"), "{code:?}: {log}");
    assert!(!server.dir().file("data/server.key").exists(), "a key in another server's folder");
    // A killed server holds no lock.
    Server::start_in(server.crash(), &options);
}

/// Starts a server that must refuse to start; returns its log.
fn refused(dir: &Dir) -> String {
    let (code, log) = run_to_end(Options::default().command(dir));
    assert_eq!(code, Some(1), "{log}");
    log
}

#[test]
fn a_missing_damaged_or_older_store_is_not_served() {
    let server = Server::new();
    server.controller("demo").ok(&set("c", "\"something to lose\"", "{}"));
    let dir = server.stop();
    let (store, seal) = (dir.file("data/store.redb"), dir.file("data/store.seal"));
    let whole = std::fs::read(&store).unwrap();

    std::fs::remove_file(&store).unwrap();
    let log = refused(&dir);
    assert!(log.contains("is gone") && log.contains("store.seal"), "{log}");

    let at = whole.windows(17).position(|part| part == b"something to lose").unwrap();
    let mut bad = whole.clone();
    bad[at] ^= 1;
    std::fs::write(&store, &bad).unwrap();
    let log = refused(&dir);
    assert!(log.contains("is damaged") && log.contains("store.redb.damaged"), "{log}");
    assert!(!log.contains("something"), "a payload in the log: {log}");
    assert_eq!(std::fs::read(dir.file("data/store.redb.damaged")).unwrap(), bad);
    assert_eq!(std::fs::read(&store).unwrap(), bad, "the file itself was changed");

    std::fs::write(&store, b"").unwrap();
    let log = refused(&dir);
    assert!(log.contains("the file is empty") && log.contains("store.redb.damaged.2"), "{log}");
    assert!(refused(&dir).contains("store.redb.damaged.2"), "the same damage is kept once");

    // A backup from before the last batch.
    std::fs::write(&store, &whole).unwrap();
    let server = Server::start_in(dir, &Options::default());
    server.controller("demo").ok(&set("c", "2", "{}"));
    let dir = server.stop();
    std::fs::write(&store, &whole).unwrap();
    assert!(refused(&dir).contains("if this is a backup, remove store.seal"));
    std::fs::remove_file(&seal).unwrap();
    let server = Server::start_in(dir, &Options::default());
    assert_eq!(server.controller("demo").ask(&get("c")), "\"something to lose\"");

    // If only the seal is damaged, it is rewritten.
    let dir = server.stop();
    std::fs::write(&seal, vec![7; 600]).unwrap();
    let server = Server::start_in(dir, &Options::default());
    assert!(server.log().join("\n").contains("store.seal is damaged"), "{:?}", server.log());
}

/// The data folder as the server sees it, in its own mount namespace.
fn folder_of(server: &Server) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root", server.pid().as_raw_nonzero()))
        .join(server.dir().file("data").strip_prefix("/").unwrap())
}

#[test]
fn a_full_disk_refuses_changes_until_there_is_space() {
    let dir = Dir::new();
    let command = on_small_disk(&Options::default(), &dir, 2);
    let server = Server::spawn(command, dir, false);
    let folder = folder_of(&server);
    let mut control = server.controller("demo");
    let value = format!("\"{}\"", "x".repeat(20_000));
    control.ok(&set("before", &value, "{}"));
    control.ok(&set("both", "1", "{}"));
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.say(r#"{"event":"subscribe","data":"both"}"#);
    browser.expect(r#"{"event":"both","data":1}"#);

    let filler = fill(&folder);
    let full = r#"{"success":false,"reason":"Error store, try latter...","code":302}"#;
    let (mut refused, filled) = (0, Instant::now());
    for i in 0..40 {
        let reply = control.ask(&set(&format!("s{i}"), &value, "{}"));
        assert!(reply == DONE || reply == full, "{reply}");
        refused += usize::from(reply == full);
        let expected = if reply == full { "null" } else { &value };
        assert_eq!(control.ask(&get(&format!("s{i}"))), expected, "state {i}");
    }
    assert!(refused > 20, "{refused} of 40 were refused");
    // A busy machine is at the next try before the last of them; it may succeed, until the disk is
    // full again. That is logged once more.
    let failures_max = if filled.elapsed() < Duration::from_millis(400) { 1 } else { 2 };
    // Everything else goes on.
    assert_eq!(control.ask(&get("before")), value);
    control.ok(r#"{"action":"emit","channel":"both","data":2}"#);
    browser.expect(r#"{"event":"both","data":2}"#);
    server.told("the store cannot be written (No space left");

    std::fs::remove_file(filler).unwrap();
    let since = Instant::now();
    eventually("the store accepts changes", || {
        let is_taken = control.ask(&set("again", "3", "{}")) == DONE;
        refused += usize::from(!is_taken);
        is_taken.then_some(())
    });
    assert!(since.elapsed() < Duration::from_secs(1), "after {:?}", since.elapsed());
    let lines = |part| server.log().into_iter().filter(|line| line.contains(part)).collect();
    let failures: Vec<String> = lines("cannot be written");
    let ends = || -> Vec<String> { lines("the store can be written again") };
    // A second one within 10 s ends only when the disk has been good for as long, and a line later.
    within(3 * DEADLINE, "each failure ends", || (ends().len() == failures.len()).then_some(()));
    // The change that met the write failure is among them.
    let count = |line: String| -> usize {
        let (_, rest) = line.split_once(" s in which ").unwrap();
        rest.split_once(" change").unwrap().0.parse().unwrap()
    };
    assert_eq!(ends().into_iter().map(count).sum::<usize>(), refused, "{:?}", server.log());
    assert!(failures.len() <= failures_max, "{failures:?}");
    assert_eq!(control.ask(&get("both")), "1");
}

#[test]
fn a_server_starts_on_a_full_disk_and_recovers() {
    let server = Server::new();
    server.controller("demo").ok(&set("before", "1", "{}"));
    let dir = server.stop();
    std::fs::rename(dir.file("data"), dir.file("kept")).unwrap();
    // The disk is filled completely before the server starts.
    let fill = r#"cp -p "$0"/../kept/* "$0" && ! cat /dev/zero 2>/dev/null >"$0/filler""#;
    let command = on_disk(&Options::default(), &dir, 4, fill);
    let server = Server::spawn(command, dir, false);
    let folder = folder_of(&server);
    server.told("the store cannot be written (No space left");
    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.say(r#"{"event":"subscribe","data":"before"}"#);
    browser.expect(r#"{"event":"before","data":1}"#);
    assert_eq!(control.ask(&set("after", "2", "{}")), FULL);
    control.ok(r#"{"action":"emit","channel":"before","data":2}"#);
    browser.expect(r#"{"event":"before","data":2}"#);
    std::fs::remove_file(folder.join("filler")).unwrap();
    eventually("the store accepts changes", || {
        (control.ask(&set("after", "3", "{}")) == DONE).then_some(())
    });
    server.told("the store can be written again");
    assert_eq!(control.ask(&get("before")), "1");
}

#[test]
fn an_unwritable_disk_does_not_delay_commands_that_store_nothing() {
    let mut options = Options::limits(&[("store_pending_changes", 16)]);
    options.config["sync"] = "1s".into();
    let mut server = Server::start(&options);
    let mut control = server.controller("demo");
    let nothing = Rlimit { current: Some(0), maximum: None };
    prlimit(Some(server.pid()), Resource::Fsize, nothing).unwrap();
    let value = format!("\"{}\"", "x".repeat(20_000));
    let sets: Vec<u8> = (0..100)
        .flat_map(|i| crate::common::control::frame(set(&format!("s{i}"), &value, "{}").as_bytes()))
        .collect();
    control.send_raw(&sets);
    server.told("the store cannot be written (File too large");
    // More changes than may be pending are sent; all of them are answered.
    for _ in 0..100 {
        let reply = control.recv();
        assert!(reply == DONE || reply == FULL, "{reply}");
    }
    let mut other = server.controller("demo");
    other.ok(r#"{"action":"emit","channel":"x","data":2}"#);
    assert_eq!(other.ask(&set("one more", "1", "{}")), FULL);
    server.assert_alive();
}

#[test]
fn a_file_size_limit_is_treated_as_a_full_disk() {
    let dir = Dir::new();
    let server = Options::default().command(&dir);
    let mut command = Command::new("prlimit");
    command.arg("--fsize=3000000").arg(server.get_program()).args(server.get_args());
    command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = Server::spawn(command, dir, false);
    let mut control = server.controller("demo");
    let value = format!("\"{}\"", "x".repeat(20_000));
    let replies: Vec<String> =
        (0..300).map(|i| control.ask(&set(&format!("s{i}"), &value, "{}"))).collect();
    assert!(replies.iter().all(|reply| reply == DONE || reply == FULL), "{replies:?}");
    let kept = replies.iter().filter(|reply| *reply == DONE).count();
    assert!((20..200).contains(&kept), "{kept} of 300 were kept");
    server.told("the store cannot be written (File too large");
    control.ok(r#"{"action":"emit","channel":"x","data":2}"#);
    server.assert_alive();
    // A start without the limit finds every acknowledged change, and nothing else.
    let server = Server::start_in(server.crash(), &Options::default());
    let mut control = server.controller("demo");
    for (i, reply) in replies.iter().enumerate() {
        let expected = if reply == DONE { &value } else { "null" };
        assert_eq!(control.ask(&get(&format!("s{i}"))), expected, "state {i}");
    }
}

#[test]
fn disk_space_of_a_refused_change_is_released() {
    let dir = Dir::new();
    let command = on_small_disk(&Options::default(), &dir, 16);
    let server = Server::spawn(command, dir, false);
    let store = folder_of(&server).join("store.redb");
    let mut control = server.controller("demo");
    // Three states of half the disk each.
    let large = format!("\"{}\"", "x".repeat(8_000_000));
    let frames = (0..3).flat_map(|i| {
        crate::common::control::frame(set(&format!("large{i}"), &large, "{}").as_bytes())
    });
    control.send_raw(&frames.collect::<Vec<u8>>());
    let replies: Vec<String> = (0..3).map(|_| control.next().unwrap().unwrap()).collect();
    assert!(replies.iter().any(|reply| reply == FULL), "{replies:?}");
    eventually("small changes are taken again", || {
        (control.ask(&set("small", "1", "{}")) == DONE).then_some(())
    });
    let kept = replies.iter().filter(|reply| *reply == DONE).count() as u64;
    let taken = std::fs::metadata(&store).unwrap().blocks() * 512;
    assert!(taken < kept * 9_000_000 + 3_000_000, "{taken} bytes for {kept} large states");
}

#[test]
fn a_change_is_refused_if_and_only_if_it_has_no_effect() {
    let dir = Dir::new();
    let mut options = Options::default();
    options.config["sync"] = "1s".into();
    let server = Server::spawn(on_small_disk(&options, &dir, 2), dir, false);
    let mut control = server.controller("demo");
    control.ok(&set("c", "\"old\"", "{}"));
    let filler = fill(&folder_of(&server));
    // Grants wait for the disk and states do not, even when they are sent together.
    let mut frames = Vec::new();
    for i in 0..400 {
        let grant = json!({ "action": "subscribe", "channel": "#p", "params": { "userId": i } });
        frames.extend(crate::common::control::frame(grant.to_string().as_bytes()));
    }
    frames.extend(crate::common::control::frame(set("c", "\"new\"", "{}").as_bytes()));
    frames.extend(crate::common::control::frame(br#"{"action":"push","channel":"l","data":1}"#));
    control.send_raw(&frames);
    let replies: Vec<String> = (0..402).map(|_| control.next().unwrap().unwrap()).collect();
    let value =
        |reply: &str, new: &str, old: &str| String::from(if reply == DONE { new } else { old });
    assert_eq!(control.ask(&get("c")), value(&replies[400], "\"new\"", "\"old\""));
    assert_eq!(control.ask(&get("l")), value(&replies[401], "[1]", "null"));
    std::fs::remove_file(filler).unwrap();
}

/// Many short-lived states under the same few keys leave only a small file behind.
#[test]
fn churn_does_not_make_the_file_grow() {
    let sets: usize = match std::env::var("FWS_GROWTH_SETS") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => 30_000,
    };
    let server = Server::new();
    let store = server.dir().file("data/store.redb");
    let mut control = server.controller("demo");
    let (mut largest, mut at) = (0, 0);
    for from in (0..sets).step_by(64) {
        let frames: Vec<u8> = (from..from + 64)
            .flat_map(|i| {
                let data = format!("\"{i} {}\"", "x".repeat(i % 100));
                let body = set(&format!("k{}", i % 1000), &data, r#"{"ttl":1}"#);
                crate::common::control::frame(body.as_bytes())
            })
            .collect();
        control.send_raw(&frames);
        for _ in 0..64 {
            assert_eq!(control.next().unwrap().as_deref(), Some(DONE));
        }
        let bytes = std::fs::metadata(&store).unwrap().len();
        if bytes > largest {
            (largest, at) = (bytes, from);
        }
    }
    assert!(largest <= 8 << 20, "{largest} bytes");
    let at_rest = eventually("the file is small again", || {
        let bytes = std::fs::metadata(&store).unwrap().len();
        (bytes <= 2 << 20).then_some(bytes)
    });
    println!("{sets} sets: at most {largest} bytes, at set {at}; {at_rest} at rest");
}

#[test]
fn limits_on_pending_changes_delay_publishers_and_lose_nothing() {
    let limits = [("store_pending_changes", 16), ("control_replies_waiting", 8)];
    let server = Server::start(&Options::limits(&limits));
    let mut control = server.controller("demo");
    let frames: Vec<u8> = (0..2000)
        .flat_map(|i| {
            crate::common::control::frame(set(&format!("k{i}"), &i.to_string(), "{}").as_bytes())
        })
        .collect();
    control.send_raw(&frames);
    for _ in 0..2000 {
        assert_eq!(control.next().unwrap().as_deref(), Some(DONE));
    }
    let server = Server::start_in(server.crash(), &Options::default());
    let mut control = server.controller("demo");
    for i in (0..2000).step_by(97) {
        assert_eq!(control.ask(&get(&format!("k{i}"))), i.to_string());
    }
    let store = server.dir().file("data/store.redb");
    assert_eq!(std::fs::metadata(store).unwrap().permissions().mode() & 0o777, 0o600);
}

/// With one processor for both, a batch that preempts the loop would delay its messages.
#[test]
fn the_thread_that_writes_goes_behind_the_loop() {
    let server = Server::new();
    // Its acknowledgement shows that the thread runs.
    server.controller("demo").ok(&set("c", "1", "{}"));
    let nice = |thread: PathBuf| {
        let stat = std::fs::read_to_string(thread.join("stat")).unwrap();
        let (name, fields) = stat.rsplit_once(") ").unwrap();
        let nice: i32 = fields.split(' ').nth(16).unwrap().parse().unwrap();
        (name.ends_with("(fws-store"), nice)
    };
    let threads = std::fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero()));
    let threads: Vec<_> = threads.unwrap().map(|thread| nice(thread.unwrap().path())).collect();
    let of = |is_store| threads.iter().find(|thread| thread.0 == is_store).unwrap().1;
    assert_eq!((threads.len(), of(true)), (2, (of(false) + 5).min(19)));
}
