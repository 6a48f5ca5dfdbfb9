//! What the benches share: a namespace, subscribers over plain sockets, commands.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use fws::codec::{control, jwt, ws};

/// The namespace of the benches and its key.
pub const NAMESPACE: &str = "bench";
/// See [`NAMESPACE`].
pub const KEY: &str = "33333333-3333-4333-8333-333333333333";

/// The bytes with which user `n` opens a raw WebSocket, authenticates and subscribes to a channel.
pub fn hello(n: usize, channel: &str) -> Vec<u8> {
    let mut out = b"GET /socket/websocket HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    let token = jwt::sign(&format!("user-{n}"), KEY, None);
    let auth = format!(r#"{{"event":"auth","data":{{"i":"{NAMESPACE}","s":"{token}"}}}}"#);
    let subscribe = format!(r#"{{"event":"subscribe","data":"{channel}","clb":1}}"#);
    for message in [auth, subscribe] {
        let mask = [1, 2, 3, 4];
        ws::encode_masked_into(&mut out, ws::Opcode::Text, message.as_bytes(), mask);
    }
    out
}

/// How the server's output to [`hello`] ends: the answer to `clb` 1.
pub const HELLO_END: &[u8] = br#""clb":1,"data":{"ok":true}}"#;

/// A connected and subscribed client.
#[allow(dead_code)] // not every bench has one
pub fn subscriber(ws: SocketAddr, n: usize, channel: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(ws)?;
    stream.write_all(&hello(n, channel))?;
    let mut got = Vec::new();
    let mut piece = [0; 1024];
    while !got.ends_with(HELLO_END) {
        match stream.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => got.extend_from_slice(&piece[..count]),
        }
    }
    Ok(stream)
}

/// One control frame.
pub fn frame(body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    control::encode_into(&mut out, body.as_bytes());
    out
}

/// The command that authenticates for [`NAMESPACE`].
#[allow(dead_code)] // not every bench commands
pub fn auth() -> Vec<u8> {
    frame(&format!(r#"{{"action":"auth","name":"{NAMESPACE}","sKey":"{KEY}"}}"#))
}

/// An emit with `bytes` of data.
#[allow(dead_code)] // not every bench emits
pub fn emit(channel: &str, bytes: usize) -> Vec<u8> {
    let data = "x".repeat(bytes);
    frame(&format!(r#"{{"action":"emit","channel":"{channel}","data":"{data}","params":{{}}}}"#))
}
