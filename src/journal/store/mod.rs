//! The embedded store: a journal that keeps what is recorded in one file, so that what was
//! acknowledged is there after any crash.
//!
//! The hub is changed at once, and the change undone if the disk refuses it. The rows that changed
//! are gathered until the helper thread is free; then it gets them all in one batch, each as the
//! hub has it at that moment, and one sync makes them durable for everybody who waits. Only the
//! end of a namespace, which could not be undone, waits for its place until it is durable.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | the journal: what has changed, what is on its way, what is owed |
//! | `open` | the start: is all of it there, and as it was written? |
//! | `helper` | the thread that waits for the disk |
//! | `file` | one redb file: reading all of it, writing batches |
//! | `format`, `tables`, `pages` | keys, values, tags; the rows of a file; its trees without redb |
//! | `disk` | what stands between redb and the disk |
//! | `flight` | what has changed, and what is on its way |
//! | `health` | whether the disk can be written, and what the log says of it |
//! | `folder` | names, lock and seal of the data folder |
//! | `salvage` | what can still be read of a damaged file |
//! | `rewrite` | another store in place of this one, while no server runs |

mod disk;
mod file;
mod flight;
mod folder;
mod format;
mod health;
mod helper;
mod open;
mod pages;
mod rewrite;
mod salvage;
mod tables;

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;

use super::{Event, Journal, Mark, Proposal, Ticket};
use crate::hub::{Change, Cursor, Entry, Hub, Key, KeyRef, Seq, Undo};
use crate::limits::{Limits, SyncPolicy};
use crate::metrics::StoreMeters;
use crate::time::{Millis, Now, UnixMillis};
use file::began;
use flight::{Bounds, Changed, Flight, states_in};
use health::Health;
use helper::{Helper, Job, Report};

pub use disk::{Discard, Disk, Fault, Guard, Overlay, Watch};
pub use file::{Batch, Content, Damage, Facts, Opening, Writer};
pub use folder::{Folder, Found, Home, Medium, Seal};
pub use format::FORMAT;
pub use helper::{Stepper, Wake};
pub use open::{DAMAGED_ADVICE, OpenError, Opened};
pub use rewrite::Rewrite;
pub use salvage::{Lost, Salvage};

/// The ends of states reach the disk with the next batch, or after so long.
const ENDS_MS: u64 = 1000;
/// Ends of states in one batch, at most.
const ENDS_MAX: usize = 20_000;
/// Rows and bytes of one part, when a store is written anew.
const PART_ROWS: usize = 2000;
const PART_BYTES: usize = 4 << 20;
/// A clock that steps further than this is noted in the store.
const STEP_MS: u64 = 500;
/// The date is compared with the clock so often, while anything has an end.
const CLOCK_MS: u64 = 1000;
/// The disk has so long to finish when the server stops.
const CLOSE: Duration = Duration::from_secs(10);

/// What is to be done once the helper is free, after a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recovery {
    /// Nothing, or the disk does not work yet.
    None,
    /// What has changed goes first: nothing new is taken in before it is durable.
    Debt,
    /// All rows go again, from here on.
    All(Cursor),
    /// They have all gone.
    AllSent,
}

/// A journal over a file.
#[derive(Debug)]
pub struct StoreJournal {
    helper: Helper,
    sync: SyncPolicy,
    limits: Bounds,
    last: Seq,
    next_ticket: u64,
    /// What has changed and is not on its way, and its bytes.
    changed: HashMap<Key, Changed>,
    changed_bytes: usize,
    /// When the oldest of that came.
    changed_since: Option<Millis>,
    /// Whether keys or grants are among that.
    is_urgent: bool,
    /// States that have ended, whose rows are still on disk.
    ended: VecDeque<Key>,
    flight: Option<Flight>,
    /// How to take back what is not durable yet, each with its mark, and its bytes.
    undos: VecDeque<(Mark, Undo)>,
    undo_bytes: usize,
    removals: Vec<(Ticket, Change<'static>)>,
    mark: Mark,
    durable: Mark,
    ready: VecDeque<Event>,
    health: Health,
    recovery: Recovery,
    /// Number of the last batch.
    batch: u64,
    /// What must be on disk by then, and the ends of states by then.
    sync_at: Option<Millis>,
    ends_at: Option<Millis>,
    clock_at: Option<Millis>,
    /// Date less time on the scale of entries, as it stands on disk.
    skew: i64,
    /// The time of this turn, and the same on the scale of entries.
    now: Now,
    at: UnixMillis,
    /// What was counted; `Journal::meters` adds what can be seen.
    meters: StoreMeters,
}

impl StoreJournal {
    /// Goes on with an open store, on a thread of its own, which calls `wake` when it has something
    /// to tell.
    ///
    /// A disk that is full is tried again, as it is when that happens later.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(
        medium: impl Medium,
        (facts, writer): (Facts, Opening),
        sync: SyncPolicy,
        limits: &Limits,
        wake: Wake,
    ) -> std::io::Result<StoreJournal> {
        let began = began(&writer);
        let helper = Helper::start(medium, facts.clone(), writer, limits.store_retry(), wake)?;
        Ok(StoreJournal::new(helper, facts, began, sync, limits))
    }

