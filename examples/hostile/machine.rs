//! What the machine tells of processes and processors, and what it must let us do.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Outcome;

/// Clock ticks of `/proc` in a second.
const TICKS: f64 = 100.0;

/// How many processors there are.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Of those who go before all others. Above the attackers, should they be run with a priority too,
/// because the machine is not quiet.
const PRIORITY: &str = "20";

/// A command that runs on this processor, if there is more than one; `is_first`: before all others
/// that want it, so that what it measures is not its own waiting.
pub fn on_processor(number: usize, is_first: bool, program: &str) -> Command {
    let mut words: Vec<String> = Vec::new();
    if processors_in_all() > 1 {
        words.extend(["taskset", "-c", &number.to_string()].map(str::to_owned));
    }
    if is_first {
        words.extend(["chrt", "-f", PRIORITY].map(str::to_owned));
    }
    words.push(program.to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Those of the machine: we ourselves may be bound to one.
fn processors_in_all() -> usize {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let named = stat.lines().filter(|line| line.starts_with("cpu"));
    named.count().saturating_sub(1).max(processors())
}

/// A number of kilobytes in `/proc/PID/status`, in bytes.
pub fn memory(pid: u32, field: &str) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.ok_or_else(|| format!("no {field} of process {pid}"))?.parse::<u64>()? * 1024)
}

/// From now on `VmHWM` is the most that a process has had since now.
pub fn forget_peak(pid: u32) -> Outcome<()> {
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// Seconds of processor time that a process has taken.
pub fn seconds(pid: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = behind.split(' ').skip(11).take(2).map(|number| number.parse::<f64>());
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

/// Seconds that all processors have worked, for anybody.
pub fn seconds_of_all() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let numbers = line.split_whitespace().skip(1).map(|number| number.parse::<f64>());
    let numbers = numbers.collect::<Result<Vec<f64>, _>>()?;
    // Idle and waiting for a disk; and guests, who are counted twice.
    let worked = numbers.iter().enumerate().filter(|(at, _)| ![3, 4, 8, 9].contains(at));
    Ok(worked.map(|(_, ticks)| ticks).sum::<f64>() / TICKS)
}

/// Bytes that the kernel has in the buffers of all TCP sockets.
pub fn kernel_memory() -> u64 {
    let stat = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = stat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.rsplit(' ').next().and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

/// Takes so much memory and gives it back. To what a virtual machine has not used for a while its
/// host must first give memory of its own, ten microseconds for each page: in the first attack that
/// fills the kernel's buffers, and in no other, a turn took ten times as long for it.
pub fn warm_up(megabytes: usize) {
    let mut memory = vec![0_u8; megabytes << 20];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    std::hint::black_box(&memory);
}

/// Runs a command to its end.
pub fn must(words: &[&str]) -> Outcome<()> {
    let output = Command::new(words[0]).args(&words[1..]).output()?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("`{}` failed: {why}", words.join(" ")).into())
}

/// A folder of ours, gone when dropped.
pub struct Folder {
    path: PathBuf,
    is_mounted: bool,
}

impl Folder {
    /// An empty one.
    pub fn new() -> Outcome<Folder> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fws-hostile-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Folder { path, is_mounted: false })
    }

    /// A file system of so many megabytes in it, and nothing more.
    pub fn of_size(megabytes: u32) -> Outcome<Folder> {
        let mut folder = Folder::new()?;
        let size = format!("size={megabytes}m");
        must(&["mount", "-t", "tmpfs", "-o", &size, "none", &folder.path.to_string_lossy()])?;
        folder.is_mounted = true;
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left under the temporary folder hurts nobody.
        if self.is_mounted {
            let _ = must(&["umount", "-l", &self.path.to_string_lossy()]);
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
