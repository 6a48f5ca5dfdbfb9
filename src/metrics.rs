//! Counters of what happened; plain numbers, kept by those to whom it happened: the switch, a
//! reactor, a journal. Counting is an addition; whoever wants to see the numbers pays for the rest.

pub mod families;

use std::fmt::Write;

use crate::edge::TurnedAway;
use crate::reason::CloseReason;

pub use families::{Family, MetricKind};

/// Upper bounds of the buckets of [`Durations`], in microseconds.
pub const BUCKETS_US: [u64; 13] =
    [100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/// How long something took, counted by how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durations {
    /// How many fell into each bucket of [`BUCKETS_US`] and into none before it; the last counts
    /// those that were longer than all.
    pub counts: [u64; BUCKETS_US.len() + 1],
    /// All of them together, in microseconds.
    pub sum_us: u64,
}

impl Durations {
    /// Counts one more.
    pub fn record(&mut self, us: u64) {
        let bucket = BUCKETS_US.iter().position(|bound| us <= *bound);
        self.counts[bucket.unwrap_or(BUCKETS_US.len())] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// What a reactor counts.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    /// Connections, those that are closing included.
    pub sockets: usize,
    /// Bytes read from all of them.
    pub received_bytes: u64,
    /// Bytes that the kernel has taken for all of them.
    pub sent_bytes: u64,
    /// Bytes that wait for the kernel to take them.
    pub queued_bytes: usize,
    /// Frames that wait for the kernel to take them.
    pub queued_frames: usize,
    /// Bytes of browsers that have been read and wait to be understood or heard.
    pub input_bytes: usize,
    /// How often one of them had to go because that was too much.
    pub input_evicted: u64,
    /// Memory of all publications that wait for somebody, each counted once.
    pub kept_bytes: usize,
    /// Memory of the answers that wait, each counted once.
    pub answers_bytes: usize,
    /// Peers that do not take at once what is published to them.
    pub watched: usize,
    /// Turns of the loop, without the time in which it waited.
    pub turns: Durations,
    /// Milliseconds in which the process stood still.
    pub stood_still_ms: u64,
    /// A signal to stop has come.
    pub is_draining: bool,
}

/// What the system knows of the process; `None` where it does not tell.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Memory in use.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// File descriptors that it may have.
    pub max_fds: Option<u64>,
    /// Processor time, of the user and of the system.
    pub cpu_ms: Option<u64>,
}

/// What a journal with a store counts.
#[derive(Clone, Debug, Default)]
pub struct StoreMeters {
    /// Changes are refused now.
    pub is_failing: bool,
    /// Times that it began to fail.
    pub failures: u64,
    /// Changes refused.
    pub refused_changes: u64,
    /// Changes that are not on disk yet.
    pub pending_changes: usize,
    /// Bytes of those that are not on their way yet, and of how to take back all of them.
    pub pending_bytes: usize,
    /// Age of the oldest change that is not on disk, in milliseconds.
    pub lag_ms: u64,
    /// Batches written.
    pub batches: Durations,
    /// Time of the last of them, in microseconds.
    pub last_batch_us: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Bytes of all rows in it.
    pub content_bytes: u64,
}

/// Every code of an error on the control port: those that have not been seen are shown as 0, so
/// that their first one shows as a rise.
pub const ERROR_CODES: [u16; 12] = [300, 301, 302, 305, 306, 309, 311, 312, 313, 314, 343, 404];

/// What happened since the start.
#[derive(Debug)]
pub struct Metrics {
    /// Connections let in.
    pub opened: u64,
    /// Those of them that came through the web door.
    pub web_opened: u64,
    /// Of those, the ones that have ended.
    pub web_closed: u64,
    /// Connections ended, by [`CloseReason`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Commands of back ends.
    pub commands: u64,
    /// Commands answered with an error, by its code; those of [`ERROR_CODES`] from the start.
    pub refused: Vec<(u16, u64)>,
    /// Commands with a wrong namespace key (305) or server key (306).
    pub wrong_keys: u64,
    /// Commands that the store refused (302).
    pub store_failures: u64,
    /// Commands that would have passed a limit of namespaces, grants or states (313).
    pub over_limits: u64,
    /// Messages published, whether or not anybody heard them.
    pub publications: u64,
    /// Messages handed to subscribers.
    pub deliveries: u64,
    /// Emits to several channels that had more to hand out than one turn has room for.
    pub long_emits: u64,
    /// Connections that were not let in, by [`TurnedAway`].
    pub turned_away: [u64; TurnedAway::ALL.len()],
    /// Times that a browser was not read because it spoke too fast.
    pub browsers_held: u64,
    /// Times that back ends had to wait because what is published to browsers took too much memory.
    pub floods: u64,
    /// Times that requests had to wait because answers that wait took too much memory.
    pub shortages: u64,
}

/// What an operator may want to act on, up to some moment.
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

    /// Counts so many commands that were answered with this error.
    pub fn count_refused(&mut self, code: u16, count: u64) {
        match self.refused.iter_mut().find(|(known, _)| *known == code) {
            Some((_, counted)) => *counted += count,
            None => self.refused.push((code, count)),
        }
    }

    /// The refusals up to now.
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

    /// `invalid_token 3, no_heartbeat 1`: what was refused since `before`, connections by the
    /// reason of their end and commands by their error. Empty if nothing was.
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
    fn only_refusals_are_told() {
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