    /// [`StoreJournal::start`] without a thread: the work is done when the stepper lets it be.
    pub fn start_stepped(
        medium: impl Medium,
        (facts, writer): (Facts, Opening),
        sync: SyncPolicy,
        limits: &Limits,
    ) -> (StoreJournal, Stepper) {
        let began = began(&writer);
        let (helper, stepper) =
            Helper::stepped(medium, facts.clone(), writer, limits.store_retry());
        (StoreJournal::new(helper, facts, began, sync, limits), stepper)
    }

    fn new(
        helper: Helper,
        facts: Facts,
        ((file_bytes, content_bytes), fault): ((u64, u64), Option<Fault>),
        sync: SyncPolicy,
        limits: &Limits,
    ) -> StoreJournal {
        let mut journal = StoreJournal {
            helper,
            sync,
            limits: Bounds::new(limits),
            last: Seq { term: facts.term, n: 0 },
            next_ticket: 0,
            changed: HashMap::new(),
            changed_bytes: 0,
            changed_since: None,
            is_urgent: false,
            ended: VecDeque::new(),
            flight: None,
            undos: VecDeque::new(),
            undo_bytes: 0,
            removals: Vec::new(),
            mark: Mark(0),
            durable: Mark(0),
            ready: VecDeque::new(),
            health: Health::default(),
            recovery: Recovery::None,
            batch: facts.batch,
            sync_at: None,
            ends_at: None,
            clock_at: None,
            skew: skew(facts.clock),
            now: Now { unix: facts.clock.1, ..Now::default() },
            at: facts.clock.0,
            meters: StoreMeters { file_bytes, content_bytes, ..StoreMeters::default() },
        };
        if let Some(fault) = fault {
            journal.fail(fault);
        }
        journal
    }

    /// Whether the disk cannot be written, so that changes are refused.
    pub fn is_failing(&self) -> bool {
        !self.health.is_good()
    }

    /// Whether somebody waits for that row: then what it was before must be kept.
    fn is_waited_for(&self, key: &Key) -> bool {
        let flying = self.flight.as_ref().and_then(|flight| flight.rows.get(key));
        let mark = self.changed.get(key).or(flying).map_or(Mark::default(), |row| row.mark);
        mark > self.durable
    }

    /// Notes that a row must be written.
    fn note(&mut self, key: Key, mark: Mark, bytes: usize) {
        self.is_urgent |= !matches!(key, Key::State { .. });
        let row = self.changed.entry(key).or_insert(Changed { mark, bytes: 0 });
        self.changed_bytes = self.changed_bytes - row.bytes + bytes;
        *row = Changed { mark: row.mark.max(mark), bytes };
    }

    /// Whether something is to go as soon as the helper is free.
    fn is_pressing(&self) -> bool {
        let is_waited_for = self.sync == SyncPolicy::Always && !self.changed.is_empty();
        is_waited_for || self.is_urgent || !self.removals.is_empty() || self.is_full()
    }

    /// Whether as much waits for the disk as may.
    fn is_full(&self) -> bool {
        let Bounds { bytes, changes } = self.limits;
        self.changed_bytes + self.undo_bytes >= bytes
            || self.changed.len().max(self.undos.len()) >= changes
    }

    /// Sends all that has changed on its way.
    fn send(&mut self, hub: &Hub, clock: (UnixMillis, UnixMillis)) {
        let mut batch = self.new_batch(clock);
        let rows = std::mem::take(&mut self.changed);
        batch.rows.reserve(rows.len());
        for key in rows.keys() {
            batch.push(key.clone(), hub.row(key));
        }
        let ended: Vec<Key> = self.ended.drain(..self.ended.len().min(ENDS_MAX)).collect();
        for key in &ended {
            // Unless it is there again, and has its own entry.
            if !rows.contains_key(key) && hub.row(key).is_none() {
                batch.push(key.clone(), None);
            }
        }
        batch.removed.extend(self.removals.iter().filter_map(|(_, change)| match change {
            Change::Remove { ns } => hub.number(*ns),
            _ => None,
        }));
        (self.changed_bytes, self.is_urgent, self.sync_at) = (0, false, None);
        self.ends_at = self.ends_at.filter(|_| !self.ended.is_empty());
        let (upto, since) = (self.mark, self.changed_since.take());
        self.flight = Some(Flight { upto, since, rows, ended, removals: self.removals.len() });
        self.ask(Job::Batch(batch));
    }

