//! `fws info`: who is there.

use serde_json::{Value, json};

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, JSON, KEY};
use super::output::{out, out_json};
use super::session::{Body, Session, count, named};
use super::{Call, Command, Stop};

pub(super) const COMMAND: Command = Command {
    name: "info",
    summary: "show who has subscribed to a channel",
    usage: &["NAME CHANNEL [OPTION…]"],
    about: "\
Prints how many users and connections there are in the channel, and then, one
a line, the id of each connection and its user.",
    flags: &[JSON, KEY, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws info shop news", "who listens to `news`"),
        ("fws info shop news --json | jq -r '.members[].user' | sort -u", "its users alone"),
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
        Some(_) => out_json(&presence),
        None => out(&in_words(&presence)),
    }
}

/// What the reply says: `false` or three fields (protocol part 4, channelInfo).
fn presence(reply: &str) -> Option<Value> {
    let reply: Value = serde_json::from_str(reply).ok()?;
    if reply == false {
        return Some(json!({"users": 0, "connections": 0, "members": []}));
    }
    let number = |name: &str| reply.get(name)?.as_i64();
    let members = reply.get("connId_UserId")?.as_object()?.iter();
    Some(json!({
        "users": number("countUser")?,
        "connections": number("countConnection")?,
        "members": members.map(|(id, user)| json!({"id": id, "user": user})).collect::<Vec<_>>(),
    }))
}

fn in_words(presence: &Value) -> String {
    let number = |name: &str, thing| count(presence[name].as_i64().unwrap_or_default(), thing);
    let (users, connections) = (number("users", "user"), number("connections", "connection"));
    let mut text = format!("{users}, {connections}\n");
    for member in presence["members"].as_array().into_iter().flatten() {
        let word = |name: &str| match &member[name] {
            Value::String(word) => word.escape_debug().to_string(),
            other => other.to_string(),
        };
        text.push_str(&format!("{}\t{}\n", word("id"), word("user")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_in_words() {
        let reply = r#"{"countUser":1,"countConnection":2,"connId_UserId":{"a":"5","b":"5\n"}}"#;
        let words = |reply| presence(reply).map(|it| in_words(&it));
        assert_eq!(words(reply).unwrap(), "1 user, 2 connections\na\t5\nb\t5\\n\n");
        assert_eq!(words("false").unwrap(), "0 users, 0 connections\n");
        assert_eq!(words("{}"), None);
    }
}
