//! The server as a process: descriptors, keys, listeners, signals; then the loop. It joins the
//! parts, and makes none of their decisions. Called by `fws serve`.

mod doors;
mod memory;
mod notify;
mod reload;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::umask;
use signal_hook::consts::signal::SIGXFSZ;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::admin::AdminDoor;
use crate::codec::sockjs;
use crate::config::{Config, Secret, SockJs, StoreKind};
use crate::demo;
use crate::durable::make_folder;
use crate::edge::Door;
use crate::hub::{Declared, Hub};
use crate::journal::store::{FORMAT, Folder, Home, Opened};
use crate::journal::{Journal, MemoryJournal, StoreJournal};
use crate::keys::{self, KeyOrigin};
use crate::limits::Limits;
use crate::log::{self, News};
use crate::reactor::{Bounds, Reactor, Signal, raise_descriptor_limit};
use crate::slow::Rules;
use crate::switch::{Settings, Switch};
use crate::time::{Now, Stopwatch, UnixMillis};
use crate::web::Service;
use doors::Doors;
use notify::Notifier;
use reload::InForce;

pub use memory::fit as fit_memory;
pub use reload::Reread;

/// Descriptors reserved for what is not counted in `connections`: 20 for late back ends, eight for
/// connections that are turned away, eight for admin clients. Of the rest, up to 26 are always
/// open: three standard streams, five spares, five listeners, epoll and its waker, five for
/// signals, two files in `/proc`, three for the store, one for the service manager. Two are for
/// files that are open for a moment: one of the store's thread, as when it rewrites the store, and
/// one of the loop's.
const DESCRIPTORS_KEPT: u64 = 64;
/// With room for fewer connections the server does not start.
const CONNECTIONS_MIN: usize = 16;
/// Of those reserved, how many are for back ends that come when `connections` are open: browsers,
/// which come in crowds, must not lock out the back ends that speak to them.
const CONTROL_RESERVE: usize = 20;

/// Runs the server until SIGTERM or SIGINT tells it to stop. On SIGHUP applies the configuration
/// that `reread` returns, if it is valid.
///
/// # Errors
/// What prevents the start, as one line for the operator; afterwards only what no turn of the loop
/// can fix, and at the end how much was acknowledged and is not on disk.
pub fn run(mut config: Config, reread: Reread<'_>) -> io::Result<()> {
    if let Some(fitted) = memory::fit(&mut config) {
        let said = if fitted.is_warning { &mut config.warnings } else { &mut config.notes };
        said.push(fitted.text);
    }
    match config.store {
        StoreKind::None => run_with(config, MemoryJournal::default(), reread),
        StoreKind::Redb => {
            let mut start = Start::new(&config)?;
            let (hub, at, journal) = start.open_store(&config)?;
            start.run(config, hub, at, Box::new(journal), reread)
        }
    }
}

/// As [`run`], with a journal that keeps nothing.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    config: Config,
    journal: impl Journal + 'static,
    reread: Reread<'_>,
) -> io::Result<()> {
    let start = Start::new(&config)?;
    let at = start.now().unix;
    log::info(at, format_args!("no store: what is registered, granted and set is lost at the end"));
    let hub = Hub::new(config.limits.clone(), at);
    start.run(config, hub, at, Box::new(journal), reread)
}

/// Logs which limits are exceeded, as by a store that comes from a larger machine.
fn tell_of_too_much(hub: &Hub, limits: &Limits, at: UnixMillis) {
    let ([namespaces, .., states], (grants, bytes)) = (hub.sizes(), hub.grants_and_states_bytes());
    let all = [
        ("namespaces", namespaces, limits.namespaces),
        ("grants", grants, limits.grants),
        ("states", states, limits.states),
        ("states_bytes", bytes, limits.states_bytes),
    ];
    for (name, there, max) in all.into_iter().filter(|(_, there, max)| there > max) {
        let what = "all stay, and none can be added; see that there is memory for them";
        log::warning(at, format_args!("store: {name} is {max}, and there are {there}: {what}"));
    }
}

/// A server before its first turn.
struct Start {
    reactor: Reactor,
    /// While set, a stop signal ends the process, since the loop does not turn yet.
    is_loading: Arc<AtomicBool>,
}

