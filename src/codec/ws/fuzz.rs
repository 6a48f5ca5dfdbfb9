//! Properties of the reader for any bytes: how they are split makes no difference, and
//! tungstenite's reader finds the same messages (feature `oracle`, for tests and fuzzers).

use super::{Bounds, Event, Reader, Side, WsError, close_frame};

/// An event that owns its bytes.
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

/// Returns everything a reader reports for input in these pieces, up to a close or an error. The
/// unconsumed end of a piece is kept in front of the next, as a reactor does.
pub(super) fn hear<'a>(
    side: Side,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    bounds: &Bounds,
) -> (Vec<Heard>, Option<WsError>) {
    let (mut reader, mut heard) = (Reader::default(), Vec::new());
    let mut pending = Vec::new();
    for piece in pieces {
        pending.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match reader.read(side, &mut pending[at..], bounds) {
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

/// Fuzz target. The first byte chooses side and bounds; then come pieces, each preceded by its
/// length in one byte. Panics if splitting makes a difference, or if tungstenite disagrees.
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
    if let (_, Some(error)) = &at_once {
        // The close frame has room for what the peer is told.
        let frame = close_frame(error.close_code(), error.close_text());
        let (heard, _) = hear(Side::Client, [&frame[..]], &bounds);
        let told = Heard::Close(Some((error.close_code(), error.close_text().to_owned())));
        assert_eq!(heard, [told]);
        assert!(!error.to_string().is_empty());
    }
    #[cfg(feature = "oracle")]
    super::oracle::compare(side, &whole, message_bytes);
}
