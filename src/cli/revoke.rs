//! `fws revoke`: withdraws a grant.

use super::output::{out, printable};
use super::{Call, Command, Stop, grant};

pub(super) const COMMAND: Command = Command {
    name: "revoke",
    summary: "withdraw a user's grant for a private channel",
    usage: &["NAME CHANNEL USER [OPTION…]"],
    about: "\
Withdraws what `fws grant` gave: the user's connections leave the channel at
once and cannot join it again.",
    flags: grant::FLAGS,
    examples: &[
        ("fws revoke shop '#vip' 5", "user 5 leaves `#vip`"),
        ("fws revoke shop '#vip' bob --data /var/lib/fws", "with the key that is kept there"),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [name, channel, user] = call.words()?;
    grant::change(call, "unsubscribe", name, channel, user)?;
    out(&format!("user {} may no longer join {}\n", printable(user), printable(channel)))
}
