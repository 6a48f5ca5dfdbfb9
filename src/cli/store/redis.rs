//! `fws store import-redis`: what an original server keeps in Redis, into the store (reference
//! part 10). Its keys are joined by colons without any escape; the other files of this module know
//! how one is read, and how Redis is asked.

#[cfg(feature = "import-redis")]
mod client;
#[cfg(feature = "import-redis")]
mod key;
#[cfg(feature = "import-redis")]
mod resp;
#[cfg(feature = "import-redis")]
mod url;

use super::REPLACE;
use crate::cli::flags::{CONFIG, DATA, Flag, LIMIT};
use crate::cli::{Call, Command, Stop};

const COLON: Flag = Flag {
    name: "colon",
    value: "channel|user",
    about: "how to read what is ambiguous: channel or user (left out)",
};

pub(super) const COMMAND: Command = Command {
    name: "store import-redis",
    summary: "take over what an original server keeps in Redis",
    usage: &["URL [OPTION…]"],
    about: "\
Reads namespaces with their keys, and states with the time they have left, from
Redis at URL, and takes them into the store as `fws store import` does: all, or
nothing if there is no room for something. Redis is only read; stop the original
server first, so that nothing is missed. URL is redis://HOST:PORT/DATABASE, with
USER:PASSWORD@ before HOST if need be, or unix:///PATH.

The original joins names by colons and escapes nothing, so that some of its keys
may mean more than one thing. USER:@CHANNEL is taken for a user's state, because
@ begins the name of a channel; what else has a colon behind its namespace, or
belongs to one of two namespaces, is left out, and told on standard error, one
line each, like what is no JSON. If you know your names, --colon channel takes
`a:b` for a channel, and --colon user for user a and channel b.

No server may use the folder meanwhile. It is for the user of the server: root is
refused where the folder is another user's.",
    flags: &[COLON, REPLACE, DATA, CONFIG, LIMIT],
    examples: &[
        ("fws store import-redis redis://127.0.0.1:6379/0", "into ./fws-data"),
        (
            "fws store import-redis unix:///run/redis.sock --colon channel",
            "the same, where channels have names like `room:5`",
        ),
    ],
    run,
};

#[cfg(feature = "import-redis")]
fn run(call: &Call) -> Result<(), Stop> {
    client::run(call)
}

#[cfg(not(feature = "import-redis"))]
fn run(call: &Call) -> Result<(), Stop> {
    let [_] = call.words()?;
    Err(Stop::Failed(
        "this fws was built without it: build one with `cargo build --release --features \
         import-redis`"
            .into(),
    ))
}
