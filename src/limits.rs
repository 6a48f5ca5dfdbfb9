//! Every limit of the server in one table: name, unit, default, bounds and meaning. Nothing is
//! unlimited. Also the policy for syncing states to disk.

use std::fmt;

/// Caps the upper bound of a limit at 2^30 on 32-bit machines, so that sums of a few limits, and
/// what is allowed beyond one, do not overflow.
const fn at_most(value: u64) -> usize {
    const MOST: usize = usize::MAX / 4 + 1;
    if value > MOST as u64 { MOST } else { value as usize }
}

/// A phone on a poor network (40 kbit/s), which gets half of that through when it loses packets.
const SLOW_LINK_BYTES_PER_MS: usize = 2;

/// The time that such a link needs for so many bytes, in milliseconds.
pub fn slow_link_ms(bytes: usize) -> u64 {
    (bytes / SLOW_LINK_BYTES_PER_MS) as u64
}

/// The fraction of an allowance in use, for comparisons: in units of 2^-20, and above 2^20 if the
/// allowance is exceeded.
pub fn share(bytes: usize, most: usize) -> u64 {
    (bytes as u64).saturating_mul(1 << 20) / most.max(1) as u64
}

macro_rules! limits {
    ($(
        $(#[doc = $doc:literal])*
        $name:ident: $default:literal, $low:literal..=$high:literal;
    )*) => {
        /// The limits in force. Each name ends in its unit.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits { $($(#[doc = $doc])* pub $name: usize,)* }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $($name: $default,)* }
            }
        }

        impl Limits {
            /// Every limit: name, smallest value, largest value, meaning.
            pub const TABLE: &'static [(&'static str, usize, usize, &'static str)] =
                &[$((stringify!($name), $low, at_most($high), concat!($($doc),*)),)*];

            /// The value of every limit, in the order of [`Limits::TABLE`].
            pub fn values(&self) -> [usize; Limits::TABLE.len()] {
                [$(self.$name,)*]
            }

            fn places(&mut self) -> [&mut usize; Limits::TABLE.len()] {
                [$(&mut self.$name,)*]
            }
        }
    };
}

impl Limits {
    /// Returns the value of the limit with that name.
    pub fn get(&self, name: &str) -> Option<usize> {
        let mut values = Limits::TABLE.iter().zip(self.values());
        values.find(|((known, ..), _)| *known == name).map(|(_, value)| value)
    }

    /// Sets the limit with that name.
    ///
    /// # Errors
    /// [`LimitError`] if there is no such limit, or the value is out of bounds.
    pub fn set(&mut self, name: &str, value: usize) -> Result<(), LimitError> {
        let mut places = Limits::TABLE.iter().zip(self.places());
        match places.find(|((known, ..), _)| *known == name) {
            Some(((_, low, high, _), place)) if (*low..=*high).contains(&value) => {
                *place = value;
                Ok(())
            }
            Some(((_, low, high, _), _)) => Err(LimitError::Bounds { low: *low, high: *high }),
            None => Err(LimitError::Unknown),
        }
    }

    /// `store_retry_ms` as a duration.
    pub fn store_retry(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.store_retry_ms as u64)
    }

    /// The time, in milliseconds, that a slow link may still need for bytes that the kernel has
    /// taken for a peer. The kernel holds at most twice `kernel_send_bytes` of them.
    pub fn link_ms(&self, bytes: usize) -> u64 {
        slow_link_ms(bytes.min(2 * self.kernel_send_bytes))
    }
}

/// When a change to a state must be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Before it is acknowledged.
    Always,
    /// At most so many milliseconds later: a crash may lose the changes of that time. Keys and
    /// grants are still synced before they are acknowledged.
    Every(u64),
}

impl fmt::Display for SyncPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncPolicy::Always => f.write_str("always"),
            SyncPolicy::Every(ms) if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            SyncPolicy::Every(ms) => write!(f, "{ms}ms"),
        }
    }
}

/// Why a limit was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// There is no limit of that name.
    Unknown,
    /// The value must lie within these bounds, both included.
    Bounds {
        /// Smallest value.
        low: usize,
        /// Largest value.
        high: usize,
    },
}

