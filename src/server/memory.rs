//! Limits that nobody set, where the process may have little memory: all that others can make the
//! server hold, all of it at once, must fit, because a program whose memory runs out is ended.
//! Called by the server's start, before anything is made by these limits, and at each reload.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::config::{Config, ORDERED, Source, StoreKind};
use crate::limits::Limits;

/// Address space that code, stacks, buffers and the allocator's own ways take, and memory that they
/// do; and address space that the allocator sets apart for the thread of the store.
const OWN_SPACE: u64 = 16 << 20;
const STORE_SPACE: u64 = 64 << 20;
const OWN_MEMORY: u64 = 24 << 20;
/// The least room that limits are fitted into: with less, none of use would fit.
const LEAST: u64 = 24 << 20;
/// One part in so many is lost between what is kept: measured were 10 %.
const WASTE: u64 = 10;

/// How a limit is fitted: by its name, what a unit of it takes in memory at most, in bytes, and
/// which part of the room all of them may have together, in thousandths.
type Share = (&'static str, u64, u64);

/// All that can be full at the same time.
const SHARES: [Share; 15] = [
    // The longest command, beyond all that is counted below: as the reply to a `get` though too
    // much waits already, as one that waits for the disk, in UTF-8, and on its way to the disk.
    (FRAME, 4, 207),
    // A message in all its forms that waits though too much waited already.
    ("publication_bytes", 1, 179),
    ("control_input_bytes", 1, 52),
    // A command that is not large, and a read of what comes behind it.
    (BACK_ENDS, 80 << 10, 34),
    ("input_bytes", 1, 47),
    ("bodies_bytes", 1, 20),
    // Of the first there may be an eighth more, for what is short; of the second a quarter, for
    // name spaces that are owed little, an eighth for what is short, and a quarter for large states
    // that have just been taken: 42 thousandths in all.
    ("queued_bytes", 1, 95),
    ("answers_bytes", 1, 47),
    // With the user and what the reactor has of it.
    ("connections", 700, 43),
    ("sessions", 512, 14),
    // To a channel of its own, with a long name; and a grant with two.
    ("subscriptions", 450, 88),
    ("grants", 650, 37),
    // One namespace gets eight ninths of this, and in that fits the largest state.
    ("states_bytes", 1, 59),
    ("states", 131, 12),
    ("store_pending_bytes", 1, 14),
];
/// Replies of all back ends that are so short that they wait for no room.
const REPLIES: u64 = 10;
const FRAME: &str = "control_frame_bytes";
const BACK_ENDS: &str = "control_connections";
/// No less than this.
const ANSWERS_PAUSE_BYTES: u64 = 8192;

/// Lowers what nobody set as far as it takes, which is nothing where there is enough. Returns what
/// is said of that, in one line.
pub fn fit(config: &mut Config) -> Option<String> {
    let (most, own) = memory(config.store)?;
    let room = most.saturating_sub(own);
    let mut lowered = Vec::new();
    for (name, value) in limits_for(room.max(LEAST), &config.limits) {
        let floors = ORDERED.iter().filter(|(_, higher)| *higher == name);
        let floor = floors.filter_map(|(lower, _)| config.limits.get(lower)).max();
        let value = usize::try_from(value).unwrap_or(usize::MAX).max(floor.unwrap_or(0));
        let is_less = config.limits.get(name).is_some_and(|now| value < now);
        if is_less && config.limit_source(name) == Source::Default {
            // A value out of bounds is one that is too low for any use.
            if config.limits.set(name, value).is_ok() {
                lowered.push(format!("{name} is {value}"));
            }
        }
    }
    let (mib, lowered) = (most >> 20, lowered.join(", "));
    let least = (own + LEAST) >> 20;
    let short = format!("; that is too little: all that may come at once takes {least} MiB");
    let short = if room < LEAST { &*short } else { "" };
    (!lowered.is_empty())
        .then(|| format!("this process may have {mib} MiB of memory, so {lowered}{short}"))
}

/// What fits into so much room, what must not be more than another in front of that.
fn limits_for(room: u64, limits: &Limits) -> Vec<(&'static str, u64)> {
    let part = |thousandths: u64| (room - room / WASTE) / 1000 * thousandths;
    let mut all: Vec<(&str, u64)> =
        SHARES.iter().map(|(name, bytes, share)| (*name, part(*share) / bytes)).collect();
    let of = |name| all.iter().find(|(other, _)| *other == name).map_or(0, |(_, value)| *value);
    let back_ends = of(BACK_ENDS).min(limits.control_connections as u64).max(1);
    let frame = of(FRAME);
    all.extend([
        // Such a state fits the command that sets it.
        ("state_bytes", frame.saturating_sub(1024)),
        // Who has no key does not take the places of those who have one.
        ("control_unauthenticated_connections", (of(BACK_ENDS) / 2).max(1)),
        ("sessions_unauthenticated", of("sessions")),
        // A crowd that comes at once is told when to come back before it takes all these places
        // from itself. Behind it as many may come as anywhere: fewer, and a small flood would keep
        // others out.
        ("admissions_burst", (of("sessions") / 2).max(1)),
        ("control_replies_pause_bytes", part(REPLIES) / back_ends),
        // What is shorter than a small part of this waits for no room.
        ("answers_pause_bytes", part(1).max(ANSWERS_PAUSE_BYTES)),
    ]);
    all
}

/// How much this process may have, and what of it is gone before anybody comes; `None` if nothing
/// bounds it.
fn memory(store: StoreKind) -> Option<(u64, u64)> {
    let own_space = OWN_SPACE + if store == StoreKind::None { 0 } else { STORE_SPACE };
    let space = getrlimit(Resource::As).current.map(|bytes| (bytes, own_space));
    let data = getrlimit(Resource::Data).current.map(|bytes| (bytes, OWN_SPACE));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_bytes(&groups, Path::new("/sys/fs/cgroup"));
    let group = group.map(|bytes| (bytes, OWN_MEMORY));
    [space, data, group].into_iter().flatten().min_by_key(|(most, own)| most.saturating_sub(*own))
}

/// The least bound of the control groups that a process is in, each of which is within the next,
/// if any is known; by what the kernel says of the process (cgroups(7)) and where they are mounted.
/// Both versions have it: the first one in a tree for memory alone.
fn group_bytes(groups: &str, root: &Path) -> Option<u64> {
    let bounds = groups.lines().flat_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (kinds, path) = rest.split_once(':')?;
        let (root, name) = match kinds {
            "" => (root.to_owned(), "memory.max"),
            _ if kinds.split(',').any(|kind| kind == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // In a container the path may be that of the host, of which its own root is the end.
        let path = Path::new(path.trim_start_matches('/'));
        let files: Vec<_> = path.ancestors().map(|path| root.join(path).join(name)).collect();
        Some(files)
    });
    let read = |file| fs::read_to_string(file).ok()?.trim().parse().ok();
    bounds.flatten().filter_map(read).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits that a server with so much room has.
    fn limits_in(room: u64) -> Limits {
        let mut limits = Limits::default();
        for (name, value) in limits_for(room, &limits) {
            let value = usize::try_from(value).unwrap().min(limits.get(name).unwrap());
            limits.set(name, value).unwrap();
        }
        limits
    }

    /// What all of it takes, when all of it is full at once.
    fn held(limits: &Limits) -> u64 {
        let shares = SHARES.iter();
        let held: u64 =
            shares.map(|(name, bytes, _)| limits.get(name).unwrap() as u64 * bytes).sum();
        let replies = limits.control_connections * limits.control_replies_pause_bytes;
        let beyond = limits.queued_bytes / 8 + limits.answers_bytes / 8 * 5;
        held + (replies + beyond) as u64
    }

    #[test]
    fn the_least_bound_of_all_groups_around_it_counts() {
        let root = std::env::temp_dir().join(format!("fws-groups-{}", std::process::id()));
        let bound = |file: &str, text: &str| {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        bound("system.slice/fws.service/memory.max", "max\n");
        bound("system.slice/memory.max", "500\n");
        bound("user.slice/memory.max", "100\n");
        let of = |groups: &str| group_bytes(groups, &root);
        assert_eq!(of("0::/system.slice/fws.service\n"), Some(500));
        bound("system.slice/fws.service/memory.max", "400\n");
        assert_eq!(of("0::/system.slice/fws.service\n"), Some(400));
        assert_eq!(of("0::/other.slice\n"), None);
        // A container sees its own group as the root, under either version.
        bound("memory.max", "300\n");
        assert_eq!(of("0::/system.slice/fws.service\n"), Some(300));
        assert_eq!(of("0::/\n"), Some(300));
        bound("memory/memory.limit_in_bytes", "200\n");
        bound("memory/docker/a/memory.limit_in_bytes", "150\n");
        assert_eq!(of("12:cpu,cpuacct:/a\n11:memory:/docker/b\n"), Some(200));
        assert_eq!(of("11:hugetlb,memory:/docker/a\n0::/docker/a\n"), Some(150));
        assert_eq!(of(""), None);
        fs::remove_dir_all(root).unwrap();
    }

    /// As `docs/operations.md` says under *Sizing*.
    #[test]
    fn a_container_lets_in_as_many_browsers_as_the_docs_say() {
        let connections = |mib: u64| limits_in((mib << 20) - OWN_MEMORY).connections;
        assert_eq!([64, 256, 1024].map(connections), [2318, 13_449, 57_971]);
        assert!(connections(200) >= 10_000 && connections(1792) >= 100_000);
    }

    #[test]
    fn all_that_can_be_full_at_once_fits() {
        let mut before = Limits { connections: 0, ..Limits::default() };
        for mib in [24, 32, 48, 64, 100, 176, 432, 1000, 4096, 16_384] {
            let (room, limits) = (mib << 20, limits_in(mib << 20));
            let held = held(&limits);
            assert!(held <= room - room / WASTE, "{mib} MiB: {held} bytes");
            for (lower, higher) in ORDERED {
                assert!(limits.get(lower) <= limits.get(higher), "{mib} MiB: {lower}, {higher}");
            }
            // Nothing is less where there is more, and where there is least all of it is of use.
            assert!(limits.connections > before.connections, "{mib} MiB");
            assert!(limits.control_connections >= 8 && limits.connections >= 1000);
            assert!(limits.control_frame_bytes > 1 << 20 && limits.grants > 400);
            let names = 2 * limits.name_bytes;
            let share = limits.states_bytes / 9 * 8;
            assert!(limits.state_bytes + names <= share, "{mib} MiB");
            assert!(limits.sessions_unauthenticated <= limits.sessions, "{mib} MiB");
            assert!(limits.admissions_burst <= limits.sessions.div_ceil(2), "{mib} MiB");
            before = limits;
        }
        let share = |name| SHARES.iter().find(|(other, ..)| *other == name).unwrap().2;
        let (queued, answers) = (share("queued_bytes"), share("answers_bytes"));
        let beyond = (queued + 5 * answers).div_ceil(8);
        assert_eq!(SHARES.iter().map(|(.., share)| share).sum::<u64>() + REPLIES + beyond, 1000);
        let limits = limits_in(176 << 20);
        let whole = Limits::default();
        assert_eq!(limits.control_frame_bytes, whole.control_frame_bytes);
        assert!(limits.connections >= 10_000 && limits.state_bytes == whole.state_bytes);
        let ample = limits_in(1 << 50);
        assert_eq!(ample, whole, "where there is enough nothing is lowered");
    }
}
