//! `fws bench` against a running server: every workload and transport of fws, with plausible
//! figures; and against absent or faulty servers, of which there must be no figures.
#![cfg(feature = "bench")]

mod wrong;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use crate::common::command::{bad, demo, fws, good};
use crate::common::eventually;
use crate::common::server::{DEMO_KEY, Dir, Options, Server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use wrong::{Misbehaviour, commands, replies, topics, visits};

/// The shortest possible run.
const SHORT: [&str; 4] = ["--seconds", "0.1", "--warm-up", "0.05"];

/// The outcome of a run of some seconds against fws.
fn bench_for(seconds: &str, server: &Server, words: &[&str]) -> Value {
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let pid = server.pid().to_string();
    let places = ["--ws", &ws, "--control", &control, "--pid", &pid, "--key", DEMO_KEY, "--json"];
    let time = ["--warm-up", "0.05", "--seconds", seconds];
    let text = good(fws(&[&["bench"], words, &time, &places].concat()));
    serde_json::from_str(&text).unwrap()
}

/// The outcome of the shortest possible run against fws.
fn bench(server: &Server, words: &[&str]) -> Value {
    bench_for("0.1", server, words)
}

/// The outcome of a run that counts this many of something; longer where a busy machine manages
/// less in a short one.
#[track_caller]
fn until(name: &str, least: f64, run: impl Fn(&str) -> Value) -> Value {
    for seconds in ["0.1", "1"] {
        let outcome = run(seconds);
        if figure(&outcome, name) >= least {
            return outcome;
        }
    }
    let outcome = run("10");
    assert!(figure(&outcome, name) >= least, "{outcome}");
    outcome
}

/// A run against fws that counts this many of something.
#[track_caller]
fn counted(name: &str, least: f64, server: &Server, words: &[&str]) -> Value {
    until(name, least, |seconds| bench_for(seconds, server, words))
}

fn figure(outcome: &Value, name: &str) -> f64 {
    outcome[name].as_f64().unwrap_or_else(|| panic!("no {name} in {outcome}"))
}

#[test]
fn messages_reach_subscribers_over_every_transport() {
    let server = Server::new();
    for to in ["fws", "sockjs", "xhr-streaming"] {
        // Enough bytes that a streamed HTTP answer ends and must be requested again.
        let words = ["broadcast", "--to", to, "--subscribers", "5", "--bytes", "8000"];
        let outcome = counted("deliveries", 5.0, &server, &words);
        assert_eq!((&outcome["to"], &outcome["workload"]), (&to.into(), &"broadcast".into()));
        let (p50, max) = (figure(&outcome, "latency_p50_us"), figure(&outcome, "latency_max_us"));
        assert!(p50 <= max && max < 10e6, "{outcome}");
        assert!(figure(&outcome, "rss_bytes") > 1e6, "{outcome}");
        counted("deliveries", 1.0, &server, &["unicast", "--to", to, "--subscribers", "20"]);
    }
    let outcome = bench(&server, &["rate", "--subscribers", "5", "--per-second", "200"]);
    let published = figure(&outcome, "published");
    assert_eq!(figure(&outcome, "per_second"), 200.0, "{outcome}");
    assert_eq!(figure(&outcome, "warm_up_seconds"), 0.05, "{outcome}");
    assert_eq!(outcome["namespace"], "demo", "{outcome}");
    assert!((5.0..=40.0).contains(&published), "{outcome}");
    let words = ["slow", "--subscribers", "5", "--stalled", "2", "--per-second", "200"];
    let outcome = bench(&server, &words);
    assert_eq!(figure(&outcome, "stalled_cut"), 0.0, "{outcome}");
    assert!(figure(&outcome, "stalled_latency_p99_us") > 0.0, "{outcome}");
}

#[test]
fn workloads_run_over_unix_sockets() {
    let dir = Dir::new();
    let [ws, control] =
        ["ws.sock", "control.sock"].map(|name| dir.file(name).display().to_string());
    let mut options = Options::default();
    (options.config["ws_unix"], options.config["control_unix"]) = (json!(ws), json!(control));
    let server = Server::start(&options);
    let places = ["--ws-unix", &ws, "--control-unix", &control, "--key", DEMO_KEY, "--json"];
    for (workload, what) in
        [("control", "replies"), ("broadcast", "deliveries"), ("churn", "visits")]
    {
        let words = ["bench", workload, "--subscribers", "5", "--warm-up", "0.05"];
        until(what, 1.0, |seconds| {
            let text = good(fws(&[&words[..], &["--seconds", seconds], &places].concat()));
            serde_json::from_str(&text).unwrap()
        });
    }
    server.stop();
    let line = bad(fws(&[&["bench", "control"], &SHORT[..], &places[..6]].concat()), 1);
    assert!(line.contains(&format!("unix:{control}")), "{line}");
}

#[test]
fn idle_churn_and_control_workloads_run() {
    let server = Server::new();
    for words in [&["idle", "--subscribers", "50"][..], &["idle", "--own-channel"]] {
        let outcome = bench(&server, words);
        assert!(figure(&outcome, "pss_full_bytes") > 1e6, "{outcome}");
    }
    counted("visits", 1.0, &server, &["churn", "--in-flight", "20"]);
    for command in ["set", "get", "emit"] {
        for connections in ["1", "3"] {
            let words = ["control", "--command", command, "--connections", connections];
            let outcome = counted("replies", 1.0, &server, &words);
            assert_eq!(outcome["command"], command);
        }
    }
}

/// More connections than may be unauthenticated at a time.
#[test]
fn control_runs_with_hundreds_of_connections() {
    let server = Server::new();
    let words = ["control", "--command", "emit", "--connections", "300"];
    let outcome = counted("replies", 1.0, &server, &words);
    assert_eq!(figure(&outcome, "connections"), 300.0, "{outcome}");
}

#[test]
fn an_idle_run_accepts_a_silent_server() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let place = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
    // Longer than the timeout for an answer, and shorter than the interval between pings.
    let words = ["bench", "idle", "--subscribers", "2", "--warm-up", "10.2", "--seconds", "0.1"];
    good(fws(&[&words[..], &place].concat()));
}

