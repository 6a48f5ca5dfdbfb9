//! `fws doctor` against the server itself, and against small proxies that misbehave as real ones
//! do. `scripts/proxies` tests the real ones.

mod proxy;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};

use crate::common::command::{fws, run};
use crate::common::eventually;
use crate::common::server::{DEMO_KEY, Dir, Options, Server};
use crate::common::token::token;
use proxy::{
    Answer, Request, another, answering, as_it_is, at_once, away, changed, impatient, proxy, with,
};
use serde_json::{Value, json};

/// Runs the doctor on an address; returns exit code and findings.
fn doctor(address: SocketAddr, words: &[&str]) -> (Option<i32>, Value) {
    doctor_at(&format!("http://{address}/socket"), words)
}

/// Runs the doctor on a URL.
fn doctor_at(url: &str, words: &[&str]) -> (Option<i32>, Value) {
    let mut command = fws(&["doctor", url, "--json"]);
    command.args(words);
    let ran = run(command);
    let found: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    assert_eq!(found["ok"] == json!(true), ran.code == Some(0), "{ran:?}");
    (ran.code, found)
}

/// Asserts the verdict of a check, and that these words are in its text.
#[track_caller]
fn expect(found: &Value, check: &str, verdict: &str, words: &str) {
    let checks = found["checks"].as_array().unwrap();
    let it = checks.iter().find(|it| it["check"] == check);
    let it = it.unwrap_or_else(|| panic!("no {check} in {found}"));
    assert_eq!(it["verdict"], verdict, "{it}");
    assert!(it["says"].as_str().unwrap().contains(words), "{it}");
    let has_advice = !it["advice"].as_array().unwrap().is_empty();
    assert_eq!(has_advice, verdict == "wrong", "{it}");
}

/// Asserts that only this check is wrong.
#[track_caller]
fn expect_only(found: &Value, check: &str, words: &str) {
    expect(found, check, "wrong", words);
    for it in found["checks"].as_array().unwrap() {
        assert!(it["verdict"] != "wrong" || it["check"] == check, "{it}");
    }
}

const KEY: [&str; 3] = ["demo", "--key", DEMO_KEY];

#[test]
fn all_checks_pass_without_a_proxy() {
    let server = Server::start(&Options::limits(&[("heartbeat_ms", 200)]));
    let (code, found) = doctor(server.ws, &[&KEY[..], &["--wait", "1"]].concat());
    assert_eq!(code, Some(0), "{found}");
    for check in found["checks"].as_array().unwrap() {
        assert_eq!(check["verdict"], "ok", "{check}");
    }
    let checks = [
        ("connection", "accepts connections"),
        ("path", "under /socket"),
        ("origin", "may connect"),
        ("headers", "4096 bytes"),
        ("websocket", "opens in"),
        ("sockjs", "opens in"),
        ("xhr_streaming", "first frame"),
        ("eventsource", "first frame"),
        ("htmlfile", "first frame"),
        ("xhr", "a poll"),
        ("token", "namespace demo"),
        ("clock", "the server's clock"),
        ("idle", "stays open for 1 s"),
        ("idle_stream", "stays open for 1 s"),
    ];
    for (check, words) in checks {
        expect(&found, check, "ok", words);
    }
    assert_eq!(found["checks"].as_array().unwrap().len(), checks.len());
}

#[test]
fn the_default_output_has_a_line_for_each_check() {
    let server = Server::new();
    let ran = run(fws(&["doctor", &format!("ws://{}/socket/", server.ws)]));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.out.starts_with("ok     connection     127.0.0.1:"), "{}", ran.out);
    assert!(ran.out.contains("\n?      token          no namespace was named"), "{}", ran.out);
    let ran = run(fws(&["doctor", &format!("http://{}/elsewhere", server.ws)]));
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), "fws: one thing is wrong\n"), "{ran:?}");
    assert!(ran.out.contains("\n       do:            nginx: location /socket"), "{}", ran.out);
}

