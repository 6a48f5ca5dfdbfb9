//! `fws store export` and `check` beside a server that works: each export is whole, of one moment,
//! and has everything that was acknowledged before it began.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::common::command::{Ran, bad, good, run};
use crate::common::control::frame;
use crate::common::eventually;
use crate::common::export::{END, START, import, lines_in, state, store};
use crate::common::server::{Dir, Options, Server, mode};
use fws::sim::Prng;
use serde_json::{Value, json};

/// Channels that each back end writes to, besides `first` and `second`.
const CHANNELS: usize = 3000;
/// States that only make an export take its time.
const STILL: usize = 5000;
/// Commands on their way at a time.
const WINDOW: usize = 20;

/// A back end that sets states for as long as the server lives: `first-N` and then `second-N` to
/// the same number, and others to numbers that grow as well.
struct Load {
    number: usize,
    /// The last number whose reply has come.
    acknowledged: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(server: &Server, number: usize) -> Load {
        let mut control = server.controller("demo");
        let acknowledged = Arc::new(AtomicU64::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let (known, over) = (acknowledged.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            let mut prng = Prng::new(number as u64);
            let set = |channel: &str, n: u64| {
                let body = format!(r#"{{"action":"set","channel":"{channel}","data":{n}}}"#);
                frame(body.as_bytes())
            };
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                let mut bytes = Vec::new();
                for _ in 0..WINDOW {
                    n += 1;
                    bytes.extend(set(&format!("first-{number}"), n));
                    let other = prng.below(CHANNELS);
                    bytes.extend(set(&format!("other-{number}-{other}"), n));
                    bytes.extend(set(&format!("second-{number}"), n));
                }
                control.send_raw(&bytes);
                for _ in 0..3 * WINDOW {
                    match control.next() {
                        Ok(Some(reply)) => assert_eq!(reply, r#"{"success":true}"#),
                        // The server was killed.
                        _ => return,
                    }
                }
                known.store(n, Ordering::Release);
            }
        });
        Load { number, acknowledged, is_over, thread }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }

    /// Checks an export that began when everything up to `known` was acknowledged.
    fn check(&self, states: &BTreeMap<String, u64>, known: u64) {
        let number = self.number;
        let of = |name: &str| states.get(&format!("{name}-{number}")).copied().unwrap_or(0);
        let (first, second) = (of("first"), of("second"));
        assert!(second >= known, "{second} of {known} that were acknowledged");
        assert!(first == second || first == second + 1, "{first} before {second}: two moments");
        // Replay: what each of the others was at that moment.
        let (mut prng, mut others) = (Prng::new(number as u64), BTreeMap::new());
        let mut last = None;
        for n in 1..=first {
            let other = format!("other-{number}-{}", prng.below(CHANNELS));
            if n == first {
                last = Some(other.clone());
            }
            others.insert(other, n);
        }
        let prefix = format!("other-{number}-");
        let found: BTreeMap<_, _> =
            states.iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
        for (name, n) in &others {
            let is_last = first > second && last.as_ref() == Some(name);
            assert!(found.get(name) == Some(&n) || is_last, "{name}: {:?}, {n}", found.get(name));
        }
        assert!(found.len() <= others.len());
    }
}

/// Reads an export, which must be whole.
fn states(export: &Path) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(export).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], *lines.last().unwrap()), (START, END));
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let states = lines.filter(|line| line["kind"] == "state");
    let named = |line: Value| {
        (line["channel"].as_str().unwrap().to_owned(), line["data"].as_u64().unwrap())
    };
    states.map(named).collect()
}

fn export(dir: &Dir, data: &Path, name: &str) -> Command {
    let file = dir.file(name);
    let mut command = store(&["export", file.to_str().unwrap()], data);
    command.env("TMPDIR", dir.file("scratch"));
    command
}

/// Whether an export has begun its copy in this folder, or has ended.
fn has_copy(child: &mut Child, scratch: &Path) -> bool {
    let files = fs::read_dir(format!("/proc/{}/fd", child.id())).into_iter().flatten().flatten();
    let mut paths = files.filter_map(|file| fs::read_link(file.path()).ok());
    paths.any(|path| path.starts_with(scratch)) || child.try_wait().unwrap().is_some()
}

#[test]
fn exports_beside_a_server_under_load_are_of_one_moment() {
    let server = Server::new();
    let (dir, data) = (Dir::new(), server.dir().file("data"));
    fs::create_dir(dir.file("scratch")).unwrap();
    let loads: Vec<_> = (0..3).map(|number| Load::start(&server, number)).collect();
    for round in 0..20 {
        // They go on between the exports.
        let least = 40 * (round + 1);
        for load in &loads {
            eventually("states are set", || (load.acknowledged() >= least).then_some(()));
        }
        let name = format!("{round}.jsonl");
        let known: Vec<u64> = loads.iter().map(Load::acknowledged).collect();
        assert_eq!(good(export(&dir, &data, &name)), "");
        let file = dir.file(&name);
        assert_eq!(mode(&file), 0o600);
        let states = states(&file);
        loads.iter().zip(known).for_each(|(load, known)| load.check(&states, known));
        if round % 5 == 0 {
            import(&file, &dir.file(&format!("copy {round}")));
            let mut check = store(&["check", "--json"], &data);
            check.env("TMPDIR", dir.file("scratch"));
            let report: Value = serde_json::from_str(&good(check)).unwrap();
            assert!(report["states"].as_u64().unwrap() >= states.len() as u64, "{report}");
        }
    }
    loads.into_iter().for_each(Load::end);
    // Nothing but the exports is left behind.
    assert_eq!(fs::read_dir(dir.file("scratch")).unwrap().count(), 0);
    let home = server.stop();
    assert!(good(store(&["check"], &home.file("data"))).contains("is whole"));
}

