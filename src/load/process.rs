//! CPU time and memory of the server under load, this process and the machine, from `/proc`.

use std::fs;

use super::Fault;

/// Clock ticks per second in `/proc`: always 100 in user space (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time, in seconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    /// Of the server: all threads, user and system. A thread that ends takes its share along.
    pub server: f64,
    /// Of this process.
    pub own: f64,
    /// Of the whole machine.
    pub machine: f64,
}

impl Cpu {
    pub fn since(self, before: Cpu) -> Cpu {
        Cpu {
            server: self.server - before.server,
            own: self.own - before.own,
            machine: self.machine - before.machine,
        }
    }
}

/// Memory, in bytes, as far as the kernel shows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Resident, including file pages.
    pub rss: Option<u64>,
    /// Proportional share of the resident pages; readable by the process's user and root.
    pub pss: Option<u64>,
    /// Resident and not backed by files: heap and stack.
    pub anonymous: Option<u64>,
    /// Of the whole kernel: slab objects, which include sockets.
    pub slab: Option<u64>,
    /// Of the whole kernel: TCP send and receive buffers.
    pub tcp: Option<u64>,
}

/// CPU time of the server, if there is one to observe, of this process and of the machine.
pub(super) fn cpu(pid: Option<u32>) -> Result<Cpu, Fault> {
    let server = match pid {
        Some(pid) => process_seconds(&pid.to_string())?,
        None => 0.0,
    };
    let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
    Ok(Cpu { server, own: process_seconds("self")?, machine: busy_seconds(&machine) })
}

/// In nanoseconds of all living threads (Documentation/scheduler/sched-stats of the kernel), if it
/// counts them; otherwise in ticks of 10 ms.
fn process_seconds(pid: &str) -> Result<f64, Fault> {
    if let Some(nanoseconds) = threads_nanoseconds(pid) {
        return Ok(nanoseconds as f64 / 1e9);
    }
    let stat = read(pid, "stat")?;
    // Fields 14 and 15, after a name that may contain anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok());
    Ok(ticks.sum::<f64>() / TICKS_PER_SECOND)
}

fn threads_nanoseconds(pid: &str) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let nanoseconds = |thread: fs::DirEntry| {
        let statistics = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        statistics.split_whitespace().next()?.parse::<u64>().ok()
    };
    let total = threads.flatten().filter_map(nanoseconds).sum();
    (total > 0).then_some(total)
}

/// All columns of the first line but `idle` and `iowait`; guest time is part of the others.
fn busy_seconds(stat: &str) -> f64 {
    let columns = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let busy = columns.enumerate().filter(|(column, _)| ![3, 4].contains(column));
    let ticks: f64 = busy.filter_map(|(_, ticks)| ticks.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// Memory of the server and of the kernel.
pub(super) fn memory(pid: u32) -> Result<Memory, Fault> {
    let pid = pid.to_string();
    // All in one read, if the kernel has the file.
    let rollup = read(&pid, "smaps_rollup").unwrap_or_default();
    let status = read(&pid, "status")?;
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let pages = sockets.lines().find_map(|line| line.strip_prefix("TCP:")?.rsplit(' ').next());
    let pages = pages.and_then(|pages| pages.parse::<u64>().ok());
    Ok(Memory {
        rss: kilobytes(&status, "VmRSS:"),
        pss: kilobytes(&rollup, "Pss:"),
        anonymous: kilobytes(&status, "RssAnon:"),
        slab: kilobytes(&machine, "Slab:"),
        tcp: pages.map(|pages| pages * PAGE_BYTES),
    })
}

/// The kernel reports TCP memory in pages.
const PAGE_BYTES: u64 = 4096;

/// A figure that the kernel reports in kB, in bytes; `None` if it is missing.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn read(pid: &str, file: &str) -> Result<String, Fault> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path)
        .map_err(|error| Fault::new(format!("--pid: cannot read {path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_parsed_from_proc_files() {
        let stat = "cpu  100 10 20 9999 50 3 4 5 7 8\ncpu0 1\n";
        assert!((busy_seconds(stat) - 1.42).abs() < 1e-9, "{}", busy_seconds(stat));
        assert_eq!(kilobytes("A: 5 kB\nPss:      17 kB\n", "Pss:"), Some(17 * 1024));
        assert_eq!(kilobytes("", "Pss:"), None, "an unreadable figure is not zero");
    }

    #[test]
    fn this_process_can_be_measured() {
        let pid = std::process::id();
        let (cpu, memory) = (cpu(Some(pid)).unwrap(), memory(pid).unwrap());
        assert!(cpu.server > 0.0 && cpu.own > 0.0 && cpu.machine >= cpu.own, "{cpu:?}");
        assert!(memory.rss >= memory.anonymous, "{memory:?}");
        assert!(memory.anonymous > Some(100_000) && memory.slab > Some(100_000), "{memory:?}");
        assert!(process_seconds("no such process").is_err());
        let before = process_seconds("self").unwrap();
        let mut sum = 0_u64;
        while process_seconds("self").unwrap() == before {
            sum = std::hint::black_box(sum + 1);
        }
    }
}
