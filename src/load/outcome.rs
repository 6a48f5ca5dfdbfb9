//! The outcome of a run: named figures, for a table or for JSON.

use super::Fault;
use super::histogram::Histogram;
use super::process::{self, Cpu};
use crate::time::Stopwatch;

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Things per second.
    PerSecond,
    /// Seconds.
    Seconds,
    /// Microseconds.
    Micros,
    /// Bytes.
    Bytes,
    /// Fully busy processor cores.
    Cores,
}

impl Unit {
    /// The suffix of names with this unit.
    pub const fn suffix(self) -> &'static str {
        match self {
            Unit::Count => "",
            Unit::PerSecond => "_per_second",
            Unit::Seconds => "_seconds",
            Unit::Micros => "_us",
            Unit::Bytes => "_bytes",
            Unit::Cores => "_cores",
        }
    }
}

/// One figure. Its name in JSON is [`Figure::name`] with the suffix of its unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Words joined by `_`.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: Unit,
}

/// All figures of a run, in display order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome(pub Vec<Figure>);

impl Outcome {
    pub(super) fn add(&mut self, name: impl Into<String>, value: f64, unit: Unit) {
        self.0.push(Figure { name: name.into(), value, unit });
    }

    /// Adds a number of bytes, if it is known: an unknown one is not 0.
    pub(super) fn add_bytes(&mut self, name: impl Into<String>, bytes: Option<f64>) {
        if let Some(bytes) = bytes {
            self.add(name, bytes, Unit::Bytes);
        }
    }

    /// Adds quantiles of durations.
    pub(super) fn add_times(&mut self, name: &str, times: &Histogram) {
        if times.count() == 0 {
            return;
        }
        for (part, share) in [("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999)] {
            self.add(format!("{name}_{part}"), times.quantile(share) as f64, Unit::Micros);
        }
        self.add(format!("{name}_max"), times.max() as f64, Unit::Micros);
    }

    /// Adds how many things happened in the measured time, and how much of the server's CPU time
    /// each took.
    pub(super) fn add_work(&mut self, [things, thing]: [&str; 2], count: u64, of: &Measurement) {
        let Measurement { cpu, seconds, .. } = of;
        self.add(things, count as f64, Unit::Count);
        self.add("time", *seconds, Unit::Seconds);
        self.add(things, count as f64 / seconds, Unit::PerSecond);
        if of.pid.is_some() {
            let each = cpu.server * 1e6 / count.max(1) as f64;
            self.add(format!("server_cpu_per_{thing}"), each, Unit::Micros);
            self.add("server_cpu", cpu.server / seconds, Unit::Cores);
            let foreign = (cpu.machine - cpu.server - cpu.own).max(0.0);
            self.add("foreign_cpu", foreign / seconds, Unit::Cores);
        }
        self.add("bench_cpu", cpu.own / seconds, Unit::Cores);
    }
}

/// The length of the measured time, and the CPU time in it.
#[derive(Debug)]
pub(super) struct Measurement {
    /// The server's process, if it is observed.
    pid: Option<u32>,
    watch: Stopwatch,
    /// The reading at the start; from `end` on, the difference.
    pub cpu: Cpu,
    pub seconds: f64,
}

impl Measurement {
    pub fn new(pid: Option<u32>) -> Measurement {
        Measurement { pid, watch: Stopwatch::start(), cpu: Cpu::default(), seconds: 0.0 }
    }

    pub fn begin(&mut self) -> Result<(), Fault> {
        self.cpu = process::cpu(self.pid)?;
        self.watch = Stopwatch::start();
        Ok(())
    }

    pub fn end(&mut self) -> Result<(), Fault> {
        self.seconds = self.watch.elapsed_us() as f64 / 1e6;
        self.cpu = process::cpu(self.pid)?.since(self.cpu);
        Ok(())
    }
}
