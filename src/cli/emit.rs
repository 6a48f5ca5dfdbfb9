//! `fws emit`: a message to all subscribers of a channel.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, Flag, JSON, KEY, USER};
use super::output::{out, out_json};
use super::session::{self, Body, Session};
use super::{Call, Command, Stop};
use crate::codec::json;

const COUNT: Flag =
    Flag { name: "count", value: "", about: "print how many connections it reaches" };

const JSON_COUNT: Flag = Flag { about: "the same as one JSON object", ..JSON };

pub(super) const COMMAND: Command = Command {
    name: "emit",
    summary: "send a message to all subscribers",
    usage: &["NAME CHANNEL DATA [OPTION…]"],
    about: "\
Sends DATA to every connection that is subscribed to CHANNEL in namespace NAME.
Nothing is kept for users who are away; use `fws set` for that.

DATA is JSON. Text that is not JSON is sent as a string, so hello and
'\"hello\"' are the same; `-` reads it from standard input.",
    flags: &[USER, COUNT, JSON_COUNT, KEY, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws emit shop news '{\"text\":\"hello\"}' --count", "to all subscribers of `news`"),
        ("date | fws emit shop @inbox - --user 5", "the output of another program, only to user 5"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name, channel, data] = call.words()?;
    let is_json = call.flag(JSON.name).is_some();
    let count = (is_json || call.flag(COUNT.name).is_some()).then(|| "true".to_owned());
    let user = session::user(call)?;
    let data = session::data(data)?;
    let body = Body::new("emit")
        .text("channel", session::named("channel", channel)?)
        .raw("data", &data)
        .params(&[("userId", user.map(json::quote)), ("count", count)]);
    let reply = Session::open(call, name)?.command(body)?;
    let count = json::members(&reply, &["count"]).ok().flatten().and_then(|[count]| count);
    match count.and_then(json::integer) {
        count if is_json => {
            out_json(&[("connections", count.map_or("null".into(), |count| count.to_string()))])
        }
        Some(count) => out(&format!("sent to {}\n", session::count(count, "connection"))),
        None => out("sent\n"),
    }
}
