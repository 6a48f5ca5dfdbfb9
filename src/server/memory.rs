//! Limits that nobody set, where the process may have little memory: what strangers can make the
//! server hold must fit, because a program whose memory runs out is ended. Called by the server's
//! start, before anything is made by these limits, and at each reload.

use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::config::{Config, Source};
use crate::limits::Limits;

/// Address space that code, stacks and the allocator's own ways take, and memory that they do.
const OWN_SPACE: u64 = 96 << 20;
const OWN_MEMORY: u64 = 24 << 20;
/// Memory of a session, and of a state beside its bytes.
const SESSION_BYTES: u64 = 1024;
const STATE_BYTES: u64 = 256;
/// Memory of a subscription to a channel of its own, with a long name.
const SUBSCRIPTION_BYTES: u64 = 450;
/// Memory of a grant with long names.
const GRANT_BYTES: u64 = 650;
/// So many connections are not given up for larger requests.
const CONNECTIONS: u64 = 10_000;
/// No less than this for the body of a request.
const BODY_BYTES: u64 = 4096;

/// Lowers what nobody set as far as it takes, which is nothing where there is enough. Returns what
/// is said of that, in one line.
pub fn fit(config: &mut Config) -> Option<String> {
    let (most, own) = memory()?;
    let room = most.saturating_sub(own).max(OWN_MEMORY);
    let mut lowered = Vec::new();
    let wanted = limits_for(room, &config.limits);
    for (name, value) in wanted {
        let (value, now) = (usize::try_from(value).unwrap_or(usize::MAX), config.limits.get(name));
        let is_less = now.is_some_and(|now| value < now);
        if is_less && config.limit_source(name) == Source::Default {
            // A value out of bounds is one that is too low for any use.
            if config.limits.set(name, value).is_ok() {
                lowered.push(format!("{name} is {value}"));
            }
        }
    }
    let mib = most >> 20;
    (!lowered.is_empty())
        .then(|| format!("this process may have {mib} MiB of memory, so {}", lowered.join(", ")))
}

/// What fits into so much room: half of it is for what strangers have sent and not finished.
fn limits_for(room: u64, limits: &Limits) -> [(&'static str, u64); 13] {
    let input = room / 2;
    let body = (input / CONNECTIONS).max(BODY_BYTES).min(limits.http_body_bytes as u64);
    let grants = room / 16 / GRANT_BYTES;
    let connection = body.max(limits.http_head_bytes as u64);
    [
        ("http_body_bytes", body),
        ("connections", input / connection),
        ("sessions", room / 8 / SESSION_BYTES),
        ("subscriptions", room / 6 / SUBSCRIPTION_BYTES),
        ("grants", grants),
        // One tenant does not take what is there for all.
        ("grants_per_namespace", grants / 2),
        ("states_bytes", room / 8),
        ("states", room / 8 / STATE_BYTES),
        ("store_pending_bytes", room / 8),
        ("answers_bytes", room / 4),
        ("queued_bytes", room / 4),
        ("publication_bytes", room / 4),
        ("control_input_bytes", (room / 8).max(limits.control_frame_bytes as u64)),
    ]
}

/// How much this process may have, and what of it is gone before anybody comes; `None` if nothing
/// bounds it.
fn memory() -> Option<(u64, u64)> {
    let space = getrlimit(Resource::As).current.map(|bytes| (bytes, OWN_SPACE));
    let group = group_bytes().map(|bytes| (bytes, OWN_MEMORY));
    [space, group].into_iter().flatten().min_by_key(|(most, own)| most.saturating_sub(*own))
}

/// The bound of the control group that this process is in, if it is known.
fn group_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let file = format!("/sys/fs/cgroup{}/memory.max", path.trim_end_matches('/'));
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_fits() {
        for mib in [16, 64, 160, 512, 1024, 16_384] {
            let room = mib << 20;
            let limits = Limits::default();
            let found = limits_for(room, &limits);
            let get = |name: &str| found.iter().find(|(other, _)| *other == name).unwrap().1;
            let connections = get("connections").min(limits.connections as u64);
            assert!(get("control_input_bytes") >= limits.control_frame_bytes as u64);
            let each = get("http_body_bytes").max(limits.http_head_bytes as u64);
            assert!(connections * each <= room / 2, "{mib} MiB");
            // What is there for as long as whoever has brought it likes.
            let held = connections * each
                + get("states_bytes")
                + get("sessions") * SESSION_BYTES
                + get("subscriptions") * SUBSCRIPTION_BYTES
                + get("grants") * GRANT_BYTES;
            assert!(held <= room, "{mib} MiB: {held} bytes");
            for (name, low, ..) in Limits::TABLE {
                let value = found.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
                assert!(value.is_none_or(|value| value >= *low as u64), "{mib} MiB: {name}");
            }
        }
        let found = limits_for(160 << 20, &Limits::default());
        assert_eq!(found[..2], [("http_body_bytes", 8388), ("connections", 10_000)]);
    }
}
