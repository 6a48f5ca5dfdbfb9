//! `fws store` on real data folders: check, export and import.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::command::{Ran, bad, fws, good, run};
use crate::common::eventually;
use crate::common::export::{
    END, START, contents, import, lines_in, namespace, namespace_line, same_store, state, store,
};
use crate::common::server::{Dir, Options, SERVER_KEY, Server, mode};
use serde_json::{Value, json};

/// A date in the far future, in Unix milliseconds.
const FAR: u64 = 4_102_444_800_000;

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
}

#[test]
fn a_missing_folder_or_store_is_not_created() {
    let dir = Dir::new();
    let none = dir.file("none");
    for words in [&["check"][..], &["export"], &["export", "--damaged"]] {
        let line = bad(store(words, &none), 1);
        assert_eq!(line, format!("there is no data folder {}", none.display()));
    }
    assert!(!none.exists());
    // A folder without a store, such as that of a server that keeps only its key there.
    let empty = dir.file("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("server.key"), "x").unwrap();
    for words in [&["check"][..], &["export"], &["export", "--damaged"]] {
        let line = bad(store(words, &empty), 1);
        assert_eq!(line, format!("there is no store in {}", empty.display()));
    }
    assert_eq!(contents(&empty).len(), 1);
}

/// A user id that does not exist and that no test runs as.
const FOREIGN_UID: u32 = 54_321;

/// Only root can give a folder to another user; `cli::owner` tests the same for all others.
#[test]
fn root_creates_no_files_in_the_folder_of_another_user() {
    let dir = Dir::new();
    let data = dir.file("data");
    fs::create_dir(&data).unwrap();
    if std::os::unix::fs::chown(&data, Some(FOREIGN_UID), Some(FOREIGN_UID)).is_err() {
        return;
    }
    let input = lines_in(&dir, "in", &[namespace("shop", "k")]);
    let line = bad(store(&["import", input.to_str().unwrap()], &data), 1);
    assert!(line.contains("belongs to user 54321") && line.contains("--reuid=54321"), "{line}");
    let mut register = fws(&["register", "shop", "--data", data.to_str().unwrap()]);
    register.env("FWS_SECRETKEY", SERVER_KEY);
    assert!(bad(register, 1).contains("--clear-groups fws register"));
    assert!(contents(&data).is_empty());
    // Files that an older version of such a command left: the server's user is told what to do.
    import(&input, &dir.file("roots"));
    let roots = dir.file("roots");
    std::os::unix::fs::chown(&roots, Some(FOREIGN_UID), Some(FOREIGN_UID)).unwrap();
    let mut serve = fws(&["serve", "--ws", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"]);
    serve.arg(&roots).env("FWS_SECRETKEY", SERVER_KEY);
    std::os::unix::process::CommandExt::uid(&mut serve, FOREIGN_UID);
    let ran = run(serve);
    let line = ran.err.lines().last().unwrap_or_default();
    let advice =
        format!("belongs to user 0, and this is user 54321: chown -R 54321:0 {}", roots.display());
    assert!(ran.code == Some(1) && line.contains(&advice), "{ran:?}");
}

#[test]
fn a_deleted_store_is_distinguished_from_none() {
    let dir = Dir::new();
    let data = dir.file("data");
    import(&lines_in(&dir, "in", &[namespace("shop", "k")]), &data);
    fs::remove_file(data.join("store.redb")).unwrap();
    for words in [&["check"][..], &["export"]] {
        let line = bad(store(words, &data), 1);
        assert!(line.contains("is gone, but") && line.contains("(of 1 batch)"), "{line}");
    }
    let input = lines_in(&dir, "again", &[namespace("shop", "k")]);
    let line = bad(store(&["import", input.to_str().unwrap()], &data), 1);
    assert!(line.contains("is gone, but"), "{line}");
}

#[test]
fn an_older_store_is_distinguished_from_the_latest() {
    let dir = Dir::new();
    let (data, path) = (dir.file("data"), dir.file("data/store.redb"));
    import(&lines_in(&dir, "first", &[namespace("shop", "k")]), &data);
    let older = fs::read(&path).unwrap();
    import(&lines_in(&dir, "second", &[namespace("other", "k")]), &data);
    fs::write(&path, older).unwrap();
    for words in [&["check"][..], &["export"], &["import", "-"]] {
        let line = bad(store(words, &data), 1);
        assert!(line.contains("it ends with batch 1, and batch 2 was durable"), "{line}");
    }
    fs::remove_file(data.join("store.seal")).unwrap();
    assert_eq!(number(&good(store(&["check"], &data)), "namespaces"), 1);
}

#[test]
fn a_folder_in_use_is_only_read() {
    let server = Server::new();
    let data = server.dir().file("data");
    assert_eq!(number(&good(store(&["check"], &data)), "term"), 1);
    assert!(good(store(&["export"], &data)).ends_with(&format!("{END}\n")));
    for words in [&["export", "--damaged"][..], &["import"]] {
        let line = bad(store(words, &data), 1);
        let start = format!("the data folder {} is in use by process ", data.display());
        assert!(line.starts_with(&start) && line.contains(" (control="), "{line}");
        assert!(line.ends_with(": stop that first, or wait until it ends"), "{line}");
    }
    let dir = server.stop();
    let text = good(store(&["check"], &dir.file("data")));
    assert_eq!(number(&text, "term"), 1);
}

#[test]
fn check_changes_nothing_and_counts_the_contents() {
    let dir = Dir::new();
    let data = dir.file("data");
    let soon = json!({ "kind": "state", "namespace": "b", "channel": "x", "user": null,
        "expires": now_ms() + 300, "data": 1 });
    let grant = json!({ "kind": "grant", "namespace": "a", "channel": "#v", "user": "5" });
    let input = [
        namespace("a", "k"),
        namespace("b", "k"),
        grant.to_string(),
        state("a", "x", None, "1"),
        soon.to_string(),
    ];
    let said = import(&lines_in(&dir, "in", &input), &data);
    assert_eq!(said, "imported 2 namespaces, 1 grant, 2 states\n");
    assert_eq!(mode(&data), 0o700);
    for file in ["store.redb", "store.seal", "lock"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    // A copy without a lock file, as a backup may be.
    let copy = dir.file("copy");
    fs::create_dir(&copy).unwrap();
    for file in ["store.redb", "store.seal"] {
        fs::copy(data.join(file), copy.join(file)).unwrap();
    }
    let before = contents(&copy);
    let text = eventually("the state expires", || {
        let text = good(store(&["check"], &copy));
        (number(&text, "ended") == 1).then_some(text)
    });
    assert!(text.starts_with(&format!("{} is whole\n", copy.join("store.redb").display())));
    let counts = ["format", "term", "batches", "namespaces", "grants", "states"];
    assert_eq!(counts.map(|name| number(&text, name)), [2, 0, 1, 2, 1, 2]);
    assert!(number(&text, "bytes") > 50 && number(&text, "file_bytes") > 4096);
    let saved = good(store(&["export"], &copy));
    assert_eq!(saved.lines().filter(|line| line.contains("state")).count(), 1, "{saved}");
    assert_eq!(contents(&copy), before);
}

fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_millis() as u64
}

/// Unusual values of everything that a store can hold.
fn odd_lines() -> Vec<String> {
    let names = ["a:b", "a", " blank ", "ключ\u{1f511}", "nul\u{0}\"\\\n", "lost-1"];
    let mut lines: Vec<String> = names.map(|name| namespace(name, "key of it")).into();
    lines.push(r#"{"kind":"namespace","name":"configured","key":null}"#.into());
    lines.push(format!(
        "{{\"kind\":\"namespace\",\"name\":\"rotated\",\"key\":\"new\",\"old_key\":\"old\",\
         \"old_key_ends\":{FAR},\"replaces\":\"first\"}}"
    ));
    for (channel, user) in [("#", "6"), ("#a:b", "c"), ("#a", "b:c"), ("#\u{0}", "5")] {
        let line = json!({ "kind": "grant", "namespace": "a", "channel": channel, "user": user });
        lines.push(line.to_string());
    }
    for (channel, user) in [
        ("x", None),
        ("x", Some("1")),
        ("1:x", None),
        ("@cart", Some("1:2")),
        ("\u{0}\u{7f}", Some("\u{0}")),
        ("канал", Some(" ")),
    ] {
        for (i, name) in names.iter().enumerate() {
            let data = [
                "[1, 2.0 ,12345678901234567890123,-0,1e400]",
                r#"{"a":1,"a":2, "б":"\ud800\u0000"}"#,
                "\"\"",
                "{ }",
                "false",
            ][(i + channel.len()) % 5];
            lines.push(state(name, channel, user, data));
        }
    }
    let deep = format!("{}1{}", "[".repeat(64), "]".repeat(64));
    lines.push(state("rotated", "deep", None, &deep));
    lines
        .push(state("rotated", "ends", None, "1").replace("null,\"data", &format!("{FAR},\"data")));
    lines
}

#[test]
fn an_export_is_imported_unchanged() {
    let dir = Dir::new();
    let (first, second) = (dir.file("first"), dir.file("second"));
    let lines = odd_lines();
    import(&lines_in(&dir, "in", &lines), &first);
    let saved = good(store(&["export"], &first));
    assert_eq!(saved, good(store(&["export"], &first)), "the order is always the same");
    assert_eq!(saved.lines().count(), lines.len() + 2);
    let sorted = |lines: Vec<&str>| {
        let mut lines = lines;
        lines.sort_unstable();
        lines.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let came = saved.lines().filter(|line| !line.starts_with("{\"fws\"")).collect();
    let canonical = |line: &String| match serde_json::from_str::<Value>(line) {
        // With members in the order of the export; data is compared as text.
        Ok(Value::Object(_)) | Err(_) => reordered(line),
        Ok(other) => panic!("{other}"),
    };
    let went: Vec<String> = lines.iter().map(canonical).collect();
    assert_eq!(sorted(came), sorted(went.iter().map(String::as_str).collect()));

    let file = dir.file("saved");
    good(store(&["export", file.to_str().unwrap()], &first));
    assert_eq!((mode(&file), fs::read_to_string(&file).unwrap()), (0o600, saved.clone()));
    let again = bad(store(&["export", file.to_str().unwrap()], &first), 1);
    assert_eq!(again, format!("{} is there already, and is not written over", file.display()));
    import(&file, &second);
    assert_eq!(good(store(&["export"], &second)), saved);
    let salvaged = run(store(&["export", "--damaged"], &second));
    assert_eq!((salvaged.code, salvaged.out), (Some(0), saved));
    assert_eq!(salvaged.err, "fws: rows left out, because they are not as they were written: 0\n");
}

/// The line with its members in the order in which an export has them.
fn reordered(line: &str) -> String {
    if line.contains("\"kind\":\"state\"") || line.contains("\"replaces\"") {
        return line.into();
    }
    let value: Value = serde_json::from_str(line).unwrap();
    let order = ["kind", "namespace", "channel", "user", "name", "key"];
    let members = order.iter().filter(|name| value.get(**name).is_some());
    let members: Vec<String> =
        members.map(|name| format!("{}:{}", json!(name), value[*name])).collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn the_data_of_one_server_moves_to_another() {
    let server = Server::start(&Options::default());
    let mut control = server.control();
    let ask = json!({ "action": "registerNameSpace", "name": "shop", "key": SERVER_KEY });
    let reply: Value = serde_json::from_str(&control.ask(&ask.to_string())).unwrap();
    let old_key = reply["secretKey"].as_str().unwrap().to_owned();
    let ask = json!({ "action": "rotateKey", "name": "shop", "key": SERVER_KEY,
        "params": { "grace": 3600 } });
    let reply: Value = serde_json::from_str(&control.ask(&ask.to_string())).unwrap();
    let new_key = reply["secretKey"].as_str().unwrap().to_owned();
    assert_ne!(old_key, new_key);
    let mut control = server.controller("demo");
    control.ok(r#"{"action":"push","channel":"list","data":{"n":[1.0]},"params":{"ttl":3600}}"#);
    control.ok(r#"{"action":"push","channel":"list","data":9007199254740993}"#);
    control.ok("{\"action\":\"set\",\"channel\":\"wide\",\"data\":[1,\n2]}");
    control.ok(r##"{"action":"subscribe","channel":"#vip","params":{"userId":5}}"##);
    let dir = server.stop();

    let file = dir.file("saved");
    good(store(&["export", file.to_str().unwrap()], &dir.file("data")));
    let saved = fs::read_to_string(&file).unwrap();
    assert!(saved.contains(&old_key) && saved.contains(&new_key));
    assert!(saved.contains("\"data\":[{\"n\":[1.0]},9007199254740993]}"), "{saved}");
    assert!(saved.contains("\"data\":[1, 2]}"), "a state is one line: {saved}");

    let other = Dir::new();
    import(&file, &other.file("data"));
    let server = Server::start_in(other, &Options::default());
    let mut control = server.controller("demo");
    control.ok(r#"{"action":"push","channel":"list","data":"more"}"#);
    let list = control.ask(r#"{"action":"get","channel":"list"}"#);
    assert_eq!(list, r#"[{"n":[1.0]},9007199254740993,"more"]"#);
    for key in [&new_key, &old_key] {
        let auth = json!({ "action": "auth", "name": "shop", "sKey": key });
        assert_eq!(server.control().ask(&auth.to_string()), r#"{"success":true}"#);
    }
    let mut browser = server.browser("demo", r#"{"i":"5"}"#);
    browser.subscribe("#vip");
}

#[test]
fn an_import_overlays_the_existing_store() {
    let dir = Dir::new();
    let data = dir.file("data");
    let first = [
        namespace("a", "one"),
        namespace("b", "two"),
        state("a", "x", None, "1"),
        state("a", "y", None, "2"),
    ];
    import(&lines_in(&dir, "first", &first), &data);
    let before = contents(&data);
    // What is said of the same twice counts once.
    let second = [
        namespace("c", "three"),
        namespace("c", "three"),
        namespace("a", "other"),
        state("a", "y", None, "3"),
        state("a", "z", None, "4"),
        state("c", "x", None, "5"),
    ];
    let second = lines_in(&dir, "second", &second);
    let line = bad(store(&["import", second.to_str().unwrap()], &data), 1);
    let wrong = "namespace \"a\" is there already, with another key (--replace puts the new one in \
                 its place)";
    assert_eq!(line, format!("{}: line 4: {wrong}", second.display()));
    same_store(&before, &data);
    let said = good(store(&["import", "--replace", second.to_str().unwrap()], &data));
    assert_eq!(said, "imported 2 namespaces, 0 grants, 3 states\n");
    let expected = [
        namespace_line("a", "other"),
        namespace_line("b", "two"),
        namespace_line("c", "three"),
        state("a", "x", None, "1"),
        state("a", "y", None, "3"),
        state("a", "z", None, "4"),
        state("c", "x", None, "5"),
    ];
    let saved = good(store(&["export"], &data));
    let lines: Vec<&str> = saved.lines().filter(|line| !line.starts_with("{\"fws\"")).collect();
    assert_eq!(lines, expected);
}

#[test]
fn an_import_renews_the_keys_that_are_kept_for_commands() {
    let dir = Dir::new();
    let data = dir.file("data");
    let first = ["a", "b", "d"].map(|name| namespace(name, "one"));
    import(&lines_in(&dir, "first", &first), &data);
    assert!(!data.join("keys").exists(), "keys are kept where a command has made them");
    fs::create_dir(data.join("keys")).unwrap();
    let kept = [("a", "one"), ("b", "of another server"), ("c", "the same"), ("d", "one")];
    for (name, key) in kept {
        fs::write(data.join("keys").join(name), key).unwrap();
    }
    let second = ["a", "b", "c"].map(|name| namespace(name, "two"));
    let second = lines_in(&dir, "second", &second);
    let ran = run(store(&["import", "--replace", second.to_str().unwrap()], &data));
    let renewed = format!("renewed 1 key in {}\n", data.join("keys").display());
    assert_eq!(ran.out, format!("imported 3 namespaces, 0 grants, 0 states\n{renewed}"));
    // The commands would use those of "b" and "c", which open nothing.
    let strange = data.join("keys/b");
    let told = format!("fws: warning: {} is not the key of namespace \"b\"", strange.display());
    assert!(ran.err.starts_with(&format!("{told} (and 1 more like it), and stays")), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    let kept = |name: &str| fs::read_to_string(data.join("keys").join(name)).ok();
    let kept = ["a", "b", "c", "d"].map(kept);
    assert_eq!(
        kept.each_ref().map(Option::as_deref),
        [Some("two\n"), Some("of another server"), Some("the same"), Some("one")]
    );
    assert_eq!(mode(&data.join("keys/a")), 0o600);
    for name in ["b", "c"] {
        fs::remove_file(data.join("keys").join(name)).unwrap();
    }
    let said = good(store(&["import", "--replace", second.to_str().unwrap()], &data));
    assert_eq!(said, "imported 3 namespaces, 0 grants, 0 states\n");
}

/// As after damage: the store is moved away, and a backup from before a rotation is imported. A key
/// that is accepted for a grace is as good as the new one.
#[test]
fn a_restore_tells_of_kept_keys_that_open_nothing() {
    let dir = Dir::new();
    let data = dir.file("data");
    let ends = now_ms() + 3_600_000;
    let grace = |ends: u64| {
        let name =
            r#"{"kind":"namespace","name":"grace","key":"new","old_key":"kept","old_key_ends":"#;
        format!("{name}{ends}}}")
    };
    for (ends, is_told) in [(ends, false), (1, true)] {
        fs::create_dir_all(data.join("keys")).unwrap();
        fs::write(data.join("keys/grace"), "kept").unwrap();
        let backup = lines_in(&dir, &format!("backup-{ends}"), &[grace(ends)]);
        let ran = run(store(&["import", backup.to_str().unwrap()], &data));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let told = "keys/grace is not the key of namespace \"grace\", and stays";
        assert_eq!(ran.err.contains(told), is_told, "{ran:?}");
        fs::remove_dir_all(&data).unwrap();
    }
}

/// No command and no token accepts such a user, so nothing could read or remove its rows.
#[test]
fn rows_of_a_user_with_an_empty_name_are_left_out() {
    let dir = Dir::new();
    let data = dir.file("data");
    let grant = json!({ "kind": "grant", "namespace": "a", "channel": "#v", "user": "" });
    let lines = [namespace("a", "k"), state("a", "x", Some(""), "1"), grant.to_string()];
    let said = good(store(&["import", lines_in(&dir, "in", &lines).to_str().unwrap()], &data));
    let counts = "imported 1 namespace, 0 grants, 0 states\n";
    assert_eq!(said, format!("{counts}left out 2 rows of a user with an empty name\n"));
    assert_eq!(good(store(&["export"], &data)).lines().count(), 3);
}

#[test]
fn an_invalid_line_is_named_and_changes_nothing() {
    let dir = Dir::new();
    let data = dir.file("data");
    import(&lines_in(&dir, "first", &[namespace("a", "k"), state("a", "x", None, "1")]), &data);
    let before = contents(&data);
    let grant = |channel: &str| {
        json!({ "kind": "grant", "namespace": "a", "channel": channel, "user": "u" }).to_string()
    };
    let long = "x".repeat(256);
    for (lines, wrong) in [
        (vec!["nonsense".into()], "line 2: this is not JSON"),
        (vec![String::new(), "[]".into()], "line 3: this is no JSON object"),
        (vec![START.into()], "line 2: an export begins but once"),
        (vec![END.into()], "line 3: nothing may follow the last line of an export"),
        (vec![namespace("", "k")], "line 2: name is empty"),
        (vec![namespace("n", "")], "line 2: the key is empty"),
        (vec![namespace(&long, "k")], "line 2: name is longer than 255 bytes (limit name_bytes)"),
        (
            vec![state("a", &long, None, "1")],
            "line 2: channel is longer than 255 bytes (limit name_bytes)",
        ),
        (
            vec![state("a", "x", Some(&long), "1")],
            "line 2: user is longer than 255 bytes (limit name_bytes)",
        ),
        (vec![grant("vip")], "line 2: the name of a private channel begins with #"),
        (vec![state("a", "", None, "1")], "line 2: channel is empty"),
        (vec![state("a", "x", None, "nope")], "line 2: this is not JSON"),
        (vec![state("a", "x", None, "null")], "line 2: data is null, which is no state"),
        (
            vec![state("n", "x", None, "1"), namespace("n", "k")],
            "line 2: there is no namespace \"n\" (its own line comes first)",
        ),
        (
            vec![state("a", "y", None, "1"), state("a", "z", None, &"[".repeat(70))],
            "line 3: this is JSON nested deeper than 65",
        ),
    ] {
        let input = lines_in(&dir, "in", &lines);
        let line = bad(store(&["import", input.to_str().unwrap()], &data), 1);
        assert_eq!(line, format!("{}: {wrong}", input.display()));
        same_store(&before, &data);
    }
    for (text, wrong) in [
        ("", "the last line, {\"fws\":\"end\"}, is missing: this is not all of an export"),
        ("{\"kind\":\"x\"}\n", "line 1: there is no kind \"x\""),
        (END, "line 1: an export begins with {\"fws\":\"export\",\"version\":1}"),
        (
            "{\"fws\":\"export\",\"version\":2}",
            "line 1: this version knows exports of version 1 alone",
        ),
        (START, "the last line, {\"fws\":\"end\"}, is missing: this is not all of an export"),
    ] {
        let Ran { code, err, .. } = run_with(store(&["import"], &data), text.as_bytes());
        assert_eq!((code, err), (Some(1), format!("fws: standard input: {wrong}\n")));
        same_store(&before, &data);
    }
    let ran = run_with(store(&["import", "-"], &data), b"\xff\n");
    assert_eq!(ran.err, "fws: standard input: line 1: this is not UTF-8\n");
    let line = bad(store(&["import", "/no/such/file"], &data), 1);
    assert!(line.starts_with("cannot read /no/such/file: "), "{line}");
}

/// Runs a command with this standard input.
fn run_with(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // The command may close its input before the end.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn an_import_obeys_the_limits() {
    let dir = Dir::new();
    let data = dir.file("data");
    let grant = |user: &str| {
        json!({ "kind": "grant", "namespace": "a", "channel": "#v", "user": user }).to_string()
    };
    let first =
        [namespace("a", "k"), state("a", "x", None, "1"), state("a", "y", None, "1"), grant("1")];
    import(&lines_in(&dir, "first", &first), &data);
    let long = |bytes: usize| state("a", "x", None, &format!("\"{}\"", "x".repeat(bytes)));
    let other = state("b", "x", None, "1");
    let over = [state("a", "x", None, "2"), state("a", "x", None, "3"), state("a", "z", None, "4")];
    let check = |limit: &str, lines: &[String], wrong: Option<String>| {
        let input = lines_in(&dir, "in", lines);
        let command = store(&["import", input.to_str().unwrap(), "--limit", limit], &data);
        let Some(wrong) = wrong else { return drop(good(command)) };
        let before = contents(&data);
        assert_eq!(bad(command, 1), format!("{}: {wrong}", input.display()));
        same_store(&before, &data);
    };
    for (name, max, lines, wrong) in [
        ("states_per_namespace", 2, &over[..], Some((4, "states"))),
        ("states_per_namespace", 2, &over[..2], None),
        ("grants_per_namespace", 1, &[grant("1"), grant("2")], Some((3, "grants"))),
        ("namespaces", 1, &[namespace("a", "k"), namespace("b", "k")], Some((3, "namespaces"))),
        ("states", 2, &[namespace("b", "k"), other], Some((3, "states in all"))),
        ("grants", 1, &[grant("2")], Some((2, "grants in all"))),
        ("states_bytes_per_namespace", 66, &[long(62)], Some((2, "bytes of states"))),
        ("states_bytes_per_namespace", 67, &[long(62)], None),
        ("states_bytes", 67, &[long(63)], Some((2, "bytes of states in all"))),
        // A store already over a limit may shrink.
        ("states_bytes", 64, &[long(61)], None),
    ] {
        let wrong = wrong.map(|(line, what)| {
            format!("line {line}: there would be more than {max} {what} (limit {name})")
        });
        check(&format!("{name}={max}"), lines, wrong);
    }
    let wrong = "line 2: the state is larger than 64 bytes (limit state_bytes)";
    check("state_bytes=64", &[long(63)], Some(wrong.into()));
    check("state_bytes=64", &[long(62)], None);
    let wrong = "line 2: longer than 70190 bytes (limit state_bytes)";
    check("state_bytes=64", &["x".repeat(80_000)], Some(wrong.into()));
}
