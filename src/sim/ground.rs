//! What a run stands on: where its server finds what earlier ones have recorded, and what happens
//! there while no turn runs. [`Plain`] is a journal without a disk; [`Store`] is the real store
//! over a disk that fails, tears and loses power, whose worker works when chance says so.

use std::time::Duration;

use super::Prng;
use super::disk::{Failure, SimFolder};
use crate::hub::Hub;
use crate::journal::Journal;
use crate::journal::store::{OpenError, Opened, Stepper};
use crate::limits::{Limits, SyncPolicy};
use crate::time::{Millis, Now, UnixMillis};

/// Starts of one server, at most: each may be cut short, and the disk may have to be mended.
const STARTS_MAX: usize = 100;
/// Calls of a worker that may still come before it is killed, at most.
const LAST_CALLS: usize = 12;

/// Until when a disk hangs that never works again for this server.
const HELD: Millis = Millis(u64::MAX);

/// What a server begins with.
pub(super) struct Start {
    pub hub: Hub,
    /// The time on the scale of entries.
    pub at: UnixMillis,
    pub journal: Box<dyn Journal>,
    /// Number of the last batch that was found.
    pub batch: u64,
    /// The power went while it was tried to start.
    pub power_went: bool,
}

/// Where the journals of a run come from.
pub(super) trait Ground {
    /// A server starts.
    fn start(&mut self, prng: &mut Prng, now: Now, limits: &Limits) -> Start;

    /// What happens between two turns. Whether anything did, or is about to.
    fn step(&mut self, _: &mut Prng, _: Now) -> bool {
        false
    }

    /// When something happens next of which nobody is told.
    fn due(&self) -> Option<Millis> {
        None
    }

    /// The disk, if there is one.
    fn store(&mut self) -> Option<&mut Store> {
        None
    }
}

/// A journal without a disk, for one server.
pub(super) struct Plain(Option<Box<dyn Journal>>);

impl Plain {
    pub fn new(journal: impl Journal + 'static) -> Plain {
        Plain(Some(Box::new(journal)))
    }
}

impl Ground for Plain {
    fn start(&mut self, _: &mut Prng, now: Now, limits: &Limits) -> Start {
        let journal = self.0.take().expect("there is one server");
        let hub = Hub::new(limits.clone(), now.unix);
        Start { hub, at: now.unix, journal, batch: 0, power_went: false }
    }
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// In good order.
    Closed,
    /// What was written stays, synced or not.
    Killed,
    /// What was not synced is there in part.
    PowerCut,
}

/// What was met of the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misfortunes {
    /// Servers that were killed, and those whose power went.
    pub kills: u64,
    /// See there.
    pub power_cuts: u64,
    /// Servers that were stopped in good order.
    pub stops: u64,
    /// Ends that came in the middle of a batch, and those that came in the middle of a start.
    pub halves: u64,
    /// See there.
    pub half_starts: u64,
    /// Starts on a full disk.
    pub full_starts: u64,
    /// Times that the disk was full, or broke.
    pub full: u64,
    /// See there.
    pub broken: u64,
    /// Times that the store could not be written, and that it could be again.
    pub failures: u64,
    /// See there.
    pub recoveries: u64,
    /// Times that the disk hung.
    pub hangs: u64,
    /// Batches written.
    pub batches: u64,
}

/// The store of the server over a disk that is no good.
pub(super) struct Store {
    folder: SimFolder,
    sync: SyncPolicy,
    stepper: Option<Stepper>,
    /// A job is done in one of so many turns.
    pace: usize,
    /// When the worker was last busy.
    idle_since: Millis,
    hangs_until: Millis,
    mends_at: Option<Millis>,
    /// The number of the last batch that the world was told of.
    told: u64,
    pub met: Misfortunes,
}

impl Store {
    pub fn new(sync: SyncPolicy) -> Store {
        Store {
            folder: SimFolder::forgetful(),
            sync,
            stepper: None,
            pace: 1,
            idle_since: Millis(0),
            hangs_until: Millis(0),
            mends_at: None,
            told: 0,
            met: Misfortunes::default(),
        }
    }

