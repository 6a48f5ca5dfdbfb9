//! One request over HTTP/1.1 and its response, which may be a stream: for the doctor, for WebSocket
//! handshakes, and for the admin listener.

use super::{ANSWER_MS, Address, ClientError, Deadline, Stream};
use crate::codec::http::{BodyReader, Content};

/// Longest body that is read, in bytes.
const BODY_BYTES: usize = 64 << 20;

/// Longest head of a response, in bytes, and most lines in it.
const HEAD_BYTES: usize = 65_536;
const HEADERS: usize = 128;

/// The start of a TLS record that is an alert (RFC 8446, 5.1 and 6).
const TLS_ALERT: &[u8] = b"\x15\x03";

/// Bytes read at a time.
const PIECE_BYTES: usize = 16_384;

/// A response whose head has arrived; its body may still be coming.
#[derive(Debug)]
pub struct Response {
    stream: Stream,
    /// The status.
    pub status: u16,
    /// Names and values, in their order.
    headers: Vec<(String, String)>,
    /// Finds the end of the body; `None` if that is the end of the connection.
    reader: Option<BodyReader>,
    /// Received and not parsed yet.
    raw: Vec<u8>,
    /// What has been received of the body.
    pub body: Vec<u8>,
}

/// Connects within 4 s and requests a page within 10 s; returns its status and body.
///
/// # Errors
/// [`ClientError`].
pub fn page(address: &Address, path: &str) -> Result<(u16, String), ClientError> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut response = Response::ask(address, request.as_bytes(), ANSWER_MS)?;
    response.read_all(ANSWER_MS)?;
    let body = String::from_utf8(response.body).map_err(|_| foreign("its answer is no text"))?;
    Ok((response.status, body))
}

impl Response {
    /// Connects within 4 s, sends a complete request, and waits up to `ms` milliseconds for the
    /// head of the response.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(address: &Address, request: &[u8], ms: u64) -> Result<Response, ClientError> {
        let mut stream = Stream::connect(address)?;
        let deadline = Deadline::after(ms);
        stream.write_all(request, &deadline)?;
        let (mut raw, mut piece) = (Vec::new(), [0; PIECE_BYTES]);
        loop {
            if let Some((end, status, headers)) = parse(&raw)? {
                raw.drain(..end);
                let reader = content(status, &headers)?;
                let mut response =
                    Response { stream, status, headers, reader, raw, body: Vec::new() };
                response.take_apart()?;
                return Ok(response);
            }
            if raw.len() > HEAD_BYTES {
                return Err(foreign("its answer has no end"));
            }
            let count = stream.read(&mut piece, &deadline)?;
            raw.extend_from_slice(piece.get(..count).unwrap_or_default());
        }
    }

    /// Returns the value of the first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// Returns the values of all headers of that name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let is_it = move |(it, _): &&(String, String)| it.eq_ignore_ascii_case(name);
        self.headers.iter().filter(is_it).map(|(_, value)| value.as_str())
    }

    /// Returns the body so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Waits up to `ms` milliseconds for more of the body; `false` if it has ended.
    ///
    /// # Errors
    /// [`ClientError`]; after [`ClientError::Silence`] it may be called again.
    pub fn read(&mut self, ms: u64) -> Result<bool, ClientError> {
        if self.reader.as_ref().is_some_and(BodyReader::is_done) {
            return Ok(false);
        }
        let mut piece = [0; PIECE_BYTES];
        match self.stream.read(&mut piece, &Deadline::after(ms)) {
            Ok(count) => self.raw.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(ClientError::Lost) if self.reader.is_none() => return Ok(false),
            Err(e) => return Err(e),
        }
        self.take_apart()?;
        Ok(true)
    }

    /// Waits up to `ms` milliseconds for a part of the body, if there is none yet, and discards it;
    /// `false` if the body has ended.
    ///
    /// # Errors
    /// [`ClientError`]; after [`ClientError::Silence`] it may be called again.
    pub fn read_more(&mut self, ms: u64) -> Result<bool, ClientError> {
        let deadline = Deadline::after(ms);
        while self.body.is_empty() {
            if !self.read(deadline.left_ms()?)? {
                return Ok(false);
            }
        }
        self.body.clear();
        Ok(true)
    }

    /// Reads the body to its end, within `ms` milliseconds.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read_all(&mut self, ms: u64) -> Result<(), ClientError> {
        let deadline = Deadline::after(ms);
        while self.read(deadline.left_ms()?)? {}
        Ok(())
    }

    /// Reads until this text has come in the body, within `ms` milliseconds; `false` if the body
    /// has ended without it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read_until(&mut self, text: &str, ms: u64) -> Result<bool, ClientError> {
        let deadline = Deadline::after(ms);
        loop {
            if self.body.windows(text.len()).any(|bytes| bytes == text.as_bytes()) {
                return Ok(true);
            }
            if !self.read(deadline.left_ms()?)? {
                return Ok(false);
            }
        }
    }

    /// Returns the connection and what has come behind the head, for another protocol than HTTP.
    pub(super) fn into_stream(self) -> (Stream, Vec<u8>) {
        (self.stream, [self.body, self.raw].concat())
    }

    fn take_apart(&mut self) -> Result<(), ClientError> {
        match &mut self.reader {
            None => self.body.append(&mut self.raw),
            Some(reader) => {
                let used = reader.read(&self.raw, Some(&mut self.body));
                let used = used.map_err(|_| foreign("the body of its answer has no end"))?;
                self.raw.drain(..used);
            }
        }
        if self.body.len() > BODY_BYTES {
            return Err(foreign("its answer has no end"));
        }
        Ok(())
    }
}

