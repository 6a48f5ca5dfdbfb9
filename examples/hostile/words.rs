//! Requests to the server, valid and invalid, and parsers for its answers.

use fws::codec::ws::{Opcode, encode_masked_into};
use fws::codec::{control, jwt};

/// The namespace of the attackers, and its key.
pub const CROWD: &str = "crowd";
/// See [`CROWD`].
pub const CROWD_KEY: &str = "44444444-4444-4444-8444-444444444444";
/// The namespace of the healthy load, and its key.
pub const HEALTHY: &str = "healthy";
/// See [`HEALTHY`].
pub const HEALTHY_KEY: &str = "55555555-5555-4555-8555-555555555555";

/// An upgrade request for a raw WebSocket.
pub const UPGRADE: &[u8] = b"GET /socket/websocket HTTP/1.1\r\nHost: hostile\r\n\
    Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// How the answer to `clb` 1 ends, and thus the whole answer to [`hello`].
pub const SUBSCRIBED: &[u8] = br#""clb":1,"data":{"ok":true}}"#;

/// Contained in the answer to a good `auth`.
pub const AUTHENTICATED: &[u8] = b"auth ok";

/// A masked frame with `FIN`.
pub fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_masked_into(&mut out, opcode, payload, [1, 2, 3, 4]);
    out
}

/// An upgrade request, and an `auth` with this token after it.
pub fn auth_with(namespace: &str, token: &str) -> Vec<u8> {
    let data = serde_json::json!({ "event": "auth", "data": { "i": namespace, "s": token } });
    let mut out = UPGRADE.to_vec();
    out.extend(frame(Opcode::Text, data.to_string().as_bytes()));
    out
}

/// An upgrade request, and a good `auth` after it.
pub fn auth(namespace: &str, key: &str, user: &str) -> Vec<u8> {
    auth_with(namespace, &jwt::sign(user, key, None))
}

/// A masked `subscribe`; if it asks for an answer, with `clb` 1.
pub fn subscribe(channel: &str, is_answered: bool) -> Vec<u8> {
    let mut message = serde_json::json!({ "event": "subscribe", "data": channel });
    if is_answered {
        message["clb"] = 1.into();
    }
    frame(Opcode::Text, message.to_string().as_bytes())
}

/// The first bytes of a subscriber to these channels.
pub fn hello(namespace: &str, key: &str, user: &str, channels: &[&str]) -> Vec<u8> {
    let mut out = auth(namespace, key, user);
    for (at, channel) in channels.iter().enumerate() {
        out.extend(subscribe(channel, at + 1 == channels.len()));
    }
    out
}

/// A control frame.
pub fn command(body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    control::encode_into(&mut out, body.as_bytes());
    out
}

/// A back end's `auth`.
pub fn control_auth(namespace: &str, key: &str) -> Vec<u8> {
    command(&format!(r#"{{"action":"auth","name":"{namespace}","sKey":"{key}"}}"#))
}

/// An `emit` with `bytes` of data.
pub fn emit(channel: &str, bytes: usize) -> Vec<u8> {
    let data = "x".repeat(bytes);
    command(&format!(r#"{{"action":"emit","channel":"{channel}","data":"{data}"}}"#))
}

/// Whether `bytes` contain `what`.
pub fn has(bytes: &[u8], what: &[u8]) -> bool {
    !what.is_empty() && bytes.windows(what.len()).any(|window| window == what)
}

/// The complete frames in a server's output, as opcode and payload, and the bytes they take.
pub fn frames(bytes: &[u8]) -> (Vec<(u8, &[u8])>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some((opcode, start, end)) = frame_at(bytes, at) {
        found.push((opcode, &bytes[start..end]));
        at = end;
    }
    (found, at)
}

/// Opcode, and start and end of the payload, of the frame at `at`, if it is complete.
fn frame_at(bytes: &[u8], at: usize) -> Option<(u8, usize, usize)> {
    let first = *bytes.get(at)?;
    let short = usize::from(*bytes.get(at + 1)? & 0x7f);
    let wide = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let start = at + 2 + wide;
    let long = bytes.get(at + 2..start)?;
    let length = match wide {
        0 => short,
        _ => long.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
    };
    let end = start + length;
    (end <= bytes.len()).then_some((first & 0x0f, start, end))
}

/// Code and reason of the close frame in a server's output.
pub fn close_of(bytes: &[u8]) -> Option<(u16, String)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let (frames, _) = frames(&bytes[head..]);
    let (_, payload) = frames.into_iter().find(|(opcode, _)| *opcode == 8)?;
    let code = u16::from_be_bytes([*payload.first()?, *payload.get(1)?]);
    Some((code, String::from_utf8_lossy(&payload[2..]).into_owned()))
}