impl Start {
    fn new(config: &Config) -> io::Result<Start> {
        log::tell_panics();
        // Our files are for this user only; the unix socket has its own mode.
        umask(rustix::fs::Mode::from_raw_mode(0o077));
        let (connections, descriptors) = open_connections(&config.limits)?;
        let mut reactor = Reactor::new(bounds(&config.limits, connections))?;
        // SIGHUP would end the process; from here on it means reload.
        reactor.add_signals(signals(&[SIGHUP])?, Signal::Reload)?;
        let is_loading = Arc::new(AtomicBool::new(true));
        for stop in [SIGTERM, SIGINT] {
            // The kernel does this by default, but not for the first process of a container, where
            // the signal would be lost.
            let is_loading = is_loading.clone();
            signal_hook::flag::register_conditional_shutdown(stop, 0, is_loading)?;
        }
        for stray in [SIGUSR1, SIGUSR2, SIGXFSZ] {
            // These mean nothing here and must not end the process: the flags are never read. If a
            // file may not grow, the write itself reports it.
            signal_hook::flag::register(stray, Arc::default())?;
        }
        let at = reactor.now().unix;
        log::info(at, format_args!("starting version {}", env!("CARGO_PKG_VERSION")));
        for warning in &config.warnings {
            log::warning(at, format_args!("{warning}"));
        }
        for note in &config.notes {
            log::info(at, format_args!("{note}"));
        }
        if let Err(error) = make_folder(&config.data) {
            // What needs the folder reports it; if everything is configured, nothing may.
            log::warning(at, format_args!("no data folder, so no key is kept: {error}"));
        }
        let room = log::Count(connections as u64, "connection", "connections");
        log::info(at, format_args!("room for {room} ({descriptors} descriptors)"));
        Ok(Start { reactor, is_loading })
    }

    fn now(&self) -> Now {
        self.reactor.now()
    }

    /// Returns what earlier runs have recorded, the time on its scale, and the journal, open.
    fn open_store(&mut self, config: &Config) -> io::Result<(Hub, UnixMillis, StoreJournal)> {
        let now = self.now();
        let holder = format!(
            "process {} (control={} ws={}), since {}",
            std::process::id(),
            config.control,
            config.ws.map_or_else(|| "none".into(), |ws| ws.to_string()),
            now.unix.to_rfc3339()
        );
        let opened = Opened::verify(Folder::take(&config.data, &holder)?, now)?;
        if let Some(warning) = &opened.warning {
            log::warning(now.unix, format_args!("{warning}"));
        }
        let (at, path) = (opened.at(now), opened.folder().store_path());
        let format = opened.content().format();
        let mut hub = Hub::new(config.limits.clone(), at);
        let wake = Box::new(self.reactor.waker()?);
        let journal = opened.start(&mut hub, now, config.sync, &config.limits, wake)?;
        if format != FORMAT {
            let text = format!("converted from format {format} to {FORMAT}");
            log::info(now.unix, format_args!("store: {text}; earlier versions cannot read it"));
        }
        let [spaces, .., states] = hub.sizes();
        let spaces = log::Count(spaces as u64, "namespace", "namespaces");
        let states = log::Count(states as u64, "state", "states");
        log::info(
            now.unix,
            format_args!("store: {}, {spaces}, {states}, sync {}", path.display(), config.sync),
        );
        tell_of_too_much(&hub, &config.limits, now.unix);
        Ok((hub, at, journal))
    }

    /// Runs turns until the end, and keeps the service manager informed.
    fn turn(&mut self, handler: &mut AdminDoor, mut in_force: InForce<'_>) -> io::Result<()> {
        let mut notifier = Notifier::new(|name| std::env::var_os(name));
        if let Some(ms) = notifier.wake_every() {
            self.reactor.wake_every(ms);
        }
        notifier.ready();
        self.reactor.forgive_standstills();
        let mut is_told = false;
        while !self.reactor.is_done() {
            self.reactor.turn(handler)?;
            notifier.alive(self.reactor.uptime());
            if self.reactor.is_stopping() {
                if !std::mem::replace(&mut is_told, true) {
                    notifier.stopping();
                    self.tell_of_stop(in_force.config.limits.drain_ms);
                }
                if self.reactor.take_reload() {
                    let text = "reload: nothing is read again, the server stops";
                    log::info(self.now().unix, format_args!("{text}"));
                }
            } else if self.reactor.take_reload() {
                notifier.reloading();
                let outcome = in_force.reload(&mut self.reactor, handler);
                notifier.reloaded(&outcome);
            }
        }
        Ok(())
    }

