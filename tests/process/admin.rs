//! The admin port of the real binary: the metrics change as they must, health says when to send no
//! traffic here, and HTTP behaves as on the web port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::control::frame;
use crate::common::eventually;
use crate::common::http::{Answer, request};
use crate::common::server::{Dir, Options, Server, fill, on_small_disk};
use crate::common::web::{Http, ask, session};
use fws::codec::prometheus::{Sample, parse};
use fws::metrics::families;
use serde_json::json;

/// Options with an admin port.
fn options() -> Options {
    let mut options = Options::default();
    options.config["admin"] = json!("127.0.0.1:0");
    options
}

fn get(server: SocketAddr, path: &str) -> Answer {
    request(server, &format!("GET {path}"), &[]).unwrap()
}

#[test]
fn dns_rebinding_reads_nothing_from_the_admin_port() {
    let server = Server::start(&options());
    let admin = server.admin();
    let status = |version: &str, host: &str| {
        let mut http = Http::connect(admin);
        http.raw(format!("GET /metrics HTTP/{version}\r\n{host}\r\n"));
        http.answer().status
    };
    for host in
        ["127.0.0.1", "127.0.0.1:8086", "10.1.2.3", "[::1]:8086", "localhost", "LOCALHOST:1"]
    {
        assert_eq!(status("1.1", &format!("Host: {host}\r\n")), 200, "{host:?}");
    }
    assert_eq!(status("1.0", ""), 200);
    for host in
        ["rebound.example", "rebound.example:8086", "127.0.0.1.example", "localhost.example", ""]
    {
        for version in ["1.0", "1.1"] {
            assert_eq!(status(version, &format!("Host: {host}\r\n")), 403, "{host:?}");
        }
    }
    // On a public address, host names are allowed.
    let mut options = Options::default();
    options.config["admin"] = json!("0.0.0.0:0");
    let server = Server::start(&options);
    let port = server.admin().port();
    let mut http = Http::connect(SocketAddr::from(([127, 0, 0, 1], port)));
    http.raw("GET /metrics HTTP/1.1\r\nHost: fws.internal:8086\r\n\r\n");
    assert_eq!(http.answer().status, 200);
}

