//! A back end: a blocking client of the control port (protocol part 2).

use super::server::key_of;
use super::wire::Wire;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Largest plausible reply.
const REPLY_BYTES: usize = 64 << 20;

/// The command without an effect.
pub const PING: &str = r#"{"action":"ping"}"#;
/// The reply to a command that was carried out.
pub const DONE: &str = r#"{"success":true}"#;
/// The reply to a command that the store could not keep.
pub const FULL: &str = r#"{"success":false,"reason":"Error store, try latter...","code":302}"#;

/// The command that publishes `data`, raw JSON, to a channel.
pub fn emit(channel: &str, data: &str) -> String {
    format!(r#"{{"action":"emit","channel":{},"data":{data}}}"#, json!(channel))
}

/// The command that sets a state to `data`, raw JSON.
pub fn set(channel: &str, data: &str) -> String {
    format!(r#"{{"action":"set","channel":{},"data":{data}}}"#, json!(channel))
}

/// The command that gets a channel's state.
pub fn get(channel: &str) -> String {
    format!(r#"{{"action":"get","channel":{}}}"#, json!(channel))
}

/// A control connection.
pub struct Control {
    /// The stream below, to send bytes that are not frames.
    pub wire: Wire,
}

/// A control frame: length, body, 0x00.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len()).expect("a body of less than 2 GiB");
    [&length.to_le_bytes(), body, &[0]].concat()
}

/// Waits for a time, in which nothing may arrive on this connection.
pub fn wait(control: &mut Control, ms: u64) {
    control.wire.set_deadline(Duration::from_millis(ms));
    assert!(control.wire.read(&mut [0]).is_err());
    control.wire.set_deadline(super::DEADLINE);
}

impl Control {
    /// Closes the connection with a reset.
    pub fn reset(self) {
        self.wire.reset();
    }

    /// Connects over TCP.
    pub fn tcp(address: SocketAddr) -> Control {
        Control { wire: Wire::tcp(address) }
    }

    /// Connects to a Unix socket.
    pub fn unix(path: &Path) -> Control {
        Control { wire: Wire::unix(path) }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).expect("the server reads");
    }

    /// Sends each byte in its own write.
    #[track_caller]
    pub fn send_split(&mut self, bytes: &[u8]) {
        for byte in bytes.chunks(1) {
            self.send_raw(byte);
        }
    }

    /// Sends a frame.
    #[track_caller]
    pub fn send(&mut self, body: &str) {
        self.send_raw(&frame(body.as_bytes()));
    }

    /// The body of the next reply; `None` at the end of the stream.
    ///
    /// # Errors
    /// What arrived instead: nothing in time, half a frame, or bytes that are not a frame.
    pub fn next(&mut self) -> Result<Option<String>, String> {
        let mut length = [0; 4];
        match self.wire.read(&mut length[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(format!("no reply: {error}")),
        }
        self.wire
            .read_exact(&mut length[1..])
            .map_err(|error| format!("half a length: {error}"))?;
        let length = usize::try_from(i32::from_le_bytes(length))
            .ok()
            .filter(|length| (1..=REPLY_BYTES).contains(length))
            .ok_or(format!("a reply of length {}", i32::from_le_bytes(length)))?;
        let mut body = vec![0; length + 1];
        self.wire.read_exact(&mut body).map_err(|error| format!("half a reply: {error}"))?;
        if body.pop() != Some(0) {
            return Err("a reply that does not end in 0x00".into());
        }
        String::from_utf8(body).map(Some).map_err(|error| format!("a reply in no UTF-8: {error}"))
    }

    /// The body of the next reply.
    #[track_caller]
    pub fn recv(&mut self) -> String {
        self.next().and_then(|body| body.ok_or("the connection was closed".into())).unwrap()
    }

    /// Sends a frame and returns the body of the reply.
    #[track_caller]
    pub fn ask(&mut self, body: &str) -> String {
        self.send(body);
        self.recv()
    }

    /// Sends a frame and asserts that the reply is `{"success":true}`.
    #[track_caller]
    pub fn ok(&mut self, body: &str) {
        assert_eq!(self.ask(body), DONE, "{body}");
    }

    /// Authenticates for one of the two namespaces.
    #[track_caller]
    pub fn auth(&mut self, namespace: &str) {
        self.auth_as(namespace, key_of(namespace));
    }

    /// Authenticates for a namespace with its key.
    #[track_caller]
    pub fn auth_as(&mut self, namespace: &str, key: &str) {
        self.ok(&json!({ "action": "auth", "name": namespace, "sKey": key }).to_string());
    }

    /// The number of connections subscribed to a channel.
    #[track_caller]
    pub fn connections(&mut self, channel: &str) -> u64 {
        let info = self.ask(&json!({ "action": "channelInfo", "channel": channel }).to_string());
        serde_json::from_str::<Value>(&info).unwrap()["countConnection"].as_u64().unwrap()
    }

    /// Asserts that the server closes without another byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        assert_eq!(self.next(), Ok(None));
    }

    /// Asserts that the server has sent nothing on this connection.
    #[track_caller]
    pub fn nothing(&mut self) {
        self.fence().unwrap();
    }

    /// Checks that nothing arrives before the replies to two commands sent now. Two, because a
    /// single reply could be mistaken for the unexpected one.
    ///
    /// # Errors
    /// What arrived before them.
    pub fn fence(&mut self) -> Result<(), String> {
        let expected = [DONE, r#"{"success":false,"reason":"Invalid action...","code":312}"#];
        let commands = [PING, r#"{"action":"fence"}"#];
        let bytes = commands.map(|command| frame(command.as_bytes())).concat();
        self.wire.write_all(&bytes).map_err(|error| format!("cannot send a fence: {error}"))?;
        for reply in expected {
            let next = self.next()?;
            if next.as_deref() != Some(reply) {
                return Err(format!("expected nothing, got {next:?} before the fence"));
            }
        }
        Ok(())
    }
}
