//! The embedded store: a journal that keeps recorded changes in one file, so that whatever was
//! acknowledged is still there after a crash.
//!
//! The hub is changed at once, and the change is undone if the disk refuses it. The journal notes
//! which rows changed until the worker thread is free, then hands over all of them in one batch,
//! each row as the hub had it at that moment; one sync makes them durable for all replies that
//! wait. A large batch is gathered over several turns, as is all other work on many rows. Only the
//! removal of a namespace, which cannot be undone, is not ordered before it is durable.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | the journal: changed rows, the batch in flight, recovery after a fault |
//! | `open` | startup: verifying that the store exists and is intact |
//! | `worker` | the thread that does the disk I/O |
//! | `file` | one redb file: reading all of it, writing batches |
//! | `format`, `tables`, `pages` | keys, values, tags; the rows of a file; its trees without redb |
//! | `disk`, `health` | backends between redb and the disk; whether it can be written |
//! | `flight`, `send` | changed rows, and the batch in flight; what is sent to the worker |
//! | `folder` | names, lock and seal of the data folder |
//! | `salvage`, `snapshot` | reading a damaged file, and one that a server writes to meanwhile |
//! | `rewrite` | replacing the store by a new one while no server runs |

mod disk;
mod file;
mod flight;
mod folder;
mod format;
mod health;
mod open;
mod pages;
mod rewrite;
mod salvage;
mod send;
mod snapshot;
mod tables;
mod worker;

use std::collections::VecDeque;
use std::time::Duration;

use super::{Event, Journal, Mark, Proposal, Ticket};
use crate::hub::{Change, Cursor, Entry, Hub, Key, KeyRef, Row, Undo};
use crate::limits::{Limits, SyncPolicy};
use crate::metrics::StoreMeters;
use crate::time::{Millis, Now, Stopwatch, UnixMillis};
use file::skew;
use flight::{Bounds, Flight, Rows};
use health::Health;
use send::PART_ROWS;
use worker::{Job, Report, Worker, WorkerHandle};

pub use disk::{Discard, Disk, Fault, Guard, Overlay, Watch};
pub use file::{Batch, Content, Damage, Opening, StoreMeta, Writer};
pub use folder::{Beside, Folder, Home, Medium, Seal, SealState};
pub use format::FORMAT;
pub use open::{DAMAGED_ADVICE, OpenError, Opened};
pub use rewrite::Rewrite;
pub use salvage::{Lost, Salvage};
pub use snapshot::{NoSnapshot, snapshot};
pub use worker::{Stepper, Wake};

/// Expired states are deleted from the disk with the next batch, or after this long.
const ENDS_MS: u64 = 1000;
/// A step of the wall clock larger than this is recorded in the store.
const STEP_MS: u64 = 500;
/// How often the wall clock is compared with the monotonic clock while anything can expire.
const CLOCK_MS: u64 = 1000;
/// How long the disk may take in all to finish when the server stops.
const CLOSE: Duration = Duration::from_secs(10);

/// What to do after a fault once the worker is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    /// Nothing, or the disk does not work yet.
    None,
    /// Write the changed rows; no new change is accepted before they are durable.
    Backlog,
    /// Write all rows into a new file, starting at this cursor.
    All(Cursor),
    /// All rows have been sent to the worker.
    AllSent,
}

