//! Counters: plain numbers, kept by the part that they belong to (the switch, a reactor, a
//! journal). Counting is one addition; aggregating and formatting are left to the reader.

pub mod families;

use std::fmt::Write;

use crate::edge::TurnedAway;
use crate::reason::CloseReason;

pub use families::{Family, MetricKind};

/// Upper bounds of the buckets of [`Durations`], in microseconds.
pub const BUCKETS_US: [u64; 13] =
    [100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/// A histogram of durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// The number of durations in each bucket: over the bound before it and up to its own (not
    /// cumulative). The last one counts those over all bounds.
    pub counts: [u64; BUCKETS_US.len() + 1],
    /// The sum of all durations, in microseconds.
    pub sum_us: u64,
}

impl Durations {
    /// Counts one duration.
    pub fn record(&mut self, us: u64) {
        let bucket = BUCKETS_US.iter().position(|bound| us <= *bound);
        self.counts[bucket.unwrap_or(BUCKETS_US.len())] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// The number of durations counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What a reactor counts.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    /// Open connections, including those that are closing.
    pub sockets: usize,
    /// Bytes read from all connections.
    pub received_bytes: u64,
    /// Bytes that the kernel has taken for all connections.
    pub sent_bytes: u64,
    /// Bytes that wait for the kernel to take them; shared frames count for each connection.
    pub queued_bytes: usize,
    /// Frames that wait for the kernel to take them.
    pub queued_frames: usize,
    /// Bytes from browsers that have been read and wait to be parsed or processed.
    pub input_bytes: usize,
    /// Browsers closed because that was too much.
    pub input_evicted: u64,
    /// Memory of all waiting publications, each counted once.
    pub kept_bytes: usize,
    /// Memory of all waiting answers, each counted once.
    pub answers_bytes: usize,
    /// Peers that have not taken at once what was published to them.
    pub watched: usize,
    /// Turns of the event loop, without the time spent waiting.
    pub turns: Durations,
    /// Milliseconds in which the process did not run.
    pub stood_still_ms: u64,
    /// A signal to stop has come.
    pub is_draining: bool,
}

/// What the system reports about the process; `None` where it does not.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Memory in use.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// The limit on open file descriptors.
    pub max_fds: Option<u64>,
    /// Processor time, user and system.
    pub cpu_ms: Option<u64>,
}

/// Counters of a journal with a store.
#[derive(Clone, Debug, Default)]
pub struct StoreMeters {
    /// Changes are being refused.
    pub is_failing: bool,
    /// How often the store began to fail.
    pub failures: u64,
    /// Changes refused.
    pub refused_changes: u64,
    /// Changes that are not on disk yet.
    pub pending_changes: usize,
    /// Bytes of changes not yet being written, and of the undo data of all pending changes.
    pub pending_bytes: usize,
    /// Age of the oldest change that is not on disk yet, in milliseconds.
    pub lag_ms: u64,
    /// Batches written.
    pub batches: Durations,
    /// Duration of the last batch, in microseconds.
    pub last_batch_us: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Bytes of all rows in it.
    pub content_bytes: u64,
}

/// Every error code of the control port. Codes not seen yet are exported as 0, so that the first
/// occurrence shows as an increase.
pub const ERROR_CODES: [u16; 12] = [300, 301, 302, 305, 306, 309, 311, 312, 313, 314, 343, 404];

/// Counters since the start.
#[derive(Debug)]
pub struct Metrics {
    /// Connections accepted.
    pub opened: u64,
    /// Of those, the ones on the web listener.
    pub web_opened: u64,
    /// Of the web connections, the ones that have ended.
    pub web_closed: u64,
    /// Connections ended, by [`CloseReason`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Commands of back ends.
    pub commands: u64,
    /// Commands answered with an error, by code; those of [`ERROR_CODES`] are always listed.
    pub refused: Vec<(u16, u64)>,
    /// Commands with a wrong namespace key (305) or server key (306).
    pub wrong_keys: u64,
    /// Commands that the store refused (302).
    pub store_failures: u64,
    /// Commands refused because of a limit on namespaces, grants or states (313).
    pub over_limits: u64,
    /// Messages published, whether or not anybody received them.
    pub publications: u64,
    /// Messages handed to subscribers.
    pub deliveries: u64,
    /// Emits to several channels with more deliveries than one turn has room for.
    pub long_emits: u64,
    /// Connections that were not accepted, by [`TurnedAway`].
    pub turned_away: [u64; TurnedAway::ALL.len()],
    /// How often a browser was not read because it sent too fast.
    pub browsers_held: u64,
    /// How often back ends had to wait because waiting publications took too much memory.
    pub floods: u64,
    /// How often requests had to wait because waiting answers took too much memory.
    pub shortages: u64,
}

