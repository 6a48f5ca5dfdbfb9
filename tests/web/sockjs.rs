//! SockJS as `sockjs-protocol` requires it, on the conformance server of `examples/`: the real
//! server's transports with an echo application. Sessions of the real server are tested in
//! `tests/protocol/sessions.rs`.

use crate::common::browser::{Browser, Heard, upgrade};
use crate::common::eventually;
use crate::common::http::Answer;
use crate::common::web::{Conformance, Http, NEVER_CACHED, ask, post, session};
use std::io::Write;
use std::net::SocketAddr;

/// The services of the conformance server.
const ECHO: &str = "/echo";
const CLOSE: &str = "/close";
const WITHOUT_WEBSOCKET: &str = "/disabled_websocket_echo";
const WITH_COOKIE: &str = "/cookie_needed_echo";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
const GO_AWAY: &str = "c[3000,\"Go away!\"]";
const STILL_OPEN: &str = "c[2010,\"Another connection still open\"]";

#[track_caller]
fn assert_cors(answer: &Answer, origin: Option<&str>) {
    assert_eq!(answer.header("access-control-allow-origin"), origin.or(Some("*")));
    let credentials = answer.header("access-control-allow-credentials");
    assert_eq!(credentials, origin.map(|_| "true"));
    assert_eq!(answer.header("vary"), Some("Origin"));
}

#[track_caller]
fn assert_never_cached(answer: &Answer) {
    assert_eq!(answer.header("cache-control"), Some(NEVER_CACHED));
    assert_eq!((answer.header("expires"), answer.header("last-modified")), (None, None));
}

/// The path of a new session of this service.
fn place(service: &str) -> String {
    format!("{service}/{}", session())
}

/// Opens a session with a poll; returns its path.
#[track_caller]
fn opened(server: SocketAddr, service: &str) -> String {
    let place = place(service);
    assert_eq!(post(server, &format!("{place}/xhr"), ""), (200, "o\n".into()));
    place
}

/// Opens a streaming answer; returns its connection and head.
#[track_caller]
fn stream(server: SocketAddr, line: &str) -> (Http, Answer) {
    let mut http = Http::connect(server);
    http.send(line, &[], "");
    let head = http.head();
    assert_eq!(head.status, 200);
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert_eq!(head.header("content-length"), None);
    (http, head)
}

