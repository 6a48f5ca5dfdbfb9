//! The interface between sockets and everything else. A reactor calls a [`Handler`], which acts
//! through a [`Net`]. There are two callers: the real reactor, and the simulator's fake network.
//!
//! Rules that both callers keep and the simulator checks:
//! - a connection is `opened` once and `closed` once, and no call for it comes before or after;
//! - `closed` comes in the same turn as the [`Net::close`] or the fault that caused it, but never
//!   from inside another call to the handler;
//! - what was sent before a close is still flushed, for a bounded time.

use crate::address::Address;
use crate::arena::Id;
use crate::frame::{Frame, Kind, QueueMemory};
use crate::metrics::{Meters, Process};
use crate::reason::CloseReason;
use crate::time::{Millis, Now};

/// Kind of [`ConnId`].
#[derive(Debug)]
pub enum Conn {}

/// Identifies one connection, for as long as it is open.
pub type ConnId = Id<Conn>;

/// A listener, called a *door* in the code: it determines the protocol of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Back ends: the control port, TCP or unix socket.
    Control,
    /// Browsers: HTTP, WebSocket, SockJS.
    Web,
    /// Monitoring: metrics and health, over HTTP. It stays open while the server drains, and its
    /// connections do not count towards the limits of the others.
    Admin,
}

/// A connection that answers wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// The connection.
    pub conn: ConnId,
    /// Memory of those answers, each divided among all connections that wait for it.
    pub bytes: usize,
    /// See [`Net::taken`].
    pub taken: u32,
    /// Whether the handler still knows the connection.
    pub is_open: bool,
}

/// Why a connection was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// There was no room.
    Full,
    /// As many connections as may be accepted at once had just come.
    Crowd,
}

impl TurnedAway {
    /// All variants, in the order of the counters.
    pub const ALL: [TurnedAway; 2] = [TurnedAway::Full, TurnedAway::Crowd];

    /// The name in counters.
    pub const fn label(self) -> &'static str {
        match self {
            TurnedAway::Full => "full",
            TurnedAway::Crowd => "crowd",
        }
    }
}

/// What a reactor calls.
pub trait Handler {
    /// A connection was accepted on a listener, from that address.
    fn opened(&mut self, net: &mut impl Net, conn: ConnId, door: Door, from: Address);

    /// The process did not run for that many milliseconds, which [`Now::mono`] leaves out.
    fn stood_still(&mut self, _ms: u64) {}

    /// A connection was refused, and never opened.
    fn turned_away(&mut self, _now: Now, _why: TurnedAway) {}

    /// Bytes arrived. Returns how many were consumed; the rest is kept and prepended to the next
    /// input. Never called while the connection is paused.
    ///
    /// # Errors
    /// The reason for which the connection must be closed, as if by [`Net::close`].
    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason>;

    /// The peer has ended its stream (half-close), and all that it sent has been given to
    /// `received`. The handler sends the answers still due and closes.
    fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        net.close(conn, CloseReason::PeerClosed);
    }

    /// The peer has ended its stream while the connection is paused: input not yet given to
    /// `received` may never be. Called each time this is noticed.
    fn hung_up(&mut self, _net: &mut impl Net, _conn: ConnId) {}

    /// All queued output has gone to the kernel. Called only if the kernel had refused some of it
    /// before, or if the connection is paused.
    fn drained(&mut self, _net: &mut impl Net, _conn: ConnId) {}

    /// The deadline set with [`Net::deadline`] has passed; it is cleared before this call.
    fn timed_out(&mut self, _net: &mut impl Net, _conn: ConnId) {}

    /// The peer does not take what was published to it, and must be closed for that reason.
    fn too_slow(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        net.close(conn, reason);
    }

    /// The connection is closed: its state is to be dropped.
    fn closed(&mut self, _net: &mut impl Net, _conn: ConnId, _reason: CloseReason) {}

    /// The process has been told to stop. All listeners but the admin's are closed, and input that
    /// had arrived has been given to `received`, except from connections paused for too long. The
    /// handler closes all connections, spread evenly over the time up to that moment.
    fn stopping(&mut self, _net: &mut impl Net, _until: Millis) {}

    /// Whether this turn has no room for more input from [`Door::Control`]. Connections of that
    /// listener not read by then are read first in the next turn.
    fn is_turn_full(&self) -> bool {
        false
    }

    /// The number of connections on [`Door::Control`] that have not authenticated, including those
    /// not yet read.
    fn unauthenticated(&self) -> usize {
        0
    }

    /// The longest message allowed from that peer, in bytes: less before it has authenticated. When
    /// all waiting input takes too much memory, the largest relative to this is evicted first.
    fn message_bytes(&mut self, _conn: ConnId) -> usize {
        1
    }

    /// When `tick` is needed at the latest. Asked after the turn's output.
    fn due(&self, _net: &impl Net) -> Option<Millis> {
        None
    }

    /// Runs once a turn, before its input, when the clock has advanced.
    fn tick(&mut self, _net: &mut impl Net) {}

    /// Runs once a turn, after its input and before the last of its output: records what the turn
    /// changed, and releases what has become durable.
    fn settle(&mut self, _net: &mut impl Net) {}
}

