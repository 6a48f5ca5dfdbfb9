//! What the commands share that use the control port: its address, the namespace's key, and the
//! meaning of replies.

use std::fmt::Display;
use std::io::Read;
use std::net::Ipv6Addr;
use std::path::Path;

use super::flags::{self, Flag};
use super::{Call, Stop, output::tell, owner};
use crate::client::{Address, ClientError, Control};
use crate::codec::json;
use crate::config::{Config, NAMESPACE_KEY, Secret, check_page};
use crate::keys;

/// Most read from standard input, in bytes: no server limit allows more.
const INPUT_BYTES: u64 = 1 << 30;

/// A body larger than this, in bytes, may be why the server closed the connection.
const LARGE_BYTES: usize = 1 << 20;

/// A control connection.
pub(super) struct Session {
    control: Control,
    address: Address,
}

/// A key, and where it was found.
pub(super) struct Key {
    pub key: Secret,
    pub origin: String,
}

/// The JSON fields of a command, written one by one.
pub(super) struct Body(Vec<u8>);

impl Body {
    /// A command without fields.
    pub fn new(action: &str) -> Body {
        Body(b"{\"action\":".to_vec()).quoted(action)
    }

    /// Adds a field with a text.
    pub fn text(self, name: &str, value: &str) -> Body {
        self.name(name).quoted(value)
    }