#[test]
fn the_greeting_is_served_and_unknown_paths_are_not_found() {
    let server = Conformance::new();
    for path in ["/echo", "/echo/", "/echo?x", "/close"] {
        let answer = ask(server.address, &format!("GET {path}"), &[], "");
        assert_eq!((answer.status, answer.body.as_str()), (200, "Welcome to SockJS!\n"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=UTF-8"));
        assert_eq!(answer.header("set-cookie"), None);
    }
    for path in [
        "/echo/a",
        "/echo/a.html",
        "/echo//",
        "/echo///",
        "/echo/a/a",
        "/echo/a/a/",
        "/echo/a",
        "/echo//a",
        "/echo/a/a/a",
        "/echo//a/a",
        "/echo/./.",
        "/echo/a./a",
        "/echo/a/a.",
        "/echo/../echo",
        "/echo/%2e/a/xhr/x",
        "/echox",
        "/NOT_THERE/info",
        "/",
        "*",
        "/echo//a/xhr",
        "/echo/a//xhr",
        "/echo/a.b/c/xhr",
        "/echo/a/b.c/xhr",
        "/echo/a/b/c/xhr",
        "/echo/chunking_test",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let answer = ask(server.address, &format!("{method} {path}"), &[], "");
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }
    let answer = ask(server.address, "HEAD /echo/nothing", &[], "");
    assert_eq!(answer.status, 404);
    assert_ne!(answer.header("content-length"), Some("0"), "the length that GET would have");
}

#[test]
fn the_iframe_page_is_cached_for_a_year() {
    let server = Conformance::new();
    let mut bodies = Vec::new();
    for name in [
        "iframe.html",
        "iframe-a.html",
        "iframe-.html",
        "iframe-0.1.2.html?t=1234",
        "iframe-0.1.2abc-dirty.2144.html",
    ] {
        let answer = ask(server.address, &format!("GET /echo/{name}"), &[], "");
        assert_eq!(answer.status, 200, "{name}");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=UTF-8"));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=31536000"));
        assert!(answer.header("expires").is_some() && answer.header("last-modified").is_none());
        assert_eq!(answer.header("set-cookie"), None);
        let etag = answer.header("etag").expect("an etag").to_owned();
        let again = [format!("If-None-Match: {etag}")];
        let again = again.each_ref().map(String::as_str);
        let answer_again = ask(server.address, &format!("GET /echo/{name}"), &again, "");
        assert_eq!((answer_again.status, answer_again.body.as_str()), (304, ""));
        assert_eq!(answer_again.header("content-type"), None);
        // The weak ETag of a proxy that has compressed the page.
        let weak = [format!("If-None-Match: \"other\", W/{etag}")];
        let weak = weak.each_ref().map(String::as_str);
        assert_eq!(ask(server.address, &format!("GET /echo/{name}"), &weak, "").status, 304);
        bodies.push((answer.body, etag));
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    let body = &bodies[0].0;
    assert!(body.starts_with("<!DOCTYPE html>\n<html>\n<head>\n  <meta http-equiv=\"X-UA-Comp"));
    assert!(
        body.contains("    document.domain = document.domain;\n    SockJS.bootstrap_iframe();")
    );
    // The page needs no other server for its script.
    let script = body.split("<script src=\"").nth(1).and_then(|rest| rest.split('"').next());
    let script = script.expect("a script");
    assert_eq!(script, "/echo/iframe.js");
    let answer = ask(server.address, &format!("GET {script}"), &[], "");
    assert_eq!(answer.header("content-type"), Some("application/javascript; charset=UTF-8"));
    assert!(answer.body.contains("bootstrap_iframe"));
    // Its URL never changes, so it must not be cached for as long as the page.
    assert_eq!(answer.header("cache-control"), Some("public, max-age=3600"));
    assert_eq!(answer.header("expires"), None);
    let known = format!("If-None-Match: {}", answer.header("etag").expect("an etag"));
    assert_eq!(ask(server.address, &format!("GET {script}"), &[&known], "").status, 304);
    for name in
        ["iframe.htm", "iframe", "IFRAME.HTML", "iframe.HTML", "iframe.xml", "iframe-/.html"]
    {
        assert_eq!(
            ask(server.address, &format!("GET /echo/{name}"), &[], "").status,
            404,
            "{name}"
        );
    }
    let answer = ask(server.address, "POST /echo/iframe.html", &[], "");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")));
}

#[test]
fn info_describes_the_service() {
    let server = Conformance::new();
    let info = |service: &str, headers: &[&str]| {
        let answer = ask(server.address, &format!("GET {service}/info?t=1"), headers, "");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/json; charset=UTF-8"));
        assert_eq!(answer.header("set-cookie"), None);
        assert_never_cached(&answer);
        let json: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        (answer, json)
    };
    let (answer, one) = info(ECHO, &["Origin: test"]);
    assert_cors(&answer, Some("test"));
    assert_eq!(one["websocket"], true);
    assert_eq!(one["origins"], serde_json::json!(["*:*"]));
    assert_eq!(one["cookie_needed"], false);
    let (answer, two) = info(ECHO, &[]);
    assert_cors(&answer, None);
    assert_ne!(one["entropy"], two["entropy"]);
    assert!(one["entropy"].as_u64().is_some_and(|entropy| entropy < 1 << 32));
    assert_eq!(info(WITHOUT_WEBSOCKET, &[]).1["websocket"], false);
    assert_eq!(info(WITH_COOKIE, &[]).1["cookie_needed"], true);
}

#[test]
fn preflights_are_answered_and_wrong_methods_refused() {
    let server = Conformance::new();
    for (path, allow) in [
        ("info", "OPTIONS, GET"),
        ("a/b/xhr", "OPTIONS, POST"),
        ("a/b/xhr_send", "OPTIONS, POST"),
        ("a/b/xhr_streaming", "OPTIONS, POST"),
    ] {
        for origin in [None, Some("test"), Some("null")] {
            let mut headers = vec![format!("Access-Control-Request-Method: {allow}")];
            headers.extend(origin.map(|origin| format!("Origin: {origin}")));
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let answer = ask(server.address, &format!("OPTIONS /echo/{path}"), &headers, "");
            assert_eq!((answer.status, answer.body.as_str()), (204, ""));
            assert_eq!(answer.header("cache-control"), Some("public, max-age=31536000"));
            assert!(answer.header("expires").is_some());
            assert_eq!(answer.header("access-control-max-age"), Some("31536000"));
            assert_eq!(answer.header("access-control-allow-methods"), Some(allow));
            assert_eq!(answer.header("access-control-allow-headers"), None);
            assert_cors(&answer, origin);
        }
        let headers = ["Access-Control-Request-Headers: a, b, c"];
        let answer = ask(server.address, &format!("OPTIONS /echo/{path}"), &headers, "");
        assert_eq!(answer.header("access-control-allow-headers"), Some("a, b, c"));
        let headers = ["Access-Control-Request-Headers: "];
        let answer = ask(server.address, &format!("OPTIONS /echo/{path}"), &headers, "");
        assert_eq!(answer.header("access-control-allow-headers"), None);
        let answer = ask(server.address, &format!("PUT /echo/{path}"), &[], "");
        let allow = if path == "info" { allow } else { "POST, OPTIONS" };
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)));
        assert_eq!((answer.header("content-type"), answer.body.as_str()), (None, ""));
    }
    for (method, path, allow) in [
        ("POST", "a/b/eventsource", "GET"),
        ("POST", "a/b/htmlfile", "GET"),
        ("POST", "a/b/jsonp", "GET"),
        ("GET", "a/b/jsonp_send", "POST"),
        ("OPTIONS", "a/b/jsonp_send", "POST"),
        ("POST", "a/b/websocket", "GET"),
        ("POST", "websocket", "GET"),
        ("HEAD", "info", "OPTIONS, GET"),
        ("POST", "", "GET"),
    ] {
        let answer = ask(server.address, &format!("{method} /echo/{path}"), &[], "");
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allow)), "{path}");
        assert_eq!((answer.header("content-type"), answer.body.as_str()), (None, ""));
    }
}

