//! fws beside other servers, one at a time on the same core under the same load. Writes the table
//! between the marks in docs/performance.md, and docs/peers.svg. `scripts/bench-peers` installs the
//! others first; servers that are not installed are left out and listed.
//!
//! `BENCH_REPEAT` (3) is the number of runs of each, `BENCH_SECONDS` (1.2) their length.

#[path = "support/load.rs"]
mod load;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/plot.rs"]
mod plot;
#[path = "support/mod.rs"]
mod support;

use std::path::Path;

use load::{Bench, CLOSER, Folder, Result, Target, figure, ratio, row};
use serde_json::Value;

/// Outcomes of one target under one load; empty if it failed.
type Outcomes = Vec<Value>;

const CPU: &str = "server_cpu_per_delivery_us";
const VISIT: &str = "server_cpu_per_visit_us";

/// The marks between which the table is written.
const BEGIN: &str = "<!-- peers: written by `make bench-peers` -->\n";
const END: &str = "<!-- end of peers -->\n";

/// The targets, and what failed.
struct Tables {
    targets: Vec<Target>,
    /// Failures, in words.
    failures: Vec<String>,
}

impl Tables {
    /// Puts the same load on all targets in turn. A target that fails is left out of this
    /// comparison.
    fn compare(&mut self, bench: &mut Bench, flags: &[&str]) -> Vec<Outcomes> {
        let mut all: Vec<Outcomes> = vec![Vec::new(); self.targets.len()];
        let mut is_out = vec![false; self.targets.len()];
        for round in 0..bench.repeat {
            for step in 0..self.targets.len() {
                // As `Bench::alternate`: every second round backwards.
                let at = if round % 2 == 0 { step } else { self.targets.len() - 1 - step };
                let target = &self.targets[at];
                if is_out[at] {
                    continue;
                }
                match bench.run(target, flags) {
                    Ok(outcome) => all[at].push(outcome),
                    Err(error) => {
                        eprintln!("not measured: {error}");
                        is_out[at] = true;
                        self.failures.push(error.to_string());
                    }
                }
            }
        }
        for (outcomes, is_out) in all.iter_mut().zip(is_out) {
            outcomes.truncate(if is_out { 0 } else { usize::MAX });
        }
        all
    }

    /// The index of a target.
    fn place(&self, label: &str) -> usize {
        self.targets.iter().position(|target| target.label == label).unwrap_or_default()
    }

    /// A table with a column per load and a row per target; each column holds one cell per target.
    fn table(&self, heads: &[String], columns: &[Vec<String>]) -> String {
        let mut head: Vec<&dyn std::fmt::Display> = vec![&"server"];
        head.extend(heads.iter().map(|head| head as &dyn std::fmt::Display));
        let mut text = row(&head) + "\n|" + &"---|".repeat(heads.len() + 1) + "\n";
        for (at, target) in self.targets.iter().enumerate() {
            let mut cells: Vec<&dyn std::fmt::Display> = vec![&target.label];
            cells.extend(columns.iter().map(|column| &column[at] as &dyn std::fmt::Display));
            text += &(row(&cells) + "\n");
        }
        text + "\n"
    }
}

/// `0.41 (1.10)`: a figure, and its ratio to the floor's.
fn cells(all: &[Outcomes], floor: usize, name: &str) -> Vec<String> {
    let cell = |ours: &Outcomes| match figure(ours, name) {
        value if value.is_nan() => "–".into(),
        value => format!("{value:.2} ({:.2})", ratio(ours, &all[floor], name)),
    };
    all.iter().map(cell).collect()
}

fn plain(all: &[Outcomes], of: impl Fn(&Outcomes) -> f64, digits: usize) -> Vec<String> {
    let cell = |value: f64| if value.is_nan() { "–".into() } else { format!("{value:.digits$}") };
    all.iter().map(|outcomes| cell(of(outcomes))).collect()
}