limits! {
    /// Connections in total, or fewer if the descriptor limit allows fewer. A further browser gets
    /// 503. Back ends may have 20 more; beyond those a new connection waits in the kernel's queue
    /// until another one ends.
    connections: 1_000_000, 16..=16_000_000;
    /// Connections of browsers accepted in a second. A further one gets 503 with `Retry-After`.
    admissions_per_second: 20_000, 1..=1_000_000;
    /// Connections of browsers that may come at once before `admissions_per_second` applies.
    admissions_burst: 20_000, 1..=16_000_000;
    /// Connections of browsers from one address, in IPv6 from one network of 64 bits; 0: no limit.
    connections_per_address: 0, 0..=16_000_000;
    /// Connections to the control port. When all are taken, a new one replaces one that has ended
    /// its stream and only waits for the disk, or one that has not authenticated; if there is none,
    /// the new one is closed. One place in 32, at most 32, is kept for connections that have not
    /// authenticated; when all others are taken, `auth` is refused, or closes a connection of the
    /// namespace that has the most.
    control_connections: 1024, 1..=1_000_000;
    /// Connections to the control port that have not authenticated. Beyond that the oldest from the
    /// address with the most of them is closed.
    control_unauthenticated_connections: 64, 1..=1_000_000;
    /// Time for a successful `auth` on the control port, from the start of the connection or from
    /// the end of its key. Time in which the server does not read it for lack of room does not
    /// count.
    control_auth_ms: 5000, 100..=3_600_000;
    /// A back end whose machine has been silent for this long is probed by TCP keepalive (RFC 9293
    /// 3.8.4), and again after each quarter of that; whole seconds.
    control_keepalive_ms: 60_000, 1000..=32_767_000;
    /// Wrong keys that close a control connection.
    control_wrong_keys: 5, 1..=1_000_000;
    /// Body of a control frame.
    control_frame_bytes: 8_388_608, 1024..=1_073_741_824;
    /// Body of a control frame before `auth`.
    control_frame_unauthenticated_bytes: 16_384, 1024..=1_073_741_824;
    /// Time for a control frame to be complete; a slower one closes its connection.
    control_frame_ms: 10_000, 100..=3_600_000;
    /// Control frames that are arriving and are longer than `control_frame_unauthenticated_bytes`,
    /// by their declared lengths, in total. Beyond that the connection of a further one is not read
    /// until there is room, which goes first to the namespace that uses the least.
    control_input_bytes: 67_108_864, 1024..=1_099_511_627_776;
    /// Unread replies of a control connection at which the server stops reading it.
    control_replies_pause_bytes: 262_144, 1024..=1_073_741_824;
    /// Time for which replies may wait unread, while their control connection is not read, before
    /// it is closed.
    control_replies_ms: 60_000, 100..=3_600_000;
    /// Replies of a control connection that wait for the disk, at which the server stops reading
    /// it.
    control_replies_waiting: 1024, 1..=1_000_000;
    /// Commands of one control connection carried out in one turn of the event loop.
    control_commands_per_turn: 64, 1..=1_000_000;
    /// Messages delivered, and connections listed or looked at, in one turn of the event loop.
    /// After that no further command is begun in this turn, and an `emit` to several channels goes
    /// on in the next turns, channel by channel.
    deliveries_per_turn: 1024, 1..=1_000_000;
    /// Work in one turn of the event loop for connections that leave: the end of a subscription
    /// counts as one, the end of a connection as sixteen. The rest follows in the next turns.
    leaves_per_turn: 2048, 1..=1_000_000;
    /// Connections to the admin door. When the last place is taken, the one that has been without a
    /// request for the longest time is closed; a further one waits until a place is free.
    admin_connections: 8, 1..=8;
    /// Namespaces with metrics of their own; all others share one sample. A reload does not change
    /// it.
    metrics_namespaces: 100, 0..=10_000;
    /// Head of an HTTP request.
    http_head_bytes: 8192, 512..=65_536;
    /// Time for the head of an HTTP request.
    http_head_ms: 5000, 100..=3_600_000;
    /// Header lines of an HTTP request.
    http_headers: 64, 8..=128;
    /// Target of an HTTP request: its path and query.
    http_target_bytes: 2048, 64..=65_536;
    /// Body of an HTTP request.
    http_body_bytes: 65_536, 1024..=1_073_741_824;
    /// Time for the body of an HTTP request, from the end of its head.
    http_body_ms: 10_000, 100..=3_600_000;
    /// Slowest pace of such a body, from four seconds after its head on; a slower one is refused.
    http_body_bytes_per_second: 500, 1..=1_000_000_000;
    /// Body of an HTTP request with messages for a session that has not authenticated.
    http_body_unauthenticated_bytes: 16_384, 1024..=1_073_741_824;
    /// Memory for arriving bodies of HTTP requests, and for messages in them that wait. Beyond that
    /// uploads and sessions are ended, first those that use the largest part of what each may have.
    bodies_bytes: 67_108_864, 65_536..=1_099_511_627_776;
    /// Input of all browsers that has been read and not processed. Beyond that browsers are closed,
    /// first those with the most relative to the longest message that each may send.
    input_bytes: 67_108_864, 1_048_576..=1_099_511_627_776;
    /// Sessions over HTTP, with or without a waiting request. When all are taken, a new one
    /// replaces one that has not authenticated or has ended: the oldest, but first those opened on
    /// a connection that had opened another one, which had not authenticated.
    sessions: 100_000, 1..=16_000_000;
    /// Time without a waiting request after which a session over HTTP ends.
    session_ms: 5000, 100..=3_600_000;
    /// Bytes of frames after which a streaming HTTP answer ends; its session goes on in the next.
    stream_response_bytes: 131_072, 1024..=1_073_741_824;
    /// Time for a successful `auth` from the opening of a WebSocket or session.
    auth_ms: 10_000, 100..=3_600_000;
    /// Sessions, over WebSockets and over HTTP, that have not authenticated. Beyond that the oldest
    /// is closed, but first those over HTTP that were opened on the same connection as another such
    /// one.
    sessions_unauthenticated: 32_768, 1..=16_000_000;
    /// A WebSocket message.
    message_bytes: 16_384, 64..=1_073_741_824;
    /// A WebSocket message before `auth`.
    message_unauthenticated_bytes: 4096, 64..=1_073_741_824;
    /// Fragments of one WebSocket message.
    message_fragments: 64, 1..=1_000_000;
    /// Messages and frames of a browser in a second. What it sends beyond that is read later, at
    /// this rate.
    messages_per_second: 20, 1..=1_000_000;
    /// Messages and frames that a browser may send at once before `messages_per_second` applies.
    messages_burst: 200, 1..=1_000_000;
    /// Time between two pings or `h` frames to a browser.
    heartbeat_ms: 25_000, 100..=3_600_000;
    /// Silence after a ping until the connection is closed, plus the time that a slow link, of 2
    /// KB/s, needs for what may be queued before the ping.
    heartbeat_answer_ms: 8000, 100..=3_600_000;
    /// Time from a close frame, or the last byte sent, to the end of the connection.
    close_ms: 5000, 100..=600_000;
    /// Time from SIGTERM to the end of the process.
    drain_ms: 10_000, 100..=600_000;
    /// Time after which a connection ends if the peer's machine does not acknowledge what was sent,
    /// or has no room for it; for back ends `control_replies_ms` and `close_ms`, if that is longer.
    /// Not on a port for browsers with a loopback address.
    tcp_user_timeout_ms: 20_000, 100..=3_600_000;
    /// Output that the kernel keeps for one browser or back end that does not read. It uses twice
    /// as much memory for it.
    kernel_send_bytes: 65_536, 4096..=1_073_741_824;
    /// Input that the kernel keeps of one browser while the server does not read it. It uses twice
    /// as much memory for it.
    kernel_receive_bytes: 65_536, 4096..=1_073_741_824;
    /// Publications that may wait for a browser behind the one that is being sent to it; with more
    /// it is closed after `backlog_ms`. Each counts for at most a quarter of this, however large it
    /// is.
    backlog_bytes: 262_144, 1024..=1_073_741_824;
    /// Time after which a browser with more than `backlog_bytes` is closed if it takes not a single
    /// byte; at once when more than half of `queued_bytes` is in use.
    backlog_ms: 1000, 0..=3_600_000;
    /// Publications that may wait for a browser for long; with more all the time for
    /// `backlog_soft_ms` it is closed.
    backlog_soft_bytes: 65_536, 256..=1_073_741_824;
    /// Time for which a browser may have a backlog above `backlog_soft_bytes` before it is closed.
    backlog_soft_ms: 10_000, 100..=3_600_000;
    /// Time after which a browser is closed if publications wait for it and it takes not a single
    /// byte.
    stall_ms: 10_000, 100..=3_600_000;
    /// Memory of all publications that wait for browsers, each counted once. Above it back ends
    /// wait, and browsers that take nothing are closed, first those for which the most waits.
    queued_bytes: 67_108_864, 65_536..=1_099_511_627_776;
    /// Memory of all answers that wait for browsers and back ends, including states, each counted
    /// once. Above it requests with more than a small answer wait, and connections that take
    /// nothing are closed, first those for which the most waits. Larger replies to back ends that
    /// wait for the disk may take an eighth of it in addition, or one reply. No `channelInfo` is
    /// longer than this.
    answers_bytes: 67_108_864, 65_536..=1_099_511_627_776;
    /// Answers and messages that wait for a browser, at which the server stops reading it until all
    /// of that has been sent.
    answers_pause_bytes: 65_536, 1024..=1_073_741_824;
    /// The same for a browser that has not authenticated.
    answers_unauthenticated_bytes: 4096, 512..=1_073_741_824;
    /// Channels that one connection may be subscribed to.
    channels_per_connection: 128, 1..=1_000_000;
    /// Subscriptions of all connections together.
    subscriptions: 2_560_000, 1..=1_000_000_000;
    /// Connections of one user.
    connections_per_user: 64, 1..=1_000_000;
    /// Namespaces.
    namespaces: 100_000, 1..=100_000_000;
    /// Length of the name of a namespace, channel or user.
    name_bytes: 255, 8..=65_535;
    /// Grants of one namespace.
    grants_per_namespace: 1_000_000, 1..=100_000_000;
    /// Grants in total.
    grants: 2_000_000, 1..=100_000_000;
    /// States of one namespace.
    states_per_namespace: 1_000_000, 1..=100_000_000;
    /// Bytes of the states of one namespace, names and values together.
    states_bytes_per_namespace: 67_108_864, 64..=1_099_511_627_776;
    /// States in total.
    states: 10_000_000, 1..=100_000_000;
    /// Bytes of all states, names and values together: they take about as much in memory and on
    /// disk, and 131 bytes more for each.
    states_bytes: 268_435_456, 64..=1_099_511_627_776;
    /// One state. 8 MiB less a kilobyte, so that it fits in the frame that sets it.
    state_bytes: 8_387_584, 64..=1_073_741_824;
    /// Changes that are not on disk yet, in bytes; beyond that back ends wait.
    store_pending_bytes: 16_777_216, 65_536..=1_073_741_824;
    /// Changes that are not on disk yet; beyond that back ends wait.
    store_pending_changes: 65_536, 16..=16_777_216;
    /// Time between two attempts to reach a disk that failed.
    store_retry_ms: 400, 10..=60_000;
    /// Elements of a list state; beyond that `push` drops the oldest.
    list_items: 1000, 1..=10_000_000;
    /// Longest life of a state.
    ttl_seconds: 315_360_000, 1..=3_153_600_000;
    /// Longest time for which an old key is accepted after `rotateKey`.
    grace_seconds: 2_592_000, 1..=315_360_000;
    /// Channels of one `emit`.
    channels_per_emit: 1000, 1..=1_000_000;
    /// Data and a name for each channel of one `emit` to several channels, in total.
    emit_bytes: 8_388_608, 1024..=1_073_741_824;
    /// Memory of one publication, in all forms that connected browsers use: SockJS escapes it,
    /// differently for each transport.
    publication_bytes: 134_217_728, 1024..=2_147_483_648;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_within_its_bounds() {
        let mut limits = Limits::default();
        for (name, low, high, meaning) in Limits::TABLE {
            let value = limits.get(name).unwrap();
            assert!((*low..=*high).contains(&value), "{name}");
            assert!(!meaning.trim().is_empty(), "{name}");
            assert_eq!(limits.set(name, value), Ok(()));
            let error = LimitError::Bounds { low: *low, high: *high };
            if let Some(more) = high.checked_add(1) {
                assert_eq!(limits.set(name, more), Err(error));
            }
        }
        assert_eq!(limits, Limits::default());
        assert_eq!(limits.set("no_such", 1), Err(LimitError::Unknown));
    }

    #[test]
    fn no_limit_lets_a_length_or_a_sum_overflow() {
        for (name, _, high, _) in Limits::TABLE {
            // Sums of a limit, its tolerance and the largest single item must not overflow.
            assert!(high.checked_mul(3).is_some(), "{name}: {high}");
            assert_eq!(at_most(u64::MAX), usize::MAX / 4 + 1);
        }
        // Lengths of single items (`frame::List` counts in 32 bits); a publication in all its
        // forms is the largest of them.
        for name in ["control_frame_bytes", "message_bytes", "state_bytes", "publication_bytes"] {
            let row = Limits::TABLE.iter().find(|row| row.0 == name).unwrap();
            assert!(i32::try_from(row.2 - 1).is_ok(), "{name}: {}", row.2);
        }
    }
}
