//! A test journal that never answers at once: it returns entries in batches some turns later, makes
//! them durable later still, and sometimes fails. It tests the `Journal` interface: code that runs
//! on it would also run on a journal shared by several nodes.

use std::collections::VecDeque;

use super::fault_rng::FaultRng;
use super::{Event, Journal, Mark, Proposal, Ticket};
use crate::hub::{Change, Entry, Hub, Undo};
use crate::time::{Millis, Now, UnixMillis};

/// Maximum number of proposals that may wait.
const WAITING_MAX: usize = 256;

/// A journal with random delays and failures; the same seed gives the same behaviour.
#[derive(Debug)]
pub struct DelayedJournal {
    faults: FaultRng,
    mark: Mark,
    next_ticket: u64,
    /// Proposals in order, each with the turn in which it comes back. `at` never decreases along
    /// the queue.
    waiting: VecDeque<(u64, Ticket, UnixMillis, Change<'static>)>,
    /// Events that `poll` returns now.
    ready: VecDeque<Event>,
    turn: u64,
    durable: Mark,
    /// The turn in which every entry returned so far becomes durable.
    sync_at: u64,
}

impl DelayedJournal {
    /// `fails_one_in`: one proposal in this many fails; 0 for none.
    pub fn new(seed: u64, fails_one_in: u64) -> DelayedJournal {
        DelayedJournal {
            faults: FaultRng::new(seed, fails_one_in),
            mark: Mark(0),
            next_ticket: 0,
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            turn: 0,
            durable: Mark(0),
            sync_at: 0,
        }
    }
}

impl Journal for DelayedJournal {
    fn propose(&mut self, at: UnixMillis, change: &Change<'_>) -> Proposal {
        if self.waiting.len() >= WAITING_MAX {
            return Proposal::Refused;
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        let delay = 1 + self.faults.draw(4);
        self.waiting.push_back((self.turn + delay, ticket, at, change.clone().into_owned()));
        Proposal::Later(ticket)
    }

    fn after_change(&mut self, _: Undo) {
        // Nothing to undo: what is ordered here is never lost.
    }

    fn commit(&mut self, _: &Hub, _: UnixMillis, _: Now) {
        self.turn += 1;
        while self.waiting.front().is_some_and(|(turn, ..)| *turn <= self.turn) {
            let Some((_, ticket, at, change)) = self.waiting.pop_front() else { break };
            if self.faults.fails() {
                self.ready.push_back(Event::Failed(ticket));
                continue;
            }
            self.mark.0 += 1;
            self.ready.push_back(Event::Entry(Some(ticket), Entry { at, change }, self.mark));
        }
        if self.turn >= self.sync_at {
            self.durable = self.mark();
            self.sync_at = self.turn + self.faults.draw(3);
        }
    }

    fn poll(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    fn mark(&self) -> Mark {
        self.mark
    }

    fn durable(&self) -> Mark {
        self.durable
    }

    fn horizon(&self, now: UnixMillis) -> UnixMillis {
        let ready = self.ready.iter().find_map(|event| match event {
            Event::Entry(_, entry, _) => Some(entry.at),
            _ => None,
        });
        ready.or(self.waiting.front().map(|(_, _, at, _)| *at)).unwrap_or(now)
    }

    fn due(&self) -> Option<Millis> {
        let is_busy =
            !self.waiting.is_empty() || !self.ready.is_empty() || self.durable < self.mark();
        is_busy.then_some(Millis(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(n: u64) -> Change<'static> {
        Change::Register { name: n.to_string().into(), key: "k".into() }
    }

    #[test]
    fn every_proposal_completes_once_and_in_order() {
        let hub = Hub::new(crate::limits::Limits::default(), UnixMillis(0));
        let mut journal = DelayedJournal::new(42, 5);
        let mut tickets = Vec::new();
        let mut back = Vec::new();
        let mut failed = 0;
        for turn in 0..400 {
            let oldest = (back.len() as u64).min(300);
            let now = if turn < 300 { turn } else { 300 };
            assert_eq!(journal.horizon(UnixMillis(now)), UnixMillis(oldest));
            if turn < 300 {
                match journal.propose(UnixMillis(turn), &change(turn)) {
                    Proposal::Later(ticket) => tickets.push(ticket),
                    other => panic!("{other:?}"),
                }
            }
            journal.commit(&hub, UnixMillis(turn), Now::default());
            while let Some(event) = journal.poll() {
                match event {
                    Event::Entry(ticket, ..) => back.push(ticket.unwrap()),
                    Event::Failed(ticket) => {
                        failed += 1;
                        back.push(ticket);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(back, tickets);
        assert!(failed > 10 && failed < 150, "{failed}");
        assert!(journal.due().is_none() && journal.durable() == journal.mark());
    }
}
