//! An HTTP/1.1 client for tests: one connection with sequential requests, answers with a length or
//! in chunks, byte by byte; and the conformance server of `examples/`.

use super::DEADLINE;
use super::http::Answer;
use super::wire::Wire;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The `Cache-Control` of answers that must not be cached.
pub const NEVER_CACHED: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";

/// The conformance server. Killed when dropped.
pub struct Conformance {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Conformance {
    /// Starts one. `cargo test` builds it; for a single test run `cargo build --examples` first.
    pub fn new() -> Conformance {
        let binary = std::path::Path::new(env!("CARGO_BIN_EXE_fws"));
        let binary = binary.with_file_name("examples").join("conformance");
        let mut child = Command::new(&binary)
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening ").and_then(|text| text.parse().ok());
        Conformance { child, address: address.unwrap_or_else(|| panic!("it said {line:?}")) }
    }
}

impl Drop for Conformance {
    fn drop(&mut self) {
        // The process runs until it is killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A session's path below `/socket`, which no other test uses.
pub fn session() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("000/s{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One connection.
pub struct Http {
    pub wire: Wire,
    address: SocketAddr,
    got: Vec<u8>,
}

impl Http {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Http {
        Http { wire: Wire::tcp(address), address, got: Vec::new() }
    }

    /// Connects to a unix socket.
    pub fn unix(path: &std::path::Path) -> Http {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        Http { wire: Wire::unix(path), address, got: Vec::new() }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Sends a request such as `GET /path`; a POST always with its length.
    #[track_caller]
    pub fn send(&mut self, line: &str, headers: &[&str], body: &str) {
        let mut head = format!("{line} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for header in headers {
            head += &format!("{header}\r\n");
        }
        if line.starts_with("POST") || !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        self.raw(head + "\r\n" + body);
    }

    /// Sends a request and reads the answer.
    #[track_caller]
    pub fn ask(&mut self, line: &str, headers: &[&str], body: &str) -> Answer {
        self.send(line, headers, body);
        match line.starts_with("HEAD ") {
            true => self.head(),
            false => self.answer(),
        }
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 65536];
        let count = match self.wire.read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&self.got)),
        };
        self.got.extend_from_slice(&piece[..count]);
        count > 0
    }

    fn until(&mut self, end: &str) -> String {
        loop {
            let found = self.got.windows(end.len()).position(|bytes| bytes == end.as_bytes());
            if let Some(at) = found {
                let line = self.got.drain(..at + end.len()).collect();
                return String::from_utf8(line).expect("text");
            }
            let is_open = self.fill();
            assert!(is_open, "closed after {:?}", String::from_utf8_lossy(&self.got));
        }
    }

    /// Reads `count` bytes of text.
    #[track_caller]
    pub fn exactly(&mut self, count: usize) -> String {
        String::from_utf8(self.bytes(count)).expect("text")
    }

    /// Reads `count` bytes.
    #[track_caller]
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.got.len() < count {
            let is_open = self.fill();
            assert!(is_open, "closed after {:?}", String::from_utf8_lossy(&self.got));
        }
        self.got.drain(..count).collect()
    }

    /// Reads the head of an answer.
    #[track_caller]
    pub fn head(&mut self) -> Answer {
        let head = self.until("\r\n\r\n");
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok()).expect("a status");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Answer { status, headers: headers.collect(), body: String::new() }
    }

    /// Reads the next chunk of an answer; empty at its end.
    #[track_caller]
    pub fn chunk(&mut self) -> String {
        let size = self.until("\r\n");
        let size = usize::from_str_radix(size.trim_end(), 16).expect("the size of a chunk");
        let chunk = self.exactly(size + 2);
        chunk.strip_suffix("\r\n").expect("a chunk ends so").to_owned()
    }

    /// Reads a whole answer, with a length or in chunks.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.header("content-length").map(|length| length.parse().unwrap());
        assert!(!(matches!(answer.status, 204 | 304) && length.is_some()), "{answer:?}");
        if let Some(length) = length {
            answer.body = self.exactly(length);
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk();
                if chunk.is_empty() {
                    break;
                }
                answer.body += &chunk;
            }
        } else {
            assert!(matches!(answer.status, 101 | 204 | 304), "a body without end: {answer:?}");
        }
        answer
    }

    /// Asserts that the connection ends here.
    #[track_caller]
    pub fn expect_end(&mut self) {
        while self.fill() {}
        assert_eq!(String::from_utf8_lossy(&self.got), "", "before the end");
    }

    /// Reads everything up to the end of the connection.
    pub fn rest(&mut self) -> String {
        while self.fill() {}
        String::from_utf8_lossy(&std::mem::take(&mut self.got)).into_owned()
    }

    /// Asserts that the server sends nothing for a moment: nothing else could show that it waits.
    #[track_caller]
    pub fn expect_silence(&mut self) {
        assert!(self.got.is_empty(), "{:?}", String::from_utf8_lossy(&self.got));
        self.wire.set_deadline(Duration::from_millis(60));
        let mut byte = [0];
        let read = self.wire.read(&mut byte);
        self.wire.set_deadline(DEADLINE);
        let kind = read.as_ref().map_err(std::io::Error::kind);
        assert!(matches!(kind, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{read:?}");
    }
}

/// One request on its own connection.
#[track_caller]
pub fn ask(address: SocketAddr, line: &str, headers: &[&str], body: &str) -> Answer {
    Http::connect(address).ask(line, headers, body)
}

/// Posts to a path; returns status and body.
#[track_caller]
pub fn post(address: SocketAddr, path: &str, body: &str) -> (u16, String) {
    let answer = ask(address, &format!("POST {path}"), &[], body);
    (answer.status, answer.body)
}

/// Opens an HTTP session of a user in namespace `demo`, subscribed to a channel; returns its path
/// below `/socket`.
pub fn session_on(address: SocketAddr, user: usize, channel: &str) -> String {
    let id = session();
    assert_eq!(post(address, &format!("/socket/{id}/xhr"), ""), (200, "o\n".into()));
    let token = super::token::token(&format!(r#"{{"i":"{user}"}}"#), super::server::key_of("demo"));
    let auth = super::browser::auth_message("demo", &token);
    let subscribe = serde_json::json!({ "event": "subscribe", "data": channel }).to_string();
    let said = serde_json::json!([auth, subscribe]).to_string();
    assert_eq!(post(address, &format!("/socket/{id}/xhr_send"), &said).0, 204);
    assert!(post(address, &format!("/socket/{id}/xhr"), "").1.contains("auth ok"));
    id
}
