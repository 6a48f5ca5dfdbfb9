//! `fws disconnect`: closes all connections of a user.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, JSON, KEY};
use super::output::{out, out_json};
use super::session::{Body, Session, count, named};
use super::{Call, Command, Stop};
use crate::codec::json;

pub(super) const COMMAND: Command = Command {
    name: "disconnect",
    summary: "close all connections of a user",
    usage: &["NAME USER [OPTION…]"],
    about: "\
Closes every connection of USER in namespace NAME, and prints how many there were.
It does not keep the user from coming back with a valid token: first let the back
end make no more tokens for this user, and consider how long the last one is valid.",
    flags: &[JSON, KEY, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws disconnect shop 5", "close all connections of user 5"),
        ("fws disconnect shop bob --data /var/lib/fws", "with the key that is kept there"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name, user] = call.words()?;
    let user = Some(json::quote(named("user", user)?));
    let body = Body::new("disconnect").params(&[("userId", user)]);
    let reply = Session::open(call, name)?.command(body)?;
    let closed = json::members(&reply, &["count"]).ok().flatten().and_then(|[count]| count);
    let closed = closed.and_then(json::integer).ok_or_else(|| {
        Stop::Failed("this is no fws server: its reply has no number".to_string())
    })?;
    match call.flag(JSON.name) {
        Some(_) => out_json(&[("connections", closed.to_string())]),
        None => out(&format!("closed {}\n", count(closed, "connection"))),
    }
}