#[test]
fn an_idle_run_fails_when_the_server_stops() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let place = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
    let words = ["bench", "idle", "--subscribers", "2", "--seconds", "20"];
    let are_there = || {
        let found = good(demo(&server, &["info", "demo", "bench"]));
        found.starts_with("2 users, 2 connections").then_some(())
    };
    let ends = std::thread::scope(|scope| {
        let bench = scope.spawn(|| bad(fws(&[&words[..], &place].concat()), 1));
        eventually("they are subscribed", are_there);
        kill_process(server.pid(), Signal::TERM).unwrap();
        bench.join().unwrap()
    });
    assert!(ends.contains(": 1001 server going away"), "{ends}");
}

#[test]
fn a_rate_that_nobody_can_keep_up_with_is_an_error() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let place = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
    let words = ["bench", "rate", "--subscribers", "2", "--per-second", "10000000"];
    let line = bad(fws(&[&words[..], &SHORT, &place].concat()), 1);
    assert!(line.starts_with("nobody keeps up: ") && line.ends_with(" more are due"), "{line}");
}

#[test]
fn the_default_output_is_a_table() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let words = ["bench", "broadcast", "--ws", &ws, "--control", &control, "--key", DEMO_KEY];
    let text = good(fws(&[&words[..], &SHORT, &["--subscribers", "2"]].concat()));
    let head = "broadcast to fws, 128 bytes, 16 in flight, after 0.05 s of warm-up\n  subscribers ";
    assert!(text.starts_with(head), "{text}");
    for part in ["deliveries", " a second\n", "latency p99.9"] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    assert!(!text.contains("server cpu"), "{text}");
}

