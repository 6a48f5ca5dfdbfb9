//! The worker that waits for the disk. It owns the file; the loop sends it batches, one at a time,
//! and is woken when a batch is durable or has failed. After a fault it tries by itself to use the
//! disk again, and asks the loop for what is missing there.
//!
//! It has a thread of its own, or a [`Stepper`], by which a simulator runs it job by job on the
//! thread of the loop.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::disk::Fault;
use super::file::{Batch, Facts, Opening, Writer};
use super::folder::{Medium, Seal};
use crate::mailbox::{Nothing, Receiver, Sender, mailbox};
use crate::time::Stopwatch;

/// Without a batch for so long, the file is looked after.
const IDLE: Duration = Duration::from_secs(1);
/// While it is waited for, whether anybody still does is asked so often.
const ASK: Duration = Duration::from_millis(100);
/// And without one for so long, whether it is still there.
const LOOK: Duration = Duration::from_secs(5);
/// A file may be so many times as long as what is in it, and this much longer: when there is
/// nothing else to do, and at any moment.
const IDLE_TIMES: u64 = 3;
const IDLE_BYTES: u64 = 1 << 20;
const BUSY_TIMES: u64 = 6;
const BUSY_BYTES: u64 = 6 << 20;

/// Wakes the loop.
pub type Wake = Box<dyn Fn() + Send>;

/// What the loop asks for.
#[derive(Debug)]
pub(super) enum Job {
    /// Write this.
    Batch(Batch),
    /// Write this, which is owed since the file failed; a batch that comes before it is older than
    /// the fault.
    Debt(Batch),
    /// Write this into the store that is to take the place of the one that failed; it is the last
    /// part, or not.
    Part(Batch, bool),
    /// Close the file.
    Stop,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The last job is done, and durable. How long that took, and what is in the file now: its
    /// length, and the bytes of all rows.
    Written { took_us: u64, size: (u64, u64) },
    /// The file has become shorter: its length, and the bytes of all rows.
    Tidied { size: (u64, u64) },
    /// The last job is not done, and never will be; nor will any other before `Ready`.
    Failed(Fault),
    /// The disk was tried again, and cannot be written for this reason.
    Still(Fault),
    /// The disk can be written again. All rows are missing there, or only those that have changed.
    Ready { is_empty: bool },
    /// The file is closed.
    Stopped,
}

/// The loop's end of the worker.
#[derive(Debug)]
pub(super) struct Helper {
    jobs: Sender<Job>,
    reports: Receiver<Report>,
    /// `None` if it works by itself.
    pub stepper: Option<Stepper>,
}

impl Helper {
    /// Asks for something. `false` if nobody is there any more.
    pub fn ask(&self, job: Job) -> bool {
        // One job at a time: no more than one ever waits.
        self.jobs.send(job)
    }

    /// What it reported, if it did.
    pub fn report(&self) -> Option<Report> {
        self.reports.try_recv()
    }

    /// Waits for a report. `None` if none has come in that time, or until `is_over`, which is asked
    /// ten times a second.
    pub fn wait(&self, time: Duration, is_over: &mut dyn FnMut() -> bool) -> Option<Report> {
        if let Some(stepper) = &self.stepper {
            stepper.work();
            return self.report();
        }
        let watch = Stopwatch::start();
        loop {
            let left = time.saturating_sub(Duration::from_micros(watch.elapsed_us()));
            match self.reports.recv(Some(left.min(ASK))) {
                Ok(report) => return Some(report),
                Err(Nothing::Yet) if !left.is_zero() && !is_over() => {}
                Err(_) => return None,
            }
        }
    }
}

/// Lets a worker work that has no thread; clones are for the same one.
#[derive(Clone)]
pub struct Stepper(Rc<RefCell<dyn Step>>);

