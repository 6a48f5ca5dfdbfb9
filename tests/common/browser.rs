//! A browser: a WebSocket client on the raw or the SockJS endpoint (protocol parts 6 and 7). Frames
//! are parsed by tungstenite, independently of our own reader and writer.

use super::server::key_of;
use super::token::token;
use super::wire::Wire;
use serde_json::json;
use std::fmt;
use std::io::{Read, Write};
use std::net::SocketAddr;
use tungstenite::protocol::{CloseFrame, Role, frame::coding::CloseCode};
use tungstenite::{Error, Message, WebSocket};

/// The path of the raw endpoint.
pub const RAW: &str = "/socket/websocket";
/// A path of the SockJS WebSocket.
pub const SOCKJS: &str = "/socket/000/abcdefgh/websocket";

/// What a browser receives.
#[derive(Clone, PartialEq, Eq)]
pub enum Heard {
    /// A text message; on SockJS a frame.
    Text(String),
    /// A ping, which has been answered.
    Ping,
    /// A pong with its payload.
    Pong(Vec<u8>),
    /// A close frame: code and reason. Code 1005: it had none (RFC 6455, 7.4.1).
    Close(u16, String),
    /// The end of the connection.
    End,
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Heard::Text(text) => f.write_str(text),
            Heard::Ping => f.write_str("<ping>"),
            Heard::Pong(payload) => write!(f, "<pong {:?}>", String::from_utf8_lossy(payload)),
            Heard::Close(code, reason) => write!(f, "<close {code} {reason}>"),
            Heard::End => f.write_str("<end>"),
        }
    }
}

/// A WebSocket to the server.
pub struct Browser {
    socket: WebSocket<Wire>,
    sockjs: bool,
    fences: u64,
}

/// The reconnect delay, in milliseconds, in the close reason of a stopping server.
#[track_caller]
pub fn back_ms(reason: &str) -> u64 {
    let ms = reason.strip_prefix("server going away, come back in ");
    let ms = ms.and_then(|rest| rest.strip_suffix(" ms")?.parse().ok());
    ms.unwrap_or_else(|| panic!("no time to come back: {reason}"))
}

/// An upgrade request.
pub fn upgrade(path: &str, headers: &[&str]) -> String {
    let mut head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n");
    // The key and its answer are the example of RFC 6455, 1.3.
    head.push_str("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n");
    if !headers.iter().any(|header| header.starts_with("Connection:")) {
        head.push_str("Connection: Upgrade\r\n");
    }
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head + "\r\n"
}

/// One client frame, masked: `first` is its first byte (FIN, reserved bits, opcode).
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = header(first, payload.len(), 0x80);
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// An unmasked frame, which a client must not send.
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

fn header(first: u8, length: usize, mask_bit: u8) -> Vec<u8> {
    let length = u64::try_from(length).expect("a length");
    match length {
        0..=125 => vec![first, mask_bit | length as u8],
        126..=0xffff => [&[first, mask_bit | 126], &(length as u16).to_be_bytes()[..]].concat(),
        _ => [&[first, mask_bit | 127], &length.to_be_bytes()[..]].concat(),
    }
}

/// A SockJS `a[…]` frame with one message, escaped as the original does (protocol part 6).
pub fn sockjs_frame(message: &str) -> String {
    let mut frame = String::from("a[\"");
    for unit in message.encode_utf16() {
        match unit {
            0x22 => frame.push_str("\\\""),
            0x5c => frame.push_str("\\\\"),
            0x08 => frame.push_str("\\b"),
            0x0c => frame.push_str("\\f"),
            0x0a => frame.push_str("\\n"),
            0x0d => frame.push_str("\\r"),
            0x09 => frame.push_str("\\t"),
            0..0x20
            | 0xd800..=0xdfff
            | 0x200c..=0x200f
            | 0x2028..=0x202f
            | 0x2060..=0x206f
            | 0xfff0..=0xffff => frame.push_str(&format!("\\u{unit:04x}")),
            _ => frame.push(char::from_u32(unit.into()).expect("no surrogate is left")),
        }
    }
    frame + "\"]"
}

impl Browser {
    /// Opens the raw endpoint.
    #[track_caller]
    pub fn raw(server: SocketAddr) -> Browser {
        Browser::open(server, RAW, &[], &[]).unwrap()
    }