#[test]
fn a_poll_collects_the_queued_messages() {
    let server = Conformance::new();
    let place = place(ECHO);
    let xhr = format!("POST {place}/xhr");
    let answer = ask(server.address, &xhr, &["Origin: test"], "");
    assert_eq!((answer.status, answer.body.as_str()), (200, "o\n"));
    assert_eq!(answer.header("content-type"), Some("application/javascript; charset=UTF-8"));
    assert_cors(&answer, Some("test"));
    assert_never_cached(&answer);

    let headers = ["Access-Control-Request-Headers: a, b, c"];
    let send = format!("POST {place}/xhr_send");
    let answer = ask(server.address, &send, &headers, "[\"x\",\"y\"]");
    assert_eq!(answer.header("access-control-allow-headers"), Some("a, b, c"));
    assert_eq!((answer.status, answer.body.as_str()), (204, ""));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=UTF-8"));
    assert_cors(&answer, None);
    assert_never_cached(&answer);
    assert_eq!(post(server.address, &format!("{place}/xhr_send"), "[\"z\"]").0, 204);
    // A POST without a length has no body. The server part of the path is ignored.
    let mut http = Http::connect(server.address);
    let elsewhere = place.replace("/000/", "/999/");
    http.raw(format!("POST {elsewhere}/xhr/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(http.answer().body, "a[\"x\",\"y\",\"z\"]\n");
    // The next poll waits for a message.
    http.send(&xhr, &[], "");
    http.expect_silence();
    post(server.address, &format!("{place}/xhr_send"), "[\"late\"]");
    assert_eq!(http.answer().body, "a[\"late\"]\n");
}

#[test]
fn a_sent_body_must_be_an_array_of_strings() {
    let server = Conformance::new();
    let place = opened(server.address, ECHO);
    let send = |headers: &[&str], body: &str| {
        let answer = ask(server.address, &format!("POST {place}/xhr_send"), headers, body);
        (answer.status, answer.body)
    };
    let refused = |text: &str| (500, text.to_owned());
    assert_eq!(send(&[], ""), refused("Payload expected."));
    assert_eq!(send(&[], "[\"x"), refused("Broken JSON encoding."));
    assert_eq!(send(&[], "\"x\""), refused("Payload expected."));
    assert_eq!(send(&[], "{}"), refused("Payload expected."));
    assert_eq!(send(&["Content-Type: text/html"], "[\"x\"]"), refused("Payload expected."));
    assert_eq!(send(&[FORM], "[\"x\"]"), refused("Payload expected."));
    for kind in [
        "text/plain",
        "T",
        "application/json",
        "application/xml",
        "text/xml",
        "",
        "text/plain; charset=utf-8",
        "application/json;charset=UTF-8",
        "Text/XML; charset=utf-8",
    ] {
        assert_eq!(send(&[&format!("Content-Type: {kind}")], "[\"a\"]"), (204, String::new()));
    }
    assert_eq!(send(&[], "[]"), (204, String::new()));
    let all = format!("a[{}]\n", ["\"a\""; 9].join(","));
    assert_eq!(post(server.address, &format!("{place}/xhr"), ""), (200, all), "still open");
    let nowhere = "/echo/000/nobody/xhr_send";
    assert_eq!(post(server.address, nowhere, "[\"x\"]").0, 404);
    assert_eq!(post(server.address, nowhere, "").0, 500);
}

#[test]
fn characters_that_browsers_lose_are_escaped() {
    let server = Conformance::new();
    let place = opened(server.address, ECHO);
    let hard =
        "\"\\u0000\\u001f\\u200c\\u200f\\u2028\\u202f\\u2060\\u206f\\ufff0\\uffff\\ud83d\\ude00\"";
    let easy = "\"\u{7f}\u{200b}\u{2010}\u{2070}\u{ffef}\u{e9} ~<>&%\"";
    post(server.address, &format!("{place}/xhr_send"), &format!("[{hard},{easy}]"));
    let body = post(server.address, &format!("{place}/xhr"), "").1;
    assert_eq!(body, format!("a[{hard},{easy}]\n"));
    // Lone surrogates, which JavaScript has and UTF-8 has not.
    post(server.address, &format!("{place}/xhr_send"), "[\"\\ud800\",\"\\udc00x\"]");
    let body = post(server.address, &format!("{place}/xhr"), "").1;
    assert_eq!(body, "a[\"\\ufffd\",\"\\ufffdx\"]\n");
}

#[test]
fn streams_give_a_chunk_for_each_frame_and_end_at_their_limit() {
    let server = Conformance::new();
    let script = |text: &str| format!("<script>\np(\"{text}\");\n</script>\r\n");
    type Wrap<'a> = &'a dyn Fn(&str) -> String;
    let line: Wrap<'_> = &|frame| format!("{frame}\n");
    let event: Wrap<'_> = &|frame| format!("data: {frame}\r\n\r\n");
    let html: Wrap<'_> = &|frame| script(&frame.replace('"', "\\\""));
    for (line_of, kind, wrap) in [
        ("POST PLACE/xhr_streaming", "application/javascript; charset=UTF-8", line),
        ("GET PLACE/eventsource", "text/event-stream", event),
        ("GET PLACE/htmlfile?c=%63allback", "text/html; charset=UTF-8", html),
    ] {
        let place = place(ECHO);
        let line = line_of.replace("PLACE", &place);
        let (mut http, head) = stream(server.address, &line);
        assert_eq!(head.header("content-type"), Some(kind));
        assert_never_cached(&head);
        let prelude = http.chunk();
        match kind {
            "text/event-stream" => assert_eq!(prelude, "\r\n"),
            "text/html; charset=UTF-8" => {
                assert!(prelude.starts_with("<!doctype html>\n") && prelude.len() > 1024);
                assert!(prelude.contains("var c = parent.callback;\n    c.start();"));
            }
            _ => assert_eq!(prelude, "h".repeat(2048) + "\n"),
        }
        assert_eq!(http.chunk(), wrap("o"));
        let mut sent = wrap("o").len();
        let frame = format!("a[\"{}\"]", "x".repeat(128));
        while sent < 4096 {
            post(server.address, &format!("{place}/xhr_send"), &frame[1..]);
            assert_eq!(http.chunk(), wrap(&frame));
            sent += wrap(&frame).len();
        }
        assert_eq!(http.chunk(), "", "the answer ends at {sent} bytes");
        // The session and the connection live on; messages are queued meanwhile.
        post(server.address, &format!("{place}/xhr_send"), "[\"a\",\"b\"]");
        http.send(&line, &[], "");
        http.head();
        http.chunk();
        assert_eq!(http.chunk(), wrap("a[\"a\",\"b\"]"));
    }
}

