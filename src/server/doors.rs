//! Opens the server's listeners ("doors"): those of the configuration, and in their place those
//! that a service manager has passed (sd_listen_fds(3)). Called by the server's start.

use std::env;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::process;

use listenfd::ListenFd;

use crate::codec::http::Response;
use crate::config::{Config, exposure};
use crate::edge::{Door, TurnedAway};
use crate::frame::Frame;
use crate::reactor::Listener;

/// The listeners, each with its name in the log; the inherited ones come first.
pub(super) struct Doors {
    pub all: Vec<(&'static str, Listener)>,
    /// How many of them were passed by a service manager.
    pub inherited: usize,
    /// Why sockets that were passed are not among them.
    stray: Option<String>,
}

impl Doors {
    /// Takes over the listeners that were passed, and opens the missing ones.
    ///
    /// # Errors
    /// Those of the kernel, with the address; and a passed socket that does not listen.
    pub fn open(config: &Config) -> io::Result<Doors> {
        let stray = stray();
        let mut all = if stray.is_some() { Vec::new() } else { inherited(config)? };
        let inherited = all.len();
        let ports = [
            ("control", Door::Control, Some(config.control)),
            ("ws", Door::Web, config.ws),
            ("admin", Door::Admin, config.admin),
        ];
        let paths =
            [("ws", Door::Web, &config.ws_unix), ("control", Door::Control, &config.control_unix)];
        let is_missing = |all: &[(&str, Listener)], door, is_unix| {
            !all.iter().any(|(_, it)| it.door == door && it.is_unix() == is_unix)
        };
        let cannot = |place: String, flag: String, error: io::Error| {
            let advice = advice(&error, flag.ends_with("unix"));
            let text = format!("cannot listen on {place} (--{flag}): {error}{advice}");
            io::Error::new(error.kind(), text)
        };
        for (name, door, address) in ports {
            if let Some(address) = address.filter(|_| is_missing(&all, door, false)) {
                let listener = Listener::tcp(door, address)
                    .map_err(|e| cannot(address.to_string(), name.into(), e))?;
                all.push((name, listener));
            }
        }
        for (name, door, path) in paths {
            if let Some(path) = path.as_ref().filter(|_| is_missing(&all, door, true)) {
                let listener = Listener::unix(door, path)
                    .map_err(|e| cannot(path.display().to_string(), format!("{name}-unix"), e))?;
                all.push((name, listener));
            }
        }
        for (_, listener) in &mut all {
            listener.bound(&config.limits)?;
            if listener.door == Door::Web {
                listener.refuse_with(refusal);
            }
        }
        Ok(Doors { all, inherited, stray })
    }

    /// Returns warnings about the listeners that were passed; the others were checked with the
    /// configuration.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let inherited = self.all.iter().take(self.inherited);
        let exposed = inherited.filter_map(|(name, door)| {
            let address = door.address().parse().ok()?;
            exposure(name, address)
        });
        self.stray.clone().into_iter().chain(exposed)
    }

    /// Returns the address of the first listener of that name; with `is_port`, of the first on TCP.
    pub fn address(&self, name: &str, is_port: bool) -> Option<String> {
        let is_it = |(other, it): &&(&str, Listener)| *other == name && !(is_port && it.is_unix());
        self.all.iter().find(is_it).map(|(_, listener)| listener.address())
    }
}

/// Returns what to do about an error, if that is known.
fn advice(error: &io::Error, is_unix: bool) -> &'static str {
    // Other errors are our own, and say it themselves.
    match error.raw_os_error().map(|_| error.kind()) {
        Some(ErrorKind::NotFound | ErrorKind::PermissionDenied) if is_unix => {
            "; the folder that it is to be in must be there, and writable for this user"
        }
        Some(ErrorKind::PermissionDenied) => {
            "; ports below 1024 are root's: choose a higher one and let a proxy have this one, or \
             let systemd open it (fws.socket)"
        }
        Some(ErrorKind::AddrInUse) => {
            "; `ss -ltnp` shows who listens there: stop it, or choose another port"
        }
        Some(ErrorKind::AddrNotAvailable) => "; `ip address` shows the addresses of this machine",
        _ => "",
    }
}

