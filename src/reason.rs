//! Why a connection ended: one enum for the log, the counters, the WebSocket close code and the
//! SockJS close frame.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal $(, $code:literal $text:literal)?;)*) => {
        /// Why a connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CloseReason { $($(#[$doc])* $name,)* }

        impl CloseReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [CloseReason] = &[$(CloseReason::$name,)*];

            /// Name in logs and counters.
            pub const fn label(self) -> &'static str {
                match self { $(CloseReason::$name => $label,)* }
            }

            /// Close code (RFC 6455, 7.4) and reason sent to a browser; `None` if nothing is sent,
            /// because it is gone or was never greeted.
            pub const fn told(self) -> Option<(u16, &'static str)> {
                match self { $(CloseReason::$name => reasons!(@told $($code $text)?),)* }
            }
        }
    };
    (@told $code:literal $text:literal) => { Some(($code, $text)) };
    (@told) => { None };
}

reasons! {
    /// The peer closed in an orderly way.
    PeerClosed = "peer_closed";
    /// The transport failed (reset, I/O error), or the client left its session over HTTP.
    PeerLost = "peer_lost";
    /// All requests have been answered.
    Answered = "answered";
    /// The server is stopping.
    GoingAway = "going_away", 1001 "server going away";
    /// WebSocket frames that violate RFC 6455.
    WsProtocol = "ws_protocol", 1002 "protocol error";
    /// Text that is not UTF-8.
    WsUtf8 = "ws_utf8", 1007 "Could not decode a text frame as UTF-8";
    /// A message over the limit.
    WsTooLarge = "ws_too_large", 1009 "message too large";
    /// SockJS framing that is not JSON (protocol part 6).
    BrokenFraming = "broken_framing", 3000 "Broken framing.";
    /// No answer to a ping.
    NoHeartbeat = "no_heartbeat", 3000 "No response from heartbeat";
    /// `auth` without `s` (protocol part 7).
    AuthWithoutToken = "auth_without_token", 3002 "not found s - param, auth string";
    /// `auth` without `i`.
    AuthWithoutNamespace = "auth_without_namespace", 3002 "not found i - param, site id";
    /// `auth` for a namespace that does not exist.
    UnknownNamespace = "unknown_namespace", 3404 "site id not registered";
    /// The token is invalid in any way.
    InvalidToken = "invalid_token", 3404 "invalid JWT";
    /// The token's `exp` passed while the connection was open.
    TokenExpired = "token_expired", 3401 "token expired";
    /// The site's back end requested it (`disconnect`).
    Disconnected = "disconnected", 3403 "disconnected by the site";
    /// The user has the maximum number of connections.
    UserFull = "user_full", 3429 "too many connections";
    /// The namespace was removed.
    NamespaceRemoved = "namespace_removed", 3404 "site id not registered";
    /// No successful `auth` in time.
    AuthTimeout = "auth_timeout", 3408 "no auth in time";
    /// Too many publications wait for it.
    SlowConsumer = "slow_consumer", 3008 "too slow";
    /// Many publications have waited for it for too long.
    Lagging = "lagging", 3008 "too slow";
    /// Publications or an HTTP answer wait for it, and it takes nothing at all.
    Stalled = "stalled", 3008 "too slow";
    /// Waiting publications or answers take too much memory, and most of it waits for this one.
    Largest = "largest", 3008 "too slow";
    /// A limit of the whole server: on connections, or on memory kept for all of them.
    Full = "full";
    /// The maximum number of connections from one address is reached.
    AddressFull = "address_full";
    /// An incomplete request, head or frame, and the rest did not come in time.
    HalfRequest = "half_request";
    /// A page of a site that is not on the list of allowed origins.
    OriginRefused = "origin_refused";
    /// Malformed HTTP, or HTTP over a limit.
    BadHttp = "bad_http";
    /// A control frame with a length out of bounds, or whose final byte is not 0x00.
    ControlFraming = "control_framing";
    /// A control frame whose body is not JSON.
    ControlJson = "control_json";
    /// A back end does not read its replies.
    RepliesUnread = "replies_unread";
    /// No successful `auth` on the control port in time, or too many others wait for theirs.
    ControlAuth = "control_auth";
    /// Too many wrong keys on one control connection.
    WrongKeys = "wrong_keys";
}

impl CloseReason {
    /// Whether this is part of normal operation, so that no operator needs to hear of it.
    pub const fn is_ordinary(self) -> bool {
        use CloseReason::*;
        matches!(self, PeerClosed | PeerLost | Answered | GoingAway | Disconnected | TokenExpired)
    }

    /// Whether the peer does not take what waits for it: then waiting publications are dropped.
    pub const fn is_slow(self) -> bool {
        use CloseReason::*;
        matches!(self, SlowConsumer | Lagging | Stalled | Largest)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_reason_fits_a_close_frame() {
        for reason in CloseReason::ALL {
            if let Some((code, text)) = reason.told() {
                assert!((1000..5000).contains(&code) && text.len() <= 123, "{reason}");
            }
        }
    }
}
