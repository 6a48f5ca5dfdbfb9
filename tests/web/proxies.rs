//! The client address of a browser, on the real binary: the peer address, or the one that a trusted
//! proxy states; the unix socket for proxies; and the limit on connections per address.

use crate::common::eventually;
use crate::common::http::Answer;
use crate::common::server::{Dir, Options, Server, mode};
use crate::common::web::Http;
use serde_json::json;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const REQUEST: &str = "GET /socket HTTP/1.1\r\nHost: a\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Options with a cap on connections per address and these trusted proxies.
fn capped(cap: u64, proxies: &[&str]) -> Options {
    let mut options = Options::limits(&[("connections_per_address", cap)]);
    options.config["trusted_proxy"] = json!(proxies);
    options
}

/// A PROXY protocol header of version 2 that names this source address.
fn proxy_header(command: u8, source: [u8; 4]) -> Vec<u8> {
    let addresses = [&source[..], &[127, 0, 0, 1, 0, 80, 0, 81], &[4, 0, 2, b'\r', b'\n']].concat();
    [SIGNATURE, &[command, 0x11, 0, addresses.len() as u8], &addresses].concat()
}

/// A connection that has sent a request with this header, and the answer to it.
fn asking(server: &Server, header: &str) -> (Http, Answer) {
    let mut http = Http::connect(server.ws);
    http.raw(format!("{REQUEST}{header}\r\n"));
    let answer = http.answer();
    (http, answer)
}

#[track_caller]
fn assert_refused(mut http: Http, answer: &Answer) {
    assert_eq!(answer.status, 503);
    assert_eq!(answer.body, "Too many connections from your address\n");
    assert_eq!(answer.header("retry-after"), Some("30"));
    http.expect_end();
}

