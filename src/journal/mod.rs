//! The journal: every change passes through it and comes back in order, as an entry. It owns the
//! order and (behind other implementations) what survives a restart; it never looks at sockets.
//! The switch calls it, and the hub changes only by applying what came back.

mod late;
mod memory;

pub use late::LateJournal;
pub use memory::MemoryJournal;

use crate::hub::{Change, Entry};
use crate::time::UnixMillis;

/// A proposal whose place in the order is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A point in what has been proposed. A reply that reports or shows a change carries the mark of
/// the moment and leaves when everything up to it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

/// What became of a proposal.
#[derive(Debug)]
pub enum Proposal {
    /// It has its place: apply it now.
    Now(Entry),
    /// Its entry, or its failure, comes with a later [`Journal::poll`].
    Later(Ticket),
    /// Too much waits already; nothing was proposed.
    Full,
}

/// What a journal has to tell.
#[derive(Debug)]
pub enum Event {
    /// The next entry in the order. Its ticket, if it was proposed here.
    Entry(Option<Ticket>, Entry),
    /// This proposal has not been and will not be ordered.
    Failed(Ticket),
}

/// Orders changes and makes them last.
pub trait Journal {
    /// Asks for a place in the order. Whatever the answer, the call returns at once.
    fn propose(&mut self, at: UnixMillis, change: Change) -> Proposal;

    /// The turn is over: what was proposed in it goes its way as one batch.
    fn commit(&mut self);

    /// The next thing to know; `None` for nothing yet.
    fn poll(&mut self) -> Option<Event>;

    /// All that has been proposed up to now.
    fn mark(&self) -> Mark;

    /// Everything up to here survives. Never less than it was before.
    fn durable(&self) -> Mark;

    /// No entry that is still to come is older than this, on the scale of [`Entry::at`]: what has
    /// ended by then no entry can meet, and the hub may forget it.
    fn horizon(&self, now: UnixMillis) -> UnixMillis {
        now
    }

    /// Whether `poll` or `durable` will have something new without anybody waking the loop.
    fn is_busy(&self) -> bool {
        false
    }
}
