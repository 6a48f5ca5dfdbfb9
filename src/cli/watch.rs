//! `fws watch`: subscribes as a browser does, and prints what arrives.

use super::flags::{AT_CONFIG, AT_DATA, AT_WS, AT_WS_UNIX, Flag, JSON, KEY, ORIGIN};
use super::output::{end_with_reader, out, printable, printable_json, tell};
use super::session::{auth_message, named, namespace_key, origin, web_address};
use super::{Call, Command, Stop};
use crate::client::{ANSWER_MS, ClientError, Message, Socket};
use crate::codec::{json, jwt};

/// Silence, in milliseconds, after which we ping the server, whose heartbeats come more often.
const SILENCE_MS: u64 = 60_000;

/// The default user.
const WATCH: &str = "watch";

const USER: Flag = Flag {
    name: "user",
    value: "USER",
    about: "the user to connect as, for @ and # channels (watch)",
};
const COUNT: Flag = Flag { name: "count", value: "N", about: "exit after N messages (never)" };
const JSON_LINES: Flag = Flag { about: "one JSON object a line: channel and data", ..JSON };

pub(super) const COMMAND: Command = Command {
    name: "watch",
    summary: "subscribe to channels and print what comes",
    usage: &["NAME CHANNEL… [OPTION…]"],
    about: "\
Connects as a browser does, with a token it makes itself, and prints one line
per message: the channel, a tab, and the data as JSON; first the state of each
channel, if there is one. Runs until Ctrl-C, until --count messages have come, or
until nobody reads its output.

Exit code 1 if the server refuses a channel or the connection is lost.",
    flags: &[USER, COUNT, JSON_LINES, ORIGIN, KEY, AT_WS, AT_WS_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws watch shop news price", "two channels of `shop`"),
        ("fws watch shop '#vip' --user 5 --count 1", "wait for one message to user 5"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let (name, channels) = match call.words.split_first() {
        Some((name, channels)) if !channels.is_empty() => (name, channels),
        _ => return Err(call.misused()),
    };
    let user = match call.flag(USER.name) {
        Some("") => return Err(Stop::Usage("--user: the name of the user is empty".into())),
        user => user.unwrap_or(WATCH),
    };
    channels.iter().try_for_each(|channel| named("channel", channel).map(drop))?;
    let (mut left, origin) = (messages(call)?, origin(call)?);
    let config = call.client_config()?;
    let key = namespace_key(call, &config, name)?;
    let address = web_address(call, &config)?;
    end_with_reader()?;
    let form = if call.flag(JSON.name).is_some() { json_line } else { line };
    let mut socket = Socket::connect(&address, origin).map_err(|e| match e {
        ClientError::Connect(..) => failed(e),
        ClientError::Lost => Stop::Failed(format!(
            "{address}: it closed without an answer, as the port for back ends does; --ws takes \
             the port for browsers"
        )),
        e => Stop::Failed(format!("{address}: {e}")),
    })?;
    let token = jwt::sign(user, key.key.expose(), None);
    authenticate(&mut socket, name, &token, &key.origin)?;
    for (i, channel) in channels.iter().enumerate() {
        let channel = json::quote(channel);
        let message = format!("{{\"event\":\"subscribe\",\"data\":{channel},\"clb\":{i}}}");
        socket.send(message.as_bytes()).map_err(failed)?;
    }
    while left > 0 {
        if show(&receive(&mut socket)?, channels, form)? {
            left -= 1;
        }
    }
    Ok(())
}

/// How many messages to print.
fn messages(call: &Call) -> Result<u64, Stop> {
    let Some(text) = call.flag(COUNT.name) else { return Ok(u64::MAX) };
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| Stop::Usage(format!("--{}: {text:?} is not a number from 1 on", COUNT.name)))
}

fn failed(e: ClientError) -> Stop {
    Stop::Failed(e.to_string())
}

fn authenticate(
    socket: &mut Socket,
    namespace: &str,
    token: &str,
    key_from: &str,
) -> Result<(), Stop> {
    socket.send(auth_message(namespace, token).as_bytes()).map_err(failed)?;
    match socket.next_within(ANSWER_MS).map_err(failed)? {
        None => Err(failed(ClientError::Silence)),
        Some(Message::Text(text)) if event(&text).is_some_and(|it| it.name == "auth ok") => Ok(()),
        Some(Message::Text(_) | Message::Pong) => {
            Err(failed(ClientError::Foreign("it does not answer to auth".into())))
        }
        Some(Message::Closed(code, reason)) => Err(Stop::Failed(format!(
            "the server refuses us: {code} {}{}",
            reason,
            match reason.as_str() {
                "invalid JWT" => format!(" (is the key from {key_from} the right one?)"),
                "site id not registered" => {
                    format!(" (make the namespace with `fws register {namespace}`)")
                }
                _ => String::new(),
            }
        ))),
    }
}

/// The next message, however long it takes, while the server shows signs of life.
fn receive(socket: &mut Socket) -> Result<String, Stop> {
    loop {
        let message = match socket.next(SILENCE_MS).map_err(lost)? {
            Some(message) => message,
            None => {
                socket.ping().map_err(lost)?;
                socket.next(ANSWER_MS).map_err(lost)?.ok_or_else(|| lost(ClientError::Silence))?
            }
        };
        match message {
            Message::Text(text) => return Ok(text),
            Message::Pong => {}
            Message::Closed(code, reason) => {
                return Err(Stop::Failed(format!("the server has closed: {code} {reason}")));
            }
        }
    }
}

fn lost(e: ClientError) -> Stop {
    Stop::Failed(match e {
        ClientError::Lost => "the connection is lost".into(),
        ClientError::Silence => "the connection is lost: the server is silent".into(),
        e => e.to_string(),
    })
}

/// Prints a publication or state and returns `true`; reports the reply to a subscribe.
fn show(message: &str, channels: &[String], form: fn(&str, &str) -> String) -> Result<bool, Stop> {
    let Some(Event { name, data, clb }) = event(message) else {
        return Err(failed(ClientError::Foreign("a message of it has no event".into())));
    };
    let asked = clb.and_then(|clb| channels.get(usize::try_from(clb).ok()?));
    let Some(channel) = asked else {
        return out(&form(&name, data)).map(|()| true);
    };
    match json::members(data, &["ok", "reason"]) {
        Ok(Some([Some("true"), _])) => tell(&format!("subscribed to {channel}")),
        Ok(Some([_, reason])) => {
            let reason = reason.and_then(json::string).unwrap_or_default();
            let hint = match reason.as_ref() {
                "no grant" => {
                    " (`fws grant` gives one to a user, and --user connects as that user)"
                }
                _ => "",
            };
            return Err(Stop::Failed(format!("the server refuses {channel}: {reason}{hint}")));
        }
        _ => return Err(failed(ClientError::Foreign("its answer is none".into()))),
    }
    Ok(false)
}

/// One line, whatever control characters the channel has and however the JSON is laid out.
fn line(channel: &str, data: &str) -> String {
    format!("{}\t{}\n", printable(channel), on_one_line(data))
}

fn json_line(channel: &str, data: &str) -> String {
    on_one_line(&format!("{{\"channel\":{},\"data\":{data}}}", json::quote(channel))) + "\n"
}

fn on_one_line(data: &str) -> String {
    // JSON allows line ends only between tokens.
    printable_json(data).replace('\n', " ")
}

/// A message of the server (protocol part 7).
struct Event<'a> {
    name: String,
    data: &'a str,
    /// The number of the request that it replies to.
    clb: Option<i64>,
}

