//! `fws info`: who is subscribed to a channel.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, JSON, KEY};
use super::output::{array, object, out, out_json};
use super::session::{Body, Session, count, named};
use super::{Call, Command, Stop};
use crate::codec::json;

pub(super) const COMMAND: Command = Command {
    name: "info",
    summary: "show who is subscribed to a channel",
    usage: &["NAME CHANNEL [OPTION…]"],
    about: "\
Prints how many users and connections there are in the channel, and then a line
for each connection, with its id and its user.",
    flags: &[JSON, KEY, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws info shop news", "who is subscribed to `news`"),
        ("fws info shop news --json | jq -r '.members[].user' | sort -u", "only its users"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name, channel] = call.words()?;
    let body = Body::new("channelInfo").text("channel", named("channel", channel)?);
    let reply = Session::open(call, name)?.command(body)?;
    let presence = presence(&reply).ok_or_else(|| {
        Stop::Failed("this is no fws server: its reply has no numbers".to_string())
    })?;
    match call.flag(JSON.name) {
        Some(_) => out_json(&presence.members()),
        None => out(&presence.in_words()),
    }
}

/// The subscribers of a channel.
struct Presence {
    users: i64,
    connections: i64,
    /// Each connection's id with its user, as JSON.
    each: Vec<(String, String)>,
}

/// Parses the reply (protocol part 4, channelInfo).
fn presence(reply: &str) -> Option<Presence> {
    let names = &["countUser", "countConnection", "connId_UserId"];
    let [users, connections, ids] = json::members(reply, names).ok()??;
    let mut each = Vec::new();
    let is_object = json::each_member(ids?, json::DEPTH_MAX, |id, user| {
        each.push((String::from_utf8_lossy(id).into_owned(), user.get().to_owned()));
    });
    let (users, connections) = (json::integer(users?)?, json::integer(connections?)?);
    is_object.ok()?.then_some(Presence { users, connections, each })
}

impl Presence {
    fn members(&self) -> [(&'static str, String); 3] {
        let each = |(id, user): &(String, String)| {
            object(&[("id", json::quote(id)), ("user", user.clone())])
        };
        [
            ("users", self.users.to_string()),
            ("connections", self.connections.to_string()),
            ("members", array(self.each.iter().map(each))),
        ]
    }

    fn in_words(&self) -> String {
        let (users, connections) =
            (count(self.users, "user"), count(self.connections, "connection"));
        let mut text = format!("{users}, {connections}\n");
        for (id, user) in &self.each {
            let user = json::string(user.as_str()).unwrap_or(user.into());
            text.push_str(&format!("{}\t{}\n", id.escape_debug(), user.escape_debug()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presence_replies_are_shown_as_text() {
        let reply = r#"{"countUser":1,"countConnection":2,"connId_UserId":{"a":"5","b":"5\n"}}"#;
        let words = |reply| presence(reply).map(|it| it.in_words());
        assert_eq!(words(reply).unwrap(), "1 user, 2 connections\na\t5\nb\t5\\n\n");
        assert_eq!(words("false"), None);
        assert_eq!(words("{}"), None);
    }
}
