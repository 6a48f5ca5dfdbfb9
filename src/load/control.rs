//! Commands and their replies: a fixed number in flight on each of several connections.

use std::collections::VecDeque;

use super::crowd::Greeting;
use super::histogram::Histogram;
use super::outcome::{Measurement, Outcome, Unit};
use super::protocol::{Script, Template};
use super::{Action, EXTRA_MS, Fault, Plan, Work, replies};
use crate::edge::{ConnId, Door, Net};
use crate::frame::Frame;
use crate::time::{Millis, Stopwatch};

/// Number of keys, used in turn.
const KEYS: u64 = 10_000;
/// Commands in flight per connection while setting the values that are read later.
const FILLING: usize = 64;
/// Connections that are not ready at a time: our server allows 64 that have not authenticated, and
/// evicts the oldest.
const OPENING_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    /// The values that are read later are set.
    Filling,
    WarmUp,
    Measuring,
    Draining,
    Done,
}

/// A connection that sends commands.
#[derive(Debug)]
struct Seat {
    conn: ConnId,
    greeting: Greeting,
    is_ready: bool,
    /// Commands without a reply: when each batch was sent, and how many of it are left.
    sent: VecDeque<(u64, usize)>,
    in_flight: usize,
    /// How many more may be sent.
    free: usize,
}

/// One run.
pub(super) struct Control {
    plan: Plan,
    script: Script,
    set: Template,
    command: Template,
    seats: Vec<Seat>,
    /// Index into `seats` plus one, by the reactor's slot index; 0 for none.
    places: Vec<usize>,
    asked: usize,
    ready: usize,
    number: u64,
    /// Awaited answers.
    heard: u64,
    count: u64,
    /// Latency of each command in flight during the measured time, even if its reply came later.
    times: Histogram,
    /// Number of replies in the measured time.
    replies: u64,
    watch: Stopwatch,
    stage: Stage,
    now: Millis,
    until: Millis,
    measured: Measurement,
    batch: Vec<u8>,
}

impl Control {
    pub fn new(plan: &Plan) -> Control {
        let script = Script::new(plan);
        Control {
            set: script.command(Action::Set, plan.bytes),
            command: script.command(plan.action, plan.bytes),
            script,
            plan: plan.clone(),
            seats: Vec::new(),
            places: Vec::new(),
            asked: 0,
            ready: 0,
            number: 0,
            heard: 0,
            count: 0,
            times: Histogram::default(),
            replies: 0,
            watch: Stopwatch::start(),
            stage: Stage::Opening,
            now: Millis(0),
            until: Millis(0),
            measured: Measurement::new(plan.pid),
            batch: Vec::new(),
        }
    }

    fn action(&self) -> Action {
        if self.stage == Stage::Filling { Action::Set } else { self.plan.action }
    }

    /// Sends as many commands as are allowed, in one write.
    fn command(&mut self, net: &mut dyn Net, place: usize) {
        let is_filling = self.stage == Stage::Filling;
        let Some(seat) = self.seats.get_mut(place) else { return };
        let mut count = seat.free;
        if is_filling {
            let left = usize::try_from(KEYS - self.number).unwrap_or_default();
            count = FILLING.saturating_sub(seat.in_flight).min(left);
        } else {
            seat.free = 0;
        }
        if count == 0 {
            return;
        }
        self.batch.clear();
        let template = if is_filling { &self.set } else { &self.command };
        for _ in 0..count {
            let key = usize::try_from(self.number % KEYS).unwrap_or_default();
            template.write(&mut self.batch, self.number, key);
            self.number += 1;
        }
        seat.in_flight += count;
        seat.sent.push_back((self.watch.elapsed_us(), count));
        net.send(seat.conn, Frame::from(self.batch.as_slice()));
    }

    /// Lets all connections send commands from now on.
    fn command_all(&mut self, net: &mut dyn Net) {
        for place in 0..self.seats.len() {
            if let Some(seat) = self.seats.get_mut(place) {
                seat.free = self.plan.in_flight;
            }
            self.command(net, place);
        }
    }

    fn enter(&mut self, stage: Stage, ms: u64) {
        (self.stage, self.until) = (stage, self.now.plus(ms));
    }