    /// Adds a field that is already JSON.
    pub fn raw(mut self, name: &str, value: &str) -> Body {
        self = self.name(name);
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    /// Adds the field `params`: an object of those members that have a value, which is already
    /// JSON.
    pub fn params(self, members: &[(&str, Option<String>)]) -> Body {
        let given = members.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        let given: Vec<String> = given.map(|(name, value)| format!("\"{name}\":{value}")).collect();
        self.raw("params", &format!("{{{}}}", given.join(",")))
    }

    fn name(mut self, name: &str) -> Body {
        self.0.push(b',');
        self = self.quoted(name);
        self.0.push(b':');
        self
    }

    fn quoted(mut self, text: &str) -> Body {
        json::quote_into(&mut self.0, text);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// The auth message of a browser.
pub(super) fn auth_message(namespace: &str, token: &str) -> String {
    let (i, s) = (json::quote(namespace), json::quote(token));
    format!("{{\"event\":\"auth\",\"data\":{{\"i\":{i},\"s\":{s}}}}}")
}

impl Session {
    /// Connects without authenticating.
    pub fn connect(call: &Call, config: &Config) -> Result<Session, Stop> {
        let address = control_address(call, config)?;
        let control = Control::connect(&address).map_err(|e| Stop::Failed(e.to_string()))?;
        Ok(Session { control, address })
    }

    /// Connects and authenticates for the namespace.
    pub fn open(call: &Call, namespace: &str) -> Result<Session, Stop> {
        let config = call.client_config()?;
        let Key { key, origin } = namespace_key(call, &config, namespace)?;
        let mut session = Session::connect(call, &config)?;
        let auth = Body::new("auth").text("name", namespace).text("sKey", key.expose());
        let reply = session.ask(auth)?;
        match refusal(&reply) {
            None => Ok(session),
            Some((305, _)) => Err(Stop::Failed(format!(
                "the key from {origin} does not open namespace {namespace:?}; give the right one \
                 with --key or {NAMESPACE_KEY}"
            ))),
            Some((404, _)) => Err(Stop::Failed(format!(
                "there is no namespace {namespace:?}; make it with `fws register {namespace}`"
            ))),
            Some((code, reason)) => Err(refused(code, &reason)),
        }
    }

    /// Sends a command; returns the body of its reply, be it an error.
    pub fn ask(&mut self, body: Body) -> Result<String, Stop> {
        self.ask_once(body, "")
    }

    /// The same; `unsure` is the end of the error if the command may have been carried out without
    /// a reply.
    pub fn ask_once(&mut self, body: Body, unsure: &str) -> Result<String, Stop> {
        let body = body.finish();
        self.control.ask(&body).map_err(|e| {
            let hint = match e {
                ClientError::Lost if body.len() > LARGE_BYTES => {
                    " (is it over the limit control_frame_bytes?)"
                }
                ClientError::Lost | ClientError::Silence => unsure,
                _ => "",
            };
            Stop::Failed(format!("{}: {e}{hint}", self.address))
        })
    }

    /// Sends a command; returns the body of its reply, or fails if the server refuses.
    pub fn command(&mut self, body: Body) -> Result<String, Stop> {
        let reply = self.ask(body)?;
        match refusal(&reply) {
            None => Ok(reply),
            Some((code, reason)) => Err(refused(code, &reason)),
        }
    }
}

/// The error of a command that the server refused, and where its cause is found if the reply does
/// not say so itself.
pub(super) fn refused(code: i64, reason: &str) -> Stop {
    let hint = match (code, reason) {
        (302, _) => "; its log says why it cannot write the store",
        (300, "Invalid argument params.ttl") => "; --ttl is above its limit ttl_seconds",
        (300, "Invalid argument params.grace") => "; --grace is above its limit grace_seconds",
        _ => "",
    };
    Stop::Failed(format!("the server says: {reason} (code {code}){hint}"))
}

/// Code and reason of an error reply (protocol part 3).
pub(super) fn refusal(reply: &str) -> Option<(i64, String)> {
    match json::members(reply, &["success", "reason", "code"]) {
        Ok(Some([Some("false"), reason, code])) => Some((
            code.and_then(json::integer).unwrap_or_default(),
            reason.and_then(json::string).unwrap_or_default().into_owned(),
        )),
        _ => None,
    }
}

/// The address of the control listener.
fn control_address(call: &Call, config: &Config) -> Result<Address, Stop> {
    let flags = [&flags::AT_CONTROL, &flags::AT_CONTROL_UNIX];
    let unix = config.control_unix.as_deref();
    Ok(door(call, flags, unix)?.unwrap_or_else(|| Address::to_reach(config.control)))
}

/// The address of the listener for browsers.
pub(super) fn web_address(call: &Call, config: &Config) -> Result<Address, Stop> {
    let unix = config.ws_unix.as_deref();
    let at = door(call, [&flags::AT_WS, &flags::AT_WS_UNIX], unix)?;
    at.or(config.ws.map(Address::to_reach)).ok_or_else(|| {
        Stop::Failed("the server has no port for browsers: give one with --ws".into())
    })
}

/// The address of a listener unless it is the configured port: from a flag, for a port or a unix
/// socket, or else the configured unix socket, which is preferred to the port.
pub(super) fn door(
    call: &Call,
    flags: [&Flag; 2],
    unix: Option<&Path>,
) -> Result<Option<Address>, Stop> {
    let [port_flag, unix_flag] = flags;
    Ok(match call.flag(port_flag.name) {
        Some(at) if call.flag(unix_flag.name).is_none() => {
            Some(Address::Tcp(place(port_flag, at)?.into()))
        }
        _ => unix.map(|path| Address::Unix(path.into())),
    })
}

/// The key of a namespace: from the flag, the environment, the configuration, or the data folder.
pub(super) fn namespace_key(call: &Call, config: &Config, name: &str) -> Result<Key, Stop> {
    let name = named("namespace", name)?;
    find_key(call, config, Some(name))?.ok_or_else(|| {
        Stop::Failed(format!(
            "no key for namespace {name:?}: give it with --key or {NAMESPACE_KEY}, say with --data \
             where it is kept (there is no {}), or make the namespace with `fws register`",
            keys::path(&config.data, name).display()
        ))
    })
}

/// As [`namespace_key`]; `None` if there is no key, or no namespace to look one up for.
pub(super) fn find_key(
    call: &Call,
    config: &Config,
    name: Option<&str>,
) -> Result<Option<Key>, Stop> {
    let variable = call.environment.iter().find(|(variable, _)| variable == NAMESPACE_KEY);
    let given = match (call.flag(flags::KEY.name), variable) {
        (Some(key), _) => Some((key, "--key")),
        (None, Some((_, key))) => Some((key.as_str(), NAMESPACE_KEY)),
        (None, None) => None,
    };
    if let Some((key, origin)) = given {
        let key = Secret::new(key).map_err(|e| Stop::Usage(format!("{origin}: {e}")))?;
        return Ok(Some(Key { key, origin: origin.into() }));
    }
    let Some(name) = name else { return Ok(None) };
    if let Some((_, key)) = config.namespaces.iter().find(|(known, _)| known == name) {
        return Ok(Some(Key { key: key.clone(), origin: "the configuration file".into() }));
    }
    let kept = keys::load(&config.data, name);
    let kept = kept.map_err(|e| owner::unreadable(call, &config.data, &e))?;
    let origin = keys::path(&config.data, name).display().to_string();
    Ok(kept.map(|key| Key { key, origin }))
}

/// A name from the command line. Refuses an empty one, which may come from an unset variable in a
/// script.
pub(super) fn named<'a>(what: &str, name: &'a str) -> Result<&'a str, Stop> {
    match name {
        "" => Err(Stop::Usage(format!("the name of the {what} is empty"))),
        name => Ok(name),
    }
}

/// The user in the flag. Refuses an empty one: on the wire it would mean all users.
pub(super) fn user(call: &Call) -> Result<Option<&str>, Stop> {
    match call.flag(flags::USER.name) {
        Some("") => Err(Stop::Usage("--user: the name of the user is empty".into())),
        user => Ok(user),
    }
}

/// The origin to claim, if a flag gives one.
pub(super) fn origin(call: &Call) -> Result<Option<&str>, Stop> {
    let origin = call.flag(flags::ORIGIN.name);
    origin.map_or(Ok(()), check_page).map_err(|e| Stop::Usage(format!("--origin: {e}")))?;
    Ok(origin)
}

/// Checks the form `HOST:PORT` of a flag; does not connect.
pub(super) fn place<'a>(flag: &Flag, text: &'a str) -> Result<&'a str, Stop> {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let is_host = |host: &str| !host.is_empty() && (!host.contains(':') || host.ends_with(']'));
    match text.rsplit_once(':') {
        Some((host, port)) if is_host(host) && is_port(port) => Ok(text),
        parts => {
            let bare = parts.filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok());
            let hint = bare.map_or_else(String::new, |(host, port)| {
                format!(": an IPv6 address stands in brackets, as in [{host}]:{port}")
            });
            Err(Stop::Usage(format!("--{}: {text:?} is not HOST:PORT{hint}", flag.name)))
        }
    }
}

