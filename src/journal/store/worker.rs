//! The worker that does the disk I/O. It owns the file; the loop sends it batches, one at a time,
//! and is woken when a batch is durable or has failed. After a fault the worker keeps trying to use
//! the disk again, then asks the loop for what is missing on it.
//!
//! It runs on a thread of its own, or under a [`Stepper`], with which a simulator runs it job by
//! job on the thread of the loop.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::disk::Fault;
use super::file::{Batch, Opening, StoreMeta, Writer};
use super::folder::{Medium, Seal};
use crate::mailbox::{Receiver, RecvError, Sender, mailbox};
use crate::time::Stopwatch;

/// After this long without a batch the file is maintained.
const IDLE: Duration = Duration::from_secs(1);
/// How much nicer its thread is than the loop: with one processor for both, a batch that preempts
/// the loop delays each message by up to a millisecond.
const NICE: i32 = 5;
/// How often a wait for the worker checks whether it should be given up.
const ASK: Duration = Duration::from_millis(100);
/// After this long without a batch the worker checks that the file is still there.
const LOOK: Duration = Duration::from_secs(5);
/// A file may be this many times as long as its rows, plus this many bytes, before it is compacted:
/// when the worker is idle, and at any time.
const IDLE_TIMES: u64 = 3;
const IDLE_BYTES: u64 = 1 << 20;
const BUSY_TIMES: u64 = 6;
const BUSY_BYTES: u64 = 6 << 20;

/// Wakes the loop.
pub type Wake = Box<dyn Fn() + Send>;

/// What the loop asks the worker to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Write a batch.
    Batch(Batch),
    /// Write the changes owed since the file failed. A plain `Batch` that arrives before this one
    /// was sent before the fault.
    Backlog(Batch),
    /// Write a part of the store that replaces the failed one; whether it is the last part.
    Part(Batch, bool),
    /// Close the file.
    Stop,
}

/// What the worker reports to the loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The last job is done and durable: how long it took, and the length of the file and the bytes
    /// of all rows.
    Written { took_us: u64, size: (u64, u64) },
    /// The file was compacted: its length, and the bytes of all rows.
    Tidied { size: (u64, u64) },
    /// The last job failed for good, and so will every other until `Ready`.
    Failed(Fault),
    /// The disk was retried and still cannot be written, for this reason.
    Still(Fault),
    /// The disk can be written again. The file is empty and needs all rows, or only the changes.
    Ready { is_empty: bool },
    /// The file is closed.
    Stopped,
}

/// The loop's handle to the worker.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    jobs: Sender<Job>,
    reports: Receiver<Report>,
    /// `None` if the worker has its own thread.
    pub stepper: Option<Stepper>,
}

impl WorkerHandle {
    /// Sends a job. Returns `false` if the worker is gone.
    pub fn ask(&self, job: Job) -> bool {
        // Jobs are sent one at a time, so the queue never holds more than one.
        self.jobs.send(job)
    }

    /// Returns the next report, if there is one.
    pub fn report(&self) -> Option<Report> {
        self.reports.try_recv()
    }

    /// Waits for a report. Returns `None` after `time`, or once `is_over`, polled ten times a
    /// second, returns `true`.
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
                Err(RecvError::Timeout) if !left.is_zero() && !is_over() => {}
                Err(_) => return None,
            }
        }
    }
}

/// Drives a worker that has no thread. Clones drive the same worker.
#[derive(Clone)]
pub struct Stepper(Rc<RefCell<dyn Step>>);

/// What a stepper needs of a worker, whatever its medium.
trait Step {
    fn take_job(&mut self) -> Option<u64>;
    fn work_on(&mut self) -> bool;
    fn idle(&self) -> Option<Duration>;
    fn timed_out(&mut self);
    fn written(&self) -> u64;
    fn is_begun(&self) -> bool;
}

impl Stepper {
    /// Takes over a worker.
    pub(super) fn over(worker: Worker<impl Medium>) -> Stepper {
        Stepper(Rc::new(RefCell::new(worker)))
    }

    /// Returns the number of the batch waiting to be written; 0 for a job without a batch.
    pub fn job(&self) -> Option<u64> {
        self.0.borrow_mut().take_job()
    }

