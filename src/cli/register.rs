//! `fws register`: creates a namespace. Also what all commands share that need the server key.

use std::fs::File;

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, JSON};
use super::output::{out, out_json, tell};
use super::session::{Body, Session, named, refusal, refused};
use super::{Call, Command, Stop, owner};
use crate::codec::json;
use crate::config::{Config, Secret};
use crate::keys;

pub(super) const COMMAND: Command = Command {
    name: "register",
    summary: "create a namespace and print its key",
    usage: &["NAME [OPTION…]"],
    about: "\
A namespace is one site: its channels, users and states, and a key that only
the site's back end may know. Only the key is printed on standard output, and it
is never shown again. On the server's machine it is also kept in the data folder,
where the other commands find it.

Needs the server key: FWS_SECRETKEY, secret_key in the file, or the one that the
server has created in its data folder. In the latter case run it as the server's
user: root is refused if the folder belongs to another user.",
    flags: &[JSON, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws register shop", "a namespace `shop`"),
        ("KEY=$(fws register shop --data /var/lib/fws)", "its key in a shell variable"),
        ("fws register shop --json", "with its name, and the file it is kept in, for a program"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name] = call.words()?;
    let config = call.client_config()?;
    let body = Body::new("registerNameSpace").text("name", named("namespace", name)?);
    let unsure = "; the namespace may be there all the same, then `fws rotate` prints a key for it";
    let done = ask(call, &config, (name, body), unsure)?;
    hand_over(call, &config, name, done)
}

/// A command that the server has carried out. While this lives, it blocks every other command on
/// this machine that makes or ends a key; drop it before printing, which may block forever.
pub(super) struct Done {
    reply: String,
    _turn: Option<File>,
}

/// Sends a command about a namespace with the server key appended to its fields. Returns `Done`
/// unless the server refuses. `unsure` says what may have happened if no reply comes.
pub(super) fn ask(
    call: &Call,
    config: &Config,
    (name, body): (&str, Body),
    unsure: &str,
) -> Result<Done, Stop> {
    let known = keys::known_server_key(config);
    let Some(server_key) = known.map_err(|e| owner::unreadable(call, &config.data, &e))? else {
        return Err(Stop::Failed(format!(
            "no server key: set FWS_SECRETKEY, or say with --data where the server keeps it (there \
             is no {})",
            keys::server_key_path(&config.data).display()
        )));
    };
    owner::refuse_root(call, &config.data)?;
    let turn =
        keys::lock(&config.data, || tell("waits for another command that makes or ends a key"));
    let body = body.text("key", server_key.expose());
    let reply = Session::connect(call, config)?.ask_once(body, unsure)?;
    match refusal(&reply) {
        None => Ok(Done { reply, _turn: turn }),
        Some((306, _)) => Err(Stop::Failed("this is not the server key of that server".into())),
        Some((309, _)) => Err(Stop::Failed(format!("there is a namespace {name:?} already"))),
        Some((404, _)) => Err(Stop::Failed(format!("there is no namespace {name:?}"))),
        Some((code, reason)) => Err(refused(code, &reason)),
    }
}

/// Prints the key in the reply, and stores it if the server's data folder is on this machine.
pub(super) fn hand_over(call: &Call, config: &Config, name: &str, done: Done) -> Result<(), Stop> {
    let key = key_in(&done.reply)
        .ok_or_else(|| Stop::Failed("this is no fws server: its reply has no key".into()))?;
    // The key cannot be fetched again: store it first, in case our output has no reader.
    let kept = config.data.is_dir().then(|| keys::store(&config.data, name, &key));
    drop(done);
    let printed = match call.flag(JSON.name) {
        Some(_) => {
            let file = kept.as_ref().and_then(|kept| kept.as_ref().ok());
            let file = file.map_or("null".into(), |path| json::quote(&path.to_string_lossy()));
            let (name, key) = (json::quote(name), json::quote(key.expose()));
            out_json(&[("namespace", name), ("key", key), ("file", file)])
        }
        None => out(&format!("{}\n", key.expose())),
    };
    // Also if it could not be printed: then that is where it is, or it is lost.
    match kept {
        Some(Ok(path)) => tell(&format!("the key is also kept in {}", path.display())),
        Some(Err(e)) => tell(&format!("warning: the key is not kept: {e}")),
        None => {
            let data = config.data.display();
            tell(&format!("the key is not kept here: there is no folder {data} (--data)"));
        }
    }
    printed
}

/// Warns about the server's configuration file if the namespace is in it.
pub(super) fn tell_if_configured(config: &Config, name: &str, what: &str) {
    let is_named = config.namespaces.iter().any(|(known, _)| known == name);
    if let (Some(file), true) = (&config.file, is_named) {
        tell(&format!("warning: {} {what}", file.display()));
    }
}

fn key_in(reply: &str) -> Option<Secret> {
    let [key] = json::members(reply, &["secretKey"]).ok()??;
    Secret::new(json::string(key?)?).ok()
}