#[test]
fn payloads_cannot_break_out_of_scripts_and_events() {
    let server = Conformance::new();
    let hard = "[\"%20</script>&<!--\\u2028\"]";
    let place_of = |line: &str| {
        let place = place(ECHO);
        let (mut http, _) = stream(server.address, &line.replace("PLACE", &place));
        http.chunk();
        http.chunk();
        post(server.address, &format!("{place}/xhr_send"), hard);
        http.chunk()
    };
    let event = "data: a[\"%2520</script>&<!--\\u2028\"]\r\n\r\n";
    assert_eq!(place_of("GET PLACE/eventsource"), event);
    let escaped = "a[\\\"%20\\u003c/script\\u003e\\u0026\\u003c!--\\\\u2028\\\"]";
    let script = format!("<script>\np(\"{escaped}\");\n</script>\r\n");
    assert_eq!(place_of("GET PLACE/htmlfile?c=x"), script);
    let place = opened(server.address, ECHO);
    post(server.address, &format!("{place}/xhr_send"), hard);
    let answer = ask(server.address, &format!("GET {place}/jsonp?c=x"), &[], "");
    assert_eq!(answer.body, format!("/**/x(\"{escaped}\");\r\n"));
}

#[test]
fn jsonp_wraps_answers_in_the_callback() {
    let server = Conformance::new();
    let place = place(ECHO);
    let poll = |query: &str| ask(server.address, &format!("GET {place}/jsonp{query}"), &[], "");
    let answer = poll("?c=%63allback");
    assert_eq!((answer.status, answer.body.as_str()), (200, "/**/callback(\"o\");\r\n"));
    assert_eq!(answer.header("content-type"), Some("application/javascript; charset=UTF-8"));
    assert_never_cached(&answer);
    let send = |headers: &[&str], body: &str| {
        let answer = ask(server.address, &format!("POST {place}/jsonp_send"), headers, body);
        assert_never_cached(&answer);
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=UTF-8"));
        (answer.status, answer.body)
    };
    assert_eq!(send(&[FORM], "d=%5B%22x+y%22%5D"), (200, "ok".into()));
    assert_eq!(send(&["Content-Type: text/plain"], "[\"%61bc\"]"), (200, "ok".into()));
    assert_eq!(send(&[FORM], "d=%5B%5D"), (200, "ok".into()));
    assert_eq!(send(&[FORM], "d=%5B%22x"), (500, "Broken JSON encoding.".into()));
    for body in ["", "d=", "p=p"] {
        assert_eq!(send(&[FORM], body), (500, "Payload expected.".into()));
    }
    assert_eq!(poll("?callback=x").body, "/**/x(\"a[\\\"x y\\\",\\\"%61bc\\\"]\");\r\n");
    for transport in ["jsonp", "htmlfile"] {
        for (query, text) in [
            ("", "\"callback\" parameter required"),
            ("?c=", "\"callback\" parameter required"),
            ("?c=%20", "invalid \"callback\" parameter"),
            ("?c=*", "invalid \"callback\" parameter"),
            ("?c=abc(", "invalid \"callback\" parameter"),
            ("?c=abc%28", "invalid \"callback\" parameter"),
        ] {
            let answer = ask(server.address, &format!("GET /echo/a/a/{transport}{query}"), &[], "");
            assert_eq!((answer.status, answer.body.as_str()), (500, text));
        }
    }
}