    fn stepper(&self) -> &Stepper {
        self.stepper.as_ref().expect("a server runs")
    }

    /// Whether states are acknowledged before they are durable; and within what time they must be.
    pub fn wait_ms(&self) -> Option<u64> {
        match self.sync {
            SyncPolicy::Always => None,
            SyncPolicy::Every(ms) => Some(ms),
        }
    }

    /// The number of a batch that has been sent and that was not told of before.
    pub fn take_sent(&mut self) -> Option<u64> {
        let number = self.stepper().job().filter(|number| *number > self.told)?;
        self.told = number;
        Some(number)
    }

    /// Number of the last batch that is durable.
    pub fn written(&self) -> u64 {
        self.stepper().written()
    }

    /// Whether nothing comes of whatever is sent to it.
    pub fn is_stuck(&self, now: Millis) -> bool {
        self.hangs_until > now
    }

    /// Whether nothing is wrong with it.
    pub fn is_well(&self, now: Millis) -> bool {
        self.mends_at.is_none() && !self.is_stuck(now)
    }

    /// A server that has started on a full disk gets to write that it has: what it found is what
    /// the next one goes by. (What is left if it does not is looked at in `tests/disk.rs`.)
    pub fn begin(&mut self) {
        if self.stepper().is_begun() {
            return;
        }
        self.folder.mend();
        self.mends_at = None;
        self.stepper().time_out();
        assert!(self.stepper().is_begun(), "there is space, and it does not begin");
    }

    /// Something begins to go wrong, or ends.
    pub fn trouble(&mut self, prng: &mut Prng, now: Millis) -> String {
        if !self.stepper().is_begun() {
            return "the disk is full as it was at the start".into();
        }
        self.pace = *prng.pick(&[1, 1, 2, 4, 16]);
        let most_ms = *prng.pick(&[10, 2000, 30_000]);
        let ms = prng.below(most_ms) as u64;
        if prng.one_in(4) {
            self.hangs_until = now.plus(ms);
            self.met.hangs += 1;
            return format!("the disk hangs for {ms} ms");
        }
        let how = match prng.below(2) {
            0 => Failure::Space,
            _ => Failure::Broken,
        };
        let after = prng.below(20) as u64;
        let count = if prng.one_in(2) { 1 + prng.below(8) as u64 } else { u64::MAX };
        self.folder.fail(after, count, how);
        self.mends_at = Some(now.plus(ms));
        match how {
            Failure::Space => self.met.full += 1,
            Failure::Broken => self.met.broken += 1,
        }
        format!("{count} calls fail after {after} for {ms} ms: {how:?}")
    }

    /// It hangs for some time from now on; for how many milliseconds, unless this server could not
    /// write yet that there is one.
    pub fn hang(&mut self, prng: &mut Prng, now: Millis) -> Option<u64> {
        let ms = 500 + prng.below(20_000) as u64;
        let may_hang = self.stepper().is_begun() && self.hangs_until != HELD;
        may_hang.then(|| {
            self.hangs_until = now.plus(ms);
            self.met.hangs += 1;
            ms
        })
    }

    /// What is sent to the disk from now on waits for the end of the server.
    pub fn hold(&mut self) {
        self.hangs_until = HELD;
    }

    /// One of the next calls fails, and those behind it do not.
    pub fn trip(&mut self, prng: &mut Prng) {
        let after = prng.below(LAST_CALLS) as u64;
        if self.stepper().is_begun() {
            self.folder.fail(after, 1, Failure::Broken);
            self.met.broken += 1;
        }
    }

    /// Nothing goes wrong any more.
    pub fn mend(&mut self) {
        self.folder.mend();
        (self.mends_at, self.hangs_until, self.pace) = (None, Millis(0), 1);
    }

