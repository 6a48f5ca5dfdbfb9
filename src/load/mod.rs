//! The load generator: drives a server from outside, over its real ports, and counts. The
//! subscribers and publishers of a run are connections of one reactor in one thread. Each delivery
//! is checked, so a run that lost or duplicated a message has no figures. Called by `fws bench`.
//!
//! It must be cheaper than what it measures: input is parsed in the reactor's read buffer
//! (`scan`), a message is recognised by its length and a number at a fixed offset, and the
//! publications of a turn are sent in one write.

mod churn;
mod control;
mod counts;
mod crowd;
mod fanout;
mod flights;
mod histogram;
mod idle;
mod outcome;
mod pace;
mod process;
mod protocol;
mod replies;
mod scan;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::address::{Address, ListenAddress};
use crate::edge::{ConnId, Door, Handler, Net};
use crate::limits::Limits;
use crate::reactor::{Bounds, Reactor, raise_descriptor_limit};
use crate::reason::CloseReason;
use crate::slow::Rules;
use crate::time::Millis;

pub use outcome::{Figure, Outcome, Unit};
pub use protocol::Protocol;

/// Why a run failed: one sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault(String);

impl Fault {
    fn new(text: impl Into<String>) -> Fault {
        Fault(text.into())
    }

    /// The same fault, with the server's address.
    fn at(self, server: &ListenAddress) -> Fault {
        Fault(format!("{server}: {}", self.0))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// The kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Every message to all subscribers.
    Broadcast,
    /// Every message to one subscriber.
    Unicast,
    /// Every message to all, at a fixed rate.
    Rate,
    /// The same, and then some subscribers stop reading.
    Slow,
    /// Subscribers without any messages.
    Idle,
    /// Subscribers that connect, subscribe and leave.
    Churn,
    /// Commands and their replies.
    Control,
}

impl Workload {
    /// All workloads with their names on the command line.
    pub const ALL: [(&'static str, Workload); 7] = [
        ("broadcast", Workload::Broadcast),
        ("unicast", Workload::Unicast),
        ("rate", Workload::Rate),
        ("slow", Workload::Slow),
        ("idle", Workload::Idle),
        ("churn", Workload::Churn),
        ("control", Workload::Control),
    ];
}

/// The command that [`Workload::Control`] sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets one state after the other, each to a new value.
    Set,
    /// Gets one state after the other.
    Get,
    /// Publishes to a channel without subscribers.
    Emit,
}

impl Action {
    /// All actions with their names on the command line.
    pub const ALL: [(&'static str, Action); 3] =
        [("set", Action::Set), ("get", Action::Get), ("emit", Action::Emit)];
}

/// One run. Not every field matters to every workload.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kind of load.
    pub workload: Workload,
    /// The protocol that the server speaks.
    pub protocol: Protocol,
    /// Where subscribers connect.
    pub ws: ListenAddress,
    /// Where publishers and commands connect.
    pub control: ListenAddress,
    /// The namespace, if the server is ours.
    pub namespace: String,
    /// Its key.
    pub key: String,
    /// The origin that subscribers claim, if any.
    pub origin: Option<String>,
    /// Number of subscribers.
    pub subscribers: usize,
    /// Size of a message or value, at least [`BYTES_MIN`].
    pub bytes: usize,
    /// Messages, commands (per connection) or visits in flight. At most 65,536.
    pub in_flight: usize,
    /// Messages per second.
    pub per_second: usize,
    /// Number of connections that send commands.
    pub connections: usize,
    /// The command they send.
    pub action: Action,
    /// Number of subscribers that stop reading.
    pub stalled: usize,
    /// Whether an idle subscriber also subscribes to a channel of its own.
    pub has_own_channel: bool,
    /// Time before anything is counted.
    pub warm_up_ms: u64,
    /// Time in which it is counted.
    pub measure_ms: u64,
    /// The server's process, if its CPU time and memory are to be measured.
    pub pid: Option<u32>,
}

/// Size of the smallest message: its number, and the fill by which it is recognised.
pub const BYTES_MIN: usize = 32;
/// Size of the largest message: the read buffer must hold it with its framing.
pub const BYTES_MAX: usize = 32_768;

impl Plan {
    /// Checks that the plan makes sense.
    ///
    /// # Errors
    /// [`Fault`] that says what is wrong.
    pub fn check(&self) -> Result<(), Fault> {
        let is_control = self.workload == Workload::Control;
        let can = match self.protocol {
            Protocol::Fws => true,
            Protocol::Redis => is_control && self.action != Action::Emit,
            _ => !is_control,
        };
        if !can {
            return Err(Fault::new(match self.protocol {
                Protocol::Redis => "--to redis can do control only, with set or get",
                _ => "control is only for --to fws and redis",
            }));
        }
        if !(BYTES_MIN..=BYTES_MAX).contains(&self.bytes) {
            let text = format!("--bytes: a message has from {BYTES_MIN} to {BYTES_MAX} bytes");
            return Err(Fault::new(text));
        }
        if self.in_flight > IN_FLIGHT_MAX {
            let text = format!("--in-flight: at most {IN_FLIGHT_MAX} of them can be in flight");
            return Err(Fault::new(text));
        }
        if self.workload == Workload::Unicast && self.subscribers > protocol::NAMES {
            let max = protocol::NAMES;
            return Err(Fault::new(format!("--subscribers: {max} can be told apart at most")));
        }
        if self.workload == Workload::Slow && self.stalled >= self.subscribers {
            return Err(Fault::new("--stalled: nobody is left who reads"));
        }
        Ok(())
    }
}

/// Messages in flight at which a run fails because the server cannot keep up.
const IN_FLIGHT_MAX: usize = 1 << 16;
/// A run fails if nothing awaited arrives for this long.
const SILENCE_MS: u64 = 10_000;
/// How long to wait, after the last awaited message, for duplicates.
const EXTRA_MS: u64 = 50;
/// Interval between calls of `progress`.
const PROGRESS_MS: u64 = 250;
/// Connections that are being opened at a time.
const OPENING_MAX: usize = 128;
/// Local ports used of one source address before the next: it has 28,000, and the fewer are free
/// the longer the kernel searches for one.
const PORTS_PER_ADDRESS: usize = 10_000;
/// Number of source addresses, used in turn.
const ADDRESSES: usize = 250;

/// A workload, as the event loop drives it. An error ends the run.
trait Work {
    /// The listener to which one more connection is wanted, if any.
    fn wish(&mut self) -> Option<Door>;
    /// The connection is open, or will be.
    fn opened(&mut self, net: &mut dyn Net, conn: ConnId, door: Door);
    /// As [`Handler::received`].
    fn received(&mut self, net: &mut dyn Net, conn: ConnId, input: &[u8]) -> Result<usize, Fault>;
    /// A connection ended, closed by the server or by us.
    fn closed(&mut self, conn: ConnId) -> Result<(), Fault>;
    /// Called once per turn, after its input.
    fn settle(&mut self, net: &mut dyn Net) -> Result<(), Fault>;
    /// When `settle` must be called at the latest.
    fn due(&self) -> Option<Millis>;
    /// How much that was awaited has arrived. Heartbeats do not count, or a run whose messages were
    /// lost would never end.
    fn heard(&self) -> u64;
    /// Whether anything is awaited from the server; always, by default.
    fn is_waiting(&self) -> bool {
        true
    }
    /// Whether the run is complete.
    fn is_done(&self) -> bool;
    /// The progress in a few words.
    fn progress(&self) -> String;
    /// The results.
    fn outcome(&self) -> Outcome;
}

/// Runs a workload as a reactor's handler, and keeps its first fault.
struct Driver {
    work: Box<dyn Work>,
    fault: Option<Fault>,
    /// How much that was awaited has arrived, and when it last grew or nothing was awaited.
    heard: u64,
    heard_at: Millis,
    /// No call of `settle` is due before this.
    next_look: Millis,
}

impl Driver {
    fn note(&mut self, result: Result<(), Fault>) {
        if let Err(fault) = result {
            self.fault.get_or_insert(fault);
        }
    }

