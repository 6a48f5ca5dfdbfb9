//! Messages to many: to all of them, or to one at a time; as fast as they arrive, or so many a
//! second; and while some do not read. Every delivery is checked against what was published.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::crowd::{Crowd, Greeting, words};
use super::histogram::Histogram;
use super::outcome::{Measurement, Outcome, Unit};
use super::process::{self, Memory};
use super::protocol::{Script, Template, masked};
use super::scan::{self, Kept, Said, Shape};
use super::{Fault, IN_FLIGHT_MAX, Plan, Work, Workload, replies};
use crate::codec::ws::Opcode;
use crate::edge::{ConnId, Door, Net};
use crate::frame::Frame;
use crate::time::{Millis, Stopwatch};

/// A message under way.
#[derive(Debug)]
struct Flight {
    /// How many have not had it.
    left: u32,
    /// For whom alone it is.
    to: u32,
    sent_us: u64,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Opening,
    WarmUp,
    Measuring,
    /// The same, while some do not read.
    Stalled,
    /// Nothing more is published; what is under way arrives.
    Draining,
    Done,
}

/// After the last delivery, for one that comes twice.
const EXTRA_MS: u64 = 50;
/// Time for those who had stalled to read what waits for them.
const OWED_MS: u64 = 5000;
/// Between two looks at the server's memory.
const LOOK_MS: u64 = 100;

/// What was counted in one stage.
#[derive(Debug, Default)]
struct Counts {
    published: u64,
    deliveries: u64,
    /// From the publication to each delivery, and to the last one.
    each: Histogram,
    last: Histogram,
    /// Most that was seen.
    memory: Memory,
}

/// One run.
pub(super) struct Fanout {
    plan: Plan,
    crowd: Crowd,
    template: Template,
    /// The number that each subscriber must be told next, or a later one if not all are for it.
    expected: Vec<u64>,
    kept: Vec<Kept>,
    shape: Option<Shape>,
    publisher: Option<ConnId>,
    is_publisher_asked: bool,
    greeting: Greeting,
    is_publisher_ready: bool,
    /// Messages under way, the first of which has this number; and the number of the next.
    flights: VecDeque<Flight>,
    first: u64,
    next: u64,
    under_way: usize,
    /// Answers of the server to publications.
    replies: u64,
    watch: Stopwatch,
    stage: Stage,
    now: Millis,
    stage_until: Millis,
    /// While all read.
    measured: Measurement,
    looked_at: Millis,
    /// When the first message was due, in microseconds of the watch.
    begun_us: u64,
    /// The longest that a message was late.
    late_us: u64,
    counts: Counts,
    /// Those of the stages that are over.
    results: Vec<Counts>,
    /// Of those who stall, whom the server has cut; and when it is no longer waited for the rest.
    is_cut: Vec<bool>,
    owed_until: Millis,
    chance: u64,
    batch: Vec<u8>,
}

impl Fanout {
    pub fn new(plan: &Plan) -> Fanout {
        let script = Script::new(plan);
        let template = script.publication(plan.bytes);
        Fanout {
            template,
            crowd: Crowd::new(script, plan.subscribers),
            expected: vec![0; plan.subscribers],
            kept: vec![Kept::default(); plan.subscribers],
            shape: None,
            publisher: None,
            is_publisher_asked: false,
            greeting: Greeting::default(),
            is_publisher_ready: false,
            flights: VecDeque::new(),
            first: 0,
            next: 0,
            under_way: 0,
            replies: 0,
            watch: Stopwatch::start(),
            stage: Stage::Opening,
            now: Millis(0),
            stage_until: Millis(0),
            measured: Measurement::new(plan.pid),
            looked_at: Millis(0),
            begun_us: 0,
            late_us: 0,
            counts: Counts::default(),
            results: Vec::new(),
            is_cut: vec![false; plan.stalled],
            owed_until: Millis(0),
            chance: 1,
            batch: Vec::new(),
            plan: plan.clone(),
        }
    }

