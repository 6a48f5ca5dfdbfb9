//! What holds for any bytes on a WebSocket: where they are cut makes no difference, and
//! tungstenite's own reader finds the same messages in them.

use std::io;

use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

use super::{Bounds, Event, Reader, Side, WsError};

/// An event with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Heard {
    fn from(event: Event<'_>) -> Heard {
        match event {
            Event::Text(text) => Heard::Text(text.to_owned()),
            Event::Binary(bytes) => Heard::Binary(bytes.to_owned()),
            Event::Ping(bytes) => Heard::Ping(bytes.to_owned()),
            Event::Pong(bytes) => Heard::Pong(bytes.to_owned()),
            Event::Close(close) => Heard::Close(close.map(|(code, text)| (code, text.to_owned()))),
        }
    }
}

/// All that a reader hears when its input comes in these pieces, up to a close or an error. The
/// unconsumed end of a piece is kept in front of the next, as a reactor does.
pub(super) fn hear<'a>(
    side: Side,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    bounds: &Bounds,
) -> (Vec<Heard>, Option<WsError>) {
    let (mut reader, mut heard) = (Reader::new(side), Vec::new());
    let mut pending = Vec::new();
    for piece in pieces {
        pending.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match reader.read(&mut pending[at..], bounds) {
                Err(error) => return (heard, Some(error)),
                Ok(step) => {
                    at += step.consumed;
                    let Some(event) = step.event else { break };
                    heard.push(event.into());
                }
            }
            if let Some(Heard::Close(_)) = heard.last() {
                return (heard, None);
            }
        }
        pending.drain(..at);
        assert!(pending.len() <= 13, "an incomplete header is left, no payload");
    }
    (heard, None)
}

/// A stream that ends after these bytes and swallows all answers.
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

/// What tungstenite hears in these bytes.
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

/// Checks that our reader and tungstenite's agree, as far as their rules do.
fn compare_with_oracle(side: Side, bytes: &[u8], message_bytes: usize) {
    let bounds = Bounds { message_bytes, fragments: usize::MAX };
    let (ours, error) = hear(side, [bytes], &bounds);
    let (theirs, verdict) = oracle(side, bytes, message_bytes);
    match error {
        // Tungstenite takes such a frame and goes on.
        Some(WsError::LongLength) => assert!(theirs.starts_with(&ours)),
        // Tungstenite turns the code into 1002 and hears a close, if the reason is UTF-8.
        Some(WsError::CloseCode(_)) => {
            assert_ne!(verdict, Verdict::MoreWanted);
            let closed = usize::from(verdict == Verdict::Closed);
            assert_eq!(theirs[..theirs.len() - closed], ours);
        }
        // We fail as soon as a fault can be seen, tungstenite only when the frame is complete.
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

/// Fuzz target. The first byte chooses side and bounds; then come pieces, each behind a byte that
/// says how long it is. Panics where cutting the bytes makes a difference, or where tungstenite
/// disagrees.
pub fn fuzz_reader(data: &[u8]) {
    let Some((choice, mut data)) = data.split_first() else { return };
    let side = if choice & 1 == 0 { Side::Server } else { Side::Client };
    let message_bytes = if choice & 2 == 0 { 1 << 16 } else { 150 };
    let fragments = if choice & 4 == 0 { 1000 } else { 3 };
    let (mut pieces, mut whole) = (Vec::new(), Vec::new());
    while let Some((length, rest)) = data.split_first() {
        let (piece, rest) = rest.split_at((*length as usize).min(rest.len()));
        pieces.push(piece);
        whole.extend_from_slice(piece);
        data = rest;
    }
    let bounds = Bounds { message_bytes, fragments };
    let at_once = hear(side, [&whole[..]], &bounds);
    assert_eq!(hear(side, pieces, &bounds), at_once);
    assert_eq!(hear(side, whole.chunks(1), &bounds), at_once);
    compare_with_oracle(side, &whole, message_bytes);
}
