//! A new configuration for a running server (SIGHUP): read, checked as a whole, and only then
//! applied; if anything is wrong the old one stays. The log names what has changed. Called by the
//! server's loop between two turns.

use std::io;

use hashbrown::{HashMap, HashSet};

use super::{bounds, memory, namespace_full, open_connections, service};
use crate::admin::AdminDoor;
use crate::config::{Config, Secret};
use crate::demo;
use crate::hub::{Declared, Hub};
use crate::keys;
use crate::limits::Limits;
use crate::log::{self, News};
use crate::reactor::Reactor;
use crate::switch::Switch;
use crate::time::{Now, UnixMillis};

/// Reads the configuration again, as at the start.
pub type Reread<'a> = &'a dyn Fn() -> Result<Config, String>;

/// The configuration in force, and how to read it again.
pub(super) struct InForce<'a> {
    pub config: Config,
    pub server_key: Secret,
    pub reread: Reread<'a>,
}

/// A checked configuration that can be put in force.
struct Checked {
    /// As it was read.
    read: Config,
    /// As it will be: what needs a restart is as it was at the start.
    config: Config,
    server_key: Secret,
    connections: usize,
}

impl InForce<'_> {
    /// Puts in force what the configuration says now. Returns the outcome as one line.
    pub fn reload(&mut self, reactor: &mut Reactor, handler: &mut AdminDoor) -> String {
        let at = reactor.now().unix;
        let next = match self.check(reactor, handler) {
            Ok(next) => next,
            Err(wrong) => {
                let text = format!("reload: nothing is changed, all stays as it was: {wrong}");
                log::error(at, format_args!("{text}"));
                return text;
            }
        };
        for warning in &next.config.warnings {
            log::warning(at, format_args!("{warning}"));
        }
        let mut count = self.tell_changes(&next, at);
        count += self.put(next, reactor, handler);
        let text = match count {
            0 => "reload: nothing was to be changed".to_owned(),
            _ => format!("reload: done, {}", log::Count(count as u64, "change", "changes")),
        };
        log::info(at, format_args!("{text}"));
        text
    }

    /// Reads everything that a start would read, and changes nothing.
    fn check(&self, reactor: &Reactor, handler: &AdminDoor) -> Result<Checked, String> {
        let mut read = (self.reread)()?;
        // Logged at the start already.
        let _ = memory::fit(&mut read);
        let mut config = self.config.adopting(&read);
        let cannot = |error: io::Error| error.to_string();
        let server_key = keys::checked_server_key(&config).map_err(cannot)?.ok_or_else(|| {
            let path = keys::server_key_path(&config.data);
            let place = format!("neither configured nor in {}", path.display());
            format!("there is no server key, {place}: put it back, or restart, which makes one")
        })?;
        let warnings = keys::server_key_warnings(&config, &server_key);
        config.warnings.extend(warnings);
        let connections = open_connections(&config.limits).map_err(cannot)?.0;
        let switch = handler.switch();
        let [there, ..] = switch.hub().sizes();
        let names = config.namespaces.iter().map(|(name, _)| name.as_str());
        let names = names.chain(config.adds_demo().then_some(demo::NAMESPACE));
        let max = config.limits.namespaces;
        let mut new = names.filter(|name| switch.hub().namespace(name).is_none());
        if let Some(name) = new.nth(max.saturating_sub(there)) {
            return Err(namespace_full(name, max));
        }
        let store = switch.journal().meters(reactor.now());
        if store.is_some_and(|store| store.is_failing)
            && let Some(name) = self.first_written(&config, switch.hub())
        {
            return Err(format!("the store fails, and namespace {name:?} cannot be written to it"));
        }
        Ok(Checked { read, config, server_key, connections })
    }

    /// Returns the first namespace that would be written to the store, or that is new in the file
    /// or has another key there.
    fn first_written<'a>(&self, config: &'a Config, hub: &Hub) -> Option<&'a str> {
        let before = self.config.namespaces.iter().map(|(name, key)| (name.as_str(), key));
        let before: HashMap<&str, &Secret> = before.collect();
        let is_written = |(name, key): &&(String, Secret)| {
            hub.would_record(name, key.expose()) || before.get(name.as_str()) != Some(&key)
        };
        let named = config.namespaces.iter().find(is_written).map(|(name, _)| name.as_str());
        let is_demo_written = || match keys::load(&config.data, demo::NAMESPACE) {
            // Without a key, one would be made.
            Ok(key) => key.is_none_or(|key| hub.would_record(demo::NAMESPACE, key.expose())),
            // It would not be changed.
            Err(_) => false,
        };
        let adds_demo = config.adds_demo();
        named.or_else(|| (adds_demo && is_demo_written()).then_some(demo::NAMESPACE))
    }

    /// Puts it in force. Returns how many namespaces have changed.
    fn put(&mut self, next: Checked, reactor: &mut Reactor, handler: &mut AdminDoor) -> usize {
        let at = reactor.now().unix;
        let Checked { config, server_key, connections, .. } = next;
        let limits = &config.limits;
        reactor.set_bounds(bounds(limits, connections));
        if let Err(error) = reactor.bound_doors(limits) {
            // The kernel accepted the same call at the start.
            log::warning(at, format_args!("reload: the doors stay as they were: {error}"));
        }
        handler.reload(limits, service(&config), reactor.now());
        let switch = handler.switch_mut();
        switch.set_server_key(server_key.expose());
        let mut namespaces = config.namespaces.clone();
        if config.adds_demo() {
            // Only now: a key that is made is stored for the commands.
            match demo::key(&config) {
                Ok(key) => namespaces.push((demo::NAMESPACE.into(), key)),
                Err(error) => {
                    log::warning(at, format_args!("reload: no key for the demo: {error}"));
                }
            }
        }
        let count = self.put_namespaces(&namespaces, switch, reactor.now());
        (self.config, self.server_key) = (config, server_key);
        count
    }

    /// Declares the namespaces that the configuration names now, and withdraws those that it named
    /// before. Returns how many have changed.
    fn put_namespaces(
        &self,
        namespaces: &[(String, Secret)],
        switch: &mut Switch,
        now: Now,
    ) -> usize {
        let mut news = News::new("reload: ", now.unix);
        let named: HashSet<&str> = namespaces.iter().map(|(name, _)| name.as_str()).collect();
        for (name, _) in &self.config.namespaces {
            if named.contains(name.as_str()) {
                continue;
            }
            let before = key_count(switch, name, now);
            if switch.undeclare(name) {
                news.tell(format_args!("nobody can open namespace {name:?} any more"));
            } else if key_count(switch, name, now) < before {
                let text = "but with the key that rotateKey has given it";
                news.tell(format_args!("nobody can open namespace {name:?} any more {text}"));
            }
        }
        for (name, key) in namespaces {
            let before = key_count(switch, name, now);
            match switch.declare(name, key.expose()) {
                Some(Declared::New) => news.tell(format_args!("namespace {name:?} is new")),
                Some(Declared::OtherKey) => {
                    news.tell(format_args!("the key of namespace {name:?} is another one"));
                }
                Some(Declared::Opened) => {
                    news.tell(format_args!("namespace {name:?} can be opened again"));
                }
                Some(Declared::AsBefore) if key_count(switch, name, now) > before => {
                    let text = "can be opened with its former key again";
                    news.tell(format_args!("namespace {name:?} {text}"));
                }
                // There is room: that has been checked.
                Some(Declared::AsBefore) | None => {}
            }
        }
        news.end()
    }

    /// Logs what changes, and what would but cannot. Returns the number of changes.
    fn tell_changes(&self, next: &Checked, at: UnixMillis) -> usize {
        let mut changes = Vec::new();
        let [before, after, read] = [&self.config, &next.config, &next.read].map(named);
        for (((name, before), (_, after)), (_, read)) in before.iter().zip(&after).zip(&read) {
            if before != after {
                changes.push(format!("{name} is {after}, was {before}"));
            }
            if after != read {
                let still = format_args!("it is still {after}");
                let text = format_args!("reload: {name} needs a restart to be {read}: {still}");
                log::warning(at, text);
            }
        }
        if self.server_key != next.server_key {
            changes.push("the server key is another one".into());
        }
        for change in &changes {
            log::info(at, format_args!("reload: {change}"));
        }
        changes.len()
    }
}

/// How many keys open a namespace now.
fn key_count(switch: &Switch, name: &str, now: Now) -> usize {
    let hub = switch.hub();
    hub.namespace(name).map_or(0, |ns| hub.keys(ns, switch.at(now)).count())
}

/// Returns every limit and every setting, as text, but not which namespaces are configured: their
/// changes are logged one by one. There is a limit of the same name.
fn named(config: &Config) -> Vec<(&'static str, String)> {
    let limits = Limits::TABLE.iter().zip(config.limits.values());
    let limits = limits.map(|((name, ..), value)| (*name, value.to_string()));
    limits.chain(config.settings().into_iter().filter(|(name, _)| *name != "namespaces")).collect()
}
