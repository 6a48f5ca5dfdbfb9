//! The release binary as a separate process, for the benches that look at it from outside.
#![allow(dead_code)] // not every bench uses all of it

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A running server with the benches' namespace. Killed when dropped.
pub struct Server {
    pub child: Child,
    pub ws: SocketAddr,
    pub control: SocketAddr,
    /// Time from the start of the process until it listened.
    pub start: Duration,
}

impl Server {
    /// Starts a server with its data in a folder, with these flags.
    pub fn start(data: &Path, flags: &[&str]) -> Result<Server> {
        std::fs::create_dir_all(data)?;
        let config = data.join("config.json");
        let (name, key) = (support::NAMESPACE, support::KEY);
        std::fs::write(&config, format!(r#"{{"namespaces":{{"{name}":"{key}"}}}}"#))?;
        let begin = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_fws"))
            .args(["serve", "--ws", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"])
            .arg(data)
            .arg("--config")
            .arg(&config)
            .args(flags)
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
        let start = begin.elapsed();
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Server { child, ws, control, start })
    }

    /// A figure of /proc/PID/status, in KiB.
    pub fn status(&self, name: &str) -> Result<u64> {
        figure(self.child.id(), "status", name)
    }

    /// Sends SIGTERM and waits for the exit.
    pub fn stop(mut self) -> Result<()> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A figure in a file of /proc/PID.
pub fn figure(pid: u32, file: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find(|line| line.starts_with(name)).ok_or("no such figure")?;
    Ok(line.split_whitespace().nth(1).ok_or("no figure")?.parse()?)
}

/// CPU time that a process has used, in seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').ok_or("no such process")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    // Fields 14 and 15 of proc(5), in hundredths of a second.
    Ok((words[11].parse::<f64>()? + words[12].parse::<f64>()?) / 100.0)
}
