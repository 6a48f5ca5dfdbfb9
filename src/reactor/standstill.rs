//! Standstills: times when the process did not run, because of a pause of its container or machine,
//! a debugger, or a busy host. What peers sent meanwhile is in the kernel, and a peer that did what
//! it should must not be cut for it. The same holds for a turn that itself took so long, which from
//! within looks the same. Part of the reactor, whose turn calls it.

use std::time::Duration;

use super::Reactor;
use crate::edge::Handler;
use crate::time::{Millis, Stopwatch};

/// On a machine that runs, no turn begins this much later than its poll should have ended.
const STANDSTILL_MS: u64 = 1000;

/// The standstills so far.
#[derive(Debug, Default)]
pub(super) struct Standstills {
    /// They are left out of the time of the turns.
    pub are_forgiven: bool,
    /// Milliseconds of all that were left out: how far the turns' time is behind the clock.
    pub ms: u64,
    /// The last turn followed a standstill that was left out.
    is_behind_one: bool,
}

impl Standstills {
    /// Returns how many of the milliseconds between two turns to leave out, if the second asked to
    /// wait for `asked`. Never twice in a row: where every turn is late, deadlines must still pass.
    fn between(&mut self, ms: u64, asked: Option<Duration>) -> u64 {
        let asked = asked.map_or(u64::MAX, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        let is_one = self.are_forgiven && ms > asked.saturating_add(STANDSTILL_MS);
        let is_forgiven = is_one && !self.is_behind_one;
        self.is_behind_one = is_forgiven;
        if is_forgiven { ms } else { 0 }
    }
}

impl Reactor {
    /// From now on leaves out the times when the process did not run for a second or more: every
    /// deadline is as far away afterwards as before.
    pub fn forgive_standstills(&mut self) {
        self.standstills.are_forgiven = true;
        self.io.now = self.read_clock(&Stopwatch::start());
    }

    /// Returns the milliseconds since the start, standstills included.
    pub fn uptime(&self) -> Millis {
        self.io.now.mono.plus(self.standstills.ms)
    }

    /// The time at which the stopwatch was started, just now, less the standstills.
    pub(super) fn read_clock(&self, watch: &Stopwatch) -> crate::time::Now {
        let now = self.clock.at(watch);
        let mono = Millis(now.mono.0.saturating_sub(self.standstills.ms));
        crate::time::Now { mono, ..now }
    }

    /// Begins a turn whose poll was asked to wait for `asked` at most.
    pub(super) fn begin(
        &mut self,
        handler: &mut impl Handler,
        watch: &Stopwatch,
        asked: Option<Duration>,
    ) {
        let (before, now) = (self.io.now.mono, self.read_clock(watch));
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
                "the process stood still for {seconds}.{tenths} s (paused, without a processor, \
                 or in one turn); nobody is closed for that"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_much_later_than_its_timeout_is_a_standstill() {
        let mut it = Standstills { are_forgiven: true, ..Standstills::default() };
        let asked = |ms| Some(Duration::from_millis(ms));
        assert_eq!(it.between(8000, asked(8000)), 0);
        assert_eq!(it.between(9000, asked(8000)), 0);
        assert_eq!(it.between(9001, asked(8000)), 9001);
        assert_eq!(it.between(1001, asked(0)), 0, "not after another standstill");
        assert_eq!(it.between(1001, asked(0)), 1001);
        assert_eq!(it.between(3, asked(0)), 0);
        // Without a timeout no turn is late.
        assert_eq!(it.between(9_000_000, None), 0);
        let mut it = Standstills::default();
        assert_eq!(it.between(9001, asked(8000)), 0, "standstills are not forgiven");
    }
}