#[test]
fn a_wrong_address_or_port_is_recognised() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, found) = doctor(free, &[]);
    assert_eq!(code, Some(1));
    expect_only(&found, "connection", "nothing listens at 127.0.0.1:");
    let server = Server::start(&Options::limits(&[("http_head_ms", 200)]));
    expect_only(&doctor(server.control, &[]).1, "path", "closes without an answer");
    expect(&found_at_missing_socket(&server), "connection", "wrong", "nothing listens at unix:");
    // TLS to a port without it.
    let ran = run(fws(&["doctor", &format!("https://{}", server.ws), "--json"]));
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    expect_only(&found, "tls", "no TLS connection: ");
}

fn found_at_missing_socket(server: &Server) -> Value {
    let none = server.dir().file("none.sock").display().to_string();
    doctor(server.ws, &["--ws-unix", &none]).1
}

#[test]
fn an_unfinished_tls_handshake_is_reported() {
    for is_silent in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for mut client in listener.incoming().map(Result::unwrap) {
                match is_silent {
                    true => kept.push(client),
                    // The request is read first, so that the client sees a FIN, not a reset.
                    false => drop(client.read(&mut [0; 65536])),
                }
            }
        });
        let found = doctor_at(&format!("https://{at}/socket"), &[]).1;
        expect_only(&found, "tls", "no TLS connection: ");
    }
}

#[test]
fn a_proxy_that_breaks_upgrades_is_reported() {
    let server = Server::new();
    let strip: Request = |head| with(&head, &["Upgrade:", "Connection:"], "Connection: close");
    let (_, found) = doctor(proxy(server.ws, strip, at_once), &KEY);
    expect(&found, "websocket", "wrong", "without Upgrade or Connection");
    expect(&found, "sockjs", "wrong", "without Upgrade or Connection");
    expect(&found, "xhr_streaming", "ok", "first frame");
    // The answer to the upgrade arrives, and nothing after it.
    let mute: Answer = |server, client| {
        let mut piece = [0; 65536];
        let count = server.read(&mut piece).unwrap();
        client.write_all(&piece[..count]).unwrap();
        if piece.starts_with(b"HTTP/1.1 101") {
            let _ = server.shutdown(Shutdown::Both);
            return;
        }
        at_once(server, client);
    };
    let (_, found) = doctor(proxy(server.ws, as_it_is, mute), &[]);
    expect(&found, "websocket", "wrong", "no frame gets through");
    // It is answered by a server that does not understand upgrades.
    let page: Answer = |server, client| {
        changed(server, client, |text| text.replace("101 Switching Protocols", "200 OK"));
    };
    expect(&doctor(proxy(server.ws, as_it_is, page), &[]).1, "websocket", "wrong", "200 in place");
}

#[test]
fn a_proxy_that_buffers_answers_is_reported() {
    let server = Server::new();
    // Everything is held back until the answer ends.
    let whole: Answer = |server, client| {
        let (mut all, mut piece) = (Vec::new(), [0; 65536]);
        while let Ok(count) = server.read(&mut piece)
            && count > 0
        {
            all.extend_from_slice(&piece[..count]);
            if all.starts_with(b"HTTP/1.1 101") || all.starts_with(b"HTTP/1.1 204") {
                client.write_all(&all).unwrap();
                return at_once(server, client);
            }
        }
        let _ = client.write_all(&all);
    };
    let close: Request = |head| match head.contains("Upgrade:") {
        true => head,
        false => with(&head, &["Connection:"], "Connection: close"),
    };
    let (_, found) = doctor(proxy(server.ws, close, whole), &[]);
    for check in ["xhr_streaming", "eventsource", "htmlfile"] {
        expect(&found, check, "wrong", "piece by piece: not even the head");
    }
    for check in ["websocket", "sockjs", "xhr"] {
        expect(&found, check, "ok", "");
    }
    // Partial blocks are held back.
    let blocks: Answer = |server, client| {
        let (mut all, mut piece) = (Vec::new(), [0; 65536]);
        let is_stream = |all: &[u8]| all.windows(7).any(|it| it == b"chunked");
        while let Ok(count) = server.read(&mut piece)
            && count > 0
        {
            all.extend_from_slice(&piece[..count]);
            let head = all.windows(4).position(|it| it == b"\r\n\r\n").map_or(0, |at| at + 4);
            let keep =
                if is_stream(&all) && all.len() < 4096 + head { all.len() - head } else { 0 };
            let now: Vec<u8> = all.drain(..all.len() - keep).collect();
            if client.write_all(&now).is_err() {
                break;
            }
            if keep > 0 {
                // The head was sent; nothing more of this answer will be.
                let _ = server.read_to_end(&mut all);
            }
        }
    };
    let (_, found) = doctor(proxy(server.ws, as_it_is, blocks), &[]);
    expect(&found, "xhr_streaming", "wrong", "its first frame does not come");
}

