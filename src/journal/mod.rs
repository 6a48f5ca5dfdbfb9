//! The journal: every change passes through it and comes back in order, as an entry. It owns the
//! order and what survives a restart; it never looks at sockets. The switch calls it, and the hub
//! changes only by applying what came back. The hub is the truth that answers reads; what is on
//! disk is for the next start.

mod hasty;
mod late;
mod memory;
mod moods;
pub mod store;

pub use hasty::HastyJournal;
pub use late::LateJournal;
pub use memory::MemoryJournal;
pub use store::StoreJournal;

use std::fmt;

use crate::hub::{Change, Entry, Hub, KeyRef, Row, Seq, Undo};
use crate::limits::Limits;
use crate::metrics::StoreMeters;
use crate::time::{Millis, Now, UnixMillis};

/// A proposal whose place in the order is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A point in what has been recorded. A reply that reports or shows a change carries the mark of
/// that change and leaves when everything up to it is durable. The default is the mark of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

/// What became of a proposal.
#[derive(Debug)]
pub enum Proposal {
    /// It has this place: apply it now.
    Now(Seq),
    /// Its entry, or its failure, comes with a later [`Journal::poll`].
    Later(Ticket),
    /// It cannot be kept, or too much waits already; nothing was proposed.
    Refused,
}

/// What a journal has to tell.
#[derive(Debug)]
pub enum Event {
    /// The next entry in the order. Its ticket, if it was proposed here; and what its reply waits
    /// for, the mark of nothing if it is durable already.
    Entry(Option<Ticket>, Entry, Mark),
    /// This proposal has not been and will not be ordered.
    Failed(Ticket),
    /// This change could not be kept: take it back. They come in reverse order, in as many turns as
    /// that takes, and nothing is recorded in between.
    Undo(Undo),
    /// The last `Undo` has come: whoever waits for anything between these marks waits in vain.
    /// With this event all up to `upto` counts as durable, because nothing of it is left.
    Lost {
        /// What survives.
        from: Mark,
        /// The last that does not.
        upto: Mark,
    },
}

/// Orders changes and makes them last. One object of the switch's, so that the switch is compiled
/// once for all of them.
pub trait Journal {
    /// Asks for a place in the order. Whatever the answer, the call returns at once.
    fn propose(&mut self, at: UnixMillis, change: &Change<'_>) -> Proposal;

    /// A state is about to become one of so many bytes, by the last entry. Whether that is all
    /// that need be known of it, because it will not be taken back: then there is no
    /// [`Journal::changed`].
    fn stays(&mut self, _: KeyRef<'_>, _bytes: usize) -> bool {
        false
    }

    /// A row is about to change, by the last entry or by time, and this is what it is now.
    fn changes<'a>(&mut self, _: KeyRef<'_>, _row: &dyn Fn() -> Option<Row<'a>>) {}

    /// The hub has changed a row, by the last entry or by time.
    fn changed(&mut self, undo: Undo);

    /// The turn is over: what was changed in it goes its way as one batch, each row as the hub
    /// has it now. Returns soon: what is much takes the next turns as well. `at` is the time on
    /// the scale of [`Entry::at`].
    fn commit(&mut self, hub: &Hub, at: UnixMillis, now: Now);

    /// The next thing to know; `None` for nothing yet.
    fn poll(&mut self) -> Option<Event>;

    /// All that has been recorded up to now.
    fn mark(&self) -> Mark;

    /// What the reply to a change of a state waits for. Never more than [`Journal::mark`].
    fn mark_of_states(&self) -> Mark {
        self.mark()
    }

    /// The last change of one row that may not be durable yet: what a reply waits for that shows
    /// it. Never more than [`Journal::mark`].
    fn mark_of(&self, _: KeyRef<'_>) -> Mark {
        self.mark()
    }

    /// Everything up to here survives. Never less than it was before.
    fn durable(&self) -> Mark;

    /// Whether more may be proposed. While not, whoever wants to waits.
    fn has_room(&self) -> bool {
        true
    }

    /// No entry that is still to come is older than this, on the scale of [`Entry::at`]: what has
    /// ended by then no entry can meet, and the hub may forget it.
    fn horizon(&self, now: UnixMillis) -> UnixMillis {
        now
    }

    /// When `poll` or `commit` will have something to do, without anybody waking the loop.
    fn due(&self) -> Option<Millis> {
        None
    }

    /// From now on these limits hold.
    fn reload(&mut self, limits: &Limits) {
        let _ = limits;
    }

    /// What is counted of the store; `None` if there is none.
    fn meters(&self, now: Now) -> Option<StoreMeters> {
        let _ = now;
        None
    }

    /// The doors are closed and all are gone: writes what has not been written, for as long as
    /// that takes; once `is_urged` says so, only what was acknowledged. It is asked again and again
    /// meanwhile. Returns how many rows were acknowledged as changed, and are not on disk as they
    /// are now.
    fn close(
        &mut self,
        hub: &Hub,
        at: UnixMillis,
        now: Now,
        is_urged: &mut dyn FnMut() -> bool,
    ) -> usize {
        let _ = is_urged;
        self.commit(hub, at, now);
        0
    }
}

/// No journal is printed: what prints a store would be in the binary for nothing.
impl fmt::Debug for dyn Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}
