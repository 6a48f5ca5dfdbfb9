//! The server as a process: signals, descriptors, listeners, and its log.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::browser::{Browser, Heard};
use crate::common::control::{Control, DONE, PING, frame};
use crate::common::server::{Dir, Options, Server, mode, run_to_end};
use crate::common::web::Http;
use crate::common::wire::Wire;
use crate::common::{DEADLINE, eventually, http};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::json;

#[test]
fn a_stop_signal_notifies_all_clients_and_exits_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(&Options { unix: true, ..Options::default() });
        let mut raw = server.browser("demo", r#"{"i":1}"#);
        let mut sockjs = Browser::sockjs(server.ws);
        sockjs.auth("demo", r#"{"i":2}"#);
        let mut tcp = server.controller("demo");
        let mut unix = Control::unix(&server.socket());
        assert_eq!(unix.ask(PING), DONE);
        let half_open = TcpStream::connect(server.ws).unwrap();
        kill_process(server.pid(), signal).unwrap();
        // Two browsers need only a short delay before they reconnect.
        let delays_ms = [raw.expect_going_away(), sockjs.expect_going_away()];
        assert!(delays_ms.iter().all(|ms| (1000..2000).contains(ms)), "{delays_ms:?}");
        tcp.expect_closed();
        unix.expect_closed();
        let socket = server.socket();
        drop(half_open);
        let _dir = server.exited();
        assert!(!socket.exists(), "the socket file is left behind");
    }
}

#[test]
fn simultaneous_stop_signals_count_as_one() {
    let server = Server::new();
    let mut browsers: Vec<Browser> =
        (1..=40).map(|n| server.browser("demo", &format!(r#"{{"i":{n}}}"#))).collect();
    // The first one wakes the server, the others arrive while it works.
    (0..3).for_each(|_| server.terminate());
    for browser in &mut browsers {
        browser.expect_going_away();
    }
    server.exited();
}

#[test]
fn a_stop_signal_during_the_start_exits_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = Dir::new();
        let mut command = Options::default().command(&dir);
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("starting version") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it has not started");
        }
        kill_process(Pid::from_child(&process), signal).unwrap();
        // Read the rest of its log, so that a full pipe does not block it.
        std::io::copy(&mut log, &mut std::io::sink()).unwrap();
        assert!(process.wait().unwrap().success());
    }
}

#[test]
fn other_signals_do_not_stop_the_server() {
    let server = Server::new();
    let mut control = server.controller("demo");
    for signal in [Signal::USR1, Signal::USR2, Signal::PIPE] {
        kill_process(server.pid(), signal).unwrap();
        assert_eq!(control.ask(PING), DONE);
    }
    server.stop();
}