#[test]
fn a_closed_session_sends_its_reason_to_every_request() {
    let server = Conformance::new();
    let place = opened(server.address, CLOSE);
    for _ in 0..2 {
        let body = post(server.address, &format!("{place}/xhr"), "").1;
        assert_eq!(body, format!("{GO_AWAY}\n"));
    }
    assert_eq!(post(server.address, &format!("{place}/xhr_send"), "[\"x\"]").0, 204);
    for (line, end) in [
        ("POST PLACE/xhr_streaming", format!("{GO_AWAY}\n")),
        ("GET PLACE/eventsource", format!("data: {GO_AWAY}\r\n\r\n")),
    ] {
        let (mut http, _) = stream(server.address, &line.replace("PLACE", &place));
        http.chunk();
        assert_eq!((http.chunk(), http.chunk()), (end, String::new()));
    }
    let answer = ask(server.address, &format!("GET {place}/jsonp?c=x"), &[], "");
    assert_eq!(answer.body, "/**/x(\"c[3000,\\\"Go away!\\\"]\");\r\n");
}

#[test]
fn a_session_has_one_receiver() {
    let server = Conformance::new();
    let place = opened(server.address, ECHO);
    let mut first = Http::connect(server.address);
    first.send(&format!("POST {place}/xhr"), &[], "");
    first.expect_silence();
    let body = post(server.address, &format!("{place}/xhr"), "").1;
    assert_eq!(body, format!("{STILL_OPEN}\n"));
    let (mut second, _) = stream(server.address, &format!("POST {place}/xhr_streaming"));
    second.chunk();
    assert_eq!((second.chunk(), second.chunk()), (format!("{STILL_OPEN}\n"), String::new()));
    post(server.address, &format!("{place}/xhr_send"), "[\"x\"]");
    assert_eq!(first.answer().body, "a[\"x\"]\n", "the first receiver goes on");
    // It aborts its next poll: data in flight may be lost, so the session ends.
    first.send(&format!("POST {place}/xhr"), &[], "");
    first.expect_silence();
    drop(first);
    let send = || post(server.address, &format!("{place}/xhr_send"), "[\"x\"]").0;
    eventually("the session has ended", || (send() == 404).then_some(()));
    assert_eq!(post(server.address, &format!("{place}/xhr"), "").1, "o\n");
}

