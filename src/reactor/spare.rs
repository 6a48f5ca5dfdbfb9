//! Descriptors that are kept for the day on which there are none: with each of them one more back
//! end gets in. Part of the reactor, which accepts.

use std::fs::File;
use std::io;

use super::listener::Listener;
use super::stream::Stream;
use crate::address::Address;
use crate::edge::Door;

/// So many back ends get in although there are no descriptors any more.
const SPARES: usize = 4;

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

    /// Accepts one; a back end, if it must be, in place of a spare.
    pub fn accept(&mut self, door: &mut Listener) -> io::Result<(Stream, Address)> {
        let accepted = door.accept();
        let Err(error) = &accepted else { return accepted };
        if door.door != Door::Control || !is_starved(error) || self.0.pop().is_none() {
            return accepted;
        }
        let accepted = door.accept();
        if accepted.is_err() {
            // The kernel says that there is no descriptor before it looks whether anybody is there:
            // then this one must not be the next browser's.
            self.refill();
        }
        accepted
    }
}

/// Whether the process, or the machine, has no descriptor left.
fn is_starved(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}
