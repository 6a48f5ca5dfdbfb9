//! A client of the raw WebSocket endpoint, `/socket/websocket` (protocol part 6, RFC 6455).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{ANSWER_MS, Address, ClientError, Deadline, MESSAGE_BYTES, Response, Stream};
use crate::codec::ws::{self, Bounds, Event, Opcode, Reader, Side};
use crate::keys;

/// Bytes read at a time.
const PIECE_BYTES: usize = 16_384;

/// Bounds of what is accepted from a server.
const BOUNDS: Bounds = Bounds { message_bytes: MESSAGE_BYTES, fragments: 1 << 20 };

/// What comes from the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// A message.
    Text(String),
    /// The answer to [`Socket::ping`].
    Pong,
    /// The server closed, with this code and reason. Nothing comes after it.
    Closed(u16, String),
}

/// One WebSocket.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    reader: Reader,
    /// Received and not read yet: `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    pings: u64,
}

impl Socket {
    /// Connects within 4 s and opens the WebSocket within 10 s, as a page of the site `origin`
    /// does, if one is given.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(address: &Address, origin: Option<&str>) -> Result<Socket, ClientError> {
        let origin = origin.map_or_else(String::new, |origin| format!("Origin: {origin}\r\n"));
        let host = match address {
            Address::Unix(_) => "localhost".to_owned(),
            named => named.to_string(),
        };
        let head = format!("GET /socket/websocket HTTP/1.1\r\nHost: {host}\r\n{origin}");
        Socket::open(address, &head)?.map_err(|response| match response.status {
            403 => ClientError::Origin,
            503 => ClientError::Full,
            101 => ClientError::Foreign("it does not know WebSocket".into()),
            status => ClientError::Foreign(format!("it answers HTTP {status}")),
        })
    }

    /// As [`Socket::connect`], with a request of one's own: `head` is the request line and the
    /// headers but those of the handshake, each with its line end. A response that is no WebSocket
    /// is returned.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn open(address: &Address, head: &str) -> Result<Result<Socket, Response>, ClientError> {
        let mut bytes = [0; 16];
        keys::random(&mut bytes).map_err(ClientError::Random)?;
        let key = STANDARD.encode(bytes);
        let request = format!(
            "{head}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\n\r\n"
        );
        let response = Response::ask(address, request.as_bytes(), ANSWER_MS)?;
        let is_accepted = response.header("sec-websocket-accept") == Some(&ws::accept_key(&key));
        if response.status != 101 || !is_accepted {
            return Ok(Err(response));
        }
        let (stream, buffer) = response.into_stream();
        let (start, end) = (0, buffer.len());
        let reader = Reader::default();
        Ok(Ok(Socket { stream, reader, buffer, start, end, pings: 0 }))
    }

    /// Returns how many pings have come.
    pub fn pings(&self) -> u64 {
        self.pings
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`ClientError`], after which the connection cannot be used.
    pub fn send(&mut self, message: &[u8]) -> Result<(), ClientError> {
        self.send_frame(Opcode::Text, message)
    }

    /// Sends a ping, which the server is to answer with a pong.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub fn ping(&mut self) -> Result<(), ClientError> {
        self.send_frame(Opcode::Ping, b"")
    }

    /// Waits for the next message, and answers pings meanwhile. Returns `None` if nothing at all
    /// has come for `ms` milliseconds.
    ///
    /// # Errors
    /// [`ClientError`], after which the connection cannot be used.
    pub fn next(&mut self, ms: u64) -> Result<Option<Message>, ClientError> {
        loop {
            if let Some(message) = self.read_message()? {
                return Ok(Some(message));
            }
            if !self.fill(&Deadline::after(ms))? {
                return Ok(None);
            }
        }
    }

    /// As [`Socket::next`], but `None` after `ms` milliseconds even if something came, as pings.
    ///
    /// # Errors
    /// As [`Socket::next`].
    pub fn next_within(&mut self, ms: u64) -> Result<Option<Message>, ClientError> {
        let deadline = Deadline::after(ms);
        loop {
            if let Some(message) = self.read_message()? {
                return Ok(Some(message));
            }
            if !self.fill(&deadline)? {
                return Ok(None);
            }
        }
    }

    /// Reads what has arrived; `false` if nothing has in time.
    fn fill(&mut self, deadline: &Deadline) -> Result<bool, ClientError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        self.buffer.resize(self.end + PIECE_BYTES, 0);
        match self.stream.read(&mut self.buffer[self.end..], deadline) {
            Ok(n) => self.end += n,
            Err(ClientError::Silence) => return Ok(false),
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    /// Returns the next message that has arrived completely.
    fn read_message(&mut self) -> Result<Option<Message>, ClientError> {
        loop {
            let input = &mut self.buffer[self.start..self.end];
            let step = self
                .reader
                .read(Side::Client, input, &BOUNDS)
                .map_err(|e| ClientError::Foreign(format!("its frames are wrong: {e}")))?;
            self.start += step.consumed;
            let ping = match step.event {
                None => return Ok(None),
                Some(Event::Text(text)) => return Ok(Some(Message::Text(text.into()))),
                Some(Event::Close(said)) => {
                    // 1005: RFC 6455, 7.1.5, for a close without a code.
                    let (code, reason) = said.unwrap_or((1005, ""));
                    let closed = Message::Closed(code, reason.into());
                    let answer = said.map(|(code, _)| code.to_be_bytes());
                    // A courtesy: the server need not wait for it, and may be gone already.
                    let _ = self.send_frame(Opcode::Close, answer.as_ref().map_or(&[], |it| it));
                    return Ok(Some(closed));
                }
                Some(Event::Ping(payload)) => {
                    self.pings += 1;
                    payload.to_vec()
                }
                Some(Event::Pong(_)) => return Ok(Some(Message::Pong)),
                // No server of ours sends any.
                Some(Event::Binary(_)) => continue,
            };
            self.send_frame(Opcode::Pong, &ping)?;
        }
    }

    fn send_frame(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), ClientError> {
        let mut mask = [0; 4];
        keys::random(&mut mask).map_err(ClientError::Random)?;
        let mut frame = Vec::new();
        ws::encode_masked_into(&mut frame, opcode, payload, mask);
        self.stream.write_all(&frame, &Deadline::after(ANSWER_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// Connects to a server that accepts the handshake and then calls `serve`.
    fn connect(serve: impl FnOnce(TcpStream) + Send + 'static) -> Socket {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::to_reach(listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let head = read_head(&mut stream);
            assert!(head.starts_with("GET /socket/websocket HTTP/1.1\r\nHost: 127.0.0.1:"));
            let (_, key) = head.split_once("Sec-WebSocket-Key: ").unwrap();
            let accept = ws::accept_key(key.lines().next().unwrap());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: \
                 Upgrade\r\nsec-websocket-ACCEPT: {accept}\r\n\r\n"
            );
            // The first frame is in the same segment.
            let first = ws::text_frame(b"first").to_vec();
            stream.write_all(&[answer.as_bytes(), &first].concat()).unwrap();
            serve(stream);
        });
        Socket::connect(&address, None).unwrap()
    }

    fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    fn text(text: &str) -> Option<Message> {
        Some(Message::Text(text.into()))
    }

    #[test]
    fn messages_are_read_pings_answered_and_a_close_reported() {
        let long = "é".repeat(100_000);
        let sent = long.clone();
        let mut socket = connect(move |mut stream| {
            stream.write_all(&ws::ping_frame(b"you?")).unwrap();
            let mut pong = [0; 10];
            stream.read_exact(&mut pong).unwrap();
            assert_eq!(pong[..2], [0x8a, 0x84]);
            stream.write_all(&ws::text_frame(sent.as_bytes())).unwrap();
            stream.write_all(&ws::close_frame(3401, "token expired")).unwrap();
            let mut close = [0; 8];
            stream.read_exact(&mut close).unwrap();
            assert_eq!(close[..2], [0x88, 0x82]);
        });
        assert_eq!(socket.next(ANSWER_MS).unwrap(), text("first"));
        assert_eq!(socket.next(ANSWER_MS).unwrap(), text(&long));
        let closed = Message::Closed(3401, "token expired".into());
        assert_eq!(socket.next(ANSWER_MS).unwrap(), Some(closed));
        assert!(matches!(socket.next(ANSWER_MS), Err(ClientError::Lost)));
    }

    #[test]
    fn a_silent_server_yields_no_message_in_time() {
        let mut socket = connect(|mut stream| {
            let mut ping = [0; 6];
            stream.read_exact(&mut ping).unwrap();
            stream.write_all(&ws::text_frame(b"after the ping")).unwrap();
        });
        assert_eq!(socket.next(ANSWER_MS).unwrap(), text("first"));
        assert_eq!(socket.next(1).unwrap(), None);
        assert_eq!(socket.next_within(1).unwrap(), None);
        socket.ping().unwrap();
        assert_eq!(socket.next(ANSWER_MS).unwrap(), text("after the ping"));
    }

    #[test]
    fn a_foreign_or_full_server_is_named_in_the_error() {
        for (answer, error) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "this is no fws server: it answers HTTP 404"),
            (
                "HTTP/1.1 101 S\r\nSec-WebSocket-Accept: x\r\n\r\n",
                "this is no fws server: it does not know WebSocket",
            ),
            ("SSH-2.0-OpenSSH\r\n", "this is no fws server: it does not speak HTTP"),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "HTTP 503: it has no room now"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = Address::to_reach(listener.local_addr().unwrap());
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                read_head(&mut stream);
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let said = Socket::connect(&address, None).unwrap_err().to_string();
            assert_eq!(said, error);
        }
    }
}
