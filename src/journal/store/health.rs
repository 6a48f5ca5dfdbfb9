//! Tracks whether the disk can be written, and logs when that changes: a bounded number of lines,
//! also where it changes all the time, as on a disk that has room for small changes only.

use super::disk::Fault;
use crate::log::{self, Count};
use crate::time::{Millis, Now, UnixMillis};

/// Minimum time between two log lines with different reasons; and how long the disk must have been
/// good before that is logged, if it had failed again so soon.
const SILENCE_MS: u64 = 10_000;

/// Whether the disk can be written.
#[derive(Debug, Default)]
pub(super) struct Health {
    is_failing: bool,
    /// What the log says: that it cannot be written, unless this is `None`.
    told: Option<Failing>,
    /// When it could last be written again.
    recovered: Option<Now>,
}

/// State of a disk that cannot be written.
#[derive(Debug)]
struct Failing {
    since: UnixMillis,
    /// Refused changes: those that were not durable when it failed, and all since.
    refused: u64,
    /// The reason that was last logged, and the time before which no other one is logged.
    told: Fault,
    silent_until: Millis,
    /// Whether it had failed only just before.
    is_repeated: bool,
}

impl Health {
    /// Returns whether the disk can be written.
    pub fn is_good(&self) -> bool {
        !self.is_failing
    }

    /// Returns whether a change must be refused, and counts it if so.
    pub fn refuses(&mut self) -> bool {
        if let Some(told) = self.told.as_mut().filter(|_| self.is_failing) {
            told.refused += 1;
        }
        self.is_failing
    }

    /// Records that the disk cannot be written, for this reason, which refuses this many changes.
    pub fn fail(&mut self, fault: Fault, refused: u64, now: Now) {
        if std::mem::replace(&mut self.is_failing, true) {
            return;
        }
        if let Some(told) = &mut self.told {
            told.refused += refused;
            return self.still(fault, now);
        }
        log::error(
            now.unix,
            format_args!(
                "the store cannot be written ({fault}): changes are refused with 302 until it \
                 can, everything else goes on"
            ),
        );
        let (since, silent_until) = (now.unix, now.mono);
        let is_repeated = self.recovered.is_some_and(|at| now.mono < at.mono.plus(SILENCE_MS));
        self.told = Some(Failing { since, refused, told: fault, silent_until, is_repeated });
    }

    /// Records that a retry failed, possibly for another reason.
    pub fn still(&mut self, fault: Fault, now: Now) {
        let Some(failing) = self.told.as_mut().filter(|_| self.is_failing) else { return };
        if failing.told != fault && failing.silent_until <= now.mono {
            log::error(now.unix, format_args!("the store still cannot be written ({fault})"));
            failing.told = fault;
            failing.silent_until = now.mono.plus(SILENCE_MS);
        }
    }

    /// Records that the disk can be written again.
    pub fn recover(&mut self, now: Now) {
        if std::mem::replace(&mut self.is_failing, false) {
            self.recovered = Some(now);
            self.tell(now);
        }
    }

    /// When [`Health::tell`] has something to log, if nothing happens before.
    pub fn due(&self) -> Option<Millis> {
        let failing = self.told.as_ref().filter(|_| !self.is_failing)?;
        let silence = if failing.is_repeated { SILENCE_MS } else { 0 };
        self.recovered.map(|at| at.mono.plus(silence))
    }

    /// Logs that the disk can be written again, as soon as that has lasted long enough.
    pub fn tell(&mut self, now: Now) {
        if self.due().is_some_and(|due| due <= now.mono) {
            self.end(now);
        }
    }

    /// Logs at once that the disk can be written again, if it can, as at a stop.
    pub fn end(&mut self, now: Now) {
        let Some(told) = self.told.take_if(|_| !self.is_failing) else { return };
        let (Failing { since, refused, .. }, until) = (told, self.recovered.unwrap_or(now).unix);
        let seconds = until.seconds().saturating_sub(since.seconds());
        let refused = Count(refused, "change was", "changes were");
        log::info(
            now.unix,
            format_args!(
                "the store can be written again, after {seconds} s in which {refused} refused"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { mono: Millis(ms), unix: UnixMillis(ms) }
    }

    #[test]
    fn a_disk_that_fails_again_and_again_is_logged_once_until_it_is_good_for_a_while() {
        log::mute(true);
        let (mut health, full) = (Health::default(), || Fault::Space("full".into()));
        health.fail(full(), 1, at(0));
        assert!(health.refuses());
        health.recover(at(400));
        assert!(health.told.is_none(), "the first time at once");
        for ms in (500..60_000).step_by(1000) {
            health.fail(full(), 1, at(ms));
            assert!(health.refuses() && !health.is_good());
            assert_eq!(health.due(), None);
            health.recover(at(ms + 400));
            assert!(health.is_good() && !health.refuses());
            health.tell(at(ms + 500));
            assert!(health.told.is_some(), "not while it lasts");
        }
        assert_eq!(health.told.as_ref().unwrap().refused, 2 * 60);
        assert_eq!(health.due(), Some(Millis(69_900)));
        health.tell(at(69_899));
        assert!(health.told.is_some());
        health.tell(at(69_900));
        assert!(health.told.is_none() && health.due().is_none());
        // After a while the next failure is one like the first.
        health.fail(full(), 1, at(90_000));
        health.recover(at(90_400));
        assert!(health.told.is_none());
    }

    #[test]
    fn another_reason_and_a_stop_end_the_silence() {
        log::mute(true);
        let mut health = Health::default();
        let (full, broken) = (|| Fault::Space("full".into()), Fault::Broken("gone".into()));
        for ms in [0, 1000] {
            health.fail(full(), 1, at(ms));
            health.recover(at(ms + 400));
        }
        let told = |health: &Health| health.told.as_ref().map(|it| it.told.clone());
        assert_eq!(told(&health), Some(full()));
        health.fail(broken.clone(), 1, at(2000));
        assert_eq!(told(&health), Some(broken));
        health.end(at(2100));
        assert!(health.told.is_some(), "it cannot be written");
        health.recover(at(2400));
        health.end(at(2500));
        assert!(health.told.is_none() && health.due().is_none());
    }
}