    /// Handles answers to the greeting, and replies to commands, each of which allows the next one.
    fn hear(&mut self, net: &mut dyn Net, conn: ConnId, input: &[u8]) -> Result<usize, Fault> {
        let place = self.places.get(conn.index()).and_then(|place| place.checked_sub(1));
        let action = self.action();
        let Some(place) = place else { return Ok(input.len()) };
        let Some(seat) = self.seats.get_mut(place) else { return Ok(input.len()) };
        let mut used = 0;
        if !seat.is_ready {
            let script = &self.script;
            (used, seat.is_ready) =
                seat.greeting.hear(net, conn, input, |step| script.publisher(step))?;
            self.heard += u64::from(used > 0);
            if !seat.is_ready {
                return Ok(used);
            }
            self.ready += 1;
        }
        let (protocol, bytes) = (self.plan.protocol, self.plan.bytes);
        let replies = replies::to_commands(protocol, action, bytes, &input[used..])?;
        let now_us = self.watch.elapsed_us();
        let mut left = replies.count;
        while left > 0 {
            let Some((sent_us, count)) = seat.sent.front_mut() else {
                return Err(replies::too_many());
            };
            let part = left.min(*count);
            (0..part).for_each(|_| self.times.add(now_us.saturating_sub(*sent_us)));
            *count -= part;
            left -= part;
            if *count == 0 {
                seat.sent.pop_front();
            }
        }
        seat.in_flight -= replies.count;
        self.count += replies.count as u64;
        self.heard += replies.count as u64;
        if matches!(self.stage, Stage::Filling | Stage::WarmUp | Stage::Measuring) {
            seat.free += replies.count;
            self.command(net, place);
        }
        Ok(used + replies.used)
    }

    fn is_quiet(&self) -> bool {
        self.seats.iter().all(|seat| seat.in_flight == 0)
    }

    fn advance(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        let is_over = self.now >= self.until;
        match self.stage {
            Stage::Opening if self.ready == self.plan.connections => {
                if self.plan.action == Action::Get {
                    self.enter(Stage::Filling, 0);
                    self.command(net, 0);
                } else {
                    self.enter(Stage::WarmUp, self.plan.warm_up_ms);
                    self.command_all(net);
                }
            }
            Stage::Filling if self.number == KEYS && self.is_quiet() => {
                self.enter(Stage::WarmUp, self.plan.warm_up_ms);
                self.command_all(net);
            }
            Stage::WarmUp if is_over => {
                self.enter(Stage::Measuring, self.plan.measure_ms);
                self.count = 0;
                self.times.clear();
                self.measured.begin()?;
            }
            Stage::Measuring if is_over => {
                self.measured.end()?;
                self.replies = self.count;
                self.enter(Stage::Draining, EXTRA_MS);
            }
            Stage::Draining if !self.is_quiet() => self.until = self.now.plus(EXTRA_MS),
            Stage::Draining if is_over => self.stage = Stage::Done,
            _ => {}
        }
        Ok(())
    }
}

impl Work for Control {
    fn wish(&mut self) -> Option<Door> {
        let is_wanted = self.asked < self.plan.connections && self.asked - self.ready < OPENING_MAX;
        self.asked += usize::from(is_wanted);
        is_wanted.then_some(Door::Control)
    }

    fn opened(&mut self, net: &mut dyn Net, conn: ConnId, _: Door) {
        let mut greeting = Greeting::default();
        let is_ready = greeting.begin(net, conn, |step| self.script.publisher(step));
        self.ready += usize::from(is_ready);
        let sent = VecDeque::new();
        self.seats.push(Seat { conn, greeting, is_ready, sent, in_flight: 0, free: 0 });
        if self.places.len() <= conn.index() {
            self.places.resize(conn.index() + 1, 0);
        }
        if let Some(place) = self.places.get_mut(conn.index()) {
            *place = self.seats.len();
        }
    }

    fn received(&mut self, net: &mut dyn Net, conn: ConnId, input: &[u8]) -> Result<usize, Fault> {
        self.hear(net, conn, input).map_err(|fault| fault.at(&self.plan.control))
    }

    fn closed(&mut self, conn: ConnId) -> Result<(), Fault> {
        let seat = self.seats.iter().find(|seat| seat.conn == conn && !seat.is_ready);
        let who = "a connection that commands";
        let fault = match seat {
            Some(seat) => seat.greeting.cut_short(who),
            None => Fault::new(format!("the server has closed {who}")),
        };
        Err(fault.at(&self.plan.control))
    }

    fn settle(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        self.now = net.now().mono;
        self.advance(net)
    }

    fn due(&self) -> Option<Millis> {
        let is_timed = matches!(self.stage, Stage::WarmUp | Stage::Measuring | Stage::Draining);
        is_timed.then_some(self.until)
    }

    fn heard(&self) -> u64 {
        self.heard
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    fn progress(&self) -> String {
        match self.stage {
            Stage::Opening => format!("{} of {} are connected", self.ready, self.plan.connections),
            Stage::Filling => format!("{} of {KEYS} values are set", self.number),
            _ => format!("{} replies", self.count),
        }
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.add("connections", self.plan.connections as f64, Unit::Count);
        outcome.add_work(["replies", "reply"], self.replies, &self.measured);
        outcome.add_times("latency", &self.times);
        outcome
    }
}
