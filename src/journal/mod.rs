//! The journal orders every change: it is proposed here and comes back, in order, as an entry. The
//! journal decides the order and what survives a restart; it never touches sockets. The switch
//! calls it, and the hub changes only by applying what the journal returned. Reads are answered
//! from the hub; the copy on disk serves only the next start.

mod delayed;
mod fault_rng;
mod memory;
mod rollback;
pub mod store;

pub use delayed::DelayedJournal;
pub use memory::MemoryJournal;
pub use rollback::RollbackJournal;
pub use store::StoreJournal;

use std::fmt;

use crate::hub::{Change, Entry, Hub, KeyRef, Outbox, Row, Undo};
use crate::limits::Limits;
use crate::metrics::StoreMeters;
use crate::time::{Millis, Now, UnixMillis};

/// Identifies a proposal whose place in the order is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// A position in the sequence of recorded changes; the default stands for no change. A reply that
/// reports or shows a change carries its mark and is sent once everything up to it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub u64);

/// The outcome of a proposal.
#[derive(Debug)]
pub enum Proposal {
    /// The change has the next place in the order: apply it now.
    Now,
    /// The entry, or its failure, arrives from a later [`Journal::poll`].
    Later(Ticket),
    /// The change cannot be kept, or too much is waiting already. Nothing was proposed.
    Refused,
}

/// What [`Journal::poll`] reports.
#[derive(Debug)]
pub enum Event {
    /// The next entry in the order, its ticket if it was proposed here, and the mark its reply
    /// waits for: the default mark if the entry is already durable.
    Entry(Option<Ticket>, Entry, Mark),
    /// This proposal has not been ordered and never will be.
    Failed(Ticket),
    /// This change could not be kept and must be undone. Undos arrive in reverse order, over as
    /// many turns as it takes; nothing is recorded in between.
    Undo(Undo),
    /// The last `Undo` has been delivered: replies that wait for a mark in this range must fail.
    /// From this event on everything up to `upto` counts as durable, because none of it is left.
    Lost {
        /// The last mark that survives.
        from: Mark,
        /// The last mark that is lost.
        upto: Mark,
    },
}

/// Orders changes and makes them durable. The switch holds a `dyn Journal`, so that it is compiled
/// only once.
pub trait Journal {
    /// Asks for a place in the order. Never blocks.
    fn propose(&mut self, at: UnixMillis, change: &Change<'_>) -> Proposal;

    /// Called before an entry sets a state to a value of `_bytes` bytes. Returns `true` if the
    /// journal needs nothing more because the change will never be undone;
    /// [`Journal::after_change`] is then not called.
    fn needs_no_undo(&mut self, _: KeyRef<'_>, _bytes: usize) -> bool {
        false
    }

    /// Called before a row changes, by an entry or by expiry; `_row` returns it as it is now.
    fn before_change<'a>(&mut self, _: KeyRef<'_>, _row: &dyn Fn() -> Option<Row<'a>>) {}

    /// Called after the hub has changed a row, by an entry or by expiry.
    fn after_change(&mut self, undo: Undo);

    /// Ends the turn: hands what changed in it to the disk as one batch, each row as the hub has it
    /// now. Returns quickly; a large batch is spread over the next turns. `at` is the current time
    /// on the clock of [`Entry::at`].
    fn commit(&mut self, hub: &Hub, at: UnixMillis, now: Now);

    /// Returns the next event, or `None` if there is none yet.
    fn poll(&mut self) -> Option<Event>;

    /// Returns the mark of the last recorded change.
    fn mark(&self) -> Mark;

    /// Returns the mark that the reply to a change of a state waits for, at most [`Journal::mark`].
    fn mark_of_states(&self) -> Mark {
        self.mark()
    }

    /// Returns the mark of the last change of this row that may not be durable yet. A reply that
    /// shows the row waits for it. At most [`Journal::mark`].
    fn mark_of(&self, _: KeyRef<'_>) -> Mark {
        self.mark()
    }

    /// Returns the mark up to which everything is durable. Never decreases.
    fn durable(&self) -> Mark;

    /// Returns whether more may be proposed. While not, callers that want to propose wait.
    fn has_room(&self) -> bool {
        true
    }

    /// Returns a lower bound on [`Entry::at`] of all entries still to come. No such entry can see a
    /// state that has expired by then, so the hub may drop it.
    fn horizon(&self, now: UnixMillis) -> UnixMillis {
        now
    }

    /// Returns when `poll` or `commit` will have work to do without the loop being woken for it.
    fn due(&self) -> Option<Millis> {
        None
    }

    /// Applies new limits.
    fn reload(&mut self, limits: &Limits) {
        let _ = limits;
    }

    /// Returns the metrics of the store, or `None` if there is no store.
    fn meters(&self, now: Now) -> Option<StoreMeters> {
        let _ = now;
        None
    }

    /// Called once the listeners and all connections are closed. Writes what has not been written
    /// and waits for the disk (a store waits 10 s at most); once `is_urged`, which is polled
    /// meanwhile, returns `true`, only for what was acknowledged. Returns how many rows were
    /// acknowledged as changed but are not on disk as they are now.
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

/// Passes the changes of a hub on to a journal, for changes that reach no peer.
pub struct Recorder<'a>(pub &'a mut dyn Journal);

impl Outbox for Recorder<'_> {
    fn before_change<'a>(&mut self, key: KeyRef<'_>, row: &dyn Fn() -> Option<Row<'a>>) {
        self.0.before_change(key, row);
    }
    fn after_change(&mut self, undo: Undo) {
        self.0.after_change(undo);
    }
}

/// Prints only a name: derived code that prints a store would bloat the binary.
impl fmt::Debug for dyn Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}
