//! Rate limit for browsers: a token bucket, with one token per message or frame. A browser without
//! tokens is not read; none of its input is lost, unless it leaves meanwhile. It uses only the time
//! of the turn, and scans nothing. Called by `socket` and `transports`.

use crate::limits::Limits;
use crate::time::Millis;

/// Input that waits for tokens is read again each time some are back. To cost no more than so many
/// bytes a second, and a wake-up per message, a browser waits for one token if little input waits,
/// and for more the more waits; at most about a second's worth.
const REREAD_BYTES_PER_SECOND: u64 = 16 * 1024;
/// Clock units per token. A rate in tokens per second is the same in units per millisecond.
const TOKEN: u64 = 1000;

/// The rate, the same for all browsers, and its clock, which counts the units refilled since the
/// start. So tokens come back at the rate in force, whatever it was when they were spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Tokens refilled per second.
    rate: u64,
    /// When this rate began, and the clock then.
    since: (Millis, u64),
    /// The capacity of a bucket, in tokens.
    burst: u64,
    /// About a second's tokens: a browser waits for no more than these before it is read again.
    refill: u64,
}

/// The token bucket of one browser.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// The clock when the bucket is full.
    full_at: u64,
}

impl Pace {
    /// The rate from the start on.
    pub fn new(limits: &Limits) -> Pace {
        Pace::since((Millis(0), 0), limits)
    }

    /// Changes the rate from now on.
    pub fn change(&mut self, limits: &Limits, now: Millis) {
        *self = Pace::since((now, self.clock(now)), limits);
    }

    fn since(since: (Millis, u64), limits: &Limits) -> Pace {
        let (rate, burst) = (limits.messages_per_second as u64, limits.messages_burst as u64);
        Pace { rate, since, burst, refill: rate.clamp(1, burst) }
    }

    fn clock(&self, now: Millis) -> u64 {
        let (Millis(since), shown) = self.since;
        shown.saturating_add(now.0.saturating_sub(since).saturating_mul(self.rate))
    }

    /// The time at which the clock has that value.
    fn moment(&self, shown: u64) -> Millis {
        let (since, before) = self.since;
        since.plus(shown.saturating_sub(before).div_ceil(self.rate.max(1)))
    }

    /// The tokens to wait for before reading a browser with so many bytes of waiting input.
    fn worth(&self, waiting: usize) -> u64 {
        let share = self.refill.saturating_mul(waiting as u64) / REREAD_BYTES_PER_SECOND;
        share.clamp(1, self.refill)
    }
}

impl Bucket {
    /// Spends tokens, possibly more than there are: then the next message waits longer.
    pub fn take(&mut self, pace: &Pace, now: Millis, count: usize) {
        let spent = TOKEN.saturating_mul(count as u64);
        self.full_at = self.full_at.max(pace.clock(now)).saturating_add(spent);
    }

    /// Whether there is no token now.
    pub fn is_spent(&self, pace: &Pace, now: Millis) -> bool {
        self.back(pace, 1) > pace.clock(now)
    }

    /// When a browser without tokens, and with so many bytes of input waiting, is to be read again.
    pub fn again(&self, pace: &Pace, waiting: usize) -> Millis {
        pace.moment(self.back(pace, pace.worth(waiting)))
    }

    /// The clock when so many tokens are back.
    fn back(&self, pace: &Pace, count: u64) -> u64 {
        self.full_at.saturating_sub(TOKEN * (pace.burst - count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So much waiting input that the next read waits for a second's tokens.
    const MUCH: usize = 64 * 1024;

    /// When a browser with much waiting input is to be read again; `None` if now.
    fn wait(bucket: Bucket, pace: &Pace, now: Millis) -> Option<Millis> {
        bucket.is_spent(pace, now).then(|| bucket.again(pace, MUCH))
    }

    #[test]
    fn a_burst_is_allowed_and_then_a_fixed_rate_per_second() {
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
        // An overdraft delays later reads.
        now = now.plus(1000);
        bucket.take(&pace, now, 60);
        assert_eq!(bucket.again(&pace, MUCH), now.plus(3000));
        assert_eq!(bucket.again(&pace, 10), now.plus(2050));
        // Silence fills the bucket, but no further.
        now = now.plus(3_600_000);
        bucket.take(&pace, now, 200);
        assert!(bucket.is_spent(&pace, now));
    }

    #[test]
    fn spent_tokens_are_refilled_at_the_rate_in_force() {
        let limits = |messages_per_second| Limits { messages_per_second, ..Limits::default() };
        let (mut pace, mut bucket) = (Pace::new(&limits(1)), Bucket::default());
        let now = Millis(1_000_000);
        bucket.take(&pace, now, 150);
        assert_eq!(wait(bucket, &pace, now), None);
        // A higher rate does not hold back a browser within the limit.
        pace.change(&limits(100), now);
        assert_eq!(wait(bucket, &pace, now), None);
        bucket.take(&pace, now, 50);
        assert_eq!(wait(bucket, &pace, now), Some(now.plus(1000)));
        // Tokens already refilled stay; the rest is refilled at the new rate.
        let later = now.plus(500);
        pace.change(&limits(10), later);
        assert_eq!(wait(bucket, &pace, later), None);
        bucket.take(&pace, later, 50);
        assert_eq!(wait(bucket, &pace, later), Some(later.plus(1000)));
        pace.change(&limits(20), later);
        assert_eq!(wait(bucket, &pace, later), Some(later.plus(1000)));
    }

    #[test]
    fn extreme_limits_are_handled() {
        for (messages_per_second, messages_burst) in [(1, 1), (1_000_000, 1), (1, 1_000_000)] {
            let limits = Limits { messages_per_second, messages_burst, ..Limits::default() };
            let (pace, mut bucket) = (Pace::new(&limits), Bucket::default());
            assert_eq!(wait(bucket, &pace, Millis(0)), None);
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
