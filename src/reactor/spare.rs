//! Spare descriptors for when none are left: closing one lets one more back end or admin client in.
//! Also decides when to accept again after that. Part of the reactor, which accepts.

use std::fs::File;
use std::io;

use super::listener::Listener;
use super::stream::Stream;
use super::{REPEAT_MS, Reactor};
use crate::address::Address;
use crate::edge::Door;
use crate::time::Millis;

/// Back ends accepted although no descriptors are left, and one more admin client.
const SPARES: usize = 4 + FOR_ADMINS;
const FOR_ADMINS: usize = 1;
/// Pause in accepting after the kernel ran out of descriptors or memory.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Open files whose only use is that each can be closed.
#[derive(Debug, Default)]
pub(super) struct Spares(Vec<File>);

impl Spares {
    /// Opens the missing ones, as far as that is possible.
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

    /// Accepts a connection; for a back end or admin client in place of a spare, if need be.
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
            // The kernel reports that there is no descriptor before it checks whether a connection
            // is waiting. If none is, the descriptor just freed must not go to the next browser.
            self.refill();
        }
        accepted
    }
}

impl Reactor {
    /// Pauses accepting, because descriptors or kernel memory have run out. Logs this once, until a
    /// connection could be accepted again.
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

    /// Returns when to accept again. If sockets have closed since accepting failed, their
    /// descriptors are free: no pause then. Otherwise a crowd that has given up in the kernel's
    /// queue would take minutes to clear, a few connections after each pause.
    pub(super) fn accept_from(&self) -> Millis {
        let has_room = self.sockets() < self.starved_sockets;
        if has_room { Millis(0) } else { self.accept_at }
    }

    fn sockets(&self) -> usize {
        self.io.connections() + self.io.admins()
    }
}

/// Returns whether the process, or the machine, has no descriptor left.
fn is_starved(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(errno, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}
