//! Handles what the kernel reports: connections that can be read or written to, arrivals at
//! listeners, signals. Part of the reactor, whose turn calls it.

use std::io::Read;

use mio::Events;

use super::Reactor;
use super::peer::{Phase, flag};
use crate::reason::CloseReason;

/// Tokens of the waker and of signals. Those of listeners and connections are their slots.
pub(super) const WAKER: usize = usize::MAX / 2;
pub(super) const SIGNALS: usize = WAKER + 1;

/// What a signal asks the process to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Stop.
    Stop,
    /// Read its configuration again.
    Reload,
}

impl Reactor {
    /// Records what each event says. No connection gets a slot before all events are recorded, so
    /// no event can reach a later occupant of its slot.
    pub(super) fn read_events(&mut self) {
        let mut stopped = 0;
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        self.reported = events.iter().count();
        for event in &events {
            let token = event.token().0;
            if token >= WAKER {
                stopped += self.note_signal(token);
                continue;
            }
            if let Some(door) = self.io.peers.door(token) {
                if let Some(door) = self.doors.get_mut(door) {
                    door.is_ready = true;
                }
                continue;
            }
            let Some(id) = self.io.peers.at(token) else { continue };
            let Some(peer) = self.io.peer(id) else { continue };
            let is_over = event.is_read_closed() || event.is_error();
            if event.is_readable() || is_over {
                peer.set(flag::READABLE, true);
            }
            if is_over {
                peer.set(flag::END_NEAR, true);
            }
            if event.is_priority() {
                peer.set(flag::URGENT, true);
            }
            if event.is_writable() {
                peer.set(flag::WRITABLE, true);
            }
            let has_output = !peer.out.is_empty();
            // What came before a reset is still handled: the read behind it finds the error.
            let is_heard = peer.phase == Phase::Open && !peer.is(flag::PAUSED);
            if event.is_error() && !is_heard {
                self.io.lose(id, CloseReason::PeerLost);
                continue;
            }
            if event.is_writable() && has_output {
                self.io.queue_flush(id);
            }
            if event.is_readable() || is_over {
                self.io.mark_ready(id);
            }
        }
        events.clear();
        self.events = events;
        if stopped > 0 {
            self.stop();
        }
    }

    /// Reads the signals that an event reports. Returns how many of them ask to stop.
    pub(super) fn note_signal(&mut self, token: usize) -> usize {
        let signal = token.checked_sub(SIGNALS).and_then(|at| self.signals.get_mut(at));
        let Some((stream, signal)) = signal else { return 0 };
        let (mut bytes, mut came) = ([0; 16], 0);
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            came += count;
        }
        match signal {
            Signal::Stop => came,
            Signal::Reload => {
                self.has_reload |= came > 0;
                0
            }
        }
    }
}
