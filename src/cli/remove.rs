//! `fws remove`: removes a namespace.

use super::flags::{AT_CONFIG, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, Flag};
use super::output::{out, tell};
use super::session::{Body, named};
use super::{Call, Command, Stop, register};
use crate::keys;

const YES: Flag = Flag { name: "yes", value: "", about: "do it; without it nothing is removed" };

pub(super) const COMMAND: Command = Command {
    name: "remove",
    summary: "remove a namespace with all that is in it",
    usage: &["NAME --yes [OPTION…]"],
    about: "\
Removes namespace NAME for good: its key, its states and its grants. Its browsers
are closed, its back ends cannot act in it any more, and the name is free. The key
that is kept for it in the data folder is removed as well.

Needs the server key, as `fws register` does. A namespace that the server's file
names comes back, empty, with the next start or reload: remove it there first.",
    flags: &[YES, AT_CONTROL, AT_CONTROL_UNIX, AT_DATA, AT_CONFIG],
    examples: &[
        ("fws remove shop --yes", "`shop` is gone"),
        ("fws remove shop --yes --control-unix /run/fws/control.sock", "by its unix socket"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name] = call.words()?;
    let config = call.client_config()?;
    named("namespace", name)?;
    if call.flag(YES.name).is_none() {
        return Err(Stop::Usage(format!(
            "this would remove namespace {name:?} for good, with its key and all its states and \
             grants, and close its connections: say it with --yes"
        )));
    }
    let body = Body::new("removeNameSpace").text("name", name);
    let unsure = "; it may be removed all the same: run it again";
    let done = register::ask(call, &config, (name, body), unsure)?;
    // First, in case our output has no reader.
    let forgotten = keys::forget(&config.data, name);
    drop(done);
    out("removed\n")?;
    match forgotten {
        Ok(true) => tell("the key that was kept for it is removed as well"),
        Ok(false) => {}
        Err(e) => tell(&format!("warning: the key that was kept for it is still there: {e}")),
    }
    let back = "has it still: it comes back with the next start or reload";
    register::tell_if_configured(&config, name, back);
    Ok(())
}
