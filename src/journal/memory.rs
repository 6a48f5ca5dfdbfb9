//! A journal that stores nothing: every proposal is ordered at once and counts as durable
//! immediately.

use super::{Event, Journal, Mark, Proposal};
use crate::hub::{Change, Hub, KeyRef, Undo};
use crate::time::{Now, UnixMillis};

/// A journal without a disk.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    mark: Mark,
}

impl Journal for MemoryJournal {
    fn propose(&mut self, _: UnixMillis, _: &Change<'_>) -> Proposal {
        self.mark.0 += 1;
        Proposal::Now
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
        self.mark
    }

    fn mark_of(&self, _: KeyRef<'_>) -> Mark {
        Mark::default()
    }

    fn durable(&self) -> Mark {
        self.mark()
    }
}
