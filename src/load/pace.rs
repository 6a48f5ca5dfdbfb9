//! When messages are due at a fixed rate, independent of earlier ones.

/// A message sent within two ticks of the loop's clock counts as in time, in microseconds.
const TICKS_US: u64 = 2000;

/// A fixed rate from a starting time, in microseconds of some watch.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: u64,
    begun_us: u64,
}

impl Pace {
    pub fn new(per_second: usize) -> Pace {
        Pace { per_second: (per_second as u64).max(1), begun_us: 0 }
    }

    /// Starts: the first message is due now.
    pub fn begin(&mut self, now_us: u64) {
        self.begun_us = now_us;
    }

    /// The number of messages due by now.
    pub fn due_by(&self, now_us: u64) -> u64 {
        let us = now_us.saturating_sub(self.begun_us);
        us.saturating_mul(self.per_second) / 1_000_000 + 1
    }

    /// When a message is due that has this many before it.
    pub fn due_at(&self, before: u64) -> u64 {
        let us = before.saturating_mul(1_000_000).div_ceil(self.per_second);
        self.begun_us.saturating_add(us)
    }

    /// When the latency of a message sent now starts: when it was due, if it is late. Otherwise the
    /// time it waited for a stalled sender would be left out.
    pub fn since(&self, before: u64, now_us: u64) -> u64 {
        let due_us = self.due_at(before);
        if due_us.saturating_add(TICKS_US) < now_us { due_us } else { now_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_at_the_requested_rate() {
        for per_second in [1, 3, 50, 400_000, 999_999, 10_000_000] {
            let (all, mut pace) = (per_second as u64, Pace::new(per_second));
            pace.begin(500);
            assert_eq!((pace.due_by(500), pace.due_at(0)), (1, 500));
            assert_eq!(pace.due_at(7 * all), 7_000_500, "seven seconds for the messages of seven");
            for before in [1, 2, all, 123_456_789] {
                let us = pace.due_at(before);
                assert!(pace.due_by(us) > before && pace.due_by(us - 1) <= before);
            }
        }
    }

    #[test]
    fn the_latency_of_a_late_message_starts_when_it_was_due() {
        let pace = Pace::new(50);
        assert_eq!(pace.since(1, 20_000), 20_000);
        assert_eq!(pace.since(1, 22_000), 22_000, "late by no more than the clock's ticks");
        assert_eq!(pace.since(1, 22_001), 20_000);
    }
}
