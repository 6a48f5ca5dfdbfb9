//! Compares with tungstenite's reader. For tests and fuzzers only.

use std::io;

use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::fuzz::{Heard, hear};
use super::{Bounds, Side, WsError};

/// A stream that ends after these bytes and discards everything written.
struct Wire<'a>(&'a [u8]);

impl io::Read for Wire<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.0.read(out)
    }
}

impl io::Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How tungstenite ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Closed,
    Failed,
    MoreWanted,
}

/// Returns what tungstenite reads from these bytes.
fn oracle(side: Side, bytes: &[u8], message_bytes: usize) -> (Vec<Heard>, Verdict) {
    let role = if side == Side::Server { Role::Server } else { Role::Client };
    let config = WebSocketConfig::default()
        .max_message_size(Some(message_bytes))
        .max_frame_size(Some(message_bytes));
    let mut context = WebSocketContext::new(role, Some(config));
    let (mut wire, mut heard) = (Wire(bytes), Vec::new());
    loop {
        match context.read(&mut wire) {
            Ok(Message::Text(text)) => heard.push(Heard::Text(text.as_str().to_owned())),
            Ok(Message::Binary(bytes)) => heard.push(Heard::Binary(bytes.to_vec())),
            Ok(Message::Ping(bytes)) => heard.push(Heard::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => heard.push(Heard::Pong(bytes.to_vec())),
            Ok(Message::Frame(_)) => {}
            Ok(Message::Close(close)) => {
                heard.push(Heard::Close(
                    close.map(|close| (close.code.into(), close.reason.as_str().to_owned())),
                ));
                return (heard, Verdict::Closed);
            }
            Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return (heard, Verdict::MoreWanted),
            Err(_) => return (heard, Verdict::Failed),
        }
    }
}

/// Checks that our reader and tungstenite's agree where their rules are the same.
pub(super) fn compare(side: Side, bytes: &[u8], message_bytes: usize) {
    let bounds = Bounds { message_bytes, fragments: usize::MAX };
    let (ours, error) = hear(side, [bytes], &bounds);
    let (theirs, verdict) = oracle(side, bytes, message_bytes);
    match error {
        // Tungstenite accepts such a frame and continues.
        Some(WsError::LongLength) => assert!(theirs.starts_with(&ours)),
        // Tungstenite turns the code into 1002 and reports a close, if the reason is UTF-8.
        Some(WsError::CloseCode(_)) => {
            assert_ne!(verdict, Verdict::MoreWanted);
            let closed = usize::from(verdict == Verdict::Closed);
            assert_eq!(theirs[..theirs.len() - closed], ours);
        }
        // We fail as soon as an error is visible, tungstenite only once the frame is complete.
        Some(_) => {
            assert_eq!(theirs, ours);
            assert_ne!(verdict, Verdict::Closed);
        }
        None => match ours.last() {
            // A code that IANA registered after tungstenite's list was made.
            Some(Heard::Close(Some((1014, _)))) => {
                assert_eq!(theirs[..theirs.len() - 1], ours[..ours.len() - 1]);
            }
            last => {
                assert_eq!(theirs, ours);
                let is_closed = matches!(last, Some(Heard::Close(_)));
                let expected = if is_closed { Verdict::Closed } else { Verdict::MoreWanted };
                assert_eq!(verdict, expected);
            }
        },
    }
}
