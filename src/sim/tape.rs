//! The tape: what the switch does at its seams, in order. Owns nothing else; the judge takes its
//! items after each call. Written by the fake network and by [`Traced`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::edge::ConnId;
use crate::frame::Frame;
use crate::hub::{Change, Entry, Hub, KeyRef, Row, Undo};
use crate::journal::{Event, Journal, Mark, Proposal, Ticket};
use crate::limits::Limits;
use crate::metrics::StoreMeters;
use crate::reason::CloseReason;
use crate::time::{Millis, Now, UnixMillis};

/// One thing that happened at a seam.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// A change was proposed.
    Proposed { at: UnixMillis, change: Change<'static>, place: Place },
    /// The journal handed out an entry, whose reply must wait until mark `after` is durable.
    Ordered { ticket: Option<Ticket>, entry: Entry, after: u64 },
    /// The journal will never order this proposal.
    Failed(Ticket),
    /// The last entry changed what is recorded. The change is durable with this mark, or, if it
    /// `stays`, is kept whatever becomes of the mark.
    Changed { mark: u64, stays: bool },
    /// The last recorded change was undone; if `is_end`, the expiry of a state, which has no entry.
    Undone { is_end: bool },
    /// Everything recorded after mark `from`, up to mark `upto`, has been undone.
    Lost { from: u64, upto: u64 },
    /// A frame was sent to an open connection; `is_published` if another client published it.
    Sent { conn: ConnId, frame: Frame, is_published: bool },
    /// The backlog of a slow consumer behind the publication that was sent last, and whether it is
    /// too large.
    Backlog { conn: ConnId, bytes: usize, is_lost: bool },
    /// The kernel took bytes of a connection.
    Taken { conn: ConnId, bytes: usize },
    /// The kernel takes no more bytes of a connection for now, or takes them again.
    Blocked { conn: ConnId, is_blocked: bool },
    /// Queued frames were dropped, given by their positions in the queue; with `is_all` answers as
    /// well as publications, because all answers together take too much memory.
    Dropped { conn: ConnId, dropped: Vec<usize>, is_all: bool },
    /// A request began to wait for room for its answer, or stopped waiting.
    PutOff { conn: ConnId, is_waiting: bool },
    /// Everything queued for a connection was discarded with it.
    Cleared { conn: ConnId },
    /// The eviction candidate: the connection that is owed most among those idle since that moment.
    Chosen { conn: Option<ConnId>, since: Millis },
    /// The switch closed a connection, which may have been closed already.
    Closing { conn: ConnId, reason: CloseReason, was_open: bool },
}

impl Item {
    /// Whether a change was placed in the order here, or lost its place.
    pub fn is_order(&self) -> bool {
        matches!(
            self,
            Item::Proposed { .. } | Item::Ordered { .. } | Item::Failed(_) | Item::Lost { .. }
        )
    }
}

/// The outcome of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It became the next entry.
    Now,
    /// It will be ordered later.
    Later(Ticket),
    /// The journal did not accept it.
    Refused,
}

/// A tape; clones write to the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tape {
    items: Rc<RefCell<Vec<Item>>>,
    durable: Rc<Cell<u64>>,
    mark: Rc<Cell<u64>>,
    horizon: Rc<Cell<u64>>,
    later: Rc<Cell<usize>>,
}

impl Tape {
    pub fn write(&self, item: Item) {
        self.items.borrow_mut().push(item);
    }

    /// Takes all items written since the last call.
    pub fn take(&self) -> Vec<Item> {
        self.items.take()
    }

    /// The mark up to which everything is durable.
    pub fn durable(&self) -> u64 {
        self.durable.get()
    }

    /// The mark of everything that the journal has recorded or ordered, handed out or not, and the
    /// mark up to which everything is durable.
    pub fn marks(&self) -> (u64, u64) {
        (self.mark.get(), self.durable.get())
    }

    /// How many proposals have not been ordered yet.
    pub fn later(&self) -> usize {
        self.later.get()
    }

    /// The time up to which expired states have been forgotten.
    pub fn horizon(&self) -> u64 {
        self.horizon.get()
    }
}

/// A journal that writes everything that passes through it to the tape.
#[derive(Debug)]
pub(super) struct Traced {
    journal: Box<dyn Journal>,
    tape: Tape,
}

