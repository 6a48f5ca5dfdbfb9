//! Tracks whether the disk can be written, and logs when that changes.

use super::disk::Fault;
use crate::log::{self, Count};
use crate::time::{Millis, Now, UnixMillis};

/// Minimum time between two log lines with different reasons.
const SILENCE_MS: u64 = 10_000;

/// Whether the disk can be written; `None` if it can.
#[derive(Debug, Default)]
pub(super) struct Health(Option<Failing>);

/// State of a disk that cannot be written.
#[derive(Debug)]
struct Failing {
    since: UnixMillis,
    /// Refused changes: those that were not durable when it failed, and all since.
    refused: u64,
    /// The reason that was last logged, and the time before which no other one is logged.
    told: Fault,
    silent_until: Millis,
}

impl Health {
    /// Returns whether the disk can be written.
    pub fn is_good(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether a change must be refused, and counts it if so.
    pub fn refuses(&mut self) -> bool {
        self.0.as_mut().map(|failing| failing.refused += 1).is_some()
    }

    /// Records that the disk cannot be written, for this reason, which refuses this many changes.
    pub fn fail(&mut self, fault: Fault, refused: u64, now: Now) {
        if self.0.is_some() {
            return;
        }
        log::error(
            now.unix,
            format_args!(
                "the store cannot be written ({fault}): changes are refused with 302 until it \
                 can, everything else goes on"
            ),
        );
        let (since, silent_until) = (now.unix, now.mono);
        self.0 = Some(Failing { since, refused, told: fault, silent_until });
    }

    /// Records that a retry failed, possibly for another reason.
    pub fn still(&mut self, fault: Fault, now: Now) {
        let Some(failing) = &mut self.0 else { return };
        if failing.told != fault && failing.silent_until <= now.mono {
            log::error(now.unix, format_args!("the store still cannot be written ({fault})"));
            failing.told = fault;
            failing.silent_until = now.mono.plus(SILENCE_MS);
        }
    }

    /// Records that the disk can be written again.
    pub fn recover(&mut self, now: Now) {
        let Some(Failing { since, refused, .. }) = self.0.take() else { return };
        let seconds = now.unix.seconds().saturating_sub(since.seconds());
        let refused = Count(refused, "change was", "changes were");
        log::info(
            now.unix,
            format_args!(
                "the store can be written again, after {seconds} s in which {refused} refused"
            ),
        );
    }
}
