//! `fws info`: who is there.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, KEY};
use super::output::out;
use super::session::{Body, Session, count, named};
use super::{Call, Command, Stop};

pub(super) const COMMAND: Command = Command {
    name: "info",
    summary: "show who has subscribed to a channel",
    usage: &["NAME CHANNEL [OPTION…]"],
    about: "\
Prints how many users and connections there are in the channel, and then, one
a line, the id of each connection and its user.",
    flags: &[KEY, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws info shop news", "who listens to `news`"),
        ("fws info shop news | tail -n +2 | cut -f 2 | sort -u", "its users alone"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name, channel] = call.words()?;
    let body = Body::new("channelInfo").text("channel", named("channel", channel)?);
    let reply = Session::open(call, name)?.command(body)?;
    out(&describe(&reply).ok_or_else(|| {
        Stop::Failed("this is no fws server: its reply has no numbers".to_string())
    })?)
}

/// The reply in words: `false` or three fields (protocol part 4, channelInfo).
fn describe(reply: &str) -> Option<String> {
    let reply: serde_json::Value = serde_json::from_str(reply).ok()?;
    if reply == false {
        return Some("0 users, 0 connections\n".into());
    }
    let number = |name: &str| reply.get(name)?.as_i64();
    let users = count(number("countUser")?, "user");
    let connections = count(number("countConnection")?, "connection");
    let mut text = format!("{users}, {connections}\n");
    for (id, user) in reply.get("connId_UserId")?.as_object()? {
        let user = user.as_str().map_or_else(|| user.to_string(), str::to_string);
        text.push_str(&format!("{}\t{}\n", id.escape_debug(), user.escape_debug()));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_in_words() {
        let reply = r#"{"countUser":1,"countConnection":2,"connId_UserId":{"a":"5","b":"5\n"}}"#;
        assert_eq!(describe(reply).unwrap(), "1 user, 2 connections\na\t5\nb\t5\\n\n");
        assert_eq!(describe("false").unwrap(), "0 users, 0 connections\n");
        assert_eq!(describe("{}"), None);
    }
}