/// Marks a streamed answer as compressed, and makes its contents unrecognisable.
fn as_gzip(text: String) -> String {
    match text.split_once("Transfer-Encoding") {
        Some((head, rest)) => format!("{head}Content-Encoding: gzip\r\nTransfer-Encoding{rest}"),
        None if text.starts_with("HTTP/1.1 ") => text,
        // Chunks end in CRLF, and keep their size; WebSocket frames do not end so.
        None if text.ends_with("\r\n") => text.replace("callBackAnswer", "zzzzzzzzzzzzzz"),
        None => text,
    }
}

#[test]
fn compressed_streams_are_judged_by_when_they_arrive() {
    let server = Server::start(&Options::limits(&[("heartbeat_ms", 400)]));
    // As nginx with `gzip on` and `proxy_buffering off`: piece by piece.
    let pack: Answer = |server, client| changed(server, client, as_gzip);
    let words = [&KEY[..], &["--wait", "2"]].concat();
    let (code, found) = doctor(proxy(server.ws, as_it_is, pack), &words);
    assert_eq!(code, Some(0), "{found}");
    for check in ["xhr_streaming", "eventsource", "htmlfile"] {
        expect(&found, check, "ok", "gzip compresses it, and its pieces come at once");
    }
    // The prelude arrives, and nothing after it.
    let server = Server::new();
    let hold: Answer = |server, client| {
        let mut piece = [0; 65536];
        let count = server.read(&mut piece).unwrap();
        let text = String::from_utf8_lossy(&piece[..count]).into_owned();
        let is_stream = text.contains("Transfer-Encoding");
        let _ = client.write_all(as_gzip(text).as_bytes());
        match is_stream {
            true => drop(server.read_to_end(&mut Vec::new())),
            false => at_once(server, client),
        }
    };
    let (_, found) = doctor(proxy(server.ws, as_it_is, hold), &[]);
    for check in ["xhr_streaming", "eventsource", "htmlfile"] {
        expect(&found, check, "wrong", "piece by piece: gzip compresses it");
    }
    expect(&found, "websocket", "ok", "");
    // Not even the prelude.
    let nothing: Answer = |server, client| {
        let mut piece = [0; 65536];
        let count = server.read(&mut piece).unwrap();
        let text = as_gzip(String::from_utf8_lossy(&piece[..count]).into_owned());
        let end = text.find("\r\n\r\n").map_or(text.len(), |at| at + 4);
        if text.contains("Content-Encoding") {
            let _ = client.write_all(&text.as_bytes()[..end]);
            let _ = server.read_to_end(&mut Vec::new());
            return;
        }
        let _ = client.write_all(text.as_bytes());
        at_once(server, client);
    };
    let (_, found) = doctor(proxy(server.ws, as_it_is, nothing), &[]);
    expect(&found, "eventsource", "wrong", "piece by piece: gzip compresses it");
}

