//! The server as a process: descriptors, keys, doors, signals; then the loop. It joins the parts
//! and decides nothing that they decide. `fws serve` calls it.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::config::{Config, Secret};
use crate::edge::Door;
use crate::journal::{Journal, MemoryJournal};
use crate::keys::{self, KeyOrigin};
use crate::log;
use crate::reactor::{Bounds, Listener, Reactor};
use crate::switch::{Demo, Settings, Switch};
use crate::uuid::Uuid;

/// Descriptors kept for what is no connection: standard streams, doors, epoll, the store.
const DESCRIPTORS_KEPT: u64 = 64;
/// The namespace of the demo page.
const DEMO_NAMESPACE: &str = "demo";

/// Runs the server until it is told to stop by SIGTERM or SIGINT.
///
/// # Errors
/// What stands in the way of the start, as one line for the operator; afterwards only what no turn
/// of the loop can mend.
pub fn run(config: &Config) -> io::Result<()> {
    let term = crate::time::Clock::new().now().unix.0;
    run_with(config, MemoryJournal::new(term))
}

/// [`run`] on a journal of the caller's.
///
/// # Errors
/// As [`run`].
pub fn run_with(config: &Config, journal: impl Journal) -> io::Result<()> {
    // What we make is ours alone; the unix socket has its own mode.
    umask(rustix::fs::Mode::from_raw_mode(0o077));
    let descriptors = raise_descriptor_limit();
    let room = descriptors.saturating_sub(DESCRIPTORS_KEPT).max(1);
    let connections = config.limits.connections.min(usize::try_from(room).unwrap_or(usize::MAX));
    let mut reactor = Reactor::new(Bounds {
        connections,
        close_ms: config.limits.close_ms as u64,
        drain_ms: config.limits.drain_ms as u64,
    })?;
    let at = reactor.now().unix;
    log::info(at, format_args!("starting version {}", env!("CARGO_PKG_VERSION")));
    for warning in &config.warnings {
        log::warning(at, format_args!("{warning}"));
    }
    let (server_key, origin) = keys::server_key(config)?;
    match &origin {
        KeyOrigin::Configured => log::info(at, format_args!("server key: as configured")),
        KeyOrigin::Read(path) => log::info(at, format_args!("server key: {}", path.display())),
        KeyOrigin::Made(path) => {
            let path = path.display();
            log::info(at, format_args!("server key: a new one was made, it is in {path}"));
        }
    }
    let mut switch = Switch::new(
        Settings {
            limits: config.limits.clone(),
            server_key: server_key.expose().to_owned(),
            demo: config.demo.then(|| demo(config)),
            now: reactor.now(),
        },
        journal,
    );
    declare(config, &mut switch)?;
    log::info(at, format_args!("room for {connections} connections ({descriptors} descriptors)"));
    log::info(at, format_args!("nothing is kept over a restart: states live in memory"));
    // Before the doors open: who is told to stop while starting stops in order, too.
    reactor.add_signals(signals()?)?;
    open_doors(config, &mut reactor, at)?;
    reactor.run(&mut switch)?;
    let metrics = switch.metrics();
    let (opened, deliveries) = (metrics.opened, metrics.deliveries);
    log::info(
        reactor.now().unix,
        format_args!("stopped; {opened} connections came, {deliveries} messages were delivered"),
    );
    Ok(())
}

/// Raises the soft limit to the hard one; returns what is in force.
fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok()
    {
        return maximum.unwrap_or(u64::MAX);
    }
    current.unwrap_or(u64::MAX)
}

/// The namespaces that the configuration names, and the demo's.
fn declare(config: &Config, switch: &mut Switch<impl Journal>) -> io::Result<()> {
    let refused = |name: &str, why| io::Error::other(format!("namespace {name}: {why:?}"));
    for (name, key) in &config.namespaces {
        switch.declare(name, key.expose()).map_err(|why| refused(name, why))?;
    }
    let is_declared = config.namespaces.iter().any(|(name, _)| name == DEMO_NAMESPACE);
    if config.demo && !is_declared {
        let key = match keys::load(&config.data, DEMO_NAMESPACE)? {
            Some(key) => key,
            None => {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes)?;
                let key = Secret::new(Uuid::from_random(bytes).to_string());
                let key = key.map_err(io::Error::other)?;
                keys::store(&config.data, DEMO_NAMESPACE, &key)?;
                key
            }
        };
        let declared = switch.declare(DEMO_NAMESPACE, key.expose());
        declared.map_err(|why| refused(DEMO_NAMESPACE, why))?;
    }
    Ok(())
}

/// The command that publishes to the demo page, as one can type it where the server was started.
fn demo_command(config: &Config) -> String {
    let program = std::env::args().next().unwrap_or_else(|| "fws".into());
    let mut command = format!("{program} emit {DEMO_NAMESPACE} news '\"hello\"'");
    let default = Config::default();
    if config.control != default.control {
        command.push_str(&format!(" --control {}", config.control));
    }
    if config.data != default.data {
        command.push_str(&format!(" --data {}", config.data.display()));
    }
    command
}

fn demo(config: &Config) -> Demo {
    let page = include_str!("demo.html")
        .replace("__EMIT_COMMAND__", &html_text(&demo_command(config)))
        .replace("/*FWS_CLIENT*/", include_str!("../clients/js/fws.js"));
    Demo { page, namespace: DEMO_NAMESPACE.into() }
}

fn html_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn open_doors(
    config: &Config,
    reactor: &mut Reactor,
    at: crate::time::UnixMillis,
) -> io::Result<()> {
    let cannot = |what: &str, where_: String, error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {where_} ({what}): {error}"))
    };
    let ws = Listener::tcp(Door::Web, config.ws);
    let ws = ws.map_err(|error| cannot("--ws", config.ws.to_string(), error))?;
    let control = Listener::tcp(Door::Control, config.control);
    let control = control.map_err(|e| cannot("--control", config.control.to_string(), e))?;
    let mut doors = vec![("control", control)];
    if let Some(path) = &config.control_unix {
        let unix = Listener::unix(Door::Control, path);
        let unix = unix.map_err(|e| cannot("--control-unix", path.display().to_string(), e))?;
        doors.push(("control", unix));
    }
    let page = ws.address().replace("0.0.0.0", "127.0.0.1");
    doors.push(("ws", ws));
    for (name, door) in doors {
        log::info(at, format_args!("listening {name}={}", door.address()));
        reactor.add_door(door)?;
    }
    if config.demo {
        let command = demo_command(config);
        log::info(at, format_args!("to try it, open http://{page}/ and run: {command}"));
    }
    Ok(())
}

/// A stream on which a byte arrives for each signal to stop.
fn signals() -> io::Result<mio::net::UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGTERM, theirs.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGINT, theirs)?;
    Ok(mio::net::UnixStream::from_std(ours))
}
