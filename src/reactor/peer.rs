//! What the reactor knows of one connection, in 32 bytes with the generation of its slot: nothing
//! of an idle one is anywhere else, but for its one timer. What waits for few stands in tables of
//! its own, and here is the place in there. Part of the reactor.

use super::stream::Stream;
use crate::arena::NIL;
use crate::edge::Door;
use crate::frame::OutQueue;
use crate::slow::WatchId;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The handler knows it. Next: `Flushing`, or freed.
    Open,
    /// Closed for the handler; what is queued is still written. Next: `Lingering`, or freed.
    Flushing,
    /// All is written and the end told to the peer, whose own end is awaited: closing a socket
    /// with unread input would reset it, and the peer would lose our last words. Next: freed.
    Lingering,
}

/// What is so of a connection, or not: bits of [`Peer`].
pub(super) mod flag {
    /// There may be something to read.
    pub const READABLE: u16 = 1;
    /// The kernel would take more, as far as we know.
    pub const WRITABLE: u16 = 1 << 1;
    /// The handler does not want to read.
    pub const PAUSED: u16 = 1 << 2;
    /// The kernel said that the last byte is there, somewhere behind what is still to be read.
    pub const END_NEAR: u16 = 1 << 3;
    /// The peer has sent its last byte.
    pub const ENDED: u16 = 1 << 4;
    /// The handler has been told so.
    pub const END_TOLD: u16 = 1 << 5;
    /// The kernel refused some output since the queue was last empty.
    pub const BLOCKED: u16 = 1 << 6;
    /// It is on the ready list: it will be served again without an event.
    pub const ON_READY: u16 = 1 << 7;
    /// It is on the list of those to be written to.
    pub const ON_DIRTY: u16 = 1 << 8;
    /// Too much was published to it: nothing more is.
    pub const GIVEN_UP: u16 = 1 << 9;
    /// It has all the time for its end from the beginning of it on: no more when all is written.
    pub const HASTY: u16 = 1 << 10;
    /// The handler has never heard of it: there was no room.
    pub const TURNED_AWAY: u16 = 1 << 11;
    /// Its deadline has passed, and the handler has set no other.
    pub const DUE: u16 = 1 << 12;
    /// Nothing comes from it and nothing reaches it: it is gone as soon as the handler knows.
    pub const LOST: u16 = 1 << 13;
    /// It was let go, and stands in the line of those who make place.
    pub const PARTING: u16 = 1 << 14;
    /// It has not been read since it came.
    pub const NEW: u16 = 1 << 15;
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub stream: Stream,
    pub out: OutQueue,
    /// The handler's deadline while open, ours afterwards: its place in the wheel, or [`NIL`].
    pub timer: u32,
    /// Input that the handler has not consumed, which stands in front of the next read: its place
    /// among the tails, or [`NIL`].
    pub tail: u32,
    /// Its place among those who do not take what is published to them.
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

    /// Whether any of these is so.
    #[inline]
    pub fn is(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    /// Notes that all of these are so, or none.
    #[inline]
    pub fn set(&mut self, flags: u16, is: bool) {
        self.flags = if is { self.flags | flags } else { self.flags & !flags };
    }

    /// Whether it is open, and as far as we know takes all that it gets: as most do.
    #[inline]
    pub fn takes_all(&self) -> bool {
        let is_well = self.flags & (flag::WRITABLE | flag::GIVEN_UP) == flag::WRITABLE;
        is_well && self.phase == Phase::Open && self.watch.is_none()
    }
}
