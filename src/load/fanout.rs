//! Messages to all subscribers, or to one at a time; as fast as they arrive, or at a fixed rate;
//! and while some subscribers do not read. Every delivery is checked against what was published.

use super::counts::Counts;
use super::crowd::{Crowd, Greeting, words};
use super::flights::{Flight, Flights};
use super::outcome::{Measurement, Outcome, Unit};
use super::pace::Pace;
use super::protocol::{Protocol, Script, Template, masked};
use super::scan::{self, Kept, Said, Shape};
use super::{EXTRA_MS, Fault, IN_FLIGHT_MAX, Plan, Work, Workload, replies};
use crate::address::ListenAddress;
use crate::codec::ws::Opcode;
use crate::edge::{ConnId, Door, Net};
use crate::frame::Frame;
use crate::time::{Millis, Stopwatch};

/// The stage of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Opening,
    WarmUp,
    Measuring,
    /// The same, while some subscribers do not read.
    Stalled,
    /// Nothing more is published; messages in flight arrive.
    Draining,
    Done,
}

/// Interval between readings of the server's memory.
const LOOK_MS: u64 = 100;

/// One run.
pub(super) struct Fanout {
    plan: Plan,
    crowd: Crowd,
    template: Template,
    /// The number of the next message that each subscriber must receive. In unicast, a lower bound.
    expected: Vec<u64>,
    kept: Vec<Kept>,
    shape: Option<Shape>,
    publisher: Option<ConnId>,
    is_publisher_asked: bool,
    greeting: Greeting,
    is_publisher_ready: bool,
    flights: Flights,
    /// In unicast: by subscriber, the number of the last message published to it plus one.
    behind: Vec<u64>,
    /// The server's replies to publications.
    replies: u64,
    /// Deliveries, and everything else that was awaited.
    heard: u64,
    watch: Stopwatch,
    stage: Stage,
    now: Millis,
    /// The same, by `watch`.
    now_us: u64,
    stage_until: Millis,
    pace: Pace,
    /// Measured while all subscribers read; and the number of deliveries in that time.
    measured: Measurement,
    deliveries: u64,
    looked_at: Millis,
    /// Counts of what was published while all read, and while some did not.
    counts: [Counts; 2],
    /// The number of the first message that stalled subscribers need not receive.
    stalled_from: u64,
    /// By stalled subscriber: whether the server has disconnected it.
    is_cut: Vec<bool>,
    chance: u64,
    batch: Vec<u8>,
}