fn foreign(what: &str) -> ClientError {
    ClientError::Foreign(what.into())
}

/// Length, status and headers of a head.
type Head = (usize, u16, Vec<(String, String)>);

/// Parses a head; `None` if it is incomplete.
fn parse(input: &[u8]) -> Result<Option<Head>, ClientError> {
    if input.starts_with(TLS_ALERT) {
        return Err(foreign("it speaks TLS, not plain HTTP"));
    }
    if !input.is_empty() && TLS_ALERT.starts_with(input) {
        // Its first byte may come alone.
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    match answer.parse(input) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(end)) => {
            let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
            let headers = answer.headers.iter().map(|it| (it.name.to_owned(), text(it.value)));
            Ok(Some((end, answer.code.unwrap_or_default(), headers.collect())))
        }
        Err(_) => Err(foreign("it does not speak HTTP")),
    }
}

/// Returns how the body of a response ends (RFC 9112, 6.3); `None`: with the connection.
fn content(status: u16, headers: &[(String, String)]) -> Result<Option<BodyReader>, ClientError> {
    let named = |name: &str| headers.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
    let content = if matches!(status, 204 | 304) {
        Content::None
    } else if status == 101 {
        return Ok(None);
    } else if named("transfer-encoding").is_some() {
        Content::Chunked
    } else if let Some((_, length)) = named("content-length") {
        Content::Length(length.trim().parse().map_err(|_| foreign("it does not speak HTTP"))?)
    } else {
        return Ok(None);
    };
    BodyReader::new(content, BODY_BYTES).map(Some).map_err(|_| foreign("its answer has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Returns what `page` makes of a response that comes byte by byte and then ends.
    fn response(answer: &'static [u8]) -> Result<(u16, String), ClientError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::to_reach(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            for byte in answer {
                if stream.write_all(&[*byte]).is_err() {
                    break;
                }
            }
        });
        let found = page(&address, "/x");
        server.join().unwrap();
        found
    }

    #[test]
    fn a_response_is_read_byte_by_byte() {
        let length = b"HTTP/1.1 503 x\r\nA: b\r\ncontent-length: 3\r\n\r\nabc";
        let chunks = b"HTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for answer in [&length[..], chunks, b"HTTP/1.0 503 x\r\n\r\nabc"] {
            assert_eq!(response(answer).unwrap(), (503, "abc".into()));
        }
        assert_eq!(response(b"HTTP/1.1 204 x\r\n\r\n").unwrap(), (204, String::new()));
    }

    #[test]
    fn a_tls_alert_is_recognized_from_its_second_byte() {
        assert_eq!(parse(b"").unwrap(), None);
        assert_eq!(parse(b"\x15").unwrap(), None, "the second byte is missing");
        assert!(parse(b"\x15\x03").unwrap_err().to_string().contains("it speaks TLS"));
        assert!(parse(b"\x15\x04").unwrap_err().to_string().contains("does not speak HTTP"));
    }

    #[test]
    fn truncated_and_foreign_responses_are_errors() {
        for (bad, why) in [
            (&b"SSH-2.0-x\r\n"[..], "it does not speak HTTP"),
            (b"\x15\x03\x01\0\x02\x02\x46", "it speaks TLS"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "it does not speak HTTP"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "closed before the answer"),
            (b"HTTP/1.1 200 OK\r\n", "closed before the answer"),
        ] {
            let error = response(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
