//! What a connection is expected to be sent, and how that is recognized in bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::codec::control;
use crate::codec::ws::{Bounds, Event, Reader, Side};
use crate::publication::Form;

/// Bounds of a client's reader, above everything that the server may send.
pub(in crate::sim) const BOUNDS: Bounds = Bounds { message_bytes: 1 << 20, fragments: 1 };

/// One thing that the server sends, as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sim) enum Seen {
    /// The status of an HTTP response.
    Http(u16),
    /// The body of a control frame.
    Reply(String),
    Text(String),
    Ping,
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl Seen {
    /// Converts a WebSocket event; the server sends no binary messages.
    pub fn of(event: Event<'_>) -> Seen {
        match event {
            Event::Text(text) => Seen::Text(text.to_string()),
            Event::Ping(_) => Seen::Ping,
            Event::Pong(payload) => Seen::Pong(payload.to_vec()),
            Event::Close(said) => Seen::Close(said.map(|(code, text)| (code, text.to_string()))),
            Event::Binary(_) => panic!("the server sent a binary message"),
        }
    }

    /// Returns the status of a response.
    pub fn of_response(head: &[u8]) -> Seen {
        let head = String::from_utf8_lossy(head);
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        Seen::Http(status.unwrap_or_else(|| panic!("no response: {head}")))
    }

    /// Decodes whole frames of a browser's connection.
    pub fn of_frames(frames: &[u8]) -> Vec<Seen> {
        let (mut bytes, mut at, mut seen) = (frames.to_vec(), 0, Vec::new());
        while at < bytes.len() {
            let mut reader = Reader::default();
            let step = reader.read(Side::Client, &mut bytes[at..], &BOUNDS);
            let step = step.expect("the server's frames are good");
            seen.push(Seen::of(step.event.expect("a whole frame")));
            at += step.consumed;
        }
        seen
    }

    /// Decodes whole frames of the control port.
    pub fn of_replies(frames: &[u8]) -> Vec<Seen> {
        let (mut at, mut seen) = (0, Vec::new());
        while at < frames.len() {
            let mut decoder = control::Decoder::new();
            let decoded = decoder.next(&frames[at..], 1 << 20);
            let decoded = decoded.expect("the server's frames are good");
            let body = decoded.body.expect("whole frames").to_vec();
            seen.push(Seen::Reply(String::from_utf8(body).expect("replies are UTF-8")));
            at += decoded.consumed;
        }
        seen
    }
}

/// One thing that must be sent next.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    Http(u16),
    /// The frame that opens a SockJS session.
    SockOpen,
    /// A message that is an answer or a state.
    Message(String),
    /// A message that another client published.
    Publication(String),
    /// The answer to a good `auth`, with the seconds until the token ends.
    AuthOk(Option<u64>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    SockClose(u16, String),
    Reply(String),
    /// The connections of a channel, each with its user.
    Info(BTreeMap<String, String>),
}

impl Expected {
    /// Whether this is what was seen. For an `auth`, returns the id of the connection.
    pub fn meets(&self, seen: &Seen, form: Form) -> Result<Option<String>, String> {
        let is_met = match (self, seen) {
            (Expected::Http(status), Seen::Http(seen)) => status == seen,
            (Expected::SockOpen, Seen::Text(text)) => text == "o",
            (Expected::Message(message) | Expected::Publication(message), Seen::Text(text)) => {
                unwrap(text, form).as_ref() == Some(message)
            }
            (Expected::AuthOk(left), Seen::Text(text)) => {
                let cid = unwrap(text, form).and_then(|message| auth_ok(&message, *left));
                if cid.is_some() {
                    return Ok(cid);
                }
                false
            }
            (Expected::Pong(payload), Seen::Pong(seen)) => payload == seen,
            (Expected::Close(said), Seen::Close(seen)) => {
                // The protocol errors are one to the judge, but differ in their text.
                let is_fault = |said: &Option<(u16, String)>| matches!(said, Some((1002, _)));
                let is_going = |said: &Option<(u16, String)>| {
                    said.as_ref().is_some_and(|(code, text)| is_going_away(*code, text))
                };
                said == seen || is_fault(said) && is_fault(seen) || is_going(said) && is_going(seen)
            }
            (Expected::SockClose(code, reason), Seen::Text(text)) => {
                let parts = text.strip_prefix('c').map(serde_json::from_str::<(u16, String)>);
                let is_going = is_going_away(*code, reason);
                matches!(parts, Some(Ok((of, text))) if (of, &text) == (*code, reason)
                    || is_going && is_going_away(of, &text))
            }
            (Expected::Reply(body), Seen::Reply(seen)) => body == seen,
            (Expected::Info(connections), Seen::Reply(body)) => is_info(body, connections),
            _ => false,
        };
        if is_met { Ok(None) } else { Err(format!("expected {self:?}, but it was {seen:?}")) }
    }
}

