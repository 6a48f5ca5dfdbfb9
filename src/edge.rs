//! The seam between sockets and everything else. A reactor calls a [`Handler`]; the handler acts
//! through a [`Net`]. The real reactor and the simulator's fake network are the two callers.
//!
//! Laws, which both callers keep and the simulator checks:
//! - a connection is `opened` once and `closed` once, and nothing is called for it outside;
//! - `closed` comes in the same turn as the [`Net::close`] or the fault that caused it, but never
//!   from inside another call to the handler;
//! - what was sent before a close is still flushed, for a bounded time.

use crate::address::Address;
use crate::arena::Id;
use crate::frame::{Frame, Kind};
use crate::metrics::{Meters, Process};
use crate::reason::CloseReason;
use crate::time::{Millis, Now};

/// Kind of [`ConnId`].
#[derive(Debug)]
pub enum Conn {}

/// One connection, for as long as it is open.
pub type ConnId = Id<Conn>;

/// A listening port: who comes through it wants to be spoken to in its language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Back ends: the control port, TCP or unix socket.
    Control,
    /// Browsers: HTTP, WebSocket, SockJS.
    Web,
    /// Whoever watches the server: metrics and health, over HTTP. It stays open while the server
    /// drains, and who comes through it counts among no other connections.
    Admin,
}

/// Memory of what waits for somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// What publications take together, each counted once, and a little for each place in which it
    /// waits.
    pub bytes: usize,
    /// Bytes of those that were handed to [`Net::keep`], each counted as often as it was.
    pub aside: usize,
    /// What answers take together, those to back ends included, counted in the same way.
    pub answers: usize,
    /// Bytes of those that were handed to [`Net::keep`], each counted as often as it was.
    pub answers_aside: usize,
}

/// A connection that answers wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Which.
    pub conn: ConnId,
    /// Memory that they take, each shared by all who wait for it.
    pub bytes: usize,
    /// As [`Net::taken`].
    pub taken: u32,
    /// The handler knows it.
    pub is_open: bool,
}

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// There was no room.
    Full,
    /// Others had come just before, as many as can be let in at a time.
    Crowd,
}

impl TurnedAway {
    /// Each of them, in the order of the counters.
    pub const ALL: [TurnedAway; 2] = [TurnedAway::Full, TurnedAway::Crowd];

    /// Name in counters.
    pub const fn label(self) -> &'static str {
        match self {
            TurnedAway::Full => "full",
            TurnedAway::Crowd => "crowd",
        }
    }
}

/// What a reactor calls.
pub trait Handler {
    /// A peer came through a door, from that address.
    fn opened(&mut self, net: &mut impl Net, conn: ConnId, door: Door, from: Address);

    /// The process stood still for so many milliseconds, which [`Now::mono`] leaves out.
    fn stood_still(&mut self, _ms: u64) {}

    /// Somebody was turned away at a door, and never let in.
    fn turned_away(&mut self, _now: Now, _why: TurnedAway) {}

    /// Bytes came. Returns how many were consumed; the rest is kept and stands in front of the
    /// next bytes. Never called while the connection is paused.
    ///
    /// # Errors
    /// The reason for which the connection must be closed, as if by [`Net::close`].
    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason>;

    /// The peer sends no more (half-close), and all that it sent has been given to `received`.
    /// The handler answers what it owes and closes.
    fn ended(&mut self, net: &mut impl Net, conn: ConnId);

    /// The peer sends no more, while the connection is paused: what has not been given to
    /// `received` may never be. Comes as often as this is noticed.
    fn hung_up(&mut self, _net: &mut impl Net, _conn: ConnId) {}

    /// All that was queued has gone to the kernel, and either the kernel had refused some of it
    /// before, or the connection is paused.
    fn drained(&mut self, _net: &mut impl Net, _conn: ConnId) {}

    /// The deadline set with [`Net::deadline`] has passed; it is cleared before this call.
    fn timed_out(&mut self, _net: &mut impl Net, _conn: ConnId) {}

    /// The peer does not take what was published to it, and is to be let go for that reason.
    fn too_slow(&mut self, net: &mut impl Net, conn: ConnId, reason: CloseReason) {
        net.close(conn, reason);
    }

    /// The connection is gone for the handler: forget it.
    fn closed(&mut self, _net: &mut impl Net, _conn: ConnId, _reason: CloseReason) {}

    /// The process has been told to stop. The doors are closed, and what had arrived has been
    /// given to `received`, but to those who were paused for too long: let everybody go, evenly,
    /// and the last of them at that moment.
    fn stopping(&mut self, _net: &mut impl Net, _until: Millis) {}

    /// Whether this turn has no room for more of what comes through [`Door::Control`]: of those who
    /// come that way, whoever has not been read by then is read first in the next one.
    fn has_heard_enough(&self) -> bool {
        false
    }

    /// Who came through [`Door::Control`] and has not said who it is, those included who were not
    /// heard yet.
    fn strangers(&self) -> usize {
        0
    }