    fn publisher_at(&self) -> SocketAddr {
        if self.plan.protocol.is_one_port() { self.plan.ws } else { self.plan.control }
    }

    fn is_unicast(&self) -> bool {
        self.plan.workload == Workload::Unicast
    }

    /// Whether a message goes when its time has come, not when another has arrived.
    fn is_timed(&self) -> bool {
        matches!(self.plan.workload, Workload::Rate | Workload::Slow)
    }

    /// Whether this one does not read now, or has missed what was published then.
    fn is_stalled(&self, n: usize) -> bool {
        self.stage >= Stage::Stalled
            && self.plan.workload == Workload::Slow
            && n < self.plan.stalled
    }

    /// When the next message is due, in microseconds of the watch.
    fn next_due_us(&self) -> u64 {
        self.begun_us + due_at(self.next, self.plan.per_second)
    }

    /// One message has come to one subscriber.
    fn deliver(&mut self, n: usize, message: &[u8], now_us: u64) -> Result<(), Fault> {
        let shape = match self.shape {
            Some(shape) => shape,
            None => Shape::of(message).ok_or_else(|| stranger(message))?,
        };
        self.shape = Some(shape);
        let number = shape.number(message).ok_or_else(|| stranger(message))?;
        let is_stalled = self.is_stalled(n);
        let is_unicast = self.is_unicast();
        let expected = self.expected.get_mut(n).ok_or_else(|| stranger(message))?;
        let is_next = if is_unicast { number >= *expected } else { number == *expected };
        if !is_next {
            let what = if number < *expected { "twice or late" } else { "too early: one is lost" };
            let text = format!("message {number} came to subscriber {n} {what} (not {expected})");
            return Err(Fault::new(text));
        }
        *expected = number + 1;
        if is_stalled {
            return Ok(());
        }
        let place = usize::try_from(number.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        let Some(flight) = self.flights.get_mut(place).filter(|it| it.left > 0) else {
            let text = format!("message {number} came to subscriber {n}, once too often");
            return Err(Fault::new(text));
        };
        if is_unicast && flight.to as usize != n {
            let text = format!("message {number} came to {n}, but it was for {}", flight.to);
            return Err(Fault::new(text));
        }
        flight.left -= 1;
        let us = now_us.saturating_sub(flight.sent_us);
        self.counts.deliveries += 1;
        self.counts.each.add(us);
        if flight.left == 0 {
            self.counts.last.add(us);
            self.under_way -= 1;
        }
        Ok(())
    }

    /// Publishes what is due, in one write.
    fn publish(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        while self.flights.front().is_some_and(|flight| flight.left == 0) {
            self.flights.pop_front();
            self.first += 1;
        }
        let (Some(publisher), false) = (self.publisher, self.stage >= Stage::Draining) else {
            return Ok(());
        };
        let now_us = self.watch.elapsed_us();
        let mut count = self.plan.in_flight.saturating_sub(self.under_way);
        if self.is_timed() {
            let due = due_by(now_us.saturating_sub(self.begun_us), self.plan.per_second);
            count = usize::try_from(due.saturating_sub(self.next)).unwrap_or(usize::MAX);
            if count > 0 {
                self.late_us = self.late_us.max(now_us.saturating_sub(self.next_due_us()));
            }
        }
        let under_way = self.flights.len();
        if under_way.saturating_add(count) > IN_FLIGHT_MAX {
            let what = format!("{under_way} messages are under way, and {count} more are due");
            return Err(Fault::new(format!("nobody keeps up: {what}")));
        }
        self.batch.clear();
        for _ in 0..count {
            let (mut to, mut left) = (0, self.plan.subscribers);
            if self.is_unicast() {
                // Knuth's linear congruential generator: nothing that a server could foresee.
                self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (to, left) = ((self.chance >> 33) as usize % self.plan.subscribers, 1);
            } else if self.is_stalled(0) {
                left -= self.plan.stalled;
            }
            self.template.write(&mut self.batch, self.next, to);
            let (left, to) = (left as u32, to as u32);
            self.flights.push_back(Flight { left, to, sent_us: now_us });
            self.next += 1;
            self.under_way += 1;
        }
        self.counts.published += count as u64;
        if count > 0 {
            net.send(publisher, Frame::from(self.batch.as_slice()));
        }
        Ok(())
    }

    /// Goes on to the next stage when the time has come.
    fn advance(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        let is_over = self.now >= self.stage_until;
        match self.stage {
            Stage::Opening if self.crowd.is_complete() && self.is_publisher_ready => {
                self.begun_us = self.watch.elapsed_us();
                self.enter(Stage::WarmUp, self.plan.warm_up_ms)?;
            }
            Stage::WarmUp if is_over => {
                self.enter(Stage::Measuring, self.plan.measure_ms)?;
                self.measured.begin()?;
            }
            Stage::Measuring if is_over => {
                self.measured.end()?;
                self.close_counts()?;
                if self.plan.workload == Workload::Slow {
                    self.enter(Stage::Stalled, self.plan.measure_ms)?;
                    self.stall(net);
                } else {
                    self.enter(Stage::Draining, 0)?;
                }
            }
            Stage::Stalled if is_over => {
                self.close_counts()?;
                for n in 0..self.plan.stalled {
                    self.crowd.conn(n).into_iter().for_each(|conn| net.resume(conn));
                }
                self.owed_until = self.now.plus(OWED_MS);
                self.enter(Stage::Draining, 0)?;
            }
            Stage::Draining if self.under_way > 0 || self.is_owed() => {
                self.stage_until = self.now.plus(EXTRA_MS);
            }
            Stage::Draining if is_over => self.stage = Stage::Done,
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, stage: Stage, ms: u64) -> Result<(), Fault> {
        self.stage = stage;
        self.stage_until = self.now.plus(ms);
        if matches!(stage, Stage::Measuring | Stage::Stalled) {
            self.counts = Counts::default();
            self.late_us = 0;
            self.look()?;
        }
        Ok(())
    }

    fn close_counts(&mut self) -> Result<(), Fault> {
        self.look()?;
        self.results.push(std::mem::take(&mut self.counts));
        Ok(())
    }

    /// Some stop reading. What is under way to them is not waited for.
    fn stall(&mut self, net: &mut dyn Net) {
        for n in 0..self.plan.stalled {
            self.crowd.conn(n).into_iter().for_each(|conn| net.pause(conn));
            let expected = self.expected.get(n).copied().unwrap_or_default();
            for number in expected.max(self.first)..self.next {
                let place = usize::try_from(number - self.first).unwrap_or(usize::MAX);
                let Some(flight) = self.flights.get_mut(place) else { continue };
                flight.left -= 1;
                self.under_way -= usize::from(flight.left == 0);
            }
        }
    }

    fn note_cut(&mut self, n: usize) {
        self.is_cut.get_mut(n).into_iter().for_each(|is_cut| *is_cut = true);
    }

    /// Whether somebody who stalled has yet to read what was published, or that they were cut:
    /// what says so stands behind all that had been on its way to them.
    fn is_owed(&self) -> bool {
        let mut stalled = self.is_cut.iter().zip(&self.expected);
        self.now < self.owed_until
            && stalled.any(|(is_cut, expected)| !is_cut && *expected < self.next)
    }

    /// Notes how much memory the server has, if that is more than before.
    fn look(&mut self) -> Result<(), Fault> {
        let Some(pid) = self.plan.pid else { return Ok(()) };
        let (now, most) = (process::memory(pid)?, &mut self.counts.memory);
        most.rss = most.rss.max(now.rss);
        most.pss = most.pss.max(now.pss);
        most.tcp = most.tcp.max(now.tcp);
        self.looked_at = self.now;
        Ok(())
    }

    fn hear_publisher(
        &mut self,
        net: &mut dyn Net,
        conn: ConnId,
        input: &[u8],
    ) -> Result<usize, Fault> {
        let mut used = 0;
        if !self.is_publisher_ready {
            let script = self.crowd.script();
            (used, self.is_publisher_ready) =
                self.greeting.hear(net, conn, input, |step| script.publisher(step))?;
            if !self.is_publisher_ready {
                return Ok(used);
            }
        }
        let replies = replies::to_publications(self.plan.protocol, &input[used..])?;
        self.replies += replies.count as u64;
        (0..replies.polls).for_each(|_| net.send(conn, Frame::from(&b"PONG\r\n"[..])));
        Ok(used + replies.used)
    }
}

/// How many of so many messages a second are due after this time, in microseconds: the first at
/// once.
fn due_by(us: u64, per_second: usize) -> u64 {
    us.saturating_mul(per_second as u64) / 1_000_000 + 1
}

/// After which time, in microseconds, one is due, of which this many come before.
fn due_at(before: u64, per_second: usize) -> u64 {
    before.saturating_mul(1_000_000).div_ceil(per_second.max(1) as u64)
}

fn stranger(message: &[u8]) -> Fault {
    let start = message.get(..200).unwrap_or(message).escape_ascii();
    Fault::new(format!("a message came that nobody had published: {start}"))
}

impl Work for Fanout {
    fn wish(&mut self) -> Option<Door> {
        if !self.is_publisher_asked {
            self.is_publisher_asked = true;
            let is_one_port = self.plan.protocol.is_one_port();
            return Some(if is_one_port { Door::Web } else { Door::Control });
        }
        self.crowd.wants_one().then_some(Door::Web)
    }

    fn opened(&mut self, net: &mut dyn Net, conn: ConnId, _: Door) {
        if self.publisher.is_some() {
            return self.crowd.opened(net, conn);
        }
        self.publisher = Some(conn);
        let script = self.crowd.script();
        self.is_publisher_ready = self.greeting.begin(net, conn, |step| script.publisher(step));
    }

    fn received(&mut self, net: &mut dyn Net, conn: ConnId, input: &[u8]) -> Result<usize, Fault> {
        if self.publisher == Some(conn) {
            let at = self.publisher_at();
            return self.hear_publisher(net, conn, input).map_err(|it| it.at(at));
        }
        let Some(n) = self.crowd.number(conn) else { return Ok(input.len()) };
        let mut used = 0;
        if self.stage == Stage::Opening {
            used = self.crowd.hear(net, conn, n, input).map_err(|it| it.at(self.plan.ws))?;
            if !self.crowd.is_there(n) {
                return Ok(used);
            }
        }
        let now_us = self.watch.elapsed_us();
        let mut kept = self.kept.get_mut(n).map(std::mem::take).unwrap_or_default();
        let protocol = self.plan.protocol;
        let rest = &input[used..];
        let scanned = scan::scan(protocol, rest, &mut kept, &mut |said| {
            match said {
                Said::Message(message) => return self.deliver(n, message, now_us),
                Said::Ping(it) => net.send(conn, Frame::from(masked(Opcode::Pong, it))),
                Said::Poll => net.send(conn, Frame::from(masked(Opcode::Binary, b"PONG\r\n"))),
                Said::AnswerOver => net.send(conn, Frame::from(self.crowd.script().again(n))),
                Said::Close(_) if self.is_stalled(n) => self.note_cut(n),
                Said::Close(it) => {
                    let text = format!("the server closes subscriber {n}: {}", words(it));
                    return Err(Fault::new(text).at(self.plan.ws));
                }
            }
            Ok(())
        })?;
        if let Some(place) = self.kept.get_mut(n) {
            *place = kept;
        }
        Ok(used + scanned)
    }

    fn closed(&mut self, conn: ConnId) -> Result<(), Fault> {
        if self.publisher == Some(conn) {
            let fault = match self.is_publisher_ready {
                true => Fault::new("the server has closed the publisher's connection"),
                false => self.greeting.cut_short("the publisher's connection"),
            };
            return Err(fault.at(self.publisher_at()));
        }
        let Some(n) = self.crowd.leaves(conn) else { return Ok(()) };
        if self.is_stalled(n) {
            self.note_cut(n);
            return Ok(());
        }
        Err(self.crowd.closed(n).at(self.plan.ws))
    }

    fn settle(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        self.now = net.now().mono;
        self.advance(net)?;
        if self.stage == Stage::Stalled && self.looked_at.plus(LOOK_MS) <= self.now {
            self.look()?;
        }
        if self.stage > Stage::Opening { self.publish(net) } else { Ok(()) }
    }

    fn due(&self) -> Option<Millis> {
        if self.stage == Stage::Opening {
            return None;
        }
        let until_us = self.next_due_us().saturating_sub(self.watch.elapsed_us());
        // Rounded up: a turn before the time would be for nothing.
        let message = self.is_timed().then_some(self.now.plus(until_us.div_ceil(1000)));
        Some(message.map_or(self.stage_until, |at| at.min(self.stage_until)))
    }

    fn is_waiting(&self) -> bool {
        self.stage == Stage::Opening || self.under_way > 0
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    fn progress(&self) -> String {
        let under_way = self.under_way;
        match self.stage {
            Stage::Opening => self.crowd.progress(),
            Stage::WarmUp => format!("warming up, {under_way} messages under way"),
            Stage::Draining | Stage::Done => {
                let left = self.flights.front().map_or(0, |flight| flight.left);
                format!("{under_way} messages under way, the oldest to {left} subscribers")
            }
            Stage::Measuring | Stage::Stalled => {
                let deliveries = self.counts.deliveries;
                let stalled = if self.stage == Stage::Stalled { ", some do not read" } else { "" };
                format!("{deliveries} deliveries, {under_way} messages under way{stalled}")
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(counts) = self.results.first() else { return outcome };
        outcome.add("subscribers", self.plan.subscribers as f64, Unit::Count);
        outcome.add("published", counts.published as f64, Unit::Count);
        outcome.add_work(["deliveries", "delivery"], counts.deliveries, &self.measured);
        outcome.add_times("latency", &counts.each);
        if !self.is_unicast() {
            outcome.add_times("last_latency", &counts.last);
        }
        if self.is_timed() {
            outcome.add("publisher_late_max", self.late_us as f64, Unit::Micros);
        }
        let bytes = |outcome: &mut Outcome, prefix: &str, memory: &Memory| {
            for (name, bytes) in
                [("rss", memory.rss), ("pss", memory.pss), ("kernel_tcp", memory.tcp)]
            {
                outcome.add(format!("{prefix}{name}"), bytes as f64, Unit::Bytes);
            }
        };
        if self.plan.pid.is_some() {
            bytes(&mut outcome, "", &counts.memory);
        }
        if let Some(counts) = self.results.get(1) {
            outcome.add("stalled", self.plan.stalled as f64, Unit::Count);
            outcome.add(
                "stalled_cut",
                self.is_cut.iter().filter(|it| **it).count() as f64,
                Unit::Count,
            );
            outcome.add_times("stalled_latency", &counts.each);
            outcome.add_times("stalled_last_latency", &counts.last);
            if self.plan.pid.is_some() {
                bytes(&mut outcome, "stalled_", &counts.memory);
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_a_second_as_were_asked_for() {
        for per_second in [1, 3, 50, 400_000, 999_999, 10_000_000] {
            let all = per_second as u64;
            assert_eq!((due_by(0, per_second), due_at(0, per_second)), (1, 0));
            assert_eq!(due_at(7 * all, per_second), 7_000_000, "in seven seconds all of seven");
            for before in [1, 2, all, 123_456_789] {
                let us = due_at(before, per_second);
                assert!(due_by(us, per_second) > before && due_by(us - 1, per_second) <= before);
            }
        }
    }
}
