//! fws beside the least that a server can do (`benches/floor/floor.c`) and beside Redis, in one
//! run: the goals of docs/performance.md, the measured figures, and whether they meet the goals.
//!
//! `cargo bench --bench floors -- PART…` measures only some parts: `broadcast`, `unicast`,
//! `transports`, `latency`, `start`, `idle`, `control`. `BENCH_REPEAT` (3) is the number of runs of
//! each, `BENCH_SECONDS` (1.2) their length; ratios close to their goals have five times as many
//! runs of a fifth of it.

#[path = "support/load.rs"]
mod load;
#[path = "support/server.rs"]
mod server;
#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use load::{Bench, Folder, Result, Target, figure, median, ratio, row};
use server::Server;

/// Goals and figures, as they are measured.
struct Report {
    /// Each line with the number of its goal.
    lines: Vec<(char, String)>,
    missed: usize,
}

impl Report {
    fn at_most(&mut self, what: &str, measured: f64, goal: f64, unit: &str) {
        self.add(what, measured, goal, unit, measured <= goal, "at most");
    }

    fn at_least(&mut self, what: &str, measured: f64, goal: f64, unit: &str) {
        self.add(what, measured, goal, unit, measured >= goal, "at least");
    }

    fn add(&mut self, what: &str, measured: f64, goal: f64, unit: &str, met: bool, word: &str) {
        let digits = if goal < 100.0 { 2 } else { 0 };
        let verdict = if met { "yes" } else { "no" };
        self.missed += usize::from(!met);
        let measured = format!("{measured:.digits$}{unit}");
        let goal = format!("{word} {goal:.digits$}{unit}");
        let number = what.chars().next().unwrap_or_default();
        self.lines.push((number, row(&[&what, &measured, &goal, &verdict])));
    }

    fn note(&mut self, what: &str, measured: String) {
        let number = self.lines.last().map_or('0', |(number, _)| *number);
        self.lines.push((number, row(&[&what, &measured, &"", &""])));
    }
}

const CPU: &str = "server_cpu_per_delivery_us";

fn broadcast(bench: &mut Bench, report: &mut Report, fws: &Target, floor: &Target) -> Result<()> {
    // Microseconds per delivery, of fws and of the floor, by number of subscribers, at 128 bytes.
    let mut growth = Vec::new();
    for (subscribers, bytes) in
        [(100, 128), (1000, 128), (10_000, 128), (100, 1024), (1000, 1024), (10_000, 1024)]
    {
        let (n, b) = (subscribers.to_string(), bytes.to_string());
        let flags = ["broadcast", "--subscribers", &n, "--bytes", &b];
        let all = bench.closely(|bench| bench.compare(&[fws, floor], &flags))?;
        let what = format!("1. broadcast to {n} subscribers, {b} bytes, 16 in flight, × floor");
        report.at_most(&what, ratio(&all[0], &all[1], CPU), 1.10, "");
        let (ours, theirs) = (figure(&all[0], CPU), figure(&all[1], CPU));
        report.note("   µs per delivery: fws, floor", format!("{ours:.2}, {theirs:.2}"));
        if bytes == 128 && subscribers != 1000 {
            growth.push((ours, theirs));
        }
    }
    let flags = ["broadcast", "--subscribers", "1000", "--in-flight", "1"];
    let all = bench.closely(|bench| bench.compare(&[fws, floor], &flags))?;
    let what = "1. broadcast to 1000 subscribers, 128 bytes, 1 in flight, × floor";
    report.at_most(what, ratio(&all[0], &all[1], CPU), 1.03, "");
    if let [few, many] = growth[..] {
        let (ours, theirs) = (many.0 / few.0, many.1 / few.1);
        let goal = f64::max(1.35, 1.1 * theirs);
        report.at_most("7. broadcast to 10000, per delivery, × to 100", ours, goal, "");
    }
    Ok(())
}

fn unicast_and_churn(
    bench: &mut Bench,
    report: &mut Report,
    [fws, floor, browsers]: [&Target; 3],
) -> Result<()> {
    let flags = ["unicast", "--subscribers", "10000"];
    let all = bench.closely(|bench| bench.compare(&[fws, floor], &flags))?;
    let what = "2. unicast to one user of 10000, 64 in flight, × floor";
    report.at_most(what, ratio(&all[0], &all[1], CPU), 1.10, "");
    let all = bench.closely(|bench| bench.compare(&[fws, browsers], &["churn"]))?;
    let cpu = "server_cpu_per_visit_us";
    let what = "3. connect, authenticate, subscribe, close, × floor, which checks no token";
    report.at_most(what, ratio(&all[0], &all[1], cpu), 1.15, "");
    let rate = 1e6 / figure(&all[0], cpu);
    report.at_least("3. the same, visits per CPU second", rate, 15_000.0, "");
    Ok(())
}