#[test]
fn wrong_arguments_and_addresses_are_explained_in_one_line() {
    let server = Server::new();
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    let place = ["--ws", &ws, "--control", &control];
    let wrong = |words: &[&str]| fws(&[&["bench"], words, &place].concat());
    let line = bad(wrong(&["broadcast", "--key", "not-the-key", "--subscribers", "2"]), 1);
    assert!(line.ends_with("(is the key the one of that namespace?)"), "{line}");
    let line = bad(wrong(&["control", "--key", "not-the-key"]), 1);
    let key = "(is the key the one of that namespace?)";
    let refused =
        "the server refuses: {\"success\":false,\"reason\":\"Invalid sKey\",\"code\":305}";
    assert_eq!(line, format!("{control}: {refused} {key}"));
    for to in ["fws", "sockjs", "xhr-streaming"] {
        let line = bad(wrong(&["churn", "--key", "not-the-key", "--to", to]), 1);
        assert!(line.starts_with(&format!("{ws}: visitor ")), "{line}");
        let said = if to == "fws" { "3404 invalid JWT" } else { "c[3404,\"invalid JWT\"]" };
        assert!(line.ends_with(&format!("was closed too early: {said} {key}")), "{line}");
    }
    // The control port, given as the web port.
    let crossed = ["bench", "idle", "--key", DEMO_KEY, "--ws", &control];
    let line = bad(fws(&crossed), 1);
    assert!(line.contains(&control) && line.ends_with("(is it the right port?)"), "{line}");
    for (words, part) in [
        (&["fly"][..], "\"fly\" is none of broadcast, unicast,"),
        (&["idle", "--to", "redis"], "--to redis can do control only, with set or get"),
        (&["control", "--to", "redis", "--command", "emit"], "--to redis can do control only"),
        (&["control", "--to", "nats"], "control is only for --to fws and redis"),
        (&["idle", "--bytes", "5"], "--bytes: a message has from 32 to 32768 bytes"),
        (&["idle", "--seconds", "0"], "--seconds: \"0\" is not a number from 0.05"),
        (&["slow", "--stalled", "1000"], "--stalled: nobody is left who reads"),
        (
            &["broadcast", "--in-flight", "65537"],
            "--in-flight: at most 65536 of them can be in flight",
        ),
        (&["idle", "--subscribers", "many"], "\"many\" is not a number from 1 to 10000000"),
    ] {
        let line = bad(wrong(&[words, &["--key", DEMO_KEY]].concat()), 2);
        assert!(line.contains(part), "{line}");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for words in [&["broadcast"][..], &["idle"], &["churn"], &["control"]] {
        let place = ["--ws", &free, "--control", &free, "--key", DEMO_KEY];
        let line = bad(fws(&[&["bench"], words, &place].concat()), 1);
        assert!(line.starts_with(&format!("{free}: ")), "{line}");
        assert!(line.ends_with(&format!("; nobody listens at {free}")), "{line}");
    }
}

#[test]
fn stalled_subscribers_that_are_disconnected_are_counted() {
    let mut options = Options::default();
    options.config["limits"] = json!({ "backlog_bytes": 500_000, "backlog_ms": 500 });
    let server = Server::start(&options);
    let (ws, control) = (server.ws.to_string(), server.control.to_string());
    // In four seconds 12 MB are published, more than the kernel buffers: the stalled subscribers
    // are disconnected meanwhile, and learn it when they read again. Others may be delayed by a
    // busy machine.
    let words = ["bench", "slow", "--subscribers", "4", "--stalled", "2", "--bytes", "30000"];
    let more = ["--per-second", "100", "--warm-up", "0.05", "--seconds", "4", "--json"];
    let places = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
    for to in ["fws", "xhr-streaming"] {
        let text = good(fws(&[&words[..], &more, &places, &["--to", to]].concat()));
        let outcome: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(figure(&outcome, "stalled_cut"), 2.0, "{outcome}");
    }
}

#[test]
fn subscribers_send_the_given_origin() {
    let mut options = Options::default();
    options.config["allow_origin"] = json!(["https://shop.example"]);
    let server = Server::start(&options);
    for to in ["fws", "sockjs", "xhr-streaming"] {
        let words = ["broadcast", "--subscribers", "2", "--to", to];
        bench(&server, &[&words[..], &["--origin", "https://shop.example"]].concat());
        let (ws, control) = (server.ws.to_string(), server.control.to_string());
        let place = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
        let line = bad(fws(&[&["bench"], &words[..], &place].concat()), 1);
        assert!(line.contains("HTTP/1.1 403") && line.contains("--origin"), "{line}");
    }
}

/// A Redis in protected mode refuses clients that do not connect from 127.0.0.1.
#[test]
fn control_connections_come_from_127_0_0_1() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.1");
        stream.write_all(b"-DENIED Redis is running in protected mode\r\n").unwrap();
        // The client may close at any moment.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let line = bad(fws(&["bench", "control", "--to", "redis", "--control", &at]), 1);
    let said = "the server refuses: -DENIED Redis is running in protected mode";
    assert!(line.starts_with(&format!("{at}: {said}")), "{line}");
    server.join().unwrap();
}

/// A run against a topic server that misbehaves at the message with this number.
fn against(misbehaviour: Misbehaviour, number: u64, words: &[&str]) -> std::process::Command {
    let at = topics(misbehaviour, number);
    let to = ["--to", "topic", "--ws", &at.to_string(), "--bytes", "64", "--json"];
    fws(&[&["bench"], words, &["--warm-up", "0.05"], &to].concat())
}

#[test]
fn a_misbehaving_server_fails_the_run() {
    let words = ["broadcast", "--subscribers", "2", "--in-flight", "4", "--seconds", "0.1"];
    for (misbehaviour, part) in [
        (Misbehaviour::Loses, "message 2 came to subscriber 1 too early: one is lost (not 1)"),
        (Misbehaviour::Doubles, "message 1 came to subscriber 1 twice or late (not 2)"),
        (Misbehaviour::Swaps, "message 2 came to subscriber 1 too early: one is lost (not 1)"),
        (Misbehaviour::Closes, "the server has closed "),
        (Misbehaviour::Garbles, "a message came that nobody had published: 0000000001xxx?xx"),
    ] {
        let line = bad(against(misbehaviour, 1, &words), 1);
        assert!(line.contains(part), "{line}");
    }
    // The recipients are random, but each one soon receives another message.
    let words = ["unicast", "--subscribers", "2", "--seconds", "5"];
    let line = bad(against(Misbehaviour::Loses, 20, &words), 1);
    assert!(line.contains(" too early: one is lost "), "{line}");
}

