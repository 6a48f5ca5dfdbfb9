//! The counts of broadcast and unicast messages, and the figures made of them.

use super::Fault;
use super::histogram::Histogram;
use super::outcome::{Outcome, Unit};
use super::process::{self, Memory};

/// Counts of one part of a run. A message counts in the part in which it was published, whenever it
/// arrives: otherwise a server that stalls as the time ends would not be charged for what it owes.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub published: u64,
    /// Latency from the publication to each delivery, and to the last one.
    pub each: Histogram,
    pub last: Histogram,
    /// The most that a publication was late, in microseconds.
    pub late_us: u64,
    /// The peak.
    memory: Memory,
}

impl Counts {
    /// Updates the peak of the server's memory.
    pub fn look(&mut self, pid: Option<u32>) -> Result<(), Fault> {
        let Some(pid) = pid else { return Ok(()) };
        let (now, most) = (process::memory(pid)?, &mut self.memory);
        most.rss = most.rss.max(now.rss);
        most.pss = most.pss.max(now.pss);
        most.tcp = most.tcp.max(now.tcp);
        Ok(())
    }

    /// Adds the latencies; `has_last` if each message has several deliveries.
    pub fn add_times(&self, outcome: &mut Outcome, prefix: &str, has_last: bool) {
        outcome.add_times(&format!("{prefix}latency"), &self.each);
        if has_last {
            outcome.add_times(&format!("{prefix}last_latency"), &self.last);
        }
    }

    /// Adds how late the publisher was.
    pub fn add_lateness(&self, outcome: &mut Outcome, prefix: &str) {
        let name = format!("{prefix}publisher_late_max");
        outcome.add(name, self.late_us as f64, Unit::Micros);
    }

    /// Adds the server's peak memory, as far as it is known.
    pub fn add_memory(&self, outcome: &mut Outcome, prefix: &str) {
        let Memory { rss, pss, tcp, .. } = self.memory;
        for (name, bytes) in [("rss", rss), ("pss", pss), ("kernel_tcp", tcp)] {
            outcome.add_bytes(format!("{prefix}{name}"), bytes.map(|bytes| bytes as f64));
        }
    }
}
