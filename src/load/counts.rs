//! The counts of messages to many, and the figures made of them.

use super::Fault;
use super::histogram::Histogram;
use super::outcome::{Outcome, Unit};
use super::process::{self, Memory};

/// What was counted in one part of a run. A message counts in the part in which it is published,
/// whenever it arrives: of a server that stands still when the time is up, what it owes then would
/// be left out otherwise.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub published: u64,
    /// From the publication to each delivery, and to the last one.
    pub each: Histogram,
    pub last: Histogram,
    /// The longest that a message was late, in microseconds.
    pub late_us: u64,
    /// Most that was seen.
    memory: Memory,
}

impl Counts {
    /// Notes how much memory the server has, if that is more than before.
    pub fn look(&mut self, pid: Option<u32>) -> Result<(), Fault> {
        let Some(pid) = pid else { return Ok(()) };
        let (now, most) = (process::memory(pid)?, &mut self.memory);
        most.rss = most.rss.max(now.rss);
        most.pss = most.pss.max(now.pss);
        most.tcp = most.tcp.max(now.tcp);
        Ok(())
    }

    /// How long messages took; `has_last` if each has several deliveries.
    pub fn add_times(&self, outcome: &mut Outcome, prefix: &str, has_last: bool) {
        outcome.add_times(&format!("{prefix}latency"), &self.each);
        if has_last {
            outcome.add_times(&format!("{prefix}last_latency"), &self.last);
        }
    }

    /// How late the publisher was.
    pub fn add_lateness(&self, outcome: &mut Outcome, prefix: &str) {
        let name = format!("{prefix}publisher_late_max");
        outcome.add(name, self.late_us as f64, Unit::Micros);
    }

    /// How much memory the server had, as far as that is known.
    pub fn add_memory(&self, outcome: &mut Outcome, prefix: &str) {
        let Memory { rss, pss, tcp, .. } = self.memory;
        for (name, bytes) in [("rss", rss), ("pss", pss), ("kernel_tcp", tcp)] {
            outcome.add_bytes(format!("{prefix}{name}"), bytes.map(|bytes| bytes as f64));
        }
    }
}
