//! Tests of request heads, valid and invalid, and of responses.

use super::*;

const HEADERS: usize = 64;
const TARGET_BYTES: usize = 2048;

fn parse_head(input: &[u8]) -> Result<Head<'_>, HttpError> {
    let bounds = HeadBounds { headers: HEADERS, target_bytes: TARGET_BYTES };
    super::parse_head(input, Box::leak(Box::default()), &bounds)
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn refused(head: &str) -> HttpError {
    let error = parse_head(head.as_bytes()).unwrap_err();
    let answer = error.response();
    assert!(answer.closes());
    let status = format!("HTTP/1.1 {} ", error.status());
    assert!(answer.encode(None).starts_with(status.as_bytes()));
    error
}

/// Returns a request for `/` with these header lines.
fn request_with(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

fn handshake(more: &str) -> String {
    request_with(&format!("Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n{more}"))
}

#[test]
fn the_end_of_the_head_is_found_at_every_split() {
    let input = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest\r\n\r\n";
    let end = input.len() - "rest\r\n\r\n".len();
    for first in 0..=input.len() {
        let found = find_head_end(&input[..first], 0);
        assert_eq!(found, (first >= end).then_some(end));
        if found.is_none() {
            assert_eq!(find_head_end(input, first), Some(end), "{first}");
        }
    }
    assert_eq!(find_head_end(b"", 0), None);
    assert_eq!(find_head_end(b"\r\n\r\n", 100), None);
}

#[test]
fn the_end_of_the_head_is_found_among_all_line_ends() {
    const LENGTH: u32 = 9;
    for number in 0..3_usize.pow(LENGTH) {
        let input: Vec<u8> = (0..LENGTH).map(|at| b"\r\na"[number / 3_usize.pow(at) % 3]).collect();
        let expected = input.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        assert_eq!(find_head_end(&input, 0), expected, "{:?}", input.escape_ascii());
    }
}

#[test]
fn the_request_line_and_headers_are_parsed() {
    let input = b"POST http://h:1/a//b/../c?x=1?y HTTP/1.1\r\nHOST:  h \r\nX-Empty:\r\n\
        X-Latin: \xe9\r\nConnection: keep-alive\r\nconnection: , Upgrade ,x\r\n\
        Content-Length: 18446744073709551615\r\n\r\n";
    let head = parse_head(input).unwrap();
    assert_eq!((head.method, head.minor_version), ("POST", 1));
    assert_eq!((head.path(), head.query()), ("/a//b/../c", Some("x=1?y")));
    assert_eq!((head.header("host"), head.header("x-empty")), (Some("h"), Some("")));
    assert_eq!((head.header("X-LATIN"), head.header("nope")), (None, None));
    assert!(head.list_has("Connection", "upgrade") && head.list_has("connection", "X"));
    assert!(!head.list_has("connection", "") && !head.list_has("connection", "close"));
    assert_eq!(head.content, Content::Length(u64::MAX));
    assert!(head.keep_alive());
}

#[test]
fn request_targets_are_split_into_path_and_query() {
    for (target, path, query) in [
        ("/", "/", None),
        ("/socket?", "/socket", Some("")),
        ("/a?u=http://x/", "/a", Some("u=http://x/")),
        ("/a://b", "/a://b", None),
        ("http://host", "/", None),
        ("http://host?q", "/", Some("q")),
        ("ws://host/p/?q", "/p/", Some("q")),
        ("*", "*", None),
    ] {
        let input = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = parse_head(input.as_bytes()).unwrap();
        assert_eq!((head.path(), head.query()), (path, query), "{target}");
    }
    for target in ["host:443", "a", "é", "/é", "?x", "+://h/", "://h/"] {
        let input = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(refused(&input), HttpError::Malformed, "{target}");
    }
    let longest = "/".repeat(TARGET_BYTES);
    assert!(parse_head(format!("GET {longest} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).is_ok());
    let error = refused(&format!("GET {longest}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!((error, error.status()), (HttpError::TargetTooLong, 414));
}

#[test]
fn ambiguous_and_malformed_heads_are_refused() {
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n\r\n\r\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\r\n\r\n",
        "\r\n\r\n",
        "",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nmore",
    ] {
        assert_eq!(refused(head).status(), if head.contains("/a b") { 505 } else { 400 }, "{head}");
    }
}

#[test]
fn http_1_1_requires_exactly_one_host_header() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), HttpError::Host);
    assert_eq!(refused(&request_with("host: a\r\n")), HttpError::Host);
    assert!(parse_head(b"GET / HTTP/1.0\r\n\r\n").is_ok());
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n").status(), 400);
    for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1"] {
        assert_eq!(refused(&format!("GET / {version}\r\nHost: a\r\n\r\n")).status(), 505);
    }
}

#[test]
fn ambiguous_body_lengths_are_refused() {
    let content = |lines: &str| parse_head(request_with(lines).as_bytes()).map(|head| head.content);
    assert_eq!(content("").unwrap(), Content::None);
    assert_eq!(content("Content-Length: 0\r\n").unwrap(), Content::Length(0));
    assert_eq!(content("Transfer-Encoding: Chunked\r\n").unwrap(), Content::Chunked);
    for (lines, status) in [
        ("Content-Length: 1\r\nContent-Length: 1\r\n", 400),
        ("Content-Length: 1, 1\r\n", 400),
        ("Content-Length: +1\r\n", 400),
        ("Content-Length: -1\r\n", 400),
        ("Content-Length: 0x1\r\n", 400),
        ("Content-Length:\r\n", 400),
        ("Content-Length: 18446744073709551616\r\n", 400),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding: gzip\r\nContent-Length: 1\r\n", 400),
        ("Transfer-Encoding: chunked, chunked\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
        ("Transfer-Encoding:\r\n", 400),
        ("Transfer-Encoding: gzip, chunked\r\n", 501),
        ("Transfer-Encoding: identity\r\n", 501),
        ("Transfer-Encoding: xchunked\r\n", 501),
    ] {
        assert_eq!(refused(&request_with(lines)).status(), status, "{lines}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused(old), HttpError::Malformed);
}

#[test]
fn too_many_headers_are_refused() {
    let lines = |count| "X: y\r\n".repeat(count);
    assert!(parse_head(request_with(&lines(HEADERS - 1)).as_bytes()).is_ok());
    let error = refused(&request_with(&lines(HEADERS)));
    assert_eq!((error, error.status()), (HttpError::TooManyHeaders, 431));
    assert_eq!(HttpError::HeadTooLarge.status(), 431);
}

#[test]
fn keep_alive_follows_the_version_and_the_connection_header() {
    for (version, connection, kept) in [
        (1, "", true),
        (1, "Connection: close\r\n", false),
        (1, "Connection: keep-alive, CLOSE\r\n", false),
        (0, "", false),
        (0, "Connection: Keep-Alive\r\n", true),
        (0, "Connection: keep-alive\r\nConnection: close\r\n", false),
    ] {
        let input = format!("GET / HTTP/1.{version}\r\nHost: a\r\n{connection}\r\n");
        let head = parse_head(input.as_bytes()).unwrap();
        assert_eq!(head.keep_alive(), kept);
        let answer = Response::new(200).answering(&head);
        assert_eq!(answer.closes(), !kept);
        let answer = String::from_utf8(answer.encode(None).to_vec()).unwrap();
        assert_eq!(answer.contains("Connection: close"), !kept);
        assert_eq!(answer.contains("Connection: keep-alive"), kept && version == 0);
        assert!(Response::new(200).close().answering(&head).closes());
    }
}

#[test]
fn a_websocket_handshake_needs_all_its_parts() {
    let assert_upgrade = |input: &str, expected: Upgrade<'_>| {
        let head = parse_head(input.as_bytes()).unwrap();
        assert_eq!(upgrade(&head), expected, "{input}");
    };
    let version = "Sec-WebSocket-Version: 13\r\n";
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    let good = handshake(&format!("{version}{key}"));
    assert_upgrade(&good, Upgrade::Accept { key: KEY });
    for (from, to) in [
        ("GET", "POST"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("WebSocket\r\nC", "h2c\r\nC"),
        ("keep-alive, Upgrade", "close"),
        (version, "Sec-WebSocket-Version: 13\r\nContent-Length: 5\r\n"),
    ] {
        assert_upgrade(&good.replacen(from, to, 1), Upgrade::NotUpgrade);
    }
    assert_upgrade(&handshake(&key), Upgrade::BadVersion(None));
    assert_upgrade(&good.replace(": 13", ": 8"), Upgrade::BadVersion(Some("8")));
    assert_upgrade(&handshake(version), Upgrade::NoKey);
    assert_upgrade(&good.replace(KEY, "short"), Upgrade::BadKey);
    assert_upgrade(&handshake(&format!("{version}{key}{key}")), Upgrade::BadKey);
}

#[test]
fn handshakes_are_answered_as_by_the_original_server() {
    assert_eq!(
        &*switching_protocols(KEY),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    assert!(Upgrade::Accept { key: KEY }.refusal().is_none());
    for (refused, status, text) in [
        (Upgrade::NotUpgrade, "400 Bad Request", "Not a valid websocket request"),
        (Upgrade::NoKey, "400 Bad Request", "Missing handshake request header: Sec-WebSocket-Key"),
        (Upgrade::BadKey, "400 Bad Request", "Invalid handshake request header: Sec-WebSocket-Key"),
    ] {
        let expected = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=UTF-8\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        assert_eq!(&*refused.refusal().unwrap().encode(None), expected.as_bytes());
    }
    let version = Upgrade::BadVersion(Some("8")).refusal().unwrap().encode(None);
    assert_eq!(
        &*version,
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Version: 13\r\nContent-Type: text/plain; charset=UTF-8\r\n\
          Content-Length: 46\r\nConnection: close\r\n\r\n\
          Only supported WebSocket protocol is RFC 6455."
    );
}

#[test]
fn responses_have_a_content_length_and_drop_unsafe_headers() {
    let plain = Response::new(404).header("X", "1").header("Y", "a\r\nEvil: 1").text("no\n");
    assert_eq!(
        &*plain.encode(None),
        b"HTTP/1.1 404 Not Found\r\nX: 1\r\nContent-Type: text/plain; charset=UTF-8\r\n\
          Content-Length: 3\r\n\r\nno\n"
    );
    assert_eq!(&*Response::new(204).encode(None), b"HTTP/1.1 204 No Content\r\n\r\n");
    let empty = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(&*Response::new(405).encode(None), empty);
    let head = parse_head(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let answer = Response::new(200).text("hello").answering(&head).encode(None);
    assert!(answer.ends_with(b"Content-Length: 5\r\n\r\n"));
}

#[test]
fn the_host_is_a_name_or_an_address_with_an_optional_port() {
    for host in ["", "a", "a.example:8080", "a:", "my_app-1~x", "a%2Db", "1.2.3.4:80", "[::1]:80"] {
        let input = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert!(parse_head(input.as_bytes()).is_ok(), "{host}");
    }
    for host in ["a b/c", "a,b", "a:b", "a:8:0", "u@a", "[::1", "[::1]x", "[v1.a]", "::1", "a%2x"] {
        for version in ["1.0", "1.1"] {
            let input = format!("GET / HTTP/{version}\r\nHost: {host}\r\n\r\n");
            assert_eq!(refused(&input), HttpError::Host, "{host}");
        }
    }
}

#[test]
fn the_fuzz_target_passes_on_mutated_samples() {
    let seeds = [
        handshake(&format!("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n")),
        request_with("Content-Length: 3\r\n") + "abc",
        "\r\nGET http://h?x HTTP/1.0\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
        "\r\n\r\n".to_owned(),
        String::new(),
    ];
    for seed in &seeds {
        for step in 0..20 {
            fuzz_head(&[&[step], seed.as_bytes()].concat());
        }
        for at in 0..seed.len() {
            for byte in [b'\r', b'\n', b' ', 0, b':', b'/', 0xFF] {
                let mut data = [b"\x02", seed.as_bytes()].concat();
                data[at + 1] = byte;
                fuzz_head(&data);
            }
        }
    }
    fuzz_head(&[]);
}