/// What a stepper wants of a worker, whatever its medium.
trait Step {
    fn take_job(&mut self) -> Option<u64>;
    fn work_on(&mut self) -> bool;
    fn idle(&self) -> Option<Duration>;
    fn timed_out(&mut self);
    fn written(&self) -> u64;
    fn is_begun(&self) -> bool;
}

impl Stepper {
    /// From now on that worker works when this lets it.
    pub(super) fn over(worker: Worker<impl Medium>) -> Stepper {
        Stepper(Rc::new(RefCell::new(worker)))
    }

    /// The number of the batch that waits to be written, if one does; 0 for a job that is none.
    pub fn job(&self) -> Option<u64> {
        self.0.borrow_mut().take_job()
    }

    /// Does the job that waits, all of it. Whether there was one.
    pub fn work(&self) -> bool {
        self.0.borrow_mut().work_on()
    }

    /// Without a job for so long, it has something to do all the same, which is
    /// [`Stepper::time_out`]; `None` if it has not.
    pub fn idle(&self) -> Option<Duration> {
        self.0.borrow().idle()
    }

    /// No job has come for as long as [`Stepper::idle`] says.
    pub fn time_out(&self) {
        self.0.borrow_mut().timed_out();
    }

    /// Number of the last batch that is durable.
    pub fn written(&self) -> u64 {
        self.0.borrow().written()
    }

    /// Whether the file says that there was this start.
    pub fn is_begun(&self) -> bool {
        self.0.borrow().is_begun()
    }
}

impl fmt::Debug for Stepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stepper")
    }
}

/// How things stand with the file.
enum State {
    /// It is written to.
    Good(Writer),
    /// It failed. Next: `Again` or `Next`.
    Failed(Fault),
    /// It can be written again, and what is owed has not come. Next: `Good`, or `Failed`.
    Again(Writer),
    /// The one that is to take its place is written to. Next: `Good`, or `Failed`.
    Next(Writer),
}

/// Waits for the disk.
pub(super) struct Worker<M> {
    medium: M,
    facts: Facts,
    /// The term of this start is written.
    is_begun: bool,
    state: State,
    /// Bytes of all rows, as they were when the file failed.
    live: u64,
    /// Length of the file, and bytes of all rows, when it was last tidied.
    tidied: (u64, u64),
    /// Nothing has been written since it was last looked after.
    is_tidy: bool,
    /// Between two attempts to get at a disk that failed.
    retry: Duration,
    inbox: Receiver<Job>,
    /// A job that a stepper has seen and not yet let it do.
    next: Option<Job>,
    outbox: Sender<Report>,
    wake: Wake,
}

impl<M: Medium> Worker<M> {
    /// Over an open store, and the loop's end of it. `retry`: between two attempts to get at a disk
    /// that failed.
    pub fn new(
        medium: M,
        facts: Facts,
        writer: Opening,
        retry: Duration,
        wake: Wake,
    ) -> (Worker<M>, Helper) {
        let (jobs, inbox) = mailbox();
        let (outbox, reports) = mailbox();
        let is_begun = writer.is_ok();
        let (state, live) = match writer {
            Ok(writer) => (State::Good(writer), 0),
            Err((fault, live)) => (State::Failed(fault), live),
        };
        let worker = Worker {
            medium,
            facts,
            is_begun,
            state,
            live,
            tidied: (0, 0),
            is_tidy: true,
            retry,
            inbox,
            next: None,
            outbox,
            wake,
        };
        (worker, Helper { jobs, reports, stepper: None })
    }

