//! `fws store import-redis`: imports the data of an original server from Redis (reference part 10).
//! The submodules parse its keys, which are joined by colons without escapes, and talk to Redis.

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
    about: "how to read ambiguous keys: channel or user (left out)",
};

pub(super) const COMMAND: Command = Command {
    name: "store import-redis",
    summary: "import what an original server keeps in Redis",
    usage: &["URL [OPTION…]"],
    about: "\
Reads namespaces with their keys, and states with their remaining time to live,
from Redis at URL into the store, as `fws store import` does: everything, or
nothing if there is no room for something. Redis is only read; stop the original
server first, so that nothing is missed. URL is redis://HOST:PORT/DATABASE, with
USER:PASSWORD@ before HOST if needed, or unix:///PATH.

The original joins names by colons and escapes nothing, so some of its keys may
mean more than one thing. USER:@CHANNEL is read as a user's state, because @
begins the name of a channel. Any other key with a colon after its namespace, or
that could belong to two namespaces, is left out and reported on standard error,
one line each, like values that are not JSON. If you know your names, --colon
channel reads `a:b` as a channel, and --colon user as user a and channel b.

No server may use the folder meanwhile. Run it as the server's user: root is
refused if the folder belongs to another user.",
    flags: &[COLON, REPLACE, DATA, CONFIG, LIMIT],
    examples: &[
        ("fws store import-redis redis://127.0.0.1:6379/0", "into ./fws-data"),
        (
            "fws store import-redis unix:///run/redis.sock --colon channel",
            "the same, for channel names such as `room:5`",
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
