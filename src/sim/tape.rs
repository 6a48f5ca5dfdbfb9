//! The tape: what the switch does at its seams, in the order in which it does it. Owns nothing but
//! that; the judge takes it after each call. Written by the fake network and by [`Traced`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::edge::ConnId;
use crate::frame::Frame;
use crate::hub::{Change, Entry};
use crate::journal::{Event, Journal, Mark, Proposal, Ticket};
use crate::reason::CloseReason;
use crate::time::UnixMillis;

/// One thing that happened at a seam.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// A change was proposed.
    Proposed { at: UnixMillis, change: Change, place: Place },
    /// The journal handed an entry out.
    Ordered { ticket: Option<Ticket>, entry: Entry },
    /// The journal will never order this one.
    Failed(Ticket),
    /// A frame went out to an open connection. For a publication: what waits there of those now.
    Sent { conn: ConnId, frame: Frame, backlog: Option<usize> },
    /// The switch closed a connection, which may have been closed before.
    Closing { conn: ConnId, reason: CloseReason, was_open: bool },
}

impl Item {
    /// Whether a change got, or lost, its place in the order here.
    pub fn is_order(&self) -> bool {
        matches!(self, Item::Proposed { .. } | Item::Ordered { .. } | Item::Failed(_))
    }
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It was the next one, with this number.
    Now(u64),
    /// It will come.
    Later(Ticket),
    /// There was no room.
    Full,
}

/// A tape; clones write on the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tape {
    items: Rc<RefCell<Vec<Item>>>,
    durable: Rc<Cell<u64>>,
    mark: Rc<Cell<u64>>,
    horizon: Rc<Cell<u64>>,
}

impl Tape {
    pub fn write(&self, item: Item) {
        self.items.borrow_mut().push(item);
    }

    /// All that was written since the last call.
    pub fn take(&self) -> Vec<Item> {
        self.items.take()
    }

    /// Number of the last entry that is durable.
    pub fn durable(&self) -> u64 {
        self.durable.get()
    }

    /// Number of the last entry that the journal has ordered, whether or not it was handed out.
    pub fn mark(&self) -> u64 {
        self.mark.get()
    }

    /// Up to which moment states were forgotten.
    pub fn horizon(&self) -> u64 {
        self.horizon.get()
    }
}

/// A journal that writes on the tape whatever passes through it.
#[derive(Debug)]
pub(super) struct Traced<J> {
    journal: J,
    tape: Tape,
}

impl<J: Journal> Traced<J> {
    pub fn new(journal: J, tape: Tape) -> Traced<J> {
        Traced { journal, tape }
    }

    fn note_durable(&self) {
        let Mark(durable) = self.journal.durable();
        assert!(durable >= self.tape.durable.get(), "what was durable is no longer");
        self.tape.durable.set(durable);
        self.tape.mark.set(self.journal.mark().0);
    }
}

impl<J: Journal> Journal for Traced<J> {
    fn propose(&mut self, at: UnixMillis, change: Change) -> Proposal {
        let proposal = self.journal.propose(at, change.clone());
        let place = match &proposal {
            Proposal::Now(entry) => Place::Now(entry.seq.n),
            Proposal::Later(ticket) => Place::Later(*ticket),
            Proposal::Full => Place::Full,
        };
        self.tape.write(Item::Proposed { at, change, place });
        self.note_durable();
        proposal
    }

    fn commit(&mut self) {
        self.journal.commit();
        self.note_durable();
    }

    fn poll(&mut self) -> Option<Event> {
        let event = self.journal.poll();
        match &event {
            Some(Event::Entry(ticket, entry)) => {
                self.tape.write(Item::Ordered { ticket: *ticket, entry: entry.clone() });
            }
            Some(Event::Failed(ticket)) => self.tape.write(Item::Failed(*ticket)),
            None => {}
        }
        self.note_durable();
        event
    }

    fn mark(&self) -> Mark {
        self.journal.mark()
    }

    fn durable(&self) -> Mark {
        self.journal.durable()
    }

    fn horizon(&self, now: UnixMillis) -> UnixMillis {
        let horizon = self.journal.horizon(now);
        assert!(horizon <= now, "the horizon lies ahead");
        self.tape.horizon.set(horizon.0);
        horizon
    }

    fn is_busy(&self) -> bool {
        self.journal.is_busy()
    }
}
