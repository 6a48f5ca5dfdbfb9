//! Responses: complete ones in one frame, streaming ones in chunks.

use std::io::Write;

use super::Head;
use crate::codec::ws;
use crate::frame::Frame;
use crate::time::UnixMillis;

/// Returns the response to a WebSocket handshake with this key: what RFC 6455, 4.2.2 requires,
/// without subprotocol or extension.
pub fn switching_protocols(key: &str) -> Frame {
    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: ";
    let accept = ws::accept_key(key);
    Frame::from([HEAD, accept.as_bytes(), b"\r\n\r\n"].concat())
}

/// Tells a client to send the body it has announced (RFC 9110, 10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Ends a chunked response.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Returns what precedes a chunk of `payload_bytes`; CR LF must follow the chunk.
pub fn chunk_header(payload_bytes: usize) -> String {
    format!("{payload_bytes:x}\r\n")
}

/// Returns the payload size of a chunk with this total length.
pub fn chunk_payload_bytes(chunk_bytes: usize) -> usize {
    // Two CR LFs, plus as many digits as make the total come out right.
    let digits_of = |payload: usize| (usize::BITS - payload.leading_zeros()).div_ceil(4).max(1);
    let is_right = |digits: &u32| {
        let payload = chunk_bytes.checked_sub(4 + *digits as usize);
        payload.is_some_and(|payload| digits_of(payload) == *digits)
    };
    let digits = (1..=usize::BITS / 4).find(is_right).unwrap_or_default();
    chunk_bytes.saturating_sub(4 + digits as usize)
}

/// A body up to this size is put into one frame with its head.
const JOINED_BYTES: usize = 16 * 1024;

/// The body of a response.
#[derive(Debug)]
enum Body {
    /// Owned by this response.
    Own(Vec<u8>),
    /// Shared with other responses and stored once for all of them.
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
    /// The minor version of the request.
    minor_version: u8,
    is_kept_alive: bool,
    /// The request was HEAD: the response has a `Content-Length` but no body.
    is_for_head: bool,
}

impl Response {
    /// Creates a response without body to an HTTP/1.1 request; the connection is kept alive.
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

    /// Adapts the response to the version, the keep-alive wish and the method of a request. An
    /// earlier [`Response::close`] stays in effect.
    pub fn answering(mut self, head: &Head<'_>) -> Response {
        self.minor_version = head.minor_version;
        self.is_kept_alive &= head.keep_alive();
        self.is_for_head = head.method == "HEAD";
        self
    }

    /// Adds a header. A name or value that would break out of its line is dropped with the whole
    /// header: a value may echo the request.
    pub fn header(mut self, name: &str, value: &str) -> Response {
        let is_safe = |text: &str| !text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        if is_safe(name) && is_safe(value) {
            for part in [name, ": ", value, "\r\n"] {
                self.headers.extend_from_slice(part.as_bytes());
            }
        }
        self
    }

    /// Sets the body and its `Content-Type`.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        self.body = Body::Own(body.into());
        self.header("Content-Type", content_type)
    }

    /// Sets a body that is shared with other responses and stored once, and its `Content-Type`.
    pub fn shared(mut self, content_type: &str, body: &Frame) -> Response {
        self.body = Body::Shared(body.clone());
        self.header("Content-Type", content_type)
    }

    /// Sets a plain text body.
    pub fn text(self, text: &str) -> Response {
        self.body("text/plain; charset=UTF-8", text)
    }

    /// Makes the connection close after this response.
    pub fn close(mut self) -> Response {
        self.is_kept_alive = false;
        self
    }

    /// Returns whether the caller must close the connection after this response.
    pub fn closes(&self) -> bool {
        !self.is_kept_alive
    }

    /// Returns the memory, in bytes, that the response holds while it is queued.
    pub fn kept_bytes(&self) -> usize {
        let body = if let Body::Own(body) = &self.body { body.capacity() } else { 0 };
        self.headers.capacity() + body
    }

    /// Encodes the response, with a `Date` if `at` is known (RFC 9110, 6.6.1). `Content-Length` is
    /// always present, except for statuses that never have a body (RFC 9110, 8.6 and 15.4.5).
    pub fn encode(self, at: Option<UnixMillis>) -> Frame {
        let (mut out, body) = self.parts(at);
        out.extend_from_slice(body.bytes());
        Frame::from(out)
    }

    /// Like [`Response::encode`], but a long or shared body becomes a frame of its own, which
    /// avoids copying it.
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

    /// Returns the head, with capacity for a short body, and the body.
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

    /// Returns whether the response to this request uses chunked coding if its length is unknown.
    /// HTTP/1.0 clients do not know chunks: for them the body ends with the connection.
    pub fn is_chunked(&self) -> bool {
        self.minor_version > 0
    }

    /// Encodes only the head of a response whose body has no known length. Otherwise like
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

    /// Writes the status line and the headers that do not depend on the body.
    fn start_into(&self, out: &mut Vec<u8>, at: Option<UnixMillis>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, reason_phrase(self.status));
        if let Some(at) = at {
            let _ = write!(out, "Date: {}\r\n", at.to_http_date());
        }
        out.extend_from_slice(&self.headers);
    }

    /// Writes the `Connection` header, if needed, and the end of the head.
    fn connection_into(&self, out: &mut Vec<u8>) {
        match (self.is_kept_alive, self.minor_version) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, 0) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, _) => {}
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// RFC 9110, 15; 431 is from RFC 6585. Any other status has an empty phrase, which is allowed.
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
    fn a_long_or_shared_body_is_a_separate_frame() {
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
    fn the_payload_size_follows_from_the_size_of_a_chunk() {
        for payload in (1..5000).chain([0xFFFF, 0x1_0000, 0xFFF_FFFF, 0x1000_0000]) {
            let chunk = chunk_header(payload).len() + payload + 2;
            assert_eq!(chunk_payload_bytes(chunk), payload);
        }
    }
}
