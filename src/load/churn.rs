//! Browsers that connect, authenticate, subscribe and close, a fixed number at a time.

use super::crowd::Greeting;
use super::histogram::Histogram;
use super::outcome::{Measurement, Outcome};
use super::protocol::Script;
use super::{Fault, Plan, Work};
use crate::edge::{ConnId, Door, Net};
use crate::reason::CloseReason;
use crate::time::{Millis, Stopwatch};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    WarmUp,
    Measuring,
    /// No new visits start; those in progress go on.
    Draining,
    Done,
}

/// A browser that has connected and not yet closed.
#[derive(Debug)]
struct Visit {
    conn: ConnId,
    n: usize,
    greeting: Greeting,
    begun_us: u64,
    is_over: bool,
}

/// One run.
pub(super) struct Churn {
    plan: Plan,
    script: Script,
    /// By the reactor's slot index.
    by_slot: Vec<Option<Visit>>,
    asked: usize,
    opened: usize,
    /// Number of visits in progress.
    present: usize,
    /// Awaited answers, and closed connections.
    heard: u64,
    count: u64,
    /// Duration of each visit in progress during the measured time, even if it ended later.
    times: Histogram,
    /// Number of visits that ended in the measured time.
    visits: u64,
    watch: Stopwatch,
    stage: Stage,
    is_begun: bool,
    now: Millis,
    until: Millis,
    measured: Measurement,
}

impl Churn {
    pub fn new(plan: &Plan) -> Churn {
        Churn {
            plan: plan.clone(),
            script: Script::new(plan),
            by_slot: Vec::new(),
            asked: 0,
            opened: 0,
            present: 0,
            heard: 0,
            count: 0,
            times: Histogram::default(),
            visits: 0,
            watch: Stopwatch::start(),
            stage: Stage::WarmUp,
            is_begun: false,
            now: Millis(0),
            until: Millis(0),
            measured: Measurement::new(plan.pid),
        }
    }

    fn visit(&mut self, conn: ConnId) -> Option<&mut Visit> {
        self.by_slot.get_mut(conn.index())?.as_mut().filter(|visit| visit.conn == conn)
    }
}

impl Work for Churn {
    fn wish(&mut self) -> Option<Door> {
        let is_wanted = self.stage != Stage::Draining && self.asked < self.plan.in_flight;
        self.asked += usize::from(is_wanted);
        is_wanted.then_some(Door::Web)
    }

    fn opened(&mut self, net: &mut dyn Net, conn: ConnId, _: Door) {
        let (n, begun_us) = (self.opened, self.watch.elapsed_us());
        self.opened += 1;
        self.present += 1;
        let mut greeting = Greeting::default();
        greeting.begin(net, conn, |step| self.script.subscriber(n, step));
        if self.by_slot.len() <= conn.index() {
            self.by_slot.resize_with(conn.index() + 1, || None);
        }
        if let Some(place) = self.by_slot.get_mut(conn.index()) {
            *place = Some(Visit { conn, n, greeting, begun_us, is_over: false });
        }
    }

    fn received(&mut self, net: &mut dyn Net, conn: ConnId, input: &[u8]) -> Result<usize, Fault> {
        let now_us = self.watch.elapsed_us();
        let Some(Some(visit)) = self.by_slot.get_mut(conn.index()) else { return Ok(input.len()) };
        let (script, n) = (&self.script, visit.n);
        let heard = visit.greeting.hear(net, conn, input, |step| script.subscriber(n, step));
        let (used, is_there) = heard.map_err(|fault| fault.at(&self.plan.ws))?;
        self.heard += u64::from(used > 0);
        if is_there {
            self.times.add(now_us.saturating_sub(visit.begun_us));
            self.count += 1;
            visit.is_over = true;
            net.close(conn, CloseReason::PeerClosed);
        }
        Ok(used)
    }

    fn closed(&mut self, conn: ConnId) -> Result<(), Fault> {
        let at = self.plan.ws.clone();
        let visit = self.visit(conn).filter(|visit| !visit.is_over);
        if let Some(visit) = visit {
            return Err(visit.greeting.cut_short(format_args!("visitor {}", visit.n)).at(&at));
        }
        self.asked = self.asked.saturating_sub(1);
        self.present -= 1;
        self.heard += 1;
        Ok(())
    }

    fn settle(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        self.now = net.now().mono;
        if !self.is_begun {
            self.is_begun = true;
            self.until = self.now.plus(self.plan.warm_up_ms);
        }
        let is_over = self.now >= self.until;
        match self.stage {
            Stage::WarmUp if is_over => {
                self.stage = Stage::Measuring;
                self.until = self.now.plus(self.plan.measure_ms);
                self.count = 0;
                self.times.clear();
                self.measured.begin()?;
            }
            Stage::Measuring if is_over => {
                self.measured.end()?;
                self.visits = self.count;
                self.stage = Stage::Draining;
            }
            _ => {}
        }
        if self.stage == Stage::Draining && self.present == 0 {
            self.stage = Stage::Done;
        }
        Ok(())
    }

    fn due(&self) -> Option<Millis> {
        Some(self.until)
    }

    fn heard(&self) -> u64 {
        self.heard
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    fn progress(&self) -> String {
        format!("{} have come and gone, {} are on their way", self.count, self.present)
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.add_work(["visits", "visit"], self.visits, &self.measured);
        outcome.add_times("latency", &self.times);
        outcome
    }
}