    /// From now on it works by itself, on a thread of its own.
    pub fn start(self) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name("fws-store".into());
        thread.spawn(move || self.run()).map(drop).map_err(|error| {
            let advice = "allow one more (ulimit -u, TasksMax=, pids.max)";
            std::io::Error::new(error.kind(), format!("no thread for the store: {error}; {advice}"))
        })
    }

    fn run(mut self) {
        loop {
            match self.inbox.recv(self.idle()) {
                Ok(Job::Stop) | Err(Nothing::More) => break self.stop(),
                Ok(job) => self.carry_out(job),
                Err(Nothing::Yet) => self.timed_out(),
            }
        }
    }

    fn carry_out(&mut self, job: Job) {
        if matches!((&job, &self.state), (Job::Batch(_), State::Again(_))) {
            // It was sent before the fault was heard of, and all of it is refused when it is.
            return;
        }
        self.is_tidy = false;
        let watch = Stopwatch::start();
        let done = self.guarded(|worker| worker.work(job));
        self.settle(done, watch.elapsed_us());
        self.tidy(BUSY_TIMES, BUSY_BYTES);
    }

    /// Closes the file in good order.
    fn stop(&mut self) {
        self.state = closed();
        let _ = self.medium.sync_seal();
        self.tell(Report::Stopped);
    }

    fn tell(&self, report: Report) {
        // If the loop is gone, so are we.
        self.outbox.send(report);
        (self.wake)();
    }

    /// A panic of the library is a fault like any other.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Worker<M>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|_| Err(Fault::Broken("a panic of the library".into())))
    }

    /// Reports what became of a job.
    fn settle(&mut self, done: Result<(), Fault>, took_us: u64) {
        match done {
            Ok(()) => self.tell(Report::Written { took_us, size: self.size() }),
            Err(fault) => {
                self.fail(fault.clone());
                self.tell(Report::Failed(fault));
            }
        }
    }

    /// Why the disk cannot be written, if it cannot.
    pub fn fault(&self) -> Option<Fault> {
        match &self.state {
            State::Failed(fault) => Some(fault.clone()),
            State::Good(_) | State::Again(_) | State::Next(_) => None,
        }
    }

    /// Length of the file that is written to, and bytes of all rows in it.
    pub fn size(&self) -> (u64, u64) {
        match &self.state {
            State::Good(writer) | State::Again(writer) | State::Next(writer) => writer.size(),
            State::Failed(_) => (0, self.live),
        }
    }

    fn fail(&mut self, fault: Fault) {
        if let State::Good(writer) = &self.state {
            self.live = writer.size().1;
        }
        // The file is closed; what closing would write goes nowhere any more.
        self.state = State::Failed(fault);
    }

    fn work(&mut self, job: Job) -> Result<(), Fault> {
        match (job, &mut self.state) {
            (Job::Batch(mut batch), State::Good(writer))
            | (Job::Debt(mut batch), State::Again(writer)) => {
                writer.write(&mut batch)?;
                // What nobody will find at the next start is not durable.
                self.medium.is_in_place().map_err(|e| Fault::Broken(e.to_string()))?;
                self.turn_good();
                self.remember(&batch);
            }
            (Job::Part(mut batch, is_last), State::Next(writer)) => {
                writer.write(&mut batch).map_err(Fault::broken)?;
                if is_last {
                    self.medium.install_next().map_err(|e| Fault::Broken(e.to_string()))?;
                    self.turn_good();
                    self.is_begun = true;
                    self.remember(&batch);
                }
            }
            (_, State::Failed(fault)) => return Err(fault.clone()),
            _ => return Err(Fault::Broken("out of step".into())),
        }
        Ok(())
    }

    /// All that was missing in the file is there.
    fn turn_good(&mut self) {
        self.state = match std::mem::replace(&mut self.state, closed()) {
            State::Again(writer) | State::Next(writer) => State::Good(writer),
            other => other,
        };
    }

    /// Whether the file is still where the next start looks for it. If not, all is written anew.
    fn look(&mut self) {
        if let Err(error) = self.medium.is_in_place() {
            let fault = Fault::Broken(error.to_string());
            self.fail(fault.clone());
            self.tell(Report::Failed(fault));
        }
    }

    /// What is durable is noted in the seal. It is only a second witness: that it cannot be written
    /// is no reason to refuse what is on disk already.
    fn remember(&mut self, batch: &Batch) {
        (self.facts.batch, self.facts.clock) = (batch.number, batch.clock);
        let _ = self.medium.seal(&Seal { key: self.facts.key, batch: batch.number });
    }

    /// Tries to get at the disk again.
    fn retry(&mut self) {
        let State::Failed(fault) = &self.state else { return };
        let is_empty = matches!(fault, Fault::Broken(_));
        let broken = |error: std::io::Error| Fault::Broken(error.to_string());
        let opened = self.guarded(|worker| {
            if is_empty {
                // What the file says now, or what the kernel thinks that it says, need not be what
                // is on disk: all is written anew, into another one.
                let next = worker.medium.open_next().map_err(broken)?;
                Ok(State::Next(Writer::create(next, &worker.facts)?))
            } else {
                worker.medium.is_in_place().map_err(broken)?;
                let backend = worker.medium.open().map_err(broken)?;
                let writer = Writer::reopen(backend, &worker.facts, worker.live)?;
                if !worker.is_begun {
                    writer.begin(&worker.facts)?;
                    worker.is_begun = true;
                }
                Ok(State::Again(writer))
            }
        });
        match opened {
            Ok(state) => {
                self.state = state;
                self.tell(Report::Ready { is_empty });
            }
            // From now on all is written anew; or it was to be already, and cannot.
            Err(fault) if is_empty || matches!(fault, Fault::Broken(_)) => {
                let fault = fault.broken();
                self.state = State::Failed(fault.clone());
                self.tell(Report::Still(fault));
            }
            Err(_) => {}
        }
    }

    /// Gives the disk back what has become free in the file.
    fn tidy(&mut self, times: u64, spare: u64) {
        let State::Good(writer) = &mut self.state else { return };
        let (bytes, live) = writer.size();
        // What could not be cut off the last time cannot be now, unless much has changed.
        let has_changed = bytes > self.tidied.0 + self.tidied.0 / 2 || live < self.tidied.1 / 2;
        if bytes <= live.saturating_mul(times).saturating_add(spare) || !has_changed {
            return;
        }
        let compacted = self.guarded(|worker| match &mut worker.state {
            State::Good(writer) => writer.compact(),
            _ => Ok(()),
        });
        if let State::Good(writer) = &self.state {
            self.tidied = writer.size();
        }
        match compacted {
            Ok(_) => self.tell(Report::Tidied { size: self.size() }),
            Err(fault) => {
                self.fail(fault.clone());
                self.tell(Report::Failed(fault));
            }
        }
    }
}