#[test]
fn the_cookie_is_the_clients_own_or_a_dummy() {
    let server = Conformance::new();
    let (own, given) = ("JSESSIONID=abcdef; path=/", "JSESSIONID=dummy; path=/");
    for line in [
        "POST PLACE/xhr",
        "POST PLACE/xhr_streaming",
        "GET PLACE/eventsource",
        "GET PLACE/htmlfile?c=x",
        "GET PLACE/jsonp?c=x",
    ] {
        for (headers, cookie) in
            [(&[][..], given), (&["Cookie: a=b; JSESSIONID=abcdef; c=d"][..], own)]
        {
            let mut http = Http::connect(server.address);
            http.send(&line.replace("PLACE", &place(WITH_COOKIE)), headers, "");
            assert_eq!(http.head().header("set-cookie"), Some(cookie), "{line}");
            let place = place(ECHO);
            let mut http = Http::connect(server.address);
            http.send(&line.replace("PLACE", &place), headers, "");
            assert_eq!(http.head().header("set-cookie"), None);
        }
    }
    let place = opened(server.address, WITH_COOKIE);
    for (line, body) in [("xhr_send", "[]"), ("jsonp_send", "[]")] {
        let answer = ask(server.address, &format!("POST {place}/{line}"), &[], body);
        assert_eq!(answer.header("set-cookie"), Some(given));
    }
}

