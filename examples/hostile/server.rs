//! The release binary as a separate process, with the limits that an attack needs, and the metrics
//! of its admin port.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use fws::client::{Address, Control, page};
use fws::codec::prometheus::{Sample, parse};
use fws::metrics::BUCKETS_US;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::machine::{self, Folder};
use crate::words::{CROWD, CROWD_KEY, HEALTHY, HEALTHY_KEY};
use crate::{Outcome, isolation};

/// The server key.
pub const SERVER_KEY: &str = "the-server-key-of-the-campaign";

/// How to start a server.
#[derive(Clone)]
pub struct Wants {
    /// `ulimit -n`.
    pub descriptors: u64,
    /// `ulimit -v`, in kilobytes.
    pub address_space: Option<u64>,
    /// Where it listens for browsers and back ends; loopback by default.
    pub address: &'static str,
    /// Whether it has a real-time priority, for a machine that is not quiet.
    pub is_first: bool,
    /// Additional flags.
    pub flags: Vec<String>,
}

impl Default for Wants {
    fn default() -> Wants {
        let address = "127.0.0.1:0";
        let (descriptors, flags) = (20_000, Vec::new());
        Wants { descriptors, address_space: None, address, is_first: false, flags }
    }
}

/// A running server, killed when dropped.
pub struct Server {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// The address for browsers.
    pub web: SocketAddr,
    /// The address for back ends.
    pub control: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    /// Starts a server with its data in a folder.
    pub fn start(binary: &str, wants: &Wants, folder: &Folder) -> Outcome<Server> {
        let config = Folder::new()?;
        let file = write_config(&config)?;
        let space = wants.address_space.map_or("unlimited".to_owned(), |space| space.to_string());
        let script =
            format!(r#"ulimit -n {} && ulimit -v {space} && exec "$0" "$@""#, wants.descriptors);
        let mut command = machine::on_processor(0, wants.is_first, "sh");
        command.args(["-c", &script, binary, "serve", "--ws", wants.address]);
        command.args(["--control", wants.address, "--admin", "127.0.0.1:0"]);
        command.arg("--config").arg(&file).arg("--data").arg(folder.path().join("data"));
        command.args(&wants.flags).env("FWS_SECRETKEY", SERVER_KEY);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = listen(&mut child, &log);
        let mut doors: [Option<SocketAddr>; 3] = [None; 3];
        let deadline = Instant::now() + Duration::from_secs(20);
        while doors.contains(&None) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                // The process is of no use any more.
                let _ = child.kill();
                let log = log.lock().map_or_else(|_| String::new(), |log| log.join("\n"));
                return Err(format!("the server did not start:\n{log}").into());
            };
            for (door, name) in doors.iter_mut().zip(["ws", "control", "admin"]) {
                let address = line.split_once(&format!("listening {name}="));
                *door = address.and_then(|(_, address)| address.parse().ok()).or(*door);
            }
        }
        let [Some(mut web), Some(mut control), Some(admin)] = doors else {
            return Err("?".into());
        };
        for address in [&mut web, &mut control] {
            if address.ip().is_unspecified() {
                address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
        }
        // The server has read its configuration, and does not need the file again.
        drop(config);
        Ok(Server { child, log, web, control, admin })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its output.
    pub fn last_words(&self) -> String {
        let log = self.log.lock().map_or_else(|_| Vec::new(), |log| log.clone());
        log[log.len().saturating_sub(12)..].join("\n")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Outcome<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Connects a back end and authenticates.
    pub fn back_end(&self, namespace: &str, key: &str) -> Outcome<Control> {
        back_end(self.control, namespace, key)
    }

    /// Its metrics.
    pub fn numbers(&self) -> Outcome<Numbers> {
        Numbers::read(self.admin)
    }

    /// The address of the admin port.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connects a back end and authenticates.
pub fn back_end(at: SocketAddr, namespace: &str, key: &str) -> Outcome<Control> {
    let mut control = Control::connect(&Address::to_reach(at))?;
    let auth = json!({ "action": "auth", "name": namespace, "sKey": key }).to_string();
    match control.ask(auth.as_bytes())?.as_str() {
        r#"{"success":true}"# => Ok(control),
        reply => Err(format!("auth for {namespace}: {reply}").into()),
    }
}

/// Writes a configuration with all namespaces of the campaign.
fn write_config(folder: &Folder) -> Outcome<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let mut namespaces = json!({ CROWD: CROWD_KEY, HEALTHY: HEALTHY_KEY });
    for (name, key) in isolation::namespaces() {
        namespaces[name] = key.into();
    }
    let file = folder.path().join("config.json");
    std::fs::write(&file, json!({ "namespaces": namespaces }).to_string())?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Reads both streams until they end, so that the server never blocks on its output.
fn listen(child: &mut Child, log: &Arc<Mutex<Vec<String>>>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let out = child.stdout.take().map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>);
    let err = child.stderr.take().map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>);
    for stream in [out, err].into_iter().flatten() {
        let (log, sender) = (Arc::clone(log), sender.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Ok(mut log) = log.lock() {
                    log.push(line.clone());
                }
                // The receiver is gone once the addresses are known.
                let _ = sender.send(line);
            }
        });
    }
    receiver
}