/// A journal backed by a file.
#[derive(Debug)]
pub struct StoreJournal {
    worker: WorkerHandle,
    sync: SyncPolicy,
    limits: Bounds,
    next_ticket: u64,
    /// Rows that have changed and are not in flight.
    changed: Rows,
    /// When the oldest of these changes was made.
    changed_since: Option<Millis>,
    /// Whether keys or grants are among them.
    is_urgent: bool,
    /// Keys of expired states whose rows are still on disk.
    ended: VecDeque<Key>,
    flight: Option<Flight>,
    /// Rows that had changed before a full rewrite began, which writes them too.
    backlog: Rows,
    /// Flights that are durable and whose memory is still to be freed.
    landed: Vec<Flight>,
    /// Undo records, each with its mark, and their size in bytes. Records of changes that have
    /// become durable stay at the front until they are freed.
    undos: VecDeque<(Mark, Undo)>,
    undo_bytes: usize,
    /// Whether everything that is not durable is being undone.
    is_undoing: bool,
    removals: Vec<(Ticket, Change<'static>)>,
    mark: Mark,
    durable: Mark,
    ready: VecDeque<Event>,
    health: Health,
    recovery: Recovery,
    /// Number of the last batch.
    batch: u64,
    /// Deadlines for writing changed states and for deleting expired ones.
    sync_at: Option<Millis>,
    ends_at: Option<Millis>,
    clock_at: Option<Millis>,
    /// Date minus entry time (see [`StoreMeta::clock`]), as recorded on disk.
    skew: i64,
    /// The time of this turn, and the same moment in entry time.
    now: Now,
    at: UnixMillis,
    /// Counters; `Journal::meters` adds the current values.
    meters: StoreMeters,
}

impl StoreJournal {
    /// Continues with an open store. The worker gets its own thread and calls `wake` when it has
    /// something to report.
    ///
    /// If the disk is full, it is retried, exactly as when it fills up later.
    ///
    /// # Errors
    /// If the thread cannot be spawned.
    pub fn start(
        medium: impl Medium,
        begun: (StoreMeta, Opening),
        sync: SyncPolicy,
        limits: &Limits,
        wake: Wake,
    ) -> std::io::Result<StoreJournal> {
        let (worker, journal) = StoreJournal::new(medium, begun, sync, limits, wake);
        worker.start()?;
        Ok(journal)
    }

    /// [`StoreJournal::start`] without a thread: the stepper runs the worker.
    pub fn start_stepped(
        medium: impl Medium,
        begun: (StoreMeta, Opening),
        sync: SyncPolicy,
        limits: &Limits,
    ) -> (StoreJournal, Stepper) {
        let wake = Box::new(|| ());
        let (worker, mut journal) = StoreJournal::new(medium, begun, sync, limits, wake);
        let stepper = Stepper::over(worker);
        journal.worker.stepper = Some(stepper.clone());
        (journal, stepper)
    }

    fn new<M: Medium>(
        medium: M,
        (meta, writer): (StoreMeta, Opening),
        sync: SyncPolicy,
        limits: &Limits,
        wake: Wake,
    ) -> (Worker<M>, StoreJournal) {
        let (worker, handle) =
            Worker::new(medium, meta.clone(), writer, limits.store_retry(), wake);
        let (file_bytes, content_bytes) = worker.size();
        let mut journal = StoreJournal {
            worker: handle,
            sync,
            limits: Bounds::new(limits),
            next_ticket: 0,
            changed: Rows::default(),
            changed_since: None,
            is_urgent: false,
            ended: VecDeque::new(),
            flight: None,
            backlog: Rows::default(),
            landed: Vec::new(),
            undos: VecDeque::new(),
            undo_bytes: 0,
            is_undoing: false,
            removals: Vec::new(),
            mark: Mark(0),
            durable: Mark(0),
            ready: VecDeque::new(),
            health: Health::default(),
            recovery: Recovery::None,
            batch: meta.batch,
            sync_at: None,
            ends_at: None,
            clock_at: None,
            skew: skew(meta.clock),
            now: Now { unix: meta.clock.1, ..Now::default() },
            at: meta.clock.0,
            meters: StoreMeters { file_bytes, content_bytes, ..StoreMeters::default() },
        };
        if let Some(fault) = worker.fault() {
            journal.fail(fault);
        }
        (worker, journal)
    }

    /// Returns whether the disk cannot be written, so that changes are refused.
    pub fn is_failing(&self) -> bool {
        !self.health.is_good()
    }

    /// Returns whether a reply waits for this row; its previous contents must then be kept.
    fn is_waited_for(&self, key: &Key) -> bool {
        self.last_mark(key.as_ref()) > self.durable
    }

    /// Returns the mark of the last change of a row that may not be durable yet.
    fn last_mark(&self, key: KeyRef<'_>) -> Mark {
        let flying = || self.flight.as_ref().and_then(|flight| flight.rows.get(key));
        self.changed.get(key).or_else(flying).map_or(Mark::default(), |row| row.mark)
    }

    /// Records that a row must be written.
    fn note(&mut self, key: Key, mark: Mark, bytes: usize) {
        self.is_urgent |= !matches!(key, Key::State { .. });
        self.changed.note(key, mark, bytes);
    }

    /// Returns whether a batch must be sent as soon as the worker is free.
    fn is_pressing(&self) -> bool {
        let is_waited_for = self.sync == SyncPolicy::Always && !self.changed.is_empty();
        is_waited_for || self.is_urgent || !self.removals.is_empty() || self.is_full()
    }

