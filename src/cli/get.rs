//! `fws get`: the state of a channel.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, KEY, USER};
use super::output::out;
use super::session::{self, Body, Session};
use super::{Call, Command, Stop};

pub(super) const COMMAND: Command = Command {
    name: "get",
    summary: "print the state of a channel",
    usage: &["NAME CHANNEL [OPTION…]"],
    about: "\
Prints the state that `fws set` or a back end has set, as JSON; null if there
is none.",
    flags: &[USER, KEY, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws get shop price", "the state of `price`"),
        ("fws get shop @cart --user 5", "the state of user 5 in `@cart`"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name, channel] = call.words()?;
    let params = match session::user(call)? {
        Some(user) => format!("{{\"userId\":{}}}", session::quote(user)),
        None => "{}".into(),
    };
    let body = Body::new("get").text("channel", channel).raw("params", &params);
    // A state may look like an error reply, and after a good auth there is none to expect.
    let state = Session::open(call, name)?.ask(body)?;
    out(&(state + "\n"))
}
