//! The storage under a run: where its server finds what earlier ones recorded, and what happens
//! there between turns. [`Diskless`] is a journal without a disk; [`FaultyStore`] is the real store
//! over a disk that fails, tears writes and loses power, whose worker runs at random moments.

use std::time::Duration;

use super::Prng;
use super::disk::{Failure, SimFile, SimFolder};
use crate::hub::Hub;
use crate::journal::Journal;
use crate::journal::store::{Content, Home, NoSnapshot, OpenError, Opened, Stepper, snapshot};
use crate::limits::{Limits, SyncPolicy};
use crate::time::{Millis, Now, UnixMillis};

/// Maximum attempts to start one server: each may be cut short, or the disk need mending.
const STARTS_MAX: usize = 100;
/// Maximum number of disk calls that the worker may still make before it is killed.
const LAST_CALLS: usize = 12;

/// The end of a hang that lasts for the rest of this server's life.
const HELD: Millis = Millis(u64::MAX);

/// What a server begins with.
pub(super) struct Start {
    pub hub: Hub,
    /// The time on the scale of journal entries.
    pub at: UnixMillis,
    pub journal: Box<dyn Journal>,
    /// Number of the last batch found.
    pub batch: u64,
    /// The power failed during an attempt to start.
    pub power_went: bool,
}

/// The source of the journals of a run.
pub(super) trait Storage {
    /// Starts a server.
    fn start(&mut self, prng: &mut Prng, now: Now, limits: &Limits) -> Start;

    /// Does what happens between two turns. Returns whether anything did, or is about to.
    fn step(&mut self, _: &mut Prng, _: Now) -> bool {
        false
    }

    /// When something happens here next that no event announces.
    fn due(&self) -> Option<Millis> {
        None
    }

    /// Returns the store, if there is one.
    fn store(&mut self) -> Option<&mut FaultyStore> {
        None
    }
}

/// A journal without a disk, for a single server.
pub(super) struct Diskless(Option<Box<dyn Journal>>);

impl Diskless {
    pub fn new(journal: impl Journal + 'static) -> Diskless {
        Diskless(Some(Box::new(journal)))
    }
}

impl Storage for Diskless {
    fn start(&mut self, _: &mut Prng, now: Now, limits: &Limits) -> Start {
        let journal = self.0.take().expect("there is one server");
        let hub = Hub::new(limits.clone(), now.unix);
        Start { hub, at: now.unix, journal, batch: 0, power_went: false }
    }
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Stopped in an orderly way.
    Closed,
    /// Killed: what was written stays, synced or not.
    Killed,
    /// Power cut: of what was not synced, only a part is there.
    PowerCut,
}

/// What happened to the disk, and to the servers on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misfortunes {
    /// Servers that were killed, and servers that lost power.
    pub kills: u64,
    /// See [`Misfortunes::kills`].
    pub power_cuts: u64,
    /// Servers that were stopped in an orderly way.
    pub stops: u64,
    /// Ends in the middle of a batch, and ends in the middle of a start.
    pub halves: u64,
    /// See [`Misfortunes::halves`].
    pub half_starts: u64,
    /// Starts on a full disk.
    pub full_starts: u64,
    /// Times that the disk filled up, and times that it broke.
    pub full: u64,
    /// See [`Misfortunes::full`].
    pub broken: u64,
    /// Times that the store became unwritable, and times that it recovered.
    pub failures: u64,
    /// See [`Misfortunes::failures`].
    pub recoveries: u64,
    /// Times that the disk hung.
    pub hangs: u64,
    /// Batches written.
    pub batches: u64,
    /// Snapshots taken beside servers at their last moment, and those that could not be.
    pub snapshots: u64,
    /// See [`Misfortunes::snapshots`].
    pub no_snapshots: u64,
}

/// The server's store, over a faulty disk.
pub(super) struct FaultyStore {
    folder: SimFolder,
    sync: SyncPolicy,
    stepper: Option<Stepper>,
    /// The worker does a job in one of this many turns, on average.
    pace: usize,
    /// When the worker last finished something.
    idle_since: Millis,
    hangs_until: Millis,
    mends_at: Option<Millis>,
    /// The number of the last batch that the world was told of.
    told: u64,
    /// What a command that read the store at the server's last moment has found.
    pub beside: Option<Content>,
    pub met: Misfortunes,
}

