//! Whether the disk can be written, and what the log says of it.

use super::disk::Fault;
use crate::log::{self, Count};
use crate::time::{Millis, Now, UnixMillis};

/// The log has no other reasons than one for so long.
const SILENCE_MS: u64 = 10_000;

/// Whether the disk can be written.
#[derive(Debug, Default)]
pub(super) struct Health(Option<Failing>);

/// It cannot.
#[derive(Debug)]
struct Failing {
    since: UnixMillis,
    /// How many changes were refused: those that were not durable at that moment, and all since.
    refused: u64,
    /// The reason that the log has, and until when it is to have no other.
    told: Fault,
    silent_until: Millis,
}

impl Health {
    /// Whether it can be written.
    pub fn is_good(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a change is refused, which is counted then.
    pub fn refuses(&mut self) -> bool {
        self.0.as_mut().map(|failing| failing.refused += 1).is_some()
    }

    /// It cannot be written, for this reason, and so many changes are refused.
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

    /// It was tried again, and cannot be written for this reason, which may be another one.
    pub fn still(&mut self, fault: Fault, now: Now) {
        let Some(failing) = &mut self.0 else { return };
        if failing.told != fault && failing.silent_until <= now.mono {
            log::error(now.unix, format_args!("the store still cannot be written ({fault})"));
            failing.told = fault;
            failing.silent_until = now.mono.plus(SILENCE_MS);
        }
    }

    /// It can be written again.
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