    /// Sends the next part of a store that is written anew.
    fn send_part(&mut self, hub: &Hub, cursor: Cursor, clock: (UnixMillis, UnixMillis)) {
        let mut batch = self.new_batch(clock);
        let mut bytes = 0;
        let next = hub.rows(cursor, |key, row| {
            batch.push(key, Some(row));
            bytes += batch.rows.last().map_or(0, |(_, value)| value.as_ref().map_or(0, Vec::len));
            batch.rows.len() < PART_ROWS && bytes < PART_BYTES
        });
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
        if !self.helper.ask(job) {
            // It ended, which it never does by itself: no disk any more.
            self.fail(Fault::Broken("the thread of the store has ended".into()));
        }
    }

    fn handle(&mut self, report: Report) {
        match report {
            Report::Written { took_us, size: (file_bytes, content_bytes) } => {
                self.meters.batches.record(took_us);
                self.meters.last_batch_us = took_us;
                (self.meters.file_bytes, self.meters.content_bytes) = (file_bytes, content_bytes);
                self.written();
            }
            Report::Failed(fault) => self.fail(fault),
            Report::Still(fault) => self.health.still(fault, self.now),
            Report::Ready { is_empty: true } => self.recovery = Recovery::All(Cursor::default()),
            Report::Ready { is_empty: false } => self.recovery = Recovery::Debt,
            Report::Stopped => {}
        }
    }

    /// What was on its way is durable.
    fn written(&mut self) {
        let Some(flight) = self.flight.take() else { return };
        self.durable = self.durable.max(flight.upto);
        while let Some((mark, undo)) = self.undos.front()
            && *mark <= self.durable
        {
            self.undo_bytes -= undo.bytes();
            self.undos.pop_front();
        }
        for (ticket, change) in self.removals.drain(..flight.removals) {
            self.last.n += 1;
            let entry = Entry { seq: self.last, at: self.at, change };
            self.ready.push_back(Event::Entry(Some(ticket), entry));
        }
        match self.recovery {
            Recovery::None | Recovery::All(_) => {}
            Recovery::Debt | Recovery::AllSent => {
                if self.recovery == Recovery::AllSent {
                    // They went with all the others; what ended meanwhile has not left again.
                    self.changed.clear();
                    self.changed_since = None;
                    (self.changed_bytes, self.is_urgent) = (0, false);
                }
                self.recovery = Recovery::None;
                self.health.recover(self.now);
            }
        }
    }

    /// At the end nobody applies what is ordered: what the hub still has of a namespace whose end
    /// is durable must not be written again.
    fn forget_removed(&mut self, hub: &Hub) {
        for event in self.ready.drain(..) {
            let Event::Entry(_, Entry { change: Change::Remove { ns }, .. }) = event else {
                continue;
            };
            if let Some(removed) = hub.number(ns) {
                self.changed.retain(|key, _| key.ns() != removed);
                self.ended.retain(|key| key.ns() != removed);
            }
        }
    }

    /// What was on its way has failed, and with it all that came behind it.
    fn fail(&mut self, fault: Fault) {
        self.recovery = Recovery::None;
        if let Some(flight) = self.flight.take() {
            // What is on disk of these rows is not certain any more.
            self.changed_since = flight.since.or(self.changed_since);
            for (key, row) in flight.rows {
                self.note(key, Mark::default(), row.bytes);
            }
            self.ended.extend(flight.ended);
        }
        let (from, upto) = (self.durable, self.mark);
        // Whoever waited for these is refused as well, though the fault came later.
        let refused = upto.0 - from.0 + self.removals.len() as u64;
        self.meters.refused_changes += refused;
        for (_, undo) in self.undos.drain(..).rev() {
            self.ready.push_back(Event::Undo(undo));
        }
        self.undo_bytes = 0;
        for (ticket, _) in self.removals.drain(..) {
            self.ready.push_back(Event::Failed(ticket));
        }
        self.ready.push_back(Event::Lost { from, upto });
        self.meters.failures += u64::from(self.health.is_good());
        self.health.fail(fault, refused, self.now);
    }
}

