//! `fws grant`: lets a user join a private channel.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, Flag, KEY};
use super::output::{out, printable};
use super::session::{Body, Session, named};
use super::{Call, Command, Stop};
use crate::codec::json;

pub(super) const FLAGS: &[Flag] = &[KEY, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG];

pub(super) const COMMAND: Command = Command {
    name: "grant",
    summary: "let a user join a private channel",
    usage: &["NAME CHANNEL USER [OPTION…]"],
    about: "\
A channel whose name begins with # is private: only users with a grant may
join it. A grant subscribes nobody: a browser that was refused before must try
again. Most shells need quotes around #.",
    flags: FLAGS,
    examples: &[
        ("fws grant shop '#vip' 5", "user 5 may join `#vip`"),
        ("fws grant shop '#vip' bob --control fws.internal:8085", "the same on another machine"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name, channel, user] = call.words()?;
    change(call, "subscribe", name, channel, user)?;
    out(&format!("user {} may join {}\n", printable(user), printable(channel)))
}

/// Grants or revokes: `subscribe` or `unsubscribe` on the control port.
pub(super) fn change(
    call: &Call,
    action: &str,
    name: &str,
    channel: &str,
    user: &str,
) -> Result<(), Stop> {
    if !named("channel", channel)?.starts_with('#') {
        return Err(Stop::Usage(format!(
            "{channel:?} is open to all users: the name of a private channel begins with #"
        )));
    }
    let user = Some(json::quote(named("user", user)?));
    let body = Body::new(action).text("channel", channel).params(&[("userId", user)]);
    Session::open(call, name)?.command(body).map(drop)
}
