//! Counters of what happened; plain numbers, kept by the switch.

use std::fmt::Write;

use crate::reason::CloseReason;

/// What happened since the start.
#[derive(Debug)]
pub struct Metrics {
    /// Connections let in.
    pub opened: u64,
    /// Connections ended, by [`CloseReason`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Commands of back ends.
    pub commands: u64,
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
    /// Connections that were not let in, because there was no room.
    pub turned_away: u64,
    /// Times that a browser was not read because it spoke too fast.
    pub browsers_held: u64,
}

/// What an operator may want to act on, up to some moment.
#[derive(Clone, Debug)]
pub struct Refusals {
    closed: [u64; CloseReason::ALL.len()],
    wrong_keys: u64,
    store_failures: u64,
    over_limits: u64,
    turned_away: u64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let closed = [0; CloseReason::ALL.len()];
        Metrics {
            opened: 0,
            closed,
            commands: 0,
            wrong_keys: 0,
            store_failures: 0,
            over_limits: 0,
            publications: 0,
            deliveries: 0,
            turned_away: 0,
            browsers_held: 0,
        }
    }
}

impl Metrics {
    /// Counts the end of a connection.
    pub fn count_closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// The refusals up to now.
    pub fn refusals(&self) -> Refusals {
        Refusals {
            closed: self.closed,
            wrong_keys: self.wrong_keys,
            store_failures: self.store_failures,
            over_limits: self.over_limits,
            turned_away: self.turned_away,
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
            ("turned_away", self.turned_away - before.turned_away),
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
        metrics.turned_away += 3;
        let told = "invalid_token 2, bad_http 1, wrong_key 1, turned_away 3";
        assert_eq!(metrics.refusals_since(&before), told);
    }
}
