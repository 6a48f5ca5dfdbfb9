//! What the server takes from a machine: its memory at start, its memory for
//! ten thousand idle authenticated subscribers, and the system calls for one emit to a thousand.

#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Server {
    child: Child,
    ws: SocketAddr,
    control: SocketAddr,
}

impl Server {
    fn start(data: &Path) -> Result<Server> {
        std::fs::create_dir_all(data)?;
        let config = data.join("config.json");
        let (name, key) = (support::NAMESPACE, support::KEY);
        std::fs::write(&config, format!(r#"{{"namespaces":{{"{name}":"{key}"}}}}"#))?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_fws"))
            .args(["serve", "--ws", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--config")
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
        let mut address = |what: &str| -> Result<SocketAddr> {
            for line in lines.by_ref() {
                if let Some((_, address)) = line?.split_once(what) {
                    return Ok(address.parse()?);
                }
            }
            Err("the server did not start".into())
        };
        let control = address("listening control=")?;
        let ws = address("listening ws=")?;
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Server { child, ws, control })
    }

    /// A figure of /proc/PID/status, in KiB.
    fn status(&self, name: &str) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find(|line| line.starts_with(name)).ok_or("no such figure")?;
        Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse()?)
    }

    fn subscribers(&self, count: usize) -> Result<Vec<TcpStream>> {
        (0..count).map(|n| Ok(support::subscriber(self.ws, n, "news")?)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Emits one after the other; each is answered and has reached every subscriber before the next.
fn emit(server: &Server, subscribers: &mut [TcpStream], times: usize) -> Result<()> {
    let mut controller = TcpStream::connect(server.control)?;
    let mut piece = [0; 4096];
    controller.write_all(&support::auth())?;
    controller.read(&mut piece).map(drop)?;
    let frame = support::emit("news", 128);
    for _ in 0..times {
        controller.write_all(&frame)?;
        controller.read(&mut piece).map(drop)?;
        for subscriber in subscribers.iter_mut() {
            subscriber.read(&mut piece).map(drop)?;
        }
    }
    Ok(())
}

/// Runs `strace -c` on the server while it emits; prints the calls per emit.
fn count_calls(server: &Server, subscribers: &mut [TcpStream]) -> Result<()> {
    const TIMES: usize = 100;
    let pid = server.child.id().to_string();
    let strace = Command::new("strace")
        .args(["-c", "-p", &pid])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut strace) = strace else {
        println!("system calls: strace is not installed");
        return Ok(());
    };
    let mut lines = BufReader::new(strace.stderr.take().ok_or("no standard error")?).lines();
    if !lines.next().ok_or("strace said nothing")??.contains("attached") {
        return Err("strace could not attach".into());
    }
    emit(server, subscribers, TIMES)?;
    Command::new("kill").args(["-INT", &strace.id().to_string()]).status()?;
    println!("system calls in {TIMES} emits to {} subscribers:", subscribers.len());
    for line in lines {
        let line = line?;
        let mut words = line.split_whitespace().skip(3);
        if let (Some(calls), Some(name)) = (words.next(), line.split_whitespace().last())
            && let Ok(calls) = calls.parse::<usize>()
            && name != "total"
        {
            println!("  {name:<14} {calls:>8}  {:.2} per emit", calls as f64 / TIMES as f64);
        }
    }
    strace.wait()?;
    Ok(())
}

fn main() -> Result<()> {
    // Twenty thousand descriptors are not everybody's default.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    let data = std::env::temp_dir().join(format!("fws-footprint-{}", std::process::id()));
    let server = Server::start(&data)?;
    println!("at start: {} KiB resident", server.status("VmRSS:")?);
    let before = server.status("RssAnon:")?;
    let mut subscribers = server.subscribers(10_000)?;
    let after = server.status("RssAnon:")?;
    let bytes = (after - before) * 1024 / subscribers.len() as u64;
    println!("per idle subscriber of {}: {bytes} bytes of user memory", subscribers.len());
    subscribers.truncate(1000);
    // A round that the server has left the others behind by.
    emit(&server, &mut subscribers, 1)?;
    count_calls(&server, &mut subscribers)?;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}
