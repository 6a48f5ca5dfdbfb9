//! The reactor's record of one connection: 32 bytes, with the generation of its slot. An idle
//! connection has nothing elsewhere but its timer. State that few connections need is in tables of
//! its own, and its index is here. Part of the reactor.

use super::stream::Stream;
use crate::arena::NIL;
use crate::edge::Door;
use crate::frame::OutQueue;
use crate::slow::WatchId;

/// Stage in the life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Known to the handler. Next: `Flushing`, or freed.
    Open,
    /// Closed for the handler; what is queued is still written. Next: `Lingering`, or freed.
    Flushing,
    /// All is written and the write side shut down. The peer's own end is awaited: closing a socket
    /// with unread input would reset it, and the peer would lose our last words. Next: freed.
    Lingering,
}

/// State bits of a [`Peer`].
pub(super) mod flag {
    /// There may be something to read.
    pub const READABLE: u16 = 1;
    /// The kernel takes more, as far as is known.
    pub const WRITABLE: u16 = 1 << 1;
    /// The handler has paused reading.
    pub const PAUSED: u16 = 1 << 2;
    /// The kernel has reported the end of the stream, behind what is still to be read.
    pub const END_NEAR: u16 = 1 << 3;
    /// The last byte of the peer has been read, or its end is not awaited.
    pub const ENDED: u16 = 1 << 4;
    /// The handler has been told of the end.
    pub const END_TOLD: u16 = 1 << 5;
    /// The kernel refused some output since the queue was last empty.
    pub const BLOCKED: u16 = 1 << 6;
    /// On a ready list: will be served again without an event.
    pub const ON_READY: u16 = 1 << 7;
    /// On the list of connections to be written to.
    pub const ON_DIRTY: u16 = 1 << 8;
    /// Too much was published to it: nothing more is.
    pub const TOO_SLOW: u16 = 1 << 9;
    /// Its time to close is short, and not extended when everything is written.
    pub const FAST_CLOSE: u16 = 1 << 10;
    /// It has sent urgent data: one byte that is not part of the stream, and at which a read ends.
    pub const URGENT: u16 = 1 << 11;
    /// Its deadline has passed, and the handler has set no other.
    pub const DEADLINE_PASSED: u16 = 1 << 12;
    /// Nothing can be read from it or written to it: freed as soon as the handler knows.
    pub const LOST: u16 = 1 << 13;
    /// Closing, and in the queue of connections that are ended to make room.
    pub const IN_CLOSING_QUEUE: u16 = 1 << 14;
    /// Not read since it was accepted.
    pub const NEW: u16 = 1 << 15;
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub stream: Stream,
    pub out: OutQueue,
    /// Index of its timer in the wheel, or [`NIL`]: the handler's while open, ours afterwards.
    pub timer: u32,
    /// Index of its tail, or [`NIL`]: input that the handler has not consumed, which stands in
    /// front of the next read.
    pub tail: u32,
    /// Its record among the peers that do not take what is published to them.
    pub watch: WatchId,
    flags: u16,
    pub phase: Phase,
    pub door: Door,
}

impl Peer {
    pub fn new(stream: Stream, door: Door) -> Peer {
        Peer {
            stream,
            out: OutQueue::default(),
            timer: NIL,
            tail: NIL,
            watch: WatchId::NONE,
            flags: flag::WRITABLE | flag::NEW,
            phase: Phase::Open,
            door,
        }
    }

    /// Returns whether any of these flags is set.
    #[inline]
    pub fn is(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    /// Sets or clears all of these flags.
    #[inline]
    pub fn set(&mut self, flags: u16, is: bool) {
        self.flags = if is { self.flags | flags } else { self.flags & !flags };
    }

    /// Returns whether it is open and, as far as is known, takes everything it gets, as most do.
    #[inline]
    pub fn takes_all(&self) -> bool {
        let is_well = self.flags & (flag::WRITABLE | flag::TOO_SLOW) == flag::WRITABLE;
        is_well && self.phase == Phase::Open && self.watch.is_none()
    }
}