/// Returns the response to a browser that is not let in, with the time to come back.
fn refusal(why: TurnedAway, seconds: u64) -> Frame {
    let response = match why {
        TurnedAway::Full => Response::new(503).text("The server is full\n"),
        TurnedAway::Crowd => Response::new(503).text("Too many come at once\n"),
    };
    response.header("Retry-After", &seconds.to_string()).close().encode(None)
}

/// Returns which listener a passed socket is: by its name, or else by its address.
fn door_of(name: &str, address: Option<SocketAddr>, config: &Config) -> (&'static str, Door) {
    let is_at = |other: Option<SocketAddr>| {
        address.is_some_and(|at| at.port() != 0 && other.is_some_and(|it| it.port() == at.port()))
    };
    match name {
        "control" => ("control", Door::Control),
        "web" | "ws" => ("ws", Door::Web),
        "admin" => ("admin", Door::Admin),
        _ if address.is_none() || is_at(Some(config.control)) => ("control", Door::Control),
        _ if is_at(config.admin) => ("admin", Door::Admin),
        _ => ("ws", Door::Web),
    }
}

/// Returns why sockets that a service manager has opened are not for this process, if there are
/// any: `LISTEN_PID` names the process they are for, and children inherit that.
fn stray() -> Option<String> {
    let count = env::var("LISTEN_FDS").ok()?;
    let pid = env::var("LISTEN_PID").ok();
    let is_ours = pid.as_ref().and_then(|pid| pid.parse().ok()) == Some(process::id());
    let pid = pid.map_or("is not set".into(), |pid| format!("is {pid:?}"));
    let id = process::id();
    let why = format!("LISTEN_PID {pid}, and this is process {id}: no socket is taken from there");
    (!is_ours).then(|| format!("LISTEN_FDS is {count:?}, but {why}"))
}

/// Returns the listeners that a service manager has opened for us.
fn inherited(config: &Config) -> io::Result<Vec<(&'static str, Listener)>> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = ListenFd::from_env();
    let mut doors = Vec::new();
    for i in 0..sockets.len() {
        let name = names.next().unwrap_or_default();
        let wrong = |what: &str| {
            let text = format!("socket {i} that was handed over ({name:?}) {what}");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        let listener = if let Ok(Some(socket)) = sockets.take_tcp_listener(i) {
            let address = socket.local_addr()?;
            let (name, door) = door_of(name, Some(address), config);
            (name, Listener::inherited_tcp(door, socket)?)
        } else if let Ok(Some(socket)) = sockets.take_unix_listener(i) {
            let (name, door) = door_of(name, None, config);
            (name, Listener::inherited_unix(door, socket)?)
        } else {
            return Err(wrong("is neither TCP nor a unix stream"));
        };
        if !listener.1.is_listening() {
            return Err(wrong("does not listen"));
        }
        doors.push(listener);
    }
    Ok(doors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passed_socket_is_assigned_by_its_name_then_its_address() {
        let mut config = Config::default();
        config.admin = "127.0.0.1:8086".parse().ok();
        let door = |name, address: &str| door_of(name, address.parse().ok(), &config).1;
        assert_eq!(door("web", "127.0.0.1:8085"), Door::Web);
        assert_eq!(door("control", "0.0.0.0:8080"), Door::Control);
        assert_eq!(door("admin", "0.0.0.0:1"), Door::Admin);
        assert_eq!(door("web", "unix"), Door::Web);
        // systemd names a socket without a name after its unit.
        for name in ["", "unknown", "fws.socket"] {
            assert_eq!(door(name, "10.0.0.1:8085"), Door::Control);
            assert_eq!(door(name, "[::]:8080"), Door::Web);
            assert_eq!(door(name, "[::]:80"), Door::Web);
            assert_eq!(door(name, "127.0.0.1:8086"), Door::Admin);
            assert_eq!(door(name, "unix"), Door::Control);
        }
    }
}
