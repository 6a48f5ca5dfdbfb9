//! Responses: whole ones, in one frame, and streaming ones, in chunks.

use std::io::Write;

use super::Head;
use crate::codec::ws;
use crate::frame::Frame;
use crate::time::UnixMillis;

/// The answer to a WebSocket handshake with this key: what RFC 6455, 4.2.2 asks for and nothing
/// more, no subprotocol and no extension.
pub fn switching_protocols(key: &str) -> Frame {
    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: ";
    let accept = ws::accept_key(key);
    Frame::from([HEAD, accept.as_bytes(), b"\r\n\r\n"].concat())
}

/// Tells a client to send the body that it has announced (RFC 9110, 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Ends an answer in chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What stands in front of a chunk of so many bytes; behind it stands CR LF.
pub fn chunk_header(payload_bytes: usize) -> String {
    format!("{payload_bytes:x}\r\n")
}

/// How many bytes of payload a chunk of that length in all has.
pub fn chunk_payload_bytes(chunk_bytes: usize) -> usize {
    // Two line ends, and as many digits as make it come out.
    let digits_of = |payload: usize| (usize::BITS - payload.leading_zeros()).div_ceil(4).max(1);
    let is_right = |digits: &u32| {
        let payload = chunk_bytes.checked_sub(4 + *digits as usize);
        payload.is_some_and(|payload| digits_of(payload) == *digits)
    };
    let digits = (1..=usize::BITS / 4).find(is_right).unwrap_or_default();
    chunk_bytes.saturating_sub(4 + digits as usize)
}

/// A body of so many bytes stands in one frame with its head.
const JOINED_BYTES: usize = 16 * 1024;

/// What a response says.
#[derive(Debug)]
enum Body {
    /// For one alone.
    Own(Vec<u8>),
    /// For others as well: it waits for all of them in one place.
    Shared(Frame),
}

impl Default for Body {
    fn default() -> Body {
        Body::Own(Vec::new())
    }
}

impl Body {
    fn bytes(&self) -> &[u8] {
        match self {
            Body::Own(bytes) => bytes,
            Body::Shared(frame) => frame,
        }
    }
}

/// A response under construction.
#[derive(Debug)]
pub struct Response {
    status: u16,
    /// Header lines, each with its CR LF.
    headers: Vec<u8>,
    body: Body,
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
            body: Body::default(),
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
        self.body = Body::Own(body.into());
        self.header("Content-Type", content_type)
    }

    /// A body that others get as well, which waits for all of them in one place, and its
    /// `Content-Type`.
    pub fn shared(mut self, content_type: &str, body: &Frame) -> Response {
        self.body = Body::Shared(body.clone());
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

    /// Memory that it takes while it waits to be sent, in bytes.
    pub fn kept_bytes(&self) -> usize {
        let body = if let Body::Own(body) = &self.body { body.capacity() } else { 0 };
        self.headers.capacity() + body
    }

    /// The bytes, as of that date if it is known (RFC 9110, 6.6.1). `Content-Length` is there
    /// always, but for the statuses that never have a body (RFC 9110, 8.6 and 15.4.5).
    pub fn encode(self, at: Option<UnixMillis>) -> Frame {
        let (mut out, body) = self.parts(at);
        out.extend_from_slice(body.bytes());
        Frame::from(out)
    }

    /// As [`Response::encode`]; a body that is long or shared is a frame of its own, which spares a
    /// copy of it.
    pub fn frames(self, at: Option<UnixMillis>) -> (Frame, Option<Frame>) {
        if matches!(&self.body, Body::Own(body) if body.len() <= JOINED_BYTES) {
            return (self.encode(at), None);
        }
        let (head, body) = self.parts(at);
        let body = match body {
            Body::Own(body) => Frame::from(body),
            Body::Shared(body) => body,
        };
        (Frame::from(head), Some(body))
    }

    /// The head, with room for a body that is not long, and the body.
    fn parts(mut self, at: Option<UnixMillis>) -> (Vec<u8>, Body) {
        let mut body = std::mem::take(&mut self.body);
        let room = body.bytes().len().min(JOINED_BYTES);
        let mut head = Vec::with_capacity(168 + self.headers.len() + room);
        let has_body = !matches!(self.status, 100..=199 | 204 | 304);
        self.start_into(&mut head, at);
        if has_body {
            // Writing to a Vec cannot fail.
            let _ = write!(head, "Content-Length: {}\r\n", body.bytes().len());
        }
        self.connection_into(&mut head);
        if !has_body || self.is_for_head {
            body = Body::default();
        }
        (head, body)
    }

    /// Whether an answer without a length to this request comes in chunks. A client of HTTP/1.0
    /// cannot know them: it gets bytes up to the end of the connection.
    pub fn is_chunked(&self) -> bool {
        self.minor_version > 0
    }

    /// The head of an answer whose body has no length yet, without any body. Otherwise as
    /// [`Response::encode`].
    pub fn encode_head(self, at: Option<UnixMillis>) -> Frame {
        let response = if self.is_chunked() { self } else { self.close() };
        let mut out = Vec::with_capacity(168 + response.headers.len());
        response.start_into(&mut out, at);
        if response.is_chunked() {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        response.connection_into(&mut out);
        Frame::from(out)
    }

    /// The first line, and the headers that are the same however long the body is.
    fn start_into(&self, out: &mut Vec<u8>, at: Option<UnixMillis>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, reason_phrase(self.status));
        if let Some(at) = at {
            let _ = write!(out, "Date: {}\r\n", at.to_http_date());
        }
        out.extend_from_slice(&self.headers);
    }

    /// The last header, if one is needed, and the end of the head.
    fn connection_into(&self, out: &mut Vec<u8>) {
        match (self.is_kept_alive, self.minor_version) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, 0) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, _) => {}
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// RFC 9110, 15; 431 is of RFC 6585. Any other status has an empty phrase, which is allowed.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_body_is_a_frame_of_its_own() {
        for (bytes, is_apart) in [(0, false), (JOINED_BYTES, false), (JOINED_BYTES + 1, true)] {
            for (status, is_for_head) in [(200, false), (200, true), (304, false)] {
                let response = || Response {
                    is_for_head,
                    ..Response::new(status).body("text/plain", vec![b'x'; bytes])
                };
                let (head, body) = response().frames(None);
                assert_eq!(body.is_some(), is_apart);
                let body = body.as_deref().unwrap_or_default();
                assert_eq!([&head, body].concat(), *response().encode(None));
                let text = Frame::from(vec![b'x'; bytes]);
                let shared = || Response {
                    is_for_head,
                    ..Response::new(status).shared("text/plain", &text)
                };
                assert_eq!(shared().encode(None), response().encode(None));
                let is_there = status == 200 && !is_for_head;
                assert_eq!(shared().frames(None).1.is_some_and(|body| body.is(&text)), is_there);
            }
        }
    }

    #[test]
    fn the_payload_of_a_chunk_is_known_by_its_length() {
        for payload in (1..5000).chain([0xFFFF, 0x1_0000, 0xFFF_FFFF, 0x1000_0000]) {
            let chunk = chunk_header(payload).len() + payload + 2;
            assert_eq!(chunk_payload_bytes(chunk), payload);
        }
    }
}
