//! What the system reports about this process, in `/proc`: two short files and one directory entry,
//! whatever the number of connections. Read on request, never by a turn. Also raises the descriptor
//! limit.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::metrics::Process;

/// Clock ticks per second in `/proc/self/stat`: the same for all programs (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;
/// Descriptors for which the kernel makes room at the start; each takes 8 bytes of its memory.
const DESCRIPTORS_AT_ONCE: u64 = 65_536;
/// Descriptors counted one by one, at most, where the system does not report their number.
const COUNTED_MAX: usize = 4096;

/// More than either file holds.
const FILE_BYTES: usize = 8192;

/// The files, open from the start: they matter most when no descriptors are left.
#[derive(Debug)]
pub(super) struct Files {
    status: Option<File>,
    stat: Option<File>,
}

impl Files {
    /// Opens the files, as far as they exist.
    pub fn open() -> Files {
        Files {
            status: File::open("/proc/self/status").ok(),
            stat: File::open("/proc/self/stat").ok(),
        }
    }

    /// Reads all values.
    pub fn read(&self) -> Process {
        Process {
            resident_bytes: resident_bytes(&text(self.status.as_ref())),
            open_fds: open_fds(),
            max_fds: getrlimit(Resource::Nofile).current,
            cpu_ms: cpu_ms(&text(self.stat.as_ref())),
        }
    }
}

/// Returns the current content of the file.
fn text(file: Option<&File>) -> String {
    let mut bytes = [0; FILE_BYTES];
    let length = file.and_then(|file| file.read_at(&mut bytes, 0).ok()).unwrap_or(0);
    String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned()
}

/// Raises the soft limit of descriptors to the hard one, and has the kernel make room for as many
/// as may well be used. Returns the limit in force. Must be called before there are threads.
pub fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: maximum, maximum };
    let is_raised = current != maximum && setrlimit(Resource::Nofile, wanted).is_ok();
    let limit = if is_raised { maximum } else { current }.unwrap_or(u64::MAX);
    make_room(limit.min(DESCRIPTORS_AT_ONCE));
    limit
}

/// The kernel doubles its table of descriptors when that is full, and where there are threads it
/// then waits until no processor can still be reading the old one: `accept` took ten milliseconds,
/// each time. The table never shrinks.
fn make_room(descriptors: u64) {
    let highest = i32::try_from(descriptors.saturating_sub(1));
    if let (Ok(highest), Ok(file)) = (highest, File::open("/dev/null")) {
        // If this fails, the table grows on demand.
        let _ = rustix::io::fcntl_dupfd_cloexec(&file, highest);
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Adds user and system time: fields 14 and 15, behind a name that may contain anything.
fn cpu_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()?.checked_add(ticks()?)?;
    ticks.checked_mul(1000 / TICKS_PER_SECOND)
}

/// Since Linux 6.2 the directory's length is the number of descriptors, and asking takes none. On
/// older kernels they are listed, which is done only if they are few.
fn open_fds() -> Option<u64> {
    let length = fs::metadata("/proc/self/fd").ok()?.len();
    if length > 0 {
        return Some(length);
    }
    // Without the one that the listing itself uses.
    let count = fs::read_dir("/proc/self/fd").ok()?.take(COUNTED_MAX + 1).count();
    (count <= COUNTED_MAX).then(|| count.saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_parsed() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    5124 kB\nX: 1\n"), Some(5124 * 1024));
        assert_eq!(resident_bytes("VmRSS: much\n"), None);
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 25 17 0 0 20 0 2 0 100 5000 300\n";
        assert_eq!(cpu_ms(stat), Some(420));
        assert_eq!(cpu_ms(""), None);
    }

    #[test]
    fn all_process_metrics_are_available_for_this_process() {
        let process = Files::open().read();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{process:?}");
        assert!(process.open_fds.is_some_and(|fds| fds >= 3), "{process:?}");
        assert!(process.cpu_ms.is_some() && process.max_fds.is_none_or(|max| max >= 3));
    }
}
