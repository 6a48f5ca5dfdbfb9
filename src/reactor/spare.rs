//! Descriptors that are kept for the day on which there are none: with each of them one more back
//! end gets in, or one who watches; and when the doors are asked again. Part of the reactor, which
//! accepts.

use std::fs::File;
use std::io;

use super::listener::Listener;
use super::stream::Stream;
use super::{REPEAT_MS, Reactor};
use crate::address::Address;
use crate::edge::Door;
use crate::time::Millis;

/// So many back ends get in although there are no descriptors any more, and one more who watches.
const SPARES: usize = 4 + FOR_ADMINS;
const FOR_ADMINS: usize = 1;
/// Pause in accepting after the kernel ran out of descriptors or memory.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Open files of no use but that each can be closed.
#[derive(Debug, Default)]
pub(super) struct Spares(Vec<File>);

impl Spares {
    /// Opens those that are missing, as far as that can be.
    pub fn refill(&mut self) {
        while self.0.len() < SPARES
            && let Ok(spare) = File::open("/dev/null")
        {
            self.0.push(spare);
        }
    }

    pub fn is_full(&self) -> bool {
        self.0.len() == SPARES
    }

    /// Accepts one; a back end, or who watches, if it must be in place of a spare.
    pub fn accept(&mut self, door: &mut Listener) -> io::Result<(Stream, Address)> {
        let accepted = door.accept();
        let Err(error) = &accepted else { return accepted };
        let others = match door.door {
            Door::Web => SPARES,
            Door::Control => FOR_ADMINS,
            Door::Admin => 0,
        };
        if !is_starved(error) || self.0.len() <= others {
            return accepted;
        }
        self.0.pop();
        let accepted = door.accept();
        if accepted.is_err() {
            // The kernel says that there is no descriptor before it looks whether anybody is there:
            // then this one must not be the next browser's.
            self.refill();
        }
        accepted
    }
}

impl Reactor {
    /// Descriptors or kernel memory have run out: knock again a little later. Said once, until
    /// somebody could be let in again.
    pub(super) fn starve(&mut self, error: &io::Error) {
        let now = self.io.now;
        if !self.is_starved && self.starved_again_at <= now.mono {
            let open = self.io.connections() as u64;
            let open = crate::log::Count(open, "connection is", "connections are");
            let text = format_args!("cannot accept: {error}; {open} open");
            crate::log::warning(now.unix, text);
            self.starved_again_at = now.mono.plus(REPEAT_MS);
            self.is_starved = true;
        }
        self.accept_at = now.mono.plus(ACCEPT_PAUSE_MS);
        self.starved_sockets = self.sockets();
    }

    /// From when on the doors are asked. Whoever has gone since they could not be leaves a
    /// descriptor behind: many who gave up in the kernel's queue would take minutes otherwise, a
    /// few of them after each pause.
    pub(super) fn accept_from(&self) -> Millis {
        let has_room = self.sockets() < self.starved_sockets;
        if has_room { Millis(0) } else { self.accept_at }
    }

    fn sockets(&self) -> usize {
        self.io.connections() + self.io.admins()
    }
}

/// Whether the process, or the machine, has no descriptor left.
fn is_starved(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}