#[test]
fn a_proxy_that_cuts_idle_connections_is_reported() {
    let server = Server::new();
    let words = [&KEY[..], &["--wait", "30"]].concat();
    let (_, found) = doctor(proxy(server.ws, as_it_is, impatient::<1500>), &words);
    expect(&found, "idle", "wrong", "cut after 1 s of silence");
    expect(&found, "idle_stream", "wrong", "cut after 1 s of silence");
    expect(&found, "websocket", "ok", "");
    // Heartbeats come more often than the proxy's timeout.
    let server = Server::start(&Options::limits(&[("heartbeat_ms", 200)]));
    let words = [&KEY[..], &["--wait", "5"]].concat();
    let (code, found) = doctor(proxy(server.ws, as_it_is, impatient::<3000>), &words);
    assert_eq!(code, Some(0), "{found}");
    expect(&found, "idle", "ok", "heartbeats: ");
    // Without a token the server itself closes the connection, so the proxy is not blamed.
    let server = Server::start(&Options::limits(&[("auth_ms", 300)]));
    let (code, found) = doctor(server.ws, &["--wait", "5"]);
    assert_eq!(code, Some(0), "{found}");
    expect(&found, "idle", "cannot tell", "for want of a token");
    expect(&found, "idle_stream", "cannot tell", "for want of a token");
    expect(&found, "idle", "cannot tell", "`fws doctor URL NAME --wait 60`");
    // If both token and wait are missing, the advice names both at once.
    let found = doctor(server.ws, &[]).1;
    expect(&found, "idle", "cannot tell", "`fws doctor URL NAME --wait 60`");
    expect(&doctor(server.ws, &KEY).1, "idle", "cannot tell", "not checked: --wait 60 shows");
}

#[test]
fn a_wrong_path_in_proxy_or_url_is_reported() {
    let server = Server::new();
    let cut: Request = |head| head.replacen(" /socket", " /", 1);
    let found = doctor(proxy(server.ws, cut, at_once), &[]).1;
    expect_only(&found, "path", "its paths begin with /socket");
    for (path, words) in [
        ("/push", "its paths begin with /socket"),
        ("/socket/000/abc/websocket", "is below the server's path"),
        ("/socket/info", "is below the server's path"),
    ] {
        expect_only(&doctor_at(&format!("ws://{}{path}", server.ws), &[]).1, "path", words);
    }
    // The URL for clients without SockJS: the server's path ends before `/websocket`.
    let found = doctor_at(&format!("ws://{}/socket/websocket", server.ws), &[]).1;
    expect(&found, "path", "ok", "found under /socket; with /websocket behind it for clients");
    expect(&found, "websocket", "ok", "opens");
    // SockJS clients append that themselves.
    let found = doctor_at(&format!("http://{}/socket/websocket", server.ws), &[]).1;
    expect_only(&found, "path", "/socket/websocket is below the server's path");
}

#[test]
fn a_url_without_the_path_is_reported() {
    let server = Server::new();
    for slash in ["", "/"] {
        let (code, found) = doctor_at(&format!("http://{}{slash}", server.ws), &KEY);
        assert_eq!(code, Some(1));
        let words = format!("no client finds the server with http://{}: it is", server.ws);
        expect_only(&found, "path", &words);
        // The other checks still run.
        expect(&found, "websocket", "ok", "opens");
        expect(&found, "token", "ok", "namespace demo");
    }
    // A proxy may map the whole site there.
    let below: Request = |head| head.replacen(" /", " /socket/", 1);
    let (code, found) = doctor_at(&format!("http://{}", proxy(server.ws, below, at_once)), &KEY);
    assert_eq!(code, Some(0), "{found}");
    expect(&found, "path", "ok", "found under /");
}