fn event(message: &str) -> Option<Event<'_>> {
    // A state that `push` has appended to is as deep as a command; the message is one level deeper.
    let members = json::members_within(message, &["event", "data", "clb"], json::DEPTH_MAX + 1);
    let [name, data, clb] = members.ok()??;
    let name = json::text(name?)?.into_owned();
    Some(Event { name, data: data.unwrap_or("null"), clb: clb.and_then(json::integer) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_printed_as_one_line() {
        let message = "{\"event\":\"a\\tb\\u001b\",\"data\":{\"x\":\n1.0}}";
        let Event { name, data, clb } = event(message).unwrap();
        assert_eq!((line(&name, data).as_str(), clb), ("a\\tb\\u{1b}\t{\"x\": 1.0}\n", None));
        let object = "{\"channel\":\"a\\tb\\u001b\",\"data\":{\"x\": 1.0}}\n";
        assert_eq!(json_line(&name, data), object);
        assert_eq!(event(r#"{"event":5,"data":1}"#).unwrap().name, "5");
        assert!(event("[]").is_none() && event(r#"{"data":1}"#).is_none());
    }

    #[test]
    fn a_refused_subscription_ends_the_watch() {
        let channels = ["a".to_string(), "#vip".to_string()];
        let answer = |data: &str| {
            let message = format!(r#"{{"event":"callBackAnswer","clb":1,"data":{data}}}"#);
            show(&message, &channels, line)
        };
        assert_eq!(answer(r#"{"ok":true}"#), Ok(false));
        let refused = Stop::Failed("the server refuses #vip: too many channels, at most 1".into());
        let reason = r#"{"ok":false,"reason":"too many channels, at most 1"}"#;
        assert_eq!(answer(reason), Err(refused));
        let Err(Stop::Failed(text)) = answer(r#"{"ok":false,"reason":"no grant"}"#) else {
            panic!("a refusal ends it")
        };
        assert!(text.starts_with("the server refuses #vip: no grant (`fws grant`"), "{text}");
        assert!(answer("5").is_err());
    }
}
