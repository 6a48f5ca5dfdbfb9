//! `fws set`: sets the state of a channel.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, Flag, KEY, USER};
use super::output::{out, tell};
use super::session::{self, Body, Session};
use super::{Call, Command, Stop};
use crate::codec::json;

const TTL: Flag =
    Flag { name: "ttl", value: "SECONDS", about: "time after which the state expires (never)" };
const EMIT: Flag = Flag { name: "emit", value: "", about: "also send it to current subscribers" };

pub(super) const FLAGS: &[Flag] =
    &[USER, TTL, EMIT, KEY, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG];

pub(super) const COMMAND: Command = Command {
    name: "set",
    summary: "set the state of a channel",
    usage: &["NAME CHANNEL DATA [OPTION…]"],
    about: "\
The state is what a browser gets as soon as it subscribes. Setting it replaces
the previous state and its time to live; the DATA null removes it. In a channel
@name each user has their own state: give --user.

DATA is JSON. Text that is not JSON is sent as a string; `-` reads it from
standard input.",
    flags: FLAGS,
    examples: &[
        ("fws set shop price 9.90 --emit", "to all subscribers now, and to later ones first"),
        ("fws set shop @cart '[1,2]' --user 5 --ttl 3600", "for user 5, for an hour"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let (data, emits) = change(call, "set")?;
    out(match (data.as_str(), emits) {
        ("null", false) => "removed\n",
        ("null", true) => "removed, and null sent\n",
        (_, false) => "set\n",
        (_, true) => "set and sent\n",
    })
}

/// Changes a state: `set` or `push` on the control port. Returns the data, and whether it was
/// published too.
pub(super) fn change(call: &Call, action: &str) -> Result<(String, bool), Stop> {
    let [name, channel, data] = call.words()?;
    let (user, ttl) = (session::user(call)?, session::seconds(call, TTL.name)?);
    let emit = call.flag(EMIT.name).map(String::from);
    let (data, emits) = (session::data(data)?, emit.is_some());
    let body = Body::new(action)
        .text("channel", session::named("channel", channel)?)
        .raw("data", &data)
        .params(&[
            ("userId", user.map(json::quote)),
            ("ttl", ttl.map(|ttl| ttl.to_string())),
            ("emit", emit),
        ]);
    Session::open(call, name)?.command(body)?;
    let (is_personal, has_user) = (channel.starts_with('@'), session::user(call)?.is_some());
    if is_personal != has_user && data != "null" {
        let why = match is_personal {
            true => "in an @ channel each user has a state, and --user says whose this is",
            false => "users have states of their own in @ channels alone",
        };
        tell(&format!("warning: nobody who subscribes is sent this state: {why}"));
    }
    Ok((data, emits))
}
