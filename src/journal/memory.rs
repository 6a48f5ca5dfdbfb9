//! A journal that stores nothing: every proposal is ordered at once and counts as durable
//! immediately.

use super::{Event, Journal, Mark, Proposal};
use crate::hub::{Change, Hub, KeyRef, Seq, Undo};
use crate::time::{Now, UnixMillis};

/// A journal without a disk.
#[derive(Debug)]
pub struct MemoryJournal {
    last: Seq,
}

impl MemoryJournal {
    /// Creates a journal whose entries belong to `term`.
    pub fn new(term: u64) -> MemoryJournal {
        MemoryJournal { last: Seq { term, n: 0 } }
    }
}

impl Journal for MemoryJournal {
    fn propose(&mut self, _: UnixMillis, _: &Change<'_>) -> Proposal {
        self.last.n += 1;
        Proposal::Now(self.last)
    }

    fn needs_no_undo(&mut self, _: KeyRef<'_>, _: usize) -> bool {
        true
    }

    fn after_change(&mut self, _: Undo) {}

    fn commit(&mut self, _: &Hub, _: UnixMillis, _: Now) {}

    fn poll(&mut self) -> Option<Event> {
        None
    }

    fn mark(&self) -> Mark {
        Mark(self.last.n)
    }

    fn mark_of(&self, _: KeyRef<'_>) -> Mark {
        Mark::default()
    }

    fn durable(&self) -> Mark {
        self.mark()
    }
}