/// Pings do not count as messages.
#[test]
fn a_server_that_only_pings_fails_the_run() {
    let check = |workload| {
        let words = [workload, "--subscribers", "2", "--in-flight", "4", "--seconds", "0.5"];
        let line = bad(against(Misbehaviour::Pings, 5, &words), 1);
        assert!(line.starts_with("nothing that is waited for has come for 10 s: "), "{line}");
        assert!(line.contains(" messages under way, the oldest to 2 subscribers"), "{line}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| check("rate"));
        check("broadcast");
    });
}

#[test]
fn messages_lost_for_stalled_subscribers_are_noticed() {
    let words = ["slow", "--subscribers", "2", "--stalled", "1", "--per-second", "100"];
    let misbehaviour =
        against(Misbehaviour::Forgets, 150, &[&words[..], &["--seconds", "1"]].concat());
    let line = bad(misbehaviour, 1);
    assert!(line.contains("0 messages under way, 1 who did not read have not had all"), "{line}");
}

/// The run ends while the server stalls: messages in flight count, however late they arrive.
#[test]
fn answers_after_the_end_of_the_run_count() {
    let outcome = |command| serde_json::from_str::<Value>(&good(command)).unwrap();
    let stall = Duration::from_millis(1500);
    let words = ["rate", "--subscribers", "2", "--per-second", "50", "--seconds", "0.5"];
    let found = outcome(against(Misbehaviour::Stalls(stall), 10, &words));
    for name in ["latency_p50_us", "last_latency_p50_us", "latency_max_us"] {
        assert!(figure(&found, name) > 1e6, "{name} in {found}");
    }
    // What had arrived by then; some of it before measuring began.
    let (published, deliveries) = (figure(&found, "published"), figure(&found, "deliveries"));
    assert!(published >= 25.0 && deliveries <= 20.0, "{found}");

    let at = commands(stall).to_string();
    let more = ["--in-flight", "4", "--seconds", "0.5", "--warm-up", "0.05", "--json"];
    let words = ["bench", "control", "--to", "redis", "--control", &at, "--bytes", "32"];
    let found = outcome(fws(&[&words[..], &more].concat()));
    assert!(figure(&found, "latency_max_us") > 1e6, "{found}");
    assert!(figure(&found, "time_seconds") < 1.2, "{found}");

    let at = visits(stall).to_string();
    let words = ["bench", "churn", "--to", "topic", "--ws", &at];
    let found = outcome(fws(&[&words[..], &more].concat()));
    assert!(figure(&found, "latency_max_us") > 1e6, "{found}");
}

/// A message's latency starts when it was due, and the figures show that the publisher was late.
#[test]
fn latency_counts_from_when_a_message_was_due() {
    let bench = std::sync::Arc::new(std::sync::Mutex::new(None));
    let words = ["slow", "--subscribers", "2", "--stalled", "1", "--per-second", "100"];
    let stops = Misbehaviour::Freezes(bench.clone(), Duration::from_millis(700));
    let mut command = against(stops, 20, &[&words[..], &["--seconds", "1"]].concat());
    let child = command.spawn().unwrap();
    *bench.lock().unwrap() = Pid::from_raw(child.id().try_into().unwrap());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let late = figure(&found, "publisher_late_max_us");
    assert!(late > 5e5 && figure(&found, "latency_max_us") > 5e5, "{found}");
    assert!(figure(&found, "stalled_publisher_late_max_us") < late, "{found}");
}

#[test]
fn missing_extra_and_wrong_replies_are_noticed() {
    let server = Server::new();
    let run = |words: &[&str], at: SocketAddr| {
        let (ws, control) = (server.ws.to_string(), at.to_string());
        let place = ["--ws", &ws, "--control", &control, "--key", DEMO_KEY];
        bad(fws(&[&["bench"], words, &SHORT, &place].concat()), 1)
    };
    let few = ["broadcast", "--subscribers", "2"];
    let line = run(&few, replies(server.control, |_| Vec::new()));
    assert!(line.contains("0 messages under way, 1 publications without a reply"), "{line}");
    let double = |reply: &[u8]| reply.repeat(2);
    let more = "the server replies more often than it was asked";
    for words in [&few[..], &["control"]] {
        let line = run(words, replies(server.control, double));
        assert!(line.contains(more), "{line}");
    }
    let other = |reply: &[u8]| [&reply[..20], b"?", &reply[21..]].concat();
    // After the replies to 10,000 sets.
    let line = run(
        &["control", "--command", "get"],
        replies(
            server.control,
            move |reply| {
                if reply.len() > 30 { other(reply) } else { reply.to_vec() }
            },
        ),
    );
    assert!(line.contains("the server refuses: ") && line.contains("x?x"), "{line}");
}