impl<M: Medium> Step for Worker<M> {
    fn take_job(&mut self) -> Option<u64> {
        self.next = self.next.take().or_else(|| self.inbox.try_recv());
        self.next.as_ref().map(|job| match job {
            Job::Batch(batch) | Job::Debt(batch) | Job::Part(batch, _) => batch.number,
            Job::Stop => 0,
        })
    }

    fn work_on(&mut self) -> bool {
        let job = self.next.take().or_else(|| self.inbox.try_recv());
        match job {
            Some(Job::Stop) => self.stop(),
            Some(job) => self.carry_out(job),
            None => return false,
        }
        true
    }

    fn idle(&self) -> Option<Duration> {
        match &self.state {
            State::Failed(_) => Some(self.retry),
            State::Good(_) if !self.is_tidy => Some(IDLE),
            State::Good(_) => Some(LOOK),
            State::Again(_) | State::Next(_) => None,
        }
    }

    fn timed_out(&mut self) {
        if matches!(self.state, State::Failed(_)) {
            return self.retry();
        }
        self.look();
        self.tidy(IDLE_TIMES, IDLE_BYTES);
        self.is_tidy = true;
    }

    fn written(&self) -> u64 {
        self.facts.batch
    }

    fn is_begun(&self) -> bool {
        self.is_begun
    }
}

fn closed() -> State {
    State::Failed(Fault::Broken("closed".into()))
}