#[test]
fn connections_per_address_are_capped() {
    let server = Server::start(&capped(2, &[]));
    let (first, answer) = asking(&server, "");
    assert_eq!(answer.status, 200);
    // `X-Forwarded-For` from an untrusted peer is ignored.
    let (_second, answer) = asking(&server, "X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(answer.status, 200);
    let (third, answer) = asking(&server, "X-Forwarded-For: 192.0.2.2\r\n");
    assert_refused(third, &answer);
    // A connection over the cap is refused even before it sends anything.
    let mut silent = Http::connect(server.ws);
    let answer = silent.answer();
    assert_refused(silent, &answer);
    drop(first);
    eventually("the slot is free", || {
        let (_, answer) = asking(&server, "");
        (answer.status == 200).then_some(())
    });
    server.terminate();
    eventually("the refusal is logged", || {
        server.log().iter().any(|line| line.contains("address_full")).then_some(())
    });
}

#[test]
fn connections_per_address_are_unlimited_by_default() {
    let server = Server::new();
    let all: Vec<Http> = (0..100).map(|_| Http::connect(server.ws)).collect();
    assert_eq!(asking(&server, "").1.status, 200);
    drop(all);
}

#[test]
fn behind_a_trusted_proxy_the_forwarded_address_counts() {
    let server = Server::start(&capped(1, &["127.0.0.0/8", "10.0.0.0/8"]));
    let ask = |list: &str| asking(&server, &format!("X-Forwarded-For: {list}\r\n"));
    let (_one, answer) = ask("192.0.2.1");
    assert_eq!(answer.status, 200);
    let (_two, answer) = ask("192.0.2.1, 192.0.2.2");
    assert_eq!(answer.status, 200, "entries to the left can be forged by the client");
    let (http, answer) = ask("192.0.2.2");
    assert_refused(http, &answer);
    let (http, answer) = ask("192.0.2.9, 192.0.2.1, 10.0.0.7, 127.0.0.1");
    assert_refused(http, &answer);
    // Two addresses in one /64 network count as one client.
    let (_home, answer) = ask("2001:db8:1:2::1");
    assert_eq!(answer.status, 200);
    let (http, answer) = ask("2001:db8:1:2:ffff::1");
    assert_refused(http, &answer);
    // An invalid entry and a missing header both count for the proxy's own address.
    let (_rubbish, answer) = ask("192.0.2.3, rubbish");
    assert_eq!(answer.status, 200);
    let (http, answer) = asking(&server, "");
    assert_refused(http, &answer);
}

#[test]
fn each_request_of_a_keep_alive_connection_counts_for_its_client() {
    let server = Server::start(&capped(1, &["127.0.0.1"]));
    let (mut kept, answer) = asking(&server, "X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(answer.status, 200);
    let again = kept.ask("GET /socket", &["X-Forwarded-For: 192.0.2.1"], "");
    assert_eq!(again.status, 200);
    let other = kept.ask("GET /socket", &["X-Forwarded-For: 192.0.2.2"], "");
    assert_eq!(other.status, 200);
    let (_one, answer) = asking(&server, "X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(answer.status, 200, "the connection now counts for 192.0.2.2");
    let answer = kept.ask("GET /socket", &["X-Forwarded-For: 192.0.2.1"], "");
    assert_refused(kept, &answer);
}

#[test]
fn refused_connections_leave_descriptors_for_others() {
    let options = Options { descriptors: Some(164), ..capped(1, &["127.0.0.1"]) };
    let server = Server::start(&options);
    let crowd: Vec<Http> = (0..99)
        .map(|_| {
            let mut http = Http::connect(server.ws);
            http.raw(format!("{REQUEST}X-Forwarded-For: 192.0.2.1\r\n\r\n"));
            http
        })
        .collect();
    // The crowd never reads its answers, yet others are soon admitted.
    let start = Instant::now();
    let others = (0..50).map(|i| {
        eventually("there is room", || {
            let (http, answer) = asking(&server, &format!("X-Forwarded-For: 192.0.3.{i}\r\n"));
            (answer.status == 200).then_some(http)
        })
    });
    assert_eq!(others.collect::<Vec<_>>().len(), 50);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    drop(crowd);
}

#[test]
fn a_proxy_header_may_arrive_in_two_pieces_cut_anywhere() {
    let server = Server::start(&capped(1, &["127.0.0.1"]));
    let request = format!("{REQUEST}X-Forwarded-For: 192.0.2.250\r\n\r\n");
    let proxy_headers = [
        proxy_header(0x21, [192, 0, 2, 1]),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 4000 80\r\n".to_vec(),
    ];
    let mut client = 0;
    for proxy_header in proxy_headers {
        for at in 0..=proxy_header.len() {
            let mut http = Http::connect(server.ws);
            http.wire.hold();
            http.raw(&proxy_header[..at]);
            http.wire.release();
            // Nothing else shows that the first piece was read on its own.
            http.expect_silence();
            http.raw([&proxy_header[at..], request.as_bytes()].concat());
            let answer = http.answer();
            assert_eq!(answer.status, 200, "cut at {at}");
            client += 1;
            // The only slot of that address is free again for the next connection.
            drop(http);
            eventually("the slot is free", || {
                let mut next = Http::connect(server.ws);
                next.raw([&proxy_header[..], request.as_bytes()].concat());
                (next.answer().status == 200).then_some(())
            });
        }
    }
    assert!(client > 60);
}

#[test]
fn a_client_named_by_a_proxy_header_cannot_forward_another_address() {
    let server = Server::start(&capped(1, &["127.0.0.1"]));
    let by = |proxy_header: &[u8], header: &str| {
        let mut http = Http::connect(server.ws);
        http.raw([proxy_header, format!("{REQUEST}{header}\r\n").as_bytes()].concat());
        let answer = http.answer();
        (http, answer)
    };
    let one = proxy_header(0x21, [192, 0, 2, 1]);
    let (_first, answer) = by(&one, "");
    assert_eq!(answer.status, 200);
    let (http, answer) = by(&one, "X-Forwarded-For: 192.0.2.2\r\n");
    assert_refused(http, &answer);
    // After a LOCAL header, in which the proxy speaks for itself, `X-Forwarded-For` is believed.
    let local = proxy_header(0x20, [192, 0, 2, 1]);
    let (_second, answer) = by(&local, "X-Forwarded-For: 192.0.2.2\r\n");
    assert_eq!(answer.status, 200);
    let (http, answer) = by(&local, "X-Forwarded-For: 192.0.2.2\r\n");
    assert_refused(http, &answer);
}

#[test]
fn untrusted_and_malformed_proxy_headers_are_bad_requests() {
    let mut server = Server::start(&capped(0, &["192.0.2.0/24"]));
    let good = proxy_header(0x21, [192, 0, 2, 1]);
    let refused = |server: &Server, bytes: &[u8]| {
        let mut http = Http::connect(server.ws);
        http.raw(bytes);
        let status = http.answer().status;
        http.expect_end();
        status
    };
    for bytes in
        [&good[..], &good[..13], b"PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\n", b"\x16\x03\x01"]
    {
        assert_eq!(refused(&server, bytes), 400, "{bytes:?}");
    }
    server.assert_alive();
    let mut server = Server::start(&capped(0, &["127.0.0.1"]));
    let twice = good.repeat(2);
    let long = [SIGNATURE, b"\x21\x11\xff\xff"].concat();
    let newer = proxy_header(0x31, [192, 0, 2, 1]);
    for bytes in [&twice[..], &long, &newer, b"PROXY TCP4 192.0.2.1\r\n"] {
        assert_eq!(refused(&server, bytes), 400, "{bytes:?}");
    }
    server.assert_alive();
}

/// A server process, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server with these flags and no TCP port for browsers.
fn without_port(dir: &Dir, options: &Options, flags: &[&str]) -> Running {
    let usual = options.command(dir);
    let mut command = Command::new(usual.get_program());
    let mut is_ws = false;
    for word in usual.get_args() {
        command.arg(if is_ws { "none".as_ref() } else { word });
        is_ws = word == "--ws";
    }
    command.args(flags).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    Running(command.spawn().unwrap())
}

#[test]
fn a_unix_socket_can_be_the_only_browser_listener() {
    let dir = Dir::new();
    let path = dir.file("ws.sock");
    // A stale socket, left behind by a dead server.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let flags = ["--ws-unix", path.to_str().unwrap(), "--trusted-proxy", "unix"];
    let _server = without_port(&dir, &capped(1, &[]), &flags);
    eventually("the socket listens", || std::os::unix::net::UnixStream::connect(&path).ok());
    assert_eq!(mode(&path), 0o660);
    let ask = |client: &str| {
        let mut http = Http::unix(&path);
        let header = format!("X-Forwarded-For: {client}");
        let answer = http.ask("GET /socket", &[&header], "");
        (http, answer)
    };
    let (_one, answer) = ask("192.0.2.1");
    assert_eq!((answer.status, answer.body.as_str()), (200, "Welcome to SockJS!\n"));
    assert_eq!(ask("192.0.2.2").1.status, 200);
    let (http, answer) = ask("192.0.2.1");
    assert_refused(http, &answer);
    let mut socket = Http::unix(&path);
    socket
        .raw(crate::common::browser::upgrade("/socket/websocket", &["X-Forwarded-For: 192.0.2.3"]));
    assert_eq!(socket.head().status, 101);
}

#[test]
fn a_unix_socket_may_listen_beside_the_port() {
    let mut options = Options::default();
    let dir = Dir::new();
    let path = dir.file("ws.sock");
    options.config["ws_unix"] = json!(path);
    let mut server = Server::start_in(dir, &options);
    let answer = eventually("the socket listens", || {
        path.exists().then(|| Http::unix(&path).ask("GET /socket", &[], ""))
    });
    assert_eq!(answer.status, 200);
    // The unix socket is not a trusted proxy here: a PROXY header is a bad request.
    let mut http = Http::unix(&path);
    http.raw(proxy_header(0x21, [192, 0, 2, 1]));
    assert_eq!(http.answer().status, 400);
    server.assert_alive();
    let dir = server.stop();
    assert!(!dir.file("ws.sock").exists());
}

#[test]
fn a_server_without_a_browser_listener_does_not_start() {
    let dir = Dir::new();
    let mut server = without_port(&dir, &Options::default(), &[]);
    let status = eventually("it ends", || server.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(2));
}