    /// Returns whether the limit on changes that wait for the disk is reached.
    fn is_full(&self) -> bool {
        let Bounds { bytes, changes } = self.limits;
        self.changed.bytes() + self.undo_bytes >= bytes
            || self.changed.len().max(self.undos.len()) >= changes
    }

    fn handle(&mut self, report: Report) {
        match report {
            Report::Written { took_us, size } => {
                self.meters.batches.record(took_us);
                self.meters.last_batch_us = took_us;
                (self.meters.file_bytes, self.meters.content_bytes) = size;
                self.written();
            }
            Report::Tidied { size } => {
                (self.meters.file_bytes, self.meters.content_bytes) = size;
            }
            Report::Failed(fault) => self.fail(fault),
            Report::Still(fault) => self.health.still(fault, self.now),
            Report::Ready { is_empty: true } => {
                self.backlog = std::mem::take(&mut self.changed);
                self.is_urgent = false;
                self.recovery = Recovery::All(Cursor::default());
            }
            Report::Ready { is_empty: false } => self.recovery = Recovery::Backlog,
            Report::Stopped => {}
        }
    }

    /// Handles the report that the flight is durable.
    fn written(&mut self) {
        let Some(flight) = self.flight.take() else { return };
        self.durable = self.durable.max(flight.upto);
        for (ticket, change) in self.removals.drain(..flight.removals) {
            let entry = Entry { at: self.at, change };
            self.ready.push_back(Event::Entry(Some(ticket), entry, Mark::default()));
        }
        self.landed.push(flight);
        if matches!(self.recovery, Recovery::Backlog | Recovery::AllSent) {
            // Rows that changed after this was sent are in `changed` and go with the next batch.
            let rows = std::mem::take(&mut self.backlog);
            self.landed.push(Flight { rows, ..Flight::default() });
            self.recovery = Recovery::None;
            self.health.recover(self.now);
        }
    }

    /// Frees memory that is no longer needed, a limited amount per turn.
    fn shed(&mut self) {
        while let Some(flight) = self.landed.last_mut()
            && flight.shed(PART_ROWS)
        {
            self.landed.pop();
        }
        for _ in 0..PART_ROWS {
            if self.undos.front().is_none_or(|(mark, _)| *mark > self.durable) {
                return;
            }
            let undo = self.undos.pop_front();
            self.undo_bytes -= undo.map_or(0, |(_, undo)| undo.bytes());
        }
    }

    /// Returns how many states were acknowledged as changed but are not on disk.
    fn unkept(&self) -> usize {
        if self.sync == SyncPolicy::Always {
            // With this policy nothing is acknowledged before it is durable.
            return 0;
        }
        let flying = self.flight.iter().flat_map(|flight| flight.rows.states());
        let others = self.backlog.states().chain(flying);
        let is_other = |key: &&Key| self.changed.get(key.as_ref()).is_none();
        self.changed.states().count() + others.filter(is_other).count()
    }

    /// Returns whether states that were acknowledged as changed are neither on disk nor in flight.
    fn has_unkept(&self) -> bool {
        let waiting = self.changed.states().chain(self.backlog.states()).next();
        self.sync != SyncPolicy::Always && waiting.is_some()
    }

    /// Returns the next change to undo, the last one first.
    fn next_undo(&mut self) -> Option<Undo> {
        let is_left = self.undos.back().is_some_and(|(mark, _)| *mark > self.durable);
        self.is_undoing &= is_left;
        if !self.is_undoing {
            return None;
        }
        let (_, undo) = self.undos.pop_back()?;
        self.undo_bytes -= undo.bytes();
        Some(undo)
    }

    fn is_shedding(&self) -> bool {
        !self.landed.is_empty() || self.undos.front().is_some_and(|it| it.0 <= self.durable)
    }

    /// During shutdown nobody applies what is ordered, so the hub still has the rows of a namespace
    /// whose removal is durable. They must not be written again.
    fn forget_removed(&mut self, hub: &Hub) {
        for event in self.ready.drain(..) {
            let Event::Entry(_, Entry { change: Change::Remove { ns }, .. }, _) = event else {
                continue;
            };
            if let Some(removed) = hub.number(ns) {
                self.changed.retain(|key| key.ns() != removed);
                self.ended.retain(|key| key.ns() != removed);
            }
        }
    }