impl Fanout {
    pub fn new(plan: &Plan) -> Fanout {
        let script = Script::new(plan);
        let template = script.publication(plan.bytes);
        let is_unicast = plan.workload == Workload::Unicast;
        let stalled = if plan.workload == Workload::Slow { plan.stalled } else { 0 };
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
            flights: Flights::default(),
            behind: vec![0; if is_unicast { plan.subscribers } else { 0 }],
            replies: 0,
            heard: 0,
            watch: Stopwatch::start(),
            stage: Stage::Opening,
            now: Millis(0),
            now_us: 0,
            stage_until: Millis(0),
            pace: Pace::new(plan.per_second),
            measured: Measurement::new(plan.pid),
            deliveries: 0,
            looked_at: Millis(0),
            counts: [Counts::default(), Counts::default()],
            stalled_from: u64::MAX,
            is_cut: vec![false; stalled],
            chance: 1,
            batch: Vec::new(),
            plan: plan.clone(),
        }
    }

    fn publisher_at(&self) -> &ListenAddress {
        if self.plan.protocol.is_one_port() { &self.plan.ws } else { &self.plan.control }
    }

    fn is_unicast(&self) -> bool {
        self.plan.workload == Workload::Unicast
    }

    /// Whether messages are published at fixed times rather than as others arrive.
    fn is_timed(&self) -> bool {
        matches!(self.plan.workload, Workload::Rate | Workload::Slow)
    }

    /// Whether a subscriber is stalled now, or has missed messages because it was.
    fn is_stalled(&self, n: usize) -> bool {
        n < self.is_cut.len() && self.expected.get(n).is_some_and(|it| *it >= self.stalled_from)
    }

    /// The counts to which a message belongs.
    fn counts(&mut self, number: u64) -> &mut Counts {
        let [first, second] = &mut self.counts;
        if number < self.stalled_from { first } else { second }
    }

    /// Handles the delivery of a message to a subscriber.
    fn deliver(
        &mut self,
        net: &mut dyn Net,
        n: usize,
        message: &[u8],
        now_us: u64,
    ) -> Result<(), Fault> {
        let shape = match self.shape {
            Some(shape) => shape,
            None => Shape::of(message, self.plan.bytes).ok_or_else(|| foreign(message))?,
        };
        self.shape = Some(shape);
        let number = shape.number(message).ok_or_else(|| foreign(message))?;
        let is_stalled = self.is_stalled(n);
        self.expect(n, number)?;
        self.heard += 1;
        if is_stalled {
            return Ok(());
        }
        let Some((since_us, is_last)) = self.flights.deliver(number) else {
            let text = format!("message {number} came to subscriber {n}, once too often");
            return Err(Fault::new(text));
        };
        let us = now_us.saturating_sub(since_us);
        self.deliveries += u64::from(self.stage == Stage::Measuring);
        let counts = self.counts(number);
        counts.each.add(us);
        if is_last {
            counts.last.add(us);
        }
        if self.stage == Stage::Stalled && self.is_stalled(n) {
            self.crowd.conn(n).into_iter().for_each(|conn| net.pause(conn));
        }
        Ok(())
    }

    /// Checks that a delivery is in order: the subscriber has received all its earlier messages.
    fn expect(&mut self, n: usize, number: u64) -> Result<(), Fault> {
        let flight = if self.is_unicast() { self.flights.get(number) } else { None };
        if let Some(flight) = flight.filter(|flight| flight.to as usize != n) {
            let text = format!("message {number} came to {n}, but it was for {}", flight.to);
            return Err(Fault::new(text));
        }
        let behind = flight.map_or(number, |flight| flight.behind);
        let expected =
            self.expected.get_mut(n).ok_or_else(|| Fault::new("a message came to nobody"))?;
        if behind != *expected {
            let (what, not) = match number < *expected {
                true => ("twice or late", *expected),
                false if flight.is_none() => ("too early: one is lost", *expected),
                false => ("too early: one is lost", behind.saturating_sub(1)),
            };
            let text = format!("message {number} came to subscriber {n} {what} (not {not})");
            return Err(Fault::new(text));
        }
        *expected = number + 1;
        Ok(())
    }

    /// Publishes the messages that are due, in one write.
    fn publish(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        self.flights.forget();
        let (Some(publisher), false) = (self.publisher, self.stage >= Stage::Draining) else {
            return Ok(());
        };
        let (now_us, next) = (self.now_us, self.flights.next());
        let mut count = self.plan.in_flight.saturating_sub(self.flights.under_way);
        if self.is_timed() {
            let due = self.pace.due_by(now_us).saturating_sub(next);
            count = usize::try_from(due).unwrap_or(usize::MAX);
        }
        self.check_room(count)?;
        if count == 0 {
            return Ok(());
        }
        self.batch.clear();
        for number in next..next + count as u64 {
            let (mut to, mut left, mut behind) = (0, self.plan.subscribers, 0);
            if self.is_unicast() {
                // Knuth's linear congruential generator: the server cannot predict the recipients.
                self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (to, left) = ((self.chance >> 33) as usize % self.plan.subscribers, 1);
                let last = self.behind.get_mut(to).map(|last| std::mem::replace(last, number + 1));
                behind = last.unwrap_or_default();
            } else if number >= self.stalled_from {
                left -= self.is_cut.len();
            }
            let since_us = if self.is_timed() { self.pace.since(number, now_us) } else { now_us };
            self.template.write(&mut self.batch, number, to);
            let (left, to) = (left as u32, to as u32);
            self.flights.push(Flight { left, to, since_us, behind });
        }
        let late_us = now_us.saturating_sub(self.pace.due_at(next));
        let counts = self.counts(next);
        counts.late_us = counts.late_us.max(late_us);
        counts.published += count as u64;
        net.send(publisher, Frame::from(self.batch.as_slice()));
        Ok(())
    }

    /// Checks that `count` more messages may be in flight; in unicast, also that the oldest has not
    /// been overtaken by too many.
    fn check_room(&self, count: usize) -> Result<(), Fault> {
        let (kept, under_way) = (self.flights.len(), self.flights.under_way);
        let overtaken = kept.saturating_sub(under_way);
        let oldest = self.flights.oldest().filter(|_| self.is_unicast());
        let text = match oldest {
            Some((number, flight)) if overtaken > IN_FLIGHT_MAX => {
                let whose = format!("message {number} to subscriber {}", flight.to);
                format!("{whose} has not come, but {overtaken} behind it have: it is lost")
            }
            None if under_way.saturating_add(count) > IN_FLIGHT_MAX => {
                let what = format!("{under_way} messages are under way, and {count} more are due");
                format!("nobody keeps up: {what}")
            }
            _ => return Ok(()),
        };
        Err(Fault::new(text))
    }

    /// Enters the next stage when its time has come.
    fn advance(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        let is_over = self.now >= self.stage_until;
        match self.stage {
            Stage::Opening if self.crowd.is_complete() && self.is_publisher_ready => {
                self.pace.begin(self.now_us);
                self.enter(Stage::WarmUp, self.plan.warm_up_ms);
                self.publish(net)?;
            }
            Stage::WarmUp if is_over => {
                self.enter(Stage::Measuring, self.plan.measure_ms);
                self.counts[0] = Counts::default();
                self.look()?;
                self.measured.begin()?;
            }
            Stage::Measuring if is_over => {
                self.measured.end()?;
                self.look()?;
                if self.plan.workload == Workload::Slow {
                    self.enter(Stage::Stalled, self.plan.measure_ms);
                    self.look()?;
                    self.stall(net);
                } else {
                    self.enter(Stage::Draining, 0);
                }
            }
            Stage::Stalled if is_over => {
                self.look()?;
                for n in 0..self.is_cut.len() {
                    self.crowd.conn(n).into_iter().for_each(|conn| net.resume(conn));
                }
                self.enter(Stage::Draining, 0);
            }
            Stage::Draining if self.is_owed() => self.stage_until = self.now.plus(EXTRA_MS),
            Stage::Draining if is_over => self.stage = Stage::Done,
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, stage: Stage, ms: u64) {
        (self.stage, self.stage_until) = (stage, self.now.plus(ms));
    }

    /// Some subscribers stop reading, each once it has all messages published before: what it does
    /// not read later is no fault of the server, and what it should have read is still awaited.
    fn stall(&mut self, net: &mut dyn Net) {
        self.stalled_from = self.flights.next();
        for n in 0..self.is_cut.len() {
            let conn = self.crowd.conn(n).filter(|_| self.is_stalled(n));
            conn.into_iter().for_each(|conn| net.pause(conn));
        }
    }

    fn note_cut(&mut self, n: usize) {
        self.is_cut.get_mut(n).into_iter().for_each(|is_cut| *is_cut = true);
        self.heard += 1;
    }

    /// The number of stalled subscribers that were not disconnected and have not caught up. The
    /// server's close comes after everything that was queued before it.
    fn behind_hand(&self) -> usize {
        let stalled = self.is_cut.iter().zip(&self.expected);
        let next = self.flights.next();
        stalled.filter(|(is_cut, expected)| !**is_cut && **expected < next).count()
    }

    /// The number of publications without a reply; 0 if the protocol has none.
    fn unanswered(&self) -> u64 {
        let protocol = self.plan.protocol;
        let is_answered = protocol.is_ours() || protocol == Protocol::Nchan;
        if is_answered { self.flights.next().saturating_sub(self.replies) } else { 0 }
    }

    /// Whether anything is still awaited, now that nothing more is published.
    fn is_owed(&self) -> bool {
        self.flights.under_way > 0 || self.behind_hand() > 0 || self.unanswered() > 0
    }

    /// Updates the peak of the server's memory.
    fn look(&mut self) -> Result<(), Fault> {
        self.looked_at = self.now;
        let part = usize::from(self.stage >= Stage::Stalled);
        self.counts.get_mut(part).map_or(Ok(()), |counts| counts.look(self.plan.pid))
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
            self.heard += u64::from(used > 0);
            if !self.is_publisher_ready {
                return Ok(used);
            }
        }
        let replies = replies::to_publications(self.plan.protocol, &input[used..])?;
        self.replies += replies.count as u64;
        if self.replies > self.flights.next() {
            return Err(replies::too_many());
        }
        (0..replies.polls).for_each(|_| net.send(conn, Frame::from(&b"PONG\r\n"[..])));
        Ok(used + replies.used)
    }
}