    /// Fails the run if nothing that is awaited has arrived for too long.
    fn listen(&mut self, now: Millis) {
        let heard = self.work.heard();
        if heard != self.heard || !self.work.is_waiting() {
            (self.heard, self.heard_at) = (heard, now);
        }
        if self.heard_at.plus(SILENCE_MS) <= now {
            let (seconds, progress) = (SILENCE_MS / 1000, self.work.progress());
            let silence = "nothing that is waited for has come for";
            self.note(Err(Fault::new(format!("{silence} {seconds} s: {progress}"))));
        }
    }
}

impl Handler for Driver {
    fn opened(&mut self, net: &mut impl Net, conn: ConnId, door: Door, _: Address) {
        self.work.opened(net, conn, door);
    }
    fn received(
        &mut self,
        net: &mut impl Net,
        conn: ConnId,
        input: &mut [u8],
    ) -> Result<usize, CloseReason> {
        let all = input.len();
        match self.work.received(net, conn, input) {
            Ok(used) => Ok(used),
            Err(fault) => {
                self.note(Err(fault));
                Ok(all)
            }
        }
    }
    fn closed(&mut self, _: &mut impl Net, conn: ConnId, _: CloseReason) {
        let result = self.work.closed(conn);
        self.note(result);
    }
    fn due(&self, _: &impl Net) -> Option<Millis> {
        Some(self.work.due().map_or(self.next_look, |due| due.min(self.next_look)))
    }
    fn settle(&mut self, net: &mut impl Net) {
        let result = self.work.settle(net);
        self.note(result);
    }
}

/// Runs a plan. `progress` is called a few times per second with what is happening.
///
/// # Errors
/// [`Fault`] if the server could not be reached, closed a connection, sent something wrong, or did
/// not deliver each message exactly once and in order.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<Outcome, Fault> {
    let system = |error: std::io::Error| Fault::new(format!("the system refuses: {error}"));
    raise_descriptor_limit();
    let mut reactor = Reactor::new(Bounds {
        connections: 0,
        admissions_per_second: 0,
        admissions_burst: 0,
        control_reserve: 0,
        control_unread_max: 0,
        admin_connections: 0,
        close_ms: 2000,
        drain_ms: 2000,
        // Nothing is published here, only sent.
        slow: Rules::new(&Limits::default()),
        input_bytes: usize::MAX,
    })
    .map_err(system)?;
    let work: Box<dyn Work> = match plan.workload {
        Workload::Idle => Box::new(idle::Idle::new(plan)),
        Workload::Churn => Box::new(churn::Churn::new(plan)),
        Workload::Control => Box::new(control::Control::new(plan)),
        _ => Box::new(fanout::Fanout::new(plan)),
    };
    let now = reactor.now().mono;
    let mut driver = Driver { work, fault: None, heard: 0, heard_at: now, next_look: now };
    let mut dialed = 0;
    while !driver.work.is_done() {
        while let Some(door) = driver.work.wish() {
            let to = if door == Door::Web { &plan.ws } else { &plan.control };
            // They are few, and the server may trust only the default address.
            let is_few = door == Door::Control && plan.connections <= PORTS_PER_ADDRESS;
            let from = source(to, dialed).filter(|_| !is_few);
            dialed += 1;
            let what = format_args!("connection {dialed} to {to}");
            let dial = reactor.dial(&mut driver, door, to, from);
            dial.map_err(|error| Fault::new(format!("{what} is refused by the system: {error}")))?;
        }
        reactor.turn(&mut driver).map_err(system)?;
        let now = reactor.now().mono;
        if driver.next_look <= now {
            driver.next_look = now.plus(PROGRESS_MS);
            progress(&driver.work.progress());
        }
        driver.listen(now);
        if let Some(fault) = driver.fault {
            return Err(fault);
        }
    }
    Ok(driver.work.outcome())
}

/// The source address of a connection. A port stays in TIME_WAIT for a minute after its connection,
/// so each run uses its own addresses, of which the loopback network has millions.
fn source(to: &ListenAddress, dialed: usize) -> Option<IpAddr> {
    let place = (dialed / PORTS_PER_ADDRESS) % ADDRESSES;
    let last = u8::try_from(place).unwrap_or_default().checked_add(1)?;
    let [.., high, low] = std::process::id().to_be_bytes();
    let is_near = matches!(to, ListenAddress::Ip(to) if to.ip() == Ipv4Addr::LOCALHOST);
    is_near.then_some(Ipv4Addr::new(127, high, low, last).into())
}

/// A plan for tests.
#[cfg(test)]
fn sample(workload: Workload, subscribers: usize) -> Plan {
    Plan {
        workload,
        protocol: Protocol::Fws,
        ws: ListenAddress::Ip(([127, 0, 0, 1], 1).into()),
        control: ListenAddress::Ip(([127, 0, 0, 1], 1).into()),
        namespace: "demo".into(),
        key: "key".into(),
        origin: None,
        subscribers,
        bytes: BYTES_MIN,
        in_flight: 1,
        per_second: 1,
        connections: 1,
        action: Action::Set,
        stalled: 0,
        has_own_channel: false,
        warm_up_ms: 0,
        measure_ms: 0,
        pid: None,
    }
}
