//! The report of an attack: the row of the table, what was found, and the verdict over all rounds.

use crate::Attack;
use crate::healthy::Latency;
use crate::server::Turns;

/// Factor by which the p99 of the healthy load may grow.
const GROWTH: f64 = 1.5;
/// CPU use of other processes above which latencies mean nothing, in percent of a processor.
const FOREIGN_PERCENT: f64 = 15.0;
/// The unit of memory in the table.
pub const MIB: f64 = 1_048_576.0;

/// The findings of an attack.
#[derive(Default)]
pub struct Findings {
    /// Figures to print.
    pub notes: Vec<String>,
    /// Violated expectations.
    pub faults: Vec<String>,
}

impl Findings {
    /// Adds a figure.
    pub fn note(&mut self, what: String) {
        self.notes.push(what);
    }

    /// Adds a figure, or a fault if it is not good.
    pub fn expect(&mut self, is_good: bool, what: String) {
        if is_good { self.notes.push(what) } else { self.faults.push(what) }
    }
}

/// The cost that an attack may have.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Growth of the resident memory.
    pub memory_mib: f64,
    /// CPU time, in percent of one processor.
    pub cpu_percent: f64,
    /// Whether the latency of the healthy load is bounded.
    pub is_timed: bool,
}

impl Bounds {
    /// The bounds of most attacks.
    pub const DEFAULT: Bounds =
        Bounds { memory_mib: 64.0, cpu_percent: f64::INFINITY, is_timed: true };
}

/// A row of the table, and the notes below it.
#[derive(Default)]
pub struct Report {
    /// The name of the attack.
    pub name: &'static str,
    /// The latency of the healthy load before the attack.
    pub before: Latency,
    /// The same during the attack.
    pub during: Latency,
    /// Resident memory before, at most, and after, in MiB.
    pub memory: [f64; 3],
    /// Peak of the kernel's socket buffers, in MiB.
    pub kernel: f64,
    /// CPU time of the server, in percent of one processor.
    pub cpu: f64,
    /// CPU time of other processes, in percent of one processor.
    pub foreign: f64,
    /// How long the attack took.
    pub seconds: f64,
    /// The turns of the server's event loop meanwhile.
    pub turns: Turns,
    /// The findings.
    pub findings: Findings,
    is_timed: bool,
}

impl Report {
    /// The report of an attack, without figures.
    pub fn of(attack: &Attack, findings: Findings) -> Report {
        Report { name: attack.name, findings, ..Report::default() }
    }

    /// How much the p99 of the healthy load has grown, if that is bounded.
    fn growth(&self) -> Option<f64> {
        self.is_timed.then(|| self.during.p99 / self.before.p99)
    }

    /// Whether other processes may be the cause of latencies.
    fn is_disturbed(&self) -> bool {
        self.foreign > FOREIGN_PERCENT
    }

