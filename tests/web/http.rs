//! HTTP/1.1 by the book (RFC 9112) on the real binary: framing, pipelining, bodies, and requests
//! that are refused because two readers could parse them differently.

use crate::common::browser::{auth_message, masked, upgrade};
use crate::common::control::{Control, wait};
use crate::common::eventually;
use crate::common::server::{Options, Server};
use crate::common::web::{Http, ask, session};
use serde_json::json;
use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const HOST: &str = "Host: a\r\n";

/// The status of the answer to these bytes, after which the connection must end.
#[track_caller]
fn refused(server: SocketAddr, bytes: impl AsRef<[u8]>) -> u16 {
    let mut http = Http::connect(server);
    http.raw(bytes);
    let answer = http.answer();
    assert_eq!(answer.header("connection"), Some("close"));
    http.expect_end();
    answer.status
}

#[test]
fn ambiguous_requests_are_refused_and_close_the_connection() {
    let mut server = Server::new();
    let ws = server.ws;
    let post = |headers: &str, body: &str| {
        refused(ws, format!("POST /socket/a/b/xhr_send HTTP/1.1\r\n{HOST}{headers}\r\n{body}"))
    };
    let get = |headers: &str| refused(ws, format!("GET /socket HTTP/1.1\r\n{headers}\r\n"));
    assert_eq!(post("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400);
    for length in ["+2", "-2", "2, 2", "0x2", "2 2", "", "2\r\nContent-Length: 2", "a"] {
        assert_eq!(post(&format!("Content-Length: {length}\r\n"), "[]"), 400, "{length:?}");
    }
    for chunks in ["2\n[]\r\n", "2\r\n[]", "zz\r\n", "-1\r\n", " 2\r\n[]\r\n", "2\r\n[]X\r\n"] {
        let chunks = format!("{chunks}0\r\n\r\n");
        assert_eq!(post("Transfer-Encoding: chunked\r\n", &chunks), 400, "{chunks:?}");
    }
    for headers in [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: a b/c\r\n",
        "Host: a,b\r\n",
        "Host: a/b\r\n",
        "Host: user@a\r\n",
        "Host: a:b\r\n",
        "Host: [::1\r\n",
        "Host: [1.2.3.4]\r\n",
        "Host: ::1\r\n",
        "Host: a%2\r\n",
        "Host: \u{e4}\r\n",
        "Host: a\nX: y\r\n",
        "Host: a\rX: y\r\n",
        "Host : a\r\n",
        " Host: a\r\n",
        "Host: a\r\nX: y\r\n z\r\n",
        "Host: a\r\nX: \0\r\n",
        "Host: a\r\n: y\r\n",
        "Host: a\r\nX Y: z\r\n",
        "Host: a\r\nX\r\n",
    ] {
        assert_eq!(get(headers), 400, "{headers:?}");
    }
    for line in ["GET  /socket HTTP/1.1", " GET /socket HTTP/1.1", "GET socket HTTP/1.1", "x"] {
        assert_eq!(refused(ws, format!("{line}\r\n{HOST}\r\n")), 400, "{line:?}");
    }
    server.assert_alive();
}

#[test]
fn line_ends_other_than_crlf_are_refused_at_once() {
    let server = Server::start(&Options::limits(&[("http_head_ms", 60_000)]));
    for head in ["GET / HTTP/1.1\n\n", "GET / HTTP/1.1\r\nHost: a\n", "GET / HTTP/1.1\rHost: a"] {
        assert_eq!(refused(server.ws, head), 400, "{head:?}");
        let mut http = Http::connect(server.ws);
        for byte in head.bytes() {
            http.raw([byte]);
        }
        assert_eq!(http.answer().status, 400, "{head:?}");
    }
    let mut http = Http::connect(server.ws);
    for part in ["GET /socket HTTP/1.1\r", "\nHost: a\r", "\n\r", "\n"] {
        http.raw(part);
    }
    assert_eq!(http.answer().status, 200);
}

#[test]
fn bytes_that_are_not_http_are_refused_at_once() {
    let mut server = Server::start(&Options::limits(&[("http_head_ms", 60_000)]));
    // A control frame, a TLS ClientHello, a PROXY header, other invalid bytes.
    let frame: &[u8] = b"\x31\0\0\0{\"action\":\"auth\"";
    for bytes in [frame, b"\x16\x03\x01", b"PROXY TCP4 ", b"GE\xff", b" GET / HTTP/1.1"] {
        assert_eq!(refused(server.ws, bytes), 400, "{bytes:?}");
    }
    server.assert_alive();
}

#[test]
fn oversized_and_unsupported_requests_have_their_own_status() {
    let server = Server::new();
    let ws = server.ws;
    let get = |headers: String| refused(ws, format!("GET /socket HTTP/1.1\r\n{HOST}{headers}\r\n"));
    assert_eq!(get(format!("X: {}\r\n", "x".repeat(8192))), 431);
    assert_eq!(get("X: y\r\n".repeat(64)), 431);
    let target = format!("GET /{} HTTP/1.1\r\n{HOST}\r\n", "x".repeat(2048));
    assert_eq!(refused(ws, target), 414);
    let post = |headers: &str, body: &str| {
        refused(ws, format!("POST /socket/a/b/xhr_send HTTP/1.1\r\n{HOST}{headers}\r\n{body}"))
    };
    assert_eq!(post("Content-Length: 65537\r\n", ""), 413);
    assert_eq!(post("Content-Length: 18446744073709551615\r\n", ""), 413);
    assert_eq!(post("Transfer-Encoding: chunked\r\n", "10001\r\n"), 413);
    assert_eq!(post("Transfer-Encoding: gzip\r\n", ""), 501);
    assert_eq!(post("Expect: a-miracle\r\nContent-Length: 2\r\n", "[]"), 417);
    assert_eq!(refused(ws, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
    assert_eq!(refused(ws, format!("GET /socket HTTP/1.2\r\n{HOST}\r\n")), 505);
    let handshake = upgrade("/socket/websocket", &[]).replace("Version: 13", "Version: 8");
    let mut http = Http::connect(ws);
    http.raw(handshake);
    let answer = http.answer();
    assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, Some("13")));
    http.expect_end();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::new();
    let mut http = Http::connect(server.ws);
    let place = session();
    // Pipelined in one write, with an empty line before the third request.
    let info = format!("GET /socket/info HTTP/1.1\r\n{HOST}\r\n");
    let poll = format!("POST /socket/{place}/xhr HTTP/1.1\r\n{HOST}Content-Length: 0\r\n\r\n");
    let send = format!(
        "POST /socket/{place}/xhr_send HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n\
         1\r\n[\r\n1;x=y\r\n]\r\n0\r\nTrailer: z\r\n\r\n"
    );
    let nothing = format!("GET /nothing HTTP/1.1\r\n{HOST}Content-Length: 3\r\n\r\nabc");
    http.raw([info.as_str(), &poll, "\r\n", &send, &nothing, &info].concat());
    let statuses: Vec<u16> = (0..5).map(|_| http.answer().status).collect();
    assert_eq!(statuses, [200, 200, 204, 404, 200]);
    // Byte by byte.
    let mut http = Http::connect(server.ws);
    for byte in [send, nothing].concat().as_bytes() {
        http.raw([*byte]);
    }
    assert_eq!((http.answer().status, http.answer().status), (204, 404));
    // A request after a poll waits for its answer.
    http.raw(format!("{poll}{info}"));
    http.expect_silence();
    assert_eq!(ask(server.ws, &format!("POST /socket/{place}/xhr_send"), &[], "[]").status, 204);
    let auth = serde_json::json!([auth_message("demo", "bad")]).to_string();
    ask(server.ws, &format!("POST /socket/{place}/xhr_send"), &[], &auth);
    assert_eq!(http.answer().body, "c[3404,\"invalid JWT\"]\n");
    // An answer with a refusal ends its connection.
    http.expect_end();
}

#[test]
fn expect_100_continue_is_answered() {
    let server = Server::new();
    let place = session();
    ask(server.ws, &format!("POST /socket/{place}/xhr"), &[], "");
    let mut http = Http::connect(server.ws);
    let head = format!(
        "POST /socket/{place}/xhr_send HTTP/1.1\r\n{HOST}Expect: 100-continue\r\n\
         Content-Length: 2\r\n\r\n"
    );
    http.raw(&head);
    assert_eq!(http.head().status, 100);
    http.raw("[]");
    assert_eq!(http.answer().status, 204);
    // The body comes unasked, so there is no 100 Continue.
    http.raw(format!("{head}[]"));
    assert_eq!(http.answer().status, 204);
    // An HTTP/1.0 client does not understand 100 Continue.
    http.raw(head.replace("1.1", "1.0") + "[]");
    assert_eq!(http.answer().status, 204);
    http.expect_end();
}

#[test]
fn an_incomplete_request_times_out() {
    let limits = [("http_head_ms", 150), ("http_body_ms", 150)];
    let server = Server::start(&Options::limits(&limits));
    for half in [
        format!("GET /socket HTTP/1.1\r\n{HOST}"),
        format!("POST /socket/a/b/xhr_send HTTP/1.1\r\n{HOST}Content-Length: 9\r\n\r\n[]"),
        format!("POST /nothing HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n5\r\n[]"),
    ] {
        let mut http = Http::connect(server.ws);
        http.raw(half);
        assert_eq!(http.answer().status, 408);
        http.expect_end();
    }
}

#[test]
fn a_short_body_may_arrive_seconds_after_its_head() {
    let server = Server::new();
    let mut control = server.controller("demo");
    let mut http = Http::connect(server.ws);
    let head = format!("POST /socket/a/b/xhr_send HTTP/1.1\r\n{HOST}Content-Length: 2\r\n\r\n");
    http.raw(head);
    wait(&mut control, 3000);
    http.raw("[]");
    assert_eq!(http.answer().status, 404, "there is no such session, and nothing else is wrong");
}

#[test]
fn a_request_after_a_pause_has_its_full_time() {
    let server = Server::start(&Options::limits(&[("http_head_ms", 600)]));
    let mut control = server.controller("demo");
    let mut http = Http::connect(server.ws);
    for _ in 0..2 {
        assert_eq!(http.ask("GET /socket", &[], "").status, 200);
        wait(&mut control, 450);
        http.raw(format!("GET /socket HTTP/1.1\r\n{HOST}"));
        wait(&mut control, 300);
        http.raw("\r\n");
        assert_eq!(http.answer().status, 200);
    }
    // And no more than that, even if bytes keep coming.
    let start = Instant::now();
    http.raw("GET ");
    wait(&mut control, 400);
    http.raw("/");
    assert_eq!(http.answer().status, 408);
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    // Empty lines before a request do not extend its time.
    let mut http = Http::connect(server.ws);
    assert_eq!(http.ask("GET /socket", &[], "").status, 200);
    let mut wire = http.wire.another();
    wire.write_all(b"\r").unwrap();
    let reader = std::thread::spawn(move || http.answer().status);
    for _ in 0..25 {
        wait(&mut control, 200);
        if reader.is_finished() {
            break;
        }
        // The server may close while this is sent.
        let _ = wire.write_all(b"\n\r");
    }
    drop(wire);
    assert!(reader.is_finished(), "its time was extended without end");
    assert_eq!(reader.join().unwrap(), 408);
}

/// The log of a stopped server that had one connection which timed out.
fn log_after(first: impl Fn(&mut Http)) -> String {
    let server = Server::start(&Options::limits(&[("http_head_ms", 150)]));
    let mut http = Http::connect(server.ws);
    first(&mut http);
    http.expect_end();
    server.terminate();
    eventually("it stops", || server.log().iter().any(|l| l.contains("stopped;")).then_some(()));
    server.log().join("\n")
}

#[test]
fn only_incomplete_requests_are_counted_as_half_requests() {
    let answered = log_after(|http| assert_eq!(http.ask("GET /socket", &[], "").status, 200));
    assert!(!answered.contains("half_request"), "{answered}");
    for half in ["", "GET "] {
        let told = log_after(|http| {
            http.raw(half);
            if !half.is_empty() {
                assert_eq!(http.answer().status, 408);
            }
        });
        assert!(told.contains("half_request 1"), "{told}");
    }
}

#[test]
fn bytes_right_behind_an_upgrade_are_used_or_refused() {
    let mut server = Server::new();
    let ping = masked(0x89, b"glued");
    let mut http = Http::connect(server.ws);
    http.raw([upgrade("/socket/websocket", &[]).as_bytes(), &ping].concat());
    assert_eq!(http.head().status, 101);
    assert_eq!(http.bytes(7), b"\x8a\x05glued");
    // Frames after a refused handshake are not parsed as requests.
    let ping = [upgrade("/socket/nothing", &[]).as_bytes(), &ping].concat();
    assert_eq!(refused(server.ws, ping), 404);
    let with_body = upgrade("/socket/websocket", &["Content-Length: 4"]) + "abcd";
    assert_eq!(refused(server.ws, with_body), 400);
    server.assert_alive();
}

#[test]
fn only_allowed_origins_may_connect() {
    let mut options = Options::default();
    options.config["allow_origin"] = serde_json::json!(["https://a.example", "http://b:3000"]);
    let server = Server::start(&options);
    let ws = server.ws;
    let place = session();
    let posts = ["xhr", "xhr_streaming", "xhr_send", "jsonp_send"];
    let mut lines: Vec<_> = posts.map(|t| format!("POST /socket/{place}/{t}")).into();
    let gets = ["eventsource", "htmlfile?c=f", "jsonp?c=f"];
    lines.extend(gets.map(|t| format!("GET /socket/{place}/{t}")));
    lines.extend(["GET /socket/info".into(), "OPTIONS /socket/info".into()]);
    for line in &lines {
        for origin in [
            "Origin: https://evil.example",
            "Origin: https://a.example.evil.example",
            "Origin: https://A.example",
            "Origin: http://a.example",
            "Origin: http://b",
            "Origin: null",
            "Origin:",
            "Origin: https://a.example\r\nOrigin: https://a.example",
            "Sec-Fetch-Site: cross-site",
        ] {
            let mut http = Http::connect(ws);
            let answer = http.ask(line, &[origin], "");
            assert_eq!((answer.status, &*answer.body), (403, "Origin not allowed\n"), "{line}");
            http.expect_end();
        }
        if !line.starts_with("GET") {
            assert_eq!(ask(ws, line, &[], "").status, 403, "{line}");
        }
    }
    for line in [format!("POST /socket/{place}/xhr"), "OPTIONS /socket/info".into()] {
        let status = ask(ws, &line, &["Origin: http://b:3000"], "").status;
        assert!([200, 204].contains(&status), "{line}: {status}");
    }
    assert_eq!(ask(ws, "GET /socket/info", &["Sec-Fetch-Site: same-origin"], "").status, 200);
    assert_eq!(ask(ws, "GET /socket/info", &[], "").status, 200);
    assert_eq!(ask(ws, "GET /socket", &["Origin: https://evil.example"], "").status, 200);
    assert_eq!(ask(ws, "GET /socket/iframe.html", &[], "").status, 403);
    for path in ["/socket/websocket", "/socket/000/abc/websocket"] {
        for headers in [&[][..], &["Origin: https://evil.example"], &["Sec-Fetch-Site: none"]] {
            assert_eq!(refused(ws, upgrade(path, headers)), 403);
        }
        let mut http = Http::connect(ws);
        http.raw(upgrade(path, &["Origin: https://a.example"]));
        assert_eq!(http.head().status, 101);
    }
    assert!(server.log().iter().any(|line| line.contains("https://a.example, http://b:3000")));
    let open = Server::new();
    assert_eq!(ask(open.ws, "GET /socket/info", &["Origin: https://x"], "").status, 200);
    assert!(open.log().iter().any(|line| line.contains("pages of any site may connect")));
}

#[test]
fn the_demo_lists_its_methods_and_says_which_origin_its_page_needs() {
    let mut options = Options::default();
    options.config["demo"] = json!(true);
    options.config["allow_origin"] = json!(["https://a.example"]);
    let server = Server::start(&options);
    for (path, allow) in [("/", "GET, HEAD"), ("/demo/token", "GET")] {
        let answer = ask(server.ws, &format!("POST {path}"), &[], "");
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{path}");
    }
    let told = server.told("to try it");
    let first = format!("to try it, allow the origin http://{0}, open http://{0}/", server.ws);
    assert!(told.contains(&first), "{told}");
    let page = format!("Origin: http://{}", server.ws);
    assert_eq!(refused(server.ws, upgrade("/socket/websocket", &[&page])), 403);
}

#[test]
fn unknown_paths_get_404_and_paths_are_not_normalised() {
    let server = Server::new();
    for path in
        ["/", "/favicon.ico", "/socketx", "/socket/../socket", "//socket", "/SOCKET", "/%73"]
    {
        for method in ["GET", "POST", "DELETE", "BREW"] {
            assert_eq!(ask(server.ws, &format!("{method} {path}"), &[], "").status, 404, "{path}");
        }
    }
    // A person who opens the port in a browser sees what it is for.
    let words = "404 Error: Page not found\n";
    assert_eq!(ask(server.ws, "GET /nothing", &[], "").body, words);
    let root = ask(server.ws, "GET /", &[], "").body;
    assert!(root.starts_with(words) && root.contains("under /socket"), "{root}");
    let answer = ask(server.ws, "HEAD /nothing", &[], "");
    assert_eq!((answer.status, answer.body.as_str()), (404, ""));
    // Absolute form of the target (RFC 9112, 3.2.2).
    assert_eq!(ask(server.ws, "GET http://elsewhere/socket?x", &[], "").status, 200);
    assert_eq!(ask(server.ws, "OPTIONS *", &[], "").status, 404);
    let mut http = Http::connect(server.ws);
    http.raw("GET /socket HTTP/1.0\r\n\r\n");
    assert_eq!(http.answer().header("transfer-encoding"), None);
    http.expect_end();
}

const KEY: &str = "00000000-0000-4000-8000-000000000000";

/// A server with a page of the admin port far longer than the kernel buffers on both sides, and a
/// back end to tell the time by. A client has 300 ms for its request: it is to connect last.
fn long_page(limits: &[(&str, u64)]) -> (Server, Control) {
    let quick = [("http_head_ms", 300), ("close_ms", 300), ("kernel_send_bytes", 16_384)];
    let all = [&quick[..], &[("metrics_namespaces", 10_000)], limits].concat();
    let mut options = Options::limits(&all);
    let key = |number| format!("{}{number:04}", &KEY[..32]);
    let long = (1..6000).map(|n| (format!("{n:0250}"), key(n)));
    let spaces: HashMap<_, _> = long.chain([("demo".into(), key(0))]).collect();
    options.config["admin"] = json!("127.0.0.1:0");
    options.config["namespaces"] = json!(spaces);
    let server = Server::start(&options);
    let mut clock = server.control();
    clock.auth_as("demo", KEY);
    (server, clock)
}

#[test]
fn a_long_answer_is_not_cut_while_it_is_read() {
    let (server, mut clock) = long_page(&[]);
    let mut http = Http::connect(server.admin());
    for (headers, goes_on) in [(&[][..], true), (&["Connection: close"], false)] {
        http.send("GET /metrics", headers, "");
        let head = http.head();
        let length: usize = head.header("content-length").unwrap().parse().unwrap();
        assert!(length > 2_000_000, "{length}");
        let (mut body, start) = (Vec::new(), Instant::now());
        while body.len() < length {
            body.extend(http.bytes((length - body.len()).min(100_000)));
            wait(&mut clock, 20);
        }
        assert!(start.elapsed() > Duration::from_millis(1000), "{:?}", start.elapsed());
        assert!(body.ends_with(b"\n"));
        if goes_on {
            assert_eq!(http.ask("GET /healthz", &[], "").status, 200);
        } else {
            http.expect_end();
        }
    }
}

#[test]
fn a_long_answer_that_is_not_read_times_out() {
    let (server, mut clock) = long_page(&[("heartbeat_ms", 600)]);
    let mut http = Http::connect(server.admin());
    http.send("GET /metrics", &[], "");
    let length: usize = http.head().header("content-length").unwrap().parse().unwrap();
    wait(&mut clock, 2500);
    let got = http.rest().len();
    assert!(got < length, "{got} of {length}");
}