/// The metrics at one moment.
#[derive(Clone)]
pub struct Numbers(Vec<Sample>);

impl Numbers {
    /// Reads `/metrics`.
    pub fn read(admin: SocketAddr) -> Outcome<Numbers> {
        let (status, text) = page(&Address::to_reach(admin), "/metrics")?;
        let samples = parse(&text).filter(|_| status == 200);
        Ok(Numbers(samples.ok_or_else(|| format!("/metrics: {status} {text}"))?))
    }

    /// The sum of a metric over its samples, or over those with this label value.
    pub fn of(&self, name: &str, label: &str) -> f64 {
        let named = self.0.iter().filter(|sample| {
            let has_label = sample.labels.iter().any(|(_, value)| value == label);
            sample.name == name && (label.is_empty() || has_label)
        });
        named.map(|sample| sample.value).sum()
    }

    /// The number of connections closed for this reason.
    pub fn closed(&self, reason: &str) -> f64 {
        self.of("fws_connections_closed_total", reason)
    }

    /// The reasons for which connections closed since `before`, with counts.
    pub fn endings(&self, before: &Numbers) -> String {
        let named = self.0.iter().filter(|sample| sample.name == "fws_connections_closed_total");
        let counts = named.filter_map(|sample| {
            let reason = sample.label("reason")?;
            let count = sample.value - before.closed(reason);
            (count > 0.0).then(|| format!("{count} {reason}"))
        });
        counts.collect::<Vec<_>>().join(", ")
    }

    /// The number of turns in each bucket.
    pub fn turns(&self) -> Turns {
        let buckets = self.0.iter().filter(|sample| sample.name == "fws_turn_seconds_bucket");
        let mut turns = Turns::default();
        let mut before = 0.0;
        for (count, sample) in turns.0.iter_mut().zip(buckets) {
            *count = sample.value - before;
            before = sample.value;
        }
        turns
    }
}

/// Turns by duration, in the server's buckets.
#[derive(Clone, Copy, Default)]
pub struct Turns([f64; BUCKETS_US.len() + 1]);

impl Turns {
    /// The turns between this moment and a later one.
    pub fn until(&self, later: &Turns) -> Turns {
        let mut turns = *later;
        turns.0.iter_mut().zip(self.0).for_each(|(late, early)| *late -= early);
        turns
    }

    /// Adds other counts.
    pub fn add(&mut self, others: &Turns) {
        self.0.iter_mut().zip(others.0).for_each(|(sum, other)| *sum += other);
    }

    /// A quantile: the upper bound of its bucket, in milliseconds.
    pub fn below(&self, part: f64) -> f64 {
        let (all, mut sum) = (self.0.iter().sum::<f64>(), 0.0);
        for (count, bound) in self.0.iter().zip(BUCKETS_US) {
            sum += count;
            if sum >= all * part {
                return bound as f64 / 1000.0;
            }
        }
        f64::INFINITY
    }
}
