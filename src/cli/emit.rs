//! `fws emit`: a message to who is there.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, Flag, KEY, USER};
use super::output::out;
use super::session::{self, Body, Session};
use super::{Call, Command, Stop};
use crate::codec::json;

const COUNT: Flag = Flag { name: "count", value: "", about: "say how many connections it reaches" };

pub(super) const COMMAND: Command = Command {
    name: "emit",
    summary: "send a message to who has subscribed",
    usage: &["NAME CHANNEL DATA [OPTION…]"],
    about: "\
Sends DATA to every connection that has subscribed to CHANNEL in namespace
NAME. Nothing is kept for those who are away; `fws set` does that.

DATA is JSON. Text that is not JSON is sent as a string, so hello and
'\"hello\"' are the same; `-` reads it from standard input.",
    flags: &[USER, COUNT, KEY, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws emit shop news '{\"text\":\"hello\"}' --count", "to everybody who listens to `news`"),
        ("date | fws emit shop @inbox - --user 5", "what another program says, to user 5 alone"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name, channel, data] = call.words()?;
    let (user, count) = (session::user(call)?, call.flag(COUNT.name));
    let data = session::data(data)?;
    let body = Body::new("emit")
        .text("channel", session::named("channel", channel)?)
        .raw("data", &data)
        .params(&[("userId", user.map(json::quote)), ("count", count.map(String::from))]);
    let reply = Session::open(call, name)?.command(body)?;
    let count = json::members(&reply, &["count"]).ok().flatten().and_then(|[count]| count);
    match count.and_then(json::integer) {
        Some(count) => out(&format!("sent to {}\n", session::count(count, "connection"))),
        None => out("sent\n"),
    }
}