#[test]
fn only_redirects_that_clients_meet_are_reported() {
    let server = Server::new();
    let bare: Request = |head| away(head, "/socket HTTP/1.1");
    let (absolute, relative): (Answer, Answer) = (
        |server, client| {
            changed(server, client, |text| {
                let to = "301 Moved\r\nServer: nginx\r\nLocation: http://inside:81/socket/";
                text.replacen("404 Not Found", to, 1)
            });
        },
        |server, client| {
            changed(server, client, |text| {
                text.replacen("404 Not Found", "308 P\r\nLocation: /socket/", 1)
            });
        },
    );
    for answer in [absolute, relative] {
        let at = proxy(server.ws, bare, answer);
        for slash in ["", "/"] {
            let (code, found) = doctor_at(&format!("http://{at}/socket{slash}"), &KEY);
            assert_eq!(code, Some(0), "{found}");
            expect(&found, "path", "ok", "the server is found under /socket");
        }
    }
    // A redirect to elsewhere is reported.
    let elsewhere: Answer = |server, client| {
        changed(server, client, |text| {
            let text = text.replacen("404 Error", "301 Moved", 1);
            text.replacen("404 Not Found", "301 M\r\nLocation: https://a.example/socket", 1)
        });
    };
    let found = doctor(proxy(server.ws, bare, elsewhere), &[]).1;
    expect_only(&found, "path", "301: redirects to https://a.example/socket");
}

#[test]
fn the_doctor_asks_for_uncompressed_answers() {
    let server = Server::new();
    // Answers that are not streams would be compressed, which only browsers can read.
    let pack: Request = |head| {
        let page = ["/socket HTTP/1.1", "/socket/info HTTP/1.1", "/xhr HTTP/1.1"];
        let page = page.iter().find(|page| head.contains(**page));
        match page.filter(|_| head.to_lowercase().contains("accept-encoding")) {
            Some(page) => away(head, page),
            None => head,
        }
    };
    let (code, found) = doctor(proxy(server.ws, pack, at_once), &KEY);
    assert_eq!(code, Some(0), "{found}");
}

#[test]
fn a_rate_limit_of_the_proxy_is_recognised() {
    let server = Server::new();
    let crowd: Request = |head| away(head, "/socket/info HTTP/1.1");
    let busy: Answer = |server, client| {
        changed(server, client, |text| {
            let text = text.replacen("404 Not Found", "503 Busy\r\nServer: nginx", 1);
            text.replacen("404 Error: Page not found", "<html>503 Busy</html>....", 1)
        });
    };
    let found = doctor(proxy(server.ws, crowd, busy), &[]).1;
    expect_only(&found, "origin", "503 from nginx: not from the server itself, which was reached");
    assert!(found.to_string().contains("limit_req"), "{found}");
}

#[test]
fn another_sockjs_server_is_recognised() {
    for echo in ["", "a[\"{\\\"event\\\":\\\"ping\\\",\\\"clb\\\":1}\"]\n"] {
        let found = doctor(another(echo), &[]).1;
        expect_only(&found, "path", "it is another one");
        expect(&found, "rest", "cannot tell", "not checked");
    }
}

#[test]
fn checks_run_over_a_unix_socket() {
    let dir = Dir::new();
    let path = dir.file("ws.sock").display().to_string();
    let mut options = Options::limits(&[("heartbeat_ms", 200)]);
    options.config["ws_unix"] = json!(path);
    let server = Server::start_in(dir, &options);
    eventually("the listener opens", || server.dir().file("ws.sock").exists().then_some(()));
    let words = [&KEY[..], &["--wait", "1", "--ws-unix", &path]].concat();
    // The name does not resolve, and TLS is up to the proxy.
    let (code, found) = doctor_at("https://push.example/socket", &words);
    assert_eq!(code, Some(0), "{found}");
    expect(&found, "connection", "ok", &format!("unix:{path} accepts connections"));
    expect(&found, "origin", "ok", "https://push.example");
    expect(&found, "idle", "ok", "stays open for 1 s");
    assert!(!found.to_string().contains("\"tls\""), "{found}");
}

