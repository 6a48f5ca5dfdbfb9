//! What is sent to the worker, one job at a time: a batch of changed rows, or, during a full
//! rewrite, a part of all rows. A turn gathers at most one part.

use super::disk::Fault;
use super::file::Batch;
use super::flight::Flight;
use super::worker::Job;
use super::{Recovery, StoreJournal, skew};
use crate::hub::{Change, Cursor, Hub, Key};
use crate::time::UnixMillis;

/// Maximum rows and bytes gathered in one turn, and in one part of a full rewrite.
pub(super) const PART_ROWS: usize = 2000;
const PART_BYTES: usize = 4 << 20;
/// Maximum expired states in one batch, unless more rows than that have changed.
const ENDS_MAX: usize = 20_000;

impl StoreJournal {
    /// Begins a batch of everything that has changed.
    pub(super) fn begin(&mut self, hub: &Hub, clock: (UnixMillis, UnixMillis)) {
        let mut batch = self.new_batch(clock);
        batch.removed.extend(self.removals.iter().filter_map(|(_, change)| match change {
            Change::Remove { ns } => hub.number(*ns),
            _ => None,
        }));
        let rows = std::mem::take(&mut self.changed);
        // Each expired state was once among the written rows, so they cannot pile up.
        let ends = self.ended.len().min(rows.len().max(ENDS_MAX));
        let ended: Vec<Key> = self.ended.drain(..ends).collect();
        if self.ended.is_empty() {
            // Of a million that expired together it would keep 40 MB.
            self.ended.shrink_to_fit();
        }
        (self.is_urgent, self.sync_at) = (false, None);
        self.ends_at = self.ends_at.filter(|_| !self.ended.is_empty());
        let (upto, since) = (self.mark, self.changed_since.take());
        let removals = self.removals.len();
        let mut flight = Flight { upto, since, rows, ended, removals, gathering: None };
        flight.begin(batch);
        self.flight = Some(flight);
    }

    /// Continues gathering the current batch, up to the limit of one turn.
    pub(super) fn gather(&mut self, hub: &Hub) {
        self.gather_some(hub, PART_ROWS, PART_BYTES);
    }

    /// Gathers the rest of the current batch.
    pub(super) fn gather_all(&mut self, hub: &Hub) {
        self.gather_some(hub, usize::MAX, usize::MAX);
    }

    fn gather_some(&mut self, hub: &Hub, rows: usize, bytes: usize) {
        let gathered = self.flight.as_mut().and_then(|flight| flight.gather(hub, rows, bytes));
        if let Some(batch) = gathered {
            let is_backlog = self.recovery == Recovery::Backlog;
            self.ask(if is_backlog { Job::Backlog(batch) } else { Job::Batch(batch) });
        }
    }

    /// Sends the next part of a full rewrite.
    pub(super) fn send_part(&mut self, hub: &Hub, cursor: Cursor, clock: (UnixMillis, UnixMillis)) {
        let mut batch = self.new_batch(clock);
        let (mut next, mut bytes) = (Some(cursor), 0);
        while let Some(from) = next
            && batch.rows.len() < PART_ROWS
            && bytes < PART_BYTES
        {
            next = hub.rows(from, |key, row| {
                bytes += batch.push(key, Some(row));
                batch.rows.len() < PART_ROWS && bytes < PART_BYTES
            });
        }
        self.recovery = next.map_or(Recovery::AllSent, Recovery::All);
        self.flight = Some(Flight { upto: self.durable, ..Flight::default() });
        self.ask(Job::Part(batch, next.is_none()));
    }

    fn new_batch(&mut self, clock: (UnixMillis, UnixMillis)) -> Batch {
        self.batch += 1;
        self.skew = skew(clock);
        Batch { number: self.batch, clock, ..Batch::default() }
    }

    fn ask(&mut self, job: Job) {
        if !self.worker.ask(job) {
            // The thread never ends by itself, so there is no disk any more.
            self.fail(Fault::Broken("the thread of the store has ended".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use redb::backends::InMemoryBackend;

    use super::super::{Medium, Overlay, Seal, StoreMeta, Writer};
    use super::*;
    use crate::journal::Journal;
    use crate::limits::{Limits, SyncPolicy};
    use crate::time::{Millis, Now};

    struct Memory;

    impl Medium for Memory {
        type Backend = Overlay<InMemoryBackend>;

        fn open(&self) -> io::Result<Self::Backend> {
            Overlay::new(InMemoryBackend::new())
        }

        fn open_next(&self) -> io::Result<Self::Backend> {
            self.open()
        }

        fn install_next(&self) -> io::Result<()> {
            Ok(())
        }

        fn seal(&self, _: &Seal) -> io::Result<()> {
            Ok(())
        }

        fn sync_seal(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_crowd_of_expired_states_leaves_no_memory_behind() {
        let meta = StoreMeta { key: [7; 32], term: 1, batch: 0, clock: Default::default() };
        let (limits, writer) = (Limits::default(), Writer::create(Memory.open().unwrap(), &meta));
        let begun = (meta, Ok(writer.unwrap()));
        let (mut journal, stepper) =
            StoreJournal::start_stepped(Memory, begun, SyncPolicy::Always, &limits);
        let hub = Hub::new(limits, UnixMillis(0));
        journal.ended = (0..50_000).map(|ns| Key::Namespace { ns }).collect();
        for turn in 0..100 {
            let (at, mono) = (UnixMillis(turn * 1000), Millis(turn * 1000));
            journal.commit(&hub, at, Now { mono, unix: at });
            stepper.work();
            assert!(journal.poll().is_none());
        }
        assert_eq!((journal.ended.capacity(), journal.is_failing()), (0, false));
    }
}