    /// The server ends. Whether nothing of what had failed is in the way of what it was before.
    pub fn end(&mut self, prng: &mut Prng, how: End, now: Millis) -> bool {
        if self.mends_at.is_none() {
            self.folder.mend();
        }
        if let Some(stepper) = self.stepper.take().filter(|_| how != End::Closed) {
            let is_held = self.hangs_until == HELD;
            if is_held || !self.is_stuck(now) && prng.one_in(2) {
                self.folder.halt(prng.below(LAST_CALLS) as u64);
                match stepper.job() {
                    Some(_) => drop(stepper.work()),
                    None if stepper.idle().is_some() => stepper.time_out(),
                    None => {}
                }
                self.met.halves += u64::from(self.folder.is_halted());
            }
            let is_intact = !self.folder.take_lost_header();
            self.cut(prng, how);
            return is_intact;
        }
        self.met.stops += 1;
        self.folder = self.folder.killed();
        true
    }

    /// What is left on the disk is what the next one finds.
    fn cut(&mut self, prng: &mut Prng, how: End) {
        if !self.folder.is_halted() {
            self.folder.halt(0);
        }
        match how {
            End::PowerCut => {
                self.met.power_cuts += 1;
                self.folder = self.folder.torn(prng);
            }
            _ => {
                self.met.kills += 1;
                self.folder = self.folder.killed();
            }
        }
    }

    fn try_start(&mut self, now: Now, limits: &Limits) -> Result<Start, OpenError> {
        let opened = Opened::verify(self.folder.clone(), now)?;
        let (at, batch) = (opened.at(now), opened.content().facts.batch);
        let mut hub = Hub::new(limits.clone(), at);
        let (journal, stepper) = opened.start_stepped(&mut hub, now, self.sync, limits)?;
        self.stepper = Some(stepper);
        self.met.full_starts += u64::from(journal.is_failing());
        Ok(Start { hub, at, journal: Box::new(journal), batch, power_went: false })
    }
}

impl Ground for Store {
    fn start(&mut self, prng: &mut Prng, now: Now, limits: &Limits) -> Start {
        self.hangs_until = Millis(0);
        let mut power_went = false;
        if self.mends_at.is_none() && prng.one_in(4) {
            self.folder.fail(prng.below(6) as u64, u64::MAX, Failure::Space);
            self.mends_at = Some(now.mono.plus(prng.below(10_000) as u64));
            self.met.full += 1;
        }
        for _ in 0..STARTS_MAX {
            if prng.one_in(6) {
                self.folder.halt(prng.below(12) as u64);
            }
            let started = self.try_start(now, limits);
            if self.folder.is_halted() {
                self.met.half_starts += 1;
                self.stepper = None;
                let how = *prng.pick(&[End::Killed, End::PowerCut]);
                power_went |= how == End::PowerCut;
                self.cut(prng, how);
                continue;
            }
            match started {
                Ok(start) => {
                    // Whatever was planned for this process will not come.
                    self.folder.spare();
                    (self.idle_since, self.told) = (now.mono, start.batch);
                    return Start { power_went, ..start };
                }
                Err(OpenError::Damaged { damage, .. }) => panic!("damaged: {damage}"),
                Err(error) => {
                    assert!(self.mends_at.is_some(), "it does not start: {error}");
                    self.mend();
                }
            }
        }
        panic!("it never starts");
    }

    fn step(&mut self, prng: &mut Prng, now: Now) -> bool {
        let now = now.mono;
        if self.mends_at.is_some_and(|at| at <= now) {
            self.folder.mend();
            self.mends_at = None;
        }
        if self.is_stuck(now) {
            return false;
        }
        let stepper = self.stepper().clone();
        if stepper.job().is_some() {
            if prng.one_in(self.pace) {
                self.met.batches += u64::from(stepper.work());
                self.idle_since = now;
            }
            return true;
        }
        let idle_until = stepper.idle().map(|time| self.idle_since.plus(as_ms(time)));
        if idle_until.is_some_and(|until| until <= now) {
            stepper.time_out();
            self.idle_since = now;
            return true;
        }
        false
    }

    fn due(&self) -> Option<Millis> {
        let stepper = self.stepper();
        let idle_until = stepper.idle().map(|time| self.idle_since.plus(as_ms(time)));
        let works_at = match stepper.job() {
            Some(_) => Some(self.hangs_until),
            None => idle_until.map(|until| until.max(self.hangs_until)),
        };
        [works_at, self.mends_at].into_iter().flatten().min()
    }

    fn store(&mut self) -> Option<&mut Store> {
        Some(self)
    }
}

fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