#[test]
fn websockets_behave_as_the_protocol_suite_requires() {
    let server = Conformance::new();
    let place = place(ECHO);
    let open = |path: &str| Browser::open(server.address, path, &[], &[]).unwrap();
    let mut one = open(&format!("{place}/websocket"));
    let mut two = open(&format!("{place}/websocket"));
    for browser in [&mut one, &mut two] {
        assert_eq!(browser.hear(), "o");
        browser.send("");
        browser.send("[]");
        browser.send("[\"a\"]");
        assert_eq!(browser.hear(), "a[\"a\"]");
        browser.send("\"b\"");
        assert_eq!(browser.hear(), "a[\"b\"]");
    }
    one.send("[\"broken");
    assert_eq!(one.closed().map(|(code, _)| code), Ok(3000));
    let mut close = open("/close/0/0/websocket");
    assert_eq!((close.hear(), close.hear()), ("o".into(), GO_AWAY.into()));
    close.expect_closed(1000, "Normal closure");
    let mut raw = Browser::open(server.address, "/echo/websocket", &[], &[]).unwrap();
    raw.send("Hello world!\u{ffff}");
    assert_eq!(raw.next(), Ok(Heard::Text("Hello world!\u{ffff}".into())));
    let mut raw = Browser::open(server.address, "/close/websocket", &[], &[]).unwrap();
    raw.expect_closed(3000, "Go away!");

    let refused = |path: &str, request: &str| {
        let mut http = Http::connect(server.address);
        http.wire.write_all(request.replace("PATH", path).as_bytes()).unwrap();
        let answer = http.answer();
        (answer.status, answer.body)
    };
    let not = (400, "Not a valid websocket request".to_owned());
    for path in ["/echo/websocket", "/echo/0/0/websocket"] {
        assert_eq!(refused(path, "GET PATH HTTP/1.1\r\nHost: a\r\n\r\n"), not);
        assert_eq!(refused(path, &upgrade("PATH", &["Connection: close"])), not);
        let post = upgrade("PATH", &[]).replace("GET", "POST");
        assert_eq!(refused(path, &post).0, 405);
    }
    for path in ["/disabled_websocket_echo/websocket", "/disabled_websocket_echo/0/0/websocket"] {
        assert_eq!(refused(path, &upgrade("PATH", &[])).0, 404);
        assert_eq!(refused(path, "GET PATH HTTP/1.1\r\nHost: a\r\n\r\n").0, 404);
    }
}

#[test]
fn large_messages_pass_in_both_directions() {
    let server = Conformance::new();
    let place = opened(server.address, "/amplify");
    post(server.address, &format!("{place}/xhr_send"), "[\"18\"]");
    let body = post(server.address, &format!("{place}/xhr"), "").1;
    assert_eq!(body, format!("a[\"{}\"]\n", "x".repeat(1 << 18)));
    let place = opened(server.address, ECHO);
    let large = format!("[\"{}\"]", "y".repeat(3 << 20));
    assert_eq!(post(server.address, &format!("{place}/xhr_send"), &large).0, 204);
    assert_eq!(post(server.address, &format!("{place}/xhr"), "").1, format!("a{large}\n"));
    // More than the server queues at a time: the sender waits until answers are collected.
    let many = format!("[{}]", vec![format!("\"{}\"", "z".repeat(30_000)); 8].join(","));
    let mut sender = Http::connect(server.address);
    sender.send(&format!("POST {place}/xhr_send"), &[], &many);
    sender.expect_silence();
    let (mut got, mut polls) = (0, 0);
    while got < 8 {
        let body = post(server.address, &format!("{place}/xhr"), "").1;
        got += body.matches('"').count() / 2;
        polls += 1;
    }
    assert!(polls > 1, "all at once");
    assert_eq!(sender.answer().status, 204);
}

#[test]
fn http_1_0_clients_get_no_chunked_encoding() {
    let server = Conformance::new();
    let place = place(ECHO);
    let mut http = Http::connect(server.address);
    http.raw("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = http.answer();
    assert_eq!(answer.header("connection"), Some("keep-alive"));
    http.raw(format!("POST {place}/xhr_streaming HTTP/1.0\r\nContent-Length: 0\r\n\r\n"));
    let head = http.head();
    assert_eq!(head.header("transfer-encoding"), None);
    assert_eq!(head.header("connection"), Some("close"));
    assert_eq!(http.exactly(2051), "h".repeat(2048) + "\no\n");
    post(server.address, &format!("{place}/xhr_send"), "[\"x\"]");
    assert_eq!(http.exactly(7), "a[\"x\"]\n");
    post(server.address, &format!("{place}/xhr_send"), &format!("[\"{}\"]", "x".repeat(4096)));
    assert_eq!(http.rest().len(), 4096 + 6, "then the end of the connection");
    let mut http = Http::connect(server.address);
    http.raw("GET /echo HTTP/1.0\r\n\r\n");
    assert_eq!(http.answer().header("connection"), Some("close"));
    http.expect_end();
}
