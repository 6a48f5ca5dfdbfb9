//! `fws bench`: puts load on a server, and prints what it measured.

#[cfg(feature = "bench")]
mod plan;
#[cfg(feature = "bench")]
mod table;

use super::flags::{
    AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_WS, AT_WS_UNIX, Flag, KEY, ORIGIN,
};
use super::{Call, Command, Stop};

const TO: Flag = Flag {
    name: "to",
    value: "PROTOCOL",
    about: "fws, sockjs, xhr-streaming, or another server, see above (fws)",
};
const NAMESPACE: Flag =
    Flag { name: "namespace", value: "NAME", about: "the namespace to use (demo)" };
const SUBSCRIBERS: Flag =
    Flag { name: "subscribers", value: "N", about: "how many subscribe (1000)" };
const BYTES: Flag = Flag { name: "bytes", value: "N", about: "length of a message or value (128)" };
const IN_FLIGHT: Flag = Flag {
    name: "in-flight",
    value: "N",
    about: "how many at a time (16; unicast and control 64, churn 200)",
};
const PER_SECOND: Flag =
    Flag { name: "per-second", value: "N", about: "messages of rate and slow (50)" };
const CONNECTIONS: Flag =
    Flag { name: "connections", value: "N", about: "how many send commands (1)" };
const COMMAND_FLAG: Flag = Flag { name: "command", value: "WHAT", about: "set, get or emit (set)" };
const STALLED: Flag =
    Flag { name: "stalled", value: "N", about: "how many stop reading (1 % of them)" };
const OWN: Flag =
    Flag { name: "own-channel", value: "", about: "idle subscribers also have an @ channel each" };
const SECONDS: Flag = Flag { name: "seconds", value: "N", about: "how long to measure (3)" };
const WARM_UP: Flag = Flag { name: "warm-up", value: "N", about: "seconds before that (1)" };
const PID: Flag = Flag {
    name: "pid",
    value: "PID",
    about: "the server's process, to measure what it uses (none)",
};
const JSON: Flag = Flag { name: "json", value: "", about: "one JSON object, with every number" };

pub(super) const COMMAND: Command = Command {
    name: "bench",
    summary: "put load on a server and measure it",
    usage: &["WORKLOAD [OPTION…]"],
    about: "\
Workloads:
  broadcast  every message to all; the next one when the last subscriber has it
  unicast    every message to one user, each time another
  rate       so many messages a second to all, for latency
  slow       the same, and then some stop reading for as long again
  idle       subscribers that receive nothing: memory, also when they have gone
  churn      connect, authenticate, subscribe, close
  control    set, get or emit (to nobody), so many in flight on each connection

Every delivery and reply is checked. A run has no figures and exit code 1 if a
message is lost, duplicated, out of order or altered, if a command is refused or
has no reply, or if nothing that is waited for comes for 10 s. The latency of
every message published in the measured time counts, whenever it arrives.
With --pid, the server's processor time and memory are read from /proc, as far as
allowed: pss only by its own user and root. For exact figures give server and
bench a core each (taskset -c 0 fws serve …), and for idle start the server anew:
one that has had many clients still has their memory.

--to can also be topic (a plain server: text messages `sub TOPIC`, answered with
`ok`, and `pub TOPIC DATA`), nats, mqtt and nchan (subscribers over WebSocket at
--ws, publisher at --control; for nchan both at --ws, as /sub?id=… and
/pub?id=…), and redis (only control with set and get, at --control).

The states that control sets, 10,000 at most, stay in the namespace.",
    flags: &[
        TO,
        NAMESPACE,
        KEY,
        ORIGIN,
        SUBSCRIBERS,
        BYTES,
        IN_FLIGHT,
        PER_SECOND,
        CONNECTIONS,
        COMMAND_FLAG,
        STALLED,
        OWN,
        SECONDS,
        WARM_UP,
        PID,
        JSON,
        AT_WS,
        AT_WS_UNIX,
        AT_CONTROL,
        AT_CONTROL_UNIX,
        AT_DATA,
        AT_CONFIG,
    ],
    examples: &[
        (
            "fws bench broadcast --subscribers 10000 --pid $(pgrep -of 'fws serve')",
            "its highest throughput",
        ),
        ("fws bench rate --per-second 20", "how long a message takes"),
        (
            "fws bench control --command get --to redis --control 127.0.0.1:6379",
            "the same for Redis",
        ),
    ],
    run,
};

#[cfg(feature = "bench")]
fn run(call: &Call) -> Result<(), Stop> {
    plan::run(call)
}

#[cfg(not(feature = "bench"))]
fn run(call: &Call) -> Result<(), Stop> {
    let [_] = call.words()?;
    Err(Stop::Failed(
        "this fws was built without it: build one with `cargo build --release --features bench`"
            .into(),
    ))
}
