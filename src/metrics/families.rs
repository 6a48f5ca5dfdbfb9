//! Every metric of the admin listener: name, kind and help text. One table, so that no name is
//! written twice; `tests/docs.rs` compares it with `docs/operations.md`.

/// The type of a metric, in Prometheus terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, from zero at the start of the server.
    Counter,
    /// The current value.
    Gauge,
    /// Counts of durations, by bucket.
    Histogram,
}

impl MetricKind {
    /// Its name in the text format.
    pub const fn word(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

/// One metric, including all its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The name, ending in the unit.
    pub name: &'static str,
    /// The type.
    pub kind: MetricKind,
    /// The help text, in one line.
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident = $name:literal $kind:ident $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Family =
                Family { name: $name, kind: MetricKind::$kind, help: $help };
        )*
        /// All metrics.
        pub const ALL: &[Family] = &[$($id,)*];
    };
}

families! {
    BUILD = "fws_build_info" Gauge "Version of the server, as a label; the value is 1.";
    DRAINING = "fws_draining" Gauge "1 while the server is stopping, else 0.";
    CONNECTIONS = "fws_connections" Gauge
        "Connections and sessions by kind, without those that are closing.";
    SOCKETS = "fws_sockets" Gauge "Sockets, including those that are closing.";
    OPENED = "fws_connections_opened_total" Counter "Connections accepted, by door.";
    CLOSED = "fws_connections_closed_total" Counter "Connections ended, by reason.";
    SESSIONS_CLOSED = "fws_sessions_closed_total" Counter
        "Sessions over HTTP ended, by reason, whether or not the client was told.";
    TURNED_AWAY = "fws_connections_turned_away_total" Counter
        "Connections that were not accepted, by reason.";
    HELD = "fws_browsers_held_total" Counter
        "Times that the server stopped reading a browser for a while because it sent too much.";
    STRANGERS = "fws_sessions_unauthenticated" Gauge
        "Sessions and WebSockets that have not authenticated.";
    BODIES = "fws_bodies_bytes" Gauge
        "Memory for arriving request bodies, and for messages in them that wait.";
    BODIES_EVICTED = "fws_bodies_evicted_total" Counter
        "Uploads and sessions ended because request bodies took too much memory.";
    FLOODS = "fws_floods_total" Counter
        "Times that back ends had to wait because waiting publications took too much memory.";
    SHORTAGES = "fws_shortages_total" Counter
        "Times that requests had to wait because waiting answers took too much memory.";
    REPLIES_OWED = "fws_replies_owed_bytes" Gauge
        "Bytes of replies to back ends that wait for the disk.";
    CONTROL_INPUT = "fws_control_input_bytes" Gauge
        "Bytes of large commands that are arriving, by their declared lengths.";
    CONTROL_INPUT_WAITS = "fws_control_input_waits_total" Counter
        "Times that a large command had to wait because arriving commands took too much memory.";
    CONTROL_INPUT_EVICTED = "fws_control_input_evicted_total" Counter
        "Back ends closed in the middle of a large command to make room for others.";
    COMMANDS = "fws_commands_total" Counter "Commands of back ends.";
    LONG_EMITS = "fws_long_emits_total" Counter
        "Emits to several channels that took more than one turn.";
    REFUSED = "fws_commands_refused_total" Counter "Commands answered with an error, by its code.";
    WRONG_KEYS = "fws_wrong_keys_total" Counter "Wrong keys of namespaces or of the server.";
    PUBLICATIONS = "fws_publications_total" Counter
        "Messages published, whether or not anybody received them.";
    DELIVERIES = "fws_deliveries_total" Counter "Messages handed to subscribers.";
    RECEIVED = "fws_received_bytes_total" Counter "Bytes read from all connections.";
    SENT = "fws_sent_bytes_total" Counter "Bytes written to all connections.";
    QUEUED_BYTES = "fws_queued_bytes" Gauge
        "Bytes queued for all connections; those shared by several connections count for each.";
    QUEUED_FRAMES = "fws_queued_frames" Gauge "Frames queued for all connections.";
    INPUT = "fws_input_bytes" Gauge
        "Bytes of browsers that have been read but not processed.";
    INPUT_EVICTED = "fws_input_evicted_total" Counter
        "Browsers closed because unprocessed input took too much memory.";
    KEPT_BYTES = "fws_kept_bytes" Gauge
        "Memory of the publications that wait for browsers, each counted once.";
    ANSWERS_BYTES = "fws_answers_bytes" Gauge
        "Memory of the answers that wait for browsers and back ends, each counted once.";
    BLOCKED = "fws_blocked_browsers" Gauge
        "Connections of browsers that have not yet taken what was published to them.";
    TURNS = "fws_turn_seconds" Histogram
        "Duration of the turns of the event loop, without the time spent waiting for events.";
    STOOD_STILL = "fws_stood_still_seconds_total" Counter
        "Time in which the event loop stood still, a second or more at a time.";
    NAMESPACES = "fws_namespaces" Gauge "Namespaces.";
    CHANNELS = "fws_channels" Gauge "Channels with subscribers.";
    USERS = "fws_users" Gauge "Users with connections.";
    PEERS = "fws_peers" Gauge "Browsers that have authenticated.";
    STATES = "fws_states" Gauge "States.";
    STATES_BYTES = "fws_states_bytes" Gauge "Bytes of all states, names and values together.";
    GRANTS = "fws_grants" Gauge "Grants.";
    STORE_FAILING = "fws_store_failing" Gauge "1 while the store refuses changes, else 0.";
    STORE_FAILURES = "fws_store_failures_total" Counter "Times that the store began to fail.";
    STORE_REFUSED = "fws_store_refused_changes_total" Counter
        "Changes refused because the store was failing.";
    STORE_PENDING_CHANGES = "fws_store_pending_changes" Gauge "Changes not on disk yet.";
    STORE_PENDING_BYTES = "fws_store_pending_bytes" Gauge
        "Bytes of changes that are not on disk yet, and of what is needed to undo them.";
    STORE_LAG = "fws_store_lag_seconds" Gauge "Age of the oldest change that is not on disk.";
    STORE_BATCHES = "fws_store_batch_seconds" Histogram
        "Duration of the batches written, from the first write to the end of the sync.";
    STORE_LAST = "fws_store_last_batch_seconds" Gauge "Duration of the last batch.";
    STORE_FILE = "fws_store_file_bytes" Gauge "Length of the store's file.";
    STORE_CONTENT = "fws_store_content_bytes" Gauge "Bytes of all rows in that file.";
    NS_PUBLICATIONS = "fws_namespace_publications_total" Counter
        "Messages published, by namespace.";
    NS_DELIVERIES = "fws_namespace_deliveries_total" Counter
        "Messages handed to subscribers, by namespace.";
    NS_PEERS = "fws_namespace_peers" Gauge "Browsers that have authenticated, by namespace.";
    NS_STATES = "fws_namespace_states" Gauge "States, by namespace.";
    CPU = "process_cpu_seconds_total" Counter "Processor time, user and system.";
    RESIDENT = "process_resident_memory_bytes" Gauge "Resident memory.";
    OPEN_FDS = "process_open_fds" Gauge "Open file descriptors.";
    MAX_FDS = "process_max_fds" Gauge "File descriptors that the process may open.";
    STARTED = "process_start_time_seconds" Gauge "Start of the process, in seconds since 1970.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for (at, Family { name, kind, help }) in ALL.iter().enumerate() {
            assert!(name.starts_with("fws_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            assert!(!help.is_empty() && !help.contains(['\n', '\\']) && help.ends_with('.'));
            assert!(ALL[..at].iter().all(|other| other.name != *name), "{name} comes twice");
        }
    }
}