    /// Does the waiting job completely. Returns whether there was one.
    pub fn work(&self) -> bool {
        self.0.borrow_mut().work_on()
    }

    /// Returns how long the worker waits for a job before it does the work of
    /// [`Stepper::time_out`]; `None` if it has no such work.
    pub fn idle(&self) -> Option<Duration> {
        self.0.borrow().idle()
    }

    /// Reports that no job has come for as long as [`Stepper::idle`] says.
    pub fn time_out(&self) {
        self.0.borrow_mut().timed_out();
    }

    /// Returns the number of the last durable batch.
    pub fn written(&self) -> u64 {
        self.0.borrow().written()
    }

    /// Returns whether the file records this start.
    pub fn is_begun(&self) -> bool {
        self.0.borrow().is_begun()
    }
}

impl fmt::Debug for Stepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stepper")
    }
}

/// State of the file.
enum State {
    /// The file is being written to.
    Good(Writer),
    /// The file failed. Next: `Again` or `Next`.
    Failed(Fault),
    /// The file is open again, and the owed changes have not arrived. Next: `Good` or `Failed`.
    Again(Writer),
    /// The replacement of the file is being written. Next: `Good` or `Failed`.
    Next(Writer),
}

/// The worker that does the disk I/O.
pub(super) struct Worker<M> {
    medium: M,
    meta: StoreMeta,
    /// Whether the term of this start has been written.
    is_begun: bool,
    state: State,
    /// Bytes of all rows when the file failed.
    live: u64,
    /// Length of the file and bytes of all rows after the last compaction.
    tidied: (u64, u64),
    /// Whether nothing has been written since the last maintenance.
    is_tidy: bool,
    /// Interval between attempts to use a failed disk again.
    retry: Duration,
    inbox: Receiver<Job>,
    /// A job that a stepper has looked at but not run yet.
    next: Option<Job>,
    outbox: Sender<Report>,
    wake: Wake,
}