#[test]
fn an_export_survives_that_the_server_is_killed_or_restarted() {
    let (dir, mut home) = (Dir::new(), Dir::new());
    fs::create_dir(dir.file("scratch")).unwrap();
    // So many that an export takes its time.
    let mut lines = vec![json!({ "kind": "namespace", "name": "demo", "key": null }).to_string()];
    lines.extend((0..STILL).map(|n| state("demo", &format!("still-{n}"), None, "7")));
    import(&lines_in(&dir, "in", &lines), &home.file("data"));
    let mut beside = 0;
    for round in 0..10 {
        let server = Server::start_in(home, &Options::default());
        let data = server.dir().file("data");
        let load = Load::start(&server, round);
        eventually("states are set", || (load.acknowledged() >= 100).then_some(()));
        let (name, known) = (format!("{round}.jsonl"), load.acknowledged());
        let mut child = export(&dir, &data, &name).spawn().unwrap();
        // Not before it has found the folder in use: else it has the folder when a server starts.
        eventually("it copies", || has_copy(&mut child, &dir.file("scratch")).then_some(()));
        eventually("more are set", || (load.acknowledged() >= known + 20).then_some(()));
        beside += usize::from(child.try_wait().unwrap().is_none());
        home = if round % 2 == 0 { server.crash() } else { server.stop() };
        let server = Server::start_in(home, &Options::default());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let states = states(&dir.file(&name));
        load.check(&states, known);
        assert_eq!(states.values().filter(|n| **n == 7).count() / STILL, 1);
        load.end();
        home = server.stop();
    }
    assert!(beside > 0, "each export had ended before its server did");
}

/// Without room for the copy, and with the seal gone, an export says what to do and leaves nothing.
#[test]
fn an_export_that_fails_leaves_no_file() {
    let server = Server::new();
    let (dir, data) = (Dir::new(), server.dir().file("data"));
    server.controller("demo").ok(r#"{"action":"set","channel":"c","data":1}"#);
    let line = bad(export(&dir, &data, "one"), 1);
    assert!(line.contains("is in use by process ") && line.contains("TMPDIR"), "{line}");
    fs::create_dir(dir.file("scratch")).unwrap();
    fs::rename(data.join("store.seal"), data.join("aside")).unwrap();
    let line = bad(export(&dir, &data, "one"), 1);
    assert!(line.contains("store.seal") && line.contains("Try again, or stop it"), "{line}");
    fs::rename(data.join("aside"), data.join("store.seal")).unwrap();
    assert!(!dir.file("one").exists());
    assert_eq!(good(export(&dir, &data, "one")), "");
    assert_eq!(states(&dir.file("one")).get("c"), Some(&1));
    let Ran { code, err, .. } = run(export(&dir, &data, "one"));
    assert!(code == Some(1) && err.contains("is there already"), "{err}");
}

/// Its file gets its name when it is complete, so that neither a signal nor a power cut can leave a
/// part of it.
#[test]
fn a_part_of_an_export_never_has_its_name() {
    let (dir, home) = (Dir::new(), Dir::new());
    let mut lines = vec![json!({ "kind": "namespace", "name": "demo", "key": null }).to_string()];
    lines.extend((0..STILL).map(|n| state("demo", &format!("still-{n}"), None, "7")));
    import(&lines_in(&dir, "in", &lines), &home.file("data"));
    let folder = dir.file("exports");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("one");
    let start = || {
        let command = &mut store(&["export", file.to_str().unwrap()], &home.file("data"));
        command.spawn().unwrap()
    };
    let names = || -> Vec<_> {
        let entries = fs::read_dir(&folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    // One that ends as it should, and one that is killed as soon as it has made a file.
    let mut child = start();
    let ended = eventually("it ends", || {
        assert!(!file.exists() || states(&file).len() == STILL);
        child.try_wait().unwrap()
    });
    assert!(ended.success());
    assert_eq!(names(), ["one"]);
    fs::remove_file(&file).unwrap();
    let mut child = start();
    let name = eventually("it has made a file", || names().pop());
    child.kill().unwrap();
    child.wait().unwrap();
    let is_unfinished = name.starts_with(".new-") && name.ends_with("-one");
    assert!(is_unfinished || name == "one", "{name}");
    assert!(!file.exists() || states(&file).len() == STILL);
    // The next one, of whatever name, removes what is an hour old, and only what is an export's.
    let foreign = [".new-0123456789abcdef", ".new-0123456789ABCDEF-a", ".new-notes"];
    foreign.iter().for_each(|name| fs::write(folder.join(name), "mine").unwrap());
    let [running, fresh] = [".new-00000000000000cc-two", ".new-00000000000000dd-two"];
    let writer = fs::File::create(folder.join(running)).unwrap();
    writer.lock().unwrap();
    fs::write(folder.join(".new-0123456789abcdef-two"), "half").unwrap();
    for name in names() {
        let file = fs::File::options().write(true).open(folder.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3601)).unwrap();
    }
    fs::write(folder.join(fresh), "half").unwrap();
    let next = folder.join("three");
    store(&["export", next.to_str().unwrap()], &home.file("data")).output().unwrap();
    let mut left = names();
    left.retain(|name| name != "one");
    left.sort();
    assert_eq!(left, [running, fresh, foreign[1], foreign[0], foreign[2], "three"]);
}
