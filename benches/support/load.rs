//! Compares servers under the load of `fws bench`, one at a time: the server is pinned to the first
//! core, the load to the second.
#![allow(dead_code)] // not every bench uses all of it

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write, stderr};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A run with more load from other processes than this, in cores, is repeated once.
const NOISE_CORES: f64 = 0.15;

/// See [`Bench::closely`].
pub const CLOSER: usize = 5;

/// A server under load. Killed when dropped.
pub struct Target {
    pub label: &'static str,
    pub child: Child,
    /// The server process.
    pub pid: u32,
    pub protocol: &'static str,
    pub ws: u16,
    pub control: u16,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command pinned to a core; to the only one if there is but one.
pub fn pinned(core: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let mut command = Command::new("taskset");
    command.args(["-c", &(core % cores).to_string()]).arg(program);
    command
}

/// A port that was just free, a different one each time; if another process takes it, the bench
/// fails but does not lie. Below the kernel's range of ephemeral ports.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 100)? * 100;
    for _ in 0..1000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("there is no free port".into())
}

/// Waits until the port accepts connections.
pub fn wait_for(port: u16, child: &mut Child) -> Result<()> {
    let begin = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = child.try_wait()? {
            return Err(format!("a server has ended instead of listening: {status}").into());
        }
        if begin.elapsed() > Duration::from_secs(10) {
            return Err(format!("nobody listens on port {port}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

impl Target {
    /// The release binary in its own folder, with the benches' namespace. All defaults, except that
    /// it accepts more connections per second than is wise in production.
    pub fn fws(label: &'static str, folder: &Path, flags: &[&str]) -> Result<Target> {
        let data = folder.join(label);
        std::fs::create_dir_all(&data)?;
        let config = data.join("config.json");
        let (name, key) = (support::NAMESPACE, support::KEY);
        std::fs::write(&config, format!(r#"{{"namespaces":{{"{name}":"{key}"}}}}"#))?;
        let (ws, control) = (free_port()?, free_port()?);
        let mut child = pinned(0, env!("CARGO_BIN_EXE_fws"))
            .args(["serve", "--ws", &format!("127.0.0.1:{ws}")])
            .args(["--control", &format!("127.0.0.1:{control}"), "--data"])
            .args([data.as_path(), Path::new("--config"), config.as_path()])
            .args(["--limit", "admissions_per_second=1000000"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
        for line in lines.by_ref() {
            if line?.contains("listening ws=") {
                break;
            }
        }
        let pid = child.id();
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Target { label, child, pid, protocol: "fws", ws, control })
    }

    /// A program that prints its port once it listens.
    pub fn printing(
        label: &'static str,
        protocol: &'static str,
        mut command: Command,
    ) -> Result<Target> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().parse().map_err(|_| format!("{label} printed no port: {line:?}"))?;
        let pid = child.id();
        Ok(Target { label, child, pid, protocol, ws: port, control: port })
    }

    /// A mode of the floor (`benches/floor/floor.c`).
    pub fn floor(label: &'static str, mode: &str, floor: &Path) -> Result<Target> {
        let mut command = pinned(0, floor);
        command.args([mode, "0"]);
        let protocol = if matches!(mode, "write" | "coalesce") { "topic" } else { "fws" };
        Target::printing(label, protocol, command)
    }

    /// A program that listens on given ports.
    pub fn listening(
        label: &'static str,
        protocol: &'static str,
        mut command: Command,
        [ws, control]: [u16; 2],
    ) -> Result<Target> {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        // The last line on standard error says why it did not start.
        let said = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
        let last = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in lines.map_while(std::result::Result::ok) {
                *last.lock().expect("nobody panics with it") = line;
            }
        });
        for port in [ws, control] {
            wait_for(port, &mut child).map_err(|error| {
                let said = said.lock().expect("nobody panics with it");
                format!("{label}: {error}; it said: {said}")
            })?;
        }
        let pid = child.id();
        Ok(Target { label, child, pid, protocol, ws, control })
    }

    /// A Redis without persistence, or with its log synced once per second.
    pub fn redis(label: &'static str, folder: &Path, is_kept: bool) -> Result<Target> {
        let (data, port) = (folder.join(label), free_port()?);
        std::fs::create_dir_all(&data)?;
        let mut command = pinned(0, "redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        // The load comes from loopback addresses that Redis does not consider local.
        command.args(["--protected-mode", "no", "--appendfsync", "everysec", "--appendonly"]);
        command.arg(if is_kept { "yes" } else { "no" }).arg("--dir").arg(&data);
        Target::listening(label, "redis", command, [port, port])
    }
}

/// Compiles the floor.
pub fn compile_floor(folder: &Path) -> Result<PathBuf> {
    let (source, program) =
        (concat!(env!("CARGO_MANIFEST_DIR"), "/benches/floor/floor.c"), "floor");
    let program = folder.join(program);
    let status = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).status()?;
    if status.success() { Ok(program) } else { Err("cc cannot compile the floor".into()) }
}

/// How targets are run.
pub struct Bench {
    /// Number of runs of each load.
    pub repeat: usize,
    /// Measuring time of each run, in seconds.
    pub seconds: f64,
    begin: Instant,
    runs: usize,
    /// Runs that were disturbed again when repeated.
    pub noisy: usize,
}

/// A number from the environment.
pub fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

impl Bench {
    pub fn new() -> Bench {
        Bench {
            repeat: setting("BENCH_REPEAT", 3.0) as usize,
            seconds: setting("BENCH_SECONDS", 1.2),
            begin: Instant::now(),
            runs: 0,
            noisy: 0,
        }
    }

    /// Whether the figures are worth publishing: at least three runs of a second each.
    pub fn is_serious(&self) -> bool {
        self.repeat >= 3 && self.seconds >= 1.0
    }

    /// One run of `fws bench` against a target, repeated once if other processes disturbed it.
    pub fn run(&mut self, target: &Target, flags: &[&str]) -> Result<Value> {
        let mut outcome = self.run_once(target, flags)?;
        if outcome["foreign_cpu_cores"].as_f64().is_some_and(|cores| cores > NOISE_CORES) {
            outcome = self.run_once(target, flags)?;
            let foreign = outcome["foreign_cpu_cores"].as_f64().unwrap_or_default();
            self.noisy += usize::from(foreign > NOISE_CORES);
        }
        Ok(outcome)
    }

    fn run_once(&mut self, target: &Target, flags: &[&str]) -> Result<Value> {
        self.runs += 1;
        let line = format!("{} {}", flags.join(" "), target.label);
        self.tell(&line);
        let mut command = pinned(1, env!("CARGO_BIN_EXE_fws"));
        command.args(["bench", "--json", "--namespace", support::NAMESPACE]);
        command.args(["--key", support::KEY, "--pid", &target.pid.to_string()]);
        command.args(["--ws", &format!("127.0.0.1:{}", target.ws)]);
        command.args(["--control", &format!("127.0.0.1:{}", target.control)]);
        command.args(["--seconds", &self.seconds.to_string(), "--warm-up", "0.3"]);
        if !flags.contains(&"--to") {
            command.args(["--to", target.protocol]);
        }
        let output = command.args(flags).stderr(Stdio::piped()).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{line}: {}", said.trim()).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Runs the loads in turn, repeatedly; returns the outcomes of each. Every second round goes
    /// backwards, so that a machine that becomes slower or faster favours none of them.
    pub fn alternate(&mut self, loads: &[(&Target, &[&str])]) -> Result<Vec<Vec<Value>>> {
        let mut outcomes = vec![Vec::new(); loads.len()];
        for round in 0..self.repeat {
            for step in 0..loads.len() {
                let at = if round % 2 == 0 { step } else { loads.len() - 1 - step };
                let (target, flags) = loads[at];
                outcomes[at].push(self.run(target, flags)?);
            }
        }
        Ok(outcomes)
    }

    /// Puts the same load on the targets.
    pub fn compare(&mut self, targets: &[&Target], flags: &[&str]) -> Result<Vec<Vec<Value>>> {
        let loads: Vec<_> = targets.iter().map(|target| (*target, flags)).collect();
        self.alternate(&loads)
    }

    /// Measures in [`CLOSER`] times as many runs, each as much shorter: for ratios close to their
    /// goals. The speed of a virtual machine changes from second to second by more than those goals
    /// allow, and the median of many short runs next to each other depends on it the least.
    pub fn closely<T>(&mut self, measure: impl FnOnce(&mut Bench) -> T) -> T {
        let (repeat, seconds) = (self.repeat, self.seconds);
        (self.repeat, self.seconds) = (repeat * CLOSER, seconds / CLOSER as f64);
        let outcome = measure(self);
        (self.repeat, self.seconds) = (repeat, seconds);
        outcome
    }

    fn tell(&self, line: &str) {
        let seconds = self.begin.elapsed().as_secs();
        let _ = writeln!(stderr(), "{seconds:>4} s  run {:<4} {line}", self.runs);
    }

    /// The number of runs, and how many were disturbed.
    pub fn summary(&self) -> String {
        let (runs, noisy, seconds) = (self.runs, self.noisy, self.begin.elapsed().as_secs());
        format!(
            "{runs} runs in {seconds} s, {noisy} of them with more than {NOISE_CORES} core of load \
             from other processes"
        )
    }
}

/// The median.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The median of a figure.
pub fn figure(outcomes: &[Value], name: &str) -> f64 {
    median(outcomes.iter().filter_map(|outcome| outcome[name].as_f64()).collect())
}

/// The median of the ratios of a figure, each of two runs made one after the other.
pub fn ratio(ours: &[Value], theirs: &[Value], name: &str) -> f64 {
    let pairs = ours.iter().zip(theirs).filter_map(|(ours, theirs)| {
        Some(ours[name].as_f64()? / theirs[name].as_f64().filter(|it| *it > 0.0)?)
    });
    median(pairs.collect())
}

/// A folder for servers, removed when dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Result<Folder> {
        let path = std::env::temp_dir().join(format!("fws-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A row of a table in Markdown.
pub fn row(cells: &[&dyn Display]) -> String {
    let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
    format!("| {} |", cells.join(" | "))
}