impl FaultyStore {
    pub fn new(sync: SyncPolicy) -> FaultyStore {
        FaultyStore {
            folder: SimFolder::forgetful(),
            sync,
            stepper: None,
            pace: 1,
            idle_since: Millis(0),
            hangs_until: Millis(0),
            mends_at: None,
            told: 0,
            beside: None,
            met: Misfortunes::default(),
        }
    }

    fn stepper(&self) -> &Stepper {
        self.stepper.as_ref().expect("a server runs")
    }

    /// The time within which states become durable; `None` if acknowledged only then.
    pub fn wait_ms(&self) -> Option<u64> {
        match self.sync {
            SyncPolicy::Always => None,
            SyncPolicy::Every(ms) => Some(ms),
        }
    }

    /// Returns the number of a batch that was sent to the worker and has not been reported yet.
    pub fn take_sent(&mut self) -> Option<u64> {
        let number = self.stepper().job().filter(|number| *number > self.told)?;
        self.told = number;
        Some(number)
    }

    /// The number of the last durable batch.
    pub fn written(&self) -> u64 {
        self.stepper().written()
    }

    /// Whether the disk hangs.
    pub fn is_stuck(&self, now: Millis) -> bool {
        self.hangs_until > now
    }

    /// Whether the disk neither hangs nor fails.
    pub fn is_well(&self, now: Millis) -> bool {
        self.mends_at.is_none() && !self.is_stuck(now)
    }

    /// Lets a server that started on a full disk write that it has begun, since the next start
    /// relies on that. (`tests/disk/faults.rs` covers a server that ends before.)
    pub fn begin(&mut self) {
        if self.stepper().is_begun() {
            return;
        }
        self.folder.mend();
        self.mends_at = None;
        self.stepper().time_out();
        assert!(self.stepper().is_begun(), "there is space, and it does not begin");
    }

    /// Makes the disk hang or fail for a while, and changes the pace of the worker.
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

    /// Makes the disk hang, and returns for how many milliseconds; `None`, and no hang, if this
    /// server could not record its start yet or the disk is held.
    pub fn hang(&mut self, prng: &mut Prng, now: Millis) -> Option<u64> {
        let ms = 500 + prng.below(20_000) as u64;
        let may_hang = self.stepper().is_begun() && self.hangs_until != HELD;
        may_hang.then(|| {
            self.hangs_until = now.plus(ms);
            self.met.hangs += 1;
            ms
        })
    }

    /// Holds everything that is sent to the disk from now on until the server ends.
    pub fn hold(&mut self) {
        self.hangs_until = HELD;
    }

    /// Makes one of the next calls fail, and only that one.
    pub fn trip(&mut self, prng: &mut Prng) {
        let after = prng.below(LAST_CALLS) as u64;
        if self.stepper().is_begun() {
            self.folder.fail(after, 1, Failure::Broken);
            self.met.broken += 1;
        }
    }

    /// Ends all faults.
    pub fn mend(&mut self) {
        self.folder.mend();
        (self.mends_at, self.hangs_until, self.pace) = (None, Millis(0), 1);
    }

    /// Ends the server. Returns false if the header of a failed commit may not be put back.
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
            self.read_beside();
            self.cut(prng, how);
            return is_intact;
        }
        self.met.stops += 1;
        self.folder = self.folder.killed();
        true
    }

    /// Takes a snapshot beside the server, in the middle of its last call.
    fn read_beside(&mut self) {
        let folder = &self.folder;
        let taken = snapshot(|| folder.read(), || folder.seal_state(), SimFile::default(), || ());
        match taken {
            Ok(content) => {
                self.met.snapshots += 1;
                self.beside = Some(content);
            }
            // In the middle of a batch, or the seal could not be written: nothing moves any more.
            Err(NoSnapshot::Busy(_)) => self.met.no_snapshots += 1,
            Err(why) => panic!("no snapshot: {why:?}"),
        }
    }

    /// Leaves to the next server what is on the disk now.
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
        let (at, batch) = (opened.at(now), opened.content().meta.batch);
        let mut hub = Hub::new(limits.clone(), at);
        let (journal, stepper) = opened.start_stepped(&mut hub, now, self.sync, limits)?;
        self.stepper = Some(stepper);
        self.met.full_starts += u64::from(journal.is_failing());
        Ok(Start { hub, at, journal: Box::new(journal), batch, power_went: false })
    }
}

impl Storage for FaultyStore {
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
                    // A halt that was planned for this process will not come.
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

    fn store(&mut self) -> Option<&mut FaultyStore> {
        Some(self)
    }
}

fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