/// Broadcast: the table; and, for the plot, the ratios at 1,000 subscribers and 128 bytes.
fn broadcast(tables: &mut Tables, bench: &mut Bench) -> (String, Vec<f64>) {
    let floor = tables.place("floor-coalesce");
    let (mut heads, mut columns, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for bytes in [128, 1024] {
        for subscribers in [100, 1000, 10_000] {
            let (n, b) = (subscribers.to_string(), bytes.to_string());
            let flags = ["broadcast", "--subscribers", &n, "--bytes", &b];
            let all = tables.compare(bench, &flags);
            if (subscribers, bytes) == (1000, 128) {
                ratios = all.iter().map(|ours| ratio(ours, &all[floor], CPU)).collect();
            }
            heads.push(format!("to {n}, {b} B"));
            columns.push(cells(&all, floor, CPU));
        }
    }
    (tables.table(&heads, &columns), ratios)
}

/// The load at a fixed rate, of which latencies are shown.
const RATE: &str = "broadcast, 50/s";

/// One message at a time, at a fixed rate, to one user; and visits.
fn others(tables: &mut Tables, bench: &mut Bench) -> (String, Vec<(&'static str, Vec<f64>)>) {
    let floor = tables.place("floor-write");
    let (mut heads, mut columns, mut plot) = (Vec::new(), Vec::new(), Vec::new());
    let loads: [(&str, &str, &[&str]); 4] = [
        ("broadcast, 1 in flight", CPU, &["broadcast", "--in-flight", "1"]),
        (RATE, CPU, &["rate", "--per-second", "50"]),
        ("unicast, 1 of 10,000", CPU, &["unicast", "--subscribers", "10000"]),
        ("connect, subscribe, close", VISIT, &["churn"]),
    ];
    for (name, cpu, flags) in loads {
        // Latencies need long runs: with few messages, the p99 would be a single unlucky one.
        let all = match name {
            RATE => tables.compare(bench, flags),
            _ => bench.closely(|bench| tables.compare(bench, flags)),
        };
        heads.push(name.to_owned());
        columns.push(cells(&all, floor, cpu));
        plot.push((name, all.iter().map(|ours| ratio(ours, &all[floor], cpu)).collect()));
        if name == RATE {
            heads.push("its last subscriber, p50 / p99 / p99.9 in ms".into());
            let part = |ours: &Outcomes, part: &str| {
                figure(ours, &format!("last_latency_{part}_us")) / 1000.0
            };
            let cell = |ours: &Outcomes| {
                let [a, b, c] = ["p50", "p99", "p99_9"].map(|name| part(ours, name));
                if a.is_nan() { "–".into() } else { format!("{a:.1} / {b:.1} / {c:.1}") }
            };
            columns.push(all.iter().map(cell).collect());
        }
        if name == "unicast, 1 of 10,000" {
            heads.push("its p99 in ms".into());
            columns.push(plain(&all, |ours| figure(ours, "latency_p99_us") / 1000.0, 2));
        }
    }
    (tables.table(&heads, &columns), plot)
}

/// Memory of idle subscribers, with a fresh start of each server.
fn idle(bench: &mut Bench, tables: &mut Tables, folder: &Path, program: &Path) -> String {
    let count = if bench.is_serious() { "15000" } else { "2000" };
    tables.targets.clear();
    let mut all: Vec<Outcomes> = Vec::new();
    for target in start(&folder.join("idle"), program, &mut tables.failures) {
        let outcome = bench.run(&target, &["idle", "--subscribers", count]);
        let failed = outcome.as_ref().err().map(ToString::to_string);
        tables.failures.extend(failed);
        all.push(outcome.into_iter().collect());
        tables.targets.push(target);
    }
    let of = |name: &'static str, unit: f64| move |ours: &Outcomes| figure(ours, name) / unit;
    let heads = [
        format!("bytes per subscriber of {count}"),
        "KiB of the process without subscribers".into(),
        "KiB kept when all have left".into(),
        "bytes in the kernel, both ends of a connection".into(),
    ];
    let columns = [
        plain(&all, of("pss_per_subscriber_bytes", 1.0), 0),
        plain(&all, of("pss_empty_bytes", 1024.0), 0),
        plain(&all, of("pss_kept_bytes", 1024.0), 0),
        plain(&all, of("kernel_slab_per_subscriber_bytes", 1.0), 0),
    ];
    tables.table(&heads, &columns)
}

/// Commands, compared with Redis.
fn control(bench: &mut Bench, folder: &Path, program: &Path) -> Result<String> {
    let targets = vec![
        Target::floor("floor, parses nothing", "control", program)?,
        Target::fws("fws, --sync 1s", folder, &["--sync", "1s"])?,
        Target::redis("Redis, everysec", folder, true)?,
        Target::fws("fws, --store none", folder, &["--store", "none"])?,
        Target::redis("Redis, no log", folder, false)?,
    ];
    let mut tables = Tables { targets, failures: Vec::new() };
    let (mut heads, mut columns) = (Vec::new(), Vec::new());
    for command in ["set", "get"] {
        for connections in ["1", "50"] {
            let flags = ["control", "--command", command, "--connections", connections];
            let all = tables.compare(bench, &flags);
            heads.push(format!("{command}, {connections} × 64 in flight"));
            columns.push(plain(&all, |ours| figure(ours, "server_cpu_per_reply_us"), 2));
        }
    }
    Ok(tables.table(&heads, &columns))
}

/// Starts fws, the floors, and every installed peer.
fn start(folder: &Path, program: &Path, failures: &mut Vec<String>) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |target: Result<Target>| match target {
        Ok(target) => targets.push(target),
        Err(error) => {
            eprintln!("not measured: {error}");
            failures.push(error.to_string());
        }
    };
    add(Target::fws("fws", folder, &[]));
    add(Target::floor("floor-coalesce", "coalesce", program));
    add(Target::floor("floor-write", "write", program));
    peers::LABELS.iter().for_each(|label| add(peers::start(label, folder)));
    targets
}

/// Replaces the text between the marks.
fn publish(text: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let document = std::fs::read_to_string(&path)?;
    let (before, rest) = document.split_once(BEGIN).ok_or("docs/performance.md has no marks")?;
    let (_, after) = rest.split_once(END).ok_or("docs/performance.md has no second mark")?;
    Ok(std::fs::write(path, [before, BEGIN, text, END, after].concat())?)
}

fn method(bench: &Bench, failures: &[String]) -> String {
    let (repeat, seconds) = (bench.repeat, bench.seconds);
    let mut text = format!(
        "Server on one core, `fws bench` on the other, over loopback, one server at a time. Each \
         cell is the median of {repeat} runs of {seconds} s, or of {CLOSER} times as many, each as \
         much shorter, for one message in flight, unicast and connections. Each repetition runs \
         all servers in turn, and ratios are taken within one repetition. {}. Machine: {}. \
         Versions: ",
        bench.summary(),
        peers::machine()
    );
    let labels = peers::LABELS.iter().copied().chain(["Redis"]);
    let versions: Vec<String> =
        labels.map(|label| format!("{label} {}", peers::version(label))).collect();
    text += &(versions.join("; ") + ".\n");
    for failure in failures {
        text += &format!("\nNot measured: {failure}\n");
    }
    text + "\n"
}

fn main() -> Result<()> {
    let folder = Folder::new("peers")?;
    let program = load::compile_floor(&folder.0)?;
    let mut bench = Bench::new();
    let mut failures = Vec::new();
    let targets = start(&folder.0, &program, &mut failures);
    let mut tables = Tables { targets, failures };
    let labels: Vec<&str> = tables.targets.iter().map(|target| target.label).collect();
    let (first, ratios) = broadcast(&mut tables, &mut bench);
    let (second, plot) = others(&mut tables, &mut bench);
    let third = idle(&mut bench, &mut tables, &folder.0, &program);
    tables.targets.clear();
    let fourth = control(&mut bench, &folder.0, &program)?;
    let mut text = method(&bench, &tables.failures);
    text += "![processor time relative to the floor](peers.svg)\n\n";
    text += "Broadcast, 16 in flight: processor time per delivery in µs (× floor-coalesce):\n\n";
    text += &first;
    text += "Broadcast to 1,000 subscribers with one message in flight, the same at 50 messages a \
             second, unicast to one of 10,000 subscribers, and churn: processor time per delivery \
             or visit in µs (× floor-write). Only fws verifies a token:\n\n";
    text += &second;
    text += "Idle subscribers, user memory:\n\n";
    text += &third;
    text += "Control port, values of 128 bytes: processor time per request in µs:\n\n";
    text += &fourth;
    let mut groups = vec![("broadcast", ratios)];
    groups.extend(plot);
    let title = "Processor time of the server, × that of the floor (lower is better)";
    let svg = plot::bars(title, &labels, &groups, 64.0);
    println!("{text}");
    if bench.is_serious() || std::env::var_os("BENCH_PUBLISH").is_some() {
        publish(&text)?;
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/peers.svg"), svg)?;
    } else {
        println!("too short to publish; BENCH_PUBLISH=1 publishes it all the same");
    }
    Ok(())
}