impl Journal for StoreJournal {
    fn propose(&mut self, _: UnixMillis, change: &Change<'_>) -> Proposal {
        if change.is_recorded() && self.health.refuses() {
            self.meters.refused_changes += 1;
            return Proposal::Refused;
        }
        if matches!(change, Change::Remove { .. }) {
            self.next_ticket += 1;
            let ticket = Ticket(self.next_ticket);
            self.removals.push((ticket, change.clone().into_owned()));
            return Proposal::Later(ticket);
        }
        self.last.n += 1;
        Proposal::Now(self.last)
    }

    fn stays(&mut self, key: KeyRef<'_>, bytes: usize) -> bool {
        if self.sync == SyncPolicy::Always || !matches!(key, KeyRef::State { .. }) {
            return false;
        }
        // It is acknowledged at once, and stays, whatever becomes of it.
        match self.changed.get_mut(&key) {
            Some(row) => {
                self.changed_bytes = self.changed_bytes - row.bytes + bytes;
                row.bytes = bytes;
            }
            None => self.note(key.key(), Mark::default(), bytes),
        }
        true
    }

    fn changed(&mut self, undo: Undo) {
        if undo.is_end() {
            if self.is_waited_for(&undo.key) {
                self.undo_bytes += undo.bytes();
                self.ended.push_back(undo.key.clone());
                self.undos.push_back((self.mark, undo));
            } else {
                self.ended.push_back(undo.key);
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
        if !self.changed.is_empty() {
            self.changed_since.get_or_insert(now.mono);
        }
        if !self.ended.is_empty() {
            self.ends_at.get_or_insert(now.mono.plus(ENDS_MS));
        }
        (self.now, self.at) = (now, at);
        let clock = (at, now.unix);
        if self.flight.is_some() {
            return;
        }
        match self.recovery {
            Recovery::Debt => return self.send(hub, clock),
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
            self.send(hub, clock);
        }
    }

    fn poll(&mut self) -> Option<Event> {
        if self.ready.is_empty() {
            while let Some(report) = self.helper.report() {
                self.handle(report);
            }
        }
        let event = self.ready.pop_front();
        if let Some(Event::Lost { upto, .. }) = event {
            self.durable = upto;
        }
        event
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
        let flying = self.flight.as_ref().and_then(|flight| flight.rows.get(&key));
        self.changed.get(&key).or(flying).map_or(Mark::default(), |row| row.mark)
    }

    fn durable(&self) -> Mark {
        self.durable
    }

    fn has_room(&self) -> bool {
        // Where nothing is taken nobody waits for room: whoever changes something is refused.
        self.is_failing() || !self.is_full()
    }

    fn due(&self) -> Option<Millis> {
        if !self.ready.is_empty() {
            return Some(Millis(0));
        }
        if self.flight.is_some() {
            // The helper wakes the loop.
            return None;
        }
        match self.recovery {
            Recovery::Debt | Recovery::All(_) => return Some(Millis(0)),
            _ if self.is_failing() => return None,
            // It was told after `commit` that the helper is free.
            _ if self.is_pressing() => return Some(Millis(0)),
            _ => {}
        }
        [self.sync_at, self.ends_at, self.clock_at].into_iter().flatten().min()
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
            pending_changes: self.changed.len() + flying,
            pending_bytes: self.changed_bytes + self.undo_bytes,
            lag_ms: since.map_or(0, |since| now.mono.0.saturating_sub(since.0)),
            ..self.meters.clone()
        })
    }

    fn close(&mut self, hub: &Hub, at: UnixMillis, now: Now) -> usize {
        let clock = (at, now.unix);
        loop {
            if self.flight.is_none() {
                let is_done = self.changed.is_empty() && self.ended.is_empty();
                if self.is_failing() || is_done && skew(clock) == self.skew {
                    break;
                }
                self.send(hub, clock);
            }
            match self.helper.wait(CLOSE) {
                Some(report) => self.handle(report),
                None => break,
            }
            self.forget_removed(hub);
        }
        if self.helper.ask(Job::Stop) {
            while self.helper.wait(CLOSE).is_some_and(|report| report != Report::Stopped) {}
        }
        match self.sync {
            // Nobody was told that those are there.
            SyncPolicy::Always => 0,
            SyncPolicy::Every(_) => states_in(&self.changed, self.flight.as_ref()),
        }
    }
}

/// How far the date is ahead of the scale of entries, in milliseconds.
fn skew((at, unix): (UnixMillis, UnixMillis)) -> i64 {
    (unix.0 as i64).wrapping_sub(at.0 as i64)
}
