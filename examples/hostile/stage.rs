//! The measurement of an attack: a server, the healthy load beside it, the figures before, during
//! and after. And the campaign, which runs the attacks one after the other.

use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::healthy::{Healthy, SUBSCRIBERS};
use crate::machine::{self, Awake, Folder, Pieces};
use crate::report::{self, Bounds, Findings, MIB, Report};
use crate::server::{Numbers, Server, Turns, Wants, back_end};
use crate::{Attack, Outcome, Run};

/// Bound of the p99.9 of a turn over the campaign, in milliseconds.
const TURN_MS: f64 = 5.0;
/// How often the kernel's memory is looked at.
const PERIOD: Duration = Duration::from_millis(100);
/// How long the healthy load is measured before an attack, and at least during it: the p99 of one
/// second would be the worst of a hundred messages, which may be the machine's fault.
const MEASURED: Duration = Duration::from_secs(10);

/// The server, as an attack sees it.
#[derive(Clone, Copy)]
pub struct Field {
    /// The address for browsers.
    pub web: SocketAddr,
    /// The address for back ends.
    pub control: SocketAddr,
    /// The address of the admin port.
    pub admin: SocketAddr,
    /// The process id.
    pub pid: u32,
    /// The scale of the campaign: a factor of crowd sizes; durations are scaled by its square root.
    pub scale: f64,
}

impl Field {
    /// The size of a crowd, smaller in a short campaign.
    pub fn many(&self, count: usize) -> usize {
        ((count as f64 * self.scale) as usize).max(20.min(count))
    }

    /// A duration, shorter in a short campaign.
    pub fn long(&self, seconds: u64) -> Duration {
        Duration::from_secs_f64((seconds as f64 * self.scale.sqrt()).max(2.0))
    }

    /// The server's metrics.
    pub fn numbers(&self) -> Outcome<Numbers> {
        Numbers::read(self.admin)
    }

    /// Connects a back end and authenticates; returns how long that took.
    pub fn back_end(&self, space: &str, key: &str) -> Outcome<(fws::client::Control, Duration)> {
        let start = Instant::now();
        Ok((back_end(self.control, space, key)?, start.elapsed()))
    }
}

/// A server and the healthy load beside it.
pub struct Stage {
    /// The server.
    pub server: Server,
    /// The load; without it nothing is timed.
    pub healthy: Option<Healthy>,
    /// The server's data folder.
    pub folder: Folder,
    scale: f64,
}

impl Stage {
    /// Starts the server and the load.
    pub fn start(binary: &str, wants: &Wants, folder: Folder, scale: f64) -> Outcome<Stage> {
        let server = Server::start(binary, wants, &folder)?;
        let healthy = Some(Healthy::start(server.web, server.control)?);
        Ok(Stage { server, healthy, folder, scale })
    }

    /// The server, as attacks see it.
    pub fn field(&self) -> Field {
        let Server { web, control, .. } = self.server;
        Field {
            web,
            control,
            admin: self.server.admin(),
            pid: self.server.pid(),
            scale: self.scale,
        }
    }

