//! A test journal that answers at once and sometimes takes the answer back, like a disk that turns
//! out to be full. Changes become durable some turns later in one batch, or everything that is not
//! durable yet is undone. Only the removal of a namespace, which cannot be undone, is not ordered
//! before it is durable.

use std::collections::VecDeque;

use super::fault_rng::FaultRng;
use super::{Event, Journal, Mark, Proposal, Ticket};
use crate::hub::{Change, Entry, Hub, Key, KeyRef, Undo};
use crate::time::{Millis, Now, UnixMillis};

/// Maximum number of changes that may wait.
const WAITING_MAX: usize = 24;

/// A journal with random failures; the same seed gives the same behaviour.
#[derive(Debug)]
pub struct RollbackJournal {
    faults: FaultRng,
    next_ticket: u64,
    /// Changes that are not durable yet, each with its mark.
    undos: VecDeque<(Mark, Undo)>,
    removals: Vec<(Ticket, UnixMillis, Change<'static>)>,
    /// The mark of the last change.
    mark: Mark,
    durable: Mark,
    /// The batch in flight: last mark, number of removals, and the turn in which it completes.
    batch: Option<(Mark, usize, u64)>,
    ready: VecDeque<Event>,
    /// Rows that are being undone, the last change first.
    lost: Vec<(Mark, Key)>,
    turn: u64,
    /// The turn from which the disk works again.
    works_at: u64,
}

impl RollbackJournal {
    /// `fails_one_in`: one batch in this many fails; 0 for none.
    pub fn new(seed: u64, fails_one_in: u64) -> RollbackJournal {
        RollbackJournal {
            faults: FaultRng::new(seed, fails_one_in),
            next_ticket: 0,
            undos: VecDeque::new(),
            removals: Vec::new(),
            mark: Mark(0),
            durable: Mark(0),
            batch: None,
            ready: VecDeque::new(),
            lost: Vec::new(),
            turn: 0,
            works_at: 0,
        }
    }

    fn keep(&mut self, upto: Mark, removals: usize, at: UnixMillis) {
        self.durable = upto;
        while self.undos.front().is_some_and(|(mark, _)| *mark <= upto) {
            self.undos.pop_front();
        }
        for (ticket, _, change) in self.removals.drain(..removals).collect::<Vec<_>>() {
            let entry = Entry { at, change };
            self.ready.push_back(Event::Entry(Some(ticket), entry, Mark::default()));
        }
    }

    fn lose(&mut self) {
        let (from, upto) = (self.durable, self.mark);
        for (mark, undo) in self.undos.drain(..).rev() {
            if !undo.is_end() {
                self.lost.push((mark, undo.key.clone()));
            }
            self.ready.push_back(Event::Undo(undo));
        }
        let failed = self.removals.drain(..).map(|(ticket, ..)| Event::Failed(ticket));
        self.ready.extend(failed);
        self.ready.push_back(Event::Lost { from, upto });
        self.works_at = self.turn + self.faults.draw(6);
    }
}

impl Journal for RollbackJournal {
    fn propose(&mut self, at: UnixMillis, change: &Change<'_>) -> Proposal {
        let is_down = self.turn < self.works_at || !self.lost.is_empty();
        if change.is_recorded() && is_down {
            return Proposal::Refused;
        }
        if matches!(change, Change::Remove { .. }) {
            self.next_ticket += 1;
            let ticket = Ticket(self.next_ticket);
            self.removals.push((ticket, at, change.clone().into_owned()));
            return Proposal::Later(ticket);
        }
        Proposal::Now
    }

    fn after_change(&mut self, undo: Undo) {
        if !undo.is_end() {
            self.mark.0 += 1;
        }
        self.undos.push_back((self.mark, undo));
    }

    fn commit(&mut self, _: &Hub, at: UnixMillis, _: Now) {
        self.turn += 1;
        if let Some((upto, removals, turn)) = self.batch
            && turn <= self.turn
        {
            self.batch = None;
            if self.faults.fails() {
                return self.lose();
            }
            self.keep(upto, removals, at);
        }
        if self.batch.is_none() && !(self.undos.is_empty() && self.removals.is_empty()) {
            let turn = self.turn + 1 + self.faults.draw(4);
            self.batch = Some((self.mark, self.removals.len(), turn));
        }
    }

    fn poll(&mut self) -> Option<Event> {
        let event = self.ready.pop_front();
        if let Some(Event::Lost { upto, .. }) = event {
            self.durable = upto;
            self.lost.clear();
        }
        event
    }

    fn mark(&self) -> Mark {
        self.mark
    }

    fn mark_of(&self, key: KeyRef<'_>) -> Mark {
        let is_it = |undo: &Undo| undo.key.as_ref() == key && !undo.is_end();
        let last = self.undos.iter().rfind(|(_, undo)| is_it(undo)).map(|(mark, _)| *mark);
        let lost = || self.lost.iter().find(|(_, it)| it.as_ref() == key).map(|(mark, _)| *mark);
        last.or_else(lost).unwrap_or_default()
    }

    fn durable(&self) -> Mark {
        self.durable
    }

    fn has_room(&self) -> bool {
        self.undos.len() < WAITING_MAX
    }

    fn due(&self) -> Option<Millis> {
        let is_busy = self.batch.is_some() || !self.undos.is_empty() || !self.removals.is_empty();
        (is_busy || !self.ready.is_empty()).then_some(Millis(0))
    }
}
