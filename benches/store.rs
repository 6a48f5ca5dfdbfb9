//! The cost of the store: acknowledged sets per second under each policy, beside Redis with the
//! same promise on the same disk in the same run; bytes written per set; memory per state; the time
//! of a start; and how long the loop keeps clients waiting while the disk is busy.

#[path = "support/server.rs"]
mod server;
#[path = "support/mod.rs"]
mod support;

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use server::{Server, cpu_seconds, figure};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Measuring time of each figure.
const TIME: Duration = Duration::from_secs(2);
/// Number of keys, set in turn, and size of each value.
const KEYS: usize = 1000;
const VALUE_BYTES: usize = 100;

/// A server that acknowledges sets.
struct Target {
    name: String,
    pid: u32,
    stream: BufReader<TcpStream>,
    /// A request for a key by number, with one of several values; and the size of its reply.
    request: fn(usize, u8) -> Vec<u8>,
    reply_bytes: usize,
}

fn fws_set(key: usize, value: u8) -> Vec<u8> {
    let data = char::from(value).to_string().repeat(VALUE_BYTES);
    support::frame(&format!(r#"{{"action":"set","channel":"key{key:06}","data":"{data}"}}"#))
}

fn redis_set(key: usize, value: u8) -> Vec<u8> {
    let data = char::from(value).to_string().repeat(VALUE_BYTES);
    format!("*3\r\n$3\r\nSET\r\n$9\r\nkey{key:06}\r\n${VALUE_BYTES}\r\n{data}\r\n").into()
}

impl Target {
    fn fws(server: &Server, name: &str) -> Result<Target> {
        let mut stream = BufReader::new(TcpStream::connect(server.control)?);
        stream.get_ref().set_nodelay(true)?;
        stream.get_mut().write_all(&support::auth())?;
        let reply_bytes = support::frame(r#"{"success":true}"#).len();
        stream.read_exact(&mut vec![0; reply_bytes])?;
        let (name, pid) = (name.to_string(), server.child.id());
        Ok(Target { name, pid, stream, request: fws_set, reply_bytes })
    }

    /// Sets for [`TIME`] with `depth` sets in flight; prints the cost.
    fn measure(&mut self, depth: usize) -> Result<()> {
        // Each set changes the value: setting the same one would be no work.
        let requests = (0..3 * KEYS).map(|i| (self.request)(i % KEYS, b"abc"[i / KEYS]));
        let requests: Vec<Vec<u8>> = requests.collect();
        let mut replies = vec![0; self.reply_bytes * depth];
        let (mut sets, mut key) = (0_u64, 0);
        let io = || figure(self.pid, "io", "write_bytes:");
        let (written, cpu, start) = (io()?, cpu_seconds(self.pid)?, Instant::now());
        while start.elapsed() < TIME {
            let mut burst = Vec::new();
            for _ in 0..depth {
                burst.extend_from_slice(&requests[key]);
                key = (key + 1) % requests.len();
            }
            self.stream.get_mut().write_all(&burst)?;
            self.stream.read_exact(&mut replies)?;
            sets += depth as u64;
        }
        let seconds = start.elapsed().as_secs_f64();
        let (bytes, cpu) = (io()? - written, cpu_seconds(self.pid)? - cpu);
        println!(
            "{:<26} {depth:>3} in flight {:>9.0} sets/s {:>9.0} sets per CPU second {:>7.0} bytes \
             to disk per set",
            self.name,
            sets as f64 / seconds,
            sets as f64 / cpu.max(0.01),
            bytes as f64 / sets as f64,
        );
        Ok(())
    }
}

/// A Redis process on a port of its own.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start(folder: &Path, policy: &str) -> Result<Redis> {
        std::fs::create_dir_all(folder)?;
        // The port was just free; if another process takes it, the bench fails but does not lie.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let is_kept = if policy == "none" { "no" } else { "yes" };
        let fsync = if policy == "none" { "no" } else { policy };
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", is_kept, "--appendfsync", fsync, "--dir"])
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| format!("redis-server: {e} (scripts/setup installs it)"))?;
        Ok(Redis { child, port })
    }

    fn target(&self, name: &str) -> Result<Target> {
        let start = Instant::now();
        let stream = loop {
            match TcpStream::connect(("127.0.0.1", self.port)) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > Duration::from_secs(10) => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_nodelay(true)?;
        let (name, pid, stream) = (name.to_string(), self.child.id(), BufReader::new(stream));
        Ok(Target { name, pid, stream, request: redis_set, reply_bytes: "+OK\r\n".len() })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rates(folder: &Path) -> Result<()> {
    for (policy, flags) in [
        ("always", ["--store", "redb", "--sync", "always"]),
        ("everysec", ["--store", "redb", "--sync", "1s"]),
        ("none", ["--store", "none", "--sync", "always"]),
    ] {
        let server = Server::start(&folder.join(format!("fws-{policy}")), &flags)?;
        let redis = Redis::start(&folder.join(format!("redis-{policy}")), policy)?;
        let mut ours = Target::fws(&server, &format!("fws, {}", flags[1..].join(" ")))?;
        let mut theirs = redis.target(&format!("redis, appendfsync {policy}"))?;
        for depth in [1, 64] {
            ours.measure(depth)?;
            theirs.measure(depth)?;
        }
    }
    Ok(())
}

/// Fills a store, measures the memory, and restarts.
fn start_and_memory(folder: &Path) -> Result<()> {
    const STATES: usize = 100_000;
    const SPACES: usize = 1000;
    let server = Server::start(folder, &["--sync", "10s"])?;
    let before = server.status("RssAnon:")?;
    let key = std::fs::read_to_string(folder.join("server.key"))?;
    let mut stream = BufReader::new(TcpStream::connect(server.control)?);
    let mut ask = |body: &str| -> Result<String> {
        stream.get_mut().write_all(&support::frame(body))?;
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let mut reply = vec![0; u32::from_le_bytes(head) as usize + 1];
        stream.read_exact(&mut reply)?;
        Ok(String::from_utf8(reply)?)
    };
    let (mut text, data) = (0, "x".repeat(VALUE_BYTES - 2));
    for space in 0..SPACES {
        let register = format!(
            r#"{{"action":"registerNameSpace","name":"site{space:04}","key":"{}"}}"#,
            key.trim()
        );
        let reply = ask(&register)?;
        let at = reply.find("secretKey").ok_or("no key")? + 12;
        let key = &reply[at..at + 36];
        ask(&format!(r#"{{"action":"auth","name":"site{space:04}","sKey":"{key}"}}"#))?;
        for state in 0..STATES / SPACES {
            ask(&format!(r#"{{"action":"set","channel":"channel{state:03}","data":"{data}"}}"#))?;
            text += VALUE_BYTES + "channel000".len();
        }
    }
    let after = server.status("RssAnon:")?;
    println!(
        "{STATES} states in {SPACES} namespaces: {:.0} bytes each besides key and value",
        ((after - before) * 1024 - text as u64) as f64 / STATES as f64
    );
    server.stop()?;
    let length = std::fs::metadata(folder.join("store.redb"))?.len();
    let server = Server::start(folder, &[])?;
    println!(
        "start with these: {:.0} ms until it listens, {} KiB resident, file of {length} bytes",
        server.start.as_secs_f64() * 1000.0,
        server.status("VmRSS:")?
    );
    let empty = folder.join("empty");
    let server = Server::start(&empty, &[])?;
    drop(server);
    let server = Server::start(&empty, &[])?;
    println!(
        "start with an empty store: {:.1} ms until it listens, {} KiB resident",
        server.start.as_secs_f64() * 1000.0,
        server.status("VmRSS:")?
    );
    Ok(())
}

/// Ping times while other commands keep the disk busy: at least the longest turn of the loop that a
/// ping ran into.
fn waiting(folder: &Path) -> Result<()> {
    let server = Server::start(folder, &[])?;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut load = Target::fws(&server, "load")?;
    let stop = Arc::clone(&is_over);
    let worker = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            for value in b"abc" {
                if load.burst(64, *value).is_err() {
                    return;
                }
            }
        }
    });
    let mut stream = TcpStream::connect(server.control)?;
    stream.set_nodelay(true)?;
    let ping = support::frame(r#"{"action":"ping"}"#);
    let mut reply = vec![0; support::frame(r#"{"success":true}"#).len()];
    stream.write_all(&support::auth())?;
    stream.read_exact(&mut reply)?;
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < 3 * TIME {
        let sent = Instant::now();
        stream.write_all(&ping)?;
        stream.read_exact(&mut reply)?;
        times.push(sent.elapsed());
        std::thread::sleep(Duration::from_micros(200));
    }
    is_over.store(true, Ordering::Relaxed);
    worker.join().map_err(|_| "the load failed")?;
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    println!(
        "ping with 64 sets in flight: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms ({} pings)",
        at(0.5),
        at(0.99),
        at(0.999),
        times.len()
    );
    Ok(())
}

impl Target {
    /// Sends a burst of `depth` sets and reads the replies.
    fn burst(&mut self, depth: usize, value: u8) -> Result<()> {
        let burst: Vec<u8> = (0..depth).flat_map(|key| (self.request)(key, value)).collect();
        self.stream.get_mut().write_all(&burst)?;
        Ok(self.stream.read_exact(&mut vec![0; self.reply_bytes * depth])?)
    }
}

fn main() -> Result<()> {
    // Not under /tmp, which may not be on a disk.
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("store-bench");
    std::fs::create_dir_all(&folder)?;
    let done = (|| {
        rates(&folder)?;
        start_and_memory(&folder.join("states"))?;
        waiting(&folder.join("waiting"))
    })();
    std::fs::remove_dir_all(&folder)?;
    done
}
