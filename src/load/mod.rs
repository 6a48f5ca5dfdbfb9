//! The load generator: drives a server from outside, over its real ports, and counts. Subscribers
//! and publishers of a run are connections of one reactor in one thread. Each delivery is checked,
//! so a run in which a message was lost or duplicated has no figures. Called by `fws bench`.
//!
//! It must be cheaper than what it measures: input is parsed in the one read buffer (`scan`), a
//! message is recognised by its length and a number at a fixed place, and publications of a turn
//! are sent in one write.

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

use crate::address::{Address, Place};
use crate::edge::{ConnId, Door, Handler, Net};
use crate::limits::Limits;
use crate::reactor::{Bounds, Reactor, raise_descriptor_limit};
use crate::reason::CloseReason;
use crate::slow::Rules;
use crate::time::Millis;

pub use outcome::{Figure, Outcome, Unit};
pub use protocol::Protocol;

/// Why there are no figures: one sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault(String);

impl Fault {
    fn new(text: impl Into<String>) -> Fault {
        Fault(text.into())
    }

    /// The same, of the server at that address.
    fn at(self, server: &Place) -> Fault {
        Fault(format!("{server}: {}", self.0))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// What is done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Every message to all.
    Broadcast,
    /// Every message to one of them.
    Unicast,
    /// Every message to all, so many a second.
    Rate,
    /// The same, and then some stop reading.
    Slow,
    /// All are there and nothing happens.
    Idle,
    /// They come, subscribe and go.
    Churn,
    /// Commands and their replies.
    Control,
}

impl Workload {
    /// Every one, with its name on the command line.
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

/// What is commanded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets one state after the other, each to another value than before.
    Set,
    /// Gets one after the other.
    Get,
    /// Publishes where nobody listens.
    Emit,
}

impl Action {
    /// Every one, with its name on the command line.
    pub const ALL: [(&'static str, Action); 3] =
        [("set", Action::Set), ("get", Action::Get), ("emit", Action::Emit)];
}

/// One run. Not every field matters to every workload.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is done.
    pub workload: Workload,
    /// To whom.
    pub protocol: Protocol,
    /// Where subscribers connect.
    pub ws: Place,
    /// Where publishers and commands go.
    pub control: Place,
    /// The namespace, for servers of ours.
    pub namespace: String,
    /// Its key.
    pub key: String,
    /// The site of the page that subscribers say they are from, if any.
    pub origin: Option<String>,
    /// How many subscribe.
    pub subscribers: usize,
    /// Bytes of a message or value, at least [`BYTES_MIN`].
    pub bytes: usize,
    /// Messages, commands or newcomers under way at a time: of each connection that commands. At
    /// most 65,536.
    pub in_flight: usize,
    /// Messages a second.
    pub per_second: usize,
    /// Connections that command.
    pub connections: usize,
    /// What they command.
    pub action: Action,
    /// How many stop reading.
    pub stalled: usize,
    /// Whether an idle subscriber also has a channel of its own.
    pub has_own_channel: bool,
    /// Before anything is counted.
    pub warm_up_ms: u64,
    /// While it is.
    pub measure_ms: u64,
    /// The server's process, to see what it takes.
    pub pid: Option<u32>,
}

/// Bytes of the smallest message: its number, and what it is known by.
pub const BYTES_MIN: usize = 32;
/// Bytes of the largest message: the one read buffer must hold it with its framing.
pub const BYTES_MAX: usize = 32_768;

impl Plan {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// [`Fault`] that says why it does not.
    pub fn check(&self) -> Result<(), Fault> {
        let is_control = self.workload == Workload::Control;
        let can = match self.protocol {
            Protocol::Fws => true,
            Protocol::Redis => is_control && self.action != Action::Emit,
            _ => !is_control,
        };
        if !can {
            return Err(Fault::new("that protocol cannot do that"));
        }
        if !(BYTES_MIN..=BYTES_MAX).contains(&self.bytes) {
            let text = format!("a message has from {BYTES_MIN} to {BYTES_MAX} bytes");
            return Err(Fault::new(text));
        }
        if self.in_flight > IN_FLIGHT_MAX {
            let text = format!("at most {IN_FLIGHT_MAX} of them can be in flight");
            return Err(Fault::new(text));
        }
        if self.workload == Workload::Unicast && self.subscribers > protocol::NAMES {
            let text = format!("{} subscribers can be told apart at most", protocol::NAMES);
            return Err(Fault::new(text));
        }
        if self.workload == Workload::Slow && self.stalled >= self.subscribers {
            return Err(Fault::new("nobody is left who reads"));
        }
        Ok(())
    }
}

/// Messages under way at which a server is given up that cannot keep up.
const IN_FLIGHT_MAX: usize = 1 << 16;
/// Without anything from a server that is waited for, for so long, a run has failed.
const SILENCE_MS: u64 = 10_000;
/// After the last that was waited for, for what comes once too often.
const EXTRA_MS: u64 = 50;
/// Between two calls for progress.
const PROGRESS_MS: u64 = 250;
/// Connections that are being opened at a time.
const OPENING_MAX: usize = 128;
/// Ports of one address of ours that are used before the next: it has 28,000, and the fewer are
/// free the longer the kernel looks for one.
const PORTS_PER_ADDRESS: usize = 10_000;
/// So many addresses in turn.
const ADDRESSES: usize = 250;

/// What a workload is to the loop. What goes wrong ends the run.
trait Work {
    /// The door through which one more connection is wanted, if one is.
    fn wish(&mut self) -> Option<Door>;
    /// That connection is there, or will be.
    fn opened(&mut self, net: &mut dyn Net, conn: ConnId, door: Door);
    /// As [`Handler::received`].
    fn received(&mut self, net: &mut dyn Net, conn: ConnId, input: &[u8]) -> Result<usize, Fault>;
    /// A connection ended, by the server or at our wish.
    fn closed(&mut self, conn: ConnId) -> Result<(), Fault>;
    /// Once a turn, after its input.
    fn settle(&mut self, net: &mut dyn Net) -> Result<(), Fault>;
    /// When that is wanted at the latest.
    fn due(&self) -> Option<Millis>;
    /// How much has come so far that was waited for. Signs of life are nothing of the kind, or a
    /// run would never end whose messages are lost.
    fn heard(&self) -> u64;
    /// Whether the server has something to say: always, where nothing else is said.
    fn is_waiting(&self) -> bool {
        true
    }
    /// Whether all has been done.
    fn is_done(&self) -> bool;
    /// What is happening, in a few words.
    fn progress(&self) -> String;
    /// What came out.
    fn outcome(&self) -> Outcome;
}

/// A workload as a handler: it may fail, which no server may.
struct Driver {
    work: Box<dyn Work>,
    fault: Option<Fault>,
    /// How much had come that was waited for, and when the last of it did, or nothing had to.
    heard: u64,
    heard_at: Millis,
    /// Nothing has to come before this moment.
    next_look: Millis,
}

impl Driver {
    fn note(&mut self, result: Result<(), Fault>) {
        if let Err(fault) = result {
            self.fault.get_or_insert(fault);
        }
    }