/// Whether this is how the server says that it stops, possibly with the time to come back.
fn is_going_away(code: u16, text: &str) -> bool {
    let rest = text.strip_prefix("server going away");
    let ms = rest.and_then(|rest| rest.strip_prefix(", come back in ")?.strip_suffix(" ms"));
    let is_soon = |ms: u64| (1000..120_000).contains(&ms);
    code == 1001 && (rest == Some("") || ms.is_some_and(|ms| ms.parse().is_ok_and(is_soon)))
}

/// Removes what the form wraps around a message.
fn unwrap(text: &str, form: Form) -> Option<String> {
    match form {
        Form::Raw => Some(text.to_string()),
        _ => {
            let mut messages: Vec<String> = serde_json::from_str(text.strip_prefix('a')?).ok()?;
            (messages.len() == 1).then(|| messages.pop())?
        }
    }
}

/// Returns the id of the connection from the answer to a good `auth`.
fn auth_ok(message: &str, left: Option<u64>) -> Option<String> {
    let message: Value = serde_json::from_str(message).ok()?;
    let data = &message["data"];
    let is_right = message["event"] == "auth ok" && data["expiresIn"].as_u64() == left;
    is_right.then(|| data["cid"].as_str().map(str::to_string))?
}

fn is_info(body: &str, connections: &BTreeMap<String, String>) -> bool {
    let Ok(info) = serde_json::from_str::<Value>(body) else { return false };
    let users: BTreeSet<&String> = connections.values().collect();
    let named: BTreeMap<String, String> =
        serde_json::from_value(info["connId_UserId"].clone()).unwrap_or_default();
    info["countUser"].as_u64() == Some(users.len() as u64)
        && info["countConnection"].as_u64() == Some(connections.len() as u64)
        && named == *connections
}

/// The code and text with which a browser is closed (protocol part 10), and whether SockJS has them
/// in a frame of its own; written here a second time, as a check.
pub(super) fn farewell(reason: crate::reason::CloseReason) -> Option<(u16, &'static str, bool)> {
    use crate::reason::CloseReason::*;
    Some(match reason {
        GoingAway => (1001, "server going away", true),
        WsProtocol => (1002, "protocol error", false),
        WsUtf8 => (1007, "Could not decode a text frame as UTF-8", false),
        WsTooLarge => (1009, "message too large", false),
        BrokenFraming => (3000, "Broken framing.", false),
        NoHeartbeat => (3000, "No response from heartbeat", true),
        AuthWithoutToken => (3002, "not found s - param, auth string", true),
        AuthWithoutNamespace => (3002, "not found i - param, site id", true),
        UnknownNamespace | NamespaceRemoved => (3404, "site id not registered", true),
        InvalidToken => (3404, "invalid JWT", true),
        TokenExpired => (3401, "token expired", true),
        Disconnected => (3403, "disconnected by the site", true),
        UserFull => (3429, "too many connections", true),
        AuthTimeout => (3408, "no auth in time", true),
        SlowConsumer | Lagging | Stalled | Largest => (3008, "too slow", true),
        _ => return None,
    })
}
