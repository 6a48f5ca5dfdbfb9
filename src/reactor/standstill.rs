//! Times in which the process stood still: a pause of its container or machine, a debugger, a host
//! that gave its processor to others. What peers sent meanwhile lies in the kernel, and whoever did
//! what it should is not to be cut because nobody looked. Part of the reactor, whose turn calls it.

use std::time::Duration;

use super::Reactor;
use crate::edge::Handler;
use crate::time::Millis;

/// So much later than it asked to be woken no turn begins on a machine that runs.
const STANDSTILL_MS: u64 = 1000;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Standstills {
    /// They are made good.
    pub are_forgiven: bool,
    /// Milliseconds of all of them: so far is the time of the turns behind the clock.
    pub ms: u64,
    /// The last turn came behind one.
    is_behind_one: bool,
}

impl Standstills {
    /// How much of the time between two turns does not count, in milliseconds, of which the second
    /// asked to wait for no longer than that. Never of two times on end: where every turn is late
    /// deadlines still come.
    fn between(&mut self, ms: u64, asked: Option<Duration>) -> u64 {
        let asked = asked.map_or(u64::MAX, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        let is_one = self.are_forgiven && ms > asked.saturating_add(STANDSTILL_MS);
        let is_forgiven = is_one && !self.is_behind_one;
        self.is_behind_one = is_forgiven;
        if is_forgiven { ms } else { 0 }
    }
}

impl Reactor {
    /// Milliseconds of which the process was not there, for a second and more at a time, are none
    /// from now on: every deadline is as far away behind them as it was before.
    pub fn forgive_standstills(&mut self) {
        self.standstills.are_forgiven = true;
        self.io.now = self.read_clock();
    }

    /// Milliseconds since the start, those in which the process stood still included.
    pub fn uptime(&self) -> Millis {
        self.io.now.mono.plus(self.standstills.ms)
    }

    /// The clock, as the turns have it.
    pub(super) fn read_clock(&self) -> crate::time::Now {
        let now = self.clock.now();
        let mono = Millis(now.mono.0.saturating_sub(self.standstills.ms));
        crate::time::Now { mono, ..now }
    }

    /// A turn begins, that asked to wait for no longer than that.
    pub(super) fn begin(&mut self, handler: &mut impl Handler, asked: Option<Duration>) {
        let (before, now) = (self.io.now.mono, self.read_clock());
        self.io.now = now;
        let ms = self.standstills.between(now.mono.0.saturating_sub(before.0), asked);
        if ms == 0 {
            return;
        }
        self.standstills.ms += ms;
        self.io.now.mono = before;
        self.io.meters.stood_still_ms += ms;
        handler.stood_still(ms);
        let (seconds, tenths) = (ms / 1000, ms % 1000 / 100);
        crate::log::warning(
            now.unix,
            format_args!(
                "the process stood still for {seconds}.{tenths} s (paused, or without a \
                 processor); nobody is let go for that"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_later_than_asked_for_is_one() {
        let mut it = Standstills { are_forgiven: true, ..Standstills::default() };
        let asked = |ms| Some(Duration::from_millis(ms));
        assert_eq!(it.between(8000, asked(8000)), 0);
        assert_eq!(it.between(9000, asked(8000)), 0);
        assert_eq!(it.between(9001, asked(8000)), 9001);
        assert_eq!(it.between(1001, asked(0)), 0, "two on end");
        assert_eq!(it.between(1001, asked(0)), 1001);
        assert_eq!(it.between(3, asked(0)), 0);
        // Nobody waited for anything.
        assert_eq!(it.between(9_000_000, None), 0);
        let mut it = Standstills::default();
        assert_eq!(it.between(9001, asked(8000)), 0, "not asked to forgive");
    }
}