    /// Handles a fault: what was in flight has failed, and with it every change after it.
    fn fail(&mut self, fault: Fault) {
        self.recovery = Recovery::None;
        self.changed.join(std::mem::take(&mut self.backlog));
        if let Some(flight) = self.flight.take() {
            // It is no longer certain what the disk has of these rows.
            self.changed_since = flight.since.or(self.changed_since);
            self.changed.join(flight.rows);
            self.ended.extend(flight.ended);
        }
        let (from, upto) = (self.durable, self.mark);
        // Changes that were waiting count as refused too, although they came before the fault.
        let refused = upto.0 - from.0 + self.removals.len() as u64;
        self.meters.refused_changes += refused;
        self.is_undoing = true;
        for (ticket, _) in self.removals.drain(..) {
            self.ready.push_back(Event::Failed(ticket));
        }
        self.ready.push_back(Event::Lost { from, upto });
        self.meters.failures += u64::from(self.health.is_good());
        self.health.fail(fault, refused, self.now);
    }

    /// The removal of a namespace is not ordered before it is durable.
    #[cold]
    fn propose_removal(&mut self, change: &Change<'_>) -> Proposal {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.removals.push((ticket, change.clone().into_owned()));
        Proposal::Later(ticket)
    }
}

impl Journal for StoreJournal {
    fn propose(&mut self, _: UnixMillis, change: &Change<'_>) -> Proposal {
        if change.is_recorded() && self.health.refuses() {
            self.meters.refused_changes += 1;
            return Proposal::Refused;
        }
        if matches!(change, Change::Remove { .. }) {
            return self.propose_removal(change);
        }
        Proposal::Now
    }

    fn needs_no_undo(&mut self, key: KeyRef<'_>, bytes: usize) -> bool {
        if self.sync == SyncPolicy::Always || !matches!(key, KeyRef::State { .. }) {
            return false;
        }
        // It is acknowledged at once and never undone, whatever happens to the disk.
        if !self.changed.note_easily(key, bytes) {
            self.note(key.key(), Mark::default(), bytes);
        }
        true
    }

    fn before_change<'a>(&mut self, key: KeyRef<'_>, row: &dyn Fn() -> Option<Row<'a>>) {
        if let Some(flight) = &mut self.flight {
            flight.before_change(key, row);
        }
    }

    fn after_change(&mut self, undo: Undo) {
        if undo.is_end() {
            // If the row is in `changed`, the batch that writes it also deletes it.
            if self.changed.get(undo.key.as_ref()).is_none() {
                self.ended.push_back(undo.key.clone());
            }
            if self.is_waited_for(&undo.key) {
                self.undo_bytes += undo.bytes();
                self.undos.push_back((self.mark, undo));
            }
            return;
        }
        let is_state = matches!(undo.key, Key::State { .. });
        if is_state && self.sync != SyncPolicy::Always {
            return self.note(undo.key, Mark::default(), undo.row_bytes);
        }
        self.mark.0 += 1;
        self.note(undo.key.clone(), self.mark, undo.row_bytes);
        self.undo_bytes += undo.bytes();
        self.undos.push_back((self.mark, undo));
    }

    fn commit(&mut self, hub: &Hub, at: UnixMillis, now: Now) {
        if let SyncPolicy::Every(ms) = self.sync
            && !self.changed.is_empty()
        {
            self.sync_at.get_or_insert(now.mono.plus(ms));
        }
        // A full rewrite writes the owed rows without `begin`, which would reset `changed_since`.
        match self.changed.is_empty() && self.backlog.is_empty() {
            true => self.changed_since = None,
            false => _ = self.changed_since.get_or_insert(now.mono),
        }
        if !self.ended.is_empty() {
            self.ends_at.get_or_insert(now.mono.plus(ENDS_MS));
        }
        (self.now, self.at) = (now, at);
        self.health.tell(now);
        let clock = (at, now.unix);
        self.shed();
        if self.flight.is_some() {
            return self.gather(hub);
        }
        match self.recovery {
            Recovery::Backlog => {
                self.begin(hub, clock);
                return self.gather(hub);
            }
            Recovery::All(cursor) => return self.send_part(hub, cursor, clock),
            Recovery::AllSent => return,
            Recovery::None if self.is_failing() => return,
            Recovery::None => {}
        }
        let has_ends = hub.has_ends(at);
        self.clock_at = has_ends.then(|| {
            let next = now.mono.plus(CLOCK_MS);
            self.clock_at.filter(|at| *at > now.mono).unwrap_or(next)
        });
        let has_stepped = skew(clock).abs_diff(self.skew) > STEP_MS && has_ends;
        let is_over = |at: Option<Millis>| at.is_some_and(|at| at <= now.mono);
        let is_due = is_over(self.sync_at) || is_over(self.ends_at);
        if has_stepped || is_due || self.is_pressing() {
            self.begin(hub, clock);
            self.gather(hub);
        }
    }

