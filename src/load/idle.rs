//! Idle subscribers: the memory of each, and what remains when all have left.

use super::crowd::{Crowd, words};
use super::outcome::{Measurement, Outcome, Unit};
use super::process::{self, Memory};
use super::protocol::{Script, masked};
use super::scan::{self, Kept, Said};
use super::{Fault, Plan, Work};
use crate::codec::ws::Opcode;
use crate::edge::{ConnId, Door, Net};
use crate::frame::Frame;
use crate::reason::CloseReason;
use crate::time::Millis;

/// Time from the last close to the last reading: memory that a server frees later does not count
/// as freed.
const AFTER_MS: u64 = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    WarmUp,
    Measuring,
    Closing,
    After,
    Done,
}

/// One run.
pub(super) struct Idle {
    plan: Plan,
    crowd: Crowd,
    stage: Stage,
    now: Millis,
    until: Millis,
    is_begun: bool,
    /// Without subscribers, with all of them, and after they have left.
    memory: [Memory; 3],
    measured: Measurement,
}

impl Idle {
    pub fn new(plan: &Plan) -> Idle {
        Idle {
            crowd: Crowd::new(Script::new(plan), plan.subscribers),
            plan: plan.clone(),
            stage: Stage::Opening,
            now: Millis(0),
            until: Millis(0),
            is_begun: false,
            memory: [Memory::default(); 3],
            measured: Measurement::new(plan.pid),
        }
    }

    fn look(&self) -> Result<Memory, Fault> {
        self.plan.pid.map_or_else(|| Ok(Memory::default()), process::memory)
    }

    fn enter(&mut self, stage: Stage, ms: u64) {
        (self.stage, self.until) = (stage, self.now.plus(ms));
    }

    fn advance(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        if !self.is_begun {
            self.is_begun = true;
            self.memory[0] = self.look()?;
        }
        let is_over = self.now >= self.until;
        match self.stage {
            Stage::Opening if self.crowd.is_complete() => {
                self.enter(Stage::WarmUp, self.plan.warm_up_ms);
            }
            Stage::WarmUp if is_over => {
                self.measured.begin()?;
                self.enter(Stage::Measuring, self.plan.measure_ms);
            }
            Stage::Measuring if is_over => {
                self.measured.end()?;
                self.memory[1] = self.look()?;
                self.enter(Stage::Closing, 0);
                for n in 0..self.plan.subscribers {
                    let conn = self.crowd.conn(n);
                    conn.into_iter().for_each(|conn| net.close(conn, CloseReason::PeerClosed));
                }
            }
            Stage::Closing if self.crowd.is_gone() => self.enter(Stage::After, AFTER_MS),
            Stage::After if is_over => {
                self.memory[2] = self.look()?;
                self.stage = Stage::Done;
            }
            _ => {}
        }
        Ok(())
    }
}

impl Work for Idle {
    fn wish(&mut self) -> Option<Door> {
        // The first turn reads the memory before anyone connects.
        (self.is_begun && self.crowd.wants_one()).then_some(Door::Web)
    }

    fn opened(&mut self, net: &mut dyn Net, conn: ConnId, _: Door) {
        self.crowd.opened(net, conn);
    }

    fn received(&mut self, net: &mut dyn Net, conn: ConnId, input: &[u8]) -> Result<usize, Fault> {
        let Some(n) = self.crowd.number(conn) else { return Ok(input.len()) };
        let used = self.crowd.hear(net, conn, n, input).map_err(|it| it.at(&self.plan.ws))?;
        if !self.crowd.is_there(n) {
            return Ok(used);
        }
        let mut kept = Kept::default();
        let scanned =
            scan::scan(self.plan.protocol, &input[used..], &mut kept, &mut |said| match said {
                Said::Ping(it) => {
                    net.send(conn, Frame::from(masked(Opcode::Pong, it)));
                    Ok(())
                }
                Said::Poll => {
                    net.send(conn, Frame::from(masked(Opcode::Binary, b"PONG\r\n")));
                    Ok(())
                }
                Said::Close(it) => {
                    let text = format!("the server closes subscriber {n}: {}", words(it));
                    Err(Fault::new(text).at(&self.plan.ws))
                }
                Said::Message(it) => {
                    let text = format!("nobody spoke, but subscriber {n} was told: ");
                    Err(Fault::new(text + &it.escape_ascii().to_string()))
                }
                Said::AnswerOver => Ok(()),
            })?;
        Ok(used + scanned)
    }

    fn closed(&mut self, conn: ConnId) -> Result<(), Fault> {
        let n = self.crowd.leaves(conn).unwrap_or_default();
        if matches!(self.stage, Stage::Closing | Stage::After | Stage::Done) {
            return Ok(());
        }
        Err(self.crowd.closed(n).at(&self.plan.ws))
    }

    fn settle(&mut self, net: &mut dyn Net) -> Result<(), Fault> {
        self.now = net.now().mono;
        self.advance(net)
    }

    fn due(&self) -> Option<Millis> {
        let is_timed = matches!(self.stage, Stage::WarmUp | Stage::Measuring | Stage::After);
        (is_timed || !self.is_begun).then_some(self.until)
    }

    fn heard(&self) -> u64 {
        self.crowd.heard()
    }

    fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Opening | Stage::Closing)
    }

    fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    fn progress(&self) -> String {
        match self.stage {
            Stage::Opening => self.crowd.progress(),
            Stage::WarmUp | Stage::Measuring => "all are there, and nothing happens".into(),
            Stage::Closing | Stage::After | Stage::Done => "all go".into(),
        }
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let count = self.plan.subscribers.max(1) as f64;
        outcome.add("subscribers", count, Unit::Count);
        if self.plan.pid.is_none() {
            return outcome;
        }
        let [empty, full, after] = self.memory;
        let more = |before: Option<u64>, after: Option<u64>| Some(after? as f64 - before? as f64);
        for (name, before, after) in [
            ("pss", empty.pss, full.pss),
            ("anonymous", empty.anonymous, full.anonymous),
            ("kernel_slab", empty.slab, full.slab),
        ] {
            // A server that was used before reuses its memory: then the cost of each is unknown.
            let each = more(before, after).filter(|more| *more > 0.0).map(|more| more / count);
            outcome.add_bytes(format!("{name}_per_subscriber"), each);
        }
        for (when, memory) in [("empty", empty), ("full", full), ("after", after)] {
            outcome.add_bytes(format!("rss_{when}"), memory.rss.map(|bytes| bytes as f64));
            outcome.add_bytes(format!("pss_{when}"), memory.pss.map(|bytes| bytes as f64));
        }
        outcome.add_bytes("pss_kept", more(empty.pss, after.pss));
        let Measurement { cpu, seconds, .. } = &self.measured;
        outcome.add("server_cpu", cpu.server / seconds, Unit::Cores);
        outcome
    }
}
