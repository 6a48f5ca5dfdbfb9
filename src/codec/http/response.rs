//! Whole responses: head, length, body, in one frame.

use std::io::Write;

use super::Head;
use crate::codec::ws;
use crate::frame::Frame;

/// The answer to a WebSocket handshake with this key: what RFC 6455, 4.2.2 asks for and nothing
/// more, no subprotocol and no extension.
pub fn switching_protocols(key: &str) -> Frame {
    let accept = ws::accept_key(key);
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Frame::from(head.as_bytes())
}

/// A response under construction.
#[derive(Debug)]
pub struct Response {
    status: u16,
    /// Header lines, each with its CR LF.
    headers: Vec<u8>,
    body: Vec<u8>,
    /// The version of the request.
    minor_version: u8,
    is_kept_alive: bool,
    /// The request was HEAD: the answer shows the length of a body and has none.
    is_for_head: bool,
}

impl Response {
    /// A response without body to a request of HTTP/1.1 that keeps the connection.
    pub fn new(status: u16) -> Response {
        Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            minor_version: 1,
            is_kept_alive: true,
            is_for_head: false,
        }
    }

    /// Answers this request: its version, its wish to keep the connection, and its method count.
    /// What [`Response::close`] said before stands.
    pub fn answering(mut self, head: &Head<'_>) -> Response {
        self.minor_version = head.minor_version;
        self.is_kept_alive &= head.keep_alive();
        self.is_for_head = head.method == "HEAD";
        self
    }

    /// Adds a header. A name or value that would break out of its line is left out altogether: a
    /// value may be an echo of the request.
    pub fn header(mut self, name: &str, value: &str) -> Response {
        let is_safe = |text: &str| !text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        if is_safe(name) && is_safe(value) {
            for part in [name, ": ", value, "\r\n"] {
                self.headers.extend_from_slice(part.as_bytes());
            }
        }
        self
    }

    /// The body and its `Content-Type`.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        self.body = body.into();
        self.header("Content-Type", content_type)
    }

    /// A body of plain text.
    pub fn text(self, text: &str) -> Response {
        self.body("text/plain; charset=UTF-8", text)
    }

    /// The connection ends with this answer.
    pub fn close(mut self) -> Response {
        self.is_kept_alive = false;
        self
    }

    /// Whether the caller must close the connection behind this answer.
    pub fn closes(&self) -> bool {
        !self.is_kept_alive
    }

    /// The bytes. `Content-Length` is there always, but for the statuses that never have a body
    /// (RFC 9110, 8.6 and 15.4.5).
    pub fn encode(self) -> Frame {
        let mut out = Vec::with_capacity(128 + self.headers.len() + self.body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        let has_body = !matches!(self.status, 100..=199 | 204 | 304);
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{} {}\r\n", self.status, reason_phrase(self.status));
        out.extend_from_slice(&self.headers);
        if has_body {
            let _ = write!(out, "Content-Length: {}\r\n", self.body.len());
        }
        match (self.is_kept_alive, self.minor_version) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, 0) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, _) => {}
        }
        out.extend_from_slice(b"\r\n");
        if has_body && !self.is_for_head {
            out.extend_from_slice(&self.body);
        }
        Frame::from(out)
    }
}

/// RFC 9110, 15; 431 is of RFC 6585. Any other status has an empty phrase, which is allowed.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