/// A flag in seconds, at least 1.
pub(super) fn seconds(call: &Call, name: &str) -> Result<Option<u64>, Stop> {
    let Some(text) = call.flag(name) else { return Ok(None) };
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(Some(seconds)),
        _ => Err(Stop::Usage(format!("--{name}: {text:?} is not a number of seconds from 1 on"))),
    }
}

/// Data from the command line as JSON: unchanged if it is JSON, else as a string; `-` reads
/// standard input. Warns of a string that was meant as JSON, as where a shell has taken its quotes.
pub(super) fn data(word: &str) -> Result<String, Stop> {
    let read = if word == "-" { Some(standard_input()?) } else { None };
    let text = read.as_deref().unwrap_or(word);
    let data = to_json(text)?;
    if text.trim_start().starts_with(['{', '[']) && data.starts_with('"') {
        tell(
            "warning: DATA begins like JSON but is not, so it is taken as a string; in a shell, \
             write '…' around JSON",
        );
    }
    Ok(data)
}

/// Standard input as text, without the newline at its end.
fn standard_input() -> Result<String, Stop> {
    let failed = |what: String| Stop::Failed(format!("standard input: {what}"));
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(INPUT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(e.to_string()))?;
    if bytes.len() as u64 > INPUT_BYTES {
        return Err(failed(format!("more than {INPUT_BYTES} bytes")));
    }
    let mut text = String::from_utf8(bytes).map_err(|_| failed("this is not UTF-8".into()))?;
    text.truncate(text.strip_suffix('\n').unwrap_or(&text).len());
    Ok(text)
}

fn to_json(text: &str) -> Result<String, Stop> {
    match json::members(text, &[]) {
        Ok(Some([]) | None) => Ok(text.trim().into()),
        Err(json::JsonError::Syntax) => Ok(json::quote(text)),
        Err(e) => Err(Stop::Usage(format!("the data is {e}"))),
    }
}

/// `1 connection`, `2 connections`.
pub(super) fn count(number: impl Display, thing: &str) -> String {
    let number = number.to_string();
    let several = if number == "1" { "" } else { "s" };
    format!("{number} {thing}{several}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_not_json_is_sent_as_a_string() {
        for (word, sent) in [
            ("hello", r#""hello""#),
            (r#""hello""#, r#""hello""#),
            (" {\"a\": 1.0} ", "{\"a\": 1.0}"),
            ("5", "5"),
            ("05", "\"05\""),
            ("null", "null"),
            ("nul\n\"", r#""nul\n\"""#),
            ("", "\"\""),
        ] {
            assert_eq!(to_json(word), Ok(sent.into()), "{word}");
        }
        let deep = "[".repeat(1000) + &"]".repeat(1000);
        assert!(matches!(to_json(&deep), Err(Stop::Usage(_))));
    }

    #[test]
    fn bodies_are_built_and_refusals_are_recognized() {
        let body = Body::new("emit").text("channel", "a\"b").raw("data", "[1]").finish();
        assert_eq!(body, br#"{"action":"emit","channel":"a\"b","data":[1]}"#);
        let reply = r#"{"success":false,"reason":"Invalid key","code":306}"#;
        assert_eq!(refusal(reply), Some((306, "Invalid key".into())));
        for fine in [r#"{"success":true}"#, "false", "null", r#"{"countUser":0}"#] {
            assert_eq!(refusal(fine), None);
        }
        let store = "Error store, try latter...";
        let Stop::Failed(told) = refused(302, store) else { panic!("a refusal is a failure") };
        assert_eq!(
            told,
            format!(
                "the server says: {store} (code 302); its log says why it cannot write the store"
            )
        );
    }
}
