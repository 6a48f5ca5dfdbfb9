//! Builds one checked [`Config`] from flags, environment and a file. A flag overrides the
//! environment, the environment the file, the file the default. Owns the names of all settings and
//! the rules for their values; opens no port and writes nothing. Called by the command line; the
//! server runs by it.
//!
//! Names in the environment do not collide with those that Kubernetes sets for a service called
//! `fws` (`FWS_PORT=tcp://…`, `FWS_SERVICE_HOST`, …).

mod address;
mod environment;
mod file;
mod nearest;
mod origin;
mod secret;
mod show;
mod value;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::address::Proxies;
use crate::limits::{LimitError, Limits, SyncPolicy};

pub use environment::NAMESPACE_KEY;
pub use file::ConfigFile;
pub use nearest::{hint, nearest};
pub use origin::check_page;
pub use secret::Secret;
use value::{parse_bool, parse_path, parse_store, parse_sync, parse_unix_path, unit, unless_none};

/// Namespaces with weak keys that are warned of by name, at most.
const WEAK_KEYS_TOLD: usize = 20;

/// The namespace that `demo` adds.
pub const DEMO_NAMESPACE: &str = "demo";

/// One setting that is written as text: its key in the file, its flag, its environment variable.
struct Setting {
    key: &'static str,
    flag: &'static str,
    variable: &'static str,
}

const SETTINGS: [Setting; 11] = [
    Setting { key: "ws", flag: "--ws", variable: "FWS_LISTEN_WS" },
    Setting { key: "ws_unix", flag: "--ws-unix", variable: "FWS_LISTEN_WS_UNIX" },
    Setting { key: "control", flag: "--control", variable: "FWS_LISTEN_CONTROL" },
    Setting { key: "control_unix", flag: "--control-unix", variable: "FWS_LISTEN_CONTROL_UNIX" },
    Setting { key: "admin", flag: "--admin", variable: "FWS_LISTEN_ADMIN" },
    Setting { key: "data", flag: "--data", variable: "FWS_DATA_DIR" },
    Setting { key: "store", flag: "--store", variable: "FWS_STORE" },
    Setting { key: "sync", flag: "--sync", variable: "FWS_SYNC" },
    Setting { key: "demo", flag: "--demo", variable: "FWS_DEMO" },
    Setting { key: "allow_origin", flag: "--allow-origin", variable: "FWS_ALLOW_ORIGIN" },
    Setting { key: "trusted_proxy", flag: "--trusted-proxy", variable: "FWS_TRUSTED_PROXY" },
];

/// Pairs of limits of which the first must not exceed the second.
pub const ORDERED: [(&str, &str); 6] = [
    ("control_connections", "connections"),
    ("control_frame_bytes", "control_input_bytes"),
    ("control_frame_unauthenticated_bytes", "control_frame_bytes"),
    ("http_body_unauthenticated_bytes", "http_body_bytes"),
    ("message_unauthenticated_bytes", "message_bytes"),
    ("answers_unauthenticated_bytes", "answers_pause_bytes"),
];

/// The parts of SockJS that can be switched, under the key `sockjs` of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SockJs {
    /// Whether answers set the cookie `JSESSIONID`, which some load balancers go by.
    pub cookie: bool,
    /// Whether `jsonp` is served, by which a script of the server's runs in the page.
    pub jsonp: bool,
    /// Whether `htmlfile` is served.
    pub htmlfile: bool,
    /// The script that the iframe page loads, if it is not the server's own.
    pub script: Option<String>,
}

impl Default for SockJs {
    fn default() -> SockJs {
        SockJs { cookie: false, jsonp: true, htmlfile: true, script: None }
    }
}