    /// Waits until only the healthy load is left; returns what remains if that takes too long.
    fn calm(&self, keeps: usize) -> Outcome<Option<String>> {
        let start = Instant::now();
        loop {
            let numbers = self.server.numbers()?;
            let sockets = numbers.of("fws_sockets", "") - keeps as f64;
            let sessions = numbers.of("fws_connections", "session");
            let queued = numbers.of("fws_queued_frames", "");
            // Frames may be on their way to the healthy load.
            if sockets <= 0.0 && sessions == 0.0 && queued <= keeps as f64 {
                return Ok(None);
            }
            if start.elapsed() > Duration::from_secs(45) {
                return Ok(Some(format!(
                    "after 45 s {sockets} sockets, {sessions} sessions, {queued} frames are left"
                )));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Runs an attack and measures it.
    pub fn measure(
        &mut self,
        attack: &Attack,
        bounds: Bounds,
        run: impl FnOnce(&Field) -> Outcome<Findings>,
    ) -> Outcome<Report> {
        let (field, pid) = (self.field(), self.server.pid());
        let healthy = self.healthy.as_mut().ok_or("no healthy load")?;
        if self.scale >= 1.0 {
            machine::wait_for_quiet();
        }
        healthy.measured()?;
        std::thread::sleep(if self.scale < 1.0 { Duration::from_secs(2) } else { MEASURED });
        let mut report = Report::of(attack, Findings::default());
        report.before = healthy.measured()?;
        let before = field.numbers()?;
        machine::forget_peak(pid)?;
        report.memory[0] = machine::memory(pid, "VmRSS")? as f64 / MIB;
        let clocks = [pid, std::process::id(), healthy.pid()];
        let seconds = || -> Outcome<Vec<f64>> {
            let all = machine::seconds_of_all();
            clocks.iter().map(|pid| machine::seconds(*pid)).chain([all]).collect()
        };
        let (worked, start) = (seconds()?, Instant::now());
        let (findings, kernel) = with_kernel_memory(|| run(&field));
        report.findings = findings.unwrap_or_else(|error| Findings {
            notes: Vec::new(),
            faults: vec![format!("aborted: {error}")],
        });
        report.kernel = kernel as f64 / MIB;
        if self.server.ended()?.is_some() {
            let words = self.server.last_words();
            report.findings.faults.push(format!("the server ended:\n{words}"));
            return Ok(report);
        }
        report.seconds = start.elapsed().as_secs_f64();
        report.during = healthy.measured()?;
        let now = seconds()?;
        let part = |at: usize| (now[at] - worked[at]) / report.seconds * 100.0;
        report.cpu = part(0);
        report.foreign = (part(3) - part(0) - part(1) - part(2)).max(0.0);
        let after = field.numbers()?;
        report.turns = before.turns().until(&after.turns());
        report.memory[1] = machine::memory(pid, "VmHWM")? as f64 / MIB;
        if let Some(left) = self.calm(SUBSCRIBERS + 1)? {
            report.findings.faults.push(left);
        }
        report.findings.note(format!("ended: {}", field.numbers()?.endings(&before)));
        report.memory[2] = machine::memory(pid, "VmRSS")? as f64 / MIB;
        report.judge(bounds, self.scale);
        Ok(report)
    }
}

/// Runs something; returns its result, and the peak of the kernel's socket buffers meanwhile.
fn with_kernel_memory<T>(run: impl FnOnce() -> T) -> (T, u64) {
    std::thread::scope(|scope| {
        // Dropped when that ends, also in a panic: the scope waits for its thread.
        let (running, is_over) = mpsc::channel::<()>();
        let watch = scope.spawn(move || {
            let mut most = 0;
            loop {
                most = machine::kernel_memory().max(most);
                if is_over.recv_timeout(PERIOD) != Err(RecvTimeoutError::Timeout) {
                    return most;
                }
            }
        });
        let outcome = run();
        drop(running);
        (outcome, watch.join().unwrap_or_default())
    })
}

/// All attacks of a run.
pub struct Campaign {
    binary: String,
    is_first: bool,
    /// See [`Field::scale`].
    pub scale: f64,
    rounds: usize,
    _pieces: Option<Pieces>,
    _awake: Option<Awake>,
    main: Option<Stage>,
    turns: Turns,
    reports: Vec<Report>,
}

impl Campaign {
    /// Starts a campaign against a binary.
    pub fn new(binary: &str, is_smoke: bool, is_first: bool, rounds: usize) -> Outcome<Campaign> {
        // Half of this is as much as the kernel's buffers take with the largest crowds.
        let pieces = if is_smoke { None } else { Some(Pieces::take(3072)?) };
        report::print_head();
        Ok(Campaign {
            binary: binary.into(),
            is_first,
            scale: if is_smoke { 0.03 } else { 1.0 },
            rounds,
            _pieces: pieces,
            _awake: if is_smoke { None } else { Some(Awake::start()?) },
            main: None,
            turns: Turns::default(),
            reports: Vec::new(),
        })
    }

    /// The path of the binary.
    pub fn binary(&self) -> &str {
        &self.binary
    }

    /// Starts a separate server and load for one attack.
    pub fn stage(&self, wants: &Wants, folder: Folder) -> Outcome<Stage> {
        let wants = Wants { is_first: self.is_first, ..wants.clone() };
        Stage::start(&self.binary, &wants, folder, self.scale)
    }

    /// Runs an attack on the shared server, repeatedly until it has been measured for long enough.
    fn on_main(
        &mut self,
        attack: &Attack,
        bounds: Bounds,
        run: fn(&Field) -> Outcome<Findings>,
    ) -> Outcome<Report> {
        let run = |field: &Field| {
            let (start, mut times) = (Instant::now(), 1);
            let mut findings = run(field)?;
            while field.scale >= 1.0 && start.elapsed() < MEASURED && findings.faults.is_empty() {
                findings = run(field)?;
                times += 1;
            }
            if times > 1 {
                findings.note(format!("run {times} times; these are the findings of the last run"));
            }
            Ok(findings)
        };
        let mut stage = match self.main.take() {
            Some(stage) => stage,
            None => self.stage(&Wants::default(), Folder::new()?)?,
        };
        let report = stage.measure(attack, bounds, run);
        if stage.server.ended()?.is_none() {
            self.main = Some(stage);
        }
        report
    }

    /// Adds the turns of a stage to the total, and ends it.
    pub fn leave(&mut self, stage: Stage) {
        if let Ok(numbers) = stage.server.numbers() {
            self.turns.add(&numbers.turns());
        }
    }

    /// Runs an attack, and prints its row.
    pub fn attack(&mut self, attack: &Attack) -> Outcome<()> {
        let report = match attack.run {
            Run::Beside(run, bounds) => self.on_main(attack, bounds, run),
            Run::Alone(run) => run(self, attack),
        };
        let report = report.unwrap_or_else(|error| {
            let faults = vec![format!("aborted: {error}")];
            Report::of(attack, Findings { notes: Vec::new(), faults })
        });
        report.print();
        self.reports.push(report);
        Ok(())
    }

    /// Checks the end state; returns whether everything was in order.
    pub fn end(mut self) -> Outcome<bool> {
        let mut findings = Findings::default();
        if let Some(mut stage) = self.main.take() {
            stage.healthy = None;
            let left = stage.calm(0)?;
            let numbers = stage.server.numbers()?;
            let memory = machine::memory(stage.server.pid(), "VmRSS")? as f64 / MIB;
            let kinds = ["fws_connections", "fws_peers", "fws_users", "fws_channels"];
            let counts = kinds.map(|name| format!("{name} {}", numbers.of(name, "")));
            findings.note(format!("{}, RSS {memory:.0} MiB", counts.join(", ")));
            let is_drained = kinds.iter().all(|name| numbers.of(name, "") == 0.0);
            let left = left.unwrap_or_else(|| "nothing is left".into());
            findings.expect(is_drained && left == "nothing is left", left);
            self.turns.add(&numbers.turns());
            stage.server.signal(Signal::TERM)?;
        }
        let turn = self.turns.below(0.999);
        let most = self.turns.below(1.0);
        let what = format!("p99.9 of all turns {turn} ms, the longest at most {most} ms");
        findings.expect(turn <= TURN_MS || self.scale < 1.0, what);
        println!("\nend state");
        findings.notes.iter().for_each(|note| println!("    {note}"));
        findings.faults.iter().for_each(|fault| println!("  ! {fault}"));
        let bad = report::failed(&self.reports);
        if self.rounds > 1 {
            report::print_rounds(&self.reports);
        }
        println!(
            "{} attacks; not ok: {}",
            self.reports.len(),
            if bad.is_empty() { "none".into() } else { bad.join(", ") }
        );
        Ok(bad.is_empty() && findings.faults.is_empty())
    }
}