    /// Opens the SockJS WebSocket and receives its `o`.
    #[track_caller]
    pub fn sockjs(server: SocketAddr) -> Browser {
        let mut browser = Browser::open(server, SOCKJS, &[], &[]).unwrap();
        assert_eq!(browser.next(), Ok(Heard::Text("o".into())));
        browser
    }

    /// Opens a WebSocket at this path with these headers; `first` is sent in one piece with the
    /// request.
    ///
    /// # Errors
    /// How the answer differs from the expected one.
    pub fn open(
        server: SocketAddr,
        path: &str,
        headers: &[&str],
        first: &[u8],
    ) -> Result<Browser, String> {
        let mut wire = Wire::tcp(server);
        let request = [upgrade(path, headers).as_bytes(), first].concat();
        wire.write_all(&request).map_err(|error| format!("cannot send: {error}"))?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            wire.read_exact(&mut byte)
                .map_err(|error| format!("{error} after {}", String::from_utf8_lossy(&head)))?;
            head.extend_from_slice(&byte);
        }
        let mut answer = super::http::answer(&head)?;
        answer.headers.sort();
        let headers: Vec<_> =
            answer.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("connection", "Upgrade"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("upgrade", "websocket"),
        ];
        if answer.status != 101 || headers != expected {
            return Err(format!("not the answer to an upgrade: {answer:?}"));
        }
        let bare = path.split('?').next().unwrap_or(path).trim_end_matches('/');
        let socket = WebSocket::from_raw_socket(wire, Role::Client, None);
        Ok(Browser { socket, sockjs: bare != RAW, fences: 0 })
    }

    /// The stream below, to send bytes that tungstenite would not.
    pub fn wire(&mut self) -> &mut Wire {
        self.socket.get_mut()
    }

    /// Sends a text message as it is.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.send_raw(&masked(0x81, text.as_bytes()));
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.wire().write_all(bytes).expect("the server reads");
    }

    /// Sends a protocol message: as it is, or in a SockJS array.
    #[track_caller]
    pub fn say(&mut self, message: &str) {
        let text = if self.sockjs { json!([message]).to_string() } else { message.to_owned() };
        self.send(&text);
    }

    /// The text as which a protocol message arrives on this endpoint.
    pub fn form(&self, message: &str) -> String {
        if self.sockjs { sockjs_frame(message) } else { message.to_owned() }
    }

    /// The next item received.
    ///
    /// # Errors
    /// Nothing arrived in time, or something that violates RFC 6455.
    pub fn next(&mut self) -> Result<Heard, String> {
        match self.socket.read() {
            Ok(Message::Text(text)) => Ok(Heard::Text(text.as_str().to_owned())),
            Ok(Message::Ping(_)) => {
                // The pong is queued: flush it now, the test may not read again for long.
                self.socket.flush().map_err(|error| format!("cannot answer a ping: {error}"))?;
                Ok(Heard::Ping)
            }
            Ok(Message::Pong(payload)) => Ok(Heard::Pong(payload.to_vec())),
            Ok(Message::Close(Some(frame))) => {
                Ok(Heard::Close(frame.code.into(), frame.reason.as_str().to_owned()))
            }
            Ok(Message::Close(None)) => Ok(Heard::Close(1005, String::new())),
            Ok(other) => Err(format!("not expected from the server: {other:?}")),
            Err(Error::ConnectionClosed) => Ok(Heard::End),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The next protocol message, as it arrives on this endpoint.
    #[track_caller]
    pub fn hear(&mut self) -> String {
        match self.next().unwrap() {
            Heard::Text(text) => text,
            other => panic!("heard {other:?}"),
        }
    }

    /// Asserts that the next protocol message is this one.
    #[track_caller]
    pub fn expect(&mut self, message: &str) {
        assert_eq!(self.hear(), self.form(message));
    }

    /// Authenticates with this payload in the token; returns the connection's id.
    #[track_caller]
    pub fn auth(&mut self, namespace: &str, payload: &str) -> String {
        self.auth_with(namespace, &token(payload, key_of(namespace)))
    }

    /// Authenticates with this token; returns the connection's id.
    #[track_caller]
    pub fn auth_with(&mut self, namespace: &str, token: &str) -> String {
        self.say(&auth_message(namespace, token));
        let text = self.hear();
        let start = self.form(r#"{"event":"auth ok","data":{"cid":""#);
        let cid = text.strip_prefix(start.trim_end_matches("\"]")).and_then(|rest| rest.get(..36));
        cid.unwrap_or_else(|| panic!("heard {text}")).to_owned()
    }

    /// Subscribes, and waits until the server has done so. The channel must have no state.
    #[track_caller]
    pub fn subscribe(&mut self, channel: &str) {
        self.say(&json!({ "event": "subscribe", "data": channel }).to_string());
        self.nothing();
    }

    /// Subscribes to a channel that others publish to: the answer comes before their messages.
    /// After that anything may follow.
    #[track_caller]
    pub fn join(&mut self, channel: &str) {
        self.say(&json!({ "event": "subscribe", "data": channel, "clb": 1 }).to_string());
        self.expect(r#"{"event":"callBackAnswer","clb":1,"data":{"ok":true}}"#);
    }

    /// Asserts that the server has sent nothing on this connection.
    #[track_caller]
    pub fn nothing(&mut self) {
        self.fence().unwrap();
    }

    /// Checks that nothing arrives before the answer to a ping sent now.
    ///
    /// # Errors
    /// What arrived before it.
    pub fn fence(&mut self) -> Result<(), String> {
        self.fences += 1;
        let clb = 1_000_000 + self.fences;
        self.say(&format!(r#"{{"event":"ping","data":1,"clb":{clb}}}"#));
        let answer = self.form(&format!(r#"{{"event":"callBackAnswer","clb":{clb},"data":"#));
        let answer = answer.trim_end_matches("\"]");
        match self.next()? {
            Heard::Text(text) if text.starts_with(answer) => Ok(()),
            other => Err(format!("expected nothing, heard {other:?} before the fence")),
        }
    }

    /// Sends a close frame; without a code its body is empty.
    pub fn close(&mut self, code: Option<(u16, &str)>) {
        let frame = code.map(|(code, reason)| CloseFrame {
            code: CloseCode::from(code),
            reason: reason.into(),
        });
        self.socket.close(frame).expect("the server reads");
        self.socket.flush().expect("the server reads");
    }

    /// Receives a close frame and then the end of the connection; returns code and reason.
    ///
    /// # Errors
    /// What arrived instead.
    pub fn closed(&mut self) -> Result<(u16, String), String> {
        let (code, reason) = match self.next()? {
            Heard::Close(code, reason) => (code, reason),
            other => return Err(format!("expected a close frame, heard {other:?}")),
        };
        match self.next() {
            Ok(Heard::End) => Ok((code, reason)),
            other => Err(format!("closed {code} {reason}, but the connection goes on: {other:?}")),
        }
    }

    /// Asserts that the connection is closed with this code and reason.
    #[track_caller]
    pub fn expect_closed(&mut self, code: u16, reason: &str) {
        assert_eq!(self.closed(), Ok((code, reason.to_owned())));
    }

    /// Expects the close of a stopping server; returns the reconnect delay in milliseconds.
    #[track_caller]
    pub fn expect_going_away(&mut self) -> u64 {
        if self.sockjs {
            let frame = self.hear();
            self.expect_closed(1000, "Normal closure");
            return back_ms(frame.trim_start_matches("c[1001,\"").trim_end_matches("\"]"));
        }
        let (code, reason) = self.closed().unwrap();
        assert_eq!(code, 1001, "{reason}");
        back_ms(&reason)
    }

    /// The next raw frame, as first byte and payload. Pings stay unanswered. Not to be mixed with
    /// [`Browser::next`].
    ///
    /// # Errors
    /// Nothing arrived in time, or the connection ended.
    pub fn next_frame(&mut self) -> Result<(u8, Vec<u8>), String> {
        let mut exact = |length: usize| {
            let mut bytes = vec![0; length];
            self.wire().read_exact(&mut bytes).map_err(|error| error.to_string())?;
            Ok::<_, String>(bytes)
        };
        let head = exact(2)?;
        let length = match head[1] {
            126 => exact(2)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            127 => exact(8)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            length => length.into(),
        };
        Ok((head[0], exact(length)?))
    }

    /// Closes the connection without a close frame: with FIN, or with a reset.
    pub fn drop_connection(self, reset: bool) {
        let wire = self.socket.into_inner();
        if reset {
            wire.reset();
        }
    }
}

/// A message of a channel, with raw JSON as data.
pub fn message(channel: &str, data: &str) -> String {
    format!(r#"{{"event":{},"data":{data}}}"#, json!(channel))
}

/// The auth message.
pub fn auth_message(namespace: &str, token: &str) -> String {
    format!(r#"{{"event":"auth","data":{{"i":{},"s":"{token}"}}}}"#, json!(namespace))
}
