//! `fws rotate`: another key for a namespace.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, Flag};
use super::session::{Body, named, seconds};
use super::{Call, Command, Stop, register};
use crate::config::Config;

const GRACE: Flag = Flag {
    name: "grace",
    value: "SECONDS",
    about: "the old key is good for so long as well (no longer)",
};

pub(super) const COMMAND: Command = Command {
    name: "rotate",
    summary: "give a namespace another key and print it",
    usage: &["NAME [OPTION…]"],
    about: "\
The server makes a new key for namespace NAME. It is printed and kept as by
`fws register`; hand it to the site's back end. The old key is worthless at once,
and tokens signed with it with it, unless --grace leaves time to bring the new one
everywhere. Browsers that are connected stay.

Needs the server key, as `fws register` does. A key that stands in the file of the
server is changed there, and by a reload.",
    flags: &[GRACE, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws rotate shop", "the old key has leaked"),
        ("fws rotate shop --grace 3600", "both keys are good for an hour"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name] = call.words()?;
    let config = call.client_config()?;
    let grace = seconds(call, GRACE.name)?;
    refuse_configured(&config, named("namespace", name)?)?;
    let mut body = Body::new("rotateKey").text("name", name);
    if let Some(grace) = grace {
        body = body.raw("params", &format!("{{\"grace\":{grace}}}"));
    }
    let reply = register::ask(call, &config, name, body)?;
    register::hand_over(&config, name, &reply)
}

/// The next start would put the key of the file in the place of the new one.
fn refuse_configured(config: &Config, name: &str) -> Result<(), Stop> {
    match &config.file {
        Some(file) if config.namespaces.iter().any(|(known, _)| known == name) => {
            Err(Stop::Failed(format!(
                "the key of namespace {name:?} stands in {}: change it there, and reload the \
                 server",
                file.display()
            )))
        }
        _ => Ok(()),
    }
}