impl<M: Medium> Worker<M> {
    /// Creates a worker for an open store, and the loop's handle to it. `retry` is the interval
    /// between attempts to use a failed disk again.
    pub fn new(
        medium: M,
        meta: StoreMeta,
        writer: Opening,
        retry: Duration,
        wake: Wake,
    ) -> (Worker<M>, WorkerHandle) {
        let (jobs, inbox) = mailbox();
        let (outbox, reports) = mailbox();
        let is_begun = writer.is_ok();
        let (state, live) = match writer {
            Ok(writer) => (State::Good(writer), 0),
            Err((fault, live)) => (State::Failed(fault), live),
        };
        let worker = Worker {
            medium,
            meta,
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
        (worker, WorkerHandle { jobs, reports, stepper: None })
    }

    /// Starts the worker on a thread of its own, with a lower priority where that is allowed.
    pub fn start(self) -> std::io::Result<()> {
        let thread = std::thread::Builder::new().name("fws-store".into());
        let run = move || {
            // Linux counts this for the thread alone.
            let _ = rustix::process::nice(NICE);
            self.run();
        };
        thread.spawn(run).map(drop).map_err(|error| {
            let advice = "allow one more (ulimit -u, TasksMax=, pids.max)";
            std::io::Error::new(error.kind(), format!("no thread for the store: {error}; {advice}"))
        })
    }

    fn run(mut self) {
        loop {
            match self.inbox.recv(self.idle()) {
                Ok(Job::Stop) | Err(RecvError::Closed) => break self.stop(),
                Ok(job) => self.carry_out(job),
                Err(RecvError::Timeout) => self.timed_out(),
            }
        }
    }

    fn carry_out(&mut self, job: Job) {
        if matches!((&job, &self.state), (Job::Batch(_), State::Again(_) | State::Next(_))) {
            // It was sent before the loop heard of the fault, which refuses everything in it.
            return;
        }
        self.is_tidy = false;
        let watch = Stopwatch::start();
        let done = self.guarded(|worker| worker.work(job));
        self.settle(done, watch.elapsed_us());
        self.tidy(BUSY_TIMES, BUSY_BYTES);
    }

    /// Closes the file cleanly.
    fn stop(&mut self) {
        self.state = closed();
        let _ = self.medium.sync_seal();
        self.tell(Report::Stopped);
    }

    fn tell(&self, report: Report) {
        // If the loop is gone, the process is ending.
        self.outbox.send(report);
        (self.wake)();
    }

    /// Turns a panic of redb into a fault.
    fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Worker<M>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|_| Err(Fault::Broken("a panic of the library".into())))
    }

    /// Reports the outcome of a job.
    fn settle(&mut self, done: Result<(), Fault>, took_us: u64) {
        match done {
            Ok(()) => self.tell(Report::Written { took_us, size: self.size() }),
            Err(fault) => {
                self.fail(fault.clone());
                self.tell(Report::Failed(fault));
            }
        }
    }

    /// Returns why the disk cannot be written, if so.
    pub fn fault(&self) -> Option<Fault> {
        match &self.state {
            State::Failed(fault) => Some(fault.clone()),
            State::Good(_) | State::Again(_) | State::Next(_) => None,
        }
    }

    /// Returns the length of the file and the bytes of all rows in it.
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
        // This closes the file; what closing would write no longer matters.
        self.state = State::Failed(fault);
    }

    fn work(&mut self, job: Job) -> Result<(), Fault> {
        match (job, &mut self.state) {
            (Job::Batch(mut batch), State::Good(writer))
            | (Job::Backlog(mut batch), State::Again(writer)) => {
                writer.write(&mut batch)?;
                // A file that the next start will not find is not durable.
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

    /// Everything that was missing in the file has been written.
    fn turn_good(&mut self) {
        self.state = match std::mem::replace(&mut self.state, closed()) {
            State::Again(writer) | State::Next(writer) => State::Good(writer),
            other => other,
        };
    }

    /// Checks that the file is still where the next start looks for it. If not, all is rewritten.
    fn look(&mut self) {
        if let Err(error) = self.medium.is_in_place() {
            let fault = Fault::Broken(error.to_string());
            self.fail(fault.clone());
            self.tell(Report::Failed(fault));
        }
    }

    /// Records in the seal what is durable. The seal is only a second witness: failing to write it
    /// is no reason to refuse what is already on disk.
    fn remember(&mut self, batch: &Batch) {
        (self.meta.batch, self.meta.clock) = (batch.number, batch.clock);
        let _ = self.medium.seal(&Seal { key: self.meta.key, batch: batch.number });
    }

    /// Tries to use the disk again.
    fn retry(&mut self) {
        let State::Failed(fault) = &self.state else { return };
        let is_empty = matches!(fault, Fault::Broken(_));
        let broken = |error: std::io::Error| Fault::Broken(error.to_string());
        let opened = self.guarded(|worker| {
            if is_empty {
                // What the file, or the kernel's cache of it, says now need not be what is on disk:
                // everything is written anew, to another file.
                let next = worker.medium.open_next().map_err(broken)?;
                // Until its last part it is not the batch that the seal names, with all its rows.
                let meta = StoreMeta { batch: 0, ..worker.meta.clone() };
                Ok(State::Next(Writer::create(next, &meta)?))
            } else {
                worker.medium.is_in_place().map_err(broken)?;
                let backend = worker.medium.open().map_err(broken)?;
                let writer = Writer::reopen(backend, &worker.meta, worker.live)?;
                if !worker.is_begun {
                    writer.begin(&worker.meta)?;
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
            // From now on everything must be written anew, or it had to be anyway and failed again.
            Err(fault) if is_empty || matches!(fault, Fault::Broken(_)) => {
                let fault = fault.broken();
                self.state = State::Failed(fault.clone());
                self.tell(Report::Still(fault));
            }
            Err(_) => {}
        }
    }

    /// Compacts the file if too much of it is unused.
    fn tidy(&mut self, times: u64, spare: u64) {
        let State::Good(writer) = &mut self.state else { return };
        let (bytes, live) = writer.size();
        // What could not be truncated last time will not be now, unless much has changed.
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
            Job::Batch(batch) | Job::Backlog(batch) | Job::Part(batch, _) => batch.number,
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
        self.meta.batch
    }

    fn is_begun(&self) -> bool {
        self.is_begun
    }
}

fn closed() -> State {
    State::Failed(Fault::Broken("closed".into()))
}
