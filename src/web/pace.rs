//! How fast a browser may speak: a bucket of tokens, one for each message or frame, which come back
//! with time. Whoever has none left is not read; nothing of what it says is lost, unless it goes
//! meanwhile. It knows the time of the turn alone, and costs nobody a scan. Called by `socket` and
//! `transports`.

use crate::limits::Limits;
use crate::time::Millis;

/// What waits for tokens is read once more each time some are there. So that this costs no more
/// than so many bytes a second, and a wake-up for each message, the tokens come back one by one for
/// whoever has said little, and more at a time the more waits; about a second's at most.
const REREAD_BYTES_PER_SECOND: u64 = 16 * 1024;
/// Thousandths of a token, which is what comes back in a millisecond for each token in a second.
const TOKEN: u64 = 1000;

/// The rule, which is the same for all, and its clock. That counts the tokens that have come back
/// since the start, so that what somebody has spent comes back at the pace in force, whatever that
/// was when it was spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Tokens that come back in a second.
    rate: u64,
    /// Since when they do, and what the clock showed then.
    since: (Millis, u64),
    /// Tokens that a bucket holds.
    burst: u64,
    /// About a second's: whoever is held back is heard again when so many are there, at the latest.
    refill: u64,
}

/// What one browser has left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    /// What the clock of the pace shows when all tokens are back.
    full_at: u64,
}

impl Pace {
    /// The pace from the start on.
    pub fn new(limits: &Limits) -> Pace {
        Pace::since((Millis(0), 0), limits)
    }

    /// The pace from now on.
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

    /// When the clock shows that.
    fn moment(&self, shown: u64) -> Millis {
        let (since, before) = self.since;
        since.plus(shown.saturating_sub(before).div_ceil(self.rate.max(1)))
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
        let spent = TOKEN.saturating_mul(count as u64);
        self.full_at = self.full_at.max(pace.clock(now)).saturating_add(spent);
    }

    /// Whether the browser may not speak now.
    pub fn is_spent(&self, pace: &Pace, now: Millis) -> bool {
        self.back(pace, 1) > pace.clock(now)
    }

    /// When a browser that may not speak, and of which so many bytes wait, is to be heard again.
    pub fn again(&self, pace: &Pace, waiting: usize) -> Millis {
        pace.moment(self.back(pace, pace.worth(waiting)))
    }

    /// What the clock shows when so many tokens are back.
    fn back(&self, pace: &Pace, count: u64) -> u64 {
        self.full_at.saturating_sub(TOKEN * (pace.burst - count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So much waits that a second's tokens are worth it.
    const MUCH: usize = 64 * 1024;

    /// When somebody of whom much waits is to be heard again, unless that is now.
    fn wait(bucket: Bucket, pace: &Pace, now: Millis) -> Option<Millis> {
        bucket.is_spent(pace, now).then(|| bucket.again(pace, MUCH))
    }

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
    fn what_was_spent_comes_back_at_the_pace_in_force() {
        let limits = |messages_per_second| Limits { messages_per_second, ..Limits::default() };
        let (mut pace, mut bucket) = (Pace::new(&limits(1)), Bucket::default());
        let now = Millis(1_000_000);
        bucket.take(&pace, now, 150);
        assert_eq!(wait(bucket, &pace, now), None);
        // Who speaks within the limit is not held back because there is more for all.
        pace.change(&limits(100), now);
        assert_eq!(wait(bucket, &pace, now), None);
        bucket.take(&pace, now, 50);
        assert_eq!(wait(bucket, &pace, now), Some(now.plus(1000)));
        // What has come back stays, and the rest takes the time that it takes from now on.
        let later = now.plus(500);
        pace.change(&limits(10), later);
        assert_eq!(wait(bucket, &pace, later), None);
        bucket.take(&pace, later, 50);
        assert_eq!(wait(bucket, &pace, later), Some(later.plus(1000)));
        pace.change(&limits(20), later);
        assert_eq!(wait(bucket, &pace, later), Some(later.plus(1000)));
    }

    #[test]
    fn the_extremes_hold() {
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