    /// Logs that a stop signal has come, and what happens until the end.
    fn tell_of_stop(&self, drain_ms: usize) {
        let count = self.reactor.connections() as u64;
        let there = log::Count(count, "connection", "connections");
        let seconds = drain_ms.div_ceil(1000);
        log::info(self.now().unix, format_args!("stopping: {there} to close within {seconds} s"));
    }

    fn run(
        mut self,
        config: Config,
        hub: Hub,
        at: UnixMillis,
        journal: Box<dyn Journal>,
        reread: Reread<'_>,
    ) -> io::Result<()> {
        self.reactor.add_signals(signals(&[SIGTERM, SIGINT])?, Signal::Stop)?;
        self.is_loading.store(false, Ordering::Relaxed);
        // Only now that we hold the data folder: the key may have to be created there.
        let server_key = server_key(&config, self.now().unix)?;
        // Bound now, so that the addresses are known; nothing is accepted before the loop runs.
        let doors = Doors::open(&config)?;
        let control = doors.address("control", false).unwrap_or_default();
        let command = demo::command(&config, &control);
        let page = doors.address("ws", true).map(|address| demo::url(&address));
        let settings = Settings {
            limits: config.limits.clone(),
            server_key: server_key.expose().to_owned(),
            demo: config.demo.then(|| demo::page(&command)),
            service: service(&config),
            proxies: config.proxies.clone(),
            now: self.now(),
            at,
        };
        let mut switch = Switch::over(hub, settings, journal);
        declare(&config, &mut switch, self.now())?;
        let at = self.now().unix;
        let pages = match &config.allow_origin[..] {
            [] => "pages of any site may connect (--allow-origin names those that may)".to_string(),
            origins => format!("pages of these sites may connect: {}", origins.join(", ")),
        };
        log::info(at, format_args!("{pages}"));
        if doors.inherited > 0 {
            let count = log::Count(doors.inherited as u64, "socket was", "sockets were");
            log::info(at, format_args!("{count} handed over"));
        }
        doors.warnings().for_each(|warning| log::warning(at, format_args!("{warning}")));
        let is_admin_local =
            doors.all.iter().any(|(_, it)| it.door == Door::Admin && it.is_loopback());
        for (name, door) in doors.all {
            log::info(at, format_args!("listening {name}={}", door.address()));
            self.reactor.add_door(door)?;
        }
        if config.demo {
            let page = page.map_or_else(String::new, |page| demo::opening(&config, &page));
            log::info(at, format_args!("to try it, {page}run: {command}"));
        }
        let mut handler = AdminDoor::new(switch, self.now()).at_loopback(is_admin_local);
        let sync = config.sync;
        self.turn(&mut handler, InForce { config, server_key, reread })?;
        let mut switch = handler.into_switch();
        let (at, waited) = (self.now().unix, Stopwatch::start());
        let now = self.now();
        let unkept = switch.close(now, &mut || self.reactor.is_urged());
        let metrics = switch.metrics();
        let came = log::Count(metrics.opened, "connection", "connections");
        let said = log::Count(metrics.deliveries, "message was", "messages were");
        let text = format_args!("stopped; {came} came, {said} delivered");
        log::info(at.plus(waited.elapsed_us() / 1000), text);
        if unkept > 0 {
            let unkept = log::Count(unkept as u64, "state was", "states were");
            return Err(io::Error::other(format!(
                "{unkept} acknowledged (--sync {sync}) and never reached the disk"
            )));
        }
        Ok(())
    }
}

