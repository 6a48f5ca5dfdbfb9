//! What clients mean by the bytes they send. The grammar draws intents and writes them as bytes;
//! the judge carries them out when the server has consumed those bytes, and never parses.

use std::net::IpAddr;

use crate::publication::Form;
use crate::reason::CloseReason;

/// One thing that a client sends.
#[derive(Clone, Debug)]
pub(super) enum Intent {
    /// A control frame with a command in it.
    Command(Command),
    /// A control frame with something in it that is not JSON.
    NotJson,
    /// The introduction of a connection by a proxy, which may say whom it speaks for.
    Introduced(Option<IpAddr>),
    /// What an HTTP request says of where its client is, for those who are believed; it stands for
    /// the same bytes as the request, which comes next.
    Named(Option<IpAddr>),
    /// An HTTP request that upgrades.
    Upgrade(Form),
    /// Another HTTP request: status of its answer, and whether the answer is the last.
    Request { status: u16, is_last: bool },
    /// An HTTP request of another site's page: 403.
    Strange,
    /// No HTTP request: the reply has this status.
    BadRequest(u16),
    /// A WebSocket message: one event, or on SockJS any number.
    Message(Vec<Event>),
    /// A WebSocket ping.
    Ping(Vec<u8>),
    /// A WebSocket pong.
    Pong,
    /// A WebSocket close frame.
    Close(Option<(u16, String)>),
    /// What breaks the rules of the transport: noticed at its end at the latest.
    Violation(CloseReason),
}

/// A command of the control port. Texts are decoded, `data` is JSON.
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

/// An event of a browser. A `clb` is JSON.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Auth(Auth),
    Subscribe {
        channel: String,
        clb: Option<String>,
    },
    /// A subscribe that is refused for its argument, with the reason.
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
    /// What is passed over in silence.
    Nothing,
}

#[derive(Clone, Debug)]
pub(super) struct Auth {
    /// What is wrong with it, whatever the namespace.
    pub fault: Option<CloseReason>,
    pub space: String,
    /// What the token is signed with.
    pub key: String,
    pub user: String,
    /// Seconds since 1970.
    pub expires: Option<u64>,
}