/// Monitoring comes from a single machine, and is not a browser.
#[test]
fn connections_per_address_does_not_limit_the_admin_port() {
    let mut options = options();
    options.config["limits"] = json!({"connections_per_address": 1});
    let server = Server::start(&options);
    let mut watchers = [server.admin(); 3].map(Http::connect);
    for http in &mut watchers {
        http.raw("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(http.answer().status, 200);
    }
}

/// All samples, by name and labels.
fn scrape(server: SocketAddr) -> BTreeMap<String, f64> {
    let answer = get(server, "/metrics");
    assert_eq!(answer.status, 200);
    let key = |sample: &Sample| {
        let labels = sample.labels.iter().map(|(name, value)| format!("{name}={value}"));
        let labels = labels.collect::<Vec<_>>().join(",");
        if labels.is_empty() { sample.name.clone() } else { format!("{}{{{labels}}}", sample.name) }
    };
    let samples = parse(&answer.body).unwrap_or_else(|| panic!("{}", answer.body));
    let count = samples.len();
    let map: BTreeMap<_, _> = samples.iter().map(|s| (key(s), s.value)).collect();
    assert_eq!(map.len(), count, "a sample comes twice: {}", answer.body);
    map
}

/// Waits until a sample has a value.
#[track_caller]
fn wait_for_sample(server: SocketAddr, name: &str, value: f64) {
    let mut last = None;
    eventually(name, || {
        last = scrape(server).get(name).copied();
        (last == Some(value)).then_some(())
    });
}

#[test]
fn every_metric_is_shown_with_its_kind_and_no_other() {
    let server = Server::start(&options());
    let answer = get(server.admin(), "/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let mut kinds = BTreeMap::new();
    for line in answer.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(kinds.insert(name, kind), None, "{name} comes twice");
    }
    for family in families::ALL {
        assert_eq!(kinds.remove(family.name), Some(family.kind.word()), "{}", family.name);
        let help = format!("# HELP {} {}\n# TYPE {}", family.name, family.help, family.name);
        assert!(answer.body.contains(&help), "{help}");
        let is_sample = |line: &str| line.starts_with(family.name);
        assert!(answer.body.lines().any(is_sample), "{} has no sample", family.name);
    }
    assert!(kinds.is_empty(), "{kinds:?}");
}

#[test]
fn metrics_count_connections_commands_and_deliveries() {
    let server = Server::start(&options());
    let admin = server.admin();
    let before = scrape(admin);
    assert_eq!(before["fws_connections{kind=websocket}"], 0.0);
    assert_eq!(before["fws_namespaces"], 2.0);

    let mut control = server.controller("demo");
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    browser.subscribe("news");
    for _ in 0..3 {
        control.ok(r#"{"action":"emit","channel":"news","data":1}"#);
        browser.expect(r#"{"event":"news","data":1}"#);
    }
    control.ok(r#"{"action":"set","channel":"state","data":"x"}"#);
    control.ask(r#"{"action":"no such"}"#);
    server.controller("other").ok(r#"{"action":"emit","channel":"news","data":1}"#);
    let after = scrape(admin);
    for (name, value) in [
        ("fws_connections{kind=websocket}", 1.0),
        ("fws_connections{kind=sockjs_websocket}", 0.0),
        ("fws_connections{kind=http}", 0.0),
        ("fws_connections_opened_total{door=web}", 1.0),
        ("fws_connections_opened_total{door=control}", 2.0),
        ("fws_publications_total", 4.0),
        ("fws_deliveries_total", 3.0),
        ("fws_namespace_publications_total{namespace=demo}", 3.0),
        ("fws_namespace_publications_total{namespace=other}", 1.0),
        ("fws_namespace_publications_total{other=true}", 0.0),
        ("fws_namespace_deliveries_total{namespace=demo}", 3.0),
        ("fws_namespace_peers{namespace=demo}", 1.0),
        ("fws_namespace_states{namespace=demo}", 1.0),
        ("fws_namespace_states{namespace=other}", 0.0),
        ("fws_commands_refused_total{code=312}", 1.0),
        ("fws_commands_refused_total{code=305}", 0.0),
        ("fws_peers", 1.0),
        ("fws_users", 1.0),
        ("fws_channels", 1.0),
        ("fws_states", 1.0),
        ("fws_queued_bytes", 0.0),
        ("fws_store_failing", 0.0),
        ("fws_store_pending_changes", 0.0),
        ("fws_store_lag_seconds", 0.0),
        ("fws_draining", 0.0),
    ] {
        assert_eq!(after.get(name), Some(&value), "{name}");
    }
    for name in [
        "fws_commands_total",
        "fws_received_bytes_total",
        "fws_sent_bytes_total",
        "fws_turn_seconds_count",
        "fws_turn_seconds_bucket{le=+Inf}",
        "fws_store_batch_seconds_count",
    ] {
        assert!(after[name] > before[name], "{name}: {} and {}", before[name], after[name]);
    }
    for name in ["fws_store_file_bytes", "process_resident_memory_bytes", "process_open_fds"] {
        assert!(after[name] > 0.0, "{name}");
    }
}

#[test]
fn the_file_size_metric_shrinks_without_further_changes() {
    let server = Server::start(&options());
    let mut control = server.controller("demo");
    let value = "x".repeat(50_000);
    for n in 0..200 {
        control.ok(&format!(r#"{{"action":"set","channel":"c{n}","data":"{value}"}}"#));
    }
    let file_bytes = || scrape(server.admin())["fws_store_file_bytes"];
    eventually("the file has grown", || (file_bytes() > 10e6).then_some(()));
    for n in 0..200 {
        control.ok(&format!(r#"{{"action":"set","channel":"c{n}","data":1}}"#));
    }
    eventually("the file has shrunk", || (file_bytes() < 2e6).then_some(()));
}

#[test]
fn pushes_onto_long_lists_take_one_turn_each() {
    const LISTS: usize = 20;
    let server = Server::start(&options());
    let mut control = server.controller("demo");
    let long = format!("[\"{}\"]", "x".repeat(300_000));
    for n in 0..LISTS {
        control.ok(&format!(r#"{{"action":"set","channel":"c{n}","data":{long}}}"#));
    }
    let turns = || scrape(server.admin())["fws_turn_seconds_count"];
    let before = turns();
    let push = |n| frame(format!(r#"{{"action":"push","channel":"c{n}","data":1}}"#).as_bytes());
    control.send_raw(&(0..LISTS).flat_map(push).collect::<Vec<u8>>());
    (0..LISTS).for_each(|n| assert_eq!(control.recv(), r#"{"success":true}"#, "{n}"));
    let taken = turns() - before;
    assert!(taken >= LISTS as f64, "{LISTS} in {taken} turns");
}

#[test]
fn a_session_that_expires_is_counted_with_its_reason() {
    let mut options = options();
    options.config["limits"] = json!({ "session_ms": 300, "auth_ms": 600 });
    let server = Server::start(&options);
    let admin = server.admin();
    let open = || {
        let place = session();
        assert_eq!(ask(server.ws, &format!("POST /socket/{place}/xhr"), &[], "").body, "o\n");
        place
    };
    open();
    wait_for_sample(admin, "fws_sessions_closed_total{reason=peer_lost}", 1.0);
    // And a session that receives the reason.
    let place = open();
    let told = ask(server.ws, &format!("POST /socket/{place}/xhr"), &[], "").body;
    assert_eq!(told, "c[3408,\"no auth in time\"]\n");
    wait_for_sample(admin, "fws_sessions_closed_total{reason=auth_timeout}", 1.0);
    assert_eq!(scrape(admin)["fws_sessions_closed_total{reason=peer_lost}"], 1.0);
}

#[test]
fn connections_are_counted_by_kind() {
    let server = Server::start(&options());
    let admin = server.admin();
    let mut browser = server.browser("demo", r#"{"i":1}"#);
    let mut sockjs = crate::common::browser::Browser::sockjs(server.ws);
    sockjs.auth("demo", r#"{"i":2}"#);
    let place = session();
    assert_eq!(ask(server.ws, &format!("POST /socket/{place}/xhr"), &[], "").body, "o\n");
    let idle = Http::connect(server.ws);
    wait_for_sample(admin, "fws_connections{kind=sockjs_websocket}", 1.0);
    wait_for_sample(admin, "fws_connections{kind=session}", 1.0);
    wait_for_sample(admin, "fws_connections{kind=http}", 1.0);
    drop(idle);
    wait_for_sample(admin, "fws_connections{kind=http}", 0.0);
    browser.close(None);
    wait_for_sample(admin, "fws_connections{kind=websocket}", 0.0);
    assert!(scrape(admin)["fws_connections_closed_total{reason=peer_closed}"] >= 2.0);
    // Connections to the admin port are not counted here.
    assert_eq!(scrape(admin)["fws_connections_opened_total{door=web}"], 4.0);
}

#[test]
fn namespaces_beyond_the_limit_share_one_sample() {
    let mut options = options();
    options.config["limits"] = json!({ "metrics_namespaces": 3 });
    let server = Server::start(&options);
    let admin = server.admin();
    let names = ["a\"b\\", "line\nbreak", "third"];
    let mut keys = Vec::new();
    for name in names {
        let request = json!({ "action": "registerNameSpace", "name": name,
            "key": crate::common::server::SERVER_KEY });
        let reply = server.control().ask(&request.to_string());
        let reply: serde_json::Value = serde_json::from_str(&reply).unwrap();
        keys.push(reply["secretKey"].as_str().unwrap().to_owned());
    }
    for (at, name) in names.iter().enumerate() {
        let mut control = server.control();
        let auth = json!({ "action": "auth", "name": name, "sKey": keys[at] });
        control.ok(&auth.to_string());
        for _ in 0..=at {
            control.ok(r#"{"action":"emit","channel":"news","data":1}"#);
        }
    }
    let shown = scrape(admin);
    let total = "fws_namespace_publications_total";
    let of = |label: &str| shown.get(&format!("{total}{{{label}}}")).copied();
    assert_eq!(of("namespace=demo"), Some(0.0));
    assert_eq!(of("namespace=other"), Some(0.0));
    assert_eq!(of("namespace=a\"b\\"), Some(1.0));
    assert_eq!((of("namespace=line\nbreak"), of("namespace=third")), (None, None));
    assert_eq!(of("other=true"), Some(5.0));
    assert_eq!(shown["fws_publications_total"], 6.0);
}

#[test]
fn the_admin_port_parses_http_like_the_web_port() {
    let server = Server::start(&options());
    let admin = server.admin();
    assert_eq!(get(admin, "/healthz").body, "ok\n");
    assert_eq!(get(admin, "/metrics?x=y").status, 200);
    for path in ["/", "/socket", "/socket/info", "/metrics/", "/Metrics", "*"] {
        assert_eq!(get(admin, path).status, 404, "{path}");
    }
    let head = request(admin, "HEAD /metrics", &[]).unwrap();
    assert!(head.status == 200 && head.header("content-length").is_some());
    let post = request(admin, "POST /metrics", &["Content-Length: 0"]).unwrap();
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    // Sequential requests on one connection.
    let mut http = Http::connect(admin);
    assert_eq!(http.ask("GET /healthz", &[], "").status, 200);
    assert_eq!(http.ask("GET /nothing", &[], "").status, 404);
    http.raw("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(3));
    assert_eq!([(); 3].map(|()| http.answer().status), [200; 3]);
    let upgrade = crate::common::browser::upgrade("/socket/websocket", &[]);
    http.raw(upgrade);
    assert_eq!(http.answer().status, 404);
    http.expect_end();

    for (bytes, status) in [
        ("GET /metrics HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /metrics\r\n\r\n".into(), 400),
        ("\x16\x03\x01\x02\x00\x01\r\n\r\n".into(), 400),
        ("GET /metrics HTTP/2.0\r\n\r\n".into(), 505),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2048)), 414),
        (format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(8192)), 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n".into(), 413),
    ] {
        let statuses = [admin, server.ws].map(|door| {
            let mut http = Http::connect(door);
            http.raw(&bytes);
            let answer = http.answer();
            assert_eq!(answer.header("connection"), Some("close"));
            http.expect_end();
            answer.status
        });
        assert_eq!(statuses, [status; 2], "{bytes:?}");
    }
    assert_eq!(get(admin, "/healthz").status, 200);
}

#[test]
fn pipelined_requests_take_one_turn_each() {
    let server = Server::start(&options());
    let mut http = Http::connect(server.admin());
    http.raw("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10));
    let turns = [(); 10].map(|()| {
        let samples = parse(&http.answer().body).expect("a page");
        let count = samples.iter().find(|sample| sample.name == "fws_turn_seconds_count");
        count.expect("turns are counted").value
    });
    assert!(turns.is_sorted_by(|one, next| one < next), "{turns:?}");
}

#[test]
fn an_incomplete_request_times_out_and_frees_its_slot() {
    let mut options = options();
    options.config["limits"] = json!({ "admin_connections": 1, "http_head_ms": 300 });
    let server = Server::start(&options);
    let admin = server.admin();
    let mut half = Http::connect(admin);
    half.raw("GET /metrics HT");
    // This request waits until the half one has timed out.
    assert_eq!(get(admin, "/healthz").status, 200);
    assert_eq!(half.answer().status, 408);
}

#[test]
fn idle_admin_connections_are_evicted_for_new_ones() {
    let mut options = options();
    options.config["limits"] = json!({ "http_head_ms": 600_000 });
    let server = Server::start(&options);
    let admin = server.admin();
    let mut busy = Http::connect(admin);
    let _silent: Vec<_> = (0..12).map(|_| Http::connect(admin)).collect();
    assert_eq!(get(admin, "/healthz").status, 200);
    // Connections that have sent one request and then idle are evicted too.
    assert!(busy.wire.read_rest().is_ok_and(|rest| rest.is_empty()));
    let asked = (0..12).map(|_| Http::connect(admin)).map(|mut http| {
        assert_eq!(http.ask("GET /healthz", &[], "").status, 200);
        http
    });
    let _asked: Vec<_> = asked.collect();
    assert_eq!(get(admin, "/healthz").status, 200);
}

#[test]
fn a_lowered_limit_of_admin_connections_closes_idle_ones() {
    let mut options = options();
    options.config["limits"] = json!({ "http_head_ms": 600_000 });
    let server = Server::start(&options);
    let admin = server.admin();
    for most in [3, 1] {
        let mut asked: Vec<_> = (0..6).map(|_| Http::connect(admin)).collect();
        for http in &mut asked {
            assert_eq!(http.ask("GET /healthz", &[], "").status, 200);
        }
        options.config["limits"]["admin_connections"] = json!(most);
        server.reload_with(&options.config);
        // This request would wait until the others end, ten minutes from now.
        assert_eq!(get(admin, "/healthz").status, 200);
        drop(asked);
        options.config["limits"]["admin_connections"] = json!(8);
        server.reload_with(&options.config);
    }
}

#[test]
fn many_idle_admin_connections_delay_no_request() {
    let server = Server::start(&options());
    let admin = server.admin();
    let began = Instant::now();
    let silent: Vec<_> = (0..50).map(|_| Http::connect(admin)).collect();
    assert_eq!(get(admin, "/healthz").status, 200);
    // Nor do connections that have sent one request and then idle.
    let asked = (0..50).map(|_| Http::connect(admin)).map(|mut http| {
        assert_eq!(http.ask("GET /healthz", &[], "").status, 200);
        http
    });
    drop((silent, asked.collect::<Vec<_>>()));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_client_that_reads_no_answer_is_closed_and_frees_its_slot() {
    let mut options = options();
    options.config["limits"] =
        json!({ "admin_connections": 1, "http_head_ms": 300, "close_ms": 300 });
    let server = Server::start(&options);
    let admin = server.admin();
    let mut deaf = Http::connect(admin);
    // More than the kernel buffers: the rest is queued in the server. A dead machine, which
    // acknowledges nothing, looks the same to the server.
    deaf.raw("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000));
    assert_eq!(get(admin, "/healthz").status, 200);
}

#[test]
fn the_admin_port_answers_when_all_browser_slots_are_taken() {
    let mut options = options();
    options.config["limits"] = json!({ "connections": 16, "control_connections": 16 });
    let server = Server::start(&options);
    let admin = server.admin();
    let _idle: Vec<_> = (0..20).map(|_| Http::connect(server.ws)).collect();
    // Connections beyond the limit are refused with an answer, and the switch has counted them.
    wait_for_sample(admin, "fws_connections_turned_away_total{reason=full}", 4.0);
    wait_for_sample(admin, "fws_sockets", 16.0);
    assert_eq!(get(admin, "/healthz").status, 200);
}

#[test]
fn healthz_reports_that_the_server_drains() {
    let mut options = options();
    options.config["limits"] = json!({ "drain_ms": 60_000, "backlog_bytes": 1 << 30 });
    let server = Server::start(&options);
    let admin = server.admin();
    // A subscriber that does not read its queue keeps the server draining.
    let mut deaf = server.browser("demo", r#"{"i":1}"#);
    deaf.subscribe("news");
    let mut control = server.controller("demo");
    let data = "x".repeat(4 << 20);
    for _ in 0..8 {
        control.ok(&format!(r#"{{"action":"emit","channel":"news","data":"{data}"}}"#));
    }
    assert!(scrape(admin)["fws_queued_bytes"] > 1e6);
    server.terminate();
    let draining = eventually("healthz reports it", || {
        let answer = get(admin, "/healthz");
        (answer.status == 503).then_some(answer)
    });
    assert_eq!(draining.body, "draining\n");
    assert_eq!(scrape(admin)["fws_draining"], 1.0);
    // Draining does not wait for monitoring connections.
    let _watching = Http::connect(admin);
    deaf.drop_connection(true);
    server.exited();
}

#[test]
fn healthz_reports_that_the_store_fails() {
    let dir = Dir::new();
    let command = on_small_disk(&options(), &dir, 2);
    let server = Server::spawn(command, dir, false);
    let admin = server.admin();
    let mut control = server.controller("demo");
    control.ok(r#"{"action":"set","channel":"c","data":1}"#);
    assert_eq!(get(admin, "/healthz").status, 200);
    let pid = server.pid().as_raw_nonzero();
    let folder = std::path::PathBuf::from(format!("/proc/{pid}/root"))
        .join(server.dir().file("data").strip_prefix("/").unwrap());
    let filler = fill(&folder);
    let value = "x".repeat(20_000);
    let mut number = 0;
    eventually("the store fails", || {
        number += 1;
        let set = format!(r#"{{"action":"set","channel":"c{number}","data":"{value}"}}"#);
        control.ask(&set).contains("302").then_some(())
    });
    let answer = get(admin, "/healthz");
    assert_eq!((answer.status, answer.body.as_str()), (503, "store failing\n"));
    let failing = scrape(admin);
    assert_eq!(failing["fws_store_failing"], 1.0);
    assert!(failing["fws_store_lag_seconds"] < 60.0);
    assert!(failing["fws_store_failures_total"] >= 1.0);
    assert!(failing["fws_commands_refused_total{code=302}"] >= 1.0);
    control.ask(r#"{"action":"set","channel":"d","data":1}"#);
    assert!(scrape(admin)["fws_store_refused_changes_total"] >= 1.0);
    std::fs::remove_file(filler).unwrap();
    eventually("the store works again", || (get(admin, "/healthz").status == 200).then_some(()));
    wait_for_sample(admin, "fws_store_failing", 0.0);
    // Commands in flight when the store failed are counted for their namespace too.
    let refused = scrape(admin)["fws_commands_refused_total{code=302}"];
    server.terminate();
    let told = format!("refused: store_failure {refused}; namespace \"demo\" {refused}");
    eventually("it is logged", || {
        server.log().iter().any(|line| line.ends_with(&told)).then_some(())
    });
}
