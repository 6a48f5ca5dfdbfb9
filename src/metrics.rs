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
    /// Messages published, whether or not anybody heard them.
    pub publications: u64,
    /// Messages handed to subscribers.
    pub deliveries: u64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let closed = [0; CloseReason::ALL.len()];
        Metrics { opened: 0, closed, commands: 0, publications: 0, deliveries: 0 }
    }
}

impl Metrics {
    /// Counts the end of a connection.
    pub fn count_closed(&mut self, reason: CloseReason) {
        self.closed[reason as usize] += 1;
    }

    /// `invalid_token 3, no_heartbeat 1`: connections ended since `before` for a reason that an
    /// operator may want to act on. Empty if there were none.
    pub fn refusals_since(&self, before: &[u64; CloseReason::ALL.len()]) -> String {
        let mut text = String::new();
        for (i, reason) in CloseReason::ALL.iter().enumerate() {
            let count = self.closed[i] - before[i];
            if count > 0 && !reason.is_ordinary() {
                let comma = if text.is_empty() { "" } else { ", " };
                let _ = write!(text, "{comma}{reason} {count}");
            }
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
        let before = metrics.closed;
        metrics.count_closed(CloseReason::PeerClosed);
        assert_eq!(metrics.refusals_since(&before), "");
        metrics.count_closed(CloseReason::BadHttp);
        metrics.count_closed(CloseReason::InvalidToken);
        metrics.count_closed(CloseReason::InvalidToken);
        assert_eq!(metrics.refusals_since(&before), "invalid_token 2, bad_http 1");
    }
}