/// A snapshot of the counters that an operator may want to act on.
#[derive(Clone, Debug)]
pub struct Refusals {
    closed: [u64; CloseReason::ALL.len()],
    wrong_keys: u64,
    store_failures: u64,
    over_limits: u64,
    turned_away: u64,
    floods: u64,
    shortages: u64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let closed = [0; CloseReason::ALL.len()];
        Metrics {
            opened: 0,
            web_opened: 0,
            web_closed: 0,
            closed,
            commands: 0,
            refused: ERROR_CODES.map(|code| (code, 0)).into(),
            wrong_keys: 0,
            store_failures: 0,
            over_limits: 0,
            publications: 0,
            deliveries: 0,
            long_emits: 0,
            turned_away: [0; TurnedAway::ALL.len()],
            browsers_held: 0,
            floods: 0,
            shortages: 0,
        }
    }
}

impl Metrics {
    /// Counts the end of a connection.
    pub fn count_closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// Counts commands answered with this error.
    pub fn count_refused(&mut self, code: u16, count: u64) {
        match self.refused.iter_mut().find(|(known, _)| *known == code) {
            Some((_, counted)) => *counted += count,
            None => self.refused.push((code, count)),
        }
    }

    /// A snapshot of the refusals up to now.
    pub fn refusals(&self) -> Refusals {
        Refusals {
            closed: self.closed,
            wrong_keys: self.wrong_keys,
            store_failures: self.store_failures,
            over_limits: self.over_limits,
            turned_away: self.turned_away.iter().sum(),
            floods: self.floods,
            shortages: self.shortages,
        }
    }

    /// Lists what was refused since `before`, as in `invalid_token 3, no_heartbeat 1`: connections
    /// by close reason and commands by error. Empty if nothing was.
    pub fn refusals_since(&self, before: &Refusals) -> String {
        let ended = CloseReason::ALL.iter().filter(|reason| !reason.is_ordinary()).map(|reason| {
            let i = *reason as usize;
            (reason.label(), self.closed[i] - before.closed[i])
        });
        let commands = [
            ("wrong_key", self.wrong_keys - before.wrong_keys),
            ("store_failure", self.store_failures - before.store_failures),
            ("over_limit", self.over_limits - before.over_limits),
            ("turned_away", self.turned_away.iter().sum::<u64>() - before.turned_away),
            ("flood", self.floods - before.floods),
            ("shortage", self.shortages - before.shortages),
        ];
        let mut text = String::new();
        for (what, count) in ended.chain(commands).filter(|(_, count)| *count > 0) {
            let comma = if text.is_empty() { "" } else { ", " };
            let _ = write!(text, "{comma}{what} {count}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let mut durations = Durations::default();
        for us in [0, 100, 101, 5000, 5001, 1_000_000, 1_000_001, u64::MAX] {
            durations.record(us);
        }
        assert_eq!(durations.counts, [2, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((durations.count(), durations.sum_us), (8, u64::MAX));
    }

    #[test]
    fn only_refusals_are_summarized() {
        let mut metrics = Metrics::default();
        metrics.count_closed(CloseReason::PeerClosed);
        let before = metrics.refusals();
        metrics.count_closed(CloseReason::PeerClosed);
        assert_eq!(metrics.refusals_since(&before), "");
        metrics.count_closed(CloseReason::BadHttp);
        metrics.count_closed(CloseReason::InvalidToken);
        metrics.count_closed(CloseReason::InvalidToken);
        metrics.wrong_keys += 1;
        metrics.turned_away = [2, 1];
        let told = "invalid_token 2, bad_http 1, wrong_key 1, turned_away 3";
        assert_eq!(metrics.refusals_since(&before), told);
    }
}