    fn poll(&mut self) -> Option<Event> {
        loop {
            if let Some(undo) = self.next_undo() {
                return Some(Event::Undo(undo));
            }
            let Some(event) = self.ready.pop_front() else {
                let report = self.worker.report()?;
                self.handle(report);
                continue;
            };
            if let Event::Lost { upto, .. } = event {
                self.durable = upto;
            }
            return Some(event);
        }
    }

    fn mark(&self) -> Mark {
        self.mark
    }

    fn mark_of_states(&self) -> Mark {
        if self.sync == SyncPolicy::Always { self.mark } else { Mark::default() }
    }

    fn mark_of(&self, key: KeyRef<'_>) -> Mark {
        if self.sync != SyncPolicy::Always && matches!(key, KeyRef::State { .. }) {
            return Mark::default();
        }
        self.last_mark(key)
    }

    fn durable(&self) -> Mark {
        self.durable
    }

    fn has_room(&self) -> bool {
        // While the disk fails nothing waits for room: changes are refused instead.
        self.is_failing() || !self.is_full()
    }

    fn due(&self) -> Option<Millis> {
        if !self.ready.is_empty() || self.is_undoing || self.is_shedding() {
            return Some(Millis(0));
        }
        if let Some(flight) = &self.flight {
            // Once the batch is gathered and sent, the worker wakes the loop.
            return flight.gathering.as_ref().map(|_| Millis(0));
        }
        match self.recovery {
            Recovery::Backlog | Recovery::All(_) => return Some(Millis(0)),
            _ if self.is_failing() => return None,
            // The worker became free after the last `commit`.
            _ if self.is_pressing() => return Some(Millis(0)),
            _ => {}
        }
        [self.sync_at, self.ends_at, self.clock_at, self.health.due()].into_iter().flatten().min()
    }

    fn reload(&mut self, limits: &Limits) {
        self.limits = Bounds::new(limits);
    }

    fn meters(&self, now: Now) -> Option<StoreMeters> {
        let flying = self.flight.as_ref().map_or(0, |flight| flight.rows.len());
        let flying_since = self.flight.as_ref().and_then(|flight| flight.since);
        let since = flying_since.or(self.changed_since);
        Some(StoreMeters {
            is_failing: self.is_failing(),
            pending_changes: self.changed.len() + self.backlog.len() + flying,
            pending_bytes: self.changed.bytes() + self.undo_bytes,
            lag_ms: since.map_or(0, |since| now.mono.0.saturating_sub(since.0)),
            ..self.meters.clone()
        })
    }

    fn close(
        &mut self,
        hub: &Hub,
        at: UnixMillis,
        now: Now,
        is_urged: &mut dyn FnMut() -> bool,
    ) -> usize {
        let (clock, mut is_stuck, watch) = ((at, now.unix), false, Stopwatch::start());
        let left = || CLOSE.saturating_sub(Duration::from_micros(watch.elapsed_us()));
        loop {
            if self.flight.is_none() {
                let is_done = self.changed.is_empty() && self.ended.is_empty();
                match self.recovery {
                    Recovery::None if self.is_failing() => break,
                    Recovery::None if is_done && skew(clock) == self.skew => break,
                    // The disk works again. Go on only if acknowledged states are missing on it.
                    Recovery::All(_) | Recovery::Backlog if !self.has_unkept() => break,
                    Recovery::All(cursor) => self.send_part(hub, cursor, clock),
                    _ => self.begin(hub, clock),
                }
            }
            self.gather_all(hub);
            // These were acknowledged: urgency is no reason to lose them.
            let is_owed = self.unkept() > 0;
            let Some(report) = self.worker.wait(left(), &mut || !is_owed && is_urged()) else {
                is_stuck = true;
                break;
            };
            self.handle(report);
            self.forget_removed(hub);
        }
        self.health.end(now);
        // Once a wait has been given up, there is no second one.
        if !is_stuck && self.worker.ask(Job::Stop) {
            while self.worker.wait(left(), is_urged).is_some_and(|it| it != Report::Stopped) {}
        }
        self.unkept()
    }
}