#[test]
fn without_openssl_tls_is_not_judged() {
    let server = Server::new();
    let mut command = fws(&["doctor", &format!("https://{}/socket", server.ws), "--json"]);
    command.env("PATH", "/nowhere");
    let ran = run(command);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    expect(&found, "tls", "cannot tell", "install openssl, or look by hand: openssl s_client");
    expect(&found, "rest", "cannot tell", "not checked");
}

#[test]
fn answers_in_place_of_the_server_are_recognised() {
    for (answer, words) in [
        ("HTTP/1.1 502 B\r\nServer: nginx\r\n\r\nx", "502 from nginx: the proxy does not"),
        (
            "HTTP/1.1 503 Service Unavailable\r\n\r\nno server",
            "503: not from the server itself: the proxy",
        ),
        ("HTTP/1.1 404 Not Found\r\n\r\nx", "404: there is no /socket"),
        ("HTTP/1.1 403 Forbidden\r\n\r\nx", "403: forbidden, and not by the server"),
        ("HTTP/1.1 401 U\r\n\r\n", "401: asks for a password"),
        ("HTTP/1.1 421 M\r\n\r\n", "421: the wrong host"),
        ("HTTP/1.1 429 T\r\n\r\n", "429: too many requests"),
        (
            "HTTP/1.1 301 M\r\nLocation: https://a.example/\r\n\r\n",
            "redirects to https://a.example/",
        ),
        ("HTTP/1.1 200 OK\r\n\r\n<html>Hello", "something else answers there: \"<html>Hello\""),
        ("HTTP/1.1 503 S\r\n\r\ntoo many sessions\n", "there is no room for one more"),
        ("HTTP/1.1 503 S\r\n\r\nThe server is full\n", "there is no room for one more"),
        ("HTTP/1.1 400 B\r\n\r\nThe plain HTTP request was sent to HTTPS port", "TLS is expected"),
        ("SSH-2.0-x\r\n", "it does not speak HTTP"),
        ("\x15\x03\x01\0\x02\x02\x46", "it speaks TLS"),
        ("", "closes without an answer"),
    ] {
        let (code, found) = doctor(answering(answer), &[]);
        assert_eq!(code, Some(1));
        expect_only(&found, "path", words);
    }
}

#[test]
fn wrong_hosts_and_client_addresses_are_reported() {
    let server = Server::start(&Options::limits(&[("connections_per_address", 1)]));
    let held = crate::common::browser::Browser::raw(server.ws);
    let (_, found) = doctor(server.ws, &[]);
    expect_only(&found, "path", "which it takes for yours");
    drop(held);
    let server = Server::new();
    let two: Request = |head| with(&head, &[], "Host: other.example");
    expect_only(&doctor(proxy(server.ws, two, at_once), &[]).1, "path", "no Host, or two");
    let introduced: Request = |head| format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{head}");
    let (_, found) = doctor(proxy(server.ws, introduced, at_once), &[]);
    expect_only(&found, "path", "something that is not a request");
}

#[test]
fn refused_origins_are_reported() {
    let mut options = Options::default();
    options.config["allow_origin"] = json!(["https://shop.example"]);
    let server = Server::start(&options);
    let found = doctor(server.ws, &[]).1;
    expect_only(&found, "origin", "may not connect");
    let found = doctor(server.ws, &["--origin", "https://evil.example"]).1;
    expect_only(&found, "origin", "pages of https://evil.example may not connect");
    let found = doctor(server.ws, &["--origin", "null"]).1;
    assert!(found["ok"] == false && !found.to_string().contains("--allow-origin"), "{found}");
    expect(&found, "rest", "cannot tell", "not checked");
    assert_eq!(doctor(server.ws, &["--origin", "https://shop.example"]).0, Some(0));
    // The proxy adds a header of its own.
    let server = Server::new();
    let help: Answer = |server, client| {
        changed(server, client, |text| {
            text.replacen("Vary: Origin", "Access-Control-Allow-Origin: *\r\nVary: Origin", 1)
        });
    };
    let found = doctor(proxy(server.ws, as_it_is, help), &[]).1;
    expect_only(&found, "origin", "browsers want one Access-Control-Allow-Origin");
    // WebSockets do not need the header.
    expect(&found, "websocket", "ok", "opens");
    let take: Request = |head| with(&head, &["Origin:"], "X: y");
    let found = doctor(proxy(server.ws, take, at_once), &[]).1;
    expect_only(&found, "origin", "browsers want one Access-Control-Allow-Origin");
    assert!(found.to_string().contains("let the proxy forward that as it is"), "{found}");
    expect(&found, "websocket", "ok", "opens");
}

