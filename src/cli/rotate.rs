//! `fws rotate`: gives a namespace a new key.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, Flag, JSON};
use super::session::{Body, named, seconds};
use super::{Call, Command, Stop, register};

const GRACE: Flag = Flag {
    name: "grace",
    value: "SECONDS",
    about: "how long the old key stays valid (not at all)",
};

pub(super) const COMMAND: Command = Command {
    name: "rotate",
    summary: "give a namespace a new key and print it",
    usage: &["NAME [OPTION…]"],
    about: "\
The server makes a new key for namespace NAME. It is printed and kept as by
`fws register`; give it to the site's back end. The old key, and all tokens signed
with it, become invalid at once, unless --grace leaves time to distribute the new
one. Connected browsers stay.

Needs the server key, as `fws register` does. The new key also replaces one from
the server's file; write it there too, because other commands look for it there.",
    flags: &[GRACE, JSON, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws rotate shop", "the old key has leaked"),
        ("fws rotate shop --grace 3600", "both keys are valid for an hour"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name] = call.words()?;
    let config = call.client_config()?;
    let grace = seconds(call, GRACE.name)?;
    let grace = grace.map(|grace| grace.to_string());
    let body =
        Body::new("rotateKey").text("name", named("namespace", name)?).params(&[("grace", grace)]);
    let unsure = "; the key may be another one all the same: run it again";
    let done = register::ask(call, &config, (name, body), unsure)?;
    register::hand_over(call, &config, name, done)?;
    register::tell_if_configured(
        &config,
        name,
        "still has the key before: write the new one there",
    );
    Ok(())
}
