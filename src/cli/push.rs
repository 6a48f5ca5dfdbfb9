//! `fws push`: appends to a state that is a list.

use super::output::out;
use super::{Call, Command, Stop, set};

pub(super) const COMMAND: Command = Command {
    name: "push",
    summary: "append to the state of a channel",
    usage: &["NAME CHANNEL DATA [OPTION…]"],
    about: "\
Appends DATA to a state that is a list; a missing state counts as an empty list.
A browser gets the whole list as soon as it subscribes; with --emit, current
subscribers get only the new element. If there are too many elements (limits
list_items and state_bytes), the oldest are dropped. The last time to live that
was given applies to the whole list.

DATA is JSON. Text that is not JSON is sent as a string; `-` reads it from
standard input.",
    flags: set::FLAGS,
    examples: &[
        ("fws push shop log 'door opened' --emit", "one more line for everybody"),
        ("fws push shop @seen 4711 --user 5 --ttl 86400", "for user 5, for a day from now on"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let (_, emits) = set::change(call, "push")?;
    out(if emits { "appended and sent\n" } else { "appended\n" })
}