/// Returns how many connections there is room for, and the limit of descriptors.
fn open_connections(limits: &Limits) -> io::Result<(usize, u64)> {
    let descriptors = raise_descriptor_limit();
    let room = usize::try_from(descriptors.saturating_sub(DESCRIPTORS_KEPT));
    let connections = limits.connections.min(room.unwrap_or(usize::MAX));
    if connections < CONNECTIONS_MIN {
        return Err(io::Error::other(format!(
            "this process may have {descriptors} file descriptors, and it takes {} at least: \
             raise that limit (ulimit -n)",
            DESCRIPTORS_KEPT + CONNECTIONS_MIN as u64
        )));
    }
    Ok((connections, descriptors))
}

/// Returns the bounds of the reactor, with room for so many connections.
fn bounds(limits: &Limits, connections: usize) -> Bounds {
    Bounds {
        connections,
        admissions_per_second: limits.admissions_per_second,
        admissions_burst: limits.admissions_burst,
        control_reserve: CONTROL_RESERVE,
        control_unread_max: limits.control_unauthenticated_connections,
        admin_connections: limits.admin_connections,
        close_ms: limits.close_ms as u64,
        drain_ms: limits.drain_ms as u64,
        input_bytes: limits.input_bytes,
        slow: Rules::new(limits),
    }
}

/// Returns the one service for browsers, as configured.
fn service(config: &Config) -> Service {
    let service = Service::new(sockjs::PREFIX, &config.limits);
    let SockJs { cookie, jsonp, htmlfile, script } = config.sockjs.clone();
    let (script, origins) = (script.unwrap_or(service.script), config.allow_origin.clone());
    Service { cookie, jsonp, htmlfile, script, origins, ..service }
}

/// Returns the server key, and logs where it is; never what it is.
fn server_key(config: &Config, at: UnixMillis) -> io::Result<Secret> {
    let (key, origin) = keys::server_key(config)?;
    match origin {
        KeyOrigin::Configured => log::info(at, format_args!("server key: as configured")),
        KeyOrigin::Read(path) => log::info(at, format_args!("server key: {}", path.display())),
        KeyOrigin::Made(path) => {
            let path = path.display();
            log::info(at, format_args!("server key: a new one was made, it is in {path}"));
        }
    }
    for warning in keys::server_key_warnings(config, &key) {
        log::warning(at, format_args!("{warning}"));
    }
    Ok(key)
}

/// Declares the namespaces that the configuration names, and the demo's. Logs which of those in the
/// store have another key than before, and which have none: it may be the wrong configuration.
fn declare(config: &Config, switch: &mut Switch, now: Now) -> io::Result<()> {
    let full = |name: &str| io::Error::other(namespace_full(name, config.limits.namespaces));
    let mut news = News::new("", now.unix);
    for (name, key) in &config.namespaces {
        if switch.declare(name, key.expose()).ok_or_else(|| full(name))? == Declared::OtherKey {
            news.tell(format_args!("the key of namespace {name:?} is another one"));
        }
    }
    news.end();
    if config.adds_demo() {
        let declared = switch.declare(demo::NAMESPACE, demo::key(config)?.expose());
        declared.ok_or_else(|| full(demo::NAMESPACE))?;
    }
    let (hub, at) = (switch.hub(), switch.at(now));
    let is_open = |name| hub.namespace(name).is_some_and(|ns| hub.keys(ns, at).next().is_some());
    let is_missed = |name| !is_open(name) && !demo::is_left(config, name);
    let mut news = News::new("", now.unix);
    // None has been removed yet, so they are in the first slots.
    for (name, _) in hub.tallies(hub.sizes()[0]).filter(|(name, _)| is_missed(name)) {
        let why = "it has no key, and the configuration does not name it (fws rotate makes one)";
        news.tell(format_args!("nobody can open namespace {name:?}: {why}"));
    }
    news.end();
    Ok(())
}

fn namespace_full(name: &str, max: usize) -> String {
    format!("no room for namespace {name:?}: there are {max} (limit namespaces)")
}

/// Returns a stream on which a byte arrives for each of these signals.
fn signals(signals: &[i32]) -> io::Result<mio::net::UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, theirs.try_clone()?)?;
    }
    Ok(mio::net::UnixStream::from_std(ours))
}
