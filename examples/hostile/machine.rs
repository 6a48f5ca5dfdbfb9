//! Processes and processors of the machine, and privileged operations.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::Outcome;

/// Clock ticks per second in `/proc`.
const TICKS: f64 = 100.0;

/// The number of processors available.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Real-time priority of the processes that go first. Above the attackers', in case they are run
/// with a priority too because the machine is not quiet.
const PRIORITY: &str = "20";

/// A command pinned to a processor, if there is more than one. `is_first`: with a real-time
/// priority, so that it does not measure its own waiting for the processor.
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

/// Processes that keep all processors busy while nothing else wants them.
///
/// A virtual machine gives an idle processor back to its host, and may get it again milliseconds
/// later: then it is the host that delays the healthy load, most of all while there is no attack.
pub struct Awake {
    spinners: Vec<Child>,
}

impl Awake {
    /// Starts them.
    pub fn start() -> Outcome<Awake> {
        let program = std::env::current_exe()?;
        let mut awake = Awake { spinners: Vec::new() };
        for number in 0..processors_in_all() {
            let mut command = on_processor(number, false, "nice");
            command.args(["-n", "19", "chrt", "-i", "0"]).arg(&program).arg("spin");
            awake.spinners.push(command.stdin(Stdio::piped()).spawn()?);
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for spinner in &mut self.spinners {
            // It may have ended already.
            let _ = spinner.kill();
            let _ = spinner.wait();
        }
    }
}

/// Runs one of them, until the process that started it is gone.
pub fn spin() -> ! {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    loop {
        std::hint::spin_loop();
    }
}

/// The processors of the machine; this process may be pinned to one.
fn processors_in_all() -> usize {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let named = stat.lines().filter(|line| line.starts_with("cpu"));
    named.count().saturating_sub(1).max(processors())
}

/// A figure of `/proc/PID/status` given in kB, in bytes.
pub fn memory(pid: u32, field: &str) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(number.ok_or_else(|| format!("no {field} of process {pid}"))?.parse::<u64>()? * 1024)
}

/// Resets the peak: from now on `VmHWM` is the most since this call.
pub fn forget_peak(pid: u32) -> Outcome<()> {
    Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// CPU time that a process has used, in seconds.
pub fn seconds(pid: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = behind.split(' ').skip(11).take(2).map(|number| number.parse::<f64>());
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

/// CPU time of all processes of usual priority on all processors, in seconds.
pub fn seconds_of_all() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let numbers = line.split_whitespace().skip(1).map(|number| number.parse::<f64>());
    let numbers = numbers.collect::<Result<Vec<f64>, _>>()?;
    // Without nice, idle and iowait; and without guest time, which is counted twice.
    let worked = numbers.iter().enumerate().filter(|(at, _)| ![1, 3, 4, 8, 9].contains(at));
    Ok(worked.map(|(_, ticks)| ticks).sum::<f64>() / TICKS)
}

/// A figure of all TCP sockets together.
fn sockets(name: &str) -> u64 {
    let stat = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = stat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let mut words = line.split(' ').skip_while(|word| *word != name).skip(1);
    words.next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Bytes in the kernel's buffers of all TCP sockets.
pub fn kernel_memory() -> u64 {
    sockets("mem") * 4096
}

/// Connections that the kernel remembers after their end.
const REMEMBERED_MAX: u64 = 500;
/// The kernel remembers a connection for a minute.
const REMEMBERED: Duration = Duration::from_secs(65);

/// Waits until the kernel has forgotten the connections of earlier attacks. It forgets ten thousand
/// at a time if they ended at a time, and that stops the server for milliseconds.
pub fn wait_for_quiet() {
    let start = Instant::now();
    while sockets("tw") > REMEMBERED_MAX && start.elapsed() < REMEMBERED {
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Kernel memory in pieces of one megabyte, every second one of them free.
///
/// A virtual machine may return free memory to its host after two seconds, and then pays ten
/// microseconds for each page that it uses again: an attack that fills the kernel's buffers after
/// an idle time would stop the server for a tenth of a second, and nothing else would be measured.
/// Only free runs of two megabytes are returned, and between pieces in use there are none.
pub struct Pieces {
    _held: Vec<UnixStream>,
}

impl Pieces {
    /// Takes this many megabytes and frees half of them. They are buffers of sockets, because the
    /// kernel reuses freed memory first for the same kind of memory.
    pub fn take(megabytes: usize) -> Outcome<Pieces> {
        let fill = |_| -> Outcome<UnixStream> {
            let full = |e| format!("{megabytes} pairs of sockets: {e}; see `ulimit -n`");
            let (mut from, to) = UnixStream::pair().map_err(full)?;
            from.set_nonblocking(true)?;
            // The kernel doubles this.
            sockopt::set_socket_send_buffer_size_force(&from, 512 * 1024)?;
            while from.write(&[0; 65_536]).is_ok() {}
            Ok(to)
        };
        let all = (0..megabytes).map(fill).collect::<Outcome<Vec<_>>>()?;
        let held = all.into_iter().enumerate().filter(|(number, _)| number % 2 == 0);
        Ok(Pieces { _held: held.map(|(_, stream)| stream).collect() })
    }
}

/// Runs a command to its end; fails if it does.
pub fn must(words: &[&str]) -> Outcome<()> {
    let output = Command::new(words[0]).args(&words[1..]).output()?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("`{}` failed: {why}", words.join(" ")).into())
}

/// A temporary folder, removed when dropped.
pub struct Folder {
    path: PathBuf,
    is_mounted: bool,
}

impl Folder {
    /// Makes an empty folder.
    pub fn new() -> Outcome<Folder> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fws-hostile-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Folder { path, is_mounted: false })
    }

    /// Makes a folder with its own file system of so many megabytes.
    pub fn of_size(megabytes: u32) -> Outcome<Folder> {
        let mut folder = Folder::new()?;
        let size = format!("size={megabytes}m");
        must(&["mount", "-t", "tmpfs", "-o", &size, "none", &folder.path.to_string_lossy()])?;
        folder.is_mounted = true;
        Ok(folder)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that cannot be removed does no harm.
        if self.is_mounted {
            let _ = must(&["umount", "-l", &self.path.to_string_lossy()]);
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