    /// Notes whether something has come that was waited for, and that nothing has for too long.
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
    fn ended(&mut self, net: &mut impl Net, conn: ConnId) {
        net.close(conn, CloseReason::PeerClosed);
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

/// Runs it. `progress` is called a few times a second with what is happening.
///
/// # Errors
/// [`Fault`] if the server could not be reached, closed a connection, said something wrong, or did
/// not deliver each message once and in order.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(&str)) -> Result<Outcome, Fault> {
    let system = |error: std::io::Error| Fault::new(format!("the system refuses: {error}"));
    raise_descriptor_limit();
    let mut reactor = Reactor::new(Bounds {
        connections: 0,
        admissions_per_second: 0,
        admissions_burst: 0,
        control_reserve: 0,
        control_unheard: 0,
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
            // Few, and a server may trust none but the usual address.
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

/// The address of ours to come from. A port rests for a minute after its connection, so each run
/// has addresses of its own, of which the loopback network has millions.
fn source(to: &Place, dialed: usize) -> Option<IpAddr> {
    let place = (dialed / PORTS_PER_ADDRESS) % ADDRESSES;
    let last = u8::try_from(place).unwrap_or_default().checked_add(1)?;
    let [.., high, low] = std::process::id().to_be_bytes();
    let is_near = matches!(to, Place::Ip(to) if to.ip() == Ipv4Addr::LOCALHOST);
    is_near.then_some(Ipv4Addr::new(127, high, low, last).into())
}

/// A plan for tests.
#[cfg(test)]
fn sample(workload: Workload, subscribers: usize) -> Plan {
    Plan {
        workload,
        protocol: Protocol::Fws,
        ws: Place::Ip(([127, 0, 0, 1], 1).into()),
        control: Place::Ip(([127, 0, 0, 1], 1).into()),
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