    fn verdict(&self) -> &'static str {
        let is_late = self.growth().is_some_and(|growth| growth > GROWTH);
        match (self.findings.faults.is_empty(), is_late) {
            (false, _) => "FAIL",
            (true, true) if self.is_disturbed() => "busy",
            (true, true) => "late",
            (true, false) => "ok",
        }
    }

    /// Prints the row.
    pub fn print(&self) {
        let Latency { p50, p99, p999, .. } = self.before;
        let during = &self.during;
        let ratio = during.p99 / p99;
        let [before, peak, after] = self.memory;
        println!(
            "{:<18}{:>5.0} s {p50:>6.2} {:>6.2} {p99:>6.2} {:>6.2} {ratio:>5.2} {p999:>6.2} \
             {:>6.2} {before:>5.0} {peak:>5.0} {after:>5.0} {:>6.0} {:>5.0} {:>6.2} {:>6.1} \
             {:>5.0}  {}",
            self.name,
            self.seconds,
            during.p50,
            during.p99,
            during.p999,
            self.kernel,
            self.cpu,
            self.turns.below(0.999),
            self.turns.below(1.0),
            self.foreign,
            self.verdict()
        );
        for note in &self.findings.notes {
            println!("    {note}");
        }
        for fault in &self.findings.faults {
            println!("  ! {fault}");
        }
    }

    /// Adds what exceeds the bounds to the faults. `scale`: of the campaign; a short one judges no
    /// latencies.
    pub fn judge(&mut self, bounds: Bounds, scale: f64) {
        let Latency { lost, cut, count, .. } = self.during;
        if lost + cut > 0 || count == 0 {
            let what =
                format!("healthy load: {cut} subscribers closed, {lost} of {count} messages lost");
            self.findings.faults.push(what);
        }
        let growth = self.memory[1] - self.memory[0];
        if growth > bounds.memory_mib {
            let most = bounds.memory_mib;
            self.findings
                .faults
                .push(format!("memory grew by {growth:.0} MiB, more than {most:.0}"));
        }
        let most = bounds.cpu_percent;
        if self.cpu > most {
            self.findings.faults.push(format!("{:.1} % of a core, more than {most}", self.cpu));
        }
        self.is_timed = bounds.is_timed && scale >= 1.0;
    }
}

/// Prints the head of the table.
pub fn print_head() {
    println!(
        "{:<18}{:>7} {:>13} {:>19} {:>13} {:>17} {:>6} {:>5} {:>13} {:>5}",
        "", "", "p50 ms", "p99 ms", "p99.9 ms", "RSS MiB", "kernel", "CPU", "turn ms", "other"
    );
    println!(
        "{:<18}{:>7} {:>6} {:>6} {:>6} {:>6} {:>5} {:>6} {:>6} {:>5} {:>5} {:>5} {:>6} {:>5} {:>6} \
         {:>6} {:>5}  verdict",
        "attack",
        "time",
        "before",
        "during",
        "before",
        "during",
        "ratio",
        "before",
        "during",
        "before",
        "peak",
        "after",
        "MiB",
        "%",
        "p99.9",
        "max",
        "CPU %"
    );
}

/// How much the p99 of the healthy load grew in each round of one attack, the least first: those
/// that nobody disturbed, if there are any.
fn growths(reports: &[Report], name: &str) -> Vec<f64> {
    let of = |wants: fn(&Report) -> bool| -> Vec<f64> {
        let rounds = reports.iter().filter(|report| report.name == name && wants(report));
        rounds.filter_map(Report::growth).collect()
    };
    let undisturbed = of(|report| !report.is_disturbed());
    let mut growths = if undisturbed.is_empty() { of(|_| true) } else { undisturbed };
    growths.sort_unstable_by(f64::total_cmp);
    growths
}

fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

/// The names of the attacks, each once.
fn names(reports: &[Report]) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for report in reports {
        if !names.contains(&report.name) {
            names.push(report.name);
        }
    }
    names
}

/// Prints how much the p99 of the healthy load grew in all rounds, and the median of each attack.
pub fn print_rounds(reports: &[Report]) {
    println!("\np99 of the healthy load, relative to before: the median, and all rounds");
    for name in names(reports) {
        let growths = growths(reports, name);
        if let Some(median) = median(&growths) {
            let all: Vec<String> = growths.iter().map(|growth| format!("{growth:.2}")).collect();
            println!("{name:<18}{median:>5.2}   {}", all.join(" "));
        }
    }
}

/// The attacks with a fault in any round, or with a p99 that grew too much in half of them.
pub fn failed(reports: &[Report]) -> Vec<&'static str> {
    let has_fault = |name: &str| {
        let mut rounds = reports.iter().filter(|report| report.name == name);
        rounds.any(|report| !report.findings.faults.is_empty())
    };
    let is_late = |name| median(&growths(reports, name)).is_some_and(|growth| growth > GROWTH);
    names(reports).into_iter().filter(|name| has_fault(name) || is_late(name)).collect()
}