    /// How long a message of that peer may be, in bytes: less before it has said who it is. Asked
    /// when too much waits in all: those go first of whom most waits beside that.
    fn message_bytes(&mut self, _conn: ConnId) -> usize {
        1
    }

    /// When `tick` is wanted at the latest, as things stand behind the turn's output.
    fn due(&self, _net: &impl Net) -> Option<Millis> {
        None
    }

    /// Once a turn, before the input of that turn: the time has gone on.
    fn tick(&mut self, _net: &mut impl Net) {}

    /// Once a turn, after its input and before its output: record what the turn changed, release
    /// what has become durable.
    fn settle(&mut self, _net: &mut impl Net) {}
}

/// What a reactor offers. Calls for a connection that is gone do nothing.
pub trait Net {
    /// The time of this turn.
    fn now(&self) -> Now;

    /// Where a peer is, while it is open; `None` if that is not known. This asks the system: not
    /// for every turn.
    fn address(&self, _: ConnId) -> Option<Address> {
        None
    }

    /// Fills the slice from the system's random source (a simulator's: from its seed).
    fn random(&mut self, out: &mut [u8]);

    /// Queues a frame that the peer asked for; it is written at the end of the turn.
    fn send(&mut self, conn: ConnId, frame: Frame);

    /// Queues a frame that somebody else sent. Returns whether that was too much, and the peer must
    /// be let go: more than `backlog_bytes` of such frames wait behind the one that is being sent,
    /// of each a quarter of that at most, and either the kernel has taken nothing for `backlog_ms`,
    /// or memory is short. Then nothing more is queued.
    ///
    /// Before more than `backlog_bytes` wait, and again before it is too much, what waits is
    /// offered to the kernel at once: nobody is slow who was not asked. For whom such frames wait
    /// although they were offered, [`Handler::too_slow`] is called when its time has come.
    fn publish(&mut self, conn: ConnId, frame: Frame) -> bool;

    /// Has the kernel take at once what it will: it tells late that it has room.
    fn offer(&mut self, _: ConnId) {}

    /// Drops all that was published and waits, but for a frame of which a part has gone out; for a
    /// peer that is about to be let go because it does not take that.
    fn drop_published(&mut self, _: ConnId) {}

    /// As [`Net::drop_published`], of all that waits; what has begun to go out has a moment and no
    /// more when the peer is let go.
    fn drop_all(&mut self, _: ConnId) {}

    /// Notes that a frame waits for somebody who has no connection, in one place more.
    fn keep(&mut self, _: &Frame, _: Kind) {}

    /// It waits there no longer.
    fn unkeep(&mut self, _: &Frame, _: Kind) {}

    /// What all that waits takes.
    fn kept(&self) -> Kept {
        Kept::default()
    }

    /// Of the peers of whom the kernel has taken nothing after that moment, the one for whom most
    /// publications wait, and how many bytes. Looks at all for whom any do.
    fn largest(&self, _since: Millis) -> Option<(ConnId, usize)> {
        None
    }

    /// Tells of everybody for whom answers wait that the kernel has refused. Whoever has not been
    /// written to yet is none of them: it could not take anything. Looks at all connections: not
    /// for every turn.
    fn owed(&self, _: &mut dyn FnMut(Owed)) {}

    /// Memory that waits for the kernel to take it: bytes, and a fixed cost for each frame.
    fn queued(&self, conn: ConnId) -> usize;

    /// Bytes that the kernel has taken of it so far, modulo 2^32.
    fn taken(&self, conn: ConnId) -> u32;

    /// Closes when all that is queued has been sent, or after a time (`close_ms`) that bytes do not
    /// extend.
    /// From this call on the peer's bytes are thrown away, and the first reason stands.
    fn close(&mut self, conn: ConnId, reason: CloseReason);

    /// As [`Net::close`], for one who may not be here: it has a moment and no more to take what is
    /// queued, and none if nothing is, so that nobody is kept out by crowds of those.
    fn expel(&mut self, conn: ConnId, reason: CloseReason) {
        self.close(conn, reason);
    }

    /// Sets the one deadline of the connection, in place of the one before; `None` clears it.
    /// Bytes do not extend it.
    fn deadline(&mut self, conn: ConnId, at: Option<Millis>);

    /// Stops reading: TCP holds the peer back.
    fn pause(&mut self, conn: ConnId);

    /// A request waits for room for its answer, and stops the reading; or is heard now.
    fn put_off(&mut self, conn: ConnId, is_waiting: bool) {
        if is_waiting {
            self.pause(conn);
        }
    }

    /// Reads again, beginning with what `received` left unconsumed.
    fn resume(&mut self, conn: ConnId);

    /// Notes how many bytes of what the peer said the handler has consumed and keeps, because they
    /// are half of something or wait to be heard: they are input that waits.
    fn keeps(&mut self, _: ConnId, _bytes: usize) {}

    /// What was counted here so far.
    fn meters(&self) -> Meters {
        Meters::default()
    }

    /// What the system knows of the process. This asks it: not for every turn.
    fn process(&self) -> Process {
        Process::default()
    }
}