impl Traced {
    pub fn new(journal: Box<dyn Journal>, tape: Tape) -> Traced {
        Traced { journal, tape }
    }

    fn note_durable(&self) {
        let Mark(durable) = self.journal.durable();
        assert!(durable >= self.tape.durable.get(), "what was durable is no longer");
        self.tape.durable.set(durable);
        self.tape.mark.set(self.journal.mark().0);
    }
}

impl Journal for Traced {
    fn propose(&mut self, at: UnixMillis, change: &Change<'_>) -> Proposal {
        let proposal = self.journal.propose(at, change);
        let place = match &proposal {
            Proposal::Now => Place::Now,
            Proposal::Later(ticket) => {
                self.tape.later.set(self.tape.later() + 1);
                Place::Later(*ticket)
            }
            Proposal::Refused => Place::Refused,
        };
        let change = change.clone().into_owned();
        self.tape.write(Item::Proposed { at, change, place });
        self.note_durable();
        proposal
    }

    fn needs_no_undo(&mut self, key: KeyRef<'_>, bytes: usize) -> bool {
        let stays = self.journal.needs_no_undo(key, bytes);
        if stays {
            let Mark(mark) = self.journal.mark();
            self.tape.write(Item::Changed { mark, stays });
        }
        stays
    }

    fn before_change<'a>(&mut self, key: KeyRef<'_>, row: &dyn Fn() -> Option<Row<'a>>) {
        self.journal.before_change(key, row);
    }

    fn after_change(&mut self, undo: Undo) {
        let (is_end, Mark(before)) = (undo.is_end(), self.journal.mark());
        self.journal.after_change(undo);
        if !is_end {
            let Mark(mark) = self.journal.mark();
            self.tape.write(Item::Changed { mark, stays: mark == before });
        }
        self.note_durable();
    }

    fn commit(&mut self, hub: &Hub, at: UnixMillis, now: Now) {
        self.journal.commit(hub, at, now);
        self.note_durable();
    }

    fn poll(&mut self) -> Option<Event> {
        let event = self.journal.poll();
        if let Some(Event::Entry(Some(_), ..) | Event::Failed(_)) = &event {
            self.tape.later.set(self.tape.later() - 1);
        }
        match &event {
            Some(Event::Entry(ticket, entry, Mark(after))) => {
                let (ticket, entry, after) = (*ticket, entry.clone(), *after);
                self.tape.write(Item::Ordered { ticket, entry, after });
            }
            Some(Event::Failed(ticket)) => self.tape.write(Item::Failed(*ticket)),
            Some(Event::Lost { from, upto }) => {
                self.tape.write(Item::Lost { from: from.0, upto: upto.0 });
            }
            Some(Event::Undo(undo)) => {
                self.tape.write(Item::Undone { is_end: undo.is_end() });
            }
            None => {}
        }
        self.note_durable();
        event
    }

    fn mark(&self) -> Mark {
        self.journal.mark()
    }

    fn mark_of(&self, key: KeyRef<'_>) -> Mark {
        let mark = self.journal.mark_of(key);
        assert!(mark <= self.journal.mark(), "the mark of one row lies ahead");
        mark
    }

    fn mark_of_states(&self) -> Mark {
        self.journal.mark_of_states()
    }

    fn durable(&self) -> Mark {
        self.journal.durable()
    }

    fn has_room(&self) -> bool {
        self.journal.has_room()
    }

    fn horizon(&self, now: UnixMillis) -> UnixMillis {
        let horizon = self.journal.horizon(now);
        assert!(horizon <= now, "the horizon lies ahead");
        self.tape.horizon.set(horizon.0);
        horizon
    }

    fn due(&self) -> Option<Millis> {
        self.journal.due()
    }

    fn meters(&self, now: Now) -> Option<StoreMeters> {
        self.journal.meters(now)
    }

    fn close(
        &mut self,
        hub: &Hub,
        at: UnixMillis,
        now: Now,
        is_urged: &mut dyn FnMut() -> bool,
    ) -> usize {
        let unkept = self.journal.close(hub, at, now, is_urged);
        self.note_durable();
        unkept
    }

    fn reload(&mut self, limits: &Limits) {
        self.journal.reload(limits);
    }
}
