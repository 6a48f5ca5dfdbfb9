//! The server's use of a machine: memory at start, memory with ten thousand idle authenticated
//! subscribers, and system calls for one emit to a thousand.

#[path = "support/server.rs"]
mod server;
#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use server::Server;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Emits in sequence: each emit is answered and delivered to every subscriber before the next.
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

/// Runs `strace -c` on the server during emits; prints the system calls per emit.
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
    // The default limit is often below twenty thousand descriptors.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    let data = std::env::temp_dir().join(format!("fws-footprint-{}", std::process::id()));
    let server = Server::start(&data, &[])?;
    println!("at start: {} KiB resident", server.status("VmRSS:")?);
    let before = server.status("RssAnon:")?;
    let mut subscribers = (0..10_000)
        .map(|n| Ok(support::subscriber(server.ws, n, "news")?))
        .collect::<Result<Vec<_>>>()?;
    let after = server.status("RssAnon:")?;
    let bytes = (after - before) * 1024 / subscribers.len() as u64;
    println!("per idle subscriber of {}: {bytes} bytes of user memory", subscribers.len());
    subscribers.truncate(1000);
    // After one round the server has handled the closes of the others.
    emit(&server, &mut subscribers, 1)?;
    count_calls(&server, &mut subscribers)?;
    drop(server);
    std::fs::remove_dir_all(&data)?;
    Ok(())
}