/// The configuration in force, checked: every value is within its bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where browsers connect; `None` if only through the unix socket. Port 0: the system picks
    /// one.
    pub ws: Option<SocketAddr>,
    /// A unix socket where browsers, or proxies for them, connect as well, if set.
    pub ws_unix: Option<PathBuf>,
    /// Where back ends connect; loopback by default. Port 0: the system picks one.
    pub control: SocketAddr,
    /// A unix socket where back ends connect as well, if set.
    pub control_unix: Option<PathBuf>,
    /// Where metrics and health are served, if set. Port 0: the system picks one.
    pub admin: Option<SocketAddr>,
    /// The data folder. Need not exist yet.
    pub data: PathBuf,
    /// What stores recorded changes.
    pub store: StoreKind,
    /// When a state must be on disk.
    pub sync: SyncPolicy,
    /// Whether the demo page is served, for a namespace `demo` made at start.
    pub demo: bool,
    /// The server key, if it is configured; see [`crate::keys::server_key`].
    pub secret_key: Option<Secret>,
    /// Namespaces that exist from the start, with their keys, in the order of the file. Names are
    /// unique.
    pub namespaces: Vec<(String, Secret)>,
    /// The parts of SockJS that can be switched.
    pub sockjs: SockJs,
    /// Origins whose pages may connect, as browsers write them in `Origin`. Empty: all may.
    pub allow_origin: Vec<String>,
    /// Proxies that are trusted to name the client they speak for. None by default.
    pub proxies: Proxies,
    /// Every limit.
    pub limits: Limits,
    /// The file that was read, if one was named.
    pub file: Option<PathBuf>,
    /// What is not wrong but not good either: one line each, for the log at start.
    pub warnings: Vec<String>,
    /// Other lines for the log at start.
    pub notes: Vec<String>,
    sources: Vec<(&'static str, Source)>,
    limit_sources: Vec<(&'static str, Source)>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            ws: Some(SocketAddr::from(([0, 0, 0, 0], 8080))),
            ws_unix: None,
            control: SocketAddr::from(([127, 0, 0, 1], 8085)),
            control_unix: None,
            admin: None,
            data: PathBuf::from("./fws-data"),
            store: StoreKind::Redb,
            sync: SyncPolicy::Always,
            demo: false,
            secret_key: None,
            namespaces: Vec::new(),
            sockjs: SockJs::default(),
            allow_origin: Vec::new(),
            proxies: Proxies::default(),
            limits: Limits::default(),
            file: None,
            warnings: Vec::new(),
            notes: Vec::new(),
            sources: Vec::new(),
            limit_sources: Vec::new(),
        }
    }
}

/// What stores recorded changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// A file in the data folder.
    Redb,
    /// Nothing: they are lost when the server ends.
    None,
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoreKind::Redb => "redb",
            StoreKind::None => "none",
        })
    }
}

/// Where the value of a setting comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It is not configured.
    Default,
    /// The configuration file.
    File,
    /// The environment variable of this name.
    Variable(&'static str),
    /// The flag of this name, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Default => "default",
            Source::File => "file",
            Source::Variable(name) | Source::Flag(name) => name,
        })
    }
}

