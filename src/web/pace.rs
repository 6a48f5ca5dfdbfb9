//! How fast a browser may speak: a bucket of tokens, one for each message or frame, which come back
//! with time. Whoever has none left is not read; nothing of what it says is lost, unless it goes
//! meanwhile. It knows the time of the turn alone, and costs nobody a scan. Called by `socket` and
//! `transports`.

use crate::limits::Limits;
use crate::time::Millis;

/// What waits for tokens is read once more each time some are there. So that this costs no more than
/// so many bytes a second, and a wake-up for each message, the tokens come back one by one for
/// whoever has said little, and more at a time the more waits; about a second's at most.
const REREAD_BYTES_PER_SECOND: u64 = 16 * 1024;

/// The rule, which is the same for all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Microseconds in which one token comes back.
    token_us: u64,
    /// Tokens that a bucket holds.
    burst: u64,
    /// About a second's: whoever is held back is heard again when so many are there, at the latest.
    refill: u64,
}

/// What one browser has left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// Microseconds on the clock of the turns, at which all tokens are back.
    full_at_us: u64,
}

impl Pace {
    pub fn new(limits: &Limits) -> Pace {
        let (rate, burst) = (limits.messages_per_second as u64, limits.messages_burst as u64);
        Pace { token_us: 1_000_000 / rate.clamp(1, 1_000_000), burst, refill: rate.clamp(1, burst) }
    }

    /// Tokens for which it is worth hearing somebody of whom so many bytes wait.
    fn worth(&self, waiting: usize) -> u64 {
        let share = self.refill.saturating_mul(waiting as u64) / REREAD_BYTES_PER_SECOND;
        share.clamp(1, self.refill)
    }
}

impl Bucket {
    /// So much has been said. It may be more than there were tokens: then the next waits longer.
    pub fn take(&mut self, pace: &Pace, now: Millis, count: usize) {
        let spent_us = pace.token_us.saturating_mul(count as u64);
        let from_us = self.full_at_us.max(now.0.saturating_mul(1000));
        self.full_at_us = from_us.saturating_add(spent_us);
    }

    /// Whether the browser may not speak now.
    pub fn is_spent(&self, pace: &Pace, now: Millis) -> bool {
        self.back_us(pace, 1) > now.0.saturating_mul(1000)
    }

    /// When a browser that may not speak, and of which so many bytes wait, is to be heard again.
    pub fn again(&self, pace: &Pace, waiting: usize) -> Millis {
        Millis(self.back_us(pace, pace.worth(waiting)).div_ceil(1000))
    }

    /// When so many tokens are back.
    fn back_us(&self, pace: &Pace, count: u64) -> u64 {
        self.full_at_us.saturating_sub(pace.token_us.saturating_mul(pace.burst - count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a second's worth of re-reading.
    const MUCH: usize = 64 * 1024;

    #[test]
    fn a_burst_is_heard_and_then_so_many_a_second() {
        let limits = Limits { messages_per_second: 20, messages_burst: 200, ..Limits::default() };
        let (pace, mut bucket) = (Pace::new(&limits), Bucket::default());
        let mut now = Millis(1_000_000);
        for _ in 0..200 {
            assert!(!bucket.is_spent(&pace, now));
            bucket.take(&pace, now, 1);
        }
        for (waiting, ms) in [(0, 50), (60, 50), (1639, 100), (8192, 500), (MUCH, 1000)] {
            assert_eq!(bucket.again(&pace, waiting), now.plus(ms), "{waiting}");
        }
        assert!(bucket.is_spent(&pace, now.plus(49)) && !bucket.is_spent(&pace, now.plus(50)));
        now = now.plus(1000);
        for _ in 0..20 {
            assert!(!bucket.is_spent(&pace, now));
            bucket.take(&pace, now, 1);
        }
        assert_eq!(bucket.again(&pace, MUCH), now.plus(1000));
        // More than there was is paid for afterwards.
        now = now.plus(1000);
        bucket.take(&pace, now, 60);
        assert_eq!(bucket.again(&pace, MUCH), now.plus(3000));
        assert_eq!(bucket.again(&pace, 10), now.plus(2050));
        // And silence fills the bucket, not more.
        now = now.plus(3_600_000);
        bucket.take(&pace, now, 200);
        assert!(bucket.is_spent(&pace, now));
    }

    #[test]
    fn the_extremes_hold() {
        for (messages_per_second, messages_burst) in [(1, 1), (1_000_000, 1), (1, 1_000_000)] {
            let limits = Limits { messages_per_second, messages_burst, ..Limits::default() };
            let (pace, mut bucket) = (Pace::new(&limits), Bucket::default());
            assert!(!bucket.is_spent(&pace, Millis(0)));
            bucket.take(&pace, Millis(0), messages_burst);
            for waiting in [0, MUCH, usize::MAX] {
                let again = bucket.again(&pace, waiting);
                assert!(bucket.is_spent(&pace, Millis(0)) && !bucket.is_spent(&pace, again));
            }
            bucket.take(&pace, Millis(u64::MAX), usize::MAX);
            bucket.again(&pace, usize::MAX);
        }
    }
}
