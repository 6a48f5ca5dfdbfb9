//! `fws get`: prints the state of a channel.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, KEY, USER};
use super::output::{out, printable_json};
use super::session::{self, Body, Session};
use super::{Call, Command, Stop};
use crate::codec::json;

pub(super) const COMMAND: Command = Command {
    name: "get",
    summary: "print the state of a channel",
    usage: &["NAME CHANNEL [OPTION…]"],
    about: "\
Prints the state that `fws set` or a back end has set, as JSON, or null if there
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
    let user = session::user(call)?;
    let body = Body::new("get")
        .text("channel", session::named("channel", channel)?)
        .params(&[("userId", user.map(json::quote))]);
    let mut session = Session::open(call, name)?;
    let state = session.ask(body)?;
    if let Some((code, reason)) = session::refusal(&state) {
        // A stored state may look like a refusal. After a good auth only an invalid name is
        // refused, and `channelInfo`, whose replies are never states, refuses it too.
        for name in [Some(channel), user].into_iter().flatten() {
            let info = session.ask(Body::new("channelInfo").text("channel", name))?;
            if session::refusal(&info).is_some() {
                return Err(session::refused(code, &reason));
            }
        }
    }
    out(&(printable_json(&state) + "\n"))
}