/// Start times, each server started directly and alone: a wrapper program would add a millisecond.
/// The first start in a folder makes the store, the second opens it.
fn start(report: &mut Report, folder: &Folder) -> Result<()> {
    const STARTS: usize = 9;
    let (mut kilobytes, mut times) = (Vec::new(), [Vec::new(), Vec::new()]);
    for number in 0..STARTS {
        let data = folder.0.join(format!("start-{number}"));
        for times in &mut times {
            let server = Server::start(&data, &[])?;
            times.push(server.start.as_secs_f64() * 1000.0);
            // The first turns of the loop count too.
            std::thread::sleep(Duration::from_millis(50));
            kilobytes.push(server.status("VmRSS:")? as f64);
            server.stop()?;
        }
    }
    report.at_most("4. resident memory at start, KiB", median(kilobytes.clone()), 4096.0, "");
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    report.note("   maximum of 18 starts", format!("{:.0}", most(&kilobytes)));
    for (times, what) in
        times.into_iter().zip(["first start, creating the store", "start with an empty store"])
    {
        let longest = most(&times);
        let what = format!("9. {what}, until it listens, ms");
        report.at_most(&what, median(times), 10.0, "");
        report.note("   maximum of nine", format!("{longest:.2}"));
    }
    Ok(())
}

fn idle(bench: &mut Bench, report: &mut Report, folder: &Folder) -> Result<()> {
    let goals = [("shared", &["idle"][..], 320.0), ("own", &["idle", "--own-channel"], 480.0)];
    for (label, words, goal) in goals {
        let fws = Target::fws(label, &folder.0, &[])?;
        let count = if bench.is_serious() { "15000" } else { "2000" };
        let all = [bench.run(&fws, &[words, &["--subscribers", count]].concat())?];
        let bytes = figure(&all, "pss_per_subscriber_bytes");
        let what = format!("4. bytes per idle subscriber of {count}, {label} channel");
        report.at_most(&what, bytes, goal, "");
        let kernel = figure(&all, "kernel_slab_per_subscriber_bytes");
        report.note("   in the kernel, both ends of the connection", format!("{kernel:.0}"));
        let kept = figure(&all, "pss_kept_bytes") / 1024.0;
        report.at_most("4. memory kept when all have left, KiB", kept, 1024.0, "");
    }
    Ok(())
}

fn control(bench: &mut Bench, report: &mut Report, folder: &Folder) -> Result<()> {
    let path = &folder.0;
    let kept = [Target::fws("1s", path, &["--sync", "1s"])?, Target::redis("log", path, true)?];
    let none =
        [Target::fws("none", path, &["--store", "none"])?, Target::redis("no", path, false)?];
    let cpu = "server_cpu_per_reply_us";
    for connections in ["1", "50"] {
        let flags = |command| ["control", "--command", command, "--connections", connections];
        let what = |command: &str, other: &str| {
            format!("5. {command}, {connections} × 64 in flight, requests per CPU second × {other}")
        };
        for (label, [fws, redis]) in [("set, synced every second", &kept), ("set, no store", &none)]
        {
            let all = bench.compare(&[fws, redis], &flags("set"))?;
            report.at_least(&what(label, "Redis"), 1.0 / ratio(&all[0], &all[1], cpu), 1.3, "");
        }
        let [fws, redis] = &kept;
        let (get, emit) = (flags("get"), flags("emit"));
        let loads: [(&Target, &[&str]); 3] = [(redis, &get), (fws, &get), (fws, &emit)];
        let all = bench.closely(|bench| bench.alternate(&loads))?;
        report.at_least(&what("get", "Redis"), 1.0 / ratio(&all[1], &all[0], cpu), 1.3, "");
        let measured = 1.0 / ratio(&all[2], &all[1], cpu);
        report.at_least(&what("emit to nobody", "get"), measured, 1.0, "");
    }
    Ok(())
}

fn transports(bench: &mut Bench, report: &mut Report, fws: &Target) -> Result<()> {
    let flags = |protocol| ["broadcast", "--subscribers", "1000", "--to", protocol];
    let [raw, sockjs, streaming] = ["fws", "sockjs", "xhr-streaming"].map(flags);
    let loads: [(&Target, &[&str]); 3] = [(fws, &raw), (fws, &sockjs), (fws, &streaming)];
    let all = bench.closely(|bench| bench.alternate(&loads))?;
    for (outcomes, protocol, goal) in [(&all[1], "sockjs", 1.15), (&all[2], "xhr-streaming", 1.3)] {
        let what = format!("6. broadcast to 1000 over {protocol}, × raw WebSocket");
        report.at_most(&what, ratio(outcomes, &all[0], CPU), goal, "");
    }
    Ok(())
}