/// One line: where (flag, variable, or file and key), what is wrong, and the nearest correct name.
/// Contains no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Builds the configuration. `flags` are names without dashes and their values; those that are
    /// no setting are ignored. `environment` is all of it; `read_file` is called for the
    /// configuration file, if one is named ([`ConfigFile::read`]).
    ///
    /// # Errors
    /// The first thing that is wrong, also if a stronger source overrides it.
    pub fn load<'a>(
        flags: &[(&'a str, &'a str)],
        environment: &[(String, String)],
        read_file: impl FnOnce(&Path) -> io::Result<ConfigFile>,
    ) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        environment::check_names(environment)?;
        config.read(flags, environment, read_file)?;
        for (name, value) in environment {
            if name == environment::SECRET_KEY {
                let source = Source::Variable(environment::SECRET_KEY);
                config.set_secret_key(value, source).map_err(|wrong| at(name, wrong))?;
            } else if let Some(setting) = SETTINGS.iter().find(|s| s.variable == name) {
                let source = Source::Variable(setting.variable);
                config.set(setting, value, source).map_err(|wrong| at(name, wrong))?;
            }
        }
        for (name, value) in flags {
            if *name == "limit" {
                config.limit_flag(value).map_err(|wrong| at("--limit", wrong))?;
            } else if let Some(setting) = SETTINGS.iter().find(|s| &s.flag[2..] == *name) {
                let source = Source::Flag(setting.flag);
                config.set(setting, value, source).map_err(|wrong| at(setting.flag, wrong))?;
            }
        }
        config.finish()?;
        Ok(config)
    }

    /// Returns this configuration with what a running server can take from another one: keys,
    /// namespaces, SockJS, origins, and limits but `store_retry_ms`, which another thread has, and
    /// `metrics_namespaces`: a counter must not move to another sample.
    pub(crate) fn adopting(&self, other: &Config) -> Config {
        let Limits { store_retry_ms, metrics_namespaces, .. } = self.limits;
        Config {
            secret_key: other.secret_key.clone(),
            namespaces: other.namespaces.clone(),
            sockjs: other.sockjs.clone(),
            allow_origin: other.allow_origin.clone(),
            limits: Limits { store_retry_ms, metrics_namespaces, ..other.limits.clone() },
            warnings: other.warnings.clone(),
            ..self.clone()
        }
    }

    /// Returns whether the demo adds a namespace that is not configured.
    pub fn adds_demo(&self) -> bool {
        self.demo && !self.namespaces.iter().any(|(name, _)| name == DEMO_NAMESPACE)
    }

    /// Returns where the value of a setting (by its key in the file) comes from.
    pub fn source(&self, key: &str) -> Source {
        last(&self.sources, key)
    }

    /// Returns where the value of a limit comes from.
    pub fn limit_source(&self, name: &str) -> Source {
        last(&self.limit_sources, name)
    }

    /// Reads the file, if one is named; its flag is stronger than its variable.
    fn read(
        &mut self,
        flags: &[(&str, &str)],
        environment: &[(String, String)],
        read_file: impl FnOnce(&Path) -> io::Result<ConfigFile>,
    ) -> Result<(), ConfigError> {
        let flag = flags.iter().find(|(name, _)| *name == "config");
        let variable = environment.iter().find(|(name, _)| name == environment::FILE);
        let (place, path) = match (flag, variable) {
            (Some((_, path)), _) => ("--config", *path),
            (None, Some((_, path))) => (environment::FILE, path.as_str()),
            (None, None) => return Ok(()),
        };
        let path = parse_path(path).map_err(|wrong| at(place, wrong))?;
        let file = read_file(&path)
            .map_err(|e| at(place, format!("cannot read {}: {e}", path.display())))?;
        file::apply(self, &file.text).map_err(|wrong| at(&path.display().to_string(), wrong))?;
        if file.mode & 0o044 != 0 && (self.secret_key.is_some() || !self.namespaces.is_empty()) {
            self.warnings.push(format!(
                "{} holds keys and others may read it: chmod 600 {0}",
                path.display()
            ));
        }
        self.file = Some(path);
        Ok(())
    }

    fn set(&mut self, setting: &Setting, value: &str, source: Source) -> Result<(), String> {
        match setting.key {
            "ws" => self.ws = unless_none(value, |value| address::parse_address(value, 8080))?,
            "ws_unix" => self.ws_unix = unless_none(value, parse_unix_path)?,
            "control" => self.control = address::parse_address(value, 8085)?,
            "control_unix" => self.control_unix = unless_none(value, parse_unix_path)?,
            "admin" => {
                self.admin = unless_none(value, |value| address::parse_address(value, 8086))?;
            }
            "data" => self.data = parse_path(value)?,
            "store" => self.store = parse_store(value)?,
            "sync" => self.sync = parse_sync(value)?,
            "allow_origin" => {
                let origins = origin::parse_all(value)?;
                if origins.is_empty() {
                    // As from a script whose variable is not set: that must not let every site in.
                    return Err("there is no site in it: leave it out if any may connect".into());
                }
                if self.source(setting.key) != source {
                    // The list of a stronger source replaces the weaker one.
                    self.allow_origin.clear();
                }
                self.allow_origin.extend(origins);
            }
            "trusted_proxy" => {
                if self.source(setting.key) != source {
                    self.proxies = Proxies::default();
                }
                address::parse_proxies(value, &mut self.proxies)?;
            }
            _ => self.demo = parse_bool(value)?,
        }
        self.sources.push((setting.key, source));
        Ok(())
    }

    fn set_secret_key(&mut self, key: &str, source: Source) -> Result<(), String> {
        self.secret_key = Some(Secret::server(key)?);
        self.sources.push(("secret_key", source));
        Ok(())
    }

    fn limit_flag(&mut self, text: &str) -> Result<(), String> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?} is not NAME=VALUE, as in message_bytes=32768"))?;
        self.set_limit(name, value, Source::Flag("--limit"))
    }

    fn set_limit(&mut self, name: &str, value: &str, source: Source) -> Result<(), String> {
        let names = || Limits::TABLE.iter().map(|(name, ..)| *name);
        let Some(known) = names().find(|known| *known == name) else {
            let hint = match nearest(name, names()) {
                Some(near) => hint(Some(near)),
                None => " (`fws check` lists them all)".into(),
            };
            return Err(format!("there is no limit {name:?}{hint}"));
        };
        if value.starts_with('"') {
            return Err(format!("{name}: must be a whole number, without quotes"));
        }
        let number = (!value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()))
            .then(|| value.parse().unwrap_or(usize::MAX))
            .ok_or_else(|| format!("{name}: {value:?} is not a whole number{}", unit(name)))?;
        match self.limits.set(known, number) {
            Ok(()) => self.limit_sources.push((known, source)),
            Err(LimitError::Bounds { low, high }) => {
                return Err(format!("{name}: {value} is not between {low} and {high}"));
            }
            Err(LimitError::Unknown) => return Err(format!("there is no limit {name:?}")),
        }
        Ok(())
    }

    /// Returns what is wrong with this as the server key, if a namespace has the same key.
    pub fn opens_too_much(&self, key: &Secret) -> Option<String> {
        let (name, _) = self.namespaces.iter().find(|(_, other)| other == key)?;
        Some(format!("the server key is also the key of namespace {name:?}"))
    }

    /// Checks what can only be checked when everything is known.
    fn finish(&mut self) -> Result<(), ConfigError> {
        if let Some(key) = &self.secret_key {
            let place = match self.source("secret_key") {
                Source::Variable(name) => name,
                _ => "secret_key",
            };
            if let Some(wrong) = self.opens_too_much(key) {
                return Err(at(place, wrong));
            }
            let weakness = key.weakness();
            self.warnings.extend(weakness.map(|why| format!("{place}: the server key {why}")));
        }
        self.warn_of_keys();
        self.check_addresses()?;
        self.order_limits()?;
        self.check_namespaces().map_err(|wrong| at("namespaces", wrong))
    }

    fn check_namespaces(&self) -> Result<(), String> {
        let Limits { name_bytes, namespaces, .. } = self.limits;
        for (name, _) in &self.namespaces {
            if name.is_empty() {
                return Err("a name is empty, and nobody could reach it".into());
            }
            if name.len() > name_bytes {
                return Err(format!(
                    "the name {name:?} is longer than {name_bytes} bytes (limit name_bytes)"
                ));
            }
        }
        let adds_demo = self.adds_demo();
        let count = self.namespaces.len() + usize::from(adds_demo);
        if count > namespaces {
            let demo = if adds_demo { " with that of the demo" } else { "" };
            return Err(format!(
                "there are {count}{demo}, and room for {namespaces} (limit namespaces)"
            ));
        }
        Ok(())
    }

    fn check_addresses(&mut self) -> Result<(), ConfigError> {
        if self.ws.is_none() && self.ws_unix.is_none() {
            return Err(at("ws", "none, and there is no ws_unix: nobody could connect"));
        }
        if self.ws_unix.is_some() && self.ws_unix == self.control_unix {
            return Err(at("ws_unix", "this is the path of control_unix: choose another one"));
        }
        self.warn_of_proxies();
        let mut taken = Vec::new();
        let doors = [("ws", self.ws), ("control", Some(self.control)), ("admin", self.admin)];
        for (key, address) in doors {
            let Some(address) = address else { continue };
            let ip = address.ip();
            let is_same = |(_, other): &&(&str, SocketAddr)| {
                let is_same_ip =
                    other.ip() == ip || other.ip().is_unspecified() || ip.is_unspecified();
                other.port() == address.port() && other.port() != 0 && is_same_ip
            };
            if let Some((holder, other)) = taken.iter().find(is_same) {
                let wrong =
                    format!("{address} is taken by {holder} ({other}): choose another port");
                return Err(at(key, wrong));
            }
            taken.push((key, address));
        }
        self.warn_of_addresses();
        Ok(())
    }

    /// Warns of weak keys: with a token of a namespace its key can be guessed offline, unseen.
    fn warn_of_keys(&mut self) {
        let mut weak = self
            .namespaces
            .iter()
            .filter_map(|(name, key)| Some((name, key.weakness()?)))
            .map(|(name, why)| format!("namespaces: the key of {name:?} {why}"));
        self.warnings.extend(weak.by_ref().take(WEAK_KEYS_TOLD));
        let more = weak.count();
        if more > 0 {
            self.warnings.push(format!("namespaces: and {more} more keys like these"));
        }
    }

    fn warn_of_addresses(&mut self) {
        let places = [("control", Some(self.control)), ("admin", self.admin)];
        let exposed = places.into_iter().filter_map(|(key, at)| exposure(key, at?));
        self.warnings.extend(exposed);
    }

    fn warn_of_proxies(&mut self) {
        for network in self.proxies.networks.iter().filter(|network| network.is_everything()) {
            self.warnings
                .push(format!("trusted_proxy: with {network} anybody may claim any address"));
        }
        let is_capped = self.limits.connections_per_address > 0;
        if is_capped && self.ws_unix.is_some() && !self.proxies.is_unix {
            self.warnings.push(format!(
                "ws_unix: all who come through it count as one address \
                 (limit connections_per_address), unless trusted_proxy has the word {}",
                Proxies::UNIX
            ));
        }
    }

    /// Checks [`ORDERED`]; a limit that is not configured follows the one that it must not exceed.
    fn order_limits(&mut self) -> Result<(), ConfigError> {
        for (small, large) in ORDERED {
            let (Some(low), Some(high)) = (self.limits.get(small), self.limits.get(large)) else {
                continue;
            };
            if low <= high {
                continue;
            }
            let follows =
                self.limit_source(small) == Source::Default && self.limits.set(small, high).is_ok();
            if !follows {
                let wrong = format!("{small} ({low}) is more than {large} ({high})");
                return Err(at("limits", wrong));
            }
        }
        Ok(())
    }
}

/// Returns a warning about a port that other machines can reach. `key` is the setting that says
/// where it is, for back ends or for the admin.
pub fn exposure(key: &str, address: SocketAddr) -> Option<String> {
    if address.ip().is_loopback() {
        return None;
    }
    let port = address.port();
    match key {
        "control" => Some(format!(
            "control: keys are sent to {address} in the clear, and whoever reaches it may try \
             some: let only back ends reach it; 127.0.0.1:{port} is for this machine only"
        )),
        "admin" => Some(format!(
            "admin: whoever reaches {address} sees the names of all namespaces and how much is \
             going on: 127.0.0.1:{port} is for this machine only"
        )),
        _ => None,
    }
}

fn at(place: &str, wrong: impl fmt::Display) -> ConfigError {
    ConfigError(format!("{place}: {wrong}"))
}

fn last(sources: &[(&'static str, Source)], key: &str) -> Source {
    sources.iter().rfind(|(name, _)| *name == key).map_or(Source::Default, |(_, source)| *source)
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
