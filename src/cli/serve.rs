//! `fws serve`: the server itself.

use super::{Call, Command, Stop, flags, owner};
use crate::server;

pub(super) const COMMAND: Command = Command {
    name: "serve",
    summary: "run the server",
    usage: &["[OPTION…]"],
    about: "\
Opens a port for browsers and one for back ends, and runs until SIGTERM or
SIGINT (ctrl-C), which lets everybody go in peace; a second one ends at once.
At SIGHUP it reads its settings again, and takes all of them or, if anything is
wrong, none; the log says what has changed and what needs a restart. SIGUSR1 and
SIGUSR2 do nothing.

Settings come from flags, else from the environment (FWS_LISTEN_WS,
FWS_LISTEN_WS_UNIX, FWS_LISTEN_CONTROL, FWS_LISTEN_CONTROL_UNIX,
FWS_LISTEN_ADMIN, FWS_DATA_DIR, FWS_STORE, FWS_SYNC, FWS_DEMO, FWS_ALLOW_ORIGIN,
FWS_TRUSTED_PROXY, FWS_CONFIG_FILE), else from the file, a JSON object with the
keys ws, ws_unix, control, control_unix, admin, data, store, sync, demo,
allow_origin, trusted_proxy, secret_key, namespaces, sockjs and limits.

Behind a proxy on this machine, --ws-unix opens a unix socket for browsers. Of a
proxy that --trusted-proxy names (a network as 10.0.0.0/8, an address, or the
word unix) it is believed whom it speaks for: by X-Forwarded-For, or by the PROXY
protocol. The limit connections_per_address needs to know.

With --admin there is a third port, for whoever watches the server: /metrics in
the format of Prometheus, and /healthz. `fws stat` shows the same.

What is registered, granted and set is kept in the data folder, and is there
again after any crash. With --sync 1s a state is acknowledged at once and on disk
within a second, which spares a slow disk: a crash may lose that second of
states, and nothing else. A stop that cannot write them says so, and ends with
exit code 1.

The server key, which opens `fws register`, is FWS_SECRETKEY or secret_key in
the file. Without either, the first start makes one in the data folder.",
    flags: &flags::SERVE,
    examples: &[
        ("fws serve --demo", "with a page to try it, on http://127.0.0.1:8080/"),
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