fn latency(bench: &mut Bench, report: &mut Report, fws: &Target, floor: &Target) -> Result<()> {
    let seconds = bench.seconds;
    // With few messages, the p99 would be a single unlucky one.
    bench.seconds = 5.0 * seconds;
    let flags = ["rate", "--subscribers", "1000", "--per-second", "50"];
    let all = bench.compare(&[fws, floor], &flags)?;
    let parts = ["p50", "p99", "p99_9"];
    for part in parts {
        let name = format!("last_latency_{part}_us");
        let part = part.replace('_', ".");
        let what = format!("8. 50 messages/s to 1000, {part} of the last subscriber, × floor");
        report.at_most(&what, ratio(&all[0], &all[1], &name), 1.1, "");
    }
    let stalled = ["slow", "--subscribers", "1000", "--stalled", "10"];
    let slow = bench.compare(&[fws, floor], &stalled)?;
    for part in parts {
        let name = format!("stalled_last_latency_{part}_us");
        let part = part.replace('_', ".");
        let what = format!("8. the same, 1 % of the subscribers stalled, {part}, × floor");
        report.at_most(&what, ratio(&slow[0], &slow[1], &name), 1.1, "");
    }
    bench.seconds = seconds;
    Ok(())
}

/// The parts that the command line may name.
const PARTS: [&str; 7] =
    ["broadcast", "unicast", "transports", "latency", "start", "idle", "control"];

/// The parts that it names; all if it names none.
fn parts() -> Result<Vec<String>> {
    // Cargo passes `--bench` to every bench.
    let words = std::env::args().skip(1).filter(|word| word != "--bench");
    let words: Vec<String> = words.collect();
    match words.iter().find(|word| !PARTS.contains(&word.as_str())) {
        Some(word) => Err(format!("there is no part {word}, only {}", PARTS.join(", ")).into()),
        None if words.is_empty() => Ok(PARTS.map(str::to_owned).to_vec()),
        None => Ok(words),
    }
}

fn main() -> Result<()> {
    let parts = parts()?;
    let is_wanted = |part: &str| parts.iter().any(|word| word == part);
    let folder = Folder::new("floors")?;
    let mut bench = Bench::new();
    let mut report = Report { lines: Vec::new(), missed: 0 };
    if PARTS[..4].iter().any(|part| is_wanted(part)) {
        let program = load::compile_floor(&folder.0)?;
        let fws = Target::fws("fws", &folder.0, &[])?;
        let coalesce = Target::floor("floor-coalesce", "coalesce", &program)?;
        let write = Target::floor("floor-write", "write", &program)?;
        let browsers = Target::floor("floor-browsers", "browsers", &program)?;
        if is_wanted("broadcast") {
            broadcast(&mut bench, &mut report, &fws, &coalesce)?;
        }
        if is_wanted("unicast") {
            unicast_and_churn(&mut bench, &mut report, [&fws, &coalesce, &browsers])?;
        }
        if is_wanted("transports") {
            transports(&mut bench, &mut report, &fws)?;
        }
        if is_wanted("latency") {
            latency(&mut bench, &mut report, &fws, &write)?;
        }
    }
    if is_wanted("start") {
        start(&mut report, &folder)?;
    }
    if is_wanted("idle") {
        idle(&mut bench, &mut report, &folder)?;
    }
    if is_wanted("control") {
        control(&mut bench, &mut report, &folder)?;
    }
    let stripped = folder.0.join("stripped");
    let ours = Path::new(env!("CARGO_BIN_EXE_fws"));
    if Command::new("strip").arg("-o").args([stripped.as_path(), ours]).status()?.success() {
        let kilobytes = std::fs::metadata(&stripped)?.len() as f64 / 1024.0;
        report.at_most("9. stripped binary, KiB", kilobytes, 2048.0, "");
    }
    println!("\n{}", row(&[&"goal", &"measured", &"bound", &"met"]));
    println!("|---|---|---|---|");
    report.lines.sort_by_key(|(number, _)| *number);
    report.lines.iter().for_each(|(_, line)| println!("{line}"));
    println!("\n{}; {} goals are missed", bench.summary(), report.missed);
    if !bench.is_serious() {
        println!("too short to quote: BENCH_REPEAT is 3 and BENCH_SECONDS 1.2 by default");
    }
    Ok(())
}
