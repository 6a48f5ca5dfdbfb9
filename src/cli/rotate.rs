//! `fws rotate`: another key for a namespace.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, Flag, JSON};
use super::session::{Body, named, seconds};
use super::{Call, Command, Stop, register};

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

Needs the server key, as `fws register` does. Where the key stands in the file of
the server the new one is good all the same; write it there, where other commands
look for it.",
    flags: &[GRACE, JSON, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
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
    let grace = grace.map(|grace| grace.to_string());
    let body =
        Body::new("rotateKey").text("name", named("namespace", name)?).params(&[("grace", grace)]);
    let done = register::ask(call, &config, name, body)?;
    register::hand_over(call, &config, name, done)?;
    register::tell_if_configured(
        &config,
        name,
        "still has the key before: write the new one there",
    );
    Ok(())
}
