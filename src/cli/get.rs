//! `fws get`: prints the state of a channel.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, KEY, USER};
use super::output::{out, printable_json};
use super::session::{self, Body, Session};
use super::{Call, Command, Stop};
use crate::codec::json;

/// The code of a refusal when the store cannot be written (protocol part 3).
const STORE_FAILED: i64 = 302;

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
    let channel = session::named("channel", channel)?;
    let user_id = || user.map(json::quote);
    let body = || Body::new("get").text("channel", channel).params(&[("userId", user_id())]);
    let mut session = Session::open(call, name)?;
    let mut state = session.ask(body())?;
    if let Some((STORE_FAILED, _)) = session::refusal(&state) {
        // The change that it would have shown is lost, so now there is what was there before. Or
        // this is a state: then it is there again.
        state = session.ask(body())?;
    }
    if let Some((code, reason)) = session::refusal(&state) {
        // A stored state may look like a refusal. After a good auth only an invalid name is always
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