/// What a reactor offers. Calls for a closed connection do nothing.
pub trait Net {
    /// The time of this turn.
    fn now(&self) -> Now;

    /// The peer's address, while it is open; `None` if unknown. Costs a system call: not for every
    /// turn.
    fn address(&self, _: ConnId) -> Option<Address> {
        None
    }

    /// Fills the slice from the system's random source (a simulator's: from its seed).
    fn random(&mut self, out: &mut [u8]);

    /// Queues a frame that the peer asked for; it is written in this turn.
    fn send(&mut self, conn: ConnId, frame: Frame);

    /// Queues a frame that somebody else published. Returns true if the peer must be closed because
    /// memory is short, and more than `backlog_bytes` of such frames wait behind the one being
    /// sent, of which each counts for a quarter of that at most. From then on nothing more is
    /// queued.
    ///
    /// If memory is not short, [`Handler::too_slow`] is called when the peer's time is up, for that
    /// reason or another. Queued frames are offered to the kernel before the peer is judged.
    fn publish(&mut self, conn: ConnId, frame: Frame) -> bool;

    /// Offers queued output to the kernel now, which reports late that it has room again.
    fn offer(&mut self, _: ConnId) {}

    /// Drops all publications that wait, except a frame already sent in part. For a peer that is
    /// about to be closed because it does not take them.
    fn drop_published(&mut self, _: ConnId) {}

    /// As [`Net::drop_published`], for all frames that wait. A frame already sent in part has only
    /// a moment to go out once the peer is closed.
    fn drop_all(&mut self, _: ConnId) {}

    /// Accounts for a frame that waits outside the connections' queues, in one more place.
    fn add_outside(&mut self, _: &Frame, _: Kind) {}

    /// Undoes one [`Net::add_outside`].
    fn remove_outside(&mut self, _: &Frame, _: Kind) {}

    /// The memory of all frames that wait.
    fn queue_memory(&self) -> QueueMemory {
        QueueMemory::default()
    }

    /// Of the peers from which the kernel has taken nothing after that moment, the one that most
    /// publications wait for, and their bytes. Scans all peers that publications wait for.
    fn largest(&self, _since: Millis) -> Option<(ConnId, usize)> {
        None
    }

    /// Reports every connection with waiting answers that the kernel has refused. One that has not
    /// been written to yet is left out, as it had no chance to take anything. Scans all
    /// connections: not for every turn.
    fn owed(&self, _: &mut dyn FnMut(Owed)) {}

    /// Memory of the connection's output queue: its bytes, and a fixed cost for each frame.
    fn queued(&self, conn: ConnId) -> usize;

    /// Bytes of the connection's output that the kernel has taken so far, modulo 2^32.
    fn taken(&self, conn: ConnId) -> u32;

    /// Closes when all queued output has been sent, or at the latest after `close_ms`, which
    /// progress does not extend. From this call on the peer's input is discarded. The first reason
    /// given stands.
    fn close(&mut self, conn: ConnId, reason: CloseReason);

    /// As [`Net::close`], for a peer that is not admitted: it has only a moment to take what is
    /// queued, and none if nothing is, so that crowds of such peers keep nobody else out.
    fn expel(&mut self, conn: ConnId, reason: CloseReason) {
        self.close(conn, reason);
    }

    /// Sets the connection's only deadline, replacing the one before; `None` clears it. Received
    /// bytes do not extend it.
    fn deadline(&mut self, conn: ConnId, at: Option<Millis>);

    /// Stops reading, so that TCP holds the peer back (backpressure).
    fn pause(&mut self, conn: ConnId);

    /// A request starts to wait for room for its answer, which stops reading; or it is handled now.
    fn put_off(&mut self, conn: ConnId, is_waiting: bool) {
        if is_waiting {
            self.pause(conn);
        }
    }

    /// Reads again, starting with what `received` left unconsumed.
    fn resume(&mut self, conn: ConnId);

    /// Notes how many bytes of input the handler has consumed but keeps, because they are
    /// incomplete or wait to be processed. They count as waiting input.
    fn note_input_bytes(&mut self, _: ConnId, _bytes: usize) {}

    /// The counters so far.
    fn meters(&self) -> Meters {
        Meters::default()
    }

    /// What the system knows of the process. Costs system calls: not for every turn.
    fn process(&self) -> Process {
        Process::default()
    }
}