#[test]
fn a_head_limit_too_low_for_cookies_is_reported() {
    let server = Server::start(&Options::limits(&[("http_head_bytes", 2048)]));
    expect_only(&doctor(server.ws, &[]).1, "headers", "431");
}

#[test]
fn a_full_server_is_reported() {
    let server = Server::start(&Options::limits(&[("connections", 16)]));
    let held: Vec<_> = (0..16).map(|_| crate::common::browser::Browser::raw(server.ws)).collect();
    expect_only(&doctor(server.ws, &[]).1, "path", "there is no room for one more");
    drop(held);
}

#[test]
fn refused_tokens_are_reported_with_the_cause() {
    let server = Server::new();
    let ask = |words: &[&str]| doctor(server.ws, words).1;
    expect_only(&ask(&["demo", "--key", "other"]), "token", "not signed with a key of \"demo\"");
    expect_only(&ask(&["nobody", "--key", "x"]), "token", "no namespace \"nobody\"");
    let old = token(r#"{"i":5,"exp":1000}"#, DEMO_KEY);
    expect_only(&ask(&["demo", "--token", &old]), "token", "by our clock it expired");
    let early = token(r#"{"i":5,"nbf":99999999999}"#, DEMO_KEY);
    expect_only(&ask(&["demo", "--token", &early]), "token", "by our clock it is good only in");
    expect_only(&ask(&["demo", "--token", "x"]), "token", "signed with another key, or not made");
    let good = token(r#"{"i":5}"#, DEMO_KEY);
    expect(&ask(&["demo", "--token", &good]), "token", "ok", "namespace demo");
    let ahead = token(r#"{"i":5,"iat":99999999998,"exp":99999999999}"#, DEMO_KEY);
    expect_only(&ask(&["demo", "--token", &ahead]), "clock", "the back end's clock is");
}

#[test]
fn clocks_that_differ_are_reported() {
    let server = Server::new();
    // The server reports less than 400 s left of a token of 600 s.
    let late: Answer = |server, client| {
        changed(server, client, |text| text.replace("\"expiresIn\":5", "\"expiresIn\":3"));
    };
    let found = doctor(proxy(server.ws, as_it_is, late), &KEY).1;
    expect_only(&found, "clock", "the server's clock is 20");
    // The date of an answer is only a hint.
    let date: Answer = |server, client| {
        changed(server, client, |text| {
            text.replacen("Date: ", "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nWas: ", 1)
        });
    };
    let (code, found) = doctor(proxy(server.ws, as_it_is, date), &[]);
    assert_eq!(code, Some(0));
    expect(&found, "clock", "cannot tell", "behind ours");
}

#[test]
fn wrong_arguments_are_refused() {
    for (words, part) in [
        (&["doctor"][..], "usage: fws doctor URL [NAME]"),
        (&["doctor", "localhost:8080"], "write http://localhost:8080"),
        (&["doctor", "http://a", "--token", "x"], "need the namespace behind the URL"),
        (&["doctor", "http://a", "--origin", "a b"], "--origin"),
        (
            &["doctor", "http://a", "--origin", "foo"],
            "--origin: \"foo\" is not written as browsers",
        ),
        (&["doctor", "http://a", "--wait", "x"], "--wait"),
    ] {
        let line = crate::common::command::bad(fws(words), 2);
        assert!(line.contains(part), "{line}");
    }
}