#[test]
fn commands_that_arrived_before_sigterm_are_carried_out() {
    let server = Server::new();
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("c");
    let mut control = server.controller("demo");
    // Far more than one turn carries out, all received before the signal.
    let push =
        |n: usize| frame(format!(r#"{{"action":"push","channel":"l","data":{n}}}"#).as_bytes());
    let mut commands: Vec<u8> = (0..2000).flat_map(push).collect();
    commands.extend(frame(br#"{"action":"emit","channel":"c","data":"important"}"#));
    server.freeze();
    control.send_raw(&commands);
    server.terminate();
    server.thaw();
    for n in 0..2001 {
        assert_eq!(control.next(), Ok(Some(DONE.into())), "after {n}");
    }
    control.expect_closed();
    browser.expect(r#"{"event":"c","data":"important"}"#);
    browser.expect_going_away();
    server.exited();
}

#[test]
fn many_commands_before_a_reset_are_all_carried_out() {
    let server = Server::new();
    let mut watcher = server.controller("demo");
    for n in 0..5 {
        let mut control = server.controller("demo");
        let push = |i: usize| {
            frame(format!(r#"{{"action":"push","channel":"l{n}","data":{i}}}"#).as_bytes())
        };
        let commands: Vec<u8> = (0..500).flat_map(push).collect();
        // More than a turn carries out has arrived, and the reset behind it.
        server.freeze();
        control.send_raw(&commands);
        control.reset();
        server.thaw();
        let get = format!(r#"{{"action":"get","channel":"l{n}"}}"#);
        let all = serde_json::to_string(&(0..500).collect::<Vec<_>>()).unwrap();
        eventually("all is carried out", || (watcher.ask(&get) == all).then_some(()));
    }
}

#[test]
fn commands_that_arrive_after_sigterm_do_not_delay_the_stop() {
    let server = Server::start(&Options::limits(&[("drain_ms", 600_000)]));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let mut wire = server.controller("demo").wire;
            let mut replies = wire.another();
            scope.spawn(move || {
                let pings = frame(PING.as_bytes()).repeat(100);
                while wire.write_all(&pings).is_ok() {}
            });
            scope.spawn(move || replies.read_rest());
        }
        let mut control = server.control();
        assert_eq!(control.ask(PING), DONE);
        server.terminate();
        server.exited();
    });
}

#[test]
fn a_lingering_connection_does_not_delay_the_stop() {
    let limits = [("close_ms", 600_000), ("drain_ms", 600_000)];
    let server = Server::start(&Options::limits(&limits));
    let mut refused = Browser::raw(server.ws);
    refused.say(r#"{"event":"auth","data":{"i":"demo","s":"a.b.c"}}"#);
    // It has received its close frame, and stays connected.
    assert_eq!(refused.next().unwrap(), Heard::Close(3404, "invalid JWT".into()));
    server.stop();
}

#[test]
fn no_connection_is_accepted_during_the_drain() {
    let mut server = Server::new();
    // Delays the drain: it neither reads nor disconnects.
    let mut silent = server.browser("demo", r#"{"i":1}"#);
    silent.subscribe("big");
    let mut control = server.controller("demo");
    let data = "x".repeat(4_000_000);
    control.ok(&format!(r#"{{"action":"emit","channel":"big","data":"{data}","params":{{}}}}"#));
    server.terminate();
    control.expect_closed();
    eventually("the listeners are closed", || TcpStream::connect(server.ws).err());
    eventually("the listeners are closed", || TcpStream::connect(server.control).err());
    // A second signal ends the drain. One right behind the first does not count as a second.
    let start = Instant::now();
    eventually("it ends", || {
        server.terminate();
        server.exit_code()
    });
    assert!(start.elapsed() < Duration::from_secs(5), "the drain went on");
}

#[test]
fn the_drain_has_a_deadline() {
    let server = Server::start(&Options::limits(&[("drain_ms", 300)]));
    let mut silent = server.browser("demo", r#"{"i":1}"#);
    silent.subscribe("big");
    let mut control = server.controller("demo");
    let data = "x".repeat(4_000_000);
    control.ok(&format!(r#"{{"action":"emit","channel":"big","data":"{data}","params":{{}}}}"#));
    server.stop();
}

#[test]
fn a_full_server_answers_503_until_a_connection_closes() {
    let mut server = Server::start(&Options { descriptors: Some(80), ..Options::default() });
    let room = "room for 16 connections (80 descriptors)";
    assert!(server.log().iter().any(|line| line.ends_with(room)), "{:#?}", server.log());
    let mut inside: Vec<Browser> = (0..16).map(|_| Browser::raw(server.ws)).collect();
    let ask = || http::request(server.ws, "GET /socket/info", &[]).unwrap();
    let answer = ask();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    let full = |line: &&String| line.contains("full: 16 connections are open");
    eventually("it is logged", || server.log().iter().find(full).cloned());
    inside.iter_mut().for_each(Browser::nothing);
    inside.pop();
    eventually("there is room", || (ask().status == 200).then_some(()));
    drop(inside);
    server.assert_alive();
}

#[test]
fn too_few_descriptors_are_refused_in_one_line() {
    for count in [12, 60, 79] {
        let dir = Dir::new();
        let options = Options { descriptors: Some(count), ..Options::default() };
        let (code, said) = run_to_end(options.command(&dir));
        let line = format!(
            "fws: this process may have {count} file descriptors, and it takes 80 at least: raise \
             that limit (ulimit -n)"
        );
        assert_eq!((code, said), (Some(1), line));
        assert!(!dir.file("data").exists(), "nothing is created before");
    }
}

#[test]
fn browsers_do_not_take_the_slots_of_back_ends() {
    let server = Server::start(&Options { descriptors: Some(80), ..Options::default() });
    let mut browsers: Vec<Browser> =
        (1..=16).map(|n| server.browser("demo", &format!(r#"{{"i":{n}}}"#))).collect();
    let _more: Vec<Wire> = (0..40).map(|_| Wire::tcp(server.ws)).collect();
    browsers[0].subscribe("c");
    let mut controls: Vec<Control> = (0..20).map(|_| server.control()).collect();
    for control in &mut controls {
        control.auth("demo");
    }
    controls[19].ok(r#"{"action":"emit","channel":"c","data":1}"#);
    browsers[0].expect(r#"{"event":"c","data":1}"#);
    // Slots of back ends are limited too.
    let mut late = server.control();
    late.send(PING);
    controls[0].nothing();
    controls.pop();
    assert_eq!(late.recv(), DONE);
}

#[test]
fn a_listener_that_is_often_full_does_not_flood_the_log() {
    let mut server = Server::start(&Options { descriptors: Some(80), ..Options::default() });
    let start = Instant::now();
    let full = |line: &&String| line.contains("full: 16 connections are open");
    for _ in 0..100 {
        let crowd: Vec<_> = (0..20).map(|_| Wire::tcp(server.ws)).collect();
        crowd.into_iter().for_each(Wire::reset);
    }
    // On a busy machine many of them are still in the kernel's accept queue, which is full.
    eventually("the crowd has gone", || {
        let mut newcomer = Http::connect(server.ws);
        newcomer.send("GET /socket/info", &[], "");
        newcomer.head().status.eq(&200).then_some(())
    });
    server.assert_alive();
    server.told("full: 16 connections are open");
    let told = server.log().iter().filter(full).count() as u64;
    assert!((1..=1 + start.elapsed().as_secs() / 10).contains(&told), "{told} times");
}

/// Of the 64 reserved descriptors, 36 are for connections, and three for files opened briefly.
#[test]
fn descriptors_open_at_rest_fit_into_the_reserve() {
    let dir = Dir::new();
    let mut options = Options { unix: true, ..Options::default() };
    options.config["admin"] = "127.0.0.1:0".into();
    options.config["ws_unix"] = dir.file("ws.sock").display().to_string().into();
    let manager = std::os::unix::net::UnixDatagram::bind(dir.file("notify")).unwrap();
    let mut command = options.command(&dir);
    command.env("NOTIFY_SOCKET", dir.file("notify"));
    let server = Server::spawn(command, dir, false);
    server.controller("demo").ok(r#"{"action":"set","channel":"c","data":1}"#);
    let path = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    // Except for three standard streams and four spare ones, which are pipes and devices, like any
    // that the parent of the tests may have passed on.
    let is_own = |link: &std::path::PathBuf| {
        let link = link.to_string_lossy();
        !link.starts_with("pipe:") && !link.starts_with("/dev/")
    };
    let own = || {
        let entries = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
        entries.filter_map(|it| it.read_link().ok()).filter(is_own).count()
    };
    assert!(own() >= 14, "{}", own());
    eventually("no more than 25 are open", || (own() <= 25 - 7).then_some(()));
    drop(manager);
}

#[test]
fn the_server_runs_out_of_descriptors_and_accepts_again() {
    let mut options = Options::default();
    options.config["admin"] = json!("127.0.0.1:0");
    let mut server = Server::start(&options);
    let mut first = server.controller("demo");
    // Only the soft limit, which can be raised again; the hard one is inherited.
    let generous = getrlimit(Resource::Nofile);
    let tight = Rlimit { current: Some(8), ..generous };
    prlimit(Some(server.pid()), Resource::Nofile, tight).unwrap();
    // A browser waits to be accepted; back ends still are, as long as there are spare descriptors.
    let browser = Wire::tcp(server.ws);
    for _ in 0..4 {
        server.controller("demo").ok(r#"{"action":"ping"}"#);
    }
    let mut inside: Vec<Control> = (0..4).map(|_| server.controller("demo")).collect();
    let mut waiting = server.control();
    waiting.send(PING);
    let starved = |line: &&String| line.contains("cannot accept:");
    eventually("it is logged", || server.log().iter().find(starved).cloned());
    assert_eq!(first.ask(PING), DONE, "open connections are served");
    assert_eq!(inside[3].ask(PING), DONE, "and those accepted since");
    for _ in 0..3 {
        assert_eq!(http::request(server.admin(), "GET /healthz", &[]).unwrap().status, 200);
    }
    let generous = Rlimit { current: generous.maximum, ..generous };
    prlimit(Some(server.pid()), Resource::Nofile, generous).unwrap();
    let start = Instant::now();
    assert_eq!(waiting.recv(), DONE);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    drop(browser);
    assert_eq!(server.log().iter().filter(starved).count(), 1, "logged once");
    server.assert_alive();
}

#[test]
fn the_descriptor_table_has_its_full_size_from_the_start() {
    let server = Server::start(&Options { descriptors: Some(3000), ..Options::default() });
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
    assert!(size.trim().parse::<u64>().unwrap() >= 3000, "{size}");
}

#[test]
fn connections_given_up_without_descriptors_delay_no_newcomer() {
    let mut server = Server::new();
    // Room for a few at a time, while hundreds wait in the kernel's accept queue.
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64;
    let tight = Rlimit { current: Some(open + 8), ..getrlimit(Resource::Nofile) };
    prlimit(Some(server.pid()), Resource::Nofile, tight).unwrap();
    let crowd: Vec<Wire> = (0..600).map(|_| Wire::tcp(server.ws)).collect();
    let starved = |line: &String| line.contains("cannot accept:");
    eventually("it is logged", || server.log().iter().any(starved).then_some(()));
    drop(crowd);
    let start = Instant::now();
    let mut newcomer = Http::connect(server.ws);
    newcomer.send("GET /socket/info", &[], "");
    assert_eq!(newcomer.head().status, 200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    server.assert_alive();
}

#[test]
fn without_descriptors_accept_is_retried_ten_times_a_second() {
    let mut options = Options::default();
    options.config["admin"] = serde_json::json!("127.0.0.1:0");
    let server = Server::start(&options);
    let mut watch = Http::connect(server.admin());
    let mut count = |name: &str| -> f64 {
        watch.send("GET /metrics", &[], "");
        let page = watch.answer().body;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    };
    let tight = Rlimit { current: Some(8), ..getrlimit(Resource::Nofile) };
    count("fws_turn_seconds_count");
    prlimit(Some(server.pid()), Resource::Nofile, tight).unwrap();
    // Many connections at both listeners, more than there are spare descriptors for.
    let _crowd: Vec<Wire> = (0..50).map(|_| Wire::tcp(server.ws)).collect();
    let _others: Vec<Wire> = (0..50).map(|_| Wire::tcp(server.control)).collect();
    let starved = |line: &String| line.contains("cannot accept:");
    eventually("it is logged", || server.log().iter().any(starved).then_some(()));
    // The files that these metrics are read from are open from the start.
    let cpu_before = count("process_cpu_seconds_total");
    assert!(count("process_resident_memory_bytes") > 1e6 && count("process_open_fds") >= 3.0);
    let turns = count("fws_turn_seconds_count");
    let start = Instant::now();
    eventually("two seconds have passed", || (start.elapsed().as_secs() >= 2).then_some(()));
    let seconds = start.elapsed().as_secs_f64();
    let turns = count("fws_turn_seconds_count") - turns;
    // Ten a second, those of the two scrapes, and those of unauthenticated clients that time out.
    assert!(turns < 12.0 * seconds + 20.0, "{turns} turns in {seconds} s");
    let cpu = (count("process_cpu_seconds_total") - cpu_before) / seconds;
    assert!(cpu <= 0.05, "{cpu} of a core");
}

#[test]
fn the_unix_socket_is_open_to_owner_and_group_only() {
    let server = Server::start(&Options { unix: true, key: None, ..Options::default() });
    assert_eq!(mode(&server.socket()), 0o660);
    assert_eq!(mode(&server.dir().file("data")), 0o700);
    let mut control = Control::unix(&server.socket());
    control.auth("demo");
    assert_eq!(control.ask(PING), DONE);
}

#[test]
fn an_address_that_cannot_be_bound_is_reported_in_one_line() {
    let server = Server::new();
    let dir = Dir::new();
    let mut command = Options::default().command(&dir);
    command.arg("--ws").arg(server.ws.to_string());
    let (code, said) = run_to_end(command);
    assert_eq!(code, Some(2), "given twice: {said}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fws"));
    command.args(["serve", "--control", "127.0.0.1:0", "--ws"]).arg(server.ws.to_string());
    command.arg("--data").arg(dir.file("data"));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let (code, said) = run_to_end(command);
    assert_eq!(code, Some(1), "{said}");
    let line = said.lines().last().unwrap();
    assert!(line.contains(&format!("cannot listen on {}", server.ws)), "{said}");
    assert!(line.contains("in use"), "{said}");
    assert!(
        line.ends_with("; `ss -ltnp` shows who listens there: stop it, or choose another port")
    );
    // An address reserved for documentation, and a folder that does not exist.
    let folder = dir.file("nothing").join("fws.sock");
    for (flag, place, hint) in [
        ("--ws", "192.0.2.1:8080", "; `ip address` shows the addresses of this machine"),
        (
            "--control-unix",
            folder.to_str().unwrap(),
            "; the folder that it is to be in must be there, and writable for this user",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fws"));
        command.args(["serve", "--control", "127.0.0.1:0"]).args([flag, place]);
        if flag != "--ws" {
            command.args(["--ws", "127.0.0.1:0"]);
        }
        command.arg("--data").arg(dir.file("data"));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let (code, said) = run_to_end(command);
        assert!(code == Some(1) && said.trim_end().ends_with(hint), "{said}");
    }
}

#[test]
fn a_closed_standard_error_does_not_stop_the_server() {
    let dir = Dir::new();
    let mut child = Options::default().command(&dir).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut address = |what| {
        let line = lines.find_map(|line| Some(line.ok()?.split_once(what)?.1.to_owned()));
        line.unwrap().parse().unwrap()
    };
    let control = address("listening control=");
    let ws = address("listening ws=");
    drop(lines);
    // A refusal is logged at the stop, into a pipe that nobody reads any more.
    let mut browser = Browser::raw(ws);
    browser.say(r#"{"event":"auth","data":{"i":"demo","s":"a.b.c"}}"#);
    browser.expect_closed(3404, "invalid JWT");
    assert_eq!(Control::tcp(control).ask(PING), DONE);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = eventually("it ends", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn refusals_are_counted_and_logged_at_the_stop() {
    let server = Server::new();
    for _ in 0..3 {
        let mut browser = Browser::raw(server.ws);
        browser.say(r#"{"event":"auth","data":{"i":"demo","s":"a.b.c"}}"#);
        browser.expect_closed(3404, "invalid JWT");
    }
    let mut control = server.control();
    let wrong = control.ask(r#"{"action":"auth","name":"other","sKey":"wrong"}"#);
    assert!(wrong.contains("305"), "{wrong}");
    http::request(server.ws, "no request at all", &[]).unwrap();
    server.terminate();
    let told = |line: &&String| line.contains("refused: ");
    let line = eventually("it is logged", || server.log().iter().find(told).cloned());
    let told =
        "refused: invalid_token 3, bad_http 1, wrong_key 1; namespace \"demo\" 3, \"other\" 1";
    assert!(line.ends_with(told), "{line}");
    assert!(!line.contains("a.b.c") && !line.contains("wrong\""), "{line}");
    let start = Instant::now();
    server.exited();
    assert!(start.elapsed() < DEADLINE);
}

#[test]
fn lines_for_journald_have_a_priority_and_no_timestamp() {
    for is_journal in [true, false] {
        let dir = Dir::new();
        let file = std::fs::File::create(dir.file("journal")).unwrap();
        let (meta, other) = (file.metadata().unwrap(), u64::from(!is_journal));
        let options = json!({ "namespaces": { "demo": "short" }, "demo": true });
        let mut command = Options { config: options, ..Options::default() }.command(&dir);
        command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino() + other));
        let mut child = command.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let said = || std::fs::read_to_string(dir.file("journal")).unwrap();
        eventually("it runs", || said().contains("to try it").then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        let said = said();
        let has =
            |part: &str| said.lines().any(|line| line.starts_with("<4>") && line.contains(part));
        assert_eq!(has("warning: namespaces: the key of"), is_journal, "{said}");
        assert!(!has("listening"), "{said}");
        let is_bare = said.lines().any(|line| line.starts_with("listening "));
        assert_eq!(is_bare, is_journal, "{said}");
    }
}

#[test]
fn the_service_manager_is_notified_of_each_state() {
    let dir = Dir::new();
    let path = dir.file("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = || {
        let mut bytes = [0; 64];
        let count = manager.recv(&mut bytes).expect("a notification");
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let mut command = Options::default().command(&dir);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let server = Server::spawn(command, dir, false);
    assert_eq!(hear(), "READY=1");
    // An idle server wakes up to notify the watchdog.
    for _ in 0..3 {
        assert_eq!(hear(), "WATCHDOG=1");
    }
    server.terminate();
    while hear() != "STOPPING=1" {}
    server.exited();
}
