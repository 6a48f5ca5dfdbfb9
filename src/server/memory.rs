//! Lowers limits that were not configured where the process may have little memory: everything that
//! others can make the server hold must fit at the same time, because a process that runs out of
//! memory is killed. Called by the server's start, before anything is sized by these limits, and at
//! each reload.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::config::{Config, ORDERED, Source, StoreKind};
use crate::limits::{LimitError, Limits};

/// Address space and memory of code, stacks, buffers and allocator overhead, and (`STORE_SPACE`)
/// the address space that the allocator reserves for the store's thread.
const OWN_SPACE: u64 = 16 << 20;
const STORE_SPACE: u64 = 64 << 20;
const OWN_MEMORY: u64 = 24 << 20;
/// The least room that limits are fitted into: nothing of use fits into less.
const LEAST: u64 = 24 << 20;
/// Room beyond this is not counted.
const MOST: u64 = 1 << 50;
/// One part in this many of a control group is for what the kernel keeps for sockets, which is 1.5
/// KB for each idle browser.
const KERNEL: u64 = 10;
/// One part in this many is lost to fragmentation; 10 % were measured.
const WASTE: u64 = 10;

/// How a limit is fitted: its name; the most memory that a unit of it takes, in eighths of a byte;
/// and its weight in thousandths, for when there is not enough for all.
type Share = (&'static str, u64, u64);

/// Everything that can be full at the same time.
const SHARES: [Share; 16] = [
    // The longest command four times, beyond all below: as the reply to a `get` although too much
    // is queued, as one that waits for the disk, as UTF-8, and on its way to the disk.
    (FRAME, 8 * 4, 207),
    // A message in all its encodings that is queued although too much was queued already.
    ("publication_bytes", 8, 179),
    ("control_input_bytes", 8, 52),
    // A command that is not large, and a read of what follows it.
    (BACK_ENDS, 8 * (80 << 10), 34),
    ("input_bytes", 8, 47),
    ("bodies_bytes", 8, 20),
    // Short ones may take an eighth more.
    ("queued_bytes", 9, 107),
    // A quarter more for namespaces that are owed little, an eighth for short ones, and a quarter
    // for large states that are delivered, and whose shared encodings are kept a while.
    (ANSWERS, 13, 77),
    // With the user and the reactor's record of it.
    ("connections", 8 * 700, 43),
    ("sessions", 8 * 512, 14),
    // To a channel of its own, with a long name; a grant has two of them.
    ("subscriptions", 8 * 450, 88),
    ("grants", 8 * 650, 37),
    // One namespace gets eight ninths of this, and the largest state fits into that.
    ("states_bytes", 8, 59),
    ("states", 8 * 131, 12),
    ("store_pending_bytes", 8, 14),
    // Those too short to wait for room; each of the back ends above has its part.
    (REPLIES, 8, 10),
];
const FRAME: &str = "control_frame_bytes";
const BACK_ENDS: &str = "control_connections";
const ANSWERS: &str = "answers_bytes";
const REPLIES: &str = "control_replies_pause_bytes";
/// The least that `answers_pause_bytes` is lowered to.
const ANSWERS_PAUSE_BYTES: u64 = 8192;

/// Memory that the process may have, and what is used before any client comes, in bytes.
struct Bound {
    most: u64,
    own: u64,
    /// Where the bound comes from, for the log, unless it was set for the process.
    nature: &'static str,
}

/// The log line about limits that were lowered.
pub struct Fitted {
    pub text: String,
    /// A bound was set for the process, or is too low: the operator may want to raise it.
    pub is_warning: bool,
}

/// Lowers limits that were not configured as far as necessary: not at all where memory is ample.
/// Returns the log line about it, if any.
pub fn fit(config: &mut Config) -> Option<Fitted> {
    let Bound { most, own, nature } = bound(config.store)?;
    let room = most.saturating_sub(own);
    let connections = super::open_connections(&config.limits).map_or(usize::MAX, |(open, _)| open);
    let mut lowered = Vec::new();
    let is_set = config.limit_source(BACK_ENDS) != Source::Default;
    for (name, value) in limits_for(room.max(LEAST), &config.limits, connections, is_set) {
        let floors = ORDERED.iter().filter(|(_, higher)| *higher == name);
        let floor = floors.filter_map(|(lower, _)| config.limits.get(lower)).max();
        let value = usize::try_from(value).unwrap_or(usize::MAX).max(floor.unwrap_or(0));
        let is_less = config.limits.get(name).is_some_and(|now| value < now);
        if !is_less || config.limit_source(name) != Source::Default {
            continue;
        }
        // No lower than the smallest value allowed.
        let value = match config.limits.set(name, value) {
            Err(LimitError::Bounds { low, .. }) if config.limits.set(name, low).is_ok() => low,
            _ => value,
        };
        lowered.push(format!("{name} is {value}"));
    }
    let (mib, lowered, least) = (most >> 20, lowered.join(", "), (own + LEAST) >> 20);
    let short = format!("; that is too little: all that may come at once takes {least} MiB");
    let short = if room < LEAST { &*short } else { "" };
    (!lowered.is_empty()).then(|| Fitted {
        text: format!("this process may have {mib} MiB of memory{nature}, so {lowered}{short}"),
        is_warning: nature.is_empty() || room < LEAST,
    })
}

/// Returns a value for each limit that does not fit into the room with so many connections at most.
/// A limit that must not exceed another comes before it.
fn limits_for(
    room: u64,
    limits: &Limits,
    connections: usize,
    has_set_back_ends: bool,
) -> Vec<(&'static str, u64)> {
    let wanted = |name| wanted(name, limits, connections);
    let room = room.min(MOST);
    let (mut left, mut weights) = ((room - room / WASTE) / 1000 * 8000, 1000);
    let mut short = SHARES.to_vec();
    // A limit that wants less than its share leaves more to the others.
    loop {
        let (per_weight, before) = (left / weights.max(1), short.len());
        short.retain(|(name, eighths, weight)| {
            let takes = wanted(name).saturating_mul(*eighths);
            let is_short = takes > per_weight * weight;
            if !is_short {
                (left, weights) = (left - takes, weights - weight);
            }
            is_short
        });
        if short.len() == before {
            break;
        }
    }
    let mut all = Vec::new();
    let mut back_ends = wanted(BACK_ENDS);
    for (name, eighths, weight) in short {
        let each = if name == REPLIES { back_ends.max(1) } else { 1 };
        let value = left / weights * weight / eighths / each;
        all.push((name, value));
        match name {
            // Such a state fits into the command that sets it.
            FRAME => all.push(("state_bytes", value.saturating_sub(1024))),
            // Back ends without a key do not take the places of those with one.
            BACK_ENDS => {
                // If their number is configured, all of them have their replies.
                back_ends = if has_set_back_ends { back_ends } else { value };
                all.push(("control_unauthenticated_connections", (value / 2).max(1)));
            }
            "sessions" => all.extend([
                ("sessions_unauthenticated", value),
                // A crowd that comes at once is told when to come back before it takes all these
                // places. The rate after that is not lowered: a small flood would then keep others
                // out.
                ("admissions_burst", (value / 2).max(1)),
            ]),
            // An answer shorter than a small part of this does not wait for room.
            ANSWERS => all.push(("answers_pause_bytes", (value / 47).max(ANSWERS_PAUSE_BYTES))),
            _ => {}
        }
    }
    all
}

/// Returns how many units of a limit there can be in all, with so many connections at most.
fn wanted(name: &str, limits: &Limits, connections: usize) -> u64 {
    let connections = connections.min(limits.connections);
    let in_all = match name {
        "connections" => connections,
        "subscriptions" => {
            connections.saturating_mul(limits.channels_per_connection).min(limits.subscriptions)
        }
        REPLIES => limits.control_connections.saturating_mul(limits.control_replies_pause_bytes),
        _ => limits.get(name).unwrap_or(0),
    };
    in_all as u64
}

/// Returns the bound that leaves the least room: of the process's own limits, those of its control
/// groups, and the memory of the machine.
fn bound(store: StoreKind) -> Option<Bound> {
    let own_space = OWN_SPACE + if store == StoreKind::None { 0 } else { STORE_SPACE };
    let space = getrlimit(Resource::As).current.map(|bytes| (bytes, own_space, ""));
    // Of 32 bits of address space, the kernel and the allocator's holes take half.
    let narrow = (usize::BITS == 32).then_some((2 << 30, own_space, ", having 32 bits"));
    let data = getrlimit(Resource::Data).current.map(|bytes| (bytes, OWN_SPACE, ""));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_bytes(&groups, Path::new("/sys/fs/cgroup"));
    // A group also counts what the kernel keeps for the sockets of its processes.
    let group = group.map(|bytes| (bytes, OWN_MEMORY + bytes / KERNEL, ""));
    // A quarter is left for sockets, in the kernel, and for other processes.
    let sysinfo = rustix::system::sysinfo();
    let all = (sysinfo.totalram as u64).saturating_mul(sysinfo.mem_unit.into());
    // `/proc` may show a container less; a service without `/proc` has `sysinfo` alone.
    let shown = machine_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let machine = shown.into_iter().chain([all]).filter(|bytes| *bytes > 0).min();
    let machine = machine.map(|all| (all / 4 * 3, OWN_MEMORY, ", three quarters of the machine's"));
    let bounds = [space, narrow, data, group, machine].into_iter().flatten();
    bounds
        .map(|(most, own, nature)| Bound { most, own, nature })
        .min_by_key(|bound| bound.most.saturating_sub(bound.own))
}

/// Returns the memory of the machine in bytes, from `/proc/meminfo` (proc_meminfo(5)).
fn machine_bytes(meminfo: &str) -> Option<u64> {
    let kib =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"))?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the lowest bound of the nested control groups that a process is in, if any is known:
/// from what the kernel says of the process (cgroups(7)) and where groups are mounted. Reads both
/// versions: version 1 has a tree for memory alone.
fn group_bytes(groups: &str, root: &Path) -> Option<u64> {
    let bounds = groups.lines().flat_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (kinds, path) = rest.split_once(':')?;
        let (root, names) = match kinds {
            // Above `memory.high` a process is throttled.
            "" => (root.to_owned(), &["memory.max", "memory.high"][..]),
            _ if kinds.split(',').any(|kind| kind == "memory") => {
                (root.join("memory"), &["memory.limit_in_bytes"][..])
            }
            _ => return None,
        };
        // In a container this may be the path on the host, while its own group is the root.
        let path = Path::new(path.trim_start_matches('/'));
        let groups = path.ancestors().map(|path| root.join(path));
        let files = groups.flat_map(|group| names.iter().map(move |name| group.join(name)));
        Some(files.collect::<Vec<_>>())
    });
    let read = |file| fs::read_to_string(file).ok()?.trim().parse().ok();
    bounds.flatten().filter_map(read).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the limits of a server with `room` bytes of memory.
    fn limits_in(room: u64) -> Limits {
        let mut limits = Limits::default();
        for (name, value) in limits_for(room, &limits, usize::MAX, false) {
            let value = usize::try_from(value).unwrap_or(usize::MAX).min(limits.get(name).unwrap());
            limits.set(name, value).unwrap();
        }
        limits
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        let meminfo = "MemTotal:         506204 kB\nMemFree:          103528 kB\n";
        assert_eq!(machine_bytes(meminfo), Some(506_204 << 10));
        assert_eq!(machine_bytes(""), None);
        assert_eq!(machine_bytes("MemTotal: 99999999999999999999 kB\n"), None);
        let here = machine_bytes(&fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
        let bound = bound(StoreKind::None).unwrap();
        assert!(here > LEAST && bound.most <= here / 4 * 3, "{here}, {}", bound.most);
    }

    /// Returns the memory in use when everything is full at once.
    fn full_bytes(limits: &Limits) -> u64 {
        let all = SHARES.map(|(name, eighths, _)| wanted(name, limits, usize::MAX) * eighths / 8);
        all.iter().sum()
    }

    #[test]
    fn no_limit_is_lowered_with_20000_descriptors_and_8_gib() {
        let lowered = |gib: u64| {
            let limits = Limits::default();
            let room = (gib << 30) / 4 * 3 - OWN_MEMORY;
            let mut lowered = limits_for(room, &limits, 20_000, false);
            lowered.retain(|(name, value)| limits.get(name).unwrap() as u64 > *value);
            lowered
        };
        assert_eq!(lowered(8), []);
        let lowered = lowered(4);
        let names: Vec<&str> = lowered.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["subscriptions", "grants", "states", REPLIES]);
        assert!(lowered.iter().all(|(name, value)| *name == REPLIES || *value > 500_000));
    }

    #[test]
    fn the_lowest_bound_of_all_enclosing_cgroups_counts() {
        let root = std::env::temp_dir().join(format!("fws-groups-{}", std::process::id()));
        let bound = |file: &str, text: &str| {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        bound("system.slice/fws.service/memory.max", "max\n");
        bound("system.slice/memory.max", "500\n");
        bound("user.slice/memory.max", "100\n");
        let bytes_of = |groups: &str| group_bytes(groups, &root);
        assert_eq!(bytes_of("0::/system.slice/fws.service\n"), Some(500));
        bound("system.slice/fws.service/memory.max", "400\n");
        assert_eq!(bytes_of("0::/system.slice/fws.service\n"), Some(400));
        bound("system.slice/fws.service/memory.high", "350\n");
        assert_eq!(bytes_of("0::/system.slice/fws.service\n"), Some(350));
        assert_eq!(bytes_of("0::/other.slice\n"), None);
        // A container sees its own group as the root, under either version.
        bound("memory.max", "300\n");
        assert_eq!(bytes_of("0::/system.slice/fws.service\n"), Some(300));
        assert_eq!(bytes_of("0::/\n"), Some(300));
        bound("memory/memory.limit_in_bytes", "200\n");
        bound("memory/docker/a/memory.limit_in_bytes", "150\n");
        assert_eq!(bytes_of("12:cpu,cpuacct:/a\n11:memory:/docker/b\n"), Some(200));
        assert_eq!(bytes_of("11:hugetlb,memory:/docker/a\n0::/docker/a\n"), Some(150));
        assert_eq!(bytes_of(""), None);
        fs::remove_dir_all(root).unwrap();
    }

    /// As `docs/operations.md` says under *Sizing*.
    #[test]
    fn a_container_admits_as_many_browsers_as_documented() {
        let room = |mib: u64| (mib << 20) - (mib << 20) / KERNEL - OWN_MEMORY;
        let connections = |mib: u64| limits_in(room(mib)).connections;
        assert_eq!([64, 256, 1024].map(connections), [1947, 12_489, 73_158]);
        assert!(connections(224) >= 10_000 && connections(1536) >= 100_000);
    }

    #[test]
    fn limits_fit_into_memory_when_everything_is_full() {
        let mut before = limits_in(LEAST);
        for mib in [24, 32, 48, 64, 100, 176, 432, 1000, 4096, 16_384] {
            let (room, limits) = (mib << 20, limits_in(mib << 20));
            let full = full_bytes(&limits);
            assert!(full <= room - room / WASTE, "{mib} MiB: {full} bytes");
            for (lower, higher) in ORDERED {
                assert!(limits.get(lower) <= limits.get(higher), "{mib} MiB: {lower}, {higher}");
            }
            // No limit falls as memory grows, and all are usable with the least memory.
            for (name, ..) in SHARES.iter().filter(|(name, ..)| *name != REPLIES) {
                assert!(before.get(name) <= limits.get(name), "{mib} MiB: {name}");
            }
            assert!(limits.control_connections >= 8 && limits.connections >= 1000);
            assert!(limits.control_frame_bytes > 1 << 20 && limits.grants > 400);
            let names = 2 * limits.name_bytes;
            let share = limits.states_bytes / 9 * 8;
            assert!(limits.state_bytes + names <= share, "{mib} MiB");
            assert!(limits.sessions_unauthenticated <= limits.sessions, "{mib} MiB");
            assert!(limits.admissions_burst <= limits.sessions.div_ceil(2), "{mib} MiB");
            before = limits;
        }
        assert_eq!(SHARES.iter().map(|(.., weight)| weight).sum::<u64>(), 1000);
        let limits = limits_in(176 << 20);
        let whole = Limits::default();
        assert_eq!(limits.control_frame_bytes, whole.control_frame_bytes);
        assert!(limits.connections >= 10_000 && limits.state_bytes == whole.state_bytes);
        let ample = limits_in(1 << 50);
        assert_eq!(ample, whole, "with enough memory no limit is lowered");
    }
}
