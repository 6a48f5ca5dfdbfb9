//! How fast a browser may speak: a bucket of tokens, one for each message or frame, which come back
//! with time. Whoever has none left is not read; nothing of what it says is lost, unless it goes
//! meanwhile. It knows the time of the turn alone, and costs nobody a scan. Called by `socket` and
//! `transports`.

use crate::limits::Limits;
use crate::time::Millis;

/// The rule, which is the same for all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Microseconds in which one token comes back.
    token_us: u64,
    /// Tokens that a bucket holds.
    burst: u64,
    /// Whoever is held back is heard again when so many tokens are there: about a second's, because
    /// each time costs as much as what waits is long.
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
}

impl Bucket {
    /// So much has been said. It may be more than there were tokens: then the next waits longer.
    pub fn take(&mut self, pace: &Pace, now: Millis, count: usize) {
        let spent_us = pace.token_us.saturating_mul(count as u64);
        let from_us = self.full_at_us.max(now.0.saturating_mul(1000));
        self.full_at_us = from_us.saturating_add(spent_us);
    }

    /// When the browser is to be heard again; `None` if it may speak.
    pub fn wait(&self, pace: &Pace, now: Millis) -> Option<Millis> {
        let back_us = |count: u64| {
            self.full_at_us.saturating_sub(pace.token_us.saturating_mul(pace.burst - count))
        };
        let is_there = back_us(1) <= now.0.saturating_mul(1000);
        (!is_there).then(|| Millis(back_us(pace.refill).div_ceil(1000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_heard_and_then_so_many_a_second() {
        let limits = Limits { messages_per_second: 20, messages_burst: 200, ..Limits::default() };
        let (pace, mut bucket) = (Pace::new(&limits), Bucket::default());
        let mut now = Millis(1_000_000);
        for _ in 0..200 {
            assert_eq!(bucket.wait(&pace, now), None);
            bucket.take(&pace, now, 1);
        }
        assert_eq!(bucket.wait(&pace, now), Some(now.plus(1000)));
        assert_eq!(bucket.wait(&pace, now.plus(49)), Some(now.plus(1000)));
        now = now.plus(1000);
        for _ in 0..20 {
            assert_eq!(bucket.wait(&pace, now), None);
            bucket.take(&pace, now, 1);
        }
        assert_eq!(bucket.wait(&pace, now), Some(now.plus(1000)));
        // More than there was is paid for afterwards.
        now = now.plus(1000);
        bucket.take(&pace, now, 60);
        assert_eq!(bucket.wait(&pace, now), Some(now.plus(3000)));
        // And silence fills the bucket, not more.
        now = now.plus(3_600_000);
        bucket.take(&pace, now, 200);
        assert!(bucket.wait(&pace, now).is_some());
    }

    #[test]
    fn the_extremes_hold() {
        for (messages_per_second, messages_burst) in [(1, 1), (1_000_000, 1), (1, 1_000_000)] {
            let limits = Limits { messages_per_second, messages_burst, ..Limits::default() };
            let (pace, mut bucket) = (Pace::new(&limits), Bucket::default());
            assert_eq!(bucket.wait(&pace, Millis(0)), None);
            bucket.take(&pace, Millis(0), messages_burst);
            let again = bucket.wait(&pace, Millis(0)).unwrap();
            assert_eq!(bucket.wait(&pace, again), None);
            bucket.take(&pace, Millis(u64::MAX), usize::MAX);
            bucket.wait(&pace, Millis(u64::MAX));
        }
    }
}
