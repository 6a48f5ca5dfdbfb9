//! `fws serve`: runs the server.

use super::{Call, Command, Stop, flags, owner};
use crate::server;

pub(super) const COMMAND: Command = Command {
    name: "serve",
    summary: "run the server",
    usage: &["[OPTION…]"],
    about: "\
Opens a port for browsers and one for back ends, and runs until SIGTERM or
SIGINT (Ctrl-C). It then closes its connections one after the other; a second
signal ends it at once. On SIGHUP it reads its settings again, and applies all of
them or, if anything is wrong, none; the log says what has changed and what needs
a restart. SIGUSR1 and SIGUSR2 do nothing.

Settings come from flags, else from the environment (FWS_LISTEN_WS,
FWS_LISTEN_WS_UNIX, FWS_LISTEN_CONTROL, FWS_LISTEN_CONTROL_UNIX,
FWS_LISTEN_ADMIN, FWS_DATA_DIR, FWS_STORE, FWS_SYNC, FWS_DEMO, FWS_ALLOW_ORIGIN,
FWS_TRUSTED_PROXY, FWS_CONFIG_FILE), else from the file, a JSON object with the
keys ws, ws_unix, control, control_unix, admin, data, store, sync, demo,
allow_origin, trusted_proxy, secret_key, namespaces, sockjs and limits.

For a proxy on this machine, --ws-unix opens a unix socket for browsers. A proxy
that --trusted-proxy names (a network such as 10.0.0.0/8, an address, or the word
unix) may name the address of its client, by X-Forwarded-For or the PROXY
protocol. The limit connections_per_address needs that address.

With --admin there is a third port, for monitoring: /metrics in the format of
Prometheus, and /healthz. `fws stat` shows the same.

What is registered, granted and set is kept in the data folder, and survives any
crash. With --sync 1s a state is acknowledged at once and written within a
second, which spares a slow disk: a crash may lose the states of that second, and
nothing else. A stop that cannot write them says so, and exits with code 1.

The server key, which `fws register` needs, is FWS_SECRETKEY, or secret_key in
the file. Without either, the first start creates one in the data folder.",
    flags: &flags::SERVE,
    examples: &[
        ("fws serve --demo", "with a demo page on http://127.0.0.1:8080/"),
        (
            "fws serve --control 10.0.0.5:8085 --data /var/lib/fws",
            "for back ends on other machines of a private network",
        ),
    ],
    run,
};

fn run(call: &Call) -> Result<(), Stop> {
    let [] = call.words()?;
    let config = call.config()?;
    let reread = || call.config_again().map_err(|stop| stop.to_string());
    let data = config.data.clone();
    server::run(config, &reread)
        .map_err(|e| Stop::Failed(format!("{e}{}", owner::advice(&e, &data))))
}