fn foreign(message: &[u8]) -> Fault {
    Fault::new(format!("a message came that nobody had published: {}", words(message)))
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
            let at = self.publisher_at().clone();
            return self.hear_publisher(net, conn, input).map_err(|it| it.at(&at));
        }
        let Some(n) = self.crowd.number(conn) else { return Ok(input.len()) };
        let mut used = 0;
        if self.stage == Stage::Opening {
            used = self.crowd.hear(net, conn, n, input).map_err(|it| it.at(&self.plan.ws))?;
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
                Said::Message(message) => return self.deliver(net, n, message, now_us),
                Said::Ping(it) => net.send(conn, Frame::from(masked(Opcode::Pong, it))),
                Said::Poll => net.send(conn, Frame::from(masked(Opcode::Binary, b"PONG\r\n"))),
                Said::AnswerOver => net.send(conn, Frame::from(self.crowd.script().again(n))),
                Said::Close(_) if self.is_stalled(n) => self.note_cut(n),
                Said::Close(it) => {
                    let text = format!("the server closes subscriber {n}: {}", words(it));
                    return Err(Fault::new(text).at(&self.plan.ws));
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
        Err(self.crowd.closed(n).at(&self.plan.ws))
    }

    fn settle(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        (self.now, self.now_us) = (net.now().mono, self.watch.elapsed_us());
        // Messages due before the stage ended are published first, however late they are.
        if self.stage > Stage::Opening {
            self.publish(net)?;
        }
        self.advance(net)?;
        if self.stage == Stage::Stalled && self.looked_at.plus(LOOK_MS) <= self.now {
            self.look()?;
        }
        Ok(())
    }

    fn due(&self) -> Option<Millis> {
        if self.stage == Stage::Opening {
            return None;
        }
        let is_due = self.is_timed() && self.stage < Stage::Draining;
        let message = is_due.then(|| {
            let until_us = self.pace.due_at(self.flights.next());
            // Rounded up: waking before the time would be useless.
            let us = until_us.saturating_sub(self.watch.elapsed_us());
            self.now.plus(us.div_ceil(1000))
        });
        Some(message.map_or(self.stage_until, |at| at.min(self.stage_until)))
    }

    fn heard(&self) -> u64 {
        self.heard + self.crowd.heard()
    }

    fn is_waiting(&self) -> bool {
        match self.stage {
            Stage::Opening => true,
            Stage::Draining => self.is_owed(),
            _ => self.flights.under_way > 0,
        }
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    fn progress(&self) -> String {
        let under_way = format!("{} messages under way", self.flights.under_way);
        match self.stage {
            Stage::Opening => self.crowd.progress(),
            Stage::WarmUp => format!("warming up, {under_way}"),
            Stage::Measuring => format!("{} deliveries, {under_way}", self.deliveries),
            Stage::Stalled => {
                let deliveries: u64 = self.counts.iter().map(|it| it.each.count()).sum();
                format!("{deliveries} deliveries, {under_way}, some do not read")
            }
            Stage::Draining | Stage::Done => {
                let oldest = self.flights.oldest().map(|(_, flight)| flight.left);
                let oldest = oldest.filter(|left| *left > 0);
                let (stalled, replies) = (self.behind_hand(), self.unanswered());
                let mut text = under_way;
                text.extend(oldest.map(|left| format!(", the oldest to {left} subscribers")));
                if stalled > 0 {
                    text.push_str(&format!(", {stalled} who did not read have not had all"));
                }
                if replies > 0 {
                    text.push_str(&format!(", {replies} publications without a reply"));
                }
                text
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let [first, second] = &self.counts;
        outcome.add("subscribers", self.plan.subscribers as f64, Unit::Count);
        outcome.add("published", first.published as f64, Unit::Count);
        outcome.add_work(["deliveries", "delivery"], self.deliveries, &self.measured);
        first.add_times(&mut outcome, "", !self.is_unicast());
        if self.is_timed() {
            first.add_lateness(&mut outcome, "");
        }
        first.add_memory(&mut outcome, "");
        if self.plan.workload == Workload::Slow {
            let cut = self.is_cut.iter().filter(|it| **it).count();
            outcome.add("stalled", self.plan.stalled as f64, Unit::Count);
            outcome.add("stalled_cut", cut as f64, Unit::Count);
            second.add_times(&mut outcome, "stalled_", true);
            second.add_lateness(&mut outcome, "stalled_");
            second.add_memory(&mut outcome, "stalled_");
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_overtaken_by_too_many_is_lost_not_overload() {
        let mut work = Fanout::new(&crate::load::sample(Workload::Unicast, 2));
        for number in 0..=IN_FLIGHT_MAX as u64 {
            work.flights.push(Flight { left: 1, to: 1, since_us: 0, behind: number });
        }
        (1..=IN_FLIGHT_MAX as u64)
            .for_each(|number| assert!(work.flights.deliver(number).is_some()));
        assert_eq!(work.check_room(IN_FLIGHT_MAX), Ok(()), "65,536 have overtaken it");
        work.flights.push(Flight { left: 0, to: 0, since_us: 0, behind: 0 });
        work.flights.under_way -= 1;
        let lost = "message 0 to subscriber 1 has not come, but 65537 behind it have: it is lost";
        assert_eq!(work.check_room(1), Err(Fault::new(lost)));

        let mut work = Fanout::new(&crate::load::sample(Workload::Rate, 2));
        work.flights.push(Flight { left: 2, to: 0, since_us: 0, behind: 0 });
        let crowd = "nobody keeps up: 1 messages are under way, and 65536 more are due";
        assert_eq!(work.check_room(IN_FLIGHT_MAX), Err(Fault::new(crowd)));
    }
}
