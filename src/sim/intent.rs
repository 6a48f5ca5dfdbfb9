//! The meaning of the bytes that clients send. The grammar draws intents and writes them as bytes;
//! the judge executes them when the server has consumed those bytes, and never parses.

use std::net::IpAddr;

use crate::publication::Form;
use crate::reason::CloseReason;

/// One thing that a client sends.
#[derive(Clone, Debug)]
pub(super) enum Intent {
    /// A control frame with a command.
    Command(Command),
    /// A control frame whose body is not JSON.
    NotJson,
    /// A PROXY header, which may name the client that the proxy speaks for.
    ProxyHeader(Option<IpAddr>),
    /// The client address in an HTTP request, if the peer is trusted. It covers the same bytes as
    /// the request, which is the next intent.
    Named(Option<IpAddr>),
    /// An HTTP upgrade request.
    Upgrade(Form),
    /// Another HTTP request: the status of its response, and whether the connection ends with it.
    Request { status: u16, is_last: bool },
    /// An HTTP request from a page of another origin: 403.
    Strange,
    /// Bytes that are no HTTP request: the response has this status.
    BadRequest(u16),
    /// A WebSocket message: one event, or any number on SockJS.
    Message(Vec<Event>),
    /// A WebSocket ping.
    Ping(Vec<u8>),
    /// A WebSocket pong.
    Pong,
    /// A WebSocket close frame.
    Close(Option<(u16, String)>),
    /// A violation of the transport's rules, noticed at its last byte at the latest.
    Violation(CloseReason),
}

/// A command of the control port. Texts are decoded; `data` is JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    Ping,
    Register { name: String, has_key: bool },
    Remove { name: String, has_key: bool },
    Rotate { name: String, has_key: bool, grace_seconds: u64 },
    Auth { name: String, key: String },
    Emit(Emit),
    Store(Store),
    Get { channel: String, user: Option<String> },
    Info { channel: String },
    Grant { channel: String, user: String, is_withdrawn: bool },
    Disconnect { user: String },
    Wrong { needs_auth: bool, code: u16, reason: String },
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Emit {
    pub channels: Vec<String>,
    pub data: String,
    pub user: Option<String>,
    pub except: Option<String>,
    pub is_counted: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Store {
    pub is_push: bool,
    pub channel: String,
    pub user: Option<String>,
    pub data: String,
    pub ttl_seconds: Option<u64>,
    pub is_emitted: bool,
}

/// An event from a browser. A `clb` is JSON.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Auth(Auth),
    Subscribe {
        channel: String,
        clb: Option<String>,
    },
    /// A subscribe that is refused because of its argument, with the reason.
    BadSubscribe {
        clb: Option<String>,
        reason: String,
    },
    Unsubscribe {
        channel: String,
        clb: Option<String>,
    },
    Ping {
        clb: Option<String>,
    },
    /// Anything that the server ignores silently.
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) struct Auth {
    /// What is wrong with it, in any namespace.
    pub fault: Option<CloseReason>,
    pub space: String,
    /// The key that signs the token.
    pub key: String,
    pub user: String,
    /// Seconds since 1970.
    pub expires: Option<u64>,
}
